//! How a provider of each dialect is spoken to: what it serves, at which path, and where it looks for a
//! credential.

use crate::config::{Dialect, Secret};
use crate::endpoint::Endpoint;
use http::{HeaderName, HeaderValue, header};

/// Which version of Anthropic's API is meant.
pub const ANTHROPIC_VERSION: HeaderName = HeaderName::from_static("anthropic-version");
/// The one that all its documentation is of.
pub const ANTHROPIC_VERSION_DEFAULT: HeaderValue = HeaderValue::from_static("2023-06-01");

/// Where a provider looks for a credential.
pub const fn credential_header(dialect: Dialect) -> HeaderName {
    match dialect {
        Dialect::OpenAi => header::AUTHORIZATION,
        Dialect::Anthropic => HeaderName::from_static("x-api-key"),
        Dialect::Azure => HeaderName::from_static("api-key"),
    }
}

/// A credential as its dialect presents it, marked so that it is not printed; `None` where no header can hold it.
pub(super) fn presented(dialect: Dialect, key: &Secret) -> Option<HeaderValue> {
    let mut value = match dialect {
        Dialect::OpenAi => HeaderValue::from_str(&format!("Bearer {}", key.expose())).ok()?,
        Dialect::Anthropic | Dialect::Azure => HeaderValue::from_str(key.expose()).ok()?,
    };
    value.set_sensitive(true);
    Some(value)
}

/// The dialect that an endpoint is asked in.
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

/// Whether a provider of this dialect serves an endpoint.
pub(super) fn serves(dialect: Dialect, endpoint: Endpoint) -> bool {
    match dialect {
        Dialect::OpenAi | Dialect::Anthropic => speaks(endpoint) == dialect,
        Dialect::Azure => speaks(endpoint) == Dialect::OpenAi && endpoint != Endpoint::Moderations,
    }
}

/// Where an endpoint is below the path of a base URL, for a model by the provider's name.
pub(super) fn path(base: &str, api_version: Option<&str>, endpoint: Endpoint, model: &str) -> String {
    let (path, deployed) = (endpoint.path(), endpoint != Endpoint::Responses);
    match api_version {
        None => [base, path].concat(),
        Some(version) if deployed => {
            // No other character of a name means anything in a path.
            let deployment = model.replace('/', "%2F");
            format!("{base}/deployments/{deployment}{path}?api-version={version}")
        }
        Some(version) => format!("{base}{path}?api-version={version}"),
    }
}

/// Where a provider has what it keeps of responses, `below` them, asked for with this query.
pub(super) fn kept_path(base: &str, api_version: Option<&str>, below: &str, query: Option<&str>) -> String {
    let responses = Endpoint::Responses.path();
    match (api_version, query) {
        (None, None) => [base, responses, below].concat(),
        (None, Some(query)) => format!("{base}{responses}{below}?{query}"),
        (Some(version), None) => format!("{base}{responses}{below}?api-version={version}"),
        (Some(version), Some(query)) => format!("{base}{responses}{below}?api-version={version}&{query}"),
    }
}

/// Where a provider lists its models, which is free.
pub(super) fn models_path(base: &str, api_version: Option<&str>) -> String {
    match api_version {
        None => format!("{base}/models"),
        Some(version) => format!("{base}/models?api-version={version}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(version: Option<&str>, endpoint: Endpoint, model: &str, expect: &str) {
        let found = path("/openai", version, endpoint, model);
        assert_eq!(found, expect);
        assert!(found.parse::<http::Uri>().is_ok(), "{found}");
    }

    #[test]
    fn a_deployment_has_a_path_of_its_own() {
        check(None, Endpoint::Chat, "mini", "/openai/chat/completions");
        let version = Some("2024-10-21");
        let with = |path: &str| format!("/openai/{path}?api-version=2024-10-21");
        check(version, Endpoint::Chat, "mini-eu.1", &with("deployments/mini-eu.1/chat/completions"));
        check(version, Endpoint::Speech, "a/b", &with("deployments/a%2Fb/audio/speech"));
        check(version, Endpoint::Responses, "mini", &with("responses"));
        assert_eq!(models_path("/openai", version), with("models"));
        let kept = |version, query| kept_path("/openai", version, "/resp_1/cancel", query);
        assert_eq!(kept(version, Some("a=b")), with("responses/resp_1/cancel") + "&a=b");
        assert_eq!(kept(version, None), with("responses/resp_1/cancel"));
        assert_eq!(kept(None, Some("a=b")), "/openai/responses/resp_1/cancel?a=b");
        assert_eq!(models_path("/v1", None), "/v1/models");
    }

    #[test]
    fn each_dialect_serves_its_own() {
        let served = |dialect| Endpoint::ALL.into_iter().filter(|at| serves(dialect, *at)).count();
        assert_eq!([Dialect::OpenAi, Dialect::Anthropic, Dialect::Azure].map(served), [10, 1, 9]);
    }
}
