//! Reload: SIGHUP, or a changed file, has the configuration read again, and what runs changes as a whole
//! or not at all.

use super::files::Files;
use super::notify;
use crate::clock::Timestamp;
use crate::config::{self, Change, Config, Faults, Takes};
use crate::live::Current;
use crate::record::metrics::Metrics;
use crate::upstream::Pool;
use crate::upstream::addresses::Addresses;
use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use std::sync::Arc;
use tokio::signal::unix::Signal;
use tokio::task::AbortHandle;

/// Changes told one by one in the log; a new price book can have thousands.
const CHANGES_TOLD_MAX: usize = 50;
/// Faults told one by one in the log.
const FAULTS_TOLD_MAX: usize = 20;

/// Reads the configuration again.
pub type Load = Box<dyn Fn() -> Result<Config, Faults> + Send + Sync>;

/// Waits for SIGHUP, and looks after what the pool needs in the background.
pub(super) struct Reload {
    pub(super) load: Load,
    pub(super) live: Current,
    /// What was configured at the start: some of it stays until a restart.
    pub(super) started: Config,
    pub(super) metrics: Arc<Metrics>,
    /// Taken by the service when it begins.
    pub(super) hangup: Mutex<Option<Signal>>,
}

#[async_trait]
impl BackgroundService for Reload {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let Some(mut hangup) = self.hangup.lock().take() else { return };
        let mut watched = Watched::default();
        let mut files = Files::default();
        loop {
            let live = self.live.load_full();
            watched.follow(&live.pool, &shutdown);
            files.follow(&live.config);
            drop(live);
            tokio::select! {
                _ = shutdown.changed() => return,
                _ = hangup.recv() => files.look(),
                () = files.changed() => {}
            }
            self.reload().await;
        }
    }
}

impl Reload {
    /// Replaces what runs, unless the files have a fault. The service manager is told.
    async fn reload(&self) {
        notify::reloading();
        self.replace().await;
        notify::ready(&status(&self.live.load().config));
    }

    async fn replace(&self) {
        // Some small files, on a thread that serves no request.
        let loaded = (self.load)().map_err(|faults| {
            let left = faults.as_slice().len().saturating_sub(FAULTS_TOLD_MAX);
            for fault in faults.as_slice().iter().take(FAULTS_TOLD_MAX) {
                tracing::error!(%fault, "the configuration has a fault");
            }
            tracing::error!(more_faults = left, "not reloaded: the configuration before it applies on");
        });
        let before = self.live.load_full();
        let next = loaded.and_then(|config| {
            before.next(config).map_err(|upstream| {
                tracing::error!(upstream, "not reloaded: the configuration before it applies on");
            })
        });
        let Ok(next) = next else { return self.metrics.reload_failed() };
        // Before the first request of a new account, so that none finds it without an address.
        super::resolve(&next.pool).await;
        super::warm(&next.config.prices);
        let now = config::changes(&before.config, &next.config);
        let now = now.into_iter().filter(|change| change.takes == Takes::AtReload);
        let later = config::changes(&self.started, &next.config);
        let later = later.into_iter().filter(|change| change.takes == Takes::AfterRestart);
        let changes: Vec<Change> = later.chain(now).collect();
        let next = Arc::new(next);
        self.live.store(Arc::clone(&next));
        next.pool.goes_live();
        self.metrics.reload_took();
        tell(&changes);
    }
}

/// What runs, in a line.
pub(super) fn status(config: &Config) -> String {
    let Config { prices, upstreams, .. } = config;
    format!(
        "prices {}, {} models, {} upstream accounts",
        prices,
        prices.at(Timestamp::now()).models.len(),
        upstreams.len()
    )
}

fn tell(changes: &[Change]) {
    for Change { setting, from, to, takes } in changes.iter().take(CHANGES_TOLD_MAX) {
        match takes {
            Takes::AtReload => tracing::info!(setting, from, to, "changed"),
            Takes::AfterRestart => tracing::warn!(setting, from, to, "changes after a restart"),
        }
    }
    let untold = changes.len().saturating_sub(CHANGES_TOLD_MAX);
    tracing::info!(changes = changes.len(), untold, "reloaded");
}

/// Tasks that find and watch the addresses of all accounts of the pool.
#[derive(Default)]
struct Watched(Vec<(Addresses, AbortHandle)>);

impl Watched {
    /// Begins to watch what is new in `pool`, and leaves what is gone.
    fn follow(&mut self, pool: &Pool, shutdown: &ShutdownWatch) {
        self.0.retain(|(addresses, task)| {
            let stays = pool.accounts().iter().any(|account| account.addresses().is(addresses));
            if !stays {
                task.abort();
            }
            stays
        });
        for account in pool.accounts() {
            let addresses = account.addresses();
            if !self.0.iter().any(|(watched, _)| watched.is(addresses)) {
                let (task, shutdown) = (addresses.task(), shutdown.clone());
                let task = tokio::spawn(async move { task.run(shutdown, None).await });
                self.0.push((addresses.clone(), task.abort_handle()));
            }
        }
    }
}
