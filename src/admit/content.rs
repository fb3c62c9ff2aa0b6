//! Judges what is asked by the operator's content policy: before it is admitted, or beside it; and of
//! what is answered, a share.
//!
//! What is found is noted in the ledger: category, score, request and a keyed digest, never the text. Who
//! is refused hears of it once that is durable. Whether that is once too often is looked at by the
//! [bench](super::bench), which bans by the rule that applies. What waits to be judged beside is bounded;
//! what does not fit is not judged, and counted.

use super::bench::{Bench, Counter};
use super::running::Running;
use crate::auth::key::Digester;
use crate::id::{CustomerId, RequestId};
use crate::ledger::{Ledger, Reaction, Violation};
use crate::policy::content::{Content, Finding, Mode, Moderation, OnFailure, Score};
use crate::policy::matter::{Matter, Unreadable};
use crate::policy::text::Text;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::mpsc;

/// Longer texts are judged on a thread that serves no request: this takes about a millisecond.
const INLINE_BYTES_MAX: usize = 64 * 1024;
/// Texts that wait, in all.
const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What is told to who counts.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A request is in a category.
    Violation(&'a str, Mode),
    /// Something was not judged: too many wait, or whoever judges it failed.
    Unjudged,
    /// A customer was banned.
    Banned,
}

/// Is told what happens.
pub type OnEvent = Arc<dyn Fn(Event<'_>) + Send + Sync>;

/// Why a provider does not say what it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmoderated {
    /// None could be asked, or answered in time.
    Unanswered,
    /// It is nothing that a provider judges.
    Unreadable,
}

impl From<Unreadable> for Unmoderated {
    fn from(_: Unreadable) -> Self {
        Unmoderated::Unreadable
    }
}

/// What a provider is asked about at once.
#[derive(Debug)]
pub enum Question {
    /// Pieces of text.
    Texts(Vec<String>),
    /// An image, by its URL.
    Image(String),
}

/// What a provider finds: each of its labels, and how surely.
pub type Scores = Vec<(Box<str>, Score)>;

/// Asks a provider what is objected to.
#[async_trait]
pub trait Moderate: Send + Sync {
    /// The highest score of each label over all that is asked about.
    ///
    /// # Errors
    /// When nobody answers in time, or it cannot be judged.
    async fn moderate(&self, case: &Case, by: &Moderation, about: Question) -> Result<Scores, Unmoderated>;
}

/// Why a request is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Objection {
    /// It is in this category.
    Category(Arc<str>),
    /// It could not be judged, and must be.
    Unjudged,
    /// It can never be judged as it is, and must be.
    Unreadable,
    /// What was found cannot be made durable.
    Unnoted,
}

/// Whose request is judged, by what.
#[derive(Clone, Debug)]
pub struct Case {
    /// The policy.
    pub content: Arc<Content>,
    /// Who asks.
    pub customer: CustomerId,
    /// Which request.
    pub request: RequestId,
}

/// What is judged.
pub enum Said {
    /// A request, as JSON, and the files that came beside that in a form.
    Asked(Bytes, Vec<Bytes>),
    /// A whole answer, as JSON.
    Answered(Bytes),
    /// The text of a stream.
    Streamed(String),
}

impl Said {
    fn text(&self) -> Text<'_> {
        match self {
            Said::Asked(body, _) | Said::Answered(body) => Text::Json(body),
            Said::Streamed(text) => Text::Plain(text),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Said::Asked(body, _) | Said::Answered(body) => body,
            Said::Streamed(text) => text.as_bytes(),
        }
    }

    fn files(&self) -> &[Bytes] {
        match self {
            Said::Asked(_, files) => files,
            Said::Answered(_) | Said::Streamed(_) => &[],
        }
    }

    /// What it takes in memory.
    fn size(&self) -> usize {
        self.bytes().len() + self.files().iter().map(Bytes::len).sum::<usize>()
    }
}

/// Something that waits to be judged.
pub(super) struct Job {
    pub case: Case,
    pub said: Arc<Said>,
    pub place: Place,
}

