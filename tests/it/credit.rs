//! Credit by hand: refunds and adjustments, as operators give them and as receipts and statements show
//! them.

use crate::support::gateway::{json_of, stdout, text};
use crate::support::{Client, ask, audit};
use crate::support::{Customer, Gateway, scene};
use serde_json::{Value, json};
use std::process::Output;

/// What a plain request costs: 12 x 0.15 and 16 x 0.60 for a million.
const CHARGE: &str = "0.0000114";

#[track_caller]
fn fails(output: &Output, code: i32, why: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(why), "{stderr}");
}

fn refund(gateway: &Gateway, request: &str, reference: &str, more: &[&str]) -> Output {
    let command = ["credit", "refund", "--json", "--request", request, "--reference", reference];
    gateway.run(&[&command, more].concat())
}

fn adjust(gateway: &Gateway, customer: &Customer, amount: &str, reference: &str) -> Output {
    let amount = format!("--amount={amount}");
    let command =
        ["credit", "adjust", "--json", "--customer", &customer.id, &amount, "--reference", reference];
    gateway.run(&[&command[..], &["--reason", "an outage", "--operator", "ada"]].concat())
}

fn lines(output: &Output) -> Vec<Value> {
    stdout(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_charge_is_given_back_in_parts_and_never_more_than_it_was() {
    let scene::Scene { provider, gateway, customer } = scene::scene();
    let client = Client::h1(&gateway, &customer);
    let id = client.ask(&ask(&[])).await.id();
    gateway.settles_at(&customer, "0.9999886").await;

    let part =
        json_of(&refund(&gateway, &id, "ticket 1", &["--amount", "0.0000014", "--reason", "it was slow"]));
    let expected = json!({
        "entry_id": part["entry_id"], "customer": customer.id, "request_id": id, "charge": CHARGE,
        "refunded": "0.0000014", "balance": "0.99999"
    });
    assert_eq!(part, expected);
    assert_eq!(
        json_of(&refund(&gateway, &id, "ticket 1", &["--amount", "0.0000014", "--reason", "it was slow"])),
        part
    );
    fails(
        &refund(&gateway, &id, "ticket 1", &["--amount", "0.0000013"]),
        3,
        "reference was used for a refund of 0.0000014",
    );
    fails(
        &refund(&gateway, &id, "ticket 2", &["--amount", "0.0000101"]),
        3,
        "0.00001 USD of this charge can be given back",
    );
    let rest = json_of(&refund(&gateway, &id, "ticket 2", &[]));
    assert_eq!((text(&rest["refunded"]), text(&rest["balance"])), (CHARGE.into(), "1.00".into()));
    assert_eq!(json_of(&refund(&gateway, &id, "ticket 2", &[])), rest);
    fails(&refund(&gateway, &id, "ticket 3", &[]), 3, "0.00 USD of this charge can be given back");
    for malformed in ["0", "-1", "a"] {
        assert_ne!(refund(&gateway, &id, "ticket 4", &["--amount", malformed]).status.code(), Some(0));
    }
    fails(&refund(&gateway, "req_00000000000000000000000000000000", "x", &[]), 3, "no charge");

    let receipt = gateway.receipt(&id).await;
    assert_eq!(
        (text(&receipt["charge"]), text(&receipt["balance_after"])),
        (CHARGE.into(), "0.9999886".into())
    );
    let refunds = receipt["refunds"].as_array().unwrap();
    assert_eq!(refunds.len(), 2);
    assert_eq!((&refunds[0]["amount"], &refunds[0]["reason"]), (&json!("0.0000014"), &json!("it was slow")));
    assert_eq!((&refunds[1]["amount"], &refunds[1]["reference"]), (&json!("0.00001"), &json!("ticket 2")));
    let shown = stdout(&gateway.run(&["receipt", &id]));
    assert!(
        shown.contains("refund   0.0000014 USD, entry ") && shown.contains("ticket 1: it was slow"),
        "{shown}"
    );
    let audit = audit(gateway, &[&provider]);
    audit.is_exact(1);
    assert_eq!((&audit.verified["refunds"], &audit.verified["balances"]), (&json!(CHARGE), &json!("1.00")));
}

#[tokio::test]
async fn credit_is_given_and_taken_with_a_reason() {
    let scene::Scene { provider, gateway, customer } = scene::scene();
    let given = json_of(&adjust(&gateway, &customer, "0.50", "goodwill"));
    assert_eq!(text(&given["balance"]), "1.50");
    let taken = json_of(&adjust(&gateway, &customer, "-1.25", "correction"));
    assert_eq!(text(&taken["balance"]), "0.25");
    assert_eq!(json_of(&adjust(&gateway, &customer, "-1.25", "correction")), taken, "once");
    fails(
        &adjust(&gateway, &customer, "1.25", "correction"),
        3,
        "reference was used for an adjustment of -1.25",
    );
    fails(&adjust(&gateway, &customer, "1.00", "first"), 3, "reference was used for a deposit of 1.00");
    fails(&adjust(&gateway, &customer, "-0.26", "too much"), 3, "0.25 USD are available");
    fails(&adjust(&gateway, &customer, "0", "nothing"), 3, "must not be zero");
    let without_reason =
        ["credit", "adjust", "--customer", &customer.id, "--amount", "1", "--reference", "x"];
    fails(&gateway.run(&without_reason), 2, "--reason");

    let statement = lines(&gateway.run(&["statement", "--customer", &customer.id, "--json"]));
    let adjustments: Vec<&Value> = statement.iter().filter(|line| line["kind"] == "adjustment").collect();
    assert_eq!(adjustments.len(), 2);
    let last = adjustments[1];
    assert_eq!((&last["amount"], &last["balance_after"]), (&json!("-1.25"), &json!("0.25")));
    assert_eq!((&last["reason"], &last["by"]), (&json!("an outage"), &json!("ada")));
    let client = Client::h1(&gateway, &customer);
    assert_eq!(client.ask(&ask(&[])).await.status, 200);
    let statement = lines(&gateway.run(&["statement", "--customer", &customer.id, "--json"]));
    for line in statement.iter().filter(|line| ["hold", "capture"].contains(&line["kind"].as_str().unwrap()))
    {
        assert_eq!(line["price_version"], "it-1", "{line}");
    }
    let audit = audit(gateway, &[&provider]);
    audit.is_exact(1);
    assert_eq!(audit.verified["adjustments"], "-0.75");
}
