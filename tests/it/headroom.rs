//! Rate limits, the providers' and the operator's: seen before they are hit.

use crate::support::gateway::PRICES;
use crate::support::{
    Account, Answer, Client, Gateway, Settings, Simulated, ask, audit, eventually, streamed,
};
use tollgate::simulate::Options;

fn limited(requests_per_minute: u32) -> Simulated {
    Simulated::start_with(Options { requests_per_minute: Some(requests_per_minute), ..Options::default() })
}

/// It says when it is worth coming back: within the minute, and not at once.
#[track_caller]
fn is_told_to_wait(answer: &Answer) {
    answer.is_error(503, Some("overloaded"));
    let seconds: u64 = answer.header("retry-after").parse().unwrap();
    assert!((2..=61).contains(&seconds), "{answer:?}");
}

/// The day is used up, whenever it ends.
#[track_caller]
fn is_told_to_wait_long(answer: &Answer) {
    answer.is_error(503, Some("overloaded"));
    assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1, "{answer:?}");
}

#[tokio::test]
async fn what_a_provider_has_left_is_used_up_and_not_a_request_more() {
    let (small, large) = (limited(5), limited(15));
    let gateway = Gateway::start(&[
        Account::new("small", small.address).with("weight: 100"),
        Account::new("large", large.address),
    ]);
    let customer = gateway.customer("1.00");
    let [h1, h2] = Client::both(&gateway, &customer);
    for number in 0..20 {
        let client = if number % 2 == 0 { &h1 } else { &h2 };
        let body = if number % 3 == 0 { streamed(ask(&[])) } else { ask(&[]) };
        assert_eq!(client.ask(&body).await.status, 200, "{number}");
    }
    for client in [&h1, &h2] {
        is_told_to_wait(&client.ask(&ask(&[])).await);
    }
    assert_eq!((small.provider.log().len(), large.provider.log().len()), (5, 15), "none was refused by them");
    let scrape = gateway.scrape();
    for upstream in ["small", "large"] {
        let none_left = format!(
            r#"tollgate_upstream_headroom_ratio{{limit="provider_requests",upstream="{upstream}"}} 0"#
        );
        assert!(scrape.lines().any(|line| line == none_left), "no {none_left} in\n{scrape}");
    }
    audit(gateway, &[&small, &large]).counts(20, 0, 2);
}

#[tokio::test]
async fn what_the_operator_lets_an_account_have_is_kept_exactly() {
    let provider = Simulated::start();
    let limits = "limits: { requests_per_minute: 7, concurrency: 100 }";
    let gateway = Gateway::start(&[Account::of(&provider).with(limits)]);
    let customer = gateway.customer("1.00");
    let client = Client::h2(&gateway, &customer);
    let body = ask(&[]);
    let answers = futures_util::future::join_all((0..50).map(|_| client.ask(&body))).await;
    let served = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!((served, provider.provider.log().len()), (7, 7));
    answers.iter().filter(|answer| answer.status != 200).for_each(is_told_to_wait);
    let none_left = r#"tollgate_upstream_headroom_ratio{limit="requests_per_minute",upstream="first"} 0"#;
    assert!(gateway.scrape().lines().any(|line| line == none_left), "{}", gateway.scrape());
    audit(gateway, &[&provider]).counts(7, 0, 43);
}

#[tokio::test]
async fn what_an_account_spent_of_a_day_outlives_restarts_and_credentials() {
    let provider = Simulated::start();
    let account = |spend: &str| {
        let limits = format!("limits: {{ spend_usd_per_day: \"{spend}\" }}");
        Account::of(&provider).models("[counted]").with(&limits)
    };
    // Each may cost 1.00 and costs 0.16.
    let mut body = ask(&[]);
    (body["model"], body["max_tokens"]) = ("counted".into(), 100.into());
    let mut gateway = Gateway::start(&[account("1.40")]);
    let customer = gateway.customer("10.00");
    for _ in 0..3 {
        assert_eq!(Client::h1(&gateway, &customer).ask(&body).await.status, 200);
    }
    is_told_to_wait_long(&Client::h1(&gateway, &customer).ask(&body).await);
    assert!(gateway.stop().success());
    let mut gateway = gateway.again();
    is_told_to_wait_long(&Client::h1(&gateway, &customer).ask(&body).await);
    let renewed = [account("1.50").credential("sk-renewed")];
    gateway.reload(&renewed, &Settings::default(), PRICES).await;
    assert_eq!(Client::h1(&gateway, &customer).ask(&body).await.status, 200);
    is_told_to_wait_long(&Client::h1(&gateway, &customer).ask(&body).await);
    // And a crash, a while after it was written.
    eventually("it is written", || {
        let kept = std::fs::read_to_string(gateway.store().join("upstream-spend.json")).ok()?;
        kept.contains(r#""first":"0.64""#).then_some(())
    })
    .await;
    gateway.kill();
    let gateway = gateway.again();
    is_told_to_wait_long(&Client::h1(&gateway, &customer).ask(&body).await);
    assert_eq!(provider.provider.log().len(), 4);
    audit(gateway, &[&provider]).counts(4, 0, 4);
}

#[tokio::test]
async fn tokens_are_reserved_at_most_and_counted_as_used() {
    let provider = Simulated::start();
    let gateway = Gateway::start(&[Account::of(&provider).with("limits: { tokens_per_minute: 20000 }")]);
    let customer = gateway.customer("1.00");
    let client = Client::h1(&gateway, &customer);
    // Each may have 16384 tokens of output: one at a time fits, and has 28 in the end.
    for _ in 0..20 {
        assert_eq!(client.ask(&ask(&[])).await.status, 200);
    }
    let slow = ask(&[("latency_ms", "500")]);
    let begun = std::time::Instant::now();
    let answers = futures_util::future::join_all((0..4).map(|_| client.ask(&slow))).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    assert!(begun.elapsed() >= std::time::Duration::from_secs(2), "they wait for what the others give back");
    audit(gateway, &[&provider]).is_exact(24);
}
