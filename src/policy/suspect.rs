//! What looks wrong about a source, judged by a sample of it: plain values in, sentences out.
//!
//! Nothing here stops an eviction; it tells a person which setting to look at.

use std::fmt;
use std::time::Duration;

use super::duration::{in_words, spelt};
use super::guard::{Fit, GOOD_HEARTBEATS, MIN_HEARTBEATS, fit};
use super::ping::{Format, Unit, Unreadable};
use super::staleness::{FUTURE_TOLERANCE, Timing};
use super::survey::Judged;

/// Fewer entries than this have no rhythm that could be seen.
const FEW: usize = 20;

/// So few pings may come from clients that just happened to ping twice.
const FEW_GAPS: usize = 5;

/// Hub clocks under NTP differ by less, so a time that is further ahead was meant to be.
const AHEAD_MS: i64 = 2_000;

/// From this share on, unreadable entries are more than a few leftovers.
const MANY_UNREADABLE: f64 = 0.01;

/// What was seen of a source.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Entries read.
    pub entries: usize,
    /// Entries that can't be judged, by [`Unreadable::index`].
    pub unreadable: [usize; Unreadable::ALL.len()],
    /// Readable times by how they were written, by [`Unit::index`].
    pub times: [usize; Unit::ALL.len()],
    /// Of the unreadable those that any format would read, by [`Unit::index`].
    pub otherwise: [usize; Unit::ALL.len()],
    /// Ages in milliseconds, ascending; below zero lies the future.
    pub ages: Vec<i64>,
    /// The times in milliseconds between two pings of one entry that we saw come one after the other, ascending.
    pub gaps: Vec<i64>,
    /// How many live entries we looked at again.
    pub watched: usize,
    /// And for how long.
    pub watched_for: Duration,
}

impl Sample {
    /// Takes in one entry: as configured, as any format would read it, and its age.
    pub fn add(&mut self, judged: Judged, plainly: Judged, age_ms: impl FnOnce(super::entry::Timestamp) -> i64) {
        self.entries += 1;
        match judged {
            Ok((last_ping, unit)) => {
                self.times[unit.index()] += 1;
                let age = age_ms(last_ping);
                let place = self.ages.partition_point(|other| *other < age);
                self.ages.insert(place, age);
            }
            Err(why) => {
                self.unreadable[why.index()] += 1;
                if let Ok((_, unit)) = plainly {
                    self.otherwise[unit.index()] += 1;
                }
            }
        }
    }

    /// Entries that can't be judged, whatever the reason.
    pub fn unreadable_total(&self) -> usize {
        self.unreadable.iter().sum()
    }

    /// The age of the newest ping, those left out that lie further ahead than clocks go wrong.
    pub fn newest(&self) -> Option<i64> {
        self.ages.iter().copied().find(|age| *age >= -millis(FUTURE_TOLERANCE))
    }
}

/// What to do about a source of which too many entries can't be judged, by a sample of it.
pub fn remedy(sample: &Sample, format: Format) -> String {
    of_format(sample, format).map_or_else(|| REMEDY.to_owned(), |suspicion| suspicion.to_string())
}

/// The same where no sample can tell.
pub const REMEDY: &str = "`check --connect` shows some of them";

// === rhythm ===

/// How often the hub seems to ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rhythm {
    /// So long lay between two pings of an entry, in the middle of all we saw.
    Measured(Duration),
    /// The ages of those that ping are spread evenly up to here.
    Estimated(Duration),
    /// Nothing can be said.
    Unknown,
}

impl Rhythm {
    /// The interval, if one shows.
    pub fn interval(self) -> Option<Duration> {
        match self {
            Self::Measured(interval) | Self::Estimated(interval) => Some(interval),
            Self::Unknown => None,
        }
    }
}

/// What the sample says of the hub's rhythm.
pub fn rhythm(sample: &Sample) -> Rhythm {
    if sample.gaps.len() >= FEW_GAPS {
        return Rhythm::Measured(from_millis(sample.gaps[sample.gaps.len() / 2]));
    }
    let ages: Vec<i64> = sample.ages.iter().filter(|age| **age >= -AHEAD_MS).map(|age| (*age).max(0)).collect();
    even_spread(&ages).map_or(Rhythm::Unknown, |end| Rhythm::Estimated(from_millis(end)))
}

