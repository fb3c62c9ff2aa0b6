//! A request as read: what is needed to answer it and to count its tokens.
//!
//! The prompt is counted while it is read and never kept.

use super::answer::Counts;
use super::faults::{self, Directives};
use super::input::Input;
use super::media::{self, Media};
use super::refusal::Refusal;
use crate::endpoint::Endpoint;
use crate::usage::Usage;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;

/// Tokens of an answer when nothing else is asked for.
const TOKENS_DEFAULT: u64 = 16;
/// Choices of one request, as the real provider has it.
const CHOICES_MAX: u64 = 128;
/// Tokens of all choices together: bounds a plain answer to about ten megabytes.
const ANSWER_TOKENS_MAX: u64 = 1_000_000;
const TOKENS_PER_REQUEST: u64 = 3;
const TOKENS_PER_MESSAGE: u64 = 4;
const TOKENS_PER_IMAGE: u64 = 85;
const BYTES_PER_TOKEN: u64 = 4;
/// Of what a web search finds.
const TOKENS_PER_SEARCH: u64 = 1_000;
/// The type of its tool, or how that begins.
const SEARCH: &str = "web_search";

/// A valid request.
#[derive(Debug)]
pub(super) struct Request {
    pub endpoint: Endpoint,
    pub model: String,
    pub stream: bool,
    pub include_usage: bool,
    /// Or texts to embed or to judge.
    pub choices: u64,
    /// Whether vectors are asked for as base64.
    pub base64: bool,
    /// The service tier that is told: as asked for, unless directed otherwise.
    pub tier: &'static str,
    pub directives: Directives,
    /// What is asked for beside an answer.
    pub keeping: Keeping,
    /// What is objected to in the texts to judge, as they say themselves: `score(hate)=0.91`.
    pub scores: BTreeMap<String, String>,
    /// Where images or audio are asked for.
    pub media: Option<Media>,
    pub prompt_tokens: u64,
    /// Web searches that it runs.
    pub searches: u64,
    /// `max_completion_tokens`, or else `max_tokens`.
    cap: Option<u64>,
}

/// What becomes of a response beside being answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keeping {
    /// Nothing.
    Nothing,
    /// It is kept.
    Answer,
    /// It is kept, and made in the background.
    Run,
}

impl Request {
    /// Tokens of text in each choice.
    pub fn words(&self) -> u64 {
        match self.endpoint {
            Endpoint::Chat | Endpoint::Responses | Endpoint::Messages | Endpoint::Completions => {
                self.asked().min(self.cap.unwrap_or(u64::MAX))
            }
            _ => 0,
        }
    }

    /// Why a choice ends where it does.
    pub fn finish_reason(&self) -> &'static str {
        if self.words() < self.asked() { "length" } else { "stop" }
    }

    /// The usage of the whole answer. Reasoning comes on top of the text and knows no cap.
    pub fn counts(&self) -> Counts {
        let prompt_tokens = self.prompt_tokens + self.searches * TOKENS_PER_SEARCH;
        if let Some(media) = &self.media {
            return Counts { other: media.usage, ..Counts::default() };
        }
        match self.endpoint {
            Endpoint::Moderations => Counts::default(),
            Endpoint::Embeddings => Counts { prompt_tokens, ..Counts::default() },
            _ => {
                let reasoning_tokens = self.choices * self.directives.reasoning_tokens;
                Counts {
                    prompt_tokens,
                    cached_tokens: self.directives.cached_tokens,
                    completion_tokens: self.choices * self.words() + reasoning_tokens,
                    reasoning_tokens,
                    searches: self.searches,
                    other: Usage::default(),
                }
            }
        }
    }

    /// The same before it searched or wrote anything, but for one token.
    pub fn counts_begun(&self) -> Counts {
        let (prompt_tokens, cached_tokens) = (self.prompt_tokens, self.directives.cached_tokens);
        Counts { prompt_tokens, cached_tokens, completion_tokens: 1, ..Counts::default() }
    }

    fn asked(&self) -> u64 {
        self.directives.tokens.unwrap_or(TOKENS_DEFAULT)
    }
}

