//! The line to the client of one exchange, between the hooks and its session: what a hang-up means,
//! and how long is waited for whom.

use parking_lot::Mutex;
use pingora::protocols::http::server::Session as HttpSession;
use pingora::{Error, ErrorType, Result};
use std::time::{Duration, Instant};

/// What a client that hangs up means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HangUp {
    /// The provider is stopped.
    Cancel,
    /// The provider's answer is read to its end, for at most this long.
    Drain(Duration),
}

/// How long an attempt may take.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bounds {
    /// When its answer has begun.
    pub first_byte_by: Option<Instant>,
    /// When its answer has ended.
    pub end_by: Option<Instant>,
    /// Pauses within its answer, which are looked after elsewhere: a timer for its end is set only once that is
    /// closer than the longest of them.
    pub silence: Duration,
}

impl Bounds {
    /// When its answer has begun at the latest, if there is such a moment.
    pub fn begins_by(&self) -> Option<Instant> {
        self.first_byte_by.into_iter().chain(self.end_by).min()
    }

    /// Until when is waited for what comes next, where nobody else sees to that.
    fn next_by(&self, now: Instant) -> Option<Instant> {
        let end_by = self.end_by.filter(|by| by.saturating_duration_since(now) <= self.silence);
        self.first_byte_by.into_iter().chain(end_by).min()
    }
}

/// See the module.
#[derive(Default)]
pub struct Line {
    /// Where the session is put when its rules are taken off.
    pub(super) inner: Mutex<Option<Box<HttpSession>>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    hang_up: Option<HangUp>,
    gone: Option<Instant>,
    stalled: bool,
    bounds: Bounds,
    late: bool,
}

impl Line {
    /// Says what a client that hangs up means from now on.
    pub fn set_hang_up(&self, hang_up: HangUp) {
        self.state.lock().hang_up = Some(hang_up);
    }

    /// An answer is awaited within bounds.
    pub fn awaits(&self, bounds: Bounds) {
        self.state.lock().bounds = bounds;
    }

    /// The answer has begun.
    pub fn begun(&self) {
        self.state.lock().bounds.first_byte_by = None;
    }

    /// Whether the last attempt ended because its answer did not begin or end in time. Tells it once.
    pub fn take_late(&self) -> bool {
        std::mem::take(&mut self.state.lock().late)
    }

    /// Since when the client is gone, if it is and its answer is being drained.
    pub fn gone_since(&self) -> Option<Instant> {
        self.state.lock().gone
    }

    /// Whether the client is gone because it did not read.
    pub fn is_stalled(&self) -> bool {
        self.state.lock().stalled
    }

    /// The client went away: gives the error back unless the answer is to be drained.
    pub fn went(&self, error: Box<Error>) -> Result<()> {
        let mut state = self.state.lock();
        state.stalled |= *error.etype() == ErrorType::WriteTimedout;
        match state.hang_up {
            Some(HangUp::Drain(_)) => {
                state.gone.get_or_insert_with(Instant::now);
                Ok(())
            }
            Some(HangUp::Cancel) | None => Err(error.into_down()),
        }
    }

    /// Listens to the client, by `read`, for as long as there is something to wait for.
    ///
    /// # Errors
    /// When the client is gone and nothing is drained for it, or for too long; when the answer did not begin or
    /// end in time.
    pub async fn listen<T>(&self, read: impl Future<Output = Result<T>>) -> Result<T> {
        if self.gone_since().is_none() {
            let by = self.state.lock().bounds.next_by(Instant::now());
            let read = tokio::select! {
                read = read => read,
                () = until(by) => {
                    self.state.lock().late = true;
                    return Err(Error::explain(ErrorType::ReadTimedout, "the answer is not there in time").into_up());
                }
            };
            match read {
                Ok(read) => return Ok(read),
                Err(error) => self.went(error)?,
            }
        }
        until(self.drained_by()).await;
        Err(ran_out())
    }

    fn drained_by(&self) -> Option<Instant> {
        let state = self.state.lock();
        match (state.gone, state.hang_up) {
            (Some(gone), Some(HangUp::Drain(time))) => {
                gone.checked_add(time).into_iter().chain(state.bounds.end_by).min()
            }
            (Some(_), Some(HangUp::Cancel) | None) | (None, _) => None,
        }
    }
}

/// A drain has reached its bounds, by nobody's fault but the client's: it pays for what the provider was
/// stopped at.
pub fn ran_out() -> Box<Error> {
    Error::explain(ErrorType::ConnectionClosed, "the client is gone for long").into_down()
}

/// Waits until then; without a moment, for ever.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_has_a_timer_once_it_is_closer_than_a_pause_may_be() {
        let now = Instant::now();
        let at = |second| now + Duration::from_secs(second);
        let bounds = Bounds { first_byte_by: None, end_by: Some(at(100)), silence: Duration::from_secs(30) };
        assert_eq!([0, 69, 70, 100, 101].map(|second| bounds.next_by(at(second))), {
            [None, None, Some(at(100)), Some(at(100)), Some(at(100))]
        });
        let early = Bounds { first_byte_by: Some(at(5)), ..bounds };
        assert_eq!([0, 80].map(|second| early.next_by(at(second))), [Some(at(5)), Some(at(5))]);
        assert_eq!(Bounds::default().next_by(now), None);
    }
}
