//! `POST /v1/images/generations` and `/v1/images/edits`: images made, from a text and from others.

use super::fields::{bad, is_given, not_sold};
use super::values::Values;
use super::{Asked, BadRequest, Streaming};
use crate::admit::{Demand, Work};
use crate::endpoint::Endpoint;
use crate::settle::price::Picture;
use serde_json::value::RawValue;
use std::collections::HashMap;

/// Fields that decide about the charge.
const METERED: [&str; 11] = [
    "model",
    "prompt",
    "n",
    "stream",
    "image",
    "image[]",
    "images",
    "mask",
    "partial_images",
    "size",
    "quality",
];
/// The most images of one request, as OpenAI allows.
const IMAGES_MAX: u64 = 10;

/// Reads the fields of a request.
pub(super) fn read(endpoint: Endpoint, values: &Values<'_>) -> Result<Asked, BadRequest> {
    values.check(&METERED)?;
    // It has a second model make the drawing.
    if values.is_given("svg") {
        return Err(not_sold("svg", "this is"));
    }
    values.required("prompt")?;
    let given = match values {
        Values::Json(fields) => referred(fields.get("images"))? + u64::from(is_given(fields.get("mask"))),
        Values::Form(_) => u64::try_from(values.files().count()).expect("usize fits"),
    };
    if endpoint == Endpoint::ImageEdits && given == 0 {
        return Err(bad("image", "you must provide an image"));
    }
    let (size, quality) = (values.string("size")?, values.string("quality")?);
    let demand = Demand {
        picture: Picture::said(size.as_deref(), quality.as_deref()),
        model: values.required("model")?.into(),
        input_bytes: values.text_bytes(),
        images: given,
        choices: values.whole("n", IMAGES_MAX)?.unwrap_or(1),
        work: Work::Images,
        ..Demand::default()
    };
    let stream = if values.switch("stream")? { Streaming::Events(None) } else { Streaming::Plain };
    // Each would tell a usage of its own.
    if matches!(stream, Streaming::Events(_)) && demand.choices > 1 {
        return Err(bad("n", "must be 1 where the answer is streamed"));
    }
    Ok(Asked::of(demand, stream))
}

/// How many images are given or referred to, none of them by a file of the account's.
fn referred(images: Option<&RawValue>) -> Result<u64, BadRequest> {
    let Some(images) = images.filter(|images| is_given(Some(images))) else { return Ok(0) };
    let fault = |_| bad("images", "must be an array of objects with an image_url");
    let images: Vec<HashMap<String, &RawValue>> = serde_json::from_str(images.get()).map_err(fault)?;
    if images.iter().any(|image| image.contains_key("file_id")) {
        return Err(not_sold("images", "a file of the account is"));
    }
    Ok(u64::try_from(images.len()).expect("usize fits"))
}
