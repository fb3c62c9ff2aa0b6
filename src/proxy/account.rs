//! What a customer asks of their own account, with any of their keys: how it stands, what became of a
//! request, every entry, and sums. The same that the operator reads, as far as it is the customer's.
//!
//! Nothing here is charged or waits for requests that are. What reads the disk does so elsewhere,
//! a few at a time.

use super::context::Context;
use super::local::answer_with;
use super::query::Query;
use super::request::BadRequest;
use super::respond::Refusal;
use super::{Gateway, billing};
use crate::admit::rate::PerMinute;
use crate::clock::{Tick, Timestamp};
use crate::id::{CustomerId, RequestId};
use crate::ledger::{Ledger, Seq, Usage, Window};
use crate::record::export::{self, Head};
use crate::record::own::{self, AccountView};
use crate::record::receipt::{Receipt, StatementPage};
use crate::record::usage::{self, Dimension, UsageLine};
use bytes::Bytes;
use http::HeaderName;
use pingora_proxy::Session;
use serde::Serialize;
use std::io;
use std::sync::Arc;

/// Entries of one page of a statement, at most: those of a frame more, which are of one request.
const PAGE_MAX: usize = 1_000;
/// The same, unless asked otherwise.
const PAGE: usize = 100;
/// A day of UTC.
const DAY_MICROS: i64 = 24 * 60 * 60 * 1_000_000;
/// Lines of usage in one answer: a year of a few models by day and key, some megabytes.
const USAGE_LINES_MAX: usize = 10_000;
/// How a page says what to ask for next where its lines have no place for that.
const NEXT: HeaderName = HeaderName::from_static("x-tollgate-next");

/// What there is to be asked.
enum Asked {
    Balance,
    Receipt(RequestId),
    Statement,
    Usage,
    Subscription,
    Spending,
}

impl Asked {
    fn at(path: &str) -> Option<Self> {
        let billing = path.strip_prefix("/v1").unwrap_or(path).strip_prefix("/dashboard/billing/");
        match (billing, path.strip_prefix("/tollgate/v1/")) {
            (Some("subscription"), _) => Some(Asked::Subscription),
            (Some("usage"), _) => Some(Asked::Spending),
            (_, Some("balance")) => Some(Asked::Balance),
            (_, Some("statement")) => Some(Asked::Statement),
            (_, Some("usage")) => Some(Asked::Usage),
            (_, Some(other)) => Some(Asked::Receipt(RequestId::parse(other.strip_prefix("receipts/")?)?)),
            (_, None) => None,
        }
    }
}

/// Whether an account is asked for, there or not.
pub(super) fn is_at(path: &str) -> bool {
    path.starts_with("/tollgate/v1/")
        || matches!(Asked::at(path), Some(Asked::Subscription | Asked::Spending))
}

/// How lines are written.
#[derive(Clone, Copy)]
enum Form {
    Json,
    Jsonl,
    Csv,
}

impl Form {
    fn of(query: &mut Query) -> Result<Self, Refusal> {
        let parse = |text: &str| match text {
            "json" => Some(Form::Json),
            "jsonl" => Some(Form::Jsonl),
            "csv" => Some(Form::Csv),
            _ => None,
        };
        Ok(query.take("format", parse, "json, jsonl or csv")?.unwrap_or(Form::Json))
    }

    const fn kind(self) -> &'static str {
        match self {
            Form::Json => "application/json",
            Form::Jsonl => "application/jsonl",
            Form::Csv => "text/csv; charset=utf-8",
        }
    }
}

