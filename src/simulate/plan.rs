//! From a request to what is answered and when. Pure.

use super::answer::{Answer, Counts, Stamp};
use super::faults::{Draw, Faults, Garbage, draw, scramble};
use super::files::Said;
use super::limit::Headroom;
use super::media::{self, Media};
use super::options::Options;
use super::refusal::Refusal;
use super::request::{self, Keeping, Request};
use super::stored::Kept;
use super::stream::{Events, Pieces, Script, Spread, Whole};
use crate::endpoint::Endpoint;
use std::time::Duration;

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const HTML_PAGE: &str = "<html><head><title>502 Bad Gateway</title></head>\
    <body><center><h1>502 Bad Gateway</h1></center><hr><center>cloudflare</center></body></html>\n";
/// `retry-after` of a 429 that was drawn.
const DRAWN_RETRY_AFTER_S: u64 = 1;

/// Whose API is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// OpenAI's, or Anthropic's where messages are asked for.
    OpenAi,
    /// Azure's.
    Azure,
}

/// A request and its circumstances.
pub(super) struct Asked<'a> {
    pub endpoint: Endpoint,
    pub shape: Shape,
    pub credential: Option<&'a str>,
    pub content_type: &'a str,
    pub body: &'a [u8],
    pub headroom: Headroom,
    /// The request's number, from which chance and names are drawn.
    pub number: u64,
    /// Tells names of one provider from those of others.
    pub seed: u64,
    /// Tokens of what it goes on from.
    pub stored_tokens: u64,
    /// Seconds since the epoch.
    pub now_s: i64,
}

/// An answer, ready to be sent.
pub(super) struct Plan {
    pub status: u16,
    pub content_type: &'static str,
    pub gzip: bool,
    pub retry_after: Option<u64>,
    pub latency: Duration,
    pub pace: Duration,
    pub model: String,
    pub stream: bool,
    pub counts: Counts,
    pub tier: &'static str,
    pub script: Script,
    /// What is kept of it.
    pub kept: Option<Kept>,
}

impl Plan {
    /// Decides how to answer a request.
    pub fn of(asked: &Asked<'_>, options: &Options) -> Self {
        let mut plan = Plan::blank(options.latency, options.pace);
        if let Err(refusal) = plan.decide(asked, options) {
            plan.refuse(&refusal);
        }
        plan
    }

    /// An error for what is not a request of an endpoint; it comes at once.
    pub fn refusal(refusal: &Refusal) -> Self {
        let mut plan = Plan::blank(Duration::ZERO, Duration::ZERO);
        plan.refuse(refusal);
        plan
    }

    fn blank(latency: Duration, pace: Duration) -> Self {
        Plan {
            status: 200,
            content_type: JSON,
            gzip: false,
            retry_after: None,
            latency,
            pace,
            model: String::new(),
            stream: false,
            counts: Counts::default(),
            tier: "",
            script: Script::Whole(Whole::other("")),
            kept: None,
        }
    }

    fn refuse(&mut self, refusal: &Refusal) {
        self.status = refusal.status;
        self.retry_after = refusal.retry_after;
        self.script = Script::Whole(Whole::other(refusal.body()));
    }

    fn decide(&mut self, asked: &Asked<'_>, options: &Options) -> Result<(), Refusal> {
        check_credential(asked.credential, options)?;
        let mut request = request::read(asked.endpoint, asked.content_type, asked.body)?;
        request.prompt_tokens += asked.stored_tokens;
        self.model.clone_from(&request.model);
        self.stream = request.stream;
        let credential = asked.credential.unwrap_or("");
        let faults = request.directives.faults_for(credential);
        self.latency = faults.latency.unwrap_or(options.latency);
        self.pace = faults.pace.unwrap_or(options.pace);
        check_luck(asked, &request, &faults, options)?;
        if request.model.starts_with("missing-") {
            return Err(Refusal::no_model(&request.model));
        }
        self.counts = request.counts();
        self.tier = request.tier;
        if let Some(media) = &request.media {
            self.answer_media(media, &faults);
            return Ok(());
        }
        let stamp = Stamp { id: scramble(asked.number ^ asked.seed), created: asked.now_s };
        let answer = Answer { shape: asked.shape, ..Answer::to(&request, faults.usage, stamp) };
        let spread = Spread {
            chunks: request.directives.chunks.unwrap_or(options.chunks),
            cut_after: faults.cut_after_chunks,
        };
        match faults.garbage {
            Some(garbage) => self.garble(garbage, &answer),
            None => self.answer(answer, &request, spread, &faults),
        }
        Ok(())
    }

