//! Extensions: the hold of a stream that is covered [slice by slice](crate::admit::slices) grows ahead of
//! what is delivered. What it does not cover yet is kept back, and when no more can be held, the stream
//! ends.
//!
//! Each extension says how far the request had come: what it is charged if the gateway ends meanwhile.

use super::{Answer, End, Exchange, State};
use crate::admit::slices::Slices;
use crate::ledger::{Extended, Extension, Failure, Refusal};
use crate::meter::tokenizer::{self, SoFar};
use crate::meter::{Delivered, StreamMeter};
use crate::money::Amount;
use crate::settle::price::Tier;
use crate::usage::{Usage, Weight};
use bytes::Bytes;
use pingora::{Error, ErrorType};
use std::sync::Arc;
use tokio::task::JoinHandle;

/// How it goes on after what was kept back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// With what comes next.
    On,
    /// Not at all: no more can be held.
    Ends,
}

/// What is held of a stream, and what is asked for beyond that.
pub(super) struct Extending {
    slices: Slices,
    asked: Option<Asked>,
    /// Tokens of its request, once they were counted.
    input: Option<u64>,
    output: SoFar,
    /// Why no more could be held.
    ended: Option<Failure>,
}

/// An extension that is being counted for and made.
type Asked = JoinHandle<Result<Extended, Failure>>;

impl Extending {
    pub(super) fn new(slices: Slices) -> Self {
        Extending { slices, asked: None, input: None, output: SoFar::default(), ended: None }
    }

    /// How much may be delivered.
    pub(super) fn room(&self) -> Weight {
        self.slices.room()
    }
}

/// What has to be counted before an extension can say how far the request has come.
struct Uncounted {
    /// As the provider told when it began.
    begun: Option<Usage>,
    tier: Option<Tier>,
    input: Option<u64>,
    output: SoFar,
    rest: Delivered,
    web_searches: u64,
}

/// No more can be held: what ends is ended as if its client were gone, and its client is told.
pub fn no_more() -> Box<Error> {
    Error::explain(ErrorType::ConnectionClosed, "no more can be held").into_down()
}

impl Exchange {
    /// Asks for more, well before it is needed.
    pub(super) fn look_ahead(self: &Arc<Self>, state: &mut State) {
        let State { answer: Answer::Stream(meter), extending: Some(extending), .. } = state else { return };
        if extending.asked.is_none() && extending.slices.is_short(meter.delivered().weight()) {
            let asked = self.ask(extending, meter);
            extending.asked = Some(asked);
        }
    }

    /// Waits until what is kept back is held, and gives what may go to the client now; `None` if nothing
    /// is. In the ordinary case it was held long before.
    pub async fn more(self: &Arc<Self>) -> Option<(Bytes, Then)> {
        let mut out = Vec::new();
        let mut was_short = false;
        while let Some((asked, is_early)) = self.asked() {
            was_short = true;
            let held = match asked.await {
                Ok(Ok(extended)) => extended.durable().await,
                Ok(Err(why)) => Err(why),
                Err(_) => Err(Failure::Down),
            };
            match held {
                Ok(more) => out.extend_from_slice(&self.resume(more)),
                // Asked for ahead: by now others may have given theirs back.
                Err(Failure::Refused(_)) if is_early => {}
                Err(why) => {
                    if let Some(extending) = &mut self.state.lock().extending {
                        extending.ended = Some(why);
                    }
                    return Some((out.into(), Then::Ends));
                }
            }
        }
        was_short.then(|| (out.into(), Then::On))
    }

    /// What was to be a stream comes whole: nothing of it is seen before its end, so that all that it may cost
    /// is held first.
    ///
    /// # Errors
    /// When that cannot be held. The provider's work is for nobody then, and costs nothing.
    pub async fn cover_whole(&self) -> Result<(), Box<Error>> {
        let by = (&self.request.demand, &*self.price);
        let asked = {
            let mut state = self.state.lock();
            let progress = self.bill(&state, Vec::new(), End::Interrupted).so_far(Usage::default());
            let State { hold: Some(hold), extending: Some(extending), .. } = &mut *state else {
                return Ok(());
            };
            let amount = extending.slices.rest(by);
            if amount <= Amount::ZERO {
                return Ok(());
            }
            let budgets = extending.slices.budgets;
            hold.extend(Extension { amount, least: amount, budgets, progress })
        };
        let held = match asked {
            Ok(extended) => extended.durable().await,
            Err(why) => Err(why),
        };
        let mut state = self.state.lock();
        let Some(extending) = &mut state.extending else { return Ok(()) };
        match held {
            Ok(more) => extending.slices.grown(more, by),
            Err(why) => {
                extending.ended = Some(why);
                state.sent = false;
                return Err(no_more());
            }
        }
        Ok(())
    }

