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
    /// Not at all: a key is there.
    Exists,
    /// Not at all: by Redis, when the key was last read or written.
    Idle,
    /// Not at all: by us, when the value became what it is.
    Unchanged,
    /// Not at all: by us, when what is looked up went away.
    Missing,
}

impl Unit {
    /// Those in which hubs write times.
    pub const STORED: [Self; 6] =
        [Self::UnixS, Self::UnixMs, Self::UnixUs, Self::UnixNs, Self::DotnetTicks, Self::Iso8601];

    /// Every unit, in the order of [`Self::index`].
    pub const ALL: [Self; 10] = [
        Self::UnixS,
        Self::UnixMs,
        Self::UnixUs,
        Self::UnixNs,
        Self::DotnetTicks,
        Self::Iso8601,
        Self::Exists,
        Self::Idle,
        Self::Unchanged,
        Self::Missing,
    ];

    /// The unit's name in a configuration and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnixS => "unix-s",
            Self::UnixMs => "unix-ms",
            Self::UnixUs => "unix-us",
            Self::UnixNs => "unix-ns",
            Self::DotnetTicks => "dotnet-ticks",
            Self::Iso8601 => "iso-8601",
            Self::Exists => "exists",
            Self::Idle => "idle",
            Self::Unchanged => "unchanged",
            Self::Missing => "missing",
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
            Self::Iso8601 | Self::Exists | Self::Idle | Self::Unchanged | Self::Missing => None,
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
        Unit::STORED.into_iter().find(|unit| unit.as_str() == name).map(Self::Fixed)
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
        Unit::STORED.into_iter().filter(move |&unit| unit != Unit::Iso8601 && self.allows(unit))
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
            Unit::Iso8601 | Unit::Exists | Unit::Idle | Unit::Unchanged | Unit::Missing => return None,
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
mod tests;
