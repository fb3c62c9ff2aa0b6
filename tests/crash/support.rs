//! A site to run on: a folder, a provider that outlives every gateway, and the gateway's process.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::{self, File};
use std::future::Future;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tollgate::simulate::{Options, Provider};

pub const TOKEN: &str = "0123456789abcdef0123456789abcdef";
pub const MODEL: &str = "gpt-4o-mini";
/// The longest that anything may take here.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Connections of clients, who are all at one address here.
pub const CONNECTIONS_MAX: usize = 1_000;
/// How often `eventually` looks.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Each class has a price of its own, so that none can be taken for another.
const PRICES: &str = "version: crash-1\nmodels:\n  gpt-4o-mini: { input: \"0.15\", cached_input: \"0.075\", \
                      output: \"0.60\", reasoning: \"0.65\", max_output_tokens: 16384 }\n";

/// Waits until something is there.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "in vain: {what}");
        thread::sleep(LOOK_EVERY);
    }
}

pub fn number_from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// A folder with a configuration, and the provider.
pub struct Site {
    pub provider: Provider,
    pub runtime: Runtime,
    pub http: reqwest::Client,
    folder: TempDir,
}

impl Site {
    pub fn new() -> Site {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("threads");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("a socket");
        let provider = Provider::new(Options::default());
        let serving = provider.clone();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
            serving.serve(listener).await.expect("it serves until the end");
        });
        let folder = tempfile::Builder::new().prefix("tollgate-crash-").tempdir().expect("a folder");
        let config = format!(
            "gateway: {{ listen: [\"127.0.0.1:0\"], connections_per_address_max: {CONNECTIONS_MAX} }}\n\
             admin: {{ listen: \"127.0.0.1:0\", token: \"${{TOLLGATE_ADMIN_TOKEN}}\" }}\n\
             metrics: {{ listen: \"127.0.0.1:0\" }}\n\
             store: {{ directory: store }}\n\
             prices: prices.yaml\n\
             upstreams:\n  - {{ name: simulated, base_url: \"http://{address}/v1\", api_key: sk-simulated }}\n"
        );
        fs::write(folder.path().join("tollgate.yaml"), config).expect("written");
        fs::write(folder.path().join("prices.yaml"), PRICES).expect("written");
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().expect("a client");
        Site { provider, runtime, http, folder }
    }

    pub fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn command(&self, prefix: &str) -> Command {
        let mut words = prefix.split_whitespace().chain([env!("CARGO_BIN_EXE_tollgate")]);
        let mut command = Command::new(words.next().expect("the binary, if nothing else"));
        command.args(words);
        command.env("TOLLGATE_ADMIN_TOKEN", TOKEN).env_remove("TOLLGATE_LOG").stdin(Stdio::null());
        command
    }

    /// What gateways wrote to standard error so far.
    pub fn complaints(&self) -> String {
        fs::read_to_string(self.folder.path().join("stderr.txt")).unwrap_or_default()
    }

    /// `tollgate ledger verify` of the store, which no gateway uses now.
    pub fn verify_stopped(&self) -> Value {
        let store = self.store();
        let output = self.command("").args(["--json", "ledger", "verify", "--store"]).arg(store).output();
        let output = output.expect("the binary runs");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the ledger does not verify: {complaint}");
        let verified: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(verified["ok"], true);
        verified
    }

    /// Runs `work` to its end.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }
}

/// A gateway's process.
pub struct Gateway {
    child: Child,
    lines: Receiver<Line>,
    pub url: String,
    pub admin: String,
    metrics: String,
    expired: u64,
}

/// What matters of its log.
enum Line {
    Serving {
        gateway: String,
        admin: String,
        metrics: String,
    },
    Expired(u64),
    /// The state store failed, and follows the journal again.
    Mended,
    Complaint(String),
}

impl Gateway {
    /// Starts one on the site's store and waits until it serves.
    pub fn start(site: &Site) -> Gateway {
        let mut gateway = Gateway::spawn(site);
        while gateway.url.is_empty() {
            match gateway.lines.recv_timeout(PATIENCE) {
                Ok(line) => gateway.take(line),
                Err(why) => panic!("it does not serve: {why}; {}", site.complaints()),
            }
        }
        gateway
    }

    /// Starts one under a tracer that may end it or fail its calls: `None` if it ended by that.
    pub fn start_under(site: &Site, prefix: &str) -> Option<Gateway> {
        let mut gateway = Gateway::spawn_under(site, prefix);
        while gateway.url.is_empty() {
            match gateway.lines.recv_timeout(PATIENCE) {
                Ok(Line::Complaint(_)) => {}
                Ok(line) => gateway.take(line),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => panic!("it neither serves nor ends"),
            }
        }
        Some(gateway)
    }

