//! The record of a request: one log line, metrics, and the receipt that the ledger proves.

pub mod metrics;
pub mod receipt;
