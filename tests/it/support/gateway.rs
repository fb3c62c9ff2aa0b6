//! The real binary, serving from a temporary folder.

use super::eventually::{PATIENCE, eventually_blocking};
use super::provider::Simulated;
use super::scripted::Scripted;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fmt::Write;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use tempfile::TempDir;

pub const TOKEN: &str = "it-admin-token-4c1f0a9be27d";
const BINARY: &str = env!("CARGO_BIN_EXE_tollgate");

/// What is sold in tests. `counted` costs one cent a token of output and nothing else, so that a hold
/// is exactly what is charged; `thinker` hides its reasoning.
pub const PRICES: &str = r#"
version: it-1
models:
  gpt-4o-mini: { input: "0.15", cached_input: "0.075", output: "0.60", max_output_tokens: 16384, max_input_tokens: 128000 }
  gpt-4o: { input: "2.5", cached_input: "1.25", output: "10", max_output_tokens: 16384, max_input_tokens: 128000 }
  counted: { input: "0", output: "10000", max_output_tokens: 1000 }
  thinker: { input: "1.25", cached_input: "0.125", output: "10", reasoning: "11", max_output_tokens: 128000, max_input_tokens: 272000, hidden_reasoning: true }
  tiered: { input: "0.2", output: "0.8", long_context: [{ above: 500, input: "0.3", output: "0.9" }], flex: { input: "0.1", output: "0.4" }, priority: { input: "0.4", output: "1.6" }, batch: { input: "0.05", output: "0.2" }, cost: { input: "0.1", output: "0.4" }, max_output_tokens: 1000 }
  batched: { input: "0.2", output: "0.8", batch: { input: "0.05", output: "0.2", long_context: [{ above: 500, input: "0.07", output: "0.3" }] }, cost: { input: "0.1", output: "0.4" }, max_output_tokens: 1000 }
  dall-e-3: { image: "0.04", images: [{ quality: hd, image: "0.08" }, { size: 1024x1792, quality: hd, image: "0.12" }] }
  painter: { input: "5", image_input: "8", output: "30", max_output_tokens: 6000, max_input_tokens: 4000 }
  tts-1: { characters: "15" }
  speaker: { input: "0.6", output: "0.6", audio_output: "12", max_output_tokens: 2000 }
  whisper-1: { minute: "0.006" }
  listener: { input: "2.5", audio_input: "6", output: "10", max_output_tokens: 2000, max_input_tokens: 16000 }
  searcher: { input: "1", output: "2", web_search: "0.01", cost: { input: "0.5", output: "1", web_search: "0.008" }, max_output_tokens: 1000, max_input_tokens: 10000 }
  embedder: { input: "0.02", max_input_tokens: 300000 }
  omni-moderation-latest: { input: "0" }
  unserved: { input: "1", output: "1", max_output_tokens: 10 }
"#;

/// An upstream account of a test.
pub struct Account {
    name: String,
    base_url: String,
    credential: String,
    more: String,
}

impl Account {
    pub fn new(name: &str, address: SocketAddr) -> Self {
        Account {
            name: name.into(),
            base_url: format!("http://{address}/v1"),
            credential: format!("sk-upstream-{name}"),
            // Not `unserved`.
            more: "models: [gpt-4o-mini, gpt-4o, counted, thinker, tiered, batched, searcher, embedder, omni-moderation-latest, dall-e-3, painter, tts-1, speaker, whisper-1, listener]"
                .into(),
        }
    }

    pub fn of(provider: &Simulated) -> Self {
        Account::new("first", provider.address)
    }

    pub fn scripted(provider: &Scripted) -> Self {
        Account::new("scripted", provider.address)
    }

    /// Instead of an address in clear text.
    pub fn at(mut self, base_url: String) -> Self {
        self.base_url = base_url;
        self
    }

    /// Its credential, in full.
    pub fn credential(mut self, credential: &str) -> Self {
        self.credential = credential.into();
        self
    }

    /// Instead of its list of models.
    pub fn models(mut self, models: &str) -> Self {
        self.more = format!("models: {models}");
        self
    }

    /// Further settings, in YAML's flow style.
    pub fn with(mut self, more: &str) -> Self {
        write!(self.more, ", {more}").expect("a string can grow");
        self
    }
}

