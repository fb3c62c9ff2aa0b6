//! Selection among accounts that have room. Pure: randomness is an argument.
//!
//! The first group by priority; in it the account that the request sticks to, as long as that has not
//! much more to do than the others; else the less loaded of two, drawn by weight.

use std::time::Duration;

/// How much more than its share an account may have to do and still be stuck to: 5 / 4 of it, and
/// one request.
const STICKY_NUMERATOR: u64 = 5;
const STICKY_DENOMINATOR: u64 = 4;

/// An account that could take the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its place in the pool.
    pub index: usize,
    /// Which accounts are used before it: those of a smaller number.
    pub priority: u32,
    /// Its share of the load, at least 1.
    pub weight: u32,
    /// Requests that it has now.
    pub in_flight: u32,
    /// How long it takes to answer, if that is known.
    pub latency: Option<Duration>,
    /// Says the same for the same account and the same affinity, and is otherwise random.
    pub affinity: Option<u64>,
}

impl Candidate {
    /// Whether it has less to do for its weight: requests under way, each for as long as it takes.
    fn less_loaded_than(&self, other: &Candidate) -> bool {
        let (mine, theirs) = match (self.latency, other.latency) {
            (Some(mine), Some(theirs)) => (mine.as_micros().max(1), theirs.as_micros().max(1)),
            _ => (1, 1),
        };
        let load = |this: &Candidate, latency: u128, that: &Candidate| {
            (u128::from(this.in_flight) + 1).saturating_mul(latency).saturating_mul(that.weight.into())
        };
        load(self, mine, other) < load(other, theirs, self)
    }

    /// By which the same affinity finds the same account: the smallest of draws whose means are the
    /// inverse of the weights. When an account goes or comes, only what is its own moves.
    fn rank(&self) -> Option<f64> {
        let high = u32::try_from(self.affinity? >> 32).expect("half of 64 bits");
        let uniform = (f64::from(high) + 1.0) / (f64::from(u32::MAX) + 2.0);
        Some(-uniform.ln() / f64::from(self.weight))
    }
}

/// Picks one of `candidates`; `None` if there are none.
///
/// Two draws and a comparison spread load nearly as well as looking at all, without all callers
/// running to the same account at once.
pub fn pick(candidates: &mut Vec<Candidate>, random: u64) -> Option<Candidate> {
    let first_group = candidates.iter().map(|candidate| candidate.priority).min()?;
    candidates.retain(|candidate| candidate.priority == first_group);
    if let Some(sticky) = sticky(candidates) {
        return Some(sticky);
    }
    let first = draw(candidates, random >> 32)?;
    let second = draw(candidates, random & u64::from(u32::MAX))?;
    Some(if second.less_loaded_than(&first) { second } else { first })
}

/// The account that the request sticks to, unless it has too much to do beside the others.
fn sticky(candidates: &[Candidate]) -> Option<Candidate> {
    let ranked = candidates.iter().filter_map(|candidate| Some((candidate.rank()?, candidate)));
    let (_, best) = ranked.min_by(|(a, _), (b, _)| a.total_cmp(b))?;
    let sum = |of: fn(&Candidate) -> u32| candidates.iter().map(|c| u64::from(of(c))).sum::<u64>();
    let (weights, in_flight) = (sum(|c| c.weight), sum(|c| c.in_flight));
    let share = (in_flight + 1) * u64::from(best.weight) * STICKY_NUMERATOR / (weights * STICKY_DENOMINATOR);
    (u64::from(best.in_flight) <= share + 1).then_some(*best)
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

/// Mixes what a request sticks by with an account's place, for [`Candidate::affinity`].
pub fn mix(affinity: u64, account: u64) -> u64 {
    // The finalizer of SplitMix64.
    let mut bits = affinity ^ account.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(index: usize, weight: u32) -> Candidate {
        Candidate { index, priority: 0, weight, in_flight: 0, latency: None, affinity: None }
    }

    fn by_weight(weights: &[u32]) -> Vec<Candidate> {
        weights.iter().enumerate().map(|(index, weight)| candidate(index, *weight)).collect()
    }

    /// Draws many times, without releasing, and tells how the load is spread.
    fn check(mut candidates: Vec<Candidate>, draws: u32, expect: &[u32]) {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..draws {
            let picked = pick(&mut candidates.clone(), random.u64(..)).unwrap();
            candidates[picked.index].in_flight += 1;
        }
        for (candidate, expect) in candidates.iter().zip(expect) {
            let off = candidate.in_flight.abs_diff(*expect);
            assert!(off * 20 <= draws, "{candidates:?}");
        }
    }

    #[test]
    fn load_follows_the_weights() {
        check(by_weight(&[1]), 10, &[10]);
        check(by_weight(&[1, 1]), 1000, &[500, 500]);
        check(by_weight(&[3, 1]), 1000, &[750, 250]);
        check(by_weight(&[1, 1, 2]), 1000, &[250, 250, 500]);
        assert_eq!(pick(&mut Vec::new(), 7), None);
    }

    #[test]
    fn load_follows_the_speed() {
        let mut candidates = by_weight(&[1, 1]);
        candidates[0].latency = Some(Duration::from_millis(900));
        candidates[1].latency = Some(Duration::from_millis(100));
        check(candidates.clone(), 1000, &[250, 750]);
        candidates[0].in_flight = 1;
        candidates[1].in_flight = 8;
        assert!(candidates[1].less_loaded_than(&candidates[0]));
        candidates[0].latency = None;
        assert!(candidates[0].less_loaded_than(&candidates[1]), "who is not known is compared by load alone");
    }

    #[test]
    fn a_group_is_used_before_the_next() {
        let mut candidates = by_weight(&[1, 1000, 1]);
        candidates[1].priority = 1;
        check(candidates.clone(), 1000, &[500, 0, 500]);
        candidates.remove(0);
        candidates.remove(1);
        assert_eq!(pick(&mut candidates, 7).unwrap().index, 1, "it is all there is");
    }

    #[test]
    fn the_same_affinity_finds_the_same_account_within_bounds() {
        let stuck = |affinity: u64, without: Option<usize>| {
            let mut candidates = by_weight(&[1, 2, 1, 4]);
            for candidate in &mut candidates {
                candidate.affinity = Some(mix(affinity, u64::try_from(candidate.index).unwrap()));
            }
            candidates.retain(|candidate| Some(candidate.index) != without);
            candidates
        };
        let mut counts = [0_u32; 4];
        for affinity in (0..8_000).map(|n| mix(n, 77)) {
            let place = pick(&mut stuck(affinity, None), affinity).unwrap().index;
            counts[place] += 1;
            assert_eq!(pick(&mut stuck(affinity, None), !affinity).unwrap().index, place);
            let other = (place + 1) % 4;
            assert_eq!(
                pick(&mut stuck(affinity, Some(other)), 7).unwrap().index,
                place,
                "only its own moves"
            );
        }
        for (count, expect) in counts.into_iter().zip([1_000, 2_000, 1_000, 4_000]) {
            assert!(count.abs_diff(expect) < 150, "{counts:?}");
        }
        let mut busy = stuck(1, None);
        let place = pick(&mut busy.clone(), 0).unwrap().index;
        busy[place].in_flight = 50;
        assert_ne!(pick(&mut busy, 0).unwrap().index, place);
    }

    #[test]
    fn every_random_number_gives_an_account() {
        for random in [0, 1, u64::MAX, u64::from(u32::MAX), 1 << 32] {
            assert!(pick(&mut by_weight(&[1, 1000]), random).is_some());
        }
    }
}
