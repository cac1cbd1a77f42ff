//! What one look at everything in a source saw: counts, ages, newest, and who may be due before the next look.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::entry::{Bytes, EntryId, Mark, Monotonic, Now, Timestamp};
use super::group::Tallies;
use super::interval::{self, Intervals};
use super::ping::{Unit, Unreadable};
use super::pulse;
use super::sample::{Place, Sample, Sampled};
use super::staleness::{Freshness, Timing};

/// From this share on what can't be judged is no leftover: the pattern or the format is wrong.
const MISFIT_SHARE: (u64, u64) = (10, 100);

/// Fewer than so many are leftovers whatever their share, and fewer entries prove nothing.
pub const MISFIT_MIN: u64 = 10;

/// How many candidates one survey keeps (about 20 MB of ids); the rest is counted `unwatched` and left to the next.
pub const MAX_CANDIDATES: usize = 200_000;

/// How many entries a report lists unless it is told otherwise.
pub const LISTED: usize = 100;

/// What is wanted of a survey beside its counts: which entries it keeps, and which it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Keep those that may be due, and samples for later looks. An audit strikes nothing, and needs none.
    pub candidates: bool,
    /// Name live entries too, not the stale alone.
    pub live: bool,
    /// Name at most so many of the stale, and so many of the live.
    pub limit: usize,
    /// Which of them, and how they are handed on.
    pub order: Order,
}

/// Which entries are named where not all are, and how they are handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Those with the oldest last pings, when everything was read.
    OldestFirst,
    /// Those read first, page by page, so that none is kept.
    AsRead,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { candidates: true, live: false, limit: LISTED, order: Order::OldestFirst }
    }
}

/// An entry by its name, as it is handed on while it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Which entry.
    pub id: EntryId,
    /// At or over the threshold when it was read; else live.
    pub stale: bool,
    /// When it last pinged.
    pub last_ping: Timestamp,
    /// How long before the reading that was, in milliseconds; never negative.
    pub age_ms: i64,
}

/// An entry older than `watch_from`: it may be due before the next survey.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which entry.
    pub id: EntryId,
    /// What must stand still until the strike.
    pub mark: Mark,
    /// When it last pinged.
    pub last_ping: Timestamp,
    /// When we read that.
    pub seen: Monotonic,
    /// It is stale, and something protects it (E9).
    pub protected: bool,
    /// What is looked up for it is not there, and its last ping is when we saw that first.
    pub absent: bool,
    /// The label of its group, where the source names one.
    pub group: Option<Bytes>,
}

/// An entry that has nothing but an absence to be judged by.
#[derive(Clone, Debug)]
pub struct Absence {
    /// Which entry.
    pub id: EntryId,
    /// The label of its group.
    pub label: Option<Vec<u8>>,
    /// Since when we have seen what is looked up for it missing.
    pub since: Timestamp,
    /// It showed a sign of life before.
    pub lived: bool,
    /// What must stand still until the strike.
    pub mark: Mark,
    /// When it was read.
    pub now: Now,
    /// A condition that protects it holds.
    pub protected: bool,
}

/// Which of a survey's two samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// [`Survey::fresh_sample`]
    Fresh,
    /// [`Survey::sample`]
    Measured,
}

/// One time as read: the last ping and how it was written, or why it can't be judged.
pub type Judged = Result<(Timestamp, Unit), Unreadable>;

