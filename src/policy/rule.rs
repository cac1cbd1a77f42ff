//! The rule: an entry may be evicted when every condition E1 to E9 holds. One pure function decides.
//!
//! E7 is decided by the script inside Redis, at the moment of the deed, and E9 is asked there again.

use super::continuity::Continuity;
use super::duration::in_words;
use super::entry::{Mark, Monotonic, Now};
use super::guard::{Guard, Hold, State};
use super::ping::Unreadable;
use super::staleness::{Freshness, Timing};
use super::survey::Judged;
use super::watch::Watched;

/// The first condition that an entry fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// E1: its last ping can't be read, so it is alive.
    Unreadable(Unreadable),
    /// E1: its last ping lies in the future, so it is alive.
    Future,
    /// E2: it is younger than the threshold.
    Live,
    /// E3: its mark changed since the first look, or there was no first look.
    Moved,
    /// E3: seen, but not for long enough yet.
    Unconfirmed {
        /// When it will have been.
        until: Monotonic,
    },
    /// E4: a continuity break keeps it.
    Grace {
        /// Until when.
        until: Monotonic,
    },
    /// E6: its group has not been silent for long enough, or came back a moment ago.
    Group {
        /// Until when.
        until: Monotonic,
    },
    /// E5: its source holds.
    Held(Hold),
    /// E5: nobody pings, or nobody has what it lacks: then an absence proves nothing.
    Absent,
    /// E5: what the guards know is too old, or the pulse has put it in doubt: survey first.
    FactsTooOld,
    /// E9: something protects it.
    Protected,
}

/// What is known of a source when one of its entries is judged.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The source's rhythm.
    pub timing: &'a Timing,
    /// Breaks and graces.
    pub continuity: &'a Continuity,
    /// Silence and mass.
    pub guard: &'a Guard,
    /// When the survey behind the guards began and ended; none if there was none yet.
    pub surveyed: Option<(Monotonic, Monotonic)>,
    /// The last survey found for somebody what the absent lack.
    pub vouched: bool,
    /// Its times are ours, of when we saw a value first, and no hub's.
    pub dated_by_us: bool,
}

/// Whether the source as a whole may evict: the part of the rule that is the same for all its entries.
pub fn decide_source(facts: &Facts<'_>, now: Now) -> Result<(), Refusal> {
    if let Some(hold) = outright(facts, now.mono) {
        return Err(Refusal::Held(hold));
    }
    if let Some(grace) = facts.continuity.grace(now.mono) {
        return Err(Refusal::Grace { until: grace.until });
    }
    if let Some(hold) = facts.guard.hold(now) {
        return Err(Refusal::Held(hold));
    }
    if facts.guard.doubt().is_some() {
        return Err(Refusal::FactsTooOld);
    }
    let (surveyed, _) = facts.surveyed.ok_or(Refusal::FactsTooOld)?;
    if now.mono.since(surveyed) > facts.timing.facts_valid_for() {
        return Err(Refusal::FactsTooOld);
    }
    Ok(())
}

/// Whether one entry, read afresh at `now`, may be evicted; else the first condition that fails. `protected`: a
/// condition that protects it was found to hold.
pub fn decide(
    facts: &Facts<'_>,
    judged: Judged,
    mark: Mark,
    protected: bool,
    watched: Option<&Watched>,
    now: Now,
) -> Result<(), Refusal> {
    let (last_ping, _) = judged.map_err(Refusal::Unreadable)?;
    match facts.timing.judge(last_ping, now.server) {
        Freshness::Future => return Err(Refusal::Future),
        Freshness::Fresh | Freshness::Late => return Err(Refusal::Live),
        Freshness::Stale => {}
    }
    let watched = watched.filter(|watched| watched.mark == mark).ok_or(Refusal::Moved)?;
    decide_watched(facts, protected, watched, now)
}

