//! Sight: how far a journal can be read whose oldest segments were archived and are out of reach.
//!
//! Of what cannot be seen, the indexes that stayed say which entries it has and between which links of
//! the hash chain it stands; the checkpoint says what it comes to.

use super::book::Book;
use super::checkpoint::{self, Checkpoint};
use super::disk::{Disk, OutOfReach};
use super::entry::Seq;
use super::frame::{Chain, Head};
use super::segment::{self, JournalError};
use super::sidecar::{About, Sidecar};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;
use utoipa::ToSchema;

/// A segment that was archived and is out of reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Unseen {
    /// Where it should lie.
    #[schema(value_type = String)]
    pub file: PathBuf,
    /// Its first entry.
    pub first: Seq,
    /// Its last entry.
    pub last: Seq,
    /// The end of the hash chain before it.
    pub before: Chain,
    /// The end of the hash chain after it.
    pub head: Chain,
}

/// What of a journal can be seen.
#[derive(Default)]
pub struct Sight {
    /// What cannot.
    pub unseen: Vec<Unseen>,
    /// What can be read, but not folded: it stands among what cannot be seen.
    pub apart: Vec<(String, About)>,
    /// All balances at `begin`.
    pub book: Book,
    /// From where on everything can be read and folded.
    pub begin: Head,
}

impl Sight {
    /// Looks how far the journal on `disk` can be read.
    ///
    /// # Errors
    /// When something is out of reach, and what stayed of it is not whole.
    pub fn of(disk: &dyn Disk) -> Result<Self, JournalError> {
        let names = segment::list(disk)?;
        let mut lost = None;
        for name in &names {
            if let Err(why) = look(disk, name)? {
                lost.get_or_insert((name, why));
            }
        }
        let Some((first, why)) = lost else { return Ok(Sight::default()) };
        let (_, snapshot) = Checkpoint::found(disk).ok_or_else(|| JournalError::Io(first.clone(), why))?;
        let mut sight = Sight { book: snapshot.book, begin: snapshot.head, ..Sight::default() };
        let end = segment::segment_name(sight.begin.seq.next());
        let mut head = Head::START;
        for name in names.into_iter().filter(|name| *name < end) {
            let about = Sidecar::open(disk, name.as_str().into());
            let about = about.map_err(|why| JournalError::Io(format!("the index of {name}"), why))?.about;
            if about.before != head {
                return Err(misfit(&format!("the index of {name}"), head));
            }
            head = about.after;
            match look(disk, &name)? {
                Ok(()) => sight.apart.push((name, about)),
                Err(_) => sight.unseen.push(unseen(disk, &name, &about)?),
            }
        }
        if head == sight.begin { Ok(sight) } else { Err(misfit(checkpoint::NAME, head)) }
    }
}

/// Whether a segment can be read, or why it is out of reach.
fn look(disk: &dyn Disk, name: &str) -> Result<Result<(), io::Error>, JournalError> {
    match disk.open(name) {
        Ok(_) => Ok(Ok(())),
        Err(why) if OutOfReach::is(&why) => Ok(Err(why)),
        Err(why) => Err(JournalError::Io(name.to_owned(), why)),
    }
}

fn unseen(disk: &dyn Disk, name: &str, about: &About) -> Result<Unseen, JournalError> {
    let file = disk.elsewhere(name).map_err(|why| JournalError::Io(name.to_owned(), why))?;
    Ok(Unseen {
        file: file.unwrap_or_else(|| name.into()),
        first: about.before.seq.next(),
        last: about.after.seq,
        before: about.before.chain,
        head: about.after.chain,
    })
}

fn misfit(file: &str, head: Head) -> JournalError {
    let why = "it does not continue what stands before it".into();
    JournalError::Damaged { file: file.to_owned(), offset: 0, seq: head.seq.next(), why }
}
