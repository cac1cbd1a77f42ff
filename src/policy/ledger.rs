//! Everything one process knows of one source, and what follows from it: who may be due, and what may go.
//!
//! The reaper feeds it with what Redis answered and does what it allows; so does the simulation, without a Redis. The
//! rule itself is in [`rule`]; here its facts are kept, in the only order in which they may be taken in.

use std::time::Duration;

use super::continuity::{Break, CLOCK_TOLERANCE, Continuity, Identity};
use super::entry::{EntryId, Mark, Monotonic, Now, Timestamp};
use super::grounds::Grounds;
use super::group::Turn;
use super::guard::{self, Change, Guard, Hold, Lifted, State};
use super::memory::{self, Absences, HostClock, Memory, SingleRun};
use super::order::{Orders, Release};
use super::outcome::Outcome;
use super::pace::Pace;
use super::ping::Unit;
use super::pulse::Doubt;
use super::rule::{self, Facts, Refusal};
use super::sample::Sampled;
use super::schedule::{self, SHORTEST_WAIT};
use super::staleness::Timing;
use super::survey::{Judged, Survey};
use super::watch::Watch;

/// What one process knows of one source.
#[derive(Clone, Debug)]
pub struct Ledger {
    timing: Timing,
    continuity: Continuity,
    guard: Guard,
    watch: Watch,
    pace: Pace,
    last: Option<LastSurvey>,
    /// When the last survey began, if it kept every candidate and no break came since: what it does not name and is watched
    /// later was younger by then.
    seen_through: Option<Monotonic>,
    /// The last survey failed.
    failing: bool,
    /// The last attempt to read anything failed.
    unanswered: bool,
    /// When the sampled entries were last read, or drawn.
    sampled_at: Option<Monotonic>,
    /// When the last pulse was taken, or the first survey before it.
    pulsed: Option<Monotonic>,
    /// Who may have left a memory was asked for it.
    recalled: bool,
    /// It has the graces and holds of another one of this process.
    inherits: bool,
    run: Run,
    /// For a single run: our host's clock when ours began.
    host: Option<HostClock>,
    /// An absence may make an entry stale.
    judges_by_absence: bool,
    /// Its times are ours.
    dated_by_us: bool,
}

/// What kind of process this is, as far as its memory goes.
#[derive(Clone, Copy, Debug)]
enum Run {
    Daemon,
    /// A single run; nothing of it is known before its first survey.
    Single(Option<SingleRun>),
}

/// A restart within so many look intervals goes on where the process before it ended.
const WARM: u32 = 3;

/// Two clocks that nobody sets drift apart by one part in so many at most: NTP slews a clock by half of that, and a bad
/// quartz is ten times better.
const DRIFT: u32 = 1_000;

/// What the last complete survey left behind.
#[derive(Clone, Debug)]
struct LastSurvey {
    identity: Identity,
    began: Now,
    ended: Now,
    /// Entries that nothing protected.
    population: u64,
    /// An absence means something.
    vouched: bool,
    /// Live entries, and the newest ping.
    live: u64,
    newest: Option<Timestamp>,
}

/// What a survey changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// Continuity breaks that it found.
    pub breaks: Vec<Break>,
    /// What it changed about the guards.
    pub changes: Vec<Change>,
    /// Groups that fell silent, or ping again.
    pub turns: Vec<Turn>,
}

/// The reasons that an entry is counted for, once a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// A dry run would have evicted it.
    DryRun,
    /// E3 or E4 kept it.
    Observing,
    /// E5 kept it.
    Guard,
    /// E8 kept it.
    Limit,
    /// E9 kept it.
    Protected,
}

impl Ledger {
    /// Nothing is known yet.
    pub fn new(timing: Timing, settings: &guard::Settings, lifted: Lifted) -> Self {
        Self {
            timing,
            continuity: Continuity::new(timing, settings.reconnect_grace),
            guard: Guard::new(timing, settings, lifted),
            watch: Watch::default(),
            pace: Pace::new(settings.max_evict_rate, timing.heartbeat_interval),
            last: None,
            seen_through: None,
            failing: false,
            unanswered: false,
            sampled_at: None,
            pulsed: None,
            recalled: false,
            inherits: false,
            run: Run::Daemon,
            host: None,
            judges_by_absence: false,
            dated_by_us: false,
        }
    }

    /// The same for a source whose times are ours, of when we saw a value first.
    #[must_use]
    pub fn dated_by_us(self, dated_by_us: bool) -> Self {
        Self { dated_by_us, ..self }
    }

    /// The same for a source in which an absence may make an entry stale: it is looked at every heartbeat.
    #[must_use]
    pub fn judging_by_absence(self, judges_by_absence: bool) -> Self {
        Self { judges_by_absence, ..self }
    }

    /// From now on another rate holds.
    pub fn limit(&mut self, max_evict_rate: Option<u32>) {
        self.pace.limit(max_evict_rate);
    }

    /// The same, after one that judged by other settings: a first contact, but no grace and no hold of it ends earlier.
    #[must_use]
    pub fn after(mut self, other: &Self) -> Self {
        self.continuity = self.continuity.after(&other.continuity);
        if let Some(now) = other.continuity.last_look() {
            self.watch.doubt(other.watch.misdated_until(now.mono));
            self.guard.recall(&other.guard.remember(now), false, now);
        }
        self.inherits = true;
        self
    }

    /// For a single run: starts from this continuity instead of from a first contact. `host`: what our host's clock showed
    /// when ours began.
    pub fn resume(&mut self, continuity: Continuity, host: Option<HostClock>) {
        self.continuity = continuity;
        self.run = Run::Single(None);
        self.host = host;
    }

