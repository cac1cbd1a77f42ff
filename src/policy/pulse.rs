//! The pulse: a few entries that were fresh at the last survey, re-read to see that heartbeats still flow. It can only
//! hold, never release.

use std::collections::HashMap;

use super::entry::{EntryId, Mark, Monotonic, Now};
use super::sample::Sampled;
use super::staleness::Timing;

/// How many entries are drawn; all, if there are fewer.
pub const SIZE: usize = 64;

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
            Self::SpokeAgain => "somebody pings again",
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Member {
    mark: Mark,
    /// From when on it is missing, if its mark stands.
    missing_from: Monotonic,
}

/// The sample, and what the last look at it said.
#[derive(Clone, Debug)]
pub struct Pulse {
    timing: Timing,
    drawn: usize,
    members: HashMap<EntryId, Member>,
    doubt: Option<Doubt>,
}

impl Pulse {
    /// Nobody is drawn yet.
    pub fn new(timing: Timing) -> Self {
        Self { timing, drawn: 0, members: HashMap::new(), doubt: None }
    }

    /// Draws anew, from what a survey that ended at `now` found fresh. What was doubted is decided by now.
    pub fn draw(&mut self, fresh: &[Sampled], now: Now) {
        let late_after = self.timing.late_after();
        let member = |entry: &Sampled| {
            let missing_from = now.when(entry.last_ping.plus(late_after)).min(now.mono.plus(late_after));
            (entry.id.clone(), Member { mark: entry.mark, missing_from })
        };
        self.members = fresh.iter().map(member).collect();
        self.drawn = self.members.len();
        self.doubt = None;
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
                *member = Member { mark, missing_from: now.plus(self.timing.late_after()) };
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
        let left = self.members.len();
        let missing = self.members.values().filter(|member| now >= member.missing_from).count();
        let (part, whole) = MISSING;
        let doubt = if self.drawn == 0 {
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
        };
        if let Some(doubt) = doubt {
            self.doubt_that(doubt);
        }
    }

    /// Why nothing may go before the next survey, if so.
    pub fn doubt(&self) -> Option<Doubt> {
        self.doubt
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::entry::Timestamp;
    use super::*;

    const TIMING: Timing = Timing { threshold: Duration::from_secs(300), heartbeat_interval: Duration::from_secs(30) };

    fn at(seconds: u64) -> Now {
        let since = Duration::from_secs(seconds);
        Now { server: Timestamp::from_millis(1_800_000_000_000).plus(since), mono: Monotonic::from_start(since) }
    }

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
        pulse.draw(&fresh, at(100));
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
        pulse.draw(&[], at(431));
        assert_eq!(pulse.doubt(), None);
    }
}
