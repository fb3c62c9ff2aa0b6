//! Receipts and statements: what the ledger says, as people and scripts read it.

use crate::clock::Timestamp;
use crate::id::{CustomerId, KeyId, RequestId};
use crate::ledger::legs::Account;
use crate::ledger::{Change, Entry, Seq};
use crate::money::Amount;
use crate::settle::{Attempt, Detail, Line, Run};
use crate::usage::{Metered, Usage};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// The ledger's proof of one request.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
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
    /// `open`, `running` in the background, `captured`, `released` or `expired`.
    pub status: Box<str>,
    /// The HTTP status that the client got; 0 if none was reached.
    pub http_status: u16,
    /// How the answer ended.
    pub end: Box<str>,
    /// What the provider calls what was made, where it keeps that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<Box<str>>,
    /// How the usage was found.
    pub metered: Metered,
    /// How long each answer might be, in tokens, where what could be paid was less than was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_cap: Option<u64>,
    /// The service tier, where it is not the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<Box<str>>,
    /// The length of input above which the prices hold, if they are not those of any length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above_input_tokens: Option<u64>,
    /// What the provider takes for it, in USD, where the operator wrote that down. For the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Amount>,
    /// The size of images that have these prices, if they are not those of any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_size: Option<Box<str>>,
    /// The same of their quality.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_quality: Option<Box<str>>,
    /// The vocabulary of an estimate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<Box<str>>,
    /// What was used.
    pub usage: Usage,
    /// The provider's usage object as it came.
    #[schema(value_type = Option<Object>)]
    pub reported: Option<Box<RawValue>>,
    /// Class, quantity, unit price and amount; they add up to the charge.
    pub lines: Vec<Line>,
    /// What was held, in USD.
    pub held: Amount,
    /// What was charged, in USD.
    pub charge: Amount,
    /// What of the charge the balance did not reach, so that the operator bears it, in USD.
    pub written_off: Amount,
    /// What of the charge was given back since.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refunds: Vec<Refund>,
    /// What the customer had after the charge, in USD.
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

/// A charge given back, in full or in part.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Refund {
    /// Its entry.
    pub entry_id: Seq,
    /// When.
    pub at: Timestamp,
    /// How much, in USD.
    pub amount: Amount,
    /// The operator's own name for it.
    pub reference: Box<str>,
    /// Why, if that was said.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub reason: Box<str>,
}

impl Receipt {
    /// From all entries of one request, in order; `None` if they do not begin with its hold.
    pub fn from_entries(entries: &[Entry]) -> Option<Self> {
        let hold = entries.first()?;
        let Change::Held { request, key, amount, price_version, .. } = &hold.change else { return None };
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
            object: None,
            metered: Metered::None,
            output_cap: None,
            service_tier: None,
            above_input_tokens: None,
            cost: None,
            image_size: None,
            image_quality: None,
            encoding: None,
            usage: Usage::default(),
            reported: None,
            lines: Vec::new(),
            held: *amount,
            charge: Amount::ZERO,
            written_off: Amount::ZERO,
            refunds: Vec::new(),
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
        if let Some(object) = entry.change.object() {
            self.object = Some((**object).into());
        }
        match &entry.change {
            Change::Extended { total, .. } => self.held = *total,
            Change::Detached { record, .. } => self.add_run(record),
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
            Change::Refunded { amount, reference, note, .. } => {
                self.refunds.push(Refund {
                    entry_id: entry.seq,
                    at: entry.at,
                    amount: *amount,
                    reference: (**reference).into(),
                    reason: (*note.reason).into(),
                });
                return;
            }
            Change::CustomerCreated { .. }
            | Change::KeyCreated(_)
            | Change::KeyRevoked { .. }
            | Change::Limited { .. }
            | Change::Deposited { .. }
            | Change::Held { .. }
            | Change::Adjusted { .. }
            | Change::OverdraftSet { .. }
            | Change::DebtWrittenOff { .. }
            | Change::TermsAccepted { .. }
            | Change::Violated(_)
            | Change::StandingChanged { .. }
            | Change::Forfeited { .. }
            | Change::ForfeitureReversed { .. } => return,
        }
        self.entry_id = entry.seq;
        self.balance_after = entry.balance.posted();
    }

    fn add_run(&mut self, record: &[u8]) {
        let Ok(run) = serde_json::from_slice::<Run>(record) else { return };
        self.status = "running".into();
        self.model = run.model;
        self.endpoint = run.endpoint;
        self.output_cap = run.output_cap;
        self.attempts = run.attempts;
    }

