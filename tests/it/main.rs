//! Integration tests: the real binary, driven over the network, with its books held against what a
//! provider says it served.
//!
//! Each test has a gateway of its own, on ports that the system chooses and in a folder that goes
//! away with it. One module for each area; what they share is in [`support`].

mod support;

mod contract;
mod path;
mod readme;
mod refusals;
mod framing;
mod strangers;
mod limits;
mod account;
mod pages;
mod portal;
mod budgets;
mod cut;
mod slices;
mod idempotency;
mod answers;
mod azure;
mod endpoints;
mod search;
mod stored;
mod runs;
mod files;
mod batches;
mod money;
mod hang_up;
mod cuts;
mod media;
mod broken;
mod policy;
mod moderation;
mod moderation_images;
mod prices;
mod pool;
mod retries;
mod hedge;
mod headroom;
mod queue;
mod outage;
mod hygiene;
mod hygiene_everywhere;
mod ledger;
mod commands;
mod audit;
mod credit;
mod overdraft;
mod standing;
mod metrics;
mod reload;
mod upgrade;
mod upgrade_limits;
mod upgrade_tls;
mod log;
mod service;
mod shell;
mod tls;
mod top;
mod traces;
mod upstream_names;
mod upstream_tls;
