//! When a source may not evict: silence, mass, a wrong interval, and the timings the guards can work with.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use super::duration::in_words;
use super::entry::{Bytes, EntryId, Mark, Monotonic, Now, Timestamp};
use super::group::{Groups, Turn};
use super::interval::Intervals;
use super::load::Limits;
use super::memory;
use super::order::{Orders, Release};
use super::pulse::{Doubt, Pulse};
use super::regret::Regret;
use super::sample::Sampled;
use super::staleness::Timing;
use super::survey::{Judged, MISFIT_MIN, Survey};
use super::suspect;

/// Fewer heartbeats to a threshold than this are refused: the guards could not see an outage before the first living
/// entry turned stale. Simulated with all hubs cut off: at 3 heartbeats 1,450 of 1,500 living entries went, at 5 none.
pub const MIN_HEARTBEATS: u32 = 5;

/// Fewer heartbeats to a threshold than this leave little room for a late ping, and are warned about.
pub const GOOD_HEARTBEATS: u32 = 8;

/// Whether the guards can work with a timing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// At least [`GOOD_HEARTBEATS`] heartbeats to a threshold.
    Good,
    /// Safe, but one slow network hour away from holding.
    Tight,
    /// Below [`MIN_HEARTBEATS`]: must be refused.
    TooTight,
}

/// The shortest threshold that the guards can work with where entries ping so far apart; the one place that knows the
/// bound.
pub fn least_threshold(interval: Duration) -> Duration {
    interval * MIN_HEARTBEATS
}

/// The same as an operator would write it: in whole minutes from ten minutes on, in whole seconds from ten seconds on.
fn least_threshold_in_words(interval: Duration) -> String {
    let least = least_threshold(interval);
    let unit: u128 = match least.as_secs() {
        600.. => 60_000,
        10.. => 1_000,
        _ => 100,
    };
    let rounded = least.as_millis().div_ceil(unit) * unit;
    let rounded = Duration::from_millis(u64::try_from(rounded).unwrap_or(u64::MAX));
    if rounded.subsec_millis() == 0 { in_words(rounded) } else { format!("{}ms", rounded.as_millis()) }
}

/// An interval as people set it: seconds, below ten of them milliseconds.
fn interval_in_words(interval: Duration) -> String {
    match interval.as_secs() {
        seconds @ 10.. => format!("{seconds} s"),
        _ => format!("{} ms", interval.as_millis()),
    }
}

/// Whether the guards can work with `timing`.
pub fn fit(timing: &Timing) -> Fit {
    if timing.threshold < least_threshold(timing.heartbeat_interval) {
        Fit::TooTight
    } else if timing.threshold < timing.heartbeat_interval * GOOD_HEARTBEATS {
        Fit::Tight
    } else {
        Fit::Good
    }
}

/// What the operator may set about the guards of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long entries last heard before a break wait for their hubs to reconnect (E4). The default of 15 min is the
    /// longest documented stall of a client after a failover: StackExchange.Redis on Linux.
    pub reconnect_grace: Duration,
    /// How long a silence lasts before it is released; `None` is never. A source with fewer than ten recent entries is
    /// released after 15 min at most, and none before two thresholds.
    pub silence_release: Option<Duration>,
    /// How long entries of a group that is wholly silent wait beyond the threshold (E6).
    pub group_extra: Duration,
    /// A key that the hubs refresh with the time as long as they can write. Fresh, it releases a silence after a
    /// threshold; not fresh, no silence is released by time.
    pub writer_witness: Option<Bytes>,
    /// When evicting pauses because Redis has a hard time.
    pub load: Limits,
    /// Evictions a second, of a source and of the process; `None` is unlimited.
    pub max_evict_rate: Option<u32>,
    /// How many sorted sets or hashes a source by pattern may have. With more it is not surveyed, for a part of a source
    /// proves nothing; the list of 100,000 keys takes about 10 MB.
    pub max_keys: u32,
}

impl Settings {
    /// Whether the two let the same entries go, sooner or later: how fast they go, and how much is listed, decides of none.
    pub fn decide_alike(&self, other: &Self) -> bool {
        let deciding = |settings: &Self| {
            // Whoever adds a setting says here whether it decides.
            let Self {
                reconnect_grace,
                silence_release,
                group_extra,
                writer_witness,
                load: _,
                max_evict_rate: _,
                max_keys: _,
            } = settings;
            (*reconnect_grace, *silence_release, *group_extra, writer_witness.clone())
        };
        deciding(self) == deciding(other)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            reconnect_grace: Duration::from_secs(15 * 60),
            silence_release: Some(Duration::from_secs(60 * 60)),
            group_extra: Duration::ZERO,
            writer_witness: None,
            load: Limits::default(),
            max_evict_rate: Some(500),
            max_keys: 100_000,
        }
    }
}

