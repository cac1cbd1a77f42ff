//! The Redis edge: a [`Store`] is one source in one database of one master.
//!
//! Its verbs: who is there ([`Store::health`]), what does everything look like ([`Store::survey`]), what do these
//! entries look like now ([`Store::look`]), and away with them ([`Store::evict`]). Nothing here decides.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use asking::{Answers, Asking, until_told};
use audience::Ask;
use condition::Unless;
use connect::{Health, Link, Live};
use containers::Containers;
use error::{Error, Kind};
use evict::{Evicted, Leave, Prepared};
use lease::Lease;
use naming::Naming;
use orders::Spending;
use outbox::Outbox;
use own::{Facts, Own, Sign, Told};
use record::Recorder;
use state::{Keeper, Kept};
use status::Purpose;

use crate::clock::Clock;
use crate::language::on_evict::OnEvict;
use crate::language::source::{Container, Missing, Source};
use crate::policy::continuity::Identity;
use crate::policy::entry::{EntryId, Mark, Monotonic, Now, Timestamp};
use crate::policy::memory::{Absences, Memory};
use crate::policy::order::Release;
use crate::policy::ping::{self, Format, Raw, Unit, Unreadable};
use crate::policy::staleness::{Freshness, Timing};
use crate::policy::survey::{Absence, Judged, MAX_CANDIDATES, Survey};
use crate::policy::timeless::Timeless;
use crate::text::Redaction;

mod asking;
pub mod audience;
mod condition;
pub mod connect;
mod containers;
mod deeds;
mod dial;
pub mod error;
pub mod evict;
pub mod facts;
pub mod files;
mod hash;
pub mod instances;
mod keys;
pub mod lease;
pub mod naming;
mod notify;
pub mod orders;
pub mod outbox;
mod own;
pub mod permissions;
pub mod record;
mod reply;
pub mod rights;
pub mod sample;
mod scan;
mod search;
mod set;
pub mod standing;
pub mod state;
pub mod status;
pub mod tcp;
pub mod tls;
mod zset;

/// Entries read in one round trip.
const READ_AT_ONCE: usize = 500;

/// One source in one database of one master.
#[derive(Clone, Debug)]
pub struct Store {
    link: Arc<Link>,
    source: Arc<Source>,
    timing: Timing,
    naming: Naming,
    max_keys: u32,
    /// Where we keep our own state; nowhere in a dry run.
    keeper: Option<Arc<Keeper>>,
    /// Our part in the lease; none in a dry run.
    lease: Option<Arc<Lease>>,
    /// Where each eviction is recorded, if that is wanted.
    recorder: Option<Arc<Recorder>>,
    /// What carries no time: since when we have seen it so.
    timeless: Arc<Mutex<Timeless>>,
    /// What the last walk over the keys found, and who is due before the next.
    searched: Arc<Mutex<(search::Found, Vec<EntryId>)>>,
    progress: Progress,
}

/// When Redis last answered something that moves a source on: a page, a re-read, a batch. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    fn is_made(&self, now: Monotonic) {
        let millis = u64::try_from(now.since_start().as_millis()).unwrap_or(u64::MAX);
        self.0.fetch_max(millis, Ordering::Relaxed);
    }

    /// When; the start of the process if never.
    pub fn last(&self) -> Monotonic {
        Monotonic::from_start(Duration::from_millis(self.0.load(Ordering::Relaxed)))
    }
}

/// A whole survey, and the process it was read from.
#[derive(Debug)]
pub struct Surveyed {
    /// The process: the same before and after, else there is no survey.
    pub identity: Identity,
    /// When it began.
    pub began: Now,
    /// When it ended.
    pub ended: Now,
    /// What it saw.
    pub survey: Survey,
    /// How many writes of anybody the server had refused by then; unknown where `INFO` is denied.
    pub refusals: Option<u64>,
    /// What was kept of our own state when it began, or why that could not be read; none where nothing is kept.
    pub kept: Option<Result<Kept, Error>>,
}

/// Who is there, as it was when we asked.
#[derive(Debug)]
pub struct Greeted {
    /// The process, and what it says of itself.
    pub health: Health,
    /// What was kept of our own state, or why that could not be read; none where nothing is kept.
    pub kept: Option<Result<Kept, Error>>,
}

/// Entries re-read right before a strike.
#[derive(Debug)]
pub struct Looked {
    /// The process that the connection reached when it was dialled.
    pub identity: Identity,
    /// When; server time as it was before the first of them was read.
    pub now: Now,
    /// What was found, in the order asked.
    pub found: Vec<Found>,
}

