//! The old process's side of a hand-over: the door, and what happens once somebody called.

use super::counted::{Changes, Counted, Counting};
use super::guests::{Guest, Guests};
use super::pump::{Outgoing, pump};
use super::socket::{Door, Socket};
use super::{
    HOLDS_MAX, OPEN_PATIENCE, PATIENCE, PROTOCOL, READY_PATIENCE, Role, Word, hear, say, unexpected,
};
use crate::admit::running::Running;
use crate::app::notify;
use crate::app::operator::Operator;
use crate::ledger::{Ledger, Lent};
use crate::proxy::listen::Left;
use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::Signal;
use tokio::sync::watch;

/// How long SIGQUIT waits for a process that was started by hand, before it starts one itself.
const CALL_PATIENCE: Duration = Duration::from_secs(1);

/// A listener and its address in the configuration.
pub struct Kept {
    /// What it is for.
    pub role: Role,
    /// As it was configured: its port may be 0.
    pub address: SocketAddr,
    /// The same socket as the one that is accepted from.
    pub listener: TcpListener,
}

/// Waits for successors.
pub struct Handover {
    /// Taken by the service when it begins.
    start: Mutex<Option<Start>>,
    ledger: Arc<Ledger>,
    counted: Counted,
    operator: Arc<Operator>,
    guests: Arc<Guests>,
    running: Running,
    /// Becomes `Yes` once.
    left: watch::Sender<Left>,
    /// By the name it was started by: another program may stand there by now.
    program: io::Result<PathBuf>,
}

/// What the service begins with.
pub struct Start {
    /// Where successors call.
    pub door: io::Result<OwnedFd>,
    /// SIGQUIT.
    pub quit: Signal,
    /// All listeners.
    pub listeners: Vec<Kept>,
    /// Processes that finish their requests.
    pub guests: Vec<Guest>,
}

impl Handover {
    /// Hands over what is given, and tells by `left`.
    pub fn new(
        start: Start,
        (ledger, counted): (Arc<Ledger>, Counted),
        operator: Arc<Operator>,
        guests: Arc<Guests>,
        running: Running,
        left: watch::Sender<Left>,
    ) -> Self {
        let program = std::env::current_exe();
        Handover { start: Mutex::new(Some(start)), ledger, counted, operator, guests, running, left, program }
    }
}

#[async_trait]
impl BackgroundService for Handover {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let Some(Start { door, mut quit, listeners, guests }) = self.start.lock().take() else { return };
        self.guests.serve(guests);
        let door = match door.and_then(Door::new) {
            Ok(door) => door,
            Err(why) => return tracing::error!(%why, "this process cannot be replaced without a stop"),
        };
        loop {
            let called = tokio::select! {
                called = self.called(&door, &mut quit) => called,
                () = asked_to_stop(&mut shutdown) => return,
            };
            let given = match called {
                Ok(socket) => self.give(socket, &listeners, shutdown.clone()).await,
                Err(why) => Err(why),
            };
            match given {
                Ok((socket, outgoing)) => {
                    match socket.process() {
                        Ok(process) => notify::succeeded_by(process),
                        Err(why) => tracing::warn!(%why, "the service manager cannot be told who took over"),
                    }
                    // Closed here, they are the new process's alone.
                    drop((door, listeners));
                    self.operator.end();
                    self.left.send_replace(Left::Yes);
                    return pump(socket, outgoing, &self.ledger, &self.running).await;
                }
                Err(why) => tracing::error!(%why, "not handed over: this process goes on"),
            }
        }
    }
}

impl Handover {
    /// Waits for a process that is to take over. If SIGQUIT asks for one and none comes, starts one.
    async fn called(&self, door: &Door, quit: &mut Signal) -> io::Result<Socket> {
        loop {
            tokio::select! {
                called = door.called() => return called,
                _ = quit.recv() => match tokio::time::timeout(CALL_PATIENCE, door.called()).await {
                    Ok(called) => return called,
                    Err(_) => self.spawn_successor(),
                },
            }
        }
    }

    fn spawn_successor(&self) {
        match &self.program {
            Ok(program) => {
                let program = program.clone();
                // It only forks, but on a busy machine that may take a while.
                drop(tokio::task::spawn_blocking(move || spawn_successor(&program)));
            }
            Err(why) => tracing::error!(%why, "the program is not known: start it with --upgrade"),
        }
    }

    /// Hands over to who called. If that fails, all is as before.
    async fn give(
        &self,
        socket: Socket,
        listeners: &[Kept],
        mut shutdown: ShutdownWatch,
    ) -> io::Result<(Socket, Outgoing)> {
        let counting = tokio::select! {
            () = asked_to_stop(&mut shutdown) => return Err(io::Error::other("it was asked to stop")),
            prepared = prepare(&socket, listeners) => prepared?,
        };
        tracing::info!("a new process is ready to take over");
        self.operator.pause().await;
        let guests = self.guests.stop().await;
        match self.lend(&socket, &guests, counting).await {
            Ok((lent, changes)) => {
                tracing::info!(guests = guests.len(), "handed over: this process finishes its requests");
                Ok((socket, Outgoing { commands: lent.give_up(), changes }))
            }
            Err(why) => {
                self.guests.serve(guests);
                self.operator.resume();
                Err(why)
            }
        }
    }

