//! What a provider tells of its rate limits in the header of an answer. Pure.
//!
//! OpenAI: `x-ratelimit-{limit,remaining,reset}-{requests,tokens,project-tokens}` with durations as
//! Go writes them (`6m0s`, `20ms`). Azure: the same with whole seconds, and `-1` for what it does not
//! know. Anthropic: `anthropic-ratelimit-{requests,tokens,…}-{limit,remaining,reset}` with moments in
//! RFC 3339. All of them: `retry-after` in seconds or as a date, and some `retry-after-ms`.

use crate::clock::Timestamp;
use std::time::Duration;

/// The longest wait that a provider may ask for; more is taken as this.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// The longest time to a reset that is believed: limits are by the minute or by the day.
const RESET_MAX: Duration = Duration::from_secs(2 * 86_400);

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Requests.
    Requests,
    /// Tokens of input and output.
    Tokens,
    /// The same, for the project that the credential belongs to.
    ProjectTokens,
    /// Tokens of input.
    InputTokens,
    /// Tokens of output.
    OutputTokens,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 5] =
        [Kind::Requests, Kind::Tokens, Kind::ProjectTokens, Kind::InputTokens, Kind::OutputTokens];

    /// Its place in a list of all.
    pub const fn index(self) -> usize {
        match self {
            Kind::Requests => 0,
            Kind::Tokens => 1,
            Kind::ProjectTokens => 2,
            Kind::InputTokens => 3,
            Kind::OutputTokens => 4,
        }
    }

    /// The word used in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Requests => "provider_requests",
            Kind::Tokens => "provider_tokens",
            Kind::ProjectTokens => "provider_project_tokens",
            Kind::InputTokens => "provider_input_tokens",
            Kind::OutputTokens => "provider_output_tokens",
        }
    }

    fn parse(name: &str) -> Option<Kind> {
        Some(match name {
            "requests" => Kind::Requests,
            "tokens" => Kind::Tokens,
            "project-tokens" => Kind::ProjectTokens,
            "input-tokens" => Kind::InputTokens,
            "output-tokens" => Kind::OutputTokens,
            _ => return None,
        })
    }
}

/// What was told of one limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// How much there is of it.
    pub limit: Option<u64>,
    /// How much is left.
    pub remaining: Option<u64>,
    /// When all of it is there again.
    pub reset: Option<Duration>,
}

/// What was told in one answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// By [`Kind::index`].
    pub told: [Told; 5],
    /// How long to send nothing.
    pub wait: Option<Duration>,
}

enum Part {
    Limit,
    Remaining,
    Reset,
}

impl Part {
    fn parse(name: &str) -> Option<Part> {
        Some(match name {
            "limit" => Part::Limit,
            "remaining" => Part::Remaining,
            "reset" => Part::Reset,
            _ => return None,
        })
    }
}

impl Report {
    /// Reads the header of an answer: names in lower case, and values. What cannot be read was not told.
    pub fn read<'a>(header: impl Iterator<Item = (&'a str, &'a [u8])>, now: Timestamp) -> Self {
        let mut report = Report::default();
        let mut seconds = None;
        for (name, value) in header {
            let Ok(value) = std::str::from_utf8(value).map(str::trim) else { continue };
            match name {
                "retry-after-ms" => report.wait = number(value).and_then(|ms| positive(ms / 1_000.0)),
                "retry-after" => seconds = number(value).and_then(positive).or_else(|| until(value, now)),
                _ => report.limit(name, value, now),
            }
        }
        report.wait = report.wait.or(seconds).map(|wait| wait.min(WAIT_MAX));
        report
    }

    fn limit(&mut self, name: &str, value: &str, now: Timestamp) {
        let Some((kind, part)) = parse_name(name) else { return };
        let told = &mut self.told[kind.index()];
        match part {
            Part::Limit => told.limit = count(value).filter(|limit| *limit > 0),
            Part::Remaining => told.remaining = count(value),
            Part::Reset => {
                told.reset =
                    duration(value).or_else(|| until(value, now)).filter(|reset| *reset <= RESET_MAX);
            }
        }
    }
}

fn parse_name(name: &str) -> Option<(Kind, Part)> {
    if let Some(rest) = name.strip_prefix("x-ratelimit-") {
        let (part, kind) = rest.split_once('-')?;
        return Some((Kind::parse(kind)?, Part::parse(part)?));
    }
    let (kind, part) = name.strip_prefix("anthropic-ratelimit-")?.rsplit_once('-')?;
    Some((Kind::parse(kind)?, Part::parse(part)?))
}

/// A whole number, perhaps with commas between thousands; -1 is none.
fn count(text: &str) -> Option<u64> {
    if text.contains(',') { text.replace(',', "").parse().ok() } else { text.parse().ok() }
}

fn number(text: &str) -> Option<f64> {
    text.parse().ok()
}

fn positive(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok()
}

