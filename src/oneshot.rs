//! The audit and `--once`: the daemon's survey and strike, without its loop.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::policy::entry::Monotonic;
use crate::policy::guard::State;
use crate::policy::schedule;
use crate::policy::survey::Wanted;
use crate::reaper::{Finding, Reaper, Report, hearings};
use crate::store::audience::Ask;
use crate::store::instances::InstanceSource;
use crate::webhook::Couriers;

/// Told while a run waits for its second look: the source, how many entries are watched, and how long it still takes.
pub type Waiting = Arc<dyn Fn(&str, usize, Duration) + Send + Sync>;

/// How long a run waits for its webhooks, and how long once it was told to stop.
const PATIENCE: Duration = Duration::from_secs(30);
const SHORT_PATIENCE: Duration = Duration::from_secs(5);

/// How often those who wait are told.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// Surveys every source once, as it is asked to, and strikes nothing.
pub async fn audit(reapers: Vec<Reaper>, ask: Ask, stop: CancellationToken) -> Vec<Finding> {
    let ask = Ask { wanted: Wanted { candidates: false, ..ask.wanted }, ..ask };
    each(reapers, |reaper| {
        let (ask, stop) = (ask.clone(), stop.clone());
        async move {
            let mut reaper = reaper;
            let mut run = SingleRun::new(&reaper, stop);
            run.first_survey(&mut reaper, &ask).await;
            run.finding
        }
    })
    .await
}

/// Surveys every source, as it is asked to, waits until what is stale was seen for long enough, and strikes it, at the
/// pace and under the guards. All sources wait together.
pub async fn once(
    reapers: Vec<Reaper>,
    ask: Ask,
    clock: Clock,
    stop: CancellationToken,
    waiting: Waiting,
) -> Vec<Finding> {
    let done = stop.child_token();
    let hearing = listen(&reapers, &done).await;
    let mut couriers = Couriers::new(Duration::ZERO);
    couriers.serve(reapers.iter().map(Reaper::webhooks));
    let findings = each(reapers, |reaper| {
        let (ask, stop, waiting) = (ask.clone(), stop.clone(), Arc::clone(&waiting));
        async move {
            let mut reaper = reaper;
            let mut run = SingleRun::new(&reaper, stop);
            run.lead(&mut reaper, &ask, clock, &waiting).await;
            run.finding
        }
    })
    .await;
    done.cancel();
    hearing.join_all().await;
    couriers.end().await;
    findings
}

/// Hears what operators order until `done`; what stands now is heard at the return.
async fn listen(reapers: &[Reaper], done: &CancellationToken) -> JoinSet<()> {
    let mut listening = JoinSet::new();
    for mut hearing in hearings(reapers, Arc::new(|sources, _| sources.iter().map(InstanceSource::once).collect())) {
        done.run_until_cancelled(hearing.hear()).await;
        listening.spawn(hearing.keep(done.clone()));
    }
    listening
}

async fn each<F>(reapers: Vec<Reaper>, run: impl Fn(Reaper) -> F) -> Vec<Finding>
where
    F: Future<Output = Finding> + Send + 'static,
{
    let mut runs = JoinSet::new();
    for (place, reaper) in reapers.into_iter().enumerate() {
        let run = run(reaper);
        runs.spawn(async move { (place, run.await) });
    }
    let mut findings = runs.join_all().await;
    findings.sort_by_key(|(place, _)| *place);
    findings.into_iter().map(|(_, finding)| finding).collect()
}

struct SingleRun {
    finding: Finding,
    /// Since when evicting has paused.
    paused_since: Option<Monotonic>,
    stop: CancellationToken,
}

impl SingleRun {
    fn new(reaper: &Reaper, stop: CancellationToken) -> Self {
        let finding = Finding::nothing_yet(reaper);
        Self { finding, paused_since: None, stop }
    }

    /// Both looks, under the source's lease; only the first, if another reaper holds it.
    async fn lead(&mut self, reaper: &mut Reaper, ask: &Ask, clock: Clock, waiting: &Waiting) {
        let Some(lease) = reaper.store().lease().cloned() else { return self.first_survey(reaper, ask).await };
        let led = self.stop.clone().run_until_cancelled_owned(lease.try_to_lead()).await;
        self.first_survey(reaper, ask).await;
        match led {
            Some(Ok(true)) if self.finding.is_complete() => {
                let done = CancellationToken::new();
                let strikes = async {
                    self.strike_all(reaper, clock, waiting).await;
                    self.tell(reaper).await;
                    done.cancel();
                };
                tokio::join!(strikes, lease.keep(&done));
            }
            // What Redis refuses shows in the survey as well, which says what it means.
            Some(Err(error)) if self.finding.is_complete() && self.finding.hold.is_none() => {
                self.finding.failure = Some(error);
            }
            _ => {}
        }
        self.finding.led_by = lease.led_by().map(|holder| holder.name);
        lease.release().await;
    }

