//! The composition root: opens, binds, wires and runs everything, and ends it in order.
//!
//! Order of a start: listeners, so that a taken port is told before anything is touched; the
//! pool; the ledger, for which requests may wait; the services. Order of an end: stop accepting, let
//! requests finish, make the last entries durable. A process that runs can be replaced by
//! [`handover`].

mod content;
mod drain;
mod files;
pub mod handover;
mod notify;
mod operator;
mod reload;
mod spend;

use crate::admin::{self, Admin, AuditLog, Rates, Scrape};
use crate::admit::Admission;
use crate::admit::content::Judge;
use crate::admit::gate::Gates;
use crate::admit::limits::Limits;
use crate::admit::looks::Looks;
use crate::admit::running::Running;
use crate::admit::strangers::FailedKeys;
use crate::auth::Directory;
use crate::auth::key::{Digester, SECRET_FILE};
use crate::config::Config;
use crate::ledger::{KeyStatus, Ledger, OpenError, Recovered};
use crate::live::{Current, Live};
use crate::proxy::compare::Comparer;
use crate::proxy::context::BodyBudget;
use crate::proxy::files::{Transfers, Uploads};
use crate::proxy::listen::{Bound, Left, Listening, Sockets};
use crate::proxy::runs::Runs;
use crate::proxy::{AskedFor, Gateway, Serving};
use crate::record::access::AccessLog;
use crate::record::metrics::Metrics;
use crate::record::spans::Spans;
use crate::record::usage::LABELS;
use crate::settle::price::books::PriceBooks;
use crate::upstream::Pool;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use drain::{Drain, Ends};
use handover::{Counted, Guests, Handover, Kept, Role, TakeError, Taken, Taking};
use notify::Notify;
use operator::Operator;
use parking_lot::Mutex;
use pingora::connectors::ConnectorOptions;
use pingora::connectors::http::Connector;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server, ShutdownWatch};
use pingora::services::background::{BackgroundService, background_service};
pub use reload::Load;
use reload::Reload;
use ring::rand::{SecureRandom, SystemRandom};
use spend::{Keep, Spend};
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Instant;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Kept-alive connections to providers, over all accounts.
const KEPT_ALIVE_MAX: usize = 4_096;
/// More attempts than any configuration asks for: our own bound is reached first.
const ATTEMPTS_MAX: usize = 32;

/// Why a gateway does not start.
#[derive(Debug)]
pub enum StartError {
    /// An address cannot be listened on.
    Listen(SocketAddr, io::Error),
    /// The store cannot be opened.
    Store(OpenError),
    /// The secret of the key digests cannot be read or made.
    Secret(io::Error),
    /// The audit cannot be opened.
    Audit(io::Error),
    /// What is limited cannot be read: a later version wrote it.
    Limits(String),
    /// An upstream account cannot be used.
    Upstream(String),
    /// Nothing can be taken over from the process that runs.
    Handover(TakeError),
    /// Threads or runtimes cannot be made.
    System(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Listen(address, why) => write!(f, "cannot listen on {address}: {why}"),
            StartError::Store(why) => write!(f, "{why}"),
            StartError::Secret(why) => write!(f, "the secret of the key digests: {why}"),
            StartError::Audit(why) => write!(f, "the audit of the store: {why}"),
            StartError::Limits(why) => write!(f, "limits of {why}"),
            StartError::Upstream(why) => write!(f, "upstream {why}"),
            StartError::Handover(why) => write!(f, "{why}"),
            StartError::System(why) => write!(f, "{why}"),
        }
    }
}

impl std::error::Error for StartError {}

/// Where a gateway listens.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Addresses {
    /// For customers.
    pub gateway: Vec<SocketAddr>,
    /// For customers, over TLS.
    pub tls: Vec<SocketAddr>,
    /// For the operator.
    pub admin: SocketAddr,
    /// For Prometheus.
    pub metrics: SocketAddr,
}

