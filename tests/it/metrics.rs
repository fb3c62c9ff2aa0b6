//! What Prometheus reads.

use crate::support::client::CHAT;
use crate::support::{
    Account, Answer, Client, Customer, Gateway, Settings, Simulated, ask, eventually, streamed,
};
use futures_util::future::join_all;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tollgate::meter::tokenizer;
use tollgate::settle::price::Encoding;

/// What is promised to scripts and dashboards outside: names without their prefix, with those labels
/// that are promised as well.
const CONTRACT: [(&str, &[&str]); 19] = [
    ("requests_total", &["endpoint", "model", "status"]),
    ("request_duration_seconds", &[]),
    ("overhead_seconds", &[]),
    ("time_to_first_token_seconds", &[]),
    ("tokens_total", &["class", "model"]),
    ("metered_total", &["kind"]),
    ("charged_usd_total", &["model"]),
    ("cost_usd_total", &["model", "upstream"]),
    ("holds_open", &[]),
    ("in_flight", &[]),
    ("journal_commit_seconds", &[]),
    ("journal_queue_depth", &[]),
    ("upstream_up", &["upstream"]),
    ("upstream_headroom_ratio", &["limit", "upstream"]),
    ("upstream_attempts_total", &["outcome", "upstream"]),
    ("admission_rejected_total", &["reason"]),
    ("config_reload_success", &[]),
    ("config_reload_timestamp_seconds", &[]),
    ("build_info", &[]),
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

/// Metrics by their names without the prefix, each with its labels.
type Families = BTreeMap<String, BTreeSet<String>>;

/// The rows of the table in the README.
fn documented() -> Families {
    let readme = include_str!("../../README.md");
    let table = readme.split("| name, after `tollgate_` |").nth(1).unwrap().split("\n\n").next().unwrap();
    let named = |cell: &str| {
        cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>() // between backticks
    };
    let mut families = Families::new();
    for row in table.lines().skip(2) {
        let [_, names, labels, _, _] = row.split('|').collect::<Vec<_>>()[..] else { panic!("{row}") };
        for name in named(names) {
            assert_eq!(families.insert(name, named(labels).into_iter().collect()), None, "{row}");
        }
    }
    families
}

/// What Prometheus would take from a scrape. Those of the process, which every exporter has, are left out.
fn scraped(scrape: &str) -> Families {
    let mut families = Families::new();
    let kinds = scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    for (name, kind) in kinds.filter(|(name, _)| !name.starts_with("process_")) {
        let sample = match kind {
            "histogram" => format!("{name}_count"),
            _ => name.to_owned(),
        };
        let lines = scrape.lines().filter_map(|line| line.strip_prefix(&sample));
        let labels: BTreeSet<BTreeSet<String>> = lines
            .filter(|rest| rest.starts_with([' ', '{']))
            .map(|rest| rest.split('"').step_by(2).filter_map(|part| part.strip_suffix('=')))
            .map(|names| names.map(|name| name.trim_start_matches(['{', ',']).to_owned()).collect())
            .collect();
        assert_eq!(labels.len(), 1, "{name} has one set of labels: {labels:?}");
        let name = name.strip_prefix("tollgate_").unwrap_or_else(|| panic!("{name} is not one of ours"));
        families.insert(name.to_owned(), labels.into_iter().next().unwrap());
    }
    families
}

/// A load in which everything happens that is counted: a provider refuses a credential, requests wait for
/// room, one is against the policy, an image is sold and a connection says nothing.
async fn eventful(gateway: &Gateway) {
    let customer = gateway.customer("1.00");
    let silent = TcpStream::connect(gateway.address).unwrap();
    let client = Client::h2(gateway, &customer);
    let refused = ask(&[("status", "401"), ("only_credential", "-bad")]);
    assert_eq!(client.ask(&refused).await.status, 200);
    // Long enough for all of them to be there at once.
    let slow = streamed(ask(&[("latency_ms", "300")]));
    for answer in join_all((0..3).map(|_| client.ask(&slow))).await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let mut tiered = ask(&[]);
    tiered["model"] = json!("tiered");
    assert_eq!(client.ask(&tiered).await.status, 200);
    let image = json!({ "model": "dall-e-3", "prompt": "a fox" }).to_string();
    assert_eq!(Answer::read(client.post("/v1/images/generations", image)).await.status, 200);
    let mut against = ask(&[]);
    against["messages"][0]["content"] = json!("zorgwort");
    client.ask(&against).await.is_error(400, Some("content_policy_violation"));
    let shed = r#"tollgate_connections_shed_total{reason="header_timeout"} 1"#;
    let compared = "tollgate_compared_tokens_total{";
    eventually("one was compared", || gateway.scrape().contains(compared).then_some(())).await;
    eventually("the silent one is cut", || gateway.scrape().contains(shed).then_some(())).await;
    drop(silent);
}

#[tokio::test]
async fn what_is_documented_is_scraped_and_nothing_else() {
    let provider = Simulated::start();
    let accounts = [
        Account::new("bad", provider.address).credential("sk-upstream-bad").with("check: connect"),
        Account::of(&provider).with("priority: 1, limits: { concurrency: 1 }"),
    ];
    let settings = Settings {
        gateway: ", header_timeout_ms: 1000",
        meter: "compare_one_in: 1",
        policy: "content: { mode: enforce, categories: { hate: { words: hate.txt, moderation: { hate: \"0.5\" } } } }",
        prepare: Some(|folder| std::fs::write(folder.join("hate.txt"), "zorgwort").unwrap()),
        ..Settings::default()
    };
    let gateway = Gateway::start_with(&accounts, &settings);
    eventful(&gateway).await;
    let scraped = scraped(&gateway.scrape());
    assert_eq!(scraped, documented());
    for (name, labels) in CONTRACT {
        let found = scraped.get(name).unwrap_or_else(|| panic!("{name} is promised"));
        assert!(labels.iter().all(|label| found.contains(*label)), "{name} has {found:?}");
        // More labels would make other series of it.
        assert!(labels.is_empty() || labels.len() == found.len(), "{name} has {found:?}");
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

/// What was reported of a sample of whole answers stands beside what we would have counted.
#[tokio::test]
async fn estimates_are_held_against_reports() {
    let said: Vec<String> = (0..16).map(|word| format!("tok{word}")).collect();
    let said = tokenizer::count(Encoding::O200kBase, &said.join(" "));
    for (compare, is_compared) in [("compare_one_in: 1", true), ("compare_one_in: 0", false)] {
        let provider = Simulated::start();
        let settings = Settings { meter: compare, ..Settings::default() };
        let gateway = Gateway::start_with(&[Account::of(&provider)], &settings);
        let customer = gateway.customer("1.00");
        let (mut counted, mut asked) = (0, 0);
        for client in Client::both(&gateway, &customer) {
            let mut responses = json!({ "model": "gpt-4o-mini", "input": "Once upon a time" });
            for stream in [false, true] {
                let chat = if stream { streamed(ask(&[])) } else { ask(&[]) };
                responses["stream"] = json!(stream);
                for (path, body) in [(CHAT, chat.to_string()), ("/v1/responses", responses.to_string())] {
                    asked += tokenizer::count_input(Encoding::O200kBase, body.as_bytes());
                    assert_eq!(Answer::read(client.post(path, body)).await.status, 200);
                    counted += 1;
                    if is_compared {
                        is_compared_so_far(&gateway, [counted * 16, counted * said, asked], &provider).await;
                    }
                }
            }
            // What breaks off is not compared: it is estimated.
            let cut = client.chat(streamed(ask(&[("cut_after_chunks", "3")])).to_string()).send().await;
            drop(cut.unwrap().bytes().await);
        }
        eventually("all have ended", || gateway.scrape().contains("tollgate_in_flight 0").then_some(()))
            .await;
        assert_eq!((counted, gateway.scrape().contains("tollgate_compared_tokens_total{")), (8, is_compared));
    }
}

/// Output as reported and as estimated, input as estimated; and all that the provider told of input.
async fn is_compared_so_far(gateway: &Gateway, [reported, said, asked]: [u64; 3], provider: &Simulated) {
    let log = provider.provider.log();
    let told: u64 = log.iter().filter(|entry| entry.complete).map(|entry| entry.usage().input).sum();
    let line = |side: &str, source: &str, tokens: u64| {
        let labels = format!(r#"model="gpt-4o-mini",side="{side}",source="{source}""#);
        format!("tollgate_compared_tokens_total{{{labels}}} {tokens}")
    };
    let expected = [
        line("output", "reported", reported),
        line("output", "estimated", said),
        line("input", "reported", told),
        line("input", "estimated", asked),
    ];
    eventually("it is compared", || {
        let scrape = gateway.scrape();
        expected.iter().all(|line| scrape.lines().any(|found| found == line)).then_some(())
    })
    .await;
}
