//! What goes out, step by step: the events of a stream, or a whole body. Pure.

use super::answer::{Answer, Event, Opening, push_words};
use super::faults::Wire;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write;

/// The next thing to do for an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Send bytes; `content` tells of the answer's text in them.
    Send { bytes: Bytes, content: Option<Content> },
    /// Break the connection.
    Cut,
}

/// A piece of the answer's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub tokens: u64,
}

/// An answer as a sequence of steps.
pub(super) enum Script {
    Whole(Whole),
    Events(Box<Events>),
    Pieces(Pieces),
}

impl Script {
    /// The length to announce, if it is known.
    pub fn length(&self) -> Option<u64> {
        match self {
            Script::Whole(whole) => Some(whole.length),
            Script::Events(_) | Script::Pieces(_) => None,
        }
    }

    /// Whether there is no further step.
    pub fn is_over(&self) -> bool {
        match self {
            Script::Whole(whole) => whole.bytes.is_empty() && !whole.cut,
            Script::Events(events) => events.stage == Stage::Over,
            Script::Pieces(pieces) => pieces.left.as_slice().is_empty() && !pieces.cut,
        }
    }

    /// The next step.
    pub fn next(&mut self) -> Option<Step> {
        match self {
            Script::Whole(whole) => whole.next(),
            Script::Events(events) => events.next(),
            Script::Pieces(pieces) => pieces.next(),
        }
    }
}

/// A body in one piece, or the first half of it and then a cut.
pub(super) struct Whole {
    bytes: Bytes,
    length: u64,
    cut: bool,
    content: Option<Content>,
}

impl Whole {
    /// A body that is no answer.
    pub fn other(body: impl Into<Bytes>) -> Self {
        let bytes = body.into();
        let length = u64::try_from(bytes.len()).expect("64 bits hold a length");
        Whole { bytes, length, cut: false, content: None }
    }

    /// A plain answer.
    pub fn answer(answer: &Answer, wire: Wire) -> Self {
        let plain = answer.plain();
        let content = Some(Content { tokens: answer.choices * answer.words });
        let body = if wire.gzip { Gzip::new().last(&plain) } else { Bytes::from(plain) };
        Whole { content, ..Whole::other(body) }
    }

    /// Announced whole, and cut in the middle.
    pub fn cut(self) -> Self {
        let half = self.bytes.slice(..self.bytes.len() / 2);
        Whole { bytes: half, cut: true, content: None, ..self }
    }

    fn next(&mut self) -> Option<Step> {
        let bytes = std::mem::take(&mut self.bytes);
        if bytes.is_empty() {
            return std::mem::take(&mut self.cut).then_some(Step::Cut);
        }
        Some(Step::Send { bytes, content: self.content })
    }
}

/// Pieces that go out one by one, and then perhaps a cut.
pub(super) struct Pieces {
    left: std::vec::IntoIter<Bytes>,
    cut: bool,
}

impl Pieces {
    /// All of them, or as many as there are before the cut.
    pub fn new(mut pieces: Vec<Bytes>, cut_after: Option<u64>) -> Self {
        if let Some(after) = cut_after {
            pieces.truncate(usize::try_from(after).unwrap_or(usize::MAX));
        }
        Pieces { left: pieces.into_iter(), cut: cut_after.is_some() }
    }

    fn next(&mut self) -> Option<Step> {
        match self.left.next() {
            Some(bytes) => Some(Step::Send { bytes, content: Some(Content { tokens: 0 }) }),
            None => std::mem::take(&mut self.cut).then_some(Step::Cut),
        }
    }
}

/// How a stream is spread out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spread {
    /// Content chunks of each choice, if there are tokens enough.
    pub chunks: u32,
    /// Content chunks, of all choices, after which the connection breaks.
    pub cut_after: Option<u64>,
}

/// The events of a stream: what comes before the text, the text, and what comes after it.
pub(super) struct Events {
    answer: Answer,
    opening: Opening,
    chunks: u64,
    cut_after: Option<u64>,
    wire: Wire,
    gzip: Option<Gzip>,
    stage: Stage,
    /// What goes out after the text.
    last: std::vec::IntoIter<Vec<Event>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    First,
    /// Content chunks sent so far, of all choices.
    Content(u64),
    Last,
    Over,
}

