//! The endpoints, and the headers that every answer carries.

use super::Provider;
use super::azure;
use super::batches::{Asking, Told};
use super::body::{Paced, Pages};
use super::faults::scramble;
use super::files::{File, Said};
use super::limit::{Headroom, written};
use super::log::{Entry, Served};
use super::plan::{Asked, Plan, Shape, check_credential};
use super::refusal::{Refusal, last4};
use crate::clock::Timestamp;
use crate::endpoint::Endpoint;
use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{any, get, post};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use serde_json::json;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// The largest request that is read: above what the real provider takes with images in it.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What is shown as the token limit; it is never enforced.
const SHOWN_TOKENS: u64 = 30_000_000;
const MODELS: [&str; 6] =
    ["gpt-4o-mini", "gpt-4o", "gpt-4.1", "gpt-4.1-mini", "gpt-5.5", "text-embedding-3-small"];
const MODELS_CREATED_S: i64 = 1_721_172_741;

/// All endpoints.
pub(super) fn router(provider: Provider) -> Router {
    let sold = Endpoint::ALL.into_iter().fold(Router::new(), |router, endpoint| {
        let spoken = Spoken { endpoint, shape: Shape::OpenAi };
        let serve = move |State(provider), uri, headers, body| answer(provider, spoken, uri, headers, body);
        router.route(&format!("/v1{}", endpoint.path()), post(serve))
    });
    azure::routes(sold)
        .route("/v1/models", get(models))
        .route("/v1/responses/{*path}", any(stored))
        .route("/v1/files", any(files))
        .route("/v1/files/{*path}", any(files_below))
        .route("/v1/batches", any(batches))
        .route("/v1/batches/{*path}", any(batches_below))
        .route("/simulate/log", get(log))
        .route("/simulate/options", get(options).put(patch_options))
        .fallback(no_url)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(provider)
}

/// What is asked for, and in which shape.
#[derive(Clone, Copy)]
pub(super) struct Spoken {
    pub endpoint: Endpoint,
    pub shape: Shape,
}

pub(super) async fn answer(
    provider: Provider,
    spoken: Spoken,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let arrived = Arrived::now(&provider, &headers, uri.path());
    let options = provider.state.options.load_full();
    let credential = credential(&headers, spoken.shape);
    let headroom = options.requests_per_minute.map_or(Headroom::UNLIMITED, |limit| {
        provider.state.limits.take(credential.unwrap_or(""), limit, arrived.at)
    });
    let now_s = arrived.entry.served.at.seconds();
    let content_type = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let Spoken { endpoint, shape } = spoken;
    let account = credential.unwrap_or_default();
    let stored = match endpoint {
        Endpoint::Responses => provider.state.stored.gone_on_from(account, &body),
        _ => Ok(0),
    };
    let mut plan = match stored {
        Err(refusal) => Plan::refusal(&refusal),
        Ok(stored_tokens) => {
            let (number, seed) = (arrived.number, provider.state.seed);
            let body = &body;
            let asked = Asked {
                endpoint,
                shape,
                credential,
                content_type,
                body,
                headroom,
                number,
                seed,
                stored_tokens,
                now_s,
            };
            Plan::of(&asked, &options)
        }
    };
    if let Some(kept) = plan.kept.take() {
        provider.state.stored.put(account, kept);
    }
    drop(body);
    let mut response = arrived.answer(plan, headroom).await;
    match shape {
        Shape::OpenAi => {}
        Shape::Azure => azure::dress(response.headers_mut(), headroom),
    }
    response
}

/// What is asked of a response that was kept, or below it.
async fn stored(
    State(provider): State<Provider>,
    Path(path): Path<String>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let (id, below) = path.split_once('/').unwrap_or((&path, ""));
    let takes = match below {
        "" => method == Method::GET || method == Method::DELETE,
        "cancel" => method == Method::POST,
        "input_items" => method == Method::GET,
        _ => return no_url(State(provider), method, uri, headers).await,
    };
    if !takes {
        return wrong_method(State(provider), method, uri, headers).await;
    }
    let credential = credential(&headers, Shape::OpenAi);
    let known = check_credential(credential, &provider.state.options.load());
    let account = credential.unwrap_or_default();
    let plan = Plan::stored(known.and_then(|()| provider.state.stored.answer(account, &method, id, below)));
    let mut arrived = Arrived::now(&provider, &headers, uri.path());
    method.as_str().clone_into(&mut arrived.entry.served.method);
    arrived.answer(plan, Headroom::UNLIMITED).await
}

async fn files(
    provider: State<Provider>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    files_below(provider, Path(String::new()), method, uri, headers, body).await
}

