//! Judges what is asked by the operator's content policy: before it is admitted, or beside it.
//!
//! What is found is noted in the ledger at once: category, score, request and a keyed digest, never the
//! text. Whether that is once too often is looked at by one task, which bans by the rule that applies.
//! What waits for it is bounded; what does not fit is not judged, and counted.

use super::running::Running;
use crate::auth::key::Digester;
use crate::clock::Timestamp;
use crate::id::{CustomerId, RequestId};
use crate::ledger::{Change, Entry, Ledger, Note, Reaction, Seq, Step, Violation, Window};
use crate::policy::content::{BanRule, Content, Finding, Mode};
use bytes::Bytes;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::mpsc;

/// Longer bodies are judged on a thread that serves no request: this takes about a millisecond.
const INLINE_BYTES_MAX: usize = 64 * 1024;
/// Bodies that wait, in all.
const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Customers and categories that are counted at once; the journal has them all.
const COUNTED_MAX: usize = 10_000;
/// Entries of the journal that are read at once.
const PAGE_ENTRIES: usize = 10_000;
/// Requests that a ban names as its evidence: what fits into its reason.
const EVIDENCE_MAX: usize = 20;
/// By whom a ban is that nobody made by hand.
const BY_RULE: &str = "content policy";

/// What is told to who counts.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A request is in a category.
    Violation(&'a str, Mode),
    /// A request was not judged: too many wait.
    Unjudged,
    /// A customer was banned.
    Banned,
}

