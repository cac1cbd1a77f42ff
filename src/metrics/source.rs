//! The series of one source, and what a report does to them.

use prometheus::{Counter, Error, Gauge, Histogram, IntCounter, IntGauge, Registry};

use super::SourceLabels;
use super::series::{Labelled, Series};
use crate::policy::continuity::Break;
use crate::policy::entry::{Monotonic, Timestamp};
use crate::policy::guard::{Change, State};
use crate::policy::load::Throttle;
use crate::policy::outcome::{Blocked, Outcomes, Sink};
use crate::policy::ping::Unreadable;
use crate::policy::survey::Survey;
use crate::reaper::{Report, Skipped, Verb};
use crate::store::error::Kind;
use crate::webhook::{Failure, Loss, Tally};

/// Upper edges of a survey's duration, in seconds.
const DURATION_EDGES: [f64; 11] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0];

/// Upper edges of the lag, in seconds: the promise is one, and the rest is how long ghosts haunt.
const LAG_EDGES: [f64; 12] = [1.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3_600.0, 21_600.0, 86_400.0];

/// Of a guard's trips: the clocks of Redis and ours moved apart.
const CLOCK: &str = "clock";

/// Of a guard's trips: Redis refused writes, and so heartbeats.
const WRITE_REFUSED: &str = "write_refused";

#[derive(Debug)]
pub(super) struct Source {
    sweeps: IntCounter,
    sweep_failures: Labelled<IntCounter>,
    sweep_duration: Histogram,
    sweep_in_progress: Gauge,
    last_sweep: Gauge,
    last_complete_sweep: Gauge,
    entries: Labelled<IntGauge>,
    foreign: Gauge,
    newest_ping: Gauge,
    oldest_ping: Gauge,
    scanned: IntCounter,
    unreadable: Labelled<IntCounter>,
    evictions: IntCounter,
    eviction_failures: Labelled<IntCounter>,
    evictions_skipped: Labelled<IntCounter>,
    eviction_lag: Histogram,
    companions_skipped: IntCounter,
    notifications: Labelled<IntCounter>,
    notification_failures: Labelled<IntCounter>,
    notifications_unknown: Labelled<IntCounter>,
    webhook_posts: IntCounter,
    webhook_failures: Labelled<IntCounter>,
    webhook_delivered: IntCounter,
    webhook_lost: Labelled<IntCounter>,
    webhook_waiting: IntGauge,
    webhook_outbox: IntGauge,
    webhook_set_aside: IntGauge,
    resurrections: IntCounter,
    groups: IntGauge,
    groups_silent: IntGauge,
    throttled: Labelled<Counter>,
    state: Labelled<IntGauge>,
    guard_trips: Labelled<IntCounter>,
    breaks: Labelled<IntCounter>,
    canary_failures: Labelled<IntCounter>,
    hold_ends: Gauge,
    leader: Gauge,
    leader_transitions: IntCounter,
}