/// What one look at everything saw.
#[derive(Clone, Debug)]
pub struct Survey {
    timing: Timing,
    wanted: Wanted,
    /// Live entries younger than three heartbeats.
    pub fresh: u64,
    /// Live entries from three heartbeats on.
    pub late: u64,
    /// Entries at or over the threshold that nothing protects.
    pub stale: u64,
    /// Entries at or over the threshold that something protects (E9).
    pub protected: u64,
    /// Entries whose last ping lies ahead of server time by more than the tolerance.
    pub future: u64,
    /// Members or fields that the `id` pattern does not match: no entries, and never evicted.
    pub foreign: u64,
    /// Entries that can't be judged, by [`Unreadable::index`].
    pub unreadable: [u64; Unreadable::ALL.len()],
    /// Readable times by how they were written, by [`Unit::index`].
    pub times: [u64; Unit::ALL.len()],
    /// The newest last ping, those left out that are too far ahead to be a sign of life.
    pub newest: Option<Timestamp>,
    /// The oldest last ping.
    pub oldest: Option<Timestamp>,
    /// Ages of live and stale entries.
    pub ages: Ages,
    /// Those that may be due before the next survey.
    pub candidates: Vec<Candidate>,
    /// Where among them the protected are.
    protected_places: Vec<usize>,
    /// Candidates beyond [`MAX_CANDIDATES`].
    pub unwatched: u64,
    /// The stale entries with the oldest last pings, oldest first, as many as are wanted.
    pub oldest_stale: BTreeSet<(Timestamp, EntryId)>,
    /// The same of the live entries, where they are wanted.
    pub oldest_live: BTreeSet<(Timestamp, EntryId)>,
    /// How many stale entries were handed on as they were read.
    pub handed_on_stale: u64,
    /// How many live ones.
    pub handed_on_live: u64,
    as_read: Vec<Named>,
    /// Judged when everything was read: only then is it known whether an absence means anything.
    absences: Vec<Absence>,
    /// Which of the values of `last_ping` gave a sign of life for anybody: a bit each.
    gave: u32,
    /// An absence means something: all that is looked up was there for somebody.
    pub vouched: bool,
    seed: u64,
    /// The groups, where the source names them.
    pub groups: Tallies,
    /// A few of the fresh ones, for the pulse.
    pub fresh_sample: Sample,
    /// A few of the fresh ones of each group.
    pub group_samples: BTreeMap<Bytes, Sample>,
    /// A few of all that pinged within a day, to measure how often they do.
    pub sample: Sample,
}

/// Where an entry is to be kept, in each of the samples.
#[derive(Clone, Copy, Debug)]
struct Places {
    fresh: Option<Place>,
    measured: Option<Place>,
    of_group: Option<Place>,
}

impl Places {
    fn any(&self) -> bool {
        self.fresh.or(self.measured).or(self.of_group).is_some()
    }
}

impl Survey {
    /// A survey that has seen nothing yet, of which nothing special is wanted.
    pub fn new(timing: Timing) -> Self {
        Self::wanting(timing, Wanted::default())
    }

    /// A survey that has seen nothing yet.
    pub fn wanting(timing: Timing, wanted: Wanted) -> Self {
        Self {
            timing,
            wanted,
            fresh: 0,
            late: 0,
            stale: 0,
            protected: 0,
            future: 0,
            foreign: 0,
            unreadable: Default::default(),
            times: Default::default(),
            newest: None,
            oldest: None,
            ages: Ages::new(&timing),
            candidates: Vec::new(),
            protected_places: Vec::new(),
            unwatched: 0,
            oldest_stale: BTreeSet::new(),
            oldest_live: BTreeSet::new(),
            handed_on_stale: 0,
            handed_on_live: 0,
            as_read: Vec::new(),
            absences: Vec::new(),
            gave: 0,
            vouched: false,
            seed: 0,
            groups: Tallies::default(),
            group_samples: BTreeMap::new(),
            fresh_sample: Sample::new(if wanted.candidates { pulse::SIZE } else { 0 }),
            sample: Sample::new(if wanted.candidates { interval::TRACKED } else { 0 }),
        }
    }

    /// The same, with another choice of the entries that stand for all.
    #[must_use]
    pub fn seeded(self, seed: u64) -> Self {
        Self { fresh_sample: self.fresh_sample.seeded(seed), sample: self.sample.seeded(!seed), seed, ..self }
    }

    /// Counts one entry, read at `now`; `id` is asked for only if the entry is kept.
    pub fn observe(&mut self, judged: Judged, mark: Mark, now: Now, id: impl FnOnce() -> EntryId) {
        self.observe_in(None, judged, mark, now, id);
    }

