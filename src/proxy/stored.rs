//! What providers keep for customers: found by its name, for its owner alone, at the account that has it.
//!
//! A response is kept by the account that made it, and accounts are shared. So its name alone opens
//! nothing: the ledger says whose charge it was made for ([`Ledger::owned`](crate::ledger::Ledger)), and
//! for everybody else it is not there. Reading, cancelling and deleting it is free; a run in the background
//! whose end is seen so is charged before the answer passes.

use super::context::Context;
use super::request::{BadRequest, Request, is_object_id};
use super::respond::Refusal;
use super::runs::{Ask, Running, Told};
use super::{Gateway, body, local};
use crate::auth::Caller;
use crate::clock::Timestamp;
use crate::endpoint::Endpoint;
use crate::ledger::Detached;
use crate::live::Live;
use crate::settle::Detail;
use crate::upstream::Account;
use crate::usage::Usage;
use http::Method;
use pingora_proxy::Session;
use std::fmt;
use std::sync::Arc;

/// How long a provider keeps a response, in microseconds: what is older is not there any more.
const KEPT_US: i64 = 30 * 24 * 60 * 60 * 1_000_000;

/// What is referred to and cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoObject {
    /// The response that a request goes on from.
    Previous(Box<str>),
    /// A response.
    Response(Box<str>),
    /// A file.
    File(Box<str>),
    /// A batch.
    Batch(Box<str>),
    /// Something whose account is not in the configuration any more.
    OutOfReach(Box<str>),
}

impl NoObject {
    /// The field of a request that refers to it.
    pub const fn param(&self) -> Option<&'static str> {
        match self {
            NoObject::Previous(_) => Some("previous_response_id"),
            NoObject::File(_) => Some("id"),
            NoObject::Response(_) | NoObject::Batch(_) | NoObject::OutOfReach(_) => None,
        }
    }
}

impl fmt::Display for NoObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoObject::Previous(id) => write!(
                f,
                "Previous response with id '{id}' not found. It is kept for 30 days, unless store was false; \
                 after that, send its items as input."
            ),
            NoObject::Response(id) => write!(f, "Response with id '{id}' not found."),
            NoObject::Batch(id) => write!(f, "No batch found with id '{id}'."),
            NoObject::File(id) => write!(f, "No such File object: {id}"),
            NoObject::OutOfReach(id) => write!(
                f,
                "What has the id '{id}' is kept by a provider that this service does not use any more. \
                 Send it again; what a response is to go on from can be sent as input."
            ),
        }
    }
}

/// Something that is kept for whoever asks.
pub(super) struct Kept {
    /// Where it is still at work.
    pub running: Option<Running>,
    /// The account that has it.
    pub account: Arc<Account>,
    /// What it read and wrote, in tokens.
    pub tokens: u64,
    /// How often it may have read its input: once more than it searched the web.
    readings: u64,
}

/// What of a response is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Itself,
    Cancel,
    InputItems,
}

/// A response that is asked for by its path.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked<'a> {
    id: &'a str,
    part: Part,
}

impl<'a> Asked<'a> {
    /// What is asked for at this path of ours; `None` where nothing is kept.
    pub fn at(path: &'a str) -> Option<Self> {
        let rest = path.strip_prefix("/v1/responses/")?;
        let (id, part) = match rest.split_once('/') {
            None => (rest, Part::Itself),
            Some((id, "cancel")) => (id, Part::Cancel),
            Some((id, "input_items")) => (id, Part::InputItems),
            Some(_) => return None,
        };
        // Endpoints of their own, which are not sold.
        let other = matches!((id, part), ("input_tokens" | "compact", Part::Itself));
        (is_object_id(id) && !other).then_some(Asked { id, part })
    }

