//! The export: every entry as a line, for spreadsheets and for books that are kept elsewhere.

use super::receipt::StatementLine;
use crate::id::CustomerId;
use crate::ledger::{Change, Entry};
use crate::money::Amount;
use serde::Serialize;
use serde_json::value::RawValue;

/// How an export is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One JSON object a line, with the detail of each charge.
    Jsonl,
    /// For spreadsheets, below a line of names.
    Csv,
}

/// The names of what stands in a line of CSV.
pub const CSV_HEAD: &str = "entry_id,at,customer,kind,amount,balance_after,available_after,held_after,reference,model,price_version\r\n";

#[derive(Serialize)]
struct ExportLine<'a> {
    #[serde(flatten)]
    line: StatementLine,
    customer: CustomerId,
    held_after: Amount,
    detail: Option<&'a RawValue>,
}

/// Appends the line of an entry.
pub fn write(entry: &Entry, form: Form, out: &mut Vec<u8>) {
    let line = StatementLine::from_entry(entry);
    let (customer, held_after) = (entry.customer, entry.balance.held);
    match form {
        Form::Jsonl => {
            let detail = record(&entry.change).and_then(|record| serde_json::from_slice(record).ok());
            let line = ExportLine { line, customer, held_after, detail };
            serde_json::to_writer(&mut *out, &line).expect("a line is plain JSON");
            out.push(b'\n');
        }
        Form::Csv => {
            let StatementLine { entry_id, at, kind, amount, balance_after, available_after, .. } = &line;
            let text = format!(
                "{entry_id},{at},{customer},{kind},{amount},{balance_after},{available_after},{held_after},{},{},{}",
                csv_cell(&line.reference),
                csv_cell(line.model.as_deref().unwrap_or_default()),
                csv_cell(line.price_version.as_deref().unwrap_or_default()),
            );
            out.extend_from_slice(text.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// A cell of CSV after RFC 4180; what a spreadsheet would take for a formula is given as text.
pub fn csv_cell(cell: &str) -> String {
    let number = cell.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'.'));
    let formula = !number && cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let cell = if formula { format!("'{cell}") } else { cell.to_owned() };
    if cell.contains([',', '"', '\n', '\r']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell }
}

fn record(change: &Change) -> Option<&[u8]> {
    if let Change::Captured { record, .. } | Change::Released { record, .. } = change {
        Some(record)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spreadsheet_takes_no_cell_for_a_formula() {
        for (cell, expect) in [
            ("plain", "plain"),
            ("-0.50", "-0.50"),
            ("=cmd()", "'=cmd()"),
            ("-1+2", "'-1+2"),
            ("a,\"b\"", "\"a,\"\"b\"\"\""),
        ] {
            assert_eq!(csv_cell(cell), expect);
        }
    }
}
