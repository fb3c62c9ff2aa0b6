//! What is asked of a batch, and the requests in its file: each judged as it would be at its endpoint.

use super::fields::{Fields, Map, bad, not_served, optional, wrong_type};
use super::lines::{self, Line, endpoint_at};
use super::{BadRequest, Request, is_object_id};
use crate::admit::estimate;
use crate::endpoint::Endpoint;
use crate::money::Amount;
use crate::settle::price::{ModelPrice, Rates, Tariff, Tier};
use bytes::Bytes;
use std::borrow::Cow;

/// Fields that mean something to us, or to the provider and cost nothing.
const FIELDS: [&str; 5] =
    ["input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after"];

/// A batch that is asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch {
    /// The file with its requests.
    pub file: Box<str>,
    /// Where each of them is served.
    pub endpoint: Endpoint,
}

impl Batch {
    /// Reads a body.
    ///
    /// # Errors
    /// When it does not say which batch, or asks for what is not known.
    pub fn read(body: &[u8]) -> Result<Self, BadRequest> {
        let fields = Fields::read(body)?;
        if let Some(other) = fields.names().find(|name| !FIELDS.contains(name)) {
            let other: String = other.chars().take(40).collect();
            return Err(not_served(&format_args!("`{other}` is not known: leave it out")));
        }
        let text = |name: &'static str| -> Result<Cow<'_, str>, BadRequest> {
            let value: Option<Cow<'_, str>> = optional(name, Some(fields.required(name)?), "a string")?;
            value.ok_or_else(|| wrong_type(name, "a string"))
        };
        let (file, endpoint) = (text("input_file_id")?, text("endpoint")?);
        text("completion_window")?;
        let _: Option<Map<'_>> = optional("metadata", fields.get("metadata"), "an object")?;
        if !is_object_id(&file) {
            return Err(bad("input_file_id", "must be the id of a file"));
        }
        let endpoint = endpoint_at(&endpoint).ok_or_else(|| bad("endpoint", "is not served in batches"))?;
        Ok(Batch { file: file.into(), endpoint })
    }
}

/// What the requests of a file may cost together.
///
/// # Errors
/// What is wrong with the first that would be refused, by its number.
pub fn charge_max(file: &Bytes, endpoint: Endpoint, price: &ModelPrice) -> Result<Amount, BadRequest> {
    let price = at_batch(price).ok_or_else(|| {
        let message = "input_file_id: the model of this file is not sold in batches".into();
        BadRequest { message, param: Some("input_file_id") }
    })?;
    let mut most = Amount::ZERO;
    let common = lines::read(file, |Line { number, body }| {
        let body = file.slice_ref(body.get().as_bytes());
        let read = Request::read(endpoint, "application/json", &body);
        let request = read.map_err(|why| lines::wrong(number, &why.message))?;
        let refused = if request.stream.is_some() {
            Some("stream: a request of a batch is not streamed")
        } else if request.kept.previous.is_some() || request.kept.run {
            Some("a request of a batch goes on from nothing, and not in the background")
        } else if request.demand.searches > 0 {
            Some("tools: web search is not sold in batches: leave it out")
        } else if request.demand.tier != Tier::Default {
            Some("service_tier: a batch has one of its own: leave it out")
        } else {
            None
        };
        if let Some(why) = refused {
            return Err(lines::wrong(number, &why));
        }
        let charge = estimate::charge_max(&request.demand, &price);
        most += charge.map_err(|_| lines::wrong(number, &"the model is not sold at this endpoint"))?;
        Ok(())
    })?;
    match common.endpoint == endpoint {
        true => Ok(most),
        false => Err(bad("endpoint", "must be the url of the requests in the file")),
    }
}

