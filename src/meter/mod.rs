//! Metering: from the bytes of an answer to what it used.
//!
//! The proxy feeds response bytes and gets back the bytes that may go to the client, and in the end
//! one [`Reading`]: how the answer ended, what usage the provider reported, what text was delivered.
//! A stream goes through [`StreamMeter`], a plain answer through [`BodyMeter`], and a body with a
//! content encoding through [`Decoder`] first. [`tokenizer`] estimates where nothing was reported.
//!
//! *Architecture invariant:* no task, clock, socket or file is known here, and no price. Bytes pass
//! unchanged and in order, but for the usage chunk that the client did not ask for, and what an error
//! says of the operator's account. What
//! is kept has a bound: [`EVENT_BYTES_MAX`], [`IMAGE_EVENT_BYTES_MAX`], [`DELIVERED_BYTES_MAX`], [`USAGE_BYTES_MAX`],
//! [`ANSWER_BYTES_MAX`], [`DECODED_BYTES_MAX`].
//!
//! *Architecture invariant:* nothing read here is trusted. What cannot be read passes unread and is
//! counted in [`Oddities`]; a usage that cannot be true is [`Absurd`], never a zero.

mod body;
mod decode;
mod dialect;
mod reading;
mod redact;
mod sse;
mod stream;
pub mod tokenizer;

#[cfg(test)]
mod tests;

pub use body::{ANSWER_BYTES_MAX, AnswerTooLarge, BodyMeter};
pub use decode::{DECODED_BYTES_MAX, DecodeError, Decoder};
pub use dialect::{Absurd, Field, Why};
pub use reading::{DELIVERED_BYTES_MAX, Delivered, Oddities, Reading, Reported, Shape, USAGE_BYTES_MAX};
pub use redact::redact;
pub use sse::{EVENT_BYTES_MAX, IMAGE_EVENT_BYTES_MAX};
pub use stream::{StreamMeter, UsageChunk};
