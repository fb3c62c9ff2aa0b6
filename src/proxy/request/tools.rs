//! Tools that the provider runs: how often they may be called. A search has a price, and a container to run code
//! in; and the model reads what they find, so that no request goes out without a bound.

use super::fields::{Fields, Map, bad, is_given, optional, tool_not_sold, typed, whole};
use super::{BadRequest, Edit};
use crate::usage::Class;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Calls where the client sets no bound: it is put in then.
const CALLS_DEFAULT: u64 = 5;
/// The highest bound that a client may set.
const CALLS_LIMIT: u64 = 100;
/// The container that has the price of one: larger ones cost more.
const MEMORY: &str = "1g";

/// Where a response says how often tools may be called that the provider runs.
pub(super) const CALLS_MAX: &str = "max_tool_calls";
/// Where a tool of a message says how often it may be used.
const USES_MAX: &str = "max_uses";
/// How the type of that tool begins: a date follows.
const TOOL: &str = "web_search_";

impl BadRequest {
    /// The model is not sold with the tool of which this is charged.
    pub fn tool_unsold(class: Class) -> Self {
        let tool = if class == Class::Containers { "the code interpreter" } else { "web search" };
        bad("tools", &format!("{tool} is not sold with this model: leave it out, or choose another model"))
    }
}

/// How many calls a response may have of tools that the provider runs.
pub(super) fn of_response(fields: &Fields<'_>) -> Result<u64, BadRequest> {
    Ok(whole(CALLS_MAX, fields.get(CALLS_MAX), CALLS_LIMIT)?.unwrap_or(CALLS_DEFAULT))
}

/// What bounds the calls of a response where the client did not.
pub(super) fn bound_response(fields: &Fields<'_>) -> Vec<Edit> {
    match fields.get(CALLS_MAX) {
        given if is_given(given) => Vec::new(),
        Some(null) => vec![(fields.place(null), CALLS_DEFAULT.to_string().into_bytes())],
        None => vec![(fields.end(), format!(",\"{CALLS_MAX}\":{CALLS_DEFAULT}").into_bytes())],
    }
}

/// Lets a container pass that the provider makes anew, of the size that has a price, with nothing in it.
pub(super) fn check_container(container: Option<&RawValue>) -> Result<(), BadRequest> {
    let asked = container.and_then(|container| serde_json::from_str::<Container<'_>>(container.get()).ok());
    let sold = asked.is_some_and(|asked| {
        let of_size = asked.memory_limit.is_none_or(|memory| memory == MEMORY);
        asked.kind == "auto" && of_size && asked.file_ids.is_none_or(|files| files.is_empty())
    });
    let why = "the container of a code interpreter must be {\"type\": \"auto\"}, of 1g and without files";
    if sold { Ok(()) } else { Err(bad("tools", why)) }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Container<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    memory_limit: Option<Cow<'a, str>>,
    file_ids: Option<Vec<IgnoredAny>>,
}

/// How many searches a message may run. Its tools are those that are `known`, those without a type, which the
/// client runs itself, and web search.
pub(super) fn of_message(fields: &Fields<'_>, known: &[&str]) -> Result<u64, BadRequest> {
    let mut searches = 0;
    for tool in tools(fields)? {
        match tool.kind()? {
            Some(kind) if kind.starts_with(TOOL) => searches += tool.uses_max()?.unwrap_or(CALLS_DEFAULT),
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
            Some(null) => (fields.place(null), CALLS_DEFAULT.to_string().into_bytes()),
            None => {
                let end = fields.place(tool.written).end - 1;
                (end..end, format!(",\"{USES_MAX}\":{CALLS_DEFAULT}").into_bytes())
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
            Some(uses) if !(1..=CALLS_LIMIT).contains(&uses) => {
                Err(bad("tools", &format!("max_uses of web search must be from 1 to {CALLS_LIMIT}")))
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
