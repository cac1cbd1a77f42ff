//! One source's reaper: two verbs.
//!
//! [`Reaper::survey`] reads everything, takes it in, and knows afterwards who may be due and whether anything may go
//! at all. [`Reaper::strike`] re-reads what is due and evicts what the rule and the pace allow at that moment; it is
//! the only caller of [`Store::evict`]. A sweep is one after the other; a deadline calls the second alone.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::policy::continuity::{Break, Continuity, Identity};
use crate::policy::duration::in_words;
use crate::policy::entry::{EntryId, Monotonic, Now, Timestamp};
use crate::policy::guard::{self, Change, Guard, Hold, Lifted, State};
use crate::policy::outcome::Outcome;
use crate::policy::pace::{Pace, Rate, Shared};
use crate::policy::rule::{self, Facts, Refusal};
use crate::policy::schedule::SHORTEST_WAIT;
use crate::policy::staleness::Timing;
use crate::policy::survey::Survey;
use crate::policy::watch::Watch;
use crate::store::connect::Health;
use crate::store::error::Error;
use crate::store::evict::{Evicted, Prepared};
use crate::store::{Found, Looked, Store, Surveyed};
use crate::text::quoted;

mod account;

pub use account::{Finding, Report, Skipped, Verb};

/// Entries re-read and struck in one go: a strike's window of server time must not close on its last batch.
const CHUNK: usize = 200;

/// Eviction lines a second, before a summary takes their place.
const LOGGED_A_SECOND: u32 = 100;

/// What a reaper may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Evict.
    Evict,
    /// Say what would be evicted, and write nothing.
    DryRun,
}

/// What is set for one source's reaper.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Threshold and heartbeat.
    pub timing: Timing,
    /// The guards.
    pub guard: guard::Settings,
    /// Whether it evicts.
    pub mode: Mode,
    /// Guards that are lifted for this run.
    pub lifted: Lifted,
}

/// The reaper of one source.
#[derive(Debug)]
pub struct Reaper {
    store: Store,
    clock: Clock,
    settings: Settings,
    continuity: Continuity,
    guard: Guard,
    watch: Watch,
    pace: Pace,
    shared: Arc<Mutex<Shared>>,
    last: Option<LastSurvey>,
    failing: bool,
    told: Option<State>,
    /// Since when the pace alone has kept what is due.
    throttled: Option<Monotonic>,
    log_rate: Rate,
}

/// What the last complete survey left behind.
#[derive(Clone, Debug)]
struct LastSurvey {
    identity: Identity,
    began: Now,
    ended: Now,
    population: u64,
}

/// Places of the reasons in a watched entry's memory of what it was counted for.
mod counted {
    pub(super) const DRY_RUN: u8 = 0;
    pub(super) const OBSERVING: u8 = 1;
    pub(super) const GUARD: u8 = 2;
    pub(super) const LIMIT: u8 = 3;
}

impl Reaper {
    /// A reaper that has seen nothing yet. `shared` is the pace of the whole process.
    pub fn new(store: Store, clock: Clock, settings: Settings, shared: Arc<Mutex<Shared>>) -> Self {
        let Settings { timing, guard, lifted, .. } = &settings;
        Self {
            continuity: Continuity::new(*timing, guard.reconnect_grace),
            guard: Guard::new(*timing, guard, *lifted),
            watch: Watch::default(),
            pace: Pace::new(guard.max_evict_rate, timing.heartbeat_interval),
            log_rate: Rate::new(Some(LOGGED_A_SECOND)),
            last: None,
            failing: false,
            told: None,
            throttled: None,
            store,
            clock,
            settings,
            shared,
        }
    }

    /// The source's store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The source's rhythm.
    pub fn timing(&self) -> &Timing {
        &self.settings.timing
    }

    /// Whether it evicts.
    pub fn mode(&self) -> Mode {
        self.settings.mode
    }