/// What differs from the defaults.
#[derive(Default)]
pub struct Settings {
    /// Of `gateway:`, in YAML's flow style, with a comma before it.
    pub gateway: &'static str,
    /// Puts files beside its configuration before it starts.
    pub prepare: Option<fn(&std::path::Path)>,
    /// Variables of its environment.
    pub environment: Vec<(&'static str, String)>,
    /// Of `retry:`, in YAML's flow style.
    pub retry: &'static str,
    /// Of `reload:`, in YAML's flow style.
    pub reload: &'static str,
    /// Of how many requests that were served one is logged; each unless told otherwise.
    pub success_one_in: Option<u32>,
    /// Of `admin:`, in YAML's flow style, with a comma behind it.
    pub admin: &'static str,
    /// Of `meter:`, in YAML's flow style.
    pub meter: &'static str,
    /// Of `queue:`, in YAML's flow style.
    pub queue: &'static str,
    /// Of `background:`, in YAML's flow style.
    pub background: &'static str,
    /// Of `policy:`, in YAML's flow style.
    pub policy: &'static str,
    /// Of `traces:`, in YAML's flow style; none unless told.
    pub traces: String,
    /// Levels of the log; `info,tollgate=debug` unless told otherwise.
    pub log: Option<&'static str>,
}

/// A customer with credit and a key.
#[derive(Clone)]
pub struct Customer {
    pub id: String,
    pub key_id: String,
    pub key: String,
}

/// A gateway that serves. It is killed when dropped.
pub struct Gateway {
    child: Child,
    folder: Arc<TempDir>,
    output: Arc<Mutex<String>>,
    pub address: SocketAddr,
    pub tls: Option<SocketAddr>,
    pub admin: SocketAddr,
    pub metrics: SocketAddr,
}

impl Gateway {
    pub fn start(accounts: &[Account]) -> Self {
        Self::start_with(accounts, &Settings::default())
    }

    pub fn start_with(accounts: &[Account], settings: &Settings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("prices.yaml"), PRICES).unwrap();
        std::fs::write(folder.path().join("tollgate.yaml"), config(accounts, settings)).unwrap();
        if let Some(prepare) = settings.prepare {
            prepare(folder.path());
        }
        Self::spawn(Arc::new(folder), settings, &[])
    }

    /// The same store and configuration in a new process, once this one has ended.
    pub fn again(self) -> Self {
        let folder = Arc::clone(&self.folder);
        drop(self);
        Self::spawn(folder, &Settings::default(), &[])
    }

    /// The same, started to take the place of another process.
    pub fn start_upgraded(&self) -> Self {
        Self::spawn(Arc::clone(&self.folder), &Settings::default(), &["--upgrade"])
    }

    /// A new process that takes the place of this one, which finishes what it has.
    pub fn upgrade(&self) -> Self {
        let next = self.start_upgraded();
        assert_eq!(
            (next.address, next.admin, next.metrics),
            (self.address, self.admin, self.metrics),
            "the same sockets"
        );
        next
    }

    /// A new process that is to take the place of this one, and cannot: what it said.
    pub fn upgrade_that_fails(&self) -> Output {
        let config = self.config();
        let arguments = ["serve", "--upgrade", "--config", config.to_str().unwrap()];
        run(&arguments, &[("TOLLGATE_ADMIN_TOKEN", TOKEN)], "")
    }

    /// Asks it to start the process that takes its place.
    pub fn ask_to_hand_over(&self) {
        kill_process(Pid::from_child(&self.child), Signal::QUIT).unwrap();
    }

    /// Writes its configuration anew, has it read, and gives what it said about that: its last word
    /// is whether it took.
    pub async fn reload(&self, accounts: &[Account], settings: &Settings, prices: &str) -> Vec<Value> {
        std::fs::write(self.folder.path().join("prices.yaml"), prices).unwrap();
        std::fs::write(self.config(), config(accounts, settings)).unwrap();
        let before = self.output().len();
        kill_process(Pid::from_child(&self.child), Signal::HUP).unwrap();
        self.reloaded_since(before).await
    }

    /// What it said about a reload since it had written so much: its last word is whether it took.
    pub async fn reloaded_since(&self, before: usize) -> Vec<Value> {
        super::eventually("a word about the reload", || {
            let said: Vec<Value> =
                self.output()[before..].lines().map(serde_json::from_str).collect::<Result<_, _>>().ok()?;
            let about: Vec<Value> =
                said.into_iter().filter(|line| line["target"] == "tollgate::app::reload").collect();
            let last = about.last()?["message"].as_str()?;
            (last == "reloaded" || last.starts_with("not reloaded")).then_some(about)
        })
        .await
    }

