//! From files to a [`Config`]: every setting with its type and default, and what must fit together.

use super::book;
use super::expand::Environment;
use super::locate::Place;
use super::raw::{self, Document};
use super::reader::{Node, Reader, Required, Section};
use super::secret::Secret;
use super::{
    Admin, Config, Fault, Faults, Gateway, Hedge, Log, LogFormat, Meter, Metrics, Portal, Reload, Retry,
    Trigger, edge, upstreams,
};
use crate::clock::Timestamp;
use crate::settle::price::PriceBook;
use crate::settle::price::books::PriceBooks;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Where the ledger lives unless told otherwise.
const STORE_DIRECTORY: &str = "/var/lib/tollgate";
/// A bound of more is none.
const REQUESTS_MAX: u64 = 1_000_000;
/// Two a second: a page that asks for everything every few seconds, and a person beside it.
const ACCOUNT_REQUESTS: u64 = 120;
/// Each of a customer's files is looked at when they list them, and when there is one more.
const FILES_MAX: u64 = 10_000;
/// Where the admin API listens unless told otherwise, on the loopback interface.
const ADMIN_PORT: u16 = 9180;
/// Where metrics are listened for unless told otherwise, on the loopback interface.
const METRICS_PORT: u16 = 9190;
/// Fewer characters than this can be guessed.
const TOKEN_CHARACTERS_MIN: usize = 16;
/// More than any machine has use for.
const THREADS_MAX: u64 = 1024;
/// The largest body that can be set: each is in memory as a whole.
const BODY_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// The most memory for bodies that can be set.
const BODY_BYTES_TOTAL_MAX: u64 = 1 << 40;
/// Fewer lines than one in a million requests are none.
const ONE_IN_MAX: u64 = 1_000_000;
/// More attempts than this only add load when a provider is in trouble.
const ATTEMPTS_MAX: u64 = 10;

/// The longest wait for room that can be set: no client waits longer for a first byte.
const QUEUE_WAIT_MS_MAX: u64 = 600_000;
/// The most requests that can be let wait: each is in memory as a whole.
const WAITING_MAX: u64 = 100_000;

/// Reads the file and what it refers to.
pub(super) fn load(path: &Path, environment: Environment<'_>) -> Result<Config, Faults> {
    let whole = |message| raw::fault(path.display().to_string(), Place::START, message);
    let text = raw::read(path).map_err(whole)?;
    let document = Document::parse(path, text)?;
    let reader = Reader::new(&document, environment);
    let mut faults_of_book = Vec::new();
    let config = config(&reader, |node| price_books(node, environment, &mut faults_of_book));
    let files = reader.files().into_iter().chain([path.to_owned()]).filter(|path| path.is_file());
    let files: Vec<_> = files.collect();
    let mut faults = reader.into_faults();
    faults.append(&mut faults_of_book);
    match Faults::of(faults) {
        Some(faults) => Err(faults),
        None => Ok(Config { files, ..config.expect("what reads without a fault is complete") }),
    }
}

/// Reads a price book alone.
pub(super) fn load_prices(path: &Path, environment: Environment<'_>) -> Result<PriceBook, Faults> {
    let whole = |message| raw::fault(path.display().to_string(), Place::START, message);
    let text = raw::read(path).map_err(whole)?;
    book::parse(path, text, environment)
        .map_err(|faults| Faults::of(faults).expect("what cannot be read has a fault"))
}

/// The price book in its own file. A file that cannot be read is a fault of the setting.
fn price_book(node: &Node<'_>, environment: Environment<'_>, faults: &mut Vec<Fault>) -> Option<PriceBook> {
    let path = node.file()?;
    let text = raw::read(&path).map_err(|why| node.fault(why)).ok()?;
    book::parse(&path, text, environment).map_err(|more| faults.extend(more)).ok()
}

