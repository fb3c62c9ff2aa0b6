//! Tollgate sells, meters and protects access to LLM APIs.
//!
//! A customer has one key and a prepaid balance and speaks the OpenAI API. The operator has a pool of
//! upstream accounts. This crate is what stands between: an L7 proxy on Pingora, and a ledger.
//!
//! # One request
//!
//! ```text
//! client -> authenticate -> read -> admit -> choose -> forward -> meter -> settle -> record
//!           auth            proxy   admit    upstream  proxy      meter    settle    ledger, record
//! ```
//!
//! [`proxy`] hooks it together. [`auth`] turns the presented key into a `Caller`;
//! [`proxy::request`] reads the body into a `Demand`; [`admit`] holds the most it can cost, of a stream a slice of that, in memory,
//! at once; [`upstream`] leases an account; the answer passes through [`meter`], and when it ends,
//! [`settle`] prices what was used and the hold is captured. The last byte waits until that is
//! durable. [`record`] is what can be asked about it afterwards.
//!
//! # What stays true
//!
//! - No answer without a durable hold; no complete answer without a durable charge.
//! - The journal is the truth; everything else in the store is made from it.
//! - A balance is checked and held in one step, by one owner.
//! - Money is integers. A charge is what the provider reported, at prices pinned at admission.
//! - Prompts and completions are never stored or logged.
//!
//! # Map
//!
//! Words import nothing; the pure core (`ledger::book`, `ledger::entry`, `ledger::codec`, [`meter`],
//! [`settle`], `upstream::select`, `upstream::health`, `admit::estimate`) imports words; the shell
//! imports the core; [`proxy`] and [`admin`] are the edge; [`app`] and [`cli`] are the root.

/// Words: names of customers, keys and requests.
pub mod id;

/// Words: exact amounts and prices.
pub mod money;

/// Words: what was used, by class.
pub mod usage;

/// Words: the endpoints that are sold.
pub mod endpoint;

/// Words: time.
pub mod clock;

/// What the operator writes, checked before anything is bound.
pub mod config;

/// Presented key -> `Caller`.
pub mod auth;

/// Who may be served, from where, and with what.
pub mod policy;

/// `Caller` and `Demand` -> a hold, or a refusal.
pub mod admit;

/// The pool: a hold -> a lease on an upstream account.
pub mod upstream;

/// What a reload changes, as one value.
pub mod live;

/// Pingora's hooks, in the order of a request.
pub mod proxy;

/// The provider's bytes -> the client's bytes, and what was used.
pub mod meter;

/// Usage and pinned prices -> a charge.
pub mod settle;

/// Holds, charges and balances: exact and durable.
pub mod ledger;

/// Receipts, statements, the access log and metrics.
pub mod record;

/// The operator's API, on its own listener.
pub mod admin;

/// The simulated provider: for the demo, tests and load.
pub mod simulate;

/// The commands.
pub mod cli;

/// The composition root.
pub mod app;