/// What a look found.
#[derive(Clone, Debug)]
pub enum Found {
    /// Nothing.
    Gone,
    /// A key of another type.
    WrongType,
    /// The entry.
    Entry {
        /// Its last ping, or why it can't be judged.
        judged: Judged,
        /// The raw times it was judged by.
        mark: Mark,
        /// The label of its group, where the source names one.
        group: Option<Vec<u8>>,
        /// A condition that protects it holds; asked only of the stale.
        protected: bool,
        /// What a strike on it needs.
        prepared: Box<Prepared>,
    },
}

/// What stands where an entry was looked for.
#[derive(Clone, Debug)]
enum Held {
    Nothing,
    WrongType,
    Own(Own),
}

/// An entry, judged.
#[derive(Clone, Copy, Debug)]
struct Seen {
    judged: Judged,
    mark: Mark,
    /// It was judged by an absence; and whether it showed a sign of life before that.
    absent: Option<bool>,
}

impl Store {
    /// A source as it is found through `link`; of more than `max_keys` containers there is no survey.
    pub fn new(link: Arc<Link>, source: Arc<Source>, timing: Timing, max_keys: u32) -> Self {
        let naming = Naming::new(Arc::clone(&source), None);
        Self {
            link,
            source,
            timing,
            naming,
            max_keys,
            keeper: None,
            lease: None,
            recorder: None,
            timeless: Arc::default(),
            searched: Arc::default(),
            progress: Progress::default(),
        }
    }

    /// The same, with the ids of its entries hidden where people or programs read of them, if they are to be.
    #[must_use]
    pub fn redacted(self, redaction: Option<Arc<Redaction>>) -> Self {
        Self { naming: Naming::new(Arc::clone(&self.source), redaction), ..self }
    }

    /// The same, keeping our own state beside the entries: whatever writes at all does.
    #[must_use]
    pub fn keeping_state(self) -> Self {
        Self { keeper: Some(Arc::new(Keeper::of(&self.source, &self.timing))), ..self }
    }

    /// The same, evicting only while it holds the source's lease.
    #[must_use]
    pub fn under_lease(self, settings: lease::Settings, clock: Clock) -> Self {
        let lease = Lease::new(Arc::clone(&self.link), &self.source, &self.timing, settings, clock);
        Self { lease: Some(Arc::new(lease)), ..self }
    }

    /// Whether the two judge entries alike: those of the same place, by the same times.
    pub fn judges_like(&self, other: &Self) -> bool {
        let definition = |store: &Self| state::definition(&store.source, &store.timing);
        self.link.leads_where(&other.link) && definition(self) == definition(other)
    }

    /// The same after another one of this source: the lease stays with us where nothing decides otherwise than before, and
    /// so does what was seen of entries without a time.
    #[must_use]
    pub fn after(mut self, other: &Self) -> Self {
        let alike = self.judges_like(other);
        if alike {
            self.timeless = Arc::clone(&other.timeless);
        }
        if let (Some(own), Some(other)) = (&self.lease, &other.lease) {
            self.lease = Some(Arc::new(own.after(other, alike)));
        }
        self
    }

    /// The same, recording each eviction.
    #[must_use]
    pub fn recording(self, recorder: Arc<Recorder>) -> Self {
        Self { recorder: Some(recorder), ..self }
    }

    /// Where each eviction is recorded, if that is wanted.
    pub fn recorder(&self) -> Option<&Recorder> {
        self.recorder.as_deref()
    }

    /// Our part in the lease of the source, where one is needed.
    pub fn lease(&self) -> Option<&Arc<Lease>> {
        self.lease.as_ref()
    }

