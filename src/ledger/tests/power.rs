//! Lost power and killed processes at any operation on the disk, again and again on one store.
//!
//! What was acknowledged, and what the state store was told, is there afterwards; nothing that was
//! ever durable changes; the store always opens.
//!
//! ```text
//! TOLLGATE_POWER_SEEDS=100000 cargo test --release --lib power
//! ```

use super::super::entry::{Entry, Seq};
use super::super::index::Index;
use super::super::line::Down;
use super::super::recover::recover;
use super::super::state::Snapshot;
use super::super::{Commit, Failure, Hold, Refusal, Window};
use super::bench::{ADA, Bench, DEPOSIT, Save, Told, atto, block_on, read, recompute, record};
use super::memory::{Memory, Operation};
use crate::id::RequestId;
use fastrand::Rng;
use std::collections::HashSet;
use std::sync::Arc;

const SEEDS: u64 = 200;
/// Deaths that one store survives.
const LIVES: usize = 6;
/// Commands between two waits.
const BURST_MAX: usize = 8;
/// Bursts before a life ends without its death.
const BURSTS_MAX: usize = 40;

/// One store and all that is known of it from outside.
struct World {
    seed: u64,
    rng: Rng,
    memory: Memory,
    /// The journal as it was last read, and what was told since.
    history: Vec<Entry>,
    /// How much of it is known to be durable.
    durable: usize,
    /// What commands were told to be durable: the entry, and what it ends with.
    acknowledged: Vec<(Seq, RequestId)>,
    /// What the state store has on disk.
    saved: Option<Save>,
    next_request: u128,
    counts: Counts,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    lives: usize,
    deaths: usize,
    power_cuts: usize,
    torn: usize,
    expired: usize,
    acknowledged: usize,
    lost: usize,
    /// Entries that a start did not fold, and sidecars that it made again.
    spared: usize,
    indexed: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        World {
            seed,
            rng: Rng::with_seed(seed),
            memory: Memory::default(),
            history: Vec::new(),
            durable: 0,
            acknowledged: Vec::new(),
            saved: None,
            next_request: 0,
            counts: Counts::default(),
        }
    }

    fn live(&mut self) {
        self.check();
        self.counts.lives += 1;
        // Early, in the middle of opening, or later.
        let nth = if self.rng.u32(0..4) == 0 { self.rng.usize(1..6) } else { self.rng.usize(1..150) };
        self.memory.die_at(nth, self.rng.u64(..));
        let told = Told::default();
        if let Some(bench) = self.open(&told) {
            self.load(&bench);
            bench.ledger.close();
        }
        self.note(told.take());
        self.counts.deaths += usize::from(self.memory.is_dead());
        self.memory = if self.rng.bool() {
            self.counts.power_cuts += 1;
            self.memory.power_cut(&mut self.rng)
        } else {
            self.memory.killed()
        };
    }

    fn snapshot(&self) -> Option<Snapshot> {
        self.saved.as_ref().map(Save::snapshot)
    }

    fn open(&mut self, told: &Told) -> Option<Bench> {
        let opened = Bench::open(Arc::new(self.memory.clone()), self.snapshot(), told, Box::new(|_| {}));
        match opened {
            Ok(bench) => {
                assert!(bench.fits, "seed {}: the state store fits", self.seed);
                self.counts.torn += usize::from(bench.torn_bytes > 0);
                self.counts.expired += bench.expired.released;
                Some(bench)
            }
            Err(why) => {
                assert!(self.memory.is_dead(), "seed {}: it does not open: {why:?}", self.seed);
                None
            }
        }
    }

    /// Commands in bursts, until the disk is gone.
    fn load(&mut self, bench: &Bench) {
        // What is there already, or was lost in the middle, is refused or made.
        let reference = format!("life {}", self.counts.lives);
        if bench.create_ada_again(&reference) == Err(Failure::Down) {
            return;
        }
        let mut holds = Vec::new();
        for _ in 0..BURSTS_MAX {
            let mut waiting = Vec::new();
            for _ in 0..self.rng.usize(1..=BURST_MAX) {
                waiting.extend(self.command(bench, &mut holds));
            }
            let outcomes: Vec<_> =
                waiting.into_iter().map(|(request, commit)| (request, wait(commit))).collect();
            let down = outcomes.iter().any(|(_, outcome)| outcome.is_err());
            for (request, outcome) in outcomes {
                if let Ok(seq) = outcome {
                    self.acknowledged.push((seq, request));
                    self.counts.acknowledged += 1;
                }
            }
            if down || self.memory.is_dead() {
                return;
            }
        }
    }

    fn command(&mut self, bench: &Bench, holds: &mut Vec<(RequestId, Hold)>) -> Option<(RequestId, Commit)> {
        if holds.is_empty() || self.rng.u32(0..5) < 3 {
            self.next_request += 1;
            let request = RequestId::from_int(self.next_request);
            let (hold, commit) = match bench.hold(self.next_request, self.rng.i128(0..2_000)) {
                Ok(held) => held,
                Err(Failure::Down | Failure::Refused(Refusal::InsufficientCredit { .. })) => return None,
                Err(other) => panic!("seed {}: {other:?}", self.seed),
            };
            holds.push((request, hold));
            return Some((request, commit));
        }
        let (request, hold) = holds.swap_remove(self.rng.usize(..holds.len()));
        if self.rng.u32(0..5) == 0 {
            return Some((request, hold.release(Arc::from(&[][..])).commit));
        }
        let charge = self.rng.i128(0..2_500);
        Some((request, hold.capture(atto(charge), record(charge)).commit))
    }

    /// Takes in what the state store was told: durable, entry by entry, after what was read.
    fn note(&mut self, saves: Vec<Save>) {
        for save in &saves {
            for entry in &save.entries {
                let place = usize::try_from(entry.seq.0).unwrap() - 1;
                assert!(place >= self.durable, "seed {}: entry {} twice", self.seed, entry.seq);
                self.history.truncate(place);
                assert_eq!(self.history.len(), place, "seed {}: a gap", self.seed);
                self.history.push(entry.clone());
                self.durable = self.history.len();
            }
        }
        // It may be behind by any number of groups, or be lost.
        match self.rng.u32(0..8) {
            0 => self.saved = None,
            1 => {}
            _ if saves.is_empty() => {}
            _ => {
                let last = self.rng.usize(..saves.len());
                self.saved = saves
                    .into_iter()
                    .nth(last)
                    .filter(|save| save.head.seq > Seq::START)
                    .or(self.saved.take());
            }
        }
        let acknowledged = self.acknowledged.iter().map(|(seq, _)| *seq).max().unwrap_or_default();
        let durable = u64::try_from(self.durable).unwrap();
        assert!(acknowledged.0 <= durable, "seed {}: told before it was durable", self.seed);
    }

    /// Holds the journal on disk against all that is known of it.
    fn check(&mut self) {
        let seed = self.seed;
        let known = self.saved.as_ref().map_or(Seq::START, |save| save.head.seq);
        let (found, _) = read(&self.memory, known).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        assert!(found.len() >= self.durable, "seed {seed}: {} of {} entries", found.len(), self.durable);
        assert!(
            found[..self.durable] == self.history[..self.durable],
            "seed {seed}: a durable entry changed"
        );
        self.counts.lost += self.history.len().saturating_sub(found.len());
        self.history = found;
        for (seq, request) in &self.acknowledged {
            let entry = &self.history[usize::try_from(seq.0).unwrap() - 1];
            assert_eq!(entry.change.request(), Some(*request), "seed {seed}: entry {seq}");
        }
        let ends: Vec<_> = self
            .history
            .iter()
            .filter(|entry| matches!(entry.change.name(), "capture" | "release"))
            .collect();
        let distinct: HashSet<_> = ends.iter().map(|entry| entry.change.request()).collect();
        assert_eq!(distinct.len(), ends.len(), "seed {seed}: I4: a hold ended twice");
        self.check_bounded();
    }

    /// From the state, and from the whole journal, a start comes to the same book and finds the same.
    fn check_bounded(&mut self) {
        let (seed, request) = (self.seed, RequestId::from_int(self.rng.u128(0..=self.next_request)));
        let memory = self.memory.copy();
        let bounded = recover(&memory, self.snapshot()).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        let whole = recover(&memory, None).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        assert_eq!((&bounded.book, bounded.journal.head), (&whole.book, whole.journal.head), "seed {seed}");
        assert_eq!(bounded.index.bookings, whole.index.bookings, "seed {seed}");
        self.counts.spared += self.history.len() - usize::try_from(bounded.replayed).unwrap();
        self.counts.indexed += bounded.indexed;
        let index = Index::start(Arc::new(memory), bounded.index).expect("a thread");
        let expect: Vec<Entry> =
            self.history.iter().filter(|entry| entry.change.request() == Some(request)).cloned().collect();
        assert_eq!(index.of_request(request).expect("readable"), expect, "seed {seed}: {request}");
        let statement = index.of_customer(ADA, &Window::default(), usize::MAX).expect("readable");
        assert!(statement == self.history, "seed {seed}: the statement");
        index.close();
    }

    /// A last start without a fault: all ends well.
    fn end(&mut self) {
        self.check();
        let told = Told::default();
        let bench = self.open(&told).expect("nothing fails now");
        let verified = bench.ledger.verify(&recompute, None);
        let verified = verified.unwrap_or_else(|why| panic!("seed {}: {why}", self.seed));
        assert_eq!(verified.open_holds, 0, "seed {}: I4", self.seed);
        bench.ledger.close();
        self.note(told.take());
        self.check();
    }
}

