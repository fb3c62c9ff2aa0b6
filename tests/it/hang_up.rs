//! Clients that hang up: the provider is stopped, or its answer is read on within bounds; over HTTP/1.1
//! and HTTP/2.

use crate::support::gateway::text;
use crate::support::scripted::Then;
use crate::support::{
    Account, Client, Customer, Gateway, Script, Scripted, Simulated, ask, audit, eventually, hang_up_at,
    slow_stream, streamed,
};
use futures_util::future::join_all;
use serde_json::Value;
use std::time::{Duration, Instant};
use tollgate::meter::tokenizer;
use tollgate::money::Amount;
use tollgate::settle::price::Encoding;

fn start(settings: &str) -> (Simulated, Gateway, Customer) {
    let provider = Simulated::start();
    let gateway = Gateway::start(&[Account::of(&provider).with(settings)]);
    let customer = gateway.customer("25.00");
    (provider, gateway, customer)
}

fn charge(receipt: &Value) -> Amount {
    Amount::parse(&text(&receipt["charge"])).unwrap()
}

/// Tokens of the first words that the simulated provider says.
fn tokens_of(words: u64) -> u64 {
    let said: Vec<String> = (0..words).map(|word| format!("tok{word}")).collect();
    tokenizer::count(Encoding::O200kBase, &said.join(" "))
}

#[tokio::test]
async fn hanging_up_stops_the_provider_and_costs_what_was_delivered() {
    for on_hang_up in ["cancel", "auto"] {
        let (provider, gateway, customer) = start(&format!("on_hang_up: {on_hang_up}"));
        for client in Client::both(&gateway, &customer) {
            let (id, delivered) = hang_up_at(&client, &slow_stream("gpt-4o-mini"), "tok9").await;
            // Over HTTP/1.1 hanging up is closing the connection.
            let receipt = gateway.receipt(&id).await;
            let ended = (text(&receipt["metered"]), text(&receipt["end"]));
            assert_eq!(ended, ("estimated".into(), "client_gone".into()), "{receipt}");
            let output = receipt["usage"]["output"].as_u64().unwrap();
            let seen = tokenizer::count(Encoding::O200kBase, &delivered);
            let entry = eventually("the provider noticed", || provider.served(&id).pop()).await;
            assert!(!entry.complete && entry.tokens_sent < 60, "{entry:?}");
            let sent = tokens_of(entry.tokens_sent);
            assert!((seen..=sent).contains(&output), "{seen} <= {output} <= {sent}: {receipt}");
            assert!(charge(&receipt) > Amount::ZERO);
        }
        audit(gateway, &[&provider]).counts(0, 2, 0);
    }
}

#[tokio::test]
async fn hanging_up_before_the_first_byte_of_a_stream_costs_the_input() {
    let provider = Scripted::always(Script::send("").then(Then::Silence));
    let gateway = Gateway::start(&[Account::scripted(&provider)]);
    let customer = gateway.customer("25.00");
    let client = Client::h1(&gateway, &customer);
    let request = tokio::spawn(client.chat(slow_stream("gpt-4o-mini").to_string()).send());
    eventually("the provider has it", || (!provider.seen().is_empty()).then_some(())).await;
    request.abort();
    drop(client);
    let (posted, _) = eventually("its charge", || {
        let (posted, available) = gateway.balance(&customer);
        (posted == available).then_some((posted, available))
    })
    .await;
    assert!(Amount::parse(&posted).unwrap() < Amount::parse("25.00").unwrap());
}

