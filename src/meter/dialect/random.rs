//! Counts for property tests: xorshift64, enough to vary the cases, the same in every run.

use crate::usage::Usage;

/// A source of counts.
pub(in crate::meter) struct Random(u64);

impl Default for Random {
    fn default() -> Self {
        Random(0x9e37_79b9_7f4a_7c15)
    }
}

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    /// Counts of about the same size, which may be that of a part that exceeds its whole.
    pub(in crate::meter) fn counts(&mut self) -> [u64; 5] {
        let bounds = [1, 10, 10_000, Usage::CLASS_MAX + 1];
        let bound = bounds[usize::try_from(self.below(4)).expect("small")];
        [(); 5].map(|()| self.below(bound))
    }
}
