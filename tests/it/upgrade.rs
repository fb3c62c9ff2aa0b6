//! A new process takes the place of the running one: sockets, requests under way and the ledger pass on,
//! and nobody notices. Whatever goes wrong in between, the books are right.

use crate::support::client::Raw;
use crate::support::gateway::stdout;
use crate::support::{
    Account, Answer, Client, Gateway, Simulated, ask, audit, event_stream, eventually, scene, streamed,
};
use serde_json::{Value, json};
use std::fs;
use std::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A stream of 40 events that takes two seconds: it outlives several processes.
fn long() -> Value {
    streamed(ask(&[("tokens", "40"), ("chunks", "40"), ("pace_ms", "50")]))
}

/// Clients that ask for plain answers, streams and long streams until they are told to stop, and how many
/// answers they had. Each must be right.
struct Load {
    stop: watch::Sender<bool>,
    clients: Vec<JoinHandle<usize>>,
}

impl Load {
    fn begin(clients: Vec<Client>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let clients = clients.into_iter().enumerate().map(|(number, client)| {
            let stopped = stopped.clone();
            tokio::spawn(async move {
                let mut served = 0;
                while !*stopped.borrow() {
                    let body = match (number + served) % 4 {
                        0 | 1 => ask(&[]),
                        2 => streamed(ask(&[])),
                        _ => long(),
                    };
                    let answer = client.ask(&body).await;
                    assert_eq!(answer.status, 200, "{answer:?}");
                    assert!(answer.text().contains("tok15"), "{answer:?}");
                    served += 1;
                }
                served
            })
        });
        Load { stop, clients: clients.collect() }
    }

    async fn end(self) -> usize {
        self.stop.send(true).unwrap();
        let mut served = 0;
        for client in self.clients {
            served += client.await.unwrap();
        }
        served
    }
}

