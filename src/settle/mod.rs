//! Settlement: what was used, at the prices pinned at admission, is what is charged.
//!
//! Pure: integers in, lines and their sum out. The [`Detail`] is what the ledger keeps of a
//! request; from it the charge can be computed again at any time.

pub mod price;
mod record;
mod run;
mod tally;

pub use run::{Ended, Run};
pub use tally::Tally;

use crate::money::{Amount, UnitPrice};
use crate::usage::{Class, Metered, Usage};
use price::{Picture, Tariff, Tier};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// One product of a receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Line {
    /// Of what.
    pub class: Class,
    /// How many.
    pub quantity: u64,
    /// US dollars for a million of them, whatever they are.
    pub unit_price: UnitPrice,
    /// US dollars for all of them.
    pub amount: Amount,
}

/// What a request is charged, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// One for each class that was used.
    pub lines: Vec<Line>,
    /// Their sum.
    pub charge: Amount,
    /// At which tier.
    pub tier: Tier,
    /// The length of input above which these prices hold, if they are not those of any length.
    pub above_input_tokens: Option<u64>,
    /// The images that have these prices, if they are not those of any image.
    pub picture: Picture,
}

/// Prices `usage` of an answer that was served at `tier`, with images that look so. Exact.
pub fn settle(usage: &Usage, tier: Tier, picture: &Picture, tariff: &Tariff) -> Settlement {
    let (prices, above_input_tokens) = tariff.unit(tier, usage);
    let priced = tariff.rates(tier).of_picture(picture).filter(|_| usage.images > 0);
    let used = Class::ALL.into_iter().filter(|class| usage.of(*class) > 0);
    let lines: Vec<Line> = used
        .map(|class| {
            let (quantity, unit_price) = (usage.of(class), prices.of(class));
            let special = priced.filter(|_| class == Class::Images).map(|priced| priced.each);
            let unit_price = special.unwrap_or(unit_price);
            Line { class, quantity, unit_price, amount: unit_price.times(quantity) }
        })
        .collect();
    let charge = lines.iter().map(|line| line.amount).sum();
    Settlement {
        lines,
        charge,
        tier: tariff.charged(tier),
        above_input_tokens,
        picture: priced.map(|priced| priced.picture.clone()).unwrap_or_default(),
    }
}

/// One try at one upstream account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Attempt {
    /// The account's name.
    pub upstream: Box<str>,
    /// How it ended, in a word: `ok`, `connect`, `timeout`, `rate_limited`, `hedged`, …
    pub outcome: Box<str>,
    /// The provider's status, if it got that far.
    pub status: Option<u16>,
    /// How long it took.
    pub ms: u64,
}

/// What the ledger keeps of a request beside the money: never anything of its text.
#[derive(Debug, Deserialize)]
pub struct Detail {
    /// Which endpoint.
    pub endpoint: Box<str>,
    /// The model that was asked for.
    pub model: Box<str>,
    /// Whether the answer was streamed.
    pub stream: bool,
    /// The status that the client got.
    pub status: u16,
    /// How the answer ended: `complete`, `client_gone`, `cut`, `credit_ended`, `failed`, …
    pub end: Box<str>,
    /// How the usage was found.
    pub metered: Metered,
    /// How long each answer might be, in tokens, where what could be paid was less than was asked for.
    #[serde(default)]
    pub output_cap: Option<u64>,
    /// The service tier, where it is not the default.
    #[serde(default)]
    pub service_tier: Option<Box<str>>,
    /// The length of input above which the prices hold, if they are not those of any length.
    #[serde(default)]
    pub above_input_tokens: Option<u64>,
    /// What the provider takes for it, where the operator wrote that down.
    #[serde(default)]
    pub cost: Option<Amount>,
    /// The size of images that have these prices, if they are not those of any.
    #[serde(default)]
    pub image_size: Option<Box<str>>,
    /// The same of their quality.
    #[serde(default)]
    pub image_quality: Option<Box<str>>,
    /// The vocabulary of an estimate.
    #[serde(default)]
    pub encoding: Option<Box<str>>,
    /// What was used.
    pub usage: Usage,
    /// The provider's own words about it.
    #[serde(default)]
    pub reported: Option<Box<RawValue>>,
    /// What it costs.
    pub lines: Vec<Line>,
    /// All that was tried.
    pub attempts: Vec<Attempt>,
    /// From the first byte of the request to the first of the answer.
    #[serde(default)]
    pub first_byte_ms: Option<u64>,
    /// From the first byte of the request to the settlement.
    pub duration_ms: u64,
}