    /// For a single run: lets the server's uptime stand in for what an earlier run would have seen. Where it is
    /// unknown, this is a first contact like any other.
    pub fn resume(&mut self, health: &Health) {
        if let Some(uptime) = health.uptime {
            let grace = self.settings.guard.reconnect_grace;
            let identity = health.identity.clone();
            self.continuity = Continuity::resumed(self.settings.timing, grace, identity, health.now, uptime);
        }
    }

    /// For a single run: from now on only what is stale already is watched.
    pub fn close(&mut self) {
        if let Some(now) = self.now() {
            self.watch.close(now.server, &self.settings.timing);
        }
    }

    /// For a single run: takes in again what is stale; what the last survey could not keep has its turn.
    pub fn open(&mut self) {
        self.watch.open();
    }

    /// How many entries are watched.
    pub fn watched(&self) -> usize {
        self.watch.len()
    }

    /// For a single run: whether nothing is left to strike.
    pub fn is_done(&self) -> bool {
        self.watch.is_empty()
    }

    // === survey ===

    /// Reads everything in the source and takes it in. Reads only, so it may be dropped at any await.
    pub async fn survey(&mut self) -> Report {
        let began = self.clock.now();
        let mut report = self.report(Verb::Survey);
        match self.store.survey().await {
            Ok(surveyed) => self.take_in(surveyed, &mut report),
            Err(error) => self.fail(error, &mut report),
        }
        self.conclude(report, began)
    }

    fn take_in(&mut self, surveyed: Surveyed, report: &mut Report) {
        let Surveyed { identity, began, ended, mut survey } = surveyed;
        self.failing = false;
        self.look_succeeded(&identity, began, ended, report);
        report.changes = self.guard.observe(&survey, ended);
        if report.changes.contains(&Change::SpokeAgain) {
            self.continuity.silence_ended(ended);
            self.broke(&[Break::SilenceEnded], ended.mono, report);
        }
        let candidates = std::mem::take(&mut survey.candidates);
        self.watch.observe(candidates, survey.unwatched == 0, ended, &self.settings.timing);
        self.last = Some(LastSurvey { identity, began, ended, population: survey.population() });
        self.count_held(ended, report);
        self.tell_survey(&survey, ended.mono.since(began.mono));
        report.now = Some(ended);
        report.survey = Some(Arc::new(survey));
    }

    fn tell_survey(&self, survey: &Survey, took: Duration) {
        let source = &*self.store.source().name;
        let (live, stale, future, unreadable) = (survey.live(), survey.stale, survey.future, survey.unreadable_total());
        let (watched, took) = (self.watch.len(), in_words(took));
        info!(source, live, stale, future, unreadable, watched, took, "surveyed");
        if survey.unwatched > 0 {
            warn!(
                source,
                unwatched = survey.unwatched,
                "more old entries than can be watched; the rest waits its turn"
            );
        }
    }

    fn look_succeeded(&mut self, identity: &Identity, began: Now, ended: Now, report: &mut Report) {
        let breaks = self.continuity.looked(identity, began, ended);
        self.broke(&breaks, ended.mono, report);
    }

    /// After a break no earlier look counts, and a silence has to prove itself anew.
    fn broke(&mut self, breaks: &[Break], now: Monotonic, report: &mut Report) {
        for one in breaks {
            self.watch.clear();
            self.guard.continuity_broke(now);
            let source = &*self.store.source().name;
            match one {
                Break::FirstContact => info!(source, "first contact: every entry has a full threshold from now"),
                Break::OutOfSight(gap) => {
                    warn!(source, gap = in_words(*gap), "continuity break: redis was out of our sight");
                }
                Break::ClockJump(moved) => {
                    warn!(source, moved_ms = moved, "continuity break: the clock of redis jumped against ours");
                }
                Break::Restart => warn!(source, "continuity break: redis is another process than before"),
                Break::Failover => warn!(source, "continuity break: redis failed over"),
                Break::SilenceEnded => info!(source, "a ping ended the silence: everybody else has a full threshold"),
            }
        }
        report.breaks.extend_from_slice(breaks);
    }