    /// Whether something is kept back until more is held.
    pub fn is_short(&self) -> bool {
        matches!(&self.state.lock().answer, Answer::Stream(meter) if meter.is_short())
    }

    /// Why no more could be held, if that is so.
    pub fn shortage(&self) -> Option<Failure> {
        self.state.lock().extending.as_ref().and_then(|extending| extending.ended.clone())
    }

    /// Events of the stream that have passed.
    pub fn events(&self) -> u64 {
        match &self.state.lock().answer {
            Answer::Stream(meter) => meter.events(),
            Answer::Awaited
            | Answer::Plain(_)
            | Answer::Audio { .. }
            | Answer::Refusal(_)
            | Answer::Judged(_)
            | Answer::Ended => 0,
        }
    }

    /// Where something is kept back, the extension that it waits for, and whether it was asked for ahead.
    fn asked(self: &Arc<Self>) -> Option<(Asked, bool)> {
        let mut state = self.state.lock();
        let State { answer: Answer::Stream(meter), extending: Some(extending), .. } = &mut *state else {
            return None;
        };
        if !meter.is_short() {
            return None;
        }
        let early = extending.asked.take();
        let is_early = early.is_some();
        Some((early.unwrap_or_else(|| self.ask(extending, meter)), is_early))
    }

    fn resume(self: &Arc<Self>, more: Amount) -> Bytes {
        let mut state = self.state.lock();
        let State { answer: Answer::Stream(meter), extending: Some(extending), .. } = &mut *state else {
            return Bytes::new();
        };
        extending.slices.grown(more, (&self.request.demand, &self.price));
        meter.allow(extending.room());
        let out = meter.resume();
        if meter.is_done() {
            self.end_stream(&mut state);
        } else {
            self.look_ahead(&mut state);
        }
        out
    }

    /// Counts on a thread that may block, and extends.
    fn ask(self: &Arc<Self>, extending: &Extending, meter: &StreamMeter) -> Asked {
        let Extending { input, output, .. } = *extending;
        let rest = output.rest(meter.delivered());
        let (begun, tier, web_searches) = (meter.begun(), meter.tier(), meter.delivered().searches);
        let uncounted = Uncounted { begun, tier, input, output, rest, web_searches };
        let exchange = Arc::clone(self);
        tokio::task::spawn_blocking(move || exchange.extend(&uncounted))
    }

    fn extend(&self, uncounted: &Uncounted) -> Result<Extended, Failure> {
        let Uncounted { begun, tier, input, output, rest, web_searches } = uncounted;
        let encoding = self.price.encoding;
        let output = output.with(encoding, rest);
        let usage = begun.unwrap_or_else(|| Usage {
            input: input.unwrap_or_else(|| self.count_input()),
            ..Usage::default()
        });
        let usage = Usage { output: output.tokens(), reasoning: 0, web_searches: *web_searches, ..usage };
        let mut state = self.state.lock();
        let mut bill = self.bill(&state, state.attempts.clone(), End::Interrupted);
        bill.tier = tier.unwrap_or(bill.tier);
        let State { hold: Some(hold), extending: Some(extending), .. } = &mut *state else {
            // It ended meanwhile.
            return Err(Failure::Refused(Refusal::UnknownHold));
        };
        (extending.input, extending.output) = (Some(usage.input), output);
        let (amount, least) = extending.slices.next((&self.request.demand, &self.price));
        let budgets = extending.slices.budgets;
        hold.extend(Extension { amount, least, budgets, progress: bill.so_far(usage) })
    }

    /// Tokens of what was asked, with those that it refers to.
    fn count_input(&self) -> u64 {
        let shown = tokenizer::count_input(self.price.encoding, &self.request.countable());
        shown.saturating_add(self.request.demand.stored_tokens_min)
    }
}
