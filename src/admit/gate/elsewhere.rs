//! Gates over a hand-over: what one process let in counts in the one that takes its place, as if it had let it in
//! itself.
//!
//! What is under way stays with the process that has it, which tells the other of each change until it is
//! done. Rates flow on by the limits of the new one. What a gate that is at rest has to tell is nothing, so that
//! only those are passed on that somebody used within the last minute or so, however many there are.

use super::{Gates, Inside, Whose};
use crate::admit::limits::Limits;
use crate::admit::rate::{Bucket, PerMinute};
use crate::clock::Tick;
use crate::id::{CustomerId, KeyId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What counts at a gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// Requests that have not ended.
    pub running: u32,
    /// In the units of buckets.
    requests: u64,
    /// The same.
    tokens: u64,
}

/// What happened at a gate, whatever its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A request was let in.
    Began,
    /// One has ended.
    Ended {
        /// It was at once sent back at the next gate: it is no request.
        sent_back: bool,
    },
    /// One takes so many tokens, in advance or because it used more than that.
    Took(u64),
    /// One used so many less than it took.
    GaveBack(u64),
}

/// Hears of changes.
pub type Tell = Arc<dyn Fn(Whose, Change) + Send + Sync>;

impl Gates {
    /// What counts at all gates that are not at rest, for the process that takes over; `tell` hears of each change
    /// from now on.
    pub fn hand_over(&self, tell: &Tell, now: Tick) -> Vec<(Whose, Used)> {
        let mut all = Vec::new();
        self.each(|whose, inside| {
            inside.tell = Some(Arc::clone(tell));
            let used = inside.used(now);
            all.extend((used != Used::default()).then_some((whose, used)));
        });
        all
    }

    /// Nobody took over.
    pub fn keep(&self) {
        self.each(|_, inside| inside.tell = None);
    }

    /// What counted in the process before, where nothing counts yet.
    pub fn take_over(&self, all: &[(Whose, Used)], now: Tick) {
        for (whose, used) in all {
            self.at(*whose, |inside| {
                inside.elsewhere = used.running;
                inside.requests = Bucket::with_taken(used.requests, now);
                inside.tokens = Bucket::with_taken(used.tokens, now);
            });
        }
    }

    /// Another process has a request under way, and tells this of it.
    pub fn changed_elsewhere(&self, whose: Whose, change: Change, now: Tick) {
        self.at(whose, |inside| {
            match change {
                Change::Began => inside.elsewhere = inside.elsewhere.saturating_add(1),
                Change::Ended { .. } => inside.elsewhere = inside.elsewhere.saturating_sub(1),
                Change::Took(_) | Change::GaveBack(_) => {}
            }
            inside.count(change, now);
        });
    }

    /// Whether two processes let in more of this than may be, so that what the other one is about to begin is too much.
    /// Of tokens that is not asked: what an answer used beyond what was expected is a debt like any other.
    pub fn are_over(&self, key: KeyId, customer: CustomerId, now: Tick) -> bool {
        [Whose::Key(key), Whose::Customer(customer)].into_iter().any(|whose| {
            let mut over = false;
            self.at(whose, |inside| over = inside.is_over(now));
            over
        })
    }

    /// Who had so many requests is gone, and nobody knows what they used.
    pub fn lost(&self, whose: Whose, running: u32) {
        self.at(whose, |inside| inside.elsewhere = inside.elsewhere.saturating_sub(running));
    }

    fn at(&self, whose: Whose, act: impl FnOnce(&mut Inside)) {
        // What has no limits by now has no gate: nothing is counted there.
        if let Some(gate) = self.gate(whose) {
            act(&mut gate.0.lock());
        }
    }

    fn each(&self, mut act: impl FnMut(Whose, &mut Inside)) {
        self.keys.iter().for_each(|gate| act(Whose::Key(*gate.key()), &mut gate.0.lock()));
        self.customers.iter().for_each(|gate| act(Whose::Customer(*gate.key()), &mut gate.0.lock()));
    }
}

impl Inside {
    /// Here and elsewhere.
    pub(super) fn under_way(&self) -> u32 {
        self.running.saturating_add(self.elsewhere)
    }

    pub(super) fn tell(&self, whose: Whose, change: Change) {
        if let Some(tell) = &self.tell {
            tell(whose, change);
        }
    }

    fn is_over(&self, now: Tick) -> bool {
        let Limits { concurrency, rpm, .. } = self.limits;
        concurrency.is_some_and(|max| self.under_way() > max)
            || rpm.is_some_and(|rpm| self.requests.is_over(PerMinute(rpm), now))
    }

    /// Counts what happened, there or not: what was used is used.
    pub(super) fn count(&mut self, change: Change, now: Tick) {
        if let Some(rate) = self.limits.rpm.map(PerMinute) {
            match change {
                Change::Began => self.requests.owe(1, rate, now),
                Change::Ended { sent_back: true } => self.requests.give_back(1, rate, now),
                Change::Ended { sent_back: false } | Change::Took(_) | Change::GaveBack(_) => {}
            }
        }
        if let Some(rate) = self.limits.tpm.map(PerMinute) {
            match change {
                Change::Took(tokens) => self.tokens.owe(tokens, rate, now),
                Change::GaveBack(tokens) => self.tokens.give_back(tokens, rate, now),
                Change::Began | Change::Ended { .. } => {}
            }
        }
    }

