//! Batches: requests in a file that are answered within a day, for less; each judged before it is sent.
//!
//! A batch is made at the account that has its file, whose words were judged when it was uploaded. The most
//! that all its requests can cost at the prices of batches is held, and stays held until it has ended; what
//! their answers say that they used is charged then, by whoever sees it first ([`runs`](super::runs)).

use super::context::Context;
use super::fetch::Opened;
use super::request::batch::{self, Batch};
use super::request::{BadRequest, is_object_id, lines};
use super::respond::Refusal;
use super::shelf::{Asked, Shelf};
use super::{Gateway, body, local};
use crate::auth::Caller;
use crate::clock::{Tick, Timestamp};
use crate::endpoint::BATCHES;
use crate::ledger::{Detached, Hold, Terms};
use crate::live::Live;
use crate::money::Amount;
use crate::settle::price::{ModelPrice, Tier};
use crate::settle::{Attempt, Run};
use crate::upstream::Account;
use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};
use pingora_http::RequestHeader;
use pingora_proxy::Session;
use serde::Deserialize;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a client is told to wait when nobody knows better.
const WAIT: Duration = Duration::from_secs(1);

/// A batch that passed: what it may cost, and by which prices.
struct Judged {
    model: Box<str>,
    price: Arc<ModelPrice>,
    version: Arc<str>,
    most: Amount,
}

impl Gateway {
    /// `/v1/batches` and below.
    pub(super) async fn answer_batches(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        asked: &Asked<'_>,
    ) -> Result<(), Refusal> {
        match asked {
            Asked::All if session.req_header().method == Method::POST => {
                self.create_batch(session, ctx).await
            }
            Asked::All => self.answer_page(session, ctx, Shelf::Batches).await,
            Asked::One(id) => self.answer_batch(session, ctx, (id, "")).await,
            Asked::Part(id) => self.answer_batch(session, ctx, (id, "/cancel")).await,
        }
    }

    async fn create_batch(&self, session: &mut Session, ctx: &mut Context) -> Result<(), Refusal> {
        let live = Arc::clone(&ctx.live);
        let caller = self.pass(session, ctx, BATCHES)?;
        if self.ledger.is_down() || self.ledger.is_full() {
            return Err(Refusal::Overloaded);
        }
        let mut permit = self.budget.begin(live.config.gateway.body_bytes_total_max);
        let body = body::read(session, &live.config.gateway, &mut permit).await?;
        let asked = Batch::read(&body)?;
        let (account, _) = self.on_shelf(&caller, &live, Shelf::Files, &asked.file).await?;
        let _room = self.runs.room(caller.customer())?;
        let (_, made) = self.shelf(&caller, Shelf::Batches).await?;
        let most = live.config.gateway.files_per_customer_max;
        if made >= most {
            let message =
                format!("{most} batches were made in 30 days, which is the most. Make larger ones.");
            return Err(BadRequest { message, param: None }.into());
        }
        let file = self.read_input(ctx, account, &asked.file, &mut permit).await?;
        let judged = self.judge_batch(&live, file, &asked).await?;
        if account.serves(asked.endpoint, &judged.model) != Some(&*judged.model) {
            return Err(Refusal::UnknownModel(judged.model));
        }
        let budgets = match &mut ctx.passed {
            Some(passed) => {
                // A batch has limits of its own at its provider: tokens a minute say nothing of it.
                passed.demand(&judged.model, 0, Tick::now())?;
                passed.budgets()
            }
            None => Default::default(),
        };
        let mark = self.mark(&session.req_header().headers, caller.customer(), asked.endpoint, &body).await?;
        let terms = Terms {
            customer: caller.customer(),
            key: caller.key(),
            request: ctx.request,
            amount: judged.most,
            least: judged.most,
            budgets,
            price_version: judged.version,
            mark,
        };
        let held = self.admission.hold_exactly(terms).await;
        let (hold, _, _claim) = held.map_err(|why| Refusal::not_admitted(why, &judged.model))?;
        let (began, at) = (Instant::now(), Timestamp::now());
        let path = Shelf::Batches.path(account, "");
        let asks = (session.req_header(), body);
        let said = self.fetcher.send(asks, ctx.request, (account, &path), &mut permit).await?;
        if said.header.status.is_success() {
            let told = serde_json::from_slice::<Told>(&said.body).ok().filter(|told| is_object_id(&told.id));
            let Some(Told { id }) = told else {
                tracing::warn!(
                    upstream = &*account.name,
                    "an upstream account took a batch and gave it no name"
                );
                return Err(Refusal::UpstreamUnavailable { wait: WAIT });
            };
            let run = run(&asked, judged.model, &judged.price, (account, began, at));
            detach(hold, &id, &run).await?;
        }
        local::pass_on(session, ctx, said).await
    }

