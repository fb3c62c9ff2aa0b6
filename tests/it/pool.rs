//! Several upstream accounts: the trouble of one is not the customer's, as long as another can serve.

use crate::support::gateway::text;
use crate::support::scripted::Then;
use crate::support::{
    Account, Client, Customer, Gateway, Script, Scripted, Settings, Simulated, ask, audit, streamed,
};
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener};

/// Two accounts at one provider. The credential of the first ends in `-bad`, so that faults can be
/// for it alone; it is so heavy that nearly every request tries it first.
fn two_accounts(provider: &Simulated) -> [Account; 2] {
    [
        Account::new("bad", provider.address).with("weight: 1000"),
        Account::new("good", provider.address).credential("sk-upstream-good"),
    ]
}

fn start() -> (Simulated, Gateway, Customer) {
    let provider = Simulated::start();
    let gateway = Gateway::start(&two_accounts(&provider));
    let customer = gateway.customer("1.00");
    (provider, gateway, customer)
}

fn outcomes(receipt: &Value) -> Vec<(String, String)> {
    let attempts = receipt["attempts"].as_array().unwrap();
    attempts.iter().map(|attempt| (text(&attempt["upstream"]), text(&attempt["outcome"]))).collect()
}

/// A request that fails on the account `bad` by these faults is served by the other.
async fn is_served_elsewhere(faults: &[(&str, &str)], outcome: &str) {
    let (provider, gateway, customer) = start();
    let [h1, h2] = Client::both(&gateway, &customer);
    let faults = [faults, &[("only_credential", "-bad")]].concat();
    let mut failovers = 0;
    for (client, body) in [(&h1, ask(&faults)), (&h2, streamed(ask(&faults))), (&h2, ask(&faults))] {
        let answer = client.ask(&body).await;
        assert_eq!(answer.status, 200, "{outcome}: {answer:?}");
        assert!(answer.text().contains("tok15"), "{answer:?}");
        let receipt = gateway.receipt(&answer.id()).await;
        assert_eq!(text(&receipt["charge"]), "0.0000114", "{receipt}");
        let outcomes = outcomes(&receipt);
        assert_eq!(outcomes.last().unwrap(), &("good".into(), "ok".into()), "{receipt}");
        if outcomes.len() > 1 {
            assert_eq!(outcomes, [("bad".into(), outcome.into()), ("good".into(), "ok".into())]);
            failovers += 1;
        }
    }
    // The first cannot know, but for one chance in a thousand; later ones may find the account shut.
    assert!(failovers > 0 || provider.provider.log().len() == 3, "{outcome}");
    let audit = audit(gateway, &[&provider]);
    audit.counts(3, 0, 0);
    assert_eq!(audit.receipts.len(), 3, "one hold each");
}

#[tokio::test]
async fn an_error_of_one_account_is_served_by_another() {
    for (status, outcome) in [
        ("429", "rate_limited"),
        ("500", "server"),
        ("503", "server"),
        ("401", "credential"),
        ("403", "forbidden"),
    ] {
        is_served_elsewhere(&[("status", status)], outcome).await;
    }
    is_served_elsewhere(&[("status", "429"), ("code", "insufficient_quota")], "quota").await;
    is_served_elsewhere(&[("status", "429"), ("retry_after", "30")], "rate_limited").await;
    is_served_elsewhere(&[("status", "404")], "model").await;
}

#[tokio::test]
async fn what_is_no_answer_is_served_by_another() {
    for garbage in ["html", "truncated", "empty"] {
        let (provider, gateway, customer) = start();
        let faults = [("garbage", garbage), ("only_credential", "-bad")];
        for client in Client::both(&gateway, &customer) {
            for body in [ask(&faults), streamed(ask(&faults))] {
                let answer = client.ask(&body).await;
                assert_eq!(answer.status, 200, "{garbage}: {answer:?}");
                assert!(answer.text().contains("tok15"), "{answer:?}");
                let receipt = gateway.receipt(&answer.id()).await;
                assert_eq!(text(&receipt["charge"]), "0.0000114");
                assert!(
                    outcomes(&receipt).iter().all(|(name, outcome)| (name == "good") == (outcome == "ok"))
                );
            }
        }
        // What the bad account sent was complete, and nobody could read it.
        assert!(provider.provider.log().len() >= 4);
        gateway.settles_at(&customer, "0.9999544").await;
    }
}

