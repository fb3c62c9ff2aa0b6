//! The journal's writer: one thread that makes entries durable in groups.
//!
//! While one fsync runs, the next group gathers in the queue: a lone request commits at once, a
//! busy second shares its fsyncs. A failed write or fsync is never tried again: what is durable is
//! unknown then, so the journal goes down, every waiter is told, and a restart reads what is there.
//! Only a write that found the disk full is done again, in the [room](super::room) that was kept.

use super::disk::{Disk, File};
use super::entry::{Entry, Seq};
use super::frame::{self, FRAME_BYTES_MAX, Head};
use super::index::Index;
use super::line::{Down, End, Line, Submission};
use super::room::{self, Room};
use super::segment::{self, Journal, SEGMENT_BYTES};
use super::state::Feed;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How long after the beginning of a group the next one begins, for each command that was in it: shorter
/// than an fsync where few ask, so that nobody waits for more than their own, and longer the more could
/// share one.
const PACE_BY_COMMAND: Duration = Duration::from_micros(200);
/// The longest of that.
pub const PACE_MAX: Duration = Duration::from_millis(2);

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

/// Makes a writer that continues `journal`, whose torn tail is cut off, and the line to it.
///
/// # Errors
/// When the last segment cannot be mended or begun.
pub fn begin(
    disk: Arc<dyn Disk>,
    journal: Journal,
    (index, room): (Arc<Index>, Arc<Room>),
    state: Feed,
    on_commit: OnCommit,
) -> io::Result<(Arc<Line>, Writer)> {
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
    let line = Arc::new(Line::default());
    let writer = Writer {
        disk,
        file,
        end,
        head: journal.head,
        buffer: Vec::with_capacity(FRAME_BYTES_MAX),
        index,
        room,
        state,
        on_commit,
        line: End(Arc::clone(&line)),
    };
    Ok((line, writer))
}

/// Makes entries durable, group by group.
pub struct Writer {
    disk: Arc<dyn Disk>,
    file: Arc<dyn File>,
    end: u64,
    head: Head,
    buffer: Vec<u8>,
    index: Arc<Index>,
    room: Arc<Room>,
    state: Feed,
    on_commit: OnCommit,
    line: End,
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
    /// Starts it on a thread of its own; it ends by [`Line::close`]. Groups begin `pace_max` after one another
    /// at most, while somebody waits.
    ///
    /// # Errors
    /// When there can be no more threads.
    pub fn spawn(self, pace_max: Duration) -> io::Result<JoinHandle<()>> {
        thread::Builder::new().name("journal".into()).spawn(move || self.run(pace_max))
    }

    fn run(mut self, pace_max: Duration) {
        let line = Arc::clone(&self.line.0);
        let mut submissions = Vec::new();
        let mut next = Instant::now();
        while line.wait() {
            let begun = Instant::now();
            if let Some(early) = next.checked_duration_since(begun) {
                thread::sleep(early);
            }
            let begun = next.max(begun);
            let commands = self.group(&line, &mut submissions);
            next = begun + pace(commands, pace_max);
        }
    }

    /// Makes a group of all that is in line now, on the thread of who asks.
    #[cfg(test)]
    pub fn step(&mut self) {
        let line = Arc::clone(&self.line.0);
        if line.depth() > 0 {
            self.group(&line, &mut Vec::new());
        }
    }

    /// Makes all that is in line durable, and tells who waits; gives how many those are.
    fn group(&mut self, line: &Line, submissions: &mut Vec<Submission>) -> usize {
        line.take(submissions);
        let group = self.gather(submissions);
        let commands = group.waiting.len();
        let outcome = if line.is_down() { Err(Down) } else { self.commit(&group) };
        if outcome.is_ok() {
            self.publish(group.entries, &group.places);
        }
        line.leave(commands);
        for (waiting, seq) in group.waiting {
            // Nobody may be waiting any more: the entry stands all the same.
            let _ = waiting.send(outcome.map(|()| seq));
        }
        commands
    }

    fn gather(&mut self, submissions: &mut Vec<Submission>) -> Gathered {
        let mut group = Gathered::default();
        let durable = self.head.seq;
        self.buffer.clear();
        for Submission { customer, at, changes, done } in submissions.drain(..) {
            let begin = group.entries.len();
            let mut seq = self.head.seq;
            for (change, balance) in changes {
                seq = seq.next();
                group.entries.push(Entry { seq, at, customer, change, balance });
                group.places.push(self.end + u64::try_from(self.buffer.len()).expect("usize fits"));
            }
            self.head = frame::encode(&group.entries[begin..], self.head, durable, &mut self.buffer);
            group.waiting.push((done, self.head.seq));
        }
        group
    }

    fn commit(&mut self, group: &Gathered) -> Result<(), Down> {
        let begin = Instant::now();
        let written = self.write().and_then(|()| self.file.sync());
        if let Err(why) = written {
            tracing::error!(%why, "the journal cannot be written: no more requests are admitted; make room and restart");
            self.line.0.fail();
            return Err(Down);
        }
        (self.on_commit)(Committed { elapsed: begin.elapsed(), entries: group.entries.len() });
        Ok(())
    }

    fn write(&self) -> io::Result<()> {
        match self.file.write_at(&self.buffer, self.end) {
            // Nothing of it was synced: the same bytes may be written again in the same place.
            Err(why) if room::is_full(&why) => {
                self.room.give_up();
                self.file.write_at(&self.buffer, self.end)
            }
            written => written,
        }
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
                // This one goes on, and the next is begun when there is room.
                Err(why) if room::is_full(&why) && self.unmake_next() => {
                    self.room.give_up();
                }
                Err(why) => {
                    tracing::error!(%why, "a new journal segment cannot be begun: no more requests are admitted; make room and restart");
                    self.line.0.fail();
                }
            }
        }
    }

    /// Removes what there is of the next segment: it would not continue this one if this one goes on.
    fn unmake_next(&self) -> bool {
        self.disk.remove(&segment::segment_name(self.head.seq.next())).is_ok()
    }
}

/// How long after a group of so many commands the next one begins.
fn pace(commands: usize, pace_max: Duration) -> Duration {
    let commands = u32::try_from(commands).unwrap_or(u32::MAX);
    PACE_BY_COMMAND.saturating_mul(commands).min(pace_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_share_an_fsync_the_longer_the_next_group_gathers() {
        let micros = |commands| pace(commands, PACE_MAX).as_micros();
        assert_eq!([1, 2, 9, 10, 11, usize::MAX].map(micros), [200, 400, 1_800, 2_000, 2_000, 2_000]);
        assert_eq!(pace(10, Duration::ZERO), Duration::ZERO);
    }
}
