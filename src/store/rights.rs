//! Every command that a source lets the store send, and on which keys; and the ACL rule that grants exactly these.
//!
//! The one list: whoever sends a command that does not stand here sees a test fail, for the tests run under the user
//! that is made from it.

use crate::language::action::{OWN_PREFIX, Verb};
use crate::language::companion::{Companion, Holder, List};
use crate::language::condition::{Condition, Test};
use crate::language::notify::{Notification, Target};
use crate::language::on_evict::OnEvict;
use crate::language::pattern::escaped;
use crate::language::source::{Container, Source};
use crate::language::template::{Layout, Ref, Template};
use crate::language::value::{Place, Value};
use crate::text::quoted;

mod acl;

pub use acl::{Generation, PASSWORD, acl_line};

/// A command on these keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    command: Command,
    on: On,
}

/// What a command is about.
#[derive(Clone, Debug, PartialEq, Eq)]
enum On {
    /// The server, or the database.
    Server,
    /// Keys, as globs of Redis; all of them in one call.
    Keys(Vec<Glob>),
    /// A channel, as a glob of Redis.
    Channel(Glob),
}

/// Keys or channels, as Redis matches them: `conn:*`.
type Glob = Vec<u8>;

/// A command, and what makes a whole call of its name and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Command {
    name: &'static str,
    kind: Kind,
    /// What stands behind the keys.
    behind: &'static [&'static str],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Reads,
    Writes,
    /// Redis can't know what a script does with its keys, and asks for every right on them.
    Script,
}

