//! Web searches that providers run: each has a price beside its tokens, and their number a bound.

use crate::support::gateway::text;
use crate::support::scene::{Scene, scene};
use crate::support::{Account, Answer, Client, Customer, Gateway, Simulated, audit, eventually, hang_up_in};
use serde_json::{Value, json};

const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";

/// A response whose model would like to search so often.
fn response(searches: u32) -> Value {
    json!({ "model": "searcher", "input": "hello", "tools": [{ "type": "web_search" }],
        "metadata": { "simulate_searches": searches.to_string() } })
}

/// The same in the words of Anthropic.
fn message(searches: u32) -> Value {
    let tool = json!({ "type": "web_search_20250305", "name": "web_search" });
    json!({ "model": "searcher", "max_tokens": 100, "messages": [{ "role": "user", "content": "hello" }],
        "tools": [tool], "metadata": { "simulate_searches": searches.to_string() } })
}

/// The same as a stream that takes more than a second.
fn slowly(mut body: Value) -> Value {
    for (name, value) in [("tokens", "60"), ("chunks", "60"), ("pace_ms", "20")] {
        body["metadata"][format!("simulate_{name}")] = json!(value);
    }
    with(body, "stream", json!(true))
}

fn with(mut body: Value, field: &str, value: Value) -> Value {
    body[field] = value;
    body
}

async fn post(client: &Client, path: &str, body: &Value) -> Answer {
    Answer::read(client.post(path, body.to_string())).await
}

struct Searched {
    gateway: Gateway,
    customer: Customer,
    providers: [Simulated; 2],
}

/// Both dialects.
fn start() -> Searched {
    let providers = [Simulated::start(), Simulated::start()];
    let theirs = Account::new("theirs", providers[1].address).with("dialect: anthropic");
    let gateway = Gateway::start(&[Account::of(&providers[0]), theirs]);
    let customer = gateway.customer("5.00");
    Searched { gateway, customer, providers }
}

#[tokio::test]
async fn each_search_is_on_the_receipt_with_its_price() {
    let Searched { gateway, customer, providers } = start();
    for client in Client::both(&gateway, &customer) {
        for (path, body) in [(RESPONSES, response(3)), (MESSAGES, message(3))] {
            for stream in [false, true] {
                let answer = post(&client, path, &with(body.clone(), "stream", json!(stream))).await;
                assert_eq!(answer.status, 200, "{answer:?}");
                assert!(answer.text().contains("query 2") && answer.text().contains("tok15"), "{answer:?}");
                let receipt = gateway.receipt(&answer.id()).await;
                assert_eq!(
                    (&receipt["usage"]["web_searches"], &receipt["metered"]),
                    (&json!(3), &json!("reported"))
                );
                let lines = receipt["lines"].as_array().unwrap();
                let line = lines.iter().find(|line| line["class"] == "web_searches").expect("a line");
                assert_eq!((&line["quantity"], text(&line["amount"])), (&json!(3), "0.03".into()));
                // 3,005 or 3,009 of input and 16 of output for a million, and 3 x 0.01; our cost is less.
                let input = receipt["usage"]["input"].as_u64().unwrap();
                assert_eq!(text(&receipt["charge"]), format!("0.0{}", 30_000 + input + 32));
                assert!(text(&receipt["cost"]).starts_with("0.0255"), "{receipt}");
                let reported = receipt["reported"].to_string();
                assert!(
                    reported.contains("num_requests") || reported.contains("web_search_requests"),
                    "{reported}"
                );
            }
        }
    }
    audit(gateway, &providers.each_ref()).is_exact(8);
}

