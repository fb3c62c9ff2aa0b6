//! The files of the audit: one that grows, and those before it, which nothing changes any more.
//!
//! `audit.jsonl` is appended to. Once it has 16 MiB it is renamed to `audit-PLACE.jsonl`, and the next one
//! begins: PLACE is how many bytes were before it, in all files. So a place in the audit means the same for
//! ever, and nothing is lost: whoever needs room may move old files away, which are no longer listed then.
//!
//! Two processes may write for a moment when one hands over to another. A lock on the directory of the
//! store, held for each line, keeps their lines apart and lets one of them rename.

use super::{AuditLine, AuditPage, WhichChanges};
use crate::ledger::Seq;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The file that grows.
const CURRENT: &str = "audit.jsonl";
/// A file has this much at least before the next begins: some ten thousand changes.
const FILE_BYTES: u64 = 16 * 1024 * 1024;
/// Lines of one page; it has none of a second file.
const PAGE_LINES_MAX: usize = 1_000;
/// The longest line that is believed: limits with all their lists, before and after.
const LINE_BYTES_MAX: u64 = 1024 * 1024;
/// In the name of a file, so that names sort as places do.
const PLACE_DIGITS: usize = 20;

/// The audit of a store.
pub struct AuditLog {
    store: PathBuf,
    file_bytes: u64,
}

/// A file before the one that grows.
struct Full {
    begins: u64,
    path: PathBuf,
}

/// All of them at one moment.
struct Files {
    full: Vec<Full>,
    /// Where the one that grows begins.
    begins: u64,
    current: File,
}

impl AuditLog {
    /// Opens, or begins, the audit of a store. Nothing is written that was there.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn open(store: &Path) -> io::Result<Self> {
        let log = AuditLog { store: store.to_owned(), file_bytes: FILE_BYTES };
        let directory = File::open(store)?;
        directory.lock()?;
        log.current()?;
        directory.sync_all()?;
        Ok(log)
    }

    /// Appends a line, durably.
    pub(super) fn append(&self, line: &AuditLine) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        let directory = File::open(&self.store)?;
        // Let go of when it is closed.
        directory.lock()?;
        let mut file = self.current()?;
        if file.metadata()?.len() >= self.file_bytes {
            let begins = self.full()?.last().map_or(Ok(0), Full::ends)?;
            fs::rename(self.store.join(CURRENT), self.store.join(name(begins)))?;
            file = self.current()?;
            directory.sync_all()?;
        }
        end_line(&mut file)?;
        file.write_all(&bytes)?;
        file.sync_data()
    }

    /// Lines from a place on, those that are asked for, up to the end of its file.
    pub(super) fn page(&self, asked: &WhichChanges) -> io::Result<AuditPage> {
        let Files { full, begins, current } = self.files()?;
        // The first that ends behind the place: that begins behind it, too, if those before were moved away.
        for file in full {
            let ends = file.ends()?;
            if asked.after.0 < ends {
                return read(File::open(file.path)?, file.begins, Some(ends), asked);
            }
        }
        read(current, begins, None, asked)
    }

    /// Copies all of it as it is now to another directory, durably.
    pub(crate) fn copy_to(&self, directory: &Path) -> io::Result<()> {
        let Files { full, begins: _, current } = self.files()?;
        for file in full {
            let copy = directory.join(file.path.file_name().unwrap_or_default());
            fs::copy(&file.path, &copy)?;
            File::open(copy)?.sync_all()?;
        }
        let length = current.metadata()?.len();
        let mut copy =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(directory.join(CURRENT))?;
        io::copy(&mut current.take(length), &mut copy)?;
        copy.sync_all()?;
        File::open(directory)?.sync_all()
    }

    /// All files, of which the one that grows is opened before another begins.
    fn files(&self) -> io::Result<Files> {
        let directory = File::open(&self.store)?;
        directory.lock_shared()?;
        let full = self.full()?;
        let begins = full.last().map_or(Ok(0), Full::ends)?;
        Ok(Files { full, begins, current: File::open(self.store.join(CURRENT))? })
    }

    fn full(&self) -> io::Result<Vec<Full>> {
        let mut full = Vec::new();
        for entry in fs::read_dir(&self.store)? {
            let entry = entry?;
            if let Some(begins) = entry.file_name().to_str().and_then(begins) {
                full.push(Full { begins, path: entry.path() });
            }
        }
        full.sort_unstable_by_key(|file| file.begins);
        Ok(full)
    }

    fn current(&self) -> io::Result<File> {
        let path = self.store.join(CURRENT);
        OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)
    }
}

