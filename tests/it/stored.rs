//! What a provider keeps for a customer: at the account that has it, for nobody else, and paid for.

use crate::support::gateway::{PRICES, text};
use crate::support::{Account, Answer, Client, Customer, Gateway, Settings, Simulated, audit};
use serde_json::{Value, json};
use tollgate::simulate::Served;

const RESPONSES: &str = "/v1/responses";

fn ask() -> Value {
    json!({ "model": "gpt-4o-mini", "input": "hello you", "max_output_tokens": 16 })
}

async fn create(client: &Client, body: &Value) -> Answer {
    Answer::read(client.post(RESPONSES, body.to_string())).await
}

/// The name of a response that was made, plain or streamed.
fn name_of(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    let told = answer.text();
    let (_, rest) = told.split_once(r#""id":"resp_"#).unwrap_or_else(|| panic!("{told}"));
    format!("resp_{}", rest.split('"').next().unwrap())
}

async fn made(client: &Client, body: &Value) -> String {
    name_of(&create(client, body).await)
}

async fn stored(client: &Client, customer: &Customer, method: &str, below: &str) -> Answer {
    Answer::read(client.request(method, &format!("{RESPONSES}/{below}")).bearer_auth(&customer.key)).await
}

/// Two accounts at providers of their own, and two customers.
struct Shared {
    providers: [Simulated; 2],
    gateway: Gateway,
    ada: Customer,
    eve: Customer,
}

fn accounts(providers: &[Simulated]) -> Vec<Account> {
    let names = ["left", "right"];
    providers.iter().zip(names).map(|(provider, name)| Account::new(name, provider.address)).collect()
}

fn shared() -> Shared {
    let providers = [Simulated::start(), Simulated::start()];
    let gateway = Gateway::start(&accounts(&providers));
    let (ada, eve) = (gateway.customer("1.00"), gateway.customer("1.00"));
    Shared { providers, gateway, ada, eve }
}

impl Shared {
    /// Which provider made a response: the one that a request of it was logged at.
    fn served(&self, request: &str) -> usize {
        let served: Vec<usize> =
            (0..2).filter(|at| !self.providers[*at].served(request).is_empty()).collect();
        assert_eq!(served.len(), 1, "{request}");
        served[0]
    }

    fn logged(&self) -> usize {
        self.providers.iter().map(|provider| provider.provider.log().len()).sum()
    }
}

#[tokio::test]
async fn a_response_is_there_for_its_owner_alone() {
    let shared = shared();
    let Shared { gateway, ada, eve, .. } = &shared;
    let mut both = [0; 2];
    for client in Client::both(gateway, ada) {
        for turn in 0..6 {
            let mut body = ask();
            body["stream"] = json!(turn % 2 == 1);
            let answer = create(&client, &body).await;
            let id = name_of(&answer);
            let at = shared.served(&answer.id());
            both[at] += 1;
            let before = shared.logged();
            for (method, below) in [("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")]
            {
                let theirs = stored(&client, eve, method, &format!("{id}{below}")).await;
                theirs.is_error(404, None);
                let never = stored(&client, eve, method, &format!("resp_none{below}")).await;
                assert_eq!(theirs.text().replace(&id, "resp_none"), never.text());
            }
            let mut on = ask();
            on["previous_response_id"] = json!(id);
            create(&client.with_key(&eve.key), &on).await.is_error(400, Some("previous_response_not_found"));
            assert_eq!(shared.logged(), before, "no provider was asked");

            let whole = stored(&client, ada, "GET", &id).await;
            assert_eq!((whole.status, text(&whole.json()["id"])), (200, id.clone()));
            assert_eq!(shared.served(&whole.id()), at);
            let items = stored(&client, ada, "GET", &format!("{id}/input_items?limit=2")).await;
            assert_eq!((items.status, &items.json()["object"]), (200, &json!("list")), "{items:?}");
            stored(&client, ada, "POST", &format!("{id}/cancel")).await.is_error(400, None);
            let deleted = stored(&client, ada, "DELETE", &id).await;
            assert_eq!((deleted.status, &deleted.json()["deleted"]), (200, &json!(true)));
            stored(&client, ada, "GET", &id).await.is_error(404, None);
        }
        let mut body = ask();
        body["store"] = json!(false);
        let id = made(&client, &body).await;
        stored(&client, ada, "GET", &id).await.is_error(404, None);
        let streamed = stored(&client, ada, "GET", &format!("{id}?stream=true")).await;
        streamed.is_error(400, None);
        let wrong = stored(&client, ada, "POST", &id).await;
        wrong.is_error(405, None);
        assert_eq!(wrong.header("allow"), "GET, DELETE");
        stored(&client, &Customer { key: "tg_live_none".into(), ..ada.clone() }, "GET", &id)
            .await
            .is_error(401, Some("invalid_api_key"));
    }
    assert!(both.iter().all(|made| *made > 0), "both accounts had some: {both:?}");
    gateway.settles_at(eve, "1.00").await;
    let Shared { gateway, providers: [left, right], .. } = shared;
    audit(gateway, &[&left, &right]).is_exact(14);
}

#[tokio::test]
async fn a_response_is_gone_on_from_where_it_is_and_what_is_stored_is_paid() {
    let shared = shared();
    let [client, _] = Client::both(&shared.gateway, &shared.ada);
    for stream in [false, true] {
        let mut last: Option<(String, usize)> = None;
        for turn in 0..4 {
            let mut body = ask();
            body["stream"] = json!(stream);
            if let Some((id, _)) = &last {
                body["previous_response_id"] = json!(id);
            }
            let answer = create(&client, &body).await;
            let at = shared.served(&answer.id());
            if let Some((_, before)) = last {
                assert_eq!(at, before, "turn {turn}");
            }
            let receipt = shared.gateway.receipt(&answer.id()).await;
            // 3 and 3 of its own; each turn reads all that was read and written before.
            assert_eq!(receipt["usage"]["input"], json!(6 + turn * 22), "{receipt}");
            last = Some((name_of(&answer), at));
        }
    }
    let Shared { gateway, providers: [left, right], .. } = shared;
    audit(gateway, &[&left, &right]).is_exact(8);
}

/// What is stored does not show in the request: the hold covers it all the same.
#[tokio::test]
async fn credit_that_does_not_reach_for_what_is_stored_is_refused() {
    let provider = Simulated::start();
    let gateway = Gateway::start(&[Account::of(&provider)]);
    let customer = gateway.customer("0.13");
    let client = Client::h1(&gateway, &customer);
    let long = json!({ "model": "gpt-4o", "input": "hello", "max_output_tokens": 10_000,
        "metadata": { "simulate_tokens": "10000" } });
    let first = made(&client, &long).await;
    // 10,000 x 10 and 5 x 2.5 for a million are gone; twice 10,005 x 2.5 are not there any more.
    let on = |model: &str| json!({ "model": model, "input": "on", "max_output_tokens": 16, "previous_response_id": first });
    create(&client, &on("gpt-4o")).await.is_error(402, Some("insufficient_quota"));
    let answer = create(&client, &on("gpt-4o-mini")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let receipt = gateway.receipt(&answer.id()).await;
    assert!(receipt["usage"]["input"].as_u64().unwrap() > 10_000, "{receipt}");
    let amount = |name: &str| text(&receipt[name]).parse::<f64>().unwrap();
    assert!(amount("held") > amount("charge"), "{receipt}");
    assert_eq!(text(&receipt["written_off"]), "0.00", "{receipt}");
    // Whoever has it does not serve this one.
    let other = create(&client, &on("unserved")).await;
    other.is_error(404, Some("model_not_found"));
    audit(gateway, &[&provider]).is_exact(2);
}

#[tokio::test]
async fn ownership_survives_a_restart_and_an_upgrade() {
    let provider = Simulated::start();
    let mut gateway = Gateway::start(&[Account::of(&provider)]);
    let (ada, eve) = (gateway.customer("1.00"), gateway.customer("1.00"));
    let mut client = Client::h1(&gateway, &ada);
    let mut ids = vec![made(&client, &ask()).await];
    for way in ["restart", "kill", "upgrade"] {
        gateway = match way {
            "upgrade" => {
                let next = gateway.upgrade();
                // On a connection that is kept: the old process has it made, the new one notes whose it is.
                ids.push(made(&client, &ask()).await);
                assert!(gateway.stopped().success());
                next
            }
            "kill" => {
                gateway.kill();
                gateway.again()
            }
            _ => {
                assert_eq!(gateway.stop().code(), Some(0));
                gateway.again()
            }
        };
        client = Client::h1(&gateway, &ada);
        for id in &ids {
            let read = stored(&client, &ada, "GET", id).await;
            assert_eq!((read.status, &text(&read.json()["id"])), (200, id), "{way}");
            stored(&client, &eve, "GET", id).await.is_error(404, None);
        }
        let mut on = ask();
        on["previous_response_id"] = json!(ids.last());
        ids.push(made(&client, &on).await);
    }
    assert_eq!(ids.len(), 5);
    audit(gateway, &[&provider]).is_exact(5);
}

#[tokio::test]
async fn an_account_that_is_down_or_gone_is_told_clearly() {
    let shared = shared();
    let [client, _] = Client::both(&shared.gateway, &shared.ada);
    let mut held: [Option<String>; 2] = [None, None];
    while held.iter().any(Option::is_none) {
        let answer = create(&client, &ask()).await;
        held[shared.served(&answer.id())] = Some(name_of(&answer));
    }
    let [lost, there] = held.map(Option::unwrap);
    let Shared { providers: [left, right], gateway, ada, .. } = shared;
    let (provider, _) = left.die();
    let mut on = ask();
    on["previous_response_id"] = json!(lost);
    create(&client, &on).await.is_error(503, Some("upstream_unavailable"));
    stored(&client, &ada, "GET", &lost).await.is_error(503, Some("upstream_unavailable"));
    // The other account goes on, also with what it has.
    assert_eq!(stored(&client, &ada, "GET", &there).await.status, 200);
    let gone = provider.log().len();

    gateway.reload(&[Account::new("right", right.address)], &Settings::default(), PRICES).await;
    for refused in [create(&client, &on).await, stored(&client, &ada, "GET", &lost).await] {
        refused.is_error(404, None);
        assert!(refused.text().contains("does not use any more"), "{refused:?}");
    }
    on["previous_response_id"] = json!(there);
    assert_eq!(create(&client, &on).await.status, 200);
    assert_eq!(provider.log().len(), gone, "nobody asked the one that is gone");
    let made = |log: Vec<Served>| log.iter().filter(|served| served.method.is_empty()).count();
    let made = made(provider.log()) + made(right.provider.log());
    audit(gateway, &[]).counts(made, 0, 1);
}
