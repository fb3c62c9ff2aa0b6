//! Money: exact amounts and unit prices in US dollars.
//!
//! An [`Amount`] counts units of 1e-18 USD in an `i128`; a [`UnitPrice`] counts units of 1e-15 USD
//! for one token, which is the same as nano-dollars for a million tokens. Both are read from and
//! printed as decimal strings. Nothing here rounds: what cannot be represented is refused.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};

/// Decimal places of an [`Amount`].
const AMOUNT_PLACES: u32 = 18;
/// Decimal places of a price for a million tokens.
const PRICE_PLACES: u32 = 9;
/// The dearest price: a billion dollars for a million tokens.
const PRICE_MAX: u64 = 1_000_000_000 * 10_u64.pow(PRICE_PLACES);
/// Units of an [`Amount`] in one unit of [`UnitPrice`] for one token.
const AMOUNT_PER_PRICE: i128 = 1_000;

/// An exact amount of US dollars, in units of 1e-18 USD. May be negative.
///
/// Arithmetic panics on overflow, which needs more than 1.7e20 USD: amounts from outside are
/// bounded by [`Amount::OUTSIDE_MAX`], so an overflow is a bug of ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(i128);

impl Amount {
    /// Nothing.
    pub const ZERO: Amount = Amount(0);
    /// The largest amount accepted from outside: a trillion US dollars.
    pub const OUTSIDE_MAX: Amount = Amount(1_000_000_000_000 * 10_i128.pow(AMOUNT_PLACES));

    /// From units of 1e-18 USD.
    pub const fn from_atto_usd(units: i128) -> Self {
        Amount(units)
    }

    /// In units of 1e-18 USD.
    pub const fn atto_usd(self) -> i128 {
        self.0
    }

    /// Reads a decimal string such as `25`, `0.0000315` or `-3.50`.
    ///
    /// # Errors
    /// When it is not a plain decimal number, has more than 18 places, or exceeds
    /// [`Amount::OUTSIDE_MAX`] on either side.
    pub fn parse(text: &str) -> Result<Self, MoneyError> {
        let units = parse_decimal(text, AMOUNT_PLACES)?;
        if units.abs() > Self::OUTSIDE_MAX.0 {
            return Err(MoneyError::TooLarge);
        }
        Ok(Amount(units))
    }

    fn print(self, printed: &mut Printed) -> &str {
        print_decimal(self.0, AMOUNT_PLACES, printed)
    }

    /// Whether it is below zero.
    pub fn is_negative(self) -> bool {
        self.0 < 0
    }
}

impl Add for Amount {
    type Output = Amount;
    fn add(self, other: Amount) -> Amount {
        Amount(self.0.checked_add(other.0).expect("amount overflow"))
    }
}

impl Sub for Amount {
    type Output = Amount;
    fn sub(self, other: Amount) -> Amount {
        Amount(self.0.checked_sub(other.0).expect("amount overflow"))
    }
}

impl Neg for Amount {
    type Output = Amount;
    fn neg(self) -> Amount {
        Amount(self.0.checked_neg().expect("amount overflow"))
    }
}

impl AddAssign for Amount {
    fn add_assign(&mut self, other: Amount) {
        *self = *self + other;
    }
}

impl SubAssign for Amount {
    fn sub_assign(&mut self, other: Amount) {
        *self = *self - other;
    }
}

impl Sum for Amount {
    fn sum<I: Iterator<Item = Amount>>(amounts: I) -> Amount {
        amounts.fold(Amount::ZERO, Add::add)
    }
}

/// Prints exactly, with at least two decimal places: `25.00`, `0.0000315`.
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.print(&mut Printed::default()))
    }
}

/// The price of one token, or of one of what else is sold, in units of 1e-15 USD: nano-dollars for a million.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitPrice(u64);

impl UnitPrice {
    /// Free of charge.
    pub const ZERO: UnitPrice = UnitPrice(0);

    /// Whether it is free of charge.
    pub const fn is_zero(&self) -> bool {
        self.0 == 0
    }

    /// Reads US dollars for a million tokens, such as `0.075`.
    ///
    /// # Errors
    /// When it is not a plain decimal number, is negative, has more than 9 places, or is above
    /// a billion dollars.
    pub fn parse_per_million(text: &str) -> Result<Self, MoneyError> {
        let units = parse_decimal(text, PRICE_PLACES)?;
        if units < 0 {
            return Err(MoneyError::Negative);
        }
        match u64::try_from(units) {
            Ok(units) if units <= PRICE_MAX => Ok(UnitPrice(units)),
            _ => Err(MoneyError::TooLarge),
        }
    }

