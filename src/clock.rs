//! The process's clocks: a monotonic one for waiting, and the single place that reads the host's wall clock.

use tokio::time::Instant;

use crate::policy::entry::{Monotonic, Timestamp};

/// The monotonic clock that one process shares.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Begins to count.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// The time since [`Self::start`].
    pub fn now(&self) -> Monotonic {
        Monotonic::from_start(self.start.elapsed())
    }

    /// The instant to sleep until.
    pub fn instant(&self, at: Monotonic) -> Instant {
        self.start + at.since_start()
    }

    /// The host's wall clock: for log lines, metrics and the offset to Redis. Never for an age.
    pub fn wall() -> Timestamp {
        #[allow(clippy::disallowed_methods)] // the one allowed place
        let now = std::time::SystemTime::now();
        let since = now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}
