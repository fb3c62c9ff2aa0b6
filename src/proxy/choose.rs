//! The choice of an account for an attempt: at once, in line, or none.

use super::Gateway;
use super::attempt::{gone, hang_up, under_way};
use super::context::{Context, InExchange};
use super::line::{Bounds, HangUp};
use super::request::Request;
use super::respond::Refusal;
use crate::admit::estimate;
use crate::config;
use crate::id::CustomerId;
use crate::live::Live;
use crate::record::metrics::Metrics;
use crate::settle::price::ModelPrice;
use crate::upstream::headroom::Expected;
use crate::upstream::health::Fault;
use crate::upstream::limits::Most;
use crate::upstream::queue::Unserved;
use crate::upstream::select::mix;
use crate::upstream::{Account, Ask, Comes, Lease, Need, NoAccount, Pool};
use pingora::{Error, ErrorType, Result};
use pingora_proxy::Session;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest pause before the second attempt; before each further one it doubles.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// What a request needs of the account that serves it.
pub(super) fn need(request: &Request, customer: CustomerId, price: &ModelPrice) -> Need {
    let demand = &request.demand;
    // What was admitted has a bound.
    let max = estimate::tokens_max(demand, price).unwrap_or_default();
    let spend = estimate::charge_max(demand, price).unwrap_or_default();
    let input = estimate::input_tokens_likely(demand, price);
    Need {
        expected: Expected { input, output_max: max.output },
        most: Most { tokens: max.input.saturating_add(max.output), spend },
        comes: if request.stream.is_some() { Comes::Streamed } else { Comes::Whole },
        affinity: request.affinity.map(|affinity| mix(affinity, customer.int())),
    }
}

/// What is asked of the pool for a request, beside the accounts that it `tried`.
pub(super) fn ask<'a>(admitted: &'a InExchange, tried: &'a [Arc<str>]) -> Ask<'a> {
    let request = &admitted.exchange.request;
    Ask {
        customer: admitted.customer,
        endpoint: request.endpoint,
        model: &request.demand.model,
        need: &admitted.need,
        only: admitted.only.as_deref(),
        tried,
    }
}

/// Why there is no account for an attempt.
enum NoLease {
    /// The client left while it waited.
    Gone(Box<Error>),
    /// The client is told this, or how the last attempt failed.
    Refused(Option<Refusal>),
}

/// Counts how long one waited in line, and how that ended.
struct Wait<'a> {
    metrics: &'a Metrics,
    since: Instant,
    outcome: &'static str,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.metrics.queued(self.outcome, self.since.elapsed());
    }
}

/// Waits in line for a lease. Who drops this has left.
pub(super) async fn wait_in_line(
    metrics: &Metrics,
    pool: &Pool,
    ask: &Ask<'_>,
    bounds: config::Queue,
    now: Instant,
) -> std::result::Result<Lease, Unserved> {
    let mut wait = Wait { metrics, since: now, outcome: "left" };
    let waited = match pool.join(ask, bounds, now) {
        Ok(place) => place.wait().await,
        Err(unserved) => Err(unserved),
    };
    wait.outcome = match waited {
        Ok(_) => "served",
        Err(Unserved::Full) => "full",
        Err(Unserved::Late) => "late",
        Err(Unserved::Hopeless(_)) => "hopeless",
    };
    waited
}

