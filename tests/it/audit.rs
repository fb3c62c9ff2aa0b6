//! The admin API's own care: what it refuses, how often it answers, and who is on record.

use crate::support::gateway::{TOKEN, stdout, text};
use crate::support::{Account, Client, Gateway, Settings, Simulated, ask};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn lines(gateway: &Gateway) -> Vec<Value> {
    let (status, page) = gateway.admin_get("/audit");
    assert_eq!(status, 200, "{page}");
    page["lines"].as_array().unwrap().clone()
}

/// Every operation that changes something, by its name in the document.
fn changing() -> BTreeSet<String> {
    let document = serde_json::to_value(tollgate::admin::document()).unwrap();
    let paths = document["paths"].as_object().unwrap().values();
    let posts = paths.filter_map(|item| item["post"]["operationId"].as_str());
    // It reads.
    posts.filter(|name| *name != "verify_ledger").map(str::to_owned).collect()
}

#[tokio::test]
async fn each_change_is_on_record_with_who_and_before_and_after() {
    let provider = Simulated::start();
    let gateway = Gateway::start(&[Account::of(&provider)]);
    let customer = gateway.customer("5.00");
    let answer = Client::h1(&gateway, &customer).ask(&ask(&[])).await;
    gateway.receipt(&answer.id()).await;
    let backup = tempfile::tempdir().unwrap();
    let (copy, archive) = (backup.path().join("copy"), backup.path().join("archive"));
    let made = gateway.json(&["key", "create", "--customer", &customer.id, "--name", "second"]);
    let (id, key) = (customer.id.as_str(), text(&made["id"]));
    let request = answer.id();
    let commands: [(&str, &[&str]); 19] = [
        ("limit_customer", &["customer", "set", id, "--rpm", "600"]),
        ("limit_key", &["key", "set", &key, "--rpm", "60"]),
        ("refund", &["credit", "refund", "--request", &request, "--reference", "t1"]),
        (
            "adjust",
            &["credit", "adjust", "--customer", id, "--amount=1", "--reference", "a1", "--reason", "kind"],
        ),
        ("deposit", &["credit", "deposit", "--customer", id, "--amount", "2", "--reference", "d2"]),
        ("set_overdraft", &["customer", "set", id, "--overdraft", "100"]),
        (
            "adjust",
            &["credit", "adjust", "--customer", id, "--amount=-50", "--reference", "a2", "--reason", "a fee"],
        ),
        (
            "write_off",
            &["credit", "write-off", "--customer", id, "--reference", "w1", "--reason", "moved away"],
        ),
        ("accept_terms", &["customer", "accept-terms", id, "--terms", "2026-11"]),
        ("suspend_customer", &["customer", "suspend", id]),
        ("resume_customer", &["customer", "resume", id]),
        ("ban_customer", &["customer", "ban", id, "--reason", "fraud"]),
        ("unban_customer", &["customer", "unban", id]),
        ("revoke_key", &["key", "revoke", &key]),
        ("drain_upstream", &["upstream", "drain", "first"]),
        ("resume_upstream", &["upstream", "resume", "first"]),
        ("backup_ledger", &["ledger", "backup", copy.to_str().unwrap()]),
        ("archive_ledger", &["ledger", "archive", archive.to_str().unwrap(), "--keep", "1000"]),
        ("create_customer", &["customer", "create", "Zoë"]),
    ];
    let mut done: BTreeSet<String> = ["create_key".to_owned()].into();
    for (operation, command) in commands {
        let before = lines(&gateway).len();
        gateway.json(&[command, &["--operator", "Åsa"]].concat());
        let told = lines(&gateway);
        assert_eq!(told.len(), before + 1, "{operation}");
        let line = told.last().unwrap();
        assert_eq!(line["by"], "Åsa", "{line:#}");
        assert_ne!(line["before"], line["after"], "{line:#}");
        done.insert(operation.to_owned());
    }
    assert_eq!(done, changing(), "an operation that changes something is not tried here");

    let told = lines(&gateway);
    let of = |action: &str| told.iter().rfind(|line| line["action"] == action).unwrap();
    let banned = of("customer.ban");
    assert_eq!((&banned["subject"], &banned["before"]["status"]), (&json!(id), &json!("active")));
    assert_eq!((&banned["after"]["status"], &banned["after"]["reason"]), (&json!("banned"), &json!("fraud")));
    assert_eq!(of("key.limits")["after"]["limits"], json!({ "rpm": 60 }));
    assert_eq!(of("key.create")["before"], Value::Null);
    assert!(of("credit.deposit")["entry_id"].as_u64().unwrap() > 1);
    let whole = serde_json::to_string(&told).unwrap();
    assert!(!whole.contains(&text(&made["key"])) && !whole.contains(&customer.key), "a key is on record");
    assert!(copy.join("audit.jsonl").exists());

    // What is refused changes nothing.
    let known = told.len();
    assert!(!gateway.run(&["customer", "unban", id]).status.success());
    let gateway = gateway.again();
    assert_eq!(lines(&gateway).len(), known, "it survives a restart");
    let (_, page) = gateway.admin_get(&format!("/audit?subject={key}"));
    let actions: Vec<&Value> = page["lines"].as_array().unwrap().iter().map(|line| &line["action"]).collect();
    assert_eq!(actions, ["key.create", "key.limits", "key.revoke"]);
    let table = gateway.run(&["audit", "list", "--subject", id]);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("customer.ban") && table.contains("status: active -> banned"), "{table}");
}