    /// The same for an entry of the group that is labelled so.
    pub fn observe_in(
        &mut self,
        label: Option<&[u8]>,
        judged: Judged,
        mark: Mark,
        now: Now,
        id: impl FnOnce() -> EntryId,
    ) {
        let (last_ping, unit) = match judged {
            Ok(ping) => ping,
            Err(why) => {
                self.unreadable[why.index()] += 1;
                return;
            }
        };
        let (freshness, group) = self.tally(label, last_ping, unit, now);
        if freshness == Freshness::Future {
            return;
        }
        let may_be_due = last_ping <= now.server.minus(self.timing.watch_from());
        let places = self.offer(last_ping, freshness, group.as_ref(), now.server);
        if may_be_due || self.wanted.live || places.any() {
            let id = id();
            self.keep(places, group.as_ref(), || Sampled { id: id.clone(), mark, last_ping, seen: now.mono });
            self.name(freshness, last_ping, now, &id);
            if may_be_due {
                self.watch(Candidate { id, mark, last_ping, seen: now.mono, protected: false, absent: false, group });
            }
        }
    }

    /// How many of `count` entries have to be drawn for a sample, where an index counts them; as many of those drawn
    /// before make room.
    pub fn share(&mut self, which: Which, count: u64) -> u64 {
        self.sample_of(which).share(count)
    }

    /// Keeps one entry of such a share, unless it does not belong there (any more).
    pub fn draw(&mut self, which: Which, entry: Sampled, now: Timestamp) {
        let freshness = self.timing.judge(entry.last_ping, now);
        let belongs = match which {
            Which::Fresh => freshness == Freshness::Fresh,
            Which::Measured => {
                freshness != Freshness::Future && Intervals::may_measure(&self.timing, entry.last_ping, now)
            }
        };
        if belongs {
            self.sample_of(which).add(entry);
        }
    }

    fn sample_of(&mut self, which: Which) -> &mut Sample {
        match which {
            Which::Fresh => &mut self.fresh_sample,
            Which::Measured => &mut self.sample,
        }
    }

    /// Offers an entry to each sample that it belongs to.
    fn offer(&mut self, last_ping: Timestamp, freshness: Freshness, group: Option<&Bytes>, now: Timestamp) -> Places {
        let fresh = freshness == Freshness::Fresh;
        let measured = freshness != Freshness::Future && Intervals::may_measure(&self.timing, last_ping, now);
        let of_group = group.filter(|_| fresh && self.wanted.candidates).and_then(|label| {
            let seed = self.seed.wrapping_add(self.group_samples.len() as u64);
            let sample = self.group_samples.entry(label.clone());
            sample.or_insert_with(|| Sample::new(pulse::OF_GROUP).seeded(seed)).offer()
        });
        Places {
            fresh: fresh.then(|| self.fresh_sample.offer()).flatten(),
            measured: measured.then(|| self.sample.offer()).flatten(),
            of_group,
        }
    }

    fn keep(&mut self, places: Places, group: Option<&Bytes>, entry: impl Fn() -> Sampled) {
        let of_group = group.and_then(|label| self.group_samples.get_mut(label)).zip(places.of_group);
        let fresh = places.fresh.map(|place| (&mut self.fresh_sample, place));
        let measured = places.measured.map(|place| (&mut self.sample, place));
        for (sample, place) in [fresh, measured, of_group].into_iter().flatten() {
            sample.keep(place, entry());
        }
    }

    /// Counts one entry that was stale when it was read at `now`, and that something protects. It stands for nobody in a
    /// sample.
    pub fn observe_protected(
        &mut self,
        label: Option<&[u8]>,
        (last_ping, unit): (Timestamp, Unit),
        mark: Mark,
        now: Now,
        id: EntryId,
    ) {
        let (_, group) = self.tally(label, last_ping, unit, now);
        self.protect(Candidate { id, mark, last_ping, seen: now.mono, protected: true, absent: false, group }, now);
    }

    /// Takes in which of the values of `last_ping` gave a sign of life for an entry.
    pub fn gave(&mut self, which: u32) {
        self.gave |= which;
    }

    /// Takes in an entry that has nothing but an absence to be judged by.
    pub fn observe_absence(&mut self, absence: Absence) {
        if self.absences.len() < MAX_CANDIDATES {
            self.absences.push(absence);
        } else {
            self.unreadable[Unreadable::Missing.index()] += 1;
            self.unwatched += 1;
        }
    }

