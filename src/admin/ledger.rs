//! What the operator does with the ledger as a whole.

use super::audit::{Action, AuditLog, By, Made};
use super::refusal::AdminRefusal;
use super::routes::{Answer, Shared, blocking, unknown_customer};
use super::sent::{Named, Sent};
use crate::auth::key::SECRET_FILE;
use crate::clock::Timestamp;
use crate::id::CustomerId;
use crate::ledger::{
    ArchiveError, Archived, Backup, BackupError, Chain, Ledger, Seq, Verified, Which, Window,
};
use crate::record::export::{self, Form};
use crate::record::usage::{self, Dimension, UsageLine};
use crate::settle;
use axum::Json;
use axum::body::{Body as Streamed, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use http::header;
use serde::Deserialize;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc;
use utoipa::{IntoParams, ToSchema};

/// Bytes of an export that are sent at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// A day of UTC.
const DAY_MICROS: i64 = 24 * 60 * 60 * 1_000_000;
/// Chunks in line for a slow reader, before the export waits for it.
const CHUNKS_MAX: usize = 4;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HowToVerify {
    /// A head that the ledger is known to have had.
    #[serde(default)]
    expect: Option<Chain>,
}

/// Read and fold the whole journal, and check that everything adds up
#[utoipa::path(
    post,
    path = "/admin/v1/ledger/verify",
    tag = "ledger",
    operation_id = "verify_ledger",
    request_body = HowToVerify,
    responses((status = 200, description = "It does", body = Verified), AdminRefusal)
)]
pub(super) async fn verify(State(admin): Shared, Sent(sent): Sent<HowToVerify>) -> Answer<Verified> {
    let HowToVerify { expect } = sent;
    let ledger = Arc::clone(&admin.ledger);
    let verified = blocking(move || ledger.verify(&settle::recompute, expect)).await?;
    verified.map(Json).map_err(|why| AdminRefusal::damaged(why.to_string()))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WhereTo {
    /// A new one, on the gateway's machine.
    #[schema(value_type = String, pattern = "^/")]
    directory: PathBuf,
}

/// Copy the ledger as of now, verified as it is copied
#[utoipa::path(
    post,
    path = "/admin/v1/ledger/backup",
    tag = "ledger",
    params(By),
    operation_id = "backup_ledger",
    request_body = WhereTo,
    responses((status = 200, description = "What was copied", body = Backup), AdminRefusal)
)]
pub(super) async fn backup(State(admin): Shared, by: By, Sent(sent): Sent<WhereTo>) -> Answer<Backup> {
    let WhereTo { directory } = sent;
    if !directory.is_absolute() {
        return Err(AdminRefusal::malformed("the directory of a backup begins with a /"));
    }
    let (copying, target) = (Arc::clone(&admin), directory.clone());
    let copied = blocking(move || copy(&copying.ledger, &copying.audit, &target)).await?;
    let copied = copied.map_err(|why| match why {
        BackupError::Target(..) => AdminRefusal::unfit(why.to_string()),
        BackupError::Journal(_) => AdminRefusal::damaged(why.to_string()),
    })?;
    let made = Made { by: &by, action: Action::Backup, before: None, entry_id: None };
    admin.note(made, directory.display(), &copied).await?;
    Ok(Json(copied))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WhatToArchive {
    /// On the gateway's machine.
    #[schema(value_type = String, pattern = "^/")]
    directory: PathBuf,
    /// How many of the newest full segments stay.
    keep: Option<usize>,
    /// How old the last entry of a segment is at least.
    older_than_days: Option<u32>,
}

/// Move full segments of the journal to another directory
///
/// Either all but `keep` of the newest, or those `older_than_days`.
#[utoipa::path(
    post,
    path = "/admin/v1/ledger/archive",
    tag = "ledger",
    operation_id = "archive_ledger",
    params(By),
    request_body = WhatToArchive,
    responses((status = 200, description = "What was moved", body = Archived), AdminRefusal)
)]
pub(super) async fn archive(
    State(admin): Shared,
    by: By,
    Sent(sent): Sent<WhatToArchive>,
) -> Answer<Archived> {
    let WhatToArchive { directory, keep, older_than_days } = sent;
    if !directory.is_absolute() {
        return Err(AdminRefusal::malformed("the directory of an archive begins with a /"));
    }
    let which = match (keep, older_than_days) {
        (Some(segments), None) => Which::AllBut(segments),
        (None, Some(days)) => Which::OlderThan { days },
        (Some(_), Some(_)) | (None, None) => {
            return Err(AdminRefusal::malformed("say either keep or older_than_days"));
        }
    };
    let (ledger, target) = (Arc::clone(&admin.ledger), directory.clone());
    let archived = blocking(move || ledger.archive(&target, which)).await?;
    let archived = archived.map_err(|why| match why {
        ArchiveError::Target(..) => AdminRefusal::unfit(why.to_string()),
        ArchiveError::Journal(_) => AdminRefusal::damaged(why.to_string()),
    })?;
    let made = Made { by: &by, action: Action::Archive, before: None, entry_id: None };
    admin.note(made, directory.display(), &archived).await?;
    Ok(Json(archived))
}

