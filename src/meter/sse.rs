//! Server-sent events: where each one ends, and its data.
//!
//! Knows the framing only: line ends (LF, CRLF, CR), comments, fields, a byte order mark at the
//! start. An event is everything up to and with its blank line. Each byte is looked at once to find
//! the end and once to find the data, whatever the pieces in which it arrives.

use std::borrow::Cow;
use std::mem;

/// The longest event that is read, in bytes. Chat deltas are below 1 KiB and the largest that real
/// servers send (a whole answer or an image in one delta) some 100 KiB; an event is kept until its
/// blank line, so this bounds what one stream holds.
pub const EVENT_BYTES_MAX: usize = 1024 * 1024;

/// The same where events carry whole images as base64: what a large one takes as PNG.
pub const IMAGE_EVENT_BYTES_MAX: usize = 32 * 1024 * 1024;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Splits a byte stream into events.
#[derive(Debug)]
pub(super) struct Splitter {
    event_bytes_max: usize,
    lines: Lines,
    /// The event under way, as far as earlier pieces had it.
    held: Vec<u8>,
    place: Place,
    reach: Reach,
    oversized: u64,
}

/// What the next bytes of a stream are.
#[derive(Debug)]
pub(super) enum Piece<'a> {
    /// A whole event.
    Event(Event<'a>),
    /// The line feed of a CRLF whose carriage return ended the event before. It goes where that went.
    LineFeed,
    /// The beginning or middle of an event, which is held.
    Partial,
    /// Of an event that is too long to be read: what was held of it, and then the bytes taken.
    Oversized(Vec<u8>),
}

/// An event with its blank line; the last of a stream may lack that.
#[derive(Debug)]
pub(super) struct Event<'a> {
    /// Borrowed when the bytes taken are the whole event.
    pub raw: Cow<'a, [u8]>,
    mark: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// No event has ended yet.
    #[default]
    First,
    /// The last byte taken ended an event.
    Between,
    /// Anywhere else.
    Within,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reach {
    #[default]
    Readable,
    Oversized,
}

impl Splitter {
    /// At the start of a stream of which longer events are not read.
    pub(super) fn new(event_bytes_max: usize) -> Self {
        Splitter {
            event_bytes_max,
            lines: Lines::default(),
            held: Vec::new(),
            place: Place::First,
            reach: Reach::Readable,
            oversized: 0,
        }
    }

    /// Takes bytes up to the end of an event, or all when none ends here. Gives how many it took
    /// and what they are. `rest` must not be empty.
    pub(super) fn next<'a>(&mut self, rest: &'a [u8]) -> (usize, Piece<'a>) {
        if self.place == Place::Between && self.lines.take_line_feed(rest) {
            return (1, Piece::LineFeed);
        }
        let end = self.lines.event_end(rest);
        let taken = end.unwrap_or(rest.len());
        let place = mem::replace(&mut self.place, Place::Within);
        if self.reach == Reach::Oversized || self.held.len() + taken > self.event_bytes_max {
            return (taken, self.pass_unread(end));
        }
        if end.is_none() {
            self.held.extend_from_slice(rest);
            self.place = if place == Place::First { Place::First } else { Place::Within };
            return (taken, Piece::Partial);
        }
        self.place = Place::Between;
        let raw = if self.held.is_empty() {
            Cow::Borrowed(&rest[..taken])
        } else {
            self.held.extend_from_slice(&rest[..taken]);
            Cow::Owned(mem::take(&mut self.held))
        };
        (taken, Piece::Event(Event::new(raw, place)))
    }

    /// The event under way at the end of the stream, which has no blank line.
    pub(super) fn finish(&mut self) -> Option<Event<'static>> {
        let held = mem::take(&mut self.held);
        (!held.is_empty()).then(|| Event::new(Cow::Owned(held), self.place))
    }

    /// Events that were too long to be read.
    pub(super) const fn oversized(&self) -> u64 {
        self.oversized
    }

    fn pass_unread<'a>(&mut self, end: Option<usize>) -> Piece<'a> {
        self.oversized += u64::from(self.reach == Reach::Readable);
        (self.reach, self.place) = match end {
            Some(_) => (Reach::Readable, Place::Between),
            None => (Reach::Oversized, Place::Within),
        };
        Piece::Oversized(mem::take(&mut self.held))
    }
}

impl<'a> Event<'a> {
    fn new(raw: Cow<'a, [u8]>, place: Place) -> Self {
        let marked = place == Place::First && raw.starts_with(BYTE_ORDER_MARK);
        let mark = if marked { BYTE_ORDER_MARK.len() } else { 0 };
        Event { raw, mark }
    }

    /// The same, for longer than the bytes that it was found in.
    pub(super) fn into_owned(self) -> Event<'static> {
        Event { raw: Cow::Owned(self.raw.into_owned()), mark: self.mark }
    }

    /// The values of its `data` fields with LF between them; `None` when it has no such field.
    /// Copies only when there are several.
    pub(super) fn data(&self) -> Option<Cow<'_, [u8]>> {
        let mut data: Option<Cow<'_, [u8]>> = None;
        let mut rest = &self.raw[self.mark..];
        while !rest.is_empty() {
            let end = line_end(rest).unwrap_or(rest.len());
            if let Some(value) = data_value(&rest[..end]) {
                match &mut data {
                    None => data = Some(Cow::Borrowed(value)),
                    Some(joined) => {
                        let joined = joined.to_mut();
                        joined.push(b'\n');
                        joined.extend_from_slice(value);
                    }
                }
            }
            rest = rest.get(end + 1..).unwrap_or_default();
        }
        data
    }
}