    /// Whether another reaper leads, as far as we know.
    pub fn is_led(&self) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.led_by().is_some())
    }

    /// Where it keeps what its webhook was not told yet, or did once.
    pub fn outbox(&self) -> Outbox {
        Outbox::new(Arc::clone(&self.link), self.lease.clone(), &self.source)
    }

    /// The source.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// When it last moved on.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    fn moves_on(&self) {
        self.progress.is_made(self.link.time());
    }

    /// How its entries are called.
    pub fn naming(&self) -> &Naming {
        &self.naming
    }

    /// The connection.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Asks who is there, what time it is, and how long it has been running.
    ///
    /// # Errors
    /// The server can't be reached, refuses us, or is no master.
    pub async fn health(&self) -> Result<Health, Error> {
        let live = self.link.live().await?;
        self.link.health(&live).await
    }

    /// Reads everything in the source, once, on one process: nothing may be concluded from a part.
    ///
    /// # Errors
    /// Whatever kept it from being read to the end, or a server that changed in the middle.
    pub async fn survey(&self, ask: &Ask) -> Result<Surveyed, Error> {
        let live = &*self.link.live().await?;
        let Greeted { health: before, kept } = self.greet_on(live).await?;
        let reading = self.reading(live, "surveying");
        let survey = Survey::wanting(self.timing, ask.wanted).seeded(fastrand::u64(..));
        let mut into =
            Surveying { store: self, live, ask, survey, staged: Vec::new(), doubtful: Vec::new(), sought: Vec::new() };
        if let Some(dropped) = before.dropped.filter(|_| self.source.judges_by_absence()) {
            self.timeless().dropped(dropped);
        }
        self.timeless().begin();
        match &self.source.container {
            Container::Zset(_) | Container::Hash(_) | Container::Set(_) => {
                Containers(&reading).survey(&mut into).await?
            }
            Container::Keys(patterns) => {
                // bound: as many as are configured
                for pattern in patterns.iter() {
                    // A survey never has enough.
                    let _ = keys::walk(&reading, pattern, &mut into).await?;
                }
            }
        }
        self.timeless().end();
        into.seek().await?;
        into.survey.settle(self.source.last_ping.len());
        if self.source.judges_by_absence() && !into.survey.vouched {
            // Nobody is there at all: whoever comes back first must not find the others old.
            self.timeless().forget_all();
        }
        into.turn(0).await?;
        let after = self.link.health(live).await?;
        let (identity, began, ended) = (after.identity, before.now, after.now);
        Ok(Surveyed { identity, began, ended, survey: into.survey, refusals: after.refusals, kept })
    }

    /// Asks who is there, and reads what was kept of our own state.
    ///
    /// # Errors
    /// The server can't be reached, refuses us, or is no master.
    pub async fn greet(&self) -> Result<Greeted, Error> {
        let live = self.link.live().await?;
        self.greet_on(&live).await
    }

    async fn greet_on(&self, live: &Live) -> Result<Greeted, Error> {
        // Both are on their way at once.
        let (health, kept) = tokio::join!(self.link.health(live), self.read_state(live));
        Ok(Greeted { health: health?, kept })
    }

    async fn read_state(&self, live: &Live) -> Option<Result<Kept, Error>> {
        Some(self.keeper.as_ref()?.read(&self.link, live).await)
    }

    /// Counts the canary up and keeps what a later process has to know; returns the canary, or none in a dry run.
    ///
    /// # Errors
    /// The server refuses it, or did not answer.
    pub async fn keep(&self, memory: &Memory) -> Result<Option<u64>, Error> {
        let Some(keeper) = &self.keeper else { return Ok(None) };
        let live = self.link.live().await?;
        keeper.write(&self.link, &live, memory).await.map(Some)
    }

    /// The time that stands at `key`, written in any format, and when it was read; none where there is none to be read.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn witness(&self, key: &[u8]) -> Result<(Option<Timestamp>, Now), Error> {
        let link = &*self.link;
        let live = link.live().await?;
        let doing = "reading writer_witness";
        let mut commands = redis::pipe();
        commands.cmd("TIME");
        commands.cmd("GET").arg(key);
        let [time, value] = link.exactly(doing, link.ask(&live, Purpose::Read, doing, &commands).await?)?;
        let now = link.now(doing, time)?;
        // Whatever keeps it from being read, an error of Redis too: a witness that can't be heard says nothing good.
        let text = reply::bytes(value).ok().flatten();
        let raw = text.as_deref().map_or(Raw::Absent, Raw::Text);
        let reader = ping::Reader { format: Format::Auto, deadline: Duration::ZERO, ..self.source.reader(now.server) };
        let read = ping::newest([reader.read(raw)]);
        Ok((read.ok().map(|(at, _)| at), now))
    }

    /// Re-reads entries of the source and asks what protects them; at most a few hundred at a time.
    ///
    /// # Errors
    /// Whatever kept them from being read.
    pub async fn look(&self, ids: &[EntryId]) -> Result<Looked, Error> {
        self.look_on(&*self.link.live().await?, ids, true).await
    }

    /// The same, for who only wants to know their pings: nobody asks what protects them, and no strike follows.
    ///
    /// # Errors
    /// Whatever kept them from being read.
    pub async fn glance(&self, ids: &[EntryId]) -> Result<Looked, Error> {
        self.look_on(&*self.link.live().await?, ids, false).await
    }

    async fn look_on(&self, live: &Live, ids: &[EntryId], strikes: bool) -> Result<Looked, Error> {
        // Both are on their way at once, on one connection and so in this order.
        let (unchanged, held) = tokio::join!(self.link.unchanged(live), self.read(live, ids));
        unchanged?;
        let (now, held) = held?;
        self.moves_on();
        let found = self.find(live, ids, held, now, strikes).await?;
        Ok(Looked { identity: live.identity.clone(), now, found })
    }

    /// What was held under these ids → what it is, with everything asked for it that tells.
    async fn find(
        &self,
        live: &Live,
        ids: &[EntryId],
        held: Vec<Held>,
        now: Now,
        strikes: bool,
    ) -> Result<Vec<Found>, Error> {
        let doing = looking(&self.source);
        let asking = Asking { link: &self.link, live, purpose: Purpose::Read, doing: &doing, strict: true };
        let mut answers = Answers::default();
        let mut found: Vec<(&EntryId, Held, Option<Found>)> =
            ids.iter().zip(held).map(|(id, held)| (id, held, None)).collect();
        until_told(&asking, &mut answers, &mut found, |(id, held, found), answers| {
            *found = match held {
                Held::Nothing => Some(Found::Gone),
                Held::WrongType => Some(Found::WrongType),
                Held::Own(own) => self.found(id, own, now, answers, strikes),
            };
            found.is_some()
        })
        .await?;
        let mut found: Vec<Found> = found.into_iter().map(|(.., found)| found.unwrap_or(Found::Gone)).collect();
        if strikes {
            let asking = Asking { strict: false, ..asking };
            self.ask_protection(&asking, &mut answers, now, &mut found).await?;
            self.seek(&asking, now, &mut found).await?;
            self.read_lists(&asking, &mut answers, now, &mut found).await?;
        }
        Ok(found)
    }

    /// None where something has to be asked first.
    fn found(&self, id: &EntryId, own: &Own, now: Now, answers: &Answers, strikes: bool) -> Option<Found> {
        let facts = Facts::new(&self.source, id, own, now, answers);
        let belongs = facts.belongs();
        let told = facts.tell(|at| self.is_live(at, now));
        let group = facts.label();
        if facts.is_pending() {
            return None;
        }
        if !belongs {
            return Some(Found::Gone);
        }
        let Seen { judged, mark, .. } = self.judge(id, &told, now);
        let last_ping = judged.ok().map(|(last_ping, _)| last_ping);
        let prepared = Box::new(facts.prepare(last_ping, strikes));
        (!facts.is_pending()).then_some(Found::Entry { judged, mark, group, protected: false, prepared })
    }

    /// When an entry was last known alive: what carries no time is as old as we have seen it so.
    fn judge(&self, id: &EntryId, told: &Told, now: Now) -> Seen {
        let Told { sign, mark, .. } = *told;
        let seen = |judged| Seen { judged, mark, absent: None };
        match sign {
            Sign::Time(judged) => {
                if self.source.judges_by_absence() {
                    match judged.is_ok_and(|(at, _)| self.is_live(at, now)) {
                        true => self.timeless().lived(id, now),
                        false => self.timeless().forget(id),
                    }
                }
                seen(judged)
            }
            Sign::Exists => {
                self.timeless().lived(id, now);
                seen(Ok((now.server, Unit::Exists)))
            }
            Sign::Idle(at) => {
                let settled = self.timeless().settled(id, at, now);
                let mark = Mark::of([Some(&settled.millis().to_be_bytes()[..])]);
                Seen { mark, ..seen(Ok((at.max(settled), Unit::Idle))) }
            }
            Sign::Unchanged => {
                let since = self.timeless().saw(id, mark, now);
                seen(since.map(|since| (since.at, Unit::Unchanged)).ok_or(Unreadable::Missing))
            }
            Sign::Missing if self.source.missing == Missing::Skip => seen(Err(Unreadable::Missing)),
            Sign::Missing => {
                // Each survey looks, and surveys are a heartbeat apart.
                let longest_gap = self.timing.look_interval() * 2;
                match self.timeless().missed(id, mark, longest_gap, now) {
                    Some(since) => Seen { absent: Some(since.lived), ..seen(Ok((since.at, Unit::Missing))) },
                    None => seen(Err(Unreadable::Missing)),
                }
            }
        }
    }

    // === absences that outlive a process ===

    /// For a single run, before its first survey: who was missing, as an earlier one left it, `passed` before our clock
    /// showed `at`.
    pub fn recall(&self, left: &Absences, passed: Duration, at: Monotonic) {
        self.timeless().recall(left, passed, at);
    }

    /// Who is missing now, for the next single run: none where no absence counts, or none can be trusted. `younger_than`
    /// as in [`Timeless::absences`].
    pub fn absences(&self, younger_than: Option<Duration>, now: Monotonic) -> Option<Absences> {
        self.source.judges_by_absence().then(|| self.timeless().absences(younger_than, now))?
    }

    /// Takes in a break: whoever is missing has only just been seen so.
    pub fn broke(&self, now: Monotonic) {
        self.timeless().broke(now);
    }

    /// Takes in that an entry is gone: whoever comes under its name is another. Where an eviction leaves something behind,
    /// that must not look young.
    pub fn forget(&self, id: &EntryId) {
        if self.source.on_evict == OnEvict::Remove {
            self.timeless().forget(id);
        }
    }

    fn timeless(&self) -> std::sync::MutexGuard<'_, Timeless> {
        self.timeless.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks of the stale among these what protects them.
    async fn ask_protection(
        &self,
        asking: &Asking<'_>,
        answers: &mut Answers,
        now: Now,
        found: &mut [Found],
    ) -> Result<(), Error> {
        let is_stale = |judged: &Judged| judged.is_ok_and(|(last_ping, _)| self.is_stale(last_ping, now));
        let mut stale: Vec<&mut Prepared> = found
            .iter_mut()
            .filter_map(|found| match found {
                Found::Entry { judged, prepared, .. } if is_stale(judged) => Some(&mut **prepared),
                _ => None,
            })
            .collect();
        let keys: Vec<_> = stale.iter().map(|prepared| prepared.id.key.to_vec()).collect();
        let expiring = self.expiring(asking, &keys).await?;
        stale.iter_mut().zip(expiring).for_each(|(prepared, expires)| prepared.already |= expires);
        condition::ask(asking, answers, stale.into_iter().flat_map(Prepared::open_questions)).await?;
        for one in found.iter_mut() {
            if let Found::Entry { protected, prepared, .. } = one {
                *protected = prepared.unless.holds;
            }
        }
        // What an eviction left behind is no entry until it pings.
        for one in found {
            if matches!(one, Found::Entry { judged, prepared, .. } if is_stale(judged) && prepared.already) {
                *one = Found::Gone;
            }
        }
        Ok(())
    }

    /// Whether a walk over the keys would tell something: then it is taken for all that are due before the next.
    pub fn wants_due(&self, now: Monotonic) -> bool {
        self.source.seeks_keys() && self.may_walk(now)
    }

    /// Takes in who is due before the next walk over the keys.
    pub fn expect(&self, due: Vec<EntryId>) {
        self.searched().1 = due;
    }

    fn searched(&self) -> std::sync::MutexGuard<'_, (search::Found, Vec<EntryId>)> {
        self.searched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn may_walk(&self, now: Monotonic) -> bool {
        self.searched().0.began().is_none_or(|began| now.since(began) >= self.timing.heartbeat_interval)
    }

    /// Walks through the keys for these entries, unless the last walk was a moment ago.
    async fn walk_for(&self, live: &Live, now: Now, wanted: &[(EntryId, Unless)]) -> Result<(), Error> {
        if wanted.is_empty() || !self.may_walk(now.mono) {
            return Ok(());
        }
        let reading = self.reading(live, "seeking what protects entries of");
        let found = search::walk(&reading, wanted, now.mono).await?;
        self.searched().0 = found;
        Ok(())
    }

    /// Sees what keys protect the stale among these. What the last walk did not cover waits, as if it were protected.
    async fn seek(&self, asking: &Asking<'_>, now: Now, found: &mut [Found]) -> Result<(), Error> {
        if !self.source.seeks_keys() {
            return Ok(());
        }
        let mut open: Vec<(&mut bool, &mut Prepared)> = found
            .iter_mut()
            .filter_map(|found| match found {
                Found::Entry { judged: Ok((at, _)), protected, prepared, .. }
                    if !*protected && !prepared.unless.sought.is_empty() && self.is_stale(*at, now) =>
                {
                    Some((protected, &mut **prepared))
                }
                _ => None,
            })
            .collect();
        if !open.is_empty() && self.may_walk(now.mono) {
            let mut wanted: Vec<(EntryId, Unless)> =
                open.iter().map(|(_, prepared)| (prepared.id.clone(), prepared.unless.clone())).collect();
            wanted.extend(self.expected(asking, &wanted).await?);
            self.walk_for(asking.live, now, &wanted).await?;
        }
        let searched = self.searched();
        for (protected, prepared) in &mut open {
            let holds = searched.0.of(&prepared.id, &prepared.unless.sought).unwrap_or(true);
            (prepared.unless.holds, **protected) = (holds, holds);
        }
        Ok(())
    }

    /// The conditions of those that are due before the next walk, but for `known`.
    async fn expected(
        &self,
        asking: &Asking<'_>,
        known: &[(EntryId, Unless)],
    ) -> Result<Vec<(EntryId, Unless)>, Error> {
        let mut due = std::mem::take(&mut self.searched().1);
        let known: HashSet<&EntryId> = known.iter().map(|(id, _)| id).collect();
        due.retain(|id| !known.contains(id));
        due.truncate(search::MOST);
        let mut wanted = Vec::with_capacity(due.len());
        // bound: search::MOST of them
        for ids in due.chunks(READ_AT_ONCE) {
            let (now, held) = self.read(asking.live, ids).await?;
            let mut entries: Vec<(&EntryId, Own, Unless)> = ids
                .iter()
                .zip(held)
                .filter_map(|(id, held)| match held {
                    Held::Own(own) => Some((id, own, Unless::default())),
                    Held::Nothing | Held::WrongType => None,
                })
                .collect();
            until_told(asking, &mut Answers::default(), &mut entries, |(id, own, unless), answers| {
                let facts = Facts::new(&self.source, id, own, now, answers);
                *unless = facts.unless();
                !facts.is_pending()
            })
            .await?;
            let open = entries.into_iter().filter(|(_, _, unless)| !unless.holds && !unless.sought.is_empty());
            wanted.extend(open.map(|(id, _, unless)| (id.clone(), unless)));
        }
        Ok(wanted)
    }

    /// What stands under these ids, and when it was read.
    async fn read(&self, live: &Live, ids: &[EntryId]) -> Result<(Now, Vec<Held>), Error> {
        let (link, source) = (&*self.link, &*self.source);
        match &source.container {
            Container::Zset(_) => zset::look(link, live, source, ids).await,
            Container::Hash(_) => hash::look(link, live, source, ids).await,
            Container::Set(_) => set::look(link, live, source, ids).await,
            Container::Keys(_) => keys::look(link, live, source, ids).await,
        }
    }

    fn is_live(&self, at: Timestamp, now: Now) -> bool {
        matches!(self.timing.judge(at, now.server), Freshness::Fresh | Freshness::Late)
    }

    /// Of each of these keys, whether it expires as soon as `on_evict` would have it; nobody asks where that does nothing
    /// of the kind.
    async fn expiring(&self, asking: &Asking<'_>, keys: &[Vec<u8>]) -> Result<Vec<bool>, Error> {
        let OnEvict::Expire(time) = self.source.on_evict else { return Ok(vec![false; keys.len()]) };
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let Asking { link, live, purpose, doing, .. } = *asking;
        let mut commands = redis::pipe();
        keys.iter().for_each(|key| _ = commands.cmd("PTTL").arg(key));
        let replies = link.ask(live, purpose, doing, &commands).await?;
        let expires = |reply| match reply {
            redis::Value::Int(left) => Ok(u128::try_from(left).is_ok_and(|left| left <= time.as_millis())),
            other => reply::count(other).map(|_| false).map_err(|unexpected| link.unexpected(doing, unexpected)),
        };
        replies.into_iter().map(expires).collect()
    }

    /// Reads the lists that companions of the stale among these are made from.
    async fn read_lists(
        &self,
        asking: &Asking<'_>,
        answers: &mut Answers,
        now: Now,
        found: &mut [Found],
    ) -> Result<(), Error> {
        let source = &*self.source;
        if !own::awaits_lists(source) {
            return Ok(());
        }
        let mut stale: Vec<&mut Prepared> = found
            .iter_mut()
            .filter_map(|found| match found {
                Found::Entry { judged: Ok((at, _)), protected: false, prepared, .. } if self.is_stale(*at, now) => {
                    Some(&mut **prepared)
                }
                _ => None,
            })
            .collect();
        // Taken apart, since nobody may hold on to the answers while Redis is asked.
        let owns: Vec<(EntryId, Own)> =
            stale.iter_mut().filter_map(|prepared| Some((prepared.id.clone(), *prepared.own.take()?))).collect();
        let queries = {
            let facts = owns.iter().map(|(id, own)| Facts::new(source, id, own, now, answers));
            facts.flat_map(|facts| facts.list_queries()).collect()
        };
        let max = usize::try_from(source.max_fanout).unwrap_or(usize::MAX);
        let lists = deeds::read(asking.link, asking.live, asking.doing, queries, max).await?;
        for (prepared, (id, own)) in stale.iter_mut().zip(&owns) {
            Facts::new(source, id, own, now, answers).fill_lists(prepared, &lists);
        }
        // What protects them has been asked.
        let open = stale.into_iter().flat_map(|prepared| prepared.open_questions().skip(1));
        condition::ask(asking, answers, open).await
    }

    fn is_stale(&self, last_ping: Timestamp, now: Now) -> bool {
        self.timing.judge(last_ping, now.server) == Freshness::Stale
    }

    /// Strikes entries that were re-read on the process `identity` at `read_at`: each goes whole if nothing of its
    /// evidence has changed, and none if another process answers by now. With a release of an operator none goes that it
    /// does not allow.
    pub async fn evict(
        &self,
        mut prepared: Vec<Prepared>,
        identity: &Identity,
        read_at: Now,
        released: Option<&Release>,
    ) -> Evicted {
        let failed = |error| Evicted { failure: Some(error), ..Default::default() };
        let fence = self.lease.as_ref().map(|lease| lease.fence());
        let Some(fence) = fence.map_or(Some(None), |fence| fence.map(Some)) else {
            return Evicted::fenced(prepared);
        };
        match self.link.live().await {
            Ok(live) if live.identity != *identity => {
                failed(self.link.error(Kind::Other, "evicting", "another process answers than a moment ago"))
            }
            Ok(live) => {
                let spending = released.map(|release| Spending::of(release, &self.source.name));
                let leave = Leave { fence: fence.as_ref(), spending: spending.as_ref() };
                if let Some(recorder) = &self.recorder {
                    prepared.iter_mut().for_each(|one| one.record(recorder, &self.source.name, fence.is_some()));
                }
                let evicted = evict::strike(&self.link, &live, prepared, leave, read_at).await;
                self.moves_on();
                if let Some(lease) = self.lease.as_ref().filter(|_| evicted.lease_lost) {
                    lease.fenced();
                }
                evicted
            }
            Err(error) => failed(error),
        }
    }

    fn reading<'a>(&'a self, live: &'a Live, doing: &str) -> Reading<'a> {
        let (link, source) = (&*self.link, &*self.source);
        Reading { store: self, link, live, source, doing: format!("{doing} source {}", source.name) }
    }
}

