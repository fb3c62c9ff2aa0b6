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

/// Whether the names of its columns stand above what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// They do.
    With,
    /// They were written before.
    Without,
}

/// The columns of a statement.
pub const STATEMENT_HEAD: [&str; 11] = [
    "entry_id",
    "at",
    "kind",
    "amount",
    "balance_after",
    "available_after",
    "reference",
    "model",
    "price_version",
    "reason",
    "by",
];

/// A line of a statement, column by column.
pub fn statement_row(line: &StatementLine) -> [String; 11] {
    let text = |text: &Option<Box<str>>| text.as_deref().unwrap_or_default().to_owned();
    [
        line.entry_id.to_string(),
        line.at.to_string(),
        line.kind.to_string(),
        line.amount.to_string(),
        line.balance_after.to_string(),
        line.available_after.to_string(),
        line.reference.to_string(),
        text(&line.model),
        text(&line.price_version),
        text(&line.reason),
        text(&line.by),
    ]
}

/// Lines of a statement as CSV.
pub fn statement_csv(lines: &[StatementLine], head: Head) -> String {
    let head = (head == Head::With).then_some(&STATEMENT_HEAD[..]);
    csv(head, lines.iter().map(statement_row))
}

/// Rows of CSV, below the names of their columns, if these are given.
pub fn csv<Row: AsRef<[String]>>(head: Option<&[&str]>, rows: impl Iterator<Item = Row>) -> String {
    let mut text = head.map(|names| names.join(",") + "\r\n").unwrap_or_default();
    for row in rows {
        let cells: Vec<String> = row.as_ref().iter().map(|cell| csv_cell(cell)).collect();
        text.push_str(&cells.join(","));
        text.push_str("\r\n");
    }
    text
}

/// One JSON object a line.
pub fn jsonl(lines: &[impl Serialize]) -> String {
    let line = |line| serde_json::to_string(line).expect("a line is plain JSON") + "\n";
    lines.iter().map(line).collect()
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
