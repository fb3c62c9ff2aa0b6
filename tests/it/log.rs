//! What the log says of each request.

use crate::support::gateway::text;
use crate::support::{
    Account, Answer, Client, Customer, Gateway, Script, Scripted, Settings, Simulated, ask, audit,
    eventually, streamed,
};
use serde_json::Value;

/// The lines of requests so far.
fn lines(gateway: &Gateway) -> Vec<Value> {
    let output = gateway.output();
    let lines = output.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["target"] == "tollgate::access").collect()
}

/// The line of one request: there is one, and not a second.
async fn line(gateway: &Gateway, request: &str) -> Value {
    eventually("the line of a request", || {
        let mut those: Vec<Value> =
            lines(gateway).into_iter().filter(|line| line["request"] == request).collect();
        assert!(those.len() < 2, "{those:#?}");
        those.pop()
    })
    .await
}

fn rich(settings: &Settings) -> (Simulated, Gateway, Customer) {
    let provider = Simulated::start();
    let gateway = Gateway::start_with(&[Account::of(&provider)], settings);
    let customer = gateway.customer("1.00");
    (provider, gateway, customer)
}

#[tokio::test]
async fn a_line_says_who_what_and_how_much() {
    let (provider, gateway, customer) = rich(&Settings::default());
    for client in Client::both(&gateway, &customer) {
        for body in [ask(&[("cached_tokens", "4")]), streamed(ask(&[("cached_tokens", "4")]))] {
            let answer = client.ask(&body).await;
            let line = line(&gateway, &answer.id()).await;
            let receipt = gateway.receipt(&answer.id()).await;
            for (name, value) in [
                ("level", "INFO"),
                ("endpoint", "chat.completions"),
                ("model", "gpt-4o-mini"),
                ("upstream", "first"),
                ("end", "complete"),
                ("metered", "reported"),
                ("customer", &customer.id),
                ("key", &customer.key_id),
            ] {
                assert_eq!(line[name], value, "{name} of {line:#}");
            }
            assert_eq!((&line["status"], &line["attempts"]), (&200.into(), &1.into()));
            assert_eq!(line["usage"], receipt["usage"]);
            assert_eq!(line["charge"], receipt["charge"]);
            assert_eq!(line["balance"], receipt["balance_after"]);
            let prefix = text(&line["key_prefix"]);
            assert!(prefix.starts_with("tg_live_") && prefix.len() < customer.key.len(), "{prefix}");
            let [read, first, ours, whole] = ["read_us", "first_byte_us", "overhead_us", "duration_us"]
                .map(|name| line[name].as_u64().unwrap_or_else(|| panic!("{name} of {line:#}")));
            assert!(read <= first && first <= whole && 0 < ours && ours <= whole, "{line:#}");
        }
    }
    audit(gateway, &[&provider]).is_exact(4);
}

#[tokio::test]
async fn a_failure_is_told_with_its_reason() {
    let (_provider, gateway, customer) = rich(&Settings { success_one_in: Some(0), ..Settings::default() });
    let [client, _] = Client::both(&gateway, &customer);
    let refused = client.with_key("tg_live_nobody").ask(&ask(&[])).await;
    let told = line(&gateway, &refused.id()).await;
    assert_eq!((&told["status"], &told["refused"]), (&401.into(), &"invalid_api_key".into()));
    assert!(told.get("customer").is_none() && told.get("charge").is_none(), "{told:#}");

    let failed = client.ask(&ask(&[("status", "500")])).await;
    let told = line(&gateway, &failed.id()).await;
    assert_eq!((&told["status"], &told["level"]), (&503.into(), &"WARN".into()));
    assert_eq!((&told["upstream"], &told["attempts"]), (&"first".into(), &1.into()));
    assert_eq!((&told["end"], &told["charge"]), (&"failed".into(), &"0.00".into()));
}

#[tokio::test]
async fn success_is_told_as_often_as_asked() {
    for (success_one_in, served, least, most) in [(0, 20, 0, 0), (1, 20, 20, 20), (4, 200, 15, 100)] {
        let settings = Settings { success_one_in: Some(success_one_in), ..Settings::default() };
        let (provider, mut gateway, customer) = rich(&settings);
        let [_, client] = Client::both(&gateway, &customer);
        for _ in 0..served {
            assert_eq!(client.ask(&ask(&[])).await.status, 200);
        }
        // The end of the process waits for its log.
        assert!(gateway.stop().success());
        let told = eventually("the whole log", || {
            let told = lines(&gateway).len();
            (told >= least).then_some(told)
        })
        .await;
        assert!(told <= most, "{told} of {served} at one in {success_one_in}");
        drop(provider);
    }
}

#[tokio::test]
async fn a_trace_goes_on_with_the_request_as_a_span() {
    let provider = Scripted::always(Script::events(include_str!("../data/chat-stream-usage.sse")));
    let gateway = Gateway::start(&[Account::scripted(&provider)]);
    let customer = gateway.customer("1.00");
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    for client in Client::both(&gateway, &customer) {
        let request = client.chat(streamed(ask(&[])).to_string());
        let request = request.header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"));
        let answer = Answer::read(request.header("tracestate", "vendor=1")).await;
        let told = line(&gateway, &answer.id()).await;
        let span = text(&told["span_id"]);
        assert_eq!((&told["trace_id"], span.len()), (&trace.into(), 16));
        let seen = provider.seen().pop().unwrap();
        assert_eq!(seen.header("traceparent"), Some(format!("00-{trace}-{span}-01").as_str()));
        assert_eq!(seen.header("tracestate"), Some("vendor=1"));

        let answer = client.ask(&streamed(ask(&[]))).await;
        assert!(line(&gateway, &answer.id()).await.get("trace_id").is_none());
        assert_eq!(provider.seen().pop().unwrap().header("traceparent"), None);
    }
}
