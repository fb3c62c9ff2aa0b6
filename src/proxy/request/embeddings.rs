//! `POST /v1/embeddings`: texts in, vectors out; only the input is billed.

use super::fields::{Fields, typed, wrong_type};
use super::{Asked, BadRequest, Streaming};
use crate::admit::Demand;
use crate::settle::price::{CachedFor, Tier};
use std::borrow::Cow;

/// Fields that decide about the charge.
const METERED: [&str; 2] = ["model", "input"];

/// Reads the fields of a request.
pub(super) fn read(fields: &Fields<'_>) -> Result<Asked, BadRequest> {
    fields.check(&METERED)?;
    let model: Cow<'_, str> = typed("model", fields.required("model")?, "a string")?;
    if !fields.required("input")?.get().starts_with(['"', '[']) {
        return Err(wrong_type("input", "a string, an array of strings, or tokens"));
    }
    let demand = Demand {
        model: model.into(),
        input_bytes: fields.bytes(),
        cached_for: CachedFor::Minutes,
        tier: Tier::Default,
        output_tokens_max: None,
        choices: 0,
        ..Demand::default()
    };
    Ok(Asked::of(demand, Streaming::Plain))
}
