//! What the ledger says, held against what clients received and what the provider served.

use super::load::Outcome;
use super::support::{Gateway, PATIENCE, Site, TOKEN};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use tollgate::id::{CustomerId, RequestId};
use tollgate::ledger::{Change, Entry, Expired, Ledger, Release, Seq, Window};
use tollgate::money::Amount;
use tollgate::record::receipt::Receipt;
use tollgate::simulate::Served;
use tollgate::usage::Metered;

/// More than a campaign can spend.
const PLENTY: Credit = Credit { deposit: "1000.00", overdraft: "0", each_round: "0.50" };
/// Entries read at once.
const PAGE: usize = 1_000;

/// Customers and what was paid in for them.
pub struct Books {
    customers: Vec<CustomerId>,
    deposits: Vec<i128>,
    credit: Credit,
    /// One for each customer.
    pub keys: Vec<String>,
}

/// What a customer begins with, in USD.
#[derive(Clone, Copy)]
pub struct Credit {
    pub deposit: &'static str,
    /// What they may owe.
    pub overdraft: &'static str,
    /// What is paid in for one of them in a round.
    pub each_round: &'static str,
}

/// What a full audit found.
pub struct Audit {
    /// Complete answers whose charge is what was served.
    pub verified: usize,
    pub captures: u64,
    pub expired: u64,
    /// The least that was free after any entry.
    pub lowest: i128,
}

impl Books {
    pub fn create(site: &Site, gateway: &Gateway, customers: usize) -> Books {
        Books::with(site, gateway, customers, PLENTY)
    }

    pub fn with(site: &Site, gateway: &Gateway, customers: usize, credit: Credit) -> Books {
        let mut books = Books { customers: Vec::new(), deposits: Vec::new(), credit, keys: Vec::new() };
        for number in 0..customers {
            let created = post(site, gateway, "customers", &json!({ "name": format!("customer {number}") }));
            let customer = &created["id"];
            let deposit = json!({ "customer": customer, "amount": credit.deposit, "reference": "first" });
            post(site, gateway, "deposits", &deposit);
            let overdraft = format!("customers/{}/overdraft", customer.as_str().expect("an id"));
            post(site, gateway, &overdraft, &json!({ "amount": credit.overdraft }));
            let key = post(site, gateway, "keys", &json!({ "customer": customer, "name": "crash" }));
            books.keys.push(key["key"].as_str().expect("shown once").to_owned());
            books.customers.push(CustomerId::parse(customer.as_str().expect("an id")).expect("an id"));
            books.deposits.push(atto(credit.deposit));
        }
        books
    }

    /// No balance is below it.
    fn floor(&self) -> i128 {
        -atto(self.credit.overdraft)
    }

    fn deposit_of_round(&self, number: u64) -> (usize, Value) {
        let place = usize::try_from(number).expect("small") % self.customers.len();
        let reference = format!("round {number}");
        let amount = self.credit.each_round;
        (place, json!({ "customer": self.customers[place], "amount": amount, "reference": reference }))
    }

    /// Pays in while the gateway is about to be killed: what comes of it is not heard.
    pub fn pay_in_unheard(&self, site: &Site, gateway: &Gateway, number: u64) {
        let (_, deposit) = self.deposit_of_round(number);
        let request = site.http.post(format!("{}/deposits", gateway.admin)).bearer_auth(TOKEN).json(&deposit);
        site.runtime.spawn(async move { drop(request.send().await) });
    }

    /// Pays in by the same reference: once, whatever came of it before.
    pub fn pay_in_again(&mut self, site: &Site, gateway: &Gateway, number: u64) {
        let (place, deposit) = self.deposit_of_round(number);
        let first = post(site, gateway, "deposits", &deposit);
        let again = post(site, gateway, "deposits", &deposit);
        assert_eq!(first["entry_id"], again["entry_id"], "one deposit");
        self.deposits[place] += atto(self.credit.each_round);
    }

    /// What clients received in a round is in the books of the gateway that was started after it.
    pub fn check_round(&self, site: &Site, gateway: &Gateway, seen: &[Outcome], told: &str) {
        let log = site.provider.log();
        let served = complete(&log);
        for outcome in seen {
            // The hold of any answer that began is durable.
            let receipt: Receipt = get(site, gateway, &format!("receipts/{}", outcome.request));
            assert!(matches!(&*receipt.status, "captured" | "expired"), "{told}: {receipt:?}");
            if outcome.complete {
                check_charged(outcome, &receipt, &served, told);
            }
        }
    }

