//! Hedging: a slow first byte is asked for elsewhere, too, and the first to begin is paid, once.

use crate::strangers::metric;
use crate::support::gateway::text;
use crate::support::scripted::Then;
use crate::support::tls_front::{Authority, Front};
use crate::support::{
    Account, Answer, Client, Customer, Gateway, Script, Scripted, Settings, Simulated, ask, audit,
    event_stream, eventually, streamed,
};
use futures_util::future::join_all;
use serde_json::json;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};
use tollgate::money::Amount;
use tollgate::simulate::{Options, Served};

/// So soon that no test waits for it, so late that who answers at once is not hedged.
const SOON: &str = "hedge: { streamed_after_ms: 300, whole_after_ms: 300 }";
/// Requests go the way of those that may be hedged, and none is.
const NEVER: &str = "hedge: { streamed_after_ms: 29000, whole_after_ms: 29000 }";
/// The account `slow` takes longer than any test.
const SLOW: [(&str, &str); 2] = [("latency_ms", "60000"), ("only_credential", "slow")];

/// Two accounts at one provider, of which `slow` is asked first.
fn two(provider: &Simulated) -> [Account; 2] {
    [Account::new("slow", provider.address), Account::new("quick", provider.address).with("priority: 1")]
}

fn start(accounts: &[Account], retry: &'static str) -> (Gateway, Customer) {
    let gateway = Gateway::start_with(accounts, &Settings { retry, ..Settings::default() });
    let customer = gateway.customer("25.00");
    (gateway, customer)
}

async fn outcomes(gateway: &Gateway, answer: &Answer) -> Vec<(String, String)> {
    let receipt = gateway.receipt(&answer.id()).await;
    let attempts = receipt["attempts"].as_array().unwrap();
    attempts.iter().map(|attempt| (text(&attempt["upstream"]), text(&attempt["outcome"]))).collect()
}

fn tried(attempts: &[(&str, &str)]) -> Vec<(String, String)> {
    attempts.iter().map(|(upstream, outcome)| ((*upstream).into(), (*outcome).into())).collect()
}

fn attempts(gateway: &Gateway, upstream: &str, outcome: &str) -> usize {
    let labels = format!("{{outcome=\"{outcome}\",upstream=\"{upstream}\"}}");
    metric(gateway, &format!("tollgate_upstream_attempts_total{labels}"))
}

/// What the provider knows of a request, once it knows of both its attempts: the slow one was left.
async fn left(provider: &Simulated, request: &str) -> Served {
    let both = eventually("both attempts have ended", || {
        let served = provider.served(request);
        (served.len() == 2).then_some(served)
    });
    let (complete, left): (Vec<_>, Vec<_>) = both.await.into_iter().partition(|served| served.complete);
    assert_eq!((complete.len(), left.len()), (1, 1), "{complete:?} {left:?}");
    assert_eq!((&*left[0].credential_last4, left[0].chunks_sent), ("slow", 0));
    complete.into_iter().next().unwrap()
}

