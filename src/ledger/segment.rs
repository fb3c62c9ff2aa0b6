//! Segments: the files of a journal, read in order and checked to the last byte.
//!
//! The one damage that is mended is a torn tail: frames at the very end that no `durable` mark
//! covers, which a crash in the middle of a write leaves behind. Anything else stops with the file,
//! the offset and the sequence number.

use super::book::Broken;
use super::disk::{Disk, File, OutOfReach};
use super::entry::Seq;
use super::frame::{self, Chain, Frame, FrameError, Head};
use std::fmt;
use std::io;
use std::sync::Arc;

/// A segment that has grown beyond this is sealed and the next one begun: small enough to be read
/// whole into memory.
#[cfg(not(test))]
pub const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// Small enough that tests come to its end.
#[cfg(test)]
pub const SEGMENT_BYTES: u64 = 8 * 1024;
/// The journal format that this version writes, and the newest that it reads.
const FORMAT: u32 = 1;
const MAGIC: [u8; 8] = *b"TOLLGATE";
/// magic | crc32c u32 | format u32 | first seq u64 | chain before it [32]
pub const HEADER_BYTES: usize = 8 + 4 + 4 + 8 + 32;

/// Why a journal cannot be used.
#[derive(Debug)]
pub enum JournalError {
    /// The operating system refuses.
    Io(String, io::Error),
    /// Bytes that were once durable are not what was written.
    Damaged {
        /// Which file.
        file: String,
        /// Where in it.
        offset: usize,
        /// The entry that should stand there.
        seq: Seq,
        /// What is wrong.
        why: String,
    },
    /// Another version of Tollgate wrote it.
    Format {
        /// Which file.
        file: String,
        /// Its format.
        found: u32,
    },
    /// It never had the head that was expected.
    OtherHead {
        /// The one that was expected.
        expected: Chain,
        /// The one that it has.
        head: Chain,
    },
    /// The head that was expected may stand in what is out of reach.
    Unseen {
        /// The one that was expected.
        expected: Chain,
        /// The last entry out of reach.
        last: Seq,
    },
    /// The entries contradict each other.
    Broken {
        /// The first entry of the frame that does.
        seq: Seq,
        /// What does not hold.
        why: Broken,
    },
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JournalError::Io(what, why) => write!(f, "{what}: {why}"),
            JournalError::Damaged { file, offset, seq, why } => {
                write!(f, "{file} is damaged at byte {offset}, where entry {seq} should stand: {why}; ")?;
                f.write_str("restore this file from a backup")
            }
            JournalError::Format { file, found } => write!(
                f,
                "{file} has journal format {found}, this version reads up to {FORMAT}: use a newer tollgate"
            ),
            JournalError::OtherHead { expected, head } => write!(
                f,
                "the head was never {expected}: what stood before it was changed, or it is of another ledger; \
                 the entries and their chain are whole up to {head}"
            ),
            JournalError::Unseen { expected, last } => write!(
                f,
                "the head {expected} is not in what can be seen: it may be of the entries up to {last}, \
                 part of which is archived and out of reach; bring the archive back to know"
            ),
            JournalError::Broken { seq, why } => {
                write!(f, "entry {seq} cannot follow those before it: {why}")
            }
        }
    }
}

impl std::error::Error for JournalError {}

impl JournalError {
    /// Whether a segment is missing that was archived, and nothing else.
    pub fn is_out_of_reach(&self) -> bool {
        match self {
            JournalError::Io(_, why) => OutOfReach::is(why),
            JournalError::Damaged { .. }
            | JournalError::Format { .. }
            | JournalError::OtherHead { .. }
            | JournalError::Unseen { .. }
            | JournalError::Broken { .. } => false,
        }
    }
}

impl From<JournalError> for io::Error {
    fn from(why: JournalError) -> Self {
        match why {
            JournalError::Io(_, why) if OutOfReach::is(&why) => why,
            other => io::Error::other(other.to_string()),
        }
    }
}

/// A journal that was read to its end.
pub struct Journal {
    /// The segment that is being written; none before the first.
    pub last: Option<Arc<dyn File>>,
    /// The last entry.
    pub head: Head,
    /// Bytes of the last segment that are good.
    pub end: u64,
    /// Bytes after that: a torn tail.
    pub torn_bytes: u64,
}

impl Journal {
    /// Before the first segment.
    pub fn empty() -> Self {
        Journal { last: None, head: Head::START, end: 0, torn_bytes: 0 }
    }

    /// Goes on after one more segment.
    pub fn follow(&mut self, segment: Segment, ending: Ending) {
        let Ending { head, end, torn_bytes } = ending;
        *self = Journal { last: Some(segment.file), head, end, torn_bytes };
    }

