//! The race between pings and evictions, and who saw what.
//!
//! Each client has one writer, which pings only what is there and so learns when its entry went, and which ping was its
//! last. Every ping writes another value. So each eviction must meet a loss with the same value: one that does not
//! removed a ping that nobody had judged.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use presence_reaper::policy::entry::{EntryId, Timestamp};
use presence_reaper::policy::outcome::{Outcome, Outcomes};
use presence_reaper::store::Found;
use redis::aio::MultiplexedConnection;
use tokio_util::task::AbortOnDropHandle;

use crate::edge::{Edge, id, prepared, server_now, source};
use crate::harness::{Layout, Server};

const PING: &str = include_str!("race.lua");

/// Few clients, so that pings and evictions meet all the time.
const CLIENTS: usize = 12;

/// Connections that ping, and as many that evict.
const HANDS: usize = 2;

/// A client's number and the ping that stood in its entry.
type Stood = (usize, i64);

/// What a race came to.
#[derive(Debug, Default)]
pub(super) struct Race {
    /// All that was struck, by what came of it.
    pub(super) outcomes: Outcomes,
    /// What the reapers removed, as they had judged it.
    evicted: BTreeSet<Stood>,
    /// What more than one reaper says it removed.
    twice: Vec<Stood>,
    /// What the writers found gone, as they had last written it.
    lost: BTreeSet<Stood>,
}

impl Race {
    /// How many entries were struck.
    pub(super) fn struck(&self) -> u64 {
        let Outcomes { evicted, spared, gone, too_late, unknown, .. } = self.outcomes;
        evicted + spared + gone + too_late + unknown + self.outcomes.blocked_total()
    }

    /// Evictions of what had not been judged, losses that nobody answers for, and evictions of what was gone.
    pub(super) fn violations(&self) -> Vec<Stood> {
        self.evicted.symmetric_difference(&self.lost).chain(&self.twice).copied().collect()
    }

    fn take_in(&mut self, outcomes: &Outcomes, evicted: Vec<Stood>) {
        self.outcomes.merge(outcomes);
        for stood in evicted {
            if !self.evicted.insert(stood) {
                self.twice.push(stood);
            }
        }
    }
}

/// Evicts through `reaper_url` what is pinged on `server`, until so many entries were struck.
pub(super) async fn race(server: &Server, reaper_url: &str, layout: Layout, strikes: usize) -> Race {
    let start = server_now(&mut server.client().await).await.millis() - 3_600_000;
    let over = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for hand in 0..HANDS {
        let clients = (0..CLIENTS).filter(|client| client % HANDS == hand).map(|client| (client, start)).collect();
        let mut connection = server.client().await;
        let ping =
            redis::cmd("SCRIPT").arg("LOAD").arg(PING).query_async(&mut connection).await.expect("a script's hash");
        let writer = Writer { connection, ping, layout, clients, lost: BTreeSet::new() };
        writers.push(AbortOnDropHandle::new(tokio::spawn(writer.ping_until(Arc::clone(&over)))));
    }
    let left = Arc::new(AtomicUsize::new(strikes));
    let reapers = (0..HANDS).map(|_| evict_until(Edge::at(reaper_url, source(layout)), layout, Arc::clone(&left)));
    let reapers: Vec<_> = reapers.map(|reaper| AbortOnDropHandle::new(tokio::spawn(reaper))).collect();

    let mut race = Race::default();
    for reaper in reapers {
        let (outcomes, evicted) = reaper.await.expect("a reaper that ends");
        race.take_in(&outcomes, evicted);
    }
    over.store(true, Ordering::SeqCst);
    for writer in writers {
        race.lost.extend(writer.await.expect("a writer that ends"));
    }
    race
}

