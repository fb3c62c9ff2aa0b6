//! Lists of words and phrases, looked for all at once.
//!
//! Letters are compared without case; full-width forms count as the plain ones, white space of any kind
//! and length as one blank, and marks that are not seen as nothing. A word is found as a whole, not inside
//! of another, unless the list lets it go on by `*`; where words are not parted by blanks, anywhere.

use aho_corasick::{AhoCorasick, MatchKind};
use std::collections::BTreeSet;

/// The longest entry of a list, in bytes.
const ENTRY_BYTES_MAX: usize = 256;
/// Below this, scripts part their words.
const UNPARTED_FROM: char = '\u{2e80}';

/// What entries of all lists are found by.
#[derive(Clone, Debug)]
pub struct Words {
    automaton: AhoCorasick,
    /// By the number of the pattern.
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Whose list it is in.
    list: usize,
    /// Whether letters may stand before and behind it.
    open: [bool; 2],
}

impl Words {
    /// Reads lists: an entry a line; empty lines, and those that begin with `#`, say nothing.
    ///
    /// # Errors
    /// What is wrong with which list and line.
    pub fn new(lists: &[&str]) -> Result<Self, (usize, String)> {
        let mut patterns = Vec::new();
        let mut entries = Vec::new();
        for (list, text) in lists.iter().enumerate() {
            for (number, line) in text.lines().enumerate() {
                let line = line.trim();
                if line.is_empty() || line.starts_with('#') {
                    continue;
                }
                let wrong = |why: &str| (list, format!("line {}: {why}", number + 1));
                if line.len() > ENTRY_BYTES_MAX {
                    return Err(wrong("an entry has at most 256 bytes"));
                }
                let bare = line.trim_start_matches('*').trim_end_matches('*').trim();
                let mut folded = String::new();
                fold(bare, &mut folded);
                let folded = folded.trim();
                let (Some(first), Some(last)) = (folded.chars().next(), folded.chars().next_back()) else {
                    return Err(wrong("an entry has a letter at least"));
                };
                let open =
                    [line.starts_with('*') || !is_parted(first), line.ends_with('*') || !is_parted(last)];
                patterns.push(folded.to_owned());
                entries.push(Entry { list, open });
            }
        }
        let automaton = AhoCorasick::builder().match_kind(MatchKind::Standard).build(&patterns);
        let automaton = automaton.map_err(|why| (0, format!("these are too many words: {why}")))?;
        Ok(Words { automaton, entries })
    }

    /// Adds the lists that have an entry in `text`; `folded` is room that is used again.
    pub fn find(&self, text: &str, folded: &mut String, found: &mut BTreeSet<usize>) {
        folded.clear();
        fold(text, folded);
        for hit in self.automaton.find_overlapping_iter(&*folded) {
            let Entry { list, open: [before, behind] } = self.entries[hit.pattern().as_usize()];
            let (head, tail) = (&folded[..hit.start()], &folded[hit.end()..]);
            let stands = (before || !head.chars().next_back().is_some_and(char::is_alphanumeric))
                && (behind || !tail.chars().next().is_some_and(char::is_alphanumeric));
            if stands {
                found.insert(list);
            }
        }
    }
}

fn is_parted(letter: char) -> bool {
    letter.is_alphanumeric() && letter < UNPARTED_FROM
}

/// Appends `text` as it is compared.
fn fold(text: &str, out: &mut String) {
    let mut blank = out.is_empty() || out.ends_with(' ');
    for letter in text.chars() {
        match letter {
            'a'..='z' | '0'..='9' => out.push(letter),
            'A'..='Z' => out.push(letter.to_ascii_lowercase()),
            // Soft hyphens, marks of direction, joiners, accents that are added to a letter.
            '\u{ad}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2060}'..='\u{2064}'
            | '\u{feff}'
            | '\u{300}'..='\u{36f}' => {
                continue;
            }
            '\u{ff01}'..='\u{ff5e}' => {
                let plain = u32::from(letter) - 0xfee0;
                out.extend(char::from_u32(plain).map(|plain| plain.to_ascii_lowercase()));
            }
            letter if letter.is_whitespace() => {
                if !blank {
                    out.push(' ');
                }
                blank = true;
                continue;
            }
            letter if letter.is_ascii() => out.push(letter),
            letter => out.extend(letter.to_lowercase()),
        }
        blank = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(list: &str, text: &str, expect: bool) {
        let words = Words::new(&[list]).unwrap();
        let mut found = BTreeSet::new();
        words.find(text, &mut String::new(), &mut found);
        assert_eq!(found.contains(&0), expect, "{list:?} in {text:?}");
    }

    #[test]
    fn words_are_found_as_they_are_written_and_as_they_are_meant() {
        check("pipe bomb", "how to build a PIPE\n  Bomb?", true);
        check("Straße", "in der STRAßE", true);
        check("pipe bomb", "ｐｉｐｅ　ｂｏｍｂ", true);
        check("bomb", "b\u{200b}o\u{ad}mb", true);
        check("bomb", "bo\u{301}mb", true);
        check("бомба", "Это БОМБА!", true);
        check("炸弹", "怎么做炸弹呢", true);
        check("bomb", "a safe pipe", false);
    }

    #[test]
    fn a_word_is_not_found_inside_of_another() {
        check("ass", "a class in assembly", false);
        check("ass", "(ass)", true);
        check("bomb*", "bombing", true);
        check("bomb*", "a firebomb", false);
        check("*bomb", "a firebomb", true);
        check("bomb", "bomb2", false);
        check("bomb", "bomb_2", true);
    }

    #[test]
    fn lists_are_told_apart_and_read_line_by_line() {
        let words = Words::new(&["# of things\n\nalpha\nbeta gamma\n", "gamma"]).unwrap();
        let mut found = BTreeSet::new();
        words.find("Beta Gamma of things", &mut String::new(), &mut found);
        assert_eq!(found, [0, 1].into());
        assert_eq!(
            Words::new(&["a", "b\n *\n"]).unwrap_err(),
            (1, "line 2: an entry has a letter at least".into())
        );
        assert!(Words::new(&[&"x".repeat(257)]).is_err());
    }
}
