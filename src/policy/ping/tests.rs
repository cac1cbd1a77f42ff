//! What becomes of stored bytes.

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
    for format in [Auto].into_iter().chain(Unit::STORED.map(Fixed)) {
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
    for unit in Unit::STORED {
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
    for format in [Auto].into_iter().chain(Unit::STORED.map(Fixed)) {
        assert_eq!(Format::parse(format.as_str()), Some(format));
    }
    assert_eq!(Format::parse("Auto"), None);
    assert_eq!(Format::parse("ms"), None);
    assert_eq!(Fixed(UnixMs).units().collect::<Vec<_>>(), [UnixMs]);
    assert_eq!(Fixed(Iso8601).units().count(), 0);
    assert_eq!(Unreadable::ALL.map(Unreadable::index), [0, 1, 2, 3]);
    assert_eq!(Unit::ALL.map(Unit::index), std::array::from_fn(|at| at));
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
        Unit::Exists | Unit::Idle | Unit::Unchanged | Unit::Missing => unreachable!("no hub writes these"),
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
    prop::sample::select(Unit::STORED.to_vec())
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
        for unit in Unit::STORED {
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
