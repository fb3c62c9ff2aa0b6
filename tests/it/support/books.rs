//! The books after the end: verified, and held against what the provider says it served.

use super::gateway::{Gateway, TOKEN, json_of, run};
use super::provider::Simulated;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use tollgate::config;
use tollgate::id::RequestId;
use tollgate::ledger::{Entry, Ledger, Seq, Window};
use tollgate::money::Amount;
use tollgate::record::receipt::Receipt;
use tollgate::settle::price::books::PriceBooks;
use tollgate::settle::price::{Picture, Tier};
use tollgate::settle::settle;
use tollgate::simulate::Served;
use tollgate::usage::{Class, Metered};

/// What the books say.
#[derive(Debug)]
pub struct Audit {
    /// What `ledger verify` printed.
    pub verified: Value,
    /// All requests that had a hold.
    pub receipts: Vec<Receipt>,
    /// Charges that are what the provider reported.
    pub reported: usize,
    /// Charges that are what was delivered.
    pub estimated: usize,
    /// Requests that cost nothing.
    pub released: usize,
    /// What was noted of files, and cost nothing.
    pub noted: usize,
    /// Answers that the provider sent to their end, and nobody paid for.
    pub unpaid: usize,
    /// The sum of all charges.
    pub charged: Amount,
}

impl Audit {
    /// This many requests were charged, each exactly what the provider served, and nothing else was.
    #[track_caller]
    pub fn is_exact(&self, reported: usize) {
        self.counts(reported, 0, 0);
        assert_eq!(self.unpaid, 0, "served to the end, and not charged: {self:#?}");
    }

    /// This many requests ended in each way.
    #[track_caller]
    pub fn counts(&self, reported: usize, estimated: usize, released: usize) {
        let counts = (self.reported, self.estimated, self.released);
        assert_eq!(counts, (reported, estimated, released), "{self:#?}");
    }
}

/// Stops the gateway, verifies its store and compares every charge with the providers' logs (I10).
#[track_caller]
pub fn audit(mut gateway: Gateway, providers: &[&Simulated]) -> Audit {
    let status = gateway.stop();
    assert_eq!(status.code(), Some(0), "{}", gateway.output());
    audit_stopped(&gateway, providers)
}

/// The same for a gateway that was stopped.
#[track_caller]
pub fn audit_stopped(gateway: &Gateway, providers: &[&Simulated]) -> Audit {
    let store = gateway.store();
    let output = run(&["ledger", "verify", "--store", store.to_str().unwrap(), "--json"], &[], "");
    let verified = json_of(&output);
    assert_eq!((&verified["ok"], &verified["open_holds"]), (&Value::from(true), &Value::from(0)));

    let environment = |name: &str| (name == "TOLLGATE_ADMIN_TOKEN").then(|| TOKEN.to_owned());
    let prices = config::load_with(&gateway.config(), &environment).unwrap().prices;
    let receipts = receipts(gateway);
    let log: Vec<Served> = providers.iter().flat_map(|provider| provider.provider.log()).collect();
    let mut served: HashMap<&str, Vec<&Served>> = HashMap::new();
    for entry in log.iter().filter(|entry| entry.complete && entry.status == 200) {
        served.entry(&entry.request).or_default().push(entry);
    }
    let mut audit = Audit {
        verified,
        receipts: Vec::new(),
        reported: 0,
        estimated: 0,
        released: 0,
        noted: 0,
        unpaid: 0,
        charged: Amount::ZERO,
    };
    for receipt in &receipts {
        audit.charged += receipt.charge;
        let complete = served.remove(&*receipt.request_id.to_string()).unwrap_or_default();
        if &*receipt.endpoint == "batches" && receipt.metered == Metered::Reported {
            audit.reported += 1;
            check_batch(receipt, &complete, &prices);
            continue;
        }
        match receipt.metered {
            Metered::Reported | Metered::Counted => {
                audit.reported += 1;
                // A scripted provider has no log.
                if !providers.is_empty() {
                    assert_eq!(complete.len(), 1, "one answer for one charge: {receipt:#?} {complete:#?}");
                    assert_eq!(receipt.usage, complete[0].usage(), "{receipt:#?}");
                    let tier = receipt.service_tier.as_deref().unwrap_or("default");
                    assert_eq!(tier, complete[0].service_tier, "{receipt:#?}");
                }
            }
            Metered::Estimated => audit.estimated += 1,
            Metered::None
                if ["files", "batches"].contains(&&*receipt.endpoint) && &*receipt.status == "captured" =>
            {
                audit.noted += 1;
                assert_eq!(receipt.charge, Amount::ZERO);
            }
            Metered::None => {
                audit.released += 1;
                audit.unpaid += complete.iter().filter(|served| !served.usage().is_none()).count();
                assert_eq!(receipt.charge, Amount::ZERO);
            }
        }
        check_arithmetic(receipt, &prices);
    }
    // What is kept is read free of charge.
    let unpaid = |served: &&&Served| !served.usage().is_none();
    audit.unpaid += served.values().flatten().filter(unpaid).count();
    audit.receipts = receipts;
    let captures = audit.reported + audit.estimated + audit.noted;
    assert_eq!(audit.verified["captures"], Value::from(captures));
    let written_off: Amount = audit.receipts.iter().map(|receipt| receipt.written_off).sum();
    assert_eq!(audit.verified["revenue"], Value::from((audit.charged + written_off).to_string()));
    assert_eq!(audit.verified["written_off"], Value::from(written_off.to_string()));
    audit
}

