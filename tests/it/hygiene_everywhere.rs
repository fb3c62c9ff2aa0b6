//! Canaries planted in everything that a gateway is told, and looked for in everything that it tells or keeps: its
//! log, metrics, failures, spans, the operator's commands, `top`, what customers ask themselves, the store and a
//! copy of it.

use crate::hygiene::{contains, files};
use crate::support::gateway::{TOKEN, command};
use crate::support::{
    Account, Answer, Client, Customer, Gateway, Script, Scripted, Settings, Simulated, ask, eventually,
    streamed,
};
use serde_json::{Value, json};
use std::path::Path;

const CREDENTIAL: &str = "sk-up-CANARYcredential-0123456789";
/// Its first characters and its last four may be shown.
const IMPORTED: &str = "sk-imported-key-CANARYimported0123456789";
/// What each answer ends with.
const ANSWERED: &str = "tok15";

/// What a customer is answered who looks.
const LOOK: &str = "a look";

fn settings(collector: &Scripted) -> Settings {
    let policy =
        "content: { mode: observe, output_one_in: 1, categories: { own_rules: { words: own.txt } } }";
    Settings {
        policy,
        prepare: Some(|folder: &Path| std::fs::write(folder.join("own.txt"), "CANARYprompt\n").unwrap()),
        traces: format!("otlp_url: \"http://{}\", sample_one_in: 1", collector.address),
        // Also what libraries say when they are asked to say much.
        log: Some("debug"),
        ..Settings::default()
    }
}

/// Requests to what is sold, with canaries wherever a client can put one.
async fn ask_what_is_sold(client: &Client, customer: &Customer, number: usize) -> Vec<Answer> {
    let said = "CANARYprompt, said by somebody";
    let message = json!([{ "role": "user", "content": said, "name": "CANARYname" }]);
    let mut chat = ask(&[]);
    (chat["messages"], chat["user"]) = (message.clone(), json!("CANARYuser"));
    let image = json!({ "model": "painter", "prompt": said });
    let mut answers = Vec::new();
    for (path, body) in [
        ("/v1/chat/completions", chat.clone()),
        ("/v1/chat/completions", streamed(chat)),
        ("/v1/completions", json!({ "model": "gpt-4o-mini", "prompt": said, "suffix": "CANARYsuffix" })),
        ("/v1/responses", json!({ "model": "gpt-4o-mini", "input": said, "instructions": "CANARYsystem" })),
        ("/v1/embeddings", json!({ "model": "embedder", "input": [said] })),
        ("/v1/moderations", json!({ "model": "omni-moderation-latest", "input": said })),
        ("/v1/images/generations", image),
        ("/v1/audio/speech", json!({ "model": "tts-1", "input": said, "voice": "CANARYvoice" })),
    ] {
        let request = client.request("POST", &format!("{path}?q=CANARYquery")).bearer_auth(&customer.key);
        let request = request
            .header("content-type", "application/json")
            .header("cookie", "session=CANARYcookie")
            .header("user-agent", "CANARYagent/1.0")
            .header("x-forwarded-for", "203.0.113.77")
            .header("tracestate", "vendor=CANARYstate")
            .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
            .header("idempotency-key", format!("CANARYidempotency-{number}-{}", answers.len()));
        answers.push(Answer::read(request.body(body.to_string())).await);
    }
    answers
}

/// Looks at what is stored and at the account, rightly and wrongly.
async fn look(client: &Client, customer: &Customer, response: &str) -> Vec<Answer> {
    let mut answers = Vec::new();
    for path in [
        format!("/v1/responses/{response}"),
        format!("/v1/responses/{response}/input_items?after=CANARYafter"),
        "/v1/responses/resp_ECHOEDresponse".into(),
        "/v1/models/ECHOEDmodel".into(),
        "/v1/files/file-ECHOEDfile".into(),
        "/tollgate/v1/balance".into(),
        "/tollgate/v1/balance?q=CANARYquery".into(),
        "/tollgate/v1/statement?limit=1000".into(),
        "/tollgate/v1/statement?after=CANARYafter".into(),
        "/tollgate/v1/usage?by=day,model,key".into(),
        "/tollgate/v1/receipts/ECHOEDreceipt".into(),
        "/v1/dashboard/billing/usage?start_date=CANARYdate".into(),
        "/tollgate/ECHOEDpage".into(),
        "/tollgate/".into(),
    ] {
        answers.push(client.get(&path).await);
    }
    let wrong = client.with_key("tg_live_CANARYwrong").get("/tollgate/v1/balance").await;
    wrong.is_error(401, Some("invalid_api_key"));
    let deleted = client.request("DELETE", &format!("/v1/responses/{response}")).bearer_auth(&customer.key);
    answers.push(Answer::read(deleted).await);
    answers
}

