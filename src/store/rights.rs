//! Every command that a source lets the store send, and on which keys; and the ACL rule that grants exactly these.
//!
//! The one list: whoever sends a command that does not stand here sees a test fail, for the tests run under the user
//! that is made from it.

use std::collections::BTreeSet;

use crate::language::action::Verb;
use crate::language::notify::{Notification, Target};
use crate::language::source::{Container, Source};
use crate::language::template::{Layout, Ref, Template};
use crate::text::quoted;

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

const TIME: Command = reads("TIME", &[]);
const INFO: Command = reads("INFO", &[]);
const SELECT: Command = reads("SELECT", &["1"]);
const SCAN: Command = reads("SCAN", &["0"]);
const TYPE: Command = reads("TYPE", &[]);
const GET: Command = reads("GET", &[]);
const MGET: Command = reads("MGET", &[]);
const HMGET: Command = reads("HMGET", &["field"]);
const HLEN: Command = reads("HLEN", &[]);
const HSCAN: Command = reads("HSCAN", &["0"]);
const ZSCAN: Command = reads("ZSCAN", &["0"]);
const ZSCORE: Command = reads("ZSCORE", &["member"]);
const ZCARD: Command = reads("ZCARD", &[]);
const ZCOUNT: Command = reads("ZCOUNT", &["0", "0"]);
const ZRANGE: Command = reads("ZRANGE", &["0", "0"]);
const ZRANGEBYSCORE: Command = reads("ZRANGEBYSCORE", &["0", "0"]);
const ZREVRANGEBYSCORE: Command = reads("ZREVRANGEBYSCORE", &["0", "0"]);
const PUBLISH: Command = Command { name: "PUBLISH", kind: Kind::Writes, behind: &["message"] };
const XADD: Command = Command { name: "XADD", kind: Kind::Writes, behind: &["*", "field", "value"] };
const SCRIPTS: [Command; 2] = [
    Command { name: "EVALSHA", kind: Kind::Script, behind: &[] },
    Command { name: "EVAL", kind: Kind::Script, behind: &[] },
];

/// By these a server before Redis 7 is asked what we may write there: a transaction that is thrown away.
const ASKING: [&str; 2] = ["MULTI", "DISCARD"];

const fn writes(verb: Verb) -> Command {
    let behind: &[&str] = match verb {
        Verb::Unlink => &[],
        Verb::Srem | Verb::Zrem | Verb::Hdel => &["member"],
    };
    Command { name: verb.as_str(), kind: Kind::Writes, behind }
}

// === what is needed ===