impl Events {
    pub fn new(answer: Answer, opening: Opening, spread: Spread, wire: Wire) -> Self {
        let chunks = u64::from(spread.chunks.max(1)).min(answer.words);
        let mut events = Events {
            cut_after: spread.cut_after.map(|after| after.min(chunks * answer.choices)),
            chunks,
            wire,
            gzip: wire.gzip.then(Gzip::new),
            stage: Stage::First,
            last: answer.last(&opening).into_iter(),
            answer,
            opening,
        };
        if events.answer.first(&events.opening).is_empty() {
            events.stage = events.after_content(0);
        }
        events
    }

    fn next(&mut self) -> Option<Step> {
        let mut out = String::with_capacity(512);
        let mut content = None;
        match self.stage {
            Stage::First => {
                for event in self.answer.first(&self.opening) {
                    self.write(&mut out, &event);
                }
                self.stage = self.after_content(0);
            }
            Stage::Content(sent) if self.cut_after == Some(sent) => return self.cut(),
            Stage::Content(sent) => {
                content = Some(self.content(&mut out, sent));
                self.stage = self.after_content(sent + 1);
            }
            Stage::Last => {
                let group = self.last.next()?;
                if self.last.as_slice().is_empty() {
                    self.stage = Stage::Over;
                }
                for event in &group {
                    self.write(&mut out, event);
                }
            }
            Stage::Over => return None,
        }
        Some(Step::Send { bytes: self.packed(out), content })
    }

    /// What follows when so many content chunks are out. A cut comes before the finish chunk at
    /// the latest, so that it is never silently passed by.
    fn after_content(&self, sent: u64) -> Stage {
        let all = sent == self.chunks * self.answer.choices;
        if all && self.cut_after != Some(sent) { Stage::Last } else { Stage::Content(sent) }
    }

    fn cut(&mut self) -> Option<Step> {
        self.stage = Stage::Over;
        Some(Step::Cut)
    }

    /// Writes content chunk number `sent`; the choices take turns.
    fn content(&self, out: &mut String, sent: u64) -> Content {
        let part = sent / self.answer.choices;
        let words = self.answer.words * part / self.chunks..self.answer.words * (part + 1) / self.chunks;
        let tokens = words.end - words.start;
        let mut text = String::with_capacity(64);
        push_words(&mut text, words);
        self.write(out, &self.answer.content(&self.opening, sent, &text));
        Content { tokens }
    }

    fn write(&self, out: &mut String, event: &Event) {
        let end = if self.wire.crlf { "\r\n" } else { "\n" };
        if let Some(name) = event.name {
            out.extend(["event: ", name, end]);
        }
        out.extend(["data: ", &event.data, end, end]);
        if self.wire.comments && self.stage != Stage::Over {
            out.extend([": keep-alive", end, end]);
        }
    }

    fn packed(&mut self, text: String) -> Bytes {
        let last = self.stage == Stage::Over;
        match &mut self.gzip {
            None => Bytes::from(text),
            Some(gzip) if last => gzip.last(&text),
            Some(gzip) => gzip.flushed(&text),
        }
    }
}

/// Compresses in memory, where writing cannot fail.
struct Gzip(GzEncoder<Vec<u8>>);

impl Gzip {
    fn new() -> Self {
        Gzip(GzEncoder::new(Vec::new(), Compression::fast()))
    }

    /// All of `text`, so that the receiver can read it now.
    fn flushed(&mut self, text: &str) -> Bytes {
        self.0.write_all(text.as_bytes()).and_then(|()| self.0.flush()).expect("memory can be written");
        Bytes::from(std::mem::take(self.0.get_mut()))
    }