/// One price book, or a list of those that follow on each other.
fn price_books(node: &Node<'_>, environment: Environment<'_>, faults: &mut Vec<Fault>) -> Option<PriceBooks> {
    let files = if node.is_list() { node.items() } else { vec![node.clone()] };
    if files.is_empty() {
        node.fault("is empty: name a price book, such as prices.yaml");
    }
    // Not `collect` into an option: that would stop at the first fault.
    let books: Vec<_> = files.iter().map(|file| price_book(file, environment, faults)).collect();
    let books = books.into_iter().collect::<Option<Vec<_>>>()?;
    let first = books.first()?;
    if let Some(date) = first.effective.filter(|date| *date > Timestamp::now()) {
        files[0].fault(format!("takes effect at {date}, and no book holds until then: list one before it"));
    }
    for (pair, file) in books.windows(2).zip(&files[1..]) {
        let (before, book) = (&pair[0], &pair[1]);
        match book.effective {
            None => file.fault("says not when it takes effect: add `effective: 2026-12-01` to it"),
            date if date <= before.effective => {
                file.fault("takes effect no later than the book before it: list books by their date");
            }
            Some(_) => {}
        }
        if book.version == before.version {
            file.fault(format!("has the name of the book before it, `{}`: give it its own", book.version));
        }
    }
    PriceBooks::new(books.into_iter().map(Arc::new).collect())
}

fn config(reader: &Reader<'_>, read_books: impl FnOnce(&Node<'_>) -> Option<PriceBooks>) -> Option<Config> {
    let mut root = reader.root();
    let mut listeners = Listeners::default();
    let gateway = gateway(root.section("gateway"), &mut listeners);
    let admin = admin(root.section("admin"), &mut listeners);
    let metrics = metrics(root.section("metrics"), &mut listeners);
    let mut store = root.section("store");
    let directory = store.get("directory");
    let store_directory = directory.map_or(Some(PathBuf::from(STORE_DIRECTORY)), |node| node.file());
    store.finish();
    let book = root.required(Required { key: "prices", example: "prices.yaml" });
    let book = book.and_then(|node| read_books(&node));
    let upstreams = upstreams::read(&mut root, book.as_ref());
    let policy = super::policy::read(root.section("policy"), upstreams.as_deref());
    let queue = queue(root.section("queue"));
    let retry = retry(root.section("retry"));
    let background = super::background::read(root.section("background"));
    let meter = meter(root.section("meter"));
    let log = log(root.section("log"));
    let reload = reload(root.section("reload"));
    // A section with faults is not the same as none.
    let traces = root.get("traces").map(|node| super::traces::read(node.section()));
    root.finish();
    Some(Config {
        gateway: gateway?,
        admin: admin?,
        metrics: metrics?,
        store_directory: store_directory?,
        prices: Arc::new(book?),
        upstreams: upstreams?,
        policy: policy?,
        queue,
        retry,
        background,
        meter,
        log,
        reload,
        traces: traces.map_or(Some(None), |traces| traces.map(|traces| Some(Arc::new(traces))))?,
        files: Vec::new(),
    })
}

