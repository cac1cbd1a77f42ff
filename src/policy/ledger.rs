//! Everything one process knows of one source, and what follows from it: who may be due, and what may go.
//!
//! The reaper feeds it with what Redis answered and does what it allows; so does the simulation, without a Redis. The
//! rule itself is in [`rule`]; here its facts are kept, in the only order in which they may be taken in.

use super::continuity::{Break, Continuity, Identity};
use super::entry::{EntryId, Mark, Monotonic, Now};
use super::guard::{self, Change, Guard, Hold, Lifted, State};
use super::outcome::Outcome;
use super::pace::Pace;
use super::rule::{self, Facts, Refusal};
use super::schedule::SHORTEST_WAIT;
use super::staleness::Timing;
use super::survey::{Judged, Survey};
use super::watch::Watch;

/// What one process knows of one source.
#[derive(Clone, Debug)]
pub struct Ledger {
    timing: Timing,
    continuity: Continuity,
    guard: Guard,
    watch: Watch,
    pace: Pace,
    last: Option<LastSurvey>,
    failing: bool,
}

/// What the last complete survey left behind.
#[derive(Clone, Debug)]
struct LastSurvey {
    identity: Identity,
    began: Now,
    ended: Now,
    population: u64,
    /// Every candidate was kept, so that what is watched later was younger by then.
    kept_all: bool,
}

/// What a survey changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// Continuity breaks that it found.
    pub breaks: Vec<Break>,
    /// What it changed about the guards.
    pub changes: Vec<Change>,
}

/// The reasons that an entry is counted for, once a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// A dry run would have evicted it.
    DryRun,
    /// E3 or E4 kept it.
    Observing,
    /// E5 kept it.
    Guard,
    /// E8 kept it.
    Limit,
}

impl Ledger {
    /// Nothing is known yet.
    pub fn new(timing: Timing, settings: &guard::Settings, lifted: Lifted) -> Self {
        Self {
            timing,
            continuity: Continuity::new(timing, settings.reconnect_grace),
            guard: Guard::new(timing, settings, lifted),
            watch: Watch::default(),
            pace: Pace::new(settings.max_evict_rate, timing.heartbeat_interval),
            last: None,
            failing: false,
        }
    }

    /// For a single run: starts from this continuity instead of from a first contact.
    pub fn resume(&mut self, continuity: Continuity) {
        self.continuity = continuity;
    }

    // === what is taken in ===

    /// Takes in a complete survey of the process `identity`. Its candidates move to the watch list.
    pub fn surveyed(&mut self, identity: &Identity, began: Now, ended: Now, survey: &mut Survey) -> Learned {
        self.failing = false;
        let mut breaks = self.looked(identity, began, ended);
        let changes = self.guard.observe(survey, ended);
        if changes.contains(&Change::SpokeAgain) {
            self.continuity.silence_ended(ended);
            self.broke(&[Break::SilenceEnded], ended.mono);
            breaks.push(Break::SilenceEnded);
        }
        let candidates = std::mem::take(&mut survey.candidates);
        let kept_all = survey.unwatched == 0;
        let previous = self.last.as_ref().filter(|last| last.kept_all && breaks.is_empty()).map(|last| last.began.mono);
        self.watch.observe(candidates, kept_all, previous, ended, &self.timing);
        let population = survey.population();
        self.last = Some(LastSurvey { identity: identity.clone(), began, ended, population, kept_all });
        Learned { breaks, changes }
    }

    /// Takes in that entries were re-read at `now` on the process `identity`; says what broke before. Whoever else
    /// answers than the survey's process, or after a break, has to be surveyed first: then nothing is decided.
    pub fn reread(&mut self, identity: &Identity, now: Now) -> Vec<Break> {
        let known = self.last.as_ref().is_some_and(|last| last.identity == *identity);
        let breaks = self.looked(identity, now, now);
        if !known || !breaks.is_empty() {
            self.last = None;
        }
        breaks
    }

    /// Takes in that Redis could not be read; says whether that is news.
    pub fn failed(&mut self) -> bool {
        self.continuity.missed();
        !std::mem::replace(&mut self.failing, true)
    }

    fn looked(&mut self, identity: &Identity, began: Now, ended: Now) -> Vec<Break> {
        let breaks = self.continuity.looked(identity, began, ended);
        self.broke(&breaks, ended.mono);
        breaks
    }

    /// After a break no earlier look counts, and a silence has to prove itself anew.
    fn broke(&mut self, breaks: &[Break], now: Monotonic) {
        if !breaks.is_empty() {
            self.watch.clear();
            self.guard.continuity_broke(now);
        }
    }

    /// Takes in what became of an entry that was struck.
    pub fn struck(&mut self, id: &EntryId, outcome: Outcome, now: Monotonic) {
        let heartbeat = self.timing.heartbeat_interval;
        match outcome {
            Outcome::Evicted | Outcome::Gone => self.watch.forget(id),
            _ if self.watch.is_closed() => self.watch.forget(id),
            // The mark may still stand: the next look tells.
            Outcome::Spared | Outcome::TooLate => self.watch.postpone(id, now.plus(heartbeat / 10)),
            Outcome::Blocked(_) | Outcome::Unknown => self.watch.postpone(id, now.plus(heartbeat)),
        }
    }

    // === what follows ===

    /// Server time carried forward from the last survey; none before the first, or after a break since.
    pub fn now(&self, mono: Monotonic) -> Option<Now> {
        self.last.as_ref().map(|last| last.ended.at(mono))
    }

