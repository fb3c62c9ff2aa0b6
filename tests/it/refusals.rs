//! Bad input from a client: each gets its status and its error object, costs nothing and leaves no
//! hold open.

use crate::support::client::{CHAT, Raw};
use crate::support::gateway::text;
use crate::support::scene::{scene, scene_with};
use crate::support::{Answer, Client, Settings, ask, eventually};
use bytes::Bytes;
use futures_util::stream;
use reqwest::Body;
use serde_json::{Value, json};
use std::convert::Infallible;

#[tokio::test]
async fn who_presents_no_good_key_is_not_let_in() {
    let scene = scene();
    let revoked = scene.gateway.admin_post("/keys", &json!({ "customer": scene.customer.id })).1;
    let (status, _) = scene.gateway.admin_post(&format!("/keys/{}/revoke", text(&revoked["id"])), &json!({}));
    assert_eq!(status, 200);
    for client in scene.clients() {
        let body = ask(&[]).to_string();
        let bare = Answer::read(client.request("POST", CHAT).body(body.clone())).await;
        bare.is_error(401, Some("invalid_api_key"));
        assert_eq!(bare.json()["error"]["type"], "invalid_request_error");
        let mut messages = Vec::new();
        for key in ["tg_live_0000000000000000000000000000000000000", "x", &text(&revoked["key"])] {
            let answer = client.with_key(key).ask(&ask(&[])).await;
            answer.is_error(401, Some("invalid_api_key"));
            messages.push(answer.json()["error"]["message"].clone());
        }
        messages.dedup();
        assert_eq!(messages.len(), 1, "unknown and revoked get the same answer");
        let basic = client.request("POST", CHAT).header("authorization", "Basic YTpi").body(body);
        Answer::read(basic).await.is_error(401, Some("invalid_api_key"));
    }
    scene.cost_nothing(0).await;
}

#[tokio::test]
async fn what_is_not_a_request_is_refused_with_its_reason() {
    let scene = scene();
    let messages = r#""messages":[{"role":"user","content":"hi"}]"#;
    let model = r#""model":"gpt-4o-mini""#;
    let cases: Vec<(String, Option<&str>)> = vec![
        ("".into(), None),
        ("{".into(), None),
        ("null".into(), None),
        ("[]".into(), None),
        ("\"text\"".into(), None),
        (format!("{{{model},{messages}}} x"), None),
        (format!("{{{model},{messages},}}"), None),
        (format!("{{{model},{model},{messages}}}"), None),
        (format!("{{{model},{messages},\"m\\u006fdel\":\"gpt-4o\"}}"), None),
        (format!("{{{model},{messages},\"stream\":false,\"stream\":true}}"), None),
        (format!("{{{messages}}}"), Some("model")),
        (format!("{{\"model\":7,{messages}}}"), Some("model")),
        (format!("{{\"model\":null,{messages}}}"), Some("model")),
        (format!("{{{model}}}"), Some("messages")),
        (format!("{{{model},\"messages\":\"hi\"}}"), Some("messages")),
        (format!("{{{model},{messages},\"stream\":\"yes\"}}"), Some("stream")),
        (format!("{{{model},{messages},\"stream\":1}}"), Some("stream")),
        (format!("{{{model},{messages},\"stream\":true,\"stream_options\":7}}"), Some("stream_options")),
        (format!("{{{model},{messages},\"max_tokens\":0}}"), Some("max_tokens")),
        (format!("{{{model},{messages},\"max_tokens\":-1}}"), Some("max_tokens")),
        (format!("{{{model},{messages},\"max_tokens\":1.5}}"), Some("max_tokens")),
        (format!("{{{model},{messages},\"max_completion_tokens\":\"9\"}}"), Some("max_completion_tokens")),
        (format!("{{{model},{messages},\"n\":0}}"), Some("n")),
        (format!("{{{model},{messages},\"n\":129}}"), Some("n")),
        (format!("{{{model},{messages},\"n\":1e2}}"), Some("n")),
        (format!("{{{model},{messages},\"service_tier\":\"priority\"}}"), Some("service_tier")),
        (format!("{{{model},{messages},\"service_tier\":\"flex\"}}"), Some("service_tier")),
        (format!("{{{model},{messages},\"service_tier\":7}}"), Some("service_tier")),
        (format!("{{{model},{messages},\"modalities\":[\"audio\"]}}"), Some("audio")),
        (format!("{{{model},{messages},\"web_search_options\":{{}}}}"), Some("web_search_options")),
    ];
    for client in scene.clients() {
        for (body, param) in &cases {
            let answer = Answer::read(client.chat(body.clone())).await;
            answer.is_error(400, None);
            assert_eq!(answer.json()["error"]["param"].as_str(), *param, "{body}");
            assert_eq!(answer.header("x-should-retry"), "false");
        }
        let binary = Answer::read(client.chat(&b"{\"model\":\"\xff\xfe\"}"[..])).await;
        binary.is_error(400, None);
    }
    scene.cost_nothing(0).await;
}

