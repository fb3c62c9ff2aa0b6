//! The operator's listeners, which Pingora does not serve: the admin API and the metrics.

use async_trait::async_trait;
use axum::Router;
use parking_lot::Mutex;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Changes take milliseconds. What takes longer (a backup, an export) reads only, and goes on.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Whether they are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// They are, or are to be.
    Open,
    /// No more is accepted; who connects waits.
    Paused,
    /// For good.
    Ended,
}

/// The listeners, each with what it serves.
pub struct Operator {
    served: Mutex<Vec<(TcpListener, Router)>>,
    asked: watch::Sender<Phase>,
    is: watch::Sender<Phase>,
}

impl Operator {
    /// Listeners that are served by the service of it.
    pub fn new(served: Vec<(TcpListener, Router)>) -> Self {
        let (asked, _) = watch::channel(Phase::Open);
        let (is, _) = watch::channel(Phase::Open);
        Operator { served: Mutex::new(served), asked, is }
    }

    /// Accepts nothing more, and waits for what is under way.
    pub async fn pause(&self) {
        let mut is = self.is.subscribe();
        self.asked.send_replace(Phase::Paused);
        let paused = is.wait_for(|is| *is == Phase::Paused);
        if tokio::time::timeout(PAUSE_MAX, paused).await.is_err() {
            tracing::warn!("the operator's requests take long: they are not waited for");
        }
    }

    /// Accepts again.
    pub fn resume(&self) {
        self.asked.send_replace(Phase::Open);
    }

    /// Closes the listeners.
    pub fn end(&self) {
        self.asked.send_replace(Phase::Ended);
        self.served.lock().clear();
    }

    /// Serves until nothing more is to be accepted, and what was accepted is done.
    async fn serve(&self) -> io::Result<()> {
        let mut serving = Vec::new();
        for (listener, router) in &*self.served.lock() {
            let listener = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
            let mut asked = self.asked.subscribe();
            let enough = async move { drop(asked.wait_for(|asked| *asked != Phase::Open).await) };
            let served = axum::serve(listener, router.clone()).with_graceful_shutdown(enough);
            serving.push(tokio::spawn(served.into_future()));
        }
        let ended = futures_util::future::join_all(serving).await;
        ended.into_iter().try_for_each(|ended| ended.map_err(io::Error::other)?)
    }
}

/// The service of the operator's listeners.
pub struct Serving(pub Arc<Operator>);

#[async_trait]
impl BackgroundService for Serving {
    async fn start(&self, _shutdown: ShutdownWatch) {
        let Self(operator) = self;
        let mut asked = operator.asked.subscribe();
        // To the end of the process: the operator may look at a drain.
        while asked.wait_for(|asked| *asked != Phase::Paused).await.is_ok_and(|asked| *asked == Phase::Open) {
            operator.is.send_replace(Phase::Open);
            if let Err(why) = operator.serve().await {
                return tracing::error!(%why, "a listener of the operator ended");
            }
            operator.is.send_replace(Phase::Paused);
        }
    }
}