    /// Lends the ledger and waits until it is taken; else takes it back.
    async fn lend(
        &self,
        socket: &Socket,
        guests: &[Guest],
        counting: Counting,
    ) -> io::Result<(Lent, Changes)> {
        let ledger = Arc::clone(&self.ledger);
        let lent = tokio::task::spawn_blocking(move || ledger.lend()).await.map_err(io::Error::other)?;
        let lent = lent.map_err(|_| io::Error::other("the ledger is down, or segments are being moved"))?;
        let passed = async {
            pass(socket, &self.ledger, guests, counting).await?;
            let (words, changes) = self.counted.hand_over(counting);
            for word in &words {
                say(socket, word, &[]).await?;
            }
            say(socket, &Word::Yours, &[]).await.map(|()| changes)
        };
        match passed.await {
            Ok(changes) => Ok((lent, changes)),
            Err(why) => {
                self.counted.keep();
                tokio::task::spawn_blocking(move || lent.take_back()).await.map_err(io::Error::other)?;
                Err(why)
            }
        }
    }
}

async fn asked_to_stop(shutdown: &mut ShutdownWatch) {
    // Without a sender, nobody can ask any more.
    let _ = shutdown.wait_for(|asked| *asked).await;
}

/// Up to where the new process has all but the ledger. Tells what it counts for this one, too.
async fn prepare(socket: &Socket, listeners: &[Kept]) -> io::Result<Counting> {
    let counting = match hear(socket, PATIENCE).await? {
        (Word::Take { protocol: PROTOCOL, gates: true, .. }, _) => Counting::All,
        (Word::Take { protocol: PROTOCOL, counts: true, .. }, _) => Counting::Accounts,
        (Word::Take { protocol: PROTOCOL, .. }, _) => Counting::Nothing,
        (Word::Take { protocol, .. }, _) => {
            let why = format!("hand-over {PROTOCOL} is spoken here, not {protocol}: stop and start instead");
            say(socket, &Word::Refused { why: why.clone() }, &[]).await?;
            return Err(io::Error::other(why));
        }
        (other, _) => return Err(unexpected(&other)),
    };
    let sockets: Vec<_> = listeners.iter().map(|kept| kept.listener.as_fd()).collect();
    let listeners = listeners.iter().map(|kept| (kept.role, kept.address)).collect();
    say(socket, &Word::Listeners { listeners }, &sockets).await?;
    match hear(socket, READY_PATIENCE).await? {
        (Word::Ready, _) => Ok(counting),
        (other, _) => Err(unexpected(&other)),
    }
}

/// The ledger is opened by the new process.
async fn pass(socket: &Socket, ledger: &Ledger, guests: &[Guest], counting: Counting) -> io::Result<()> {
    for Guest { connection, open, under_way, .. } in guests {
        say(socket, &Word::Guest, &[connection.as_fd()]).await?;
        let open: Vec<_> = open.iter().map(|(request, customer)| (*customer, *request)).collect();
        for open in open.chunks(HOLDS_MAX) {
            say(socket, &Word::Holds { open: open.to_vec() }, &[]).await?;
        }
        for word in under_way.words(counting) {
            say(socket, &word, &[]).await?;
        }
    }
    let lock = ledger.share_lock()?;
    say(socket, &Word::Ledger { entries: ledger.entries() }, &[lock.as_fd()]).await?;
    match hear(socket, OPEN_PATIENCE).await? {
        (Word::Opened, _) => Ok(()),
        (other, _) => Err(unexpected(&other)),
    }
}

/// Starts a program with the arguments of this process, to take its place.
///
/// By way of one that ends at once: what is nobody's child becomes the service manager's, which would not wait for the
/// end of another's, and might not notice it.
fn spawn_successor(program: &Path) {
    let mut command = Command::new("setsid");
    command.arg("--fork").arg(program);
    command.args(std::env::args_os().skip(1).filter(|argument| argument != "--upgrade"));
    command.arg("--upgrade").stdin(Stdio::null());
    // It is about this process.
    command.env_remove("WATCHDOG_PID");
    let program = program.display().to_string();
    match command.status() {
        Ok(status) if status.success() => tracing::info!(program, "started, to take over"),
        Ok(status) => {
            tracing::error!(program, %status, "cannot be started to take over: this process goes on")
        }
        Err(why) => tracing::error!(program, %why, "cannot be started to take over: this process goes on"),
    }
}
