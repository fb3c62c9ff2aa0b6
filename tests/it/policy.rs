//! Acceptable use: the terms that customers must have accepted, and the countries that are not served.

use crate::hygiene::{contains, files};
use crate::strangers::metric;
use crate::support::client::CHAT;
use crate::support::gateway::{PRICES, stdout};
use crate::support::scene::{Scene, scene_with};
use crate::support::{Account, Answer, Client, Gateway, Settings, ask, eventually, streamed};
use serde_json::Value;

pub fn rejected(gateway: &Gateway, reason: &str) -> usize {
    metric(gateway, &format!("tollgate_admission_rejected_total{{reason=\"{reason}\"}}"))
}

#[tokio::test]
async fn who_accepted_other_terms_or_none_is_asked_to() {
    let settings = Settings { policy: "terms_version: \"2026-11\"", ..Settings::default() };
    let scene = scene_with(&settings);
    let accept = |version: &str| {
        let arguments = ["customer", "accept-terms", &scene.customer.id, "--terms", version];
        scene
            .gateway
            .json(&[&arguments[..], &["--operator", "jane@acme.example", "--reason", "form 7"]].concat())
    };
    let refused = || async {
        for client in scene.clients() {
            client.ask(&ask(&[])).await.is_error(403, Some("terms_not_accepted"));
            client.get("/v1/models").await.is_error(403, Some("terms_not_accepted"));
            assert_eq!(
                client.get("/tollgate/v1/balance").await.status,
                200,
                "they may look at their account"
            );
        }
    };
    let served = || async {
        for client in scene.clients() {
            assert_eq!(client.ask(&ask(&[])).await.status, 200);
        }
    };
    refused().await;
    accept("2026-10");
    refused().await;
    let view = accept("2026-11");
    assert_eq!((&view["terms_version"], &view["terms_by"]), (&"2026-11".into(), &"jane@acme.example".into()));
    served().await;

    let later = Settings { policy: "terms_version: \"2026-12\"", ..Settings::default() };
    scene.gateway.reload(&[Account::of(&scene.provider)], &later, PRICES).await;
    refused().await;
    accept("*");
    served().await;
    assert_eq!(rejected(&scene.gateway, "terms_not_accepted"), 12);
    assert_eq!(scene.provider.provider.log().len(), 4);

    let statement = scene.gateway.run(&["statement", "--customer", &scene.customer.id, "--format", "jsonl"]);
    let lines =
        stdout(&statement).lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>();
    let terms: Vec<_> = lines.iter().filter(|line| line["kind"] == "terms").collect();
    let versions: Vec<_> = terms.iter().map(|line| line["reference"].as_str().unwrap()).collect();
    assert_eq!(versions, ["2026-10", "2026-11", "*"]);
    for line in terms {
        assert_eq!((&line["by"], &line["reason"]), (&"jane@acme.example".into(), &"form 7".into()));
    }
    // It is in the books, not in memory.
    let Scene { gateway, customer, .. } = scene;
    let gateway = gateway.again();
    assert_eq!(gateway.json(&["customer", "show", &customer.id])["terms_version"], "*");
}

const DATABASE: &[u8] = include_bytes!("../data/countries.mmdb");

/// A gateway behind a proxy on this machine, which knows countries by address and by a header.
fn denying(gateway: &'static str) -> Settings {
    let policy = "countries: { deny: [CU, KP], database: countries.mmdb, header: CF-IPCountry }";
    let install: fn(&std::path::Path) =
        |folder| std::fs::write(folder.join("countries.mmdb"), DATABASE).unwrap();
    Settings { gateway, policy, prepare: Some(install), ..Settings::default() }
}

/// Asks from an address, and says which country that is in.
async fn ask_from(scene: &Scene, address: &str, country: &str) -> Answer {
    let request = scene.clients()[0].request("POST", CHAT).bearer_auth(&scene.customer.key);
    let request =
        request.header("x-forwarded-for", address.to_owned()).header("cf-ipcountry", country.to_owned());
    Answer::read(request.body(ask(&[]).to_string())).await
}

