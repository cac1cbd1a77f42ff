//! The pulse: a few entries that were fresh at the last survey, re-read to see that heartbeats still flow. It can only
//! hold, never release.

use std::collections::{BTreeMap, HashMap};

use super::entry::{Bytes, EntryId, Mark, Monotonic, Now};
use super::sample::{Sample, Sampled};
use super::staleness::Timing;

/// How many entries are drawn; all, if there are fewer.
pub const SIZE: usize = 64;

/// How many of each group are drawn besides, where the source names groups.
pub const OF_GROUP: usize = 4;

/// How many are drawn in all, at most; each group has its turn then.
const MOST: usize = 256;

/// Fewer of a group than this say nothing of it: one client that dies is no hub.
const ENOUGH_OF_GROUP: usize = 2;

/// With fewer left than this, or than half of those drawn, the rest says nothing.
const ENOUGH: usize = 16;

/// From this share on of missing entries nothing goes until a survey has decided.
const MISSING: (usize, usize) = (35, 100);

/// Why nothing may go before the next survey.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// Too many of the sample left in good order: the rest says nothing.
    TooFew,
    /// None of the sample pings.
    Silent,
    /// Many of the sample are missing.
    Missing,
    /// None of those that stand for one group pings.
    GroupSilent,
    /// After a silence somebody pings again.
    SpokeAgain,
}

impl Doubt {
    /// The doubt in words.
    pub const fn in_words(self) -> &'static str {
        match self {
            Self::TooFew => "too few of the sampled entries are left to tell whether heartbeats flow",
            Self::Silent => "none of the sampled entries pings",
            Self::Missing => "a third of the sampled entries or more have stopped pinging",
            Self::GroupSilent => "none of the sampled entries of one group pings",
            Self::SpokeAgain => "somebody pings again",
        }
    }
}

#[derive(Clone, Debug)]
struct Member {
    mark: Mark,
    /// From when on it is missing, if its mark stands.
    missing_from: Monotonic,
    /// It was drawn from all.
    of_all: bool,
    /// The group for which it stands too.
    group: Option<Bytes>,
}

/// The sample, and what the last look at it said.
#[derive(Clone, Debug)]
pub struct Pulse {
    timing: Timing,
    drawn: usize,
    drawn_of: BTreeMap<Bytes, usize>,
    members: HashMap<EntryId, Member>,
    doubt: Option<Doubt>,
}

/// How many stand for something, and how many of them are missing.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    left: usize,
    missing: usize,
}

impl Tally {
    fn add(&mut self, missing: bool) {
        self.left += 1;
        self.missing += usize::from(missing);
    }
}

impl Pulse {
    /// Nobody is drawn yet.
    pub fn new(timing: Timing) -> Self {
        Self { timing, drawn: 0, drawn_of: BTreeMap::new(), members: HashMap::new(), doubt: None }
    }

    /// Draws anew, from what a survey that ended at `now` found fresh: of all, and of each group. What was doubted is
    /// decided by now.
    pub fn draw(&mut self, fresh: &[Sampled], groups: &BTreeMap<Bytes, Sample>, now: Now) {
        self.members.clear();
        self.drawn_of.clear();
        self.doubt = None;
        for entry in fresh {
            self.member(entry, now).of_all = true;
        }
        self.drawn = self.members.len();
        for nth in 0..OF_GROUP {
            for (label, sample) in groups {
                let Some(entry) = sample.entries().get(nth) else { continue };
                if self.members.len() < MOST || self.members.contains_key(&entry.id) {
                    self.member(entry, now).group = Some(label.clone());
                }
            }
        }
        for label in self.members.values().filter_map(|member| member.group.clone()) {
            *self.drawn_of.entry(label).or_default() += 1;
        }
    }