impl Addresses {
    fn of(gateway: &Sockets, admin: &Bound, metrics: &Bound) -> Self {
        let bound = |sockets: &[Bound]| sockets.iter().map(|bound| bound.address).collect();
        let (plain, tls) = (bound(&gateway.plain), bound(&gateway.tls));
        Addresses { gateway: plain, tls, admin: admin.address, metrics: metrics.address }
    }
}

/// How a gateway begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// By itself.
    Afresh,
    /// In the place of the process that uses the store, if there is one.
    Upgrade,
}

/// A gateway that is ready to run.
pub struct App {
    /// Where it listens; connections wait until it runs.
    pub addresses: Addresses,
    /// What was found in the store.
    pub recovered: Recovered,
    /// Processes that finish their requests, and have this one keep their books.
    pub guests: usize,
    server: Server,
    ledger: Arc<Ledger>,
    ends: Ends,
}

/// What is made before the ledger is opened.
struct Prepared {
    gateway: Sockets,
    admin: Bound,
    metrics_at: Bound,
    kept: Vec<Kept>,
    metrics: Arc<Metrics>,
    live: Current,
    signals: Signals,
}

impl App {
    /// Binds, opens and wires. Nothing is served before [`App::run`].
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(config: &Config, load: Load, begin: Begin) -> Result<App, StartError> {
        let mut taking = match begin {
            Begin::Afresh => None,
            Begin::Upgrade => Taking::begin(&config.store_directory).map_err(StartError::Handover)?,
        };
        let prepared = prepare(config, taking.as_mut())?;
        let (ledger, recovered) = open_ledger(config, &prepared.metrics, taking.as_mut())?;
        let (directory, digester) = open_directory(&ledger)?;
        let gates = Arc::new(open_gates(&ledger)?);
        let access = AccessLog::start(Arc::clone(&ledger), Arc::clone(&prepared.metrics))
            .map_err(StartError::System)?;
        let (live, metrics) = (Arc::clone(&prepared.live), Arc::clone(&prepared.metrics));
        let target = Box::new(move || live.load().config.traces.clone());
        let spans = Spans::start(target, metrics).map_err(StartError::System)?;
        let audit = AuditLog::open(ledger.directory()).map_err(StartError::Audit)?;
        // The last that may fail: from here on the ledger is this process's.
        let taken = taking.map(|taking| taking.confirm(&ledger)).transpose().map_err(StartError::Handover)?;
        let taken = taken.unwrap_or_default();
        let opened = Opened { ledger, recovered, directory, digester, gates, access, spans, audit, taken };
        Ok(wire(config, load, prepared, opened))
    }

    /// Serves until a signal ends it: SIGTERM lets requests finish, SIGINT does not.
    pub fn run(self) {
        self.server.run(RunArgs { shutdown_signal: Box::new(self.ends) });
        self.ledger.close();
    }
}

/// The ledger, and what was made from it.
struct Opened {
    ledger: Arc<Ledger>,
    recovered: Recovered,
    directory: Arc<Directory>,
    digester: Digester,
    gates: Arc<Gates>,
    access: AccessLog,
    spans: Spans,
    audit: AuditLog,
    taken: Taken,
}

fn prepare(config: &Config, mut taking: Option<&mut Taking>) -> Result<Prepared, StartError> {
    let mut kept = Vec::new();
    let mut bind = |role, address: &SocketAddr| {
        let taken = taking.as_mut().and_then(|taking| taking.listener(role, *address));
        let bound = bind(address, taken)?;
        let listener = bound.listener.try_clone().map_err(StartError::System)?;
        kept.push(Kept { role, address: *address, listener });
        Ok::<_, StartError>(bound)
    };
    let tls = config.gateway.tls.as_ref().map_or(&[][..], |tls| &tls.listen);
    let plain = config.gateway.listen.iter().map(|address| bind(Role::Plain, address));
    let plain = plain.collect::<Result<Vec<_>, _>>()?;
    let tls = tls.iter().map(|address| bind(Role::Tls, address)).collect::<Result<Vec<_>, _>>()?;
    let admin = bind(Role::Admin, &config.admin.listen)?;
    let metrics_at = bind(Role::Metrics, &config.metrics.listen)?;
    let live = Live::new(config.clone()).map_err(StartError::Upstream)?;
    let signals = settle(&live.pool)?;
    warm(&config.prices);
    let (gateway, live) = (Sockets { plain, tls }, Arc::new(ArcSwap::from_pointee(live)));
    Ok(Prepared { gateway, admin, metrics_at, kept, metrics: Arc::new(Metrics::new()), live, signals })
}

