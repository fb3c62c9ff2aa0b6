//! Reading a request's body: whole, within bounds of bytes and time.

use super::context::BodyPermit;
use super::request::BadRequest;
use super::respond::Refusal;
use crate::config;
use bytes::{Bytes, BytesMut};
use http::header;
use pingora_proxy::Session;

/// A body is given this much room at once; more grows as it comes.
const FIRST_BYTES: usize = 64 * 1024;

/// Reads the body within the bounds of `config`, as long as `permit` grows with it.
///
/// # Errors
/// When a bound is passed, or the client goes.
pub async fn read(
    session: &mut Session,
    config: &config::Gateway,
    permit: &mut BodyPermit,
) -> Result<Bytes, Refusal> {
    let bytes_max = config.body_bytes_max;
    let too_large = Refusal::BodyTooLarge { bytes_max };
    let declared = declared_length(session);
    if declared.is_some_and(|length| length > bytes_max) {
        return Err(too_large);
    }
    let reading = read_all(session, declared, bytes_max, permit);
    let read = tokio::time::timeout(config.body_timeout, reading).await.unwrap_or(Err(Refusal::BodyTimeout));
    if matches!(read, Err(Refusal::BodyTimeout | Refusal::BadRequest(_))) {
        // Who does not send is not listened to any longer, and after a broken body nobody knows where
        // the next request would begin.
        session.set_keepalive(None);
    }
    read
}

async fn read_all(
    session: &mut Session,
    declared: Option<usize>,
    bytes_max: usize,
    permit: &mut BodyPermit,
) -> Result<Bytes, Refusal> {
    if expects_continue(session) && session.downstream_session.write_continue_response().await.is_err() {
        return Err(Refusal::BodyTimeout);
    }
    let mut whole: Option<BytesMut> = None;
    let mut only = Bytes::new();
    let mut length = 0_usize;
    loop {
        let piece = match session.downstream_session.read_request_body().await {
            Ok(Some(piece)) => piece,
            Ok(None) => break,
            Err(error) => return Err(broken(&error)),
        };
        length = length.saturating_add(piece.len());
        if length > bytes_max {
            return Err(Refusal::BodyTooLarge { bytes_max });
        }
        if !permit.grow(piece.len()) {
            return Err(Refusal::Overloaded);
        }
        // A small body comes in one piece and is not copied.
        if only.is_empty() && whole.is_none() {
            only = piece;
            continue;
        }
        let whole = whole.get_or_insert_with(|| {
            let mut room = BytesMut::with_capacity(declared.unwrap_or(FIRST_BYTES).max(FIRST_BYTES));
            room.extend_from_slice(&only);
            room
        });
        whole.extend_from_slice(&piece);
    }
    Ok(whole.map_or(only, BytesMut::freeze))
}

fn declared_length(session: &Session) -> Option<usize> {
    let value = session.req_header().headers.get(header::CONTENT_LENGTH)?;
    let text = value.to_str().ok()?.trim();
    // A list of equal numbers is left to Pingora; what does not fit is too large in any case.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().unwrap_or(usize::MAX))
}

/// Why the body ended early.
fn broken(error: &pingora::Error) -> Refusal {
    if *error.etype() == pingora::ErrorType::ReadTimedout {
        return Refusal::BodyTimeout;
    }
    let message = "the body of the request broke off, or is not framed as HTTP asks for".into();
    Refusal::BadRequest(BadRequest { message, param: None })
}

fn expects_continue(session: &Session) -> bool {
    let value = session.req_header().headers.get(header::EXPECT);
    value.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}
