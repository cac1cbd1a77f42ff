//! The loop: when to survey, when to strike, when to stop, and whether all that still turns.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::policy::duration::in_words;
use crate::policy::entry::Monotonic;
use crate::policy::schedule;
use crate::policy::staleness::Timing;
use crate::reaper::{Reaper, Report};
use crate::store::connect::Links;

/// Who is told what the loops do.
pub trait Observer: Send + Sync {
    /// A survey of this source begins, or has ended.
    fn surveying(&self, source: &str, begun: bool);

    /// A survey or a strike ended.
    fn reported(&self, report: &Report);
}

/// Runs every source's loop until `stop`; a batch that was sent by then is finished first.
pub async fn run(
    reapers: Vec<Reaper>,
    clock: Clock,
    health: Arc<Health>,
    observer: Arc<dyn Observer>,
    stop: CancellationToken,
) {
    let mut loops = JoinSet::new();
    for reaper in reapers {
        let turns = Loop {
            failures: 0,
            next_survey: clock.now(),
            reaper,
            clock,
            health: Arc::clone(&health),
            observer: Arc::clone(&observer),
            stop: stop.clone(),
        };
        loops.spawn(turns.run());
    }
    loops.join_all().await;
}

/// One source's loop.
struct Loop {
    reaper: Reaper,
    clock: Clock,
    failures: u32,
    next_survey: Monotonic,
    health: Arc<Health>,
    observer: Arc<dyn Observer>,
    stop: CancellationToken,
}

impl Loop {
    async fn run(mut self) {
        let stop = self.stop.clone();
        // bound: until told to stop; every turn sleeps until something is due
        while !stop.is_cancelled() {
            self.health.turned(self.name(), self.clock.now());
            let next = self.reaper.next_strike().map_or(self.next_survey, |strike| strike.min(self.next_survey));
            let sleep = tokio::time::sleep_until(self.clock.instant(next));
            if stop.run_until_cancelled(sleep).await.is_none() {
                return;
            }
            if self.clock.now() >= self.next_survey && stop.run_until_cancelled(self.survey()).await.is_none() {
                self.observer.surveying(self.name(), false);
                return;
            }
            self.strike().await;
        }
    }

    fn name(&self) -> &str {
        &self.reaper.store().source().name
    }

    async fn survey(&mut self) {
        let began = self.clock.now();
        self.observer.surveying(self.name(), true);
        let report = self.reaper.survey().await;
        self.observer.surveying(self.name(), false);
        self.observer.reported(&report);
        if report.failure.is_none() {
            self.failures = 0;
            self.next_survey = schedule::next_survey(began, self.reaper.timing(), fastrand::f64());
            self.health.surveyed(self.name(), self.clock.now());
        } else {
            self.failures += 1;
            let wait = schedule::backoff(self.failures, fastrand::f64());
            self.next_survey = self.clock.now().plus(wait).max(self.reaper.store().link().retry_at().await);
        }
    }

    async fn strike(&mut self) {
        let report = self.reaper.strike(&self.stop).await;
        if report.failure.is_some() || !report.breaks.is_empty() {
            // What the strike met, the survey has to look at first.
            self.next_survey = self.clock.now().plus(schedule::SHORTEST_WAIT);
        }
        self.observer.reported(&report);
    }
}

// === health ===

/// Whether the loops turn and the sources are seen.
#[derive(Debug)]
pub struct Health {
    clock: Clock,
    sources: Mutex<BTreeMap<Arc<str>, Seen>>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    timing: Timing,
    turned: Monotonic,
    surveyed: Option<Monotonic>,
}

/// On top of what a source's rhythm allows, for a slow machine and the waits after failed dials.
const SLACK: Duration = Duration::from_secs(60);

impl Health {
    /// Health of loops that are about to begin.
    pub fn new(clock: Clock, reapers: &[Reaper]) -> Self {
        let sources = reapers.iter().map(|reaper| {
            let seen = Seen { timing: *reaper.timing(), turned: clock.now(), surveyed: None };
            (Arc::clone(&reaper.store().source().name), seen)
        });
        Self { clock, sources: Mutex::new(sources.collect()) }
    }

    fn turned(&self, source: &str, now: Monotonic) {
        self.update(source, |seen| seen.turned = now);
    }

    fn surveyed(&self, source: &str, now: Monotonic) {
        self.update(source, |seen| seen.surveyed = Some(now));
    }

    fn update(&self, source: &str, update: impl FnOnce(&mut Seen)) {
        if let Some(seen) = self.sources.lock().unwrap_or_else(PoisonError::into_inner).get_mut(source) {
            update(seen);
        }
    }

    /// Whether every loop turned lately, or is still getting answers; else which one is stuck. Redis being away is no
    /// sign of ill health: restarting us would not help.
    ///
    /// # Errors
    /// The sentence that says what is stuck.
    pub fn healthy(&self, links: &Links) -> Result<(), String> {
        let now = self.clock.now();
        let answered = links.status().answered.unwrap_or_default();
        self.every(|name, seen| {
            let quiet = now.since(seen.turned.max(answered));
            if quiet <= seen.timing.survey_interval() * 2 + SLACK {
                return Ok(());
            }
            Err(format!("the loop of source {name} has not turned for {}", in_words(quiet)))
        })
    }

    /// Whether Redis answers and every source was surveyed to the end lately; a source that holds is ready.
    ///
    /// # Errors
    /// The sentence that says what is missing.
    pub fn ready(&self, links: &Links) -> Result<(), String> {
        if !links.status().up {
            return Err(format!("no usable connection to redis at {}; the log says why", links.endpoint()));
        }
        let now = self.clock.now();
        self.every(|name, seen| match seen.surveyed.map(|at| now.since(at)) {
            None => Err(format!("source {name} has had no complete survey yet")),
            Some(ago) if ago > seen.timing.survey_interval() * 3 + SLACK / 2 => {
                Err(format!("the last complete survey of source {name} was {} ago", in_words(ago)))
            }
            Some(_) => Ok(()),
        })
    }

    fn every(&self, check: impl Fn(&str, &Seen) -> Result<(), String>) -> Result<(), String> {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.iter().try_for_each(|(name, seen)| check(name, seen))
    }
}
