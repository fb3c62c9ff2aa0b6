//! Watches the files of the configuration, where a reload is to follow on their change.
//!
//! Their directories are watched, not they: whoever replaces a file by a rename, or a directory by another
//! symbolic link, is seen too. What happens there only gives reason to look; whether something has
//! changed is told by what is in the files.

use crate::config::{Config, Trigger};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use ring::digest::{Digest, SHA256, digest};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Without a change for so long, whoever writes several files is done.
const QUIET: Duration = Duration::from_millis(500);
/// Looked at all the same after so many of them: something else may write there all the time.
const QUIETS_MAX: usize = 10;

/// What is watched, if anything.
#[derive(Default)]
pub(super) struct Files {
    paths: Vec<PathBuf>,
    /// As they were when they were last read.
    seen: Vec<Option<Seen>>,
    touched: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
}

/// What is in a file: not kept, since it may be a secret.
type Seen = [u8; 32];

impl Files {
    /// Watches what this was read from, if it asks for that.
    pub(super) fn follow(&mut self, config: &Config) {
        let paths = match config.reload.trigger {
            Trigger::Signal => &[][..],
            Trigger::Files => &config.files,
        };
        if self.paths == paths {
            return;
        }
        self.paths = paths.to_vec();
        self.watcher = None;
        if !self.paths.is_empty() {
            match watch(&self.paths, &self.touched) {
                Ok(watcher) => self.watcher = Some(watcher),
                Err(why) => tracing::error!(%why, "files cannot be watched: a reload takes SIGHUP"),
            }
        }
        self.look();
    }

    /// Notes what is in them now.
    pub(super) fn look(&mut self) {
        self.seen = self.paths.iter().map(|path| seen(path)).collect();
    }

    /// Waits until something else is in them than was noted, and notes it.
    pub(super) async fn changed(&mut self) {
        loop {
            self.touched.notified().await;
            for _ in 0..QUIETS_MAX {
                if tokio::time::timeout(QUIET, self.touched.notified()).await.is_err() {
                    break;
                }
            }
            let before = std::mem::take(&mut self.seen);
            self.look();
            let pairs = self.paths.iter().zip(before.iter().zip(&self.seen));
            let changed: Vec<_> = pairs.filter(|(_, (before, now))| before != now).collect();
            for (path, _) in &changed {
                tracing::info!(file = %path.display(), "a file of the configuration has changed");
            }
            if !changed.is_empty() {
                return;
            }
        }
    }
}

/// None if it is gone, or cannot be read.
fn seen(path: &Path) -> Option<Seen> {
    let text = fs::read(path).ok()?;
    let digest: Digest = digest(&SHA256, &text);
    digest.as_ref().try_into().ok()
}

fn watch(paths: &[PathBuf], touched: &Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let touched = Arc::clone(touched);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        // To look at a file is no change of it, and we do so ourselves.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            touched.notify_one();
        }
    })?;
    let directory = |path: &PathBuf| {
        path.parent().map(|above| if above == Path::new("") { Path::new(".") } else { above }.to_owned())
    };
    let directories: BTreeSet<PathBuf> = paths.iter().filter_map(directory).collect();
    for directory in directories {
        watcher.watch(&directory, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}
