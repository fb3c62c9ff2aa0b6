//! The journal's writer: one thread that makes entries durable in groups.
//!
//! While one fsync runs, the next group gathers in the queue: a lone request commits at once, a
//! busy second shares its fsyncs. A failed write or fsync is never tried again: what is durable is
//! unknown then, so the journal goes down, every waiter is told, and a restart reads what is there.

use super::disk::{Disk, File};
use super::entry::{Balance, Change, Entry, Seq};
use super::frame::{self, FRAME_BYTES_MAX, Head};
use super::index::Index;
use super::segment::{self, Journal, SEGMENT_BYTES};
use super::state::Feed;
use crate::clock::Timestamp;
use crate::id::CustomerId;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Groups begin at least this long after one another: a lone request commits at once, while many
/// share their fsyncs, and nobody has to wake this thread in between.
const PACE: Duration = Duration::from_millis(1);

/// The journal is down: a write failed, or it was closed. Nothing more becomes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Down;

/// The entries of one command, on their way to the disk.
pub struct Submission {
    /// Whose.
    pub customer: CustomerId,
    /// When they were made.
    pub at: Timestamp,
    /// What changed, each with the balance after it. At least one.
    pub changes: Vec<(Change, Balance)>,
    /// Who waits for them.
    pub done: oneshot::Sender<Result<Seq, Down>>,
}

/// What one group took.
#[derive(Clone, Copy, Debug)]
pub struct Committed {
    /// From the first write to the end of the fsync.
    pub elapsed: Duration,
    /// Entries made durable.
    pub entries: usize,
}

/// Called by the writer after each group.
pub type OnCommit = Box<dyn Fn(Committed) + Send>;

/// Gives entries to the writer.
pub struct Queue {
    /// `None` ends the writer.
    sender: mpsc::Sender<Option<Submission>>,
    gauge: Arc<Gauge>,
}

/// What others may know of the writer.
#[derive(Default)]
struct Gauge {
    depth: AtomicUsize,
    down: AtomicBool,
}

impl Queue {
    /// Puts entries in line. Their order in the journal is the order of these calls.
    ///
    /// The line is bounded by its callers: each request in flight has one hold and one end.
    pub fn submit(&self, submission: Submission) {
        self.gauge.depth.fetch_add(1, Ordering::Relaxed);
        if let Err(mpsc::SendError(Some(refused))) = self.sender.send(Some(submission)) {
            self.gauge.depth.fetch_sub(1, Ordering::Relaxed);
            let _ = refused.done.send(Err(Down));
        }
    }

    /// Ends the writer once everything in line is durable.
    pub fn close(&self) {
        // An error means that it has ended already.
        let _ = self.sender.send(None);
    }

    /// Commands that wait to become durable.
    pub fn depth(&self) -> usize {
        self.gauge.depth.load(Ordering::Relaxed)
    }

    /// Whether nothing more will become durable.
    pub fn is_down(&self) -> bool {
        self.gauge.down.load(Ordering::Acquire)
    }
}

/// Starts the writer after the end of `journal`, whose torn tail is cut off. It ends by
/// [`Queue::close`].
///
/// # Errors
/// When the last segment cannot be mended or begun.
pub fn start(
    disk: Arc<dyn Disk>,
    journal: Journal,
    index: Arc<Index>,
    state: Feed,
    on_commit: OnCommit,
) -> io::Result<(Queue, JoinHandle<()>)> {
    let (file, end) = match journal.last {
        None => {
            let created = segment::create(&*disk, journal.head)?;
            index.begin(journal.head, 0);
            created
        }
        Some(file) => {
            if journal.torn_bytes > 0 {
                file.truncate(journal.end)?;
            }
            let begun = journal.end > 0;
            let end = if begun { journal.end } else { segment::write_header(&*file, journal.head)? };
            (file, end)
        }
    };
    let (sender, receiver) = mpsc::channel();
    let gauge = Arc::new(Gauge::default());
    let writer = Writer {
        disk,
        file,
        end,
        head: journal.head,
        buffer: Vec::with_capacity(FRAME_BYTES_MAX),
        index,
        state,
        on_commit,
        gauge: Arc::clone(&gauge),
    };
    let thread = thread::Builder::new().name("journal".into()).spawn(move || writer.run(&receiver))?;
    Ok((Queue { sender, gauge }, thread))
}

