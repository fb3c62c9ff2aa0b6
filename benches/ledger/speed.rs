//! Holds and captures, each waited for, beside the same work without fsyncs and beside sled alone.

use super::build::{charge, customer, customers, record, terms};
use super::report::{self, Failed};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tollgate::id::RequestId;
use tollgate::ledger::Ledger;

/// Requests at a time.
const CLIENTS: [u64; 2] = [1, 64];
/// Customers of each client: no two meet in one balance.
const CUSTOMERS: u64 = 64;

/// Measures all three, for one client and for many.
pub fn run(disk: &Path, memory: &Path, length: Duration) -> Result<(), Failed> {
    let unsynced = tempfile::tempdir_in(memory)?;
    for clients in CLIENTS {
        let many = if clients == 1 { "1 client" } else { "64 clients" };
        let mut rates = Vec::new();
        for (what, store) in [("ledger", disk), ("ledger, nothing synced", unsynced.path())] {
            let store = store.join(format!("speed-{clients}"));
            let (rate, mut took) = ledger(&store, clients, length)?;
            let tail = report::percentiles(&mut took);
            report::line(&format!("{what}, {many}"), &format!("{rate} a second, commit {tail}"));
            rates.push(rate);
        }
        let (rate, mut took) = sled_alone(&disk.join(format!("sled-{clients}")), clients, length)?;
        let tail = report::percentiles(&mut took);
        report::line(&format!("sled, flush and sync, {many}"), &format!("{rate} a second, commit {tail}"));
        let ratio =
            |other: u64| format!("{}.{:02}", rates[0] / other.max(1), rates[0] * 100 / other.max(1) % 100);
        let told = format!("{} of it unsynced, {} of sled", ratio(rates[1]), ratio(rate));
        report::line(&format!("  the ledger's rate, {many}"), &told);
    }
    Ok(())
}

type Measured = Result<(u64, Vec<Duration>), Failed>;

/// A hold, then a charge that is waited for: what a plain answer does.
fn ledger(store: &Path, clients: u64, length: Duration) -> Measured {
    let (ledger, _) = Ledger::open(store, Box::new(|_| {})).map_err(|why| why.to_string())?;
    customers(&ledger, CUSTOMERS)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().build()?;
    let begun = Instant::now();
    let numbers = Arc::new(AtomicU64::new(1));
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let (ledger, numbers, record) = (Arc::clone(&ledger), Arc::clone(&numbers), record());
            runtime.spawn(async move {
                let mut took = Vec::new();
                while begun.elapsed() < length {
                    let request = RequestId::new(numbers.fetch_add(1, Ordering::Relaxed), 0);
                    let held = ledger.hold(terms(customer(client), request));
                    let (hold, _) = held.map_err(|why| format!("{why:?}"))?;
                    let waits = Instant::now();
                    let mut commit = hold.capture(charge(), Arc::clone(&record)).commit;
                    commit.durable().await.map_err(|_| "the disk failed".to_owned())?;
                    took.push(waits.elapsed());
                }
                Ok::<_, String>(took)
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(runtime.block_on(task)??);
    }
    let rate = per_second(all.len(), begun.elapsed());
    ledger.close();
    Ok((rate, all))
}

/// The same records in sled: a batch for the hold and a batch for the charge, which is then flushed
/// and, since sled's flush is not an fsync, synced.
fn sled_alone(store: &Path, clients: u64, length: Duration) -> Measured {
    let db = sled::Config::new().path(store).flush_every_ms(None).open()?;
    let file = fs::File::open(store.join("db"))?;
    let begun = Instant::now();
    let client = |client: u64| -> Result<Vec<Duration>, Failed> {
        let (mut took, record) = (Vec::new(), record());
        for number in 0_u64.. {
            if begun.elapsed() >= length {
                break;
            }
            let key = [client.to_be_bytes(), number.to_be_bytes()].concat();
            let balance = number.to_be_bytes();
            let mut held = sled::Batch::default();
            held.insert(&client.to_be_bytes(), &balance);
            held.insert(key.as_slice(), b"held");
            db.apply_batch(held)?;
            let waits = Instant::now();
            let mut charged = sled::Batch::default();
            charged.insert(&client.to_be_bytes(), &balance);
            charged.insert(key.as_slice(), &record[..]);
            db.apply_batch(charged)?;
            db.flush()?;
            file.sync_data()?;
            took.push(waits.elapsed());
        }
        Ok(took)
    };
    let client = &client;
    let outcomes: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..clients).map(|number| scope.spawn(move || client(number))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a client does not panic")).collect()
    });
    let mut all = Vec::new();
    for took in outcomes {
        all.extend(took?);
    }
    Ok((per_second(all.len(), begun.elapsed()), all))
}

fn per_second(count: usize, length: Duration) -> u64 {
    let micros = length.as_micros().max(1);
    u64::try_from(u128::try_from(count).expect("usize fits") * 1_000_000 / micros).unwrap_or(u64::MAX)
}