/// Entries are being read: where.
struct Reading<'a> {
    store: &'a Store,
    link: &'a Link,
    live: &'a Live,
    source: &'a Source,
    /// What a failure says that we were doing.
    doing: String,
}

/// Who takes the entries that a walk reads.
trait Taker {
    /// Takes an entry as it was read; without anything of its own it is a key of another type. Breaks off a walk that
    /// has told enough.
    fn take(&mut self, now: Now, own: Option<Own>, id: impl FnOnce() -> EntryId) -> ControlFlow<()>;

    /// A page of so many items was read.
    async fn turn(&mut self, items: usize) -> Result<(), Error>;
}

/// A survey under way, and who hears of it.
struct Surveying<'a> {
    store: &'a Store,
    live: &'a Live,
    ask: &'a Ask,
    survey: Survey,
    /// The entries of this page, where something has to be asked before they can be judged.
    staged: Vec<Staged>,
    /// The stale of this page, of which only Redis knows whether something protects them.
    doubtful: Vec<Doubtful>,
    /// Those of all pages of which a walk over the keys tells.
    sought: Vec<Doubtful>,
}

/// An entry that is judged by what was read of it alone, whichever it is.
static NOBODY: LazyLock<EntryId> = LazyLock::new(|| EntryId::key(*b""));

