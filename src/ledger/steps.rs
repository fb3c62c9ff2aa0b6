//! What is done with customers beside their requests: their standing, the terms that they accept, their
//! violations, what they may owe and what of that is given up.

use super::command::Command;
use super::entry::{Balance, Note, Seq, Step};
use super::violation::Violation;
use super::{Commit, Failure, Ledger};
use crate::id::CustomerId;
use crate::money::Amount;
use std::sync::Arc;

impl Ledger {
    /// Suspends, bans or readmits a customer: in effect when this is called, durable when it is done.
    ///
    /// # Errors
    /// When the step does not lead on from their standing, they are unknown, or nothing can be made
    /// durable.
    pub async fn change_standing(&self, customer: CustomerId, step: Step, note: Note) -> Result<(), Failure> {
        let mut applied = self.transact(customer, Command::ChangeStanding { step, note })?;
        applied.commit.durable().await?;
        Ok(())
    }

    /// Lets a customer owe so much from now on.
    ///
    /// # Errors
    /// When they owe more already or are unknown, or nothing can be made durable.
    pub async fn set_overdraft(
        &self,
        customer: CustomerId,
        amount: Amount,
        note: Note,
    ) -> Result<(), Failure> {
        let mut applied = self.transact(customer, Command::SetOverdraft { amount, note })?;
        applied.commit.durable().await?;
        Ok(())
    }

    /// Gives up what a customer owes, all of it or, by `amount`, some. The same reference and content twice
    /// is one write-off. Gives its entry and the balance now.
    ///
    /// # Errors
    /// When they do not owe so much or are unknown, the reference was used for something else, or nothing
    /// can be made durable.
    pub async fn write_off(
        &self,
        customer: CustomerId,
        amount: Option<Amount>,
        reference: Arc<str>,
        note: Note,
    ) -> Result<(Seq, Balance), Failure> {
        let command = Command::WriteOff { amount, reference: Arc::clone(&reference), note };
        self.book(customer, command, reference).await
    }

    /// Notes that a customer accepted terms of the service.
    ///
    /// # Errors
    /// When they are unknown, or nothing can be made durable.
    pub async fn accept_terms(
        &self,
        customer: CustomerId,
        version: Arc<str>,
        note: Note,
    ) -> Result<(), Failure> {
        let mut applied = self.transact(customer, Command::AcceptTerms { version, note })?;
        applied.commit.durable().await?;
        Ok(())
    }

    /// Notes a violation of the content policy; it is on its way to the disk then.
    ///
    /// # Errors
    /// When they are unknown, or the ledger takes nothing more.
    pub fn violate(&self, customer: CustomerId, violation: Violation) -> Result<Commit, Failure> {
        let commit = self.transact(customer, Command::Violate(violation))?.commit;
        commit.begin();
        Ok(commit)
    }
}
