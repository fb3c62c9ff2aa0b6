//! What customers see of their own account: what the operator sees, without what is the operator's
//! business. Accounts with providers have numbers instead of names, and how they failed is not told;
//! notes of the operator's are told where they say why money moved.

use super::receipt::{Receipt, StatementLine};
use crate::clock::Timestamp;
use crate::id::CustomerId;
use crate::ledger::{Balance, Change, Customer, Entry, Spent};
use crate::money::Amount;
use crate::settle::Attempt;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How an account stands.
#[derive(Debug, Serialize)]
pub struct AccountView {
    /// Whose.
    pub customer: CustomerId,
    /// `active` or `suspended`.
    pub status: &'static str,
    /// The posted balance, in USD.
    pub balance: Amount,
    /// What of it is not held, in USD.
    pub available: Amount,
    /// How far below zero that may go, in USD, if it may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overdraft: Option<Amount>,
    /// What of it is held for requests under way, in USD.
    pub held: Amount,
    /// What was charged.
    pub spent: SpentView,
}

impl AccountView {
    /// As the ledger has it.
    pub fn of(id: CustomerId, customer: &Customer) -> Self {
        let Balance { available, held } = customer.balance;
        AccountView {
            customer: id,
            status: customer.standing.name(),
            balance: customer.balance.posted(),
            available,
            overdraft: customer.agreed_overdraft(),
            held,
            spent: SpentView::of(customer.spent),
        }
    }
}

/// What was charged by now, in USD. What is given back later stays in it.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct SpentView {
    /// Today, in UTC.
    pub day: Amount,
    /// This month.
    pub month: Amount,
    /// Ever.
    pub total: Amount,
}

impl SpentView {
    /// As of now.
    pub fn of(spent: Spent) -> Self {
        let Spent { in_day, in_month, total, .. } = spent.at(Timestamp::now());
        SpentView { day: in_day, month: in_month, total }
    }
}

/// A receipt as its customer may see it.
#[must_use]
pub fn receipt(receipt: Receipt) -> Receipt {
    let mut accounts: Vec<Box<str>> = Vec::new();
    let attempts = receipt.attempts.into_iter().map(|attempt| {
        let known = accounts.iter().position(|account| *account == attempt.upstream);
        let number = known.unwrap_or_else(|| {
            accounts.push(attempt.upstream);
            accounts.len() - 1
        });
        let upstream = format!("upstream-{}", number + 1).into();
        match &*attempt.outcome {
            "ok" | "hedged" => Attempt { upstream, ..attempt },
            _ => Attempt { upstream, outcome: "failed".into(), status: None, ms: attempt.ms },
        }
    });
    Receipt { attempts: attempts.collect(), cost: None, ..receipt }
}

/// A line of a statement as its customer may see it, if they may: a violation of the content policy is
/// told by the refusal of its request, where one was refused.
pub fn statement_line(entry: &Entry) -> Option<StatementLine> {
    if matches!(entry.change, Change::Violated(_)) {
        return None;
    }
    let line = StatementLine::from_entry(entry);
    let moved = line.amount != Amount::ZERO;
    Some(StatementLine { by: None, reason: line.reason.filter(|_| moved), ..line })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn accounts_are_told_apart_and_not_named() {
        let attempt = |upstream: &str, outcome: &str, status| json!({ "upstream": upstream, "outcome": outcome, "status": status, "ms": 7 });
        let whole = json!({
            "request_id": "req_00000000000000000000000000000001", "at": "2026-11-23T00:00:00Z",
            "customer": "cus_0000000000000001", "key": "key_0000000000000001", "model": "m", "endpoint": "e",
            "status": "captured", "http_status": 200, "end": "complete", "metered": "reported",
            "cost": "0.10", "usage": {}, "reported": null, "lines": [], "held": "1.00", "charge": "0.20",
            "written_off": "0.00", "balance_after": "0.80", "price_version": "v", "first_byte_ms": null,
            "attempts": [
                attempt("acme-eu", "quota", Some(429)), attempt("acme-us", "stale", None),
                attempt("acme-us", "server", Some(500)), attempt("acme-us", "hedged", None),
                attempt("acme-eu", "ok", Some(200)),
            ],
            "duration_ms": 9, "entry_id": 4,
        });
        let own = receipt(serde_json::from_value(whole).unwrap());
        let attempts: Vec<_> = own
            .attempts
            .iter()
            .map(|attempt| (&*attempt.upstream, &*attempt.outcome, attempt.status))
            .collect();
        let failed = |upstream| (upstream, "failed", None);
        let served = ("upstream-1", "ok", Some(200));
        let hedged = ("upstream-2", "hedged", None);
        assert_eq!(
            attempts,
            [failed("upstream-1"), failed("upstream-2"), failed("upstream-2"), hedged, served]
        );
        assert_eq!((own.cost, own.charge.to_string()), (None, "0.20".into()));
    }
}
