//! Money: what is charged is what was used, however the answer comes and however it ends.

use crate::support::books::audit_stopped;
use crate::support::gateway::text;
use crate::support::scripted::Then;
use crate::support::{
    Account, Answer, Client, Customer, Gateway, Script, Scripted, Simulated, ask, audit, slow_stream,
    streamed, text_of_stream,
};
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::io::Write;
use tollgate::meter::tokenizer;
use tollgate::money::Amount;
use tollgate::settle::price::Encoding;

fn start(on_hang_up: &str) -> (Simulated, Gateway, Customer) {
    let provider = Simulated::start();
    let account = Account::of(&provider).with(&format!("on_hang_up: {on_hang_up}"));
    let gateway = Gateway::start(&[account]);
    let customer = gateway.customer("25.00");
    (provider, gateway, customer)
}

fn charge(receipt: &Value) -> Amount {
    Amount::parse(&text(&receipt["charge"])).unwrap()
}

#[tokio::test]
async fn a_compressed_answer_is_metered_like_any_other() {
    let (provider, gateway, customer) = start("auto");
    for client in Client::both(&gateway, &customer) {
        for body in [ask(&[("encoding", "gzip")]), streamed(ask(&[("encoding", "gzip")]))] {
            let answer = client.ask(&body).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            assert!(answer.headers.get("content-encoding").is_none(), "{answer:?}");
            assert!(answer.text().contains("tok15"), "{answer:?}");
            assert_eq!(text(&gateway.receipt(&answer.id()).await["charge"]), "0.0000114");
        }
    }
    audit(gateway, &[&provider]).is_exact(4);
}

const PLAIN: &str =
    r#"{"choices":[{"message":{"content":"hi"}}],"usage":{"prompt_tokens":10,"completion_tokens":20}}"#;
const STREAM: &str = include_str!("../data/chat-stream-usage.sse");

fn compressed(encoding: &str, body: &str) -> Vec<u8> {
    let mut out = Vec::new();
    match encoding {
        "gzip" | "x-gzip" => {
            GzEncoder::new(&mut out, Compression::best()).write_all(body.as_bytes()).unwrap()
        }
        "deflate" => ZlibEncoder::new(&mut out, Compression::best()).write_all(body.as_bytes()).unwrap(),
        "br" => brotli::CompressorWriter::new(&mut out, 4096, 5, 20).write_all(body.as_bytes()).unwrap(),
        _ => out.extend_from_slice(body.as_bytes()),
    }
    out
}

#[tokio::test]
async fn every_encoding_that_a_provider_may_use_is_undone() {
    let encodings = ["gzip", "x-gzip", "deflate", "br", "identity", "GZIP"];
    let mut scripts = Vec::new();
    for encoding in encodings {
        for (kind, body) in [("application/json", PLAIN), ("text/event-stream", STREAM)] {
            let headers = format!("content-type: {kind}\r\ncontent-encoding: {encoding}\r\n");
            let body = compressed(&encoding.to_ascii_lowercase(), body);
            scripts.push(Script::answer("200 OK", &headers, body));
        }
    }
    let provider = Scripted::start(move |number| scripts[number].clone());
    let gateway = Gateway::start(&[Account::scripted(&provider)]);
    let customer = gateway.customer("25.00");
    let client = Client::h1(&gateway, &customer);
    for encoding in encodings {
        let plain = client.ask(&ask(&[])).await;
        assert_eq!((plain.status, plain.text().as_str()), (200, PLAIN), "{encoding}");
        // 10 x 0.15 + 20 x 0.60 for a million
        assert_eq!(plain.header("x-tollgate-charge"), "0.0000135");
        let mut body = streamed(ask(&[]));
        body["stream_options"] = json!({ "include_usage": true });
        let stream = client.ask(&body).await;
        assert_eq!((stream.status, stream.text().as_str()), (200, STREAM), "{encoding}");
        assert_eq!(gateway.receipt(&stream.id()).await["metered"], "reported");
    }
    assert_eq!(provider.seen().len(), 12);
    audit(gateway, &[]).counts(12, 0, 0);
}

#[tokio::test]
async fn each_class_of_tokens_is_charged_at_its_price() {
    let (provider, gateway, customer) = start("auto");
    let faults = [("tokens", "100"), ("reasoning_tokens", "1000"), ("cached_tokens", "5")];
    for client in Client::both(&gateway, &customer) {
        for body in [ask(&faults), streamed(ask(&faults))] {
            let mut body = body;
            body["model"] = json!("thinker");
            let answer = client.ask(&body).await;
            let receipt = gateway.receipt(&answer.id()).await;
            let usage =
                json!({"input": 7, "cached_input": 5, "cache_write": 0, "output": 100, "reasoning": 1000});
            assert_eq!(receipt["usage"], usage);
            // 7 x 1.25 + 5 x 0.125 + 100 x 10 + 1000 x 11 for a million
            assert_eq!(text(&receipt["charge"]), "0.012009375");
            assert_eq!(receipt["lines"].as_array().unwrap().len(), 4);
        }
    }
    gateway.settles_at(&customer, "24.9519625").await;
    audit(gateway, &[&provider]).is_exact(4);
}