fn nobody() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, SocketAddr::from(([127, 201, 3, 8], port)))
}

#[tokio::test]
async fn an_account_that_is_down_is_passed_over() {
    let (_taken, address) = nobody();
    let provider = Simulated::start();
    let down = Account::new("down", address).with("weight: 1000");
    let gateway = Gateway::start(&[down, Account::of(&provider)]);
    let customer = gateway.customer("1.00");
    let mut failovers = 0;
    for client in Client::both(&gateway, &customer) {
        for number in 0..10 {
            let body = if number % 2 == 0 { ask(&[]) } else { streamed(ask(&[])) };
            let answer = client.ask(&body).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let receipt = gateway.receipt(&answer.id()).await;
            if outcomes(&receipt).len() > 1 {
                assert_eq!(
                    outcomes(&receipt),
                    [("down".into(), "connect".into()), ("first".into(), "ok".into())]
                );
                failovers += 1;
            }
        }
    }
    // After five failures in a row the account is shut, but for a probe now and then.
    assert!((4..=10).contains(&failovers), "{failovers} failovers");
    audit(gateway, &[&provider]).is_exact(20);
}

#[tokio::test]
async fn an_answer_that_is_cut_before_its_first_byte_is_served_by_another() {
    let starts = [
        "",
        "HTTP/1.1 20",
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{",
    ];
    for bytes in starts {
        let cut = Scripted::always(Script::send(bytes).then(Then::Close));
        let provider = Simulated::start();
        let gateway = Gateway::start(&[Account::scripted(&cut).with("weight: 1000"), Account::of(&provider)]);
        let customer = gateway.customer("1.00");
        for client in Client::both(&gateway, &customer) {
            let answer = client.ask(&ask(&[])).await;
            assert_eq!(answer.status, 200, "{bytes:?}: {answer:?}");
            let receipt = gateway.receipt(&answer.id()).await;
            assert_eq!(outcomes(&receipt).last().unwrap().0, "first");
        }
        assert!(!cut.seen().is_empty(), "{bytes:?}");
        audit(gateway, &[&provider]).is_exact(2);
    }
}

#[tokio::test]
async fn a_large_body_is_sent_again_whole() {
    let (provider, gateway, customer) = start();
    let text_of = |bytes| "x".repeat(bytes);
    let mut resent = 0;
    for client in Client::both(&gateway, &customer) {
        for bytes in [1_000, 70_000, 5_000_000] {
            let mut body = ask(&[("status", "500"), ("only_credential", "-bad")]);
            body["messages"] = json!([{ "role": "user", "content": text_of(bytes) }]);
            let body = body.to_string();
            let expected =
                tollgate::simulate::expected_usage(tollgate::endpoint::Endpoint::Chat, body.as_bytes())
                    .unwrap();
            let answer = crate::support::Answer::read(client.chat(body)).await;
            assert_eq!(answer.status, 200, "{bytes}: {answer:?}");
            let served = provider.served(&answer.id());
            assert_eq!(served.last().unwrap().usage(), expected, "{bytes}");
            resent += served.len() - 1;
            // The account would be shut after five failures in a row.
            let good = client.ask(&ask(&[])).await;
            assert_eq!(good.status, 200);
        }
    }
    assert!(resent >= 4, "{resent} sent again");
    audit(gateway, &[&provider]).is_exact(12);
}

#[tokio::test]
async fn a_request_is_tried_no_more_often_than_configured() {
    let provider = Simulated::start();
    let names = ["a", "b", "c", "d", "e"];
    for (retry, attempts) in [("attempts_max: 1", 1), ("attempts_max: 2", 2), ("attempts_max: 3", 3), ("", 5)]
    {
        let accounts = names.map(|name| Account::new(name, provider.address));
        let gateway = Gateway::start_with(&accounts, &Settings { retry, ..Settings::default() });
        let customer = gateway.customer("1.00");
        let answer = Client::h1(&gateway, &customer).ask(&ask(&[("status", "500")])).await;
        answer.is_error(503, Some("upstream_unavailable"));
        let receipt = gateway.receipt(&answer.id()).await;
        assert_eq!(outcomes(&receipt).len(), attempts, "{retry}");
        assert_eq!(provider.served(&answer.id()).len(), attempts);
        let mut tried: Vec<String> = outcomes(&receipt).into_iter().map(|(name, _)| name).collect();
        tried.sort_unstable();
        tried.dedup();
        assert_eq!(tried.len(), attempts, "each account once: {receipt}");
        gateway.settles_at(&customer, "1.00").await;
    }
}

#[tokio::test]
async fn a_connection_that_the_provider_closed_in_between_is_nobodys_fault() {
    let answer = Script::json(r#"{"usage":{"prompt_tokens":1,"completion_tokens":1}}"#).then(Then::Close);
    let provider = Scripted::always(answer);
    let gateway = Gateway::start(&[Account::scripted(&provider)]);
    let customer = gateway.customer("1.00");
    for client in Client::both(&gateway, &customer) {
        for _ in 0..20 {
            let answer = client.ask(&ask(&[])).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let receipt = gateway.receipt(&answer.id()).await;
            let outcomes = outcomes(&receipt);
            let (last, before) = outcomes.split_last().unwrap();
            assert_eq!(last.1, "ok", "{receipt}");
            assert!(before.iter().all(|(_, outcome)| outcome == "stale"), "{receipt}");
        }
    }
    assert!(provider.seen().len() >= 40);
    assert!(!gateway.scrape().contains("outcome=\"broken\""), "{}", gateway.scrape());
    audit(gateway, &[]).counts(40, 0, 0);
}

#[tokio::test]
async fn an_account_serves_its_models_only() {
    let provider = Simulated::start();
    let gateway = Gateway::start(&[
        Account::new("mini", provider.address).models("[gpt-4o-mini]"),
        Account::new("large", provider.address).models("[gpt-4o]"),
    ]);
    let customer = gateway.customer("1.00");
    let client = Client::h1(&gateway, &customer);
    for _ in 0..10 {
        for (model, upstream) in [("gpt-4o-mini", "mini"), ("gpt-4o", "large")] {
            let mut body = ask(&[]);
            body["model"] = json!(model);
            let answer = client.ask(&body).await;
            let receipt = gateway.receipt(&answer.id()).await;
            assert_eq!(outcomes(&receipt), [(upstream.into(), "ok".into())]);
        }
    }
    client.ask(&json!({ "model": "thinker", "messages": [] })).await.is_error(404, Some("model_not_found"));
    audit(gateway, &[&provider]).is_exact(20);
}

#[tokio::test]
async fn more_requests_than_the_pool_takes_are_told_to_come_back() {
    let provider = Simulated::start();
    let accounts = [Account::of(&provider).with("limits: { concurrency: 2 }")];
    let settings = Settings { queue: "waiting_max: 0", ..Settings::default() };
    let gateway = Gateway::start_with(&accounts, &settings);
    let customer = gateway.customer("1.00");
    let client = Client::h1(&gateway, &customer);
    let body = ask(&[("latency_ms", "500")]);
    let answers = futures_util::future::join_all((0..10).map(|_| client.ask(&body))).await;
    let served = answers.iter().filter(|answer| answer.status == 200).count();
    assert!((2..10).contains(&served), "{served}");
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        answer.is_error(503, Some("overloaded"));
        assert_eq!(answer.header("x-should-retry"), "true");
    }
    assert_eq!(provider.provider.log().len(), served);
    let audit = audit(gateway, &[&provider]);
    audit.counts(served, 0, 10 - served);
    assert_eq!(audit.unpaid, 0);
}

/// An answer that does not begin in time is asked for elsewhere; one that comes whole begins when it is complete.
#[tokio::test]
async fn a_stream_that_does_not_begin_in_time_is_served_by_another() {
    let silent = Scripted::always(Script::send("").then(Then::Silence));
    let provider = Simulated::start();
    let slow = Account::scripted(&silent).with("weight: 1000, timeouts: { first_byte_ms: 100 }");
    let usual = Account::of(&provider).with("timeouts: { first_byte_ms: 100 }");
    let gateway = Gateway::start(&[slow, usual]);
    let customer = gateway.customer("1.00");
    let begun = std::time::Instant::now();
    let mut failovers = 0;
    for client in Client::both(&gateway, &customer) {
        for _ in 0..3 {
            let answer = client.ask(&streamed(ask(&[]))).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            assert!(answer.text().ends_with("data: [DONE]\n\n"), "{answer:?}");
            let receipt = gateway.receipt(&answer.id()).await;
            let outcomes = outcomes(&receipt);
            assert_eq!(outcomes.last().unwrap(), &("first".into(), "ok".into()), "{receipt}");
            assert!(outcomes.len() == 1 || outcomes[0] == ("scripted".into(), "timeout".into()), "{receipt}");
            failovers += outcomes.len() - 1;
        }
    }
    assert!(failovers > 0 && begun.elapsed() < std::time::Duration::from_secs(30), "{failovers}");
    gateway.json(&["upstream", "drain", "scripted"]);
    for client in Client::both(&gateway, &customer) {
        let plain = client.ask(&ask(&[("latency_ms", "400")])).await;
        assert_eq!(plain.status, 200, "{plain:?}");
        // Alone, it is not asked again, and the client is told.
        client.ask(&streamed(ask(&[("latency_ms", "400")]))).await.is_error(504, Some("upstream_timeout"));
    }
    audit(gateway, &[&provider]).counts(8, 0, 2);
}

/// What shares a cache at a provider goes to the account that has it, as long as that takes requests.
#[tokio::test]
async fn who_shares_a_prompt_cache_stays_with_one_account() {
    let provider = Simulated::start();
    let names = ["a", "b", "c", "d"];
    let gateway = Gateway::start(&names.map(|name| Account::new(name, provider.address)));
    let customer = gateway.customer("1.00");
    let client = Client::h1(&gateway, &customer);
    let served_by = async |key: usize| {
        let mut body = ask(&[]);
        body["prompt_cache_key"] = json!(format!("conversation {key}"));
        let mut by = Vec::new();
        for _ in 0..4 {
            let answer = client.ask(&body).await;
            by.push(outcomes(&gateway.receipt(&answer.id()).await)[0].0.clone());
        }
        by.dedup();
        assert_eq!(by.len(), 1, "{key} went to {by:?}");
        by.remove(0)
    };
    let mut all = Vec::new();
    for key in 0..12 {
        all.push(served_by(key).await);
    }
    let mut used = all.clone();
    used.sort_unstable();
    used.dedup();
    assert!(used.len() > 1, "one account has all of {all:?}");
    gateway.json(&["upstream", "drain", &all[0]]);
    assert_ne!(served_by(0).await, all[0]);
    gateway.json(&["upstream", "resume", &all[0]]);
    assert_eq!(served_by(0).await, all[0], "it comes back to what it has there");
    audit(gateway, &[&provider]).is_exact(56);
}

#[tokio::test]
async fn a_connection_to_a_provider_is_used_again() {
    let provider = Scripted::always(Script::json(r#"{"usage":{"prompt_tokens":1,"completion_tokens":1}}"#));
    let gateway = Gateway::start(&[Account::scripted(&provider)]);
    let customer = gateway.customer("1.00");
    for client in Client::both(&gateway, &customer) {
        // One may not be back when the next request comes: not each request finds it.
        let before = provider.seen().len();
        let most_on_one = || {
            let mut on = std::collections::BTreeMap::<usize, usize>::new();
            provider.seen()[before..].iter().for_each(|seen| *on.entry(seen.connection).or_default() += 1);
            on.into_values().max().unwrap_or(0)
        };
        let mut asked = 0;
        while most_on_one() < 5 {
            assert_eq!(client.ask(&ask(&[])).await.status, 200);
            asked += 1;
            assert!(asked < 200, "no connection had five of {asked} requests");
        }
    }
}
