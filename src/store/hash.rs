//! One hash: an entry is a field, its value holds the last ping.

use super::connect::{Link, Live};
use super::error::Error;
use super::own::{self, Own};
use super::status::Purpose;
use super::{Found, Reading, reply, scan};
use crate::language::source::Source;
use crate::policy::entry::{Bytes, EntryId, Now};
use crate::policy::survey::Survey;

pub(super) async fn survey(reading: &Reading<'_>, key: &Bytes, survey: &mut Survey) -> Result<(), Error> {
    let source = reading.source;
    scan::walk(reading, "HSCAN", key, survey, |survey, now, field, value| {
        if !source.ignores(&field) {
            let own = Own::Value(reply::some_bytes(value)?);
            own::observe(source, &own, now, survey, || EntryId::member(key.clone(), field));
        }
        Ok(())
    })
    .await
}

pub(super) async fn look(
    link: &Link,
    live: &Live,
    source: &Source,
    key: &Bytes,
    ids: &[EntryId],
) -> Result<(Now, Vec<Found>), Error> {
    let doing = super::looking(source);
    let mut commands = redis::pipe();
    commands.cmd("TIME");
    if !ids.is_empty() {
        let fields: Vec<&[u8]> = ids.iter().map(EntryId::name).collect();
        commands.cmd("HMGET").arg(&key[..]).arg(fields);
    }
    let mut replies = link.ask(live, Purpose::Read, &doing, &commands).await?.into_iter();
    let now = link.now(&doing, replies.next().unwrap_or_default())?;
    let unexpected = |unexpected| link.unexpected(&doing, unexpected);
    let values = replies.next().map_or_else(|| Ok(Vec::new()), reply::array).map_err(unexpected)?;
    let found = ids.iter().zip(values).map(|(id, value)| {
        Ok(reply::bytes(value)?.map_or(Found::Gone, |value| Found::entry(source, id, Own::Value(value), now)))
    });
    Ok((now, found.collect::<Result<_, _>>().map_err(unexpected)?))
}
