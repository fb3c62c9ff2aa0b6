//! A Bloom filter: tells, from some bits a key, that a segment has nothing of a key.
//!
//! Ten bits a key and seven of them set let about one key in a hundred through that is not there.

use crate::id::{CustomerId, RequestId};

const BITS_PER_KEY: u64 = 10;
const PROBES: u64 = 7;

/// What is asked for, as two independent numbers.
#[derive(Clone, Copy, Debug)]
pub struct Hash(u64, u64);

impl Hash {
    /// Of a request.
    pub fn of_request(request: RequestId) -> Self {
        let bytes = request.int().to_le_bytes();
        let (low, high) = bytes.split_at(8);
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        Self::of(word(low), word(high))
    }

    /// Of a customer.
    pub fn of_customer(customer: CustomerId) -> Self {
        Self::of(customer.int(), u64::MAX)
    }

    fn of(low: u64, high: u64) -> Self {
        let first = mix(low ^ mix(high));
        // Odd, so that no two probes of one key meet early.
        Hash(first, mix(first) | 1)
    }
}

/// The filter. Its layout is part of a sidecar's format.
#[derive(Debug)]
pub struct Filter {
    words: Box<[u64]>,
}

impl Filter {
    /// Of `keys` keys.
    pub fn of(keys: usize, hashes: impl Iterator<Item = Hash>) -> Self {
        let bits = u64::try_from(keys).expect("usize fits") * BITS_PER_KEY;
        let words = usize::try_from(bits.div_ceil(64).max(1)).expect("it is smaller than the keys");
        let mut filter = Filter { words: vec![0; words].into() };
        for hash in hashes {
            for probe in 0..PROBES {
                let (word, bit) = filter.place(hash, probe);
                filter.words[word] |= bit;
            }
        }
        filter
    }

    /// From its words.
    pub fn from_words(words: Box<[u64]>) -> Self {
        Filter { words }
    }

    /// Its words; at least one.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Whether the key may be there. If not, it is not.
    pub fn may_hold(&self, hash: Hash) -> bool {
        (0..PROBES).all(|probe| {
            let (word, bit) = self.place(hash, probe);
            self.words[word] & bit != 0
        })
    }

    fn place(&self, Hash(first, step): Hash, probe: u64) -> (usize, u64) {
        let bits = u64::try_from(self.words.len()).expect("usize fits") * 64;
        let bit = first.wrapping_add(step.wrapping_mul(probe)) % bits;
        (usize::try_from(bit / 64).expect("within the words"), 1 << (bit % 64))
    }
}

/// The finaliser of SplitMix64: every bit of the result depends on every bit of the number.
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_passes_and_almost_nothing_else_does() {
        const KEYS: u128 = 20_000;
        let hash = |key: u128| Hash::of_request(RequestId::from_int(key << 70 | key));
        let filter = Filter::of(usize::try_from(KEYS).unwrap(), (0..KEYS).map(hash));
        assert!((0..KEYS).all(|key| filter.may_hold(hash(key))));
        let passed = (KEYS..2 * KEYS).filter(|key| filter.may_hold(hash(*key))).count();
        assert!(passed < 400, "{passed} of {KEYS} pass in vain");
        assert!(filter.words().len() * 64 < 210_000);
    }

    #[test]
    fn an_empty_filter_holds_nothing() {
        let filter = Filter::of(0, std::iter::empty());
        assert!((0..1_000).all(|id| !filter.may_hold(Hash::of_customer(CustomerId::from_int(id)))));
    }
}
