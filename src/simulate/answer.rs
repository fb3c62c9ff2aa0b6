//! An answer as text: its words, its usage, and the plain form of it. Pure.
//!
//! JSON is written by hand: the shape is fixed, and a load test asks for it many times a second.

use super::faults::Reported;
use super::request::Request;
use crate::usage::Usage;
use std::fmt::Write;
use std::ops::Range;

/// What an absurd report says of each count.
const ABSURD_TOKENS: u64 = 1_000_000_000_000_000;
pub(super) const FINGERPRINT: &str = "fp_simulated0";

/// The usage of an answer, as the provider counts it: cached tokens are part of the prompt,
/// reasoning tokens part of the completion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    pub completion_tokens: u64,
    pub reasoning_tokens: u64,
}

impl Counts {
    /// By class, each token in one of them.
    pub fn usage(&self) -> Usage {
        Usage {
            input: self.prompt_tokens.saturating_sub(self.cached_tokens),
            cached_input: self.cached_tokens,
            cache_write: 0,
            output: self.completion_tokens.saturating_sub(self.reasoning_tokens),
            reasoning: self.reasoning_tokens,
        }
    }

    /// The `usage` object, if any is to be reported.
    pub fn json(&self, reported: Reported) -> Option<String> {
        let count = |tokens: u64| match reported {
            Reported::Truly | Reported::Missing => tokens.to_string(),
            Reported::Zero => "0".to_owned(),
            Reported::Negative => format!("-{}", tokens.max(1)),
            Reported::Absurd => ABSURD_TOKENS.to_string(),
            Reported::AsString => format!("\"{tokens}\""),
        };
        if reported == Reported::Missing {
            return None;
        }
        let (prompt, completion) = (count(self.prompt_tokens), count(self.completion_tokens));
        let total = count(self.prompt_tokens + self.completion_tokens);
        let (cached, reasoning) = (count(self.cached_tokens), count(self.reasoning_tokens));
        let mut out = String::with_capacity(384);
        push(&mut out, format_args!(r#"{{"prompt_tokens":{prompt},"completion_tokens":{completion},"#));
        push(&mut out, format_args!(r#""total_tokens":{total},"prompt_tokens_details":"#));
        push(&mut out, format_args!(r#"{{"cached_tokens":{cached},"audio_tokens":0}},"#));
        push(&mut out, format_args!(r#""completion_tokens_details":{{"reasoning_tokens":{reasoning},"#));
        out.push_str(r#""audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}"#);
        Some(out)
    }
}

/// What makes this answer differ from another answer to the same request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    /// Scrambled from the request's number.
    pub id: u64,
    /// Seconds since the epoch.
    pub created: i64,
}

/// All that a plain or a streamed answer is written from.
#[derive(Debug)]
pub(super) struct Answer {
    pub stamp: Stamp,
    /// The model's name as a JSON string.
    pub model: String,
    pub choices: u64,
    /// Tokens of text in each choice.
    pub words: u64,
    pub finish_reason: &'static str,
    /// The `usage` object, if any is reported.
    pub usage: Option<String>,
}

impl Answer {
    /// The answer to this request.
    pub fn to(request: &Request, reported: Reported, stamp: Stamp) -> Self {
        Answer {
            stamp,
            model: serde_json::to_string(&request.model).expect("a string is JSON"),
            choices: request.choices,
            words: request.words(),
            finish_reason: request.finish_reason(),
            usage: request.counts().json(reported),
        }
    }

    /// The whole answer as one JSON object.
    pub fn plain(&self) -> String {
        let mut out = String::with_capacity(1024);
        let Stamp { id, created } = self.stamp;
        push(&mut out, format_args!(r#"{{"id":"chatcmpl-{id:016x}","object":"chat.completion","#));
        push(&mut out, format_args!(r#""created":{created},"model":{},"choices":["#, self.model));
        let mut text = String::new();
        push_words(&mut text, 0..self.words);
        let finish = self.finish_reason;
        for index in 0..self.choices {
            let comma = if index == 0 { "" } else { "," };
            push(&mut out, format_args!(r#"{comma}{{"index":{index},"message":{{"role":"assistant","#));
            push(&mut out, format_args!(r#""content":"{text}","refusal":null,"annotations":[]}},"#));
            push(&mut out, format_args!(r#""logprobs":null,"finish_reason":"{finish}"}}"#));
        }
        out.push(']');
        if let Some(usage) = &self.usage {
            push(&mut out, format_args!(r#","usage":{usage}"#));
        }
        push(&mut out, format_args!(r#","service_tier":"default","system_fingerprint":"{FINGERPRINT}"}}"#));
        out
    }
}

/// Appends the words of this range; ranges that follow on each other make up the whole text.
pub(super) fn push_words(out: &mut String, range: Range<u64>) {
    for word in range {
        let space = if word == 0 { "" } else { " " };
        push(out, format_args!("{space}tok{word}"));
    }
}

pub(super) fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a string can always grow");
}

#[cfg(test)]
mod tests {
    use super::super::request;
    use super::*;
    use serde_json::{Value, json};

    fn plain(reported: Reported) -> Value {
        let body = json!({"model": "a\"b", "messages": [{"content": "hello"}], "n": 2,
            "metadata": {"simulate_tokens": "3", "simulate_cached_tokens": "4",
                "simulate_reasoning_tokens": "5"}});
        let request = request::read(body.to_string().as_bytes()).unwrap();
        let answer = Answer::to(&request, reported, Stamp { id: 1, created: 1_763_915_146 });
        serde_json::from_str(&answer.plain()).unwrap()
    }

    fn check(reported: Reported, expect: Option<Value>) {
        let plain = plain(reported);
        assert_eq!(plain.get("usage").map(|usage| usage["completion_tokens"].clone()), expect);
    }

    #[test]
    fn a_plain_answer_has_the_shape_of_the_real_one() {
        let answer = plain(Reported::Truly);
        assert_eq!(answer["id"], "chatcmpl-0000000000000001");
        assert_eq!(answer["model"], "a\"b");
        assert_eq!(answer["choices"].as_array().unwrap().len(), 2);
        assert_eq!(answer["choices"][1]["message"]["content"], "tok0 tok1 tok2");
        assert_eq!(answer["choices"][1]["finish_reason"], "stop");
        assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 4);
        assert_eq!(answer["usage"]["completion_tokens_details"]["reasoning_tokens"], 10);
        assert_eq!(answer["usage"]["total_tokens"], 9 + 16);
        assert_eq!(answer["service_tier"], "default");
    }

    #[test]
    fn usage_is_reported_as_asked() {
        check(Reported::Truly, Some(json!(16)));
        check(Reported::Missing, None);
        check(Reported::Zero, Some(json!(0)));
        check(Reported::Negative, Some(json!(-16)));
        check(Reported::Absurd, Some(json!(1_000_000_000_000_000_u64)));
        check(Reported::AsString, Some(json!("16")));
    }

    #[test]
    fn classes_are_disjoint() {
        let counts =
            Counts { prompt_tokens: 9, cached_tokens: 4, completion_tokens: 16, reasoning_tokens: 10 };
        let usage = Usage { input: 5, cached_input: 4, cache_write: 0, output: 6, reasoning: 10 };
        assert_eq!(counts.usage(), usage);
    }
}
