//! The judge of what is asked, and the rules by which it bans.

use crate::admit::content::{Bench, Event, Judge, OnEvent};
use crate::admit::running::Running;
use crate::auth::key::Digester;
use crate::ledger::Ledger;
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
    metrics: &Arc<Metrics>,
) -> (Judge, Rules) {
    let metrics = Arc::clone(metrics);
    let on_event: OnEvent = Arc::new(move |event| match event {
        Event::Violation(category, mode) => metrics.violation(category, mode.name()),
        Event::Unjudged => metrics.unjudged(),
        Event::Banned => metrics.banned_by_rule(),
    });
    let (judge, bench) = Judge::new(Arc::clone(ledger), running.clone(), digester, on_event);
    (judge, Rules(Mutex::new(Some(bench))))
}

/// Bans by the rules of the content policy.
pub(super) struct Rules(Mutex<Option<Bench>>);

#[async_trait]
impl BackgroundService for Rules {
    async fn start(&self, _shutdown: ShutdownWatch) {
        let bench = self.0.lock().take();
        if let Some(mut bench) = bench {
            bench.run().await;
        }
    }
}