impl Full {
    fn ends(&self) -> io::Result<u64> {
        Ok(self.begins.saturating_add(fs::metadata(&self.path)?.len()))
    }
}

fn name(begins: u64) -> String {
    format!("audit-{begins:0PLACE_DIGITS$}.jsonl")
}

/// The place in a name.
fn begins(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("audit-")?.strip_suffix(".jsonl")?;
    let is_place = digits.len() == PLACE_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_place.then(|| digits.parse().ok())?
}

/// A line that a crash left unfinished stays a line of its own, which no reader takes for one.
fn end_line(file: &mut File) -> io::Result<()> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(());
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    if last == *b"\n" { Ok(()) } else { file.write_all(b"\n") }
}

/// A page of a file that begins at `begins`; `next` is where the audit goes on behind it.
fn read(file: File, begins: u64, next: Option<u64>, asked: &WhichChanges) -> io::Result<AuditPage> {
    // The system refuses to look where no file can reach.
    let within = asked.after.0.saturating_sub(begins).min(file.metadata()?.len());
    let mut place = begins.saturating_add(within);
    let mut file = BufReader::new(file);
    file.seek(SeekFrom::Start(within))?;
    let mut lines = Vec::new();
    let mut bytes = Vec::new();
    while lines.len() < PAGE_LINES_MAX {
        bytes.clear();
        let read = file.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes)?;
        if read == 0 {
            return Ok(AuditPage { lines, next: next.map(Seq) });
        }
        place = place.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        let line = serde_json::from_slice::<AuditLine>(&bytes).ok();
        lines.extend(line.filter(|line| asked.takes(line)));
    }
    Ok(AuditPage { lines, next: Some(Seq(place)) })
}

#[cfg(test)]
mod tests {
    use super::super::Action;
    use super::*;
    use crate::clock::Timestamp;
    use serde_json::Value;
    use std::thread;

    fn line(subject: &str) -> AuditLine {
        let (by, subject) = ("ada".into(), subject.into());
        let at = Timestamp::from_micros(1);
        AuditLine { at, by, action: Action::Ban, subject, entry_id: None, before: None, after: Value::Null }
    }

    fn page(log: &AuditLog, after: Seq) -> (Vec<String>, Option<Seq>) {
        let asked = WhichChanges { after, subject: None, from: None, to: None };
        let AuditPage { lines, next } = log.page(&asked).unwrap();
        (lines.into_iter().map(|line| line.subject.into()).collect(), next)
    }

    /// All subjects, page by page.
    fn subjects(log: &AuditLog) -> Vec<String> {
        let (mut all, mut after) = (Vec::new(), Some(Seq::START));
        while let Some(place) = after {
            let (more, next) = page(log, place);
            assert!(next.is_none_or(|next| next > place), "{next:?} after {place:?}");
            all.extend(more);
            after = next;
        }
        all
    }

    /// Files of `lines` lines each, and this many lines in all.
    fn written(folder: &Path, lines: u64, numbers: std::ops::Range<usize>) -> AuditLog {
        let length = u64::try_from(serde_json::to_vec(&line("10")).unwrap().len()).unwrap() + 1;
        let log = AuditLog { file_bytes: lines * length, ..AuditLog::open(folder).unwrap() };
        numbers.for_each(|number| log.append(&line(&number.to_string())).unwrap());
        log
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }

    fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
        range.map(|number| number.to_string()).collect()
    }

    #[test]
    fn lines_survive_a_restart_and_a_torn_one_takes_no_other_with_it() {
        let folder = tempfile::tempdir().unwrap();
        AuditLog::open(folder.path()).unwrap().append(&line("a")).unwrap();
        let mut torn = serde_json::to_vec(&line("b")).unwrap();
        torn.truncate(20);
        let path = folder.path().join(CURRENT);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(&torn).unwrap();
        let again = AuditLog::open(folder.path()).unwrap();
        assert_eq!(fs::read(&path).unwrap().last(), Some(&torn[19]), "opening it writes nothing");
        again.append(&line("c")).unwrap();
        assert_eq!(page(&again, Seq::START), (vec!["a".into(), "c".into()], None));
        assert_eq!(page(&again, Seq(u64::MAX)), (Vec::new(), None));
    }

    #[test]
    fn pages_follow_each_other_over_files() {
        let folder = tempfile::tempdir().unwrap();
        let log = written(folder.path(), 400, 10..99);
        assert_eq!(subjects(&log), numbers(10..99));
        assert_eq!(names(folder.path()), [CURRENT]);
        let log = written(folder.path(), 10, 10..99);
        assert_eq!(subjects(&log), [numbers(10..99), numbers(10..99)].concat());
        assert_eq!(names(folder.path()).len(), 1 + 9, "{:?}", names(folder.path()));
    }

    #[test]
    fn a_page_has_no_more_lines_than_it_may() {
        let folder = tempfile::tempdir().unwrap();
        let log = AuditLog::open(folder.path()).unwrap();
        let mut bytes = Vec::new();
        for number in 0..PAGE_LINES_MAX + 5 {
            serde_json::to_writer(&mut bytes, &line(&number.to_string())).unwrap();
            bytes.push(b'\n');
        }
        log.current().unwrap().write_all(&bytes).unwrap();
        let (first, next) = page(&log, Seq::START);
        let (rest, end) = page(&log, next.unwrap());
        assert_eq!((first.len(), end), (PAGE_LINES_MAX, None));
        assert_eq!(rest, numbers(1000..1005));
    }

    #[test]
    fn places_mean_the_same_when_files_fill_and_when_old_ones_are_gone() {
        let folder = tempfile::tempdir().unwrap();
        let log = written(folder.path(), 10, 10..25);
        let length = serde_json::to_vec(&line("10")).unwrap().len() + 1;
        let place = Seq(u64::try_from(length * 12).unwrap());
        assert_eq!(page(&log, place), (numbers(22..25), None));
        let log = written(folder.path(), 10, 25..45);
        assert_eq!(page(&log, place).0, numbers(22..30));
        fs::remove_file(folder.path().join(name(0))).unwrap();
        assert_eq!(subjects(&log), numbers(20..45));
    }

    #[test]
    fn a_copy_has_all_files() {
        let (folder, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let log = written(folder.path(), 10, 10..45);
        log.copy_to(copy.path()).unwrap();
        assert_eq!(names(copy.path()), names(folder.path()));
        assert_eq!(subjects(&AuditLog::open(copy.path()).unwrap()), numbers(10..45));
    }

    #[test]
    fn two_that_write_at_once_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let logs = [written(folder.path(), 3, 0..0), written(folder.path(), 3, 0..0)];
        thread::scope(|scope| {
            for (log, from) in logs.iter().zip([100, 200]) {
                scope.spawn(move || {
                    (from..from + 50).for_each(|n| log.append(&line(&n.to_string())).unwrap())
                });
            }
        });
        let mut told = subjects(&logs[0]);
        told.sort_unstable();
        assert_eq!(told, [numbers(100..150), numbers(200..250)].concat());
        assert!(names(folder.path()).len() > 20);
    }
}
