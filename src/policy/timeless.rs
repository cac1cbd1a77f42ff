//! What carries no time of its own: since when we have seen it as it is, by our own clock.
//!
//! A hub that stores no time still changes what it stores, or lets a key expire. How long that has stood is what we have
//! watched of it, and no longer: whoever is not remembered has only just been seen.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault};
use std::time::Duration;

use siphasher::sip::SipHasher13;

use super::entry::{EntryId, Mark, Monotonic, Now, Timestamp};
use super::memory::{Absences, MOST_ABSENCES};

/// How many entries are remembered (about 15 MB). The rest are never old, and so never go.
pub const REMEMBERED: usize = 200_000;

/// `OBJECT IDLETIME` counts whole seconds by a clock that lags behind: what differs by no more is the same access.
const SETTLES: i64 = 2_000;

/// The memory of one source.
#[derive(Debug)]
pub struct Timeless {
    known: HashMap<u64, Seen>,
    /// The same in every process, since single runs leave hashes to one another.
    hasher: BuildHasherDefault<SipHasher13>,
    most: usize,
    /// The survey that runs now.
    survey: u64,
    /// How many keys the server had dropped to make room.
    dropped: Option<u64>,
    /// What an earlier single run left, until the first survey is over.
    recalled: Recalled,
}

/// Whom earlier single runs saw missing.
#[derive(Debug, Default)]
struct Recalled {
    ages: HashMap<u64, Duration>,
    /// When they had that age.
    at: Monotonic,
    /// Whoever else is missing now was not then.
    whole: bool,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    mark: Mark,
    since: Monotonic,
    /// For how long before that earlier single runs saw it so.
    before: Duration,
    looked: Monotonic,
    /// An absence.
    absent: bool,
    /// A sign of life was seen before.
    lived: bool,
    at: Timestamp,
    survey: u64,
}

/// Since when something has been as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since {
    /// By server time now, less what our own clock says has passed.
    pub at: Timestamp,
    /// A sign of life was seen before that.
    pub lived: bool,
}

impl Default for Timeless {
    fn default() -> Self {
        Self {
            known: HashMap::new(),
            hasher: BuildHasherDefault::default(),
            most: REMEMBERED,
            survey: 0,
            dropped: None,
            recalled: Recalled::default(),
        }
    }
}

impl Timeless {
    /// Takes in that an entry was seen with this value, whose mark this is; none if there is no room to remember it.
    pub fn saw(&mut self, id: &EntryId, mark: Mark, now: Now) -> Option<Since> {
        let seen = self.remember(id, mark, now)?;
        if seen.mark != mark {
            seen.begin(mark, now);
        }
        Some(seen.looked_at(now))
    }

    /// Takes in that an entry lacks what it is judged by, which is what the mark stands for; none if there is no room to
    /// remember it. A look that comes later than `longest_gap` after the one before counts as the first: nobody knows
    /// what happened in between.
    pub fn missed(&mut self, id: &EntryId, mark: Mark, longest_gap: Duration, now: Now) -> Option<Since> {
        let (at, whole) = (self.recalled.at, self.recalled.whole);
        let left = self.recalled.ages.get(&self.stable(self.hasher.hash_one(id), mark)).copied();
        let seen = self.remember(id, mark, now)?;
        let first = !seen.absent && !seen.lived;
        if seen.mark != mark || now.mono.since(seen.looked) > longest_gap {
            seen.begin(mark, now);
        }
        seen.absent = true;
        match left {
            Some(age) if first => (seen.since, seen.before) = (at, age),
            // Whoever was not missing at the run before lived then.
            None if first => seen.lived = whole,
            _ => {}
        }
        Some(seen.looked_at(now))
    }

    /// Takes in that an entry showed a sign of life.
    pub fn lived(&mut self, id: &EntryId, now: Now) {
        let alive = Mark::of([]);
        if let Some(seen) = self.remember(id, alive, now) {
            seen.begin(alive, now);
            (seen.looked, seen.lived) = (now.mono, true);
        }
    }

    /// The time of an access, which is told anew at each look and never quite the same: as it was told first. It stands for
    /// the access; when that was is the later of the two.
    pub fn settled(&mut self, id: &EntryId, at: Timestamp, now: Now) -> Timestamp {
        let Some(seen) = self.remember(id, Mark::of([]), now) else { return at };
        if seen.at.millis_since(at).abs() > SETTLES {
            seen.at = at;
        }
        seen.at
    }