/// What is asked of files: all of them, one, or what is in it.
async fn files_below(
    State(provider): State<Provider>,
    Path(path): Path<String>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let (id, below) = path.split_once('/').unwrap_or((&path, ""));
    let takes = match (id, below) {
        ("", "") => method == Method::GET || method == Method::POST,
        (_, "") => method == Method::GET || method == Method::DELETE,
        (_, "content") => method == Method::GET,
        _ => return no_url(State(provider), method, uri, headers).await,
    };
    if !takes {
        return wrong_method(State(provider), method, uri, headers).await;
    }
    let mut arrived = Arrived::now(&provider, &headers, uri.path());
    method.as_str().clone_into(&mut arrived.entry.served.method);
    let credential = credential(&headers, Shape::OpenAi);
    let account = credential.unwrap_or_default();
    let said = check_credential(credential, &provider.state.options.load()).and_then(|()| {
        let files = &provider.state.files;
        if method != Method::POST {
            return files.answer(account, &method, id, below);
        }
        let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let (number, now_s) = (arrived.number ^ provider.state.seed, arrived.entry.served.at.seconds());
        File::read(account, (kind, body), number, now_s).map(|file| Said::Object(files.put(file)))
    });
    arrived.answer(Plan::said(said), Headroom::UNLIMITED).await
}

async fn batches(
    provider: State<Provider>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    batches_below(provider, Path(String::new()), method, uri, headers, body).await
}

/// What is asked of batches: all of them, one, or that it ends.
async fn batches_below(
    State(provider): State<Provider>,
    Path(path): Path<String>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let (id, below) = path.split_once('/').unwrap_or((&path, ""));
    let takes = match (id, below) {
        ("", "") => method == Method::GET || method == Method::POST,
        (_, "") => method == Method::GET,
        (_, "cancel") => method == Method::POST,
        _ => return no_url(State(provider), method, uri, headers).await,
    };
    if !takes {
        return wrong_method(State(provider), method, uri, headers).await;
    }
    let mut arrived = Arrived::now(&provider, &headers, uri.path());
    method.as_str().clone_into(&mut arrived.entry.served.method);
    let credential = credential(&headers, Shape::OpenAi);
    let asking = Asking {
        account: credential.unwrap_or_default(),
        request: &arrived.entry.served.request,
        number: arrived.number ^ provider.state.seed,
        now: arrived.entry.served.at,
    };
    let told = check_credential(credential, &provider.state.options.load()).and_then(|()| {
        let (batches, files) = (&provider.state.batches, &provider.state.files);
        match (id, method) {
            ("", Method::POST) => batches.create(&asking, &body, files),
            _ => batches.answer(&asking, id, below, files),
        }
    });
    let said = told.map(|Told { json, served }| {
        served.into_iter().for_each(|served| provider.state.log.push(served));
        Said::Object(json)
    });
    arrived.answer(Plan::said(said), Headroom::UNLIMITED).await
}

pub(super) async fn no_url(
    State(provider): State<Provider>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let plan = Plan::refusal(&Refusal::no_url(method.as_str(), uri.path()));
    Arrived::now(&provider, &headers, uri.path()).answer(plan, Headroom::UNLIMITED).await
}

async fn wrong_method(
    State(provider): State<Provider>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let plan = Plan::refusal(&Refusal::wrong_method(method.as_str(), uri.path()));
    Arrived::now(&provider, &headers, uri.path()).answer(plan, Headroom::UNLIMITED).await
}

async fn models(State(provider): State<Provider>, headers: HeaderMap) -> Response {
    list(&provider, credential(&headers, Shape::OpenAi))
}

/// The models, for a credential that is accepted.
pub(super) fn list(provider: &Provider, credential: Option<&str>) -> Response {
    if let Err(refusal) = check_credential(credential, &provider.state.options.load()) {
        let status = StatusCode::from_u16(refusal.status).expect("between 200 and 599");
        return (status, [(CONTENT_TYPE, "application/json")], refusal.body()).into_response();
    }
    let data = MODELS
        .map(|id| json!({"id": id, "object": "model", "created": MODELS_CREATED_S, "owned_by": "system"}));
    Json(json!({"object": "list", "data": data})).into_response()
}

async fn log(State(provider): State<Provider>) -> Response {
    let pages = Body::new(Pages::of(provider.state.log.clone()));
    ([(CONTENT_TYPE, "application/x-ndjson")], pages).into_response()
}

async fn options(State(provider): State<Provider>) -> Response {
    Json(provider.state.options.load().written()).into_response()
}