impl Gateway {
    /// Begins the next attempt: on which account, and where that is.
    pub(super) async fn begin_attempt(
        &self,
        session: &mut Session,
        ctx: &mut Context,
    ) -> Result<(Arc<Account>, SocketAddr)> {
        let started = ctx.started;
        let live = Arc::clone(&ctx.live);
        let admitted = under_way(ctx)?;
        let mut left = Duration::MAX;
        if admitted.attempts == 0 {
            live.pool.budget().earn();
        } else {
            if admitted.fault.is_some() {
                tokio::time::sleep(pause(admitted.attempts, fastrand::u32(..))).await;
            }
            left = admitted.retry.total.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Err(Error::explain(
                    ErrorType::ConnectTimedout,
                    "no time is left for another attempt",
                ));
            }
        }
        let lease = match self.lease(session, &live, admitted, left).await {
            Ok(lease) => lease,
            Err(NoLease::Gone(error)) => return Err(error),
            Err(NoLease::Refused(refusal)) => {
                ctx.refusal = refusal;
                return Err(Error::explain(
                    ErrorType::ConnectNoRoute,
                    "no upstream account takes the request",
                ));
            }
        };
        admitted.attempts += 1;
        admitted.number = admitted.attempts;
        let account = Arc::clone(lease.account());
        admitted.exchange.begin_attempt(admitted.exchange.request.body_for(lease.model()));
        admitted.line.set_hang_up(hang_up(&account, &admitted.exchange));
        admitted.lease = Some(lease);
        match account.address() {
            Some(address) => Ok((account, address)),
            None => Err(self.failed(admitted, Fault::Connect, None, "the account's name does not resolve")),
        }
    }

    /// Chooses an account for the next attempt; if none has room, waits in line for one, for as long
    /// as the client stays and there is time `left`.
    async fn lease(
        &self,
        session: &mut Session,
        live: &Live,
        admitted: &InExchange,
        left: Duration,
    ) -> std::result::Result<Lease, NoLease> {
        let Live { pool, config } = live;
        let now = Instant::now();
        let ask = ask(admitted, &admitted.tried);
        let choose = |ask: &Ask<'_>| self.live.load().pool.choose(ask, now, fastrand::u64(..));
        let chosen = choose(&ask).or_else(|none| match once_more(admitted, none) {
            Some(tried) => choose(&Ask { tried, ..ask }),
            None => Err(none),
        });
        let mut none = match chosen {
            Ok(lease) => return Ok(lease),
            Err(none) => none,
        };
        let bounds = config::Queue { wait: config.queue.wait.min(left), ..config.queue };
        if !bounds.wait.is_zero() && none.may_change_by(now + bounds.wait) {
            // Nothing is under way that could be drained.
            admitted.line.set_hang_up(HangUp::Cancel);
            admitted.line.awaits(Bounds::default());
            let waited = tokio::select! {
                waited = wait_in_line(&self.metrics, pool, &ask, bounds, now) => waited,
                error = gone(session) => return Err(NoLease::Gone(error)),
            };
            match waited {
                Ok(lease) => return Ok(lease),
                Err(Unserved::Hopeless(found)) => none = found,
                Err(Unserved::Full | Unserved::Late) => {}
            }
        }
        // Whoever comes back has to wait as long as those who wait now have, or until something changes.
        let now = Instant::now();
        let until = none.until().map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        let wait = until.max(pool.queue().age(&ask, now));
        Err(NoLease::Refused(match none {
            NoAccount::Busy(_) => Some(Refusal::PoolBusy { wait }),
            NoAccount::Down(_) | NoAccount::Tried | NoAccount::UnknownModel if admitted.attempts > 0 => None,
            NoAccount::Down(_) | NoAccount::Tried => Some(Refusal::UpstreamUnavailable { wait }),
            NoAccount::UnknownModel => Some(Refusal::UnknownModel(ask.model.into())),
        }))
    }
}

/// What is taken to be tried where no other account is left: all but the last one, if that could not be
/// connected to. Nothing was sent, and whoever restarts is soon there: so it is tried once more, at another
/// of its addresses if it has such.
fn once_more(admitted: &InExchange, none: NoAccount) -> Option<&[Arc<str>]> {
    let (last, others) = admitted.tried.split_last()?;
    let no_other = matches!(none, NoAccount::Tried | NoAccount::Down(_));
    let once = admitted.fault == Some(Fault::Connect) && !others.contains(last);
    (no_other && once).then_some(others)
}

/// How long to wait after so many attempts before another: anything up to a bound that doubles, so that many
/// that failed by the same do not return at once.
pub(super) fn pause(attempts: u32, random: u32) -> Duration {
    let longest = RETRY_PAUSE.saturating_mul(1 << attempts.saturating_sub(1).min(5));
    longest.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_anything_up_to_a_bound_that_doubles() {
        let longest = |attempts| pause(attempts, u32::MAX).as_millis();
        assert_eq!([1, 2, 3, 6, 10].map(longest), [20, 40, 80, 640, 640]);
        for attempts in 1..10 {
            assert_eq!(pause(attempts, 0), Duration::ZERO, "full jitter");
            assert_eq!(pause(attempts, u32::MAX / 2).as_millis(), longest(attempts) / 2);
        }
    }
}
