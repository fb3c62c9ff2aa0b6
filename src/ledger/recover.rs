//! Recovery: what a start makes of the journal, the sidecars and the state.
//!
//! From a state as of entry N only the segments after N are folded. Every segment before is held
//! against its sidecar by its size and its place in the chain, and is read only if the sidecar is
//! missing or of no use. The last segment is always read. Without a state, the journal is folded from
//! the [checkpoint](super::checkpoint), or if nothing was ever archived, as a whole. `ledger verify`
//! reads everything; a start does not, and nothing at all of what was archived.

use super::book::{Book, Broken};
use super::checkpoint::Checkpoint;
use super::disk::Disk;
use super::entry::Seq;
use super::frame::{Frame, Head};
use super::index::{self, Inner, Part};
use super::places::{Full, Places};
use super::records::Pending;
use super::segment::{self, Ending, Journal, JournalError, Position, Segment};
use super::sidecar::{self, Sidecar};
use super::state::Snapshot;
use super::verify::Fold;
use std::sync::Arc;

/// What a start found and made.
pub struct Recovery {
    /// Its end.
    pub journal: Journal,
    /// All customers, as of its end.
    pub book: Book,
    /// Where entries stand.
    pub index: Inner,
    /// What the state does not have yet.
    pub pending: Pending,
    /// Whether the state that was given was one of this journal. If not, all entries are pending.
    pub fits: bool,
    /// Entries that were folded.
    pub replayed: u64,
    /// Sidecars that were made again.
    pub indexed: usize,
}

/// Reads as much of the journal as `state` and the sidecars leave open.
///
/// # Errors
/// When the journal is damaged, or ends before what the state knows to have been durable.
pub fn recover(disk: &dyn Disk, state: Option<Snapshot>) -> Result<Recovery, JournalError> {
    let known = state.as_ref().map_or(Seq::START, |state| state.head.seq);
    let names = segment::list(disk)?;
    let recovery = match state.map(|state| Replay::from(state).run(disk, &names, known)) {
        // It is older than what was archived.
        Some(Err(why)) if why.is_out_of_reach() => None,
        Some(recovery) => recovery?,
        None => None,
    };
    let recovery = match recovery {
        Some(recovery) => recovery,
        None => Recovery { fits: known == Seq::START, ..anew(disk, &names, known)? },
    };
    finish(recovery, &names, known)
}

/// Reads all of the journal that can be reached, whatever a state or a checkpoint say. Of what is out of
/// reach the checkpoint says it.
///
/// # Errors
/// When the journal is damaged.
pub fn recover_whole(disk: &dyn Disk) -> Result<Recovery, JournalError> {
    let names = segment::list(disk)?;
    let recovery = match whole(disk, &names, Seq::START) {
        Err(why) if why.is_out_of_reach() => anew(disk, &names, Seq::START)?,
        recovery => recovery?,
    };
    finish(recovery, &names, Seq::START)
}

/// From the checkpoint, if there is one of this journal, or from the first entry.
fn anew(disk: &dyn Disk, names: &[String], known: Seq) -> Result<Recovery, JournalError> {
    if let Some((checkpoint, snapshot)) = Checkpoint::found(disk) {
        let known = known.max(snapshot.head.seq);
        let replay = Replay { pending: checkpoint.into_pending(), ..Replay::from(snapshot) };
        if let Some(recovery) = replay.run(disk, names, known)? {
            recovery.journal.check_reaches(known, names)?;
            return Ok(recovery);
        }
        tracing::warn!("the checkpoint of the archive is not of this journal");
    }
    whole(disk, names, known)
}

fn whole(disk: &dyn Disk, names: &[String], known: Seq) -> Result<Recovery, JournalError> {
    Ok(Replay::anew().run(disk, names, known)?.expect("an empty state fits every journal"))
}

fn finish(recovery: Recovery, names: &[String], known: Seq) -> Result<Recovery, JournalError> {
    recovery.journal.check_reaches(known, names)?;
    if let Some(last) = &recovery.journal.last {
        // What a killed process wrote may be in the cache alone: before anything is built on it, it
        // must be as durable as what follows.
        last.sync().map_err(|why| JournalError::Io("the journal".into(), why))?;
    }
    let seq = recovery.journal.head.seq;
    recovery.book.audit().map_err(|why| JournalError::Broken { seq, why })?;
    Ok(recovery)
}

/// A state on its way from some entry to the end of the journal.
struct Replay {
    /// Where it began.
    start: Head,
    fold: Fold,
    pending: Pending,
    index: Inner,
    replayed: u64,
    indexed: usize,
    /// Whether the journal was seen to come by `start`.
    met: bool,
}

impl Replay {
    fn anew() -> Self {
        let state = Snapshot { book: Book::default(), bookings: index::Bookings::new(), head: Head::START };
        Self::from(state)
    }

