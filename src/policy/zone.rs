//! Where a hub's clock on the wall hangs: what it shows → when that was.

use jiff::tz::{AmbiguousOffset, Offset, TimeZone};

/// Nanoseconds in a second.
const BILLION: i128 = 1_000_000_000;

/// The zone of times that are written without an offset, with the rules it had when it was resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(TimeZone);

impl Zone {
    /// No shift, no changes.
    pub const UTC: Self = Self(TimeZone::UTC);

    /// A zone by its rules.
    pub fn new(rules: TimeZone) -> Self {
        Self(rules)
    }

    /// Its IANA name.
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    /// When a clock that hangs here shows `local`, both in nanoseconds since 1970; none beyond the year 9999.
    ///
    /// Where clocks are set back a time comes twice, where they are set forward some never come. Of the two offsets that
    /// may be meant the smaller makes the later instant: an entry may come out too young by the change, never too old.
    pub(super) fn instant(&self, local: i128) -> Option<i128> {
        let second = i64::try_from(local.div_euclid(BILLION)).ok()?;
        let shown = Offset::UTC.to_datetime(jiff::Timestamp::from_second(second).ok()?);
        let offset = match self.0.to_ambiguous_timestamp(shown).offset() {
            AmbiguousOffset::Unambiguous { offset } => offset,
            AmbiguousOffset::Gap { before, after } | AmbiguousOffset::Fold { before, after } => before.min(after),
        };
        Some(local - i128::from(offset.seconds()) * BILLION)
    }
}

