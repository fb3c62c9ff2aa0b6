//! One attempt on one account, from its choice to the end of its answer.

use super::account::Taken;
use super::health::Fault;
use super::limits::{Most, Use};
use super::told::Report;
use super::{Account, Ask, Comes};
use std::sync::Arc;
use std::time::Instant;

/// One attempt on one account.
#[must_use]
pub struct Lease {
    account: Arc<Account>,
    /// As the provider calls it.
    model: Box<str>,
    /// When it began.
    pub begun: Instant,
    comes: Comes,
    /// Until it ends.
    taken: Option<Taken>,
    used: Use,
}

impl Lease {
    pub(super) fn take(account: &Arc<Account>, ask: &Ask<'_>, now: Instant) -> Option<Lease> {
        let model = account.serves(ask.endpoint, ask.model)?;
        let taken = Some(account.take(model, ask.need, now)?);
        let account = Arc::clone(account);
        let comes = ask.need.comes;
        Some(Lease { model: model.into(), account, begun: now, comes, taken, used: Use::Unsent })
    }

    /// Whose.
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// What the provider calls the model.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The account answers, and tells this of its limits.
    pub fn told(&self, report: &Report, now: Instant) {
        if let Some(taken) = &self.taken {
            self.account.told(&self.model, report, taken, now);
        }
    }

    /// The account begins to answer.
    pub fn answered(&self, now: Instant) {
        self.account.answered(&self.model, self.comes, now.saturating_duration_since(self.begun), now);
    }

    /// The account is not waited for any longer, by nobody's fault: another has begun to answer.
    pub fn given_up(&self, now: Instant) {
        self.account.given_up(&self.model, self.comes, now.saturating_duration_since(self.begun), now);
    }

    /// The account answered to the end.
    pub fn succeeded(&self, output_tokens: u64, now: Instant) {
        self.account.succeeded(&self.model, output_tokens, now);
    }

    /// The attempt goes out: from now on nobody knows what it uses.
    pub fn sent(&mut self) {
        self.used = Use::Unknown;
    }

    /// What the attempt used in truth is known.
    pub fn used(&mut self, used: Most) {
        self.used = Use::Used(used);
    }

    /// The attempt never reached the provider, by nobody's fault.
    pub fn unsent(&mut self) {
        self.used = Use::Unsent;
    }

    /// The attempt failed by the account's fault.
    pub fn failed(&mut self, fault: Fault, now: Instant, random: u32) {
        self.used = match fault {
            Fault::Connect => Use::Unsent,
            // The provider may have been at work.
            Fault::Broken | Fault::Timeout => Use::Unknown,
            Fault::RateLimited(_)
            | Fault::Credential
            | Fault::Quota
            | Fault::Forbidden
            | Fault::Model
            | Fault::Server => Use::Used(Most::NOTHING),
        };
        self.account.failed(&self.model, fault, now, random);
    }

    /// The attempt has ended, now.
    pub fn end(mut self, now: Instant) {
        self.release(now);
    }

    fn release(&mut self, now: Instant) {
        if let Some(taken) = self.taken.take() {
            self.account.release(&self.model, &taken, self.used, now);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.release(Instant::now());
    }
}