/// Reads and checks a request's body.
pub(super) fn read(endpoint: Endpoint, content_type: &str, body: &[u8]) -> Result<Request, Refusal> {
    match endpoint {
        Endpoint::Chat
        | Endpoint::Responses
        | Endpoint::Messages
        | Endpoint::Completions
        | Endpoint::Embeddings
        | Endpoint::Moderations => read_text(endpoint, body),
        Endpoint::ImageGenerations
        | Endpoint::ImageEdits
        | Endpoint::Speech
        | Endpoint::Transcriptions
        | Endpoint::Translations => read_media(endpoint, content_type, body),
    }
}

fn read_media(endpoint: Endpoint, content_type: &str, body: &[u8]) -> Result<Request, Refusal> {
    let asked = media::read(content_type, body)?;
    let model = asked.model.clone().ok_or_else(|| Refusal::missing("model"))?;
    let directives = Directives::read(&asked.metadata)?;
    let media = Media::to(endpoint, asked)?;
    Ok(Request {
        endpoint,
        model,
        stream: media.is_streamed(),
        include_usage: true,
        choices: 1,
        base64: false,
        tier: "default",
        directives,
        keeping: Keeping::Nothing,
        scores: BTreeMap::new(),
        media: Some(media),
        prompt_tokens: 0,
        searches: 0,
        cap: None,
    })
}

fn read_text(endpoint: Endpoint, body: &[u8]) -> Result<Request, Refusal> {
    let written: Written = serde_json::from_slice(body).map_err(|error| match error.is_data() {
        true => Refusal::wrong_type(error.line(), error.column()),
        false => Refusal::not_json(),
    })?;
    let default = (endpoint == Endpoint::Moderations).then(|| "omni-moderation-latest".to_owned());
    let model = written.model.clone().filter(|model| !model.is_empty()).or(default);
    let model = model.ok_or_else(|| Refusal::missing("model"))?;
    let (texts, prompt_tokens) = written.read_for(endpoint)?;
    let searches_max = written.searches_max();
    let stream = written.stream.unwrap_or(false);
    if written.stream_options.is_some() && !stream {
        return Err(Refusal::stray_stream_options());
    }
    let directives = Directives::read(&written.metadata.unwrap_or_default())?;
    let tier = written.service_tier.as_deref().and_then(faults::tier);
    let request = Request {
        endpoint,
        model,
        stream,
        include_usage: written.stream_options.and_then(|o| o.include_usage).unwrap_or(false),
        choices: texts.saturating_mul(written.n.unwrap_or(1).max(1)),
        base64: written.encoding_format.as_deref() == Some("base64"),
        tier: directives.tier.or(tier).unwrap_or("default"),
        searches: directives.searches.min(searches_max),
        directives,
        keeping: match (endpoint, written.background, written.store) {
            (Endpoint::Responses, Some(true), _) => Keeping::Run,
            (Endpoint::Responses, _, None | Some(true)) => Keeping::Answer,
            _ => Keeping::Nothing,
        },
        scores: if endpoint == Endpoint::Moderations { scores(body) } else { BTreeMap::new() },
        media: None,
        prompt_tokens,
        cap: written.max_output_tokens.or(written.max_completion_tokens).or(written.max_tokens),
    };
    if written.n.is_some_and(|n| n > CHOICES_MAX)
        || request.choices.saturating_mul(request.words()) > ANSWER_TOKENS_MAX
    {
        return Err(Refusal::too_many("n"));
    }
    Ok(request)
}

/// Scores that stand in the texts to judge, and in images.
fn scores(body: &[u8]) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(body);
    let images =
        text.split(";base64,").skip(1).filter_map(|rest| STANDARD.decode(rest.split('"').next()?).ok());
    let images = images.map(|image| scores_in(&String::from_utf8_lossy(&image)));
    images.flatten().chain(scores_in(&text)).collect()
}