    /// Reads US dollars for one, such as an image.
    ///
    /// # Errors
    /// As [`Self::parse_per_million`], of a thousand dollars.
    pub fn parse_each(text: &str) -> Result<Self, MoneyError> {
        Self::parse_per_million(text)?.scaled(1_000_000, 1)
    }

    /// Reads US dollars for sixty of them, such as the seconds of a minute.
    ///
    /// # Errors
    /// As [`Self::parse_each`], and when a sixtieth of it is not exact.
    pub fn parse_per_sixty(text: &str) -> Result<Self, MoneyError> {
        Self::parse_per_million(text)?.scaled(1_000_000, 60)
    }

    fn scaled(self, by: u64, parts: u64) -> Result<Self, MoneyError> {
        let units = self.0.checked_mul(by).ok_or(MoneyError::TooLarge)?;
        if units % parts != 0 {
            return Err(MoneyError::NotDivisible);
        }
        let units = units / parts;
        if units > PRICE_MAX { Err(MoneyError::TooLarge) } else { Ok(UnitPrice(units)) }
    }

    fn print(self, printed: &mut Printed) -> &str {
        print_decimal(i128::from(self.0), PRICE_PLACES, printed)
    }

    /// What so many cost. Exact.
    pub fn times(self, quantity: u64) -> Amount {
        let units = i128::from(self.0).checked_mul(i128::from(quantity));
        let units = units.and_then(|units| units.checked_mul(AMOUNT_PER_PRICE));
        Amount(units.expect("price overflow"))
    }
}

/// Prints US dollars for a million tokens, exactly: `0.075`.
impl fmt::Display for UnitPrice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.print(&mut Printed::default()))
    }
}

/// Why a text is not an amount or a price.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoneyError {
    /// Not of the form `-12.34`.
    NotDecimal,
    /// More decimal places than can be kept exactly.
    TooPrecise,
    /// Beyond what is accepted.
    TooLarge,
    /// Below zero where that has no meaning.
    Negative,
    /// Of a minute, a second of which has no exact price.
    NotDivisible,
}

impl fmt::Display for MoneyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MoneyError::NotDecimal => "must be a plain decimal number such as \"12.50\"",
            MoneyError::TooPrecise => "has more decimal places than can be kept exactly",
            MoneyError::TooLarge => "is too large",
            MoneyError::Negative => "must not be negative",
            MoneyError::NotDivisible => "has no exact price of a second: use a multiple of 0.000000003",
        })
    }
}

impl std::error::Error for MoneyError {}

fn parse_decimal(text: &str, places: u32) -> Result<i128, MoneyError> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match digits.split_once('.') {
        Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
        Some(_) => return Err(MoneyError::NotDecimal),
        None => (digits, ""),
    };
    let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) {
        return Err(MoneyError::NotDecimal);
    }
    let fraction = fraction.trim_end_matches('0');
    let missing =
        usize::try_from(places).expect("small").checked_sub(fraction.len()).ok_or(MoneyError::TooPrecise)?;
    let mut units = 0_i128;
    for digit in whole.bytes().chain(fraction.bytes()).chain(std::iter::repeat_n(b'0', missing)) {
        let grown = units.checked_mul(10).and_then(|u| u.checked_add(i128::from(digit - b'0')));
        units = grown.ok_or(MoneyError::TooLarge)?;
    }
    Ok(if negative { -units } else { units })
}

/// Digits of the largest `i128`, a point, a sign and a leading zero.
const PRINTED_BYTES_MAX: usize = 48;

/// Room on the stack: every receipt prints a dozen.
struct Printed([u8; PRINTED_BYTES_MAX]);

impl Default for Printed {
    fn default() -> Self {
        Printed([b'0'; PRINTED_BYTES_MAX])
    }
}

/// Prints from the last digit to the first.
fn print_decimal(units: i128, places: u32, Printed(buffer): &mut Printed) -> &str {
    let mut at = PRINTED_BYTES_MAX;
    let mut put = |byte| {
        at -= 1;
        buffer[at] = byte;
    };
    let mut rest = units.unsigned_abs();
    let mut kept = false;
    for place in (0..places).rev() {
        let digit = last_digit(&mut rest);
        kept |= digit != b'0' || place < 2;
        if kept {
            put(digit);
        }
    }
    put(b'.');
    put(last_digit(&mut rest));
    while rest > 0 {
        put(last_digit(&mut rest));
    }
    if units < 0 {
        put(b'-');
    }
    std::str::from_utf8(&buffer[at..]).expect("digits are ASCII")
}

