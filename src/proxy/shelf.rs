//! What customers put at providers, by kind: noted in the ledger, free of charge, as long as it counts.
//!
//! Something on a shelf is named by what made it: the charge of a request, of nothing where that was
//! free. Its name opens nothing for others; the account that has it is the last that the charge names.

use super::Gateway;
use super::context::Context;
use super::request::is_object_id;
use super::respond::Refusal;
use super::runs::Running;
use super::stored::NoObject;
use crate::auth::Caller;
use crate::clock::Timestamp;
use crate::endpoint;
use crate::id::CustomerId;
use crate::ledger::{Budgets, Detached, OnShelf, Owned, Terms};
use crate::live::Live;
use crate::money::Amount;
use crate::settle::{Attempt, Detail};
use crate::upstream::Account;
use http::StatusCode;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// How long what is kept counts, in microseconds: as long as OpenAI keeps the files of batches.
const KEPT_US: i64 = 30 * 24 * 60 * 60 * 1_000_000;
/// How a charge ends that says that what it names is gone.
const DELETED: &str = "deleted";

/// What stands together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shelf {
    /// Files.
    Files,
    /// Batches.
    Batches,
}

/// What is asked of a shelf, by its path.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked<'a> {
    /// All that is on it.
    All,
    /// One thing.
    One(&'a str),
    /// What is below one: the content of a file, the cancellation of a batch.
    Part(&'a str),
}

impl Shelf {
    const ALL: [Shelf; 2] = [Shelf::Files, Shelf::Batches];

    /// What is asked for at this path of ours, and of which shelf; `None` where there is none.
    pub fn at(path: &str) -> Option<(Self, Asked<'_>)> {
        let path = path.strip_prefix("/v1/")?;
        let asked = |shelf: Shelf| Some((shelf, shelf.asked(path.strip_prefix(shelf.name())?)?));
        Shelf::ALL.into_iter().find_map(asked)
    }

    /// What is asked for `below` it.
    fn asked(self, below: &str) -> Option<Asked<'_>> {
        if below.is_empty() {
            return Some(Asked::All);
        }
        let rest = below.strip_prefix('/')?;
        let part = match self {
            Shelf::Files => "/content",
            Shelf::Batches => "/cancel",
        };
        let (id, asked) = match rest.strip_suffix(part) {
            Some(id) => (id, Asked::Part(id)),
            None => (rest, Asked::One(rest)),
        };
        is_object_id(id).then_some(asked)
    }

    /// The methods that this takes.
    pub const fn takes(self, asked: &Asked<'_>) -> &'static str {
        match (self, asked) {
            (Shelf::Files | Shelf::Batches, Asked::All) => "GET, POST",
            (Shelf::Files, Asked::One(_)) => "GET, DELETE",
            (Shelf::Files, Asked::Part(_)) | (Shelf::Batches, Asked::One(_)) => "GET",
            (Shelf::Batches, Asked::Part(_)) => "POST",
        }
    }

    /// Its name in the ledger, and of what is asked there.
    pub const fn name(self) -> &'static str {
        match self {
            Shelf::Files => endpoint::FILES,
            Shelf::Batches => endpoint::BATCHES,
        }
    }

    /// What is said of something that is not there.
    pub fn nothing(self, id: &str) -> Refusal {
        Refusal::NoObject(match self {
            Shelf::Files => NoObject::File(id.into()),
            Shelf::Batches => NoObject::Batch(id.into()),
        })
    }

    /// Where an account has it, `below` it.
    pub fn path(self, account: &Account, below: &str) -> String {
        [&*account.base_url.path, "/", self.name(), below].concat()
    }

    /// How the ledger calls something there.
    pub fn object(self, id: &str) -> String {
        format!("{}/{id}", self.name())
    }
}

/// Something that a customer has.
#[derive(Clone)]
pub(super) struct Kept {
    /// As its provider calls it.
    pub id: Box<str>,
    /// The name of the account that has it.
    upstream: Box<str>,
    /// What made it: an upload, or a batch.
    made_by: Shelf,
    /// Where it is still at work.
    pub running: Option<Running>,
}

/// What was noted of something.
struct Noted {
    kept: Kept,
    fate: Fate,
}

impl Noted {
    /// Of what the ledger has; `None` where that cannot be read.
    fn of(customer: CustomerId, object: &str, owned: &Owned) -> Option<Self> {
        let (_, id) = object.split_once('/')?;
        let id = id.into();
        if owned.at_work {
            let detached = Detached { object: object.into(), record: Arc::clone(&owned.record) };
            let running = Running::of(customer, owned.request, &detached)?;
            let (upstream, made_by) = (running.run.upstream().into(), Shelf::Batches);
            let kept = Kept { id, upstream, made_by, running: Some(running) };
            return Some(Noted { kept, fate: Fate::Made });
        }
        let detail: Detail = serde_json::from_slice(&owned.record).ok()?;
        let upstream = detail.attempts.last()?.upstream.clone();
        let made_by = if *detail.endpoint == *endpoint::BATCHES { Shelf::Batches } else { Shelf::Files };
        let fate = if *detail.end == *DELETED { Fate::Deleted } else { Fate::Made };
        Some(Noted { kept: Kept { id, upstream, made_by, running: None }, fate })
    }

    /// It, if it is still there.
    fn there(self) -> Option<Kept> {
        (self.fate == Fate::Made).then_some(self.kept)
    }
}

/// What became of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was made.
    Made,
    /// It was deleted.
    Deleted,
}