/// A place among those that wait.
pub(super) struct Place {
    waiting: Arc<Waiting>,
    bytes: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waiting.jobs.fetch_sub(1, Ordering::Relaxed);
        self.waiting.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Waiting {
    jobs: AtomicUsize,
    bytes: AtomicUsize,
}

/// Judges requests.
#[derive(Clone)]
pub struct Judge {
    clerk: Clerk,
    jobs: mpsc::UnboundedSender<Job>,
    counter: Counter,
    waiting: Arc<Waiting>,
}

/// Finds, and notes what is found.
#[derive(Clone)]
pub(super) struct Clerk {
    pub ledger: Arc<Ledger>,
    pub on_event: OnEvent,
    digester: Arc<Digester>,
    moderate: Arc<dyn Moderate>,
}

impl Judge {
    /// A judge, and what looks after the rules.
    pub fn new(
        ledger: Arc<Ledger>,
        running: Running,
        digester: Digester,
        moderate: Arc<dyn Moderate>,
        on_event: OnEvent,
    ) -> (Judge, Bench) {
        let (jobs, receiver) = mpsc::unbounded_channel();
        let clerk = Clerk { ledger, on_event, digester: Arc::new(digester), moderate };
        let (bench, counter) = Bench::new(clerk.clone(), running, receiver);
        (Judge { clerk, jobs, counter, waiting: Arc::default() }, bench)
    }

    /// How many wait to be judged, or are being judged, beside their request.
    pub fn waiting(&self) -> usize {
        self.waiting.jobs.load(Ordering::Relaxed)
    }

    /// Who is told of violations that were noted.
    pub fn counter(&self) -> Counter {
        self.counter.clone()
    }

    /// Judges a request.
    ///
    /// # Errors
    /// Why it is not served.
    pub async fn judge(&self, case: Case, mode: Mode, said: impl FnOnce() -> Said) -> Result<(), Objection> {
        match mode {
            Mode::Off => return Ok(()),
            Mode::Observe => {
                self.enqueue(case, Arc::new(said()));
                return Ok(());
            }
            Mode::Enforce => {}
        }
        let said = Arc::new(said());
        let findings = match (self.clerk.find(&case, &said).await, &case.content.moderation) {
            (Ok(findings), _) => findings,
            (Err(why), Some(by)) => by.without(why).map(|()| Vec::new())?,
            (Err(_), None) => return Err(Objection::Unjudged),
        };
        let Some(first) = findings.first().map(|finding| Arc::clone(&finding.category)) else {
            return Ok(());
        };
        self.clerk.note(&case, &findings, &said, Reaction::Refused).await.map_err(|()| Objection::Unnoted)?;
        findings.into_iter().for_each(|finding| self.counter.noted(&case, finding.category));
        Err(Objection::Category(first))
    }

    /// Listens to the answer, if the lot falls on it.
    pub fn listen(&self, case: impl FnOnce() -> Case, content: &Content, mode: Mode) -> Option<Listener> {
        let drawn = match (mode, content.output_one_in) {
            (Mode::Off, _) | (_, 0) => false,
            (Mode::Observe | Mode::Enforce, one_in) => fastrand::u32(..one_in) == 0,
        };
        drawn.then(|| Listener { judge: self.clone(), case: case() })
    }

    fn enqueue(&self, case: Case, said: Arc<Said>) {
        let bytes = said.size();
        let place = Place { waiting: Arc::clone(&self.waiting), bytes };
        let full = self.waiting.jobs.fetch_add(1, Ordering::Relaxed) >= case.content.waiting_max
            || self.waiting.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > WAITING_BYTES_MAX;
        if full {
            // Both were counted, whichever is full: the place counts them off.
            drop(place);
            (self.clerk.on_event)(Event::Unjudged);
        } else {
            // It ends with the process alone.
            let _ = self.jobs.send(Job { case, said, place });
        }
    }
}

/// Has one answer judged, beside its delivery.
pub struct Listener {
    judge: Judge,
    case: Case,
}

impl Listener {
    /// This was answered.
    pub fn heard(self, said: Said) {
        self.judge.enqueue(self.case, Arc::new(said));
    }

