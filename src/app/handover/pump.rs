//! The old process's side: its commands go to the owner of the ledger, and what became of them comes back.

use super::socket::Socket;
use crate::admit::running::Running;
use crate::id::CustomerId;
use crate::ledger::{Asked, Commands, Failure, Ledger, Outcome, wire};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::oneshot;

/// What the owner of the ledger tells a guest.
pub enum Told {
    /// What became of the command of this number.
    Answer(u64, Result<Outcome, Failure>),
    /// A customer was banned: their requests are to end.
    Banned(CustomerId),
}

impl Told {
    /// As it is sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Told::Answer(number, answer) => [&[0], &*wire::put_answer(*number, answer)].concat(),
            Told::Banned(customer) => [&[1], &customer.int().to_le_bytes()[..]].concat(),
        }
    }

    fn read(message: &[u8]) -> io::Result<Self> {
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, "an answer cannot be read");
        match message.split_first().ok_or_else(wrong)? {
            (0, rest) => {
                let (number, answer) = wire::take_answer(rest).map_err(|_| wrong())?;
                Ok(Told::Answer(number, answer))
            }
            (1, rest) => {
                let id = rest.try_into().map_err(|_| wrong())?;
                Ok(Told::Banned(CustomerId::from_int(u64::from_le_bytes(id))))
            }
            _ => Err(wrong()),
        }
    }
}

/// Commands that were sent, by number, and who waits.
type Waiting = Mutex<HashMap<u64, oneshot::Sender<Result<Outcome, Failure>>>>;

/// Sends commands to the owner and gives its answers out, until it is gone. From then on nothing can be
/// made durable here.
pub async fn pump(socket: Socket, commands: Commands, ledger: &Ledger, running: &Running) {
    let unanswered = commands.unanswered();
    let waiting = Waiting::default();
    let why = tokio::select! {
        why = send(&socket, commands, &waiting, &unanswered) => why,
        why = receive(&socket, &waiting, &unanswered, running) => why,
    };
    let why = why.err().map_or_else(|| "it has ended".into(), |why| why.to_string());
    tracing::error!(
        why,
        "the process that owns the ledger is gone: what is under way here cannot be charged"
    );
    ledger.lost();
}

async fn send(
    socket: &Socket,
    mut commands: Commands,
    waiting: &Waiting,
    unanswered: &AtomicUsize,
) -> io::Result<()> {
    let mut number = 0;
    while let Some(Asked { customer, command, answer }) = commands.next().await {
        number += 1;
        match wire::put_asked(number, customer, &command) {
            Some(message) => {
                waiting.lock().insert(number, answer);
                socket.send(&message, &[]).await?;
            }
            // The operator asks the new process.
            None => {
                unanswered.fetch_sub(1, Ordering::Relaxed);
                let _ = answer.send(Err(Failure::Busy));
            }
        }
    }
    Ok(())
}

async fn receive(
    socket: &Socket,
    waiting: &Waiting,
    unanswered: &AtomicUsize,
    running: &Running,
) -> io::Result<()> {
    while let Some((message, _)) = socket.receive().await? {
        match Told::read(&message)? {
            Told::Banned(customer) => drop(running.stop(customer)),
            Told::Answer(number, outcome) => {
                if let Some(answer) = waiting.lock().remove(&number) {
                    let _ = answer.send(outcome);
                }
                unanswered.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
    Ok(())
}