    /// For a single run, before its first survey: who was missing when an earlier one last looked, and how long ago that
    /// is. None unless nothing can have happened in between that swallows pings, as far as can be told, and our host's own
    /// clock has counted that time.
    pub fn missed_before<'m>(
        &self,
        earlier: &'m Memory,
        identity: &Identity,
        now: Now,
    ) -> Option<(&'m Absences, Duration)> {
        let absences = earlier.absences.as_ref()?;
        let passed = self.on_our_host(earlier, now)?;
        let gap = since(earlier.looked, now);
        let unbroken = !earlier.redefined
            && earlier.identity == *identity
            && self.moved_since(earlier, now).is_none()
            && !self.is_too_long(gap, earlier, now);
        unbroken.then_some((absences, passed.min(gap)))
    }

    // === what outlives the process ===

    /// Before the first survey, which begins at `now` on the process `identity`, is taken in: goes on from what an earlier
    /// process left, if it left anything. Holds and graces are taken over in any case; what it had seen counts only if
    /// this is still the server it saw, and the time in between too short to hide an outage.
    pub fn recall(&mut self, earlier: Option<&Memory>, identity: &Identity, now: Now) {
        if std::mem::replace(&mut self.recalled, true) {
            return;
        }
        if let Run::Single(run) = &mut self.run {
            let period = earlier.and_then(|earlier| earlier.run).map(|run| since(run.began, now));
            *run = Some(SingleRun { began: now.server, period });
        }
        let Some(earlier) = earlier else { return };
        // A clock that went back since then must not make anything last for as long as it went.
        let then = Now { server: now.server.max(earlier.looked), ..now };
        self.continuity.recall_graces(&earlier.sight, then);
        let own = self.watch.misdated_until(now.mono);
        self.watch.doubt(own.max(earlier.misdated_until.map(|until| then.when(until))));
        if self.inherits {
            // What was handed over stays, and what was kept in Redis holds beside it: a dry run knew nothing of that.
            return self.guard.follow(&earlier.guards, then);
        }
        let unbroken = self.goes_on(earlier, identity, now);
        self.guard.recall(&self.handed_on(earlier.guards.clone()), unbroken, then);
    }

    /// What passes between processes. A single run does not live long enough to see whom a first slice brings back: it
    /// neither leaves one nor finds one.
    fn handed_on(&self, guards: memory::Guards) -> memory::Guards {
        match self.run {
            Run::Daemon => guards,
            Run::Single(_) => memory::Guards { slice: None, ..guards },
        }
    }

    /// While another reaper leads, what makes it hold makes us hold when we follow it.
    pub fn follow(&mut self, leader: &Memory, now: Now) {
        let then = Now { server: now.server.max(leader.looked), ..now };
        self.guard.follow(&leader.guards, then);
    }

    /// Takes over the sight of an earlier process; says whether it was unbroken until now.
    fn goes_on(&mut self, earlier: &Memory, identity: &Identity, now: Now) -> bool {
        if earlier.redefined {
            return false;
        }
        let (gap, moved) = (since(earlier.looked, now), self.moved_since(earlier, now));
        let same = earlier.identity == *identity && moved.is_none();
        if same && self.is_too_long(gap, earlier, now) {
            // A daemon has seen nothing of this time. A single run can't tell whether it was only itself that did not look.
            if let Run::Single(_) = self.run {
                self.continuity.suspect(Break::OutOfSight(gap));
            }
            return false;
        }
        // Between single runs nobody looks, and so no look can have failed.
        let unseen = if let Run::Single(_) = self.run { Duration::ZERO } else { gap };
        self.continuity.recall_look(earlier.identity.clone(), &earlier.sight, unseen, now);
        if let Some(moved) = moved {
            self.continuity.suspect(Break::ClockJump(moved));
        }
        same
    }

    /// By how much Redis' clock has moved since an earlier process looked, where that can be told: it went back, or for a
    /// single run not as far as our host's own clock did.
    fn moved_since(&self, earlier: &Memory, now: Now) -> Option<i64> {
        let passed = now.server.millis_since(earlier.looked);
        let beyond = |moved: i64, tolerance: Duration| {
            (Duration::from_millis(moved.unsigned_abs()) > tolerance).then_some(moved)
        };
        let back = beyond(passed.min(0), CLOCK_TOLERANCE);
        let against_host = || {
            let ours = self.on_our_host(earlier, now)?;
            let moved = passed.saturating_sub(i64::try_from(ours.as_millis()).unwrap_or(i64::MAX));
            beyond(moved, CLOCK_TOLERANCE + ours / DRIFT)
        };
        back.or_else(against_host)
    }

    /// How long ago an earlier single run looked, by our host's clock; none where that is not the clock it saw.
    fn on_our_host(&self, earlier: &Memory, now: Now) -> Option<Duration> {
        self.host.as_ref()?.at(now.mono).since(earlier.host.as_ref()?)
    }

    /// Whether so long without a look may hide an outage. Between single runs it is long by design: then a run that
    /// comes much later than they use to tells that something kept them away.
    fn is_too_long(&self, gap: Duration, earlier: &Memory, now: Now) -> bool {
        if gap <= self.timing.look_interval() * WARM {
            return false;
        }
        match (self.run, earlier.run) {
            (Run::Daemon, _) => true,
            (Run::Single(_), Some(SingleRun { began, period: Some(period) })) => since(began, now) > period * 3 / 2,
            (Run::Single(_), _) => gap > self.timing.threshold * 2,
        }
    }

    /// What a later process has to know, after a survey or a pulse; none before the first.
    pub fn remember(&self) -> Option<Memory> {
        let (last, looked) = (self.last.as_ref()?, self.continuity.last_look()?);
        Some(Memory {
            identity: last.identity.clone(),
            redefined: false,
            looked: looked.server,
            run: match self.run {
                Run::Daemon => None,
                Run::Single(run) => run,
            },
            host: match self.run {
                Run::Daemon => None,
                Run::Single(_) => self.host.as_ref().map(|host| host.at(looked.mono)),
            },
            absences: None,
            misdated_until: self.watch.misdated_until(looked.mono).map(|until| looked.server_at(until)),
            sight: self.continuity.remember(looked),
            guards: self.handed_on(self.guard.remember(looked)),
        })
    }

    /// When the last look that succeeded ended.
    pub fn last_look(&self) -> Option<Monotonic> {
        self.continuity.last_look().map(|look| look.mono)
    }

    // === what the writes of our own state tell ===

    /// Before a survey or a pulse is taken in: takes in what was read of the canary when it began.
    pub fn canary_read(&mut self, found: Option<u64>) {
        self.continuity.canary_read(found);
    }

    /// After a survey or a pulse was taken in: the canary was written, and is now `value`; says what broke before.
    pub fn canary_written(&mut self, value: u64, now: Now) -> Vec<Break> {
        let breaks = self.continuity.canary_written(value, now);
        self.broke(&breaks, now.mono);
        breaks
    }

    /// The canary was refused, so heartbeats are: holds until it is not.
    pub fn canary_refused(&mut self, why: impl Into<String>) {
        self.continuity.canary_refused(why);
    }

    /// Nobody knows whether the canary was written: nothing goes before another survey.
    pub fn canary_unanswered(&mut self) {
        self.last = None;
    }

    /// Before a survey or a pulse is taken in: takes in how many writes of anybody the server has refused so far.
    pub fn refusals(&mut self, count: u64) {
        self.continuity.refusals(count);
    }

    /// Takes in trouble that is a break as soon as it is over.
    pub fn suspect(&mut self, one: Break) {
        self.continuity.suspect(one);
    }

    // === what is taken in ===

    /// Takes in a complete survey of the process `identity`. Its candidates move to the watch list.
    pub fn surveyed(&mut self, identity: &Identity, began: Now, ended: Now, survey: &mut Survey) -> Learned {
        self.failing = false;
        let mut breaks = self.looked(identity, began, ended);
        let changes = self.guard.observe(survey, ended);
        let turns = self.guard.observe_groups(survey, ended);
        if changes.contains(&Change::SpokeAgain) {
            self.continuity.silence_ended(ended);
            self.broke(&[Break::SilenceEnded], ended.mono);
            breaks.push(Break::SilenceEnded);
        }
        self.sampled_at = Some(ended.mono);
        // A survey is no pulse: where one follows another every heartbeat, the conclusions of pulses are still drawn.
        self.pulsed.get_or_insert(ended.mono);
        let candidates = std::mem::take(&mut survey.candidates);
        candidates.iter().filter(|one| one.protected).for_each(|one| self.guard.protected(&one.id));
        let kept_all = survey.unwatched == 0;
        self.watch.observe(candidates, kept_all, self.seen_through, ended, &self.timing);
        self.seen_through = kept_all.then_some(began.mono);
        self.last = Some(LastSurvey {
            identity: identity.clone(),
            began,
            ended,
            population: survey.unprotected(),
            vouched: survey.vouched,
            live: survey.live(),
            newest: survey.newest,
        });
        Learned { breaks, changes, turns }
    }

    /// Takes in that entries were re-read at `now` on the process `identity`; says what broke before. Whoever else
    /// answers than the survey's process, or after a break, has to be surveyed first: then nothing is decided.
    pub fn reread(&mut self, identity: &Identity, now: Now) -> Vec<Break> {
        let known = self.last.as_ref().is_some_and(|last| last.identity == *identity);
        let breaks = self.looked(identity, now, now);
        if !known || !breaks.is_empty() {
            self.last = None;
        }
        breaks
    }

    /// Takes in what a re-read of some of the [`Self::sampled`] found; `None` for what is gone. [`Self::reread`] comes
    /// first.
    pub fn sampled_looked(&mut self, looks: impl IntoIterator<Item = (EntryId, Option<(Judged, Mark)>)>, now: Now) {
        for (id, found) in looks {
            // One that lost what it was judged by has not pinged, although it looks another.
            if found.is_none_or(|(judged, _)| !is_absence(judged)) {
                self.guard.looked(&id, found, now);
            }
        }
    }

    /// Concludes from the looks at the sampled entries, all of which were read by `now`. It can only hold, never release.
    pub fn pulsed(&mut self, now: Monotonic) -> Vec<Change> {
        (self.sampled_at, self.pulsed) = (Some(now), Some(now));
        self.guard.conclude(now)
    }

    /// Takes in, before a survey, the time that the `writer_witness` showed at `now`; `None` if it shows none.
    pub fn witnessed(&mut self, shows: Option<Timestamp>, now: Now) {
        self.guard.witnessed(shows, now);
    }

    /// Takes in that Redis could not be read; says whether that is news. A failed survey is more than a failed look: the
    /// source is not seen although Redis may be.
    pub fn failed(&mut self, survey: bool) -> bool {
        self.continuity.missed();
        let known = self.failing || self.unanswered;
        self.failing |= survey;
        self.unanswered = true;
        !known
    }

    fn looked(&mut self, identity: &Identity, began: Now, ended: Now) -> Vec<Break> {
        self.unanswered = false;
        let breaks = self.continuity.looked(identity, began, ended);
        self.broke(&breaks, ended.mono);
        breaks
    }

    /// After a break no earlier look counts, and a silence has to prove itself anew.
    fn broke(&mut self, breaks: &[Break], now: Monotonic) {
        if !breaks.is_empty() {
            self.watch.clear();
            self.seen_through = None;
            self.guard.continuity_broke(now);
        }
    }

    /// Whether the source is not what its settings say, and nobody knows yet what to do about it.
    pub fn wants_remedy(&self) -> bool {
        self.guard.wants_remedy()
    }

    /// Takes in what to do about it.
    pub fn remedy(&mut self, remedy: String) {
        self.guard.remedy(remedy);
    }

    /// Takes in what operators order.
    pub fn ordered(&mut self, orders: Orders) {
        self.guard.ordered(orders);
    }

    /// The release of an operator without which nothing would go at `now`, if there is one.
    pub fn released(&self, now: Now) -> Option<&Release> {
        self.guard.released(now)
    }

    /// Takes note that `count` went, or may have gone, under the release of an operator.
    pub fn spend_release(&mut self, count: u64) {
        self.guard.spend_release(count);
    }

    /// Takes in what a re-read found of a watched entry. One that pinged again tells how far apart its pings are, and ends
    /// the silence of its group; after a silence of the source it keeps all the others until a survey.
    pub fn found(&mut self, id: &EntryId, judged: Judged, mark: Mark, now: Now) {
        let (Some(watched), Ok((last_ping, _)), Some(last)) = (self.watch.get(id), judged, &self.last) else { return };
        if watched.mark != mark && !is_absence(judged) {
            let watched = watched.clone();
            let looked = watched.since.max(last.began.mono);
            if let Some(label) = &watched.group {
                self.guard.group_pinged(label, now);
            }
            let before =
                Sampled { id: id.clone(), mark: watched.mark, last_ping: watched.last_ping, seen: watched.since };
            let before = (!watched.absent).then_some(before);
            self.guard.pinged_again(before, (last_ping, mark), looked, now);
            if watched.protected {
                self.guard.protected(id);
            }
        }
    }

    /// Takes in what became of an entry that was struck.
    pub fn struck(&mut self, id: &EntryId, outcome: Outcome, now: Monotonic) {
        let heartbeat = self.timing.heartbeat_interval;
        // Of a lost reply nobody knows; if the entry pings on, that tells the same.
        if matches!(outcome, Outcome::Evicted | Outcome::Unknown)
            && let Some(watched) = self.watch.get(id)
        {
            self.guard.evicted(id, watched.last_ping, now);
        }
        match outcome {
            Outcome::Evicted | Outcome::Gone => self.watch.forget(id),
            _ if self.watch.is_closed() => self.watch.forget(id),
            // The mark may still stand: the next look tells.
            Outcome::Spared | Outcome::TooLate | Outcome::Fenced => self.watch.postpone(id, now.plus(heartbeat / 10)),
            Outcome::Protected | Outcome::Blocked(_) | Outcome::Unknown => self.watch.postpone(id, now.plus(heartbeat)),
        }
    }

    // === what follows ===

    /// Server time carried forward from the last survey; none before the first, or after a break since.
    pub fn now(&self, mono: Monotonic) -> Option<Now> {
        self.last.as_ref().map(|last| last.ended.at(mono))
    }

    /// Whether the source as a whole may evict at `now`.
    ///
    /// # Errors
    /// The first condition that it fails.
    pub fn decide_source(&self, now: Now) -> Result<(), Refusal> {
        rule::decide_source(&self.facts(), now)
    }

    /// Whether an entry, re-read at `now`, may be struck; if not, it is looked at again when that may have changed.
    /// [`Self::found`] comes first, for all that was re-read with it.
    /// `protected`: a condition that protects it was found to hold.
    ///
    /// # Errors
    /// The first condition that it fails.
    pub fn decide(
        &mut self,
        id: &EntryId,
        judged: Judged,
        mark: Mark,
        protected: bool,
        now: Now,
    ) -> Result<(), Refusal> {
        let decided = rule::decide(&self.facts(), judged, mark, protected, self.watch.get(id), now);
        self.defer(id, decided, now)
    }

    /// What [`Self::decide`] would say of an entry whose mark and protection still stood: for a run that strikes nothing and so
    /// re-reads nothing. Either way it is looked at again later.
    ///
    /// # Errors
    /// The first condition that it fails.
    pub fn decide_unread(&mut self, id: &EntryId, now: Now) -> Result<(), Refusal> {
        let watched = self.watch.get(id).ok_or(Refusal::Moved)?;
        let decided = rule::decide_watched(&self.facts(), watched.protected, watched, now);
        if decided.is_ok() {
            self.watch.postpone(id, now.mono.plus(self.timing.heartbeat_interval));
        }
        self.defer(id, decided, now)
    }

    fn defer(&mut self, id: &EntryId, decided: Result<(), Refusal>, now: Now) -> Result<(), Refusal> {
        match &decided {
            Ok(()) => {}
            Err(Refusal::Unconfirmed { until } | Refusal::Grace { until } | Refusal::Group { until }) => {
                self.watch.postpone(id, *until)
            }
            Err(Refusal::Protected) if self.watch.is_closed() => self.watch.forget(id),
            Err(Refusal::Held(_) | Refusal::Absent | Refusal::FactsTooOld | Refusal::Protected) => {
                self.watch.postpone(id, now.mono.plus(self.timing.heartbeat_interval));
            }
            Err(Refusal::Unreadable(_) | Refusal::Future | Refusal::Live | Refusal::Moved) => self.watch.forget(id),
        }
        decided
    }

    /// What an entry went by that [`Self::decide`] has just let go, and that was read as `unit` and `last_ping`. `allowance`:
    /// how many the pace allowed.
    pub fn grounds(
        &self,
        id: &EntryId,
        (last_ping, unit): (Timestamp, Unit),
        allowance: u64,
        now: Now,
    ) -> Option<Grounds> {
        let (watched, last) = (self.watch.get(id)?, self.last.as_ref()?);
        let age = |at: Timestamp| since(at, now);
        let [grace_over, reconnect_over] = self.continuity.over_for(now.mono);
        let group = watched.group.clone();
        Some(Grounds {
            unit,
            last_ping,
            threshold: self.timing.threshold,
            seen_for: now.mono.since(watched.since),
            confirm_for: self.timing.confirm_for(),
            grace_over,
            reconnect_over,
            survey_age: now.mono.since(last.began.mono),
            pulse_age: self.sampled_at.map(|at| now.mono.since(at)),
            live: last.live,
            unprotected: last.population,
            newest_age: last.newest.map(age),
            silence_released: self.guard.has_been_silent(),
            release: self.released(now).map(|release| release.id.clone()),
            group_newest_age: group.as_deref().and_then(|label| self.guard.groups().newest(label)).map(age),
            group,
            // What is left of no limit is none either.
            allowance: (allowance < u64::MAX / 2).then_some(allowance),
        })
    }

    /// When something may be due, if nothing but time is wanting; `pace_frees` is when the whole process may evict.
    pub fn next_strike(&mut self, mono: Monotonic, pace_frees: Monotonic) -> Option<Monotonic> {
        let now = self.now(mono)?;
        let due = self.watch.next_due()?;
        let free = match self.decide_source(now) {
            Ok(()) => self.pace.frees_at(mono, self.population()).max(pace_frees),
            Err(Refusal::Grace { until }) => until,
            Err(_) => return None,
        };
        Some(due.max(free).max(mono.plus(SHORTEST_WAIT)))
    }

    /// When the next survey begins, after one that succeeded. `chance` as in [`schedule::next_survey`]. While the source
    /// or one of its groups is silent, its first sign of life must not be missed, so that it is surveyed every heartbeat.
    pub fn next_survey(&self, chance: f64) -> Option<Monotonic> {
        let LastSurvey { began, ended, .. } = self.last.as_ref()?;
        let interval = self.timing.survey_interval();
        let silent = self.guard.is_silent() || self.guard.groups().silent() > 0;
        // Nobody knows what happens to an absence between two looks.
        let silent = (silent || self.judges_by_absence).then(|| interval.min(self.timing.look_interval()));
        let took = ended.mono.since(began.mono);
        Some(schedule::next_survey_after(began.mono, took, silent.unwrap_or(interval), &self.timing, chance))
    }

    /// Whether nothing can go before another survey: the pulse doubts, or something that nothing protects is due and the
    /// facts are too old.
    pub fn wants_survey(&self, mono: Monotonic) -> bool {
        let Some(now) = self.now(mono) else { return true };
        // One that takes longer than what it tells is good for helps nobody by coming at once.
        let slow = self
            .last
            .as_ref()
            .is_some_and(|last| last.ended.mono.since(last.began.mono) > self.timing.facts_valid_for());
        let too_old = || self.decide_source(now) == Err(Refusal::FactsTooOld);
        self.doubt().is_some() || !slow && too_old() && self.watch.is_due(mono)
    }

    /// What the pulse holds against going on before the next survey, if anything.
    pub fn doubt(&self) -> Option<Doubt> {
        self.guard.doubt()
    }

    /// Whether a group of this label is told apart from the others.
    pub fn knows_group(&self, label: &[u8]) -> bool {
        self.guard.groups().newest(label).is_some()
    }

    /// How many groups there are, and how many of them are silent.
    pub fn groups(&self) -> (usize, usize) {
        (self.guard.groups().len(), self.guard.groups().silent())
    }

    /// The entries that stand for all, to be re-read at [`Self::next_pulse`].
    pub fn sampled(&self, now: Monotonic) -> Vec<EntryId> {
        self.guard.sampled(now)
    }

    /// When the sampled entries are to be read again; none where a survey comes first: at the beginning, after a failure or
    /// a break.
    pub fn next_pulse(&self) -> Option<Monotonic> {
        let known = self.last.is_some() && !self.failing && !self.unanswered;
        self.pulsed.filter(|_| known).map(|pulsed| pulsed.plus(self.timing.look_interval()))
    }

    /// Whether the pulse is too old to strike by it.
    pub fn is_pulse_old(&self, mono: Monotonic) -> bool {
        self.sampled_at.is_none_or(|at| mono.since(at) > self.timing.look_interval() / 2)
    }

    /// The first `limit` entries that are due at `now`, longest due first.
    pub fn due(&self, now: Monotonic, limit: usize) -> Vec<EntryId> {
        self.watch.due(now, limit)
    }

    /// Why the source holds at `mono`, if it does: what its state, its metric and its report say.
    pub fn hold(&self, mono: Monotonic) -> Option<Hold> {
        let braked = self.guard.orders().hold(mono).filter(|hold| hold.state == State::Held);
        let first = braked.or_else(|| self.guard.suspended(mono)).or_else(|| self.blind(mono));
        first.or_else(|| match self.now(mono) {
            Some(now) => rule::hold(&self.facts(), now),
            None => rule::grace(&self.facts(), mono),
        })
    }

    fn blind(&self, mono: Monotonic) -> Option<Hold> {
        let surveyed = self.last.as_ref().map(|last| last.ended.mono);
        let older = |seen: Option<Monotonic>, limit| seen.is_none_or(|seen| mono.since(seen) > limit);
        let heartbeat = self.timing.heartbeat_interval;
        let unseen = self.failing && older(surveyed, self.timing.survey_interval() + heartbeat);
        let unanswered = self.unanswered && older(self.last_look(), self.timing.look_interval() + heartbeat);
        (unseen || unanswered).then(|| Hold {
            state: State::Blind,
            why: if unseen {
                "no survey has succeeded lately"
            } else {
                "no redis that is a master has been heard lately"
            }
            .into(),
            ends: None,
            ends_with: "a complete survey; then a grace, as after any break".into(),
        })
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            timing: &self.timing,
            continuity: &self.continuity,
            guard: &self.guard,
            surveyed: self.last.as_ref().map(|last| (last.began.mono, last.ended.mono)),
            vouched: self.last.as_ref().is_some_and(|last| last.vouched),
            dated_by_us: self.dated_by_us,
        }
    }

    fn population(&self) -> u64 {
        self.last.as_ref().map_or(0, |last| last.population)
    }

    // === pace ===

    /// How many of this source may go now: by the pace (E8), and after a mass only a first slice.
    pub fn allowance(&mut self, now: Monotonic) -> u64 {
        let pace = self.pace.allowance(now, self.population()).min(self.guard.allowance(self.population(), now));
        let released = self.now(now).and_then(|now| self.released(now)).map_or(u64::MAX, |release| release.left);
        pace.min(released)
    }

    /// Takes note that `count` went, or may have gone.
    pub fn spend(&mut self, now: Monotonic, count: u64) {
        self.pace.spend(now, count);
    }

    /// Takes over from another reaper at `now`: what it may have evicted just before counts as ours.
    pub fn took_over(&mut self, now: Monotonic) {
        self.pace.exhaust(now, self.population());
    }

    // === the watch list ===

    /// The entries older than `watch_from`.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Stops watching an entry that is gone, or can't be judged.
    pub fn forget(&mut self, id: &EntryId) {
        self.watch.forget(id);
    }

    /// Whether an entry was not counted for `reason` before; counts it.
    pub fn count_once(&mut self, id: &EntryId, reason: Counted) -> bool {
        self.watch.count_once(id, reason as u8)
    }

    /// How many watched entries that are stale at `now` the source keeps and were not counted for that before; counts
    /// them.
    pub fn count_held(&mut self, now: Now) -> Option<(Counted, u64)> {
        let reason = match rule::hold(&self.facts(), now)?.state {
            State::Held | State::Suspended | State::Silent | State::Mass | State::Interval => Counted::Guard,
            State::Grace => Counted::Observing,
            State::Blind | State::Normal => return None,
        };
        Some((reason, self.watch.count_stale_once(reason as u8, now.server, &self.timing)))
    }

    /// How many watched entries something protects that were not counted for that before; counts them.
    pub fn count_protected(&mut self) -> u64 {
        self.watch.count_protected_once(Counted::Protected as u8)
    }

    /// For a single run: from now on only what is stale already is watched.
    pub fn close(&mut self, mono: Monotonic) {
        if let Some(now) = self.now(mono) {
            self.watch.close(now.server, &self.timing);
        }
    }

    /// For a single run: takes in again what is stale; what the last survey could not keep has its turn.
    pub fn open(&mut self) {
        self.watch.open();
    }
}

