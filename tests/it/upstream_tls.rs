//! TLS towards providers: who is believed, under which name, and HTTP/2 where it is spoken.

use crate::support::gateway::text;
use crate::support::tls_front::{Agreed, Authority, Front};
use crate::support::{Account, Client, Gateway, Simulated, ask, audit, eventually, streamed};
use futures_util::future::join_all;
use serde_json::json;
use std::path::Path;

const BOTH: [&str; 2] = ["h2", "http/1.1"];

/// An account behind a front, asked for by the name `localhost`.
fn account(name: &str, front: &Front, ca: &Path) -> Account {
    let base_url = format!("https://localhost:{}/v1", front.address.port());
    Account::new(name, front.address).at(base_url).with(&format!("ca_file: \"{}\"", ca.display()))
}

fn agreed(name: Option<&str>, protocol: &str) -> Agreed {
    Agreed { name: name.map(str::to_owned), protocol: Some(protocol.to_owned()) }
}

#[tokio::test]
async fn many_requests_share_a_connection_of_http2() {
    let (provider, authority) = (Simulated::start(), Authority::new());
    let front = Front::start(&provider, &authority, "127.0.0.1", "localhost", &BOTH);
    let gateway = Gateway::start(&[account("first", &front, &authority.file())]);
    let customer = gateway.customer("1.00");
    let client = Client::h2(&gateway, &customer);
    // The first may not be back in the pool when the second comes.
    let (mut known, mut alone) = (usize::MAX, 0);
    while front.agreed().len() != known {
        known = front.agreed().len();
        assert_eq!(client.ask(&ask(&[])).await.status, 200);
        alone += 1;
    }
    let slow = ask(&[("latency_ms", "200")]);
    let (slow, events) = (slow.clone(), streamed(slow));
    let asked = (0..20).map(|number| client.ask(if number % 2 == 0 { &slow } else { &events }));
    for answer in join_all(asked).await {
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.text().contains("tok15"), "{answer:?}");
    }
    let mut large = ask(&[]);
    large["messages"] = json!([{ "role": "user", "content": "x".repeat(1_000_000) }]);
    assert_eq!(client.ask(&large).await.status, 200);
    let connections = front.agreed();
    // Who comes while another takes it from the pool opens one.
    assert!(connections.len() < known + 10, "{connections:?} for {} requests", alone + 21);
    assert!(connections.iter().all(|one| *one == agreed(Some("localhost"), "h2")), "{connections:?}");
    audit(gateway, &[&provider]).is_exact(alone + 21);
}

#[tokio::test]
async fn trouble_behind_http2_is_served_by_another_account() {
    let (provider, authority) = (Simulated::start(), Authority::new());
    let front = Front::start(&provider, &authority, "127.0.0.1", "localhost", &BOTH);
    let bad = account("bad", &front, &authority.file()).with("weight: 1000");
    let gateway = Gateway::start(&[bad, account("good", &front, &authority.file())]);
    let customer = gateway.customer("1.00");
    let client = Client::h1(&gateway, &customer);
    let mut failovers = 0;
    for status in ["500", "429", "401"] {
        for body in [ask, |faults: &[(&str, &str)]| streamed(ask(faults))] {
            let answer = client.ask(&body(&[("status", status), ("only_credential", "-bad")])).await;
            assert_eq!(answer.status, 200, "{status}: {answer:?}");
            let receipt = gateway.receipt(&answer.id()).await;
            failovers += receipt["attempts"].as_array().unwrap().len() - 1;
        }
    }
    assert!(failovers >= 3, "{failovers}");
    audit(gateway, &[&provider]).counts(6, 0, 0);
}

#[tokio::test]
async fn a_provider_without_http2_is_asked_by_http1() {
    let (provider, authority) = (Simulated::start(), Authority::new());
    let front = Front::start(&provider, &authority, "127.0.0.1", "localhost", &["http/1.1"]);
    let gateway = Gateway::start(&[account("first", &front, &authority.file())]);
    let customer = gateway.customer("1.00");
    for client in Client::both(&gateway, &customer) {
        for body in [ask(&[]), streamed(ask(&[]))] {
            assert_eq!(client.ask(&body).await.status, 200);
        }
    }
    assert!(front.agreed().iter().all(|agreed| agreed.protocol.as_deref() == Some("http/1.1")));
    audit(gateway, &[&provider]).is_exact(4);
}

#[tokio::test]
async fn an_address_of_ipv6_is_a_host() {
    let (provider, authority) = (Simulated::start(), Authority::new());
    let front = Front::start(&provider, &authority, "::1", "::1", &BOTH);
    let first = account("first", &front, &authority.file()).at(format!("https://{}/v1", front.address));
    let gateway = Gateway::start(&[first]);
    let customer = gateway.customer("1.00");
    assert_eq!(Client::h1(&gateway, &customer).ask(&ask(&[])).await.status, 200);
    // An address is no name to ask for, but is held against the certificate.
    assert_eq!(front.agreed(), [agreed(None, "h2")]);
    audit(gateway, &[&provider]).is_exact(1);
}

#[tokio::test]
async fn who_is_not_vouched_for_is_told_nothing() {
    let (provider, authority, other) = (Simulated::start(), Authority::new(), Authority::new());
    let right = Front::start(&provider, &authority, "127.0.0.1", "localhost", &BOTH);
    let misnamed = Front::start(&provider, &authority, "127.0.0.1", "provider.example", &BOTH);
    let by_the_system =
        Account::new("first", right.address).at(format!("https://localhost:{}/v1", right.address.port()));
    let accounts = [
        account("first", &right, &other.file()),
        account("first", &misnamed, &authority.file()),
        by_the_system,
    ];
    for first in accounts {
        let gateway = Gateway::start(&[first.with("check: models")]);
        let customer = gateway.customer("1.00");
        let answer = Client::h1(&gateway, &customer).ask(&ask(&[])).await;
        answer.is_error(503, Some("upstream_unavailable"));
        let receipt = gateway.receipt(&answer.id()).await;
        assert_eq!(text(&receipt["attempts"][0]["outcome"]), "connect", "{receipt}");
        gateway.writes("certificate").await;
        // Nor does a check believe it.
        eventually("it counts as down", || {
            gateway.scrape().contains("tollgate_upstream_up{upstream=\"first\"} 0").then_some(())
        })
        .await;
        gateway.settles_at(&customer, "1.00").await;
    }
    assert!(right.agreed().is_empty() && misnamed.agreed().is_empty());
    assert!(provider.provider.log().is_empty());
}

#[tokio::test]
async fn accounts_are_watched_over_tls() {
    let (provider, authority) = (Simulated::start(), Authority::new());
    let front = Front::start(&provider, &authority, "127.0.0.1", "localhost", &BOTH);
    let gateway = Gateway::start(&[account("first", &front, &authority.file()).with("check: models")]);
    eventually("it is asked for its models", || (!front.agreed().is_empty()).then_some(())).await;
    assert!(gateway.scrape().contains("tollgate_upstream_up{upstream=\"first\"} 1"));
}
