//! Breaks, and the grace after them (E4).
//!
//! Silence counts only while it could have been broken. After an event that may have swallowed heartbeats every entry
//! gets a full threshold; after one that may have cost the hubs their connections, entries last heard before it wait
//! until the hubs had time to reconnect.

use std::time::Duration;

use super::entry::{Monotonic, Now, Timestamp};
use super::memory;
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
    /// The server was no master for a while.
    RoleLost,
    /// It refused everybody: it was loading its data, or a script kept it busy.
    Loading,
    /// The canary is older than the one we wrote: the data went backwards.
    Rollback,
    /// The canary is gone, and with it whatever else was written.
    StateLost,
    /// It refused writes, ours or others', and so heartbeats.
    RefusedWrites,
    /// It could not be looked at for this long.
    OutOfSight(Duration),
    /// We ourselves did not look for this long: stopped, suspended or starved.
    OwnGap(Duration),
    /// Server time moved against ours by this many milliseconds.
    ClockJump(i64),
    /// The first ping after a silence.
    SilenceEnded,
}

/// The name of each break in metrics and logs, and what happened, for a person.
const NAMES: [(&str, &str); 12] = [
    ("first_contact", "first contact"),
    ("restart", "a restart of redis"),
    ("failover", "a failover"),
    ("role_lost", "a time in which redis was no master"),
    ("loading", "a time in which redis was loading or busy and refused everybody"),
    ("rollback", "a rollback of redis' data"),
    ("state_lost", "a loss of redis' data"),
    ("refused_writes", "a time in which redis refused writes"),
    ("out_of_sight", "a time in which the reaper did not see redis"),
    ("own_gap", "a time in which the reaper did not look"),
    ("clock_jump", "a jump of redis' clock"),
    ("silence_ended", "the end of a silence"),
];