/// From this share of the recently living on, late at once, a source is in mass (Kubernetes' unhealthy-zone-threshold).
const MASS_SHARE: (u64, u64) = (55, 100);

/// Fewer late entries than this are no mass: a single office that lost its power.
const MASS_MIN: u64 = 10;

/// Below this many recent entries a silence is released earlier: the last users of a small deployment went home.
const SMALL_SOURCE: u64 = 10;

/// How long the silence of a small source lasts at most, unless two thresholds are longer.
const SMALL_SILENCE: Duration = Duration::from_secs(15 * 60);

/// The state of a source; what a metric and a report call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Stale entries are evicted.
    Normal,
    /// An operator pulled the brake.
    Held,
    /// Evicted entries came back.
    Suspended,
    /// No survey succeeded lately.
    Blind,
    /// After a continuity break.
    Grace,
    /// Nobody pings.
    Silent,
    /// Most of those recently alive went missing at once.
    Mass,
    /// Entries ping too far apart for the threshold.
    Interval,
}

impl State {
    /// Every state, in the order of precedence: of several reasons to hold the first is shown.
    pub const ALL: [Self; 8] =
        [Self::Held, Self::Suspended, Self::Blind, Self::Grace, Self::Silent, Self::Interval, Self::Mass, Self::Normal];

    /// The name in metrics and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Held => "held",
            Self::Suspended => "suspended",
            Self::Blind => "blind",
            Self::Grace => "grace",
            Self::Silent => "silent",
            Self::Mass => "mass",
            Self::Interval => "interval",
        }
    }
}

/// Why a source evicts nothing, and what ends that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The reason.
    pub state: State,
    /// The reason in a sentence.
    pub why: String,
    /// When it ends by itself at the latest, if it does.
    pub ends: Option<Monotonic>,
    /// What ends it, in words.
    pub ends_with: String,
}

/// Which guards an operator lifted for one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifted {
    /// Evict although nobody pings.
    pub silent: bool,
    /// Evict although most went missing at once.
    pub mass: bool,
}

#[derive(Clone, Copy, Debug)]
struct Silence {
    since: Monotonic,
    /// How long it had lasted before that, as earlier processes saw.
    before: Duration,
    newest: Timestamp,
    small: bool,
    released: bool,
}

/// What a survey changed about the guards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The source fell silent.
    FellSilent,
    /// The silence was released by time.
    Released,
    /// A ping ended the silence: a continuity break of its source.
    SpokeAgain,
    /// Mass tripped.
    Mass,
    /// The entries turned out to ping too far apart.
    WrongInterval,
    /// So many entries that were evicted were found back with a newer ping.
    Resurrected(u64),
    /// Too many were: the source is suspended.
    Suspended,
}

/// The guards of one source (E5). They watch the flow of heartbeats, not the stock of stale entries: an outage shows
/// minutes before the first living entry could turn stale.
#[derive(Clone, Debug)]
pub struct Guard {
    timing: Timing,
    silence_release: Option<Duration>,
    silence: Option<Silence>,
    /// Whether there is a witness that the hubs can write, and since when it has been fresh.
    witness: Option<Option<Monotonic>>,
    /// The most live entries of a survey that heard somebody, and when that was; of about the last threshold.
    recent: Option<u64>,
    recent_at: Monotonic,
    mass_until: Option<Monotonic>,
    groups: Groups,
    slice: Option<Slice>,
    /// Entries at the last survey that nothing protected.
    population: u64,
    regret: Regret,
    /// Evicted entries found back since the last conclusion.
    back: u64,
    intervals: Intervals,
    pulse: Pulse,
    /// When the last silences began that a ping ended; no more than [`MANY_SILENCES`].
    silences: VecDeque<Monotonic>,
    lifted: Lifted,
    orders: Orders,
    /// A survey has shown that the source is what its settings say.
    fits: bool,
    /// Why it is not, if one has shown that, and what to do about it as soon as that is known.
    misfit: Option<(String, Option<String>)>,
}

/// The first few that go when a mass has been released by time: the rest waits to see whether they come back.
#[derive(Clone, Copy, Debug, Default)]
struct Slice {
    went: u64,
    /// When it has been waited for long enough; none before the first went.
    until: Option<Monotonic>,
}

impl Slice {
    fn is_over(&self, now: Monotonic) -> bool {
        self.until.is_some_and(|until| now >= until)
    }
}

fn slice_of(population: u64) -> u64 {
    SLICE_MIN.max(population / SLICE_SHARE)
}

/// How many are in the first slice: so many, or one in a hundred.
const SLICE_MIN: u64 = 5;
const SLICE_SHARE: u64 = 100;