/// What is charged for a batch is what each of its answers costs alone, as the provider served it.
#[track_caller]
fn check_batch(receipt: &Receipt, complete: &[&Served], prices: &PriceBooks) {
    let answers: Vec<&&Served> = complete.iter().filter(|served| served.service_tier == "batch").collect();
    assert!(!answers.is_empty(), "{receipt:#?}");
    let book = prices.named(&receipt.price_version).unwrap_or_else(|| prices.at(receipt.at));
    let tariff = &book.find(&receipt.model).unwrap().1.price;
    let alone =
        answers.iter().map(|served| settle(&served.usage(), Tier::Batch, &Picture::default(), tariff).charge);
    assert_eq!(receipt.charge + receipt.written_off, alone.sum(), "{receipt:#?}");
    let mut left = receipt.usage;
    for served in &answers {
        for class in Class::ALL {
            *left.of_mut(class) -= served.usage().of(class);
        }
    }
    assert!(left.is_none(), "{left:?}: {receipt:#?}");
}

/// What is charged and what is written off is the usage at the pinned prices.
#[track_caller]
fn check_arithmetic(receipt: &Receipt, prices: &PriceBooks) {
    if receipt.metered == Metered::None {
        return;
    }
    let tier = receipt.service_tier.as_deref().map_or(Tier::Default, |tier| Tier::named(tier).unwrap());
    // A book that a reload replaced had the same rates, but for its name.
    let book = prices.named(&receipt.price_version).unwrap_or_else(|| prices.at(receipt.at));
    let picture = Picture::said(receipt.image_size.as_deref(), receipt.image_quality.as_deref());
    let due = settle(&receipt.usage, tier, &picture, &book.find(&receipt.model).unwrap().1.price);
    assert_eq!(receipt.charge + receipt.written_off, due.charge, "{receipt:#?}");
    assert_eq!(receipt.lines, due.lines, "{receipt:#?}");
}

/// All receipts of all customers, from the store itself.
fn receipts(gateway: &Gateway) -> Vec<Receipt> {
    let (ledger, recovered) = Ledger::open(&gateway.store(), Box::new(|_| {})).unwrap();
    assert_eq!(recovered.rebuilt, None);
    let mut customers = Vec::new();
    ledger.each_customer(|id, _| customers.push(id));
    let mut entries: BTreeMap<RequestId, Vec<Entry>> = BTreeMap::new();
    for customer in customers {
        let mut after = Seq::START;
        loop {
            let page =
                ledger.entries_of_customer(customer, Window { after, ..Window::default() }, 10_000).unwrap();
            let Some(last) = page.last() else { break };
            after = last.seq;
            for entry in page {
                if let Some(request) = entry.change.request() {
                    entries.entry(request).or_default().push(entry);
                }
            }
        }
    }
    entries.into_values().map(|entries| Receipt::from_entries(&entries).unwrap()).collect()
}
