//! Tollgate.
pub mod admin;
pub mod admit;
pub mod app;
pub mod auth;
pub mod cli;
pub mod clock;
pub mod config;
pub mod id;
pub mod ledger;
pub mod meter;
pub mod money;
pub mod proxy;
pub mod record;
pub mod settle;
pub mod simulate;
pub mod upstream;
pub mod usage;
