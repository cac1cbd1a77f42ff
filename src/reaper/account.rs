//! What a survey or a strike did, as plain values.

use std::sync::Arc;
use std::time::Duration;

use super::{Mode, Reaper};

use crate::policy::continuity::Break;
use crate::policy::entry::{Monotonic, Now};
use crate::policy::guard::{Change, Hold, State};
use crate::policy::load::{Pause, Throttle};
use crate::policy::outcome::{Notified, Outcomes};
use crate::policy::staleness::Timing;
use crate::policy::survey::Survey;
use crate::store::error::{Error, Kind};
use crate::store::instances::InstanceSource;
use crate::store::naming::Naming;

/// What a report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Everything was read.
    Survey,
    /// The sampled entries were re-read.
    Pulse,
    /// What was due was struck.
    Strike,
    /// What operators order had changed.
    Order,
}

impl Verb {
    /// The verb as the log calls it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Survey => "survey",
            Self::Pulse => "pulse",
            Self::Strike => "strike",
            Self::Order => "order",
        }
    }
}

/// Entries passed over, counted once a mark and reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// A dry run would have evicted them.
    pub dry_run: u64,
    /// E3, E4 and E6: not seen for long enough, or within a grace of the source or the group.
    pub observing: u64,
    /// E5: the source held.
    pub guard: u64,
    /// E8: beyond the pace.
    pub limit: u64,
    /// E9: the survey found them protected. What only a strike finds is among its outcomes.
    pub protected: u64,
}

/// What one survey, pulse or strike did, failed ones too. Metrics and reports see nothing else of a sweep.
#[derive(Clone, Debug)]
pub struct Report {
    /// The source.
    pub source: Arc<str>,
    /// Which verb.
    pub verb: Verb,
    /// How long it took.
    pub took: Duration,
    /// The two clocks when it ended; none if Redis was not heard.
    pub now: Option<Now>,
    /// What broke it off.
    pub failure: Option<Error>,
    /// What a survey saw, its candidates left out.
    pub survey: Option<Arc<Survey>>,
    /// The state of the source afterwards.
    pub state: State,
    /// Why it evicts nothing, if it holds.
    pub hold: Option<Hold>,
    /// Why evicting pauses although the source does not hold, if it does.
    pub pause: Option<Pause>,
    /// Groups, and how many of them are silent.
    pub groups: (usize, usize),
    /// Continuity breaks that it found.
    pub breaks: Vec<Break>,
    /// With what kind of error our own state was refused after a survey, if it was.
    pub canary_refused: Option<Kind>,
    /// What it changed about the guards.
    pub changes: Vec<Change>,
    /// What became of the entries it struck.
    pub outcomes: Outcomes,
    /// How long after its threshold each evicted entry had still stood.
    pub lags: Vec<Duration>,
    /// What it passed over.
    pub skipped: Skipped,
    /// Companions of evicted entries that named no key.
    pub companions_skipped: u64,
    /// The notifications of evicted entries.
    pub notified: Notified,
    /// How long what was due was kept by the pace or the load alone, by [`Throttle::index`].
    pub throttled: [Duration; Throttle::ALL.len()],
}

impl Report {
    /// A report that has nothing to tell yet.
    pub(crate) fn new(source: Arc<str>, verb: Verb) -> Self {
        Self {
            source,
            verb,
            took: Duration::ZERO,
            now: None,
            failure: None,
            survey: None,
            state: State::Normal,
            hold: None,
            pause: None,
            groups: (0, 0),
            breaks: Vec::new(),
            canary_refused: None,
            changes: Vec::new(),
            outcomes: Outcomes::default(),
            lags: Vec::new(),
            skipped: Skipped::default(),
            companions_skipped: 0,
            notified: Notified::default(),
            throttled: Default::default(),
        }
    }

    /// Evicted entries that were found back with a newer ping.
    pub fn resurrected(&self) -> u64 {
        let back = self.changes.iter().map(|change| if let Change::Resurrected(back) = change { *back } else { 0 });
        back.sum()
    }
}

