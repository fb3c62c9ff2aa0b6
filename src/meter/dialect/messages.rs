//! Messages, as Anthropic speaks it: the plain answer, and events of which each has a type.
//!
//! The first event of a stream tells the usage of the input. Later ones tell counts that replace those
//! told before, and the output only there.

use super::super::reading::Tally;
use super::usage::{self, Absurd, Field, Why, count, details, required};
use super::{Part, Text, Unreadable, object};
use crate::usage::Usage;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Reads an answer or an event.
///
/// # Errors
/// When it is not one, or a field that is read has another type than it should.
pub(super) fn read(json: &[u8], tally: &mut Tally) -> Result<Part, Unreadable> {
    let event: Event<'_> = object(json)?;
    let begun = event.message.as_ref().and_then(|message| message.usage);
    for usage in begun.iter().chain(&event.usage) {
        let Ok(Beside { service_tier, server_tool_use }) = serde_json::from_str(usage.get()) else {
            continue;
        };
        if let Some(tier) = service_tier {
            tally.tier(&tier);
        }
        let told = server_tool_use.and_then(|used| serde_json::from_str::<ServerTools<'_>>(used.get()).ok());
        if told.is_some_and(|told| told.web_search_requests.is_some()) {
            tally.tells_searches();
        }
    }
    if let Some(usage) = begun {
        tally.usage_begun(usage.get());
    }
    if let Some(usage) = event.usage {
        tally.usage(usage.get());
    }
    let block = [event.delta.as_ref(), event.content_block.as_ref()].into_iter().flatten();
    for block in block.chain(event.content.iter().flatten()) {
        let texts = [&block.text, &block.thinking, &block.name, &block.partial_json];
        texts.into_iter().for_each(|text| tally.text(&text.text));
        tally.delivered.searches += u64::from(block.is_search());
        if let Some(input) = block.input.filter(|input| input.get() != "{}") {
            tally.text(input.get());
        }
    }
    Ok(match event.kind.as_deref() {
        Some("error") => Part::Error,
        _ if event.error.is_some() => Part::Error,
        Some("message_stop") => Part::Last,
        _ if event.delta.as_ref().is_some_and(|delta| delta.stop_reason.is_some()) => Part::Finished,
        Some(_) => Part::Ordinary,
        None => return Err(Unreadable),
    })
}

/// An event, or the whole answer, whose type is `message`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Event<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    message: Option<Begun<'a>>,
    #[serde(borrow)]
    content: Option<Vec<Block<'a>>>,
    #[serde(borrow)]
    content_block: Option<Block<'a>>,
    #[serde(borrow)]
    delta: Option<Block<'a>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    error: Option<IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Begun<'a> {
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

/// A block of the answer, or a piece of one.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Block<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    /// What a tool found: a list, or an error.
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    text: Text<'a>,
    #[serde(borrow)]
    thinking: Text<'a>,
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    partial_json: Text<'a>,
    /// What a tool is called with.
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    stop_reason: Option<IgnoredAny>,
}

impl Block<'_> {
    /// Whether it is what a web search found. One that failed costs nothing.
    fn is_search(&self) -> bool {
        let found = self.content.is_some_and(|content| content.get().starts_with('['));
        found && self.kind.as_deref() == Some("web_search_tool_result")
    }
}

/// What a usage says beside tokens.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Beside<'a> {
    #[serde(borrow)]
    service_tier: Option<Cow<'a, str>>,
    #[serde(borrow)]
    server_tool_use: Option<&'a RawValue>,
}

