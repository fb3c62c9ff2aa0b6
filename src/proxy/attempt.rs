//! Attempts: how each one ended, whether another follows, and what the client is told at last.

use super::Gateway;
use super::bill::{End, Settled};
use super::context::{Ended, InExchange};
use super::exchange::Exchange;
use super::line::{Bounds, HangUp, ran_out};
use super::request::{Comes as AnswerComes, Request};
use super::respond::Refusal;
use crate::admit::estimate;
use crate::config::{self, OnHangUp};
use crate::id::CustomerId;
use crate::live::Live;
use crate::meter::tokenizer::BYTES_PER_TOKEN;
use crate::record::metrics::Metrics;
use crate::settle::Attempt;
use crate::settle::price::{ModelPrice, Reasoning};
use crate::upstream::headroom::Expected;
use crate::upstream::health::Fault;
use crate::upstream::limits::Most;
use crate::upstream::queue::Unserved;
use crate::upstream::select::mix;
use crate::upstream::{Account, Ask, Comes, Lease, Need, NoAccount, Pool};
use pingora::{Error, ErrorType};
use pingora_proxy::Session;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a client is told to wait when nobody knows better.
const WAIT: Duration = Duration::from_secs(1);

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

/// Why there is no account for an attempt.
pub(super) enum NoLease {
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
) -> Result<Lease, Unserved> {
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
    /// Chooses an account for the next attempt; if none has room, waits in line for one, for as long
    /// as the client stays and there is time `left`.
    pub(super) async fn lease(
        &self,
        session: &mut Session,
        live: &Live,
        admitted: &InExchange,
        left: Duration,
    ) -> Result<Lease, NoLease> {
        let Live { pool, config } = live;
        let now = Instant::now();
        let Request { endpoint, demand, .. } = &admitted.exchange.request;
        let (endpoint, model) = (*endpoint, &*demand.model);
        let ask = Ask {
            customer: admitted.customer,
            endpoint,
            model,
            need: &admitted.need,
            only: admitted.only.as_deref(),
            tried: &admitted.tried,
        };
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
            NoAccount::UnknownModel => Some(Refusal::UnknownModel(model.into())),
        }))
    }

    /// The request has ended: what it used is what it took of its account.
    pub(super) fn ended(&self, admitted: &mut InExchange, settled: Option<&Settled>) {
        trace(admitted, if admitted.answered { "ok" } else { "left" });
        let Some(lease) = admitted.lease.as_mut() else { return };
        // What runs on keeps what it took: see `runs`.
        if let Some(settled) = settled.filter(|settled| settled.end != End::Running) {
            lease.used(Most { tokens: settled.usage.tokens(), spend: settled.charge });
        }
        if admitted.answered {
            self.metrics.attempt(&lease.account().name, "ok");
            let output = settled.map_or(0, |settled| settled.usage.output + settled.usage.reasoning);
            lease.succeeded(output, Instant::now());
        }
    }

    /// Notes that the attempt failed by its account's fault, and says whether another may follow.
    pub(super) fn failed(
        &self,
        admitted: &mut InExchange,
        fault: Fault,
        status: Option<u16>,
        why: &'static str,
    ) -> Box<Error> {
        let mut error = self.failed_at_last(admitted, fault, status, why);
        let more = admitted.attempts < admitted.retry.attempts_max;
        error.set_retry(more && self.may_retry());
        error
    }

    /// The same where no other can follow.
    pub(super) fn failed_at_last(
        &self,
        admitted: &mut InExchange,
        fault: Fault,
        status: Option<u16>,
        why: &'static str,
    ) -> Box<Error> {
        if std::mem::take(&mut admitted.answered) {
            admitted.exchange.amend_attempt(fault.name());
        } else {
            self.note_attempt(admitted, fault.name(), status);
        }
        trace(admitted, fault.name());
        if let Some(mut lease) = admitted.lease.take() {
            self.metrics.attempt(&lease.account().name, fault.name());
            admitted.last = Some(Arc::clone(&lease.account().name));
            lease.failed(fault, Instant::now(), fastrand::u32(..));
            // Having too much to do passes: until then the account has no room.
            if !matches!(fault, Fault::RateLimited(_)) {
                admitted.tried.push(Arc::clone(&lease.account().name));
            }
        }
        admitted.exchange.end_attempt();
        admitted.fault = Some(fault);
        let mut error = Error::explain(ErrorType::ConnectRefused, why).into_up();
        error.set_retry(false);
        error
    }

    fn may_retry(&self) -> bool {
        let may = self.live.load().pool.budget().spend();
        if !may {
            self.metrics.retry_denied();
        }
        may
    }

    pub(super) fn note_attempt(&self, admitted: &InExchange, outcome: &'static str, status: Option<u16>) {
        let Some(lease) = admitted.lease.as_ref() else { return };
        admitted.exchange.note_attempt(Attempt {
            upstream: (*lease.account().name).into(),
            outcome: outcome.into(),
            status,
            ms: u64::try_from(lease.begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        });
    }
}

