//! A provider's moderation endpoint, asked over the pool: by its credentials, its health and its limits, as
//! a request of the customer whose texts and images it is about. Nobody is charged for it.
//!
//! What is asked and answered is kept nowhere; on the way it is as secret as a request.

use super::attempt::fault_of;
use super::choose::wait_in_line;
use super::forward::{self, Verdict};
use super::request::Comes;
use super::send::{Answered, send};
use crate::admit::content::{Case, Moderate, Question, Scores, Unmoderated};
use crate::config;
use crate::endpoint::Endpoint;
use crate::id::RequestId;
use crate::live::{Current, Live};
use crate::money::Amount;
use crate::policy::content::{Moderation, Score};
use crate::record::metrics::Metrics;
use crate::upstream::headroom::Expected;
use crate::upstream::health::Fault;
use crate::upstream::limits::Most;
use crate::upstream::{self, Ask, Lease, Need};
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Method, header};
use pingora::connectors::http::Connector;
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::{ALPN, HttpPeer};
use pingora_http::RequestHeader;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest answer that is read: hundreds of texts, with every label of each.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A connection that is kept for the next text.
const KEPT_MAX: Duration = Duration::from_secs(55);
/// Bytes of text to a token, at least.
const BYTES_PER_TOKEN: u64 = 4;
/// What an image may take of an account's limits.
const TOKENS_PER_IMAGE: u64 = 1_500;

/// Why there is no answer: the provider finds the request wrong.
const REFUSED: &str = "refused";

/// Asks over the pool.
pub struct Moderator {
    live: Current,
    connector: Connector,
    metrics: Arc<Metrics>,
}

/// Why there is no answer.
enum Unanswered {
    /// By the account's fault: another is asked.
    Fault(Fault),
    /// A connection that had been kept was found closed: by nobody's fault.
    Stale,
    /// The provider finds the request wrong.
    Refused,
}

impl From<Fault> for Unanswered {
    fn from(fault: Fault) -> Self {
        Unanswered::Fault(fault)
    }
}

impl Moderator {
    /// Over the pool that is live.
    pub fn new(live: Current, metrics: Arc<Metrics>) -> Self {
        Moderator { live, connector: Connector::new(None), metrics }
    }

    async fn ask(&self, case: &Case, by: &Moderation, about: &Question) -> Result<Scores, &'static str> {
        let live = self.live.load_full();
        let tokens = tokens(about);
        let most = Most { tokens, spend: Amount::ZERO };
        let need = Need {
            expected: Expected { input: tokens, output_max: 0 },
            most,
            comes: upstream::Comes::Whole,
            affinity: None,
        };
        let mut tried = Vec::new();
        for attempt in 0..live.config.retry.attempts_max {
            match attempt {
                0 => live.pool.budget().earn(),
                _ if live.pool.budget().spend() => {}
                _ => {
                    self.metrics.retry_denied();
                    break;
                }
            }
            let ask = Ask {
                customer: case.customer,
                endpoint: Endpoint::Moderations,
                model: &by.model,
                need: &need,
                only: None,
                tried: &tried,
            };
            let mut lease = lease(&self.metrics, &live, &ask, by.timeout).await.ok_or("no_account")?;
            let outcome = self.attempt(&mut lease, case.request, about).await;
            let name = Arc::clone(&lease.account().name);
            match outcome {
                Ok(scores) => {
                    self.metrics.attempt(&name, "ok");
                    lease.used(most);
                    lease.succeeded(0, Instant::now());
                    return Ok(scores);
                }
                Err(Unanswered::Stale) => lease.unsent(),
                Err(Unanswered::Refused) => {
                    lease.used(Most::NOTHING);
                    return Err(REFUSED);
                }
                Err(Unanswered::Fault(fault)) => {
                    self.metrics.attempt(&name, fault.name());
                    lease.failed(fault, Instant::now(), fastrand::u32(..));
                    if !matches!(fault, Fault::RateLimited(_)) {
                        tried.push(name);
                    }
                }
            }
        }
        Err("failed")
    }

    async fn attempt(
        &self,
        lease: &mut Lease,
        request: RequestId,
        about: &Question,
    ) -> Result<Scores, Unanswered> {
        let account = Arc::clone(lease.account());
        let address = account.address().ok_or(Fault::Connect)?;
        let mut peer = forward::peer(&account, address);
        // One question at a time: nothing is gained by more on a connection.
        peer.options.alpn = ALPN::H1;
        let body = body(lease.model(), about);
        let header = asked(lease, request, body.len()).map_err(|_| Fault::Broken)?;
        let connected = self.connector.get_http_session(&peer).await;
        let (mut session, kept) = connected.map_err(|_| {
            account.addresses().unreached(address);
            Fault::Connect
        })?;
        lease.sent();
        match send(&mut session, header, body, account.timeouts.silence).await {
            Ok(answered) => self.answer(session, answered, &peer, lease).await,
            Err(why) => Err(if kept { Unanswered::Stale } else { fault_of(&why).into() }),
        }
    }

    async fn answer(
        &self,
        mut session: HttpSession,
        Answered { header, is_whole }: Answered,
        peer: &HttpPeer,
        lease: &Lease,
    ) -> Result<Scores, Unanswered> {
        let report = forward::report(&header);
        let verdict = forward::judge(&header, Comes::Json);
        lease.told(&report, Instant::now());
        let mut body = Vec::new();
        while let Some(piece) = session.read_response_body().await.map_err(|why| fault_of(&why))? {
            if body.len() + piece.len() > ANSWER_BYTES_MAX {
                return Err(Fault::Broken.into());
            }
            body.extend_from_slice(&piece);
        }
        if is_whole {
            self.connector.release_http_session(session, peer, Some(KEPT_MAX)).await;
        }
        match verdict {
            Verdict::Plain => {}
            Verdict::Judge => return Err(forward::judge_429(&body, report.wait).into()),
            Verdict::Refusal => return Err(Unanswered::Refused),
            Verdict::Fault(fault) => return Err(fault.into()),
            Verdict::Stream | Verdict::Audio => return Err(Fault::Broken.into()),
        }
        let scores = read(&body).ok_or(Fault::Broken)?;
        lease.answered(Instant::now());
        Ok(scores)
    }
}

