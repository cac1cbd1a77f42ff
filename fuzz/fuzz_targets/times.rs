//! Whatever is stored, a last ping lies within the plausible; and a time that is written out in any format reads back,
//! rounded up, never older.

#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use arbitrary::Arbitrary;
use jiff::Timestamp as Instant;
use jiff::tz::{Offset, TimeZone, TimeZoneDatabase};
use libfuzzer_sys::fuzz_target;
use presence_reaper::policy::entry::Timestamp;
use presence_reaper::policy::ping::{Format, PLAUSIBLE_FROM, Raw, Reader, Reading, Unit, newest, plausible_to};
use presence_reaper::policy::zone::Zone;

static ZONES: LazyLock<[(TimeZone, Zone); 4]> = LazyLock::new(|| {
    ["UTC", "Europe/Berlin", "Australia/Lord_Howe", "Africa/Casablanca"].map(|name| {
        let rules = TimeZoneDatabase::bundled().get(name).expect("a zone");
        (rules.clone(), Zone::new(rules))
    })
});

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    texts: Vec<&'a [u8]>,
    score: f64,
    format: u8,
    zone: u8,
    deadline_ms: u32,
    now: i64,
    /// A time that is written out, in nanoseconds after the first that is plausible.
    at: u64,
    offset_minutes: i16,
    shape: u8,
}

/// 2026-01-01T00:00:00Z.
const NOW: i64 = 1_767_225_600_000;

const NANOS: i128 = 1_000_000;

fuzz_target!(|input: Input<'_>| {
    let formats: Vec<Format> = std::iter::once(Format::Auto).chain(Unit::ALL.map(Format::Fixed)).collect();
    let (rules, zone) = &ZONES[usize::from(input.zone % 4)];
    let reader = Reader {
        format: formats[usize::from(input.format) % formats.len()],
        zone,
        deadline: Duration::from_millis(input.deadline_ms.into()),
        now: Timestamp::from_millis(input.now),
    };
    let raws = input.texts.iter().map(|text| Raw::Text(text));
    let raws: Vec<Raw<'_>> = raws.chain([Raw::Score(input.score), Raw::Absent, Raw::Odd]).collect();
    let readings: Vec<Reading> = raws.iter().map(|raw| within(&reader, *raw)).collect();
    spoils(&readings);
    let today = Reader { now: Timestamp::from_millis(NOW), ..reader };
    for text in &input.texts {
        within(&today, Raw::Text(text));
        beside_jiff(&today, text);
    }
    comes_back(&input, &today, rules);
});

/// What is read is plausible, and in a unit that was asked for.
fn within(reader: &Reader<'_>, raw: Raw<'_>) -> Reading {
    let reading = reader.read(raw);
    if let Reading::Ping { at, unit } = reading {
        assert!(PLAUSIBLE_FROM <= at && at <= plausible_to(reader.now), "{raw:?} is {at}");
        assert!(reader.format == Format::Auto || reader.format == Format::Fixed(unit), "{raw:?} in {unit:?}");
        // What finds its unit by itself reads the same when it is told.
        let told = Reader { format: Format::Fixed(unit), ..*reader };
        assert_eq!(told.read(raw), reading, "{raw:?}");
    }
    reading
}

/// One that is unreadable spoils the newest, whatever the order.
fn spoils(readings: &[Reading]) {
    let unreadable = readings.iter().any(|reading| matches!(reading, Reading::Unreadable(_)));
    let pings = readings.iter().filter_map(|reading| match reading {
        Reading::Ping { at, .. } => Some(*at),
        _ => None,
    });
    let found = newest(readings.iter().copied());
    assert_eq!(found, newest(readings.iter().rev().copied()));
    assert_eq!(found.ok().map(|(at, _)| at), if unreadable { None } else { pings.max() });
}

