//! What counts against limits: those of upstream accounts, and those of keys and customers.

use super::guests::Guest;
use super::{GATES_MAX, Word};
use crate::admit::gate::{self, Gates, Used, Whose};
use crate::clock::{Tick, Timestamp};
use crate::id::{CustomerId, KeyId};
use crate::live::Current;
use crate::upstream::limits::{self, Counts, UnderWay};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tokio::sync::mpsc;

/// All that counts in this process.
#[derive(Clone)]
pub struct Counted {
    live: Current,
    gates: Arc<Gates>,
    /// Changes that another process is to be told, and was not yet.
    untold: Arc<AtomicUsize>,
}

/// What counted in the process before, by the names of upstream accounts and by the ids of keys and customers.
#[derive(Default)]
pub struct Before {
    pub(super) accounts: Vec<(Arc<str>, Counts)>,
    pub(super) gates: Vec<(Whose, Used)>,
}

/// What one process has under way, the same.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Theirs {
    pub(super) accounts: HashMap<Arc<str>, UnderWay>,
    pub(super) gates: HashMap<Whose, u32>,
}

/// What the new process counts for the old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Counting {
    Nothing,
    Accounts,
    All,
}

/// A guest tells of this.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Changed {
    Account { account: Arc<str>, change: limits::Change },
    Gate { gate: Whose, change: gate::Change },
}

/// What is to be told.
pub(super) struct Changes {
    changes: mpsc::UnboundedReceiver<Changed>,
    untold: Arc<AtomicUsize>,
}

impl Counted {
    /// What accounts and gates count.
    pub fn new(live: Current, gates: Arc<Gates>) -> Self {
        Counted { live, gates, untold: Arc::default() }
    }

    /// Changes that the process which took over was not told yet.
    pub fn untold(&self) -> usize {
        self.untold.load(Ordering::Relaxed)
    }

    /// What counted in the process before, where nothing counts yet.
    pub fn take_over(&self, before: &Before) {
        self.live.load().pool.take_over(&before.accounts, Instant::now());
        self.gates.take_over(&before.gates, Tick::now());
    }

    /// All that counts now, for the process that takes over, and what changes from now on.
    pub(super) fn hand_over(&self, counting: Counting) -> (Vec<Word>, Changes) {
        let (tell, changes) = mpsc::unbounded_channel();
        let untold = Arc::clone(&self.untold);
        let tell = Arc::new(move |changed| {
            untold.fetch_add(1, Ordering::Relaxed);
            drop(tell.send(changed));
        });
        let mut words = Vec::new();
        if counting >= Counting::Accounts {
            for account in self.live.load().pool.accounts() {
                let (name, tell) = (Arc::clone(&account.name), Arc::clone(&tell));
                let tell = move |change| tell(Changed::Account { account: Arc::clone(&name), change });
                let counts = account.hand_over(Box::new(tell), Instant::now());
                let (account, day) = (Arc::clone(&account.name), Timestamp::now().day());
                words.push(Word::Counts { account, counts, day });
            }
        }
        if counting >= Counting::All {
            let tell: gate::Tell = Arc::new(move |gate, change| tell(Changed::Gate { gate, change }));
            let used = self.gates.hand_over(&tell, Tick::now());
            words.extend(used.chunks(GATES_MAX).map(|used| Word::Used { used: used.to_vec() }));
        }
        (words, Changes { changes, untold: Arc::clone(&self.untold) })
    }

    /// Nobody took over.
    pub(super) fn keep(&self) {
        self.live.load().pool.accounts().iter().for_each(|account| account.keep());
        self.gates.keep();
        self.untold.store(0, Ordering::Relaxed);
    }

    /// What a guest begins and ends counts as if it were done here.
    pub(super) fn changed(&self, changed: Changed, theirs: &mut Theirs) {
        match &changed {
            Changed::Account { account, change } => {
                if let Some(account) = self.live.load().pool.account(account) {
                    account.changed_elsewhere(*change, Instant::now());
                }
            }
            Changed::Gate { gate, change } => self.gates.changed_elsewhere(*gate, *change, Tick::now()),
        }
        theirs.change(changed);
    }

    /// Whether a request of this key that a guest let in, and told of, is more than may be let in by all.
    pub(super) fn is_too_much(&self, key: KeyId, customer: CustomerId) -> bool {
        self.gates.are_over(key, customer, Tick::now())
    }