    /// Everything was read: judges the absences, which mean something only if each of `values` that is looked up gave
    /// somebody else a sign of life. A misspelt key gives none to anybody.
    pub fn settle(&mut self, values: usize) {
        // One bit each; a source has a handful of them.
        let all = u32::try_from(values).ok().and_then(|values| 1_u32.checked_shl(values)).map_or(0, |next| next - 1);
        self.vouched = all != 0 && self.gave & all == all;
        for absence in std::mem::take(&mut self.absences) {
            self.judge_absence(absence);
        }
    }

    fn judge_absence(&mut self, Absence { id, label, since, lived, mark, now, protected }: Absence) {
        let stale = self.timing.judge(since, now.server) == Freshness::Stale;
        if !self.vouched || !(stale || lived) {
            self.unreadable[Unreadable::Missing.index()] += 1;
        }
        if !self.vouched {
            return;
        }
        // Who lived a moment ago and lost its key is late, and may be one of many. It is no sign of life, however young.
        let freshness = if stale { Freshness::Stale } else { Freshness::Late };
        let counted = if lived { freshness } else { Freshness::Stale };
        let group = label.and_then(|label| self.groups.count(&label, counted, None));
        if stale || lived {
            self.count(freshness, 1);
            self.times[Unit::Missing.index()] += 1;
            self.ages.add(now.server.millis_since(since), 1);
        }
        let candidate = Candidate { id, mark, last_ping: since, seen: now.mono, protected, absent: true, group };
        if stale && protected {
            self.protect(candidate, now);
        } else if since <= now.server.minus(self.timing.watch_from()) {
            self.name(freshness, since, now, &candidate.id);
            self.watch(candidate);
        }
    }

    /// Takes an entry that was counted as stale at `now` for a protected one. It has no place among those that would
    /// go, their ages and their names; watched it is, for whatever protects it may end.
    pub fn protect(&mut self, entry: Candidate, now: Now) {
        self.stale = self.stale.saturating_sub(1);
        self.protected += 1;
        self.ages.remove(now.server.millis_since(entry.last_ping));
        self.watch(Candidate { protected: true, ..entry });
    }

    /// Counts one time; says where it stands, and which group it counts in.
    fn tally(
        &mut self,
        label: Option<&[u8]>,
        last_ping: Timestamp,
        unit: Unit,
        now: Now,
    ) -> (Freshness, Option<Bytes>) {
        self.times[unit.index()] += 1;
        let freshness = self.timing.judge(last_ping, now.server);
        self.count(freshness, 1);
        if freshness == Freshness::Future {
            return (freshness, None);
        }
        let sign_of_life = (last_ping <= self.timing.sign_of_life_until(now.server)).then_some(last_ping);
        if let Some(last_ping) = sign_of_life {
            self.saw(last_ping);
        }
        self.ages.add(now.server.millis_since(last_ping), 1);
        (freshness, label.and_then(|label| self.groups.count(label, freshness, sign_of_life)))
    }

    /// Adds `count` entries that stand at `freshness`.
    pub fn count(&mut self, freshness: Freshness, count: u64) {
        match freshness {
            Freshness::Fresh => self.fresh += count,
            Freshness::Late => self.late += count,
            Freshness::Stale => self.stale += count,
            Freshness::Future => self.future += count,
        }
    }

    /// Notes a last ping that is a sign of life, or was one.
    pub fn saw(&mut self, last_ping: Timestamp) {
        self.newest = self.newest.max(Some(last_ping));
        self.oldest = Some(self.oldest.map_or(last_ping, |oldest| oldest.min(last_ping)));
    }

    /// Keeps an entry that may be due before the next survey.
    pub fn watch(&mut self, candidate: Candidate) {
        if !self.wanted.candidates {
            return;
        }
        let full = self.candidates.len() >= MAX_CANDIDATES;
        self.unwatched += u64::from(full);
        match (full, candidate.protected) {
            (false, protected) => {
                self.protected_places.extend(protected.then_some(self.candidates.len()));
                self.candidates.push(candidate);
            }
            (true, true) => {}
            // The protected, however many, never hide the dead.
            (true, false) => {
                if let Some(place) = self.protected_places.pop() {
                    self.candidates[place] = candidate;
                }
            }
        }
    }