    /// What is in the file of a batch: no more than its customer could upload.
    async fn read_input(
        &self,
        ctx: &Context,
        account: &Account,
        id: &str,
        permit: &mut super::context::BodyPermit,
    ) -> Result<Bytes, Refusal> {
        let path = Shelf::Files.path(account, &["/", id, "/content"].concat());
        let asks = RequestHeader::build(Method::GET, path.as_bytes(), None);
        let asks = asks.map_err(|_| Refusal::Overloaded)?;
        let mut opened: Opened<'_> = self.fetcher.open(&asks, ctx.request, (account, &path)).await?;
        match opened.header.status {
            StatusCode::NOT_FOUND => return Err(Shelf::Files.nothing(id)),
            status if status.is_success() => {}
            _ => return Err(Refusal::UpstreamUnavailable { wait: WAIT }),
        }
        let mut file = BytesMut::new();
        let read = async {
            while let Some(piece) =
                opened.next().await.map_err(|_| Refusal::UpstreamUnavailable { wait: WAIT })?
            {
                file.extend_from_slice(&piece);
                if !permit.grow(piece.len()) || file.len() > ctx.live.config.gateway.body_bytes_max {
                    return Err(Refusal::Overloaded);
                }
            }
            Ok(())
        };
        tokio::time::timeout(account.timeouts.total, read).await.unwrap_or(Err(Refusal::UpstreamTimeout))?;
        Ok(file.freeze())
    }

    /// Judges every request of a batch, on a thread that serves none.
    async fn judge_batch(&self, live: &Arc<Live>, file: Bytes, asked: &Batch) -> Result<Judged, Refusal> {
        let (live, endpoint) = (Arc::clone(live), asked.endpoint);
        let judged = tokio::task::spawn_blocking(move || {
            let common = lines::read(&file, |_| Ok(()))?;
            let prices = live.config.prices.at(Timestamp::now());
            let found = prices.find(&common.model);
            let (_, price) = found.ok_or_else(|| Refusal::UnknownModel(common.model.clone()))?;
            let most = batch::charge_max(&file, endpoint, price)?;
            let (price, version) = (Arc::clone(price), Arc::clone(&prices.version));
            Ok(Judged { model: common.model, price, version, most })
        });
        judged.await.map_err(|_| Refusal::Overloaded)?
    }

    /// One batch, or its cancellation: if it has ended, it is charged before that is told.
    async fn answer_batch(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        (id, below): (&str, &str),
    ) -> Result<(), Refusal> {
        let live = Arc::clone(&ctx.live);
        let caller: Caller = self.pass(session, ctx, BATCHES)?;
        let (account, kept) = self.on_shelf(&caller, &live, Shelf::Batches, id).await?;
        let mut permit = self.budget.begin(live.config.gateway.body_bytes_total_max);
        // What is cancelled needs no words; what comes with it is not kept.
        body::read(session, &live.config.gateway, &mut permit).await?;
        let path = Shelf::Batches.path(account, &["/", id, below].concat());
        let asks = session.req_header();
        let said = self.fetcher.fetch(asks, ctx.request, (account, &path), &mut permit).await?;
        if let Some(running) = kept.running.filter(|_| said.header.status.is_success()) {
            self.runs.told(&running, &said.body).await.map_err(|_| Refusal::Overloaded)?;
        }
        local::pass_on(session, ctx, said).await
    }
}

/// What the ledger keeps of a batch while it is at work.
fn run(
    asked: &Batch,
    model: Box<str>,
    price: &ModelPrice,
    (account, began, at): (&Account, Instant, Timestamp),
) -> Run {
    let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let status = Some(StatusCode::OK.as_u16());
    Run {
        endpoint: BATCHES.into(),
        lines: Some(asked.endpoint.name().into()),
        model,
        tier: Tier::Batch,
        output_cap: None,
        attempts: vec![Attempt { upstream: (*account.name).into(), outcome: "ok".into(), status, ms }],
        begun: at,
        // Nothing was taken of what the account may spend.
        most: Amount::ZERO,
        input_tokens: 0,
        encoding: price.encoding,
        price: price.price.clone(),
        cost: price.cost.clone(),
    }
}

/// Lets a hold go on for a batch of this name, durably.
async fn detach(hold: Hold, id: &str, run: &Run) -> Result<(), Refusal> {
    let record = serde_json::to_vec(run).expect("plain JSON").into();
    let object = Shelf::Batches.object(id).into();
    let mut applied = hold.detach(Detached { object, record });
    applied.commit.durable().await.map(|_| ()).map_err(|_| Refusal::Overloaded)
}

#[derive(Deserialize)]
struct Told {
    id: Box<str>,
}
