//! The ledger in the operator's hands: copied while it serves, restored, made again, and held against
//! a head that was kept.

use crate::support::gateway::{Settings, json_of, run, stdout, text};
use crate::support::{Account, Client, Gateway, Simulated, ask};
use serde_json::{Value, json};
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Output;
use tollgate::ledger::{Ledger, Seq};
use tollgate::record::export::{self, Form};

fn start() -> (Simulated, Gateway) {
    let provider = Simulated::start();
    let gateway = Gateway::start(&[Account::of(&provider)]);
    (provider, gateway)
}

/// The command ended by this code, and said why.
#[track_caller]
fn fails(output: &Output, code: i32, why: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(why), "{stderr}");
}

fn verify(store: &Path, more: &[&str]) -> Output {
    run(&[&["ledger", "verify", "--store", store.to_str().unwrap(), "--json"], more].concat(), &[], "")
}

#[tokio::test]
async fn a_backup_of_a_serving_gateway_is_a_store_that_serves() {
    let (provider, mut gateway) = start();
    let customer = gateway.customer("1.00");
    let client = Client::h1(&gateway, &customer);
    let kept = client.ask(&ask(&[])).await;
    assert_eq!(kept.status, 200);
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy");
    let backup = gateway.json(&["ledger", "backup", copy.to_str().unwrap()]);
    assert!(backup["entries"].as_u64().unwrap() >= 5 && backup["segments"] == 1, "{backup}");
    fails(&gateway.run(&["ledger", "backup", copy.to_str().unwrap()]), 3, "not empty");
    fails(&gateway.run(&["ledger", "backup", "/proc/nowhere"]), 3, "/proc/nowhere");
    let shown = stdout(&gateway.run(&["ledger", "backup", folder.path().join("again").to_str().unwrap()]));
    assert!(shown.starts_with("copied ") && shown.contains("\nhead "), "{shown}");
    let verified = json_of(&verify(&copy, &[]));
    assert_eq!((&verified["head"], &verified["captures"]), (&backup["head"], &Value::from(1)));

    // What comes after it is not in it; all else is, the key included.
    let receipt = gateway.receipt(&kept.id()).await;
    assert_eq!(client.ask(&ask(&[])).await.status, 200);
    assert!(gateway.stop().success());
    fs::remove_dir_all(gateway.store()).unwrap();
    fs::rename(&copy, gateway.store()).unwrap();
    let gateway = gateway.again();
    assert_eq!(gateway.receipt(&kept.id()).await, receipt);
    assert_eq!(Client::h1(&gateway, &customer).ask(&ask(&[])).await.status, 200);
    gateway.settles_at(&customer, "0.9999772").await;
    drop(provider);
}

#[tokio::test]
async fn a_head_that_was_kept_proves_that_nothing_was_changed() {
    let (_provider, mut gateway) = start();
    let customer = gateway.customer("1.00");
    let head = text(&gateway.json(&["ledger", "verify"])["head"]);
    assert_eq!(Client::h1(&gateway, &customer).ask(&ask(&[])).await.status, 200);
    let held = gateway.json(&["ledger", "verify", "--expect", &head]);
    assert!(held["expected"].as_u64() < held["entries"].as_u64(), "{held}");
    let shown = stdout(&gateway.run(&["ledger", "verify", "--expect", &head]));
    assert!(shown.contains("nothing up to entry 3 was changed"), "{shown}");
    let other = head.replace(['0', '1'], "2");
    fails(&gateway.run(&["ledger", "verify", "--expect", &other]), 3, "was changed");
    fails(&gateway.run(&["ledger", "verify", "--expect", "ab"]), 2, "64 hexadecimal digits");
    assert!(gateway.stop().success());
    assert_eq!(json_of(&verify(&gateway.store(), &["--expect", &head]))["expected"], 3);
    fails(&verify(&gateway.store(), &["--expect", &other]), 1, &other);
}

#[tokio::test]
async fn state_and_indexes_are_made_again_from_the_journal() {
    let (_provider, mut gateway) = start();
    let customer = gateway.customer("1.00");
    assert_eq!(Client::h1(&gateway, &customer).ask(&ask(&[])).await.status, 200);
    let store = gateway.store();
    let rebuild = ["ledger", "rebuild", "--store", store.to_str().unwrap()];
    fails(&run(&rebuild, &[], ""), 1, "stop its gateway");
    assert!(gateway.stop().success());
    fs::write(store.join("state/db"), b"garbage").unwrap();
    let shown = stdout(&run(&rebuild, &[], ""));
    assert!(shown.starts_with("made again from 5 entries"), "{shown}");
    let gateway = gateway.again();
    gateway.settles_at(&customer, "0.9999886").await;
}