fn since(earlier: Timestamp, now: Now) -> Duration {
    Duration::from_millis(now.server.millis_since(earlier).max(0).unsigned_abs())
}

fn is_absence(judged: Judged) -> bool {
    matches!(judged, Ok((_, Unit::Missing)))
}

#[cfg(test)]
mod tests {
    use super::super::memory::{Guards, Sight};
    use super::super::ping::Unit;
    use super::super::survey::Which;
    use super::super::testing::{TIMING, at};
    use super::*;

    /// A clock that was an hour ahead when the last process left, and is right again.
    #[test]
    fn what_was_left_lasts_no_longer_for_a_clock_that_went_back() {
        let now = Now { server: Timestamp::from_millis(1_800_000_000_000), mono: Monotonic::default() };
        let minutes = |count: u64| Duration::from_secs(60 * count);
        let surveyed = now.server.plus(minutes(60));
        let grace = Some(("a restart of redis".to_owned(), surveyed.plus(minutes(2))));
        let mass_until = Some(surveyed.plus(minutes(3)));
        let earlier = Memory {
            identity: Identity::default(),
            redefined: false,
            looked: surveyed,
            run: None,
            host: None,
            absences: None,
            misdated_until: Some(surveyed.plus(minutes(4))),
            sight: Sight { grace, ..Sight::default() },
            guards: Guards { mass_until, ..Guards::default() },
        };
        let mut ledger = Ledger::new(TIMING, &guard::Settings::default(), Lifted::default());
        ledger.recall(Some(&earlier), &Identity::default(), now);
        let after = |count: u64| Some(now.mono.plus(minutes(count)));
        assert_eq!(ledger.continuity.grace(now.mono).map(|grace| grace.until), after(2));
        assert_eq!(ledger.guard.hold(now).and_then(|hold| hold.ends), after(3));
        assert_eq!(ledger.watch.misdated_until(now.mono), after(4));
        let breaks = ledger.surveyed(&Identity::default(), now, now, &mut Survey::new(TIMING)).breaks;
        assert_eq!(breaks, [Break::ClockJump(-3_600_000)]);
    }

