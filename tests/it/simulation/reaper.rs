//! Who evicts in the simulated world: the crate's own ledger, driven as the daemon's loop and its reaper drive it; and,
//! to compare, what a home-made cleaner does.

use std::time::Duration;

use presence_reaper::policy::entry::{EntryId, Monotonic, Now};
use presence_reaper::policy::guard::{self, Hold, Lifted};
use presence_reaper::policy::ledger::Ledger;
use presence_reaper::policy::memory::Memory;
use presence_reaper::policy::outcome::{Blocked, Outcome};
use presence_reaper::policy::pace::Shared;
use presence_reaper::policy::schedule;
use presence_reaper::policy::staleness::Timing;

use super::world::{Answer, HEARTBEAT, Looked, MINUTE, Ms, Surveyed, World, judged, mark};

/// The defaults.
pub(super) const TIMING: Timing =
    Timing { threshold: Duration::from_millis(5 * MINUTE), heartbeat_interval: Duration::from_millis(HEARTBEAT) };

/// Entries re-read and struck in one go, as in the reaper.
const CHUNK: usize = 200;

/// How long the reaper's commands take, at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latency {
    /// A survey.
    pub(super) survey: Ms,
    /// From a re-read to the script.
    pub(super) strike: Ms,
}

/// A process that begins within so many looks goes on where the last one was.
const WARM: Ms = 3;

/// What was true when a survey or a pulse ended, and what the last survey saw.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// When it ended.
    pub(super) at: Ms,
    /// How long nobody's ping had landed when it began, and when it ended; none if there was no entry.
    pub(super) silent_for: [Option<Ms>; 2],
    /// Live entries.
    pub(super) live: u64,
    /// Those of them that missed three heartbeats; a pulse does not count them.
    pub(super) late: u64,
    /// Stale entries.
    pub(super) stale: u64,
}

impl Seen {
    /// Whether nobody had pinged for three heartbeats, whichever moment of the survey counts.
    pub(super) fn silent(&self) -> bool {
        self.silent_for.iter().all(|time| time.is_some_and(|time| time >= 3 * HEARTBEAT))
    }
}

/// Anything that evicts from a world.
pub(super) trait Evictor {
    /// Waits until something is to be done, and does it.
    fn turn(&mut self, world: &mut World);
}

/// The rule, without a Redis around it.
pub(super) struct Reaper {
    ledger: Ledger,
    shared: Shared,
    latency: Latency,
    next_survey: Monotonic,
    failures: u32,
    restarts: u32,
    /// What it keeps in Redis for the next process, and since when.
    kept: Option<(Ms, Memory)>,
    /// Its complete surveys and pulses since it started.
    pub(super) seen: Vec<Seen>,
}

impl Reaper {
    pub(super) fn start(world: &World, latency: Latency) -> Self {
        let settings = guard::Settings::default();
        Self {
            ledger: Ledger::new(TIMING, &settings, Lifted::default()),
            shared: Shared::new(settings.max_evict_rate, None),
            latency,
            next_survey: world.mono(),
            failures: 0,
            restarts: world.reaper_restarts,
            kept: None,
            seen: Vec::new(),
        }
    }

    /// Another process, which goes on where this one was, if it can. What this one saw counts only then.
    fn follow(&mut self, world: &World) {
        let warm = WARM * u64::try_from(TIMING.look_interval().as_millis()).unwrap();
        let (kept, mut seen) = (self.kept.take(), std::mem::take(&mut self.seen));
        if kept.as_ref().is_none_or(|(at, _)| world.now() - at > warm) {
            seen.clear();
        }
        *self = Self { kept, seen, ..Self::start(world, self.latency) };
    }

    /// Why it holds, if it does.
    pub(super) fn hold(&self, world: &World) -> Option<Hold> {
        self.ledger.hold(world.mono())
    }

    // === daemon.rs ===

