//! Stored bytes → last ping, in every format that hubs are known to write.
//!
//! A time misread as too old removes the living, so this file refuses rather than guesses: numbers and ISO 8601 are read
//! by its own strict grammar, a reading outside the plausible window is no reading (a wrong unit lands decades or
//! millennia away), and what must be rounded is rounded towards the younger.

use std::time::Duration;

use jiff::civil::Date;

use super::entry::Timestamp;
use super::zone::Zone;

/// No hub's last ping is older than 2015-01-01T00:00:00Z; an earlier one is a mistake.
pub const PLAUSIBLE_FROM: Timestamp = Timestamp::from_millis(1_420_070_400_000);

/// No hub's clock is ahead by more than a day; a later last ping is a mistake.
pub fn plausible_to(now: Timestamp) -> Timestamp {
    now.plus(Duration::from_secs(24 * 60 * 60))
}

/// The newest of the times that are present; one present but unreadable makes the whole unreadable, since it may be the
/// ping that keeps the entry alive. With nothing present it is `Missing`, with nothing but sentinels `Implausible`.
pub fn newest(readings: impl IntoIterator<Item = Reading>) -> Result<(Timestamp, Unit), Unreadable> {
    let mut newest = None;
    let mut nothing = Unreadable::Missing;
    let mut unreadable = None;
    for reading in readings {
        match reading {
            // The unit, and below the lesser reason, settle ties so that the order of the list never matters.
            Reading::Ping { at, unit } => newest = newest.max(Some((at, unit.index()))),
            Reading::Absent => {}
            Reading::Sentinel => nothing = Unreadable::Implausible,
            Reading::Unreadable(why) => unreadable = Some(unreadable.map_or(why, |other| why.min(other))),
        }
    }
    match (unreadable, newest) {
        (Some(why), _) => Err(why),
        (None, Some((at, unit))) => Ok((at, Unit::ALL[unit])),
        (None, None) => Err(nothing),
    }
}

/// What was found where a last ping was looked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Raw<'a> {
    /// Nothing, or a JSON null.
    Absent,
    /// A string of Redis, or a JSON string or number as written.
    Text(&'a [u8]),
    /// The score of a sorted set's member.
    Score(f64),
    /// Present, but neither text nor number: a JSON object, array or boolean.
    Odd,
}

/// One time, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// A plausible last ping.
    Ping {
        /// When it was, rounded up to the millisecond.
        at: Timestamp,
        /// How it was written.
        unit: Unit,
    },
    /// Absent, null or empty.
    Absent,
    /// "Never yet": 0, -1 or the year 1's first day.
    Sentinel,
    /// Present, but no time that can be trusted.
    Unreadable(Unreadable),
}

/// Why an entry can't be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unreadable {
    /// A type that holds no time.
    WrongType,
    /// No time is there at all.
    Missing,
    /// Text that is no time in the source's format.
    Unparsable,
    /// A time before 2015 or after tomorrow, infinity, or nothing but sentinels.
    Implausible,
}

impl Unreadable {
    /// Every reason, in the order of [`index`](Self::index).
    pub const ALL: [Self; 4] = [Self::WrongType, Self::Missing, Self::Unparsable, Self::Implausible];

    /// The reason as a metric label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WrongType => "wrong_type",
            Self::Missing => "missing",
            Self::Unparsable => "unparsable",
            Self::Implausible => "implausible",
        }
    }

    /// The place in [`ALL`](Self::ALL).
    pub fn index(self) -> usize {
        self as usize
    }
}

/// How a time is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Seconds since 1970, a fraction allowed.
    UnixS,
    /// Milliseconds since 1970.
    UnixMs,
    /// Microseconds since 1970.
    UnixUs,
    /// Nanoseconds since 1970.
    UnixNs,
    /// 100 ns since the year 1 (.NET `DateTime.Ticks`).
    DotnetTicks,
    /// ISO 8601 / RFC 3339 text, with an offset or in the source's zone.
    Iso8601,
}

impl Unit {
    /// Every unit.
    pub const ALL: [Self; 6] =
        [Self::UnixS, Self::UnixMs, Self::UnixUs, Self::UnixNs, Self::DotnetTicks, Self::Iso8601];

    /// The unit's name in a configuration and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnixS => "unix-s",
            Self::UnixMs => "unix-ms",
            Self::UnixUs => "unix-us",
            Self::UnixNs => "unix-ns",
            Self::DotnetTicks => "dotnet-ticks",
            Self::Iso8601 => "iso-8601",
        }
    }

    /// The score a sorted set holds for the time `at` (a last ping, plus the source's deadline): the nearest double.
    /// None for ISO 8601, which is no number.
    pub fn score(self, at: Timestamp) -> Option<f64> {
        let millis = i128::from(at.millis());
        match self {
            Self::UnixS => Some(millis as f64 / 1e3),
            Self::UnixMs => Some(millis as f64),
            Self::UnixUs => Some((millis * 1_000) as f64),
            Self::UnixNs => Some((millis * 1_000_000) as f64),
            Self::DotnetTicks => Some((millis * 10_000 + TICKS_AT_1970) as f64),
            Self::Iso8601 => None,
        }
    }

    /// The place in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// How the times of a source are to be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// The unit whose plausible window holds the number; else ISO 8601.
    #[default]
    Auto,
    /// This unit and no other.
    Fixed(Unit),
}

impl Format {
    /// The format of that name: `auto`, or a unit's.
    pub fn parse(name: &str) -> Option<Self> {
        if name == Self::Auto.as_str() {
            return Some(Self::Auto);
        }
        Unit::ALL.into_iter().find(|unit| unit.as_str() == name).map(Self::Fixed)
    }

