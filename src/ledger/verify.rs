//! Verification: the whole journal is read and folded again, and held against the state.

use super::book::{Book, Broken};
use super::disk::Disk;
use super::entry::{Change, Entry, Seq};
use super::frame::{Chain, Head};
use super::legs::{Account, Totals};
use super::segment::{self, JournalError};
use super::state::Snapshot;
use crate::id::RequestId;
use crate::money::Amount;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Computes a charge again from its record (I9).
pub type Recompute<'a> = &'a dyn Fn(&[u8]) -> Result<Amount, String>;

/// What a clean journal holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
        let balance = self.book.apply(entry.customer, &entry.change)?;
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
/// # Errors
/// The first thing that does not hold, and where.
pub fn verify(disk: &dyn Disk, known: Known, recompute: Recompute) -> Result<Verified, JournalError> {
    let Known { durable, state, head: expected } = known;
    // The chain up to an entry vouches for it and for all before it.
    let mut met = expected.filter(|expected| *expected == Chain::START).map(|_| Seq::START);
    let mut fold = Fold::default();
    let (mut state, mut claims) = (state, Claims::default());
    // A state of before the first entry is compared now: no frame ends there.
    if let Some(state) = state.take_if(|state| state.head.seq == Seq::START) {
        check_state(&state, &fold.book, Head::START)
            .map_err(|why| JournalError::Broken { seq: Seq::START, why })?;
    }
    let known = durable.max(state.as_ref().map_or(Seq::START, |state| state.head.seq));
    let journal = segment::read(disk, known, |frame| {
        for entry in &frame.entries {
            fold.entry(entry)?;
            claims.note(entry)?;
        }
        check_charge(&frame.entries, recompute)?;
        if expected == Some(frame.head.chain) {
            met = Some(frame.head.seq);
        }
        if let Some(state) = state.take_if(|state| state.head.seq <= frame.head.seq) {
            check_state(&state, &fold.book, frame.head)?;
        }
        Ok(())
    })?;
    claims.check(disk, known)?;
    let Head { seq, chain } = journal.head;
    fold.book.audit().map_err(|why| JournalError::Broken { seq, why })?;
    if let (Some(expected), None) = (expected, met) {
        return Err(JournalError::OtherHead { expected, head: chain });
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
    })
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
    fn check(mut self, disk: &dyn Disk, known: Seq) -> Result<(), JournalError> {
        if self.0.is_empty() {
            return Ok(());
        }
        segment::read(disk, known, |frame| {
            for entry in &frame.entries {
                let claim = entry.change.request().and_then(|request| self.0.get_mut(&request));
                if let Some(claim) = claim.filter(|claim| entry.seq < claim.seq) {
                    claim.found += entry.change.paid();
                }
            }
            Ok(())
        })?;
        for (request, Claim { seq, charged, found }) in self.0 {
            if charged != found {
                let why =
                    Broken(format!("I5: a refund says that {request} was charged {charged}, not {found}"));
                return Err(JournalError::Broken { seq, why });
            }
        }
        Ok(())
    }
}

/// The charge of a request, overage and write-off included, is what its record amounts to (I9).
fn check_charge(entries: &[Entry], recompute: Recompute) -> Result<(), Broken> {
    let Some(Change::Captured { record, request, .. }) = entries.first().map(|entry| &entry.change) else {
        return Ok(());
    };
    let charged: Amount = entries.iter().map(|entry| entry.change.moved(Account::Revenue)).sum();
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