/// What a single run found of a source, and did; or what a daemon last found of it, and did since its start.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The source.
    pub source: Arc<str>,
    /// Where its entries are, for a person: `zset presence:online`.
    pub place: String,
    /// How its entries are called.
    pub naming: Naming,
    /// Its rhythm.
    pub timing: Timing,
    /// Some entries may be protected.
    pub has_conditions: bool,
    /// It is only looked at.
    pub dry_run: bool,
    /// What was seen; none if it could not be read.
    pub survey: Option<Arc<Survey>>,
    /// The two clocks when the survey ended.
    pub now: Option<Now>,
    /// The state of the source at the end.
    pub state: State,
    /// Why it evicted nothing, if it held.
    pub hold: Option<Hold>,
    /// Why evicting pauses, if Redis has a hard time.
    pub pause: Option<Pause>,
    /// What became of the entries that were struck.
    pub outcomes: Outcomes,
    /// Evicted entries that were found back with a newer ping two heartbeats later; a run that ends before that knows of
    /// none.
    pub resurrected: u64,
    /// Stale entries that a grace of their own kept although the source did not hold.
    pub kept_by_grace: u64,
    /// Companions of evicted entries that named no key.
    pub companions_skipped: u64,
    /// The notifications of evicted entries.
    pub notified: Notified,
    /// Those for webhooks that a run did not deliver.
    pub undelivered: u64,
    /// What broke it off.
    pub failure: Option<Error>,
    /// It was told to stop before it was done.
    pub interrupted: bool,
    /// Evicting paused for so long that the run did not wait for more.
    pub gave_up: bool,
    /// The other process that holds the source's lease, where that kept a run from evicting.
    pub led_by: Option<String>,
}

impl Finding {
    /// Nothing is known yet.
    pub fn nothing_yet(reaper: &Reaper) -> Self {
        let source = reaper.store().source();
        Self {
            source: Arc::clone(&source.name),
            place: source.container.describe(),
            naming: reaper.store().naming().clone(),
            timing: *reaper.timing(),
            has_conditions: !source.unless.is_empty(),
            dry_run: reaper.mode() == Mode::DryRun,
            survey: None,
            now: None,
            state: State::Normal,
            hold: None,
            pause: None,
            outcomes: Outcomes::default(),
            resurrected: 0,
            kept_by_grace: 0,
            companions_skipped: 0,
            notified: Notified::default(),
            undelivered: 0,
            failure: None,
            interrupted: false,
            gave_up: false,
            led_by: None,
        }
    }

    /// How the source stands, as operators see it from outside.
    pub fn for_operators(&self, leads: bool, now: Now) -> InstanceSource {
        let survey = self.survey.as_ref();
        InstanceSource {
            name: self.source.to_string(),
            state: self.state.as_str().into(),
            hold: self.hold.as_ref().map(|hold| hold.why.clone()),
            ends_ms: self.hold.as_ref().and_then(|hold| Some(now.server_at(hold.ends?).millis())),
            ends_with: self.hold.as_ref().map(|hold| hold.ends_with.clone()),
            leads,
            live: survey.map(|survey| survey.live()),
            stale: survey.map(|survey| survey.stale),
        }
    }

    /// Counts on from what was counted of the source under another configuration.
    pub fn count_on(&mut self, before: &Self) {
        self.outcomes = before.outcomes;
        self.resurrected = before.resurrected;
        self.companions_skipped = before.companions_skipped;
        self.notified = before.notified;
    }

    /// Adds what was done, and takes over how the source stands.
    pub fn add(&mut self, report: &Report) {
        self.outcomes.merge(&report.outcomes);
        self.resurrected += report.resurrected();
        self.companions_skipped += report.companions_skipped;
        self.notified.merge(&report.notified);
        self.state = report.state;
        self.hold = report.hold.clone();
        self.pause = report.pause.clone();
    }

    /// Whether the source was seen and dealt with to the end.
    pub fn is_complete(&self) -> bool {
        self.survey.is_some() && self.failure.is_none() && !self.interrupted
    }

    /// Stale entries that were seen.
    pub fn stale(&self) -> u64 {
        self.survey.as_ref().map_or(0, |survey| survey.stale)
    }

    /// Whether a guard kept a stale entry from going that would have gone, or another reaper holds the lease.
    pub fn is_held(&self) -> bool {
        self.led_by.is_some()
            || !self.dry_run && self.stale() > 0 && (self.hold.is_some() || self.gave_up || self.kept_by_grace > 0)
    }
}

/// When the loop of a source did what, and will, and whether it may evict.
#[derive(Clone, Copy, Debug)]
pub struct Turns {
    /// This process holds the source's lease; none in a dry run, which needs none.
    pub leads: Option<bool>,
    /// A survey is running.
    pub surveying: bool,
    /// When the last survey ended, failed or not.
    pub swept: Option<Monotonic>,
    /// When the last survey that saw everything ended.
    pub surveyed: Option<Monotonic>,
    /// When the next survey begins.
    pub next_survey: Monotonic,
}
