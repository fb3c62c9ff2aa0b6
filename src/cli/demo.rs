//! `demo`: everything at work in a minute, on this machine, with nothing to set up.
//!
//! Nothing in it is staged: a real gateway in a temporary store, the admin API as the commands use
//! it, and requests over HTTP to a provider that is simulated but keeps its own log, against which
//! the charges are held.

use super::client::Client;
use super::table::{print, print_json};
use super::{Done, Failed, customer, ledger};
use crate::admin::views::{BookingView, CustomerView, KeyView};
use crate::app::{App, Begin};
use crate::clock::Timestamp;
use crate::config;
use crate::ledger::Verified;
use crate::money::Amount;
use crate::record::receipt::Receipt;
use crate::settle;
use crate::settle::price::{Picture, PriceBook, Tier};
use crate::simulate::{Options, Provider};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const CONFIG: &str = "tollgate.yaml";
const MODEL: &str = "gpt-4o-mini";
const PROMPT: &str = "Say this is a test.";
const DEPOSIT: &str = "25.00";
/// The longest that a receipt may take to be durable: it is before the answer ends.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs the demonstration.
pub fn run(listen: SocketAddr, once: bool, json: bool) -> Done {
    let folder = tempfile::Builder::new().prefix("tollgate-demo-").tempdir();
    let folder = folder.map_err(|why| Failed::Failed(format!("no temporary folder: {why}")))?;
    let provider = Provider::new(Options::default());
    let provider_address = serve_provider(provider.clone())?;
    let token = format!("{:032x}", fastrand::u128(..));
    let config = write_config(folder.path(), listen, provider_address, &token)?;
    let (path, secret) = (folder.path().join(CONFIG), token.clone());
    let app = App::start(&config, Box::new(move || load(&path, &secret)), Begin::Afresh).map_err(|why| {
        Failed::Failed(format!("{why}; choose another address by --listen, such as 127.0.0.1:0"))
    })?;
    let (gateway, admin) = (app.addresses.gateway[0], app.addresses.admin);
    let metrics = app.addresses.metrics;
    let running = thread::spawn(move || app.run());

    let tour = Tour {
        client: Client::with_token(&format!("http://{admin}"), &token, json),
        gateway: format!("http://{gateway}"),
        prices: config.prices.at(Timestamp::now()),
        provider: &provider,
    };
    tour.say(&format!("provider   http://{provider_address}/v1 (simulated)"))?;
    tour.say(&format!("gateway    http://{gateway}/v1, in a temporary store"))?;
    let (key, _) = tour.take()?;
    if once {
        return Ok(());
    }
    serve_on(&tour, &key, &format!("http://{metrics}/metrics"), running)
}

fn serve_on(tour: &Tour<'_>, key: &str, metrics: &str, running: JoinHandle<()>) -> Done {
    tour.say(&format!(
        "\nstill serving, until Ctrl-C; metrics at {metrics}. Try:\n\n  curl {}/v1/chat/completions \\\n    \
         -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\\n    \
         -d '{{\"model\": \"{MODEL}\", \"messages\": [{{\"role\": \"user\", \"content\": \"{PROMPT}\"}}]}}'",
        tour.gateway
    ))?;
    running.join().map_err(|_| Failed::Failed("the gateway panicked".into()))
}

struct Tour<'a> {
    client: Client,
    gateway: String,
    prices: &'a PriceBook,
    provider: &'a Provider,
}

