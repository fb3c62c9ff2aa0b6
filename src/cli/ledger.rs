//! `ledger verify`.

use super::client::Client;
use super::table::{print, print_json};
use super::{Done, Failed};
use crate::ledger::{self, Verified};
use crate::settle;
use serde_json::json;
use std::path::Path;

/// Verifies the ledger of a running gateway.
pub fn verify(client: &Client) -> Done {
    show(&client.post("/ledger/verify", &json!({}))?, client.json)
}

/// Verifies a store that no gateway uses.
pub fn verify_stopped(store: &Path, json: bool) -> Done {
    let verified = ledger::verify_stopped(store, &settle::recompute).map_err(|why| match why {
        ledger::OpenError::InUse(path) => Failed::Failed(format!(
            "the store {} is in use: leave out --store to ask the gateway that uses it",
            path.display()
        )),
        other => Failed::Failed(other.to_string()),
    })?;
    show(&verified, json)
}

/// Prints what was verified.
pub fn show(verified: &Verified, json: bool) -> Done {
    if json {
        return print_json(verified);
    }
    let Verified { entries, captures, open_holds, head, deposits, revenue, written_off, balances, .. } =
        verified;
    print(&format!(
        "ledger ok: {entries} entries, {captures} captures, {open_holds} open holds\n\
         deposits {deposits} + written off {written_off} = balances {balances} + revenue {revenue}\n\
         head {head}\n"
    ))
}