#[tokio::test]
async fn what_is_not_sold_is_not_passed_through() {
    let scene = scene();
    for client in scene.clients() {
        for model in ["gpt-9", "unserved", "", "gpt-4o-mini ", "GPT-4O-MINI", "\u{0}", "../gpt-4o"] {
            let answer = client.ask(&json!({ "model": model, "messages": [] })).await;
            answer.is_error(404, Some("model_not_found"));
            assert_eq!(answer.json()["error"]["param"], "model");
        }
        for (method, path) in [
            ("POST", "/v1/images/variations"),
            ("POST", "/v1/embeddings/"),
            ("POST", "/v1/chat/completions/"),
            ("POST", "//v1/chat/completions"),
            ("GET", "/v1"),
            ("GET", "/v2/models"),
            ("GET", "/metrics"),
            ("GET", "/admin/v1/customers"),
            ("GET", "/tollgate/v1/nothing"),
        ] {
            let request = client.request(method, path).bearer_auth(&scene.customer.key);
            let answer = Answer::read(request.body(ask(&[]).to_string())).await;
            answer.is_error(404, None);
        }
        for (method, path, allow) in [
            ("GET", CHAT, "POST"),
            ("PUT", CHAT, "POST"),
            ("DELETE", CHAT, "POST"),
            ("POST", "/v1/models", "GET"),
            ("POST", "/healthz", "GET"),
            ("POST", "/", "GET"),
            ("DELETE", "/v1/models/gpt-4o", "GET"),
        ] {
            let answer = Answer::read(client.request(method, path).bearer_auth(&scene.customer.key)).await;
            answer.is_error(405, None);
            assert_eq!(answer.header("allow"), allow);
        }
    }
    scene.cost_nothing(0).await;
}

#[tokio::test]
async fn a_balance_that_does_not_reach_is_told_so() {
    let scene = scene();
    let (poor, nearly) = (scene.gateway.customer("0"), scene.gateway.customer("0.1599999"));
    let body = json!({ "model": "counted", "messages": [], "max_completion_tokens": 16 });
    for customer in [&poor, &nearly] {
        for client in Client::both(&scene.gateway, customer) {
            let answer = client.ask(&body).await;
            answer.is_error(402, Some("insufficient_quota"));
            assert_eq!(answer.json()["error"]["type"], "insufficient_quota");
            assert_eq!(answer.header("x-should-retry"), "false");
            let message = text(&answer.json()["error"]["message"]);
            assert!(message.contains("0.16 USD"), "{message}");
        }
    }
    scene.gateway.settles_at(&nearly, "0.1599999").await;
    scene.cost_nothing(0).await;
}

fn pieces(bytes: usize) -> Body {
    let piece = Bytes::from(vec![b' '; 16 * 1024]);
    Body::wrap_stream(stream::iter((0..bytes / piece.len()).map(move |_| Ok::<_, Infallible>(piece.clone()))))
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_in_every_framing() {
    let scene = scene_with(&Settings { gateway: ", body_bytes_max: 65536", ..Settings::default() });
    // More than fits into the buffers of a connection: the client is still sending when it is refused.
    let large = 8 * 1024 * 1024;
    for client in scene.clients() {
        for body in [Body::from(vec![b' '; 65_537]), pieces(large), Body::from(vec![b' '; large])] {
            let answer = Answer::read(client.chat(body)).await;
            answer.is_error(413, Some("request_too_large"));
        }
        let fits = Answer::read(client.chat(vec![b' '; 65_536])).await;
        fits.is_error(400, None);
    }
    // Who asks first is spared sending it.
    let mut raw = Raw::connect(scene.gateway.address);
    let head = "content-length: 65537\r\nexpect: 100-continue\r\n";
    raw.send(Raw::head(&scene.customer, head));
    assert_eq!(raw.answer().0, 413);
    scene.cost_nothing(0).await;
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    let scene = scene();
    for client in scene.clients() {
        let sending = || pieces(16 * 1024 * 1024);
        let wrong = Answer::read(client.with_key("tg_live_wrong").chat(sending())).await;
        wrong.is_error(401, Some("invalid_api_key"));
        let elsewhere = client.request("POST", "/v1/uploads").body(sending());
        Answer::read(elsewhere).await.is_error(404, None);
    }
    scene.cost_nothing(0).await;
}

#[tokio::test]
async fn a_body_that_is_framed_wrongly_is_told_so_and_the_connection_closed() {
    let scene = scene();
    for chunk in ["zz\r\n{}\r\n", "-2\r\n{}\r\n", "2\r\n{}xx", "ffffffffffffffff\r\n{}\r\n"] {
        let mut raw = Raw::connect(scene.gateway.address);
        raw.send(Raw::head(&scene.customer, "transfer-encoding: chunked\r\n"));
        raw.send(chunk);
        let (status, _, body) = raw.answer();
        assert_eq!(status, 400, "{chunk:?}");
        assert!(String::from_utf8(body).unwrap().contains("not framed"), "{chunk:?}");
        assert!(raw.is_closed(), "{chunk:?}");
    }
    scene.cost_nothing(0).await;
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let scene = scene_with(&Settings { gateway: ", body_timeout_ms: 200", ..Settings::default() });
    let mut raw = Raw::connect(scene.gateway.address);
    raw.send(Raw::head(&scene.customer, "content-length: 100\r\n"));
    raw.send("{");
    let (status, _, body) = raw.answer();
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, body["error"]["code"].as_str()), (408, Some("request_timeout")));
    assert!(raw.is_closed());
    scene.cost_nothing(0).await;
}

