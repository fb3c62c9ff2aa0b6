//! `usage`: what a customer used and was charged.

use super::client::Client;
use super::customer::Format;
use super::table::{layout, print, print_json};
use super::{Done, id, time};
use crate::clock::Timestamp;
use crate::id::CustomerId;
use crate::record::export::csv_cell;
use crate::record::usage::UsageLine;
use crate::usage::Class;
use clap::Args;

/// What is asked for.
#[derive(Args)]
pub struct Asked {
    /// Whose
    #[arg(long, value_parser = id::<CustomerId>)]
    customer: CustomerId,
    /// Not before this date
    #[arg(long, value_parser = time)]
    from: Option<Timestamp>,
    /// Before this date
    #[arg(long, value_parser = time)]
    to: Option<Timestamp>,
    /// A line for each day (in UTC), model or key, or each of several
    #[arg(long, value_enum, value_delimiter = ',')]
    by: Vec<By>,
    /// How it is printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// What lines are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum By {
    Day,
    Model,
    Key,
}

impl By {
    const fn name(self) -> &'static str {
        match self {
            By::Day => "day",
            By::Model => "model",
            By::Key => "key",
        }
    }

    fn of(self, line: &UsageLine) -> String {
        match self {
            By::Day => line.day.as_deref().unwrap_or_default().to_owned(),
            By::Model => line.model.as_deref().unwrap_or_default().to_owned(),
            By::Key => line.key.map(|key| key.to_string()).unwrap_or_default(),
        }
    }
}

/// `usage`
pub fn run(client: &Client, asked: &Asked) -> Done {
    let by: Vec<&str> = asked.by.iter().map(|by| by.name()).collect();
    let bound = |name: &str, at: Option<Timestamp>| at.map(|at| format!("&{name}={at}")).unwrap_or_default();
    let bounds = bound("from", asked.from) + &bound("to", asked.to);
    let path = format!("/customers/{}/usage?by={}{bounds}", asked.customer, by.join(","));
    let lines: Vec<UsageLine> = client.get(&path)?;
    let format = if client.json { Format::Jsonl } else { asked.format };
    // For the eye, no column of zeros: few customers use all that there is.
    let shown = |class: &Class| format != Format::Table || lines.iter().any(|line| line.usage.of(*class) > 0);
    let classes: Vec<Class> = Class::ALL.into_iter().filter(shown).collect();
    let names = classes.iter().map(|class| class.name());
    let head: Vec<&str> = by.iter().copied().chain(["requests"]).chain(names).chain(["charge"]).collect();
    let rows: Vec<Vec<String>> = lines.iter().map(|line| row(line, &asked.by, &classes)).collect();
    match format {
        Format::Jsonl => lines.iter().try_for_each(print_json),
        Format::Table => {
            let right: Vec<usize> = (by.len()..head.len()).collect();
            print(&layout(&head, &rows, &right))
        }
        Format::Csv => {
            let mut text = format!("{}\r\n", head.join(","));
            for row in &rows {
                let cells: Vec<String> = row.iter().map(|cell| csv_cell(cell)).collect();
                text.push_str(&format!("{}\r\n", cells.join(",")));
            }
            print(&text)
        }
    }
}

fn row(line: &UsageLine, by: &[By], classes: &[Class]) -> Vec<String> {
    let mut row: Vec<String> = by.iter().map(|by| by.of(line)).collect();
    row.push(line.requests.to_string());
    row.extend(classes.iter().map(|class| line.usage.of(*class).to_string()));
    row.push(line.charge.to_string());
    row
}
