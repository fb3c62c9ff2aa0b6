//! Embeddings: a list of vectors, as numbers or as base64, and how much input was read.

use super::super::reading::Tally;
use super::{Part, Unreadable, object};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

/// Reads an answer.
///
/// # Errors
/// When it is not one.
pub(super) fn read(json: &[u8], tally: &mut Tally) -> Result<Part, Unreadable> {
    let answer: Answer<'_> = object(json)?;
    if let Some(usage) = answer.usage {
        tally.usage(usage.get());
    }
    if answer.error.is_some() {
        return Ok(Part::Error);
    }
    // No text, but something that has its price.
    answer.data.ok_or(Unreadable)?;
    tally.delivered.events = 1;
    Ok(Part::Ordinary)
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer<'a> {
    data: Option<IgnoredAny>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    error: Option<IgnoredAny>,
}
