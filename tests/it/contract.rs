//! The names that scripts, dashboards and clients rely on, one by one, at the real binary: commands and
//! their flags, fields of what they print, headers and codes of answers. Those of metrics are held in
//! [`crate::metrics`]. What fails here breaks somebody's script: the name stays, and the code gives way.

use crate::support::gateway::{run, stdout};
use crate::support::scene::{Scene, scene, scene_with};
use crate::support::scripted::Then;
use crate::support::{
    Account, Answer, Client, Gateway, Script, Scripted, Settings, Simulated, ask, streamed,
};
use serde_json::{Value, json};

/// Each command with its flags, beside those that all have.
const COMMANDS: [(&str, &[&str]); 34] = [
    ("demo", &["--listen", "--once"]),
    ("serve", &["--config", "--upgrade"]),
    ("check", &["--config"]),
    ("simulate", &["--listen"]),
    ("customer create", &[]),
    ("customer list", &[]),
    ("customer show", &[]),
    ("customer suspend", &[]),
    ("customer resume", &[]),
    ("customer ban", &["--reason"]),
    ("customer unban", &[]),
    (
        "key create",
        &[
            "--customer",
            "--name",
            "--models",
            "--rpm",
            "--tpm",
            "--concurrency",
            "--budget",
            "--expires",
            "--allow-ip",
        ],
    ),
    ("key list", &[]),
    ("key revoke", &[]),
    ("key import", &["--customer"]),
    ("credit deposit", &["--customer", "--amount", "--reference"]),
    ("credit refund", &[]),
    ("credit adjust", &[]),
    ("receipt", &[]),
    ("statement", &["--customer", "--from", "--to", "--format"]),
    ("usage", &["--customer", "--by"]),
    ("ledger verify", &["--store"]),
    ("ledger export", &[]),
    ("ledger backup", &[]),
    ("ledger rebuild", &[]),
    ("upstream list", &[]),
    ("upstream drain", &[]),
    ("upstream resume", &[]),
    ("prices import", &[]),
    ("customer set", &[]),
    ("customer accept-terms", &[]),
    ("key set", &[]),
    ("ledger archive", &[]),
    ("audit list", &[]),
];

#[test]
fn commands_and_flags_have_their_names() {
    for (command, flags) in COMMANDS {
        let words: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        let help = stdout(&run(&words, &[], ""));
        for flag in flags.iter().chain(&["--admin", "--json"]) {
            let stands = help.split([' ', '\n']).any(|word| word == *flag);
            assert!(stands, "{command} has no {flag}:\n{help}");
        }
    }
    let from_environment = stdout(&run(&["--help"], &[("TOLLGATE_ADMIN_URL", "http://[::1]:7")], ""));
    assert!(from_environment.contains("[env: TOLLGATE_ADMIN_URL=http://[::1]:7]"), "{from_environment}");
    let default = format!("[default: http://127.0.0.1:{}]", 9180);
    assert!(from_environment.contains(&default), "{from_environment}");
}

/// It has these fields, and what a script compares as text is text.
#[track_caller]
fn has(found: &Value, texts: &[&str], others: &[&str]) {
    for name in texts {
        assert!(found[name].is_string(), "no text `{name}` in {found}");
    }
    for name in others {
        assert!(found.get(name).is_some(), "no `{name}` in {found}");
    }
}

