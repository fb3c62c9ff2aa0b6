//! What accounts spent of a day, kept over a restart: a small file in the store, written whole every
//! second in which it changed and at the end. A crash forgets the last second of it at most; a process
//! that has handed over leaves the file to the new one.

use crate::clock::Timestamp;
use crate::live::Current;
use crate::money::Amount;
use crate::proxy::listen::Left;
use crate::upstream::Pool;
use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

const FILE: &str = "upstream-spend.json";
const EVERY: Duration = Duration::from_secs(1);

/// As written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Spent {
    /// In UTC.
    day: String,
    /// By the name of the account.
    usd: BTreeMap<String, Amount>,
}

/// The file.
pub(super) struct Spend {
    path: PathBuf,
    live: Current,
    left: watch::Receiver<Left>,
    written: Mutex<Spent>,
}

impl Spend {
    /// Gives each account what it spent today before.
    pub(super) fn restore(store: &Path, live: &Current, left: watch::Receiver<Left>) -> Arc<Self> {
        let path = store.join(FILE);
        let before = read(&path).unwrap_or_else(|why| {
            tracing::warn!(file = %path.display(), %why, "what accounts spent today is counted anew");
            None
        });
        let today = before.filter(|spent| spent.day == Timestamp::now().day()).unwrap_or_default();
        for account in live.load().pool.accounts() {
            if let Some(amount) = today.usd.get(&*account.name) {
                account.spent_before(*amount);
            }
        }
        Arc::new(Spend { path, live: Arc::clone(live), left, written: Mutex::new(today) })
    }

    /// Writes it if it changed and is still this process's.
    pub(super) fn write(&self) {
        if *self.left.borrow() == Left::Yes {
            return;
        }
        let mut written = self.written.lock();
        let now = spent(&self.live.load().pool, &written);
        if now == *written {
            return;
        }
        match replace(&self.path, &now) {
            Ok(()) => *written = now,
            Err(why) => {
                tracing::warn!(file = %self.path.display(), %why, "what accounts spent today is not kept");
            }
        }
    }
}

/// What the accounts of `pool` spent, and those of today that it no longer has: they may come back.
fn spent(pool: &Pool, before: &Spent) -> Spent {
    let (day, now) = (Timestamp::now().day(), Instant::now());
    let mut usd = if before.day == day { before.usd.clone() } else { BTreeMap::new() };
    for account in pool.accounts() {
        let amount = account.spent(now);
        if amount > Amount::ZERO {
            usd.insert(account.name.to_string(), amount);
        } else {
            usd.remove(&*account.name);
        }
    }
    Spent { day, usd }
}

fn read(path: &Path) -> io::Result<Option<Spent>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(why) => Err(why),
    }
}

fn replace(path: &Path, spent: &Spent) -> io::Result<()> {
    let next = path.with_extension("json.new");
    fs::write(&next, serde_json::to_vec(spent)?)?;
    fs::rename(next, path)
}

/// Writes it every second.
pub(super) struct Keep(pub(super) Arc<Spend>);

#[async_trait]
impl BackgroundService for Keep {
    async fn start(&self, _shutdown: ShutdownWatch) {
        // Until the process ends: requests under way spend on.
        loop {
            tokio::time::sleep(EVERY).await;
            let spend = Arc::clone(&self.0);
            let _ = tokio::task::spawn_blocking(move || spend.write()).await;
        }
    }
}
