//! What the admin API answers with; the commands read the same.

use crate::id::{CustomerId, KeyId, RequestId};
use crate::ledger::{Customer, Key, KeyStatus, Seq};
use crate::money::Amount;
use crate::record::receipt::StatementLine;
use serde::{Deserialize, Serialize};

/// A customer as the operator sees them.
#[derive(Debug, Serialize, Deserialize)]
pub struct CustomerView {
    /// Their id.
    pub id: CustomerId,
    /// As the operator named them.
    pub name: Box<str>,
    /// `active`.
    pub status: Box<str>,
    /// The posted balance, in USD.
    pub balance: Amount,
    /// What of it is not held, in USD.
    pub available: Amount,
}

impl CustomerView {
    /// As the ledger has it.
    pub fn of(id: CustomerId, customer: &Customer) -> Self {
        CustomerView {
            id,
            name: (*customer.name).into(),
            status: "active".into(),
            balance: customer.balance.posted(),
            available: customer.balance.available,
        }
    }
}

/// A key as the operator sees it.
#[derive(Debug, Serialize, Deserialize)]
pub struct KeyView {
    /// Its id.
    pub id: KeyId,
    /// Whose.
    pub customer: CustomerId,
    /// As it was named.
    pub name: Box<str>,
    /// Its first characters and its last four.
    pub prefix: Box<str>,
    /// `active` or `revoked`.
    pub status: Box<str>,
    /// The key itself, when it was just made: it is not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Box<str>>,
}

impl KeyView {
    /// As the ledger has it.
    pub fn of(customer: CustomerId, id: KeyId, key: &Key) -> Self {
        let status = match key.status {
            KeyStatus::Active => "active",
            KeyStatus::Revoked => "revoked",
        };
        let (name, prefix) = ((*key.name).into(), (*key.prefix).into());
        KeyView { id, customer, name, prefix, status: status.into(), key: None }
    }
}

/// What a deposit or an adjustment did.
#[derive(Debug, Serialize, Deserialize)]
pub struct BookingView {
    /// Its entry: that of the first, if it was made before.
    pub entry_id: Seq,
    /// Whose.
    pub customer: CustomerId,
    /// The posted balance now, in USD.
    pub balance: Amount,
}

/// What a refund did.
#[derive(Debug, Serialize, Deserialize)]
pub struct RefundView {
    /// Its entry: that of the first, if it was made before.
    pub entry_id: Seq,
    /// Whose.
    pub customer: CustomerId,
    /// The request that was charged.
    #[serde(rename = "request_id")]
    pub request: RequestId,
    /// What it was charged, in USD.
    pub charge: Amount,
    /// All that was given back of it, in USD.
    pub refunded: Amount,
    /// The posted balance now, in USD.
    pub balance: Amount,
}

/// A page of a statement.
#[derive(Debug, Serialize, Deserialize)]
pub struct StatementPage {
    /// In order.
    pub lines: Vec<StatementLine>,
    /// What to ask for as `after` next; nothing at the end.
    pub next: Option<u64>,
}