    fn survey(&mut self, world: &mut World) {
        let silent_for = world.silent_for();
        let took = world.some_time(self.latency.survey);
        let surveyed = world.survey(TIMING, took);
        let chance = world.chance();
        match surveyed {
            Some(Surveyed { identity, began, ended, mut survey }) => {
                self.ledger.recall(self.kept.as_ref().map(|(_, memory)| memory), &identity, began);
                self.ledger.surveyed(&identity, began, ended, &mut survey);
                self.keep(world);
                let silent_at_last = world.silent_for();
                self.seen.push(Seen {
                    at: world.now(),
                    silent_for: [silent_for, silent_at_last],
                    live: survey.live(),
                    late: survey.late,
                    stale: survey.stale,
                });
                self.failures = 0;
                let next = self.ledger.next_survey(chance).unwrap_or_default();
                self.next_survey = next.max(world.mono().plus(schedule::SHORTEST_WAIT));
            }
            None => {
                self.ledger.failed(true);
                self.failures += 1;
                self.next_survey = world.mono().plus(schedule::backoff(self.failures, chance));
            }
        }
    }

    fn pulse(&mut self, world: &mut World) {
        let went_well = self.take_pulse(world).is_some();
        self.looked(world, went_well);
    }

    fn strike(&mut self, world: &mut World) {
        let went_well = self.strike_all(world).is_some();
        self.looked(world, went_well);
    }

    /// What a pulse or a strike met or doubts, a survey has to look at first.
    fn looked(&mut self, world: &World, went_well: bool) {
        if (!went_well || self.ledger.wants_survey(world.mono())) && self.failures == 0 {
            self.next_survey = self.next_survey.min(world.mono().plus(schedule::SHORTEST_WAIT));
        }
    }

    // === reaper.rs ===

    fn keep(&mut self, world: &World) {
        if !world.refuses_writes() {
            self.kept = self.ledger.remember().map(|memory| (world.now(), memory));
        }
    }

    /// Nothing if a look failed.
    fn take_pulse(&mut self, world: &mut World) -> Option<()> {
        let silent_for = world.silent_for();
        let sampled = self.ledger.sampled(world.mono());
        // It asks who is there before it reads.
        for ids in std::iter::once(&[][..]).chain(sampled.chunks(CHUNK)) {
            let Some(Looked { identity, now, found }) = world.look(ids) else {
                self.ledger.failed(false);
                return None;
            };
            self.ledger.reread(&identity, now);
            self.ledger.now(world.mono())?;
            let looks = found.into_iter().map(|(id, stored)| (id, stored.map(|at| (judged(at), mark(at)))));
            self.ledger.sampled_looked(looks, now);
        }
        self.ledger.pulsed(world.mono());
        self.keep(world);
        let last = *self.seen.last()?;
        self.seen.push(Seen { at: world.now(), silent_for: [silent_for, world.silent_for()], late: 0, ..last });
        Some(())
    }

    /// Nothing if a look or a command failed, or found a break.
    fn strike_all(&mut self, world: &mut World) -> Option<()> {
        loop {
            self.refresh_pulse(world)?;
            let Some((now, due)) = self.reserve_due(world) else { return Some(()) };
            let reserved = due.len() as u64;
            let struck = self.strike_due(world, due);
            let spent = struck.unwrap_or(0);
            self.ledger.spend(world.mono(), spent);
            self.shared.settle(world.mono(), reserved, spent);
            struck?;
            self.ledger.now(world.mono())?;
            // The world's clock moves by whole milliseconds, and a strike that is instant would never end.
            if world.mono() == now.mono {
                world.wait(1);
            }
        }
    }

    fn refresh_pulse(&mut self, world: &mut World) -> Option<()> {
        let now = world.mono();
        let due = self.ledger.watch().next_due().is_some_and(|due| due <= now);
        let free = due && self.ledger.now(now).is_some_and(|now| self.ledger.decide_source(now).is_ok());
        if free && self.ledger.is_pulse_old(now) { self.take_pulse(world) } else { Some(()) }
    }

