//! One admitted exchange: what its answer is metered as, and how its hold ends.
//!
//! Shared by the hooks, which feed it the provider's bytes, and the downstream session, which
//! holds back the end of the answer until the charge is durable. Whoever sees the end first
//! settles; the hold makes sure that it happens once.

mod extend;
mod settling;

use super::bill::{Bill, End, Settled};
use super::compare::Sample;
use super::due::{self, Due};
use super::request::{Comes, Request, is_object_id};
use crate::admit::Admitted;
use crate::admit::content::{Listener, Said};
use crate::admit::running::Permit;
use crate::endpoint::Endpoint;
use crate::ledger::{Claim, Commit, Down, Hold};
use crate::meter::{BodyMeter, Decoder, Delivered, Reading, Shape, StreamMeter, redact, tokenizer};
use crate::settle::Attempt;
use crate::settle::price::ModelPrice;
use crate::usage::Metered;
use bytes::Bytes;
use extend::Extending;
pub use extend::{Then, no_more};
use parking_lot::Mutex;
use settling::Settling;
use std::sync::Arc;
use std::time::Instant;

/// An answer that cannot be delivered: the account's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unusable(pub &'static str);

/// An admitted exchange.
pub struct Exchange {
    /// What was asked.
    pub request: Request,
    /// At what prices.
    pub price: Arc<ModelPrice>,
    /// How long each answer may be at most, in tokens, where what can be paid is less than was asked for.
    pub output_cap: Option<u64>,
    /// Tells if it is to be ended before its time.
    pub permit: Permit,
    /// Where its report is held against our own count.
    sample: Option<Sample>,
    started: Instant,
    state: Mutex<State>,
    /// By what its client knows it, until another may be known by that.
    claim: Mutex<Option<Claim>>,
    settling: tokio::sync::Mutex<Settling>,
}

struct State {
    hold: Option<Hold>,
    /// Hears the text of the answer, if the lot fell on it.
    listener: Option<Box<Listener>>,
    upstream_body: Bytes,
    decoder: Option<Decoder>,
    answer: Answer,
    /// Whether the provider has the request, as far as we know.
    sent: bool,
    held_back: bool,
    /// What more is held while it runs, where that is needed.
    extending: Option<Box<Extending>>,
    status: u16,
    attempts: Vec<Attempt>,
    first_byte: Option<Instant>,
}

/// What is being received.
enum Answer {
    /// Nothing yet.
    Awaited,
    /// JSON that is held back until it is whole.
    Plain(BodyMeter),
    /// Events that pass at once.
    Stream(Box<StreamMeter>),
    /// Audio that passes at once, and whether any came.
    Audio { begun: bool },
    /// The provider's error, held back so that nothing of the account passes with it.
    Refusal(BodyMeter),
    /// The provider's refusal of one request too many: why, stands in its body.
    Judged(BodyMeter),
    /// It ended; what may still come passes.
    Ended,
}

impl Exchange {
    /// A new exchange, and the commit of its hold.
    pub fn new(
        request: Request,
        admitted: Admitted,
        sample: Option<Sample>,
        listener: Option<Listener>,
        started: Instant,
    ) -> (Arc<Self>, Commit) {
        let Admitted { hold, commit, price, output_cap, slices, permit, claim } = admitted;
        if request.comes != Comes::Json {
            // Durable by the time the provider begins. A plain answer waits for its charge anyway.
            commit.begin();
        }
        let state = State {
            hold: Some(hold),
            listener: listener.map(Box::new),
            upstream_body: Bytes::new(),
            decoder: None,
            answer: Answer::Awaited,
            sent: false,
            held_back: false,
            extending: slices.map(|slices| Box::new(Extending::new(slices))),
            status: 0,
            attempts: Vec::new(),
            first_byte: None,
        };
        let settling = tokio::sync::Mutex::new(Settling::Open);
        let (state, claim) = (Mutex::new(state), Mutex::new(claim));
        let exchange =
            Exchange { request, price, output_cap, permit, sample, started, state, claim, settling };
        (Arc::new(exchange), commit)
    }

    /// Prepares the next attempt: `body` goes to the provider.
    pub fn begin_attempt(&self, body: Bytes) {
        let mut state = self.state.lock();
        state.upstream_body = body;
        state.decoder = None;
        state.answer = Answer::Awaited;
        state.sent = false;
    }

    /// The request goes out to the provider.
    pub fn note_sent(&self) {
        self.state.lock().sent = true;
    }

