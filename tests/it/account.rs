//! What customers read of their own account, with their keys: the same that the operator reads, as far
//! as it is theirs, bounded, and nobody else's.

use crate::support::gateway::{stdout, text};
use crate::support::scene::{Scene, scene, scene_with};
use crate::support::{Account, Answer, Client, Gateway, Settings, Simulated, ask, audit, streamed};
use serde_json::{Value, json};

const STATEMENT: &str = "/tollgate/v1/statement";
const USAGE: &str = "/tollgate/v1/usage";
const BILLING: [&str; 2] = ["/v1/dashboard/billing", "/dashboard/billing"];

/// Three requests that cost something, in two models.
async fn used(scene: &Scene) -> [Client; 2] {
    let clients = scene.clients();
    for body in
        [ask(&[]), streamed(ask(&[])), json!({ "model": "counted", "messages": [{}], "max_tokens": 5 })]
    {
        assert_eq!(clients[0].ask(&body).await.status, 200);
    }
    scene.gateway.settles_at(&scene.customer, "0.9499772").await;
    clients
}

async fn whole(client: &Client, path: &str) -> Value {
    let answer = client.get(path).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// All lines of a statement, page by page.
async fn pages(client: &Client, query: &str, turn: &str) -> Vec<Value> {
    let mut lines = Vec::new();
    let mut next = String::new();
    loop {
        let page = whole(client, &format!("{STATEMENT}?{query}{next}")).await;
        lines.extend(page["lines"].as_array().unwrap().clone());
        let Some(seq) = page["next"].as_u64() else { return lines };
        next = format!("&{turn}={seq}");
    }
}

#[tokio::test]
async fn a_statement_is_read_page_by_page_from_either_end() {
    let scene = scene();
    let stranger = scene.gateway.customer("2.00");
    for client in used(&scene).await {
        let listed = scene.gateway.run(&["statement", "--customer", &scene.customer.id, "--json"]);
        let listed: Vec<Value> =
            stdout(&listed).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(listed.iter().filter(|line| line["kind"] == "capture").count() == 3, "{listed:?}");
        assert_eq!(whole(&client, STATEMENT).await, json!({ "lines": listed, "next": null }));
        assert_eq!(pages(&client, "limit=2", "after").await, listed);
        let mut latest = pages(&client, "order=desc&limit=2", "before").await;
        assert_eq!(latest[0], *listed.last().unwrap());
        latest.reverse();
        assert_eq!(latest, listed);
        let from = text(&listed[2]["at"]).replace(':', "%3A");
        assert_eq!(pages(&client, &format!("from={from}"), "after").await, listed[2..]);
        assert_eq!(pages(&client, &format!("to={from}&order=desc&limit=1"), "before").await.len(), 2);

        let csv = client.get(&format!("{STATEMENT}?format=csv&limit=2")).await;
        assert_eq!(csv.header("content-type"), "text/csv; charset=utf-8");
        assert!(csv.text().starts_with("entry_id,at,kind,amount,balance_after,"), "{csv:?}");
        let next: u64 = csv.header("x-tollgate-next").parse().unwrap();
        let rest = client.get(&format!("{STATEMENT}?format=jsonl&after={next}")).await;
        assert_eq!(
            (rest.header("content-type"), rest.headers.get("x-tollgate-next")),
            ("application/jsonl", None)
        );
        assert_eq!(csv.text().lines().count() - 1 + rest.text().lines().count(), listed.len());
        let theirs = whole(&client.with_key(&stranger.key), STATEMENT).await;
        assert!(theirs["lines"].as_array().unwrap().iter().all(|line| !listed.contains(line)), "{theirs}");
    }
    audit(scene.gateway, &[&scene.provider]).is_exact(3);
}

#[tokio::test]
async fn usage_and_balance_are_the_operators() {
    let scene = scene();
    let stranger = scene.gateway.customer("2.00");
    for client in used(&scene).await {
        for by in ["", "day", "model", "key", "day,model,key"] {
            let path = format!("/customers/{}/usage?by={by}", scene.customer.id);
            let (status, lines) = scene.gateway.admin_get(&path);
            assert_eq!(status, 200);
            assert_eq!(whole(&client, &format!("{USAGE}?by={by}")).await, lines, "{by}");
        }
        let models = whole(&client, &format!("{USAGE}?by=model")).await;
        assert_eq!((&models[0]["model"], &models[0]["charge"]), (&json!("counted"), &json!("0.05")));
        assert_eq!((&models[1]["requests"], &models[1]["charge"]), (&json!(2), &json!("0.0000228")));
        assert_eq!(whole(&client, &format!("{USAGE}?by=day&to=2000-01-01")).await, json!([]));
        let told = ["usage", "--customer", &scene.customer.id, "--by", "model", "--format", "csv"];
        let csv = client.get(&format!("{USAGE}?by=model&format=csv")).await.text();
        assert_eq!(csv, stdout(&scene.gateway.run(&told)));

        let balance = whole(&client, "/tollgate/v1/balance").await;
        let spent = json!({ "day": "0.0500228", "month": "0.0500228", "total": "0.0500228" });
        let expected = json!({ "customer": scene.customer.id, "status": "active", "balance": "0.9499772",
            "available": "0.9499772", "held": "0.00", "spent": spent });
        assert_eq!(balance, expected);
        let theirs = client.with_key(&stranger.key);
        assert_eq!(whole(&theirs, USAGE).await[0]["requests"], 0);
        assert_eq!(whole(&theirs, "/tollgate/v1/balance").await["balance"], "2.00");
    }
    audit(scene.gateway, &[&scene.provider]).is_exact(3);
}

#[tokio::test]
async fn clients_that_ask_as_openai_once_told_show_the_balance() {
    let scene = scene();
    for client in used(&scene).await {
        for base in BILLING {
            let limit = client.get(&format!("{base}/subscription")).await;
            // What was there for this month: exact numbers, in US dollars.
            assert!(limit.text().contains(r#""hard_limit_usd":1.00,"#), "{limit:?}");
            let used = client.get(&format!("{base}/usage?start_date=2026-01-01&end_date=2999-01-01")).await;
            assert!(used.text().contains(r#""total_usage":5.00228}"#), "in cents: {used:?}");
            let items = &used.json()["daily_costs"][0]["line_items"];
            assert_eq!((&items[0]["name"], &items[0]["cost"]), (&json!("counted"), &json!(5.0)));
            assert_eq!(client.get(&format!("{base}/usage")).await.body, used.body, "of this month");
            let before = client.get(&format!("{base}/usage?end_date=2026-01-01")).await;
            assert!(before.text().ends_with(r#""total_usage":0.00}"#), "{before:?}");
            client.get(&format!("{base}/usage?start_date=now")).await.is_error(400, None);
            client.get(&format!("{base}/invoices")).await.is_error(404, None);
            client
                .with_key("wrong")
                .get(&format!("{base}/usage"))
                .await
                .is_error(401, Some("invalid_api_key"));
        }
    }
    audit(scene.gateway, &[&scene.provider]).is_exact(3);
}

#[tokio::test]
async fn the_operators_business_is_not_told() {
    let provider = Simulated::start();
    let settings = Settings { retry: "attempts_max: 3", ..Settings::default() };
    let accounts = [Account::of(&provider), Account::new("second-acme", provider.address)];
    let gateway = Gateway::start_with(&accounts, &settings);
    let customer = gateway.customer("1.00");
    let client = Client::h1(&gateway, &customer);
    let failed = client.ask(&ask(&[("status", "401")])).await;
    failed.is_error(503, Some("upstream_unavailable"));
    let all = gateway.receipt(&failed.id()).await;
    assert_eq!((all["attempts"].as_array().unwrap().len(), &all["attempts"][0]["status"]), (2, &json!(401)));
    let own = client.get(&format!("/tollgate/v1/receipts/{}", failed.id())).await;
    let attempts = own.json()["attempts"].clone();
    for (number, attempt) in attempts.as_array().unwrap().iter().enumerate() {
        let name = format!("upstream-{}", number + 1);
        let expected = json!({ "upstream": name, "outcome": "failed", "status": null, "ms": attempt["ms"] });
        assert_eq!(*attempt, expected);
    }
    for name in ["\"first\"", "second-acme", "credential", ":401"] {
        assert!(!own.text().contains(name), "{name}: {own:?}");
    }

    let by = ["--operator", "ada-of-billing", "--reason"];
    let adjust = ["credit", "adjust", "--customer", &customer.id, "--amount=-0.25", "--reference", "adj-1"];
    gateway.json(&[&adjust[..], &by, &["for the outage"]].concat());
    for step in ["suspend", "resume"] {
        gateway.json(&[&["customer", step, &customer.id][..], &by, &["an internal note"]].concat());
    }
    let lines = whole(&client, STATEMENT).await["lines"].clone();
    let line = |kind: &str| lines.as_array().unwrap().iter().find(|line| line["kind"] == kind).cloned();
    let adjusted = line("adjustment").unwrap();
    assert_eq!((&adjusted["amount"], &adjusted["reason"]), (&json!("-0.25"), &json!("for the outage")));
    assert_eq!(line("suspension").unwrap().get("reason"), None);
    assert!(
        !lines.to_string().contains("ada-of-billing") && !lines.to_string().contains("internal"),
        "{lines}"
    );
}

#[tokio::test]
async fn looks_are_bounded_and_take_nothing_of_what_is_sold() {
    let scene = scene_with(&Settings { gateway: ", account_requests_per_minute: 3", ..Settings::default() });
    let [h1, h2] = scene.clients();
    let other = scene.gateway.customer("1.00");
    for (client, path) in [(&h1, USAGE), (&h2, "/tollgate/v1/nothing"), (&h1, "/dashboard/billing/usage")] {
        assert!([200, 404].contains(&client.get(path).await.status), "{path}");
    }
    for path in [USAGE, STATEMENT, "/tollgate/v1/balance", "/v1/dashboard/billing/subscription"] {
        let refused = h2.get(path).await;
        refused.is_error(429, Some("rate_limit_exceeded"));
        let wait: u64 = refused.header("retry-after").parse().unwrap();
        assert!((1..=20).contains(&wait), "{wait}");
    }
    let counted = r#"tollgate_admission_rejected_total{reason="account_requests_per_minute"} 4"#;
    assert!(scene.gateway.scrape().contains(counted));
    assert_eq!(h1.with_key(&other.key).get(USAGE).await.status, 200, "another customer is not concerned");
    assert_eq!(h1.ask(&ask(&[])).await.status, 200, "what is sold is not concerned");
    assert_eq!(h1.get("/v1/models").await.status, 200);
    audit(scene.gateway, &[&scene.provider]).is_exact(1);
}

#[tokio::test]
async fn what_is_not_understood_is_refused() {
    let scene = scene();
    let client = &scene.clients()[0];
    for (path, param) in [
        ("statement?limit=0", "limit"),
        ("statement?limit=1001", "limit"),
        ("statement?limit=2&limit=3", "limit"),
        ("statement?after=-1", "after"),
        ("statement?from=yesterday", "from"),
        ("statement?order=sideways", "order"),
        ("statement?before=3", "before"),
        ("statement?format=pdf", "format"),
        ("usage?by=hour", "by"),
        ("usage?from=2026-11-23T10:00:00Z", "from"),
    ] {
        let refused = client.get(&format!("/tollgate/v1/{path}")).await;
        refused.is_error(400, None);
        assert_eq!(refused.json()["error"]["param"], param, "{path}");
    }
    for path in ["statement?customer=cus_0000000000000000", "balance?a=b", "receipts/req_0?x"] {
        let refused = client.get(&format!("/tollgate/v1/{path}")).await;
        assert!([400, 404].contains(&refused.status), "{refused:?}");
    }
    for path in ["", "receipts", "receipts/", "receipts/req_1", "statements", "usage/"] {
        client.get(&format!("/tollgate/v1/{path}")).await.is_error(404, None);
    }
    for path in [STATEMENT, USAGE, "/dashboard/billing/usage"] {
        let posted = Answer::read(client.request("POST", path).bearer_auth(&scene.customer.key)).await;
        posted.is_error(405, None);
        assert_eq!(posted.header("allow"), "GET");
        Answer::read(client.request("GET", path)).await.is_error(401, Some("invalid_api_key"));
    }
    scene.cost_nothing(0).await;
}
