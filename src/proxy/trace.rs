//! W3C trace context: a client's `traceparent` is taken up and passed on, with this request as a
//! span of its own. <https://www.w3.org/TR/trace-context/>

use crate::admit::rate::{Bucket, PerMinute};
use crate::clock::Tick;
use crate::config::Traces;
use crate::id::RequestId;
use crate::record::access::Span;
use http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use pingora::Result;
use pingora_http::RequestHeader;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// The flag of a trace that is exported.
const SAMPLED: u8 = 1;
/// The longest state that has to be passed on.
const TRACESTATE_BYTES_MAX: usize = 512;

/// The trace that a request is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    id: u128,
    /// The client's span, unless the trace begins here.
    parent: Option<u64>,
    flags: u8,
    state: Option<HeaderValue>,
    export: Export,
}

/// Whether a collector is told of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Export {
    No,
    /// Its client asks for that, and may be anybody.
    Asked,
    Yes,
}

/// How many requests were exported lately because their clients asked for that.
#[derive(Default)]
pub struct AskedFor(Mutex<Bucket>);

impl Trace {
    /// The trace that the client is in, which asks itself to be exported. One that is not valid is
    /// as none: a request without one may begin one, as often as `traces` says.
    pub fn of(headers: &HeaderMap, traces: Option<&Traces>) -> Option<Trace> {
        let said = headers.get(TRACEPARENT).and_then(|said| read(said.to_str().ok()?));
        let Some((id, parent, flags)) = said else { return Trace::begin(traces?) };
        let state = headers.get(TRACESTATE).filter(|state| state.len() <= TRACESTATE_BYTES_MAX).cloned();
        let export = if traces.is_some() && flags & SAMPLED != 0 { Export::Asked } else { Export::No };
        Some(Trace { id, parent: Some(parent), flags, state, export })
    }

    fn begin(traces: &Traces) -> Option<Trace> {
        let takes = match traces.sample_one_in {
            0 => false,
            one_in => fastrand::u32(..one_in) == 0,
        };
        let id = fastrand::u128(1..);
        takes.then_some(Trace { id, parent: None, flags: SAMPLED, state: None, export: Export::Yes })
    }

    /// Its client is known, and heard if it asks to be exported; all together as often as `traces` says.
    pub fn is_of_caller(&mut self, traces: Option<&Traces>, before: &AskedFor, now: Tick) {
        if let (Export::Asked, Some(traces)) = (self.export, traces) {
            let taken = before.0.lock().take(1, PerMinute(traces.asked_per_minute), now);
            self.export = if taken.is_ok() { Export::Yes } else { Export::No };
        }
    }

    /// Whether a collector is told of this request.
    pub fn is_exported(&self) -> bool {
        self.export == Export::Yes
    }

    /// Its id.
    pub fn id(&self) -> u128 {
        self.id
    }

    /// The client's span, unless the trace begins here.
    pub fn parent(&self) -> Option<u64> {
        self.parent
    }

    /// This request in it.
    pub fn span(&self, request: RequestId) -> Span {
        Span { trace_id: format!("{:032x}", self.id), span_id: format!("{:016x}", span_id(request)) }
    }

    /// Makes the provider's work a child of this request, or of its attempt where that is a span, too.
    pub fn pass_on(&self, header: &mut RequestHeader, request: RequestId, attempt: u32) -> Result<()> {
        let span = if self.is_exported() { attempt_span_id(request, attempt) } else { span_id(request) };
        let parent = format!("00-{:032x}-{span:016x}-{:02x}", self.id, self.flags);
        header.insert_header(TRACEPARENT, parent)?;
        if let Some(state) = &self.state {
            header.insert_header(TRACESTATE, state.clone())?;
        }
        Ok(())
    }
}

/// The span of an attempt, counted from 1: those of a request follow on its own.
pub fn attempt_span_id(request: RequestId, attempt: u32) -> u64 {
    span_id(request).wrapping_add(u64::from(attempt)).max(1)
}

/// The random half of the request's id; never zero, which means none.
pub fn span_id(request: RequestId) -> u64 {
    let [.., a, b, c, d, e, f, g, h] = request.int().to_be_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h]).max(1)
}

