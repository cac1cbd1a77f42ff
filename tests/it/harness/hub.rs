//! A simulated hub: writes presence entries as real hubs do, keeps pinging those it is told to, and logs every write
//! that the server acknowledged, so that the oracle need not trust the program under test.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::RedisResult;
use redis::aio::MultiplexedConnection;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::oracle::{Verdict, Write, judge};
use super::server::{Server, dial};

/// The script that writes, with the server's own time.
const WRITE: &str = include_str!("hub.lua");

/// Ids a script call; the server does nothing else meanwhile.
const BATCH: usize = 500;

/// How a hub lays its entries out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// A sorted set: member → last ping in ms.
    Zset,
    /// A string key for each client, holding the last ping in ms.
    Strings,
    /// A hash key for each client, with the last ping in ms in the field `last_ping`.
    Hashes,
    /// One hash: id → JSON with `UserId`, `LatestPingTime` and `EntranceTime`, as SignalR hubs keep.
    Json,
}

impl Layout {
    /// All four, for tests that are the same in each.
    pub(crate) const ALL: [Self; 4] = [Self::Zset, Self::Strings, Self::Hashes, Self::Json];

    /// As the script calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Zset => "zset",
            Self::Strings => "strings",
            Self::Hashes => "hashes",
            Self::Json => "json",
        }
    }

    /// The container, or what the keys of the entries begin with.
    fn default_key(self) -> &'static str {
        match self {
            Self::Zset => "presence:online",
            Self::Strings => "presence:",
            Self::Hashes => "conn:",
            Self::Json => "signalr:clients",
        }
    }
}

/// What a ping does when its entry is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Refresh {
    /// Writes it whole.
    #[default]
    Upsert,
    /// Leaves it: the heartbeat contract for hubs.
    OnlyExisting,
}

/// A simulated hub. Clones are the same hub: they share the log.
#[derive(Clone)]
pub(crate) struct Hub {
    url: String,
    layout: Layout,
    key: String,
    refresh: Refresh,
    clock_offset_ms: i64,
    next_id: Arc<AtomicUsize>,
    log: Arc<Mutex<Vec<Write>>>,
}

impl Hub {
    /// A hub that writes to `server`.
    pub(crate) fn new(server: &Server, layout: Layout) -> Self {
        Self::at(&server.url(), layout)
    }

    /// A hub that reaches its server by this URL, for instance through a proxy.
    pub(crate) fn at(url: &str, layout: Layout) -> Self {
        Self {
            url: url.to_owned(),
            layout,
            key: layout.default_key().to_owned(),
            refresh: Refresh::default(),
            clock_offset_ms: 0,
            next_id: Arc::default(),
            log: Arc::default(),
        }
    }

    /// Another container, or another beginning of the keys, so that several hubs fit one server.
    pub(crate) fn key(mut self, key: &str) -> Self {
        self.key = key.to_owned();
        self
    }

    /// What its pings do when the entry is not there.
    pub(crate) fn refresh(mut self, refresh: Refresh) -> Self {
        self.refresh = refresh;
        self
    }

    /// How far its clock is ahead of the server's; behind, if negative.
    pub(crate) fn clock_offset_ms(mut self, offset: i64) -> Self {
        self.clock_offset_ms = offset;
        self
    }

    /// The flags that describe its entries to the program under test.
    pub(crate) fn source_flags(&self) -> Vec<String> {
        let each = format!("{}{{id}}", self.key);
        let flags: &[&str] = match self.layout {
            Layout::Zset => &["--zset", &self.key],
            Layout::Strings => &["--keys", &each],
            Layout::Hashes => &["--keys", &each, "--last-ping", "field last_ping"],
            Layout::Json => {
                &["--hash", &self.key, "--last-ping", "json /LatestPingTime", "--last-ping", "json /EntranceTime"]
            }
        };
        flags.iter().map(|&flag| flag.to_owned()).collect()
    }

    /// The same as lines of a source in a file.
    pub(crate) fn source_lines(&self) -> String {
        let flags = self.source_flags();
        let [container, key, times @ ..] = &flags[..] else { unreachable!("a flag and its value") };
        let times: Vec<String> = times.chunks(2).map(|pair| format!("{:?}", pair[1])).collect();
        let times = if times.is_empty() { String::new() } else { format!("last_ping = [{}]\n", times.join(", ")) };
        format!("{} = {key:?}\n{times}", container.trim_start_matches("--"))
    }

    /// Writes `n` new clients that ping right now.
    pub(crate) async fn live(&self, n: usize) -> Vec<String> {
        self.enter("c", n, Duration::ZERO).await
    }

    /// Writes `n` new clients whose last ping was `age` ago.
    pub(crate) async fn stale(&self, n: usize, age: Duration) -> Vec<String> {
        self.enter("s", n, age).await
    }

    /// One ping of each of these clients; how many entries it reached.
    pub(crate) async fn ping(&self, ids: &[String]) -> RedisResult<usize> {
        self.write(&mut self.connect().await?, ids, Duration::ZERO, self.refresh).await
    }

    /// Pings these clients at once and every `heartbeat` from then on, redialling when the server was away.
    pub(crate) fn ping_every(&self, heartbeat: Duration, ids: &[String]) -> Pinging {
        let clients = Arc::new(Mutex::new(ids.iter().cloned().collect()));
        let goodbye = CancellationToken::new();
        let task = heartbeats(self.clone(), heartbeat, Arc::clone(&clients), goodbye.clone());
        Pinging { clients, goodbye, task: AbortOnDropHandle::new(tokio::spawn(task)) }
    }

