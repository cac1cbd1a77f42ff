//! Regret: who was evicted is looked at once more. If some are back, living clients were evicted, and the source is
//! suspended.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::duration::in_words;
use super::entry::{EntryId, Monotonic, Now, Timestamp};
use super::guard::{Hold, State};
use super::memory;
use super::staleness::Timing;

/// So many evicted ids wait for their look at most (about 150 kB); beyond it, every second, fourth, eighth one does.
pub const PENDING: usize = 1_000;

/// What was looked at within so long counts together.
const WINDOW: Duration = Duration::from_secs(10 * 60);

/// Fewer looks than this say nothing.
const LOOKS: usize = 20;

/// From this share on of those looked at being back, and this many, the source is suspended.
const BACK: (usize, usize) = (10, 100);
const BACK_MIN: usize = 5;

/// For how long; and for how long the second time within [`AGAIN`].
const SUSPENDED: Duration = Duration::from_secs(30 * 60);
const SUSPENDED_AGAIN: Duration = Duration::from_secs(2 * 3_600);
const AGAIN: Duration = Duration::from_secs(6 * 3_600);

#[derive(Clone, Copy, Debug)]
struct Pending {
    last_ping: Timestamp,
    due: Monotonic,
}

#[derive(Clone, Copy, Debug)]
struct Suspension {
    ends: Monotonic,
    /// Until when a second one is longer.
    again_until: Monotonic,
    lasts: Duration,
    back: usize,
    of: usize,
}

impl Suspension {
    fn counts(&self, now: Monotonic) -> bool {
        now <= self.again_until
    }
}

/// The evicted that wait for their look, and what those looked at lately turned out to be.
#[derive(Clone, Debug)]
pub struct Regret {
    timing: Timing,
    pending: HashMap<EntryId, Pending>,
    /// One in so many is kept.
    stride: u64,
    evicted: u64,
    looked: VecDeque<(Monotonic, bool)>,
    suspension: Option<Suspension>,
}

impl Regret {
    /// Nobody was evicted yet.
    pub fn new(timing: Timing) -> Self {
        let (pending, looked) = (HashMap::new(), VecDeque::new());
        Self { timing, pending, stride: 1, evicted: 0, looked, suspension: None }
    }

    /// Takes in that an entry was evicted that had last pinged at `last_ping`.
    pub fn evicted(&mut self, id: &EntryId, last_ping: Timestamp, now: Monotonic) {
        if self.pending.is_empty() {
            self.stride = 1;
        }
        self.evicted += 1;
        if !self.evicted.is_multiple_of(self.stride) {
            return;
        }
        if self.pending.len() >= PENDING {
            let mut nth = 0_u64;
            self.pending.retain(|_, _| {
                nth += 1;
                nth.is_multiple_of(2)
            });
            self.stride *= 2;
        }
        let due = now.plus(self.timing.heartbeat_interval * 2);
        self.pending.insert(id.clone(), Pending { last_ping, due });
    }

    /// Those whose time for a look has come.
    pub fn due(&self, now: Monotonic) -> impl Iterator<Item = &EntryId> {
        self.pending.iter().filter(move |(_, pending)| pending.due <= now).map(|(id, _)| id)
    }

    /// Takes in a look at an entry: its last ping, if it is there and can be read. Says whether it is one that was
    /// evicted and is back.
    pub fn looked(&mut self, id: &EntryId, last_ping: Option<Timestamp>, now: Monotonic) -> bool {
        let Some(pending) = self.pending.get(id).copied().filter(|pending| pending.due <= now) else { return false };
        self.pending.remove(id);
        let back = last_ping.is_some_and(|last_ping| last_ping > pending.last_ping);
        self.looked.push_back((now, back));
        back
    }

    /// Draws the conclusion; says whether the source is suspended just now.
    pub fn conclude(&mut self, now: Monotonic) -> bool {
        while self.looked.front().is_some_and(|(at, _)| now.since(*at) > WINDOW) {
            self.looked.pop_front();
        }
        let (of, back) = (self.looked.len(), self.looked.iter().filter(|(_, back)| *back).count());
        let (part, whole) = BACK;
        if of < LOOKS || back < BACK_MIN || back * whole < of * part {
            return false;
        }
        let again = self.suspension.is_some_and(|last| last.counts(now));
        let lasts = if again { SUSPENDED_AGAIN } else { SUSPENDED };
        self.suspension = Some(Suspension { ends: now.plus(lasts), again_until: now.plus(AGAIN), lasts, back, of });
        // What led to this suspension must not lead to the next.
        self.looked.clear();
        true
    }

    /// What a later process has to know of the last suspension, as long as it makes a second one longer.
    pub fn remember(&self, now: Now) -> Option<memory::Suspension> {
        let Suspension { ends, again_until, lasts, back, of } = self.suspension.filter(|last| last.counts(now.mono))?;
        let (until, again_until) = (now.server_at(ends), now.server_at(again_until));
        Some(memory::Suspension { lasts, until, again_until, back: back as u64, of: of as u64 })
    }

    /// Takes over the leader's suspension, if it lasts longer than our own.
    pub fn follow(&mut self, leader: Option<memory::Suspension>, now: Now) {
        let own = self.suspension;
        self.recall(leader, now);
        let ends = |one: &Suspension| (one.ends, one.again_until);
        if self.suspension.as_ref().map(ends) < own.as_ref().map(ends) {
            self.suspension = own;
        }
    }

