//! Files, as the journal and its index need them: few operations, so that a simulator can stand in
//! and crash.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A directory of append-only files.
pub trait Disk: Send + Sync {
    /// Names of all files, in order.
    ///
    /// # Errors
    /// As the operating system says.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes a file that is not there yet, durably: its name survives a power cut.
    ///
    /// # Errors
    /// As the operating system says.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// Opens a file that is there.
    ///
    /// # Errors
    /// As the operating system says.
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// Puts these bytes into a file, in the place of what was there: all or nothing, durably.
    ///
    /// # Errors
    /// As the operating system says; the file is as it was then, or is the new one.
    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Takes room on the disk by a file of so many bytes, which mean nothing.
    ///
    /// # Errors
    /// As the operating system says; a part of the file may be there then.
    fn reserve(&self, name: &str, bytes: u64) -> io::Result<()>;

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// As the operating system says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Lets a name stand for a file elsewhere, in the place of what was there: all or nothing, durably.
    /// It is read there from now on.
    ///
    /// # Errors
    /// As the operating system says; the name stands for what it did then, or for the new one.
    fn refer(&self, name: &str, path: &Path) -> io::Result<()>;

    /// The file elsewhere that a name stands for, if it does, whether that is there or not.
    ///
    /// # Errors
    /// As the operating system says.
    fn elsewhere(&self, name: &str) -> io::Result<Option<PathBuf>>;
}

/// Why a file is not read that lies elsewhere.
#[derive(Debug)]
pub struct OutOfReach {
    path: PathBuf,
    why: io::Error,
}

impl OutOfReach {
    /// As an error of the file that stands for it.
    pub fn error(path: PathBuf, why: io::Error) -> io::Error {
        io::Error::new(why.kind(), OutOfReach { path, why })
    }

    /// Whether this is what an error says.
    pub fn is(why: &io::Error) -> bool {
        why.get_ref().is_some_and(|inner| inner.is::<OutOfReach>())
    }
}

impl fmt::Display for OutOfReach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it was archived as {}, which is out of reach: {}", self.path.display(), self.why)
    }
}

impl std::error::Error for OutOfReach {}

/// A file that grows at its end.
pub trait File: Send + Sync {
    /// Its size in bytes.
    ///
    /// # Errors
    /// As the operating system says.
    fn size(&self) -> io::Result<u64>;

    /// Reads exactly `buffer.len()` bytes from `offset`.
    ///
    /// # Errors
    /// As the operating system says, or when the file ends before that.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes at `offset`, which is its end. Not durable before [`File::sync`].
    ///
    /// # Errors
    /// As the operating system says; what was written then is unknown.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes all that was written durable.
    ///
    /// # Errors
    /// As the operating system says; what is durable then is unknown, and asking again would not
    /// tell.
    fn sync(&self) -> io::Result<()>;

    /// Cuts it off at `size` bytes.
    ///
    /// # Errors
    /// As the operating system says.
    fn truncate(&self, size: u64) -> io::Result<()>;
}

/// A real directory.
pub struct Directory(PathBuf);

impl Directory {
    /// Opens it, made if need be.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        Ok(Directory(path.to_owned()))
    }

    /// Makes names durable.
    fn sync(&self) -> io::Result<()> {
        fs::File::open(&self.0)?.sync_all()
    }
}

impl Disk for Directory {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            names.extend(entry?.file_name().into_string());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(self.0.join(name))?;
        self.sync()?;
        Ok(Arc::new(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let path = self.0.join(name);
        // An archive may be read-only, and is never written to by this name.
        if let Some(there) = self.elsewhere(name)? {
            let file = fs::File::open(path).map_err(|why| OutOfReach::error(there, why))?;
            return Ok(Arc::new(file));
        }
        Ok(Arc::new(OpenOptions::new().read(true).write(true).open(path)?))
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        // Left behind by a crash, it is overwritten the next time.
        let part = self.0.join(format!("{name}.part"));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&part, self.0.join(name))?;
        self.sync()
    }

    fn reserve(&self, name: &str, bytes: u64) -> io::Result<()> {
        // Written, since a hole takes no room.
        let mut file = fs::File::create(self.0.join(name))?;
        io::copy(&mut io::repeat(0).take(bytes), &mut file)?;
        file.sync_all()?;
        self.sync()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.0.join(name)) {
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| self.sync()),
        }
    }

    fn refer(&self, name: &str, path: &Path) -> io::Result<()> {
        let part = format!("{name}.part");
        self.remove(&part)?;
        symlink(path, self.0.join(&part))?;
        fs::rename(self.0.join(&part), self.0.join(name))?;
        self.sync()
    }

    fn elsewhere(&self, name: &str) -> io::Result<Option<PathBuf>> {
        match fs::read_link(self.0.join(name)) {
            Ok(path) => Ok(Some(path)),
            // It is a file, and no link.
            Err(why) if why.kind() == io::ErrorKind::InvalidInput => Ok(None),
            Err(why) => Err(why),
        }
    }
}

impl File for fs::File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        self.set_len(size)?;
        self.sync_all()
    }
}