    fn count_held(&mut self, now: Now, report: &mut Report) {
        let timing = self.settings.timing;
        let skipped = &mut report.skipped;
        match rule::hold(&self.facts(), now).map(|hold| hold.state) {
            Some(State::Silent | State::Mass) => {
                skipped.guard += self.watch.count_stale_once(counted::GUARD, now.server, &timing);
            }
            Some(State::Grace) => {
                skipped.observing += self.watch.count_stale_once(counted::OBSERVING, now.server, &timing);
            }
            _ => {}
        }
    }

    fn fail(&mut self, error: Error, report: &mut Report) {
        if self.failing {
            tracing::debug!(source = &*report.source, %error, "again");
        } else {
            warn!(source = &*report.source, %error, "failed; tried again until it works");
        }
        self.failing = true;
        report.failure = Some(error);
    }

    // === strike ===

    /// When something may be due, if nothing but time is wanting.
    pub fn next_strike(&mut self) -> Option<Monotonic> {
        let now = self.now()?;
        let due = self.watch.next_due()?;
        let free = match rule::decide_source(&self.facts(), now) {
            Ok(()) => self.frees_at(now.mono),
            Err(Refusal::Grace { until }) => until,
            Err(_) => return None,
        };
        Some(due.max(free).max(now.mono.plus(SHORTEST_WAIT)))
    }

    /// Re-reads what is due and evicts what the rule and the pace allow now. Looks at `stop` between batches; a batch
    /// that has been sent is always waited for.
    pub async fn strike(&mut self, stop: &CancellationToken) -> Report {
        let began = self.clock.now();
        let mut report = self.report(Verb::Strike);
        if self.settings.mode == Mode::DryRun {
            self.count_would_evict(&mut report);
            return self.conclude(report, began);
        }
        // bound: every round takes at least one entry off the list of those due, or ends it
        while !stop.is_cancelled() {
            let Some((now, due)) = self.reserve_due(&mut report) else { break };
            let reserved = due.len() as u64;
            let spent = self.strike_due(due, &mut report).await;
            self.settle(reserved, spent);
            if self.last.is_none() {
                break;
            }
            report.now = Some(now.at(self.clock.now()));
            if report.failure.is_some() {
                break;
            }
        }
        self.conclude(report, began)
    }

    /// What may be struck now, as many as the pace allows; that many are reserved.
    fn reserve_due(&mut self, report: &mut Report) -> Option<(Now, Vec<EntryId>)> {
        let now = self.now()?;
        rule::decide_source(&self.facts(), now).ok()?;
        if self.watch.next_due().is_none_or(|due| due > now.mono) {
            return None;
        }
        let own = self.own_allowance(now.mono);
        let mut shared = locked(&self.shared);
        let allowance = own.min(shared.allowance(now.mono));
        let throttled = self.throttled.take().map(|since| now.mono.since(since)).unwrap_or_default();
        report.throttled += throttled;
        if allowance == 0 {
            self.throttled = Some(now.mono);
            for id in self.watch.due(now.mono, CHUNK) {
                report.skipped.limit += u64::from(self.watch.count_once(&id, counted::LIMIT));
            }
            return None;
        }
        let due = self.watch.due(now.mono, usize::try_from(allowance).unwrap_or(CHUNK).min(CHUNK));
        shared.reserve(due.len() as u64);
        Some((now, due))
    }

    /// Re-reads and strikes; returns how many went, or may have gone.
    async fn strike_due(&mut self, due: Vec<EntryId>, report: &mut Report) -> u64 {
        let looked = match self.store.look(&due).await {
            Ok(looked) => looked,
            Err(error) => {
                self.fail(error, report);
                return 0;
            }
        };
        let known = self.last.as_ref().is_some_and(|last| last.identity == looked.identity);
        self.look_succeeded(&looked.identity, looked.now, looked.now, report);
        if !known || !report.breaks.is_empty() {
            self.last = None;
            return 0;
        }
        self.strike_found(due, looked, report).await
    }

