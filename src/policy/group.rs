//! Groups: the writers of entries, where the source names them (E6). One hub that was cut off from Redis must not be
//! taken for one that is gone the moment its first client is back.

use std::collections::BTreeMap;
use std::time::Duration;

use super::entry::{Bytes, Monotonic, Now, Timestamp};
use super::memory;
use super::staleness::{Freshness, Timing};

/// So many groups are told apart in a survey, the first it meets; entries of any further one have no label.
pub const MAX_GROUPS: usize = 100;

/// A longer label is none: it is no name of a hub.
const LONGEST_LABEL: usize = 256;

/// What a survey saw of one group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Live entries younger than three heartbeats.
    pub fresh: u64,
    /// Live entries from three heartbeats on.
    pub late: u64,
    /// The newest last ping, future ones left out.
    pub newest: Option<Timestamp>,
}

/// What a survey saw of the groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tallies {
    groups: BTreeMap<Bytes, Tally>,
    /// Entries whose label found no room.
    pub unlabelled: u64,
}

impl Tallies {
    /// Counts an entry of a group; its label, if it has one that is told apart.
    pub fn count(&mut self, label: &[u8], freshness: Freshness, sign_of_life: Option<Timestamp>) -> Option<Bytes> {
        let known = self.groups.get_key_value(label).map(|(label, _)| label.clone());
        let room = self.groups.len() < MAX_GROUPS && label.len() <= LONGEST_LABEL;
        let Some(label) = known.or_else(|| room.then(|| Bytes::from(label))) else {
            self.unlabelled += 1;
            return None;
        };
        let tally = self.groups.entry(label.clone()).or_default();
        match freshness {
            Freshness::Fresh => tally.fresh += 1,
            Freshness::Late => tally.late += 1,
            Freshness::Stale | Freshness::Future => {}
        }
        tally.newest = tally.newest.max(sign_of_life);
        Some(label)
    }

    /// Late entries of groups that are wholly silent.
    fn late_of_silent(&self) -> u64 {
        self.groups.values().filter(|tally| tally.fresh == 0).map(|tally| tally.late).sum()
    }

