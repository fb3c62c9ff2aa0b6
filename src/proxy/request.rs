//! Reading a chat request: what it asks for, and the bytes that go to the provider.
//!
//! Everything stays byte for byte as the client sent it, but for `stream_options.include_usage`,
//! which is asked for when the client did not, and the model's name where an upstream account calls
//! it otherwise. Pure.

use crate::admit::Demand;
use crate::meter::UsageChunk;
use bytes::Bytes;
use memchr::memmem;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

/// The most answers to one request, as OpenAI allows.
const CHOICES_MAX: u64 = 128;
/// No model's answer is longer; a larger number is a mistake.
const OUTPUT_TOKENS_MAX: u64 = 1_000_000_000;
/// Far more top-level fields than any API has: each is compared with those before it.
const FIELDS_MAX: usize = 256;

/// Why a body is not a request that can be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRequest {
    /// What is wrong and what to do.
    pub message: String,
    /// Which field, if it is one.
    pub param: Option<&'static str>,
}

/// A chat request.
#[derive(Debug)]
pub struct ChatRequest {
    /// What it may cost.
    pub demand: Demand,
    /// Whether the answer is to be streamed, and whether its usage chunk is for the client.
    pub stream: Option<UsageChunk>,
    /// As it came.
    body: Bytes,
    /// Where the model's name stands in it, quotes included.
    model: Range<usize>,
    /// What asks for the usage of a stream, if the client did not.
    usage_edit: Option<Edit>,
}

/// Other bytes for a place in the body.
type Edit = (Range<usize>, Vec<u8>);

impl ChatRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// When it is not a JSON object, names a field twice, or a field that decides about the charge
    /// has a wrong type or asks for what is not metered.
    pub fn read(body: &Bytes) -> Result<Self, BadRequest> {
        let text = std::str::from_utf8(body).map_err(|_| not_json(&"it is not UTF-8"))?;
        let all: Map<'_> = serde_json::from_str(text).map_err(|why| not_json(&why))?;
        Fields::find(&all)?.request(body, text)
    }

    /// The bytes for a provider who calls the model `name`.
    pub fn body_for(&self, name: &str) -> Bytes {
        let rename = (name != &*self.demand.model).then(|| {
            let name = serde_json::to_string(name).expect("a name is text");
            (self.model.clone(), name.into_bytes())
        });
        let mut edits: Vec<&Edit> = rename.iter().chain(&self.usage_edit).collect();
        if edits.is_empty() {
            return self.body.clone();
        }
        edits.sort_unstable_by_key(|(place, _)| place.start);
        let mut body = Vec::with_capacity(self.body.len() + 64);
        let mut from = 0;
        for (place, bytes) in edits {
            body.extend_from_slice(&self.body[from..place.start]);
            body.extend_from_slice(bytes);
            from = place.end;
        }
        body.extend_from_slice(&self.body[from..]);
        body.into()
    }

    /// The bytes as the client sent them: what is counted when an answer has to be estimated.
    pub fn body(&self) -> &Bytes {
        &self.body
    }
}

/// The fields that matter, as they stand in the text.
#[derive(Default)]
struct Fields<'a> {
    model: Option<&'a RawValue>,
    messages: Option<&'a RawValue>,
    stream: Option<&'a RawValue>,
    stream_options: Option<&'a RawValue>,
    max_tokens: Option<&'a RawValue>,
    max_completion_tokens: Option<&'a RawValue>,
    n: Option<&'a RawValue>,
    service_tier: Option<&'a RawValue>,
    modalities: Option<&'a RawValue>,
    audio: Option<&'a RawValue>,
    web_search_options: Option<&'a RawValue>,
}