/// So many silences within [`SILENCES_WITHIN`], each ended by a ping, look like an interval that is set too short.
const MANY_SILENCES: usize = 3;

/// In thresholds.
const SILENCES_WITHIN: u32 = 20;

impl Guard {
    /// Guards that have seen nothing yet.
    pub fn new(timing: Timing, settings: &Settings, lifted: Lifted) -> Self {
        Self {
            timing,
            silence_release: settings.silence_release,
            silence: None,
            witness: settings.writer_witness.as_ref().map(|_| None),
            recent: None,
            recent_at: Monotonic::default(),
            mass_until: None,
            groups: Groups::new(timing, settings.group_extra),
            slice: None,
            population: 0,
            regret: Regret::new(timing),
            back: 0,
            intervals: Intervals::new(timing),
            pulse: Pulse::new(timing),
            silences: VecDeque::new(),
            lifted,
            orders: Orders::default(),
            fits: false,
            misfit: None,
        }
    }

    /// Takes in what a survey that ended at `now` saw.
    pub fn observe(&mut self, survey: &Survey, now: Now) -> Vec<Change> {
        self.observe_fit(survey);
        let mut changes = Vec::new();
        changes.extend(self.observe_silence(survey, now));
        if self.observe_mass(survey, now.mono) {
            changes.push(Change::Mass);
        }
        self.pulse.draw(survey.fresh_sample.entries(), &survey.group_samples, now);
        self.intervals.fill(survey.sample.entries());
        changes.extend(self.conclude_interval(now.mono));
        changes
    }

    /// Takes in what a survey that ended at `now` saw of the groups; says which fell silent or ping again.
    pub fn observe_groups(&mut self, survey: &Survey, now: Now) -> Vec<Turn> {
        self.groups.observe(&survey.groups, now)
    }

    /// What is known of the groups.
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// Takes in that an entry of a group pinged again.
    pub fn group_pinged(&mut self, label: &[u8], now: Now) {
        self.groups.pinged(label, now);
    }

    // === looks at the sampled ===

    /// The entries that stand for all, to be re-read every heartbeat, and those evicted whose look has come: some
    /// hundreds at most.
    pub fn sampled(&self, now: Monotonic) -> Vec<EntryId> {
        let ids = self.pulse.ids().chain(self.intervals.ids()).chain(self.regret.due(now));
        let ids: HashSet<&EntryId> = ids.collect();
        ids.into_iter().cloned().collect()
    }

    /// Takes in a look at an entry; `None` if it is gone.
    pub fn looked(&mut self, id: &EntryId, found: Option<(Judged, Mark)>, now: Now) {
        self.pulse.looked(id, found.as_ref().map(|(_, mark)| *mark), now.mono);
        let last_ping = found.and_then(|(judged, _)| judged.ok()).map(|(last_ping, _)| last_ping);
        self.heard(last_ping, now);
        self.back += u64::from(self.regret.looked(id, last_ping, now.mono));
        self.intervals.looked(id, found, now);
    }

    /// Takes in that a watched entry pinged again; its old ping was last seen at `looked`.
    /// What had no ping before tells nothing of how far apart they are.
    pub fn pinged_again(&mut self, before: Option<Sampled>, after: (Timestamp, Mark), looked: Monotonic, now: Now) {
        self.heard(Some(after.0), now);
        if let Some(before) = before {
            self.intervals.pinged_again(before, after, looked, now);
        }
    }

    /// Takes in that a survey found an entry protected: one that works on without a ping says nothing of the interval.
    pub fn protected(&mut self, id: &EntryId) {
        self.intervals.forget(id);
    }

    /// A silence that was released stays so until a ping; one that shows between two surveys frees nobody either.
    fn heard(&mut self, last_ping: Option<Timestamp>, now: Now) {
        let until = self.timing.sign_of_life_until(now.server);
        let newest = self.silence.map(|silence| silence.newest);
        if last_ping.zip(newest).is_some_and(|(last_ping, newest)| last_ping > newest && last_ping <= until) {
            self.pulse.doubt_that(Doubt::SpokeAgain);
        }
    }

    /// Concludes what the looks up to `now` say.
    pub fn conclude(&mut self, now: Monotonic) -> Vec<Change> {
        self.pulse.conclude(now);
        let mut changes: Vec<Change> = self.conclude_interval(now).into_iter().collect();
        let back = std::mem::take(&mut self.back);
        if back > 0 {
            changes.push(Change::Resurrected(back));
            if self.slice.is_some_and(|slice| slice.until.is_some()) {
                self.trip_mass(now);
                changes.push(Change::Mass);
            }
        }
        if self.regret.conclude(now) {
            changes.push(Change::Suspended);
        }
        if self.slice.is_some_and(|slice| slice.is_over(now)) && self.regret.due(now).next().is_none() {
            self.slice = None;
        }
        changes
    }

