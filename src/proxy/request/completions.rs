//! `POST /v1/completions`: prompts in, `n` continuations of each out.

use super::fields::{Fields, bad, typed, whole, wrong_type};
use super::{Asked, BadRequest, CHOICES_MAX, OUTPUT_TOKENS_MAX, streaming, tier};
use crate::admit::Demand;
use crate::settle::price::CachedFor;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Fields that decide about the charge.
const METERED: [&str; 8] =
    ["model", "prompt", "stream", "stream_options", "max_tokens", "n", "best_of", "service_tier"];
/// The most prompts of one request, as OpenAI allows for a batch of embeddings.
const PROMPTS_MAX: usize = 2_048;

/// Reads the fields of a request.
pub(super) fn read(fields: &Fields<'_>) -> Result<Asked, BadRequest> {
    fields.check(&METERED)?;
    let model: Cow<'_, str> = typed("model", fields.required("model")?, "a string")?;
    let prompts = count_prompts(fields.required("prompt")?)?;
    let count = |name| whole(name, fields.get(name), CHOICES_MAX).map(|count| count.unwrap_or(1));
    let demand = Demand {
        model: model.into(),
        input_bytes: fields.bytes(),
        cached_for: CachedFor::Minutes,
        tier: tier(fields)?,
        output_tokens_max: whole("max_tokens", fields.get("max_tokens"), OUTPUT_TOKENS_MAX)?,
        // All that are tried are billed, not only the best.
        choices: prompts * count("n")?.max(count("best_of")?),
        ..Demand::default()
    };
    Ok(Asked::of(demand, streaming(fields)?))
}

/// A text, a list of tokens, or a list of either.
fn count_prompts(prompt: &RawValue) -> Result<u64, BadRequest> {
    const EXPECTED: &str = "a string, an array of strings, or tokens";
    if prompt.get().starts_with('"') {
        return Ok(1);
    }
    let several: Vec<&RawValue> = typed("prompt", prompt, EXPECTED)?;
    let starts = |prompt: &RawValue, with: fn(char) -> bool| prompt.get().starts_with(with);
    if several.iter().all(|token| starts(token, |c| c.is_ascii_digit())) {
        return Ok(1);
    }
    if !several.iter().all(|prompt| starts(prompt, |c| c == '"' || c == '[')) {
        return Err(wrong_type("prompt", EXPECTED));
    }
    match several.len() {
        count if count <= PROMPTS_MAX => Ok(u64::try_from(count).expect("small")),
        _ => Err(bad("prompt", &format!("must not be more than {PROMPTS_MAX} prompts"))),
    }
}