impl Break {
    /// Every reason a metric can name.
    pub fn reasons() -> impl Iterator<Item = &'static str> {
        NAMES.into_iter().map(|(reason, _)| reason)
    }

    /// The name in metrics and logs; one of [`Self::reasons`].
    pub const fn reason(&self) -> &'static str {
        NAMES[self.index()].0
    }

    /// What happened, for a person.
    pub const fn in_words(&self) -> &'static str {
        NAMES[self.index()].1
    }

    const fn index(&self) -> usize {
        match self {
            Self::FirstContact => 0,
            Self::Restart => 1,
            Self::Failover => 2,
            Self::RoleLost => 3,
            Self::Loading => 4,
            Self::Rollback => 5,
            Self::StateLost => 6,
            Self::RefusedWrites => 7,
            Self::OutOfSight(_) => 8,
            Self::OwnGap(_) => 9,
            Self::ClockJump(_) => 10,
            Self::SilenceEnded => 11,
        }
    }

    /// Whether the hubs may have lost their connections by it, and need time to come back.
    fn cost_connections(&self, timing: &Timing) -> bool {
        match self {
            Self::Restart | Self::Failover | Self::RoleLost | Self::Rollback | Self::StateLost => true,
            Self::OutOfSight(gap) => *gap > timing.late_after(),
            Self::FirstContact | Self::Loading | Self::RefusedWrites | Self::OwnGap(_) => false,
            Self::ClockJump(_) | Self::SilenceEnded => false,
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
    /// Those of the last threshold.
    outages: Vec<Outage>,
    grace: Option<Grace>,
    reconnect: Option<Reconnect>,
    /// What is over as soon as we see it is: the next look begins with these breaks.
    pending: Vec<Break>,
    /// The last canary that we read or wrote.
    canary: Option<u64>,
    /// Why our own last write was refused, if it was.
    refused: Option<String>,
    /// How many writes of anybody the server had refused by the last look.
    refusals: Option<u64>,
}

/// A time between two looks with a failed one in between.
#[derive(Clone, Copy, Debug)]
struct Outage {
    gap: Duration,
    /// Until when it adds to others.
    until: Monotonic,
}

/// What a grace follows that an earlier process left to us in words we do not know.
const EARLIER: &str = "a break before this process began";

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
        Self {
            timing,
            reconnect_grace,
            last: None,
            missed: false,
            outages: Vec::new(),
            grace: None,
            reconnect: None,
            pending: Vec::new(),
            canary: None,
            refused: None,
            refusals: None,
        }
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

    /// The same after another one, whose source was defined otherwise: the server it saw is no other, so what broke there
    /// or is about to has its grace here too. To entries that are judged anew the next look is a first contact.
    #[must_use]
    pub fn after(self, other: &Self) -> Self {
        let Self { timing, reconnect_grace, .. } = self;
        // Our state may have another place, or be kept no longer.
        let mut after = Self { timing, reconnect_grace, canary: None, refused: None, ..other.clone() };
        if other.refused.is_some() {
            after.suspect(Break::RefusedWrites);
        }
        after.suspect(Break::FirstContact);
        after
    }

    // === looks ===

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
        self.outages.retain(|outage| began < outage.until);
        if let Some((_, last)) = self.last.as_ref().filter(|_| self.missed) {
            self.outages.push(Outage { gap: began.since(last.mono), until: began.plus(self.timing.threshold) });
        }
    }

    /// Takes in trouble that is a break as soon as it is over, which the next successful look tells.
    pub fn suspect(&mut self, one: Break) {
        if self.pending.iter().all(|known| known.reason() != one.reason()) {
            self.pending.push(one);
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
    fn breaks_before(&mut self, identity: &Identity, began: Now) -> Vec<Break> {
        let mut breaks = std::mem::take(&mut self.pending);
        let Some((known, last)) = &self.last else { return vec![Break::FirstContact] };
        if identity.run_id != known.run_id {
            // What another process counted is no news of this one.
            breaks.retain(|one| *one != Break::RefusedWrites);
            breaks.push(Break::Restart);
        } else if identity.replication_id != known.replication_id {
            breaks.push(Break::Failover);
        }
        let gap = began.mono.since(last.mono);
        let planned = self.timing.look_interval();
        let beyond = |gap: Duration| gap.saturating_sub(planned);
        let outages = || self.outages.iter().map(|outage| outage.gap);
        let lost: Duration = outages().map(beyond).sum();
        if lost > self.timing.heartbeat_interval {
            breaks.push(Break::OutOfSight(gap.max(outages().sum())));
        } else if beyond(gap) > self.timing.heartbeat_interval {
            breaks.push(Break::OwnGap(gap));
        }
        breaks.extend(moved(*last, began));
        breaks
    }

    /// When the last look that succeeded ended.
    pub fn last_look(&self) -> Option<Now> {
        self.last.as_ref().map(|(_, now)| *now)
    }

    // === writes ===

    /// Takes in what stands where we, or another reaper, last wrote the canary. It only ever grows, so less than we know
    /// of, or nothing, means that the data went backwards.
    pub fn canary_read(&mut self, found: Option<u64>) {
        match (self.canary, found) {
            (Some(_), None) => self.suspect(Break::StateLost),
            (Some(known), Some(found)) if found < known => self.suspect(Break::Rollback),
            (Some(known), Some(found)) if found > known && self.refused.take().is_some() => {
                // Ours were refused, and somebody else's are not.
                self.suspect(Break::RefusedWrites);
            }
            _ => {}
        }
        self.canary = found;
    }

    /// Takes in that the server took our canary, and made it `value`; says what broke before.
    pub fn canary_written(&mut self, value: u64, now: Now) -> Vec<Break> {
        let mut breaks = Vec::new();
        if let Some(known) = self.canary.filter(|known| value <= *known) {
            breaks.push(if value == 1 && known > 0 { Break::StateLost } else { Break::Rollback });
        }
        if self.refused.take().is_some() {
            breaks.push(Break::RefusedWrites);
        }
        self.canary = Some(value);
        breaks.iter().for_each(|one| self.take_in(*one, now));
        breaks
    }

    /// Takes in that the server refused our canary: as long as that lasts it refuses heartbeats too.
    pub fn canary_refused(&mut self, why: impl Into<String>) {
        self.refused = Some(why.into());
    }

    /// Why silence proves nothing right now: the server refuses writes.
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// Takes in how many writes of anybody the server has refused so far; a count that fell was reset in between.
    pub fn refusals(&mut self, count: u64) {
        let rose = self.refusals.is_some_and(|known| count != known && count > 0);
        self.refusals = Some(count);
        // As long as our own are refused, the break comes at the end of that.
        if rose && self.refused.is_none() {
            self.suspect(Break::RefusedWrites);
        }
    }

    // === graces ===

    fn take_in(&mut self, one: Break, at: Now) {
        let until = at.mono.plus(self.timing.threshold);
        if self.grace.is_none_or(|grace| grace.until <= until) {
            self.grace = Some(Grace { after: one.in_words(), until });
        }
        if one.cost_connections(&self.timing) {
            // One that runs may have begun under a longer setting.
            let running = self.reconnect.map(|running| running.until);
            let until = at.mono.plus(self.reconnect_grace).max(running.unwrap_or_default());
            self.reconnect = Some(Reconnect { before: at.server.plus(FUTURE_TOLERANCE), until });
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

    /// How long the last grace has been over, and the last time that hubs had to reconnect; none of what never was, or is
    /// not over.
    pub fn over_for(&self, now: Monotonic) -> [Option<Duration>; 2] {
        let ends = [self.grace.map(|grace| grace.until), self.reconnect.map(|reconnect| reconnect.until)];
        ends.map(|until| until.filter(|until| *until <= now).map(|until| now.since(until)))
    }

    /// Until when an entry with this last ping is kept by a break; none if it is not.
    pub fn keeps(&self, last_ping: Timestamp, now: Monotonic) -> Option<Monotonic> {
        let waits = self.reconnecting(now).filter(|reconnect| last_ping < reconnect.before).map(|r| r.until);
        self.grace(now).map(|grace| grace.until).max(waits)
    }

    // === what outlives the process ===

    /// What a later process has to know.
    pub fn remember(&self, now: Now) -> memory::Sight {
        let server = |mono| now.server_at(mono);
        memory::Sight {
            grace: self.grace(now.mono).map(|grace| (grace.after.to_owned(), server(grace.until))),
            reconnect: self.reconnecting(now.mono).map(|reconnect| (reconnect.before, server(reconnect.until))),
            outages: self.outages.iter().map(|outage| (outage.gap, server(outage.until))).collect(),
            refusals: self.refusals,
        }
    }

    /// Takes over the graces of an earlier process: whatever has become of the server since, they hold.
    pub fn recall_graces(&mut self, earlier: &memory::Sight, now: Now) {
        if let Some((after, until)) = &earlier.grace {
            let known = NAMES.into_iter().map(|(_, words)| words).chain([YOUNG_SERVER]).find(|words| words == after);
            let grace = Grace { after: known.unwrap_or(EARLIER), until: now.when(*until) };
            self.grace = self.grace.filter(|own| own.until >= grace.until).or(Some(grace));
        }
        if let Some((before, until)) = earlier.reconnect {
            let own = self.reconnect.unwrap_or(Reconnect { before, until: now.when(until) });
            self.reconnect = Some(Reconnect { before: own.before.max(before), until: own.until.max(now.when(until)) });
        }
    }

    /// Goes on from the last look of an earlier process, which saw the process `identity`, as if it had been at `now`.
    /// In the `gap` between the two a look may have failed of which it could not tell any more: that adds to other
    /// outages, and is no break by itself.
    pub fn recall_look(&mut self, identity: Identity, earlier: &memory::Sight, gap: Duration, now: Now) {
        self.last = Some((identity, now));
        self.refusals = earlier.refusals;
        let planned = self.timing.look_interval();
        // Longer ones were breaks, and end with them.
        let outage = |gap: Duration, until| Outage { gap: gap.min(planned + self.timing.heartbeat_interval), until };
        self.outages = earlier.outages.iter().map(|(gap, until)| outage(*gap, now.when(*until))).collect();
        if gap > planned {
            self.outages.push(outage(gap, now.mono.plus(self.timing.threshold)));
        }
    }
}

/// A jump of the server's clock against ours between two readings.
fn moved(from: Now, to: Now) -> Option<Break> {
    let moved = to.server.millis_since(from.at(to.mono).server);
    (Duration::from_millis(moved.unsigned_abs()) > CLOCK_TOLERANCE).then_some(Break::ClockJump(moved))
}

#[cfg(test)]
mod tests {
    use super::super::testing::TIMING;
    use super::*;

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
        let missed = || {
            let mut continuity = seen_at(0.0);
            continuity.missed();
            continuity
        };
        check(missed(), &same, at(60.0), &[], false);
        check(missed(), &same, at(60.001), &[Break::OutOfSight(Duration::from_millis(60_001))], false);
        check(missed(), &same, at(90.001), &[Break::OutOfSight(Duration::from_millis(90_001))], true);
        check(seen_at(0.0), &same, at(90.001), &[Break::OwnGap(Duration::from_millis(90_001))], false);
        for (one, reconnects) in [(Break::RoleLost, true), (Break::Loading, false), (Break::RefusedWrites, false)] {
            let mut continuity = seen_at(0.0);
            continuity.suspect(one);
            continuity.suspect(one);
            check(continuity, &same, at(30.0), &[one], reconnects);
        }
    }

    #[test]
    fn every_break_has_its_name() {
        let all = [
            Break::FirstContact,
            Break::Restart,
            Break::Failover,
            Break::RoleLost,
            Break::Loading,
            Break::Rollback,
            Break::StateLost,
            Break::RefusedWrites,
            Break::OutOfSight(MINUTE),
            Break::OwnGap(MINUTE),
            Break::ClockJump(1),
            Break::SilenceEnded,
        ];
        assert_eq!(all.map(|one| one.reason()).to_vec(), Break::reasons().collect::<Vec<_>>());
    }

    #[test]
    fn g5_a_canary_that_is_older_or_gone_is_a_break() {
        let same = server("a", "a");
        let written = |value| {
            let mut continuity = seen_at(0.0);
            assert_eq!(continuity.canary_written(value, at(1.0)), []);
            continuity
        };
        for (found, expected) in
            [(Some(7), &[][..]), (Some(9), &[]), (Some(6), &[Break::Rollback]), (None, &[Break::StateLost])]
        {
            let mut continuity = written(7);
            continuity.canary_read(found);
            check(continuity, &same, at(30.0), expected, !expected.is_empty());
        }
        for (value, expected) in [(8, &[][..]), (7, &[Break::Rollback]), (1, &[Break::StateLost])] {
            let mut continuity = written(7);
            assert_eq!(continuity.canary_written(value, at(31.0)), expected, "lost while we surveyed");
            assert_eq!(continuity.reconnecting(at(31.0).mono).is_some(), !expected.is_empty());
        }
    }

    #[test]
    fn g11_refused_writes_are_a_break_when_they_end() {
        let mut continuity = seen_at(0.0);
        continuity.canary_refused("OOM");
        continuity.refusals(5);
        continuity.refusals(9);
        assert_eq!(continuity.looked(&server("a", "a"), at(30.0), at(30.0)), [], "not over yet");
        assert_eq!(continuity.refused(), Some("OOM"));
        assert_eq!(continuity.canary_written(1, at(31.0)), [Break::RefusedWrites]);
        assert_eq!(continuity.refused(), None);
        assert_eq!(continuity.grace(at(31.0).mono).map(|grace| grace.until), Some(at(331.0).mono));

        let mut standby = seen_at(0.0);
        standby.canary_read(Some(3));
        standby.canary_refused("OOM");
        standby.canary_read(Some(4));
        check(standby, &server("a", "a"), at(30.0), &[Break::RefusedWrites], false);
    }

    #[test]
    fn g11_writes_of_others_that_were_refused_are_a_break() {
        for (counts, breaks) in
            [(&[4, 4][..], false), (&[4, 5], true), (&[4, 0], false), (&[4, 1], true), (&[4], false)]
        {
            let mut continuity = seen_at(0.0);
            counts.iter().for_each(|count| continuity.refusals(*count));
            let expected: &[Break] = if breaks { &[Break::RefusedWrites] } else { &[] };
            check(continuity, &server("a", "a"), at(30.0), expected, false);
        }
        let mut restarted = seen_at(0.0);
        restarted.refusals(4);
        restarted.refusals(1);
        check(restarted, &server("b", "b"), at(30.0), &[Break::Restart], true);
    }

    #[test]
    fn graces_are_handed_on_in_server_time() {
        let mut earlier = seen_at(0.0);
        earlier.looked(&server("b", "b"), at(30.0), at(30.0));
        let remembered = earlier.remember(at(40.0));
        // Another process, whose clock began ten seconds ago.
        let now = Now { mono: Monotonic::from_start(Duration::from_secs(10)), ..at(50.0) };
        let mut later = Continuity::new(TIMING, MINUTE);
        later.recall_graces(&remembered, now);
        assert_eq!(later.remember(now), remembered);
        assert_eq!(later.grace(now.mono).map(|grace| grace.after), Some("a restart of redis"));

        let mut own = seen_at(0.0);
        own.silence_ended(at(100.0));
        own.recall_graces(&remembered, at(100.0));
        assert_eq!(own.grace(at(100.0).mono).map(|grace| grace.until), Some(at(400.0).mono), "the longer one holds");
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
    fn g5_short_outages_add_up_over_a_restart_of_ours() {
        let outage = |continuity: &mut Continuity, began: f64, seconds: f64| {
            continuity.looked(&server("a", "a"), at(began), at(began));
            continuity.missed();
            continuity.looked(&server("a", "a"), at(began + seconds), at(began + seconds))
        };
        // 15 s beyond the distance of two looks, then a process that goes on after so long, then one more of that kind.
        let over_a_restart = |gap: f64, again: f64| {
            let mut earlier = seen_at(0.0);
            assert_eq!(outage(&mut earlier, 10.0, 45.0), []);
            let mut later = Continuity::new(TIMING, MINUTE);
            let gap = Duration::from_secs_f64(gap);
            later.recall_look(server("a", "a"), &earlier.remember(at(55.0)), gap, at(55.0).at(at(55.0).mono.plus(gap)));
            let began = 55.0 + gap.as_secs_f64();
            let first = later.looked(&server("a", "a"), at(began), at(began));
            let seen = [first, outage(&mut later, again, 45.0)].concat();
            seen.iter().map(Break::reason).collect::<Vec<_>>()
        };
        assert_eq!(over_a_restart(30.0, 85.0), [""; 0], "15 s each");
        assert_eq!(over_a_restart(31.0, 86.0), ["out_of_sight"], "which may have hidden one more");
        assert_eq!(over_a_restart(46.0, 350.0), ["out_of_sight"]);
        assert_eq!(over_a_restart(31.0, 310.0), [""; 0], "the first is forgotten by then");
        let mut alone = Continuity::new(TIMING, MINUTE);
        alone.recall_look(server("a", "a"), &memory::Sight::default(), MINUTE * 2, at(0.0));
        assert_eq!(alone.looked(&server("a", "a"), at(0.0), at(0.0)), [], "no break by itself");
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
