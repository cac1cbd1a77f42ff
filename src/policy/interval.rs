//! How often entries really ping, measured: a `heartbeat_interval` that is set too short would make the living look dead.

use std::collections::HashMap;
use std::time::Duration;

use super::entry::{EntryId, Mark, Monotonic, Now, Timestamp};
use super::sample::Sampled;
use super::staleness::Timing;
use super::survey::Judged;

/// How many entries are measured at a time (about 50 kB with their ids). A share of one in five shows among so many to
/// a few hundredths.
pub const TRACKED: usize = 256;

/// Who has not pinged for so long is no entry with a heartbeat; unless ten thresholds are longer.
const LONGEST: Duration = Duration::from_secs(24 * 3_600);

/// From this share on of long gaps, and this many, the interval is wrong.
const TRIPS: (usize, usize) = (20, 100);
const TRIPS_MIN: usize = 2;

/// Below this share it is right again. What lies between the two stays as it is, so that a sample's noise does not end
/// a hold between two looks.
const ENDS: (usize, usize) = (10, 100);

/// One entry whose pings are timed.
#[derive(Clone, Copy, Debug)]
struct Tracked {
    mark: Mark,
    last_ping: Timestamp,
    /// When we last saw this mark; none if continuity broke since.
    looked: Option<Monotonic>,
    /// When we first saw this mark.
    changed: Monotonic,
    gap: Option<Gap>,
}

/// The time between the last two pings of an entry.
#[derive(Clone, Copy, Debug)]
struct Gap {
    /// From the one that we saw to the next one that we saw.
    seen: Duration,
    /// The same, less the time in which we did not look: another ping may have fallen there. Both ends are of the hub's
    /// own clock, so one that is wrong does no harm.
    at_least: Duration,
}

/// The gaps between successive pings of sampled entries. Of each entry the latest counts: an outage that is over is
/// forgotten with the next ping.
#[derive(Clone, Debug)]
pub struct Intervals {
    timing: Timing,
    tracked: HashMap<EntryId, Tracked>,
    wrong: Option<Duration>,
    /// What an earlier process measured holds until we have measured ourselves, but no longer than until then.
    recalled: Option<(Duration, Monotonic)>,
}

impl Intervals {
    /// Nothing is measured yet.
    pub fn new(timing: Timing) -> Self {
        Self { timing, tracked: HashMap::new(), wrong: None, recalled: None }
    }

    /// Whether an entry whose last ping is this is worth measuring.
    pub fn may_measure(timing: &Timing, last_ping: Timestamp, now: Timestamp) -> bool {
        last_ping > Self::measured_from(timing, now)
    }

    /// Whose last ping is no later than this is not measured.
    pub fn measured_from(timing: &Timing, now: Timestamp) -> Timestamp {
        now.minus(LONGEST.max(timing.threshold * 10))
    }

    /// Takes in entries that a survey drew, as far as there is room.
    pub fn fill(&mut self, drawn: &[Sampled]) {
        for entry in drawn {
            if self.tracked.len() >= TRACKED {
                return;
            }
            self.tracked.entry(entry.id.clone()).or_insert(Tracked {
                mark: entry.mark,
                last_ping: entry.last_ping,
                looked: Some(entry.seen),
                changed: entry.seen,
                gap: None,
            });
        }
    }

    /// The entries whose pings are timed.
    pub fn ids(&self) -> impl Iterator<Item = &EntryId> {
        self.tracked.keys()
    }

    /// Takes in a look at an entry; `None` if it is gone.
    pub fn looked(&mut self, id: &EntryId, found: Option<(Judged, Mark)>, now: Now) {
        let Some(known) = self.tracked.get_mut(id) else { return };
        match found {
            Some((Ok((last_ping, _)), mark)) if Self::may_measure(&self.timing, last_ping, now.server) => {
                known.saw(last_ping, mark, now.mono);
            }
            _ => _ = self.tracked.remove(id),
        }
    }

    /// Takes in that an entry was evicted (one of that id that comes is another client, or a mistake, and no slow ping), or
    /// is protected.
    pub fn forget(&mut self, id: &EntryId) {
        self.tracked.remove(id);
    }

    /// Takes in that a watched entry pinged again; `looked` is when its old ping was last seen. It is measured from now
    /// on, if there is room.
    pub fn pinged_again(&mut self, before: Sampled, after: (Timestamp, Mark), looked: Monotonic, now: Now) {
        if self.tracked.contains_key(&before.id) {
            return;
        }
        let id = before.id.clone();
        self.fill(&[Sampled { seen: looked, ..before }]);
        if let Some(known) = self.tracked.get_mut(&id) {
            known.saw(after.0, after.1, now.mono);
        }
    }

