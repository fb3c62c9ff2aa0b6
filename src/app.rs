//! The composition root: opens, binds, wires and runs everything, and ends it in order.
//!
//! Order of a start: listeners, so that a taken port is told before anything is touched; the
//! ledger; the pool; the services. Order of an end: stop accepting, let requests finish, make the
//! last entries durable.

mod notify;
mod reload;
mod spend;

use crate::admin::{self, Admin, Scrape};
use crate::admit::Admission;
use crate::admit::gate::Gates;
use crate::admit::limits::Limits;
use crate::admit::running::Running;
use crate::admit::strangers::FailedKeys;
use crate::auth::Directory;
use crate::auth::key::{Digester, SECRET_FILE};
use crate::config::{self, Config};
use crate::ledger::{KeyStatus, Ledger, OpenError, Recovered};
use crate::live::Live;
use crate::proxy::Gateway;
use crate::proxy::context::BodyBudget;
use crate::proxy::listen::{Bound, Listening, Sockets};
use crate::record::access::AccessLog;
use crate::record::metrics::Metrics;
use crate::record::usage::LABELS;
use crate::settle::price::books::PriceBooks;
use crate::upstream::Pool;
use crate::upstream::queue::Queue;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use axum::Router;
use notify::Notify;
use parking_lot::Mutex;
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
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Kept-alive connections to providers, over all accounts.
const KEPT_ALIVE_MAX: usize = 4_096;
/// More attempts than any configuration asks for: our own bound is reached first.
const ATTEMPTS_MAX: usize = 32;
/// How often the end of the last request is looked for while draining.
const DRAIN_STEP: Duration = Duration::from_millis(20);