/// Where the even spread of the young ages ends. Whoever pings every so often has an age anywhere below that; the dead
/// lie thinly behind. Of all places to part the two, the likeliest: on either side of it a constant density.
fn even_spread(ages: &[i64]) -> Option<i64> {
    let (count, oldest) = (ages.len(), *ages.last()?);
    if count < FEW || oldest <= 0 {
        return None;
    }
    let likelihood = |n: usize, width: i64| if n == 0 { 0.0 } else { n as f64 * (n as f64 / width.max(1) as f64).ln() };
    let whole = likelihood(count, oldest);
    let parts = (FEW..count).filter_map(|n| {
        let (end, rest) = (ages[n - 1], count - n);
        let behind = (oldest - end).max(1);
        let drops = n as f64 / end.max(1) as f64 >= 4.0 * rest as f64 / behind as f64;
        let gain = likelihood(n, end) + likelihood(rest, behind) - whole;
        (drops && gain > 6.0).then_some((n, gain))
    });
    let n = parts.max_by(|(_, one), (_, other)| one.total_cmp(other)).map_or(count, |(n, _)| n);
    let end = ages[n - 1].max(1);
    // Kolmogorov and Smirnov: spread so unevenly by chance in one of a hundred cases. Pings of all at once look like that.
    let allowed = 1.63 / (n as f64).sqrt();
    let off = |(place, age): (usize, &i64)| {
        let (expected, at) = (*age as f64 / end as f64, place as f64 / n as f64);
        (at - expected).abs().max((at + 1.0 / n as f64 - expected).abs())
    };
    let even = ages[..n].iter().enumerate().map(off).all(|distance| distance <= allowed);
    even.then(|| end + end / i64::try_from(n).unwrap_or(i64::MAX))
}

// === suspicions ===

/// Something that looks wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq)]
pub enum Suspicion {
    /// Nothing is there.
    Empty {
        /// Keys in the database, if known.
        keys: Option<u64>,
        /// All of it was searched.
        searched: bool,
    },
    /// Most times make sense in another format alone.
    Format {
        /// The one they make sense in.
        likely: Unit,
        /// How many.
        count: usize,
    },
    /// More entries can't be judged than a few leftovers.
    Unreadable {
        /// How many.
        count: usize,
        /// Of how many.
        of: usize,
    },
    /// Most times lie ahead.
    Deadline {
        /// By at most this.
        ahead: Duration,
        /// Their zone may be another: they are texts.
        zone: bool,
    },
    /// Some times lie further ahead than clocks go wrong.
    Future {
        /// How many.
        count: usize,
    },
    /// The newest ping is too old.
    Silent {
        /// How old.
        newest: Duration,
        /// Their zone may be another: they are texts.
        zone: bool,
    },
    /// Live entries that did not ping while we looked.
    Still {
        /// How many.
        count: usize,
        /// For how long we looked.
        looked_for: Duration,
    },
    /// A threshold of too few heartbeats.
    Threshold {
        /// The heartbeat interval that shows.
        apparent: Duration,
        /// The guards could not even see an outage in time.
        unsafe_: bool,
    },
    /// Hubs ping less often than configured.
    Heartbeat {
        /// The heartbeat interval that shows.
        apparent: Duration,
    },
}

/// What looks wrong. `keys`: how many there are in the database; `whole`: all of the source was read.
pub fn suspicions(sample: &Sample, timing: &Timing, format: Format, keys: Option<u64>, whole: bool) -> Vec<Suspicion> {
    if sample.entries == 0 {
        return vec![Suspicion::Empty { keys, searched: whole }];
    }
    let mut found = Vec::new();
    found.extend(of_format(sample, format).or_else(|| of_unreadable(sample)));
    match of_deadline(sample) {
        Some(deadline) => found.push(deadline),
        None => {
            let future = sample.ages.iter().filter(|age| **age < -millis(FUTURE_TOLERANCE)).count();
            found.extend((future > 0).then_some(Suspicion::Future { count: future }));
            found.extend(of_rhythm(sample, timing));
        }
    }
    found
}

fn of_format(sample: &Sample, format: Format) -> Option<Suspicion> {
    let (at, count) = sample.otherwise.iter().copied().enumerate().max_by_key(|(_, count)| *count)?;
    let likely = Unit::ALL[at];
    (count * 2 >= sample.entries && format != Format::Fixed(likely) && format != Format::Auto)
        .then_some(Suspicion::Format { likely, count })
}

