//! Bad answers from a provider: each is told in our words or estimated, and costs what it is worth.

use crate::support::gateway::text;
use crate::support::scene::{Scene, scene};
use crate::support::scripted::Then;
use crate::support::{Account, Answer, Client, Gateway, Script, Scripted, ask, audit, streamed};
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

/// An address that nobody listens on, as long as the listener lives: its port is taken, on another
/// address of this machine.
fn nobody() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 201, 3, 7)), port))
}

#[tokio::test]
async fn a_provider_that_is_down_is_a_503() {
    let (_taken, address) = nobody();
    let gateway = Gateway::start(&[Account::new("down", address)]);
    let customer = gateway.customer("1.00");
    let mut asked = 0;
    for client in Client::both(&gateway, &customer) {
        for body in [ask(&[]), streamed(ask(&[]))] {
            let answer = client.ask(&body).await;
            answer.is_error(503, Some("upstream_unavailable"));
            assert!(answer.header("retry-after").parse::<u64>().is_ok());
            assert_eq!(answer.header("x-should-retry"), "true");
            let receipt = gateway.receipt(&answer.id()).await;
            assert_eq!(receipt["attempts"][0]["outcome"], "connect", "{receipt}");
            assert_eq!(
                (text(&receipt["status"]), text(&receipt["charge"])),
                ("released".into(), "0.00".into())
            );
            asked += 1;
        }
    }
    gateway.settles_at(&customer, "1.00").await;
    audit(gateway, &[]).counts(0, 0, asked);
}

