//! The same provider in Azure's shape: deployments in the path, the credential in `api-key`, limits in whole
//! seconds, and what its content filter found.

use super::Provider;
use super::limit::Headroom;
use super::plan::Shape;
use super::server::{Spoken, answer, credential, list, no_url};
use crate::endpoint::Endpoint;
use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use bytes::Bytes;
use http::header::SET_COOKIE;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

/// Adds its endpoints: at the paths of deployments, which want a version, and at those as OpenAI has them.
pub(super) fn routes(router: Router<Provider>) -> Router<Provider> {
    let sold = Endpoint::ALL
        .into_iter()
        .filter(|endpoint| !matches!(endpoint, Endpoint::Messages | Endpoint::Moderations));
    let router = sold.fold(router, |router, endpoint| {
        let spoken = Spoken { endpoint, shape: Shape::Azure };
        let plain = move |State(provider), uri, headers, body| answer(provider, spoken, uri, headers, body);
        let versioned =
            move |State(provider), uri, headers, body| dated(provider, spoken, uri, headers, body);
        let path = endpoint.path();
        let deployed = match endpoint {
            Endpoint::Responses => format!("/openai{path}"),
            _ => format!("/openai/deployments/{{deployment}}{path}"),
        };
        router.route(&format!("/openai/v1{path}"), post(plain)).route(&deployed, post(versioned))
    });
    router.route("/openai/models", get(models)).route("/openai/v1/models", get(models))
}

async fn models(State(provider): State<Provider>, uri: Uri, headers: HeaderMap) -> Response {
    if !uri.path().starts_with("/openai/v1/") && !names_version(&uri) {
        return no_url(State(provider), Method::GET, uri, headers).await;
    }
    list(&provider, credential(&headers, Shape::Azure))
}

async fn dated(provider: Provider, spoken: Spoken, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    if !names_version(&uri) {
        return no_url(State(provider), Method::POST, uri, headers).await;
    }
    answer(provider, spoken, uri, headers, body).await
}

fn names_version(uri: &Uri) -> bool {
    uri.query().is_some_and(|query| query.starts_with("api-version=20"))
}

/// Headers as Azure has them, instead of OpenAI's.
pub(super) fn dress(headers: &mut HeaderMap, headroom: Headroom) {
    for name in [SET_COOKIE.as_str(), "openai-organization", "openai-version", "openai-processing-ms"] {
        headers.remove(name);
    }
    let mut set = |name: &'static str, value: HeaderValue| {
        headers.insert(HeaderName::from_static(name), value);
    };
    set("apim-request-id", HeaderValue::from_static("0f5b-SECRETAPIM"));
    set("x-ms-region", HeaderValue::from_static("SECRET Region"));
    set("x-ms-deployment-name", HeaderValue::from_static("SECRETDEPLOYMENT"));
    set("x-ratelimit-reset-requests", HeaderValue::from(headroom.reset.as_secs() + 1));
    set("x-ratelimit-reset-tokens", HeaderValue::from(1));
}
