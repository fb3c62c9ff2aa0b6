//! The real `tollgate serve`: a customer with credit and a key, and proof that it charged.

use super::Failed;
use super::process::{self, Process};
use super::report::Proof;
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

const ADMIN_TOKEN: &str = "the-admin-token-of-a-benchmark";
/// More than any run can spend.
const CREDIT: &str = "1000000000";
/// A long journal is read whole.
const VERIFY_MAX: Duration = Duration::from_secs(120);

/// A gateway that runs.
pub struct Gateway {
    pub process: Process,
    pub address: SocketAddr,
    pub key: String,
    admin: SocketAddr,
    metrics: SocketAddr,
}

/// Starts it with its store in `folder`, and makes what a request needs.
pub fn start(upstream: SocketAddr, core: Option<&str>, folder: &Path) -> Result<Gateway, Failed> {
    let config = folder.join("tollgate.yaml");
    fs::write(&config, configuration(upstream))?;
    fs::write(folder.join("prices.yaml"), include_str!("../../conf/prices.yaml"))?;
    let mut command = process::on_core(core, Path::new(env!("CARGO_BIN_EXE_tollgate")));
    command.arg("serve").arg("--config").arg(&config);
    let (process, [address, admin, metrics]) = Process::start(command, &folder.join("log"), addresses)?;
    let mut gateway = Gateway { process, address, key: String::new(), admin, metrics };
    let customer = gateway.post("customers", &json!({ "name": "bench" }))?["id"].clone();
    gateway.post("deposits", &json!({ "customer": customer, "amount": CREDIT, "reference": "bench" }))?;
    let key = gateway.post("keys", &json!({ "customer": customer, "name": "bench" }))?;
    gateway.key = key["key"].as_str().ok_or("the admin API made no key")?.to_owned();
    Ok(gateway)
}

fn configuration(upstream: SocketAddr) -> String {
    format!(
        "gateway: {{ listen: [\"127.0.0.1:0\"], threads: 1 }}\n\
         admin: {{ listen: \"127.0.0.1:0\", token: {ADMIN_TOKEN} }}\n\
         metrics: {{ listen: \"127.0.0.1:0\" }}\n\
         store: {{ directory: store }}\n\
         prices: prices.yaml\n\
         upstreams:\n  - {{ name: mock, base_url: \"http://{upstream}/v1\", api_key: sk-mock, \
         limits: {{ concurrency: 100000 }} }}\n"
    )
}

/// Where a gateway serves, from the line of its log that says so.
fn addresses(line: &str) -> Option<[SocketAddr; 3]> {
    let line: Value = serde_json::from_str(line).ok()?;
    let field = |name: &str| line[name].as_str()?.trim_matches(['[', ']']).parse().ok();
    Some([field("gateway")?, field("admin")?, field("metrics")?])
}

impl Gateway {
    /// Proves that the ledger was on: one charge for each of `answers`, and nothing left open.
    pub fn prove(&self, answers: u64) -> Result<Proof, Failed> {
        let fsyncs = self.metric("tollgate_journal_commit_seconds_count")?;
        let verified = self.post("ledger/verify", &json!({}))?;
        let count = |name: &str| verified[name].as_u64().ok_or(format!("{name} is missing in {verified}"));
        let captures = count("captures")?;
        if captures != answers || count("open_holds")? != 0 {
            return Err(format!("{answers} answers, but the ledger says {verified}").into());
        }
        Ok(Proof { answers, captures, fsyncs })
    }

    fn post(&self, path: &str, body: &Value) -> Result<Value, Failed> {
        let url = format!("http://{}/admin/v1/{path}", self.admin);
        let request = ureq::post(url).config().proxy(None).timeout_global(Some(VERIFY_MAX)).build();
        let sent = request.header("authorization", format!("Bearer {ADMIN_TOKEN}")).send_json(body);
        let answer = sent.map_err(|why| format!("the admin API at {path}: {why}"))?;
        Ok(answer.into_body().read_json()?)
    }

    fn metric(&self, name: &str) -> Result<u64, Failed> {
        let text =
            ureq::get(format!("http://{}/metrics", self.metrics)).config().proxy(None).build().call()?;
        let text = text.into_body().read_to_string()?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.ok_or_else(|| format!("there is no metric {name}").into())
    }
}
