//! Redaction: what a provider's error says of the operator's account is not for the client.

use std::ops::Range;

/// What names an account at a provider, and what stands in its place.
const NAMES: [(&[u8], &[u8]); 3] = [(b"org-", b"org-..."), (b"proj_", b"proj_..."), (b"sk-", b"sk-...")];
/// Shorter than any name: what follows `sk-` in a word is no key then.
const NAME_BYTES_MIN: usize = 6;

/// `text` without the names of accounts and keys, masked ones included; `None` if it has none.
pub fn redact(text: &[u8]) -> Option<Vec<u8>> {
    let mut redacted = Vec::new();
    let mut from = 0;
    while let Some((place, instead)) = find(text, from) {
        redacted.extend_from_slice(&text[from..place.start]);
        redacted.extend_from_slice(instead);
        from = place.end;
    }
    if from == 0 {
        return None;
    }
    redacted.extend_from_slice(&text[from..]);
    Some(redacted)
}

fn find(text: &[u8], from: usize) -> Option<(Range<usize>, &'static [u8])> {
    (from..text.len()).find_map(|start| {
        let begins_word = start == 0 || !text[start - 1].is_ascii_alphanumeric();
        let (name, instead) =
            NAMES.into_iter().find(|(name, _)| begins_word && text[start..].starts_with(name))?;
        let rest = &text[start + name.len()..];
        let length = rest.iter().take_while(|byte| is_of_name(**byte)).count();
        (length >= NAME_BYTES_MIN).then(|| (start..start + name.len() + length, instead))
    })
}

fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Option<&str>) {
        let redacted = redact(text.as_bytes()).map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(redacted.as_deref(), expect, "{text}");
    }

    #[test]
    fn names_of_accounts_and_keys_are_taken_out() {
        check("in organization org-SECRETORG on tokens", Some("in organization org-... on tokens"));
        check("key provided: sk-up************cret.\"", Some("key provided: sk-....\""));
        check("org-abcdef12,proj_abcdef12", Some("org-...,proj_..."));
        check("nothing of the sort: a task-oriented org-chart, risk-averse", None);
        check("", None);
    }
}