    fn reserve_due(&mut self, world: &World) -> Option<(Now, Vec<EntryId>)> {
        let now = self.ledger.now(world.mono())?;
        self.ledger.decide_source(now).ok()?;
        if self.ledger.watch().next_due().is_none_or(|due| due > now.mono) {
            return None;
        }
        let allowance = self.ledger.allowance(now.mono).min(self.shared.allowance(now.mono));
        if allowance == 0 {
            return None;
        }
        let due = self.ledger.due(now.mono, usize::try_from(allowance).unwrap_or(CHUNK).min(CHUNK));
        self.shared.reserve(due.len() as u64);
        Some((now, due))
    }

    /// How many went, or may have gone; none if it failed.
    fn strike_due(&mut self, world: &mut World, due: Vec<EntryId>) -> Option<u64> {
        let Some(Looked { identity, now, found }) = world.look(&due) else {
            self.ledger.failed(false);
            return None;
        };
        self.ledger.reread(&identity, now);
        self.ledger.now(world.mono())?;
        for (id, stored) in &found {
            if let Some(stored) = stored {
                self.ledger.found(id, judged(*stored), mark(*stored), now);
            }
        }
        let mut struck = Vec::with_capacity(found.len());
        for (id, stored) in found {
            match stored {
                None => self.ledger.forget(&id),
                Some(stored) if self.ledger.decide(&id, judged(stored), mark(stored), false, now).is_ok() => {
                    struck.push((id, stored));
                }
                Some(_) => {}
            }
        }
        if struck.is_empty() {
            return Some(0);
        }
        let delay = world.some_time(self.latency.strike);
        world.wait(delay);
        let Some(answers) = world.evict(&struck, &identity, now) else {
            self.ledger.failed(false);
            return None;
        };
        let mut spent = 0;
        for ((id, _), answer) in struck.iter().zip(&answers) {
            let outcome = match answer {
                Answer::Evicted => Outcome::Evicted,
                Answer::Spared => Outcome::Spared,
                Answer::Gone => Outcome::Gone,
                Answer::TooLate => Outcome::TooLate,
                Answer::Refused => Outcome::Blocked(Blocked::Oom),
                Answer::Lost => Outcome::Unknown,
            };
            spent += u64::from(matches!(outcome, Outcome::Evicted | Outcome::Unknown));
            self.ledger.struck(id, outcome, now.mono);
        }
        if answers.iter().any(|answer| matches!(answer, Answer::Lost | Answer::Refused)) {
            self.ledger.failed(false);
            return None;
        }
        Some(spent)
    }
}

impl Evictor for Reaper {
    fn turn(&mut self, world: &mut World) {
        if self.restarts != world.reaper_restarts {
            self.follow(world);
        }
        let now = world.mono();
        let (strike, pulse) = (self.ledger.next_strike(now, self.shared.frees_at(now)), self.ledger.next_pulse());
        world.wait_until([strike, pulse].into_iter().flatten().fold(self.next_survey, Monotonic::min));
        if world.mono() >= self.next_survey {
            self.survey(world);
        } else if pulse.is_some_and(|pulse| world.mono() >= pulse) {
            self.pulse(world);
        }
        self.strike(world);
    }
}

/// A home-made cleaner: every half minute, away with whatever is older than the threshold. Its removal is as atomic as
/// the reaper's, and its age as right.
pub(super) struct Naive;

impl Evictor for Naive {
    fn turn(&mut self, world: &mut World) {
        world.wait(HEARTBEAT);
        let Some(mut surveyed) = world.survey(TIMING, 0) else { return };
        let now = surveyed.ended;
        let candidates = std::mem::take(&mut surveyed.survey.candidates);
        let stale_before = now.server.minus(TIMING.threshold);
        let stale = candidates.into_iter().filter(|candidate| candidate.last_ping <= stale_before);
        let struck: Vec<_> = stale.map(|candidate| (candidate.id, candidate.last_ping.millis())).collect();
        world.evict(&struck, &surveyed.identity, now);
    }
}
