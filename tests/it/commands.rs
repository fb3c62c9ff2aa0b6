//! The commands: what scripts read, and by which exit code they know how it ended.

use crate::support::eventually::eventually_blocking;
use crate::support::gateway::{TOKEN, command, json_of, run, stdout, text};
use crate::support::{Account, Client, Gateway, Simulated, ask, streamed};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Output, Stdio};
use tollgate::money::Amount;

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

fn lines(output: &Output) -> Vec<Value> {
    stdout(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn amount(value: &Value) -> Amount {
    Amount::parse(&text(value)).unwrap()
}

#[tokio::test]
async fn customers_are_created_listed_and_shown() {
    let (_provider, gateway) = start();
    let ada = gateway.json(&["customer", "create", "Ada"]);
    assert!(text(&ada["id"]).starts_with("cus_"));
    let spent = json!({"day": "0.00", "month": "0.00", "total": "0.00"});
    let expected = json!({"id": ada["id"], "name": "Ada", "status": "active", "balance": "0.00",
        "available": "0.00", "spent": spent});
    assert_eq!(ada, expected);
    let odd = gateway.json(&["customer", "create", "Zoë \"Z\" O'Neil, Ltd."]);
    assert_eq!(lines(&gateway.run(&["customer", "list", "--json"])), [ada.clone(), odd]);
    assert_eq!(gateway.json(&["customer", "show", &text(&ada["id"])]), ada);
    let table = stdout(&gateway.run(&["customer", "list"]));
    assert!(table.starts_with("ID") && table.contains("Zoë") && table.lines().count() == 3, "{table}");
    fails(&gateway.run(&["customer", "show", "cus_0000000000000000"]), 3, "no such customer");
    fails(&gateway.run(&["customer", "create", ""]), 3, "");
    fails(&gateway.run(&["customer", "create", &"x".repeat(257)]), 3, "");
}

#[tokio::test]
async fn a_key_works_from_its_creation_to_its_revocation() {
    let (_provider, gateway) = start();
    let customer = gateway.customer("1.00");
    let made = gateway.json(&["key", "create", "--customer", &customer.id, "--name", "laptop"]);
    assert_eq!((text(&made["name"]), text(&made["status"])), ("laptop".into(), "active".into()));
    let (id, key) = (text(&made["id"]), text(&made["key"]));
    assert!(id.starts_with("key_") && key.starts_with("tg_live_"));
    assert!(text(&made["prefix"]).starts_with(&key[..12]));
    // For the eye, the key alone is on standard output, so that it can be taken from there.
    let shown = gateway.run(&["key", "create", "--customer", &customer.id]);
    assert!(stdout(&shown).starts_with("tg_live_") && stdout(&shown).lines().count() == 1);

    let client = Client::h1(&gateway, &customer).with_key(&key);
    assert_eq!(client.ask(&ask(&[])).await.status, 200);
    assert_eq!(lines(&gateway.run(&["key", "list", "--customer", &customer.id, "--json"])).len(), 3);
    let revoked = gateway.json(&["key", "revoke", &id]);
    assert_eq!((text(&revoked["id"]), text(&revoked["status"])), (id.clone(), "revoked".into()));
    client.ask(&ask(&[])).await.is_error(401, Some("invalid_api_key"));
    fails(&gateway.run(&["key", "revoke", &id]), 3, "revoked already");
    fails(&gateway.run(&["key", "create", "--customer", "cus_0000000000000000"]), 3, "no such customer");
    // The other key of the same customer goes on.
    assert_eq!(Client::h1(&gateway, &customer).ask(&ask(&[])).await.status, 200);
}

#[tokio::test]
async fn customers_of_another_gateway_move_with_their_keys() {
    let (_provider, gateway) = start();
    let (customer, other) = (gateway.customer("1.00"), gateway.customer("1.00"));
    let key = "sk-elsewhere-0123456789abcdefghijklmnop";
    let import = |owner: &str, key: &str| {
        gateway.run_with_input(&["key", "import", "--customer", owner, "--json"], key)
    };
    let imported = json_of(&import(&customer.id, &format!("{key}\n")));
    assert!(imported["key"].is_null() && text(&imported["id"]).starts_with("key_"), "{imported}");
    let client = Client::h1(&gateway, &customer).with_key(key);
    let answer = client.ask(&ask(&[])).await;
    assert_eq!(gateway.receipt(&answer.id()).await["customer"], customer.id);
    for owner in [&customer.id, &other.id] {
        fails(&import(owner, key), 3, "exists already");
    }
    for malformed in ["", "short", "with blanks in it 0123456789", &"x".repeat(257)] {
        fails(&import(&customer.id, malformed), 3, "a key must");
    }
}

#[tokio::test]
async fn the_same_reference_is_one_deposit() {
    let (_provider, gateway) = start();
    let customer = gateway.customer("0");
    let deposit = |amount: &str, reference: &str| {
        gateway.run(&[
            "credit",
            "deposit",
            "--customer",
            &customer.id,
            "--amount",
            amount,
            "--reference",
            reference,
            "--json",
        ])
    };
    let first = json_of(&deposit("25.00", "inv-1"));
    assert_eq!(text(&first["balance"]), "25.00");
    for _ in 0..3 {
        assert_eq!(json_of(&deposit("25", "inv-1")), first);
    }
    fails(&deposit("25.01", "inv-1"), 3, "reference was used");
    let second = json_of(&deposit("0.000000000000000001", "inv-2"));
    assert_eq!(text(&second["balance"]), "25.000000000000000001");
    assert!(second["entry_id"].as_u64() > first["entry_id"].as_u64());
    for malformed in ["", "abc", "1e3", "1,000", "0.0000000000000000001", "$5", "99999999999999"] {
        fails(&deposit(malformed, "inv-3"), 2, "");
    }
    fails(&deposit("0", "inv-3"), 3, "");
    fails(
        &gateway.run(&["credit", "deposit", "--customer", &customer.id, "--amount=-5", "--reference", "x"]),
        3,
        "",
    );
    let nobody =
        ["credit", "deposit", "--customer", "cus_0000000000000000", "--amount", "1", "--reference", "x"];
    fails(&gateway.run(&nobody), 3, "no such customer");
    gateway.settles_at(&customer, "25.000000000000000001").await;
}

#[tokio::test]
async fn a_statement_lists_every_entry_with_the_balance_after_it() {
    let (_provider, gateway) = start();
    let customer = gateway.customer("1.00");
    let client = Client::h1(&gateway, &customer);
    let answers = [client.ask(&ask(&[])).await, client.ask(&streamed(ask(&[]))).await];
    gateway.settles_at(&customer, "0.9999772").await;
    let statement = |more: &[&str]| gateway.run(&[&["statement", "--customer", &customer.id], more].concat());
    let listed = lines(&statement(&["--format", "jsonl"]));
    assert_eq!(listed, lines(&statement(&["--json"])));
    let kinds: Vec<&str> = listed.iter().map(|line| line["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds[1], "deposit");
    assert_eq!(kinds.iter().filter(|kind| **kind == "capture").count(), answers.len());
    let mut balance = Amount::ZERO;
    for line in &listed {
        balance += amount(&line["amount"]);
        assert_eq!(amount(&line["balance_after"]), balance, "{line}");
        assert!(amount(&line["available_after"]) <= balance);
        assert!(text(&line["at"]).ends_with('Z'));
    }
    assert_eq!(balance.to_string(), "0.9999772");
    for answer in &answers {
        assert!(listed.iter().any(|line| line["kind"] == "capture" && line["reference"] == answer.id()));
    }

    let csv = stdout(&statement(&["--format", "csv"]));
    assert!(csv.starts_with("entry_id,at,kind,amount,balance_after,"), "{csv}");
    assert_eq!(csv.matches("\r\n").count(), listed.len() + 1);
    assert!(csv.lines().nth(2).unwrap().contains(",deposit,1.00,1.00,"), "{csv}");
    assert_eq!(stdout(&statement(&[])).lines().count(), listed.len() + 1);
    assert_eq!(
        lines(&statement(&["--json", "--from", "2000-01-01", "--to", "2001-01-01"])),
        [] as [Value; 0]
    );
    assert_eq!(lines(&statement(&["--json", "--from", "2000-01-01"])).len(), listed.len());
    let from = text(&listed[2]["at"]);
    assert_eq!(lines(&statement(&["--json", "--from", &from])), listed[2..]);
    assert_eq!(lines(&statement(&["--json", "--to", &from])), listed[..2]);
    fails(&statement(&["--from", "yesterday"]), 2, "RFC 3339");
}

#[tokio::test]
async fn exit_codes_tell_how_it_ended() {
    let (_provider, gateway) = start();
    let admin = format!("http://{}", gateway.admin);
    let list = ["customer", "list"];
    assert!(gateway.run(&list).status.success());
    for help in [["--help"], ["--version"]] {
        assert!(run(&help, &[], "").status.success());
    }
    let with = |url: &str, token: &str| {
        run(&list, &[("TOLLGATE_ADMIN_URL", url), ("TOLLGATE_ADMIN_TOKEN", token)], "")
    };
    fails(&run(&list, &[], ""), 2, "TOLLGATE_ADMIN_TOKEN");
    fails(&with(&admin, "not-the-token-of-this-gateway"), 3, "admin token");
    fails(&with("http://127.0.0.1:1", TOKEN), 1, "cannot be reached");
    // The gateway's own listener is not the admin API.
    fails(&with(&format!("http://{}", gateway.address), TOKEN), 3, "");
    for unusable in [
        &["customer", "lisst"][..],
        &["customer", "show", "ada"],
        &["receipt", "not-an-id"],
        &["key", "create"],
        &["serve"],
        &[],
    ] {
        fails(&gateway.run(unusable), 2, "");
    }
    fails(&gateway.run(&["receipt", "req_00000000000000000000000000000000"]), 3, "no receipt");
    let flag = run(&["customer", "list", "--admin", &admin], &[("TOLLGATE_ADMIN_TOKEN", TOKEN)], "");
    assert!(flag.status.success());
}

#[tokio::test]
async fn the_configuration_is_checked_whole() {
    let (_provider, gateway) = start();
    let config = gateway.config();
    let check = |json: bool| {
        let arguments = ["check", "--config", config.to_str().unwrap(), "--json"];
        run(&arguments[..if json { 4 } else { 3 }], &[("TOLLGATE_ADMIN_TOKEN", TOKEN)], "")
    };
    assert!(stdout(&check(false)).contains("ok, 16 models at prices it-1, 1 upstream accounts"));
    let good = json_of(&check(true));
    assert_eq!((&good["ok"], &good["faults"]), (&json!(true), &json!([])));

    let text = fs::read_to_string(&config).unwrap();
    let bad = text
        .replace("gateway: {", "gatewya: {")
        .replace("http://", "ftp://")
        .replace("prices.yaml", "none.yaml");
    fs::write(&config, bad).unwrap();
    let told = check(false);
    fails(&told, 2, "did you mean `gateway`?");
    let stderr = String::from_utf8(told.stderr).unwrap();
    for fault in
        [":1:1: gatewya: ", ":1:1: gateway.listen: ", ":5:9: prices: ", ":11:30: upstreams[0].base_url: "]
    {
        assert!(stderr.contains(fault), "{fault}: {stderr}");
    }
    let told = check(true);
    assert_eq!(told.status.code(), Some(2));
    let faults: Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(faults["ok"], false);
    let faults = faults["faults"].as_array().unwrap();
    assert!(faults.len() >= 4, "{faults:?}");
    assert!(
        faults.iter().all(|fault| fault["line"].as_u64() >= Some(1) && fault["column"].as_u64() >= Some(1))
    );
    // A faulty configuration is not served either, and a missing one is told.
    fails(&run(&["serve", "--config", config.to_str().unwrap()], &[], ""), 2, "gatewya");
    fails(&run(&["check", "--config", "/nowhere/tollgate.yaml"], &[], ""), 2, "cannot be read");
}

#[tokio::test]
async fn the_demonstration_adds_up() {
    let once = ["demo", "--once", "--listen", "127.0.0.1:0"];
    let shown = stdout(&run(&once, &[], ""));
    for part in
        ["simulated", "plain -> tok0", "streamed -> tok0", "receipt  req_", "ledger ok:", "2 captures"]
    {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let objects = lines(&run(&[&once[..], &["--json"]].concat(), &[], ""));
    assert_eq!(objects.len(), 3, "two receipts and the verification");
    assert_eq!((&objects[2]["ok"], &objects[2]["captures"]), (&json!(true), &json!(2)));
}

#[tokio::test]
async fn the_simulated_provider_serves_alone() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let arguments =
        ["simulate", "--listen", "127.0.0.1:0", "--log", log.path().to_str().unwrap(), "--chunks", "2"];
    let mut child = command(&arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.split_whitespace().find(|word| word.starts_with("http://")).unwrap();
    let mut answer = ureq::post(format!("{url}/chat/completions")).send_json(streamed(ask(&[]))).unwrap();
    let answer = answer.body_mut().read_to_string().unwrap();
    assert_eq!(crate::support::event_stream(&answer).len(), 1 + 2 + 1 + 1);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let status = eventually_blocking("it has stopped", || child.try_wait().unwrap());
    assert!(status.success());
    assert_eq!(fs::read_to_string(log.path()).unwrap().lines().count(), 1);
}

#[tokio::test]
async fn a_store_is_used_by_one_process() {
    let (provider, gateway) = start();
    let customer = gateway.customer("1.00");
    let store = gateway.store();
    let verify = ["ledger", "verify", "--store", store.to_str().unwrap()];
    fails(&run(&verify, &[], ""), 1, "leave out --store");
    let config = gateway.config();
    let second =
        run(&["serve", "--config", config.to_str().unwrap()], &[("TOLLGATE_ADMIN_TOKEN", TOKEN)], "");
    fails(&second, 1, "in use");
    let running = gateway.json(&["ledger", "verify"]);
    assert_eq!(
        (&running["ok"], &running["captures"], &running["open_holds"]),
        (&json!(true), &json!(0), &json!(0))
    );
    assert!(running["head"].is_string() && running["entries"].is_u64(), "{running}");
    assert_eq!(Client::h1(&gateway, &customer).ask(&ask(&[])).await.status, 200, "and nothing was disturbed");
    crate::support::audit(gateway, &[&provider]).is_exact(1);
}

#[tokio::test]
async fn a_damaged_journal_is_told_and_not_opened() {
    let (_provider, mut gateway) = start();
    let customer = gateway.customer("1.00");
    for _ in 0..3 {
        assert_eq!(Client::h1(&gateway, &customer).ask(&ask(&[])).await.status, 200);
    }
    assert!(gateway.stop().success());
    let store = gateway.store();
    let verify = ["ledger", "verify", "--store", store.to_str().unwrap(), "--json"];
    assert_eq!(json_of(&run(&verify, &[], ""))["captures"], 3);
    let files = fs::read_dir(store.join("journal")).unwrap().map(|file| file.unwrap().path());
    let segments: Vec<_> = files.filter(|file| file.extension().is_some_and(|kind| kind == "log")).collect();
    let mut bytes = fs::read(&segments[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&segments[0], bytes).unwrap();
    fails(&run(&verify, &[], ""), 1, "tollgate: ");
    let config = gateway.config();
    let serve = run(&["serve", "--config", config.to_str().unwrap()], &[("TOLLGATE_ADMIN_TOKEN", TOKEN)], "");
    assert_eq!(serve.status.code(), Some(1));
    fails(&run(&["ledger", "verify", "--store", "/nowhere"], &[], ""), 1, "");
}

#[tokio::test]
async fn a_lost_secret_of_the_key_digests_is_told_and_not_replaced() {
    let (_provider, mut gateway) = start();
    let customer = gateway.customer("1.00");
    assert!(gateway.stop().success());
    let secret = gateway.store().join("key-digest.secret");
    let kept = fs::read(&secret).unwrap();
    fs::remove_file(&secret).unwrap();
    let config = gateway.config();
    let serve = run(&["serve", "--config", config.to_str().unwrap()], &[("TOLLGATE_ADMIN_TOKEN", TOKEN)], "");
    fails(&serve, 1, "tollgate: the secret of the key digests: it is missing");
    assert!(!secret.exists());
    fs::write(&secret, kept).unwrap();
    let gateway = gateway.again();
    assert_eq!(Client::h1(&gateway, &customer).ask(&ask(&[])).await.status, 200);
}

#[tokio::test]
async fn a_restart_loses_nothing() {
    let (provider, mut gateway) = start();
    let customer = gateway.customer("1.00");
    let revoked = text(&gateway.json(&["key", "create", "--customer", &customer.id])["key"]);
    let list = lines(&gateway.run(&["key", "list", "--json"]));
    let other = list.iter().find(|key| key["id"] != customer.key_id).unwrap();
    gateway.json(&["key", "revoke", &text(&other["id"])]);
    let answer = Client::h1(&gateway, &customer).ask(&ask(&[])).await;
    let receipt = gateway.receipt(&answer.id()).await;
    let head = gateway.json(&["ledger", "verify"])["head"].clone();
    assert!(gateway.stop().success());

    let gateway = gateway.again();
    assert_eq!(gateway.json(&["ledger", "verify"])["head"], head);
    assert_eq!(gateway.receipt(&answer.id()).await, receipt);
    gateway.settles_at(&customer, "0.9999886").await;
    let client = Client::h1(&gateway, &customer);
    client.with_key(&revoked).ask(&ask(&[])).await.is_error(401, Some("invalid_api_key"));
    assert_eq!(client.ask(&ask(&[])).await.status, 200);
    let again = ["credit", "deposit", "--customer", &customer.id, "--amount", "1.00", "--reference", "first"];
    assert_eq!(text(&gateway.json(&again)["balance"]), "0.9999772", "still the same deposit");
    crate::support::audit(gateway, &[&provider]).is_exact(2);
}

#[test]
fn a_price_book_is_made_of_the_public_map() {
    let folder = tempfile::tempdir().unwrap();
    let map = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/litellm-map.json");
    let made = run(&["prices", "import", map, "--name", "imported"], &[], "");
    assert!(made.status.success() && String::from_utf8_lossy(&made.stderr).contains("left out: sim-inexact"));
    let book = folder.path().join("book.yaml");
    fs::write(&book, stdout(&made)).unwrap();
    let checked = run(&["check", "--prices", book.to_str().unwrap()], &[], "");
    assert!(stdout(&checked).contains("ok, 7 models at prices imported"), "{}", stdout(&checked));
    let none = run(&["prices", "import", map, "--providers", "nobody"], &[], "");
    assert_eq!(none.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&none.stderr).contains("has no model of nobody"));
}
