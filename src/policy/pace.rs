//! How many, how fast (E8): a speed limit that bounds what a mistake can do and never blocks for long.

use std::collections::VecDeque;
use std::time::Duration;

use super::entry::Monotonic;

/// The least number of evictions a heartbeat interval allows, so that small sources are not slowed.
const SMALL: u64 = 50;

/// The share of a source that may go within a heartbeat interval: one in five.
const SHARE: u64 = 5;

/// Evictions within one span of time, at most so many.
#[derive(Clone, Debug)]
struct Window {
    span: Duration,
    spent: VecDeque<(Monotonic, u64)>,
}

impl Window {
    fn new(span: Duration) -> Self {
        Self { span, spent: VecDeque::new() }
    }

    fn used(&mut self, now: Monotonic) -> u64 {
        while self.spent.front().is_some_and(|(at, _)| now.since(*at) >= self.span) {
            self.spent.pop_front();
        }
        self.spent.iter().map(|(_, count)| count).sum()
    }

    fn spend(&mut self, now: Monotonic, count: u64) {
        match self.spent.back_mut() {
            Some((at, spent)) if *at == now => *spent += count,
            _ => self.spent.push_back((now, count)),
        }
    }

    /// When the oldest spending is forgotten.
    fn frees_at(&self) -> Option<Monotonic> {
        self.spent.front().map(|(at, _)| at.plus(self.span))
    }
}

/// At most so many evictions in any one second.
#[derive(Clone, Debug)]
pub struct Rate {
    per_second: Option<u32>,
    window: Window,
}

impl Rate {
    /// A limit a second; `None` is unlimited.
    pub fn new(per_second: Option<u32>) -> Self {
        Self { per_second, window: Window::new(Duration::from_secs(1)) }
    }

    /// From now on another limit holds; what went counts against it.
    pub fn limit(&mut self, per_second: Option<u32>) {
        self.per_second = per_second;
    }

    /// How many may go now.
    pub fn allowance(&mut self, now: Monotonic) -> u64 {
        let limit = self.per_second.map_or(u64::MAX, u64::from);
        limit.saturating_sub(self.window.used(now))
    }

    /// Takes note that `count` went.
    pub fn spend(&mut self, now: Monotonic, count: u64) {
        if count > 0 {
            self.window.spend(now, count);
        }
    }

    /// When more may go, if none may now.
    pub fn frees_at(&self) -> Option<Monotonic> {
        self.window.frees_at()
    }
}

/// What all sources of a process share: the rate, and in a single run how many may go at all.
///
/// A strike reserves before it is sent and settles afterwards: strikes at the same moment must not each take the whole.
#[derive(Clone, Debug)]
pub struct Shared {
    rate: Rate,
    left: Option<u64>,
    reserved: u64,
}

impl Shared {
    /// So many a second, and at most `max` in all; `None` is unlimited.
    pub fn new(per_second: Option<u32>, max: Option<u64>) -> Self {
        Self { rate: Rate::new(per_second), left: max, reserved: 0 }
    }

    /// From now on another rate holds; what went counts against it.
    pub fn limit(&mut self, per_second: Option<u32>) {
        self.rate.limit(per_second);
    }

    /// How many may go now.
    pub fn allowance(&mut self, now: Monotonic) -> u64 {
        self.rate.allowance(now).min(self.left.unwrap_or(u64::MAX)).saturating_sub(self.reserved)
    }

    /// Sets aside what a strike of `count` may use up; no more than the allowance.
    pub fn reserve(&mut self, count: u64) {
        self.reserved += count;
    }

    /// Takes note that of `reserved` entries `count` went.
    pub fn settle(&mut self, now: Monotonic, reserved: u64, count: u64) {
        self.reserved = self.reserved.saturating_sub(reserved);
        self.rate.spend(now, count);
        self.left = self.left.map(|left| left.saturating_sub(count));
    }

    /// When more may go, if none may at `now`.
    pub fn frees_at(&mut self, now: Monotonic) -> Monotonic {
        if self.allowance(now) > 0 { now } else { self.rate.frees_at().unwrap_or(now) }
    }

    /// Whether as many went as were to go in all.
    pub fn is_spent(&self) -> bool {
        self.left == Some(0)
    }
}

/// The pace of one source: a rate, and a share of the source in any heartbeat interval.
#[derive(Clone, Debug)]
pub struct Pace {
    rate: Rate,
    share: Window,
    unlimited: bool,
}

impl Pace {
    /// The pace for a source whose hubs ping every `heartbeat_interval`.
    pub fn new(per_second: Option<u32>, heartbeat_interval: Duration) -> Self {
        Self { rate: Rate::new(per_second), share: Window::new(heartbeat_interval), unlimited: per_second.is_none() }
    }

