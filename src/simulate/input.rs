//! What a request gives to be read where it is not a chat: counted while it is read, never kept.

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

const BYTES_PER_TOKEN: u64 = 4;

/// A text, tokens, or a list of either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Input {
    /// Texts, or lists of tokens.
    pub texts: u64,
    /// Tokens of all of them together.
    pub tokens: u64,
    /// Tokens that stand here, not in a list further in.
    bare: u64,
}

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InputVisitor)
    }
}

struct InputVisitor;

impl<'de> Visitor<'de> for InputVisitor {
    type Value = Input;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, tokens, or an array of either")
    }

    fn visit_str<E>(self, text: &str) -> Result<Input, E> {
        let bytes = u64::try_from(text.len()).expect("64 bits hold a length");
        Ok(Input { texts: 1, tokens: bytes.div_ceil(BYTES_PER_TOKEN), bare: 0 })
    }

    fn visit_u64<E>(self, _: u64) -> Result<Input, E> {
        Ok(Input { texts: 0, tokens: 1, bare: 1 })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Input, A::Error> {
        let mut all = Input::default();
        while let Some(item) = items.next_element::<Input>()? {
            all.texts += item.texts;
            all.tokens += item.tokens;
            all.bare += item.bare;
        }
        // A list of tokens is a text.
        if std::mem::take(&mut all.bare) > 0 {
            all.texts += 1;
        }
        Ok(all)
    }

    fn visit_map<M: MapAccess<'de>>(self, mut fields: M) -> Result<Input, M::Error> {
        let mut all = Input { texts: 1, ..Input::default() };
        while let Some(name) = fields.next_key::<String>()? {
            if matches!(name.as_str(), "text" | "content") {
                all.tokens += fields.next_value::<Option<Input>>()?.unwrap_or_default().tokens;
            } else {
                fields.next_value::<IgnoredAny>()?;
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, texts: u64, tokens: u64) {
        let input: Input = serde_json::from_str(json).unwrap();
        assert_eq!((input.texts, input.tokens), (texts, tokens), "{json}");
    }

    #[test]
    fn texts_and_tokens_are_counted() {
        check(r#""hello""#, 1, 2);
        check(r#"["hello","you"]"#, 2, 3);
        check("[1,2,3]", 1, 3);
        check("[[1,2],[3]]", 2, 3);
        check(r#"[{"role":"user","content":[{"type":"input_text","text":"hello"}]},{"content":"a"}]"#, 2, 3);
    }
}
