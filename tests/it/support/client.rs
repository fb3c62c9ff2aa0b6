//! A customer's client, over HTTP/1.1 or HTTP/2 without TLS, and one that writes raw bytes.

use super::eventually::PATIENCE;
use super::gateway::{Customer, Gateway};
use bytes::Bytes;
use http::HeaderMap;
use reqwest::{Body, RequestBuilder};
use serde_json::{Map, Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub const CHAT: &str = "/v1/chat/completions";

/// A client with a key.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    key: String,
}

impl Client {
    pub fn h1(gateway: &Gateway, customer: &Customer) -> Self {
        Self::new(gateway, customer, reqwest::Client::builder().http1_only())
    }

    pub fn h2(gateway: &Gateway, customer: &Customer) -> Self {
        Self::new(gateway, customer, reqwest::Client::builder().http2_prior_knowledge())
    }

    /// One of each.
    pub fn both(gateway: &Gateway, customer: &Customer) -> [Self; 2] {
        [Self::h1(gateway, customer), Self::h2(gateway, customer)]
    }

    fn new(gateway: &Gateway, customer: &Customer, builder: reqwest::ClientBuilder) -> Self {
        let http = builder.no_proxy().timeout(PATIENCE * 2).build().unwrap();
        Client { http, base: format!("http://{}", gateway.address), key: customer.key.clone() }
    }

    /// The same with another key.
    pub fn with_key(&self, key: &str) -> Self {
        Client { key: key.into(), ..self.clone() }
    }

    /// A chat request that is not sent yet.
    pub fn chat(&self, body: impl Into<Body>) -> RequestBuilder {
        self.chat_with_query("", body)
    }

    /// The same with something behind its path.
    pub fn chat_with_query(&self, query: &str, body: impl Into<Body>) -> RequestBuilder {
        self.post(&format!("{CHAT}{query}"), body)
    }

    /// A request to any endpoint that is not sent yet.
    pub fn post(&self, path: &str, body: impl Into<Body>) -> RequestBuilder {
        let request = self.request("POST", path).bearer_auth(&self.key);
        request.header("content-type", "application/json").body(body)
    }

    /// Sends a chat request and reads the answer to its end.
    pub async fn ask(&self, body: &Value) -> Answer {
        Answer::read(self.chat(body.to_string())).await
    }

    /// Any other path, with the key.
    pub async fn get(&self, path: &str) -> Answer {
        Answer::read(self.http.get(format!("{}{path}", self.base)).bearer_auth(&self.key)).await
    }

    /// Anything, without the key.
    pub fn request(&self, method: &str, path: &str) -> RequestBuilder {
        self.http.request(method.parse().unwrap(), format!("{}{path}", self.base))
    }
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub async fn read(request: RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Answer { status, headers, body: response.bytes().await.unwrap() }
    }

    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name} in {self:?}")).to_str().unwrap()
    }

    /// The request's id, as the gateway told it.
    #[track_caller]
    pub fn id(&self) -> String {
        self.header("x-request-id").to_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|why| panic!("{why}: {self:?}"))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// It is an error of this status and code, in the shape of OpenAI's.
    #[track_caller]
    pub fn is_error(&self, status: u16, code: Option<&str>) {
        let body = self.json();
        let error = body["error"].as_object().unwrap_or_else(|| panic!("{self:?}"));
        let mut names: Vec<&String> = error.keys().collect();
        names.sort_unstable();
        assert_eq!(names, ["code", "message", "param", "type"], "{self:?}");
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{self:?}");
        assert!(error["type"].is_string(), "{self:?}");
        assert_eq!((self.status, error["code"].as_str()), (status, code), "{self:?}");
        assert!(self.id().starts_with("req_"), "{self:?}");
    }
}

/// A chat request; `metadata` tells the simulated provider what to do.
pub fn ask(metadata: &[(&str, &str)]) -> Value {
    let metadata: Map<String, Value> =
        metadata.iter().map(|(key, value)| (format!("simulate_{key}"), json!(value))).collect();
    json!({
        "model": "gpt-4o-mini",
        "messages": [{ "role": "user", "content": "Say this is a test." }],
        "metadata": metadata
    })
}

/// The same request, streamed.
pub fn streamed(mut body: Value) -> Value {
    body["stream"] = json!(true);
    body
}

/// The data of each event of a stream.
pub fn event_stream(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.strip_prefix("data: ")).collect()
}

/// What a stream says.
pub fn text_of_stream(text: &str) -> String {
    let events = event_stream(text).into_iter().filter_map(|data| serde_json::from_str::<Value>(data).ok());
    events
        .map(|event| event["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned())
        .collect()
}

/// A stream of 60 chunks in no less than 600 ms.
pub fn slow_stream(model: &str) -> Value {
    let mut body = streamed(ask(&[("tokens", "60"), ("chunks", "60"), ("pace_ms", "10")]));
    body["model"] = json!(model);
    body
}

/// Reads a stream until it says `word`, and hangs up.
pub async fn hang_up_at(client: &Client, body: &Value, word: &str) -> (String, String) {
    let (id, came) = hang_up_in(client.chat(body.to_string()), word).await;
    (id, text_of_stream(&came))
}

/// The same of any stream, and its bytes.
pub async fn hang_up_in(request: RequestBuilder, word: &str) -> (String, String) {
    let mut response = request.send().await.unwrap();
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    let mut came = String::new();
    while !came.contains(word) {
        came.push_str(std::str::from_utf8(&response.chunk().await.unwrap().unwrap()).unwrap());
    }
    (id, came)
}

/// A connection for raw HTTP/1.1.
pub struct Raw {
    reader: BufReader<TcpStream>,
}

impl Raw {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Raw { reader: BufReader::new(stream) }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.reader.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// A chat request's head with these headers, each with its line end.
    pub fn head(customer: &Customer, headers: &str) -> String {
        format!(
            "POST {CHAT} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\n{headers}\r\n",
            customer.key
        )
    }

    /// Whether the gateway closes the connection, rather than waiting for another request.
    pub fn is_closed(&mut self) -> bool {
        self.reader.get_ref().set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        matches!(self.reader.read(&mut [0]), Ok(0))
    }

    /// Reads one answer with a content-length, or a header without a body.
    pub fn answer(&mut self) -> (u16, String, Vec<u8>) {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let read = self.reader.read_line(&mut head).unwrap();
            assert!(read > 0, "the connection was closed after {head:?}");
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let lower = head.to_ascii_lowercase();
        let length = lower.lines().find_map(|line| line.strip_prefix("content-length:"));
        let mut body = vec![0; length.map_or(0, |length| length.trim().parse().unwrap())];
        self.reader.read_exact(&mut body).unwrap();
        (status, head, body)
    }
}
