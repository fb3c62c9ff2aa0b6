//! What the operator lets an account, a key or a customer have, while one process takes the place of another.

use crate::queue::{asked, depth_is, held, patient, under_way};
use crate::support::client::Raw;
use crate::support::eventually::PATIENCE;
use crate::support::{
    Account, Answer, Client, Customer, Gateway, Scripted, Settings, Simulated, ask, audit, eventually,
};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

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
fn capped(model: &str, tokens: u64) -> Value {
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

/// A whole request.
fn asks_raw(customer: &Customer) -> String {
    let body = ask(&[]).to_string();
    Raw::head(customer, &format!("content-length: {}\r\n", body.len())) + &body
}

#[tokio::test]
async fn what_the_old_process_still_begins_counts_in_the_new() {
    let provider = Simulated::start();
    let account = Account::of(&provider).with("limits: { requests_per_minute: 2 }");
    let mut gateway = Gateway::start_with(&[account], &Settings::default());
    let customer = gateway.customer("1.00");
    let asks = asks_raw(&customer);
    let mut kept = Raw::connect(gateway.address);
    kept.send(&asks);
    assert_eq!(kept.answer().0, 200);
    let next = gateway.upgrade();
    // The last of this connection.
    kept.send(&asks);
    assert_eq!(kept.answer().0, 200);
    assert!(gateway.stopped().success());
    Client::h2(&next, &customer).ask(&ask(&[])).await.is_error(503, Some("overloaded"));
    audit(next, &[&provider]).counts(2, 0, 1);
}

/// Whose limits are set.
#[derive(Clone, Copy, Debug)]
enum Whose {
    Key,
    Customer,
}

/// A customer with these limits, or a key of theirs with them.
fn limited(gateway: &Gateway, whose: Whose, limits: &Value) -> Customer {
    let customer = gateway.customer("5.00");
    let path = match whose {
        Whose::Key => format!("/keys/{}/limits", customer.key_id),
        Whose::Customer => format!("/customers/{}/limits", customer.id),
    };
    let (status, set) = gateway.admin_post(&path, limits);
    assert_eq!((status, &set["limits"]), (200, limits));
    customer
}

fn is_limited(answer: &Answer) {
    answer.is_error(429, Some("rate_limit_exceeded"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_customer_used_before_an_upgrade_counts_after_it() {
    let mut large = ask(&[("tokens", "200")]);
    large["max_completion_tokens"] = json!(200);
    // What flows back in this time is one more.
    let flow = Duration::from_secs(12);
    for (whose, limits, asks, processes, last) in [
        (Whose::Customer, json!({ "rpm": 5 }), ask(&[]), &[3][..], 2),
        (Whose::Key, json!({ "rpm": 5 }), ask(&[]), &[2, 1], 2),
        // Each may need 240, and has 212 in the end.
        (Whose::Customer, json!({ "tpm": 900 }), large.clone(), &[3], 1),
        (Whose::Key, json!({ "tpm": 900 }), large, &[1, 2], 1),
    ] {
        let provider = Simulated::start();
        let mut gateway = Gateway::start(&[Account::of(&provider)]);
        let customer = limited(&gateway, whose, &limits);
        let begun = Instant::now();
        for requests in processes {
            let client = Client::h2(&gateway, &customer);
            for _ in 0..*requests {
                assert_eq!(client.ask(&asks).await.status, 200, "{limits}");
            }
            let next = gateway.upgrade();
            drop(client);
            assert!(gateway.stopped().success());
            gateway = next;
        }
        let client = Client::h1(&gateway, &customer);
        let mut served = 0;
        let refused = loop {
            match client.ask(&asks).await {
                answer if answer.status == 200 => served += 1,
                answer => break answer,
            }
        };
        is_limited(&refused);
        let more = usize::try_from(begun.elapsed().as_secs() / flow.as_secs()).unwrap();
        assert!(
            (last..=last + more).contains(&served),
            "{whose:?} {limits}: {served} more after the upgrade"
        );
        let all = processes.iter().sum::<usize>() + served;
        assert_eq!(audit(gateway, &[&provider]).reported, all, "{limits}");
    }
}

/// Asks: what will come of it once the provider has it, or the refusal.
async fn tried(client: &Client, body: &Value, at: &Scripted) -> Result<JoinHandle<Answer>, Answer> {
    let (seen, client, body) = (at.seen().len(), client.clone(), body.clone());
    let asked = tokio::spawn(async move { client.ask(&body).await });
    let is_in = eventually("it is let in or not", || match at.seen().len() > seen {
        true => Some(true),
        false => asked.is_finished().then_some(false),
    });
    if is_in.await { Ok(asked) } else { Err(asked.await.unwrap()) }
}

async fn is_refused(client: &Client, body: &Value, at: &Scripted) {
    is_limited(&tried(client, body, at).await.expect_err("no more than the limit"));
}

/// Asks until it is let in.
async fn let_in(client: &Client, body: &Value, at: &Scripted) -> JoinHandle<Answer> {
    let begun = Instant::now();
    loop {
        match tried(client, body, at).await {
            Ok(asked) => return asked,
            Err(refused) => is_limited(&refused),
        }
        assert!(begun.elapsed() < PATIENCE, "it is not let in");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_customer_has_under_way_at_the_old_process_counts_in_the_new_until_it_ends() {
    // Each may need 890 tokens, and has 12.
    let body = capped("gpt-4o-mini", 850);
    for (whose, limits) in
        [(Whose::Customer, json!({ "concurrency": 2 })), (Whose::Key, json!({ "tpm": 1850 }))]
    {
        for upgrades in [1, 2] {
            let (provider, answer) = held();
            let mut gateway = Gateway::start(&[Account::scripted(&provider)]);
            let customer = limited(&gateway, whose, &limits);
            let first = let_in(&Client::h1(&gateway, &customer), &body, &provider).await;
            let mut before = Vec::new();
            for _ in 0..upgrades {
                let next = gateway.upgrade();
                before.push(std::mem::replace(&mut gateway, next));
            }
            let client = Client::h2(&gateway, &customer);
            let second = tried(&client, &body, &provider).await.expect("one more");
            is_refused(&client, &body, &provider).await;
            answer.send(()).unwrap();
            assert_eq!(first.await.unwrap().status, 200);
            let third = let_in(&client, &body, &provider).await;
            is_refused(&client, &body, &provider).await;
            (0..2).for_each(|_| answer.send(()).unwrap());
            for waits in [second, third] {
                assert_eq!(waits.await.unwrap().status, 200);
            }
            for gateway in &mut before {
                assert!(gateway.stopped().success());
            }
            assert_eq!(provider.seen().len(), 3, "{limits}");
            audit(gateway, &[]).counts(3, 0, 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_customer_had_under_way_at_a_process_that_died_is_free_again() {
    let (provider, answer) = held();
    let mut gateway = Gateway::start(&[Account::scripted(&provider)]);
    let customer = limited(&gateway, Whose::Customer, &json!({ "concurrency": 1 }));
    let first = let_in(&Client::h1(&gateway, &customer), &ask(&[]), &provider).await;
    let next = gateway.upgrade();
    let client = Client::h1(&next, &customer);
    is_refused(&client, &ask(&[]), &provider).await;
    gateway.kill();
    let second = let_in(&client, &ask(&[]), &provider).await;
    // What nobody waits for any more is answered first.
    (0..2).for_each(|_| answer.send(()).unwrap());
    assert_eq!(second.await.unwrap().status, 200);
    assert!(first.await.is_err(), "its connection broke");
    audit(next, &[]).counts(1, 0, 1);
}

#[tokio::test]
async fn what_a_customer_still_begins_at_the_old_process_is_no_more_than_the_limit_of_both() {
    for first_at_new in [false, true] {
        let provider = Simulated::start();
        let mut gateway = Gateway::start(&[Account::of(&provider)]);
        let customer = limited(&gateway, Whose::Customer, &json!({ "rpm": 2 }));
        let asks = asks_raw(&customer);
        let mut kept = Raw::connect(gateway.address);
        kept.send(&asks);
        assert_eq!(kept.answer().0, 200);
        let next = gateway.upgrade();
        let client = Client::h2(&next, &customer);
        if first_at_new {
            assert_eq!(client.ask(&ask(&[])).await.status, 200);
        }
        // The last of this connection.
        kept.send(&asks);
        let (status, head, _) = kept.answer();
        match first_at_new {
            false => assert_eq!(status, 200),
            true => assert!(status == 503 && head.contains("retry-after: "), "{status} {head}"),
        }
        is_limited(&client.ask(&ask(&[])).await);
        assert!(gateway.stopped().success());
        assert_eq!(audit(next, &[&provider]).reported, 2);
    }
}
