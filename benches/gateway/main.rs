//! What the gateway costs beside bare Pingora: `cargo bench --bench gateway [-- --help]`.
//!
//! Five processes on loopback. A mock provider and this load generator share a core; on another
//! stands what is measured: nothing (the load goes straight to the mock), a Pingora that only passes
//! through, the same with one durable write for each answer, or the real `tollgate serve` with its ledger
//! on a real disk. All but the last are this same binary, started again with a role. CPU time is that of the whole process, so it holds up on a
//! busy machine better than the rates do; targets alternate, so that noise meets all of them.
//!
//! A run that had any answer but the expected one, or whose ledger does not hold exactly one charge
//! for each answer, has failed and has no figures.

mod append;
mod bare;
mod cpu;
mod gateway;
mod load;
mod mock;
mod process;
mod report;
mod wire;

use bare::Passes;
use clap::{Parser, ValueEnum};
use load::{Kind, Load};
use process::{Cores, Process};
use report::{Report, Run};
use std::fmt;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

/// The same as the `tollgate` binary's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Load before each run that is not counted: connections open, caches warm.
const WARM_UP: Duration = Duration::from_millis(500);

/// Measures Tollgate beside bare Pingora.
#[derive(Parser)]
#[command(name = "gateway")]
struct Options {
    /// Connections of the load generator, each with one request at a time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// Requests a second, the same for every target; without it, each gets as many as it answers.
    /// A target that is idle between requests pays for waking up: compare at one rate
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Length of one run
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Runs of each target
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    repeats: u16,
    /// One run of 2 seconds each: shows that it works
    #[arg(long)]
    quick: bool,
    /// One JSON object instead of tables
    #[arg(long)]
    json: bool,
    /// Only these targets; may be repeated
    #[arg(long)]
    target: Vec<Target>,
    /// Only this kind of answer
    #[arg(long)]
    kind: Option<Kind>,
    /// What this process is in the measurement
    #[arg(long, hide = true, default_value = "bench")]
    role: Role,
    /// Where the mock provider is, for the role that needs it
    #[arg(long, hide = true)]
    upstream: Option<SocketAddr>,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Role {
    Bench,
    Mock,
    Bare,
    Durable,
}

/// Where the load goes.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Target {
    /// Straight to the mock provider: the ceiling of the load side
    Direct,
    /// Through a Pingora that only passes through
    Bare,
    /// Through the same, which has something on the disk before an answer passes
    Durable,
    /// Through Tollgate
    Tollgate,
}

impl Target {
    const ALL: [Target; 4] = [Target::Direct, Target::Bare, Target::Durable, Target::Tollgate];

    const fn name(self) -> &'static str {
        match self {
            Target::Direct => "direct",
            Target::Bare => "bare",
            Target::Durable => "durable",
            Target::Tollgate => "tollgate",
        }
    }
}

/// Why there are no figures.
#[derive(Debug)]
struct Failed(String);

impl<E: fmt::Display> From<E> for Failed {
    fn from(why: E) -> Self {
        Failed(why.to_string())
    }
}

fn main() -> ExitCode {
    // `cargo test --benches` starts this too, and without `--bench`: there is nothing to test.
    if !std::env::args().any(|argument| argument == "--bench") {
        eprintln!("this measures: cargo bench --bench gateway");
        return ExitCode::SUCCESS;
    }
    let options = Options::parse();
    let done = match options.role {
        Role::Bench => bench(&options),
        Role::Mock => mock::run(),
        Role::Bare => bare::run(options.upstream, &Passes::AtOnce),
        Role::Durable => bare::run(options.upstream, &Passes::Durably),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed(why)) => {
            eprintln!("gateway bench: {why}");
            ExitCode::FAILURE
        }
    }
}

fn bench(options: &Options) -> Result<(), Failed> {
    let (repeats, seconds) = if options.quick { (1, 2.0) } else { (options.repeats, options.seconds) };
    let length = Duration::try_from_secs_f64(seconds)?;
    let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let cores = Cores::find();
    cores.take_load_core()?;

    let (mock, upstream) = Process::role("mock", None, cores.load(), folder.path())?;
    let (bare, bare_address) = Process::role("bare", Some(upstream), cores.gateway(), folder.path())?;
    let (durable, durable_address) =
        Process::role("durable", Some(upstream), cores.gateway(), folder.path())?;
    let gateway = gateway::start(upstream, cores.gateway(), folder.path())?;

    let mut report = Report::new(cores, options.connections, length, repeats);
    let mut answers = 0;
    for repeat in 0..repeats {
        for (target, kind) in plan(options, repeat) {
            let (address, process) = match target {
                Target::Direct => (upstream, &mock),
                Target::Bare => (bare_address, &bare),
                Target::Durable => (durable_address, &durable),
                Target::Tollgate => (gateway.address, &gateway.process),
            };
            let load = Load {
                address,
                kind,
                key: &gateway.key,
                connections: options.connections,
                rate: options.rate,
            };
            let (run, sent) = measure(&load, length, process)
                .map_err(|Failed(why)| Failed(format!("{} {}: {why}", target.name(), kind.name())))?;
            if target == Target::Tollgate {
                answers += sent;
            }
            report.add(target, kind, run);
        }
    }
    report.ledger = Some(gateway.prove(answers)?);
    if options.json { report.print_json() } else { report.print() }
}

/// Targets and kinds in the order of one repeat: every other one goes backwards.
fn plan(options: &Options, repeat: u16) -> Vec<(Target, Kind)> {
    let mut targets = Target::ALL.to_vec();
    targets.retain(|target| options.target.is_empty() || options.target.contains(target));
    if repeat % 2 == 1 {
        targets.reverse();
    }
    let mut kinds = Kind::ALL.to_vec();
    kinds.retain(|kind| options.kind.is_none_or(|only| only == *kind));
    kinds.iter().flat_map(|kind| targets.iter().map(|target| (*target, *kind))).collect()
}

/// One run, and how many answers it had with those of the warm-up.
fn measure(load: &Load<'_>, length: Duration, process: &Process) -> Result<(Run, u64), Failed> {
    let warm = load.run(WARM_UP)?;
    let before = cpu::Usage::of(process.id())?;
    let counted = load.run(length)?;
    let spent = cpu::Usage::of(process.id())?.since(&before);
    let sent = warm.count() + counted.count();
    Ok((Run::new(&counted, spent)?, sent))
}
