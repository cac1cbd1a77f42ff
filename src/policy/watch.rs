//! Marks seen before, since when, and the next deadline (E3).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use super::continuity::CLOCK_TOLERANCE;
use super::entry::{Bytes, EntryId, Mark, Monotonic, Now, Timestamp};
use super::staleness::Timing;
use super::survey::Candidate;

/// What we remember of an entry that may be due before the next survey.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// The mark of the first look, and of every look since.
    pub mark: Mark,
    /// When it last pinged, as read.
    pub last_ping: Timestamp,
    /// When we first saw this mark.
    pub since: Monotonic,
    /// When it will have been seen for long enough (E3).
    pub confirmed: Monotonic,
    /// Something protected it when it was last surveyed (E9).
    pub protected: bool,
    /// It was older than it could be: its time means nothing.
    misdated: bool,
    /// It is judged by an absence.
    pub absent: bool,
    /// The label of its group, where the source names one.
    pub group: Option<Bytes>,
    /// When it is to be struck, or looked at again.
    pub due: Monotonic,
    /// The reasons it was already counted as skipped for: one count a mark, not one a sweep.
    counted: u8,
}

/// The entries of one source older than `watch_from`.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    entries: HashMap<EntryId, Watched>,
    queue: BTreeSet<(Monotonic, EntryId)>,
    closed: bool,
    /// As an earlier process left it: which entries it was about we can't know any more.
    doubted_until: Option<Monotonic>,
}

impl Watch {
    /// Takes over from an earlier process until when it kept entries that were older than they could be.
    pub fn doubt(&mut self, until: Option<Monotonic>) {
        self.doubted_until = until;
    }

    /// Until when entries are kept that were older than they could be; none at `now` if there are none.
    pub fn misdated_until(&self, now: Monotonic) -> Option<Monotonic> {
        let ours = self.entries.values().filter(|watched| watched.misdated).map(|watched| watched.confirmed);
        ours.chain(self.doubted_until).filter(|until| now < *until).max()
    }

    /// Takes in the candidates of a survey that ended at `now`. Those it no longer names have pinged or gone; unless it
    /// could not keep them all. `previous` is when the survey before it began, if that one kept all and no break
    /// came between.
    pub fn observe(
        &mut self,
        candidates: Vec<Candidate>,
        kept_all: bool,
        previous: Option<Monotonic>,
        now: Now,
        timing: &Timing,
    ) {
        if kept_all {
            let named: HashSet<&EntryId> = candidates.iter().map(|candidate| &candidate.id).collect();
            let gone: Vec<EntryId> = self.entries.keys().filter(|id| !named.contains(id)).cloned().collect();
            for id in gone {
                self.forget(&id);
            }
        }
        for candidate in candidates {
            self.see(candidate, previous, now, timing);
        }
    }

    /// An entry that turns up older than it can be was written since the previous survey, by a clock that is behind: an
    /// honest one would have been watched by then. The age it shows means nothing, so a threshold is counted on our own
    /// clock; else such a hub had only to be cut off for a few heartbeats to lose all its clients.
    fn see(&mut self, candidate: Candidate, previous: Option<Monotonic>, now: Now, timing: &Timing) {
        let known = self.entries.get(&candidate.id);
        match known {
            Some(known) if known.mark == candidate.mark => {
                // Whose it is may show later than that it is there; where a group has no room it stays the one it was.
                let group = candidate.group.or_else(|| known.group.clone());
                let (id, due) = (candidate.id, known.due);
                if group != known.group {
                    let known = Watched { group, ..known.clone() };
                    self.put(id.clone(), known);
                }
                self.shield(&id, candidate.protected, due, now.mono.plus(timing.heartbeat_interval));
            }
            None if self.closed => {}
            _ => {
                let stale_at = now.when(candidate.last_ping.plus(timing.threshold));
                let written_since = previous.filter(|previous| {
                    let unwatched = if known.is_some() { Duration::ZERO } else { timing.watch_from() };
                    let honest = candidate.seen.since(*previous) + unwatched + CLOCK_TOLERANCE;
                    age(&candidate, now) > honest
                });
                let kept_until = match previous {
                    None => self.doubted_until,
                    Some(_) => written_since.map(|at| at.plus(timing.threshold)),
                };
                let confirmed = candidate.seen.plus(timing.confirm_for());
                let misdated = kept_until.is_some_and(|until| confirmed < until);
                let confirmed = confirmed.max(kept_until.unwrap_or_default());
                let due = stale_at.max(confirmed);
                let Candidate { id, mark, last_ping, seen: since, protected, absent, group } = candidate;
                let known = Watched {
                    mark,
                    last_ping,
                    since,
                    confirmed,
                    protected: false,
                    misdated,
                    absent,
                    group,
                    due,
                    counted: 0,
                };
                self.put(id.clone(), known);
                self.shield(&id, protected, due, now.mono.plus(timing.heartbeat_interval));
            }
        }
    }

