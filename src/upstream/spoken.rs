//! How a provider of each dialect is spoken to: what it serves, and where it looks for a credential.

use crate::config::{Dialect, Secret};
use crate::endpoint::Endpoint;
use http::{HeaderName, HeaderValue};

/// Where Anthropic looks for a credential.
pub const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// Which version of Anthropic's API is meant.
pub const ANTHROPIC_VERSION: HeaderName = HeaderName::from_static("anthropic-version");
/// The one that all its documentation is of.
pub const ANTHROPIC_VERSION_DEFAULT: HeaderValue = HeaderValue::from_static("2023-06-01");

/// The dialect that an endpoint is spoken in.
pub(super) const fn speaks(endpoint: Endpoint) -> Dialect {
    match endpoint {
        Endpoint::Messages => Dialect::Anthropic,
        Endpoint::Chat
        | Endpoint::Responses
        | Endpoint::Completions
        | Endpoint::Embeddings
        | Endpoint::Moderations
        | Endpoint::ImageGenerations
        | Endpoint::ImageEdits
        | Endpoint::Speech
        | Endpoint::Transcriptions
        | Endpoint::Translations => Dialect::OpenAi,
    }
}

/// A credential as its dialect presents it, marked so that it is not printed; `None` where no header can hold it.
pub(super) fn presented(dialect: Dialect, key: &Secret) -> Option<HeaderValue> {
    let mut value = match dialect {
        Dialect::OpenAi => HeaderValue::from_str(&format!("Bearer {}", key.expose())).ok()?,
        Dialect::Anthropic => HeaderValue::from_str(key.expose()).ok()?,
    };
    value.set_sensitive(true);
    Some(value)
}