/// What it means to an account when its client hangs up.
pub(super) fn hang_up(account: &Account, exchange: &Exchange) -> HangUp {
    let request = &exchange.request;
    let hidden = exchange.price.hidden_reasoning == Reasoning::Hidden;
    let uncounted = hidden || request.comes == AnswerComes::Json || request.demand.images > 0;
    let drain = HangUp::Drain(account.drain.time);
    match account.on_hang_up {
        // Nothing of it can be counted, whatever was delivered.
        _ if !request.is_countable(&exchange.price) => drain,
        OnHangUp::Drain => drain,
        OnHangUp::Cancel => HangUp::Cancel,
        // What a stream of text delivered can be counted; the rest cannot.
        OnHangUp::Auto if uncounted => drain,
        OnHangUp::Auto => HangUp::Cancel,
    }
}

/// How long an attempt on an account may take that begins now.
pub(super) fn bounds(account: &Account, comes: AnswerComes, started: Instant) -> Bounds {
    let timeouts = &account.timeouts;
    let first_byte_by = match comes {
        // It begins when it is complete.
        AnswerComes::Json => None,
        AnswerComes::Events | AnswerComes::Audio => {
            timeouts.first_byte.and_then(|time| Instant::now().checked_add(time))
        }
    };
    Bounds { first_byte_by, end_by: started.checked_add(timeouts.total), silence: timeouts.silence }
}

/// Whether an answer that nobody reads may be read on, as far as its text tells.
pub(super) fn drains_on(admitted: &mut InExchange) -> Result<(), Box<Error>> {
    if admitted.line.gone_since().is_none() {
        return Ok(());
    }
    let read = admitted.exchange.delivered_bytes();
    let since = read - *admitted.gone_at_bytes.get_or_insert(read);
    let max = admitted.lease.as_ref().map_or(0, |lease| lease.account().drain.tokens_max);
    if since / BYTES_PER_TOKEN > max { Err(ran_out()) } else { Ok(()) }
}

/// Notes how the attempt under way ended, if a collector is told of it.
pub(super) fn trace(admitted: &mut InExchange, outcome: &'static str) {
    if let (Some(traced), Some(lease)) = (&mut admitted.traced, &admitted.lease) {
        let (number, account) = (admitted.attempts, Arc::clone(lease.account()));
        traced.push(Ended { number, account, begun: lease.begun, ended: Instant::now(), outcome });
    }
}

/// How long to wait after so many attempts before another: anything up to a bound that doubles, so that many
/// that failed by the same do not return at once.
pub(super) fn pause(attempts: u32, random: u32) -> Duration {
    let longest = RETRY_PAUSE.saturating_mul(1 << attempts.saturating_sub(1).min(5));
    longest.mul_f64(f64::from(random) / f64::from(u32::MAX))
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

/// Waits until the client leaves.
async fn gone(session: &mut Session) -> Box<Error> {
    match session.downstream_session.read_body_or_idle(true).await {
        Err(error) => error.into_down(),
        // Its body was read whole.
        Ok(_) => std::future::pending().await,
    }
}

/// What the client is told when all attempts failed.
pub(super) fn last_fault(admitted: &InExchange) -> Refusal {
    match admitted.fault {
        Some(Fault::Timeout) => Refusal::UpstreamTimeout,
        Some(Fault::RateLimited(wait)) => Refusal::PoolBusy { wait: wait.unwrap_or(WAIT) },
        Some(Fault::Model) => Refusal::UnknownModel(admitted.exchange.request.demand.model.clone()),
        Some(
            Fault::Connect
            | Fault::Broken
            | Fault::Credential
            | Fault::Quota
            | Fault::Forbidden
            | Fault::Server,
        )
        | None => Refusal::UpstreamUnavailable { wait: WAIT },
    }
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
