//! The line to the journal's writer: entries that are on their way to the disk.
//!
//! Whoever waits for the disk urges the writer on. Entries that nobody waits for yet, such as the
//! hold of a plain answer, ride along with the next group: they wake nobody and cost no fsync.

use super::entry::{Balance, Change, Seq};
use crate::clock::Timestamp;
use crate::id::CustomerId;
use parking_lot::{Condvar, Mutex};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;

/// The longest that entries wait for others to ride with: what nobody waited for and a crash may
/// take.
const RIDE_MAX: Duration = Duration::from_millis(50);

/// The journal is down: a write failed, or it was closed. Nothing more becomes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Down;

/// The entries of one command.
pub struct Submission {
    /// Whose.
    pub customer: CustomerId,
    /// When they were made.
    pub at: Timestamp,
    /// What changed, each with the balance after it. At least one.
    pub changes: Vec<(Change, Balance)>,
    /// Who is told the last of them.
    pub done: oneshot::Sender<Result<Seq, Down>>,
}

/// A place in the line, from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(u64);

/// Submissions in order.
#[derive(Default)]
pub struct Line {
    waiting: Mutex<Waiting>,
    called: Condvar,
    depth: AtomicUsize,
    down: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    submissions: Vec<Submission>,
    /// Places given so far.
    places: u64,
    call: Call,
}

/// What the writer is called for.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Call {
    #[default]
    None,
    /// Somebody waits for the disk.
    Urged,
    /// Nothing more comes.
    Closed,
}

impl Line {
    /// Puts entries in line. Their order in the journal is the order of these calls.
    ///
    /// The line is bounded by its callers: each request in flight has one hold and one end.
    pub fn submit(&self, submission: Submission) -> Place {
        let mut waiting = self.waiting.lock();
        waiting.places += 1;
        let place = Place(waiting.places);
        if waiting.call == Call::Closed {
            drop(waiting);
            let _ = submission.done.send(Err(Down));
        } else {
            waiting.submissions.push(submission);
            self.depth.fetch_add(1, Ordering::Relaxed);
        }
        place
    }

    /// Somebody waits for what has this place: wakes the writer, unless it is at it already.
    pub fn urge(&self, place: Place) {
        let mut waiting = self.waiting.lock();
        if waiting.call == Call::None && waiting.has(place) {
            waiting.call = Call::Urged;
            drop(waiting);
            self.called.notify_one();
        }
    }

    /// Somebody waits for all that is in line.
    pub fn urge_all(&self) {
        let place = Place(self.waiting.lock().places);
        self.urge(place);
    }

    /// Ends the writer once everything in line is durable. What comes later is refused.
    pub fn close(&self) {
        self.waiting.lock().call = Call::Closed;
        self.called.notify_one();
    }

    /// For the writer: waits until there is reason to write. False once nothing more comes.
    pub fn wait(&self) -> bool {
        let mut waiting = self.waiting.lock();
        while waiting.call == Call::None {
            let alone = self.called.wait_for(&mut waiting, RIDE_MAX).timed_out();
            if alone && !waiting.submissions.is_empty() {
                break;
            }
        }
        waiting.call != Call::Closed || !waiting.submissions.is_empty()
    }

    /// For the writer: takes all that is in line into `group`, which is empty.
    pub fn take(&self, group: &mut Vec<Submission>) {
        assert!(group.is_empty(), "a group is written before the next is taken");
        let mut waiting = self.waiting.lock();
        mem::swap(&mut waiting.submissions, group);
        if waiting.call == Call::Urged {
            waiting.call = Call::None;
        }
    }

    /// For the writer: so many are dealt with, one way or the other.
    pub fn leave(&self, submissions: usize) {
        self.depth.fetch_sub(submissions, Ordering::Relaxed);
    }

    /// Nothing more will become durable.
    pub fn fail(&self) {
        self.down.store(true, Ordering::Release);
    }

    /// Whether nothing more will become durable.
    pub fn is_down(&self) -> bool {
        self.down.load(Ordering::Acquire)
    }

    /// Commands that wait to become durable.
    pub fn depth(&self) -> usize {
        self.depth.load(Ordering::Relaxed)
    }
}

impl Waiting {
    fn has(&self, place: Place) -> bool {
        let taken = self.places - u64::try_from(self.submissions.len()).expect("usize fits");
        place.0 > taken
    }
}

/// The writer's end of the line. However it ends, also by a panic, everybody is told.
pub struct End(pub Arc<Line>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.fail();
        self.0.close();
        let mut left = Vec::new();
        self.0.take(&mut left);
        self.0.leave(left.len());
        for submission in left {
            let _ = submission.done.send(Err(Down));
        }
    }
}
