//! Streams that break off, for every dialect: behind each event, and as nothing but an error.

use crate::support::gateway::text;
use crate::support::scripted::Then;
use crate::support::{Account, Client, Gateway, Script, Scripted, ask, audit, streamed};

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// A provider says nothing but that it failed, and the client leaves before it has ended: nobody was
/// served, and nobody pays.
#[tokio::test]
async fn a_stream_that_is_only_an_error_is_free_whoever_leaves() {
    let event = "data: {\"error\":{\"message\":\"overloaded\",\"type\":\"server_error\"}}\n\n";
    let script = Script::send(format!("{HEAD}{:x}\r\n{event}\r\n", event.len())).then(Then::Silence);
    let provider = Scripted::always(script);
    let mut ended = 0;
    for on_hang_up in ["cancel", "auto"] {
        let account = Account::scripted(&provider).with(&format!("on_hang_up: {on_hang_up}"));
        let gateway = Gateway::start(&[account]);
        let customer = gateway.customer("1.00");
        for client in Client::both(&gateway, &customer) {
            let mut response = client.chat(streamed(ask(&[])).to_string()).send().await.unwrap();
            let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
            let mut came = Vec::new();
            while !String::from_utf8_lossy(&came).contains("server_error") {
                came.extend_from_slice(&response.chunk().await.unwrap().expect("the error"));
            }
            drop(response);
            drop(client);
            let receipt = gateway.receipt(&id).await;
            assert_eq!(text(&receipt["charge"]), "0.00", "{receipt}");
            assert_eq!(text(&receipt["end"]), "client_gone", "{receipt}");
            ended += 1;
        }
        gateway.settles_at(&customer, "1.00").await;
        audit(gateway, &[]).counts(0, 0, 2);
    }
    assert_eq!(ended, 4);
}
