//! Content judged by a provider's moderation endpoint, over the pool: what is asked and a share of what is
//! answered. The simulated provider finds in a text what it says: `score(hate)=0.91`.

use crate::hygiene::{contains, files};
use crate::policy::{entries, lists, rejected, saying, violations};
use crate::strangers::metric;
use crate::support::client::Raw;
use crate::support::{
    Account, Client, Customer, Gateway, Script, Scripted, Settings, Simulated, ask, audit, event_stream,
    eventually, streamed,
};
use serde_json::json;
use std::time::{Duration, Instant};
use tollgate::simulate::Options;

const JUDGING: &str = "content: { mode: enforce, moderation: { timeout_ms: 1000 }, categories: { \
    hate: { moderation: { hate: \"0.5\", hate/threatening: \"0.2\" }, ban: { violations: 3, within_hours: 1 } }, \
    own_rules: { words: own.txt } } }";

/// A provider of answers, one of judgements, and a gateway between them.
pub struct Court {
    pub provider: Simulated,
    pub judge: Simulated,
    pub gateway: Gateway,
    pub customer: Customer,
}

pub fn judged_by(policy: &'static str, latency_ms: u64) -> Court {
    let settings = Settings { policy, prepare: Some(lists), log: Some("debug"), ..Settings::default() };
    let provider = Simulated::start();
    let latency = Duration::from_millis(latency_ms);
    let judge = Simulated::start_with(Options { latency, ..Options::default() });
    let accounts = [
        Account::of(&provider).models("[gpt-4o-mini, embedder, painter, whisper-1]"),
        Account::new("judge", judge.address).models("{ omni-moderation-latest: omni-2026 }"),
    ];
    let gateway = Gateway::start_with(&accounts, &settings);
    let customer = gateway.customer("1.00");
    Court { provider, judge, gateway, customer }
}

impl Court {
    fn clients(&self) -> [Client; 2] {
        Client::both(&self.gateway, &self.customer)
    }

    fn moderations(&self, outcome: &str) -> usize {
        metric(&self.gateway, &format!("tollgate_policy_moderation_seconds_count{{outcome=\"{outcome}\"}}"))
    }
}

#[tokio::test]
async fn a_provider_judges_before_another_is_asked_and_nobody_pays_for_it() {
    let court = judged_by(JUDGING, 0);
    let Court { provider, judge, gateway, customer } = &court;
    let [h1, h2] = court.clients();
    for (client, text, status) in [
        (&h1, "score(hate)=0.49 score(violence)=1", 200),
        (&h2, "score(hate)=0.5", 400),
        (&h2, "score(hate/threatening)=0.19", 200),
        (&h1, "a score(hate/threatening)=0.2 score(hate)=0.1", 400),
    ] {
        let answer = client.ask(&saying(text)).await;
        assert_eq!(answer.status, status, "{text}: {answer:?}");
        if status == 400 {
            answer.is_error(400, Some("content_policy_violation"));
            assert!(answer.text().contains("policy of this service: hate."), "{answer:?}");
        }
    }
    // What words find needs no provider.
    h1.ask(&saying("the secret recipe")).await.is_error(400, Some("content_policy_violation"));
    assert_eq!((provider.provider.log().len(), judge.provider.log().len()), (2, 4));
    for asked in judge.provider.log() {
        assert_eq!(
            (&*asked.path, &*asked.model, &*asked.credential_last4),
            ("/v1/moderations", "omni-2026", "udge")
        );
        assert!(asked.request.starts_with("req_"));
    }
    let scores: Vec<String> = entries(gateway, &customer.id, "violation")
        .iter()
        .map(|entry| entry["reason"].as_str().unwrap().split(", digest").next().unwrap().to_owned())
        .collect();
    assert_eq!(scores, ["hate 0.500000 refused", "hate 0.200000 refused", "own_rules 1.000000 refused"]);
    assert_eq!((court.moderations("ok"), rejected(gateway, "content_policy")), (4, 3));

    // For one customer beside the request, or not at all; and then once too often.
    let set = |mode: &str| gateway.json(&["customer", "set", &customer.id, "--content", mode]);
    set("off");
    assert_eq!(h1.ask(&saying("score(hate)=1")).await.status, 200);
    assert_eq!(judge.provider.log().len(), 4);
    set("observe");
    // A ban ends what is under way: the answer comes first.
    judge.provider.set_options(Options { latency: Duration::from_millis(700), ..Options::default() });
    assert_eq!(h1.ask(&saying("score(hate)=0.75")).await.status, 200);
    let banned = || (gateway.json(&["customer", "show", &customer.id])["status"] == "banned").then_some(());
    eventually("the third is one too many", banned).await;
    let last = entries(gateway, &customer.id, "violation").pop().unwrap();
    assert!(last["reason"].as_str().unwrap().starts_with("hate 0.750000 observed"), "{last}");
    let Court { provider, gateway, judge, .. } = court;
    audit(gateway, &[&provider]).is_exact(4);
    drop(judge);
}