/// What serves customers.
fn gateway(
    config: &Config,
    opened: &Opened,
    (live, metrics, running): (&Current, &Arc<Metrics>, &Running),
    (judge, serving, runs): (Judge, Serving, &Arc<Runs>),
) -> Gateway {
    Gateway {
        judge,
        serving,
        access: opened.access.clone(),
        spans: opened.spans.clone(),
        directory: Arc::clone(&opened.directory),
        gates: Arc::clone(&opened.gates),
        admission: Arc::new(Admission::new(Arc::clone(&opened.ledger), running.clone())),
        live: Arc::clone(live),
        ledger: Arc::clone(&opened.ledger),
        metrics: Arc::clone(metrics),
        comparer: Comparer::new(Arc::clone(metrics)),
        asked_for: AskedFor::default(),
        failed_keys: FailedKeys::default(),
        looks: Looks::default(),
        budget: BodyBudget::default(),
        connector: Connector::new(Some(ConnectorOptions::from_server_conf(&server_conf(config)))),
        fetcher: Arc::clone(runs.fetcher()),
        runs: Arc::clone(runs),
        uploads: Uploads::default(),
        downloads: Transfers::default(),
        keepalive: config.gateway.keepalive_timeout,
    }
}

/// Everything is there: puts it together.
fn wire(config: &Config, load: Load, prepared: Prepared, opened: Opened) -> App {
    let Prepared { gateway: sockets, admin: admin_at, metrics_at, kept, metrics, live, signals } = prepared;
    let addresses = Addresses::of(&sockets, &admin_at, &metrics_at);
    let running = Running::default();
    let (serving, is_serving) = watch::channel(None);
    let (left, has_left) = watch::channel(Left::No);
    let (judge, rules) = content::judge(&opened.ledger, &running, opened.digester.clone(), &live, &metrics);
    let (on_violation, beside) = (content::count(&live, judge.counter()), judge.clone());
    let runs = Arc::new(Runs::new(Arc::clone(&opened.ledger), Arc::clone(&live), Arc::clone(&metrics)));
    let gateway = gateway(config, &opened, (&live, &metrics, &running), (judge, serving, &runs));
    let counted = Counted::new(Arc::clone(&live), Arc::clone(&opened.gates));
    let Opened { ledger, recovered, directory, digester: _, gates, access, spans, audit, taken } = opened;
    let Taken { guests, before } = taken;
    let mut server = Server::new_with_opt_and_conf(None, server_conf(config));
    let notify = Notify { serving: is_serving, status: reload::status(config), left: has_left.clone() };
    server.add_service(background_service("notify", notify));
    let conf = Arc::clone(&server.configuration);
    server.bootstrap();
    server.add_service(Listening::new(&conf, gateway, sockets, has_left.clone()));
    let admin = Admin {
        ledger: Arc::clone(&ledger),
        directory,
        gates,
        setting: tokio::sync::Mutex::default(),
        audit,
        rates: Rates::default(),
        failures: access.failures(),
        running: running.clone(),
        live: Arc::clone(&live),
    };
    let scrape =
        Scrape { metrics: Arc::clone(&metrics), ledger: Arc::clone(&ledger), live: Arc::clone(&live) };
    let operator = operator((admin_at, admin), (metrics_at, scrape));
    server.add_service(background_service("admin", operator::Serving(Arc::clone(&operator))));
    server.add_service(background_service("queue", HandOut(Arc::clone(&live))));
    let spend = Spend::restore(ledger.directory(), &live, has_left.clone());
    counted.take_over(&before);
    server.add_service(background_service("spend", Keep(Arc::clone(&spend))));
    server.add_service(background_service("content", rules));
    server.add_service(background_service("runs", LookAfter(runs)));
    let Signals { hangup, quit, terminate, interrupt } = signals;
    let (started, hangup) = (config.clone(), Mutex::new(Some(hangup)));
    let reload = Reload { load, live: Arc::clone(&live), started, metrics: Arc::clone(&metrics), hangup };
    server.add_service(background_service("reload", reload));
    let served = Arc::new(Guests::new(Arc::clone(&ledger), counted.clone(), running.stops(), on_violation));
    let drain = Drain {
        metrics,
        judge: beside,
        ledger: Arc::clone(&ledger),
        guests: Arc::clone(&served),
        counted: counted.clone(),
        access,
        spans,
        spend,
        left: has_left.clone(),
        timeout: config.gateway.drain_timeout,
    };
    server.add_service(background_service("drain", drain));
    // Open before it is told that this serves: who is to take its place may be started then.
    let (count, door) = (guests.len(), handover::open_door(ledger.directory()));
    let begin = handover::Start { door, quit, listeners: kept, guests };
    let handover = Handover::new(begin, (Arc::clone(&ledger), counted), operator, served, running, left);
    server.add_service(background_service("handover", handover));
    let ends = Ends {
        terminate: Mutex::new(Some(terminate)),
        interrupt: Mutex::new(Some(interrupt)),
        left: has_left,
    };
    App { addresses, recovered, guests: count, server, ledger, ends }
}