async fn patch_options(State(provider): State<Provider>, patch: Bytes) -> Response {
    match provider.state.options.load().patched(&patch) {
        Ok(options) => {
            let written = options.written();
            provider.set_options(options);
            Json(written).into_response()
        }
        Err(fault) => (StatusCode::BAD_REQUEST, Json(json!({"error": {"message": fault}}))).into_response(),
    }
}

/// A request that is logged from here on, even if its caller goes away.
struct Arrived {
    number: u64,
    at: Instant,
    entry: Entry,
}

impl Arrived {
    fn now(provider: &Provider, headers: &HeaderMap, path: &str) -> Self {
        let request = headers.get("x-client-request-id").and_then(|id| id.to_str().ok());
        let served = Served {
            at: Timestamp::now(),
            request: request.unwrap_or("").to_owned(),
            path: path.to_owned(),
            credential_last4: last4(any_credential(headers).unwrap_or("")).to_owned(),
            ..Served::default()
        };
        Arrived {
            number: provider.state.requests.fetch_add(1, Ordering::Relaxed),
            at: Instant::now(),
            entry: Entry::open(provider.state.log.clone(), served),
        }
    }

    async fn answer(mut self, plan: Plan, headroom: Headroom) -> Response {
        let served = &mut self.entry.served;
        (served.status, served.stream) = (plan.status, plan.stream);
        served.model.clone_from(&plan.model);
        served.prompt_tokens = plan.counts.prompt_tokens;
        served.cached_tokens = plan.counts.cached_tokens;
        served.completion_tokens = plan.counts.completion_tokens;
        served.reasoning_tokens = plan.counts.reasoning_tokens;
        served.searches = plan.counts.searches;
        served.other = plan.counts.other;
        plan.tier.clone_into(&mut served.service_tier);
        if !plan.latency.is_zero() {
            tokio::time::sleep(plan.latency).await;
        }
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::from_u16(plan.status).expect("between 200 and 599");
        *response.headers_mut() = self.headers(&plan, headroom);
        *response.body_mut() = Body::new(Paced::new(plan.script, plan.pace, self.entry));
        response
    }

    /// What a gateway should and should not pass on.
    fn headers(&self, plan: &Plan, headroom: Headroom) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(24);
        let fixed = HeaderValue::from_static;
        let mut set = |name: &'static str, value: HeaderValue| {
            headers.insert(HeaderName::from_static(name), value);
        };
        let id = format!("req_{:016x}{:016x}", scramble(self.number), self.number);
        set("x-request-id", HeaderValue::try_from(id).expect("hexadecimal digits"));
        let elapsed_ms = u64::try_from(self.at.elapsed().as_millis()).unwrap_or(u64::MAX);
        set("openai-processing-ms", HeaderValue::from(elapsed_ms));
        set("openai-organization", fixed("org-SECRETORG"));
        set("openai-version", fixed("2020-10-01"));
        set("x-ratelimit-limit-requests", HeaderValue::from(headroom.limit));
        set("x-ratelimit-remaining-requests", HeaderValue::from(headroom.remaining));
        let reset = HeaderValue::try_from(written(headroom.reset)).expect("digits and letters");
        set("x-ratelimit-reset-requests", reset);
        set("x-ratelimit-limit-tokens", HeaderValue::from(SHOWN_TOKENS));
        let used = plan.counts.prompt_tokens + plan.counts.completion_tokens;
        set("x-ratelimit-remaining-tokens", HeaderValue::from(SHOWN_TOKENS.saturating_sub(used)));
        set("x-ratelimit-reset-tokens", fixed("2ms"));
        headers.insert(
            SET_COOKIE,
            fixed(
                "__cf_bm=simulated.cookie-1.0.1.1-value; path=/; \
             domain=.api.openai.com; HttpOnly; Secure; SameSite=None",
            ),
        );
        headers.insert(CONTENT_TYPE, fixed(plan.content_type));
        if plan.gzip {
            headers.insert(CONTENT_ENCODING, fixed("gzip"));
        }
        if let Some(seconds) = plan.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        headers
    }
}

/// What is presented where it is looked for: the bearer token or the key.
pub(super) fn credential(headers: &HeaderMap, shape: Shape) -> Option<&str> {
    let key = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    match shape {
        Shape::OpenAi => {
            let bearer = key(AUTHORIZATION.as_str()).and_then(|value| value.strip_prefix("Bearer "));
            bearer.or_else(|| key("x-api-key"))
        }
        Shape::Azure => key("api-key"),
    }
}

fn any_credential(headers: &HeaderMap) -> Option<&str> {
    credential(headers, Shape::OpenAi).or_else(|| credential(headers, Shape::Azure))
}
