//! Usage: tokens by class.
//!
//! Classes are disjoint: a token stands in exactly one of them, and together they add up to what
//! the provider reported. Knows no prices and no dialect.

use serde::{Deserialize, Serialize};

/// What a token was used for. Each class has a price of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
    /// Visible output.
    Output,
    /// Output spent on reasoning that is not shown.
    Reasoning,
}

impl Class {
    /// Every class, in the order in which receipts list them.
    pub const ALL: [Class; 7] = [
        Class::Input,
        Class::CachedInput,
        Class::CacheWrite,
        Class::CacheWrite1h,
        Class::CacheWrite12h,
        Class::Output,
        Class::Reasoning,
    ];

    /// The name used in receipts, price books and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Class::Input => "input",
            Class::CachedInput => "cached_input",
            Class::CacheWrite => "cache_write",
            Class::CacheWrite1h => "cache_write_1h",
            Class::CacheWrite12h => "cache_write_12h",
            Class::Output => "output",
            Class::Reasoning => "reasoning",
        }
    }
}

/// Tokens of one request by [`Class`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// See [`Class::Output`].
    pub output: u64,
    /// See [`Class::Reasoning`].
    pub reasoning: u64,
}

impl Usage {
    /// The most tokens of one class that are believed. A report above it is absurd.
    pub const CLASS_MAX: u64 = 1_000_000_000;

    /// Tokens of one class.
    pub const fn of(&self, class: Class) -> u64 {
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

    /// Tokens of one class, to be changed.
    pub const fn of_mut(&mut self, class: Class) -> &mut u64 {
        match class {
            Class::Input => &mut self.input,
            Class::CachedInput => &mut self.cached_input,
            Class::CacheWrite => &mut self.cache_write,
            Class::CacheWrite1h => &mut self.cache_write_1h,
            Class::CacheWrite12h => &mut self.cache_write_12h,
            Class::Output => &mut self.output,
            Class::Reasoning => &mut self.reasoning,
        }
    }

    /// All tokens that were read.
    pub const fn input_total(&self) -> u64 {
        self.input + self.cached_input + self.cache_write + self.cache_write_1h + self.cache_write_12h
    }

    /// All tokens.
    pub fn total(&self) -> u64 {
        Class::ALL.iter().map(|class| self.of(*class)).sum()
    }
}

fn is_zero(tokens: &u64) -> bool {
    *tokens == 0
}

/// How the usage of a request was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metered {
    /// The provider reported it.
    Reported,
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
            Metered::Estimated => "estimated",
            Metered::None => "none",
        }
    }
}
