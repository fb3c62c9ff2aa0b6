//! The bench: judges what need not be waited for, and bans by the rules of the content policy.
//!
//! Violations are counted by one task, so that the last one too many is seen once; the journal has them
//! all, also those of before a restart. Who no longer owns the ledger bans nobody: the owner is told of
//! its violations, and counts them.

use super::content::{Case, Clerk, Event, Job, Said};
use super::running::Running;
use crate::clock::Timestamp;
use crate::id::{CustomerId, RequestId};
use crate::ledger::{Change, Entry, Ledger, Note, Reaction, Seq, Step, Window};
use crate::policy::content::BanRule;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};

/// Texts that are judged beside at once: each may wait for a provider.
const AT_ONCE_MAX: usize = 64;
/// Customers and categories that are counted at once; the journal has them all.
const COUNTED_MAX: usize = 10_000;
/// Entries of the journal that are read at once.
const PAGE_ENTRIES: usize = 10_000;
/// Requests that a ban names as its evidence: what fits into its reason.
const EVIDENCE_MAX: usize = 20;
/// By whom a ban is that nobody made by hand.
const BY_RULE: &str = "content policy";

/// When, and in which requests.
type Violations = Vec<(Timestamp, RequestId)>;

/// A violation that was noted: whose, and of which category.
type Noted = (Case, Arc<str>);

/// Has violations counted that were noted.
#[derive(Clone)]
pub struct Counter(mpsc::UnboundedSender<Noted>);

impl Counter {
    /// A violation was noted.
    pub fn noted(&self, case: &Case, category: Arc<str>) {
        // It ends with the process alone.
        let _ = self.0.send((case.clone(), category));
    }
}

/// Looks after what waits to be judged, and after the rules.
pub struct Bench {
    clerk: Clerk,
    jobs: mpsc::UnboundedReceiver<Job>,
    counter: Counter,
    rules: Rules,
}

impl Bench {
    pub(super) fn new(
        clerk: Clerk,
        running: Running,
        jobs: mpsc::UnboundedReceiver<Job>,
    ) -> (Bench, Counter) {
        let (sender, noted) = mpsc::unbounded_channel();
        let counter = Counter(sender);
        let rules = Rules { clerk: clerk.clone(), running, noted, counted: HashMap::new() };
        (Bench { clerk, jobs, counter: counter.clone(), rules }, counter)
    }

    /// Works until nobody is left who asks.
    pub async fn run(self) {
        let Bench { clerk, mut jobs, counter, mut rules } = self;
        let judging = async move {
            let at_once = Arc::new(Semaphore::new(AT_ONCE_MAX));
            while let Some(job) = jobs.recv().await {
                // Never closed.
                let Ok(permit) = Arc::clone(&at_once).acquire_owned().await else { return };
                let (clerk, counter) = (clerk.clone(), counter.clone());
                tokio::spawn(async move {
                    judge(&clerk, &counter, job).await;
                    drop(permit);
                });
            }
        };
        tokio::join!(judging, rules.run());
    }
}

/// Judges what nobody waits for.
async fn judge(clerk: &Clerk, counter: &Counter, Job { case, said, place }: Job) {
    let outcome = match *said {
        Said::Asked(..) => Reaction::Observed,
        Said::Answered(_) | Said::Streamed(_) => Reaction::Answered,
    };
    // What failed was counted.
    let findings = clerk.find(&case, &said).await.unwrap_or_default();
    // And told in the log, if it is not noted: nobody is there to hear it.
    let _ = clerk.note(&case, &findings, &said, outcome).await;
    drop(place);
    findings.into_iter().for_each(|finding| counter.noted(&case, finding.category));
}

struct Rules {
    clerk: Clerk,
    running: Running,
    noted: mpsc::UnboundedReceiver<Noted>,
    /// Requests in violation, by customer and category, in order.
    counted: HashMap<(CustomerId, Arc<str>), Violations>,
}