    /// Checks that it ends no earlier than what is `known` from elsewhere to have been durable.
    ///
    /// # Errors
    /// When acknowledged entries are missing.
    pub fn check_reaches(&self, known: Seq, names: &[String]) -> Result<(), JournalError> {
        if self.head.seq >= known {
            return Ok(());
        }
        let file = names.last().map_or("the journal", String::as_str).to_owned();
        let why = format!("entry {known} was durable once, the journal ends at {}", self.head.seq);
        Err(JournalError::Damaged { file, offset: 0, seq: self.head.seq.next(), why })
    }
}

/// Names of all segments, in order.
///
/// # Errors
/// As the operating system says.
pub fn list(disk: &dyn Disk) -> Result<Vec<String>, JournalError> {
    let names = disk.list().map_err(|why| JournalError::Io("the store".into(), why))?;
    Ok(names.into_iter().filter(|name| is_segment(name)).collect())
}

/// Reads every frame of the journal in order, from the segment that continues `begin`.
///
/// `known` is an entry that is known from elsewhere to have been durable.
///
/// # Errors
/// See [`JournalError`]; also when `visit` finds that an entry cannot follow.
pub fn read(
    disk: &dyn Disk,
    begin: Head,
    known: Seq,
    mut visit: impl FnMut(Frame) -> Result<(), Broken>,
) -> Result<Journal, JournalError> {
    let mut journal = Journal { head: begin, ..Journal::empty() };
    let names = list(disk)?;
    let first = segment_name(begin.seq.next());
    for (place, name) in names.iter().enumerate().filter(|(_, name)| **name >= first) {
        let segment = Segment::load(disk, name, Position::of(place, &names))?;
        let ending = segment.read(journal.head, known, |frame, _| visit(frame))?;
        journal.follow(segment, ending);
    }
    journal.check_reaches(known, &names)?;
    Ok(journal)
}

/// Makes the segment that continues `head`; gives it and the bytes of its header.
///
/// # Errors
/// As the operating system says.
pub fn create(disk: &dyn Disk, head: Head) -> io::Result<(Arc<dyn File>, u64)> {
    let file = disk.create(&segment_name(head.seq.next()))?;
    write_header(&*file, head).map(|end| (file, end))
}

/// Writes the header of a segment that continues `head`.
///
/// # Errors
/// As the operating system says.
pub fn write_header(file: &dyn File, head: Head) -> io::Result<u64> {
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(&MAGIC);
    header.extend_from_slice(&[0; 4]);
    header.extend_from_slice(&FORMAT.to_le_bytes());
    header.extend_from_slice(&head.seq.next().0.to_le_bytes());
    header.extend_from_slice(&head.chain.0);
    let crc = crc32c::crc32c(&header[12..]);
    header[8..12].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(header.len(), HEADER_BYTES);
    file.write_at(&header, 0)?;
    file.sync()?;
    Ok(u64::try_from(HEADER_BYTES).expect("small"))
}

/// Whether a segment may end in a torn tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// It is full: all of it was durable before the next was begun.
    Sealed,
    /// It is being written.
    Last,
}

impl Position {
    /// Of the segment at `place` among all.
    pub fn of(place: usize, names: &[String]) -> Self {
        if place + 1 == names.len() { Position::Last } else { Position::Sealed }
    }
}

/// One segment, in memory.
pub struct Segment {
    name: String,
    file: Arc<dyn File>,
    bytes: Vec<u8>,
    position: Position,
}

/// How a segment ends.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    /// The journal's head after it.
    pub head: Head,
    /// Bytes that are good.
    pub end: u64,
    /// Bytes after that: a torn tail.
    pub torn_bytes: u64,
}

