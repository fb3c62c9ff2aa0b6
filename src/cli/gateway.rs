//! `serve`, `check` and `simulate`.

use super::table::{print, print_json};
use super::{Done, Failed};
use crate::app::{App, Begin, StartError};
use crate::clock::Timestamp;
use crate::config::{self, Config, LogFormat};
use crate::record::output::Prioritised;
use crate::settle::price::PriceBook;
use crate::simulate::{Options, Provider};
use clap::Args;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::EnvFilter;

/// What is checked.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct Check {
    /// The configuration
    #[arg(long)]
    config: Option<PathBuf>,
    /// A price book alone
    #[arg(long)]
    prices: Option<PathBuf>,
}

/// What the simulated provider does.
#[derive(Args)]
pub struct Simulate {
    /// Where it listens
    #[arg(long, default_value = "127.0.0.1:8000")]
    listen: SocketAddr,
    /// Milliseconds before the first byte of each answer
    #[arg(long, default_value_t = 0)]
    latency_ms: u64,
    /// Chunks of a streamed answer
    #[arg(long, default_value_t = 16)]
    chunks: u32,
    /// Milliseconds between chunks
    #[arg(long, default_value_t = 0)]
    pace_ms: u64,
    /// Answers of 500 in a million
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    error_ppm: u32,
    /// Answers of 429 in a million
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    rate_limited_ppm: u32,
    /// Requests a minute for each credential; more get 429
    #[arg(long)]
    requests_per_minute: Option<u32>,
    /// Only these credentials are good; may be repeated
    #[arg(long)]
    credential: Vec<String>,
    /// Append what was served, one JSON object a line
    #[arg(long)]
    log: Option<PathBuf>,
}

/// `serve`
pub fn serve(path: &Path, begin: Begin) -> Done {
    let config = load(path)?;
    let _log = start_log(config.log.format);
    let again = path.to_owned();
    let app =
        App::start(&config, Box::new(move || config::load(&again)), begin).map_err(|why| match why {
            StartError::Upstream(what) => Failed::Usage(format!("upstream {what}")),
            other => Failed::Failed(other.to_string()),
        })?;
    let recovered = &app.recovered;
    if let Some(why) = &recovered.rebuilt {
        tracing::warn!(why, "the state was made anew from the journal");
    }
    recovered.expired.tell("requests were in flight when the store was last in use");
    if recovered.torn_bytes > 0 {
        tracing::warn!(recovered.torn_bytes, "an unfinished write was cut off the end of the journal");
    }
    tracing::info!(
        gateway = ?app.addresses.gateway,
        tls = ?app.addresses.tls,
        admin = %app.addresses.admin,
        metrics = %app.addresses.metrics,
        store = %config.store_directory.display(),
        entries = recovered.entries.0,
        replayed = recovered.replayed,
        indexed = recovered.indexed,
        taken_over = app.guests > 0,
        process = std::process::id(),
        "serving"
    );
    app.run();
    Ok(())
}

/// `check`
pub fn check(what: &Check, json: bool) -> Done {
    let (path, checked) = match (&what.config, &what.prices) {
        (Some(path), _) => (path, config::load(path).map(|config| Checked::of(&config))),
        (None, Some(path)) => (path, config::load_prices(path).map(|book| Checked::of_book(&book))),
        (None, None) => return Err(Failed::Usage("name a file by --config or --prices".into())),
    };
    match checked {
        Ok(checked) if json => print_json(&serde_json::json!({
            "ok": true, "faults": [], "models": checked.models, "prices": checked.prices, "upstreams": checked.upstreams,
            "after_restart": config::AFTER_RESTART
        })),
        Ok(Checked { models, prices, upstreams }) => {
            let pool = upstreams.map(|count| format!(", {count} upstream accounts")).unwrap_or_default();
            print(&format!("{}: ok, {models} models at prices {prices}{pool}\n", path.display()))?;
            if what.config.is_some() {
                let fixed = config::AFTER_RESTART.join(", ");
                print(&format!("a reload takes all changes but of {fixed}: those take a restart\n"))?;
            }
            Ok(())
        }
        Err(faults) => {
            if json {
                print_json(&serde_json::json!({ "ok": false, "faults": faults }))?;
            } else {
                eprintln!("{faults}");
            }
            Err(Failed::Usage(format!("{} cannot be used", path.display())))
        }
    }
}

/// What is in a file without faults.
struct Checked {
    models: usize,
    prices: String,
    upstreams: Option<usize>,
}

impl Checked {
    fn of(config: &Config) -> Self {
        Checked {
            models: config.prices.at(Timestamp::now()).models.len(),
            prices: config.prices.to_string(),
            upstreams: Some(config.upstreams.len()),
        }
    }

    fn of_book(book: &PriceBook) -> Self {
        Checked { models: book.models.len(), prices: book.version.to_string(), upstreams: None }
    }
}

/// `simulate`
pub fn simulate(asked: &Simulate) -> Done {
    let options = Options {
        latency: Duration::from_millis(asked.latency_ms),
        chunks: asked.chunks,
        pace: Duration::from_millis(asked.pace_ms),
        error_ratio_ppm: asked.error_ppm,
        rate_limited_ppm: asked.rate_limited_ppm,
        requests_per_minute: asked.requests_per_minute,
        credentials: asked.credential.clone(),
        log_file: asked.log.clone(),
        ..Options::default()
    };
    let failed = |why: std::io::Error| Failed::Failed(format!("the simulated provider: {why}"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(asked.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        // Before anything is said: who reads it may send the signal at once.
        let mut interrupted = signal(SignalKind::interrupt()).map_err(failed)?;
        print(&format!(
            "the simulated provider serves http://{address}/v1 and shows what it served at /simulate/log\n"
        ))?;
        tokio::select! {
            served = Provider::new(options).serve(listener) => served.map_err(failed),
            _ = interrupted.recv() => Ok(()),
        }
    })
}

fn load(path: &Path) -> Result<Config, Failed> {
    config::load(path).map_err(|faults| {
        eprintln!("{faults}");
        Failed::Usage(format!("{} cannot be used", path.display()))
    })
}

/// Log lines go to standard output, by a thread of their own; levels by module come from
/// `TOLLGATE_LOG`. What the guard has not written is lost with it.
fn start_log(format: LogFormat) -> WorkerGuard {
    let (writer, guard) = tracing_appender::non_blocking(std::io::stdout());
    let filter = EnvFilter::try_from_env("TOLLGATE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Prioritised(writer));
    let started = match format {
        LogFormat::Json => log.json().flatten_event(true).with_current_span(false).try_init(),
        LogFormat::Text => log.try_init(),
    };
    if let Err(why) = started {
        eprintln!("tollgate: no log: {why}");
    }
    guard
}