fn wait(mut commit: Commit) -> Result<Seq, Down> {
    block_on(commit.durable())
}

#[test]
fn what_was_acknowledged_survives_lost_power_and_kills_at_any_operation() {
    let seeds = std::env::var("TOLLGATE_POWER_SEEDS").map_or(SEEDS, |text| text.parse().expect("a number"));
    let mut all = Counts::default();
    for seed in 0..seeds {
        let mut world = World::new(seed);
        (0..LIVES).for_each(|_| world.live());
        world.end();
        let Counts { lives, deaths, power_cuts, torn, expired, acknowledged, lost, spared, indexed } =
            world.counts;
        all.lives += lives;
        all.deaths += deaths;
        all.power_cuts += power_cuts;
        all.torn += torn;
        all.expired += expired;
        all.acknowledged += acknowledged;
        all.lost += lost;
        all.spared += spared;
        all.indexed += indexed;
    }
    println!("{seeds} seeds: {all:?}");
    let seeds = usize::try_from(seeds).unwrap();
    assert_eq!(all.lives, seeds * LIVES);
    assert!(all.deaths > seeds * 3 && all.power_cuts > seeds * 2 && all.torn > seeds / 2, "{all:?}");
    assert!(all.acknowledged > seeds * 50 && all.expired > seeds, "{all:?}");
    assert!(all.spared > seeds * 100 && all.indexed > seeds / 20, "{all:?}");
}

