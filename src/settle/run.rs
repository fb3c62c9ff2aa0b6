//! A run: a request that was answered before its work was done. What it will be charged by is pinned in
//! the ledger with its hold, so that neither a restart nor other price books change it.

use super::price::{Encoding, Picture, Tariff, Tier};
use super::{Attempt, Detail, Settlement, Tally, settle};
use crate::clock::Timestamp;
use crate::money::Amount;
use crate::usage::{Metered, Usage};
use serde::{Deserialize, Serialize};

/// What the ledger keeps of a run while it is at work: never anything of its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Which endpoint.
    pub endpoint: Box<str>,
    /// Of a batch, which endpoint each of its requests is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<Box<str>>,
    /// The model that was asked for.
    pub model: Box<str>,
    /// The service tier that was asked for.
    pub tier: Tier,
    /// How long the answer might be, in tokens, where what could be paid was less than was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_cap: Option<u64>,
    /// All that was tried; the last one has it.
    pub attempts: Vec<Attempt>,
    /// When it was asked for.
    pub begun: Timestamp,
    /// The most that it can cost.
    pub most: Amount,
    /// How long what was asked is, in tokens by our own count.
    pub input_tokens: u64,
    /// How tokens are counted if nobody reports them.
    pub encoding: Encoding,
    /// What customers pay.
    pub price: Tariff,
    /// What the provider takes, where the operator wrote it down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Tariff>,
}

/// What a run that has ended comes to.
#[derive(Debug)]
pub struct Ended {
    /// What is charged.
    pub charge: Amount,
    /// What the provider takes for it, where that is known.
    pub cost: Option<Amount>,
    /// What the ledger keeps of it.
    pub record: Vec<u8>,
}

impl Run {
    /// Whose account has it.
    pub fn upstream(&self) -> &str {
        self.attempts.last().map_or("other", |attempt| &attempt.upstream)
    }

    /// It has ended, and this was used, as the provider `reported` it or as it was counted, at the tier that
    /// was given.
    pub fn used(&self, usage: Usage, tier: Option<Tier>, reported: Option<&str>, now: Timestamp) -> Ended {
        let asked = tier.unwrap_or(self.tier);
        let settle = |tariff| settle(&usage, asked, &Picture::default(), tariff);
        let (settlement, cost) = (settle(&self.price), self.cost.as_ref().map(|cost| settle(cost).charge));
        let tier = settlement.tier;
        let metered = if reported.is_some() { Metered::Reported } else { Metered::Estimated };
        let detail = Detail {
            service_tier: (tier != Tier::Default).then(|| tier.name().into()),
            above_input_tokens: settlement.above_input_tokens,
            cost,
            usage,
            lines: settlement.lines,
            ..self.detail("complete", metered, now)
        };
        Ended { charge: settlement.charge, cost, record: detail.to_record(reported) }
    }

    /// A batch has ended so, and its answers used this, each at its prices and at those of its provider; and
    /// what the provider says of them all. `metered` is [`Metered::Estimated`] if any was counted by us.
    pub fn summed(
        &self,
        (price, cost): (Tally, Tally),
        (end, metered): (&str, Metered),
        reported: Option<&str>,
        now: Timestamp,
    ) -> Ended {
        let usage = price.usage();
        let Settlement { lines, charge, tier, above_input_tokens, .. } = price.settle(self.tier, &self.price);
        let cost = self.cost.as_ref().map(|tariff| cost.settle(self.tier, tariff).charge);
        let detail = Detail {
            service_tier: (tier != Tier::Default).then(|| tier.name().into()),
            above_input_tokens,
            cost,
            usage,
            lines,
            ..self.detail(end, metered, now)
        };
        Ended { charge, cost, record: detail.to_record(reported) }
    }

    /// It has ended, or is given up, and nothing is due.
    pub fn untold(&self, end: &str, now: Timestamp) -> Vec<u8> {
        self.detail(end, Metered::None, now).to_record(None)
    }

    fn detail(&self, end: &str, metered: Metered, now: Timestamp) -> Detail {
        let us = now.micros().saturating_sub(self.begun.micros());
        Detail {
            metered,
            encoding: (metered == Metered::Estimated).then(|| self.encoding.name().into()),
            output_cap: self.output_cap,
            attempts: self.attempts.clone(),
            duration_ms: u64::try_from(us).unwrap_or_default() / 1_000,
            ..Detail::unused(&self.endpoint, &self.model, 200, end)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::price::{Band, Rates, UnitPrices};
    use super::super::recompute;
    use super::*;
    use crate::money::UnitPrice;

    fn run() -> Run {
        let unit = |input: &str| UnitPrices {
            input: UnitPrice::parse_per_million(input).unwrap(),
            output: UnitPrice::parse_per_million("10").unwrap(),
            ..UnitPrices::default()
        };
        let default =
            Rates { unit: unit("1"), bands: vec![Band { above: 100, unit: unit("2") }], ..Rates::default() };
        let flex = Some(Rates { unit: unit("0.5"), ..Rates::default() });
        Run {
            endpoint: "responses".into(),
            lines: None,
            model: "m".into(),
            tier: Tier::Flex,
            output_cap: Some(7),
            attempts: vec![Attempt { upstream: "a".into(), outcome: "ok".into(), status: Some(200), ms: 3 }],
            begun: Timestamp::from_micros(1_000_000),
            most: Amount::parse("1").unwrap(),
            input_tokens: 200,
            encoding: Encoding::Cl100kBase,
            price: Tariff { default: default.clone(), flex, priority: None, batch: None },
            cost: Some(Tariff { default, flex: None, priority: None, batch: None }),
        }
    }

    #[test]
    fn what_it_will_be_charged_by_reads_back() {
        let written = serde_json::to_vec(&run()).unwrap();
        assert_eq!(serde_json::from_slice::<Run>(&written).unwrap(), run());
    }

    #[test]
    fn a_run_is_charged_at_the_prices_that_were_pinned() {
        let usage = Usage { input: 200, output: 10, ..Usage::default() };
        let now = Timestamp::from_micros(3_500_000);
        for (tier, charge) in [(None, "0.0002"), (Some(Tier::Default), "0.0005")] {
            let ended = run().used(usage, tier, Some(r#"{"input_tokens":200}"#), now);
            assert_eq!(ended.charge.to_string(), charge, "{tier:?}");
            assert_eq!(recompute(&ended.record), Ok(ended.charge));
            // Its provider's book has no other rates.
            assert_eq!(ended.cost.map(|cost| cost.to_string()).as_deref(), Some("0.0005"));
            let detail: Detail = serde_json::from_slice(&ended.record).unwrap();
            assert_eq!((detail.duration_ms, detail.output_cap), (2_500, Some(7)));
        }
        let counted: Detail = serde_json::from_slice(&run().used(usage, None, None, now).record).unwrap();
        assert_eq!((counted.metered, counted.encoding.as_deref()), (Metered::Estimated, Some("cl100k_base")));
        assert_eq!(recompute(&run().untold("expired", now)), Ok(Amount::ZERO));
    }
}