/// No hold is open, and no account has anything to do.
async fn all_is_given_back(gateway: &Gateway) {
    let free = ["slow", "quick"].map(|upstream| {
        format!("tollgate_upstream_headroom_ratio{{limit=\"concurrency\",upstream=\"{upstream}\"}} 1")
    });
    let free = free.iter().map(String::as_str);
    let expected: Vec<&str> =
        ["tollgate_in_flight 0", "tollgate_holds_open 0"].into_iter().chain(free).collect();
    eventually("all is given back", || {
        let scrape = gateway.scrape();
        expected.iter().all(|line| scrape.lines().any(|found| found == *line)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_slow_first_byte_is_asked_for_elsewhere_and_paid_once() {
    let provider = Simulated::start();
    let (gateway, customer) = start(&two(&provider), SOON);
    for client in Client::both(&gateway, &customer) {
        for body in [ask(&SLOW), streamed(ask(&SLOW))] {
            let begun = Instant::now();
            let answer = client.ask(&body).await;
            assert!((300..20_000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
            assert_eq!(answer.status, 200, "{answer:?}");
            assert!(answer.text().contains("tok15"), "{answer:?}");
            let served = left(&provider, &answer.id()).await;
            assert_eq!(outcomes(&gateway, &answer).await, tried(&[("slow", "hedged"), ("quick", "ok")]));
            let receipt = gateway.receipt(&answer.id()).await;
            assert_eq!(text(&receipt["charge"]), "0.0000114", "{receipt}");
            assert_eq!(receipt["usage"]["input"], served.prompt_tokens, "{receipt}");
        }
    }
    assert_eq!((attempts(&gateway, "slow", "hedged"), attempts(&gateway, "quick", "ok")), (4, 4));
    assert_eq!(attempts(&gateway, "slow", "ok"), 0);
    let scrape = gateway.scrape();
    assert!(!scrape.contains("tollgate_upstream_shut{"), "{scrape}");
    all_is_given_back(&gateway).await;
    audit(gateway, &[&provider]).is_exact(4);
}

#[tokio::test]
async fn the_first_may_still_win() {
    let late = Simulated::start_with(Options { latency: Duration::from_secs(60), ..Options::default() });
    let provider = Simulated::start();
    let accounts =
        [Account::new("first", provider.address), Account::new("late", late.address).with("priority: 1")];
    let (gateway, customer) = start(&accounts, SOON);
    let slow = [("latency_ms", "900"), ("only_credential", "irst")];
    for client in Client::both(&gateway, &customer) {
        for body in [ask(&slow), streamed(ask(&slow))] {
            let answer = client.ask(&body).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(outcomes(&gateway, &answer).await, tried(&[("late", "hedged"), ("first", "ok")]));
            let left = eventually("the other is left", || late.served(&answer.id()).pop()).await;
            assert!(!left.complete, "{left:?}");
        }
    }
    audit(gateway, &[&provider, &late]).is_exact(4);
}

/// Off by default; and with room for no other, with one that is quick, and for what its provider keeps.
#[tokio::test]
async fn nothing_else_is_hedged() {
    let slow = [("latency_ms", "700"), ("only_credential", "slow")];
    for retry in ["", "hedge: { streamed_after_ms: 100 }", NEVER] {
        let provider = Simulated::start();
        let (gateway, customer) = start(&two(&provider), retry);
        for client in Client::both(&gateway, &customer) {
            let mut bodies = vec![ask(&slow)];
            if !retry.contains("streamed_after_ms: 100") {
                bodies.push(streamed(ask(&slow)));
            }
            for body in bodies {
                let begun = Instant::now();
                let answer = client.ask(&body).await;
                assert_eq!(answer.status, 200, "{answer:?}");
                assert!(begun.elapsed() >= Duration::from_millis(700), "{:?}", begun.elapsed());
                assert_eq!(outcomes(&gateway, &answer).await, tried(&[("slow", "ok")]), "{retry}");
                assert_eq!(provider.served(&answer.id()).len(), 1);
            }
        }
        assert_eq!(attempts(&gateway, "slow", "hedged"), 0);
        let answers = provider.provider.log().len();
        audit(gateway, &[&provider]).is_exact(answers);
    }
    let provider = Simulated::start();
    let (gateway, customer) =
        start(&two(&provider), "hedge: { streamed_after_ms: 100, whole_after_ms: 100 }");
    let client = Client::h1(&gateway, &customer);
    let response = |store: bool| json!({ "model": "gpt-4o-mini", "input": "hello", "store": store, "metadata": { "simulate_latency_ms": "700", "simulate_only_credential": "slow" } });
    for (body, expect) in
        [(response(true), &[("slow", "ok")][..]), (response(false), &[("slow", "hedged"), ("quick", "ok")])]
    {
        let answer = Answer::read(client.post("/v1/responses", body.to_string())).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(outcomes(&gateway, &answer).await, tried(expect));
    }
    // One that takes nothing now is not waited for.
    gateway.json(&["upstream", "drain", "quick"]);
    let answer = client.ask(&streamed(ask(&slow))).await;
    assert_eq!(outcomes(&gateway, &answer).await, tried(&[("slow", "ok")]));
    audit(gateway, &[&provider]).is_exact(3);
}

/// A second that fails while the first is still awaited wins nothing; a first that fails is not waited for.
#[tokio::test]
async fn who_fails_does_not_win() {
    for (failing, outcome) in [("500", "server"), ("429", "rate_limited"), ("401", "credential")] {
        let provider =
            Simulated::start_with(Options { latency: Duration::from_millis(900), ..Options::default() });
        let (gateway, customer) = start(&two(&provider), SOON);
        let client = Client::h2(&gateway, &customer);
        // The latency of faults is their own: the second fails at once.
        let faults = [("status", failing), ("latency_ms", "0"), ("only_credential", "uick")];
        for body in [ask(&faults), streamed(ask(&faults))] {
            let answer = client.ask(&body).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let outcomes = outcomes(&gateway, &answer).await;
            assert_eq!(outcomes, tried(&[("quick", outcome), ("slow", "ok")]), "{failing}");
            if failing != "500" {
                // It is shut for the next.
                break;
            }
        }
        assert_eq!(attempts(&gateway, "slow", "hedged"), 0);
        let served = provider.provider.log().iter().filter(|served| served.status == 200).count();
        audit(gateway, &[&provider]).is_exact(served);
    }
    // Nor does one that cannot be connected to.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = SocketAddr::from(([127, 201, 3, 9], taken.local_addr().unwrap().port()));
    let provider =
        Simulated::start_with(Options { latency: Duration::from_millis(900), ..Options::default() });
    let accounts = [Account::new("slow", provider.address), Account::new("down", nobody).with("priority: 1")];
    let (gateway, customer) = start(&accounts, SOON);
    for client in Client::both(&gateway, &customer) {
        let answer = client.ask(&ask(&[])).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(outcomes(&gateway, &answer).await, tried(&[("down", "connect"), ("slow", "ok")]));
    }
    audit(gateway, &[&provider]).is_exact(2);
    // The first fails once the second is under way.
    let provider =
        Simulated::start_with(Options { latency: Duration::from_millis(1_500), ..Options::default() });
    let (gateway, customer) = start(&two(&provider), SOON);
    let faults = [("status", "500"), ("latency_ms", "600"), ("only_credential", "slow")];
    for client in Client::both(&gateway, &customer) {
        let answer = client.ask(&streamed(ask(&faults))).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(outcomes(&gateway, &answer).await, tried(&[("slow", "server"), ("quick", "ok")]));
    }
    audit(gateway, &[&provider]).is_exact(2);
}

#[tokio::test]
async fn when_both_fail_the_next_account_is_tried() {
    let provider = Simulated::start();
    let third = Account::new("third", provider.address).with("priority: 2");
    let [slow, quick] = two(&provider);
    let (gateway, customer) = start(&[slow, quick, third], SOON);
    // A credential's last letter tells the third from the others.
    let client = Client::h1(&gateway, &customer);
    let faults = [("status", "500"), ("latency_ms", "600")];
    let answer = client.ask(&ask(&faults)).await;
    answer.is_error(503, Some("upstream_unavailable"));
    let failed = [("slow", "server"), ("quick", "server"), ("third", "server")];
    assert_eq!(outcomes(&gateway, &answer).await, tried(&failed));
    let (retry, both) = ("attempts_max: 2, hedge: { streamed_after_ms: 300 }", &failed[..2]);
    drop(client);
    audit(gateway, &[&provider]).counts(0, 0, 1);
    let (gateway, customer) = start(&two(&provider), retry);
    let answer = Client::h2(&gateway, &customer).ask(&streamed(ask(&faults))).await;
    answer.is_error(503, Some("upstream_unavailable"));
    assert_eq!(outcomes(&gateway, &answer).await, tried(both), "a hedge is an attempt");
}

#[tokio::test]
async fn hanging_up_ends_both() {
    let provider = Simulated::start();
    let accounts = two(&provider).map(|account| account.with("on_hang_up: cancel"));
    let (gateway, customer) = start(&accounts, SOON);
    let silent = [("latency_ms", "60000")];
    for (number, client) in Client::both(&gateway, &customer).into_iter().enumerate() {
        let (_, before) = gateway.balance(&customer);
        let request = tokio::spawn(client.chat(streamed(ask(&silent)).to_string()).send());
        let full = |upstream| {
            format!(
                "tollgate_upstream_headroom_ratio{{limit=\"concurrency\",upstream=\"{upstream}\"}} 0.9995"
            )
        };
        eventually("both are asked", || {
            let scrape = gateway.scrape();
            ["slow", "quick"].into_iter().all(|upstream| scrape.contains(&full(upstream))).then_some(())
        })
        .await;
        request.abort();
        drop(client);
        let left = || provider.provider.log().len() == 2 * (number + 1);
        eventually("both are left", || left().then_some(())).await;
        let posted = eventually("its charge", || {
            let (posted, available) = gateway.balance(&customer);
            (posted == available).then_some(posted)
        })
        .await;
        assert!(Amount::parse(&posted).unwrap() < Amount::parse(&before).unwrap(), "the input is charged");
    }
    assert!(provider.provider.log().iter().all(|served| !served.complete));
    let audit = audit(gateway, &[&provider]);
    audit.counts(0, 2, 0);
    assert_eq!(audit.receipts[0].charge, audit.receipts[1].charge, "once each");
}

#[tokio::test]
async fn close_races_are_paid_once_and_leave_nothing_behind() {
    let provider = Simulated::start();
    let (gateway, customer) = start(&two(&provider), "hedge: { streamed_after_ms: 60, whole_after_ms: 60 }");
    let clients = Client::both(&gateway, &customer);
    let asked = (0..90).map(|number| {
        // As late as the other one is asked, and a little later.
        let latency = (55 + number % 15).to_string();
        let body = ask(&[("latency_ms", &latency), ("only_credential", "slow")]);
        let body = if number % 3 == 0 { body } else { streamed(body) };
        let client = &clients[number % 2];
        async move { client.ask(&body).await }
    });
    for answer in join_all(asked).await {
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.text().contains("tok15"), "{answer:?}");
        let outcomes = outcomes(&gateway, &answer).await;
        let (last, before) = outcomes.split_last().unwrap();
        assert_eq!(last.1, "ok", "{outcomes:?}");
        assert!(before.len() < 2 && before.iter().all(|(_, outcome)| outcome == "hedged"), "{outcomes:?}");
    }
    let hedged = attempts(&gateway, "slow", "hedged") + attempts(&gateway, "quick", "hedged");
    assert!(hedged > 0);
    assert_eq!(attempts(&gateway, "slow", "ok") + attempts(&gateway, "quick", "ok"), 90);
    all_is_given_back(&gateway).await;
    // Both may have answered to their end: one is paid.
    let audit = audit(gateway, &[]);
    audit.counts(90, 0, 0);
    assert!(audit.receipts.iter().all(|receipt| receipt.charge == audit.receipts[0].charge));
}

/// What a provider has sent of a stream reaches the client at once, hedged or not.
#[tokio::test]
async fn a_hedged_stream_is_not_held_back() {
    let pace = Options { chunks: 60, pace: Duration::from_millis(10), ..Options::default() };
    let provider = Simulated::start_with(pace);
    let (gateway, customer) = start(&two(&provider), SOON);
    for client in Client::both(&gateway, &customer) {
        let mut body = streamed(ask(&SLOW));
        body["metadata"]["simulate_tokens"] = json!("60");
        let mut response = client.chat(body.to_string()).send().await.unwrap();
        let (mut came, mut pieces) = (Vec::new(), Vec::new());
        while let Some(piece) = response.chunk().await.unwrap() {
            pieces.push(Instant::now());
            came.extend_from_slice(&piece);
        }
        assert!(event_stream(std::str::from_utf8(&came).unwrap()).len() > 60);
        let took = pieces[pieces.len() - 1] - pieces[0];
        assert!(pieces.len() > 10 && took > Duration::from_millis(400), "{} in {took:?}", pieces.len());
    }
    assert_eq!(attempts(&gateway, "slow", "hedged"), 2);
    audit(gateway, &[&provider]).is_exact(2);
}

/// A hundred are saved up, and ten requests earn one.
#[tokio::test]
async fn hedges_take_of_the_budget_of_retries() {
    let provider = Simulated::start();
    let (gateway, customer) = start(&two(&provider), "hedge: { streamed_after_ms: 1 }");
    let client = Client::h2(&gateway, &customer);
    let body = streamed(ask(&[("latency_ms", "250"), ("only_credential", "slow")]));
    let (mut hedged, mut denied) = (0, 0);
    for number in 0.. {
        assert!(number < 400, "the budget never ends: {hedged} hedged");
        let answer = client.ask(&body).await;
        match &*outcomes(&gateway, &answer).await {
            [(slow, ok)] if slow == "slow" && ok == "ok" => denied += 1,
            [(slow, left), (quick, ok)]
                if slow == "slow" && left == "hedged" && quick == "quick" && ok == "ok" =>
            {
                hedged += 1
            }
            other => panic!("{other:?}"),
        }
        if denied == 5 {
            break;
        }
    }
    assert!((100..130).contains(&hedged), "{hedged}");
    assert_eq!(metric(&gateway, "tollgate_upstream_retries_denied_total"), denied);
    audit(gateway, &[&provider]).is_exact(hedged + denied);
}

#[tokio::test]
async fn its_connections_are_kept_and_a_closed_one_is_nobodys_fault() {
    let json = Script::json(r#"{"usage":{"prompt_tokens":1,"completion_tokens":1}}"#);
    let kept = Scripted::always(json.clone());
    let (gateway, customer) = start(&[Account::scripted(&kept)], NEVER);
    let client = Client::h1(&gateway, &customer);
    for _ in 0..20 {
        assert_eq!(client.ask(&ask(&[])).await.status, 200);
    }
    let connections = kept.seen().iter().map(|seen| seen.connection).max().unwrap() + 1;
    assert!(connections < 10, "{connections} for 20 requests");
    drop(gateway);
    let closed = Scripted::always(json.then(Then::Close));
    let (gateway, customer) = start(&[Account::scripted(&closed)], NEVER);
    for client in Client::both(&gateway, &customer) {
        for _ in 0..20 {
            let answer = client.ask(&ask(&[])).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let outcomes = outcomes(&gateway, &answer).await;
            let (last, before) = outcomes.split_last().unwrap();
            assert_eq!(last.1, "ok");
            assert!(before.iter().all(|(_, outcome)| outcome == "stale"), "{outcomes:?}");
        }
    }
    audit(gateway, &[]).counts(40, 0, 0);
}

/// A provider that refuses a large request may do so before it has come, and close its connection.
#[tokio::test]
async fn who_refuses_before_all_was_sent_is_heard() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut head = [0; 1024];
            if stream.read(&mut head).is_ok_and(|read| read > 0) {
                let error = r#"{"error":{"message":"too large","type":"invalid_request_error"}}"#;
                let answer =
                    Script::answer("413 Payload Too Large", "content-type: application/json\r\n", error);
                stream.write_all(&answer.bytes).unwrap();
            }
        }
    });
    let mut body = ask(&[]);
    body["messages"][0]["content"] = json!("x".repeat(10_000_000));
    for retry in ["", NEVER] {
        let (gateway, customer) = start(&[Account::new("first", address)], retry);
        for client in Client::both(&gateway, &customer) {
            let answer = client.ask(&body).await;
            assert_eq!(answer.status, 413, "{retry}: {answer:?}");
            assert_eq!(outcomes(&gateway, &answer).await, tried(&[("first", "ok")]));
        }
        audit(gateway, &[]).counts(0, 0, 2);
    }
}

/// Providers that speak HTTP/2: the one that is left is told so on a connection that others use.
#[tokio::test]
async fn streams_of_one_connection_are_hedged() {
    let (provider, authority) = (Simulated::start(), Authority::new());
    let front = Front::start(&provider, &authority, "127.0.0.1", "localhost", &["h2", "http/1.1"]);
    let account = |name: &str, more: &str| {
        let base_url = format!("https://localhost:{}/v1", front.address.port());
        let ca = authority.file();
        Account::new(name, front.address).at(base_url).with(&format!("ca_file: \"{}\"{more}", ca.display()))
    };
    let (gateway, customer) = start(&[account("slow", ""), account("quick", ", priority: 1")], SOON);
    for client in Client::both(&gateway, &customer) {
        for body in [ask(&SLOW), streamed(ask(&SLOW))] {
            let answer = client.ask(&body).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            left(&provider, &answer.id()).await;
            assert_eq!(outcomes(&gateway, &answer).await, tried(&[("slow", "hedged"), ("quick", "ok")]));
        }
    }
    let connections = front.agreed();
    assert!(connections.iter().all(|agreed| agreed.protocol.as_deref() == Some("h2")), "{connections:?}");
    assert!(connections.len() <= 3, "{connections:?} for 8 attempts");
    audit(gateway, &[&provider]).is_exact(4);
}