fn scores_in(text: &str) -> Vec<(String, String)> {
    let said = text.split("score(").skip(1).filter_map(|rest| {
        let (label, rest) = rest.split_once(")=")?;
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(rest.len());
        rest[..end].parse::<f64>().is_ok().then(|| (label.to_owned(), rest[..end].to_owned()))
    });
    said.collect()
}

/// The fields that matter, as written. All others are passed over.
#[derive(Deserialize)]
struct Written {
    model: Option<String>,
    messages: Option<Vec<Message>>,
    prompt: Option<Input>,
    input: Option<Input>,
    instructions: Option<Input>,
    system: Option<Input>,
    max_output_tokens: Option<u64>,
    store: Option<bool>,
    background: Option<bool>,
    service_tier: Option<String>,
    encoding_format: Option<String>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_completion_tokens: Option<u64>,
    max_tokens: Option<u64>,
    n: Option<u64>,
    tools: Option<Vec<Tool>>,
    max_tool_calls: Option<u64>,
    metadata: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Tool {
    #[serde(rename = "type")]
    kind: Option<String>,
    max_uses: Option<u64>,
}

impl Written {
    /// How many web searches it may run.
    fn searches_max(&self) -> u64 {
        let tools = self.tools.iter().flatten();
        let search = tools.filter(|tool| tool.kind.as_ref().is_some_and(|kind| kind.starts_with(SEARCH)));
        let each = search.map(|tool| tool.max_uses.unwrap_or(u64::MAX));
        each.fold(0, u64::saturating_add).min(self.max_tool_calls.unwrap_or(u64::MAX))
    }

    /// How many texts are answered, and the tokens of what is to be read.
    fn read_for(&self, endpoint: Endpoint) -> Result<(u64, u64), Refusal> {
        let texts = |name, input: Option<Input>| {
            let input = input.ok_or_else(|| Refusal::missing(name))?;
            Ok((input.texts, input.tokens))
        };
        match endpoint {
            Endpoint::Chat | Endpoint::Messages => {
                let messages = self.messages.as_ref().ok_or_else(|| Refusal::missing("messages"))?;
                if messages.is_empty() {
                    return Err(Refusal::empty_messages());
                }
                let system = self.system.unwrap_or_default().tokens;
                Ok((1, TOKENS_PER_REQUEST + system + messages.iter().map(Message::tokens).sum::<u64>()))
            }
            Endpoint::Responses => {
                let input = self.input.ok_or_else(|| Refusal::missing("input"))?;
                Ok((1, TOKENS_PER_REQUEST + input.tokens + self.instructions.unwrap_or_default().tokens))
            }
            Endpoint::Completions => texts("prompt", self.prompt),
            _ => texts("input", self.input),
        }
    }
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

#[derive(Deserialize)]
struct Message {
    content: Option<Content>,
}

impl Message {
    fn tokens(&self) -> u64 {
        let content = self.content.as_ref();
        let (text_bytes, images) = content.map_or((0, 0), |content| (content.text_bytes, content.images));
        TOKENS_PER_MESSAGE + text_bytes.div_ceil(BYTES_PER_TOKEN) + images * TOKENS_PER_IMAGE
    }
}

/// A message's content, counted: a string, or an array of parts.
#[derive(Default)]
struct Content {
    text_bytes: u64,
    images: u64,
}

#[derive(Deserialize)]
struct Part {
    text: Option<TextBytes>,
    image_url: Option<IgnoredAny>,
}

/// A string of which only the length is kept.
struct TextBytes(u64);

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or an array of parts")
    }

    fn visit_str<E>(self, text: &str) -> Result<Content, E> {
        Ok(Content { text_bytes: bytes(text), images: 0 })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Content, A::Error> {
        let mut content = Content::default();
        while let Some(part) = parts.next_element::<Part>()? {
            content.text_bytes += part.text.map_or(0, |text| text.0);
            content.images += u64::from(part.image_url.is_some());
        }
        Ok(content)
    }
}

impl<'de> Deserialize<'de> for TextBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor)
    }
}

