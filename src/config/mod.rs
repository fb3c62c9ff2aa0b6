//! The configuration as used: what [`load`] returns is complete and consistent.
//!
//! A file passes through `raw` (as written), `reader` (key by key, noting faults) and `validate`
//! (what belongs together), and becomes a [`Config`], or [`Faults`] that tell everything that is
//! wrong at once. Nothing here listens or connects; customers, keys and balances are not
//! configuration.
//!
//! *Architecture Invariant:* nothing is read from the environment or from a file but by [`load`].
//! No setting is ignored: an unknown key is a fault.

mod background;
mod base_url;
mod book;
mod change;
mod cors;
mod edge;
mod expand;
mod fault;
mod import;
mod locate;
mod nearest;
mod policy;
mod rates;
mod raw;
mod reader;
mod secret;
mod tls;
mod traces;
mod upstreams;
mod validate;

pub use base_url::{BaseUrl, Scheme};
pub use change::{AFTER_RESTART, Change, Takes, changes};
pub use fault::{Fault, Faults};
pub use secret::Secret;
pub use tls::{Authorities, Certificate, Tls};

use crate::money::Amount;
use crate::policy::content::Content;
use crate::policy::countries::Countries;
use crate::settle::price::PriceBook;
use crate::settle::price::books::PriceBooks;
use ipnet::IpNet;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Everything that an operator sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The listener that customers talk to.
    pub gateway: Gateway,
    /// The listener that the operator talks to.
    pub admin: Admin,
    /// The listener that Prometheus talks to.
    pub metrics: Metrics,
    /// Where the ledger lives.
    pub store_directory: PathBuf,
    /// What is sold, and for how much.
    pub prices: Arc<PriceBooks>,
    /// The pool, in the order of the file: at least one, with distinct names.
    pub upstreams: Vec<Upstream>,
    /// Who may be served, from where, and with what.
    pub policy: Policy,
    /// How requests wait when all accounts are full.
    pub queue: Queue,
    /// How often a request is tried.
    pub retry: Retry,
    /// What goes on when its request has been answered.
    pub background: Background,
    /// How tokens are counted.
    pub meter: Meter,
    /// What is told on standard output.
    pub log: Log,
    /// When it is read again.
    pub reload: Reload,
    /// Where spans go; none are made unless this is set.
    pub traces: Option<Arc<Traces>>,
    /// What was read for it: this file and those that it names.
    pub files: Vec<PathBuf>,
}

/// The listener that customers talk to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Addresses for HTTP/1.1 and h2c in clear text: at least one, unless there is `tls`. Port 0 takes any that is free.
    pub listen: Vec<SocketAddr>,
    /// The same over TLS, if at all.
    pub tls: Option<Tls>,
    /// Worker threads; `None`: one for each core.
    pub threads: Option<NonZeroUsize>,
    /// The largest request body.
    pub body_bytes_max: usize,
    /// All request bodies in memory at once; at least `body_bytes_max`.
    pub body_bytes_total_max: usize,
    /// For a whole request body.
    pub body_timeout: Duration,
    /// What keeps strangers from harming others.
    pub edge: Edge,
    /// Whose pages in browsers may call.
    pub cors_origins: Origins,
    /// Whether the customers' page is served.
    pub portal: Portal,
    /// How often a customer looks at their account, at least one.
    pub account_requests_per_minute: u64,
    /// Files that a customer uploads in 30 days; with none, there are neither files nor batches.
    pub files_per_customer_max: usize,
    /// For the next request on a connection.
    pub keepalive_timeout: Duration,
    /// For a client that does not read.
    pub write_timeout: Duration,
    /// For requests under way when asked to stop.
    pub drain_timeout: Duration,
}

/// Whether the customers' page is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Portal {
    /// It is.
    On,
    /// It is not.
    Off,
}

/// Whose pages in browsers may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// Anybody's.
    Any,
    /// Those of these origins, such as `https://app.example`.
    Listed(Arc<[Box<str>]>),
}