fn lines(output: &Output) -> Vec<Value> {
    stdout(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn usage_is_summed_by_day_model_and_key_and_adds_up_to_what_was_charged() {
    let (_provider, gateway) = start();
    let customer = gateway.customer("1.00");
    let second = text(&gateway.json(&["key", "create", "--customer", &customer.id])["key"]);
    let client = Client::h1(&gateway, &customer);
    for _ in 0..3 {
        assert_eq!(client.ask(&ask(&[])).await.status, 200);
    }
    assert_eq!(client.with_key(&second).ask(&ask(&[])).await.status, 200);
    gateway.settles_at(&customer, "0.9999544").await;
    let usage = |more: &[&str]| {
        let asked = [&["usage", "--customer", &customer.id], more].concat();
        gateway.run(&asked)
    };
    let all = lines(&usage(&["--json"]));
    assert_eq!((all.len(), &all[0]["requests"], &all[0]["charge"]), (1, &json!(4), &json!("0.0000456")));
    let by_key = lines(&usage(&["--json", "--by", "key,model"]));
    let mut requests: Vec<_> = by_key.iter().map(|line| line["requests"].as_u64().unwrap()).collect();
    requests.sort_unstable();
    assert_eq!(requests, [1, 3]);
    assert!(by_key.iter().all(|line| line["model"] == by_key[0]["model"] && line["day"].is_null()));
    let days = lines(&usage(&["--json", "--by", "day"]));
    let day = text(&days[0]["day"]);
    assert_eq!((days.len(), day.len()), (1, 10));
    assert!(lines(&usage(&["--json", "--by", "day", "--to", &day])).is_empty());
    assert_eq!(lines(&usage(&["--json", "--from", &day]))[0]["requests"], 4);
    let table = stdout(&usage(&["--by", "day"]));
    assert!(table.starts_with("day") && table.lines().nth(1).unwrap().ends_with("0.0000456"), "{table}");
    let csv = stdout(&usage(&["--by", "day", "--format", "csv"]));
    assert!(csv.starts_with("day,requests,input,") && csv.lines().count() == 2, "{csv}");
    fails(&usage(&["--from", "2026-11-23T12:00:00Z"]), 3, "whole days");
    fails(&usage(&["--by", "hour"]), 2, "hour");
    fails(&gateway.run(&["usage", "--customer", "cus_0000000000000000"]), 3, "no such customer");
}

#[tokio::test]
async fn an_export_has_every_entry_and_resumes() {
    let (_provider, gateway) = start();
    let customer = gateway.customer("1.00");
    for _ in 0..5 {
        assert_eq!(Client::h1(&gateway, &customer).ask(&ask(&[])).await.status, 200);
    }
    gateway.settles_at(&customer, "0.999943").await;
    let entries = gateway.json(&["ledger", "verify"])["entries"].as_u64().unwrap();
    let all = lines(&gateway.run(&["ledger", "export"]));
    let numbers: Vec<_> = all.iter().map(|line| line["entry_id"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=entries).collect::<Vec<_>>());
    assert!(all.iter().all(|line| line["customer"] == *customer.id));
    let statement = lines(&gateway.run(&["statement", "--customer", &customer.id, "--json"]));
    for (exported, line) in all.iter().zip(&statement) {
        for (name, value) in line.as_object().unwrap() {
            assert_eq!(exported[name], *value, "{name}");
        }
    }
    let capture = all.iter().find(|line| line["kind"] == "capture").unwrap();
    assert!(capture["detail"]["usage"]["output"].as_u64() > Some(0), "{capture}");
    let rest = lines(&gateway.run(&["ledger", "export", "--after", "7"]));
    assert_eq!(rest, all[7..]);
    assert!(lines(&gateway.run(&["ledger", "export", "--after", "1000000"])).is_empty());
    let csv = stdout(&gateway.run(&["ledger", "export", "--format", "csv"]));
    assert_eq!(csv.lines().count(), all.len() + 1);
    assert!(csv.starts_with("entry_id,at,customer,kind,"), "{csv}");
    let rest = stdout(&gateway.run(&["ledger", "export", "--format", "csv", "--after", "7"]));
    assert_eq!(rest.lines().collect::<Vec<_>>(), csv.lines().skip(8).collect::<Vec<_>>(), "no second head");
}

/// The head of the journal in `tests/data/journal-2`, which has every kind of entry that 0.1.0 wrote.
const GOLDEN_HEAD: &str = "96a809c349539f3a7ff59117b74b327545cea8be9b681dcfeda203e0470406a3";

/// A store of two segments, one of them full.
fn golden_store(store: &Path) {
    let journal = store.join("journal");
    fs::create_dir_all(&journal).unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/journal-2");
    for file in fs::read_dir(golden).unwrap().map(|file| file.unwrap().path()) {
        if file.extension().is_some_and(|kind| kind == "log") {
            fs::copy(&file, journal.join(file.file_name().unwrap())).unwrap();
        }
    }
    fs::write(store.join("key-digest.secret"), [7; 32]).unwrap();
}

#[tokio::test]
async fn what_was_archived_is_found_there_or_told_by_its_file() {
    let provider = Simulated::start();
    let settings =
        Settings { prepare: Some(|folder| golden_store(&folder.join("store"))), ..Settings::default() };
    let mut gateway = Gateway::start_with(&[Account::of(&provider)], &settings);
    let folder = tempfile::tempdir().unwrap();
    let (archive, away) = (folder.path().join("archive"), folder.path().join("away"));
    let to = archive.to_str().unwrap();
    fails(&gateway.run(&["ledger", "archive", to]), 2, "--keep");
    fails(&gateway.run(&["ledger", "archive", to, "--keep", "1", "--older-than", "1"]), 2, "cannot be used");
    fails(&gateway.run(&["ledger", "archive", "/proc/nowhere", "--keep", "0"]), 3, "/proc/nowhere");
    let shown = stdout(&gateway.run(&["ledger", "archive", to, "--older-than", "40000"]));
    assert!(shown.starts_with("nothing to archive"), "{shown}");
    let whole = gateway.json(&["ledger", "verify"]);
    let shown = stdout(&gateway.run(&["ledger", "archive", to, "--keep", "0"]));
    assert!(shown.starts_with(&format!("moved entries 1 to 25 to {to}: 1 segments, ")), "{shown}");
    let request = "req_00000000000000000000000000000001";
    let receipt = gateway.json(&["receipt", request]);
    assert_eq!(receipt["charge"], "0.0000069", "{receipt}");
    assert_eq!(gateway.json(&["ledger", "verify"]), whole);

    // It may be out of reach, also at a start, and when the state is lost: what needs it says which file.
    fs::rename(&archive, &away).unwrap();
    assert!(gateway.stop().success());
    fs::remove_dir_all(gateway.store().join("state")).unwrap();
    let gateway = gateway.again();
    let file = archive.join("journal-00000000000000000001.log").display().to_string();
    for asked in [
        &["receipt", request][..],
        &["ledger", "export"],
        &["statement", "--customer", "cus_0000000000000ada"],
    ] {
        let refused = gateway.run(asked);
        fails(&refused, 3, &file);
        fails(&refused, 3, "bring it back");
    }
    assert_eq!(lines(&gateway.run(&["ledger", "export", "--after", "25"])).len(), 18);
    // Totals stay; a refund that came later does not say by which key and model its charge was.
    let usage = lines(&gateway.run(&["usage", "--customer", "cus_000000000000020e", "--json"]));
    assert_eq!(usage[0]["requests"], 1, "{usage:?}");
    fails(&gateway.run(&["usage", "--customer", "cus_0000000000000ada"]), 3, &file);
    let seen = gateway.run(&["ledger", "verify"]);
    fails(&seen, 4, "entries from 1 to 25");
    let told = String::from_utf8(seen.stdout).unwrap();
    assert!(told.contains(&format!("not seen: entries 1 to 25, {file}\n")), "{told}");
    let balances = |verified: &Value| text(&verified["balances"]);
    let seen = gateway.run(&["ledger", "verify", "--json"]);
    assert_eq!(balances(&serde_json::from_slice(&seen.stdout).unwrap()), balances(&whole));
    fs::rename(&away, &archive).unwrap();
    assert_eq!(gateway.json(&["receipt", request]), receipt);
    assert_eq!(balances(&gateway.json(&["ledger", "verify"])), balances(&whole));
}

/// What it said then it says for ever: each charge computes again from its record, and each line of the
/// export has all that it had.
#[test]
fn a_journal_with_every_kind_of_entry_says_what_it_said() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/journal-2");
    let folder = tempfile::tempdir().unwrap();
    golden_store(folder.path());
    let verified = json_of(&verify(folder.path(), &["--expect", GOLDEN_HEAD]));
    let expect =
        json!({ "entries": 42, "captures": 5, "open_holds": 1, "expected": 42, "head": GOLDEN_HEAD });
    for (name, value) in expect.as_object().unwrap() {
        assert_eq!(verified[name], *value, "{name}: {verified}");
    }

    let (ledger, recovered) = Ledger::open(folder.path(), Box::new(|_| {})).unwrap();
    assert_eq!((recovered.entries, recovered.expired.released), (Seq(42), 1));
    let mut exported = Vec::new();
    let take = |entry| {
        export::write(&entry, Form::Jsonl, &mut exported);
        ControlFlow::Continue(())
    };
    ledger.export(Seq::START, take).unwrap();
    let exported = String::from_utf8(exported).unwrap();
    let kept = fs::read_to_string(golden.join("export.jsonl")).unwrap();
    assert_eq!(kept.lines().count(), 42);
    for (line, kept) in exported.lines().zip(kept.lines()) {
        let line: Value = serde_json::from_str(line).unwrap();
        let kept: Value = serde_json::from_str(kept).unwrap();
        for (name, value) in kept.as_object().unwrap() {
            assert_eq!(line[name], *value, "{name} of {kept}");
        }
    }
}