const fn reads(name: &'static str, behind: &'static [&'static str]) -> Command {
    Command { name, kind: Kind::Reads, behind }
}

const fn changes(name: &'static str, behind: &'static [&'static str]) -> Command {
    Command { name, kind: Kind::Writes, behind }
}

const TIME: Command = reads("TIME", &[]);
const INFO: Command = reads("INFO", &[]);
const SELECT: Command = reads("SELECT", &["1"]);
const SCAN: Command = reads("SCAN", &["0"]);
const TYPE: Command = reads("TYPE", &[]);
const GET: Command = reads("GET", &[]);
const EXISTS: Command = reads("EXISTS", &[]);
const SISMEMBER: Command = reads("SISMEMBER", &["member"]);
const SINTER: Command = reads("SINTER", &[]);
const HEXISTS: Command = reads("HEXISTS", &["field"]);
const HGET: Command = reads("HGET", &["field"]);
const MGET: Command = reads("MGET", &[]);
const HMGET: Command = reads("HMGET", &["field"]);
const HGETALL: Command = reads("HGETALL", &[]);
const HLEN: Command = reads("HLEN", &[]);
const HSCAN: Command = reads("HSCAN", &["0"]);
const SSCAN: Command = reads("SSCAN", &["0"]);
const SCARD: Command = reads("SCARD", &[]);
/// Its first word stands before the key.
const OBJECT: Command = reads("OBJECT|IDLETIME", &[]);
const ZSCAN: Command = reads("ZSCAN", &["0"]);
const ZSCORE: Command = reads("ZSCORE", &["member"]);
const ZCARD: Command = reads("ZCARD", &[]);
const ZCOUNT: Command = reads("ZCOUNT", &["0", "0"]);
const ZRANGE: Command = reads("ZRANGE", &["0", "0"]);
const ZRANGEBYSCORE: Command = reads("ZRANGEBYSCORE", &["0", "0"]);
const ZREVRANGEBYSCORE: Command = reads("ZREVRANGEBYSCORE", &["0", "0"]);
const PUBLISH: Command = changes("PUBLISH", &["message"]);
const SPUBLISH: Command = changes("SPUBLISH", &["message"]);
const XADD: Command = changes("XADD", &["*", "field", "value"]);
const XDEL: Command = changes("XDEL", &["0"]);
const XLEN: Command = reads("XLEN", &[]);
const XRANGE: Command = reads("XRANGE", &["-", "+"]);
const SET: Command = changes("SET", &["value"]);
const HSET: Command = changes("HSET", &["field", "value"]);
const HINCRBY: Command = changes("HINCRBY", &["field", "1"]);
const PEXPIRE: Command = changes("PEXPIRE", &["1"]);
const PTTL: Command = reads("PTTL", &[]);
const LREM: Command = changes("LREM", &["0", "element"]);
const SMEMBERS: Command = reads("SMEMBERS", &[]);
const HKEYS: Command = reads("HKEYS", &[]);
const HVALS: Command = reads("HVALS", &[]);
const LRANGE: Command = reads("LRANGE", &["0", "0"]);
const LLEN: Command = reads("LLEN", &[]);
const SCRIPTS: [Command; 2] = [
    Command { name: "EVALSHA", kind: Kind::Script, behind: &[] },
    Command { name: "EVAL", kind: Kind::Script, behind: &[] },
];

/// By these a server before Redis 7 is asked what we may write there: a transaction that is thrown away, and, whether it
/// takes writes at all, one that writes nothing.
const ASKING: [&str; 3] = ["MULTI", "DISCARD", "SETRANGE"];

const fn writes(verb: Verb) -> &'static [Command] {
    const UNLINK: Command = changes("UNLINK", &[]);
    const SREM: Command = changes("SREM", &["member"]);
    const ZREM: Command = changes("ZREM", &["member"]);
    const HDEL: Command = changes("HDEL", &["member"]);
    match verb {
        Verb::Unlink => &[UNLINK],
        Verb::Srem => &[SREM],
        Verb::Zrem => &[ZREM],
        Verb::Hdel => &[HDEL],
        Verb::Lrem => &[LREM],
        Verb::Hset => &[HSET],
        Verb::Expire => &[PEXPIRE],
        Verb::DecrRef => &[HGET, HINCRBY, HDEL],
    }
}

/// What reads a list, and what counts it first.
const fn lists(holder: Holder) -> [Command; 2] {
    match holder {
        Holder::Members => [SMEMBERS, SCARD],
        Holder::Fields => [HKEYS, HLEN],
        Holder::Values => [HVALS, HLEN],
        Holder::Ranked => [ZRANGE, ZCARD],
        Holder::Elements => [LRANGE, LLEN],
    }
}

// === what is needed ===

/// What is done with a source.
#[derive(Clone, Copy, Debug)]
pub struct Use<'s> {
    /// Where its entries are, and what goes with them.
    pub source: &'s Source,
    /// Its database.
    pub db: u16,
    /// Whether anything is evicted from it.
    pub evicts: bool,
    /// The key that shows whether its hubs can write.
    pub witness: Option<&'s [u8]>,
    /// The stream in which evictions are recorded.
    pub record: Option<&'s [u8]>,
}

/// What is needed for that.
pub fn needed<'s>(uses: impl IntoIterator<Item = Use<'s>>) -> Vec<Right> {
    let mut rights = Vec::new();
    for Use { source, db, evicts, witness, record } in uses {
        let more = of_connection(db)
            .chain(of_reading(source))
            .chain(witness.map(|key| Right::on(GET, escaped(key))))
            .chain(evicts.then(|| of_striking(source, record)).into_iter().flatten());
        for right in more {
            if !rights.contains(&right) {
                rights.push(right);
            }
        }
    }
    rights
}

fn of_connection(db: u16) -> impl Iterator<Item = Right> {
    let select = (db != 0).then_some(SELECT);
    [TIME, INFO].into_iter().chain(select).map(|command| Right { command, on: On::Server })
}

