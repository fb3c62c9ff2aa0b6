//! Streams are held by slices: extended while they run, ended in their own dialect when no more can be
//! held, charged exactly what was delivered; also through a crash and a hand-over.

use crate::support::gateway::text;
use crate::support::scripted::{Seen, Then};
use crate::support::{
    Account, Answer, Client, Customer, Gateway, Script, Scripted, Simulated, ask, audit, event_stream,
    eventually, streamed,
};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::sync::{Arc, Condvar, Mutex};
use tokio::task::JoinHandle;
use tollgate::meter::tokenizer;
use tollgate::money::Amount;
use tollgate::settle::price::Encoding;

/// What of a stream is held at once, in tokens of output.
const SLICE: i128 = 8_192;
/// What a token of gpt-4o's output costs, in units of 1e-18 USD.
const PER_TOKEN: i128 = 10_000_000_000_000;
/// An event says this a few times: 400 bytes.
const WORDS: &str = "word word word word word word word word word word word word word word word word ";
const PER_EVENT: usize = 5;

fn atto(value: &Value) -> i128 {
    Amount::parse(&text(value)).unwrap().atto_usd()
}

fn kinds(gateway: &Gateway, customer: &Customer, request: &str) -> Vec<String> {
    let lines = gateway.admin_get(&format!("/customers/{}/statement", customer.id)).1;
    let lines = lines["lines"].as_array().unwrap().iter();
    lines.filter(|line| line["reference"] == request).map(|line| text(&line["kind"])).collect()
}

fn of_gpt_4o(mut body: Value) -> Value {
    body["model"] = json!("gpt-4o");
    body
}

#[tokio::test]
async fn a_short_stream_is_held_once_and_a_long_one_more_while_it_runs() {
    let provider = Simulated::start();
    let gateway = Gateway::start(&[Account::of(&provider)]);
    let customer = gateway.customer("1.00");
    for client in Client::both(&gateway, &customer) {
        let short = client.ask(&of_gpt_4o(streamed(ask(&[("tokens", "400")])))).await;
        let receipt = gateway.receipt(&short.id()).await;
        assert_eq!(kinds(&gateway, &customer, &short.id()), ["hold", "capture"]);
        let output = atto(&receipt["held"]) / PER_TOKEN;
        assert!((SLICE..SLICE + 200).contains(&output), "a slice and the input: {receipt}");

        let long = client.ask(&of_gpt_4o(streamed(ask(&[("tokens", "4000")])))).await;
        assert_eq!(event_stream(&long.text()).last(), Some(&"[DONE]"));
        let receipt = gateway.receipt(&long.id()).await;
        assert_eq!(kinds(&gateway, &customer, &long.id()), ["hold", "extension", "capture"]);
        assert_eq!((&receipt["usage"]["output"], text(&receipt["end"])), (&json!(4000), "complete".into()));
        let output = atto(&receipt["held"]) / PER_TOKEN;
        assert!((2 * SLICE..2 * SLICE + 200).contains(&output), "the longest answer, no more: {receipt}");
    }
    audit(gateway, &[&provider]).is_exact(4);
}

#[tokio::test]
async fn alone_on_a_small_balance_a_stream_runs_to_the_cap_that_it_was_told() {
    let provider = Simulated::start();
    let gateway = Gateway::start(&[Account::of(&provider)]);
    let customer = gateway.customer("0.10");
    let answer = Client::h1(&gateway, &customer).ask(&of_gpt_4o(streamed(ask(&[("tokens", "16000")])))).await;
    let cap: u64 = answer.header("x-tollgate-output-cap").parse().unwrap();
    assert!((9_800..10_000).contains(&cap), "a tenth of a dollar, less the input: {cap}");
    let said = answer.text();
    assert!(said.contains(r#""finish_reason":"length""#) && said.ends_with("data: [DONE]\n\n"), "{said}");
    let receipt = gateway.receipt(&answer.id()).await;
    assert_eq!((&receipt["usage"]["output"], &receipt["output_cap"]), (&json!(cap), &json!(cap)));
    assert_eq!(kinds(&gateway, &customer, &answer.id()), ["hold", "extension", "capture"]);
    audit(gateway, &[&provider]).is_exact(1);
}

/// Keeps a provider from answering until it is opened.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn wait(&self) {
        let (open, called) = &*self.0;
        drop(called.wait_while(open.lock().unwrap(), |open| !*open).unwrap());
    }

    fn open(&self) {
        let (open, called) = &*self.0;
        *open.lock().unwrap() = true;
        called.notify_all();
    }
}

