//! Tests of what the ledger leaves on a disk, and of what it makes of it.

mod bench;
mod care;
mod damage;
mod entries;
mod failing;
mod full;
mod golden;
mod memory;
mod power;
mod riding;
mod rotation;
mod sidecars;
mod store;
mod usage;