/// What is needed for sources, each with its database, and whether anything is evicted from it.
pub fn needed<'s>(sources: impl IntoIterator<Item = (&'s Source, u16, bool)>) -> Vec<Right> {
    let mut rights = Vec::new();
    for (source, db, evicts) in sources {
        let more = of_connection(db)
            .chain(of_reading(source))
            .chain(evicts.then(|| of_striking(source)).into_iter().flatten());
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
    let scan = scan.then_some(Right { command: SCAN, on: On::Server });
    let on_entries = patterns.iter().flat_map(|pattern| {
        let commands = reading(source, pattern.literal().is_some());
        commands.into_iter().map(|command| Right::on(command, pattern.glob()))
    });
    scan.into_iter().chain(on_entries).collect()
}

/// What reads a container at an exact key, or those that a pattern finds: of these the small ones are read whole.
fn reading(source: &Source, exact: bool) -> Vec<Command> {
    // With members to ignore the index is of no use.
    let by_index: &[Command] = match source.ignore.is_empty() {
        true => &[ZCARD, ZCOUNT, ZRANGEBYSCORE, ZREVRANGEBYSCORE],
        false => &[],
    };
    let (first, always): (&[Command], &[Command]) = match (source.layout(), exact) {
        (Layout::Zset, true) => (&[TYPE], &[ZSCORE, ZSCAN]),
        (Layout::Zset, false) => (&[ZCARD, ZRANGE], &[ZSCORE, ZSCAN]),
        (Layout::Hash, true) => (&[TYPE], &[HMGET, HSCAN]),
        (Layout::Hash, false) => (&[HLEN], &[HMGET, HSCAN]),
        (Layout::Strings, _) => (&[TYPE], &[MGET]),
        (Layout::Hashes, _) => (&[TYPE], &[HMGET]),
    };
    let by_index = if source.layout() == Layout::Zset { by_index } else { &[] };
    [first, by_index, always].concat()
}

/// The eviction script, and what it calls.
fn of_striking(source: &Source) -> Vec<Right> {
    let mut touched = Vec::new();
    let mut called = Vec::new();
    for own in source.container.globs() {
        called.extend(on_entries(source).into_iter().map(|command| Right::on(command, own.clone())));
        for companion in &source.companions {
            let keys = globs(&companion.key, &own);
            called.extend(keys.iter().map(|key| Right::on(TYPE, key.clone())));
            called.push(Right { command: writes(companion.verb), on: On::Keys(keys.clone()) });
            touched.extend(keys);
        }
        for notification in &source.notify {
            match &notification.target {
                Target::Channel(channel) => {
                    called.push(Right { command: PUBLISH, on: On::Channel(glob(channel, &own)) });
                }
                Target::Stream { key, .. } => {
                    let key = glob(key, &own);
                    called.extend([TYPE, XADD].map(|command| Right::on(command, key.clone())));
                    touched.push(key);
                }
            }
        }
        touched.push(own);
    }
    touched.sort();
    touched.dedup();
    let scripts = SCRIPTS.map(|command| Right { command, on: On::Keys(touched.clone()) });
    scripts.into_iter().chain(called).collect()
}

/// What the script does with entries and their containers.
fn on_entries(source: &Source) -> Vec<Command> {
    let compare = match source.layout() {
        Layout::Zset => ZSCORE,
        Layout::Hash | Layout::Hashes => HMGET,
        Layout::Strings => GET,
    };
    let remove = match source.container {
        Container::Zset(_) => Verb::Zrem,
        Container::Hash(_) => Verb::Hdel,
        Container::Keys(_) => Verb::Unlink,
    };
    let count = match source.container {
        Container::Zset(_) => ZCARD,
        Container::Hash(_) | Container::Keys(_) => HLEN,
    };
    let counts = source.notify.iter().any(Notification::counts).then_some(count);
    [TYPE, compare, writes(remove)].into_iter().chain(counts).collect()
}

/// What a key or channel can become for entries in `own`. Of its values only the entry's own key is known to have a
/// shape.
fn glob(template: &Template, own: &Glob) -> Glob {
    template.glob(|name| (*name == Ref::Key).then(|| own.clone()))
}

fn globs(templates: &[Template], own: &Glob) -> Vec<Glob> {
    templates.iter().map(|template| glob(template, own)).collect()
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
        let mut words = vec![self.command.name.as_bytes().to_vec()];
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

// === the rule ===

/// What a server's ACL can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Generation {
    /// Redis 6.0: commands and keys.
    V6,
    /// Redis 6.2: channels too.
    V6_2,
    /// Redis 7 and Valkey: which command on which keys.
    V7,
}

impl Generation {
    /// The generation of a version such as `6.2.14`; none before Redis 6, which has no ACL, and for what is no version.
    pub fn of(version: &str) -> Option<Self> {
        let mut numbers = version.split('.').map(str::parse::<u32>);
        let major = numbers.next()?.ok()?;
        let minor = numbers.next().unwrap_or(Ok(0)).ok()?;
        match (major, minor) {
            (..6, _) => None,
            (6, ..2) => Some(Self::V6),
            (6, _) => Some(Self::V6_2),
            (7.., _) => Some(Self::V7),
        }
    }
}

/// Stands where the password belongs. Left as it is the server refuses the whole line: it asks to take away a password
/// that nobody has.
pub const PASSWORD: &str = "<PASSWORD>";

/// The line for redis-cli that gives `user` exactly these rights, whatever it had before; its passwords stay.
pub fn acl_line(user: &str, rights: &[Right], generation: Generation) -> String {
    let mut words: Vec<&[u8]> = vec![b"ACL", b"SETUSER", user.as_bytes(), b"on", PASSWORD.as_bytes(), b"resetkeys"];
    if generation >= Generation::V6_2 {
        words.push(b"resetchannels");
    }
    if generation >= Generation::V7 {
        words.push(b"clearselectors");
    }
    words.push(b"-@all");
    let rules = match generation {
        Generation::V7 => each_on_its_keys(rights),
        Generation::V6 | Generation::V6_2 => all_on_all_keys(rights, generation),
    };
    words.extend(rules.iter().map(Vec::as_slice));
    words.into_iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// Before Redis 7 a user may do all it may do on all its keys and, from 6.2 on, its channels.
fn all_on_all_keys(rights: &[Right], generation: Generation) -> Vec<Vec<u8>> {
    let asking = ASKING.into_iter().filter(|_| rights.iter().any(|right| right.command.kind == Kind::Writes));
    let mut words = rules("~", rights.iter().flat_map(Right::keys), rights.iter().map(Right::command).chain(asking));
    if generation >= Generation::V6_2 {
        words.extend(rules("&", rights.iter().filter_map(Right::channel), []));
    }
    words
}

/// What has no keys, and scripts on all they touch; then selectors: for each set of commands the keys that they are
/// for. So nobody who steals the password can unlink the container, though a companion needs `UNLINK` somewhere else.
fn each_on_its_keys(rights: &[Right]) -> Vec<Vec<u8>> {
    let (at_large, on_keys): (Vec<&Right>, Vec<&Right>) = rights
        .iter()
        .filter(|right| right.channel().is_none())
        .partition(|right| right.on == On::Server || right.command.kind == Kind::Script);
    let mut words = rules("~", at_large.iter().flat_map(|right| right.keys()), at_large.iter().map(|r| r.command()));
    for (keys, commands) in selectors(&on_keys) {
        let sign = if commands.iter().all(|command| command.kind == Kind::Reads) { "%R~" } else { "~" };
        words.extend(selector(rules(sign, keys, commands.iter().map(|command| command.name))));
    }
    let mut channels = rules("&", rights.iter().filter_map(Right::channel), [PUBLISH.name]);
    if channels.len() > 1 {
        // Where `acl-pubsub-default` says so, a selector begins with every channel.
        channels.insert(0, b"resetchannels".to_vec());
        words.extend(selector(channels));
    }
    words
}

/// Keys on which the same commands are allowed.
fn selectors<'r>(rights: &[&'r Right]) -> Vec<(Vec<&'r Glob>, Vec<Command>)> {
    let mut of_keys: Vec<(&[Glob], Vec<Command>)> = Vec::new();
    for right in rights {
        match of_keys.iter_mut().find(|(keys, _)| *keys == right.keys()) {
            Some((_, commands)) if commands.contains(&right.command) => {}
            Some((_, commands)) => commands.push(right.command),
            None => of_keys.push((right.keys(), vec![right.command])),
        }
    }
    let mut selectors: Vec<(Vec<&Glob>, Vec<Command>)> = Vec::new();
    for (keys, mut commands) in of_keys {
        commands.sort_unstable_by_key(|command| command.name);
        match selectors.iter_mut().find(|(_, known)| *known == commands) {
            Some((known, _)) => known.extend(keys),
            None => selectors.push((keys.iter().collect(), commands)),
        }
    }
    selectors
}

