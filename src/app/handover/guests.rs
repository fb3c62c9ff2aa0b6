//! The new process's side: guests, whose commands are carried out here until they have finished.

use super::counted::{Counted, Theirs};
use super::pump::{Said, Told};
use super::socket::Socket;
use crate::id::{CustomerId, RequestId};
use crate::ledger::{Applied, Claim, Command, Failure, Ledger, Outcome, Violation};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;

/// A process that gave the ledger up and finishes its requests.
pub struct Guest {
    /// Its connection.
    pub connection: OwnedFd,
    /// Its holds that have not ended.
    pub open: HashMap<RequestId, CustomerId>,
    /// The marks of these: nobody else may be served by them.
    pub claims: HashMap<RequestId, Claim>,
    /// What it has under way.
    pub under_way: Theirs,
}

impl Guest {
    /// One that has nothing.
    pub fn new(connection: OwnedFd) -> Self {
        let (open, claims, under_way) = Default::default();
        Guest { connection, open, claims, under_way }
    }
}

/// Is told of violations that guests have noted.
pub type OnViolation = Arc<dyn Fn(CustomerId, &Violation) + Send + Sync>;

/// All of them.
pub struct Guests {
    host: Host,
    bans: broadcast::Sender<CustomerId>,
    served: Mutex<JoinSet<Option<Guest>>>,
    stop: watch::Sender<bool>,
    count: Arc<AtomicUsize>,
}

/// Where what they say takes effect.
#[derive(Clone)]
struct Host {
    ledger: Arc<Ledger>,
    counted: Counted,
    on_violation: OnViolation,
}

/// What is to be said to a guest.
enum Reply {
    Command { number: u64, applied: Result<Box<Applied>, Failure>, claim: Option<Claim> },
    Banned(CustomerId),
}

