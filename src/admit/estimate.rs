//! The most that a request can cost: what is held for it.

use super::{AdmitError, Demand, Tells, Work};
use crate::money::Amount;
use crate::settle::price::{ModelPrice, Rates, Tier, UnitPrices};
use crate::usage::{Class, Unit};

/// The dearest known image: gpt-4o-mini's 2,833 tokens and 5,667 for each of 8 tiles.
const IMAGE_TOKENS_MAX: u64 = 48_169;
/// What is kept counts so many times what it came to when it was made: another model has another
/// vocabulary, and what was said becomes items with a frame each.
const STORED_TIMES: u64 = 2;
/// Tokens of framing that a provider adds: a few for each message, and a message has more bytes.
const FRAME_TOKENS: u64 = 16;

/// The most that a web search finds: a quarter of the window that OpenAI gives all of them together.
const FOUND_TOKENS_MAX: u64 = 32_000;

/// The shortest answer that is worth asking for, in tokens: the least that OpenAI takes as a cap.
pub const OUTPUT_TOKENS_MIN: u64 = 16;
/// The fewest bytes of a second of audio: half of what the leanest codec for speech takes.
const AUDIO_BYTES_PER_SECOND_MIN: u64 = 500;
/// The fewest bytes of audio that make a token: five times as many tokens a second as models are known to read.
const AUDIO_BYTES_PER_TOKEN_MIN: u64 = 10;

/// A token of English text or JSON is about this many bytes.
const TOKEN_BYTES_LIKELY: u64 = 4;
/// What an image usually is: four tiles of gpt-4o.
const IMAGE_TOKENS_LIKELY: u64 = 765;

/// Tokens that a request may need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokensMax {
    /// Of input, over all readings: after each search there is another.
    pub input: u64,
    /// Of output.
    pub output: u64,
}

impl TokensMax {
    /// What they cost at most.
    pub fn charge_max(&self, demand: &Demand, price: &ModelPrice) -> Amount {
        let charge = |unit: &UnitPrices| self.unwritten(demand, unit) + unit.output_max().times(self.output);
        self.units(demand, price).map(charge).max().unwrap_or_default()
    }

    /// What they cost at least, where each answer may be cut to [`OUTPUT_TOKENS_MIN`].
    pub fn charge_min(&self, demand: &Demand, price: &ModelPrice) -> Amount {
        let output = self.output.min(OUTPUT_TOKENS_MIN.saturating_mul(demand.choices));
        TokensMax { output, ..*self }.charge_max(demand, price)
    }

    /// How long each answer may be, in tokens, so that all of it costs no more than this.
    pub fn output_for(&self, amount: Amount, demand: &Demand, price: &ModelPrice) -> u64 {
        self.output_within(amount, demand, price) / demand.choices.max(1)
    }

    /// How much may be written, in tokens, so that all of it costs no more than this.
    pub fn output_within(&self, amount: Amount, demand: &Demand, price: &ModelPrice) -> u64 {
        let longest = |unit: &UnitPrices| {
            let left = amount - self.unwritten(demand, unit);
            let tokens = left.atto_usd().checked_div(unit.output_max().times(1).atto_usd());
            tokens.map_or(self.output, |tokens| u64::try_from(tokens.max(0)).unwrap_or(u64::MAX))
        };
        self.units(demand, price).map(longest).min().unwrap_or_default().min(self.output)
    }

    /// What all but the output costs at most.
    fn unwritten(&self, demand: &Demand, unit: &UnitPrices) -> Amount {
        unit.input_max(demand.cached_for).times(self.input) + unit.web_searches.times(demand.searches)
    }

    /// All prices that may apply.
    fn units<'a>(
        &self,
        demand: &Demand,
        price: &'a ModelPrice,
    ) -> impl Iterator<Item = &'a UnitPrices> + use<'a> {
        let input = self.input;
        rates(demand, price).flat_map(move |rates| rates.up_to(input))
    }
}

/// All rates that may apply. A tier that was asked for may not be given: the default applies then.
/// Where none was asked for, the provider may choose the dearest.
fn rates<'a>(demand: &Demand, price: &'a ModelPrice) -> impl Iterator<Item = &'a Rates> + use<'a> {
    let asked = demand.tier;
    let may = move |tier: Tier| asked == Tier::Default || tier == asked || tier == Tier::Default;
    let tiers = Tier::ALL.into_iter().filter(move |tier| may(*tier));
    tiers.filter_map(|tier| price.price.of(tier))
}