    // === the evicted ===

    /// Takes in that an entry was evicted that had last pinged at `last_ping`.
    pub fn evicted(&mut self, id: &EntryId, last_ping: Timestamp, now: Monotonic) {
        self.regret.evicted(id, last_ping, now);
        self.intervals.forget(id);
        if let Some(slice) = self.slice.as_mut().filter(|_| !self.lifted.mass) {
            slice.went += 1;
            slice.until.get_or_insert(now.plus(self.timing.confirm_for()));
        }
    }

    /// How many may go at once, of `population` entries: after a mass that nobody lifted only a first slice.
    pub fn allowance(&self, population: u64, now: Monotonic) -> u64 {
        let slice = self.slice.filter(|_| !self.lifted.mass && self.orders.released(now).is_none());
        slice.map_or(u64::MAX, |slice| slice_of(population).saturating_sub(slice.went))
    }

    /// Why nothing may go at `now`, if too many of the evicted came back.
    pub fn suspended(&self, now: Monotonic) -> Option<Hold> {
        self.regret.hold(now)
    }

    fn conclude_interval(&mut self, now: Monotonic) -> Option<Change> {
        self.intervals.conclude(now).then_some(Change::WrongInterval)
    }

    /// Why nothing may go before the next survey, if so.
    pub fn doubt(&self) -> Option<Doubt> {
        self.pulse.doubt()
    }

    /// Whether the source is silent, and that has not been released.
    pub fn is_silent(&self) -> bool {
        self.silence.is_some_and(|silence| !silence.released)
    }

    /// Whether it is silent, or was until somebody or some time released it.
    pub fn has_been_silent(&self) -> bool {
        self.silence.is_some()
    }

    /// Only a time under unbroken sight proves anything about a silence: a break lets it begin anew.
    pub fn continuity_broke(&mut self, now: Monotonic) {
        if let Some(silence) = self.silence.as_mut().filter(|silence| !silence.released) {
            silence.since = now;
            silence.before = Duration::ZERO;
        }
        self.witness = self.witness.map(|_| None);
        self.intervals.continuity_broke();
    }

    /// What a later process has to know.
    pub fn remember(&self, now: Now) -> memory::Guards {
        memory::Guards {
            silence: self.silence.map(|silence| memory::Silence {
                since: now.server_at(silence.since).minus(silence.before),
                newest: silence.newest,
                small: silence.small,
                released: silence.released,
            }),
            recent: self.recent,
            mass_until: self.mass_until.filter(|until| now.mono < *until).map(|until| now.server_at(until)),
            slice: self
                .slice
                .map(|Slice { went, until }| memory::Slice { went, until: until.map(|until| now.server_at(until)) }),
            suspension: self.regret.remember(now),
            interval: self.intervals.wrong(),
            groups: self.groups.remember(now),
        }
    }

    /// Takes over the holds of an earlier process. Only if sight was `unbroken` since then does what it had seen of a
    /// silence count for its end.
    pub fn recall(&mut self, earlier: &memory::Guards, unbroken: bool, now: Now) {
        self.mass_until = earlier.mass_until.map(|until| now.when(until));
        // Whom to look at is forgotten, so that a slice which had begun proves nothing: another one goes first.
        self.slice = earlier.slice.map(|_| Slice::default());
        self.regret.recall(earlier.suspension, now);
        self.intervals.recall(earlier.interval, now.mono);
        self.groups.recall(&earlier.groups, now);
        self.silence = earlier.silence.map(|silence| {
            let lasted = Duration::from_millis(now.server.millis_since(silence.since).max(0).unsigned_abs());
            let memory::Silence { newest, small, released, .. } = silence;
            Silence {
                since: now.mono,
                before: if unbroken { lasted } else { Duration::ZERO },
                newest,
                small: small && unbroken,
                released: released && unbroken,
            }
        });
        if unbroken {
            self.recent = earlier.recent;
            self.recent_at = now.mono;
        }
    }

    /// Takes over what makes the leader hold, as far as it holds for longer than we would ourselves.
    pub fn follow(&mut self, leader: &memory::Guards, now: Now) {
        self.mass_until = self.mass_until.max(leader.mass_until.map(|until| now.when(until)));
        self.slice = self.slice.or(leader.slice.map(|_| Slice::default()));
        self.regret.follow(leader.suspension, now);
        if self.intervals.wrong().is_none() && leader.interval.is_some() {
            self.intervals.recall(leader.interval, now.mono);
        }
    }