#[tokio::test]
async fn what_commands_print_has_its_fields() {
    let scene = scene();
    let gateway = &scene.gateway;
    let customer = gateway.json(&["customer", "create", "Ada"]);
    has(&customer, &["id", "name", "status", "balance", "available"], &[]);
    let id = customer["id"].as_str().unwrap();
    let key = gateway.json(&["key", "create", "--customer", id]);
    has(&key, &["id", "key", "prefix"], &[]);
    let deposit = ["credit", "deposit", "--customer", id, "--amount", "1.00", "--reference", "r"];
    let deposit = gateway.json(&deposit);
    has(&deposit, &["balance"], &["entry_id"]);
    assert!(deposit["entry_id"].is_u64());

    let client = Client::h1(gateway, &scene.customer).with_key(key["key"].as_str().unwrap());
    let asked = ask(&[("cached_tokens", "4"), ("reasoning_tokens", "7")]);
    let answer = client.ask(&asked).await;
    gateway.receipt(&answer.id()).await;
    let receipt = gateway.json(&["receipt", &answer.id()]);
    let texts = ["request_id", "customer", "key", "model", "endpoint", "status", "metered", "charge"];
    has(&receipt, &[&texts[..], &["balance_after", "price_version"]].concat(), &["reported"]);
    assert_eq!(
        (&receipt["metered"], &receipt["reported"]["prompt_tokens"]),
        (&json!("reported"), &json!(12))
    );
    let usage = receipt["usage"].as_object().unwrap();
    for class in ["input", "cached_input", "cache_write", "output", "reasoning"] {
        assert!(usage[class].is_u64(), "{receipt}");
    }
    let tokens: u64 = usage.values().filter_map(Value::as_u64).sum();
    assert_eq!(receipt["reported"]["total_tokens"], tokens, "classes are disjoint: {receipt}");
    has(&receipt["lines"][0], &["class", "unit_price", "amount"], &["quantity"]);
    has(&receipt["attempts"][0], &["upstream", "outcome"], &["status", "ms"]);

    let verified = gateway.json(&["ledger", "verify"]);
    has(&verified, &["head"], &["ok", "entries", "captures", "open_holds"]);
    assert_eq!((&verified["ok"], &verified["captures"]), (&json!(true), &json!(1)));
    let lines = |arguments: &[&str]| -> Vec<Value> {
        let printed = stdout(&gateway.run(&[arguments, &["--json"]].concat()));
        printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let listed = lines(&["customer", "list"]);
    assert_eq!((listed.len(), &listed[0]["name"]), (2, &json!("Ada")), "an object a line");
    has(
        lines(&["statement", "--customer", id]).last().unwrap(),
        &["at", "kind", "amount", "balance_after"],
        &[],
    );
    has(
        &lines(&["usage", "--customer", id, "--by", "day,model,key"])[0],
        &["day", "model", "key", "charge"],
        &[],
    );
    has(&lines(&["upstream", "list"])[0], &["name", "status"], &["in_flight", "headroom"]);
}

#[tokio::test]
async fn answers_have_their_headers() {
    let scene = scene();
    let limited = ["key", "create", "--customer", &scene.customer.id, "--rpm", "1", "--tpm", "100000"];
    let key = scene.gateway.json(&limited);
    let client = Client::h1(&scene.gateway, &scene.customer).with_key(key["key"].as_str().unwrap());
    let plain = client.ask(&ask(&[])).await;
    assert_eq!(plain.header("x-tollgate-charge"), "0.0000114");
    assert!(plain.id().starts_with("req_"));
    for what in ["limit", "remaining", "reset"] {
        for of in ["requests", "tokens"] {
            assert!(!plain.header(&format!("x-ratelimit-{what}-{of}")).is_empty());
        }
    }
    let refused = client.ask(&streamed(ask(&[]))).await;
    refused.is_error(429, Some("rate_limit_exceeded"));
    assert!((1..=60).contains(&refused.header("retry-after").parse::<u64>().unwrap()));
    assert_eq!(refused.header("x-should-retry"), "true");

    // Who only looks whether there is anything, without a key.
    for (path, status) in [("/", 200), ("/healthz", 200), ("/readyz", 200), ("/v1/models", 401)] {
        for method in ["GET", "HEAD"] {
            let answer = Answer::read(client.request(method, path)).await;
            assert_eq!(answer.status, status, "{method} {path}");
            assert_eq!(answer.body.is_empty(), method == "HEAD", "{method} {path}");
        }
    }
    let whole = client.get("/v1/models").await.json();
    for name in ["gpt-4o-mini", "gpt%2D4o"] {
        let one = client.get(&format!("/v1/models/{name}")).await.json();
        assert!(whole["data"].as_array().unwrap().contains(&one), "{one}");
        has(&one, &["id", "owned_by"], &["created"]);
        assert_eq!(one["object"], "model");
    }
    client.get("/v1/models/gpt-9").await.is_error(404, Some("model_not_found"));
}

#[tokio::test]
async fn errors_have_their_codes() {
    let gateway = ", body_bytes_max: 2000, trusted_proxies: [\"127.0.0.1\"]";
    let policy = "countries: { deny: [KP], header: cf-ipcountry }";
    let scene = scene_with(&Settings { gateway, policy, ..Settings::default() });
    let Scene { gateway, customer, provider: _ } = &scene;
    let client = &scene.clients()[0];
    let made = |options: &[&str]| {
        let made = gateway.json(&[&["key", "create", "--customer", &customer.id], options].concat());
        client.with_key(made["key"].as_str().unwrap())
    };
    let whole = ask(&[]);
    client.with_key("wrong").ask(&whole).await.is_error(401, Some("invalid_api_key"));
    let dear = json!({ "model": "counted", "messages": [], "max_tokens": 900 });
    client.with_key(&gateway.customer("0").key).ask(&dear).await.is_error(402, Some("insufficient_quota"));
    made(&["--models", "gpt-4o"]).ask(&whole).await.is_error(403, Some("key_restricted"));
    made(&["--expires", "2020-01-01"]).ask(&whole).await.is_error(403, Some("key_restricted"));
    let there = client.chat(whole.to_string()).header("cf-ipcountry", "KP");
    Answer::read(there).await.is_error(403, Some("unsupported_country_region_territory"));
    client.ask(&json!({ "model": "gpt-9", "messages": [] })).await.is_error(404, Some("model_not_found"));
    let large = ask(&[("x", &"x".repeat(3_000))]);
    client.ask(&large).await.is_error(413, Some("request_too_large"));
    let once = made(&["--rpm", "1"]);
    assert_eq!(once.ask(&whole).await.status, 200);
    once.ask(&whole).await.is_error(429, Some("rate_limit_exceeded"));
    gateway.json(&["customer", "ban", &customer.id, "--reason", "spam"]);
    client.ask(&whole).await.is_error(403, Some("account_banned"));
}

#[tokio::test]
async fn errors_of_the_pool_have_their_codes() {
    let busy = Simulated::start();
    let silent = Scripted::always(Script::send("").then(Then::Silence));
    for (account, faults, status, code) in [
        (Account::of(&busy), &[("status", "429")][..], 503, "overloaded"),
        (Account::of(&busy), &[("status", "401")], 503, "upstream_unavailable"),
        (Account::scripted(&silent).with("timeouts: { silence_ms: 200 }"), &[], 504, "upstream_timeout"),
    ] {
        let gateway =
            Gateway::start_with(&[account], &Settings { queue: "wait_ms: 0", ..Settings::default() });
        let customer = gateway.customer("1.00");
        let answer = Client::h1(&gateway, &customer).ask(&ask(faults)).await;
        answer.is_error(status, Some(code));
        assert!(answer.header("retry-after").parse::<u64>().is_ok(), "{answer:?}");
        assert_eq!(answer.header("x-should-retry"), "true");
    }
}