impl Gateway {
    /// `/tollgate/v1/…` and `/dashboard/billing/…`, with a customer's key.
    pub(super) async fn answer_account(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        path: &str,
    ) -> Result<(), Refusal> {
        let caller = self.look(session, ctx)?.0;
        let customer = caller.customer();
        ctx.caller = Some(caller);
        self.looks.count(customer, rate(ctx), Tick::now())?;
        let unknown = || Refusal::UnknownPath { asked: format!("GET {path}") };
        let uri = session.req_header().uri.clone();
        let mut query = Query::of(&uri);
        match Asked::at(path).ok_or_else(unknown)? {
            Asked::Balance => {
                query.finish()?;
                let view = self.ledger.customer(customer, |found| AccountView::of(customer, found));
                let body = whole(&view.ok_or(Refusal::InvalidKey)?)?;
                answer_with(session, ctx, Form::Json.kind(), body, &[]).await
            }
            Asked::Receipt(id) => {
                query.finish()?;
                let entries = self.read(ctx, customer, move |ledger| ledger.entries_of_request(id)).await?;
                let receipt = Receipt::from_entries(&entries).filter(|receipt| receipt.customer == customer);
                let body = whole(&own::receipt(receipt.ok_or_else(unknown)?))?;
                answer_with(session, ctx, Form::Json.kind(), body, &[]).await
            }
            Asked::Statement => self.answer_statement(session, ctx, customer, query).await,
            Asked::Usage => self.answer_usage(session, ctx, customer, query).await,
            Asked::Subscription => {
                let month = billing::month(Timestamp::now());
                let charges = self.charges(ctx, customer, Some(month), None).await?;
                let balance = self.ledger.customer(customer, |found| found.balance);
                let balance = balance.ok_or(Refusal::InvalidKey)?.posted();
                let body = whole(&billing::subscription(balance, &charges))?;
                answer_with(session, ctx, Form::Json.kind(), body, &[]).await
            }
            Asked::Spending => {
                let from = query.take("start_date", day, "a date, such as 2026-11-23")?;
                let to = query.take("end_date", day, "a date, such as 2026-11-24")?;
                let from = from.unwrap_or_else(|| billing::month(Timestamp::now()));
                let charges = self.charges(ctx, customer, Some(from), to).await?;
                let body = whole(&billing::spending(&charges))?;
                answer_with(session, ctx, Form::Json.kind(), body, &[]).await
            }
        }
    }

    async fn answer_statement(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        customer: CustomerId,
        mut query: Query<'_>,
    ) -> Result<(), Refusal> {
        let form = Form::of(&mut query)?;
        let seq = |text: &str| text.parse().ok().map(Seq);
        let order = |text: &str| match text {
            "asc" => Some(Order::Oldest),
            "desc" => Some(Order::Latest),
            _ => None,
        };
        let moment = "a date or a time of RFC 3339";
        let window = Window {
            after: query.take("after", seq, "the `entry_id` of an entry")?.unwrap_or(Seq::START),
            from: query.take("from", Timestamp::parse, moment)?,
            to: query.take("to", Timestamp::parse, moment)?,
        };
        let before = query.take("before", seq, "the `entry_id` of an entry")?;
        let order = query.take("order", order, "asc or desc")?.unwrap_or(Order::Oldest);
        let limit = |text: &str| text.parse().ok().filter(|limit| (1..=PAGE_MAX).contains(limit));
        let limit = query.take("limit", limit, "a number from 1 to 1000")?.unwrap_or(PAGE);
        query.finish()?;
        if order == Order::Oldest && before.is_some() {
            return Err(Refusal::BadRequest(BadRequest {
                message: "`before` needs `order=desc`: with `asc`, give `after`.".into(),
                param: Some("before"),
            }));
        }
        let entries = self.read(ctx, customer, move |ledger| match order {
            Order::Oldest => ledger.entries_of_customer(customer, window, limit),
            Order::Latest => ledger.latest_of_customer(customer, window, before.unwrap_or(Seq::END), limit),
        });
        let entries = entries.await?;
        let next = if entries.len() < limit { None } else { entries.last().map(|entry| entry.seq.0) };
        let lines: Vec<_> = entries.iter().filter_map(own::statement_line).collect();
        let body = match form {
            Form::Json => whole(&StatementPage { lines, next })?,
            Form::Jsonl => export::jsonl(&lines).into(),
            Form::Csv => export::statement_csv(&lines, Head::With).into(),
        };
        let next = next.map(|next| (NEXT, next.to_string()));
        answer_with(session, ctx, form.kind(), body, next.as_slice()).await
    }

