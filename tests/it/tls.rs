//! TLS towards customers: versions, ALPN, and a certificate that a reload replaces.

use crate::support::gateway::PRICES;
use crate::support::{Account, Customer, Gateway, Settings, Simulated, ask, audit, streamed};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const ONE: (&str, &str) = (include_str!("../data/tls-one.pem"), include_str!("../data/tls-one.key"));
const TWO: (&str, &str) = (include_str!("../data/tls-two.pem"), include_str!("../data/tls-two.key"));

/// Puts a certificate and its key where the configuration names them.
fn install(gateway: &std::path::Path, (certificate, key): (&str, &str)) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(gateway.join("cert.pem"), certificate).unwrap();
    std::fs::write(gateway.join("key.pem"), key).unwrap();
    std::fs::set_permissions(gateway.join("key.pem"), std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn settings() -> Settings {
    let gateway = ", tls: { listen: [\"127.0.0.1:0\"], certificate: cert.pem, key: key.pem }";
    Settings { gateway, prepare: Some(|folder| install(folder, ONE)), ..Settings::default() }
}

fn start(provider: &Simulated) -> (Gateway, SocketAddr, Customer) {
    let gateway = Gateway::start_with(&[Account::of(provider)], &settings());
    let customer = gateway.customer("1.00");
    let tls = gateway.tls.expect("a TLS listener");
    (gateway, tls, customer)
}

/// A connection by a client that trusts this certificate and nothing else.
async fn connect(
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