/// `6m0s`, `1h2m3.5s`, `20ms`, or a number of seconds alone.
fn duration(text: &str) -> Option<Duration> {
    if let Some(seconds) = number(text) {
        return positive(seconds);
    }
    let mut left = text;
    let mut total = Duration::ZERO;
    while !left.is_empty() {
        let digits = left.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (amount, rest) = left.split_at(digits);
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (unit, rest) = rest.split_at(letters);
        let seconds = match unit {
            "h" => 3_600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total = total.checked_add(positive(number(amount)? * seconds)?)?;
        left = rest;
    }
    (!text.is_empty()).then_some(total)
}

/// The time until a moment; none of it once that is over.
fn until(text: &str, now: Timestamp) -> Option<Duration> {
    let moment = Timestamp::parse(text).or_else(|| Timestamp::parse_http(text))?;
    let micros = moment.micros().checked_sub(now.micros())?.max(0);
    Some(Duration::from_micros(u64::try_from(micros).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-23T16:00:00Z";

    fn read(header: &[(&str, &str)]) -> Report {
        let header = header.iter().map(|(name, value)| (*name, value.as_bytes()));
        Report::read(header, Timestamp::parse(NOW).unwrap())
    }

    fn check(header: &[(&str, &str)], kind: Kind, expect: (Option<u64>, Option<u64>, Option<u64>)) {
        let told = read(header).told[kind.index()];
        let reset_ms = told.reset.map(|reset| u64::try_from(reset.as_millis()).unwrap());
        assert_eq!((told.limit, told.remaining, reset_ms), expect, "{header:?}");
    }

    #[test]
    fn each_provider_is_read_in_its_own_form() {
        let openai = [
            ("x-ratelimit-limit-requests", "10000"),
            ("x-ratelimit-remaining-requests", "9999"),
            ("x-ratelimit-reset-requests", "8.64s"),
            ("x-ratelimit-limit-tokens", "30,000"),
            ("x-ratelimit-remaining-tokens", "29980"),
            ("x-ratelimit-reset-tokens", "6m0s"),
            ("x-ratelimit-remaining-project-tokens", "7"),
        ];
        check(&openai, Kind::Requests, (Some(10_000), Some(9_999), Some(8_640)));
        check(&openai, Kind::Tokens, (Some(30_000), Some(29_980), Some(360_000)));
        check(&openai, Kind::ProjectTokens, (None, Some(7), None));
        check(&openai, Kind::InputTokens, (None, None, None));
        let azure = [
            ("x-ratelimit-limit-requests", "0"),
            ("x-ratelimit-remaining-requests", "-1"),
            ("x-ratelimit-reset-requests", "-1"),
            ("x-ratelimit-remaining-tokens", "119"),
            ("x-ratelimit-reset-tokens", "60"),
        ];
        check(&azure, Kind::Requests, (None, None, None));
        check(&azure, Kind::Tokens, (None, Some(119), Some(60_000)));
        let anthropic = [
            ("anthropic-ratelimit-input-tokens-limit", "50000"),
            ("anthropic-ratelimit-input-tokens-remaining", "49000"),
            ("anthropic-ratelimit-input-tokens-reset", "2026-11-23T16:00:01.5Z"),
            ("anthropic-ratelimit-requests-reset", "2026-11-23T15:00:00Z"),
        ];
        check(&anthropic, Kind::InputTokens, (Some(50_000), Some(49_000), Some(1_500)));
        check(&anthropic, Kind::Requests, (None, None, Some(0)));
    }

    #[test]
    fn what_cannot_be_read_was_not_told() {
        for reset in ["", "soon", "5x", "s", "1.2.3s", "-5s", "NaN", "inf", "1e300", "99999h", "9m9"] {
            let header = [("x-ratelimit-remaining-requests", "1"), ("x-ratelimit-reset-requests", reset)];
            check(&header, Kind::Requests, (None, Some(1), None));
        }
        for name in ["x-ratelimit-", "x-ratelimit-limit", "x-ratelimit-limit-cats", "anthropic-ratelimit-x"] {
            assert_eq!(read(&[(name, "1")]), Report::default(), "{name}");
        }
        check(&[("x-ratelimit-remaining-requests", "1.5")], Kind::Requests, (None, None, None));
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, ms) in [("20ms", 20), ("1s", 1_000), ("1h2m3.5s", 3_723_500), ("0s", 0), ("1.5m", 90_000)]
        {
            assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn a_provider_says_how_long_to_wait() {
        let wait = |header: &[(&str, &str)], ms: Option<u64>| {
            assert_eq!(read(header).wait, ms.map(Duration::from_millis), "{header:?}");
        };
        wait(&[], None);
        wait(&[("retry-after", "7")], Some(7_000));
        wait(&[("retry-after", " 0.5")], Some(500));
        wait(&[("retry-after-ms", "20"), ("retry-after", "7")], Some(20));
        wait(&[("retry-after", "7"), ("retry-after-ms", "20")], Some(20));
        wait(&[("retry-after", "7"), ("retry-after-ms", "none")], Some(7_000));
        wait(&[("retry-after", "Mon, 23 Nov 2026 16:00:09 GMT")], Some(9_000));
        wait(&[("retry-after", "Mon, 23 Nov 2026 15:00:00 GMT")], Some(0));
        wait(&[("retry-after", "86400")], Some(600_000));
        for none in ["1e300", "-1", "later"] {
            wait(&[("retry-after", none)], None);
        }
    }
}
