//! The keeper of the state store: writes behind the journal, and mends the store after a failed write.
//!
//! The journal has everything, so that nothing is lost with a state store and requests go on. What a
//! store has after a failed write is unknown: it is opened again and read. One that is whole follows the
//! journal from where it stands; any other is removed and made anew. As long as that fails too, it is
//! tried again, less and less often.

use super::Ledger;
use super::book::Book;
use super::checkpoint::Checkpoint;
use super::disk::Disk;
use super::frame::Head;
use super::index::Index;
use super::records::Pending;
use super::segment::{Position, Segment};
use super::state::{self, Intake, State, StateError, Told};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How far the state may be behind the journal while it runs.
const WRITE_EVERY: Duration = Duration::from_millis(250);
/// How soon a store that failed is mended, and how seldom that is tried at last.
const MEND_AFTER: Duration = Duration::from_millis(250);
const MEND_EVERY_MAX: Duration = Duration::from_secs(60);

/// Whether the state store follows the journal.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<AtomicBool>);

impl Health {
    /// Whether it failed, and was not mended yet.
    pub fn is_failing(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Ledger {
    /// Whether the state store failed, and does not follow the journal until it is mended. Nothing is
    /// lost by it.
    pub fn is_state_failing(&self) -> bool {
        self.state.is_failing()
    }
}

/// Keeps the state store.
pub struct Keeper {
    /// Where the store is.
    pub directory: PathBuf,
    /// Where the journal is.
    pub journal: Arc<dyn Disk>,
    /// What of it is durable.
    pub index: Arc<Index>,
    /// What others see.
    pub health: Health,
}

impl Keeper {
    /// Writes groups as they come, until the journal has ended.
    pub fn run(self, mut state: State, intake: &Intake) {
        loop {
            let stopped = follow(&mut state, intake);
            // It keeps others out.
            drop(state);
            let next = match stopped {
                Stop::Ended => None,
                Stop::LetGo(done) => {
                    let _ = done.send(());
                    self.take_back(intake)
                }
                Stop::Failed(why, head) => {
                    tracing::error!(%why, "the state store cannot be written: requests go on, it is mended from the journal");
                    self.mend(head, intake)
                }
            };
            let Some(next) = next else { return };
            state = next;
        }
    }

    /// Another process was to open it and did not: opens it when a group comes. Nothing does where the
    /// other one went on.
    fn take_back(&self, intake: &Intake) -> Option<State> {
        loop {
            match intake.groups.recv() {
                Ok(Told::LetGo(done)) => drop(done.send(())),
                Ok(Told::Group(group)) => {
                    return self.make(group.head).ok().or_else(|| self.mend(group.head, intake));
                }
                Err(_) => return None,
            }
        }
    }

    /// Tries until it is mended; gives up when the journal has ended: the next start makes it anew.
    fn mend(&self, mut head: Head, intake: &Intake) -> Option<State> {
        self.health.0.store(true, Ordering::Release);
        let mut pause = MEND_AFTER;
        loop {
            let until = Instant::now() + pause;
            let has_ended = loop {
                match intake.groups.recv_timeout(until.saturating_duration_since(Instant::now())) {
                    Ok(Told::Group(group)) => head = group.head,
                    // Nobody is to open what is damaged: told by the end of the channel.
                    Ok(Told::LetGo(_)) => {}
                    Err(RecvTimeoutError::Timeout) => break false,
                    Err(RecvTimeoutError::Disconnected) => break true,
                }
            };
            match self.make(head) {
                Ok(state) => {
                    tracing::info!("the state store follows the journal again");
                    self.health.0.store(false, Ordering::Release);
                    return Some(state);
                }
                Err(why) => tracing::error!(%why, "the state store cannot be mended yet"),
            }
            if has_ended {
                return None;
            }
            pause = (2 * pause).min(MEND_EVERY_MAX);
        }
    }

    /// Opens the store and brings it up to `head`, anew if there is any doubt about it.
    fn make(&self, head: Head) -> Result<State, StateError> {
        match self.open(head).and_then(|(state, base)| self.bring(state, base, head)) {
            Ok(state) => Ok(state),
            Err(why) => {
                tracing::warn!(%why, "the state store is made anew");
                state::remove(&self.directory)?;
                self.bring(State::open(&self.directory)?, Base::anew(&*self.journal), head)
            }
        }
    }

    fn open(&self, head: Head) -> Result<(State, Base), StateError> {
        let mut state = State::open(&self.directory)?;
        let found = state.load()?;
        if found.head.seq > head.seq {
            return Err(StateError::Damaged("it is ahead of the journal"));
        }
        let base = Base { head: found.head, book: found.book, pending: Pending::default() };
        Ok((state, base))
    }

    fn bring(&self, mut state: State, base: Base, head: Head) -> Result<State, StateError> {
        let Base { head: begin, book, mut pending } = base;
        let mut totals = book.totals;
        let mut reached = begin;
        for (name, before) in self.index.segments_after(begin.seq).0 {
            if before.seq >= head.seq {
                break;
            }
            // The newest one may be written to meanwhile: what is asked for is durable.
            let segment = Segment::load(&*self.journal, &name, Position::Last)?;
            let ending = segment.read_until(before, head.seq, |frame| {
                for entry in frame.entries.iter().filter(|entry| entry.seq > begin.seq) {
                    entry.change.legs().into_iter().for_each(|leg| totals.follow(leg));
                    let Ok(()) = pending.note(entry, |spender| Ok::<_, Infallible>(book.spent(spender)));
                }
            })?;
            reached = ending.head;
        }
        if reached != head {
            return Err(StateError::Damaged("it does not lead to where the journal stands"));
        }
        state.catch_up(pending, totals, head)?;
        Ok(state)
    }
}

/// What a store has that is to follow the journal.
struct Base {
    head: Head,
    book: Book,
    /// What it is to have, and has not.
    pending: Pending,
}

impl Base {
    /// An empty store: it begins where the archive ends.
    fn anew(journal: &dyn Disk) -> Self {
        match Checkpoint::found(journal) {
            Some((checkpoint, found)) => {
                Base { head: found.head, book: found.book, pending: checkpoint.into_pending() }
            }
            None => Base { head: Head::START, book: Book::default(), pending: Pending::default() },
        }
    }
}

/// Why the store is written no more.
enum Stop {
    /// The journal has ended.
    Ended,
    /// Another process is to open it.
    LetGo(mpsc::SyncSender<()>),
    /// It cannot be written; the last entry that it was told of.
    Failed(StateError, Head),
}

/// Writes groups as they come.
fn follow(state: &mut State, intake: &Intake) -> Stop {
    let mut pending = Pending::default();
    while let Ok(first) = intake.groups.recv() {
        let (mut told, mut wait) = (Ok(first), true);
        let mut reached = None;
        let mut let_go = None;
        while let Ok(next) = told {
            match next {
                Told::LetGo(done) => {
                    let_go = Some(done);
                    break;
                }
                Told::Group(group) => {
                    let head = group.head;
                    reached = Some(head);
                    if let Err(why) = state.fold(&mut pending, group) {
                        return Stop::Failed(why, head);
                    }
                }
            }
            if std::mem::take(&mut wait) {
                // The next ones gather without waking this thread; the journal's end ends the wait.
                let _ = intake.wake.recv_timeout(WRITE_EVERY);
            }
            told = intake.groups.try_recv();
        }
        if let Some(head) = reached
            && let Err(why) = state.write(&mut pending, head)
        {
            return Stop::Failed(why, head);
        }
        if let Some(done) = let_go {
            return Stop::LetGo(done);
        }
    }
    Stop::Ended
}
