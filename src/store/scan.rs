//! What the scanning layouts share: the size of a page, and the walks over names and over a container.

use std::ops::ControlFlow;

use redis::Value;

use super::error::Error;
use super::status::Purpose;
use super::{Reading, Taker, reply};
use crate::policy::entry::Now;

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

/// Walks the names of the keys of one type that a glob matches, unless `each` has enough: then it breaks off and says
/// so.
pub(super) async fn keys(
    reading: &Reading<'_>,
    glob: &[u8],
    kind: &str,
    mut each: impl FnMut(Vec<u8>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Error> {
    let Reading { link, live, doing, .. } = reading;
    let mut size = PageSize::new();
    let mut cursor = 0;
    // bound: until the server's cursor is back at 0, and never more than MAX_PAGES
    for _ in 0..MAX_PAGES {
        let mut commands = redis::pipe();
        commands.cmd("SCAN").arg(cursor).arg("MATCH").arg(glob).arg("COUNT").arg(size.items()).arg("TYPE").arg(kind);
        let [page] = link.exactly(doing, link.ask(live, Purpose::Scan, doing, &commands).await?)?;
        size.saw(reply::size(&page));
        let unexpected = |unexpected| link.unexpected(doing, unexpected);
        let (next, names) = reply::page(page).map_err(unexpected)?;
        for name in reply::array(names).map_err(unexpected)? {
            if each(reply::some_bytes(name).map_err(unexpected)?).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        if next == 0 {
            return Ok(ControlFlow::Continue(()));
        }
        cursor = next;
    }
    Err(link.error(super::error::Kind::Other, doing, "the scan did not end"))
}

/// Walks a hash (`HSCAN`) or sorted set (`ZSCAN`) from end to end, unless who takes it has enough: then it breaks off
/// and says so. `each` gets the taker, the time before the page was read, and an item with what belongs to it.
pub(super) async fn walk<T: Taker>(
    reading: &Reading<'_>,
    command: &str,
    key: &[u8],
    into: &mut T,
    mut each: impl FnMut(&mut T, Now, Vec<u8>, Value) -> Result<ControlFlow<()>, reply::Unexpected>,
) -> Result<ControlFlow<()>, Error> {
    let Reading { link, live, doing, .. } = reading;
    let mut size = PageSize::new();
    let mut cursor = 0;
    // bound: until the server's cursor is back at 0, and never more than MAX_PAGES
    for _ in 0..MAX_PAGES {
        let mut commands = redis::pipe();
        commands.cmd("TIME");
        commands.cmd(command).arg(key).arg(cursor).arg("COUNT").arg(size.items());
        let replies = link.ask(live, Purpose::Scan, doing, &commands).await?;
        let [time, page] = link.exactly(doing, replies)?;
        let now = link.now(doing, time)?;
        size.saw(reply::size(&page));
        let unexpected = |unexpected| link.unexpected(doing, unexpected);
        let (next, items) = reply::page(page).map_err(unexpected)?;
        let items = reply::pairs(items).map_err(unexpected)?;
        let read = items.len();
        for (item, belongings) in items {
            let item = reply::some_bytes(item).map_err(unexpected)?;
            if each(into, now, item, belongings).map_err(unexpected)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        into.turn(read).await;
        if next == 0 {
            return Ok(ControlFlow::Continue(()));
        }
        cursor = next;
    }
    Err(link.error(super::error::Kind::Other, doing, "the scan did not end"))
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
