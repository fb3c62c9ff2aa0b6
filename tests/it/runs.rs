//! Responses in the background: answered at once, held for until they have ended, and charged once, whoever
//! sees the end.

use crate::strangers::metric;
use crate::support::gateway::{PRICES, text};
use crate::support::scene::{Scene, scene, scene_with};
use crate::support::{Account, Answer, Client, Customer, Gateway, Settings, Simulated, audit, eventually};
use serde_json::{Value, json};
use tollgate::simulate::{Options, Provider};

const RESPONSES: &str = "/v1/responses";

/// A run that has ended when it was read so often.
fn ask(reads: u32) -> Value {
    json!({ "model": "gpt-4o-mini", "input": "hello you", "background": true, "max_output_tokens": 100,
        "metadata": { "simulate_reads": reads.to_string() } })
}

/// The same, answered when it has been made.
fn foreground() -> Value {
    json!({ "model": "gpt-4o-mini", "input": "hello you", "max_output_tokens": 100 })
}

/// Begins a run: its name, and its request.
async fn begin(client: &Client, body: &Value) -> (String, String) {
    let answer = Answer::read(client.post(RESPONSES, body.to_string())).await;
    assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("queued")), "{answer:?}");
    assert_eq!(answer.headers.get("x-tollgate-charge"), None, "nobody knows it yet");
    (text(&answer.json()["id"]), answer.id())
}

async fn stored(client: &Client, customer: &Customer, method: &str, below: &str) -> Answer {
    Answer::read(client.request(method, &format!("{RESPONSES}/{below}")).bearer_auth(&customer.key)).await
}

/// Reads a run until it has ended.
async fn read(client: &Client, customer: &Customer, id: &str) -> Value {
    for _ in 0..1_000 {
        let read = stored(client, customer, "GET", id).await;
        assert_eq!(read.status, 200, "{read:?}");
        if read.json()["status"] != "in_progress" {
            return read.json();
        }
    }
    panic!("it does not end")
}

fn shown(gateway: &Gateway, request: &str) -> Value {
    gateway.admin_get(&format!("/receipts/{request}")).1
}

/// The receipt of a run that has ended: nobody but the gateway reads it.
async fn charged(gateway: &Gateway, request: &str) -> Value {
    eventually("a run that is charged", || {
        let receipt = shown(gateway, request);
        (receipt["status"] != "running").then_some(receipt)
    })
    .await
}

#[tokio::test]
async fn a_run_is_charged_when_its_end_is_read() {
    let scene = scene();
    for client in scene.clients() {
        let (id, request) = begin(&client, &ask(3)).await;
        let open = shown(&scene.gateway, &request);
        assert_eq!((&open["status"], &open["model"]), (&json!("running"), &json!("gpt-4o-mini")), "{open}");
        let own = client.get(&format!("/tollgate/v1/receipts/{request}")).await.json();
        assert_eq!((&own["status"], &own["object"]), (&json!("running"), &json!(id)), "{own}");
        assert_eq!(own["attempts"][0]["upstream"], "upstream-1", "whose account it is stays ours");
        let balance = client.get("/tollgate/v1/balance").await.json();
        assert_eq!(balance["held"], open["held"], "{balance}");
        assert_eq!(metric(&scene.gateway, "tollgate_runs_open"), 1);
        let ended = read(&client, &scene.customer, &id).await;
        // Not later: the charge is durable before its answer passes.
        let receipt = shown(&scene.gateway, &request);
        assert_eq!((&receipt["status"], &receipt["metered"]), (&json!("captured"), &json!("reported")));
        assert_eq!(receipt["usage"]["output"], ended["usage"]["output_tokens"]);
        assert_eq!(receipt["usage"]["input"], json!(6));
        // 6 x 0.15 + 16 x 0.60 for a million
        assert_eq!(text(&receipt["charge"]), "0.0000105");
        assert_eq!(receipt["object"], json!(id));
        let again = stored(&client, &scene.customer, "GET", &id).await;
        assert_eq!(again.json()["status"], "completed");
        assert_eq!(metric(&scene.gateway, "tollgate_runs_open"), 0);
    }
    let Scene { gateway, provider, customer } = scene;
    gateway.settles_at(&customer, "0.999979").await;
    let scraped = gateway.scrape();
    assert!(scraped.contains("tollgate_charged_usd_total{model=\"gpt-4o-mini\"} 0.000021"), "{scraped}");
    assert!(scraped.contains("tollgate_metered_total{kind=\"reported\"} 2"), "{scraped}");
    assert!(!scraped.contains("kind=\"none\""), "each is counted once, when it has ended: {scraped}");
    audit(gateway, &[&provider]).is_exact(2);
}

