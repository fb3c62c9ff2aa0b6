//! The new process's side of a hand-over.

use super::counted::Before;
use super::guests::Guest;
use super::socket::{self, Socket};
use super::{OPEN_PATIENCE, PATIENCE, PROTOCOL, Role, Word, hear, say, unexpected};
use crate::clock::Timestamp;
use crate::ledger::{Ledger, OnCommit, OpenError, Recovered};
use crate::money::Amount;
use std::fmt;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::Runtime;

/// Why nothing is taken over. The old process goes on.
#[derive(Debug)]
pub enum TakeError {
    /// The two did not come together.
    Talk(io::Error),
    /// The store cannot be opened.
    Store(OpenError),
}

impl fmt::Display for TakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TakeError::Talk(why) => {
                write!(f, "nothing is taken over from the running gateway, which goes on: {why}")
            }
            TakeError::Store(why) => write!(f, "{why}"),
        }
    }
}

impl From<io::Error> for TakeError {
    fn from(why: io::Error) -> Self {
        TakeError::Talk(why)
    }
}

/// A hand-over under way.
pub struct Taking {
    runtime: Runtime,
    socket: Socket,
    listeners: Vec<(Role, SocketAddr, TcpListener)>,
    guests: Vec<Guest>,
}

/// What was taken over beside the ledger.
#[derive(Default)]
pub struct Taken {
    /// All guests: the old process is the last of them.
    pub guests: Vec<Guest>,
    /// What counts against limits.
    pub before: Before,
}

impl Taking {
    /// Asks who uses the store to hand over; none if nobody does.
    ///
    /// # Errors
    /// When who uses it will not.
    pub fn begin(store: &Path) -> Result<Option<Self>, TakeError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let called = {
            let _runtime = runtime.enter();
            Socket::call(store)
        };
        let socket = match called {
            Ok(socket) => socket,
            Err(why) if socket::is_nobody(&why) => return Ok(None),
            Err(why) => return Err(why.into()),
        };
        let heard = runtime.block_on(async {
            say(&socket, &Word::Take { protocol: PROTOCOL, counts: true, gates: true }, &[]).await?;
            hear(&socket, PATIENCE).await
        });
        let listeners = match heard? {
            (Word::Listeners { listeners }, sockets) if listeners.len() == sockets.len() => {
                let with = |((role, address), socket)| (role, address, TcpListener::from(socket));
                listeners.into_iter().zip(sockets).map(with).collect()
            }
            (other, _) => return Err(unexpected(&other).into()),
        };
        Ok(Some(Taking { runtime, socket, listeners, guests: Vec::new() }))
    }

    /// The listener of this address in the configuration, if the old process has it.
    pub fn listener(&mut self, role: Role, address: SocketAddr) -> Option<TcpListener> {
        let found = self.listeners.iter().position(|(r, a, _)| (*r, *a) == (role, address))?;
        Some(self.listeners.swap_remove(found).2)
    }

    /// Opens the ledger that the old process lends. From here until [`Taking::confirm`] requests wait:
    /// everything else that may take long or fail comes before.
    ///
    /// # Errors
    /// When it is not lent or cannot be opened.
    pub fn ledger(
        &mut self,
        store: &Path,
        on_commit: OnCommit,
    ) -> Result<(Arc<Ledger>, Recovered), TakeError> {
        let Self { runtime, socket, guests, .. } = self;
        let (entries, lock) = runtime.block_on(async {
            say(socket, &Word::Ready, &[]).await?;
            loop {
                match hear(socket, OPEN_PATIENCE).await? {
                    (Word::Guest, mut along) if along.len() == 1 => {
                        guests.push(Guest::new(along.remove(0)));
                    }
                    (Word::Holds { open }, _) if !guests.is_empty() => {
                        let open = open.into_iter().map(|(customer, request)| (request, customer));
                        guests.last_mut().expect("not empty").open.extend(open);
                    }
                    (Word::UnderWay { account, under_way }, _) if !guests.is_empty() => {
                        guests.last_mut().expect("not empty").under_way.accounts.insert(account, under_way);
                    }
                    (Word::Running { running }, _) if !guests.is_empty() => {
                        guests.last_mut().expect("not empty").under_way.gates.extend(running);
                    }
                    (Word::Ledger { entries }, mut along) if along.len() == 1 => {
                        return Ok((entries, along.remove(0)));
                    }
                    (other, _) => return Err(unexpected(&other)),
                }
            }
        })?;
        let (ledger, recovered) =
            Ledger::take_over(store, fs::File::from(lock), on_commit).map_err(TakeError::Store)?;
        if recovered.entries != entries {
            let why = format!("the journal ends with entry {}, not {}", recovered.entries.0, entries.0);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why).into());
        }
        Ok((ledger, recovered))
    }

    /// Becomes the owner of the ledger.
    ///
    /// # Errors
    /// When the old process went back: it owns the ledger, and this process must end.
    pub fn confirm(self, ledger: &Ledger) -> Result<Taken, TakeError> {
        let Self { runtime, socket, mut guests, .. } = self;
        let mut open = ledger.open_holds();
        let requests: Vec<_> = open.iter().map(|(_, request)| *request).collect();
        // Before anybody is served: what is under way must not be begun again.
        let mut claims = ledger.adopt(&requests)?;
        let before = runtime.block_on(async {
            say(&socket, &Word::Opened, &[]).await?;
            let mut told = Before::default();
            loop {
                match hear(&socket, PATIENCE).await?.0 {
                    Word::Counts { account, mut counts, day } => {
                        if day != Timestamp::now().day() {
                            counts.spent = Amount::ZERO;
                        }
                        told.accounts.push((account, counts));
                    }
                    Word::Used { used } => told.gates.extend(used),
                    Word::Yours => return Ok(told),
                    other => return Err(unexpected(&other)),
                }
            }
        })?;
        // What is not another guest's is the old process's.
        open.retain(|(_, request)| !guests.iter().any(|guest| guest.open.contains_key(request)));
        for guest in &mut guests {
            guest.claims.extend(claims.extract_if(|request, _| guest.open.contains_key(request)));
        }
        let mut old = Guest::new(socket.into_fd()?);
        old.open = open.into_iter().map(|(customer, request)| (request, customer)).collect();
        old.claims = claims;
        old.under_way = before.own(&guests);
        guests.push(old);
        Ok(Taken { guests, before })
    }
}
