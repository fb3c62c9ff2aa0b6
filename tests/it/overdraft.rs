//! What a customer may owe: the floor of their balance, set by the operator, and written off by hand.

use crate::support::gateway::{stdout, text};
use crate::support::{Client, Customer, Gateway, ask, scene};
use serde_json::{Value, json};
use std::process::Output;

#[track_caller]
fn fails(output: &Output, code: i32, why: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(why), "{stderr}");
}

/// Ten tokens at a cent.
fn dear() -> Value {
    let mut body = ask(&[("tokens", "10")]);
    body["model"] = json!("counted");
    body
}

fn set(gateway: &Gateway, customer: &Customer, overdraft: &str) -> Output {
    gateway.run(&["customer", "set", &customer.id, "--overdraft", overdraft, "--operator", "ada"])
}

fn write_off(gateway: &Gateway, customer: &Customer, more: &[&str]) -> Output {
    let command = ["credit", "write-off", "--customer", &customer.id, "--operator", "ada"];
    gateway.run(&[&command[..], more].concat())
}

#[tokio::test]
async fn a_customer_may_owe_what_is_agreed_and_no_more_until_it_is_written_off() {
    let scene::Scene { provider: _provider, gateway, .. } = scene::scene();
    let customer = gateway.customer("0");
    let [h1, h2] = Client::both(&gateway, &customer);
    h1.ask(&dear()).await.is_error(402, Some("insufficient_quota"));
    let shown = stdout(&set(&gateway, &customer, "0.26"));
    assert_eq!(shown, "overdraft 0.26 USD\nnot limited\n");

    for (client, cap, balance) in [(&h1, "26", "-0.10"), (&h2, "16", "-0.20")] {
        let served = client.ask(&dear()).await;
        assert_eq!((served.status, served.header("x-tollgate-output-cap")), (200, cap), "{served:?}");
        gateway.settles_at(&customer, balance).await;
    }
    let refused = h1.ask(&dear()).await;
    refused.is_error(402, Some("insufficient_quota"));
    assert!(text(&refused.json()["error"]["message"]).contains("0.06 USD are available"), "{refused:?}");
    let view = gateway.json(&["customer", "show", &customer.id]);
    assert_eq!((text(&view["balance"]), text(&view["overdraft"])), ("-0.20".into(), "0.26".into()));
    for client in [&h1, &h2] {
        let own = client.get("/tollgate/v1/balance").await.json();
        let told = ["balance", "available", "overdraft", "held"].map(|field| text(&own[field]));
        assert_eq!(told, ["-0.20", "-0.20", "0.26", "0.00"], "{own}");
    }
    fails(&set(&gateway, &customer, "0.19"), 3, "0.20 USD are owed or held already");
    fails(&set(&gateway, &customer, "-1"), 3, "from zero to a trillion");

    let gone = ["--reference", "case 9", "--reason", "moved away"];
    fails(&write_off(&gateway, &customer, &["--reference", "case 9"]), 2, "--reason");
    fails(
        &write_off(&gateway, &customer, &[&gone[..], &["--amount", "0.21"]].concat()),
        3,
        "0.20 USD are owed",
    );
    let part = stdout(&write_off(&gateway, &customer, &[&gone[..], &["--amount", "0.05"]].concat()));
    assert!(part.ends_with("now has -0.15 USD\n"), "{part}");
    let again = stdout(&write_off(&gateway, &customer, &[&gone[..], &["--amount", "0.05"]].concat()));
    assert_eq!(again, part, "the same write-off");
    let rest = ["--reference", "case 10", "--reason", "moved away"];
    assert!(stdout(&write_off(&gateway, &customer, &rest)).ends_with("now has 0.00 USD\n"));
    assert_eq!(stdout(&set(&gateway, &customer, "none")), "not limited\n");
    h1.ask(&dear()).await.is_error(402, Some("insufficient_quota"));

    let gateway = gateway.again();
    let verified = gateway.json(&["ledger", "verify"]);
    assert_eq!((text(&verified["written_off"]), text(&verified["revenue"])), ("0.20".into(), "0.20".into()));
    let statement = gateway.run(&["statement", "--customer", &customer.id, "--json"]);
    let lines: Vec<Value> =
        stdout(&statement).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let by_hand = lines.iter().filter(|line| line["by"] == "ada");
    let by_hand: Vec<_> =
        by_hand.map(|line| (text(&line["kind"]), text(&line["amount"]), text(&line["reference"]))).collect();
    let line = |kind: &str, amount: &str, reference: &str| (kind.into(), amount.into(), reference.into());
    let expect = [
        line("overdraft", "0.00", "0.26"),
        line("debt_write_off", "0.05", "case 9"),
        line("debt_write_off", "0.15", "case 10"),
        line("overdraft", "0.00", "0.00"),
    ];
    assert_eq!(by_hand, expect);
    let audit = stdout(&gateway.run(&["audit", "list", "--json"]));
    for action in ["customer.overdraft", "credit.write_off"] {
        let told = audit.lines().filter(|line| line.contains(action) && line.contains("ada"));
        assert_eq!(told.count(), if action == "credit.write_off" { 3 } else { 2 }, "{action}: {audit}");
    }
}
