//! What it takes to label a charge for `usage`, beside a parse of its record: once for each charge of a
//! full segment.

use super::build;
use super::report::{Failed, line};
use serde::Deserialize;
use std::hint::black_box;
use std::time::{Duration, Instant};
use tollgate::record::usage::LABELS;
use tollgate::usage::{Class, Usage};

const ROUNDS: u32 = 200_000;

/// What a label is made of.
#[derive(Deserialize)]
struct Parsed {
    model: Box<str>,
    usage: Usage,
}

fn time(mut work: impl FnMut()) -> Duration {
    let begun = Instant::now();
    (0..ROUNDS).for_each(|_| work());
    begun.elapsed() / ROUNDS
}

/// Prints both, and what one is to the other.
pub fn run() -> Result<(), Failed> {
    let record = build::record();
    let parsed: Parsed = serde_json::from_slice(&record)?;
    let label = (LABELS.read)(&record);
    let output = Class::ALL.iter().position(|class| *class == Class::Output).ok_or("no output")?;
    if label.name != parsed.model || label.quantities[output] != parsed.usage.output {
        return Err("the label is not what the record says".into());
    }
    let read = time(|| {
        black_box((LABELS.read)(black_box(&record)));
    });
    let whole = time(|| {
        black_box(serde_json::from_slice::<Parsed>(black_box(&record)).map(|found| found.model)).ok();
    });
    let percent = read.as_nanos() * 100 / whole.as_nanos().max(1);
    line("the label of a charge", &format!("{read:.0?}, {percent} % of {whole:.0?} to parse its record"));
    Ok(())
}