    /// Takes over the last suspension of an earlier process.
    pub fn recall(&mut self, earlier: Option<memory::Suspension>, now: Now) {
        let count = |count| usize::try_from(count).unwrap_or(usize::MAX);
        self.suspension = earlier.map(|memory::Suspension { lasts, until, again_until, back, of }| {
            let (ends, again_until) = (now.when(until), now.when(again_until));
            Suspension { ends, again_until, lasts, back: count(back), of: count(of) }
        });
    }

    /// Why nothing may go at `now`, if the source is suspended.
    pub fn hold(&self, now: Monotonic) -> Option<Hold> {
        let Suspension { ends, lasts, back, of, .. } = self.suspension?;
        (now < ends).then(|| Hold {
            state: State::Suspended,
            why: format!(
                "{back} of {of} evicted entries that were looked at again were back with a newer ping: living clients \
                 were evicted"
            ),
            ends: Some(ends),
            ends_with: format!(
                "time, {} after it began: see why they could not ping, or raise the threshold",
                in_words(lasts)
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::TIMING;
    use super::*;

    fn at(seconds: u64) -> Monotonic {
        Monotonic::from_start(Duration::from_secs(seconds))
    }

    fn id(n: usize) -> EntryId {
        EntryId::key(n.to_string().into_bytes())
    }

    const EVICTED: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    /// `count` were evicted at `seconds`, and `back` of them are there again when they are looked at.
    fn evict(regret: &mut Regret, count: usize, back: usize, seconds: u64) -> bool {
        (0..count).for_each(|n| regret.evicted(&id(n), EVICTED, at(seconds)));
        assert_eq!(regret.due(at(seconds + 59)).count(), 0, "two heartbeats later");
        let due: Vec<EntryId> = regret.due(at(seconds + 60)).cloned().collect();
        for (n, id) in due.iter().enumerate() {
            let found = (n < back).then(|| EVICTED.plus(Duration::from_millis(1)));
            assert_eq!(regret.looked(id, found, at(seconds + 60)), n < back);
        }
        regret.conclude(at(seconds + 60))
    }

    #[track_caller]
    fn check(count: usize, back: usize, suspends: bool) {
        assert_eq!(evict(&mut Regret::new(TIMING), count, back, 0), suspends, "{back} of {count}");
    }

    #[test]
    fn g12_a_tenth_and_five_of_twenty_suspend() {
        check(19, 19, false);
        check(20, 4, false);
        check(20, 5, true);
        check(100, 9, false);
        check(100, 10, true);
    }

    #[test]
    fn g12_only_a_newer_ping_is_a_return() {
        let mut regret = Regret::new(TIMING);
        (0..30).for_each(|n| regret.evicted(&id(n), EVICTED, at(0)));
        assert!((0..30).all(|n| !regret.looked(&id(n), Some(EVICTED), at(60))), "the same ping, put back");
        assert!(!regret.conclude(at(60)));
        assert_eq!(regret.due(at(900)).count(), 0, "each is looked at once");
    }

    #[test]
    fn g12_half_an_hour_and_the_second_time_two_hours() {
        let mut regret = Regret::new(TIMING);
        let ends = |regret: &Regret, now| regret.hold(now).and_then(|hold| hold.ends);
        assert!(evict(&mut regret, 30, 30, 0));
        assert_eq!(ends(&regret, at(60)), Some(at(60 + 1_800)));
        assert_eq!(regret.hold(at(60 + 1_800)), None);
        assert!(!regret.conclude(at(61)), "not by the same looks again");
        assert!(evict(&mut regret, 30, 30, 2_000));
        assert_eq!(ends(&regret, at(2_060)), Some(at(2_060 + 7_200)));
        assert!(evict(&mut regret, 30, 30, 2_060 + 6 * 3_600));
        assert_eq!(ends(&regret, at(25_000)), Some(at(2_120 + 6 * 3_600 + 1_800)), "more than six hours later");
    }

    #[test]
    fn g12_a_suspension_and_that_it_was_not_the_first_are_handed_on() {
        let handed_on = |regret: &Regret, seconds: u64| {
            let mut later = Regret::new(TIMING);
            let now = Now { server: EVICTED.plus(Duration::from_secs(seconds)), mono: at(seconds) };
            later.recall(regret.remember(now), now);
            later
        };
        let ends = |regret: &Regret, now| regret.hold(now).and_then(|hold| hold.ends);
        let mut regret = Regret::new(TIMING);
        assert!(evict(&mut regret, 30, 30, 0));
        regret = handed_on(&regret, 100);
        assert_eq!(ends(&regret, at(100)), Some(at(60 + 1_800)));
        regret = handed_on(&regret, 2_000);
        assert_eq!(ends(&regret, at(2_000)), None);
        assert!(evict(&mut regret, 30, 30, 2_000));
        assert_eq!(ends(&regret, at(2_060)), Some(at(2_060 + 7_200)));
    }

    #[test]
    fn g12_looks_of_more_than_ten_minutes_ago_do_not_count() {
        let mut regret = Regret::new(TIMING);
        assert!(!evict(&mut regret, 19, 19, 0));
        assert!(!evict(&mut regret, 19, 0, 700));
        assert!(evict(&mut Regret::new(TIMING), 38, 19, 0));
    }

    #[test]
    fn g12_memory_is_bounded_and_the_evicted_are_sampled_evenly() {
        let mut regret = Regret::new(TIMING);
        (0..30_000).for_each(|n| regret.evicted(&id(n), EVICTED, at(0)));
        let pending = regret.pending.len();
        assert!((PENDING / 2..=PENDING).contains(&pending), "{pending}");
        let late = (15_000..30_000).filter(|n| regret.pending.contains_key(&id(*n))).count();
        assert!(late * 3 > pending && late * 3 < pending * 2, "{late} of {pending} are of the second half");
    }
}