    /// What decides otherwise is a first contact, and what was about to break, or holds, is no less so for that.
    #[test]
    fn no_reload_ends_a_hold_or_hides_a_break() {
        let mut before = surveyed(&[("a", 10), ("b", 10)]);
        let until = |seconds: u64| at(seconds).server;
        let suspension = memory::Suspension {
            lasts: Duration::from_secs(1_800),
            until: until(2_800),
            again_until: until(9_000),
            back: 7,
            of: 20,
        };
        let guards =
            Guards { mass_until: Some(until(3_600)), suspension: Some(suspension), ..before.guard.remember(at(1_000)) };
        before.guard.recall(&guards, true, at(1_000));
        before.suspect(Break::RoleLost);
        let timing = Timing { threshold: TIMING.threshold * 2, ..TIMING };
        let settings = guard::Settings { reconnect_grace: Duration::from_secs(1), ..guard::Settings::default() };

        let mut after = Ledger::new(timing, &settings, Lifted::default()).after(&before);

        let breaks = after.surveyed(&Identity::default(), at(1_010), at(1_010), &mut Survey::new(timing)).breaks;
        assert_eq!(breaks, [Break::RoleLost, Break::FirstContact]);
        assert_eq!(after.continuity.grace(at(1_010).mono).map(|grace| grace.until), Some(at(1_610).mono));
        assert_eq!(after.guard.suspended(at(2_799).mono).and_then(|hold| hold.ends), Some(at(2_800).mono));
        assert!(after.guard.hold(at(3_599)).is_some() && after.guard.hold(at(3_600)).is_none());
    }

