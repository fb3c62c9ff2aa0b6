//! What a request asks of the simulation, in its `metadata`: a map of strings to strings.
//!
//! | key (`simulate_…`) | value | effect |
//! | --- | --- | --- |
//! | `tokens`, `reasoning_tokens`, `cached_tokens` | count | the usage, for each choice |
//! | `tier` | `default` `flex` `priority` | the service tier that is told, whatever was asked for |
//! | `chunks` | count | content chunks of a stream, at most one for each token |
//! | `reads` | count | how often a response in the background is read before it has ended |
//! | `status` | `400`-`599` | the provider's error of that status |
//! | `code` | text | the error's `code`, such as `insufficient_quota` |
//! | `retry_after` | seconds | the header, on that error |
//! | `latency_ms`, `pace_ms` | count | time before the first byte, after each content chunk |
//! | `cut_after_chunks` | count | the connection breaks there; a plain answer breaks in mid body |
//! | `usage` | `missing` `zero` `negative` `absurd` `string` | what is reported, not what is logged |
//! | `garbage` | `html` `truncated` `empty` | 200 and not an answer |
//! | `encoding` | `gzip` | compressed, whatever was accepted |
//! | `crlf`, `comments` | `1` | other line ends, comments between events |
//! | `only_credential` | last four characters | the faults strike this credential alone |
//!
//! Keys without the prefix are left alone; an unknown key with it is refused, so that a test
//! cannot pass by misspelling its fault.

use super::options::Options;
use super::refusal::Refusal;
use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

/// Tokens that one choice may be asked to have: bounds what a request can make us build.
const TOKENS_MAX: u64 = 1_000_000;

/// What a request asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Directives {
    pub tokens: Option<u64>,
    pub reasoning_tokens: u64,
    pub cached_tokens: u64,
    /// Web searches that the model would run, if it may.
    pub searches: u64,
    pub chunks: Option<u32>,
    /// How often a response in the background is read before it has ended.
    pub reads: u32,
    pub tier: Option<&'static str>,
    faults: Faults,
    only_credential: Option<String>,
}

/// What goes wrong, or otherwise than usual. Never changes how many tokens an answer has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Faults {
    pub status: Option<u16>,
    pub code: Option<String>,
    pub retry_after: Option<u64>,
    pub latency: Option<Duration>,
    pub pace: Option<Duration>,
    pub cut_after_chunks: Option<u64>,
    pub usage: Reported,
    pub garbage: Option<Garbage>,
    pub wire: Wire,
}

/// How usage is reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Reported {
    #[default]
    Truly,
    Missing,
    Zero,
    Negative,
    Absurd,
    AsString,
}

/// What comes instead of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Garbage {
    Html,
    Truncated,
    Empty,
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wire {
    pub gzip: bool,
    pub crlf: bool,
    pub comments: bool,
}

impl Directives {
    /// Reads a request's `metadata`.
    pub fn read(metadata: &BTreeMap<String, String>) -> Result<Self, Refusal> {
        let mut directives = Directives::default();
        for (key, value) in metadata {
            if let Some(name) = key.strip_prefix("simulate_") {
                directives.set(name, value).ok_or_else(|| Refusal::unknown_directive(key, value))?;
            }
        }
        Ok(directives)
    }

    /// The faults for a request with this credential.
    pub fn faults_for(&self, credential: &str) -> Faults {
        match &self.only_credential {
            Some(end) if !credential.ends_with(end) => Faults::default(),
            Some(_) | None => self.faults.clone(),
        }
    }

    fn set(&mut self, name: &str, value: &str) -> Option<()> {
        let faults = &mut self.faults;
        match name {
            "tokens" => self.tokens = Some(tokens(value)?),
            "reasoning_tokens" => self.reasoning_tokens = tokens(value)?,
            "cached_tokens" => self.cached_tokens = tokens(value)?,
            "searches" => self.searches = tokens(value)?,
            "tier" => self.tier = Some(tier(value)?),
            "reads" => self.reads = number(value)?,
            "chunks" => self.chunks = Some(number(value)?),
            "status" => faults.status = Some(number(value).filter(|status| (400..600).contains(status))?),
            "code" => faults.code = Some(value.to_owned()),
            "retry_after" => faults.retry_after = Some(number(value)?),
            "latency_ms" => faults.latency = Some(Duration::from_millis(number(value)?)),
            "pace_ms" => faults.pace = Some(Duration::from_millis(number(value)?)),
            "cut_after_chunks" => faults.cut_after_chunks = Some(number(value)?),
            "usage" => faults.usage = reported(value)?,
            "garbage" => faults.garbage = Some(garbage(value)?),
            "encoding" => faults.wire.gzip = (value == "gzip").then_some(true)?,
            "crlf" => faults.wire.crlf = flag(value)?,
            "comments" => faults.wire.comments = flag(value)?,
            "only_credential" => self.only_credential = Some(value.to_owned()),
            _ => return None,
        }
        Some(())
    }
}

