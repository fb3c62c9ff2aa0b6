//! Standard output as a log: levels for the journal, where that is who reads.

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::LazyLock;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// Whether systemd's journal reads standard output, as `JOURNAL_STREAM` says: device and inode.
static IS_JOURNAL: LazyLock<bool> = LazyLock::new(|| {
    let said = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let output = std::fs::metadata("/proc/self/fd/1");
    output.is_ok_and(|output| is_journal(&said, output.dev(), output.ino()))
});

fn is_journal(said: &str, device: u64, inode: u64) -> bool {
    said.split_once(':').is_some_and(|(dev, ino)| dev.parse() == Ok(device) && ino.parse() == Ok(inode))
}

/// What stands before a line of this level: the journal takes it off again and keeps the level.
pub(super) fn priority(level: &str) -> &'static [u8] {
    if *IS_JOURNAL { number(level) } else { b"" }
}

/// As in sd-daemon(3).
fn number(level: &str) -> &'static [u8] {
    match level {
        "ERROR" => b"<3>",
        "WARN" => b"<4>",
        "INFO" => b"<6>",
        _ => b"<7>",
    }
}

/// Gives each line its priority, then writes it to `W`.
pub struct Prioritised<W>(pub W);

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for Prioritised<W> {
    type Writer = Line<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Line { level: Level::INFO, out: self.0.make_writer() }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Self::Writer {
        Line { level: *meta.level(), out: self.0.make_writer_for(meta) }
    }
}

/// Writes one line.
pub struct Line<W> {
    level: Level,
    out: W,
}

impl<W: Write> Write for Line<W> {
    /// A line comes whole, and goes out whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let priority = priority(self.level.as_str());
        if priority.is_empty() {
            self.out.write_all(line)?;
        } else {
            self.out.write_all(&[priority, line].concat())?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_known_by_device_and_inode() {
        assert!(is_journal("8:1234", 8, 1234));
        for said in ["", "8", "8:", ":1234", "8:1235", "9:1234", "8:1234:1"] {
            assert!(!is_journal(said, 8, 1234), "{said}");
        }
    }

    #[test]
    fn levels_have_the_numbers_of_the_journal() {
        let numbers = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE]
            .map(|level| std::str::from_utf8(number(level.as_str())).unwrap());
        assert_eq!(numbers, ["<3>", "<4>", "<6>", "<7>", "<7>"]);
    }
}
