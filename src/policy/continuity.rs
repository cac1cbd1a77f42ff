//! Breaks, and the grace after them (E4).
//!
//! Silence counts only while it could have been broken. After an event that may have swallowed heartbeats every entry
//! gets a full threshold; after one that may have cost the hubs their connections, entries last heard before it wait
//! until the hubs had time to reconnect.

use std::time::Duration;

use super::entry::{Monotonic, Now, Timestamp};
use super::staleness::{FUTURE_TOLERANCE, Timing};

/// Server time may move against our monotonic clock by this much between two looks; Redis Sentinel's TILT uses the same.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(2);

/// Which process answered, and in which role. Promotion changes the replication id and keeps the run id, a restart
/// changes both, so both are compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The process: new at every start.
    pub run_id: String,
    /// The history of its data: new at every promotion.
    pub replication_id: String,
}

/// An event after which silence proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// We see this source for the first time.
    FirstContact,
    /// The server is another process than before.
    Restart,
    /// The same process, but its data follows another history: a failover.
    Failover,
    /// No look succeeded for this long.
    OutOfSight(Duration),
    /// Server time moved against ours by this many milliseconds.
    ClockJump(i64),
    /// The first ping after a silence.
    SilenceEnded,
}

impl Break {
    /// Every reason a metric can name.
    pub const REASONS: [&'static str; 6] =
        ["first_contact", "restart", "failover", "out_of_sight", "clock_jump", "silence_ended"];

    /// The name in metrics and logs; one of [`Self::REASONS`].
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::FirstContact => Self::REASONS[0],
            Self::Restart => Self::REASONS[1],
            Self::Failover => Self::REASONS[2],
            Self::OutOfSight(_) => Self::REASONS[3],
            Self::ClockJump(_) => Self::REASONS[4],
            Self::SilenceEnded => Self::REASONS[5],
        }
    }

    /// What happened, for a person.
    pub const fn in_words(&self) -> &'static str {
        match self {
            Self::FirstContact => "first contact",
            Self::Restart => "a restart of redis",
            Self::Failover => "a failover",
            Self::OutOfSight(_) => "a time in which redis was out of our sight",
            Self::ClockJump(_) => "a jump of redis' clock",
            Self::SilenceEnded => "the end of a silence",
        }
    }
}

/// Entries last heard before `before` wait until `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reconnect {
    /// The break in server time, the future tolerance added: a hub's clock may run ahead by that.
    pub before: Timestamp,
    /// When the hubs had their time.
    pub until: Monotonic,
}

/// What we know of the unbroken sight of one source.
#[derive(Clone, Debug)]
pub struct Continuity {
    timing: Timing,
    reconnect_grace: Duration,
    last: Option<(Identity, Now)>,
    /// A look has failed since the last one that did not.
    missed: bool,
    /// Times between two looks with a failed one in between, of the last threshold, and when they ended.
    outages: Vec<(Monotonic, Duration)>,
    grace: Option<Grace>,
    reconnect: Option<Reconnect>,
}

/// What a single run without memory finds in place of a break.
const YOUNG_SERVER: &str = "a start of redis less than a threshold ago";

/// Nothing of a source goes before `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grace {
    /// What it follows, for a person.
    pub after: &'static str,
    /// A threshold later.
    pub until: Monotonic,
}

impl Continuity {
    /// Nothing seen yet: the first look is a break.
    pub fn new(timing: Timing, reconnect_grace: Duration) -> Self {
        Self { timing, reconnect_grace, last: None, missed: false, outages: Vec::new(), grace: None, reconnect: None }
    }

    /// For a single run without the memory of an earlier one: the server's uptime at `now` stands in for what we would
    /// have seen. Uptime follows the server's wall clock, so it is necessary, not proof.
    pub fn resumed(
        timing: Timing,
        reconnect_grace: Duration,
        identity: Identity,
        now: Now,
        server_uptime: Duration,
    ) -> Self {
        let missing = timing.threshold.saturating_sub(server_uptime);
        let grace = (!missing.is_zero()).then(|| Grace { after: YOUNG_SERVER, until: now.mono.plus(missing) });
        Self { last: Some((identity, now)), grace, ..Self::new(timing, reconnect_grace) }
    }

    /// Takes in a successful look that ran from `began` to `ended` on the process `identity`; says what broke before
    /// or within it.
    pub fn looked(&mut self, identity: &Identity, began: Now, ended: Now) -> Vec<Break> {
        self.take_in_outage(began.mono);
        let mut breaks = self.breaks_before(identity, began);
        for one in &breaks {
            self.take_in(*one, began);
        }
        if let Some(jump) = moved(began, ended) {
            self.take_in(jump, ended);
            breaks.push(jump);
        }
        if !breaks.is_empty() {
            self.outages.clear();
        }
        self.missed = false;
        self.last = Some((identity.clone(), ended));
        breaks
    }