    /// Notes whether something protects an entry that is `due`: what does is asked again no earlier than `again`.
    fn shield(&mut self, id: &EntryId, protected: bool, due: Monotonic, again: Monotonic) {
        if let Some(known) = self.entries.get(id).filter(|known| protected || known.protected) {
            let due = if protected { due.max(again) } else { due };
            self.put(id.clone(), Watched { protected, due, ..known.clone() });
        }
    }

    fn put(&mut self, id: EntryId, watched: Watched) {
        self.forget(&id);
        self.queue.insert((watched.due, id.clone()));
        self.entries.insert(id, watched);
    }

    /// What is remembered of an entry.
    pub fn get(&self, id: &EntryId) -> Option<&Watched> {
        self.entries.get(id)
    }

    /// Stops watching an entry.
    pub fn forget(&mut self, id: &EntryId) {
        if let Some(known) = self.entries.remove(id) {
            self.queue.remove(&(known.due, id.clone()));
        }
    }

    /// Forgets everything: after a break on the server's side no earlier look counts.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.queue.clear();
    }

    /// Looks at an entry again no earlier than `until`.
    pub fn postpone(&mut self, id: &EntryId, until: Monotonic) {
        if let Some(known) = self.entries.get(id).cloned() {
            self.put(id.clone(), Watched { due: until, ..known });
        }
    }

    /// The first `limit` entries that are due at `now`, longest due first.
    pub fn due(&self, now: Monotonic, limit: usize) -> Vec<EntryId> {
        self.queue.iter().take_while(|(due, _)| *due <= now).take(limit).map(|(_, id)| id.clone()).collect()
    }

    /// Whether anything is due at `now` that nothing protected when it was last surveyed.
    pub fn is_due(&self, now: Monotonic) -> bool {
        let mut due = self.queue.iter().take_while(|(due, _)| *due <= now);
        due.any(|(_, id)| self.get(id).is_some_and(|known| !known.protected))
    }

    /// When the next entry is due.
    pub fn next_due(&self) -> Option<Monotonic> {
        self.queue.first().map(|(due, _)| *due)
    }

    /// Keeps only what is stale at `now` and unprotected, and takes in nothing more: the candidates of a single run.
    pub fn close(&mut self, now: Timestamp, timing: &Timing) {
        let stale_before = now.minus(timing.threshold);
        let staying = self.entries.iter().filter(|(_, known)| known.last_ping > stale_before || known.protected);
        let staying: Vec<EntryId> = staying.map(|(id, _)| id.clone()).collect();
        for id in staying {
            self.forget(&id);
        }
        self.closed = true;
    }

    /// Takes in new entries again.
    pub fn open(&mut self) {
        self.closed = false;
    }

    /// Whether it takes in nothing more: a single run gives each entry one strike.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// How many entries are watched.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is watched.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many watched entries of age threshold or more at `now`, which nothing protects, were not counted for `reason`
    /// before; counts them.
    pub fn count_stale_once(&mut self, reason: u8, now: Timestamp, timing: &Timing) -> u64 {
        let stale_before = now.minus(timing.threshold);
        self.count_all_once(reason, |known| known.last_ping <= stale_before && !known.protected)
    }

    /// How many watched entries that something protects were not counted for `reason` before; counts them.
    pub fn count_protected_once(&mut self, reason: u8) -> u64 {
        self.count_all_once(reason, |known| known.protected)
    }

    fn count_all_once(&mut self, reason: u8, which: impl Fn(&Watched) -> bool) -> u64 {
        let bit = 1 << reason;
        let mut newly = 0;
        for known in self.entries.values_mut().filter(|known| which(known) && known.counted & bit == 0) {
            known.counted |= bit;
            newly += 1;
        }
        newly
    }

    /// Whether an entry was not counted for `reason` before; counts it.
    pub fn count_once(&mut self, id: &EntryId, reason: u8) -> bool {
        let bit = 1 << reason;
        self.entries.get_mut(id).is_some_and(|known| {
            let newly = known.counted & bit == 0;
            known.counted |= bit;
            newly
        })
    }
}

