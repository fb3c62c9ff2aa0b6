//! What the admin API answers with; the commands read the same.

use crate::admit::limits::Limits;
use crate::id::{CustomerId, KeyId, RequestId};
use crate::ledger::{Customer, Key, KeyStatus, Seq, Standing};
use crate::money::Amount;
use crate::record::own::SpentView;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A customer as the operator sees them.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct CustomerView {
    /// Their id.
    pub id: CustomerId,
    /// As the operator named them.
    pub name: Box<str>,
    /// `active`, `suspended` or `banned`.
    pub status: Box<str>,
    /// Why, unless active, if that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Box<str>>,
    /// By whom, unless active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Box<str>>,
    /// The posted balance, in USD.
    pub balance: Amount,
    /// What of it is not held, in USD.
    pub available: Amount,
    /// What they may owe, in USD, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overdraft: Option<Amount>,
    /// What is limited for all their keys together.
    #[serde(default, skip_serializing_if = "is_none")]
    pub limits: Limits,
    /// The version of the terms that they accepted last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms_version: Option<Box<str>>,
    /// Who accepted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms_by: Option<Box<str>>,
    /// What they were charged, in USD.
    pub spent: SpentView,
    /// What the ban took, in USD: it comes back if the ban is lifted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forfeited: Option<Amount>,
}

impl CustomerView {
    /// As the ledger has it.
    pub fn of(id: CustomerId, customer: &Customer) -> Self {
        let note = customer.standing.note();
        let forfeited = match &customer.standing {
            Standing::Active | Standing::Suspended(_) => None,
            Standing::Banned { forfeited, .. } => Some(*forfeited),
        };
        CustomerView {
            id,
            name: (*customer.name).into(),
            status: customer.standing.name().into(),
            reason: note.map(|note| &*note.reason).filter(|reason| !reason.is_empty()).map(Into::into),
            by: note.map(|note| (*note.by).into()),
            balance: customer.balance.posted(),
            available: customer.balance.available,
            overdraft: customer.agreed_overdraft(),
            limits: limits_of(&customer.limits),
            terms_version: customer.terms.as_ref().map(|terms| (*terms.version).into()),
            terms_by: customer.terms.as_ref().map(|terms| (*terms.by).into()),
            spent: SpentView::of(customer.spent),
            forfeited,
        }
    }
}

/// Limits as the ledger keeps them: it was checked at the start that they can be read.
fn limits_of(kept: &[u8]) -> Limits {
    Limits::parse(kept).unwrap_or_default()
}

fn is_none(limits: &Limits) -> bool {
    *limits == Limits::default()
}

/// A key as the operator sees it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
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
    /// What is limited.
    #[serde(default, skip_serializing_if = "is_none")]
    pub limits: Limits,
    /// What its requests were charged, in USD.
    pub spent: SpentView,
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
        KeyView {
            id,
            customer,
            name,
            prefix,
            status: status.into(),
            limits: limits_of(&key.limits),
            spent: SpentView::of(key.spent),
            key: None,
        }
    }
}

/// What a deposit or an adjustment did.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct BookingView {
    /// Its entry: that of the first, if it was made before.
    pub entry_id: Seq,
    /// Whose.
    pub customer: CustomerId,
    /// The posted balance now, in USD.
    pub balance: Amount,
}

/// What a refund did.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
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

/// An upstream account as the operator sees it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct UpstreamView {
    /// Its name in the configuration.
    pub name: Box<str>,
    /// Where it is.
    pub base_url: Box<str>,
    /// `open`, `shut`, `probation` or `draining`.
    pub status: Box<str>,
    /// What shut it.
    pub reason: Option<Box<str>>,
    /// Requests that it has now.
    pub in_flight: u32,
    /// Models of it that are not used.
    pub models_shut: Vec<ShutModel>,
    /// The share of each limit that is free.
    pub headroom: BTreeMap<Box<str>, f64>,
}

/// A model of an upstream account that is not used.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ShutModel {
    /// As the provider calls it.
    pub model: Box<str>,
    /// What shut it.
    pub reason: Box<str>,
}
