//! What the operator lets an account have, while one process takes the place of another.

use crate::queue::{asked, depth_is, held, patient, under_way};
use crate::support::client::Raw;
use crate::support::{Account, Client, Gateway, Scripted, Settings, Simulated, ask, audit};

#[tokio::test]
async fn what_an_account_used_before_an_upgrade_counts_after_it() {
    for (limits, asks, expect) in [
        ("requests_per_minute: 3", ask(&[]), 3),
        // Each may need nearly all, and has 28 in the end.
        ("tokens_per_minute: 186", capped("gpt-4o-mini", 60), 1),
        // Each may cost 0.60, and costs 0.16.
        ("spend_usd_per_day: \"1.00\"", capped("counted", 60), 3),
    ] {
        let provider = Simulated::start();
        let account = Account::of(&provider).with(&format!("limits: {{ {limits} }}"));
        let mut gateway = Gateway::start(&[account]);
        let customer = gateway.customer("5.00");
        let mut served = 0;
        while Client::h1(&gateway, &customer).ask(&asks).await.status == 200 {
            served += 1;
        }
        assert_eq!(served, expect, "{limits}");
        for _ in 0..2 {
            let next = gateway.upgrade();
            for client in Client::both(&next, &customer) {
                client.ask(&asks).await.is_error(503, Some("overloaded"));
            }
            assert!(gateway.stopped().success());
            gateway = next;
        }
        assert_eq!(audit(gateway, &[&provider]).reported, expect, "{limits}");
    }
}

/// The most that it may need is bounded.
fn capped(model: &str, tokens: u64) -> serde_json::Value {
    let mut body = ask(&[]);
    body["model"] = model.into();
    body["max_completion_tokens"] = tokens.into();
    body
}

/// An account that takes one request at once, and answers when it is told to.
fn one_at_once(provider: &Scripted) -> Gateway {
    let account = Account::scripted(provider).with("limits: { concurrency: 1 }");
    Gateway::start_with(&[account], &patient())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_old_process_has_under_way_counts_in_the_new_until_it_ends() {
    for upgrades in [1, 2] {
        let (provider, answer) = held();
        let mut gateway = one_at_once(&provider);
        let customer = gateway.customer("1.00");
        let first = under_way(&Client::h1(&gateway, &customer), &provider).await;
        let mut before = Vec::new();
        for _ in 0..upgrades {
            let next = gateway.upgrade();
            before.push(std::mem::replace(&mut gateway, next));
        }
        let second = asked(&Client::h2(&gateway, &customer));
        depth_is(&gateway, 1).await;
        assert_eq!(provider.seen().len(), 1);
        for waits in [first, second] {
            answer.send(()).unwrap();
            assert_eq!(waits.await.unwrap().status, 200);
        }
        for gateway in &mut before {
            assert!(gateway.stopped().success());
        }
        assert_eq!(provider.seen().len(), 2);
        audit(gateway, &[]).counts(2, 0, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_process_that_died_had_under_way_is_free_again() {
    let (provider, answer) = held();
    let mut gateway = one_at_once(&provider);
    let customer = gateway.customer("1.00");
    let first = under_way(&Client::h1(&gateway, &customer), &provider).await;
    let next = gateway.upgrade();
    let second = asked(&Client::h1(&next, &customer));
    depth_is(&next, 1).await;
    gateway.kill();
    depth_is(&next, 0).await;
    // What nobody waits for any more is answered first.
    (0..2).for_each(|_| answer.send(()).unwrap());
    assert_eq!(second.await.unwrap().status, 200);
    assert!(first.await.is_err(), "its connection broke");
    audit(next, &[]).counts(1, 0, 1);
}

#[tokio::test]
async fn what_the_old_process_still_begins_counts_in_the_new() {
    let provider = Simulated::start();
    let account = Account::of(&provider).with("limits: { requests_per_minute: 2 }");
    let mut gateway = Gateway::start_with(&[account], &Settings::default());
    let customer = gateway.customer("1.00");
    let body = ask(&[]).to_string();
    let head = Raw::head(&customer, &format!("content-length: {}\r\n", body.len()));
    let mut kept = Raw::connect(gateway.address);
    kept.send(head.clone() + &body);
    assert_eq!(kept.answer().0, 200);
    let next = gateway.upgrade();
    // The last of this connection.
    kept.send(head + &body);
    assert_eq!(kept.answer().0, 200);
    assert!(gateway.stopped().success());
    Client::h2(&next, &customer).ask(&ask(&[])).await.is_error(503, Some("overloaded"));
    audit(next, &[&provider]).counts(2, 0, 1);
}
