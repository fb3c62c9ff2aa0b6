//! Abuse by strangers: slow clients, too many connections, large headers, keys that are tried. Each is
//! shed and counted by its reason, while others are served.

use crate::support::client::{CHAT, Raw};
use crate::support::eventually::eventually;
use crate::support::scene::{Scene, scene_with};
use crate::support::{Account, Answer, Client, Gateway, Script, Scripted, Settings, ask, streamed};
use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::net::{TcpSocket, TcpStream};

/// Slow clients at once.
pub const SLOW: usize = 200;
/// The time that they are given.
const GIVEN: Duration = Duration::from_millis(1_000);

fn settings(gateway: &'static str) -> Settings {
    Settings { gateway, ..Settings::default() }
}

/// The value of a metric.
pub fn metric(gateway: &Gateway, name: &str) -> usize {
    let scrape = gateway.scrape();
    let line = scrape.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse().unwrap())
}

pub fn shed(gateway: &Gateway, reason: &str) -> usize {
    metric(gateway, &format!("tollgate_connections_shed_total{{reason=\"{reason}\"}}"))
}

/// Others are served while this many are slow, and none of the slow waits for them.
pub async fn others_are_served(scene: &Scene, wait: impl Fn() -> Option<()>) {
    let mut served = 0;
    while wait().is_none() {
        for client in scene.clients() {
            assert_eq!(client.ask(&ask(&[])).await.status, 200);
            served += 1;
        }
    }
    assert!(served > 0);
}

/// Sends a byte to each that still listens; tells how many do.
fn drip(slow: &mut [std::net::TcpStream]) -> usize {
    slow.iter_mut().map(|stream| usize::from(stream.write_all(b"a").is_ok())).sum()
}

fn connect(scene: &Scene, said: &str) -> Vec<std::net::TcpStream> {
    let connect = |_| {
        let mut stream = std::net::TcpStream::connect(scene.gateway.address).unwrap();
        stream.write_all(said.as_bytes()).unwrap();
        stream
    };
    (0..SLOW).map(connect).collect()
}

#[tokio::test]
async fn slow_headers_are_shed_while_others_are_served() {
    let scene = scene_with(&settings(", header_timeout_ms: 1000"));
    for said in ["", "POST ", "GET /healthz HTTP/1.1\r\nhost: gateway\r\nx: "] {
        let (begun, before) = (Instant::now(), shed(&scene.gateway, "header_timeout"));
        let slow = std::cell::RefCell::new(connect(&scene, said));
        others_are_served(&scene, || {
            // Bytes that come do not buy time.
            if !said.is_empty() {
                drip(&mut slow.borrow_mut());
            }
            (shed(&scene.gateway, "header_timeout") == before + SLOW).then_some(())
        })
        .await;
        assert!(begun.elapsed() >= GIVEN, "{said:?}");
    }
    // A further request on a connection has its own time, which begins at its first byte.
    let mut raw = Raw::connect(scene.gateway.address);
    for _ in 0..2 {
        raw.send("GET /healthz HTTP/1.1\r\nhost: gateway\r\n\r\n");
        assert_eq!(raw.answer().0, 200);
    }
    let idle = Instant::now();
    eventually("time passes", || (idle.elapsed() > GIVEN).then_some(())).await;
    raw.send("GET /healthz HTTP/1.1\r\n");
    raw.send("host: gateway\r\n\r\n");
    assert_eq!(raw.answer().0, 200);
    raw.send("GET /healthz HTTP/1.1\r\n");
    assert_eq!(raw.answer().0, 408);
    assert!(raw.is_closed());
}

#[tokio::test]
async fn slow_bodies_are_shed_while_others_are_served() {
    let scene = scene_with(&settings(", body_timeout_ms: 1000"));
    let begun = Instant::now();
    let head = Raw::head(&scene.customer, "content-length: 1000000\r\n");
    let slow = std::cell::RefCell::new(connect(&scene, &head));
    let timeouts = r#"tollgate_admission_rejected_total{reason="body_timeout"}"#;
    others_are_served(&scene, || {
        drip(&mut slow.borrow_mut());
        (metric(&scene.gateway, timeouts) == SLOW).then_some(())
    })
    .await;
    assert!(begun.elapsed() >= GIVEN);
}

/// A connection that asks for a stream and takes next to nothing of it.
async fn slow_reader(address: SocketAddr, request: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let stream = socket.connect(address).await.unwrap();
    let mut sent = 0;
    while sent < request.len() {
        stream.writable().await.unwrap();
        sent += stream.try_write(&request.as_bytes()[sent..]).unwrap_or(0);
    }
    stream
}