    /// All of the books, after the gateway has ended.
    pub fn audit(&self, site: &Site, outcomes: &[Outcome]) -> Audit {
        let verified = site.verify_stopped();
        assert_eq!(verified["open_holds"], 0, "I4");
        assert!(!site.complaints().contains("panicked"), "{}", site.complaints());
        let log = site.provider.log();
        assert_eq!(site.provider.log_dropped(), 0);
        let served = complete(&log);

        let (ledger, recovered) = Ledger::open(&site.store(), Box::new(|_| {})).expect("a good store");
        assert_eq!(
            (recovered.expired, recovered.torn_bytes, recovered.rebuilt),
            (Expired::default(), 0, None)
        );
        let mut receipts = HashMap::new();
        let (mut captures, mut expired, mut lowest) = (0, 0, i128::MAX);
        for (customer, deposited) in self.customers.iter().zip(&self.deposits) {
            let requests = self.by_request(&ledger, *customer, &mut lowest);
            let mut charged = 0;
            for (request, entries) in requests {
                let receipt = Receipt::from_entries(&entries).expect("it begins with its hold");
                match check_end(&entries, &receipt) {
                    Ended::Captured => {
                        assert_eq!(receipt.charge.atto_usd(), due(&served, &request), "I10: {receipt:?}");
                        captures += 1;
                    }
                    Ended::Broken => captures += 1,
                    Ended::Expired => {
                        assert_eq!(receipt.charge, Amount::ZERO);
                        expired += 1;
                    }
                }
                charged += receipt.charge.atto_usd();
                receipts.insert(request, receipt);
            }
            let balance = ledger.customer(*customer, |found| found.balance).expect("known");
            assert_eq!(balance.held, Amount::ZERO, "I4");
            assert_eq!(balance.available.atto_usd(), deposited - charged, "I2, I7: {customer}");
        }
        assert_eq!(verified["captures"], captures);
        let mut counted = 0;
        for outcome in outcomes.iter().filter(|outcome| outcome.complete) {
            let receipt = receipts.get(&outcome.request).unwrap_or_else(|| panic!("I6: {outcome:?}"));
            check_charged(outcome, receipt, &served, "at the end");
            counted += 1;
        }
        Audit { verified: counted, captures, expired, lowest }
    }

    /// All entries of a customer's requests, in order; each balance is checked on the way.
    fn by_request(
        &self,
        ledger: &Ledger,
        customer: CustomerId,
        lowest: &mut i128,
    ) -> BTreeMap<String, Vec<Entry>> {
        let mut requests: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
        let mut after = Seq::START;
        loop {
            let page = ledger
                .entries_of_customer(customer, Window { after, ..Window::default() }, PAGE)
                .expect("readable");
            let Some(last) = page.last() else { return requests };
            after = last.seq;
            for entry in page {
                let Amounts { available, held } = Amounts::of(&entry);
                assert!(
                    available >= self.floor() && held >= 0,
                    "I3: never below {}: {entry:?}",
                    self.floor()
                );
                *lowest = available.min(*lowest);
                if let Some(request) = entry.change.request() {
                    requests.entry(RequestId::to_string(&request)).or_default().push(entry);
                }
            }
        }
    }
}

/// Answers that the provider served to their end, by request.
fn complete(log: &[Served]) -> HashMap<&str, Vec<&Served>> {
    let mut served: HashMap<&str, Vec<&Served>> = HashMap::new();
    for entry in log.iter().filter(|entry| entry.complete && entry.status == 200) {
        served.entry(&entry.request).or_default().push(entry);
    }
    served
}

/// What the provider served for a request costs, by prices that are written out here again: units
/// of 1e-18 USD for one token.
fn due(served: &HashMap<&str, Vec<&Served>>, request: &str) -> i128 {
    let served = served.get(request).unwrap_or_else(|| panic!("I10: {request} was charged, and not served"));
    assert_eq!(served.len(), 1, "{request} was served once: {served:?}");
    let entry = served[0];
    let tokens = |count: u64, price: i128| i128::from(count) * price;
    tokens(entry.prompt_tokens - entry.cached_tokens, 150_000_000_000)
        + tokens(entry.cached_tokens, 75_000_000_000)
        + tokens(entry.completion_tokens - entry.reasoning_tokens, 600_000_000_000)
        + tokens(entry.reasoning_tokens, 650_000_000_000)
}

