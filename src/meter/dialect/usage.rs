//! The usage that OpenAI's endpoints report: from the provider's overlapping counts to disjoint classes.
//!
//! `cached_tokens` and `cache_write_tokens` lie within the input, `reasoning_tokens` within the output. A part that exceeds its whole is cut down to it, so that the classes always
//! add up to the two totals. `total_tokens` is not read: it is their sum or it is wrong.

use crate::usage::Usage;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::fmt;

/// Why a reported usage cannot be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Absurd {
    /// Where it is wrong; the first such place.
    pub field: Field,
    /// What is wrong there.
    pub why: Why,
}

/// A field of a reported usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    /// The whole.
    Usage,
    /// `prompt_tokens`
    PromptTokens,
    /// `completion_tokens`
    CompletionTokens,
    /// `prompt_tokens_details.cached_tokens`
    CachedTokens,
    /// `prompt_cache_hit_tokens`, DeepSeek's name for `cached_tokens`
    PromptCacheHitTokens,
    /// `prompt_tokens_details.cache_write_tokens`
    CacheWriteTokens,
    /// `completion_tokens_details.reasoning_tokens`
    ReasoningTokens,
    /// `input_tokens`
    InputTokens,
    /// `output_tokens`
    OutputTokens,
    /// `cache_creation_input_tokens`
    CacheCreation,
    /// `cache_read_input_tokens`
    CacheRead,
    /// `output_tokens_details.thinking_tokens`
    ThinkingTokens,
    /// `input_token_details.audio_tokens`
    AudioTokens,
    /// `input_tokens_details.image_tokens`
    ImageTokens,
    /// `text_tokens` of either side's details
    TextTokens,
    /// `seconds`, or `duration`
    Seconds,
    /// `web_search.num_requests`, or `web_search_requests`
    WebSearches,
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// It must be there and is not, or is null.
    Missing,
    /// It, or its details, are not an object with each field once.
    NotObject,
    /// It is below zero.
    Negative,
    /// It is no whole number, or no plain one: a string, a fraction, an exponent.
    NotInteger,
    /// It is above [`Usage::CLASS_MAX`], or, as a whole, longer than is kept.
    TooLarge,
}

impl Absurd {
    pub(in crate::meter) const fn new(field: Field, why: Why) -> Self {
        Absurd { field, why }
    }
}

impl fmt::Display for Absurd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.field.name(), self.why.phrase())
    }
}

impl std::error::Error for Absurd {}

impl Field {
    /// The name as providers write it.
    pub const fn name(self) -> &'static str {
        match self {
            Field::Usage => "usage",
            Field::PromptTokens => "prompt_tokens",
            Field::CompletionTokens => "completion_tokens",
            Field::CachedTokens => "cached_tokens",
            Field::PromptCacheHitTokens => "prompt_cache_hit_tokens",
            Field::CacheWriteTokens => "cache_write_tokens",
            Field::ReasoningTokens => "reasoning_tokens",
            Field::InputTokens => "input_tokens",
            Field::OutputTokens => "output_tokens",
            Field::CacheCreation => "cache_creation_input_tokens",
            Field::CacheRead => "cache_read_input_tokens",
            Field::ThinkingTokens => "thinking_tokens",
            Field::AudioTokens => "audio_tokens",
            Field::ImageTokens => "image_tokens",
            Field::TextTokens => "text_tokens",
            Field::Seconds => "seconds",
            Field::WebSearches => "web_search requests",
        }
    }
}

