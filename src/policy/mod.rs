//! Acceptable use: who may be served, from where, and with what.
//!
//! Each part is off unless the operator sets it, and costs a request nothing then but the look.
//! Exceptions for single customers are in the ledger, beside their limits.
//!
//! *Architecture invariant:* no HTTP here. What is judged is handed in; what follows from a judgement is
//! the caller's.

pub mod content;
pub mod countries;
pub mod matter;
pub mod text;
pub mod words;
