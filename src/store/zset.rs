//! Sorted sets: an entry is a member, its score is the last ping.
//!
//! The index answers: counts by range, the newest by one look from its end. Only members that may be due before the
//! next survey are read, and those that are to be named.

use std::collections::{BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::time::Duration;

use redis::Value;

use super::asking::{Answers, Asking};
use super::condition::{self, Unless};
use super::connect::{Link, Live};
use super::error::{Error, Kind};
use super::own::{self, Facts, Own};
use super::scan::{self, MAX_PAGES};
use super::status::Purpose;
use super::{Held, Reading, Surveying, Taker, reply};
use crate::language::source::Source;
use crate::policy::entry::{Bytes, EntryId, Now, Timestamp};
use crate::policy::interval::Intervals;
use crate::policy::ping::{PLAUSIBLE_FROM, Unit, Unreadable, plausible_to};
use crate::policy::sample::Sampled;
use crate::policy::staleness::{FUTURE_TOLERANCE, Freshness, Timing};
use crate::policy::survey::{Candidate, Survey, Which};

/// Members read at a time.
const PAGE: usize = 1_000;

pub(super) async fn survey(reading: &Reading<'_>, key: &Bytes, into: &mut Surveying<'_>) -> Result<(), Error> {
    if reading.source.answers_by_index() {
        Index { reading, key, timing: &reading.store.timing }.survey(into).await
    } else {
        walk(reading, key, into).await.map(|_| ())
    }
}

/// Reads the whole set, unless who takes it has enough.
pub(super) async fn walk(reading: &Reading<'_>, key: &Bytes, into: &mut impl Taker) -> Result<ControlFlow<()>, Error> {
    scan::walk(reading, "ZSCAN", key, into, |into, now, member, score| {
        take(reading.source, key, now, member, score, into)
    })
    .await
}

/// Hands over a member as read at `now`.
pub(super) fn take(
    source: &Source,
    key: &Bytes,
    now: Now,
    member: Vec<u8>,
    score: Value,
    into: &mut impl Taker,
) -> Result<ControlFlow<()>, reply::Unexpected> {
    match reply::score(score)? {
        Some(score) if !source.ignores(&member) => {
            Ok(into.take(now, Some(Own::Score(score)), || EntryId::member(key.clone(), member)))
        }
        _ => Ok(ControlFlow::Continue(())),
    }
}

pub(super) async fn look(
    link: &Link,
    live: &Live,
    source: &Source,
    ids: &[EntryId],
) -> Result<(Now, Vec<Held>), Error> {
    let held = |score| Ok(reply::score(score)?.map_or(Held::Nothing, |score| Held::Own(Own::Score(score))));
    scan::each_member(link, live, source, ids, "ZSCORE", held).await
}

/// A range of last pings, both ends included unless said otherwise.
#[derive(Clone, Copy, Debug)]
struct Band {
    from: Timestamp,
    from_excluded: bool,
    to: Timestamp,
}

impl Band {
    fn over(from: Timestamp, to: Timestamp) -> Self {
        Self { from, from_excluded: false, to }
    }

    fn after(from: Timestamp, to: Timestamp) -> Self {
        Self { from, from_excluded: true, to }
    }
}

/// The survey of one sorted set by its index.
struct Index<'a> {
    reading: &'a Reading<'a>,
    key: &'a Bytes,
    timing: &'a Timing,
}

