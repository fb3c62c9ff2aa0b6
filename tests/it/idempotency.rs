//! `Idempotency-Key`: what is sent twice is charged once, whatever happens in between.

use crate::hygiene::{contains, files};
use crate::strangers::metric;
use crate::support::books::audit_stopped;
use crate::support::scene::{Scene, scene};
use crate::support::{Answer, Client, Gateway, ask, audit, eventually, streamed};
use serde_json::{Value, json};

const KEY: &str = "CANARY-order-4711";

async fn send(client: &Client, key: &str, body: &Value) -> Answer {
    Answer::read(client.chat(body.to_string()).header("idempotency-key", key.to_owned())).await
}

/// It points at the request that was served, and no client sends it again by itself.
#[track_caller]
fn is_told_of(answer: &Answer, first: &str) {
    answer.is_error(409, Some("idempotency_key_used"));
    assert_eq!(answer.header("x-tollgate-first-request"), first);
    assert_eq!(answer.header("x-should-retry"), "false");
    assert!(answer.headers.get("retry-after").is_none(), "{answer:?}");
    assert!(answer.text().contains(&format!("/tollgate/v1/receipts/{first}")), "{answer:?}");
}

fn rejected(gateway: &Gateway, reason: &str) -> usize {
    metric(gateway, &format!("tollgate_admission_rejected_total{{reason=\"{reason}\"}}"))
}

#[tokio::test]
async fn what_was_served_is_charged_once_also_after_a_restart() {
    let Scene { provider, gateway, customer } = scene();
    let other = gateway.customer("1.00");
    let [h1, h2] = Client::both(&gateway, &customer);
    let first = send(&h1, KEY, &ask(&[])).await;
    assert_eq!(first.status, 200);
    for client in [&h1, &h2] {
        is_told_of(&send(client, KEY, &ask(&[])).await, &first.id());
        let reused = send(client, KEY, &streamed(ask(&[]))).await;
        reused.is_error(422, Some("idempotency_key_reused"));
        assert_eq!(reused.header("x-should-retry"), "false");
    }
    // The same body at another endpoint is another request.
    let elsewhere = json!({ "model": "gpt-4o-mini", "input": "Say this is a test.", "messages": [] });
    let elsewhere = h1.post("/v1/responses", elsewhere.to_string()).header("idempotency-key", KEY);
    Answer::read(elsewhere).await.is_error(422, Some("idempotency_key_reused"));
    let theirs = send(&Client::h1(&gateway, &other), KEY, &ask(&[])).await;
    assert_eq!(theirs.status, 200, "a key is its customer's own");
    let second = send(&h2, "another", &streamed(ask(&[]))).await;
    assert!(second.text().contains("[DONE]"));
    is_told_of(&send(&h2, "another", &streamed(ask(&[]))).await, &second.id());
    assert_eq!(rejected(&gateway, "idempotency_key_used"), 3);
    assert_eq!(rejected(&gateway, "idempotency_key_reused"), 3);

    let mut gateway = gateway;
    gateway.kill();
    let gateway = gateway.again();
    let [h1, _] = Client::both(&gateway, &customer);
    is_told_of(&send(&h1, KEY, &ask(&[])).await, &first.id());
    is_told_of(&send(&h1, "another", &streamed(ask(&[]))).await, &second.id());
    let receipt = h1.get(&format!("/tollgate/v1/receipts/{}", first.id())).await;
    assert_eq!(receipt.json()["status"], "captured");
    gateway.writes("idempotency_key_used").await;
    assert!(!gateway.scrape().contains("CANARY"));
    let mut gateway = gateway;
    assert!(gateway.stop().success());
    assert!(!gateway.output().contains("CANARY"), "{}", gateway.output());
    audit_stopped(&gateway, &[&provider]).is_exact(3);
    for file in files(&gateway.store()) {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!contains(&bytes, "CANARY"), "{}", file.display());
    }
}