    /// Every acknowledged write so far, oldest first.
    pub(crate) fn log(&self) -> Vec<Write> {
        self.log.lock().unwrap().clone()
    }

    /// The ids whose entries stand in the server now.
    pub(crate) async fn remaining(&self) -> BTreeSet<String> {
        let mut connection = self.connect().await.expect("a connection");
        let (command, argument) = match self.layout {
            Layout::Zset => ("ZRANGE", self.key.clone()),
            Layout::Json => ("HKEYS", self.key.clone()),
            Layout::Strings | Layout::Hashes => ("KEYS", format!("{}*", self.key)),
        };
        let mut read = redis::cmd(command);
        read.arg(argument);
        if self.layout == Layout::Zset {
            read.arg(0).arg(-1);
        }
        let names: Vec<String> = read.query_async(&mut connection).await.expect("the entries");
        names.into_iter().map(|name| name.strip_prefix(&self.key).unwrap_or(&name).to_owned()).collect()
    }

    /// What became of its clients, as the log and the server's entries show it.
    ///
    /// The log is copied before the entries are read and the time taken after, so a ping on its way accuses nobody.
    pub(crate) async fn verdict(&self, threshold: Duration) -> Verdict {
        let log = self.log();
        let remaining = self.remaining().await;
        let mut connection = self.connect().await.expect("a connection");
        let (seconds, micros): (i64, i64) = redis::cmd("TIME").query_async(&mut connection).await.expect("TIME");
        judge(&log, &remaining, seconds * 1000 + micros / 1000, threshold)
    }

    async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        dial(&self.url).await
    }

    async fn enter(&self, letter: &str, n: usize, age: Duration) -> Vec<String> {
        let first = self.next_id.fetch_add(n, Ordering::Relaxed);
        let ids: Vec<String> = (first..first + n).map(|number| format!("{letter}-{number}")).collect();
        let mut connection = self.connect().await.expect("a connection");
        self.write(&mut connection, &ids, age, Refresh::Upsert).await.expect("the first writes");
        ids
    }

    async fn write(
        &self,
        connection: &mut MultiplexedConnection,
        ids: &[String],
        age: Duration,
        refresh: Refresh,
    ) -> RedisResult<usize> {
        let mut reached = 0;
        for ids in ids.chunks(BATCH) {
            reached += self.write_batch(connection, ids, age, refresh).await?;
        }
        Ok(reached)
    }

    async fn write_batch(
        &self,
        connection: &mut MultiplexedConnection,
        ids: &[String],
        age: Duration,
        refresh: Refresh,
    ) -> RedisResult<usize> {
        let keys = self.keys(ids);
        let age_ms = i64::try_from(age.as_millis()).expect("an age of this age");
        let mode = if refresh == Refresh::Upsert { "upsert" } else { "refresh" };
        let mut eval = redis::cmd("EVAL");
        eval.arg(WRITE).arg(keys.len()).arg(keys).arg(self.layout.name()).arg(mode);
        eval.arg(age_ms - self.clock_offset_ms).arg(ids);
        let (at_ms, there, stored): (i64, Vec<bool>, Vec<Option<String>>) = eval.query_async(connection).await?;
        let writes = ids.iter().zip(there).zip(stored).map(|((id, existed), value)| Write {
            id: id.clone(),
            at_ms,
            pinged_ms: at_ms - age_ms,
            existed,
            value,
        });
        let mut log = self.log.lock().unwrap();
        let before = log.len();
        log.extend(writes);
        Ok(log[before..].iter().filter(|write| write.value.is_some()).count())
    }

    fn keys(&self, ids: &[String]) -> Vec<String> {
        match self.layout {
            Layout::Zset | Layout::Json => vec![self.key.clone()],
            Layout::Strings | Layout::Hashes => ids.iter().map(|id| format!("{}{id}", self.key)).collect(),
        }
    }
}

// === Pinging ===

/// Clients that are being kept alive, until told otherwise or dropped.
pub(crate) struct Pinging {
    clients: Arc<Mutex<BTreeSet<String>>>,
    goodbye: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Pinging {
    /// These clients die without goodbye; the others ping on.
    pub(crate) fn silence(&self, ids: &[String]) {
        let mut clients = self.clients.lock().unwrap();
        for id in ids {
            clients.remove(id);
        }
    }

    /// The whole hub dies. Returns after the ping that was on its way, so that no write is missing from the log.
    pub(crate) async fn stop(self) {
        self.goodbye.cancel();
        self.task.await.expect("the heartbeats end");
    }
}

/// Pings whoever is left of `clients` every `heartbeat`. A failure costs the connection and that beat, no more.
async fn heartbeats(hub: Hub, heartbeat: Duration, clients: Arc<Mutex<BTreeSet<String>>>, goodbye: CancellationToken) {
    let mut ticks = interval(heartbeat);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut connection = None;
    while goodbye.run_until_cancelled(ticks.tick()).await.is_some() {
        if connection.is_none() {
            connection = hub.connect().await.ok();
        }
        let ids: Vec<String> = clients.lock().unwrap().iter().cloned().collect();
        if let Some(open) = &mut connection
            && hub.write(open, &ids, Duration::ZERO, hub.refresh).await.is_err()
        {
            connection = None;
        }
    }
}