/// Where jiff reads a text as an instant too, ours is none that is older; and by a minute at most the younger, for a time
/// without its seconds is taken for the end of that minute.
fn beside_jiff(reader: &Reader<'_>, text: &[u8]) {
    let Some(theirs) = std::str::from_utf8(text).ok().and_then(|text| text.trim_ascii().parse::<Instant>().ok()) else {
        return;
    };
    let reader = Reader { deadline: Duration::ZERO, format: Format::Auto, ..*reader };
    if let Reading::Ping { at, unit } = reader.read(Raw::Text(text)) {
        assert_eq!(unit, Unit::Iso8601);
        let later = i128::from(at.millis()) * NANOS - theirs.as_nanosecond();
        assert!((0..=60_000 * NANOS).contains(&later), "{} is {at}, not {theirs}", text.escape_ascii());
    }
}

fn comes_back(input: &Input<'_>, reader: &Reader<'_>, rules: &TimeZone) {
    let span = i128::from(NOW - PLAUSIBLE_FROM.millis()) * NANOS;
    let nanos = i128::from(PLAUSIBLE_FROM.millis()) * NANOS + i128::from(input.at) % span;
    let millis = i64::try_from(nanos.div_euclid(NANOS) + i128::from(nanos.rem_euclid(NANOS) != 0)).expect("in range");
    let expected = Timestamp::from_millis(millis);
    let instant = Instant::from_nanosecond(nanos).expect("in range");
    let reader = Reader { format: Format::Auto, deadline: Duration::ZERO, ..*reader };
    let reads = |text: &str| reader.read(Raw::Text(text.as_bytes()));

    let offset = Offset::from_seconds(i32::from(input.offset_minutes % (14 * 60 + 1)) * 60).expect("in range");
    let shown = offset.to_datetime(instant);
    let pattern = ["%Y-%m-%dT%H:%M:%S%.9f", "%Y-%m-%d %H:%M:%S%.9f", "%Y%m%dT%H%M%S%.9f", "%Y-%m-%dt%H:%M:%S%.f"]
        [usize::from(input.shape % 4)];
    let sign = if offset.seconds() < 0 { '-' } else { '+' };
    let minutes = offset.seconds().abs() / 60;
    let (hh, mm) = (minutes / 60, minutes % 60);
    let colon = if input.shape & 4 == 0 { ":" } else { "" };
    let text = format!("{}{sign}{hh:02}{colon}{mm:02}", shown.strftime(pattern));
    assert_eq!(reads(&text), Reading::Ping { at: expected, unit: Unit::Iso8601 }, "{text}");
    assert_eq!(reads(&instant.to_string()), Reading::Ping { at: expected, unit: Unit::Iso8601 }, "{instant}");

    // By a clock on the wall it may be the hour that comes twice: then it is the later of the two, and never an older.
    let local = rules.to_datetime(instant).strftime("%Y-%m-%dT%H:%M:%S%.9f").to_string();
    match reads(&local) {
        Reading::Ping { at, .. } => {
            let later = at.millis_since(expected);
            let ambiguous = rules.to_ambiguous_timestamp(rules.to_datetime(instant)).is_ambiguous();
            assert!(later == 0 || (ambiguous && (0..=3_600_000).contains(&later)), "{local} is {at}, not {expected}");
        }
        // The later of two hours may be after tomorrow; nothing else may be lost.
        other => panic!("{local} is {other:?}"),
    }

    // Numbers, exactly; as scores, within what a double of that size can tell apart.
    for (unit, per_milli) in [(Unit::UnixMs, 1), (Unit::UnixUs, 1_000), (Unit::UnixNs, 1_000_000)] {
        let number = (i128::from(millis) * per_milli).to_string();
        assert_eq!(reads(&number), Reading::Ping { at: expected, unit }, "{number}");
    }
    let seconds = format!("{}.{:03}", millis.div_euclid(1_000), millis.rem_euclid(1_000));
    assert_eq!(reads(&seconds), Reading::Ping { at: expected, unit: Unit::UnixS }, "{seconds}");
    for unit in Unit::ALL {
        let Some(score) = unit.score(expected) else { continue };
        match reader.read(Raw::Score(score)) {
            Reading::Ping { at, unit: found } => {
                assert_eq!(found, unit, "{score}");
                assert!(at.millis_since(expected).abs() <= 1, "{score} is {at}, not {expected}");
            }
            // Rounding may lead just out of what is plausible.
            _ => assert!(expected.millis_since(PLAUSIBLE_FROM) <= 1, "{score} is {expected}"),
        }
    }
}
