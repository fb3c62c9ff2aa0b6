//! The meter of a streamed answer.

use super::dialect::{Part, Unreadable, quick};
use super::reading::{Delivered, Oddities, Reading, Shape, Tally};
use super::redact::redact;
use super::sse::{EVENT_BYTES_MAX, Event, IMAGE_EVENT_BYTES_MAX, Piece, Splitter};
use crate::endpoint::Endpoint;
use crate::settle::price::Tier;
use crate::usage::{Usage, Weight};
use bytes::Bytes;
use std::borrow::Cow;
use std::ops::Range;

/// What becomes of the extra chunk that reports usage: `choices` empty and `usage` an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageChunk {
    /// We asked for it and the client did not: it is taken out, with its blank line.
    Hide,
    /// The client asked for it.
    Show,
}

/// Reads a stream of events as it passes.
///
/// Holds at most one event back ([`EVENT_BYTES_MAX`](super::EVENT_BYTES_MAX)) and keeps the delivered
/// text up to [`DELIVERED_BYTES_MAX`](super::DELIVERED_BYTES_MAX). The bytes that come out and the
/// reading do not depend on how the stream was cut into chunks.
///
/// Nothing comes out for which there is no [room](Self::allow): the event that would go beyond it is kept
/// back, and all after it, and counts as not delivered.
#[derive(Debug)]
pub struct StreamMeter {
    endpoint: Endpoint,
    usage_chunk: UsageChunk,
    splitter: Splitter,
    tally: Tally,
    unparsed: u64,
    done: bool,
    /// Where the event before went: the second half of its line end follows it.
    last: Fate,
    room: Weight,
    kept: Option<Kept>,
}

/// What is kept back for want of room.
#[derive(Debug)]
struct Kept {
    event: Event<'static>,
    /// What came after it.
    rest: Vec<Bytes>,
}

/// More would be delivered than may be.
struct NoRoom;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Passes,
    Redacted,
    TakenOut,
}

/// How an event is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Without parsing it, where it says nothing but text.
    Quick,
    /// As JSON, whole.
    Parsed,
}

impl Fate {
    /// What passes of an event.
    fn of(self, raw: Cow<'_, [u8]>) -> Option<Vec<u8>> {
        match self {
            Fate::TakenOut => None,
            Fate::Passes => Some(raw.into_owned()),
            Fate::Redacted => Some(redact(&raw).unwrap_or_else(|| raw.into_owned())),
        }
    }
}

impl StreamMeter {
    /// A meter at the start of a stream.
    pub fn new(endpoint: Endpoint, usage_chunk: UsageChunk) -> Self {
        Self::with_echo(endpoint, usage_chunk, 0)
    }

    /// The same, where an event may repeat what was asked, which had this many bytes.
    pub fn with_echo(endpoint: Endpoint, usage_chunk: UsageChunk, asked_bytes: usize) -> Self {
        // Written as escapes, a byte takes six.
        let longest = match endpoint {
            Endpoint::ImageGenerations | Endpoint::ImageEdits => IMAGE_EVENT_BYTES_MAX,
            Endpoint::Chat
            | Endpoint::Responses
            | Endpoint::Messages
            | Endpoint::Completions
            | Endpoint::Embeddings
            | Endpoint::Moderations
            | Endpoint::Speech
            | Endpoint::Transcriptions
            | Endpoint::Translations => EVENT_BYTES_MAX,
        };
        let event_bytes_max = longest.saturating_add(asked_bytes.saturating_mul(6));
        StreamMeter {
            endpoint,
            usage_chunk,
            splitter: Splitter::new(event_bytes_max),
            tally: Tally::default(),
            unparsed: 0,
            done: false,
            last: Fate::Passes,
            room: Weight::MAX,
            kept: None,
        }
    }

    /// From now on, so much may be delivered in all.
    pub fn allow(&mut self, room: Weight) {
        self.room = room;
    }

    /// Whether something is kept back for want of room.
    pub const fn is_short(&self) -> bool {
        self.kept.is_some()
    }

    /// Reads on in what was kept back, and gives what may go to the client now.
    pub fn resume(&mut self) -> Bytes {
        let Some(Kept { event, rest }) = self.kept.take() else { return Bytes::new() };
        // The last one may be cut, which the quick way does not see.
        let Ok(judged) = self.weigh(&event, Way::Parsed) else {
            self.kept = Some(Kept { event, rest });
            return Bytes::new();
        };
        self.last = self.fate(judged);
        let mut out = self.last.of(event.raw).unwrap_or_default();
        for chunk in rest {
            out.extend_from_slice(&self.feed(&chunk));
        }
        Bytes::from(out)
    }

    /// Reads a chunk and gives what may go to the client now; may be empty.
    ///
    /// Whole events pass and the beginning of the next is held. The result shares the chunk's memory
    /// unless it begins with held bytes, has a gap, or names of the operator's account were taken out
    /// of an error.
    pub fn feed(&mut self, chunk: &Bytes) -> Bytes {
        if let Some(kept) = &mut self.kept {
            kept.rest.push(chunk.clone());
            return Bytes::new();
        }
        let mut outlet = Outlet::new(chunk);
        let mut at = 0;
        while at < chunk.len() {
            let (taken, piece) = self.splitter.next(&chunk[at..]);
            let place = at..at + taken;
            at = place.end;
            match piece {
                Piece::Event(event) => {
                    let Ok(judged) = self.weigh(&event, Way::Quick) else {
                        self.kept = Some(Kept { event: event.into_owned(), rest: vec![chunk.slice(at..)] });
                        break;
                    };
                    self.last = self.fate(judged);
                    match (self.last, event.raw) {
                        (Fate::Passes, Cow::Borrowed(_)) => outlet.pass(place),
                        (fate, raw) => fate.of(raw).into_iter().for_each(|held| outlet.pass_held(held)),
                    }
                }
                Piece::LineFeed => match self.last {
                    Fate::Passes | Fate::Redacted => outlet.pass(place),
                    Fate::TakenOut => {}
                },
                Piece::Partial => {}
                Piece::Oversized(held) => {
                    self.last = Fate::Passes;
                    outlet.pass_held(held);
                    outlet.pass(place);
                }
            }
        }
        outlet.into_bytes()
    }

