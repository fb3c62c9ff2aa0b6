//! What answers look like: one file a dialect.

mod openai;
pub(super) mod quick;
mod text;
mod usage;

pub(super) use openai::{Answer, ToolCall, Unreadable};
pub(super) use text::Text;
pub(super) use usage::usage;
pub use usage::{Absurd, Field, Why};
