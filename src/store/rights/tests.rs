//! Rights of sources, and the lines that grant them.

use super::*;
use crate::language::companion::Companion;
use crate::language::notify::{Names, Payload, Text};
use crate::language::pattern::Pattern;
use crate::language::source::Kind;
use crate::language::template::{Layout, Scope, Template};
use crate::language::value::Value;

fn source(kind: Kind, keys: &[&str], last_ping: Option<&str>, ignore: &[&str], companions: &[&str]) -> Source {
    let keys = keys.iter().map(|text| Container::pattern(kind, text).unwrap()).collect();
    let container = Container::new(kind, keys).unwrap();
    let layout = match last_ping {
        Some(text) if text.starts_with("field") => Layout::Hashes,
        Some("idle") => Layout::Keys,
        _ => kind.layout(Some(Layout::Strings)),
    };
    let scope = Scope { layout: Some(layout), captures: container.captures(), ..Scope::default() };
    let last_ping = last_ping.map(|text| vec![Value::parse(text, &scope).unwrap()]);
    let companions = companions.iter().map(|text| Companion::parse(text, &scope, true).unwrap()).collect();
    let ignore = ignore.iter().map(|text| Pattern::parse(text, "the pattern").unwrap()).collect();
    let plain = Source::plain(container.clone());
    Source { last_ping: last_ping.unwrap_or(plain.last_ping), layout, ignore, companions, ..plain }
}

/// The same, telling of an eviction on a channel, in a stream, or with how much is left.
fn telling(source: Source, channels: &[&str], streams: &[&str], payload: Option<&str>) -> Source {
    let scope = Scope { layout: Some(source.layout), captures: source.container.captures(), ..Scope::default() };
    let names = Names { scope, source: &source.name, group: None };
    let payload =
        payload.map_or_else(|| Payload::standard(&names), |text| Payload::Text(Text::parse(text, &names).unwrap()));
    let channels = channels.iter().map(|text| Target::channel(text, false, &names).unwrap());
    let streams = streams.iter().map(|text| Target::stream(text, &names, Some(&source.container), &[]).unwrap());
    let notification = |target| Notification { target, payload: payload.clone(), when: None, text: String::new() };
    let notify = channels.chain(streams).map(notification).collect();
    Source { notify, ..source.clone() }
}

fn using(source: &Source, evicts: bool) -> Use<'_> {
    Use { source, db: 0, evicts, witness: None, record: None }
}

/// The rules behind `-@all`.
fn rules_of(source: &Source, evicts: bool, generation: Generation) -> String {
    let line = acl_line("reaper", &needed([using(source, evicts)]), generation);
    line.split_once("-@all ").unwrap().1.to_owned()
}

/// What every source needs that evicts anything, for what we keep of ourselves.
const OWN: [&str; 2] = [
    " (+get +hdel +hgetall +hincrby +hmget +hset +pexpire +set +unlink +xlen ~presence-reaper:*)",
    " ~presence-reaper:*",
];

/// Rules for evicting without [`OWN`], of which each must be there, once.
#[track_caller]
fn but_for_our_own(rules: String) -> String {
    OWN.into_iter().fold(rules, |rules, own| {
        assert_eq!(rules.matches(own).count(), 1, "{own}: {rules}");
        rules.replace(own, "")
    })
}

#[track_caller]
fn check(source: &Source, evicting: &str, looking: &str) {
    assert_eq!(but_for_our_own(rules_of(source, true, Generation::V7)), evicting);
    assert_eq!(rules_of(source, false, Generation::V7), looking);
}

