//! What the tests of the core share: the defaults' rhythm, and a time.

use std::time::Duration;

use super::entry::{Monotonic, Now, Timestamp};
use super::staleness::Timing;

/// The defaults.
pub(super) const TIMING: Timing =
    Timing { threshold: Duration::from_secs(300), heartbeat_interval: Duration::from_secs(30) };

/// So many seconds after both clocks began.
pub(super) fn at(seconds: u64) -> Now {
    let since = Duration::from_secs(seconds);
    Now { server: Timestamp::from_millis(1_800_000_000_000).plus(since), mono: Monotonic::from_start(since) }
}
