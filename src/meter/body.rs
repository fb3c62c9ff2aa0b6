//! The meter of a plain answer, which the proxy holds back whole.

use super::dialect::{Unreadable, is_cut, quick};
use super::reading::{Oddities, Reading, Shape, Tally};
use crate::endpoint::Endpoint;
use bytes::Bytes;
use std::fmt;

/// The longest plain answer, in bytes. One with a dozen images as base64 fits; it is held in memory
/// until its charge is durable.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Gathers a plain JSON answer and reads it at the end.
#[derive(Debug)]
pub struct BodyMeter {
    endpoint: Endpoint,
    body: Vec<u8>,
    text: Text,
}

/// Whether what was delivered is read beside a usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Text {
    /// It is.
    Wanted,
    /// Only where it may have to be counted.
    IfNeeded,
}

/// The answer is longer than [`ANSWER_BYTES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerTooLarge;

impl fmt::Display for AnswerTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the answer is longer than {ANSWER_BYTES_MAX} bytes")
    }
}

impl std::error::Error for AnswerTooLarge {}

impl BodyMeter {
    /// A meter of an answer of which nothing came yet.
    pub const fn new(endpoint: Endpoint) -> Self {
        BodyMeter { endpoint, body: Vec::new(), text: Text::IfNeeded }
    }

    /// The same, which reads what was delivered also where its usage was reported.
    pub const fn of_text(endpoint: Endpoint) -> Self {
        BodyMeter { endpoint, body: Vec::new(), text: Text::Wanted }
    }

    /// Appends a piece.
    ///
    /// # Errors
    /// When the answer would exceed [`ANSWER_BYTES_MAX`]; the piece is not appended then.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), AnswerTooLarge> {
        if self.body.len() + piece.len() > ANSWER_BYTES_MAX {
            return Err(AnswerTooLarge);
        }
        self.body.extend_from_slice(piece);
        Ok(())
    }

    /// The answer, byte for byte, and what it says.
    ///
    /// Its shape is [`Shape::Complete`] or [`Shape::Failed`] for a JSON object, [`Shape::Cut`] for the
    /// beginning of one or nothing at all, and otherwise [`Shape::Garbage`].
    ///
    /// What was delivered is only read where it may have to be counted: not beside a usage, unless that is wanted.
    pub fn end(self) -> (Bytes, Reading) {
        // Of images, their number may be what is charged.
        let images = matches!(self.endpoint, Endpoint::ImageGenerations | Endpoint::ImageEdits);
        let object = if self.endpoint == Endpoint::Responses { quick::id(&self.body) } else { None };
        // Of a response, what it is called is told as well, and what it searched.
        let more =
            self.endpoint == Endpoint::Responses && (object.is_none() || quick::may_search(&self.body));
        let read = images || more || self.text == Text::Wanted;
        let quick = if read { None } else { quick::plain_usage(&self.body) };
        let of = |(usage, tier)| Reading::of_usage(self.endpoint, usage, tier, object);
        if let Some(reading) = quick.and_then(of) {
            return (Bytes::from(self.body), reading);
        }
        let mut tally = Tally::default();
        let mut oddities = Oddities::default();
        let shape = match tally.add(self.endpoint, &self.body) {
            Ok(_) if tally.failed => Shape::Failed,
            Ok(_) => Shape::Complete,
            Err(Unreadable) => {
                oddities.unparsed = 1;
                if is_cut(&self.body) { Shape::Cut } else { Shape::Garbage }
            }
        };
        (Bytes::from(self.body), tally.into_reading(self.endpoint, shape, oddities))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, expected: Shape) {
        let mut meter = BodyMeter::new(Endpoint::Chat);
        for byte in body.as_bytes().chunks(1) {
            meter.feed(byte).expect("fits");
        }
        let (bytes, reading) = meter.end();
        assert_eq!(bytes, body.as_bytes());
        assert_eq!(reading.shape, expected, "{body}");
    }

    #[test]
    fn shapes() {
        check("{}", Shape::Complete);
        check(" {\"choices\":null,\"usage\":null,\"error\":null} \n", Shape::Complete);
        check("{\"error\":{\"message\":\"no\"}}", Shape::Failed);
        check("{\"object\":\"error\",\"message\":\"no\"}", Shape::Failed);
        check("", Shape::Cut);
        check("{\"choices\":[{\"message\":{\"content\":\"hel", Shape::Cut);
        check("[]", Shape::Garbage);
        check("<html>", Shape::Garbage);
        check("{\"choices\":17}", Shape::Garbage);
        check("{} {}", Shape::Garbage);
    }

    #[test]
    fn bounded() {
        let mut meter = BodyMeter::new(Endpoint::Chat);
        let piece = vec![b' '; ANSWER_BYTES_MAX / 2];
        assert_eq!(meter.feed(&piece), Ok(()));
        assert_eq!(meter.feed(&piece), Ok(()));
        assert_eq!(meter.feed(b" "), Err(AnswerTooLarge));
    }
}
