//! Tables and JSON on standard output.

use super::{Done, Failed};
use serde::Serialize;
use std::io::{self, Write};

/// Prints lines; a reader that has seen enough is no failure.
///
/// # Errors
/// When standard output cannot be written.
pub fn print(text: &str) -> Done {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Err(why) if why.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failed::Failed(format!("standard output cannot be written: {why}")))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Prints one JSON object on a line.
///
/// # Errors
/// When standard output cannot be written.
pub fn print_json(value: &impl Serialize) -> Done {
    let text = serde_json::to_string(value).expect("what is printed is plain JSON");
    print(&format!("{text}\n"))
}

/// Lays out rows below a head; columns as wide as their longest cell, those in `right` to the right.
pub fn layout(head: &[&str], rows: &[Vec<String>], right: &[usize]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (place, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let width = *width;
            line.push_str(&if right.contains(&place) {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            });
            line.push_str("  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
