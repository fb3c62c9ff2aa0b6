//! Runs: responses that go on in the background when their request has been answered.
//!
//! The hold of a run stays open over restarts and hand-overs, with the prices that were pinned. It is
//! charged by whoever sees first that it has ended: a client that reads it, or [`Runs::keep`], which
//! reads every run again and again, less and less often. So a run is charged also when nobody comes
//! for it, and once.

mod batch;
mod keep;
mod room;
mod said;

use super::context::{BodyBudget, BodyPermit};
use super::fetch::{Fetched, Fetcher};
use super::new_request;
use super::request::is_object_id;
use super::respond::Refusal;
use super::shelf::Shelf;
use crate::clock::Timestamp;
use crate::endpoint::Endpoint;
use crate::id::{CustomerId, RequestId};
use crate::ledger::{Charge, Detached, Failure, Ledger};
use crate::live::{Current, Live};
use crate::meter::{ANSWER_BYTES_MAX, Delivered, tokenizer};
use crate::money::Amount;
use crate::record::metrics::Metrics;
use crate::settle::price::Tier;
use crate::settle::{Ended, Run};
use crate::upstream::Account;
use crate::usage::{Metered, Usage};
use bytes::Bytes;
use http::{Method, StatusCode};
use pingora_http::RequestHeader;
pub(super) use room::Room;
use room::Rooms;
use said::Said;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Answers that are read at once are no larger together.
const ANSWERS_BYTES_MAX: usize = 4 * ANSWER_BYTES_MAX;
/// What a provider may take for a batch, in microseconds; then it tells what was done.
const BATCH_US: i64 = 24 * 60 * 60 * 1_000_000;
/// What a client is told to wait for an account that is not in the configuration any more.
const WAIT: Duration = Duration::from_secs(60);

/// All runs.
pub struct Runs {
    fetcher: Arc<Fetcher>,
    ledger: Arc<Ledger>,
    live: Current,
    metrics: Arc<Metrics>,
    budget: BodyBudget,
    rooms: Arc<Rooms>,
}

/// One run.
#[derive(Clone)]
pub(super) struct Running {
    /// Who pays.
    pub customer: CustomerId,
    /// The request that it was made for.
    pub request: RequestId,
    /// Its name.
    pub object: Arc<str>,
    /// What it will be charged by.
    pub run: Run,
}

/// What a provider is asked about a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// How it stands.
    Read,
    /// To end it.
    Cancel,
}

/// What became of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// It is at work.
    AtWork,
    /// Its provider does not know it, this time.
    Missing,
    /// It has ended, and so has its hold: durable.
    Ended,
}

/// What a run used, and in its provider's words, if those told it.
struct Used {
    usage: Usage,
    tier: Option<Tier>,
    reported: Option<Box<str>>,
}

impl Runs {
    /// The runs of `ledger`.
    pub fn new(ledger: Arc<Ledger>, live: Current, metrics: Arc<Metrics>) -> Self {
        let (fetcher, budget, rooms) = (Arc::default(), BodyBudget::default(), Arc::default());
        Runs { fetcher, ledger, live, metrics, budget, rooms }
    }

    /// Who asks providers for what they keep.
    pub fn fetcher(&self) -> &Arc<Fetcher> {
        &self.fetcher
    }

    /// Takes what the provider says of a run. If it has ended, its hold ends.
    ///
    /// # Errors
    /// When that cannot be made durable.
    pub(super) async fn told(&self, running: &Running, body: &Bytes) -> Result<Told, Failure> {
        if let Some(of) = running.batch_of() {
            return self.told_batch(running, of, body).await;
        }
        match said::of_response(body) {
            Said::AtWork => Ok(Told::AtWork),
            Said::Used { usage, tier, reported } => {
                let reported = Some(reported);
                self.charge(running, Used { usage, tier, reported }).await
            }
            Said::Delivered { delivered, tier } => {
                let (input, web_searches) = (running.run.input_tokens, delivered.searches);
                let output = count_written(&running.run, delivered).await?;
                let usage = Usage { input, output, web_searches, ..Usage::default() };
                self.charge(running, Used { usage, tier, reported: None }).await
            }
            Said::Nothing(end) => self.release(running, end).await,
        }
    }

    async fn charge(&self, running: &Running, used: Used) -> Result<Told, Failure> {
        let Used { usage, tier, reported } = used;
        let ended = running.run.used(usage, tier, reported.as_deref(), Timestamp::now());
        let metered = if reported.is_some() { Metered::Reported } else { Metered::Estimated };
        self.end(running, ended, (usage, metered), Arc::clone(&running.object)).await
    }

    /// Ends the hold of a run by what it comes to, for what is called so from then on.
    async fn end(
        &self,
        running: &Running,
        ended: Ended,
        (usage, metered): (Usage, Metered),
        object: Arc<str>,
    ) -> Result<Told, Failure> {
        let Running { customer, request, run, .. } = running;
        let charge = Charge { amount: ended.charge, cost: ended.cost.unwrap_or(Amount::ZERO) };
        let kept = (ended.record.into(), object);
        let applied = self.ledger.capture_detached(*customer, *request, charge, kept).await?;
        let Some(applied) = applied else { return Ok(Told::Ended) };
        let live = self.live.load();
        self.count(&live, run, (metered, &usage), (applied.charged, ended.cost));
        give_back(&live, run, applied.charged);
        Ok(Told::Ended)
    }

