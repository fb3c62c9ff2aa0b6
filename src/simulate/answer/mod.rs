//! An answer as text: its words, its usage, its plain form and its events, one file an endpoint. Pure.
//!
//! JSON is written by hand: the shape is fixed, and a load test asks for it many times a second.

mod chat;
mod completions;
mod embeddings;
mod messages;
mod moderations;
mod responses;

use super::faults::Reported;
use super::plan::Shape;
use super::request::Request;
use super::stored::{Kept, Run};
use crate::endpoint::Endpoint;
use crate::usage::Usage;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;

/// What an absurd report says of each count.
const ABSURD_TOKENS: u64 = 1_000_000_000_000_000;
const FINGERPRINT: &str = "fp_simulated0";

/// The usage of an answer, as the provider counts it: cached tokens are part of the prompt,
/// reasoning tokens part of the completion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    pub completion_tokens: u64,
    pub reasoning_tokens: u64,
    /// Web searches.
    pub searches: u64,
    /// What is not text, by class.
    pub other: Usage,
}

impl Counts {
    /// By class, each token in one of them.
    pub fn usage(&self) -> Usage {
        if !self.other.is_none() {
            return self.other;
        }
        Usage {
            input: self.prompt_tokens.saturating_sub(self.cached_tokens),
            cached_input: self.cached_tokens,
            output: self.completion_tokens.saturating_sub(self.reasoning_tokens),
            reasoning: self.reasoning_tokens,
            web_searches: self.searches,
            ..Usage::default()
        }
    }

