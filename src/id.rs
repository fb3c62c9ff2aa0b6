//! Names of customers, keys and requests.
//!
//! Written as a prefix and hexadecimal digits: `cus_5d1f0c9a3b7e2468`, `key_…`, `req_…`. Randomness is an argument.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

const HEX: &[u8; 16] = b"0123456789abcdef";

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $int:ty, $prefix:literal, $digits:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($int);

        impl $name {
            /// From its number.
            pub const fn from_int(number: $int) -> Self {
                Self(number)
            }

            /// Its number.
            pub const fn int(self) -> $int {
                self.0
            }

            /// Reads what `Display` writes.
            pub fn parse(text: &str) -> Option<Self> {
                let digits = text.strip_prefix($prefix)?;
                let written = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
                if digits.len() != $digits || !digits.bytes().all(written) {
                    return None;
                }
                <$int>::from_str_radix(digits, 16).ok().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut text = [0; $prefix.len() + $digits];
                let (prefix, digits) = text.split_at_mut($prefix.len());
                prefix.copy_from_slice($prefix.as_bytes());
                let mut rest = self.0;
                for digit in digits.iter_mut().rev() {
                    *digit = HEX[usize::from(rest.to_le_bytes()[0] & 0xf)];
                    rest >>= 4;
                }
                f.pad(std::str::from_utf8(&text).expect("ASCII"))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(&text).ok_or_else(|| {
                    de::Error::custom(concat!("must be ", $prefix, " and ", $digits, " hexadecimal digits"))
                })
            }
        }
    };
}

id!(
    /// Who pays.
    CustomerId, u64, "cus_", 16
);
id!(
    /// A credential of a customer; never the credential itself.
    KeyId, u64, "key_", 16
);
id!(
    /// One request, and its hold. Begins with the millisecond of its making, so that ids sort by
    /// time.
    RequestId, u128, "req_", 32
);

impl RequestId {
    /// A new id from the wall clock in milliseconds and random bits, of which 80 are used.
    pub fn new(at_ms: u64, random: u128) -> Self {
        RequestId((u128::from(at_ms) << 80) | (random >> 48))
    }
}

/// The digest under which a key is known; the key itself is never stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyDigest(pub [u8; 32]);

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_as_written() {
        let id = RequestId::new(1_763_915_146_000, u128::MAX);
        assert_eq!(id.to_string(), "req_019ab1892310ffffffffffffffffffff");
        assert_eq!(RequestId::parse(&id.to_string()), Some(id));
        let customer = CustomerId::from_int(0x2a);
        assert_eq!(customer.to_string(), "cus_000000000000002a");
        for wrong in ["cus_2a", "key_000000000000002a", "cus_00000000000000+a", "cus_000000000000002A"] {
            assert_eq!(CustomerId::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn later_requests_sort_later() {
        assert!(RequestId::new(1, u128::MAX) < RequestId::new(2, 0));
    }
}
