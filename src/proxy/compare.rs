//! Comparing: of some whole answers, what the provider reported is held against what we would have counted.
//!
//! So an operator sees what estimates are worth, by model, before a provider leaves its report out. It takes no
//! time of a request: the text is counted on a thread that may block, and what comes while [`AT_ONCE_MAX`] are
//! counted is left out.

use super::request::Request;
use crate::admit::{Demand, Work};
use crate::config::Meter;
use crate::meter::{Delivered, tokenizer};
use crate::record::metrics::{Compared, Metrics};
use crate::settle::price::{Encoding, ModelPrice};
use crate::usage::{Unit, Usage};
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Answers that are counted at once: what comparing may take of the machine.
const AT_ONCE_MAX: usize = 2;

/// Draws the answers that are compared.
pub struct Comparer {
    metrics: Arc<Metrics>,
    free: Arc<Semaphore>,
}

impl Comparer {
    /// One that tells `metrics`.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Comparer { metrics, free: Arc::new(Semaphore::new(AT_ONCE_MAX)) }
    }

    /// By lot, as many as `meter` says of the answers that can be compared: text, of a model that is sold by tokens,
    /// to a request that says itself what was asked.
    pub fn draw(
        &self,
        meter: Meter,
        model: Option<&str>,
        request: &Request,
        price: &ModelPrice,
    ) -> Option<Sample> {
        let (one_in, model) = (meter.compare_one_in, model?);
        if one_in == 0 || fastrand::u32(..one_in) > 0 {
            return None;
        }
        let Demand { work, choices, stored_tokens, searches, .. } = &request.demand;
        // What searches found was read, and is not seen.
        let written = *work == Work::Text && *choices > 0 && *stored_tokens == 0 && *searches == 0;
        (written && price.sold_by == Unit::Token).then(|| Sample {
            model: model.into(),
            metrics: Arc::clone(&self.metrics),
            free: Arc::clone(&self.free),
        })
    }
}

/// An answer that was drawn.
pub struct Sample {
    model: Box<str>,
    metrics: Arc<Metrics>,
    free: Arc<Semaphore>,
}

impl Sample {
    /// Counts what was asked and delivered, and tells it beside what was reported.
    pub fn compare(&self, encoding: Encoding, asked: Bytes, delivered: Delivered, reported: Usage) {
        let Ok(free) = Arc::clone(&self.free).try_acquire_owned() else { return };
        let (metrics, model) = (Arc::clone(&self.metrics), self.model.clone());
        tokio::task::spawn_blocking(move || {
            let estimated = tokenizer::estimate(encoding, &asked, &delivered);
            metrics.compared(&model, Compared { reported, estimated });
            drop(free);
        });
    }
}
