//! What the operator does with the ledger as a whole.

use super::refusal::AdminRefusal;
use super::routes::{Answer, Body, Shared, blocking};
use crate::auth::key::SECRET_FILE;
use crate::ledger::{Backup, BackupError, Chain, Ledger, Verified};
use crate::settle;
use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HowToVerify {
    /// A head that the ledger is known to have had.
    #[serde(default)]
    expect: Option<Chain>,
}

pub(super) async fn verify(State(admin): Shared, body: Body<HowToVerify>) -> Answer<Verified> {
    let Json(HowToVerify { expect }) = body?;
    let ledger = Arc::clone(&admin.ledger);
    let verified = blocking(move || ledger.verify(&settle::recompute, expect)).await?;
    verified.map(Json).map_err(|why| AdminRefusal::damaged(why.to_string()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WhereTo {
    /// On the gateway's machine.
    directory: PathBuf,
}

pub(super) async fn backup(State(admin): Shared, body: Body<WhereTo>) -> Answer<Backup> {
    let Json(WhereTo { directory }) = body?;
    if !directory.is_absolute() {
        return Err(AdminRefusal::malformed("the directory of a backup begins with a /"));
    }
    let ledger = Arc::clone(&admin.ledger);
    let copied = blocking(move || copy(&ledger, &directory)).await?;
    copied.map(Json).map_err(|why| match why {
        BackupError::Target(..) => AdminRefusal::malformed(why.to_string()),
        BackupError::Journal(_) => AdminRefusal::damaged(why.to_string()),
    })
}

/// The journal, and the secret without which no key is recognised in it.
fn copy(ledger: &Ledger, directory: &Path) -> Result<Backup, BackupError> {
    let backup = ledger.backup(directory)?;
    let secret = directory.join(SECRET_FILE);
    fs::copy(ledger.directory().join(SECRET_FILE), &secret)
        .and_then(|_| fs::File::open(&secret)?.sync_all())
        .map_err(|why| BackupError::Target(secret, why))?;
    Ok(backup)
}
