//! The audit: who changed what by the admin API, and how it was before and after.
//!
//! One JSON object a line in a file of the store, appended and synced before the change is answered.
//! What a change did to money has its entry in the ledger, and the line names it; here stands also
//! what is no money. A process that ends between a change and its line loses the line, not the change.

use super::Admin;
use super::refusal::AdminRefusal;
use super::routes::{Answer, Shared, blocking};
use crate::clock::Timestamp;
use crate::ledger::Seq;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Query, State};
use http::HeaderName;
use http::request::Parts;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// The file in the store.
pub const AUDIT_FILE: &str = "audit.jsonl";
/// Lines of one page.
const PAGE_LINES_MAX: usize = 1_000;
/// The longest line that is believed: limits with all their lists, before and after.
const LINE_BYTES_MAX: u64 = 1024 * 1024;
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

/// The file of the audit.
pub struct AuditLog {
    path: PathBuf,
    file: Mutex<File>,
}

impl AuditLog {
    /// Opens, or begins, the audit of a store.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn open(store: &Path) -> io::Result<Self> {
        let path = store.join(AUDIT_FILE);
        let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path)?;
        // A line that a crash left unfinished stays a line of its own, which no reader takes for one.
        if file.seek(SeekFrom::End(0))? > 0 {
            file.seek(SeekFrom::End(-1))?;
            let mut last = [0];
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
            }
        }
        Ok(AuditLog { path, file: Mutex::new(file) })
    }

    fn append(&self, line: &AuditLine) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        let mut file = self.file.lock();
        file.write_all(&bytes)?;
        file.sync_data()
    }

    /// Lines from a place of the file on, those of one subject if one is asked for.
    fn page(&self, asked: &WhichChanges) -> io::Result<AuditPage> {
        let file = File::open(&self.path)?;
        // The system refuses to look where no file can reach.
        let mut place = asked.after.0.min(file.metadata()?.len());
        let mut file = BufReader::new(file);
        file.seek(SeekFrom::Start(place))?;
        let mut lines = Vec::new();
        let mut bytes = Vec::new();
        while lines.len() < PAGE_LINES_MAX {
            bytes.clear();
            let read = file.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes)?;
            if read == 0 {
                return Ok(AuditPage { lines, next: None });
            }
            place = place.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
            let line = serde_json::from_slice::<AuditLine>(&bytes).ok();
            lines.extend(line.filter(|line| asked.takes(line)));
        }
        Ok(AuditPage { lines, next: Some(Seq(place)) })
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn line(subject: &str) -> AuditLine {
        let (by, subject) = ("ada".into(), subject.into());
        let at = Timestamp::from_micros(1);
        AuditLine { at, by, action: Action::Ban, subject, entry_id: None, before: None, after: Value::Null }
    }

    fn subjects(log: &AuditLog, after: Seq) -> (Vec<String>, Option<Seq>) {
        let asked = WhichChanges { after, subject: None, from: None, to: None };
        let AuditPage { lines, next } = log.page(&asked).unwrap();
        (lines.into_iter().map(|line| line.subject.into()).collect(), next)
    }

    #[test]
    fn lines_survive_a_restart_and_a_torn_one_takes_no_other_with_it() {
        let folder = tempfile::tempdir().unwrap();
        AuditLog::open(folder.path()).unwrap().append(&line("a")).unwrap();
        let mut torn = serde_json::to_vec(&line("b")).unwrap();
        torn.truncate(20);
        let path = folder.path().join(AUDIT_FILE);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(&torn).unwrap();
        let again = AuditLog::open(folder.path()).unwrap();
        again.append(&line("c")).unwrap();
        assert_eq!(subjects(&again, Seq::START), (vec!["a".into(), "c".into()], None));
        assert_eq!(subjects(&again, Seq(u64::MAX)), (Vec::new(), None));
    }

    #[test]
    fn pages_follow_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let log = AuditLog::open(folder.path()).unwrap();
        let mut bytes = Vec::new();
        for number in 0..PAGE_LINES_MAX + 5 {
            serde_json::to_writer(&mut bytes, &line(&number.to_string())).unwrap();
            bytes.push(b'\n');
        }
        log.file.lock().write_all(&bytes).unwrap();
        let (first, next) = subjects(&log, Seq::START);
        let (rest, end) = subjects(&log, next.unwrap());
        assert_eq!((first.len(), end), (PAGE_LINES_MAX, None));
        assert_eq!(rest, ["1000", "1001", "1002", "1003", "1004"]);
    }
}