    /// A dry run read nothing of what an evicting reaper left in Redis; evicting again, it holds by that, and by its own.
    #[test]
    fn what_was_kept_holds_beside_what_was_handed_over() {
        let mut dry = surveyed(&[("a", 10)]);
        let mass_until = Some(at(1_700).server);
        let guards = Guards { mass_until, ..dry.guard.remember(at(1_000)) };
        dry.guard.recall(&guards, true, at(1_000));
        let suspension = memory::Suspension {
            lasts: Duration::from_secs(7_200),
            until: at(5_000).server,
            again_until: at(9_000).server,
            back: 7,
            of: 20,
        };
        let kept = Memory {
            identity: Identity::default(),
            redefined: false,
            looked: at(500).server,
            run: None,
            host: None,
            absences: None,
            misdated_until: Some(at(1_400).server),
            sight: Sight { reconnect: Some((at(400).server, at(1_300).server)), ..Sight::default() },
            guards: Guards { suspension: Some(suspension), ..Guards::default() },
        };
        let mut after = Ledger::new(TIMING, &guard::Settings::default(), Lifted::default()).after(&dry);
        after.recall(Some(&kept), &Identity::default(), at(1_005));
        after.surveyed(&Identity::default(), at(1_005), at(1_010), &mut Survey::new(TIMING));
        assert_eq!(after.guard.suspended(at(1_010).mono).and_then(|hold| hold.ends), Some(at(5_000).mono));
        assert_eq!(after.guard.remember(at(1_010)).mass_until, mass_until);
        assert_eq!(after.continuity.reconnecting(at(1_010).mono).map(|one| one.until), Some(at(1_300).mono));
        assert_eq!(after.watch.misdated_until(at(1_010).mono), Some(at(1_400).mono));
        assert!(after.continuity.grace(at(1_010).mono).is_some(), "a first contact all the same");
    }

