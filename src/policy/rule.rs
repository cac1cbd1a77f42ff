//! The rule: an entry may be evicted when every condition E1 to E9 holds. One pure function decides.
//!
//! E7 is decided by the script inside Redis, at the moment of the deed; E6 and E9 have no settings that could ask for
//! them in this version.

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
    /// E5: its source holds.
    Held(Hold),
    /// E5: what the guards know is too old.
    FactsTooOld,
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
    /// When the survey behind the guards began; none if there was none yet.
    pub surveyed: Option<Monotonic>,
}

/// Whether the source as a whole may evict: the part of the rule that is the same for all its entries.
pub fn decide_source(facts: &Facts<'_>, now: Now) -> Result<(), Refusal> {
    if let Some(grace) = facts.continuity.grace(now.mono) {
        return Err(Refusal::Grace { until: grace.until });
    }
    if let Some(hold) = facts.guard.hold(now) {
        return Err(Refusal::Held(hold));
    }
    let surveyed = facts.surveyed.ok_or(Refusal::FactsTooOld)?;
    if now.mono.since(surveyed) > facts.timing.facts_valid_for() {
        return Err(Refusal::FactsTooOld);
    }
    Ok(())
}

/// Whether one entry, read afresh at `now`, may be evicted; else the first condition that fails.
pub fn decide(
    facts: &Facts<'_>,
    judged: Judged,
    mark: Mark,
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
    let confirmed = watched.since.plus(facts.timing.confirm_for());
    if now.mono < confirmed {
        return Err(Refusal::Unconfirmed { until: confirmed });
    }
    if let Some(until) = facts.continuity.keeps(last_ping, now.mono) {
        return Err(Refusal::Grace { until });
    }
    decide_source(facts, now)
}

/// Why the source holds at `now`, if it does: what its state, its metric and its report say.
pub fn hold(facts: &Facts<'_>, now: Now) -> Option<Hold> {
    grace(facts, now.mono).or_else(|| facts.guard.hold(now))
}

fn grace(facts: &Facts<'_>, now: Monotonic) -> Option<Hold> {
    if let Some(grace) = facts.continuity.grace(now) {
        let (after, threshold) = (grace.after, in_words(facts.timing.threshold));
        return Some(Hold {
            state: State::Grace,
            why: format!("after {after} every entry has a full threshold of {threshold}"),
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
