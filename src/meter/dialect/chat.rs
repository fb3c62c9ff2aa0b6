//! Chat completions, and completions of a prompt: the plain answer and the chunk of a stream, which
//! differ in one field each.

use super::super::reading::Tally;
use super::{Part, Text, Unreadable, object};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Reads an answer or a chunk.
///
/// # Errors
/// When it is not one, or a field that is read has another type than it should.
pub(super) fn read(json: &[u8], tally: &mut Tally) -> Result<Part, Unreadable> {
    let answer: Answer<'_> = object(json)?;
    let groq = answer.x_groq.as_ref().and_then(|groq| groq.usage);
    // A server that tells both tells the same.
    if let Some(usage) = answer.usage.or(groq) {
        tally.usage(usage.get());
    }
    if let Some(tier) = &answer.service_tier {
        tally.tier(tier);
    }
    answer.each_text(|text| tally.text(text));
    Ok(answer.part())
}

/// As far as metering needs it. Borrows from the bytes it was parsed from.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer<'a> {
    #[serde(borrow)]
    object: Option<Cow<'a, str>>,
    #[serde(borrow)]
    choices: Option<Vec<Choice<'a>>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    /// Where Groq puts the usage of a stream, in the chunk that ends it, asked for or not.
    #[serde(borrow)]
    x_groq: Option<Groq<'a>>,
    #[serde(borrow)]
    service_tier: Option<Cow<'a, str>>,
    error: Option<IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Groq<'a> {
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Choice<'a> {
    #[serde(borrow)]
    delta: Option<Said<'a>>,
    #[serde(borrow)]
    message: Option<Said<'a>>,
    /// Of a completion.
    #[serde(borrow)]
    text: Text<'a>,
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

impl Answer<'_> {
    fn part(&self) -> Part {
        let no_choices = self.choices.as_ref().is_some_and(Vec::is_empty);
        if self.error.is_some() || self.object.as_deref() == Some("error") {
            // In the usual place, or as older vLLM does.
            Part::Error
        } else if no_choices && self.usage.is_some_and(|usage| usage.get().starts_with('{')) {
            // Empty choices alone do not make it the extra chunk: content filter and moderation
            // chunks have them too.
            Part::Usage
        } else if self.choices.iter().flatten().any(|choice| choice.finish_reason.is_some()) {
            Part::Finished
        } else {
            Part::Ordinary
        }
    }

    /// Each piece of text that it delivers.
    fn each_text(&self, mut take: impl FnMut(&str)) {
        for choice in self.choices.iter().flatten() {
            take(&choice.text.text);
            for said in choice.delta.iter().chain(&choice.message) {
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
