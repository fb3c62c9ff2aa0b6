//! Ten thousand requests at the same instant on a small balance that may be overdrawn a little, over
//! HTTP/1.1 and HTTP/2, again and again with a kill in the middle: the balance is never below its floor, what
//! is charged is what the provider served, and every complete answer has its charge.
//!
//! Each request keeps its last byte back until the gateway says that it has all of them under way.
//!
//! ```text
//! TOLLGATE_FLOOR_KILLS=50 cargo test --release --test crash floor -- --nocapture
//! ```

use super::books::{Books, Credit};
use super::load::{Outcome, Tally};
use super::support::{CONNECTIONS_MAX, Gateway, MODEL, PATIENCE, Site, eventually, number_from_environment};
use bytes::Bytes;
use fastrand::Rng;
use futures_util::stream;
use serde_json::json;
use std::convert::Infallible;
use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tokio::sync::watch;
use tokio::task::JoinSet;

const KILLS: u64 = 2;
const SEED: u64 = 0xf100;
/// Each with a connection of its own.
const H1_CLIENTS: usize = 100;
/// Each with as many requests at once as one connection may have.
const H2_CONNECTIONS: usize = 99;
const H2_STREAMS: usize = 100;
/// All at the same instant.
const REQUESTS: usize = H1_CLIENTS + H2_CONNECTIONS * H2_STREAMS;
const _: () = assert!(REQUESTS == 10_000 && H1_CLIENTS + H2_CONNECTIONS < CONNECTIONS_MAX);
/// Of the balance, in units of 1e-18 USD.
const OVERDRAFT: i128 = 10_000_000_000_000_000;
/// Hundreds of requests can be held at a time, and about a thousand be paid in a round.
const CREDIT: Credit = Credit { deposit: "0.03", overdraft: "0.01", each_round: "0.03" };

/// What came of one request.
enum Asked {
    Answered(Outcome),
    /// The credit does not reach.
    Refused,
    /// The gateway was killed.
    Gone,
}

/// What came of some.
#[derive(Default)]
struct Seen {
    outcomes: Vec<Outcome>,
    refused: usize,
    gone: usize,
}

impl Seen {
    fn count(&self) -> usize {
        self.outcomes.len() + self.refused + self.gone
    }
}

impl AddAssign for Seen {
    fn add_assign(&mut self, other: Seen) {
        self.outcomes.extend(other.outcomes);
        self.refused += other.refused;
        self.gone += other.gone;
    }
}

/// What is shared by all clients.
struct Storm {
    url: String,
    key: String,
    /// Whether last bytes may be sent.
    go: watch::Receiver<bool>,
    /// Requests that have ended.
    ended: AtomicUsize,
}

