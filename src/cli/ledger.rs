//! `ledger verify`, `export`, `backup`, `archive` and `rebuild`.

use super::client::Client;
use super::table::{print, print_json};
use super::{Done, Failed};
use crate::ledger::{self, Archived, Backup, Chain, OpenError, Rebuilt, Unseen, Verified};
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
    if json { print_json(verified) } else { print(&text(verified)) }?;
    let (Some(first), Some(last)) = (verified.unseen.first(), verified.unseen.last()) else { return Ok(()) };
    let entries = format!("entries from {} to {}", first.first, last.last);
    Err(Failed::Unseen(format!("not all was verified: of the {entries}, what is archived is out of reach")))
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
    let unseen = verified.unseen.iter().map(|Unseen { file, first, last, before, head }| {
        format!("not seen: entries {first} to {last}, {}\n  from {before}\n  to   {head}\n", file.display())
    });
    format!(
        "ledger ok: {entries} entries, {captures} captures, {open_holds} open holds\n\
         deposits {deposits} + written off {written_off}{given} = balances {balances} + revenue {revenue}{taken}\n\
         {cost}{}head {head}\n{}",
        unseen.collect::<String>(),
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
    let Backup { entries, head, segments, bytes, unseen } = backup;
    let left = match unseen {
        0 => String::new(),
        unseen => {
            format!("{unseen} archived segments are out of reach: their indexes were copied, they were not\n")
        }
    };
    print(&format!(
        "copied {entries} entries to {}: {segments} segments, {bytes} bytes\n{left}head {head}\n",
        directory.display()
    ))
}

/// Which segments are archived: the oldest ones.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
pub struct Which {
    /// All full ones but so many of the newest
    #[arg(long, value_name = "SEGMENTS")]
    keep: Option<usize>,
    /// Those whose last entry is older than so many days
    #[arg(long, value_name = "DAYS")]
    older_than: Option<u32>,
}

/// `ledger archive`
pub fn archive(client: &Client, directory: &Path, which: &Which) -> Done {
    let directory = std::path::absolute(directory)
        .map_err(|why| Failed::Usage(format!("the directory {}: {why}", directory.display())))?;
    let body = json!({ "directory": directory, "keep": which.keep, "older_than_days": which.older_than });
    let archived: Archived = client.post("/ledger/archive", &body)?;
    if client.json {
        return print_json(&archived);
    }
    let Archived { segments, bytes, first, last, head } = archived;
    let (Some(first), Some(last), Some(head)) = (first, last, head) else {
        return print("nothing to archive: the segment that is being written stays\n");
    };
    print(&format!(
        "moved entries {first} to {last} to {}: {segments} segments, {bytes} bytes\nhead {head}\n",
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