    /// Whether the source as a whole may evict at `now`.
    ///
    /// # Errors
    /// The first condition that it fails.
    pub fn decide_source(&self, now: Now) -> Result<(), Refusal> {
        rule::decide_source(&self.facts(), now)
    }

    /// Whether an entry, re-read at `now`, may be struck; if not, it is looked at again when that may have changed.
    ///
    /// # Errors
    /// The first condition that it fails.
    pub fn decide(&mut self, id: &EntryId, judged: Judged, mark: Mark, now: Now) -> Result<(), Refusal> {
        let decided = rule::decide(&self.facts(), judged, mark, self.watch.get(id), now);
        self.defer(id, decided, now)
    }

    /// What [`Self::decide`] would say of an entry whose mark still stood: for a run that strikes nothing and so
    /// re-reads nothing. Either way it is looked at again later.
    ///
    /// # Errors
    /// The first condition that it fails.
    pub fn decide_unread(&mut self, id: &EntryId, now: Now) -> Result<(), Refusal> {
        let watched = self.watch.get(id).ok_or(Refusal::Moved)?;
        let decided = rule::decide_watched(&self.facts(), watched, now);
        if decided.is_ok() {
            self.watch.postpone(id, now.mono.plus(self.timing.heartbeat_interval));
        }
        self.defer(id, decided, now)
    }

    fn defer(&mut self, id: &EntryId, decided: Result<(), Refusal>, now: Now) -> Result<(), Refusal> {
        match &decided {
            Ok(()) => {}
            Err(Refusal::Unconfirmed { until } | Refusal::Grace { until }) => self.watch.postpone(id, *until),
            Err(Refusal::Held(_) | Refusal::FactsTooOld) => {
                self.watch.postpone(id, now.mono.plus(self.timing.heartbeat_interval));
            }
            Err(Refusal::Unreadable(_) | Refusal::Future | Refusal::Live | Refusal::Moved) => self.watch.forget(id),
        }
        decided
    }

    /// When something may be due, if nothing but time is wanting; `pace_frees` is when the whole process may evict.
    pub fn next_strike(&mut self, mono: Monotonic, pace_frees: Monotonic) -> Option<Monotonic> {
        let now = self.now(mono)?;
        let due = self.watch.next_due()?;
        let free = match self.decide_source(now) {
            Ok(()) => self.pace.frees_at(mono, self.population()).max(pace_frees),
            Err(Refusal::Grace { until }) => until,
            Err(_) => return None,
        };
        Some(due.max(free).max(mono.plus(SHORTEST_WAIT)))
    }

    /// The first `limit` entries that are due at `now`, longest due first.
    pub fn due(&self, now: Monotonic, limit: usize) -> Vec<EntryId> {
        self.watch.due(now, limit)
    }

    /// Why the source holds at `mono`, if it does: what its state, its metric and its report say.
    pub fn hold(&self, mono: Monotonic) -> Option<Hold> {
        self.blind(mono).or_else(|| rule::hold(&self.facts(), self.now(mono)?))
    }

    fn blind(&self, mono: Monotonic) -> Option<Hold> {
        let seen = self.last.as_ref().map(|last| last.ended.mono);
        let limit = self.timing.survey_interval() + self.timing.heartbeat_interval;
        let unseen = seen.is_none_or(|seen| mono.since(seen) > limit);
        (self.failing && unseen).then(|| Hold {
            state: State::Blind,
            why: "no survey has succeeded lately".into(),
            ends: None,
            ends_with: "a complete survey; then a grace, as after any break".into(),
        })
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            timing: &self.timing,
            continuity: &self.continuity,
            guard: &self.guard,
            surveyed: self.last.as_ref().map(|last| (last.began.mono, last.ended.mono)),
        }
    }

    fn population(&self) -> u64 {
        self.last.as_ref().map_or(0, |last| last.population)
    }

    // === pace ===

    /// How many of this source may go now (E8).
    pub fn allowance(&mut self, now: Monotonic) -> u64 {
        self.pace.allowance(now, self.population())
    }

    /// Takes note that `count` went, or may have gone.
    pub fn spend(&mut self, now: Monotonic, count: u64) {
        self.pace.spend(now, count);
    }

    // === the watch list ===

    /// The entries older than `watch_from`.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Stops watching an entry that is gone, or can't be judged.
    pub fn forget(&mut self, id: &EntryId) {
        self.watch.forget(id);
    }

    /// Whether an entry was not counted for `reason` before; counts it.
    pub fn count_once(&mut self, id: &EntryId, reason: Counted) -> bool {
        self.watch.count_once(id, reason as u8)
    }

    /// How many watched entries that are stale at `now` the source keeps and were not counted for that before; counts
    /// them.
    pub fn count_held(&mut self, now: Now) -> Option<(Counted, u64)> {
        let reason = match rule::hold(&self.facts(), now)?.state {
            State::Silent | State::Mass => Counted::Guard,
            State::Grace => Counted::Observing,
            State::Blind | State::Normal => return None,
        };
        Some((reason, self.watch.count_stale_once(reason as u8, now.server, &self.timing)))
    }

    /// For a single run: from now on only what is stale already is watched.
    pub fn close(&mut self, mono: Monotonic) {
        if let Some(now) = self.now(mono) {
            self.watch.close(now.server, &self.timing);
        }
    }

    /// For a single run: takes in again what is stale; what the last survey could not keep has its turn.
    pub fn open(&mut self) {
        self.watch.open();
    }
}