#[tokio::test]
async fn what_is_under_way_is_not_begun_again() {
    let Scene { provider, gateway, customer } = scene();
    let clients = Client::both(&gateway, &customer);
    let slow = ask(&[("latency_ms", "1500")]);
    let racing = (0..20).map(|n| {
        let (client, slow) = (clients[n % 2].clone(), slow.clone());
        tokio::spawn(async move { send(&client, KEY, &slow).await })
    });
    let racing: Vec<_> = racing.collect();
    let mut answers = Vec::new();
    for answer in racing {
        answers.push(answer.await.unwrap());
    }
    let served: Vec<&Answer> = answers.iter().filter(|answer| answer.status == 200).collect();
    assert_eq!((served.len(), provider.provider.log().len()), (1, 1));
    for refused in answers.iter().filter(|answer| answer.status != 200) {
        refused.is_error(409, Some("idempotency_key_in_use"));
        assert_eq!(refused.header("x-tollgate-first-request"), served[0].id());
        assert_eq!((refused.header("x-should-retry"), refused.header("retry-after")), ("true", "1"));
    }
    // One that is under way after a hand-over is the new process's to know.
    let body = streamed(ask(&[("tokens", "40"), ("chunks", "40"), ("pace_ms", "150")]));
    let mut stream = clients[0].chat(body.to_string()).header("idempotency-key", "s").send().await.unwrap();
    assert_eq!(stream.status(), 200);
    stream.chunk().await.unwrap();
    let mut before = gateway;
    let gateway = before.upgrade();
    let client = Client::h1(&gateway, &customer);
    send(&client, "s", &body).await.is_error(409, Some("idempotency_key_in_use"));
    let first = stream.headers()["x-request-id"].to_str().unwrap().to_owned();
    assert!(stream.text().await.unwrap().contains("[DONE]"));
    is_told_of(&send(&client, "s", &body).await, &first);
    // A connection that is kept has one more request before it is closed.
    drop(clients);
    eventually("the old one has ended", || (!before.is_running()).then_some(())).await;
    audit(gateway, &[&provider]).is_exact(2);
}

/// The process that has handed over asks the new one, also about what that has served.
#[tokio::test]
async fn a_process_that_drains_asks_the_one_that_owns_the_books() {
    let Scene { provider, gateway, customer } = scene();
    let kept = Client::h1(&gateway, &customer);
    assert_eq!(send(&kept, "a", &ask(&[])).await.status, 200);
    let mut before = gateway;
    let gateway = before.upgrade();
    let new = send(&Client::h1(&gateway, &customer), KEY, &ask(&[])).await;
    assert_eq!(new.status, 200);
    // On the connection that is kept to the old one.
    is_told_of(&send(&kept, KEY, &ask(&[])).await, &new.id());
    assert!(before.stopped().success());
    audit(gateway, &[&provider]).is_exact(2);
}

#[tokio::test]
async fn what_cost_nothing_may_be_sent_again_with_its_key() {
    let Scene { provider, gateway, customer } = scene();
    let poor = gateway.customer("0");
    let clients = Client::both(&gateway, &customer);
    for (number, client) in clients.iter().enumerate() {
        let key = format!("again-{number}");
        send(client, &key, &ask(&[("status", "400")])).await.is_error(400, None);
        send(client, &key, &ask(&[("status", "500")])).await.is_error(503, Some("upstream_unavailable"));
        send(client, &key, &json!({ "model": "gpt-4o-mini" })).await.is_error(400, None);
        assert_eq!(send(client, &key, &ask(&[])).await.status, 200);
        let moderation = json!({ "input": "a" }).to_string();
        for _ in 0..2 {
            let request = client.post("/v1/moderations", moderation.clone());
            let answer = Answer::read(request.header("idempotency-key", format!("free-{number}"))).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    }
    let broke = Client::h1(&gateway, &poor);
    send(&broke, KEY, &ask(&[])).await.is_error(402, Some("insufficient_quota"));
    gateway.json(&["credit", "deposit", "--customer", &poor.id, "--amount", "1", "--reference", "r"]);
    assert_eq!(send(&broke, KEY, &ask(&[])).await.status, 200);
    // A client that leaves pays for what it had: its key is used.
    let body = streamed(ask(&[("tokens", "40"), ("chunks", "40"), ("pace_ms", "600000")]));
    let request = clients[0].chat(body.to_string()).header("idempotency-key", "left");
    let mut stream = request.send().await.unwrap();
    let first = stream.headers()["x-request-id"].to_str().unwrap().to_owned();
    stream.chunk().await.unwrap();
    drop(stream);
    eventually("it is charged", || {
        let (_, receipt) = gateway.admin_get(&format!("/receipts/{first}"));
        (receipt["status"] == "captured").then_some(())
    })
    .await;
    is_told_of(&send(&clients[1], "left", &body).await, &first);
    let long = "x".repeat(256);
    for wrong in ["", long.as_str()] {
        send(&clients[0], wrong, &ask(&[])).await.is_error(400, None);
    }
    let twice = clients[0].chat(ask(&[]).to_string()).header("idempotency-key", "a");
    Answer::read(twice.header("idempotency-key", "a")).await.is_error(400, None);
    drop(provider);
}