    fn member(&mut self, entry: &Sampled, now: Now) -> &mut Member {
        let late_after = self.timing.late_after();
        let missing_from = now.when(entry.last_ping.plus(late_after)).min(now.mono.plus(late_after));
        let drawn = Member { mark: entry.mark, missing_from, of_all: false, group: None };
        self.members.entry(entry.id.clone()).or_insert(drawn)
    }

    /// The sampled entries.
    pub fn ids(&self) -> impl Iterator<Item = &EntryId> {
        self.members.keys()
    }

    /// Takes in a look at an entry; `None` if it is gone, which is how clients leave. A mark that changed is a ping,
    /// whatever its time says.
    pub fn looked(&mut self, id: &EntryId, mark: Option<Mark>, now: Monotonic) {
        match (self.members.get_mut(id), mark) {
            (Some(member), Some(mark)) if member.mark != mark => {
                member.mark = mark;
                member.missing_from = now.plus(self.timing.late_after());
            }
            (Some(_), None) => _ = self.members.remove(id),
            _ => {}
        }
    }

    /// Takes in a reason to doubt that shows elsewhere. Once in doubt, only a survey clears it.
    pub fn doubt_that(&mut self, doubt: Doubt) {
        self.doubt.get_or_insert(doubt);
    }

    /// Draws the conclusion from the looks up to `now`.
    pub fn conclude(&mut self, now: Monotonic) {
        let mut all = Tally::default();
        let mut groups: BTreeMap<&Bytes, Tally> = BTreeMap::new();
        for member in self.members.values() {
            let missing = now >= member.missing_from;
            if member.of_all {
                all.add(missing);
            }
            if let Some(label) = &member.group {
                groups.entry(label).or_default().add(missing);
            }
        }
        // Of a group that left in good order the few that are left say nothing; the survey tells.
        let silent = |(label, tally): (&&Bytes, &Tally)| {
            let enough = self.drawn_of.get(*label).map_or(0, |drawn| drawn.div_ceil(2)).max(ENOUGH_OF_GROUP);
            tally.left >= enough && tally.missing == tally.left
        };
        let of_group = groups.iter().any(silent).then_some(Doubt::GroupSilent);
        if let Some(doubt) = self.doubt_of(all).or(of_group) {
            self.doubt_that(doubt);
        }
    }

    fn doubt_of(&self, Tally { left, missing }: Tally) -> Option<Doubt> {
        let (part, whole) = MISSING;
        if self.drawn == 0 {
            // Nobody was fresh: the survey has said what that means.
            None
        } else if left < ENOUGH.min(self.drawn.div_ceil(2)) {
            Some(Doubt::TooFew)
        } else if missing == left {
            Some(Doubt::Silent)
        } else if missing * whole >= left * part {
            Some(Doubt::Missing)
        } else {
            None
        }
    }

    /// Why nothing may go before the next survey, if so.
    pub fn doubt(&self) -> Option<Doubt> {
        self.doubt
    }
}

#[cfg(test)]
mod tests {

    use super::super::testing::{TIMING, at};
    use super::*;

    fn id(n: usize) -> EntryId {
        EntryId::key(n.to_string().into_bytes())
    }

    fn mark(n: u8) -> Mark {
        Mark::of([Some(&[n][..])])
    }

    /// So many drawn, 30 s after their last ping.
    fn drawn(count: usize) -> Pulse {
        let last_ping = at(70).server;
        let fresh: Vec<_> =
            (0..count).map(|n| Sampled { id: id(n), mark: mark(0), last_ping, seen: at(100).mono }).collect();
        let mut pulse = Pulse::new(TIMING);
        pulse.draw(&fresh, &BTreeMap::new(), at(100));
        pulse
    }

    /// So many of each group drawn as fresh; none of them for all.
    fn drawn_of(groups: &[(&str, usize)]) -> Pulse {
        let last_ping = at(70).server;
        let mut samples = BTreeMap::new();
        for (label, count) in groups {
            let mut sample = Sample::new(OF_GROUP);
            for n in 0..*count {
                let id = EntryId::key(format!("{label}{n}").into_bytes());
                sample.add(Sampled { id, mark: mark(0), last_ping, seen: at(100).mono });
            }
            samples.insert(Bytes::from(label.as_bytes()), sample);
        }
        let mut pulse = Pulse::new(TIMING);
        pulse.draw(&[], &samples, at(100));
        pulse
    }

