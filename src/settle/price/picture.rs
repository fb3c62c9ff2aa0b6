//! What an image looks like, as far as its price depends on that.

use super::Rates;
use crate::money::UnitPrice;
use serde::{Deserialize, Serialize};

/// The longest word about an image, in bytes: `1024x1792` and `standard` are some.
const WORD_BYTES_MAX: usize = 32;

/// What an image looks like, in the words of its provider; what is not said may be anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Picture {
    /// How large it is.
    pub size: Option<Box<str>>,
    /// How well it is made.
    pub quality: Option<Box<str>>,
}

/// The price of each image that looks so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PicturePrice {
    /// How; at least one of both.
    pub picture: Picture,
    /// Of each.
    pub each: UnitPrice,
}

impl Picture {
    /// From the words of a request or of an answer. `auto` says nothing, nor does what is too long for a word.
    pub fn said(size: Option<&str>, quality: Option<&str>) -> Self {
        let word = |said: Option<&str>| {
            let said = said.filter(|word| *word != "auto" && (1..=WORD_BYTES_MAX).contains(&word.len()));
            said.map(Into::into)
        };
        Picture { size: word(size), quality: word(quality) }
    }

    /// What this says, and where it says nothing the other.
    #[must_use]
    pub fn or(self, other: Picture) -> Self {
        Picture { size: self.size.or(other.size), quality: self.quality.or(other.quality) }
    }

    /// Whether it says nothing.
    pub const fn is_any(&self) -> bool {
        self.size.is_none() && self.quality.is_none()
    }

    fn both<'a>(&'a self, other: &'a Picture) -> [(Option<&'a str>, Option<&'a str>); 2] {
        [(self.size.as_deref(), other.size.as_deref()), (self.quality.as_deref(), other.quality.as_deref())]
    }

    /// Whether it says all that the other does.
    fn is(&self, other: &Picture) -> bool {
        self.both(other).into_iter().all(|(said, asked)| asked.is_none() || said == asked)
    }

    /// Whether it says nothing against the other.
    fn may_be(&self, other: &Picture) -> bool {
        self.both(other).into_iter().all(|(said, asked)| said.is_none() || asked.is_none() || said == asked)
    }
}

impl Rates {
    /// The price of an image that looks so, by what says most of it; `None` where that of any applies.
    pub fn of_picture(&self, picture: &Picture) -> Option<&PicturePrice> {
        let fit = self.pictures.iter().filter(|price| picture.is(&price.picture));
        fit.max_by_key(|PicturePrice { picture, .. }| {
            u8::from(picture.size.is_some()) + u8::from(picture.quality.is_some())
        })
    }

    /// The dearest that an image can be that is asked for so.
    pub fn picture_max(&self, asked: &Picture) -> UnitPrice {
        let fit = self.pictures.iter().filter(|price| asked.may_be(&price.picture));
        fit.map(|price| price.each).fold(self.unit.images, UnitPrice::max)
    }
}

#[cfg(test)]
mod tests {
    use super::super::UnitPrices;
    use super::*;

    fn each(text: &str) -> UnitPrice {
        UnitPrice::parse_each(text).unwrap()
    }

    fn rates() -> Rates {
        let price =
            |size, quality, text| PicturePrice { picture: Picture::said(size, quality), each: each(text) };
        Rates {
            unit: UnitPrices { images: each("0.04"), ..UnitPrices::default() },
            bands: Vec::new(),
            pictures: vec![
                price(Some("wide"), Some("hd"), "0.12"),
                price(Some("wide"), None, "0.08"),
                price(None, Some("hd"), "0.08"),
                price(None, Some("low"), "0.01"),
            ],
        }
    }

    fn check(size: Option<&str>, quality: Option<&str>, price: &str, max: &str) {
        let (rates, picture) = (rates(), Picture::said(size, quality));
        let found = rates.of_picture(&picture).map_or(rates.unit.images, |price| price.each);
        assert_eq!((found, rates.picture_max(&picture)), (each(price), each(max)), "{picture:?}");
    }

    #[test]
    fn what_says_most_of_an_image_is_its_price() {
        check(None, None, "0.04", "0.12");
        check(Some("auto"), Some(""), "0.04", "0.12");
        check(Some("square"), None, "0.04", "0.08");
        check(Some("square"), Some("standard"), "0.04", "0.04");
        check(Some("square"), Some("hd"), "0.08", "0.08");
        check(Some("wide"), Some("standard"), "0.08", "0.08");
        check(Some("wide"), Some("hd"), "0.12", "0.12");
        check(Some("wide"), None, "0.08", "0.12");
        check(Some("square"), Some("low"), "0.01", "0.04");
        check(Some(&"x".repeat(33)), Some("hd"), "0.08", "0.12");
    }
}
