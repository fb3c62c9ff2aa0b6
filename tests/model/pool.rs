//! The pool in virtual time: the goals that its bench shows, in a short form.

#[path = "../../benches/pool/simulation/mod.rs"]
mod simulation;

use simulation::{Figures, Plan, Policy};
use std::time::Duration;

fn run(policy: Policy, load_percent: u32, seed: u64) -> Figures {
    let figures = simulation::run(&Plan { policy, seed, load_percent, measured: Duration::from_secs(90) });
    assert!(figures.asked > 4_000, "{} requests", figures.asked);
    figures
}

/// Of `part` in `whole`.
fn percent(part: u32, whole: u32) -> f64 {
    f64::from(part) * 100.0 / f64::from(whole)
}

#[test]
fn below_its_capacity_a_pool_causes_no_429_and_nobody_waits() {
    for (load_percent, seed) in [(70, 1), (95, 2)] {
        let Figures { asked, served, at_once, refused_429, waits, .. } =
            run(Policy::Tollgate, load_percent, seed);
        assert_eq!((refused_429, served), (0, asked), "{load_percent} %");
        assert!(percent(at_once, asked) > 99.0, "{load_percent} %: {at_once} of {asked} at once");
        assert!(waits[waits.len() * 99 / 100].is_zero(), "{load_percent} %: {:?}", waits.last());
    }
}

#[test]
fn above_its_capacity_all_of_it_is_used() {
    let Figures { asked, served, refused_429, used, .. } = run(Policy::Tollgate, 120, 3);
    assert!(used >= 0.97, "{used}");
    assert!(percent(refused_429, asked) < 0.5, "{refused_429} of {asked} were refused by a provider");
    assert!(served < asked && percent(served, asked) > 75.0, "{served} of {asked}");
}

#[test]
fn who_knows_no_headroom_is_refused() {
    for policy in [Policy::RoundRobin, Policy::Random] {
        let Figures { asked, at_once, refused_429, .. } = run(policy, 95, 5);
        assert!(percent(refused_429, asked) > 10.0 && percent(at_once, asked) < 90.0, "{policy:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_figures() {
    let figures = || {
        let Figures { asked, served, at_once, refused_429, waits, used } = run(Policy::Tollgate, 95, 4);
        (asked, served, at_once, refused_429, waits, used.to_bits())
    };
    assert_eq!(figures(), figures());
}
