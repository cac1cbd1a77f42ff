//! `[guard]` and `[source.guard]`: the same keys, the second over the first.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::reader::{Bounds, Notes, Table, duration, number, text};
use super::tree::Value;
use crate::language::{Mistake, words};
use crate::policy::entry::Bytes;
use crate::policy::guard::Settings;
use crate::policy::load::Limits;

const WAITS: Bounds = Bounds {
    least: Duration::from_millis(1),
    most: Duration::from_secs(30 * 24 * 3600),
    why: "nobody would see it end",
};

const EXTRAS: Bounds = Bounds { least: Duration::ZERO, ..WAITS };

/// Reads the table; what it leaves out stays as in `base`.
pub(super) fn read(mut table: Table, base: Settings, notes: &mut Notes) -> Settings {
    let reconnect_grace = table.get(notes, "reconnect_grace", |value| duration(value, &WAITS));
    let silence_release = table.get(notes, "silence_release", wait_or_never);
    let group_extra = table.get(notes, "group_extra", |value| duration(value, &EXTRAS));
    let max_evict_rate = table.get(notes, "max_evict_rate", |value| match value {
        Value::Text(word) | Value::Untyped(word) if word == "unlimited" => Ok(None),
        _ => number(value, 1..=1_000_000).map(Some).map_err(|mistake| or_word(mistake, "unlimited")),
    });
    let max_keys = table.get(notes, "max_keys", |value| number(value, 1..=10_000_000));
    let writer_witness = table.get(notes, "writer_witness", |value| key(text(value)?));
    let load = limits(&mut table, base.load, notes);
    table.finish(notes);
    Settings {
        reconnect_grace: reconnect_grace.map_or(base.reconnect_grace, |read| read.value),
        silence_release: silence_release.map_or(base.silence_release, |read| read.value),
        group_extra: group_extra.map_or(base.group_extra, |read| read.value),
        writer_witness: writer_witness.map_or(base.writer_witness, |read| read.value),
        load,
        max_evict_rate: max_evict_rate.map_or(base.max_evict_rate, |read| read.value),
        max_keys: max_keys.map_or(base.max_keys, |read| read.value),
    }
}

/// When evicting pauses.
fn limits(table: &mut Table, base: Limits, notes: &mut Notes) -> Limits {
    let batch_latency = table.get(notes, "pause_batch_latency", wait_or_never);
    let round_trip = table.get(notes, "pause_round_trip", wait_or_never);
    let replica_lag = table.get(notes, "pause_replica_lag", wait_or_never);
    let memory_percent = table.get(notes, "pause_memory_percent", |value| number_or_never(value, 1..=100));
    let lazyfree = table.get(notes, "pause_lazyfree", |value| number_or_never(value, 1..=u32::MAX));
    Limits {
        batch_latency: batch_latency.map_or(base.batch_latency, |read| read.value),
        round_trip: round_trip.map_or(base.round_trip, |read| read.value),
        replica_lag: replica_lag.map_or(base.replica_lag, |read| read.value),
        memory_percent: memory_percent.map_or(base.memory_percent, |read| read.value),
        lazyfree: lazyfree.map_or(base.lazyfree, |read| read.value),
    }
}

fn wait_or_never(value: &Value) -> Result<Option<Duration>, Mistake> {
    match text(value) {
        Ok("never") => Ok(None),
        _ => duration(value, &WAITS).map(Some).map_err(|mistake| or_word(mistake, "never")),
    }
}

fn number_or_never(value: &Value, allowed: RangeInclusive<u32>) -> Result<Option<u32>, Mistake> {
    match value {
        Value::Text(word) | Value::Untyped(word) if word == "never" => Ok(None),
        _ => number(value, allowed).map(Some).map_err(|mistake| or_word(mistake, "never")),
    }
}

/// One key, as redis-cli takes it; the empty text is none.
pub(super) fn key(text: &str) -> Result<Option<Bytes>, Mistake> {
    if text.is_empty() { Ok(None) } else { words::one(text, "the key").map(|key| Some(key.into())) }
}

/// The word that may stand in place of the number.
fn or_word(mistake: Mistake, word: &str) -> Mistake {
    let hint = match &mistake.hint {
        Some(hint) => format!("{hint}; or write \"{word}\""),
        None => format!("or write \"{word}\""),
    };
    mistake.hint(hint)
}
