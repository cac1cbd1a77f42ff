//! `[guard]` and `[source.guard]`: the same keys, the second over the first.

use std::time::Duration;

use super::reader::{Bounds, Notes, Table, duration, number, text};
use super::tree::Value;
use crate::language::Mistake;
use crate::policy::guard::Settings;

const WAITS: Bounds = Bounds {
    least: Duration::from_millis(1),
    most: Duration::from_secs(30 * 24 * 3600),
    why: "nobody would see it end",
};

const EXTRAS: Bounds = Bounds { least: Duration::ZERO, ..WAITS };

/// Reads the table; what it leaves out stays as in `base`.
pub(super) fn read(mut table: Table, base: Settings, notes: &mut Notes) -> Settings {
    let reconnect_grace = table.get(notes, "reconnect_grace", |value| duration(value, &WAITS));
    let silence_release = table.get(notes, "silence_release", |value| match text(value) {
        Ok("never") => Ok(None),
        _ => duration(value, &WAITS).map(Some).map_err(|mistake| or_word(mistake, "never")),
    });
    let group_extra = table.get(notes, "group_extra", |value| duration(value, &EXTRAS));
    let max_evict_rate = table.get(notes, "max_evict_rate", |value| match value {
        Value::Text(word) | Value::Untyped(word) if word == "unlimited" => Ok(None),
        _ => number(value, 1..=1_000_000).map(Some).map_err(|mistake| or_word(mistake, "unlimited")),
    });
    let max_keys = table.get(notes, "max_keys", |value| number(value, 1..=10_000_000));
    table.finish(notes);
    Settings {
        reconnect_grace: reconnect_grace.map_or(base.reconnect_grace, |read| read.value),
        silence_release: silence_release.map_or(base.silence_release, |read| read.value),
        group_extra: group_extra.map_or(base.group_extra, |read| read.value),
        max_evict_rate: max_evict_rate.map_or(base.max_evict_rate, |read| read.value),
        max_keys: max_keys.map_or(base.max_keys, |read| read.value),
    }
}

/// The word that may stand in place of the number.
fn or_word(mistake: Mistake, word: &str) -> Mistake {
    let hint = match &mistake.hint {
        Some(hint) => format!("{hint}; or write \"{word}\""),
        None => format!("or write \"{word}\""),
    };
    mistake.hint(hint)
}