    /// What a response that was kept is answered with.
    pub fn stored(answered: Result<String, Refusal>) -> Self {
        let mut plan = Plan::blank(Duration::ZERO, Duration::ZERO);
        match answered {
            Ok(json) => plan.script = Script::Whole(Whole::other(json)),
            Err(refusal) => plan.refuse(&refusal),
        }
        plan
    }

    /// What is answered about files.
    pub fn said(said: Result<Said, Refusal>) -> Self {
        match said {
            Ok(Said::Content(bytes)) => {
                let mut plan = Plan::blank(Duration::ZERO, Duration::ZERO);
                plan.content_type = "application/octet-stream";
                plan.script = Script::Whole(Whole::other(bytes));
                plan
            }
            Ok(Said::Object(json)) => Plan::stored(Ok(json)),
            Err(refusal) => Plan::stored(Err(refusal)),
        }
    }

    fn answer(&mut self, answer: Answer, request: &Request, spread: Spread, faults: &Faults) {
        self.gzip = faults.wire.gzip;
        let reads = (request.keeping == Keeping::Run).then_some(request.directives.reads);
        if request.keeping != Keeping::Nothing {
            self.kept = Some(answer.kept(&self.counts, reads));
        }
        if reads.is_some() {
            self.script = Script::Whole(Whole::other(answer.queued()));
            return;
        }
        let opening = answer.opening(request.include_usage).filter(|_| self.stream);
        self.script = if let Some(opening) = opening {
            self.content_type = EVENTS;
            Script::Events(Box::new(Events::new(answer, opening, spread, faults.wire)))
        } else {
            let whole = Whole::answer(&answer, faults.wire);
            Script::Whole(if spread.cut_after.is_some() { whole.cut() } else { whole })
        };
    }

    fn answer_media(&mut self, media: &Media, faults: &Faults) {
        let cut = faults.cut_after_chunks;
        let (content_type, pieces) = match media.body(faults.usage) {
            media::Body::Json(json) => {
                let whole = Whole::other(json);
                self.script = Script::Whole(if cut.is_some() { whole.cut() } else { whole });
                return;
            }
            media::Body::Audio(pieces) => ("audio/mpeg", pieces),
            media::Body::Events(events) => {
                (EVENTS, events.into_iter().map(|data| format!("data: {data}\n\n").into()).collect())
            }
        };
        self.content_type = content_type;
        self.script = Script::Pieces(Pieces::new(pieces, cut));
    }

    fn garble(&mut self, garbage: Garbage, answer: &Answer) {
        let body = match garbage {
            Garbage::Html => {
                self.content_type = HTML;
                HTML_PAGE.into()
            }
            Garbage::Truncated => {
                let mut plain = answer.plain().into_bytes();
                plain.truncate(plain.len() / 2);
                plain
            }
            Garbage::Empty => Vec::new(),
        };
        self.script = Script::Whole(Whole::other(body));
    }
}

/// The credential is one of those that are accepted.
pub(super) fn check_credential(credential: Option<&str>, options: &Options) -> Result<(), Refusal> {
    match credential {
        _ if options.credentials.is_empty() => Ok(()),
        None => Err(Refusal::no_key()),
        Some(credential) if options.credentials.iter().any(|known| known == credential) => Ok(()),
        Some(credential) => Err(Refusal::wrong_key(credential)),
    }
}

