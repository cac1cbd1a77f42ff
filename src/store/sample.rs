//! Some entries of a source, each as it is stored and as it would be read by other settings: for a person who wonders
//! whether the configuration fits.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Duration;

use tokio::time::timeout;

use super::asking::{Answers, Asking, until_told};
use super::connect::Live;
use super::containers::Containers;
use super::error::{Error, Kind};
use super::own::{self, Facts, Own, Sign};
use super::scan;
use super::status::Purpose;
use super::{Reading, Store, Taker, hash, keys, reply, zset};
use crate::language::pattern::Pattern;
use crate::language::source::{Container, Kind as Layout, Source};
use crate::policy::entry::{Bytes, EntryId, Now};
use crate::policy::ping::{Format, Unit, Unreadable};
use crate::policy::survey::Judged;

/// More entries than this tell no more.
pub const MAX_SAMPLED: usize = 1_000;

/// Of more sorted sets or hashes than these a sample is not taken: each costs a round trip.
const MAX_CONTAINERS: usize = 100;

/// A pattern that matches little in a large database is not searched for longer, nor is any source read for longer.
const LIMIT: Duration = Duration::from_secs(3);

/// What a person needs to see of a value to know what it is.
const SHOWN_BYTES: usize = 200;

/// A part of a source.
#[derive(Debug)]
pub struct Sample {
    /// In no order.
    pub entries: Vec<Sampled>,
    /// Of how many sorted sets or hashes; none where entries are keys.
    pub containers: Option<usize>,
    /// There is nothing else in the source.
    pub whole: bool,
    /// What exact keys of sorted sets or hashes hold instead.
    pub wrong_types: Vec<(Bytes, String)>,
}

/// One entry.
#[derive(Debug)]
pub struct Sampled {
    /// Which.
    pub id: EntryId,
    /// When it was read.
    pub now: Now,
    /// As it is configured.
    pub judged: Judged,
    /// As whatever its time looks like, read as a last ping.
    pub plainly: Judged,
    /// Where it can't be judged, what was read of it: the beginning of its value, or the type of a key of another one.
    pub stored: Vec<u8>,
}

impl Store {
    /// Reads up to [`MAX_SAMPLED`] entries, for a few seconds at most: of each pattern, or of each container that was
    /// found, its share.
    ///
    /// # Errors
    /// Whatever kept them from being read.
    pub async fn sample(&self) -> Result<Sample, Error> {
        let live = self.link.live().await?;
        let reading = self.reading(&live, "sampling");
        let mut sampler = Sampler::new(self, &live);
        let mut sample = match &self.source.container {
            Container::Keys(_) => sampler.keys(&reading).await?,
            Container::Zset(_) | Container::Hash(_) | Container::Set(_) => sampler.containers(&reading).await?,
        };
        // A walk that was broken off leaves the last page.
        sampler.turn(0).await?;
        sample.entries = sampler.entries;
        let mut others = sample.entries.iter_mut().filter(|one| one.judged == Err(Unreadable::WrongType));
        if let Some(other) = others.find(|one| one.stored.is_empty()) {
            let key = other.id.key.clone();
            other.stored = types_of(&reading, &[key]).await?.pop().unwrap_or_default().into_bytes();
        }
        Ok(sample)
    }
}

async fn types_of(reading: &Reading<'_>, keys: &[Bytes]) -> Result<Vec<String>, Error> {
    let Reading { link, live, doing, .. } = reading;
    let mut commands = redis::pipe();
    keys.iter().for_each(|key| _ = commands.cmd("TYPE").arg(&key[..]));
    let replies = link.ask(live, Purpose::Read, doing, &commands).await?;
    let types = replies.into_iter().map(|reply| {
        let kind = reply::some_bytes(reply).map_err(|unexpected| link.unexpected(doing, unexpected))?;
        Ok(String::from_utf8_lossy(&kind).into_owned())
    });
    types.collect()
}

struct Sampler<'s> {
    store: &'s Store,
    live: &'s Live,
    source: &'s Source,
    plainly: Source,
    entries: Vec<Sampled>,
    /// Those of this page.
    staged: Vec<(EntryId, Option<Own>, Now, Option<Sampled>)>,
    /// How many more may be taken of what is being read.
    share: usize,
}

impl<'s> Sampler<'s> {
    fn new(store: &'s Store, live: &'s Live) -> Self {
        let source = &*store.source;
        let plainly = Source { format: Format::Auto, deadline: Duration::ZERO, ..source.clone() };
        Self { store, live, source, plainly, entries: Vec::new(), staged: Vec::new(), share: 0 }
    }

