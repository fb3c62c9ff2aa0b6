//! The way of a request that nothing happens to: what reaches the client, what is charged.

use crate::support::client::Raw;
use crate::support::gateway::text;
use crate::support::scripted::Seen;
use crate::support::{
    Account, Answer, Client, Customer, Gateway, Script, Scripted, Simulated, ask, audit, event_stream,
    streamed, text_of_stream,
};
use bytes::Bytes;
use futures_util::stream;
use reqwest::Body;
use serde_json::{Value, json};
use std::convert::Infallible;
use tollgate::ledger::Verified;
use tollgate::money::Amount;

/// 9 tokens of prompt (3, 4, and 19 bytes of text in fours) and 16 of answer, at 0.15 and 0.60.
const CHARGE: &str = "0.0000114";
const PROMPT_TOKENS: u64 = 3 + 4 + 5;

fn rich() -> (Simulated, Gateway, Customer) {
    let provider = Simulated::start();
    let gateway = Gateway::start(&[Account::of(&provider)]);
    let customer = gateway.customer("25.00");
    (provider, gateway, customer)
}

#[tokio::test]
async fn plain_and_streamed_answers_are_charged_what_they_used() {
    let (provider, gateway, customer) = rich();
    for client in Client::both(&gateway, &customer) {
        let plain = client.ask(&ask(&[])).await;
        assert_eq!(plain.status, 200, "{plain:?}");
        assert_eq!(plain.header("x-tollgate-charge"), CHARGE);
        assert_eq!(plain.json()["usage"]["prompt_tokens"], PROMPT_TOKENS);
        let words = text(&plain.json()["choices"][0]["message"]["content"]);
        assert!(words.starts_with("tok0 tok1") && words.ends_with("tok15"), "{words}");

        let stream = client.ask(&streamed(ask(&[]))).await;
        assert_eq!((stream.status, stream.header("content-type")), (200, "text/event-stream; charset=utf-8"));
        assert_eq!(text_of_stream(&stream.text()), words);
        assert!(stream.text().ends_with("data: [DONE]\n\n"));

        for answer in [&plain, &stream] {
            let receipt = gateway.receipt(&answer.id()).await;
            assert_eq!(
                (text(&receipt["charge"]), text(&receipt["metered"])),
                (CHARGE.into(), "reported".into())
            );
            assert_eq!(
                (text(&receipt["status"]), text(&receipt["end"])),
                ("captured".into(), "complete".into())
            );
            assert_eq!(receipt["reported"]["prompt_tokens"], PROMPT_TOKENS);
        }
    }
    gateway.settles_at(&customer, "24.9999544").await;
    let audit = audit(gateway, &[&provider]);
    audit.is_exact(4);
    assert_eq!(audit.charged.to_string(), "0.0000456");
}

const USAGE_STREAM: &str = include_str!("../data/chat-stream-usage.sse");

/// The bytes of a stream without the event that only reports its usage.
fn without_usage_chunk(stream: &str) -> String {
    let events = stream.split_inclusive("\n\n");
    let kept = events.filter(|event| !event.contains("\"choices\":[]"));
    kept.collect()
}

#[tokio::test]
async fn bytes_pass_unchanged_but_for_a_usage_chunk_nobody_asked_for() {
    let hidden = without_usage_chunk(USAGE_STREAM);
    assert!(hidden.len() < USAGE_STREAM.len() && hidden.ends_with("data: [DONE]\n\n"));
    let provider = Scripted::always(Script::events(USAGE_STREAM));
    let gateway = Gateway::start(&[Account::scripted(&provider)]);
    let customer = gateway.customer("25.00");
    let mut requests = 0;
    for client in Client::both(&gateway, &customer) {
        for (options, expected) in [
            (None, hidden.as_str()),
            (Some(json!({ "include_usage": false })), &hidden),
            (Some(json!({ "include_usage": true })), USAGE_STREAM),
        ] {
            let mut body = streamed(ask(&[]));
            if let Some(options) = options {
                body["stream_options"] = options;
            }
            let answer = client.ask(&body).await;
            assert_eq!(answer.text(), expected, "{}", body["stream_options"]);
            assert_eq!(gateway.receipt(&answer.id()).await["metered"], "reported");
            requests += 1;
        }
    }
    // Whatever the client asked for, the provider was asked for the usage.
    let seen = provider.seen();
    assert_eq!((seen.len(), requests), (6, 6));
    for Seen { body, .. } in seen {
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["stream_options"]["include_usage"], true);
    }
    audit(gateway, &[]).counts(6, 0, 0);
}

