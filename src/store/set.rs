//! Sets: an entry is a member, and what tells of it stands elsewhere.

use std::ops::ControlFlow;

use super::connect::{Link, Live};
use super::error::Error;
use super::own::Own;
use super::{Held, Taker, reply, scan};
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
    let held = |reply| Ok(if reply::count(reply)? == 1 { Held::Own(Own::Member) } else { Held::Nothing });
    scan::each_member(link, live, source, ids, "SISMEMBER", held).await
}
