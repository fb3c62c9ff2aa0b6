//! The file of a batch: one request a line, each read as it would be at its own endpoint.

use super::{BadRequest, MODEL_BYTES_MAX};
use crate::endpoint::Endpoint;
use memchr::memchr;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

/// The most requests of a batch, as OpenAI allows.
const LINES_MAX: usize = 50_000;
/// The longest name that a client gives a request of a batch.
const CUSTOM_ID_BYTES_MAX: usize = 512;
/// Where requests of a batch are served.
const ENDPOINTS: [Endpoint; 4] =
    [Endpoint::Chat, Endpoint::Responses, Endpoint::Completions, Endpoint::Embeddings];

/// One request of a batch.
#[derive(Debug)]
pub struct Line<'a> {
    /// Where it stands in the file, from 1.
    pub number: usize,
    /// What is asked, as it stands there.
    pub body: &'a RawValue,
}

/// What all requests of a file ask: OpenAI takes files of one model for one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Common {
    /// Where they are served.
    pub endpoint: Endpoint,
    /// Their model.
    pub model: Box<str>,
}

#[derive(Deserialize)]
struct Written<'a> {
    #[serde(borrow)]
    custom_id: Cow<'a, str>,
    method: Cow<'a, str>,
    url: Cow<'a, str>,
    body: &'a RawValue,
}

#[derive(Deserialize)]
struct Asks<'a> {
    #[serde(borrow)]
    model: Cow<'a, str>,
}

/// Where requests of a batch are served, by their path.
pub fn endpoint_at(url: &str) -> Option<Endpoint> {
    Endpoint::at(url).filter(|endpoint| ENDPOINTS.contains(endpoint))
}

/// Reads every line of a file, and what they have in common.
///
/// # Errors
/// What is wrong with the first line that is no request beside those before it, by its number.
pub fn read<'a>(
    file: &'a [u8],
    mut take: impl FnMut(Line<'a>) -> Result<(), BadRequest>,
) -> Result<Common, BadRequest> {
    let mut names: BTreeSet<Cow<'a, str>> = BTreeSet::new();
    let mut common: Option<Common> = None;
    let (mut rest, mut number) = (file, 0);
    while !rest.is_empty() {
        let end = memchr(b'\n', rest).unwrap_or(rest.len());
        let (line, after) = (rest[..end].trim_ascii(), rest.get(end + 1..).unwrap_or_default());
        (rest, number) = (after, number + 1);
        if line.is_empty() {
            continue;
        }
        if names.len() == LINES_MAX {
            return Err(wrong(number, &format_args!("a batch has at most {LINES_MAX} requests")));
        }
        let (custom_id, asks, line) = request(number, line).map_err(|why| wrong(number, &why))?;
        if !names.insert(custom_id) {
            return Err(wrong(number, &"its custom_id stands on a line above, too: give each its own"));
        }
        if *common.get_or_insert_with(|| asks.clone()) != asks {
            return Err(wrong(
                number,
                &"it asks another model or endpoint than the lines above: make a file for each",
            ));
        }
        take(line)?;
    }
    common.ok_or_else(|| BadRequest {
        message: "the file has no request: write one a line".into(),
        param: Some("file"),
    })
}

/// What is wrong with a line.
pub fn wrong(number: usize, why: &dyn fmt::Display) -> BadRequest {
    BadRequest { message: format!("line {number} of the file: {why}"), param: Some("file") }
}

fn request(number: usize, line: &[u8]) -> Result<(Cow<'_, str>, Common, Line<'_>), String> {
    let written: Written<'_> = serde_json::from_slice(line).map_err(|why| why.to_string())?;
    let Written { custom_id, method, url, body } = written;
    if !(1..=CUSTOM_ID_BYTES_MAX).contains(&custom_id.len()) {
        return Err(format!("its custom_id must have 1 to {CUSTOM_ID_BYTES_MAX} bytes"));
    }
    if method != "POST" {
        return Err("its method must be POST".into());
    }
    let endpoint = endpoint_at(&url).ok_or_else(|| {
        let paths = ENDPOINTS.map(|endpoint| format!("/v1{}", endpoint.path()));
        format!("its url must be one of {}", paths.join(", "))
    })?;
    let asks: Asks<'_> = serde_json::from_str(body.get()).map_err(|why| format!("its body: {why}"))?;
    if asks.model.len() > MODEL_BYTES_MAX {
        return Err("its body: no model has so long a name".into());
    }
    Ok((custom_id, Common { endpoint, model: asks.model.into() }, Line { number, body }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(custom_id: &str, url: &str, model: &str) -> String {
        format!(r#"{{"custom_id":"{custom_id}","method":"POST","url":"{url}","body":{{"model":"{model}"}}}}"#)
    }

    #[track_caller]
    fn check(file: &str, expect: Result<(&str, &[usize]), &str>) {
        let mut found = Vec::new();
        let read = read(file.as_bytes(), |line| {
            found.push(line.number);
            Ok(())
        });
        match (read, expect) {
            (Ok(common), Ok((model, lines))) => assert_eq!((&*common.model, &found[..]), (model, lines)),
            (Err(why), Err(expect)) => assert!(why.message.contains(expect), "{}", why.message),
            (read, expect) => panic!("{read:?}, not {expect:?}: {file}"),
        }
    }

    #[test]
    fn each_line_is_a_request_and_has_a_name_of_its_own() {
        let (one, two) = (line("1", "/v1/chat/completions", "a"), line("2", "/v1/chat/completions", "a"));
        check(&format!("{one}\r\n\n{two}"), Ok(("a", &[1, 3])));
        check(&format!("{one}\n{one}\n"), Err("line 2 of the file: its custom_id"));
        check(&format!("{one}\n{}\n", &two[1..]), Err("line 2 of the file: "));
        for other in [line("2", "/v1/chat/completions", "b"), line("2", "/v1/responses", "a")] {
            check(&format!("{one}\n{other}"), Err("line 2 of the file: it asks another model or endpoint"));
        }
        check("", Err("no request"));
        check("\n \n", Err("no request"));
        check(&one.replace("POST", "GET"), Err("line 1 of the file: its method"));
        check(&one.replace("\"1\"", "\"\""), Err("its custom_id must have"));
        check(&one.replace("chat/completions", "audio/speech"), Err("its url must be one of /v1/chat"));
        check(&one.replace("\"model\"", "\"Model\""), Err("its body: missing field `model`"));
        check(&one.replace("\"method\"", "\"url\":\"x\",\"method\""), Err("duplicate field `url`"));
    }
}
