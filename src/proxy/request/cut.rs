//! Cutting an answer short: the cap that a request asks for is lowered to what can be paid.

use super::fields::{Fields, is_given};
use super::{Comes, Edit, Request};
use crate::admit::{Cut, Seen, Wanted, Work};
use crate::endpoint::Endpoint;
use memchr::memmem;

impl Request {
    /// What it asks for, and what may be done with its answer. What one that thinks costs is not seen as it
    /// comes: its thoughts may be told more shortly than they are billed.
    pub fn wanted(&self) -> Wanted<'_> {
        let cut = self.cut();
        let text = self.demand.work == Work::Text && self.comes == Comes::Events;
        let seen = if text && cut == Cut::Allowed { Seen::AsItComes } else { Seen::AtItsEnd };
        Wanted { demand: &self.demand, cut, seen }
    }

    /// Whether its answer may be cut. Images and audio have no cap; one that thinks for a number of tokens of its own choice needs a
    /// cap above that.
    fn cut(&self) -> Cut {
        let thinks = || memmem::find(&self.body, b"\"budget_tokens\"").is_some();
        let whole = self.demand.work != Work::Text || self.endpoint == Endpoint::Messages && thinks();
        if whole { Cut::Senseless } else { Cut::Allowed }
    }

    /// From now on, each answer is at most this long, in tokens.
    pub fn cut_to(&mut self, tokens: u64) {
        self.demand.output_tokens_max = Some(tokens);
        let fields = Fields::read(&self.body).expect("it was read before");
        self.cut_edits = edits(&fields, names(self.endpoint), tokens);
    }
}

/// The fields that cap an answer. The first is put in where none is.
const fn names(endpoint: Endpoint) -> &'static [&'static str] {
    match endpoint {
        Endpoint::Chat => &["max_completion_tokens", "max_tokens"],
        Endpoint::Responses => &["max_output_tokens"],
        Endpoint::Messages | Endpoint::Completions => &["max_tokens"],
        Endpoint::Embeddings
        | Endpoint::Moderations
        | Endpoint::ImageGenerations
        | Endpoint::ImageEdits
        | Endpoint::Speech
        | Endpoint::Transcriptions
        | Endpoint::Translations => &[],
    }
}

/// What is given is lowered; a provider may refuse two caps where the client gave one.
fn edits(fields: &Fields<'_>, names: &[&str], tokens: u64) -> Vec<Edit> {
    let lower = |name: &&str| Some((fields.place(fields.get(name)?), tokens.to_string().into_bytes()));
    let given: Vec<Edit> = names.iter().filter(|name| is_given(fields.get(name))).filter_map(lower).collect();
    if !given.is_empty() {
        return given;
    }
    let null = names.iter().find_map(lower);
    let put = || Some((fields.end(), format!(",\"{}\":{tokens}", names.first()?).into_bytes()));
    null.or_else(put).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[track_caller]
    fn check(endpoint: Endpoint, body: &str, expect: &str) {
        let mut request =
            Request::read(endpoint, "application/json", &Bytes::copy_from_slice(body.as_bytes())).unwrap();
        assert_eq!(request.cut(), Cut::Allowed);
        request.cut_to(20);
        assert_eq!(request.body_for("m"), expect);
        assert_eq!(request.demand.output_tokens_max, Some(20));
        // What goes out is read as what was held for.
        let cut = Request::read(endpoint, "application/json", &request.body_for("m")).unwrap();
        assert_eq!(cut.demand.output_tokens_max, Some(20));
    }

    #[test]
    fn the_cap_that_was_given_is_lowered_and_one_is_put_in_where_none_was() {
        const CHAT: &str = r#"{"model":"m","messages":[]"#;
        let chat = |fields: &str, expect: &str| {
            check(Endpoint::Chat, &format!("{CHAT}{fields}}}"), &format!("{CHAT}{expect}}}"));
        };
        chat("", r#","max_completion_tokens":20"#);
        chat(r#","max_tokens":99,"n":2"#, r#","max_tokens":20,"n":2"#);
        chat(
            r#","max_tokens":99,"max_completion_tokens": 98"#,
            r#","max_tokens":20,"max_completion_tokens": 20"#,
        );
        chat(r#","max_tokens":null"#, r#","max_tokens":20"#);
        chat(
            r#","max_tokens":null,"max_completion_tokens":98"#,
            r#","max_tokens":null,"max_completion_tokens":20"#,
        );
        chat(
            r#","stream":true"#,
            r#","stream":true,"stream_options":{"include_usage":true},"max_completion_tokens":20"#,
        );
        let prompt = |cap: &str| format!(r#"{{"model":"m","prompt":"a"{cap}}}"#);
        check(Endpoint::Completions, &prompt(""), &prompt(r#","max_tokens":20"#));
        let input = |cap: &str| format!(r#"{{"model":"m","input":"a"{cap}}}"#);
        check(Endpoint::Responses, &input(""), &input(r#","max_output_tokens":20"#));
        let messages = |cap: u64| format!(r#"{{"model":"m","max_tokens":{cap},"messages":[]}}"#);
        check(Endpoint::Messages, &messages(99), &messages(20));
    }

    #[test]
    fn an_answer_that_thinks_for_so_long_is_not_cut() {
        let body = r#"{"model":"m","max_tokens":2048,"messages":[],"thinking":{"type":"enabled","budget_tokens":1024}}"#;
        let request =
            Request::read(Endpoint::Messages, "application/json", &Bytes::from_static(body.as_bytes()))
                .unwrap();
        assert_eq!(request.cut(), Cut::Senseless);
    }
}
