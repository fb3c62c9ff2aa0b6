//! The fields of a request's body as they stand in its text, and how each kind of value is read.

use super::BadRequest;
use crate::settle::price::CachedFor;
use memchr::memmem::Finder;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::LazyLock;

/// Far more top-level fields than any API has: each is compared with those before it.
const FIELDS_MAX: usize = 256;

/// Fields by which some providers sell something else than the model at its price, or send the
/// request elsewhere.
const NOT_SOLD: [&str; 11] = [
    "models",
    "fallbacks",
    "route",
    "provider",
    "plugins",
    "transforms",
    "search_parameters",
    "api_base",
    "base_url",
    "api_key",
    "custom_llm_provider",
];

/// A wish for a cache of hours, or an escape that may hide one.
static HOURS: LazyLock<[Finder<'static>; 3]> =
    LazyLock::new(|| ["\"1h\"", "\"12h\"", "\\u00"].map(Finder::new));

/// A JSON object in order, and the text that it was read from.
pub(super) struct Fields<'a> {
    text: &'a str,
    all: Map<'a>,
}

impl<'a> Fields<'a> {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// When it is not a JSON object, or names a field twice.
    pub(super) fn read(body: &'a [u8]) -> Result<Self, BadRequest> {
        let text = std::str::from_utf8(body).map_err(|_| not_served(&"it is not UTF-8"))?;
        let all = serde_json::from_str(text).map_err(|why| not_served(&why))?;
        Ok(Fields { text, all })
    }

    /// A field as written.
    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.all.get(name)
    }

    /// The names of all of them.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.all.0.iter().map(|(name, _)| &**name)
    }

    /// A field that has to be there.
    pub(super) fn required(&self, name: &'static str) -> Result<&'a RawValue, BadRequest> {
        self.get(name).ok_or_else(|| bad(name, &format!("you must provide {name}")))
    }

    /// Lets any field pass but those that would change what is bought: the `metered` ones in other
    /// letters, which some providers take as well, and what is not sold anywhere.
    pub(super) fn check(&self, metered: &[&str]) -> Result<(), BadRequest> {
        self.all.check(metered)?;
        for (name, _) in &self.all.0 {
            if NOT_SOLD.into_iter().any(|other| other.eq_ignore_ascii_case(name)) {
                return Err(not_served(&format_args!("`{name}` is not sold by this gateway: leave it out")));
            }
        }
        Ok(())
    }

    /// Where a value stands in the text.
    pub(super) fn place(&self, value: &RawValue) -> Range<usize> {
        let start = value.get().as_ptr().addr() - self.text.as_ptr().addr();
        start..start + value.get().len()
    }

    /// Where a further field can be put, behind a comma.
    pub(super) fn end(&self) -> Range<usize> {
        let end = self.text.rfind('}').expect("a JSON object ends");
        end..end
    }

    /// For how long its input is to be cached, at most: what looks like a wish counts as one.
    pub(super) fn cached_for(&self) -> CachedFor {
        match HOURS.iter().any(|hours| hours.find(self.text.as_bytes()).is_some()) {
            true => CachedFor::Hours,
            false => CachedFor::Minutes,
        }
    }

    /// How long it is, in bytes: at least as many as its tokens of text.
    pub(super) fn bytes(&self) -> u64 {
        u64::try_from(self.text.len()).expect("usize fits")
    }
}

/// A JSON object in order, as it stands in the text.
pub(super) struct Map<'a>(pub(super) Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Map<'a> {
    /// A field as written.
    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| *value)
    }

    /// Lets any field pass but those that are `read` in other letters, which some providers take as well.
    pub(super) fn check(&self, read: &[&str]) -> Result<(), BadRequest> {
        for (name, _) in self.0.iter().filter(|(name, _)| !read.contains(&&**name)) {
            if let Some(meant) = read.iter().find(|read| read.eq_ignore_ascii_case(name)) {
                return Err(not_served(&format_args!("`{name}` is not a field: write `{meant}`")));
            }
        }
        Ok(())
    }
}