#[tokio::test]
async fn hanging_up_before_the_first_word_of_a_stream_costs_the_input() {
    let role = r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#;
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let event = format!("data: {role}\n\n");
    let script = Script::send(format!("{head}{:x}\r\n{event}\r\n", event.len())).then(Then::Silence);
    let provider = Scripted::always(script);
    let gateway = Gateway::start(&[Account::scripted(&provider).with("on_hang_up: cancel")]);
    let customer = gateway.customer("25.00");
    let client = Client::h1(&gateway, &customer);
    let (id, _) = hang_up_at(&client, &slow_stream("gpt-4o-mini"), "assistant").await;
    drop(client);
    let receipt = gateway.receipt(&id).await;
    assert_eq!(text(&receipt["metered"]), "estimated", "{receipt}");
    assert!(receipt["usage"]["input"].as_u64().unwrap() > 0 && charge(&receipt) > Amount::ZERO, "{receipt}");
    assert_eq!(receipt["usage"]["output"], 0);
}

#[tokio::test]
async fn hanging_up_on_a_drained_stream_costs_what_the_provider_reports() {
    // `auto` drains where reasoning is hidden, and `drain` always.
    for (on_hang_up, model) in [("drain", "gpt-4o-mini"), ("auto", "thinker")] {
        let (provider, gateway, customer) = start(&format!("on_hang_up: {on_hang_up}"));
        for client in Client::both(&gateway, &customer) {
            let (id, _) = hang_up_at(&client, &slow_stream(model), "tok3").await;
            let receipt = gateway.receipt(&id).await;
            assert_eq!(text(&receipt["metered"]), "reported", "{receipt}");
            assert_eq!(receipt["usage"]["output"], 60);
            assert!(provider.served(&id)[0].complete);
        }
        audit(gateway, &[&provider]).is_exact(2);
    }
}

#[tokio::test]
async fn hanging_up_before_a_plain_answer_costs_it_whole_or_its_input() {
    for (on_hang_up, is_drained) in [("drain", true), ("auto", true), ("cancel", false)] {
        let (provider, gateway, customer) = start(&format!("on_hang_up: {on_hang_up}"));
        for client in Client::both(&gateway, &customer) {
            let before = provider.provider.log().len();
            let body = ask(&[("latency_ms", "1500")]).to_string();
            let request = tokio::spawn(client.chat(body).send());
            eventually("it is under way", || (provider.provider.under_way() == 1).then_some(())).await;
            request.abort();
            drop(client);
            eventually("its end", || {
                let (posted, available) = gateway.balance(&customer);
                (posted == available && provider.provider.log().len() > before).then_some(())
            })
            .await;
        }
        let audit = audit(gateway, &[&provider]);
        if is_drained {
            audit.is_exact(2)
        } else {
            audit.counts(0, 2, 0)
        }
        assert_eq!(audit.unpaid, 0, "{on_hang_up}: {audit:#?}");
    }
}

#[tokio::test]
async fn many_that_hang_up_leave_nothing_behind() {
    let (provider, gateway, customer) = start("on_hang_up: cancel");
    let [h1, h2] = Client::both(&gateway, &customer);
    let body = slow_stream("gpt-4o-mini");
    let hang_ups = (0..100).map(|number| {
        let client = if number % 2 == 0 { h1.clone() } else { h2.clone() };
        let word = format!("tok{}", number % 40);
        let body = &body;
        async move { hang_up_at(&client, body, &word).await }
    });
    assert_eq!(join_all(hang_ups).await.len(), 100);
    eventually("no request is left", || {
        let scrape = gateway.scrape();
        (scrape.contains("tollgate_in_flight 0") && scrape.contains("tollgate_holds_open 0")).then_some(())
    })
    .await;
    eventually("the provider was left alone", || (provider.provider.log().len() == 100).then_some(())).await;
    assert!(provider.provider.log().iter().all(|served| !served.complete));
    let free = r#"tollgate_upstream_headroom_ratio{limit="concurrency",upstream="first"} 1"#;
    eventually("the account is free", || gateway.scrape().contains(free).then_some(())).await;
    let audit = audit(gateway, &[&provider]);
    audit.counts(0, 100, 0);
    assert!(audit.receipts.iter().all(|receipt| receipt.charge > Amount::ZERO));
}

