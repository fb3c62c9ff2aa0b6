//! Where a setting stands in its file.
//!
//! The parsed YAML has no places. But an error that is raised while YAML is read gets the place of
//! the node at hand: so the text is read again, down to the wanted node, which then refuses itself.

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use std::cell::Cell;
use std::fmt;

/// One step from a node to one inside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The value at a key.
    Key(String),
    /// The item at an index.
    Item(usize),
}

/// The way from the root to a node; prints as `upstreams[0].base_url`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KeyPath(Vec<Step>);

impl KeyPath {
    pub(super) fn join(&self, step: Step) -> KeyPath {
        KeyPath(self.0.iter().cloned().chain([step]).collect())
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            let dot = if index == 0 { "" } else { "." };
            let is_plain = |key: &str| {
                !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
            };
            match step {
                Step::Key(key) if is_plain(key) => write!(f, "{dot}{key}")?,
                Step::Key(key) => write!(f, "{dot}{key:?}")?,
                Step::Item(item) => write!(f, "[{item}]")?,
            }
        }
        Ok(())
    }
}

/// What of a node is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// What is written there.
    Value,
    /// The key that leads there.
    Key,
}

/// A place in a text, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Place {
    /// Where a text starts.
    pub(super) const START: Place = Place { line: 1, column: 1 };

    /// Where the parser stopped.
    pub(super) fn of(error: &serde_yaml::Error) -> Place {
        let place =
            |location: serde_yaml::Location| Place { line: location.line(), column: location.column() };
        error.location().map_or(Place::START, place)
    }
}

/// The place of a node, or of the nearest around it that is written in the text.
pub(super) fn locate(text: &str, path: &KeyPath, aim: Aim) -> Place {
    let around = (0..path.0.len()).rev().map(|length| (&path.0[..length], Aim::Value));
    let mut candidates = std::iter::once((path.0.as_slice(), aim)).chain(around);
    candidates.find_map(|(steps, aim)| find(text, steps, aim)).unwrap_or(Place::START)
}

fn find(text: &str, steps: &[Step], aim: Aim) -> Option<Place> {
    let found = Cell::new(false);
    let deserializer = serde_yaml::Deserializer::from_str(text);
    let stopped = Descent { steps, aim, found: &found }.deserialize(deserializer).err()?;
    found.get().then(|| Place::of(&stopped))
}

/// Reads down to the wanted node and fails there. Failing elsewhere means it is not to be found.
#[derive(Clone, Copy)]
struct Descent<'a> {
    steps: &'a [Step],
    aim: Aim,
    found: &'a Cell<bool>,
}

impl<'a> Descent<'a> {
    fn arrive<T, E: Error>(&self) -> Result<T, E> {
        self.found.set(true);
        Err(E::custom("here"))
    }

    fn leaf<E: Error>(&self) -> Result<(), E> {
        if self.steps.is_empty() { self.arrive() } else { Ok(()) }
    }
}

