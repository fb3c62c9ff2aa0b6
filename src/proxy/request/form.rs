//! A body of `multipart/form-data`: its fields and where they stand.
//!
//! Strict on purpose. The provider reads the same bytes with a parser of its own, and where two parsers
//! may differ, about a field that stands twice, odd quotes, an encoding, text around the parts, a client
//! could buy one model and have another metered: all of that is refused.

use super::BadRequest;
use super::fields::not_served;
use memchr::memmem;
use std::ops::Range;

/// Far more fields than any API has, with a dozen images among them.
const PARTS_MAX: usize = 256;
/// The longest header of a part.
const HEADER_BYTES_MAX: usize = 4 * 1024;
/// The longest boundary, as RFC 2046 has it.
const BOUNDARY_BYTES_MAX: usize = 70;

/// All fields, in order.
pub(super) struct Form<'a> {
    parts: Vec<Part<'a>>,
}

/// One field.
pub(super) struct Part<'a> {
    pub(super) name: &'a str,
    pub(super) kind: Kind,
    pub(super) value: &'a [u8],
    /// Where the value stands in the body.
    pub(super) place: Range<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    File,
}

/// The boundary, where the content type says that a body is a form.
///
/// # Errors
/// When it says so and gives no boundary, or an odd one.
pub(super) fn boundary(content_type: &str) -> Result<Option<&str>, BadRequest> {
    let mut parameters = content_type.split(';').map(str::trim);
    if !parameters.next().unwrap_or_default().eq_ignore_ascii_case("multipart/form-data") {
        return Ok(None);
    }
    let mut found = None;
    for parameter in parameters {
        let (name, value) = parameter.split_once('=').ok_or_else(|| odd("its content-type"))?;
        if name.eq_ignore_ascii_case("boundary") && found.replace(value).is_some() {
            return Err(odd("its content-type, which has two boundaries"));
        }
    }
    let value = found.ok_or_else(|| odd("its content-type, which has no boundary"))?;
    let bare = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    let plain = bare.bytes().all(|b| b.is_ascii_alphanumeric() || b"'()+_,-./:=?".contains(&b));
    match plain && (1..=BOUNDARY_BYTES_MAX).contains(&bare.len()) {
        true => Ok(Some(bare)),
        false => Err(odd("the boundary in its content-type")),
    }
}

impl<'a> Form<'a> {
    /// Reads the fields.
    ///
    /// # Errors
    /// When it is not such a form, or one that can be read in two ways.
    pub(super) fn read(body: &'a [u8], boundary: &str) -> Result<Self, BadRequest> {
        let delimiter = format!("\r\n--{boundary}");
        let finder = memmem::Finder::new(&delimiter);
        let mut at = opening(body, &delimiter)?;
        let mut parts: Vec<Part<'a>> = Vec::new();
        loop {
            let rest = &body[at..];
            if rest == b"--" || rest == b"--\r\n" {
                return Ok(Form { parts });
            }
            let rest = rest.strip_prefix(b"\r\n").ok_or_else(|| odd("what follows a boundary"))?;
            let start = at + 2;
            let length = finder.find(rest).ok_or_else(|| odd("its end, which is missing"))?;
            let part = part(&rest[..length], start)?;
            let twice = |before: &Part<'_>| before.name.eq_ignore_ascii_case(part.name);
            if !part.name.ends_with("[]") && parts.iter().any(twice) {
                return Err(not_served(&format_args!("the field `{}` stands twice", shown(part.name))));
            }
            if parts.len() == PARTS_MAX {
                return Err(odd("the number of its fields"));
            }
            parts.push(part);
            at = start + length + delimiter.len();
        }
    }

    /// A field of text.
    pub(super) fn text(&self, name: &str) -> Option<&Part<'a>> {
        self.parts.iter().find(|part| part.name == name && part.kind == Kind::Text)
    }

    /// All fields.
    pub(super) fn parts(&self) -> &[Part<'a>] {
        &self.parts
    }
}

/// Where the first boundary ends: nothing stands before it.
fn opening(body: &[u8], delimiter: &str) -> Result<usize, BadRequest> {
    let first = &delimiter[2..];
    body.starts_with(first.as_bytes()).then_some(first.len()).ok_or_else(|| odd("its beginning"))
}

/// A part with its header; `start` is where it stands in the body.
fn part(bytes: &[u8], start: usize) -> Result<Part<'_>, BadRequest> {
    let header = memmem::find(bytes, b"\r\n\r\n").filter(|length| *length <= HEADER_BYTES_MAX);
    let header = header.ok_or_else(|| odd("the header of a field"))?;
    let lines = std::str::from_utf8(&bytes[..header]).map_err(|_| odd("the header of a field"))?;
    let mut named = None;
    for line in lines.split("\r\n") {
        let (field, value) = line.split_once(':').ok_or_else(|| odd("the header of a field"))?;
        if field.eq_ignore_ascii_case("content-disposition") {
            if named.replace(disposition(value.trim())?).is_some() {
                return Err(odd("the header of a field, which has two names"));
            }
        } else if !["content-type", "content-length"]
            .into_iter()
            .any(|known| field.eq_ignore_ascii_case(known))
        {
            return Err(odd("the header of a field, which may say what it is and nothing more"));
        }
    }
    let (name, kind) = named.ok_or_else(|| odd("the header of a field, which has no name"))?;
    let place = start + header + 4..start + bytes.len();
    Ok(Part { name, kind, value: &bytes[header + 4..], place })
}