    /// What goes to the provider.
    pub fn upstream_body(&self) -> Bytes {
        self.state.lock().upstream_body.clone()
    }

    /// The attempt failed before anything of it was delivered: no provider is at work for it.
    pub fn end_attempt(&self) {
        let mut state = self.state.lock();
        state.sent = false;
        if !matches!(state.answer, Answer::Stream(_) | Answer::Audio { .. } | Answer::Ended) {
            state.answer = Answer::Awaited;
        }
    }

    /// Notes how an attempt ended.
    pub fn note_attempt(&self, attempt: Attempt) {
        self.state.lock().attempts.push(attempt);
    }

    /// The attempt that was answered failed all the same.
    pub fn amend_attempt(&self, outcome: &'static str) {
        if let Some(last) = self.state.lock().attempts.last_mut() {
            last.outcome = outcome.into();
        }
    }

    /// A plain answer begins: it is held back until it is whole.
    pub fn begin_plain(&self, status: u16, decoder: Option<Decoder>) {
        let endpoint = self.request.endpoint;
        let all = self.sample.is_some() || self.request.kept.run;
        let meter = if all { BodyMeter::of_text(endpoint) } else { BodyMeter::new(endpoint) };
        self.begin(status, decoder, Answer::Plain(meter));
    }

    /// A streamed answer begins.
    pub fn begin_stream(&self, status: u16, decoder: Option<Decoder>) {
        let usage_chunk = self.request.stream.unwrap_or(crate::meter::UsageChunk::Show);
        let endpoint = self.request.endpoint;
        // The events of a response repeat what was asked.
        let echo = if endpoint == Endpoint::Responses { self.request.body().len() } else { 0 };
        let mut meter = StreamMeter::with_echo(endpoint, usage_chunk, echo);
        if let Some(extending) = &self.state.lock().extending {
            meter.allow(extending.room());
        }
        self.begin(status, decoder, Answer::Stream(Box::new(meter)));
    }

    /// Audio begins, which passes at once: it is charged by what was asked for.
    pub fn begin_audio(&self, status: u16, decoder: Option<Decoder>) {
        self.begin(status, decoder, Answer::Audio { begun: false });
    }

    /// The provider's own refusal begins.
    pub fn begin_refusal(&self, status: u16, decoder: Option<Decoder>) {
        self.begin(status, decoder, Answer::Refusal(BodyMeter::new(self.request.endpoint)));
    }

    /// An error begins that says in its body whose fault it is; nothing of it passes.
    pub fn begin_judged(&self, status: u16, decoder: Option<Decoder>) {
        self.begin(status, decoder, Answer::Judged(BodyMeter::new(self.request.endpoint)));
    }

    /// The body of an error that was judged, as far as it came.
    pub fn judged(&self) -> Option<Bytes> {
        let mut state = self.state.lock();
        match std::mem::replace(&mut state.answer, Answer::Ended) {
            Answer::Judged(meter) => Some(meter.end().0),
            other => {
                state.answer = other;
                None
            }
        }
    }

    fn begin(&self, status: u16, decoder: Option<Decoder>, answer: Answer) {
        let mut state = self.state.lock();
        state.status = status;
        state.decoder = decoder;
        state.held_back = matches!(answer, Answer::Plain(_) | Answer::Judged(_));
        state.answer = answer;
    }

    /// Whether the answer is held back until it is whole.
    pub fn is_held_back(&self) -> bool {
        self.state.lock().held_back
    }

    /// Whether its hold has ended: nothing more may be delivered for it.
    pub fn is_settled(&self) -> bool {
        self.state.lock().hold.is_none()
    }

    /// Bytes of text that came of a stream so far.
    pub fn delivered_bytes(&self) -> u64 {
        match &self.state.lock().answer {
            Answer::Stream(meter) => meter.delivered().bytes,
            Answer::Awaited
            | Answer::Plain(_)
            | Answer::Audio { .. }
            | Answer::Refusal(_)
            | Answer::Judged(_)
            | Answer::Ended => 0,
        }
    }

    /// When the first byte of the answer came.
    pub fn first_byte(&self) -> Option<Instant> {
        self.state.lock().first_byte
    }