#[tokio::test]
async fn streams_of_every_make_pass_byte_for_byte() {
    let transcripts: [&[u8]; 5] = [
        include_bytes!("../data/chat-stream-azure-prompt-filter.sse"),
        include_bytes!("../data/chat-stream-crlf-comments.sse"),
        include_bytes!("../data/chat-stream-cr-no-done.sse"),
        include_bytes!("../data/chat-stream-tool-calls.sse"),
        include_bytes!("../data/chat-stream-vllm-cumulative.sse"),
    ];
    let provider = Scripted::start(move |number| Script::events(transcripts[number]));
    let gateway = Gateway::start(&[Account::scripted(&provider)]);
    let customer = gateway.customer("25.00");
    let client = Client::h1(&gateway, &customer);
    let mut body = streamed(ask(&[]));
    body["stream_options"] = json!({ "include_usage": true });
    for transcript in transcripts {
        let answer = client.ask(&body).await;
        assert_eq!(answer.body, transcript);
        let charge: Amount = Amount::parse(&text(&gateway.receipt(&answer.id()).await["charge"])).unwrap();
        assert!(charge > Amount::ZERO);
    }
    assert_eq!(provider.seen().len(), transcripts.len());
}

#[tokio::test]
async fn a_plain_answer_passes_byte_for_byte() {
    let odd = b" {\"choices\" : [ {\"message\":{\"content\":\"caf\\u00e9 \xf0\x9f\x98\x80\"}} ],\r\n\t\"usage\":{\"completion_tokens\":2,\"prompt_tokens\":3},\"unknown\":1.50}\n";
    let provider = Scripted::always(Script::json(odd));
    let gateway = Gateway::start(&[Account::scripted(&provider)]);
    let customer = gateway.customer("25.00");
    for client in Client::both(&gateway, &customer) {
        let answer = client.ask(&ask(&[])).await;
        assert_eq!((answer.status, &answer.body[..]), (200, &odd[..]));
        assert_eq!(answer.header("content-length"), odd.len().to_string());
        assert_eq!(answer.header("content-type"), "application/json");
        assert_eq!(answer.header("x-tollgate-charge"), "0.00000165");
    }
    let body: Value = serde_json::from_slice(&provider.seen()[0].body).unwrap();
    assert_eq!(body, ask(&[]), "a plain request passes as it came");
    audit(gateway, &[]).counts(2, 0, 0);
}

#[tokio::test]
async fn models_are_listed_that_have_a_price_and_somebody_who_serves_them() {
    let (_provider, gateway, customer) = rich();
    for client in Client::both(&gateway, &customer) {
        let list = client.get("/v1/models").await;
        assert_eq!((list.status, &list.json()["object"]), (200, &json!("list")));
        let data = list.json()["data"].clone();
        let names: Vec<&str> =
            data.as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
        assert_eq!(
            names,
            [
                "batched",
                "counted",
                "dall-e-3",
                "embedder",
                "gpt-4o",
                "gpt-4o-mini",
                "listener",
                "omni-moderation-latest",
                "painter",
                "searcher",
                "speaker",
                "thinker",
                "tiered",
                "tts-1",
                "whisper-1"
            ]
        );
        let one = client.get("/v1/models/gpt-4o").await;
        assert_eq!((one.status, one.json()["id"].as_str()), (200, Some("gpt-4o")));
        assert_eq!(one.json()["object"], "model");
        client.get("/v1/models/unserved").await.is_error(404, Some("model_not_found"));
        client.with_key("tg_live_wrong").get("/v1/models").await.is_error(401, Some("invalid_api_key"));
    }
}

