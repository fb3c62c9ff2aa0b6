//! Each endpoint that is sold: bytes as they came, charged as the provider served, and what of it is
//! not sold told clearly.

use crate::support::gateway::text;
use crate::support::scene::{Scene, scene};
use crate::support::scripted::Then;
use crate::support::{Account, Answer, Client, Gateway, Script, Scripted, Simulated, audit};
use serde_json::{Value, json};

const COMPLETIONS: &str = "/v1/completions";
const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";
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
async fn responses_are_charged_by_their_last_event() {
    let scene = scene();
    for client in scene.clients() {
        for stream in [false, true] {
            let metadata = json!({ "simulate_reasoning_tokens": "100", "simulate_cached_tokens": "4" });
            let body = json!({ "model": "gpt-4o-mini", "input": [{ "role": "user", "content": "hello you" }],
                "instructions": "be kind", "stream": stream, "metadata": metadata, "max_output_tokens": 9 });
            let (answer, usage, charge) = charged(&scene, &client, RESPONSES, &body).await;
            assert_eq!((&usage["input"], &usage["cached_input"]), (&json!(4), &json!(4)));
            assert_eq!((&usage["output"], &usage["reasoning"]), (&json!(9), &json!(100)));
            // 4 x 0.15 + 4 x 0.075 + 109 x 0.60 for a million
            assert_eq!(charge, "0.0000663");
            let last = answer.text();
            let last = if stream { last.rsplit("event: ").next().unwrap() } else { &last };
            assert!(last.contains(r#""status":"incomplete""#) && last.contains("tok8"), "{last}");
            assert_eq!(last.starts_with("response.incomplete\ndata: {"), stream);
        }
    }
    let Scene { gateway, provider, .. } = scene;
    audit(gateway, &[&provider]).is_exact(4);
}

#[tokio::test]
async fn a_response_that_is_not_sold_is_told_so_and_free() {
    let scene = scene();
    for client in scene.clients() {
        for (field, value) in [
            ("conversation", json!("conv_1")),
            ("prompt", json!({ "id": "pmpt_1" })),
            ("tools", json!([{ "type": "web_search" }])),
            ("tools", json!([{ "type": "file_search" }])),
            ("service_tier", json!("priority")),
        ] {
            let mut body = json!({ "model": "gpt-4o-mini", "input": "hello" });
            body[field] = value;
            let refused = post(&client, RESPONSES, &body).await;
            refused.is_error(400, None);
            assert_eq!(refused.json()["error"]["param"], field);
        }
    }
    scene.cost_nothing(0).await;
}

/// A stream of each dialect, and the field of what was asked.
const TRANSCRIPTS: [(&str, &str, &str); 6] = [
    ("/v1/chat/completions", "messages", include_str!("../data/chat-stream-usage.sse")),
    ("/v1/chat/completions", "messages", include_str!("../data/chat-stream-tool-calls.sse")),
    ("/v1/chat/completions", "messages", include_str!("../data/chat-stream-vllm-cumulative.sse")),
    ("/v1/chat/completions", "messages", include_str!("../data/chat-stream-groq.sse")),
    (COMPLETIONS, "prompt", include_str!("../data/completions-stream-usage.sse")),
    (RESPONSES, "input", include_str!("../data/responses-stream-tools.sse")),
];

/// Cuts a transcript behind each of its events: whoever got text pays for it and for their input,
/// by the report where it had come, and else no more than what was delivered.
#[tokio::test]
async fn a_stream_that_is_cut_anywhere_is_never_a_silent_zero() {
    for (path, field, transcript) in TRANSCRIPTS {
        let events = transcript.matches("\n\n").count();
        let cuts: Vec<String> =
            (1..events).map(|count| transcript.split_inclusive("\n\n").take(count).collect()).collect();
        let scripts = cuts.clone();
        // A whole answer after each cut one keeps the account open.
        let provider = Scripted::start(move |number| match number % 2 {
            0 => {
                let head =
                    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 99999\r\n\r\n";
                Script::send([head, &scripts[number / 2]].concat()).then(Then::Close)
            }
            _ => Script::events(transcript).then(Then::Close),
        });
        let gateway = Gateway::start(&[Account::scripted(&provider)]);
        let customer = gateway.customer("1.00");
        let client = Client::h1(&gateway, &customer);
        let mut body = json!({ "model": "gpt-4o", "stream": true });
        body[field] = if field == "messages" { json!([{ "content": "hello" }]) } else { json!("hello") };
        let (mut reported, mut estimated, mut free) = (0, 0, 0);
        for cut in &cuts {
            let response = client.post(path, body.to_string()).send().await.unwrap();
            let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
            let status = response.status();
            let _ = response.bytes().await;
            let receipt = gateway.receipt(&id).await;
            let output = receipt["usage"]["output"].as_u64().unwrap_or(0);
            let paid = text(&receipt["charge"]) != "0.00";
            match text(&receipt["metered"]).as_str() {
                "reported" => {
                    reported += 1;
                    assert!(paid, "{path}: {cut}: {receipt}");
                }
                "estimated" => {
                    estimated += 1;
                    let delivered = u64::try_from(cut.len()).unwrap();
                    assert!(paid && output > 0 && output < delivered, "{path}: {cut}: {receipt}");
                }
                _ => {
                    free += 1;
                    let text = ["\"content\":\"", "\"text\":\" ", ".delta\""];
                    let delivered = text
                        .into_iter()
                        .any(|mark| cut.contains(mark) && !cut.contains(&format!("{mark}\"")));
                    assert!(!paid && !delivered, "{path}: {status}: {cut}: {receipt}");
                }
            }
            assert_eq!(Answer::read(client.post(path, body.to_string())).await.status, 200);
        }
        assert!(reported + estimated > 1, "{path}: {reported} {estimated} {free}");
    }
}

/// What is charged is the tier that the provider says it served, whatever was asked for.
#[tokio::test]
async fn the_service_tier_of_the_answer_decides() {
    let scene = scene();
    for client in scene.clients() {
        for (path, field) in [("/v1/chat/completions", "messages"), (RESPONSES, "input")] {
            for stream in [false, true] {
                for (asked, told, price) in [
                    (json!("flex"), "flex", "0.40"),
                    (json!("priority"), "priority", "1.60"),
                    (json!("priority"), "default", "0.80"),
                    (json!(null), "priority", "1.60"),
                ] {
                    let metadata = json!({ "simulate_tokens": "10", "simulate_tier": told });
                    let mut body = json!({ "model": "tiered", "stream": stream, "service_tier": asked,
                        "metadata": metadata });
                    body[field] = json!([{ "role": "user", "content": "hi" }]);
                    let answer = post(&client, path, &body).await;
                    let receipt = scene.gateway.receipt(&answer.id()).await;
                    let line = &receipt["lines"][1];
                    let shown = (text(&line["class"]), text(&line["unit_price"]));
                    assert_eq!(shown, ("output".into(), price.into()), "{asked} {told}: {receipt}");
                    let tier = receipt.get("service_tier").map_or("default".into(), text);
                    assert_eq!(tier, told, "{receipt}");
                    // The provider takes half of the default, and a tier without costs is no dearer.
                    assert!(receipt.get("cost").is_some(), "{receipt}");
                    let own = client.get(&format!("/tollgate/v1/receipts/{}", answer.id())).await.json();
                    assert_eq!((own.get("cost"), &own["charge"]), (None, &receipt["charge"]));
                }
            }
        }
        let mut body = json!({ "model": "gpt-4o", "input": "hi", "service_tier": "flex" });
        let refused = post(&client, RESPONSES, &body).await;
        refused.is_error(400, None);
        assert_eq!(refused.json()["error"]["param"], "service_tier");
        body["service_tier"] = json!("sooner");
        post(&client, RESPONSES, &body).await.is_error(400, None);
    }
    let scraped = scene.gateway.scrape();
    let cost = scraped.lines().find(|line| line.starts_with("tollgate_cost_usd_total"));
    assert!(cost.is_some_and(|line| line.contains(r#"{model="tiered",upstream="first"}"#)), "{cost:?}");
    let Scene { gateway, provider, .. } = scene;
    audit(gateway, &[&provider]).is_exact(32);
}

/// All tokens of a request with a long input have the prices of its length.
#[tokio::test]
async fn a_long_input_has_prices_of_its_own() {
    let scene = scene();
    let [client, _] = scene.clients();
    for (length, price, above) in [(100, "0.20", json!(null)), (4_000, "0.30", json!(500))] {
        let body = json!({ "model": "tiered", "input": "x".repeat(length) });
        let answer = post(&client, RESPONSES, &body).await;
        let receipt = scene.gateway.receipt(&answer.id()).await;
        assert_eq!(
            (text(&receipt["lines"][0]["unit_price"]), &receipt["above_input_tokens"]),
            (price.into(), &above)
        );
    }
    let Scene { gateway, provider, .. } = scene;
    audit(gateway, &[&provider]).is_exact(2);
}

fn anthropic(provider: &Simulated) -> Account {
    Account::of(provider).with("dialect: anthropic")
}

#[tokio::test]
async fn messages_are_charged_as_anthropic_tells_them() {
    let provider = Simulated::start();
    let gateway = Gateway::start(&[anthropic(&provider)]);
    let customer = gateway.customer("1.00");
    for client in Client::both(&gateway, &customer) {
        for stream in [false, true] {
            let metadata = json!({ "simulate_reasoning_tokens": "100", "simulate_cached_tokens": "4" });
            let body = json!({ "model": "gpt-4o-mini", "max_tokens": 9, "stream": stream, "system": "be kind",
                "messages": [{ "role": "user", "content": "hello you" }], "metadata": metadata });
            let request = client.request("POST", MESSAGES).header("x-api-key", &customer.key);
            let answer = Answer::read(request.body(body.to_string())).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let receipt = gateway.receipt(&answer.id()).await;
            let usage = &receipt["usage"];
            assert_eq!((&usage["input"], &usage["cached_input"]), (&json!(8), &json!(4)), "{receipt}");
            assert_eq!((&usage["output"], &usage["reasoning"]), (&json!(9), &json!(100)));
            assert_eq!((&receipt["endpoint"], &receipt["metered"]), (&json!("messages"), &json!("reported")));
            assert!(answer.text().contains("tok8") && answer.text().contains("max_tokens"), "{answer:?}");
        }
        let chat = json!({ "model": "gpt-4o-mini", "messages": [] });
        post(&client, "/v1/chat/completions", &chat).await.is_error(404, Some("model_not_found"));
    }
    audit(gateway, &[&provider]).is_exact(4);
}

#[tokio::test]
async fn messages_are_refused_in_the_dialect_of_anthropic() {
    let provider = Simulated::start();
    let gateway = Gateway::start(&[anthropic(&provider)]);
    let customer = gateway.customer("0.00000001");
    for client in Client::both(&gateway, &customer) {
        let whole = json!({ "model": "gpt-4o-mini", "max_tokens": 9, "messages": [{ "content": "hi" }] });
        let with = |field: &str, value: Value| {
            let mut body = whole.clone();
            body[field] = value;
            body
        };
        for (status, kind, body) in [
            (402, "billing_error", whole.clone()),
            (404, "not_found_error", with("model", json!("unpriced"))),
            (400, "invalid_request_error", with("tools", json!([{ "type": "web_search_20250305" }]))),
            (400, "invalid_request_error", with("tools", json!([{ "type": "web_fetch_20250910" }]))),
        ] {
            let refused = post(&client, MESSAGES, &body).await;
            let error = refused.json();
            let shown = (refused.status, &error["type"], &error["error"]["type"], &error["request_id"]);
            assert_eq!(shown, (status, &json!("error"), &json!(kind), &json!(refused.id())), "{error}");
        }
        let unknown = Answer::read(client.with_key("wrong").post(MESSAGES, whole.to_string())).await;
        assert_eq!((unknown.status, &unknown.json()["error"]["type"]), (401, &json!("authentication_error")));
    }
    assert_eq!(provider.provider.log().len(), 0);
}

/// What was told of the input when a message began is charged, with what was delivered.
#[tokio::test]
async fn a_message_that_is_cut_costs_its_input_as_told() {
    let transcript = include_str!("../data/messages-stream-tools.sse");
    let cut: String = transcript.split_inclusive("\n\n").take(8).collect();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 99999\r\n\r\n";
    let provider = Scripted::always(Script::send([head, &cut].concat()).then(Then::Close));
    let gateway = Gateway::start(&[Account::scripted(&provider).with("dialect: anthropic")]);
    let customer = gateway.customer("1.00");
    let client = Client::h1(&gateway, &customer);
    let body =
        json!({ "model": "gpt-4o", "max_tokens": 9, "stream": true, "messages": [{ "content": "hi" }] });
    let response = client.post(MESSAGES, body.to_string()).send().await.unwrap();
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    let _ = response.bytes().await;
    let receipt = gateway.receipt(&id).await;
    let usage = &receipt["usage"];
    assert_eq!((&usage["input"], &usage["cached_input"]), (&json!(472), &json!(64)), "{receipt}");
    assert_eq!((&usage["cache_write"], &usage["cache_write_1h"]), (&json!(40), &json!(60)));
    assert_eq!(receipt["metered"], "estimated");
    assert!((3..20).contains(&usage["output"].as_u64().unwrap()), "{receipt}");
    let seen = &provider.seen()[0];
    assert_eq!(
        (seen.header("x-api-key"), seen.header("authorization")),
        (Some("sk-upstream-scripted"), None)
    );
    assert_eq!(seen.header("anthropic-version"), Some("2023-06-01"));
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
    for path in ["/v1/images/variations", "/v1/uploads", "/v1/realtime", "/v1/responses/input_tokens"] {
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