/// What keeps strangers from harming others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Connections at once.
    pub connections_max: usize,
    /// Connections at once from one address.
    pub connections_per_address_max: usize,
    /// Requests at once on one connection of HTTP/2.
    pub h2_streams_max: u32,
    /// Of each request's header.
    pub header: HeaderLimits,
    /// Keys that open nothing, from one address.
    pub failed_keys_per_minute: u64,
    /// Proxies in front, whose word counts for where a client is.
    pub trusted_proxies: Arc<[IpNet]>,
}

/// Bounds of a request's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderLimits {
    /// Its size, with its request line.
    pub bytes_max: usize,
    /// Its fields.
    pub fields_max: usize,
    /// From its first byte to its last.
    pub timeout: Duration,
}

/// The listener that the operator talks to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// An address on the loopback interface.
    pub listen: SocketAddr,
    /// What a request must present: at least 16 characters.
    pub token: Secret,
    /// Requests, at least one.
    pub requests_per_minute: u64,
    /// Requests with a wrong token or none that are told so, at least one.
    pub failed_tokens_per_minute: u64,
}

/// The listener that Prometheus talks to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Its address.
    pub listen: SocketAddr,
}

/// One upstream account: a pool member with a base URL and a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Its name in logs and metrics: 1 to 40 of `a-z`, `0-9` and `-`.
    pub name: Arc<str>,
    /// Which API it speaks.
    pub dialect: Dialect,
    /// Where requests go.
    pub base_url: BaseUrl,
    /// Which version of Azure's API is asked, at the paths of its deployments; `None`: paths as OpenAI has them.
    pub api_version: Option<Box<str>>,
    /// The credential, sent nowhere but to `base_url`.
    pub api_key: Secret,
    /// Who vouches for its certificate; those that the system trusts unless told otherwise.
    pub ca: Option<Authorities>,
    /// What it serves.
    pub models: Models,
    /// Its share of requests beside the others, from 1 to 1000.
    pub weight: u32,
    /// How it is watched.
    pub check: Check,
    /// Accounts of a smaller number are used before it.
    pub priority: u32,
    /// What it is given at most.
    pub limits: Limits,
    /// What happens when a client goes before the answer is complete.
    pub on_hang_up: OnHangUp,
    /// How far an answer is read on that nobody reads.
    pub drain: Drain,
    /// How long it may take.
    pub timeouts: Timeouts,
}

/// Which API an upstream account speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// OpenAI's, as many others speak it.
    OpenAi,
    /// Anthropic's, which serves messages alone.
    Anthropic,
    /// OpenAI's as Azure serves it: another header for the credential, and deployments for models.
    Azure,
}

impl Dialect {
    /// Whose API it is, as OpenTelemetry names providers.
    pub const fn provider(self) -> &'static str {
        match self {
            Dialect::OpenAi => "openai",
            Dialect::Azure => "azure.ai.openai",
            Dialect::Anthropic => "anthropic",
        }
    }
}

/// Which models an upstream account serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Models {
    /// Whatever is asked for, under the same name.
    All,
    /// These: from the name asked for to the provider's.
    Only(HashMap<Box<str>, Box<str>>),
}

impl Models {
    /// What the provider calls the model that is asked for; `None` when it is not served.
    pub fn provider_name<'a>(&'a self, asked: &'a str) -> Option<&'a str> {
        match self {
            Models::All => Some(asked),
            Models::Only(names) => names.get(asked).map(|name| &**name),
        }
    }
}

/// How the addresses of an upstream account are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Check {
    /// They are asked for their models, with the credential.
    Models,
    /// They are connected to.
    Connect,
}

/// What an upstream account is given at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests at once, at least one.
    pub concurrency: u32,
    /// Requests in any sixty seconds.
    pub requests_per_minute: Option<u64>,
    /// Tokens of input and output in any sixty seconds.
    pub tokens_per_minute: Option<u64>,
    /// US dollars, by the price book, in a day of UTC.
    pub spend_per_day: Option<Amount>,
}

