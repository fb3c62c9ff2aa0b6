//! What is noted of customers beside money: their standing, the terms that they accept, their violations.

use super::command::Command;
use super::entry::{Note, Step};
use super::violation::Violation;
use super::{Failure, Ledger};
use crate::id::CustomerId;
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
    pub fn violate(&self, customer: CustomerId, violation: Violation) -> Result<(), Failure> {
        self.transact(customer, Command::Violate(violation))?.commit.begin();
        Ok(())
    }
}
