//! Whether Redis stores what hubs want stored, concluded from what our own requests met: nobody is asked for it.
//!
//! A hub may refuse new connections on this word, so it condemns Redis only for what Redis does to everybody. Whatever
//! may be our own trouble (a password, a permission, a key of another type) says nothing about Redis.

use std::collections::HashMap;
use std::time::Duration;

use super::error::{Error, Kind};
use crate::policy::entry::Monotonic;

/// What is known of Redis; the word in `/redis`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Nothing: not asked yet, or the trouble is our own.
    #[default]
    Unknown,
    /// It answers, and nothing speaks against its taking writes.
    Ok,
    /// No answer in two looks in a row.
    Failing,
    /// It is loading its data, and refuses everybody until it has.
    Loading,
    /// It is a replica.
    ReadOnly,
    /// It is out of memory, and refuses writes.
    Oom,
    /// It could not save, and refuses writes.
    Misconf,
    /// It has too few replicas, and refuses writes.
    NoReplicas,
}

impl State {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Ok => "ok",
            Self::Failing => "failing",
            Self::Loading => "loading",
            Self::ReadOnly => "readonly",
            Self::Oom => "oom",
            Self::Misconf => "misconf",
            Self::NoReplicas => "noreplicas",
        }
    }

    /// Whether presence can't be stored now, by nobody.
    pub const fn is_down(self) -> bool {
        !matches!(self, Self::Unknown | Self::Ok)
    }
}

/// What is known of Redis, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The word.
    pub state: State,
    /// A sentence; none if all is well.
    pub reason: Option<String>,
    /// Since when it is down, as far as we saw; none if it is not.
    pub since: Option<Monotonic>,
}

/// Refused commands of the last so long stand for the present, unless what made Redis refuse them is gone: hubs write
/// at every heartbeat, so quiet for longer means that nobody is refused any more.
const LATELY: Duration = Duration::from_secs(60);

/// So many looks in a row without an answer: one is a connection that an idle timer closed, or a slow moment.
const LOOKS: u32 = 2;

// === what a look reads ===

/// Codes of refused commands that Redis counts, in the order in which it checks what they stand for.
const COUNTED: [&str; 3] = ["OOM", "MISCONF", "NOREPLICAS"];

/// What `INFO` says about refusing commands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Refusals {
    run_id: String,
    loading: bool,
    memory: Option<Memory>,
    /// The append-only file can't be written: writes are refused for certain.
    append_only_failed: bool,
    /// The last snapshot failed: writes are refused if there are save points and `stop-writes-on-bgsave-error` is set,
    /// which only CONFIG could tell.
    snapshot_failed: bool,
    /// Replicas that keep up; told only where some number of them is demanded.
    good_replicas: Option<u64>,
    /// Refused commands of anybody since the start or the last reset, by [`COUNTED`].
    refused: [u64; COUNTED.len()],
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Memory {
    used: u64,
    limit: u64,
    policy: String,
}

impl Memory {
    fn is_full(&self) -> bool {
        self.limit > 0 && self.used > self.limit
    }
}

/// Refused writes of anybody since the start or the last reset; those to a replica too, which this server may have been.
pub(super) fn refused_writes(facts: &HashMap<String, String>) -> u64 {
    COUNTED.iter().chain(&["READONLY"]).filter_map(|code| refused(facts, code)).sum()
}

fn refused(facts: &HashMap<String, String>, code: &str) -> Option<u64> {
    let counted = facts.get(&format!("errorstat_{code}"))?;
    counted.strip_prefix("count=")?.split(',').next()?.parse().ok()
}

impl Refusals {
    pub(super) fn read(facts: &HashMap<String, String>) -> Self {
        let is = |name: &str, value: &str| facts.get(name).is_some_and(|found| found == value);
        let number = |name: &str| facts.get(name).and_then(|text| text.parse::<u64>().ok());
        let memory = || {
            // Redis lets buffers for replicas and for the append-only file go over the limit.
            let used = number("used_memory")?.saturating_sub(number("mem_not_counted_for_evict").unwrap_or(0));
            Some(Memory { used, limit: number("maxmemory")?, policy: facts.get("maxmemory_policy")?.clone() })
        };
        Self {
            run_id: facts.get("run_id").cloned().unwrap_or_default(),
            loading: is("loading", "1"),
            memory: memory(),
            append_only_failed: is("aof_enabled", "1") && is("aof_last_write_status", "err"),
            snapshot_failed: is("rdb_last_bgsave_status", "err"),
            good_replicas: number("min_slaves_good_slaves"),
            refused: COUNTED.map(|code| refused(facts, code).unwrap_or(0)),
        }
    }