    /// The format's name in a configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Fixed(unit) => unit.as_str(),
        }
    }

    /// The units that a number may be in; none for ISO 8601.
    pub fn units(self) -> impl Iterator<Item = Unit> {
        Unit::ALL.into_iter().filter(move |&unit| unit != Unit::Iso8601 && self.allows(unit))
    }

    fn allows(self, unit: Unit) -> bool {
        self == Self::Auto || self == Self::Fixed(unit)
    }
}

/// Longer text is no time: the longest that hubs write has about 40 bytes.
const LONGEST_TEXT: usize = 64;

/// .NET's ticks at 1970-01-01T00:00:00Z.
const TICKS_AT_1970: i128 = 621_355_968_000_000_000;

/// The whole digits of a number: as many as an `i64` has, and few enough that no product below overflows an `i128`.
const MOST_DIGITS: usize = 19;

const BILLION: i128 = 1_000_000_000;

/// What the stored times of a source are read against.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'z> {
    /// How they are written.
    pub format: Format,
    /// Where they were written, if they don't say.
    pub zone: &'z Zone,
    /// The hub stores last ping + this; zero when it stores the last ping itself.
    pub deadline: Duration,
    /// Server time.
    pub now: Timestamp,
}

impl Reader<'_> {
    /// The last ping that is stored as `raw`.
    pub fn read(&self, raw: Raw<'_>) -> Reading {
        match raw {
            Raw::Absent => Reading::Absent,
            Raw::Odd => Reading::Unreadable(Unreadable::WrongType),
            Raw::Score(score) => match Number::from_score(score) {
                Some(number) => self.number(number),
                None => Reading::Unreadable(Unreadable::Implausible),
            },
            Raw::Text(text) if text.len() > LONGEST_TEXT => Reading::Unreadable(Unreadable::Unparsable),
            Raw::Text(text) => self.text(bare(text)),
        }
    }

    fn text(&self, text: &[u8]) -> Reading {
        if text.is_empty() {
            return Reading::Absent;
        }
        if let Some(number) = Number::parse(text) {
            return self.number(number);
        }
        match iso_8601(text) {
            Some(_) if !self.format.allows(Unit::Iso8601) => Reading::Unreadable(Unreadable::Unparsable),
            Some(Iso { date, .. }) if date == Date::constant(1, 1, 1) => Reading::Sentinel,
            Some(iso) => self
                .instant(&iso)
                .and_then(|nanos| self.ping(nanos, Unit::Iso8601))
                .unwrap_or(Reading::Unreadable(Unreadable::Implausible)),
            None => Reading::Unreadable(Unreadable::Unparsable),
        }
    }

    /// What is meant, in nanoseconds since 1970.
    ///
    /// Some hubs add their deadline to the instant, others to what the clock shows (.NET's `DateTime.Now.Add`, Python's
    /// naive `datetime`), and these pass over a change of the clocks without noticing: the later of the two readings.
    fn instant(&self, iso: &Iso) -> Option<i128> {
        if let Some(minutes) = iso.offset_minutes {
            return Some(iso.shown - minutes * 60 * BILLION);
        }
        let deadline = i128::try_from(self.deadline.as_nanos()).ok()?;
        let by_instant = self.zone.instant(iso.shown);
        if deadline == 0 {
            return by_instant;
        }
        by_instant.max(self.zone.instant(iso.shown - deadline).map(|last_ping| last_ping + deadline))
    }

    fn number(&self, number: Number) -> Reading {
        if number == Number::whole(0) || number == Number::whole(-1) {
            return Reading::Sentinel;
        }
        if self.format == Format::Fixed(Unit::Iso8601) {
            return Reading::Unreadable(Unreadable::Unparsable);
        }
        // The windows of the units are disjoint, so the first that fits is the only one.
        self.format
            .units()
            .find_map(|unit| self.ping(number.nanos_since_1970(unit)?, unit))
            .unwrap_or(Reading::Unreadable(Unreadable::Implausible))
    }

    /// The ping at `nanos` since 1970 less the deadline, if that is plausible.
    fn ping(&self, nanos: i128, unit: Unit) -> Option<Reading> {
        let deadline = i128::try_from(self.deadline.as_nanos()).ok()?;
        let millis = ceil_div(nanos.checked_sub(deadline)?, 1_000_000);
        let at = Timestamp::from_millis(i64::try_from(millis).ok()?);
        (PLAUSIBLE_FROM <= at && at <= plausible_to(self.now)).then_some(Reading::Ping { at, unit })
    }
}

/// `text` without the blanks around it and one pair of quotes, as of a JSON string stored whole.
fn bare(text: &[u8]) -> &[u8] {
    let text = text.trim_ascii();
    text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")).unwrap_or(text)
}

/// A decimal number in billionths, so that nine digits of a fraction count and no double blurs the whole ones.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Number(i128);

impl Number {
    const fn whole(number: i64) -> Self {
        Self(number as i128 * BILLION)
    }

    /// Reads `-?[0-9]{1,19}(\.[0-9]+)?` and nothing else: no exponent, hex, sign `+`, `nan` or `inf`, all of which
    /// `f64::from_str` or Lua take. Any unit may have a fraction, because doubles are printed with one.
    fn parse(text: &[u8]) -> Option<Self> {
        let mut rest = Rest(text);
        let negative = rest.eat(b"-").is_some();
        let whole = rest.digits(1, MOST_DIGITS)?;
        let magnitude = whole * BILLION + rest.fraction(b".")?;
        rest.is_empty().then_some(Self(if negative { -magnitude } else { magnitude }))
    }