    /// Takes in the time that the witness showed at `now`; `None` if it shows none. It says something about silence and
    /// about nothing else.
    pub fn witnessed(&mut self, shows: Option<Timestamp>, now: Now) {
        let from = now.server.minus(self.timing.late_after());
        let fresh = |at: Timestamp| at > from && at <= self.timing.sign_of_life_until(now.server);
        let fresh = shows.is_some_and(fresh);
        self.witness = self.witness.map(|since| fresh.then(|| since.unwrap_or(now.mono)));
    }

    fn observe_silence(&mut self, survey: &Survey, now: Now) -> Option<Change> {
        let Some(newest) = survey.newest else {
            self.silence = None;
            return None;
        };
        if now.server.minus(self.timing.late_after()) < newest {
            self.note_recent(survey.live(), now.mono);
            let ended = self.silence.take()?;
            self.silences.push_back(ended.since);
            if self.silences.len() > MANY_SILENCES {
                self.silences.pop_front();
            }
            return Some(Change::SpokeAgain);
        }
        match &mut self.silence {
            None => {
                // One that began out of our sight may have left nobody live: then the stale could all have been.
                let recent = self.recent.unwrap_or(survey.live() + survey.stale + survey.protected).max(survey.live());
                let small = recent < SMALL_SOURCE;
                self.silence =
                    Some(Silence { since: now.mono, before: Duration::ZERO, newest, small, released: false });
                Some(Change::FellSilent)
            }
            Some(known) => {
                if newest > known.newest {
                    // Somebody pings, by a clock that is behind: no time proves that this one is at an end.
                    *known = Silence { since: now.mono, before: Duration::ZERO, newest, released: false, ..*known };
                }
                let silence = *known;
                let released = !silence.released && self.release_of(&silence).is_some_and(|at| now.mono >= at);
                self.silence = Some(Silence { released: silence.released || released, ..silence });
                released.then_some(Change::Released)
            }
        }
    }

    /// Where clocks go wrong or hubs drop out one by one, few are left when the silence shows; they were no small source.
    fn note_recent(&mut self, live: u64, now: Monotonic) {
        if self.recent.is_none_or(|most| live >= most) || now.since(self.recent_at) >= self.timing.threshold {
            self.recent = Some(live);
            self.recent_at = now;
        }
    }

    fn observe_mass(&mut self, survey: &Survey, now: Monotonic) -> bool {
        let (share, whole) = MASS_SHARE;
        let (late, live) = survey.groups.exempt_from_mass(survey.late, survey.live(), MASS_SHARE);
        let mass = late >= MASS_MIN && late * whole >= live * share;
        let was = self.mass_until.is_some_and(|until| now < until);
        if mass {
            self.trip_mass(now);
        } else if self.mass_until.is_none_or(|until| now >= until) && survey.stale <= slice_of(survey.unprotected()) {
            // Whoever was missing is back: there is no mass left of which a few could go first.
            self.slice = self.slice.filter(|slice| slice.until.is_some());
        }
        self.population = survey.unprotected();
        mass && !was
    }

    fn trip_mass(&mut self, now: Monotonic) {
        self.mass_until = Some(now.plus(self.timing.threshold * 2));
        self.slice = Some(Slice::default());
    }

    fn release_of(&self, silence: &Silence) -> Option<Monotonic> {
        let release = self.silence_release?;
        if let Some(fresh_since) = self.witness {
            return Some(fresh_since?.max(silence.since).plus(self.timing.threshold));
        }
        let release = if silence.small { release.min(SMALL_SILENCE) } else { release };
        Some(silence.since.plus(release.max(self.timing.threshold * 2).saturating_sub(silence.before)))
    }

    /// Only at start: what goes wrong later shows as unreadable entries, or as silence.
    fn observe_fit(&mut self, survey: &Survey) {
        if !self.fits {
            let remedy = self.misfit.take().and_then(|(_, remedy)| remedy);
            self.misfit = survey.misfit().map(|why| (why, remedy));
            self.fits = self.misfit.is_none() && survey.population() >= MISFIT_MIN;
        }
    }

    /// Whether the source is not what its settings say, and nobody knows yet what to do about it.
    pub fn wants_remedy(&self) -> bool {
        matches!(self.misfit, Some((_, None)))
    }

    /// Takes in what to do about it.
    pub fn remedy(&mut self, remedy: String) {
        if let Some((_, known)) = &mut self.misfit {
            *known = Some(remedy);
        }
    }

    /// The hold of a source that is not what its settings say.
    pub fn misfit(&self) -> Option<Hold> {
        self.misfit.as_ref().map(|(why, remedy)| Hold {
            state: State::Blind,
            why: format!("{why}; {}", remedy.as_deref().unwrap_or(suspect::REMEDY)),
            ends: None,
            ends_with: "a survey that can be judged: mend the source, or the entries".into(),
        })
    }

