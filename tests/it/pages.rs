//! Pages in browsers: who may call, and what they may read of an answer.

use crate::support::scene::{Scene, scene, scene_with};
use crate::support::{Account, Answer, Client, Gateway, Script, Scripted, Settings, ask, audit, streamed};
use http::HeaderMap;
use serde_json::json;

const APP: &str = "https://app.example";
/// What the official client of Node.js asks for.
const ASKED: &str = "authorization,content-type,x-stainless-arch,x-stainless-lang,x-stainless-retry-count";

async fn preflight(client: &Client, path: &str, origin: &str) -> Answer {
    let asks = client.request("OPTIONS", path).header("origin", origin);
    let asks = asks.header("access-control-request-method", "POST");
    Answer::read(asks.header("access-control-request-headers", ASKED)).await
}

/// What a browser holds against the origin of a page.
fn allowed(headers: &HeaderMap) -> Option<&str> {
    headers.get("access-control-allow-origin").map(|value| value.to_str().unwrap())
}

/// Answers of each kind to a page of this origin: served, streamed, looked at, and refused.
async fn answers(scene: &Scene, client: &Client, origin: &str) -> Vec<Answer> {
    let with = |key: &str, path: &str| client.request("GET", path).bearer_auth(key).header("origin", origin);
    let key = &*scene.customer.key;
    let mut answers = Vec::new();
    for body in [ask(&[]), streamed(ask(&[])), json!({ "model": "gpt-9", "messages": [] })] {
        answers.push(Answer::read(client.chat(body.to_string()).header("origin", origin)).await);
    }
    for (key, path) in
        [(key, "/v1/models"), (key, "/tollgate/v1/usage"), ("wrong", "/v1/models"), (key, "/v2")]
    {
        answers.push(Answer::read(with(key, path)).await);
    }
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [200, 200, 404, 200, 200, 401, 404]);
    answers
}

#[tokio::test]
async fn a_page_in_a_browser_may_call() {
    let scene = scene();
    for client in scene.clients() {
        for path in ["/v1/chat/completions", "/v1/models", "/tollgate/v1/usage", "/dashboard/billing/usage"] {
            let answer = preflight(&client, path, APP).await;
            assert_eq!((answer.status, allowed(&answer.headers)), (204, Some("*")), "{answer:?}");
            assert_eq!(answer.header("access-control-allow-methods"), "GET, HEAD, POST, DELETE, OPTIONS");
            assert_eq!(answer.header("access-control-allow-headers"), ASKED);
            assert_eq!(answer.header("access-control-max-age"), "86400");
        }
        preflight(&client, "/admin/v1/customers", APP).await.is_error(404, None);
        for answer in answers(&scene, &client, APP).await {
            assert_eq!(allowed(&answer.headers), Some("*"), "{answer:?}");
            assert!(!answer.headers.contains_key("access-control-allow-credentials"));
            let exposed: Vec<&str> = answer.header("access-control-expose-headers").split(", ").collect();
            for name in ["x-request-id", "x-tollgate-charge", "x-ratelimit-remaining-tokens", "retry-after"] {
                assert!(exposed.contains(&name), "{exposed:?}");
            }
        }
        let other = client.get("/v1/models").await;
        assert_eq!(allowed(&other.headers), Some("*"), "it need not say that it is a page");
    }
    audit(scene.gateway, &[&scene.provider]).is_exact(4);
}

#[tokio::test]
async fn only_pages_of_listed_origins_may_call() {
    let gateway = r#", cors_origins: ["https://app.example", "http://localhost:3000"]"#;
    let scene = scene_with(&Settings { gateway, ..Settings::default() });
    let client = &scene.clients()[0];
    for (origin, expect) in [(APP, Some(APP)), ("https://evil.example", None), ("null", None)] {
        let answer = preflight(client, "/v1/chat/completions", origin).await;
        assert_eq!((answer.status, allowed(&answer.headers)), (204, expect), "{answer:?}");
        assert_eq!(answer.headers.contains_key("access-control-allow-headers"), expect.is_some());
        for answer in answers(&scene, client, origin).await {
            assert_eq!((allowed(&answer.headers), answer.header("vary")), (expect, "origin"), "{answer:?}");
        }
    }
    audit(scene.gateway, &[&scene.provider]).is_exact(6);

    let scene = scene_with(&Settings { gateway: ", cors_origins: []", ..Settings::default() });
    let client = &scene.clients()[0];
    preflight(client, "/v1/chat/completions", APP).await.is_error(405, None);
    for answer in answers(&scene, client, APP).await {
        assert_eq!((allowed(&answer.headers), answer.headers.get("vary")), (None, None), "{answer:?}");
    }
    audit(scene.gateway, &[&scene.provider]).is_exact(2);
}

#[tokio::test]
async fn what_a_provider_says_about_pages_does_not_pass() {
    let body = r#"{"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
    let theirs = "access-control-allow-origin: https://evil.example\r\naccess-control-allow-credentials: true\r\n\
                  access-control-expose-headers: openai-organization\r\nvary: cookie\r\ncontent-type: application/json\r\n";
    let provider = Scripted::always(Script::answer("200 OK", theirs, body));
    let gateway = Gateway::start(&[Account::scripted(&provider)]);
    let customer = gateway.customer("1.00");
    let client = Client::h1(&gateway, &customer);
    let answer = Answer::read(client.chat(ask(&[]).to_string()).header("origin", APP)).await;
    assert_eq!((answer.status, allowed(&answer.headers)), (200, Some("*")));
    assert!(!answer.headers.contains_key("access-control-allow-credentials"), "{answer:?}");
    assert!(!format!("{:?}", answer.headers).contains("organization"), "{answer:?}");
    assert!(!answer.headers.contains_key("vary"), "{answer:?}");
}