#[tokio::test]
async fn denied_countries_are_told_so_and_no_others() {
    let settings = denying(", trusted_proxies: [\"127.0.0.1\"]");
    let scene = scene_with(&settings);
    let answer = ask_from(&scene, "198.51.100.7", "").await;
    answer.is_error(403, Some("unsupported_country_region_territory"));
    let error = &answer.json()["error"];
    assert_eq!(error["type"], "request_forbidden");
    assert_eq!(error["message"], "Country, region, or territory not supported.");
    for (address, country, status) in [
        ("192.0.2.1", "", 200),
        ("203.0.113.1", "", 403),
        ("192.0.2.1", "CU", 403),
        ("198.51.100.7", "DE", 200),
        ("127.0.0.1", "", 200),
    ] {
        assert_eq!(ask_from(&scene, address, country).await.status, status, "{address} {country}");
    }
    let [client, _] = scene.clients();
    let from = |path: &str| {
        let request = client.request("GET", path).bearer_auth(&scene.customer.key);
        Answer::read(request.header("x-forwarded-for", "198.51.100.7"))
    };
    from("/v1/models").await.is_error(403, Some("unsupported_country_region_territory"));
    assert_eq!(from("/tollgate/v1/balance").await.status, 200);
    assert_eq!(rejected(&scene.gateway, "country_denied"), 4);

    // A contract of one customer's own.
    let set =
        |value: &str| scene.gateway.json(&["customer", "set", &scene.customer.id, "--countries", value]);
    assert_eq!(set("KP")["limits"]["countries"], serde_json::json!(["KP"]));
    assert_eq!(ask_from(&scene, "198.51.100.7", "").await.status, 200);
    assert_eq!(ask_from(&scene, "203.0.113.1", "").await.status, 403);
    set("none");
    assert_eq!(ask_from(&scene, "198.51.100.7", "").await.status, 403);
    let output = scene.gateway.run(&["key", "set", &scene.customer.key_id, "--countries", "KP"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("are set for a customer, not for a key"));

    // A reload reads the database again, and keeps the one it has if that is broken.
    let file = scene.gateway.config().with_file_name("countries.mmdb");
    let accounts = [Account::of(&scene.provider)];
    std::fs::write(&file, "no database").unwrap();
    let said = scene.gateway.reload(&accounts, &settings, PRICES).await;
    assert!(
        said[0]["fault"].as_str().unwrap().contains("policy.countries.database: is no MaxMind DB"),
        "{said:#?}"
    );
    assert_eq!(ask_from(&scene, "198.51.100.7", "").await.status, 403);
    let mut moved = DATABASE.to_vec();
    let at: Vec<usize> = memchr::memmem::find_iter(DATABASE, "BKP").collect();
    at.into_iter().for_each(|at| moved[at + 1] = b'X');
    std::fs::write(&file, moved).unwrap();
    scene.gateway.reload(&accounts, &settings, PRICES).await;
    assert_eq!(ask_from(&scene, "198.51.100.7", "").await.status, 200);
}

#[tokio::test]
async fn nobody_but_a_listed_proxy_says_where_a_client_is() {
    let policy = "countries: { deny: [CU], header: cf-ipcountry, unknown: deny }";
    let scene = scene_with(&Settings { policy, ..Settings::default() });
    ask_from(&scene, "192.0.2.1", "DE").await.is_error(403, Some("unsupported_country_region_territory"));
    assert_eq!(rejected(&scene.gateway, "country_unknown"), 1);
    let gateway = ", trusted_proxies: [\"127.0.0.1\"]";
    scene
        .gateway
        .reload(&[Account::of(&scene.provider)], &Settings { gateway, policy, ..Settings::default() }, PRICES)
        .await;
    assert_eq!(ask_from(&scene, "192.0.2.1", "DE").await.status, 200);
    assert_eq!(ask_from(&scene, "192.0.2.1", "CU").await.status, 403);
}

/// Lists with words of no meaning but here.
pub fn lists(folder: &std::path::Path) {
    std::fs::write(folder.join("hate.txt"), "# two\nzorgwort\nfoul  phrase\n").unwrap();
    std::fs::write(folder.join("own.txt"), "secret recipe").unwrap();
}

const CONTENT: &str = "content: { mode: enforce, categories: { \
    hate: { words: hate.txt, ban: { violations: 3, within_hours: 1 } }, own_rules: { words: own.txt } } }";

fn judging() -> Settings {
    Settings { policy: CONTENT, prepare: Some(lists), ..Settings::default() }
}

pub fn saying(text: &str) -> Value {
    let mut body = ask(&[]);
    body["messages"][0]["content"] = text.into();
    body
}

pub fn violations(gateway: &Gateway, category: &str, mode: &str) -> usize {
    metric(gateway, &format!("tollgate_policy_violations_total{{category=\"{category}\",mode=\"{mode}\"}}"))
}

pub fn entries(gateway: &Gateway, customer: &str, kind: &str) -> Vec<Value> {
    let statement = gateway.run(&["statement", "--customer", customer, "--format", "jsonl"]);
    let lines =
        stdout(&statement).lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>();
    lines.into_iter().filter(|line| line["kind"] == kind).collect()
}

#[tokio::test]
async fn what_is_asked_is_refused_before_a_provider_sees_it_or_noted_beside() {
    let scene = scene_with(&judging());
    let id = &scene.customer.id;
    let set = |mode: &str| scene.gateway.json(&["customer", "set", id, "--content", mode]);
    let [h1, h2] = scene.clients();
    let refused = h1.ask(&saying("A FOUL\n phrase!")).await;
    refused.is_error(400, Some("content_policy_violation"));
    assert!(refused.text().contains("hate"), "{}", refused.text());
    h2.ask(&saying("the s\u{200b}ecret recipe")).await.is_error(400, Some("content_policy_violation"));
    assert_eq!(h1.ask(&saying("a zorgwortgame is no word of the list")).await.status, 200);
    assert_eq!(scene.provider.provider.log().len(), 1);

    set("observe");
    assert_eq!(h1.ask(&saying("the secret recipe")).await.status, 200);
    eventually("it is noted", || (violations(&scene.gateway, "own_rules", "observe") == 1).then_some(()))
        .await;
    set("off");
    assert_eq!(h1.ask(&saying("the secret recipe")).await.status, 200);
    set("none");
    h1.ask(&saying("the secret recipe")).await.is_error(400, Some("content_policy_violation"));
    assert_eq!(scene.provider.provider.log().len(), 3);
    let counted = [("hate", "enforce"), ("own_rules", "enforce"), ("own_rules", "observe")];
    assert_eq!(counted.map(|(category, mode)| violations(&scene.gateway, category, mode)), [1, 2, 1]);
    assert_eq!(rejected(&scene.gateway, "content_policy"), 3);
    let noted = entries(&scene.gateway, id, "violation");
    assert_eq!((noted.len(), &noted[0]["reference"]), (4, &refused.id().into()));
    let output = scene.gateway.run(&["customer", "set", id, "--content", "sometimes"]);
    assert_eq!(output.status.code(), Some(3));
}

#[tokio::test]
async fn who_goes_too_far_is_banned_at_once_with_the_evidence() {
    let scene = scene_with(&judging());
    let Scene { provider, gateway, customer } = scene;
    let clients = Client::both(&gateway, &customer);
    let refused = |client: Client| async move {
        let answer = client.ask(&saying("zorgwort")).await;
        answer.is_error(400, Some("content_policy_violation"));
        answer.id()
    };
    let first = refused(clients[0].clone()).await;
    // Violations are counted over a restart: the books have them.
    let mut gateway = gateway;
    gateway.kill();
    let gateway = gateway.again();
    assert_eq!(entries(&gateway, &customer.id, "violation").len(), 1, "it was durable when it was told");
    let [client, other] = Client::both(&gateway, &customer);
    let second = refused(client.clone()).await;
    let body = streamed(ask(&[("chunks", "40"), ("tokens", "40"), ("pace_ms", "600000")]));
    let mut running = client.chat(body.to_string()).send().await.unwrap();
    assert_eq!(running.status(), 200);
    running.chunk().await.unwrap();
    let third = refused(other.clone()).await;
    let banned = || {
        let shown = gateway.json(&["customer", "show", &customer.id]);
        (shown["status"] == "banned").then_some(shown)
    };
    let shown = eventually("the customer is banned", banned).await;
    assert_eq!(shown["by"], "content policy");
    let reason = shown["reason"].as_str().unwrap();
    assert_eq!(reason, format!("3 violations of hate, last in {first} {second} {third}"));
    assert!(running.text().await.unwrap().contains("account_banned"), "a stream says why it ends");
    // The connection of that stream ends with it.
    let client = other;
    client.ask(&ask(&[])).await.is_error(403, Some("account_banned"));
    client.get("/tollgate/v1/balance").await.is_error(403, Some("account_banned"));
    gateway.settles_at(&customer, "0.00").await;
    let forfeited = entries(&gateway, &customer.id, "forfeiture");
    assert!(
        !forfeited.is_empty() && forfeited.iter().all(|entry| entry["reason"] == reason),
        "{forfeited:?}"
    );
    assert_eq!(metric(&gateway, "tollgate_policy_bans_total"), 1);

    gateway.json(&["customer", "unban", &customer.id, "--reason", "appeal 3", "--operator", "ada"]);
    assert_eq!(entries(&gateway, &customer.id, "forfeiture_reversal").len(), 1);
    assert_eq!(client.ask(&ask(&[])).await.status, 200);
    // What led to the ban is not counted again.
    refused(client.clone()).await;
    refused(client.clone()).await;
    assert_eq!(client.ask(&ask(&[])).await.status, 200);
    drop(provider);
}

#[tokio::test]
async fn of_a_violation_nothing_is_kept_that_was_said() {
    let policy = "terms_version: v1, content: { mode: observe, categories: { \
        hate: { words: hate.txt, ban: { violations: 9 } }, own_rules: { words: own.txt } } }";
    let settings = Settings { policy, log: Some("debug"), ..judging() };
    let Scene { provider, mut gateway, customer } = scene_with(&settings);
    gateway.json(&["customer", "accept-terms", &customer.id, "--terms", "v1", "--operator", "jane"]);
    let clients = Client::both(&gateway, &customer);
    for client in &clients {
        assert_eq!(client.ask(&saying("CANARYprompt zorgwort secret recipe")).await.status, 200);
    }
    let twice = || (violations(&gateway, "hate", "observe") == 2).then_some(());
    eventually("both are noted", twice).await;
    gateway.json(&["customer", "set", &customer.id, "--content", "enforce"]);
    for client in &clients {
        let answer = client.ask(&saying("CANARYprompt zorgwort secret recipe")).await;
        answer.is_error(400, Some("content_policy_violation"));
        assert!(["CANARY", "zorgwort", "recipe"].iter().all(|canary| !answer.text().contains(canary)));
    }
    let export = || {
        let export = stdout(&gateway.run(&["ledger", "export"]));
        (export.matches("\"violation\"").count() == 8).then_some(export)
    };
    let export = eventually("all are in the books", export).await;
    assert!(export.contains("\"reason\":\"own_rules 1.000000 observed, digest "), "{export}");
    gateway.writes("content_policy").await;
    let (metrics, log) = (gateway.scrape(), gateway.output());
    assert!(metrics.contains("own_rules"));
    assert_eq!(gateway.stop().code(), Some(0));
    let files = files(&gateway.store());
    assert!(files.len() >= 3, "{files:?}");
    for canary in ["CANARY", "zorgwort", "recipe", &customer.key] {
        for told in [&metrics, &log, &export] {
            assert!(!told.contains(canary), "{canary}");
        }
        for file in &files {
            assert!(!contains(&std::fs::read(file).unwrap(), canary), "{canary} in {}", file.display());
        }
    }
    assert_eq!(provider.provider.log().len(), 2);
}