    /// The body has ended: gives what was held. An event that lacks only its blank line
    /// is read, and taken out where it is the extra chunk; one that is cut is not an oddity.
    pub fn finish(&mut self) -> Bytes {
        let Some(tail) = self.splitter.finish() else { return Bytes::new() };
        // It may be cut, which the quick way does not see.
        match self.weigh(&tail, Way::Parsed) {
            Ok(judged) => judged.unwrap_or(Fate::Passes).of(tail.raw).unwrap_or_default().into(),
            Err(NoRoom) => {
                self.kept = Some(Kept { event: tail, rest: Vec::new() });
                Bytes::new()
            }
        }
    }

    /// Judges an event, unless there is no room for what it delivers.
    fn weigh(&mut self, event: &Event<'_>, way: Way) -> Result<Result<Fate, Unreadable>, NoRoom> {
        let before = self.tally.mark();
        let judged = self.judge(event, way);
        if self.tally.delivered.weight() <= self.room {
            return Ok(judged);
        }
        self.tally.back_to(&before);
        Err(NoRoom)
    }

    fn fate(&mut self, judged: Result<Fate, Unreadable>) -> Fate {
        judged.unwrap_or_else(|Unreadable| {
            self.unparsed += 1;
            Fate::Passes
        })
    }

    /// What was delivered so far.
    pub const fn delivered(&self) -> &Delivered {
        &self.tally.delivered
    }

    /// Events that were read and have passed.
    pub const fn events(&self) -> u64 {
        self.tally.parsed
    }

    /// The usage that was told when it began, of which the input is final.
    pub fn begun(&self) -> Option<Usage> {
        self.tally.begun(self.endpoint)
    }

    /// The service tier that was told.
    pub const fn tier(&self) -> Option<Tier> {
        self.tally.told_tier()
    }

    /// Whether its end was seen.
    pub const fn is_done(&self) -> bool {
        self.done
    }

    /// What the stream said up to here. Bytes still held count as not delivered.
    pub fn end(self) -> Reading {
        let shape = self.shape();
        let oddities = Oddities { unparsed: self.unparsed, oversized: self.splitter.oversized() };
        self.tally.into_reading(self.endpoint, shape, oddities)
    }

    fn shape(&self) -> Shape {
        if self.tally.failed {
            Shape::Failed
        } else if self.done {
            Shape::Complete
        } else if self.tally.finished {
            Shape::Finished
        } else if self.tally.parsed == 0 && self.unparsed > 0 {
            Shape::Garbage
        } else {
            Shape::Cut
        }
    }

    fn judge(&mut self, event: &Event<'_>, way: Way) -> Result<Fate, Unreadable> {
        let Some(data) = event.data() else { return Ok(Fate::Passes) };
        let data = data.trim_ascii();
        if data == b"[DONE]" {
            self.done = true;
            return Ok(Fate::Passes);
        }
        if data.is_empty() {
            return Ok(Fate::Passes);
        }
        if way == Way::Quick
            && self.endpoint == Endpoint::Chat
            && let Some(text) = quick::delivered_text(data)
        {
            self.tally.add_text(text);
            return Ok(Fate::Passes);
        }
        match self.tally.add(self.endpoint, data)? {
            Part::Error => Ok(Fate::Redacted),
            Part::Last => {
                self.done = true;
                Ok(Fate::Passes)
            }
            Part::Usage if self.usage_chunk == UsageChunk::Hide => Ok(Fate::TakenOut),
            Part::Usage | Part::Finished | Part::Ordinary => Ok(Fate::Passes),
        }
    }
}

/// Gathers what passes of a chunk; copies nothing while that is one run of its bytes.
struct Outlet<'a> {
    chunk: &'a Bytes,
    head: Vec<u8>,
    run: Range<usize>,
}

impl<'a> Outlet<'a> {
    const fn new(chunk: &'a Bytes) -> Self {
        Outlet { chunk, head: Vec::new(), run: 0..0 }
    }

    /// Lets bytes of the chunk pass.
    fn pass(&mut self, place: Range<usize>) {
        if self.run.end == place.start && !self.run.is_empty() {
            self.run.end = place.end;
        } else {
            self.settle_run();
            self.run = place;
        }
    }

    /// Lets bytes pass that were held from earlier chunks.
    fn pass_held(&mut self, held: Vec<u8>) {
        self.settle_run();
        if self.head.is_empty() {
            self.head = held;
        } else {
            self.head.extend_from_slice(&held);
        }
    }

    fn settle_run(&mut self) {
        self.head.extend_from_slice(&self.chunk[self.run.clone()]);
        self.run = 0..0;
    }

    fn into_bytes(mut self) -> Bytes {
        if self.head.is_empty() {
            return self.chunk.slice(self.run);
        }
        self.settle_run();
        Bytes::from(self.head)
    }
}