/// The name in `form-data; name="…"; filename="…"`, and whether it is of a file.
fn disposition(value: &str) -> Result<(&str, Kind), BadRequest> {
    let fault = || odd("the name of a field: write form-data; name=\"…\"");
    let mut rest = value.strip_prefix("form-data").ok_or_else(fault)?;
    let (mut name, mut kind) = (None, Kind::Text);
    while !rest.is_empty() {
        let parameter = rest.trim_start().strip_prefix(';').ok_or_else(fault)?.trim_start();
        let (key, after) = parameter.split_once('=').ok_or_else(fault)?;
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').ok_or_else(fault)?,
            None if key == "filename*" => after.split_at(after.find(';').unwrap_or(after.len())),
            None => return Err(fault()),
        };
        match key {
            "name" if name.is_none() && !value.is_empty() && !value.contains('\\') => name = Some(value),
            "filename" | "filename*" if !value.contains('\\') => kind = Kind::File,
            _ => return Err(fault()),
        }
        rest = after;
    }
    Ok((name.ok_or_else(fault)?, kind))
}

/// The client's word, which may be long.
pub(super) fn shown(name: &str) -> String {
    name.chars().take(40).collect()
}

fn odd(what: &str) -> BadRequest {
    not_served(&format_args!("as multipart/form-data, it is at fault in {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--b\r\n\
        content-disposition: form-data; name=\"file\"; filename=\"a b.wav\"\r\nContent-Type: audio/wav\r\n\r\nRI\r\nFF--b\r\n--b--\r\n";

    #[test]
    fn fields_are_found_where_they_stand() {
        let form = Form::read(GOOD.as_bytes(), "b").unwrap();
        let all: Vec<_> = form.parts().iter().map(|part| (part.name, part.kind, part.value)).collect();
        let file = b"RI\r\nFF--b";
        assert_eq!(all, [("model", Kind::Text, &b"whisper-1"[..]), ("file", Kind::File, file)]);
        assert_eq!(&GOOD[form.text("model").unwrap().place.clone()], "whisper-1");
        assert!(form.text("file").is_none());
        assert!(Form::read(GOOD.trim_end().as_bytes(), "b").is_ok(), "a last line end is not needed");
    }

    #[track_caller]
    fn check(from: &str, to: &str) {
        assert!(GOOD.contains(from), "{from}");
        let text = GOOD.replacen(from, to, 1);
        assert!(Form::read(text.as_bytes(), "b").is_err(), "{text}");
    }

    #[test]
    fn what_may_be_read_in_two_ways_is_refused() {
        check("--b\r\n", "preamble\r\n--b\r\n");
        check("--b--\r\n", "--b--\r\nepilogue");
        check("--b--\r\n", "--b");
        check("--b--\r\n", "--bb--\r\n");
        check("--b\r\n", "--b \r\n");
        check("--b\r\n", "--b\n");
        check("name=\"file\"; filename=\"a b.wav\"", "name=\"Model\"");
        check("name=\"model\"", "name=model");
        check("name=\"model\"", "name=\"mo\\\"del\"");
        check("name=\"model\"", "name=\"x\"; name=\"model\"");
        check("name=\"model\"", "name*=utf-8''model");
        check("name=\"model\"", "filename=\"model\"");
        check("name=\"model\"", "name=\"model\" x");
        check("form-data; name=\"model\"", "attachment; name=\"model\"");
        check("Content-Type: audio/wav", "Content-Transfer-Encoding: base64");
        check("Content-Type: audio/wav", "Content-Disposition: form-data; name=\"x\"");
        check("\r\n\r\nwhisper-1", "\r\nwhisper-1");
        assert!(Form::read(b"", "b").is_err());
        let again = GOOD.replace("--b--", "--b\r\ncontent-disposition: form-data; name=\"image[]\"\r\n\r\n1\r\n--b\r\ncontent-disposition: form-data; name=\"image[]\"\r\n\r\n2\r\n--b--");
        assert_eq!(Form::read(again.as_bytes(), "b").map(|form| form.parts().len()).ok(), Some(4));
    }

    #[test]
    fn the_boundary_is_in_the_content_type() {
        assert_eq!(boundary("application/json"), Ok(None));
        for good in
            ["multipart/form-data; boundary=x-1", "Multipart/Form-Data;charset=utf-8;BOUNDARY=\"x-1\""]
        {
            assert_eq!(boundary(good), Ok(Some("x-1")), "{good}");
        }
        for bad in
            ["", "; boundary=", "; boundary=a; boundary=b", "; boundary=\"a", "; boundary=a\u{e4}", "; x"]
        {
            assert!(boundary(&format!("multipart/form-data{bad}")).is_err(), "{bad}");
        }
        assert!(boundary(&format!("multipart/form-data; boundary={}", "x".repeat(71))).is_err());
    }

    /// Never a panic, and never a field that is not there, whatever is cut out.
    #[test]
    fn every_cut_is_refused() {
        for end in 0..GOOD.len() - 2 {
            assert!(Form::read(&GOOD.as_bytes()[..end], "b").is_err(), "{end}");
        }
    }
}
