//! Standing: what a customer may do, and by which steps that changes.

use super::entry::{Note, Step};
use crate::money::Amount;

/// What a customer may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// All that the balance covers.
    #[default]
    Active,
    /// No new requests.
    Suspended(Note),
    /// Nothing.
    Banned {
        /// By whom and why.
        note: Note,
        /// The credit that fell to the operator since, and comes back if the ban is lifted.
        forfeited: Amount,
    },
}

impl Standing {
    /// The name used in views.
    pub const fn name(&self) -> &'static str {
        match self {
            Standing::Active => "active",
            Standing::Suspended(_) => "suspended",
            Standing::Banned { .. } => "banned",
        }
    }

    /// By whom and why, unless active.
    pub const fn note(&self) -> Option<&Note> {
        match self {
            Standing::Active => None,
            Standing::Suspended(note) | Standing::Banned { note, .. } => Some(note),
        }
    }

    /// What it is after a step, if that step leads anywhere.
    pub(super) fn after(&self, step: Step, note: &Note) -> Option<Standing> {
        match (self, step) {
            (Standing::Active, Step::Suspend) => Some(Standing::Suspended(note.clone())),
            (Standing::Active | Standing::Suspended(_), Step::Ban) => {
                Some(Standing::Banned { note: note.clone(), forfeited: Amount::ZERO })
            }
            (Standing::Suspended(_), Step::Resume) | (Standing::Banned { .. }, Step::Unban) => {
                Some(Standing::Active)
            }
            (Standing::Active, Step::Resume | Step::Unban)
            | (Standing::Suspended(_), Step::Suspend | Step::Unban)
            | (Standing::Banned { .. }, Step::Suspend | Step::Resume | Step::Ban) => None,
        }
    }
}
