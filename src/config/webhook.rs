//! The keys beside `webhook` in a notification → how it is told.

use std::path::PathBuf;
use std::time::Duration;

use super::reader::{Bounds, Notes, Table, boolean, duration, number, text};
use super::tree::Node;
use crate::language::Mistake;
use crate::webhook::{Secret, Settings, Url};

/// They belong beside `webhook` and nowhere else.
pub(super) const KEYS: [&str; 7] = ["secret", "secret_file", "ca_file", "timeout", "batch", "queue", "outbox"];

const TIMEOUTS: Bounds = Bounds {
    least: Duration::from_millis(100),
    most: Duration::from_secs(60),
    why: "what waits behind a receiver that hangs would wait too long",
};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_BATCH: u32 = 100;
const DEFAULT_QUEUE: u32 = 10_000;

/// Refuses what belongs beside a webhook where there is none.
pub(super) fn refuse(table: &mut Table, notes: &mut Notes) {
    for key in KEYS {
        if let Some(entry) = table.take(notes, key) {
            let mistake = Mistake::new("there is no webhook here").hint("leave it out; it belongs beside `webhook`");
            notes.mistake(&entry.place, key, table, mistake);
        }
    }
}

/// Reads the URL and what stands beside it.
pub(super) fn read(table: &mut Table, url: &Node, notes: &mut Notes) -> Option<Settings> {
    let url = table.read(notes, "webhook", url, |value| {
        Url::parse(text(value)?).map_err(|wrong| Mistake::new(wrong.what).hint(wrong.remedy))
    });
    let path = |value: &super::tree::Value| match text(value)? {
        "" => Err(Mistake::new("it names no file").hint("leave it out")),
        path => Ok(PathBuf::from(path)),
    };
    let secret = table.get(notes, "secret", |value| match text(value)? {
        "" => Err(Mistake::new("an empty secret proves nothing").hint("leave it out, and nothing is signed")),
        secret => Ok(secret.to_owned()),
    });
    let secret_file = table.get(notes, "secret_file", path);
    if let (Some(_), Some(file)) = (&secret, &secret_file) {
        let mistake = Mistake::new("both a secret and a secret file are set, and only one can count");
        let hint = "keep `secret_file`: it is read again at every delivery";
        notes.mistake(&file.place, "secret_file", table, mistake.hint(hint));
    }
    let ca_file = table.get(notes, "ca_file", path);
    if let (Some(file), Some(url)) = (&ca_file, &url)
        && !url.value.is_secure()
    {
        let mistake = Mistake::new("it is for TLS, and the URL is one without");
        notes.mistake(&file.place, "ca_file", table, mistake.hint("write https:// in `webhook`, or leave this out"));
    }
    let timeout = table.get(notes, "timeout", |value| duration(value, &TIMEOUTS));
    let batch = table.get(notes, "batch", |value| number(value, 1..=1_000));
    let queue = table.get(notes, "queue", |value| number(value, 1..=1_000_000));
    let outbox = table.get(notes, "outbox", boolean).is_some_and(|read| read.value);
    if let Some(queue) = queue.as_ref().filter(|_| outbox) {
        let mistake = Mistake::new("what waits in an outbox waits in no queue");
        notes.mistake(&queue.place, "queue", table, mistake.hint("leave it out: an outbox drops nothing"));
    }
    let secret = secret.map(|read| Secret::Text(read.value));
    Some(Settings {
        url: url?.value,
        secret: secret.or(secret_file.map(|read| Secret::File(read.value))),
        ca_file: ca_file.map(|read| read.value),
        timeout: timeout.map_or(DEFAULT_TIMEOUT, |read| read.value),
        batch: batch.map_or(DEFAULT_BATCH, |read| read.value),
        queue: queue.map_or(DEFAULT_QUEUE, |read| read.value),
        outbox,
    })
}