impl Why {
    const fn phrase(self) -> &'static str {
        match self {
            Why::Missing => "is missing",
            Why::NotObject => "is not an object of the expected shape",
            Why::Negative => "is negative",
            Why::NotInteger => "is not a plain number",
            Why::TooLarge => "is too large",
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Totals<'a> {
    #[serde(borrow)]
    prompt_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    completion_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    prompt_cache_hit_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    prompt_tokens_details: Option<&'a RawValue>,
    #[serde(borrow)]
    completion_tokens_details: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PromptDetails<'a> {
    #[serde(borrow)]
    cached_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    cache_write_tokens: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OutputDetails<'a> {
    #[serde(borrow)]
    reasoning_tokens: Option<&'a RawValue>,
}

/// Reads a usage object (JSON text).
///
/// # Errors
/// When it is not an object, lacks one of the two totals, or a count that is read is not an integer
/// from 0 to [`Usage::CLASS_MAX`]. Details may be absent or null.
pub(super) fn of_chat(json: &str) -> Result<Usage, Absurd> {
    let totals: Totals<'_> = object(Field::Usage, json)?;
    let prompt = required(Field::PromptTokens, totals.prompt_tokens)?;
    let completion = required(Field::CompletionTokens, totals.completion_tokens)?;
    let details: PromptDetails<'_> = details(Field::CachedTokens, totals.prompt_tokens_details)?;
    let cached = count(Field::CachedTokens, details.cached_tokens)?;
    let cache_hit = count(Field::PromptCacheHitTokens, totals.prompt_cache_hit_tokens)?;
    let cache_write = count(Field::CacheWriteTokens, details.cache_write_tokens)?.unwrap_or(0);
    let details: OutputDetails<'_> = self::details(Field::ReasoningTokens, totals.completion_tokens_details)?;
    let reasoning = count(Field::ReasoningTokens, details.reasoning_tokens)?.unwrap_or(0).min(completion);

    let cached_input = cached.or(cache_hit).unwrap_or(0).min(prompt);
    let cache_write = cache_write.min(prompt - cached_input);
    let input = prompt - cached_input - cache_write;
    let output = completion - reasoning;
    let usage = Usage { input, cached_input, cache_write, output, reasoning, ..Usage::default() };
    assert_eq!(usage.tokens(), prompt + completion, "classes add up to the reported totals");
    Ok(usage)
}

/// Reads the usage object of a response, or a list of that and what it tells of tools.
///
/// # Errors
/// As [`of_chat`].
pub(super) fn of_response(json: &str) -> Result<Usage, Absurd> {
    if json.starts_with('[') {
        let parts: Result<[&RawValue; 2], _> = serde_json::from_str(json);
        let [usage, tools] = parts.map_err(|_| Absurd::new(Field::Usage, Why::NotObject))?;
        let web_searches = searches(tools.get())?.unwrap_or(0);
        return Ok(Usage { web_searches, ..of_response(usage.get())? });
    }
    let totals: ResponseTotals<'_> = object(Field::Usage, json)?;
    let input = required(Field::InputTokens, totals.input_tokens)?;
    let output = required(Field::OutputTokens, totals.output_tokens)?;
    let details: ResponseDetails<'_> = details(Field::CachedTokens, totals.input_tokens_details)?;
    let cached_input = count(Field::CachedTokens, details.cached_tokens)?.unwrap_or(0).min(input);
    let written = count(Field::CacheWriteTokens, details.cache_write_tokens)?.unwrap_or(0);
    let written = written.min(input - cached_input);
    let kept: WriteDetails<'_> = self::details(Field::CacheWriteTokens, details.cache_write_tokens_details)?;
    let cache_write_12h = count(Field::CacheWriteTokens, kept.ttl_12h_tokens)?.unwrap_or(0).min(written);
    let details: OutputDetails<'_> = self::details(Field::ReasoningTokens, totals.output_tokens_details)?;
    let reasoning = count(Field::ReasoningTokens, details.reasoning_tokens)?.unwrap_or(0).min(output);
    let usage = Usage {
        input: input - cached_input - written,
        cached_input,
        cache_write: written - cache_write_12h,
        cache_write_12h,
        output: output - reasoning,
        reasoning,
        ..Usage::default()
    };
    assert_eq!(usage.tokens(), input + output, "classes add up to the reported totals");
    Ok(usage)
}

/// Reads how many web searches a response tells of beside its usage.
///
/// # Errors
/// When it is not an object, or the number no integer from 0 to [`Usage::CLASS_MAX`].
pub(super) fn searches(json: &str) -> Result<Option<u64>, Absurd> {
    let tools: ToolUsage<'_> = object(Field::WebSearches, json)?;
    let search: SearchUsage<'_> = details(Field::WebSearches, tools.web_search)?;
    count(Field::WebSearches, search.num_requests)
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ToolUsage<'a> {
    #[serde(borrow)]
    web_search: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SearchUsage<'a> {
    #[serde(borrow)]
    num_requests: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ResponseTotals<'a> {
    #[serde(borrow)]
    input_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    output_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    input_tokens_details: Option<&'a RawValue>,
    #[serde(borrow)]
    output_tokens_details: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ResponseDetails<'a> {
    #[serde(borrow)]
    cached_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    cache_write_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    cache_write_tokens_details: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WriteDetails<'a> {
    #[serde(borrow)]
    ttl_12h_tokens: Option<&'a RawValue>,
}

/// Reads a usage object of an endpoint that bills its input alone.
///
/// # Errors
/// When it is not an object, or its total is not an integer from 0 to [`Usage::CLASS_MAX`].
pub(super) fn of_input(json: &str) -> Result<Usage, Absurd> {
    let totals: Totals<'_> = object(Field::Usage, json)?;
    let input = required(Field::PromptTokens, totals.prompt_tokens)?;
    Ok(Usage { input, ..Usage::default() })
}

pub(super) fn object<'a, T: Deserialize<'a>>(field: Field, json: &'a str) -> Result<T, Absurd> {
    let absurd = Absurd::new(field, Why::NotObject);
    // An array would pass for a struct with its fields in order.
    if !json.starts_with('{') {
        return Err(absurd);
    }
    serde_json::from_str(json).map_err(|_| absurd)
}

/// Details, which may be absent or null.
pub(super) fn details<'a, T: Deserialize<'a> + Default>(
    field: Field,
    value: Option<&'a RawValue>,
) -> Result<T, Absurd> {
    value.map_or(Ok(T::default()), |json| object(field, json.get()))
}

pub(super) fn required(field: Field, value: Option<&RawValue>) -> Result<u64, Absurd> {
    count(field, value)?.ok_or(Absurd::new(field, Why::Missing))
}

pub(super) fn count(field: Field, value: Option<&RawValue>) -> Result<Option<u64>, Absurd> {
    let Some(text) = value.map(RawValue::get) else { return Ok(None) };
    let absurd = |why| Err(Absurd::new(field, why));
    let digits = text.strip_prefix('-').unwrap_or(text);
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return absurd(Why::NotInteger);
    }
    if digits.len() < text.len() {
        return absurd(Why::Negative);
    }
    // It is all digits, so that only its size can keep it from being parsed.
    match digits.parse::<u64>() {
        Ok(tokens) if tokens <= Usage::CLASS_MAX => Ok(Some(tokens)),
        Ok(_) | Err(_) => absurd(Why::TooLarge),
    }
}

