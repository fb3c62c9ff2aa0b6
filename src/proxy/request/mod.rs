//! Reading a request: what it asks for, and the bytes that go to the provider.
//!
//! One file for each endpoint says which fields decide about the charge and what is refused.
//! Everything stays byte for byte as the client sent it, but for `stream_options.include_usage`,
//! which is asked for when the client did not, the model's name where an upstream account calls
//! it otherwise, the number of web searches where the client set none, and the cap of the answer where the
//! credit does not reach for more. Pure.

mod audio;
pub mod batch;
mod chat;
mod completions;
mod cut;
mod embeddings;
mod fields;
pub mod file;
mod form;
mod images;
pub mod lines;
mod messages;
mod moderations;
mod responses;
mod tools;
mod values;

use crate::admit::{Demand, Work};
use crate::endpoint::Endpoint;
use crate::meter::UsageChunk;
use crate::settle::price::{ModelPrice, Tier};
use crate::usage::Unit;
use bytes::Bytes;
use fields::{Fields, Map, bad, optional, typed};
use form::Form;
pub use responses::Kept;
use std::borrow::Cow;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::ops::Range;
use values::Values;

/// The most answers to one request, as OpenAI allows.
const CHOICES_MAX: u64 = 128;
/// Names stand in records and logs.
const MODEL_BYTES_MAX: usize = 256;
/// Real ones have about 60 bytes.
const OBJECT_ID_BYTES_MAX: usize = 128;
/// No model's answer is longer; a larger number is a mistake.
const OUTPUT_TOKENS_MAX: u64 = 1_000_000_000;

/// What prompts begin with, by endpoint: the first that is long enough.
const PROMPTS: [&str; 5] = ["instructions", "system", "messages", "prompt", "input"];
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
    /// What it has to do with what its provider keeps.
    pub kept: Kept,
    /// What requests have in common that are best served by the same account.
    pub affinity: Option<u64>,
    /// As it came.
    body: Bytes,
    /// Its prompt as a JSON object, where it came in a form.
    prompt: Option<Bytes>,
    /// The files of the form.
    files: Vec<Bytes>,
    /// Where the model's name stands in it, quotes included, or can be put.
    model: ModelPlace,
    /// What asks for the usage of a stream, if the client did not.
    usage_edit: Option<Edit>,
    /// What bounds the number of web searches, where the client did not.
    search_edits: Vec<Edit>,
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

/// Whether a text may be a provider's name of something: it stands in paths and in the ledger.
pub fn is_object_id(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    (1..=OBJECT_ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain)
}

/// What an endpoint reads from a body.
struct Asked {
    demand: Demand,
    stream: Streaming,
    /// What bounds the number of web searches, where the client did not.
    search_edits: Vec<Edit>,
}

impl Asked {
    fn of(demand: Demand, stream: Streaming) -> Self {
        Asked { demand, stream, search_edits: Vec::new() }
    }
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
        let kept = match endpoint {
            Endpoint::Responses => responses::kept(&fields)?,
            _ => Kept::default(),
        };
        Ok(Request { kept, ..Request::of(endpoint, asked, model, affinity, body)? })
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
        let files = values.files().map(|part| body.slice(part.place.clone())).collect();
        Ok(Request { prompt, files, ..Request::of(endpoint, asked, model, None, body)? })
    }

    fn of(
        endpoint: Endpoint,
        asked: Asked,
        model: ModelPlace,
        affinity: Option<u64>,
        body: &Bytes,
    ) -> Result<Self, BadRequest> {
        let Asked { demand, stream, search_edits } = asked;
        if demand.model.len() > MODEL_BYTES_MAX {
            return Err(bad("model", "no model has so long a name"));
        }
        let (comes, stream, usage_edit) = match stream {
            Streaming::Plain => (Comes::Json, None, None),
            Streaming::Audio => (Comes::Audio, None, None),
            Streaming::Events(None) => (Comes::Events, Some(UsageChunk::Show), None),
            Streaming::Events(edit) => (Comes::Events, Some(UsageChunk::Hide), edit),
        };
        let (prompt, kept) = (None, Kept::default());
        Ok(Request {
            endpoint,
            demand,
            stream,
            comes,
            kept,
            affinity,
            body: body.clone(),
            prompt,
            files: Vec::new(),
            model,
            usage_edit,
            search_edits,
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
        let edits = rename.iter().chain(&self.usage_edit).chain(&self.search_edits).chain(&self.cut_edits);
        let mut edits: Vec<&Edit> = edits.collect();
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

    /// The files that came beside that.
    pub fn files(&self) -> &[Bytes] {
        &self.files
    }

    /// Whether what was delivered up to a hang-up can be counted.
    pub fn is_countable(&self, price: &ModelPrice) -> bool {
        match self.demand.work {
            // It goes on, whoever listens.
            Work::Text => !self.kept.run,
            Work::Speech { .. } => price.sold_by == Unit::Character,
            Work::Audio { .. } | Work::Images => false,
        }
    }
}

/// What tells requests that begin alike: the key that the client says so by, or how long prompts begin.
/// Shorter ones are not kept in a provider's cache.
fn affinity(fields: &Fields<'_>) -> Option<u64> {
    let key = fields.get("prompt_cache_key").map(|key| key.get().as_bytes()).filter(|key| key[0] == b'"');
    let begins = |name: &&str| fields.get(name)?.get().as_bytes().get(..CACHED_BYTES_MIN);
    let prompt = || PROMPTS.iter().find_map(begins);
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
mod tests;
