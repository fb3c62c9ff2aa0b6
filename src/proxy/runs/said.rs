//! What a provider says of a run, read from its bytes.

use crate::endpoint::Endpoint;
use crate::meter::{BodyMeter, Delivered, Reading, Reported, Shape};
use crate::settle::price::Tier;
use crate::usage::Usage;
use bytes::Bytes;

/// What a provider says of a run.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// It is at work, or what is said cannot be read: it is asked again.
    AtWork,
    /// It has ended and used this.
    Used { usage: Usage, tier: Option<Tier>, reported: Box<str> },
    /// It has ended and wrote this; what it used is not said, or cannot be believed.
    Delivered { delivered: Delivered, tier: Option<Tier> },
    /// It has ended, and nothing is there that could be charged: why, in a word for its receipt.
    Nothing(&'static str),
}

/// What is said of a response.
pub(super) fn of_response(body: &Bytes) -> Said {
    let mut meter = BodyMeter::of_text(Endpoint::Responses);
    // What was fetched fits.
    let _ = meter.feed(body);
    let Reading { shape, usage, tier, at_work, delivered, .. } = meter.end().1;
    match (shape, usage) {
        _ if at_work => Said::AtWork,
        (Shape::Garbage | Shape::Cut | Shape::Finished, _) => Said::AtWork,
        (Shape::Complete, Some(Reported { raw, usage: Ok(usage) })) => {
            Said::Used { usage, tier, reported: raw }
        }
        (Shape::Complete, _) if delivered.events > 0 => Said::Delivered { delivered, tier },
        (Shape::Complete, _) => Said::Nothing("untold"),
        (Shape::Failed, _) => Said::Nothing("failed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(fields: &str, expect: &Said) {
        let body = Bytes::from(format!(r#"{{"id":"resp_1","object":"response",{fields}}}"#));
        assert_eq!(of_response(&body), *expect, "{fields}");
    }

    #[test]
    fn a_run_tells_how_it_stands_with_it() {
        const USAGE: &str = r#"{"input_tokens":5,"output_tokens":3,"total_tokens":8}"#;
        const ABSURD: &str = r#"{"input_tokens":-5,"output_tokens":3,"total_tokens":8}"#;
        const WROTE: &str =
            r#""output":[{"type":"message","content":[{"type":"output_text","text":"one two"}]}]"#;
        let usage = Usage { input: 5, output: 3, ..Usage::default() };
        let used = || Said::Used { usage, tier: None, reported: USAGE.into() };
        for status in ["queued", "in_progress"] {
            // Some tell what was used so far.
            check(&format!(r#""status":"{status}","output":[],"usage":{USAGE}"#), &Said::AtWork);
            check(&format!(r#""status":"{status}","output":[],"usage":null"#), &Said::AtWork);
        }
        for status in ["completed", "incomplete", "cancelled"] {
            check(&format!(r#""status":"{status}","output":[],"usage":{USAGE}"#), &used());
        }
        check(&format!(r#""status":"failed","error":{{"code":"server_error"}},"usage":{USAGE}"#), &used());
        check(r#""status":"failed","error":{"code":"server_error"},"usage":null"#, &Said::Nothing("failed"));
        check(r#""status":"cancelled","output":[],"usage":null"#, &Said::Nothing("untold"));
        for told in ["null", ABSURD] {
            let delivered = Delivered { text: "one two".into(), bytes: 7, events: 1, ..Delivered::default() };
            let wrote = Said::Delivered { delivered, tier: Some(Tier::Flex) };
            check(&format!(r#""status":"cancelled","service_tier":"flex",{WROTE},"usage":{told}"#), &wrote);
        }
        // Searches were run, of which there is no word.
        let searched = r#""output":[{"type":"web_search_call","status":"completed"}]"#;
        let delivered = Delivered { events: 1, searches: 1, ..Delivered::default() };
        let ran = Said::Delivered { delivered, tier: None };
        check(&format!(r#""status":"cancelled",{searched},"usage":null"#), &ran);
        assert_eq!(of_response(&Bytes::from_static(b"<html>")), Said::AtWork);
        assert_eq!(of_response(&Bytes::new()), Said::AtWork);
    }
}