    async fn strike_found(&mut self, due: Vec<EntryId>, looked: Looked, report: &mut Report) -> u64 {
        let Looked { identity, now, found } = looked;
        let mut prepared = Vec::with_capacity(due.len());
        for (id, found) in due.into_iter().zip(found) {
            prepared.extend(self.judge(&id, found, now, report));
        }
        if prepared.is_empty() {
            return 0;
        }
        let skipping = prepared.iter().filter(|one| one.skipped_companions() > 0);
        let skipped: Vec<_> = skipping.map(|one| (one.id().clone(), one.skipped_companions())).collect();
        let evicted = self.store.evict(prepared, &identity, now).await;
        self.take_in_outcomes(evicted, &skipped, now, report)
    }

    /// The entry, if it may be struck; else what is remembered of it is brought up to date.
    fn judge(&mut self, id: &EntryId, found: Found, now: Now, report: &mut Report) -> Option<Prepared> {
        let (judged, mark, prepared) = match found {
            Found::Entry { judged, mark, prepared } => (judged, mark, prepared),
            Found::Gone => {
                report.outcomes.add(Outcome::Gone);
                self.watch.forget(id);
                return None;
            }
            Found::WrongType => {
                self.watch.forget(id);
                return None;
            }
        };
        match rule::decide(&self.facts(), judged, mark, self.watch.get(id), now) {
            Ok(()) => Some(prepared),
            Err(Refusal::Unconfirmed { until } | Refusal::Grace { until }) => {
                report.skipped.observing += u64::from(self.watch.count_once(id, counted::OBSERVING));
                self.watch.postpone(id, until);
                None
            }
            Err(Refusal::Held(_) | Refusal::FactsTooOld) => {
                self.watch.postpone(id, now.mono.plus(self.settings.timing.heartbeat_interval));
                None
            }
            Err(Refusal::Unreadable(_) | Refusal::Future | Refusal::Live | Refusal::Moved) => {
                self.watch.forget(id);
                None
            }
        }
    }

    fn take_in_outcomes(&mut self, evicted: Evicted, skipped: &[(EntryId, u32)], now: Now, report: &mut Report) -> u64 {
        let at = evicted.at.unwrap_or(now.server);
        let mut spent = 0;
        let mut untold = 0;
        for (id, outcome) in evicted.outcomes {
            report.outcomes.add(outcome);
            spent += u64::from(matches!(outcome, Outcome::Evicted | Outcome::Unknown));
            if outcome == Outcome::Evicted {
                let companions = skipped.iter().find(|(known, _)| *known == id).map_or(0, |(_, count)| *count);
                report.companions_skipped += u64::from(companions);
                untold += u64::from(!self.tell_eviction(&id, at, report));
            }
            self.remember_outcome(&id, outcome, now.mono);
        }
        if untold > 0 {
            let source = &*report.source;
            info!(source, evicted = untold, "evicted more than {LOGGED_A_SECOND} a second; these are only counted");
        }
        if let Some(error) = evicted.failure {
            self.fail(error, report);
        }
        spent
    }

    fn tell_eviction(&mut self, id: &EntryId, at: Timestamp, report: &mut Report) -> bool {
        let Some(watched) = self.watch.get(id) else { return true };
        let age_ms = at.millis_since(watched.last_ping).max(0).unsigned_abs();
        let lag = Duration::from_millis(age_ms).saturating_sub(self.settings.timing.threshold);
        report.lags.push(lag);
        let now = self.clock.now();
        if self.log_rate.allowance(now) == 0 {
            return false;
        }
        self.log_rate.spend(now, 1);
        let (source, age) = (&*report.source, in_words(Duration::from_millis(age_ms)));
        info!(source, id = %quoted(id.name()), key = %quoted(&id.key), age, "evicted");
        true
    }

    fn remember_outcome(&mut self, id: &EntryId, outcome: Outcome, now: Monotonic) {
        let heartbeat = self.settings.timing.heartbeat_interval;
        match outcome {
            Outcome::Evicted | Outcome::Gone => self.watch.forget(id),
            _ if self.watch.is_closed() => self.watch.forget(id),
            // The mark may still stand: the next look tells.
            Outcome::Spared | Outcome::TooLate => self.watch.postpone(id, now.plus(heartbeat / 10)),
            Outcome::Blocked(_) | Outcome::Unknown => self.watch.postpone(id, now.plus(heartbeat)),
        }
    }

