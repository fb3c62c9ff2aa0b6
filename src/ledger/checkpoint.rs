//! The checkpoint: the state as of the end of what was archived, in one file beside the journal.
//!
//! ```text
//! magic | crc32c u32 | names and values of the state's records, each behind its length
//! ```
//!
//! It is what a start folds the journal from when there is no state and the segments before it are
//! out of reach. Its first record says where it stands and has a digest of all others. It is made from
//! the journal, as everything else is: damaged or of another format, it is as good as missing.

use super::codec;
use super::disk::Disk;
use super::frame::Head;
use super::legs::Totals;
use super::records::{self, Pending};
use super::state::{Snapshot, StateError};
use std::collections::BTreeMap;
use std::io;

/// Its name in the directory of the journal.
pub const NAME: &str = "checkpoint";
const MAGIC: [u8; 8] = *b"TGCHECK\0";

/// The state as of some entry.
#[derive(Default)]
pub struct Checkpoint {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Checkpoint {
    /// Reads the one on `disk`. Any doubt about it is told, and it is as if there were none.
    pub fn found(disk: &dyn Disk) -> Option<(Self, Snapshot)> {
        match Self::read(disk) {
            Ok(found) => Some(found),
            Err(StateError::Missing) => None,
            Err(why) => {
                tracing::warn!(%why, "the checkpoint of the archive cannot be used");
                None
            }
        }
    }

    fn read(disk: &dyn Disk) -> Result<(Self, Snapshot), StateError> {
        let file = match disk.open(NAME) {
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Err(StateError::Missing),
            opened => opened?,
        };
        let size = usize::try_from(file.size()?).map_err(|_| StateError::Damaged("it is too large"))?;
        let mut bytes = vec![0; size];
        file.read_at(&mut bytes, 0)?;
        let mut input = &bytes[..];
        let magic: [u8; 8] = codec::take(&mut input)?;
        let crc = u32::from_le_bytes(codec::take(&mut input)?);
        if magic != MAGIC || crc32c::crc32c(input) != crc {
            return Err(StateError::Damaged("its checksum does not fit"));
        }
        let mut records = BTreeMap::new();
        while !input.is_empty() {
            let name = codec::take_bytes(&mut input)?.to_vec();
            records.insert(name, codec::take_bytes(&mut input)?.to_vec());
        }
        let meta = records.get(&[records::META][..]).ok_or(StateError::Missing)?;
        let snapshot = records::snapshot(meta, |prefix| {
            let from = records.range(vec![prefix]..);
            from.take_while(move |(name, _)| name.first() == Some(&prefix)).map(Ok)
        })?;
        Ok((Checkpoint { records }, snapshot))
    }

    /// Brings it up to `head`, by what the entries up to there changed.
    pub fn follow(&mut self, pending: &mut Pending, totals: Totals, head: Head) {
        for (name, value) in pending.take() {
            match value {
                Some(value) => self.records.insert(name, value),
                None => self.records.remove(&name),
            };
        }
        self.records.remove(&[records::META][..]);
        let digest = self.records.iter().map(|(name, value)| records::digest(name, value));
        let digest = digest.fold(0, |sum, one| sum ^ one);
        self.records.insert(vec![records::META], records::meta(head, totals, digest));
    }

    /// Puts it on `disk`, in the place of the one before it.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn write(&self, disk: &dyn Disk) -> io::Result<()> {
        let mut body = Vec::new();
        for (name, value) in &self.records {
            codec::put_bytes(&mut body, name);
            codec::put_bytes(&mut body, value);
        }
        let mut bytes = MAGIC.to_vec();
        codec::put(&mut bytes, crc32c::crc32c(&body).to_le_bytes());
        bytes.append(&mut body);
        disk.replace(NAME, &bytes)
    }

    /// What a state store is to have that is made from here.
    pub fn into_pending(mut self) -> Pending {
        self.records.remove(&[records::META][..]);
        Pending::of(self.records)
    }
}
