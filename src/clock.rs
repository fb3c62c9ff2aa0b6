//! Time: a moment on the wall clock, in microseconds, written as RFC 3339; and one on a clock that
//! never steps back.
//!
//! Entries are ordered by sequence number, durations come from the monotonic clock; a
//! [`Timestamp`] only says when something happened.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use time::format_description::well_known::{Rfc2822, Rfc3339};
use time::{Date, Month, OffsetDateTime};

/// Tells the time, so that a simulator can let it jump.
pub trait Clock: Send + Sync {
    /// The time now.
    fn now(&self) -> Timestamp;
}

/// The system's clock.
pub struct Wall;

impl Clock for Wall {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// Microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The wall clock now. A clock set before 1970 reads as 1970.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    /// From microseconds since the epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Timestamp(micros)
    }

    /// Microseconds since the epoch.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// The moment that was so long before it.
    #[must_use]
    pub fn before(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Timestamp(self.0.saturating_sub(micros))
    }

    /// Whole seconds since the epoch.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// The day that it is in, in UTC, such as `2026-11-23`.
    pub fn day(self) -> String {
        self.to_string().chars().take_while(|character| *character != 'T').collect()
    }

    /// The first moment of the month after its own, in UTC; itself where time ends.
    #[must_use]
    pub fn next_month(self) -> Self {
        let Ok(now) = OffsetDateTime::from_unix_timestamp(self.seconds()) else { return self };
        let year = if now.month() == Month::December { now.year() + 1 } else { now.year() };
        let first = Date::from_calendar_date(year, now.month().next(), 1);
        first.ok().and_then(|first| Timestamp::of(first.midnight().assume_utc())).unwrap_or(self)
    }

    /// Reads RFC 3339, or a date alone, which means its first moment in UTC.
    pub fn parse(text: &str) -> Option<Self> {
        let whole = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
        let moment = OffsetDateTime::parse(&whole, &Rfc3339).ok()?;
        Timestamp::of(moment)
    }

    /// Reads a date as HTTP headers have it: `Mon, 23 Nov 2026 16:00:09 GMT`.
    pub fn parse_http(text: &str) -> Option<Self> {
        OffsetDateTime::parse(text, &Rfc2822).ok().and_then(Timestamp::of)
    }

    fn of(moment: OffsetDateTime) -> Option<Self> {
        i64::try_from(moment.unix_timestamp_nanos().div_euclid(1_000)).ok().map(Timestamp)
    }
}

/// Microseconds on a clock that never steps back, from some moment of this process on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(pub u64);

impl Tick {
    /// Now.
    pub fn now() -> Self {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        Tick(u64::try_from(START.elapsed().as_micros()).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000)
            .ok()
            .and_then(|moment| moment.format(&Rfc3339).ok());
        f.pad(text.as_deref().unwrap_or("(out of range)"))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Timestamp::parse(&text).ok_or_else(|| de::Error::custom("must be an RFC 3339 time"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_back_as_written() {
        let at = Timestamp::parse("2026-11-23T16:25:46.000001Z").unwrap();
        assert_eq!(at.to_string(), "2026-11-23T16:25:46.000001Z");
        assert_eq!(Timestamp::parse("2026-11-23").unwrap().to_string(), "2026-11-23T00:00:00Z");
        assert_eq!(Timestamp::parse("2026-11-23T01:00:00+01:00"), Timestamp::parse("2026-11-23"));
        assert_eq!(Timestamp::parse("yesterday"), None);
        let http = Timestamp::parse_http("Mon, 23 Nov 2026 00:00:00 GMT");
        assert_eq!((http, Timestamp::parse_http("now")), (Timestamp::parse("2026-11-23"), None));
    }
}
