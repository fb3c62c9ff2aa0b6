//! TLS towards customers: versions, ALPN, and a certificate that a reload replaces.

use crate::strangers::{SLOW, metric, others_are_served, shed};
use crate::support::eventually::eventually;
use crate::support::gateway::PRICES;
use crate::support::scene::scene_with;
use crate::support::{Account, Customer, Gateway, Settings, Simulated, ask, audit, streamed};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub const ONE: (&str, &str) = (include_str!("../data/tls-one.pem"), include_str!("../data/tls-one.key"));
pub const TWO: (&str, &str) = (include_str!("../data/tls-two.pem"), include_str!("../data/tls-two.key"));

/// Puts a certificate and its key where the configuration names them.
pub fn install(gateway: &std::path::Path, (certificate, key): (&str, &str)) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(gateway.join("cert.pem"), certificate).unwrap();
    std::fs::write(gateway.join("key.pem"), key).unwrap();
    std::fs::set_permissions(gateway.join("key.pem"), std::fs::Permissions::from_mode(0o600)).unwrap();
}

pub fn settings() -> Settings {
    let gateway = ", tls: { listen: [\"127.0.0.1:0\"], certificate: cert.pem, key: key.pem }";
    Settings { gateway, prepare: Some(|folder| install(folder, ONE)), ..Settings::default() }
}

pub fn start(provider: &Simulated) -> (Gateway, SocketAddr, Customer) {
    let gateway = Gateway::start_with(&[Account::of(provider)], &settings());
    let customer = gateway.customer("1.00");
    let tls = gateway.tls.expect("a TLS listener");
    (gateway, tls, customer)
}