#[tokio::test]
async fn slow_readers_are_shed_while_others_are_served() {
    let event =
        format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{}\"}}}}]}}\n\n", "a".repeat(16_000));
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}\n\n";
    let long = Script::events(format!("{}{usage}data: [DONE]\n\n", event.repeat(300)));
    let short = Script::json(r#"{"usage":{"prompt_tokens":1,"completion_tokens":1}}"#);
    let provider = Scripted::by_request(move |seen| {
        if memchr::memmem::find(&seen.body, b"\"stream\":true").is_some() {
            long.clone()
        } else {
            short.clone()
        }
    });
    let accounts = [Account::scripted(&provider).with("limits: { concurrency: 1000 }")];
    let gateway = Gateway::start_with(&accounts, &settings(", write_timeout_ms: 1000"));
    let customer = gateway.customer("100.00");
    let body = streamed(ask(&[])).to_string();
    let request = format!("{}{body}", Raw::head(&customer, &format!("content-length: {}\r\n", body.len())));
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        slow.push(slow_reader(gateway.address, &request).await);
    }
    let mut served = 0;
    while shed(&gateway, "client_stalled") < SLOW {
        for client in Client::both(&gateway, &customer) {
            assert_eq!(client.ask(&ask(&[])).await.status, 200);
            served += 1;
        }
    }
    assert!(served > 0);
    eventually("none is in flight", || (metric(&gateway, "tollgate_in_flight") == 0).then_some(())).await;
}

#[tokio::test]
async fn connections_beyond_the_bound_are_told_so() {
    let scene = scene_with(&settings(", connections_max: 3"));
    let mut kept: Vec<Raw> = (0..3).map(|_| Raw::connect(scene.gateway.address)).collect();
    for raw in &mut kept {
        raw.send("GET /healthz HTTP/1.1\r\nhost: gateway\r\n\r\n");
        assert_eq!(raw.answer().0, 200);
    }
    assert_eq!(metric(&scene.gateway, "tollgate_connections_open"), 3);
    let mut refused = Raw::connect(scene.gateway.address);
    let (status, head, _) = refused.answer();
    assert_eq!(status, 503);
    assert!(head.to_ascii_lowercase().contains("retry-after: 1\r\n"), "{head}");
    assert!(refused.is_closed());
    assert_eq!(shed(&scene.gateway, "connections"), 1);
    kept.pop();
    eventually("there is room", || (metric(&scene.gateway, "tollgate_connections_open") == 2).then_some(()))
        .await;
    let mut raw = Raw::connect(scene.gateway.address);
    raw.send("GET /healthz HTTP/1.1\r\nhost: gateway\r\n\r\n");
    assert_eq!(raw.answer().0, 200);
}

#[tokio::test]
async fn headers_have_a_size_and_a_number_of_fields() {
    let scene = scene_with(&settings(", header_bytes_max: 4096, header_fields_max: 20"));
    let ask = |fields: &str| {
        let mut raw = Raw::connect(scene.gateway.address);
        raw.send(format!("GET /healthz HTTP/1.1\r\nhost: gateway\r\n{fields}\r\n"));
        let status = raw.answer().0;
        assert!(status == 200 || raw.is_closed());
        status
    };
    let around = "GET /healthz HTTP/1.1\r\nhost: gateway\r\nx: \r\n\r\n".len();
    assert_eq!(ask(&format!("x: {}\r\n", "y".repeat(4_096 - around))), 200);
    assert_eq!(ask(&format!("x: {}\r\n", "y".repeat(4_097 - around))), 431);
    assert_eq!(ask(&"x: y\r\n".repeat(19)), 200);
    assert_eq!(ask(&"x: y\r\n".repeat(20)), 431);
    // One that does not end is not read on.
    let mut endless = Raw::connect(scene.gateway.address);
    endless.send(format!("GET /healthz HTTP/1.1\r\nx: {}", "y".repeat(10_000)));
    endless.send("y");
    assert_eq!(endless.answer().0, 431);
    assert!(shed(&scene.gateway, "header_too_large") <= 1);
    let [_, h2] = scene.clients();
    let large = h2.request("GET", "/healthz").header("x", "y".repeat(5_000));
    assert_eq!(large.send().await.unwrap().status(), 431);
    let many =
        (0..21).fold(h2.request("GET", "/healthz"), |request, n| request.header(format!("x-{n}"), "y"));
    assert_eq!(many.send().await.unwrap().status(), 431);
}

#[tokio::test]
async fn keys_cannot_be_tried_at_will() {
    let scene = scene_with(&settings(", trusted_proxies: [\"127.0.0.1\"]"));
    let ask_from = |address: &str, key: &str| {
        let request = scene.clients()[0].request("POST", CHAT).bearer_auth(key);
        request.header("x-forwarded-for", address.to_owned()).body(ask(&[]).to_string())
    };
    for _ in 0..10 {
        let answer = Answer::read(ask_from("198.51.100.7", "tg_live_wrong")).await;
        answer.is_error(401, Some("invalid_api_key"));
    }
    let answer = Answer::read(ask_from("1.2.3.4, 198.51.100.7", "tg_live_wrong")).await;
    answer.is_error(429, Some("rate_limit_exceeded"));
    let wait: u64 = answer.header("retry-after").parse().unwrap();
    assert!((1..=6).contains(&wait));
    let elsewhere = Answer::read(ask_from("198.51.100.8", "tg_live_wrong")).await;
    elsewhere.is_error(401, Some("invalid_api_key"));
    let good = Answer::read(ask_from("198.51.100.7", &scene.customer.key)).await;
    assert_eq!(good.status, 200, "nobody is locked out by a neighbour");
    let counted = r#"tollgate_admission_rejected_total{reason="failed_keys"}"#;
    assert_eq!(metric(&scene.gateway, counted), 1);
}
