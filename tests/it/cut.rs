//! Answers that are cut to what can be paid: never more than there is, told, and ended as the provider
//! ends them.

use crate::support::gateway::text;
use crate::support::{Account, Client, Gateway, Simulated, ask, audit, event_stream, streamed};
use serde_json::{Value, json};

/// A request for more than anybody here can pay: a thousand tokens at a cent.
fn dear(tokens: &str) -> Value {
    let mut body = ask(&[("tokens", tokens)]);
    body["model"] = json!("counted");
    body
}

#[tokio::test]
async fn an_answer_is_cut_to_the_balance_and_charged_to_its_last_cent() {
    let provider = Simulated::start();
    let gateway = Gateway::start(&[Account::of(&provider)]);
    let customer = gateway.customer("0.56");
    let [h1, h2] = Client::both(&gateway, &customer);

    let short = h1.ask(&dear("10")).await;
    assert_eq!(short.status, 200, "{short:?}");
    assert_eq!((short.header("x-tollgate-output-cap"), short.header("x-tollgate-charge")), ("56", "0.10"));
    let receipt = gateway.receipt(&short.id()).await;
    assert_eq!((&receipt["output_cap"], text(&receipt["held"])), (&json!(56), "0.56".into()));
    let shown = gateway.run(&["receipt", &short.id()]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("answers cut to 56 tokens, as the credit reached"), "{shown}");

    let mut body = streamed(dear("500"));
    body["max_tokens"] = json!(30);
    let whole = h2.ask(&body).await;
    assert!(whole.headers.get("x-tollgate-output-cap").is_none(), "30 tokens can be paid: {whole:?}");
    gateway.settles_at(&customer, "0.16").await;

    let stream = h2.ask(&streamed(dear("500"))).await;
    assert_eq!((stream.status, stream.header("x-tollgate-output-cap")), (200, "16"));
    let said = stream.text();
    let events = event_stream(&said);
    assert_eq!(events.last(), Some(&"[DONE]"), "{said}");
    assert!(said.contains(r#""finish_reason":"length""#), "{said}");
    gateway.settles_at(&customer, "0.00").await;

    let refused = h1.ask(&dear("1")).await;
    refused.is_error(402, Some("insufficient_quota"));
    audit(gateway, &[&provider]).is_exact(3);
}

#[tokio::test]
async fn many_at_once_share_a_small_balance_and_never_go_below_it() {
    let provider = Simulated::start();
    let gateway = Gateway::start(&[Account::of(&provider).with("limits: { concurrency: 1000 }")]);
    let customer = gateway.customer("1.00");
    gateway.json(&["customer", "set", &customer.id, "--budget", "0.50"]);
    let [h1, h2] = Client::both(&gateway, &customer);
    let requests = (0..200).map(|number| {
        let client = if number % 2 == 0 { &h1 } else { &h2 };
        let body = if number % 4 < 2 { dear("7") } else { streamed(dear("7")) };
        async move { client.ask(&body).await.status }
    });
    let statuses = futures_util::future::join_all(requests).await;
    assert!(statuses.iter().all(|status| [200, 402].contains(status)), "{statuses:?}");
    let served = statuses.iter().filter(|status| **status == 200).count();
    assert!((1..=7).contains(&served), "{served} of 7 cents each from 50");
    let left = format!("0.{}", 100 - 7 * served);
    gateway.settles_at(&customer, &left).await;
    audit(gateway, &[&provider]).is_exact(served);
}
