//! Acceptable use: the terms that customers must have accepted, and the countries that are not served.

use crate::strangers::metric;
use crate::support::client::CHAT;
use crate::support::gateway::{PRICES, stdout};
use crate::support::scene::{Scene, scene_with};
use crate::support::{Account, Answer, Gateway, Settings, ask};
use serde_json::Value;

fn rejected(gateway: &Gateway, reason: &str) -> usize {
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