/// Surveys, re-reads and samples.
fn of_reading(source: &Source) -> Vec<Right> {
    let patterns = source.container.patterns();
    let scan = patterns.iter().any(|pattern| pattern.literal().is_none());
    let scan = (scan || source.seeks_keys()).then_some(Right { command: SCAN, on: On::Server });
    let on_entries = patterns.iter().flat_map(|pattern| {
        let commands = reading(source, pattern.literal().is_some());
        commands.into_iter().map(|command| Right::on(command, pattern.glob()))
    });
    let expires = matches!(source.on_evict, OnEvict::Expire(_)).then_some(PTTL);
    let expires = source.container.globs().flat_map(|own| expires.map(|command| Right::on(command, own)));
    let asking = source.container.globs().flat_map(|own| {
        let conditions = source.filters.iter().chain(&source.unless);
        [asking(source, conditions, &own), lookups(source, &own)].concat()
    });
    scan.into_iter().chain(on_entries).chain(expires).chain(asking).collect()
}

/// What asks for these conditions of entries in `own`.
fn asking<'c>(source: &Source, conditions: impl IntoIterator<Item = &'c Condition>, own: &Glob) -> Vec<Right> {
    let rights = conditions.into_iter().filter_map(|condition| {
        let keys = globs(source, condition.keys(), own);
        Some(Right { command: asked(condition)?, on: On::Keys(keys) })
    });
    rights.collect()
}

/// What reads the list that a companion of entries in `own` is made from.
fn listing(source: &Source, companion: &Companion, own: &Glob) -> Vec<Right> {
    match companion.each.as_ref().map(|each| &each.list) {
        Some(List::Stored(holder, key)) => {
            lists(*holder).map(|command| Right::on(command, glob(source, key, own))).to_vec()
        }
        Some(List::Json(_) | List::Split { .. }) | None => Vec::new(),
    }
}

/// None where the entry's own values tell.
fn asked(condition: &Condition) -> Option<Command> {
    Some(match &condition.test {
        Test::Exists(_) => EXISTS,
        Test::IsMember { .. } => SISMEMBER,
        Test::HasField { .. } => HEXISTS,
        Test::Disjoint(_) => SINTER,
        Test::Equals { value, .. } => looking_up(value)?,
        // A walk has no keys of its own.
        Test::AnyKey(_) => return None,
    })
}

/// None where the entry's own values tell.
fn looking_up(value: &Value) -> Option<Command> {
    let Value::Lookup(lookup) = value else { return None };
    Some(match lookup.place {
        Place::Text(_) => GET,
        Place::Field { .. } => HGET,
        Place::Score { .. } => ZSCORE,
        Place::Key(_) => EXISTS,
    })
}

/// What is looked up for entries in `own`; an absence is told from a key that is gone.
fn lookups(source: &Source, own: &Glob) -> Vec<Right> {
    let values = source.last_ping.iter().chain(source.lets.iter().flat_map(|one| &one.values));
    let rights = values.flat_map(|value| {
        let keys = globs(source, value.key().map(std::slice::from_ref).unwrap_or_default(), own);
        let commands = looking_up(value).into_iter().flat_map(|command| [command, EXISTS]);
        commands.map(move |command| Right { command, on: On::Keys(keys.clone()) })
    });
    rights.collect()
}

/// What reads a container at an exact key, or those that a pattern finds: of these the small ones are read whole.
fn reading(source: &Source, exact: bool) -> Vec<Command> {
    let by_index: &[Command] = match source.answers_by_index() {
        true => &[ZCARD, ZCOUNT, ZRANGE, ZRANGEBYSCORE, ZREVRANGEBYSCORE],
        false => &[],
    };
    let (first, always): (&[Command], &[Command]) = match (source.layout, exact) {
        (Layout::Zset, true) => (&[TYPE], &[ZSCORE, ZSCAN]),
        (Layout::Zset, false) => (&[ZCARD, ZRANGE], &[ZSCORE, ZSCAN]),
        (Layout::Hash, true) => (&[TYPE], &[HMGET, HSCAN]),
        (Layout::Hash, false) => (&[HLEN], &[HMGET, HSCAN]),
        (Layout::Set, true) => (&[TYPE], &[SISMEMBER, SSCAN]),
        (Layout::Set, false) => (&[SCARD], &[SISMEMBER, SSCAN]),
        (Layout::Strings, _) => (&[TYPE], &[MGET]),
        (Layout::Hashes, _) => (&[TYPE], &[HMGET]),
        (Layout::Keys, _) if source.last_ping == [Value::Idle] => (&[TYPE], &[OBJECT]),
        (Layout::Keys, _) => (&[TYPE], &[]),
    };
    [first, by_index, always].concat()
}