    /// Takes in that a look failed.
    pub fn missed(&mut self) {
        self.missed = true;
    }

    fn take_in_outage(&mut self, began: Monotonic) {
        self.outages.retain(|(ended, _)| began.since(*ended) < self.timing.threshold);
        if let Some((_, last)) = self.last.as_ref().filter(|_| self.missed) {
            self.outages.push((began, began.since(last.mono)));
        }
    }

    /// Takes in that a source spoke again after a silence.
    pub fn silence_ended(&mut self, now: Now) {
        self.take_in(Break::SilenceEnded, now);
    }

    /// Out of sight is a heartbeat interval beyond the planned distance of two looks. A shorter gap on the same process is no
    /// break: the threshold holds five heartbeats or more, and one late reply now and then must not stop all eviction. What
    /// the gaps with a failed look in them went beyond that distance adds up over a threshold: a ping may have met each of
    /// many short outages.
    fn breaks_before(&self, identity: &Identity, began: Now) -> Vec<Break> {
        let Some((known, last)) = &self.last else { return vec![Break::FirstContact] };
        let mut breaks = Vec::new();
        if identity.run_id != known.run_id {
            breaks.push(Break::Restart);
        } else if identity.replication_id != known.replication_id {
            breaks.push(Break::Failover);
        }
        let gap = began.mono.since(last.mono);
        let planned = self.timing.survey_interval();
        let beyond = |gap: Duration| gap.saturating_sub(planned);
        let outages = || self.outages.iter().map(|(_, gap)| *gap);
        if beyond(gap).max(outages().map(beyond).sum()) > self.timing.heartbeat_interval {
            breaks.push(Break::OutOfSight(gap.max(outages().sum())));
        }
        breaks.extend(moved(*last, began));
        breaks
    }

    fn take_in(&mut self, one: Break, at: Now) {
        let until = at.mono.plus(self.timing.threshold);
        if self.grace.is_none_or(|grace| grace.until <= until) {
            self.grace = Some(Grace { after: one.in_words(), until });
        }
        let cost_connections = match one {
            Break::Restart | Break::Failover => true,
            Break::OutOfSight(gap) => gap > self.timing.late_after(),
            Break::FirstContact | Break::ClockJump(_) | Break::SilenceEnded => false,
        };
        if cost_connections {
            let reconnect =
                Reconnect { before: at.server.plus(FUTURE_TOLERANCE), until: at.mono.plus(self.reconnect_grace) };
            self.reconnect = Some(reconnect);
        }
    }

    /// The grace that keeps everything, if `now` is within the threshold after a break.
    pub fn grace(&self, now: Monotonic) -> Option<Grace> {
        self.grace.filter(|grace| now < grace.until)
    }

    /// Whose hubs are still being waited for.
    pub fn reconnecting(&self, now: Monotonic) -> Option<Reconnect> {
        self.reconnect.filter(|reconnect| now < reconnect.until)
    }

    /// Until when an entry with this last ping is kept by a break; none if it is not.
    pub fn keeps(&self, last_ping: Timestamp, now: Monotonic) -> Option<Monotonic> {
        let waits = self.reconnecting(now).filter(|reconnect| last_ping < reconnect.before).map(|r| r.until);
        self.grace(now).map(|grace| grace.until).max(waits)
    }
}

