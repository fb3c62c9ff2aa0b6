//! The bill of one exchange: how it ended, what it used, and the charge that ends its hold.

use crate::clock::Timestamp;
use crate::endpoint::Endpoint;
use crate::ledger::{Applied, Balance, Charge, Commit, Detached, Hold, Outcome, Progress};
use crate::money::Amount;
use crate::settle::price::{ModelPrice, Picture, Tier};
use crate::settle::{self, Attempt, Detail, Run};
use crate::usage::{Metered, Usage};
use std::sync::Arc;
use std::time::Instant;

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As the provider meant it to.
    Complete,
    /// The provider broke off, or reported an error in the middle.
    Cut,
    /// The client went away and the provider was stopped.
    ClientGone,
    /// The operator ended it, and the provider was stopped.
    Stopped,
    /// No more credit could be held for it, and the provider was stopped.
    CreditEnded,
    /// The gateway ended while it ran.
    Interrupted,
    /// The provider refused the request: its error went to the client.
    Refused,
    /// Nothing could be delivered.
    Failed,
    /// It was answered, and goes on in the background: it is charged when that has ended.
    Running,
}

impl End {
    /// The word used in receipts and logs.
    pub const fn name(self) -> &'static str {
        match self {
            End::Complete => "complete",
            End::Cut => "cut",
            End::ClientGone => "client_gone",
            End::Stopped => "stopped",
            End::CreditEnded => "credit_ended",
            End::Interrupted => "interrupted",
            End::Refused => "refused",
            End::Failed => "failed",
            End::Running => "running",
        }
    }

    /// Whether a provider was stopped that could have gone on.
    pub const fn is_early(self) -> bool {
        matches!(self, End::ClientGone | End::Stopped | End::CreditEnded)
    }
}

/// How an exchange was charged.
#[derive(Clone, Debug)]
pub struct Settled {
    /// How the answer ended.
    pub end: End,
    /// How the usage was found.
    pub metered: Metered,
    /// What was used.
    pub usage: Usage,
    /// What was charged.
    pub charge: Amount,
    /// What the provider takes for it, where the operator wrote that down.
    pub cost: Option<Cost>,
    /// What the customer has after it.
    pub balance: Balance,
}

impl Settled {
    /// What was used, in tokens; `None` while it runs on: it keeps what it took in advance then.
    pub(super) fn tokens(&self) -> Option<u64> {
        (self.end != End::Running).then(|| self.usage.tokens())
    }

    /// With what the owner of the ledger says, where that is another process by now.
    pub(super) fn told(self, told: Option<Outcome>) -> Self {
        match told {
            Some(Outcome { balance, charged, .. }) => Settled { balance, charge: charged, ..self },
            None => self,
        }
    }
}

/// What an answer costs the operator.
#[derive(Clone, Debug)]
pub struct Cost {
    /// Whose account served it.
    pub upstream: Box<str>,
    /// How much.
    pub amount: Amount,
}

/// What a charge needs to know beside the usage.
pub struct Bill {
    pub(super) end: End,
    pub(super) price: Arc<ModelPrice>,
    pub(super) endpoint: Endpoint,
    /// At which it was served, or asked for.
    pub(super) tier: Tier,
    /// What images look like, as they were made or asked for.
    pub(super) picture: Picture,
    pub(super) model: Box<str>,
    pub(super) stream: bool,
    pub(super) output_cap: Option<u64>,
    pub(super) status: u16,
    /// What the provider calls the answer, if it keeps it.
    pub(super) object: Option<Arc<str>>,
    pub(super) attempts: Vec<Attempt>,
    pub(super) started: Instant,
    pub(super) first_byte: Option<Instant>,
}

