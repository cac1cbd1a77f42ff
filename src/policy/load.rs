//! Load guards: when Redis has a hard time, evicting pauses. It is the one thing that can wait.

use std::time::Duration;

use super::duration::in_words;

/// From when on evicting pauses; `None` is never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// What a batch takes on top of a round trip, on the average. Four times what a batch should take of the server.
    pub batch_latency: Option<Duration>,
    /// A round trip, five times in a row; Sidekiq warns from here on.
    pub round_trip: Option<Duration>,
    /// How far a replica is behind. One that does not say counts as far behind.
    pub replica_lag: Option<Duration>,
    /// Of `maxmemory`, in percent.
    pub memory_percent: Option<u32>,
    /// Objects that wait to be freed in the background.
    pub lazyfree: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            batch_latency: Some(Duration::from_millis(8)),
            round_trip: Some(Duration::from_millis(50)),
            replica_lag: Some(Duration::from_secs(10)),
            memory_percent: Some(95),
            lazyfree: Some(100_000),
        }
    }
}

/// What a server says of its load. Where `INFO` is denied, nothing is known, and nothing pauses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// How long it took to say so.
    pub round_trip: Duration,
    /// How far each replica is behind; `None` if it does not say, or is not connected whole.
    pub replicas: Vec<Option<Duration>>,
    /// Bytes in use, and the limit; none where there is no limit.
    pub memory: Option<(u64, u64)>,
    /// Objects that wait to be freed in the background.
    pub lazyfree: u64,
}

/// What keeps due entries waiting although nothing holds the source: a label value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Throttle {
    /// E8.
    Pace,
    /// Batches take too long.
    Latency,
    /// Round trips take too long.
    RoundTrip,
    /// A replica is far behind.
    ReplicaLag,
    /// The memory is nearly full.
    Memory,
    /// Much waits to be freed.
    Lazyfree,
    /// The audit record can't be written.
    Audit,
}

impl Throttle {
    /// Every reason, in the order of [`Self::index`].
    pub const ALL: [Self; 7] =
        [Self::Pace, Self::Latency, Self::RoundTrip, Self::ReplicaLag, Self::Memory, Self::Lazyfree, Self::Audit];

    /// The name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pace => "pace",
            Self::Latency => "latency",
            Self::RoundTrip => "round_trip",
            Self::ReplicaLag => "replica_lag",
            Self::Memory => "memory",
            Self::Lazyfree => "lazyfree",
            Self::Audit => "audit",
        }
    }

    /// The place in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// So many slow round trips in a row.
const SLOW_IN_A_ROW: u32 = 5;

/// Why evicting pauses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// The reason.
    pub why: Throttle,
    /// The reason in a sentence.
    pub words: String,
}

/// The load guard of one source.
#[derive(Clone, Debug)]
pub struct LoadGuard {
    limits: Limits,
    load: Load,
    slow: u32,
    /// The average time of batches, weighed down by half with each.
    batch: Duration,
}

impl LoadGuard {
    /// Nothing is known yet, and nothing pauses.
    pub fn new(limits: Limits) -> Self {
        Self { limits, load: Load::default(), slow: 0, batch: Duration::ZERO }
    }

