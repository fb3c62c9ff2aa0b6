//! The judge of what is asked, and the rules by which it bans.

use super::handover::OnViolation;
use crate::admit::bench::{Bench, Counter};
use crate::admit::content::{Case, Event, Judge, OnEvent};
use crate::admit::running::Running;
use crate::auth::key::Digester;
use crate::ledger::Ledger;
use crate::live::Current;
use crate::proxy::moderation::Moderator;
use crate::record::metrics::Metrics;
use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use std::sync::Arc;

/// The judge, and what bans by the rules of the content policy.
pub(super) fn judge(
    ledger: &Arc<Ledger>,
    running: &Running,
    digester: Digester,
    live: &Current,
    metrics: &Arc<Metrics>,
) -> (Judge, Rules) {
    let moderator = Arc::new(Moderator::new(Arc::clone(live), Arc::clone(metrics)));
    let metrics = Arc::clone(metrics);
    let on_event: OnEvent = Arc::new(move |event| match event {
        Event::Violation(category, mode) => metrics.violation(category, mode.name()),
        Event::Unjudged => metrics.unjudged(),
        Event::Banned => metrics.banned_by_rule(),
    });
    let (judge, bench) = Judge::new(Arc::clone(ledger), running.clone(), digester, moderator, on_event);
    (judge, Rules(Mutex::new(Some(bench))))
}

/// Counts what the process before this one noted, by the policy that is live.
pub(super) fn count(live: &Current, counter: Counter) -> OnViolation {
    let live = Arc::clone(live);
    Arc::new(move |customer, violation| {
        if let Some(content) = &live.load().config.policy.content {
            let case = Case { content: Arc::clone(content), customer, request: violation.request };
            counter.noted(&case, Arc::clone(&violation.category));
        }
    })
}

/// Bans by the rules of the content policy.
pub(super) struct Rules(Mutex<Option<Bench>>);

#[async_trait]
impl BackgroundService for Rules {
    async fn start(&self, _shutdown: ShutdownWatch) {
        let bench = self.0.lock().take();
        if let Some(bench) = bench {
            bench.run().await;
        }
    }
}
