//! What is in a request or an answer, as the model reads and writes it: texts, with escapes undone, and
//! images.
//!
//! Every string value counts, wherever it stands, so that no field is a way around a judgement. What is
//! encoded in it is no text. Images are found where the APIs that are sold have them: in data URLs, below
//! `image_url` and `source`, and in `b64_json`.

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

/// The longest kind of a file in a data URL.
const KIND_BYTES_MAX: usize = 128;

/// Something with texts in it.
#[derive(Clone, Copy, Debug)]
pub enum Text<'a> {
    /// A body of JSON, or of lines of it. One that is none has no texts.
    Json(&'a [u8]),
    /// Text alone.
    Plain(&'a str),
}

/// What is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A text.
    Text(&'a str),
    /// An image, by its URL, which may be one of data.
    Image(Cow<'a, str>),
    /// Another file, or one that is somewhere else.
    File,
}

/// Calls `each` with everything that is found, in order.
pub fn each_found(text: Text<'_>, each: &mut dyn FnMut(Found<'_>)) {
    match text {
        Text::Plain(text) => each(Found::Text(text)),
        Text::Json(body) => {
            let mut read = serde_json::Deserializer::from_slice(body);
            // What is wrong behind a text does not undo it, and is not ours to tell.
            while (Search { each: &mut *each, at: At::Plain }).deserialize(&mut read).is_ok() {}
        }
    }
}

/// Calls `each` with every text, in order.
pub fn each_text(text: Text<'_>, each: &mut dyn FnMut(&str)) {
    each_found(text, &mut |found| match found {
        Found::Text(text) => each(text),
        Found::Image(_) | Found::File => {}
    });
}

/// The kind of a file, if a string is nothing but that, in a data URL.
fn kind_of_file(text: &str) -> Option<&str> {
    let base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=-_".contains(&byte);
    let (kind, data) = text.strip_prefix("data:")?.split_once(";base64,")?;
    (kind.len() <= KIND_BYTES_MAX && data.bytes().all(base64)).then_some(kind)
}

/// The kind of an image by how it begins in base64.
fn kind_of_image(base64: &str) -> Option<&'static str> {
    let known = [("iVBORw0KGg", "image/png"), ("/9j/", "image/jpeg"), ("R0lGOD", "image/gif")];
    let found = known.into_iter().find(|(begins, _)| base64.starts_with(begins)).map(|(_, kind)| kind);
    // Sounds begin as this kind does.
    let is_webp = base64.starts_with("UklGR") && base64.get(12..16) == Some("RUJQ");
    found.or(is_webp.then_some("image/webp"))
}

/// An image as a URL of data, if these are the bytes of one.
pub fn image_of(base64: &str) -> Option<String> {
    kind_of_image(base64).map(|kind| format!("data:{kind};base64,{base64}"))
}

/// Where a value stands.
#[derive(Clone, Copy)]
enum At {
    Plain,
    /// It says where an image is, or an object below it does.
    Image,
    /// An object says where an image is, or has it.
    Source,
    /// It may be an image in base64.
    Encoded,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Key {
    ImageUrl,
    Url,
    Source,
    Data,
    B64Json,
    #[serde(other)]
    Other,
}

impl At {
    fn below(self, key: &Key) -> At {
        match (self, key) {
            (_, Key::ImageUrl) | (At::Image | At::Source, Key::Url) => At::Image,
            (_, Key::Source) => At::Source,
            (_, Key::B64Json) | (At::Source, Key::Data) => At::Encoded,
            (_, Key::Url | Key::Data | Key::Other) => At::Plain,
        }
    }
}

struct Search<'a> {
    each: &'a mut dyn FnMut(Found<'_>),
    at: At,
}

impl Search<'_> {
    fn below(&mut self, at: At) -> Search<'_> {
        Search { each: &mut *self.each, at }
    }

    fn text(&mut self, text: &str) {
        if let Some(kind) = kind_of_file(text) {
            let is_image = kind.get(..6).is_some_and(|begins| begins.eq_ignore_ascii_case("image/"));
            return (self.each)(if is_image { Found::Image(text.into()) } else { Found::File });
        }
        match self.at {
            At::Image => {
                let is_url = ["https://", "http://"].into_iter().any(|scheme| {
                    text.get(..scheme.len()).is_some_and(|begins| begins.eq_ignore_ascii_case(scheme))
                });
                (self.each)(if is_url { Found::Image(text.into()) } else { Found::File });
            }
            At::Encoded => {
                if let Some(image) = image_of(text) {
                    return (self.each)(Found::Image(image.into()));
                }
            }
            At::Plain | At::Source => {}
        }
        (self.each)(Found::Text(text));
    }
}

impl<'de> DeserializeSeed<'de> for Search<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Search<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_str<E: Error>(mut self, text: &str) -> Result<(), E> {
        self.text(text);
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

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        let at = self.at;
        while items.next_element_seed(self.below(at))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut fields: A) -> Result<(), A::Error> {
        while let Some(key) = fields.next_key::<Key>()? {
            let at = self.at.below(&key);
            fields.next_value_seed(self.below(at))?;
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
        check("{\"input\":\"a\"}\n{\"input\":\"b\"}\n\n[\"c\"]\n", &["a", "b", "c"]);
        check("no JSON", &[]);
    }

    /// Images are shown by their URL, other files as `-`.
    fn check_images(body: &str, expect: &[&str]) {
        let mut found = Vec::new();
        each_found(Text::Json(body.as_bytes()), &mut |what| match what {
            Found::Text(_) => {}
            Found::Image(url) => found.push(url.into_owned()),
            Found::File => found.push("-".into()),
        });
        assert_eq!(found, expect, "{body}");
    }

    #[test]
    fn images_are_found_in_each_dialect() {
        let url = "https://images.example/a.png";
        let (png, data) = ("iVBORw0KGgoAAA==", "data:image/png;base64,iVBORw0KGgoAAA==");
        for body in [
            r#"{"messages":[{"content":[{"type":"image_url","image_url":{"url":"URL","detail":"low"}}]}]}"#,
            r#"{"input":[{"content":[{"type":"input_image","image_url":"URL"}]}]}"#,
            r#"{"input":[{"content":[{"type":"input_image","image\u005furl":"URL"}]}]}"#,
            r#"{"messages":[{"content":[{"type":"image","source":{"type":"url","url":"URL"}}]}]}"#,
            r#"{"prompt":"x","images":[{"image_url":"URL"}]}"#,
            r#"{"input":[{"type":"image_url","image_url":{"url":"URL"}}]}"#,
        ] {
            check_images(&body.replace("URL", url), &[url]);
            check_images(&body.replace("URL", data), &[data]);
        }
        for body in [
            r#"{"messages":[{"content":[{"source":{"data":"PNG","type":"base64","media_type":"image/png"}}]}]}"#,
            r#"{"data":[{"b64_json":"PNG"}]}"#,
        ] {
            check_images(&body.replace("PNG", png), &[data]);
        }
    }

    #[test]
    fn what_is_no_image_is_a_file_or_a_text() {
        check_images(r#"{"file_data":"data:application/pdf;base64,aGk="}"#, &["-"]);
        check_images(r#"{"image_url":"file-1"}"#, &["-"]);
        // As if it were a picture: what is no picture is read.
        for body in [r#"{"source":{"data":"a bomb"}}"#, r#"{"b64_json":"a bomb"}"#, r#"{"url":"a bomb"}"#] {
            check_images(body, &[]);
            check(body, &["a bomb"]);
        }
        check(r#"{"image_url":"https://a.example/bomb"}"#, &["https://a.example/bomb"]);
    }
}