    /// From now on these limits hold; what is known of the load stays.
    pub fn limit(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Takes in what the server says. While evicting pauses no batch is timed, so each such reading halves their average.
    pub fn heard(&mut self, load: Load) {
        let slow = self.limits.round_trip.is_some_and(|limit| load.round_trip > limit);
        self.slow = if slow { self.slow.saturating_add(1) } else { 0 };
        self.batch /= 2;
        self.load = load;
    }

    /// Takes in how long a batch took; what is on the way does not count.
    pub fn batch_took(&mut self, took: Duration) {
        self.batch = (self.batch + took.saturating_sub(self.load.round_trip)) / 2;
    }

    /// Why evicting pauses, if it does.
    pub fn pause(&self) -> Option<Pause> {
        let Limits { batch_latency, round_trip, replica_lag, memory_percent, lazyfree } = self.limits;
        let pause = |why, words| Some(Pause { why, words });
        if batch_latency.is_some_and(|limit| self.batch > limit) {
            return pause(Throttle::Latency, format!("batches take {} on the average", in_words(self.batch)));
        }
        if round_trip.is_some() && self.slow >= SLOW_IN_A_ROW {
            let last = in_words(self.load.round_trip);
            return pause(
                Throttle::RoundTrip,
                format!("{} round trips in a row were slow, the last took {last}", self.slow),
            );
        }
        if let Some(limit) = replica_lag {
            let behind = |lag: &&Option<Duration>| lag.is_none_or(|lag| lag > limit);
            let count = self.load.replicas.iter().filter(behind).count();
            if count > 0 {
                let words = format!("{count} of {} replicas are far behind, or do not say", self.load.replicas.len());
                return pause(Throttle::ReplicaLag, words);
            }
        }
        if let (Some(percent), Some((used, limit))) = (memory_percent, self.load.memory)
            && u128::from(used) * 100 > u128::from(limit) * u128::from(percent)
        {
            return pause(Throttle::Memory, format!("redis uses {used} bytes of its maxmemory {limit}"));
        }
        if lazyfree.is_some_and(|limit| self.load.lazyfree > u64::from(limit)) {
            return pause(Throttle::Lazyfree, format!("{} objects wait to be freed", self.load.lazyfree));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[track_caller]
    fn check(load: &Load, expected: Option<Throttle>) {
        let mut guard = LoadGuard::new(Limits::default());
        guard.heard(load.clone());
        assert_eq!(guard.pause().map(|pause| pause.why), expected, "{load:?}");
        let mut never = LoadGuard::new(Limits {
            batch_latency: None,
            round_trip: None,
            replica_lag: None,
            memory_percent: None,
            lazyfree: None,
        });
        never.heard(load.clone());
        assert_eq!(never.pause(), None, "{load:?}");
    }

    #[test]
    fn load_each_limit_pauses_just_beyond_it() {
        let load = Load::default;
        check(&load(), None);
        check(&Load { replicas: vec![Some(MS * 10_000)], ..load() }, None);
        check(&Load { replicas: vec![Some(MS), Some(MS * 11_000)], ..load() }, Some(Throttle::ReplicaLag));
        check(&Load { replicas: vec![Some(MS), None], ..load() }, Some(Throttle::ReplicaLag));
        check(&Load { memory: Some((950, 1_000)), ..load() }, None);
        check(&Load { memory: Some((951, 1_000)), ..load() }, Some(Throttle::Memory));
        check(&Load { lazyfree: 100_000, ..load() }, None);
        check(&Load { lazyfree: 100_001, ..load() }, Some(Throttle::Lazyfree));
    }

    #[test]
    fn load_five_slow_round_trips_in_a_row_pause_and_a_quick_one_ends_it() {
        let mut guard = LoadGuard::new(Limits::default());
        let slow = Load { round_trip: MS * 51, ..Load::default() };
        (0..4).for_each(|_| guard.heard(slow.clone()));
        guard.heard(Load { round_trip: MS * 50, ..Load::default() });
        (0..4).for_each(|_| guard.heard(slow.clone()));
        assert_eq!(guard.pause(), None);
        guard.heard(slow);
        assert_eq!(guard.pause().map(|pause| pause.why), Some(Throttle::RoundTrip));
        guard.heard(Load::default());
        assert_eq!(guard.pause(), None);
    }

    #[test]
    fn load_slow_batches_pause_until_their_average_has_fallen() {
        let mut guard = LoadGuard::new(Limits::default());
        guard.heard(Load { round_trip: MS * 20, ..Load::default() });
        (0..9).for_each(|_| guard.batch_took(MS * 27));
        assert_eq!(guard.pause(), None, "seven beyond the round trip");
        guard.batch_took(MS * 200);
        assert_eq!(guard.pause().map(|pause| pause.why), Some(Throttle::Latency));
        (0..4).for_each(|_| guard.heard(Load::default()));
        assert_eq!(guard.pause(), None, "it ends although no batch is timed");
    }
}
