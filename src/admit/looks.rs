//! Looks at accounts: bounded apart from what is sold, so that neither disturbs the other. They take
//! nothing of the rates of a key, and few of them read the disk at a time, however many are asked for.

use super::gate::{Of, Rate, Shut};
use super::rate::{Bucket, PerMinute};
use crate::clock::Tick;
use crate::id::CustomerId;
use dashmap::DashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Reads of the disk at a time: requests that are sold want it too.
const READS_MAX: usize = 2;
/// Reading for so long counts as a look of its own, so that sums over very much are not free of bounds.
const LOOK_US: u64 = 100_000;
/// The longest that a look waits for its turn to read; each takes milliseconds.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Who looked, and who reads.
pub struct Looks {
    /// Of each customer who ever looked: no more than there are.
    counted: Arc<DashMap<CustomerId, Bucket>>,
    reads: Arc<Semaphore>,
}

impl Default for Looks {
    fn default() -> Self {
        Looks { counted: Arc::default(), reads: Arc::new(Semaphore::new(READS_MAX)) }
    }
}

impl Looks {
    /// Counts a look of a customer.
    ///
    /// # Errors
    /// When there were too many within a minute.
    pub fn count(&self, customer: CustomerId, rate: PerMinute, now: Tick) -> Result<(), Shut> {
        let taken = self.counted.entry(customer).or_default().take(1, rate, now);
        taken.map_err(|short| Shut::Rate(Of::Customer, Rate::Looks, rate.0, short))
    }

    /// Does what reads the disk for a customer, on a thread of its own and in its turn. `None` if that
    /// does not come, or it panics. A look that nobody waits for any more keeps its turn, and counts.
    pub async fn read<T: Send + 'static>(
        &self,
        customer: CustomerId,
        rate: PerMinute,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let turn = tokio::time::timeout(WAIT_MAX, Arc::clone(&self.reads).acquire_owned()).await;
        let turn = turn.ok()?.ok()?;
        let counted = Arc::clone(&self.counted);
        let read = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let begun = Tick::now();
            let read = work();
            let now = Tick::now();
            counted.entry(customer).or_default().owe((now.0 - begun.0) / LOOK_US, rate, now);
            read
        });
        read.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admit::rate::Short;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_customer_looks_so_often_and_another_is_not_concerned() {
        let (looks, rate) = (Looks::default(), PerMinute(2));
        let [ada, bob] = [1, 2].map(CustomerId::from_int);
        let count = |customer, tick| looks.count(customer, rate, Tick(tick));
        assert_eq!((count(ada, 0), count(ada, 0)), (Ok(()), Ok(())));
        let short = Short { wait_us: Some(30_000_000) };
        assert_eq!(count(ada, 0), Err(Shut::Rate(Of::Customer, Rate::Looks, 2, short)));
        assert_eq!((count(bob, 0), count(ada, 30_000_000)), (Ok(()), Ok(())));
    }

    #[tokio::test]
    async fn few_read_at_a_time_and_all_have_their_turn() {
        let looks = Looks::default();
        let (running, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let read = |_| {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            looks.read(CustomerId::from_int(1), PerMinute(1), move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::yield_now();
                running.fetch_sub(1, Ordering::SeqCst);
            })
        };
        let read = futures_util::future::join_all((0..100).map(read)).await;
        assert_eq!(read.iter().flatten().count(), 100);
        assert!((1..=READS_MAX).contains(&most.load(Ordering::SeqCst)), "{most:?}");
    }

    #[tokio::test]
    async fn a_look_that_reads_for_long_counts_as_several() {
        let (looks, rate) = (Looks::default(), PerMinute(3));
        let ada = CustomerId::from_int(1);
        let busy = || {
            let until = Tick::now().0 + 2 * LOOK_US;
            while Tick::now().0 < until {
                std::thread::yield_now();
            }
        };
        assert_eq!(looks.count(ada, rate, Tick::now()), Ok(()));
        assert_eq!(looks.read(ada, rate, || 7).await, Some(7));
        assert!(looks.read(ada, rate, busy).await.is_some());
        assert!(looks.count(ada, rate, Tick::now()).is_err(), "one look and twice a look's time");
    }
}
