//! Suspending, banning and readmitting customers: at once, also for what is in flight, and with an
//! audit that says by whom and why.

use crate::support::gateway::{stdout, text};
use crate::support::{Client, Gateway, ask, audit, event_stream, eventually, scene, streamed};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::process::Output;
use tollgate::money::Amount;

/// Longer than any test waits.
const FOR_EVER_MS: &str = "600000";

#[track_caller]
fn fails(output: &Output, code: i32, why: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(why), "{stderr}");
}

fn lines(output: &Output) -> Vec<Value> {
    stdout(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn set(gateway: &Gateway, step: &str, customer: &str, reason: &str) -> Value {
    gateway.json(&["customer", step, customer, "--reason", reason, "--operator", "ada"])
}

/// Begins a stream and reads of it until it says `word`.
async fn begin(client: &Client, body: &Value, word: &str) -> (reqwest::Response, String) {
    let mut response = client.chat(body.to_string()).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let mut came = String::new();
    while !came.contains(word) {
        came.push_str(std::str::from_utf8(&response.chunk().await.unwrap().unwrap()).unwrap());
    }
    (response, came)
}

#[tokio::test]
async fn who_is_suspended_finishes_what_was_begun_and_begins_nothing() {
    let scene::Scene { provider, gateway, customer } = scene::scene();
    let clients = Client::both(&gateway, &customer);
    let slow = streamed(ask(&[("tokens", "40"), ("chunks", "40"), ("pace_ms", "10")]));
    let begun = join_all(clients.iter().map(|client| begin(client, &slow, "tok1"))).await;

    let view = set(&gateway, "suspend", &customer.id, "a bill is open");
    assert_eq!((text(&view["status"]), text(&view["reason"])), ("suspended".into(), "a bill is open".into()));
    for client in &clients {
        client.ask(&ask(&[])).await.is_error(403, Some("account_suspended"));
        client.get("/v1/models").await.is_error(403, Some("account_suspended"));
        assert_eq!(client.get("/tollgate/v1/balance").await.status, 200, "they may look at their account");
    }
    fails(&gateway.run(&["customer", "suspend", &customer.id]), 3, "suspended already");
    fails(&gateway.run(&["customer", "unban", &customer.id]), 3, "suspended already");
    assert!(stdout(&gateway.run(&["customer", "list"])).contains("a bill is open"));
    for (response, mut came) in begun {
        came.push_str(&response.text().await.unwrap());
        assert_eq!(event_stream(&came).last(), Some(&"[DONE]"), "{came}");
    }
    let deposit = ["credit", "deposit", "--customer", &customer.id, "--amount", "1", "--reference", "paid"];
    assert!(gateway.run(&deposit).status.success(), "they may pay");
    let view = gateway.json(&["customer", "resume", &customer.id]);
    assert_eq!((text(&view["status"]), &view["reason"]), ("active".into(), &Value::Null));
    assert_eq!(clients[0].ask(&ask(&[])).await.status, 200);
    fails(&gateway.run(&["customer", "resume", &customer.id]), 3, "active");
    audit(gateway, &[&provider]).is_exact(3);
}

#[tokio::test]
async fn a_ban_ends_what_is_in_flight_and_takes_the_credit_until_it_is_lifted() {
    let scene::Scene { provider, mut gateway, customer } = scene::scene();
    let other = gateway.customer("1.00");
    let clients = Client::both(&gateway, &customer);
    // Streams whose provider says something and then nothing, and answers that never come.
    let stalled = streamed(ask(&[("tokens", "20"), ("chunks", "2"), ("pace_ms", FOR_EVER_MS)]));
    let begun = join_all(clients.iter().map(|client| begin(client, &stalled, "tok9"))).await;
    let never = ask(&[("latency_ms", FOR_EVER_MS)]);
    let waiting = clients.clone().map(|client| {
        let never = never.clone();
        tokio::spawn(async move { client.ask(&never).await })
    });
    let spared = Client::h1(&gateway, &other);
    let (undisturbed, _) =
        begin(&spared, &streamed(ask(&[("tokens", "60"), ("chunks", "60"), ("pace_ms", "10")])), "tok1")
            .await;
    eventually("all are in flight", || gateway.scrape().contains("tollgate_holds_open 5").then_some(()))
        .await;

    let view = set(&gateway, "ban", &customer.id, "spam, see case 12");
    assert_eq!(text(&view["status"]), "banned");
    for (response, mut came) in begun {
        came.push_str(&response.text().await.unwrap());
        let last: Value = serde_json::from_str(event_stream(&came).last().unwrap()).unwrap();
        assert_eq!(last["error"]["code"], "account_banned", "a stream says why it ends: {came}");
    }
    for answer in waiting {
        answer.await.unwrap().is_error(403, Some("account_banned"));
    }
    assert!(undisturbed.text().await.unwrap().ends_with("data: [DONE]\n\n"), "others go on");
    for client in &clients {
        for path in ["/v1/models", "/tollgate/v1/balance"] {
            client.get(path).await.is_error(403, Some("account_banned"));
        }
        client.ask(&ask(&[])).await.is_error(403, Some("account_banned"));
    }
    eventually("all have ended", || gateway.scrape().contains("tollgate_holds_open 0").then_some(())).await;
    let view = gateway.json(&["customer", "show", &customer.id]);
    assert_eq!((text(&view["balance"]), text(&view["by"])), ("0.00".into(), "ada".into()));
    let forfeited = Amount::parse(&text(&view["forfeited"])).unwrap();
    assert!(
        forfeited > Amount::ZERO && forfeited < Amount::parse("1.00").unwrap(),
        "what was delivered is charged"
    );
    let deposit = ["credit", "deposit", "--customer", &customer.id, "--amount", "1", "--reference", "more"];
    fails(&gateway.run(&deposit), 3, "unban them first");
    fails(&gateway.run(&["customer", "resume", &customer.id]), 3, "unban them first");
    fails(&gateway.run(&["customer", "ban", &other.id]), 2, "--reason");

    assert!(gateway.stop().success());
    let gateway = gateway.again();
    let client = Client::h1(&gateway, &customer);
    client.ask(&ask(&[])).await.is_error(403, Some("account_banned"));
    let view = set(&gateway, "unban", &customer.id, "the appeal was right");
    assert_eq!((text(&view["status"]), text(&view["balance"])), ("active".into(), forfeited.to_string()));
    assert_eq!(client.ask(&ask(&[])).await.status, 200);

    let statement = lines(&gateway.run(&["statement", "--customer", &customer.id, "--json"]));
    let by_hand: Vec<&Value> = statement.iter().filter(|line| line["by"] == "ada").collect();
    let kinds: Vec<String> = by_hand.iter().map(|line| text(&line["kind"])).collect();
    assert_eq!((&*kinds[0], &*kinds[1]), ("ban", "forfeiture"));
    assert!(
        kinds[1..kinds.len() - 2].iter().all(|kind| kind == "forfeiture") && kinds.len() == 2 + 4 + 2,
        "{kinds:?}"
    );
    assert_eq!(kinds[kinds.len() - 2..], ["forfeiture_reversal", "unban"]);
    assert!(by_hand[..6].iter().all(|line| line["reason"] == "spam, see case 12"));
    let audit = audit(gateway, &[&provider]);
    // Each was charged what was delivered, or the input of what was never answered.
    audit.counts(2, 4, 0);
    assert_eq!(audit.verified["forfeited"], json!("0.00"));
    assert!(audit.receipts.iter().filter(|receipt| &*receipt.end == "stopped").count() == 4);
}
