//! Files of batches: kept by the account that serves what is in them, for their owner alone, free of
//! charge and bounded.

use crate::hygiene::{contains, files};
use crate::support::gateway::text;
use crate::support::scene::{Scene, scene, scene_with};
use crate::support::{
    Account, Answer, Client, Customer, Gateway, Script, Scripted, Settings, Simulated, audit,
};
use serde_json::json;

const FILES: &str = "/v1/files";
const NAME: &str = "canary-name.jsonl";

/// A line of a batch that asks this model for a chat.
pub fn line(custom_id: &str, model: &str) -> String {
    let body = json!({ "model": model, "messages": [{ "role": "user", "content": "canary-words" }], "max_tokens": 16 });
    json!({ "custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body })
        .to_string()
}

/// A form with these fields, and a file if there is one.
fn form(fields: &[(&str, &str)], file: Option<&str>) -> Vec<u8> {
    let part = |head: &str, value: &str| {
        format!("--xyz\r\nContent-Disposition: form-data; {head}\r\n\r\n{value}\r\n")
    };
    let mut form: String =
        fields.iter().map(|(name, value)| part(&format!("name=\"{name}\""), value)).collect();
    if let Some(file) = file {
        form += &part(&format!("name=\"file\"; filename=\"{NAME}\""), file);
    }
    (form + "--xyz--\r\n").into_bytes()
}

async fn send(client: &Client, key: &str, form: Vec<u8>) -> Answer {
    let request = client.request("POST", FILES).bearer_auth(key);
    Answer::read(request.header("content-type", "multipart/form-data; boundary=xyz").body(form)).await
}

/// Uploads a file of a batch.
pub async fn upload(client: &Client, key: &str, file: &str) -> Answer {
    send(client, key, form(&[("purpose", "batch")], Some(file))).await
}

pub async fn uploaded(client: &Client, key: &str, file: &str) -> String {
    let answer = upload(client, key, file).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    text(&answer.json()["id"])
}

async fn ask(client: &Client, key: &str, method: &str, below: &str) -> Answer {
    Answer::read(client.request(method, &format!("{FILES}{below}")).bearer_auth(key)).await
}

/// The names on a page, and whether more follow.
fn page(answer: &Answer) -> (Vec<String>, bool) {
    assert_eq!((answer.status, &answer.json()["object"]), (200, &json!("list")), "{answer:?}");
    let body = answer.json();
    let names = body["data"].as_array().unwrap().iter().map(|file| text(&file["id"])).collect::<Vec<_>>();
    assert_eq!((&body["first_id"], &body["last_id"]), (&json!(names.first()), &json!(names.last())));
    (names, body["has_more"].as_bool().unwrap())
}

/// How many requests all providers saw.
fn logged(providers: &[&Simulated]) -> usize {
    providers.iter().map(|provider| provider.provider.log().len()).sum()
}

#[tokio::test]
async fn a_file_is_there_for_its_owner_alone() {
    let providers = [Simulated::start(), Simulated::start()];
    let accounts = [Account::new("left", providers[0].address), Account::new("right", providers[1].address)];
    let gateway = Gateway::start(&accounts);
    let (ada, eve) = (gateway.customer("1.00"), gateway.customer("1.00"));
    let [left, right] = &providers;
    let mut made = Vec::new();
    for client in Client::both(&gateway, &ada) {
        for turn in 0..5 {
            let file = format!("{}\n{}\n", line("1", "gpt-4o"), line(&format!("t{turn}"), "gpt-4o"));
            let answer = upload(&client, &ada.key, &file).await;
            assert_eq!((answer.status, &answer.json()["filename"]), (200, &json!(NAME)), "{answer:?}");
            let id = text(&answer.json()["id"]);
            let receipt = gateway.receipt(&answer.id()).await;
            assert_eq!(
                (&receipt["endpoint"], &receipt["charge"]),
                (&json!("files"), &json!("0.00")),
                "{receipt}"
            );
            let before = logged(&[left, right]);
            for (method, below) in [("GET", ""), ("DELETE", ""), ("GET", "/content")] {
                let theirs = ask(&client, &eve.key, method, &format!("/{id}{below}")).await;
                theirs.is_error(404, None);
                let never = ask(&client, &eve.key, method, &format!("/file-none{below}")).await;
                assert_eq!(theirs.text().replace(&id, "file-none"), never.text());
                assert_eq!(never.json()["error"]["message"], json!("No such File object: file-none"));
            }
            assert_eq!(page(&ask(&client, &eve.key, "GET", "").await), (Vec::new(), false));
            assert_eq!(logged(&[left, right]), before, "no provider was asked");

            let told = ask(&client, &ada.key, "GET", &format!("/{id}")).await;
            assert_eq!((told.status, told.json()), (200, answer.json()));
            let content = ask(&client, &ada.key, "GET", &format!("/{id}/content")).await;
            assert_eq!((content.status, content.text()), (200, file));
            assert_eq!(content.header("content-type"), "application/octet-stream");
            let head = ask(&client, &ada.key, "HEAD", &format!("/{id}/content")).await;
            assert_eq!((head.status, head.body.len()), (200, 0));
            made.push(id);
        }
    }
    assert!(providers.iter().all(|provider| logged(&[provider]) > 0), "both accounts had some");
    let client = Client::h1(&gateway, &ada);
    ask(&client, &ada.key, "POST", &format!("/{}", made[0])).await.is_error(405, None);
    ask(&client, "tg_live_none", "GET", "").await.is_error(401, Some("invalid_api_key"));

    let newest: Vec<String> = made.iter().rev().cloned().collect();
    assert_eq!(page(&ask(&client, &ada.key, "GET", "").await), (newest.clone(), false));
    assert_eq!(page(&ask(&client, &ada.key, "GET", "?order=asc&limit=4").await), (made[..4].to_vec(), true));
    let after = format!("?limit=3&after={}&purpose=batch", newest[6]);
    assert_eq!(page(&ask(&client, &ada.key, "GET", &after).await), (newest[7..].to_vec(), false));
    assert_eq!(page(&ask(&client, &ada.key, "GET", "?purpose=vision").await), (Vec::new(), false));
    ask(&client, &ada.key, "GET", "?after=file-none").await.is_error(404, None);
    ask(&client, &ada.key, "GET", "?limit=0").await.is_error(400, None);

    let deleted = ask(&client, &ada.key, "DELETE", &format!("/{}", newest[1])).await;
    assert_eq!((deleted.status, &deleted.json()["deleted"]), (200, &json!(true)));
    let before = logged(&[left, right]);
    for (method, below) in [("GET", ""), ("DELETE", ""), ("GET", "/content")] {
        ask(&client, &ada.key, method, &format!("/{}{below}", newest[1])).await.is_error(404, None);
    }
    assert_eq!(logged(&[left, right]), before, "it is known to be gone");
    let left_over = [&newest[..1], &newest[2..]].concat();
    assert_eq!(page(&ask(&client, &ada.key, "GET", "?limit=100").await), (left_over, false));
    gateway.settles_at(&ada, "1.00").await;
    audit(gateway, &[left, right]).is_exact(0);
}

/// A provider may have dropped one: the page goes on with the next.
#[tokio::test]
async fn what_a_provider_does_not_have_any_more_is_left_out() {
    let Scene { provider, gateway, customer } = scene();
    let client = Client::h1(&gateway, &customer);
    let mut made = Vec::new();
    for _ in 0..4 {
        made.push(uploaded(&client, &customer.key, &line("1", "gpt-4o-mini")).await);
    }
    let direct = reqwest::Client::builder().no_proxy().build().unwrap();
    let gone = format!("http://{}{FILES}/{}", provider.address, made[2]);
    let dropped = direct.delete(gone).bearer_auth("sk-upstream-first").send().await.unwrap();
    assert_eq!(dropped.status().as_u16(), 200);
    let first = ask(&client, &customer.key, "GET", "?limit=2").await;
    assert_eq!(page(&first), (vec![made[3].clone(), made[1].clone()], true));
    let gone = ask(&client, &customer.key, "GET", &format!("/{}", made[2])).await;
    gone.is_error(404, None);
    ask(&client, &customer.key, "GET", &format!("/{}/content", made[2])).await.is_error(404, None);
    audit(gateway, &[&provider]).is_exact(0);
}

#[tokio::test]
async fn a_file_goes_to_an_account_that_serves_its_model_and_keeps_files() {
    let bare = Scripted::always(Script::answer("404 Not Found", "", "{}"));
    let (mini, both) = (Simulated::start(), Simulated::start());
    let accounts = [
        Account::scripted(&bare).with("weight: 1000"),
        Account::new("mini", mini.address).models("[gpt-4o-mini, counted]"),
        Account::new("both", both.address).models("[gpt-4o-mini, tiered]"),
        // A file is not rewritten: who calls the model otherwise cannot take it.
        Account::new("other", mini.address).models("{ thinker: gpt-4o }"),
    ];
    let gateway = Gateway::start(&accounts);
    let customer = gateway.customer("0");
    let client = Client::h1(&gateway, &customer);
    for _ in 0..8 {
        let before = logged(&[&both]);
        uploaded(&client, &customer.key, &line("1", "tiered")).await;
        assert_eq!(logged(&[&both]), before + 1);
        uploaded(&client, &customer.key, &line("1", "gpt-4o-mini")).await;
    }
    assert!(!bare.seen().is_empty(), "one that keeps no files is passed over");
    assert_eq!(logged(&[&mini]) + logged(&[&both]), 16, "each was sent once");
    upload(&client, &customer.key, &line("1", "nobodys")).await.is_error(404, Some("model_not_found"));
    gateway.reload(&accounts[1..], &Settings::default(), crate::support::gateway::PRICES).await;
    upload(&client, &customer.key, &line("1", "thinker")).await.is_error(404, Some("model_not_found"));
    // Down, another takes it; with no other, it is told so.
    let (provider, _) = mini.die();
    for _ in 0..4 {
        uploaded(&client, &customer.key, &line("1", "gpt-4o-mini")).await;
    }
    upload(&client, &customer.key, &line("1", "counted")).await.is_error(503, Some("upstream_unavailable"));
    drop(provider);
    audit(gateway, &[&both]).is_exact(0);
}

#[tokio::test]
async fn what_is_no_file_of_a_batch_is_refused() {
    let scene = scene();
    let key = scene.customer.key.clone();
    let good = line("1", "gpt-4o-mini");
    for client in scene.clients() {
        let cases = [
            (form(&[("purpose", "vision")], Some(&good)), "purpose: must be batch"),
            (form(&[], Some(&good)), "you must provide purpose"),
            (form(&[("purpose", "batch")], None), "you must provide file"),
            (form(&[("purpose", "batch"), ("org", "x")], Some(&good)), "`org` is not known"),
            (form(&[("purpose", "batch")], Some("")), "the file has no request"),
            (form(&[("purpose", "batch")], Some(&format!("{good}\n{{}}"))), "line 2 of the file: "),
            (
                form(&[("purpose", "batch")], Some(&format!("{good}\n{good}"))),
                "line 2 of the file: its custom_id",
            ),
        ];
        for (form, expect) in cases {
            let refused = send(&client, &key, form).await;
            refused.is_error(400, None);
            assert!(refused.text().contains(expect), "{expect}: {refused:?}");
        }
        let json = client.post(FILES, json!({ "purpose": "batch" }).to_string());
        Answer::read(json).await.is_error(400, None);
        Answer::read(client.post("/v1/uploads", "{}")).await.is_error(404, None);
    }
    scene.cost_nothing(0).await;
}

#[tokio::test]
async fn files_are_bounded_however_many_are_sent_at_once() {
    let scene = scene_with(&Settings { gateway: ", files_per_customer_max: 5", ..Settings::default() });
    let client = Client::h1(&scene.gateway, &scene.customer);
    let key = &scene.customer.key;
    let file = line("1", "gpt-4o-mini");
    let first = uploaded(&client, key, &file).await;
    // What is refused does not count.
    upload(&client, key, "{}").await.is_error(400, None);
    let sent = (0..20).map(|_| upload(&client, key, &file));
    let all = futures_util::future::join_all(sent).await;
    let taken = all.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(taken, 4, "{all:?}");
    for refused in all.iter().filter(|answer| answer.status != 200) {
        refused.is_error(400, None);
        assert!(refused.text().contains("5 files were uploaded in 30 days"), "{refused:?}");
    }
    // What is deleted counts: it was noted.
    assert_eq!(ask(&client, key, "DELETE", &format!("/{first}")).await.status, 200);
    upload(&client, key, &file).await.is_error(400, None);
    // Another's count is their own.
    let eve = scene.gateway.customer("0");
    uploaded(&client, &eve.key, &file).await;
    scene.gateway.settles_at(&scene.customer, "1.00").await;
    audit(scene.gateway, &[&scene.provider]).is_exact(0);

    let scene = scene_with(&Settings { gateway: ", files_per_customer_max: 0", ..Settings::default() });
    let client = Client::h1(&scene.gateway, &scene.customer);
    upload(&client, &scene.customer.key, &file).await.is_error(404, None);
    ask(&client, &scene.customer.key, "GET", "").await.is_error(404, None);
    scene.cost_nothing(0).await;
}

/// Of a file, the books and the log have an id, and nothing that its owner wrote.
#[tokio::test]
async fn files_are_kept_over_restarts_and_nothing_in_them_is_written_down() {
    let Scene { provider, mut gateway, customer } = scene();
    let eve = gateway.customer("0");
    let mut client = Client::h1(&gateway, &customer);
    let file = line("canary-custom-id", "gpt-4o-mini");
    let mut ids = vec![uploaded(&client, &customer.key, &file).await];
    for way in ["restart", "kill", "upgrade"] {
        gateway = match way {
            "upgrade" => {
                let next = gateway.upgrade();
                // On a connection that is kept, which ends with it.
                let read = ask(&client, &customer.key, "GET", &format!("/{}", ids[0])).await;
                assert_eq!(read.status, 200, "{read:?}");
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
        client = Client::h1(&gateway, &customer);
        for id in &ids {
            let read = ask(&client, &customer.key, "GET", &format!("/{id}/content")).await;
            assert_eq!((read.status, read.text()), (200, file.clone()), "{way}");
            ask(&client, &eve.key, "GET", &format!("/{id}")).await.is_error(404, None);
        }
        ids.push(uploaded(&client, &customer.key, &file).await);
        let newest: Vec<String> = ids.iter().rev().cloned().collect();
        assert_eq!(page(&ask(&client, &customer.key, "GET", "").await), (newest, false), "{way}");
    }
    for canary in [NAME, "canary-words", "canary-custom-id"] {
        assert!(!gateway.output().contains(canary), "{canary}");
        for file in files(&gateway.store()) {
            let bytes = std::fs::read(&file).unwrap();
            assert!(!contains(&bytes, canary), "{canary} in {}", file.display());
        }
    }
    assert_eq!(ids.len(), 4);
    audit(gateway, &[&provider]).is_exact(0);
}

/// Piece by piece, in both versions of HTTP.
#[tokio::test]
async fn a_large_file_comes_as_it_went() {
    let Scene { provider, gateway, customer } = scene();
    let long = "x".repeat(20 * 1024 * 1024);
    let file = line("1", "gpt-4o-mini").replace("canary-words", &long);
    for client in Client::both(&gateway, &customer) {
        let id = uploaded(&client, &customer.key, &file).await;
        let read = ask(&client, &customer.key, "GET", &format!("/{id}/content")).await;
        assert!(read.status == 200 && read.text() == file, "{} bytes of {}", read.body.len(), file.len());
    }
    // Who reads slowly leaves room for others: the rest waits in the sockets.
    let client = Client::h1(&gateway, &customer);
    let id = uploaded(&client, &customer.key, &file).await;
    let path = format!("{FILES}/{id}/content");
    let mut slow = Vec::new();
    for _ in 0..8 {
        slow.push(client.request("GET", &path).bearer_auth(&customer.key).send().await.unwrap());
    }
    ask(&client, &customer.key, "GET", &format!("/{id}/content")).await.is_error(503, Some("overloaded"));
    for response in slow {
        assert_eq!(response.bytes().await.unwrap().len(), file.len());
    }
    let read = ask(&client, &customer.key, "GET", &format!("/{id}/content")).await;
    assert_eq!((read.status, read.body.len()), (200, file.len()));
    let other: Customer = gateway.customer("0");
    assert_eq!(page(&ask(&Client::h1(&gateway, &other), &other.key, "GET", "").await), (Vec::new(), false));
    audit(gateway, &[&provider]).is_exact(0);
}