#[tokio::test]
async fn all_choices_are_charged() {
    let (provider, gateway, customer) = start("auto");
    let client = Client::h1(&gateway, &customer);
    for mut body in [ask(&[("tokens", "7")]), streamed(ask(&[("tokens", "7")]))] {
        body["n"] = json!(5);
        let answer = client.ask(&body).await;
        assert_eq!(gateway.receipt(&answer.id()).await["usage"]["output"], 35);
    }
    audit(gateway, &[&provider]).is_exact(2);
}

/// Reads an answer that breaks off; gives its id and what came of it.
async fn read_cut(client: &Client, body: &Value) -> (String, String) {
    let mut response = client.chat(body.to_string()).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    let mut came = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => came.extend_from_slice(&chunk),
            Ok(None) => panic!("it ended as if it were whole: {}", String::from_utf8_lossy(&came)),
            Err(_) => return (id, String::from_utf8(came).unwrap()),
        }
    }
}

#[tokio::test]
async fn a_stream_that_is_cut_costs_what_was_delivered() {
    let (provider, gateway, customer) = start("auto");
    let mut cuts = 0;
    for client in Client::both(&gateway, &customer) {
        for after in ["1", "5", "15", "16"] {
            // Paced, so that what was sent has passed before the end is known.
            let body = streamed(ask(&[("cut_after_chunks", after), ("pace_ms", "20")]));
            let (id, came) = read_cut(&client, &body).await;
            let delivered = text_of_stream(&came);
            assert_eq!(delivered.split(' ').count().to_string(), after, "all that was sent arrived");
            let receipt = gateway.receipt(&id).await;
            assert_eq!(
                (text(&receipt["metered"]), text(&receipt["end"])),
                ("estimated".into(), "cut".into())
            );
            let output = tokenizer::count(Encoding::O200kBase, &delivered);
            let input = tokenizer::count_input(Encoding::O200kBase, body.to_string().as_bytes());
            assert_eq!(receipt["usage"]["output"], output, "{delivered}");
            assert_eq!(receipt["usage"]["input"], input);
            assert!(charge(&receipt) > Amount::ZERO);
            cuts += 1;
            // An account is shut by failures in a row.
            assert_eq!(client.ask(&ask(&[])).await.status, 200);
        }
    }
    assert_eq!(cuts, 8);
    audit(gateway, &[&provider]).counts(8, 8, 0);
}

#[tokio::test]
async fn a_stream_that_is_cut_before_any_text_is_free() {
    let empty = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 300\r\n\r\n";
    let role =
        r#"data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#;
    for bytes in [empty.to_owned(), format!("{empty}: hello\n\n"), format!("{empty}{role}\n\n")] {
        let provider = Scripted::always(Script::send(bytes).then(Then::Close));
        let gateway = Gateway::start(&[Account::scripted(&provider)]);
        let customer = gateway.customer("1.00");
        for client in Client::both(&gateway, &customer) {
            let response = client.chat(streamed(ask(&[])).to_string()).send().await.unwrap();
            // Either is honest: an error before the stream begins, or a stream that breaks.
            let status = response.status().as_u16();
            assert!(status == 503 || response.bytes().await.is_err(), "{status}");
        }
        gateway.settles_at(&customer, "1.00").await;
        audit(gateway, &[]).counts(0, 0, 2);
    }
}

#[tokio::test]
async fn an_error_in_the_middle_of_a_stream_costs_what_came_before_it() {
    let transcript = include_str!("../data/chat-stream-error-midway.sse");
    let provider = Scripted::always(Script::events(transcript));
    let gateway = Gateway::start(&[Account::scripted(&provider)]);
    let customer = gateway.customer("1.00");
    for client in Client::both(&gateway, &customer) {
        let answer = client.ask(&streamed(ask(&[]))).await;
        assert!(answer.text().contains("\"error\""), "the client is told: {answer:?}");
        let receipt = gateway.receipt(&answer.id()).await;
        assert_eq!((text(&receipt["metered"]), text(&receipt["end"])), ("estimated".into(), "cut".into()));
        let output = tokenizer::count(Encoding::O200kBase, &text_of_stream(&answer.text()));
        assert_eq!(receipt["usage"]["output"], output);
    }
    audit(gateway, &[]).counts(0, 2, 0);
}

