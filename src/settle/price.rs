//! The price book: unit prices of each model by class of what is used, service tier and length of
//! input, under one version.

pub mod books;
mod picture;

pub use picture::{Picture, PicturePrice};

use crate::clock::Timestamp;
use crate::money::UnitPrice;
use crate::usage::{Class, Unit, Usage};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;

/// Names a price book for ever: a receipt says by which version it was charged.
pub type PriceVersion = Arc<str>;

/// What a fine-tuned model's name begins with; its base follows, and then whose it is.
const FINE_TUNED: &str = "ft:";

/// Prices of all models that are sold. What is not in it is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceBook {
    /// Its name, at most 64 characters.
    pub version: PriceVersion,
    /// From when on it holds, if that was said.
    pub effective: Option<Timestamp>,
    /// By the name that customers ask for.
    pub models: HashMap<Box<str>, Arc<ModelPrice>>,
}

impl PriceBook {
    /// The prices of a model, and the name under which they stand: its own, or for a fine-tuned
    /// `ft:BASE:…` that is not listed itself, `ft:BASE`.
    pub fn find(&self, model: &str) -> Option<(&str, &Arc<ModelPrice>)> {
        let listed = |name: &str| self.models.get_key_value(name).map(|(name, price)| (&**name, price));
        listed(model).or_else(|| {
            let base = model.strip_prefix(FINE_TUNED)?.split(':').next()?;
            listed(&model[..FINE_TUNED.len() + base.len()])
        })
    }
}

/// What one model costs and how large its answers may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelPrice {
    /// What customers pay.
    pub price: Tariff,
    /// What it is sold by.
    pub sold_by: Unit,
    /// What the provider takes for the same usage, where the operator wrote it down.
    pub cost: Option<Tariff>,
    /// The longest answer in tokens: the bound of a request that names none. `None` for what writes
    /// nothing, such as embeddings.
    pub max_output_tokens: Option<u64>,
    /// The longest input in tokens, where known: bounds the hold of a large body.
    pub max_input_tokens: Option<u64>,
    /// How tokens are counted when the provider did not.
    pub encoding: Encoding,
    /// Whether it spends hidden reasoning tokens, which cannot be counted from what it delivers.
    pub hidden_reasoning: Reasoning,
}

/// How fast an answer is wanted; the provider says at which it was served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// What there is without asking.
    #[default]
    Default,
    /// Slower, and cheaper.
    Flex,
    /// Sooner, and dearer.
    Priority,
    /// Within a day. Never asked for: the provider says so of what it served.
    Batch,
}

impl Tier {
    /// All of them.
    pub const ALL: [Tier; 4] = [Tier::Default, Tier::Flex, Tier::Priority, Tier::Batch];

    /// The name used in price books and receipts.
    pub const fn name(self) -> &'static str {
        match self {
            Tier::Default => "default",
            Tier::Flex => "flex",
            Tier::Priority => "priority",
            Tier::Batch => "batch",
        }
    }

    /// The one that providers call so; `None` for what is not known here.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "default" | "auto" | "standard" | "standard_only" => Some(Tier::Default),
            "flex" => Some(Tier::Flex),
            "priority" | "fast" => Some(Tier::Priority),
            "batch" => Some(Tier::Batch),
            _ => None,
        }
    }
}

/// Prices by service tier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tariff {
    /// At [`Tier::Default`].
    pub default: Rates,
    /// At [`Tier::Flex`], if it is sold.
    pub flex: Option<Rates>,
    /// At [`Tier::Priority`], if it is sold.
    pub priority: Option<Rates>,
    /// At [`Tier::Batch`], if it is sold.
    pub batch: Option<Rates>,
}

impl Tariff {
    /// The rates of a tier, if it is sold.
    pub const fn of(&self, tier: Tier) -> Option<&Rates> {
        match tier {
            Tier::Default => Some(&self.default),
            Tier::Flex => self.flex.as_ref(),
            Tier::Priority => self.priority.as_ref(),
            Tier::Batch => self.batch.as_ref(),
        }
    }

    /// The tier that is charged for an answer served at `tier`: a tier without rates costs the
    /// default, and so does one that nobody sold.
    pub const fn charged(&self, tier: Tier) -> Tier {
        if self.of(tier).is_some() { tier } else { Tier::Default }
    }

