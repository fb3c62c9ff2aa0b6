//! What the service manager is told: that requests are served, that threads still take work, that a
//! reload or the end is under way. Without systemd, nobody is told and nothing is done.

use crate::proxy::listen::Left;
use async_trait::async_trait;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use sd_notify::NotifyState;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// Pings in the time after which the service manager gives up.
const PINGS: u32 = 3;

/// Requests are served, by the configuration that this says.
pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A reload begins; [`ready`] ends it.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// Another process is the service's main one from now on. To be told by the one before it: a service whose main process
/// has ended is over for the service manager, which reads what a process told before it sees its end.
pub(super) fn succeeded_by(process: u32) {
    tell(&[NotifyState::MainPid(process)]);
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(why) = sd_notify::notify(false, state) {
        tracing::warn!(%why, "the service manager cannot be told");
    }
}

/// Says when requests are served, and keeps the watchdog quiet while their threads take work.
pub(super) struct Notify {
    /// The runtime that serves requests, once it does.
    pub(super) serving: watch::Receiver<Option<Handle>>,
    /// What to say then.
    pub(super) status: String,
    /// Whether another process has taken over, and speaks for the service.
    pub(super) left: watch::Receiver<Left>,
}

#[async_trait]
impl BackgroundService for Notify {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let mut serving = self.serving.clone();
        let Ok(Some(serving)) = serving.wait_for(Option::is_some).await.map(|serving| serving.clone()) else {
            return;
        };
        ready(&self.status);
        let stopping = async {
            if shutdown.wait_for(|asked| *asked).await.is_ok() && *self.left.borrow() == Left::No {
                tell(&[NotifyState::Stopping]);
            }
        };
        let mut left = self.left.clone();
        tokio::select! {
            // To the very end: requests that are let finish need their threads, too.
            _ = async { tokio::join!(stopping, keep_watchdog(&serving)) } => {}
            Ok(_) = left.wait_for(|left| *left == Left::Yes) => {}
        }
    }
}

async fn keep_watchdog(serving: &Handle) {
    let Some(patience) = watchdog() else { return };
    let mut every = tokio::time::interval(patience / PINGS);
    loop {
        every.tick().await;
        // If no thread takes this, the service manager ends the process.
        if serving.spawn(async {}).await.is_ok() {
            tell(&[NotifyState::Watchdog]);
        }
    }
}

/// How long the service manager waits for a ping, if it does: as sd_watchdog_enabled(3) finds out.
fn watchdog() -> Option<Duration> {
    let read = |name| std::env::var(name).ok();
    if read("WATCHDOG_PID").is_some_and(|pid| pid != std::process::id().to_string()) {
        return None;
    }
    let usec = read("WATCHDOG_USEC")?.parse().ok().filter(|usec| *usec > 0);
    usec.map(Duration::from_micros)
}