    fn from(state: Snapshot) -> Self {
        let Snapshot { book, bookings, head } = state;
        Replay {
            start: head,
            fold: Fold { book, ..Fold::default() },
            pending: Pending::default(),
            index: Inner { bookings, ..Inner::default() },
            replayed: 0,
            indexed: 0,
            met: head == Head::START,
        }
    }

    /// Goes over all segments. None if the state is not of this journal, which is known to reach
    /// to `known`.
    fn run(
        mut self,
        disk: &dyn Disk,
        names: &[String],
        known: Seq,
    ) -> Result<Option<Recovery>, JournalError> {
        let mut journal = Journal::empty();
        for (place, name) in names.iter().enumerate() {
            let position = Position::of(place, names);
            let sidecar = match position {
                Position::Sealed => self.sidecar(disk, name, journal.head)?,
                Position::Last => refuse_if_full(disk, name).map(|()| None)?,
            };
            if let Some(sidecar) = sidecar {
                let after = sidecar.about.after;
                self.index.full.push(Part::Sidecar(Arc::new(sidecar)));
                if after.seq <= self.start.seq {
                    journal.head = after;
                    self.met |= after == self.start;
                    continue;
                }
                let segment = Segment::load(disk, name, position)?;
                let ending = segment.read(journal.head, known, |frame, _| self.frame(&frame))?;
                journal.follow(segment, ending);
            } else {
                let segment = Segment::load(disk, name, position)?;
                let mut places = Places::new(name.as_str().into(), journal.head);
                let ending = segment.read(journal.head, known, |frame, offset| {
                    frame.entries.iter().for_each(|entry| places.note(entry, offset));
                    self.frame(&frame)
                })?;
                self.place(disk, position, places, ending);
                journal.follow(segment, ending);
            }
            if journal.head.seq >= self.start.seq && !self.met {
                return Ok(None);
            }
        }
        let Replay { start, fold, pending, mut index, replayed, indexed, met } = self;
        index.durable = journal.head.seq;
        // A journal that ends early may be of this state: that is damage, not another journal.
        let met = met || journal.head.seq < start.seq;
        Ok(met.then_some(Recovery {
            journal,
            book: fold.book,
            index,
            pending,
            fits: true,
            replayed,
            indexed,
        }))
    }

    /// The sidecar of a sealed segment that continues `head`, if it is of use.
    fn sidecar(&self, disk: &dyn Disk, name: &str, head: Head) -> Result<Option<Sidecar>, JournalError> {
        let io = |why| JournalError::Io(name.to_owned(), why);
        let why = match Sidecar::open(disk, name.into()) {
            Ok(sidecar) => {
                let bytes = match disk.elsewhere(name).map_err(io)? {
                    // Nothing that becomes of an archive stops a start.
                    Some(_) => sidecar.about.bytes,
                    None => disk.open(name).and_then(|segment| segment.size()).map_err(io)?,
                };
                if sidecar.about.before == head && sidecar.about.bytes == bytes {
                    return Ok(Some(sidecar));
                }
                "it does not fit its segment".to_owned()
            }
            Err(why) => why.to_string(),
        };
        tracing::warn!(segment = name, why, "the index of a segment is made again");
        Ok(None)
    }

    /// Folds a frame in, if the state does not have it.
    fn frame(&mut self, frame: &Frame) -> Result<(), Broken> {
        if frame.head.seq <= self.start.seq {
            self.met |= frame.head == self.start;
            return Ok(());
        }
        if !self.met {
            // Not of this journal: told when the segment has been read.
            return Ok(());
        }
        for entry in &frame.entries {
            let before = |spender| Ok::<_, Broken>(self.fold.book.spent(spender));
            self.pending.note(entry, before)?;
            self.fold.entry(entry)?;
            index::note_booking(&mut self.index.bookings, entry);
            self.replayed += 1;
        }
        Ok(())
    }

    fn place(&mut self, disk: &dyn Disk, position: Position, places: Places, ending: Ending) {
        match position {
            Position::Last => self.index.live = Some(places),
            Position::Sealed => {
                let full = Full { places, after: ending.head, bytes: ending.end };
                self.indexed += 1;
                self.index.full.push(match sidecar::write(disk, &full) {
                    Ok(sidecar) => Part::Sidecar(Arc::new(sidecar)),
                    Err(why) => {
                        let segment = &*full.places.segment;
                        tracing::warn!(segment, %why, "the index of a segment cannot be written: it stays in memory");
                        Part::Memory(Arc::new(full))
                    }
                });
            }
        }
    }
}

/// The last segment has no sidecar: one that has was followed by another, which is lost.
fn refuse_if_full(disk: &dyn Disk, name: &str) -> Result<(), JournalError> {
    let Ok(sidecar) = Sidecar::open(disk, name.into()) else { return Ok(()) };
    let seq = sidecar.about.after.seq.next();
    let why = "it is missing: the segment before it was full".into();
    Err(JournalError::Damaged { file: segment::segment_name(seq), offset: 0, seq, why })
}
