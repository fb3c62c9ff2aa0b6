//! A file as written: its text and the YAML in it, before anything is known about its meaning.

use super::fault::Fault;
use super::locate::Place;
use serde_yaml::Value;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The largest file that is read. A price book of every model there is has a quarter of it.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A file of the configuration.
pub(super) struct Document {
    /// Its name as given, for faults.
    pub(super) file: String,
    /// Relative names in it start here.
    pub(super) directory: PathBuf,
    pub(super) text: String,
    pub(super) root: Value,
}

impl Document {
    /// Reads a file and the YAML in it.
    pub(super) fn parse(path: &Path, text: String) -> Result<Document, Fault> {
        let file = path.display().to_string();
        match serde_yaml::from_str(&text) {
            Ok(root) => {
                let directory = path.parent().unwrap_or(Path::new("")).to_owned();
                Ok(Document { file, directory, text, root })
            }
            Err(error) => Err(fault(file, Place::of(&error), format!("not valid YAML: {error}"))),
        }
    }
}

/// The text of a file, or why there is none.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let unreadable = |error| format!("{} cannot be read: {error}", path.display());
    let mut text = String::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() > usize::try_from(FILE_BYTES_MAX).expect("fits") {
        return Err(format!("{} is larger than {FILE_BYTES_MAX} bytes", path.display()));
    }
    Ok(text)
}

/// A fault of the file as a whole.
pub(super) fn fault(file: String, place: Place, message: String) -> Fault {
    Fault { file, line: place.line, column: place.column, path: String::new(), message }
}
