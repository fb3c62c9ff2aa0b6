//! Limits of keys and customers: each refuses with its own error, tells its numbers, and changes at
//! once. Their exact edges are tested where time is an argument, in `admit`.

use crate::support::gateway::text;
use crate::support::scene::{Scene, scene, scene_with};
use crate::support::{Answer, Client, Settings, ask, eventually};
use serde_json::{Value, json};

/// Another key of the scene's customer, with these options of the command.
fn key(scene: &Scene, options: &[&str]) -> (String, Client) {
    let (id, secret) = made(scene, options);
    (id, scene.clients()[0].with_key(&secret))
}

fn made(scene: &Scene, options: &[&str]) -> (String, String) {
    let create = ["key", "create", "--customer", &scene.customer.id];
    let made = scene.gateway.json(&[&create, options].concat());
    (text(&made["id"]), text(&made["key"]))
}

fn set(scene: &Scene, key: &str, options: &[&str]) -> Value {
    scene.gateway.json(&[&["key", "set", key], options].concat())
}

fn chat(model: &str) -> Value {
    json!({ "model": model, "messages": [{ "role": "user", "content": "hi" }], "max_completion_tokens": 5 })
}

#[tokio::test]
async fn a_rate_is_told_kept_and_changed_at_once() {
    let scene = scene();
    let (id, client) = key(&scene, &["--rpm", "2", "--tpm", "100000"]);
    let first = client.ask(&ask(&[])).await;
    assert_eq!(first.status, 200);
    assert_eq!(
        (first.header("x-ratelimit-limit-requests"), first.header("x-ratelimit-remaining-requests")),
        ("2", "1")
    );
    assert_eq!(first.header("x-ratelimit-limit-tokens"), "100000");
    assert!(first.header("x-ratelimit-reset-requests").ends_with('s'));
    assert_eq!(client.ask(&ask(&[])).await.header("x-ratelimit-remaining-requests"), "0");
    let refused = client.ask(&ask(&[])).await;
    refused.is_error(429, Some("rate_limit_exceeded"));
    assert_eq!(refused.header("x-should-retry"), "true");
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=30).contains(&wait), "{wait}");
    let told =
        ["limit", "remaining"].map(|what| refused.header(&format!("x-ratelimit-{what}-requests")).to_owned());
    assert_eq!(told, ["2", "0"], "and what it has to wait for");
    assert!(refused.header("x-ratelimit-reset-requests").ends_with('s'));
    assert_eq!(set(&scene, &id, &["--rpm", "none"])["limits"], json!({ "tpm": 100_000 }));
    let free = client.ask(&ask(&[])).await;
    assert_eq!((free.status, free.headers.get("x-ratelimit-limit-requests")), (200, None));
    set(&scene, &id, &["--tpm", "10"]);
    let large = client.ask(&ask(&[])).await;
    large.is_error(429, Some("rate_limit_exceeded"));
    assert_eq!(large.json()["error"]["type"], "tokens");
    // Others are not concerned.
    assert_eq!(scene.clients()[1].ask(&ask(&[])).await.status, 200);
    let counted = r#"tollgate_admission_rejected_total{reason="requests_per_minute"} 1"#;
    assert!(scene.gateway.scrape().contains(counted));
}