impl Gateway {
    /// All that a customer has on a shelf, the oldest first; and how much they put there.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub(super) async fn shelf(&self, caller: &Caller, shelf: Shelf) -> Result<(Vec<Kept>, usize), Refusal> {
        let (ledger, customer) = (Arc::clone(&self.ledger), caller.customer());
        let looked = tokio::task::spawn_blocking(move || {
            let all = ledger.shelf(customer, shelf.name(), since())?;
            let noted = all.iter().filter_map(|OnShelf { object, owned }| Noted::of(customer, object, owned));
            let noted: Vec<Noted> = noted.collect();
            let put = noted.iter().filter(|noted| noted.kept.made_by == shelf).count();
            Ok((noted.into_iter().filter_map(Noted::there).collect(), put))
        });
        looked.await.map_err(|_| Refusal::Overloaded)?.map_err(|why: io::Error| unreadable(&why))
    }

    /// Something of the caller's, and the account that has it.
    ///
    /// # Errors
    /// When there is nothing of theirs, nobody has it any more, or the ledger cannot be read.
    pub(super) async fn on_shelf<'a>(
        &self,
        caller: &Caller,
        live: &'a Live,
        shelf: Shelf,
        id: &str,
    ) -> Result<(&'a Arc<Account>, Kept), Refusal> {
        let (ledger, customer, object) = (Arc::clone(&self.ledger), caller.customer(), shelf.object(id));
        let looked = tokio::task::spawn_blocking(move || {
            let owned = ledger.owned(customer, &object, since())?;
            Ok(owned.and_then(|owned| Noted::of(customer, &object, &owned)?.there()))
        });
        let kept = looked.await.map_err(|_| Refusal::Overloaded)?;
        let kept = kept.map_err(|why: io::Error| unreadable(&why))?.ok_or_else(|| shelf.nothing(id))?;
        let account = kept.account(live).ok_or_else(|| Refusal::NoObject(NoObject::OutOfReach(id.into())))?;
        Ok((account, kept))
    }

    /// Notes what became of something, durably.
    ///
    /// # Errors
    /// When the caller may not any more, or it cannot be made durable.
    pub(super) async fn note(
        &self,
        ctx: &Context,
        caller: &Caller,
        (shelf, kept, fate): (Shelf, &Kept, Fate),
        took: Duration,
    ) -> Result<(), Refusal> {
        let terms = Terms {
            customer: caller.customer(),
            key: caller.key(),
            request: ctx.request,
            amount: Amount::ZERO,
            least: Amount::ZERO,
            budgets: Budgets::default(),
            price_version: Arc::clone(&ctx.live.config.prices.at(Timestamp::now()).version),
            mark: None,
        };
        let held = self.admission.hold_exactly(terms).await;
        let (hold, ..) = held.map_err(|why| Refusal::not_admitted(why, ""))?;
        let record = free(kept, fate, took).to_record(None);
        let object: Arc<str> = shelf.object(&kept.id).into();
        let mut applied = hold.capture_for(Amount::ZERO, record.into(), Some(object));
        applied.commit.durable().await.map(|_| ()).map_err(|_| Refusal::Overloaded)
    }
}

impl Kept {
    /// What was put there just now, at the account of this name.
    pub fn put(id: Box<str>, upstream: &str) -> Self {
        Kept { id, upstream: upstream.into(), made_by: Shelf::Files, running: None }
    }

    /// The account that has it, if it is still used.
    pub fn account<'a>(&self, live: &'a Live) -> Option<&'a Arc<Account>> {
        live.pool.accounts().iter().find(|account| *account.name == *self.upstream)
    }
}

fn since() -> Timestamp {
    Timestamp::from_micros(Timestamp::now().micros().saturating_sub(KEPT_US))
}

fn unreadable(why: &io::Error) -> Refusal {
    tracing::warn!(%why, "it cannot be told what is kept for a customer");
    Refusal::Overloaded
}

/// What the ledger keeps of something that is free.
fn free(kept: &Kept, fate: Fate, took: Duration) -> Detail {
    let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let status = StatusCode::OK.as_u16();
    let attempt = Attempt { upstream: kept.upstream.clone(), outcome: "ok".into(), status: Some(status), ms };
    let end = match fate {
        Fate::Made => "complete",
        Fate::Deleted => DELETED,
    };
    // Usage is summed by the model.
    let unused = Detail::unused(kept.made_by.name(), endpoint::FILES, status, end);
    Detail { attempts: vec![attempt], duration_ms: ms, ..unused }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, expect: Option<(Shelf, Asked<'_>, &str)>) {
        let found = Shelf::at(path).map(|(shelf, asked)| (shelf.takes(&asked), shelf, asked));
        assert_eq!(found, expect.map(|(shelf, asked, takes)| (takes, shelf, asked)), "{path}");
    }

    #[test]
    fn a_shelf_and_what_is_on_it_are_told_by_their_path() {
        check("/v1/files", Some((Shelf::Files, Asked::All, "GET, POST")));
        check("/v1/files/file-1", Some((Shelf::Files, Asked::One("file-1"), "GET, DELETE")));
        check("/v1/files/file-1/content", Some((Shelf::Files, Asked::Part("file-1"), "GET")));
        check("/v1/batches", Some((Shelf::Batches, Asked::All, "GET, POST")));
        check("/v1/batches/batch_1", Some((Shelf::Batches, Asked::One("batch_1"), "GET")));
        check("/v1/batches/batch_1/cancel", Some((Shelf::Batches, Asked::Part("batch_1"), "POST")));
        for other in ["/", "//", "/a/b", "/a.b", "/a%2f", "/a/content/b", "/a/b/content", "/a/cancel", "x"] {
            check(&format!("/v1/files{other}"), None);
        }
        for other in ["/", "/a/b", "/a.b", "/a/cancel/b", "/a/content", "x"] {
            check(&format!("/v1/batches{other}"), None);
        }
        check("/v1/uploads", None);
    }
}