/// The prices of a batch alone: nothing else is charged for one.
fn at_batch(price: &ModelPrice) -> Option<ModelPrice> {
    let default: Rates = price.price.batch.clone()?;
    let tariff = Tariff { default, flex: None, priority: None, batch: None };
    Some(ModelPrice { price: tariff, ..price.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::UnitPrice;
    use crate::settle::price::{Encoding, Reasoning, UnitPrices};
    use crate::usage::Unit;

    fn price(batch: Option<&str>) -> ModelPrice {
        let rates = |output: &str| {
            let output = UnitPrice::parse_per_million(output).unwrap();
            Rates { unit: UnitPrices { output, ..UnitPrices::default() }, ..Rates::default() }
        };
        ModelPrice {
            price: Tariff { default: rates("2"), flex: None, priority: None, batch: batch.map(rates) },
            sold_by: Unit::Token,
            cost: None,
            max_output_tokens: Some(1_000),
            max_input_tokens: None,
            encoding: Encoding::O200kBase,
            hidden_reasoning: Reasoning::None,
        }
    }

    fn line(custom_id: u32, more: &str) -> String {
        format!(
            r#"{{"custom_id":"{custom_id}","method":"POST","url":"/v1/chat/completions","body":{{"model":"m","messages":[]{more}}}}}"#
        )
    }

    #[track_caller]
    fn check(lines: &[String], endpoint: Endpoint, batch: Option<&str>, expect: Result<&str, &str>) {
        let file = Bytes::from(lines.join("\n"));
        let most = charge_max(&file, endpoint, &price(batch)).map(|most| most.to_string());
        match (most, expect) {
            (Err(bad), Err(expect)) => assert!(bad.message.contains(expect), "{}", bad.message),
            (most, expect) => assert_eq!(most.as_deref().map_err(|bad| &*bad.message), expect),
        }
    }

    #[test]
    fn the_most_is_that_of_each_line_at_the_prices_of_batches() {
        let lines = [line(1, ""), line(2, r#","max_tokens":500,"n":2"#), line(3, r#","max_tokens":16"#)];
        // 1,000 and 2 x 500 and 16 x 1 for a million
        check(&lines, Endpoint::Chat, Some("1"), Ok("0.002016"));
        check(&lines, Endpoint::Chat, None, Err("not sold in batches"));
        check(&lines, Endpoint::Embeddings, Some("1"), Err("line 1 of the file"));
        for (more, expect) in [
            (r#","stream":true"#, "line 2 of the file: stream"),
            (r#","service_tier":"flex""#, "line 2 of the file: service_tier"),
            (r#","max_tokens":"1""#, "line 2 of the file: max_tokens"),
            (r#","web_search_options":{}"#, "line 2 of the file: "),
        ] {
            check(&[line(1, ""), line(2, more)], Endpoint::Chat, Some("1"), Err(expect));
        }
        let searches = line(1, r#","tools":[{"type":"web_search"}]"#);
        let searches = searches.replace("chat/completions", "responses").replace("messages", "input");
        check(&[searches], Endpoint::Responses, Some("1"), Err("web search is not sold in batches"));
    }

    #[test]
    fn a_batch_says_which_file_and_where_it_is_served() {
        let read = |text: &str| Batch::read(text.as_bytes()).map_err(|bad| bad.message);
        let good = r#"{"input_file_id":"file-1","endpoint":"/v1/embeddings","completion_window":"24h"}"#;
        assert_eq!(read(good), Ok(Batch { file: "file-1".into(), endpoint: Endpoint::Embeddings }));
        let metadata = good.replace('}', r#","metadata":{"a":"b"}}"#);
        assert_eq!(read(&metadata), read(good));
        for (from, to, expect) in [
            ("file-1", "../x", "id of a file"),
            ("\"file-1\"", "null", "must be a string"),
            ("embeddings", "images/edits", "not served in batches"),
            (r#""completion_window":"24h""#, r#""x":1"#, "`x` is not known"),
            (r#","completion_window":"24h""#, "", "you must provide completion_window"),
        ] {
            let told = read(&good.replace(from, to)).unwrap_err();
            assert!(told.contains(expect), "{told}");
        }
    }
}