#[cfg(test)]
mod tests {
    use super::super::random::Random;
    use super::*;

    fn check(json: &str, expected: Result<[u64; 5], (Field, Why)>) {
        let classes = of_chat(json).map(|u| [u.input, u.cached_input, u.cache_write, u.output, u.reasoning]);
        assert_eq!(classes, expected.map_err(|(field, why)| Absurd { field, why }), "{json}");
    }

    #[test]
    fn classes_are_disjoint() {
        check(r#"{"prompt_tokens":9,"completion_tokens":4,"total_tokens":13}"#, Ok([9, 0, 0, 4, 0]));
        check(
            r#"{"prompt_tokens":1000,"completion_tokens":300,
                "prompt_tokens_details":{"cached_tokens":400,"cache_write_tokens":100,"audio_tokens":7},
                "completion_tokens_details":{"reasoning_tokens":120,"rejected_prediction_tokens":5}}"#,
            Ok([500, 400, 100, 180, 120]),
        );
        check(
            r#"{"prompt_tokens":5,"completion_tokens":0,"prompt_tokens_details":null,
                "completion_tokens_details":{"reasoning_tokens":null}}"#,
            Ok([5, 0, 0, 0, 0]),
        );
        check(r#"{"prompt_tokens":0,"completion_tokens":0}"#, Ok([0; 5]));
    }

