//! Chat completions: the plain answer and the chunk of a stream, which differ in one field.

use super::Text;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// An answer or a chunk, as far as metering needs it. Borrows from the bytes it was parsed from.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::meter) struct Answer<'a> {
    #[serde(borrow)]
    object: Option<Cow<'a, str>>,
    #[serde(borrow)]
    choices: Option<Vec<Choice<'a>>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    error: Option<IgnoredAny>,
}

/// Not a JSON object of the expected shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::meter) struct Unreadable;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Choice<'a> {
    #[serde(borrow)]
    delta: Option<Said<'a>>,
    #[serde(borrow)]
    message: Option<Said<'a>>,
    finish_reason: Option<IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said<'a> {
    #[serde(borrow)]
    content: Text<'a>,
    #[serde(borrow)]
    refusal: Text<'a>,
    #[serde(borrow)]
    reasoning_content: Text<'a>,
    /// The same under the name that newer vLLM and OpenRouter use; some send both.
    #[serde(borrow)]
    reasoning: Text<'a>,
    #[serde(borrow)]
    tool_calls: Option<Vec<ToolCall<'a>>>,
}

/// A call of a tool, or a fragment of one.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::meter) struct ToolCall<'a> {
    #[serde(borrow)]
    function: Option<Function<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Function<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    arguments: Text<'a>,
}

impl<'a> Answer<'a> {
    /// Reads one JSON object.
    ///
    /// # Errors
    /// When it is not one, or a field that is read has another type than it should.
    pub(in crate::meter) fn parse(json: &'a [u8]) -> Result<Self, Unreadable> {
        // An array would pass for a struct with its fields in order.
        if json.trim_ascii_start().first() != Some(&b'{') {
            return Err(Unreadable);
        }
        serde_json::from_slice(json).map_err(|_| Unreadable)
    }

    /// Whether the bytes are the beginning of a JSON object, or nothing.
    pub(in crate::meter) fn is_cut(json: &[u8]) -> bool {
        let json = json.trim_ascii_start();
        let parsed = serde_json::from_slice::<IgnoredAny>(json);
        json.is_empty() || json.starts_with(b"{") && parsed.is_err_and(|error| error.is_eof())
    }

    /// Whether it is the extra chunk of a stream that reports usage. Empty choices alone do not
    /// make it one: content filter and moderation chunks have them too.
    pub(in crate::meter) fn is_usage_chunk(&self) -> bool {
        let no_choices = self.choices.as_ref().is_some_and(Vec::is_empty);
        no_choices && !self.is_error() && self.usage().is_some_and(|raw| raw.starts_with('{'))
    }

    /// The reported usage as written, unless it is absent or null.
    pub(in crate::meter) fn usage(&self) -> Option<&'a str> {
        self.usage.map(RawValue::get)
    }

    /// Whether a choice gives the reason for which it ended.
    pub(in crate::meter) fn is_finished(&self) -> bool {
        self.choices.iter().flatten().any(|choice| choice.finish_reason.is_some())
    }

    /// Whether it carries an error, in the usual place or as older vLLM does.
    pub(in crate::meter) fn is_error(&self) -> bool {
        self.error.is_some() || self.object.as_deref() == Some("error")
    }

    /// Each piece of text that it delivers.
    pub(in crate::meter) fn each_text(&self, mut take: impl FnMut(&str)) {
        let choices = self.choices.iter().flatten();
        for said in choices.flat_map(|choice| choice.delta.iter().chain(&choice.message)) {
            take(&said.content.text);
            take(&said.refusal.text);
            let reasoning = &said.reasoning_content.text;
            take(if reasoning.is_empty() { &said.reasoning.text } else { reasoning });
            for call in said.tool_calls.iter().flatten() {
                call.each_text(&mut take);
            }
        }
    }
}

impl ToolCall<'_> {
    /// The name of the function and its arguments.
    pub(in crate::meter) fn each_text(&self, mut take: impl FnMut(&str)) {
        if let Some(function) = &self.function {
            take(&function.name.text);
            take(&function.arguments.text);
        }
    }
}