    /// A guest is gone.
    pub(super) fn lost(&self, theirs: Theirs) {
        let live = self.live.load();
        for (account, under_way) in theirs.accounts {
            if let Some(account) = live.pool.account(&account) {
                account.lost(under_way);
            }
        }
        theirs.gates.into_iter().for_each(|(gate, running)| self.gates.lost(gate, running));
    }
}

impl Before {
    /// What the process before has under way itself: all but what its guests have.
    pub(super) fn own(&self, guests: &[Guest]) -> Theirs {
        let accounts = self.accounts.iter().map(|(account, counts)| {
            let others = guests.iter().filter_map(|guest| guest.under_way.accounts.get(account));
            (Arc::clone(account), others.fold(counts.under_way, |all, others| all.without(*others)))
        });
        let gates = self.gates.iter().map(|(gate, used)| {
            let others = guests.iter().filter_map(|guest| guest.under_way.gates.get(gate));
            (*gate, others.fold(used.running, |all, others| all.saturating_sub(*others)))
        });
        Theirs { accounts: accounts.collect(), gates: gates.filter(|(_, running)| *running > 0).collect() }
    }
}

impl Theirs {
    /// For the process that takes over.
    pub(super) fn words(&self, counting: Counting) -> Vec<Word> {
        let mut words = Vec::new();
        if counting >= Counting::Accounts {
            let word = |(account, under_way): (&Arc<str>, &UnderWay)| Word::UnderWay {
                account: Arc::clone(account),
                under_way: *under_way,
            };
            words.extend(self.accounts.iter().map(word));
        }
        if counting >= Counting::All {
            let running: Vec<_> = self.gates.iter().map(|(gate, running)| (*gate, *running)).collect();
            words
                .extend(running.chunks(GATES_MAX).map(|running| Word::Running { running: running.to_vec() }));
        }
        words
    }

    fn change(&mut self, changed: Changed) {
        match changed {
            Changed::Account { account, change } => {
                let theirs = self.accounts.entry(account).or_default();
                *theirs = theirs.after(change);
            }
            Changed::Gate { gate, change: gate::Change::Began } => *self.gates.entry(gate).or_default() += 1,
            Changed::Gate { gate, change: gate::Change::Ended { .. } } => {
                let left = self.gates.remove(&gate).map_or(0, |running| running.saturating_sub(1));
                self.gates.extend((left > 0).then_some((gate, left)));
            }
            Changed::Gate { change: gate::Change::Took(_) | gate::Change::GaveBack(_), .. } => {}
        }
    }
}

impl Changes {
    /// The next one.
    pub(super) async fn next(&mut self) -> Option<Changed> {
        self.changes.recv().await
    }

    /// One was told.
    pub(super) fn told(&self) {
        self.untold.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(said: &str, changed: Changed) {
        assert_eq!(serde_json::to_string(&changed).unwrap(), said);
        assert_eq!(serde_json::from_str::<Changed>(said).unwrap(), changed);
    }

    #[test]
    fn a_change_is_said_as_other_versions_say_it() {
        let most = limits::Most { tokens: 5, ..limits::Most::NOTHING };
        check(
            r#"{"account":"first","change":{"Began":{"tokens":5,"spend":"0.00"}}}"#,
            Changed::Account { account: "first".into(), change: limits::Change::Began(most) },
        );
        let (key, customer) = (Whose::Key(KeyId::from_int(1)), Whose::Customer(CustomerId::from_int(2)));
        check(
            r#"{"gate":{"key":"key_0000000000000001"},"change":"Began"}"#,
            Changed::Gate { gate: key, change: gate::Change::Began },
        );
        check(
            r#"{"gate":{"customer":"cus_0000000000000002"},"change":{"Ended":{"sent_back":false}}}"#,
            Changed::Gate { gate: customer, change: gate::Change::Ended { sent_back: false } },
        );
    }

    #[test]
    fn what_a_process_has_itself_is_what_its_guests_have_not() {
        let gate = Whose::Key(KeyId::from_int(1));
        let began = || Changed::Gate { gate, change: gate::Change::Began };
        let ended = || Changed::Gate { gate, change: gate::Change::Ended { sent_back: false } };
        let mut theirs = Theirs::default();
        for changed in [began(), began(), ended()] {
            theirs.change(changed);
        }
        assert_eq!(theirs.gates, HashMap::from([(gate, 1)]));
        theirs.change(ended());
        assert_eq!(theirs, Theirs::default(), "nothing is kept of who has nothing");
    }
}