impl Rules {
    async fn run(&mut self) {
        while let Some((case, category)) = self.noted.recv().await {
            if let Some(rule) = case.content.ban_rule(&category) {
                self.count(&case, category, rule).await;
            }
        }
    }

    /// Counts a violation, and bans if that is one too many.
    async fn count(&mut self, case: &Case, category: Arc<str>, rule: BanRule) {
        let place = (case.customer, Arc::clone(&category));
        if self.clerk.ledger.is_away() {
            // Whoever owns the ledger has it; if that is this process again, the journal tells.
            self.counted.remove(&place);
            return;
        }
        let now = Timestamp::now();
        if self.counted.len() >= COUNTED_MAX {
            self.counted.clear();
        }
        let mut before = match self.counted.remove(&place) {
            Some(before) => before,
            None => self.history(case.customer, Arc::clone(&category), begin(rule, now)).await,
        };
        if is_too_many(&mut before, rule, case.request, now) {
            self.ban(case.customer, &category, &before).await;
        } else {
            self.counted.insert(place, before);
        }
    }

    /// What the journal has, as after a restart: nothing from before a ban was lifted.
    async fn history(&self, customer: CustomerId, category: Arc<str>, from: Timestamp) -> Violations {
        let ledger = Arc::clone(&self.clerk.ledger);
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
        match self.clerk.ledger.change_standing(customer, Step::Ban, note).await {
            Ok(()) => {
                let ended = self.running.stop(customer);
                (self.clerk.on_event)(Event::Banned);
                tracing::warn!(%customer, category, violations = evidence.len(), ended, "banned by rule");
            }
            // By hand, or by the rule of another category, a moment ago.
            Err(why) => tracing::info!(%customer, category, ?why, "not banned by rule"),
        }
    }
}

/// When the time of a rule began that ends now.
fn begin(rule: BanRule, now: Timestamp) -> Timestamp {
    let within_us = i64::try_from(rule.within.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_micros(now.micros().saturating_sub(within_us))
}

/// Counts a request, once, and tells whether that is one too many.
fn is_too_many(before: &mut Violations, rule: BanRule, request: RequestId, now: Timestamp) -> bool {
    let from = begin(rule, now);
    before.retain(|(at, _)| *at >= from);
    // The journal may have told of it, and of later ones.
    if before.iter().all(|(_, known)| *known != request) {
        before.push((now, request));
    }
    u32::try_from(before.len()).unwrap_or(u32::MAX) >= rule.violations
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
                // One request counts once, for what it asks and for what it is answered.
                Change::Violated(violation)
                    if *violation.category == *category
                        && found.iter().all(|(_, request)| *request != violation.request) =>
                {
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
    use std::time::Duration;

    #[test]
    fn the_last_violation_of_a_rule_is_one_too_many_within_its_time_and_not_beyond() {
        let rule = BanRule { violations: 3, within: Duration::from_micros(100) };
        let count = |times: &[(i64, u128)]| {
            let mut before = Violations::new();
            let mut counted = times.iter().map(|(at, request)| {
                is_too_many(&mut before, rule, RequestId::from_int(*request), Timestamp::from_micros(*at))
            });
            counted.by_ref().last().unwrap()
        };
        assert!(!count(&[(0, 1), (50, 2)]));
        assert!(count(&[(0, 1), (50, 2), (100, 3)]), "to the microsecond");
        assert!(!count(&[(0, 1), (50, 2), (101, 3)]));
        assert!(!count(&[(0, 1), (50, 2), (60, 2)]), "a request counts once");
    }

    #[test]
    fn what_the_journal_told_first_keeps_its_place() {
        let rule = BanRule { violations: 3, within: Duration::from_micros(100) };
        let told = |n| (Timestamp::from_micros(n), RequestId::from_int(n.unsigned_abs().into()));
        let mut before: Violations = [1, 2, 3].map(told).into();
        assert!(is_too_many(&mut before, rule, told(2).1, Timestamp::from_micros(9)));
        assert_eq!(before, [1, 2, 3].map(told));
    }

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