    async fn answer_usage(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        customer: CustomerId,
        mut query: Query<'_>,
    ) -> Result<(), Refusal> {
        let form = Form::of(&mut query)?;
        let from = query.take("from", day, "a date, such as 2026-11-23: usage is of whole days in UTC")?;
        let to = query.take("to", day, "a date, such as 2026-11-24: usage is of whole days in UTC")?;
        let by = query.take("by", Dimension::parse_list, "day, model or key, or several with commas")?;
        query.finish()?;
        let charges = self.charges(ctx, customer, from, to).await?;
        let by = by.unwrap_or_default();
        let lines = bounded(usage::lines(&charges, &by))?;
        let body = match form {
            Form::Json => whole(&lines)?,
            Form::Jsonl => export::jsonl(&lines).into(),
            Form::Csv => usage::csv(&lines, &by).into(),
        };
        answer_with(session, ctx, form.kind(), body, &[]).await
    }

    /// What a customer was charged, of whole days.
    async fn charges(
        &self,
        ctx: &Context,
        customer: CustomerId,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
    ) -> Result<Usage, Refusal> {
        let window = Window { after: Seq::START, from, to };
        self.read(ctx, customer, move |ledger| ledger.usage(customer, window)).await
    }

    /// Reads what stands on the disk.
    async fn read<T: Send + 'static>(
        &self,
        ctx: &Context,
        customer: CustomerId,
        read: impl FnOnce(&Ledger) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Refusal> {
        let ledger = Arc::clone(&self.ledger);
        let read =
            self.looks.read(customer, rate(ctx), move || read(&ledger)).await.ok_or(Refusal::Overloaded)?;
        read.map_err(|why| {
            tracing::error!(%why, "the ledger cannot be read for a customer");
            Refusal::Overloaded
        })
    }
}

fn bounded(lines: Vec<UsageLine>) -> Result<Vec<UsageLine>, BadRequest> {
    if lines.len() <= USAGE_LINES_MAX {
        return Ok(lines);
    }
    let message = format!("This has more than {USAGE_LINES_MAX} lines: ask for fewer days, or sum by less.");
    Err(BadRequest { message, param: Some("by") })
}

/// How often a customer may look.
fn rate(ctx: &Context) -> PerMinute {
    PerMinute(ctx.live.config.gateway.account_requests_per_minute)
}

/// Which entries come first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Oldest,
    Latest,
}

/// Reads the beginning of a day.
fn day(text: &str) -> Option<Timestamp> {
    Timestamp::parse(text).filter(|at| at.micros().rem_euclid(DAY_MICROS) == 0)
}

fn whole(value: &impl Serialize) -> Result<Bytes, Refusal> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|_| Refusal::Overloaded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::KeyId;
    use crate::ledger::{Day, Group, Sums};

    /// Usage of this many keys in one day, by key.
    fn check(keys: usize, told: usize) {
        let group = |key| Group { day: Day(1), key: KeyId::from_int(key), label: "m".into() };
        let charges: Usage = (0..).take(keys).map(|key| (group(key), Sums::default())).collect();
        let lines = bounded(usage::lines(&charges, &[Dimension::Key]));
        assert_eq!(lines.map_or(0, |lines| lines.len()), told, "{keys}");
        assert_eq!(bounded(usage::lines(&charges, &[])).map_or(0, |lines| lines.len()), 1);
    }

    #[test]
    fn usage_is_told_up_to_so_many_lines() {
        check(1, 1);
        check(USAGE_LINES_MAX, USAGE_LINES_MAX);
        check(USAGE_LINES_MAX + 1, 0);
    }

    #[test]
    fn a_day_is_whole() {
        for (text, is_day) in [
            ("2026-11-23", true),
            ("2026-11-23T00:00:00Z", true),
            ("1969-12-31", true),
            ("2026-11-23T01:00:00Z", false),
            ("now", false),
        ] {
            assert_eq!(day(text).is_some(), is_day, "{text}");
        }
    }
}
