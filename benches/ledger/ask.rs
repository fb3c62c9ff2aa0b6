//! Opens the store that was built and asks it, in a process that did nothing else.

use super::Options;
use super::build::{customer, request, requests};
use super::report::{self, Failed};
use std::path::Path;
use std::time::Instant;
use tollgate::ledger::{Ledger, Window};
use tollgate::record::receipt::{Receipt, StatementLine};

/// Commands of one page of a statement.
const PAGES: [usize; 2] = [100, 1_000];

/// Opens and asks.
pub fn run(store: &Path, options: &Options) -> Result<(), Failed> {
    let before = report::resident()?;
    let begun = Instant::now();
    let (ledger, recovered) = Ledger::open(store, Box::new(|_| {})).map_err(|why| why.to_string())?;
    let opened = begun.elapsed();
    let after = report::resident()?;
    let told = format!("{opened:.0?}, {} entries, {} folded", recovered.entries, recovered.replayed);
    report::line("open", &told);
    report::line("  resident memory", &format!("{} more", report::mebibytes(after.saturating_sub(before))));

    let mut rng = fastrand::Rng::with_seed(7);
    let mut took = Vec::new();
    for _ in 0..options.reads {
        let request = request(rng.u64(0..requests(options)));
        let begun = Instant::now();
        let entries = ledger.entries_of_request(request)?;
        let receipt = Receipt::from_entries(&entries).ok_or("a request has no receipt")?;
        took.push(begun.elapsed());
        if receipt.request_id != request || &*receipt.status != "captured" {
            return Err(format!("the receipt of {request} is that of {}", receipt.request_id).into());
        }
    }
    report::line("a receipt", &report::percentiles(&mut took));
    for page in PAGES {
        let mut took = Vec::new();
        for _ in 0..options.reads / 10 {
            let owner = customer(rng.u64(0..options.customers));
            let begun = Instant::now();
            let entries = ledger.entries_of_customer(owner, Window::default(), page)?;
            let lines = entries.iter().map(StatementLine::from_entry).count();
            took.push(begun.elapsed());
            if lines == 0 || entries.iter().any(|entry| entry.customer != owner) {
                return Err(format!("the statement of {owner} is of another").into());
            }
        }
        report::line(&format!("the first {page} lines of a statement"), &report::percentiles(&mut took));
    }
    let end = report::resident()?;
    report::line("  resident memory", &format!("{} more", report::mebibytes(end.saturating_sub(before))));
    Ok(())
}
