//! What the loops know of themselves, for whoever asks: whether they turn, what they last saw, and what Redis did to
//! them. Nothing here asks Redis.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::policy::duration::in_words;
use crate::policy::entry::Monotonic;
use crate::policy::guard::State;
use crate::policy::staleness::Timing;
use crate::reaper::{Finding, Reaper, Report, Turns, Verb};
use crate::store::Progress;
use crate::store::connect::Links;
use crate::store::standing::{self, Standing};

/// Whether the loops turn and the sources are seen, and what was seen.
#[derive(Debug)]
pub struct Health {
    clock: Clock,
    /// In the order of the configuration.
    sources: Mutex<Vec<Seen>>,
}

/// The latest of one source: what its last complete survey saw, what became of its entries since the start, and its
/// loop's times.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The survey is the last complete one, the counts are those since the start, the rest is as it was last told.
    pub finding: Finding,
    /// When its loop did what, and will.
    pub turns: Turns,
    turned: Monotonic,
    progress: Progress,
}

/// On top of what a source's rhythm allows, for a slow machine and the waits after failed dials.
const SLACK: Duration = Duration::from_secs(60);

impl Health {
    /// Health of loops that are about to begin.
    pub fn new(clock: Clock, reapers: &[Reaper]) -> Self {
        let now = clock.now();
        let sources = reapers.iter().map(|reaper| Seen {
            finding: Finding { state: State::Blind, ..Finding::nothing_yet(reaper) },
            turns: Turns { leads: None, surveying: false, swept: None, surveyed: None, next_survey: now },
            turned: now,
            progress: reaper.store().progress().clone(),
        });
        Self { clock, sources: Mutex::new(sources.collect()) }
    }

    /// The same after that of loops which have ended: what goes on looks as it did.
    #[must_use]
    pub fn after(self, other: &Self, reapers: &[Reaper]) -> Self {
        let before = other.sources();
        for reaper in reapers {
            let name = &reaper.store().source().name;
            let Some(before) = before.iter().find(|before| before.finding.source == *name) else { continue };
            let naming = reaper.store().naming().clone();
            self.update(name, |seen| {
                if reaper.continues() {
                    seen.finding = Finding { naming, ..before.finding.clone() };
                    seen.turns = Turns { surveying: false, ..before.turns };
                } else {
                    seen.finding.count_on(&before.finding);
                }
            });
        }
        self
    }

    /// When the next survey of a source is to begin.
    pub(super) fn next_survey(&self, source: &str) -> Monotonic {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = sources.iter().find(|seen| *seen.finding.source == *source);
        seen.map_or_else(|| self.clock.now(), |seen| seen.turns.next_survey)
    }

    pub(super) fn turned(&self, source: &str, now: Monotonic, next_survey: Monotonic) {
        self.update(source, |seen| {
            seen.turned = now;
            seen.turns.next_survey = next_survey;
        });
    }

    pub(super) fn surveying(&self, source: &str, begun: bool) {
        self.update(source, |seen| seen.turns.surveying = begun);
    }

    pub(super) fn reported(&self, report: &Report, now: Monotonic) {
        self.update(&report.source, |seen| seen.take_in(report, now));
    }

    fn update(&self, source: &str, update: impl FnOnce(&mut Seen)) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = sources.iter_mut().find(|seen| *seen.finding.source == *source) {
            update(seen);
        }
    }

    /// The latest of every source, in the order of the configuration.
    pub fn sources(&self) -> Vec<Seen> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether every loop turned lately, or still moves on from answer to answer; else which one is stuck. Redis being away is no
    /// sign of ill health: restarting us would not help.
    ///
    /// # Errors
    /// The sentence that says what is stuck.
    pub fn healthy(&self) -> Result<(), String> {
        let now = self.clock.now();
        self.every(|name, seen| {
            let quiet = now.since(seen.turned.max(seen.progress.last()));
            if quiet <= seen.finding.timing.look_interval() * 2 + SLACK {
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
        self.every(|name, seen| match seen.turns.surveyed.map(|at| now.since(at)) {
            None => Err(format!("source {name} has had no complete survey yet")),
            Some(ago) if ago > overdue(&seen.finding.timing) => {
                Err(format!("the last complete survey of source {name} was {} ago", in_words(ago)))
            }
            Some(_) => Ok(()),
        })
    }

    /// Whether Redis stores what hubs want stored. Loops that look no longer know nothing of that, and a source that our
    /// own trouble keeps from us makes it unknown too, unless Redis is down for everybody.
    pub fn standing(&self, links: &Links) -> Standing {
        let unknown = |reason| Standing { state: standing::State::Unknown, reason: Some(reason), since: None };
        if let Err(stuck) = self.healthy() {
            return unknown(stuck);
        }
        let standing = links.standing();
        if standing.state != standing::State::Ok {
            return standing;
        }
        let trouble = self.every(|_, seen| match &seen.finding.failure {
            Some(error) if error.kind.is_our_own() => Err(error.to_string()),
            _ => Ok(()),
        });
        trouble.map_or_else(unknown, |()| standing)
    }

    fn every(&self, check: impl Fn(&str, &Seen) -> Result<(), String>) -> Result<(), String> {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.iter().try_for_each(|seen| check(&seen.finding.source, seen))
    }
}

/// When a complete survey is overdue: two looks later than it should have come.
fn overdue(timing: &Timing) -> Duration {
    timing.survey_interval() + timing.look_interval() * 2 + SLACK / 2
}

impl Seen {
    fn take_in(&mut self, report: &Report, now: Monotonic) {
        let finding = &mut self.finding;
        finding.add(report);
        if report.verb == Verb::Survey {
            self.turns.swept = Some(now);
        } else if report.failure.is_none() {
            // That nothing was struck, or something was, mends no survey that failed.
            return;
        }
        finding.failure = report.failure.clone();
        if let Some(survey) = report.survey.as_ref().filter(|_| report.failure.is_none()) {
            finding.survey = Some(Arc::clone(survey));
            finding.now = report.now;
            self.turns.surveyed = Some(now);
        }
    }
}