impl<'a> Fields<'a> {
    fn find(Map(all): &Map<'a>) -> Result<Self, BadRequest> {
        let mut fields = Fields::default();
        for (name, value) in all {
            match &**name {
                "model" => fields.model = Some(value),
                "messages" => fields.messages = Some(value),
                "stream" => fields.stream = Some(value),
                "stream_options" => fields.stream_options = Some(value),
                "max_tokens" => fields.max_tokens = Some(value),
                "max_completion_tokens" => fields.max_completion_tokens = Some(value),
                "n" => fields.n = Some(value),
                "service_tier" => fields.service_tier = Some(value),
                "modalities" => fields.modalities = Some(value),
                "audio" => fields.audio = Some(value),
                "web_search_options" => fields.web_search_options = Some(value),
                other => check_other(other)?,
            }
        }
        Ok(fields)
    }
}

/// Fields that decide about the charge, which some providers also take in other letters.
const METERED: [&str; 11] = [
    "model",
    "messages",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "n",
    "service_tier",
    "modalities",
    "audio",
    "web_search_options",
];
/// Fields by which some providers sell something else than the model at its price, or send the
/// request elsewhere.
const NOT_SOLD: [&str; 11] = [
    "models",
    "fallbacks",
    "route",
    "provider",
    "plugins",
    "transforms",
    "search_parameters",
    "api_base",
    "base_url",
    "api_key",
    "custom_llm_provider",
];

/// Lets any other field pass, unless it would change what is bought.
fn check_other(name: &str) -> Result<(), BadRequest> {
    if let Some(meant) = METERED.into_iter().find(|metered| metered.eq_ignore_ascii_case(name)) {
        return Err(not_json(&format_args!("`{name}` is not a field: write `{meant}`")));
    }
    if NOT_SOLD.into_iter().any(|other| other.eq_ignore_ascii_case(name)) {
        return Err(not_json(&format_args!("`{name}` is not sold by this gateway: leave it out")));
    }
    Ok(())
}

#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl Fields<'_> {
    fn request(&self, body: &Bytes, text: &str) -> Result<ChatRequest, BadRequest> {
        let model_text = self.model.ok_or_else(|| bad("model", "you must provide a model"))?;
        let model: Cow<'_, str> = typed("model", model_text, "a string")?;
        let messages = self.messages.ok_or_else(|| bad("messages", "you must provide messages"))?;
        if !messages.get().starts_with('[') {
            return Err(wrong_type("messages", "an array"));
        }
        self.refuse_unmetered()?;
        let caps = [
            whole("max_completion_tokens", self.max_completion_tokens, OUTPUT_TOKENS_MAX)?,
            whole("max_tokens", self.max_tokens, OUTPUT_TOKENS_MAX)?,
        ];
        let demand = Demand {
            model: model.into(),
            input_bytes: u64::try_from(body.len()).expect("usize fits"),
            images: count_images(messages)?,
            // Providers differ in which of two counts.
            output_tokens_max: caps.into_iter().flatten().max(),
            choices: whole("n", self.n, CHOICES_MAX)?.unwrap_or(1),
        };
        let streamed = optional("stream", self.stream, "true or false")?.unwrap_or(false);
        let usage_edit = if streamed { self.usage_edit(text)? } else { None };
        let usage_chunk = if usage_edit.is_some() { UsageChunk::Hide } else { UsageChunk::Show };
        Ok(ChatRequest {
            demand,
            stream: streamed.then_some(usage_chunk),
            body: body.clone(),
            model: place(text, model_text),
            usage_edit,
        })
    }

    /// What has to change so that the provider reports the usage of a stream; nothing if the client
    /// asked for that.
    fn usage_edit(&self, text: &str) -> Result<Option<Edit>, BadRequest> {
        const ASK: &str = "\"include_usage\":true";
        let Some(given) = self.stream_options else {
            let end = text.rfind('}').expect("a JSON object ends");
            return Ok(Some((end..end, format!(",\"stream_options\":{{{ASK}}}").into_bytes())));
        };
        let options: Option<Map<'_>> = typed("stream_options", given, "an object")?;
        let fields = options.map_or_else(Vec::new, |Map(fields)| fields);
        let asked = fields.iter().find(|(name, _)| name == "include_usage").map(|(_, value)| *value);
        if optional("stream_options", asked, "an object whose include_usage is true or false")? == Some(true)
        {
            return Ok(None);
        }
        let mut edited = format!("{{{ASK}");
        for (name, value) in fields.iter().filter(|(name, _)| name != "include_usage") {
            let name = serde_json::to_string(name).expect("a name is text");
            edited.push_str(&format!(",{name}:{}", value.get()));
        }
        edited.push('}');
        Ok(Some((place(text, given), edited.into_bytes())))
    }

    /// What would be billed by the provider in a way that is not measured here is refused.
    fn refuse_unmetered(&self) -> Result<(), BadRequest> {
        let tier: Option<Cow<'_, str>> = optional("service_tier", self.service_tier, "a string")?;
        if tier.as_deref().is_some_and(|tier| !matches!(tier, "auto" | "default")) {
            return Err(bad("service_tier", "this gateway sells the default service tier only"));
        }
        let spoken = self.modalities.is_some_and(|m| memmem::find(m.get().as_bytes(), b"audio").is_some());
        if spoken || self.audio.is_some_and(|audio| audio.get() != "null") {
            return Err(bad("audio", "audio output is not sold by this gateway: leave it out"));
        }
        if self.web_search_options.is_some_and(|options| options.get() != "null") {
            return Err(bad("web_search_options", "web search is not sold by this gateway: leave it out"));
        }
        Ok(())
    }
}

