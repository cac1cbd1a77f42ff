//! Sets: an entry is a member, and what tells of it stands elsewhere.

use std::ops::ControlFlow;

use redis::Value;

use super::connect::{Link, Live};
use super::error::Error;
use super::own::Own;
use super::status::Purpose;
use super::{Held, Taker, reply};
use crate::language::source::Source;
use crate::policy::entry::{Bytes, EntryId, Now};

/// Hands over a member as read at `now`.
pub(super) fn take(source: &Source, key: &Bytes, now: Now, member: Vec<u8>, into: &mut impl Taker) -> ControlFlow<()> {
    if source.ignores(&member) {
        return ControlFlow::Continue(());
    }
    into.take(now, Some(Own::Member), || EntryId::member(key.clone(), member))
}

pub(super) async fn look(
    link: &Link,
    live: &Live,
    source: &Source,
    ids: &[EntryId],
) -> Result<(Now, Vec<Held>), Error> {
    let doing = super::looking(source);
    let mut commands = redis::pipe();
    commands.cmd("TIME");
    ids.iter().for_each(|id| _ = commands.cmd("SISMEMBER").arg(&id.key[..]).arg(id.name()));
    let mut replies = link.ask(live, Purpose::Read, &doing, &commands).await?.into_iter();
    let now = link.now(&doing, replies.next().unwrap_or_default())?;
    let held = ids.iter().zip(replies).map(|(id, reply): (_, Value)| {
        if super::became_another(source, id, &reply) {
            return Ok(Held::WrongType);
        }
        Ok(if reply::count(reply)? == 1 { Held::Own(Own::Member) } else { Held::Nothing })
    });
    Ok((now, held.collect::<Result<_, _>>().map_err(|unexpected| link.unexpected(&doing, unexpected))?))
}