    /// A gap across a continuity break is nobody's interval.
    pub fn continuity_broke(&mut self) {
        self.tracked.values_mut().for_each(|known| known.looked = None);
    }

    /// Draws the conclusion; says whether the interval turned out wrong just now.
    pub fn conclude(&mut self, now: Monotonic) -> bool {
        let half = self.timing.threshold / 2;
        let mut gaps: Vec<Gap> = self.tracked.values().filter_map(|known| known.counts(now, &self.timing)).collect();
        let long = gaps.iter().filter(|gap| gap.at_least > half).count();
        let share = |(part, whole): (usize, usize)| long * whole >= gaps.len() * part;
        let before = self.wrong.take();
        self.recalled = self.recalled.filter(|(_, until)| gaps.len() < TRIPS_MIN && now < *until);
        if long >= TRIPS_MIN && share(TRIPS) || before.is_some() && long > 0 && share(ENDS) {
            // The gap that one in five reaches: a few who came back after hours say nothing of the rest.
            gaps.sort_unstable_by_key(|gap| std::cmp::Reverse(gap.seen));
            let (part, whole) = TRIPS;
            let reached = (gaps.len() * part).div_ceil(whole).clamp(1, long);
            self.wrong = gaps.get(reached - 1).map(|gap| gap.seen);
        }
        self.wrong = self.wrong.or(self.recalled.map(|(interval, _)| interval));
        before.is_none() && self.wrong.is_some()
    }

    /// Takes over what an earlier process measured. Twice as long is time enough to measure it again; who does not ping
    /// within that is dead.
    pub fn recall(&mut self, wrong: Option<Duration>, now: Monotonic) {
        self.wrong = wrong;
        self.recalled = wrong.map(|interval| (interval, now.plus(interval.max(self.timing.threshold) * 2)));
    }

    /// How far apart pings are, if that is too far for the threshold.
    pub fn wrong(&self) -> Option<Duration> {
        self.wrong
    }
}

impl Tracked {
    fn saw(&mut self, last_ping: Timestamp, mark: Mark, now: Monotonic) {
        if mark != self.mark {
            let seen = last_ping.millis_since(self.last_ping);
            if let (Some(looked), Ok(seen @ 1..)) = (self.looked, u64::try_from(seen)) {
                let seen = Duration::from_millis(seen);
                self.gap = Some(Gap { seen, at_least: seen.saturating_sub(now.since(looked)) });
            }
            self.mark = mark;
            self.last_ping = last_ping;
            self.changed = now;
        }
        self.looked = Some(now);
    }