    fn add_detail(&mut self, record: &[u8]) {
        // A hold that was dropped or expired has no record.
        let Ok(detail) = serde_json::from_slice::<Detail>(record) else { return };
        self.model = detail.model;
        self.endpoint = detail.endpoint;
        self.http_status = detail.status;
        self.end = detail.end;
        self.metered = detail.metered;
        self.output_cap = detail.output_cap;
        self.service_tier = detail.service_tier;
        self.above_input_tokens = detail.above_input_tokens;
        self.cost = detail.cost;
        self.image_size = detail.image_size;
        self.image_quality = detail.image_quality;
        self.encoding = detail.encoding;
        self.usage = detail.usage;
        self.reported = detail.reported;
        self.lines = detail.lines;
        self.attempts = detail.attempts;
        self.first_byte_ms = detail.first_byte_ms;
        self.duration_ms = detail.duration_ms;
    }
}

/// A page of a statement.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct StatementPage {
    /// In order.
    pub lines: Vec<StatementLine>,
    /// What to ask for as `after` next; nothing at the end.
    pub next: Option<u64>,
}

/// One line of a statement.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
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
    /// The request, the reference of what was booked by hand, the key, the customer's name, or what they
    /// may owe.
    pub reference: Box<str>,
    /// The model, for charges.
    pub model: Option<Box<str>>,
    /// The prices that were pinned for the request.
    pub price_version: Option<Box<str>>,
    /// Why it was done, if it was done by hand; of a violation, what it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Box<str>>,
    /// By whom it was done by hand, as they named themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Box<str>>,
}

impl StatementLine {
    /// The line of an entry.
    pub fn from_entry(entry: &Entry) -> Self {
        let change = &entry.change;
        let posted = change.moved(Account::Available) + change.moved(Account::Held);
        let note = change.note();
        StatementLine {
            entry_id: entry.seq.0,
            at: entry.at,
            kind: change.name().into(),
            amount: posted,
            balance_after: entry.balance.posted(),
            available_after: entry.balance.available,
            reference: reference(change),
            model: model(change),
            price_version: change.price_version().map(|version| (**version).into()),
            reason: reason(change),
            by: note.map(|note| (*note.by).into()),
        }
    }
}

fn reason(change: &Change) -> Option<Box<str>> {
    match change {
        Change::Violated(violation) => Some(violation.to_string().into()),
        _ => change.note().map(|note| &*note.reason).filter(|reason| !reason.is_empty()).map(Into::into),
    }
}

fn reference(change: &Change) -> Box<str> {
    match change {
        Change::Deposited { reference, .. }
        | Change::Refunded { reference, .. }
        | Change::Adjusted { reference, .. }
        | Change::DebtWrittenOff { reference, .. } => (**reference).into(),
        Change::Held { request, .. }
        | Change::Extended { request, .. }
        | Change::Detached { request, .. }
        | Change::Captured { request, .. }
        | Change::Overage { request, .. }
        | Change::WrittenOff { request, .. }
        | Change::Released { request, .. } => request.to_string().into(),
        Change::CustomerCreated { name } => (**name).into(),
        Change::KeyCreated(created) => created.key.to_string().into(),
        Change::KeyRevoked { key } | Change::Limited { key: Some(key), .. } => key.to_string().into(),
        Change::Limited { key: None, .. } => "".into(),
        Change::TermsAccepted { version, .. } => (**version).into(),
        Change::Violated(violation) => violation.request.to_string().into(),
        Change::OverdraftSet { amount, .. } => amount.to_string().into(),
        Change::StandingChanged { .. } | Change::Forfeited { .. } | Change::ForfeitureReversed { .. } => {
            "".into()
        }
    }
}

fn model(change: &Change) -> Option<Box<str>> {
    match change {
        Change::Captured { record, .. } | Change::Released { record, .. } => {
            serde_json::from_slice::<Detail>(record).ok().map(|detail| detail.model)
        }
        Change::CustomerCreated { .. }
        | Change::KeyCreated(_)
        | Change::KeyRevoked { .. }
        | Change::Limited { .. }
        | Change::Deposited { .. }
        | Change::Held { .. }
        | Change::Extended { .. }
        | Change::Detached { .. }
        | Change::Overage { .. }
        | Change::WrittenOff { .. }
        | Change::Refunded { .. }
        | Change::Adjusted { .. }
        | Change::OverdraftSet { .. }
        | Change::DebtWrittenOff { .. }
        | Change::TermsAccepted { .. }
        | Change::Violated(_)
        | Change::StandingChanged { .. }
        | Change::Forfeited { .. }
        | Change::ForfeitureReversed { .. } => None,
    }
}
