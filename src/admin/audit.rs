//! The audit: who changed what by the admin API, and how it was before and after.
//!
//! One JSON object a line in [files] of the store, appended and synced before the change is answered.
//! What a change did to money has its entry in the ledger, and the line names it; here stands also
//! what is no money. A process that ends between a change and its line loses the line, not the change.

mod files;

use super::Admin;
use super::refusal::AdminRefusal;
use super::routes::{Answer, Shared, blocking};
use crate::clock::Timestamp;
use crate::ledger::Seq;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Query, State};
pub use files::AuditLog;
use http::HeaderName;
use http::request::Parts;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// In which a request says on whose behalf it is.
pub const BY: HeaderName = HeaderName::from_static("x-tollgate-by");
/// Who did it, if nobody says.
const UNNAMED: &str = "operator";
/// As of all names.
const BY_CHARACTERS_MAX: usize = 256;

/// On whose behalf a request is, as it says: the token is everyone's.
#[derive(Clone)]
pub(super) struct By(pub(super) Arc<str>);

impl<S: Send + Sync> FromRequestParts<S> for By {
    type Rejection = AdminRefusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, AdminRefusal> {
        let Some(by) = parts.headers.get(BY) else { return Ok(By(UNNAMED.into())) };
        let name = std::str::from_utf8(by.as_bytes()).ok().filter(|name| {
            (1..=BY_CHARACTERS_MAX).contains(&name.chars().count()) && !name.chars().any(char::is_control)
        });
        let malformed = "x-tollgate-by must be 1 to 256 characters, none a control character";
        name.map(|name| By(name.into())).ok_or_else(|| AdminRefusal::malformed(malformed))
    }
}

/// What can be changed by the admin API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum Action {
    /// A customer was created.
    #[serde(rename = "customer.create")]
    CreateCustomer,
    /// A customer's limits were changed.
    #[serde(rename = "customer.limits")]
    LimitCustomer,
    /// Terms of the service were accepted.
    #[serde(rename = "customer.terms")]
    AcceptTerms,
    /// A customer was suspended.
    #[serde(rename = "customer.suspend")]
    Suspend,
    /// A suspension was ended.
    #[serde(rename = "customer.resume")]
    Resume,
    /// A customer was banned.
    #[serde(rename = "customer.ban")]
    Ban,
    /// A ban was lifted.
    #[serde(rename = "customer.unban")]
    Unban,
    /// A key was made.
    #[serde(rename = "key.create")]
    CreateKey,
    /// A key of another gateway was taken over.
    #[serde(rename = "key.import")]
    ImportKey,
    /// A key's limits were changed.
    #[serde(rename = "key.limits")]
    LimitKey,
    /// A key was revoked.
    #[serde(rename = "key.revoke")]
    RevokeKey,
    /// Credit was paid in.
    #[serde(rename = "credit.deposit")]
    Deposit,
    /// A charge was given back.
    #[serde(rename = "credit.refund")]
    Refund,
    /// Credit was given or taken by hand.
    #[serde(rename = "credit.adjust")]
    Adjust,
    /// What a customer owes was given up.
    #[serde(rename = "credit.write_off")]
    WriteOff,
    /// What a customer may owe was set.
    #[serde(rename = "customer.overdraft")]
    SetOverdraft,
    /// An upstream account was drained.
    #[serde(rename = "upstream.drain")]
    DrainUpstream,
    /// An upstream account was given requests again.
    #[serde(rename = "upstream.resume")]
    ResumeUpstream,
    /// Segments of the journal were archived.
    #[serde(rename = "ledger.archive")]
    Archive,
    /// The ledger was copied.
    #[serde(rename = "ledger.backup")]
    Backup,
}

/// One change.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditLine {
    /// When it was made.
    pub at: Timestamp,
    /// On whose behalf, as they said.
    pub by: Box<str>,
    /// What was done.
    pub action: Action,
    /// To what: a customer, a key, an upstream account, a directory.
    pub subject: Box<str>,
    /// The ledger's entry of it, where money moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry_id: Option<Seq>,
    /// As it was; nothing if it was not there.
    #[schema(value_type = Option<Object>)]
    pub before: Option<Value>,
    /// As it is since.
    #[schema(value_type = Object)]
    pub after: Value,
}

/// A page of the audit.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditPage {
    /// In order.
    pub lines: Vec<AuditLine>,
    /// What to ask for as `after` next; nothing at the end.
    pub next: Option<Seq>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WhichChanges {
    /// `next` of the page before.
    #[serde(default)]
    after: Seq,
    /// Of this subject only.
    subject: Option<String>,
    /// Not before this time.
    from: Option<Timestamp>,
    /// Before this time.
    to: Option<Timestamp>,
}

impl WhichChanges {
    fn takes(&self, line: &AuditLine) -> bool {
        self.subject.as_deref().is_none_or(|subject| subject == &*line.subject)
            && self.from.is_none_or(|from| line.at >= from)
            && self.to.is_none_or(|to| line.at < to)
    }
}

/// Who changed what, as it was before and after
#[utoipa::path(
    get,
    path = "/admin/v1/audit",
    tag = "audit",
    operation_id = "list_changes",
    params(WhichChanges),
    responses((status = 200, description = "A page, in order", body = AuditPage), AdminRefusal)
)]
pub(super) async fn list(
    State(admin): Shared,
    query: Result<Query<WhichChanges>, QueryRejection>,
) -> Answer<AuditPage> {
    let Query(asked) = query?;
    let page = blocking(move || admin.audit.page(&asked)).await?;
    page.map(Json).map_err(|why| AdminRefusal::failed(format!("the audit cannot be read: {why}")))
}

/// A change that was made.
pub(super) struct Made<'a> {
    pub(super) by: &'a By,
    pub(super) action: Action,
    pub(super) before: Option<Value>,
    pub(super) entry_id: Option<Seq>,
}

impl Admin {
    /// Notes a change, before it is answered.
    pub(super) async fn note(
        self: &Arc<Self>,
        Made { by, action, before, entry_id }: Made<'_>,
        subject: impl fmt::Display,
        after: &impl Serialize,
    ) -> Result<(), AdminRefusal> {
        let (by, subject) = ((*by.0).into(), subject.to_string().into());
        let after = shown(after);
        let line = AuditLine { at: Timestamp::now(), by, action, subject, entry_id, before, after };
        let admin = Arc::clone(self);
        let noted = blocking(move || admin.audit.append(&line)).await?;
        noted.map_err(|why| {
            tracing::error!(%why, "a change was made that the audit does not have");
            AdminRefusal::failed(format!("it is done, but the audit cannot be written: {why}"))
        })
    }
}

/// As the API shows it.
pub(super) fn shown(view: &impl Serialize) -> Value {
    serde_json::to_value(view).expect("what is shown is plain JSON")
}