    #[test]
    fn a_part_is_cut_down_to_its_whole() {
        check(
            r#"{"prompt_tokens":5136,"completion_tokens":10,
                "prompt_tokens_details":{"cached_tokens":10192,"cache_write_tokens":3},
                "completion_tokens_details":{"reasoning_tokens":11}}"#,
            Ok([0, 5136, 0, 0, 10]),
        );
        check(
            r#"{"prompt_tokens":10,"completion_tokens":1,
                "prompt_tokens_details":{"cached_tokens":6,"cache_write_tokens":9}}"#,
            Ok([0, 6, 4, 1, 0]),
        );
    }

    #[test]
    fn embeddings_report_their_input_alone() {
        let input = |json| of_input(json).map(|usage| (usage.input, usage.tokens()));
        assert_eq!(input(r#"{"prompt_tokens":8,"total_tokens":8}"#), Ok((8, 8)));
        assert_eq!(input("{}"), Err(Absurd::new(Field::PromptTokens, Why::Missing)));
    }

    #[test]
    fn the_other_name_counts_where_the_first_is_absent() {
        check(
            r#"{"prompt_tokens":10,"completion_tokens":1,"prompt_cache_hit_tokens":8}"#,
            Ok([2, 8, 0, 1, 0]),
        );
        check(
            r#"{"prompt_tokens":10,"completion_tokens":1,"prompt_cache_hit_tokens":8,
                "prompt_tokens_details":{"cached_tokens":0}}"#,
            Ok([10, 0, 0, 1, 0]),
        );
    }

    #[test]
    fn the_absurd_is_refused() {
        let check_prompt = |value: &str, why| {
            check(
                &format!(r#"{{"prompt_tokens":{value},"completion_tokens":1}}"#),
                Err((Field::PromptTokens, why)),
            );
        };
        check_prompt("-1", Why::Negative);
        check_prompt("null", Why::Missing);
        for value in ["1.0", "1e3", "-0.5", "\"12\"", "\"\"", "true", "[]", "{}"] {
            check_prompt(value, Why::NotInteger);
        }
        for value in ["1000000001", "18446744073709551616", "99999999999999999999999999"] {
            check_prompt(value, Why::TooLarge);
        }
        check(r#"{"prompt_tokens":1}"#, Err((Field::CompletionTokens, Why::Missing)));
        check("{}", Err((Field::PromptTokens, Why::Missing)));
        for json in ["[1,1]", "17", "\"none\"", r#"{"prompt_tokens":1,"prompt_tokens":2}"#] {
            check(json, Err((Field::Usage, Why::NotObject)));
        }
        check(
            r#"{"prompt_tokens":1,"completion_tokens":1,"prompt_tokens_details":[]}"#,
            Err((Field::CachedTokens, Why::NotObject)),
        );
        check(
            r#"{"prompt_tokens":1,"completion_tokens":1,
                "completion_tokens_details":{"reasoning_tokens":-4}}"#,
            Err((Field::ReasoningTokens, Why::Negative)),
        );
    }

    #[test]
    fn a_response_tells_how_long_its_cache_is_kept() {
        let classes = |details: &str| {
            let json = format!(r#"{{"input_tokens":1000,"output_tokens":9,"total_tokens":1009{details}}}"#);
            of_response(&json)
                .map(|u| [u.input, u.cached_input, u.cache_write, u.cache_write_12h, u.reasoning])
        };
        assert_eq!(classes(""), Ok([1000, 0, 0, 0, 0]));
        let details = r#","input_tokens_details":{"cached_tokens":400,"cache_write_tokens":100,
            "cache_write_tokens_details":{"ttl_30m_tokens":30,"ttl_12h_tokens":70}},
            "output_tokens_details":{"reasoning_tokens":5}"#;
        assert_eq!(classes(details), Ok([500, 400, 30, 70, 5]));
        let clamped = r#","input_tokens_details":{"cached_tokens":950,"cache_write_tokens":100,
            "cache_write_tokens_details":{"ttl_12h_tokens":70}}"#;
        assert_eq!(classes(clamped), Ok([0, 950, 0, 50, 0]));
        let missing = of_response(r#"{"output_tokens":1}"#);
        assert_eq!(missing, Err(Absurd::new(Field::InputTokens, Why::Missing)));
    }

    #[test]
    fn classes_add_up_whatever_is_reported() {
        let mut random = Random::default();
        for _ in 0..10_000 {
            let [prompt, completion, cached, written, reasoning] = random.counts();
            let read = of_chat(&format!(
                r#"{{"prompt_tokens":{prompt},"completion_tokens":{completion},
                    "prompt_tokens_details":{{"cached_tokens":{cached},"cache_write_tokens":{written}}},
                    "completion_tokens_details":{{"reasoning_tokens":{reasoning}}}}}"#
            ))
            .expect("in bounds");
            let response = of_response(&format!(
                r#"{{"input_tokens":{prompt},"output_tokens":{completion},
                    "input_tokens_details":{{"cached_tokens":{cached},"cache_write_tokens":{written},
                    "cache_write_tokens_details":{{"ttl_12h_tokens":{reasoning}}}}},
                    "output_tokens_details":{{"reasoning_tokens":{reasoning}}}}}"#
            ))
            .expect("in bounds");
            assert_eq!(response.cache_write + response.cache_write_12h, read.cache_write);
            assert_eq!((response.input, response.output), (read.input, read.output));
            assert_eq!(read.input + read.cached_input + read.cache_write, prompt);
            assert_eq!(read.output + read.reasoning, completion);
            assert_eq!(read.cached_input, cached.min(prompt));
            assert_eq!(read.reasoning, reasoning.min(completion));
        }
    }
}
