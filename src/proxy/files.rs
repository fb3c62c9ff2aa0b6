//! Files that customers upload: kept by one account, for their owner alone, free of charge.
//!
//! A file has the requests of a batch, so it goes to an account that serves their model. How many
//! a customer uploads is bounded; the ledger has whose they are, never what they are called or say.

use super::context::{BodyPermit, Context};
use super::fetch::{Fetched, Opened};
use super::request::lines::Common;
use super::request::{BadRequest, file, is_object_id};
use super::respond::Refusal;
use super::shelf::{Asked, Fate, Kept, Shelf};
use super::{Gateway, body, forward, local};
use crate::admit::content::Said;
use crate::auth::Caller;
use crate::endpoint::FILES;
use crate::id::{CustomerId, RequestId};
use crate::live::Live;
use crate::upstream::headroom::Expected;
use crate::upstream::limits::Most;
use crate::upstream::{Account, Ask, Comes, Need, NoAccount};
use bytes::Bytes;
use http::{Method, StatusCode, Version, header};
use parking_lot::Mutex;
use pingora_http::RequestHeader;
use pingora_proxy::Session;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a client is told to wait when nobody knows better.
const WAIT: Duration = Duration::from_secs(1);

/// Files that a customer reads at once: who reads them slowly leaves room for others.
const DOWNLOADS_MAX: usize = 8;

/// Files on their way, by whose they are.
#[derive(Default)]
pub struct Transfers(Mutex<HashMap<CustomerId, usize>>);

/// One of them.
struct Transfer<'a> {
    all: &'a Transfers,
    customer: CustomerId,
}

impl Transfers {
    /// One more; and how many of the customer's that are.
    fn begin(&self, customer: CustomerId) -> (Transfer<'_>, usize) {
        let mut all = self.0.lock();
        let count = all.entry(customer).or_default();
        *count += 1;
        (Transfer { all: self, customer }, *count)
    }
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        let mut all = self.all.0.lock();
        if let Some(count) = all.get_mut(&self.customer) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.customer);
            }
        }
    }
}

/// Customers whose uploads wait for one another, as they share a gate: few upload at once.
const GATES: usize = 64;

/// Uploads, each counted once: while it is under way, or as made. Both change behind the gate of its customer.
pub struct Uploads {
    under_way: Transfers,
    gates: [tokio::sync::Mutex<()>; GATES],
}

impl Default for Uploads {
    fn default() -> Self {
        Uploads { under_way: Transfers::default(), gates: std::array::from_fn(|_| Default::default()) }
    }
}

impl Uploads {
    async fn gate(&self, customer: CustomerId) -> tokio::sync::MutexGuard<'_, ()> {
        let at = customer.int() % u64::try_from(GATES).expect("few");
        self.gates[usize::try_from(at).expect("few")].lock().await
    }
}

/// A file on its way, as its client sends it.
struct Form<'a> {
    asks: &'a RequestHeader,
    body: Bytes,
    request: RequestId,
}

/// An upload uses nothing that is limited, but a place.
const NEED: Need = Need {
    expected: Expected { input: 0, output_max: 0 },
    most: Most::NOTHING,
    comes: Comes::Whole,
    affinity: None,
};

impl Gateway {
    /// `/v1/files` and below.
    pub(super) async fn answer_files(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        asked: &Asked<'_>,
    ) -> Result<(), Refusal> {
        let method = session.req_header().method.clone();
        match (asked, method) {
            (Asked::All, Method::POST) => self.upload(session, ctx).await,
            (Asked::All, _) => self.answer_page(session, ctx, Shelf::Files).await,
            (Asked::One(id), Method::DELETE) => self.delete_file(session, ctx, id).await,
            (Asked::One(id), _) => self.answer_file(session, ctx, id).await,
            (Asked::Part(id), _) => self.answer_content(session, ctx, id).await,
        }
    }

