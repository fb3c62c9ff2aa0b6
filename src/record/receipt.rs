//! Receipts and statements: what the ledger says, as people and scripts read it.

use crate::clock::Timestamp;
use crate::id::{CustomerId, KeyId, RequestId};
use crate::ledger::{Change, Entry, Seq};
use crate::money::Amount;
use crate::settle::{Attempt, Detail, Line};
use crate::usage::{Metered, Usage};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The ledger's proof of one request.
#[derive(Debug, Serialize, Deserialize)]
pub struct Receipt {
    /// The request.
    pub request_id: RequestId,
    /// When it was admitted.
    pub at: Timestamp,
    /// Who paid.
    pub customer: CustomerId,
    /// By which key.
    pub key: KeyId,
    /// The model that was asked for.
    pub model: Box<str>,
    /// Which endpoint.
    pub endpoint: Box<str>,
    /// `open`, `captured`, `released` or `expired`.
    pub status: Box<str>,
    /// The HTTP status that the client got; 0 if none was reached.
    pub http_status: u16,
    /// How the answer ended.
    pub end: Box<str>,
    /// How the usage was found.
    pub metered: Metered,
    /// The vocabulary of an estimate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<Box<str>>,
    /// What was used.
    pub usage: Usage,
    /// The provider's usage object as it came.
    pub reported: Option<Box<RawValue>>,
    /// Class, quantity, unit price and amount; they add up to the charge.
    pub lines: Vec<Line>,
    /// What was held, in USD.
    pub held: Amount,
    /// What was charged, in USD.
    pub charge: Amount,
    /// What of the charge the balance did not reach, so that the operator bears it, in USD.
    pub written_off: Amount,
    /// What the customer had after it, in USD.
    pub balance_after: Amount,
    /// The prices that applied.
    pub price_version: Box<str>,
    /// All that was tried.
    pub attempts: Vec<Attempt>,
    /// From the first byte of the request to the first of the answer.
    pub first_byte_ms: Option<u64>,
    /// From the first byte of the request to the settlement.
    pub duration_ms: u64,
    /// The entry that ended it, or the hold while it is open.
    pub entry_id: Seq,
}

impl Receipt {
    /// From all entries of one request, in order; `None` if they do not begin with its hold.
    pub fn from_entries(entries: &[Entry]) -> Option<Self> {
        let hold = entries.first()?;
        let Change::Held { request, key, amount, price_version } = &hold.change else { return None };
        let mut receipt = Receipt {
            request_id: *request,
            at: hold.at,
            customer: hold.customer,
            key: *key,
            model: "".into(),
            endpoint: "".into(),
            status: "open".into(),
            http_status: 0,
            end: "".into(),
            metered: Metered::None,
            encoding: None,
            usage: Usage::default(),
            reported: None,
            lines: Vec::new(),
            held: *amount,
            charge: Amount::ZERO,
            written_off: Amount::ZERO,
            balance_after: hold.balance.posted(),
            price_version: (**price_version).into(),
            attempts: Vec::new(),
            first_byte_ms: None,
            duration_ms: 0,
            entry_id: hold.seq,
        };
        entries[1..].iter().for_each(|entry| receipt.add(entry));
        Some(receipt)
    }

    fn add(&mut self, entry: &Entry) {
        self.entry_id = entry.seq;
        self.balance_after = entry.balance.posted();
        match &entry.change {
            Change::Captured { amount, record, .. } => {
                self.status = "captured".into();
                self.charge += *amount;
                self.add_detail(record);
            }
            Change::Overage { amount, .. } => self.charge += *amount,
            Change::WrittenOff { amount, .. } => self.written_off += *amount,
            Change::Released { reason, record, .. } => {
                self.status = reason.name().into();
                self.add_detail(record);
            }
            Change::CustomerCreated { .. }
            | Change::KeyCreated(_)
            | Change::KeyRevoked { .. }
            | Change::Deposited { .. }
            | Change::Held { .. } => {}
        }
    }

    fn add_detail(&mut self, record: &[u8]) {
        // A hold that was dropped or expired has no record.
        let Ok(detail) = serde_json::from_slice::<Detail>(record) else { return };
        self.model = detail.model;
        self.endpoint = detail.endpoint;
        self.http_status = detail.status;
        self.end = detail.end;
        self.metered = detail.metered;
        self.encoding = detail.encoding;
        self.usage = detail.usage;
        self.reported = detail.reported;
        self.lines = detail.lines;
        self.attempts = detail.attempts;
        self.first_byte_ms = detail.first_byte_ms;
        self.duration_ms = detail.duration_ms;
    }
}

/// One line of a statement.
#[derive(Debug, Serialize, Deserialize)]
pub struct StatementLine {
    /// Its place in the journal.
    pub entry_id: u64,
    /// When.
    pub at: Timestamp,
    /// What kind: `deposit`, `hold`, `capture`, …
    pub kind: Box<str>,
    /// What it added to the posted balance, in USD; holds and releases add nothing.
    pub amount: Amount,
    /// The posted balance after it, in USD.
    pub balance_after: Amount,
    /// What was free to use after it, in USD.
    pub available_after: Amount,
    /// The request, or the deposit's reference.
    pub reference: Box<str>,
    /// The model, for charges.
    pub model: Option<Box<str>>,
    /// The price version, for holds.
    pub price_version: Option<Box<str>>,
}

impl StatementLine {
    /// The line of an entry.
    pub fn from_entry(entry: &Entry) -> Self {
        let (amount, reference) = match &entry.change {
            Change::Deposited { amount, reference } => (*amount, reference.to_string()),
            Change::Captured { amount, request, .. } | Change::Overage { amount, request } => {
                (-*amount, request.to_string())
            }
            Change::Held { request, .. }
            | Change::WrittenOff { request, .. }
            | Change::Released { request, .. } => (Amount::ZERO, request.to_string()),
            Change::CustomerCreated { name } => (Amount::ZERO, name.to_string()),
            Change::KeyCreated(created) => (Amount::ZERO, created.key.to_string()),
            Change::KeyRevoked { key } => (Amount::ZERO, key.to_string()),
        };
        let (model, price_version) = match &entry.change {
            Change::Captured { record, .. } | Change::Released { record, .. } => {
                (serde_json::from_slice::<Detail>(record).ok().map(|detail| detail.model), None)
            }
            Change::Held { price_version, .. } => (None, Some((**price_version).into())),
            Change::CustomerCreated { .. }
            | Change::KeyCreated(_)
            | Change::KeyRevoked { .. }
            | Change::Deposited { .. }
            | Change::Overage { .. }
            | Change::WrittenOff { .. } => (None, None),
        };
        StatementLine {
            entry_id: entry.seq.0,
            at: entry.at,
            kind: entry.change.name().into(),
            amount,
            balance_after: entry.balance.posted(),
            available_after: entry.balance.available,
            reference: reference.into(),
            model,
            price_version,
        }
    }
}