    /// A grace that runs is as long as it was when it began.
    #[test]
    fn another_break_shortens_no_grace_to_reconnect() {
        let mut before = surveyed(&[("a", 10)]);
        before.suspect(Break::RoleLost);
        before.reread(&Identity::default(), at(1_010));
        let settings = guard::Settings { reconnect_grace: Duration::from_secs(1), ..guard::Settings::default() };
        let mut after = Ledger::new(TIMING, &settings, Lifted::default()).after(&before);
        after.suspect(Break::RoleLost);
        after.surveyed(&Identity::default(), at(1_020), at(1_020), &mut Survey::new(TIMING));
        let reconnect = after.continuity.reconnecting(at(1_020).mono).unwrap();
        assert_eq!(reconnect.until, at(1_910).mono);
        assert!(reconnect.before > at(1_020).server);
    }

    /// Between two single runs only our own host's clock tells how much time has passed.
    #[test]
    fn missing_counts_between_single_runs_as_long_as_both_clocks_say_and_nothing_broke() {
        let host = |boot: &str, seconds| HostClock { boot: boot.into(), up: Duration::from_secs(seconds) };
        let earlier = Memory {
            identity: Identity::default(),
            redefined: false,
            looked: at(1_000).server,
            run: Some(SingleRun { began: at(900).server, period: None }),
            host: Some(host("this", 50_000)),
            absences: Some(Absences::default()),
            misdated_until: None,
            sight: Sight::default(),
            guards: Guards::default(),
        };
        // At a time that many seconds later by Redis' clock, and by ours.
        let passed = |earlier: &Memory, ours: Option<HostClock>, server: u64, host: u64| {
            let now = Now { server: at(1_000 + server).server, mono: Monotonic::from_start(Duration::from_secs(5)) };
            let host_began = ours.map(|clock| HostClock { up: clock.up + Duration::from_secs(host - 5), ..clock });
            let mut ledger = Ledger::new(TIMING, &guard::Settings::default(), Lifted::default());
            let (server, uptime) = (Identity::default(), Duration::from_secs(86_400));
            ledger.resume(Continuity::resumed(TIMING, Duration::ZERO, server, now, uptime), host_began);
            let passed = ledger.missed_before(earlier, &Identity::default(), now).map(|(_, passed)| passed.as_secs());
            ledger.recall(Some(earlier), &Identity::default(), now);
            let breaks = ledger.surveyed(&Identity::default(), now, now, &mut Survey::new(TIMING)).breaks;
            (passed, breaks.iter().map(Break::reason).collect::<Vec<_>>())
        };
        let this = || Some(host("this", 50_000));
        assert_eq!(passed(&earlier, this(), 500, 500), (Some(500), vec![]));
        assert_eq!(passed(&earlier, this(), 502, 500), (Some(500), vec![]), "the lesser of the two");
        assert_eq!(passed(&earlier, this(), 500, 502), (Some(500), vec![]));
        assert_eq!(passed(&earlier, this(), 503, 500), (None, vec!["clock_jump"]));
        assert_eq!(passed(&earlier, this(), 500, 503), (None, vec!["clock_jump"]));
        assert_eq!(passed(&earlier, this(), 7_300, 100), (None, vec!["clock_jump"]), "two hours on");
        assert_eq!(passed(&earlier, this(), 601, 601), (None, vec!["out_of_sight"]), "too long");
        assert_eq!(passed(&earlier, Some(host("other", 50_000)), 500, 500), (None, vec![]), "another host's clock");
        assert_eq!(passed(&earlier, None, 500, 500), (None, vec![]), "no clock");
        let other = |change: fn(&mut Memory)| {
            let mut earlier = earlier.clone();
            change(&mut earlier);
            passed(&earlier, this(), 500, 500).0
        };
        assert_eq!(other(|_| ()), Some(500));
        assert_eq!(other(|memory| memory.host = None), None, "it had no clock");
        assert_eq!(other(|memory| memory.absences = None), None, "a daemon came between");
        assert_eq!(other(|memory| memory.redefined = true), None);
        assert_eq!(other(|memory| memory.identity.run_id = "x".into()), None);
        assert_eq!(other(|memory| memory.identity.replication_id = "x".into()), None);
    }

