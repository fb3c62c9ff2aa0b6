//! Azure as the provider: deployments, its header for the credential, its limits and its own first event.

use crate::support::client::CHAT;
use crate::support::gateway::text;
use crate::support::{
    Account, Answer, Client, Gateway, Script, Scripted, Simulated, ask, audit, event_stream, eventually,
    streamed,
};
use serde_json::{Value, json};
use tollgate::simulate::Options;

/// Its older paths, which name the deployment and a version.
fn dated(name: &str, provider: &Simulated) -> Account {
    Account::new(name, provider.address)
        .at(format!("http://{}/openai", provider.address))
        .models("{ gpt-4o-mini: mini-eu, embedder: embed, whisper-1: whisper, painter: painter }")
        .with("dialect: azure, api_version: \"2024-10-21\"")
}

/// Those as OpenAI has them.
fn v1(name: &str, provider: &Simulated) -> Account {
    Account::new(name, provider.address)
        .at(format!("http://{}/openai/v1", provider.address))
        .models("{ gpt-4o: large-eu }")
        .with("dialect: azure")
}

#[tokio::test]
async fn deployments_serve_what_is_sold_and_are_charged_exactly() {
    let provider = Simulated::start_with(Options {
        credentials: vec!["sk-upstream-dated".into(), "sk-upstream-new".into()],
        ..Options::default()
    });
    let gateway = Gateway::start(&[dated("dated", &provider), v1("new", &provider)]);
    let customer = gateway.customer("25.00");
    let mut asked_for_usage = streamed(ask(&[]));
    asked_for_usage["stream_options"] = json!({ "include_usage": true });
    let paths = |endpoint: &str| {
        let deployed = format!("/openai/deployments/mini-eu{endpoint}");
        [("gpt-4o-mini", deployed), ("gpt-4o", format!("/openai/v1{endpoint}"))]
    };
    let mut served = 0;
    for client in Client::both(&gateway, &customer) {
        for body in [ask(&[]), streamed(ask(&[])), asked_for_usage.clone()] {
            for (model, path) in paths("/chat/completions") {
                let mut body = body.clone();
                body["model"] = json!(model);
                let answer = client.ask(&body).await;
                assert_eq!(answer.status, 200, "{answer:?}");
                let log = provider.served(&answer.id());
                assert_eq!((log[0].path.as_str(), log.len()), (path.as_str(), 1));
                for name in ["apim-request-id", "x-ms-region", "x-ms-deployment-name"] {
                    assert!(answer.headers.get(name).is_none(), "{answer:?}");
                }
                if body["stream"] == true {
                    let text = answer.text();
                    let first: Value = serde_json::from_str(event_stream(&text)[0]).unwrap();
                    assert_eq!(first["choices"], json!([]), "{text}");
                    assert!(first["prompt_filter_results"].is_array(), "{text}");
                    let told = text.contains("\"prompt_tokens\"");
                    assert_eq!(told, !body["stream_options"].is_null(), "{text}");
                } else {
                    assert!(answer.json()["prompt_filter_results"].is_array());
                }
                served += 1;
            }
        }
        let responses = json!({ "model": "gpt-4o-mini", "input": "Once" });
        let answer = Answer::read(client.post("/v1/responses", responses.to_string())).await;
        assert_eq!((answer.status, &*provider.served(&answer.id())[0].path), (200, "/openai/responses"));
        let embeddings = json!({ "model": "embedder", "input": "Once" });
        let answer = Answer::read(client.post("/v1/embeddings", embeddings.to_string())).await;
        let path = &*provider.served(&answer.id())[0].path;
        assert_eq!((answer.status, path), (200, "/openai/deployments/embed/embeddings"));
        let moderation = json!({ "input": "Once" });
        let answer = Answer::read(client.post("/v1/moderations", moderation.to_string())).await;
        answer.is_error(404, Some("model_not_found"));
        served += 2;
    }
    audit(gateway, &[&provider]).is_exact(served);
}

#[tokio::test]
async fn its_limits_are_read_in_its_own_form() {
    let limited = Options { requests_per_minute: Some(4), ..Options::default() };
    let (small, large) = (Simulated::start_with(limited), Simulated::start());
    let gateway = Gateway::start(&[dated("small", &small).with("weight: 1000"), dated("large", &large)]);
    let customer = gateway.customer("1.00");
    for client in Client::both(&gateway, &customer) {
        for _ in 0..6 {
            assert_eq!(client.ask(&ask(&[])).await.status, 200);
        }
    }
    assert_eq!(small.provider.log().len(), 4, "used up, and not a request more");
    assert!(large.provider.log().iter().all(|served| served.status == 200));
    audit(gateway, &[&small, &large]).is_exact(12);
}

#[tokio::test]
async fn its_credential_goes_where_it_looks_and_a_check_is_free() {
    let provider = Scripted::by_request(|seen| {
        if seen.head.starts_with("GET ") {
            Script::json(r#"{"data":[]}"#)
        } else {
            Script::answer("401 Unauthorized", "", r#"{"error":{"code":"401","message":"Access denied"}}"#)
        }
    });
    let other = Simulated::start();
    let first = Account::new("azure", provider.address)
        .at(format!("http://{}/openai", provider.address))
        .models("{ gpt-4o-mini: mini-eu }")
        .with("dialect: azure, api_version: \"2024-10-21\", check: models, weight: 1000");
    let gateway = Gateway::start(&[first, Account::of(&other)]);
    let customer = gateway.customer("1.00");
    let checked =
        eventually("a check", || provider.seen().into_iter().find(|seen| seen.head.starts_with("GET ")))
            .await;
    assert!(checked.head.starts_with("GET /openai/models?api-version=2024-10-21 "), "{}", checked.head);
    let mut refused = 0;
    for client in Client::both(&gateway, &customer) {
        let answer = client.ask(&ask(&[])).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let receipt = gateway.receipt(&answer.id()).await;
        let attempts = receipt["attempts"].as_array().unwrap();
        refused += attempts.iter().filter(|attempt| text(&attempt["outcome"]) == "credential").count();
    }
    assert!(refused > 0, "the heavy account is tried first");
    for seen in provider.seen() {
        assert_eq!((seen.header("api-key"), seen.header("authorization")), (Some("sk-upstream-azure"), None));
        let asked = format!("POST /openai/deployments/mini-eu{}?api-version=2024-10-21 ", &CHAT[3..]);
        assert!(seen.head.starts_with("GET ") || seen.head.starts_with(&asked), "{}", seen.head);
    }
    audit(gateway, &[&other]).is_exact(2);
}
