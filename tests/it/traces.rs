//! Spans: what a collector is told of a request, which requests it is told of, and that nobody waits for it.

use crate::strangers::metric;
use crate::support::gateway::{PRICES, TOKEN, text};
use crate::support::scripted::Then;
use crate::support::{
    Account, Answer, Client, Customer, Gateway, Script, Scripted, Settings, Simulated, ask, audit,
    eventually, streamed,
};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A collector that takes everything.
fn collector() -> Scripted {
    Scripted::always(Script::json("{}"))
}

fn to(collector: SocketAddr, more: &str) -> Settings {
    let traces = format!("otlp_url: \"http://{collector}\", service_name: gate{more}");
    Settings { traces, ..Settings::default() }
}

/// All spans that a collector was told of.
fn spans(collector: &Scripted) -> Vec<Value> {
    let seen = collector.seen();
    assert!(seen.iter().all(|request| request.head.starts_with("POST /v1/traces HTTP/1.1\r\n")));
    let told = seen.iter().map(|request| serde_json::from_slice::<Value>(&request.body).unwrap());
    told.flat_map(|told| told["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().clone())
        .collect()
}

/// The spans of one request, its own first, once they are there.
async fn spans_of(collector: &Scripted, request: &str) -> Vec<Value> {
    eventually("the spans of a request", || {
        let all = spans(collector);
        let own = all.iter().find(|span| attribute(span, "tollgate.request_id") == request)?;
        let id = &own["spanId"];
        Some(
            all.iter().filter(|span| span["spanId"] == *id || span["parentSpanId"] == *id).cloned().collect(),
        )
    })
    .await
}

/// The value of an attribute, whatever its type.
fn attribute(span: &Value, key: &str) -> Value {
    let found = span["attributes"].as_array().unwrap().iter().find(|attribute| attribute["key"] == key);
    let value = found.and_then(|attribute| attribute["value"].as_object()?.values().next().cloned());
    value.unwrap_or_default()
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A request in a trace of the client's.
async fn traced(client: &Client, body: &Value, flags: &str) -> Answer {
    let request = client.chat(body.to_string());
    Answer::read(request.header("traceparent", format!("00-{TRACE}-{PARENT}-{flags}"))).await
}

#[tokio::test]
async fn a_collector_is_told_of_a_request_and_of_each_attempt() {
    let (collector, provider) = (collector(), Simulated::start());
    let accounts = [
        Account::new("bad", provider.address).credential("sk-upstream-bad"),
        Account::new("good", provider.address).with("priority: 1"),
    ];
    let mut gateway = Gateway::start_with(&accounts, &to(collector.address, ""));
    let customer = gateway.customer("1.00");
    // The first request has the account shut for the others.
    let mut attempts = 0;
    for client in Client::both(&gateway, &customer) {
        let faults = [("status", "401"), ("only_credential", "-bad"), ("reasoning_tokens", "3")];
        for mut body in [ask(&faults), streamed(ask(&faults))] {
            body["messages"][0]["content"] = json!("CANARYprompt");
            let answer = traced(&client, &body, "01").await;
            assert_eq!(answer.status, 200);
            let spans = spans_of(&collector, &answer.id()).await;
            let receipt = gateway.receipt(&answer.id()).await;
            let [request, .., last] = &spans[..] else { panic!("{spans:#?}") };
            assert_eq!(spans.len(), 1 + receipt["attempts"].as_array().unwrap().len(), "{spans:#?}");
            attempts += spans.len() - 1;
            assert_eq!((&request["traceId"], &request["parentSpanId"]), (&json!(TRACE), &json!(PARENT)));
            assert_eq!(
                (&request["name"], &request["kind"]),
                (&json!("POST /v1/chat/completions"), &json!(2))
            );
            assert_eq!(attribute(request, "http.response.status_code"), "200");
            assert_eq!(attribute(request, "tollgate.customer"), customer.id.as_str());
            for (span, tried) in spans[1..].iter().zip(receipt["attempts"].as_array().unwrap()) {
                assert_eq!((&span["traceId"], &span["name"]), (&json!(TRACE), &json!("chat gpt-4o-mini")));
                assert_eq!(attribute(span, "tollgate.upstream"), tried["upstream"]);
                let failed = if tried["outcome"] == "ok" { Value::Null } else { tried["outcome"].clone() };
                assert_eq!(attribute(span, "error.type"), failed);
                let times = ["startTimeUnixNano", "endTimeUnixNano"].map(|name| text(&span[name]));
                let whole = ["startTimeUnixNano", "endTimeUnixNano"].map(|name| text(&request[name]));
                assert!(whole[0] <= times[0] && times[0] < times[1] && times[1] <= whole[1], "{spans:#?}");
            }
            assert_eq!(attribute(last, "gen_ai.provider.name"), "openai");
            assert_eq!(attribute(last, "server.port"), provider.address.port().to_string());
            let used = |class: &str| receipt["usage"][class].as_u64().unwrap();
            assert_eq!((used("input") > 0, used("output"), used("reasoning")), (true, 16, 3));
            let told =
                ["gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"].map(|key| attribute(last, key));
            assert_eq!(told, [used("input").to_string(), "19".into()]);
        }
    }
    assert_eq!(attempts, 5);
    let told: Vec<u8> = collector.seen().into_iter().flat_map(|request| request.body).collect();
    let told = String::from_utf8(told).unwrap();
    for secret in ["CANARY", "tok15", "sk-upstream", &customer.key, TOKEN] {
        assert!(!told.contains(secret), "{secret} in {told}");
    }
    assert!(told.contains(r#"{"key":"service.name","value":{"stringValue":"gate"}}"#), "{told}");
    assert_eq!(metric(&gateway, "tollgate_spans_exported_total"), 9);
    assert_eq!(metric(&gateway, "tollgate_spans_dropped_total"), 0);

    // What is told last is not lost with the process.
    let failed = traced(&Client::h1(&gateway, &customer), &ask(&[("status", "500")]), "01").await;
    assert_eq!(failed.status, 503);
    assert!(gateway.stop().success());
    let spans = spans_of(&collector, &failed.id()).await;
    assert_eq!(attribute(&spans[0], "tollgate.reason"), "upstream_unavailable");
    assert_eq!(spans[0]["status"]["code"], 2);
}

#[tokio::test]
async fn both_attempts_of_a_hedged_request_are_told() {
    let slow = Scripted::always(Script::send("").then(Then::Silence));
    let quick = Scripted::always(Script::events(include_str!("../data/chat-stream-usage.sse")));
    let (collector, accounts) = (
        collector(),
        [Account::new("slow", slow.address), Account::new("quick", quick.address).with("priority: 1")],
    );
    let settings = Settings { retry: "hedge: { streamed_after_ms: 100 }", ..to(collector.address, "") };
    let gateway = Gateway::start_with(&accounts, &settings);
    let customer = gateway.customer("1.00");
    let answer = traced(&Client::h2(&gateway, &customer), &streamed(ask(&[])), "01").await;
    assert_eq!(answer.status, 200);
    let spans = spans_of(&collector, &answer.id()).await;
    let [_, first, second] = &spans[..] else { panic!("{spans:#?}") };
    for (span, upstream, error, provider) in
        [(first, "slow", json!("hedged"), &slow), (second, "quick", Value::Null, &quick)]
    {
        assert_eq!(attribute(span, "tollgate.upstream"), upstream);
        assert_eq!(attribute(span, "error.type"), error);
        let seen = provider.seen();
        let parent = seen[0].header("traceparent").unwrap();
        assert!(parent.contains(&format!("-{}-", text(&span["spanId"]))), "{parent}: {span:#?}");
    }
    assert!(attribute(second, "gen_ai.usage.output_tokens").is_string(), "{second:#?}");
    assert!(text(&second["startTimeUnixNano"]) < text(&first["endTimeUnixNano"]), "{spans:#?}");
}

#[tokio::test]
async fn the_client_or_a_lot_says_which_requests_are_told() {
    let (collector, provider) =
        (collector(), Scripted::always(Script::events(include_str!("../data/chat-stream-usage.sse"))));
    let accounts = || [Account::scripted(&provider)];
    let gateway = Gateway::start_with(&accounts(), &Settings::default());
    let customer = gateway.customer("1.00");
    let client = Client::h2(&gateway, &customer);
    let body = streamed(ask(&[]));
    let passed = || provider.seen().pop().unwrap().header("traceparent").map(str::to_owned);

    // Off: nothing is told, and a trace is passed on as it always is.
    traced(&client, &body, "01").await;
    assert!(passed().unwrap().starts_with(&format!("00-{TRACE}-")));
    // Each that has no trace of its own begins one.
    gateway.reload(&accounts(), &to(collector.address, ", sample_one_in: 1"), PRICES).await;
    let begun = client.ask(&body).await;
    let told = spans_of(&collector, &begun.id()).await;
    let [request, attempt] = &told[..] else { panic!("{told:#?}") };
    assert_eq!(request.get("parentSpanId"), None);
    assert_eq!(passed(), Some(format!("00-{}-{}-01", text(&request["traceId"]), text(&attempt["spanId"]))));
    // One whose client says that nobody looks at it.
    let unsampled = traced(&client, &body, "00").await;
    assert!(passed().unwrap().ends_with("-00"));
    // None but those of clients who say so.
    gateway.reload(&accounts(), &to(collector.address, ", sample_one_in: 0"), PRICES).await;
    let without = client.ask(&body).await;
    assert_eq!(passed(), None);
    let sampled = traced(&client, &body, "01").await;
    let told = spans_of(&collector, &sampled.id()).await;
    assert_eq!(passed(), Some(format!("00-{TRACE}-{}-01", text(&told[1]["spanId"]))));
    let all = spans(&collector);
    let requests: Vec<Value> =
        all.iter().map(|span| attribute(span, "tollgate.request_id")).filter(Value::is_string).collect();
    assert_eq!(requests, [begun.id(), sampled.id()], "neither {} nor {}", unsampled.id(), without.id());
}

/// Whoever sets the flag decides what a collector is sent: customers, and only so often.
#[tokio::test]
async fn a_stranger_is_not_told_of_and_customers_as_often_as_the_operator_says() {
    let (collector, provider) = (collector(), Simulated::start());
    let bounds = ", sample_one_in: 0, asked_per_minute: 3";
    let mut gateway = Gateway::start_with(&[Account::of(&provider)], &to(collector.address, bounds));
    let customer = gateway.customer("1.00");
    let mut asked = Vec::new();
    for client in Client::both(&gateway, &customer) {
        for _ in 0..4 {
            let stranger = traced(&client.with_key("sk-nobody"), &ask(&[]), "01").await;
            stranger.is_error(401, Some("invalid_api_key"));
        }
        for _ in 0..2 {
            asked.push(traced(&client, &ask(&[]), "01").await);
        }
    }
    assert!(asked.iter().all(|answer| answer.status == 200));
    assert!(gateway.stop().success());
    let told: Vec<Value> =
        spans(&collector).iter().map(|span| attribute(span, "tollgate.request_id")).collect();
    let told: Vec<&str> = told.iter().filter_map(Value::as_str).collect();
    assert_eq!(told, asked[..3].iter().map(Answer::id).collect::<Vec<_>>(), "and nothing of the fourth");
}

/// Asks so often in traces that are told.
async fn ask_traced(gateway: &Gateway, customer: &Customer, times: usize) {
    for client in Client::both(gateway, customer) {
        for _ in 0..times / 2 {
            assert_eq!(traced(&client, &ask(&[]), "01").await.status, 200);
        }
    }
}

#[tokio::test]
async fn a_collector_that_is_dead_or_mute_delays_nobody() {
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    let mute = Scripted::always(Script::send("").then(Then::Silence));
    for collector in [nobody, mute.address] {
        let provider = Simulated::start();
        let gateway = Gateway::start_with(&[Account::of(&provider)], &to(collector, ""));
        let customer = gateway.customer("1.00");
        let begun = Instant::now();
        ask_traced(&gateway, &customer, 50).await;
        assert!(begun.elapsed() < Duration::from_secs(5), "a collector has as long: {:?}", begun.elapsed());
        let dropped = || (metric(&gateway, "tollgate_spans_dropped_total") == 100).then_some(());
        eventually("all are given up", dropped).await;
        assert_eq!(metric(&gateway, "tollgate_spans_exported_total"), 0);
        // The log is written beside.
        let said = || gateway.output().matches("the collector does not take spans").count();
        eventually("it is said", || (said() > 0).then_some(())).await;
        assert_eq!(said(), 1, "once, not for each batch");
        audit(gateway, &[&provider]).is_exact(50);
    }
}

#[tokio::test]
async fn a_collector_that_comes_back_is_told_again() {
    // It fails at first.
    let collector = Scripted::start(|number| match number {
        0 => Script::answer("503 Service Unavailable", "", ""),
        _ => Script::json("{}"),
    });
    let provider = Simulated::start();
    let gateway = Gateway::start_with(&[Account::of(&provider)], &to(collector.address, ""));
    let customer = gateway.customer("1.00");
    ask_traced(&gateway, &customer, 2).await;
    let dropped = || (metric(&gateway, "tollgate_spans_dropped_total") >= 2).then_some(());
    eventually("a batch is refused", dropped).await;
    ask_traced(&gateway, &customer, 2).await;
    let exported = || (metric(&gateway, "tollgate_spans_exported_total") >= 4).then_some(());
    eventually("the next is taken", exported).await;
    gateway.writes("the collector takes spans again").await;
    audit(gateway, &[&provider]).is_exact(4);
}