#[tokio::test]
async fn a_run_that_nobody_reads_is_charged_over_a_kill_and_an_upgrade() {
    let provider = Simulated::start();
    let mut gateway = Gateway::start(&[Account::of(&provider)]);
    let customer = gateway.customer("1.00");
    let mut requests = Vec::new();
    for reads in [0, 1] {
        requests.push(begin(&Client::h1(&gateway, &customer), &ask(reads)).await.1);
    }
    for request in &requests {
        assert_eq!(charged(&gateway, request).await["status"], "captured");
    }
    requests.push(begin(&Client::h1(&gateway, &customer), &ask(0)).await.1);
    gateway.kill();
    gateway = gateway.again();
    let receipt = charged(&gateway, &requests[2]).await;
    assert_eq!((&receipt["status"], text(&receipt["charge"])), (&json!("captured"), "0.0000105".into()));
    let client = Client::h1(&gateway, &customer);
    requests.push(begin(&client, &ask(0)).await.1);
    let next = gateway.upgrade();
    // The old process has it begun, on a connection that is kept; the new one looks after it.
    requests.push(begin(&client, &ask(0)).await.1);
    assert!(gateway.stopped().success());
    for request in &requests[3..] {
        assert_eq!(charged(&next, request).await["status"], "captured", "{request}");
    }
    audit(next, &[&provider]).is_exact(5);
}

/// Many read it at once, while it is looked after, too: it is charged once. Nor is it begun twice.
#[tokio::test]
async fn a_run_that_many_read_is_charged_once() {
    let Scene { gateway, provider, customer } = scene();
    let client = Client::h2(&gateway, &customer);
    let begin = |key| Answer::read(client.post(RESPONSES, ask(8).to_string()).header("idempotency-key", key));
    let begun = begin("a").await;
    begin("a").await.is_error(409, Some("idempotency_key_in_use"));
    let id = text(&begun.json()["id"]);
    let reads = (0..20).map(|_| stored(&client, &customer, "GET", &id));
    let read = futures_util::future::join_all(reads).await;
    let ended = read.iter().filter(|answer| answer.json()["status"] == "completed").count();
    assert!(read.iter().all(|answer| answer.status == 200) && ended > 0, "{ended}");
    begin("a").await.is_error(409, Some("idempotency_key_used"));
    audit(gateway, &[&provider]).is_exact(1);
}

#[tokio::test]
async fn a_run_is_refused_where_it_is_not_sold_or_there_is_no_room() {
    let of = |background| Settings { background, ..Settings::default() };
    let Scene { gateway, provider, customer } = scene_with(&of("runs_max: 2, runs_per_customer_max: 1"));
    let client = Client::h1(&gateway, &customer);
    for (field, value, param) in [("stream", true, "background"), ("store", false, "store")] {
        let mut body = ask(0);
        body[field] = json!(value);
        let refused = Answer::read(client.post(RESPONSES, body.to_string())).await;
        refused.is_error(400, None);
        assert_eq!(refused.json()["error"]["param"], param);
    }
    let send = |client: &Client| Answer::read(client.post(RESPONSES, ask(1_000).to_string()));
    let (id, _) = begin(&client, &ask(1_000)).await;
    let full = send(&client).await;
    full.is_error(429, Some("rate_limit_exceeded"));
    assert!(full.text().contains("1 runs in the background at once"), "{full:?}");
    assert_eq!(full.header("retry-after"), "5");
    let others = [gateway.customer("1.00"), gateway.customer("1.00")];
    let others: Vec<Client> = others.iter().map(|other| Client::h1(&gateway, other)).collect();
    begin(&others[0], &ask(1_000)).await;
    send(&others[1]).await.is_error(503, Some("overloaded"));
    // What is answered at once is not a run.
    assert_eq!(Answer::read(client.post(RESPONSES, foreground().to_string())).await.status, 200);
    stored(&client, &customer, "POST", &format!("{id}/cancel")).await;
    begin(&others[1], &ask(1_000)).await;
    gateway.reload(&[Account::of(&provider)], &of("runs_max: 0"), PRICES).await;
    let refused = send(&client).await;
    refused.is_error(400, None);
    assert!(refused.text().contains("not sold"), "{refused:?}");
    assert_eq!(gateway.balance(&customer).0, gateway.balance(&customer).1, "nothing is held");
}

/// Nobody says what it used: what it wrote is counted.
#[tokio::test]
async fn a_run_that_does_not_tell_what_it_used_is_counted() {
    let Scene { gateway, provider: _provider, customer } = scene();
    let mut body = ask(0);
    body["metadata"]["simulate_usage"] = json!("missing");
    let (_, request) = begin(&Client::h1(&gateway, &customer), &body).await;
    let receipt = charged(&gateway, &request).await;
    let shown = [&receipt["status"], &receipt["metered"], &receipt["encoding"]];
    assert_eq!(shown, ["captured", "estimated", "o200k_base"], "{receipt}");
    // 16 words such as `tok7`, of two tokens each.
    let usage = &receipt["usage"];
    assert_eq!((&usage["input"], &usage["output"]), (&json!(2), &json!(32)), "{receipt}");
    audit(gateway, &[]).counts(0, 1, 0);
}