    /// From now on another rate holds; what went counts against it.
    pub fn limit(&mut self, per_second: Option<u32>) {
        self.rate.limit(per_second);
        self.unlimited = per_second.is_none();
    }

    /// How many may go now, given how many entries the last survey saw.
    pub fn allowance(&mut self, now: Monotonic, population: u64) -> u64 {
        if self.unlimited {
            return u64::MAX;
        }
        let share = SMALL.max(population / SHARE).saturating_sub(self.share.used(now));
        share.min(self.rate.allowance(now))
    }

    /// Takes note that `count` went.
    pub fn spend(&mut self, now: Monotonic, count: u64) {
        if count > 0 {
            self.rate.spend(now, count);
            self.share.spend(now, count);
        }
    }

    /// Takes note that somebody else may have used up everything.
    pub fn exhaust(&mut self, now: Monotonic, population: u64) {
        if !self.unlimited {
            let left = SMALL.max(population / SHARE).saturating_sub(self.share.used(now));
            self.share.spend(now, left);
        }
    }

    /// When more may go, if none may at `now`.
    pub fn frees_at(&mut self, now: Monotonic, population: u64) -> Monotonic {
        if self.allowance(now, population) > 0 {
            return now;
        }
        let frees = if self.rate.allowance(now) == 0 { self.rate.frees_at() } else { self.share.frees_at() };
        frees.unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Monotonic {
        Monotonic::from_start(Duration::from_millis(millis))
    }

    #[test]
    fn g8_no_second_sees_more_than_the_rate_and_no_heartbeat_more_than_the_share() {
        let heartbeat = Duration::from_secs(30);
        let mut pace = Pace::new(Some(500), heartbeat);
        let mut went = Vec::new();
        for millis in (0..120_000).step_by(50) {
            let count = pace.allowance(at(millis), 10_000).min(120);
            pace.spend(at(millis), count);
            went.push((millis, count));
        }
        let most_in = |span: u64| {
            let within = |start: u64| went.iter().filter(move |(t, _)| *t >= start && *t < start + span);
            went.iter().map(|(start, _)| within(*start).map(|(_, count)| count).sum::<u64>()).max()
        };
        assert_eq!(most_in(1_000), Some(500));
        assert_eq!(most_in(30_000), Some(2_000), "a fifth of ten thousand");
    }

    #[test]
    fn g8_a_small_source_is_not_slowed() {
        let mut pace = Pace::new(Some(500), Duration::from_secs(30));
        assert_eq!(pace.allowance(at(0), 3), 50);
        pace.spend(at(0), 50);
        assert_eq!(pace.allowance(at(29_999), 3), 0);
        assert_eq!(pace.frees_at(at(29_999), 3), at(30_000));
        assert_eq!(pace.allowance(at(30_000), 3), 50);
    }

    #[test]
    fn g8_what_is_reserved_is_nobody_elses() {
        let mut shared = Shared::new(Some(500), Some(600));
        assert_eq!(shared.allowance(at(0)), 500);
        shared.reserve(200);
        assert_eq!(shared.allowance(at(0)), 300);
        shared.settle(at(10), 200, 150);
        assert_eq!(shared.allowance(at(10)), 350, "what was not used is free again");
        assert_eq!(shared.frees_at(at(10)), at(10));
        shared.reserve(350);
        shared.settle(at(20), 350, 350);
        assert_eq!((shared.allowance(at(20)), shared.frees_at(at(20))), (0, at(1_010)));
        assert_eq!(shared.allowance(at(1_020)), 100, "of six hundred in all");
        shared.settle(at(1_020), 0, 100);
        assert!(shared.is_spent());
    }

    #[test]
    fn g8_who_takes_over_takes_over_the_pace() {
        let mut pace = Pace::new(Some(500), Duration::from_secs(30));
        pace.spend(at(0), 7);
        pace.exhaust(at(10_000), 1_000);
        assert_eq!(pace.allowance(at(29_999), 1_000), 0);
        assert_eq!(pace.allowance(at(30_000), 1_000), 7);
        assert_eq!(pace.allowance(at(40_000), 1_000), 200);
    }

    #[test]
    fn another_rate_forgives_nothing() {
        let mut pace = Pace::new(Some(500), Duration::from_secs(30));
        pace.spend(at(0), 400);
        pace.limit(Some(450));
        assert_eq!(pace.allowance(at(10), 10_000), 50);
        pace.limit(None);
        assert_eq!(pace.allowance(at(10), 10_000), u64::MAX);
        pace.limit(Some(100));
        assert_eq!(pace.allowance(at(10), 10_000), 0);
        assert_eq!(pace.allowance(at(1_000), 10_000), 100);
    }

    #[test]
    fn unlimited_is_unlimited() {
        let mut pace = Pace::new(None, Duration::from_secs(30));
        pace.spend(at(0), 1_000_000);
        assert_eq!(pace.allowance(at(0), 3), u64::MAX);
    }
}