    /// Whether commands were refused for each of [`COUNTED`] since `before`.
    fn rose_since(&self, before: &Self) -> [bool; COUNTED.len()] {
        let mut pairs = self.refused.into_iter().zip(before.refused);
        // A count that fell was reset in between.
        [(); COUNTED.len()]
            .map(|()| pairs.next().is_some_and(|(now, then)| if now < then { now > 0 } else { now > then }))
    }

    /// Whether what makes Redis refuse commands with each of [`COUNTED`] stands; once it is gone, so are the refusals.
    fn may_refuse(&self) -> [bool; COUNTED.len()] {
        [self.memory.as_ref().is_none_or(Memory::is_full), self.snapshot_failed, self.good_replicas.is_some()]
    }

    /// Why writes are refused, if they are. `lately`: commands were, for each of [`COUNTED`].
    fn verdict(&self, [oom, misconf, no_replicas]: [bool; COUNTED.len()]) -> Option<(State, String)> {
        if self.loading {
            return Some((State::Loading, "it is still loading its data".into()));
        }
        let refused = |code: &str| format!("commands were refused with {code} lately");
        match &self.memory {
            Some(memory) if memory.is_full() && (oom || memory.policy == "noeviction") => {
                let Memory { used, limit, policy } = memory;
                let why =
                    format!("it uses {used} bytes of maxmemory {limit}, and maxmemory_policy {policy} frees none");
                return Some((State::Oom, why));
            }
            None if oom => return Some((State::Oom, refused("OOM"))),
            _ => {}
        }
        if self.append_only_failed {
            return Some((State::Misconf, "it can't write its append-only file".into()));
        }
        if self.snapshot_failed && misconf {
            return Some((State::Misconf, format!("its last snapshot failed, and {}", refused("MISCONF"))));
        }
        match self.good_replicas {
            Some(0) => Some((State::NoReplicas, "it demands replicas, and none keeps up".into())),
            Some(good) if no_replicas => {
                Some((State::NoReplicas, format!("{good} of its replicas keep up, and {}", refused("NOREPLICAS"))))
            }
            _ => None,
        }
    }
}

// === what is concluded ===

/// Draws the conclusion, one observation after the other.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    standing: Standing,
    missed: Option<Missed>,
    last: Option<Refusals>,
    rose: [Option<Monotonic>; COUNTED.len()],
    refused: Option<Monotonic>,
}

/// Looks in a row that brought no answer.
#[derive(Clone, Copy, Debug)]
struct Missed {
    looks: u32,
    first: Monotonic,
    last: Monotonic,
}

impl Tracker {
    /// What is known by now.
    pub(super) fn standing(&self) -> Standing {
        if self.standing == Standing::default() {
            let reason = Some("redis has not been asked yet".into());
            return Standing { reason, ..Standing::default() };
        }
        self.standing.clone()
    }

    /// Something came back, be it an error: Redis is there.
    pub(super) fn answered(&mut self) {
        self.missed = None;
    }

    /// A dial or a request that began at `began` failed at `now`.
    pub(super) fn failed(&mut self, began: Monotonic, now: Monotonic, error: &Error) {
        let code = error.detail().split(' ').next().unwrap_or_default();
        match error.kind {
            Kind::Connect | Kind::Timeout => self.missed(began, now, error),
            Kind::Loading if code == "LOADING" => self.refused(State::Loading, now, error),
            // BUSY: a script runs for so long that nobody is served meanwhile.
            Kind::Loading => self.missed(began, now, error),
            Kind::ReadOnly if code == "MISCONF" => self.refused(State::Misconf, now, error),
            Kind::ReadOnly if code == "NOREPLICAS" => self.refused(State::NoReplicas, now, error),
            Kind::ReadOnly => self.refused(State::ReadOnly, now, error),
            Kind::Oom => self.refused(State::Oom, now, error),
            Kind::Auth | Kind::Tls | Kind::Cluster | Kind::Permission | Kind::WrongType | Kind::Other => {
                self.troubled(error)
            }
        }
    }

    /// Who is there was asked and told; `refusals` is none where `INFO` is denied.
    pub(super) fn looked(&mut self, refusals: Option<Refusals>, now: Monotonic) {
        self.missed = None;
        let Some(refusals) = refusals else {
            // Then only our own writes can tell, and what they met.
            if self.refused.is_none_or(|at| now.since(at) > LATELY) {
                let why = "INFO is denied to the reaper's user, so what redis refuses can't be seen";
                self.settle(State::Unknown, Some(why.into()), None);
            }
            return;
        };
        if let Some(last) = self.last.as_ref().filter(|last| last.run_id == refusals.run_id) {
            for (rose, at) in refusals.rose_since(last).into_iter().zip(&mut self.rose) {
                *at = if rose { Some(now) } else { *at };
            }
        } else {
            // What another process counted, or this one before we came, may be long past.
            self.rose = Default::default();
        }
        for (still, at) in refusals.may_refuse().into_iter().zip(&mut self.rose) {
            *at = at.filter(|_| still);
        }
        let lately = self.rose.map(|at| at.is_some_and(|at| now.since(at) <= LATELY));
        match refusals.verdict(lately) {
            Some((state, why)) => self.settle(state, Some(why), Some(now)),
            None => self.settle(State::Ok, None, None),
        }
        self.last = Some(refusals);
    }

