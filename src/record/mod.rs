//! The record of a request: one log line, metrics, and the receipt that the ledger proves.

pub mod access;
pub mod export;
pub mod failures;
pub mod metrics;
mod otlp;
pub mod output;
pub mod own;
pub mod receipt;
pub mod spans;
pub mod usage;
