//! Waiting for the end of a hold.

use super::settling::wait;
use super::*;
use crate::id::{CustomerId, KeyDigest, KeyId, RequestId};
use crate::ledger::{Applied, Budgets, KeyCreated, Ledger, Terms};
use crate::money::Amount;
use crate::usage::Usage;
use futures_util::FutureExt;
use tokio::sync::oneshot;

const CHARGE: Amount = Amount::from_atto_usd(3);

/// A charge on its way to the disk.
async fn charge(ledger: &Arc<Ledger>) -> (Commit, Settled) {
    let (customer, key) = (CustomerId::from_int(7), KeyId::from_int(1));
    let created = KeyCreated { key, digest: KeyDigest([1; 32]), prefix: "".into(), name: "".into() };
    ledger.create_customer(customer, "Ada".into()).await.unwrap();
    ledger.create_key(customer, created).await.unwrap();
    ledger.deposit(customer, CHARGE, "first".into()).await.unwrap();
    let (request, budgets) = (RequestId::from_int(1), Budgets::default());
    let price_version = "1".into();
    let (amount, mark) = (CHARGE, None);
    let terms = Terms { customer, key, request, amount, least: CHARGE, budgets, price_version, mark };
    let (hold, _) = ledger.hold(terms).unwrap();
    let Applied { commit, balance, charged, .. } = hold.capture(CHARGE, Arc::from(&b"{}"[..]));
    let (end, metered, usage) = (End::Complete, Metered::Estimated, Usage::default());
    (commit, Settled { end, metered, usage, charge: charged, cost: None, balance })
}

/// The client's session waits and is cancelled with its client; the log waits after that.
#[tokio::test]
async fn a_settlement_is_told_to_who_waits_after_one_that_was_cancelled() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, _) = Ledger::open(folder.path(), Box::new(|_| {})).unwrap();
    let (go, counted) = oneshot::channel::<()>();
    let charged = charge(&ledger).await;
    let task = tokio::spawn(async move {
        counted.await.unwrap();
        charged
    });
    let settling = tokio::sync::Mutex::new(Settling::Counting(task));
    assert!(wait(&settling).now_or_never().is_none(), "it is still counted, and who waits is cancelled");
    go.send(()).unwrap();
    // Once while it is counted or committed, as it comes; then to the end, and once more.
    drop(wait(&settling).now_or_never());
    for _ in 0..2 {
        let settled = wait(&settling).await.expect("it has ended").expect("the disk is well");
        assert_eq!(settled.charge, CHARGE);
    }
    let open = tokio::sync::Mutex::new(Settling::Open);
    assert!(wait(&open).now_or_never().expect("at once").is_none(), "nothing has ended yet");
}
