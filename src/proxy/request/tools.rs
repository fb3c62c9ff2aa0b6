//! Tools: those that the client runs itself pass. Of those that the provider runs, web search is sold: each
//! search has a price, and the model reads what it finds, so that no request goes out without a bound.

use super::fields::{Fields, Map, bad, each, is_given, optional, type_not_sold, typed, whole, wrong_type};
use super::{BadRequest, Edit};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::ops::Range;

/// Searches where the client sets no bound: it is put in then.
const SEARCHES_DEFAULT: u64 = 5;
/// The highest bound that a client may set.
const SEARCHES_MAX: u64 = 100;

/// Where a response says how often tools may be called that the provider runs.
pub(super) const CALLS_MAX: &str = "max_tool_calls";
/// Where a tool of a message says how often it may be used.
const USES_MAX: &str = "max_uses";
/// The tool of a response.
const OF_RESPONSE: [&str; 2] = ["web_search", "web_search_2025_08_26"];
/// What came before it, and costs otherwise.
const PREVIEW: &str = "web_search_preview";
/// The tool of a message. Later ones run code as well.
const OF_MESSAGE: &str = "web_search_20250305";

impl BadRequest {
    /// The model is not sold with web searches.
    pub fn search_unsold() -> Self {
        bad("tools", "web search is not sold with this model: leave it out, or choose another model")
    }
}

/// Web searches that a request may run.
#[derive(Default)]
pub(super) struct Searches {
    /// How many.
    pub most: u64,
    /// What bounds them, where the client did not.
    pub edits: Vec<Edit>,
}

impl Searches {
    /// As many as were `given`, or else as the edit bounds them to.
    fn add(&mut self, given: Option<u64>, edit: impl FnOnce() -> Edit) {
        self.most += given.unwrap_or(SEARCHES_DEFAULT);
        if given.is_none() {
            self.edits.push(edit());
        }
    }
}

/// Those of a response. Its other tools are those that are `known`.
pub(super) fn of_response(fields: &Fields<'_>, known: &[&str]) -> Result<Searches, BadRequest> {
    let mut searches = false;
    each_tool(fields, |_, tool| {
        let kind: Cow<'_, str> =
            typed("tools", tool.get("type").ok_or_else(|| wrong_type("tools", TYPED))?, TYPED)?;
        match &*kind {
            kind if OF_RESPONSE.contains(&kind) => searches = true,
            kind if kind.starts_with(PREVIEW) => {
                return Err(bad("tools", "web search is sold as a tool of type `web_search`"));
            }
            kind if !known.contains(&kind) => return Err(type_not_sold("tools", "a tool", kind)),
            _ => {}
        }
        Ok(())
    })?;
    if !searches {
        return Ok(Searches::default());
    }
    let given = whole(CALLS_MAX, fields.get(CALLS_MAX), SEARCHES_MAX)?;
    let mut searches = Searches::default();
    searches.add(given, || bound(fields, fields.get(CALLS_MAX), CALLS_MAX, fields.end()));
    Ok(searches)
}

/// Those of a message. Its other tools are those whose types begin as a `known` one, and those without a type,
/// which are the client's own.
pub(super) fn of_message(fields: &Fields<'_>, known: &[&str]) -> Result<Searches, BadRequest> {
    let mut searches = Searches::default();
    each_tool(fields, |written, tool| {
        let kind: Option<Cow<'_, str>> = optional("tools", tool.get("type"), TYPED)?;
        match kind.as_deref() {
            Some(OF_MESSAGE) => {
                let end = fields.place(written).end - 1;
                searches.add(uses_max(tool)?, || bound(fields, tool.get(USES_MAX), USES_MAX, end..end));
            }
            Some(kind) if !known.iter().any(|known| kind.starts_with(known)) => {
                return Err(type_not_sold("tools", "a tool", kind));
            }
            Some(_) | None => {}
        }
        Ok(())
    })?;
    Ok(searches)
}

/// Lets tools pass that are `known`, or have no type, and nothing that a provider would run.
pub(super) fn refuse_others(fields: &Fields<'_>, known: &[&str]) -> Result<(), BadRequest> {
    each_tool(fields, |_, tool| {
        let kind: Option<Cow<'_, str>> = optional("tools", tool.get("type"), TYPED)?;
        match kind {
            Some(kind) if !known.contains(&&*kind) => Err(type_not_sold("tools", "a tool", &kind)),
            Some(_) | None => Ok(()),
        }
    })
}

const TYPED: &str = "an array of tools, each with a type";

/// Reads each tool, as written and by its fields.
fn each_tool<'a>(
    fields: &Fields<'a>,
    mut act: impl FnMut(&'a RawValue, &Map<'a>) -> Result<(), BadRequest>,
) -> Result<(), BadRequest> {
    let Some(tools) = fields.get("tools").filter(|tools| is_given(Some(*tools))) else { return Ok(()) };
    each("tools", tools, TYPED, |written| {
        let tool: Map<'_> = typed("tools", written, TYPED)?;
        tool.check(&["type", USES_MAX])?;
        act(written, &tool)
    })
}

fn uses_max(tool: &Map<'_>) -> Result<Option<u64>, BadRequest> {
    let given = optional("tools", tool.get(USES_MAX), "tools whose max_uses is a whole number")?;
    match given {
        Some(uses) if !(1..=SEARCHES_MAX).contains(&uses) => {
            Err(bad("tools", &format!("max_uses of web search must be from 1 to {SEARCHES_MAX}")))
        }
        fits => Ok(fits),
    }
}

/// Puts the bound in where there is none, at the `end` of the fields, or for null.
fn bound(fields: &Fields<'_>, null: Option<&RawValue>, name: &str, end: Range<usize>) -> Edit {
    match null {
        Some(null) => (fields.place(null), SEARCHES_DEFAULT.to_string().into_bytes()),
        None => (end, format!(",\"{name}\":{SEARCHES_DEFAULT}").into_bytes()),
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
