//! What answers look like: one file a dialect.

mod audio;
mod chat;
mod embeddings;
mod images;
mod messages;
mod moderations;
pub(super) mod quick;
#[cfg(test)]
mod random;
mod responses;
mod text;
mod usage;

pub(super) use chat::ToolCall;
#[cfg(test)]
pub(super) use random::Random;
pub(super) use text::Text;
pub use usage::{Absurd, Field, Why};

use super::reading::Tally;
use crate::endpoint::Endpoint;
use crate::usage::Usage;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// Not a JSON object of the expected shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

/// What one event of a stream is, or the whole of a plain answer. Where several apply, the first in
/// this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// An error, whatever else it carries.
    Error,
    /// What ends a stream, beside `[DONE]`.
    Last,
    /// The extra chunk that reports the usage of a stream, and nothing else.
    Usage,
    /// A choice gives the reason for which it ended.
    Finished,
    /// Anything else.
    Ordinary,
}

/// Reads one event of a stream, or a whole plain answer, and adds what it says to the tally.
///
/// # Errors
/// When it is not a JSON object of the endpoint's shape; nothing is added then.
pub(super) fn read(endpoint: Endpoint, json: &[u8], tally: &mut Tally) -> Result<Part, Unreadable> {
    match endpoint {
        Endpoint::Chat | Endpoint::Completions => chat::read(json, tally),
        Endpoint::Responses => responses::read(json, tally),
        Endpoint::Messages => messages::read(json, tally),
        Endpoint::Embeddings => embeddings::read(json, tally),
        Endpoint::Moderations => moderations::read(json),
        Endpoint::ImageGenerations | Endpoint::ImageEdits => images::read(json, tally),
        Endpoint::Speech => audio::read_speech(json, tally),
        Endpoint::Transcriptions | Endpoint::Translations => audio::read_heard(json, tally),
    }
}

/// Tokens by class of a reported usage object (JSON text).
///
/// # Errors
/// When it cannot be believed.
pub(super) fn usage(endpoint: Endpoint, json: &str) -> Result<Usage, Absurd> {
    match endpoint {
        Endpoint::Chat | Endpoint::Completions => usage::of_chat(json),
        Endpoint::Responses => usage::of_response(json),
        Endpoint::Messages => messages::usage(json),
        Endpoint::Embeddings => usage::of_input(json),
        Endpoint::ImageGenerations | Endpoint::ImageEdits => images::usage(json),
        Endpoint::Speech => audio::usage_of_speech(json),
        Endpoint::Transcriptions | Endpoint::Translations => audio::usage_of_heard(json),
        // Free, whatever is reported.
        Endpoint::Moderations => Ok(Usage::default()),
    }
}

/// Whether the bytes are the beginning of a JSON object, or nothing.
pub(super) fn is_cut(json: &[u8]) -> bool {
    let json = json.trim_ascii_start();
    let parsed = serde_json::from_slice::<IgnoredAny>(json);
    json.is_empty() || json.starts_with(b"{") && parsed.is_err_and(|error| error.is_eof())
}

/// Reads one JSON object.
fn object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, Unreadable> {
    // An array would pass for a struct with its fields in order.
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(Unreadable);
    }
    serde_json::from_slice(json).map_err(|_| Unreadable)
}
