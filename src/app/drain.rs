//! The end of the process: by a signal, or because another one has taken over.

use super::handover::{Counted, Guests};
use super::spend::Spend;
use crate::admit::content::Judge;
use crate::ledger::Ledger;
use crate::proxy::listen::Left;
use crate::record::access::AccessLog;
use crate::record::metrics::Metrics;
use crate::record::spans::Spans;
use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use pingora::services::background::BackgroundService;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::Signal;
use tokio::sync::watch;

/// How often the end of the last request is looked for while draining.
const STEP: Duration = Duration::from_millis(20);

/// What ends the process: SIGTERM and a hand-over let requests finish, SIGINT does not.
pub(super) struct Ends {
    pub(super) terminate: Mutex<Option<Signal>>,
    pub(super) interrupt: Mutex<Option<Signal>>,
    pub(super) left: watch::Receiver<Left>,
}

#[async_trait]
impl ShutdownSignalWatch for Ends {
    async fn recv(&self) -> ShutdownSignal {
        let signals = (self.terminate.lock().take(), self.interrupt.lock().take());
        let (Some(mut terminate), Some(mut interrupt)) = signals else {
            return ShutdownSignal::FastShutdown;
        };
        let mut left = self.left.clone();
        tokio::select! {
            _ = terminate.recv() => ShutdownSignal::GracefulTerminate,
            Ok(_) = left.wait_for(|left| *left == Left::Yes) => ShutdownSignal::GracefulTerminate,
            _ = interrupt.recv() => ShutdownSignal::FastShutdown,
        }
    }
}

/// Ends the process as soon as nothing is left to do, or its time is up.
pub(super) struct Drain {
    pub(super) metrics: Arc<Metrics>,
    pub(super) judge: Judge,
    pub(super) ledger: Arc<Ledger>,
    pub(super) guests: Arc<Guests>,
    pub(super) counted: Counted,
    pub(super) access: AccessLog,
    pub(super) spans: Spans,
    pub(super) spend: Arc<Spend>,
    pub(super) left: watch::Receiver<Left>,
    pub(super) timeout: Duration,
}

#[async_trait]
impl BackgroundService for Drain {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        if shutdown.wait_for(|asked| *asked).await.is_err() {
            return;
        }
        let begun = Instant::now();
        while self.is_busy() && begun.elapsed() < self.timeout {
            tokio::time::sleep(STEP).await;
        }
        tracing::info!(in_flight = self.metrics.in_flight(), guests = self.guests.count(), "drained");
        let (ledger, access, spans) = (Arc::clone(&self.ledger), self.access.clone(), self.spans.clone());
        let spend = Arc::clone(&self.spend);
        let end = move || {
            ledger.close();
            spend.write();
            access.flush();
            spans.flush();
        };
        let _ = tokio::task::spawn_blocking(end).await;
        std::process::exit(0);
    }
}

impl Drain {
    fn is_busy(&self) -> bool {
        let requests = self.metrics.in_flight() > 0 || self.judge.waiting() > 0 || self.guests.count() > 0;
        let left = *self.left.borrow();
        match left {
            Left::No => requests,
            // A client that keeps a connection has its next request served on it, and then closes it.
            Left::Yes => requests || self.metrics.connections() > 0 || self.has_to_tell(),
        }
    }

    /// Whether the owner of the ledger, if it is still there, is to hear more of what was done here.
    fn has_to_tell(&self) -> bool {
        !self.ledger.is_down() && (self.ledger.unanswered() > 0 || self.counted.untold() > 0)
    }
}
