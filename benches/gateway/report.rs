//! Figures: medians over repeats, with the range that shows how noisy the machine was.

use super::cpu::Usage;
use super::load::{Counted, Kind};
use super::process::Cores;
use super::{Failed, Target};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// The aim: CPU of Tollgate for each request, ledger on, in that of bare Pingora.
const CPU_RATIO_AIM: f64 = 1.3;

/// What one run gave.
pub struct Run {
    rate: f64,
    cpu_us: f64,
    threads_us: BTreeMap<String, f64>,
    p50_us: f64,
    p99_us: f64,
}

impl Run {
    pub fn new(counted: &Counted, spent: Usage) -> Result<Self, Failed> {
        let count = f64::from(u32::try_from(counted.latencies_us.len())?);
        if counted.latencies_us.is_empty() {
            return Err("nothing was answered".into());
        }
        let each_us = |spent: Duration| spent.as_secs_f64() * 1e6 / count;
        Ok(Run {
            rate: count / counted.elapsed.as_secs_f64(),
            cpu_us: each_us(spent.total),
            threads_us: spent.threads.into_iter().map(|(name, spent)| (name, each_us(spent))).collect(),
            p50_us: percentile(&counted.latencies_us, 50),
            p99_us: percentile(&counted.latencies_us, 99),
        })
    }
}

/// One charge for each answer.
#[derive(Serialize)]
pub struct Proof {
    pub answers: u64,
    pub captures: u64,
    pub fsyncs: u64,
}

/// All runs.
pub struct Report {
    pub ledger: Option<Proof>,
    cores: Cores,
    connections: u16,
    length: Duration,
    repeats: u16,
    runs: Vec<(Target, Kind, Vec<Run>)>,
}

/// Over the repeats.
#[derive(Clone, Copy, Serialize)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_unstable_by(f64::total_cmp);
        let at = |place: usize| values.get(place).copied().unwrap_or_default();
        let last = values.len().saturating_sub(1);
        Spread { median: f64::midpoint(at(last / 2), at(last.div_ceil(2))), min: at(0), max: at(last) }
    }

    fn text(self, places: usize) -> String {
        let Spread { median, min, max } = self;
        format!("{median:.places$} ({min:.places$}..{max:.places$})")
    }
}

/// One target and one kind of answer.
#[derive(Serialize)]
struct Figures {
    target: &'static str,
    kind: &'static str,
    requests_per_second: Spread,
    cpu_us: Spread,
    /// To bare Pingora in the same repeat.
    cpu_ratio: Option<Spread>,
    p50_us: Spread,
    p99_us: Spread,
    cpu_us_by_thread: BTreeMap<String, f64>,
}

impl Report {
    pub fn new(cores: Cores, connections: u16, length: Duration, repeats: u16) -> Self {
        Report { ledger: None, cores, connections, length, repeats, runs: Vec::new() }
    }

    pub fn add(&mut self, target: Target, kind: Kind, run: Run) {
        match self.runs.iter_mut().find(|(of, what, _)| (*of, *what) == (target, kind)) {
            Some((_, _, runs)) => runs.push(run),
            None => self.runs.push((target, kind, vec![run])),
        }
    }

    pub fn print_json(&self) -> Result<(), Failed> {
        let report = json!({
            "pinned": self.cores == Cores::Pinned,
            "connections": self.connections,
            "seconds": self.length.as_secs_f64(),
            "repeats": self.repeats,
            "figures": self.figures(),
            "ledger": self.ledger,
        });
        println!("{}", serde_json::to_string(&report)?);
        Ok(())
    }

    pub fn print(&self) -> Result<(), Failed> {
        let pinned = match self.cores {
            Cores::Pinned => "gateway on core 1, mock and load on core 0",
            Cores::Unpinned => "NOT PINNED: no taskset, or a single core",
        };
        println!(
            "{} connections, {} x {:?} each, {pinned}; median (min..max)",
            self.connections, self.repeats, self.length
        );
        let figures = self.figures();
        for kind in Kind::ALL {
            let of_kind: Vec<&Figures> = figures.iter().filter(|f| f.kind == kind.name()).collect();
            if !of_kind.is_empty() {
                println!();
                print_kind(kind, &of_kind);
            }
        }
        if let Some(Proof { answers, captures, fsyncs }) = &self.ledger {
            println!("\nledger: {answers} answers, {captures} captures, {fsyncs} fsyncs: verified");
        }
        Ok(())
    }

    fn figures(&self) -> Vec<Figures> {
        let bare = |kind: Kind| self.runs.iter().find(|(of, what, _)| *of == Target::Bare && *what == kind);
        let figures = self.runs.iter().map(|(target, kind, runs)| {
            let over = |figure: fn(&Run) -> f64| Spread::of(runs.iter().map(figure));
            let pairs = bare(*kind).filter(|_| *target != Target::Direct);
            let pairs = pairs.map(|(_, _, bare)| runs.iter().zip(bare));
            let threads = runs.iter().flat_map(|run| run.threads_us.keys());
            let by_thread = |name: &String| {
                Spread::of(runs.iter().map(|run| run.threads_us.get(name).copied().unwrap_or_default()))
                    .median
            };
            Figures {
                target: target.name(),
                kind: kind.name(),
                requests_per_second: over(|run| run.rate),
                cpu_us: over(|run| run.cpu_us),
                cpu_ratio: pairs.map(|pairs| Spread::of(pairs.map(|(run, bare)| run.cpu_us / bare.cpu_us))),
                p50_us: over(|run| run.p50_us),
                p99_us: over(|run| run.p99_us),
                cpu_us_by_thread: threads.map(|name| (name.clone(), by_thread(name))).collect(),
            }
        });
        figures.collect()
    }
}

fn print_kind(kind: Kind, figures: &[&Figures]) {
    let latency = match kind {
        Kind::Plain => "latency",
        Kind::Stream => "first byte",
    };
    let p50 = format!("{latency} p50 us");
    println!(
        "{:<9} {:>25} {:>25} {:>18} {p50:>25} {:>25}",
        kind.name(),
        "answers/s",
        "CPU us/answer",
        "x bare",
        "p99 us"
    );
    for f in figures {
        println!(
            "{:<9} {:>25} {:>25} {:>18} {:>25} {:>25}",
            f.target,
            f.requests_per_second.text(0),
            f.cpu_us.text(1),
            f.cpu_ratio.map_or_else(String::new, |ratio| ratio.text(2)),
            f.p50_us.text(0),
            f.p99_us.text(0)
        );
    }
    for f in figures.iter().filter(|f| f.target != Target::Direct.name()) {
        let mut threads: Vec<_> = f.cpu_us_by_thread.iter().filter(|(_, us)| **us >= 0.05).collect();
        threads.sort_unstable_by(|a, b| b.1.total_cmp(a.1));
        let threads: Vec<String> = threads.iter().map(|(name, us)| format!("{name} {us:.1}")).collect();
        println!("{:<9} CPU us by thread: {}", f.target, threads.join(", "));
    }
    let ratio = figures.iter().find(|f| f.target == Target::Tollgate.name()).and_then(|f| f.cpu_ratio);
    if let Some(ratio) = ratio {
        let verdict = if ratio.median <= CPU_RATIO_AIM { "reached" } else { "missed" };
        println!(
            "tollgate  {:.2} x the CPU of bare Pingora; the aim of {CPU_RATIO_AIM} is {verdict}",
            ratio.median
        );
    }
}

/// Nearest rank, of sorted values.
fn percentile(sorted: &[u32], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().map_or(0.0, f64::from)
}