/// An endpoint, what is asked there, an event of its stream, and how its errors are told.
struct Dialect {
    path: &'static str,
    ask: fn() -> Value,
    begin: &'static str,
    event: fn(&str) -> String,
    end: &'static str,
    code: fn(&Value) -> &Value,
}

fn data(event: &Value) -> String {
    format!("data: {event}\n\n")
}

fn dialects() -> [Dialect; 4] {
    let prompt = || json!({ "model": "gpt-4o", "prompt": "hello", "stream": true });
    let input = || json!({ "model": "gpt-4o", "input": "hello", "stream": true });
    let messages = || {
        let said = json!([{ "role": "user", "content": "hello" }]);
        json!({ "model": "gpt-4o", "messages": said, "stream": true, "max_tokens": 16_000 })
    };
    [
        Dialect {
            path: "/v1/chat/completions",
            ask: messages,
            begin: "",
            event: |words| {
                data(
                    &json!({ "choices": [{ "index": 0, "delta": { "content": words }, "finish_reason": null }] }),
                )
            },
            end: "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2400}}\n\ndata: [DONE]\n\n",
            code: |error| &error["error"]["code"],
        },
        Dialect {
            path: "/v1/completions",
            ask: prompt,
            begin: "",
            event: |words| {
                data(&json!({ "choices": [{ "index": 0, "text": words, "finish_reason": null }] }))
            },
            end: "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2400}}\n\ndata: [DONE]\n\n",
            code: |error| &error["error"]["code"],
        },
        Dialect {
            path: "/v1/responses",
            ask: input,
            begin: "",
            event: |words| data(&json!({ "type": "response.output_text.delta", "delta": words })),
            end: "data: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":9,\"output_tokens\":2400}}}\n\n",
            code: |error| &error["code"],
        },
        Dialect {
            path: "/v1/messages",
            ask: messages,
            begin: "data: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":9,\"output_tokens\":1}}}\n\n",
            event: |words| {
                data(&json!({ "type": "content_block_delta", "index": 0, "delta": { "text": words } }))
            },
            end: "data: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":2400}}\n\ndata: {\"type\":\"message_stop\"}\n\n",
            code: |error| &error["error"]["type"],
        },
    ]
}

impl Dialect {
    /// A stream that says so much.
    fn stream(&self, events: usize) -> String {
        [self.begin, &(self.event)(&WORDS.repeat(PER_EVENT)).repeat(events), self.end].concat()
    }
}

/// What is asked here is never answered.
const NEVER: &str = "never";

/// Answers by the dialect of the path, once the gate is open.
fn gated(gate: &Gate, events: usize) -> Scripted {
    let gate = gate.clone();
    Scripted::by_request(move |seen: &Seen| {
        if String::from_utf8_lossy(&seen.body).contains(NEVER) {
            return Script::send("").then(Then::Silence);
        }
        gate.wait();
        let path = seen.head.split(' ').nth(1).unwrap().to_owned();
        let dialect = dialects().into_iter().find(|dialect| dialect.path == path).unwrap();
        Script::events(dialect.stream(events))
    })
}

fn start(provider: &Scripted) -> Gateway {
    let openai = Account::new("openai", provider.address);
    let anthropic = Account::new("anthropic", provider.address).with("dialect: anthropic");
    Gateway::start(&[openai, anthropic])
}

