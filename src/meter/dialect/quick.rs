//! The quick way through the most common event of a stream, one choice that delivers plain text and
//! nothing else, and to the usage of a plain answer. Anything that is not exactly that is left to
//! the parser.

use memchr::memchr;
use memchr::memmem::Finder;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use std::sync::LazyLock;

struct Marks {
    error: Finder<'static>,
    usage: Finder<'static>,
    delta: Finder<'static>,
    unfinished: Finder<'static>,
    tier: Finder<'static>,
    search: Finder<'static>,
}

static MARKS: LazyLock<Marks> = LazyLock::new(|| Marks {
    error: Finder::new("\"error\""),
    usage: Finder::new("\"usage\""),
    delta: Finder::new(DELTA),
    unfinished: Finder::new("\"finish_reason\":null"),
    tier: Finder::new(TIER),
    search: Finder::new("web_search"),
});

const DELTA: &str = "\"delta\":{";
const ROLE: &[u8] = b"\"role\":\"assistant\",";
const CONTENT: &[u8] = b"\"content\":\"";

/// The text that an ordinary chunk delivers; `None` where it has to be parsed to know.
///
/// Without a backslash every quote begins or ends a string, so that a quoted name before a colon is
/// a key and no text that only looks like one.
pub(in crate::meter) fn delivered_text(event: &[u8]) -> Option<&str> {
    let marks = &*MARKS;
    let object = event.first() == Some(&b'{') && event.last() == Some(&b'}');
    if !object || memchr(b'\\', event).is_some() || marks.error.find(event).is_some() {
        return None;
    }
    if let Some(at) = marks.usage.find(event)
        && !event[at..].starts_with(b"\"usage\":null")
    {
        return None;
    }
    marks.unfinished.find(event)?;
    let rest = &event[marks.delta.find(event)? + DELTA.len()..];
    if marks.delta.find(rest).is_some() {
        return None;
    }
    let rest = rest.strip_prefix(ROLE).unwrap_or(rest).strip_prefix(CONTENT)?;
    let (text, rest) = rest.split_at(memchr(b'"', rest)?);
    if !rest.starts_with(b"\"}") {
        return None;
    }
    std::str::from_utf8(text).ok()
}

/// What may follow the usage of a plain answer: a few short fields.
const TAIL_BYTES_MAX: usize = 1_024;
const USAGE: &[u8] = b"\"usage\":";

/// The usage of a plain answer that is whole and no error, as written, and its service tier; `None`
/// where the answer has to be parsed to know. Nothing else that stands before the usage is looked at.
pub(in crate::meter) fn plain_usage(answer: &[u8]) -> Option<(&str, Option<&str>)> {
    let answer = answer.trim_ascii();
    if answer.first() != Some(&b'{') || MARKS.error.find(answer).is_some() {
        return None;
    }
    let at = memrmem(answer, USAGE)?;
    // A name that only ends like this one.
    if answer[at - 1] == b'\\' {
        return None;
    }
    let rest = &answer[at + USAGE.len()..];
    let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<&RawValue>();
    let usage = values.next()?.ok()?.get();
    let tail = &rest[values.byte_offset()..];
    let tier = service_tier(answer).ok()?;
    (usage.starts_with('{') && ends_the_answer(tail)).then_some((usage, tier))
}

/// The `id` of a plain answer that begins with it, as nearly all do.
pub(in crate::meter) fn id(answer: &[u8]) -> Option<&str> {
    let rest = answer.trim_ascii_start().strip_prefix(b"{")?.trim_ascii_start();
    let rest = rest.strip_prefix(b"\"id\"")?.trim_ascii_start().strip_prefix(b":")?;
    let word = rest.trim_ascii_start().strip_prefix(b"\"")?;
    let word = &word[..memchr(b'"', word)?];
    if word.contains(&b'\\') { None } else { std::str::from_utf8(word).ok() }
}

/// Whether the answer may tell of web searches.
pub(in crate::meter) fn may_search(answer: &[u8]) -> bool {
    MARKS.search.find(answer).is_some()
}

/// More than one tier, or one that is no plain string.
struct Unclear;

/// A quote within a string has a backslash before it, so that this is a name.
fn service_tier(answer: &[u8]) -> Result<Option<&str>, Unclear> {
    let names = MARKS.tier.find_iter(answer).filter(|at| *at > 0 && answer[at - 1] != b'\\');
    let mut names = names.map(|at| answer[at + TIER.len()..].trim_ascii_start());
    let Some(value) = names.next() else { return Ok(None) };
    if names.next().is_some() {
        return Err(Unclear);
    }
    if value.starts_with(b"null") {
        return Ok(None);
    }
    let word = value.strip_prefix(b"\"").ok_or(Unclear)?;
    let end = memchr(b'"', word).ok_or(Unclear)?;
    std::str::from_utf8(&word[..end]).map(Some).map_err(|_| Unclear)
}

const TIER: &[u8] = b"\"service_tier\":";

/// Whether `tail` closes the outermost object, so that what stood before it was a field of that.
fn ends_the_answer(tail: &[u8]) -> bool {
    if tail.len() > TAIL_BYTES_MAX {
        return false;
    }
    let whole = [b"{\"\":0", tail].concat();
    serde_json::from_slice::<IgnoredAny>(&whole).is_ok()
}