#[tokio::test]
async fn a_run_that_takes_too_long_is_cancelled_and_charged() {
    let settings = Settings { background: "run_timeout_ms: 100", ..Settings::default() };
    let Scene { gateway, provider, customer } = scene_with(&settings);
    let (id, request) = begin(&Client::h1(&gateway, &customer), &ask(1_000)).await;
    let receipt = charged(&gateway, &request).await;
    assert_eq!((&receipt["status"], text(&receipt["charge"])), (&json!("captured"), "0.0000105".into()));
    let read = stored(&Client::h1(&gateway, &customer), &customer, "GET", &id).await;
    assert_eq!(read.json()["status"], "cancelled");
    audit(gateway, &[&provider]).is_exact(1);
}

/// What was in flight ends by a ban, and runs are in flight.
#[tokio::test]
async fn a_run_of_who_is_banned_is_cancelled_and_charged() {
    let Scene { gateway, provider, customer } = scene();
    let (_, request) = begin(&Client::h1(&gateway, &customer), &ask(1_000)).await;
    gateway.json(&["customer", "ban", &customer.id, "--reason", "spam"]);
    let receipt = charged(&gateway, &request).await;
    assert_eq!((&receipt["status"], text(&receipt["charge"])), (&json!("captured"), "0.0000105".into()));
    let view = gateway.json(&["customer", "show", &customer.id]);
    assert_eq!((&view["balance"], &view["forfeited"]), (&json!("0.00"), &json!("0.9999895")), "{view}");
    audit(gateway, &[&provider]).is_exact(1);
}

#[tokio::test]
async fn a_run_is_cancelled_and_deleted_by_who_pays_for_what_it_used() {
    let Scene { gateway, provider, customer } = scene();
    let client = Client::h1(&gateway, &customer);
    let eve = gateway.customer("1.00");
    let (id, request) = begin(&client, &ask(1_000)).await;
    for (method, below) in [("GET", ""), ("DELETE", ""), ("POST", "/cancel")] {
        stored(&client, &eve, method, &format!("{id}{below}")).await.is_error(404, None);
    }
    let kept = stored(&client, &customer, "DELETE", &id).await;
    kept.is_error(400, None);
    assert!(kept.text().contains("still at work"), "{kept:?}");
    let mut on = ask(0);
    on["previous_response_id"] = json!(id);
    let early = Answer::read(client.post(RESPONSES, on.to_string())).await;
    early.is_error(400, None);
    assert_eq!(early.json()["error"]["param"], "previous_response_id");
    let cancelled = stored(&client, &customer, "POST", &format!("{id}/cancel")).await;
    assert_eq!((cancelled.status, &cancelled.json()["status"]), (200, &json!("cancelled")));
    assert_eq!(shown(&gateway, &request)["status"], "captured");
    // Now it can be gone on from, and go.
    let (next, _) = begin(&client, &on).await;
    read(&client, &customer, &next).await;
    assert_eq!(stored(&client, &customer, "DELETE", &id).await.status, 200);
    audit(gateway, &[&provider]).is_exact(2);
}

/// Nobody can say any more what it used: it is not charged, and not held for ever.
#[tokio::test]
async fn a_run_that_its_provider_forgot_is_given_up() {
    let provider = Simulated::start();
    let gateway = Gateway::start(&[Account::of(&provider)]);
    let customer = gateway.customer("1.00");
    let (id, request) = begin(&Client::h1(&gateway, &customer), &ask(1_000)).await;
    let (_, address) = provider.die();
    let _forgetful = Simulated::revive((Provider::new(Options::default()), address));
    let receipt = charged(&gateway, &request).await;
    assert_eq!((&receipt["status"], &receipt["end"]), (&json!("released"), &json!("lost")), "{receipt}");
    gateway.settles_at(&customer, "1.00").await;
    stored(&Client::h1(&gateway, &customer), &customer, "GET", &id).await.is_error(404, None);
    audit(gateway, &[]).counts(0, 0, 1);
}

/// The prices that a run began with are its own, whatever is configured when it ends.
#[tokio::test]
async fn a_run_ends_at_the_prices_that_it_began_with() {
    let provider = Simulated::start();
    let accounts = || [Account::of(&provider)];
    let gateway = Gateway::start(&accounts());
    let customer = gateway.customer("1.00");
    let client = Client::h1(&gateway, &customer);
    let (id, request) = begin(&client, &ask(1_000)).await;
    let dearer = PRICES.replace("it-1", "it-2").replace(r#"input: "0.15""#, r#"input: "1500""#);
    assert_ne!(dearer, PRICES);
    gateway.reload(&accounts(), &Settings::default(), &dearer).await;
    stored(&client, &customer, "POST", &format!("{id}/cancel")).await;
    let receipt = shown(&gateway, &request);
    assert_eq!(
        (text(&receipt["price_version"]), text(&receipt["charge"])),
        ("it-1".into(), "0.0000105".into())
    );
}