struct TextVisitor;

impl Visitor<'_> for TextVisitor {
    type Value = TextBytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E>(self, text: &str) -> Result<TextBytes, E> {
        Ok(TextBytes(bytes(text)))
    }
}

fn bytes(text: &str) -> u64 {
    u64::try_from(text.len()).expect("64 bits hold a length")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(body: Value, prompt: u64, completion: u64, finish: &str) {
        let request = read(Endpoint::Chat, "application/json", body.to_string().as_bytes()).unwrap();
        let counts = request.counts();
        assert_eq!((counts.prompt_tokens, counts.completion_tokens), (prompt, completion), "{body}");
        assert_eq!(request.finish_reason(), finish, "{body}");
    }

    fn refused(body: &str, expect: &str) {
        let refusal = read(Endpoint::Chat, "application/json", body.as_bytes()).unwrap_err();
        assert_eq!(refusal.status, 400, "{body}");
        assert!(refusal.body().contains(expect), "{body}: {}", refusal.body());
    }

    #[test]
    fn tokens_follow_from_the_request() {
        let hi = json!([{"role": "user", "content": "hello"}]);
        check(json!({"model": "m", "messages": hi}), 3 + 4 + 2, 16, "stop");
        check(json!({"model": "m", "messages": [{"content": null}, {"content": "é"}, {}]}), 16, 16, "stop");
        let parts = json!([{"content": [{"type": "text", "text": "12345"}, {"text": "678"},
            {"type": "image_url", "image_url": {"url": "data:"}}]}]);
        check(json!({"model": "m", "messages": parts}), 3 + 4 + 2 + 85, 16, "stop");
        check(json!({"model": "m", "messages": hi, "max_tokens": 5}), 9, 5, "length");
        check(json!({"model": "m", "messages": hi, "max_tokens": 16}), 9, 16, "stop");
        check(
            json!({"model": "m", "messages": hi, "max_tokens": 5, "max_completion_tokens": 6}),
            9,
            6,
            "length",
        );
        let tools = json!([{"type": "web_search", "max_uses": 2}, {"type": "web_search"}]);
        let metadata = json!({"simulate_searches": "7"});
        let searching = |most: Value| json!({"model": "m", "messages": hi, "metadata": metadata, "tools": tools, "max_tool_calls": most});
        check(searching(Value::Null), 9 + 7_000, 16, "stop");
        check(searching(json!(3)), 9 + 3_000, 16, "stop");
        let metadata = json!({"simulate_tokens": "40", "simulate_reasoning_tokens": "7"});
        check(json!({"model": "m", "messages": hi, "n": 3, "metadata": metadata}), 9, 3 * 47, "stop");
    }

    #[test]
    fn malformed_requests_are_refused() {
        let hi = r#""messages":[{"content":"x"}]"#;
        refused("{", "parse the JSON body");
        refused("", "parse the JSON body");
        refused("{}", r#""param":"model""#);
        refused(&format!(r#"{{"model":7,{hi}}}"#), "invalid_type");
        refused(r#"{"model":"m"}"#, r#""param":"messages""#);
        refused(r#"{"model":"m","messages":[]}"#, "empty_array");
        refused(r#"{"model":"m","messages":"hi"}"#, "invalid_type");
        refused(&format!(r#"{{"model":"m",{hi},"stream_options":{{}}}}"#), r#""param":"stream_options""#);
        refused(&format!(r#"{{"model":"m",{hi},"n":129}}"#), r#""param":"n""#);
        refused(&format!(r#"{{"model":"m",{hi},"max_tokens":-1}}"#), "invalid_type");
        refused(&format!(r#"{{"model":"m",{hi},"metadata":{{"simulate_x":"1"}}}}"#), "simulate_x");
    }
}
