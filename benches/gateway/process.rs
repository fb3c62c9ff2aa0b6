//! Processes of the measurement: each on its core, with its output in a file, ended with the bench.

use super::Failed;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The longest that a process may take until it serves.
const START_MAX: Duration = Duration::from_secs(30);
const START_STEP: Duration = Duration::from_millis(20);
const LOAD_CORE: &str = "0";
const GATEWAY_CORE: &str = "1";

/// Where processes run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Cores {
    /// What is measured has a core of its own, without the mock and the load.
    Pinned,
    /// Wherever the system puts them: there is no `taskset`, or one core only.
    Unpinned,
}

impl Cores {
    pub fn find() -> Self {
        let tries = |core| Command::new("taskset").args(["-c", core, "true"]).stderr(Stdio::null()).status();
        let works = |core| tries(core).is_ok_and(|status| status.success());
        if works(LOAD_CORE) && works(GATEWAY_CORE) { Cores::Pinned } else { Cores::Unpinned }
    }

    pub fn load(self) -> Option<&'static str> {
        (self == Cores::Pinned).then_some(LOAD_CORE)
    }

    pub fn gateway(self) -> Option<&'static str> {
        (self == Cores::Pinned).then_some(GATEWAY_CORE)
    }

    /// Pins this process, which has one thread yet.
    pub fn take_load_core(self) -> Result<(), Failed> {
        let Some(core) = self.load() else { return Ok(()) };
        let id = std::process::id().to_string();
        let pinned = Command::new("taskset").args(["-cp", core, &id]).stdout(Stdio::null()).status()?;
        if pinned.success() { Ok(()) } else { Err("the load cannot be pinned to its core".into()) }
    }
}

/// A process that ends when this is dropped.
pub struct Process(Child);

impl Process {
    /// Starts this binary in another role; it prints where it serves.
    pub fn role(
        role: &str,
        upstream: Option<SocketAddr>,
        core: Option<&str>,
        folder: &Path,
    ) -> Result<(Self, SocketAddr), Failed> {
        let mut command = on_core(core, &std::env::current_exe()?);
        command.args(["--bench", "--role", role]);
        if let Some(upstream) = upstream {
            command.args(["--upstream", &upstream.to_string()]);
        }
        Process::start(command, &folder.join(role), |line| line.parse().ok())
    }

    /// Starts `command` and waits for a line of its output that `ready` understands.
    pub fn start<T>(
        mut command: Command,
        output: &Path,
        ready: impl Fn(&str) -> Option<T>,
    ) -> Result<(Self, T), Failed> {
        let begun = Instant::now();
        let mut process = Process(command.stdout(File::create(output)?).stdin(Stdio::null()).spawn()?);
        loop {
            let text = fs::read_to_string(output)?;
            if let Some(found) = text.lines().find_map(&ready) {
                return Ok((process, found));
            }
            let ended = process.0.try_wait()?;
            if ended.is_some() || begun.elapsed() > START_MAX {
                return Err(format!("{command:?} does not serve: {ended:?} {text}").into());
            }
            thread::sleep(START_STEP);
        }
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `taskset` becomes the program: the process that is started is the one that is measured.
pub fn on_core(core: Option<&str>, program: &Path) -> Command {
    let Some(core) = core else { return Command::new(program) };
    let mut command = Command::new("taskset");
    command.args(["-c", core]).arg(program);
    command
}
