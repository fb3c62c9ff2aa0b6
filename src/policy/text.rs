//! The texts in a request or an answer, as the model reads and writes them: escapes undone.
//!
//! Every string value counts, wherever it stands, so that no field is a way around a judgement. What is
//! encoded in it does not: images and files in data URLs are no text.

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// The longest piece of text that a provider is asked about: some thousand tokens.
const PIECE_BYTES_MAX: usize = 16 * 1024;
/// What a piece repeats of the one before it: what is cut by its end stands whole in the next.
const OVERLAP_BYTES: usize = 512;
/// The most pieces of one request.
const PIECES_MAX: usize = 64;
/// The longest kind of a file in a data URL.
const KIND_BYTES_MAX: usize = 128;

/// Something with texts in it.
#[derive(Clone, Copy, Debug)]
pub enum Text<'a> {
    /// A body of JSON. One that is none has no texts.
    Json(&'a [u8]),
    /// Text alone.
    Plain(&'a str),
}

/// Calls `each` with every text, in order.
pub fn each_text(text: Text<'_>, each: &mut dyn FnMut(&str)) {
    match text {
        Text::Plain(text) => each(text),
        Text::Json(body) => {
            let mut read = serde_json::Deserializer::from_slice(body);
            // What is wrong behind a text does not undo it, and is not ours to tell.
            let _ = Texts(each).deserialize(&mut read);
        }
    }
}

/// All texts in pieces of a bounded length, a text a line; nothing if these are too many. The pieces of a
/// long text overlap.
pub fn pieces(text: Text<'_>) -> Option<Vec<String>> {
    let mut pieces: Vec<String> = Vec::new();
    each_text(text, &mut |text| {
        let mut rest = text;
        while !rest.is_empty() && pieces.len() <= PIECES_MAX {
            let end = boundary(rest, PIECE_BYTES_MAX);
            let head = &rest[..end];
            match pieces.last_mut().filter(|last| last.len() + 1 + head.len() <= PIECE_BYTES_MAX) {
                Some(last) => {
                    last.push('\n');
                    last.push_str(head);
                }
                None => pieces.push(head.to_owned()),
            }
            let next = if end == rest.len() { end } else { boundary(rest, end - OVERLAP_BYTES) };
            rest = &rest[next..];
        }
    });
    (pieces.len() <= PIECES_MAX).then_some(pieces)
}

/// The last place between two letters that is not beyond `at`.
fn boundary(text: &str, at: usize) -> usize {
    let mut at = text.len().min(at);
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Whether a string is nothing but a file in a data URL.
fn is_file(text: &str) -> bool {
    let base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=-_".contains(&byte);
    let parts = text.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,"));
    parts.is_some_and(|(kind, data)| kind.len() <= KIND_BYTES_MAX && data.bytes().all(base64))
}

struct Texts<'a>(&'a mut dyn FnMut(&str));

impl<'de> DeserializeSeed<'de> for Texts<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Texts<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        if !is_file(text) {
            (self.0)(text);
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Texts(&mut *self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        while fields.next_key::<serde::de::IgnoredAny>()?.is_some() {
            fields.next_value_seed(Texts(&mut *self.0))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, expect: &[&str]) {
        let mut found = Vec::new();
        each_text(Text::Json(body.as_bytes()), &mut |text| found.push(text.to_owned()));
        assert_eq!(found, expect, "{body}");
    }

    #[test]
    fn texts_are_found_wherever_they_stand() {
        check(
            r#"{"model":"m","n":1,"x":null,"y":[true,-1,0.5],"messages":[{"content":[{"text":"b\u006fmb\n"}]}]}"#,
            &["m", "bomb\n"],
        );
        check(r#"{"image_url":{"url":"data:image/png;base64,aGk="},"input":["a","b"]}"#, &["a", "b"]);
        check(
            r#"{"input":["data:image/png;base64,aGk= and more","data: b"]}"#,
            &["data:image/png;base64,aGk= and more", "data: b"],
        );
        check(r#"{"input":"a","broken":"#, &["a"]);
        check("no JSON", &[]);
    }

    #[test]
    fn texts_come_in_pieces_of_a_bounded_length() {
        let pieces = |texts: &[&str]| {
            let body = serde_json::json!({ "input": texts }).to_string();
            super::pieces(Text::Json(body.as_bytes()))
        };
        assert_eq!(pieces(&["a", "b"]), Some(vec!["a\nb".to_owned()]));
        let long = "ä".repeat(PIECE_BYTES_MAX);
        let cut = pieces(&["x", &long, "y"]).unwrap();
        let lengths: Vec<usize> = cut.iter().map(String::len).collect();
        assert_eq!(
            lengths,
            [1, PIECE_BYTES_MAX, PIECE_BYTES_MAX, 2 * OVERLAP_BYTES + 2],
            "y is a line of the last"
        );
        let most = PIECE_BYTES_MAX + (PIECES_MAX - 1) * (PIECE_BYTES_MAX - OVERLAP_BYTES);
        let whole = "z".repeat(most);
        assert_eq!(pieces(&[&whole]).unwrap().len(), PIECES_MAX);
        assert_eq!((pieces(&[&whole, "z"]), pieces(&[&format!("z{whole}")])), (None, None));
        assert_eq!(super::pieces(Text::Plain("")), Some(Vec::new()));
    }

    /// Wherever a text is cut, what is no longer than the overlap stands whole in a piece.
    #[test]
    fn nothing_is_hidden_by_a_cut() {
        let said = "how to build a pipe bomb ü".repeat(18);
        assert!((480..=OVERLAP_BYTES).contains(&said.len()));
        let mut found = 0;
        for at in (0..3 * PIECE_BYTES_MAX).step_by(61).chain(PIECE_BYTES_MAX - 600..PIECE_BYTES_MAX + 1) {
            let text = format!("{}{said}{}", "ä".repeat(at / 2), "b".repeat(PIECE_BYTES_MAX));
            let pieces = super::pieces(Text::Plain(&text)).unwrap();
            assert!(pieces.iter().any(|piece| piece.contains(&said)), "{at}");
            found += 1;
        }
        assert!(found > 1_400, "{found}");
    }
}
