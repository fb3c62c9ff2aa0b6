//! Hand-over: a new process takes the place of this one, and no request notices.
//!
//! SIGQUIT starts the program anew, as `serve --upgrade`; one that was started by hand with that is as
//! good. It calls at a [door](socket) in the store, and the two go through this:
//!
//! ```text
//!      old: owns the ledger, serves            new: has read its configuration
//!  1   <------------------------------- Take
//!      Listeners, all of them ---------------->   binds what it has more, makes its pool
//!  2   <------------------------------- Ready
//!      operator's requests are finished, no more accepted (they wait in the listeners)
//!      the ledger is lent: commands queue, the journal is flushed, the state closed
//!      Guests, Ledger and its lock ----------->   opens the store, leaves all holds open
//!  3   <------------------------------- Opened   has all it needs, and has written nothing
//!      Counts, Used, then Yours -------------->   owns the ledger, serves
//!  4   stops accepting, finishes its requests     is asked for each command of the old one's
//!      commands ------------------------------>   decides, makes durable
//!   <------------------------------- outcomes
//!      changes of counts --------------------->
//! ```
//!
//! Up to `Yours` the old process can go back at any point, and does when the connection ends or nothing
//! comes in time: what was queued is carried out by itself, as if it had been a slow disk. The new one
//! writes nothing before `Yours` and ends if it does not come. So the ledger has one owner at any time:
//! the one who sent or received the last `Yours`.
//!
//! After it, the old process is a guest: it holds back the last byte of each answer until the new one
//! says that the charge is durable. Its open holds are the new one's to keep: if the guest dies, they
//! are released as at a crash. If the new one dies, its guests can make nothing durable any more, and
//! whatever is started next finds the store free and their holds expired.
//!
//! A third process that takes over gets the connections of all guests along with the ledger. What they
//! asked and was not read is still in them: guests do not notice either.
//!
//! Who holds the lock of the store: old; from `Ledger` on both, by one open file; from `Yours` on new.
//! It is free only when both are gone, so that nobody else can come in between.
//!
//! What a guest's clients name by an `Idempotency-Key` is the new one's to know: it claims the marks of open
//! holds when it takes over, and those of new ones when it is asked for them.
//!
//! A guest bans nobody by a rule of the content policy: its violations are noted, and counted, by the new one.
//!
//! What upstream accounts have taken of their limits is in `Counts`, what keys and customers have taken of theirs in
//! `Used`: what was used and what is under way. From then on a guest tells what it begins and ends, and the new one
//! [counts](Counted) it as its own; when a guest is gone, nothing of it is under way. A guest knows what it took itself
//! and not what the new one takes. So of what it still begins (the last request of a connection), a hold is refused if it
//! is one request too many, by all that was let in: it is told before its hold is asked for, and its client is to come
//! back. Nobody else waits for anything. Tokens are owed, and of second attempts and of those who wait in a guest's line
//! an upstream account may have more than it may at that moment; all of it counts as taken. A new process that does not
//! ask for counts is told none, and an old one that knows none passes none.
//!
//! Counted apart while guests finish, since they protect a process and sell nothing: connections, keys that open nothing,
//! looks at accounts. Budgets are the ledger's, and have one owner as it has. What a guest reads of the ledger
//! (balances, receipts) and what limits it has, is as of `Ledger`. A ban reaches guests at once, a revoked key or a
//! suspension when they ask for a hold.

mod counted;
mod give;
mod guests;
mod pump;
mod socket;
mod take;

pub use counted::Counted;
pub use give::{Handover, Kept, Start};
pub use guests::{Guest, Guests, OnViolation};
pub use socket::open_door;
pub use take::{TakeError, Taken, Taking};

use crate::admit::gate::{Used, Whose};
use crate::id::{CustomerId, RequestId};
use crate::ledger::Seq;
use crate::upstream::limits::{Counts, UnderWay};
use serde::{Deserialize, Serialize};
use socket::{Parcel, Socket};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Raised when what is said changes: processes that do not speak alike leave each other alone.
const PROTOCOL: u32 = 1;
/// Holds in one message.
const HOLDS_MAX: usize = 1_000;
/// Gates in one message: each takes some 100 bytes.
const GATES_MAX: usize = 500;
/// The other side answers at once.
const PATIENCE: Duration = Duration::from_secs(5);
/// It makes its pool: names are resolved.
const READY_PATIENCE: Duration = Duration::from_secs(120);
/// It opens the store. Requests wait for that.
const OPEN_PATIENCE: Duration = Duration::from_secs(30);

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Customers.
    Plain,
    /// Customers, over TLS.
    Tls,
    /// The operator.
    Admin,
    /// Prometheus.
    Metrics,
}

/// What the two say; see the module.
#[derive(Debug, Serialize, Deserialize)]
enum Word {
    Take {
        protocol: u32,
        /// Whether it understands counts.
        #[serde(default)]
        counts: bool,
        /// The same, of keys and customers.
        #[serde(default)]
        gates: bool,
    },
    /// Each with its address in the configuration; the sockets come along.
    Listeners {
        listeners: Vec<(Role, SocketAddr)>,
    },
    Ready,
    /// Another guest, whose connection comes along.
    Guest,
    /// Of this guest.
    Holds {
        open: Vec<(CustomerId, RequestId)>,
    },
    /// The same, at an upstream account.
    UnderWay {
        account: Arc<str>,
        under_way: UnderWay,
    },
    /// The same, of keys and customers.
    Running {
        running: Vec<(Whose, u32)>,
    },
    /// The lock comes along.
    Ledger {
        entries: Seq,
    },
    Opened,
    /// Of an upstream account; spent in a day of UTC.
    Counts {
        account: Arc<str>,
        counts: Counts,
        day: String,
    },
    /// Of keys and customers.
    Used {
        used: Vec<(Whose, Used)>,
    },
    Yours,
    Refused {
        why: String,
    },
}

async fn say(socket: &Socket, word: &Word, along: &[BorrowedFd<'_>]) -> io::Result<()> {
    let message = serde_json::to_vec(word).map_err(io::Error::other)?;
    in_time(PATIENCE, socket.send(&message, along)).await
}

/// The next word, and what came along.
async fn hear(socket: &Socket, patience: Duration) -> io::Result<(Word, Vec<OwnedFd>)> {
    let gone = || io::Error::new(io::ErrorKind::UnexpectedEof, "the other process has ended or gone back");
    let (message, along): Parcel = in_time(patience, socket.receive()).await?.ok_or_else(gone)?;
    match serde_json::from_slice(&message).map_err(io::Error::other)? {
        Word::Refused { why } => Err(io::Error::other(why)),
        word => Ok((word, along)),
    }
}

async fn in_time<T>(patience: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the other process does not answer");
    tokio::time::timeout(patience, work).await.map_err(late)?
}

fn unexpected(word: &Word) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the other process says {word:?} out of turn"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_ask_for_counts_wants_none() {
        let check = |said: &str, expect: [bool; 2]| match serde_json::from_str(said).unwrap() {
            Word::Take { protocol: PROTOCOL, counts, gates } => assert_eq!([counts, gates], expect, "{said}"),
            other => panic!("{other:?}"),
        };
        check(r#"{"Take":{"protocol":1}}"#, [false, false]);
        check(r#"{"Take":{"protocol":1,"counts":true}}"#, [true, false]);
        check(r#"{"Take":{"protocol":1,"counts":true,"gates":true}}"#, [true, true]);
    }
}
