//! A provider that sends exactly the bytes it was told to, for what the simulated one cannot do. It
//! keeps the requests that it saw, as they came.

use bytes::Bytes;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What is done with one request.
#[derive(Clone)]
pub struct Script {
    /// Sent at once.
    pub bytes: Bytes,
    /// And then?
    pub then: Then,
}

/// What follows on an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// The next request on the same connection.
    KeepAlive,
    /// The connection is closed, without having said so.
    Close,
    /// Nothing, until the gateway goes away.
    Silence,
}

/// A request as it came.
#[derive(Clone)]
pub struct Seen {
    /// The connection that it came on, counted from 0.
    pub connection: usize,
    /// Request line and headers.
    pub head: String,
    pub body: Vec<u8>,
}

impl Seen {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// A scripted provider. Its threads end with the process.
pub struct Scripted {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

type Answers = dyn Fn(usize, &Seen) -> Script + Send + Sync;

impl Scripted {
    /// Answers the n-th request, counted from 0, by `answer(n)`.
    pub fn start(answer: impl Fn(usize) -> Script + Send + Sync + 'static) -> Self {
        Self::serve(move |number, _| answer(number))
    }

    /// Answers each request by what it says.
    pub fn by_request(answer: impl Fn(&Seen) -> Script + Send + Sync + 'static) -> Self {
        Self::serve(move |_, seen| answer(seen))
    }

    fn serve(answer: impl Fn(usize, &Seen) -> Script + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (kept, answer): (_, Arc<Answers>) = (Arc::clone(&seen), Arc::new(answer));
        thread::spawn(move || {
            for (connection, stream) in listener.incoming().map_while(Result::ok).enumerate() {
                let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
                thread::spawn(move || serve(connection, &stream, &kept, &*answer));
            }
        });
        Scripted { address, seen }
    }

    /// Answers everything by this.
    pub fn always(script: Script) -> Self {
        Self::start(move |_| script.clone())
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

impl Script {
    /// These bytes, and the connection stays.
    pub fn send(bytes: impl Into<Vec<u8>>) -> Self {
        Script { bytes: Bytes::from(bytes.into()), then: Then::KeepAlive }
    }

    pub fn then(mut self, then: Then) -> Self {
        self.then = then;
        self
    }

    /// A whole answer with this status line, these headers (each with its line end) and this body.
    pub fn answer(status: &str, headers: &str, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let mut bytes =
            format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n", body.len()).into_bytes();
        bytes.extend_from_slice(body);
        Script::send(bytes)
    }

    /// 200 with JSON.
    pub fn json(body: impl AsRef<[u8]>) -> Self {
        Self::answer("200 OK", "content-type: application/json\r\n", body)
    }

    /// 200 with events.
    pub fn events(body: impl AsRef<[u8]>) -> Self {
        Self::answer("200 OK", "content-type: text/event-stream\r\n", body)
    }
}

fn serve(connection: usize, stream: &TcpStream, seen: &Mutex<Vec<Seen>>, answer: &Answers) {
    let _ = stream.set_nodelay(true);
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    while let Some(request) = read_request(&mut reader, connection) {
        let number = {
            let mut seen = seen.lock().unwrap();
            seen.push(request.clone());
            seen.len() - 1
        };
        let script = answer(number, &request);
        if writer.write_all(&script.bytes).is_err() {
            return;
        }
        match script.then {
            Then::KeepAlive => {}
            Then::Close => return,
            Then::Silence => {
                let _ = reader.read(&mut [0]);
                return;
            }
        }
    }
}

fn read_request(reader: &mut impl BufRead, connection: usize) -> Option<Seen> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let mut seen = Seen { connection, head, body: Vec::new() };
    let length = seen.header("content-length").map_or(0, |length| length.parse().unwrap());
    seen.body = vec![0; length];
    reader.read_exact(&mut seen.body).ok()?;
    Some(seen)
}
