//! Hedging a slow first byte, where the operator wants it: another account is asked beside the first, and
//! whichever begins to answer first serves the request. The other's connection is closed; its provider may
//! charge the operator all the same.
//!
//! Pingora gives a request one upstream connection at a time. So the first attempt of a request that may be hedged is
//! made here, over connections of our own, in the hook that may answer by itself. What comes passes the same hooks, in
//! the same order. When nothing could be delivered, the next attempt is Pingora's, as of any other request.
//!
//! There is one hold, and one charge: the account in [`InExchange::lease`] is the one that the request goes on with.

mod beginning;
mod rules;

use super::Gateway;
use super::attempt::{self, LEFT, STALE, gone, note, trace, under_way};
use super::choose::ask;
use super::context::{Context, InExchange};
use super::forward;
use super::line::Bounds;
use crate::upstream::Lease;
use crate::upstream::health::Fault;
use beginning::{Beginning, Lost, Outgoing};
use bytes::Bytes;
use http::{Version, header};
use pingora::protocols::http::HttpTask;
use pingora::{Error, ErrorType, Result};
use pingora_proxy::{ProxyHttp, Session};
use rules::Runner;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How an attempt ended that was given up for another.
const HEDGED: &str = "hedged";

/// What came of an attempt.
type Came = std::result::Result<Beginning, Lost>;

/// The attempt beside the one that the request goes on with.
struct Beside {
    lease: Lease,
    /// Counted from 1.
    number: u32,
}

/// After how long without a first byte this request is hedged; `None`: it is not.
pub fn after(ctx: &Context) -> Option<Duration> {
    rules::after(&ctx.admitted.as_ref()?.exchange.request, ctx.live.config.retry.hedge)
}

impl Gateway {
    /// Makes the first attempt, with another beside it if nothing comes `after` some time, and delivers what comes.
    /// Tells whether one more attempt is to follow.
    pub(super) async fn hedged(
        &self,
        session: &mut Session,
        ctx: &mut Box<Context>,
        after: Duration,
    ) -> Result<bool> {
        let delivered = match self.first_beginning(session, ctx, after).await {
            Ok(beginning) => self.deliver(session, ctx, beginning).await,
            Err(error) => Err(error),
        };
        match delivered {
            Ok(()) => Ok(false),
            Err(error) if error.retry() => Ok(true),
            Err(error) => Err(error),
        }
    }

    async fn first_beginning(
        &self,
        session: &mut Session,
        ctx: &mut Box<Context>,
        after: Duration,
    ) -> Result<Beginning> {
        let (_, address) = self.begin_attempt(session, ctx).await?;
        attempt::goes_out(ctx)?;
        let Some(InExchange { exchange, line, lease: Some(lease), number, .. }) = &ctx.admitted else {
            return Err(Error::explain(ErrorType::InternalError, "no upstream account was chosen"));
        };
        // Each attempt looks after its own time.
        line.awaits(Bounds::default());
        let first = outgoing(session, ctx, (lease, *number), exchange.upstream_body(), address)?;
        let mut first = pin!(first.begin(&self.connector));
        let came = tokio::select! {
            came = first.as_mut() => Some(came),
            error = gone(session) => return Err(self.broke(session, ctx, error, false)),
            () = tokio::time::sleep(after) => None,
        };
        if let Some(came) = came {
            return came.map_err(|lost| self.lost(session, ctx, lost));
        }
        match self.second(session, ctx) {
            Some((beside, second)) => {
                let second = pin!(second.begin(&self.connector));
                self.race(session, ctx, [first, second], beside).await
            }
            None => self.alone(session, ctx, first).await,
        }
    }

    /// A second attempt, if one may go now: to another account, which has room at once.
    fn second(&self, session: &Session, ctx: &mut Context) -> Option<(Beside, Outgoing)> {
        let admitted = ctx.admitted.as_ref()?;
        let left = admitted.retry.total.saturating_sub(ctx.started.elapsed());
        if left.is_zero()
            || admitted.attempts >= admitted.retry.attempts_max
            || admitted.line.gone_since().is_some()
        {
            return None;
        }
        let first = Arc::clone(&admitted.lease.as_ref()?.account().name);
        let tried = [&*admitted.tried, &[first]].concat();
        let ask = ask(admitted, &tried);
        let mut lease = self.live.load().pool.choose(&ask, Instant::now(), fastrand::u64(..)).ok()?;
        let (number, body) = (admitted.attempts + 1, admitted.exchange.request.body_for(lease.model()));
        let address = lease.account().address()?;
        let second = outgoing(session, ctx, (&lease, number), body, address).ok()?;
        if !self.may_retry() {
            return None;
        }
        lease.sent();
        ctx.admitted.as_mut()?.attempts = number;
        Some((Beside { lease, number }, second))
    }