/// A JSON object in order, as it stands in the text.
struct Map<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> serde::Deserialize<'de> for Map<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MapVisitor<'a>(PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for MapVisitor<'a> {
            type Value = Map<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Map<'a>, M::Error> {
                let mut fields: Vec<(Cow<'a, str>, _)> = Vec::with_capacity(16);
                while let Some(Name(name)) = map.next_key()? {
                    // Which of two counts differs between parsers, and some take `N` for `n`: that
                    // would be a way around the meter.
                    if fields.iter().any(|(before, _)| before.eq_ignore_ascii_case(&name)) {
                        return Err(de::Error::custom(format_args!("the field `{name}` stands twice")));
                    }
                    if fields.len() == FIELDS_MAX {
                        return Err(de::Error::custom("it has too many fields"));
                    }
                    fields.push((name, map.next_value()?));
                }
                Ok(Map(fields))
            }
        }
        deserializer.deserialize_map(MapVisitor(PhantomData))
    }
}

/// Images that messages give or refer to. Parts that are billed in a way that is not measured here
/// are refused.
fn count_images(messages: &RawValue) -> Result<u64, BadRequest> {
    let text = messages.get().as_bytes();
    if PART_MARKS.iter().all(|mark| memmem::find(text, mark).is_none()) {
        return Ok(0);
    }
    let messages: Vec<Message<'_>> = typed("messages", messages, "an array of messages")?;
    let mut images = 0;
    for content in messages.into_iter().filter_map(|message| message.content) {
        if !content.get().starts_with('[') {
            continue;
        }
        let parts: Vec<Part<'_>> = typed("messages", content, "an array of messages with content parts")?;
        for part in parts {
            let is = |kind: &str| part.kind.as_deref() == Some(kind);
            if part.file.is_some() || part.input_audio.is_some() || is("file") || is("input_audio") {
                return Err(bad("messages", "files and audio are not sold by this gateway: leave them out"));
            }
            images += u64::from(part.image_url.is_some() || is("image_url"));
        }
    }
    Ok(images)
}

/// Without any of these there is only text; an escape may hide one.
const PART_MARKS: [&[u8]; 4] = [b"\"image_url\"", b"\"file\"", b"\"input_audio\"", b"\\u00"];

#[derive(serde::Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
}

#[derive(serde::Deserialize)]
struct Part<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Option<Cow<'a, str>>,
    image_url: Option<IgnoredAny>,
    file: Option<IgnoredAny>,
    input_audio: Option<IgnoredAny>,
}

/// Where `part`, which borrows from `text`, stands in it.
fn place(text: &str, part: &RawValue) -> Range<usize> {
    let start = part.get().as_ptr().addr() - text.as_ptr().addr();
    start..start + part.get().len()
}

