//! Room for runs: how many there may be, over all and of one customer, kept exactly.

use super::super::request::BadRequest;
use super::super::respond::Refusal;
use super::Runs;
use crate::admit::gate::{Of, Rate, Shut};
use crate::admit::rate::Short;
use crate::config::Background;
use crate::id::CustomerId;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// What a client is told to wait: a run takes seconds to minutes.
const WAIT_US: u64 = 5_000_000;

/// Requests that may become runs, by customer.
#[derive(Default)]
pub(super) struct Rooms(Mutex<HashMap<CustomerId, usize>>);

/// The room of one that may become a run, until it is dropped.
#[must_use]
pub(in super::super) struct Room {
    rooms: Arc<Rooms>,
    customer: CustomerId,
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut taken = self.rooms.0.lock();
        let left = taken.get_mut(&self.customer).map_or(0, |count| {
            *count -= 1;
            *count
        });
        if left == 0 {
            taken.remove(&self.customer);
        }
    }
}

impl Runs {
    /// Room for one more of this customer, to be kept until its hold was detached or has ended.
    ///
    /// # Errors
    /// When there is none.
    pub(in super::super) fn room(&self, customer: CustomerId) -> Result<Room, Refusal> {
        let Background { runs_max, runs_per_customer_max, .. } = self.live.load().config.background;
        if runs_max == 0 {
            let message = "responses in the background and batches are not sold by this gateway: stream, or send \
                           the requests one by one";
            return Err(Refusal::BadRequest(BadRequest { message: message.into(), param: None }));
        }
        let mut taken = self.rooms.0.lock();
        let begun: usize = taken.values().sum();
        let all = self.ledger.detached_open() + begun;
        if all >= runs_max {
            return Err(Refusal::Overloaded);
        }
        let theirs = self.ledger.detached_of(customer) + taken.get(&customer).copied().unwrap_or_default();
        if theirs >= runs_per_customer_max {
            let (limit, short) = (u64::try_from(runs_per_customer_max), Short { wait_us: Some(WAIT_US) });
            let shut = Shut::Rate(Of::Customer, Rate::Runs, limit.unwrap_or(u64::MAX), short);
            return Err(Refusal::Shut(shut));
        }
        *taken.entry(customer).or_default() += 1;
        Ok(Room { rooms: Arc::clone(&self.rooms), customer })
    }
}