/// An entry as it was read, and what it comes to.
struct Staged {
    id: EntryId,
    own: Own,
    now: Now,
    /// None where it is no entry of the source.
    view: Option<View>,
}

/// What an entry tells.
struct View {
    told: Told,
    label: Option<Vec<u8>>,
    /// It says that it was evicted.
    already: bool,
}

/// A stale entry, and what may protect it.
struct Doubtful {
    id: EntryId,
    own: Own,
    /// Of its group, where the source names one.
    label: Option<Vec<u8>>,
    ping: (Timestamp, Unit),
    mark: Mark,
    absent: Option<bool>,
    now: Now,
    unless: Unless,
}

impl Doubtful {
    fn observe(self, survey: &mut Survey) {
        let Self { id, label, ping, mark, absent, now, unless, .. } = self;
        let protected = unless.holds;
        match absent {
            Some(lived) => {
                survey.observe_absence(Absence { id, label, since: ping.0, lived, mark, now, protected });
            }
            None if protected => survey.observe_protected(label.as_deref(), ping, mark, now, id),
            None => survey.observe_in(label.as_deref(), Ok(ping), mark, now, || id),
        }
    }
}

impl Taker for Surveying<'_> {
    fn take(&mut self, now: Now, own: Option<Own>, id: impl FnOnce() -> EntryId) -> ControlFlow<()> {
        let source = &*self.store.source;
        let Some(own) = own else {
            self.survey.observe(Err(Unreadable::WrongType), Mark::of([]), now, id);
            return ControlFlow::Continue(());
        };
        let none = Answers::default();
        if source.judges_alone() {
            let told = Facts::new(source, &NOBODY, &own, now, &none).tell(|_| false);
            if let Sign::Time(judged) = told.sign {
                self.survey.observe(judged, told.mark, now, id);
            }
            return ControlFlow::Continue(());
        }
        let id = id();
        if id.member.as_deref().is_some_and(|member| !source.admits(member)) {
            self.survey.foreign += 1;
        } else if source.asks_first() {
            self.staged.push(Staged { id, own, now, view: None });
        } else {
            let facts = Facts::new(source, &id, &own, now, &none);
            let view = View { told: facts.tell(|_| false), label: facts.label(), already: facts.already() };
            self.judge(Staged { id, own, now, view: Some(view) });
        }
        ControlFlow::Continue(())
    }

    async fn turn(&mut self, items: usize) -> Result<(), Error> {
        let (store, live) = (self.store, self.live);
        store.moves_on();
        let doing = format!("surveying source {}", store.source.name);
        let asking = Asking { link: &store.link, live, purpose: Purpose::Scan, doing: &doing, strict: true };
        let mut answers = Answers::default();
        let mut staged = std::mem::take(&mut self.staged);
        until_told(&asking, &mut answers, &mut staged, |one, answers| {
            let facts = Facts::new(&store.source, &one.id, &one.own, one.now, answers);
            let view = facts.belongs().then(|| View {
                told: facts.tell(|at| store.is_live(at, one.now)),
                label: facts.label(),
                already: facts.already(),
            });
            one.view = view.filter(|_| !facts.is_pending());
            !facts.is_pending()
        })
        .await?;
        staged.into_iter().for_each(|one| self.judge(one));
        let mut doubtful = std::mem::take(&mut self.doubtful);
        let keys: Vec<_> = doubtful.iter().map(|one| one.id.key.to_vec()).collect();
        let mut expiring = store.expiring(&asking, &keys).await?.into_iter();
        doubtful.retain(|_| !expiring.next().unwrap_or(false));
        until_told(&asking, &mut answers, &mut doubtful, |one, answers| {
            let facts = Facts::new(&store.source, &one.id, &one.own, one.now, answers);
            one.unless = facts.unless();
            !facts.is_pending()
        })
        .await?;
        let asking = Asking { strict: false, ..asking };
        condition::ask(&asking, &mut answers, doubtful.iter_mut().map(|one| &mut one.unless)).await?;
        for one in doubtful {
            let open = !one.unless.holds && !one.unless.sought.is_empty();
            match open && self.sought.len() < MAX_CANDIDATES {
                true => self.sought.push(one),
                false => one.observe(&mut self.survey),
            }
        }
        self.ask.audience.hears(items, &mut self.survey, &store.naming).await;
        Ok(())
    }
}