/// A killed process leaves entries that were written but not synced. The next one reads them and
/// builds on them, in the journal and in the state store, before the power goes.
#[test]
fn what_a_restart_found_is_durable_before_anything_is_built_on_it() {
    for (seed, goes_on) in (0..32).flat_map(|seed| [(seed, false), (seed, true)]) {
        let memory = Memory::default();
        let bench = Bench::on(&memory).expect("a new store");
        bench.create_ada().expect("new");
        memory.fail(Operation::Sync, 1, 5);
        let deposit = bench.ledger.deposit(ADA, atto(3), "second".into());
        assert_eq!(block_on(deposit), Err(Failure::Down));
        bench.ledger.close();

        let memory = memory.killed();
        let told = Told::default();
        let bench =
            Bench::open(Arc::new(memory.clone()), None, &told, Box::new(|_| {})).expect("a good store");
        assert_eq!(bench.entries, Seq(4), "the deposit is in the cache");
        if goes_on {
            memory.fail(Operation::Sync, 1, 5);
            assert_eq!(bench.charge(1, 5), Err(Failure::Down));
        }
        bench.ledger.close();
        let save = told.take().into_iter().next().expect("the state is made anew");
        let head = save.head;

        let memory = memory.power_cut(&mut Rng::with_seed(seed));
        let bench = Bench::open(Arc::new(memory), Some(save.snapshot()), &Told::default(), Box::new(|_| {}));
        let bench = bench.unwrap_or_else(|why| panic!("seed {seed}: {why:?}"));
        assert!(bench.entries >= head.seq && bench.fits, "seed {seed}");
        let balance = bench.ledger.customer(ADA, |customer| customer.balance.posted()).expect("known");
        // The charge that failed may be there or not.
        let charged = if goes_on { 5 } else { 0 };
        assert!([0, charged].map(|charged| atto(DEPOSIT + 3 - charged)).contains(&balance), "seed {seed}");
    }
}