/// The eviction script, and what it calls.
fn of_striking(source: &Source, record: Option<&[u8]>) -> Vec<Right> {
    let mut touched = Vec::new();
    let mut called = Vec::new();
    for own in source.container.globs() {
        called.extend(on_entries(source).into_iter().map(|command| Right::on(command, own.clone())));
        for companion in &source.companions {
            let keys = globs(source, &companion.action.key, &own);
            called.extend(keys.iter().map(|key| Right::on(TYPE, key.clone())));
            let written = writes(companion.action.verb).iter();
            called.extend(written.map(|command| Right { command: *command, on: On::Keys(keys.clone()) }));
            touched.extend(keys);
            for right in listing(source, companion, &own) {
                touched.extend_from_slice(right.keys());
                called.push(right);
            }
        }
        let conditions = source.filters.iter().chain(&source.unless);
        for right in asking(source, conditions, &own).into_iter().chain(lookups(source, &own)) {
            touched.extend_from_slice(right.keys());
            called.push(right);
        }
        let later = source.companions.iter().filter_map(|companion| companion.condition.as_ref());
        for right in asking(source, later.chain(source.notify.iter().filter_map(|one| one.when.as_ref())), &own) {
            called.extend(right.keys().iter().map(|key| Right::on(TYPE, key.clone())));
            touched.extend_from_slice(right.keys());
            called.push(right);
        }
        for notification in &source.notify {
            match &notification.target {
                Target::Channel { name, sharded } => {
                    let command = if *sharded { SPUBLISH } else { PUBLISH };
                    called.push(Right { command, on: On::Channel(glob(source, name, &own)) });
                }
                Target::Stream { key, .. } => {
                    let key = glob(source, key, &own);
                    called.extend([TYPE, XADD].map(|command| Right::on(command, key.clone())));
                    touched.push(key);
                }
                Target::Webhook { outbox, .. } => called.extend(outbox.then(of_outbox).into_iter().flatten()),
            }
        }
        touched.push(own);
    }
    if let Some(key) = record.map(escaped) {
        called.extend([TYPE, XADD].map(|command| Right::on(command, key.clone())));
        touched.push(key);
    }
    touched.push(our_own());
    touched.sort();
    touched.dedup();
    let scripts = SCRIPTS.map(|command| Right { command, on: On::Keys(touched.clone()) });
    scripts.into_iter().chain(called).chain(of_our_own()).collect()
}

/// What keeps our own state, what the scripts do with lease and release, what hears and answers operators, and what
/// looks for an outbox that nobody empties any more.
fn of_our_own() -> impl Iterator<Item = Right> {
    let unlink_and_hdel = [Verb::Unlink, Verb::Hdel].into_iter().flat_map(writes);
    let commands = [HMGET, HGETALL, HINCRBY, HSET, PEXPIRE, GET, SET, XLEN].into_iter().chain(unlink_and_hdel.copied());
    commands.map(|command| Right::on(command, our_own()))
}

/// What fills the outbox of webhooks, and empties it.
fn of_outbox() -> impl Iterator<Item = Right> {
    [TYPE, XADD, XDEL, XRANGE].into_iter().map(|command| Right::on(command, our_own()))
}

fn our_own() -> Glob {
    [OWN_PREFIX, b"*"].concat()
}

