//! Tests of what the ledger leaves on a disk, and of what it makes of it.

mod archive;
mod away;
mod bench;
mod budgets;
mod care;
mod damage;
mod detached;
mod entries;
mod failing;
mod full;
mod golden;
mod keeper;
mod marks;
mod memory;
mod owned;
mod power;
#[path = "../../../tests/model/reference.rs"]
mod reference;
mod riding;
mod rotation;
#[path = "../../../tests/model/said.rs"]
mod said;
mod sidecars;
mod simulator;
#[path = "../../../tests/model/source.rs"]
mod source;
mod store;
mod usage;

use super::{Refusal, Standing};
