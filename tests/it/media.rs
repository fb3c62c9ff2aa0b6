//! Images and audio: bytes as they came, JSON and forms, charged by what each model is sold by, and
//! what would not be metered refused.

use crate::support::gateway::text;
use crate::support::scene::{Scene, scene};
use crate::support::scripted::Then;
use crate::support::{Account, Answer, Client, Gateway, Script, Scripted, audit};
use serde_json::{Value, json};

const GENERATIONS: &str = "/v1/images/generations";
const EDITS: &str = "/v1/images/edits";
const SPEECH: &str = "/v1/audio/speech";
const TRANSCRIPTIONS: &str = "/v1/audio/transcriptions";
const TRANSLATIONS: &str = "/v1/audio/translations";

/// A form with these fields of text, and these files of so many bytes.
fn form(texts: &[(&str, &str)], files: &[(&str, usize)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, value) in texts {
        let head = format!("--xyz\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
        body.extend_from_slice(head.as_bytes());
    }
    for (name, length) in files {
        let head = format!(
            "--xyz\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"a b.bin\"\r\nContent-Type: audio/wav\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend((0..*length).map(|at| u8::try_from(at % 251).unwrap()));
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--xyz--\r\n");
    body
}

async fn send(client: &Client, key: &str, path: &str, body: Vec<u8>) -> Answer {
    let request = client.request("POST", path).bearer_auth(key);
    Answer::read(request.header("content-type", "multipart/form-data; boundary=xyz").body(body)).await
}

/// The receipt of an answer, which was served and charged this much.
async fn charged(gateway: &Gateway, answer: &Answer, charge: &str) -> Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    let receipt = gateway.receipt(&answer.id()).await;
    assert_eq!(text(&receipt["charge"]), charge, "{receipt}");
    receipt
}

#[tokio::test]
async fn images_are_charged_by_tokens_or_by_the_image() {
    let scene = scene();
    let key = &scene.customer.key;
    for client in scene.clients() {
        let post = async |path: &str, body: Value| Answer::read(client.post(path, body.to_string())).await;
        let answer = post(GENERATIONS, json!({ "model": "painter", "prompt": "a red fox", "n": 2 })).await;
        // 3 x 5 + 544 x 30 for a million
        let receipt = charged(&scene.gateway, &answer, "0.016335").await;
        assert_eq!((&receipt["usage"]["input"], &receipt["usage"]["image_output"]), (&json!(3), &json!(544)));
        assert_eq!(
            (&receipt["endpoint"], &receipt["metered"]),
            (&json!("images.generations"), &json!("reported"))
        );
        assert_eq!(answer.header("x-tollgate-charge"), "0.016335");
        assert_eq!(answer.json()["data"].as_array().unwrap().len(), 2);

        let asked = json!({ "model": "painter", "prompt": "a fox", "stream": true });
        let answer = post(GENERATIONS, asked).await;
        charged(&scene.gateway, &answer, "0.00817").await;
        assert!(answer.text().contains("image_generation.completed"), "{}", answer.text());

        let given = form(&[("model", "painter"), ("prompt", "a fox")], &[("image[]", 300), ("image[]", 20)]);
        let answer = send(&client, key, EDITS, given).await;
        // 2 x 5 + 646 x 8 + 272 x 30 for a million
        let receipt = charged(&scene.gateway, &answer, "0.013338").await;
        assert_eq!(receipt["usage"]["image_input"], 646);

        let answer = post(GENERATIONS, json!({ "model": "dall-e-3", "prompt": "a fox", "n": 3 })).await;
        let receipt = charged(&scene.gateway, &answer, "0.12").await;
        assert_eq!((&receipt["usage"]["images"], &receipt["metered"]), (&json!(3), &json!("counted")));
    }
    let Scene { gateway, provider, .. } = scene;
    audit(gateway, &[&provider]).is_exact(8);
}

#[tokio::test]
async fn speech_passes_at_once_and_is_charged_by_what_is_said() {
    let scene = scene();
    for client in scene.clients() {
        let post = async |body: Value| Answer::read(client.post(SPEECH, body.to_string())).await;
        let answer = post(json!({ "model": "tts-1", "input": "Grüezi mitenand", "voice": "alloy" })).await;
        let receipt = charged(&scene.gateway, &answer, "0.000225").await;
        assert_eq!((&receipt["usage"]["characters"], &receipt["metered"]), (&json!(15), &json!("counted")));
        assert_eq!((answer.header("content-type"), answer.body.len()), ("audio/mpeg", 8_000));
        assert!(answer.body.iter().all(|byte| *byte == 0xfb));

        let asked =
            json!({ "model": "speaker", "input": "hello you", "voice": "alloy", "stream_format": "sse" });
        let answer = post(asked).await;
        // 3 x 0.60 + 18 x 12 for a million
        let receipt = charged(&scene.gateway, &answer, "0.0002178").await;
        assert_eq!(
            (&receipt["usage"]["audio_output"], &receipt["metered"]),
            (&json!(18), &json!("reported"))
        );

        let silent = post(json!({ "model": "speaker", "input": "hello", "voice": "alloy" })).await;
        silent.is_error(400, None);
        assert_eq!(silent.json()["error"]["param"], "stream_format");
    }
    let Scene { gateway, provider, .. } = scene;
    audit(gateway, &[&provider]).is_exact(4);
}

#[tokio::test]
async fn what_is_heard_is_charged_by_the_minute_or_by_tokens() {
    let scene = scene();
    let key = &scene.customer.key;
    for client in scene.clients() {
        let ask = async |path: &str, texts: &[(&str, &str)], bytes| {
            send(&client, key, path, form(texts, &[("file", bytes)])).await
        };
        let answer = ask(TRANSCRIPTIONS, &[("model", "whisper-1")], 320_000).await;
        let receipt = charged(&scene.gateway, &answer, "0.002").await;
        assert_eq!((&receipt["usage"]["seconds"], &receipt["reported"]["seconds"]), (&json!(20), &json!(20)));
        assert_eq!(answer.json()["text"], "tok0 tok1");

        // It tells how long it was, to the fifth of a second, and no usage.
        let verbose = [("model", "whisper-1"), ("response_format", "verbose_json")];
        for path in [TRANSCRIPTIONS, TRANSLATIONS] {
            let answer = ask(path, &verbose, 1_000_000).await;
            let receipt = charged(&scene.gateway, &answer, "0.0063").await;
            assert_eq!(receipt["reported"], json!({ "duration": 63.2 }));
        }
        for stream in ["false", "true"] {
            let texts = [("model", "listener"), ("prompt", "Ada and Bob"), ("stream", stream)];
            let answer = ask(TRANSCRIPTIONS, &texts, 160_000).await;
            // 3 x 2.5 + 100 x 6 + 16 x 10 for a million
            let receipt = charged(&scene.gateway, &answer, "0.0007675").await;
            let usage = &receipt["usage"];
            assert_eq!(
                (&usage["input"], &usage["audio_input"], &usage["output"]),
                (&json!(3), &json!(100), &json!(16))
            );
        }
    }
    let Scene { gateway, provider, .. } = scene;
    audit(gateway, &[&provider]).is_exact(10);
}

#[tokio::test]
async fn what_would_not_be_metered_is_refused() {
    let scene = scene();
    let key = &scene.customer.key;
    for client in scene.clients() {
        let file: &[(&str, usize)] = &[("file", 10)];
        let whisper = ("model", "whisper-1");
        for (path, texts, files, says) in [
            (
                TRANSCRIPTIONS,
                &[whisper, ("response_format", "text")][..],
                file,
                "must be json or verbose_json",
            ),
            (TRANSLATIONS, &[whisper], file, "must be verbose_json"),
            (TRANSCRIPTIONS, &[whisper, ("stream", "true")], file, "which is sold by the minute"),
            (TRANSCRIPTIONS, &[whisper], &[], "you must provide one file"),
            (TRANSCRIPTIONS, &[], file, "you must provide model"),
            (TRANSCRIPTIONS, &[whisper, ("Model", "listener")], file, "stands twice"),
            (TRANSCRIPTIONS, &[whisper, ("model[]", "listener")], file, "write `model`"),
            (
                TRANSCRIPTIONS,
                &[("model", "gpt-4o-mini"), ("response_format", "srt")],
                file,
                "response_format",
            ),
            (EDITS, &[("model", "painter"), ("prompt", "x")], &[], "you must provide an image"),
            (EDITS, &[("model", "painter"), ("prompt", "x"), ("n", "11")], file, "from 1 to 10"),
        ] {
            let refused = send(&client, key, path, form(texts, files)).await;
            refused.is_error(400, None);
            assert!(refused.text().contains(says), "{says}: {}", refused.text());
        }
        for (path, body) in [
            (GENERATIONS, json!({ "model": "painter", "prompt": "x", "svg": {} })),
            (GENERATIONS, json!({ "model": "painter", "prompt": "x", "n": 2, "stream": true })),
            (EDITS, json!({ "model": "painter", "prompt": "x", "images": [{ "file_id": "f" }] })),
            (SPEECH, json!({ "model": "tts-1", "input": "x", "stream_format": "other" })),
            (TRANSCRIPTIONS, json!({ "model": "whisper-1" })),
        ] {
            Answer::read(client.post(path, body.to_string())).await.is_error(400, None);
        }
        // Sold by something else.
        let chat = json!({ "model": "whisper-1", "messages": [] });
        Answer::read(client.post("/v1/chat/completions", chat.to_string())).await.is_error(404, None);
        let speech = json!({ "model": "dall-e-3", "input": "x" });
        Answer::read(client.post(SPEECH, speech.to_string())).await.is_error(404, None);
    }
    scene.cost_nothing(0).await;
}

/// An answer that does not say what it is charged by is not delivered, and not charged.
#[tokio::test]
async fn an_answer_that_tells_nothing_is_not_passed_for_free() {
    let untold = r#"{"text":"hello"}"#;
    let provider = Scripted::always(
        Script::answer("200 OK", "content-type: application/json\r\n", untold).then(Then::KeepAlive),
    );
    let gateway = Gateway::start(&[Account::scripted(&provider)]);
    let customer = gateway.customer("1.00");
    for client in Client::both(&gateway, &customer) {
        for model in ["whisper-1", "listener"] {
            let body = form(&[("model", model)], &[("file", 1_000)]);
            let answer = send(&client, &customer.key, TRANSCRIPTIONS, body).await;
            answer.is_error(503, Some("upstream_unavailable"));
            assert!(!answer.text().contains("hello"));
        }
    }
    gateway.settles_at(&customer, "1.00").await;
}

/// The body of a form reaches the provider byte for byte, but for the model's name there.
#[tokio::test]
async fn a_form_passes_as_it_came() {
    let heard = r#"{"text":"x","usage":{"type":"duration","seconds":7}}"#;
    let provider = Scripted::always(
        Script::answer("200 OK", "content-type: application/json\r\n", heard).then(Then::KeepAlive),
    );
    let gateway = Gateway::start(&[Account::scripted(&provider).models("{ whisper-1: theirs }")]);
    let customer = gateway.customer("1.00");
    let client = Client::h1(&gateway, &customer);
    let sent = form(&[("model", "whisper-1"), ("prompt", "whisper-1")], &[("file", 70_000)]);
    let answer = send(&client, &customer.key, TRANSCRIPTIONS, sent.clone()).await;
    charged(&gateway, &answer, "0.0007").await;
    assert_eq!(answer.text(), heard);
    let at = sent.windows(9).position(|window| window == b"whisper-1").unwrap();
    let expected = [&sent[..at], b"theirs", &sent[at + 9..]].concat();
    let seen = &provider.seen()[0];
    assert!(seen.body == expected, "{} bytes, not {}", seen.body.len(), expected.len());
    assert_eq!(seen.header("content-type"), Some("multipart/form-data; boundary=xyz"));
}

/// Speech that breaks off costs what it was given to say; speech that never began costs nothing.
#[tokio::test]
async fn speech_that_is_cut_costs_what_it_was_given_to_say() {
    let scene = scene();
    let [client, _] = scene.clients();
    for (after, charge) in [("3", "0.000075"), ("0", "0.00")] {
        let metadata = json!({ "simulate_cut_after_chunks": after });
        let body = json!({ "model": "tts-1", "input": "hello", "metadata": metadata });
        let response = client.post(SPEECH, body.to_string()).send().await.unwrap();
        let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
        let _ = response.bytes().await;
        let receipt = scene.gateway.receipt(&id).await;
        assert_eq!(text(&receipt["charge"]), charge, "{receipt}");
    }
}

/// What the answer says of its images decides, and what was asked for where it says nothing; the dearest that may
/// come is held.
#[tokio::test]
async fn images_are_charged_by_their_size_and_quality() {
    let image = |told: &str| Script::json(format!(r#"{{"created":1,"data":[{{"url":"u"}}]{told}}}"#));
    let hd = r#","size":"1024x1792","quality":"hd""#;
    let cases = [
        // Asked for, told, held, charged.
        (json!({}), "", "0.12", "0.04"),
        (json!({ "size": "1024x1024", "quality": "standard" }), "", "0.04", "0.04"),
        (json!({ "quality": "hd", "n": 2 }), "", "0.24", "0.08"),
        (json!({ "size": "1024x1792", "quality": "hd" }), "", "0.12", "0.12"),
        (json!({ "size": "auto", "quality": "auto" }), hd, "0.12", "0.12"),
        (json!({ "size": "1024x1792", "quality": "hd" }), r#","size":"1024x1024""#, "0.12", "0.08"),
    ];
    let answers: Vec<Script> = cases.iter().flat_map(|(_, told, ..)| [image(told), image(told)]).collect();
    let provider = Scripted::start(move |number| answers[number].clone());
    let gateway = Gateway::start(&[Account::scripted(&provider)]);
    let customer = gateway.customer("10.00");
    let [h1, h2] = Client::both(&gateway, &customer);
    for (asked, told, held, charge) in &cases {
        for client in [&h1, &h2] {
            let mut body = asked.clone();
            (body["model"], body["prompt"]) = (json!("dall-e-3"), json!("a fox"));
            let answer = Answer::read(client.post(GENERATIONS, body.to_string())).await;
            let receipt = charged(&gateway, &answer, charge).await;
            assert_eq!(text(&receipt["held"]), *held, "{asked} {told}: {receipt}");
            let quality = if *charge == "0.04" { Value::Null } else { json!("hd") };
            assert_eq!(receipt["image_quality"], quality, "{receipt}");
        }
    }
    let size = json!({ "model": "dall-e-3", "prompt": "x", "size": 7 }).to_string();
    Answer::read(h1.post(GENERATIONS, size)).await.is_error(400, None);
    audit(gateway, &[]).counts(cases.len() * 2, 0, 0);
}