    /// Takes in what operators order.
    pub fn ordered(&mut self, orders: Orders) {
        self.orders.update(orders);
    }

    /// What operators order.
    pub fn orders(&self) -> &Orders {
        &self.orders
    }

    /// Takes note that `count` went, or may have gone, under the release of an operator.
    pub fn spend_release(&mut self, count: u64) {
        self.orders.spend(count);
    }

    /// Why nothing of this source may go at `now`, but for the brake; none if it may.
    pub fn hold(&self, now: Now) -> Option<Hold> {
        let waits = |hold: &Hold| hold.state != State::Interval && self.orders.released(now.mono).is_some();
        // Where pings come too far apart, to be late says nothing: that is no mass.
        let reasons = [self.silent(now), self.interval(), self.mass(now.mono)];
        reasons.into_iter().flatten().find(|hold| !waits(hold))
    }

    /// The release without which nothing would go at `now`, if there is one.
    pub fn released(&self, now: Now) -> Option<&Release> {
        let waiting = self.silent(now).or_else(|| self.mass(now.mono));
        waiting.and_then(|_| self.orders.released(now.mono))
    }

    fn silent(&self, now: Now) -> Option<Hold> {
        let silence = self.silence.filter(|silence| !silence.released && !self.lifted.silent)?;
        let quiet = Duration::from_millis(now.server.millis_since(silence.newest).max(0).unsigned_abs());
        let ends = self.release_of(&silence);
        Some(Hold {
            state: State::Silent,
            why: format!(
                "nobody has pinged for {}; with a heartbeat_interval of {} that looks like {}",
                in_words(quiet),
                in_words(self.timing.heartbeat_interval),
                self.likely_cause(now.mono)
            ),
            ends,
            ends_with: match ends {
                Some(_) => "the next ping, else released by time".into(),
                None if self.silence_release.is_none() => "the next ping (silence_release is \"never\")".into(),
                None => "the next ping, or writer_witness fresh for a threshold: it says that hubs can't write".into(),
            },
        })
    }

    fn likely_cause(&self, now: Monotonic) -> String {
        let within = self.timing.threshold * SILENCES_WITHIN;
        let again = self.silences.iter().filter(|began| now.since(**began) <= within).count();
        if let Some(interval) = self.intervals.wrong() {
            format!("a wrong interval: {}", self.wrong_interval(interval))
        } else if again >= MANY_SILENCES {
            "a wrong interval: the source fell silent again and again; set heartbeat_interval to how often the hub pings".into()
        } else {
            "hubs cut off from Redis".into()
        }
    }

    fn interval(&self) -> Option<Hold> {
        let interval = self.intervals.wrong()?;
        Some(Hold {
            state: State::Interval,
            why: self.wrong_interval(interval),
            ends: None,
            ends_with: "pings that come faster, or a longer threshold (reload)".into(),
        })
    }

    fn wrong_interval(&self, interval: Duration) -> String {
        format!(
            "entries ping every {}, threshold is {}; set at least {}",
            interval_in_words(interval),
            in_words(self.timing.threshold),
            least_threshold_in_words(interval)
        )
    }

