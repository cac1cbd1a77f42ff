//! What the scanning layouts share: the size of a page, and the walks over names and over a container.

use std::ops::ControlFlow;

use redis::Value;

use super::connect::{Link, Live};
use super::error::{Error, Kind};
use super::status::Purpose;
use super::{Held, Reading, Taker, reply, set};
use crate::language::source::Source;
use crate::policy::entry::{Bytes, EntryId, Now};

/// A walk ends when Redis says so; one that has not after this many pages never will.
pub(super) const MAX_PAGES: u64 = 50_000_000;

/// A reply should not be much larger than this.
const TARGET_BYTES: usize = 1 << 20;

/// How many items to ask for at a time. The gain of large pages ends at a few hundred items (measured), and a page of
/// large values must not make one huge reply.
#[derive(Debug)]
pub(super) struct PageSize(usize);

impl PageSize {
    const LARGEST: usize = 500;
    const SMALLEST: usize = 10;

    /// Small at first: nobody knows yet how large the values are.
    pub(super) fn new() -> Self {
        Self(Self::SMALLEST)
    }

    pub(super) fn items(&self) -> usize {
        self.0
    }

    /// Takes in how many bytes the last page had.
    pub(super) fn saw(&mut self, bytes: usize) {
        if bytes > TARGET_BYTES {
            self.0 = (self.0 / 2).max(Self::SMALLEST);
        } else if bytes < TARGET_BYTES / 4 {
            self.0 = (self.0 * 2).min(Self::LARGEST);
        }
    }
}

/// The way from page to page, from the server's first cursor to its last.
struct Pages<'a> {
    reading: &'a Reading<'a>,
    size: PageSize,
    /// None behind the last page.
    cursor: Option<u64>,
    left: u64,
}

impl<'a> Pages<'a> {
    fn of(reading: &'a Reading<'a>) -> Self {
        Self { reading, size: PageSize::new(), cursor: Some(0), left: MAX_PAGES }
    }

    /// The items of the next page, with the time before it was read; none behind the last. `command` asks for what
    /// stands behind a cursor, about so many items of it.
    async fn next(
        &mut self,
        command: impl Fn(&mut redis::Pipeline, u64, usize),
    ) -> Result<Option<(Now, Value)>, Error> {
        let Reading { link, live, doing, .. } = self.reading;
        let Some(cursor) = self.cursor else { return Ok(None) };
        let left = self.left.checked_sub(1);
        self.left = left.ok_or_else(|| link.error(Kind::Other, doing, "the scan did not end"))?;
        let mut commands = redis::pipe();
        commands.cmd("TIME");
        command(&mut commands, cursor, self.size.items());
        let [time, page] = link.exactly(doing, link.ask(live, Purpose::Scan, doing, &commands).await?)?;
        let now = link.now(doing, time)?;
        self.reading.store.moves_on();
        self.size.saw(reply::size(&page));
        let (next, items) = reply::page(page).map_err(|unexpected| link.unexpected(doing, unexpected))?;
        self.cursor = (next != 0).then_some(next);
        Ok(Some((now, items)))
    }
}

