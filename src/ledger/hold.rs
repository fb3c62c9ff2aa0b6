//! Holds: credit set aside for one request, and the commits that are waited for.

use super::command::Command;
use super::entry::{Balance, Charge, Release, Seq};
use super::line::{Down, Line, Place};
use super::{Failure, Ledger};
use crate::id::{CustomerId, RequestId};
use crate::money::Amount;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;

/// Entries on their way to the disk.
pub struct Commit {
    pub(super) line: Arc<Line>,
    pub(super) place: Place,
    pub(super) waiting: oneshot::Receiver<Result<Seq, Down>>,
    pub(super) known: Option<Result<Seq, Down>>,
}

impl Commit {
    /// Sends them on their way now, because they will be waited for. Without it they ride along with
    /// what others wait for, until they are waited for themselves.
    pub fn begin(&self) {
        self.line.urge(self.place);
    }

    /// Waits until they are durable, and gives the last of them. May be asked again.
    ///
    /// # Errors
    /// When they never will be.
    pub async fn durable(&mut self) -> Result<Seq, Down> {
        if self.known.is_none() {
            self.begin();
            self.known = Some((&mut self.waiting).await.unwrap_or(Err(Down)));
        }
        self.known.unwrap_or(Err(Down))
    }

    /// The same, on a thread that may block.
    pub(super) fn wait(self) -> Result<(), Down> {
        self.begin();
        self.waiting.blocking_recv().unwrap_or(Err(Down)).map(|_| ())
    }
}

/// What a command did, in memory.
pub struct Applied {
    /// Its way to the disk.
    pub commit: Commit,
    /// What the customer has after it.
    pub balance: Balance,
    /// What it charged: what the balance reached of a capture, else nothing.
    pub charged: Amount,
    /// What it set aside; what came free again if negative.
    pub held: Amount,
}

/// Credit set aside for one request. Ends once: by a capture or a release; dropped, it is released.
#[must_use = "a hold must end in a capture or a release"]
pub struct Hold {
    pub(super) ledger: Arc<Ledger>,
    pub(super) customer: CustomerId,
    pub(super) request: RequestId,
    pub(super) amount: Amount,
    pub(super) ended: bool,
}

impl Hold {
    /// How much is set aside.
    pub fn amount(&self) -> Amount {
        self.amount
    }

    /// Sets more aside, at once. Before the commit is durable, nothing more may be delivered than the
    /// hold covered before.
    ///
    /// # Errors
    /// When the balance does not reach; the hold is as it was then.
    pub fn extend(&mut self, amount: Amount) -> Result<Commit, Failure> {
        let command = Command::Extend { request: self.request, amount };
        let Applied { commit, held, .. } = self.ledger.transact(self.customer, command)?;
        self.amount += held;
        Ok(commit)
    }

    /// Ends it by a charge, at once; the rest is released. The commit is to be waited for before the
    /// answer is completed.
    pub fn capture(mut self, charge: impl Into<Charge>, record: Arc<[u8]>) -> Applied {
        self.end(Command::Capture { request: self.request, charge: charge.into(), record })
    }

    /// Ends it without a charge.
    pub fn release(mut self, record: Arc<[u8]>) -> Applied {
        self.end(Command::Release { request: self.request, reason: Release::Failed, record })
    }

    fn end(&mut self, command: Command) -> Applied {
        self.ended = true;
        self.ledger.holds_open.fetch_sub(1, Ordering::Relaxed);
        self.ledger.transact(self.customer, command).expect("the hold is open and the charge well formed")
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Command::Release {
                request: self.request,
                reason: Release::Failed,
                record: Arc::from(&[][..]),
            });
        }
    }
}
