//! What is due for an answer, however it ended: what request and answer say themselves, what the
//! provider reported, or what was delivered, which is to be counted.
//!
//! *Architecture invariant:* no task, clock or price of anything is known here. What was delivered is
//! never [`Due::Nothing`] where it can be counted, and never more than itself and the input.

use super::bill::End;
use crate::admit::{Demand, Work};
use crate::meter::{Delivered, Reading, Reported, Shape, tokenizer};
use crate::settle::price::{Encoding, ModelPrice};
use crate::usage::{Class, Metered, Unit, Usage};

/// What is due for an answer.
#[derive(Debug)]
pub enum Due {
    /// Nothing: nothing was delivered that is sold.
    Nothing,
    /// What was used is known.
    Known {
        /// How much.
        usage: Usage,
        /// By whom it was told.
        metered: Metered,
        /// In the provider's words.
        reported: Option<Box<str>>,
    },
    /// What was delivered is to be counted.
    Uncounted(Uncounted),
}

/// An answer whose tokens are to be counted: that takes its time.
#[derive(Debug)]
pub struct Uncounted {
    /// Why the provider's report is not believed, if there is one.
    pub refused: Option<String>,
    delivered: Delivered,
    begun: Option<Usage>,
    /// Tokens that the request refers to, and does not hold itself.
    stored: u64,
}

impl Uncounted {
    /// Counts it, and what was asked. Blocks: see [`tokenizer`].
    pub fn count(&self, encoding: Encoding, asked: &[u8]) -> Usage {
        let tokens = match self.begun {
            // The provider told of the input before it stopped.
            Some(begun) => {
                let output = tokenizer::count_delivered(encoding, &self.delivered);
                Usage { output, reasoning: 0, ..begun }
            }
            None => {
                let shown = tokenizer::estimate(encoding, asked, &self.delivered);
                Usage { input: shown.input.saturating_add(self.stored), ..shown }
            }
        };
        Usage { web_searches: self.delivered.searches, ..tokens }
    }
}

/// How a stream ended that its provider closed in this shape.
pub const fn end_of(shape: Shape) -> End {
    match shape {
        Shape::Complete | Shape::Finished => End::Complete,
        Shape::Failed | Shape::Garbage | Shape::Cut => End::Cut,
    }
}

/// What is due for an answer that ended so.
pub fn due(demand: &Demand, price: &ModelPrice, reading: Reading, end: End) -> Due {
    let failed = reading.shape == Shape::Failed;
    let Reading { usage, begun, delivered, .. } = reading;
    match counted(demand, price, &delivered) {
        Counted::Is(used) => {
            let reported = usage.map(|reported| reported.raw);
            return Due::Known { usage: used, metered: Metered::Counted, reported };
        }
        Counted::Nothing => return Due::Nothing,
        Counted::IsToldInstead => {}
    }
    let refused = match usage {
        Some(Reported { raw, usage: Ok(usage) })
            if is_sold(&usage, price) && (end == End::Complete || covers(&usage, &delivered)) =>
        {
            return Due::Known { usage, metered: Metered::Reported, reported: Some(raw) };
        }
        Some(Reported { usage: Ok(usage), .. }) if is_sold(&usage, price) => {
            Some("it was told before the answer was".to_owned())
        }
        Some(Reported { usage: Ok(_), .. }) => Some("it is of another kind".to_owned()),
        Some(Reported { usage: Err(absurd), .. }) => Some(absurd.to_string()),
        // A client that leaves once the provider answers has had its input read, as the provider bills.
        None if delivered.events == 0 && (!end.is_early() || failed) => return Due::Nothing,
        None => None,
    };
    match price.sold_by {
        Unit::Token => {
            Due::Uncounted(Uncounted { refused, delivered, begun, stored: demand.stored_tokens_min })
        }
        // Nobody knows how much of it there was.
        Unit::Image | Unit::Second | Unit::Character | Unit::Call => Due::Nothing,
    }
}

/// What an answer used, where that is counted rather than told.
enum Counted {
    /// This much, as the request and the answer say it.
    Is(Usage),
    /// Nothing that is sold was delivered.
    Nothing,
    /// It is sold by what the provider tells.
    IsToldInstead,
}

/// Counts what the request and the answer say themselves, for a model that is sold by that.
fn counted(demand: &Demand, price: &ModelPrice, delivered: &Delivered) -> Counted {
    match (price.sold_by, demand.work) {
        // Bought by what it is given to say, however much of that was heard.
        (Unit::Character, _) if delivered.events == 0 => Counted::Nothing,
        (Unit::Character, Work::Speech { characters, .. }) => {
            Counted::Is(Usage { characters, ..Usage::default() })
        }
        (Unit::Image, _) if delivered.images == 0 => Counted::Nothing,
        (Unit::Image, _) => Counted::Is(Usage { images: delivered.images, ..Usage::default() }),
        (Unit::Character, Work::Text | Work::Audio { .. } | Work::Images) => {
            unreachable!("a model that is sold by characters is admitted to speak")
        }
        (Unit::Token | Unit::Second | Unit::Call, _) => Counted::IsToldInstead,
    }
}

/// Whether the model is sold by what was used. Calls are sold beside tokens.
fn is_sold(usage: &Usage, price: &ModelPrice) -> bool {
    let sold = |unit| unit == price.sold_by || unit == Unit::Call && price.sold_by == Unit::Token;
    Class::ALL.into_iter().all(|class| usage.of(class) == 0 || sold(class.unit()))
}

/// Whether a report may be of what was delivered up to a break: some servers tell their usage in each event, also
/// in the first. What a whole answer is told to have used is believed, zero too.
fn covers(usage: &Usage, delivered: &Delivered) -> bool {
    let wrote = usage.output_total() > 0 || usage.seconds > 0;
    (delivered.bytes == 0 || wrote) && (delivered.events == 0 || !usage.is_none())
}

/// Whether a whole answer says what it is charged by. Text can be counted; audio and images cannot.
pub fn is_countable(demand: &Demand, price: &ModelPrice, reading: &Reading) -> bool {
    match (counted(demand, price, &reading.delivered), demand.work) {
        (Counted::Is(_), _) | (Counted::IsToldInstead, Work::Text | Work::Speech { .. }) => true,
        (Counted::Nothing, _) => false,
        (Counted::IsToldInstead, Work::Audio { .. } | Work::Images) => {
            let told = reading.usage.as_ref().and_then(|reported| reported.usage.as_ref().ok());
            told.is_some_and(|usage| is_sold(usage, price))
        }
    }
}

#[cfg(test)]
mod tests;