    fn mass(&self, now: Monotonic) -> Option<Hold> {
        if self.lifted.mass {
            return None;
        }
        let held = |why: &str, ends, ends_with: &str| Hold {
            state: State::Mass,
            why: why.into(),
            ends: Some(ends),
            ends_with: ends_with.into(),
        };
        if let Some(until) = self.mass_until.filter(|until| now < *until) {
            let why = "most of the recently living entries went late at once";
            return Some(held(why, until, "two thresholds after the last survey that saw it"));
        }
        let slice = self.slice.filter(|slice| slice.went >= slice_of(self.population))?;
        let until = slice.until?.max(now);
        let why =
            "a first slice of those that went late at once is evicted; the rest waits to see whether they come back";
        Some(held(why, until, "three heartbeats in which none comes back"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::Mark;
    use super::super::ping::{Unit, Unreadable};
    use super::super::staleness::Freshness;
    use super::super::testing::{TIMING, at};
    use super::*;

    const MINUTE: u64 = 60;

    fn survey(fresh: u64, newest: Now) -> Survey {
        let mut survey = Survey::new(TIMING);
        survey.count(Freshness::Fresh, fresh);
        survey.saw(newest.server);
        survey
    }

    /// The same beside some that are stale.
    fn with_stale(fresh: u64, stale: u64, newest: Now) -> Survey {
        let mut survey = survey(fresh, newest);
        survey.count(Freshness::Stale, stale);
        survey
    }

    /// A guard that saw these numbers of living, half a minute apart, and then nobody's ping any more.
    fn silent_after(living: &[u64]) -> (Guard, u64) {
        let mut guard = Guard::new(TIMING, &Settings::default(), Lifted::default());
        let times = (0..).step_by(30);
        for (live, seconds) in living.iter().zip(times) {
            guard.observe(&survey(*live, at(seconds)), at(seconds));
        }
        let last = 30 * (living.len() as u64 - 1);
        assert_eq!(guard.observe(&survey(0, at(last)), at(last + 90)), [Change::FellSilent]);
        (guard, last + 90)
    }

    fn ends(guard: &Guard, seconds: u64) -> Option<Monotonic> {
        guard.hold(at(seconds)).and_then(|hold| hold.ends)
    }

    #[test]
    fn p4_a_source_has_to_fit_its_settings_once() {
        let wrong = |now| {
            let mut survey = survey(10, now);
            survey.unreadable[Unreadable::Implausible.index()] = 10;
            survey
        };
        let why = |guard: &Guard| guard.misfit().map(|hold| hold.why);
        let mut guard = Guard::new(TIMING, &Settings::default(), Lifted::default());
        guard.observe(&survey(9, at(0)), at(0));
        guard.observe(&wrong(at(30)), at(30));
        let said = "10 of 20 entries can't be judged: 10 implausible";
        assert_eq!(why(&guard), Some(format!("{said}; {}", suspect::REMEDY)), "nine prove nothing");
        assert!(guard.wants_remedy());
        guard.remedy("write format".into());
        guard.observe(&wrong(at(60)), at(60));
        assert_eq!((why(&guard), guard.wants_remedy()), (Some(format!("{said}; write format")), false));
        guard.observe(&survey(10, at(90)), at(90));
        assert_eq!(why(&guard), None);
        guard.observe(&wrong(at(120)), at(120));
        assert_eq!(why(&guard), None, "only at start");
    }

    #[test]
    fn g6_a_source_that_melted_away_within_a_threshold_was_not_small() {
        let quarter = |began: u64| Some(at(began + 15 * MINUTE).mono);
        let hour = |began: u64| Some(at(began + 60 * MINUTE).mono);
        for (living, ends_after) in [
            (&[9, 9][..], quarter as fn(u64) -> Option<Monotonic>),
            (&[300, 300], hour),
            (&[300, 120, 3], hour),
            (&[300, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5], quarter),
        ] {
            let (guard, began) = silent_after(living);
            assert_eq!(ends(&guard, began), ends_after(began), "{living:?}");
        }
    }

    #[test]
    fn g7_the_first_slice_after_a_mass_is_handed_on() {
        let handed_on = |guard: &Guard, seconds| {
            let mut later = Guard::new(TIMING, &Settings::default(), Lifted::default());
            later.recall(&guard.remember(at(seconds)), true, at(seconds));
            later
        };
        let mut guard = Guard::new(TIMING, &Settings::default(), Lifted::default());
        let mut late = survey(10, at(0));
        late.count(Freshness::Late, 20);
        assert_eq!(guard.observe(&late, at(0)), [Change::Mass]);
        guard = handed_on(&guard, 30);
        assert_eq!(ends(&guard, 30), Some(at(600).mono));
        assert_eq!(guard.allowance(30, at(600).mono), SLICE_MIN);
        let a_slice_goes = |guard: &mut Guard, seconds| {
            for n in 0..SLICE_MIN {
                guard.evicted(&EntryId::key(n.to_string().into_bytes()), at(0).server, at(seconds).mono);
            }
        };
        a_slice_goes(&mut guard, 600);
        guard = handed_on(&guard, 610);
        guard.observe(&with_stale(30, 25, at(610)), at(610));
        let state = |guard: &Guard, seconds| (ends(guard, seconds), guard.allowance(30, at(seconds).mono));
        assert_eq!(state(&guard, 620), (None, SLICE_MIN), "whom to look at is forgotten: another slice");
        a_slice_goes(&mut guard, 620);
        assert_eq!(state(&guard, 620), (Some(at(710).mono), 0));
        for n in 0..SLICE_MIN {
            guard.looked(&EntryId::key(n.to_string().into_bytes()), None, at(700));
        }
        guard.conclude(at(710).mono);
        assert_eq!(state(&guard, 710), (None, u64::MAX));
    }

    #[test]
    fn g7_a_mass_that_is_back_needs_no_first_slice() {
        let mut guard = Guard::new(TIMING, &Settings::default(), Lifted::default());
        let mut late = survey(10, at(0));
        late.count(Freshness::Late, 20);
        guard.observe(&late, at(0));
        guard.observe(&with_stale(30, SLICE_MIN, at(599)), at(599));
        assert_eq!(guard.allowance(30, at(600).mono), SLICE_MIN, "not before the mass is over");
        guard.observe(&with_stale(30, SLICE_MIN + 1, at(600)), at(600));
        assert_eq!(guard.allowance(30, at(600).mono), SLICE_MIN, "more are stale than a slice holds");
        guard.observe(&with_stale(30, SLICE_MIN, at(601)), at(601));
        assert_eq!(guard.allowance(30, at(601).mono), u64::MAX);
    }

    #[test]
    fn g12_who_follows_holds_as_the_leader_does() {
        let mut leader = Guard::new(TIMING, &Settings::default(), Lifted::default());
        let mut late = survey(10, at(0));
        late.count(Freshness::Late, 20);
        leader.observe(&late, at(0));
        for n in 0..20 {
            let id = EntryId::key(n.to_string().into_bytes());
            leader.evicted(&id, at(0).server, at(0).mono);
            leader.looked(&id, Some((Ok((at(70).server, Unit::UnixMs)), Mark::of([]))), at(70));
        }
        assert!(leader.conclude(at(70).mono).contains(&Change::Suspended));
        let mut standby = Guard::new(TIMING, &Settings::default(), Lifted::default());
        standby.observe(&survey(30, at(70)), at(70));
        assert_eq!((standby.suspended(at(80).mono), standby.hold(at(80))), (None, None));
        standby.follow(&leader.remember(at(75)), at(80));
        let suspended_until = |guard: &Guard| guard.suspended(at(80).mono).and_then(|hold| hold.ends);
        assert_eq!(suspended_until(&standby), suspended_until(&leader));
        assert_eq!(standby.hold(at(80)).map(|hold| hold.state), Some(State::Mass));
        assert_eq!(standby.allowance(30, at(700).mono), SLICE_MIN);
        standby.follow(&memory::Guards::default(), at(81));
        assert_eq!(
            suspended_until(&standby),
            suspended_until(&leader),
            "what a leader no longer says is not taken back"
        );
    }

    #[test]
    fn g6_what_melted_away_and_what_pings_is_handed_on() {
        let mut guard = Guard::new(TIMING, &Settings::default(), Lifted::default());
        let handed_on = |guard: &Guard, seconds| {
            let mut later = Guard::new(TIMING, &Settings::default(), Lifted::default());
            later.recall(&guard.remember(at(seconds)), true, at(seconds));
            later
        };
        guard.observe(&survey(300, at(600)), at(600));
        guard = handed_on(&guard, 630);
        guard.observe(&survey(3, at(660)), at(660));
        guard = handed_on(&guard, 690);
        guard.observe(&survey(0, at(660)), at(750));
        assert_eq!(ends(&guard, 750), Some(at(750 + 60 * MINUTE).mono), "no small source");

        guard = handed_on(&guard, 60 * MINUTE);
        guard.observe(&survey(0, at(670)), at(61 * MINUTE));
        let hour = Some(at((61 + 60) * MINUTE).mono);
        assert_eq!(ends(&guard, 61 * MINUTE), hour, "a clock that is behind: all the silence before proves nothing");
    }

    #[test]
    fn g6_no_time_releases_a_source_whose_clocks_are_behind() {
        let mut guard = Guard::new(TIMING, &Settings::default(), Lifted::default());
        let behind = 10 * MINUTE;
        let last = 120 * MINUTE;
        for seconds in (0..=last).step_by(30) {
            guard.observe(&survey(0, at(seconds)), at(seconds + behind));
            assert!(guard.hold(at(seconds + behind)).is_some(), "they ping, at {seconds} s");
        }
        let mut silent_for = |seconds| {
            let now = at(last + behind + seconds);
            (guard.observe(&survey(0, at(last)), now), guard.hold(now).is_some())
        };
        assert_eq!(silent_for(15 * MINUTE - 1), (vec![], true));
        assert_eq!(silent_for(15 * MINUTE), (vec![Change::Released], false));
    }

    #[test]
    fn interval_the_threshold_that_is_asked_for_is_the_one_that_is_not_refused() {
        let table = [
            (405_000, "405 s", "34m"),
            (60_000, "60 s", "5m"),
            (3_600_000, "3600 s", "5h"),
            (9_999, "9999 ms", "50s"),
            (2_000, "2000 ms", "10s"),
            (1_234, "1234 ms", "6200ms"),
        ];
        for (millis, said, least) in table {
            let interval = Duration::from_millis(millis);
            assert_eq!((&*interval_in_words(interval), &*least_threshold_in_words(interval)), (said, least));
            let fits = |threshold| fit(&Timing { threshold, heartbeat_interval: interval }) != Fit::TooTight;
            assert!(fits(least_threshold(interval)) && !fits(least_threshold(interval) - Duration::from_millis(1)));
        }
    }
}