    // === what one single run leaves to the next ===

    /// Goes on from what an earlier single run left, `passed` before our clock showed `at`.
    pub fn recall(&mut self, left: &Absences, passed: Duration, at: Monotonic) {
        self.dropped = Some(left.dropped);
        let ages = left.ages.iter().map(|(hash, age)| (*hash, *age + passed)).collect();
        self.recalled = Recalled { ages, at, whole: left.whole };
    }

    /// Who is missing at `now`, for the next single run; the longest missing, if they are too many. None where nobody can
    /// tell whether the server drops keys. `younger_than`: only those that have not been missing for so long.
    pub fn absences(&self, younger_than: Option<Duration>, now: Monotonic) -> Option<Absences> {
        let missing = self.known.iter().filter(|(_, seen)| seen.absent && seen.survey == self.survey);
        let mut ages: Vec<(u64, Duration)> = missing
            .map(|(key, seen)| (self.stable(*key, seen.mark), seen.age(now)))
            .filter(|(_, age)| younger_than.is_none_or(|limit| *age < limit))
            .collect();
        ages.sort_unstable_by_key(|(hash, age)| (std::cmp::Reverse(*age), *hash));
        let whole = ages.len() <= MOST_ABSENCES && self.known.len() < self.most;
        ages.truncate(MOST_ABSENCES);
        Some(Absences { dropped: self.dropped?, whole, ages })
    }

    /// After a break nothing proves what was missing before it: each absence begins at `now`.
    pub fn broke(&mut self, now: Monotonic) {
        self.recalled = Recalled::default();
        for seen in self.known.values_mut().filter(|seen| seen.absent) {
            (seen.since, seen.before) = (now, Duration::ZERO);
        }
    }

    fn stable(&self, key: u64, mark: Mark) -> u64 {
        self.hasher.hash_one((key, mark))
    }

    // === what makes an absence mean nothing ===

    /// Takes in how many keys the server has dropped to make room: where it dropped any, an absence is nobody's doing, and
    /// begins anew.
    pub fn dropped(&mut self, count: u64) {
        if self.dropped.replace(count).is_some_and(|before| before != count) {
            self.forget_all();
        }
    }

    /// Takes in that an entry is neither gone nor a sign of life: what was seen of it before counts no more.
    pub fn forget(&mut self, id: &EntryId) {
        self.known.remove(&self.hasher.hash_one(id));
    }

    /// Takes in that no absence meant anything: each begins anew.
    pub fn forget_all(&mut self) {
        self.known.clear();
        self.recalled = Recalled::default();
    }

    /// Begins a survey.
    pub fn begin(&mut self) {
        self.survey += 1;
    }

    /// Ends a survey that saw everything: what it did not see is forgotten.
    pub fn end(&mut self) {
        let survey = self.survey;
        self.known.retain(|_, seen| seen.survey >= survey);
        self.recalled = Recalled::default();
    }

    fn remember(&mut self, id: &EntryId, mark: Mark, now: Now) -> Option<&mut Seen> {
        let key = self.hasher.hash_one(id);
        if self.known.len() >= self.most && !self.known.contains_key(&key) {
            return None;
        }
        let first = Seen {
            mark,
            since: now.mono,
            before: Duration::ZERO,
            looked: now.mono,
            absent: false,
            lived: false,
            at: Timestamp::from_millis(i64::MIN / 4),
            survey: self.survey,
        };
        let seen = self.known.entry(key).or_insert(first);
        seen.survey = self.survey;
        Some(seen)
    }
}

impl Seen {
    /// It is seen like this for the first time.
    fn begin(&mut self, mark: Mark, now: Now) {
        (self.mark, self.since, self.before, self.absent) = (mark, now.mono, Duration::ZERO, false);
    }

    fn age(&self, now: Monotonic) -> Duration {
        now.since(self.since) + self.before
    }