    fn last(&mut self, text: &str) -> Bytes {
        self.0.write_all(text.as_bytes()).and_then(|()| self.0.try_finish()).expect("memory can be written");
        Bytes::from(std::mem::take(self.0.get_mut()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::answer::Stamp;
    use super::super::plan::Shape;
    use super::*;
    use crate::endpoint::Endpoint;
    use flate2::read::MultiGzDecoder;
    use serde_json::Value;
    use std::io::Read;

    const SPREAD: Spread = Spread { chunks: 3, cut_after: None };

    fn events(spread: Spread, wire: Wire) -> Script {
        events_with(spread, wire, false)
    }

    fn events_with(spread: Spread, wire: Wire, include_usage: bool) -> Script {
        let answer = Answer {
            shape: Shape::OpenAi,
            endpoint: Endpoint::Chat,
            stamp: Stamp { id: 1, created: 2 },
            model: "\"m\"".to_owned(),
            choices: 2,
            words: 7,
            finish_reason: "stop",
            usage: Some("{}".to_owned()),
            begun: None,
            searches: 0,
            tool_usage: None,
            base64: false,
            tier: "default",
            scores: Default::default(),
        };
        let opening = answer.opening(include_usage).expect("a stream");
        Script::Events(Box::new(Events::new(answer, opening, spread, wire)))
    }

    fn run(mut script: Script) -> (Vec<u8>, Vec<u64>, bool) {
        let (mut bytes, mut tokens, mut cut) = (Vec::new(), Vec::new(), false);
        while let Some(step) = script.next() {
            match step {
                Step::Send { bytes: sent, content } => {
                    bytes.extend_from_slice(&sent);
                    tokens.extend(content.map(|content| content.tokens));
                }
                Step::Cut => cut = true,
            }
        }
        assert!(script.is_over());
        (bytes, tokens, cut)
    }

    fn chunks(bytes: &[u8]) -> Vec<Value> {
        let text = std::str::from_utf8(bytes).unwrap();
        let text = text.strip_suffix("data: [DONE]\n\n").expect("ends in [DONE]");
        let data = text.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap());
        data.map(|data| serde_json::from_str(data).unwrap()).collect()
    }

    fn content_of(chunks: &[Value], index: u64) -> String {
        let choices = chunks.iter().filter_map(|chunk| chunk["choices"].get(0));
        let of_index = choices.filter(|choice| choice["index"] == index);
        of_index.filter_map(|choice| choice["delta"]["content"].as_str()).collect()
    }

    #[test]
    fn a_stream_spreads_the_whole_text() {
        let (bytes, tokens, cut) = run(events(SPREAD, Wire::default()));
        let chunks = chunks(&bytes);
        assert_eq!(tokens, [2, 2, 2, 2, 3, 3]);
        assert_eq!(chunks.len(), 2 + 6 + 2);
        assert_eq!(content_of(&chunks, 1), "tok0 tok1 tok2 tok3 tok4 tok5 tok6");
        assert_eq!(content_of(&chunks, 0), content_of(&chunks, 1));
        assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));
        assert!(!cut);
    }

    #[test]
    fn usage_comes_only_when_asked_for() {
        let (bytes, ..) = run(events_with(SPREAD, Wire::default(), true));
        let chunks = chunks(&bytes);
        let (last, others) = chunks.split_last().unwrap();
        assert_eq!((&last["choices"], &last["usage"]), (&serde_json::json!([]), &serde_json::json!({})));
        assert!(others.iter().all(|chunk| chunk["usage"].is_null() && chunk.get("usage").is_some()));
    }

    #[test]
    fn a_cut_comes_after_its_chunks() {
        for (after, sent) in [(0, 0), (4, 4), (6, 6), (99, 6)] {
            let (bytes, tokens, cut) =
                run(events(Spread { cut_after: Some(after), ..SPREAD }, Wire::default()));
            assert_eq!((tokens.len(), cut), (sent, true), "{after}");
            let text = String::from_utf8(bytes).unwrap();
            assert!(!text.contains("\"stop\"") && !text.contains("[DONE]"), "{after}");
        }
    }

    #[test]
    fn lines_and_comments_are_as_asked() {
        let wire = Wire { crlf: true, comments: true, gzip: false };
        let text = String::from_utf8(run(events(SPREAD, wire)).0).unwrap();
        assert_eq!(text.matches('\n').count(), text.matches("\r\n").count());
        assert_eq!(text.matches("\r\n: keep-alive\r\n\r\n").count(), 10);
        assert!(text.ends_with("data: [DONE]\r\n\r\n"));
    }

    #[test]
    fn every_compressed_chunk_can_be_read_at_once() {
        let mut script = events(SPREAD, Wire { gzip: true, ..Wire::default() });
        let Some(Step::Send { bytes, .. }) = script.next() else { panic!("no first chunk") };
        let mut first = vec![0; 64];
        MultiGzDecoder::new(&bytes[..]).read_exact(&mut first).unwrap();
        assert!(first.starts_with(b"data: {"));
        let rest = run(script).0;
        let mut text = Vec::new();
        MultiGzDecoder::new(&[&bytes[..], &rest[..]].concat()[..]).read_to_end(&mut text).unwrap();
        assert_eq!(text, run(events(SPREAD, Wire::default())).0);
    }

    #[test]
    fn a_whole_body_can_be_cut_or_empty() {
        let mut script = Script::Whole(Whole::other("12345678").cut());
        assert_eq!(script.length(), Some(8));
        assert_eq!(script.next(), Some(Step::Send { bytes: Bytes::from("1234"), content: None }));
        assert!(!script.is_over());
        assert_eq!((script.next(), script.next()), (Some(Step::Cut), None));
        assert!(Script::Whole(Whole::other("")).is_over());
    }
}
