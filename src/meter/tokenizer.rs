//! Counting tokens where the provider did not.
//!
//! Everything here is an estimate. The formula for messages is known to be exact for two models of
//! 2023 and text only; what tools, schemas, images, files and audio cost is not documented, and
//! reasoning that is not shown cannot be counted at all.
//!
//! The calls block: the first use of a vocabulary takes 0.6 s and 46 MB, and counting runs at 3 to
//! 11 MB/s. Callers run them off the request threads; [`TEXT_BYTES_MAX`] bounds the work of each.

use super::dialect::{Text, ToolCall};
use super::reading::{self, Delivered};
use crate::settle::price::Encoding;
use crate::usage::Usage;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::HashSet;
use tiktoken_rs::{CoreBPE, cl100k_base_singleton, o200k_base_singleton};

/// The most text that one call runs through a tokenizer, in bytes: a fraction of a second. What goes
/// beyond is counted as [`BYTES_PER_TOKEN`].
pub const TEXT_BYTES_MAX: usize = 512 * 1024;

/// Bytes for which a token is assumed where text is not tokenized. English prose has 4 to 5.
pub const BYTES_PER_TOKEN: u64 = 4;

/// Tokens around each message.
const PER_MESSAGE: u64 = 3;
/// Tokens of a name besides its text.
const PER_NAME: u64 = 1;
/// Tokens that begin the answer.
const PRIMING: u64 = 3;
/// Tokens of an image: the base price of the tile models, which is all that is known without its size.
const PER_IMAGE: u64 = 85;

/// Builds a vocabulary, so that later calls do not wait for it.
pub fn warm(encoding: Encoding) {
    vocabulary(encoding);
}

/// Tokens of a text. The text of special tokens such as `<|endoftext|>` is ordinary text.
///
/// Text above [`TEXT_BYTES_MAX`], and such as the tokenizer gives up on (very long whitespace), counts
/// a token for each [`BYTES_PER_TOKEN`], rounded up.
pub fn count(encoding: Encoding, text: &str) -> u64 {
    Budget::new(encoding).count(text)
}

/// Input tokens of a request (its JSON body): an estimate.
///
/// Of a chat: 3 for each message, 1 for each name, 3 for the beginning of the answer, 85 for each
/// image, and the tokens of each text: roles, names, contents, names and arguments of tool calls, and
/// `tools` and `response_format` as written. Of other requests, the tokens of `prompt`,
/// `instructions`, `system` and `input`. A body that cannot be read counts by its bytes.
pub fn count_input(encoding: Encoding, request_body: &[u8]) -> u64 {
    match serde_json::from_slice::<Request<'_>>(request_body) {
        Ok(request) => request.count(&mut Budget::new(encoding)),
        Err(_) => by_bytes(reading::count(request_body.len())),
    }
}

/// Tokens of delivered text.
pub fn count_delivered(encoding: Encoding, delivered: &Delivered) -> u64 {
    if reading::count(delivered.text.len()) == delivered.bytes {
        count(encoding, &delivered.text)
    } else {
        by_bytes(delivered.bytes)
    }
}

/// Tokens of delivered text, counted as it comes: what was counted is not counted again.
#[derive(Clone, Copy, Debug, Default)]
pub struct SoFar {
    bytes: u64,
    tokens: u64,
}

impl SoFar {
    /// The text that was delivered since.
    pub fn rest(self, delivered: &Delivered) -> Delivered {
        let whole = reading::count(delivered.text.len()) == delivered.bytes;
        let from = usize::try_from(self.bytes).ok().filter(|_| whole);
        let text = from.and_then(|from| delivered.text.get(from..)).unwrap_or_default();
        let bytes = delivered.bytes.saturating_sub(self.bytes);
        Delivered { text: text.to_owned(), bytes, ..Delivered::default() }
    }

    /// With that counted, too.
    #[must_use]
    pub fn with(self, encoding: Encoding, rest: &Delivered) -> Self {
        let tokens = self.tokens + count_delivered(encoding, rest);
        SoFar { bytes: self.bytes + rest.bytes, tokens }
    }

    /// How many there are.
    pub const fn tokens(self) -> u64 {
        self.tokens
    }
}

/// The usage of a request for which none was reported: input and output as counted, the output
/// without telling reasoning apart. Whether anything is owed at all is for the caller to know.
pub fn estimate(encoding: Encoding, request_body: &[u8], delivered: &Delivered) -> Usage {
    Usage {
        input: count_input(encoding, request_body),
        output: count_delivered(encoding, delivered),
        ..Usage::default()
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Request<'a> {
    #[serde(borrow)]
    messages: Option<Vec<Message<'a>>>,
    #[serde(borrow)]
    prompt: Text<'a>,
    #[serde(borrow)]
    input: Text<'a>,
    #[serde(borrow)]
    instructions: Text<'a>,
    #[serde(borrow)]
    system: Text<'a>,
    #[serde(borrow)]
    tools: Option<&'a RawValue>,
    #[serde(borrow)]
    response_format: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Message<'a> {
    #[serde(borrow)]
    role: Text<'a>,
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    content: Text<'a>,
    #[serde(borrow)]
    refusal: Text<'a>,
    #[serde(borrow)]
    tool_calls: Option<Vec<ToolCall<'a>>>,
}

impl Request<'_> {
    fn count(&self, budget: &mut Budget) -> u64 {
        let messages = self.messages.as_ref().map_or(0, |messages| {
            PRIMING + messages.iter().map(|message| message.count(budget)).sum::<u64>()
        });
        let texts = [&self.prompt, &self.instructions, &self.system, &self.input];
        let texts: u64 = texts
            .map(|text| budget.count(&text.text) + text.numbers + PER_IMAGE * text.images)
            .into_iter()
            .sum();
        let schemas = self.tools.iter().chain(&self.response_format);
        let schemas: u64 = schemas.map(|raw| budget.count(raw.get())).sum();
        messages + texts + schemas
    }
}