#[tokio::test]
async fn what_is_no_answer_is_a_503_and_free() {
    for garbage in ["html", "truncated", "empty"] {
        // A gateway each: a few failures in a row shut an account.
        let scene = scene();
        for client in scene.clients() {
            for body in [ask(&[("garbage", garbage)]), streamed(ask(&[("garbage", garbage)]))] {
                let answer = client.ask(&body).await;
                answer.is_error(503, Some("upstream_unavailable"));
                let receipt = scene.gateway.receipt(&answer.id()).await;
                assert_eq!(text(&receipt["charge"]), "0.00", "{receipt}");
                assert_eq!(receipt["attempts"][0]["outcome"], "broken", "{receipt}");
            }
            let good = client.ask(&json!({ "model": "counted", "messages": [{}], "max_tokens": 1 })).await;
            assert_eq!(good.status, 200, "{good:?}");
        }
        scene.gateway.settles_at(&scene.customer, "0.98").await;
        let Scene { gateway, provider, .. } = scene;
        let audit = audit(gateway, &[&provider]);
        audit.counts(2, 0, 4);
        assert_eq!(audit.unpaid, 4, "what we could not read is not charged");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_before_its_end_is_a_503_and_free() {
    let whole =
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 300\r\n\r\n{\"choices\":[]";
    let cut = |bytes: &str| Script::send(bytes).then(Then::Close);
    let scripts = [
        cut(""),
        cut("HTTP/1.1 2"),
        cut("HTTP/1.1 200 OK\r\ncontent-type: appl"),
        cut("HTTP/1.1 200 OK\r\ncontent-length: 300\r\n\r\n"),
        cut(whole),
        cut("not HTTP at all\r\n\r\n"),
        Script::answer("204 No Content", "", ""),
        Script::answer("302 Found", "location: https://evil.example/\r\n", ""),
        Script::answer("200 OK", "content-encoding: zstd\r\n", "{}"),
        Script::answer("200 OK", "content-encoding: gzip\r\n", "{\"usage\":{}}"),
        Script::answer("200 OK", "content-encoding: gzip, gzip\r\n", "{}"),
        Script::json(r#"{"error":{"message":"org-SECRETORG has no quota","code":"x"}}"#),
        Script::json("[]"),
        Script::json("null"),
    ];
    for script in scripts {
        let shown = String::from_utf8_lossy(&script.bytes).into_owned();
        // A gateway each: a shut account would hide what the next does.
        let provider = Scripted::always(script);
        let gateway = Gateway::start(&[Account::scripted(&provider)]);
        let customer = gateway.customer("1.00");
        let client = Client::h1(&gateway, &customer);
        for body in [ask(&[]), streamed(ask(&[]))] {
            let answer = client.ask(&body).await;
            assert_eq!(answer.status, 503, "{shown:?}: {answer:?}");
            answer.is_error(503, Some("upstream_unavailable"));
            assert!(!answer.text().contains("SECRETORG"));
        }
        assert!(provider.seen().len() >= 2, "{shown:?}");
        gateway.settles_at(&customer, "1.00").await;
    }
}

#[tokio::test]
async fn an_accounts_own_trouble_is_never_the_callers() {
    for (status, code, expected) in [
        ("401", "", "upstream_unavailable"),
        ("402", "", "upstream_unavailable"),
        ("403", "", "upstream_unavailable"),
        ("429", "", "overloaded"),
        ("429", "insufficient_quota", "upstream_unavailable"),
        ("500", "", "upstream_unavailable"),
        ("502", "", "upstream_unavailable"),
        ("503", "", "upstream_unavailable"),
        ("529", "", "upstream_unavailable"),
    ] {
        // A gateway each: some of these shut the account at once.
        let scene = scene();
        let mut faults = vec![("status", status)];
        if !code.is_empty() {
            faults.push(("code", code));
        }
        let [h1, h2] = scene.clients();
        let answers = [h1.ask(&ask(&faults)).await, h2.ask(&streamed(ask(&faults))).await];
        answers[0].is_error(503, Some(expected));
        for answer in &answers {
            assert_eq!(answer.status, 503, "{answer:?}");
            assert!(answer.header("retry-after").parse::<u64>().is_ok());
            let whole = format!("{:?}{}", answer.headers, answer.text());
            for secret in ["SECRETORG", "sk-up", "****", "first", "platform.openai.com", "Country"] {
                assert!(!whole.contains(secret), "{secret}: {whole}");
            }
        }
        let receipt = scene.gateway.receipt(&answers[0].id()).await;
        assert_eq!(receipt["attempts"][0]["status"].to_string(), status, "{receipt}");
        assert_eq!(text(&receipt["charge"]), "0.00");
        let attempts = scene.provider.provider.log().len();
        assert!(attempts >= 1);
        scene.cost_nothing(attempts).await;
    }
}

#[tokio::test]
async fn a_request_that_the_provider_finds_wrong_is_told_so_and_free() {
    let scene = scene();
    let mut attempts = 0;
    for client in scene.clients() {
        for status in ["400", "413", "415", "422"] {
            for body in [ask(&[("status", status)]), streamed(ask(&[("status", status)]))] {
                let answer = client.ask(&body).await;
                assert_eq!(answer.status.to_string(), status);
                assert_eq!(answer.json()["error"]["message"], "The request was refused as simulated.");
                assert_eq!(answer.id(), gateway_id(&scene, &answer).await);
                attempts += 1;
            }
        }
        let empty = client.ask(&json!({ "model": "gpt-4o-mini", "messages": [] })).await;
        assert_eq!((empty.status, empty.json()["error"]["code"].as_str()), (400, Some("empty_array")));
        attempts += 1;
    }
    assert_eq!(attempts, 18);
    scene.cost_nothing(attempts).await;
}

async fn gateway_id(scene: &Scene, answer: &Answer) -> String {
    let receipt = scene.gateway.receipt(&answer.id()).await;
    assert_eq!((text(&receipt["end"]), text(&receipt["charge"])), ("refused".into(), "0.00".into()));
    text(&receipt["request_id"])
}

#[tokio::test]
async fn a_provider_that_does_not_answer_in_time_is_a_504() {
    let provider = Scripted::always(Script::send("").then(Then::Silence));
    let halfway = Scripted::always(
        Script::send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{\"a\":").then(Then::Silence),
    );
    for provider in [provider, halfway] {
        let account = Account::scripted(&provider).with("timeouts: { silence_ms: 200 }");
        let gateway = Gateway::start(&[account]);
        let customer = gateway.customer("1.00");
        for client in Client::both(&gateway, &customer) {
            let answer = client.ask(&ask(&[])).await;
            answer.is_error(504, Some("upstream_timeout"));
            let receipt = gateway.receipt(&answer.id()).await;
            assert_eq!(receipt["attempts"][0]["outcome"], "timeout");
        }
        gateway.settles_at(&customer, "1.00").await;
        audit(gateway, &[]).counts(0, 0, 2);
    }
}

/// A provider that falls silent in the middle of an answer is not waited for beyond the time for all of it.
#[tokio::test]
async fn an_answer_that_falls_silent_ends_when_its_time_is_over() {
    let event = r#"data: {"choices":[{"index":0,"delta":{"content":"hello"},"finish_reason":null}]}"#;
    let begun = |kind: &str, body: &str| {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: 99999\r\n\r\n");
        Scripted::always(Script::send(format!("{head}{body}\n\n")).then(Then::Silence))
    };
    let (stream, plain) = (begun("text/event-stream", event), begun("application/json", "{"));
    let timeouts = "timeouts: { silence_ms: 600000, total_ms: 500 }";
    let accounts = [
        Account::new("stream", stream.address).models("[gpt-4o-mini]").with(timeouts),
        Account::new("plain", plain.address).models("[gpt-4o]").with(timeouts),
    ];
    let gateway = Gateway::start(&accounts);
    let customer = gateway.customer("1.00");
    for client in Client::both(&gateway, &customer) {
        let begun = Instant::now();
        let mut cut = client.chat(streamed(ask(&[])).to_string()).send().await.unwrap();
        let id = cut.headers()["x-request-id"].to_str().unwrap().to_owned();
        assert!(cut.chunk().await.unwrap().unwrap().starts_with(b"data: "));
        assert!(cut.chunk().await.is_err(), "it is cut");
        let mut body = ask(&[]);
        body["model"] = json!("gpt-4o");
        client.ask(&body).await.is_error(504, Some("upstream_timeout"));
        let took = begun.elapsed();
        assert!((Duration::from_secs(1)..Duration::from_secs(20)).contains(&took), "{took:?}");
        let receipt = gateway.receipt(&id).await;
        assert_eq!((text(&receipt["end"]), text(&receipt["metered"])), ("cut".into(), "estimated".into()));
    }
    audit(gateway, &[]).counts(0, 2, 2);
}

#[tokio::test]
async fn a_usage_that_cannot_be_true_is_estimated_and_flagged() {
    let scene = scene();
    let mut charged = 0;
    for client in scene.clients() {
        for usage in ["negative", "absurd", "string", "missing"] {
            for body in [ask(&[("usage", usage)]), streamed(ask(&[("usage", usage)]))] {
                let answer = client.ask(&body).await;
                assert_eq!(answer.status, 200, "{answer:?}");
                let receipt = scene.gateway.receipt(&answer.id()).await;
                assert_eq!(text(&receipt["metered"]), "estimated", "{usage}: {receipt}");
                assert_eq!(receipt["encoding"], "o200k_base");
                // `tok0` is two tokens; a report of the provider's would be 12 and 16.
                let [input, output] =
                    ["input", "output"].map(|class| receipt["usage"][class].as_u64().unwrap());
                assert!((8..=20).contains(&input) && (16..=64).contains(&output), "{usage}: {receipt}");
                charged += 1;
            }
        }
    }
    assert_eq!(charged, 16);
    let Scene { gateway, provider, .. } = scene;
    audit(gateway, &[&provider]).counts(0, 16, 0);
}

#[tokio::test]
async fn a_zero_that_is_reported_is_a_zero() {
    let scene = scene();
    let [client, _] = scene.clients();
    let answer = client.ask(&ask(&[("usage", "zero")])).await;
    let receipt = scene.gateway.receipt(&answer.id()).await;
    assert_eq!((text(&receipt["metered"]), text(&receipt["charge"])), ("reported".into(), "0.00".into()));
    assert_eq!(answer.header("x-tollgate-charge"), "0.00");
    scene.gateway.settles_at(&scene.customer, "1.00").await;
}

#[tokio::test]
async fn a_model_that_no_account_knows_is_told_so_and_free() {
    let scene = scene();
    let mut attempts = Vec::new();
    for client in scene.clients() {
        let answer = client.ask(&ask(&[("status", "404")])).await;
        answer.is_error(404, Some("model_not_found"));
        attempts.push(scene.gateway.receipt(&answer.id()).await["attempts"].clone());
    }
    // The account is not asked for that model again so soon.
    assert_eq!((&attempts[0][0]["outcome"], &attempts[1]), (&json!("model"), &json!([])));
    scene.cost_nothing(1).await;
}

#[tokio::test]
async fn a_refusal_of_the_provider_is_uncompressed() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let error = r#"{"error":{"message":"no","type":"invalid_request_error","param":null,"code":null}}"#;
    std::io::Write::write_all(&mut gzip, error.as_bytes()).unwrap();
    let headers = "content-type: application/json\r\ncontent-encoding: gzip\r\n";
    let provider = Scripted::always(Script::answer("422 Unprocessable", headers, gzip.finish().unwrap()));
    let gateway = Gateway::start(&[Account::scripted(&provider)]);
    let customer = gateway.customer("1.00");
    for client in Client::both(&gateway, &customer) {
        for body in [ask(&[]), streamed(ask(&[]))] {
            let answer = client.ask(&body).await;
            answer.is_error(422, None);
            assert!(answer.headers.get("content-encoding").is_none());
        }
    }
    gateway.settles_at(&customer, "1.00").await;
}
