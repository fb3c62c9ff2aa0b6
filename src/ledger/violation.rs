//! Violations of the operator's content policy, as evidence: which category, how surely, in which request,
//! and a keyed digest of it. Never the text.

use super::codec::{self, CodecError};
use crate::id::RequestId;
use std::fmt;
use std::sync::Arc;

/// One violation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// In which request.
    pub request: RequestId,
    /// Of which category.
    pub category: Arc<str>,
    /// How surely, in millionths.
    pub score_ppm: u32,
    /// What became of the request.
    pub outcome: Reaction,
    /// By which the same text is known again, for who has the secret of the store.
    pub digest: [u8; 16],
}

/// What became of a request in violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// It was served.
    Observed,
    /// It was refused.
    Refused,
    /// It was served, and this is about its answer.
    Answered,
}

impl Reaction {
    /// The word used in statements.
    pub const fn name(self) -> &'static str {
        match self {
            Reaction::Observed => "observed",
            Reaction::Refused => "refused",
            Reaction::Answered => "answered",
        }
    }
}

/// All of it but the request, for statements.
impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, millionths) = (self.score_ppm / 1_000_000, self.score_ppm % 1_000_000);
        write!(f, "{} {whole}.{millionths:06} {}, digest ", self.category, self.outcome.name())?;
        self.digest.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The tag of a violation among the kinds of change.
pub(super) const TAG: u8 = 31;

/// Appends the bytes of a violation.
pub(super) fn put(out: &mut Vec<u8>, violation: &Violation) {
    let Violation { request, category, score_ppm, outcome, digest } = violation;
    codec::put(out, request.int().to_le_bytes());
    codec::put_bytes(out, category.as_bytes());
    codec::put(out, score_ppm.to_le_bytes());
    out.push(match outcome {
        Reaction::Observed => 1,
        Reaction::Refused => 2,
        Reaction::Answered => 3,
    });
    codec::put(out, *digest);
}

/// Reads a violation off the front.
pub(super) fn take(input: &mut &[u8]) -> Result<Violation, CodecError> {
    let request = RequestId::from_int(u128::from_le_bytes(codec::take(input)?));
    let (category, score_ppm) = (codec::take_text(input)?, u32::from_le_bytes(codec::take(input)?));
    let outcome = match codec::take::<1>(input)? {
        [1] => Reaction::Observed,
        [2] => Reaction::Refused,
        [3] => Reaction::Answered,
        [other] => return Err(CodecError::UnknownTag(other)),
    };
    Ok(Violation { request, category, score_ppm, outcome, digest: codec::take(input)? })
}