/// What happens when a client goes before the answer is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnHangUp {
    /// Cancel, but drain where hidden reasoning would go unmeasured.
    Auto,
    /// Stop the upstream and charge what was delivered.
    Cancel,
    /// Read on, within bounds, to what the provider reports.
    Drain,
}

/// How far an answer is read on for a client that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// For at most this long.
    pub time: Duration,
    /// For about so many tokens of text, by their bytes.
    pub tokens_max: u64,
}

/// How long an upstream account may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// To accept a connection, TLS included.
    pub connect: Duration,
    /// To send the header of an answer that comes in pieces; `None`: as `silence`.
    pub first_byte: Option<Duration>,
    /// To send the first byte of its answer, and from each piece to the next.
    pub silence: Duration,
    /// From the request to the end of the answer.
    pub total: Duration,
}

/// Who may be served, from where, and with what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The version of the terms that customers must have accepted; `None`: any, or none.
    pub terms_version: Option<Arc<str>>,
    /// Where nobody is served.
    pub countries: Option<Arc<Countries>>,
    /// What nobody may ask for.
    pub content: Option<Arc<Content>>,
}

/// How requests wait when all accounts are full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// For at most this long; zero: not at all.
    pub wait: Duration,
    /// How many at once, for the same model.
    pub waiting_max: usize,
}

/// How often a request is tried, before the first byte of an answer reaches the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Attempts on different upstream accounts, the first included: at least one.
    pub attempts_max: u32,
    /// No new attempt begins after this.
    pub total: Duration,
    /// When a second one goes beside the first.
    pub hedge: Hedge,
}

/// After how long without a first byte another account is asked beside the first; `None`: never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hedge {
    /// Of an answer that is streamed.
    pub streamed: Option<Duration>,
    /// Of one that comes whole, which begins when it is complete.
    pub whole: Option<Duration>,
}

/// What goes on when its request has been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Background {
    /// Runs at once; zero: none are sold.
    pub runs_max: usize,
    /// Runs at once of one customer, at least one.
    pub runs_per_customer_max: usize,
    /// How long a run may take.
    pub run_timeout: Duration,
}

/// When the configuration is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reload {
    /// What asks for it.
    pub trigger: Trigger,
}

/// What asks for a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// SIGHUP.
    Signal,
    /// SIGHUP, and any change of what was read.
    Files,
}

/// How tokens are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meter {
    /// Of how many whole answers one is also counted, beside what its provider reports; 0: none.
    pub compare_one_in: u32,
}

/// What is told on standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// How lines look.
    pub format: LogFormat,
    /// Of how many requests that were served one is told; 0: none.
    pub success_one_in: u32,
}

/// Spans of requests, for a collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traces {
    /// Where the collector is; `/v1/traces` follows.
    pub otlp_url: BaseUrl,
    /// Of how many requests that came without a trace one is exported; 0: none.
    pub sample_one_in: u32,
    /// How many requests are exported in a minute because their clients ask for that.
    pub asked_per_minute: u64,
    /// What the spans are of.
    pub service_name: Arc<str>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For the eye.
    Text,
}

/// Reads the configuration file and what it refers to, with the environment of this process.
///
/// # Errors
/// Everything that is wrong, with its place.
pub fn load(path: &Path) -> Result<Config, Faults> {
    load_with(path, &|name| std::env::var(name).ok())
}

/// Like [`load`], with another environment.
///
/// # Errors
/// Everything that is wrong, with its place.
pub fn load_with(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, Faults> {
    validate::load(path, env)
}

pub use import::{Imported, import};

/// Reads a price book alone.
///
/// # Errors
/// Everything that is wrong, with its place.
pub fn load_prices(path: &Path) -> Result<PriceBook, Faults> {
    validate::load_prices(path, &|name| std::env::var(name).ok())
}

/// Reads the text of a price book.
#[cfg(test)]
fn load_prices_text(text: &str) -> Result<PriceBook, Faults> {
    let faults = |faults| Faults::of(faults).expect("what cannot be read has a fault");
    book::parse(Path::new("p.yaml"), text.to_owned(), &|_| None).map_err(faults)
}
