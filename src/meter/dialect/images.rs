//! Images: the plain answer with all of them, and the events of a stream, the last of which has the
//! image and the usage.

use super::super::reading::{self, Tally};
use super::usage::{Absurd, Field, count, details, object as usage_object, required};
use super::{Part, Unreadable, object};
use crate::settle::price::Picture;
use crate::usage::Usage;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Reads an answer or an event.
///
/// # Errors
/// When it is not one.
pub(super) fn read(json: &[u8], tally: &mut Tally) -> Result<Part, Unreadable> {
    let answer: Answer<'_> = object(json)?;
    if let Some(usage) = answer.usage {
        tally.usage(usage.get());
    }
    let told = Picture::said(answer.size.as_deref(), answer.quality.as_deref());
    tally.picture = told.or(std::mem::take(&mut tally.picture));
    let kind = answer.kind.as_deref();
    if answer.error.is_some() || kind == Some("error") {
        return Ok(Part::Error);
    }
    match (kind, answer.data) {
        (Some(kind), _) => {
            let whole = kind.ends_with(".completed");
            let image = whole || kind.ends_with(".partial_image");
            tally.delivered.events += u64::from(image);
            tally.delivered.images += u64::from(whole);
            Ok(if whole { Part::Last } else { Part::Ordinary })
        }
        (None, Some(data)) => {
            tally.delivered.events = u64::from(!data.is_empty());
            tally.delivered.images = reading::count(data.len());
            Ok(Part::Ordinary)
        }
        (None, None) => Err(Unreadable),
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    data: Option<Vec<IgnoredAny>>,
    #[serde(borrow)]
    size: Option<Cow<'a, str>>,
    #[serde(borrow)]
    quality: Option<Cow<'a, str>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    error: Option<IgnoredAny>,
}

/// Reads a usage object. What is written is images, but for what is told to be text.
///
/// # Errors
/// When it is not an object, lacks a total, or has a count that cannot be believed.
pub(super) fn usage(json: &str) -> Result<Usage, Absurd> {
    let totals: Totals<'_> = usage_object(Field::Usage, json)?;
    let input = required(Field::InputTokens, totals.input_tokens)?;
    let output = required(Field::OutputTokens, totals.output_tokens)?;
    let read: Details<'_> = details(Field::ImageTokens, totals.input_tokens_details)?;
    let written: Details<'_> = details(Field::ImageTokens, totals.output_tokens_details)?;
    let cached = count(Field::CachedTokens, read.cached_tokens)?.unwrap_or(0).min(input);
    let image_input = count(Field::ImageTokens, read.image_tokens)?.unwrap_or(0).min(input - cached);
    let text = count(Field::TextTokens, written.text_tokens)?.unwrap_or(0).min(output);
    let usage = Usage {
        input: input - cached - image_input,
        cached_input: cached,
        image_input,
        output: text,
        image_output: output - text,
        ..Usage::default()
    };
    assert_eq!(usage.tokens(), input + output, "classes add up to the reported totals");
    Ok(usage)
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Totals<'a> {
    #[serde(borrow)]
    input_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    output_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    input_tokens_details: Option<&'a RawValue>,
    #[serde(borrow)]
    output_tokens_details: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Details<'a> {
    #[serde(borrow)]
    cached_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    image_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    text_tokens: Option<&'a RawValue>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::dialect::random::Random;

    fn check(json: &str, expected: [u64; 5]) {
        let u = usage(json).expect(json);
        assert_eq!([u.input, u.cached_input, u.image_input, u.output, u.image_output], expected, "{json}");
    }

    #[test]
    fn text_and_images_are_told_apart() {
        check(r#"{"input_tokens":50,"output_tokens":1056,"total_tokens":1106}"#, [50, 0, 0, 0, 1056]);
        check(
            r#"{"input_tokens":350,"input_tokens_details":{"text_tokens":27,"image_tokens":323},"output_tokens":10,"output_tokens_details":{"image_tokens":4,"text_tokens":6}}"#,
            [27, 0, 323, 6, 4],
        );
        check(
            r#"{"input_tokens":5,"input_tokens_details":{"image_tokens":9,"cached_tokens":2},"output_tokens":1,"output_tokens_details":{"text_tokens":7}}"#,
            [0, 2, 3, 1, 0],
        );
        assert!(usage(r#"{"input_tokens":1}"#).is_err() && usage("[]").is_err());
    }

    #[test]
    fn classes_add_up_whatever_is_reported() {
        let mut random = Random::default();
        for _ in 0..10_000 {
            let [input, output, image, cached, text] = random.counts();
            let read = usage(&format!(
                r#"{{"input_tokens":{input},"output_tokens":{output},
                    "input_tokens_details":{{"image_tokens":{image},"cached_tokens":{cached}}},
                    "output_tokens_details":{{"text_tokens":{text}}}}}"#
            ))
            .expect("in bounds");
            assert_eq!(read.input_total(), input);
            assert_eq!((read.output + read.image_output, read.output), (output, text.min(output)));
        }
    }
}