    /// How many late entries, of how many live ones, mass is judged by. A hub that is wholly gone is the most ordinary
    /// event a reaper is for, and counts in neither; unless those that are hold so large a `share` of the recent that
    /// it looks like a network.
    pub fn exempt_from_mass(&self, late: u64, live: u64, (share, whole): (u64, u64)) -> (u64, u64) {
        let silent = self.late_of_silent();
        if silent * whole < live * share {
            (late.saturating_sub(silent), live.saturating_sub(silent))
        } else {
            (late, live)
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Known {
    newest: Timestamp,
    silent: bool,
    /// Until when all its entries are kept, it having come back from a silence.
    keeps_until: Option<Monotonic>,
}

/// A group fell silent, or pings again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Its label.
    pub label: Bytes,
    /// Nobody of it pings.
    pub silent: bool,
}

/// What is known of the groups of one source.
#[derive(Clone, Debug)]
pub struct Groups {
    timing: Timing,
    extra: Duration,
    known: BTreeMap<Bytes, Known>,
}

impl Groups {
    /// None is known yet. A silent group's entries wait `extra` beyond the threshold.
    pub fn new(timing: Timing, extra: Duration) -> Self {
        Self { timing, extra, known: BTreeMap::new() }
    }

    /// Takes in what a survey that ended at `now` saw; says which groups fell silent or ping again.
    pub fn observe(&mut self, tallies: &Tallies, now: Now) -> Vec<Turn> {
        let mut turns = Vec::new();
        let before = std::mem::take(&mut self.known);
        for (label, tally) in &tallies.groups {
            let known = before.get(label);
            // Of nobody but the absent no sign is left: the last one counts, or that we see it for the first time.
            let newest = tally.newest.or(known.map(|known| known.newest)).unwrap_or(now.server);
            let silent = newest <= now.server.minus(self.timing.late_after());
            let mut keeps_until = known.and_then(|known| known.keeps_until);
            if known.is_some_and(|known| known.silent) && !silent {
                keeps_until = Some(now.mono.plus(self.timing.threshold));
            }
            if known.map_or(silent, |known| known.silent != silent) {
                turns.push(Turn { label: label.clone(), silent });
            }
            self.known.insert(label.clone(), Known { newest, silent, keeps_until });
        }
        turns
    }

    /// Takes in that an entry of a group pinged again: where the group was silent, it is not any more.
    pub fn pinged(&mut self, label: &[u8], now: Now) {
        if let Some(known) = self.known.get_mut(label).filter(|known| known.silent) {
            let keeps_until = Some(now.mono.plus(self.timing.threshold));
            *known = Known { newest: now.server, silent: false, keeps_until };
        }
    }

    /// Until when an entry of a group is kept by what its group does; none if it is not.
    pub fn keeps(&self, label: &[u8], now: Now) -> Option<Monotonic> {
        let known = self.known.get(label)?;
        let silence = known.silent.then(|| now.when(known.newest.plus(self.timing.threshold + self.extra)));
        known.keeps_until.max(silence).filter(|until| now.mono < *until)
    }

    /// The newest ping of a group, as far as it is known.
    pub fn newest(&self, label: &[u8]) -> Option<Timestamp> {
        self.known.get(label).map(|known| known.newest)
    }

    /// What a later process has to know: who is silent, and who came back a moment ago.
    pub fn remember(&self, now: Now) -> Vec<memory::Group> {
        let kept = |known: &Known| known.keeps_until.filter(|until| now.mono < *until);
        let matters = self.known.iter().filter(|(_, known)| known.silent || kept(known).is_some());
        let group = |(label, known): (&Bytes, &Known)| memory::Group {
            label: label.clone(),
            newest: known.newest,
            silent: known.silent,
            keeps_until: kept(known).map(|until| now.server_at(until)),
        };
        matters.map(group).collect()
    }

    /// Takes over what an earlier process knew.
    pub fn recall(&mut self, earlier: &[memory::Group], now: Now) {
        let known = |group: &memory::Group| {
            let keeps_until = group.keeps_until.map(|until| now.when(until));
            (group.label.clone(), Known { newest: group.newest, silent: group.silent, keeps_until })
        };
        self.known = earlier.iter().take(MAX_GROUPS).map(known).collect();
    }

    /// How many groups there are.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// How many of them are silent.
    pub fn silent(&self) -> usize {
        self.known.values().filter(|known| known.silent).count()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TIMING, at};
    use super::*;

    const EXTRA: Duration = Duration::from_secs(100);

    /// Entries of groups by the age of each, as a survey at `now` sees them.
    fn survey(now: Now, entries: &[(&str, u64)]) -> Tallies {
        let mut tallies = Tallies::default();
        for (label, age) in entries {
            let last_ping = now.server.minus(Duration::from_secs(*age));
            tallies.count(label.as_bytes(), TIMING.judge(last_ping, now.server), Some(last_ping));
        }
        tallies
    }

    #[test]
    fn e6_a_silent_group_waits_for_the_last_of_its_entries_and_the_extra() {
        let mut groups = Groups::new(TIMING, EXTRA);
        let turns = groups.observe(&survey(at(1_000), &[("a", 100), ("a", 400), ("b", 10), ("b", 400)]), at(1_000));
        assert_eq!(turns, [Turn { label: b"a".as_slice().into(), silent: true }]);
        assert_eq!((groups.len(), groups.silent()), (2, 1));
        assert_eq!(groups.keeps(b"a", at(1_000)), Some(at(1_300).mono), "its newest ping was 100 s ago");
        assert_eq!(groups.keeps(b"a", at(1_300)), None);
        assert_eq!(groups.keeps(b"b", at(1_000)), None, "it pings");
        assert_eq!(groups.keeps(b"c", at(1_000)), None, "nothing is known of it");
    }

    /// All of a hub's keys have run out: no sign of it is left, and still it is the hub that was heard before.
    #[test]
    fn e6_a_group_of_which_all_are_absent_is_silent_since_it_was_heard() {
        let mut groups = Groups::new(TIMING, EXTRA);
        let absent = || {
            let mut tallies = Tallies::default();
            tallies.count(b"a", Freshness::Late, None);
            tallies
        };
        groups.observe(&survey(at(1_000), &[("a", 0)]), at(1_000));
        assert_eq!(groups.observe(&absent(), at(1_100)).len(), 1, "it fell silent");
        assert_eq!(groups.keeps(b"a", at(1_399)), Some(at(1_400).mono), "threshold and extra after it was heard");
        groups.observe(&survey(at(1_500), &[("a", 0)]), at(1_500));
        assert_eq!(groups.keeps(b"a", at(1_500)), Some(at(1_800).mono), "it is back, and the others have a threshold");
        let mut unknown = Groups::new(TIMING, EXTRA);
        unknown.observe(&absent(), at(1_000));
        unknown.observe(&absent(), at(1_100));
        assert_eq!(unknown.keeps(b"a", at(1_100)), Some(at(1_400).mono), "never heard: from when we saw it first");
    }

    #[test]
    fn e6_a_group_that_is_back_has_a_threshold() {
        for by_survey in [true, false] {
            let mut groups = Groups::new(TIMING, Duration::ZERO);
            groups.observe(&survey(at(1_000), &[("a", 500), ("b", 0)]), at(1_000));
            assert_eq!(groups.keeps(b"a", at(1_000)), None, "silent for a threshold");
            if by_survey {
                let turns = groups.observe(&survey(at(1_030), &[("a", 530), ("a", 1), ("b", 0)]), at(1_030));
                assert_eq!(turns, [Turn { label: b"a".as_slice().into(), silent: false }]);
            } else {
                groups.pinged(b"b", at(1_030));
                groups.pinged(b"a", at(1_030));
                assert_eq!(groups.keeps(b"b", at(1_030)), None, "it had never been silent");
            }
            assert_eq!(groups.keeps(b"a", at(1_329)), Some(at(1_330).mono));
            assert_eq!(groups.keeps(b"a", at(1_330)), None);
        }
    }

    #[test]
    fn e6_what_a_group_keeps_is_handed_on() {
        let handed_on = |groups: &Groups, seconds: u64| {
            let mut later = Groups::new(TIMING, EXTRA);
            later.recall(&groups.remember(at(seconds)), at(seconds));
            later
        };
        let mut groups = Groups::new(TIMING, EXTRA);
        groups.observe(&survey(at(1_000), &[("a", 100), ("b", 10)]), at(1_000));
        groups = handed_on(&groups, 1_010);
        assert_eq!((groups.len(), groups.silent()), (1, 1), "who pings is found anew");
        assert_eq!(groups.keeps(b"a", at(1_010)), Some(at(1_300).mono));
        groups.observe(&survey(at(1_020), &[("a", 0), ("a", 120), ("b", 10)]), at(1_020));
        groups = handed_on(&groups, 1_100);
        assert_eq!(groups.keeps(b"a", at(1_100)), Some(at(1_320).mono), "it came back while we were away");
    }

    #[test]
    fn e6_a_silent_group_is_no_mass_unless_it_is_most_of_all() {
        let share = (55, 100);
        let of = |silent: u64, alive: u64| {
            let entries = [vec![("a", 100); silent as usize], vec![("b", 0); alive as usize]].concat();
            survey(at(1_000), &entries).exempt_from_mass(silent, silent + alive, share)
        };
        assert_eq!(of(54, 46), (0, 46));
        assert_eq!(of(55, 45), (55, 100));
        let partly = survey(at(1_000), &[("a", 100), ("a", 0), ("b", 0)]);
        assert_eq!(partly.exempt_from_mass(1, 3, share), (1, 3), "one of it pings");
    }

    #[test]
    fn e6_groups_are_bounded() {
        let mut tallies = Tallies::default();
        for n in 0..MAX_GROUPS + 7 {
            tallies.count(n.to_string().as_bytes(), Freshness::Fresh, None);
        }
        assert_eq!((tallies.groups.len(), tallies.unlabelled), (MAX_GROUPS, 7));
        assert_eq!(tallies.count(b"0", Freshness::Late, None).as_deref(), Some(&b"0"[..]));
        assert_eq!(tallies.count(&[b'x'; 300], Freshness::Late, None), None);
    }
}
