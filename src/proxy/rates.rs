//! The caller's own rates, as headers of an answer.

use crate::admit::gate::{Passed, Rate};
use crate::clock::Tick;
use pingora_http::ResponseHeader;

/// Tells the caller's own rates, as OpenAI does.
///
/// # Errors
/// When a header cannot be made: a bug.
pub fn tell(header: &mut ResponseHeader, passed: &Passed, now: Tick) -> pingora::Result<()> {
    const NAMES: [(Rate, [&str; 3]); 2] = [
        (
            Rate::Requests,
            ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"],
        ),
        (
            Rate::Tokens,
            ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"],
        ),
    ];
    for (rate, [limit, remaining, reset]) in NAMES {
        if let Some(told) = passed.told(rate, now) {
            header.insert_header(limit, told.limit)?;
            header.insert_header(remaining, told.remaining)?;
            header.insert_header(reset, duration_text(told.reset_us))?;
        }
    }
    Ok(())
}

/// A duration as OpenAI writes it: `6m0s`, `1s`, `20ms`.
fn duration_text(us: u64) -> String {
    let ms = us.div_ceil(1_000);
    match (ms / 60_000, ms % 60_000) {
        (0, ms) if ms < 1_000 => format!("{ms}ms"),
        (0, ms) => format!("{}s", ms.div_ceil(1_000)),
        (minutes, ms) => format!("{minutes}m{}s", ms / 1_000),
    }
}