impl Guests {
    /// Guests of `ledger`, who are told of `bans`.
    pub fn new(
        ledger: Arc<Ledger>,
        counted: Counted,
        bans: broadcast::Sender<CustomerId>,
        on_violation: OnViolation,
    ) -> Self {
        let ((stop, _), host) = (watch::channel(false), Host { ledger, counted, on_violation });
        Guests { host, bans, served: Mutex::default(), stop, count: Arc::default() }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Begins to serve them, in this runtime.
    pub fn serve(&self, guests: Vec<Guest>) {
        self.stop.send_replace(false);
        for guest in guests {
            self.count.fetch_add(1, Ordering::Relaxed);
            let (host, count) = (self.host.clone(), Arc::clone(&self.count));
            let (bans, stop) = (self.bans.subscribe(), self.stop.subscribe());
            self.served.lock().spawn(async move {
                let left = serve(&host, guest, bans, stop).await;
                count.fetch_sub(1, Ordering::Relaxed);
                left
            });
        }
    }

    /// Stops to serve them, once what was read of them is durable and answered, and gives those that are
    /// still there.
    pub async fn stop(&self) -> Vec<Guest> {
        self.stop.send_replace(true);
        let mut served = std::mem::take(&mut *self.served.lock());
        let mut left = Vec::new();
        while let Some(ended) = served.join_next().await {
            left.extend(ended.ok().flatten());
        }
        left
    }
}

/// Serves one until it is gone or all are stopped; gives it in the latter case.
async fn serve(
    host: &Host,
    guest: Guest,
    mut bans: broadcast::Receiver<CustomerId>,
    mut stop: watch::Receiver<bool>,
) -> Option<Guest> {
    let Guest { connection, mut open, mut claims, mut under_way } = guest;
    let Host { ledger, counted, on_violation } = host;
    let socket = match Socket::new(connection) {
        Ok(socket) => Arc::new(socket),
        Err(why) => {
            tracing::error!(%why, "the process before this one cannot be served");
            counted.lost(under_way);
            expire(ledger, open).await;
            return None;
        }
    };
    let (replies, waiting) = mpsc::unbounded_channel();
    let replying = tokio::spawn(reply(Arc::clone(&socket), waiting));
    let stopped = loop {
        tokio::select! {
            biased;
            () = asked_to(&mut stop) => break true,
            Ok(customer) = bans.recv() => drop(replies.send(Reply::Banned(customer))),
            received = socket.receive() => match read(received) {
                Ok(Some(Said::Tells(changed))) => counted.changed(changed, &mut under_way),
                Ok(Some(Said::Asks(number, customer, asked))) => {
                    let violation = match &*asked {
                        Command::Violate(violation) => Some((customer, violation.clone())),
                        _ => None,
                    };
                    let reply = command(host, (number, customer, *asked), &mut open, &mut claims).await;
                    if let (Some((customer, violation)), Reply::Command { applied: Ok(_), .. }) = (violation, &reply) {
                        on_violation(customer, &violation);
                    }
                    drop(replies.send(reply));
                }
                Ok(None) => break false,
                Err(why) => {
                    tracing::error!(%why, "the process before this one is not understood");
                    break false;
                }
            },
        }
    };
    drop(replies);
    let _ = replying.await;
    if stopped
        && let Some(socket) = Arc::into_inner(socket)
        && let Ok(connection) = socket.into_fd()
    {
        return Some(Guest { connection, open, claims, under_way });
    }
    tracing::info!(holds = open.len(), "the process before this one has ended");
    counted.lost(under_way);
    expire(ledger, open).await;
    None
}

async fn asked_to(stop: &mut watch::Receiver<bool>) {
    // Without a sender, nobody can ask any more.
    let _ = stop.wait_for(|stop| *stop).await;
}

fn read(received: io::Result<Option<super::Parcel>>) -> io::Result<Option<Said>> {
    let Some((message, _)) = received? else { return Ok(None) };
    Said::read(&message).map(Some)
}

/// Carries out a command of a guest, and notes what it means for its holds.
async fn command(
    Host { ledger, counted, .. }: &Host,
    (number, customer, command): (u64, CustomerId, Command),
    open: &mut HashMap<RequestId, CustomerId>,
    claims: &mut HashMap<RequestId, Claim>,
) -> Reply {
    let (begins, ends) = match &command {
        Command::Hold { request, mark, .. } => (Some((*request, *mark)), None),
        Command::Capture { request, .. }
        | Command::Release { request, .. }
        | Command::Expire { request }
        | Command::Detach { request, .. } => (None, Some(*request)),
        _ => (None, None),
    };
    let mut claim = None;
    if let Command::Hold { key, .. } = &command
        && counted.is_too_much(*key, customer)
    {
        return Reply::Command { number, applied: Err(Failure::Busy), claim };
    }
    if let Some((request, Some(mark))) = begins {
        match ledger.claim(request, mark).await {
            Ok(claimed) => claim = Some(claimed),
            Err(why) => return Reply::Command { number, applied: Err(why), claim },
        }
    }
    let applied = ledger.carry_out(customer, command).map(Box::new);
    if applied.is_ok() {
        if let Some((request, _)) = begins {
            open.insert(request, customer);
            claims.extend(claim.take().map(|claim| (request, claim)));
        }
        if let Some(request) = ends {
            open.remove(&request);
            // Until the charge is durable, and is found.
            claim = claims.remove(&request);
        }
    }
    Reply::Command { number, applied, claim }
}

/// Answers in the order in which commands came, which is the order in which they become durable.
async fn reply(socket: Arc<Socket>, mut replies: mpsc::UnboundedReceiver<Reply>) {
    while let Some(reply) = replies.recv().await {
        let told = match reply {
            Reply::Banned(customer) => Told::Banned(customer),
            Reply::Command { number, applied, claim } => {
                let outcome = durable(applied).await;
                drop(claim);
                Told::Answer(number, outcome)
            }
        };
        // One that is gone is not told; what it asked for is carried out all the same.
        let _ = socket.send(&told.to_bytes(), &[]).await;
    }
}

async fn durable(applied: Result<Box<Applied>, Failure>) -> Result<Outcome, Failure> {
    let Applied { mut commit, balance, charged, held } = *applied?;
    Ok(Outcome { seq: commit.durable().await?, balance, charged, held })
}

/// Nobody serves these requests any more.
async fn expire(ledger: &Arc<Ledger>, open: HashMap<RequestId, CustomerId>) {
    if open.is_empty() {
        return;
    }
    let mut open: Vec<_> = open.into_iter().map(|(request, customer)| (customer, request)).collect();
    open.sort_unstable();
    let ledger = Arc::clone(ledger);
    let expired = tokio::task::spawn_blocking(move || ledger.expire(&open)).await;
    match expired {
        Ok(Ok(expired)) => expired.tell("requests of the process before this one were not finished"),
        Ok(Err(_)) | Err(_) => {
            tracing::error!("the holds of a process that ended stay open until the next start");
        }
    }
}