    async fn keys(&mut self, reading: &Reading<'_>) -> Result<Sample, Error> {
        let patterns: Vec<&Pattern> = reading.source.container.patterns().iter().collect();
        let whole = within(LIMIT, async {
            let mut whole = true;
            // bound: as many as are configured
            for pattern in &patterns {
                self.share = share_of(patterns.len());
                whole &= keys::walk(reading, pattern, self).await?.is_continue();
            }
            Ok(whole)
        });
        let whole = whole.await?.unwrap_or(false);
        Ok(Sample { entries: Vec::new(), containers: None, whole, wrong_types: Vec::new() })
    }

    async fn containers(&mut self, reading: &Reading<'_>) -> Result<Sample, Error> {
        let container = &reading.source.container;
        let exact: Vec<Bytes> = container.patterns().exact().collect();
        let wanted = container.kind().as_str();
        let (mut keys, mut wrong_types) = (Vec::new(), Vec::new());
        let types = if exact.is_empty() { Vec::new() } else { types_of(reading, &exact).await? };
        for (key, found) in exact.into_iter().zip(types) {
            match found.as_str() {
                "none" => {}
                found if found == wanted => keys.push(key),
                _ => wrong_types.push((key, found)),
            }
        }
        let mut found = BTreeSet::new();
        let all_found = within(LIMIT, Containers(reading).find(MAX_CONTAINERS, &mut found)).await?;
        keys.extend(found.into_iter().take(MAX_CONTAINERS));
        let all_read = within(LIMIT, self.read(reading, &keys)).await?.unwrap_or(false);
        let whole = all_read && all_found.is_some_and(|walk| walk.is_continue());
        Ok(Sample { entries: Vec::new(), containers: Some(keys.len()), whole, wrong_types })
    }

    /// Whether these were read to their ends.
    async fn read(&mut self, reading: &Reading<'_>, containers: &[Bytes]) -> Result<bool, Error> {
        let mut whole = true;
        // bound: as many as were found, which MAX_CONTAINERS bounds, or are configured
        for key in containers {
            self.share = share_of(containers.len());
            let walk = match reading.source.container.kind() {
                Layout::Zset => zset::walk(reading, key, self).await,
                Layout::Set => scan::members(reading, key, self).await,
                Layout::Hash | Layout::Keys => hash::walk(reading, key, self).await,
            };
            match walk {
                // It became another thing a moment ago.
                Err(error) if error.kind == Kind::WrongType => {}
                walk => whole &= walk?.is_continue(),
            }
        }
        Ok(whole)
    }
}

impl Taker for Sampler<'_> {
    fn take(&mut self, now: Now, own: Option<Own>, id: impl FnOnce() -> EntryId) -> ControlFlow<()> {
        if self.share == 0 {
            return ControlFlow::Break(());
        }
        self.share -= 1;
        self.staged.push((id(), own, now, None));
        ControlFlow::Continue(())
    }

    async fn turn(&mut self, _items: usize) -> Result<(), Error> {
        let doing = format!("sampling source {}", self.source.name);
        let link = &self.store.link;
        let asking = Asking { link, live: self.live, purpose: Purpose::Read, doing: &doing, strict: true };
        let mut staged = std::mem::take(&mut self.staged);
        until_told(&asking, &mut Answers::default(), &mut staged, |(id, own, now, sampled), answers| {
            *sampled = self.sampled(id, own.as_ref(), *now, answers);
            sampled.is_some()
        })
        .await?;
        self.entries.extend(staged.into_iter().filter_map(|(.., sampled)| sampled));
        Ok(())
    }
}

impl Sampler<'_> {
    /// None where something has to be asked first. What is no entry of the source is left out by who asks.
    fn sampled(&self, id: &EntryId, own: Option<&Own>, now: Now, answers: &Answers) -> Option<Sampled> {
        let unread = Err(Unreadable::WrongType);
        let Some(own) = own else {
            return Some(Sampled { id: id.clone(), now, judged: unread, plainly: unread, stored: Vec::new() });
        };
        let judged = |source| {
            let facts = Facts::new(source, id, own, now, answers);
            let judged = match facts.tell(|_| false).sign {
                Sign::Time(judged) => judged,
                Sign::Exists => Ok((now.server, Unit::Exists)),
                Sign::Idle(at) => Ok((at, Unit::Idle)),
                Sign::Unchanged => Ok((now.server, Unit::Unchanged)),
                Sign::Missing => Err(Unreadable::Missing),
            };
            (!facts.is_pending()).then_some(judged)
        };
        let (judged, plainly) = judged(self.source).zip(judged(&self.plainly))?;
        let stored = if judged.is_err() { own::beginning(own, SHOWN_BYTES) } else { Vec::new() };
        Some(Sampled { id: id.clone(), now, judged, plainly, stored })
    }
}

/// An equal part of a sample, so that a large container does not hide the others.
fn share_of(parts: usize) -> usize {
    MAX_SAMPLED / parts.max(1)
}

/// What was done in so much time, none if it was not enough.
async fn within<T>(limit: Duration, doing: impl Future<Output = Result<T, Error>>) -> Result<Option<T>, Error> {
    timeout(limit, doing).await.ok().transpose()
}