#[tokio::test]
async fn a_balance_that_covers_100_of_500_serves_100() {
    let provider = Simulated::start();
    let gateway = Gateway::start(&[Account::of(&provider).with("limits: { concurrency: 1000 }")]);
    // 10 tokens at a cent: every hold is 0.10, and so is every charge.
    let customer = gateway.customer("10.05");
    let [h1, h2] = Client::both(&gateway, &customer);
    let mut body = ask(&[("tokens", "10"), ("latency_ms", "20")]);
    body["model"] = json!("counted");
    body["max_completion_tokens"] = json!(10);
    let requests = (0..500).map(|number| {
        let client = if number % 2 == 0 { &h1 } else { &h2 };
        let body = if number % 4 < 2 { body.clone() } else { streamed(body.clone()) };
        async move { client.ask(&body).await }
    });
    let answers: Vec<Answer> = join_all(requests).await;
    let count = |status| answers.iter().filter(|answer| answer.status == status).count();
    assert_eq!((count(200), count(402)), (100, 400));
    gateway.settles_at(&customer, "0.05").await;
    assert_eq!(provider.provider.log().len(), 100, "who cannot pay is not served");
    let audit = audit(gateway, &[&provider]);
    audit.is_exact(100);
    assert_eq!(audit.charged.to_string(), "10.00");
}

#[tokio::test]
async fn a_charge_above_its_hold_takes_the_balance_to_zero_and_no_further() {
    let (provider, gateway, _) = start("auto");
    let customer = gateway.customer("0.05");
    let mut body = ask(&[("tokens", "1"), ("reasoning_tokens", "10000")]);
    body["model"] = json!("thinker");
    body["max_completion_tokens"] = json!(1);
    let answer = Client::h1(&gateway, &customer).ask(&body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let receipt = gateway.receipt(&answer.id()).await;
    // 12 x 1.25 + 1 x 10 + 10000 x 11 for a million are due
    assert_eq!((text(&receipt["charge"]), text(&receipt["written_off"])), ("0.05".into(), "0.060025".into()));
    assert_eq!(answer.header("x-tollgate-charge"), "0.05", "what was taken, not what was due");
    gateway.settles_at(&customer, "0.00").await;
    Client::h1(&gateway, &customer).ask(&body).await.is_error(402, Some("insufficient_quota"));
    let audit = audit(gateway, &[&provider]);
    audit.is_exact(1);
    assert_eq!(audit.verified["written_off"], "0.060025");
}

#[tokio::test]
async fn a_charge_is_on_disk_before_the_last_byte_is_delivered() {
    let (provider, mut gateway, customer) = start("auto");
    let [h1, h2] = Client::both(&gateway, &customer);
    let mut answers = 0;
    for body in [ask(&[]), streamed(ask(&[]))] {
        for client in [&h1, &h2] {
            assert_eq!(client.ask(&body).await.status, 200);
            answers += 1;
        }
    }
    gateway.kill();
    assert_eq!(answers, 4);
    audit_stopped(&gateway, &[&provider]).is_exact(4);
}

#[tokio::test]
async fn requests_under_way_are_finished_and_charged_when_asked_to_stop() {
    let (provider, mut gateway, customer) = start("auto");
    let clients = Client::both(&gateway, &customer);
    let mut under_way = Vec::new();
    for client in clients {
        let mut response = client.chat(slow_stream("gpt-4o-mini").to_string()).send().await.unwrap();
        assert!(response.chunk().await.unwrap().is_some());
        under_way.push(response);
    }
    gateway.ask_to_stop();
    for mut response in under_way {
        let mut came = Vec::new();
        while let Some(chunk) = response.chunk().await.unwrap() {
            came.extend_from_slice(&chunk);
        }
        assert!(came.ends_with(b"data: [DONE]\n\n"));
    }
    assert_eq!(gateway.stopped().code(), Some(0));
    audit_stopped(&gateway, &[&provider]).is_exact(2);
}

#[tokio::test]
async fn what_was_held_when_the_machine_failed_is_not_charged() {
    let (provider, mut gateway, customer) = start("auto");
    let client = Client::h1(&gateway, &customer);
    assert_eq!(client.ask(&ask(&[])).await.status, 200);
    let mut response = client.chat(slow_stream("gpt-4o-mini").to_string()).send().await.unwrap();
    assert!(response.chunk().await.unwrap().is_some());
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    gateway.kill();
    let gateway = gateway.again();
    gateway.writes("released, not charged").await;
    let receipt = gateway.receipt(&id).await;
    assert_eq!((text(&receipt["status"]), text(&receipt["charge"])), ("expired".into(), "0.00".into()));
    gateway.settles_at(&customer, "24.9999886").await;
    assert_eq!(Client::h1(&gateway, &customer).ask(&ask(&[])).await.status, 200, "it goes on as before");
    audit(gateway, &[&provider]).counts(2, 0, 1);
}
