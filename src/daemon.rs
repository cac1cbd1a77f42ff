//! The loop: when to survey, when to strike, when to stop, and whether all that still turns.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::policy::entry::Monotonic;
use crate::policy::schedule;
use crate::reaper::{Describe, Reaper, Report, hearings};
use crate::store::lease::Lease;

mod health;

/// What makes things easier for others waits for Redis no longer than that: an order that was not heard is a hold, and a
/// lease runs out. Whoever supervises us is less patient than a dial may be.
pub const SHORT_WAIT: Duration = Duration::from_secs(2);

pub use health::{Health, Seen};

/// Who is told what the loops do.
pub trait Observer: Send + Sync {
    /// A survey of this source begins, or has ended.
    fn surveying(&self, source: &str, begun: bool);

    /// A survey or a strike ended.
    fn reported(&self, report: &Report);
}

/// Runs every source's loop until told to `pause` or to `stop`; a batch that was sent by then is finished first. The
/// reapers are given back for others to go on where they were; leases are given back only at a stop.
pub async fn run(
    reapers: Vec<Reaper>,
    clock: Clock,
    health: Arc<Health>,
    observer: Arc<dyn Observer>,
    pause: CancellationToken,
    stop: CancellationToken,
) -> Vec<Reaper> {
    let mut ears = JoinSet::new();
    for mut hearing in hearings(&reapers, describing(&reapers, &health)) {
        // Before anything else: what was ordered while nobody was here.
        pause.run_until_cancelled(timeout(SHORT_WAIT, hearing.hear())).await;
        ears.spawn(hearing.keep(pause.clone()));
    }
    let mut loops = JoinSet::new();
    for reaper in reapers {
        let turns = Loop {
            failures: 0,
            next_survey: health.next_survey(&reaper.store().source().name),
            reaper,
            clock,
            health: Arc::clone(&health),
            observer: Arc::clone(&observer),
            stop: pause.clone(),
        };
        loops.spawn(turns.lead(stop.clone()));
    }
    let reapers = loops.join_all().await;
    ears.join_all().await;
    reapers
}

/// How the sources stand, for operators who ask.
fn describing(reapers: &[Reaper], health: &Arc<Health>) -> Describe {
    let leases: Vec<Arc<Lease>> = reapers.iter().filter_map(|reaper| reaper.store().lease().cloned()).collect();
    let health = Arc::clone(health);
    Arc::new(move |sources, now| {
        let seen = health.sources().into_iter().filter(|seen| sources.contains(&seen.finding.source));
        let leads = |name: &str| leases.iter().find(|lease| lease.source() == name).is_some_and(|lease| lease.leads());
        seen.map(|seen| seen.finding.for_operators(leads(&seen.finding.source), now)).collect()
    })
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
    /// Turns, and holds the source's lease meanwhile if it can be had.
    async fn lead(mut self, stop: CancellationToken) -> Reaper {
        let Some(lease) = self.reaper.store().lease().cloned() else {
            self.run().await;
            return self.reaper;
        };
        let stopped = CancellationToken::new();
        let turns = async {
            self.run().await;
            stopped.cancel();
        };
        tokio::join!(turns, lease.keep(&stopped));
        if stop.is_cancelled() {
            let _ = timeout(SHORT_WAIT, lease.release()).await;
        }
        self.reaper
    }

    async fn run(&mut self) {
        let stop = self.stop.clone();
        let mut changes = self.reaper.orders().changes();
        // bound: until told to stop; every turn sleeps until something is due, or ordered
        while !stop.is_cancelled() {
            self.health.turned(self.name(), self.clock.now(), self.next_survey);
            let pulse = self.reaper.next_pulse();
            let next = [self.reaper.next_strike(), pulse].into_iter().flatten().fold(self.next_survey, Monotonic::min);
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.sleep_until(next) => {}
                Ok(()) = changes.changed() => {
                    let report = self.reaper.obey().await;
                    self.reported(&report);
                    continue;
                }
            }
            let now = self.clock.now();
            if now >= self.next_survey {
                if stop.run_until_cancelled(self.survey()).await.is_none() {
                    self.surveying(false);
                    return;
                }
            } else if pulse.is_some_and(|pulse| now >= pulse) && stop.run_until_cancelled(self.pulse()).await.is_none()
            {
                return;
            }
            self.strike().await;
        }
    }

    /// Until then, or until the lease is ours: something may be due already.
    async fn sleep_until(&self, next: Monotonic) {
        let sleep = tokio::time::sleep_until(self.clock.instant(next));
        match self.reaper.store().lease() {
            None => sleep.await,
            Some(lease) => tokio::select! {
                () = sleep => {}
                () = lease.gained() => {}
            },
        }
    }

    async fn pulse(&mut self) {
        let report = self.reaper.pulse().await;
        self.looked(&report);
    }

    fn name(&self) -> &str {
        &self.reaper.store().source().name
    }

    async fn survey(&mut self) {
        self.surveying(true);
        let report = self.reaper.survey().await;
        self.surveying(false);
        self.reported(&report);
        if report.failure.is_none() {
            self.failures = 0;
            let next = self.reaper.next_survey(fastrand::f64());
            self.next_survey = next.unwrap_or_default().max(self.clock.now().plus(schedule::SHORTEST_WAIT));
        } else {
            self.failures += 1;
            let wait = schedule::backoff(self.failures, fastrand::f64());
            self.next_survey = self.clock.now().plus(wait).max(self.reaper.store().link().retry_at().await);
        }
    }

    async fn strike(&mut self) {
        let report = self.reaper.strike(&self.stop).await;
        self.looked(&report);
    }

    /// What a pulse or a strike met or doubts, a survey has to look at first.
    fn looked(&mut self, report: &Report) {
        let news = report.failure.is_some() || !report.breaks.is_empty() || self.reaper.wants_survey();
        // While surveys fail, the next one comes when it may.
        if news && self.failures == 0 {
            self.next_survey = self.next_survey.min(self.clock.now().plus(schedule::SHORTEST_WAIT));
        }
        self.reported(report);
    }

    fn surveying(&self, begun: bool) {
        self.health.surveying(self.name(), begun);
        self.observer.surveying(self.name(), begun);
    }

    fn reported(&self, report: &Report) {
        self.health.reported(report, self.clock.now());
        self.observer.reported(report);
    }
}
