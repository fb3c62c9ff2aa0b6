//! What runs now: everything that a reload changes, as one value that is swapped as a whole.
//!
//! A request takes one snapshot when it begins and sees nothing else until it ends, so that no
//! request is served by half of one configuration and half of another. Only the account of each attempt
//! is one of those that there are by then, also for who waits in line.
//!
//! *Architecture invariant:* a snapshot is never changed, only replaced. What a reload cannot
//! change ([`crate::config::AFTER_RESTART`]) is read at the start and nowhere else.

use crate::config::Config;
use crate::upstream::Pool;
use arc_swap::ArcSwap;
use std::sync::Arc;

/// One snapshot.
pub struct Live {
    /// What the operator set.
    pub config: Config,
    /// The upstream accounts of it.
    pub pool: Pool,
}

/// The snapshot that is taken now.
pub type Current = Arc<ArcSwap<Live>>;

impl Live {
    /// The first one.
    ///
    /// # Errors
    /// What is wrong with an upstream account, by name.
    pub fn new(config: Config) -> Result<Live, String> {
        Ok(Live { pool: Pool::new(&config.upstreams)?, config })
    }

    /// The one after this: accounts that stay keep their health, their load and their addresses.
    ///
    /// # Errors
    /// What is wrong with an upstream account, by name.
    pub fn next(&self, config: Config) -> Result<Live, String> {
        Ok(Live { pool: self.pool.next(&config.upstreams)?, config })
    }
}
