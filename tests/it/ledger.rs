//! The ledger in the operator's hands: copied while it serves, restored, made again, and held against
//! a head that was kept.

use crate::support::gateway::{json_of, run, stdout, text};
use crate::support::{Account, Client, Gateway, Simulated, ask};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Output;

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
