//! A kill, an EIO or a full disk at the n-th write or fsync of the real binary's journal, for each n in
//! turn, by strace. What clients were told stands in the books of the next start, whatever it was.
//!
//! ```text
//! TOLLGATE_SWEEP=200 cargo test --test crash sweep -- --nocapture
//! ```

use super::books::Books;
use super::load::Outcome;
use super::support::{Gateway, MODEL, Site, number_from_environment};
use serde_json::{Value, json};
use std::process::Command;
use std::time::Instant;

/// Places of a fault, of each kind.
const PLACES: u64 = 10;
/// What is done at the place.
const FAULTS: [(&str, &str); 5] = [
    ("pwrite64", "signal=SIGKILL"),
    ("fdatasync", "signal=SIGKILL"),
    ("pwrite64", "error=ENOSPC"),
    ("pwrite64", "error=EIO"),
    ("fdatasync", "error=EIO"),
];
/// Requests until a round is given up: enough for the last place.
const REQUESTS_MIN: u64 = 3;
const CUSTOMERS: usize = 2;

/// What came of the rounds.
#[derive(Debug, Default)]
struct Tally {
    rounds: u64,
    kills: u64,
    /// The gateway went on, refused, and said that it was not ready.
    refusals: u64,
    /// It was hit while it started.
    starts: u64,
    /// The place was not reached.
    spared: u64,
}

struct Sweep {
    site: Site,
    books: Books,
    outcomes: Vec<Outcome>,
    tally: Tally,
}

/// How a request ended.
enum Asked {
    Answered(Outcome),
    Refused,
    Gone,
}

impl Sweep {
    fn round(&mut self, (call, fault): (&str, &str), place: u64) {
        self.tally.rounds += 1;
        let journal = self.site.store().join("journal/journal-00000000000000000001.log");
        let prefix = format!(
            "strace -D -f -qq -o /dev/null -P {} -e trace={call} -e inject={call}:{fault}:when={place}",
            journal.display()
        );
        let told = format!("{fault} at {call} {place}");
        let Some(gateway) = Gateway::start_under(&self.site, &prefix) else {
            self.tally.starts += 1;
            return;
        };
        for number in 0..REQUESTS_MIN + place {
            let key = &self.books.keys[usize::try_from(number).expect("small") % CUSTOMERS];
            match self.site.block_on(ask(&self.site, &gateway, key, number)) {
                Asked::Answered(outcome) => self.outcomes.push(outcome),
                Asked::Refused => {
                    assert!(fault.starts_with("error"), "{told}: a refusal without a failure");
                    assert_eq!(self.site.block_on(ready(&self.site, &gateway)), 503, "{told}");
                    self.tally.refusals += 1;
                    gateway.kill_failed();
                    return;
                }
                Asked::Gone => {
                    gateway.was_killed(&told);
                    self.tally.kills += 1;
                    return;
                }
            }
        }
        self.tally.spared += 1;
        gateway.kill_failed();
    }
}

/// A plain or a streamed request, which strace may end in any way.
async fn ask(site: &Site, gateway: &Gateway, key: &str, number: u64) -> Asked {
    let streamed = number.is_multiple_of(2);
    let metadata = json!({ "simulate_tokens": (3 + number % 5).to_string(), "simulate_chunks": "3" });
    let messages = json!([{ "role": "user", "content": "Say something." }]);
    let body: Value =
        json!({ "model": MODEL, "messages": messages, "stream": streamed, "metadata": metadata });
    let request = site.http.post(format!("{}/v1/chat/completions", gateway.url)).bearer_auth(key);
    let Ok(response) = request.json(&body).send().await else { return Asked::Gone };
    let header = |name: &str| {
        let value = response.headers().get(name)?;
        Some(value.to_str().expect("text").to_owned())
    };
    let request = header("x-request-id").expect("each answer has its id");
    let (status, charge) = (response.status().as_u16(), header("x-tollgate-charge"));
    let text = response.text().await;
    if status == 503 {
        return Asked::Refused;
    }
    assert_eq!(status, 200, "{text:?}");
    match text {
        Ok(text) if !streamed || text.contains("data: [DONE]\n") => {
            Asked::Answered(Outcome { request, streamed, complete: true, charge })
        }
        // Cut by a kill, or ended because its charge cannot be written.
        Ok(_) | Err(_) if ready(site, gateway).await == 503 => Asked::Refused,
        Ok(_) | Err(_) => Asked::Gone,
    }
}

/// The status of `/readyz`; 0 if nobody answers.
async fn ready(site: &Site, gateway: &Gateway) -> u16 {
    let asked = site.http.get(format!("{}/readyz", gateway.url)).send().await;
    asked.map_or(0, |response| response.status().as_u16())
}

#[test]
fn a_sweep_of_kills_and_failures_over_writes_and_fsyncs_loses_nothing() {
    let required = std::env::var_os("TOLLGATE_SWEEP").is_some();
    if !Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success()) {
        assert!(!required, "strace is not there");
        eprintln!("strace is not there: nothing was swept");
        return;
    }
    let begun = Instant::now();
    let places = number_from_environment("TOLLGATE_SWEEP", PLACES);
    let site = Site::new();
    let gateway = Gateway::start(&site);
    let books = Books::create(&site, &gateway, CUSTOMERS);
    gateway.stop();
    let mut sweep = Sweep { site, books, outcomes: Vec::new(), tally: Tally::default() };
    for place in 1..=places {
        FAULTS.iter().for_each(|fault| sweep.round(*fault, place));
    }
    let Sweep { site, books, outcomes, tally } = sweep;
    // What the last fault left is put in order, and the books are right.
    Gateway::start(&site).stop();
    let audit = books.audit(&site, &outcomes);
    println!(
        "{tally:?}, {} complete answers verified, {} captures, {} expired holds, in {:?}",
        audit.verified,
        audit.captures,
        audit.expired,
        begun.elapsed()
    );
    assert_eq!(tally.rounds, places * u64::try_from(FAULTS.len()).expect("small"));
    assert_eq!(tally.spared, 0, "each place was reached: {tally:?}");
    assert!(tally.kills >= places && tally.refusals >= places, "{tally:?}");
    assert_eq!(audit.verified, outcomes.len());
    assert!(audit.verified > usize::try_from(places).expect("small"), "{} answers", audit.verified);
}