/// Is told what happens.
pub type OnEvent = Arc<dyn Fn(Event<'_>) + Send + Sync>;

/// Judges requests.
pub struct Judge {
    notes: Notes,
    jobs: mpsc::UnboundedSender<Job>,
    waiting: Arc<Waiting>,
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

struct Job {
    case: Case,
    what: What,
}

enum What {
    /// Not judged yet.
    Body(Bytes),
    /// It is noted already that it is in this category.
    Noted(Arc<str>),
}

#[derive(Default)]
struct Waiting {
    requests: AtomicUsize,
    bytes: AtomicUsize,
}

/// Where findings are noted.
#[derive(Clone)]
struct Notes {
    ledger: Arc<Ledger>,
    digester: Arc<Digester>,
    on_event: OnEvent,
}

impl Judge {
    /// A judge, and the task that looks after the rules.
    pub fn new(
        ledger: Arc<Ledger>,
        running: Running,
        digester: Digester,
        on_event: OnEvent,
    ) -> (Judge, Bench) {
        let (jobs, receiver) = mpsc::unbounded_channel();
        let notes = Notes { ledger, digester: Arc::new(digester), on_event };
        let waiting = Arc::<Waiting>::default();
        let bench = Bench {
            jobs: receiver,
            notes: notes.clone(),
            running,
            waiting: Arc::clone(&waiting),
            counted: HashMap::new(),
        };
        (Judge { notes, jobs, waiting }, bench)
    }

    /// Judges the body of a request.
    ///
    /// # Errors
    /// The category for which it is refused.
    pub async fn judge(&self, case: Case, mode: Mode, body: &Bytes) -> Result<(), Arc<str>> {
        match mode {
            Mode::Off => Ok(()),
            Mode::Observe => {
                self.enqueue(case, body.clone());
                Ok(())
            }
            Mode::Enforce => {
                let findings = found(&case.content, body).await;
                self.notes.note(&case, &findings, body, Reaction::Refused);
                let Some(first) = findings.first().map(|finding| Arc::clone(&finding.category)) else {
                    return Ok(());
                };
                for Finding { category, .. } in findings {
                    self.waiting.requests.fetch_add(1, Ordering::Relaxed);
                    // It ends with the process alone.
                    let _ = self.jobs.send(Job { case: case.clone(), what: What::Noted(category) });
                }
                Err(first)
            }
        }
    }

    fn enqueue(&self, case: Case, body: Bytes) {
        let Waiting { requests, bytes } = &*self.waiting;
        let full = requests.fetch_add(1, Ordering::Relaxed) >= case.content.waiting_max
            || bytes.fetch_add(body.len(), Ordering::Relaxed) + body.len() > WAITING_BYTES_MAX;
        if full {
            self.waiting.leave(&What::Body(body));
            (self.notes.on_event)(Event::Unjudged);
        } else {
            let _ = self.jobs.send(Job { case, what: What::Body(body) });
        }
    }
}

impl Waiting {
    fn leave(&self, what: &What) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
        if let What::Body(body) = what {
            self.bytes.fetch_sub(body.len(), Ordering::Relaxed);
        }
    }
}

impl Notes {
    fn note(&self, case: &Case, findings: &[Finding], body: &[u8], outcome: Reaction) {
        if findings.is_empty() {
            return;
        }
        let digest = self.digester.digest(&[b"the body of a request\0", body].concat());
        let digest = *digest.0.first_chunk().expect("a digest is longer");
        for Finding { category, score } in findings {
            let mode = match outcome {
                Reaction::Observed => Mode::Observe,
                Reaction::Refused => Mode::Enforce,
            };
            (self.on_event)(Event::Violation(category, mode));
            let (request, category) = (case.request, Arc::clone(category));
            let violation = Violation { request, category, score_ppm: score.0, outcome, digest };
            if let Err(why) = self.ledger.violate(case.customer, violation) {
                tracing::warn!(request = %case.request, ?why, "a violation is not noted");
            }
        }
    }
}

async fn found(content: &Arc<Content>, body: &Bytes) -> Vec<Finding> {
    if body.len() <= INLINE_BYTES_MAX {
        return content.by_words(body);
    }
    let (content, body) = (Arc::clone(content), body.clone());
    tokio::task::spawn_blocking(move || content.by_words(&body)).await.unwrap_or_default()
}

/// When, and in which requests.
type Violations = Vec<(Timestamp, RequestId)>;

/// Looks after the rules, in one task.
pub struct Bench {
    jobs: mpsc::UnboundedReceiver<Job>,
    notes: Notes,
    running: Running,
    waiting: Arc<Waiting>,
    /// Requests in violation, by customer and category, in order.
    counted: HashMap<(CustomerId, Arc<str>), Violations>,
}

impl Bench {
    /// Works until nobody is left who asks.
    pub async fn run(&mut self) {
        while let Some(Job { case, what }) = self.jobs.recv().await {
            let categories = match &what {
                What::Noted(category) => vec![Arc::clone(category)],
                What::Body(body) => {
                    let findings = found(&case.content, body).await;
                    self.notes.note(&case, &findings, body, Reaction::Observed);
                    findings.into_iter().map(|finding| finding.category).collect()
                }
            };
            self.waiting.leave(&what);
            for category in categories {
                if let Some(rule) = case.content.ban_rule(&category) {
                    self.count(&case, category, rule).await;
                }
            }
        }
    }

    /// Counts a violation, and bans if that is one too many.
    async fn count(&mut self, case: &Case, category: Arc<str>, rule: BanRule) {
        let now = Timestamp::now();
        let within_us = i64::try_from(rule.within.as_micros()).unwrap_or(i64::MAX);
        let from = Timestamp::from_micros(now.micros().saturating_sub(within_us));
        let place = (case.customer, Arc::clone(&category));
        if self.counted.len() >= COUNTED_MAX {
            self.counted.clear();
        }
        let mut before = match self.counted.remove(&place) {
            Some(before) => before,
            None => self.history(case.customer, Arc::clone(&category), from).await,
        };
        before.retain(|(at, request)| *at >= from && *request != case.request);
        before.push((now, case.request));
        let many = u32::try_from(before.len()).unwrap_or(u32::MAX) >= rule.violations;
        if many {
            self.ban(case.customer, &category, &before).await;
        } else {
            self.counted.insert(place, before);
        }
    }

    /// What the journal has, as after a restart: nothing from before a ban was lifted.
    async fn history(&self, customer: CustomerId, category: Arc<str>, from: Timestamp) -> Violations {
        let ledger = Arc::clone(&self.notes.ledger);
        let read = move || violations(&ledger, customer, &category, from);
        match tokio::task::spawn_blocking(read).await {
            Ok(Ok(found)) => found,
            Ok(Err(why)) => {
                tracing::error!(%customer, %why, "earlier violations cannot be read");
                Vec::new()
            }
            Err(_) => Vec::new(),
        }
    }

    async fn ban(&self, customer: CustomerId, category: &str, evidence: &[(Timestamp, RequestId)]) {
        let note = Note { by: BY_RULE.into(), reason: reason(category, evidence).into() };
        match self.notes.ledger.change_standing(customer, Step::Ban, note).await {
            Ok(()) => {
                let ended = self.running.stop(customer);
                (self.notes.on_event)(Event::Banned);
                tracing::warn!(%customer, category, violations = evidence.len(), ended, "banned by rule");
            }
            // By hand, or by the rule of another category, a moment ago.
            Err(why) => tracing::info!(%customer, category, ?why, "not banned by rule"),
        }
    }
}

fn violations(
    ledger: &Ledger,
    customer: CustomerId,
    category: &str,
    from: Timestamp,
) -> io::Result<Violations> {
    let mut found = Vec::new();
    let mut after = Seq::START;
    loop {
        let window = Window { after, from: Some(from), to: None };
        let page: Vec<Entry> = ledger.entries_of_customer(customer, window, PAGE_ENTRIES)?;
        for Entry { at, change, .. } in &page {
            match change {
                Change::Violated(violation) if *violation.category == *category => {
                    found.push((*at, violation.request));
                }
                Change::StandingChanged { step: Step::Unban, .. } => found.clear(),
                _ => {}
            }
        }
        match page.last() {
            Some(last) if page.len() == PAGE_ENTRIES => after = last.seq,
            Some(_) | None => return Ok(found),
        }
    }
}

/// What a ban says: the category, how often, and in which requests.
fn reason(category: &str, evidence: &[(Timestamp, RequestId)]) -> String {
    let named: Vec<String> =
        evidence.iter().rev().take(EVIDENCE_MAX).rev().map(|(_, request)| request.to_string()).collect();
    let category: String = category.chars().take(40).collect();
    format!("{} violations of {category}, last in {}", evidence.len(), named.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ban_names_its_evidence_in_the_room_that_it_has() {
        let evidence: Vec<(Timestamp, RequestId)> = (0..1_000)
            .map(|n| (Timestamp::from_micros(n), RequestId::from_int(n.unsigned_abs().into())))
            .collect();
        let said = reason("hate", &evidence[..2]);
        let [one, two] = [0, 1].map(|n| RequestId::from_int(n).to_string());
        assert_eq!(said, format!("2 violations of hate, last in {one} {two}"));
        let said = reason(&"x".repeat(256), &evidence);
        assert!(said.len() <= 1_024 && said.contains(&RequestId::from_int(999).to_string()), "{said}");
    }
}