impl Default for Zone {
    fn default() -> Self {
        Self::UTC
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::DateTime;
    use jiff::tz::TimeZoneDatabase;
    use proptest::prelude::*;

    use super::*;

    fn zone(name: &str) -> Zone {
        Zone::new(TimeZoneDatabase::bundled().get(name).unwrap())
    }

    /// What is shown, and when that was, both as text; the fraction goes through untouched.
    #[track_caller]
    fn check(name: &str, shown: &str, expected: &str) {
        let local = shown.parse::<DateTime>().unwrap().to_zoned_datetime(TimeZone::UTC).unwrap();
        let instant = zone(name).instant(local.timestamp().as_nanosecond()).unwrap();
        let instant = jiff::Timestamp::from_nanosecond(instant).unwrap();
        assert_eq!(instant, expected.parse().unwrap(), "{shown} in {name} is {instant}");
    }

    #[test]
    fn a_time_that_never_comes_is_the_later_one() {
        check("Europe/Berlin", "2026-03-29T01:59:59.999", "2026-03-29T00:59:59.999Z");
        check("Europe/Berlin", "2026-03-29T02:00", "2026-03-29T01:00Z");
        check("Europe/Berlin", "2026-03-29T02:30", "2026-03-29T01:30Z");
        check("Europe/Berlin", "2026-03-29T02:59:59.999", "2026-03-29T01:59:59.999Z");
        check("Europe/Berlin", "2026-03-29T03:00", "2026-03-29T01:00Z");
        check("America/New_York", "2026-03-08T01:59:59.999", "2026-03-08T06:59:59.999Z");
        check("America/New_York", "2026-03-08T02:00", "2026-03-08T07:00Z");
        check("America/New_York", "2026-03-08T02:59:59.999", "2026-03-08T07:59:59.999Z");
        check("America/New_York", "2026-03-08T03:00", "2026-03-08T07:00Z");
        // By half an hour.
        check("Australia/Lord_Howe", "2026-10-04T01:59:59.999", "2026-10-03T15:29:59.999Z");
        check("Australia/Lord_Howe", "2026-10-04T02:00", "2026-10-03T15:30Z");
        check("Australia/Lord_Howe", "2026-10-04T02:29:59.999", "2026-10-03T15:59:59.999Z");
        check("Australia/Lord_Howe", "2026-10-04T02:30", "2026-10-03T15:30Z");
        // A whole day that a country left out.
        check("Pacific/Apia", "2011-12-29T23:59:59.999", "2011-12-30T09:59:59.999Z");
        check("Pacific/Apia", "2011-12-30T12:00", "2011-12-30T22:00Z");
        check("Pacific/Apia", "2011-12-31T00:00", "2011-12-30T10:00Z");
    }

    #[test]
    fn a_time_that_comes_twice_is_the_later_one() {
        check("Europe/Berlin", "2026-10-25T01:59:59.999", "2026-10-24T23:59:59.999Z");
        check("Europe/Berlin", "2026-10-25T02:00", "2026-10-25T01:00Z");
        check("Europe/Berlin", "2026-10-25T02:59:59.999", "2026-10-25T01:59:59.999Z");
        check("Europe/Berlin", "2026-10-25T03:00", "2026-10-25T02:00Z");
        check("America/New_York", "2026-11-01T00:59:59.999", "2026-11-01T04:59:59.999Z");
        check("America/New_York", "2026-11-01T01:00", "2026-11-01T06:00Z");
        check("America/New_York", "2026-11-01T01:59:59.999", "2026-11-01T06:59:59.999Z");
        check("America/New_York", "2026-11-01T02:00", "2026-11-01T07:00Z");
        check("Australia/Lord_Howe", "2026-04-05T01:29:59.999", "2026-04-04T14:29:59.999Z");
        check("Australia/Lord_Howe", "2026-04-05T01:30", "2026-04-04T15:00Z");
        check("Australia/Lord_Howe", "2026-04-05T01:59:59.999", "2026-04-04T15:29:59.999Z");
        check("Australia/Lord_Howe", "2026-04-05T02:00", "2026-04-04T15:30Z");
        // Back for the month of Ramadan, forward after it.
        check("Africa/Casablanca", "2026-02-15T01:59:59.999", "2026-02-15T00:59:59.999Z");
        check("Africa/Casablanca", "2026-02-15T02:00", "2026-02-15T02:00Z");
        check("Africa/Casablanca", "2026-02-15T02:59:59.999", "2026-02-15T02:59:59.999Z");
        check("Africa/Casablanca", "2026-03-22T02:30", "2026-03-22T02:30Z");
        check("Africa/Casablanca", "2026-03-22T03:00", "2026-03-22T02:00Z");
    }

    #[test]
    fn a_time_that_comes_once_is_that() {
        check("UTC", "2026-03-29T02:30", "2026-03-29T02:30Z");
        check("Asia/Kathmandu", "2026-07-01T05:45", "2026-07-01T00:00Z");
        check("Asia/Kathmandu", "1985-12-31T23:59:59", "1985-12-31T18:29:59Z");
        check("Pacific/Kiritimati", "2026-01-01T00:00", "2025-12-31T10:00Z");
        check("Etc/GMT+12", "2026-01-01T00:00", "2026-01-01T12:00Z");
        // Far behind the last change on record there is a rule.
        check("Europe/Berlin", "2199-07-01T00:00", "2199-06-30T22:00Z");
        check("Europe/Berlin", "1965-07-01T00:00", "1965-06-30T23:00Z");
    }

    #[test]
    fn where_time_ends_there_is_none() {
        let berlin = zone("Europe/Berlin");
        for local in [i128::MAX, i128::MIN, 253_402_300_800 * BILLION, i128::from(i64::MIN) * BILLION] {
            assert_eq!(berlin.instant(local), None, "{local}");
        }
    }

    #[test]
    fn names() {
        assert_eq!((Zone::default().name(), zone("utc").name()), ("UTC", "UTC"));
        assert_eq!(zone("europe/berlin").name(), "Europe/Berlin");
    }

    /// Zones that change by an hour, by half an hour, back in winter, and by something else than whole hours.
    const ZONES: [&str; 8] = [
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "Africa/Casablanca",
        "Asia/Kathmandu",
        "America/St_Johns",
        "Europe/Dublin",
        "UTC",
    ];

    /// Instants of 2015 to 2100, half of them within two hours of a change of that zone.
    fn instants() -> impl Strategy<Value = (&'static str, i128)> {
        let anywhen = 1_420_070_400..4_102_444_800_i64;
        (prop::sample::select(&ZONES[..]), anywhen, any::<bool>(), -7_200..7_200_i64, 0..BILLION).prop_map(
            |(name, second, near, beside, nanos)| {
                let at = jiff::Timestamp::from_second(second).unwrap();
                let rules = zone(name).0;
                let change = rules.preceding(at).next().map(|change| change.timestamp().as_second()).filter(|_| near);
                (name, i128::from(change.map_or(second, |change| change + beside)) * BILLION + nanos)
            },
        )
    }

    proptest! {
        #[test]
        fn what_a_clock_showed_is_never_read_older((name, instant) in instants()) {
            let zone = zone(name);
            let shown_at = |instant: i128| {
                let at = jiff::Timestamp::from_nanosecond(instant).unwrap();
                instant + i128::from(zone.0.to_offset(at).seconds()) * BILLION
            };
            let shown = shown_at(instant);
            let read = zone.instant(shown).unwrap();
            prop_assert!(read >= instant, "older by {}", instant - read);
            // Younger only where the clock showed the same once more.
            prop_assert_eq!(shown_at(read), shown);
            prop_assert!(read - instant <= 3_600 * BILLION);
        }
    }
}