impl Index<'_> {
    async fn survey(&self, into: &mut Surveying<'_>) -> Result<(), Error> {
        let (now, total, units) = self.windows().await?;
        let mut plausible = 0;
        for (unit, count) in units {
            plausible += count;
            into.survey.times[unit.index()] += count;
            if count > 0 {
                self.count(unit, now.server, &mut into.survey).await?;
                self.sample(unit, now, &mut into.survey).await?;
                self.old(unit, now, into).await?;
                self.live(unit, now, into).await?;
            }
        }
        into.survey.unreadable[Unreadable::Implausible.index()] += total.saturating_sub(plausible);
        Ok(())
    }

    /// Server time, how many members there are, and how many lie in the plausible window of each unit.
    async fn windows(&self) -> Result<(Now, u64, Vec<(Unit, u64)>), Error> {
        let time = self.ask(|commands| _ = commands.cmd("TIME")).await?.pop_front().unwrap_or_default();
        let now = self.reading.link.now(&self.reading.doing, time)?;
        let window = Band::over(PLAUSIBLE_FROM, plausible_to(now.server));
        let units: Vec<Unit> = self.reading.source.format.units().collect();
        let mut replies = self
            .ask(|commands| {
                commands.cmd("ZCARD").arg(&self.key[..]);
                units.iter().for_each(|unit| self.zcount(commands, *unit, window));
            })
            .await?;
        let total = self.take_count(&mut replies)?;
        let units = units.into_iter().map(|unit| Ok((unit, self.take_count(&mut replies)?)));
        Ok((now, total, units.collect::<Result<_, Error>>()?))
    }

    /// Counts the members of one unit by freshness and age, and finds the newest and the oldest.
    async fn count(&self, unit: Unit, now: Timestamp, survey: &mut Survey) -> Result<(), Error> {
        let newest = now.plus(FUTURE_TOLERANCE);
        let (late, stale) = (now.minus(self.timing.late_after()), now.minus(self.timing.threshold));
        let freshness = [
            (Freshness::Future, Band::after(newest, plausible_to(now))),
            (Freshness::Fresh, Band::after(late, newest)),
            (Freshness::Late, Band::after(stale, late)),
            (Freshness::Stale, Band::over(PLAUSIBLE_FROM, stale)),
        ];
        let ages = age_bands(survey.ages.edges(), now);
        let mut replies = self
            .ask(|commands| {
                freshness.iter().for_each(|(_, band)| self.zcount(commands, unit, *band));
                ages.iter().for_each(|(_, band)| self.zcount(commands, unit, *band));
                let (min, max) = self.range(unit, Band::over(PLAUSIBLE_FROM, self.timing.sign_of_life_until(now)));
                let ends = [("ZREVRANGEBYSCORE", &max, &min), ("ZRANGEBYSCORE", &min, &max)];
                for (command, first, second) in ends {
                    commands.cmd(command).arg(&self.key[..]).arg(first).arg(second);
                    commands.arg("WITHSCORES").arg("LIMIT").arg(0).arg(1);
                }
            })
            .await?;
        for (freshness, _) in freshness {
            survey.count(freshness, self.take_count(&mut replies)?);
        }
        for (age, _) in ages {
            survey.ages.add(age, self.take_count(&mut replies)?);
        }
        for end in replies {
            for (_, score) in self.scored(end)? {
                if let (Ok((last_ping, _)), _) = own::judge_score(self.reading.source, score, now) {
                    survey.saw(last_ping);
                }
            }
        }
        Ok(())
    }

    /// Draws members of one unit for the samples, by their ranks: the fresh ones, and those that pinged lately enough to
    /// be measured. An audit needs none.
    async fn sample(&self, unit: Unit, now: Now, survey: &mut Survey) -> Result<(), Error> {
        if !survey.wanted().candidates {
            return Ok(());
        }
        let to = now.server.plus(FUTURE_TOLERANCE);
        let fresh = Band::after(now.server.minus(self.timing.late_after()), to);
        let lately = Band::after(Intervals::measured_from(self.timing, now.server).max(PLAUSIBLE_FROM), to);
        let bands = [(fresh, Which::Fresh), (lately, Which::Measured)];
        let mut counts = self
            .ask(|commands| {
                for (band, _) in bands {
                    let (min, _) = self.range(unit, band);
                    // Where the band begins: as many members stand before it.
                    let before = min.trim_start_matches('(');
                    commands.cmd("ZCOUNT").arg(&self.key[..]).arg("-inf").arg(before);
                    self.zcount(commands, unit, band);
                }
            })
            .await?;
        let mut ranks = Vec::new();
        for (_, which) in bands {
            let (begins, count) = (self.take_count(&mut counts)?, self.take_count(&mut counts)?);
            let share = survey.share(which, count);
            ranks.extend(drawn_ranks(begins, count, share).into_iter().map(|range| (range, which)));
        }
        if ranks.is_empty() {
            return Ok(());
        }
        let replies = self
            .ask(|commands| {
                for ((first, last), _) in &ranks {
                    commands.cmd("ZRANGE").arg(&self.key[..]).arg(first).arg(last).arg("WITHSCORES");
                }
            })
            .await?;
        for ((_, which), reply) in ranks.into_iter().zip(replies) {
            for (member, score) in self.scored(reply)? {
                self.draw(member, score, now, which, survey);
            }
        }
        Ok(())
    }

    /// Between two commands a member may have pinged and stand elsewhere by now, so each is judged as it is read.
    fn draw(&self, member: Vec<u8>, score: f64, now: Now, which: Which, survey: &mut Survey) {
        if let (Ok((last_ping, _)), mark) = own::judge_score(self.reading.source, score, now.server) {
            let id = EntryId::member(self.key.clone(), member);
            survey.draw(which, Sampled { id, mark, last_ping, seen: now.mono }, now.server);
        }
    }

    /// Reads the members of one unit that may be due, or that are to be named as stale.
    async fn old(&self, unit: Unit, now: Now, into: &mut Surveying<'_>) -> Result<(), Error> {
        let stale_from = now.server.minus(self.timing.threshold);
        let watched_from = now.server.minus(self.timing.watch_from());
        let band = Band::over(PLAUSIBLE_FROM, if into.survey.wanted().candidates { watched_from } else { stale_from });
        let band = match self.reading.source.unless.is_empty() {
            true => band,
            // Which of the stale are protected the index can't count: all of them are read.
            false => {
                let stale = Band::over(PLAUSIBLE_FROM, stale_from);
                self.read(unit, stale, now, into, |_, _| true, true).await?;
                Band::after(stale_from, band.to)
            }
        };
        let wanted = |survey: &Survey, given| survey.watches_more() || survey.names_more(true, given);
        let stopped_at = self.read(unit, band, now, into, wanted, true).await?;
        if into.survey.wanted().candidates
            && let Some(read) = stopped_at
        {
            let mut all = self.ask(|commands| self.zcount(commands, unit, band)).await?;
            into.survey.unwatched += self.take_count(&mut all)?.saturating_sub(read as u64);
        }
        Ok(())
    }

    /// Reads the live members of one unit that are to be named.
    async fn live(&self, unit: Unit, now: Now, into: &mut Surveying<'_>) -> Result<(), Error> {
        let band = Band::after(now.server.minus(self.timing.threshold), now.server.plus(FUTURE_TOLERANCE));
        let wanted = |survey: &Survey, given| survey.names_more(false, given);
        self.read(unit, band, now, into, wanted, false).await.map(drop)
    }

    /// Reads the members of one unit in a band, oldest first, as long as they are wanted; how many those were, if it
    /// stopped before the end.
    ///
    /// Pages go on by score and, within one score, by how many of it were read: an offset over the whole would make
    /// the server walk what it had already told.
    async fn read(
        &self,
        unit: Unit,
        band: Band,
        now: Now,
        into: &mut Surveying<'_>,
        wanted: impl Fn(&Survey, usize) -> bool,
        watch: bool,
    ) -> Result<Option<usize>, Error> {
        let (mut min, max) = self.range(unit, band);
        let (mut last, mut of_last) = (f64::NEG_INFINITY, 0);
        let mut given = 0;
        // bound: each page reads on towards `max`, which stands still, and never more than MAX_PAGES
        for _ in 0..MAX_PAGES {
            if !wanted(&into.survey, given) {
                return Ok(Some(given));
            }
            let mut replies = self
                .ask(|commands| {
                    commands.cmd("ZRANGEBYSCORE").arg(&self.key[..]).arg(&min).arg(&max);
                    commands.arg("WITHSCORES").arg("LIMIT").arg(of_last).arg(PAGE);
                })
                .await?;
            let page = self.scored(replies.pop_front().unwrap_or_default())?;
            let read = page.len();
            for (_, score) in &page {
                of_last = if *score == last { of_last + 1 } else { 1 };
                last = *score;
            }
            self.take(page, now, into, watch).await?;
            given += read;
            into.turn(read).await?;
            if read < PAGE {
                return Ok(None);
            }
            min = last.to_string();
        }
        Err(self.reading.link.error(Kind::Other, &self.reading.doing, "the reading did not end"))
    }

    async fn take(
        &self,
        page: Vec<(Vec<u8>, f64)>,
        now: Now,
        into: &mut Surveying<'_>,
        watch: bool,
    ) -> Result<(), Error> {
        let Reading { source, link, live, doing, .. } = self.reading;
        let none = Answers::default();
        let read = page.into_iter().filter_map(|(member, score)| {
            let (judged, mark) = own::judge_score(source, score, now.server);
            let (last_ping, _) = judged.ok()?;
            let freshness = self.timing.judge(last_ping, now.server);
            let id = EntryId::member(self.key.clone(), member);
            let doubtful = watch && freshness == Freshness::Stale && !source.unless.is_empty();
            let own = Own::Score(score);
            let unless = if doubtful { Facts::new(source, &id, &own, now, &none).unless() } else { Unless::default() };
            Some((id, mark, last_ping, freshness, unless))
        });
        let mut read: Vec<_> = read.collect();
        let asking = Asking { link, live, purpose: Purpose::Scan, doing, strict: false };
        let mut answers = Answers::default();
        condition::ask(&asking, &mut answers, read.iter_mut().map(|(.., unless)| unless)).await?;
        for (id, mark, last_ping, freshness, unless) in read {
            // Where groups are named, the index is not asked.
            let candidate =
                |id| Candidate { id, mark, last_ping, seen: now.mono, protected: false, absent: false, group: None };
            if unless.holds {
                into.survey.protect(candidate(id), now);
                continue;
            }
            // The two bands meet at the threshold, and each names its own side of it.
            if watch == (freshness == Freshness::Stale) {
                into.survey.name(freshness, last_ping, now, &id);
            }
            if watch {
                into.survey.watch(candidate(id));
            }
        }
        Ok(())
    }

    fn zcount(&self, commands: &mut redis::Pipeline, unit: Unit, band: Band) {
        let (min, max) = self.range(unit, band);
        commands.cmd("ZCOUNT").arg(&self.key[..]).arg(min).arg(max);
    }

    /// A range of last pings as scores; the set may hold deadlines.
    fn range(&self, unit: Unit, band: Band) -> (String, String) {
        let score = |at: Timestamp| unit.score(at.plus(self.reading.source.deadline)).unwrap_or(f64::NAN).to_string();
        let from = score(band.from);
        (if band.from_excluded { format!("({from}") } else { from }, score(band.to))
    }

    async fn ask(&self, fill: impl FnOnce(&mut redis::Pipeline)) -> Result<VecDeque<Value>, Error> {
        let mut commands = redis::pipe();
        fill(&mut commands);
        Ok(self.reading.link.ask(self.reading.live, Purpose::Scan, &self.reading.doing, &commands).await?.into())
    }

    fn take_count(&self, replies: &mut VecDeque<Value>) -> Result<u64, Error> {
        let reply = replies
            .pop_front()
            .ok_or_else(|| self.reading.link.error(Kind::Other, &self.reading.doing, "a reply is missing"))?;
        reply::count(reply).map_err(|unexpected| self.reading.link.unexpected(&self.reading.doing, unexpected))
    }

    fn scored(&self, reply: Value) -> Result<Vec<(Vec<u8>, f64)>, Error> {
        let read = || {
            let pairs = reply::pairs(reply)?.into_iter();
            let pairs =
                pairs.map(|(member, score)| Ok((reply::some_bytes(member)?, reply::score(score)?.unwrap_or(f64::NAN))));
            pairs.collect::<Result<Vec<_>, _>>()
        };
        read().map_err(|unexpected| self.reading.link.unexpected(&self.reading.doing, unexpected))
    }
}

