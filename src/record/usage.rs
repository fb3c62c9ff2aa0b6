//! Usage: what a customer used and was charged, as people and scripts read it.

use crate::id::KeyId;
use crate::ledger::{Day, Label, Labels, Sums, Usage as Charges};
use crate::money::Amount;
use crate::usage::{Class, Usage};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The ledger sums charges by the model that was asked for, and tokens by class.
pub const LABELS: Labels = Labels { version: 1, quantities: Class::ALL.len(), read: label };

/// What sums are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dimension {
    /// The day, in UTC.
    Day,
    /// The model that was asked for.
    Model,
    /// The key.
    Key,
}

impl Dimension {
    /// Reads `day`, `model` or `key`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "day" => Some(Dimension::Day),
            "model" => Some(Dimension::Model),
            "key" => Some(Dimension::Key),
            _ => None,
        }
    }
}

/// Sums of some charges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageLine {
    /// The day in UTC, if sums are by day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub day: Option<Box<str>>,
    /// The model that was asked for, if sums are by model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Box<str>>,
    /// The key, if sums are by key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyId>,
    /// Charges.
    pub requests: u64,
    /// Tokens.
    pub usage: Usage,
    /// What was charged less what was given back, in USD.
    pub charge: Amount,
}

/// What one line is of.
type By<'a> = (Option<Day>, Option<&'a str>, Option<KeyId>);

/// Sums charges up by some dimensions, in their order; one line without any.
pub fn lines(charges: &Charges, by: &[Dimension]) -> Vec<UsageLine> {
    let has = |dimension| by.contains(&dimension);
    let mut sums = BTreeMap::<By, Sums>::new();
    if by.is_empty() {
        sums.insert((None, None, None), Sums::default());
    }
    for (group, more) in charges {
        let day = has(Dimension::Day).then_some(group.day);
        let model = has(Dimension::Model).then_some(&*group.label);
        let key = has(Dimension::Key).then_some(group.key);
        sums.entry((day, model, key)).or_default().add(more);
    }
    let line = |((day, model, key), sums): (By, Sums)| UsageLine {
        day: day.map(|day| day.begin().to_string()[..10].into()),
        model: model.map(Into::into),
        key,
        requests: sums.requests,
        usage: usage(&sums.quantities),
        charge: sums.charged,
    };
    sums.into_iter().map(line).collect()
}

/// What is summed of a [`crate::settle::Detail`]: every record is read once for it, so no more is.
#[derive(Deserialize)]
struct Summed<'a> {
    #[serde(borrow)]
    model: Cow<'a, str>,
    usage: Usage,
}

fn label(record: &[u8]) -> Label {
    let Ok(Summed { model, usage }) = serde_json::from_slice(record) else { return Label::default() };
    Label { name: model.into(), quantities: Class::ALL.iter().map(|class| usage.of(*class)).collect() }
}

fn usage(quantities: &[u64]) -> Usage {
    let mut usage = Usage::default();
    for (class, quantity) in Class::ALL.into_iter().zip(quantities) {
        *usage.of_mut(class) = *quantity;
    }
    usage
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Group;

    fn charges() -> Charges {
        let group =
            |day, key, label: &str| Group { day: Day(day), key: KeyId::from_int(key), label: label.into() };
        let sums = |requests, charged| Sums {
            requests,
            charged: Amount::from_atto_usd(charged),
            quantities: Class::ALL.map(|class| if class == Class::Output { 10 * requests } else { 0 }).into(),
        };
        Charges::from([
            (group(20_000, 1, "large"), sums(1, 5)),
            (group(20_000, 2, "small"), sums(2, 6)),
            (group(20_001, 1, "large"), sums(4, 7)),
        ])
    }

    /// Each line as its day, model, key, requests and charge.
    fn check(by: &[Dimension], expected: &[(&str, &str, u64, u64, i128)]) {
        let found = lines(&charges(), by);
        let found: Vec<_> = found
            .iter()
            .map(|line| {
                assert_eq!(line.usage.output, 10 * line.requests);
                let key = line.key.map_or(0, KeyId::int);
                let (day, model) = (line.day.as_deref(), line.model.as_deref());
                let charge = line.charge.atto_usd();
                (day.unwrap_or_default(), model.unwrap_or_default(), key, line.requests, charge)
            })
            .collect();
        assert_eq!(found, expected, "{by:?}");
    }

    #[test]
    fn charges_are_summed_by_what_is_asked() {
        check(&[], &[("", "", 0, 7, 18)]);
        check(&[Dimension::Day], &[("2024-10-04", "", 0, 3, 11), ("2024-10-05", "", 0, 4, 7)]);
        check(&[Dimension::Model], &[("", "large", 0, 5, 12), ("", "small", 0, 2, 6)]);
        check(
            &[Dimension::Key, Dimension::Day],
            &[("2024-10-04", "", 1, 1, 5), ("2024-10-04", "", 2, 2, 6), ("2024-10-05", "", 1, 4, 7)],
        );
        assert_eq!(lines(&Charges::new(), &[])[0].requests, 0, "one line, of nothing");
        assert!(lines(&Charges::new(), &[Dimension::Day]).is_empty());
    }
}