fn gateway(mut section: Section<'_>, listeners: &mut Listeners) -> Option<Gateway> {
    let tls = section.get("tls");
    let listen = match (section.get("listen"), &tls) {
        (Some(list), _) => listeners.list(&list),
        (None, Some(_)) => Some(Vec::new()),
        (None, None) => {
            section.fault("listen", "is missing: add `listen: [\"127.0.0.1:8080\"]`, or `tls`");
            None
        }
    };
    // A section with faults is not the same as none.
    let tls = tls.map(|tls| super::tls::read(tls.section(), listeners));
    let threads = NonZeroUsize::new(section.number("threads", 0..=THREADS_MAX, 0));
    let body_bytes_max = section.number("body_bytes_max", 1..=BODY_BYTES_MAX, 32 * 1024 * 1024);
    let total = 1..=BODY_BYTES_TOTAL_MAX;
    let body_bytes_total_max = section.number("body_bytes_total_max", total, 1024 * 1024 * 1024);
    if body_bytes_total_max < body_bytes_max {
        section.fault("body_bytes_total_max", "must be at least `body_bytes_max`: raise it");
    }
    let body_timeout = section.millis("body_timeout_ms", 120_000);
    let edge = edge::read(&mut section);
    let cors_origins = super::cors::read(&mut section);
    let portal = match section.get("portal").and_then(|node| node.switch()) {
        None | Some(true) => Portal::On,
        Some(false) => Portal::Off,
    };
    let account_requests_per_minute =
        section.number("account_requests_per_minute", 1..=REQUESTS_MAX, ACCOUNT_REQUESTS);
    let files_per_customer_max = section.number("files_per_customer_max", 0..=FILES_MAX, 1_000);
    let keepalive_timeout = section.millis("keepalive_timeout_ms", 60_000);
    let write_timeout = section.millis("write_timeout_ms", 60_000);
    let drain_timeout = section.millis("drain_timeout_ms", 600_000);
    section.finish();
    Some(Gateway {
        listen: listen?,
        tls: tls.map_or(Some(None), |tls| tls.map(Some))?,
        threads,
        body_bytes_max,
        body_bytes_total_max,
        body_timeout,
        edge: edge?,
        cors_origins: cors_origins?,
        portal,
        account_requests_per_minute,
        files_per_customer_max,
        keepalive_timeout,
        write_timeout,
        drain_timeout,
    })
}

fn admin(mut section: Section<'_>, listeners: &mut Listeners) -> Option<Admin> {
    let listen = listeners.setting(&mut section, ADMIN_PORT);
    if listen.is_some_and(|address| !address.ip().is_loopback()) {
        section.fault("listen", "must be on the loopback interface, such as \"127.0.0.1:9180\"");
    }
    let token = secret(&mut section, SecretKeys { inline: "token", file: "token_file" });
    let token = token.map(|(token, node)| {
        if token.expose().len() < TOKEN_CHARACTERS_MIN {
            node.fault(format!("is shorter than {TOKEN_CHARACTERS_MIN} characters: take a random one"));
        }
        token
    });
    let requests_per_minute = section.number("requests_per_minute", 1..=REQUESTS_MAX, 6_000);
    let failed_tokens_per_minute = section.number("failed_tokens_per_minute", 1..=REQUESTS_MAX, 60);
    section.finish();
    Some(Admin { listen: listen?, token: token?, requests_per_minute, failed_tokens_per_minute })
}

fn metrics(mut section: Section<'_>, listeners: &mut Listeners) -> Option<Metrics> {
    let listen = listeners.setting(&mut section, METRICS_PORT);
    section.finish();
    Some(Metrics { listen: listen? })
}

fn meter(mut section: Section<'_>) -> Meter {
    let compare_one_in = section.number("compare_one_in", 0..=ONE_IN_MAX, 1_000);
    section.finish();
    Meter { compare_one_in }
}

fn log(mut section: Section<'_>) -> Log {
    let format = section.choice("format", &[("json", LogFormat::Json), ("text", LogFormat::Text)]);
    let success_one_in = section.number("success_one_in", 0..=ONE_IN_MAX, 0);
    section.finish();
    Log { format, success_one_in }
}

fn reload(mut section: Section<'_>) -> Reload {
    let trigger = section.choice("trigger", &[("signal", Trigger::Signal), ("files", Trigger::Files)]);
    section.finish();
    Reload { trigger }
}

fn queue(mut section: Section<'_>) -> super::Queue {
    let wait_ms = section.number("wait_ms", 0..=QUEUE_WAIT_MS_MAX, 10_000);
    let waiting_max = section.number("waiting_max", 0..=WAITING_MAX, 1_000);
    section.finish();
    super::Queue { wait: Duration::from_millis(wait_ms), waiting_max }
}

fn retry(mut section: Section<'_>) -> Retry {
    let attempts_max = section.number("attempts_max", 1..=ATTEMPTS_MAX, 5);
    let total = section.millis("total_ms", 30_000);
    let hedge = hedge(section.section("hedge"), attempts_max, total);
    section.finish();
    Retry { attempts_max, total, hedge }
}

