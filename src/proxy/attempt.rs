//! Attempts: how each one ended, whether another follows, and what the client is told at last.

use super::Gateway;
use super::context::InExchange;
use super::respond::Refusal;
use crate::settle::Attempt;
use crate::upstream::health::Fault;
use pingora::{Error, ErrorType};
use std::time::Instant;

impl Gateway {
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
        if let Some(lease) = admitted.lease.take() {
            self.metrics.attempt(&lease.account().name, fault.name());
            lease.failed(fault, Instant::now());
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
        Some(Fault::RateLimited(_)) => Refusal::PoolBusy,
        Some(Fault::Model) => Refusal::UnknownModel(admitted.exchange.request.demand.model.clone()),
        Some(Fault::Connect | Fault::Broken | Fault::Credential | Fault::Forbidden | Fault::Server)
        | None => Refusal::UpstreamUnavailable,
    }
}
