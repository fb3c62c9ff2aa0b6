//! Ten thousand requests on a small balance that may be overdrawn a little, hundreds at once over HTTP/1.1
//! and HTTP/2, with kills in between: the balance is never below its floor, what is charged is what the
//! provider served, and every complete answer has its charge.
//!
//! ```text
//! TOLLGATE_FLOOR_REQUESTS=100000 TOLLGATE_FLOOR_KILLS=50 cargo test --release --test crash floor -- --nocapture
//! ```

use super::books::{Books, Credit};
use super::load::{Outcome, Tally};
use super::support::{Gateway, MODEL, PATIENCE, Site, eventually, number_from_environment};
use fastrand::Rng;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tokio::task::JoinSet;

const REQUESTS: u64 = 10_000;
const KILLS: u64 = 4;
const SEED: u64 = 0xf100;
/// Each with a connection of its own, below what one address may have.
const H1_CLIENTS: usize = 64;
/// Each with as many requests at once as one connection may have.
const H2_CONNECTIONS: usize = 6;
const H2_STREAMS: usize = 100;
/// Of the balance, in units of 1e-18 USD.
const OVERDRAFT: i128 = 20_000_000_000_000_000;
const CREDIT: Credit = Credit { deposit: "0.08", overdraft: "0.02" };

/// What came of one request.
enum Asked {
    Answered(Outcome),
    /// The credit does not reach.
    Refused,
    /// The gateway was killed.
    Gone,
}

/// What is shared by all clients.
struct Storm {
    url: String,
    key: String,
    /// Requests that may still be begun.
    left: AtomicUsize,
    /// Requests that have ended.
    ended: AtomicUsize,
}

#[derive(Default)]
struct Seen {
    outcomes: Vec<Outcome>,
    refused: usize,
    gone: usize,
}

impl Storm {
    /// Asks until no more is to be begun or the gateway is gone.
    async fn ask_on(self: Arc<Self>, http: reqwest::Client, mut rng: Rng) -> Seen {
        let mut seen = Seen::default();
        let takes = |left: usize| left.checked_sub(1);
        while self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, takes).is_ok() {
            let asked = self.ask(&http, &mut rng).await;
            self.ended.fetch_add(1, Ordering::SeqCst);
            match asked {
                Asked::Answered(outcome) => seen.outcomes.push(outcome),
                Asked::Refused => seen.refused += 1,
                Asked::Gone => {
                    seen.gone += 1;
                    break;
                }
            }
        }
        seen
    }

    async fn ask(&self, http: &reqwest::Client, rng: &mut Rng) -> Asked {
        let (body, streamed) = request(rng);
        let request = http.post(&self.url).bearer_auth(&self.key).json(&body);
        let Ok(mut response) = request.send().await else { return Asked::Gone };
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
fn request(rng: &mut Rng) -> (Value, bool) {
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
    (body, streamed)
}

/// Sends so many requests; kills the gateway once `kill_at` of them have ended.
fn storm(
    site: &Site,
    gateway: Gateway,
    key: &str,
    requests: usize,
    kill_at: Option<usize>,
    rng: &mut Rng,
) -> (Option<Gateway>, Seen, usize) {
    let url = format!("{}/v1/chat/completions", gateway.url);
    let storm =
        Arc::new(Storm { url, key: key.to_owned(), left: requests.into(), ended: AtomicUsize::new(0) });
    let builder = || reqwest::Client::builder().no_proxy().timeout(PATIENCE);
    let h1 = builder().http1_only().build().expect("a client");
    let h2 = || builder().http2_prior_knowledge().build().expect("a client");
    let h2 = std::iter::repeat_with(h2).take(H2_CONNECTIONS);
    let clients = std::iter::repeat_n(h1, H1_CLIENTS);
    let clients = clients.chain(h2.flat_map(|client| std::iter::repeat_n(client, H2_STREAMS)));
    let mut tasks = JoinSet::new();
    for client in clients {
        tasks.spawn_on(Arc::clone(&storm).ask_on(client, rng.fork()), site.runtime.handle());
    }
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
    let mut all = Seen::default();
    site.block_on(async {
        while let Some(ended) = tasks.join_next().await {
            let Seen { outcomes, refused, gone } = ended.expect("a client's own asserts hold");
            all.outcomes.extend(outcomes);
            all.refused += refused;
            all.gone += gone;
        }
    });
    (survivor, all, storm.left.load(Ordering::SeqCst))
}

#[test]
fn ten_thousand_requests_and_kills_leave_a_small_balance_above_its_floor() {
    let begun = Instant::now();
    let number =
        |name, otherwise| usize::try_from(number_from_environment(name, otherwise)).expect("it fits");
    let (requests, kills) =
        (number("TOLLGATE_FLOOR_REQUESTS", REQUESTS), number("TOLLGATE_FLOOR_KILLS", KILLS));
    let mut rng = Rng::with_seed(number_from_environment("TOLLGATE_CRASH_SEED", SEED));
    let site = Site::new();
    let mut gateway = Gateway::start(&site);
    let books = Books::with(&site, &gateway, 1, CREDIT);
    let (mut left, mut seen) = (requests, Seen::default());
    for kill in 0..=kills {
        // In the middle of its share of what is left.
        let kill_at = (kill < kills).then(|| left / (2 * (kills + 1 - kill)));
        let (survivor, round, unasked) = storm(&site, gateway, &books.keys[0], left, kill_at, &mut rng);
        let told = format!("round {kill}");
        gateway = survivor.unwrap_or_else(|| Gateway::start(&site));
        books.check_round(&site, &gateway, &round.outcomes, &told);
        left = unasked;
        seen.outcomes.extend(round.outcomes);
        seen.refused += round.refused;
        seen.gone += round.gone;
    }
    gateway.stop();
    let audit = books.audit(&site, &seen.outcomes);
    let tally = Tally::of(&seen.outcomes);
    let complete = tally.plain + tally.streamed;
    println!(
        "{requests} requests, {kills} kills: {complete} complete answers verified ({} plain, {} streamed), {} cut, \
         {} refused for want of credit, {} without an answer, {} captures, {} expired holds, lowest {} atto USD, in {:?}",
        tally.plain,
        tally.streamed,
        tally.cut,
        seen.refused,
        seen.gone,
        audit.captures,
        audit.expired,
        audit.lowest,
        begun.elapsed(),
    );
    assert_eq!((left, seen.outcomes.len() + seen.refused + seen.gone), (0, requests), "each was asked");
    assert_eq!(audit.verified, complete, "each complete answer was verified");
    assert!(complete > requests / 20 && seen.refused > requests / 20, "{tally:?}, {} refused", seen.refused);
    assert!(seen.gone > 0 && audit.expired > 0, "kills hit what was in flight");
    assert_eq!(audit.lowest, -OVERDRAFT, "all that there is was held, and no more");
}
