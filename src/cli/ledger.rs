//! `ledger verify`, `export`, `backup` and `rebuild`.

use super::client::Client;
use super::table::{print, print_json};
use super::{Done, Failed};
use crate::ledger::{self, Backup, Chain, OpenError, Rebuilt, Verified};
use crate::money::Amount;
use crate::settle;
use serde_json::json;
use std::io::{self, Read, Write};
use std::path::Path;

/// Verifies the ledger of a running gateway.
pub fn verify(client: &Client, expect: Option<Chain>) -> Done {
    show(&client.post("/ledger/verify", &json!({ "expect": expect }))?, client.json)
}

/// Verifies a store that no gateway uses.
pub fn verify_stopped(store: &Path, expect: Option<Chain>, json: bool) -> Done {
    let verified = ledger::verify_stopped(store, &settle::recompute, expect);
    let verified = verified.map_err(|why| match why {
        OpenError::InUse(path) => Failed::Failed(format!(
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
    print(&text(verified))
}

fn text(verified: &Verified) -> String {
    let Verified { entries, captures, open_holds, head, deposits, written_off, balances, revenue, .. } =
        verified;
    // Most books never see the others.
    let seldom = |what: &str, amount: Amount| match amount {
        Amount::ZERO => String::new(),
        amount => format!(" + {what} {amount}"),
    };
    let given = seldom("refunds", verified.refunds) + &seldom("adjustments", verified.adjustments);
    let taken = seldom("forfeited", verified.forfeited);
    let cost = match verified.cost {
        Amount::ZERO => String::new(),
        cost => format!("cost {cost}, margin {}\n", *revenue - verified.refunds - *written_off - cost),
    };
    let expected =
        verified.expected.map(|seq| format!("as expected: nothing up to entry {seq} was changed\n"));
    format!(
        "ledger ok: {entries} entries, {captures} captures, {open_holds} open holds\n\
         deposits {deposits} + written off {written_off}{given} = balances {balances} + revenue {revenue}{taken}\n\
         {cost}head {head}\n{}",
        expected.unwrap_or_default()
    )
}

/// `ledger backup`
pub fn backup(client: &Client, directory: &Path) -> Done {
    let directory = std::path::absolute(directory)
        .map_err(|why| Failed::Usage(format!("the directory {}: {why}", directory.display())))?;
    let backup: Backup = client.post("/ledger/backup", &json!({ "directory": directory }))?;
    if client.json {
        return print_json(&backup);
    }
    let Backup { entries, head, segments, bytes } = backup;
    print(&format!(
        "copied {entries} entries to {}: {segments} segments, {bytes} bytes\nhead {head}\n",
        directory.display()
    ))
}

/// How an export is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One JSON object a line
    Jsonl,
    /// For spreadsheets
    Csv,
}

/// `ledger export`
pub fn export(client: &Client, format: Format, after: u64) -> Done {
    let format = match format {
        Format::Jsonl => "jsonl",
        Format::Csv => "csv",
    };
    let mut lines = client.stream(&format!("/ledger/export?format={format}&after={after}"))?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = lines.read(&mut buffer).map_err(|why| {
            Failed::Failed(format!("the export broke off: {why}; resume with --after and the last entry_id"))
        })?;
        if read == 0 {
            return Ok(());
        }
        match io::stdout().write_all(&buffer[..read]) {
            Ok(()) => {}
            // Who reads has seen enough.
            Err(why) if why.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(why) => return Err(Failed::Failed(format!("standard output cannot be written: {why}"))),
        }
    }
}

/// `ledger rebuild`
pub fn rebuild(store: &Path, json: bool) -> Done {
    let rebuilt = ledger::rebuild(store).map_err(|why| match why {
        OpenError::InUse(path) => {
            Failed::Failed(format!("the store {} is in use: stop its gateway first", path.display()))
        }
        other => Failed::Failed(other.to_string()),
    })?;
    if json {
        return print_json(&rebuilt);
    }
    let Rebuilt { entries, indexed } = rebuilt;
    print(&format!("made again from {entries} entries: the state, and the index of {indexed} segments\n"))
}