impl<'de> DeserializeSeed<'de> for Descent<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Descent<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }
    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.leaf()
    }
    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.leaf()
    }
    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.leaf()
    }
    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.leaf()
    }
    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        self.leaf()
    }
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.leaf()
    }
    fn visit_none<E: Error>(self) -> Result<(), E> {
        self.leaf()
    }
    /// A node with a tag of its own, such as `!secret x`: nothing here has one.
    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        self.leaf()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        match self.steps {
            [] => return self.arrive(),
            [Step::Item(wanted), rest @ ..] => {
                for _ in 0..*wanted {
                    items.next_element::<IgnoredAny>()?;
                }
                items.next_element_seed(Descent { steps: rest, ..self })?;
            }
            [Step::Key(_), ..] => {}
        }
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        if self.steps.is_empty() {
            return self.arrive();
        }
        while let Some(key) = entries.next_key_seed(KeySeed(self))? {
            match self.steps {
                [Step::Key(wanted), rest @ ..] if key.as_ref() == Some(wanted) => {
                    entries.next_value_seed(Descent { steps: rest, ..self })?;
                }
                _ => {
                    entries.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// Reads a key; fails at it where the key itself is wanted.
struct KeySeed<'a>(Descent<'a>);

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = Option<String>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<String>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for KeySeed<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }
    fn visit_str<E: Error>(self, key: &str) -> Result<Option<String>, E> {
        match self.0.steps {
            [Step::Key(wanted)] if wanted == key && self.0.aim == Aim::Key => self.0.arrive(),
            _ => Ok(Some(key.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Step::{Item, Key};

    fn check(text: &str, steps: &[Step], aim: Aim, expect: (usize, usize)) {
        let path = KeyPath(steps.to_vec());
        let place = locate(text, &path, aim);
        assert_eq!((place.line, place.column), expect, "{aim:?} of {path} in:\n{text}");
    }

    fn key(text: &str) -> Step {
        Key(text.to_owned())
    }

    #[test]
    fn block_style() {
        let text = "# first\na:\n  b: 1\n  c:\n    - x\n    -  y: z\n  d:\n  - q\n\u{e4}: \u{e4}\n";
        check(text, &[], Aim::Value, (2, 1));
        check(text, &[key("a")], Aim::Value, (3, 3));
        check(text, &[key("a")], Aim::Key, (2, 1));
        check(text, &[key("a"), key("b")], Aim::Value, (3, 6));
        check(text, &[key("a"), key("b")], Aim::Key, (3, 3));
        check(text, &[key("a"), key("c")], Aim::Value, (5, 5));
        check(text, &[key("a"), key("c"), Item(0)], Aim::Value, (5, 7));
        check(text, &[key("a"), key("c"), Item(1)], Aim::Value, (6, 8));
        check(text, &[key("a"), key("c"), Item(1), key("y")], Aim::Value, (6, 11));
        check(text, &[key("a"), key("d"), Item(0)], Aim::Value, (8, 5));
        check(text, &[key("\u{e4}")], Aim::Value, (9, 4));
    }

    #[test]
    fn flow_style() {
        let text = "a: { b: 1, \"c\": [x, { y: z }],\n  d: 'q' }\n1: 2\n";
        check(text, &[key("a")], Aim::Value, (1, 4));
        check(text, &[key("a"), key("b")], Aim::Value, (1, 9));
        check(text, &[key("a"), key("c")], Aim::Key, (1, 12));
        check(text, &[key("a"), key("c")], Aim::Value, (1, 17));
        check(text, &[key("a"), key("c"), Item(1)], Aim::Value, (1, 21));
        check(text, &[key("a"), key("c"), Item(1), key("y")], Aim::Value, (1, 26));
        check(text, &[key("a"), key("d")], Aim::Value, (2, 6));
        check(text, &[key("1")], Aim::Value, (3, 4));
    }

    #[test]
    fn scalars_of_every_kind() {
        for value in ["true", "-1", "1", "1.5", "x", "'x'", "~", "|\n   x", "!t x", "!t { x: 1 }"] {
            check(&format!("a:\n  b: {value}\n"), &[key("a"), key("b")], Aim::Value, (2, 6));
        }
    }

    #[test]
    fn what_is_missing_is_at_its_parent() {
        check("a:\n  b: { c: 1 }\n", &[key("a"), key("b"), key("x")], Aim::Value, (2, 6));
        check("a:\n  b: [1]\n", &[key("a"), key("b"), Item(7)], Aim::Key, (2, 6));
        check("a:\n  b: 1\n", &[key("x"), key("b")], Aim::Value, (1, 1));
        check("", &[key("x")], Aim::Value, (1, 1));
    }

    #[test]
    fn paths_print_as_one_would_say_them() {
        let path = KeyPath(vec![key("a"), Item(0), key("b-1"), key("gpt-5.5")]);
        assert_eq!(path.to_string(), "a[0].b-1.\"gpt-5.5\"");
    }
}