/// An audit that has as much as one of its files may have, in few lines.
fn full(folder: &Path) {
    let store = folder.join("store");
    fs::create_dir(&store).unwrap();
    let pad = "x".repeat(512 * 1024);
    let lines = (0..32).map(|number| {
        let line = json!({ "at": "2026-11-23T00:00:00Z", "by": "before", "action": "customer.ban",
            "subject": format!("cus_{number}"), "before": null, "after": pad });
        format!("{line}\n")
    });
    fs::write(store.join("audit.jsonl"), lines.collect::<String>()).unwrap();
}

#[test]
fn a_full_file_is_kept_beside_the_next_by_whichever_process_writes() {
    let provider = Simulated::start();
    let settings = Settings { prepare: Some(full), ..Settings::default() };
    let mut gateway = Gateway::start_with(&[Account::of(&provider)], &settings);
    let listed = |gateway: &Gateway| {
        let lines = stdout(&gateway.run(&["audit", "list", "--json"]));
        let by = |line: &str| text(&serde_json::from_str::<Value>(line).unwrap()["by"]);
        lines.lines().map(by).collect::<Vec<_>>()
    };
    let before = vec!["before".to_owned(); 32];
    assert_eq!(listed(&gateway), before);
    gateway.json(&["customer", "create", "Ada", "--operator", "one"]);
    let next = gateway.upgrade();
    assert!(gateway.stopped().success());
    next.json(&["customer", "create", "Eve", "--operator", "two"]);
    assert_eq!(listed(&next), [before, vec!["one".into(), "two".into()]].concat());

    let copy = next.config().with_file_name("copy");
    next.json(&["ledger", "backup", copy.to_str().unwrap()]);
    for folder in [next.store(), copy] {
        let lengths = ["audit-00000000000000000000.jsonl", "audit.jsonl"]
            .map(|name| fs::metadata(folder.join(name)).unwrap().len());
        assert!(lengths[0] > 16 * 1024 * 1024 && (1..4096).contains(&lengths[1]), "{lengths:?}");
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_in_one_shape() {
    let provider = Simulated::start();
    let gateway = Gateway::start(&[Account::of(&provider)]);
    // An array is no object, though its items would fit the fields in their order.
    let (status, refused) = gateway.admin_post("/customers", &json!(["Ada"]));
    assert_eq!((status, &refused["error"]["code"]), (400, &json!("malformed")));
    let customer = gateway.customer("1.00");
    let old = format!("/customers/{}/usage?from=1950-01-01&to=1960-01-01", customer.id);
    assert_eq!(gateway.admin_get(&old).0, 200, "a day before 1970 is a day");

    let url = |path: &str| format!("http://{}{path}", gateway.admin);
    let client = reqwest::Client::new();
    let bare = client.get(url("/admin/v1/customers")).send().await.unwrap();
    assert_eq!(
        (bare.status().as_u16(), &bare.headers()["www-authenticate"]),
        (401, &"Bearer".parse().unwrap())
    );
    for path in ["/admin/v1/customers/%ff", "/admin/v1/keys/%ff/revoke"] {
        let post = path.ends_with("revoke");
        let request = if post { client.post(url(path)) } else { client.get(url(path)) };
        let answer = request.bearer_auth(TOKEN).send().await.unwrap();
        assert_eq!(answer.status(), 400, "{path}");
        assert_eq!(answer.json::<Value>().await.unwrap()["error"]["code"], "malformed");
    }
    let wrong = client.delete(url("/admin/v1/customers")).bearer_auth(TOKEN).send().await.unwrap();
    assert_eq!(
        (wrong.status().as_u16(), &wrong.headers()["allow"]),
        (405, &"POST,GET,HEAD".parse().unwrap())
    );
}

#[tokio::test]
async fn too_many_requests_are_told_when_to_come_back() {
    let provider = Simulated::start();
    let settings = Settings { admin: "requests_per_minute: 20, ", ..Settings::default() };
    let gateway = Gateway::start_with(&[Account::of(&provider)], &settings);
    let url = format!("http://{}/admin/v1/upstreams", gateway.admin);
    let client = reqwest::Client::new();
    let mut refused = None;
    for _ in 0..40 {
        let answer = client.get(&url).bearer_auth(TOKEN).send().await.unwrap();
        if answer.status() != 200 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("a refusal");
    assert_eq!(refused.status(), 429);
    let wait: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=3).contains(&wait), "{wait}");
    assert_eq!(refused.json::<Value>().await.unwrap()["error"]["code"], "rate_limit_exceeded");
    // The command comes back when it was told to.
    assert!(gateway.run(&["upstream", "list"]).status.success());
}

#[tokio::test]
async fn wrong_tokens_are_answered_for_a_while_and_the_good_one_always() {
    let provider = Simulated::start();
    let settings = Settings { admin: "failed_tokens_per_minute: 5, ", ..Settings::default() };
    let gateway = Gateway::start_with(&[Account::of(&provider)], &settings);
    let url = format!("http://{}/admin/v1/upstreams", gateway.admin);
    let client = reqwest::Client::new();
    let mut seen = BTreeSet::new();
    let mut told = Value::Null;
    for _ in 0..20 {
        let answer = client.get(&url).bearer_auth("guess").send().await.unwrap();
        seen.insert(answer.status().as_u16());
        told = answer.json().await.unwrap();
    }
    assert_eq!(seen, [401, 429].into());
    let message = told["error"]["message"].as_str().unwrap();
    assert!(message.ends_with("see admin.failed_tokens_per_minute"), "{message}");
    assert_eq!(gateway.admin_get("/upstreams").0, 200);
}
