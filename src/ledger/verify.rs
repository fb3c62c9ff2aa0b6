//! Verification: the whole journal is read and folded again, and held against the state.

use super::book::{Book, Broken};
use super::disk::Disk;
use super::entry::{Change, Entry, Progress, Seq};
use super::frame::{Chain, Frame, Head};
use super::legs::{Account, Totals};
use super::segment::{self, JournalError, Position, Segment};
use super::sidecar::About;
use super::sight::{Sight, Unseen};
use super::state::Snapshot;
use crate::id::RequestId;
use crate::money::Amount;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use utoipa::ToSchema;

/// Computes a charge again from its record (I9).
pub type Recompute<'a> = &'a dyn Fn(&[u8]) -> Result<Amount, String>;

/// What a clean journal holds.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Verified {
    /// Always true: anything else is an error.
    pub ok: bool,
    /// All entries.
    pub entries: Seq,
    /// Charges.
    pub captures: u64,
    /// Holds without an end: requests in flight.
    pub open_holds: usize,
    /// The end of the hash chain: vouches for all before it.
    pub head: Chain,
    /// Customers.
    pub customers: usize,
    /// Paid in, in USD.
    pub deposits: Amount,
    /// Charged, in USD.
    pub revenue: Amount,
    /// Charged but borne by the operator, in USD.
    pub written_off: Amount,
    /// Charges given back, in USD.
    pub refunds: Amount,
    /// Credit given by hand, less what was taken, in USD.
    pub adjustments: Amount,
    /// Credit of banned customers, in USD.
    pub forfeited: Amount,
    /// What serving cost the operator, as far as that is known, in USD.
    pub cost: Amount,
    /// What customers have left, in USD.
    pub balances: Amount,
    /// Bytes of an unfinished write at the end, to be cut off at the next start.
    pub torn_bytes: u64,
    /// The entry at which the expected head stood: nothing up to it was changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<Seq>,
    /// What was archived and is out of reach: not verified.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unseen: Vec<Unseen>,
}

/// Folds journals; what every reader of one does.
#[derive(Default)]
pub struct Fold {
    /// What the entries so far amount to.
    pub book: Book,
    /// Charges so far.
    pub captures: u64,
}

impl Fold {
    /// Folds one entry in and checks the balance that it states (I2).
    ///
    /// # Errors
    /// When it cannot follow.
    pub fn entry(&mut self, entry: &Entry) -> Result<(), Broken> {
        let balance = self.book.apply(entry.customer, &entry.change, entry.at)?;
        if balance != entry.balance {
            return Err(Broken(format!(
                "I2: the balance is {balance:?}, the entry says {:?}",
                entry.balance
            )));
        }
        self.captures += u64::from(matches!(entry.change, Change::Captured { .. }));
        Ok(())
    }
}

/// What is known of a journal from elsewhere.
#[derive(Default)]
pub struct Known {
    /// An entry that was durable.
    pub durable: Seq,
    /// What folding it has to give.
    pub state: Option<Snapshot>,
    /// A head that it had at some time.
    pub head: Option<Chain>,
}

/// Verifies the journal on `disk`, and that it is the one that is known.
///
/// What was archived and is out of reach is told, not verified: the balances after it are taken from
/// the checkpoint, and the hash chain goes on from there.
///
/// # Errors
/// The first thing that does not hold, and where.
pub fn verify(disk: &dyn Disk, known: Known, recompute: Recompute) -> Result<Verified, JournalError> {
    let Known { durable, state, head: expected } = known;
    let Sight { unseen, apart, book, begin } = Sight::of(disk)?;
    let fold = Fold { book, ..Fold::default() };
    // A state of what cannot be seen tells nothing.
    let state = state.filter(|state| state.head.seq >= begin.seq);
    let known = durable.max(state.as_ref().map_or(Seq::START, |state| state.head.seq));
    let mut check = Check { recompute, expected, met: None, fold, state, claims: Claims::default() };
    for (name, about) in &apart {
        check.meet(about.before);
        read_apart(disk, name, about, |frame| check.glance(frame))?;
    }
    check.begin(begin).map_err(|why| JournalError::Broken { seq: begin.seq, why })?;
    let journal = segment::read(disk, begin, known, |frame| check.frame(&frame))?;
    let Check { met, fold, claims, .. } = check;
    claims.check(disk, &apart, begin, known)?;
    let Head { seq, chain } = journal.head;
    fold.book.audit().map_err(|why| JournalError::Broken { seq, why })?;
    match (expected, met, unseen.last()) {
        (Some(expected), None, None) => return Err(JournalError::OtherHead { expected, head: chain }),
        (Some(expected), None, Some(Unseen { last, .. })) => {
            return Err(JournalError::Unseen { expected, last: *last });
        }
        (Some(_), Some(_), _) | (None, _, _) => {}
    }
    let totals = fold.book.totals;
    let Totals { cash, revenue, written_off, refunded, adjusted, forfeited, cost } = totals;
    Ok(Verified {
        ok: true,
        entries: seq,
        captures: fold.captures,
        open_holds: fold.book.open_holds().count(),
        head: chain,
        customers: fold.book.customers.len(),
        deposits: cash,
        revenue,
        written_off,
        refunds: refunded,
        adjustments: adjusted,
        forfeited,
        cost,
        balances: totals.balances(),
        torn_bytes: journal.torn_bytes,
        expected: met,
        unseen,
    })
}

/// What is checked on the way through a journal.
struct Check<'a> {
    recompute: Recompute<'a>,
    expected: Option<Chain>,
    /// Where the expected head was met.
    met: Option<Seq>,
    fold: Fold,
    /// To be compared when the journal comes by it.
    state: Option<Snapshot>,
    claims: Claims,
}

