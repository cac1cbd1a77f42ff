//! When next.

use std::time::Duration;

use super::entry::Monotonic;
use super::staleness::Timing;

/// A deadline is never waited for in steps shorter than this.
pub const SHORTEST_WAIT: Duration = Duration::from_millis(20);

/// When the next survey begins, after one that began at `began`. `chance` in 0..1 spreads the surveys of many reapers
/// over the last tenth of the interval: always earlier, never later, so that surveys stay an interval apart at most.
pub fn next_survey(began: Monotonic, timing: &Timing, chance: f64) -> Monotonic {
    began.plus(spread(timing.survey_interval(), chance))
}

/// The same after one that took so long: what it read first is read again an interval later, even if that comes last.
/// A source whose survey takes most of the interval rests half a heartbeat in between at least.
pub fn next_survey_after(
    began: Monotonic,
    took: Duration,
    interval: Duration,
    timing: &Timing,
    chance: f64,
) -> Monotonic {
    let rest = took + timing.heartbeat_interval / 2;
    began.plus(spread(interval.saturating_sub(took), chance).max(rest.min(interval)))
}

fn spread(interval: Duration, chance: f64) -> Duration {
    interval.mul_f64(1.0 - 0.1 * chance.clamp(0.0, 1.0))
}

/// How long to wait after the `failures`-th failure in a row: full jitter over a span that doubles from 100 ms to 30 s.
pub fn backoff(failures: u32, chance: f64) -> Duration {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(30);
    let span = FIRST.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(LONGEST);
    span.mul_f64(chance.clamp(0.0, 1.0)).max(SHORTEST_WAIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surveys_are_never_more_than_an_interval_apart() {
        let timing = Timing { threshold: Duration::from_secs(300), heartbeat_interval: Duration::from_secs(30) };
        let began = Monotonic::from_start(Duration::from_secs(7));
        let seconds = Duration::from_secs;
        assert_eq!(next_survey(began, &timing, 0.0), began.plus(seconds(150)));
        assert_eq!(next_survey(began, &timing, 1.0), began.plus(seconds(135)));
        let after = |took, chance| next_survey_after(began, seconds(took), seconds(150), &timing, chance);
        assert_eq!(after(0, 0.0), began.plus(seconds(150)));
        assert_eq!(after(20, 0.0), began.plus(seconds(130)), "less the last one's duration");
        assert_eq!(after(20, 1.0), began.plus(seconds(117)));
        assert_eq!(after(100, 1.0), began.plus(seconds(115)), "and a rest after a slow one");
    }

    #[test]
    fn the_wait_after_failures_doubles_up_to_thirty_seconds() {
        assert_eq!(backoff(1, 1.0), Duration::from_millis(100));
        assert_eq!(backoff(4, 1.0), Duration::from_millis(800));
        assert_eq!(backoff(9, 0.5), Duration::from_millis(12_800));
        assert_eq!(backoff(10, 1.0), Duration::from_secs(30));
        assert_eq!(backoff(u32::MAX, 1.0), Duration::from_secs(30));
        assert_eq!(backoff(1, 0.0), SHORTEST_WAIT);
    }
}
