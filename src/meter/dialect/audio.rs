//! Audio: speech as events, and what was heard, as the plain answer or as events. A usage is told in
//! tokens or in seconds.

use super::super::reading::Tally;
use super::usage::{Absurd, Field, Why, count, details, object as usage_object, required};
use super::{Part, Text, Unreadable, object};
use crate::usage::Usage;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Reads an event of speech. As a plain answer there is only audio, which is not read.
///
/// # Errors
/// When it is not one.
pub(super) fn read_speech(json: &[u8], tally: &mut Tally) -> Result<Part, Unreadable> {
    let event: Event<'_> = object(json)?;
    if let Some(usage) = event.usage {
        tally.usage(usage.get());
    }
    match (event.error, event.kind.as_deref()) {
        (Some(IgnoredAny), _) | (None, Some("error")) => Ok(Part::Error),
        (None, Some("speech.audio.done")) => Ok(Part::Last),
        (None, Some(kind)) => {
            tally.delivered.events += u64::from(kind == "speech.audio.delta");
            Ok(Part::Ordinary)
        }
        (None, None) => Err(Unreadable),
    }
}

/// Reads what was heard: an answer or an event.
///
/// # Errors
/// When it is not one.
pub(super) fn read_heard(json: &[u8], tally: &mut Tally) -> Result<Part, Unreadable> {
    let event: Event<'_> = object(json)?;
    match (event.usage, event.duration) {
        (Some(usage), _) => tally.usage(usage.get()),
        // As `verbose_json` has it where there is no usage.
        (None, Some(duration)) => tally.usage(&format!(r#"{{"duration":{}}}"#, duration.get())),
        (None, None) => {}
    }
    if event.error.is_some() {
        return Ok(Part::Error);
    }
    match (event.kind.as_deref(), event.text) {
        (Some("error"), _) => Ok(Part::Error),
        (Some("transcript.text.done"), _) => Ok(Part::Last),
        (Some(_), _) => {
            tally.text(&event.delta.text);
            Ok(Part::Ordinary)
        }
        (None, Some(text)) => {
            tally.text(&text.text);
            Ok(Part::Ordinary)
        }
        (None, None) => Err(Unreadable),
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Event<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    delta: Text<'a>,
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    duration: Option<&'a RawValue>,
    error: Option<IgnoredAny>,
}

/// Reads the usage of speech: text in, audio out.
///
/// # Errors
/// When it is not an object, lacks a total, or has a count that cannot be believed.
pub(super) fn usage_of_speech(json: &str) -> Result<Usage, Absurd> {
    let totals: Totals<'_> = usage_object(Field::Usage, json)?;
    let input = required(Field::InputTokens, totals.input_tokens)?;
    let audio_output = required(Field::OutputTokens, totals.output_tokens)?;
    Ok(Usage { input, audio_output, ..Usage::default() })
}

/// Reads the usage of what was heard: audio in, but for what is told to be text, and text out; or
/// seconds.
///
/// # Errors
/// When it is not an object, lacks a total, or has a count that cannot be believed.
pub(super) fn usage_of_heard(json: &str) -> Result<Usage, Absurd> {
    let totals: Totals<'_> = usage_object(Field::Usage, json)?;
    if let Some(length) = totals.seconds.or(totals.duration) {
        return Ok(Usage { seconds: seconds(length.get())?, ..Usage::default() });
    }
    let input = required(Field::InputTokens, totals.input_tokens)?;
    let output = required(Field::OutputTokens, totals.output_tokens)?;
    let told = totals.input_token_details.or(totals.input_tokens_details);
    let details: Details<'_> = details(Field::AudioTokens, told)?;
    let text = count(Field::TextTokens, details.text_tokens)?;
    let audio = count(Field::AudioTokens, details.audio_tokens)?;
    let audio_input = match (audio, text) {
        (Some(audio), _) => audio.min(input),
        (None, text) => input - text.unwrap_or(0).min(input),
    };
    let usage = Usage { input: input - audio_input, audio_input, output, ..Usage::default() };
    assert_eq!(usage.tokens(), input + output, "classes add up to the reported totals");
    Ok(usage)
}

/// Whole seconds of a length: to the nearest, as the price of a minute is charged, and at least one.
/// Some servers write it as a string.
fn seconds(written: &str) -> Result<u64, Absurd> {
    let absurd = |why| Absurd::new(Field::Seconds, why);
    let text = written.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(written);
    if text.starts_with('-') {
        return Err(absurd(Why::Negative));
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return Err(absurd(Why::NotInteger));
    }
    let whole: u64 = whole.parse().map_err(|_| absurd(Why::TooLarge))?;
    let up = u64::from(fraction.as_bytes()[0] >= b'5');
    let length = whole.saturating_add(up).max(1);
    if length > Usage::CLASS_MAX { Err(absurd(Why::TooLarge)) } else { Ok(length) }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Totals<'a> {
    #[serde(borrow)]
    input_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    output_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    input_token_details: Option<&'a RawValue>,
    #[serde(borrow)]
    input_tokens_details: Option<&'a RawValue>,
    #[serde(borrow)]
    seconds: Option<&'a RawValue>,
    #[serde(borrow)]
    duration: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Details<'a> {
    #[serde(borrow)]
    audio_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    text_tokens: Option<&'a RawValue>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::dialect::random::Random;

    fn check(json: &str, expected: Result<[u64; 4], Why>) {
        let found = usage_of_heard(json).map(|u| [u.input, u.audio_input, u.output, u.seconds]);
        assert_eq!(found.map_err(|absurd| absurd.why), expected, "{json}");
    }

    #[test]
    fn a_length_is_charged_to_the_nearest_second() {
        for (written, length) in [
            ("9", 9),
            ("9.0", 9),
            ("8.470000267028809", 8),
            ("8.5", 9),
            ("\"9.6\"", 10),
            ("0", 1),
            ("0.2", 1),
        ] {
            check(&format!(r#"{{"type":"duration","seconds":{written}}}"#), Ok([0, 0, 0, length]));
            check(&format!(r#"{{"duration":{written}}}"#), Ok([0, 0, 0, length]));
        }
        for (written, why) in [
            ("-1", Why::Negative),
            ("1e3", Why::NotInteger),
            ("true", Why::NotInteger),
            ("\"\"", Why::NotInteger),
            ("99999999999999999999", Why::TooLarge),
            ("1000000000.5", Why::TooLarge),
        ] {
            check(&format!(r#"{{"seconds":{written}}}"#), Err(why));
        }
    }

    #[test]
    fn audio_and_text_are_told_apart() {
        let with =
            |details: &str| format!(r#"{{"type":"tokens","input_tokens":14,"output_tokens":45{details}}}"#);
        check(&with(""), Ok([0, 14, 45, 0]));
        check(&with(r#","input_token_details":{"text_tokens":4,"audio_tokens":10}"#), Ok([4, 10, 45, 0]));
        check(&with(r#","input_tokens_details":{"text_tokens":4}"#), Ok([4, 10, 45, 0]));
        check(&with(r#","input_token_details":{"audio_tokens":99}"#), Ok([0, 14, 45, 0]));
        check("{}", Err(Why::Missing));
    }

    #[test]
    fn classes_add_up_whatever_is_reported() {
        let mut random = Random::default();
        for _ in 0..10_000 {
            let [input, output, audio, text, _] = random.counts();
            let totals = format!(r#""input_tokens":{input},"output_tokens":{output}"#);
            let heard = usage_of_heard(&format!(
                r#"{{{totals},"input_token_details":{{"audio_tokens":{audio},"text_tokens":{text}}}}}"#
            ));
            let heard = heard.expect("in bounds");
            assert_eq!(
                (heard.input_total(), heard.output, heard.audio_input),
                (input, output, audio.min(input))
            );
            let spoken = usage_of_speech(&format!("{{{totals}}}")).expect("in bounds");
            assert_eq!((spoken.input, spoken.audio_output, spoken.tokens()), (input, output, input + output));
        }
    }
}