    /// What is known after one survey at 1,000 s of entries of these groups and ages.
    fn surveyed(entries: &[(&str, u64)]) -> Ledger {
        let mut ledger = Ledger::new(TIMING, &guard::Settings::default(), Lifted::default());
        let mut survey = Survey::new(TIMING);
        for (n, (group, age)) in entries.iter().enumerate() {
            let last_ping = at(1_000).server.minus(Duration::from_secs(*age));
            let id = || EntryId::key(n.to_string().into_bytes());
            survey.observe_in(Some(group.as_bytes()), Ok((last_ping, Unit::UnixMs)), Mark::of([]), at(1_000), id);
        }
        ledger.surveyed(&Identity::default(), at(1_000), at(1_000), &mut survey);
        ledger
    }

    #[test]
    fn e6_the_next_survey_comes_soon_while_the_source_or_a_group_is_silent() {
        let next = |entries: &[(&str, u64)]| surveyed(entries).next_survey(0.0);
        assert_eq!(next(&[("a", 10), ("b", 10)]), Some(at(1_150).mono));
        assert_eq!(next(&[("a", 10), ("b", 100)]), Some(at(1_030).mono), "its first ping must not be missed");
        assert_eq!(next(&[("a", 100), ("b", 100)]), Some(at(1_030).mono));
    }

    #[test]
    fn the_pulse_is_due_a_heartbeat_after_a_survey_and_a_doubt_asks_for_another() {
        let mut ledger = surveyed(&[("a", 10), ("a", 20)]);
        assert_eq!(ledger.next_pulse(), Some(at(1_030).mono));
        assert!(!ledger.wants_survey(at(1_030).mono));
        let sampled = ledger.sampled(at(1_080).mono);
        assert_eq!(sampled.len(), 2);
        ledger.pulsed(at(1_080).mono);
        assert_eq!((ledger.doubt(), ledger.wants_survey(at(1_080).mono)), (Some(Doubt::Silent), true));
        assert_eq!(ledger.next_pulse(), Some(at(1_110).mono));
    }

    /// While a source or a group is silent surveys come every heartbeat. What only a pulse concludes (whether a first
    /// slice is over, who came back, whether Redis still has a hard time) must not wait for ever.
    #[test]
    fn surveys_one_after_the_other_do_not_keep_the_pulse_from_its_turn() {
        let mut ledger = surveyed(&[("a", 10), ("b", 100)]);
        for seconds in [1_029, 1_058] {
            ledger.surveyed(&Identity::default(), at(seconds), at(seconds), &mut Survey::new(TIMING));
            assert_eq!(ledger.next_pulse(), Some(at(1_030).mono));
            assert!(!ledger.is_pulse_old(at(seconds + 15).mono), "it was drawn by the survey");
        }
        ledger.pulsed(at(1_058).mono);
        assert_eq!(ledger.next_pulse(), Some(at(1_088).mono));
    }