/// What the operator does and sees.
fn operate(gateway: &Gateway, customer: &Customer, request: &str, copy: &str) -> Vec<(String, Vec<u8>)> {
    let imported = gateway.run_with_input(&["key", "import", "--customer", &customer.id], IMPORTED);
    assert!(imported.status.success());
    let (status, _) = gateway.admin_post("/keys", &json!({ "customer": "CANARYcustomer", "key": IMPORTED }));
    assert!(status >= 400, "{status}");
    let mut said = vec![("key import".to_owned(), [imported.stdout, imported.stderr].concat())];
    let [id, backup] = [&*customer.id, copy];
    for arguments in [
        &["receipt", request][..],
        &["receipt", request, "--json"],
        &["statement", "--customer", id],
        &["statement", "--customer", id, "--json"],
        &["usage", "--customer", id, "--by", "day,model,key"],
        &["key", "list", "--json"],
        &["customer", "list", "--json"],
        &["upstream", "list", "--json"],
        &["ledger", "export"],
        &["ledger", "verify"],
        &["ledger", "backup", backup],
        &["audit", "list", "--json"],
    ] {
        let output = gateway.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        said.push((arguments.join(" "), [output.stdout, output.stderr].concat()));
    }
    for arguments in [&["top", "--once"][..], &["top", "--once", "--json"]] {
        let mut top = command(arguments);
        top.env("TOLLGATE_ADMIN_URL", format!("http://{}", gateway.admin))
            .env("TOLLGATE_METRICS_URL", format!("http://{}", gateway.metrics))
            .env("TOLLGATE_ADMIN_TOKEN", TOKEN);
        let output = top.output().unwrap();
        assert!(output.status.success() && !output.stdout.is_empty(), "{output:?}");
        said.push((arguments.join(" "), [output.stdout, output.stderr].concat()));
    }
    said
}

#[tokio::test]
async fn canaries_are_in_nothing_that_is_told_or_kept() {
    let (provider, collector) = (Simulated::start(), Scripted::always(Script::json("{}")));
    let account = Account::of(&provider).credential(CREDENTIAL);
    let mut gateway = Gateway::start_with(&[account], &settings(&collector));
    let customer = gateway.customer("5.00");
    let (mut requests, mut looks) = (Vec::new(), Vec::new());
    for (number, client) in Client::both(&gateway, &customer).into_iter().enumerate() {
        let asked = ask_what_is_sold(&client, &customer, number).await;
        let made = asked.iter().find(|answer| answer.text().contains("resp_")).expect("a response is kept");
        let response = made.json()["id"].as_str().unwrap().to_owned();
        looks.extend(look(&client, &customer, &response).await);
        requests.extend(asked);
    }
    assert_eq!((requests.len(), looks.len()), (16, 30));
    assert!(requests.iter().all(|answer| answer.status == 200), "{requests:?}");
    let failed = looks.iter().filter(|answer| answer.status >= 400).count();
    assert!((16..=22).contains(&failed), "{failed} of {looks:?}");
    let ids: Vec<String> = requests.iter().map(Answer::id).collect();
    eventually("a line and spans for each", || {
        let log = gateway.output();
        let told: Vec<u8> = collector.seen().into_iter().flat_map(|seen| seen.body).collect();
        ids.iter().all(|id| log.contains(id.as_str()) && contains(&told, id)).then_some(())
    })
    .await;
    let noted = || (gateway.scrape().contains("policy_violations_total")).then_some(());
    eventually("what was said was judged", noted).await;

    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy");
    let mut told = operate(&gateway, &customer, &ids[0], copy.to_str().unwrap());
    // What customers see of their own account, and errors: not what their provider answers them.
    let own = looks.iter().filter(|answer| answer.status >= 400 || !answer.text().contains("\"object\""));
    told.extend(own.map(|answer| (LOOK.to_owned(), format!("{answer:?}").into_bytes())));
    told.push(("the metrics".into(), gateway.scrape().into()));
    let failures: Value = gateway.admin_get("/failures").1;
    assert!(failures.as_array().unwrap().len() > 10, "{failures}");
    told.push(("the failures".into(), failures.to_string().into()));
    assert_eq!(gateway.stop().code(), Some(0));
    told.push(("the log".into(), gateway.output().into()));
    let spans = collector.seen().into_iter().map(|seen| [seen.head.into_bytes(), seen.body].concat());
    told.extend(spans.map(|spans| ("a span".to_owned(), spans)));
    let kept = [files(&gateway.store()), files(&copy)].concat();
    assert!(kept.len() >= 8, "{kept:?}");
    told.extend(kept.iter().map(|path| (path.display().to_string(), std::fs::read(path).unwrap())));
    assert!(told.iter().any(|(name, _)| name.ends_with("audit.jsonl")), "{kept:?}");
    for (name, bytes) in &told {
        for secret in
            ["CANARY", "ECHOED", ANSWERED, &customer.key, IMPORTED, CREDENTIAL, TOKEN, "203.0.113.77"]
        {
            // Who names what is not there is told that name again.
            if (&**name, secret) != (LOOK, "ECHOED") {
                assert!(!contains(bytes, secret), "{secret} in {name}: {}", String::from_utf8_lossy(bytes));
            }
        }
    }
}