/// The journal, the secret without which no key is recognised in it, and the audit.
fn copy(ledger: &Ledger, audit: &AuditLog, directory: &Path) -> Result<Backup, BackupError> {
    let backup = ledger.backup(directory)?;
    let secret = directory.join(SECRET_FILE);
    fs::copy(ledger.directory().join(SECRET_FILE), &secret)
        .and_then(|_| fs::File::open(&secret)?.sync_all())
        .map_err(|why| BackupError::Target(secret, why))?;
    audit.copy_to(directory).map_err(|why| BackupError::Target(directory.to_owned(), why))?;
    Ok(backup)
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WhichUsage {
    /// From this day on, in UTC.
    #[param(value_type = Option<String>, format = Date)]
    from: Option<Timestamp>,
    /// Before this day, in UTC.
    #[param(value_type = Option<String>, format = Date)]
    to: Option<Timestamp>,
    /// Any of `day`, `model` and `key`, separated by commas.
    #[serde(default)]
    #[param(pattern = "^(|(day|model|key)(,(day|model|key))*)$")]
    by: String,
}

/// What a customer used and was charged, summed
#[utoipa::path(
    get,
    path = "/admin/v1/customers/{id}/usage",
    tag = "customers",
    operation_id = "customer_usage",
    params(("id" = CustomerId, Path), WhichUsage),
    responses((status = 200, description = "One line, or one for each day, model and key", body = Vec<UsageLine>), AdminRefusal)
)]
pub(super) async fn usage(
    State(admin): Shared,
    Named(id): Named,
    query: Result<Query<WhichUsage>, QueryRejection>,
) -> Answer<Vec<UsageLine>> {
    let Query(WhichUsage { from, to, by }) = query?;
    let id = CustomerId::parse(&id).ok_or_else(unknown_customer)?;
    admin.ledger.customer(id, |_| ()).ok_or_else(unknown_customer)?;
    let by = Dimension::parse_list(&by);
    let by = by.ok_or_else(|| AdminRefusal::malformed("usage is by day, model or key"))?;
    let within_a_day = |at: &Timestamp| at.micros().rem_euclid(DAY_MICROS) != 0;
    if from.iter().chain(&to).any(within_a_day) {
        return Err(AdminRefusal::malformed("usage is of whole days in UTC: give dates"));
    }
    let ledger = Arc::clone(&admin.ledger);
    let charges = blocking(move || ledger.usage(id, Window { after: Seq::START, from, to })).await?;
    let charges = charges.map_err(|why| AdminRefusal::unread(&why))?;
    Ok(Json(usage::lines(&charges, &by)))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WhichEntries {
    /// After this entry.
    #[serde(default)]
    after: Seq,
    /// `jsonl` unless asked otherwise.
    #[serde(default)]
    #[param(pattern = "^(jsonl|csv)$")]
    format: Option<Box<str>>,
}

/// Every entry after one, as lines, while they are read
#[utoipa::path(
    get,
    path = "/admin/v1/ledger/export",
    tag = "ledger",
    operation_id = "export_ledger",
    params(WhichEntries),
    responses((status = 200, description = "In order", content((String = "application/jsonl"), (String = "text/csv; charset=utf-8"))), AdminRefusal)
)]
pub(super) async fn export(
    State(admin): Shared,
    query: Result<Query<WhichEntries>, QueryRejection>,
) -> Result<Response, AdminRefusal> {
    let Query(WhichEntries { after, format }) = query?;
    let (form, kind) = match format.as_deref() {
        None | Some("jsonl") => (Form::Jsonl, "application/jsonl"),
        Some("csv") => (Form::Csv, "text/csv; charset=utf-8"),
        Some(_) => return Err(AdminRefusal::malformed("an export is jsonl or csv")),
    };
    let (chunks, mut line) = mpsc::channel(CHUNKS_MAX);
    let ledger = Arc::clone(&admin.ledger);
    tokio::task::spawn_blocking(move || send(&ledger, after, form, &chunks));
    // What cannot even begin is told, rather than broken off.
    let first = line.recv().await.transpose().map_err(|why: io::Error| AdminRefusal::unread(&why))?;
    let body = futures_util::stream::unfold((first, line), |(first, mut line)| async move {
        let chunk: io::Result<Bytes> = match first {
            Some(first) => Ok(first),
            None => line.recv().await?,
        };
        Some((chunk, (None, line)))
    });
    Ok(([(header::CONTENT_TYPE, kind)], Streamed::from_stream(body)).into_response())
}

/// Sends lines until the end, or until nobody reads them. An answer that ends with an error is cut
/// off, so that it is not taken for whole.
fn send(ledger: &Ledger, after: Seq, form: Form, chunks: &mpsc::Sender<io::Result<Bytes>>) {
    let mut buffer = Vec::with_capacity(CHUNK_BYTES);
    if form == Form::Csv && after == Seq::START {
        buffer.extend_from_slice(export::CSV_HEAD.as_bytes());
    }
    let read = ledger.export(after, |entry| {
        export::write(&entry, form, &mut buffer);
        if buffer.len() < CHUNK_BYTES {
            return ControlFlow::Continue(());
        }
        match chunks.blocking_send(Ok(std::mem::take(&mut buffer).into())) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    });
    let end = match read {
        Ok(()) => Ok(buffer.into()),
        Err(why) => {
            tracing::error!(%why, "an export broke off");
            Err(io::Error::from(why))
        }
    };
    // An error means that nobody reads any more.
    let _ = chunks.blocking_send(end);
}