/// An upper bound of the tokens; `None` where the model writes nothing and was asked to. A token of
/// text is at least a byte; an image may be fetched from elsewhere, so each counts as the dearest
/// known; of what is kept, it is known what it came to; where the model's longest input is known, that
/// is the bound of one reading.
pub fn tokens_max(demand: &Demand, price: &ModelPrice) -> Option<TokensMax> {
    let text = demand.input_bytes.saturating_add(FRAME_TOKENS);
    let stored = demand.stored_tokens.saturating_mul(STORED_TIMES);
    let input = text.saturating_add(demand.images.saturating_mul(IMAGE_TOKENS_MAX)).saturating_add(stored);
    let input = input.saturating_add(match demand.work {
        Work::Audio { bytes, .. } => bytes / AUDIO_BYTES_PER_TOKEN_MIN,
        Work::Text | Work::Speech { .. } | Work::Images => 0,
    });
    let longest = price.max_input_tokens.unwrap_or(u64::MAX);
    // After each search, and after one that is too many, all of it is read again with what was found so far.
    let again = |found: u64| input.saturating_add(found.saturating_mul(FOUND_TOKENS_MAX)).min(longest);
    let readings = if demand.searches == 0 { 0 } else { demand.searches.saturating_add(1) };
    let again = (1..=readings).map(again).fold(0, u64::saturating_add);
    let input = input.min(longest).saturating_add(again);
    let output = match (demand.choices, price.max_output_tokens) {
        (0, _) => 0,
        (_, None) => return None,
        (choices, Some(longest)) => {
            demand.output_tokens_max.map_or(longest, |cap| cap.min(longest)).saturating_mul(choices)
        }
    };
    Some(TokensMax { input, output })
}

/// What the input will likely be in tokens: for estimates that nobody pays by.
pub fn input_tokens_likely(demand: &Demand, price: &ModelPrice) -> u64 {
    let input = text_and_images_likely(demand);
    price.max_input_tokens.map_or(input, |longest| input.min(longest))
}

/// An upper bound of the charge.
///
/// # Errors
/// When the model is not sold by what the endpoint is charged by.
pub fn charge_max(demand: &Demand, price: &ModelPrice) -> Result<Amount, AdmitError> {
    let of = |class, quantity: u64| {
        let units = TokensMax::default().units(demand, price);
        units.map(|unit| unit.of(class).times(quantity)).max().unwrap_or_default()
    };
    match (demand.work, price.sold_by) {
        (Work::Speech { usage: Tells::Nothing, .. }, Unit::Token) => Err(AdmitError::TokensUntold),
        (_, Unit::Token) if demand.searches > 0 && price.price.default.unit.web_searches.is_zero() => {
            Err(AdmitError::SearchUnsold)
        }
        (_, Unit::Token) => {
            let tokens = tokens_max(demand, price).ok_or(AdmitError::OtherEndpoint)?;
            Ok(tokens.charge_max(demand, price))
        }
        (Work::Speech { characters, .. }, Unit::Character) => Ok(of(Class::Characters, characters)),
        (Work::Audio { streamed: true, .. }, Unit::Second) => Err(AdmitError::MinutesUntold),
        (Work::Audio { bytes, .. }, Unit::Second) => {
            Ok(of(Class::Seconds, bytes / AUDIO_BYTES_PER_SECOND_MIN + 1))
        }
        // The dearest that may come: what is made decides.
        (Work::Images, Unit::Image) => {
            let each = rates(demand, price).map(|rates| rates.picture_max(&demand.picture));
            Ok(each.max().unwrap_or_default().times(demand.choices))
        }
        (_, Unit::Image | Unit::Second | Unit::Character | Unit::Call) => Err(AdmitError::OtherEndpoint),
    }
}

/// About how many tokens a request will use, for limits of a minute: they are made true when it has
/// ended. An answer whose length the client leaves open counts when it is there.
pub fn tokens_likely(demand: &Demand) -> u64 {
    let answer = demand.output_tokens_max.unwrap_or(0).saturating_mul(demand.choices);
    text_and_images_likely(demand).saturating_add(answer)
}