#[tokio::test]
async fn observing_delays_nobody_and_its_line_is_bounded() {
    let policy = "content: { mode: observe, waiting_max: 3, moderation: { timeout_ms: 20000 }, \
        categories: { hate: { moderation: { hate: \"0.5\" } } } }";
    let court = judged_by(policy, 5_000);
    let client = Client::h1(&court.gateway, &court.customer);
    let begun = Instant::now();
    for _ in 0..5 {
        assert_eq!(client.ask(&saying("score(hate)=0.9")).await.status, 200);
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(metric(&court.gateway, "tollgate_policy_unjudged_total"), 2);
    eventually("three are judged", || (violations(&court.gateway, "hate", "observe") == 3).then_some(()))
        .await;
    let noted = || (entries(&court.gateway, &court.customer.id, "violation").len() == 3).then_some(());
    eventually("three are noted", noted).await;
}

/// A process that ends judges first what waits for it.
// Waiting for a process blocks: the client needs a thread of its own, to close its connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_observed_is_judged_before_the_end() {
    let policy = "content: { mode: observe, moderation: { timeout_ms: 20000 }, \
        categories: { hate: { moderation: { hate: \"0.5\" } } } }";
    let court = judged_by(policy, 1_000);
    let Court { provider: _provider, judge: _judge, mut gateway, customer } = court;
    for (way, count) in [("stop", 1), ("upgrade", 2)] {
        let client = Client::h1(&gateway, &customer);
        assert_eq!(client.ask(&saying("score(hate)=0.9")).await.status, 200);
        drop(client);
        gateway = match way {
            "upgrade" => {
                let next = gateway.upgrade();
                assert!(gateway.stopped().success());
                next
            }
            _ => {
                assert!(gateway.stop().success());
                gateway.again()
            }
        };
        assert_eq!(entries(&gateway, &customer.id, "violation").len(), count, "{way}");
    }
}

#[tokio::test]
async fn without_a_judgement_a_request_is_refused_or_served_as_the_operator_says() {
    let court = judged_by(JUDGING, 5_000);
    let [h1, h2] = court.clients();
    for client in [&h1, &h2] {
        let begun = Instant::now();
        let answer = client.ask(&ask(&[])).await;
        answer.is_error(503, Some("content_policy_unavailable"));
        assert_eq!((answer.header("retry-after"), answer.header("x-should-retry")), ("1", "true"));
        let took = begun.elapsed();
        assert!((Duration::from_secs(1)..Duration::from_secs(4)).contains(&took), "{took:?}");
    }
    assert_eq!((court.moderations("late"), rejected(&court.gateway, "content_policy_unavailable")), (2, 2));
    assert_eq!(metric(&court.gateway, "tollgate_policy_unjudged_total"), 2);
    // Longer than what a provider is asked about: at once, and for good.
    h1.ask(&saying(&"a ".repeat(600_000))).await.is_error(400, None);
    court.gateway.settles_at(&court.customer, "1.00").await;
    assert!(court.provider.provider.log().is_empty());

    // Nobody is there to judge.
    let Court { provider, judge, gateway, customer } = court;
    let accounts = [
        Account::of(&provider).models("[gpt-4o-mini, embedder]"),
        Account::new("judge", judge.address).models("[omni-moderation-latest]"),
    ];
    judge.die();
    let open = "content: { mode: enforce, moderation: { timeout_ms: 1000, on_failure: open }, categories: { \
        hate: { moderation: { hate: \"0.5\" } } } }";
    let settings = Settings { policy: open, prepare: Some(lists), ..Settings::default() };
    gateway.reload(&accounts, &settings, crate::support::gateway::PRICES).await;
    assert_eq!(Client::h1(&gateway, &customer).ask(&saying("score(hate)=1")).await.status, 200);
    assert!(metric(&gateway, "tollgate_policy_unjudged_total") > 3);
    // A model that nobody serves is a fault of the configuration.
    let unserved = "content: { mode: enforce, moderation: { model: other }, categories: { \
        hate: { moderation: { hate: \"0.5\" } } } }";
    let settings = Settings { policy: unserved, prepare: Some(lists), ..Settings::default() };
    let said = gateway.reload(&accounts, &settings, crate::support::gateway::PRICES).await;
    let fault = said[0]["fault"].as_str().unwrap();
    assert!(fault.contains("no upstream account serves the moderation model `other`"), "{said:#?}");
}

