//! The sum of many answers that are charged together: each at the prices of its own length.

use super::price::{Tariff, Tier, UnitPrices};
use super::{Line, Settlement};
use crate::usage::{Class, Usage};

/// What many answers used, by the prices that they have.
#[derive(Clone, Debug, Default)]
pub struct Tally(Vec<Share>);

#[derive(Clone, Debug)]
struct Share {
    /// The length of input above which they hold, if they are not those of any length.
    above: Option<u64>,
    unit: UnitPrices,
    usage: Usage,
}

impl Tally {
    /// Adds an answer that was served at `tier`.
    pub fn add(&mut self, usage: &Usage, tier: Tier, tariff: &Tariff) {
        let (unit, above) = tariff.unit(tier, usage);
        let place = self.0.iter().position(|share| share.above == above).unwrap_or_else(|| {
            self.0.push(Share { above, unit: *unit, usage: Usage::default() });
            self.0.len() - 1
        });
        let sum = &mut self.0[place].usage;
        Class::ALL.into_iter().for_each(|class| *sum.of_mut(class) += usage.of(class));
    }

    /// What all of them used together.
    pub fn usage(&self) -> Usage {
        let mut sum = Usage::default();
        for share in &self.0 {
            Class::ALL.into_iter().for_each(|class| *sum.of_mut(class) += share.usage.of(class));
        }
        sum
    }

    /// What they cost: a line for each class and price, the prices of shorter inputs first.
    pub fn settle(mut self, tier: Tier, tariff: &Tariff) -> Settlement {
        self.0.sort_unstable_by_key(|share| share.above);
        let line = |share: &Share, class| {
            let (quantity, unit_price) = (share.usage.of(class), share.unit.of(class));
            (quantity > 0).then(|| Line { class, quantity, unit_price, amount: unit_price.times(quantity) })
        };
        let lines: Vec<Line> = self
            .0
            .iter()
            .flat_map(|share| Class::ALL.into_iter().filter_map(move |class| line(share, class)))
            .collect();
        let charge = lines.iter().map(|line| line.amount).sum();
        // Where they have several, each line says its price.
        let above_input_tokens = if let [only] = &self.0[..] { only.above } else { None };
        let (tier, picture) = (tariff.charged(tier), Default::default());
        Settlement { lines, charge, tier, above_input_tokens, picture }
    }
}

#[cfg(test)]
mod tests {
    use super::super::price::{Band, Picture, Rates};
    use super::super::settle;
    use super::*;
    use crate::money::{Amount, UnitPrice};

    fn tariff() -> Tariff {
        let unit = |input: &str| UnitPrices {
            input: UnitPrice::parse_per_million(input).unwrap(),
            output: UnitPrice::parse_per_million("10").unwrap(),
            ..UnitPrices::default()
        };
        let rates = |low: &str, high: &str| Rates {
            unit: unit(low),
            bands: vec![Band { above: 100, unit: unit(high) }],
            ..Rates::default()
        };
        Tariff { default: rates("1", "2"), flex: None, priority: None, batch: Some(rates("0.5", "0.7")) }
    }

    #[track_caller]
    fn check(answers: &[(u64, u64)], lines: usize, above: Option<u64>) {
        let (mut tally, mut alone) = (Tally::default(), Amount::ZERO);
        for (input, output) in answers {
            let usage = Usage { input: *input, output: *output, ..Usage::default() };
            tally.add(&usage, Tier::Batch, &tariff());
            alone += settle(&usage, Tier::Batch, &Picture::default(), &tariff()).charge;
        }
        let sum = tally.usage();
        let settled = tally.settle(Tier::Batch, &tariff());
        assert_eq!((settled.charge, settled.tier), (alone, Tier::Batch), "as each alone");
        assert_eq!((settled.lines.len(), settled.above_input_tokens), (lines, above), "{settled:?}");
        for class in Class::ALL {
            let of_class = settled.lines.iter().filter(|line| line.class == class);
            assert_eq!(of_class.map(|line| line.quantity).sum::<u64>(), sum.of(class));
        }
    }

    #[test]
    fn many_cost_what_each_costs_alone() {
        check(&[], 0, None);
        check(&[(1, 0), (100, 3)], 2, None);
        check(&[(101, 1), (102, 1)], 2, Some(100));
        // Together they are long, and each has the price of its own length.
        check(&[(60, 1), (101, 5), (60, 0), (1_000, 7)], 4, None);
    }
}
