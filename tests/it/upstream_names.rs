//! Where an account's name leads: to addresses of IPv4 and of IPv6, of which any may be deaf.

use crate::support::{Account, Client, Gateway, Simulated, ask, audit, streamed};
use std::net::{IpAddr, TcpListener, ToSocketAddrs};

/// Whether this machine has the address, and leads the name there.
fn leads(name: &str, to: IpAddr) -> bool {
    let at = (name, 1).to_socket_addrs().map(|mut found| found.any(|found| found.ip() == to));
    let leads = at.unwrap_or(false) && TcpListener::bind((to, 0)).is_ok();
    if !leads {
        println!("left out: {name} does not lead to {to} on this machine");
    }
    leads
}

#[tokio::test]
async fn an_account_is_served_wherever_its_name_leads() {
    let mut led = 0;
    for (name, written, address) in [
        ("localhost", "localhost", "127.0.0.1"),
        ("localhost", "localhost", "::1"),
        ("::1", "[::1]", "::1"),
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
    ] {
        let address = address.parse().unwrap();
        if !leads(name, address) {
            continue;
        }
        let provider = Simulated::start_at(address);
        let at = format!("http://{written}:{}/v1", provider.address.port());
        let gateway = Gateway::start(&[Account::of(&provider).at(at)]);
        let customer = gateway.customer("1.00");
        for client in Client::both(&gateway, &customer) {
            for body in [ask(&[]), streamed(ask(&[]))] {
                let answer = client.ask(&body).await;
                assert_eq!(answer.status, 200, "{written} at {address}: {answer:?}");
            }
        }
        audit(gateway, &[&provider]).is_exact(4);
        led += 1;
    }
    assert!(led >= 2, "{led}");
}
