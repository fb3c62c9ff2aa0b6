//! Headers that different readers understand differently are refused: behind such a header, one
//! would see a second request where another sees a body.
//!
//! Pingora refuses most of them; this is what it lets pass.

use super::respond::Refusal;
use super::watched::{Then, Watched};
use crate::config::HeaderLimits;
use http::{HeaderMap, Version, header};
use pingora_proxy::Session;

/// Holds the header of a request, which is whole now, against its bounds and the rules.
///
/// # Errors
/// When it breaks one; nothing that follows on its connection is read as a request then.
pub fn check(session: &mut Session, limits: &HeaderLimits) -> Result<(), Refusal> {
    let chunked = is_chunked(session);
    if let Some(watched) = session.downstream_session.stream().and_then(Watched::of) {
        watched.header_came(if chunked { Then::Close } else { Then::Next });
    }
    let refusal = refusal(session, limits);
    if chunked || refusal.is_some() {
        // The answer says so, or the client's next request would meet a closed connection.
        session.set_keepalive(None);
    }
    refusal.map_or(Ok(()), Err)
}

/// Whether the body comes in chunks, of which there are so many readings that nothing behind them is
/// taken for a request.
pub fn is_chunked(session: &Session) -> bool {
    session.req_header().headers.contains_key(header::TRANSFER_ENCODING)
}

fn refusal(session: &Session, limits: &HeaderLimits) -> Option<Refusal> {
    let header = session.req_header();
    if header.headers.len() > limits.fields_max {
        return Some(Refusal::HeaderTooLarge);
    }
    let raw = session.as_http1()?.get_headers_raw_bytes();
    if raw.len() > limits.bytes_max {
        return Some(Refusal::HeaderTooLarge);
    }
    let fault = target_fault(header.raw_path()).or_else(|| fault(&raw, header.version, &header.headers));
    fault.map(Refusal::BadHeader)
}

/// Why the header of an HTTP/1 request is ambiguous, given as it came and as it was read.
fn fault(raw: &[u8], version: Version, headers: &HeaderMap) -> Option<&'static str> {
    if has_bare_line_end(raw) {
        return Some("its lines must end with CR LF");
    }
    if version == Version::HTTP_11 && headers.get_all(header::HOST).iter().count() != 1 {
        return Some("it must have one Host");
    }
    let mut encodings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(encoding) = encodings.next() {
        if encodings.next().is_some() || !encoding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Some("Transfer-Encoding can only be `chunked`");
        }
        // Pingora has removed the header by now.
        if names_length(raw) {
            return Some("it has both Content-Length and Transfer-Encoding");
        }
    }
    if headers.get_all(header::CONTENT_LENGTH).iter().count() > 1 {
        return Some("it has more than one Content-Length");
    }
    let length = headers.get(header::CONTENT_LENGTH).map(|length| length.as_bytes());
    length
        .is_some_and(|length| length.is_empty() || !length.iter().all(u8::is_ascii_digit))
        .then_some("Content-Length must be digits")
}

/// Pingora percent-encodes what may not stand in a request line, rather than refusing it.
fn target_fault(target: &[u8]) -> Option<&'static str> {
    const CONTROLS: [&[u8]; 3] = [b"%00", b"%0A", b"%0D"];
    let is_control = |at: usize| {
        let escape = target.get(at..at + 3);
        escape.is_some_and(|escape| CONTROLS.iter().any(|control| control.eq_ignore_ascii_case(escape)))
    };
    if memchr::memchr_iter(b'%', target).any(is_control) {
        return Some("its target must not have control characters");
    }
    let absolute = || target.get(..4).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"http"));
    let fits = target.starts_with(b"/") || absolute();
    (!fits).then_some("its target must be a path")
}

fn has_bare_line_end(raw: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', raw).any(|at| at == 0 || raw[at - 1] != b'\r')
}

fn names_length(raw: &[u8]) -> bool {
    const NAME: &[u8] = b"content-length";
    raw.split(|byte| *byte == b'\n').skip(1).any(|line| {
        let name = line.iter().position(|byte| *byte == b':').map_or(line, |colon| &line[..colon]);
        name.trim_ascii().eq_ignore_ascii_case(NAME)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &str, fits: bool) {
        let raw = format!("POST / HTTP/1.1\r\n{lines}\r\n");
        let mut headers = HeaderMap::new();
        for line in lines.lines() {
            let (name, value) = line.split_once(':').unwrap();
            headers.append(
                name.trim().to_ascii_lowercase().parse::<http::HeaderName>().unwrap(),
                value.trim().parse().unwrap(),
            );
        }
        let fault = fault(raw.as_bytes(), Version::HTTP_11, &headers);
        assert_eq!(fault.is_none(), fits, "{lines:?}: {fault:?}");
    }

    #[test]
    fn only_what_has_one_reading_passes() {
        check("host: a\r\n", true);
        check("host: a\r\ncontent-length: 12\r\n", true);
        check("host: a\r\ntransfer-encoding: Chunked\r\n", true);
        check("", false);
        check("host: a\r\nhost: a\r\n", false);
        check("host: a\n", false);
        check("host: a\r\ncontent-length: 2\r\ncontent-length: 2\r\n", false);
        check("host: a\r\ncontent-length: 2, 2\r\n", false);
        check("host: a\r\ncontent-length:\r\n", false);
        check("host: a\r\nContent-Length: 2\r\ntransfer-encoding: chunked\r\n", false);
        check("host: a\r\ntransfer-encoding: gzip, chunked\r\n", false);
        check("host: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", false);
    }

    #[test]
    fn a_target_is_a_path_without_controls() {
        for fits in ["/", "/v1/models?a=%20b", "http://gateway/v1/models", "/100%"] {
            assert_eq!(target_fault(fits.as_bytes()), None, "{fits}");
        }
        for not in ["", "*", "v1/models", "/v1/models%00", "/a%0d%0aHost:%20b", "/?%0A"] {
            assert!(target_fault(not.as_bytes()).is_some(), "{not}");
        }
    }
}