fn text_and_images_likely(demand: &Demand) -> u64 {
    let text = demand.input_bytes / TOKEN_BYTES_LIKELY + 1;
    text.saturating_add(demand.images.saturating_mul(IMAGE_TOKENS_LIKELY))
        .saturating_add(demand.stored_tokens)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::UnitPrice;
    use crate::settle::price::{Band, CachedFor, Encoding, Picture, Reasoning, Tariff, Tier};
    use crate::usage::Unit;

    fn charge_max(demand: &Demand, price: &ModelPrice) -> Option<Amount> {
        tokens_max(demand, price).map(|tokens| tokens.charge_max(demand, price))
    }

    fn price(max_output_tokens: Option<u64>, max_input_tokens: Option<u64>) -> ModelPrice {
        let price = |text| UnitPrice::parse_per_million(text).unwrap();
        let unit = UnitPrices {
            input: price("1"),
            cache_write_12h: price("2"),
            output: price("10"),
            ..UnitPrices::default()
        };
        let long = UnitPrices { input: price("2"), output: price("15"), ..UnitPrices::default() };
        let soon = UnitPrices { input: price("4"), output: price("40"), ..UnitPrices::default() };
        ModelPrice {
            price: Tariff {
                default: Rates {
                    unit,
                    bands: vec![Band { above: 10_000, unit: long }],
                    pictures: Vec::new(),
                },
                flex: Some(Rates::default()),
                priority: Some(Rates { unit: soon, bands: Vec::new(), pictures: Vec::new() }),
                batch: None,
            },
            sold_by: Unit::Token,
            cost: None,
            max_output_tokens,
            max_input_tokens,
            encoding: Encoding::O200kBase,
            hidden_reasoning: Reasoning::None,
        }
    }

    fn check(demand: Demand, max_input_tokens: Option<u64>, expect: &str) {
        let most = charge_max(&demand, &price(Some(1000), max_input_tokens));
        assert_eq!(most.map(|most| most.to_string()).as_deref(), Some(expect));
    }

    #[test]
    fn what_writes_nothing_is_asked_for_nothing() {
        assert_eq!(charge_max(&demand(984, None), &price(None, None)), None);
        let silent = Demand { choices: 0, tier: Tier::Flex, ..demand(984, None) };
        check(silent.clone(), None, "0.001");
        let silent = charge_max(&silent, &price(None, None));
        assert_eq!(silent.map(|most| most.to_string()).as_deref(), Some("0.001"));
    }

    fn demand(input_bytes: u64, output_tokens_max: Option<u64>) -> Demand {
        let (cached_for, tier) = (CachedFor::default(), Tier::default());
        let work = Work::Text;
        Demand {
            model: "m".into(),
            input_bytes,
            images: 0,
            stored_tokens: 0,
            stored_tokens_min: 0,
            searches: 0,
            picture: Picture::default(),
            cached_for,
            tier,
            output_tokens_max,
            choices: 1,
            work,
        }
    }

    #[test]
    fn what_is_sold_otherwise_is_bound_by_what_it_is_sold_by() {
        let each = UnitPrice::parse_each("0.04").unwrap();
        let unit = UnitPrices { images: each, seconds: each, characters: each, ..UnitPrices::default() };
        let sold_by = |unit_sold| {
            let mut price = price(Some(1_000), None);
            price.price.default = Rates { unit, bands: Vec::new(), pictures: Vec::new() };
            ModelPrice { sold_by: unit_sold, ..price }
        };
        let of = |work, sold| {
            let demand = Demand { work, choices: 3, ..demand(984, None) };
            super::charge_max(&demand, &sold_by(sold)).map(|most| most.to_string())
        };
        let speech = |usage| Work::Speech { characters: 100, usage };
        assert_eq!(of(Work::Images, Unit::Image).as_deref(), Ok("0.12"));
        let heard = |streamed| Work::Audio { bytes: 5_000, streamed };
        assert_eq!(of(heard(false), Unit::Second).as_deref(), Ok("0.44"));
        assert_eq!(of(heard(true), Unit::Second), Err(AdmitError::MinutesUntold));
        assert!(of(heard(true), Unit::Token).is_ok());
        assert_eq!(of(speech(Tells::Nothing), Unit::Character).as_deref(), Ok("4.00"));
        assert_eq!(of(speech(Tells::Nothing), Unit::Token), Err(AdmitError::TokensUntold));
        assert!(of(speech(Tells::Tokens), Unit::Token).is_ok() && of(Work::Images, Unit::Token).is_ok());
        for (work, unit) in
            [(Work::Text, Unit::Image), (Work::Images, Unit::Second), (speech(Tells::Tokens), Unit::Image)]
        {
            assert_eq!(of(work, unit), Err(AdmitError::OtherEndpoint));
        }
    }

    #[test]
    fn the_bound_covers_the_longest_answer() {
        let flex = |demand| Demand { tier: Tier::Flex, ..demand };
        let asked = |output| flex(demand(984, output));
        check(asked(None), None, "0.011");
        check(asked(Some(10)), None, "0.0011");
        check(asked(Some(5000)), None, "0.011");
        check(Demand { choices: 3, ..asked(Some(10)) }, None, "0.0013");
        check(Demand { cached_for: CachedFor::Hours, ..asked(Some(10)) }, None, "0.0021");
        check(Demand { images: 1, ..asked(Some(10)) }, None, "0.098488");
        // 1,000 of the request and twice 2,000 that are kept; then as many as the model reads.
        check(Demand { stored_tokens: 2_000, ..asked(Some(10)) }, None, "0.0051");
        check(Demand { stored_tokens: u64::MAX, ..asked(Some(10)) }, Some(9_000), "0.0091");
        check(flex(demand(5_000_000, Some(10))), Some(128_000), "0.25615");
        check(Demand { tier: Tier::Priority, ..demand(984, Some(10)) }, None, "0.0044");
        check(Demand { choices: u64::from(u8::MAX), ..asked(Some(u64::MAX)) }, None, "2.551");
    }

    /// A provider whose account is set so answers at a dearer tier that nobody asked for.
    #[test]
    fn the_dearest_tier_is_covered_where_none_was_asked_for() {
        check(demand(984, Some(10)), None, "0.0044");
        check(Demand { choices: 0, ..demand(984, None) }, None, "0.004");
    }

    /// Each has a price, and after each the model reads again.
    #[test]
    fn what_searches_find_is_read() {
        let sold = |longest| {
            let mut price = price(Some(1000), longest);
            price.price.set_web_searches(UnitPrice::parse_each("0.01").unwrap());
            price
        };
        let asked = |searches| Demand { searches, tier: Tier::Flex, ..demand(984, Some(10)) };
        let most = |searches, price: &ModelPrice| {
            super::charge_max(&asked(searches), price).map(|most| most.to_string())
        };
        // 1,000 and 2 or 3 x 5,000 of input, 10 of output, all of it at the prices of long inputs.
        assert_eq!(most(0, &sold(Some(5_000))).as_deref(), Ok("0.0011"));
        assert_eq!(most(1, &sold(Some(5_000))).as_deref(), Ok("0.03215"));
        assert_eq!(most(2, &sold(Some(5_000))).as_deref(), Ok("0.05215"));
        // 1,000 and 33,000 and 65,000.
        assert_eq!(most(1, &sold(None)).as_deref(), Ok("0.20815"));
        assert_eq!(most(1, &price(Some(1000), Some(5_000))), Err(AdmitError::SearchUnsold));
        let (sold, asked) = (sold(Some(5_000)), asked(2));
        let tokens = tokens_max(&asked, &sold).unwrap();
        assert_eq!(tokens.output_for(Amount::parse("0.052135").unwrap(), &asked, &sold), 9);
    }

    /// What `amount` pays for costs no more, and a token more would; nothing is cut below the least.
    #[track_caller]
    fn check_cut(demand: &Demand, amount: &str, expect: u64) {
        let price = price(Some(1000), None);
        let amount = Amount::parse(amount).unwrap();
        let most = tokens_max(demand, &price).unwrap();
        let cap = most.output_for(amount, demand, &price);
        assert_eq!(cap, expect);
        let cost = |cap: u64| TokensMax { output: cap * demand.choices, ..most }.charge_max(demand, &price);
        assert!(cap == 0 || cost(cap) <= amount, "{} for {cap}", cost(cap));
        assert!(cap * demand.choices == most.output || cost(cap + 1) > amount);
        let least = most.charge_min(demand, &price);
        assert_eq!(least <= amount, cap >= OUTPUT_TOKENS_MIN.min(most.output / demand.choices), "{least}");
    }

    #[test]
    fn an_answer_is_cut_to_what_can_be_paid() {
        let flex = |output| Demand { tier: Tier::Flex, ..demand(984, output) };
        check_cut(&flex(None), "0.011", 1000);
        check_cut(&flex(None), "0.010999999999999999", 999);
        check_cut(&flex(None), "0.00116", 16);
        check_cut(&flex(None), "0.001159999999999999", 15);
        check_cut(&flex(Some(5)), "0.00105", 5);
        check_cut(&flex(Some(5)), "0.00104", 4);
        check_cut(&flex(None), "0.0001", 0);
        check_cut(&Demand { choices: 3, ..flex(None) }, "0.00199", 33);
        check_cut(&demand(984, None), "0.00464", 16);
    }
}
