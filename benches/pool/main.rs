//! What the pool makes of its accounts: `cargo bench --bench pool [-- --help]`.
//!
//! Simulates a pool in virtual time, by a seed, with the selection, headroom, breakers, retry budget
//! and waiting line of the gateway, beside accounts taken in turn and at random by clients that come
//! back after a 429. The same seed gives the same figures.

mod simulation;

use clap::Parser;
use serde_json::json;
use simulation::{Figures, Plan, Policy};
use std::time::Duration;

const LOADS: [u32; 3] = [70, 95, 120];
const POLICIES: [(Policy, &str); 3] =
    [(Policy::Tollgate, "tollgate"), (Policy::RoundRobin, "round robin"), (Policy::Random, "random")];

/// Measures the pool in virtual time.
#[derive(Parser)]
#[command(name = "pool")]
struct Options {
    /// Gives the same figures again
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Virtual minutes that are measured, after three that are not
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(2..=600))]
    minutes: u64,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let options = Options::parse();
    if !options.json {
        println!("seed {}, {} minutes of virtual time", options.seed, options.minutes);
        println!(
            "{:<6} {:<12} {:>9} {:>9} {:>9} {:>7} {:>10} {:>9}",
            "LOAD", "POLICY", "REQUESTS", "AT ONCE", "SERVED", "429S", "P99 WAIT", "CAPACITY"
        );
    }
    for load_percent in LOADS {
        for (policy, name) in POLICIES {
            let measured = Duration::from_secs(options.minutes * 60);
            let figures = simulation::run(&Plan { policy, seed: options.seed, load_percent, measured });
            if options.json {
                as_json(load_percent, name, &figures)
            } else {
                line(load_percent, name, &figures)
            }
        }
    }
}

fn line(load_percent: u32, policy: &str, figures: &Figures) {
    let Figures { asked, served, at_once, refused_429, used, .. } = figures;
    let share = |part: &u32| format!("{:.2} %", f64::from(*part) * 100.0 / f64::from(*asked));
    println!(
        "{:<6} {policy:<12} {asked:>9} {:>9} {:>9} {refused_429:>7} {:>8.2} s {:>7.2} %",
        format!("{load_percent} %"),
        share(at_once),
        share(served),
        p99(figures).as_secs_f64(),
        used * 100.0
    );
}

fn as_json(load_percent: u32, policy: &str, figures: &Figures) {
    let Figures { asked, served, at_once, refused_429, used, .. } = figures;
    let line = json!({
        "load_percent": load_percent, "policy": policy, "requests": asked, "at_once": at_once,
        "served": served, "refused_429": refused_429, "p99_wait_ms": p99(figures).as_secs_f64() * 1_000.0,
        "capacity_used": used,
    });
    println!("{line}");
}

/// Of those that were served.
fn p99(figures: &Figures) -> Duration {
    let last = figures.waits.len().saturating_sub(1);
    figures.waits.get(last * 99 / 100).copied().unwrap_or_default()
}
