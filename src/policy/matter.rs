//! What of a request or an answer a provider's moderation is asked about: texts in pieces, and images.

use super::text::{Found, Text, each_found, image_of};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The longest piece of text that a provider is asked about: some thousand tokens.
const PIECE_BYTES_MAX: usize = 16 * 1024;
/// What a piece repeats of the one before it: what is cut by its end stands whole in the next.
const OVERLAP_BYTES: usize = 512;
/// The most pieces of one request.
const PIECES_MAX: usize = 64;
/// What tells a kind of image, in bytes: three of them are four letters.
const BEGINNING_BYTES: usize = 12;

/// What a provider is asked about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matter {
    /// All texts in pieces of a bounded length, a text a line. The pieces of a long text overlap.
    pub texts: Vec<String>,
    /// Images by their URLs, which may be of data.
    pub images: Vec<String>,
}

/// There is more text or are more images than a provider is asked about, or something else than these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;

impl Matter {
    /// What is in `text`, and in `files` beside it.
    ///
    /// # Errors
    /// When not all of it can be asked about.
    pub fn read<'a>(
        text: Text<'_>,
        files: impl Iterator<Item = &'a [u8]>,
        images_max: usize,
    ) -> Result<Matter, Unreadable> {
        let (mut matter, mut other) = (Matter::default(), false);
        each_found(text, &mut |found| match found {
            Found::Text(text) => matter.text(text),
            // Not kept beyond what is asked about.
            Found::Image(_) if matter.images.len() >= images_max => other = true,
            Found::Image(url) => matter.images.push(url.into_owned()),
            Found::File => other = true,
        });
        for file in files {
            let begins = STANDARD.encode(&file[..file.len().min(BEGINNING_BYTES)]);
            if image_of(&begins).is_none() || matter.images.len() >= images_max {
                return Err(Unreadable);
            }
            matter.images.extend(image_of(&STANDARD.encode(file)));
        }
        if other || matter.texts.len() > PIECES_MAX { Err(Unreadable) } else { Ok(matter) }
    }

    fn text(&mut self, text: &str) {
        let mut rest = text;
        while !rest.is_empty() && self.texts.len() <= PIECES_MAX {
            let end = boundary(rest, PIECE_BYTES_MAX);
            let head = &rest[..end];
            match self.texts.last_mut().filter(|last| last.len() + 1 + head.len() <= PIECE_BYTES_MAX) {
                Some(last) => {
                    last.push('\n');
                    last.push_str(head);
                }
                None => self.texts.push(head.to_owned()),
            }
            let next = if end == rest.len() { end } else { boundary(rest, end - OVERLAP_BYTES) };
            rest = &rest[next..];
        }
    }
}

/// The last place between two letters that is not beyond `at`.
fn boundary(text: &str, at: usize) -> usize {
    let mut at = text.len().min(at);
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: Text<'_>, files: &[&[u8]], images_max: usize) -> Result<Matter, Unreadable> {
        Matter::read(text, files.iter().copied(), images_max)
    }

    #[test]
    fn texts_come_in_pieces_of_a_bounded_length() {
        let pieces = |texts: &[&str]| {
            let body = serde_json::json!({ "input": texts }).to_string();
            read(Text::Json(body.as_bytes()), &[], 0).map(|matter| matter.texts)
        };
        assert_eq!(pieces(&["a", "b"]), Ok(vec!["a\nb".to_owned()]));
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
        assert_eq!(
            (pieces(&[&whole, "z"]), pieces(&[&format!("z{whole}")])),
            (Err(Unreadable), Err(Unreadable))
        );
        assert_eq!(read(Text::Plain(""), &[], 0), Ok(Matter::default()));
    }

    /// Wherever a text is cut, what is no longer than the overlap stands whole in a piece.
    #[test]
    fn nothing_is_hidden_by_a_cut() {
        let said = "how to build a pipe bomb ü".repeat(18);
        assert!((480..=OVERLAP_BYTES).contains(&said.len()));
        let mut found = 0;
        for at in (0..3 * PIECE_BYTES_MAX).step_by(61).chain(PIECE_BYTES_MAX - 600..PIECE_BYTES_MAX + 1) {
            let text = format!("{}{said}{}", "ä".repeat(at / 2), "b".repeat(PIECE_BYTES_MAX));
            let pieces = read(Text::Plain(&text), &[], 0).unwrap().texts;
            assert!(pieces.iter().any(|piece| piece.contains(&said)), "{at}");
            found += 1;
        }
        assert!(found > 1_400, "{found}");
    }
    #[test]
    fn images_are_asked_about_up_to_a_bound_and_nothing_else_is() {
        let png = b"\x89PNG\r\n\x1a\nrest";
        let url = "data:image/png;base64,iVBORw0KGgpyZXN0";
        let body = r#"{"prompt":"a","image_url":"https://a.example/b"}"#;
        let body = Text::Json(body.as_bytes());
        let both = read(body, &[png], 2).unwrap();
        assert_eq!(both.images, ["https://a.example/b", url]);
        assert_eq!(both.texts, ["a\nhttps://a.example/b"]);
        assert_eq!(read(body, &[png], 1), Err(Unreadable));
        assert_eq!(read(body, &[], 0), Err(Unreadable));
        for other in [&b"RIFF0000WAVE"[..], b"%PDF", b"", b"\x89PN"] {
            assert_eq!(read(Text::Plain(""), &[other], 9), Err(Unreadable), "{other:?}");
        }
        for image in [&b"\xff\xd8\xff\xe0"[..], b"GIF89a", b"RIFF0000WEBP"] {
            assert_eq!(read(Text::Plain(""), &[image], 9).unwrap().images.len(), 1, "{image:?}");
        }
    }
}
