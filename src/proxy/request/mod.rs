//! Reading a request: what it asks for, and the bytes that go to the provider.
//!
//! One file for each endpoint says which fields decide about the charge and what is refused.
//! Everything stays byte for byte as the client sent it, but for `stream_options.include_usage`,
//! which is asked for when the client did not, the model's name where an upstream account calls
//! it otherwise, and the cap of the answer where the credit does not reach for more. Pure.

mod audio;
mod chat;
mod completions;
mod cut;
mod embeddings;
mod fields;
mod form;
mod images;
mod messages;
mod moderations;
mod responses;
mod values;

use crate::admit::{Demand, Work};
use crate::endpoint::Endpoint;
use crate::meter::UsageChunk;
use crate::settle::price::{ModelPrice, Tier};
use crate::usage::Unit;
use bytes::Bytes;
use fields::{Fields, Map, bad, optional, typed};
use form::Form;
use std::borrow::Cow;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::ops::Range;
use values::Values;

/// The most answers to one request, as OpenAI allows.
const CHOICES_MAX: u64 = 128;
/// Names stand in records and logs.
const MODEL_BYTES_MAX: usize = 256;
/// No model's answer is longer; a larger number is a mistake.
const OUTPUT_TOKENS_MAX: u64 = 1_000_000_000;

/// Providers cache prompts of 1024 tokens and more.
const CACHED_BYTES_MIN: usize = 4 * 1024;

/// Why a body is not a request that can be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRequest {
    /// What is wrong and what to do.
    pub message: String,
    /// Which field, if it is one.
    pub param: Option<&'static str>,
}

/// A request.
#[derive(Debug)]
pub struct Request {
    /// Where it is sold.
    pub endpoint: Endpoint,
    /// What it may cost.
    pub demand: Demand,
    /// Whether the answer is to be streamed as events, and whether its usage chunk is for the client.
    pub stream: Option<UsageChunk>,
    /// How the answer comes.
    pub comes: Comes,
    /// What requests have in common that are best served by the same account.
    pub affinity: Option<u64>,
    /// As it came.
    body: Bytes,
    /// Its prompt as a JSON object, where it came in a form.
    prompt: Option<Bytes>,
    /// Where the model's name stands in it, quotes included, or can be put.
    model: ModelPlace,
    /// What asks for the usage of a stream, if the client did not.
    usage_edit: Option<Edit>,
    /// What caps the answer at what can be paid, if that is less than was asked for.
    cut_edits: Vec<Edit>,
}

/// How an answer comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comes {
    /// As JSON.
    Json,
    /// As events.
    Events,
    /// As audio.
    Audio,
}

/// Other bytes for a place in the body.
type Edit = (Range<usize>, Vec<u8>);

#[derive(Debug)]
enum ModelPlace {
    Named(Range<usize>),
    /// In a form, where it has no quotes.
    Bare(Range<usize>),
    /// The provider's own choice is what was priced.
    Left(Range<usize>),
}

/// What an endpoint reads from a body.
struct Asked {
    demand: Demand,
    stream: Streaming,
}

/// How an answer is to come.
enum Streaming {
    /// Whole.
    Plain,
    /// As audio.
    Audio,
    /// As events. Where the client did not ask for their usage, this does.
    Events(Option<Edit>),
}

impl Request {
    /// Reads a body.
    ///
    /// # Errors
    /// When it is not a JSON object, names a field twice, or a field that decides about the charge
    /// has a wrong type or asks for what is not metered.
    pub fn read(endpoint: Endpoint, content_type: &str, body: &Bytes) -> Result<Self, BadRequest> {
        match endpoint {
            Endpoint::Chat
            | Endpoint::Responses
            | Endpoint::Messages
            | Endpoint::Completions
            | Endpoint::Embeddings
            | Endpoint::Moderations => Request::of_text(endpoint, body),
            Endpoint::ImageGenerations
            | Endpoint::ImageEdits
            | Endpoint::Speech
            | Endpoint::Transcriptions
            | Endpoint::Translations => Request::of_media(endpoint, content_type, body),
        }
    }

    /// Reads what is JSON and all about text.
    fn of_text(endpoint: Endpoint, body: &Bytes) -> Result<Self, BadRequest> {
        let fields = Fields::read(body)?;
        let asked = match endpoint {
            Endpoint::Chat => chat::read(&fields)?,
            Endpoint::Responses => responses::read(&fields)?,
            Endpoint::Messages => messages::read(&fields)?,
            Endpoint::Completions => completions::read(&fields)?,
            Endpoint::Embeddings => embeddings::read(&fields)?,
            Endpoint::Moderations => moderations::read(&fields)?,
            Endpoint::ImageGenerations
            | Endpoint::ImageEdits
            | Endpoint::Speech
            | Endpoint::Transcriptions
            | Endpoint::Translations => unreachable!("read as what it is"),
        };
        let model = fields.get("model").map(|value| fields.place(value));
        let model = model.map_or_else(|| ModelPlace::Left(fields.end()), ModelPlace::Named);
        let affinity = affinity(&fields);
        Request::of(endpoint, asked, model, affinity, body)
    }