fn operator((admin_at, admin): (Bound, Admin), (metrics_at, scrape): (Bound, Scrape)) -> Arc<Operator> {
    Arc::new(Operator::new(vec![
        (admin_at.listener, admin::router(Arc::new(admin))),
        (metrics_at.listener, admin::metrics_router(Arc::new(scrape))),
    ]))
}

/// A listener of this address: the one that was taken over, or a new one.
fn bind(address: &SocketAddr, taken: Option<TcpListener>) -> Result<Bound, StartError> {
    let failed = |why| StartError::Listen(*address, why);
    let listener = taken.map_or_else(|| TcpListener::bind(address), Ok).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(Bound { address: listener.local_addr().map_err(failed)?, listener })
}

/// Limits that cannot be read must not be taken for none.
fn open_gates(ledger: &Ledger) -> Result<Gates, StartError> {
    let gates = Gates::default();
    let mut faults = Vec::new();
    let mut read = |whose: &dyn fmt::Display, limits: &[u8], set: &dyn Fn(Limits)| {
        if !limits.is_empty() {
            Limits::parse(limits).map_or_else(|why| faults.push(format!("{whose}: {why}")), set);
        }
    };
    ledger.each_customer(|customer, found| {
        read(&customer, &found.limits, &|limits| gates.set_customer(customer, limits));
        for (key, known) in found.keys.iter().filter(|(_, key)| key.status == KeyStatus::Active) {
            read(key, &known.limits, &|limits| gates.set_key(*key, limits));
        }
    });
    if faults.is_empty() { Ok(gates) } else { Err(StartError::Limits(faults.join("; "))) }
}

fn open_ledger(
    config: &Config,
    metrics: &Arc<Metrics>,
    taking: Option<&mut Taking>,
) -> Result<(Arc<Ledger>, Recovered), StartError> {
    let (commits, store) = (Arc::clone(metrics), &config.store_directory);
    let on_commit = Box::new(move |committed| commits.committed(committed));
    let (ledger, recovered) = match taking {
        None => Ledger::open(store, on_commit).map_err(StartError::Store)?,
        Some(taking) => taking.ledger(store, on_commit).map_err(StartError::Handover)?,
    };
    ledger.label_by(LABELS);
    Ok((ledger, recovered))
}

