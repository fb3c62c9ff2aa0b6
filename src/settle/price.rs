//! The price book: unit prices of each model by class of token, under one version.

use crate::money::UnitPrice;
use crate::usage::Class;
use std::collections::HashMap;
use std::sync::Arc;

/// Names a price book for ever: a receipt says by which version it was charged.
pub type PriceVersion = Arc<str>;

/// Prices of all models that are sold. What is not in it is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceBook {
    /// Its name, at most 64 characters.
    pub version: PriceVersion,
    /// By the name that customers ask for.
    pub models: HashMap<Box<str>, ModelPrice>,
}

/// What one model costs and how large its answers may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelPrice {
    /// US dollars for a million tokens, by class.
    pub unit: UnitPrices,
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

/// Unit prices by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    /// Of [`Class::Output`].
    pub output: UnitPrice,
    /// Of [`Class::Reasoning`].
    pub reasoning: UnitPrice,
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
            Class::Output => self.output,
            Class::Reasoning => self.reasoning,
        }
    }

    /// The dearest that a token of input can be, where it may be asked to be cached for this long.
    pub fn input_max(&self, cached_for: CachedFor) -> UnitPrice {
        let most = self.input.max(self.cached_input).max(self.cache_write);
        match cached_for {
            CachedFor::Minutes => most,
            CachedFor::Hours => most.max(self.cache_write_1h).max(self.cache_write_12h),
        }
    }

    /// The dearest that a token of output can be.
    pub fn output_max(&self) -> UnitPrice {
        self.output.max(self.reasoning)
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// `o200k_base`: gpt-4o and later.
    #[default]
    O200kBase,
    /// `cl100k_base`: gpt-4, gpt-3.5-turbo.
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