    /// Reads what makes or reads images or audio, as JSON or as a form.
    fn of_media(endpoint: Endpoint, content_type: &str, body: &Bytes) -> Result<Self, BadRequest> {
        let values = match form::boundary(content_type)? {
            Some(boundary) => Values::Form(Form::read(body, boundary)?),
            None => Values::Json(Fields::read(body)?),
        };
        let asked = match endpoint {
            Endpoint::ImageGenerations | Endpoint::ImageEdits => images::read(endpoint, &values)?,
            Endpoint::Speech => audio::read_speech(&values)?,
            Endpoint::Transcriptions | Endpoint::Translations => audio::read_heard(endpoint, &values)?,
            Endpoint::Chat
            | Endpoint::Responses
            | Endpoint::Messages
            | Endpoint::Completions
            | Endpoint::Embeddings
            | Endpoint::Moderations => unreachable!("read as what it is"),
        };
        let place = values.place("model").expect("it was read");
        let model = match &values {
            Values::Json(_) => ModelPlace::Named(place),
            Values::Form(_) => ModelPlace::Bare(place),
        };
        let prompt = match &model {
            ModelPlace::Named(_) | ModelPlace::Left(_) => None,
            ModelPlace::Bare(_) => {
                let prompt = values.string("prompt")?.unwrap_or_default();
                Some(serde_json::json!({ "prompt": prompt }).to_string().into())
            }
        };
        Ok(Request { prompt, ..Request::of(endpoint, asked, model, None, body)? })
    }

    fn of(
        endpoint: Endpoint,
        asked: Asked,
        model: ModelPlace,
        affinity: Option<u64>,
        body: &Bytes,
    ) -> Result<Self, BadRequest> {
        let Asked { demand, stream } = asked;
        if demand.model.len() > MODEL_BYTES_MAX {
            return Err(bad("model", "no model has so long a name"));
        }
        let (comes, stream, usage_edit) = match stream {
            Streaming::Plain => (Comes::Json, None, None),
            Streaming::Audio => (Comes::Audio, None, None),
            Streaming::Events(None) => (Comes::Events, Some(UsageChunk::Show), None),
            Streaming::Events(edit) => (Comes::Events, Some(UsageChunk::Hide), edit),
        };
        let prompt = None;
        Ok(Request {
            endpoint,
            demand,
            stream,
            comes,
            affinity,
            body: body.clone(),
            prompt,
            model,
            usage_edit,
            cut_edits: Vec::new(),
        })
    }