fn of_unreadable(sample: &Sample) -> Option<Suspicion> {
    let (count, of) = (sample.unreadable_total(), sample.entries);
    (count as f64 >= of as f64 * MANY_UNREADABLE && count > 0).then_some(Suspicion::Unreadable { count, of })
}

fn of_deadline(sample: &Sample) -> Option<Suspicion> {
    let ahead = sample.ages.iter().filter(|age| **age < -AHEAD_MS).count();
    let furthest = sample.ages.first().copied()?;
    (ahead >= FEW_GAPS && ahead * 10 >= sample.ages.len() * 8)
        .then(|| Suspicion::Deadline { ahead: rounded_up(from_millis(-furthest)), zone: zone_matters(sample) })
}

/// Most times are texts, which may come without an offset.
fn zone_matters(sample: &Sample) -> bool {
    sample.times[Unit::Iso8601.index()] * 2 > sample.ages.len()
}

fn of_rhythm(sample: &Sample, timing: &Timing) -> Vec<Suspicion> {
    let mut found = Vec::new();
    let newest = sample.newest().map(from_millis);
    let silent = newest.filter(|newest| *newest >= timing.late_after());
    found.extend(silent.map(|newest| Suspicion::Silent { newest, zone: zone_matters(sample) }));
    let still = sample.gaps.is_empty() && sample.watched >= FEW_GAPS;
    if silent.is_none() && still && sample.watched_for >= timing.heartbeat_interval * 2 {
        found.push(Suspicion::Still { count: sample.watched, looked_for: sample.watched_for });
    }
    if let Some(apparent) = rhythm(sample).interval() {
        let fit = fit(&Timing { heartbeat_interval: apparent, ..*timing });
        if fit != Fit::Good {
            found.push(Suspicion::Threshold { apparent, unsafe_: fit == Fit::TooTight });
        }
        if apparent * 2 > timing.heartbeat_interval * 3 {
            found.push(Suspicion::Heartbeat { apparent });
        }
    }
    found
}

impl fmt::Display for Suspicion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty { keys: Some(0), .. } => f.write_str(
                "nothing is there: the whole database is empty; see `url` in [redis] and `db` of the source",
            ),
            Self::Empty { keys, searched } => {
                let among = keys.map_or_else(String::new, |keys| format!(" among the {keys} keys of this database"));
                let how = if *searched { "" } else { " in the part that was searched" };
                write!(
                    f,
                    "nothing is there{among}{how}: is the key or pattern as the hub writes it, and is this its database?"
                )
            }
            Self::Format { likely, count } => {
                let likely = likely.as_str();
                write!(
                    f,
                    "{count} times make sense as {likely} only: write format = \"{likely}\", or leave `format` out"
                )
            }
            Self::Unreadable { count, of } => {
                write!(
                    f,
                    "{count} of {of} can't be judged, so they are never evicted: see `last_ping` and `format`; what is no entry belongs in `ignore`"
                )
            }
            Self::Deadline { ahead, zone } => {
                let deadline = spelt(*ahead);
                let zone = if *zone { "; if it writes local times, name their zone in `time_zone`" } else { "" };
                write!(
                    f,
                    "most times lie ahead, by {deadline} at most: if the hub stores when an entry ends, write deadline = \"{deadline}\"{zone}; else its clock is ahead"
                )
            }
            Self::Future { count } => {
                let tolerance = in_words(FUTURE_TOLERANCE);
                write!(
                    f,
                    "{count} times lie more than {tolerance} ahead, so nothing is known of these entries: is a hub's clock ahead?"
                )
            }
            Self::Silent { newest, zone } => {
                let newest = in_words(*newest);
                let zone = if *zone { " If it writes local times, name their zone in `time_zone`." } else { "" };
                write!(
                    f,
                    "nobody has pinged for {newest}, so the source would be held as silent: is the hub running, and is this the field it refreshes?{zone}"
                )
            }
            Self::Still { count, looked_for } => {
                let looked_for = in_words(*looked_for);
                write!(
                    f,
                    "none of {count} live entries pinged within {looked_for}: is this the time of the last ping, or that of connecting?"
                )
            }
            Self::Threshold { apparent, unsafe_ } => {
                let [least, good] = [MIN_HEARTBEATS, GOOD_HEARTBEATS].map(|beats| spelt(rounded_up(*apparent * beats)));
                let apparent = in_words(*apparent);
                if *unsafe_ {
                    write!(
                        f,
                        "entries ping every {apparent}, so the threshold is less than {MIN_HEARTBEATS} heartbeats and the living would turn stale: write threshold = \"{least}\" at least, better \"{good}\""
                    )
                } else {
                    write!(
                        f,
                        "entries ping every {apparent}, so the threshold is less than {GOOD_HEARTBEATS} heartbeats and a few late pings will hold the source: threshold = \"{good}\" leaves them room"
                    )
                }
            }
            Self::Heartbeat { apparent } => {
                let apparent = spelt(rounded_up(*apparent));
                write!(f, "the hub pings less often than configured: write heartbeat_interval = \"{apparent}\"")
            }
        }
    }
}