#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> serde::Deserialize<'de> for Map<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MapVisitor<'a>(PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for MapVisitor<'a> {
            type Value = Map<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Map<'a>, M::Error> {
                let mut fields: Vec<(Cow<'a, str>, _)> = Vec::with_capacity(16);
                while let Some(Name(name)) = map.next_key()? {
                    // Which of two counts differs between parsers, and some take `N` for `n`: that
                    // would be a way around the meter.
                    if fields.iter().any(|(before, _)| before.eq_ignore_ascii_case(&name)) {
                        return Err(de::Error::custom(format_args!("the field `{name}` stands twice")));
                    }
                    if fields.len() == FIELDS_MAX {
                        return Err(de::Error::custom("it has too many fields"));
                    }
                    fields.push((name, map.next_value()?));
                }
                Ok(Map(fields))
            }
        }
        deserializer.deserialize_map(MapVisitor(PhantomData))
    }
}

/// Reads an array one element after the other: none is kept, however many there are.
pub(super) fn each<'a>(
    name: &'static str,
    array: &'a RawValue,
    expected: &str,
    act: impl FnMut(&'a RawValue) -> Result<(), BadRequest>,
) -> Result<(), BadRequest> {
    struct Each<'r, F>(F, &'r mut Option<BadRequest>);
    impl<'de, F: FnMut(&'de RawValue) -> Result<(), BadRequest>> Visitor<'de> for Each<'_, F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }

        fn visit_seq<A: SeqAccess<'de>>(mut self, mut array: A) -> Result<(), A::Error> {
            while let Some(element) = array.next_element()? {
                if let Err(bad) = (self.0)(element) {
                    *self.1 = Some(bad);
                    return Err(de::Error::custom("an element is refused"));
                }
            }
            Ok(())
        }
    }
    let mut refused = None;
    let read = serde_json::Deserializer::from_str(array.get()).deserialize_seq(Each(act, &mut refused));
    match (refused, read) {
        (Some(bad), _) => Err(bad),
        (None, read) => read.map_err(|_| wrong_type(name, expected)),
    }
}

/// A value of this type; `expected` names it.
pub(super) fn typed<'a, T: serde::Deserialize<'a>>(
    name: &'static str,
    value: &'a RawValue,
    expected: &str,
) -> Result<T, BadRequest> {
    serde_json::from_str(value.get()).map_err(|_| wrong_type(name, expected))
}

/// A field that may be absent or null.
pub(super) fn optional<'a, T: serde::Deserialize<'a>>(
    name: &'static str,
    value: Option<&'a RawValue>,
    expected: &str,
) -> Result<Option<T>, BadRequest> {
    value.map_or(Ok(None), |value| typed(name, value, expected))
}

/// A whole number from 1 to `max`; `1e3` and `1.0` are none.
pub(super) fn whole(
    name: &'static str,
    value: Option<&RawValue>,
    max: u64,
) -> Result<Option<u64>, BadRequest> {
    let number: Option<u64> = optional(name, value, "a whole number")?;
    match number {
        Some(number) if !(1..=max).contains(&number) => Err(bad(name, &format!("must be from 1 to {max}"))),
        fits => Ok(fits),
    }
}

/// Whether a field is there and not null.
pub(super) fn is_given(value: Option<&RawValue>) -> bool {
    value.is_some_and(|value| value.get() != "null")
}

pub(super) fn bad(name: &'static str, message: &str) -> BadRequest {
    BadRequest { message: format!("{name}: {message}"), param: Some(name) }
}

pub(super) fn not_sold(name: &'static str, what: &str) -> BadRequest {
    bad(name, &format!("{what} not sold by this gateway: leave it out"))
}

/// A tool or an item of a type that is not known: that is the client's word, and may be long.
pub(super) fn type_not_sold(name: &'static str, what: &str, kind: &str) -> BadRequest {
    let kind: String = kind.chars().take(40).collect();
    not_sold(name, &format!("{what} of type `{kind}` is"))
}

pub(super) fn wrong_type(name: &'static str, expected: &str) -> BadRequest {
    bad(name, &format!("must be {expected}"))
}

pub(super) fn not_served(why: &dyn fmt::Display) -> BadRequest {
    BadRequest { message: format!("the body of the request is not what can be served: {why}"), param: None }
}
