//! What Prometheus reads.

use crate::support::{Account, Client, Customer, Gateway, Simulated, ask, eventually, streamed};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The names of the contract that this path produces, without their prefix: there is no cost book yet.
const NAMES: [&str; 18] = [
    "requests_total",
    "request_duration_seconds",
    "overhead_seconds",
    "time_to_first_token_seconds",
    "tokens_total",
    "metered_total",
    "charged_usd_total",
    "holds_open",
    "in_flight",
    "journal_commit_seconds",
    "journal_queue_depth",
    "upstream_up",
    "upstream_headroom_ratio",
    "upstream_attempts_total",
    "admission_rejected_total",
    "config_reload_success",
    "config_reload_timestamp_seconds",
    "build_info",
];

/// A known load: 6 good plain, 4 good streamed, 2 without credit, 3 of no known model, 1 failed.
async fn load() -> (Simulated, Gateway, Customer) {
    let provider = Simulated::start();
    let gateway = Gateway::start(&[Account::of(&provider)]);
    let customer = gateway.customer("1.00");
    let poor = gateway.customer("0");
    let [h1, h2] = Client::both(&gateway, &customer);
    for client in [&h1, &h2] {
        for _ in 0..3 {
            assert_eq!(
                client.ask(&ask(&[("reasoning_tokens", "2"), ("cached_tokens", "4")])).await.status,
                200
            );
        }
        for _ in 0..2 {
            assert_eq!(client.ask(&streamed(ask(&[]))).await.status, 200);
        }
        assert_eq!(client.with_key(&poor.key).ask(&ask(&[])).await.status, 402);
    }
    for model in ["gpt-99", "CANARY\"model\n", "unserved"] {
        assert_eq!(h1.ask(&json!({ "model": model, "messages": [] })).await.status, 404);
    }
    assert_eq!(h1.ask(&ask(&[("status", "500")])).await.status, 503);
    eventually("all are counted", || gateway.scrape().contains("tollgate_in_flight 0").then_some(())).await;
    (provider, gateway, customer)
}

#[tokio::test]
async fn the_names_are_those_of_the_contract() {
    let (_provider, gateway, _) = load().await;
    let scrape = gateway.scrape();
    let missing: Vec<&str> =
        NAMES.into_iter().filter(|name| !scrape.contains(&format!("# TYPE tollgate_{name} "))).collect();
    assert_eq!(missing, [""; 0], "{scrape}");
    for line in scrape.lines().filter(|line| !line.starts_with('#')) {
        assert!(line.starts_with("tollgate_") || line.starts_with("process_"), "{line}");
    }
}

#[tokio::test]
async fn what_is_counted_adds_up() {
    let (_provider, gateway, customer) = load().await;
    let scrape = gateway.scrape();
    let has = |line: &str| assert!(scrape.lines().any(|found| found == line), "no {line} in\n{scrape}");
    let chat = r#"endpoint="chat.completions""#;
    has(&format!(r#"tollgate_requests_total{{{chat},model="gpt-4o-mini",status="200"}} 10"#));
    has(&format!(r#"tollgate_requests_total{{{chat},model="gpt-4o-mini",status="503"}} 1"#));
    has(&format!(r#"tollgate_requests_total{{{chat},model="other",status="404"}} 2"#));
    has(&format!(r#"tollgate_requests_total{{{chat},model="unserved",status="404"}} 1"#));
    has(&format!(r#"tollgate_request_duration_seconds_count{{{chat}}} 16"#));
    has(r#"tollgate_tokens_total{class="input",model="gpt-4o-mini"} 96"#);
    has(r#"tollgate_tokens_total{class="cached_input",model="gpt-4o-mini"} 24"#);
    has(r#"tollgate_tokens_total{class="output",model="gpt-4o-mini"} 160"#);
    has(r#"tollgate_tokens_total{class="reasoning",model="gpt-4o-mini"} 12"#);
    has(r#"tollgate_metered_total{kind="reported"} 10"#);
    has(r#"tollgate_metered_total{kind="none"} 1"#);
    // 96 x 0.15 + 24 x 0.075 + 172 x 0.60 for a million
    has(r#"tollgate_charged_usd_total{model="gpt-4o-mini"} 0.0001194"#);
    has(r#"tollgate_admission_rejected_total{reason="insufficient_quota"} 2"#);
    has(r#"tollgate_admission_rejected_total{reason="model_not_found"} 3"#);
    has(r#"tollgate_upstream_attempts_total{outcome="ok",upstream="first"} 10"#);
    has(r#"tollgate_upstream_attempts_total{outcome="server",upstream="first"} 1"#);
    has(r#"tollgate_upstream_up{upstream="first"} 1"#);
    has(r#"tollgate_upstream_headroom_ratio{limit="concurrency",upstream="first"} 1"#);
    has("tollgate_holds_open 0");
    has("tollgate_journal_queue_depth 0");
    // The failed one went out and came back as well.
    has("tollgate_overhead_seconds_count 11");
    gateway.settles_at(&customer, "0.9998806").await;
}

/// The longest that a scrape may take, with the gateway as busy as this machine lets it be.
const SCRAPE_MAX: Duration = Duration::from_millis(50);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrape_of_a_busy_gateway_is_quick() {
    let (_provider, gateway, customer) = load().await;
    let served = Arc::new(AtomicUsize::new(0));
    for client in Client::both(&gateway, &customer).into_iter().cycle().take(8) {
        let served = Arc::clone(&served);
        tokio::spawn(async move {
            loop {
                assert_eq!(client.ask(&streamed(ask(&[]))).await.status, 200);
                served.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let mut took: Vec<Duration> = Vec::new();
    while served.load(Ordering::Relaxed) < 100 {
        let begun = Instant::now();
        assert!(tokio::task::block_in_place(|| gateway.scrape()).contains("tollgate_in_flight"));
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    assert!(took.len() > 10 && took[took.len() / 2] < SCRAPE_MAX, "{took:?}");
}

#[tokio::test]
async fn no_label_says_what_a_client_sent() {
    let (_provider, gateway, customer) = load().await;
    let scrape = gateway.scrape();
    for canary in ["CANARY", "gpt-99", &customer.id, &customer.key_id, &customer.key, "sk-upstream"] {
        assert!(!scrape.contains(canary), "{canary} in\n{scrape}");
    }
}