/// A second attempt that could never go is a mistake.
fn hedge(mut section: Section<'_>, attempts_max: u32, total: Duration) -> Hedge {
    let mut after = |key| {
        let after = section.optional_millis(key)?;
        if attempts_max < 2 {
            section.fault(key, "needs a second attempt: set `retry.attempts_max` to 2 or more");
        } else if after >= total {
            section.fault(key, "must be less than `retry.total_ms`, after which no attempt begins");
        }
        Some(after)
    };
    let hedge = Hedge { streamed: after("streamed_after_ms"), whole: after("whole_after_ms") };
    section.finish();
    hedge
}

/// The two ways to write a secret.
pub(super) struct SecretKeys {
    pub(super) inline: &'static str,
    pub(super) file: &'static str,
}

/// Reads a required secret, and where it was written.
pub(super) fn secret<'a>(section: &mut Section<'a>, keys: SecretKeys) -> Option<(Secret, Node<'a>)> {
    let SecretKeys { inline, file } = keys;
    match (section.get(inline), section.get(file)) {
        (Some(node), None) => Some((node.parsed(Secret::parse)?, node)),
        (None, Some(node)) => {
            let read = Secret::read(&node.file()?);
            Some((read.map_err(|why| node.fault(why)).ok()?, node))
        }
        (Some(_), Some(node)) => {
            node.into_key().fault(format!("stands beside `{inline}`: remove one of the two"));
            None
        }
        (None, None) => {
            section.fault(inline, format!("is missing: add `{inline}: \"${{NAME}}\"`, or `{file}`"));
            None
        }
    }
}

/// The addresses seen so far.
#[derive(Default)]
pub(super) struct Listeners(Vec<SocketAddr>);

impl Listeners {
    /// A list of them, with at least one.
    pub(super) fn list(&mut self, list: &Node<'_>) -> Option<Vec<SocketAddr>> {
        let items = list.items();
        if list.is_empty() {
            list.fault("is empty: add an address, such as \"127.0.0.1:8080\"");
        }
        // Not `collect` into an option: that would stop at the first fault.
        let addresses: Vec<Option<SocketAddr>> = items.iter().map(|item| self.address(item)).collect();
        addresses.into_iter().collect()
    }

    /// The one `listen` of a section, or the default. That can be taken, too.
    fn setting(&mut self, section: &mut Section<'_>, default_port: u16) -> Option<SocketAddr> {
        match section.get("listen") {
            Some(node) => self.address(&node),
            None => {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, default_port));
                self.take(address).unwrap_or_else(|why| section.fault("listen", why));
                Some(address)
            }
        }
    }

    /// One that is written.
    fn address(&mut self, node: &Node<'_>) -> Option<SocketAddr> {
        let why = "must be an address and a port, such as \"127.0.0.1:8080\" or \"[::1]:8080\"";
        let address = node.parsed(|text| text.parse().map_err(|_| why))?;
        self.take(address).unwrap_or_else(|why| node.fault(why));
        Some(address)
    }

    fn take(&mut self, address: SocketAddr) -> Result<(), String> {
        let taken = self.0.iter().find(|other| collide(other, &address));
        let why = taken.map(|taken| format!("is taken by another listener, on {taken}: choose another port"));
        self.0.push(address);
        why.map_or(Ok(()), Err)
    }
}

/// Whether two listeners cannot both be bound. `0.0.0.0` covers every IPv4 address, `::` every IPv6 one.
fn collide(left: &SocketAddr, right: &SocketAddr) -> bool {
    let covers = left.ip().is_unspecified() || right.ip().is_unspecified();
    let overlap = left.ip() == right.ip() || (covers && left.is_ipv4() == right.is_ipv4());
    left.port() == right.port() && left.port() != 0 && overlap
}

#[cfg(test)]
mod tests;
