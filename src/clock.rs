//! The process's clocks: a monotonic one for waiting, and the single place that reads the host's wall clock.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::policy::entry::{Monotonic, Timestamp};
use crate::policy::memory::HostClock;

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

    /// What our host's own clock showed when ours began: the one that nobody sets, and that goes on while the host sleeps.
    /// None where there is no such clock to read.
    pub fn host(&self) -> Option<HostClock> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let up = std::fs::read_to_string("/proc/uptime").ok()?;
        let up = Duration::try_from_secs_f64(up.split_ascii_whitespace().next()?.parse().ok()?).ok()?;
        Some(HostClock { boot: boot.trim().to_owned(), up: up.saturating_sub(self.now().since_start()) })
    }

    /// The host's wall clock: for log lines, metrics and the offset to Redis. Never for an age.
    pub fn wall() -> Timestamp {
        #[allow(clippy::disallowed_methods)] // the one allowed place
        let now = std::time::SystemTime::now();
        let since = now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// The host's clock as this process's shows it, so that a moment of the past has the same time in every answer, and
/// not a millisecond more or less; unless the host's clock is set.
#[derive(Debug)]
pub struct Wall {
    /// What the host's clock showed when ours began.
    began: AtomicI64,
}

impl Wall {
    /// Two readings a moment apart differ by less than this; a clock that was set by less is no matter.
    const TOLERANCE_MS: u64 = 100;

    /// Beside a clock that runs.
    pub fn at(clock: Clock) -> Self {
        Self { began: AtomicI64::new(Self::read(clock.now())) }
    }

    fn read(mono: Monotonic) -> i64 {
        Clock::wall().minus(mono.since_start()).millis()
    }

    /// What it shows at `mono`, which is now.
    pub fn now(&self, mono: Monotonic) -> Timestamp {
        let (read, known) = (Self::read(mono), self.began.load(Ordering::Relaxed));
        let began = if read.abs_diff(known) > Self::TOLERANCE_MS { read } else { known };
        self.began.store(began, Ordering::Relaxed);
        Timestamp::from_millis(began).plus(mono.since_start())
    }
}