    /// None for what no unit can hold: infinity, NaN, and more than 19 digits.
    fn from_score(score: f64) -> Option<Self> {
        // A NaN fails this comparison too.
        if score.abs() < 1e19 {
            Some(Self(score.trunc() as i128 * BILLION + (score.fract() * 1e9).ceil() as i128))
        } else {
            None
        }
    }

    /// The number as a time in `unit`, rounded up; none for ISO 8601.
    fn nanos_since_1970(self, unit: Unit) -> Option<i128> {
        let (nanos_per_unit, at_1970) = match unit {
            Unit::UnixS => (BILLION, 0),
            Unit::UnixMs => (1_000_000, 0),
            Unit::UnixUs => (1_000, 0),
            Unit::UnixNs => (1, 0),
            Unit::DotnetTicks => (100, TICKS_AT_1970),
            Unit::Iso8601 => return None,
        };
        let since_1970 = self.0.checked_sub(at_1970 * BILLION)?;
        Some(ceil_div(since_1970.checked_mul(nanos_per_unit)?, BILLION))
    }
}

/// A time as ISO 8601 has it.
struct Iso {
    /// The date as written, before any offset.
    date: Date,
    /// What the clock showed, in nanoseconds since its own 1970.
    shown: i128,
    /// How far that clock is ahead of UTC, if it says so.
    offset_minutes: Option<i128>,
}

/// Reads a date, `T` or one blank, a time, and an offset or none: extended (`2024-01-02T03:04:05.678Z`) or compact
/// (`20240102T030405+0200`).
///
/// Not jiff's parsers, because `civil::DateTime` drops an offset without a word, and both take an hour for a whole time
/// and a leap second for the second before. Fraction digits beyond the ninth are dropped (they are below 1 ns). A date
/// alone is refused, and so is a zone's name (`[Europe/Berlin]`), which can't be checked here against its offset.
fn iso_8601(text: &[u8]) -> Option<Iso> {
    let mut rest = Rest(text);

    let year = rest.digits(4, 4)?;
    let dashes = rest.eat(b"-").is_some();
    let month = rest.digits(2, 2)?;
    if dashes {
        rest.eat(b"-")?;
    }
    let day = rest.digits(2, 2)?;
    rest.eat(b"Tt ")?;

    let hour = rest.digits(2, 2)?;
    let colons = rest.eat(b":").is_some();
    let minute = rest.digits(2, 2)?;
    let has_seconds = if colons { rest.eat(b":").is_some() } else { rest.starts_with_digit() };
    let (second, fraction) = if has_seconds {
        (rest.digits(2, 2)?, rest.fraction(b".,")?)
    } else {
        // Java leaves out seconds that are zero, others don't know them: the minute's end is never too old.
        (59, BILLION - 1)
    };

    let offset_minutes = rest.offset_minutes()?;
    if !rest.is_empty() || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let date = Date::new(i16::try_from(year).ok()?, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()?;
    let midnight = i128::from(date.duration_since(Date::constant(1970, 1, 1)).as_secs());
    let seconds = midnight + (hour * 60 + minute) * 60 + second;
    Some(Iso { date, shown: seconds * BILLION + fraction, offset_minutes })
}

/// What is left to read of a text.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn starts_with_digit(&self) -> bool {
        self.0.first().is_some_and(u8::is_ascii_digit)
    }

    /// Takes one byte if it is one of `any`.
    fn eat(&mut self, any: &[u8]) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        any.contains(&first).then(|| {
            self.0 = rest;
            first
        })
    }

    /// Takes the digits up to the `most`th as a number, if there are `least`.
    fn digits(&mut self, least: usize, most: usize) -> Option<i128> {
        let count = self.0.iter().take(most).take_while(|byte| byte.is_ascii_digit()).count();
        if count < least {
            return None;
        }
        let (digits, rest) = self.0.split_at(count);
        self.0 = rest;
        Some(digits.iter().fold(0, |number, digit| number * 10 + i128::from(digit - b'0')))
    }

    /// Takes a fraction, in billionths: zero if no `point` is next, none if no digit follows it.
    fn fraction(&mut self, point: &[u8]) -> Option<i128> {
        if self.eat(point).is_none() {
            return Some(0);
        }
        let before = self.0.len();
        let digits = self.digits(1, 9)?;
        let missing = (before - self.0.len()..9).fold(1, |scale, _| scale * 10);
        while self.starts_with_digit() {
            self.digits(1, 9)?;
        }
        Some(digits * missing)
    }

    /// Takes `Z`, `±hh`, `±hhmm`, `±hh:mm`, or nothing, which says nothing. No place on earth is further off than 14
    /// hours.
    fn offset_minutes(&mut self) -> Option<Option<i128>> {
        if self.is_empty() {
            return Some(None);
        }
        if self.eat(b"Zz").is_some() {
            return Some(Some(0));
        }
        let sign = if self.eat(b"+-")? == b'-' { -1 } else { 1 };
        let hours = self.digits(2, 2)?;
        let colon = self.eat(b":").is_some();
        let minutes = if colon || !self.is_empty() { self.digits(2, 2)? } else { 0 };
        let total = hours * 60 + minutes;
        (minutes < 60 && total <= 14 * 60).then_some(Some(sign * total))
    }
}

