//! Slices: what is held of a stream, while it runs.
//!
//! What a stream of text costs is seen as it comes: a token is at least a byte, so that no more was
//! written than is [delivered](Weight). Its hold covers a slice, and is extended before that is delivered.
//! So a long answer does not tie up a balance that others could use, and still nothing is delivered that
//! is not held.
//!
//! Pure: who extends holds and keeps back what is not covered yet is elsewhere.

use super::estimate::{OUTPUT_TOKENS_MIN, TokensMax};
use super::{Demand, Seen};
use crate::ledger::Budgets;
use crate::money::Amount;
use crate::settle::price::{ModelPrice, Reasoning};
use crate::usage::{Unit, Weight};

/// Output of a slice, in tokens that are taken for a byte each: 2,000 tokens of English prose.
const SLICE: u64 = 8_192;
/// The next slice is asked for when so much of the last one is left: seconds before it is delivered, where
/// the disk takes milliseconds. An answer of up to a thousand tokens is never extended.
const AHEAD: u64 = SLICE / 2;

/// Whether a request is held by slices. Reasoning that is not shown is not seen as it comes.
pub fn apply(seen: Seen, price: &ModelPrice) -> bool {
    let shown = price.hidden_reasoning == Reasoning::None && price.sold_by == Unit::Token;
    seen == Seen::AsItComes && shown
}

/// The first slice.
pub fn first(tokens: TokensMax) -> TokensMax {
    TokensMax { output: tokens.output.min(SLICE), ..tokens }
}

/// What a hold covers.
#[derive(Clone, Debug)]
pub struct Slices {
    /// All that may be written.
    tokens: TokensMax,
    held: Amount,
    /// Output that `held` pays for.
    paid: u64,
    /// What bounds the hold beside the balance, as of admission.
    pub budgets: Budgets,
}

/// What a request is priced by.
type By<'a> = (&'a Demand, &'a ModelPrice);

impl Slices {
    /// Of a hold of `held`, of which at most `tokens` can be used.
    pub fn new(tokens: TokensMax, held: Amount, budgets: Budgets, by: By<'_>) -> Self {
        let mut slices = Slices { tokens, held, paid: 0, budgets };
        slices.grown(Amount::ZERO, by);
        slices
    }

    /// The hold has grown.
    pub fn grown(&mut self, more: Amount, (demand, price): By<'_>) {
        self.held += more;
        self.paid = self.tokens.output_within(self.held, demand, price);
    }

    /// How much may be delivered.
    pub fn room(&self) -> Weight {
        // The provider itself writes no more than all.
        if self.paid == self.tokens.output { Weight::MAX } else { Weight(self.paid) }
    }

    /// Whether more should be held by now.
    pub fn is_short(&self, delivered: Weight) -> bool {
        self.room().0.saturating_sub(delivered.0) < AHEAD
    }

    /// All that is not held yet.
    pub fn rest(&self, (demand, price): By<'_>) -> Amount {
        self.tokens.charge_max(demand, price) - self.held
    }

    /// The next slice, and the least that is of use.
    pub fn next(&self, (demand, price): By<'_>) -> (Amount, Amount) {
        let up_to = |more: u64| {
            let output = self.paid.saturating_add(more).min(self.tokens.output);
            TokensMax { output, ..self.tokens }.charge_max(demand, price) - self.held
        };
        (up_to(SLICE), up_to(OUTPUT_TOKENS_MIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admit::estimate;
    use crate::money::UnitPrice;
    use crate::settle::price::{Encoding, Rates, Tariff, UnitPrices};

    /// A token of output costs a millionth of a dollar, a byte of input too.
    fn price(max_output_tokens: u64) -> ModelPrice {
        let each = UnitPrice::parse_per_million("1").unwrap();
        let unit = UnitPrices { input: each, output: each, ..UnitPrices::default() };
        let default = Rates { unit, bands: Vec::new(), pictures: Vec::new() };
        ModelPrice {
            price: Tariff { default, flex: None, priority: None, batch: None },
            sold_by: Unit::Token,
            cost: None,
            max_output_tokens: Some(max_output_tokens),
            max_input_tokens: None,
            encoding: Encoding::O200kBase,
            hidden_reasoning: Reasoning::None,
        }
    }

    fn micro(tokens: u64) -> Amount {
        Amount::from_atto_usd(i128::from(tokens) * 1_000_000_000_000)
    }

    const INPUT: u64 = 1_000;

    /// A stream with so much output at most, of which a first slice is held.
    fn begin(output: u64) -> (Slices, Demand, ModelPrice) {
        let demand = Demand { input_bytes: INPUT - 16, choices: 1, ..Demand::default() };
        let price = price(output);
        let tokens = estimate::tokens_max(&demand, &price).unwrap();
        let held = first(tokens).charge_max(&demand, &price);
        assert_eq!(held, micro(INPUT + output.min(SLICE)));
        (Slices::new(tokens, held, Budgets::default(), (&demand, &price)), demand, price)
    }

    #[test]
    fn short_answers_are_held_whole_and_never_extended() {
        for output in [1, SLICE] {
            let (slices, ..) = begin(output);
            assert_eq!(slices.room(), Weight::MAX);
            assert!(!slices.is_short(Weight(output * 100)), "the provider ends it");
        }
    }

    #[test]
    fn a_slice_is_asked_for_ahead_until_all_is_held() {
        let output = 2 * SLICE + 100;
        let (mut slices, demand, price) = begin(output);
        let by = (&demand, &price);
        assert_eq!(slices.room(), Weight(SLICE));
        assert!(!slices.is_short(Weight(SLICE - AHEAD)) && slices.is_short(Weight(SLICE - AHEAD + 1)));
        assert_eq!(slices.next(by), (micro(SLICE), micro(16)));
        slices.grown(micro(50), by);
        assert_eq!(slices.room(), Weight(SLICE + 50), "what was left");
        assert_eq!(slices.rest(by), micro(SLICE + 50));
        slices.grown(slices.next(by).0, by);
        assert_eq!(slices.next(by), (micro(50), micro(16)), "no more than the request can cost");
        slices.grown(micro(50), by);
        assert_eq!((slices.room(), slices.rest(by)), (Weight::MAX, Amount::ZERO));
    }

    #[test]
    fn what_is_not_seen_as_it_comes_is_not_sliced() {
        let hidden = ModelPrice { hidden_reasoning: Reasoning::Hidden, ..price(1) };
        assert!(apply(Seen::AsItComes, &price(1)) && !apply(Seen::AtItsEnd, &price(1)));
        assert!(!apply(Seen::AsItComes, &hidden));
        assert!(!apply(Seen::AsItComes, &ModelPrice { sold_by: Unit::Second, ..price(1) }));
    }
}