fn asks(client: &Client, path: &'static str, body: &Value) -> JoinHandle<Answer> {
    tokio::spawn(Answer::read(client.post(path, body.to_string())))
}

/// A stream that is held by a slice, and another request that took what was left after that and stays.
struct Race {
    dialect: Dialect,
    customer: Customer,
    /// By which it is told that its credit has ended.
    code: &'static str,
    stream: JoinHandle<Answer>,
    other: JoinHandle<Answer>,
}

impl Race {
    async fn begin(
        gateway: &Gateway,
        provider: &Scripted,
        race: (Dialect, &'static str),
        bound: Bound,
    ) -> Race {
        let (dialect, code) = race;
        let customer = match bound {
            Bound::Balance => gateway.customer("0.17"),
            Bound::Budget => {
                let rich = gateway.customer("25.00");
                let made = gateway.json(&["key", "create", "--customer", &rich.id, "--budget", "0.17"]);
                Customer { key: text(&made["key"]), ..rich }
            }
        };
        let [h1, h2] = Client::both(gateway, &customer);
        let before = provider.seen().len();
        let stream = asks(&h2, dialect.path, &(dialect.ask)());
        eventually("it is admitted", || (provider.seen().len() > before).then_some(())).await;
        let mut never = of_gpt_4o(streamed(ask(&[])));
        never["user"] = json!(NEVER);
        let other = asks(&h1, "/v1/chat/completions", &never);
        eventually("so is the other", || (provider.seen().len() > before + 1).then_some(())).await;
        Race { dialect, customer, code, stream, other }
    }

    async fn end(self, gateway: &Gateway) {
        let Race { dialect, customer, code, stream, other } = self;
        let answer = stream.await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        let said = answer.text();
        let events = event_stream(&said);
        let error: Value = serde_json::from_str(events.last().unwrap()).unwrap();
        assert_eq!((dialect.code)(&error), code, "{}: {error}", dialect.path);
        if dialect.path == "/v1/responses" {
            assert_eq!(
                (&error["type"], &error["sequence_number"]),
                (&json!("error"), &json!(events.len() - 1))
            );
            assert!(said.contains("event: error\ndata: "), "{said}");
        }
        let delivered = WORDS.repeat(said.matches(WORDS).count());
        let receipt = gateway.receipt(&answer.id()).await;
        let ended = (text(&receipt["status"]), text(&receipt["metered"]), text(&receipt["end"]));
        assert_eq!(ended, ("captured".into(), "estimated".into(), "credit_ended".into()), "{receipt}");
        let counted = tokenizer::count(Encoding::O200kBase, &delivered);
        assert_eq!(receipt["usage"]["output"], counted, "{receipt}");
        let (held, bytes) = (atto(&receipt["held"]), i128::try_from(delivered.len()).unwrap());
        assert!(bytes > SLICE - 400, "a slice was delivered: {receipt}");
        assert!(bytes * PER_TOKEN <= held, "never more than is held: {bytes} bytes, {receipt}");
        assert_eq!(text(&receipt["written_off"]), "0.00");
        let kinds = kinds(gateway, &customer, &answer.id());
        assert_eq!(kinds, ["hold", "extension", "capture"], "what was left was taken, too");
        other.abort();
    }
}

/// By what a customer is bound.
enum Bound {
    Balance,
    Budget,
}

#[tokio::test]
async fn a_stream_whose_credit_ends_is_ended_in_its_own_dialect_and_charged_what_was_delivered() {
    let gate = Gate::default();
    let provider = gated(&gate, 100);
    let gateway = start(&provider);
    let mut races = Vec::new();
    for dialect in dialects() {
        let code = if dialect.path == "/v1/messages" { "billing_error" } else { "insufficient_quota" };
        races.push(Race::begin(&gateway, &provider, (dialect, code), Bound::Balance).await);
    }
    let [chat, ..] = dialects();
    let race = (chat, "project_spend_limit_exceeded");
    races.push(Race::begin(&gateway, &provider, race, Bound::Budget).await);
    gate.open();
    for race in races {
        race.end(&gateway).await;
    }
    ended(&gateway).await;
    audit(gateway, &[]).counts(0, 10, 0);
}

async fn ended(gateway: &Gateway) {
    let none = || gateway.scrape().contains("tollgate_holds_open 0").then_some(());
    eventually("all have ended", none).await;
}

#[tokio::test]
async fn many_streams_share_a_balance_and_none_goes_below_it() {
    let provider = Simulated::start();
    let gateway = Gateway::start(&[Account::of(&provider).with("limits: { concurrency: 1000 }")]);
    let customer = gateway.customer("4.00");
    let clients = Client::both(&gateway, &customer);
    let body = of_gpt_4o(streamed(ask(&[("tokens", "2500"), ("chunks", "50"), ("pace_ms", "5")])));
    let answers = join_all((0..45).map(|number| clients[number % 2].ask(&body))).await;
    let (mut whole, mut cut) = (0, 0);
    for answer in &answers {
        match (answer.status, event_stream(&answer.text()).last()) {
            (200, Some(&"[DONE]")) => whole += 1,
            (200, Some(error)) => {
                assert!(error.contains("insufficient_quota"), "{error}");
                cut += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(whole + cut == 45 && cut > 0, "{whole} whole, {cut} cut");
    ended(&gateway).await;
    let lines = gateway.admin_get(&format!("/customers/{}/statement", customer.id)).1;
    let lines = lines["lines"].as_array().unwrap();
    assert!(lines.iter().any(|line| line["kind"] == "extension"));
    assert!(lines.iter().all(|line| atto(&line["available_after"]) >= 0), "{lines:#?}");
    let left = atto(&lines.last().unwrap()["balance_after"]);
    let audit = audit(gateway, &[&provider]);
    audit.counts(whole, cut, 0);
    assert_eq!(audit.charged.atto_usd() + left, atto(&json!("4.00")));
}

#[tokio::test]
async fn a_crash_costs_what_the_last_extension_says_was_delivered() {
    let chat = dialects().into_iter().next().unwrap();
    let begun = (chat.event)(&WORDS.repeat(PER_EVENT)).repeat(20);
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 1000000\r\n\r\n";
    let provider = Scripted::always(Script::send(format!("{head}{begun}")).then(Then::Silence));
    let mut gateway = Gateway::start(&[Account::scripted(&provider)]);
    let customer = gateway.customer("1.00");
    let body = of_gpt_4o(streamed(ask(&[])));
    let mut response = Client::h1(&gateway, &customer).chat(body.to_string()).send().await.unwrap();
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    assert!(response.chunk().await.unwrap().is_some());
    let extended = || (kinds(&gateway, &customer, &id) == ["hold", "extension"]).then_some(());
    eventually("it is extended", extended).await;
    gateway.kill();
    let gateway = gateway.again();
    gateway.writes("charged what they are known to have used").await;
    let receipt = gateway.receipt(&id).await;
    let ended = (text(&receipt["status"]), text(&receipt["metered"]), text(&receipt["end"]));
    assert_eq!(ended, ("captured".into(), "estimated".into(), "interrupted".into()), "{receipt}");
    let input = tokenizer::count_input(Encoding::O200kBase, body.to_string().as_bytes());
    let most = tokenizer::count(Encoding::O200kBase, &WORDS.repeat(PER_EVENT * 20));
    let output = receipt["usage"]["output"].as_u64().unwrap();
    assert_eq!(receipt["usage"]["input"], input);
    assert!(output > most / 2 && output <= most, "{output} of {most}: {receipt}");
    let charge = Amount::parse(&text(&receipt["charge"])).unwrap();
    let left = Amount::parse("1.00").unwrap() - charge;
    gateway.settles_at(&customer, &left.to_string()).await;
    audit(gateway, &[]).counts(0, 1, 0);
}

#[tokio::test]
async fn a_stream_is_extended_by_the_process_that_took_its_ledger_over() {
    let gate = Gate::default();
    let provider = gated(&gate, 30);
    let gateway = start(&provider);
    let customer = gateway.customer("1.00");
    let chat = dialects().into_iter().next().unwrap();
    let stream = asks(&Client::h1(&gateway, &customer), chat.path, &(chat.ask)());
    eventually("it is admitted", || (provider.seen().len() == 1).then_some(())).await;
    let next = gateway.upgrade();
    gate.open();
    let answer = stream.await.unwrap();
    assert_eq!(event_stream(&answer.text()).last(), Some(&"[DONE]"), "{answer:?}");
    let receipt = next.receipt(&answer.id()).await;
    assert_eq!((&receipt["usage"]["output"], text(&receipt["end"])), (&json!(2400), "complete".into()));
    assert_eq!(kinds(&next, &customer, &answer.id()), ["hold", "extension", "capture"]);
    drop(gateway);
    audit(next, &[]).counts(1, 0, 0);
}

/// Some providers answer whole where a stream was asked for: of that, no slice shows what it costs.
#[tokio::test]
async fn an_answer_that_comes_whole_instead_is_held_whole_before_it_is_taken() {
    let gate = Gate::default();
    let waiting = gate.clone();
    let provider = Scripted::by_request(move |seen: &Seen| {
        if String::from_utf8_lossy(&seen.body).contains(NEVER) {
            return Script::send("").then(Then::Silence);
        }
        waiting.wait();
        Script::json(r#"{"usage":{"prompt_tokens":9,"completion_tokens":16000}}"#)
    });
    let gateway = start(&provider);
    let [rich, poor] = ["1.00", "0.17"].map(|credit| gateway.customer(credit));
    let body = of_gpt_4o(streamed(ask(&[])));
    let mut never = body.clone();
    never["user"] = json!(NEVER);
    let mut asked = Vec::new();
    let [h1, h2] = Client::both(&gateway, &rich);
    let [poor_h1, poor_h2] = Client::both(&gateway, &poor);
    // The last holds what the third leaves.
    for (client, body) in [(&h1, &body), (&h2, &body), (&poor_h2, &body), (&poor_h1, &never)] {
        asked.push(asks(client, "/v1/chat/completions", body));
        eventually("it is admitted", || (provider.seen().len() == asked.len()).then_some(())).await;
    }
    gate.open();
    let [first, second, refused, other]: [JoinHandle<Answer>; 4] = asked.try_into().unwrap();
    for answer in [first, second] {
        let answer = answer.await.unwrap();
        assert_eq!((answer.status, answer.header("x-tollgate-charge")), (200, "0.1600225"), "{answer:?}");
        let receipt = gateway.receipt(&answer.id()).await;
        assert_eq!(kinds(&gateway, &rich, &answer.id()), ["hold", "extension", "capture"]);
        assert!(atto(&receipt["held"]) >= atto(&receipt["charge"]), "{receipt}");
    }
    // Another holds the rest of the balance: it is free, and the operator's loss.
    let refused = refused.await.unwrap();
    refused.is_error(402, Some("insufficient_quota"));
    let receipt = gateway.receipt(&refused.id()).await;
    assert_eq!((text(&receipt["status"]), text(&receipt["charge"])), ("released".into(), "0.00".into()));
    assert_eq!(kinds(&gateway, &poor, &refused.id()), ["hold", "release"]);
    other.abort();
    ended(&gateway).await;
    let verified = gateway.json(&["ledger", "verify"]);
    assert_eq!(verified["written_off"], "0.00");
    audit(gateway, &[]).counts(2, 1, 1);
}
