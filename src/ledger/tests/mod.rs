//! Tests of what the ledger leaves on a disk, and of what it makes of it.

mod bench;
mod damage;
mod failing;
mod memory;
mod power;
mod rotation;
mod sidecars;
mod store;
