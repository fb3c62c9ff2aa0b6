//! The account as OpenAI's own pages once told it, which many clients still ask for: what may be used
//! this month in US dollars, and what was used in cents. What they show as left is the balance.

use crate::clock::Timestamp;
use crate::ledger::Usage;
use crate::money::Amount;
use serde::Serialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// A balance does not expire: clients that show when are told the year 2100.
const ACCESS_UNTIL_S: u64 = 4_102_444_800;

/// What may be used, as `/dashboard/billing/subscription` has it.
#[derive(Serialize)]
pub struct Subscription {
    object: &'static str,
    has_payment_method: bool,
    access_until: u64,
    soft_limit_usd: Box<RawValue>,
    hard_limit_usd: Box<RawValue>,
    system_hard_limit_usd: Box<RawValue>,
}

/// The balance, and what was charged this month: clients take off what `usage` tells of it.
pub fn subscription(balance: Amount, month: &Usage) -> Subscription {
    let limit = balance + month.values().map(|sums| sums.charged).sum();
    Subscription {
        object: "billing_subscription",
        has_payment_method: true,
        access_until: ACCESS_UNTIL_S,
        soft_limit_usd: number(limit),
        hard_limit_usd: number(limit),
        system_hard_limit_usd: number(limit),
    }
}

/// What was used, as `/dashboard/billing/usage` has it.
#[derive(Serialize)]
pub struct Spending {
    object: &'static str,
    daily_costs: Vec<DailyCosts>,
    total_usage: Box<RawValue>,
}

#[derive(Serialize)]
struct DailyCosts {
    timestamp: i64,
    line_items: Vec<LineItem>,
}

#[derive(Serialize)]
struct LineItem {
    name: Box<str>,
    cost: Box<RawValue>,
}

/// Charges in cents, by day and model.
pub fn spending(charges: &Usage) -> Spending {
    let mut days = BTreeMap::<i64, BTreeMap<&str, Amount>>::new();
    for (group, sums) in charges {
        let day = days.entry(group.day.begin().seconds()).or_default();
        *day.entry(&group.label).or_default() += sums.charged;
    }
    let items = |models: BTreeMap<&str, Amount>| {
        models
            .into_iter()
            .map(|(name, charged)| LineItem { name: name.into(), cost: cents(charged) })
            .collect()
    };
    let costs =
        days.into_iter().map(|(timestamp, models)| DailyCosts { timestamp, line_items: items(models) });
    Spending {
        object: "list",
        daily_costs: costs.collect(),
        total_usage: cents(charges.values().map(|sums| sums.charged).sum()),
    }
}

/// The beginning of the month of a moment, in UTC.
pub fn month(now: Timestamp) -> Timestamp {
    Timestamp::parse(&format!("{}-01", &now.to_string()[..7])).expect("each month has a first day")
}

/// An amount is a number of JSON as it is printed.
fn number(amount: Amount) -> Box<RawValue> {
    RawValue::from_string(amount.to_string()).expect("a decimal number")
}

fn cents(amount: Amount) -> Box<RawValue> {
    number(Amount::from_atto_usd(amount.atto_usd() * 100))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::KeyId;
    use crate::ledger::{Day, Group, Sums};
    use serde_json::{Value, json};

    #[test]
    fn what_clients_show_as_left_is_the_balance() {
        let group =
            |day, key, label: &str| Group { day: Day(day), key: KeyId::from_int(key), label: label.into() };
        let sums =
            |amount| Sums { requests: 1, charged: Amount::parse(amount).unwrap(), quantities: Vec::new() };
        let charges = Usage::from([
            (group(20_000, 1, "m"), sums("0.25")),
            (group(20_000, 2, "m"), sums("0.000000000000000001")),
            (group(20_001, 1, "n"), sums("-0.05")),
        ]);
        let told = serde_json::to_string(&spending(&charges)).unwrap();
        let days = r#"[{"timestamp":1728000000,"line_items":[{"name":"m","cost":25.0000000000000001}]},{"timestamp":1728086400,"line_items":[{"name":"n","cost":-5.00}]}]"#;
        assert_eq!(
            told,
            format!(r#"{{"object":"list","daily_costs":{days},"total_usage":20.0000000000000001}}"#)
        );
        let told = serde_json::to_value(subscription(Amount::parse("1").unwrap(), &charges)).unwrap();
        assert_eq!((&told["hard_limit_usd"], &told["object"]), (&json!(1.2), &json!("billing_subscription")));
        let nothing: Value = serde_json::to_value(spending(&Usage::new())).unwrap();
        assert_eq!(nothing, json!({ "object": "list", "daily_costs": [], "total_usage": 0.0 }));
    }

    #[test]
    fn a_month_begins_on_its_first_day() {
        for (now, first) in [("2026-02-28T23:59:59Z", "2026-02-01"), ("2026-12-01", "2026-12-01")] {
            assert_eq!(month(Timestamp::parse(now).unwrap()), Timestamp::parse(first).unwrap());
        }
    }
}