    fn spawn(folder: Arc<TempDir>, settings: &Settings, arguments: &[&str]) -> Self {
        let mut child = Command::new(BINARY)
            .args(["serve", "--config"])
            .arg(folder.path().join("tollgate.yaml"))
            .args(arguments)
            .env("TOLLGATE_ADMIN_TOKEN", TOKEN)
            .env("TOLLGATE_LOG", settings.log.unwrap_or("info,tollgate=debug"))
            .envs(settings.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = Arc::new(Mutex::new(String::new()));
        let (serving, wait) = mpsc::channel();
        drain(child.stdout.take().unwrap(), Arc::clone(&output), Some(serving));
        drain(child.stderr.take().unwrap(), Arc::clone(&output), None);
        let Ok(line) = wait.recv_timeout(PATIENCE) else {
            let _ = child.kill();
            panic!("the gateway does not serve:\n{}", output.lock().unwrap());
        };
        let address = |name: &str| {
            let text = line[name].as_str().unwrap().trim_matches(['[', ']']);
            text.parse().unwrap_or_else(|why| panic!("{name} of {line}: {why}"))
        };
        let tls = text(&line["tls"]).trim_matches(['[', ']']).parse().ok();
        let [at, admin, metrics] = ["gateway", "admin", "metrics"].map(address);
        Gateway { child, folder, output, address: at, tls, admin, metrics }
    }

    /// Creates a customer with this credit and a key, through the admin API.
    pub fn customer(&self, credit: &str) -> Customer {
        let id = text(&self.admin_post("/customers", &json!({ "name": "Ada" })).1["id"]);
        if credit != "0" {
            let (status, _) = self
                .admin_post("/deposits", &json!({ "customer": id, "amount": credit, "reference": "first" }));
            assert_eq!(status, 200);
        }
        let (_, key) = self.admin_post("/keys", &json!({ "customer": id, "name": "it" }));
        Customer { id, key_id: text(&key["id"]), key: text(&key["key"]) }
    }

    pub fn admin_get(&self, path: &str) -> (u16, Value) {
        let url = format!("http://{}/admin/v1{path}", self.admin);
        let sent = agent().get(url).header("authorization", format!("Bearer {TOKEN}")).call();
        read(sent.unwrap())
    }

    pub fn admin_post(&self, path: &str, body: &Value) -> (u16, Value) {
        let url = format!("http://{}/admin/v1{path}", self.admin);
        let sent = agent().post(url).header("authorization", format!("Bearer {TOKEN}")).send_json(body);
        read(sent.unwrap())
    }

    /// The receipt of a request that has ended.
    pub async fn receipt(&self, request: &str) -> Value {
        super::eventually(&format!("a closed receipt of {request}"), || {
            let (status, receipt) = self.admin_get(&format!("/receipts/{request}"));
            (status == 200 && receipt["status"] != "open").then_some(receipt)
        })
        .await
    }

    /// The balance and what is available.
    pub fn balance(&self, customer: &Customer) -> (String, String) {
        let (_, shown) = self.admin_get(&format!("/customers/{}", customer.id));
        (text(&shown["balance"]), text(&shown["available"]))
    }

    /// No hold is open, and the balance is this: nothing was charged, or what was is gone.
    pub async fn settles_at(&self, customer: &Customer, balance: &str) {
        super::eventually(&format!("a balance of {balance} without holds"), || {
            let (posted, available) = self.balance(customer);
            (posted == balance && available == balance).then_some(())
        })
        .await;
    }

    /// What Prometheus would read.
    pub fn scrape(&self) -> String {
        let url = format!("http://{}/metrics", self.metrics);
        agent().get(url).call().unwrap().body_mut().read_to_string().unwrap()
    }

    /// Runs a command against this gateway.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.run_with_input(arguments, "")
    }

    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> Output {
        let admin = format!("http://{}", self.admin);
        let environment = [("TOLLGATE_ADMIN_URL", admin.as_str()), ("TOLLGATE_ADMIN_TOKEN", TOKEN)];
        run(arguments, &environment, input)
    }