    /// The rates that apply at a tier.
    pub fn rates(&self, tier: Tier) -> &Rates {
        self.of(tier).unwrap_or(&self.default)
    }

    /// Sets the price of a web search, which no tier or length of input changes.
    pub fn set_web_searches(&mut self, each: UnitPrice) {
        let others = [&mut self.flex, &mut self.priority, &mut self.batch].into_iter().flatten();
        for rates in others.chain([&mut self.default]) {
            rates.unit.web_searches = each;
            rates.bands.iter_mut().for_each(|band| band.unit.web_searches = each);
        }
    }

    /// The unit prices of a usage at a tier, and the length above which they hold.
    pub fn unit(&self, tier: Tier, usage: &Usage) -> (&UnitPrices, Option<u64>) {
        self.rates(tier).at(usage.input_total())
    }
}

/// Prices by length of the input.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// Of any length that has no band.
    pub unit: UnitPrices,
    /// Of long inputs, the shortest first.
    pub bands: Vec<Band>,
    /// Of images that are not priced as any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pictures: Vec<PicturePrice>,
}

/// Prices of a whole request whose input is longer than this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Band {
    /// Tokens of input; one more has these prices.
    pub above: u64,
    /// Its prices.
    pub unit: UnitPrices,
}

impl Rates {
    /// The prices of a request with so many tokens of input, and the length above which they hold.
    pub fn at(&self, input_tokens: u64) -> (&UnitPrices, Option<u64>) {
        let band = self.bands.iter().rev().find(|band| input_tokens > band.above);
        band.map_or((&self.unit, None), |band| (&band.unit, Some(band.above)))
    }

    /// All prices that a request with at most so many tokens of input may have.
    pub fn up_to(&self, input_tokens: u64) -> impl Iterator<Item = &UnitPrices> {
        let bands = self.bands.iter().filter(move |band| input_tokens > band.above);
        std::iter::once(&self.unit).chain(bands.map(|band| &band.unit))
    }
}

/// Unit prices by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UnitPrices {
    /// Of [`Class::Input`].
    pub input: UnitPrice,
    /// Of [`Class::CachedInput`].
    pub cached_input: UnitPrice,
    /// Of [`Class::CacheWrite`].
    pub cache_write: UnitPrice,
    /// Of [`Class::CacheWrite1h`].
    pub cache_write_1h: UnitPrice,
    /// Of [`Class::CacheWrite12h`].
    pub cache_write_12h: UnitPrice,
    /// Of [`Class::AudioInput`].
    pub audio_input: UnitPrice,
    /// Of [`Class::ImageInput`].
    pub image_input: UnitPrice,
    /// Of [`Class::Output`].
    pub output: UnitPrice,
    /// Of [`Class::Reasoning`].
    pub reasoning: UnitPrice,
    /// Of [`Class::AudioOutput`].
    pub audio_output: UnitPrice,
    /// Of [`Class::ImageOutput`].
    pub image_output: UnitPrice,
    /// Of [`Class::Images`].
    pub images: UnitPrice,
    /// Of [`Class::Seconds`].
    pub seconds: UnitPrice,
    /// Of [`Class::Characters`].
    pub characters: UnitPrice,
    /// Of [`Class::WebSearches`]; zero where they are not sold.
    #[serde(skip_serializing_if = "UnitPrice::is_zero")]
    pub web_searches: UnitPrice,
}

impl UnitPrices {
    /// The price of one class.
    pub const fn of(&self, class: Class) -> UnitPrice {
        match class {
            Class::Input => self.input,
            Class::CachedInput => self.cached_input,
            Class::CacheWrite => self.cache_write,
            Class::CacheWrite1h => self.cache_write_1h,
            Class::CacheWrite12h => self.cache_write_12h,
            Class::AudioInput => self.audio_input,
            Class::ImageInput => self.image_input,
            Class::Output => self.output,
            Class::Reasoning => self.reasoning,
            Class::AudioOutput => self.audio_output,
            Class::ImageOutput => self.image_output,
            Class::Images => self.images,
            Class::Seconds => self.seconds,
            Class::Characters => self.characters,
            Class::WebSearches => self.web_searches,
        }
    }