impl Source {
    pub(super) fn new(registry: &Registry, labels: &SourceLabels, started: Timestamp) -> Result<Self, Error> {
        let make = Series { registry, labels: &[("source", &labels.name)] };
        let source = Self {
            sweeps: make.counter("presence_reaper_sweeps_total", "Sweeps that ended, failed ones too.")?,
            sweep_failures: make.counters(
                "presence_reaper_sweep_failures_total",
                "Surveys and strikes that were broken off.",
                "reason",
                Kind::ALL.map(Kind::as_str),
            )?,
            sweep_duration: make.histogram(
                "presence_reaper_sweep_duration_seconds",
                "How long complete surveys took.",
                &DURATION_EDGES,
            )?,
            sweep_in_progress: make.gauge("presence_reaper_sweep_in_progress", "1 while a survey runs.")?,
            last_sweep: make.gauge(
                "presence_reaper_last_sweep_timestamp_seconds",
                "When the last survey ended, failed or not; the start of the process before the first.",
            )?,
            last_complete_sweep: make.gauge(
                "presence_reaper_last_complete_sweep_timestamp_seconds",
                "When the last survey that saw everything ended; the start of the process before the first.",
            )?,
            entries: make.gauges(
                "presence_reaper_entries",
                "Entries by what the last complete survey found them to be; their sum is all there were.",
                "state",
                entries(None).map(|(state, _)| state),
            )?,
            foreign: make.gauge(
                "presence_reaper_foreign",
                "Members or fields that the `id` of the source does not match: no entries, and never evicted.",
            )?,
            newest_ping: make.gauge(
                "presence_reaper_newest_ping_timestamp_seconds",
                "The newest last ping in the last complete survey, future ones left out; NaN if there was none.",
            )?,
            oldest_ping: make.gauge(
                "presence_reaper_oldest_ping_timestamp_seconds",
                "The oldest last ping in the last complete survey; NaN if there was none.",
            )?,
            scanned: make.counter("presence_reaper_entries_scanned_total", "Entries seen by complete surveys.")?,
            unreadable: make.counters(
                "presence_reaper_entries_unreadable_total",
                "Entries that a complete survey could not judge, counted again by each; they are never evicted.",
                "reason",
                Unreadable::ALL.map(Unreadable::as_str),
            )?,
            evictions: make.counter(
                "presence_reaper_evictions_total",
                "Entries removed with their companions, as confirmed by Redis.",
            )?,
            eviction_failures: make.counters(
                "presence_reaper_eviction_failures_total",
                "Entries that a strike left whole for this reason, or (unknown) whose reply was lost; at every strike.",
                "reason",
                failures(&Outcomes::default()).map(|(reason, _)| reason),
            )?,
            evictions_skipped: make.counters(
                "presence_reaper_evictions_skipped_total",
                "Entries passed over: each once until it pings again, but spared, too_late and fenced at every strike.",
                "reason",
                skipped(&Skipped::default(), &Outcomes::default()).map(|(reason, _)| reason),
            )?,
            eviction_lag: make.histogram(
                "presence_reaper_eviction_lag_seconds",
                "How long after its threshold an evicted entry had still stood.",
                &LAG_EDGES,
            )?,
            companions_skipped: make.counter(
                "presence_reaper_companions_skipped_total",
                "Companions and notifications of evicted entries that were left out, since a name in their template \
                 stood for nothing.",
            )?,
            notifications: make.counters(
                "presence_reaper_notifications_total",
                "Notifications of evicted entries, failed ones too.",
                "sink",
                Sink::ALL.map(Sink::as_str),
            )?,
            notification_failures: make.counters(
                "presence_reaper_notification_failures_total",
                "Notifications that Redis refused although the entry was evicted.",
                "sink",
                Sink::ALL.map(Sink::as_str),
            )?,
            notifications_unknown: make.counters(
                "presence_reaper_notifications_unknown_total",
                "Notifications of entries whose eviction is unknown: they may be lost.",
                "sink",
                Sink::ALL.map(Sink::as_str),
            )?,
            webhook_posts: make.counter(
                "presence_reaper_webhook_posts_total",
                "Attempts to deliver a batch of events to a webhook, failed ones too.",
            )?,
            webhook_failures: make.counters(
                "presence_reaper_webhook_post_failures_total",
                "Attempts that failed; all but refused ones are tried again.",
                "reason",
                Failure::ALL.map(Failure::as_str),
            )?,
            webhook_delivered: make
                .counter("presence_reaper_webhook_delivered_total", "Events that a webhook took.")?,
            webhook_lost: make.counters(
                "presence_reaper_webhook_lost_total",
                "Events that a webhook will never be told.",
                "reason",
                Loss::ALL.map(Loss::as_str),
            )?,
            webhook_waiting: make
                .count("presence_reaper_webhook_waiting", "Events that wait in this process for a webhook.")?,
            webhook_outbox: make.count(
                "presence_reaper_webhook_outbox",
                "Events in the outbox when the leader last looked into it; 0 with everybody else.",
            )?,
            webhook_set_aside: make.count(
                "presence_reaper_webhook_set_aside",
                "Events that a webhook refused, set aside when the leader last looked; 0 with everybody else.",
            )?,
            resurrections: make.counter(
                "presence_reaper_resurrections_total",
                "Evicted entries that were found back with a newer ping two heartbeats later: living clients were evicted.",
            )?,
            groups: make
                .count("presence_reaper_groups", "Groups in the last complete survey, where the source names them.")?,
            groups_silent: make
                .count("presence_reaper_groups_silent", "Groups of which nobody pinged for three heartbeats.")?,
            throttled: make.seconds(
                "presence_reaper_throttled_seconds_total",
                "How long entries that were due waited for this reason alone.",
                "reason",
                Throttle::ALL.map(Throttle::as_str),
            )?,
            state: make.gauges(
                "presence_reaper_source_state",
                "1 for the state the source is in; it evicts in normal alone.",
                "state",
                State::ALL.map(State::as_str),
            )?,
            guard_trips: make.counters(
                "presence_reaper_guard_trips_total",
                "How often a guard, or an operator (held), began to hold the source.",
                "reason",
                [
                    State::Held.as_str(),
                    State::Silent.as_str(),
                    State::Mass.as_str(),
                    State::Interval.as_str(),
                    State::Suspended.as_str(),
                    CLOCK,
                    WRITE_REFUSED,
                ],
            )?,
            breaks: make.counters(
                "presence_reaper_continuity_breaks_total",
                "Events after which silence proves nothing; after each, every entry has a full threshold.",
                "reason",
                Break::reasons(),
            )?,
            canary_failures: make.counters(
                "presence_reaper_canary_failures_total",
                "Looks at the source after which Redis refused to keep the reaper's own state, as it refuses heartbeats then.",
                "error",
                Kind::REFUSALS.map(Kind::as_str),
            )?,
            hold_ends: make.gauge(
                "presence_reaper_hold_ends_timestamp_seconds",
                "When the source's hold ends by itself at the latest; 0 if there is none, or no time ends it.",
            )?,
            leader: make.gauge(
                "presence_reaper_leader",
                "1 while this reaper holds the source's lease, and so may evict; 0 in a dry run.",
            )?,
            leader_transitions: make.counter(
                "presence_reaper_leader_transitions_total",
                "How often the lease went to this reaper, or from it to another.",
            )?,
        };
        source.last_sweep.set(seconds(started));
        source.last_complete_sweep.set(seconds(started));
        source.newest_ping.set(f64::NAN);
        source.oldest_ping.set(f64::NAN);
        source.set_state(State::Blind);
        Ok(source)
    }