#[tokio::test]
async fn a_key_does_only_what_it_may() {
    let scene =
        scene_with(&Settings { gateway: ", trusted_proxies: [\"127.0.0.1\"]", ..Settings::default() });
    let (id, client) = key(&scene, &["--models", "gpt-4o-mini,counted", "--endpoints", "chat.completions"]);
    assert_eq!(client.ask(&chat("gpt-4o-mini")).await.status, 200);
    let other = client.ask(&chat("gpt-4o")).await;
    other.is_error(403, Some("key_restricted"));
    let models = client.get("/v1/models").await.json();
    let names: Vec<&str> =
        models["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["counted", "gpt-4o-mini"]);
    set(&scene, &id, &["--endpoints", "embeddings"]);
    client.ask(&chat("gpt-4o-mini")).await.is_error(403, Some("key_restricted"));
    set(&scene, &id, &["--endpoints", "none", "--allow-ip", "192.0.2.0/24,2001:db8::1"]);
    let from = |address: &str| {
        Answer::read(
            client.chat(chat("gpt-4o-mini").to_string()).header("x-forwarded-for", address.to_owned()),
        )
    };
    assert_eq!(from("192.0.2.77").await.status, 200);
    assert_eq!(from("2001:db8::1").await.status, 200);
    from("198.51.100.1").await.is_error(403, Some("key_restricted"));
    client.get("/tollgate/v1/balance").await.is_error(403, Some("key_restricted"));
    set(&scene, &id, &["--allow-ip", "none", "--expires", "2020-01-01"]);
    client.ask(&chat("gpt-4o-mini")).await.is_error(403, Some("key_restricted"));
    set(&scene, &id, &["--expires", "2099-01-01T00:00:00Z", "--enabled", "false"]);
    client.ask(&chat("gpt-4o-mini")).await.is_error(403, Some("key_restricted"));
    set(&scene, &id, &["--enabled", "true"]);
    assert_eq!(client.ask(&chat("gpt-4o-mini")).await.status, 200);
}

#[tokio::test]
async fn a_customer_is_limited_over_all_keys() {
    let scene = scene();
    let limited = scene.gateway.json(&["customer", "set", &scene.customer.id, "--concurrency", "1"]);
    assert_eq!(limited["limits"], json!({ "concurrency": 1 }));
    let [h1, _] = scene.clients();
    let (_, other) = key(&scene, &[]);
    let slow = tokio::spawn(async move { h1.ask(&ask(&[("latency_ms", "3000")])).await });
    eventually("one is under way", || scene.gateway.scrape().contains("tollgate_holds_open 1").then_some(()))
        .await;
    let refused = other.ask(&ask(&[])).await;
    refused.is_error(429, Some("rate_limit_exceeded"));
    assert!(text(&refused.json()["error"]["message"]).contains("account"));
    assert_eq!(slow.await.unwrap().status, 200);
    // Its place is given back with its context, a moment after the client has its answer.
    let mut statuses = Vec::new();
    for _ in 0..1_000 {
        statuses.push(other.ask(&ask(&[])).await.status);
        if statuses.ends_with(&[200]) {
            break;
        }
    }
    assert_eq!(statuses.last(), Some(&200), "its place is free again");
}

#[tokio::test]
async fn limits_outlive_the_process_and_wrong_ones_are_refused() {
    let scene = scene();
    let (id, secret) = made(&scene, &["--rpm", "1", "--models", "counted"]);
    let client = scene.clients()[0].with_key(&secret);
    let wrong = scene.gateway.run(&["key", "set", &id, "--rpm", "0"]);
    assert_eq!(wrong.status.code(), Some(3), "{}", String::from_utf8_lossy(&wrong.stderr));
    let unknown = scene.gateway.admin_post(&format!("/keys/{id}/limits"), &json!({ "rpd": 5 }));
    assert_eq!(unknown.0, 400);
    let no_endpoint =
        scene.gateway.admin_post(&format!("/keys/{id}/limits"), &json!({ "endpoints": ["chat"] }));
    assert_eq!(no_endpoint.0, 400);
    let nobody = scene.gateway.admin_post("/keys/key_0000000000000000/limits", &json!({ "rpm": 5 }));
    assert_eq!(nobody.0, 404);
    assert_eq!(client.ask(&chat("gpt-4o")).await.status, 403);
    let Scene { provider: _provider, gateway, customer } = scene;
    let gateway = gateway.again();
    let keys = gateway.admin_get(&format!("/keys?customer={}", customer.id)).1;
    let kept = keys.as_array().unwrap().iter().find(|key| key["id"] == id.as_str()).unwrap();
    assert_eq!(kept["limits"], json!({ "rpm": 1, "models": ["counted"] }));
    let again = Client::h1(&gateway, &customer).with_key(&secret);
    again.ask(&chat("gpt-4o")).await.is_error(403, Some("key_restricted"));
    let (_, revoked) = gateway.admin_post(&format!("/keys/{id}/revoke"), &json!({}));
    assert_eq!(revoked["status"], "revoked");
    let (status, _) = gateway.admin_post(&format!("/keys/{id}/limits"), &json!({ "rpm": 5 }));
    assert_eq!(status, 404);
}
