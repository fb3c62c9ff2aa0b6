//! Frames: what the journal is made of on disk.
//!
//! A frame holds the entries of one command, written together or not at all:
//!
//! ```text
//! length u32 | crc32c u32 | seq u64 | durable u64 | chain [32] | count u8 | entries …
//! ```
//!
//! `length` counts the bytes after `chain`; the checksum covers all that follows it; `seq` is that
//! of the first entry; `durable` is the newest entry known to be on disk when the frame was
//! written; `chain` is SHA-256 over the previous frame's chain, `seq` and the entries, so that the
//! last chain vouches for everything before it.

use super::codec::{self, CodecError};
use super::entry::{Entry, Seq};
use ring::digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// Bytes before the entries.
pub const HEAD_BYTES: usize = 4 + 4 + 8 + 8 + 32;
/// The largest frame, entries included. A capture with its largest record is far below it.
pub const FRAME_BYTES_MAX: usize = 1024 * 1024;

/// A link of the hash chain.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Chain(pub [u8; 32]);

impl Chain {
    /// Before the first frame.
    pub const START: Chain = Chain([0; 32]);

    /// Reads what `Display` writes.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        for (place, to) in bytes.iter_mut().enumerate() {
            *to = u8::from_str_radix(&text[place * 2..place * 2 + 2], 16).ok()?;
        }
        Some(Chain(bytes))
    }

    fn next(self, seq: Seq, payload: &[u8]) -> Chain {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&self.0);
        context.update(&seq.0.to_le_bytes());
        context.update(payload);
        Chain(context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

/// In hexadecimal digits.
impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Chain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Chain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Chain::parse(&text).ok_or_else(|| de::Error::custom("must be 64 hexadecimal digits"))
    }
}

/// Where the journal stands: the last entry and the chain up to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The last entry.
    pub seq: Seq,
    /// The chain after its frame.
    pub chain: Chain,
}

impl Head {
    /// Of an empty journal.
    pub const START: Head = Head { seq: Seq::START, chain: Chain::START };
}

impl Default for Head {
    fn default() -> Self {
        Head::START
    }
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// They end before the frame does.
    Short,
    /// The length is beyond [`FRAME_BYTES_MAX`].
    Length(u32),
    /// The checksum does not fit.
    Checksum,
    /// Whole, but not the next one of this journal.
    OutOfOrder {
        /// The sequence number found.
        found: Seq,
    },
    /// Whole and in order, but it does not continue the chain.
    Chain,
    /// Whole, but no entries of this version.
    Entries(CodecError),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::Short => f.write_str("the frame is incomplete"),
            FrameError::Length(length) => write!(f, "the frame claims {length} bytes"),
            FrameError::Checksum => f.write_str("the checksum does not fit"),
            FrameError::OutOfOrder { found } => write!(f, "it holds sequence number {found}"),
            FrameError::Chain => f.write_str("the hash chain does not verify"),
            FrameError::Entries(why) => write!(f, "the entries cannot be read: {why}"),
        }
    }
}

/// A frame that was read.
#[derive(Debug)]
pub struct Frame {
    /// Its entries, at least one.
    pub entries: Vec<Entry>,
    /// Its own size.
    pub bytes: usize,
    /// The journal's head after it.
    pub head: Head,
}