    pub(super) fn surveying(&self, begun: bool) {
        self.sweep_in_progress.set(f64::from(u8::from(begun)));
    }

    pub(super) fn leading(&self, leads: bool, transitions: u64) {
        self.leader.set(f64::from(u8::from(leads)));
        self.leader_transitions.inc_by(transitions.saturating_sub(self.leader_transitions.get()));
    }

    pub(super) fn told(&self, tally: &Tally) {
        let up_to = |counter: &IntCounter, total: u64| counter.inc_by(total.saturating_sub(counter.get()));
        up_to(&self.webhook_posts, tally.posts);
        up_to(&self.webhook_delivered, tally.delivered);
        for why in Failure::ALL {
            self.webhook_failures.raise(why.as_str(), tally.failures[why.index()]);
        }
        for why in Loss::ALL {
            self.webhook_lost.raise(why.as_str(), tally.lost[why.index()]);
        }
        self.webhook_waiting.set(i64::try_from(tally.waiting).unwrap_or(i64::MAX));
        self.webhook_outbox.set(i64::try_from(tally.outbox).unwrap_or(i64::MAX));
        self.webhook_set_aside.set(i64::try_from(tally.set_aside).unwrap_or(i64::MAX));
    }

    pub(super) fn record(&self, report: &Report, wall: Timestamp, mono: Monotonic) {
        if report.verb == Verb::Survey {
            self.survey_ended(report, wall);
        }
        if let Some(error) = &report.failure {
            self.sweep_failures.add(error.kind.as_str(), 1);
        }
        self.evictions.inc_by(report.outcomes.evicted);
        failures(&report.outcomes).into_iter().for_each(|(reason, count)| self.eviction_failures.add(reason, count));
        let skipped = skipped(&report.skipped, &report.outcomes);
        skipped.into_iter().for_each(|(reason, count)| self.evictions_skipped.add(reason, count));
        report.lags.iter().for_each(|lag| self.eviction_lag.observe(lag.as_secs_f64()));
        self.companions_skipped.inc_by(report.companions_skipped + report.notified.skipped);
        for sink in Sink::ALL {
            self.notifications.add(sink.as_str(), report.notified.attempted[sink.index()]);
            self.notification_failures.add(sink.as_str(), report.notified.failed[sink.index()]);
            self.notifications_unknown.add(sink.as_str(), report.notified.unknown[sink.index()]);
        }
        for (why, kept) in Throttle::ALL.into_iter().zip(report.throttled) {
            self.throttled.add_seconds(why.as_str(), kept.as_secs_f64());
        }
        self.take_in_guards(report);
        let (groups, silent) = report.groups;
        self.groups.set(i64::try_from(groups).unwrap_or(i64::MAX));
        self.groups_silent.set(i64::try_from(silent).unwrap_or(i64::MAX));
        if report.state == State::Held && !self.state.is_set(State::Held.as_str()) {
            self.guard_trips.add(State::Held.as_str(), 1);
        }
        self.set_state(report.state);
        let ends = report.hold.as_ref().and_then(|hold| hold.ends);
        self.hold_ends.set(ends.map_or(0.0, |ends| seconds(wall.plus(ends.since(mono)))));
    }

