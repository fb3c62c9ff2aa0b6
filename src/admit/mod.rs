//! Admission: a caller's demand is held against their balance, or refused.
//!
//! *Architecture invariant:* an [`Admitted`] is made here only, and holds credit for the dearest
//! way the request can end, or of a stream whose cost is seen as it comes, a slice of that. What has no
//! price is refused.

pub mod bench;
pub mod content;
pub mod estimate;
pub mod gate;
pub mod limits;
pub mod looks;
pub mod rate;
pub mod running;
pub mod slices;
pub mod strangers;

use crate::auth::Caller;
use crate::id::RequestId;
use crate::ledger::{
    Budgets, Claim, Commit, Failure, Hold, Ledger, Mark, Marked, Refusal, Spare, Standing, Terms,
};
use crate::money::Amount;
use crate::settle::price::{CachedFor, ModelPrice, Picture, PriceBook, Tier};
use estimate::TokensMax;
use running::{Permit, Running};
use slices::Slices;
use std::sync::Arc;

/// What a request asks for, as far as it decides what it may cost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// The model, by the name that the client used.
    pub model: Box<str>,
    /// Bytes of the request: at least as many as its tokens of text.
    pub input_bytes: u64,
    /// Images that are given or referred to.
    pub images: u64,
    /// Tokens of input that are kept where it goes, and that it does not show, at most.
    pub stored_tokens: u64,
    /// The same, at least: what searched the web was read several times, and told so often.
    pub stored_tokens_min: u64,
    /// Web searches that the provider may run for it.
    pub searches: u64,
    /// What the images that are to be made look like.
    pub picture: Picture,
    /// For how long its input is to be cached.
    pub cached_for: CachedFor,
    /// The service tier that is asked for.
    pub tier: Tier,
    /// The longest answer that the client wants, in tokens.
    pub output_tokens_max: Option<u64>,
    /// How many answers the client wants; 0 where nothing is written.
    pub choices: u64,
    /// What is to be done beside reading and writing text.
    pub work: Work,
}

/// What is to be done, as far as it decides by what it is charged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Work {
    /// Text is read, and written if that is asked for.
    #[default]
    Text,
    /// So many characters are spoken.
    Speech {
        /// Characters of the text.
        characters: u64,
        /// Whether the answer tells its tokens.
        usage: Tells,
    },
    /// Audio of so many bytes is written down.
    Audio {
        /// Of its file.
        bytes: u64,
        /// Whether the answer comes as events: only the last of them tells how long it was.
        streamed: bool,
    },
    /// Images are made, as many as there are choices.
    Images,
}

/// Whether an answer tells the tokens that it used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tells {
    /// It does.
    Tokens,
    /// It is audio alone.
    Nothing,
}

/// Why a request is not admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdmitError {
    /// The model has no price.
    UnknownModel,
    /// The model is not sold by what this endpoint is charged by.
    OtherEndpoint,
    /// The model is sold by tokens, which the answer that was asked for would not tell.
    TokensUntold,
    /// The model is sold by the minute, which a stream that breaks off would not tell.
    MinutesUntold,
    /// The model is not sold at the service tier.
    OtherTier,
    /// The model is not sold with web searches.
    SearchUnsold,
    /// The balance does not reach.
    InsufficientCredit {
        /// What the request might cost.
        needed: Amount,
        /// What is free.
        available: Amount,
    },
    /// A budget of the key or the customer does not reach.
    OverBudget {
        /// What the request might cost.
        needed: Amount,
        /// Which, and what is left of it.
        spare: Spare,
    },
    /// What the client knows the request by stands for another.
    Marked(Marked),
    /// The key was revoked a moment ago.
    KeyRevoked,
    /// The customer was suspended.
    Suspended,
    /// The customer was banned.
    Banned,
    /// The ledger cannot take more now.
    Overloaded,
}

/// A request whose cost is covered.
#[must_use]
pub struct Admitted {
    /// The credit set aside.
    pub hold: Hold,
    /// Durable before anything is delivered.
    pub commit: Commit,
    /// The prices that apply, pinned.
    pub price: Arc<ModelPrice>,
    /// How long each answer may be at most, in tokens, if that is less than was asked for.
    pub output_cap: Option<u64>,
    /// What the hold covers, where that is a slice.
    pub slices: Option<Slices>,
    /// Tells if it is to be ended before its time.
    pub permit: Permit,
    /// What the client knows it by stands for it, until its charge is durable.
    pub claim: Option<Claim>,
}

/// What a request is known by.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    /// To us.
    pub request: RequestId,
    /// To its sender, if they said that.
    pub mark: Option<Mark>,
}

/// Whether a request may be answered more shortly than it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// If that is what can be paid.
    Allowed,
    /// It would make no sense of it.
    Senseless,
}

/// When it is seen what an answer costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// As it comes: it is a stream of text, and all that is written is in it.
    AsItComes,
    /// At its end.
    AtItsEnd,
}

