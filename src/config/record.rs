//! The table `[audit]` → where evictions are recorded.

use std::path::{Path, PathBuf};

use super::guard::key;
use super::reader::{Notes, Table, number, text};
use super::{At, SourceConfig};
use crate::language::action::OWN_PREFIX;
use crate::language::source::Kind;
use crate::language::{Mistake, shown};
use crate::store::record::Stream;

/// A week or two for most; a record is about a kilobyte.
const MAXLEN: u32 = 100_000;

/// Where evictions are recorded: in neither, one or both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// A line an eviction in this file.
    pub file: Option<PathBuf>,
    /// An entry an eviction in this stream, in the database of each source.
    pub stream: Option<Stream>,
}

/// Reads the table. A stream may be none of the keys of `sources`.
pub(super) fn read(mut table: Table, sources: &[SourceConfig], notes: &mut Notes) -> Audit {
    let file = table.get(notes, "file", |value| path(text(value)?));
    let stream = table.get(notes, "stream", |value| key(text(value)?));
    let maxlen = table.get(notes, "maxlen", |value| number(value, 1..=u32::MAX));
    if let Some(At { value: Some(key), place }) = &stream
        && let Err(mistake) = check_stream(key, sources)
    {
        notes.mistake(place, "stream", &table, mistake);
    }
    table.finish(notes);
    let maxlen = maxlen.map_or(MAXLEN, |read| read.value);
    let stream = stream.and_then(|read| read.value).map(|key| Stream { key, maxlen });
    Audit { file: file.and_then(|read| read.value), stream }
}

/// A daemon's directory is not where it was configured.
fn path(text: &str) -> Result<Option<PathBuf>, Mistake> {
    match text {
        "" => Ok(None),
        path if Path::new(path).is_absolute() => Ok(Some(path.into())),
        path => Err(Mistake::new(format!("`{}` does not say from where it leads", shown(path.as_bytes())))
            .hint("write the whole path, as \"/var/log/presence-reaper/audit.ndjson\"")),
    }
}

fn check_stream(key: &[u8], sources: &[SourceConfig]) -> Result<(), Mistake> {
    let name = shown(key);
    if key.starts_with(OWN_PREFIX) {
        return Err(Mistake::new(format!("the stream `{name}` lies among the reaper's own keys"))
            .hint("keys under presence-reaper: are its state; write \"presence-audit\", for example"));
    }
    let meets = |one: &&SourceConfig| {
        let (container, by_shape) = (&one.source.container, one.source.container.kind() == Kind::Keys);
        let is_entry = by_shape && container.matches(key) && !one.source.ignores(key);
        container.names_exactly(key) || is_entry
    };
    match sources.iter().find(meets) {
        Some(one) => {
            Err(Mistake::new(format!("the stream `{name}` can be a key of [[source]] \"{}\"", one.source.name))
                .hint("name one that no entry can have, or say in `ignore` of that source that it is none"))
        }
        None => Ok(()),
    }
}
