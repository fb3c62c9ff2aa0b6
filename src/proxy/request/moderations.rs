//! `POST /v1/moderations`: texts and images in, objections out. Free of charge.

use super::fields::{Fields, optional};
use super::{Asked, BadRequest, Streaming};
use crate::admit::Demand;
use crate::settle::price::{CachedFor, Tier};
use std::borrow::Cow;

/// What the provider takes where a request names no model.
pub(super) const MODEL_DEFAULT: &str = "omni-moderation-latest";

/// Reads the fields of a request.
pub(super) fn read(fields: &Fields<'_>) -> Result<Asked, BadRequest> {
    fields.check(&["model", "input"])?;
    fields.required("input")?;
    let model: Option<Cow<'_, str>> = optional("model", fields.get("model"), "a string")?;
    let model = model.map_or_else(|| MODEL_DEFAULT.into(), Into::into);
    let (cached_for, tier) = (CachedFor::Minutes, Tier::Default);
    let demand = Demand {
        model,
        input_bytes: 0,
        cached_for,
        tier,
        output_tokens_max: None,
        choices: 0,
        ..Demand::default()
    };
    Ok(Asked::of(demand, Streaming::Plain))
}