/// What befalls a request that asked for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Draw {
    Serve,
    Error,
    RateLimited,
}

/// Draws for request `number`: the same number always draws the same.
pub(super) fn draw(number: u64, options: &Options) -> Draw {
    let drawn = scramble(number) % 1_000_000;
    let error = u64::from(options.error_ratio_ppm);
    if drawn < error {
        Draw::Error
    } else if drawn < error + u64::from(options.rate_limited_ppm) {
        Draw::RateLimited
    } else {
        Draw::Serve
    }
}

/// The finalizer of SplitMix64: spreads consecutive numbers over all 64 bits.
pub(super) fn scramble(number: u64) -> u64 {
    let mut bits = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// A service tier that is known.
pub(super) fn tier(name: &str) -> Option<&'static str> {
    ["default", "flex", "priority", "batch"].into_iter().find(|known| *known == name)
}

fn number<N: FromStr>(value: &str) -> Option<N> {
    value.parse().ok()
}

fn tokens(value: &str) -> Option<u64> {
    number(value).filter(|tokens| *tokens <= TOKENS_MAX)
}

fn flag(value: &str) -> Option<bool> {
    match value {
        "1" => Some(true),
        "0" => Some(false),
        _ => None,
    }
}

fn reported(value: &str) -> Option<Reported> {
    Some(match value {
        "missing" => Reported::Missing,
        "zero" => Reported::Zero,
        "negative" => Reported::Negative,
        "absurd" => Reported::Absurd,
        "string" => Reported::AsString,
        _ => return None,
    })
}

fn garbage(value: &str) -> Option<Garbage> {
    Some(match value {
        "html" => Garbage::Html,
        "truncated" => Garbage::Truncated,
        "empty" => Garbage::Empty,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Directives, Refusal> {
        Directives::read(&pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    fn check(pairs: &[(&str, &str)], expect: Faults) {
        assert_eq!(read(pairs).unwrap().faults_for("sk-abcd"), expect, "{pairs:?}");
    }

    #[test]
    fn faults_are_read_from_metadata() {
        check(&[("team", "blue"), ("simulate_tokens", "3")], Faults::default());
        check(&[("simulate_status", "429")], Faults { status: Some(429), ..Faults::default() });
        check(&[("simulate_usage", "absurd")], Faults { usage: Reported::Absurd, ..Faults::default() });
        let gzip = Wire { gzip: true, ..Wire::default() };
        check(&[("simulate_encoding", "gzip")], Faults { wire: gzip, ..Faults::default() });
    }

    #[test]
    fn a_fault_can_be_for_one_credential() {
        let faulty = Faults { status: Some(500), ..Faults::default() };
        check(&[("simulate_status", "500"), ("simulate_only_credential", "abcd")], faulty);
        check(&[("simulate_status", "500"), ("simulate_only_credential", "wxyz")], Faults::default());
        let elsewhere = read(&[("simulate_tokens", "9"), ("simulate_only_credential", "wxyz")]);
        assert_eq!(elsewhere.unwrap().tokens, Some(9), "usage is the same on every account");
    }

    #[test]
    fn a_misspelt_fault_is_refused() {
        for (key, value) in [
            ("simulate_statsu", "500"),
            ("simulate_status", "200"),
            ("simulate_tokens", "-1"),
            ("simulate_tokens", "1000001"),
            ("simulate_usage", "none"),
            ("simulate_encoding", "br"),
            ("simulate_crlf", "yes"),
        ] {
            assert_eq!(read(&[(key, value)]).unwrap_err().status, 400, "{key}={value}");
        }
    }

    #[test]
    fn draws_come_near_their_share() {
        let options = Options { error_ratio_ppm: 100_000, rate_limited_ppm: 50_000, ..Options::default() };
        let count = |wanted| (0..10_000).filter(|number| draw(*number, &options) == wanted).count();
        assert!((900..1_100).contains(&count(Draw::Error)));
        assert!((400..600).contains(&count(Draw::RateLimited)));
        assert!((0..10_000).all(|number| draw(number, &Options::default()) == Draw::Serve));
    }
}