/// Rounds up: an age may come out too small by less than `by`, never too large.
fn ceil_div(number: i128, by: i128) -> i128 {
    number.div_euclid(by) + i128::from(number.rem_euclid(by) != 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Format::{Auto, Fixed};
    use super::Reading::{Absent, Sentinel};
    use super::Unit::{DotnetTicks, Iso8601, UnixMs, UnixNs, UnixS, UnixUs};
    use super::*;

    /// 2027-01-15T08:00:00Z
    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
    /// 2024-01-02T03:04:05Z
    const THEN: i64 = 1_704_164_645_000;
    const DAY: i64 = 86_400_000;
    const WRONG_TYPE: Reading = Reading::Unreadable(Unreadable::WrongType);
    const UNPARSABLE: Reading = Reading::Unreadable(Unreadable::Unparsable);
    const IMPLAUSIBLE: Reading = Reading::Unreadable(Unreadable::Implausible);

    fn read(raw: Raw<'_>, format: Format, deadline: Duration, now: Timestamp) -> Reading {
        Reader { format, zone: &Zone::UTC, deadline, now }.read(raw)
    }

    fn ping(millis: i64, unit: Unit) -> Reading {
        Reading::Ping { at: Timestamp::from_millis(millis), unit }
    }

    #[track_caller]
    fn check(text: impl AsRef<[u8]>, format: Format, expected: Reading) {
        check_raw(Raw::Text(text.as_ref()), format, Duration::ZERO, expected);
    }

    #[track_caller]
    fn check_raw(raw: Raw<'_>, format: Format, deadline: Duration, expected: Reading) {
        let text = if let Raw::Text(text) = raw { String::from_utf8_lossy(text) } else { "".into() };
        assert_eq!(read(raw, format, deadline, NOW), expected, "{raw:?} {text:?} as {format:?} less {deadline:?}");
    }

    #[test]
    fn a_number_is_in_the_unit_whose_window_holds_it() {
        check("1704164645", Auto, ping(THEN, UnixS));
        check("1704164645.25", Auto, ping(THEN + 250, UnixS));
        check("1704164645.1234567", Auto, ping(THEN + 124, UnixS));
        check("1704164645.123000000000001", Auto, ping(THEN + 123, UnixS));
        check("1704164645123", Auto, ping(THEN + 123, UnixMs));
        check("1704164645123.0", Auto, ping(THEN + 123, UnixMs));
        check("1704164645123.456", Auto, ping(THEN + 124, UnixMs));
        check("1704164645123001", Auto, ping(THEN + 124, UnixUs));
        check("1704164645123000.5", Auto, ping(THEN + 124, UnixUs));
        check("1704164645123000000", Auto, ping(THEN + 123, UnixNs));
        check("638397614451234567", Auto, ping(THEN + 124, DotnetTicks));
        for unit in Auto.units() {
            check(write(THEN as i128 * 1_000_000, unit), Fixed(unit), ping(THEN, unit));
        }
    }

    #[test]
    fn the_traps_of_iso_8601() {
        check("2024-01-02T03:04:05.1234567Z", Auto, ping(THEN + 124, Iso8601));
        check("2024-01-02T03:04:05.1234567", Auto, ping(THEN + 124, Iso8601));
        check("2024-01-02T03:04:05+02:00", Auto, ping(THEN - 2 * 3_600_000, Iso8601));
        check("2024-01-02T03:04:05-02:00", Auto, ping(THEN + 2 * 3_600_000, Iso8601));
        check("2024-01-02T03:04:05+0200", Auto, ping(THEN - 2 * 3_600_000, Iso8601));
        check("2024-01-02T03:04:05+0545", Auto, ping(THEN - 345 * 60_000, Iso8601));
        check("2024-01-02 03:04:05.5+00", Auto, ping(THEN + 500, Iso8601));
        check("20240102T030405Z", Auto, ping(THEN, Iso8601));
        check("2024-01-02T03:04Z", Auto, ping(THEN + 55_000, Iso8601));
        check("2024-01-02T0304", Auto, ping(THEN + 55_000, Iso8601));
        check("2024-01-02 03:04:05", Auto, ping(THEN, Iso8601));
        check("2024-01-02t03:04:05z", Auto, ping(THEN, Iso8601));
        check("2024-01-02T03:04:05,250Z", Auto, ping(THEN + 250, Iso8601));
        check("2024-01-02T03:04:05.12300000000099Z", Auto, ping(THEN + 123, Iso8601));
        check("2024-01-02T23:59:60Z", Auto, ping(1_704_240_000_000, Iso8601));
        check("\"2024-01-02T03:04:05Z\"", Auto, ping(THEN, Iso8601));
        check(" 2024-01-02T03:04:05Z\r\n", Auto, ping(THEN, Iso8601));
        check("2024-02-29T00:00:00Z", Auto, ping(1_709_164_800_000, Iso8601));
        check("9999-12-31T23:59:59.9999999Z", Auto, IMPLAUSIBLE);
        check("9999-12-31T23:59:59.9999999-14:00", Auto, IMPLAUSIBLE);
        check("0000-01-01T00:00:00Z", Auto, IMPLAUSIBLE);
    }

    #[test]
    fn iso_8601_that_is_not_certain_is_refused() {
        for text in [
            "2024-01-02",
            "20240102T",
            "2024-01-02T03",
            "2024-01-02T03Z",
            "2024-01-02T03:04:",
            "2024-01-02T03:04:05.",
            "2024-01-02T03:04:05.Z",
            "2024-01-02T24:00:00Z",
            "2024-01-02T23:60:00Z",
            "2024-01-02T23:59:61Z",
            "2023-02-29T00:00:00Z",
            "2024-13-02T03:04:05Z",
            "2024-1-2T03:04:05Z",
            "2024-0102T03:04:05Z",
            "2024-01-02  03:04:05",
            "2024-01-02T03:04:05 Z",
            "2024-01-02 03:04:05 +0000",
            "2024-01-02T03:04:05+2",
            "2024-01-02T03:04:05+02:",
            "2024-01-02T03:04:05+02:60",
            "2024-01-02T03:04:05+14:01",
            "2024-01-02T03:04:05Z+02:00",
            "2024-01-02T03:04:05[Europe/Berlin]",
            "2024-01-02T03:04:05+01:00[Europe/Berlin]",
            "+002024-01-02T03:04:05Z",
            "01/02/2024",
            "01/02/2024 03:04:05",
            "/Date(1704164645123)/",
            "Tue, 02 Jan 2024 03:04:05 GMT",
        ] {
            check(text, Auto, UNPARSABLE);
            check(text, Fixed(Iso8601), UNPARSABLE);
        }
    }

    #[test]
    fn the_value_zoo() {
        for text in ["", "   ", "\"\"", "\r\n"] {
            check(text, Auto, Absent);
            check(text, Fixed(Iso8601), Absent);
        }
        for text in [
            "nan",
            "NaN",
            "inf",
            "-inf",
            "Infinity",
            "0x10",
            "1e12",
            "1.7e9",
            "12abc",
            "1704164645 5",
            "1 704 164 645",
            "1_704_164_645",
            "+1704164645",
            "--1",
            "-",
            "1704164645.",
            ".5",
            "1704164645,5",
            "1.2.3",
            "170416464512345678901",
            "00000000001704164645",
            "null",
            "true",
            "{}",
            "\"",
            "\" 1704164645\"",
            "\"\"1704164645\"\"",
            "'1704164645'",
            "１７０４",
        ] {
            check(text, Auto, UNPARSABLE);
            check(text, Fixed(UnixS), UNPARSABLE);
        }
        check(b"1704164645\0", Auto, UNPARSABLE);
        check(b"\x81\xa4\r\n\0\xff", Auto, UNPARSABLE);
        check(vec![b'1'; 1 << 20], Auto, UNPARSABLE);
        check(" \t1704164645 \r\n", Auto, ping(THEN, UnixS));
        check(" \"1704164645\"\n", Auto, ping(THEN, UnixS));
        check(format!("1704164645.{}", "0".repeat(53)), Auto, ping(THEN, UnixS));
        check(format!("1704164645.{}", "0".repeat(54)), Auto, UNPARSABLE);
        for text in ["1", "-2", "0.5", "-1704164645", "9007199254740991", "9007199254740993", "9999999999999999999"] {
            check(text, Auto, IMPLAUSIBLE);
        }
        check("133486380451234567", Auto, IMPLAUSIBLE); // FILETIME
        check("20240102030405", Auto, IMPLAUSIBLE);
        check_raw(Raw::Absent, Auto, Duration::ZERO, Absent);
        check_raw(Raw::Odd, Auto, Duration::ZERO, WRONG_TYPE);
    }

    #[test]
    fn sentinels_say_never_yet_in_every_format_that_could_write_them() {
        for format in [Auto].into_iter().chain(Unit::ALL.map(Fixed)) {
            for text in ["0", "-1", "\"0\"", "0.0", "-1.0"] {
                check(text, format, Sentinel);
            }
            for score in [0.0, -0.0, -1.0] {
                check_raw(Raw::Score(score), format, Duration::from_secs(300), Sentinel);
            }
            let never = if matches!(format, Auto | Fixed(Iso8601)) { Sentinel } else { UNPARSABLE };
            check("0001-01-01T00:00:00", format, never);
            check("0001-01-01T00:00:00.0000000Z", format, never);
            check("0001-01-01 00:00:00+01:00", format, never);
        }
        check("0001-01-02T00:00:00", Auto, IMPLAUSIBLE);
        check("0001-01-01", Auto, UNPARSABLE);
    }

    #[test]
    fn a_fixed_unit_reads_no_other() {
        let now = NOW.millis() as i128 * 1_000_000;
        for written in Auto.units() {
            for read in Auto.units().filter(|&unit| unit != written) {
                check(write(now, written), Fixed(read), IMPLAUSIBLE);
                check_raw(Raw::Score(written.score(NOW).unwrap()), Fixed(read), Duration::ZERO, IMPLAUSIBLE);
            }
            check(write(now, written), Fixed(Iso8601), UNPARSABLE);
            check("2024-01-02T03:04:05Z", Fixed(written), UNPARSABLE);
            check("133486380451234567", Fixed(written), IMPLAUSIBLE); // FILETIME
        }
        check("2024-01-02T03:04:05Z", Fixed(Iso8601), ping(THEN, Iso8601));
    }

    #[test]
    fn the_windows_of_the_units_are_disjoint() {
        // Two intervals overlap only if an edge of one lies in the other.
        for today in (2026..=2200).map(|year| Timestamp::from_millis((year - 1970) * 31_556_952_000)) {
            for (written, edge) in Auto.units().flat_map(|unit| [(unit, PLAUSIBLE_FROM), (unit, plausible_to(today))]) {
                let text = write(edge.millis() as i128 * 1_000_000, written);
                for unit in Auto.units() {
                    let reading = read(Raw::Text(text.as_bytes()), Fixed(unit), Duration::ZERO, today);
                    let expected = if unit == written { ping(edge.millis(), unit) } else { IMPLAUSIBLE };
                    assert_eq!(reading, expected, "{text} of {written:?} as {unit:?} at {today:?}");
                }
            }
        }
    }

    #[test]
    fn the_edges_of_the_plausible_are_exact_to_the_millisecond() {
        let (from, to) = (1_420_070_400_000, NOW.millis() + DAY);
        for unit in Unit::ALL {
            for deadline in [0, 300_000] {
                for (at, plausible) in [(from - 1, false), (from, true), (to, true), (to + 1, false)] {
                    let expected = if plausible { ping(at, unit) } else { IMPLAUSIBLE };
                    let text = write((at + deadline) as i128 * 1_000_000, unit);
                    let deadline = Duration::from_millis(deadline as u64);
                    check_raw(Raw::Text(text.as_bytes()), Auto, deadline, expected);
                    check_raw(Raw::Text(text.as_bytes()), Fixed(unit), deadline, expected);
                }
            }
        }
        check("1420070399.999", Auto, IMPLAUSIBLE);
        check("1800086400.000000001", Auto, IMPLAUSIBLE);
    }

    #[test]
    fn the_deadline_is_taken_off() {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        check_raw(Raw::Text(b"1704164645"), Auto, minutes(5), ping(THEN - 300_000, UnixS));
        check_raw(Raw::Text(b"2024-01-02T03:04:05Z"), Auto, minutes(5), ping(THEN - 300_000, Iso8601));
        check_raw(Raw::Score(1_704_164_645.5), Auto, minutes(5), ping(THEN - 299_500, UnixS));
        check_raw(Raw::Text(b"1800172800"), Auto, minutes(48 * 60), ping(NOW.millis(), UnixS));
        check_raw(Raw::Text(b"1704164645"), Auto, Duration::from_nanos(1), ping(THEN, UnixS));
        check_raw(Raw::Text(b"1704164645"), Auto, Duration::MAX, IMPLAUSIBLE);
    }

    #[test]
    fn a_time_without_an_offset_is_of_the_zone() {
        let berlin = zone("Europe/Berlin");
        let check = |text: &str, format, minutes: u64, expected| {
            let deadline = Duration::from_secs(60 * minutes);
            let reader = Reader { format, zone: &berlin, deadline, now: NOW };
            assert_eq!(reader.read(Raw::Text(text.as_bytes())), expected, "{text} less {deadline:?}");
        };
        let hour = 3_600_000;
        for text in ["2024-01-02T04:04:05", "2024-01-02 04:04:05.000", "20240102T040405", "\"2024-01-02T04:04:05\""] {
            check(text, Auto, 0, ping(THEN, Iso8601));
            check(text, Fixed(Iso8601), 0, ping(THEN, Iso8601));
            check(text, Fixed(UnixS), 0, UNPARSABLE);
        }
        check("2024-07-02T05:04:05", Auto, 0, ping(1_719_889_445_000, Iso8601)); // summer
        check("2024-01-02T04:04", Auto, 0, ping(THEN + 55_000, Iso8601));
        check("2024-01-01T23:59:60", Auto, 0, ping(THEN - 4 * hour - 245_000, Iso8601));
        check("2024-01-02T03:04:05Z", Auto, 0, ping(THEN, Iso8601));
        check("2024-01-02T03:04:05+00", Auto, 0, ping(THEN, Iso8601));
        check("2024-01-02T06:04:05+03:00", Auto, 0, ping(THEN, Iso8601));
        check("0001-01-01T00:00:00", Auto, 0, Sentinel);
        check("9999-12-31T23:59:59.9999999", Auto, 0, IMPLAUSIBLE);
        check("638397614451234567", Auto, 0, ping(THEN + 124, DotnetTicks));
        check("1704164645", Auto, 0, ping(THEN, UnixS));

        // The edges of the plausible are instants, whatever the clock shows there.
        check("2015-01-01T00:59:59.999", Auto, 0, IMPLAUSIBLE);
        check("2015-01-01T01:00:00", Auto, 0, ping(PLAUSIBLE_FROM.millis(), Iso8601));
        check("2027-01-16T09:00:00", Auto, 0, ping(NOW.millis() + DAY, Iso8601));
        check("2027-01-16T09:00:00.001", Auto, 0, IMPLAUSIBLE);

        // Pinged at 01:58 local; five and 65 minutes later by the clock on the wall, and by the instant.
        let spring = 1_774_745_880_000; // 2026-03-29T00:58Z
        check("2026-03-29T01:58", Auto, 0, ping(spring + 60_000, Iso8601));
        check("2026-03-29T02:03:00", Auto, 5, ping(spring, Iso8601));
        check("2026-03-29T03:03:00", Auto, 5, ping(spring + hour, Iso8601));
        check("2026-03-29T03:03:00", Auto, 65, ping(spring, Iso8601));
        check("2026-03-29T04:03:00", Auto, 65, ping(spring + hour, Iso8601));
        // Pinged at 01:58, before the hour that comes twice. 02:03 is taken for the later one.
        let autumn = 1_792_886_280_000; // 2026-10-24T23:58Z
        check("2026-10-25T01:58:00", Auto, 0, ping(autumn, Iso8601));
        check("2026-10-25T02:03:00", Auto, 5, ping(autumn + hour, Iso8601));
        check("2026-10-25T03:03:00", Auto, 65, ping(autumn + hour, Iso8601));
        check("2026-10-25T03:03:00", Auto, 125, ping(autumn, Iso8601));
    }

    #[test]
    fn scores_are_doubles() {
        let check = |score, format, expected| check_raw(Raw::Score(score), format, Duration::ZERO, expected);
        check(1_704_164_645.0, Auto, ping(THEN, UnixS));
        check(1_704_164_645.25, Fixed(UnixS), ping(THEN + 250, UnixS));
        check(1_704_164_645_123.0, Auto, ping(THEN + 123, UnixMs));
        check(1_704_164_645_123.25, Auto, ping(THEN + 124, UnixMs));
        check(638_397_614_451_234_567.0, Auto, ping(THEN + 124, DotnetTicks));
        check(1_704_164_645.0, Fixed(Iso8601), UNPARSABLE);
        for score in [f64::INFINITY, f64::NEG_INFINITY, f64::NAN, f64::MAX, 1e19, -1e19, f64::MIN_POSITIVE, 0.5, -0.5] {
            check(score, Auto, IMPLAUSIBLE);
        }
        check(f64::INFINITY, Fixed(Iso8601), IMPLAUSIBLE);
        assert_eq!(UnixS.score(Timestamp::from_millis(THEN + 250)), Some(1_704_164_645.25));
        assert_eq!(UnixUs.score(Timestamp::from_millis(THEN)), Some(1.704_164_645e15));
        assert_eq!(DotnetTicks.score(Timestamp::from_millis(0)), Some(621_355_968_000_000_000.0));
        assert_eq!(Iso8601.score(NOW), None);
    }

    #[test]
    fn the_newest_of_a_list() {
        let (older, newer) = (ping(THEN, UnixS), ping(THEN + 1, Iso8601));
        let check = |readings: &[Reading], expected| assert_eq!(newest(readings.iter().copied()), expected);
        let found = Ok((Timestamp::from_millis(THEN + 1), Iso8601));
        check(&[older, newer], found);
        check(&[Absent, newer, Sentinel, older], found);
        check(&[newer, UNPARSABLE], Err(Unreadable::Unparsable));
        check(&[IMPLAUSIBLE, newer, WRONG_TYPE], Err(Unreadable::WrongType));
        check(&[Sentinel, UNPARSABLE], Err(Unreadable::Unparsable));
        check(&[], Err(Unreadable::Missing));
        check(&[Absent, Absent], Err(Unreadable::Missing));
        check(&[Absent, Sentinel], Err(Unreadable::Implausible));
    }

    #[test]
    fn names() {
        for format in [Auto].into_iter().chain(Unit::ALL.map(Fixed)) {
            assert_eq!(Format::parse(format.as_str()), Some(format));
        }
        assert_eq!(Format::parse("Auto"), None);
        assert_eq!(Format::parse("ms"), None);
        assert_eq!(Fixed(UnixMs).units().collect::<Vec<_>>(), [UnixMs]);
        assert_eq!(Fixed(Iso8601).units().count(), 0);
        assert_eq!(Unreadable::ALL.map(Unreadable::index), [0, 1, 2, 3]);
        assert_eq!(Unit::ALL.map(Unit::index), [0, 1, 2, 3, 4, 5]);
        assert_eq!(Unreadable::ALL.map(Unreadable::as_str), ["wrong_type", "missing", "unparsable", "implausible"]);
    }

    /// The time `nanos` since 1970 as a hub would store it, to the last digit; ISO 8601 by jiff.
    fn write(nanos: i128, unit: Unit) -> String {
        match unit {
            UnixS => format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000),
            UnixMs => format!("{}.{:06}", nanos / 1_000_000, nanos % 1_000_000),
            UnixUs => format!("{}.{:03}", nanos / 1_000, nanos % 1_000),
            UnixNs => nanos.to_string(),
            DotnetTicks => {
                let since_year_1 = nanos + TICKS_AT_1970 * 100;
                format!("{}.{:02}", since_year_1 / 100, since_year_1 % 100)
            }
            Iso8601 => jiff::Timestamp::from_nanosecond(nanos).unwrap().to_string(),
        }
    }

    /// What jiff makes of `text`, with and without a zone.
    fn jiff(text: &str) -> Option<i128> {
        let zoned = text.parse::<jiff::Timestamp>();
        let civil = || jiff::tz::TimeZone::UTC.to_timestamp(text.parse::<jiff::civil::DateTime>()?);
        zoned.or_else(|_| civil()).ok().map(jiff::Timestamp::as_nanosecond)
    }

    fn zone(name: &str) -> Zone {
        Zone::new(jiff::tz::TimeZoneDatabase::bundled().get(name).unwrap())
    }

    /// 2026 to 2200, when the reaper may run.
    fn nows() -> impl Strategy<Value = Timestamp> {
        (1_767_225_600_000..7_289_654_400_000_i64).prop_map(Timestamp::from_millis)
    }

    fn deadlines() -> impl Strategy<Value = Duration> {
        prop_oneof![Just(0), 0..100 * DAY as u64].prop_map(Duration::from_millis)
    }

    fn units() -> impl Strategy<Value = Unit> {
        prop::sample::select(Unit::ALL.to_vec())
    }

    fn formats() -> impl Strategy<Value = Format> {
        prop_oneof![Just(Auto), units().prop_map(Fixed)]
    }

    fn readings() -> impl Strategy<Value = Reading> {
        prop_oneof![
            4 => (0..5_i64, units()).prop_map(|(ms, unit)| ping(THEN + ms, unit)),
            1 => Just(Absent),
            1 => Just(Sentinel),
            1 => prop::sample::select(Unreadable::ALL.to_vec()).prop_map(Reading::Unreadable),
        ]
    }

    /// Anything, but mostly what looks like a time.
    fn texts() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..80),
            "[ \"]?-?[0-9]{0,22}([.][0-9]{0,12})?[ \"]?".prop_map(String::into_bytes),
            "[0-9TZtz:+., \"-]{0,40}".prop_map(String::into_bytes),
            "[0-9]{4}-[01][0-9]-[0-3][0-9][T ][0-9:.]{0,12}[-+Z]?[0-9:]{0,5}".prop_map(String::into_bytes),
            (-100_i128 * 366 * DAY as i128..500 * 366 * DAY as i128, units()).prop_map(|(millis, unit)| write(
                millis.abs() * 1_000_000,
                unit
            )
            .into_bytes()),
        ]
    }

    proptest! {
        #[test]
        fn whatever_is_stored_a_ping_is_plausible(
            text in texts(), format in formats(), score in any::<f64>(), now in nows(),
            deadline in prop_oneof![deadlines(), any::<u64>().prop_map(Duration::from_secs)],
        ) {
            for raw in [Raw::Text(&text), Raw::Score(score)] {
                if let Reading::Ping { at, unit } = read(raw, format, deadline, now) {
                    prop_assert!(PLAUSIBLE_FROM <= at && at <= plausible_to(now), "{at:?}");
                    prop_assert!(format.allows(unit));
                }
            }
        }

        #[test]
        fn no_time_breaks_it(text in texts(), format in formats(), now in any::<i64>(), score in any::<f64>()) {
            for raw in [Raw::Text(&text), Raw::Score(score)] {
                read(raw, format, Duration::MAX, Timestamp::from_millis(now));
            }
            for unit in Unit::ALL {
                unit.score(Timestamp::from_millis(now));
            }
        }

        #[test]
        fn what_was_written_is_read_and_never_older(
            now in nows(), share in 0.0..1.0, below_ms in 0..1_000_000_i128, unit in units(), deadline in deadlines(),
        ) {
            let from = PLAUSIBLE_FROM.millis();
            let millis = from + ((plausible_to(now).millis() - from) as f64 * share) as i64;
            let true_nanos = millis as i128 * 1_000_000 + below_ms;
            let text = write(true_nanos + deadline.as_nanos() as i128, unit);
            for format in [Auto, Fixed(unit)] {
                let Reading::Ping { at, unit: found } = read(Raw::Text(text.as_bytes()), format, deadline, now) else {
                    return Err(TestCaseError::fail(format!("{text} is not read")));
                };
                let younger_by = at.millis() as i128 * 1_000_000 - true_nanos;
                prop_assert!((0..1_000_000).contains(&younger_by), "{text} is younger by {younger_by} ns");
                prop_assert_eq!(found, unit);
            }
        }

        /// The deadline added to the instant, or to what the clock shows.
        #[test]
        fn what_was_written_by_the_clock_on_the_wall_is_never_read_older(
            name in "Europe/Berlin|America/New_York|Australia/Lord_Howe|Africa/Casablanca",
            now in nows(), since in 0..2 * 366 * DAY, deadline in deadlines(), by_the_wall in any::<bool>(),
        ) {
            let zone = zone(&name);
            let rules = jiff::tz::TimeZoneDatabase::bundled().get(&name).unwrap();
            let at = jiff::Timestamp::from_millisecond(now.millis() - since).unwrap();
            let ahead = jiff::SignedDuration::try_from(deadline).unwrap();
            let shown =
                if by_the_wall { rules.to_datetime(at) + ahead } else { rules.to_datetime(at + ahead) };
            let reader = Reader { format: Auto, zone: &zone, deadline, now };
            let Reading::Ping { at: found, unit } = reader.read(Raw::Text(shown.to_string().as_bytes())) else {
                return Err(TestCaseError::fail(format!("{shown} is not read")));
            };
            let younger_by = found.millis() - at.as_millisecond();
            prop_assert!((0..=2 * 3_600_000).contains(&younger_by), "{} is younger by {} ms", shown, younger_by);
            prop_assert_eq!(unit, Iso8601);
        }

        #[test]
        fn a_score_is_read_back_and_never_older(now in nows(), share in 0.0..1.0, deadline in deadlines()) {
            let from = PLAUSIBLE_FROM.millis();
            let at = Timestamp::from_millis(from + ((plausible_to(now).millis() - from - 1) as f64 * share) as i64);
            for unit in Auto.units() {
                let score = unit.score(at.plus(deadline)).unwrap();
                let Reading::Ping { at: found, unit: as_unit } = read(Raw::Score(score), Auto, deadline, now) else {
                    return Err(TestCaseError::fail(format!("{score} is not read")));
                };
                prop_assert!((0..=1).contains(&found.millis_since(at)), "{score} of {at:?} is read as {found:?}");
                prop_assert_eq!(as_unit, unit);
            }
        }

        #[test]
        fn jiff_reads_the_same(
            text in "20[12][0-9]-?[01][0-9]-?[0-3][0-9][Tt ][0-2][0-9]:?[0-5][0-9]:?[0-5][0-9]([.,][0-9]{1,9})?(Z|z|[-+][01][0-9]:?[0-5][0-9])?",
        ) {
            let Some(ours) = iso_8601(text.as_bytes()) else { return Ok(()) };
            if let Some(theirs) = jiff(&text) {
                let minutes = ours.offset_minutes.unwrap_or_default();
                prop_assert_eq!(ours.shown - minutes * 60 * BILLION, theirs);
            }
        }

        #[test]
        fn the_newest_is_no_matter_of_order(
            (list, shuffled) in prop::collection::vec(readings(), 0..6)
                .prop_flat_map(|list| (Just(list.clone()), Just(list).prop_shuffle())),
        ) {
            let found = newest(list.iter().copied());
            prop_assert_eq!(found, newest(shuffled));
            if let Ok((newest, _)) = found {
                for reading in list {
                    match reading {
                        Reading::Ping { at, .. } => prop_assert!(at <= newest),
                        Reading::Absent | Reading::Sentinel => {}
                        Reading::Unreadable(_) => prop_assert!(false, "passed over {:?}", reading),
                    }
                }
            }
        }
    }
}