    /// Of `count` drawn so many are gone, and so many ping, when they are looked at after `seconds`.
    #[track_caller]
    fn check(count: usize, gone: usize, pinging: usize, seconds: u64, expected: Option<Doubt>) {
        let mut pulse = drawn(count);
        let now = at(100 + seconds).mono;
        for n in 0..count {
            let found = (n >= gone).then(|| mark(u8::from(n < gone + pinging)));
            pulse.looked(&id(n), found, now);
        }
        pulse.conclude(now);
        assert_eq!(pulse.doubt(), expected, "{gone} gone and {pinging} pinging of {count} after {seconds} s");
    }

    #[test]
    fn pulse_who_does_not_ping_is_missing_three_heartbeats_after_its_last_ping() {
        check(64, 0, 0, 59, None);
        check(64, 0, 0, 60, Some(Doubt::Silent));
        check(64, 0, 1, 60, Some(Doubt::Missing));
        check(64, 0, 41, 60, Some(Doubt::Missing));
        check(64, 0, 42, 60, None);
    }

    #[test]
    fn pulse_who_leaves_in_good_order_does_not_count() {
        check(64, 48, 16, 60, None);
        check(64, 49, 15, 60, Some(Doubt::TooFew));
        check(4, 2, 2, 60, None);
        check(4, 3, 1, 60, Some(Doubt::TooFew));
        check(0, 0, 0, 60, None);
    }

    #[test]
    fn pulse_a_doubt_stays_until_a_survey_has_decided() {
        let mut pulse = drawn(4);
        pulse.conclude(at(400).mono);
        (0..4).for_each(|n| pulse.looked(&id(n), Some(mark(1)), at(430).mono));
        pulse.conclude(at(430).mono);
        assert_eq!(pulse.doubt(), Some(Doubt::Silent));
        pulse.draw(&[], &BTreeMap::new(), at(431));
        assert_eq!(pulse.doubt(), None);
    }

    #[test]
    fn pulse_a_group_of_which_none_pings_is_looked_into_whatever_the_others_do() {
        let named = |name: &str| EntryId::key(name.as_bytes());
        for (pinging, gone, expected) in [
            (&["b0", "b1"][..], &[][..], Some(Doubt::GroupSilent)),
            (&["b0", "b1", "a3"], &[], None),
            (&["b0", "b1"], &["a0", "a1"], Some(Doubt::GroupSilent)),
            (&["b0", "b1"], &["a0", "a1", "a2"], None),
            (&["a0", "b0"], &["b1"], None),
            (&["a0"], &["b1"], None),
        ] {
            let mut pulse = drawn_of(&[("a", 4), ("b", 2), ("c", 1)]);
            pinging.iter().for_each(|id| pulse.looked(&named(id), Some(mark(1)), at(160).mono));
            gone.iter().for_each(|id| pulse.looked(&named(id), None, at(160).mono));
            pulse.conclude(at(160).mono);
            assert_eq!(pulse.doubt(), expected, "{pinging:?} ping, {gone:?} are gone");
        }
    }

    #[test]
    fn pulse_many_groups_share_what_there_is() {
        let labels: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        let groups: Vec<(&str, usize)> = labels.iter().map(|label| (&**label, 9)).collect();
        assert_eq!(drawn_of(&groups[..10]).ids().count(), 40);
        let pulse = drawn_of(&groups);
        assert_eq!((pulse.ids().count(), pulse.drawn_of.len()), (MOST, 100));
        assert!(pulse.drawn_of.values().all(|drawn| (2..=3).contains(drawn)));
    }
}