    async fn upload(&self, session: &mut Session, ctx: &mut Context) -> Result<(), Refusal> {
        let live = Arc::clone(&ctx.live);
        let caller = self.pass(session, ctx, FILES)?;
        if self.ledger.is_down() || self.ledger.is_full() {
            return Err(Refusal::Overloaded);
        }
        let mut permit = self.budget.begin(live.config.gateway.body_bytes_total_max);
        let body = body::read(session, &live.config.gateway, &mut permit).await?;
        let kind = session.req_header().headers.get(header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_owned();
        let form = body.clone();
        // As long as that takes for the largest, others are served.
        let read = tokio::task::spawn_blocking(move || file::read(&kind, &form)).await;
        let (common, lines) = read.map_err(|_| Refusal::Overloaded)??;
        // Nobody sees its requests again before they are served.
        let said = || Said::Asked(body.slice(lines), Vec::new());
        self.judge_content(&live, &caller, ctx.request, said).await?;
        let upload = self.begin_upload(&live, &caller).await?;
        let began = Instant::now();
        let form = Form { asks: session.req_header(), body, request: ctx.request };
        let (account, said) = self.place(&live, &caller, &common, form, &mut permit).await?;
        if said.header.status.is_success() {
            let told = serde_json::from_slice::<Told>(&said.body).ok().filter(|told| is_object_id(&told.id));
            let Some(Told { id }) = told else {
                tracing::warn!(
                    upstream = &*account.name,
                    "an upstream account took a file and gave it no name"
                );
                return Err(Refusal::UpstreamUnavailable { wait: WAIT });
            };
            let kept = Kept::put(id, &account.name);
            let _gate = self.uploads.gate(caller.customer()).await;
            self.note(ctx, &caller, (Shelf::Files, &kept, Fate::Made), began.elapsed()).await?;
            drop(upload);
        }
        local::pass_on(session, ctx, said).await
    }

    /// A place for one more file of the caller's, which counts as made already.
    async fn begin_upload(&self, live: &Live, caller: &Caller) -> Result<Transfer<'_>, Refusal> {
        let _gate = self.uploads.gate(caller.customer()).await;
        let (_, made) = self.shelf(caller, Shelf::Files).await?;
        let (upload, under_way) = self.uploads.under_way.begin(caller.customer());
        let most = live.config.gateway.files_per_customer_max;
        if made + under_way > most { Err(too_many(most).into()) } else { Ok(upload) }
    }

    /// Sends a file to an account that serves what is in it; if one cannot take it, to another.
    async fn place(
        &self,
        live: &Live,
        caller: &Caller,
        common: &Common,
        form: Form<'_>,
        permit: &mut BodyPermit,
    ) -> Result<(Arc<Account>, Fetched), Refusal> {
        let accounts = live.pool.accounts();
        let unfit = accounts.iter().filter(|account| !serves(account, common));
        let mut tried: Vec<_> = unfit.map(|account| Arc::clone(&account.name)).collect();
        if tried.len() == accounts.len() {
            return Err(Refusal::UnknownModel(common.model.clone()));
        }
        let Common { endpoint, model } = common;
        let mut last = Refusal::UnknownPath { asked: "POST /v1/files".into() };
        for _ in 0..live.config.retry.attempts_max {
            let customer = caller.customer();
            let (endpoint, need, tried_yet) = (*endpoint, &NEED, &tried);
            let ask = Ask { customer, endpoint, model, need, only: None, tried: tried_yet };
            let now = Instant::now();
            let lease = match live.pool.choose(&ask, now, fastrand::u64(..)) {
                Ok(lease) => lease,
                Err(NoAccount::Tried | NoAccount::UnknownModel) => break,
                Err(NoAccount::Busy(until)) => {
                    let wait = until.map_or(WAIT, |until| until.saturating_duration_since(now));
                    return Err(Refusal::PoolBusy { wait });
                }
                Err(NoAccount::Down(until)) => {
                    return Err(Refusal::UpstreamUnavailable { wait: until.saturating_duration_since(now) });
                }
            };
            let Form { asks, body, request } = &form;
            let path = Shelf::Files.path(lease.account(), "");
            let at = (&**lease.account(), &*path);
            match self.fetcher.send((asks, body.clone()), *request, at, permit).await {
                // Not every provider that speaks like OpenAI keeps files.
                Ok(said) if is_unknown(said.header.status) => {}
                Ok(said) => return Ok((Arc::clone(lease.account()), said)),
                Err(
                    why @ (Refusal::UpstreamUnavailable { .. }
                    | Refusal::UpstreamTimeout
                    | Refusal::PoolBusy { .. }),
                ) => last = why,
                Err(why) => return Err(why),
            }
            tried.push(Arc::clone(&lease.account().name));
        }
        Err(last)
    }

    async fn answer_file(&self, session: &mut Session, ctx: &mut Context, id: &str) -> Result<(), Refusal> {
        let live = Arc::clone(&ctx.live);
        let caller = self.pass(session, ctx, FILES)?;
        let (account, _) = self.on_shelf(&caller, &live, Shelf::Files, id).await?;
        let said = self.ask_file(session, ctx, account, id).await?;
        local::pass_on(session, ctx, said).await
    }