    /// Runs a command that must succeed and print one JSON object.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        json_of(&output)
    }

    /// All that it wrote so far.
    pub fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// Waits until it has written this: its log is written beside what it tells of.
    pub async fn writes(&self, what: &str) {
        super::eventually(what, || self.output().contains(what).then_some(())).await;
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("tollgate.yaml")
    }

    pub fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// Asks it to finish, as a service manager does.
    pub fn ask_to_stop(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    /// Asks it to finish and waits until it has.
    pub fn stop(&mut self) -> ExitStatus {
        self.ask_to_stop();
        self.stopped()
    }

    /// Whether it has not finished.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until it has finished.
    pub fn stopped(&mut self) -> ExitStatus {
        eventually_blocking("the gateway has stopped", || self.child.try_wait().unwrap())
    }

    /// Ends it as a power cut does.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        assert!(!status.success());
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the gateway wrote:\n{}", self.output());
        } else {
            assert!(!self.output().contains("panicked at"), "{}", self.output());
        }
    }
}

/// The binary with arguments and nothing of this environment that it would read.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(arguments).env_remove("TOLLGATE_ADMIN_URL").env_remove("TOLLGATE_ADMIN_TOKEN");
    command
}

/// Runs the binary to its end.
pub fn run(arguments: &[&str], environment: &[(&str, &str)], input: &str) -> Output {
    use std::io::Write as _;
    let mut child = command(arguments)
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that does not read its input is not at fault.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// Standard output of a command that succeeded.
#[track_caller]
pub fn stdout(output: &Output) -> String {
    let shown = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {shown}", output.status);
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The one JSON object that a command printed.
#[track_caller]
pub fn json_of(output: &Output) -> Value {
    let printed = stdout(output);
    assert_eq!(printed.lines().count(), 1, "one object on one line: {printed}");
    serde_json::from_str(&printed).unwrap()
}

/// A JSON string's text.
#[track_caller]
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no string")).to_owned()
}

fn config(accounts: &[Account], settings: &Settings) -> String {
    let mut config = format!(
        "gateway: {{ listen: [\"127.0.0.1:0\"]{} }}\n\
         admin: {{ {}listen: \"127.0.0.1:0\", token: \"${{TOLLGATE_ADMIN_TOKEN}}\" }}\n\
         metrics: {{ listen: \"127.0.0.1:0\" }}\n\
         store: {{ directory: store }}\nprices: prices.yaml\nretry: {{ {} }}\nqueue: {{ {} }}\n\
         reload: {{ {} }}\nmeter: {{ {} }}\nupstreams:\n",
        settings.gateway, settings.admin, settings.retry, settings.queue, settings.reload, settings.meter
    );
    for Account { name, base_url, credential, more } in accounts {
        // Unless a test says otherwise: it counts what a provider is asked.
        let check = if more.contains("check:") { "" } else { ", check: connect" };
        writeln!(
            config,
            "  - {{ name: {name}, base_url: \"{base_url}\", api_key: \"{credential}\", {more}{check} }}"
        )
        .expect("a string can grow");
    }
    if !settings.background.is_empty() {
        config = format!("background: {{ {} }}\n{config}", settings.background);
    }
    if !settings.traces.is_empty() {
        config = format!("traces: {{ {} }}\n{config}", settings.traces);
    }
    let success_one_in = settings.success_one_in.unwrap_or(1);
    config + &format!("policy: {{ {} }}\nlog: {{ success_one_in: {success_one_in} }}\n", settings.policy)
}

/// Keeps everything that comes, and sends on the line that says where it listens.
fn drain(from: impl Read + Send + 'static, output: Arc<Mutex<String>>, serving: Option<mpsc::Sender<Value>>) {
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if let Some(serving) = &serving
                && let Ok(line) = serde_json::from_str::<Value>(&line)
                && line["message"] == "serving"
            {
                // Nobody listens once the gateway is known to serve.
                let _ = serving.send(line);
            }
            let mut output = output.lock().unwrap();
            output.push_str(&line);
            output.push('\n');
        }
    });
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().into()
}

fn read(mut response: ureq::http::Response<ureq::Body>) -> (u16, Value) {
    let body = response.body_mut().read_to_string().unwrap();
    (response.status().as_u16(), serde_json::from_str(&body).unwrap_or(Value::String(body)))
}
