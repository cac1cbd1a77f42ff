//! The core: plain values in, plain values out.
//!
//! Nothing in this folder knows a clock, Redis, `async`, logging, or any other room of the crate; time arrives as a
//! value. So every rule can be tried by a table, and the whole by a simulated world.

pub mod continuity;
pub mod duration;
pub mod entry;
pub mod grounds;
pub mod group;
pub mod guard;
pub mod interval;
pub mod ledger;
pub mod load;
pub mod memory;
pub mod order;
pub mod outcome;
pub mod pace;
pub mod ping;
pub mod pulse;
pub mod regret;
pub mod rule;
pub mod sample;
pub mod schedule;
pub mod staleness;
pub mod survey;
pub mod suspect;
#[cfg(test)]
mod testing;
pub mod timeless;
pub mod watch;
pub mod zone;