/// How old an entry was when it was read.
fn age(candidate: &Candidate, now: Now) -> Duration {
    let read_at = now.server.minus(now.mono.since(candidate.seen));
    Duration::from_millis(read_at.millis_since(candidate.last_ping).max(0).unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TIMING, at};
    use super::*;

    fn id(name: &str) -> EntryId {
        EntryId::key(name.as_bytes())
    }

    fn candidate(name: &str, age: u64, now: Now) -> Candidate {
        let last_ping = now.server.minus(Duration::from_secs(age));
        Candidate {
            id: id(name),
            mark: Mark::of([Some(&last_ping.millis().to_be_bytes()[..])]),
            last_ping,
            seen: now.mono,
            protected: false,
            absent: false,
            group: None,
        }
    }

    fn watching(candidates: Vec<Candidate>, now: Now) -> Watch {
        let mut watch = Watch::default();
        watch.observe(candidates, true, None, now, &TIMING);
        watch
    }

    #[test]
    fn g4_an_entry_is_due_at_its_threshold_and_not_before_it_was_confirmed() {
        let due = |age| watching(vec![candidate("a", age, at(0))], at(0)).next_due();
        assert_eq!(due(200), Some(at(100).mono), "at the threshold");
        assert_eq!(due(250), Some(at(90).mono), "confirmed three heartbeats later");
        assert_eq!(due(86_400), Some(at(90).mono), "however old");
    }

    #[test]
    fn g4_a_new_mark_starts_anew() {
        let mut watch = watching(vec![candidate("a", 400, at(0))], at(0));
        watch.observe(vec![candidate("a", 430, at(30))], true, None, at(30), &TIMING);
        assert_eq!(watch.next_due(), Some(at(90).mono), "the same ping, seen again");
        watch.observe(vec![candidate("a", 430, at(60))], true, None, at(60), &TIMING);
        assert_eq!(watch.next_due(), Some(at(150).mono), "a ping written in the past is a ping");
    }

    #[test]
    fn e6_whose_an_entry_is_may_show_later() {
        let group = |label: &str| Some(Bytes::from(label.as_bytes()));
        let of = |group: Option<Bytes>, n| Candidate { group, ..candidate("a", 400 + 30 * n, at(30 * n)) };
        let mut watch = watching(vec![of(None, 0)], at(0));
        for (n, (found, known)) in (1..).zip([(group("x"), group("x")), (None, group("x")), (group("y"), group("y"))]) {
            watch.observe(vec![of(found, n)], true, None, at(30 * n), &TIMING);
            assert_eq!(watch.get(&id("a")).unwrap().group, known);
            assert_eq!(watch.next_due(), Some(at(90).mono), "the same ping");
        }
    }

    #[test]
    fn g4_an_entry_that_turns_up_too_old_is_judged_by_our_own_clock() {
        // Surveys at 0 and 150 s. One that is watched from 60 s on can be 212 s old by now, and no older.
        let due = |age| {
            let mut watch = watching(Vec::new(), at(0));
            watch.observe(vec![candidate("a", age, at(150))], true, Some(at(0).mono), at(150), &TIMING);
            watch.next_due()
        };
        assert_eq!(due(212), Some(at(240).mono), "confirmed");
        assert_eq!(due(213), Some(at(300).mono), "written since, by a clock that is behind");
        assert_eq!(due(86_400), Some(at(300).mono));
        // A survey that took longer than that still has to be followed by a second look.
        let mut watch = watching(Vec::new(), at(0));
        watch.observe(vec![candidate("a", 900, at(400))], true, Some(at(0).mono), at(400), &TIMING);
        assert_eq!(watch.next_due(), Some(at(490).mono));
        // One that was watched, and pinged since: between the looks, whatever time it wrote.
        let mut watch = watching(vec![candidate("a", 185, at(0))], at(0));
        watch.observe(vec![candidate("a", 190, at(30))], true, Some(at(0).mono), at(30), &TIMING);
        assert_eq!(watch.next_due(), Some(at(300).mono));
    }

    #[test]
    fn g4_a_restart_of_ours_does_not_believe_a_clock_that_is_behind() {
        let mut earlier = watching(Vec::new(), at(0));
        earlier.observe(vec![candidate("a", 400, at(0))], true, None, at(0), &TIMING);
        assert_eq!(earlier.misdated_until(at(0).mono), None, "it may well be so old");
        earlier.observe(vec![candidate("a", 400, at(30))], true, Some(at(0).mono), at(30), &TIMING);
        let until = earlier.misdated_until(at(30).mono);
        assert_eq!(until, Some(at(300).mono));

        let mut later = Watch::default();
        later.doubt(until);
        later.observe(vec![candidate("a", 430, at(60))], true, None, at(60), &TIMING);
        assert_eq!(later.next_due(), Some(at(300).mono), "whichever it was");
        assert_eq!(later.misdated_until(at(60).mono), until, "for the next one");
        later.observe(vec![candidate("b", 85, at(90))], true, Some(at(60).mono), at(90), &TIMING);
        assert_eq!(later.get(&id("b")).map(|watched| watched.confirmed), Some(at(180).mono), "seen to come");
        assert_eq!(later.misdated_until(at(300).mono), None);
    }

    #[test]
    fn what_a_survey_no_longer_names_is_forgotten_unless_it_could_not_keep_all() {
        let mut watch = watching(vec![candidate("a", 400, at(0)), candidate("b", 400, at(0))], at(0));
        watch.observe(vec![candidate("b", 430, at(30))], false, None, at(30), &TIMING);
        assert_eq!(watch.len(), 2);
        watch.observe(vec![candidate("b", 430, at(30))], true, None, at(30), &TIMING);
        assert_eq!(watch.due(at(90).mono, 10), [id("b")]);
    }

    #[test]
    fn due_entries_come_longest_due_first_and_at_most_so_many() {
        let now = at(0);
        let watch = watching(vec![candidate("c", 205, now), candidate("a", 201, now), candidate("b", 209, now)], now);
        assert_eq!(watch.due(at(99).mono, 2), [id("b"), id("c")]);
        assert_eq!(watch.due(at(90).mono, 2), []);
    }

    #[test]
    fn a_postponed_entry_keeps_what_is_known_of_it() {
        let mut watch = watching(vec![candidate("a", 400, at(0))], at(0));
        watch.postpone(&id("a"), at(500).mono);
        assert_eq!(watch.get(&id("a")).map(|known| (known.since, known.due)), Some((at(0).mono, at(500).mono)));
        assert!(watch.due(at(499).mono, 10).is_empty());
    }

    #[test]
    fn a_closed_watch_takes_in_nothing_more() {
        let mut watch = watching(vec![candidate("stale", 300, at(0)), candidate("late", 299, at(0))], at(0));
        watch.close(at(0).server, &TIMING);
        watch.observe(
            vec![candidate("stale", 330, at(30)), candidate("new", 900, at(30))],
            true,
            None,
            at(30),
            &TIMING,
        );
        assert_eq!((watch.len(), watch.get(&id("stale")).is_some()), (1, true));
    }

    #[test]
    fn e9_a_protected_entry_is_looked_at_every_heartbeat_and_keeps_what_is_known_of_it() {
        let protected = |age, now| Candidate { protected: true, ..candidate("a", age, now) };
        let mut watch = watching(vec![protected(400, at(0))], at(0));
        assert_eq!(watch.next_due(), Some(at(90).mono), "it may be unprotected by then");
        watch.observe(vec![protected(460, at(60))], true, None, at(60), &TIMING);
        assert_eq!(watch.next_due(), Some(at(90).mono));
        watch.observe(vec![protected(490, at(90))], true, None, at(90), &TIMING);
        assert_eq!(watch.next_due(), Some(at(120).mono));
        assert!(watch.get(&id("a")).is_some_and(|known| known.protected));
        assert_eq!(watch.count_stale_once(0, at(90).server, &TIMING), 0, "no hold keeps what would not go");
        assert_eq!([watch.count_protected_once(1), watch.count_protected_once(1)], [1, 0]);
        watch.observe(vec![candidate("a", 510, at(110))], true, None, at(110), &TIMING);
        let known = watch.get(&id("a")).unwrap();
        assert_eq!((known.protected, known.since, known.due), (false, at(0).mono, at(120).mono));
    }

    #[test]
    fn e9_a_single_run_does_not_wait_for_what_is_protected() {
        let mut watch = watching(vec![Candidate { protected: true, ..candidate("a", 400, at(0)) }], at(0));
        watch.close(at(0).server, &TIMING);
        assert!(watch.is_empty());
    }

    #[test]
    fn an_entry_is_counted_once_a_mark_and_reason() {
        let mut watch = watching(vec![candidate("a", 300, at(0)), candidate("late", 299, at(0))], at(0));
        assert_eq!(watch.count_stale_once(0, at(0).server, &TIMING), 1);
        assert_eq!(watch.count_stale_once(0, at(0).server, &TIMING), 0);
        assert_eq!(watch.count_stale_once(1, at(0).server, &TIMING), 1);
        assert!(!watch.count_once(&id("a"), 1));
        assert!(watch.count_once(&id("a"), 2));
    }
}