#[tokio::test]
async fn an_account_that_cannot_judge_is_left_for_one_that_can() {
    let court = judged_by(JUDGING, 0);
    let Court { provider, judge, gateway, customer } = court;
    let dead = Account::new("dead", std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
    let accounts = [
        Account::of(&provider).models("[gpt-4o-mini]"),
        dead.models("[omni-moderation-latest]").with("priority: 0"),
        Account::new("judge", judge.address).models("[omni-moderation-latest]").with("priority: 1"),
    ];
    let settings = Settings { policy: JUDGING, prepare: Some(lists), ..Settings::default() };
    gateway.reload(&accounts, &settings, crate::support::gateway::PRICES).await;
    let client = Client::h1(&gateway, &customer);
    for text in ["score(hate)=0.9", "score(hate)=0.1"] {
        let status = client.ask(&saying(text)).await.status;
        assert_eq!(status, if text.ends_with("0.9") { 400 } else { 200 }, "{text}");
    }
    let failed = metric(&gateway, "tollgate_upstream_attempts_total{outcome=\"connect\",upstream=\"dead\"}");
    let judged = metric(&gateway, "tollgate_upstream_attempts_total{outcome=\"ok\",upstream=\"judge\"}");
    assert!(failed >= 1 && judged == 2, "{failed} {judged}");
}

/// Who is judged and who is served earns a tenth of a retry each; a hundred are saved up.
#[tokio::test]
async fn judges_and_requests_have_one_budget_of_retries() {
    let (provider, sound) = (Simulated::start(), Simulated::start());
    // Less than half, or the account would be shut.
    let is_bad = |number: usize| matches!(number % 5, 0 | 2);
    let flaky = Scripted::start(move |number| match is_bad(number) {
        true => Script::answer("500 Internal Server Error", "", "{}"),
        false => Script::json(r#"{"results":[{"category_scores":{"hate":0.1}}]}"#),
    });
    let accounts = [
        Account::of(&provider).models("[gpt-4o-mini]"),
        Account::scripted(&flaky).models("[omni-moderation-latest]"),
        Account::new("sound", sound.address).models("[omni-moderation-latest]").with("priority: 1"),
    ];
    let settings = Settings { policy: JUDGING, prepare: Some(lists), ..Settings::default() };
    let gateway = Gateway::start_with(&accounts, &settings);
    let customer = gateway.customer("1.00");
    let client = Client::h1(&gateway, &customer);
    let (mut saved, mut retried, mut denied, mut retried_late) = (1_000, 0, 0, 0);
    let mut asked = 0;
    while denied < 4 || retried_late < 2 {
        assert!(asked < 1_000, "the budget never ends: {retried} retried");
        let answer = client.ask(&ask(&[])).await;
        saved = 1_000.min(saved + 1);
        if is_bad(asked) && saved < 10 {
            answer.is_error(503, Some("content_policy_unavailable"));
            denied += 1;
        } else {
            assert_eq!(answer.status, 200, "{asked}, with {saved} tenths: {answer:?}");
            if is_bad(asked) {
                (saved, retried) = (saved - 10, retried + 1);
                retried_late += usize::from(denied > 0);
            }
            saved = 1_000.min(saved + 1);
        }
        asked += 1;
    }
    assert!(retried > 100, "{retried}");
    assert_eq!((flaky.seen().len(), sound.provider.log().len()), (asked, retried));
    assert_eq!(metric(&gateway, "tollgate_upstream_retries_denied_total"), denied);
    let failed = "tollgate_policy_moderation_seconds_count{outcome=\"failed\"}";
    assert_eq!((metric(&gateway, failed), provider.provider.log().len()), (denied, asked - denied));
    audit(gateway, &[&provider]).is_exact(asked - denied);
}

/// Answers of the simulated provider say `tok3`.
#[tokio::test]
async fn answers_are_judged_beside_their_delivery() {
    let policy =
        "content: { mode: observe, output_one_in: 1, categories: { own_rules: { words: tok.txt } } }";
    fn words(folder: &std::path::Path) {
        std::fs::write(folder.join("tok.txt"), "tok3 tok4\n").unwrap();
    }
    let provider = Simulated::start();
    let settings = Settings { policy, prepare: Some(words), ..Settings::default() };
    let gateway = Gateway::start_with(&[Account::of(&provider)], &settings);
    let customer = gateway.customer("1.00");
    let [h1, h2] = Client::both(&gateway, &customer);
    let mut ids = Vec::new();
    for client in [&h1, &h2] {
        for body in [ask(&[]), streamed(ask(&[]))] {
            let answer = client.ask(&body).await;
            assert_eq!(answer.status, 200);
            ids.push(answer.id());
        }
        // Too short to say it.
        assert_eq!(client.ask(&streamed(ask(&[("tokens", "3")]))).await.status, 200);
    }
    // Over a process that has handed over, too.
    let kept = Client::h1(&gateway, &customer);
    assert_eq!(kept.ask(&ask(&[("tokens", "3")])).await.status, 200);
    drop((h1, h2));
    let mut before = gateway;
    let gateway = before.upgrade();
    ids.push(kept.ask(&ask(&[])).await.id());
    drop(kept);
    let noted = || {
        let noted = entries(&gateway, &customer.id, "violation");
        (noted.len() == ids.len()).then_some(noted)
    };
    let mut noted = eventually("all answers are judged", noted).await;
    assert!(noted.iter().all(|entry| entry["reason"].as_str().unwrap().contains(" answered, digest ")));
    let mut told: Vec<String> =
        noted.iter_mut().map(|entry| entry["reference"].as_str().unwrap().into()).collect();
    told.sort();
    ids.sort();
    assert_eq!(told, ids);
    assert!(before.stopped().success());
    audit(gateway, &[&provider]).is_exact(8);
}

/// Who is told that it went too far is so in the books, whichever process serves it.
#[tokio::test]
async fn a_process_that_has_handed_over_notes_violations_and_the_new_one_counts_them() {
    let court = judged_by(JUDGING, 0);
    let Court { provider, judge, gateway, customer } = court;
    let mut before = gateway;
    let client = Client::h1(&before, &customer);
    client.ask(&saying("score(hate)=0.9")).await.is_error(400, Some("content_policy_violation"));
    // A stream that goes on in the old process until its customer is banned.
    let body = streamed(ask(&[("tokens", "20"), ("chunks", "2"), ("pace_ms", "600000")]));
    let mut stream = Client::h2(&before, &customer).chat(body.to_string()).send().await.unwrap();
    assert_eq!(stream.status(), 200);
    stream.chunk().await.unwrap();
    let mut kept = Raw::connect(before.address);
    let body = saying("score(hate)=0.8").to_string();
    let request = format!("{}{body}", Raw::head(&customer, &format!("content-length: {}\r\n", body.len())));
    kept.send("GET /healthz HTTP/1.1\r\nhost: gateway\r\n\r\n");
    assert_eq!(kept.answer().0, 200);
    let gateway = before.upgrade();
    kept.send(&request);
    let (status, _, answer) = kept.answer();
    assert_eq!((status, String::from_utf8_lossy(&answer).contains("content_policy_violation")), (400, true));
    assert_eq!(entries(&gateway, &customer.id, "violation").len(), 2, "durable when it was told");
    let third = Client::h1(&gateway, &customer).ask(&saying("score(hate)=0.7")).await;
    third.is_error(400, Some("content_policy_violation"));
    let banned = || {
        let shown = gateway.json(&["customer", "show", &customer.id]);
        (shown["status"] == "banned").then_some(shown)
    };
    let shown = eventually("the third is one too many", banned).await;
    assert!(shown["reason"].as_str().unwrap().starts_with("3 violations of hate"), "{shown}");
    let came = stream.text().await.unwrap();
    assert!(event_stream(&came).last().unwrap().contains("account_banned"), "{came}");
    drop((client, kept));
    eventually("the old one has ended", || (!before.is_running()).then_some(())).await;
    drop((provider, judge));
}

#[tokio::test]
async fn of_what_a_provider_judged_nothing_is_kept_that_was_said() {
    let policy = "content: { mode: observe, output_one_in: 1, moderation: { timeout_ms: 2000 }, \
        categories: { hate: { moderation: { hate: \"0.5\" } } } }";
    let court = judged_by(policy, 0);
    let Court { provider, judge, mut gateway, customer } = court;
    let said = "CANARYprompt score(hate)=0.9";
    for client in Client::both(&gateway, &customer) {
        for body in [saying(said), streamed(saying(said))] {
            assert_eq!(client.ask(&body).await.status, 200);
        }
        let embedding = json!({ "model": "embedder", "input": [said] }).to_string();
        assert_eq!(client.post("/v1/embeddings", embedding).send().await.unwrap().status(), 200);
    }
    let judged = || (violations(&gateway, "hate", "observe") == 6).then_some(());
    eventually("all are judged", judged).await;
    // A judge that fails is told of in the log, without the text.
    judge.die();
    let client = Client::h1(&gateway, &customer);
    assert_eq!(client.ask(&saying(said)).await.status, 200);
    gateway.writes("a request is not moderated").await;
    let (metrics, log) = (gateway.scrape(), gateway.output());
    assert_eq!(gateway.stop().code(), Some(0));
    for canary in ["CANARY", "tok15", "score(", "sk-upstream"] {
        assert!(!metrics.contains(canary), "{canary}");
        assert_eq!(log.lines().find(|line| line.contains(canary)), None, "{canary}");
        for file in files(&gateway.store()) {
            assert!(!contains(&std::fs::read(&file).unwrap(), canary), "{canary} in {}", file.display());
        }
    }
    drop(provider);
}