    /// Of a rate that is not limited, nothing counts.
    fn used(&self, now: Tick) -> Used {
        let taken =
            |rate: Option<u64>, bucket: &Bucket| rate.map_or(0, |rate| bucket.taken(PerMinute(rate), now));
        Used {
            running: self.under_way(),
            requests: taken(self.limits.rpm, &self.requests),
            tokens: taken(self.limits.tpm, &self.tokens),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Passed;
    use super::super::tests::{gates, knock};
    use super::*;
    use crate::auth::Caller;
    use serde_json::json;
    use std::sync::mpsc;

    /// How far the clocks of the two processes are apart.
    const APART_US: u64 = 7_654_321;
    const SECOND: u64 = 1_000_000;

    /// Which process a client is connected to.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum At {
        Old,
        New,
    }

    /// Two processes, and one that lets in alone what both of them do.
    struct Scene {
        old: Gates,
        new: Gates,
        alone: Gates,
        caller: Caller,
        told: mpsc::Receiver<(Whose, Change)>,
        /// In the new process, and where all is one.
        now: u64,
        under_way: Vec<(At, Passed, Passed)>,
    }

    /// A key and its customer of a kind.
    fn limited() -> (Gates, Caller) {
        let key = json!({ "rpm": 7, "tpm": 1000, "concurrency": 4 });
        gates(key, json!({ "rpm": 9, "tpm": 900, "concurrency": 3 }))
    }

    /// Hands over, through JSON as between processes.
    fn hand_over(old: &Gates, new: &Gates, now: u64) -> mpsc::Receiver<(Whose, Change)> {
        let (changes, told) = mpsc::channel();
        // Whoever ends after a test is over tells nobody.
        let tell: Tell = Arc::new(move |whose, change| {
            let _ = changes.send((whose, change));
        });
        let used = old.hand_over(&tell, Tick(now + APART_US));
        let used: Vec<_> = serde_json::from_str(&serde_json::to_string(&used).unwrap()).unwrap();
        new.take_over(&used, Tick(now));
        told
    }

    impl Scene {
        fn new(before: &[u64]) -> Self {
            let ((old, caller), (new, _), (alone, _)) = (limited(), limited(), limited());
            let mut under_way = Vec::new();
            for tokens in before {
                let [mut theirs, mut one] = [(&old, APART_US), (&alone, 0)]
                    .map(|(gates, at)| gates.pass(&caller, knock(at)).unwrap().unwrap());
                theirs.demand("m", *tokens, Tick(APART_US)).unwrap();
                one.demand("m", *tokens, Tick(0)).unwrap();
                under_way.push((At::Old, theirs, one));
            }
            let told = hand_over(&old, &new, 0);
            Scene { old, new, alone, caller, told, now: 0, under_way }
        }

        fn clock(&self, at: At) -> u64 {
            self.now + if at == At::Old { APART_US } else { 0 }
        }

        /// Whether it is let in, and may have so many tokens: at the new process as if it were alone. The old one
        /// may think otherwise; only what both take is done.
        fn begin(&mut self, at: At, tokens: u64) -> bool {
            let (now, there) = (Tick(self.now), Tick(self.clock(at)));
            let gates = if at == At::Old { &self.old } else { &self.new };
            let pass = |gates: &Gates, now: Tick| gates.pass(&self.caller, knock(now.0)).map(Option::unwrap);
            let mut one = match (pass(&self.alone, now), at) {
                (Ok(one), _) => one,
                (Err(_), At::Old) => return false,
                (Err(shut), At::New) => {
                    assert_eq!(pass(gates, there).err(), Some(shut));
                    return false;
                }
            };
            let mut theirs = match (pass(gates, there), at) {
                (Ok(theirs), _) => theirs,
                (Err(_), At::Old) => {
                    one.in_order = false;
                    return false;
                }
                (Err(shut), At::New) => panic!("{shut:?}"),
            };
            let may = one.demand("m", tokens, now);
            match at {
                At::New => assert_eq!(theirs.demand("m", tokens, there), may),
                At::Old if may.is_ok() && theirs.demand("m", tokens, there).is_err() => one.used(0, now),
                At::Old => {}
            }
            self.under_way.push((at, theirs, one));
            may.is_ok()
        }

        fn end(&mut self, number: usize, tokens: u64) {
            let (at, mut theirs, mut one) = self.under_way.swap_remove(number);
            theirs.used(tokens, Tick(self.clock(at)));
            one.used(tokens, Tick(self.now));
        }

        /// The new process counts as one that did all itself.
        fn is_as_one(&self) {
            for (whose, change) in self.told.try_iter() {
                self.new.changed_elsewhere(whose, change, Tick(self.now));
            }
            let whose = [Whose::Key(self.caller.key()), Whose::Customer(self.caller.customer())];
            for whose in whose {
                let [new, alone] = [&self.new, &self.alone]
                    .map(|gates| gates.gate(whose).unwrap().0.lock().used(Tick(self.now)));
                assert_eq!(new, alone, "{whose:?} after {} us", self.now);
            }
        }
    }

    /// Requests of both processes in any order, some of them begun `before` the hand-over with so many tokens.
    fn check(before: &[u64], seed: u64) -> [usize; 3] {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut scene = Scene::new(before);
        let [mut by_old, mut by_new, mut refused] = [0; 3];
        scene.is_as_one();
        for _ in 0..200 {
            scene.now += random.u64(..60 * SECOND) * u64::from(random.bool());
            if !scene.under_way.is_empty() && random.bool() {
                scene.end(random.usize(..scene.under_way.len()), random.u64(..300));
            } else {
                let at = if random.bool() { At::Old } else { At::New };
                match (scene.begin(at, random.u64(..300)), at) {
                    (true, At::Old) => by_old += 1,
                    (true, At::New) => by_new += 1,
                    (false, _) => refused += 1,
                }
            }
            scene.is_as_one();
        }
        scene.under_way.clear();
        scene.is_as_one();
        [by_old, by_new, refused]
    }

    #[test]
    fn two_processes_let_in_what_one_would() {
        let mut done = [0; 3];
        for seed in 0..100 {
            let before = [&[][..], &[300], &[10, 0], &[400, 200, 300]][usize::try_from(seed % 4).unwrap()];
            let more = check(before, seed);
            done = std::array::from_fn(|at| done[at] + more[at]);
        }
        assert!(done.iter().all(|count| *count > 500), "{done:?}");
    }

    #[test]
    fn what_the_second_gate_sends_back_is_no_request_elsewhere_either() {
        let scene = Scene::new(&[1, 1]);
        let third = scene.old.pass(&scene.caller, knock(APART_US)).unwrap();
        // The fourth is let in by its key, and not by its customer.
        assert!(scene.old.pass(&scene.caller, knock(APART_US)).is_err());
        let told: Vec<_> = scene.told.try_iter().map(|(_, change)| change).collect();
        assert_eq!(told, [Change::Began, Change::Began, Change::Began, Change::Ended { sent_back: true }]);
        drop(third);
    }

    #[test]
    fn what_both_let_in_beyond_a_limit_is_seen_until_it_has_ended_or_flowed_back() {
        let minute = 60 * SECOND;
        for (limits, over_until) in [
            (json!({ "concurrency": 2 }), [true, false, false]),
            (json!({ "rpm": 2 }), [true, true, false]),
            (json!({ "tpm": 100 }), [false, false, false]),
        ] {
            let ((old, caller), (new, _)) =
                (gates(limits.clone(), json!({})), gates(json!({}), limits.clone()));
            let told = hand_over(&old, &new, 0);
            let is_over = |now| {
                for (_, change) in told.try_iter() {
                    new.changed_elsewhere(Whose::Customer(caller.customer()), change, Tick(0));
                }
                new.are_over(caller.key(), caller.customer(), Tick(now))
            };
            let let_in = |gates: &Gates, at| {
                let mut passed = gates.pass(&caller, knock(at)).unwrap().unwrap();
                passed.demand("m", 60, Tick(at)).map(|()| passed)
            };
            let first = let_in(&new, 0).unwrap();
            let second = let_in(&old, APART_US).unwrap();
            assert!(!is_over(0), "{limits}");
            let third = let_in(&old, APART_US);
            let over = is_over(0);
            drop((first, second, third));
            assert_eq!([over, is_over(0), is_over(minute / 2)], over_until, "{limits}");
        }
    }

    #[test]
    fn of_many_gates_only_those_in_use_are_passed_on() {
        let (old, caller) = limited();
        for number in 10..10_000 {
            old.set_key(KeyId::from_int(number), Limits { rpm: Some(1), ..Limits::default() });
        }
        let passed = old.pass(&caller, knock(0)).unwrap();
        let tell: Tell = Arc::new(|_, _| ());
        assert_eq!(old.hand_over(&tell, Tick(0)).len(), 2);
        drop(passed);
        // A request flows back within a minute.
        assert_eq!(old.hand_over(&tell, Tick(59 * SECOND)).len(), 0);
    }

    #[test]
    fn who_is_gone_has_nothing_under_way_and_who_keeps_all_tells_nobody() {
        let mut scene = Scene::new(&[100]);
        let whose = Whose::Key(scene.caller.key());
        let used = |scene: &Scene| scene.new.gate(whose).unwrap().0.lock().used(Tick(0));
        let before = used(&scene);
        assert_eq!(before.running, 1);
        scene.new.lost(whose, 1);
        assert_eq!(used(&scene), Used { running: 0, ..before }, "what it took stays taken");
        scene.old.keep();
        scene.end(0, 5);
        assert_eq!(scene.told.try_iter().count(), 0);
    }
}