/// Reads the usage object of a message, or a list of them of which later counts replace earlier ones.
/// Its input does not include what is read from or written to the cache.
///
/// # Errors
/// When it cannot be believed.
pub(super) fn usage(json: &str) -> Result<Usage, Absurd> {
    let told: Vec<&RawValue> = match json.starts_with('[') {
        true => serde_json::from_str(json).map_err(|_| Absurd::new(Field::Usage, Why::NotObject))?,
        false => vec![serde_json::from_str(json).map_err(|_| Absurd::new(Field::Usage, Why::NotObject))?],
    };
    let mut last = MessageTotals::default();
    for json in told {
        last = last.then(usage::object(Field::Usage, json.get())?);
    }
    let input = required(Field::InputTokens, last.input_tokens)?;
    let all_output = required(Field::OutputTokens, last.output_tokens)?;
    let cached_input = count(Field::CacheRead, last.cache_read_input_tokens)?.unwrap_or(0);
    let kept: Creation<'_> = details(Field::CacheCreation, last.cache_creation)?;
    let hour = count(Field::CacheCreation, kept.ephemeral_1h_input_tokens)?.unwrap_or(0);
    let minutes = count(Field::CacheCreation, kept.ephemeral_5m_input_tokens)?.unwrap_or(0);
    let written = count(Field::CacheCreation, last.cache_creation_input_tokens)?.unwrap_or(hour + minutes);
    let cache_write_1h = hour.min(written);
    let thought: Thought<'_> = details(Field::ThinkingTokens, last.output_tokens_details)?;
    let reasoning = count(Field::ThinkingTokens, thought.thinking_tokens)?.unwrap_or(0).min(all_output);
    let ran: ServerTools<'_> = details(Field::WebSearches, last.server_tool_use)?;
    let web_searches = count(Field::WebSearches, ran.web_search_requests)?.unwrap_or(0);
    let usage = Usage {
        input,
        cached_input,
        cache_write: written - cache_write_1h,
        cache_write_1h,
        output: all_output - reasoning,
        reasoning,
        web_searches,
        ..Usage::default()
    };
    assert_eq!(usage.tokens(), input + cached_input + written + all_output, "classes add up");
    Ok(usage)
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct MessageTotals<'a> {
    #[serde(borrow)]
    input_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    output_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    cache_creation_input_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    cache_read_input_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    cache_creation: Option<&'a RawValue>,
    #[serde(borrow)]
    output_tokens_details: Option<&'a RawValue>,
    #[serde(borrow)]
    server_tool_use: Option<&'a RawValue>,
}

impl<'a> MessageTotals<'a> {
    fn then(self, later: MessageTotals<'a>) -> MessageTotals<'a> {
        MessageTotals {
            input_tokens: later.input_tokens.or(self.input_tokens),
            output_tokens: later.output_tokens.or(self.output_tokens),
            cache_creation_input_tokens: later
                .cache_creation_input_tokens
                .or(self.cache_creation_input_tokens),
            cache_read_input_tokens: later.cache_read_input_tokens.or(self.cache_read_input_tokens),
            cache_creation: later.cache_creation.or(self.cache_creation),
            output_tokens_details: later.output_tokens_details.or(self.output_tokens_details),
            server_tool_use: later.server_tool_use.or(self.server_tool_use),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Creation<'a> {
    #[serde(borrow)]
    ephemeral_5m_input_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    ephemeral_1h_input_tokens: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Thought<'a> {
    #[serde(borrow)]
    thinking_tokens: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ServerTools<'a> {
    #[serde(borrow)]
    web_search_requests: Option<&'a RawValue>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_message_come_beside_its_input() {
        let classes = |json: &str| {
            usage(json)
                .map(|u| [u.input, u.cached_input, u.cache_write, u.cache_write_1h, u.output, u.reasoning])
        };
        assert_eq!(classes(r#"{"input_tokens":9,"output_tokens":4}"#), Ok([9, 0, 0, 0, 4, 0]));
        let begun = r#"{"input_tokens":9,"cache_creation_input_tokens":100,"cache_read_input_tokens":50,
            "cache_creation":{"ephemeral_5m_input_tokens":30,"ephemeral_1h_input_tokens":70},"output_tokens":1}"#;
        assert_eq!(classes(begun), Ok([9, 50, 30, 70, 1, 0]));
        let later = r#"{"output_tokens":40,"output_tokens_details":{"thinking_tokens":15}}"#;
        assert_eq!(classes(&format!("[{begun},{later}]")), Ok([9, 50, 30, 70, 25, 15]));
        let all = r#"{"input_tokens":8,"cache_read_input_tokens":51,"output_tokens":40}"#;
        assert_eq!(classes(&format!("[{begun},{all}]")), Ok([8, 51, 30, 70, 40, 0]));
        assert_eq!(usage(later).unwrap_err(), Absurd::new(Field::InputTokens, Why::Missing));
        assert!(usage("[1]").is_err() && usage("[]").is_err() && usage("x").is_err());
    }

    #[test]
    fn classes_add_up_whatever_is_reported() {
        for [input, read, written, hour, output, thought] in
            [[0, 0, 0, 0, 0, 0], [9, 5, 7, 3, 11, 4], [9, 5, 7, 30, 11, 40], [1, 1_000_000_000, 2, 2, 3, 3]]
        {
            let found = usage(&format!(
                r#"{{"input_tokens":{input},"output_tokens":{output},"cache_read_input_tokens":{read},
                    "cache_creation_input_tokens":{written},
                    "cache_creation":{{"ephemeral_1h_input_tokens":{hour}}},
                    "output_tokens_details":{{"thinking_tokens":{thought}}}}}"#
            ))
            .expect("in bounds");
            assert_eq!(found.input_total(), input + read + written);
            assert_eq!(found.output + found.reasoning, output);
        }
    }
}
