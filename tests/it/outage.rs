//! Four accounts in four kinds of trouble at once, under load; and accounts taken out by hand.

use crate::support::gateway::{PRICES, json_of, stdout};
use crate::support::{Account, Client, Gateway, Settings, Simulated, ask, audit, eventually};
use futures_util::future::join_all;
use serde_json::Value;
use std::time::Duration;
use tollgate::simulate::Options;

const NAMES: [&str; 4] = ["dies", "slows", "limits", "forgets"];
const CLIENTS: usize = 8;

fn usual() -> Options {
    Options { latency: Duration::from_millis(10), ..Options::default() }
}

/// Each client sends this many requests one after the other. All are served.
async fn load(clients: &[Client], each: usize) {
    let one = |client: Client| async move {
        for number in 0..each {
            let answer = client.ask(&ask(&[])).await;
            assert_eq!(answer.status, 200, "request {number}: {answer:?}");
        }
    };
    join_all(clients.iter().cloned().map(one)).await;
}

fn served(providers: &[&Simulated]) -> Vec<usize> {
    let good =
        |provider: &&Simulated| provider.provider.log().iter().filter(|entry| entry.status == 200).count();
    providers.iter().map(good).collect()
}

#[tokio::test]
async fn four_kinds_of_trouble_at_once_are_not_the_customers() {
    let [dies, slows, limits, forgets] = [(); 4].map(|()| Simulated::start_with(usual()));
    let accounts: Vec<Account> = [&dies, &slows, &limits, &forgets]
        .into_iter()
        .zip(NAMES)
        .map(|(provider, name)| Account::new(name, provider.address).with("check: models"))
        .collect();
    let gateway = Gateway::start(&accounts);
    let customer = gateway.customer("1.00");
    let clients: Vec<Client> = (0..CLIENTS).map(|_| Client::h1(&gateway, &customer)).collect();
    load(&clients, 10).await;
    assert!(served(&[&dies, &slows, &limits, &forgets]).iter().all(|count| *count > 0));

    slows.provider.set_options(Options { latency: Duration::from_millis(200), ..Options::default() });
    limits.provider.set_options(Options { rate_limited_ppm: 1_000_000, ..usual() });
    forgets.provider.set_options(Options { credentials: vec!["sk-another".into()], ..usual() });
    let (under_way, dead) = tokio::join!(load(&clients, 15), async { dies.die() });
    let () = under_way;
    let scrape = gateway.scrape();
    for line in [
        r#"tollgate_upstream_shut{model="",reason="credential",upstream="forgets"} 1"#,
        r#"tollgate_upstream_up{upstream="forgets"} 0"#,
    ] {
        assert!(scrape.lines().any(|found| found == line), "no {line} in\n{scrape}");
    }
    gateway.writes("an upstream account is out of use").await;

    let dies = Simulated::revive(dead);
    [&slows, &limits, &forgets].into_iter().for_each(|provider| provider.provider.set_options(usual()));
    let providers = [&dies, &slows, &limits, &forgets];
    let before = served(&providers);
    let begun = std::time::Instant::now();
    loop {
        load(&clients, 2).await;
        let now = served(&providers);
        if now.iter().zip(&before).all(|(now, before)| now > before) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(90), "{before:?} {now:?}: {}", gateway.scrape());
    }
    let audit = audit(gateway, &providers);
    assert_eq!((audit.estimated, audit.released), (0, 0), "{audit:#?}");
    assert!(audit.reported >= CLIENTS * 27);
}

#[tokio::test]
async fn an_account_is_drained_and_resumed_by_hand() {
    let [first, second] = [(); 2].map(|()| Simulated::start());
    let gateway =
        Gateway::start(&[Account::new("first", first.address), Account::new("second", second.address)]);
    let customer = gateway.customer("1.00");
    let client = Client::h1(&gateway, &customer);
    let under_way = tokio::spawn({
        let client = client.clone();
        async move { client.ask(&ask(&[("latency_ms", "2000")])).await.status }
    });
    eventually("it is under way", || gateway.scrape().contains("tollgate_in_flight 1").then_some(())).await;
    for name in ["first", "second"] {
        let drained: Value = gateway.json(&["upstream", "drain", name]);
        assert_eq!((&drained["name"], &drained["status"]), (&name.into(), &"draining".into()), "{drained}");
    }
    client.ask(&ask(&[])).await.is_error(503, Some("upstream_unavailable"));
    assert_eq!(under_way.await.unwrap(), 200, "what it had, it finished");
    json_of(&gateway.run(&["upstream", "resume", "second", "--json"]));
    for _ in 0..10 {
        assert_eq!(client.ask(&ask(&[])).await.status, 200);
    }
    assert!(second.provider.log().len() >= 10);
    let table = stdout(&gateway.run(&["upstream", "list"]));
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..2], ["NAME", "STATUS"], "{table}");
    assert_eq!(
        (&lines[1][..3], &lines[2][..3]),
        (&["first", "draining", "0"][..], &["second", "open", "0"][..])
    );
    // A new credential is no reason to send it requests again.
    let accounts = [("first", &first), ("second", &second)]
        .map(|(name, account)| Account::new(name, account.address).credential("sk-renewed"));
    gateway.reload(&accounts, &Settings::default(), PRICES).await;
    let table = stdout(&gateway.run(&["upstream", "list"]));
    assert!(table.lines().nth(1).unwrap().contains("draining"), "{table}");
    let unknown = gateway.run(&["upstream", "drain", "third"]);
    assert_eq!(unknown.status.code(), Some(3), "{unknown:?}");
    audit(gateway, &[&first, &second]).counts(11, 0, 1);
}
