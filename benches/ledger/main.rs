//! What the ledger costs at size: `cargo bench --bench ledger [-- --help]`.
//!
//! Builds a store of many entries through the ledger itself, with its fsyncs, then opens it in a
//! process of its own and asks it for receipts and pages of statements. Then it measures holds and
//! captures, each waited for, beside the same work where nothing is synced (a store in memory) and
//! beside sled alone with a flush and a sync for each command, and the label of a charge beside a parse
//! of its record.
//!
//! A read that does not find what was written has failed, and the run with it.

mod ask;
mod build;
mod label;
mod report;
mod speed;

use clap::Parser;
use report::Failed;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

/// The same as the `tollgate` binary's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures the ledger at size.
#[derive(Parser)]
#[command(name = "ledger")]
struct Options {
    /// Entries of the store: two for each request, about 500 bytes each on disk
    #[arg(long, default_value_t = 10_000_000)]
    entries: u64,
    /// Customers of the store
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    customers: u64,
    /// Reads of each kind
    #[arg(long, default_value_t = 2_000)]
    reads: u64,
    /// Length of each measurement of holds and captures
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Where stores are made: a real disk
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    directory: PathBuf,
    /// Where the store stands that is never synced: a file system in memory
    #[arg(long, default_value = "/dev/shm")]
    memory: PathBuf,
    /// 100,000 entries and one second: shows that it works
    #[arg(long)]
    quick: bool,
    /// What this process is in the measurement
    #[arg(long, hide = true)]
    ask: Option<PathBuf>,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let mut options = Options::parse();
    if options.quick {
        (options.entries, options.seconds) = (100_000, 1.0);
    }
    let outcome = match &options.ask {
        Some(store) => ask::run(store, &options),
        None => run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("ledger bench: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Failed> {
    let folder = tempfile::tempdir_in(&options.directory)?;
    let store = folder.path().join("store");
    build::run(&store, options)?;
    let reads = options.reads.to_string();
    let (entries, customers) = (options.entries.to_string(), options.customers.to_string());
    let asked = Command::new(std::env::current_exe()?)
        .args(["--entries", &entries, "--customers", &customers, "--reads", &reads, "--ask"])
        .arg(&store)
        .status()?;
    if !asked.success() {
        return Err("the store could not be asked".into());
    }
    label::run()?;
    let seconds = Duration::from_secs_f64(options.seconds);
    speed::run(folder.path(), &options.memory, seconds)
}
