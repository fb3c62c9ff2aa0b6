//! Text where a value may be a string, a list of parts, or something else.

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

/// The text in a JSON value, of whatever type: of a string itself, of a list that of its items, of
/// an object that under `text`, `refusal`, `thinking`, `content`, `arguments` and `output`. Anything else has none.
///
/// So a surprising type costs the text of one field and never the reading of the whole event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::meter) struct Text<'a> {
    /// Borrowed when it is one string without escapes.
    pub text: Cow<'a, str>,
    /// Objects with an `image_url` or a `source`.
    pub images: u64,
    /// Whole numbers: tokens, where a list of them stands for a text.
    pub numbers: u64,
}

impl<'a> Text<'a> {
    fn append(&mut self, more: Text<'a>) {
        self.images += more.images;
        self.numbers += more.numbers;
        if self.text.is_empty() {
            self.text = more.text;
        } else {
            self.text.to_mut().push_str(&more.text);
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
        Ok(Text { text: Cow::Borrowed(text), ..Text::default() })
    }

    fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
        Ok(Text { text: Cow::Owned(text.to_owned()), ..Text::default() })
    }

    fn visit_bool<E>(self, _: bool) -> Result<Text<'de>, E> {
        Ok(Text::default())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Text<'de>, E> {
        Ok(Text::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Text<'de>, E> {
        Ok(Text { numbers: 1, ..Text::default() })
    }

    fn visit_f64<E>(self, _: f64) -> Result<Text<'de>, E> {
        Ok(Text::default())
    }

    fn visit_unit<E>(self) -> Result<Text<'de>, E> {
        Ok(Text::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Text<'de>, A::Error> {
        let mut all = Text::default();
        while let Some(item) = items.next_element::<Text<'de>>()? {
            all.append(item);
        }
        Ok(all)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Text<'de>, A::Error> {
        let mut all = Text::default();
        while let Some(key) = fields.next_key::<PartKey>()? {
            match key {
                PartKey::Text
                | PartKey::Refusal
                | PartKey::Thinking
                | PartKey::Content
                | PartKey::Arguments
                | PartKey::Output => all.append(fields.next_value()?),
                PartKey::ImageUrl | PartKey::Source => {
                    fields.next_value::<IgnoredAny>()?;
                    all.images += 1;
                }
                PartKey::Other => {
                    fields.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(all)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum PartKey {
    Text,
    Refusal,
    Thinking,
    /// Of a message, or of the result of a tool.
    Content,
    /// Of the call of a tool.
    Arguments,
    /// What a tool gave.
    Output,
    ImageUrl,
    /// Of an image in a message of Anthropic's.
    Source,
    #[serde(other)]
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, text: &str, images: u64) {
        let read: Text<'_> = serde_json::from_str(json).expect(json);
        assert_eq!((&*read.text, read.images), (text, images), "{json}");
    }

    #[test]
    fn any_value() {
        check(r#""plain""#, "plain", 0);
        check(r#""esc\u0061ped\n""#, "escaped\n", 0);
        for other in ["null", "1", "-1", "1.5", "true", "{}", "[]", r#"{"type":"text"}"#] {
            check(other, "", 0);
        }
        check(
            r#"[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"data:b"}},"c"]"#,
            "ac",
            1,
        );
        check(r#"[{"thinking":[{"text":"x"}]},{"refusal":"y"},{"te\u0078t":"z"}]"#, "xyz", 0);
    }

    #[test]
    fn tokens_that_stand_for_a_text_are_counted() {
        let read: Text<'_> = serde_json::from_str("[[1,2],[3],\"x\",-1,0.5]").expect("valid");
        assert_eq!((&*read.text, read.numbers), ("x", 3));
    }

    #[test]
    fn borrows_a_plain_string() {
        let read: Text<'_> = serde_json::from_str(r#"[{"text":"plain"}]"#).expect("valid");
        assert!(matches!(read.text, Cow::Borrowed("plain")));
    }
}