fn check_charged(outcome: &Outcome, receipt: &Receipt, served: &HashMap<&str, Vec<&Served>>, told: &str) {
    assert_eq!(&*receipt.status, "captured", "{told}: I6: {outcome:?} {receipt:?}");
    assert_eq!(receipt.charge.atto_usd(), due(served, &outcome.request), "{told}: I10: {receipt:?}");
    assert_eq!(receipt.charge, receipt.lines.iter().map(|line| line.amount).sum(), "{told}: {receipt:?}");
    assert_eq!(&*receipt.end, "complete", "{told}: {receipt:?}");
    assert_eq!(outcome.charge.is_some(), !outcome.streamed, "{told}: {outcome:?}");
    if let Some(charge) = &outcome.charge {
        assert_eq!(*charge, receipt.charge.to_string(), "{told}: what the answer said");
    }
}

enum Ended {
    /// By what was reported.
    Captured,
    /// By a kill, and charged as far as it had come when its hold was extended; or as no more could be held,
    /// and charged as far as it had come.
    Broken,
    /// By a kill.
    Expired,
}

/// A hold, which may be extended, and exactly one end, each of the three ways that there are here.
fn check_end(entries: &[Entry], receipt: &Receipt) -> Ended {
    let mut changes = entries.iter().map(|entry| &entry.change).peekable();
    let Some(Change::Held { amount, .. }) = changes.next() else { panic!("{entries:?}") };
    let (mut held, mut so_far) = (*amount, None);
    // A stream that began on the last of the credit holds more as soon as there is more.
    while let Some(Change::Extended { total, progress, .. }) =
        changes.next_if(|change| matches!(change, Change::Extended { .. }))
    {
        assert!(*total > held, "{entries:?}");
        (held, so_far) = (*total, progress.as_ref().map(|progress| progress.charge.amount));
    }
    let end = changes.next().unwrap_or_else(|| panic!("I4: never ended: {entries:?}"));
    assert_eq!(changes.next(), None, "I4: ended twice, or above its hold: {entries:?}");
    match end {
        Change::Captured { amount, released, .. } => {
            assert_eq!(*amount + *released, held, "I5");
            if receipt.metered == Metered::Reported {
                return Ended::Captured;
            }
            // A stream on the last of the credit may need more for its first words than there is.
            match &*receipt.end {
                "credit_ended" => assert!(so_far.is_none_or(|so_far| *amount >= so_far), "{receipt:?}"),
                _ => assert_eq!(so_far, Some(*amount), "as far as it was known: {receipt:?}"),
            }
            Ended::Broken
        }
        Change::Released { amount, reason: Release::Expired, .. } => {
            assert_eq!(*amount, held, "I5");
            Ended::Expired
        }
        other => panic!("an end that nothing here could cause: {other:?}"),
    }
}

struct Amounts {
    available: i128,
    held: i128,
}

impl Amounts {
    fn of(entry: &Entry) -> Amounts {
        Amounts { available: entry.balance.available.atto_usd(), held: entry.balance.held.atto_usd() }
    }
}

fn atto(amount: &str) -> i128 {
    Amount::parse(amount).expect("an amount").atto_usd()
}

fn post(site: &Site, gateway: &Gateway, path: &str, body: &Value) -> Value {
    let request = site.http.post(format!("{}/{path}", gateway.admin)).json(body);
    read(site, request)
}

fn get<T: serde::de::DeserializeOwned>(site: &Site, gateway: &Gateway, path: &str) -> T {
    read(site, site.http.get(format!("{}/{path}", gateway.admin)))
}

fn read<T: serde::de::DeserializeOwned>(site: &Site, request: reqwest::RequestBuilder) -> T {
    site.block_on(async {
        let answer = request.bearer_auth(TOKEN).timeout(PATIENCE).send().await.expect("the gateway answers");
        let status = answer.status();
        let body = answer.bytes().await.expect("the gateway answers");
        assert!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).expect("JSON")
    })
}
