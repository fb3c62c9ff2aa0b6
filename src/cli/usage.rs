//! `usage`: what a customer used and was charged.

use super::client::Client;
use super::customer::Format;
use super::table::{layout, print, print_json};
use super::{Done, id, time};
use crate::clock::Timestamp;
use crate::id::CustomerId;
use crate::record::usage::{self, Dimension, UsageLine};
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

impl From<By> for Dimension {
    fn from(by: By) -> Self {
        match by {
            By::Day => Dimension::Day,
            By::Model => Dimension::Model,
            By::Key => Dimension::Key,
        }
    }
}

/// `usage`
pub fn run(client: &Client, asked: &Asked) -> Done {
    let by: Vec<Dimension> = asked.by.iter().map(|by| (*by).into()).collect();
    let names: Vec<&str> = by.iter().map(|dimension| dimension.name()).collect();
    let bound = |name: &str, at: Option<Timestamp>| at.map(|at| format!("&{name}={at}")).unwrap_or_default();
    let bounds = bound("from", asked.from) + &bound("to", asked.to);
    let path = format!("/customers/{}/usage?by={}{bounds}", asked.customer, names.join(","));
    let lines: Vec<UsageLine> = client.get(&path)?;
    match if client.json { Format::Jsonl } else { asked.format } {
        Format::Jsonl => lines.iter().try_for_each(print_json),
        Format::Csv => print(&usage::csv(&lines, &by)),
        Format::Table => {
            // For the eye, no column of zeros: few customers use all that there is.
            let used = |class: &Class| lines.iter().any(|line| line.usage.of(*class) > 0);
            let classes: Vec<Class> = Class::ALL.into_iter().filter(used).collect();
            let head = usage::head(&by, &classes);
            let right: Vec<usize> = (by.len()..head.len()).collect();
            print(&layout(&head, &usage::rows(&lines, &by, &classes).collect::<Vec<_>>(), &right))
        }
    }
}
