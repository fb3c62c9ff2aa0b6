//! The old process's side: its commands go to the owner of the ledger, and what became of them comes back.

use super::counted::{Changed, Changes};
use super::socket::Socket;
use crate::admit::running::Running;
use crate::id::CustomerId;
use crate::ledger::{Asked, Command, Commands, Failure, Ledger, Outcome, wire};
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

/// What a guest says.
#[derive(Debug)]
pub(super) enum Said {
    /// It asks for a command, by its number.
    Asks(u64, CustomerId, Box<Command>),
    /// Nothing is to be answered.
    Tells(Changed),
}

/// In place of the number of a command.
const NO_COMMAND: [u8; 8] = [0; 8];

impl Said {
    pub(super) fn read(message: &[u8]) -> io::Result<Self> {
        match message.strip_prefix(&NO_COMMAND) {
            Some(changed) => serde_json::from_slice(changed).map(Said::Tells).map_err(io::Error::other),
            None => wire::take_asked(message)
                .map(|(number, customer, command)| Said::Asks(number, customer, Box::new(command)))
                .map_err(|why| io::Error::other(why.to_string())),
        }
    }
}

fn tell(changed: &Changed) -> io::Result<Vec<u8>> {
    Ok([&NO_COMMAND[..], &serde_json::to_vec(changed)?].concat())
}

/// What is for the owner of the ledger.
pub(super) struct Outgoing {
    pub(super) commands: Commands,
    pub(super) changes: Changes,
}

/// Commands that were sent, by number, and who waits.
type Waiting = Mutex<HashMap<u64, oneshot::Sender<Result<Outcome, Failure>>>>;

/// Sends commands and changes to the owner and gives its answers out, until it is gone. From then on nothing
/// can be made durable here.
pub(super) async fn pump(socket: Socket, outgoing: Outgoing, ledger: &Ledger, running: &Running) {
    let unanswered = outgoing.commands.unanswered();
    let waiting = Waiting::default();
    let why = tokio::select! {
        why = send(&socket, outgoing, &waiting, &unanswered) => why,
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
    Outgoing { mut commands, mut changes }: Outgoing,
    waiting: &Waiting,
    unanswered: &AtomicUsize,
) -> io::Result<()> {
    let mut number = 0;
    loop {
        // What a request takes of limits is told before it is asked for what it may spend.
        let asked = tokio::select! {
            biased;
            Some(changed) = changes.next() => {
                socket.send(&tell(&changed)?, &[]).await?;
                changes.told();
                continue;
            }
            asked = commands.next() => asked,
        };
        let Some(Asked { customer, command, answer }) = asked else { return Ok(()) };
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