impl Tour<'_> {
    /// A customer, a deposit, a key, a plain and a streamed request, and whether it all adds up.
    fn take(&self) -> Result<(String, Verified), Failed> {
        let created: CustomerView = self.client.post("/customers", &json!({ "name": "Ada" }))?;
        let deposit = json!({ "customer": created.id, "amount": DEPOSIT, "reference": "demo" });
        let deposited: BookingView = self.client.post("/deposits", &deposit)?;
        self.say(&format!("customer   {} ({}), {} USD", created.id, created.name, deposited.balance))?;
        let key: KeyView = self.client.post("/keys", &json!({ "customer": created.id, "name": "demo" }))?;
        let plain = key.key.as_deref().unwrap_or_default().to_owned();
        self.say(&format!("key        {}\n", key.prefix))?;

        let first = self.request(&plain, false)?;
        let second = self.request(&plain, true)?;

        let shown: CustomerView = self.client.get(&format!("/customers/{}", created.id))?;
        let charged = first.charge + second.charge;
        self.say(&format!("balance    {} - {charged} = {} USD", deposited.balance, shown.balance))?;
        expect(
            deposited.balance - charged == shown.balance,
            "the balance is not the deposit less the charges",
        )?;
        expect(shown.balance == shown.available, "a hold was left open")?;
        let verified: Verified = self.client.post("/ledger/verify", &json!({}))?;
        if self.client.json {
            print_json(&first)?;
            print_json(&second)?;
        }
        ledger::show(&verified, self.client.json)?;
        expect(verified.captures == 2 && verified.open_holds == 0, "the ledger does not have two captures")?;
        Ok((plain, verified))
    }

    fn request(&self, key: &str, stream: bool) -> Result<Receipt, Failed> {
        let body = json!({
            "model": MODEL, "stream": stream, "messages": [{ "role": "user", "content": PROMPT }]
        });
        let failed = |why: ureq::Error| Failed::Failed(format!("the request failed: {why}"));
        let mut answer = ureq::post(format!("{}/v1/chat/completions", self.gateway))
            .header("authorization", format!("Bearer {key}"))
            .send_json(&body)
            .map_err(failed)?;
        let id = answer
            .headers()
            .get("x-request-id")
            .and_then(|id| id.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        let text = answer.body_mut().read_to_string().map_err(failed)?;
        self.say(&format!("{} -> {}", if stream { "streamed" } else { "plain" }, content(&text, stream)))?;
        let receipt = self.receipt(&id)?;
        self.check(&receipt)?;
        self.say(&customer::receipt_text(&receipt))?;
        Ok(receipt)
    }

    fn receipt(&self, id: &str) -> Result<Receipt, Failed> {
        let begun = Instant::now();
        loop {
            match self.client.get(&format!("/receipts/{id}")) {
                Err(Failed::Refused(_)) if begun.elapsed() < PATIENCE => thread::yield_now(),
                other => return other,
            }
        }
    }

    /// The receipt adds up, and charges what the provider's own log says that it served.
    fn check(&self, receipt: &Receipt) -> Done {
        let sum: Amount = receipt.lines.iter().map(|line| line.amount).sum();
        expect(sum == receipt.charge, "the lines of a receipt do not add up to its charge")?;
        let id = receipt.request_id.to_string();
        let log = self.provider.log();
        let served = log.iter().find(|served| served.request == id && served.complete);
        let served = served.ok_or_else(|| Failed::Failed(format!("the provider did not serve {id}")))?;
        let (_, price) =
            self.prices.find(MODEL).ok_or_else(|| Failed::Failed("the model has no price".into()))?;
        let due = settle::settle(&served.usage(), Tier::Default, &Picture::default(), &price.price).charge;
        expect(due == receipt.charge, "the charge is not what the provider served")
    }

    fn say(&self, text: &str) -> Done {
        if self.client.json { Ok(()) } else { print(&format!("{text}\n")) }
    }
}

fn expect(holds: bool, otherwise: &str) -> Done {
    if holds { Ok(()) } else { Err(Failed::Failed(otherwise.into())) }
}

/// The text of an answer.
fn content(text: &str, stream: bool) -> String {
    let read = |json: &str| serde_json::from_str::<Value>(json).unwrap_or_default();
    if !stream {
        return read(text)["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned();
    }
    let events = text.lines().filter_map(|line| line.strip_prefix("data: "));
    events
        .map(|event| read(event)["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned())
        .collect()
}

fn serve_provider(provider: Provider) -> Result<SocketAddr, Failed> {
    let failed = |why: std::io::Error| Failed::Failed(format!("the simulated provider: {why}"));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    thread::spawn(move || {
        runtime.block_on(async {
            let served = async { provider.serve(tokio::net::TcpListener::from_std(listener)?).await };
            if let Err(why) = served.await {
                eprintln!("tollgate: the simulated provider: {why}");
            }
        });
    });
    Ok(address)
}

/// Writes a configuration as an operator would, and loads it.
fn write_config(
    folder: &Path,
    listen: SocketAddr,
    provider: SocketAddr,
    token: &str,
) -> Result<config::Config, Failed> {
    let config = format!(
        "gateway: {{ listen: [\"{listen}\"] }}\n\
         admin: {{ listen: \"127.0.0.1:0\", token: \"${{TOLLGATE_ADMIN_TOKEN}}\" }}\n\
         metrics: {{ listen: \"127.0.0.1:0\" }}\n\
         store: {{ directory: store }}\n\
         prices: prices.yaml\n\
         upstreams:\n  - {{ name: simulated, base_url: \"http://{provider}/v1\", api_key: sk-simulated }}\n"
    );
    let path = folder.join(CONFIG);
    let failed = |why: std::io::Error| Failed::Failed(format!("the temporary folder: {why}"));
    std::fs::write(&path, config).map_err(failed)?;
    std::fs::write(folder.join("prices.yaml"), include_str!("../../conf/prices.yaml")).map_err(failed)?;
    load(&path, token).map_err(|faults| Failed::Failed(faults.to_string()))
}

fn load(path: &Path, token: &str) -> Result<config::Config, config::Faults> {
    config::load_with(path, &|name| (name == "TOLLGATE_ADMIN_TOKEN").then(|| token.to_owned()))
}
