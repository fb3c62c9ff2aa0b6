//! kill -9 of the gateway under load, again and again on one store, and then the audit: every
//! complete answer was charged exactly what the provider served, nothing else was, and what was in
//! flight was released.
//!
//! ```text
//! TOLLGATE_CRASH_ROUNDS=1000 TOLLGATE_CRASH_SEED=7 cargo test --release --test crash
//! ```
//!
//! With a slow disk, what is not durable yet stays so for long enough to be hit:
//!
//! ```text
//! TOLLGATE_CRASH_UNDER="strace -D -f -qq -o /dev/null -e inject=pwrite64:delay_enter=20000 -e trace=pwrite64" \
//!     cargo test --test crash
//! ```

#[path = "crash/books.rs"]
mod books;
#[path = "crash/floor.rs"]
mod floor;
#[path = "crash/load.rs"]
mod load;
#[path = "crash/support.rs"]
mod support;
#[path = "crash/sweep.rs"]
mod sweep;

use books::Books;
use fastrand::Rng;
use load::{CLIENTS, Load, Outcome, Tally};
use std::time::{Duration, Instant};
use support::{Gateway, Site, number_from_environment};

const ROUNDS: u64 = 20;
const SEED: u64 = 0xdead;
const CUSTOMERS: usize = 3;
/// Complete answers before a kill.
const ANSWERS_MAX: usize = 400;
/// One round in so many also kills the gateway while it starts again.
const EARLY_KILL_EVERY: u64 = 4;
/// How long a start may go on before it is killed.
const START_MS_MAX: u64 = 120;

struct Campaign {
    seed: u64,
    rng: Rng,
    site: Site,
    books: Books,
    outcomes: Vec<Outcome>,
    kills: u64,
    early_kills: u64,
    expired: u64,
}

impl Campaign {
    /// Loads the gateway, kills it, and holds what clients were told against the books.
    fn round(&mut self, number: u64, gateway: Gateway) -> Gateway {
        let answers = self.rng.usize(0..=ANSWERS_MAX);
        let load = Load::begin(&self.site, &gateway, &self.books.keys, self.rng.fork());
        self.books.pay_in_unheard(&self.site, &gateway, number);
        let mut seen = load.wait_for(answers);
        load.killing();
        gateway.kill();
        self.kills += 1;
        seen.extend(load.end());
        let gateway = self.start_again(number);
        self.books.pay_in_again(&self.site, &gateway, number);
        self.books.check_round(&self.site, &gateway, &seen, &self.told(number));
        self.outcomes.extend(seen);
        gateway
    }

    /// Starts it on the same store, at times after another kill, at times after a look at the store.
    fn start_again(&mut self, number: u64) -> Gateway {
        if number.is_multiple_of(EARLY_KILL_EVERY) {
            let early = Gateway::spawn(&self.site);
            let patience = Duration::from_millis(self.rng.u64(0..START_MS_MAX));
            self.expired += early.kill_within(patience);
            self.early_kills += 1;
        }
        let open = number.is_multiple_of(2).then(|| {
            let verified = self.site.verify_stopped();
            verified["open_holds"].as_u64().expect("a number")
        });
        let gateway = Gateway::start(&self.site);
        let expired = gateway.expired();
        if let Some(open) = open {
            assert_eq!(expired, open, "holds open at the kill are released; {}", self.told(number));
        }
        self.expired += expired;
        gateway
    }

    fn told(&self, number: u64) -> String {
        format!("seed {}, round {number}", self.seed)
    }
}

#[test]
fn what_clients_received_is_charged_exactly_through_kills_at_any_moment() {
    let begun = Instant::now();
    let rounds = number_from_environment("TOLLGATE_CRASH_ROUNDS", ROUNDS);
    let seed = number_from_environment("TOLLGATE_CRASH_SEED", SEED);
    let site = Site::new();
    let mut gateway = Gateway::start(&site);
    let books = Books::create(&site, &gateway, CUSTOMERS);
    let rng = Rng::with_seed(seed);
    let mut campaign =
        Campaign { seed, rng, site, books, outcomes: Vec::new(), kills: 0, early_kills: 0, expired: 0 };
    for number in 1..=rounds {
        gateway = campaign.round(number, gateway);
    }

    // After all that it serves as ever, stops in good order, and the books are right.
    let load = Load::begin(&campaign.site, &gateway, &campaign.books.keys, campaign.rng.fork());
    let mut seen = load.wait_for(CLIENTS);
    load.finishing();
    seen.extend(load.end());
    assert!(seen.iter().all(|outcome| outcome.complete), "seed {seed}: {seen:?}");
    campaign.outcomes.extend(seen);
    gateway.stop();
    let audit = campaign.books.audit(&campaign.site, &campaign.outcomes);
    let tally = Tally::of(&campaign.outcomes);
    println!(
        "{rounds} rounds, {} kills and {} while starting, {} complete answers verified ({} plain, {} streamed), \
         {} streams cut by a kill, {} captures, {} expired holds, in {:?}; seed {seed}",
        campaign.kills,
        campaign.early_kills,
        audit.verified,
        tally.plain,
        tally.streamed,
        tally.cut,
        audit.captures,
        audit.expired,
        begun.elapsed(),
    );
    assert_eq!(campaign.kills, rounds);
    assert_eq!(campaign.early_kills, rounds / EARLY_KILL_EVERY);
    assert_eq!(audit.verified, tally.plain + tally.streamed, "each complete answer was verified");
    assert!(tally.plain > 0 && tally.streamed > 0 && tally.cut > 0, "{tally:?}");
    assert!(audit.verified >= CLIENTS, "{} complete answers", audit.verified);
    assert!(audit.expired > 0 && audit.expired >= campaign.expired, "{} expired holds", audit.expired);
}