    /// Takes a piece of the answer and gives what may go to the client now.
    ///
    /// # Errors
    /// When the answer cannot be used; nothing of it was delivered then, or it was being streamed.
    pub fn feed(self: &Arc<Self>, piece: Bytes) -> Result<Bytes, Unusable> {
        let mut state = self.state.lock();
        if state.first_byte.is_none() && !piece.is_empty() {
            state.first_byte = Some(Instant::now());
        }
        let piece = match &mut state.decoder {
            Some(decoder) => decoder.feed(&piece).map_err(|_| Unusable("its compression is damaged"))?,
            None => piece,
        };
        self.take(&mut state, piece)
    }

    fn take(self: &Arc<Self>, state: &mut State, piece: Bytes) -> Result<Bytes, Unusable> {
        match &mut state.answer {
            Answer::Awaited | Answer::Ended => Ok(piece),
            Answer::Audio { begun } => {
                *begun |= !piece.is_empty();
                Ok(piece)
            }
            Answer::Plain(meter) | Answer::Refusal(meter) | Answer::Judged(meter) => {
                meter.feed(&piece).map_err(|_| Unusable("it is too large"))?;
                Ok(Bytes::new())
            }
            Answer::Stream(meter) => {
                let out = meter.feed(&piece);
                if meter.is_done() {
                    self.end_stream(state);
                } else {
                    self.look_ahead(state);
                }
                Ok(out)
            }
        }
    }

    /// The answer ended: settles, and gives what is left for the client. Asked again, gives nothing. As
    /// long as something is [kept back](Self::more), it has not.
    ///
    /// # Errors
    /// When the answer cannot be used.
    pub fn end(self: &Arc<Self>) -> Result<Bytes, Unusable> {
        let mut state = self.state.lock();
        let mut left = Bytes::new();
        if let Some(decoder) = state.decoder.take() {
            let decoded = decoder.finish().map_err(|_| Unusable("its compression is damaged"))?;
            left = self.take(&mut state, decoded)?;
        }
        match std::mem::replace(&mut state.answer, Answer::Ended) {
            Answer::Ended => Ok(left),
            Answer::Awaited | Answer::Audio { begun: false } => Err(Unusable("it is empty")),
            Answer::Audio { begun: true } => {
                self.settle(&mut state, Reading::of_audio(), End::Complete);
                Ok(left)
            }
            judged @ Answer::Judged(_) => {
                state.answer = judged;
                Err(Unusable("it is an error"))
            }
            Answer::Refusal(meter) => {
                self.release(&mut state, End::Refused);
                let (body, _) = meter.end();
                Ok(redact(&body).map_or(body, Bytes::from))
            }
            Answer::Plain(meter) => {
                let (body, reading) = meter.end();
                match reading.shape {
                    Shape::Complete if !due::is_countable(&self.request.demand, &self.price, &reading) => {
                        return Err(Unusable("it does not tell what it used"));
                    }
                    Shape::Complete => {
                        if let Some(listener) = state.listener.take() {
                            listener.heard(Said::Answered(body.clone()));
                        }
                        self.settle(&mut state, reading, End::Complete);
                    }
                    Shape::Failed => return Err(Unusable("it is an error in disguise")),
                    Shape::Finished | Shape::Garbage | Shape::Cut => return Err(Unusable("it is not JSON")),
                }
                Ok(body)
            }
            Answer::Stream(mut meter) => {
                let tail = if meter.is_short() { Bytes::new() } else { meter.finish() };
                let is_short = meter.is_short();
                state.answer = Answer::Stream(meter);
                if !is_short {
                    self.end_stream(&mut state);
                }
                Ok(if left.is_empty() { tail } else { [left, tail].concat().into() })
            }
        }
    }

    fn end_stream(&self, state: &mut State) {
        let Answer::Stream(meter) = std::mem::replace(&mut state.answer, Answer::Ended) else { return };
        let reading = meter.end();
        let end = due::end_of(reading.shape);
        self.settle(state, reading, end);
    }

    /// The answer will not be completed: charges what was delivered, or releases the hold. Does
    /// nothing if it is settled already.
    pub fn abort(&self, end: End) {
        let mut state = self.state.lock();
        match std::mem::replace(&mut state.answer, Answer::Ended) {
            Answer::Stream(meter) => self.settle(&mut state, meter.end(), end),
            Answer::Audio { begun: true } => self.settle(&mut state, Reading::of_audio(), end),
            // The provider was stopped at work: it bills the input, as far as anybody knows.
            Answer::Awaited | Answer::Plain(_) | Answer::Audio { begun: false }
                if end.is_early() && state.sent && !self.request.endpoint.is_free() =>
            {
                let audio = self.request.comes == Comes::Audio;
                self.settle(&mut state, if audio { Reading::of_audio() } else { Reading::default() }, end);
            }
            Answer::Awaited
            | Answer::Plain(_)
            | Answer::Audio { .. }
            | Answer::Refusal(_)
            | Answer::Judged(_)
            | Answer::Ended => {
                self.release(&mut state, end);
            }
        }
    }

