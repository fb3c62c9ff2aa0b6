//! SIGHUP: the configuration and the prices change as a whole, or not at all, and nobody notices.

use crate::support::gateway::{PRICES, text};
use crate::support::{Account, Client, Gateway, Settings, Simulated, ask, audit, streamed};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs;

/// What was told to have changed, as `SETTING: FROM -> TO`.
fn told(said: &[Value], message: &str) -> Vec<String> {
    let lines = said.iter().filter(|line| line["message"] == message);
    lines
        .map(|line| format!("{}: {} -> {}", text(&line["setting"]), text(&line["from"]), text(&line["to"])))
        .collect()
}

/// The sample of this name that Prometheus would read.
fn sample(gateway: &Gateway, name: &str) -> Option<f64> {
    let scrape = gateway.scrape();
    let line = scrape.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    Some(line.parse().unwrap())
}

#[tokio::test]
async fn a_reload_takes_what_was_written_and_tells_it() {
    let [old, new] = [Simulated::start(), Simulated::start()];
    let first = || Account::new("first", old.address);
    let gateway = Gateway::start(&[first(), Account::new("second", old.address)]);
    let customer = gateway.customer("1.00");
    let [client, _] = Client::both(&gateway, &customer);
    assert_eq!(client.ask(&ask(&[])).await.status, 200);
    let loaded = sample(&gateway, "tollgate_config_reload_timestamp_seconds").unwrap();

    let settings = Settings { gateway: ", body_bytes_max: 1000, threads: 1", ..Settings::default() };
    let dearer = PRICES.replace("version: it-1", "version: it-2").replace("\"0.60\"", "\"6.00\"");
    let accounts =
        [first().credential("sk-upstream-NEW-CANARY"), Account::new("third", new.address).with("weight: 9")];
    let said = gateway.reload(&accounts, &settings, &dearer).await;
    let mini = "input 0.15, cached_input 0.075, output";
    assert_eq!(
        told(&said, "changed"),
        [
            "gateway.body_bytes_max: 33554432 -> 1000".to_owned(),
            "prices.version: \"it-1\" -> \"it-2\"".into(),
            format!("prices.gpt-4o-mini: {mini} 0.60 -> {mini} 6.00"),
            format!("upstreams.second: http://{}/v1 -> ", old.address),
            "upstreams.first.api_key: (secret) -> (secret)".into(),
            format!("upstreams.third:  -> http://{}/v1", new.address),
        ]
    );
    assert_eq!(told(&said, "changes after a restart"), ["gateway.threads: None -> Some(1)"]);
    assert_eq!(said.last().unwrap()["changes"], 7);
    assert!(!gateway.output().contains("CANARY"));

    // The new prices and the new limit; the new accounts; nothing of the account that is gone.
    let answer = client.ask(&ask(&[])).await;
    assert_eq!(answer.header("x-tollgate-charge"), "0.0000978");
    let receipt = gateway.receipt(&answer.id()).await;
    assert_eq!(receipt["price_version"], "it-2");
    assert_eq!(client.ask(&json!({ "pad": "x".repeat(2000) })).await.status, 413);
    let scrape = gateway.scrape();
    assert!(scrape.contains(r#"tollgate_upstream_up{upstream="third"} 1"#), "{scrape}");
    assert!(!scrape.contains(r#"tollgate_upstream_up{upstream="second"}"#), "{scrape}");
    assert_eq!(sample(&gateway, "tollgate_config_reload_success"), Some(1.0));
    assert!(sample(&gateway, "tollgate_config_reload_timestamp_seconds").unwrap() > loaded);

    // What waits for a restart is told as long as it waits.
    let said = gateway.reload(&accounts, &settings, &dearer).await;
    assert_eq!(told(&said, "changed"), [""; 0]);
    assert_eq!(told(&said, "changes after a restart"), ["gateway.threads: None -> Some(1)"]);
}

#[tokio::test]
async fn a_faulty_reload_changes_nothing_and_says_so() {
    let provider = Simulated::start();
    let account = || Account::of(&provider);
    let gateway = Gateway::start(&[account()]);
    let customer = gateway.customer("1.00");
    let [client, _] = Client::both(&gateway, &customer);
    let loaded = sample(&gateway, "tollgate_config_reload_timestamp_seconds");
    let settings = Settings { gateway: ", body_bytes_max: 1", ..Settings::default() };
    let wrong = PRICES.replace("output: \"0.60\"", "outputs: \"0.60\"");
    let said = gateway.reload(&[account()], &settings, &wrong).await;
    let faults: Vec<String> =
        said.iter().filter_map(|line| Some(line["fault"].as_str()?.to_owned())).collect();
    assert_eq!(faults.len(), 2, "{said:#?}");
    assert!(
        faults[0].contains("prices.yaml:4:") && faults[1].contains("did you mean `output`?"),
        "{faults:?}"
    );
    assert!(text(&said.last().unwrap()["message"]).starts_with("not reloaded"));
    assert_eq!(sample(&gateway, "tollgate_config_reload_success"), Some(0.0));
    assert_eq!(sample(&gateway, "tollgate_config_reload_timestamp_seconds"), loaded);
    // Not even the half that was right.
    assert_eq!(client.ask(&ask(&[])).await.status, 200);

    let said = gateway.reload(&[account()], &Settings::default(), PRICES).await;
    assert_eq!((&said.last().unwrap()["message"], said.len()), (&json!("reloaded"), 1));
    assert_eq!(sample(&gateway, "tollgate_config_reload_success"), Some(1.0));
    audit(gateway, &[&provider]).is_exact(1);
}

#[tokio::test]
async fn where_files_are_watched_each_change_of_one_is_a_reload() {
    let provider = Simulated::start();
    let settings = Settings { reload: "trigger: files", ..Settings::default() };
    let gateway = Gateway::start_with(&[Account::of(&provider)], &settings);
    let customer = gateway.customer("1.00");
    let client = Client::h1(&gateway, &customer);
    let folder = gateway.config().parent().unwrap().to_owned();
    // As whoever manages configurations does, and as an editor does that writes the same again.
    let replace = |name: &str, text: &str| {
        fs::write(folder.join("new"), text).unwrap();
        fs::rename(folder.join("new"), folder.join(name)).unwrap();
    };
    for version in ["it-2", "it-3"] {
        let (prices, before) = (PRICES.replace("it-1", version), gateway.output().len());
        replace("prices.yaml", &prices);
        let said = gateway.reloaded_since(before).await;
        assert_eq!(told(&said, "changed").len(), 1, "{said:#?}");
        replace("prices.yaml", &prices);
        let answer = client.ask(&ask(&[])).await;
        assert_eq!(gateway.receipt(&answer.id()).await["price_version"], version);
    }
    let (config, before) = (fs::read_to_string(gateway.config()).unwrap(), gateway.output().len());
    fs::write(gateway.config(), config.replace("trigger:", "triggers:")).unwrap();
    let said = gateway.reloaded_since(before).await;
    assert!(text(&said.last().unwrap()["message"]).starts_with("not reloaded"), "{said:#?}");
    let before = gateway.output().len();
    fs::write(gateway.config(), config.replace("trigger: files", "trigger: signal")).unwrap();
    let said = gateway.reloaded_since(before).await;
    assert_eq!(told(&said, "changed"), ["reload.trigger: Files -> Signal"]);
    assert_eq!(gateway.output().matches("\"reloaded\"").count(), 3, "once for each change");
    audit(gateway, &[&provider]).is_exact(2);
}

/// Reloads in the long test.
const RELOADS: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_fifty_reloads_under_load() {
    let [left, right] = [Simulated::start(), Simulated::start()];
    let gateway = Gateway::start(&[Account::new("left", left.address)]);
    let customer = gateway.customer("100.00");
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut load = Vec::new();
    for number in 0..8 {
        let [h1, h2] = Client::both(&gateway, &customer);
        let (client, stopped) = (if number % 2 == 0 { h1 } else { h2 }, stopped.clone());
        load.push(tokio::spawn(async move {
            let mut served = 0;
            while !*stopped.borrow() {
                // Plain, streamed, and streams that outlive several reloads.
                let body = match (number + served) % 3 {
                    0 => ask(&[]),
                    1 => streamed(ask(&[])),
                    _ => streamed(ask(&[("pace_ms", "5"), ("tokens", "40")])),
                };
                let answer = client.ask(&body).await;
                assert_eq!(answer.status, 200, "{answer:?}");
                assert!(answer.text().contains("tok15"), "{answer:?}");
                served += 1;
            }
            served
        }));
    }
    for number in 0..RELOADS {
        // Accounts come, go, and get new credentials and weights; each price book has a new version.
        let [one, two] = [("left", left.address), ("right", right.address)].map(|(name, address)| {
            Account::new(name, address)
                .credential(&format!("sk-{}", number / 5))
                .with(&format!("weight: {}", number + 1))
        });
        let accounts = match number % 3 {
            0 => vec![one, two],
            1 => vec![two],
            _ => vec![one],
        };
        let prices = PRICES.replace("version: it-1", &format!("version: it-{number}"));
        let said = gateway.reload(&accounts, &Settings::default(), &prices).await;
        assert_eq!(said.last().unwrap()["message"], "reloaded", "{said:#?}");
    }
    stop.send(true).unwrap();
    let mut served = 0;
    for client in load {
        served += client.await.unwrap();
    }
    assert!(served > RELOADS, "{served}");
    let audit = audit(gateway, &[&left, &right]);
    audit.is_exact(served);
    let versions: HashSet<&str> = audit.receipts.iter().map(|receipt| &*receipt.price_version).collect();
    assert!(versions.len() > RELOADS / 4, "{versions:?}");
    assert!([&left, &right].iter().all(|provider| !provider.provider.log().is_empty()));
}
