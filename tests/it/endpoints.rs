//! Each endpoint that is sold: bytes as they came, charged as the provider served, and what of it is
//! not sold told clearly.

use crate::support::gateway::text;
use crate::support::scene::{Scene, scene};
use crate::support::scripted::Then;
use crate::support::{Account, Answer, Client, Gateway, Script, Scripted, audit};
use serde_json::{Value, json};

const COMPLETIONS: &str = "/v1/completions";
const EMBEDDINGS: &str = "/v1/embeddings";
const MODERATIONS: &str = "/v1/moderations";

async fn post(client: &Client, path: &str, body: &Value) -> Answer {
    Answer::read(client.post(path, body.to_string())).await
}

/// Asks, and gives what the receipt says of the usage and the charge.
async fn charged(scene: &Scene, client: &Client, path: &str, body: &Value) -> (Answer, Value, String) {
    let answer = post(client, path, body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let receipt = scene.gateway.receipt(&answer.id()).await;
    assert_eq!(receipt["endpoint"], path.trim_start_matches("/v1/"), "{receipt}");
    let charge = text(&receipt["charge"]);
    (answer, receipt["usage"].clone(), charge)
}

#[tokio::test]
async fn completions_are_charged_for_all_that_they_continue() {
    let scene = scene();
    for client in scene.clients() {
        let body = json!({ "model": "gpt-4o-mini", "prompt": ["hello", [1, 2, 3]], "n": 2 });
        let (answer, usage, charge) = charged(&scene, &client, COMPLETIONS, &body).await;
        assert_eq!(answer.json()["choices"].as_array().unwrap().len(), 4);
        assert_eq!((&usage["input"], &usage["output"]), (&json!(5), &json!(64)));
        // 5 x 0.15 + 64 x 0.60 for a million
        assert_eq!((charge.as_str(), answer.header("x-tollgate-charge")), ("0.00003915", "0.00003915"));

        for asked in [false, true] {
            let mut body = json!({ "model": "gpt-4o-mini", "prompt": "hello", "stream": true });
            if asked {
                body["stream_options"] = json!({ "include_usage": true });
            }
            let (answer, usage, _) = charged(&scene, &client, COMPLETIONS, &body).await;
            assert_eq!((&usage["input"], &usage["output"]), (&json!(2), &json!(16)));
            assert_eq!(answer.text().contains("prompt_tokens"), asked, "{}", answer.text());
            assert!(answer.text().contains("tok15") && answer.text().ends_with("data: [DONE]\n\n"));
        }
    }
    let Scene { gateway, provider, .. } = scene;
    audit(gateway, &[&provider]).is_exact(6);
}

#[tokio::test]
async fn embeddings_are_charged_for_their_input() {
    let scene = scene();
    for client in scene.clients() {
        for (format, vector) in [("float", json!([0.25, -0.5, 1.0])), ("base64", json!("AACAPgAAAL8AAIA/"))] {
            let body = json!({ "model": "embedder", "input": ["hello", "you"], "encoding_format": format });
            let (answer, usage, charge) = charged(&scene, &client, EMBEDDINGS, &body).await;
            assert_eq!(answer.json()["data"][1]["embedding"], vector);
            assert_eq!((&usage["input"], &usage["output"]), (&json!(3), &json!(0)));
            assert_eq!(charge, "0.00000006");
        }
        let silent = json!({ "model": "embedder", "input": "hello world",
            "metadata": { "simulate_usage": "missing" } });
        let (answer, usage, charge) = charged(&scene, &client, EMBEDDINGS, &silent).await;
        assert_eq!((&usage["input"], charge.as_str()), (&json!(2), "0.00000004"));
        assert_eq!(scene.gateway.receipt(&answer.id()).await["metered"], "estimated");
    }
    let Scene { gateway, provider, .. } = scene;
    audit(gateway, &[&provider]).counts(4, 2, 0);
}

#[tokio::test]
async fn moderations_are_free_and_have_a_receipt() {
    let scene = scene();
    for client in scene.clients() {
        let body = json!({ "input": ["hello", "you"] });
        let (answer, _, charge) = charged(&scene, &client, MODERATIONS, &body).await;
        assert_eq!(answer.json()["results"].as_array().unwrap().len(), 2);
        assert_eq!((charge.as_str(), answer.header("x-tollgate-charge")), ("0.00", "0.00"));
        let receipt = scene.gateway.receipt(&answer.id()).await;
        assert_eq!((&receipt["metered"], &receipt["end"]), (&json!("none"), &json!("complete")));
        assert_eq!(receipt["model"], "omni-moderation-latest");
    }
    scene.gateway.settles_at(&scene.customer, "1.00").await;
    let Scene { gateway, provider, .. } = scene;
    let audit = audit(gateway, &[&provider]);
    audit.counts(0, 0, 2);
    assert_eq!(audit.unpaid, 0);
}

#[tokio::test]
async fn a_model_is_sold_where_it_has_prices() {
    let scene = scene();
    let [client, _] = scene.clients();
    let chat = json!({ "model": "embedder", "messages": [] });
    let refused = post(&client, "/v1/chat/completions", &chat).await;
    refused.is_error(404, None);
    assert!(refused.text().contains("not sold at this endpoint"), "{}", refused.text());
    let refused = post(&client, EMBEDDINGS, &json!({ "model": "unpriced", "input": "a" })).await;
    refused.is_error(404, Some("model_not_found"));
    let refused = post(&client, COMPLETIONS, &json!({ "model": "gpt-4o-mini" })).await;
    refused.is_error(400, None);
    assert!(refused.text().contains("you must provide prompt"), "{}", refused.text());
    for path in ["/v1/images/generations", "/v1/audio/speech", "/v1/responses/input_tokens", "/v1/batches"] {
        post(&client, path, &json!({ "model": "gpt-4o-mini" })).await.is_error(404, None);
    }
    scene.cost_nothing(0).await;
}

#[tokio::test]
async fn a_provider_that_has_no_such_endpoint_is_told_so_and_free() {
    let error = r#"{"detail":"Not Found"}"#;
    let provider = Scripted::always(
        Script::answer("404 Not Found", "content-type: application/json\r\n", error).then(Then::KeepAlive),
    );
    let gateway = Gateway::start(&[Account::scripted(&provider)]);
    let customer = gateway.customer("1.00");
    let client = Client::h1(&gateway, &customer);
    post(&client, MODERATIONS, &json!({ "input": "a" })).await.is_error(404, Some("model_not_found"));
    assert!(provider.seen()[0].head.starts_with("POST /v1/moderations HTTP/1.1\r\n"));
    gateway.settles_at(&customer, "1.00").await;
}
