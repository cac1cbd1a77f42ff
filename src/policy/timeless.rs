//! What carries no time of its own: since when we have seen it as it is, by our own clock.
//!
//! A hub that stores no time still changes what it stores, or lets a key expire. How long that has stood is what we have
//! watched of it, and no longer: whoever is not remembered has only just been seen.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use super::entry::{EntryId, Mark, Monotonic, Now, Timestamp};

/// How many entries are remembered (about 15 MB). The rest are never old, and so never go.
pub const REMEMBERED: usize = 200_000;

/// `OBJECT IDLETIME` counts whole seconds by a clock that lags behind: what differs by no more is the same access.
const SETTLES: i64 = 2_000;

/// The memory of one source.
#[derive(Debug)]
pub struct Timeless {
    known: HashMap<u64, Seen>,
    hasher: RandomState,
    most: usize,
    /// The survey that runs now.
    survey: u64,
    /// How many keys the server had dropped to make room.
    dropped: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    mark: Mark,
    since: Monotonic,
    looked: Monotonic,
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
        Self { known: HashMap::new(), hasher: RandomState::new(), most: REMEMBERED, survey: 0, dropped: None }
    }
}

impl Timeless {
    /// Takes in that an entry was seen with this mark; none if there is no room to remember it. A look that comes later
    /// than `longest_gap` after the one before counts as the first: nobody knows what happened in between.
    pub fn saw(&mut self, id: &EntryId, mark: Mark, longest_gap: Option<Duration>, now: Now) -> Option<Since> {
        let seen = self.remember(id, mark, now)?;
        let gap = longest_gap.is_some_and(|longest| now.mono.since(seen.looked) > longest);
        if seen.mark != mark || gap {
            (seen.mark, seen.since) = (mark, now.mono);
        }
        seen.looked = now.mono;
        Some(Since { at: now.server.minus(now.mono.since(seen.since)), lived: seen.lived })
    }

    /// Takes in that an entry showed a sign of life.
    pub fn lived(&mut self, id: &EntryId, now: Now) {
        let alive = Mark::of([]);
        if let Some(seen) = self.remember(id, alive, now) {
            (seen.mark, seen.since, seen.looked, seen.lived) = (alive, now.mono, now.mono, true);
        }
    }

    /// The time of an access, which is told anew at each look and never quite the same: as it was told first.
    pub fn settled(&mut self, id: &EntryId, at: Timestamp, now: Now) -> Timestamp {
        let Some(seen) = self.remember(id, Mark::of([]), now) else { return at };
        if seen.at.millis_since(at).abs() > SETTLES {
            seen.at = at;
        }
        seen.at
    }

    /// Takes in how many keys the server has dropped to make room: where it dropped any, an absence is nobody's doing, and
    /// begins anew.
    pub fn dropped(&mut self, count: u64) {
        if self.dropped.replace(count).is_some_and(|before| before != count) {
            self.known.clear();
        }
    }

    /// Takes in that an entry is neither gone nor a sign of life: what was seen of it before counts no more.
    pub fn forget(&mut self, id: &EntryId) {
        self.known.remove(&self.hasher.hash_one(id));
    }

    /// Takes in that no absence meant anything: each begins anew.
    pub fn forget_all(&mut self) {
        self.known.clear();
    }

    /// Begins a survey.
    pub fn begin(&mut self) {
        self.survey += 1;
    }

    /// Ends a survey that saw everything: what it did not see is forgotten.
    pub fn end(&mut self) {
        let survey = self.survey;
        self.known.retain(|_, seen| seen.survey >= survey);
    }

    fn remember(&mut self, id: &EntryId, mark: Mark, now: Now) -> Option<&mut Seen> {
        let key = self.hasher.hash_one(id);
        if self.known.len() >= self.most && !self.known.contains_key(&key) {
            return None;
        }
        let first = Seen {
            mark,
            since: now.mono,
            looked: now.mono,
            lived: false,
            at: Timestamp::from_millis(i64::MIN / 4),
            survey: self.survey,
        };
        let seen = self.known.entry(key).or_insert(first);
        seen.survey = self.survey;
        Some(seen)
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

    const GAP: Option<Duration> = Some(Duration::from_secs(60));

    /// How long `a` has been as it is at `second`, in seconds.
    fn age(memory: &mut Timeless, text: &str, gap: Option<Duration>, second: u64) -> i64 {
        let now = at(second);
        now.server.millis_since(memory.saw(&id("a"), mark(text), gap, now).unwrap().at) / 1_000
    }

    #[test]
    fn what_stands_still_ages_and_what_changes_begins_anew() {
        let mut memory = Timeless::default();
        assert_eq!(age(&mut memory, "x", None, 100), 0);
        assert_eq!(age(&mut memory, "x", None, 400), 300);
        assert_eq!(age(&mut memory, "y", None, 401), 0);
        assert_eq!(age(&mut memory, "y", None, 411), 10);
        assert_eq!(age(&mut memory, "x", None, 412), 0);
    }

    #[test]
    fn a_look_too_late_is_the_first() {
        let mut memory = Timeless::default();
        age(&mut memory, "x", GAP, 100);
        assert_eq!(age(&mut memory, "x", GAP, 160), 60);
        assert_eq!(age(&mut memory, "x", GAP, 221), 0);
        assert_eq!(age(&mut memory, "x", GAP, 250), 29);
    }

    #[test]
    fn missing_is_not_aged_by_a_clock_that_moves_on_two_hours() {
        let mut memory = Timeless::default();
        memory.saw(&id("a"), mark("x"), GAP, at(100));
        let jumped = Now { server: at(7_300).server, ..at(150) };
        assert_eq!(jumped.server.millis_since(memory.saw(&id("a"), mark("x"), GAP, jumped).unwrap().at), 50_000);
    }

    #[test]
    fn who_lived_before_is_told_from_who_was_never_there() {
        let mut memory = Timeless::default();
        memory.lived(&id("a"), at(10));
        let lived = |memory: &mut Timeless, name| memory.saw(&id(name), mark("gone"), GAP, at(20)).unwrap().lived;
        assert!(lived(&mut memory, "a") && !lived(&mut memory, "b"));
        assert_eq!(memory.saw(&id("a"), mark("gone"), GAP, at(30)).unwrap().at, at(20).server);
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
        let saw = |memory: &mut Timeless, name| memory.saw(&id(name), mark("x"), None, at(1)).is_some();
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
        age(&mut memory, "x", None, 100);
        memory.dropped(7);
        assert_eq!(age(&mut memory, "x", None, 200), 100);
        memory.dropped(8);
        assert_eq!(age(&mut memory, "x", None, 300), 0);
        memory.forget(&id("a"));
        assert_eq!(age(&mut memory, "x", None, 400), 0);
    }
}
