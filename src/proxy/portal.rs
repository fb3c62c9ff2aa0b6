//! The customers' page: three static files in the binary, which ask `/tollgate/v1/` with the key that is
//! entered and nothing else.
//!
//! *Architecture invariant:* nothing here knows a customer. The page runs no script but its own, loads
//! nothing from elsewhere, is shown in no frame, and sets no cookie: what its headers say, browsers hold.

use super::context::Context;
use super::cors::Page;
use super::local::answer_with;
use super::respond::Refusal;
use crate::config::Portal;
use bytes::Bytes;
use http::header;
use pingora_proxy::Session;

/// Where it is.
pub(super) const PLACE: &str = "/tollgate/";

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file of it.
pub(super) struct File {
    kind: &'static str,
    text: &'static str,
}

/// The file at a path, if there is one and the portal is on.
pub(super) fn at(path: &str, portal: Portal) -> Option<File> {
    let file = |kind, text| (portal == Portal::On).then_some(File { kind, text });
    match path {
        "/tollgate" | PLACE => file("text/html; charset=utf-8", include_str!("portal/index.html")),
        "/tollgate/portal.css" => file("text/css; charset=utf-8", include_str!("portal/portal.css")),
        "/tollgate/portal.js" => file("text/javascript; charset=utf-8", include_str!("portal/portal.js")),
        _ => None,
    }
}

/// Answers with a file.
pub(super) async fn answer(session: &mut Session, ctx: &mut Context, file: File) -> Result<(), Refusal> {
    // It is for its own pages.
    ctx.page = Page::default();
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        // Another version brings other files: none of them is kept without asking.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    let further = headers.map(|(name, value)| (name, value.to_owned()));
    answer_with(session, ctx, file.kind, Bytes::from_static(file.text.as_bytes()), &further).await
}
