//! Headers by which an answer is known as ours.

use super::cors::Page;
use crate::id::RequestId;
use http::{HeaderMap, HeaderName, HeaderValue};
use pingora::{ErrorType, OrErr, Result};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// How long each answer may be, in tokens, where the credit does not reach for more.
pub(super) const OUTPUT_CAP: HeaderName = HeaderName::from_static("x-tollgate-output-cap");

/// Headers of ours on every answer.
pub(super) fn sign(headers: &mut HeaderMap, request: RequestId, page: &Page) -> Result<()> {
    headers.insert(REQUEST_ID, id_value(request)?);
    page.tell(headers);
    Ok(())
}

/// The id of a request, in a header.
pub(super) fn id_value(request: RequestId) -> Result<HeaderValue> {
    request.to_string().try_into().or_err(ErrorType::InvalidHTTPHeader, "the id of a request")
}
