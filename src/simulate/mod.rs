//! The simulated provider: an OpenAI-shaped server whose usage can be worked out beforehand.
//!
//! For demonstrations, tests and load. Every answer follows from its request: tokens are counted
//! by a fixed rule, the text is `tok0 tok1 …`, and faults are asked for in the request's own
//! `metadata`, so that they pass through a gateway unchanged (see [`faults`] for the words).
//! What was served is kept in a bounded log, to be held against what a gateway charged.
//!
//! ```text
//! POST /v1/chat/completions   plain and streamed
//! POST /v1/responses          plain, streamed, and in the background
//! GET  /v1/responses/{id}     and /input_items below; DELETE it; POST /cancel below
//! POST /v1/messages           plain and streamed, as Anthropic
//! POST /v1/completions        plain and streamed
//! POST /v1/embeddings
//! POST /v1/moderations
//! POST /v1/images/generations and /v1/images/edits, as JSON and as forms
//! POST /v1/audio/speech       audio and events
//! POST /v1/audio/transcriptions and /v1/audio/translations, plain and streamed
//! POST /v1/files              GET of all of them; GET and DELETE of one, and GET of its content
//! POST /v1/batches            GET of all of them and of one; POST /cancel below
//! GET  /v1/models
//! GET  /simulate/log          what was served, one JSON object a line
//! GET  /simulate/options      what is simulated now; PUT merges a JSON object into it
//! ```
//!
//! It knows no gateway, no price and no customer. Planning an answer is pure; time, randomness
//! and sockets are met in `server` and `body` alone.

mod answer;
mod azure;
mod batches;
mod body;
pub mod faults;
mod files;
mod input;
mod limit;
mod log;
mod media;
mod options;
mod plan;
mod refusal;
mod request;
mod server;
mod stored;
mod stream;
#[cfg(test)]
mod tests;

pub use log::Served;
pub use options::{LOG_ENTRIES_MAX, Options};

use crate::endpoint::Endpoint;
use crate::usage::Usage;
use arc_swap::ArcSwap;
use axum::serve::ListenerExt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tokio::net::TcpListener;

/// A simulated provider. Clones share one log and one set of options.
#[derive(Clone)]
pub struct Provider {
    state: Arc<State>,
}

struct State {
    options: ArcSwap<Options>,
    log: Arc<log::Log>,
    limits: limit::Limits,
    stored: stored::Stored,
    files: files::Files,
    batches: batches::Batches,
    /// Tells names of this provider from those of others.
    seed: u64,
    /// Requests so far: names answers and draws faults.
    requests: AtomicU64,
}

impl Provider {
    /// A provider that serves nothing yet.
    pub fn new(options: Options) -> Self {
        let log = Arc::new(log::Log::new(options.log_entries_max));
        let limits = limit::Limits::default();
        let options = ArcSwap::from_pointee(options);
        let (stored, files, batches) = Default::default();
        let (seed, requests) = (fastrand::u64(..), AtomicU64::new(0));
        Provider { state: Arc::new(State { options, log, limits, stored, files, batches, seed, requests }) }
    }

    /// Serves until its future is dropped. Answers under way then go on in their own tasks.
    ///
    /// # Errors
    /// When the log file cannot be opened.
    pub async fn serve(self, listener: TcpListener) -> io::Result<()> {
        if let Some(path) = &self.state.options.load().log_file {
            self.state.log.append_to(path)?;
        }
        // A chunk must not wait for the acknowledgement of the one before it.
        let listener = listener.tap_io(|connection| drop(connection.set_nodelay(true)));
        axum::serve(listener, server::router(self)).await
    }

    /// What was served, oldest first. An answer is logged before its last byte goes out.
    pub fn log(&self) -> Vec<Served> {
        self.state.log.all()
    }

    /// How many answers it is at, also those that have not begun.
    pub fn under_way(&self) -> usize {
        self.state.log.under_way()
    }

    /// How many entries the log had to drop to stay within its bound.
    pub fn log_dropped(&self) -> u64 {
        self.state.log.dropped()
    }

    /// What is simulated from now on. The log's file and bound stay as they were at the start.
    pub fn set_options(&self, options: Options) {
        self.state.options.store(Arc::new(options));
    }
}

/// The usage that an undisturbed answer to this request has, or `None` when the request would
/// be refused as malformed.
pub fn expected_usage(endpoint: Endpoint, body: &[u8]) -> Option<Usage> {
    request::read(endpoint, "application/json", body).ok().map(|request| request.counts().usage())
}
