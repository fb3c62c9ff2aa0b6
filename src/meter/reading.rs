//! What was read from one answer.

use super::dialect::{self, Absurd, Field, Part, Unreadable, Why};
use crate::endpoint::Endpoint;
use crate::settle::price::{Picture, Tier};
use crate::usage::{Usage, Weight};

/// The most delivered text that is kept for counting, in bytes: what the tokenizer counts in a
/// fraction of a second. Of longer answers only the length is known, and counted by bytes.
pub const DELIVERED_BYTES_MAX: usize = 512 * 1024;

/// The longest usage object that is kept, in bytes. Real ones stay below 1 KiB; it goes into the
/// receipt, which a provider must not be able to bloat.
pub const USAGE_BYTES_MAX: usize = 8 * 1024;

/// What was read from one answer. See the module for how to come by it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// How the answer ended.
    pub shape: Shape,
    /// The last usage that the provider reported; `None` when it reported none, which is not zero.
    pub usage: Option<Reported>,
    /// The usage that was told when a stream began, of which the input is final.
    pub begun: Option<Usage>,
    /// The service tier at which the provider says that it answered, if it says one that is known.
    pub tier: Option<Tier>,
    /// What images look like that were made, as far as it is told.
    pub picture: Picture,
    /// What the provider calls the answer, of those that it may keep.
    pub object: Option<Box<str>>,
    /// Whether the provider says that it is still at work.
    pub at_work: bool,
    /// The text that went to the client.
    pub delivered: Delivered,
    /// What could not be read.
    pub oddities: Oddities,
}

/// How an answer ended. Where several apply, the first in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Shape {
    /// It carries an error, whatever else it carries.
    Failed,
    /// A stream with `[DONE]` or its last event, or a plain answer that is a JSON object.
    Complete,
    /// A stream without `[DONE]` in which a choice gave its finish reason. Some servers end so.
    Finished,
    /// Nothing in it could be read, though there was something.
    Garbage,
    /// It ended early, or was empty.
    #[default]
    Cut,
}

impl Shape {
    /// The name used in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Shape::Failed => "failed",
            Shape::Complete => "complete",
            Shape::Finished => "finished",
            Shape::Garbage => "garbage",
            Shape::Cut => "cut",
        }
    }
}

impl Reading {
    /// Of audio, of which nothing is read.
    pub fn of_audio() -> Self {
        Reading {
            shape: Shape::Complete,
            delivered: Delivered { events: 1, ..Delivered::default() },
            ..Reading::default()
        }
    }

    /// Of a plain answer that is whole and says this usage, if that can be believed.
    pub(super) fn of_usage(
        endpoint: Endpoint,
        raw: &str,
        tier: Option<&str>,
        object: Option<&str>,
    ) -> Option<Self> {
        let tier = tier.and_then(Tier::named);
        let short = raw.len() <= USAGE_BYTES_MAX;
        let reported = short
            .then(|| Reported::new(endpoint, raw.to_owned()))
            .filter(|reported| reported.usage.is_ok())?;
        let (delivered, oddities) = (Delivered::default(), Oddities::default());
        Some(Reading {
            shape: Shape::Complete,
            usage: Some(reported),
            begun: None,
            tier,
            object: object.map(Into::into),
            picture: Picture::default(),
            at_work: false,
            delivered,
            oddities,
        })
    }
}

/// A usage that the provider reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reported {
    /// JSON text as the provider wrote it, a list where it told of it in parts; `null` where it was longer than [`USAGE_BYTES_MAX`].
    pub raw: Box<str>,
    /// Tokens by class, or why they cannot be believed.
    pub usage: Result<Usage, Absurd>,
}

impl Reported {
    fn new(endpoint: Endpoint, raw: String) -> Self {
        if raw.is_empty() {
            return Reported { raw: "null".into(), usage: Err(Absurd::new(Field::Usage, Why::TooLarge)) };
        }
        let usage = dialect::usage(endpoint, &raw);
        Reported { raw: raw.into_boxed_str(), usage }
    }
}

/// Text that was delivered, over all choices in the order of arrival.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Content, refusals, reasoning, and names and arguments of tool calls, one after the other.
    /// Empty when `bytes` is over [`DELIVERED_BYTES_MAX`].
    pub text: String,
    /// The length of all delivered text in bytes.
    pub bytes: u64,
    /// Events that carried text, audio or an image, told of a search, or were too long to be read; 1 for a plain
    /// answer that has any, or anything else of value.
    pub events: u64,
    /// Whole images.
    pub images: u64,
    /// Web searches whose end was told.
    pub searches: u64,
}

impl Delivered {
    /// What it may be in tokens at most.
    pub const fn weight(&self) -> Weight {
        Weight(self.bytes.saturating_add(self.events))
    }

    fn push(&mut self, text: &str) {
        self.bytes += count(text.len());
        if self.bytes <= count(DELIVERED_BYTES_MAX) {
            self.text.push_str(text);
        } else {
            self.text = String::new();
        }
    }
}

/// Counts of what passed unread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Oddities {
    /// Events, or a plain answer, that were not a JSON object of the expected shape.
    pub unparsed: u64,
    /// Events longer than [`EVENT_BYTES_MAX`](super::EVENT_BYTES_MAX). Text in them is not in
    /// [`Delivered`].
    pub oversized: u64,
}