impl Check<'_> {
    /// Everything is read and folded from here on.
    fn begin(&mut self, head: Head) -> Result<(), Broken> {
        self.meet(head);
        // No frame ends here.
        match self.state.take_if(|state| state.head.seq == head.seq) {
            Some(state) => check_state(&state, &self.fold.book, head),
            None => Ok(()),
        }
    }

    fn frame(&mut self, frame: &Frame) -> Result<(), Broken> {
        for entry in &frame.entries {
            self.fold.entry(entry)?;
        }
        self.check(frame)?;
        match self.state.take_if(|state| state.head.seq <= frame.head.seq) {
            Some(state) => check_state(&state, &self.fold.book, frame.head),
            None => Ok(()),
        }
    }

    /// One among what cannot be seen: there are no balances to fold it into.
    fn glance(&mut self, frame: &Frame) -> Result<(), Broken> {
        let captures = frame.entries.iter().filter(|entry| matches!(entry.change, Change::Captured { .. }));
        self.fold.captures += u64::try_from(captures.count()).expect("usize fits");
        self.check(frame)
    }

    /// What can be said of a frame by itself.
    fn check(&mut self, frame: &Frame) -> Result<(), Broken> {
        frame.entries.iter().try_for_each(|entry| self.claims.note(entry))?;
        check_charge(&frame.entries, self.recompute)?;
        self.meet(frame.head);
        Ok(())
    }

    /// The chain up to an entry vouches for it and for all before it.
    fn meet(&mut self, head: Head) {
        if self.expected == Some(head.chain) {
            self.met = Some(head.seq);
        }
    }
}

/// Reads a segment that stands among what cannot be seen.
fn read_apart(
    disk: &dyn Disk,
    name: &str,
    about: &About,
    mut visit: impl FnMut(&Frame) -> Result<(), Broken>,
) -> Result<(), JournalError> {
    let segment = Segment::load(disk, name, Position::Sealed)?;
    let ending = segment.read(about.before, about.after.seq, |frame, _| visit(&frame))?;
    if ending.head == about.after {
        return Ok(());
    }
    Err(segment.damaged(0, about.before.seq.next(), &"it does not end as its index says"))
}

/// What refunds say that their requests were charged, and what those were charged.
#[derive(Default)]
struct Claims(HashMap<RequestId, Claim>);

struct Claim {
    /// The first refund.
    seq: Seq,
    charged: Amount,
    found: Amount,
}

impl Claims {
    fn note(&mut self, entry: &Entry) -> Result<(), Broken> {
        let Change::Refunded { request, charged, .. } = &entry.change else { return Ok(()) };
        let new = Claim { seq: entry.seq, charged: *charged, found: Amount::ZERO };
        let claim = self.0.entry(*request).or_insert(new);
        if claim.charged == *charged {
            return Ok(());
        }
        Err(Broken(format!(
            "I5: two refunds of {request} say that it was charged {charged} and {}",
            claim.charged
        )))
    }

    /// Reads the journal again, if there were refunds: they are few, charges are too many to keep.
    fn check(
        mut self,
        disk: &dyn Disk,
        apart: &[(String, About)],
        begin: Head,
        known: Seq,
    ) -> Result<(), JournalError> {
        if self.0.is_empty() {
            return Ok(());
        }
        for (name, about) in apart {
            read_apart(disk, name, about, |frame| {
                self.find(frame);
                Ok(())
            })?;
        }
        segment::read(disk, begin, known, |frame| {
            self.find(&frame);
            Ok(())
        })?;
        // A charge stands in one frame: it was seen as a whole, or is out of reach.
        let unseen = |found: Amount| begin != Head::START && found == Amount::ZERO;
        for (request, Claim { seq, charged, found }) in self.0 {
            if charged != found && !unseen(found) {
                let why =
                    Broken(format!("I5: a refund says that {request} was charged {charged}, not {found}"));
                return Err(JournalError::Broken { seq, why });
            }
        }
        Ok(())
    }

    fn find(&mut self, frame: &Frame) {
        for entry in &frame.entries {
            let claim = entry.change.request().and_then(|request| self.0.get_mut(&request));
            if let Some(claim) = claim.filter(|claim| entry.seq < claim.seq) {
                claim.found += entry.change.paid();
            }
        }
    }
}

/// The charge of a request, overage and write-off included, is what its record amounts to (I9); so is
/// what it would have been charged when it was extended.
fn check_charge(entries: &[Entry], recompute: Recompute) -> Result<(), Broken> {
    let (request, record, charged) = match entries.first().map(|entry| &entry.change) {
        Some(Change::Captured { request, record, .. }) => {
            let charged = entries.iter().map(|entry| entry.change.moved(Account::Revenue)).sum::<Amount>();
            (request, record, charged)
        }
        Some(Change::Extended { request, progress: Some(Progress { charge, record }), .. }) => {
            (request, record, charge.amount)
        }
        Some(_) | None => return Ok(()),
    };
    let computed = recompute(record).map_err(|why| Broken(format!("I9: the record of {request}: {why}")))?;
    if computed == charged {
        return Ok(());
    }
    Err(Broken(format!("I9: {request} was charged {charged}, its record amounts to {computed}")))
}

fn check_state(state: &Snapshot, book: &Book, head: Head) -> Result<(), Broken> {
    if state.head != head {
        return Err(Broken("I8: the state store is of another journal".into()));
    }
    if state.book != *book {
        return Err(Broken("I8: folding the journal does not give the state store".into()));
    }
    Ok(())
}