/// Appends a frame of `entries`, which continue `head`, and returns the new head.
///
/// # Panics
/// When the entries do not continue the head or do not fit a frame: a bug of ours.
pub fn encode(entries: &[Entry], head: Head, durable: Seq, out: &mut Vec<u8>) -> Head {
    let seq = head.seq.next();
    let start = out.len();
    out.resize(start + HEAD_BYTES, 0);
    out.push(u8::try_from(entries.len()).expect("a command makes few entries"));
    let mut last = head.seq;
    for entry in entries {
        assert_eq!(entry.seq, last.next(), "entries continue the journal");
        last = entry.seq;
        codec::encode(entry, out);
    }
    assert!(last >= seq && durable < seq, "a frame holds new entries");
    let payload_start = start + HEAD_BYTES;
    let length = out.len() - payload_start;
    assert!(length <= FRAME_BYTES_MAX - HEAD_BYTES, "the book bounds every field");
    let chain = head.chain.next(seq, &out[payload_start..]);
    let frame = &mut out[start..];
    frame[..4].copy_from_slice(&u32::try_from(length).expect("checked above").to_le_bytes());
    frame[8..16].copy_from_slice(&seq.0.to_le_bytes());
    frame[16..24].copy_from_slice(&durable.0.to_le_bytes());
    frame[24..56].copy_from_slice(&chain.0);
    let crc = crc32c::crc32c(&frame[8..]);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
    Head { seq: last, chain }
}

/// Reads the frame at the front of `input`, which must continue `head`.
///
/// # Errors
/// When there is none, or it is not the next one.
pub fn decode(input: &[u8], head: Head) -> Result<Frame, FrameError> {
    let raw = Raw::read(input)?;
    let seq = head.seq.next();
    if raw.seq != seq {
        return Err(FrameError::OutOfOrder { found: raw.seq });
    }
    let chain = head.chain.next(seq, raw.payload);
    if chain != raw.chain {
        return Err(FrameError::Chain);
    }
    let entries = raw.entries().map_err(FrameError::Entries)?;
    let last = entries.last().ok_or(FrameError::Entries(CodecError::Short))?.seq;
    Ok(Frame { entries, bytes: raw.bytes, head: Head { seq: last, chain } })
}

/// Reads the entries of a frame whose place in the journal is known already.
///
/// # Errors
/// When the frame is damaged.
pub fn decode_entries(input: &[u8]) -> Result<Vec<Entry>, FrameError> {
    Raw::read(input)?.entries().map_err(FrameError::Entries)
}

/// The durable mark of the frame at the front of `input`, if a whole one is there.
pub fn durable_mark(input: &[u8]) -> Option<Seq> {
    Raw::read(input).ok().map(|raw| raw.durable)
}

/// A frame whose checksum fits.
struct Raw<'a> {
    seq: Seq,
    durable: Seq,
    chain: Chain,
    payload: &'a [u8],
    bytes: usize,
}

impl<'a> Raw<'a> {
    fn read(input: &'a [u8]) -> Result<Self, FrameError> {
        let mut rest = input;
        let short = |_| FrameError::Short;
        let length = u32::from_le_bytes(codec::take(&mut rest).map_err(short)?);
        let crc = u32::from_le_bytes(codec::take(&mut rest).map_err(short)?);
        let bytes = usize::try_from(length).ok().and_then(|length| length.checked_add(HEAD_BYTES));
        let bytes = bytes.filter(|bytes| *bytes <= FRAME_BYTES_MAX).ok_or(FrameError::Length(length))?;
        let covered = input.get(8..bytes).ok_or(FrameError::Short)?;
        if crc32c::crc32c(covered) != crc {
            return Err(FrameError::Checksum);
        }
        let seq = Seq(u64::from_le_bytes(codec::take(&mut rest).map_err(short)?));
        let durable = Seq(u64::from_le_bytes(codec::take(&mut rest).map_err(short)?));
        let chain = Chain(codec::take(&mut rest).map_err(short)?);
        Ok(Raw { seq, durable, chain, payload: &input[HEAD_BYTES..bytes], bytes })
    }

    fn entries(&self) -> Result<Vec<Entry>, CodecError> {
        let mut rest = self.payload;
        let [count] = codec::take::<1>(&mut rest)?;
        let mut entries = Vec::with_capacity(usize::from(count));
        let mut seq = self.seq;
        for _ in 0..count {
            entries.push(codec::decode(&mut rest, seq)?);
            seq = seq.next();
        }
        if rest.is_empty() { Ok(entries) } else { Err(CodecError::Trailing) }
    }
}
