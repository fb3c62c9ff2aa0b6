//! Holds: credit set aside for one request, and the commits that are waited for.

use super::away::Outcome;
use super::budget::Budgets;
use super::command::{Command, Refusal};
use super::entry::{Balance, Charge, Progress, Seq};
use super::line::{Down, Line, Place};
use super::mark::Mark;
use super::{Failure, Ledger, QUEUE_MAX};
use crate::id::{CustomerId, KeyId, RequestId};
use crate::money::Amount;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;

/// What a hold is for.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Who pays.
    pub customer: CustomerId,
    /// By which key.
    pub key: KeyId,
    /// For which request, new to the ledger.
    pub request: RequestId,
    /// How much.
    pub amount: Amount,
    /// What is held at least: if there is less than `amount`, all there is.
    pub least: Amount,
    /// What bounds it beside the balance.
    pub budgets: Budgets,
    /// The prices that will apply.
    pub price_version: Arc<str>,
    /// By what its sender knows it, if they said that: claimed before.
    pub mark: Option<Mark>,
}

impl Ledger {
    /// Whether new holds are taken at all.
    pub(super) fn admits(&self) -> Result<(), Failure> {
        if self.line.is_down() {
            return Err(Failure::Down);
        }
        if self.line.depth() > QUEUE_MAX {
            return Err(Failure::Busy);
        }
        if self.room.is_full() {
            return Err(Failure::Full);
        }
        Ok(())
    }
}

/// What is to be set aside beyond a hold.
#[derive(Clone, Debug)]
pub struct Extension {
    /// How much, above zero.
    pub amount: Amount,
    /// How much at least, above zero: if there is less than `amount`, all there is.
    pub least: Amount,
    /// What bounds it beside the balance.
    pub budgets: Budgets,
    /// How far the request has come.
    pub progress: Progress,
}

/// Entries on their way to the disk.
pub struct Commit {
    way: Way,
    known: Option<Result<Seq, Down>>,
    told: Option<Result<Outcome, Failure>>,
}

enum Way {
    /// Ours.
    Line { line: Arc<Line>, place: Place, waiting: oneshot::Receiver<Result<Seq, Down>> },
    /// By way of the process that owns the ledger, which decides first.
    Owner(oneshot::Receiver<Result<Outcome, Failure>>),
    /// There is nothing to make durable.
    None,
}

impl Commit {
    pub(super) fn submitted(
        line: Arc<Line>,
        place: Place,
        waiting: oneshot::Receiver<Result<Seq, Down>>,
    ) -> Self {
        Commit { way: Way::Line { line, place, waiting }, known: None, told: None }
    }

    pub(super) fn asked(answer: oneshot::Receiver<Result<Outcome, Failure>>) -> Self {
        Commit { way: Way::Owner(answer), known: None, told: None }
    }

    pub(super) const fn is_asked(&self) -> bool {
        matches!(self.way, Way::Owner(_))
    }

    /// Sends them on their way now, because they will be waited for. Without it they ride along with
    /// what others wait for, until they are waited for themselves.
    pub fn begin(&self) {
        match &self.way {
            Way::Line { line, place, .. } => line.urge(*place),
            Way::Owner(_) | Way::None => {}
        }
    }

    /// Waits until they are durable, and gives the last of them. May be asked again.
    ///
    /// # Errors
    /// When they never will be.
    pub async fn durable(&mut self) -> Result<Seq, Down> {
        self.begin();
        if self.known.is_none() {
            self.known = Some(match &mut self.way {
                Way::Line { waiting, .. } => waiting.await.unwrap_or(Err(Down)),
                Way::Owner(answer) => {
                    let told = answer.await.unwrap_or(Err(Failure::Down));
                    self.told = Some(told.clone());
                    told.map(|outcome| outcome.seq).map_err(|_| Down)
                }
                Way::None => Err(Down),
            });
        }
        self.known.unwrap_or(Err(Down))
    }

    /// Waits until the command is known to have been taken: at once, unless another process owns the
    /// ledger.
    ///
    /// # Errors
    /// When it was refused.
    pub async fn accepted(&mut self) -> Result<(), Failure> {
        if self.is_asked() {
            let _ = self.durable().await;
        }
        match &self.told {
            Some(Err(why)) => Err(why.clone()),
            Some(Ok(_)) | None => Ok(()),
        }
    }

    /// What the owner of the ledger says was done, where that is another process: known once durable.
    pub fn told(&self) -> Option<Outcome> {
        self.told.as_ref().and_then(|told| told.as_ref().ok()).copied()
    }

    /// The same as [`Commit::durable`], on a thread that may block.
    pub(super) fn wait(self) -> Result<(), Down> {
        self.wait_for_seq().map(|_| ())
    }

