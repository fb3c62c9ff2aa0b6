//! Selection: the less loaded of two, drawn by weight. Pure: randomness is an argument.

/// An account that could take the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its place in the pool.
    pub index: usize,
    /// Its share of the load, at least 1.
    pub weight: u32,
    /// Requests that it has now.
    pub in_flight: u32,
}

impl Candidate {
    /// Whether it has less to do for its weight.
    fn less_loaded_than(&self, other: &Candidate) -> bool {
        let load = |this: &Candidate, that: &Candidate| u64::from(this.in_flight) * u64::from(that.weight);
        load(self, other) < load(other, self)
    }
}

/// Picks one of `candidates` by two draws; `None` if there are none.
///
/// Two draws and a comparison spread load nearly as well as looking at all, without all callers
/// running to the same account at once.
pub fn pick(candidates: &[Candidate], random: u64) -> Option<Candidate> {
    let first = draw(candidates, random >> 32)?;
    let second = draw(candidates, random & u64::from(u32::MAX))?;
    Some(if second.less_loaded_than(&first) { second } else { first })
}

/// Draws by weight with 32 random bits.
fn draw(candidates: &[Candidate], random: u64) -> Option<Candidate> {
    let total: u64 = candidates.iter().map(|candidate| u64::from(candidate.weight)).sum();
    let mut point = (random * total) >> 32;
    candidates.iter().copied().find(|candidate| {
        let weight = u64::from(candidate.weight);
        let found = point < weight;
        point = point.saturating_sub(weight);
        found
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Draws many times, without releasing, and tells how the load is spread.
    fn check(weights: &[u32], draws: u32, expect: &[u32]) {
        let all = weights.iter().enumerate();
        let mut candidates: Vec<Candidate> =
            all.map(|(index, weight)| Candidate { index, weight: *weight, in_flight: 0 }).collect();
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..draws {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let picked = pick(&candidates, random).unwrap();
            candidates[picked.index].in_flight += 1;
        }
        for (candidate, expect) in candidates.iter().zip(expect) {
            let off = candidate.in_flight.abs_diff(*expect);
            assert!(off * 20 <= draws, "{weights:?}: {candidates:?}");
        }
    }

    #[test]
    fn load_follows_the_weights() {
        check(&[1], 10, &[10]);
        check(&[1, 1], 1000, &[500, 500]);
        check(&[3, 1], 1000, &[750, 250]);
        check(&[1, 1, 2], 1000, &[250, 250, 500]);
        assert_eq!(pick(&[], 7), None);
    }

    #[test]
    fn every_random_number_gives_an_account() {
        let candidates = [1, 1000].map(|weight| Candidate { index: 0, weight, in_flight: 0 });
        for random in [0, 1, u64::MAX, u64::from(u32::MAX), 1 << 32] {
            assert!(pick(&candidates, random).is_some());
        }
    }
}
