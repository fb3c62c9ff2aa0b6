//! Budgets of keys and customers: what refuses, what it says, and that changes apply at once. Their
//! exact edges are tested in the ledger's book, where time is an argument.

use crate::support::gateway::text;
use crate::support::scene::{Scene, scene};
use crate::support::{Answer, Client, ask};

fn says(refused: &Answer, status: u16, code: &str, words: &[&str]) {
    refused.is_error(status, Some(code));
    let error = &refused.json()["error"];
    assert_eq!(error["type"], "insufficient_quota");
    let message = text(&error["message"]);
    assert!(words.iter().all(|word| message.contains(word)), "{message}");
}

#[tokio::test]
async fn a_budget_refuses_says_which_and_when_and_is_changed_at_once() {
    let scene = scene();
    let made = scene.gateway.json(&[
        "key",
        "create",
        "--customer",
        &scene.customer.id,
        "--budget-per-day",
        "0.000001",
    ]);
    let (id, client) = (text(&made["id"]), scene.clients()[0].with_key(&text(&made["key"])));
    let set = |options: &[&str]| scene.gateway.json(&[&["key", "set", &id], options].concat());
    let daily = client.ask(&ask(&[])).await;
    says(&daily, 429, "project_spend_limit_exceeded", &["key", "0.000001 USD a day", "begins anew at"]);
    assert_eq!(daily.header("x-should-retry"), "false");
    let wait: u64 = daily.header("retry-after").parse().unwrap();
    assert!((1..=86_400).contains(&wait), "{wait}");
    set(&["--budget-per-day", "none", "--budget", "0.000001"]);
    let total = client.ask(&ask(&[])).await;
    says(&total, 402, "project_spend_limit_exceeded", &["0.000001 USD in all"]);
    assert!(!total.headers.contains_key("retry-after"));
    set(&["--budget", "0.50"]);
    let served = client.ask(&ask(&[])).await;
    assert_eq!(served.status, 200);
    let charge = served.header("x-tollgate-charge");
    let spent = &set(&[])["spent"];
    assert_eq!([&spent["day"], &spent["month"], &spent["total"]], [charge; 3]);

    let customer = ["customer", "set", &scene.customer.id];
    scene.gateway.json(&[&customer[..], &["--budget-per-month", charge]].concat());
    let monthly = client.ask(&ask(&[])).await;
    says(&monthly, 429, "organization_spend_limit_exceeded", &["account", "a month", "0.00 USD are left"]);
    assert_eq!(scene.clients()[1].ask(&ask(&[])).await.status, 429, "all keys together");
    assert!(scene.gateway.scrape().contains(r#"tollgate_admission_rejected_total{reason="over_budget"} 4"#));
    let shown = scene.gateway.run(&[&customer[..], &["--budget", "1"]].concat());
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert_eq!(
        shown,
        format!(
            "budget           1.00 USD, {charge} spent\nbudget_per_month {charge} USD, {charge} spent this month\n"
        )
    );

    let Scene { provider: _provider, gateway, customer } = scene;
    let gateway = gateway.again();
    let again = Client::h1(&gateway, &customer);
    says(&again.ask(&ask(&[])).await, 429, "organization_spend_limit_exceeded", &["0.00 USD are left"]);
    let wrong = gateway.run(&["customer", "set", &customer.id, "--budget", "-1"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", String::from_utf8_lossy(&wrong.stderr));
}
