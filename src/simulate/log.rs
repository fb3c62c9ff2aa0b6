//! What was served: a bounded log in memory, and a file of JSON lines if one was asked for.
//!
//! Knows no HTTP. An [`Entry`] is open while its answer is under way and is logged when it goes
//! away, however it goes away.

use super::answer::Counts;
use crate::clock::Timestamp;
use crate::usage::Usage;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// One answer, as far as it went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// When the request had arrived.
    pub at: Timestamp,
    /// The request's `x-client-request-id`, or empty.
    pub request: String,
    /// The path that was asked for.
    pub path: String,
    /// How it was asked for, where that is not `POST` alone; else empty.
    #[serde(default)]
    pub method: String,
    /// The model as requested; empty when the request could not be read.
    pub model: String,
    /// Whether a stream was requested.
    pub stream: bool,
    /// The status answered, or about to be answered when the caller went away.
    pub status: u16,
    /// Tokens of the prompt, as counted, whatever was reported. Zero for an error, as all counts.
    pub prompt_tokens: u64,
    /// Of the prompt's tokens, those read from a cache.
    pub cached_tokens: u64,
    /// Tokens of the whole completion, whether or not all of it went out.
    pub completion_tokens: u64,
    /// Of the completion's tokens, those spent on reasoning.
    pub reasoning_tokens: u64,
    /// Web searches that were run.
    #[serde(default)]
    pub searches: u64,
    /// What was used that is not text, by class.
    #[serde(default)]
    pub other: Usage,
    /// The service tier that was told; empty for an error.
    #[serde(default)]
    pub service_tier: String,
    /// Whether the last byte was handed to the connection.
    pub complete: bool,
    /// Content chunks handed to the connection; 1 for a plain answer.
    pub chunks_sent: u32,
    /// Tokens of text in those chunks.
    pub tokens_sent: u64,
    /// The end of the credential that was used.
    pub credential_last4: String,
}

impl Served {
    /// Its usage by class, each token in one of them.
    pub fn usage(&self) -> Usage {
        let counts = Counts {
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens,
            completion_tokens: self.completion_tokens,
            reasoning_tokens: self.reasoning_tokens,
            searches: self.searches,
            other: self.other,
        };
        counts.usage()
    }
}

/// The answers that have ended.
pub(super) struct Log {
    kept: Mutex<Kept>,
    entries_max: usize,
    under_way: AtomicUsize,
}

struct Kept {
    entries: VecDeque<Served>,
    dropped: u64,
    file: Option<File>,
}

impl Log {
    pub fn new(entries_max: usize) -> Self {
        let kept = Kept { entries: VecDeque::new(), dropped: 0, file: None };
        Log { kept: Mutex::new(kept), entries_max, under_way: AtomicUsize::new(0) }
    }

    /// How many answers have not ended.
    pub fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    /// Appends to this file too, from now on.
    pub fn append_to(&self, path: &Path) -> io::Result<()> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        self.kept.lock().file = Some(file);
        Ok(())
    }

    /// All entries, oldest first.
    pub fn all(&self) -> Vec<Served> {
        self.kept.lock().entries.iter().cloned().collect()
    }

    /// How many entries were dropped to stay within the bound.
    pub fn dropped(&self) -> u64 {
        self.kept.lock().dropped
    }

    /// The number that the next entry will have.
    pub fn end(&self) -> u64 {
        let kept = self.kept.lock();
        kept.dropped + u64::try_from(kept.entries.len()).expect("64 bits hold a length")
    }

    /// At most `count` entries from number `from` on, up to `end`, and the number to go on from.
    /// Entries dropped in the meantime are passed over.
    pub fn page(&self, from: u64, end: u64, count: usize) -> (Vec<Served>, u64) {
        let kept = self.kept.lock();
        let from = from.max(kept.dropped).min(end.max(kept.dropped));
        let skip = usize::try_from(from - kept.dropped).unwrap_or(usize::MAX);
        let left = usize::try_from(end.saturating_sub(from)).unwrap_or(usize::MAX);
        let page: Vec<Served> = kept.entries.iter().skip(skip).take(left.min(count)).cloned().collect();
        let next = from + u64::try_from(page.len()).expect("64 bits hold a length");
        (page, next)
    }

    /// Logs what was served all at once.
    pub fn push(&self, served: Served) {
        let mut kept = self.kept.lock();
        if let Some(file) = &mut kept.file {
            // One write a line, so that a line is whole when the process is killed. A full disk
            // must not stop the simulation; the log in memory goes on.
            drop(file.write_all(&line(&served)));
        }
        kept.entries.push_back(served);
        if kept.entries.len() > self.entries_max {
            kept.entries.pop_front();
            kept.dropped += 1;
        }
    }
}

/// An answer under way. Logged when dropped.
pub(super) struct Entry {
    log: Arc<Log>,
    pub served: Served,
}

impl Entry {
    pub fn open(log: Arc<Log>, served: Served) -> Self {
        log.under_way.fetch_add(1, Ordering::Relaxed);
        Entry { log, served }
    }

    /// The last byte is about to be handed over.
    pub fn complete(mut self) {
        self.served.complete = true;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.log.push(std::mem::take(&mut self.served));
        self.log.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An entry as a line of JSON.
pub(super) fn line(served: &Served) -> Vec<u8> {
    let mut line = serde_json::to_vec(served).expect("strings and numbers are JSON");
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_of(entries_max: usize, count: u64) -> Arc<Log> {
        let log = Arc::new(Log::new(entries_max));
        for prompt_tokens in 0..count {
            Entry::open(log.clone(), Served { prompt_tokens, ..Served::default() }).complete();
        }
        log
    }

    fn numbers(page: &[Served]) -> Vec<u64> {
        page.iter().map(|served| served.prompt_tokens).collect()
    }

    #[test]
    fn an_entry_is_logged_however_it_ends() {
        let log = log_of(10, 1);
        let entry = Entry::open(log.clone(), Served::default());
        assert_eq!(log.under_way(), 1);
        drop(entry);
        assert_eq!(log.under_way(), 0);
        assert_eq!(log.all().iter().map(|served| served.complete).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn the_oldest_are_dropped_and_counted() {
        let log = log_of(3, 5);
        assert_eq!((numbers(&log.all()), log.dropped(), log.end()), (vec![2, 3, 4], 2, 5));
    }

    #[test]
    fn pages_follow_on_each_other() {
        let log = log_of(3, 5);
        let check = |from, end, numbers_expected: &[u64], next_expected| {
            let (page, next) = log.page(from, end, 2);
            assert_eq!((&numbers(&page)[..], next), (numbers_expected, next_expected), "{from}..{end}");
        };
        check(0, 5, &[2, 3], 4);
        check(4, 5, &[4], 5);
        check(5, 5, &[], 5);
        check(0, 1, &[], 2);
    }

    #[test]
    fn a_line_reads_back() {
        let served = Served { model: "m\n".to_owned(), complete: true, ..Served::default() };
        let line = line(&served);
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert_eq!(serde_json::from_slice::<Served>(&line).unwrap(), served);
    }
}