    /// Waits until the webhooks were told, but not for ever, and notes what they were not told.
    async fn tell(&mut self, reaper: &Reaper) {
        let patience = if self.stop.is_cancelled() { SHORT_PATIENCE } else { PATIENCE };
        if tokio::time::timeout(patience, reaper.webhooks().settled()).await.is_err() {
            let tally = reaper.webhooks().tally();
            self.finding.undelivered = tally.waiting.max(tally.outbox);
        }
        self.finding.undelivered += reaper.webhooks().tally().lost.iter().sum::<u64>();
    }

    /// One look at everything. What the run reports of the source's entries is what this look saw.
    async fn first_survey(&mut self, reaper: &mut Reaper, ask: &Ask) {
        let look = async {
            match reaper.store().health().await {
                Ok(health) => {
                    reaper.resume(&health);
                    Ok(reaper.survey_for(ask).await)
                }
                Err(error) => Err(error),
            }
        };
        match self.stop.clone().run_until_cancelled_owned(look).await {
            None => self.finding.interrupted = true,
            Some(Err(error)) => {
                self.finding.state = State::Blind;
                self.finding.failure = Some(error);
            }
            Some(Ok(report)) => {
                self.finding.survey = report.survey.clone();
                self.finding.now = report.now;
                self.take_in(&report);
            }
        }
    }

    fn take_in(&mut self, report: &Report) {
        let finding = &mut self.finding;
        finding.add(report);
        finding.kept_by_grace += report.skipped.observing;
        if report.failure.is_some() {
            finding.failure = report.failure.clone();
        }
    }

    /// Strikes what is stale until nothing of it is left, the source holds, or the allowed number has gone. What one
    /// survey could not keep has its turn in another round.
    async fn strike_all(&mut self, reaper: &mut Reaper, clock: Clock, waiting: &Waiting) {
        let mut left = self.finding.survey.as_ref().map_or(0, |survey| survey.unwatched);
        // bound: another round only where the last one evicted
        loop {
            let before = self.finding.outcomes.evicted;
            reaper.close();
            self.strike_watched(reaper, clock, waiting).await;
            if left == 0 || self.is_over(reaper) || self.finding.outcomes.evicted == before {
                return;
            }
            reaper.open();
            let report = reaper.survey().await;
            left = report.survey.as_ref().map_or(0, |survey| survey.unwatched);
            self.take_in(&report);
        }
    }

    fn is_over(&self, reaper: &Reaper) -> bool {
        let finding = &self.finding;
        let ended = finding.hold.is_some() || finding.failure.is_some() || finding.interrupted || finding.gave_up;
        reaper.store().is_led() || reaper.is_spent() || ended
    }

    /// A pause ends by itself, but nobody knows when; and a run that waits holds the lease. A threshold is enough.
    fn note_pause(&mut self, reaper: &Reaper, now: Monotonic) {
        let since = self.paused_since.unwrap_or(now);
        self.paused_since = self.finding.pause.as_ref().map(|_| since);
        self.finding.gave_up = self.paused_since.is_some_and(|since| now.since(since) >= reaper.timing().threshold);
    }

    /// Each turn either strikes, or looks again so that the guards judge by fresh facts.
    async fn strike_watched(&mut self, reaper: &mut Reaper, clock: Clock, waiting: &Waiting) {
        let mut next_survey = reaper.next_survey(0.0).unwrap_or_else(|| clock.now());
        // bound: the watch takes in nothing new, the pace lets some of it go in every heartbeat interval, and each entry
        // is struck once
        while !reaper.is_done() && !self.is_over(reaper) {
            let pulse = reaper.next_pulse();
            let next = [reaper.next_strike(), pulse].into_iter().flatten().fold(next_survey, Monotonic::min);
            if !self.wait(reaper, clock, next, waiting).await {
                self.finding.interrupted = true;
                return;
            }
            if clock.now() >= next_survey {
                let report = reaper.survey().await;
                self.take_in(&report);
                next_survey = reaper.next_survey(0.0).unwrap_or_default();
            } else if pulse.is_some_and(|pulse| clock.now() >= pulse) {
                let report = reaper.pulse().await;
                self.take_in(&report);
            }
            let report = reaper.strike(&self.stop).await;
            self.take_in(&report);
            self.note_pause(reaper, clock.now());
            if reaper.wants_survey() {
                next_survey = clock.now().plus(schedule::SHORTEST_WAIT);
            }
        }
    }

    /// Sleeps until `next`, telling who waits; false when told to stop.
    async fn wait(&self, reaper: &mut Reaper, clock: Clock, next: Monotonic, waiting: &Waiting) -> bool {
        // bound: every round sleeps, and `next` comes
        while clock.now() < next {
            if let Some(strike) = reaper.next_strike() {
                waiting(&self.finding.source, reaper.watched(), strike.since(clock.now()));
            }
            let until = next.min(clock.now().plus(TOLD_EVERY));
            let sleep = tokio::time::sleep_until(clock.instant(until));
            if self.stop.run_until_cancelled(sleep).await.is_none() {
                return false;
            }
        }
        true
    }
}
