//! The promises and guarantees, each through the built program on a real server: what may never go, and what must.
//!
//! A test is named after the promise (p) or guarantee (g) that it is the proof of; with the condition behind it taken
//! out of the code it fails.

mod clocks;
mod groups;
mod interval;
mod lease;
mod living;
mod load;
mod local_time;
mod memory;
mod once;
mod outage;
mod pace;
mod pulse;
mod regret;
mod silence;