    fn looked_at(&mut self, now: Now) -> Since {
        self.looked = now.mono;
        Since { at: now.server.minus(self.age(now.mono)), lived: self.lived }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::at;
    use super::*;

    fn id(name: &str) -> EntryId {
        EntryId::key(name.as_bytes())
    }

    fn mark(text: &str) -> Mark {
        Mark::of([Some(text.as_bytes())])
    }

    const GAP: Duration = Duration::from_secs(60);

    /// How long `a` has been as it is at `second`, in seconds.
    fn age(memory: &mut Timeless, text: &str, second: u64) -> i64 {
        let now = at(second);
        now.server.millis_since(memory.saw(&id("a"), mark(text), now).unwrap().at) / 1_000
    }

    /// The same, if the value stands for an absence.
    fn missing(memory: &mut Timeless, text: &str, second: u64) -> i64 {
        let now = at(second);
        now.server.millis_since(memory.missed(&id("a"), mark(text), GAP, now).unwrap().at) / 1_000
    }

    #[test]
    fn what_stands_still_ages_and_what_changes_begins_anew() {
        let mut memory = Timeless::default();
        assert_eq!(age(&mut memory, "x", 100), 0);
        assert_eq!(age(&mut memory, "x", 400), 300);
        assert_eq!(age(&mut memory, "y", 401), 0);
        assert_eq!(age(&mut memory, "y", 411), 10);
        assert_eq!(age(&mut memory, "x", 412), 0);
    }

    #[test]
    fn a_look_too_late_is_the_first() {
        let mut memory = Timeless::default();
        missing(&mut memory, "x", 100);
        assert_eq!(missing(&mut memory, "x", 160), 60);
        assert_eq!(missing(&mut memory, "x", 221), 0);
        assert_eq!(missing(&mut memory, "x", 250), 29);
    }

    #[test]
    fn missing_is_not_aged_by_a_clock_that_moves_on_two_hours() {
        let mut memory = Timeless::default();
        memory.missed(&id("a"), mark("x"), GAP, at(100));
        let jumped = Now { server: at(7_300).server, ..at(150) };
        assert_eq!(jumped.server.millis_since(memory.missed(&id("a"), mark("x"), GAP, jumped).unwrap().at), 50_000);
    }

    #[test]
    fn who_lived_before_is_told_from_who_was_never_there() {
        let mut memory = Timeless::default();
        memory.lived(&id("a"), at(10));
        let lived = |memory: &mut Timeless, name| memory.missed(&id(name), mark("gone"), GAP, at(20)).unwrap().lived;
        assert!(lived(&mut memory, "a") && !lived(&mut memory, "b"));
        assert_eq!(memory.missed(&id("a"), mark("gone"), GAP, at(30)).unwrap().at, at(20).server);
    }

    #[test]
    fn an_access_told_a_second_earlier_or_later_is_the_same() {
        let mut memory = Timeless::default();
        let mut settled = |second: u64| memory.settled(&id("a"), at(second).server, at(100));
        assert_eq!(
            [settled(50), settled(51), settled(49), settled(53), settled(52)],
            [50, 50, 50, 53, 53].map(|s| at(s).server)
        );
    }

    #[test]
    fn what_a_survey_did_not_see_is_forgotten_and_a_full_memory_knows_nobody_new() {
        let mut memory = Timeless { most: 2, ..Timeless::default() };
        let saw = |memory: &mut Timeless, name| memory.saw(&id(name), mark("x"), at(1)).is_some();
        assert!(saw(&mut memory, "a") && saw(&mut memory, "b") && !saw(&mut memory, "c"));
        memory.begin();
        assert!(saw(&mut memory, "b"));
        memory.end();
        assert!(saw(&mut memory, "c") && !saw(&mut memory, "a") && saw(&mut memory, "b"));
    }

    /// Redis made room, and whose key that was nobody knows.
    #[test]
    fn missing_begins_anew_where_redis_drops_keys() {
        let mut memory = Timeless::default();
        memory.dropped(7);
        missing(&mut memory, "x", 100);
        memory.dropped(7);
        assert_eq!(missing(&mut memory, "x", 150), 50);
        memory.dropped(8);
        assert_eq!(missing(&mut memory, "x", 200), 0);
        assert_eq!(missing(&mut memory, "x", 250), 50);
        memory.forget(&id("a"));
        assert_eq!(missing(&mut memory, "x", 300), 0);
    }

    /// What a run leaves that saw `a` missing for so many seconds.
    fn left(seconds: u64) -> Absences {
        let mut memory = Timeless::default();
        memory.dropped(7);
        for n in 0..=seconds / 30 {
            missing(&mut memory, "x", 1_000 + n * 30);
        }
        memory.absences(None, at(1_000 + seconds).mono).unwrap()
    }

    /// The next run, whose clock has just begun, that many seconds later.
    fn next(left: &Absences, passed: u64) -> Timeless {
        let mut memory = Timeless::default();
        memory.recall(left, Duration::from_secs(passed), at(2).mono);
        memory.begin();
        memory
    }

    #[test]
    fn missing_goes_on_in_the_next_single_run() {
        let left = left(60);
        assert_eq!((left.dropped, left.whole, left.ages.len(), left.ages[0].1.as_secs()), (7, true, 1, 60));
        let mut memory = next(&left, 600);
        assert_eq!(missing(&mut memory, "x", 5), 663);
        memory.end();
        assert_eq!(missing(&mut memory, "x", 35), 693);
        let twice = memory.absences(None, at(35).mono).unwrap();
        assert_eq!(twice.ages, [(left.ages[0].0, Duration::from_secs(693))], "and in the one after that");
    }

    #[test]
    fn missing_begins_anew_in_the_next_single_run_after_anything_between() {
        let left = left(60);
        let anew = |change: fn(&mut Timeless)| {
            let mut memory = next(&left, 600);
            change(&mut memory);
            missing(&mut memory, "x", 5)
        };
        assert_eq!(anew(|_| ()), 663);
        assert_eq!(anew(|memory| memory.broke(at(3).mono)), 0, "a break");
        assert_eq!(anew(|memory| memory.dropped(8)), 0, "keys that Redis dropped");
        assert_eq!(anew(|memory| memory.forget_all()), 0, "an absence that means nothing");
        assert_eq!(anew(|memory| memory.lived(&id("a"), at(3))), 0, "a sign of life");
        assert_eq!(anew(|memory| memory.end()), 0, "it was no entry at the first survey");
        let mut other = next(&left, 600);
        assert_eq!(missing(&mut other, "y", 5), 0, "it lacks another thing");
        let mut broken = next(&left, 600);
        missing(&mut broken, "x", 5);
        broken.broke(at(6).mono);
        assert_eq!(missing(&mut broken, "x", 8), 2, "a break that shows later");
        let mut evicted = next(&left, 600);
        missing(&mut evicted, "x", 5);
        evicted.end();
        evicted.forget(&id("a"));
        assert_eq!(missing(&mut evicted, "x", 8), 0, "another of its name");
    }

    #[test]
    fn only_those_that_are_missing_are_left_and_the_longest_missing_if_they_are_many() {
        let mut memory = Timeless::default();
        assert_eq!(memory.absences(None, at(0).mono), None, "nobody knows whether Redis drops keys");
        memory.dropped(0);
        memory.begin();
        let mut see = |name: u64, second| memory.missed(&id(&name.to_string()), mark("x"), GAP, at(second)).is_some();
        for n in 0..=MOST_ABSENCES as u64 {
            assert!(see(n, 100 - n / 100));
        }
        memory.lived(&id("live"), at(100));
        memory.saw(&id("unchanged"), mark("x"), at(100));
        let left = memory.absences(None, at(100).mono).unwrap();
        assert_eq!((left.whole, left.ages.len()), (false, MOST_ABSENCES));
        let ages = |left: &Absences| left.ages.iter().map(|(_, age)| age.as_secs()).collect::<Vec<_>>();
        assert_eq!((ages(&left)[0], ages(&left)[MOST_ABSENCES - 1]), (50, 0), "the youngest has no room");
        assert_eq!(left, memory.absences(None, at(100).mono).unwrap(), "the same ones each time");
        let young = memory.absences(Some(Duration::from_secs(2)), at(100).mono).unwrap();
        assert_eq!((young.whole, young.ages.len(), ages(&young)[0]), (true, 200, 1));
    }

    /// Whoever was there at the run before lost its key since then, and may be one of many.
    #[test]
    fn who_is_not_among_those_who_were_missing_lived() {
        for whole in [true, false] {
            let mut memory = next(&Absences { whole, ..left(60) }, 600);
            let lived = |memory: &mut Timeless, name| memory.missed(&id(name), mark("x"), GAP, at(5)).unwrap().lived;
            assert_eq!((lived(&mut memory, "a"), lived(&mut memory, "b")), (false, whole));
            memory.end();
            assert!(!lived(&mut memory, "c"), "it is new");
        }
    }
}