fn memrmem(text: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::rfind(text, needle).filter(|at| *at > 0)
}

#[cfg(test)]
mod tests {
    use super::super::super::reading::{Oddities, Shape, Tally};
    use super::super::Part;
    use super::*;
    use crate::endpoint::Endpoint;

    /// The quick way says what the parser says, or nothing.
    fn check(event: &str, expect: Option<&str>) {
        assert_eq!(delivered_text(event.as_bytes()), expect, "{event}");
        if let Some(text) = expect {
            let mut tally = Tally::default();
            let part = tally.add(Endpoint::Chat, event.as_bytes()).expect("an ordinary chunk");
            let parsed = tally.into_reading(Endpoint::Chat, Shape::Cut, Oddities::default());
            assert_eq!((part, &*parsed.delivered.text, parsed.usage), (Part::Ordinary, text, None));
        }
    }

    fn check_plain(answer: &str, expect: Option<&str>) {
        let usage = plain_usage(answer.as_bytes()).map(|(usage, _)| usage);
        assert_eq!(usage, expect, "{answer}");
    }

    #[test]
    fn the_service_tier_of_a_plain_answer_is_found_where_it_is_one() {
        let check = |fields: &str, expect: Option<Option<&str>>| {
            let answer =
                format!(r#"{{"choices":[{{"text":"\"service_tier\":\"flex\""}}]{fields},"usage":{{}}}}"#);
            assert_eq!(plain_usage(answer.as_bytes()).map(|(_, tier)| tier), expect, "{answer}");
        };
        check("", Some(None));
        check(r#","service_tier":null"#, Some(None));
        check(r#","service_tier": "priority""#, Some(Some("priority")));
        check(r#","service_tier":"flex","x":{"service_tier":"priority"}"#, None);
        check(r#","service_tier":7"#, None);
    }

    #[test]
    fn the_name_of_an_answer_is_found_where_it_comes_first() {
        let check = |answer: &str, expect| assert_eq!(id(answer.as_bytes()), expect, "{answer}");
        check(r#"{"id":"resp_1","object":"response"}"#, Some("resp_1"));
        check(" {\n  \"id\" : \"resp_1\"", Some("resp_1"));
        for other in [r#"{"x":{"id":"a"}}"#, r#"{"id":"a\u0062"}"#, r#"{"id":7}"#, r#"{"id":"a"#, "", "[]"] {
            check(other, None);
        }
    }

    #[test]
    fn the_usage_of_a_plain_answer_is_found_where_it_is_one() {
        let usage = r#"{"prompt_tokens":1,"completion_tokens":2,"x":{"y":"}"}}"#;
        check_plain(&format!(r#" {{"choices":[],"usage":{usage}}} "#), Some(usage));
        check_plain(&format!(r#"{{"usage": {usage},"service_tier":"default","choices":[]}}"#), Some(usage));
        let said = r#""choices":[{"message":{"content":"\"usage\":{}"}}]"#;
        check_plain(&format!(r#"{{{said},"usage":{usage}}}"#), Some(usage));
        check_plain(&format!("{{{said}}}"), None);
        check_plain(&format!(r#"{{"x_groq":{{"usage":{usage}}}}}"#), None);
        check_plain(&format!(r#"{{"x\"usage":{usage}}}"#), None);
        check_plain(&format!(r#"{{"usage":{usage},"error":{{}}}}"#), None);
        check_plain(&format!(r#"{{"choices":[],"usage":{usage}"#), None);
        check_plain(&format!(r#"{{"choices":[],"usage":{usage},"x""#), None);
        check_plain(r#"{"choices":[],"usage":null}"#, None);
        check_plain(r#""usage":{}"#, None);
        check_plain("", None);
    }

    #[test]
    fn only_the_ordinary_chunk_goes_the_quick_way() {
        let chunk = |choices: &str, rest: &str| format!(r#"{{"id":"c","choices":[{choices}]{rest}}}"#);
        let choice = |delta: &str| format!(r#"{{"index":0,"delta":{{{delta}}},"finish_reason":null}}"#);
        let said = r#""content":"hé llo""#;
        check(&chunk(&choice(said), ""), Some("hé llo"));
        check(&chunk(&choice(said), r#","usage":null"#), Some("hé llo"));
        check(&chunk(&choice(r#""role":"assistant","content":"""#), ""), Some(""));
        for delta in [
            r#""content":"a\n""#,
            r#""content":null"#,
            r#""content":"a","refusal":"b""#,
            r#""content":"a","tool_calls":[]"#,
            r#""reasoning_content":"a""#,
            "",
        ] {
            check(&chunk(&choice(delta), ""), None);
        }
        check(&chunk(&choice(said), r#","usage":{"prompt_tokens":1}"#), None);
        check(&chunk(&choice(said), r#","usage": null"#), None);
        check(&chunk(&choice(said), r#","error":{}"#), None);
        check(&chunk(&choice(said), r#","object":"error""#), None);
        check(&chunk(&[choice(said), choice(said)].join(","), ""), None);
        check(&chunk(&choice(said).replace("null", "\"stop\""), ""), None);
        check(&chunk(&choice(said), "")[1..], None);
        check("", None);
    }
}
