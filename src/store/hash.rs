//! Hashes: an entry is a field, its value holds the last ping.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use redis::Value;

use super::connect::{Link, Live};
use super::error::Error;
use super::own::Own;
use super::status::Purpose;
use super::{Held, Reading, Taker, reply, scan};
use crate::language::source::Source;
use crate::policy::entry::{Bytes, EntryId, Now};

/// Reads the whole hash, unless who takes it has enough.
pub(super) async fn walk(reading: &Reading<'_>, key: &Bytes, into: &mut impl Taker) -> Result<ControlFlow<()>, Error> {
    scan::walk(reading, "HSCAN", key, into, |into, now, field, value| {
        take(reading.source, key, now, field, value, into)
    })
    .await
}

/// Hands over a field as read at `now`.
pub(super) fn take(
    source: &Source,
    key: &Bytes,
    now: Now,
    field: Vec<u8>,
    value: Value,
    into: &mut impl Taker,
) -> Result<ControlFlow<()>, reply::Unexpected> {
    if source.ignores(&field) {
        return Ok(ControlFlow::Continue(()));
    }
    let own = Own::Value(reply::some_bytes(value)?);
    Ok(into.take(now, Some(own), || EntryId::member(key.clone(), field)))
}

pub(super) async fn look(
    link: &Link,
    live: &Live,
    source: &Source,
    ids: &[EntryId],
) -> Result<(Now, Vec<Held>), Error> {
    let doing = super::looking(source);
    let mut of_key: BTreeMap<&Bytes, Vec<usize>> = BTreeMap::new();
    ids.iter().enumerate().for_each(|(at, id)| of_key.entry(&id.key).or_default().push(at));
    let mut commands = redis::pipe();
    commands.cmd("TIME");
    for (key, places) in &of_key {
        let fields: Vec<&[u8]> = places.iter().map(|at| ids[*at].name()).collect();
        commands.cmd("HMGET").arg(&key[..]).arg(fields);
    }
    let mut replies = link.ask(live, Purpose::Read, &doing, &commands).await?.into_iter();
    let now = link.now(&doing, replies.next().unwrap_or_default())?;
    let mut held = vec![Held::Nothing; ids.len()];
    for (places, reply) in of_key.into_values().zip(replies) {
        let read = || {
            if places.first().is_some_and(|at| super::became_another(source, &ids[*at], &reply)) {
                places.iter().for_each(|at| held[*at] = Held::WrongType);
                return Ok(());
            }
            places.iter().zip(reply::array(reply)?).try_for_each(|(at, value)| {
                if let Some(value) = reply::bytes(value)? {
                    held[*at] = Held::Own(Own::Value(value));
                }
                Ok(())
            })
        };
        read().map_err(|unexpected| link.unexpected(&doing, unexpected))?;
    }
    Ok((now, held))
}
