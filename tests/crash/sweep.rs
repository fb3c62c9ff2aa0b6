//! A kill, an EIO or a full disk at the n-th write or fsync of the real binary's journal, and of its state
//! store, for each n in turn, by strace. What clients were told stands in the books of the next start,
//! whatever it was. A state store that fails is mended, and no client is told of it.
//!
//! ```text
//! TOLLGATE_SWEEP=200 cargo test --test crash sweep -- --nocapture
//! ```

use super::books::Books;
use super::load::Outcome;
use super::support::{Gateway, MODEL, PATIENCE, Site, number_from_environment};
use serde_json::{Value, json};
use std::process::Command;
use std::time::Instant;

/// Places of a fault, of each kind.
const PLACES: u64 = 10;
/// In the state store, which is written a few times in a second.
const PLACES_OF_STATE: u64 = 2;
/// What is done at the place, in the journal.
const FAULTS: [(&str, &str); 5] = [
    ("pwrite64", "signal=SIGKILL"),
    ("fdatasync", "signal=SIGKILL"),
    ("pwrite64", "error=ENOSPC"),
    ("pwrite64", "error=EIO"),
    ("fdatasync", "error=EIO"),
];
/// What is done at the place, in the state store: its library writes, and calls `sync_file_range`; we
/// sync what it wrote.
const FAULTS_OF_STATE: [(&str, &str); 6] = [
    ("pwrite64", "signal=SIGKILL"),
    ("fdatasync", "signal=SIGKILL"),
    ("pwrite64", "error=ENOSPC"),
    ("pwrite64", "error=EIO"),
    ("sync_file_range", "error=EIO"),
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
    /// The state store failed, and was mended while requests went on.
    mended: u64,
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
        let told = format!("{fault} at {call} {place}");
        let started = self.start("journal/journal-00000000000000000001.log", (call, fault), place);
        let Some(gateway) = started else { return };
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

    /// A fault in the state store: requests go on, until it kills the gateway or was mended.
    fn round_of_state(&mut self, (call, fault): (&str, &str), place: u64) {
        self.tally.rounds += 1;
        let told = format!("{fault} at {call} {place} of the state store");
        let Some(gateway) = self.start("state/db", (call, fault), place) else { return };
        let begun = Instant::now();
        for number in 0.. {
            assert!(begun.elapsed() < PATIENCE, "{told}: neither killed nor mended");
            let key = &self.books.keys[usize::try_from(number).expect("small") % CUSTOMERS];
            match self.site.block_on(ask(&self.site, &gateway, key, number)) {
                Asked::Answered(outcome) => self.outcomes.push(outcome),
                Asked::Refused => panic!("{told}: a client was told"),
                Asked::Gone => {
                    gateway.was_killed(&told);
                    self.tally.kills += 1;
                    return;
                }
            }
            if gateway.was_mended() {
                assert!(fault.starts_with("error"), "{told}: mended without a failure");
                assert_eq!(self.site.block_on(ready(&self.site, &gateway)), 200, "{told}");
                self.tally.mended += 1;
                gateway.kill_failed();
                return;
            }
        }
    }

    /// Starts a gateway in which the fault waits at this place of a file; none if it ended by that.
    fn start(&mut self, file: &str, (call, fault): (&str, &str), place: u64) -> Option<Gateway> {
        let file = self.site.store().join(file);
        let prefix = format!(
            "strace -D -f -qq -o /dev/null -P {} -e trace={call} -e inject={call}:{fault}:when={place}",
            file.display()
        );
        let gateway = Gateway::start_under(&self.site, &prefix);
        self.tally.starts += u64::from(gateway.is_none());
        gateway
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
    let places_of_state = PLACES_OF_STATE.max(places / 5);
    for place in 1..=places_of_state {
        FAULTS_OF_STATE.iter().for_each(|fault| sweep.round_of_state(*fault, place));
        // A store that was killed or mended in the middle of a write is whole: this complains otherwise.
        Gateway::start(&sweep.site).kill();
    }
    let Sweep { site, books, outcomes, tally } = sweep;
    // What the last fault left is put in order, it serves as ever, and the books are right.
    let gateway = Gateway::start(&site);
    let last = site.block_on(ask(&site, &gateway, &books.keys[0], 0));
    assert!(matches!(last, Asked::Answered(_)), "it serves");
    gateway.stop();
    let audit = books.audit(&site, &outcomes);
    println!(
        "{tally:?}, {} complete answers verified, {} captures, {} expired holds, in {:?}",
        audit.verified,
        audit.captures,
        audit.expired,
        begun.elapsed()
    );
    let count = |faults: &[(&str, &str)]| u64::try_from(faults.len()).expect("small");
    assert_eq!(tally.rounds, places * count(&FAULTS) + places_of_state * count(&FAULTS_OF_STATE));
    assert!(tally.mended >= places_of_state, "{tally:?}");
    assert_eq!(tally.spared, 0, "each place was reached: {tally:?}");
    assert!(tally.kills >= places && tally.refusals >= places, "{tally:?}");
    assert_eq!(audit.verified, outcomes.len());
    assert!(audit.verified > usize::try_from(places).expect("small"), "{} answers", audit.verified);
}