// === durations ===

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn from_millis(millis: i64) -> Duration {
    Duration::from_millis(millis.max(0).unsigned_abs())
}

/// Up to a number that a person would choose.
fn rounded_up(duration: Duration) -> Duration {
    let millis = duration.as_millis();
    let step = match millis {
        0..1_000 => 10,
        1_000..10_000 => 100,
        10_000..120_000 => 1_000,
        120_000..600_000 => 10_000,
        _ => 60_000,
    };
    Duration::from_millis(u64::try_from(millis.div_ceil(step) * step).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::super::testing::TIMING;
    use super::*;
    use crate::policy::entry::Timestamp;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    fn sample(ages: impl IntoIterator<Item = i64>) -> Sample {
        let mut sample = Sample::default();
        for age in ages {
            let judged = Ok((Timestamp::from_millis(NOW.millis() - age), Unit::UnixMs));
            sample.add(judged, judged, |at| NOW.millis_since(at));
        }
        sample
    }

    fn unreadable(mut sample: Sample, count: usize, plainly: Option<Unit>) -> Sample {
        for _ in 0..count {
            let plainly = plainly.map(|unit| (NOW, unit)).ok_or(Unreadable::Unparsable);
            sample.add(Err(Unreadable::Implausible), plainly, |_| 0);
        }
        sample
    }

    /// Entries that ping every `interval` seconds, each at its own moment.
    fn steady(count: i64, interval: i64) -> impl Iterator<Item = i64> {
        (0..count).map(move |n| (n * 7_919 + 13) % count * interval * 1_000 / count)
    }

    /// Entries that died at some time within the last day.
    fn dead(count: i64) -> impl Iterator<Item = i64> {
        (0..count).map(move |n| 400_000 + (n * 7_919) % count * 86_000_000 / count)
    }

    #[track_caller]
    fn check(sample: &Sample, expected: &[Suspicion]) {
        assert_eq!(suspicions(sample, &TIMING, Format::Auto, Some(7), true), expected);
    }

    #[track_caller]
    fn about(sample: &Sample, seconds: Option<u64>) {
        let found = rhythm(sample).interval();
        let near = match (found, seconds) {
            (Some(found), Some(seconds)) => found.as_secs_f64() / seconds as f64,
            (found, expected) => return assert_eq!(found.map(|it| it.as_secs()), expected),
        };
        assert!((0.9..1.1).contains(&near), "{found:?}, not {seconds:?}");
    }

    #[test]
    fn the_rhythm_shows_in_the_ages() {
        about(&sample(steady(1_000, 30)), Some(30));
        about(&sample(steady(40, 30)), Some(30));
        about(&sample(steady(200, 405)), Some(405));
        about(&sample(steady(700, 30).chain(dead(300))), Some(30));
        about(&sample(steady(60, 30).chain(dead(900))), Some(30));
        about(&sample(steady(19, 30)), None);
        about(&sample((0..100).map(|n| 12_000 + n)), None);
        about(&sample(steady(50, 30).map(|age| age / 2 + 14_000)), None);
    }

    #[test]
    fn pings_that_were_seen_outweigh_ages() {
        let mut sample = sample(steady(100, 30));
        sample.gaps = vec![9_990, 10_000, 10_010, 10_020];
        about(&sample, Some(30));
        sample.gaps.push(30_000);
        assert_eq!(rhythm(&sample), Rhythm::Measured(Duration::from_millis(10_010)));
    }

    #[test]
    fn a_healthy_source_is_not_suspected() {
        check(&sample(steady(700, 30).chain(dead(300))), &[]);
        check(&sample(steady(5, 30)), &[]);
        check(&sample(steady(50, 30).map(|age| age - 1_900)), &[]);
        check(&unreadable(sample(steady(1_000, 30)), 9, None), &[]);
    }

    #[test]
    fn a_wrong_unit_is_named() {
        let sample = unreadable(sample([]), 100, Some(Unit::UnixMs));
        let found = suspicions(&sample, &TIMING, Format::Fixed(Unit::UnixS), None, true);
        assert_eq!(found, [Suspicion::Format { likely: Unit::UnixMs, count: 100 }]);
        assert!(found[0].to_string().contains("write format = \"unix-ms\""), "{}", found[0]);
    }

    #[test]
    fn a_deadline_is_told_from_a_clock_that_is_a_little_ahead() {
        let ends = |after: i64| sample(steady(100, 30).map(move |age| age - after * 1_000));
        check(&ends(60), &[Suspicion::Deadline { ahead: Duration::from_secs(60), zone: false }]);
        check(&ends(300), &[Suspicion::Deadline { ahead: Duration::from_secs(300), zone: false }]);
        let one_hub = sample(steady(90, 30).chain([-90_000; 10]));
        check(&one_hub, &[Suspicion::Future { count: 10 }]);
    }

    #[test]
    fn texts_may_be_of_another_zone() {
        let texts = |mut sample: Sample| {
            sample.times = Default::default();
            sample.times[Unit::Iso8601.index()] = sample.ages.len();
            suspicions(&sample, &TIMING, Format::Auto, None, true)[0].to_string()
        };
        for off in [-7_200_000, 7_200_000] {
            let told = texts(sample(steady(100, 30).map(|age| age + off)));
            assert!(told.contains("name their zone in `time_zone`"), "{told}");
        }
    }

    #[test]
    fn foreign_entries_are_counted() {
        let sample = unreadable(sample(steady(90, 30)), 10, None);
        check(&sample, &[Suspicion::Unreadable { count: 10, of: 100 }]);
    }

    #[test]
    fn the_remedy_is_the_format_that_would_fit() {
        let of = |plainly| remedy(&unreadable(sample(steady(3, 30)), 300, plainly), Format::Fixed(Unit::UnixS));
        let fits = "300 times make sense as unix-ms only: write format = \"unix-ms\", or leave `format` out";
        assert_eq!((&*of(Some(Unit::UnixMs)), &*of(None)), (fits, REMEDY));
    }

    #[test]
    fn an_interval_too_long_for_the_threshold_comes_with_the_bound() {
        let mut sample = sample((0..500).map(|n| n * 810));
        sample.gaps = vec![405_000; FEW_GAPS];
        let found = suspicions(&sample, &TIMING, Format::Auto, None, true);
        assert!(
            matches!(found[..], [Suspicion::Threshold { unsafe_: true, .. }, Suspicion::Heartbeat { .. }]),
            "{found:?}"
        );
        let told = found[0].to_string();
        assert!(told.contains("every 6m 45s") && told.contains("threshold = \"34m\" at least"), "{told}");
        let tight = suspicions(&self::sample(steady(500, 50)), &TIMING, Format::Auto, None, true);
        assert!(
            matches!(tight[..], [Suspicion::Threshold { unsafe_: false, .. }, Suspicion::Heartbeat { .. }]),
            "{tight:?}"
        );
    }

    #[test]
    fn silence_and_standstill_are_two_things() {
        let found = suspicions(&sample(dead(10)), &TIMING, Format::Auto, None, true);
        assert_eq!(found, [Suspicion::Silent { newest: Duration::from_secs(400), zone: false }]);
        let mut still = sample(steady(50, 30));
        (still.watched, still.watched_for) = (50, Duration::from_secs(59));
        check(&still, &[]);
        still.watched_for = Duration::from_secs(60);
        check(&still, &[Suspicion::Still { count: 50, looked_for: Duration::from_secs(60) }]);
        still.gaps = vec![30_000];
        check(&still, &[]);
    }

    #[test]
    fn nothing_at_all_is_said_with_what_else_there_is() {
        check(&sample([]), &[Suspicion::Empty { keys: Some(7), searched: true }]);
        let told = |keys, searched| Suspicion::Empty { keys, searched }.to_string();
        assert!(told(Some(7), true).starts_with("nothing is there among the 7 keys of this database: "));
        assert!(told(Some(0), true).contains("the whole database is empty"));
        assert!(told(Some(7), false).contains("in the part that was searched"));
        assert!(told(None, true).starts_with("nothing is there: "));
    }
}
