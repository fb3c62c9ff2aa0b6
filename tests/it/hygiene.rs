//! Canaries: what must not pass from one side to the other, and what must be written nowhere.

use crate::support::gateway::{TOKEN, text};
use crate::support::{
    Account, Answer, Client, Gateway, Script, Scripted, Settings, Simulated, ask, eventually, streamed,
};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

#[tokio::test]
async fn nothing_of_the_client_reaches_the_provider_but_its_request() {
    let provider = Scripted::always(Script::json(r#"{"usage":{"prompt_tokens":1,"completion_tokens":1}}"#));
    let gateway = Gateway::start(&[Account::scripted(&provider).credential("sk-the-operators-own")]);
    let customer = gateway.customer("1.00");
    let private = [
        ("cookie", "session=CANARY"),
        ("x-forwarded-for", "203.0.113.77"),
        ("forwarded", "for=203.0.113.77"),
        ("x-real-ip", "203.0.113.77"),
        ("via", "1.1 CANARY"),
        ("openai-organization", "org-CANARY"),
        ("openai-project", "proj-CANARY"),
        ("x-api-key", "CANARY-other-key"),
        ("api-key", "CANARY-other-key"),
        ("user-agent", "CANARY/1.0"),
        ("referer", "https://CANARY.example/"),
        ("origin", "https://CANARY.example"),
        ("x-request-id", "CANARY-request"),
        ("x-client-request-id", "CANARY-request"),
        ("x-stainless-lang", "CANARY"),
        ("accept-encoding", "br, CANARY"),
        ("x-tollgate-upstream", "CANARY"),
    ];
    let mut asked = 0;
    for client in Client::both(&gateway, &customer) {
        let mut request = client.chat_with_query("?api_base=CANARY", ask(&[]).to_string());
        request = request.header("idempotency-key", format!("CANARY-idempotency-{asked}"));
        for (name, value) in private {
            request = request.header(name, value);
        }
        assert_eq!(Answer::read(request).await.status, 200);
        asked += 1;
    }
    let seen = provider.seen();
    assert_eq!((seen.len(), asked), (2, 2));
    for request in &seen {
        for canary in ["CANARY", "203.0.113.77", &customer.key, "127.0.0.1:0", &gateway.address.to_string()] {
            assert!(!request.head.contains(canary), "{canary}: {}", request.head);
        }
        assert!(request.head.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{}", request.head);
        assert_eq!(request.header("authorization"), Some("Bearer sk-the-operators-own"));
        assert_eq!(request.header("host"), Some(provider.address.to_string().as_str()));
        assert_eq!(request.header("content-type"), Some("application/json"));
        assert!(request.header("x-client-request-id").is_some_and(|id| id.starts_with("req_")));
        assert!(request.header("transfer-encoding").is_none());
    }
}

#[tokio::test]
async fn nothing_of_the_account_reaches_the_client_but_its_answer() {
    let provider = Simulated::start();
    let gateway = Gateway::start(&[Account::of(&provider)]);
    let customer = gateway.customer("1.00");
    let mut answers = 0;
    for client in Client::both(&gateway, &customer) {
        for body in [ask(&[]), streamed(ask(&[])), ask(&[("status", "400")])] {
            let answer = client.ask(&body).await;
            assert!(answer.id().starts_with("req_") && answer.id().len() == 36);
            assert_eq!(gateway.receipt(&answer.id()).await["request_id"], answer.id());
            let whole = format!("{:?}{}", answer.headers, answer.text());
            for canary in ["SECRETORG", "__cf_bm", "simulated.cookie", "first", "sk-upstream"] {
                assert!(!whole.contains(canary), "{canary}: {whole}");
            }
            for name in ["set-cookie", "openai-organization", "server", "content-encoding"] {
                assert!(answer.headers.get(name).is_none(), "{name}: {whole}");
            }
            // Rate limits are the caller's own, or none.
            let limit = answer.headers.get("x-ratelimit-limit-requests");
            assert!(limit.is_none_or(|limit| limit != "10000"), "{whole}");
            answers += 1;
        }
    }
    assert_eq!(answers, 6);
}

/// Words of an account that its provider may put into an error, wherever it stands.
const TELLING: &str = r#"{"error":{"message":"Rate limit reached for gpt-4o in organization org-SECRETORG on tokens per min. Incorrect API key provided: sk-up************cret.","type":"tokens","param":null,"code":"rate_limit_exceeded"}}"#;

#[tokio::test]
async fn an_error_in_the_middle_of_a_stream_tells_nothing_of_the_account() {
    let stream = format!(
        "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"hello\"}},\"finish_reason\":null}}]}}\n\n\
         data: {TELLING}\n\n"
    );
    let provider = Scripted::always(Script::events(stream));
    let gateway = Gateway::start(&[Account::scripted(&provider)]);
    let customer = gateway.customer("1.00");
    for client in Client::both(&gateway, &customer) {
        let answer = client.ask(&streamed(ask(&[]))).await;
        assert!(answer.text().contains("hello") && answer.text().contains("\"error\""), "{answer:?}");
        for canary in ["SECRETORG", "sk-up", "cret."] {
            assert!(!answer.text().contains(canary), "{canary}: {}", answer.text());
        }
    }
}

#[tokio::test]
async fn an_error_of_the_request_tells_nothing_of_the_account() {
    let headers = "content-type: application/json\r\nopenai-organization: org-SECRETORG\r\n";
    let provider = Scripted::always(Script::answer("400 Bad Request", headers, TELLING));
    let gateway = Gateway::start(&[Account::scripted(&provider)]);
    let customer = gateway.customer("1.00");
    for client in Client::both(&gateway, &customer) {
        let answer = client.ask(&ask(&[])).await;
        assert_eq!(answer.status, 400);
        let whole = format!("{:?}{}", answer.headers, answer.text());
        for canary in ["SECRETORG", "sk-up", "cret."] {
            assert!(!whole.contains(canary), "{canary}: {whole}");
        }
    }
}

/// All files below a folder.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] });
    // A socket has no bytes to look at.
    files.filter(|path| path.is_file()).collect()
}

pub fn contains(bytes: &[u8], canary: &str) -> bool {
    bytes.windows(canary.len()).any(|window| window == canary.as_bytes())
}

#[tokio::test]
async fn secrets_and_texts_are_written_nowhere() {
    let provider = Simulated::start();
    let credential = "sk-CANARYcredential0123456789";
    let account = Account::of(&provider).credential(credential);
    // Also what libraries say when they are asked to say much.
    let settings = Settings { log: Some("debug"), ..Settings::default() };
    let mut gateway = Gateway::start_with(&[account], &settings);
    let customer = gateway.customer("1.00");
    // Its first characters and its last may be shown.
    let imported = "sk-imported-CANARY0123456789-abcdefghij";
    let output = gateway.run_with_input(&["key", "import", "--customer", &customer.id], imported);
    assert!(output.status.success());
    assert!(!contains(&output.stdout, imported) && !contains(&output.stderr, imported));

    let mut requests = Vec::new();
    for client in Client::both(&gateway, &customer) {
        for faults in [
            vec![],
            vec![("usage", "absurd")],
            vec![("usage", "missing")],
            vec![("garbage", "html")],
            vec![("garbage", "truncated")],
            vec![("status", "400")],
            vec![("encoding", "gzip")],
        ] {
            for mut body in [ask(&faults), streamed(ask(&faults))] {
                body["messages"] = json!([{ "role": "user", "content": "CANARYprompt" }]);
                let request = client.chat_with_query("?q=CANARYquery", body.to_string());
                requests.push(Answer::read(request).await);
            }
        }
        for broken in ["{\"CANARYfield\":1,\"CANARYfield\":2}", "CANARYbody"] {
            Answer::read(client.chat(broken)).await.is_error(400, None);
        }
        client
            .ask(&json!({ "model": "CANARYmodel", "messages": [] }))
            .await
            .is_error(404, Some("model_not_found"));
        client.with_key("CANARYwrongkey").ask(&ask(&[])).await.is_error(401, Some("invalid_api_key"));
        client.with_key(imported).ask(&ask(&[])).await;
        Answer::read(client.request("POST", "/v1/CANARYpath")).await.is_error(404, None);
    }
    assert_eq!(requests.len(), 28);
    let ids: Vec<String> = requests.iter().map(Answer::id).collect();
    eventually("a line for each request", || {
        let log = gateway.output();
        ids.iter().all(|id| log.contains(id.as_str())).then_some(())
    })
    .await;
    // `tok15` ends each answer.
    let secrets = ["CANARY", "tok15", &customer.key, TOKEN, "203.0.113.77"];
    let metrics = gateway.scrape();
    assert!(metrics.contains("tollgate_requests_total"));
    let failures = gateway.admin_get("/failures").1;
    assert!(failures.as_array().unwrap().len() > 10, "{failures}");
    let log = gateway.output();
    assert!(log.lines().count() > 28);
    for secret in secrets {
        assert!(!metrics.contains(secret), "{secret} in the metrics");
        assert!(!failures.to_string().contains(secret), "{secret} in the failures");
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret} in the log");
    }
    for answer in requests.iter().filter(|answer| answer.status != 200) {
        assert!(!answer.text().contains("CANARY"), "{answer:?}");
    }
    assert_eq!(gateway.stop().code(), Some(0));
    let files = files(&gateway.store());
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        let bytes = fs::read(&file).unwrap();
        for secret in ["CANARYcredential", "CANARYimported-0", "CANARYprompt", "tok15", &customer.key, TOKEN]
        {
            // A key is kept by its first twelve and last four characters.
            assert!(!contains(&bytes, secret), "{secret} in {}", file.display());
        }
    }
}

#[tokio::test]
async fn a_key_is_shown_once() {
    let provider = Simulated::start();
    let gateway = Gateway::start(&[Account::of(&provider)]);
    let customer = gateway.customer("1.00");
    for arguments in [
        vec!["key", "list"],
        vec!["key", "list", "--json"],
        vec!["customer", "show", &customer.id, "--json"],
        vec!["key", "revoke", &customer.key_id],
    ] {
        let output = gateway.run(&arguments);
        assert!(output.status.success());
        assert!(!contains(&output.stdout, &customer.key) && !contains(&output.stderr, &customer.key));
    }
    let (_, keys) = gateway.admin_get("/keys");
    assert!(keys[0]["key"].is_null());
    assert!(customer.key.starts_with(text(&keys[0]["prefix"]).split('…').next().unwrap()));
}