/// What the script does with entries and their containers.
fn on_entries(source: &Source) -> Vec<Command> {
    let compare = match source.layout {
        Layout::Zset => ZSCORE,
        Layout::Hash | Layout::Hashes => HMGET,
        Layout::Strings => GET,
        Layout::Set => SISMEMBER,
        Layout::Keys => OBJECT,
    };
    let remove = match (&source.container, &source.on_evict) {
        (Container::Zset(_), _) => Verb::Zrem,
        (Container::Hash(_), _) => Verb::Hdel,
        (Container::Set(_), _) => Verb::Srem,
        (Container::Keys(_), OnEvict::Remove) => Verb::Unlink,
        (Container::Keys(_), OnEvict::Expire(_)) => Verb::Expire,
        (Container::Keys(_), OnEvict::Set { .. }) => Verb::Hset,
    };
    let count = match source.container {
        Container::Zset(_) => ZCARD,
        Container::Set(_) => SCARD,
        Container::Hash(_) | Container::Keys(_) => HLEN,
    };
    let counts = source.notify.iter().any(Notification::counts).then_some(count);
    [TYPE, compare].into_iter().chain(writes(remove).iter().copied()).chain(counts).collect()
}

/// What a key or channel can become for entries in `own`. Of its values the entry's own key is known to have a
/// shape, and its member where `id` splits it.
fn glob(source: &Source, template: &Template, own: &Glob) -> Glob {
    let known = |name: &Ref| (*name == Ref::Key).then(|| own.clone());
    match &source.id {
        Some(id) => template.spelling_out(id).glob(known),
        None => template.glob(known),
    }
}

fn globs(source: &Source, templates: &[Template], own: &Glob) -> Vec<Glob> {
    templates.iter().map(|template| glob(source, template, own)).collect()
}

// === impl Right ===

impl Right {
    fn on(command: Command, key: Glob) -> Self {
        Self { command, on: On::Keys(vec![key]) }
    }

    /// The command.
    pub fn command(&self) -> &'static str {
        self.command.name
    }

    /// The keys or the channel as a person reads them, none for a command without any.
    pub fn object(&self) -> Option<String> {
        match &self.on {
            On::Server => None,
            On::Keys(globs) => Some(globs.iter().map(|glob| quoted(glob)).collect::<Vec<_>>().join(" ")),
            On::Channel(glob) => Some(format!("the channel {}", quoted(glob))),
        }
    }

    /// Whether it may be tried: it changes neither data nor our connection.
    pub(super) fn is_harmless(&self) -> bool {
        self.command.kind == Kind::Reads && self.command != SELECT
    }

    fn keys(&self) -> &[Glob] {
        match &self.on {
            On::Server | On::Channel(_) => &[],
            On::Keys(globs) => globs,
        }
    }

    fn channel(&self) -> Option<&Glob> {
        match &self.on {
            On::Server | On::Keys(_) => None,
            On::Channel(glob) => Some(glob),
        }
    }

    /// A call that needs this right, with `filling` where its keys or its channel may differ.
    pub(super) fn call(&self, filling: &[u8]) -> Vec<Vec<u8>> {
        let keys: Vec<Vec<u8>> = self.keys().iter().chain(self.channel()).map(|glob| filled(glob, filling)).collect();
        let mut words: Vec<Vec<u8>> = self.command.name.split('|').map(|word| word.as_bytes().to_vec()).collect();
        if self.command.kind == Kind::Script {
            words.extend([b"return".to_vec(), keys.len().to_string().into_bytes()]);
        }
        words.extend(keys);
        words.extend(self.command.behind.iter().map(|word| word.as_bytes().to_vec()));
        words
    }
}

/// Some key that a glob of ours matches.
fn filled(glob: &[u8], filling: &[u8]) -> Vec<u8> {
    let mut key = Vec::new();
    let mut bytes = glob.iter();
    // bound: the bytes of a pattern
    while let Some(byte) = bytes.next() {
        match byte {
            b'*' => key.extend_from_slice(filling),
            b'\\' => key.extend(bytes.next()),
            literal => key.push(*literal),
        }
    }
    key
}

#[cfg(test)]
mod tests;
