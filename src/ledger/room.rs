//! Room on the disk: some is kept back, so that what is in flight can finish when there is no more.
//!
//! When a write finds the disk full, the reserve is given up and the write is done again, which is
//! safe: nothing was synced since. From then on no holds are admitted; charges and releases of what
//! is in flight go on from the room that was freed. A thread of its own looks for twice the room
//! each second, and keeps a reserve again when it is there: then holds are admitted again. A failed
//! fsync is another matter: what is durable is unknown then, and the journal stops.

use super::disk::Disk;
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Enough for some ten thousand charges.
#[cfg(not(test))]
pub const RESERVE_BYTES: u64 = 16 * 1024 * 1024;
/// Small enough that tests come to its end.
#[cfg(test)]
pub const RESERVE_BYTES: u64 = 8 * 1024;
/// The file that is kept.
pub const RESERVE: &str = "full-disk.reserve";
/// A file that is made and removed, to see whether there is room.
const PROBE: &str = "full-disk.probe";
/// How often is looked for room.
#[cfg(not(test))]
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The same, for tests that wait for it.
#[cfg(test)]
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Whether the disk has room.
pub struct Room {
    shared: Arc<Shared>,
    watch: Mutex<Option<Watch>>,
}

struct Shared {
    disk: Arc<dyn Disk>,
    full: AtomicBool,
    /// Whether the reserve is there. Locked while room is looked for.
    kept: Mutex<bool>,
}

/// The thread that looks for room, and how it is told to begin.
struct Watch {
    full: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

/// Whether an error says that the disk is full.
pub fn is_full(why: &io::Error) -> bool {
    matches!(why.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl Room {
    /// Keeps a reserve on `disk`. Without room for it, the disk is full.
    ///
    /// # Errors
    /// When there can be no more threads.
    pub fn keep(disk: Arc<dyn Disk>) -> io::Result<Arc<Self>> {
        let kept = reserve(&*disk);
        let shared = Arc::new(Shared { disk, full: AtomicBool::new(!kept), kept: Mutex::new(kept) });
        let (full, told) = mpsc::channel();
        let watching = Arc::clone(&shared);
        let run = move || watching.run(&told);
        let thread = thread::Builder::new().name("room".into()).spawn(run)?;
        let room = Room { shared, watch: Mutex::new(Some(Watch { full, thread })) };
        if !kept {
            tracing::error!("the disk is full: no requests are admitted until there is room");
            room.look();
        }
        Ok(Arc::new(room))
    }

    /// The same without a thread: once full, it stays so.
    #[cfg(test)]
    pub fn inline(disk: Arc<dyn Disk>) -> Arc<Self> {
        let kept = reserve(&*disk);
        let shared = Shared { disk, full: AtomicBool::new(!kept), kept: Mutex::new(kept) };
        Arc::new(Room { shared: Arc::new(shared), watch: Mutex::new(None) })
    }

    /// Whether nothing more is to be admitted.
    pub fn is_full(&self) -> bool {
        self.shared.full.load(Ordering::Acquire)
    }

    /// The disk turned out to be full: gives the reserve up, unless that was done before. Afterwards
    /// nothing of ours stands in the way: while room is looked for, that takes some.
    pub fn give_up(&self) {
        let mut kept = self.shared.kept.lock();
        if !self.shared.full.swap(true, Ordering::AcqRel) {
            tracing::error!(
                "the disk is full: no requests are admitted until there is room, those in flight are finished"
            );
            self.look();
        }
        if std::mem::replace(&mut *kept, false)
            && let Err(why) = self.shared.disk.remove(RESERVE)
        {
            tracing::error!(%why, "the room that was kept back cannot be freed");
        }
    }

    /// Ends the looking.
    pub fn close(&self) {
        let watch = self.watch.lock().take();
        if let Some(Watch { full, thread }) = watch {
            drop(full);
            if thread.join().is_err() {
                tracing::error!("the thread that looks for room panicked");
            }
        }
    }

    fn look(&self) {
        if let Some(watch) = &*self.watch.lock() {
            // It ends only by `close`.
            let _ = watch.full.send(());
        }
    }
}

impl Shared {
    fn run(&self, told: &mpsc::Receiver<()>) {
        while told.recv().is_ok() {
            while self.full.load(Ordering::Acquire) {
                match told.recv_timeout(LOOK_EVERY) {
                    Err(RecvTimeoutError::Timeout) => self.try_again(),
                    Err(RecvTimeoutError::Disconnected) => return,
                    Ok(()) => {}
                }
            }
        }
    }

    fn try_again(&self) {
        let mut kept = self.kept.lock();
        let room = self.disk.reserve(PROBE, 2 * RESERVE_BYTES).is_ok();
        if self.disk.remove(PROBE).is_ok() && room && reserve(&*self.disk) {
            *kept = true;
            self.full.store(false, Ordering::Release);
            tracing::info!("there is room on the disk: requests are admitted again");
        }
    }
}

/// Makes the reserve, unless it is there.
fn reserve(disk: &dyn Disk) -> bool {
    let there = disk.open(RESERVE).and_then(|file| file.size());
    if there.is_ok_and(|bytes| bytes >= RESERVE_BYTES) {
        return true;
    }
    match disk.reserve(RESERVE, RESERVE_BYTES) {
        Ok(()) => true,
        Err(why) => {
            tracing::warn!(%why, "no room can be kept back for a full disk");
            // Half of it is of no use.
            let _ = disk.remove(RESERVE);
            false
        }
    }
}
