//! Responses: the plain answer, and events of which each has a type. The last of a stream carries the
//! whole answer again, with its usage.

use super::super::reading::Tally;
use super::{Part, Text, Unreadable, object, usage};
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
    let Some(kind) = event.kind else {
        let answer: Answer<'_> = object(json)?;
        return answer.read_plain(tally);
    };
    let response = event.response.as_ref();
    if let Some(id) = response.and_then(|response| response.id.as_ref()) {
        tally.object(id);
    }
    let part = match &*kind {
        "response.completed" | "response.incomplete" => Part::Last,
        "response.failed" | "error" => Part::Error,
        _ => Part::Ordinary,
    };
    if let Some(usage) = response.and_then(|response| response.usage) {
        tally.usage(usage.get());
    }
    if let Some(tools) = response.and_then(|response| response.tool_usage) {
        tell_tools(tools, tally);
    }
    // Before the last event it is what was asked for.
    if let Some(tier) = response.and_then(|response| response.service_tier.as_ref())
        && part != Part::Ordinary
    {
        tally.tier(tier);
    }
    if kind.ends_with(".delta") {
        tally.text(&event.delta.text);
    } else if kind == "response.output_item.added"
        && let Some(item) = &event.item
    {
        tally.text(&item.name.text);
    } else if kind == "response.output_item.done"
        && let Some(item) = &event.item
    {
        tally.delivered.searches += u64::from(item.is_search());
    }
    Ok(part)
}

/// What the provider tells of searches counts, where it does.
fn tell_tools(tools: &RawValue, tally: &mut Tally) {
    if usage::searches(tools.get()).is_ok_and(|searches| searches.is_some()) {
        tally.tools(tools.get());
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Event<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    response: Option<Ended<'a>>,
    #[serde(borrow)]
    delta: Text<'a>,
    #[serde(borrow)]
    item: Option<Item<'a>>,
}

/// The answer as far as events need it: its text came before.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Ended<'a> {
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_usage: Option<&'a RawValue>,
    #[serde(borrow)]
    service_tier: Option<Cow<'a, str>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer<'a> {
    #[serde(borrow)]
    status: Option<Cow<'a, str>>,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    output: Option<Vec<Item<'a>>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_usage: Option<&'a RawValue>,
    #[serde(borrow)]
    service_tier: Option<Cow<'a, str>>,
    error: Option<IgnoredAny>,
}

/// A message, some reasoning, or the call of a tool.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Item<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    status: Option<Cow<'a, str>>,
    /// What a search did.
    #[serde(borrow)]
    action: Option<&'a RawValue>,
    #[serde(borrow)]
    content: Text<'a>,
    #[serde(borrow)]
    summary: Text<'a>,
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    arguments: Text<'a>,
    #[serde(borrow)]
    input: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Action<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
}

impl Item<'_> {
    /// Whether it is a web search that was run. Pages that are opened, or searched themselves, cost nothing.
    fn is_search(&self) -> bool {
        let done = self.status.as_deref().is_none_or(|status| status == "completed");
        let action = || -> Option<Action<'_>> { serde_json::from_str(self.action?.get()).ok() };
        let opens = || action().and_then(|action| action.kind).is_some_and(|kind| kind != "search");
        self.kind.as_deref() == Some("web_search_call") && done && !opens()
    }
}

impl Answer<'_> {
    fn read_plain(&self, tally: &mut Tally) -> Result<Part, Unreadable> {
        if let Some(usage) = self.usage {
            tally.usage(usage.get());
        }
        if let Some(tools) = self.tool_usage {
            tell_tools(tools, tally);
        }
        if let Some(tier) = &self.service_tier {
            tally.tier(tier);
        }
        if let Some(id) = &self.id {
            tally.object(id);
        }
        tally.at_work = matches!(self.status.as_deref(), Some("queued" | "in_progress"));
        match (&self.output, &self.error) {
            // A run that failed at work is billed for what it used.
            (_, Some(IgnoredAny)) if self.usage.is_none() => return Ok(Part::Error),
            (None, None) => return Err(Unreadable),
            (_, Some(IgnoredAny)) | (Some(_), None) => {}
        }
        for item in self.output.iter().flatten() {
            let texts = [&item.content, &item.summary, &item.name, &item.arguments, &item.input];
            texts.into_iter().for_each(|text| tally.text(&text.text));
            tally.delivered.searches += u64::from(item.is_search());
        }
        Ok(Part::Ordinary)
    }
}