    /// Nothing is due for the run, or nobody says what: it is not charged.
    async fn release(&self, running: &Running, end: &str) -> Result<Told, Failure> {
        let Running { customer, request, run, .. } = running;
        let record = run.untold(end, Timestamp::now()).into();
        if self.ledger.release_detached(*customer, *request, record).await?.is_some() {
            let upstream = run.upstream();
            tracing::warn!(%request, upstream, end, "a run in the background is not charged");
            let live = self.live.load();
            self.count(&live, run, (Metered::None, &Usage::default()), (Amount::ZERO, None));
            give_back(&live, run, Amount::ZERO);
        }
        Ok(Told::Ended)
    }

    fn count(
        &self,
        live: &Live,
        run: &Run,
        (metered, usage): (Metered, &Usage),
        (charge, cost): (Amount, Option<Amount>),
    ) {
        let prices = live.config.prices.at(Timestamp::now());
        let model = prices.find(&run.model).map_or("other", |(name, _)| name);
        self.metrics.charged(model, metered, usage, charge);
        if let Some(cost) = cost {
            self.metrics.cost(model, run.upstream(), cost);
        }
    }

    /// Asks the account of a run and takes what it says.
    ///
    /// # Errors
    /// When it cannot be asked, or the end of the run cannot be made durable.
    pub(super) async fn ask(&self, running: &Running, ask: Ask) -> Result<Told, Refusal> {
        let live = self.live.load_full();
        let account = account_of(&live, &running.run).ok_or(Refusal::UpstreamUnavailable { wait: WAIT })?;
        let (method, part) = match ask {
            Ask::Read => (Method::GET, ""),
            Ask::Cancel => (Method::POST, "/cancel"),
        };
        let path = running.path(account, part);
        let asks = RequestHeader::build(method, path.as_bytes(), None).map_err(|_| Refusal::Overloaded)?;
        let mut permit: BodyPermit = self.budget.begin(ANSWERS_BYTES_MAX);
        let fetched = self.fetcher.fetch(&asks, new_request(), (account, &path), &mut permit).await?;
        let Fetched { header, body } = fetched;
        match header.status {
            StatusCode::NOT_FOUND => Ok(Told::Missing),
            status if status.is_success() => self.told(running, &body).await.map_err(|_| Refusal::Overloaded),
            _ => Ok(Told::AtWork),
        }
    }
}

impl Running {
    /// Of what the ledger keeps of it.
    pub fn of(customer: CustomerId, request: RequestId, detached: &Detached) -> Option<Self> {
        let run = serde_json::from_slice(&detached.record).ok()?;
        let object = Arc::clone(&detached.object);
        let running = Running { customer, request, object, run };
        is_object_id(running.id()).then_some(running)
    }

    /// As its provider calls it.
    fn id(&self) -> &str {
        self.object.split_once('/').map_or(&*self.object, |(_, id)| id)
    }

    /// Where its account has it, and `part` of it.
    fn path(&self, account: &Account, part: &str) -> String {
        let below = ["/", self.id(), part].concat();
        match self.run.lines {
            Some(_) => Shelf::Batches.path(account, &below),
            None => account.path_of_kept(&below, None),
        }
    }

    /// Of a batch, which endpoint each of its requests is for.
    fn batch_of(&self) -> Option<Endpoint> {
        let of = self.run.lines.as_ref()?;
        Endpoint::ALL.into_iter().find(|endpoint| endpoint.name() == &**of)
    }

    /// When its time began to run: a batch has a day of its provider's before.
    fn patience_since(&self) -> Timestamp {
        match self.run.lines {
            Some(_) => Timestamp::from_micros(self.run.begun.micros().saturating_add(BATCH_US)),
            None => self.run.begun,
        }
    }
}

/// Tokens of what a run wrote, where its provider does not say.
async fn count_written(run: &Run, delivered: Delivered) -> Result<u64, Failure> {
    let encoding = run.encoding;
    let counted = tokio::task::spawn_blocking(move || tokenizer::count_delivered(encoding, &delivered));
    counted.await.map_err(|_| Failure::Busy)
}

fn account_of<'a>(live: &'a Live, run: &Run) -> Option<&'a Arc<Account>> {
    live.pool.accounts().iter().find(|account| *account.name == *run.upstream())
}

/// What the run took of its account's spend and did not use.
fn give_back(live: &Live, run: &Run, used: Amount) {
    let age_us = Timestamp::now().micros().saturating_sub(run.begun.micros());
    let age = Duration::from_micros(u64::try_from(age_us).unwrap_or_default());
    if let Some(account) = account_of(live, run) {
        account.known_late((run.most, used), age, Instant::now());
    }
}
