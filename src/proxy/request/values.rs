//! The fields of a request that may come as JSON or as a form.

use super::BadRequest;
use super::fields::not_served;
use super::fields::{Fields, bad, optional, whole, wrong_type};
use super::form::{Form, Kind, Part, shown};
use std::borrow::Cow;
use std::ops::Range;

/// A request's body, read as far as its fields.
pub(super) enum Values<'a> {
    Json(Fields<'a>),
    Form(Form<'a>),
}

impl<'a> Values<'a> {
    /// As [`Fields::check`]: lets any field pass but the `metered` ones written otherwise.
    pub(super) fn check(&self, metered: &[&str]) -> Result<(), BadRequest> {
        match self {
            Values::Json(fields) => fields.check(metered),
            Values::Form(form) => {
                for part in form.parts().iter().filter(|part| !metered.contains(&part.name)) {
                    // `model[]` or `model[0]` is a model to some.
                    let base = part.name.split('[').next().unwrap_or_default();
                    if let Some(meant) = metered.iter().find(|metered| metered.eq_ignore_ascii_case(base)) {
                        let name = shown(part.name);
                        return Err(not_served(&format_args!("`{name}` is not a field: write `{meant}`")));
                    }
                }
                Ok(())
            }
        }
    }

    /// A string.
    pub(super) fn string(&self, name: &'static str) -> Result<Option<Cow<'a, str>>, BadRequest> {
        match self {
            Values::Json(fields) => optional(name, fields.get(name), "a string"),
            Values::Form(form) => {
                let text = form.text(name).map(|part| std::str::from_utf8(part.value));
                text.transpose().map(|text| text.map(Cow::Borrowed)).map_err(|_| wrong_type(name, "text"))
            }
        }
    }

    /// A string that has to be there.
    pub(super) fn required(&self, name: &'static str) -> Result<Cow<'a, str>, BadRequest> {
        self.string(name)?.ok_or_else(|| bad(name, &format!("you must provide {name}")))
    }

    /// A whole number from 1 to `max`.
    pub(super) fn whole(&self, name: &'static str, max: u64) -> Result<Option<u64>, BadRequest> {
        let Values::Json(fields) = self else {
            let Some(text) = self.string(name)? else { return Ok(None) };
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            let number = text.parse().ok().filter(|number| digits && (1..=max).contains(number));
            return number.map(Some).ok_or_else(|| bad(name, &format!("must be from 1 to {max}")));
        };
        whole(name, fields.get(name), max)
    }

    /// Whether it says `true`.
    pub(super) fn switch(&self, name: &'static str) -> Result<bool, BadRequest> {
        match self {
            Values::Json(fields) => Ok(optional(name, fields.get(name), "true or false")? == Some(true)),
            Values::Form(_) => match self.string(name)?.as_deref() {
                None | Some("false" | "False" | "0") => Ok(false),
                Some("true" | "True" | "1") => Ok(true),
                Some(_) => Err(wrong_type(name, "true or false")),
            },
        }
    }

    /// Whether a field is there and says something.
    pub(super) fn is_given(&self, name: &str) -> bool {
        match self {
            Values::Json(fields) => super::fields::is_given(fields.get(name)),
            Values::Form(form) => form.parts().iter().any(|part| part.name.split('[').next() == Some(name)),
        }
    }

    /// Where the value of a field stands.
    pub(super) fn place(&self, name: &str) -> Option<Range<usize>> {
        match self {
            Values::Json(fields) => fields.get(name).map(|value| fields.place(value)),
            Values::Form(form) => form.text(name).map(|part| part.place.clone()),
        }
    }

    /// Bytes of all text: at least as many as its tokens.
    pub(super) fn text_bytes(&self) -> u64 {
        match self {
            Values::Json(fields) => fields.bytes(),
            Values::Form(form) => {
                let texts = form.parts().iter().filter(|part| part.kind == Kind::Text);
                texts.map(|part| length(part.value)).sum()
            }
        }
    }

    /// Each file in a form.
    pub(super) fn files(&self) -> impl Iterator<Item = &Part<'a>> {
        let parts = match self {
            Values::Json(_) => &[][..],
            Values::Form(form) => form.parts(),
        };
        parts.iter().filter(|part| part.kind == Kind::File)
    }
}

pub(super) fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("usize fits")
}
