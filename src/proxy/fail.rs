//! Requests that fail, and streams that we stop: what their clients are told, and how their holds end.

use super::attempt;
use super::bill::End;
use super::context::{Context, InExchange};
use super::exchange::Exchange;
use super::respond::Refusal;
use super::{Gateway, downstream};
use pingora::{Error, ErrorSource};
use pingora_proxy::Session;

/// How a request failed.
enum Failed {
    /// Its client went away.
    Gone,
    /// We stopped it, and its client is told why.
    Stopped(Refusal),
    /// No provider could answer, or one broke off.
    Broken,
}

impl Gateway {
    /// Ends the hold, and tells the client if it can still hear.
    pub(super) async fn fail(&self, session: &mut Session, error: &Error, ctx: &mut Context) {
        let mut failed = match error.esource() {
            ErrorSource::Downstream => Failed::Gone,
            ErrorSource::Upstream | ErrorSource::Internal | ErrorSource::Unset => Failed::Broken,
        };
        let mut events = 0;
        if let Some(InExchange { exchange, line, .. }) = ctx.admitted.as_ref() {
            downstream::restore(session, line);
            events = exchange.events();
            let end = match (stopped(exchange), &failed) {
                (Some((end, refusal)), Failed::Gone) => {
                    failed = Failed::Stopped(refusal);
                    end
                }
                (None, Failed::Gone) => End::ClientGone,
                (_, Failed::Broken | Failed::Stopped(_)) if session.response_written().is_none() => {
                    End::Failed
                }
                (_, Failed::Broken | Failed::Stopped(_)) => End::Cut,
            };
            exchange.abort(end);
        }
        ctx.times.ended.get_or_insert_with(std::time::Instant::now);
        match (failed, session.response_written().is_none()) {
            // What nginx logs when a client closed the connection.
            (Failed::Gone, _) => ctx.status = 499,
            (Failed::Stopped(refusal), false) => self.end_stream(session, ctx, refusal, events).await,
            (Failed::Broken, false) => {}
            (Failed::Stopped(refusal), true) => self.refuse_failed(session, ctx, refusal).await,
            (Failed::Broken, true) => {
                let refusal = ctx.refusal.take().unwrap_or_else(|| match ctx.admitted.as_ref() {
                    Some(admitted) => attempt::last_fault(admitted),
                    None => Refusal::Overloaded,
                });
                self.refuse_failed(session, ctx, refusal).await;
            }
        }
    }

    async fn refuse_failed(&self, session: &mut Session, ctx: &mut Context, refusal: Refusal) {
        session.set_keepalive(None);
        if let Err(why) = self.refuse(session, ctx, refusal).await {
            tracing::debug!(%why, "the client did not wait for its error");
        }
    }

    /// Only a stream has begun already. It says why it ends, once its charge is durable.
    async fn end_stream(&self, session: &mut Session, ctx: &mut Context, refusal: Refusal, events: u64) {
        if let Some(admitted) = ctx.admitted.as_ref() {
            admitted.exchange.settled().await;
        }
        let event = refusal.event_at(ctx.place, ctx.request, events);
        ctx.refusal = Some(refusal);
        if ctx.status >= 400 {
            // The provider's own error was on its way.
            return;
        }
        if let Err(why) = session.write_response_body(Some(event), true).await {
            tracing::debug!(%why, "the client did not wait for its error");
        }
    }
}

/// Whether we stopped it, and why.
fn stopped(exchange: &Exchange) -> Option<(End, Refusal)> {
    if exchange.permit.is_stopped() {
        return Some((End::Stopped, Refusal::Banned));
    }
    exchange.shortage().map(|why| (End::CreditEnded, Refusal::not_extended(why)))
}