impl Bill {
    /// Ends a hold by the charge of what was used.
    pub fn capture(
        self,
        hold: Hold,
        usage: Usage,
        metered: Metered,
        reported: Option<&str>,
    ) -> (Commit, Settled) {
        let end = self.end;
        let upstream = self.attempts.last().map(|attempt| attempt.upstream.clone());
        let upstream = upstream.unwrap_or_else(|| "other".into());
        let object = self.object.clone();
        let (cost, Progress { charge, record }) = self.priced(usage, metered, reported);
        let Applied { commit, balance, charged, .. } = hold.capture_for(charge, record, object);
        let cost = cost.map(|amount| Cost { upstream, amount });
        (commit, Settled { end, metered, usage, charge: charged, cost, balance })
    }

    /// What it would be if it ended here.
    pub fn so_far(self, usage: Usage) -> Progress {
        self.priced(usage, Metered::Estimated, None).1
    }

    /// What was used at its prices, and what it costs the operator as far as that is known.
    fn priced(self, usage: Usage, metered: Metered, reported: Option<&str>) -> (Option<Amount>, Progress) {
        let settlement = settle::settle(&usage, self.tier, &self.picture, &self.price.price);
        let cost = self.price.cost.as_ref();
        let cost = cost.map(|cost| settle::settle(&usage, self.tier, &self.picture, cost).charge);
        let (due, tier) = (settlement.charge, settlement.tier);
        let mut detail = self.detail(usage, metered, settlement.lines);
        detail.service_tier = (tier != Tier::Default).then(|| tier.name().into());
        detail.above_input_tokens = settlement.above_input_tokens;
        detail.image_size = settlement.picture.size;
        detail.image_quality = settlement.picture.quality;
        detail.cost = cost;
        let charge = Charge { amount: due, cost: cost.unwrap_or(Amount::ZERO) };
        (cost, Progress { charge, record: detail.to_record(reported).into() })
    }

    /// Ends a hold without a charge.
    pub fn release(self, hold: Hold) -> (Commit, Settled) {
        let end = self.end;
        let detail = self.detail(Usage::default(), Metered::None, Vec::new());
        let Applied { commit, balance, .. } = hold.release(detail.to_record(None).into());
        let usage = Usage::default();
        (commit, Settled { end, metered: Metered::None, usage, charge: Amount::ZERO, cost: None, balance })
    }

    /// Lets a hold go on that pays for a run of this name, which was asked by so many tokens.
    pub fn detach(self, hold: Hold, object: Arc<str>, input_tokens: u64) -> (Commit, Settled) {
        let run = Run {
            endpoint: self.endpoint.name().into(),
            lines: None,
            model: self.model,
            tier: self.tier,
            output_cap: self.output_cap,
            attempts: self.attempts,
            begun: Timestamp::now().before(self.started.elapsed()),
            most: hold.amount(),
            input_tokens,
            encoding: self.price.encoding,
            price: self.price.price.clone(),
            cost: self.price.cost.clone(),
        };
        let record = serde_json::to_vec(&run).expect("plain JSON").into();
        let Applied { commit, balance, .. } = hold.detach(Detached { object, record });
        let (end, metered, usage) = (End::Running, Metered::None, Usage::default());
        (commit, Settled { end, metered, usage, charge: Amount::ZERO, cost: None, balance })
    }

    fn detail(self, usage: Usage, metered: Metered, lines: Vec<settle::Line>) -> Detail {
        let ms = |at: Instant| u64::try_from(at.duration_since(self.started).as_millis()).unwrap_or(u64::MAX);
        let encoding = (metered == Metered::Estimated).then(|| self.price.encoding.name().into());
        Detail {
            endpoint: self.endpoint.name().into(),
            model: self.model,
            stream: self.stream,
            status: self.status,
            end: self.end.name().into(),
            metered,
            output_cap: self.output_cap,
            service_tier: None,
            above_input_tokens: None,
            cost: None,
            image_size: None,
            image_quality: None,
            encoding,
            usage,
            reported: None,
            lines,
            attempts: self.attempts,
            first_byte_ms: self.first_byte.map(ms),
            duration_ms: ms(Instant::now()),
        }
    }
}
