//! Requests in flight, so that those of a customer can be ended from outside.
//!
//! Each has a [`Permit`] for as long as it runs; whoever serves it waits for [`Permit::stopped`] beside
//! what it waits for anyway. That costs a request two visits to a sharded map, and an event of a
//! stream the look at a flag.

use crate::id::{CustomerId, RequestId};
use dashmap::DashMap;
use futures_util::task::AtomicWaker;
use std::future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use tokio::sync::broadcast;

/// Customers whose requests were ended and not told yet, to who listens.
const STOPS_MAX: usize = 1_024;

/// All requests in flight.
#[derive(Clone)]
pub struct Running(Arc<Inner>);

struct Inner {
    requests: DashMap<RequestId, (CustomerId, Arc<Stop>)>,
    stops: broadcast::Sender<CustomerId>,
}

impl Default for Running {
    fn default() -> Self {
        Running(Arc::new(Inner { requests: DashMap::default(), stops: broadcast::Sender::new(STOPS_MAX) }))
    }
}

#[derive(Default)]
struct Stop {
    stopped: AtomicBool,
    waker: AtomicWaker,
}

/// A request that runs until this is dropped.
pub struct Permit {
    request: RequestId,
    stop: Arc<Stop>,
    running: Running,
}

impl Running {
    /// A request begins. To be called before its hold: a customer who is banned in between is refused
    /// by the ledger or stopped here.
    pub fn begin(&self, customer: CustomerId, request: RequestId) -> Permit {
        let stop = Arc::<Stop>::default();
        self.0.requests.insert(request, (customer, Arc::clone(&stop)));
        Permit { request, stop, running: self.clone() }
    }

    /// Ends all requests of a customer that have begun, and gives their number.
    pub fn stop(&self, customer: CustomerId) -> usize {
        // Where nobody listens, it is of no use.
        let _ = self.0.stops.send(customer);
        let theirs = self.0.requests.iter().filter(|running| running.0 == customer);
        theirs.map(|running| running.1.stop()).count()
    }
}

impl Running {
    /// Tells of customers whose requests are ended.
    pub fn stops(&self) -> broadcast::Sender<CustomerId> {
        self.0.stops.clone()
    }
}

impl Stop {
    fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.waker.wake();
    }
}

impl Permit {
    /// Whether the request is to end.
    pub fn is_stopped(&self) -> bool {
        self.stop.stopped.load(Ordering::Acquire)
    }

    /// Waits until the request is to end. One task at a time may wait.
    pub async fn stopped(&self) {
        future::poll_fn(|context| {
            if self.is_stopped() {
                return Poll::Ready(());
            }
            self.stop.waker.register(context.waker());
            // It may have come in between.
            if self.is_stopped() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.running.0.requests.remove(&self.request);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_customers_requests_are_stopped_and_no_others() {
        let running = Running::default();
        let (ada, zoe) = (CustomerId::from_int(1), CustomerId::from_int(2));
        let begin = |customer, request| running.begin(customer, RequestId::from_int(request));
        let (first, second, other, ended) = (begin(ada, 1), begin(ada, 2), begin(zoe, 3), begin(ada, 4));
        drop(ended);
        let waiting = tokio::spawn(async move {
            first.stopped().await;
            first.is_stopped()
        });
        tokio::task::yield_now().await;
        assert_eq!(running.stop(ada), 2);
        assert!(waiting.await.unwrap());
        second.stopped().await;
        assert!(!other.is_stopped());
        assert_eq!(running.stop(zoe), 1);
        drop((second, other));
        assert_eq!((running.stop(ada), running.stop(zoe)), (0, 0));
    }
}
