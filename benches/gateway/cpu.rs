//! CPU time of a process, whole and by thread, as the kernel counts it.

use super::Failed;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// CPU time up to some moment.
#[derive(Default)]
pub struct Usage {
    /// Of the whole process, ended threads included.
    pub total: Duration,
    /// Of threads that live, by name; what has the same name is one.
    pub threads: BTreeMap<String, Duration>,
}

impl Usage {
    pub fn of(process: u32) -> Result<Self, Failed> {
        let root = Path::new("/proc").join(process.to_string());
        let mut threads = BTreeMap::<String, Duration>::new();
        for task in fs::read_dir(root.join("task"))? {
            // A thread may end between its listing and its reading.
            let Ok((name, spent)) = spent(&task?.path()) else { continue };
            *threads.entry(name).or_default() += spent;
        }
        Ok(Usage { total: spent(&root)?.1, threads })
    }

    pub fn since(mut self, before: &Usage) -> Usage {
        self.total = self.total.saturating_sub(before.total);
        for (name, spent) in &mut self.threads {
            *spent = spent.saturating_sub(before.threads.get(name).copied().unwrap_or_default());
        }
        self
    }
}

/// The name and the user and system time of a process or a thread: fields 2, 14 and 15 of its `stat`.
fn spent(folder: &Path) -> Result<(String, Duration), Failed> {
    let stat = fs::read_to_string(folder.join("stat"))?;
    // The name stands in parentheses and may hold anything.
    let (front, rest) = stat.rsplit_once(')').ok_or("stat cannot be read")?;
    let name = front.split_once('(').ok_or("stat cannot be read")?.1.to_owned();
    let ticks = rest.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    let ticks_per_second = rustix::param::clock_ticks_per_second();
    Ok((name, Duration::from_micros(ticks * 1_000_000 / ticks_per_second)))
}