/// The account is not blamed for what its client did.
#[track_caller]
fn is_not_blamed(gateway: &Gateway, upstream: &str, attempts: usize) {
    let scrape = gateway.scrape();
    for line in [
        format!(r#"tollgate_upstream_up{{upstream="{upstream}"}} 1"#),
        format!(r#"tollgate_upstream_attempts_total{{outcome="ok",upstream="{upstream}"}} {attempts}"#),
    ] {
        assert!(attempts == 0 || scrape.lines().any(|found| found == line), "no {line} in\n{scrape}");
    }
    let attempted = scrape.lines().filter(|line| line.starts_with("tollgate_upstream_attempts_total"));
    assert_eq!(attempted.count(), usize::from(attempts > 0), "{scrape}");
    assert!(!scrape.contains("tollgate_upstream_shut{"), "{scrape}");
}

#[tokio::test]
async fn a_drain_that_runs_out_costs_what_the_provider_was_stopped_at() {
    // Of six seconds and 600 tokens, by its time and by its tokens.
    for bound in ["timeout_ms: 200", "tokens_max: 10"] {
        let (provider, gateway, customer) = start(&format!("on_hang_up: drain, drain: {{ {bound} }}"));
        let body = streamed(ask(&[("tokens", "600"), ("chunks", "600"), ("pace_ms", "10")]));
        for client in Client::both(&gateway, &customer) {
            let (id, delivered) = hang_up_at(&client, &body, "tok3").await;
            let receipt = gateway.receipt(&id).await;
            let ended = (text(&receipt["metered"]), text(&receipt["end"]));
            assert_eq!(ended, ("estimated".into(), "client_gone".into()), "{bound}: {receipt}");
            let entry = eventually("the provider noticed", || provider.served(&id).pop()).await;
            assert!(!entry.complete && entry.tokens_sent < 590, "{bound}: {entry:?}");
            let output = receipt["usage"]["output"].as_u64().unwrap();
            let seen = tokenizer::count(Encoding::O200kBase, &delivered);
            let sent = tokens_of(entry.tokens_sent);
            assert!(seen + 8 < output && output <= sent, "{bound}: {seen} << {output} <= {sent}: {receipt}");
            assert_eq!(receipt["attempts"][0]["outcome"], "ok", "{receipt}");
        }
        eventually("both are over", || gateway.scrape().contains("tollgate_in_flight 0").then_some(())).await;
        is_not_blamed(&gateway, "first", 2);
        audit(gateway, &[&provider]).counts(0, 2, 0);
    }
}

#[tokio::test]
async fn a_drain_of_a_silent_provider_ends_in_time() {
    let provider = Scripted::always(Script::send("").then(Then::Silence));
    let settings = "on_hang_up: drain, drain: { timeout_ms: 200 }";
    let gateway = Gateway::start(&[Account::scripted(&provider).with(settings)]);
    let customer = gateway.customer("25.00");
    for (number, client) in Client::both(&gateway, &customer).into_iter().enumerate() {
        let request = tokio::spawn(client.chat(ask(&[]).to_string()).send());
        eventually("the provider has it", || (provider.seen().len() > number).then_some(())).await;
        let begun = Instant::now();
        request.abort();
        drop(client);
        eventually("its end", || {
            let (posted, available) = gateway.balance(&customer);
            (posted == available).then_some(())
        })
        .await;
        // Not after the silence of two minutes for which an account is blamed.
        assert!((Duration::from_millis(150)..Duration::from_secs(20)).contains(&begun.elapsed()));
    }
    eventually("both are over", || gateway.scrape().contains("tollgate_in_flight 0").then_some(())).await;
    is_not_blamed(&gateway, "scripted", 0);
    let audit = audit(gateway, &[]);
    audit.counts(0, 2, 0);
    assert!(audit.receipts.iter().all(|receipt| receipt.usage.input > 0 && receipt.usage.output == 0));
}
