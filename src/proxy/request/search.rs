//! Web searches, which the provider runs: how many there may be. Each has a price, and the model reads what
//! it finds, so that no request goes out without a bound.

use super::fields::{Fields, Map, bad, is_given, optional, tool_not_sold, typed, whole};
use super::{BadRequest, Edit};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Searches where the client sets no bound: it is put in then.
const SEARCHES_DEFAULT: u64 = 5;
/// The highest bound that a client may set.
const SEARCHES_MAX: u64 = 100;

/// Where a response says how often tools may be called that the provider runs.
pub(super) const CALLS_MAX: &str = "max_tool_calls";
/// Where a tool of a message says how often it may be used.
const USES_MAX: &str = "max_uses";
/// How the type of that tool begins: a date follows.
const TOOL: &str = "web_search_";

impl BadRequest {
    /// The model is not sold with web searches.
    pub fn search_unsold() -> Self {
        bad("tools", "web search is not sold with this model: leave it out, or choose another model")
    }
}

/// How many searches a response may run that has a tool for it.
pub(super) fn of_response(fields: &Fields<'_>) -> Result<u64, BadRequest> {
    Ok(whole(CALLS_MAX, fields.get(CALLS_MAX), SEARCHES_MAX)?.unwrap_or(SEARCHES_DEFAULT))
}

/// What bounds the searches of a response where the client did not.
pub(super) fn bound_response(fields: &Fields<'_>) -> Vec<Edit> {
    match fields.get(CALLS_MAX) {
        given if is_given(given) => Vec::new(),
        Some(null) => vec![(fields.place(null), SEARCHES_DEFAULT.to_string().into_bytes())],
        None => vec![(fields.end(), format!(",\"{CALLS_MAX}\":{SEARCHES_DEFAULT}").into_bytes())],
    }
}

/// How many searches a message may run. Its tools are those that are `known`, those without a type, which the
/// client runs itself, and web search.
pub(super) fn of_message(fields: &Fields<'_>, known: &[&str]) -> Result<u64, BadRequest> {
    let mut searches = 0;
    for tool in tools(fields)? {
        match tool.kind()? {
            Some(kind) if kind.starts_with(TOOL) => searches += tool.uses_max()?.unwrap_or(SEARCHES_DEFAULT),
            Some(kind) if !known.iter().any(|known| kind.starts_with(known)) => {
                return Err(tool_not_sold(&kind));
            }
            Some(_) | None => {}
        }
    }
    Ok(searches)
}

/// What bounds the searches of a message where the client did not.
pub(super) fn bound_message(fields: &Fields<'_>) -> Result<Vec<Edit>, BadRequest> {
    let mut edits = Vec::new();
    for tool in tools(fields)? {
        if !tool.kind()?.is_some_and(|kind| kind.starts_with(TOOL)) || tool.uses_max()?.is_some() {
            continue;
        }
        edits.push(match tool.fields.get(USES_MAX) {
            Some(null) => (fields.place(null), SEARCHES_DEFAULT.to_string().into_bytes()),
            None => {
                let end = fields.place(tool.written).end - 1;
                (end..end, format!(",\"{USES_MAX}\":{SEARCHES_DEFAULT}").into_bytes())
            }
        });
    }
    Ok(edits)
}

/// A tool of a message.
struct Tool<'a> {
    written: &'a RawValue,
    fields: Map<'a>,
}

fn tools<'a>(fields: &Fields<'a>) -> Result<Vec<Tool<'a>>, BadRequest> {
    const EXPECTED: &str = "an array of tools";
    let written: Option<Vec<&RawValue>> = optional("tools", fields.get("tools"), EXPECTED)?;
    let written = written.into_iter().flatten();
    written.map(|written| Ok(Tool { written, fields: typed("tools", written, EXPECTED)? })).collect()
}

impl Tool<'_> {
    fn kind(&self) -> Result<Option<Cow<'_, str>>, BadRequest> {
        optional("tools", self.fields.get("type"), "an array of tools with types")
    }

    fn uses_max(&self) -> Result<Option<u64>, BadRequest> {
        let given = optional("tools", self.fields.get(USES_MAX), "tools whose max_uses is a whole number")?;
        match given {
            Some(uses) if !(1..=SEARCHES_MAX).contains(&uses) => {
                Err(bad("tools", &format!("max_uses of web search must be from 1 to {SEARCHES_MAX}")))
            }
            fits => Ok(fits),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Request;
    use crate::endpoint::Endpoint;
    use bytes::Bytes;

    /// What goes out, and how many searches it may run; the same of what goes out.
    #[track_caller]
    fn check(endpoint: Endpoint, body: &str, searches: u64, expect: &str) {
        let read = |body: &Bytes| Request::read(endpoint, "application/json", body).unwrap();
        let request = read(&Bytes::copy_from_slice(body.as_bytes()));
        assert_eq!((request.demand.searches, &*request.body_for("m")), (searches, expect.as_bytes()));
        let mut out = read(&request.body_for("m"));
        assert_eq!((out.demand.searches, &out.body_for("m")), (searches, &request.body_for("m")));
        out.cut_to(20);
        assert_eq!(read(&out.body_for("m")).demand.searches, searches, "also of one that is cut");
    }

    #[test]
    fn what_has_no_bound_is_given_one() {
        let response = |tools: &str, more: &str| {
            format!(r#"{{"model":"m","input":"a","tools":[{{"type":"function"}}{tools}]{more}}}"#)
        };
        let check_response = |tools: &str, more: &str, searches, expect: &str| {
            check(Endpoint::Responses, &response(tools, more), searches, &response(tools, expect));
        };
        check_response("", "", 0, "");
        check_response("", r#","max_tool_calls":null"#, 0, r#","max_tool_calls":null"#);
        for tool in [r#",{"type":"web_search"}"#, r#",{"type":"web_search_2025_08_26","filters":{}}"#] {
            check_response(tool, "", 5, r#","max_tool_calls":5"#);
            check_response(tool, r#","max_tool_calls" : null"#, 5, r#","max_tool_calls" : 5"#);
            check_response(tool, r#","max_tool_calls":3"#, 3, r#","max_tool_calls":3"#);
        }
        let message =
            |tools: &str| format!(r#"{{"model":"m","max_tokens":99,"messages":[],"tools":[{tools}]}}"#);
        let check_message = |tools: &str, searches, expect: &str| {
            check(Endpoint::Messages, &message(tools), searches, &message(expect));
        };
        let own = r#"{"name":"f","max_uses":1000}"#;
        check_message(own, 0, own);
        let tool =
            |uses: &str| format!(r#"{own},{{"type":"web_search_20250305","name":"web_search"{uses}}}"#);
        check_message(&tool(""), 5, &tool(r#","max_uses":5"#));
        check_message(&tool(r#","max_uses":null,"x":1"#), 5, &tool(r#","max_uses":5,"x":1"#));
        check_message(&tool(r#","max_uses": 7 "#), 7, &tool(r#","max_uses": 7 "#));
        let two = [tool(""), tool(r#","max_uses":2"#)].join(",");
        let bound = [tool(r#","max_uses":5"#), tool(r#","max_uses":2"#)].join(",");
        check_message(&two, 7, &bound);
    }
}