impl Message<'_> {
    fn count(&self, budget: &mut Budget) -> u64 {
        let texts = [&self.role, &self.name, &self.content, &self.refusal];
        let mut tokens = PER_MESSAGE + texts.iter().map(|text| budget.count(&text.text)).sum::<u64>();
        if !self.name.text.is_empty() {
            tokens += PER_NAME;
        }
        for call in self.tool_calls.iter().flatten() {
            call.each_text(|text| tokens += budget.count(text));
        }
        tokens + PER_IMAGE * self.content.images
    }
}

/// Counts texts up to a bound on all of them together.
struct Budget {
    encoding: Encoding,
    bytes_left: usize,
}

impl Budget {
    const fn new(encoding: Encoding) -> Self {
        Budget { encoding, bytes_left: TEXT_BYTES_MAX }
    }

    fn count(&mut self, text: &str) -> u64 {
        if text.is_empty() {
            return 0;
        }
        let Some(bytes_left) = self.bytes_left.checked_sub(text.len()) else {
            return by_bytes(reading::count(text.len()));
        };
        self.bytes_left = bytes_left;
        // Not `encode_ordinary`, which panics where this gives an error.
        match vocabulary(self.encoding).encode(text, &HashSet::new()) {
            Ok((tokens, _)) => reading::count(tokens.len()),
            Err(_) => by_bytes(reading::count(text.len())),
        }
    }
}

fn vocabulary(encoding: Encoding) -> &'static CoreBPE {
    match encoding {
        Encoding::O200kBase => o200k_base_singleton(),
        Encoding::Cl100kBase => cl100k_base_singleton(),
    }
}

const fn by_bytes(bytes: u64) -> u64 {
    bytes.div_ceil(BYTES_PER_TOKEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Encoding; 2] = [Encoding::O200kBase, Encoding::Cl100kBase];

    fn check(text: &str, expected: u64) {
        for encoding in BOTH {
            assert_eq!(count(encoding, text), expected, "{text} in {}", encoding.name());
        }
    }

    #[test]
    fn known_counts() {
        BOTH.into_iter().for_each(warm);
        check("", 0);
        check("hello world", 2);
        check("The quick brown fox jumps over the lazy dog.", 10);
    }

    #[test]
    fn special_tokens_are_ordinary_text() {
        for encoding in BOTH {
            assert!(count(encoding, &"<|endoftext|>".repeat(50)) > 300);
        }
    }

    #[test]
    fn hostile_text_is_counted_and_soon() {
        check(&" ".repeat(1_000_000), 250_000);
        for text in [" ", "a", "ä", "\n", "<|endoftext|>", "\u{1f600}", "9"] {
            let text = text.repeat(TEXT_BYTES_MAX / text.len());
            let tokens = count(Encoding::O200kBase, &text);
            assert!(tokens > 0 && tokens <= reading::count(text.len()));
        }
    }

    fn check_messages(body: &str, expected: u64) {
        assert_eq!(count_input(Encoding::O200kBase, body.as_bytes()), expected, "{body}");
    }

    #[test]
    fn messages() {
        check_messages(r#"{"messages":[]}"#, 3);
        check_messages(r#"{"messages":[{"role":"user","content":"hello world"}]}"#, 3 + 3 + 1 + 2);
        check_messages(
            r#"{"messages":[{"role":"user","name":"hello","content":[{"type":"text","text":"hello world"},
                {"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]}]}"#,
            3 + 3 + 1 + (1 + 1) + 2 + 85,
        );
        check_messages(
            r#"{"messages":[{"role":"user","content":null,"tool_calls":[{"id":"call_1","type":"function",
                "function":{"name":"hello","arguments":"hello world"}}]}],"tools":null}"#,
            3 + 3 + 1 + 1 + 2,
        );
        check_messages(r#"{"messages":[],"response_format":{}}"#, 3 + 1);
        check_messages("not json", 2);
    }

    #[test]
    fn many_texts_share_one_bound() {
        let text = "hello world ".repeat(TEXT_BYTES_MAX / 12);
        let message = format!(r#"{{"role":"user","content":"{text}"}}"#);
        let body = format!(r#"{{"messages":[{}]}}"#, [message.as_str(); 8].join(","));
        let bytes = reading::count(text.len());
        assert!(count_input(Encoding::O200kBase, body.as_bytes()) > 7 * bytes / BYTES_PER_TOKEN);
    }

    #[test]
    fn nothing_delivered_is_nothing_used() {
        let body = br#"{"messages":[{"role":"user","content":"hello world"}]}"#;
        let nothing = estimate(Encoding::O200kBase, body, &Delivered::default());
        assert_eq!((nothing.input, nothing.output), (count_input(Encoding::O200kBase, body), 0));
        let delivered =
            Delivered { text: "hello world".into(), bytes: 11, events: 2, ..Delivered::default() };
        let expected = Usage { input: 9, output: 2, ..Usage::default() };
        assert_eq!(estimate(Encoding::O200kBase, body, &delivered), expected);
        let long = Delivered { text: String::new(), bytes: 1_000_001, events: 9, ..Delivered::default() };
        assert_eq!(estimate(Encoding::O200kBase, body, &long).output, 250_001);
    }
}