    fn survey_ended(&self, report: &Report, wall: Timestamp) {
        self.surveying(false);
        self.sweeps.inc();
        self.last_sweep.set(seconds(wall));
        if let Some(survey) = report.survey.as_ref().filter(|_| report.failure.is_none()) {
            self.last_complete_sweep.set(seconds(wall));
            self.sweep_duration.observe(report.took.as_secs_f64());
            self.take_in_survey(survey);
        }
    }

    fn take_in_survey(&self, survey: &Survey) {
        entries(Some(survey)).into_iter().for_each(|(state, count)| self.entries.set(state, count));
        self.foreign.set(survey.foreign as f64);
        self.newest_ping.set(survey.newest.map_or(f64::NAN, seconds));
        self.oldest_ping.set(survey.oldest.map_or(f64::NAN, seconds));
        self.scanned.inc_by(survey.population());
        for (why, count) in Unreadable::ALL.into_iter().zip(survey.unreadable) {
            self.unreadable.add(why.as_str(), count);
        }
    }

    fn take_in_guards(&self, report: &Report) {
        for change in &report.changes {
            match change {
                Change::FellSilent => self.guard_trips.add(State::Silent.as_str(), 1),
                Change::Mass => self.guard_trips.add(State::Mass.as_str(), 1),
                Change::Suspended => self.guard_trips.add(State::Suspended.as_str(), 1),
                Change::Resurrected(count) => self.resurrections.inc_by(*count),
                Change::WrongInterval => self.guard_trips.add(State::Interval.as_str(), 1),
                Change::Released | Change::SpokeAgain => {}
            }
        }
        for one in &report.breaks {
            self.breaks.add(one.reason(), 1);
            match one {
                Break::ClockJump(_) => self.guard_trips.add(CLOCK, 1),
                Break::RefusedWrites => self.guard_trips.add(WRITE_REFUSED, 1),
                _ => {}
            }
        }
        if let Some(kind) = report.canary_refused {
            self.canary_failures.add(kind.as_str(), 1);
        }
    }

    fn set_state(&self, state: State) {
        State::ALL.into_iter().for_each(|one| self.state.set(one.as_str(), u64::from(one == state)));
    }
}

/// What is set and does not change.
pub(super) fn tell_settings(registry: &Registry, labels: &SourceLabels) -> Result<(), Error> {
    let mode = if labels.dry_run { "dry_run" } else { "evict" };
    let info = [("source", &*labels.name), ("layout", labels.layout), ("mode", mode)];
    let help = "Where the entries of a source live, and whether it evicts; always 1.";
    Series { registry, labels: &info }.gauge("presence_reaper_source_info", help)?.set(1.0);
    let make = Series { registry, labels: &[("source", &labels.name)] };
    make.gauge("presence_reaper_source_threshold_seconds", "The age from which an entry is stale.")?
        .set(labels.threshold.as_secs_f64());
    make.gauge("presence_reaper_source_sweep_interval_seconds", "The planned distance of two surveys.")?
        .set(labels.sweep_interval.as_secs_f64());
    Ok(())
}

/// Every state of an entry, with how many a survey found in it.
pub(super) fn entries(survey: Option<&Survey>) -> [(&'static str, u64); 5] {
    let count = |of: fn(&Survey) -> u64| survey.map_or(0, of);
    [
        ("live", count(Survey::live)),
        ("stale", count(|survey| survey.stale)),
        ("future", count(|survey| survey.future)),
        ("unreadable", count(Survey::unreadable_total)),
        ("protected", count(|survey| survey.protected)),
    ]
}

/// Every reason why a struck entry may stand although nothing spoke for it, with how many did.
fn failures(outcomes: &Outcomes) -> [(&'static str, u64); Blocked::ALL.len() + 1] {
    let mut failures = [("unknown", outcomes.unknown); Blocked::ALL.len() + 1];
    for (failure, why) in failures.iter_mut().zip(Blocked::ALL) {
        *failure = (why.as_str(), outcomes.blocked[why.index()]);
    }
    failures
}

/// Every reason to pass an entry over, with how many were. One that is gone needed nobody, so it is not among them.
fn skipped(skipped: &Skipped, outcomes: &Outcomes) -> [(&'static str, u64); 8] {
    [
        ("dry_run", skipped.dry_run),
        ("spared", outcomes.spared),
        ("observing", skipped.observing),
        ("guard", skipped.guard),
        ("limit", skipped.limit),
        ("protected", skipped.protected + outcomes.protected),
        ("too_late", outcomes.too_late),
        ("fenced", outcomes.fenced),
    ]
}

/// Since the beginning of 1970, as Prometheus counts.
pub(super) fn seconds(at: Timestamp) -> f64 {
    at.millis() as f64 / 1e3
}