    /// Whether there is room for another candidate that is not protected.
    pub fn watches_more(&self) -> bool {
        self.wanted.candidates && (self.candidates.len() < MAX_CANDIDATES || !self.protected_places.is_empty())
    }

    /// What is wanted beside the counts.
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// Names an entry, if such entries are wanted by name. Every entry is given here at most once.
    pub fn name(&mut self, freshness: Freshness, last_ping: Timestamp, now: Now, id: &EntryId) {
        let stale = match freshness {
            Freshness::Stale => true,
            Freshness::Fresh | Freshness::Late if self.wanted.live => false,
            _ => return,
        };
        let limit = self.wanted.limit;
        match self.wanted.order {
            Order::OldestFirst => {
                let list = if stale { &mut self.oldest_stale } else { &mut self.oldest_live };
                list_oldest(list, limit, last_ping, id);
            }
            Order::AsRead => {
                let handed_on = if stale { &mut self.handed_on_stale } else { &mut self.handed_on_live };
                if *handed_on < limit as u64 {
                    *handed_on += 1;
                    let age_ms = now.server.millis_since(last_ping).max(0);
                    self.as_read.push(Named { id: id.clone(), stale, last_ping, age_ms });
                }
            }
        }
    }

    /// Whether another stale (or live) entry would be named, if entries come oldest first and `given` of them came.
    pub fn names_more(&self, stale: bool, given: usize) -> bool {
        let before = match self.wanted.order {
            Order::OldestFirst => given as u64,
            Order::AsRead if stale => self.handed_on_stale,
            Order::AsRead => self.handed_on_live,
        };
        (stale || self.wanted.live) && before < self.wanted.limit as u64
    }

    /// What is to be handed on since this was last asked for.
    pub fn take_as_read(&mut self) -> Vec<Named> {
        std::mem::take(&mut self.as_read)
    }

    /// Stale entries that lack nothing but time: what a real run would evict sooner or later.
    pub fn would_evict(&self) -> u64 {
        self.stale
    }

    /// Entries below the threshold.
    pub fn live(&self) -> u64 {
        self.fresh + self.late
    }

    /// What shows that the source is not what its settings say, if anything does: then what can be judged of it may have
    /// been judged by mistake. Entries without a time are no sign of that: a client that just connected has none.
    pub fn misfit(&self) -> Option<String> {
        let (share, whole) = MISFIT_SHARE;
        let told = Unreadable::ALL.into_iter().filter(|why| *why != Unreadable::Missing);
        let told = told.map(|why| (why, self.unreadable[why.index()])).filter(|(_, count)| *count > 0);
        let count: u64 = told.clone().map(|(_, count)| count).sum();
        let kinds: Vec<String> = told.map(|(why, count)| format!("{count} {}", why.as_str())).collect();
        let of = self.population();
        (count >= MISFIT_MIN && count * whole >= of * share)
            .then(|| format!("{count} of {of} entries can't be judged: {}", kinds.join(", ")))
    }

    /// Entries that can't be judged, whatever the reason.
    pub fn unreadable_total(&self) -> u64 {
        self.unreadable.iter().sum()
    }

    /// Everything that nothing protects: what a share of the source is a share of.
    pub fn unprotected(&self) -> u64 {
        self.population() - self.protected
    }

    /// Everything that was seen.
    pub fn population(&self) -> u64 {
        self.live() + self.stale + self.protected + self.future + self.unreadable_total()
    }
}

/// Puts an entry into a list of the `limit` oldest.
fn list_oldest(list: &mut BTreeSet<(Timestamp, EntryId)>, limit: usize, last_ping: Timestamp, id: &EntryId) {
    let younger_than_all = list.last().is_none_or(|(youngest, _)| last_ping > *youngest);
    if list.len() >= limit && younger_than_all {
        return;
    }
    list.insert((last_ping, id.clone()));
    if list.len() > limit {
        list.pop_last();
    }
}

/// How many entries have reached which age.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ages {
    edges: Vec<Duration>,
    counts: Vec<u64>,
}