    /// Its gap. Who has been silent for twice as long is dead, and not slow: while the source holds nobody would take
    /// it away.
    fn counts(&self, now: Monotonic, timing: &Timing) -> Option<Gap> {
        self.gap.filter(|gap| now.since(self.changed) <= gap.seen.max(timing.threshold) * 2)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ping::Unit;
    use super::super::testing::{TIMING, at};
    use super::*;

    fn id(n: u64) -> EntryId {
        EntryId::key(n.to_string().into_bytes())
    }

    fn mark(last_ping: Timestamp) -> Mark {
        Mark::of([Some(&last_ping.millis().to_be_bytes()[..])])
    }

    /// Entries that ping at these intervals, each at a phase of its own, looked at every `every` seconds up to `until`;
    /// `behind` is how far the hub's clock is behind.
    fn measured(intervals: &[u64], every: u64, until: u64, behind: u64) -> Intervals {
        let mut measured = Intervals::new(TIMING);
        let last_ping = |n: u64, interval: u64, now: u64| {
            let phase = n * 37 % interval;
            at((now + 10_000 - phase) / interval * interval + phase).server.minus(Duration::from_secs(10_000 + behind))
        };
        for second in (0..=until).step_by(every as usize) {
            for (n, interval) in (0..).zip(intervals) {
                let ping = last_ping(n, *interval, second);
                let drawn = Sampled { id: id(n), mark: mark(ping), last_ping: ping, seen: at(second).mono };
                measured.fill(&[drawn]);
                measured.looked(&id(n), Some((Ok((ping, Unit::UnixMs)), mark(ping))), at(second));
            }
            measured.conclude(at(second).mono);
        }
        measured
    }

    #[track_caller]
    fn check(intervals: &[u64], every: u64, until: u64, expected: Option<u64>) {
        let expected = expected.map(Duration::from_secs);
        assert_eq!(measured(intervals, every, until, 0).wrong(), expected, "{intervals:?} seen every {every} s");
    }

    #[test]
    fn interval_a_grace_is_enough_to_find_it_out() {
        check(&[405; 20], 30, 300, Some(405));
        check(&[3_000; 100], 30, 300, Some(3_000));
        check(&[30; 20], 30, 900, None);
        check(&[140; 20], 30, 900, None);
    }

    #[test]
    fn interval_pings_between_two_looks_are_no_gap() {
        check(&[30; 20], 150, 900, None);
        check(&[30; 20], 299, 900, None);
        check(&[405; 20], 150, 900, Some(405));
    }

    #[test]
    fn interval_one_in_five_is_enough_and_one_alone_is_not() {
        let slow = |slow: usize, of: usize| [vec![405; slow], vec![30; of - slow]].concat();
        check(&slow(1, 2), 30, 900, None);
        check(&slow(2, 10), 30, 900, Some(405));
        check(&slow(1, 10), 30, 900, None);
        check(&slow(19, 100), 30, 900, None);
    }

    #[test]
    fn interval_a_hub_whose_clock_is_wrong_does_not_ping_slowly() {
        assert_eq!(measured(&[30; 20], 30, 900, 600).wrong(), None);
    }

    #[test]
    fn interval_an_outage_that_is_over_is_forgotten() {
        let mut measured = measured(&[30; 20], 30, 300, 0);
        let back = |measured: &mut Intervals, now: u64| {
            for n in 0..20 {
                let ping = at(now).server;
                measured.looked(&id(n), Some((Ok((ping, Unit::UnixMs)), mark(ping))), at(now));
            }
            measured.conclude(at(now).mono)
        };
        for second in (330..=600).step_by(30) {
            for n in 0..20 {
                let known = measured.tracked[&id(n)];
                measured.looked(&id(n), Some((Ok((known.last_ping, Unit::UnixMs)), known.mark)), at(second));
            }
        }
        assert!(back(&mut measured, 630), "nobody can tell it from slow pings yet");
        back(&mut measured, 660);
        assert_eq!(measured.wrong(), None);
    }

    #[test]
    fn interval_a_gap_across_a_break_counts_nothing_and_the_dead_are_not_slow() {
        let mut broken = measured(&[405; 20], 30, 60, 0);
        broken.tracked.values_mut().for_each(|known| known.gap = None);
        broken.continuity_broke();
        let ping = at(1_000).server;
        (0..20).for_each(|n| broken.looked(&id(n), Some((Ok((ping, Unit::UnixMs)), mark(ping))), at(1_000)));
        assert!(!broken.conclude(at(1_000).mono));

        let mut dead = measured(&[405; 20], 30, 900, 0);
        assert!(dead.wrong().is_some());
        dead.conclude(at(900 + 811).mono);
        assert_eq!(dead.wrong(), None, "silent for more than twice their interval");
    }

    #[test]
    fn interval_what_an_earlier_process_measured_holds_until_this_one_has() {
        let handed_on = |at_seconds: u64| {
            let mut later = Intervals::new(TIMING);
            later.recall(measured(&[405; 20], 30, 900, 0).wrong(), at(at_seconds).mono);
            later
        };
        let mut later = handed_on(1_000);
        later.conclude(at(1_809).mono);
        assert_eq!(later.wrong(), Some(Duration::from_secs(405)));
        later.conclude(at(1_810).mono);
        assert_eq!(later.wrong(), None, "twice that long nobody pinged");

        let mut faster = handed_on(1_000);
        for seconds in [1_000, 1_030] {
            for n in 0..20 {
                let ping = at(seconds).server;
                faster.fill(&[Sampled { id: id(n), mark: mark(ping), last_ping: ping, seen: at(seconds).mono }]);
                faster.looked(&id(n), Some((Ok((ping, Unit::UnixMs)), mark(ping))), at(seconds));
            }
            faster.conclude(at(seconds).mono);
        }
        assert_eq!(faster.wrong(), None, "it is set right");
    }

    #[test]
    fn interval_memory_is_bounded_and_who_leaves_makes_room() {
        let mut measured = measured(&vec![30; TRACKED + 50], 30, 30, 0);
        assert_eq!(measured.tracked.len(), TRACKED);
        let known: Vec<EntryId> = measured.ids().cloned().collect();
        measured.looked(&known[0], None, at(60));
        assert_eq!(measured.tracked.len(), TRACKED - 1);
    }
}
