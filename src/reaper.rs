//! One source's reaper: two verbs, and a glance in between.
//!
//! [`Reaper::survey`] reads everything, takes it in, and knows afterwards who may be due and whether anything may go
//! at all. [`Reaper::strike`] re-reads what is due and evicts what the rule and the pace allow at that moment; it is
//! the only caller of [`Store::evict`]. A sweep is one after the other; a deadline calls the second alone.
//! [`Reaper::pulse`] re-reads a few entries every heartbeat, so that surveys may be rare.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::audit::Audit;
use crate::clock::Clock;
use crate::policy::continuity::{Break, Continuity, Identity};
use crate::policy::duration::in_words;
use crate::policy::entry::{EntryId, Monotonic, Now, Timestamp};
use crate::policy::group::Turn;
use crate::policy::guard::{self, Lifted, State};
use crate::policy::ledger::{Counted, Ledger};
use crate::policy::load::{LoadGuard, Pause, Throttle};
use crate::policy::memory::{Absences, Memory};
use crate::policy::outcome::{Blocked, Notified, Outcome, Sink};
use crate::policy::pace::{Rate, Shared};
use crate::policy::rule::Refusal;
use crate::policy::staleness::Timing;
use crate::policy::survey::{Judged, Survey};
use crate::policy::suspect;
use crate::store::audience::Ask;
use crate::store::connect::Health;
use crate::store::error::{Error, Kind};
use crate::store::evict::{Evicted, Prepared};
use crate::store::record::Recorder;
use crate::store::state::Kept;
use crate::store::{Found, Greeted, Looked, Store, Surveyed};
use crate::text::quoted;
use crate::webhook::Hooks;

mod account;
mod hearing;
mod orders;

pub use account::{Finding, Report, Skipped, Turns, Verb};
pub use hearing::{Describe, Hearing, hearings};
pub use orders::StandingOrders;

/// Entries re-read and struck in one go: a strike's window of server time must not close on its last batch.
const CHUNK: usize = 200;

/// Entries due within a heartbeat interval that are told to the store, where one walk over the keys serves them all.
const SOON: usize = 20_000;

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
    /// What operators order in this process.
    pub orders: Arc<StandingOrders>,
}

/// The reaper of one source.
#[derive(Debug)]
pub struct Reaper {
    store: Store,
    clock: Clock,
    settings: Settings,
    ledger: Ledger,
    shared: Arc<Mutex<Shared>>,
    /// The state that was told last, and what would end it.
    told: Option<(State, Option<String>)>,
    /// The lease was ours when we last looked.
    led: bool,
    load: LoadGuard,
    /// The pause that was told last.
    paused: Option<Throttle>,
    /// What alone has kept what is due, and since when.
    throttled: Option<(Monotonic, Throttle)>,
    log_rate: Rate,
    webhooks: Hooks,
    audit: Audit,
    /// The last strike could not write to the stream of the audit record.
    unrecorded: bool,
    /// It goes on where another one was.
    continues: bool,
}

impl Reaper {
    /// A reaper that has seen nothing yet. `shared` is the pace of the whole process.
    pub fn new(store: Store, clock: Clock, settings: Settings, shared: Arc<Mutex<Shared>>) -> Self {
        Self {
            ledger: Ledger::new(settings.timing, &settings.guard, settings.lifted)
                .judging_by_absence(store.source().judges_by_absence())
                .dated_by_us(store.source().is_dated_by_us()),
            log_rate: Rate::new(Some(LOGGED_A_SECOND)),
            webhooks: Hooks::default(),
            audit: Audit::default(),
            unrecorded: false,
            continues: false,
            told: None,
            led: false,
            load: LoadGuard::new(settings.guard.load),
            paused: None,
            throttled: None,
            store,
            clock,
            settings,
            shared,
        }
    }

    /// The same, handing over to these what they are to be told.
    #[must_use]
    pub fn telling(self, webhooks: Hooks) -> Self {
        Self { webhooks, ..self }
    }

    /// The same after another one of this source. Where nothing decides otherwise than before it goes on with all that was
    /// seen; else this is a first contact, but no grace and no hold ends earlier than it would have.
    #[must_use]
    pub fn after(mut self, other: Self) -> Self {
        if !self.decides_like(&other) {
            self.ledger = self.ledger.after(&other.ledger);
            return self;
        }
        let guard = self.settings.guard.clone();
        let Self { ledger, told, led, load, paused, throttled, log_rate, .. } = other;
        let mut after = Self { ledger, told, led, load, paused, throttled, log_rate, continues: true, ..self };
        after.ledger.limit(guard.max_evict_rate);
        after.load.limit(guard.load);
        after
    }