    /// The methods that it takes.
    pub const fn takes(&self) -> &'static str {
        match self.part {
            Part::Itself => "GET, DELETE",
            Part::Cancel => "POST",
            Part::InputItems => "GET",
        }
    }

    /// Whether the answer tells how it stands with the response.
    const fn tells(&self) -> bool {
        match self.part {
            Part::Itself | Part::Cancel => true,
            Part::InputItems => false,
        }
    }

    /// Where it stands at an account, below its responses.
    fn below(&self) -> String {
        let part = match self.part {
            Part::Itself => "",
            Part::Cancel => "/cancel",
            Part::InputItems => "/input_items",
        };
        ["/", self.id, part].concat()
    }
}

impl Gateway {
    /// What is kept for the caller under this name.
    ///
    /// # Errors
    /// When there is nothing of theirs, nobody has it any more, or the ledger cannot be read.
    pub(super) async fn kept(&self, caller: &Caller, live: &Live, id: &str) -> Result<Kept, Refusal> {
        let (ledger, customer, object) = (Arc::clone(&self.ledger), caller.customer(), id.to_owned());
        let since = Timestamp::from_micros(Timestamp::now().micros().saturating_sub(KEPT_US));
        let looked = tokio::task::spawn_blocking(move || ledger.owned(customer, &object, since)).await;
        let owned = looked.map_err(|_| Refusal::Overloaded)?.map_err(|why| {
            tracing::warn!(%why, "it cannot be told what is kept for a customer");
            Refusal::Overloaded
        })?;
        let owned = owned.ok_or_else(|| Refusal::NoObject(NoObject::Response(id.into())))?;
        let (running, name, usage) = if owned.at_work {
            let detached = Detached { object: id.into(), record: owned.record };
            let running = Running::of(customer, owned.request, &detached).ok_or(Refusal::Overloaded)?;
            let name = running.run.upstream().to_owned();
            (Some(running), name, Usage::default())
        } else {
            let detail: Detail = serde_json::from_slice(&owned.record).map_err(|_| Refusal::Overloaded)?;
            let last = detail.attempts.last().map(|attempt| attempt.upstream.to_string());
            (None, last.unwrap_or_default(), detail.usage)
        };
        let account = live.pool.accounts().iter().find(|account| *account.name == *name);
        let account = account.ok_or_else(|| Refusal::NoObject(NoObject::OutOfReach(id.into())))?;
        let account = Arc::clone(account);
        let (tokens, readings) = (usage.tokens(), usage.web_searches.saturating_add(1));
        Ok(Kept { running, account, tokens, readings })
    }

    /// The same; if it was at work when that was last heard, its account is asked.
    async fn kept_now(&self, caller: &Caller, live: &Live, id: &str) -> Result<Kept, Refusal> {
        let kept = self.kept(caller, live, id).await?;
        match &kept.running {
            Some(running) if self.runs.ask(running, Ask::Read).await? == Told::Ended => {
                self.kept(caller, live, id).await
            }
            Some(_) | None => Ok(kept),
        }
    }

    /// Has a request read what it goes on from, and gives the account that has that.
    ///
    /// # Errors
    /// When it is not there for its caller.
    pub(super) async fn refer(
        &self,
        caller: &Caller,
        live: &Live,
        request: &mut Request,
    ) -> Result<Option<Arc<str>>, Refusal> {
        let Some(id) = &request.kept.previous else { return Ok(None) };
        // Boxed, so that requests that go on from nothing do not carry its size.
        let kept = Box::pin(self.previous(caller, live, id, &request.demand.model)).await?;
        request.demand.stored_tokens = kept.tokens;
        request.demand.stored_tokens_min = kept.tokens / kept.readings;
        Ok(Some(Arc::clone(&kept.account.name)))
    }