/// A stream that has begun, and is read to its end in a task of its own.
async fn begin(client: &Client, body: &Value) -> JoinHandle<Result<String, reqwest::Error>> {
    let mut response = client.chat(body.to_string()).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let first = response.chunk().await.unwrap().unwrap();
    tokio::spawn(async move {
        let mut came = String::from_utf8_lossy(&first).into_owned();
        while let Some(chunk) = response.chunk().await? {
            came.push_str(&String::from_utf8_lossy(&chunk));
        }
        Ok(came)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_five_upgrades_under_load() {
    let provider = Simulated::start();
    let mut gateway = Gateway::start(&[Account::of(&provider)]);
    let customer = gateway.customer("100.00");
    let clients = (0..4).flat_map(|_| Client::both(&gateway, &customer)).collect();
    let load = Load::begin(clients);
    let mut before = Vec::new();
    for upgrade in 0..5 {
        let next = gateway.upgrade();
        assert_eq!(next.customer("1.00").id.len(), customer.id.len(), "the operator finds the new one");
        before.push(std::mem::replace(&mut gateway, next));
        // All of them have requests when the next one comes, at first the first as well.
        eventually("the new one serves", || {
            gateway.scrape().contains("tollgate_requests_total{").then_some(())
        })
        .await;
        assert!(upgrade > 0 || before[0].is_running(), "streams of the first go on");
    }
    let served = load.end().await;
    assert!(served > 50, "{served}");
    for gateway in &mut before {
        assert!(gateway.stopped().success(), "it ends when its requests have: {}", gateway.output());
    }
    audit(gateway, &[&provider]).is_exact(served);
}

#[tokio::test]
async fn a_connection_that_is_kept_has_one_more_request_and_is_closed() {
    let scene::Scene { provider, mut gateway, customer } = scene::scene();
    let body = ask(&[]).to_string();
    let request =
        [Raw::head(&customer, &format!("content-length: {}\r\n", body.len())).into_bytes(), body.into()]
            .concat();
    let mut kept = Raw::connect(gateway.address);
    kept.send(&request);
    assert_eq!(kept.answer().0, 200);
    let next = gateway.upgrade();
    kept.send(&request);
    let (status, head, _) = kept.answer();
    assert_eq!(status, 200, "held, served and charged by way of the new one: {head}");
    assert!(head.to_ascii_lowercase().contains("connection: close"), "{head}");
    assert!(head.contains("x-tollgate-charge: 0.0000"), "{head}");
    assert!(kept.is_closed());
    assert!(gateway.stopped().success());
    // What the new one says is refused, too.
    let poor = next.customer("0");
    Client::h1(&next, &poor).ask(&ask(&[])).await.is_error(402, Some("insufficient_quota"));
    audit(next, &[&provider]).is_exact(2);
}

#[tokio::test]
async fn holds_of_a_process_that_dies_while_it_drains_are_released() {
    let scene::Scene { provider, mut gateway, customer } = scene::scene();
    let stream = begin(&Client::h1(&gateway, &customer), &long()).await;
    let next = gateway.upgrade();
    let (balance, available) = next.balance(&customer);
    assert_eq!(balance, "1.00");
    assert_ne!(available, "1.00", "the new one keeps the hold of the old one");
    gateway.kill();
    assert!(stream.await.unwrap().is_err());
    next.settles_at(&customer, "1.00").await;
    assert_eq!(Client::h1(&next, &customer).ask(&ask(&[])).await.status, 200);
    let audit = audit(next, &[&provider]);
    audit.counts(1, 0, 1);
}

#[tokio::test]
async fn when_the_new_process_dies_nothing_is_charged_and_a_restart_goes_on() {
    let scene::Scene { provider, mut gateway, customer } = scene::scene();
    let stream = begin(&Client::h1(&gateway, &customer), &long()).await;
    let mut next = gateway.upgrade();
    next.kill();
    // The store and the sockets are free, though the first process still has a stream.
    let again = next.again();
    let came = stream.await.unwrap();
    assert!(!came.is_ok_and(|came| came.contains("[DONE]")), "no answer is complete without its charge");
    assert!(gateway.stopped().success());
    again.settles_at(&customer, "1.00").await;
    assert_eq!(Client::h1(&again, &customer).ask(&ask(&[])).await.status, 200);
    audit(again, &[]).counts(1, 0, 1);
    drop(provider);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_that_cannot_take_over_leaves_all_as_it_was() {
    let scene::Scene { provider, gateway, customer } = scene::scene();
    let load = Load::begin(Client::both(&gateway, &customer).into());
    let config = fs::read_to_string(gateway.config()).unwrap();
    let fails = |why: &str, code: i32| {
        let output = gateway.upgrade_that_fails();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(why), "{said}");
    };
    // By its configuration: it does not even call.
    fs::write(gateway.config(), config.replace("listen:", "listens:")).unwrap();
    fails("did you mean `listen`?", 2);
    // By a port that is taken: before the ledger was lent.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("[\"{}\"]", taken.local_addr().unwrap());
    fs::write(gateway.config(), config.replace("[\"127.0.0.1:0\"]", &taken)).unwrap();
    fails("cannot listen on", 1);
    fs::write(gateway.config(), config).unwrap();
    // By its store: the ledger was lent, and is taken back.
    let secret = gateway.store().join("key-digest.secret");
    let kept = fs::read(&secret).unwrap();
    for _ in 0..3 {
        fs::remove_file(&secret).unwrap();
        fails("restore key-digest.secret from a backup", 1);
        fs::write(&secret, &kept).unwrap();
        gateway.customer("1.00");
    }
    let not_handed_over = || gateway.output().matches("not handed over: this process goes on").count();
    eventually("all four are told", || (not_handed_over() == 4).then_some(())).await;
    let served = load.end().await;
    assert!(served > 4, "{served}");
    let mut gateway = gateway;
    let next = gateway.upgrade();
    assert!(gateway.stopped().success());
    audit(next, &[&provider]).is_exact(served);
}

#[tokio::test]
async fn a_ban_by_the_new_process_ends_streams_of_the_old_one() {
    let scene::Scene { provider, mut gateway, customer } = scene::scene();
    // One whose provider says something and then nothing.
    let stalled = streamed(ask(&[("tokens", "20"), ("chunks", "2"), ("pace_ms", "60000")]));
    let stream = begin(&Client::h2(&gateway, &customer), &stalled).await;
    let mut second = gateway.upgrade();
    let third = second.upgrade();
    stdout(&third.run(&["customer", "ban", &customer.id, "--reason", "spam"]));
    let came = stream.await.unwrap().unwrap();
    let last: Value = serde_json::from_str(event_stream(&came).last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "account_banned", "{came}");
    assert!(gateway.stopped().success());
    assert!(second.stopped().success());
    let view = third.json(&["customer", "show", &customer.id]);
    assert_eq!(view["balance"], json!("0.00"));
    let audit = audit(third, &[&provider]);
    audit.counts(0, 1, 0);
    assert_eq!(&*audit.receipts[0].end, "stopped");
}

#[tokio::test]
async fn without_a_running_process_an_upgrade_is_a_start() {
    let scene::Scene { provider, mut gateway, customer } = scene::scene();
    assert!(gateway.stop().success());
    let next = gateway.start_upgraded();
    let answer: Answer = Client::h1(&next, &customer).ask(&ask(&[])).await;
    assert_eq!(answer.status, 200);
    audit(next, &[&provider]).is_exact(1);
}