#[tokio::test]
async fn no_more_are_run_than_are_held_for() {
    let Searched { gateway, customer, providers } = start();
    let client = Client::h1(&gateway, &customer);
    let uses = |uses: u32| json!([{ "type": "web_search_20250305", "name": "web_search", "max_uses": uses }]);
    for (path, body, searches) in [
        (RESPONSES, response(50), 5),
        (RESPONSES, with(response(50), "max_tool_calls", json!(2)), 2),
        (RESPONSES, with(response(50), "max_tool_calls", Value::Null), 5),
        (MESSAGES, message(50), 5),
        (MESSAGES, with(message(50), "tools", uses(2)), 2),
    ] {
        let answer = post(&client, path, &body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let usage = gateway.receipt(&answer.id()).await["usage"].clone();
        assert_eq!(usage["web_searches"], json!(searches), "{body}");
    }
    // A search is 0.01, and it and the last have 10,000 tokens read; the answer is cut to what is left.
    let poor = gateway.customer("0.052");
    let client = Client::h1(&gateway, &poor);
    let bounded = |calls: u32| with(response(9), "max_tool_calls", json!(calls));
    post(&client, RESPONSES, &bounded(3)).await.is_error(402, Some("insufficient_quota"));
    let answer = post(&client, RESPONSES, &bounded(2)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let receipt = gateway.receipt(&answer.id()).await;
    assert_eq!((&receipt["usage"]["web_searches"], text(&receipt["held"])), (&json!(2), "0.052".into()));
    audit(gateway, &providers.each_ref()).is_exact(6);
}

#[tokio::test]
async fn a_run_in_the_background_searches_too() {
    let Scene { gateway, provider, customer } = scene();
    let client = Client::h1(&gateway, &customer);
    let answer = post(&client, RESPONSES, &with(response(2), "background", json!(true))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let ended = || {
        let receipt = gateway.admin_get(&format!("/receipts/{}", answer.id())).1;
        (receipt["status"] == "captured").then_some(receipt)
    };
    let receipt = eventually("it is charged", ended).await;
    assert_eq!(receipt["usage"]["web_searches"], json!(2), "{receipt}");
    audit(gateway, &[&provider]).is_exact(1);
}

/// What was found was read, which only the provider's report tells: it is waited for, unless the account is
/// set otherwise.
#[tokio::test]
async fn whoever_hangs_up_pays_for_the_searches_that_were_run() {
    for (on_hang_up, metered) in [("auto", "reported"), ("cancel", "estimated")] {
        let provider = Simulated::start();
        let gateway = Gateway::start(&[Account::of(&provider).with(&format!("on_hang_up: {on_hang_up}"))]);
        let customer = gateway.customer("1.00");
        for client in Client::both(&gateway, &customer) {
            let body = slowly(response(2));
            let (id, _) = hang_up_in(client.post(RESPONSES, body.to_string()), "tok3").await;
            let receipt = gateway.receipt(&id).await;
            assert_eq!(
                (text(&receipt["metered"]), &receipt["usage"]["web_searches"]),
                (metered.into(), &json!(2))
            );
            assert_eq!(
                receipt["usage"]["input"].as_u64().unwrap() > 2_000,
                metered == "reported",
                "{receipt}"
            );
        }
        let counts = if metered == "reported" { (2, 0) } else { (0, 2) };
        audit(gateway, &[&provider]).counts(counts.0, counts.1, 0);
    }
}

/// What was read four times is not input four times.
#[tokio::test]
async fn who_goes_on_from_searches_is_not_estimated_by_their_readings() {
    let provider = Simulated::start();
    let gateway = Gateway::start(&[Account::of(&provider).with("on_hang_up: cancel")]);
    let customer = gateway.customer("5.00");
    let client = Client::h1(&gateway, &customer);
    let first = post(&client, RESPONSES, &response(3)).await;
    let read = gateway.receipt(&first.id()).await["usage"]["input"].as_u64().unwrap() + 16;
    let body = slowly(json!({ "model": "searcher", "input": "thanks",
        "previous_response_id": first.json()["id"], "metadata": {} }));
    let (id, _) = hang_up_in(client.post(RESPONSES, body.to_string()), "tok3").await;
    let receipt = gateway.receipt(&id).await;
    let input = receipt["usage"]["input"].as_u64().unwrap();
    assert_eq!(text(&receipt["metered"]), "estimated", "{receipt}");
    assert!((read / 4..read / 4 + 100).contains(&input), "{read}: {receipt}");
    audit(gateway, &[&provider]).counts(1, 1, 0);
}

#[tokio::test]
async fn where_search_is_not_sold_it_is_told_where_it_is() {
    let Scene { gateway, provider, customer } = scene();
    for client in Client::both(&gateway, &customer) {
        let chat = json!({ "model": "searcher", "messages": [], "web_search_options": {} });
        let brings = json!([{ "type": "additional_tools", "tools": [{ "type": "web_search" }] }]);
        let preview = with(response(1), "tools", json!([{ "type": "web_search_preview" }]));
        for (path, body, param, says) in [
            (RESPONSES, with(response(1), "model", json!("gpt-4o-mini")), "tools", "choose another model"),
            (RESPONSES, preview, "tools", "`web_search`"),
            (RESPONSES, with(response(1), "input", brings), "input", "additional_tools"),
            (RESPONSES, with(response(1), "max_tool_calls", json!(0)), "max_tool_calls", "from 1 to 100"),
            ("/v1/chat/completions", chat, "web_search_options", "/v1/responses"),
        ] {
            let refused = post(&client, path, &body).await;
            refused.is_error(400, None);
            let error = &refused.json()["error"];
            assert!(error["param"] == param && text(&error["message"]).contains(says), "{error}");
        }
    }
    Scene { gateway, provider, customer }.cost_nothing(0).await;
}