    /// The `usage` object, if any is to be reported.
    pub fn json(&self, endpoint: Endpoint, reported: Reported) -> Option<String> {
        match (endpoint, reported) {
            (_, Reported::Missing) | (Endpoint::Moderations, _) => None,
            // Told by their own file.
            (
                Endpoint::ImageGenerations
                | Endpoint::ImageEdits
                | Endpoint::Speech
                | Endpoint::Transcriptions
                | Endpoint::Translations,
                _,
            ) => None,
            (Endpoint::Chat | Endpoint::Completions, _) => Some(self.of_chat(reported)),
            (Endpoint::Responses, _) => Some(self.of_response(reported)),
            (Endpoint::Messages, _) => Some(self.of_message(reported)),
            (Endpoint::Embeddings, _) => {
                let prompt = figure(self.prompt_tokens, reported);
                Some(format!(r#"{{"prompt_tokens":{prompt},"total_tokens":{prompt}}}"#))
            }
        }
    }

    fn of_message(&self, reported: Reported) -> String {
        let count = |tokens| figure(tokens, reported);
        let input = count(self.prompt_tokens.saturating_sub(self.cached_tokens));
        let (cached, output) = (count(self.cached_tokens), count(self.completion_tokens));
        let thinking = count(self.reasoning_tokens);
        let searches = match self.searches {
            0 => String::new(),
            searches => format!(r#""server_tool_use":{{"web_search_requests":{}}},"#, count(searches)),
        };
        format!(
            r#"{{{searches}"input_tokens":{input},"cache_creation_input_tokens":0,"cache_read_input_tokens":{cached},"output_tokens":{output},"output_tokens_details":{{"thinking_tokens":{thinking}}},"service_tier":"standard"}}"#
        )
    }

    fn of_response(&self, reported: Reported) -> String {
        let count = |tokens| figure(tokens, reported);
        let (input, output) = (count(self.prompt_tokens), count(self.completion_tokens));
        let total = count(self.prompt_tokens + self.completion_tokens);
        let (cached, reasoning) = (count(self.cached_tokens), count(self.reasoning_tokens));
        format!(
            r#"{{"input_tokens":{input},"input_tokens_details":{{"cached_tokens":{cached}}},"output_tokens":{output},"output_tokens_details":{{"reasoning_tokens":{reasoning}}},"total_tokens":{total}}}"#
        )
    }

    /// What a response tells of tools, where it used any.
    fn tools_json(&self, reported: Reported) -> Option<String> {
        if self.searches == 0 || reported == Reported::Missing {
            return None;
        }
        Some(format!(r#"{{"web_search":{{"num_requests":{}}}}}"#, figure(self.searches, reported)))
    }

    fn of_chat(&self, reported: Reported) -> String {
        let count = |tokens| figure(tokens, reported);
        let (prompt, completion) = (count(self.prompt_tokens), count(self.completion_tokens));
        let total = count(self.prompt_tokens + self.completion_tokens);
        let (cached, reasoning) = (count(self.cached_tokens), count(self.reasoning_tokens));
        let mut out = String::with_capacity(384);
        push(&mut out, format_args!(r#"{{"prompt_tokens":{prompt},"completion_tokens":{completion},"#));
        push(&mut out, format_args!(r#""total_tokens":{total},"prompt_tokens_details":"#));
        push(&mut out, format_args!(r#"{{"cached_tokens":{cached},"audio_tokens":0}},"#));
        push(&mut out, format_args!(r#""completion_tokens_details":{{"reasoning_tokens":{reasoning},"#));
        out.push_str(r#""audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}"#);
        out
    }
}

/// A count as it is reported.
pub(super) fn figure(tokens: u64, reported: Reported) -> String {
    match reported {
        Reported::Truly | Reported::Missing => tokens.to_string(),
        Reported::Zero => "0".to_owned(),
        Reported::Negative => format!("-{}", tokens.max(1)),
        Reported::Absurd => ABSURD_TOKENS.to_string(),
        Reported::AsString => format!("\"{tokens}\""),
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
    pub shape: Shape,
    pub stamp: Stamp,
    pub endpoint: Endpoint,
    /// The model's name as a JSON string.
    pub model: String,
    /// Or vectors, or judgements.
    pub choices: u64,
    /// Tokens of text in each choice.
    pub words: u64,
    pub finish_reason: &'static str,
    /// The `usage` object, if any is reported.
    pub usage: Option<String>,
    /// What a stream of messages tells of it when it begins.
    pub begun: Option<String>,
    /// Web searches that it ran.
    pub searches: u64,
    /// What a response tells of them beside its usage, if it tells that.
    pub tool_usage: Option<String>,
    /// Whether vectors are written as base64.
    pub base64: bool,
    /// The service tier that it tells.
    pub tier: &'static str,
    /// What is objected to in texts to judge.
    pub scores: BTreeMap<String, String>,
}

impl Answer {
    /// The answer to this request.
    pub fn to(request: &Request, reported: Reported, stamp: Stamp) -> Self {
        Answer {
            shape: Shape::OpenAi,
            stamp,
            endpoint: request.endpoint,
            model: serde_json::to_string(&request.model).expect("a string is JSON"),
            choices: request.choices,
            words: request.words(),
            finish_reason: request.finish_reason(),
            usage: request.counts().json(request.endpoint, reported),
            begun: request.counts_begun().json(request.endpoint, reported),
            searches: request.searches,
            tool_usage: request.counts().tools_json(reported),
            base64: request.base64,
            tier: request.tier,
            scores: request.scores.clone(),
        }
    }

    /// The whole answer as one JSON object.
    pub fn plain(&self) -> String {
        match self.endpoint {
            Endpoint::Chat => chat::plain(self),
            Endpoint::Responses => responses::plain(self),
            Endpoint::Messages => messages::plain(self),
            Endpoint::Completions => completions::plain(self),
            Endpoint::Embeddings => embeddings::plain(self),
            Endpoint::Moderations => moderations::plain(self),
            Endpoint::ImageGenerations
            | Endpoint::ImageEdits
            | Endpoint::Speech
            | Endpoint::Transcriptions
            | Endpoint::Translations => unreachable!("answered by `media`"),
        }
    }

    /// A response as it is kept, where it is one.
    pub fn kept(&self, counts: &Counts, reads: Option<u32>) -> Kept {
        Kept {
            id: format!("resp_{:016x}", self.stamp.id),
            tokens: counts.prompt_tokens + counts.completion_tokens,
            whole: responses::plain(self),
            run: reads.map(|reads| Run { at_work: responses::begun(self, "in_progress"), reads }),
        }
    }

    /// A response that waits to be made.
    pub fn queued(&self) -> String {
        responses::begun(self, "queued")
    }

    /// What all events of its stream share; `None` where there is no stream.
    pub fn opening(&self, include_usage: bool) -> Option<Opening> {
        let prefix = match self.endpoint {
            Endpoint::Chat => chat::prefix(self),
            Endpoint::Responses => responses::prefix(self),
            Endpoint::Messages => messages::prefix(self),
            Endpoint::Completions => completions::prefix(self),
            _ => return None,
        };
        Some(Opening { prefix, include_usage })
    }

    /// The events before any text.
    pub fn first(&self, opening: &Opening) -> Vec<Event> {
        match self.endpoint {
            Endpoint::Chat => chat::first(self, opening),
            Endpoint::Responses => responses::first(self, opening),
            Endpoint::Messages => messages::first(self, opening),
            _ => Vec::new(),
        }
    }

    /// Whether it ends before it is done.
    fn is_cut(&self) -> bool {
        self.finish_reason == "length"
    }

    /// An event with piece number `sent` of the text; the choices take turns.
    pub fn content(&self, opening: &Opening, sent: u64, text: &str) -> Event {
        let index = sent % self.choices;
        match self.endpoint {
            Endpoint::Responses => responses::content(self, sent, text),
            Endpoint::Messages => messages::content(self, text),
            Endpoint::Completions => completions::content(opening, index, text),
            _ => chat::content(opening, index, text),
        }
    }

    /// The events after the text, those that go out together in one group.
    pub fn last(&self, opening: &Opening) -> Vec<Vec<Event>> {
        match self.endpoint {
            Endpoint::Responses => responses::last(self),
            Endpoint::Messages => messages::last(self),
            Endpoint::Completions => completions::last(self, opening),
            _ => chat::last(self, opening),
        }
    }
}

/// What all events of a stream share.
pub(super) struct Opening {
    /// What each begins with.
    pub prefix: String,
    /// Whether the usage was asked for.
    pub include_usage: bool,
}

/// An event of a stream.
pub(super) struct Event {
    /// Its `event` field, if it has one.
    pub name: Option<&'static str>,
    pub data: String,
}

impl Event {
    fn data(data: String) -> Self {
        Event { name: None, data }
    }
}

/// Appends the words of this range; ranges that follow on each other make up the whole text.
pub(super) fn push_words(out: &mut String, range: Range<u64>) {
    for word in range {
        let space = if word == 0 { "" } else { " " };
        push(out, format_args!("{space}tok{word}"));
    }
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
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
        let request = request::read(Endpoint::Chat, "application/json", body.to_string().as_bytes()).unwrap();
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
        let counts = Counts {
            prompt_tokens: 9,
            cached_tokens: 4,
            completion_tokens: 16,
            reasoning_tokens: 10,
            searches: 2,
            other: Usage::default(),
        };
        let usage = Usage {
            input: 5,
            cached_input: 4,
            output: 6,
            reasoning: 10,
            web_searches: 2,
            ..Usage::default()
        };
        assert_eq!(counts.usage(), usage);
    }
}