/// A jump of the server's clock against ours between two readings.
fn moved(from: Now, to: Now) -> Option<Break> {
    let moved = to.server.millis_since(from.at(to.mono).server);
    (Duration::from_millis(moved.unsigned_abs()) > CLOCK_TOLERANCE).then_some(Break::ClockJump(moved))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: Timing = Timing { threshold: Duration::from_secs(300), heartbeat_interval: Duration::from_secs(30) };
    const MINUTE: Duration = Duration::from_secs(60);

    fn at(seconds: f64) -> Now {
        let since = Duration::from_secs_f64(seconds);
        Now { server: Timestamp::from_millis(1_800_000_000_000).plus(since), mono: Monotonic::from_start(since) }
    }

    fn server(run: &str, replication: &str) -> Identity {
        Identity { run_id: run.into(), replication_id: replication.into() }
    }

    fn seen_at(seconds: f64) -> Continuity {
        let mut continuity = Continuity::new(TIMING, MINUTE * 15);
        continuity.looked(&server("a", "a"), at(seconds), at(seconds));
        continuity
    }

    #[track_caller]
    fn check(mut continuity: Continuity, identity: &Identity, now: Now, expected: &[Break], reconnects: bool) {
        assert_eq!(continuity.looked(identity, now, now), expected);
        assert_eq!(continuity.reconnecting(now.mono).is_some(), reconnects);
        if !expected.is_empty() {
            assert_eq!(continuity.grace(now.mono).map(|grace| grace.until), Some(now.mono.plus(TIMING.threshold)));
        }
    }

    #[test]
    fn g5_each_break_is_known_by_what_differs() {
        let same = server("a", "a");
        check(Continuity::new(TIMING, MINUTE), &same, at(0.0), &[Break::FirstContact], false);
        check(seen_at(0.0), &same, at(30.0), &[], false);
        check(seen_at(0.0), &server("b", "b"), at(30.0), &[Break::Restart], true);
        check(seen_at(0.0), &server("a", "b"), at(30.0), &[Break::Failover], true);
        check(seen_at(0.0), &same, at(60.0), &[], false);
        check(seen_at(0.0), &same, at(60.001), &[Break::OutOfSight(Duration::from_millis(60_001))], false);
        check(seen_at(0.0), &same, at(90.001), &[Break::OutOfSight(Duration::from_millis(90_001))], true);
    }

    #[test]
    fn g5_short_outages_of_one_threshold_add_up() {
        // The last look before each outage lies so long before its end.
        let outages = |distance: f64, gap: f64, count: u32| {
            let mut continuity = seen_at(0.0);
            let breaks = (1..=count).map(|n| {
                let ended = at(f64::from(n) * distance);
                let begins = at(f64::from(n) * distance - gap);
                continuity.looked(&server("a", "a"), begins, begins);
                continuity.missed();
                continuity.looked(&server("a", "a"), ended, ended)
            });
            breaks.flatten().collect::<Vec<_>>()
        };
        let break_of = |seconds| Break::OutOfSight(Duration::from_secs(seconds));
        assert_eq!(outages(60.0, 45.0, 2), [], "15 s each beyond the distance of two looks");
        assert_eq!(outages(60.0, 45.0, 3), [break_of(135)]);
        assert_eq!(outages(60.0, 45.0, 5), [break_of(135)], "counted anew after a break");
        assert_eq!(outages(150.0, 45.0, 20), [], "two in a threshold");
        assert_eq!(outages(60.0, 31.0, 100), [], "a reply that stalls now and then");
        assert_eq!(outages(100.0, 60.0, 1), [], "one is no break");
    }

    #[test]
    fn g5_a_clock_that_moves_against_ours_is_a_break_both_ways() {
        for (moved, breaks) in [(2_000, false), (2_001, true), (-2_000, false), (-2_001, true), (-600_000, true)] {
            let now = at(30.0);
            let now = Now { server: Timestamp::from_millis(now.server.millis() + moved), ..now };
            let expected: &[Break] = if breaks { &[Break::ClockJump(moved)] } else { &[] };
            check(seen_at(0.0), &server("a", "a"), now, expected, false);
        }
    }

    #[test]
    fn g5_a_clock_that_moves_within_a_survey_is_a_break() {
        let mut continuity = seen_at(0.0);
        let ended = Now { server: at(640.0).server, mono: at(40.0).mono };
        assert_eq!(continuity.looked(&server("a", "a"), at(30.0), ended), [Break::ClockJump(600_000)]);
        let later = Now { server: at(670.0).server, mono: at(70.0).mono };
        assert_eq!(continuity.looked(&server("a", "a"), later, later), [], "once");
    }

    #[test]
    fn g5_the_grace_lasts_a_threshold_for_everybody() {
        let continuity = seen_at(0.0);
        let old = Timestamp::from_millis(0);
        assert_eq!(continuity.keeps(old, at(299.999).mono), Some(at(300.0).mono));
        assert_eq!(continuity.keeps(old, at(300.0).mono), None);
    }

    #[test]
    fn g5_entries_last_heard_before_a_restart_wait_for_their_hubs() {
        let mut continuity = seen_at(0.0);
        continuity.looked(&server("b", "b"), at(30.0), at(30.0));
        let before = at(89.999).server;
        let after = at(90.0).server;
        assert_eq!(continuity.keeps(before, at(400.0).mono), Some(at(930.0).mono), "within the future tolerance");
        assert_eq!(continuity.keeps(after, at(400.0).mono), None, "heard after the break");
        assert_eq!(continuity.keeps(before, at(930.0).mono), None);
    }

    #[test]
    fn a_later_break_never_shortens_a_running_grace() {
        let mut continuity = seen_at(0.0);
        continuity.looked(&server("b", "b"), at(30.0), at(30.0));
        continuity.silence_ended(at(40.0));
        assert_eq!(continuity.grace(at(41.0).mono).map(|grace| grace.until), Some(at(340.0).mono));
        assert!(continuity.reconnecting(at(41.0).mono).is_some());
    }

    #[test]
    fn a_single_run_leans_on_the_uptime() {
        let resumed = |uptime| Continuity::resumed(TIMING, MINUTE, server("a", "a"), at(0.0), uptime);
        assert_eq!(resumed(TIMING.threshold).grace(at(0.0).mono), None);
        assert_eq!(resumed(MINUTE).grace(at(0.0).mono).map(|grace| grace.until), Some(at(240.0).mono));
    }
}