/// The ranks to read, as first and last, if `share` of `count` members from rank `begins` on are to be drawn.
fn drawn_ranks(begins: u64, count: u64, share: u64) -> Vec<(u64, u64)> {
    // Floyd's way: as many steps as are drawn, and each choice has the same chance.
    let mut drawn = BTreeSet::new();
    for last in count.saturating_sub(share)..count {
        let rank = fastrand::u64(..=last);
        drawn.insert(if drawn.contains(&rank) { last } else { rank });
    }
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for rank in drawn.into_iter().map(|rank| begins + rank) {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == rank => *last = rank,
            _ => ranges.push((rank, rank)),
        }
    }
    ranges
}

/// The bands between the edges of an age histogram, each with an age in milliseconds that lies in it.
fn age_bands(edges: &[Duration], now: Timestamp) -> Vec<(i64, Band)> {
    let mut younger = now.plus(FUTURE_TOLERANCE);
    let mut bands = Vec::with_capacity(edges.len() + 1);
    for edge in edges {
        let older = now.minus(*edge);
        // An age equal to the edge still belongs to it. Last pings are rounded up to the millisecond, scores are not:
        // each band ends exactly where the next one begins, and no fraction falls between the two.
        let before = Timestamp::from_millis(older.millis() - 1);
        bands.push((now.millis_since(older), Band::after(before, younger)));
        younger = before;
    }
    bands.push((i64::MAX, Band::over(PLAUSIBLE_FROM, younger)));
    bands
}