/// Why a gateway does not start.
#[derive(Debug)]
pub enum StartError {
    /// An address cannot be listened on.
    Listen(SocketAddr, io::Error),
    /// The store cannot be opened.
    Store(OpenError),
    /// The secret of the key digests cannot be read or made.
    Secret(io::Error),
    /// What is limited cannot be read: a later version wrote it.
    Limits(String),
    /// An upstream account cannot be used.
    Upstream(String),
    /// Threads or runtimes cannot be made.
    System(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Listen(address, why) => write!(f, "cannot listen on {address}: {why}"),
            StartError::Store(why) => write!(f, "{why}"),
            StartError::Secret(why) => write!(f, "the secret of the key digests: {why}"),
            StartError::Limits(why) => write!(f, "limits of {why}"),
            StartError::Upstream(why) => write!(f, "upstream {why}"),
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

/// A gateway that is ready to run.
pub struct App {
    /// Where it listens; connections wait until it runs.
    pub addresses: Addresses,
    /// What was found in the store.
    pub recovered: Recovered,
    server: Server,
    ledger: Arc<Ledger>,
}

impl App {
    /// Binds, opens and wires. Nothing is served before [`App::run`].
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(config: &Config, load: Load) -> Result<App, StartError> {
        let gateway_listeners = sockets(&config.gateway)?;
        let admin_listener = bind(&config.admin.listen)?;
        let metrics_listener = bind(&config.metrics.listen)?;
        let addresses = Addresses::of(&gateway_listeners, &admin_listener, &metrics_listener);

        let metrics = Arc::new(Metrics::new());
        let (ledger, recovered) = open_ledger(config, &metrics)?;
        let directory = Arc::new(open_directory(&ledger)?);
        let gates = Arc::new(open_gates(&ledger)?);
        let running = Running::default();
        let live = Live::new(config.clone()).map_err(StartError::Upstream)?;
        let hangup = prepare(&live.pool)?;
        warm(&config.prices);
        let live = Arc::new(ArcSwap::from_pointee(live));
        let spend = Spend::restore(ledger.directory(), &live);

        let (serving, is_serving) = watch::channel(None);
        let access =
            AccessLog::start(Arc::clone(&ledger), Arc::clone(&metrics)).map_err(StartError::System)?;
        let gateway = Gateway {
            serving,
            access: access.clone(),
            directory: Arc::clone(&directory),
            gates: Arc::clone(&gates),
            admission: Arc::new(Admission::new(Arc::clone(&ledger), running.clone())),
            live: Arc::clone(&live),
            ledger: Arc::clone(&ledger),
            metrics: Arc::clone(&metrics),
            failed_keys: FailedKeys::default(),
            budget: BodyBudget::default(),
            keepalive: config.gateway.keepalive_timeout,
        };
        let mut server = Server::new_with_opt_and_conf(None, server_conf(config));
        let notify = Notify { serving: is_serving, status: reload::status(config) };
        server.add_service(background_service("notify", notify));
        let conf = Arc::clone(&server.configuration);
        server.bootstrap();
        server.add_service(Listening::new(&conf, gateway, gateway_listeners));
        let admin = Arc::new(Admin {
            ledger: Arc::clone(&ledger),
            directory,
            gates,
            setting: tokio::sync::Mutex::default(),
            running,
            live: Arc::clone(&live),
        });
        let scrape =
            Scrape { metrics: Arc::clone(&metrics), ledger: Arc::clone(&ledger), live: Arc::clone(&live) };
        let http = Http(Mutex::new(vec![
            (admin_listener.listener, admin::router(admin)),
            (metrics_listener.listener, admin::metrics_router(Arc::new(scrape))),
        ]));
        server.add_service(background_service("admin", http));
        server.add_service(background_service("queue", HandOut(Arc::clone(live.load().pool.queue()))));
        server.add_service(background_service("spend", Keep(Arc::clone(&spend))));
        let (started, hangup) = (config.clone(), Mutex::new(Some(hangup)));
        let reload = Reload { load, live, started, metrics: Arc::clone(&metrics), hangup };
        server.add_service(background_service("reload", reload));
        let drain = Drain {
            metrics,
            ledger: Arc::clone(&ledger),
            access,
            spend,
            timeout: config.gateway.drain_timeout,
        };
        server.add_service(background_service("drain", drain));
        Ok(App { addresses, recovered, server, ledger })
    }

    /// Serves until a signal ends it: SIGTERM lets requests finish, SIGINT does not.
    pub fn run(self) {
        self.server.run(RunArgs::default());
        self.ledger.close();
    }
}

fn sockets(config: &config::Gateway) -> Result<Sockets, StartError> {
    let bind_all = |addresses: &[SocketAddr]| addresses.iter().map(bind).collect::<Result<Vec<_>, _>>();
    let tls = config.tls.as_ref().map_or(&[][..], |tls| &tls.listen);
    Ok(Sockets { plain: bind_all(&config.listen)?, tls: bind_all(tls)? })
}

fn bind(address: &SocketAddr) -> Result<Bound, StartError> {
    let failed = |why| StartError::Listen(*address, why);
    let listener = TcpListener::bind(address).map_err(failed)?;
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

fn open_ledger(config: &Config, metrics: &Arc<Metrics>) -> Result<(Arc<Ledger>, Recovered), StartError> {
    let commits = Arc::clone(metrics);
    let on_commit = Box::new(move |committed| commits.committed(committed));
    let (ledger, recovered) = Ledger::open(&config.store_directory, on_commit).map_err(StartError::Store)?;
    ledger.label_by(LABELS);
    Ok((ledger, recovered))
}

fn open_directory(ledger: &Ledger) -> Result<Directory, StartError> {
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
    let directory = Directory::new(Digester::open(&path, random).map_err(StartError::Secret)?);
    ledger.each_customer(|customer, found| {
        for (id, key) in found.keys.iter().filter(|(_, key)| key.status == KeyStatus::Active) {
            directory.insert(key.digest, customer, *id);
        }
    });
    Ok(directory)
}

/// Catches SIGHUP from now on, and resolves all names once before the first request.
fn prepare(pool: &Pool) -> Result<Signal, StartError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::System)?;
    runtime.block_on(async {
        let hangup = signal(SignalKind::hangup()).map_err(StartError::System)?;
        resolve(pool).await;
        Ok(hangup)
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

/// Listeners of ours that Pingora does not serve.
struct Http(Mutex<Vec<(TcpListener, Router)>>);

#[async_trait]
impl BackgroundService for Http {
    async fn start(&self, _shutdown: ShutdownWatch) {
        let listeners = std::mem::take(&mut *self.0.lock());
        let served = listeners.into_iter().map(|(listener, router)| async move {
            let served = async { axum::serve(tokio::net::TcpListener::from_std(listener)?, router).await };
            if let Err(why) = served.await {
                tracing::error!(%why, "a listener of the operator ended");
            }
        });
        futures_util::future::join_all(served).await;
    }
}

/// Hands accounts that become free to requests that wait.
struct HandOut(Arc<Queue>);

#[async_trait]
impl BackgroundService for HandOut {
    async fn start(&self, _shutdown: ShutdownWatch) {
        // Until the process ends: requests under way may still wait.
        self.0.run().await;
    }
}

/// Ends the process as soon as the last request has ended after SIGTERM, or its time is up.
struct Drain {
    metrics: Arc<Metrics>,
    ledger: Arc<Ledger>,
    access: AccessLog,
    spend: Arc<Spend>,
    timeout: Duration,
}

#[async_trait]
impl BackgroundService for Drain {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        if shutdown.wait_for(|asked| *asked).await.is_err() {
            return;
        }
        let begun = Instant::now();
        while self.metrics.in_flight() > 0 && begun.elapsed() < self.timeout {
            tokio::time::sleep(DRAIN_STEP).await;
        }
        tracing::info!(in_flight = self.metrics.in_flight(), "drained");
        let (ledger, access) = (Arc::clone(&self.ledger), self.access.clone());
        let spend = Arc::clone(&self.spend);
        let end = move || {
            ledger.close();
            spend.write();
            access.flush();
        };
        let _ = tokio::task::spawn_blocking(end).await;
        std::process::exit(0);
    }
}
