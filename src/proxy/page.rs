//! Pages of what a customer has on a shelf: `GET` of a whole collection, as OpenAI pages it.
//!
//! A provider lists what all customers of an account have there. So the ledger says what is the caller's,
//! and each of it is asked for by its name; what a provider does not have any more is left out.

use super::Gateway;
use super::context::Context;
use super::local::answer_with;
use super::query::Query;
use super::request::BadRequest;
use super::respond::Refusal;
use super::shelf::{Kept, Shelf};
use crate::id::RequestId;
use crate::live::Live;
use bytes::Bytes;
use futures_util::future::try_join_all;
use http::StatusCode;
use pingora_http::RequestHeader;
use pingora_proxy::Session;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use std::sync::Arc;

/// On a page unless told otherwise.
const LIMIT: usize = 20;
/// On a page at most: each is asked for.
const LIMIT_MAX: usize = 100;
/// Asked for at once.
const AT_ONCE: usize = 8;

/// Which page is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    limit: usize,
    after: Option<Box<str>>,
    order: Order,
    /// What a file is for.
    purpose: Option<Box<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Newest,
    Oldest,
}

impl Page {
    /// Of a request's target.
    ///
    /// # Errors
    /// When it asks for what there is not.
    pub fn read(uri: &http::Uri) -> Result<Self, BadRequest> {
        let mut query = Query::of(uri);
        let limit = |text: &str| text.parse::<usize>().ok().filter(|limit| *limit > 0);
        let limit = query.take("limit", limit, "a whole number above zero")?;
        let after = query.take("after", |text| Some(text.into()), "an id")?;
        let purpose = query.take("purpose", |text| Some(text.into()), "what files are for")?;
        let order = |text: &str| match text {
            "desc" => Some(Order::Newest),
            "asc" => Some(Order::Oldest),
            _ => None,
        };
        let order = query.take("order", order, "asc or desc")?.unwrap_or(Order::Newest);
        query.finish()?;
        // Whoever asks for more goes on after the page that they get.
        Ok(Page { limit: limit.unwrap_or(LIMIT).min(LIMIT_MAX), after, order, purpose })
    }

    /// What may stand on it, in its order; `None` when it is to begin after what is not there.
    fn of(&self, mut kept: Vec<Kept>) -> Option<Vec<Kept>> {
        if self.order == Order::Newest {
            kept.reverse();
        }
        if let Some(after) = &self.after {
            let place = kept.iter().position(|kept| kept.id == *after)?;
            kept.drain(..=place);
        }
        Some(kept)
    }

    fn shows(&self, object: &RawValue) -> bool {
        let Some(purpose) = &self.purpose else { return true };
        serde_json::from_str::<Told>(object.get()).is_ok_and(|told| told.purpose.as_ref() == Some(purpose))
    }
}

#[derive(Deserialize)]
struct Told {
    purpose: Option<Box<str>>,
}

impl Gateway {
    /// A page of a shelf.
    pub(super) async fn answer_page(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        shelf: Shelf,
    ) -> Result<(), Refusal> {
        let live = Arc::clone(&ctx.live);
        let caller = self.pass(session, ctx, shelf.name())?;
        let page = Page::read(&session.req_header().uri)?;
        let (kept, _) = self.shelf(&caller, shelf).await?;
        let kept = page.of(kept);
        let mut rest = kept.ok_or_else(|| shelf.nothing(page.after.as_deref().unwrap_or_default()))?;
        let mut shown: Vec<(Box<str>, Box<RawValue>)> = Vec::new();
        // What is not there any more makes room for what follows.
        while shown.len() < page.limit && !rest.is_empty() {
            let more = rest.drain(..(page.limit - shown.len()).min(rest.len())).collect();
            let found = self.look_up(ctx, &live, shelf, more).await?;
            shown.extend(found.into_iter().filter(|(_, object)| page.shows(object)));
        }
        let (first, last) = (shown.first().map(|(id, _)| id), shown.last().map(|(id, _)| id));
        let body = json!({
            "object": "list",
            "first_id": first,
            "last_id": last,
            "has_more": !rest.is_empty(),
            "data": shown.iter().map(|(_, object)| object).collect::<Vec<_>>(),
        });
        answer_with(session, ctx, "application/json", Bytes::from(body.to_string()), &[]).await
    }