fn typed<'a, T: serde::Deserialize<'a>>(
    name: &'static str,
    value: &'a RawValue,
    expected: &str,
) -> Result<T, BadRequest> {
    serde_json::from_str(value.get()).map_err(|_| wrong_type(name, expected))
}

/// A field that may be absent or null.
fn optional<'a, T: serde::Deserialize<'a>>(
    name: &'static str,
    value: Option<&'a RawValue>,
    expected: &str,
) -> Result<Option<T>, BadRequest> {
    value.map_or(Ok(None), |value| typed(name, value, expected))
}

/// A whole number from 1 to `max`; `1e3` and `1.0` are none.
fn whole(name: &'static str, value: Option<&RawValue>, max: u64) -> Result<Option<u64>, BadRequest> {
    let number: Option<u64> = optional(name, value, "a whole number")?;
    match number {
        Some(number) if !(1..=max).contains(&number) => Err(bad(name, &format!("must be from 1 to {max}"))),
        fits => Ok(fits),
    }
}

fn bad(name: &'static str, message: &str) -> BadRequest {
    BadRequest { message: format!("{name}: {message}"), param: Some(name) }
}

fn wrong_type(name: &'static str, expected: &str) -> BadRequest {
    bad(name, &format!("must be {expected}"))
}

fn not_json(why: &dyn fmt::Display) -> BadRequest {
    BadRequest { message: format!("the body of the request is not what can be served: {why}"), param: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGES: &str = r#""messages":[{"role":"user","content":"hi"}]"#;

    fn read(text: &str) -> Result<ChatRequest, BadRequest> {
        ChatRequest::read(&Bytes::copy_from_slice(text.as_bytes()))
    }

    /// What goes to a provider who calls the model `name`.
    fn check(text: &str, name: &str, expect: &str) {
        assert_eq!(read(text).unwrap().body_for(name), expect, "{text}");
    }

    #[test]
    fn a_body_passes_unchanged_unless_it_must_not() {
        let plain = format!(r#" {{ "model" : "m", {MESSAGES}, "seed":1.50 }} "#);
        check(&plain, "m", &plain);
        check(&plain, "there", &plain.replace(r#""m""#, r#""there""#));
        let asked =
            format!(r#"{{"stream":true,"stream_options":{{"include_usage":true}},"model":"m",{MESSAGES}}}"#);
        check(&asked, "m", &asked);
    }

    #[test]
    fn the_usage_of_a_stream_is_always_asked_for() {
        let with = |options: &str| format!(r#"{{"model":"m","stream":true{options},{MESSAGES}}}"#);
        let absent = format!(r#"{{"model":"m","stream":true,{MESSAGES}}}"#);
        let end = r#","stream_options":{"include_usage":true}}"#;
        check(&absent, "m", &format!("{}{end}", &absent[..absent.len() - 1]));
        check(
            &absent,
            "other",
            &format!("{}{end}", &absent[..absent.len() - 1]).replace(r#""m""#, r#""other""#),
        );
        for off in ["null", "{}", r#"{"include_usage":false}"#, r#"{ "include_usage" : null }"#] {
            let text = with(&format!(r#","stream_options":{off}"#));
            check(&text, "m", &with(r#","stream_options":{"include_usage":true}"#));
        }
        let kept = with(r#","stream_options":{"include_obfuscation":false,"include_usage":false}"#);
        check(&kept, "m", &with(r#","stream_options":{"include_usage":true,"include_obfuscation":false}"#));
        assert_eq!(read(&kept).unwrap().stream, Some(UsageChunk::Hide));
        assert_eq!(read(&format!(r#"{{"model":"m",{MESSAGES}}}"#)).unwrap().stream, None);
    }

    #[test]
    fn the_demand_is_what_decides_about_the_cost() {
        let text = r#"{"model":"m\u0021","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"u"}}]}],"n":3,"max_tokens":9,"max_completion_tokens":7}"#;
        let demand = read(text).unwrap().demand;
        assert_eq!((&*demand.model, demand.images, demand.choices), ("m!", 1, 3));
        assert_eq!(demand.output_tokens_max, Some(9));
        assert_eq!(demand.input_bytes, u64::try_from(text.len()).unwrap());
    }

    #[test]
    fn images_are_counted_however_they_are_written() {
        let images = |parts: &str| {
            let text = format!(r#"{{"model":"m","messages":[{{"role":"user","content":{parts}}}]}}"#);
            read(&text).unwrap().demand.images
        };
        assert_eq!(images(r#""say \"image_url\" and \"file\"""#), 0);
        assert_eq!(images(r#"[{"type":"text","text":"image_url"}]"#), 0);
        assert_eq!(images(r#"[{"type":"image_url","image_url":{"url":"u"}}]"#), 1);
        assert_eq!(
            images(r#"[{"type":"image\u005furl","image\u005furl":{"url":"u"}},{"image_url":"v"}]"#),
            2
        );
    }

    fn check_refused(text: &str, param: Option<&str>, says: &str) {
        let refused = read(text).expect_err(text);
        assert_eq!(refused.param, param, "{text}: {}", refused.message);
        assert!(refused.message.contains(says), "{text}: {}", refused.message);
    }

    #[test]
    fn what_cannot_be_served_is_told() {
        check_refused("", None, "EOF");
        check_refused("[]", None, "a JSON object");
        check_refused("{\"model\":\"m\"", None, "EOF");
        check_refused("{} {}", None, "trailing");
        check_refused("{}", Some("model"), "provide");
        check_refused(r#"{"model":"m"}"#, Some("messages"), "provide");
        check_refused(r#"{"model":"m","messages":{}}"#, Some("messages"), "an array");
        check_refused(&format!(r#"{{"model":"m",{MESSAGES},"model":"n"}}"#), None, "`model` stands twice");
        check_refused(
            &format!(r#"{{"model":"m",{MESSAGES},"mod\u0065l":"n"}}"#),
            None,
            "`model` stands twice",
        );
        for (field, param) in [
            (r#""model":1"#, "model"),
            (r#""stream":"yes""#, "stream"),
            (r#""stream":true,"stream_options":[]"#, "stream_options"),
            (r#""stream":true,"stream_options":{"include_usage":1}"#, "stream_options"),
            (
                r#""stream":true,"stream_options":{"include_usage":true,"include_usage":false}"#,
                "stream_options",
            ),
            (r#""max_tokens":1e3"#, "max_tokens"),
            (r#""max_tokens":1.0"#, "max_tokens"),
            (r#""max_tokens":0"#, "max_tokens"),
            (r#""max_completion_tokens":-1"#, "max_completion_tokens"),
            (r#""max_tokens":"9""#, "max_tokens"),
            (r#""n":129"#, "n"),
            (r#""service_tier":"priority""#, "service_tier"),
            (r#""modalities":["text","audio"]"#, "audio"),
            (r#""web_search_options":{}"#, "web_search_options"),
        ] {
            let model = if param == "model" { "" } else { r#""model":"m","# };
            check_refused(&format!("{{{model}{MESSAGES},{field}}}"), Some(param), param);
        }
        for (field, says) in [(r#""N":3"#, "write `n`"), (r#""models":["dear"]"#, "not sold")] {
            check_refused(&format!(r#"{{"model":"m",{MESSAGES},{field}}}"#), None, says);
        }
        for part in [r#"{"type":"file","file":{}}"#, r#"{"type":"input\u005faudio","input_audio":{}}"#] {
            let text = format!(r#"{{"model":"m","messages":[{{"role":"user","content":[{part}]}}]}}"#);
            check_refused(&text, Some("messages"), "not sold");
        }
        let broken = Bytes::from_static(b"{\"model\":\"\xff\"}");
        assert_eq!(ChatRequest::read(&broken).unwrap_err().param, None);
    }
}
