//! The provider over a socket, read byte by byte.

use super::*;
use crate::endpoint::Endpoint;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

struct Running {
    provider: Provider,
    address: std::net::SocketAddr,
}

async fn start(options: Options) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let provider = Provider::new(options);
    tokio::spawn(provider.clone().serve(listener));
    Running { provider, address }
}

impl Running {
    async fn open(&self, method: &str, path: &str, body: &str) -> TcpStream {
        let mut connection = TcpStream::connect(self.address).await.unwrap();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: simulated\r\nauthorization: Bearer sk-test-abcd\r\n\
             x-client-request-id: r1\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        connection.write_all(request.as_bytes()).await.unwrap();
        connection
    }

    /// The head, and the body with its framing.
    async fn ask(&self, method: &str, path: &str, body: &str) -> (String, String) {
        let mut answer = Vec::new();
        self.open(method, path, body).await.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    async fn chat(&self, body: Value) -> (String, String) {
        self.ask("POST", "/v1/chat/completions", &body.to_string()).await
    }
}

fn request(stream: Value, metadata: Value) -> Value {
    json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}],
        "stream": stream, "metadata": metadata})
}

#[tokio::test]
async fn plain_and_streamed_answers_are_served_and_logged() {
    let running = start(Options::default()).await;
    let (head, body) = running.chat(request(json!(false), json!({}))).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    for name in
        ["x-request-id: req_", "openai-organization:", "x-ratelimit-reset-tokens:", "set-cookie: __cf_bm"]
    {
        assert!(head.contains(name), "{name} in {head}");
    }
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer["usage"]["total_tokens"], 9 + 16);

    let (head, body) = running.chat(request(json!(true), json!({}))).await;
    assert!(head.contains("text/event-stream") && head.contains("transfer-encoding: chunked"), "{head}");
    assert_eq!(body.matches("data: {").count(), 1 + 16 + 1);
    assert!(body.ends_with("data: [DONE]\n\n\r\n0\r\n\r\n"), "{body}");

    let log = running.provider.log();
    let seen: Vec<_> =
        log.iter().map(|s| (s.stream, s.status, s.complete, s.chunks_sent, s.tokens_sent)).collect();
    assert_eq!(seen, [(false, 200, true, 1, 16), (true, 200, true, 16, 16)]);
    assert_eq!((&*log[0].request, &*log[0].credential_last4), ("r1", "abcd"));
    let body = request(json!(true), json!({})).to_string();
    assert_eq!(Some(log[1].usage()), expected_usage(Endpoint::Chat, body.as_bytes()));
}

#[tokio::test]
async fn a_cut_delivers_what_came_before_it() {
    let running = start(Options::default()).await;
    let cut = json!({"simulate_cut_after_chunks": "5"});
    let (_, body) = running.chat(request(json!(true), cut.clone())).await;
    assert_eq!(body.matches("\"content\":\"").count(), 1 + 5, "{body}");
    assert!(!body.ends_with("0\r\n\r\n"), "{body}");

    let (head, body) = running.chat(request(json!(false), cut)).await;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    assert_eq!(length.parse::<usize>().unwrap() / 2, body.len());

    // Given up before the connection was closed, hence in the log by now.
    let seen: Vec<_> = running.provider.log().iter().map(|s| (s.complete, s.chunks_sent)).collect();
    assert_eq!(seen, [(false, 5), (false, 0)]);
}

#[tokio::test]
async fn a_caller_that_goes_away_is_logged() {
    let running = start(Options::default()).await;
    let hour = json!({"simulate_pace_ms": "3600000"});
    let body = request(json!(true), hour).to_string();
    let mut connection = running.open("POST", "/v1/chat/completions", &body).await;
    connection.read_u8().await.unwrap();
    drop(connection);
    let waiting = json!({"simulate_latency_ms": "3600000"});
    drop(running.open("POST", "/v1/chat/completions", &request(json!(false), waiting).to_string()).await);
    while running.provider.log().len() < 2 {
        tokio::task::yield_now().await;
    }
    assert!(running.provider.log().iter().all(|served| !served.complete && served.completion_tokens == 16));
}

#[tokio::test]
async fn a_fault_is_an_answer_too() {
    let running = start(Options { requests_per_minute: Some(2), ..Options::default() }).await;
    let (head, body) = running.chat(request(json!(false), json!({"simulate_garbage": "empty"}))).await;
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-length: 0"), "{head}");
    assert_eq!(body, "");
    let (head, _) = running.chat(request(json!(true), json!({"simulate_status": "503"}))).await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    let (head, body) = running.chat(request(json!(false), json!({}))).await;
    assert!(head.starts_with("HTTP/1.1 429") && head.contains("retry-after: "), "{head}");
    assert!(head.contains("x-ratelimit-remaining-requests: 0"), "{head}");
    assert!(body.contains("org-SECRETORG"), "{body}");
    let seen: Vec<_> = running.provider.log().iter().map(|s| (s.status, s.complete)).collect();
    assert_eq!(seen, [(200, true), (503, true), (429, true)]);
}

#[tokio::test]
async fn the_other_endpoints_answer() {
    let file = std::env::temp_dir().join(format!("tollgate-simulate-{}.jsonl", std::process::id()));
    let running = start(Options { log_file: Some(file.clone()), ..Options::default() }).await;
    let (_, body) = running.ask("GET", "/v1/models", "").await;
    assert!(body.contains("gpt-4o-mini"), "{body}");
    let (head, body) = running.ask("POST", "/v1/none", "").await;
    assert!(head.starts_with("HTTP/1.1 404") && body.contains("Invalid URL (POST /v1/none)"), "{head}{body}");
    let (head, _) = running.ask("GET", "/v1/chat/completions", "").await;
    assert!(head.starts_with("HTTP/1.1 405"), "{head}");

    let (_, body) = running.ask("PUT", "/simulate/options", r#"{"error_ratio_ppm": 1000000}"#).await;
    assert!(body.contains("\"error_ratio_ppm\":1000000"), "{body}");
    let (head, _) = running.ask("PUT", "/simulate/options", r#"{"typo": 1}"#).await;
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
    let (head, _) = running.chat(request(json!(false), json!({}))).await;
    assert!(head.starts_with("HTTP/1.1 500"), "{head}");

    let (_, body) = running.ask("GET", "/simulate/log", "").await;
    let statuses: Vec<_> = running.provider.log().iter().map(|served| served.status).collect();
    assert_eq!(statuses, [404, 405, 500]);
    assert_eq!(body.matches("\"credential_last4\":\"abcd\"").count(), 3, "{body}");
    let lines = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let lines: Vec<Served> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, running.provider.log());
}
