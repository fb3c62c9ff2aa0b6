//! The last requests that failed, for who looks at the gateway right now. The log has all of them.
//!
//! Filled by the thread that writes the log, so that no request waits for it. It has what a line of the
//! log has: ids, our own words, names of the configuration and numbers.

use super::access::Line;
use crate::clock::Timestamp;
use crate::id::{CustomerId, RequestId};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::Arc;
use utoipa::ToSchema;

/// Kept of either kind, so that a stranger's wrong keys do not push out what matters.
const KEPT_MAX: usize = 50;

/// A request that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    /// When it ended.
    pub at: Timestamp,
    /// Its id.
    pub request_id: RequestId,
    /// What the client got; 499 for one that went, 0 for one that got nothing.
    pub status: u16,
    /// What it asked for.
    pub endpoint: Box<str>,
    /// The model, if it is one of the price book.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub model: Box<str>,
    /// Who asked, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer: Option<CustomerId>,
    /// The last upstream account that was tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Arc<str>>,
    /// Attempts on upstream accounts.
    pub attempts: u32,
    /// Why the gateway refused it, or what broke.
    pub reason: Box<str>,
    /// From the end of its header to the end of its answer.
    pub duration_us: u64,
}

impl Failure {
    /// What a line tells, if it is about one.
    fn of(line: &Line) -> Option<Self> {
        if (1..400).contains(&line.status) {
            return None;
        }
        let reason = line.refused.or(line.error.as_deref()).unwrap_or_default();
        Some(Failure {
            at: line.timestamp,
            request_id: line.request,
            status: line.status,
            endpoint: line.endpoint.into(),
            model: line.model.clone(),
            customer: line.customer,
            upstream: line.upstream.clone(),
            attempts: line.attempts,
            reason: reason.into(),
            duration_us: line.duration_us,
        })
    }

    /// Whether it is the client's own doing.
    pub fn is_clients(&self) -> bool {
        (400..500).contains(&self.status)
    }
}

/// The last of those that are the client's doing, and of the others.
#[derive(Default)]
pub struct Failures {
    clients: Mutex<VecDeque<Failure>>,
    others: Mutex<VecDeque<Failure>>,
}

impl Failures {
    /// Keeps what a line tells, if it is about one.
    pub(super) fn note(&self, line: &Line) {
        let Some(failure) = Failure::of(line) else { return };
        let mut kept = if failure.is_clients() { &self.clients } else { &self.others }.lock();
        if kept.len() == KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back(failure);
    }

    /// All that are kept, the newest first.
    pub fn newest(&self) -> Vec<Failure> {
        let mut all: Vec<Failure> = self.clients.lock().iter().cloned().collect();
        all.extend(self.others.lock().iter().cloned());
        all.sort_unstable_by_key(|failure| Reverse((failure.at, failure.request_id)));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: u32, status: u16) -> Line {
        Line {
            timestamp: Timestamp::from_micros(i64::from(number)),
            level: "INFO",
            target: "t",
            request: RequestId::from_int(u128::from(number)),
            endpoint: "chat.completions",
            status,
            customer: None,
            key: None,
            model: "m".into(),
            upstream: None,
            attempts: 0,
            refused: (status == 401).then_some("invalid_api_key"),
            error: (status == 502).then(|| "ReadError".into()),
            charged: None,
            read_us: None,
            first_byte_us: None,
            overhead_us: None,
            duration_us: 2_500,
            span: None,
        }
    }

    #[test]
    fn many_of_one_kind_leave_those_of_the_other() {
        let failures = Failures::default();
        for (number, status) in [(1, 502), (2, 200), (3, 0)] {
            failures.note(&line(number, status));
        }
        (10..10_010).for_each(|number| failures.note(&line(number, 401)));
        let newest = failures.newest();
        assert_eq!(newest.len(), KEPT_MAX + 2);
        assert_eq!(
            (newest[0].status, &*newest[0].reason, newest[0].duration_us),
            (401, "invalid_api_key", 2_500)
        );
        let last = newest[KEPT_MAX..].iter().map(|failure| (failure.status, &*failure.reason));
        assert_eq!(last.collect::<Vec<_>>(), [(0, ""), (502, "ReadError")]);
    }
}