    fn missed(&mut self, began: Monotonic, now: Monotonic, error: &Error) {
        let missed = match self.missed {
            None => Missed { looks: 1, first: now, last: now },
            // Requests that were on their way together met the same moment: they are one look.
            Some(missed) if began < missed.last => missed,
            Some(missed) => Missed { looks: missed.looks.saturating_add(1), last: now, ..missed },
        };
        self.missed = Some(missed);
        if missed.looks >= LOOKS {
            self.settle(State::Failing, Some(format!("no answer in two looks in a row: {error}")), Some(missed.first));
        } else if self.standing.state == State::Unknown {
            self.settle(State::Unknown, Some(format!("no answer in one look: {error}")), None);
        }
    }

    fn refused(&mut self, state: State, now: Monotonic, error: &Error) {
        self.missed = None;
        self.refused = Some(now);
        self.settle(state, Some(error.to_string()), Some(now));
    }

    fn troubled(&mut self, error: &Error) {
        self.missed = None;
        self.settle(State::Unknown, Some(error.to_string()), None);
    }

    /// A state that lasts began when it was first seen.
    fn settle(&mut self, state: State, reason: Option<String>, since: Option<Monotonic>) {
        let since = if self.standing.state == state { self.standing.since.or(since) } else { since };
        self.standing = Standing { state, reason, since };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Monotonic {
        Monotonic::from_start(Duration::from_secs(seconds))
    }

    fn error(kind: Kind, detail: &str) -> Error {
        Error::new(kind, "looking", "h:1", detail)
    }

    fn facts(lines: &str) -> HashMap<String, String> {
        let pairs = lines.split_whitespace().filter_map(|line| line.split_once(':'));
        let all = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        all.chain([("run_id".to_owned(), "a".to_owned())]).collect()
    }

    /// Looks every ten seconds, and what each made of it.
    #[track_caller]
    fn check(looks: &[(&str, State)]) {
        let mut tracker = Tracker::default();
        for (n, (info, expected)) in looks.iter().enumerate() {
            tracker.looked(Some(Refusals::read(&facts(info))), at(n as u64 * 10));
            assert_eq!(tracker.standing().state, *expected, "look {n}: {info}");
        }
    }

    #[test]
    fn two_looks_in_a_row_without_an_answer_are_a_failure_and_one_is_not() {
        let mut tracker = Tracker::default();
        let miss = error(Kind::Timeout, "no answer in time");
        assert_eq!(tracker.standing().reason.as_deref(), Some("redis has not been asked yet"));
        tracker.looked(Some(Refusals::default()), at(0));
        tracker.failed(at(1), at(2), &miss);
        assert_eq!(tracker.standing().state, State::Ok, "one");
        tracker.failed(at(1), at(3), &miss);
        assert_eq!(tracker.standing().state, State::Ok, "two requests of one moment are one look");
        tracker.answered();
        tracker.failed(at(4), at(5), &miss);
        assert_eq!(tracker.standing().state, State::Ok, "not in a row");
        tracker.failed(at(6), at(7), &error(Kind::Connect, "refused"));
        assert_eq!((tracker.standing().state, tracker.standing().since), (State::Failing, Some(at(5))));
        tracker.failed(at(8), at(9), &miss);
        assert_eq!(tracker.standing().since, Some(at(5)), "since the first");
        tracker.looked(Some(Refusals::default()), at(10));
        assert_eq!(tracker.standing(), Standing { state: State::Ok, reason: None, since: None });
    }

    #[test]
    fn errors_are_told_apart_by_whose_trouble_they_are() {
        let table = [
            (Kind::Auth, "WRONGPASS invalid", State::Unknown),
            (Kind::Permission, "NOPERM no", State::Unknown),
            (Kind::WrongType, "WRONGTYPE no", State::Unknown),
            (Kind::Cluster, "MOVED 1 h:2", State::Unknown),
            (Kind::Other, "ERR DB index is out of range", State::Unknown),
            (Kind::Loading, "LOADING Redis is loading", State::Loading),
            (Kind::ReadOnly, "READONLY no", State::ReadOnly),
            (Kind::ReadOnly, "its role is slave, not master", State::ReadOnly),
            (Kind::ReadOnly, "MASTERDOWN no", State::ReadOnly),
            (Kind::ReadOnly, "MISCONF no", State::Misconf),
            (Kind::ReadOnly, "NOREPLICAS no", State::NoReplicas),
            (Kind::Oom, "OOM no", State::Oom),
        ];
        for (kind, detail, expected) in table {
            let mut tracker = Tracker::default();
            tracker.failed(at(0), at(1), &error(kind, detail));
            let standing = tracker.standing();
            assert_eq!((standing.state, standing.since.is_some()), (expected, expected.is_down()), "{detail}");
            assert!(standing.reason.is_some_and(|reason| reason.contains(detail)), "{detail}");
        }
        let mut tracker = Tracker::default();
        tracker.failed(at(0), at(1), &error(Kind::Loading, "BUSY a script runs"));
        assert_eq!(tracker.standing().state, State::Unknown, "a script that runs long is a look without an answer");
        tracker.failed(at(2), at(3), &error(Kind::Loading, "BUSY a script runs"));
        assert_eq!(tracker.standing().state, State::Failing);
    }

    #[test]
    fn memory_over_its_limit_refuses_where_nothing_is_freed() {
        let full = "used_memory:11 maxmemory:10 maxmemory_policy:noeviction";
        check(&[("used_memory:10 maxmemory:10 maxmemory_policy:noeviction", State::Ok), (full, State::Oom)]);
        check(&[("used_memory:11 maxmemory:0 maxmemory_policy:noeviction", State::Ok)]);
        check(&[(&format!("{full} mem_not_counted_for_evict:1"), State::Ok)]);
        let lru = "used_memory:11 maxmemory:10 maxmemory_policy:volatile-lru";
        let refused = format!("{lru} errorstat_OOM:count=3");
        check(&[(lru, State::Ok), (&refused, State::Oom), (&refused, State::Oom)]);
        let freed = "used_memory:9 maxmemory:10 maxmemory_policy:volatile-lru errorstat_OOM:count=3";
        check(&[(lru, State::Ok), (&refused, State::Oom), (freed, State::Ok), (&refused, State::Ok)]);
        check(&[(lru, State::Ok), (&refused, State::Oom), ("errorstat_OOM:count=3", State::Oom)]);
    }

    #[test]
    fn a_failed_snapshot_counts_while_it_makes_writes_fail() {
        let quiet = "rdb_last_bgsave_status:err";
        let refused = "rdb_last_bgsave_status:err errorstat_MISCONF:count=2";
        let saved = "rdb_last_bgsave_status:ok errorstat_MISCONF:count=2";
        check(&[(quiet, State::Ok), (refused, State::Misconf), (refused, State::Misconf), (saved, State::Ok)]);
        check(&[(refused, State::Ok)]);
        let reset = "rdb_last_bgsave_status:err errorstat_MISCONF:count=1";
        check(&[(refused, State::Ok), (quiet, State::Ok), (reset, State::Misconf)]);
        let mut looks = vec![(quiet, State::Ok), (refused, State::Misconf)];
        looks.extend([(refused, State::Misconf); 6]);
        looks.push((refused, State::Ok));
        check(&looks);
        check(&[("aof_enabled:1 aof_last_write_status:err", State::Misconf)]);
        check(&[("aof_enabled:0 aof_last_write_status:err", State::Ok)]);
    }

    #[test]
    fn replicas_that_are_demanded_and_missing_refuse() {
        check(&[("min_slaves_good_slaves:0", State::NoReplicas), ("min_slaves_good_slaves:1", State::Ok)]);
        let refused = "min_slaves_good_slaves:1 errorstat_NOREPLICAS:count=1";
        check(&[("min_slaves_good_slaves:1", State::Ok), (refused, State::NoReplicas)]);
        check(&[("connected_slaves:0", State::Ok), ("errorstat_NOREPLICAS:count=1", State::Ok)]);
    }

    #[test]
    fn what_another_process_counted_is_no_news() {
        let mut tracker = Tracker::default();
        let full = "used_memory:11 maxmemory:10 maxmemory_policy:volatile-lru";
        tracker.looked(Some(Refusals::read(&facts(full))), at(0));
        let other = Refusals { run_id: "b".into(), ..Refusals::read(&facts(&format!("{full} errorstat_OOM:count=9"))) };
        tracker.looked(Some(other), at(1));
        assert_eq!(tracker.standing().state, State::Ok);
    }

    #[test]
    fn where_info_is_denied_only_our_own_writes_can_tell() {
        let mut tracker = Tracker::default();
        tracker.looked(None, at(0));
        assert_eq!(tracker.standing().state, State::Unknown);
        tracker.failed(at(1), at(2), &error(Kind::Oom, "OOM no"));
        tracker.looked(None, at(60));
        assert_eq!(tracker.standing().state, State::Oom);
        tracker.looked(None, at(63));
        assert_eq!(tracker.standing().state, State::Unknown);
    }
}
