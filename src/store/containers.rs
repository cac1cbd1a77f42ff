//! The sorted sets, hashes or sets of a source: those at exact keys, and as many as match its patterns.
//!
//! They are listed first, each once though `SCAN` may tell it twice. A small one is read whole, many of them in one
//! round trip; a large one is surveyed by itself, from its index or page by page. What a pattern finds may vanish or
//! become another thing at any moment, and then it is no container any more: nothing, and no mistake.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use redis::Value;

use super::error::{Error, Kind};
use super::reply::{self, is_wrong_type};
use super::scan::{self, PageSize};
use super::status::Purpose;
use super::{Reading, Surveying, Taker, hash, set, zset};
use crate::language::action::OWN_PREFIX;
use crate::language::source::Kind as Layout;
use crate::policy::entry::{Bytes, Now};

/// Up to so many members or fields a container is read whole. Of a sorted set that costs the server 0.24 µs a member
/// (measured), which its index earns back from here on, being asked in a handful of round trips.
const SMALL: u64 = 500;

/// How many containers are asked for their size at a time.
const SIZED_AT_ONCE: usize = 500;

/// The containers that a survey reads.
pub(super) struct Containers<'a>(pub(super) &'a Reading<'a>);

/// A container and how much is in it.
type Sized = (Bytes, u64);

