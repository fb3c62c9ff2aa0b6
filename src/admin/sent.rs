//! What requests carry: the name in their path, the object in their body.

use super::refusal::AdminRefusal;
use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use http::request::Parts;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

/// The name in a path, as it was written.
pub(super) struct Named(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = AdminRefusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, AdminRefusal> {
        let name = Path::from_request_parts(parts, state).await;
        name.map(|Path(name)| Named(name)).map_err(|_| AdminRefusal::malformed("the path is not UTF-8"))
    }
}

/// The JSON object of a body.
pub(super) struct Sent<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Sent<T> {
    type Rejection = AdminRefusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, AdminRefusal> {
        let Json(json) = Json::<Box<RawValue>>::from_request(request, state).await?;
        // Serde would take an array for the fields in their order.
        if !json.get().starts_with('{') {
            return Err(AdminRefusal::malformed("the body must be a JSON object"));
        }
        serde_json::from_str(json.get()).map(Sent).map_err(|why| AdminRefusal::malformed(why.to_string()))
    }
}