#[tokio::test]
async fn a_key_is_found_where_clients_put_it() {
    let (provider, gateway, customer) = rich();
    let mut asked = 0;
    for client in Client::both(&gateway, &customer) {
        for (name, value) in [
            ("authorization", format!("Bearer {}", customer.key)),
            ("authorization", format!("bearer  {}", customer.key)),
            ("api-key", customer.key.clone()),
            ("x-api-key", customer.key.clone()),
        ] {
            let request = client.request("POST", "/v1/chat/completions").header(name, value);
            let answer = Answer::read(request.body(ask(&[]).to_string())).await;
            assert_eq!(answer.status, 200, "{name}: {answer:?}");
            asked += 1;
        }
    }
    assert_eq!(asked, 8);
    audit(gateway, &[&provider]).is_exact(8);
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let (provider, gateway, customer) = rich();
    let mut raw = Raw::connect(gateway.address);
    let (plain, refused) = (ask(&[]).to_string(), "{");
    for number in 0..60 {
        // Also between refusals and answers of our own, the connection stays.
        let body = if number % 3 == 0 { refused } else { &plain };
        raw.send(Raw::head(&customer, &format!("content-length: {}\r\n", body.len())));
        raw.send(body);
        let (status, head, _) = raw.answer();
        assert_eq!(status, if number % 3 == 0 { 400 } else { 200 }, "{head}");
        if number % 10 == 0 {
            raw.send("GET /healthz HTTP/1.1\r\nhost: gateway\r\n\r\n");
            assert_eq!(raw.answer().0, 200);
        }
    }
    audit(gateway, &[&provider]).is_exact(40);
}

