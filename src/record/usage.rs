//! Usage: what a customer used and was charged, as people and scripts read it.

use super::export;
use crate::id::KeyId;
use crate::ledger::{Day, Label, Labels, Sums, Usage as Charges};
use crate::money::Amount;
use crate::usage::{Class, Usage};
use memchr::{memchr2, memmem};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// The ledger sums charges by the model that was asked for, and what was used by class.
pub const LABELS: Labels = Labels { version: 2, quantities: Class::ALL.len(), read: label };

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
    /// Reads several, separated by commas; none of nothing.
    pub fn parse_list(text: &str) -> Option<Vec<Self>> {
        text.split(',').filter(|word| !word.is_empty()).map(Dimension::parse).collect()
    }

    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Dimension::Day => "day",
            Dimension::Model => "model",
            Dimension::Key => "key",
        }
    }

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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
    /// What was used.
    pub usage: Usage,
    /// What was charged less what was given back, in USD.
    pub charge: Amount,
}

impl UsageLine {
    /// What it is of, by one dimension.
    fn of(&self, dimension: Dimension) -> String {
        match dimension {
            Dimension::Day => self.day.as_deref().unwrap_or_default().to_owned(),
            Dimension::Model => self.model.as_deref().unwrap_or_default().to_owned(),
            Dimension::Key => self.key.map(|key| key.to_string()).unwrap_or_default(),
        }
    }
}

/// The names of the columns of lines by some dimensions, with the tokens of some classes.
pub fn head(by: &[Dimension], classes: &[Class]) -> Vec<&'static str> {
    let names = classes.iter().map(|class| class.name());
    let by = by.iter().map(|dimension| dimension.name());
    by.chain(["requests"]).chain(names).chain(["charge"]).collect()
}

/// Each line of them, column by column.
pub fn rows<'a>(
    lines: &'a [UsageLine],
    by: &'a [Dimension],
    classes: &'a [Class],
) -> impl Iterator<Item = Vec<String>> + 'a {
    lines.iter().map(move |line| {
        let mut row: Vec<String> = by.iter().map(|dimension| line.of(*dimension)).collect();
        row.push(line.requests.to_string());
        row.extend(classes.iter().map(|class| line.usage.of(*class).to_string()));
        row.push(line.charge.to_string());
        row
    })
}

/// Lines as CSV, with all classes.
pub fn csv(lines: &[UsageLine], by: &[Dimension]) -> String {
    export::csv(Some(&head(by, &Class::ALL)), rows(lines, by, &Class::ALL))
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

/// What is summed of a [`crate::settle::Detail`].
#[derive(Deserialize)]
struct Summed<'a> {
    #[serde(borrow)]
    model: Cow<'a, str>,
    usage: Usage,
}

/// Every record is read once for this, when its segment is full.
fn label(record: &[u8]) -> Label {
    quick(record).or_else(|| parse(record)).unwrap_or_default()
}

fn parse(record: &[u8]) -> Option<Label> {
    let Summed { model, usage } = serde_json::from_slice(record).ok()?;
    let quantities = Class::ALL.iter().map(|class| usage.of(*class)).collect();
    Some(Label { name: model.into(), quantities })
}

/// Reads a record whose fields stand in the order in which [`crate::settle::Detail::to_record`] writes
/// them, as most do: what comes behind the usage is not looked at. `None` for any other.
fn quick(record: &[u8]) -> Option<Label> {
    let (_, rest) = word(record.strip_prefix(b"{\"endpoint\":\"")?)?;
    let (model, rest) = word(rest.strip_prefix(b",\"model\":\"")?)?;
    // Within a string the quotes would be escaped, and there is no object before this one.
    const USAGE: &[u8] = b",\"usage\":{";
    let mut rest = &rest[memmem::find(rest, USAGE)? + USAGE.len()..];
    let mut quantities = Vec::with_capacity(Class::ALL.len());
    for class in Class::ALL {
        let name = rest.strip_prefix(b"\"").and_then(|rest| rest.strip_prefix(class.name().as_bytes()));
        // What is not there was not used.
        let Some(value) = name.and_then(|rest| rest.strip_prefix(b"\":")) else {
            quantities.push(0);
            continue;
        };
        let digits = value.iter().position(|byte| !byte.is_ascii_digit())?;
        let (number, more) = value.split_at(digits);
        quantities.push(str::from_utf8(number).ok()?.parse().ok()?);
        rest = more.strip_prefix(b",").unwrap_or(more);
    }
    rest.starts_with(b"}").then_some(())?;
    Some(Label { name: str::from_utf8(model).ok()?.into(), quantities })
}

/// A string without escapes, up to its closing quote, and what follows that.
fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr2(b'"', b'\\', text)?;
    (text[end] == b'"').then(|| (&text[..end], &text[end + 1..]))
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
    use crate::settle::Detail;
    use serde_json::json;

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

    /// A record of this model, and what the provider reported.
    fn record(model: &str, usage: Usage, reported: Option<&str>) -> Vec<u8> {
        let detail = json!({
            "endpoint": "chat.completions", "model": model, "stream": true, "status": 200, "end": "complete",
            "metered": "reported", "service_tier": "priority", "cost": "0.000005", "usage": usage, "lines": [],
            "attempts": [{ "upstream": "a,\"usage\":{", "outcome": "ok", "status": 200, "ms": 7 }],
            "duration_ms": 9,
        });
        let detail: Detail = serde_json::from_value(detail).unwrap();
        detail.to_record(reported)
    }

    #[test]
    fn a_label_is_read_quickly_as_it_is_parsed() {
        let mut usage = Usage::default();
        for (number, class) in (1..).zip(Class::ALL) {
            *usage.of_mut(class) = number * 1_000_003;
        }
        let reported = r#"{"model":"other","usage":{"input":9},"total_tokens":1}"#;
        for (model, usage, reported) in [
            ("gpt-4o-mini", Usage::default(), None),
            ("gpt-4o-mini", usage, Some(reported)),
            ("größer", Usage { output: u64::MAX, ..usage }, Some(reported)),
            (",usage:{", usage, None),
        ] {
            let record = record(model, usage, reported);
            let quick = quick(&record);
            assert!(quick.is_some(), "{model}");
            assert_eq!(quick, parse(&record), "{model}");
            assert_eq!(&*label(&record).name, model);
        }
        // A name with escapes, another order, a class that is not known: these are parsed.
        let escaped = record("a\"b\\", usage, None);
        assert_eq!((quick(&escaped), &*label(&escaped).name), (None, "a\"b\\"));
        for other in [
            r#"{"model":"m","endpoint":"e","usage":{"input":7,"cached_input":0,"cache_write":0,"output":1,"reasoning":0}}"#,
            r#"{"endpoint":"e","model":"m","usage":{"output":1,"input":7}}"#,
        ] {
            assert_eq!(quick(other.as_bytes()), None, "{other}");
            assert_eq!(label(other.as_bytes()).quantities[0], 7, "{other}");
        }
        assert_eq!(label(b"no record"), Label::default());
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