    /// A dry run strikes nothing: it counts what would have gone, once a mark. It does not re-read, so a ping since the
    /// last survey is seen by the next.
    fn count_would_evict(&mut self, report: &mut Report) {
        let Some(now) = self.now() else { return };
        for id in self.watch.due(now.mono, usize::MAX) {
            let Some(watched) = self.watch.get(&id) else { continue };
            let decided = rule::decide_watched(&self.facts(), watched, now);
            if decided.is_ok() && self.watch.count_once(&id, counted::DRY_RUN) {
                report.skipped.dry_run += 1;
                info!(source = &*report.source, id = %quoted(id.name()), key = %quoted(&id.key), "would evict");
            }
            let again = match decided {
                Err(Refusal::Unconfirmed { until } | Refusal::Grace { until }) => until,
                _ => now.mono.plus(self.settings.timing.heartbeat_interval),
            };
            self.watch.postpone(&id, again);
        }
        report.now = Some(now);
    }

    // === pace ===

    fn own_allowance(&mut self, now: Monotonic) -> u64 {
        let population = self.last.as_ref().map_or(0, |last| last.population);
        self.pace.allowance(now, population)
    }

    fn settle(&mut self, reserved: u64, spent: u64) {
        let now = self.clock.now();
        self.pace.spend(now, spent);
        locked(&self.shared).settle(now, reserved, spent);
    }

    fn frees_at(&mut self, now: Monotonic) -> Monotonic {
        let population = self.last.as_ref().map_or(0, |last| last.population);
        self.pace.frees_at(now, population).max(locked(&self.shared).frees_at(now))
    }

    /// For a single run: whether the allowed number of evictions is used up.
    pub fn is_spent(&self) -> bool {
        locked(&self.shared).is_spent()
    }

    // === what is known ===

    fn facts(&self) -> Facts<'_> {
        Facts {
            timing: &self.settings.timing,
            continuity: &self.continuity,
            guard: &self.guard,
            surveyed: self.last.as_ref().map(|last| (last.began.mono, last.ended.mono)),
        }
    }

    /// Server time carried forward from the last survey; none before the first.
    fn now(&self) -> Option<Now> {
        self.last.as_ref().map(|last| last.ended.at(self.clock.now()))
    }

    fn blind(&self) -> Option<Hold> {
        let seen = self.last.as_ref().map(|last| last.ended.mono);
        let timing = &self.settings.timing;
        let limit = timing.survey_interval() + timing.heartbeat_interval;
        let unseen = seen.is_none_or(|seen| self.clock.now().since(seen) > limit);
        (self.failing && unseen).then(|| Hold {
            state: State::Blind,
            why: "no survey has succeeded lately".into(),
            ends: None,
            ends_with: "a complete survey; then a grace, as after any break".into(),
        })
    }

    fn report(&self, verb: Verb) -> Report {
        Report::new(Arc::clone(&self.store.source().name), verb)
    }

    fn conclude(&mut self, mut report: Report, began: Monotonic) -> Report {
        report.took = self.clock.now().since(began);
        report.hold = self.blind().or_else(|| rule::hold(&self.facts(), self.now()?));
        report.state = report.hold.as_ref().map_or(State::Normal, |hold| hold.state);
        self.tell_state(&report);
        report
    }

    /// One line when a hold begins, changes or ends.
    fn tell_state(&mut self, report: &Report) {
        let (before, source) = (self.told.replace(report.state), &*report.source);
        if before == Some(report.state) {
            return;
        }
        match &report.hold {
            Some(hold) => {
                let within = hold.ends.map(|ends| in_words(ends.since(self.clock.now())));
                let within = within.map(|within| format!(" (within {within})")).unwrap_or_default();
                let ends_with = format!("{}{within}", hold.ends_with);
                warn!(
                    source,
                    state = report.state.as_str(),
                    watched = self.watch.len(),
                    ends_with,
                    "holding: {}",
                    hold.why
                );
            }
            None if before.is_some() => info!(source, state = report.state.as_str(), "no longer holding"),
            None => {}
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