    /// What providers say of each, in this order, but for what they do not have.
    async fn look_up(
        &self,
        ctx: &Context,
        live: &Live,
        shelf: Shelf,
        kept: Vec<Kept>,
    ) -> Result<Vec<(Box<str>, Box<RawValue>)>, Refusal> {
        let mut found = Vec::with_capacity(kept.len());
        for few in kept.chunks(AT_ONCE) {
            let asked = few.iter().map(|kept| self.look_at(ctx.request, live, shelf, kept));
            let told = try_join_all(asked).await?;
            found.extend(few.iter().zip(told).filter_map(|(kept, object)| Some((kept.id.clone(), object?))));
        }
        Ok(found)
    }

    /// What a provider says of it; nothing if it is not there any more.
    async fn look_at(
        &self,
        request: RequestId,
        live: &Live,
        shelf: Shelf,
        kept: &Kept,
    ) -> Result<Option<Box<RawValue>>, Refusal> {
        let Some(account) = kept.account(live) else { return Ok(None) };
        let path = shelf.path(account, &["/", &kept.id].concat());
        let asks = RequestHeader::build("GET", path.as_bytes(), None).map_err(|_| Refusal::Overloaded)?;
        let mut permit = self.budget.begin(live.config.gateway.body_bytes_total_max);
        let said = self.fetcher.fetch(&asks, request, (account, &path), &mut permit).await?;
        match said.header.status {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => {
                if let Some(running) = &kept.running {
                    self.runs.told(running, &said.body).await.map_err(|_| Refusal::Overloaded)?;
                }
                serde_json::from_slice(&said.body).map(Some).map_err(|_| Refusal::Overloaded)
            }
            _ => Err(Refusal::Overloaded),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(query: &str, expect: Result<(usize, &[&str]), &str>) {
        let uri = format!("/v1/files{query}").parse().unwrap();
        let kept = ["a", "b", "c"].map(|id| Kept::put(id.into(), "x"));
        let found = Page::read(&uri).map(|page| {
            let found = page.of(kept.into()).unwrap_or_default();
            (page.limit, found.iter().map(|kept| kept.id.to_string()).collect::<Vec<_>>())
        });
        match (found, expect) {
            (Ok((limit, found)), Ok((expect_limit, expect))) => {
                assert_eq!((limit, found), (expect_limit, expect.iter().map(ToString::to_string).collect()));
            }
            (Err(bad), Err(expect)) => assert!(bad.message.contains(expect), "{}", bad.message),
            (found, expect) => panic!("{found:?}, not {expect:?}"),
        }
    }

    #[test]
    fn a_page_begins_where_it_is_asked_to() {
        check("", Ok((20, &["c", "b", "a"])));
        check("?limit=2&order=asc", Ok((2, &["a", "b", "c"])));
        check("?after=c&limit=10000", Ok((100, &["b", "a"])));
        check("?order=asc&after=c", Ok((20, &[])));
        check("?after=x", Ok((20, &[])));
        check("?limit=0", Err("`limit` must be"));
        check("?order=up", Err("`order` must be"));
        check("?account=x", Err("`account` is not known"));
    }

    #[test]
    fn files_are_shown_by_what_they_are_for() {
        let page = |query: &str| Page::read(&format!("/v1/files?{query}").parse().unwrap()).unwrap();
        let file: Box<RawValue> = serde_json::from_str(r#"{"id":"a","purpose":"batch"}"#).unwrap();
        assert!(page("").shows(&file) && page("purpose=batch").shows(&file));
        assert!(!page("purpose=batch_output").shows(&file));
    }
}