/// The value of a line when its field is `data`. The LF of a CRLF makes an empty line here, which
/// has no field.
fn data_value(line: &[u8]) -> Option<&[u8]> {
    match line.strip_prefix(b"data")? {
        [] => Some(&[]),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        [_, ..] => None,
    }
}

/// Finds blank lines, however the bytes are cut.
#[derive(Debug, Default)]
struct Lines {
    /// Whether the line under way has bytes.
    filled: bool,
    /// Whether the last byte was a carriage return: a line feed after it ends no further line.
    returned: bool,
}

impl Lines {
    /// One past the blank line that ends the event under way.
    fn event_end(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(length) = line_end(&bytes[at..]) {
            let line_feed = bytes[at + length] == b'\n';
            let second_half = line_feed && length == 0 && self.returned;
            let blank = length == 0 && !self.filled && !second_half;
            at += length + 1;
            self.filled = false;
            self.returned = !line_feed;
            if blank {
                return Some(at);
            }
        }
        if at < bytes.len() {
            self.filled = true;
            self.returned = false;
        }
        None
    }

    /// Whether the first byte is the second half of a CRLF; it is taken then.
    fn take_line_feed(&mut self, bytes: &[u8]) -> bool {
        mem::take(&mut self.returned) && bytes.first() == Some(&b'\n')
    }
}

/// The place of the first LF or CR.
fn line_end(bytes: &[u8]) -> Option<usize> {
    memchr::memchr2(b'\n', b'\r', bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Split = (Vec<u8>, Option<Vec<u8>>);

    fn split<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Split> {
        let mut splitter = Splitter::new(EVENT_BYTES_MAX);
        let mut events: Vec<Split> = Vec::new();
        for mut piece in pieces {
            while !piece.is_empty() {
                let (taken, what) = splitter.next(piece);
                match what {
                    Piece::Event(event) => {
                        events.push((event.raw.to_vec(), event.data().map(Cow::into_owned)));
                    }
                    Piece::LineFeed => events.last_mut().expect("an event before").0.push(b'\n'),
                    Piece::Partial => {}
                    Piece::Oversized(_) => panic!("not this long"),
                }
                piece = &piece[taken..];
            }
        }
        events.extend(splitter.finish().map(|event| (event.raw.to_vec(), event.data().map(Cow::into_owned))));
        events
    }

    /// The events of a stream, under every split: raw bytes and data.
    fn check(stream: &str, expected: &[(&str, Option<&str>)]) {
        let bytes = |text: &str| text.as_bytes().to_vec();
        let expected: Vec<Split> = expected.iter().map(|(raw, data)| (bytes(raw), data.map(bytes))).collect();
        let stream = stream.as_bytes();
        assert_eq!(split([stream]), expected);
        assert_eq!(split(stream.chunks(1)), expected);
        for at in 0..=stream.len() {
            let (head, tail) = stream.split_at(at);
            assert_eq!(split([head, tail]), expected, "split at {at}");
        }
    }

    #[test]
    fn every_line_end() {
        check("data: a\n\ndata:b\n\n", &[("data: a\n\n", Some("a")), ("data:b\n\n", Some("b"))]);
        check("data: a\r\rdata: b\r\r", &[("data: a\r\r", Some("a")), ("data: b\r\r", Some("b"))]);
        check(
            "data: a\r\n\r\ndata: b\r\n\r\n",
            &[("data: a\r\n\r\n", Some("a")), ("data: b\r\n\r\n", Some("b"))],
        );
        check("data: a\n\r\ndata: b\r\n\n", &[("data: a\n\r\n", Some("a")), ("data: b\r\n\n", Some("b"))]);
    }

    #[test]
    fn fields_comments_and_several_lines() {
        check(
            ": hello\nevent: x\nid: 7\nretry: 10\ndata: a\ndata\ndata:  b\ndatum: c\n\n",
            &[(
                ": hello\nevent: x\nid: 7\nretry: 10\ndata: a\ndata\ndata:  b\ndatum: c\n\n",
                Some("a\n\n b"),
            )],
        );
        check(": only a comment\n\n\n", &[(": only a comment\n\n", None), ("\n", None)]);
    }

    #[test]
    fn a_byte_order_mark_counts_at_the_start_only() {
        check(
            "\u{feff}data: a\n\n\u{feff}data: b\n\n",
            &[("\u{feff}data: a\n\n", Some("a")), ("\u{feff}data: b\n\n", None)],
        );
    }

    #[test]
    fn a_tail_without_a_blank_line() {
        check("data: a\n\ndata: b\n", &[("data: a\n\n", Some("a")), ("data: b\n", Some("b"))]);
        check("", &[]);
    }
}