    /// Waits for the first of two that the client can be given; if one fails, for the other.
    async fn race<F: Future<Output = Came> + Send>(
        &self,
        session: &mut Session,
        ctx: &mut Box<Context>,
        [mut first, mut second]: [Pin<&mut F>; 2],
        mut beside: Beside,
    ) -> Result<Beginning> {
        let (runner, came) = tokio::select! {
            came = first.as_mut() => (Runner::First, came),
            came = second.as_mut() => (Runner::Second, came),
            error = gone(session) => {
                let admitted = under_way(ctx)?;
                trace(&mut admitted.traced, &beside.lease, beside.number, LEFT);
                return Err(self.broke(session, ctx, error, false));
            }
        };
        let admitted = under_way(ctx)?;
        let judged = match &came {
            Ok(beginning) => beginning.judge(admitted.exchange.request.comes).map_err(Some),
            Err(lost) => Err(lost.fault()),
        };
        let goes_on = runner.or_other(judged.map_err(|_| ()));
        if goes_on == Runner::Second {
            change_over(admitted, &mut beside);
        }
        self.leave(admitted, beside, (&came, judged));
        if judged.is_ok() {
            return came.map_err(|lost| self.lost(session, ctx, lost));
        }
        // Its connection is closed now, not after the other's answer.
        drop(came);
        let other = match goes_on {
            Runner::First => first,
            Runner::Second => second,
        };
        self.alone(session, ctx, other).await
    }

    /// Waits for the only attempt that is left.
    async fn alone<F: Future<Output = Came> + Send>(
        &self,
        session: &mut Session,
        ctx: &mut Box<Context>,
        attempt: Pin<&mut F>,
    ) -> Result<Beginning> {
        tokio::select! {
            came = attempt => came.map_err(|lost| self.lost(session, ctx, lost)),
            error = gone(session) => Err(self.broke(session, ctx, error, false)),
        }
    }

    fn lost(&self, session: &Session, ctx: &mut Context, lost: Lost) -> Box<Error> {
        match lost {
            Lost::Unconnected(error) => self.unconnected(ctx, error),
            Lost::Broke { error, reused } => self.broke(session, ctx, error, reused),
        }
    }

    /// The request goes on without an attempt: it failed, or another has begun to answer.
    fn leave(
        &self,
        admitted: &mut InExchange,
        Beside { mut lease, number }: Beside,
        (came, judged): (&Came, std::result::Result<(), Option<Fault>>),
    ) {
        match judged {
            Ok(()) => {
                note(admitted, &lease, HEDGED, None);
                trace(&mut admitted.traced, &lease, number, HEDGED);
                self.metrics.attempt(&lease.account().name, HEDGED);
                lease.given_up(Instant::now());
            }
            Err(None) => {
                note(admitted, &lease, STALE, None);
                trace(&mut admitted.traced, &lease, number, STALE);
                lease.unsent();
            }
            Err(Some(fault)) => {
                let header = came.as_ref().ok().map(|beginning| &beginning.header);
                if let Some(header) = header {
                    lease.told(&forward::report(header), Instant::now());
                }
                note(admitted, &lease, fault.name(), header.map(|header| header.status.as_u16()));
                self.blame(admitted, lease, number, fault);
            }
        }
    }

    /// Passes an answer on as Pingora would: by the same hooks, and each piece as it comes.
    async fn deliver(
        &self,
        session: &mut Session,
        ctx: &mut Box<Context>,
        mut beginning: Beginning,
    ) -> Result<()> {
        match self.pass_on(session, ctx, &mut beginning).await {
            Ok(()) => {
                beginning.release(&self.connector).await;
                Ok(())
            }
            Err(error) => Err(self.broke(session, ctx, error, false)),
        }
    }

    async fn pass_on(
        &self,
        session: &mut Session,
        ctx: &mut Box<Context>,
        beginning: &mut Beginning,
    ) -> Result<()> {
        attempt::is_awaited(ctx)?;
        let mut header = beginning.header.clone();
        self.upstream_response_filter(session, &mut header, ctx).await?;
        // As Pingora does it: whoever writes the header knows what of this its client can be told.
        header.set_version(Version::HTTP_11);
        header.insert_header(header::TRANSFER_ENCODING, "chunked")?;
        self.response_filter(session, &mut header, ctx).await?;
        session.write_response_tasks(vec![HttpTask::Header(Box::new(header), false)]).await?;
        loop {
            let mut piece = tokio::select! {
                piece = beginning.next() => piece?,
                error = gone(session) => return Err(error),
            };
            let ends = piece.is_none();
            self.response_body_filter(session, &mut piece, ends, ctx)?;
            let ended = session.write_response_tasks(vec![HttpTask::Body(piece, ends)]).await?;
            if ends || ended {
                return Ok(());
            }
        }
    }
}

/// What an attempt sends to whom.
fn outgoing(
    session: &Session,
    ctx: &Context,
    (lease, number): (&Lease, u32),
    body: Bytes,
    address: SocketAddr,
) -> Result<Outgoing> {
    let Some(InExchange { exchange, .. }) = &ctx.admitted else {
        return Err(Error::explain(ErrorType::InternalError, "nothing was admitted"));
    };
    let request = &exchange.request;
    let header = attempt::header(session.req_header(), ctx, request.endpoint, (lease, number), &body)?;
    let (account, comes) = (Arc::clone(lease.account()), request.comes);
    Ok(Outgoing { account, address, header, body, comes, started: ctx.started })
}

/// From now on the request goes on with the other attempt.
fn change_over(admitted: &mut InExchange, beside: &mut Beside) {
    let InExchange { exchange, line, lease, number, .. } = admitted;
    let lease = lease.as_mut().expect("the first attempt is under way");
    std::mem::swap(lease, &mut beside.lease);
    std::mem::swap(number, &mut beside.number);
    // Who is gone already is drained for as it was when they went.
    if line.gone_since().is_none() {
        line.set_hang_up(attempt::hang_up(lease.account(), exchange));
    }
}
