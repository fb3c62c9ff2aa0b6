//! Batches: judged line by line, held for at their most, and charged what their output says, once.

use crate::files::{upload, uploaded};
use crate::support::gateway::text;
use crate::support::scene::{Scene, scene, scene_with};
use crate::support::{Account, Answer, Client, Customer, Gateway, Settings, Simulated, audit, eventually};
use serde_json::{Value, json};

const BATCHES: &str = "/v1/batches";
const MODEL: &str = "batched";

/// A line that asks for so many tokens, with a prompt of so many bytes.
fn line(custom_id: &str, tokens: u64, bytes: usize) -> String {
    let body = json!({
        "model": MODEL, "max_tokens": 100, "messages": [{ "role": "user", "content": "x".repeat(bytes) }],
        "metadata": { "simulate_tokens": tokens.to_string() },
    });
    json!({ "custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body })
        .to_string()
}

/// One that the provider refuses.
fn bad(custom_id: &str) -> String {
    line(custom_id, 1, 1).replace(r#""simulate_tokens":"1""#, r#""simulate_status":"400""#)
}

/// Three short ones, a long one, and one that fails.
fn file() -> String {
    [line("a", 5, 40), line("b", 7, 44), bad("c"), line("d", 11, 4_000), line("e", 13, 48)].join("\n")
}

async fn ask(client: &Client, key: &str, method: &str, path: &str) -> Answer {
    Answer::read(client.request(method, path).bearer_auth(key)).await
}

async fn create(client: &Client, file: &str, metadata: Value) -> Answer {
    let body = json!({
        "input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h",
        "metadata": metadata,
    });
    Answer::read(client.post(BATCHES, body.to_string())).await
}

/// A batch of a file with these lines: its name, and that of the request that made it.
async fn made(client: &Client, customer: &Customer, lines: &str, metadata: Value) -> (String, String) {
    let file = uploaded(client, &customer.key, lines).await;
    let answer = create(client, &file, metadata).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    (text(&answer.json()["id"]), answer.id())
}

/// Reads a batch until it stands so.
async fn until(client: &Client, customer: &Customer, id: &str, status: &str) -> Value {
    loop {
        let answer = ask(client, &customer.key, "GET", &format!("{BATCHES}/{id}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let batch = answer.json();
        if batch["status"] == status {
            return batch;
        }
        assert!(["in_progress", "cancelling"].contains(&batch["status"].as_str().unwrap()), "{batch}");
    }
}

#[tokio::test]
async fn a_batch_is_charged_what_each_of_its_answers_used() {
    let Scene { provider, gateway, customer } = scene();
    let eve = gateway.customer("1.00");
    for client in Client::both(&gateway, &customer) {
        let (id, request) = made(&client, &customer, &file(), json!({ "simulate_ms": "300" })).await;
        let path = format!("{BATCHES}/{id}");
        let (balance, available) = gateway.balance(&customer);
        assert_ne!(balance, available, "the most is held");
        let running = gateway.receipt(&request).await;
        assert_eq!((&running["status"], &running["endpoint"]), (&json!("running"), &json!("batches")));
        for (method, below) in [("GET", ""), ("POST", "/cancel")] {
            let theirs = ask(&client, &eve.key, method, &format!("{path}{below}")).await;
            theirs.is_error(404, None);
            let never = ask(&client, &eve.key, method, &format!("{BATCHES}/batch_none{below}")).await;
            assert_eq!(theirs.text().replace(&id, "batch_none"), never.text());
        }
        let batch = until(&client, &customer, &id, "completed").await;
        let (balance, available) = gateway.balance(&customer);
        assert_eq!(balance, available, "charged before it was told");
        let receipt = gateway.receipt(&request).await;
        assert_eq!((&receipt["status"], &receipt["service_tier"]), (&json!("captured"), &json!("batch")));
        // Short and long inputs have prices of their own.
        let lines = receipt["lines"].as_array().unwrap();
        let input = lines.iter().filter(|line| line["class"] == "input");
        let prices: Vec<&str> = input.map(|line| line["unit_price"].as_str().unwrap()).collect();
        assert_eq!((prices, lines.len()), (vec!["0.05", "0.07"], 4), "{receipt}");
        assert_eq!(&receipt["reported"]["total_tokens"], &batch["usage"]["total_tokens"], "{receipt}");

        for (name, count) in [("output_file_id", 4), ("error_file_id", 1)] {
            let content = format!("/v1/files/{}/content", text(&batch[name]));
            let answer = ask(&client, &customer.key, "GET", &content).await;
            assert_eq!((answer.status, answer.text().lines().count()), (200, count), "{answer:?}");
            ask(&client, &eve.key, "GET", &content).await.is_error(404, None);
        }
        // Read again and cancelled too late, it costs no more.
        assert_eq!(until(&client, &customer, &id, "completed").await, batch);
        let answer = ask(&client, &customer.key, "POST", &format!("{path}/cancel")).await;
        assert_eq!(answer.json()["status"], "completed");
    }
    let client = Client::h1(&gateway, &customer);
    for (path, count) in [(BATCHES, 2), ("/v1/files", 6)] {
        let all = ask(&client, &customer.key, "GET", path).await;
        assert_eq!(all.json()["data"].as_array().unwrap().len(), count, "{all:?}");
        let none = ask(&client, &eve.key, "GET", path).await;
        assert_eq!(none.json()["data"], json!([]));
    }
    audit(gateway, &[&provider]).is_exact(2);
}

/// Sent again by a client that did not hear the answer, it is one batch.
#[tokio::test]
async fn a_batch_is_made_once_by_its_idempotency_key() {
    let Scene { provider, gateway, customer } = scene();
    let client = Client::h1(&gateway, &customer);
    let file = uploaded(&client, &customer.key, &file()).await;
    let body = json!({ "input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h",
        "metadata": { "simulate_ms": "400" } });
    let send =
        async || Answer::read(client.post(BATCHES, body.to_string()).header("idempotency-key", "one")).await;
    let first = send().await;
    assert_eq!(first.status, 200, "{first:?}");
    send().await.is_error(409, Some("idempotency_key_in_use"));
    until(&client, &customer, &text(&first.json()["id"]), "completed").await;
    send().await.is_error(409, Some("idempotency_key_used"));
    audit(gateway, &[&provider]).is_exact(1);
}

/// Nobody asks for it: it is read, and charged once, whatever became of the process that sent it.
#[tokio::test]
async fn a_batch_is_charged_over_kills_and_upgrades() {
    let Scene { provider, mut gateway, customer } = scene();
    let mut requests = Vec::new();
    for way in ["kill", "upgrade"] {
        let client = Client::h1(&gateway, &customer);
        let (id, request) = made(&client, &customer, &file(), json!({ "simulate_ms": "1000" })).await;
        requests.push((id.clone(), request));
        gateway = match way {
            "upgrade" => {
                let next = gateway.upgrade();
                // On a connection that is kept to the old process, which ends with it.
                let answer = ask(&client, &customer.key, "GET", &format!("{BATCHES}/{id}")).await;
                assert_eq!(answer.status, 200, "{answer:?}");
                assert!(gateway.stopped().success());
                next
            }
            _ => {
                gateway.kill();
                gateway.again()
            }
        };
        let (_, request) = requests.last().unwrap();
        eventually("it is charged", || {
            let (_, receipt) = gateway.admin_get(&format!("/receipts/{request}"));
            (receipt["status"] == "captured").then_some(())
        })
        .await;
        let (balance, available) = gateway.balance(&customer);
        assert_eq!(balance, available, "{way}");
    }
    let client = Client::h1(&gateway, &customer);
    for (id, _) in &requests {
        let batch = until(&client, &customer, id, "completed").await;
        let content = format!("/v1/files/{}/content", text(&batch["output_file_id"]));
        assert_eq!(ask(&client, &customer.key, "GET", &content).await.status, 200);
    }
    audit(gateway, &[&provider]).is_exact(2);
}

/// A provider that does not say what an answer used.
#[tokio::test]
async fn what_an_answer_of_a_batch_wrote_is_counted_where_it_does_not_say() {
    let Scene { provider: _provider, gateway, customer } = scene();
    let client = Client::h1(&gateway, &customer);
    let silent =
        line("b", 7, 40).replace(r#""simulate_tokens""#, r#""simulate_usage":"missing","simulate_tokens""#);
    let (id, request) = made(&client, &customer, &[line("a", 5, 40), silent].join("\n"), json!({})).await;
    until(&client, &customer, &id, "completed").await;
    let receipt = gateway.receipt(&request).await;
    assert_eq!(
        (&receipt["status"], &receipt["metered"]),
        (&json!("captured"), &json!("estimated")),
        "{receipt}"
    );
    assert_eq!(receipt["encoding"], "o200k_base", "{receipt}");
    let output = receipt["usage"]["output"].as_u64().unwrap();
    // "tok0 tok1 ...": a few tokens for each word.
    assert!((5 + 7..=5 + 4 * 7).contains(&output), "{receipt}");
    audit(gateway, &[]).counts(0, 1, 0);
}

#[tokio::test]
async fn what_was_done_of_a_batch_that_did_not_end_well_is_charged() {
    let Scene { provider, gateway, customer } = scene();
    let client = Client::h1(&gateway, &customer);
    let lines = [line("a", 5, 40), line("b", 7, 40), line("c", 9, 40), line("d", 9, 40)].join("\n");
    let (id, cancelled) = made(&client, &customer, &lines, json!({ "simulate_ms": "600000" })).await;
    let answer = ask(&client, &customer.key, "POST", &format!("{BATCHES}/{id}/cancel")).await;
    assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("cancelling")));
    until(&client, &customer, &id, "cancelled").await;
    let (id, expired) = made(&client, &customer, &lines, json!({ "simulate_end": "expired" })).await;
    until(&client, &customer, &id, "expired").await;
    for (request, end) in [(cancelled, "cancelled"), (expired, "expired")] {
        let receipt = gateway.receipt(&request).await;
        assert_eq!((&receipt["end"], &receipt["usage"]["output"]), (&json!(end), &json!(12)), "{receipt}");
    }
    // Nothing was done, nothing is charged.
    let (id, failed) = made(&client, &customer, &lines, json!({ "simulate_end": "failed" })).await;
    until(&client, &customer, &id, "failed").await;
    assert_eq!(gateway.receipt(&failed).await["status"], "released");
    assert!(gateway.scrape().contains(r#"tollgate_metered_total{kind="none"} 1"#), "{}", gateway.scrape());
    // Only errors: their file is the customer's all the same.
    let (id, errors) = made(&client, &customer, &bad("a"), json!({})).await;
    let batch = until(&client, &customer, &id, "completed").await;
    assert_eq!(batch["output_file_id"], Value::Null);
    let content = format!("/v1/files/{}/content", text(&batch["error_file_id"]));
    assert_eq!(ask(&client, &customer.key, "GET", &content).await.status, 200);
    assert_eq!(text(&gateway.receipt(&errors).await["charge"]), "0.00");
    audit(gateway, &[&provider]).counts(2, 0, 1);
}

#[tokio::test]
async fn what_would_be_refused_alone_is_refused_by_its_line() {
    let scene = scene();
    let Scene { gateway, customer, provider } = &scene;
    let [client, _] = scene.clients();
    let good = line("a", 5, 40);
    let refused = async |lines: &str, expect: &str| {
        let file = uploaded(&client, &customer.key, lines).await;
        let answer = create(&client, &file, json!({})).await;
        answer.is_error(400, None);
        assert!(answer.text().contains(expect), "{expect}: {answer:?}");
    };
    for (from, to, expect) in [
        (r#""max_tokens":100"#, r#""max_tokens":100,"stream":true"#, "line 2 of the file: stream"),
        (r#""max_tokens":100"#, r#""max_tokens":"x""#, "line 2 of the file: max_tokens"),
        (
            r#""max_tokens":100"#,
            r#""max_tokens":1,"service_tier":"flex""#,
            "line 2 of the file: service_tier",
        ),
        (r#""max_tokens":100"#, r#""max_tokens":1,"web_search_options":{}"#, "line 2 of the file: "),
    ] {
        let changed = line("b", 5, 40).replace(from, to);
        assert_ne!(changed, line("b", 5, 40));
        refused(&format!("{good}\n{changed}"), expect).await;
    }
    refused(&good.replace(MODEL, "gpt-4o-mini"), "not sold in batches").await;
    let file = uploaded(&client, &customer.key, &good).await;
    for (from, to, status) in [
        ("/v1/chat/completions", "/v1/responses", 400),
        ("/v1/chat/completions", "/v1/images/edits", 400),
        (&*file, "file-none", 404),
        ("24h", "24h\",\"x\":\"1", 400),
    ] {
        let body =
            json!({ "input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h" });
        let body = body.to_string().replace(from, to);
        Answer::read(client.post(BATCHES, body)).await.is_error(status, None);
    }
    // Another's file, and a balance that does not reach.
    let eve = gateway.customer("1.00");
    create(&client.with_key(&eve.key), &file, json!({})).await.is_error(404, None);
    let poor = gateway.customer("0.00002");
    let client = client.with_key(&poor.key);
    let theirs = uploaded(&client, &poor.key, &good).await;
    create(&client, &theirs, json!({})).await.is_error(402, Some("insufficient_quota"));
    assert_eq!(gateway.balance(&poor), ("0.00002".into(), "0.00002".into()));
    assert!(!provider.provider.log().iter().any(|served| served.path == BATCHES), "none was sent");
    gateway.settles_at(customer, "1.00").await;
    let Scene { gateway, provider, .. } = scene;
    audit(gateway, &[&provider]).is_exact(0);
}

#[tokio::test]
async fn batches_are_bounded_and_go_where_their_file_is() {
    let providers = [Simulated::start(), Simulated::start()];
    let accounts = [Account::new("left", providers[0].address), Account::new("right", providers[1].address)];
    let gateway = Gateway::start_with(
        &accounts,
        &Settings { gateway: ", files_per_customer_max: 6", ..Settings::default() },
    );
    let customer = gateway.customer("1.00");
    let client = Client::h1(&gateway, &customer);
    let good = line("a", 5, 40);
    let file = uploaded(&client, &customer.key, &good).await;
    let mut ids = Vec::new();
    for _ in 0..6 {
        let answer = create(&client, &file, json!({ "simulate_ms": "600000" })).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        ids.push(text(&answer.json()["id"]));
    }
    let refused = create(&client, &file, json!({})).await;
    refused.is_error(400, None);
    assert!(refused.text().contains("6 batches were made in 30 days"), "{refused:?}");
    // Files that batches made do not count as uploads.
    for id in &ids {
        let answer = ask(&client, &customer.key, "POST", &format!("{BATCHES}/{id}/cancel")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        until(&client, &customer, id, "cancelled").await;
    }
    for _ in 0..5 {
        uploaded(&client, &customer.key, &good).await;
    }
    upload(&client, &customer.key, &good).await.is_error(400, None);
    gateway.settles_at(&customer, "1.00").await;
    let [left, right] = &providers;
    audit(gateway, &[left, right]).counts(0, 0, 6);
}

/// The policy has its say about each request, before there is a file of it.
#[tokio::test]
async fn a_batch_is_held_against_the_content_policy() {
    let scene = scene_with(&Settings {
        policy: "content: { mode: enforce, categories: { own_rules: { words: own.txt } } }",
        prepare: Some(crate::policy::lists),
        ..Settings::default()
    });
    let [client, _] = scene.clients();
    let lines = [line("a", 5, 40), line("b", 5, 7).replace("xxxxxxx", "my secret recipe")].join("\n");
    let refused = upload(&client, &scene.customer.key, &lines).await;
    refused.is_error(400, Some("content_policy_violation"));
    scene.cost_nothing(0).await;
}