/// What is asked for, and what may be done with its answer.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// What it may cost.
    pub demand: &'a Demand,
    /// Whether it may be answered more shortly.
    pub cut: Cut,
    /// When its cost is seen.
    pub seen: Seen,
}

/// Admits requests.
pub struct Admission {
    ledger: Arc<Ledger>,
    running: Running,
}

impl Admission {
    /// Admission by the balances of `ledger`; what is admitted is among `running` until it ends.
    pub fn new(ledger: Arc<Ledger>, running: Running) -> Self {
        Admission { ledger, running }
    }

    /// Holds the most that the request can cost at `prices`, and pins them; or all there is, if that pays
    /// for a shorter answer. Of a stream whose cost is seen as it comes, only a slice of that is held. Does
    /// not wait for the disk, but for the owner of the ledger, if that is another process.
    ///
    /// # Errors
    /// See [`AdmitError`]; nothing is held then.
    pub async fn admit(
        &self,
        caller: &Caller,
        Named { request, mark }: Named,
        Wanted { demand, cut, seen }: Wanted<'_>,
        prices: &PriceBook,
        budgets: Budgets,
    ) -> Result<Admitted, AdmitError> {
        let (_, price) = prices.find(&demand.model).ok_or(AdmitError::UnknownModel)?;
        let price = Arc::clone(price);
        if price.price.of(demand.tier).is_none() {
            return Err(AdmitError::OtherTier);
        }
        let most = estimate::charge_max(demand, &price)?;
        let tokens = estimate::tokens_max(demand, &price);
        let sliced = tokens.filter(|_| slices::apply(seen, &price));
        let amount = sliced.map_or(most, |tokens| slices::first(tokens).charge_max(demand, &price));
        let least = match cut {
            Cut::Allowed => tokens.map_or(amount, |tokens| tokens.charge_min(demand, &price)),
            Cut::Senseless => amount,
        };
        let price_version = Arc::clone(&prices.version);
        let (customer, key) = (caller.customer(), caller.key());
        let terms = Terms { customer, key, request, amount, least, budgets, price_version, mark };
        let permit = self.running.begin(customer, request);
        let (hold, commit, claim) = self.hold(terms).await.map_err(|why| refused(why, most))?;
        let held = hold.amount();
        // As if the request were alone: what others take meanwhile ends it before its cap.
        let reach = sliced.map_or(held, |_| hold.reach(&budgets).unwrap_or(most));
        let cut = tokens.filter(|_| reach < most);
        let output_cap = cut.map(|tokens| tokens.output_for(reach, demand, &price));
        let slices = sliced.map(|tokens| {
            let output = output_cap.map_or(tokens.output, |cap| cap.saturating_mul(demand.choices));
            Slices::new(TokensMax { output, ..tokens }, held, budgets, (demand, &price))
        });
        Ok(Admitted { hold, commit, price, output_cap, slices, permit, claim })
    }

    /// Holds an amount that is known, as for what is free.
    ///
    /// # Errors
    /// See [`AdmitError`]; nothing is held then.
    pub async fn hold_exactly(&self, terms: Terms) -> Result<(Hold, Commit, Option<Claim>), AdmitError> {
        let needed = terms.amount;
        self.hold(terms).await.map_err(|why| refused(why, needed))
    }

    /// A hold, once its owner took it, and the claim of its mark.
    async fn hold(&self, terms: Terms) -> Result<(Hold, Commit, Option<Claim>), Failure> {
        let claim = match terms.mark {
            Some(mark) => Some(self.ledger.claim(terms.request, mark).await?),
            None => None,
        };
        let (hold, mut commit) = self.ledger.hold(terms)?;
        commit.accepted().await?;
        Ok((hold.told(commit.told()), commit, claim))
    }
}

/// Why nothing was held of what might be needed.
fn refused(why: Failure, needed: Amount) -> AdmitError {
    match why {
        Failure::Refused(Refusal::InsufficientCredit { available }) => {
            AdmitError::InsufficientCredit { needed, available }
        }
        Failure::Refused(Refusal::OverBudget(spare)) => AdmitError::OverBudget { needed, spare },
        Failure::Refused(Refusal::Marked(marked)) => AdmitError::Marked(marked),
        Failure::Refused(Refusal::UnknownKey | Refusal::UnknownCustomer) => AdmitError::KeyRevoked,
        Failure::Refused(Refusal::Standing(Standing::Banned { .. })) => AdmitError::Banned,
        Failure::Refused(Refusal::Standing(Standing::Active | Standing::Suspended(_))) => {
            AdmitError::Suspended
        }
        Failure::Down | Failure::Busy | Failure::Full => AdmitError::Overloaded,
        Failure::Refused(refusal) => unreachable!("a hold is not refused by {refusal:?}"),
    }
}