    /// A stream delivered this text, of so many bytes; it is not kept if there are too many.
    pub fn streamed(self, text: &str, bytes: u64) {
        match (text.is_empty(), bytes) {
            (_, 0) => {}
            (true, _) => (self.judge.clerk.on_event)(Event::Unjudged),
            (false, _) => self.heard(Said::Streamed(text.into())),
        }
    }
}

impl Clerk {
    /// What is found: by words, and where these find nothing, by a provider.
    pub async fn find(&self, case: &Case, said: &Arc<Said>) -> Result<Vec<Finding>, Unmoderated> {
        let by_words = look(case, said, |content, said| content.by_words(said.text())).await;
        let by_words = by_words.unwrap_or_default();
        let Some(by) = case.content.moderation.as_ref().filter(|_| by_words.is_empty()) else {
            return Ok(by_words);
        };
        let found = self.ask(case, said, by).await;
        if found.is_err() {
            (self.on_event)(Event::Unjudged);
        }
        found
    }

    /// What a provider finds. What it finds in a part counts, whatever becomes of the rest.
    async fn ask(&self, case: &Case, said: &Arc<Said>, by: &Moderation) -> Result<Vec<Finding>, Unmoderated> {
        let images_max = by.images_max;
        let read = move |_: &Content, said: &Said| {
            Matter::read(said.text(), said.files().iter().map(|file| &**file), images_max)
        };
        let Matter { texts, images } = look(case, said, read).await.unwrap_or(Err(Unreadable))?;
        let texts = (!texts.is_empty()).then_some(Question::Texts(texts));
        let questions = texts.into_iter().chain(images.into_iter().map(Question::Image));
        let answers = join_all(questions.map(|about| self.moderate.moderate(case, by, about))).await;
        let found = case.content.by_scores(&answers.iter().flatten().flatten().cloned().collect::<Scores>());
        match answers.into_iter().find_map(Result::err) {
            Some(why) if found.is_empty() => Err(why),
            Some(_) | None => Ok(found),
        }
    }

    /// Notes what was found, and waits until that is durable.
    pub async fn note(
        &self,
        case: &Case,
        findings: &[Finding],
        said: &Arc<Said>,
        outcome: Reaction,
    ) -> Result<(), ()> {
        if findings.is_empty() {
            return Ok(());
        }
        let digest = self.digester.tag(&[b"the body of a request\0", said.bytes()]);
        let mode = match outcome {
            Reaction::Observed | Reaction::Answered => Mode::Observe,
            Reaction::Refused => Mode::Enforce,
        };
        let mut commits = Vec::with_capacity(findings.len());
        for Finding { category, score } in findings {
            (self.on_event)(Event::Violation(category, mode));
            let (request, category) = (case.request, Arc::clone(category));
            let violation = Violation { request, category, score_ppm: score.0, outcome, digest };
            commits.push(self.ledger.violate(case.customer, violation));
        }
        let mut noted = Ok(());
        for commit in commits {
            let durable = match commit {
                Ok(mut commit) => commit.durable().await.map(|_| ()).map_err(|why| format!("{why:?}")),
                Err(why) => Err(format!("{why:?}")),
            };
            if let Err(why) = durable {
                tracing::warn!(request = %case.request, why, "a violation is not noted");
                noted = Err(());
            }
        }
        noted
    }
}

/// Looks at what was said, at long ones on another thread; nothing if that panics.
async fn look<T: Send + 'static>(
    case: &Case,
    said: &Arc<Said>,
    look: impl FnOnce(&Content, &Said) -> T + Send + 'static,
) -> Option<T> {
    let content = Arc::clone(&case.content);
    if said.size() <= INLINE_BYTES_MAX {
        return Some(look(&content, said));
    }
    let said = Arc::clone(said);
    tokio::task::spawn_blocking(move || look(&content, &said)).await.ok()
}

impl Moderation {
    /// What becomes of a request that a provider does not judge.
    fn without(&self, why: Unmoderated) -> Result<(), Objection> {
        match (why, self.on_failure, self.on_unreadable) {
            (Unmoderated::Unanswered, OnFailure::Closed, _) => Err(Objection::Unjudged),
            (Unmoderated::Unreadable, _, OnFailure::Closed) => Err(Objection::Unreadable),
            (Unmoderated::Unanswered, OnFailure::Open, _) | (Unmoderated::Unreadable, _, OnFailure::Open) => {
                Ok(())
            }
        }
    }
}
