//! When a source may not evict: silence, mass, and the timings the guards can work with.

use std::time::Duration;

use super::staleness::Timing;

/// Fewer heartbeats to a threshold than this are refused: the guards could not see an outage before the first living
/// entry turned stale. Simulated with all hubs cut off: at 3 heartbeats 1,450 of 1,500 living entries went, at 5 none.
pub const MIN_HEARTBEATS: u32 = 5;

/// Fewer heartbeats to a threshold than this leave little room for a late ping, and are warned about.
pub const GOOD_HEARTBEATS: u32 = 8;

/// Whether the guards can work with a timing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// At least [`GOOD_HEARTBEATS`] heartbeats to a threshold.
    Good,
    /// Safe, but one slow network hour away from holding.
    Tight,
    /// Below [`MIN_HEARTBEATS`]: must be refused.
    TooTight,
}

/// Whether the guards can work with `timing`; the one place that knows the bound.
pub fn fit(timing: &Timing) -> Fit {
    if timing.threshold < timing.heartbeat_interval * MIN_HEARTBEATS {
        Fit::TooTight
    } else if timing.threshold < timing.heartbeat_interval * GOOD_HEARTBEATS {
        Fit::Tight
    } else {
        Fit::Good
    }
}

/// What the operator may set about the guards of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long entries last heard before a break wait for their hubs to reconnect (E4). The default of 15 min is the
    /// longest documented stall of a client after a failover: StackExchange.Redis on Linux.
    pub reconnect_grace: Duration,
    /// How long a silence lasts before it is released; `None` is never. A source with fewer than ten recent entries is
    /// released after 15 min at most, and none before two thresholds.
    pub silence_release: Option<Duration>,
    /// Evictions a second, of a source and of the process; `None` is unlimited.
    pub max_evict_rate: Option<u32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            reconnect_grace: Duration::from_secs(15 * 60),
            silence_release: Some(Duration::from_secs(60 * 60)),
            max_evict_rate: Some(500),
        }
    }
}