/// A connection by a client that trusts this certificate and nothing else.
pub async fn connect(
    address: SocketAddr,
    trusted: &str,
    alpn: &[&str],
    versions: &[&'static SupportedProtocolVersion],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// A request over HTTP/1.1, and all that comes back.
async fn ask_h1(stream: &mut TlsStream<TcpStream>, customer: &Customer) -> String {
    let body = ask(&[]).to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        customer.key,
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

/// A streamed request over HTTP/2: status and answer.
async fn ask_h2(stream: TlsStream<TcpStream>, customer: &Customer) -> (u16, String) {
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post("https://localhost/v1/chat/completions")
        .header("authorization", format!("Bearer {}", customer.key))
        .header("content-type", "application/json");
    let (answer, mut body) = client.send_request(request.body(()).unwrap(), false).unwrap();
    body.send_data(streamed(ask(&[])).to_string().into(), true).unwrap();
    let answer = answer.await.unwrap();
    let status = answer.status().as_u16();
    let (mut body, mut text) = (answer.into_body(), Vec::new());
    while let Some(piece) = body.data().await {
        text.extend_from_slice(&piece.unwrap());
    }
    (status, String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn customers_are_served_over_tls() {
    let provider = Simulated::start();
    let (gateway, tls, customer) = start(&provider);
    let mut served = 0;
    for versions in [&[&version::TLS12], &[&version::TLS13]] {
        let mut h1 = connect(tls, ONE.0, &["http/1.1"], versions).await.unwrap();
        assert_eq!(h1.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        let answer = ask_h1(&mut h1, &customer).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("tok15"), "{answer}");

        let h2 = connect(tls, ONE.0, &["h2", "http/1.1"], versions).await.unwrap();
        assert_eq!(h2.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (status, answer) = ask_h2(h2, &customer).await;
        assert!(status == 200 && answer.ends_with("data: [DONE]\n\n"), "{status} {answer}");
        served += 2;
    }
    audit(gateway, &[&provider]).is_exact(served);
}

#[tokio::test]
async fn a_reload_shows_the_new_certificate_and_keeps_connections() {
    let provider = Simulated::start();
    let (gateway, tls, customer) = start(&provider);
    let accounts = [Account::of(&provider)];
    let versions = [&version::TLS13];
    let mut before = connect(tls, ONE.0, &["http/1.1"], &versions).await.unwrap();
    let folder = gateway.config().parent().unwrap().to_owned();

    // A key that does not fit is refused, and the old certificate is shown on.
    install(&folder, (TWO.0, ONE.1));
    let said = gateway.reload(&accounts, &settings(), PRICES).await;
    let fault = said[0]["fault"].as_str().unwrap();
    assert!(fault.contains("gateway.tls.key: is not the key of `certificate`"), "{said:#?}");
    assert!(connect(tls, ONE.0, &[], &versions).await.is_ok());

    install(&folder, TWO);
    let said = gateway.reload(&accounts, &settings(), PRICES).await;
    assert_eq!(
        (&said[0]["setting"], &said[0]["message"]),
        (&"gateway.tls.certificate".into(), &"changed".into())
    );
    assert!(connect(tls, ONE.0, &[], &versions).await.is_err());
    let mut after = connect(tls, TWO.0, &["http/1.1"], &versions).await.unwrap();
    for stream in [&mut before, &mut after] {
        assert!(ask_h1(stream, &customer).await.contains("tok15"));
    }
    audit(gateway, &[&provider]).is_exact(2);
}

/// Slow clients have a second.
fn hasty() -> Settings {
    let gateway = ", header_timeout_ms: 1000, keepalive_timeout_ms: 1000, \
                    tls: { listen: [\"127.0.0.1:0\"], certificate: cert.pem, key: key.pem }";
    Settings { gateway, ..settings() }
}

#[tokio::test]
async fn slow_handshakes_are_shed_while_others_are_served() {
    let scene = scene_with(&hasty());
    // Nothing, and the beginning of a record that says it is longer.
    for said in [&b""[..], b"\x16\x03\x01\x00\xf0"] {
        let (begun, before) = (Instant::now(), shed(&scene.gateway, "handshake_timeout"));
        let mut slow = Vec::new();
        for _ in 0..SLOW {
            let mut stream = TcpStream::connect(scene.gateway.tls.unwrap()).await.unwrap();
            stream.write_all(said).await.unwrap();
            slow.push(stream);
        }
        others_are_served(&scene, || {
            // Bytes that come do not buy time.
            if !said.is_empty() {
                slow.iter().for_each(|stream| drop(stream.try_write(b"a")));
            }
            (shed(&scene.gateway, "handshake_timeout") == before + SLOW).then_some(())
        })
        .await;
        assert!(begun.elapsed() >= Duration::from_secs(1), "{said:?}");
    }
    let mut stream = TcpStream::connect(scene.gateway.tls.unwrap()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    stream.read_to_end(&mut Vec::new()).await.unwrap();
    assert_eq!(shed(&scene.gateway, "handshake_failed"), 1, "what is not TLS");
}

#[tokio::test]
async fn silence_after_the_handshake_is_shed_while_others_are_served() {
    let scene = scene_with(&hasty());
    let beginnings =
        [("h2", ""), ("h2", "PRI * HTTP/2.0\r\n"), ("http/1.1", ""), ("http/1.1", "GET /healthz")];
    for (alpn, said) in beginnings {
        let (begun, before) = (Instant::now(), shed(&scene.gateway, "header_timeout"));
        let mut slow = Vec::new();
        for _ in 0..SLOW / 4 {
            let tls = scene.gateway.tls.unwrap();
            let mut stream = connect(tls, ONE.0, &[alpn], &[&version::TLS13]).await.unwrap();
            stream.write_all(said.as_bytes()).await.unwrap();
            slow.push(stream);
        }
        let cut = || (shed(&scene.gateway, "header_timeout") == before + SLOW / 4).then_some(());
        others_are_served(&scene, cut).await;
        assert!(begun.elapsed() >= Duration::from_secs(1), "{alpn} {said:?}");
    }
}

#[tokio::test]
async fn a_quiet_connection_of_http_2_is_closed() {
    let scene = scene_with(&hasty());
    let stream = connect(scene.gateway.tls.unwrap(), ONE.0, &["h2"], &[&version::TLS13]).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    let begun = Instant::now();
    let closed = tokio::time::timeout(Duration::from_secs(30), connection).await;
    assert!(closed.is_ok() && begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    drop(client);
    assert_eq!(shed(&scene.gateway, "header_timeout"), 0);
}

#[tokio::test]
async fn connections_count_before_their_handshake() {
    let gateway =
        ", connections_max: 3, tls: { listen: [\"127.0.0.1:0\"], certificate: cert.pem, key: key.pem }";
    let scene = scene_with(&Settings { gateway, ..settings() });
    let tls = scene.gateway.tls.unwrap();
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(TcpStream::connect(tls).await.unwrap());
    }
    let open = || (metric(&scene.gateway, "tollgate_connections_open") == 3).then_some(());
    eventually("three are counted", open).await;
    for address in [tls, scene.gateway.address] {
        let mut refused = TcpStream::connect(address).await.unwrap();
        let mut told = Vec::new();
        refused.read_to_end(&mut told).await.unwrap();
        assert_eq!(told.starts_with(b"HTTP/1.1 503 "), address != tls, "one in all");
    }
    assert_eq!(shed(&scene.gateway, "connections"), 2);
}
