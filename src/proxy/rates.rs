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

/// A duration as OpenAI writes it: `6m0s`, `1s`, `8.64s`, `20ms`. Up to a millisecond longer, never shorter.
fn duration_text(us: u64) -> String {
    let ms = us.div_ceil(1_000);
    let (minutes, ms) = (ms / 60_000, ms % 60_000);
    if minutes == 0 && ms < 1_000 {
        return format!("{ms}ms");
    }
    let places = format!("{:03}", ms % 1_000);
    let places = places.trim_end_matches('0');
    let point = if places.is_empty() { "" } else { "." };
    let minutes = if minutes == 0 { String::new() } else { format!("{minutes}m") };
    format!("{minutes}{}{point}{places}s", ms / 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_written_as_clients_read_it() {
        let check = |us: u64, expect: &str| assert_eq!(duration_text(us), expect, "{us}");
        check(0, "0ms");
        check(1, "1ms");
        check(20_000, "20ms");
        check(999_000, "999ms");
        check(999_001, "1s");
        check(8_640_000, "8.64s");
        check(59_999_001, "1m0s");
        check(61_500_000, "1m1.5s");
        check(360_000_000, "6m0s");
        check(3_600_000_000, "60m0s");
    }
}
