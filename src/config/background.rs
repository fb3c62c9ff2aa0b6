//! The settings of runs in the background.

use super::Background;
use super::reader::Section;

/// More are not read in time: each is read once a minute.
const RUNS_MAX: u64 = 10_000;
/// A day: providers end what takes longer.
const RUN_TIMEOUT_MS: u64 = 24 * 60 * 60 * 1_000;

/// Reads the section `background`.
pub(super) fn read(mut section: Section<'_>) -> Background {
    let number = |number: u64| usize::try_from(number).expect("bounded above");
    let runs_max = section.number("runs_max", 0..=RUNS_MAX, RUNS_MAX);
    let runs_per_customer_max = section.number("runs_per_customer_max", 1..=RUNS_MAX, 1_000);
    let run_timeout = section.millis("run_timeout_ms", RUN_TIMEOUT_MS);
    section.finish();
    Background {
        runs_max: number(runs_max),
        runs_per_customer_max: number(runs_per_customer_max),
        run_timeout,
    }
}