/// Takes the last decimal digit off. Most numbers fit 64 bits, where division is quick.
fn last_digit(rest: &mut u128) -> u8 {
    let digit = match u64::try_from(*rest) {
        Ok(small) => {
            *rest = u128::from(small / 10);
            small % 10
        }
        Err(_) => {
            let digit = *rest % 10;
            *rest /= 10;
            u64::try_from(digit).expect("below ten")
        }
    };
    b'0' + u8::try_from(digit).expect("below ten")
}

macro_rules! as_decimal_string {
    ($type:ty, $parse:path) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.print(&mut Printed::default()))
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                $parse(&text).map_err(de::Error::custom)
            }
        }
    };
}
as_decimal_string!(Amount, Amount::parse);
as_decimal_string!(UnitPrice, UnitPrice::parse_per_million);

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Result<&str, MoneyError>) {
        let got = Amount::parse(text).map(|amount| amount.to_string());
        assert_eq!(got.as_deref().map_err(|e| *e), expect, "{text}");
    }

    #[test]
    fn amounts_print_what_they_read() {
        check("25", Ok("25.00"));
        check("0.0000315", Ok("0.0000315"));
        check("-3.5", Ok("-3.50"));
        check("0.000000000000000001", Ok("0.000000000000000001"));
        check("1.5000000000000000000000", Ok("1.50"));
        check("1000000000000", Ok("1000000000000.00"));
        check("123456789012.345678901234567891", Ok("123456789012.345678901234567891"));
        check("-0", Ok("0.00"));
        let most = Amount::from_atto_usd(i128::MIN).to_string();
        assert_eq!(most, "-170141183460469231731.687303715884105728");
        assert_eq!(format!("[{:>8}]", Amount::parse("1.5").unwrap()), "[    1.50]");
    }

    #[test]
    fn what_is_not_exact_is_refused() {
        for text in ["", "-", ".", "1.", ".5", "1e3", "+1", " 1", "1_000", "1,5", "--1", "\u{661}"] {
            check(text, Err(MoneyError::NotDecimal));
        }
        check("0.0000000000000000001", Err(MoneyError::TooPrecise));
        check("1000000000000.01", Err(MoneyError::TooLarge));
        check(&"9".repeat(60), Err(MoneyError::TooLarge));
        assert_eq!(UnitPrice::parse_per_million("-1"), Err(MoneyError::Negative));
        assert_eq!(UnitPrice::parse_per_million("0.0000000001"), Err(MoneyError::TooPrecise));
        assert_eq!(UnitPrice::parse_per_sixty("0.05"), Err(MoneyError::NotDivisible));
        assert_eq!(UnitPrice::parse_each("1001"), Err(MoneyError::TooLarge));
        assert_eq!(UnitPrice::parse_each("20000000000"), Err(MoneyError::TooLarge));
    }

    #[test]
    fn a_price_times_tokens_is_exact() {
        let price = UnitPrice::parse_per_million("0.075").unwrap();
        assert_eq!(price.times(1).to_string(), "0.000000075");
        assert_eq!(price.times(1_000_000).to_string(), "0.075");
        assert_eq!(UnitPrice::parse_each("0.04").unwrap().times(3).to_string(), "0.12");
        let minute = UnitPrice::parse_per_sixty("0.0045").unwrap();
        assert_eq!(
            (minute.times(1), minute.times(60)),
            (Amount::parse("0.000075").unwrap(), Amount::parse("0.0045").unwrap())
        );
        let largest = UnitPrice::parse_per_million("1000000000").unwrap();
        assert_eq!(largest.times(1_000_000_000).to_string(), "1000000000000.00");
    }

    #[test]
    fn json_holds_decimal_strings() {
        let amount = Amount::parse("0.1").unwrap();
        assert_eq!(serde_json::to_string(&amount).unwrap(), "\"0.10\"");
        assert_eq!(serde_json::from_str::<Amount>("\"0.10\"").unwrap(), amount);
        assert!(serde_json::from_str::<Amount>("0.1").is_err());
    }
}
