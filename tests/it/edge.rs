//! The Redis edge as the tests hold it: a source from its text, a store on it, and the entries of four layouts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use presence_reaper::check;
use presence_reaper::clock::Clock;
use presence_reaper::config::{Config, File, Inputs, load};
use presence_reaper::policy::entry::{EntryId, Timestamp};
use presence_reaper::policy::outcome::Outcome;
use presence_reaper::policy::survey::Survey;
use presence_reaper::store::audience::Ask;
use presence_reaper::store::connect::Link;
use presence_reaper::store::error::{Error, Kind};
use presence_reaper::store::evict::{Evicted, Prepared};
use presence_reaper::store::{Found, Looked, Store};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue};

use crate::harness::{Layout, Server, confined, generation_named, user_on};

/// How long a call may hang before a test gives up on it.
pub(crate) const LONG: Duration = Duration::from_secs(10);

// === Edge ===

/// One source on one server, reached by a connection of its own.
pub(crate) struct Edge {
    pub(crate) store: Store,
    pub(crate) link: Arc<Link>,
    clock: Clock,
}

impl Edge {
    /// A source (the text of its table, without a name) on this server, with patience for a loaded machine.
    pub(crate) fn on(server: &Server, source: &str) -> Self {
        Self::at(&server.url(), source)
    }

    /// The same by URL, for instance through a proxy.
    pub(crate) fn at(url: &str, source: &str) -> Self {
        Self::dialling(&format!("url = \"{url}\"\nconnect_timeout = \"5s\"\nresponse_timeout = \"5s\""), source)
    }

    /// The same with the whole table `[redis]` spelt out.
    pub(crate) fn dialling(redis: &str, source: &str) -> Self {
        let config = as_its_own_user(redis, source).unwrap_or_else(|| config(redis, source));
        let clock = Clock::start();
        let link = Arc::new(Link::new(config.redis, clock));
        let [source] = &config.sources[..] else { panic!("one source") };
        let store = Store::new(Arc::clone(&link), Arc::clone(&source.source), source.timing, source.guard.max_keys);
        Self { store, link, clock }
    }

    /// Re-reads entries; a failure fails the test.
    pub(crate) async fn look(&self, ids: &[EntryId]) -> Looked {
        within(self.store.look(ids)).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Strikes all that a look found, whatever their age: the store does not judge.
    pub(crate) async fn strike(&self, looked: &Looked) -> Evicted {
        let entries = looked.found.iter().filter_map(prepared).collect();
        within(self.store.evict(entries, &looked.identity, looked.now, None)).await
    }

    /// Looks and strikes; one outcome for each id that was there.
    pub(crate) async fn evict(&self, ids: &[EntryId]) -> Outcomes {
        let looked = self.look(ids).await;
        outcomes(&self.strike(&looked).await)
    }

    /// A whole survey; a failure fails the test.
    pub(crate) async fn survey(&self) -> Survey {
        within(self.store.survey(&Ask::default())).await.unwrap_or_else(|error| panic!("{error}")).survey
    }

    /// What a survey fails with.
    pub(crate) async fn survey_error(&self) -> Error {
        within(self.store.survey(&Ask::default())).await.map(|_| ()).expect_err("a failure")
    }

    /// Waits until the next call dials again, where the last dial failed.
    pub(crate) async fn wait_for_redial(&self) {
        let at = self.link.retry_at().await;
        tokio::time::sleep_until(self.clock.instant(at)).await;
    }
}

/// The same with a user that has its rights and no other, where the tests run like that and the table names none.
fn as_its_own_user(redis: &str, source: &str) -> Option<Config> {
    if !confined() || redis.contains("username") || redis.contains("password") {
        return None;
    }
    let plain = config(redis, source);
    let line = |generation: &str| Some(check::acl_line(&plain, true, generation_named(generation)));
    let user = user_on(&plain.redis.endpoint.to_string(), line)?;
    Some(config(&format!("{redis}\nusername = \"{}\"\npassword = \"{}\"", user.name, user.password), source))
}

/// A configuration of this table `[redis]` and this one source, which is called `edge`.
pub(crate) fn config(redis: &str, source: &str) -> Config {
    let text = format!("[redis]\n{redis}\n[[source]]\nname = \"edge\"\n{source}\n");
    let file = File { name: "reaper.toml".into(), text };
    load(Inputs { file: Some(file), ..Inputs::default() }).unwrap_or_else(|problems| panic!("{problems}"))
}

/// Nothing at the edge may hang.
pub(crate) async fn within<T>(call: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, call).await.expect("an answer before anybody gives up")
}

/// What a strike on it needs, if it is an entry.
pub(crate) fn prepared(found: &Found) -> Option<Prepared> {
    match found {
        Found::Entry { prepared, .. } => Some((**prepared).clone()),
        Found::Gone | Found::WrongType => None,
    }
}

/// Outcomes by the entry's name.
pub(crate) type Outcomes = BTreeMap<String, Outcome>;