#[tokio::test]
async fn a_client_that_goes_while_it_sends_costs_nothing() {
    let scene = scene();
    for framing in ["content-length: 1000000\r\n", "transfer-encoding: chunked\r\n"] {
        for _ in 0..10 {
            let mut raw = Raw::connect(scene.gateway.address);
            raw.send(Raw::head(&scene.customer, framing));
            raw.send("100\r\n{\"model\":");
        }
    }
    eventually("none is in flight", || {
        let scrape = scene.gateway.scrape();
        let counted = r#"tollgate_requests_total{endpoint="chat.completions""#;
        (scrape.contains("tollgate_in_flight 0") && scrape.contains(counted)).then_some(())
    })
    .await;
    assert_eq!(scene.clients()[0].ask(&ask(&[("status", "400")])).await.status, 400);
    scene.cost_nothing(1).await;
}

#[tokio::test]
async fn bodies_are_held_in_memory_up_to_a_bound() {
    let settings = Settings {
        gateway: ", body_bytes_max: 1048576, body_bytes_total_max: 1048576",
        ..Settings::default()
    };
    let scene = scene_with(&settings);
    let [h1, h2] = scene.clients();
    let sent = || vec![b' '; 1_000_000];
    // Which of two overflows is who comes second: begin again until that is not the one that waits.
    let mut refused = None;
    let mut waiting = None;
    for _ in 0..50 {
        let waits = waiting.insert(Raw::connect(scene.gateway.address));
        waits.send(Raw::head(&scene.customer, "content-length: 1048576\r\n"));
        waits.send(vec![b' '; 900_000]);
        let answers = [Answer::read(h1.chat(sent())).await, Answer::read(h1.chat(sent())).await];
        if answers[1].status == 503 {
            refused = Some(answers);
            break;
        }
    }
    let [_, refused] = refused.expect("more than the bound was held");
    refused.is_error(503, Some("overloaded"));
    Answer::read(h2.chat(sent())).await.is_error(503, Some("overloaded"));
    drop(waiting);
    eventually("what waited is gone", || {
        scene.gateway.scrape().contains("tollgate_in_flight 0").then_some(())
    })
    .await;
    Answer::read(h2.chat(sent())).await.is_error(400, None);
    scene.cost_nothing(0).await;
}

#[tokio::test]
async fn nothing_is_tunnelled() {
    let scene = scene();
    for path in [CHAT, "/v1/realtime", "/tollgate/v1"] {
        let mut raw = Raw::connect(scene.gateway.address);
        let body = ask(&[("status", "400")]).to_string();
        raw.send(format!(
            "GET {path} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {}\r\nconnection: upgrade\r\n\
             upgrade: websocket\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            scene.customer.key
        ));
        let (status, _, _) = raw.answer();
        assert!([404, 405].contains(&status), "{path}: {status}");
        let mut raw = Raw::connect(scene.gateway.address);
        let headers = "connection: upgrade\r\nupgrade: h2c\r\n";
        let length = format!("{headers}content-length: {}\r\n", body.len());
        raw.send(Raw::head(&scene.customer, &length));
        raw.send(&body);
        let (status, head, _) = raw.answer();
        assert_eq!(status, 400, "{head}");
    }
    let attempts = scene.provider.provider.log().len();
    scene.cost_nothing(attempts).await;
}