    #[test]
    fn interval_who_was_evicted_and_comes_back_does_not_ping_slowly() {
        for evicted in [true, false] {
            let mut ledger = surveyed(&[("a", 1_000), ("a", 1_000), ("a", 0)]);
            let ids = ["0", "1"].map(|id| EntryId::key(id.as_bytes()));
            for id in ids.iter().filter(|_| evicted) {
                ledger.struck(id, Outcome::Evicted, at(1_010).mono);
            }
            let back = (Ok((at(1_020).server, Unit::UnixMs)), Mark::of([Some(&b"new"[..])]));
            ledger.sampled_looked(ids.map(|id| (id, Some(back))), at(1_020));
            assert_eq!(ledger.pulsed(at(1_020).mono).contains(&Change::WrongInterval), !evicted);
        }
    }

    #[test]
    fn e6_the_pulse_feels_a_group_that_falls_silent_among_many_that_ping() {
        let mut entries = vec![("small", 10); 4];
        entries.resize(300, ("large", 10));
        let mut ledger = surveyed(&entries);
        let sampled = ledger.sampled(at(1_090).mono);
        let small: Vec<EntryId> = (0..4).map(|n: i32| EntryId::key(n.to_string().into_bytes())).collect();
        assert!(small.iter().all(|id| sampled.contains(id)), "all four of the small one");
        let pinged = (Ok((at(1_090).server, Unit::UnixMs)), Mark::of([Some(&b"new"[..])]));
        let large = sampled.into_iter().filter(|id| !small.contains(id));
        ledger.sampled_looked(large.map(|id| (id, Some(pinged))), at(1_090));
        ledger.pulsed(at(1_090).mono);
        assert_eq!(ledger.doubt(), Some(Doubt::GroupSilent));
    }

    /// A ping after a silence keeps everybody, whether it was told by a sampled entry or by one that is due.
    #[test]
    fn g6_a_ping_that_is_seen_between_two_surveys_keeps_the_others() {
        let pinged = |at| (Ok((at, Unit::UnixMs)), Mark::of([Some(&b"new"[..])]));
        for by_sample in [true, false] {
            for (last_ping, doubt) in
                [(at(1_005).server, Some(Doubt::SpokeAgain)), (at(899).server, None), (at(3_000).server, None)]
            {
                let mut ledger = surveyed(&[("a", 100), ("a", 290)]);
                let (id, (judged, mark)) = (EntryId::key(*b"1"), pinged(last_ping));
                match by_sample {
                    true => ledger.sampled_looked([(id, Some((judged, mark)))], at(1_010)),
                    false => ledger.found(&id, judged, mark, at(1_010)),
                }
                assert_eq!(ledger.doubt(), doubt, "{last_ping:?}");
            }
        }
    }

    #[test]
    fn e6_a_watched_entry_found_pinging_ends_the_silence_of_its_group() {
        let mut ledger = surveyed(&[("a", 290), ("b", 0)]);
        assert_eq!(ledger.groups(), (2, 1));
        let (id, pinged) = (EntryId::key(*b"0"), Ok((at(1_009).server, Unit::UnixMs)));
        let mark = Mark::of([Some(&b"new"[..])]);
        ledger.found(&id, pinged, mark, at(1_010));
        let refused = ledger.decide(&id, pinged, mark, false, at(1_010));
        assert_eq!((refused, ledger.groups()), (Err(Refusal::Live), (2, 0)));
    }

    /// What is known after one survey of entries of these ages, each protected or not, and of somebody who pings.
    fn surveyed_protected(entries: &[(u64, bool)], drawn: bool) -> Ledger {
        let mut ledger = Ledger::new(TIMING, &guard::Settings::default(), Lifted::default());
        let mut survey = Survey::new(TIMING);
        let last_ping = |age| at(1_000).server.minus(Duration::from_secs(age));
        survey.observe(Ok((last_ping(0), Unit::UnixMs)), Mark::of([]), at(1_000), || EntryId::key(*b"live"));
        for (n, (age, protected)) in entries.iter().enumerate() {
            let (id, last_ping) = (EntryId::key(n.to_string().into_bytes()), last_ping(*age));
            if drawn {
                let entry = Sampled { id: id.clone(), mark: Mark::of([]), last_ping, seen: at(1_000).mono };
                survey.draw(Which::Measured, entry, at(1_000).server);
            }
            match protected {
                true => survey.observe_protected(None, (last_ping, Unit::UnixMs), Mark::of([]), at(1_000), id),
                false => survey.observe(Ok((last_ping, Unit::UnixMs)), Mark::of([]), at(1_000), || id),
            }
        }
        ledger.surveyed(&Identity::default(), at(1_000), at(1_000), &mut survey);
        ledger
    }

    #[test]
    fn e9_what_is_protected_asks_for_no_survey() {
        for (protected, wanted) in [(true, false), (false, true)] {
            let ledger = surveyed_protected(&[(200, protected)], false);
            let late = at(1_000 + 300 + 181).mono;
            assert!(ledger.watch().next_due().is_some_and(|due| due <= late));
            let mut ledger = ledger;
            ledger.continuity = Continuity::resumed(
                TIMING,
                Duration::ZERO,
                Identity::default(),
                at(1_000),
                Duration::from_secs(86_400),
            );
            assert_eq!(ledger.wants_survey(late), wanted, "protected: {protected}");
        }
    }

    /// A worker that does not ping while it works, and is protected for that long.
    #[test]
    fn e9_what_was_protected_and_pings_again_does_not_ping_slowly() {
        let ids = ["0", "1"].map(|id| EntryId::key(id.as_bytes()));
        let back = (Ok((at(1_020).server, Unit::UnixMs)), Mark::of([Some(&b"new"[..])]));
        for (drawn, protected) in [(false, true), (true, true), (false, false)] {
            let mut ledger = surveyed_protected(&[(1_000, protected); 2], drawn);
            for id in &ids {
                ledger.found(id, back.0, back.1, at(1_020));
            }
            ledger.sampled_looked(ids.clone().map(|id| (id, Some(back))), at(1_020));
            let changes = ledger.pulsed(at(1_020).mono);
            assert_eq!(changes.contains(&Change::WrongInterval), !protected, "drawn: {drawn}");
        }
    }

    #[test]
    fn e9_a_share_of_the_source_is_none_of_the_protected() {
        assert_eq!(surveyed_protected(&[(1_000, true), (1_000, false)], false).population(), 2);
    }
}