#[tokio::test]
async fn connections_to_the_provider_are_used_again() {
    let provider = Scripted::always(Script::json(r#"{"usage":{"prompt_tokens":1,"completion_tokens":1}}"#));
    let gateway = Gateway::start(&[Account::scripted(&provider)]);
    let customer = gateway.customer("25.00");
    for client in Client::both(&gateway, &customer) {
        for _ in 0..10 {
            assert_eq!(client.ask(&ask(&[])).await.status, 200);
        }
    }
    let connections = provider.seen().last().unwrap().connection + 1;
    assert_eq!(provider.seen().len(), 20);
    // One for each worker thread at most, and no more than a few.
    assert!(connections <= 8, "{connections} connections for 20 requests");
}

#[tokio::test]
async fn a_model_may_have_another_name_at_the_provider() {
    let provider = Simulated::start();
    let account =
        Account::of(&provider).models("{ gpt-4o-mini: gpt-4o-mini-2024-07-18, counted: \"a/b:c\" }");
    let gateway = Gateway::start(&[account]);
    let customer = gateway.customer("25.00");
    for (client, model, theirs) in Client::both(&gateway, &customer).into_iter().flat_map(|client| {
        [(client.clone(), "gpt-4o-mini", "gpt-4o-mini-2024-07-18"), (client, "counted", "a/b:c")]
    }) {
        for body in [ask(&[]), streamed(ask(&[]))] {
            let body = {
                let mut body = body;
                body["model"] = json!(model);
                body
            };
            let answer = client.ask(&body).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(provider.served(&answer.id())[0].model, theirs);
            assert_eq!(
                gateway.receipt(&answer.id()).await["model"],
                model,
                "charged under the name asked for"
            );
        }
    }
    Client::h1(&gateway, &customer)
        .ask(&json!({"model": "gpt-4o", "messages": []}))
        .await
        .is_error(404, Some("model_not_found"));
    audit(gateway, &[&provider]).is_exact(8);
}

/// A chat request of exactly `bytes`.
fn sized(bytes: usize) -> Bytes {
    let empty = json!({"model": "gpt-4o-mini", "messages": [{ "role": "user", "content": "" }]}).to_string();
    let (head, tail) = empty.split_at(empty.find(":\"\"").unwrap() + 2);
    let mut body = Vec::with_capacity(bytes);
    body.extend_from_slice(head.as_bytes());
    body.resize(bytes - tail.len(), b'x');
    body.extend_from_slice(tail.as_bytes());
    assert_eq!(body.len(), bytes);
    body.into()
}

/// A body of unknown length: chunked over HTTP/1.1, frames without a content-length over HTTP/2.
fn in_pieces(body: &Bytes, piece: usize) -> Body {
    let pieces: Vec<Result<Bytes, Infallible>> = (0..body.len())
        .step_by(piece)
        .map(|start| Ok(body.slice(start..body.len().min(start + piece))))
        .collect();
    Body::wrap_stream(stream::iter(pieces))
}

#[tokio::test]
async fn bodies_of_every_size_reach_the_provider_whole() {
    let (provider, gateway, customer) = rich();
    let mut served = 0;
    for bytes in [1024, 100 * 1024, 64 * 1024, 64 * 1024 + 1, 5 * 1024 * 1024] {
        let body = sized(bytes);
        let expected = tollgate::simulate::expected_usage(tollgate::endpoint::Endpoint::Chat, &body).unwrap();
        for client in Client::both(&gateway, &customer) {
            for way in [Body::from(body.clone()), in_pieces(&body, 7_001)] {
                let answer = Answer::read(client.chat(way)).await;
                assert_eq!(answer.status, 200, "{bytes}: {answer:?}");
                assert_eq!(provider.served(&answer.id())[0].usage(), expected, "{bytes}");
                served += 1;
            }
        }
    }
    assert_eq!(served, 20);
    audit(gateway, &[&provider]).is_exact(20);
}

#[tokio::test]
async fn the_largest_body_is_served_in_every_framing() {
    let (provider, gateway, customer) = rich();
    let body = sized(32 * 1024 * 1024);
    let expected = tollgate::simulate::expected_usage(tollgate::endpoint::Endpoint::Chat, &body).unwrap();
    let [h1, h2] = Client::both(&gateway, &customer);
    for request in [
        h1.chat(body.clone()),
        h1.chat(in_pieces(&body, 1024 * 1024)),
        h2.chat(body.clone()),
        h2.chat(in_pieces(&body, 1024 * 1024)),
    ] {
        let answer = Answer::read(request).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(provider.served(&answer.id())[0].usage(), expected);
    }
    audit(gateway, &[&provider]).is_exact(4);
}

#[tokio::test]
async fn the_smallest_request_is_served() {
    let provider = Scripted::always(Script::json(r#"{"usage":{"prompt_tokens":1,"completion_tokens":1}}"#));
    let account = Account::scripted(&provider).models("{ counted: c }");
    let gateway = Gateway::start(&[account]);
    let customer = gateway.customer("25.00");
    let smallest = r#"{"model":"counted","messages":[]}"#;
    for client in Client::both(&gateway, &customer) {
        assert_eq!(Answer::read(client.chat(smallest)).await.status, 200);
    }
    let seen = provider.seen();
    assert_eq!((seen.len(), seen[0].body.as_slice()), (2, &br#"{"model":"c","messages":[]}"#[..]));
}

#[tokio::test]
async fn a_client_that_waits_to_be_told_to_continue_is_told() {
    let (provider, gateway, customer) = rich();
    let body = sized(100 * 1024);
    let mut raw = Raw::connect(gateway.address);
    for _ in 0..2 {
        let length = format!("content-length: {}\r\nexpect: 100-continue\r\n", body.len());
        raw.send(Raw::head(&customer, &length));
        assert_eq!(raw.answer().0, 100, "before any of the body was sent");
        raw.send(&body);
        assert_eq!(raw.answer().0, 200);
    }
    audit(gateway, &[&provider]).is_exact(2);
}

#[tokio::test]
async fn a_receipt_says_the_same_to_the_operator_and_to_the_customer() {
    let (provider, gateway, customer) = rich();
    let stranger = gateway.customer("1.00");
    let client = Client::h1(&gateway, &customer);
    let answer = client.ask(&ask(&[("cached_tokens", "4"), ("reasoning_tokens", "7")])).await;
    let receipt = gateway.receipt(&answer.id()).await;
    assert_eq!(gateway.json(&["receipt", &answer.id()]), receipt);
    let path = format!("/tollgate/v1/receipts/{}", answer.id());
    let own = client.get(&path).await;
    let mut told = receipt.clone();
    told["attempts"][0]["upstream"] = json!("upstream-1");
    assert_eq!((own.status, own.json()), (200, told), "the same, but for who served it");
    client.with_key(&stranger.key).get(&path).await.is_error(404, None);
    client.with_key("tg_live_wrong").get(&path).await.is_error(401, Some("invalid_api_key"));

    assert_eq!(text(&receipt["request_id"]), answer.id());
    assert_eq!(
        (text(&receipt["customer"]), text(&receipt["key"])),
        (customer.id.clone(), customer.key_id.clone())
    );
    assert_eq!(
        (text(&receipt["model"]), text(&receipt["price_version"])),
        ("gpt-4o-mini".into(), "it-1".into())
    );
    assert_eq!(
        receipt["usage"],
        json!({"input": 8, "cached_input": 4, "cache_write": 0, "output": 16, "reasoning": 7})
    );
    assert_eq!(receipt["attempts"][0]["upstream"], "first");
    assert_eq!(text(&receipt["charge"]), answer.header("x-tollgate-charge"));
    // 8 x 0.15 + 4 x 0.075 + 23 x 0.60 for a million
    assert_eq!(text(&receipt["charge"]), "0.0000153");
    assert_eq!(text(&receipt["balance_after"]), "24.9999847");

    let balance = client.get("/tollgate/v1/balance").await.json();
    assert_eq!(
        (text(&balance["balance"]), text(&balance["available"])),
        ("24.9999847".into(), "24.9999847".into())
    );
    let verified: Verified = serde_json::from_value(gateway.json(&["ledger", "verify"])).unwrap();
    assert_eq!((verified.ok, verified.captures, verified.open_holds), (true, 1, 0));
    audit(gateway, &[&provider]).is_exact(1);
}

#[tokio::test]
async fn health_is_told_to_anyone() {
    let (_provider, gateway, customer) = rich();
    for client in Client::both(&gateway, &customer) {
        for path in ["/healthz", "/readyz"] {
            assert_eq!(Answer::read(client.request("GET", path)).await.status, 200, "{path}");
        }
    }
    let list = client_events(&gateway, &customer).await;
    assert_eq!(list, 1 + 16 + 1 + 1, "role, 16 chunks, finish, [DONE]");
}

async fn client_events(gateway: &Gateway, customer: &Customer) -> usize {
    let answer = Client::h1(gateway, customer).ask(&streamed(ask(&[]))).await;
    event_stream(&answer.text()).len()
}

#[tokio::test]
async fn a_client_that_wants_the_connection_closed_finds_it_closed() {
    let (provider, gateway, customer) = rich();
    let body = ask(&[]).to_string();
    let length = format!("content-length: {}\r\n", body.len());
    let close = Raw::head(&customer, &format!("connection: close\r\n{length}"));
    let old = Raw::head(&customer, &length).replacen("HTTP/1.1", "HTTP/1.0", 1);
    for head in [close, old] {
        let mut raw = Raw::connect(gateway.address);
        raw.send(head);
        raw.send(&body);
        let (status, head, _) = raw.answer();
        assert_eq!(status, 200, "{head}");
        assert!(raw.is_closed(), "{head}");
    }
    let mut raw = Raw::connect(gateway.address);
    raw.send("GET /healthz HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n");
    assert_eq!(raw.answer().0, 200);
    assert!(raw.is_closed());
    audit(gateway, &[&provider]).is_exact(2);
}

#[tokio::test]
async fn what_a_provider_says_before_its_answer_is_passed_over() {
    let answer = Script::json(r#"{"usage":{"prompt_tokens":1,"completion_tokens":1}}"#);
    let scripts = ["100 Continue", "102 Processing", "103 Early Hints"].map(|status| {
        let mut script = answer.clone();
        script.bytes = [format!("HTTP/1.1 {status}\r\n\r\n").as_bytes(), &script.bytes].concat().into();
        script
    });
    let count = scripts.len();
    let provider = Scripted::start(move |number| scripts[number % count].clone());
    let gateway = Gateway::start(&[Account::scripted(&provider)]);
    let customer = gateway.customer("25.00");
    for client in Client::both(&gateway, &customer) {
        for _ in 0..count {
            let answer = client.ask(&ask(&[])).await;
            assert_eq!(answer.status, 200, "{}", gateway.receipt(&answer.id()).await);
        }
    }
    assert_eq!(provider.seen().len(), 2 * count);
    audit(gateway, &[]).counts(2 * count, 0, 0);
}

#[tokio::test]
async fn a_provider_may_answer_in_the_other_form() {
    // Asked for a stream, some answer plain where that is all they can do.
    let provider = Scripted::always(Script::json(r#"{"usage":{"prompt_tokens":10,"completion_tokens":20}}"#));
    let gateway = Gateway::start(&[Account::scripted(&provider)]);
    let customer = gateway.customer("25.00");
    for client in Client::both(&gateway, &customer) {
        let answer = client.ask(&streamed(ask(&[]))).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
        assert_eq!(text(&gateway.receipt(&answer.id()).await["charge"]), "0.0000135");
    }
    audit(gateway, &[]).counts(2, 0, 0);
}

#[tokio::test]
async fn many_streams_share_one_connection() {
    let (provider, gateway, customer) = rich();
    let client = Client::h2(&gateway, &customer);
    let body = streamed(ask(&[("pace_ms", "5")]));
    let answers = futures_util::future::join_all((0..200).map(|_| client.ask(&body))).await;
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.text().ends_with("data: [DONE]\n\n")));
    audit(gateway, &[&provider]).is_exact(200);
}
