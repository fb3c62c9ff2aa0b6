//! Moderations: what the text may be objected to. There is no usage.

use super::{Part, Unreadable, object};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// Reads an answer.
///
/// # Errors
/// When it is not one.
pub(super) fn read(json: &[u8]) -> Result<Part, Unreadable> {
    let answer: Answer = object(json)?;
    match answer.error {
        Some(IgnoredAny) => Ok(Part::Error),
        None => answer.results.map(|IgnoredAny| Part::Ordinary).ok_or(Unreadable),
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    results: Option<IgnoredAny>,
    error: Option<IgnoredAny>,
}