    /// The dearest that a token of input can be, where it may be asked to be cached for this long.
    pub fn input_max(&self, cached_for: CachedFor) -> UnitPrice {
        let most = self.input.max(self.cached_input).max(self.cache_write);
        let most = most.max(self.audio_input).max(self.image_input);
        match cached_for {
            CachedFor::Minutes => most,
            CachedFor::Hours => most.max(self.cache_write_1h).max(self.cache_write_12h),
        }
    }

    /// The dearest that a token of output can be.
    pub fn output_max(&self) -> UnitPrice {
        self.output.max(self.reasoning).max(self.audio_output).max(self.image_output)
    }
}

/// For how long a request asks for its input to be cached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CachedFor {
    /// As long as the provider does unasked.
    #[default]
    Minutes,
    /// An hour, or twelve.
    Hours,
}

/// A tokenizer's vocabulary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Encoding {
    /// `o200k_base`: gpt-4o and later.
    #[default]
    #[serde(rename = "o200k_base")]
    O200kBase,
    /// `cl100k_base`: gpt-4, gpt-3.5-turbo.
    #[serde(rename = "cl100k_base")]
    Cl100kBase,
}

impl Encoding {
    /// The name used in price books and receipts.
    pub const fn name(self) -> &'static str {
        match self {
            Encoding::O200kBase => "o200k_base",
            Encoding::Cl100kBase => "cl100k_base",
        }
    }
}

/// Whether a model reasons out of sight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reasoning {
    /// What it delivers is all it produced.
    #[default]
    None,
    /// It also bills reasoning that it does not show.
    Hidden,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(input: &str) -> Rates {
        let input = UnitPrice::parse_per_million(input).unwrap();
        Rates { unit: UnitPrices { input, ..UnitPrices::default() }, bands: Vec::new(), pictures: Vec::new() }
    }

    fn tariff() -> Tariff {
        let band = |above, price: &str| Band { above, unit: rates(price).unit };
        let default = Rates { bands: vec![band(100, "2"), band(200, "3")], ..rates("1") };
        Tariff { default, flex: Some(rates("0.5")), priority: None, batch: None }
    }

    fn check(tier: Tier, input: u64, cached_input: u64, price: &str, above: Option<u64>) {
        let usage = Usage { input, cached_input, output: 1_000, ..Usage::default() };
        let tariff = tariff();
        let (unit, found) = tariff.unit(tier, &usage);
        assert_eq!((unit.input.to_string().as_str(), found), (price, above), "{tier:?} {usage:?}");
    }

    #[test]
    fn the_whole_request_has_the_price_of_its_band() {
        check(Tier::Default, 100, 0, "1.00", None);
        check(Tier::Default, 1, 100, "2.00", Some(100));
        check(Tier::Default, 200, 0, "2.00", Some(100));
        check(Tier::Default, 0, 201, "3.00", Some(200));
        check(Tier::Flex, 1_000, 0, "0.50", None);
        check(Tier::Priority, 101, 0, "2.00", Some(100));
        assert_eq!(tariff().charged(Tier::Priority), Tier::Default);
        assert_eq!(tariff().default.up_to(150).count(), 2);
    }

    #[test]
    fn a_fine_tuned_model_has_the_price_of_its_base() {
        let model = Arc::new(ModelPrice {
            price: tariff(),
            sold_by: Unit::Token,
            cost: None,
            max_output_tokens: None,
            max_input_tokens: None,
            encoding: Encoding::O200kBase,
            hidden_reasoning: Reasoning::None,
        });
        let models = ["ft:m-1", "m-1", "ft:m-1:own:x"].map(|name| (name.into(), Arc::clone(&model)));
        let book = PriceBook { version: "v".into(), effective: None, models: models.into() };
        let name = |asked| book.find(asked).map(|(name, _)| name);
        assert_eq!(name("m-1"), Some("m-1"));
        assert_eq!(name("ft:m-1:acme::abc123"), Some("ft:m-1"));
        assert_eq!(name("ft:m-1:own:x"), Some("ft:m-1:own:x"));
        for unknown in ["m-2", "ft:m-2:acme", "ft:", "m-1:acme", ""] {
            assert_eq!(name(unknown), None, "{unknown}");
        }
    }
}
