//! What outlives a process: enough for the next one to go on as if there had been no restart, or to hold because
//! something happened in between (a *warm start*).
//!
//! Every time in it is server time. It is kept in the very data it is about: a server that lost or rolled back its data
//! lost or rolled back this too, and is another process besides, so it can't pass for one that did not.

use std::time::Duration;

use super::continuity::Identity;
use super::entry::{Bytes, Monotonic, Timestamp};

/// What one process knew of one source when it last looked at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The server it saw.
    pub identity: Identity,
    /// What makes an entry stale was set otherwise than it is now: what it saw proves nothing of today's entries.
    pub redefined: bool,
    /// When its last look ended.
    pub looked: Timestamp,
    /// The single run that this was; none of a daemon.
    pub run: Option<SingleRun>,
    /// Our own host's clock when that look ended; only of a single run, and where the host has one.
    pub host: Option<HostClock>,
    /// What a single run saw missing; none of a daemon, and where nobody can tell whether Redis dropped keys.
    pub absences: Option<Absences>,
    /// Until when entries are kept that a clock which is behind seems to have dated.
    pub misdated_until: Option<Timestamp>,
    /// Graces, outages and refused writes.
    pub sight: Sight,
    /// Holds.
    pub guards: Guards,
}

/// When a single run was, and how regularly they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SingleRun {
    /// When its first survey began.
    pub began: Timestamp,
    /// How long after the run before it.
    pub period: Option<Duration>,
}

/// How long our host has been up: a clock that nobody sets, and so the witness for the time between two single runs. What
/// Redis tells of its own uptime follows its wall clock, and proves nothing about that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostClock {
    /// Which start of which host; another one's clock can't be compared with it.
    pub boot: String,
    /// How long it has been up.
    pub up: Duration,
}

impl HostClock {
    /// What it shows at `mono`, if this is what it showed when our own clock began.
    #[must_use]
    pub fn at(&self, mono: Monotonic) -> Self {
        Self { boot: self.boot.clone(), up: self.up + mono.since_start() }
    }

    /// How long ago it showed what `earlier` says; none where that was another host, or another start of it.
    pub fn since(&self, earlier: &Self) -> Option<Duration> {
        if self.boot == earlier.boot { self.up.checked_sub(earlier.up) } else { None }
    }
}

/// How many absences one single run leaves to the next (some 150 kB). The rest begin anew with each.
pub const MOST_ABSENCES: usize = 5_000;

/// Who was missing when a single run last looked, and since when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Absences {
    /// How many keys the server had dropped to make room.
    pub dropped: u64,
    /// These are all: whoever else is missing later was not before.
    pub whole: bool,
    /// A hash of the entry and of what it lacks, and for how long single runs had seen it lack that.
    pub ages: Vec<(u64, Duration)>,
}

/// What followed from the breaks so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// What the grace follows, and until when it keeps everything.
    pub grace: Option<(String, Timestamp)>,
    /// Entries last heard before the first wait until the second.
    pub reconnect: Option<(Timestamp, Timestamp)>,
    /// Outages that add up with later ones: how long each kept looks away, and until when it counts.
    pub outages: Vec<(Duration, Timestamp)>,
    /// How many writes of anybody the server had refused.
    pub refusals: Option<u64>,
}

/// Why the guards hold, or will not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guards {
    /// The silence, if nobody pinged.
    pub silence: Option<Silence>,
    /// Live entries when somebody was last heard.
    pub recent: Option<u64>,
    /// Until when a mass is latched.
    pub mass_until: Option<Timestamp>,
    /// The first slice after a mass, if there is one to wait for.
    pub slice: Option<Slice>,
    /// The last suspension, over or not: a second one lasts longer.
    pub suspension: Option<Suspension>,
    /// How far apart entries pinged, if that was too far for the threshold.
    pub interval: Option<Duration>,
    /// Groups that are silent, or came back within a threshold.
    pub groups: Vec<Group>,
}

/// The first few that go after a mass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    /// How many went.
    pub went: u64,
    /// Until when the rest waits; none before the first went.
    pub until: Option<Timestamp>,
}

/// Evicted entries that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspension {
    /// For how long nothing went.
    pub lasts: Duration,
    /// Until when that is.
    pub until: Timestamp,
    /// Until when a second one is longer.
    pub again_until: Timestamp,
    /// How many were back.
    pub back: u64,
    /// Of how many.
    pub of: u64,
}

/// A hub that others do not stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its label.
    pub label: Bytes,
    /// Its newest ping.
    pub newest: Timestamp,
    /// Nobody of it pings.
    pub silent: bool,
    /// Until when it keeps all its entries, having come back from a silence.
    pub keeps_until: Option<Timestamp>,
}

/// A silence that outlives a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silence {
    /// Since when it has been seen without a break.
    pub since: Timestamp,
    /// The newest ping before it.
    pub newest: Timestamp,
    /// Few were recent when it began.
    pub small: bool,
    /// It was released by time.
    pub released: bool,
}