impl Containers<'_> {
    pub(super) async fn survey(&self, into: &mut Surveying<'_>) -> Result<(), Error> {
        // What is at an exact key and is another thing is the operator's mistake, and an error.
        // bound: as many as are configured
        for key in self.0.source.container.patterns().exact() {
            self.survey_alone(&key, into).await?;
        }
        let most = self.0.store.max_keys;
        let mut found = BTreeSet::new();
        if self.find(usize::try_from(most).unwrap_or(usize::MAX), &mut found).await?.is_break() {
            return Err(self.too_many(most));
        }
        let found: Vec<Bytes> = found.into_iter().collect();
        let mut size = PageSize::new();
        // bound: as many as were found, and max_keys bounds them
        for keys in found.chunks(SIZED_AT_ONCE) {
            let (small, mut large) = self.sizes(keys).await?;
            let mut small = &small[..];
            // bound: each page takes at least one of the small
            while !small.is_empty() {
                let (page, rest) = small.split_at(fitting(small, size.items()));
                let (bytes, grown) = self.read_whole(page, size.items(), into).await?;
                size.saw(bytes);
                large.extend(grown);
                small = rest;
            }
            // bound: each of this chunk at most once
            for key in large {
                match self.survey_alone(&key, into).await {
                    // Became another thing a moment ago. What was counted of it was there when it was read.
                    Err(error) if error.kind == Kind::WrongType => {}
                    done => done?,
                }
            }
        }
        Ok(())
    }

    /// One container, however large.
    async fn survey_alone(&self, key: &Bytes, into: &mut Surveying<'_>) -> Result<(), Error> {
        match self.0.source.container.kind() {
            Layout::Zset => zset::survey(self.0, key, into).await,
            Layout::Set => scan::members(self.0, key, into).await.map(|_| ()),
            Layout::Hash | Layout::Keys => hash::walk(self.0, key, into).await.map(|_| ()),
        }
    }

    /// What matches the patterns now; breaks off with one more than `most`.
    pub(super) async fn find(&self, most: usize, found: &mut BTreeSet<Bytes>) -> Result<ControlFlow<()>, Error> {
        let container = &self.0.source.container;
        // bound: as many as are configured
        for pattern in container.patterns().iter().filter(|pattern| pattern.literal().is_none()) {
            let glob = pattern.glob();
            let walk = scan::keys(self.0, &glob, Some(container.kind().as_str()), |name| {
                if !name.starts_with(OWN_PREFIX) && pattern.matches(&name) && !container.names_exactly(&name) {
                    found.insert(name.into());
                }
                if found.len() > most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            if walk.await?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn too_many(&self, most: u32) -> Error {
        let container = &self.0.source.container;
        let what = container.kind().containers().unwrap_or_default();
        let detail = format!("more than {most} {what} match {}, and a part of them proves nothing", container.shapes());
        let error = self.0.link.error(Kind::Other, &self.0.doing, detail);
        error.with_remedy("narrow the pattern, or raise `max_keys` in [guard]")
    }

    /// Tells the small from the large; what is gone, or another thing by now, is neither.
    async fn sizes(&self, keys: &[Bytes]) -> Result<(Vec<Sized>, Vec<Bytes>), Error> {
        let Reading { link, live, doing, .. } = self.0;
        let mut commands = redis::pipe();
        keys.iter().for_each(|key| _ = commands.cmd(self.size_of()).arg(&key[..]));
        let replies = link.ask(live, Purpose::Scan, doing, &commands).await?;
        let (mut small, mut large) = (Vec::new(), Vec::new());
        for (key, reply) in keys.iter().zip(replies).filter(|(_, reply)| !is_wrong_type(reply)) {
            match reply::count(reply).map_err(|unexpected| link.unexpected(doing, unexpected))? {
                0 => {}
                size if size > SMALL => large.push(key.clone()),
                size => small.push((key.clone(), size)),
            }
        }
        Ok((small, large))
    }

    /// Reads small containers in one round trip. Returns how many bytes they had, and those that turned out to be too
    /// large to be read whole.
    ///
    /// A hash is asked by `HSCAN` rather than `HGETALL`: the server hands over a small one whole all the same, but of
    /// large values never more than `items`.
    async fn read_whole(
        &self,
        page: &[Sized],
        items: usize,
        into: &mut Surveying<'_>,
    ) -> Result<(usize, Vec<Bytes>), Error> {
        let Reading { link, live, doing, .. } = self.0;
        let mut commands = redis::pipe();
        commands.cmd("TIME");
        for (key, size) in page {
            match self.0.source.container.kind() {
                Layout::Zset => commands.cmd("ZRANGE").arg(&key[..]).arg(0).arg(SMALL).arg("WITHSCORES"),
                // One more than there are, or the server may stop at the last and not know that it was.
                kind => {
                    let count = usize::try_from(*size).unwrap_or(items).min(items) + 1;
                    let scan = if kind == Layout::Set { "SSCAN" } else { "HSCAN" };
                    commands.cmd(scan).arg(&key[..]).arg(0).arg("COUNT").arg(count)
                }
            };
        }
        let mut replies = link.ask(live, Purpose::Scan, doing, &commands).await?.into_iter();
        let now = link.now(doing, replies.next().unwrap_or_default())?;
        let (mut bytes, mut read, mut grown) = (0, 0, Vec::new());
        for ((key, _), reply) in page.iter().zip(replies).filter(|(_, reply)| !is_wrong_type(reply)) {
            bytes += reply::size(&reply);
            let whole = whole(self.0.source.container.kind(), reply).and_then(|pairs| match pairs {
                Some(pairs) => {
                    read += pairs.len();
                    self.take(key, now, pairs, into).map(|()| true)
                }
                None => Ok(false),
            });
            if !whole.map_err(|unexpected| link.unexpected(doing, unexpected))? {
                grown.push(key.clone());
            }
        }
        into.turn(read).await?;
        Ok((bytes, grown))
    }

    fn take(
        &self,
        key: &Bytes,
        now: Now,
        pairs: Vec<(Value, Value)>,
        into: &mut Surveying<'_>,
    ) -> Result<(), reply::Unexpected> {
        pairs.into_iter().try_for_each(|(item, value)| {
            let item = reply::some_bytes(item)?;
            let taken = match self.0.source.container.kind() {
                Layout::Zset => zset::take(self.0.source, key, now, item, value, into),
                Layout::Set => Ok(set::take(self.0.source, key, now, item, into)),
                Layout::Hash | Layout::Keys => hash::take(self.0.source, key, now, item, value, into),
            };
            taken.map(|_| ())
        })
    }

    fn size_of(&self) -> &'static str {
        match self.0.source.container.kind() {
            Layout::Zset => "ZCARD",
            Layout::Set => "SCARD",
            Layout::Hash | Layout::Keys => "HLEN",
        }
    }
}

/// The members with their scores or the fields with their values; none if these are not all.
fn whole(kind: Layout, reply: Value) -> Result<Option<Vec<(Value, Value)>>, reply::Unexpected> {
    match kind {
        Layout::Zset => {
            let pairs = reply::pairs(reply)?;
            Ok((pairs.len() as u64 <= SMALL).then_some(pairs))
        }
        Layout::Set => match reply::page(reply)? {
            (0, items) => Ok(Some(reply::array(items)?.into_iter().map(|member| (member, Value::Nil)).collect())),
            _ => Ok(None),
        },
        Layout::Hash | Layout::Keys => match reply::page(reply)? {
            (0, items) => reply::pairs(items).map(Some),
            _ => Ok(None),
        },
    }
}

/// How many of these go into a page of so many items: at least one.
fn fitting(small: &[Sized], items: usize) -> usize {
    let mut left = items as u64;
    let fits = small.iter().take_while(|(_, size)| {
        let fits = *size <= left;
        left = left.saturating_sub(*size);
        fits
    });
    fits.count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It may have grown since it was asked for its size.
    #[test]
    fn what_was_not_told_to_the_end_is_not_whole() {
        let items =
            |count: u64| Value::Array((0..count * 2).map(|n| Value::BulkString(n.to_string().into())).collect());
        let scan = |cursor: &str| Value::Array(vec![Value::BulkString(cursor.into()), items(3)]);
        let read = |kind, reply| whole(kind, reply).unwrap().map(|pairs| pairs.len());
        assert_eq!(read(Layout::Zset, items(SMALL)), Some(500));
        assert_eq!(read(Layout::Zset, items(SMALL + 1)), None);
        assert_eq!(read(Layout::Zset, items(0)), Some(0));
        assert_eq!(read(Layout::Hash, scan("0")), Some(3));
        assert_eq!(read(Layout::Hash, scan("7")), None);
    }

    #[test]
    fn a_page_takes_what_fits_and_at_least_one() {
        let small: Vec<Sized> = [4, 6, 1, 500].map(|size| (b"key".as_slice().into(), size)).into();
        for (from, items, expected) in
            [(0, 10, 2), (0, 11, 3), (0, 9, 1), (0, 1, 1), (2, 500, 1), (2, 501, 2), (3, 10, 1)]
        {
            assert_eq!(fitting(&small[from..], items), expected, "{items} from {from}");
        }
    }
}