/// Looks at everybody and strikes whoever is there, again and again.
async fn evict_until(edge: Edge, layout: Layout, left: Arc<AtomicUsize>) -> (Outcomes, Vec<Stood>) {
    let ids: Vec<EntryId> = (0..CLIENTS).map(|client| id(layout, client.to_string())).collect();
    let (mut outcomes, mut evicted) = (Outcomes::default(), Vec::new());
    // bound: every strike takes from what is left, and clients that are gone come back
    while left.load(Ordering::SeqCst) > 0 {
        let looked = edge.look(&ids).await;
        let judged: Vec<Option<Timestamp>> = looked.found.iter().map(judged).collect();
        let entries =
            judged.iter().zip(&looked.found).filter_map(|(judged, found)| prepared(found).filter(|_| judged.is_some()));
        let entries = entries.collect();
        pause().await;
        let struck = edge.store.evict(entries, &looked.identity, looked.now, None).await;
        assert!(struck.failure.is_none(), "{:?}", struck.failure);
        let taken = left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| Some(left.saturating_sub(struck.outcomes.len())));
        assert!(taken.is_ok());
        for (id, outcome) in struck.outcomes {
            outcomes.add(outcome);
            let client = ids.iter().position(|known| *known == id).expect("one that was asked for");
            if outcome == Outcome::Evicted {
                evicted.push((client, judged[client].expect("what was struck had been judged").millis()));
            }
        }
    }
    (outcomes, evicted)
}

/// Lets others go first, now and then.
async fn pause() {
    for _ in 0..fastrand::u8(..8) {
        tokio::task::yield_now().await;
    }
}

fn judged(found: &Found) -> Option<Timestamp> {
    match found {
        // Unreadable is a key that came back while its type was asked for.
        Found::Entry { judged, .. } => judged.ok().map(|(last_ping, _)| last_ping),
        Found::Gone => None,
        Found::WrongType => panic!("a wrong type"),
    }
}

// === Writer ===

/// Keeps some clients alive.
struct Writer {
    connection: MultiplexedConnection,
    /// The hash of [`PING`].
    ping: String,
    layout: Layout,
    /// Each with the value of its last ping that the server confirmed.
    clients: Vec<(usize, i64)>,
    lost: BTreeSet<Stood>,
}

impl Writer {
    /// Pings at random; at the end everybody once more, to learn of the last losses.
    async fn ping_until(mut self, over: Arc<AtomicBool>) -> BTreeSet<Stood> {
        self.ping(|_| true, "upsert").await;
        self.lost.clear();
        // bound: the reapers end it
        while !over.load(Ordering::SeqCst) {
            let gone = self.ping(|_| fastrand::bool(), "xx").await;
            self.ping(|client| gone.contains(&client), "upsert").await;
            pause().await;
        }
        self.ping(|_| true, "xx").await;
        self.lost
    }

    /// Pings some of the clients in one go; returns those whose entry was gone.
    async fn ping(&mut self, mut whom: impl FnMut(usize) -> bool, mode: &str) -> Vec<usize> {
        let pinged: Vec<usize> = (0..self.clients.len()).filter(|&at| whom(self.clients[at].0)).collect();
        if pinged.is_empty() {
            return Vec::new();
        }
        let mut pipe = redis::pipe();
        for &at in &pinged {
            let (client, last) = self.clients[at];
            let id = id(self.layout, client.to_string());
            pipe.cmd("EVALSHA").arg(&self.ping).arg(1).arg(&id.key[..]).arg(name(self.layout)).arg(id.name());
            pipe.arg(last + 1).arg(mode);
        }
        let there: Vec<bool> = pipe.query_async(&mut self.connection).await.expect("pings that are answered");
        let mut gone = Vec::new();
        for (at, there) in pinged.into_iter().zip(there) {
            let (client, last) = &mut self.clients[at];
            if !there && mode == "xx" {
                self.lost.insert((*client, *last));
                gone.push(*client);
            }
            // A value is never used twice, not even by a ping that reached nothing.
            *last += 1;
        }
        gone
    }
}

fn name(layout: Layout) -> &'static str {
    match layout {
        Layout::Zset => "zset",
        Layout::Strings => "strings",
        Layout::Hashes => "hashes",
        Layout::Json => "json",
    }
}