    /// The bytes for a provider who calls the model `name`.
    pub fn body_for(&self, name: &str) -> Bytes {
        let rename = (name != &*self.demand.model).then(|| {
            let quoted = serde_json::to_string(name).expect("a name is text");
            match &self.model {
                ModelPlace::Named(place) => (place.clone(), quoted.into_bytes()),
                ModelPlace::Bare(place) => (place.clone(), name.as_bytes().to_vec()),
                ModelPlace::Left(end) => (end.clone(), format!(",\"model\":{quoted}").into_bytes()),
            }
        });
        let mut edits: Vec<&Edit> = rename.iter().chain(&self.usage_edit).chain(&self.cut_edits).collect();
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

    /// The bytes as the client sent them.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// What is counted when an answer has to be estimated: of a form, its prompt.
    pub fn countable(&self) -> Bytes {
        self.prompt.as_ref().unwrap_or(&self.body).clone()
    }

    /// Whether what was delivered up to a hang-up can be counted.
    pub fn is_countable(&self, price: &ModelPrice) -> bool {
        match self.demand.work {
            Work::Text => true,
            Work::Speech { .. } => price.sold_by == Unit::Character,
            Work::Audio { .. } | Work::Images => false,
        }
    }
}

/// What tells requests that begin alike: the key that the client says so by, or how long prompts begin.
/// Shorter ones are not kept in a provider's cache.
fn affinity(fields: &Fields<'_>) -> Option<u64> {
    let key = fields.get("prompt_cache_key").map(|key| key.get().as_bytes()).filter(|key| key[0] == b'"');
    let prompt =
        || fields.get("messages").or_else(|| fields.get("prompt"))?.get().as_bytes().get(..CACHED_BYTES_MIN);
    let common = key.or_else(prompt)?;
    Some(BuildHasherDefault::<DefaultHasher>::default().hash_one(common))
}

/// Whether and how the answer is to be streamed, where `stream_options` can ask for usage.
fn streaming(fields: &Fields<'_>) -> Result<Streaming, BadRequest> {
    if is_streamed(fields)? { Ok(Streaming::Events(usage_edit(fields)?)) } else { Ok(Streaming::Plain) }
}

fn is_streamed(fields: &Fields<'_>) -> Result<bool, BadRequest> {
    Ok(optional("stream", fields.get("stream"), "true or false")? == Some(true))
}

/// What has to change so that the provider reports the usage of a stream; nothing if the client
/// asked for that.
fn usage_edit(fields: &Fields<'_>) -> Result<Option<Edit>, BadRequest> {
    const ASK: &str = "\"include_usage\":true";
    let Some(given) = fields.get("stream_options") else {
        return Ok(Some((fields.end(), format!(",\"stream_options\":{{{ASK}}}").into_bytes())));
    };
    let options: Option<Map<'_>> = typed("stream_options", given, "an object")?;
    let options = options.unwrap_or(Map(Vec::new()));
    let asked = options.get("include_usage");
    if optional("stream_options", asked, "an object whose include_usage is true or false")? == Some(true) {
        return Ok(None);
    }
    let mut edited = format!("{{{ASK}");
    for (name, value) in options.0.iter().filter(|(name, _)| name != "include_usage") {
        let name = serde_json::to_string(name).expect("a name is text");
        edited.push_str(&format!(",{name}:{}", value.get()));
    }
    edited.push('}');
    Ok(Some((fields.place(given), edited.into_bytes())))
}

/// The service tier that is asked for.
fn tier(fields: &Fields<'_>) -> Result<Tier, BadRequest> {
    let tier: Option<Cow<'_, str>> = optional("service_tier", fields.get("service_tier"), "a string")?;
    let Some(name) = tier else { return Ok(Tier::Default) };
    // What a batch costs is for batches.
    let asked = Tier::named(&name).filter(|tier| *tier != Tier::Batch);
    asked.ok_or_else(|| bad("service_tier", "must be auto, default, flex, priority"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGES: &str = r#""messages":[{"role":"user","content":"hi"}]"#;

    fn read(text: &str) -> Result<Request, BadRequest> {
        read_for(Endpoint::Chat, text)
    }

    fn read_for(endpoint: Endpoint, text: &str) -> Result<Request, BadRequest> {
        Request::read(endpoint, "application/json", &Bytes::copy_from_slice(text.as_bytes()))
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
        assert_eq!((demand.output_tokens_max, demand.tier), (Some(9), Tier::Default));
        let flex = format!(r#"{{"model":"m",{MESSAGES},"service_tier":"flex"}}"#);
        assert_eq!(read(&flex).unwrap().demand.tier, Tier::Flex);
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
            (r#""service_tier":"ultrafast""#, "service_tier"),
            (r#""service_tier":"batch""#, "service_tier"),
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
        assert_eq!(Request::read(Endpoint::Chat, "application/json", &broken).unwrap_err().param, None);
    }

    #[test]
    fn every_continuation_of_a_completion_is_covered() {
        let choices = |fields: &str| {
            let text = format!(r#"{{"model":"m","max_tokens":7,{fields}}}"#);
            let demand = read_for(Endpoint::Completions, &text).expect(&text).demand;
            assert_eq!(demand.output_tokens_max, Some(7));
            demand.choices
        };
        assert_eq!(choices(r#""prompt":"a""#), 1);
        assert_eq!(choices(r#""prompt":[1,2,3],"n":2"#), 2);
        assert_eq!(choices(r#""prompt":["a","b"],"n":2,"best_of":5"#), 10);
        assert_eq!(choices(r#""prompt":[[1,2],[3]]"#), 2);
        for (fields, says) in [
            (r#""prompt":7"#, "must be a string"),
            (r#""prompt":["a",1]"#, "must be a string"),
            (r#""prompt":"a","Best_of":2"#, "write `best_of`"),
            (r#""messages":[]"#, "provide prompt"),
            (r#""prompt":"a","service_tier":"scale""#, "must be auto"),
        ] {
            let text = format!(r#"{{"model":"m",{fields}}}"#);
            let refused = read_for(Endpoint::Completions, &text).expect_err(&text);
            assert!(refused.message.contains(says), "{text}: {}", refused.message);
        }
        let streamed = read_for(Endpoint::Completions, r#"{"model":"m","prompt":"a","stream":true}"#);
        assert!(streamed.unwrap().body_for("m").ends_with(b"\"stream_options\":{\"include_usage\":true}}"));
    }

    #[test]
    fn what_writes_nothing_is_held_for_its_input_alone() {
        let text = r#"{"model":"e","input":["a","b"],"encoding_format":"base64"}"#;
        let request = read_for(Endpoint::Embeddings, text).unwrap();
        assert_eq!((request.demand.choices, request.stream), (0, None));
        assert_eq!(request.body_for("e"), text);
        for (text, param) in [(r#"{"input":"a"}"#, "model"), (r#"{"model":"e","input":{}}"#, "input")] {
            assert_eq!(read_for(Endpoint::Embeddings, text).unwrap_err().param, Some(param));
        }
    }

    #[test]
    fn a_moderation_need_not_name_its_model() {
        let request = read_for(Endpoint::Moderations, r#"{"input":"a"}"#).unwrap();
        assert_eq!(&*request.demand.model, moderations::MODEL_DEFAULT);
        assert_eq!(request.body_for(moderations::MODEL_DEFAULT), r#"{"input":"a"}"#);
        assert_eq!(request.body_for("mod"), r#"{"input":"a","model":"mod"}"#);
        let named = read_for(Endpoint::Moderations, r#"{"model":"x","input":[]}"#).unwrap();
        assert_eq!((&*named.demand.model, &named.body_for("y")[..12]), ("x", &br#"{"model":"y""#[..]));
    }
}