#[test]
fn each_layout_gets_what_it_needs() {
    check(
        &source(Kind::Zset, &["online"], None, &[], &["UNLINK conn:{id} inbox:{id}", "SREM users:{key} {id}"]),
        "+eval +evalsha +info +time ~conn:* ~inbox:* ~online ~users:online \
         (+type +zcard +zcount +zrange +zrangebyscore +zrem +zrevrangebyscore +zscan +zscore ~online) \
         (+type %R~conn:* %R~inbox:*) (+unlink ~conn:* ~inbox:*) (+srem +type ~users:online)",
        "+info +time (+type +zcard +zcount +zrange +zrangebyscore +zrevrangebyscore +zscan +zscore %R~online)",
    );
    check(
        &source(Kind::Zset, &["online"], None, &["Version"], &[]),
        "+eval +evalsha +info +time ~online (+type +zrem +zscan +zscore ~online)",
        "+info +time (+type +zscan +zscore %R~online)",
    );
    let group = Template::parse(b"{json:/hub}", &Scope::default()).ok();
    check(
        &Source { group, ..source(Kind::Zset, &["online"], None, &[], &[]) },
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

/// Its key is that key alone, whatever a glob would make of it.
#[test]
fn a_witness_may_be_read() {
    let source = source(Kind::Hash, &["clients"], None, &[], &[]);
    let rights = needed([Use { witness: Some(b"hubs:alive*"), ..using(&source, false) }]);
    let line = acl_line("reaper", &rights, Generation::V7);
    assert!(
        line.ends_with(r#"-@all +info +time (+hmget +hscan +type %R~clients) (+get "%R~hubs:alive\\*)""#),
        "{line}"
    );
}

/// Containers that a pattern finds are listed, sized, and read whole where they are small.
#[test]
fn every_key_and_pattern_of_a_list_gets_what_it_needs() {
    check(
        &source(Kind::Zset, &["lobby", "room:{_}:seen"], None, &[], &["SREM users:{key} {id}", "UNLINK box:{id}"]),
        "+eval +evalsha +info +scan +time ~box:* ~lobby ~room:*:seen ~users:lobby ~users:room:*:seen \
         (+type +zcard +zcount +zrange +zrangebyscore +zrem +zrevrangebyscore +zscan +zscore ~lobby ~room:*:seen) \
         (+srem +type ~users:lobby ~users:room:*:seen) (+type +unlink ~box:*)",
        "+info +scan +time (+type +zcard +zcount +zrange +zrangebyscore +zrevrangebyscore +zscan +zscore %R~lobby) \
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
    let flat = "+discard +eval +evalsha +get +hdel +hgetall +hincrby +hmget +hscan +hset +info +multi +pexpire +publish +set +setrange +time \
                +type +unlink +xadd +xlen ~clients ~log ~presence-reaper:*";
    assert_eq!(rules_of(&both, true, Generation::V6), flat, "which knows no channels");
    assert_eq!(rules_of(&both, true, Generation::V6_2), format!("{flat} &off:*"));
    let calls = needed([using(&both, true)]);
    let call = |name: &str| calls.iter().find(|right| right.command() == name).unwrap().call(b"X");
    assert_eq!(call("PUBLISH"), [&b"PUBLISH"[..], b"off:X", b"message"]);
    assert_eq!(call("XADD"), [&b"XADD"[..], b"log", b"*", b"field", b"value"]);
}

/// What protects an entry is read by surveys and by the script, which needs every right on the keys.
#[test]
fn what_protects_is_part_of_it() {
    let hash = source(Kind::Hash, &["clients:{n}"], None, &[], &[]);
    let scope = Scope { layout: Some(hash.layout), captures: hash.container.captures(), ..Scope::default() };
    let texts = [
        "exists job:{id}",
        "not sismember busy {id}",
        "hexists jobs:{n} {id}",
        "disjoint {key}:a b:{id}",
        "get k ne x",
    ];
    let texts = [&texts[..], &["hget k f json /p eq x", "zscore queue {id} eq 1", "json /u eq x"]].concat();
    let unless = texts.into_iter().map(|text| Condition::parse(text, &scope).unwrap()).collect();
    check(
        &Source { unless, ..hash },
        "+eval +evalsha +info +scan +time ~b:* ~busy ~clients:* ~clients:*:a ~job:* ~jobs:* ~k ~queue \
         (+hdel +hlen +hmget +hscan +type ~clients:*) (+exists %R~job:*) (+sismember %R~busy) (+hexists %R~jobs:*) \
         (+sinter %R~b:* %R~clients:*:a) (+get +hget %R~k) (+zscore %R~queue)",
        "+info +scan +time (+hlen +hmget +hscan %R~clients:*) (+exists %R~job:*) (+sismember %R~busy) \
         (+hexists %R~jobs:*) (+sinter %R~b:* %R~clients:*:a) (+get +hget %R~k) (+zscore %R~queue)",
    );
}

#[test]
fn each_generation_gets_a_line_that_it_understands() {
    let source = source(Kind::Hash, &["clients"], None, &[], &[]);
    let line = |generation| acl_line("a b", &needed([Use { db: 3, ..using(&source, true) }]), generation);
    let flat = "+discard +eval +evalsha +get +hdel +hgetall +hincrby +hmget +hscan +hset +info +multi +pexpire +select +set \
                +setrange +time +type +unlink +xlen ~clients ~presence-reaper:*";
    assert_eq!(line(Generation::V6), format!("ACL SETUSER \"a b\" on <PASSWORD> resetkeys -@all {flat}"));
    assert_eq!(
        line(Generation::V6_2),
        format!("ACL SETUSER \"a b\" on <PASSWORD> resetkeys resetchannels -@all {flat}")
    );
    assert_eq!(
        line(Generation::V7),
        "ACL SETUSER \"a b\" on <PASSWORD> resetkeys resetchannels clearselectors -@all \
         +eval +evalsha +info +select +time ~clients ~presence-reaper:* (+hdel +hmget +hscan +type ~clients) \
         (+get +hdel +hgetall +hincrby +hmget +hset +pexpire +set +unlink +xlen ~presence-reaper:*)"
    );
    assert_eq!(rules_of(&source, false, Generation::V6), "+hmget +hscan +info +time +type ~clients", "nothing to undo");
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
        let rules = rules_of(&source, false, Generation::V6);
        assert!(rules.ends_with(&format!(" {word}")), "{key}: {rules}");
    }
}

#[test]
fn sources_are_summed_and_nothing_is_named_twice() {
    let (one, other) = (source(Kind::Hash, &["a"], None, &[], &[]), source(Kind::Hash, &["b"], None, &[], &[]));
    let rights = needed([using(&one, true), using(&other, false), using(&one, true)]);
    let line = acl_line("u", &rights, Generation::V7);
    assert_eq!(
        but_for_our_own(line.split_once("-@all ").unwrap().1.to_owned()),
        "+eval +evalsha +info +time ~a (+hdel +hmget +hscan +type ~a) (+hmget +hscan +type %R~b)"
    );
}

#[test]
fn a_call_names_keys_that_its_globs_match() {
    let source = source(Kind::Keys, &["key*{x}:{id}"], None, &[], &["UNLINK box:{key} {{qqq}}{id}"]);
    let calls: Vec<String> = needed([using(&source, true)])
        .iter()
        .map(|right| right.call(b"X").iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "))
        .collect();
    assert!(calls.contains(&"GET key*X:X".to_owned()), "{calls:?}");
    assert!(calls.contains(&"UNLINK box:key*X:X {qqq}X".to_owned()), "{calls:?}");
    assert!(calls.contains(&"EVALSHA return 4 box:key*X:X key*X:X presence-reaper:X {qqq}X".to_owned()), "{calls:?}");
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