/// Walks the names of the keys, of one type or of any, that a glob matches, unless `each` has enough: then it breaks off and says
/// so.
pub(super) async fn keys(
    reading: &Reading<'_>,
    glob: &[u8],
    kind: Option<&str>,
    mut each: impl FnMut(Vec<u8>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Error> {
    let unexpected = |unexpected| reading.link.unexpected(&reading.doing, unexpected);
    let command = |commands: &mut redis::Pipeline, cursor, items| {
        commands.cmd("SCAN").arg(cursor).arg("MATCH").arg(glob).arg("COUNT").arg(items);
        if let Some(kind) = kind {
            commands.arg("TYPE").arg(kind);
        }
    };
    let mut pages = Pages::of(reading);
    // bound: as many as there are pages, and those are bounded
    while let Some((_, names)) = pages.next(command).await? {
        for name in reply::array(names).map_err(unexpected)? {
            if each(reply::some_bytes(name).map_err(unexpected)?).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Walks a hash (`HSCAN`) or sorted set (`ZSCAN`) from end to end, unless who takes it has enough: then it breaks off
/// and says so. `each` gets the taker, the time before the page was read, and an item with what belongs to it.
pub(super) async fn walk<T: Taker>(
    reading: &Reading<'_>,
    scan: &str,
    key: &[u8],
    into: &mut T,
    mut each: impl FnMut(&mut T, Now, Vec<u8>, Value) -> Result<ControlFlow<()>, reply::Unexpected>,
) -> Result<ControlFlow<()>, Error> {
    let unexpected = |unexpected| reading.link.unexpected(&reading.doing, unexpected);
    let command = |commands: &mut redis::Pipeline, cursor, items| {
        commands.cmd(scan).arg(key).arg(cursor).arg("COUNT").arg(items);
    };
    let mut pages = Pages::of(reading);
    // bound: as many as there are pages, and those are bounded
    while let Some((now, items)) = pages.next(command).await? {
        let items = reply::pairs(items).map_err(unexpected)?;
        let read = items.len();
        for (item, belongings) in items {
            let item = reply::some_bytes(item).map_err(unexpected)?;
            if each(into, now, item, belongings).map_err(unexpected)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        into.turn(read).await?;
    }
    Ok(ControlFlow::Continue(()))
}

/// Walks a set from end to end, unless who takes it has enough: then it breaks off and says so.
pub(super) async fn members(
    reading: &Reading<'_>,
    key: &Bytes,
    into: &mut impl Taker,
) -> Result<ControlFlow<()>, Error> {
    let unexpected = |unexpected| reading.link.unexpected(&reading.doing, unexpected);
    let command = |commands: &mut redis::Pipeline, cursor, items| {
        commands.cmd("SSCAN").arg(&key[..]).arg(cursor).arg("COUNT").arg(items);
    };
    let mut pages = Pages::of(reading);
    // bound: as many as there are pages, and those are bounded
    while let Some((now, items)) = pages.next(command).await? {
        let items = reply::array(items).map_err(unexpected)?;
        let read = items.len();
        for member in items {
            let member = reply::some_bytes(member).map_err(unexpected)?;
            if set::take(reading.source, key, now, member, into).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        into.turn(read).await?;
    }
    Ok(ControlFlow::Continue(()))
}

/// Asks `command` of each of these members, and the time before them; `held` is what a reply comes to.
pub(super) async fn each_member(
    link: &Link,
    live: &Live,
    source: &Source,
    ids: &[EntryId],
    command: &str,
    held: impl Fn(Value) -> Result<Held, reply::Unexpected>,
) -> Result<(Now, Vec<Held>), Error> {
    let doing = super::looking(source);
    let mut commands = redis::pipe();
    commands.cmd("TIME");
    ids.iter().for_each(|id| _ = commands.cmd(command).arg(&id.key[..]).arg(id.name()));
    let mut replies = link.ask(live, Purpose::Read, &doing, &commands).await?.into_iter();
    let now = link.now(&doing, replies.next().unwrap_or_default())?;
    let found = ids.iter().zip(replies).map(|(id, reply)| match super::became_another(source, id, &reply) {
        true => Ok(Held::WrongType),
        false => held(reply),
    });
    Ok((now, found.collect::<Result<_, _>>().map_err(|unexpected| link.unexpected(&doing, unexpected))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_grow_and_those_of_large_values_shrink_again() {
        let mut size = PageSize::new();
        assert_eq!(size.items(), PageSize::SMALLEST);
        for _ in 0..10 {
            size.saw(1_000);
        }
        assert_eq!(size.items(), PageSize::LARGEST);
        for _ in 0..10 {
            size.saw(2 << 20);
        }
        assert_eq!(size.items(), PageSize::SMALLEST);
    }
}