fn open_directory(ledger: &Ledger) -> Result<(Arc<Directory>, Digester), StartError> {
    let mut random = [0; 32];
    let filled = SystemRandom::new().fill(&mut random);
    filled.map_err(|_| StartError::Secret(io::Error::other("the system gives no random numbers")))?;
    let path = ledger.directory().join(SECRET_FILE);
    let mut keys = 0;
    ledger.each_customer(|_, found| keys += found.keys.len());
    if keys > 0 && !path.exists() {
        let why =
            "it is missing, and without it no key is recognised: restore key-digest.secret from a backup";
        return Err(StartError::Secret(io::Error::new(io::ErrorKind::NotFound, why)));
    }
    let digester = Digester::open(&path, random).map_err(StartError::Secret)?;
    let directory = Directory::new(digester.clone());
    ledger.each_customer(|customer, found| {
        for (id, key) in found.keys.iter().filter(|(_, key)| key.status == KeyStatus::Active) {
            directory.insert(key.digest, customer, *id);
        }
    });
    Ok((Arc::new(directory), digester))
}

/// What the operator and the service manager say while it runs.
struct Signals {
    hangup: Signal,
    quit: Signal,
    terminate: Signal,
    interrupt: Signal,
}

/// Catches signals from now on, and resolves all names once before the first request.
fn settle(pool: &Pool) -> Result<Signals, StartError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::System)?;
    runtime.block_on(async {
        let catch = |kind| signal(kind).map_err(StartError::System);
        let signals = Signals {
            hangup: catch(SignalKind::hangup())?,
            quit: catch(SignalKind::quit())?,
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
        };
        resolve(pool).await;
        Ok(signals)
    })
}

/// Resolves names that have no address yet; what fails is tried again while running.
async fn resolve(pool: &Pool) {
    for account in pool.accounts().iter().filter(|account| account.address().is_none()) {
        if let Err(why) = account.addresses().resolve().await {
            tracing::warn!(upstream = &*account.name, %why, "the address of an upstream account is not known yet");
        }
    }
}

fn server_conf(config: &Config) -> ServerConf {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    ServerConf {
        threads: config.gateway.threads.map_or(cores, usize::from),
        // An unconditional sleep: the drain service ends the process as soon as it may.
        grace_period_seconds: Some(config.gateway.drain_timeout.as_secs().saturating_add(60)),
        graceful_shutdown_timeout_seconds: Some(1),
        upstream_keepalive_pool_size: KEPT_ALIVE_MAX,
        max_retries: ATTEMPTS_MAX,
        ..ServerConf::default()
    }
}

/// Builds vocabularies now, on a thread of their own, rather than when the first estimate waits.
fn warm(prices: &PriceBooks) {
    let models = prices.each().flat_map(|book| book.models.values());
    let mut encodings: Vec<_> = models.map(|price| price.encoding).collect();
    encodings.sort_unstable_by_key(|encoding| encoding.name());
    encodings.dedup();
    let warmed = thread::Builder::new().name("tokenizer".into());
    let spawned = warmed.spawn(move || encodings.into_iter().for_each(crate::meter::tokenizer::warm));
    if let Err(why) = spawned {
        tracing::warn!(%why, "vocabularies are built when they are first needed");
    }
}

/// Hands accounts that become free to requests that wait.
struct HandOut(Current);

#[async_trait]
impl BackgroundService for HandOut {
    async fn start(&self, _shutdown: ShutdownWatch) {
        let Self(live) = self;
        let queue = Arc::clone(live.load().pool.queue());
        // Until the process ends: requests under way may still wait.
        queue.run(|| live.load().pool.serve(Instant::now(), || fastrand::u64(..))).await;
    }
}

/// Looks after what runs in the background at providers.
struct LookAfter(Arc<Runs>);

#[async_trait]
impl BackgroundService for LookAfter {
    async fn start(&self, _shutdown: ShutdownWatch) {
        // Until the process ends: a client that reads its run now may be the last request.
        self.0.keep().await;
    }
}
