//! Trying again: how often, how late, and after what.

use crate::strangers::metric;
use crate::support::gateway::text;
use crate::support::tls_front::{Authority, Front};
use crate::support::{Account, Client, Gateway, Settings, Simulated, ask, audit, eventually, streamed};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::net::{TcpSocket, TcpStream};

fn outcomes(receipt: &Value) -> Vec<String> {
    let attempts = receipt["attempts"].as_array().unwrap();
    attempts.iter().map(|attempt| text(&attempt["outcome"])).collect()
}

/// What the budget says of each retry: a hundred are saved up, and ten requests earn one.
#[tokio::test]
async fn a_tenth_of_the_requests_is_tried_again_and_no_more() {
    let provider = Simulated::start();
    let gateway = Gateway::start(&[
        Account::new("bad", provider.address).with("weight: 1000"),
        Account::new("good", provider.address).credential("sk-upstream-good"),
    ]);
    let customer = gateway.customer("1.00");
    let client = Client::h1(&gateway, &customer);
    let failing = ask(&[("status", "500"), ("only_credential", "-bad")]);
    let cut = streamed(ask(&[("cut_after_chunks", "2")]));
    let (mut saved, mut retried, mut denied, mut retried_late) = (1_000, 0, 0, 0);
    for number in 0.. {
        assert!(number < 1_000, "the budget never ends: {retried} retried");
        saved = 1_000.min(saved + 1);
        match number % 50 {
            1 => {
                // What has begun is not tried again, and takes nothing of the budget.
                let answer = client.chat(cut.to_string()).send().await.unwrap();
                assert_eq!(answer.status(), 200);
                // However it breaks off.
                drop(answer.bytes().await);
                continue;
            }
            // Less than half, or the account would be shut.
            place if place % 5 == 0 || place % 5 == 2 => {}
            _ => {
                assert_eq!(client.ask(&ask(&[])).await.status, 200);
                continue;
            }
        }
        let answer = client.ask(&failing).await;
        let attempts = provider.served(&answer.id()).len();
        match (answer.status, attempts) {
            (200, 1) => {}
            (200, 2) => {
                assert!(saved >= 10, "{number}: not earned");
                (saved, retried) = (saved - 10, retried + 1);
                retried_late += usize::from(denied > 0);
            }
            (503, 1) => {
                assert!(saved < 10, "{number}: there are {saved} tenths");
                answer.is_error(503, Some("upstream_unavailable"));
                denied += 1;
            }
            other => panic!("{number}: {other:?} {answer:?}"),
        }
        if denied > 3 && retried_late > 1 {
            break;
        }
    }
    assert!(retried > 100, "{retried}");
    assert_eq!(metric(&gateway, "tollgate_upstream_retries_denied_total"), denied);
    let broken = r#"tollgate_upstream_attempts_total{outcome="broken",upstream="bad"}"#;
    assert!(metric(&gateway, broken) > 3);
    let released = audit(gateway, &[&provider]).released;
    assert_eq!(released, denied, "who was denied pays nothing");
}

#[tokio::test]
async fn no_attempt_begins_when_the_time_is_over() {
    let provider = Simulated::start();
    let accounts = [
        Account::new("bad", provider.address),
        Account::new("good", provider.address)
            .credential("sk-upstream-good")
            .with("priority: 1, limits: { concurrency: 1 }"),
    ];
    let settings = Settings { retry: "total_ms: 1000", ..Settings::default() };
    let gateway = Gateway::start_with(&accounts, &settings);
    let customer = gateway.customer("1.00");
    let client = Client::h2(&gateway, &customer);
    let of = |id: String| {
        let gateway = &gateway;
        async move { outcomes(&gateway.receipt(&id).await) }
    };
    let soon = client.ask(&ask(&[("status", "500"), ("only_credential", "-bad")])).await;
    assert_eq!((soon.status, of(soon.id()).await), (200, vec!["server".to_owned(), "ok".into()]));
    let late = client.ask(&ask(&[("status", "500"), ("latency_ms", "1200")])).await;
    late.is_error(503, Some("upstream_unavailable"));
    assert_eq!(of(late.id()).await, ["server"]);
    // Nor does one wait longer in line, though requests may wait for 10 seconds.
    gateway.json(&["upstream", "drain", "bad"]);
    let slow = tokio::spawn({
        let client = client.clone();
        async move { client.ask(&ask(&[("latency_ms", "5000")])).await.status }
    });
    let full = r#"tollgate_upstream_headroom_ratio{limit="concurrency",upstream="good"} 0"#;
    eventually("it is under way", || gateway.scrape().lines().any(|line| line == full).then_some(())).await;
    gateway.json(&["upstream", "resume", "bad"]);
    let begun = Instant::now();
    let waited = client.ask(&ask(&[("status", "500")])).await;
    waited.is_error(503, Some("overloaded"));
    assert_eq!(of(waited.id()).await, ["server"]);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(slow.await.unwrap(), 200);
    audit(gateway, &[&provider]).counts(2, 0, 2);
}

/// A listener that takes no connections any more, and those that it has.
async fn full() -> (SocketAddr, tokio::net::TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut taken = Vec::new();
    while let Ok(connected) =
        tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await
    {
        taken.push(connected.unwrap());
    }
    (address, listener, taken)
}

