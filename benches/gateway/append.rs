//! The least that a durable charge takes: one thread that appends to a file and syncs it in groups, paced as
//! Tollgate's journal is, with no ledger around it.

use parking_lot::{Condvar, Mutex};
use std::fs::File;
use std::io::{self, Write};
use std::mem;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Of a hold and its charge, with its record: what Tollgate's journal has of a plain request.
const ENTRY_BYTES: usize = 1100;
/// From the beginning of a group to that of the next, for each in it, and at most.
const PACE: Duration = Duration::from_micros(200);
const PACE_MAX: Duration = Duration::from_millis(2);

/// Who waits for the disk.
#[derive(Default)]
struct Line {
    waiting: Mutex<Vec<oneshot::Sender<()>>>,
    called: Condvar,
}

/// Makes entries durable.
pub struct Appender(Arc<Line>);

impl Appender {
    /// Starts its thread, which lives as long as the process.
    pub fn start(file: File) -> io::Result<Self> {
        let line = Arc::<Line>::default();
        let writers = Arc::clone(&line);
        let run = move || writers.write(file).expect("the file can be written");
        thread::Builder::new().name("append".into()).spawn(run)?;
        Ok(Appender(line))
    }

    /// Puts an entry in line; it is told of when it is durable.
    pub fn append(&self) -> oneshot::Receiver<()> {
        let (done, durable) = oneshot::channel();
        let mut waiting = self.0.waiting.lock();
        waiting.push(done);
        if waiting.len() == 1 {
            drop(waiting);
            self.0.called.notify_one();
        }
        durable
    }
}

impl Line {
    fn write(&self, mut file: File) -> io::Result<()> {
        let mut next = Instant::now();
        loop {
            self.called.wait_while(&mut self.waiting.lock(), |waiting| waiting.is_empty());
            thread::sleep(next.saturating_duration_since(Instant::now()));
            let begun = Instant::now();
            let group = mem::take(&mut *self.waiting.lock());
            file.write_all(&vec![0; ENTRY_BYTES * group.len()])?;
            file.sync_data()?;
            next = begun + PACE.saturating_mul(u32::try_from(group.len()).unwrap_or(u32::MAX)).min(PACE_MAX);
            for done in group {
                // Its client may have gone.
                let _ = done.send(());
            }
        }
    }
}
