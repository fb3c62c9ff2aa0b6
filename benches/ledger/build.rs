//! Builds the store: customers in turn, each request a hold and a charge.

use super::Options;
use super::report::{self, Failed};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tollgate::id::{CustomerId, KeyDigest, KeyId, RequestId};
use tollgate::ledger::{Budgets, KeyCreated, Ledger, Terms};
use tollgate::money::Amount;

/// Requests between two waits for the disk.
const STRIDE: u64 = 4_096;
/// The millisecond of the first request; each comes one after the other.
const BEGIN_MS: u64 = 1_760_000_000_000;
/// What a request is recorded with: the size of an ordinary receipt.
const RECORD: &str = r#"{"endpoint":"chat_completions","model":"gpt-4o-mini","stream":true,"status":200,"end":"complete","metered":"reported","usage":{"input":812,"cached_input":1024,"cache_write":0,"cache_write_1h":0,"cache_write_12h":0,"output":271,"reasoning":0},"lines":[{"class":"input","quantity":812,"unit_price":"0.15","amount":"0.0001218"},{"class":"cached_input","quantity":1024,"unit_price":"0.075","amount":"0.0000768"},{"class":"output","quantity":271,"unit_price":"0.60","amount":"0.0001626"}],"attempts":[{"upstream":"openai-1","outcome":"ok","status":200,"ms":1834}],"first_byte_ms":412,"duration_ms":1851,"reported":{"prompt_tokens":1836,"completion_tokens":271,"total_tokens":2107,"prompt_tokens_details":{"cached_tokens":1024,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}"#;

/// One millionth of a dollar.
pub fn charge() -> Amount {
    Amount::from_atto_usd(1_000_000_000_000)
}

/// The customer of this number.
pub fn customer(number: u64) -> CustomerId {
    CustomerId::from_int(number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// The request of this number, as the gateway would name it.
pub fn request(number: u64) -> RequestId {
    let random = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    RequestId::new(BEGIN_MS + number, random)
}

/// What a request of this customer holds.
pub fn terms(owner: CustomerId, request: RequestId) -> Terms {
    let key = KeyId::from_int(owner.int());
    let (amount, budgets, price_version) = (charge(), Budgets::default(), "2026-11-23".into());
    Terms { customer: owner, key, request, amount, least: amount, budgets, price_version, mark: None }
}

/// What a charge is recorded with.
pub fn record() -> Arc<[u8]> {
    RECORD.as_bytes().into()
}

/// Makes customers with a key and enough credit.
pub fn customers(ledger: &Ledger, count: u64) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        for number in 0..count {
            let (owner, mut digest) = (customer(number), [0; 32]);
            digest[..8].copy_from_slice(&number.to_le_bytes());
            let (name, prefix) = ("bench".into(), "tg_live_".into());
            let key = KeyId::from_int(owner.int());
            let key = KeyCreated { key, digest: KeyDigest(digest), prefix, name };
            let million = Amount::parse("1000000.00").expect("an amount");
            let made = async {
                ledger.create_customer(owner, "bench".into()).await?;
                ledger.create_key(owner, key).await?;
                ledger.deposit(owner, million, "first".into()).await
            };
            made.await.map_err(|why| format!("a customer is refused: {why:?}"))?;
        }
        Ok(())
    })
}

/// Builds the store.
pub fn run(store: &Path, options: &Options) -> Result<(), Failed> {
    let begun = Instant::now();
    let (ledger, _) = Ledger::open(store, Box::new(|_| {})).map_err(|why| why.to_string())?;
    customers(&ledger, options.customers)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let record = record();
    for number in 0..requests(options) {
        let owner = customer(number % options.customers);
        let (hold, _) = ledger.hold(terms(owner, request(number))).map_err(|why| format!("{why:?}"))?;
        let mut commit = hold.capture(charge(), Arc::clone(&record)).commit;
        if number % STRIDE == STRIDE - 1 {
            runtime.block_on(commit.durable()).map_err(|_| "the disk failed")?;
        }
    }
    ledger.close();
    report::line("built", &format!("{} entries in {:.0?}", options.entries, begun.elapsed()));
    for (kind, bytes) in report::sizes(store)? {
        report::line(&format!("  {kind}"), &report::mebibytes(bytes));
    }
    Ok(())
}

/// Requests of a store of so many entries.
pub fn requests(options: &Options) -> u64 {
    (options.entries / 2).max(1)
}
