//! The ledger away: while it is handed over to another process, and from then on.
//!
//! ```text
//! here --lend--> lent --give_up--> given        its commands go to the new owner
//!   ^--take_back--'                             it was not taken: as if nothing had happened
//! ```
//!
//! From [`Ledger::lend`] on nothing is written here: the line to the journal is empty, all of it is
//! durable, the state is closed. Commands wait in a queue; whoever takes the ledger over carries them
//! out, or [`Lent::take_back`] does. What is read here from then on is as of that moment.
//!
//! *Architecture invariant:* a book has one owner. The queue is looked at under the lock of the
//! shard, so that no command is decided here after the first one was put in it.

use super::command::Command;
use super::entry::{Balance, Seq};
use super::hold::Applied;
use super::line::Down;
use super::{Failure, Ledger, OnCommit, OpenError, Recovered};
use crate::id::{CustomerId, RequestId};
use crate::money::Amount;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How often is looked whether the last entries are durable.
const FLUSH_STEP: Duration = Duration::from_millis(1);

/// What a command did, by the word of who carried it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The last of its entries, durable.
    pub seq: Seq,
    /// What the customer has after it.
    pub balance: Balance,
    /// What it charged.
    pub charged: Amount,
    /// What it set aside.
    pub held: Amount,
}

/// A command for the owner of the ledger.
pub struct Asked {
    /// Whose.
    pub customer: CustomerId,
    /// What.
    pub command: Command,
    /// Who is told once it is durable, or refused.
    pub answer: oneshot::Sender<Result<Outcome, Failure>>,
}

/// The way to the owner, if it is not this process.
#[derive(Clone)]
pub(super) struct Away {
    queue: mpsc::UnboundedSender<Asked>,
    unanswered: Arc<AtomicUsize>,
}

impl Away {
    pub(super) fn unanswered(&self) -> usize {
        self.unanswered.load(Ordering::Relaxed)
    }

    /// Puts a command in the queue. It is bounded by its callers: each request under way has one hold
    /// and one end.
    pub(super) fn ask(
        &self,
        customer: CustomerId,
        command: Command,
    ) -> oneshot::Receiver<Result<Outcome, Failure>> {
        let (answer, waiting) = oneshot::channel();
        self.unanswered.fetch_add(1, Ordering::Relaxed);
        // If nobody takes it any more, whoever waits for the answer is told that none comes.
        let _ = self.queue.send(Asked { customer, command, answer });
        waiting
    }
}

/// A ledger that another process may take.
pub struct Lent {
    ledger: Arc<Ledger>,
    asked: mpsc::UnboundedReceiver<Asked>,
    unanswered: Arc<AtomicUsize>,
}

/// Commands for the owner of a ledger that was given up.
pub struct Commands {
    asked: mpsc::UnboundedReceiver<Asked>,
    unanswered: Arc<AtomicUsize>,
}

impl Ledger {
    /// Stops writing, so that another process can open the store. Waits for the disk: not on a thread
    /// that serves.
    ///
    /// # Errors
    /// When the journal is down, or goes down now, or segments are being copied or moved; it is lent to
    /// nobody then.
    pub fn lend(self: &Arc<Self>) -> Result<Lent, Down> {
        let _nobody_moves_segments = self.caring.try_lock().ok_or(Down)?;
        let (queue, asked) = mpsc::unbounded_channel();
        let unanswered = Arc::<AtomicUsize>::default();
        let away = Away { queue, unanswered: Arc::clone(&unanswered) };
        self.away.store(Some(Arc::new(away)));
        // Whoever was in a shard before has put what they decided in line.
        self.shards.iter().for_each(|shard| drop(shard.lock()));
        let lent = Lent { ledger: Arc::clone(self), asked, unanswered };
        while self.line.depth() > 0 && !self.line.is_down() {
            self.line.urge_all();
            thread::sleep(FLUSH_STEP);
        }
        let state = self.threads.lock().state_line.clone();
        if self.line.is_down() || !state.is_some_and(|state| state.let_go()) {
            lent.take_back();
            return Err(Down);
        }
        Ok(lent)
    }

    /// The new owner is gone: nothing more becomes durable here.
    pub fn lost(&self) {
        self.line.fail();
    }

    /// Opens the store of a process that lent it, by its own lock, and leaves all holds open.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn take_over(
        directory: &Path,
        lock: fs::File,
        on_commit: OnCommit,
    ) -> Result<(Arc<Self>, Recovered), OpenError> {
        Self::begin(directory, lock, on_commit).map(|(ledger, recovered, _)| (ledger, recovered))
    }

    /// Another descriptor of the lock that keeps others out: whoever has one keeps it.
    ///
    /// # Errors
    /// When the ledger was given up, or there can be no more descriptors.
    pub fn share_lock(&self) -> io::Result<fs::File> {
        let lock = self.lock.lock();
        lock.as_ref().ok_or_else(|| io::Error::other("the ledger was given up"))?.try_clone()
    }

    /// The newest entry that is durable.
    pub fn entries(&self) -> Seq {
        self.index.durable()
    }

    /// Whether another process owns the ledger, or is about to.
    pub fn is_away(&self) -> bool {
        self.away.load().is_some()
    }

    /// Commands that another process, which owns the ledger, was asked to carry out and has not yet.
    pub fn unanswered(&self) -> usize {
        if self.is_down() { 0 } else { self.away.load().as_ref().map_or(0, |away| away.unanswered()) }
    }

    /// All holds of requests under way: whose, and of which request.
    pub fn open_holds(&self) -> Vec<(CustomerId, RequestId)> {
        let mut open = Vec::new();
        self.shards.iter().for_each(|shard| open.extend(shard.lock().attended_holds()));
        open
    }

    /// Carries out a command that another process was asked for.
    ///
    /// # Errors
    /// When it is refused, or nothing can be made durable.
    pub fn carry_out(&self, customer: CustomerId, command: Command) -> Result<Applied, Failure> {
        if matches!(command, Command::Hold { .. }) {
            self.admits()?;
        }
        Ok(self.transact(customer, command)?)
    }
}

impl Lent {
    /// Nobody took it: what waited is carried out here, and all goes on. Waits for the disk.
    pub fn take_back(mut self) {
        let ledger = &self.ledger;
        let mut waiting = Vec::new();
        // Under the locks of all shards, so that what waited comes before what comes now.
        let mut shards: Vec<_> = ledger.shards.iter().map(|shard| shard.lock()).collect();
        ledger.away.store(None);
        while let Ok(Asked { customer, command, answer }) = self.asked.try_recv() {
            match ledger.decide(&mut shards[Ledger::shard_of(customer)], customer, command) {
                Ok(applied) => waiting.push((applied, answer)),
                // Whoever asked may have gone.
                Err(refusal) => drop(answer.send(Err(refusal.into()))),
            }
        }
        drop(shards);
        for (Applied { commit, balance, charged, held }, answer) in waiting {
            let seq = commit.wait_for_seq();
            let _ =
                answer.send(seq.map(|seq| Outcome { seq, balance, charged, held }).map_err(Failure::from));
        }
    }

    /// It was taken: this process lets go of the store for good.
    pub fn give_up(self) -> Commands {
        self.ledger.lock.lock().take();
        self.ledger.room.close();
        Commands { asked: self.asked, unanswered: self.unanswered }
    }
}

impl Commands {
    /// The next one.
    pub async fn next(&mut self) -> Option<Asked> {
        self.asked.recv().await
    }

    /// The count of those that were not answered: whoever answers one takes one off.
    pub fn unanswered(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.unanswered)
    }
}
