//! Requests that wait for room: in turn, for a while, and only as long as their client stays.

use crate::support::gateway::PRICES;
use crate::support::{
    Account, Answer, Client, Gateway, Script, Scripted, Settings, Simulated, ask, audit, eventually, streamed,
};
use futures_util::future::join_all;
use std::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

/// An account that serves one request at a time.
fn one_at_a_time(queue: &'static str) -> (Simulated, Gateway) {
    let provider = Simulated::start();
    let accounts = [Account::of(&provider).with("limits: { concurrency: 1 }")];
    let gateway = Gateway::start_with(&accounts, &Settings { queue, ..Settings::default() });
    (provider, gateway)
}

/// How many wait.
fn depth(gateway: &Gateway) -> usize {
    let scrape = gateway.scrape();
    let depth = scrape.lines().find_map(|line| line.strip_prefix("tollgate_upstream_queue_depth "));
    depth.unwrap().parse().unwrap()
}

pub async fn depth_is(gateway: &Gateway, expected: usize) {
    eventually(&format!("{expected} wait"), || (depth(gateway) == expected).then_some(())).await;
}

/// The one account has room for so many.
async fn headroom_is(gateway: &Gateway, room: usize) {
    headroom_of(gateway, "first", room).await;
}

async fn headroom_of(gateway: &Gateway, account: &str, room: usize) {
    let line =
        format!(r#"tollgate_upstream_headroom_ratio{{limit="concurrency",upstream="{account}"}} {room}"#);
    eventually("the account has that room", || {
        gateway.scrape().lines().any(|found| found == line).then_some(())
    })
    .await;
}

fn has(gateway: &Gateway, line: &str) {
    let scrape = gateway.scrape();
    assert!(scrape.lines().any(|found| found == line), "no {line} in\n{scrape}");
}

#[tokio::test]
async fn who_comes_to_a_full_pool_waits_and_is_served() {
    let (provider, gateway) = one_at_a_time("");
    let customer = gateway.customer("1.00");
    for client in Client::both(&gateway, &customer) {
        let (plain, events) = (ask(&[("latency_ms", "20")]), streamed(ask(&[("latency_ms", "20")])));
        let asked = (0..20).map(|number| client.ask(if number % 2 == 0 { &plain } else { &events }));
        for answer in join_all(asked).await {
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    }
    depth_is(&gateway, 0).await;
    assert!(gateway.scrape().contains("tollgate_upstream_queue_wait_seconds_count{outcome=\"served\"}"));
    audit(gateway, &[&provider]).is_exact(40);
}

#[tokio::test]
async fn who_waits_too_long_or_finds_the_line_full_is_told_to_come_back() {
    for (queue, outcome) in [("wait_ms: 100", "late"), ("waiting_max: 1, wait_ms: 100", "full")] {
        let (provider, gateway) = one_at_a_time(queue);
        let customer = gateway.customer("1.00");
        let client = Client::h2(&gateway, &customer);
        let body = ask(&[("latency_ms", "3000")]);
        let answers = join_all((0..4).map(|_| client.ask(&body))).await;
        assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1, "{answers:?}");
        for answer in answers.iter().filter(|answer| answer.status != 200) {
            answer.is_error(503, Some("overloaded"));
            assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
        }
        let count = if outcome == "late" { 3 } else { 2 };
        has(
            &gateway,
            &format!("tollgate_upstream_queue_wait_seconds_count{{outcome=\"{outcome}\"}} {count}"),
        );
        audit(gateway, &[&provider]).counts(1, 0, 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_customer_with_one_request_does_not_wait_for_another_with_many() {
    let (provider, gateway) = one_at_a_time("");
    let [many, one] = [(); 2].map(|()| gateway.customer("1.00"));
    let (many, one) = (Client::h2(&gateway, &many), Client::h1(&gateway, &one));
    let body = ask(&[("latency_ms", "100")]);
    let many = (0..20).map(|_| many.ask(&body));
    let late = async {
        eventually("many wait", || (depth(&gateway) > 9).then_some(())).await;
        let before = provider.provider.log().len();
        let answer = one.ask(&body).await;
        (answer.status, provider.provider.log().len() - before)
    };
    let (answers, (status, served)) = futures_util::future::join(join_all(many), late).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    // The one under way, and one of the other customer's in between.
    assert_eq!(status, 200);
    assert!(served <= 5, "{served} were served before it");
    audit(gateway, &[&provider]).is_exact(21);
}

// A scrape blocks: the clients need threads of their own, to come while the first is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_no_longer_waits() {
    let (provider, gateway) = one_at_a_time("");
    let customer = gateway.customer("1.00");
    for client in Client::both(&gateway, &customer) {
        headroom_is(&gateway, 1).await;
        let served = provider.provider.log().len();
        let first = tokio::spawn({
            let client = client.clone();
            async move { client.ask(&ask(&[("latency_ms", "4000")])).await.status }
        });
        // Taken in is not enough: the second could be quicker to the account.
        headroom_is(&gateway, 0).await;
        let second = tokio::spawn({
            let client = client.clone();
            async move { client.ask(&ask(&[])).await.status }
        });
        depth_is(&gateway, 1).await;
        second.abort();
        depth_is(&gateway, 0).await;
        assert_eq!(first.await.unwrap(), 200);
        assert_eq!(provider.provider.log().len(), served + 1, "nothing went out for it");
    }
    has(&gateway, "tollgate_upstream_queue_wait_seconds_count{outcome=\"left\"} 2");
    audit(gateway, &[&provider]).counts(2, 0, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_be_served_at_all_does_not_wait_with_the_others() {
    let (busy, broken) = (Simulated::start(), Simulated::start());
    let accounts = [
        Account::new("busy", busy.address).models("[gpt-4o-mini]").with("limits: { concurrency: 1 }"),
        Account::new("broken", broken.address).models("[gpt-4o]"),
    ];
    let gateway = Gateway::start(&accounts);
    let customer = gateway.customer("1.00");
    let client = Client::h2(&gateway, &customer);
    let slow = ask(&[("latency_ms", "2000")]);
    let others = join_all((0..3).map(|_| client.ask(&slow)));
    let failing = async {
        depth_is(&gateway, 2).await;
        let mut body = ask(&[("status", "500")]);
        body["model"] = "gpt-4o".into();
        let begun = std::time::Instant::now();
        client.ask(&body).await.is_error(503, Some("upstream_unavailable"));
        begun.elapsed()
    };
    let (answers, took) = futures_util::future::join(others, failing).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    assert!(took < std::time::Duration::from_secs(2), "{took:?}");
    audit(gateway, &[&busy, &broken]).counts(3, 0, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_line_for_one_model_neither_refuses_nor_delays_another() {
    let provider = Simulated::start();
    let accounts = [
        Account::new("busy", provider.address).models("[gpt-4o-mini]").with("limits: { concurrency: 1 }"),
        Account::new("idle", provider.address).models("[gpt-4o]").with("limits: { concurrency: 1 }"),
    ];
    let settings = Settings { queue: "waiting_max: 1", ..Settings::default() };
    let gateway = Gateway::start_with(&accounts, &settings);
    let customer = gateway.customer("1.00");
    let client = Client::h2(&gateway, &customer);
    let slow = ask(&[("latency_ms", "3000")]);
    let mut other = ask(&[("latency_ms", "50")]);
    other["model"] = "gpt-4o".into();
    let busy = join_all((0..3).map(|_| client.ask(&slow)));
    let idle = async {
        depth_is(&gateway, 1).await;
        let first = client.ask(&other).await;
        let took_none =
            gateway.scrape().contains("tollgate_upstream_queue_wait_seconds_count{outcome=\"served\"}");
        // Its place is free a moment after its answer has come.
        headroom_of(&gateway, "idle", 1).await;
        // One under way and one in its own line.
        (first, took_none, join_all((0..2).map(|_| client.ask(&other))).await)
    };
    let (answers, (first, waited, idle)) = futures_util::future::join(busy, idle).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 2, "{answers:?}");
    assert_eq!((first.status, waited), (200, false), "{first:?}");
    assert!(idle.iter().all(|answer| answer.status == 200), "{idle:?}");
    audit(gateway, &[&provider]).counts(5, 0, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_failed_is_not_billed_to_who_leaves_while_the_next_one_waits() {
    let bad = Scripted::always(Script::answer("500 Internal Server Error", "", "{}"));
    let provider = Simulated::start();
    let accounts =
        [Account::scripted(&bad), Account::of(&provider).with("priority: 1, limits: { concurrency: 1 }")];
    let gateway = Gateway::start(&accounts);
    let customer = gateway.customer("1.00");
    for client in Client::both(&gateway, &customer) {
        let spawned = |body: serde_json::Value| {
            let client = client.clone();
            tokio::spawn(async move { client.ask(&body).await.status })
        };
        headroom_is(&gateway, 1).await;
        let first = spawned(ask(&[("latency_ms", "4000")]));
        headroom_is(&gateway, 0).await;
        // Tried on the bad one, then in line for the good one.
        let second = spawned(ask(&[]));
        depth_is(&gateway, 1).await;
        second.abort();
        depth_is(&gateway, 0).await;
        assert_eq!(first.await.unwrap(), 200);
    }
    assert_eq!((bad.seen().len(), provider.provider.log().len()), (4, 2));
    audit(gateway, &[&provider]).counts(2, 0, 2);
}

/// A provider that answers nothing before it is told to, once for each time.
pub fn held() -> (Scripted, mpsc::Sender<()>) {
    let (answer, told) = mpsc::channel();
    let told = Mutex::new(told);
    let body = r#"{"model":"gpt-4o-mini","choices":[{"message":{"content":"held"}}],
        "usage":{"prompt_tokens":10,"completion_tokens":2,"total_tokens":12}}"#;
    let provider = Scripted::start(move |_| {
        // A test that is over tells nothing any more.
        let _ = told.lock().unwrap().recv();
        Script::json(body)
    });
    (provider, answer)
}

/// Asks, and gives what will come of it once the provider has seen it.
pub async fn under_way(client: &Client, at: &Scripted) -> JoinHandle<Answer> {
    let (seen, asked) = (at.seen().len(), asked(client));
    eventually("it is under way", || (at.seen().len() > seen).then_some(())).await;
    asked
}

pub fn asked(client: &Client) -> JoinHandle<Answer> {
    let client = client.clone();
    tokio::spawn(async move { client.ask(&ask(&[])).await })
}

pub fn patient() -> Settings {
    Settings { queue: "wait_ms: 60000", ..Settings::default() }
}

#[tokio::test]
async fn who_waits_is_served_at_once_by_an_account_that_a_reload_adds_or_changes() {
    let (slow, answer) = held();
    let fresh = Simulated::start();
    let full = || Account::new("busy", slow.address).with("limits: { concurrency: 1 }");
    let gateway = Gateway::start_with(&[full()], &patient());
    let customer = gateway.customer("1.00");
    for client in Client::both(&gateway, &customer) {
        let first = under_way(&client, &slow).await;
        let added = vec![full(), Account::new("added", fresh.address)];
        // Elsewhere by now, and with room for another.
        let changed = vec![Account::new("busy", fresh.address).with("limits: { concurrency: 2 }")];
        for accounts in [added, changed] {
            let waiting = asked(&client);
            depth_is(&gateway, 1).await;
            gateway.reload(&accounts, &patient(), PRICES).await;
            let served = waiting.await.unwrap();
            assert_eq!(served.status, 200, "{served:?}");
            assert!(served.text().contains("tok15") && !first.is_finished(), "{served:?}");
            gateway.reload(&[full()], &patient(), PRICES).await;
        }
        answer.send(()).unwrap();
        assert!(first.await.unwrap().text().contains("held"));
    }
    assert_eq!((slow.seen().len(), fresh.provider.log().len()), (2, 4));
    audit(gateway, &[]).counts(6, 0, 0);
}

#[tokio::test]
async fn who_waits_is_not_served_by_an_account_that_a_reload_took_away() {
    let [(gone, answer_gone), (stays, answer_stays)] = [held(), held()];
    let one = "limits: { concurrency: 1 }";
    let staying = || Account::new("stays", stays.address).with(one).with("priority: 1");
    let leaving = Account::new("gone", gone.address).with(one);
    let gateway = Gateway::start_with(&[leaving, staying()], &patient());
    let customer = gateway.customer("1.00");
    let client = Client::h2(&gateway, &customer);
    let first = under_way(&client, &gone).await;
    let second = under_way(&client, &stays).await;
    let third = asked(&client);
    depth_is(&gateway, 1).await;
    gateway.reload(&[staying()], &patient(), PRICES).await;
    // What it had is finished there, and its room is nobody's.
    answer_gone.send(()).unwrap();
    let first = first.await.unwrap();
    assert_eq!(first.status, 200, "{first:?}");
    gateway.writes(&first.id()).await;
    for held in [second, third] {
        answer_stays.send(()).unwrap();
        assert_eq!(held.await.unwrap().status, 200);
    }
    assert_eq!((gone.seen().len(), stays.seen().len()), (1, 2));
    audit(gateway, &[]).counts(3, 0, 0);
}