impl Segment {
    /// Reads its bytes.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn load(disk: &dyn Disk, name: &str, position: Position) -> Result<Self, JournalError> {
        let io = |why| JournalError::Io(name.to_owned(), why);
        let file = disk.open(name).map_err(io)?;
        let bytes = whole(&*file).map_err(io)?;
        Ok(Segment { name: name.to_owned(), file, bytes, position })
    }

    /// Reads every frame, each with the bytes before it. The first continues `head`; `known` is an
    /// entry that is known from elsewhere to have been durable.
    ///
    /// # Errors
    /// See [`JournalError`]; also when `visit` finds that an entry cannot follow.
    pub fn read(
        &self,
        head: Head,
        known: Seq,
        visit: impl FnMut(Frame, u32) -> Result<(), Broken>,
    ) -> Result<Ending, JournalError> {
        self.scan(head, known, Seq(u64::MAX), visit)
    }

    /// Reads every frame up to the entry `last`, which is durable.
    ///
    /// # Errors
    /// See [`JournalError`].
    pub fn read_until(
        &self,
        head: Head,
        last: Seq,
        mut visit: impl FnMut(Frame),
    ) -> Result<Ending, JournalError> {
        self.scan(head, last, last, |frame, _| {
            visit(frame);
            Ok(())
        })
    }

    /// Its first bytes.
    pub fn start(&self, end: u64) -> &[u8] {
        &self.bytes[..usize::try_from(end).expect("it was read")]
    }

    fn scan(
        &self,
        head: Head,
        known: Seq,
        until: Seq,
        mut visit: impl FnMut(Frame, u32) -> Result<(), Broken>,
    ) -> Result<Ending, JournalError> {
        let nothing = self.bytes.len() <= HEADER_BYTES && self.bytes.iter().all(|byte| *byte == 0);
        if self.position == Position::Last && (nothing || self.bytes.len() < HEADER_BYTES) {
            // A crash while the segment was begun: its header is written again.
            return Ok(Ending { head, end: 0, torn_bytes: bytes_u64(self.bytes.len()) });
        }
        self.check_header(head)?;
        let mut head = head;
        let mut offset = HEADER_BYTES;
        while offset < self.bytes.len() && head.seq < until {
            let place = u32::try_from(offset).expect("segments are far smaller than 4 GiB");
            let seq = head.seq.next();
            match frame::decode(&self.bytes[offset..], head) {
                Ok(frame) => {
                    offset += frame.bytes;
                    head = frame.head;
                    visit(frame, place).map_err(|why| JournalError::Broken { seq, why })?;
                }
                Err(why) if self.is_torn(offset, seq.max(known.next()), seq, why) => break,
                Err(why) => return Err(self.damaged(offset, seq, &why)),
            }
        }
        let torn_bytes = bytes_u64(self.bytes.len() - offset);
        Ok(Ending { head, end: bytes_u64(offset), torn_bytes })
    }

    /// Whether what stands at `offset` can be what a crash left of a write that was not durable:
    /// the last segment, an incomplete frame, and no mark from elsewhere or from a later frame that
    /// says entry `seq` was durable.
    fn is_torn(&self, offset: usize, not_durable: Seq, seq: Seq, why: FrameError) -> bool {
        let incomplete = match why {
            FrameError::Short | FrameError::Length(_) | FrameError::Checksum => true,
            FrameError::OutOfOrder { .. } | FrameError::Chain | FrameError::Entries(_) => false,
        };
        let marked = || {
            let later = (offset + 1)..self.bytes.len();
            later.into_iter().any(|at| frame::durable_mark(&self.bytes[at..]).is_some_and(|mark| mark >= seq))
        };
        incomplete && self.position == Position::Last && not_durable == seq && !marked()
    }

    fn check_header(&self, head: Head) -> Result<(), JournalError> {
        let damaged = |why: &dyn fmt::Display| Err(self.damaged(0, head.seq.next(), why));
        let Some(header) = self.bytes.get(..HEADER_BYTES) else {
            return damaged(&"its header is incomplete");
        };
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
        if header[..8] != MAGIC || crc32c::crc32c(&header[12..]) != word(8) {
            return damaged(&"its header is not that of a journal");
        }
        if word(12) != FORMAT {
            return Err(JournalError::Format { file: self.name.clone(), found: word(12) });
        }
        let first = Seq(u64::from_le_bytes(header[16..24].try_into().expect("eight bytes")));
        if first != head.seq.next() || header[24..] != head.chain.0 {
            return damaged(&format_args!(
                "it begins with entry {first} of another chain: a segment is missing"
            ));
        }
        Ok(())
    }

    /// What is wrong with it, and where.
    pub fn damaged(&self, offset: usize, seq: Seq, why: &dyn fmt::Display) -> JournalError {
        JournalError::Damaged { file: self.name.clone(), offset, seq, why: why.to_string() }
    }
}

/// The name of the segment that begins with this entry.
pub fn segment_name(first: Seq) -> String {
    format!("journal-{:020}.log", first.0)
}

fn is_segment(name: &str) -> bool {
    name.strip_prefix("journal-").is_some_and(|rest| rest.ends_with(".log"))
}

/// All bytes of a file.
///
/// # Errors
/// As the operating system says.
pub fn whole(file: &dyn File) -> io::Result<Vec<u8>> {
    let size = usize::try_from(file.size()?).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    let mut bytes = vec![0; size];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn bytes_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("usize fits")
}