/// The refusals that are no fault of the request: the limit, the asked for, and the drawn.
fn check_luck(
    asked: &Asked<'_>,
    request: &Request,
    faults: &Faults,
    options: &Options,
) -> Result<(), Refusal> {
    let (headroom, model) = (asked.headroom, &request.model);
    if headroom.exceeded {
        // Rounded up: after this many seconds the window is certainly a new one.
        let seconds = headroom.reset.as_millis().div_ceil(1_000);
        let seconds = u64::try_from(seconds).expect("at most a minute");
        return Err(Refusal::rate_limited(model, headroom.limit, seconds));
    }
    if let Some(status) = faults.status {
        let mut refusal = Refusal::of_status(status, model, asked.credential.unwrap_or(""));
        if let Some(code) = &faults.code {
            refusal = refusal.with_code(code.clone());
        }
        refusal.retry_after = faults.retry_after;
        return Err(refusal);
    }
    match draw(asked.number, options) {
        Draw::Serve => Ok(()),
        Draw::Error => Err(Refusal::server_error()),
        Draw::RateLimited => Err(Refusal::rate_limited(model, headroom.limit, DRAWN_RETRY_AFTER_S)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::stream::Step;
    use super::*;
    use serde_json::json;

    fn plan_for(metadata: serde_json::Value, options: &Options) -> Plan {
        let body =
            json!({"model": "gpt-4o", "messages": [{"content": "hello"}], "metadata": metadata}).to_string();
        let asked = Asked {
            shape: Shape::OpenAi,
            endpoint: Endpoint::Chat,
            content_type: "application/json",
            credential: Some("sk-test-abcd"),
            body: body.as_bytes(),
            headroom: Headroom::UNLIMITED,
            seed: 0,
            stored_tokens: 0,
            number: 0,
            now_s: 0,
        };
        Plan::of(&asked, options)
    }

    fn check(metadata: serde_json::Value, options: &Options, status: u16, body_holds: &str) -> Plan {
        let mut plan = plan_for(metadata.clone(), options);
        assert_eq!(plan.status, status, "{metadata}");
        let body = match plan.script.next() {
            Some(Step::Send { bytes, .. }) => String::from_utf8(bytes.to_vec()).unwrap(),
            Some(Step::Cut) | None => String::new(),
        };
        assert!(body.contains(body_holds), "{metadata}: {body}");
        plan
    }

    #[test]
    fn faults_are_answered_as_asked() {
        let options = Options::default();
        check(json!({}), &options, 200, "\"usage\"");
        let plan = check(
            json!({"simulate_status": "429", "simulate_retry_after": "7"}),
            &options,
            429,
            "org-SECRETORG",
        );
        assert_eq!((plan.retry_after, plan.counts), (Some(7), Counts::default()));
        check(json!({"simulate_status": "401"}), &options, 401, "abcd");
        check(json!({"simulate_garbage": "html"}), &options, 200, "<html>");
        check(json!({"simulate_garbage": "truncated"}), &options, 200, "{\"id\"");
        let empty = check(json!({"simulate_garbage": "empty"}), &options, 200, "");
        assert_eq!((empty.script.length(), empty.counts.prompt_tokens), (Some(0), 9));
        let cut = check(json!({"simulate_cut_after_chunks": "1"}), &options, 200, "{\"id\"");
        assert!(!cut.script.is_over());
        assert!(plan_for(json!({"simulate_encoding": "gzip"}), &options).gzip);
    }

    #[test]
    fn options_refuse_too() {
        let options = |error_ratio_ppm, rate_limited_ppm| Options {
            error_ratio_ppm,
            rate_limited_ppm,
            ..Options::default()
        };
        check(json!({}), &options(1_000_000, 0), 500, "server_error");
        check(json!({}), &options(0, 1_000_000), 429, "rate_limit_exceeded");
        let keyed = Options { credentials: vec!["sk-other".to_owned()], ..Options::default() };
        check(json!({}), &keyed, 401, "invalid_api_key");
        let slow = Options { latency: Duration::from_secs(9), ..Options::default() };
        assert_eq!(plan_for(json!({}), &slow).latency, Duration::from_secs(9));
        assert_eq!(plan_for(json!({"simulate_latency_ms": "5"}), &slow).latency, Duration::from_millis(5));
    }
}