    /// The same, and gives the last of them.
    pub(super) fn wait_for_seq(self) -> Result<Seq, Down> {
        self.begin();
        match self.way {
            Way::Line { waiting, .. } => waiting.blocking_recv().unwrap_or(Err(Down)),
            Way::Owner(answer) => match answer.blocking_recv() {
                Ok(Ok(outcome)) => Ok(outcome.seq),
                Ok(Err(_)) | Err(_) => Err(Down),
            },
            Way::None => Err(Down),
        }
    }
}

/// What a command did, in memory.
pub struct Applied {
    /// Its way to the disk. If another process owns the ledger, [`Commit::told`] counts, not the rest.
    pub commit: Commit,
    /// What the customer has after it.
    pub balance: Balance,
    /// What it charged: what the balance reached of a capture, else nothing.
    pub charged: Amount,
    /// What it set aside; what came free again if negative.
    pub held: Amount,
}

/// More credit, on its way to the disk.
pub struct Extended {
    commit: Commit,
    amount: Amount,
}

impl Extended {
    /// Waits until it is durable, and gives how much more is set aside.
    ///
    /// # Errors
    /// When it never will be, or the owner of the ledger, if that is another process, refuses.
    pub async fn durable(mut self) -> Result<Amount, Failure> {
        self.commit.accepted().await?;
        self.commit.durable().await?;
        Ok(self.commit.told().map_or(self.amount, |outcome| outcome.held))
    }
}

/// Credit set aside for one request. Ends once: by a capture or a release; dropped, it is released.
#[must_use = "a hold must end in a capture or a release"]
pub struct Hold {
    pub(super) ledger: Arc<Ledger>,
    pub(super) customer: CustomerId,
    pub(super) key: KeyId,
    pub(super) request: RequestId,
    pub(super) amount: Amount,
    /// Whether the owner of the ledger was asked for it, who may have refused.
    pub(super) asked: bool,
    pub(super) ended: bool,
}

impl Hold {
    /// With the amount that the owner of the ledger says, where that is another process.
    pub fn told(mut self, told: Option<Outcome>) -> Self {
        if let Some(Outcome { held, .. }) = told {
            self.amount = held;
        }
        self
    }

    /// How much was set aside at first.
    pub fn amount(&self) -> Amount {
        self.amount
    }

    /// How large it could become now by extensions; unknown where another process owns the ledger.
    pub fn reach(&self, budgets: &Budgets) -> Option<Amount> {
        let ledger = &self.ledger;
        if ledger.away.load().is_some() {
            return None;
        }
        let now = ledger.clock.now();
        let (room, _) = ledger.customer(self.customer, |found| found.room(self.key, budgets, now))?;
        Some(self.amount + room)
    }

    /// Sets more aside, at once; the commit is on its way then. Before it is durable, nothing more may
    /// be delivered than was covered before.
    ///
    /// # Errors
    /// When the balance or a budget does not reach; the hold is as it was then.
    pub fn extend(&self, extension: Extension) -> Result<Extended, Failure> {
        let Extension { amount, least, budgets, progress } = extension;
        let command = Command::Extend { request: self.request, amount, least, budgets, progress };
        let Applied { commit, held: amount, .. } = self.ledger.transact(self.customer, command)?;
        commit.begin();
        Ok(Extended { commit, amount })
    }

    /// Ends it by a charge, at once; the rest is released. The commit is to be waited for before the
    /// answer is completed.
    pub fn capture(self, charge: impl Into<Charge>, record: Arc<[u8]>) -> Applied {
        self.capture_for(charge, record, None)
    }

    /// The same, and notes what was made for it and is kept elsewhere: see [`Ledger::owned`].
    pub fn capture_for(
        mut self,
        charge: impl Into<Charge>,
        record: Arc<[u8]>,
        object: Option<Arc<str>>,
    ) -> Applied {
        self.end(Command::Capture { request: self.request, charge: charge.into(), record, object })
    }

    /// Ends it without a charge.
    pub fn release(mut self, record: Arc<[u8]>) -> Applied {
        self.end(Command::Release { request: self.request, record })
    }

    pub(super) fn end(&mut self, command: Command) -> Applied {
        self.ended = true;
        self.ledger.holds_open.fetch_sub(1, Ordering::Relaxed);
        match self.ledger.transact(self.customer, command) {
            Ok(applied) => applied,
            Err(Refusal::UnknownHold) if self.asked => {
                let commit = Commit { way: Way::None, known: None, told: None };
                Applied { commit, balance: Balance::default(), charged: Amount::ZERO, held: Amount::ZERO }
            }
            Err(refusal) => panic!("the hold is open and the charge well formed, but {refusal:?}"),
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Command::Release { request: self.request, record: Arc::default() });
        }
    }
}