impl Ages {
    /// No entries yet; the edges follow the heartbeat up to the threshold, then the calendar.
    pub fn new(timing: &Timing) -> Self {
        const MINUTE: u64 = 60;
        const DAY: u64 = 24 * 60 * MINUTE;
        let heartbeat = timing.heartbeat_interval;
        let near = [heartbeat, heartbeat * 2, heartbeat * 3, timing.threshold / 2, timing.threshold];
        let far = [10 * MINUTE, 60 * MINUTE, 6 * 60 * MINUTE, DAY, 7 * DAY, 30 * DAY].map(Duration::from_secs);
        let mut edges: Vec<Duration> =
            near.into_iter().chain(far.into_iter().filter(|edge| *edge > timing.threshold)).collect();
        edges.sort_unstable();
        edges.dedup();
        let counts = vec![0; edges.len() + 1];
        Self { edges, counts }
    }

    /// Adds `count` entries of one age; a negative age (a clock within tolerance ahead) is none.
    pub fn add(&mut self, age_ms: i64, count: u64) {
        let bucket = self.bucket(age_ms);
        self.counts[bucket] += count;
    }

    /// Takes back one entry of this age.
    fn remove(&mut self, age_ms: i64) {
        let bucket = self.bucket(age_ms);
        self.counts[bucket] = self.counts[bucket].saturating_sub(1);
    }

    fn bucket(&self, age_ms: i64) -> usize {
        let age = Duration::from_millis(age_ms.max(0).unsigned_abs());
        self.edges.partition_point(|edge| *edge < age)
    }