/// Gathers what each part of an answer says.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// The last usage as written; empty when it was too long to be kept.
    usage: Option<String>,
    /// What was told of it when the stream began; later counts replace its own.
    begun: Option<String>,
    /// What was told of tools beside it.
    tools: Option<String>,
    /// Whether the usage tells how many searches there were.
    tells_searches: bool,
    tier: Option<Tier>,
    object: Option<Box<str>>,
    pub(super) picture: Picture,
    pub(super) at_work: bool,
    pub(super) delivered: Delivered,
    pub(super) parsed: u64,
    pub(super) finished: bool,
    pub(super) failed: bool,
}

/// What was delivered up to some event.
pub(super) struct Mark {
    text_bytes: usize,
    bytes: u64,
    events: u64,
    searches: u64,
    parsed: u64,
}

impl Tally {
    /// What was delivered so far.
    pub(super) fn mark(&self) -> Mark {
        let Delivered { text, bytes, events, searches, .. } = &self.delivered;
        let (bytes, events, searches) = (*bytes, *events, *searches);
        Mark { text_bytes: text.len(), bytes, events, searches, parsed: self.parsed }
    }

    /// What was added since is not delivered after all. Text that was let go of stays so.
    pub(super) fn back_to(&mut self, mark: &Mark) {
        self.delivered.text.truncate(mark.text_bytes);
        (self.delivered.bytes, self.delivered.events) = (mark.bytes, mark.events);
        self.delivered.searches = mark.searches;
        self.parsed = mark.parsed;
    }

    /// The usage that was told when a stream began.
    pub(super) fn begun(&self, endpoint: Endpoint) -> Option<Usage> {
        self.begun.as_deref().and_then(|raw| dialect::usage(endpoint, raw).ok())
    }

    /// The service tier that was told.
    pub(super) const fn told_tier(&self) -> Option<Tier> {
        self.tier
    }

    /// Adds one event of a stream, or the whole of a plain answer.
    pub(super) fn add(&mut self, endpoint: Endpoint, json: &[u8]) -> Result<Part, Unreadable> {
        let Delivered { bytes, searches, .. } = self.delivered;
        let part = dialect::read(endpoint, json, self)?;
        self.parsed += 1;
        self.delivered.events +=
            u64::from(self.delivered.bytes > bytes || self.delivered.searches > searches);
        match part {
            Part::Error => self.failed = true,
            Part::Finished => self.finished = true,
            Part::Last | Part::Usage | Part::Ordinary => {}
        }
        Ok(part)
    }

    /// Takes a reported usage as written; the last one counts.
    pub(super) fn usage(&mut self, raw: &str) {
        let kept = self.usage.get_or_insert_default();
        kept.clear();
        if raw.len() <= USAGE_BYTES_MAX {
            kept.push_str(raw);
        }
    }

    /// Takes the usage that is told when a stream begins.
    pub(super) fn usage_begun(&mut self, raw: &str) {
        self.begun = (raw.len() <= USAGE_BYTES_MAX).then(|| raw.to_owned());
    }

    /// Takes what is told of searches beside the usage of tokens.
    pub(super) fn tools(&mut self, raw: &str) {
        self.tools = (raw.len() <= USAGE_BYTES_MAX).then(|| raw.to_owned());
        self.tells_searches = self.tools.is_some();
    }

    /// A usage tells of searches itself.
    pub(super) fn tells_searches(&mut self) {
        self.tells_searches = true;
    }

    /// Takes the service tier that is told; the last one counts.
    pub(super) fn tier(&mut self, name: &str) {
        self.tier = Tier::named(name).or(self.tier);
    }

    /// Takes the name of the answer; the first one counts.
    pub(super) fn object(&mut self, name: &str) {
        self.object.get_or_insert_with(|| name.into());
    }

    /// Takes a piece of delivered text.
    pub(super) fn text(&mut self, text: &str) {
        self.delivered.push(text);
    }

    /// Adds one event of a stream that delivers this text and says nothing else.
    pub(super) fn add_text(&mut self, text: &str) {
        self.parsed += 1;
        self.delivered.push(text);
        self.delivered.events += u64::from(!text.is_empty());
    }

    pub(super) fn into_reading(mut self, endpoint: Endpoint, shape: Shape, oddities: Oddities) -> Reading {
        // They were delivered, whatever they said.
        self.delivered.events += oddities.oversized;
        let begun = self.begun.as_deref();
        let mut usage = self.usage.map(|raw| match (begun, self.tools) {
            (Some(begun), _) if !raw.is_empty() => Reported::new(endpoint, format!("[{begun},{raw}]")),
            (None, Some(tools)) if !raw.is_empty() => Reported::new(endpoint, format!("[{raw},{tools}]")),
            (Some(_) | None, _) => Reported::new(endpoint, raw),
        });
        if let Some(Reported { usage: Ok(usage), .. }) = &mut usage
            && !self.tells_searches
        {
            usage.web_searches = self.delivered.searches;
        }
        let begun = begun.and_then(|raw| dialect::usage(endpoint, raw).ok());
        let Tally { tier, picture, object, at_work, delivered, .. } = self;
        Reading { shape, usage, begun, tier, picture, object, at_work, delivered, oddities }
    }
}

/// A length as a count.
pub(super) fn count(length: usize) -> u64 {
    u64::try_from(length).expect("a length fits into 64 bits")
}