    async fn previous(&self, caller: &Caller, live: &Live, id: &str, model: &str) -> Result<Kept, Refusal> {
        let kept = self.kept_now(caller, live, id).await.map_err(|refusal| match refusal {
            Refusal::NoObject(NoObject::Response(id)) => Refusal::NoObject(NoObject::Previous(id)),
            other => other,
        })?;
        if kept.running.is_some() {
            let message =
                format!("previous_response_id: the response `{id}` is still at work: wait for its end");
            return Err(Refusal::BadRequest(BadRequest { message, param: Some("previous_response_id") }));
        }
        if kept.account.serves(Endpoint::Responses, model).is_none() {
            let message = format!(
                "model: whoever keeps the response `{id}` does not serve `{model}`: ask for the same model again"
            );
            return Err(Refusal::BadRequest(BadRequest { message, param: Some("model") }));
        }
        Ok(kept)
    }

    /// `/v1/responses/{id}` and below: answered by the account that has it, as it came.
    pub(super) async fn answer_stored(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        asked: &Asked<'_>,
    ) -> Result<(), Refusal> {
        let live = Arc::clone(&ctx.live);
        let caller = self.pass(session, ctx, Endpoint::Responses.name())?;
        let mut permit = self.budget.begin(live.config.gateway.body_bytes_total_max);
        // What is cancelled needs no words; what comes with it is not kept.
        body::read(session, &live.config.gateway, &mut permit).await?;
        let asks = session.req_header();
        if asks.uri.query().is_some_and(is_streamed) {
            let message = "stream: what is kept is not streamed here: leave it out".into();
            return Err(Refusal::BadRequest(BadRequest { message, param: Some("stream") }));
        }
        let deletes = asks.method == Method::DELETE;
        let kept = match deletes {
            true => self.kept_now(&caller, &live, asked.id).await?,
            false => self.kept(&caller, &live, asked.id).await?,
        };
        if deletes && kept.running.is_some() {
            // Nobody would know any more what it used.
            let message =
                format!("The response `{}` is still at work: cancel it, or wait for its end.", asked.id);
            return Err(Refusal::BadRequest(BadRequest { message, param: None }));
        }
        let account = &*kept.account;
        let path = account.path_of_kept(&asked.below(), asks.uri.query());
        let fetched = self.fetcher.fetch(asks, ctx.request, (account, &path), &mut permit).await?;
        if let Some(running) = kept.running.filter(|_| fetched.header.status.is_success() && asked.tells()) {
            self.runs.told(&running, &fetched.body).await.map_err(|_| Refusal::Overloaded)?;
        }
        local::pass_on(session, ctx, fetched).await
    }
}

/// Whether a query asks for events.
fn is_streamed(query: &str) -> bool {
    query.split('&').any(|field| field.split('=').next() == Some("stream") && field != "stream=false")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::local::takes;

    #[track_caller]
    fn check(path: &str, expect: Option<(&str, Part)>) {
        let found = Asked::at(path);
        assert_eq!(found, expect.map(|(id, part)| Asked { id, part }), "{path}");
    }

    #[test]
    fn what_is_kept_is_told_by_its_path() {
        check("/v1/responses/resp_1", Some(("resp_1", Part::Itself)));
        check("/v1/responses/resp_1/cancel", Some(("resp_1", Part::Cancel)));
        check("/v1/responses/resp_1/input_items", Some(("resp_1", Part::InputItems)));
        for other in ["", "/", "/resp_1/", "/resp_1/x", "/resp_1/cancel/x", "/a.b", "/a%2f", "/compact"] {
            check(&format!("/v1/responses{other}"), None);
        }
        check("/v1/responses/input_tokens", None);
        check("/v1/files/file_1", None);
    }

    #[test]
    fn it_is_asked_for_where_the_account_has_it() {
        let asked = Asked { id: "resp_1", part: Part::InputItems };
        assert_eq!(asked.below(), "/resp_1/input_items");
        assert!(takes(asked.takes(), &Method::GET) && !takes(asked.takes(), &Method::DELETE));
        for streamed in ["stream=true", "a=b&stream=1", "stream"] {
            assert!(is_streamed(streamed), "{streamed}");
        }
        assert!(!is_streamed("stream=false&include[]=stream"));
    }
}
