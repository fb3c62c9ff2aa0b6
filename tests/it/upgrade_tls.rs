//! A hand-over where customers speak TLS: streams that are under way end whole, connections that are kept
//! have one more request, and each new one is taken by the new process, with the same certificate.

use crate::support::gateway::PRICES;
use crate::support::{Account, Customer, Simulated, ask, audit, eventually, streamed};
use crate::tls::{ONE, TWO, connect, install, settings, start};
use bytes::Bytes;
use h2::client::SendRequest;
use rustls::version;
use serde_json::Value;
use std::net::SocketAddr;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;

/// A stream of 40 events that takes two seconds.
fn long() -> Value {
    streamed(ask(&[("tokens", "40"), ("chunks", "40"), ("pace_ms", "50")]))
}

/// A connection of HTTP/1.1 within TLS.
struct H1(BufReader<TlsStream<TcpStream>>);

impl H1 {
    async fn connect(tls: SocketAddr) -> Self {
        H1(BufReader::new(connect(tls, ONE.0, &["http/1.1"], &[&version::TLS13]).await.unwrap()))
    }

    /// Sends a request and reads the head of its answer.
    async fn ask(&mut self, customer: &Customer, body: &Value) -> String {
        let body = body.to_string();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            customer.key,
            body.len()
        );
        self.0.get_mut().write_all((head + &body).as_bytes()).await.unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(self.0.read_line(&mut head).await.unwrap() > 0, "closed after {head:?}");
        }
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        head
    }

    /// The rest of a plain answer.
    async fn plain(&mut self, head: &str) -> String {
        let lower = head.to_ascii_lowercase();
        let length = lower.lines().find_map(|line| line.strip_prefix("content-length:")).unwrap();
        let mut body = vec![0; length.trim().parse().unwrap()];
        self.0.read_exact(&mut body).await.unwrap();
        String::from_utf8(body).unwrap()
    }

    /// The rest of a streamed answer, with its chunks as they are framed.
    async fn chunks(&mut self) -> String {
        let mut came = String::new();
        while !came.ends_with("\r\n0\r\n\r\n") {
            assert!(self.0.read_line(&mut came).await.unwrap() > 0, "cut after {came}");
        }
        came
    }
}

/// A connection of HTTP/2 within TLS.
async fn h2(tls: SocketAddr) -> SendRequest<Bytes> {
    handshake(connect(tls, ONE.0, &["h2"], &[&version::TLS13]).await.unwrap()).await
}

async fn handshake(stream: TlsStream<TcpStream>) -> SendRequest<Bytes> {
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Sends a request and, once it is answered, reads its answer to the end in a task of its own.
async fn ask_h2(client: &SendRequest<Bytes>, customer: &Customer, body: &Value) -> JoinHandle<String> {
    let request = http::Request::post("https://localhost/v1/chat/completions")
        .header("authorization", format!("Bearer {}", customer.key))
        .header("content-type", "application/json");
    let mut client = client.clone().ready().await.unwrap();
    let (answer, mut sent) = client.send_request(request.body(()).unwrap(), false).unwrap();
    sent.send_data(body.to_string().into(), true).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 200);
    tokio::spawn(async move {
        let (mut body, mut came) = (answer.into_body(), Vec::new());
        while let Some(piece) = body.data().await {
            let piece = piece.unwrap();
            body.flow_control().release_capacity(piece.len()).unwrap();
            came.extend_from_slice(&piece);
        }
        String::from_utf8(came).unwrap()
    })
}

/// Asks on a new connection each time until it is told to stop, by turns plain and streamed, over either
/// protocol; says how many were served.
async fn load(tls: SocketAddr, customer: Customer, stopped: watch::Receiver<bool>) -> usize {
    let mut served = 0;
    while !*stopped.borrow() {
        let body = if served % 4 < 2 { ask(&[]) } else { streamed(ask(&[("pace_ms", "5")])) };
        let came = if served % 2 == 0 {
            ask_h2(&h2(tls).await, &customer, &body).await.await.unwrap()
        } else {
            let mut h1 = H1::connect(tls).await;
            let head = h1.ask(&customer, &body).await;
            if served % 4 < 2 { h1.plain(&head).await } else { h1.chunks().await }
        };
        assert!(came.contains("tok15"), "{came}");
        served += 1;
    }
    served
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_an_upgrade_over_tls() {
    let provider = Simulated::start();
    let (mut gateway, tls, customer) = start(&provider);
    let (stop, stopped) = watch::channel(false);
    let load: Vec<_> = (0..4).map(|_| tokio::spawn(load(tls, customer.clone(), stopped.clone()))).collect();
    // Streams that are under way, and connections that are kept.
    let mut h1_stream = H1::connect(tls).await;
    h1_stream.ask(&customer, &long()).await;
    let h2_stream = ask_h2(&h2(tls).await, &customer, &long()).await;
    let mut h1_kept = H1::connect(tls).await;
    let head = h1_kept.ask(&customer, &ask(&[])).await;
    assert!(h1_kept.plain(&head).await.contains("tok15"));

    let next = gateway.upgrade();
    assert_eq!(next.tls, Some(tls), "the same socket");
    let head = h1_kept.ask(&customer, &ask(&[])).await;
    assert!(head.to_ascii_lowercase().contains("connection: close"), "{head}");
    assert!(h1_kept.plain(&head).await.contains("tok15"));
    assert!(h1_stream.chunks().await.contains("[DONE]"));
    assert!(h2_stream.await.unwrap().ends_with("data: [DONE]\n\n"));
    drop(h1_stream);
    assert!(gateway.stopped().success(), "{}", gateway.output());

    let served_by_next = || {
        let scrape = next.scrape();
        let ok = scrape.lines().find_map(|line| line.strip_prefix(SERVED)?.trim().parse::<usize>().ok());
        ok.is_some_and(|ok| ok > 4).then_some(())
    };
    eventually("new connections are the new one's", served_by_next).await;
    stop.send(true).unwrap();
    let mut served = 4;
    for client in load {
        served += client.await.unwrap();
    }
    assert!(served > 20, "{served}");
    audit(next, &[&provider]).is_exact(served);
}

/// Requests that were served.
const SERVED: &str =
    r#"tollgate_requests_total{endpoint="chat.completions",model="gpt-4o-mini",status="200"}"#;

#[tokio::test]
async fn a_certificate_is_replaced_after_an_upgrade_as_before() {
    let provider = Simulated::start();
    let (mut gateway, tls, customer) = start(&provider);
    let next = gateway.upgrade();
    assert!(gateway.stopped().success());
    install(next.config().parent().unwrap(), TWO);
    let said = next.reload(&[Account::of(&provider)], &settings(), PRICES).await;
    assert_eq!(said[0]["setting"], "gateway.tls.certificate", "{said:#?}");
    assert!(connect(tls, ONE.0, &[], &[&version::TLS13]).await.is_err());
    let shown = connect(tls, TWO.0, &["h2"], &[&version::TLS13]).await.unwrap();
    assert!(ask_h2(&handshake(shown).await, &customer, &ask(&[])).await.await.unwrap().contains("tok15"));
    audit(next, &[&provider]).is_exact(1);
}
