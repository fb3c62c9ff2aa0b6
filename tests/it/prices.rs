//! The price book: a version that takes effect at its date, and the rates of the tier that was served.

use crate::support::gateway::{PRICES, text};
use crate::support::{Account, Client, Gateway, Settings, Simulated, ask, audit};
use std::path::Path;
use std::time::Duration;
use tollgate::clock::Timestamp;
use tollgate::config;

/// How soon the next version takes effect, and for how long a request that was admitted about then may
/// be of either.
const SOON: Duration = Duration::from_secs(4);
const UNSURE: Duration = Duration::from_secs(1);

fn after(moment: Timestamp, wait: Duration) -> Timestamp {
    Timestamp::from_micros(moment.micros() + i64::try_from(wait.as_micros()).unwrap())
}

/// Ten times as dear as the book before it, from a moment that is near.
fn prepare(folder: &Path) {
    let date = after(Timestamp::now(), SOON);
    let next = PRICES.replace("version: it-1", &format!("version: it-2\neffective: \"{date}\""));
    std::fs::write(folder.join("next.yaml"), next.replace("\"0.60\"", "\"6.00\"")).unwrap();
    let config = std::fs::read_to_string(folder.join("tollgate.yaml")).unwrap();
    let both = config.replace("prices: prices.yaml", "prices: [prices.yaml, next.yaml]");
    std::fs::write(folder.join("tollgate.yaml"), both).unwrap();
}

#[tokio::test]
async fn a_version_takes_effect_at_its_date_without_a_restart() {
    let provider = Simulated::start();
    let settings = Settings { prepare: Some(prepare), ..Settings::default() };
    let gateway = Gateway::start_with(&[Account::of(&provider)], &settings);
    let next = config::load_prices(&gateway.config().with_file_name("next.yaml")).unwrap();
    let date = next.effective.unwrap();
    let customer = gateway.customer("1.00");
    let [client, other] = Client::both(&gateway, &customer);
    // Admitted before the date and answered after it: it keeps the prices it began with.
    let slow = tokio::spawn(async move { other.ask(&ask(&[("latency_ms", "4500")])).await });
    let (mut before, mut since) = (0, 0);
    while since < 3 {
        let answer = client.ask(&ask(&[("latency_ms", "50")])).await;
        let receipt = gateway.receipt(&answer.id()).await;
        let at = Timestamp::parse(&text(&receipt["at"])).unwrap();
        match &*text(&receipt["price_version"]) {
            "it-1" => {
                assert!(at < after(date, UNSURE), "{receipt}");
                before += 1;
            }
            version => {
                assert_eq!((version, answer.header("x-tollgate-charge")), ("it-2", "0.0000978"));
                assert!(at >= date, "{receipt}");
                since += 1;
            }
        }
    }
    assert!(before > 0, "the gateway took longer to start than the version to take effect");
    let slow = gateway.receipt(&slow.await.unwrap().id()).await;
    assert_eq!((text(&slow["price_version"]), text(&slow["charge"])), ("it-1".into(), "0.0000114".into()));
    audit(gateway, &[&provider]).is_exact(before + since + 1);
}

#[tokio::test]
async fn an_answer_of_a_batch_has_the_rates_of_batches() {
    let provider = Simulated::start();
    let gateway = Gateway::start(&[Account::of(&provider)]);
    let customer = gateway.customer("1.00");
    for client in Client::both(&gateway, &customer) {
        let mut asked = ask(&[("tier", "batch")]);
        asked["model"] = "tiered".into();
        let answer = client.ask(&asked).await;
        let receipt = gateway.receipt(&answer.id()).await;
        assert_eq!(
            (text(&receipt["service_tier"]), text(&receipt["lines"][0]["unit_price"])),
            ("batch".into(), "0.05".into())
        );
        asked["service_tier"] = "batch".into();
        client.ask(&asked).await.is_error(400, None);
    }
    audit(gateway, &[&provider]).is_exact(2);
}
