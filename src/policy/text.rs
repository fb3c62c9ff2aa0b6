//! The texts in the body of a request, as the model reads them: escapes undone.
//!
//! Every string value counts, wherever it stands, so that no field is a way around a judgement. What is
//! encoded in it does not: images and files in data URLs are no text.

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// Calls `each` with every text of a JSON body, in order. A body that is no JSON has none.
pub fn each_text(body: &[u8], each: &mut dyn FnMut(&str)) {
    let mut read = serde_json::Deserializer::from_slice(body);
    // What is wrong behind a text does not undo it, and is not ours to tell.
    let _ = Texts(each).deserialize(&mut read);
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
        if !text.starts_with("data:") {
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
        each_text(body.as_bytes(), &mut |text| found.push(text.to_owned()));
        assert_eq!(found, expect, "{body}");
    }

    #[test]
    fn texts_are_found_wherever_they_stand() {
        check(
            r#"{"model":"m","n":1,"x":null,"y":[true,-1,0.5],"messages":[{"content":[{"text":"b\u006fmb\n"}]}]}"#,
            &["m", "bomb\n"],
        );
        check(r#"{"image_url":{"url":"data:image/png;base64,aGk="},"input":["a","b"]}"#, &["a", "b"]);
        check(r#"{"input":"a","broken":"#, &["a"]);
        check("no JSON", &[]);
    }
}
