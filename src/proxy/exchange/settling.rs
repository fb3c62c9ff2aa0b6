//! The end of a hold on its way to the disk: whoever waits for it.

use super::super::bill::Settled;
use crate::ledger::{Commit, Down};
use tokio::task::JoinHandle;

/// How far the end of a hold has come.
pub(super) enum Settling {
    /// It has not ended.
    Open,
    /// Tokens are counted, on a thread that may block.
    Counting(JoinHandle<(Commit, Settled)>),
    /// On its way to the disk.
    Committing(Commit, Settled),
    /// Durable, or it never will be.
    Done(Result<Settled, Down>),
}

/// Whoever waits may be cancelled, and another wait after that: nothing is taken out meanwhile.
pub(super) async fn wait(settling: &tokio::sync::Mutex<Settling>) -> Option<Result<Settled, Down>> {
    let mut settling = settling.lock().await;
    let outcome = loop {
        match &mut *settling {
            Settling::Open => return None,
            Settling::Done(outcome) => return Some(outcome.clone()),
            Settling::Committing(commit, settled) => {
                let durable = commit.durable().await;
                break durable.map(|_| settled.clone().told(commit.told()));
            }
            Settling::Counting(task) => match task.await {
                Ok((commit, settled)) => *settling = Settling::Committing(commit, settled),
                Err(_) => break Err(Down),
            },
        }
    };
    *settling = Settling::Done(outcome.clone());
    Some(outcome)
}