/// The outcomes of a strike, each entry once.
pub(crate) fn outcomes(evicted: &Evicted) -> Outcomes {
    let named = evicted.outcomes.iter().map(|(id, outcome)| (id.name().escape_ascii().to_string(), *outcome));
    let outcomes: Outcomes = named.collect();
    assert_eq!(outcomes.len(), evicted.outcomes.len(), "an entry was named twice: {:?}", evicted.outcomes);
    outcomes
}

/// `[("a", Evicted), …]` as outcomes.
pub(crate) fn expected<const N: usize>(outcomes: [(&str, Outcome); N]) -> Outcomes {
    outcomes.map(|(name, outcome)| (name.to_owned(), outcome)).into()
}

/// The kind of an error, after a look at its sentence: it names what we did, and with whom.
#[track_caller]
pub(crate) fn kind_and_words(error: &Error, words: &[&str]) -> Kind {
    let sentence = error.to_string();
    for word in words {
        assert!(sentence.contains(word), "no `{word}` in: {sentence}");
    }
    error.kind
}

// === entries ===

/// The table of a source in this layout, to which a test may add lines.
pub(crate) fn source(layout: Layout) -> &'static str {
    match layout {
        Layout::Zset => "zset = \"presence:online\"",
        Layout::Strings => "keys = \"ping:{id}\"",
        Layout::Hashes => "keys = \"conn:{id}\"\nlast_ping = \"field last_ping\"",
        Layout::Json => "hash = \"signalr:clients\"\nlast_ping = \"json /LatestPingTime\"",
    }
}

/// The container's key; none where each entry has its own.
pub(crate) fn container(layout: Layout) -> Option<&'static str> {
    match layout {
        Layout::Zset => Some("presence:online"),
        Layout::Json => Some("signalr:clients"),
        Layout::Strings | Layout::Hashes => None,
    }
}

/// The entry of this name.
pub(crate) fn id(layout: Layout, name: impl AsRef<[u8]>) -> EntryId {
    let name = name.as_ref();
    match container(layout) {
        Some(key) => EntryId::member(key.as_bytes().into(), name),
        None => EntryId::key([own_prefix(layout).as_bytes(), name].concat()),
    }
}

fn own_prefix(layout: Layout) -> &'static str {
    if layout == Layout::Strings { "ping:" } else { "conn:" }
}

/// The write of an entry whose time is this text.
pub(crate) fn put(layout: Layout, name: impl AsRef<[u8]>, time: &str) -> Cmd {
    let id = id(layout, name);
    let (key, name) = (&id.key[..], id.name());
    let mut command = Cmd::new();
    match layout {
        Layout::Zset => command.arg("ZADD").arg(key).arg(time).arg(name),
        Layout::Strings => command.arg("SET").arg(key).arg(time),
        Layout::Hashes => command.arg("HSET").arg(key).arg("last_ping").arg(time).arg("user").arg("u"),
        Layout::Json => command.arg("HSET").arg(key).arg(name).arg(json_entry(time)),
    };
    command
}

fn json_entry(time: &str) -> String {
    serde_json::json!({ "UserId": "u", "LatestPingTime": time }).to_string()
}

/// Writes entries of the given ages in ms, each named by its place, and returns their ids.
pub(crate) async fn put_aged(client: &mut MultiplexedConnection, layout: Layout, ages_ms: &[i64]) -> Vec<EntryId> {
    let now = server_now(client).await.millis();
    let mut pipe = redis::pipe();
    for (n, age) in ages_ms.iter().enumerate() {
        pipe.add_command(put(layout, format!("c{n}"), &(now - age).to_string()));
    }
    if !ages_ms.is_empty() {
        pipe.exec_async(client).await.unwrap();
    }
    (0..ages_ms.len()).map(|n| id(layout, format!("c{n}"))).collect()
}

// === servers ===

/// Sends words divided by blanks, and reads the answer.
pub(crate) async fn ask<T: FromRedisValue>(client: &mut MultiplexedConnection, words: &str) -> T {
    let mut command = Cmd::new();
    words.split_whitespace().for_each(|word| _ = command.arg(word));
    command.query_async(client).await.unwrap_or_else(|error| panic!("{words}: {error}"))
}

/// Sends lines of words divided by blanks.
pub(crate) async fn run(client: &mut MultiplexedConnection, lines: &[&str]) {
    for line in lines {
        ask::<redis::Value>(client, line).await;
    }
}

/// The server's time.
pub(crate) async fn server_now(client: &mut MultiplexedConnection) -> Timestamp {
    let (seconds, micros): (i64, i64) = ask(client, "TIME").await;
    Timestamp::from_millis(seconds * 1_000 + micros / 1_000)
}

/// Whether this entry stands.
pub(crate) async fn stands(client: &mut MultiplexedConnection, id: &EntryId) -> bool {
    let kind: String = redis::cmd("TYPE").arg(&id.key[..]).query_async(client).await.unwrap();
    let part = match kind.as_str() {
        "zset" if id.member.is_some() => "ZSCORE",
        "hash" if id.member.is_some() => "HGET",
        kind => return kind != "none",
    };
    let found: Option<Vec<u8>> = redis::cmd(part).arg(&id.key[..]).arg(id.name()).query_async(client).await.unwrap();
    found.is_some()
}