struct Writer {
    disk: Arc<dyn Disk>,
    file: Arc<dyn File>,
    end: u64,
    head: Head,
    buffer: Vec<u8>,
    index: Arc<Index>,
    state: Feed,
    on_commit: OnCommit,
    gauge: Arc<Gauge>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        // However it ends, also by a panic.
        self.gauge.down.store(true, Ordering::Release);
    }
}

/// Entries that became durable together.
pub struct Group {
    /// In order.
    pub entries: Vec<Entry>,
    /// The journal's head after them.
    pub head: Head,
}

/// Entries of a group, where their frames will stand, and who waits for them.
#[derive(Default)]
struct Gathered {
    entries: Vec<Entry>,
    places: Vec<u64>,
    waiting: Vec<(oneshot::Sender<Result<Seq, Down>>, Seq)>,
}

impl Writer {
    fn run(mut self, queue: &mpsc::Receiver<Option<Submission>>) {
        let mut open = true;
        let mut begun = None;
        while open {
            let Ok(Some(first)) = queue.recv() else { break };
            if let Some(early) = begun.and_then(|begun: Instant| PACE.checked_sub(begun.elapsed())) {
                thread::sleep(early);
            }
            begun = Some(Instant::now());
            let (group, goes_on) = self.gather(first, queue);
            open = goes_on;
            let commands = group.waiting.len();
            let outcome =
                if self.gauge.down.load(Ordering::Acquire) { Err(Down) } else { self.commit(&group) };
            if outcome.is_ok() {
                self.publish(group.entries, &group.places);
            }
            self.gauge.depth.fetch_sub(commands, Ordering::Relaxed);
            for (waiting, seq) in group.waiting {
                // Nobody may be waiting any more: the entry stands all the same.
                let _ = waiting.send(outcome.map(|()| seq));
            }
        }
    }

    /// Takes all that is in line; tells whether more may come.
    fn gather(&mut self, first: Submission, queue: &mpsc::Receiver<Option<Submission>>) -> (Gathered, bool) {
        let mut group = Gathered::default();
        let durable = self.head.seq;
        let mut head = self.head;
        let mut next = Some(first);
        let mut open = true;
        self.buffer.clear();
        while let Some(submission) = next {
            let begin = group.entries.len();
            let mut seq = head.seq;
            for (change, balance) in submission.changes {
                seq = seq.next();
                let Submission { at, customer, .. } = submission;
                group.entries.push(Entry { seq, at, customer, change, balance });
                group.places.push(self.end + u64::try_from(self.buffer.len()).expect("usize fits"));
            }
            head = frame::encode(&group.entries[begin..], head, durable, &mut self.buffer);
            group.waiting.push((submission.done, head.seq));
            next = match queue.try_recv() {
                Ok(None) => {
                    open = false;
                    None
                }
                Ok(more) => more,
                Err(_) => None,
            };
        }
        self.head = head;
        (group, open)
    }

    fn commit(&mut self, group: &Gathered) -> Result<(), Down> {
        let begin = Instant::now();
        let written = self.file.write_at(&self.buffer, self.end).and_then(|()| self.file.sync());
        if let Err(why) = written {
            tracing::error!(%why, "the journal cannot be written: no more requests are admitted; make room and restart");
            self.gauge.down.store(true, Ordering::Release);
            return Err(Down);
        }
        (self.on_commit)(Committed { elapsed: begin.elapsed(), entries: group.entries.len() });
        Ok(())
    }

    /// Tells the index and the state of a group that is durable, and begins a new segment if this
    /// one is full.
    fn publish(&mut self, entries: Vec<Entry>, places: &[u64]) {
        self.index.add(entries.iter().zip(places.iter().copied()));
        self.state.send(Group { entries, head: self.head });
        self.end += u64::try_from(self.buffer.len()).expect("usize fits");
        if self.end >= SEGMENT_BYTES {
            match segment::create(&*self.disk, self.head) {
                Ok(begun) => {
                    self.index.begin(self.head, self.end);
                    (self.file, self.end) = begun;
                }
                Err(why) => {
                    tracing::error!(%why, "a new journal segment cannot be begun: no more requests are admitted; make room and restart");
                    self.gauge.down.store(true, Ordering::Release);
                }
            }
        }
    }
}