    fn settle(&self, state: &mut State, mut reading: Reading, end: End) {
        let Some(hold) = state.hold.take() else { return };
        if let Some(listener) = state.listener.take() {
            listener.streamed(&reading.delivered.text, reading.delivered.bytes);
        }
        let attempts = std::mem::take(&mut state.attempts);
        let mut bill = self.bill(state, attempts, end);
        bill.tier = reading.tier.unwrap_or(bill.tier);
        bill.picture = std::mem::take(&mut reading.picture).or(bill.picture);
        let kept = reading.object.take().filter(|id| self.request.kept.answer && is_object_id(id));
        bill.object = kept.map(Into::into);
        if let (true, true, Some(object)) = (self.request.kept.run, reading.at_work, &bill.object) {
            let object = Arc::clone(object);
            return self.set(self.detach(bill, hold, object));
        }
        let sample = self.sample.as_ref().filter(|_| end == End::Complete);
        let sample = sample.map(|sample| (sample, reading.delivered.clone()));
        self.set(match due::due(&self.request.demand, &self.price, reading, end) {
            Due::Nothing => {
                let (commit, settled) = bill.release(hold);
                Settling::Committing(commit, settled)
            }
            Due::Known { usage, metered, reported } => {
                if let Some((sample, delivered)) = sample {
                    sample.compare(self.price.encoding, self.request.countable(), delivered, usage);
                }
                let (commit, settled) = bill.capture(hold, usage, metered, reported.as_deref());
                Settling::Committing(commit, settled)
            }
            Due::Uncounted(uncounted) => {
                if let Some(why) = &uncounted.refused {
                    tracing::warn!(why, "a provider's usage report is refused and estimated instead");
                }
                let (asked, encoding) = (self.request.countable(), self.price.encoding);
                // On a thread that may block.
                Settling::Counting(tokio::task::spawn_blocking(move || {
                    let usage = uncounted.count(encoding, &asked);
                    bill.capture(hold, usage, Metered::Estimated, None)
                }))
            }
        });
    }

    /// Lets the hold go on, and counts what was asked while that is there: the run may end untold.
    fn detach(&self, bill: Bill, hold: Hold, object: Arc<str>) -> Settling {
        let (asked, encoding) = (self.request.countable(), self.price.encoding);
        let stored = self.request.demand.stored_tokens_min;
        Settling::Counting(tokio::task::spawn_blocking(move || {
            let asked = tokenizer::estimate(encoding, &asked, &Delivered::default());
            Bill { end: End::Running, ..bill }.detach(hold, object, asked.input.saturating_add(stored))
        }))
    }

    fn release(&self, state: &mut State, end: End) {
        let Some(hold) = state.hold.take() else { return };
        let attempts = std::mem::take(&mut state.attempts);
        let (commit, settled) = self.bill(state, attempts, end).release(hold);
        // There is no charge: it may be sent again at once.
        self.claim.lock().take();
        self.set(Settling::Committing(commit, settled));
    }

    fn set(&self, settling: Settling) {
        // Nobody waits before there is something to wait for.
        *self.settling.try_lock().expect("settled once") = settling;
    }

    fn bill(&self, state: &State, attempts: Vec<Attempt>, end: End) -> Bill {
        Bill {
            end,
            price: Arc::clone(&self.price),
            endpoint: self.request.endpoint,
            tier: self.request.demand.tier,
            picture: self.request.demand.picture.clone(),
            model: self.request.demand.model.clone(),
            stream: self.request.stream.is_some(),
            output_cap: self.output_cap,
            status: state.status,
            object: None,
            attempts,
            started: self.started,
            first_byte: state.first_byte,
        }
    }

    /// Waits until the end of the hold is durable; `None` while it has not ended.
    ///
    /// # Errors
    /// When it never will be.
    pub async fn settled(&self) -> Option<Result<Settled, Down>> {
        let settled = settling::wait(&self.settling).await;
        if settled.is_some() {
            // Whoever sends it again is told of the charge.
            self.claim.lock().take();
        }
        settled
    }
}

#[cfg(test)]
mod tests;