/// Whether an entry may go that is stale and still bears the mark it is watched for: what is left of the rule, E3 to E6
/// and E9.
pub fn decide_watched(facts: &Facts<'_>, protected: bool, watched: &Watched, now: Now) -> Result<(), Refusal> {
    if now.mono < watched.confirmed {
        return Err(Refusal::Unconfirmed { until: watched.confirmed });
    }
    if let Some(until) = facts.continuity.keeps(watched.last_ping, now.mono) {
        return Err(Refusal::Grace { until });
    }
    // When we saw it first says nothing of when it was last heard: while connections may still be coming back, it waits.
    if let Some(reconnect) = facts.continuity.reconnecting(now.mono).filter(|_| watched.absent || facts.dated_by_us) {
        return Err(Refusal::Grace { until: reconnect.until });
    }
    decide_source(facts, now)?;
    if let Some(until) = watched.group.as_deref().and_then(|label| facts.guard.groups().keeps(label, now)) {
        return Err(Refusal::Group { until });
    }
    // The end of a silence releases no absence: a key that is misspelt looks the same.
    if watched.absent && (!facts.vouched || facts.guard.has_been_silent()) {
        return Err(Refusal::Absent);
    }
    if protected { Err(Refusal::Protected) } else { Ok(()) }
}

/// Why the source holds at `now`, if it does: what its state, its metric and its report say.
pub fn hold(facts: &Facts<'_>, now: Now) -> Option<Hold> {
    outright(facts, now.mono)
        .or_else(|| grace(facts, now.mono))
        .or_else(|| facts.guard.hold(now))
        .or_else(|| slow(facts))
}

/// Above all else: an operator pulled the brake, evicted entries came back, redis refuses writes, nobody knows what is
/// ordered, or the source is not what its settings say.
fn outright(facts: &Facts<'_>, now: Monotonic) -> Option<Hold> {
    let ordered = facts.guard.orders().hold(now);
    let (braked, unheard) = if facts.guard.orders().unheard { (None, ordered) } else { (ordered, None) };
    braked
        .or_else(|| facts.guard.suspended(now))
        .or_else(|| refused(facts))
        .or(unheard)
        .or_else(|| facts.guard.misfit())
}

/// Where our own writes are refused, so are heartbeats (E4): no survey proves anything until they are not.
fn refused(facts: &Facts<'_>) -> Option<Hold> {
    facts.continuity.refused().map(|why| Hold {
        state: State::Blind,
        why: format!("the reaper's own state can't be written, so heartbeats may not be either: {why}"),
        ends: None,
        ends_with: "a write that redis takes; then a grace, as after any break".into(),
    })
}

/// Facts that are too old by the time a survey ends never let anything go, and nothing else would say so.
fn slow(facts: &Facts<'_>) -> Option<Hold> {
    let (began, ended) = facts.surveyed?;
    let (took, valid) = (ended.since(began), facts.timing.facts_valid_for());
    (took > valid).then(|| Hold {
        state: State::Blind,
        why: format!("a survey takes {}, and what it tells is good for {} only", in_words(took), in_words(valid)),
        ends: None,
        ends_with: "a survey that is faster: raise the threshold, or split the source".into(),
    })
}