    async fn delete_file(&self, session: &mut Session, ctx: &mut Context, id: &str) -> Result<(), Refusal> {
        let live = Arc::clone(&ctx.live);
        let caller = self.pass(session, ctx, FILES)?;
        let (account, kept) = self.on_shelf(&caller, &live, Shelf::Files, id).await?;
        let began = Instant::now();
        let said = self.ask_file(session, ctx, account, id).await?;
        if said.header.status.is_success() {
            self.note(ctx, &caller, (Shelf::Files, &kept, Fate::Deleted), began.elapsed()).await?;
        }
        local::pass_on(session, ctx, said).await
    }

    /// What the account says of a file, asked as the client asks.
    async fn ask_file(
        &self,
        session: &mut Session,
        ctx: &Context,
        account: &Account,
        id: &str,
    ) -> Result<Fetched, Refusal> {
        let gateway = &ctx.live.config.gateway;
        let mut permit = self.budget.begin(gateway.body_bytes_total_max);
        // It needs no words; what comes with it is not kept.
        body::read(session, gateway, &mut permit).await?;
        let path = Shelf::Files.path(account, &["/", id].concat());
        self.fetcher.fetch(session.req_header(), ctx.request, (account, &path), &mut permit).await
    }

    /// What is in a file, however long it is: piece by piece.
    async fn answer_content(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        id: &str,
    ) -> Result<(), Refusal> {
        let live = Arc::clone(&ctx.live);
        let caller = self.pass(session, ctx, FILES)?;
        let (account, _) = self.on_shelf(&caller, &live, Shelf::Files, id).await?;
        let (_download, under_way) = self.downloads.begin(caller.customer());
        if under_way > DOWNLOADS_MAX {
            return Err(Refusal::Overloaded);
        }
        let path = Shelf::Files.path(account, &["/", id, "/content"].concat());
        let mut opened = self.fetcher.open(session.req_header(), ctx.request, (account, &path)).await?;
        if !opened.header.status.is_success() {
            let said = Fetched { body: opened.beginning().await, header: opened.header };
            return local::pass_on(session, ctx, said).await;
        }
        let mut header = opened.header.clone();
        let length = header.headers.get(header::CONTENT_LENGTH).filter(|_| opened.is_plain()).cloned();
        forward::response(&mut header, ctx.request, &ctx.page).map_err(|_| Refusal::Overloaded)?;
        let framed = match length {
            Some(length) => header.insert_header(header::CONTENT_LENGTH, length),
            None if session.req_header().version == Version::HTTP_10 => Ok(()),
            None => header.insert_header(header::TRANSFER_ENCODING, "chunked"),
        };
        framed.map_err(|_| Refusal::Overloaded)?;
        ctx.status = header.status.as_u16();
        let empty = session.req_header().method == Method::HEAD;
        // A client that did not wait for its answer is not told.
        if local::begin(session, ctx, header, empty).await.is_ok() && !empty {
            let passed = tokio::time::timeout(account.timeouts.total, pass_pieces(session, &mut opened));
            if let Ok(Err(why)) | Err(why) = passed.await.map_err(|_| late()) {
                tracing::debug!(request = %ctx.request, %why, "a file was not sent to its end");
                // Or its beginning would look like all of it.
                session.downstream_session.shutdown().await;
            }
        }
        Ok(())
    }
}

/// Whether an account serves what a file asks, by the name that stands in it.
fn serves(account: &Account, Common { endpoint, model }: &Common) -> bool {
    account.keeps_files() && account.serves(*endpoint, model) == Some(model)
}

fn is_unknown(status: StatusCode) -> bool {
    status == StatusCode::NOT_FOUND || status == StatusCode::METHOD_NOT_ALLOWED
}

async fn pass_pieces(session: &mut Session, opened: &mut Opened<'_>) -> pingora::Result<()> {
    while let Some(piece) = opened.next().await? {
        session.write_response_body(Some(piece), false).await?;
    }
    session.write_response_body(None, true).await
}

fn late() -> Box<pingora::Error> {
    pingora::Error::new(pingora::ErrorType::ReadTimedout)
}

fn too_many(most: usize) -> BadRequest {
    let message = format!(
        "{most} files were uploaded in 30 days, which is the most, also where some were deleted. Put more \
         requests into each, or ask the operator of this service."
    );
    BadRequest { message, param: Some("file") }
}

#[derive(Deserialize)]
struct Told {
    id: Box<str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfers_count_until_they_end() {
        let uploads = Transfers::default();
        let (ada, eve) = (CustomerId::from_int(1), CustomerId::from_int(2));
        let (first, one) = uploads.begin(ada);
        let (second, two) = uploads.begin(ada);
        assert_eq!((one, two, uploads.begin(eve).1), (1, 2, 1));
        drop(first);
        assert_eq!(uploads.begin(ada).1, 2);
        drop(second);
        assert!(uploads.0.lock().is_empty());
    }
}