impl Surveying<'_> {
    /// Takes in those of which a walk over the keys tells. Whom the last walk did not cover is looked at before it goes.
    async fn seek(&mut self) -> Result<(), Error> {
        let mut sought = std::mem::take(&mut self.sought);
        let Some(now) = sought.last().map(|one| one.now) else { return Ok(()) };
        let wanted: Vec<_> = sought.iter().map(|one| (one.id.clone(), one.unless.clone())).collect();
        self.store.walk_for(self.live, now, &wanted).await?;
        for one in &mut sought {
            one.unless.holds = self.store.searched().0.of(&one.id, &one.unless.sought).unwrap_or(false);
        }
        sought.into_iter().for_each(|one| one.observe(&mut self.survey));
        Ok(())
    }

    /// Takes in an entry of which everything is known but what protects it.
    fn judge(&mut self, Staged { id, own, now, view }: Staged) {
        let Some(View { told, label, already }) = view else { return };
        let Seen { judged, mark, absent } = self.store.judge(&id, &told, now);
        self.survey.gave(told.gave);
        match judged {
            // What an eviction left behind is no entry until it pings.
            Ok(ping) if already && self.store.is_stale(ping.0, now) => {}
            Ok(ping) if absent.is_some() || self.store.is_stale(ping.0, now) => {
                let one = Doubtful { id, own, label, ping, mark, absent, now, unless: Unless::default() };
                let source = &self.store.source;
                match source.unless.is_empty() && !matches!(source.on_evict, OnEvict::Expire(_)) {
                    true => one.observe(&mut self.survey),
                    false => self.doubtful.push(one),
                }
            }
            judged => self.survey.observe_in(label.as_deref(), judged, mark, now, || id),
        }
    }
}

/// Whether a container that a pattern found is another thing by now. What is at an exact key and is none is a mistake
/// of the operator's, and for the caller to report.
fn became_another(source: &Source, id: &EntryId, reply: &redis::Value) -> bool {
    reply::is_wrong_type(reply) && !source.container.names_exactly(&id.key)
}

fn looking(source: &Source) -> String {
    format!("re-reading source {}", source.name)
}