    /// Whether the two come to the same conclusion of every entry.
    pub fn decides_like(&self, other: &Self) -> bool {
        let (own, others) = (&self.settings, &other.settings);
        own.mode == others.mode && own.guard.decide_alike(&others.guard) && self.store.judges_like(&other.store)
    }

    /// Whether it goes on where another one was, with all that was seen.
    pub fn continues(&self) -> bool {
        self.continues
    }

    /// The pace of the whole process.
    pub fn shared(&self) -> &Arc<Mutex<Shared>> {
        &self.shared
    }

    /// The same, handing over to this what is recorded of evictions.
    #[must_use]
    pub fn recording(self, audit: Audit) -> Self {
        Self { audit, ..self }
    }

    /// Who keeps what is recorded of evictions.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// The webhooks of the source.
    pub fn webhooks(&self) -> &Hooks {
        &self.webhooks
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
    /// unknown, this is a first contact like any other. What an earlier run kept of its state counts for more; whom it
    /// saw missing has to be known before the survey.
    pub fn resume(&mut self, greeted: &Greeted) {
        let (timing, grace) = (self.settings.timing, self.settings.guard.reconnect_grace);
        let Health { identity, now, uptime, .. } = greeted.health.clone();
        let continuity = match uptime {
            Some(uptime) => Continuity::resumed(timing, grace, identity.clone(), now, uptime),
            None => Continuity::new(timing, grace),
        };
        self.ledger.resume(continuity, self.clock.host());
        let earlier = greeted.kept.as_ref().and_then(|kept| kept.as_ref().ok()?.memory.as_ref());
        let missed = earlier.and_then(|earlier| self.ledger.missed_before(earlier, &identity, now));
        // Where nobody says whether keys were dropped, an absence may be nobody's doing.
        let kept_all = |absences: &Absences| greeted.health.dropped == Some(absences.dropped);
        if let Some((absences, passed)) = missed.filter(|(absences, _)| kept_all(absences)) {
            self.store.recall(absences, passed, now.mono);
        }
    }

    /// For a single run, when all is struck: leaves to the next who is missing still. Before, it left only those of whom
    /// nothing can have gone: whoever is evicted and comes back must not be found in what an interrupted run left.
    pub async fn leave_absences(&mut self) -> Report {
        let began = self.clock.now();
        let mut report = self.report(Verb::Pulse);
        report.now = self.now();
        if self.store.source().judges_by_absence() {
            self.keep_absences(None, &mut report).await;
        }
        self.conclude(report, began)
    }

    /// For a single run: from now on only what is stale already is watched.
    pub fn close(&mut self) {
        self.ledger.close(self.clock.now());
    }

    /// For a single run: takes in again what is stale; what the last survey could not keep has its turn.
    pub fn open(&mut self) {
        self.ledger.open();
    }

    /// How many entries are watched.
    pub fn watched(&self) -> usize {
        self.ledger.watch().len()
    }

    /// For a single run: whether nothing is left to strike.
    pub fn is_done(&self) -> bool {
        self.ledger.watch().is_empty()
    }

    // === orders ===

    /// What is ordered has changed: takes it in, and says how the source stands now.
    pub async fn obey(&mut self) -> Report {
        let began = self.clock.now();
        let report = self.report(Verb::Order);
        self.hear().await;
        self.conclude(report, began)
    }

    /// Tells when what is ordered changes.
    pub fn orders(&self) -> &StandingOrders {
        &self.settings.orders
    }

    async fn hear(&mut self) {
        if self.settings.mode == Mode::DryRun {
            return;
        }
        let orders = Arc::clone(&self.settings.orders);
        let (ordered, _) = orders.in_force(&self.store.source().name, self.clock.now()).await;
        self.ledger.ordered(ordered);
    }

    // === survey ===

    /// Reads everything in the source and takes it in; then keeps what a later process has to know. May be dropped at
    /// any await: it removes nothing.
    pub async fn survey(&mut self) -> Report {
        self.survey_for(&Ask::default()).await
    }

    /// The same, for somebody who asks more of it than the daemon does.
    pub async fn survey_for(&mut self, ask: &Ask) -> Report {
        let began = self.clock.now();
        let mut report = self.report(Verb::Survey);
        let surveyed = self.read_all(ask).await;
        self.hear().await;
        match surveyed {
            Ok(surveyed) => {
                self.take_in(surveyed, &mut report);
                self.seek_remedy().await;
                if report.canary_refused.is_none() {
                    self.keep(&mut report).await;
                }
            }
            Err(error) => self.fail(error, &mut report),
        }
        self.conclude(report, began)
    }

    /// The witness first: a survey that finds silence judges by it.
    async fn read_all(&mut self, ask: &Ask) -> Result<Surveyed, Error> {
        if let Some(key) = &self.settings.guard.writer_witness {
            let (shows, now) = self.store.witness(key).await?;
            self.ledger.witnessed(shows, now);
        }
        self.store.survey(ask).await
    }

    /// Where most of a source can't be judged, a sample tells which format would fit.
    async fn seek_remedy(&mut self) {
        if !self.ledger.wants_remedy() {
            return;
        }
        match self.store.sample().await {
            Ok(taken) => {
                let mut sample = suspect::Sample::default();
                for entry in taken.entries {
                    sample.add(entry.judged, entry.plainly, |at| entry.now.server.millis_since(at));
                }
                self.ledger.remedy(suspect::remedy(&sample, self.store.source().format));
            }
            Err(error) => tracing::debug!(source = &*self.store.source().name, %error, "no sample this time"),
        }
    }

    fn take_in(&mut self, surveyed: Surveyed, report: &mut Report) {
        let Surveyed { identity, began, ended, mut survey, refusals, kept } = surveyed;
        let kept = self.take_in_state(refusals, kept, ended, report);
        self.ledger.recall(kept.and_then(|kept| kept.memory).as_ref(), &identity, began);
        let learned = self.ledger.surveyed(&identity, began, ended, &mut survey);
        self.broke(&learned.breaks);
        self.tell_groups(&learned.turns);
        report.breaks = learned.breaks;
        report.changes = learned.changes;
        match self.ledger.count_held(ended) {
            Some((Counted::Guard, count)) => report.skipped.guard += count,
            Some((_, count)) => report.skipped.observing += count,
            None => {}
        }
        report.skipped.protected += self.ledger.count_protected();
        self.tell_survey(&survey, ended.mono.since(began.mono));
        report.now = Some(ended);
        report.survey = Some(Arc::new(survey));
    }

    /// Takes in what the server says of refused writes, and what was kept of our own state.
    fn take_in_state(
        &mut self,
        refusals: Option<u64>,
        kept: Option<Result<Kept, Error>>,
        now: Now,
        report: &mut Report,
    ) -> Option<Kept> {
        if let Some(refusals) = refusals {
            self.ledger.refusals(refusals);
        }
        let kept = kept.and_then(|kept| kept.map_err(|error| self.refuse(error, report)).ok());
        if let Some(kept) = &kept {
            self.ledger.canary_read(kept.canary);
        }
        if let Some(memory) = kept.as_ref().and_then(|kept| kept.memory.as_ref())
            && self.store.is_led()
        {
            self.ledger.follow(memory, now);
        }
        kept
    }

    /// Keeps what a later process has to know, and finds out whether the server takes writes; the leader does it for
    /// all who follow it.
    async fn keep(&mut self, report: &mut Report) {
        self.keep_absences(Some(self.settings.timing.threshold), report).await;
    }

    /// What a later process has to know, with the absences that are `younger_than` this, for a single run.
    fn memory(&self, younger_than: Option<Duration>) -> Option<Memory> {
        let (memory, looked) = (self.ledger.remember()?, self.ledger.last_look()?);
        let absences = memory.run.and_then(|_| self.store.absences(younger_than, looked));
        Some(Memory { absences, ..memory })
    }

    async fn keep_absences(&mut self, younger_than: Option<Duration>, report: &mut Report) {
        if self.store.is_led() {
            return;
        }
        // A break that only the write shows has to be kept as well, in a second one.
        for _ in 0..2 {
            let (Some(memory), Some(now)) = (self.memory(younger_than), report.now) else { return };
            match self.store.keep(&memory).await {
                Ok(None) => return,
                Ok(Some(canary)) => {
                    let breaks = self.ledger.canary_written(canary, now);
                    if breaks.is_empty() {
                        return;
                    }
                    self.broke(&breaks);
                    report.breaks.extend(breaks);
                }
                Err(error) if error.is_refusal() => return self.refuse(error, report),
                Err(error) => {
                    self.ledger.canary_unanswered();
                    return self.fail(error, report);
                }
            }
        }
    }

    fn refuse(&mut self, error: Error, report: &mut Report) {
        report.canary_refused = Some(error.kind);
        self.ledger.canary_refused(error.to_string());
    }

    fn tell_survey(&self, survey: &Survey, took: Duration) {
        let source = &*self.store.source().name;
        let (live, stale, protected) = (survey.live(), survey.stale, survey.protected);
        let (future, unreadable) = (survey.future, survey.unreadable_total());
        let (watched, took) = (self.watched(), in_words(took));
        let paused = self.pause().map(|pause| pause.why.as_str());
        info!(source, live, stale, protected, future, unreadable, watched, paused, took, "surveyed");
        if survey.unwatched > 0 {
            warn!(
                source,
                unwatched = survey.unwatched,
                "more old entries than can be watched; the rest waits for later surveys"
            );
        }
    }

    fn broke(&self, breaks: &[Break]) {
        if !breaks.is_empty() {
            self.store.broke(self.clock.now());
        }
        let source = &*self.store.source().name;
        for one in breaks {
            match one {
                Break::FirstContact => info!(source, "first contact: every entry has a full threshold from now"),
                Break::OwnGap(gap) => {
                    warn!(source, gap = in_words(*gap), "continuity break: the reaper did not look for a while");
                }
                Break::OutOfSight(gap) => {
                    warn!(source, gap = in_words(*gap), "continuity break: the reaper did not see redis for a while");
                }
                Break::ClockJump(moved) => {
                    warn!(source, moved_ms = moved, "continuity break: redis' clock jumped against the reaper's");
                }
                Break::Restart => warn!(source, "continuity break: redis restarted, or is another process than before"),
                Break::Failover => warn!(source, "continuity break: redis failed over"),
                Break::RoleLost => warn!(source, "continuity break: redis was no master for a while"),
                Break::Loading => warn!(source, "continuity break: redis was loading or busy and refused everybody"),
                Break::Rollback => warn!(source, "continuity break: redis' data went backwards; hubs wrote in vain"),
                Break::StateLost => warn!(source, "continuity break: redis lost the reaper's state, and maybe more"),
                Break::RefusedWrites => {
                    warn!(source, "continuity break: redis refused writes, so heartbeats were lost too")
                }
                Break::SilenceEnded => info!(source, "a ping ended the silence: everybody else has a full threshold"),
            }
        }
    }

    fn tell_groups(&self, turns: &[Turn]) {
        let source = &*self.store.source().name;
        for Turn { label, silent } in turns {
            let group = quoted(label);
            if *silent {
                warn!(source, %group, "nobody of this group pings; its entries are evicted once it has been silent for the threshold and group_extra");
            } else {
                info!(source, %group, "this group pings again; its entries have a full threshold");
            }
        }
    }

    fn fail(&mut self, error: Error, report: &mut Report) {
        if let Some(one) = aftermath(&error) {
            self.ledger.suspect(one);
        }
        if self.ledger.failed(report.verb == Verb::Survey) {
            warn!(source = &*report.source, %error, "{} failed; tried again until it works", report.verb.as_str());
        } else {
            tracing::debug!(source = &*report.source, %error, "again");
        }
        report.failure = Some(error);
    }

    // === pulse ===

    /// When the pulse is to be taken next; none where a survey comes first.
    pub fn next_pulse(&self) -> Option<Monotonic> {
        self.ledger.next_pulse()
    }

    /// When the next survey begins, if the last one succeeded; `chance` in 0..1 spreads them.
    pub fn next_survey(&self, chance: f64) -> Option<Monotonic> {
        self.ledger.next_survey(chance)
    }

    /// Whether nothing can go before another survey.
    pub fn wants_survey(&self) -> bool {
        self.ledger.wants_survey(self.clock.now())
    }

    /// Re-reads the sampled entries; then keeps what a later process has to know. May be dropped at any await: it removes
    /// nothing.
    pub async fn pulse(&mut self) -> Report {
        let began = self.clock.now();
        let mut report = self.report(Verb::Pulse);
        self.take_pulse(&mut report).await;
        self.conclude(report, began)
    }

    async fn take_pulse(&mut self, report: &mut Report) {
        match self.look_at_sampled(report).await {
            Ok(()) if self.now().is_some() => {
                let before = self.ledger.doubt();
                report.changes.extend(self.ledger.pulsed(self.clock.now()));
                report.now = self.now();
                if let Some(doubt) = self.ledger.doubt().filter(|_| before.is_none()) {
                    info!(source = &*report.source, "surveying before anything goes: {}", doubt.in_words());
                }
                // Right before a strike a look is enough, unless it shows something that a later process has to know.
                let keeps = report.verb == Verb::Pulse || !report.changes.is_empty();
                if keeps && report.canary_refused.is_none() {
                    self.keep(report).await;
                }
            }
            Ok(()) => {}
            Err(error) => self.fail(error, report),
        }
    }

    /// Asks who is there and reads what is sampled, as far as it is the process that was surveyed.
    async fn look_at_sampled(&mut self, report: &mut Report) -> Result<(), Error> {
        let Greeted { health, kept } = self.store.greet().await?;
        let _ = self.take_in_state(health.refusals, kept, health.now, report);
        self.take_in_look(&health.identity, health.now, report);
        self.load.heard(health.load);
        for ids in self.ledger.sampled(self.clock.now()).chunks(CHUNK) {
            if self.now().is_none() {
                return Ok(());
            }
            let Looked { identity, now, found } = self.store.glance(ids).await?;
            self.take_in_look(&identity, now, report);
            let looks = found.into_iter().map(|found| match found {
                Found::Entry { judged, mark, .. } => Some((judged, mark)),
                Found::Gone | Found::WrongType => None,
            });
            self.ledger.sampled_looked(ids.iter().cloned().zip(looks), now);
        }
        Ok(())
    }

    fn take_in_look(&mut self, identity: &Identity, now: Now, report: &mut Report) {
        let breaks = self.ledger.reread(identity, now);
        self.broke(&breaks);
        report.breaks.extend(breaks);
    }

    // === strike ===

    /// When something may be due, if nothing but time is wanting; never while another reaper leads.
    pub fn next_strike(&mut self) -> Option<Monotonic> {
        if !self.leads() {
            return None;
        }
        let now = self.clock.now();
        if self.pause().is_some() {
            // The next pulse tells whether it may go on.
            return None;
        }
        let pace_frees = locked(&self.shared).frees_at(now);
        self.ledger.next_strike(now, pace_frees)
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
        let orders = Arc::clone(&self.settings.orders);
        // bound: every round takes at least one entry off the list of those due, or ends it
        while !stop.is_cancelled() && self.leads() {
            self.refresh_pulse(&mut report).await;
            // They can't change until the batch is answered.
            let (ordered, _unchanged) = orders.in_force(&self.store.source().name, self.clock.now()).await;
            self.ledger.ordered(ordered);
            let Some((now, allowance, due)) = self.reserve_due(&mut report) else { break };
            if self.store.wants_due(now.mono) {
                let soon = now.mono.plus(self.settings.timing.heartbeat_interval);
                self.store.expect(self.ledger.due(soon, SOON));
            }
            let reserved = due.len() as u64;
            let spent = self.strike_due(due, allowance, &mut report).await;
            self.settle(reserved, spent);
            if self.now().is_none() {
                break;
            }
            report.now = Some(now.at(self.clock.now()));
            if report.failure.is_some() {
                break;
            }
        }
        self.conclude(report, began)
    }

    /// Whether we may act: a dry run always may, as it does nothing. Who follows another leader follows its pace too.
    fn leads(&mut self) -> bool {
        let Some(lease) = self.store.lease() else { return true };
        let (leads, led) = (lease.leads(), self.led);
        self.led = leads;
        if leads && !led && lease.followed() {
            self.ledger.took_over(self.clock.now());
        }
        leads
    }

    /// Takes the pulse, if something could go by one that is too old.
    async fn refresh_pulse(&mut self, report: &mut Report) {
        let now = self.clock.now();
        let due = self.ledger.watch().next_due().is_some_and(|due| due <= now);
        let free = due && self.now().is_some_and(|now| self.ledger.decide_source(now).is_ok());
        if free && self.ledger.is_pulse_old(now) {
            self.take_pulse(report).await;
        }
    }

    /// What may be struck now, as many as the pace allows, and how many that would be; those that are due are reserved.
    fn reserve_due(&mut self, report: &mut Report) -> Option<(Now, u64, Vec<EntryId>)> {
        let now = self.now().filter(|_| report.failure.is_none())?;
        self.ledger.decide_source(now).ok()?;
        if self.ledger.watch().next_due().is_none_or(|due| due > now.mono) {
            return None;
        }
        let own = self.ledger.allowance(now.mono);
        let mut shared = locked(&self.shared);
        let allowance = own.min(shared.allowance(now.mono));
        if let Some((since, why)) = self.throttled.take() {
            report.throttled[why.index()] += now.mono.since(since);
        }
        if let Some(pause) = self.pause() {
            self.throttled = self.ledger.watch().is_due(now.mono).then_some((now.mono, pause.why));
            return None;
        }
        if allowance == 0 {
            self.throttled = self.ledger.watch().is_due(now.mono).then_some((now.mono, Throttle::Pace));
            let protected = |id: &EntryId| self.ledger.watch().get(id).is_some_and(|known| known.protected);
            let mut due = self.ledger.due(now.mono, CHUNK);
            due.retain(|id| !protected(id));
            for id in due {
                report.skipped.limit += u64::from(self.ledger.count_once(&id, Counted::Limit));
            }
            return None;
        }
        let due = self.ledger.due(now.mono, usize::try_from(allowance).unwrap_or(CHUNK).min(CHUNK));
        shared.reserve(due.len() as u64);
        Some((now, allowance, due))
    }

    /// Re-reads and strikes; returns how many went, or may have gone.
    async fn strike_due(&mut self, due: Vec<EntryId>, allowance: u64, report: &mut Report) -> u64 {
        let looked = match self.store.look(&due).await {
            Ok(looked) => looked,
            Err(error) => {
                self.fail(error, report);
                return 0;
            }
        };
        self.take_in_look(&looked.identity, looked.now, report);
        if self.now().is_none() {
            return 0;
        }
        self.strike_found(due, looked, allowance, report).await
    }

    async fn strike_found(&mut self, due: Vec<EntryId>, looked: Looked, allowance: u64, report: &mut Report) -> u64 {
        let Looked { identity, now, found } = looked;
        for (id, found) in due.iter().zip(&found) {
            if let Found::Entry { judged, mark, .. } = found {
                self.ledger.found(id, *judged, *mark, now);
            }
        }
        let mut prepared = Vec::with_capacity(due.len());
        for (id, found) in due.into_iter().zip(found) {
            prepared.extend(self.judge(&id, found, allowance, now, report));
        }
        if prepared.is_empty() {
            return 0;
        }
        let skipping = prepared.iter().filter(|one| one.skipped_companions() > 0);
        let skipped: Vec<_> = skipping.map(|one| (one.id().clone(), one.skipped_companions())).collect();
        let released = self.ledger.released(now).cloned();
        let evicted = self.store.evict(prepared, &identity, now, released.as_ref()).await;
        let spent = self.take_in_outcomes(evicted, &skipped, now, report);
        if released.is_some() {
            self.ledger.spend_release(spent);
            let left = self.ledger.released(now).map_or(0, |release| release.left);
            warn!(
                source = &*report.source,
                evicted = spent,
                left,
                "released by an operator, although the source holds"
            );
        }
        spent
    }

    /// The entry, if it may be struck; else what is remembered of it is brought up to date.
    fn judge(&mut self, id: &EntryId, found: Found, allowance: u64, now: Now, report: &mut Report) -> Option<Prepared> {
        let (judged, mark, protected, prepared) = match found {
            Found::Entry { judged, mark, group, protected, prepared } => {
                let watched = self.ledger.watch().get(id).map(|watched| watched.group.as_deref());
                let moved = watched.is_some_and(|before| match (before, group.as_deref()) {
                    (None, Some(label)) => self.ledger.knows_group(label),
                    (before, found) => before != found,
                });
                if moved {
                    // It was judged by another group, or by none: a survey judges it anew.
                    self.ledger.forget(id);
                    return None;
                }
                (judged, mark, protected, prepared)
            }
            Found::Gone => {
                report.outcomes.add(Outcome::Gone);
                self.ledger.forget(id);
                self.store.forget(id);
                return None;
            }
            Found::WrongType => {
                self.ledger.forget(id);
                return None;
            }
        };
        match self.ledger.decide(id, judged, mark, protected, now) {
            Ok(()) => Some(self.on_record(id, judged, *prepared, allowance, now)),
            Err(Refusal::Protected) => {
                self.count_outcome(id, Outcome::Protected, report);
                None
            }
            Err(Refusal::Unconfirmed { .. } | Refusal::Grace { .. } | Refusal::Group { .. }) => {
                report.skipped.observing += u64::from(self.ledger.count_once(id, Counted::Observing));
                None
            }
            Err(_) => None,
        }
    }

    /// With what the rule went by, where that is recorded.
    fn on_record(&self, id: &EntryId, judged: Judged, prepared: Prepared, allowance: u64, now: Now) -> Prepared {
        let recorded = judged.ok().filter(|_| self.store.recorder().is_some());
        match recorded.and_then(|ping| self.ledger.grounds(id, ping, allowance, now)) {
            Some(grounds) => prepared.upon(grounds),
            None => prepared,
        }
    }

    /// What is protected may stay so for long: it is counted once a mark.
    fn count_outcome(&mut self, id: &EntryId, outcome: Outcome, report: &mut Report) {
        if outcome != Outcome::Protected || self.ledger.count_once(id, Counted::Protected) {
            report.outcomes.add(outcome);
        }
    }

    fn take_in_outcomes(&mut self, evicted: Evicted, skipped: &[(EntryId, u32)], now: Now, report: &mut Report) -> u64 {
        evicted.took.iter().for_each(|took| self.load.batch_took(*took));
        self.audit.write(evicted.records);
        self.tell_unrecorded(&evicted.outcomes);
        let at = evicted.at.unwrap_or(now.server);
        let mut spent = 0;
        let mut untold = 0;
        for (id, outcome) in evicted.outcomes {
            self.count_outcome(&id, outcome, report);
            spent += u64::from(matches!(outcome, Outcome::Evicted | Outcome::Unknown));
            if outcome == Outcome::Evicted {
                let companions = skipped.iter().find(|(known, _)| *known == id).map_or(0, |(_, count)| *count);
                report.companions_skipped += u64::from(companions);
                untold += u64::from(!self.tell_eviction(&id, at, report));
            }
            if matches!(outcome, Outcome::Evicted | Outcome::Gone | Outcome::Unknown) {
                self.store.forget(&id);
            }
            self.ledger.struck(&id, outcome, now.mono);
        }
        if untold > 0 {
            let source = &*report.source;
            info!(source, evicted = untold, "evicted more than {LOGGED_A_SECOND} a second; these are only counted");
        }
        report.notified.merge(&evicted.notified);
        self.tell_unannounced(&evicted.notified);
        self.webhooks.tell(evicted.told);
        if evicted.notified.attempted[Sink::Webhook.index()] > 0 {
            self.webhooks.look();
        }
        if let Some(error) = evicted.failure {
            self.fail(error, report);
        }
        spent
    }

    /// What is gone can't be announced again: whoever listens has to be told otherwise.
    fn tell_unannounced(&self, notified: &Notified) {
        for sink in Sink::ALL {
            let failed = notified.failed[sink.index()];
            if failed > 0 {
                let source = &*self.store.source().name;
                warn!(
                    source,
                    sink = sink.as_str(),
                    failed,
                    "evicted, but redis refused the notification: nobody was told"
                );
            }
            let unknown = notified.unknown[sink.index()];
            if unknown > 0 {
                let source = &*self.store.source().name;
                warn!(source, sink = sink.as_str(), unknown, "nobody knows what was evicted, so these may be lost");
            }
        }
    }

    /// One line when the stream of the audit record begins to keep entries from going.
    fn tell_unrecorded(&mut self, outcomes: &[(EntryId, Outcome)]) {
        let Some(stream) = self.store.recorder().and_then(Recorder::stream) else { return };
        let blocked = outcomes.iter().filter(|(_, outcome)| *outcome == Outcome::Blocked(Blocked::Audit)).count();
        let evicted = outcomes.iter().any(|(_, outcome)| *outcome == Outcome::Evicted);
        if blocked > 0 && !self.unrecorded {
            let (source, stream) = (&*self.store.source().name, quoted(&stream.key));
            warn!(
                source,
                %stream,
                blocked,
                "nothing is evicted, for the audit record can't be written: its stream holds another type, or our user                  may not XADD there; see TYPE and `presence-reaper check --connect`"
            );
        }
        self.unrecorded = blocked > 0 || self.unrecorded && !evicted;
    }

    fn tell_eviction(&mut self, id: &EntryId, at: Timestamp, report: &mut Report) -> bool {
        let Some(watched) = self.ledger.watch().get(id) else { return true };
        let age_ms = at.millis_since(watched.last_ping).max(0).unsigned_abs();
        let lag = Duration::from_millis(age_ms).saturating_sub(self.settings.timing.threshold);
        report.lags.push(lag);
        let now = self.clock.now();
        if self.log_rate.allowance(now) == 0 {
            return false;
        }
        self.log_rate.spend(now, 1);
        let (source, naming) = (&*report.source, self.store.naming());
        let age = in_words(Duration::from_millis(age_ms));
        info!(source, id = %quoted(&naming.id(id)), key = %quoted(&naming.key(id)), age, "evicted");
        true
    }

    /// A dry run strikes nothing: it counts what would have gone, once a mark. It does not re-read, so a ping since the
    /// last survey is seen by the next.
    fn count_would_evict(&mut self, report: &mut Report) {
        let Some(now) = self.now() else { return };
        for id in self.ledger.due(now.mono, usize::MAX) {
            if self.ledger.decide_unread(&id, now).is_ok() && self.ledger.count_once(&id, Counted::DryRun) {
                report.skipped.dry_run += 1;
                let (source, naming) = (&*report.source, self.store.naming());
                info!(source, id = %quoted(&naming.id(&id)), key = %quoted(&naming.key(&id)), "would evict");
            }
        }
        report.now = Some(now);
    }

    // === pace ===

    /// Why evicting pauses, if Redis has a hard time, or what is evicted can't be recorded.
    fn pause(&self) -> Option<Pause> {
        self.load.pause().or_else(|| self.audit.pause().filter(|_| self.settings.mode == Mode::Evict))
    }

    fn settle(&mut self, reserved: u64, spent: u64) {
        let now = self.clock.now();
        self.ledger.spend(now, spent);
        locked(&self.shared).settle(now, reserved, spent);
    }

    /// For a single run: whether the allowed number of evictions is used up.
    pub fn is_spent(&self) -> bool {
        locked(&self.shared).is_spent()
    }

    // === what is known ===

    /// Server time carried forward from the last survey; none before the first.
    fn now(&self) -> Option<Now> {
        self.ledger.now(self.clock.now())
    }

    fn report(&self, verb: Verb) -> Report {
        Report::new(Arc::clone(&self.store.source().name), verb)
    }

    fn conclude(&mut self, mut report: Report, began: Monotonic) -> Report {
        report.took = self.clock.now().since(began);
        report.groups = self.ledger.groups();
        report.pause = self.pause();
        report.hold = self.ledger.hold(self.clock.now());
        report.state = report.hold.as_ref().map_or(State::Normal, |hold| hold.state);
        self.tell_state(&report);
        self.tell_pause(&report);
        report
    }

    /// One line when a hold begins, changes or ends.
    fn tell_state(&mut self, report: &Report) {
        let source = &*report.source;
        // The reason may count seconds; what ends it changes only with the hold.
        let told = (report.state, report.hold.as_ref().map(|hold| hold.ends_with.clone()));
        if self.told.as_ref() == Some(&told) {
            return;
        }
        let before = self.told.replace(told);
        match &report.hold {
            Some(hold) => {
                let within = hold.ends.map(|ends| in_words(ends.since(self.clock.now())));
                let within = within.map(|within| format!(" (within {within})")).unwrap_or_default();
                let ends_with = format!("{}{within}", hold.ends_with);
                warn!(
                    source,
                    state = report.state.as_str(),
                    watched = self.watched(),
                    ends_with,
                    "holding: {}",
                    hold.why
                );
            }
            None if before.is_some() => info!(source, state = report.state.as_str(), "no longer holding"),
            None => {}
        }
    }

    /// One line when evicting begins to pause, for another reason, or no longer.
    fn tell_pause(&mut self, report: &Report) {
        let source = &*report.source;
        let why = report.pause.as_ref().map(|pause| pause.why);
        let before = std::mem::replace(&mut self.paused, why);
        match &report.pause {
            Some(pause) if before != why => {
                let reason = pause.why.as_str();
                let ends_with =
                    if pause.why == Throttle::Audit { "a write to the audit file" } else { "the load going down" };
                warn!(source, reason, ends_with, "evicting pauses: {}", pause.words);
            }
            None if before.is_some() => info!(source, "evicting goes on"),
            _ => {}
        }
    }
}

/// What a trouble is a sign of, if it may have cost heartbeats: a break as soon as it is over.
fn aftermath(error: &Error) -> Option<Break> {
    match error.kind {
        _ if error.is_of_writes() => Some(Break::RefusedWrites),
        Kind::ReadOnly => Some(Break::RoleLost),
        Kind::Loading => Some(Break::Loading),
        _ => None,
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
