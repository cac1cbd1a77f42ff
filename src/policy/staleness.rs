//! Live or stale: one age against one threshold, and the other times that scale with it.

use std::time::Duration;

use super::entry::Timestamp;

/// A last ping later than server time by more than this is *future*: never stale, never a sign of life.
/// Hub clocks under NTP differ by far less.
pub const FUTURE_TOLERANCE: Duration = Duration::from_secs(60);

/// How long after its last ping an entry is stale, and the hub's own rhythm from which all else scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The age from which an entry is stale.
    pub threshold: Duration,
    /// How often the hub refreshes a live entry's last ping.
    pub heartbeat_interval: Duration,
}

impl Timing {
    /// The age from which a live entry is late: three missed heartbeats.
    pub fn late_after(&self) -> Duration {
        self.heartbeat_interval * 3
    }

    /// How long we must have seen the same mark before a strike (E3).
    pub fn confirm_for(&self) -> Duration {
        self.heartbeat_interval * 3
    }

    /// The time between two surveys of a source: as long as leaves room for two looks before the threshold, and no
    /// longer than half of it. Below six heartbeats to a threshold there is no room, and surveys come twice a heartbeat.
    pub fn survey_interval(&self) -> Duration {
        let room = self.threshold.saturating_sub(self.confirm_for() + self.heartbeat_interval * 2);
        let (least, most) = (self.heartbeat_interval / 2, self.threshold / 2);
        room.min(most).max(least)
    }

    /// The time between two looks of whatever kind: a pulse, a survey.
    pub fn look_interval(&self) -> Duration {
        self.heartbeat_interval
    }

    /// The age from which an entry is watched: early enough that its second look is the strike itself.
    pub fn watch_from(&self) -> Duration {
        self.threshold.saturating_sub(self.confirm_for() + self.survey_interval())
    }

    /// How old the facts behind the guards may be at a strike (E5).
    pub fn facts_valid_for(&self) -> Duration {
        self.threshold.saturating_sub(self.heartbeat_interval * 4)
    }

    /// A last ping later than `now` by more than this is no sign of life of its source: a dead entry of a hub whose clock
    /// is ahead would hide a silence for that long, and it must show a heartbeat before the first living entry is stale.
    pub fn sign_of_life_until(&self, now: Timestamp) -> Timestamp {
        now.plus(self.threshold.saturating_sub(self.heartbeat_interval * 5).min(FUTURE_TOLERANCE))
    }

    /// Where an entry whose last ping is `at` stands at `now`.
    pub fn judge(&self, at: Timestamp, now: Timestamp) -> Freshness {
        if at > now.plus(FUTURE_TOLERANCE) {
            Freshness::Future
        } else if at <= now.minus(self.threshold) {
            Freshness::Stale
        } else if at <= now.minus(self.late_after()) {
            Freshness::Late
        } else {
            Freshness::Fresh
        }
    }
}

/// Where a readable entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Live, pinged within three heartbeats.
    Fresh,
    /// Live, but three heartbeats or more are missing.
    Late,
    /// At or over the threshold.
    Stale,
    /// Claims to have pinged in the future: nothing is known about it.
    Future,
}

#[cfg(test)]
mod tests {
    use super::super::testing::TIMING;
    use super::*;

    #[track_caller]
    fn check(age_ms: i64, expected: Freshness) {
        let now = Timestamp::from_millis(1_800_000_000_000);
        assert_eq!(TIMING.judge(Timestamp::from_millis(now.millis() - age_ms), now), expected, "age {age_ms} ms");
    }

    #[test]
    fn the_edges_are_exact_to_the_millisecond() {
        check(0, Freshness::Fresh);
        check(89_999, Freshness::Fresh);
        check(90_000, Freshness::Late);
        check(299_999, Freshness::Late);
        check(300_000, Freshness::Stale);
        check(300_001, Freshness::Stale);
        check(-60_000, Freshness::Fresh);
        check(-60_001, Freshness::Future);
        check(i64::MAX / 2, Freshness::Stale);
    }

    #[test]
    fn a_clock_ahead_is_a_sign_of_life_only_as_long_as_a_silence_shows_in_time() {
        let until = |threshold, heartbeat| {
            let [threshold, heartbeat_interval] = [threshold, heartbeat].map(Duration::from_secs);
            let now = Timestamp::from_millis(1_800_000_000_000);
            Timing { threshold, heartbeat_interval }.sign_of_life_until(now).millis_since(now)
        };
        assert_eq!(until(300, 30), 60_000, "by default the whole tolerance");
        assert_eq!(until(60, 6), 30_000);
        assert_eq!(until(50, 10), 0, "none where there is no room");
    }

    #[test]
    fn watching_begins_early_enough_for_the_second_look_to_be_the_strike() {
        assert_eq!(TIMING.watch_from(), Duration::from_secs(60));
        assert_eq!(TIMING.watch_from() + TIMING.confirm_for() + TIMING.survey_interval(), TIMING.threshold);
    }

    #[test]
    fn surveys_are_rare_and_never_so_rare_that_a_strike_waits_for_one() {
        let timing = |heartbeats: u32| Timing {
            threshold: Duration::from_secs(300),
            heartbeat_interval: Duration::from_secs(300) / heartbeats,
        };
        assert_eq!(TIMING.survey_interval(), Duration::from_secs(150));
        for heartbeats in 5..1_000 {
            let timing = timing(heartbeats);
            let interval = timing.survey_interval();
            assert!(interval >= timing.heartbeat_interval / 2 && interval <= timing.threshold / 2, "{heartbeats}");
            assert!(interval < timing.facts_valid_for(), "{heartbeats}");
            assert!(timing.watch_from() >= timing.heartbeat_interval, "{heartbeats}");
        }
    }
}
