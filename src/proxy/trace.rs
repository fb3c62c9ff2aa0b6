//! W3C trace context: a client's `traceparent` is taken up and passed on, with this request as a
//! span of its own. <https://www.w3.org/TR/trace-context/>

use crate::id::RequestId;
use crate::record::access::Span;
use http::{HeaderMap, HeaderName, HeaderValue};
use pingora::Result;
use pingora_http::RequestHeader;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// The longest state that has to be passed on.
const TRACESTATE_BYTES_MAX: usize = 512;

/// The trace that a request is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    id: u128,
    flags: u8,
    state: Option<HeaderValue>,
}

impl Trace {
    /// The trace that the client is in. One that is not valid is as none.
    pub fn of(headers: &HeaderMap) -> Option<Trace> {
        let (id, flags) = read(headers.get(TRACEPARENT)?.to_str().ok()?)?;
        let state = headers.get(TRACESTATE).filter(|state| state.len() <= TRACESTATE_BYTES_MAX).cloned();
        Some(Trace { id, flags, state })
    }

    /// This request in it.
    pub fn span(&self, request: RequestId) -> Span {
        Span { trace_id: format!("{:032x}", self.id), span_id: format!("{:016x}", span_id(request)) }
    }

    /// Makes the provider's work a child of this request.
    pub fn pass_on(&self, header: &mut RequestHeader, request: RequestId) -> Result<()> {
        let parent = format!("00-{:032x}-{:016x}-{:02x}", self.id, span_id(request), self.flags);
        header.insert_header(TRACEPARENT, parent)?;
        if let Some(state) = &self.state {
            header.insert_header(TRACESTATE, state.clone())?;
        }
        Ok(())
    }
}

/// The random half of the request's id; never zero, which means none.
fn span_id(request: RequestId) -> u64 {
    let [.., a, b, c, d, e, f, g, h] = request.int().to_be_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h]).max(1)
}

/// The trace's id and flags. Later versions may have more behind.
fn read(text: &str) -> Option<(u128, u8)> {
    let mut parts = text.trim().split('-');
    let mut hex = |digits: usize| {
        let part = parts.next()?;
        let lower = part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        (part.len() == digits && lower).then(|| u128::from_str_radix(part, 16).ok())?
    };
    let (version, id, parent, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
    let more = parts.next().is_some();
    let valid = version != 0xff && id != 0 && parent != 0 && !(version == 0 && more);
    valid.then_some((id, u8::try_from(flags).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn check(text: &str, expect: bool) {
        let trace = (0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, 1);
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
        let trace = Trace::of(&client).unwrap();
        let mut header = RequestHeader::build("POST", b"/", None).unwrap();
        trace.pass_on(&mut header, RequestId::from_int(0xabc)).unwrap();
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000abc-01";
        assert_eq!(
            (&header.headers[TRACEPARENT], &header.headers[TRACESTATE]),
            (&parent.parse().unwrap(), &"a=b".parse().unwrap())
        );
        client.insert(TRACESTATE, "x".repeat(513).parse().unwrap());
        assert_eq!(Trace::of(&client).unwrap().state, None);
    }
}