impl Detail {
    /// Of a request that used nothing, before more is known.
    pub fn unused(endpoint: &str, model: &str, status: u16, end: &str) -> Self {
        Detail {
            endpoint: endpoint.into(),
            model: model.into(),
            stream: false,
            status,
            end: end.into(),
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
            attempts: Vec::new(),
            first_byte_ms: None,
            duration_ms: 0,
        }
    }
}

/// Computes the charge of a record again: each line from its quantity and unit price, the lines
/// against the usage (I9).
///
/// # Errors
/// What does not fit.
pub fn recompute(record: &[u8]) -> Result<Amount, String> {
    let detail: Detail = serde_json::from_slice(record).map_err(|why| format!("it cannot be read: {why}"))?;
    let mut sum = Amount::ZERO;
    let mut left = detail.usage;
    for Line { class, quantity, unit_price, amount } in &detail.lines {
        if unit_price.times(*quantity) != *amount {
            return Err(format!("{quantity} {} at {unit_price} are not {amount}", class.name()));
        }
        // Of a class there is a line for each of its prices.
        let counted = left.of_mut(*class);
        *counted = counted.checked_sub(*quantity).ok_or_else(|| {
            format!("{} {} were used, the lines say {quantity}", detail.usage.of(*class), class.name())
        })?;
        sum += *amount;
    }
    if let Some(class) = Class::ALL.into_iter().find(|class| left.of(*class) > 0) {
        return Err(format!("{} {} stand in no line", left.of(class), class.name()));
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::price::{Rates, UnitPrices};
    use super::*;
    use crate::money::UnitPrice;

    fn prices() -> Tariff {
        let price = |text| UnitPrice::parse_per_million(text).unwrap();
        let unit = UnitPrices {
            input: price("0.15"),
            cached_input: price("0.075"),
            cache_write: price("0.15"),
            cache_write_1h: price("0.30"),
            cache_write_12h: price("0.375"),
            output: price("0.60"),
            reasoning: price("0.60"),
            ..UnitPrices::default()
        };
        Tariff {
            default: Rates { unit, bands: Vec::new(), pictures: Vec::new() },
            flex: None,
            priority: None,
            batch: None,
        }
    }

    fn detail(usage: Usage) -> Detail {
        let lines = settle(&usage, Tier::Default, &Picture::default(), &prices()).lines;
        Detail {
            endpoint: "chat".into(),
            model: "m".into(),
            stream: false,
            status: 200,
            end: "complete".into(),
            metered: Metered::Reported,
            output_cap: None,
            service_tier: None,
            above_input_tokens: None,
            cost: None,
            image_size: None,
            image_quality: None,
            encoding: None,
            usage,
            reported: None,
            lines,
            attempts: Vec::new(),
            first_byte_ms: Some(1),
            duration_ms: 2,
        }
    }

    #[test]
    fn each_class_is_charged_once_at_its_price() {
        let usage = Usage { input: 36, cached_input: 64, output: 20, reasoning: 30, ..Usage::default() };
        let settled = settle(&usage, Tier::Default, &Picture::default(), &prices());
        assert_eq!(settled.lines.len(), 4);
        // 36 x 0.15 + 64 x 0.075 + 50 x 0.60 = 40.2 for a million
        assert_eq!(settled.charge.to_string(), "0.0000402");
        assert_eq!(
            settle(&Usage::default(), Tier::Default, &Picture::default(), &prices()).charge,
            Amount::ZERO
        );
    }

    #[test]
    fn a_record_recomputes_and_a_changed_one_does_not() {
        let usage = Usage { input: 100, output: 50, ..Usage::default() };
        let record = String::from_utf8(detail(usage).to_record(Some(r#"{"prompt_tokens":100}"#))).unwrap();
        assert_eq!(
            recompute(record.as_bytes()),
            Ok(settle(&usage, Tier::Default, &Picture::default(), &prices()).charge)
        );
        for (from, to) in [
            ("\"quantity\":100", "\"quantity\":101"),
            ("\"input\":100", "\"input\":101"),
            ("\"unit_price\":\"0.60\"", "\"unit_price\":\"0.61\""),
            ("\"amount\":\"0.00003\"", "\"amount\":\"0.00004\""),
            ("\"cached_input\":0", "\"cached_input\":5"),
        ] {
            let changed = record.replacen(from, to, 1);
            assert_ne!(changed, record, "{from}");
            assert!(recompute(changed.as_bytes()).is_err(), "{from} -> {to}");
        }
    }
}