#[tokio::test]
async fn an_account_that_cannot_be_connected_to_in_time_is_passed_over() {
    let (address, _listener, taken) = full().await;
    assert!(!taken.is_empty());
    let provider = Simulated::start();
    let full = Account::new("full", address).with("weight: 1000, timeouts: { connect_ms: 200 }");
    let gateway = Gateway::start(&[full, Account::of(&provider)]);
    let customer = gateway.customer("1.00");
    let mut failovers = 0;
    for client in Client::both(&gateway, &customer) {
        let begun = Instant::now();
        let answer = client.ask(&ask(&[])).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let outcomes = outcomes(&gateway.receipt(&answer.id()).await);
        if outcomes == ["connect", "ok"] {
            failovers += 1;
            let took = begun.elapsed();
            assert!(took >= Duration::from_millis(200) && took < Duration::from_secs(4), "{took:?}");
        }
    }
    assert!(failovers > 0);
    audit(gateway, &[&provider]).is_exact(2);
}

/// Nothing was sent to it, and whoever restarts is soon there.
#[tokio::test]
async fn where_no_other_account_is_left_a_connection_is_tried_once_more() {
    let (provider, authority) = (Simulated::start(), Authority::new());
    let front = Front::start(&provider, &authority, "127.0.0.1", "localhost", &["h2", "http/1.1"]);
    let at = format!("https://localhost:{}/v1", front.address.port());
    let ca = format!("ca_file: \"{}\"", authority.file().display());
    for (drops, expect) in [(1, ["connect", "ok"]), (2, ["connect", "connect"])] {
        for body in [ask(&[]), streamed(ask(&[]))] {
            // One of its own each time: connections are kept, and what fails is remembered.
            let gateway = Gateway::start(&[Account::new("only", front.address).at(at.clone()).with(&ca)]);
            let client = Client::h1(&gateway, &gateway.customer("1.00"));
            front.drop_next(drops);
            let answer = client.ask(&body).await;
            assert_eq!(outcomes(&gateway.receipt(&answer.id()).await), expect);
            if drops == 1 {
                assert_eq!(answer.status, 200, "{answer:?}");
            } else {
                answer.is_error(503, Some("upstream_unavailable"));
            }
        }
    }
    assert_eq!((front.agreed().len(), provider.provider.log().len()), (2, 2));
}

#[tokio::test]
async fn of_several_accounts_the_last_alone_is_connected_to_once_more() {
    let taken = [(); 3].map(|()| TcpSocket::new_v4().unwrap());
    let accounts = taken.iter().zip(["a", "b", "c"]).map(|(socket, name)| {
        // Nobody else gets the port, and nobody listens there.
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Account::new(name, socket.local_addr().unwrap())
    });
    let accounts: Vec<Account> = accounts.collect();
    for (retry, expect) in [("attempts_max: 3", 3), ("attempts_max: 9", 4)] {
        let gateway = Gateway::start_with(&accounts, &Settings { retry, ..Settings::default() });
        let customer = gateway.customer("1.00");
        let answer = Client::h2(&gateway, &customer).ask(&ask(&[])).await;
        answer.is_error(503, Some("upstream_unavailable"));
        let receipt = gateway.receipt(&answer.id()).await;
        assert_eq!(outcomes(&receipt), vec!["connect"; expect]);
        let attempts = receipt["attempts"].as_array().unwrap();
        let mut names: Vec<String> = attempts.iter().map(|attempt| text(&attempt["upstream"])).collect();
        assert!(expect == 3 || names.pop().as_ref() == names.last(), "{receipt}");
        names.sort_unstable();
        assert_eq!(names, ["a", "b", "c"]);
        gateway.settles_at(&customer, "1.00").await;
    }
}

/// A 404 is about one model of one account: for a while that is not asked for it, and for others it is.
#[tokio::test]
async fn a_model_that_an_account_lacks_is_not_asked_of_it_again() {
    let provider = Simulated::start();
    let gateway = Gateway::start(&[
        Account::new("bad", provider.address).with("weight: 1000"),
        Account::new("good", provider.address).credential("sk-upstream-good").with("weight: 1"),
    ]);
    let customer = gateway.customer("1.00");
    let client = Client::h1(&gateway, &customer);
    let shut = r#"tollgate_upstream_shut{model="gpt-4o-mini",reason="model",upstream="bad"} 1"#;
    while !gateway.scrape().lines().any(|line| line == shut) {
        let lacking = client.ask(&ask(&[("status", "404"), ("only_credential", "-bad")])).await;
        assert_eq!(lacking.status, 200, "{lacking:?}");
    }
    let before = provider.provider.log().len();
    let mut large = ask(&[]);
    large["model"] = json!("gpt-4o");
    for _ in 0..20 {
        assert_eq!(client.ask(&ask(&[])).await.status, 200);
        assert_eq!(client.ask(&large).await.status, 200);
    }
    let log = provider.provider.log();
    let by = |model: &str, credential: &str| {
        let served = |entry: &&tollgate::simulate::Served| {
            entry.model == model && entry.credential_last4 == credential
        };
        log[before..].iter().filter(served).count()
    };
    assert_eq!((by("gpt-4o-mini", "-bad"), by("gpt-4o-mini", "good")), (0, 20));
    assert!(by("gpt-4o", "-bad") >= 15, "{}", by("gpt-4o", "-bad"));
    assert!(gateway.scrape().contains("tollgate_upstream_up{upstream=\"bad\"} 1"));
    // By hand it is taken to be mended.
    gateway.json(&["upstream", "drain", "bad"]);
    gateway.json(&["upstream", "resume", "bad"]);
    let before = provider.provider.log().len();
    for _ in 0..3 {
        assert_eq!(client.ask(&ask(&[])).await.status, 200);
    }
    assert!(provider.provider.log()[before..].iter().any(|served| served.credential_last4 == "-bad"));
}
