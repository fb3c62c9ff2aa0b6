//! Usage: what was used, by class.
//!
//! Classes are disjoint: a token stands in exactly one of them, and together they add up to what
//! the provider reported. Most are of tokens; images, seconds and characters are what some models are
//! sold by instead, and web searches are sold beside. Knows no prices and no dialect.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What was used for what. Each class has a price of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Input that was neither read from nor written to a cache.
    Input,
    /// Input read from the provider's prompt cache.
    CachedInput,
    /// Input written to the provider's prompt cache.
    CacheWrite,
    /// The same, to be kept for an hour.
    #[serde(rename = "cache_write_1h")]
    CacheWrite1h,
    /// The same, to be kept for twelve hours.
    #[serde(rename = "cache_write_12h")]
    CacheWrite12h,
    /// Audio that was read.
    AudioInput,
    /// Images that were read.
    ImageInput,
    /// Visible output.
    Output,
    /// Output spent on reasoning that is not shown.
    Reasoning,
    /// Audio that was written.
    AudioOutput,
    /// Images that were written.
    ImageOutput,
    /// Images, where a model is sold by them.
    Images,
    /// Seconds of audio, where a model is sold by the minute.
    Seconds,
    /// Characters of text, where a model is sold by them.
    Characters,
    /// Web searches that the provider ran, beside the tokens.
    WebSearches,
}

impl Class {
    /// Every class, in the order in which receipts list them.
    pub const ALL: [Class; 15] = [
        Class::Input,
        Class::CachedInput,
        Class::CacheWrite,
        Class::CacheWrite1h,
        Class::CacheWrite12h,
        Class::AudioInput,
        Class::ImageInput,
        Class::Output,
        Class::Reasoning,
        Class::AudioOutput,
        Class::ImageOutput,
        Class::Images,
        Class::Seconds,
        Class::Characters,
        Class::WebSearches,
    ];

    /// The name used in receipts, price books and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Class::Input => "input",
            Class::CachedInput => "cached_input",
            Class::CacheWrite => "cache_write",
            Class::CacheWrite1h => "cache_write_1h",
            Class::CacheWrite12h => "cache_write_12h",
            Class::AudioInput => "audio_input",
            Class::ImageInput => "image_input",
            Class::Output => "output",
            Class::Reasoning => "reasoning",
            Class::AudioOutput => "audio_output",
            Class::ImageOutput => "image_output",
            Class::Images => "images",
            Class::Seconds => "seconds",
            Class::Characters => "characters",
            Class::WebSearches => "web_searches",
        }
    }

    /// What is counted.
    pub const fn unit(self) -> Unit {
        match self {
            Class::Input
            | Class::CachedInput
            | Class::CacheWrite
            | Class::CacheWrite1h
            | Class::CacheWrite12h
            | Class::AudioInput
            | Class::ImageInput
            | Class::Output
            | Class::Reasoning
            | Class::AudioOutput
            | Class::ImageOutput => Unit::Token,
            Class::Images => Unit::Image,
            Class::Seconds => Unit::Second,
            Class::Characters => Unit::Character,
            Class::WebSearches => Unit::Call,
        }
    }
}

/// What a class counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Tokens.
    Token,
    /// Images.
    Image,
    /// Seconds of audio.
    Second,
    /// Characters of text.
    Character,
    /// Calls of a tool that the provider runs.
    Call,
}

/// What one request used, by [`Class`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Usage {
    /// See [`Class::Input`].
    pub input: u64,
    /// See [`Class::CachedInput`].
    pub cached_input: u64,
    /// See [`Class::CacheWrite`].
    pub cache_write: u64,
    /// See [`Class::CacheWrite1h`].
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_write_1h: u64,
    /// See [`Class::CacheWrite12h`].
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_write_12h: u64,
    /// See [`Class::AudioInput`].
    #[serde(skip_serializing_if = "is_zero")]
    pub audio_input: u64,
    /// See [`Class::ImageInput`].
    #[serde(skip_serializing_if = "is_zero")]
    pub image_input: u64,
    /// See [`Class::Output`].
    pub output: u64,
    /// See [`Class::Reasoning`].
    pub reasoning: u64,
    /// See [`Class::AudioOutput`].
    #[serde(skip_serializing_if = "is_zero")]
    pub audio_output: u64,
    /// See [`Class::ImageOutput`].
    #[serde(skip_serializing_if = "is_zero")]
    pub image_output: u64,
    /// See [`Class::Images`].
    #[serde(skip_serializing_if = "is_zero")]
    pub images: u64,
    /// See [`Class::Seconds`].
    #[serde(skip_serializing_if = "is_zero")]
    pub seconds: u64,
    /// See [`Class::Characters`].
    #[serde(skip_serializing_if = "is_zero")]
    pub characters: u64,
    /// See [`Class::WebSearches`].
    #[serde(skip_serializing_if = "is_zero")]
    pub web_searches: u64,
}

impl Usage {
    /// The most tokens of one class that are believed. A report above it is absurd.
    pub const CLASS_MAX: u64 = 1_000_000_000;

    /// How much of one class.
    pub const fn of(&self, class: Class) -> u64 {
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

    /// How much of one class, to be changed.
    pub const fn of_mut(&mut self, class: Class) -> &mut u64 {
        match class {
            Class::Input => &mut self.input,
            Class::CachedInput => &mut self.cached_input,
            Class::CacheWrite => &mut self.cache_write,
            Class::CacheWrite1h => &mut self.cache_write_1h,
            Class::CacheWrite12h => &mut self.cache_write_12h,
            Class::AudioInput => &mut self.audio_input,
            Class::ImageInput => &mut self.image_input,
            Class::Output => &mut self.output,
            Class::Reasoning => &mut self.reasoning,
            Class::AudioOutput => &mut self.audio_output,
            Class::ImageOutput => &mut self.image_output,
            Class::Images => &mut self.images,
            Class::Seconds => &mut self.seconds,
            Class::Characters => &mut self.characters,
            Class::WebSearches => &mut self.web_searches,
        }
    }

    /// All tokens that were read.
    pub const fn input_total(&self) -> u64 {
        self.input
            + self.cached_input
            + self.cache_write
            + self.cache_write_1h
            + self.cache_write_12h
            + self.audio_input
            + self.image_input
    }

    /// All tokens that were written.
    pub const fn output_total(&self) -> u64 {
        self.output + self.reasoning + self.audio_output + self.image_output
    }

    /// All tokens.
    pub fn tokens(&self) -> u64 {
        self.total_of(Unit::Token)
    }

    /// All of one unit.
    pub fn total_of(&self, unit: Unit) -> u64 {
        Class::ALL.into_iter().filter(|class| class.unit() == unit).map(|class| self.of(class)).sum()
    }

    /// Whether nothing was used.
    pub fn is_none(&self) -> bool {
        *self == Usage::default()
    }
}

fn is_zero(tokens: &u64) -> bool {
    *tokens == 0
}

/// An upper bound of the tokens of a text, as of its bytes: a token is at least one, and an event says at
/// most one more than its text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight(pub u64);

impl Weight {
    /// Of whatever there is.
    pub const MAX: Weight = Weight(u64::MAX);
}

/// How the usage of a request was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Metered {
    /// The provider reported it.
    Reported,
    /// The request and its answer say it themselves: characters, images.
    Counted,
    /// The provider did not; we counted what was delivered.
    Estimated,
    /// Nothing was used, or nothing that can be charged.
    None,
}

impl Metered {
    /// The name used in receipts and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Metered::Reported => "reported",
            Metered::Counted => "counted",
            Metered::Estimated => "estimated",
            Metered::None => "none",
        }
    }
}