    /// The buckets, youngest first: upper edge (none: no limit) and how many lie in it and in no younger one.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> + '_ {
        self.edges.iter().map(|edge| Some(*edge)).chain([None]).zip(self.counts.iter().copied())
    }

    /// The upper edges, youngest first.
    pub fn edges(&self) -> &[Duration] {
        &self.edges
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::TIMING;
    use super::*;

    const NOW: Now =
        Now { server: Timestamp::from_millis(1_800_000_000_000), mono: Monotonic::from_start(Duration::from_secs(9)) };

    fn survey(ages_ms: &[i64]) -> Survey {
        survey_wanting(Wanted::default(), ages_ms)
    }

    fn survey_wanting(wanted: Wanted, ages_ms: &[i64]) -> Survey {
        let mut survey = Survey::wanting(TIMING, wanted);
        for (n, age) in ages_ms.iter().enumerate() {
            let at = Timestamp::from_millis(NOW.server.millis() - age);
            survey.observe(Ok((at, Unit::UnixMs)), Mark::of([]), NOW, || EntryId::key(n.to_string().into_bytes()));
        }
        survey
    }

    /// A survey of so many fresh entries, and of others that can't be judged for a reason.
    fn beside(fresh: u64, why: Unreadable, count: u64) -> Survey {
        let mut survey = Survey::new(TIMING);
        survey.count(Freshness::Fresh, fresh);
        survey.unreadable[why.index()] += count;
        survey
    }

    #[test]
    fn p4_a_tenth_that_can_not_be_judged_is_a_misfit_and_a_few_leftovers_are_none() {
        let misfit = |fresh, why, count| beside(fresh, why, count).misfit();
        let said = Some("10 of 100 entries can't be judged: 10 implausible".to_owned());
        assert_eq!(misfit(90, Unreadable::Implausible, 10), said);
        assert_eq!(misfit(91, Unreadable::Implausible, 10), None, "less than a tenth");
        assert_eq!(misfit(0, Unreadable::Implausible, 9), None, "fewer than ten");
        assert_eq!(misfit(10, Unreadable::Missing, 90), None, "clients that just connected");
    }

    #[test]
    fn every_entry_is_counted_once() {
        let mut survey = survey(&[0, 89_999, 90_000, 299_999, 300_000, 900_000, -60_001]);
        survey.observe(Err(Unreadable::Missing), Mark::of([]), NOW, || unreachable!("not kept"));
        assert_eq!((survey.fresh, survey.late, survey.stale, survey.future), (2, 2, 2, 1));
        assert_eq!((survey.unreadable_total(), survey.population()), (1, 8));
        assert_eq!(survey.ages.buckets().map(|(_, count)| count).sum::<u64>(), 6, "live and stale");
    }

    #[test]
    fn e9_what_is_protected_is_counted_apart_and_watched_all_the_same() {
        let mut survey = survey(&[0, 300_000]);
        let at = Timestamp::from_millis(NOW.server.millis() - 400_000);
        survey.observe_protected(None, (at, Unit::UnixMs), Mark::of([]), NOW, EntryId::key(*b"p"));
        assert_eq!((survey.stale, survey.protected, survey.would_evict(), survey.population()), (1, 1, 1, 3));
        assert_eq!(survey.ages.buckets().map(|(_, count)| count).sum::<u64>(), 2, "live and stale");
        assert_eq!((survey.oldest, survey.times[Unit::UnixMs.index()]), (Some(at), 3));
        assert_eq!(survey.oldest_stale.len(), 1, "none of those that would go");
        assert_eq!(survey.candidates.iter().map(|one| one.protected).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn e9_what_is_protected_keeps_its_group_and_stands_for_nobody() {
        let mut survey = survey(&[]);
        let at = Timestamp::from_millis(NOW.server.millis() - 400_000);
        survey.observe_protected(Some(b"a"), (at, Unit::UnixMs), Mark::of([]), NOW, EntryId::key(*b"p"));
        assert_eq!(survey.candidates.iter().map(|one| one.group.as_deref()).collect::<Vec<_>>(), [Some(&b"a"[..])]);
        assert!(survey.sample.entries().is_empty() && survey.fresh_sample.entries().is_empty());
        assert_eq!((survey.population(), survey.unprotected()), (1, 0));
    }

    #[test]
    fn e9_the_protected_make_room_for_the_dead() {
        let mut survey = survey(&[]);
        let at = Timestamp::from_millis(NOW.server.millis() - 400_000);
        let mut id = (0..).map(|n: u64| EntryId::key(n.to_be_bytes()));
        for id in id.by_ref().take(MAX_CANDIDATES - 1) {
            survey.observe_protected(None, (at, Unit::UnixMs), Mark::of([]), NOW, id);
        }
        for id in id.by_ref().take(3) {
            survey.observe(Ok((at, Unit::UnixMs)), Mark::of([]), NOW, || id);
        }
        let dead = survey.candidates.iter().filter(|one| !one.protected).count();
        assert_eq!((survey.candidates.len(), dead, survey.unwatched), (MAX_CANDIDATES, 3, 2));
        survey.observe_protected(None, (at, Unit::UnixMs), Mark::of([]), NOW, EntryId::key(*b"p"));
        assert_eq!((survey.candidates.len(), survey.unwatched), (MAX_CANDIDATES, 3));
        assert!(survey.watches_more());
    }

    #[test]
    fn the_future_is_no_sign_of_life() {
        let survey = survey(&[400_000, -70_000]);
        assert_eq!(survey.newest, Some(Timestamp::from_millis(NOW.server.millis() - 400_000)));
    }

    #[test]
    fn candidates_are_those_from_watch_from_on() {
        let ids: Vec<_> = survey(&[59_999, 60_000, 299_999, 300_000]).candidates.into_iter().map(|c| c.id).collect();
        assert_eq!(ids, ["1", "2", "3"].map(|id| EntryId::key(id.as_bytes())));
    }

    #[test]
    fn the_oldest_stale_are_listed_whatever_the_order_of_reading() {
        let ages: Vec<i64> = (0..500).map(|n| 300_000 + (n * 7_919) % 500 * 1_000).collect();
        let listed = survey(&ages).oldest_stale;
        assert_eq!(listed.len(), LISTED);
        let oldest = listed.iter().map(|(at, _)| NOW.server.millis_since(*at)).min();
        assert_eq!(oldest, Some(300_000 + 400_000), "the hundred oldest of five hundred");
    }

    #[test]
    fn a_list_is_as_long_as_wanted_and_the_live_have_their_own() {
        let ages = [1_000, 2_000, 3_000, 300_000, 400_000, 500_000, -70_000];
        for (live, limit, expected) in [(true, 0, (0, 0)), (true, 2, (2, 2)), (true, 9, (3, 3)), (false, 9, (3, 0))] {
            let survey = survey_wanting(Wanted { live, limit, ..Wanted::default() }, &ages);
            assert_eq!((survey.oldest_stale.len(), survey.oldest_live.len()), expected, "{live} {limit}");
        }
        let survey = survey_wanting(Wanted { live: true, limit: 1, ..Wanted::default() }, &ages);
        let age = |list: &BTreeSet<(Timestamp, EntryId)>| NOW.server.millis_since(list.first().unwrap().0);
        assert_eq!((age(&survey.oldest_stale), age(&survey.oldest_live)), (500_000, 3_000), "the oldest of each");
    }

    #[test]
    fn what_is_handed_on_as_read_is_not_kept() {
        let wanted = Wanted { candidates: false, live: true, limit: 2, order: Order::AsRead };
        let mut survey = survey_wanting(wanted, &[1_000, 300_000, 2_000, 400_000, 3_000, 500_000]);
        let read: Vec<(bool, i64)> = survey.take_as_read().iter().map(|named| (named.stale, named.age_ms)).collect();
        assert_eq!(read, [(false, 1_000), (true, 300_000), (false, 2_000), (true, 400_000)], "two of each, as read");
        assert_eq!((survey.handed_on_stale, survey.handed_on_live, survey.take_as_read().len()), (2, 2, 0));
        assert!(survey.oldest_stale.is_empty() && survey.candidates.is_empty() && survey.unwatched == 0);
        assert!(!survey.names_more(true, 0) && !survey.names_more(false, 0));
    }

    #[test]
    fn an_age_lies_in_the_first_bucket_whose_edge_it_does_not_pass() {
        let mut ages = Ages::new(&TIMING);
        for age in [-5, 0, 30_000, 30_001, 300_000, 300_001, i64::MAX] {
            ages.add(age, 1);
        }
        let at = |edge| ages.buckets().find(|(bucket, _)| *bucket == edge).map(|(_, count)| count);
        assert_eq!(at(Some(Duration::from_secs(30))), Some(3));
        assert_eq!(at(Some(Duration::from_secs(60))), Some(1));
        assert_eq!(at(Some(Duration::from_secs(300))), Some(1));
        assert_eq!(at(Some(Duration::from_secs(600))), Some(1));
        assert_eq!(at(None), Some(1));
    }

    fn absent(name: &str, since: Timestamp, lived: bool, protected: bool) -> Absence {
        let (id, mark) = (EntryId::key(name.as_bytes()), Mark::of([]));
        Absence { id, label: None, since, lived, mark, now: NOW, protected }
    }

    /// What a survey makes of one that has been missing for a day, one that lost its key a moment ago, and one that is new.
    fn absences(values: usize, gave: u32) -> Survey {
        let mut survey = Survey::new(TIMING);
        survey.gave(gave);
        let (old, late) = (NOW.server.minus(Duration::from_secs(86_400)), NOW.server.minus(Duration::from_secs(10)));
        for (name, since, lived, protected) in [
            ("old", old, false, false),
            ("late", late, true, false),
            ("new", late, false, false),
            ("kept", old, true, true),
        ] {
            survey.observe_absence(absent(name, since, lived, protected));
        }
        survey.settle(values);
        survey
    }

    #[test]
    fn an_absence_counts_only_where_everything_looked_up_was_there_for_somebody() {
        let survey = absences(1, 1);
        assert!(survey.vouched);
        assert_eq!((survey.stale, survey.late, survey.protected, survey.unreadable_total()), (1, 1, 1, 1));
        assert_eq!((survey.newest, survey.fresh), (None, 0), "no absence is a sign of life");
        let watched: Vec<_> = survey.candidates.iter().map(|one| (one.id.name().to_vec(), one.absent)).collect();
        assert_eq!(watched, [(b"old".to_vec(), true), (b"kept".to_vec(), true)]);
        for (values, gave) in [(1, 0), (2, 1), (2, 2), (3, 5), (1, 2)] {
            let survey = absences(values, gave);
            assert!(!survey.vouched, "{values} {gave}");
            assert_eq!((survey.stale, survey.late, survey.unreadable_total()), (0, 0, 4), "{values} {gave}");
            assert!(survey.candidates.is_empty(), "{values} {gave}");
        }
        assert!(absences(3, 7).vouched && absences(8, 255).vouched);
    }
}