/// Why a break holds the source, if it does: the part that needs no survey after it.
pub(super) fn grace(facts: &Facts<'_>, now: Monotonic) -> Option<Hold> {
    if let Some(grace) = facts.continuity.grace(now) {
        let (after, threshold) = (grace.after, in_words(facts.timing.threshold));
        return Some(Hold {
            state: State::Grace,
            why: format!("after {after}, every entry has a full threshold of {threshold}"),
            ends: Some(grace.until),
            ends_with: "time".into(),
        });
    }
    facts.continuity.reconnecting(now).map(|reconnect| Hold {
        state: State::Grace,
        why: "entries last heard before a break that may have cost the hubs their connections wait".into(),
        ends: Some(reconnect.until),
        ends_with: "time; entries heard since are evicted as usual".into(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::continuity::Identity;
    use super::super::entry::{EntryId, Timestamp};
    use super::super::guard::{Lifted, Settings};
    use super::super::ping::Unit;
    use super::super::survey::{Candidate, Survey};
    use super::super::testing::TIMING;
    use super::super::watch::Watch;
    use super::*;

    fn at(millis: u64) -> Now {
        let since = Duration::from_millis(millis);
        Now { server: Timestamp::from_millis(1_800_000_000_000).plus(since), mono: Monotonic::from_start(since) }
    }

    /// A source that was first seen at 0 and has been surveyed every heartbeat since, with somebody pinging; and in it
    /// one entry that last pinged at 0.
    struct World {
        continuity: Continuity,
        guard: Guard,
        watch: Watch,
        surveyed: Option<(Monotonic, Monotonic)>,
    }

    fn id() -> EntryId {
        EntryId::key(*b"c")
    }

    fn mark() -> Mark {
        Mark::of([Some(&b"0"[..])])
    }

    fn world(now: Now) -> World {
        let mut continuity = Continuity::new(TIMING, Duration::from_secs(900));
        let mut guard = Guard::new(TIMING, &Settings::default(), Lifted::default());
        let mut watch = Watch::default();
        for millis in (0..=now.mono.since_start().as_millis() as u64).step_by(30_000) {
            let now = at(millis);
            continuity.looked(&Identity::default(), now, now);
            guard.observe(&beating(now), now);
            let candidate = Candidate {
                id: id(),
                mark: mark(),
                last_ping: at(0).server,
                seen: now.mono,
                protected: false,
                absent: false,
                group: None,
            };
            watch.observe(vec![candidate], true, None, now, &TIMING);
        }
        World { continuity, guard, watch, surveyed: Some((now.mono, now.mono)) }
    }

    fn beating(now: Now) -> Survey {
        let mut survey = Survey::new(TIMING);
        survey.count(Freshness::Fresh, 100);
        survey.saw(now.server);
        survey
    }

    fn facts(world: &World) -> Facts<'_> {
        let World { continuity, guard, surveyed, .. } = world;
        Facts { timing: &TIMING, continuity, guard, surveyed: *surveyed, vouched: true, dated_by_us: false }
    }

    fn judge(world: &World, last_ping: Judged, mark: Mark, now: Now) -> Result<(), Refusal> {
        decide(&facts(world), last_ping, mark, false, world.watch.get(&id()), now)
    }

    fn pinged(millis: u64) -> Judged {
        Ok((at(millis).server, Unit::UnixMs))
    }

    #[test]
    fn an_entry_goes_when_everything_holds_and_not_a_millisecond_before() {
        assert_eq!(judge(&world(at(300_000)), pinged(0), mark(), at(300_000)), Ok(()));
        assert_eq!(judge(&world(at(300_000)), pinged(1), mark(), at(300_000)), Err(Refusal::Live), "E2");
    }

    #[test]
    fn e1_what_is_unreadable_or_ahead_stays() {
        let world = world(at(300_000));
        let unreadable = judge(&world, Err(Unreadable::Unparsable), mark(), at(300_000));
        assert_eq!(unreadable, Err(Refusal::Unreadable(Unreadable::Unparsable)));
        assert_eq!(judge(&world, pinged(360_001), mark(), at(300_000)), Err(Refusal::Future));
    }

    #[test]
    fn e3_another_mark_or_too_short_a_watch_stays() {
        let mut world = world(at(300_000));
        assert_eq!(judge(&world, pinged(0), Mark::of([]), at(300_000)), Err(Refusal::Moved));
        world.watch.clear();
        assert_eq!(judge(&world, pinged(0), mark(), at(300_000)), Err(Refusal::Moved), "never looked at");
        let seen = Candidate {
            id: id(),
            mark: mark(),
            last_ping: at(0).server,
            seen: at(210_001).mono,
            protected: false,
            absent: false,
            group: None,
        };
        world.watch.observe(vec![seen], true, None, at(210_001), &TIMING);
        let until = at(300_001).mono;
        assert_eq!(judge(&world, pinged(0), mark(), at(300_000)), Err(Refusal::Unconfirmed { until }));
        assert_eq!(judge(&world, pinged(0), mark(), at(300_001)), Ok(()));
    }

    #[test]
    fn e4_a_grace_keeps_it_to_its_last_millisecond() {
        let mut world = world(at(300_000));
        world.continuity.silence_ended(at(10_000));
        let until = at(310_000).mono;
        assert_eq!(judge(&world, pinged(0), mark(), at(309_999)), Err(Refusal::Grace { until }));
        assert_eq!(judge(&world, pinged(0), mark(), at(310_000)), Ok(()));
    }

    /// When we saw it first is later than a break that we saw too, and says nothing of the client behind it.
    #[test]
    fn e4_what_we_dated_ourselves_waits_for_all_to_reconnect() {
        let mut world = world(at(300_000));
        let restarted = Identity { run_id: "another".into(), ..Identity::default() };
        world.continuity.looked(&restarted, at(1_000), at(1_000));
        let until = at(901_000).mono;
        let mut watched = world.watch.get(&id()).unwrap().clone();
        watched.last_ping = at(100_000).server;
        world.surveyed = Some((at(500_000).mono, at(500_000).mono));
        let decided = |absent: bool, dated_by_us| {
            let mut watched = watched.clone();
            watched.absent = absent;
            decide_watched(&Facts { dated_by_us, ..facts(&world) }, false, &watched, at(500_000))
        };
        let waits = Err(Refusal::Grace { until });
        assert_eq!([decided(true, false), decided(false, true)], [waits.clone(), waits]);
        assert!(!matches!(decided(false, false), Err(Refusal::Grace { .. })), "a hub dated it after the break");
    }

    #[test]
    fn e5_an_absence_that_nobody_vouches_for_stays() {
        let world = world(at(300_000));
        let mut watched = world.watch.get(&id()).unwrap().clone();
        watched.absent = true;
        let decided = |vouched| decide_watched(&Facts { vouched, ..facts(&world) }, false, &watched, at(300_000));
        assert_eq!((decided(true), decided(false)), (Ok(()), Err(Refusal::Absent)));
    }

    /// A key that is misspelt looks like a silence that ends by itself.
    #[test]
    fn e5_the_end_of_a_silence_releases_no_absence() {
        let mut world = world(at(300_000));
        world.guard = Guard::new(TIMING, &Settings::default(), Lifted { silent: true, ..Lifted::default() });
        world.guard.observe(&Survey::new(TIMING), at(299_999));
        let mut silent = Survey::new(TIMING);
        silent.observe(Ok((at(0).server, Unit::UnixMs)), mark(), at(300_000), id);
        world.guard.observe(&silent, at(300_000));
        let watched = world.watch.get(&id()).unwrap().clone();
        let decided = |absent| {
            let mut watched = watched.clone();
            watched.absent = absent;
            decide_watched(&facts(&world), false, &watched, at(300_000))
        };
        assert_eq!((decided(false), decided(true)), (Ok(()), Err(Refusal::Absent)));
    }

    #[test]
    fn e5_facts_are_good_until_four_heartbeats_before_a_threshold() {
        let mut world = world(at(300_000));
        assert_eq!(judge(&world, pinged(0), mark(), at(480_000)), Ok(()));
        assert_eq!(judge(&world, pinged(0), mark(), at(480_001)), Err(Refusal::FactsTooOld));
        world.surveyed = None;
        assert_eq!(judge(&world, pinged(0), mark(), at(300_000)), Err(Refusal::FactsTooOld));
    }

    #[test]
    fn e5_a_survey_slower_than_its_facts_are_good_for_is_a_hold_that_says_so() {
        let mut world = world(at(300_000));
        world.surveyed = Some((at(120_000).mono, at(300_000).mono));
        assert_eq!(hold(&facts(&world), at(300_000)), None);
        world.surveyed = Some((at(119_999).mono, at(300_000).mono));
        let held = hold(&facts(&world), at(300_000));
        assert_eq!(held.map(|hold| hold.state), Some(State::Blind));
    }

    #[test]
    fn e5_a_silent_source_keeps_everything() {
        let mut world = world(at(300_000));
        let mut silent = Survey::new(TIMING);
        silent.saw(at(300_000).server.minus(TIMING.late_after()));
        world.guard.observe(&silent, at(300_000));
        let refusal = judge(&world, pinged(0), mark(), at(300_000));
        assert!(matches!(&refusal, Err(Refusal::Held(hold)) if hold.state == State::Silent), "{refusal:?}");
    }

    #[test]
    fn e9_what_is_protected_stays_whatever_else_holds() {
        let world = world(at(300_000));
        let judge = |last_ping, now| {
            let decided = decide(&facts(&world), pinged(last_ping), mark(), true, world.watch.get(&id()), now);
            decided.unwrap_err()
        };
        assert_eq!(judge(0, at(300_000)), Refusal::Protected);
        assert_eq!(judge(1, at(300_000)), Refusal::Live, "the first condition that fails is told");
        assert_eq!(judge(0, at(480_001)), Refusal::FactsTooOld);
    }
}