fn selector(mut rules: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    if let Some(first) = rules.first_mut() {
        first.insert(0, b'(');
    }
    if let Some(last) = rules.last_mut() {
        last.push(b')');
    }
    rules
}

fn rules<'r>(
    sign: &str,
    globs: impl IntoIterator<Item = &'r Glob>,
    commands: impl IntoIterator<Item = &'static str>,
) -> Vec<Vec<u8>> {
    let globs: BTreeSet<&Glob> = globs.into_iter().collect();
    let commands: BTreeSet<&str> = commands.into_iter().collect();
    let globs = globs.into_iter().map(|glob| [sign.as_bytes(), &in_acl(glob)].concat());
    let commands = commands.into_iter().map(|name| format!("+{}", name.to_ascii_lowercase()).into_bytes());
    commands.chain(globs).collect()
}

/// The grammar of an ACL has no way to write a blank in a pattern, nor quotes and brackets inside a selector, and Valkey
/// loses a byte of 255 there: any one byte must stand for them.
fn in_acl(glob: &[u8]) -> Glob {
    let inexpressible = |byte: u8| matches!(byte, 0 | b'\t'..=b'\r' | b' ' | b'"' | b'\'' | b'(' | b')' | 255);
    glob.iter().map(|byte| if inexpressible(*byte) { b'?' } else { *byte }).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::language::action::Action;
    use crate::language::notify::{Names, Payload, Text};
    use crate::language::pattern::Pattern;
    use crate::language::source::{Kind, LastPing};
    use crate::language::template::Scope;
    use crate::language::value::Value;
    use crate::policy::ping::Format;
    use crate::policy::zone::Zone;

    fn source(kind: Kind, keys: &[&str], last_ping: Option<&str>, ignore: &[&str], companions: &[&str]) -> Source {
        let keys = keys.iter().map(|text| Container::pattern(kind, text).unwrap()).collect();
        let container = Container::new(kind, keys).unwrap();
        let last_ping = match last_ping {
            Some(text) => LastPing::of(kind, vec![Value::parse(text).unwrap()]).unwrap(),
            None => LastPing::default_of(kind),
        };
        let scope = Scope { layout: Some(last_ping.layout(kind)), captures: container.captures() };
        let companions = companions.iter().map(|text| Action::parse(text, &scope, true).unwrap()).collect();
        let ignore = ignore.iter().map(|text| Pattern::parse(text, "the pattern").unwrap()).collect();
        let (format, time_zone, deadline) = (Format::Auto, Zone::UTC, Duration::ZERO);
        let notify = Vec::new();
        Source { name: "hub".into(), container, last_ping, format, time_zone, deadline, ignore, companions, notify }
    }

    /// The same, telling of an eviction on a channel, in a stream, or with how much is left.
    fn telling(source: Source, channels: &[&str], streams: &[&str], payload: Option<&str>) -> Source {
        let scope = Scope { layout: Some(source.layout()), captures: source.container.captures() };
        let names = Names { scope, source: &source.name };
        let payload =
            payload.map_or_else(|| Payload::standard(&names), |text| Payload::Text(Text::parse(text, &names).unwrap()));
        let channels = channels.iter().map(|text| Target::channel(text, &names).unwrap());
        let streams = streams.iter().map(|text| Target::stream(text, &names, Some(&source.container), &[]).unwrap());
        let notification = |target| Notification { target, payload: payload.clone(), text: String::new() };
        let notify = channels.chain(streams).map(notification).collect();
        Source { notify, ..source.clone() }
    }

    /// The rules behind `-@all`.
    fn rules_of(source: &Source, evicts: bool, generation: Generation) -> String {
        let line = acl_line("reaper", &needed([(source, 0, evicts)]), generation);
        line.split_once("-@all ").unwrap().1.to_owned()
    }

    #[track_caller]
    fn check(source: &Source, evicting: &str, looking: &str) {
        assert_eq!(rules_of(source, true, Generation::V7), evicting);
        assert_eq!(rules_of(source, false, Generation::V7), looking);
    }

    #[test]
    fn each_layout_gets_what_it_needs() {
        check(
            &source(Kind::Zset, &["online"], None, &[], &["UNLINK conn:{id} inbox:{id}", "SREM users:{key} {id}"]),
            "+eval +evalsha +info +time ~conn:* ~inbox:* ~online ~users:online \
             (+type +zcard +zcount +zrangebyscore +zrem +zrevrangebyscore +zscan +zscore ~online) \
             (+type %R~conn:* %R~inbox:*) (+unlink ~conn:* ~inbox:*) (+srem +type ~users:online)",
            "+info +time (+type +zcard +zcount +zrangebyscore +zrevrangebyscore +zscan +zscore %R~online)",
        );
        check(
            &source(Kind::Zset, &["online"], None, &["Version"], &[]),
            "+eval +evalsha +info +time ~online (+type +zrem +zscan +zscore ~online)",
            "+info +time (+type +zscan +zscore %R~online)",
        );
        check(
            &source(Kind::Hash, &["clients"], None, &[], &["ZREM lobby {id}"]),
            "+eval +evalsha +info +time ~clients ~lobby (+hdel +hmget +hscan +type ~clients) (+type +zrem ~lobby)",
            "+info +time (+hmget +hscan +type %R~clients)",
        );
        check(
            &source(Kind::Keys, &["conn:{tenant}:{id}"], None, &[], &["UNLINK box:{key}", "HDEL names:{tenant} {id}"]),
            "+eval +evalsha +info +scan +time ~box:conn:*:* ~conn:*:* ~names:* \
             (+get +mget +type +unlink ~conn:*:*) (+type +unlink ~box:conn:*:*) (+hdel +type ~names:*)",
            "+info +scan +time (+mget +type %R~conn:*:*)",
        );
        check(
            &source(Kind::Keys, &["conn:{id}"], Some("field at"), &[], &[]),
            "+eval +evalsha +info +scan +time ~conn:* (+hmget +type +unlink ~conn:*)",
            "+info +scan +time (+hmget +type %R~conn:*)",
        );
    }

    /// Containers that a pattern finds are listed, sized, and read whole where they are small.
    #[test]
    fn every_key_and_pattern_of_a_list_gets_what_it_needs() {
        check(
            &source(Kind::Zset, &["lobby", "room:{_}:seen"], None, &[], &["SREM users:{key} {id}", "UNLINK box:{id}"]),
            "+eval +evalsha +info +scan +time ~box:* ~lobby ~room:*:seen ~users:lobby ~users:room:*:seen \
             (+type +zcard +zcount +zrangebyscore +zrem +zrevrangebyscore +zscan +zscore ~lobby) \
             (+type +zcard +zcount +zrange +zrangebyscore +zrem +zrevrangebyscore +zscan +zscore ~room:*:seen) \
             (+srem +type ~users:lobby ~users:room:*:seen) (+type +unlink ~box:*)",
            "+info +scan +time (+type +zcard +zcount +zrangebyscore +zrevrangebyscore +zscan +zscore %R~lobby) \
             (+zcard +zcount +zrange +zrangebyscore +zrevrangebyscore +zscan +zscore %R~room:*:seen)",
        );
        check(
            &source(Kind::Zset, &["room:{room}"], None, &["Version"], &[]),
            "+eval +evalsha +info +scan +time ~room:* (+type +zcard +zrange +zrem +zscan +zscore ~room:*)",
            "+info +scan +time (+zcard +zrange +zscan +zscore %R~room:*)",
        );
        check(
            &source(Kind::Hash, &["one:{x}", "two:{x}"], None, &[], &[]),
            "+eval +evalsha +info +scan +time ~one:* ~two:* (+hdel +hlen +hmget +hscan +type ~one:* ~two:*)",
            "+info +scan +time (+hlen +hmget +hscan %R~one:* %R~two:*)",
        );
    }

    #[test]
    fn who_is_told_is_part_of_it() {
        let hash = || source(Kind::Hash, &["clients"], None, &[], &[]);
        let looking = "+info +time (+hmget +hscan +type %R~clients)";
        check(
            &telling(hash(), &["off:{id}", "left:{key}"], &["log:{key}"], None),
            "+eval +evalsha +info +time ~clients ~log:clients (+hdel +hmget +hscan +type ~clients) \
             (+type +xadd ~log:clients) (resetchannels +publish &left:clients &off:*)",
            looking,
        );
        check(
            &telling(hash(), &["off"], &[], Some("{remaining} left")),
            "+eval +evalsha +info +time ~clients (+hdel +hlen +hmget +hscan +type ~clients) \
             (resetchannels +publish &off)",
            looking,
        );
        let zset = source(Kind::Zset, &["online"], None, &["x"], &[]);
        let zset = telling(zset, &[], &["log"], Some("{remaining}"));
        assert!(rules_of(&zset, true, Generation::V7).contains("(+type +zcard +zrem +zscan +zscore ~online)"));
        let both = telling(hash(), &["off:{id}"], &["log"], None);
        let flat = "+discard +eval +evalsha +hdel +hmget +hscan +info +multi +publish +time +type +xadd ~clients ~log";
        assert_eq!(rules_of(&both, true, Generation::V6), flat, "which knows no channels");
        assert_eq!(rules_of(&both, true, Generation::V6_2), format!("{flat} &off:*"));
        let calls = needed([(&both, 0, true)]);
        let call = |name: &str| calls.iter().find(|right| right.command() == name).unwrap().call(b"X");
        assert_eq!(call("PUBLISH"), [&b"PUBLISH"[..], b"off:X", b"message"]);
        assert_eq!(call("XADD"), [&b"XADD"[..], b"log", b"*", b"field", b"value"]);
    }

    #[test]
    fn each_generation_gets_a_line_that_it_understands() {
        let source = source(Kind::Hash, &["clients"], None, &[], &[]);
        let line = |generation| acl_line("a b", &needed([(&source, 3, true)]), generation);
        let flat = "+discard +eval +evalsha +hdel +hmget +hscan +info +multi +select +time +type ~clients";
        assert_eq!(line(Generation::V6), format!("ACL SETUSER \"a b\" on <PASSWORD> resetkeys -@all {flat}"));
        assert_eq!(
            line(Generation::V6_2),
            format!("ACL SETUSER \"a b\" on <PASSWORD> resetkeys resetchannels -@all {flat}")
        );
        assert_eq!(
            line(Generation::V7),
            "ACL SETUSER \"a b\" on <PASSWORD> resetkeys resetchannels clearselectors -@all \
             +eval +evalsha +info +select +time ~clients (+hdel +hmget +hscan +type ~clients)"
        );
        assert_eq!(
            rules_of(&source, false, Generation::V6),
            "+hmget +hscan +info +time +type ~clients",
            "nothing to undo"
        );
    }

    #[test]
    fn what_is_special_to_a_glob_or_to_an_acl_stands_for_itself_or_for_any_byte() {
        let table = [
            ("a*b", r#""~a\\*b""#),
            (r#""a b(c)\xff""#, "~a?b?c??"),
            (r#""[q]'\"\n""#, r#""~\\[q]???""#),
            ("é", r#""~\xc3\xa9""#),
        ];
        for (key, word) in table {
            let source = source(Kind::Zset, &[key], None, &[], &[]);
            let rules = rules_of(&source, true, Generation::V6);
            assert!(rules.ends_with(&format!(" {word}")), "{key}: {rules}");
        }
    }

    #[test]
    fn sources_are_summed_and_nothing_is_named_twice() {
        let (one, other) = (source(Kind::Hash, &["a"], None, &[], &[]), source(Kind::Hash, &["b"], None, &[], &[]));
        let rights = needed([(&one, 0, true), (&other, 0, false), (&one, 0, true)]);
        assert_eq!(
            acl_line("u", &rights, Generation::V7).split_once("-@all ").unwrap().1,
            "+eval +evalsha +info +time ~a (+hdel +hmget +hscan +type ~a) (+hmget +hscan +type %R~b)"
        );
    }

    #[test]
    fn a_call_names_keys_that_its_globs_match() {
        let source = source(Kind::Keys, &["key*{x}:{id}"], None, &[], &["UNLINK box:{key} {{qqq}}{id}"]);
        let calls: Vec<String> = needed([(&source, 0, true)])
            .iter()
            .map(|right| right.call(b"X").iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "))
            .collect();
        assert!(calls.contains(&"GET key*X:X".to_owned()), "{calls:?}");
        assert!(calls.contains(&"UNLINK box:key*X:X {qqq}X".to_owned()), "{calls:?}");
        assert!(calls.contains(&"EVALSHA return 3 box:key*X:X key*X:X {qqq}X".to_owned()), "{calls:?}");
    }

    #[test]
    fn generations_are_told_by_version() {
        let table = [
            ("5.0.14", None),
            ("6.0.16", Some(Generation::V6)),
            ("6.2", Some(Generation::V6_2)),
            ("7.2.4", Some(Generation::V7)),
            ("8", Some(Generation::V7)),
            ("255.255.255", Some(Generation::V7)),
            ("x", None),
            ("", None),
        ];
        for (version, generation) in table {
            assert_eq!(Generation::of(version), generation, "{version}");
        }
    }
}
