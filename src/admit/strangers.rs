//! Bounds for addresses of which nothing is known yet: connections, and keys that open nothing.
//!
//! What is kept is bounded however many addresses there are: connections are, and of addresses with
//! failures there is a limited number; all beyond share one count. An IPv6 network of 64 bits is one
//! address, because that is what one subscriber has.

use super::rate::{Bucket, PerMinute};
use crate::clock::Tick;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Addresses whose failures are counted apart: some megabytes.
const ADDRESSES_MAX: usize = 65_536;
/// How often room is made among them at most: a pass over all takes a millisecond.
const SWEEP_EVERY_US: u64 = 1_000_000;
/// Where the failures of all further addresses are counted.
const OTHERS: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// What counts as one address.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

/// How many connections there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionsMax {
    /// At once.
    pub total: usize,
    /// At once, from one address.
    pub per_address: usize,
}

/// Why a connection is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// There are too many.
    Total,
    /// There are too many from its address.
    Address,
}

/// Connections under way.
#[derive(Default)]
pub struct Connections {
    open: AtomicUsize,
    by_address: DashMap<IpAddr, usize>,
}

impl Connections {
    /// Counts a connection. One without a `stranger` is counted in all, but not by address: it comes
    /// from this machine or from a proxy in front, for many clients.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn open(
        self: &Arc<Self>,
        stranger: Option<IpAddr>,
        max: ConnectionsMax,
    ) -> Result<ConnectionPermit, Full> {
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        // From here on the permit counts it off again, refused or not.
        let mut permit = ConnectionPermit { connections: Arc::clone(self), network: None };
        if before >= max.total {
            return Err(Full::Total);
        }
        if let Some(network) = stranger.map(network) {
            let mut count = self.by_address.entry(network).or_insert(0);
            if *count >= max.per_address {
                return Err(Full::Address);
            }
            *count += 1;
            permit.network = Some(network);
        }
        Ok(permit)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

/// A connection's place, until it is dropped.
#[must_use]
pub struct ConnectionPermit {
    connections: Arc<Connections>,
    network: Option<IpAddr>,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.connections.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(network) = self.network
            && let Entry::Occupied(mut count) = self.connections.by_address.entry(network)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// Keys that opened nothing, by the address that presented them.
#[derive(Default)]
pub struct FailedKeys {
    buckets: DashMap<IpAddr, Bucket>,
    swept: AtomicU64,
}

impl FailedKeys {
    /// Counts a failure. A good key passes however many bad ones came from its address: an office is
    /// not locked out by one revoked key, and 160 random bits are guessed at no rate.
    ///
    /// # Errors
    /// When there were too many: the microseconds until the next one counts as the first again.
    pub fn count(&self, address: IpAddr, rate: PerMinute, now: Tick) -> Result<(), u64> {
        let mut network = network(address);
        if self.buckets.len() >= ADDRESSES_MAX && !self.buckets.contains_key(&network) {
            self.sweep(rate, now);
            if self.buckets.len() >= ADDRESSES_MAX {
                network = OTHERS;
            }
        }
        let mut bucket = self.buckets.entry(network).or_default();
        bucket.take(1, rate, now).map_err(|short| short.wait_us.unwrap_or(u64::MAX))
    }

    /// Forgets addresses that have nothing against them any more.
    fn sweep(&self, rate: PerMinute, now: Tick) {
        let before = self.swept.load(Ordering::Relaxed);
        let due = now.0 >= before.saturating_add(SWEEP_EVERY_US);
        let swap = |to| self.swept.compare_exchange(before, to, Ordering::Relaxed, Ordering::Relaxed);
        if due && swap(now.0).is_ok() {
            self.buckets.retain(|_, bucket| bucket.full_in_us(rate, now) > 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_so_many_connections_and_all_have_so_many() {
        let connections = Arc::new(Connections::default());
        let max = ConnectionsMax { total: 5, per_address: 2 };
        let open = |from: &str| connections.open(Some(address(from)), max);
        let first = open("198.51.100.1").unwrap();
        let mapped = open("::ffff:198.51.100.1").unwrap();
        assert_eq!(open("198.51.100.1").err(), Some(Full::Address));
        let six = [open("2001:db8::1").unwrap(), open("2001:db8::ffff:2").unwrap()];
        assert_eq!(open("2001:db8:0:0:9::").err(), Some(Full::Address), "of the same 64 bits");
        let near = connections.open(None, max).unwrap();
        assert_eq!(connections.open(None, max).err(), Some(Full::Total));
        assert_eq!(connections.count(), 5);
        drop(first);
        let again = open("198.51.100.1").unwrap();
        drop((mapped, again, six, near));
        assert_eq!((connections.count(), connections.by_address.len()), (0, 0), "nothing is kept");
    }

    #[test]
    fn the_tenth_failure_of_a_minute_is_the_last() {
        let (failed, rate) = (FailedKeys::default(), PerMinute(10));
        let (one, other) = (address("198.51.100.1"), address("198.51.100.2"));
        for _ in 0..10 {
            assert_eq!(failed.count(one, rate, Tick(0)), Ok(()));
        }
        assert_eq!(failed.count(one, rate, Tick(0)), Err(6_000_000));
        assert_eq!(failed.count(other, rate, Tick(0)), Ok(()), "another address is not concerned");
        assert_eq!(failed.count(one, rate, Tick(5_999_999)), Err(1));
        assert_eq!(failed.count(one, rate, Tick(6_000_000)), Ok(()));
    }

    #[test]
    fn what_is_kept_of_failures_is_bounded() {
        let (failed, rate) = (FailedKeys::default(), PerMinute(2));
        let nth = |n: usize| IpAddr::V4(Ipv4Addr::from(u32::try_from(n).unwrap()));
        for n in 0..ADDRESSES_MAX {
            assert_eq!(failed.count(nth(n), rate, Tick(0)), Ok(()));
        }
        let late = [nth(ADDRESSES_MAX), nth(ADDRESSES_MAX + 1), nth(ADDRESSES_MAX + 2)];
        let counted = late.map(|address| failed.count(address, rate, Tick(0)).is_ok());
        assert_eq!((counted, failed.buckets.len()), ([true, true, false], ADDRESSES_MAX + 1));
        assert_eq!(failed.count(late[0], rate, Tick(60_000_000)), Ok(()), "the old ones make room");
        assert_eq!(failed.buckets.len(), 1);
    }
}
