//! Headers by which an answer is known as ours.

use crate::id::RequestId;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use pingora::{ErrorType, OrErr, Result};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// How long each answer may be, in tokens, where the credit does not reach for more.
pub(super) const OUTPUT_CAP: HeaderName = HeaderName::from_static("x-tollgate-output-cap");
const ANY: HeaderValue = HeaderValue::from_static("*");

/// Headers of ours on every answer.
pub(super) fn sign(headers: &mut HeaderMap, request: RequestId) -> Result<()> {
    headers.insert(REQUEST_ID, id_value(request)?);
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
    Ok(())
}

/// The id of a request, in a header.
pub(super) fn id_value(request: RequestId) -> Result<HeaderValue> {
    request.to_string().try_into().or_err(ErrorType::InvalidHTTPHeader, "the id of a request")
}
