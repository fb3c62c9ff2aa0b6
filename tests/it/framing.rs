//! HTTP that is framed wrongly, sent raw: each is refused cleanly, and behind none of them does a
//! second request come out.

use crate::support::client::Raw;
use crate::support::eventually::PATIENCE;
use crate::support::{Account, Customer, Gateway, Script, Scripted, ask};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;

struct Scene {
    provider: Scripted,
    gateway: Gateway,
    customer: Customer,
}

fn scene() -> Scene {
    let provider = Scripted::always(Script::json(r#"{"usage":{"prompt_tokens":1,"completion_tokens":1}}"#));
    let gateway = Gateway::start(&[Account::scripted(&provider)]);
    let customer = gateway.customer("1.00");
    Scene { provider, gateway, customer }
}

impl Scene {
    /// A whole good request.
    fn good(&self) -> String {
        let body = ask(&[]).to_string();
        let length = format!("content-length: {}\r\n", body.len());
        format!("{}{length}\r\n{body}", self.head("POST /v1/chat/completions HTTP/1.1"))
    }

    /// A request line and what every request has.
    fn head(&self, line: &str) -> String {
        format!("{line}\r\nhost: gateway\r\nauthorization: Bearer {}\r\n", self.customer.key)
    }
}

/// Sends all of it and reads to the end of the connection.
fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The gateway may have closed it by now.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => answer.extend_from_slice(&piece[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("the connection stays open: {error}"),
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
    answer
}

/// Headers between those of every request and the body, and what follows on the header.
fn headers_and_bodies() -> Vec<(&'static str, &'static str)> {
    vec![
        // Two lengths, or none that can be read.
        ("content-length: 2\r\ncontent-length: 3\r\n", "{}"),
        ("content-length: 2\r\ncontent-length: 2\r\n", "{}"),
        ("content-length: 2, 3\r\n", "{}"),
        ("content-length: 2, 2\r\n", "{}"),
        ("content-length: 2,\r\n", "{}"),
        ("content-length: +2\r\n", "{}"),
        ("content-length: -2\r\n", "{}"),
        ("content-length: 0x2\r\n", "{}"),
        ("content-length: 2 2\r\n", "{}"),
        ("content-length: 2.0\r\n", "{}"),
        ("content-length: 2e0\r\n", "{}"),
        ("content-length: two\r\n", "{}"),
        ("content-length: \r\n", "{}"),
        ("content-length: \"2\"\r\n", "{}"),
        ("content-length: 2;\r\n", "{}"),
        ("content-length: 18446744073709551618\r\n", "{}"),
        ("content-length: 99999999999999999999999999999999\r\n", "{}"),
        ("content-length: \u{b2}\r\n", "{}"),
        // A length and chunks.
        ("content-length: 2\r\ntransfer-encoding: chunked\r\n", "2\r\n{}\r\n0\r\n\r\n"),
        ("transfer-encoding: chunked\r\ncontent-length: 2\r\n", "2\r\n{}\r\n0\r\n\r\n"),
        ("content-length: 0\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"),
        ("Content-Length: 6\r\nTRANSFER-ENCODING: chunked\r\n", "0\r\n\r\nX"),
        ("content-length: 4\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"),
        // Chunks that not everyone would recognise.
        ("transfer-encoding: xchunked\r\n", "0\r\n\r\n"),
        ("transfer-encoding: chunked, identity\r\n", "0\r\n\r\n"),
        ("transfer-encoding: identity, chunked\r\n", "0\r\n\r\n"),
        ("transfer-encoding: gzip, chunked\r\n", "0\r\n\r\n"),
        ("transfer-encoding: chunked, chunked\r\n", "0\r\n\r\n"),
        ("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"),
        ("transfer-encoding: chunked\r\ntransfer-encoding: x\r\n", "0\r\n\r\n"),
        ("transfer-encoding: x\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"),
        ("transfer-encoding: identity\r\n", "{}"),
        ("transfer-encoding: gzip\r\n", "{}"),
        ("transfer-encoding: \r\n", "{}"),
        ("transfer-encoding: \"chunked\"\r\n", "0\r\n\r\n"),
        ("transfer-encoding: chunked;q=1\r\n", "0\r\n\r\n"),
        ("transfer-encoding: ,chunked\r\n", "0\r\n\r\n"),
        ("transfer-encoding: chunked,\r\n", "0\r\n\r\n"),
        ("transfer-encoding: chun\u{212a}ed\r\n", "0\r\n\r\n"),
        ("transfer-encoding:\u{b}chunked\r\n", "0\r\n\r\n"),
        ("transfer-encoding: chunked\u{0}\r\n", "0\r\n\r\n"),
        // Names and lines that readers split differently.
        ("transfer-encoding : chunked\r\n", "0\r\n\r\n"),
        ("content-length : 2\r\n", "{}"),
        (" transfer-encoding: chunked\r\n", "0\r\n\r\n"),
        ("x: y\r\n transfer-encoding: chunked\r\n", "0\r\n\r\n"),
        ("x: y\r\n\ttransfer-encoding: chunked\r\n", "0\r\n\r\n"),
        ("content-length:\r\n 2\r\n", "{}"),
        ("transfer-encoding\r\n: chunked\r\n", "0\r\n\r\n"),
        ("x: y\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"),
        ("x: y\rtransfer-encoding: chunked\r\n", "0\r\n\r\n"),
        ("x: y\r\r\ncontent-length: 2\r\n", "{}"),
        ("x: y\n\ncontent-length: 2\r\n", "{}"),
        ("content-length: 2\n", "{}"),
        ("x\u{0}: y\r\ncontent-length: 2\r\n", "{}"),
        ("x: \u{0}\r\ncontent-length: 2\r\n", "{}"),
        ("x y: z\r\ncontent-length: 2\r\n", "{}"),
        ("x\u{7f}: z\r\ncontent-length: 2\r\n", "{}"),
        ("x(: z\r\ncontent-length: 2\r\n", "{}"),
        (": z\r\ncontent-length: 2\r\n", "{}"),
        ("xyz\r\ncontent-length: 2\r\n", "{}"),
        ("host: elsewhere\r\ncontent-length: 2\r\n", "{}"),
        ("host: gateway\r\ncontent-length: 2\r\n", "{}"),
        // Bodies that are not chunks.
        ("transfer-encoding: chunked\r\n", "x\r\n{}\r\n0\r\n\r\n"),
        ("transfer-encoding: chunked\r\n", "0x2\r\n{}\r\n0\r\n\r\n"),
        ("transfer-encoding: chunked\r\n", "-2\r\n{}\r\n0\r\n\r\n"),
        ("transfer-encoding: chunked\r\n", "+2\r\n{}\r\n0\r\n\r\n"),
        ("transfer-encoding: chunked\r\n", " 2\r\n{}\r\n0\r\n\r\n"),
        ("transfer-encoding: chunked\r\n", "2 2\r\n{}\r\n0\r\n\r\n"),
        ("transfer-encoding: chunked\r\n", "\r\n2\r\n{}\r\n0\r\n\r\n"),
        ("transfer-encoding: chunked\r\n", "2\n{}\r\n0\r\n\r\n"),
        ("transfer-encoding: chunked\r\n", "2\r{}\r\n0\r\n\r\n"),
        ("transfer-encoding: chunked\r\n", "2\r\n{}\n0\r\n\r\n"),
        ("transfer-encoding: chunked\r\n", "2\r\n{}0\r\n\r\n"),
        ("transfer-encoding: chunked\r\n", "2\r\n{}X\r\n0\r\n\r\n"),
        ("transfer-encoding: chunked\r\n", "1\r\n{}\r\n0\r\n\r\n"),
        ("transfer-encoding: chunked\r\n", "2;a\nb\r\n{}\r\n0\r\n\r\n"),
        ("transfer-encoding: chunked\r\n", "2;\u{0}\r\n{}\r\n0\r\n\r\n"),
        ("transfer-encoding: chunked\r\n", "ffffffffffffffff\r\n{}\r\n0\r\n\r\n"),
        ("transfer-encoding: chunked\r\n", "10000000000000002\r\n{}\r\n0\r\n\r\n"),
        ("transfer-encoding: chunked\r\n", "fffffffffffffffff\r\n{}\r\n0\r\n\r\n"),
        ("transfer-encoding: chunked\r\n", "2\r\n{}\r\n0\r\nX\r\n\r\n"),
        ("transfer-encoding: chunked\r\n", "2\r\n{}\r\n0\n\r\n"),
        ("transfer-encoding: chunked\r\n", "2\r\n{}\r\n0\r\n\n"),
        ("transfer-encoding: chunked\r\n", "\u{ff12}\r\n{}\r\n0\r\n\r\n"),
    ]
}

/// Request lines.
const LINES: [&str; 21] = [
    "POST /v1/chat/completions",
    "POST /v1/chat/completions HTTP/0.9",
    "POST /v1/chat/completions HTTP/2.0",
    "POST /v1/chat/completions HTTP/1.2",
    "POST /v1/chat/completions HTTP/1",
    "POST /v1/chat/completions HTTP/01.1",
    "POST /v1/chat/completions http/1.1",
    "POST /v1/chat/completions HTTP /1.1",
    "POST /v1/chat/completions HTTP/1.1 x",
    "POST  /v1/chat/completions HTTP/1.1",
    "POST\t/v1/chat/completions\tHTTP/1.1",
    "POST /v1/chat/completions\u{0} HTTP/1.1",
    "POST /v1/chat/completions\r HTTP/1.1",
    "POST v1/chat/completions HTTP/1.1",
    "POST * HTTP/1.1",
    " POST /v1/chat/completions HTTP/1.1",
    "P(ST /v1/chat/completions HTTP/1.1",
    "/v1/chat/completions HTTP/1.1",
    "CONNECT gateway:80 HTTP/1.1",
    "POST http://elsewhere@/v1/chat/completions HTTP/1.1",
    "PRI * HTTP/2.0",
];

#[tokio::test]
async fn a_wrong_frame_is_refused_and_hides_no_second_request() {
    let scene = scene();
    let good = scene.good();
    let mut cases: Vec<String> = Vec::new();
    for (headers, body) in headers_and_bodies() {
        let head = scene.head("POST /v1/chat/completions HTTP/1.1");
        cases.push(format!("{head}{headers}\r\n{body}{good}"));
    }
    for line in LINES {
        cases.push(format!("{}content-length: 0\r\n\r\n{good}", scene.head(line)));
    }
    let key = &scene.customer.key;
    cases.extend([
        // No host; chunks in a version that knows none.
        format!("POST /v1/chat/completions HTTP/1.1\r\nauthorization: Bearer {key}\r\n\r\n{good}"),
        format!(
            "{}transfer-encoding: chunked\r\n\r\n0\r\n\r\n{good}",
            scene.head("POST /v1/chat/completions HTTP/1.0")
        ),
        format!("\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0{good}"),
        format!("\x16\x03\x01\x02\0\x01\0\x01\x7c\x03\x03{good}"),
    ]);
    let address = scene.gateway.address;
    let answers = thread::scope(|scope| {
        let threads: Vec<_> =
            cases.iter().map(|case| scope.spawn(move || exchange(address, case.as_bytes()))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(cases.len() > 100, "{}", cases.len());
    for (case, answer) in cases.iter().zip(&answers) {
        let answer = String::from_utf8_lossy(answer);
        let refused = ["HTTP/1.1 4", "HTTP/1.1 5"].iter().any(|start| answer.starts_with(start));
        assert!(refused && answer.matches("HTTP/1.").count() == 1, "{case:?}: {answer:?}");
    }
    assert_eq!(scene.provider.seen().len(), 0);
    // What was hidden is served when it is not.
    let mut seen = Raw::connect(address);
    seen.send(&good);
    assert_eq!((seen.answer().0, scene.provider.seen().len()), (200, 1));
    scene.gateway.settles_at(&scene.customer, "0.99999925").await;
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// Header fields, each as a literal that is not indexed.
fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

/// What makes a request of HTTP/2 wrong, as frames behind the preface.
fn h2_cases(bearer: &str, body: &str) -> Vec<(&'static str, Vec<u8>)> {
    let length = body.len().to_string();
    let method = (":method", "POST");
    let path = (":path", "/v1/chat/completions");
    let (scheme, authority) = ((":scheme", "http"), (":authority", "gateway"));
    let key = ("authorization", bearer);
    let data = frame(DATA, END_STREAM, 1, body.as_bytes());
    let head = |more: &[(&str, &str)]| {
        let all = [&[method, path, scheme, authority, key], more].concat();
        frame(HEADERS, END_HEADERS, 1, &fields(&all))
    };
    let ask = |all: &[(&str, &str)]| [frame(HEADERS, END_HEADERS, 1, &fields(all)), data.clone()].concat();
    let with = |more: &[(&str, &str)]| [head(more), data.clone()].concat();
    let behind = |frame: Vec<u8>| [frame, head(&[]), data.clone()].concat();
    vec![
        ("no method", ask(&[path, scheme, authority, key])),
        ("no path", ask(&[method, scheme, authority, key])),
        ("no scheme", ask(&[method, path, authority, key])),
        ("an empty path", ask(&[method, (":path", ""), scheme, authority, key])),
        ("two methods", ask(&[method, method, path, scheme, authority, key])),
        ("two paths", ask(&[method, path, path, scheme, authority, key])),
        ("an unknown pseudo-header", ask(&[method, path, scheme, authority, (":x", "y"), key])),
        ("a status", ask(&[method, path, scheme, authority, (":status", "200"), key])),
        ("a pseudo-header behind others", ask(&[method, scheme, authority, key, path])),
        ("a method that is none", ask(&[(":method", "P ST"), path, scheme, authority, key])),
        ("a line end in the path", ask(&[method, (":path", "/v1/chat/completions\r\nx: y"), scheme, key])),
        ("a capital letter", with(&[("X-Upper", "y")])),
        ("a blank in a name", with(&[("x y", "z")])),
        ("a colon in a name", with(&[("x:y", "z")])),
        ("an empty name", with(&[("", "z")])),
        ("a line end in a value", with(&[("x", "y\r\ntransfer-encoding: chunked")])),
        ("a nul in a value", with(&[("x", "y\0")])),
        ("connection", with(&[("connection", "transfer-encoding")])),
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")])),
        ("keep-alive", with(&[("keep-alive", "x")])),
        ("proxy-connection", with(&[("proxy-connection", "x")])),
        ("upgrade", with(&[("upgrade", "h2c")])),
        ("te", with(&[("te", "gzip")])),
        ("a length too short", with(&[("content-length", "1")])),
        ("a length too long", with(&[("content-length", "100000")])),
        ("two lengths", with(&[("content-length", "1"), ("content-length", &length)])),
        ("no number", with(&[("content-length", "x")])),
        ("another host", with(&[("host", "elsewhere@gateway")])),
        ("data before its header", behind(frame(DATA, END_STREAM, 1, b"{}"))),
        ("data on stream 0", behind(frame(DATA, 0, 0, b"{}"))),
        ("a header on stream 0", behind(frame(HEADERS, END_HEADERS, 0, &fields(&[method])))),
        ("a stream of even number", behind(frame(HEADERS, END_HEADERS, 2, &fields(&[method, path, scheme])))),
        ("more padding than frame", behind(frame(HEADERS, END_HEADERS | PADDED, 1, &[200, 0]))),
        ("a continuation of nothing", behind(frame(CONTINUATION, END_HEADERS, 1, &[]))),
        (
            "a header broken into",
            [frame(HEADERS, 0, 1, &fields(&[method])), frame(PING, 0, 0, &[0; 8])].concat(),
        ),
        ("settings of a wrong length", behind(frame(SETTINGS, 0, 0, &[0; 5]))),
        ("settings on a stream", behind(frame(SETTINGS, 0, 1, &[]))),
        ("a ping of a wrong length", behind(frame(PING, 0, 0, &[0; 7]))),
        ("a window of nothing", behind(frame(WINDOW_UPDATE, 0, 0, &[0; 4]))),
        ("a window too wide", behind(frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]))),
        ("a frame too large", behind(frame(DATA, 0, 1, &vec![0; 16_385]))),
        ("an index of nothing", behind(frame(HEADERS, END_HEADERS, 1, &[0xff, 0xff, 0xff, 0x7f]))),
        (
            "a compressed text that is none",
            behind(frame(HEADERS, END_HEADERS, 1, &[0, 0x81, 0xff, 0x81, 0xff])),
        ),
    ]
}

/// Reads frames until one says how it went: its kind, and the first byte of its payload.
fn verdict(address: SocketAddr, frames: &[u8]) -> Option<(u8, u8)> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, &[])].concat();
    stream.write_all(&[&preface, frames].concat()).unwrap();
    loop {
        let mut head = [0; 9];
        match stream.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("no answer"),
            Err(_) => return None,
        }
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        if stream.read_exact(&mut payload).is_err() {
            return None;
        }
        if [HEADERS, RST_STREAM, GOAWAY].contains(&head[3]) {
            return Some((head[3], payload[0]));
        }
    }
}

#[tokio::test]
async fn a_wrong_frame_of_http_2_is_refused() {
    /// The static table's `:status: 200`.
    const OK: u8 = 0x88;
    let scene = scene();
    let address = scene.gateway.address;
    let bearer = format!("Bearer {}", scene.customer.key);
    let body = ask(&[]).to_string();
    let cases = h2_cases(&bearer, &body);
    assert!(cases.len() > 40);
    thread::scope(|scope| {
        for (what, frames) in &cases {
            scope.spawn(move || {
                let verdict = verdict(address, frames);
                assert_ne!(verdict, Some((HEADERS, OK)), "{what}");
            });
        }
    });
    assert_eq!(scene.provider.seen().len(), 0);
    let good = [
        (":method", "POST"),
        (":path", "/v1/chat/completions"),
        (":scheme", "http"),
        (":authority", "gateway"),
        ("authorization", &bearer),
    ];
    let frames =
        [frame(HEADERS, END_HEADERS, 1, &fields(&good)), frame(DATA, END_STREAM, 1, body.as_bytes())]
            .concat();
    assert_eq!((verdict(address, &frames), scene.provider.seen().len()), (Some((HEADERS, OK)), 1));
}
