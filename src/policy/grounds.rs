//! What the rule went by when it let an entry go: the facts of E1 to E9, for the audit record.

use std::time::Duration;

use super::entry::{Bytes, Timestamp};
use super::ping::Unit;

/// What was known of one entry, and of its source, at the moment when it was struck. What the eviction script finds by
/// itself (E7, and E9 a second time) is not among it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grounds {
    /// E1: how its last ping was written.
    pub unit: Unit,
    /// E2: when it last pinged, by the re-read.
    pub last_ping: Timestamp,
    /// E2: the age from which it was stale.
    pub threshold: Duration,
    /// E3: how long this process had seen its mark, and how long it had to.
    pub seen_for: Duration,
    /// E3: see above.
    pub confirm_for: Duration,
    /// E4: how long the grace after the last continuity break had been over; none if there was none that we know of.
    pub grace_over: Option<Duration>,
    /// E4: the same of the time that hubs have to reconnect.
    pub reconnect_over: Option<Duration>,
    /// E5: how old the survey behind the guards was, from its beginning.
    pub survey_age: Duration,
    /// E5: when the sampled entries were last read.
    pub pulse_age: Option<Duration>,
    /// E5: live entries at that survey, and how many there were that nothing protected.
    pub live: u64,
    /// E5: see above.
    pub unprotected: u64,
    /// E5: how old its newest ping was, as of the strike; none if nobody's could be read.
    pub newest_age: Option<Duration>,
    /// E5: the silence that would have held it, but was released by time, by the run's flags or by an operator.
    pub silence_released: bool,
    /// E5: the release of an operator without which it would not have gone.
    pub release: Option<String>,
    /// E6: the label of its group.
    pub group: Option<Bytes>,
    /// E6: how old the newest ping of that group was.
    pub group_newest_age: Option<Duration>,
    /// E8: how many the pace allowed at that moment; none where it is unlimited.
    pub allowance: Option<u64>,
}
