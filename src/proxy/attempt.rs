//! Attempts: how each one ended, whether another follows, and what the client is told at last.

use super::Gateway;
use super::context::InExchange;
use super::exchange::Settled;
use super::respond::Refusal;
use crate::admit::{Demand, estimate};
use crate::settle::Attempt;
use crate::settle::price::ModelPrice;
use crate::upstream::headroom::Expected;
use crate::upstream::health::Fault;
use crate::upstream::limits::Most;
use crate::upstream::{Ask, Lease, Need, NoAccount, Pool};
use pingora::{Error, ErrorType};
use std::time::{Duration, Instant};

/// What a client is told to wait when nobody knows better.
const WAIT: Duration = Duration::from_secs(1);

/// What a request needs of the account that serves it.
pub(super) fn need(demand: &Demand, price: &ModelPrice) -> Need {
    // What was admitted has a bound.
    let max = estimate::tokens_max(demand, price).unwrap_or_default();
    let input = estimate::input_tokens_likely(demand, price);
    Need {
        expected: Expected { input, output_max: max.output },
        most: Most { tokens: max.input.saturating_add(max.output), spend: max.charge_max(demand, price) },
    }
}

/// Chooses an account for the next attempt. Without one, the client is told why, unless how the
/// last attempt failed says more.
pub(super) fn choose(pool: &Pool, admitted: &InExchange, now: Instant) -> Result<Lease, Option<Refusal>> {
    let model = &admitted.exchange.request.demand.model;
    let endpoint = admitted.exchange.request.endpoint;
    let ask = Ask { endpoint, model, need: &admitted.need, tried: &admitted.tried };
    let wait = |until: Option<Instant>| until.map_or(WAIT, |until| until.saturating_duration_since(now));
    pool.choose(&ask, now, fastrand::u64(..)).map_err(|none| match none {
        NoAccount::Busy(until) => Some(Refusal::PoolBusy { wait: wait(until) }),
        NoAccount::Down(_) | NoAccount::UnknownModel if admitted.attempts > 0 => None,
        NoAccount::Down(until) => Some(Refusal::UpstreamUnavailable { wait: wait(until) }),
        NoAccount::UnknownModel => Some(Refusal::UnknownModel(model.clone())),
    })
}

impl Gateway {
    /// The request has ended: what it used is what it took of its account.
    pub(super) fn ended(&self, admitted: &mut InExchange, settled: Option<&Settled>) {
        let Some(lease) = admitted.lease.as_mut() else { return };
        if let Some(settled) = settled {
            lease.used(Most { tokens: settled.usage.total(), spend: settled.charge });
        }
        if admitted.answered {
            self.metrics.attempt(&lease.account().name, "ok");
            lease.succeeded(settled.map_or(0, |settled| settled.usage.output + settled.usage.reasoning));
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
        if std::mem::take(&mut admitted.answered) {
            admitted.exchange.amend_attempt(fault.name());
        } else {
            self.note_attempt(admitted, fault.name(), status);
        }
        if let Some(mut lease) = admitted.lease.take() {
            self.metrics.attempt(&lease.account().name, fault.name());
            lease.failed(fault, Instant::now(), fastrand::u32(..));
            admitted.tried.push(lease.index());
        }
        admitted.fault = Some(fault);
        let mut error = Error::explain(ErrorType::ConnectRefused, why).into_up();
        error.set_retry(admitted.attempts < admitted.retry.attempts_max);
        error
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

/// What the client is told when all attempts failed.
pub(super) fn last_fault(admitted: &InExchange) -> Refusal {
    match admitted.fault {
        Some(Fault::Timeout) => Refusal::UpstreamTimeout,
        Some(Fault::RateLimited(wait)) => Refusal::PoolBusy { wait: wait.unwrap_or(WAIT) },
        Some(Fault::Model) => Refusal::UnknownModel(admitted.exchange.request.demand.model.clone()),
        Some(Fault::Connect | Fault::Broken | Fault::Credential | Fault::Forbidden | Fault::Server)
        | None => Refusal::UpstreamUnavailable { wait: WAIT },
    }
}
