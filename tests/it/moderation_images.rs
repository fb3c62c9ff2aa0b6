//! Images are judged as texts are: wherever a request has them, each by itself; and what nobody can judge is
//! refused or served as the operator says. The simulated provider finds in an image what its bytes say.

use crate::files::upload;
use crate::hygiene::{contains, files};
use crate::moderation::{Court, judged_by};
use crate::policy::{entries, rejected, saying, violations};
use crate::strangers::metric;
use crate::support::gateway::PRICES;
use crate::support::{
    Account, Answer, Client, Gateway, Script, Scripted, Settings, Simulated, ask, audit, eventually,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

const EDITS: &str = "/v1/images/edits";

/// The bytes of something that begins as an image does.
fn png(says: &str) -> Vec<u8> {
    [b"\x89PNG\r\n\x1a\n", says.as_bytes()].concat()
}

fn url(says: &str) -> String {
    format!("data:image/png;base64,{}", STANDARD.encode(png(says)))
}

fn chat(images: &[String]) -> Value {
    let part = |url: &String| json!({ "type": "image_url", "image_url": { "url": url } });
    let text = json!({ "type": "text", "text": "What is this?" });
    let mut body = ask(&[]);
    body["messages"][0]["content"] = std::iter::once(text).chain(images.iter().map(part)).collect();
    body
}

fn form(model: &str, field: &str, file: &[u8]) -> Vec<u8> {
    let head = "--xyz\r\ncontent-disposition: form-data; name=";
    let texts = format!("{head}\"model\"\r\n\r\n{model}\r\n{head}\"prompt\"\r\n\r\na fox\r\n");
    let file_head = format!("{head}\"{field}\"; filename=\"a\"\r\n\r\n");
    [texts.as_bytes(), file_head.as_bytes(), file, b"\r\n--xyz--\r\n"].concat()
}

/// A client and its key.
type By<'a> = (&'a Client, &'a str);

async fn send((client, key): By<'_>, path: &str, kind: &'static str, body: Vec<u8>) -> Answer {
    let request = client.request("POST", path).bearer_auth(key).header("content-type", kind);
    Answer::read(request.body(body)).await
}

/// What has an image, in every way that there is here.
async fn each_way(by: By<'_>, says: &str) -> Vec<Answer> {
    let (json, multipart) = ("application/json", "multipart/form-data; boundary=xyz");
    let part = json!({ "type": "input_image", "image_url": url(says) });
    let input = json!([{ "role": "user", "content": [part] }]);
    let responses = json!({ "model": "gpt-4o-mini", "input": input });
    let edit = json!({ "model": "painter", "prompt": "a fox", "images": [{ "image_url": url(says) }] });
    let elsewhere = chat(&[format!("https://images.example/{says}/a.png")]);
    let mut answers = Vec::new();
    for (path, kind, body) in [
        ("/v1/chat/completions", json, chat(&[url(says)]).to_string().into()),
        ("/v1/chat/completions", json, elsewhere.to_string().into()),
        ("/v1/responses", json, responses.to_string().into()),
        (EDITS, json, edit.to_string().into()),
        (EDITS, multipart, form("painter", "image[]", &png(says))),
        (EDITS, multipart, form("painter", "mask", &png(says))),
    ] {
        answers.push(send(by, path, kind, body).await);
    }
    answers
}

const JUDGING_IMAGES: &str = "content: { mode: enforce, moderation: { images_max: 3 }, categories: { \
    hate: { moderation: { hate: \"0.5\" } } } }";

#[tokio::test]
async fn an_image_is_judged_wherever_a_request_has_it() {
    let court = judged_by(JUDGING_IMAGES, 0);
    let Court { provider, judge, gateway, customer } = court;
    let (mut served, mut refused) = (0, 0);
    let clients = Client::both(&gateway, &customer);
    for client in &clients {
        for answer in each_way((client, &customer.key), "score(hate)=0.49").await {
            assert_eq!(answer.status, 200, "{answer:?}");
            served += 1;
        }
        // Each is asked about, and the worst one counts.
        let worst = chat(&["score(hate)=0.1", "score(hate)=0.9", "score(hate)=0.2"].map(url));
        let mut answers = each_way((client, &customer.key), "score(hate)=0.51").await;
        answers.push(client.ask(&worst).await);
        for answer in answers {
            answer.is_error(400, Some("content_policy_violation"));
            refused += 1;
        }
    }
    assert_eq!((served, refused, rejected(&gateway, "content_policy")), (12, 14, 14));
    // A text and an image, of the worst three.
    assert_eq!(judge.provider.log().len(), 24 * 2 + 2 * 4);
    gateway.json(&["customer", "set", &customer.id, "--content", "observe"]);
    for answer in each_way((&clients[0], &customer.key), "score(hate)=0.8").await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let all = || (violations(&gateway, "hate", "observe") == 6).then_some(());
    eventually("all are judged beside", all).await;
    let noted = || (entries(&gateway, &customer.id, "violation").len() == 20).then_some(());
    eventually("all are in the books", noted).await;
    audit(gateway, &[&provider]).is_exact(18);
}

/// What a batch will ask for is judged when its file comes: nobody sees it again before it is served.
#[tokio::test]
async fn the_requests_in_a_file_of_a_batch_are_judged() {
    let court = judged_by(JUDGING_IMAGES, 0);
    let Court { provider, judge, gateway, customer } = court;
    let line = |body: Value| {
        json!({ "custom_id": body.to_string().len().to_string(), "method": "POST", "url": "/v1/chat/completions",
            "body": body })
        .to_string()
    };
    let capped = |mut body: Value| {
        body["max_tokens"] = json!(16);
        line(body)
    };
    let harmless = capped(ask(&[]));
    for client in Client::both(&gateway, &customer) {
        for worst in [saying("score(hate)=0.9"), chat(&[url("score(hate)=0.9")])] {
            let refused = upload(&client, &customer.key, &format!("{harmless}\n{}\n", capped(worst))).await;
            refused.is_error(400, Some("content_policy_violation"));
        }
        assert_eq!(upload(&client, &customer.key, &harmless).await.status, 200);
    }
    assert_eq!((rejected(&gateway, "content_policy"), provider.provider.log().len()), (4, 2));
    assert_eq!(entries(&gateway, &customer.id, "violation").len(), 4);
    drop(judge);
}

/// What is too much, what is no image, and what a provider does not read.
async fn unreadable(by: By<'_>) -> Vec<Answer> {
    let multipart = "multipart/form-data; boundary=xyz";
    let four = chat(&["a", "b", "c", "d"].map(url));
    let whisper = form("whisper-1", "file", b"RIFF0000WAVE");
    let edit = form("painter", "image", b"%PDF-1.7");
    vec![
        by.0.ask(&four).await,
        by.0.ask(&chat(&["file:///a.png".into()])).await,
        by.0.ask(&chat(&[url("CANARYdamaged")])).await,
        send(by, "/v1/audio/transcriptions", multipart, whisper).await,
        send(by, EDITS, multipart, edit).await,
    ]
}

#[tokio::test]
async fn what_nobody_can_judge_is_refused_or_served_as_the_operator_says() {
    let provider = Simulated::start();
    let judge = Scripted::by_request(|seen| {
        if String::from_utf8_lossy(&seen.body).contains(&url("CANARYdamaged")) {
            return Script::answer("400 Bad Request", "content-type: application/json\r\n", "{}");
        }
        Script::json(r#"{"results":[{"category_scores":{"hate":0.1}}]}"#)
    });
    let accounts = || {
        [
            Account::of(&provider).models("[gpt-4o-mini, painter, whisper-1]"),
            Account::new("judge", judge.address).models("[omni-moderation-latest]"),
        ]
    };
    let closed = Settings { policy: JUDGING_IMAGES, log: Some("debug"), ..Settings::default() };
    let mut gateway = Gateway::start_with(&accounts(), &closed);
    let customer = gateway.customer("1.00");
    let clients = Client::both(&gateway, &customer);
    let unjudged = |gateway: &Gateway| metric(gateway, "tollgate_policy_unjudged_total");
    for client in &clients {
        for answer in unreadable((client, &customer.key)).await {
            answer.is_error(400, None);
            assert!(answer.text().contains("cannot be held against the content policy"), "{answer:?}");
        }
    }
    assert_eq!((provider.provider.log().len(), unjudged(&gateway)), (0, 10));
    gateway.settles_at(&customer, "1.00").await;
    let open = "content: { mode: enforce, moderation: { images_max: 3, on_unreadable: open }, categories: { \
        hate: { moderation: { hate: \"0.5\" } } } }";
    let open = Settings { policy: open, log: Some("debug"), ..Settings::default() };
    gateway.reload(&accounts(), &open, PRICES).await;
    for client in &clients {
        for answer in unreadable((client, &customer.key)).await {
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    }
    assert_eq!((provider.provider.log().len(), unjudged(&gateway)), (10, 20));
    // Of images nothing is kept either.
    let (metrics, log) = (gateway.scrape(), gateway.output());
    assert_eq!(gateway.stop().code(), Some(0));
    let encoded = STANDARD.encode(png("CANARYdamaged"));
    for canary in ["CANARY", &encoded[12..]] {
        assert!(!metrics.contains(canary), "{canary}");
        assert_eq!(log.lines().find(|line| line.contains(canary)), None, "{canary}");
        for file in files(&gateway.store()) {
            assert!(!contains(&std::fs::read(&file).unwrap(), canary), "{canary} in {}", file.display());
        }
    }
}