#[async_trait]
impl Moderate for Moderator {
    async fn moderate(&self, case: &Case, by: &Moderation, about: Question) -> Result<Scores, Unmoderated> {
        let begun = Instant::now();
        let asked = tokio::time::timeout(by.timeout, self.ask(case, by, &about)).await;
        let asked = asked.unwrap_or(Err("late"));
        let outcome = asked.as_ref().map_or_else(|why| *why, |_| "ok");
        self.metrics.moderated(outcome, begun.elapsed());
        asked.map_err(|why| {
            tracing::warn!(request = %case.request, why, "a request is not moderated");
            match about {
                // It is damaged, too large, or not where its URL says.
                Question::Image(_) if why == REFUSED => Unmoderated::Unreadable,
                Question::Image(_) | Question::Texts(_) => Unmoderated::Unanswered,
            }
        })
    }
}

fn tokens(about: &Question) -> u64 {
    match about {
        Question::Texts(texts) => {
            let bytes: usize = texts.iter().map(String::len).sum();
            u64::try_from(bytes).unwrap_or(u64::MAX).div_ceil(BYTES_PER_TOKEN)
        }
        Question::Image(_) => TOKENS_PER_IMAGE,
    }
}

/// A request to the moderation endpoint.
fn body(model: &str, about: &Question) -> Bytes {
    let input = match about {
        Question::Texts(texts) => serde_json::json!(texts),
        Question::Image(url) => serde_json::json!([{ "type": "image_url", "image_url": { "url": url } }]),
    };
    serde_json::json!({ "model": model, "input": input }).to_string().into()
}

/// A lease for one attempt, in line with the requests for the same model.
async fn lease(metrics: &Metrics, live: &Live, ask: &Ask<'_>, wait: Duration) -> Option<Lease> {
    let now = Instant::now();
    let none = match live.pool.choose(ask, now, fastrand::u64(..)) {
        Ok(lease) => return Some(lease),
        Err(none) => none,
    };
    if !none.may_change_by(now + wait) {
        return None;
    }
    let bounds = config::Queue { wait, ..live.config.queue };
    wait_in_line(metrics, &live.pool, ask, bounds, now).await.ok()
}

fn asked(lease: &Lease, request: RequestId, body_bytes: usize) -> pingora::Result<RequestHeader> {
    let account = lease.account();
    let mut ours = RequestHeader::build(Method::POST, b"/", Some(1))?;
    ours.insert_header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))?;
    let path = account.path_of(Endpoint::Moderations, lease.model());
    forward::request(&ours, account, &path, request, body_bytes)
}

#[derive(Deserialize)]
struct Told {
    results: Vec<OfText>,
}

#[derive(Deserialize)]
struct OfText {
    category_scores: BTreeMap<Box<str>, Option<f64>>,
}

/// The highest score of each label; nothing if it is no answer to a text.
fn read(body: &[u8]) -> Option<Scores> {
    let Told { results } = serde_json::from_slice(body).ok()?;
    let mut highest = BTreeMap::<Box<str>, Score>::new();
    for OfText { category_scores } in &results {
        for (label, share) in category_scores.iter().filter_map(|(label, share)| Some((label, (*share)?))) {
            let score = Score::of_share(share)?;
            let before = highest.entry(label.clone()).or_insert(score);
            *before = score.max(*before);
        }
    }
    (!results.is_empty()).then(|| highest.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, expect: Option<&[(&str, u32)]>) {
        let read = read(body.as_bytes());
        let read = read.map(|scores| {
            scores.into_iter().map(|(label, score)| (label.into_string(), score.0)).collect::<Vec<_>>()
        });
        let expect = expect.map(|expect| expect.iter().map(|(label, ppm)| ((*label).into(), *ppm)).collect());
        assert_eq!(read, expect, "{body}");
    }

    #[test]
    fn the_highest_score_of_each_label_counts() {
        check(
            r#"{"id":"x","results":[{"flagged":true,"category_scores":{"hate":0.25,"hate/threatening":1e-7}},
                {"category_scores":{"hate":0.9999999,"violence":1,"illicit":null}}]}"#,
            Some(&[("hate", 1_000_000), ("hate/threatening", 0), ("violence", 1_000_000)]),
        );
    }

    #[test]
    fn what_is_no_judgement_is_none() {
        check("", None);
        check(r#"{"results":[]}"#, None);
        check(r#"{"results":[{}]}"#, None);
        check(r#"{"results":[{"category_scores":{"hate":1.5}}]}"#, None);
        check(r#"{"results":[{"category_scores":{"hate":-0.1}}]}"#, None);
        check(r#"{"error":{"message":"no"}}"#, None);
    }
}