impl Storm {
    async fn ask(&self, http: reqwest::Client, (text, streamed): (String, bool)) -> Asked {
        let (begin, last) = text.split_at(text.len() - 1);
        let (begin, last) = (Bytes::from(begin.to_owned()), Bytes::from(last.to_owned()));
        let go = self.go.clone();
        let pieces = stream::unfold(Some((begin, Some(last))), move |left| {
            let mut go = go.clone();
            async move {
                let (piece, rest) = left?;
                if rest.is_none() {
                    go.wait_for(|go| *go).await.expect("the test says when");
                }
                Some((Ok::<_, Infallible>(piece), rest.map(|last| (last, None))))
            }
        });
        let request = http.post(&self.url).bearer_auth(&self.key);
        let request = request.header("content-type", "application/json");
        let Ok(mut response) = request.body(reqwest::Body::wrap_stream(pieces)).send().await else {
            return Asked::Gone;
        };
        let header = |name: &str| {
            let value = response.headers().get(name)?;
            Some(value.to_str().expect("text").to_owned())
        };
        let request = header("x-request-id").expect("each answer has its id");
        let (status, charge) = (response.status().as_u16(), header("x-tollgate-charge"));
        let mut text = Vec::new();
        let is_whole = loop {
            match response.chunk().await {
                Ok(Some(piece)) => text.extend_from_slice(&piece),
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        let text = String::from_utf8_lossy(&text);
        if status == 402 {
            return Asked::Refused;
        }
        assert_eq!(status, 200, "{text}");
        let complete = if streamed { text.contains("data: [DONE]\n") } else { is_whole };
        Asked::Answered(Outcome { request, streamed, complete, charge })
    }
}

/// Most name what they need, some leave all of the credit to be held; some streams last for long enough to
/// be hit.
fn request(rng: &mut Rng) -> (String, bool) {
    let streamed = rng.bool();
    let pace = if rng.u32(0..20) == 0 { 20 } else { 0 };
    let metadata = json!({
        "simulate_tokens": rng.u64(1..60).to_string(), "simulate_chunks": "4", "simulate_pace_ms": pace.to_string(),
    });
    let messages = json!([{ "role": "user", "content": "Say something." }]);
    let mut body = json!({ "model": MODEL, "messages": messages, "stream": streamed, "metadata": metadata });
    if rng.u32(0..24) > 0 {
        body["max_completion_tokens"] = json!(64);
    }
    (body.to_string(), streamed)
}

/// A client for each request, many of them on one connection.
fn clients() -> impl Iterator<Item = reqwest::Client> {
    // The wait for all to be under way comes on top.
    let builder = || reqwest::Client::builder().no_proxy().timeout(3 * PATIENCE);
    let h1 = builder().http1_only().build().expect("a client");
    let h2 = move || builder().http2_prior_knowledge().build().expect("a client");
    let h2 = std::iter::repeat_with(h2).take(H2_CONNECTIONS);
    let h2 = h2.flat_map(|client| std::iter::repeat_n(client, H2_STREAMS));
    std::iter::repeat_n(h1, H1_CLIENTS).chain(h2)
}

/// Has all requests under way, and then lets them all go on; kills the gateway once `kill_at` of them have
/// ended.
fn storm(
    site: &Site,
    gateway: Gateway,
    key: &str,
    kill_at: Option<usize>,
    rng: &mut Rng,
) -> (Option<Gateway>, Seen) {
    let (release, go) = watch::channel(false);
    let url = format!("{}/v1/chat/completions", gateway.url);
    let storm = Arc::new(Storm { url, key: key.to_owned(), go, ended: AtomicUsize::new(0) });
    let mut tasks = JoinSet::new();
    for http in clients() {
        let (storm, request) = (Arc::clone(&storm), request(rng));
        let task = async move {
            let asked = storm.ask(http, request).await;
            storm.ended.fetch_add(1, Ordering::SeqCst);
            asked
        };
        tasks.spawn_on(task, site.runtime.handle());
    }
    eventually("all are under way at the same time", || (gateway.in_flight(site) == REQUESTS).then_some(()));
    assert_eq!(storm.ended.load(Ordering::SeqCst), 0, "each waits to be let go on");
    release.send_replace(true);
    let survivor = match kill_at {
        Some(kill_at) => {
            eventually("it is time to kill", || {
                (storm.ended.load(Ordering::SeqCst) >= kill_at).then_some(())
            });
            gateway.kill();
            None
        }
        None => Some(gateway),
    };
    let mut seen = Seen::default();
    site.block_on(async {
        while let Some(ended) = tasks.join_next().await {
            match ended.expect("a client's own asserts hold") {
                Asked::Answered(outcome) => seen.outcomes.push(outcome),
                Asked::Refused => seen.refused += 1,
                Asked::Gone => seen.gone += 1,
            }
        }
    });
    (survivor, seen)
}

#[test]
fn ten_thousand_at_once_and_kills_leave_a_small_balance_above_its_floor() {
    let begun = Instant::now();
    let kills = number_from_environment("TOLLGATE_FLOOR_KILLS", KILLS);
    let mut rng = Rng::with_seed(number_from_environment("TOLLGATE_CRASH_SEED", SEED));
    let site = Site::new();
    let mut gateway = Gateway::start(&site);
    let mut books = Books::with(&site, &gateway, 1, CREDIT);
    let mut all = Seen::default();
    for round in 0..=kills {
        // While many are held and some are paid.
        let kill_at = (round < kills).then(|| rng.usize(REQUESTS / 50..REQUESTS / 3));
        let (survivor, seen) = storm(&site, gateway, &books.keys[0], kill_at, &mut rng);
        assert_eq!(seen.count(), REQUESTS, "each was asked");
        assert_eq!(seen.gone > 0, kill_at.is_some(), "kills hit what was in flight, and nothing else does");
        gateway = survivor.unwrap_or_else(|| Gateway::start(&site));
        books.check_round(&site, &gateway, &seen.outcomes, &format!("round {round}"));
        books.pay_in_again(&site, &gateway, round);
        all += seen;
    }
    gateway.stop();
    let audit = books.audit(&site, &all.outcomes);
    let tally = Tally::of(&all.outcomes);
    let complete = tally.plain + tally.streamed;
    println!(
        "{} times {REQUESTS} requests at once, {kills} kills: {complete} complete answers verified ({} plain, {} \
         streamed), {} cut, {} refused for want of credit, {} without an answer, {} captures, {} expired holds, \
         lowest {} atto USD, in {:?}",
        kills + 1,
        tally.plain,
        tally.streamed,
        tally.cut,
        all.refused,
        all.gone,
        audit.captures,
        audit.expired,
        audit.lowest,
        begun.elapsed(),
    );
    assert_eq!(audit.verified, complete, "each complete answer was verified");
    assert!(complete >= 300 && all.refused > REQUESTS / 2, "{tally:?}, {} refused", all.refused);
    assert!(audit.expired > 0, "kills hit what was held");
    assert_eq!(audit.lowest, -OVERDRAFT, "all that there is was held, and no more");
}