    /// Starts one and does not wait.
    pub fn spawn(site: &Site) -> Gateway {
        Gateway::spawn_under(site, &std::env::var("TOLLGATE_CRASH_UNDER").unwrap_or_default())
    }

    fn spawn_under(site: &Site, prefix: &str) -> Gateway {
        let complaints =
            File::options().create(true).append(true).open(site.folder.path().join("stderr.txt"));
        let mut child = site
            .command(prefix)
            .args(["serve", "--config"])
            .arg(site.folder.path().join("tollgate.yaml"))
            .stdout(Stdio::piped())
            .stderr(complaints.expect("a file"))
            .spawn()
            .expect("the binary runs");
        let stdout = child.stdout.take().expect("piped");
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            lines.filter_map(|line| Line::read(&line)).try_for_each(|line| sender.send(line))
        });
        Gateway { child, lines, url: String::new(), admin: String::new(), metrics: String::new(), expired: 0 }
    }

    /// Requests that it has begun and not ended, as it counts them itself.
    pub fn in_flight(&self, site: &Site) -> usize {
        let metrics = site.block_on(async {
            let scraped = site.http.get(&self.metrics).send().await.expect("the gateway answers");
            scraped.text().await.expect("the gateway answers")
        });
        let value = metrics.lines().find_map(|line| line.strip_prefix("tollgate_in_flight "));
        value.and_then(|value| value.parse().ok()).expect("a number of requests")
    }

    /// Holds that it found open at its start, and released.
    pub fn expired(&self) -> u64 {
        self.expired
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        let status = self.child.wait().expect("it ends");
        assert_eq!(status.signal(), Some(9), "it was running until it was killed: {status}");
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.take(line);
        }
    }

    /// Whether its state store failed and was mended, since this was asked before.
    pub fn was_mended(&self) -> bool {
        self.lines.try_iter().any(|line| matches!(line, Line::Mended))
    }

    /// SIGKILL of one whose disk may have failed: it may have complained.
    pub fn kill_failed(mut self) {
        self.child.kill().expect("it runs");
        let status = self.child.wait().expect("it ends");
        assert_eq!(status.signal(), Some(9), "it was running until it was killed: {status}");
    }

    /// It was killed by somebody else.
    pub fn was_killed(mut self, told: &str) {
        let status = eventually("it ends", || self.child.try_wait().expect("a child"));
        assert_eq!(status.signal(), Some(9), "{told}: {status}");
    }

    /// SIGKILL as soon as it serves, or after so long; gives the holds that it says it released.
    pub fn kill_within(mut self, patience: Duration) -> u64 {
        let begun = Instant::now();
        while self.url.is_empty() {
            match self.lines.recv_timeout(patience.saturating_sub(begun.elapsed())) {
                Ok(line) => self.take(line),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => panic!("it ended by itself"),
            }
        }
        let expired = self.expired;
        self.kill();
        expired
    }

    /// SIGTERM, and the end in good order.
    pub fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("it runs");
        let status = eventually("the gateway stops", || self.child.try_wait().expect("a child"));
        assert_eq!(status.code(), Some(0), "{status}");
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.take(line);
        }
    }

    fn take(&mut self, line: Line) {
        match line {
            Line::Serving { gateway, admin, metrics } => {
                (self.url, self.admin) = (format!("http://{gateway}"), format!("http://{admin}/admin/v1"));
                self.metrics = format!("http://{metrics}/metrics");
            }
            Line::Expired(holds) => self.expired += holds,
            Line::Mended => {}
            Line::Complaint(what) => panic!("the gateway complains: {what}"),
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // A test that panics leaves no process behind; errors mean that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Line {
    fn read(line: &str) -> Option<Line> {
        let complaint = || Some(Line::Complaint(line.to_owned()));
        let Ok(json) = serde_json::from_str::<Value>(line) else {
            // Killed in the middle of a line.
            return None;
        };
        let message = json["message"].as_str().unwrap_or_default();
        if message == "serving" {
            let gateway = json["gateway"].as_str()?.trim_matches(['[', ']']).to_owned();
            let [admin, metrics] = ["admin", "metrics"].map(|of| json[of].as_str().map(str::to_owned));
            return Some(Line::Serving { gateway, admin: admin?, metrics: metrics? });
        }
        if message.contains("follows the journal again") {
            return Some(Line::Mended);
        }
        if message.contains("released, not charged") {
            return json["holds"].as_u64().map(Line::Expired);
        }
        if message.contains("made anew") || json["level"] == "ERROR" {
            return complaint();
        }
        None
    }
}
