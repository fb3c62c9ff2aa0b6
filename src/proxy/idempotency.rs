//! By what a client knows its request, so that it is charged once however often it is sent: the header
//! `Idempotency-Key`.
//!
//! What the key and the request are is kept as digests under the store's secret, and nowhere else.
//! Answers are never stored: who sends a request again that was charged is told where its receipt is.

use super::Gateway;
use super::request::BadRequest;
use super::respond::Refusal;
use crate::endpoint::Endpoint;
use crate::id::CustomerId;
use crate::ledger::Mark;
use bytes::Bytes;
use http::HeaderMap;

const NAME: &str = "idempotency-key";
/// The longest key, as others have it.
const KEY_BYTES_MAX: usize = 255;
/// Longer bodies are digested on a thread that serves no request: this takes about a millisecond.
const INLINE_BYTES_MAX: usize = 512 * 1024;

impl Gateway {
    /// By what a client knows the request, if it says so.
    pub(super) async fn mark(
        &self,
        headers: &HeaderMap,
        customer: CustomerId,
        endpoint: Endpoint,
        body: &Bytes,
    ) -> Result<Option<Mark>, Refusal> {
        let Some(key) = presented(headers).map_err(Refusal::BadRequest)? else { return Ok(None) };
        let digester = self.directory.digester();
        let key = digester.tag(&[b"an idempotency key\0", &customer.int().to_le_bytes(), key]);
        let ask = move |digester: &crate::auth::key::Digester, body: &[u8]| {
            digester.tag(&[b"what is asked\0", endpoint.name().as_bytes(), b"\0", body])
        };
        if body.len() <= INLINE_BYTES_MAX {
            return Ok(Some(Mark { key, content: ask(digester, body) }));
        }
        let (digester, body) = (digester.clone(), body.clone());
        let content = tokio::task::spawn_blocking(move || ask(&digester, &body)).await;
        content.map(|content| Some(Mark { key, content })).map_err(|_| Refusal::Overloaded)
    }
}

/// The key that is presented.
fn presented(headers: &HeaderMap) -> Result<Option<&[u8]>, BadRequest> {
    let mut values = headers.get_all(NAME).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let fits = (1..=KEY_BYTES_MAX).contains(&value.len()) && value.to_str().is_ok();
    if values.next().is_some() || !fits {
        let message = "the header idempotency-key must be 1 to 255 characters of ASCII, once".into();
        return Err(BadRequest { message, param: None });
    }
    Ok(Some(value.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: &[&[u8]], expect: Result<Option<&[u8]>, ()>) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(NAME, http::HeaderValue::from_bytes(value).unwrap());
        }
        assert_eq!(presented(&headers).map_err(|_| ()), expect, "{values:?}");
    }

    #[test]
    fn a_key_is_one_of_a_bounded_length() {
        check(&[], Ok(None));
        check(&[b"5f0c 9a"], Ok(Some(b"5f0c 9a")));
        check(&[&[b'x'; 255]], Ok(Some(&[b'x'; 255])));
        check(&[&[b'x'; 256]], Err(()));
        check(&[b""], Err(()));
        check(&[b"a", b"a"], Err(()));
        check(&["ä".as_bytes()], Err(()));
    }
}