/// The trace's id, the span in it and flags. Later versions may have more behind.
fn read(text: &str) -> Option<(u128, u64, u8)> {
    let mut parts = text.trim().split('-');
    let mut hex = |digits: usize| {
        let part = parts.next()?;
        let lower = part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        (part.len() == digits && lower).then(|| u128::from_str_radix(part, 16).ok())?
    };
    let (version, id, parent, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
    let more = parts.next().is_some();
    let valid = version != 0xff && id != 0 && parent != 0 && !(version == 0 && more);
    valid.then_some((id, u64::try_from(parent).ok()?, u8::try_from(flags).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn check(text: &str, expect: bool) {
        let trace = (0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, 0x00f0_67aa_0ba9_02b7, 1);
        assert_eq!(read(text), expect.then_some(trace), "{text}");
    }

    #[test]
    fn only_what_is_valid_is_taken_up() {
        check(GOOD, true);
        check(&GOOD.replacen("00", "cc", 1), true);
        check(&format!("{}-later", GOOD.replacen("00", "cc", 1)), true);
        check(&format!("{GOOD}-more"), false);
        check(&GOOD.replacen("00", "ff", 1), false);
        check(&GOOD.to_uppercase(), false);
        check("00-00000000000000000000000000000000-00f067aa0ba902b7-01", false);
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", false);
        for cut in 0..GOOD.len() {
            check(&GOOD[..cut], false);
        }
    }

    #[test]
    fn the_request_becomes_the_parent() {
        let mut client = HeaderMap::new();
        client.insert(TRACEPARENT, HeaderValue::from_static(GOOD));
        client.insert(TRACESTATE, HeaderValue::from_static("a=b"));
        let passed = |traces: Option<&Traces>| {
            let mut header = RequestHeader::build("POST", b"/", None).unwrap();
            let mut trace = Trace::of(&client, traces).unwrap();
            trace.is_of_caller(traces, &AskedFor::default(), Tick(0));
            trace.pass_on(&mut header, RequestId::from_int(0xabc), 2).unwrap();
            [TRACEPARENT, TRACESTATE].map(|name| header.headers[name].clone())
        };
        let parent = |span: &str| format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{span}-01").parse().unwrap();
        let state = HeaderValue::from_static("a=b");
        assert_eq!(passed(None), [parent("0000000000000abc"), state.clone()]);
        assert_eq!(passed(Some(&traces(0))), [parent("0000000000000abe"), state]);
        client.insert(TRACESTATE, "x".repeat(513).parse().unwrap());
        assert_eq!(Trace::of(&client, None).unwrap().state, None);
    }

    fn traces(sample_one_in: u32) -> Traces {
        let otlp_url = crate::config::BaseUrl::parse("http://127.0.0.1:4318").unwrap();
        Traces { otlp_url, sample_one_in, asked_per_minute: 2, service_name: "t".into() }
    }

    fn client(said: Option<&str>) -> HeaderMap {
        said.map(|said| (TRACEPARENT, said.parse::<HeaderValue>().unwrap())).into_iter().collect()
    }

    #[test]
    fn the_client_says_whether_its_trace_is_exported_and_a_lot_whether_another_begins() {
        let check = |said: Option<&str>, traces: Option<&Traces>, expect: Option<bool>| {
            let trace = Trace::of(&client(said), traces).map(|mut trace| {
                trace.is_of_caller(traces, &AskedFor::default(), Tick(0));
                trace.is_exported()
            });
            assert_eq!(trace, expect, "{said:?} {traces:?}");
        };
        let unsampled = GOOD.replace("-01", "-00");
        check(Some(GOOD), None, Some(false));
        check(None, None, None);
        for one_in in [0, 1] {
            check(Some(GOOD), Some(&traces(one_in)), Some(true));
            check(Some(&unsampled), Some(&traces(one_in)), Some(false));
            check(None, Some(&traces(one_in)), (one_in == 1).then_some(true));
        }
    }

    #[test]
    fn who_asks_is_heard_so_often_and_a_stranger_never() {
        let (asked, traces) = (AskedFor::default(), traces(1));
        let trace = |said: &str| Trace::of(&client(Some(said)), Some(&traces)).unwrap();
        assert!(!trace(GOOD).is_exported(), "nobody knows who that is");
        let exported = |said: &str, tick| {
            let mut trace = trace(said);
            trace.is_of_caller(Some(&traces), &asked, Tick(tick));
            trace.is_exported()
        };
        let unsampled = GOOD.replace("-01", "-00");
        assert!(!exported(&unsampled, 0), "it does not ask, and takes nothing");
        assert_eq!([0, 0, 0].map(|tick| exported(GOOD, tick)), [true, true, false]);
        assert_eq!([29_999_999, 30_000_000].map(|tick| exported(GOOD, tick)), [false, true]);
    }
}
