//! The rules of hedging: which requests, and which of two attempts goes on. Pure.

use crate::config::Hedge;
use crate::endpoint::Endpoint;
use crate::proxy::forward::{Verdict, judge_429};
use crate::proxy::request::{Comes, Request};
use crate::upstream::health::Fault;
use std::time::Duration;

/// After how long without a first byte a request may be hedged, if it may.
///
/// Not what its provider keeps: of an answer that was given up nobody would know the name, to delete it. Nor
/// images and audio, which cost far more than they are waited for.
pub fn after(request: &Request, hedge: Hedge) -> Option<Duration> {
    let kept = &request.kept;
    if kept.answer || kept.run || kept.previous.is_some() {
        return None;
    }
    match request.endpoint {
        Endpoint::Chat
        | Endpoint::Responses
        | Endpoint::Messages
        | Endpoint::Completions
        | Endpoint::Embeddings
        | Endpoint::Moderations => {}
        Endpoint::ImageGenerations
        | Endpoint::ImageEdits
        | Endpoint::Speech
        | Endpoint::Transcriptions
        | Endpoint::Translations => return None,
    }
    match request.comes {
        Comes::Events => hedge.streamed,
        Comes::Json => hedge.whole,
        Comes::Audio => None,
    }
}

/// One of two attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runner {
    /// The one that went out first.
    First,
    /// The hedge.
    Second,
}

impl Runner {
    /// Which one the request goes on with, when this one has come first: one that failed wins nothing.
    pub fn or_other(self, came: Result<(), ()>) -> Runner {
        match (self, came) {
            (Runner::First, Ok(())) | (Runner::Second, Err(_)) => Runner::First,
            (Runner::Second, Ok(())) | (Runner::First, Err(_)) => Runner::Second,
        }
    }
}

/// Whether the beginning of an answer is one that the client can be given, or whose fault it is. A request that
/// its provider finds wrong is answered by that.
///
/// # Errors
/// When the account is at fault.
pub fn judge(verdict: Verdict, ahead: Option<&[u8]>, wait: Option<Duration>) -> Result<(), Fault> {
    match (verdict, ahead) {
        (Verdict::Plain | Verdict::Refusal, _) | (Verdict::Stream | Verdict::Audio, Some(_)) => Ok(()),
        // It ended before it began.
        (Verdict::Stream | Verdict::Audio, None) => Err(Fault::Broken),
        (Verdict::Judge, body) => Err(judge_429(body.unwrap_or_default(), wait)),
        (Verdict::Fault(fault), _) => Err(fault),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    const HEDGE: Hedge =
        Hedge { streamed: Some(Duration::from_millis(1)), whole: Some(Duration::from_millis(2)) };

    fn check(endpoint: Endpoint, body: &str, expect: Option<u64>) {
        let request = Request::read(endpoint, "application/json", &Bytes::from(body.to_owned())).unwrap();
        assert_eq!(after(&request, HEDGE), expect.map(Duration::from_millis), "{body}");
        assert_eq!(after(&request, Hedge::default()), None);
    }

    #[test]
    fn what_costs_little_and_is_kept_nowhere_is_hedged() {
        let chat = r#"{"model":"m","messages":[]"#;
        check(Endpoint::Chat, &format!("{chat}}}"), Some(2));
        check(Endpoint::Chat, &format!(r#"{chat},"stream":true}}"#), Some(1));
        check(Endpoint::Messages, &format!(r#"{chat},"max_tokens":5,"stream":true}}"#), Some(1));
        check(Endpoint::Completions, r#"{"model":"m","prompt":"a"}"#, Some(2));
        check(Endpoint::Embeddings, r#"{"model":"m","input":"a"}"#, Some(2));
        check(Endpoint::Moderations, r#"{"model":"m","input":"a"}"#, Some(2));
        let response = r#"{"model":"m","input":"a","store":false"#;
        check(Endpoint::Responses, &format!("{response}}}"), Some(2));
        check(Endpoint::Responses, &format!(r#"{response},"stream":true}}"#), Some(1));
        check(Endpoint::Responses, &format!(r#"{response},"previous_response_id":"resp_1"}}"#), None);
        check(Endpoint::Responses, r#"{"model":"m","input":"a"}"#, None);
        check(Endpoint::Responses, r#"{"model":"m","input":"a","background":true}"#, None);
        check(Endpoint::ImageGenerations, r#"{"model":"m","prompt":"a"}"#, None);
        check(Endpoint::Speech, r#"{"model":"m","input":"a","voice":"b"}"#, None);
    }

    #[test]
    fn the_first_good_beginning_wins() {
        use Runner::{First, Second};
        let bad = Err(());
        let goes_on = [(First, Ok(())), (Second, Ok(())), (First, bad), (Second, bad)]
            .map(|(runner, came)| runner.or_other(came));
        assert_eq!(goes_on, [First, Second, Second, First]);
    }

    #[test]
    fn a_beginning_is_good_when_its_client_can_be_given_it() {
        let piece = Some(&b"data"[..]);
        for (verdict, ahead) in [
            (Verdict::Plain, None),
            (Verdict::Refusal, None),
            (Verdict::Stream, piece),
            (Verdict::Audio, piece),
        ] {
            assert_eq!(judge(verdict, ahead, None), Ok(()), "{verdict:?}");
        }
        let wait = Some(Duration::from_secs(7));
        assert_eq!(judge(Verdict::Stream, None, None), Err(Fault::Broken));
        assert_eq!(judge(Verdict::Fault(Fault::Credential), piece, None), Err(Fault::Credential));
        assert_eq!(judge(Verdict::Judge, None, wait), Err(Fault::RateLimited(wait)));
        let empty = br#"{"error":{"type":"insufficient_quota"}}"#;
        assert_eq!(judge(Verdict::Judge, Some(empty), wait), Err(Fault::Quota));
    }
}
