//! The shape of the crate, read from its text: which room may use which, and what must never stand anywhere.
//!
//! A check is a function from files to complaints, tried twice: on the tree, where it must have none, and on a few lines
//! made up to be wrong, where it must have one; so a check that sees nothing is itself seen.

mod source;

use std::collections::BTreeSet;
use std::io::{self, Write};

use source::{Source, files_of, tokens};

// === Arrows ===

/// What a room may use of the crate, and which words and paths its code may not hold at all.
struct Room {
    name: &'static str,
    uses: &'static [&'static str],
    never: &'static [&'static str],
}

/// What a room that only handles values has no business with.
const EFFECTS: [&str; 9] =
    ["async", "clap", "prometheus", "redis", "tokio", "tracing", "Instant", "SystemTime", "std::env"];

/// The arrows of the map in `lib.rs`. An entry of `uses` is a room, or a single item of one.
const ROOMS: [Room; 26] = [
    Room { name: "lib", uses: &[], never: &[] },
    Room {
        name: "main",
        uses: &[
            "assemble",
            "audit",
            "check",
            "cli",
            "clock",
            "config",
            "demo",
            "inspect",
            "logging",
            "metrics",
            "oneshot",
            "operator",
            "output",
            "policy",
            "reaper",
            "report",
            "service",
            "store::audience",
            "store::instances",
            "store::rights",
            "text",
        ],
        never: &["prometheus", "redis"],
    },
    Room { name: "cli", uses: &["config", "policy::order"], never: &["redis", "tokio"] },
    Room {
        name: "config",
        uses: &["http", "language", "logging", "policy", "store", "webhook"],
        never: &["async", "prometheus", "tokio"],
    },
    Room { name: "language", uses: &["policy"], never: &EFFECTS },
    Room { name: "policy", uses: &[], never: &EFFECTS },
    Room { name: "clock", uses: &["policy"], never: &["async", "clap", "prometheus", "redis", "std::env", "tracing"] },
    Room {
        name: "reaper",
        uses: &["audit::Audit", "clock", "policy", "store", "text", "webhook::Hooks"],
        never: &["clap", "prometheus", "redis", "SystemTime"],
    },
    Room {
        name: "check",
        uses: &["config", "policy", "store::connect", "store::rights", "store::tls", "text"],
        never: &["async", "clap", "prometheus", "tokio"],
    },
    Room {
        name: "inspect",
        uses: &["assemble", "check", "clock", "config", "policy", "store", "text"],
        never: &["clap", "prometheus", "SystemTime"],
    },
    Room {
        name: "assemble",
        uses: &["audit::Audit", "clock", "config", "policy", "reaper", "store", "text", "webhook::Hooks"],
        never: &["async", "clap", "prometheus", "tokio"],
    },
    Room {
        name: "service",
        uses: &[
            "assemble",
            "audit::Audit",
            "clock",
            "config",
            "daemon",
            "http",
            "logging",
            "metrics",
            "policy",
            "reaper",
            "report",
            "store::connect",
            "store::lease",
            "supervisor",
            "webhook::Couriers",
            "webhook::Hooks",
        ],
        never: &["clap", "SystemTime"],
    },
    Room { name: "supervisor", uses: &[], never: &["clap", "prometheus", "redis", "SystemTime"] },
    Room {
        name: "daemon",
        uses: &["clock", "policy", "reaper", "store::Progress", "store::connect", "store::lease", "store::standing"],
        never: &["clap", "prometheus", "redis", "SystemTime"],
    },
    Room {
        name: "oneshot",
        uses: &["clock", "policy", "reaper", "store::audience", "store::instances", "webhook::Couriers"],
        never: &["clap", "prometheus", "redis", "SystemTime"],
    },
    Room {
        name: "operator",
        uses: &["policy", "store::error", "store::instances", "store::orders", "text"],
        never: &["clap", "prometheus", "redis", "SystemTime"],
    },
    Room {
        name: "store",
        uses: &["clock", "language", "policy", "text"],
        never: &["clap", "policy::guard", "prometheus", "SystemTime"],
    },
    Room {
        name: "metrics",
        uses: &[
            "audit::Failure",
            "audit::Tally",
            "policy",
            "reaper::Finding",
            "reaper::Report",
            "reaper::Skipped",
            "reaper::Verb",
            "store::error::Kind",
            "store::status",
            "webhook::Failure",
            "webhook::Loss",
            "webhook::Tally",
        ],
        never: &["async", "clap", "redis", "tokio"],
    },
    Room {
        name: "webhook",
        uses: &["clock", "policy", "store::files", "store::outbox", "store::tcp", "store::tls"],
        never: &["clap", "prometheus", "redis", "std::env", "SystemTime"],
    },
    Room {
        name: "audit",
        uses: &["policy"],
        never: &["async", "clap", "prometheus", "redis", "std::env", "tokio", "Instant", "SystemTime"],
    },
    Room { name: "http", uses: &[], never: &["clap", "prometheus", "redis", "std::env", "SystemTime"] },
    Room {
        name: "report",
        uses: &["policy", "reaper::Finding", "reaper::Turns", "store::naming", "text"],
        never: &["async", "clap", "prometheus", "redis", "tokio", "tracing"],
    },
    Room { name: "output", uses: &[], never: &["async", "clap", "prometheus", "redis", "std::env", "tracing"] },
    Room { name: "text", uses: &[], never: &EFFECTS },
    Room { name: "logging", uses: &["clock"], never: &["clap", "prometheus", "redis"] },
    Room {
        name: "demo",
        uses: &["assemble", "clock", "config", "daemon", "policy", "reaper", "service"],
        never: &["clap", "prometheus"],
    },
];

/// Every use of a room, item or word that the table does not grant.
fn wrong_arrows(sources: &[Source]) -> Vec<String> {
    let code = sources.iter().filter(|source| source.is_code());
    code.flat_map(|source| match ROOMS.iter().find(|room| room.name == source.room()) {
        Some(room) => wrong_arrows_of(room, source),
        None => vec![format!("src/{}: no row in the table of rooms", source.path)],
    })
    .collect()
}

fn wrong_arrows_of(room: &Room, source: &Source) -> Vec<String> {
    let code = source.code();
    let words = tokens(&code).into_iter().filter(|word| room.never.contains(word));
    let words: BTreeSet<String> = words.map(str::to_owned).collect();
    let paths = source.paths().into_iter().filter(|path| !may_write(room, path));
    words.into_iter().chain(paths).map(|what| format!("src/{}: {what}", source.path)).collect()
}

fn may_write(room: &Room, path: &str) -> bool {
    let first = path.split("::").next().unwrap_or_default();
    let ours = ROOMS.iter().any(|other| other.name == first);
    let granted = first == room.name || room.uses.iter().any(|granted| is_within(path, granted));
    (!ours || granted) && !room.never.iter().any(|refused| is_within(path, refused))
}

/// Whether `path` is `whole` or lies in it.
fn is_within(path: &str, whole: &str) -> bool {
    path.strip_prefix(whole).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

// === Invariants ===

/// The one call of `Store::evict` is the reaper's strike: there all conditions meet.
fn evictions_elsewhere(sources: &[Source]) -> Vec<String> {
    let calls: Vec<&str> = sources
        .iter()
        .filter(|source| source.is_code())
        .flat_map(|source| vec![source.path.as_str(); count_calls_of_evict(&source.code())])
        .collect();
    let reaper_is_there = sources.iter().any(|source| source.room() == "reaper");
    match calls[..] {
        [path] if Source::made_up(path, "").room() == "reaper" => vec![],
        [] if !reaper_is_there => vec![],
        _ => vec![format!("evict is called in {calls:?}; once in the reaper is right")],
    }
}

fn count_calls_of_evict(code: &str) -> usize {
    tokens(code).windows(3).filter(|three| matches!(three, ["." | "::", "evict", "("])).count()
}

/// A loop over what Redis answers ends by a count or a deadline, and says by which: `bound: …` beside it.
fn loops_without_bound(sources: &[Source]) -> Vec<String> {
    let store = sources.iter().filter(|source| source.room() == "store" && source.is_code());
    store.flat_map(loops_without_bound_in).collect()
}

fn loops_without_bound_in(source: &Source) -> Vec<String> {
    let text: Vec<&str> = source.text.lines().collect();
    let code = source.code();
    let loops = code.lines().enumerate().filter(|(_, line)| {
        let words = tokens(line);
        words.contains(&"loop") || words.contains(&"while")
    });
    let unbound = loops.filter(|&(at, _)| !text[at.saturating_sub(1)..=at].iter().any(|line| line.contains("bound:")));
    unbound.map(|(at, line)| format!("src/{}:{}: no `bound:` at {}", source.path, at + 1, line.trim())).collect()
}

/// Commands that change data or speak to others.
const WRITES: [&str; 21] = [
    "DECR", "DEL", "EXPIRE", "HDEL", "HINCRBY", "HSET", "INCR", "LREM", "PERSIST", "PEXPIRE", "PUBLISH", "RPUSH",
    "SADD", "SET", "SPUBLISH", "SREM", "UNLINK", "XADD", "ZADD", "ZINCRBY", "ZREM",
];

/// A script compares and checks everything before its first write; the line `-- do` is where it may begin.
fn writes_before_do(sources: &[Source]) -> Vec<String> {
    let scripts = sources.iter().filter(|source| source.room() == "store" && source.path.ends_with(".lua"));
    scripts.flat_map(writes_before_do_in).collect()
}

fn writes_before_do_in(script: &Source) -> Vec<String> {
    let before = script.text.lines().enumerate().take_while(|(_, line)| !is_do(line));
    let writes = before.filter(|(_, line)| {
        let code = line.split("--").next().unwrap_or_default();
        let quoted = code.split(['\'', '"']).skip(1).step_by(2);
        let named = quoted.map(str::to_uppercase).any(|word| WRITES.contains(&word.as_str()));
        // A command made of prepared words may be any command.
        code.contains("call(") && (named || code.contains("call(unpack("))
    });
    writes.map(|(at, line)| format!("src/{}:{}: before `-- do`: {}", script.path, at + 1, line.trim())).collect()
}

fn is_do(line: &str) -> bool {
    line.split_once("-- do").is_some_and(|(_, rest)| !rest.starts_with(char::is_alphanumeric))
}

/// A label made of text is unbounded; values of enums are not.
fn labels_made_of_text(sources: &[Source]) -> Vec<String> {
    let metrics = sources.iter().filter(|source| source.room() == "metrics" && source.is_code());
    metrics.flat_map(labels_made_of_text_in).collect()
}

fn labels_made_of_text_in(source: &Source) -> Vec<String> {
    let code = source.code();
    let calls = code.split("with_label_values(").skip(1).map(arguments);
    let made = calls.filter(|call| tokens(call).iter().any(|word| ["format", "to_string", "to_owned"].contains(word)));
    made.map(|call| format!("src/{}: a label made of text: {call}", source.path)).collect()
}

/// What stands up to the bracket that closes a call.
fn arguments(rest: &str) -> &str {
    let mut depth = 1;
    let end = rest.find(|c| {
        depth += match c {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        depth == 0
    });
    &rest[..end.unwrap_or(rest.len())]
}

/// Only `main.rs` prints an error and ends the process; everybody else returns.
fn exits_elsewhere(sources: &[Source]) -> Vec<String> {
    let others = sources.iter().filter(|source| source.is_code() && source.path != "main.rs");
    others.flat_map(exits_in).collect()
}

fn exits_in(source: &Source) -> Vec<String> {
    let code = source.code();
    let tokens = tokens(&code);
    let ends = tokens.windows(3).filter(|three| matches!(three, ["process", "::", "exit" | "abort"]));
    let prints = tokens.windows(2).filter(|two| matches!(two, ["print" | "println" | "eprint" | "eprintln", "!"]));
    let found = ends.map(|tokens| tokens.concat()).chain(prints.map(|tokens| tokens.concat()));
    found.map(|what| format!("src/{}: {what}", source.path)).collect()
}

/// A file that does not say what it is for is one where anything may end up.
fn files_without_a_head(sources: &[Source]) -> Vec<String> {
    let heads = [(".rs", "//!"), (".lua", "--"), (".toml", "#")];
    let headless = sources.iter().filter(|source| {
        heads.iter().any(|(ending, head)| source.path.ends_with(ending) && !source.text.starts_with(head))
    });
    headless.map(|source| format!("src/{}: does not say first what it is for", source.path)).collect()
}

/// The map is the way in: a room that it does not name will not be found.
fn rooms_off_the_map(sources: &[Source]) -> Vec<String> {
    let lib = sources.iter().find(|source| source.path == "lib.rs").map_or("", |source| &source.text);
    let map: Vec<&str> = lib.lines().filter(|line| line.starts_with("//!")).collect();
    let rooms: BTreeSet<&str> = sources.iter().map(Source::room).filter(|&room| room != "lib").collect();
    let off = rooms.into_iter().filter(|room| !map.iter().any(|line| line.contains(&format!("`{room}`"))));
    off.map(|room| format!("src/lib.rs: the map does not name `{room}`")).collect()
}

/// Words that promise work, and paths that exist on one machine alone.
fn unfinished_words(sources: &[Source]) -> Vec<String> {
    let words = ["todo!", "unimplemented!", "TODO", "FIXME", "XXX", "for now", "/work/", "/home/", "/root/"];
    let found = sources.iter().flat_map(|source| {
        let words = words.iter().filter(|&&word| source.text.contains(word));
        words.map(|word| format!("src/{}: {word}", source.path))
    });
    found.collect()
}

// === Tests ===

/// A check over files: its complaints.
type Check = fn(&[Source]) -> Vec<String>;

#[track_caller]
fn assert_tidy(check: Check) {
    let complaints = check(&files_of("src"));
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// Says past the capture of the test runner that a check has nothing to look at yet.
fn say_if_missing(paths: &[&str]) {
    let sources = files_of("src");
    for path in paths.iter().filter(|&&path| !sources.iter().any(|source| source.path == path)) {
        let _ = writeln!(io::stderr(), "tidy: src/{path} is not there yet");
    }
}

#[test]
fn arrows_point_inwards() {
    assert_tidy(wrong_arrows);
}

#[test]
fn only_the_reaper_evicts_and_in_one_place() {
    say_if_missing(&["reaper.rs"]);
    assert_tidy(evictions_elsewhere);
}

#[test]
fn every_loop_over_redis_is_bounded() {
    assert_tidy(loops_without_bound);
}

#[test]
fn scripts_check_everything_before_they_do_anything() {
    say_if_missing(&["store/evict.lua"]);
    assert_tidy(writes_before_do);
}

#[test]
fn label_values_come_from_enums() {
    say_if_missing(&["metrics.rs"]);
    assert_tidy(labels_made_of_text);
}

#[test]
fn only_main_prints_errors_and_ends_the_process() {
    assert_tidy(exits_elsewhere);
}

#[test]
fn every_file_says_first_what_it_is_for() {
    assert_tidy(files_without_a_head);
}

#[test]
fn the_map_names_every_room() {
    assert_tidy(rooms_off_the_map);
}

#[test]
fn nothing_promises_later_work() {
    assert_tidy(unfinished_words);
}

/// Each of these is wrong in one way, or looks wrong and is not.
#[test]
fn every_check_sees_what_it_is_for() {
    let cases: &[(Check, &str, &str, usize)] = &[
        (wrong_arrows, "policy/watch.rs", "use crate::store::Status;", 1),
        (wrong_arrows, "policy/watch.rs", "use std::{env::var, time::{Duration, Instant}};", 2),
        (wrong_arrows, "policy/watch.rs", "pub async fn f() { super::super::store::f() }", 2),
        (wrong_arrows, "policy/watch.rs", "//! async redis\nuse super::entry; fn f() -> &str { \"tokio async\" }", 0),
        (wrong_arrows, "policy/pace.rs", "fn f() {}\n#[cfg(test)]\nmod tests { use tokio::test; }", 0),
        (wrong_arrows, "language/words.rs", "use crate::{policy::entry, config::Config};", 1),
        (wrong_arrows, "store/zset.rs", "use crate::policy::{entry::Mark, guard};", 1),
        (wrong_arrows, "store/zset.rs", "use crate::policy; fn f() { policy::guard::fit() }", 1),
        (wrong_arrows, "metrics.rs", "use crate::reaper::Report; use crate::store::status::Status;", 0),
        (wrong_arrows, "metrics.rs", "use crate::reaper::{Report, Reaper};", 1),
        (wrong_arrows, "metrics.rs", "use crate::store::{Store, error::Error};", 2),
        (wrong_arrows, "http.rs", "use crate::policy::entry::Timestamp;", 1),
        (wrong_arrows, "cli.rs", "use crate::config::Config; use crate::store::connect;", 1),
        (wrong_arrows, "main.rs", "use presence_reaper::{cli, config, service};", 0),
        (wrong_arrows, "shed.rs", "", 1),
        (evictions_elsewhere, "daemon.rs", "fn f() { store.evict(&due) }", 1),
        (evictions_elsewhere, "reaper.rs", "fn f() { store.evict(&due) }", 0),
        (evictions_elsewhere, "reaper.rs", "fn f() { store.evict(&due); Store::evict(&store, &due) }", 1),
        (evictions_elsewhere, "reaper.rs", "fn f() {}", 1),
        (loops_without_bound, "store/keys.rs", "fn f() {\n    loop {}\n}", 1),
        (loops_without_bound, "store/keys.rs", "// bound: pages\nwhile more {}\nfor x in y {}", 0),
        (loops_without_bound, "store/keys.rs", "loop {} // bound: the deadline", 0),
        (loops_without_bound, "daemon.rs", "loop {}", 0),
        (writes_before_do, "store/evict.lua", "redis.call('UNLINK', k)\n-- do\n", 1),
        (writes_before_do, "store/evict.lua", "-- does it all\nredis.pcall(\"zrem\", k)\n", 1),
        (writes_before_do, "store/evict.lua", "redis.call('GET', k) -- 'DEL'\n-- do\nredis.call('DEL', k)\n", 0),
        (writes_before_do, "store/evict.lua", "redis.pcall(unpack(words))\n-- do\nredis.pcall(unpack(words))\n", 1),
        (labels_made_of_text, "metrics.rs", "x.with_label_values(&[&format!(\"{a}\")]).inc()", 1),
        (labels_made_of_text, "metrics.rs", "x.with_label_values(&[\n  &a.to_string(),\n])", 1),
        (labels_made_of_text, "metrics.rs", "x.with_label_values(&[why.label()]).inc(); a.to_string()", 0),
        (exits_elsewhere, "daemon.rs", "fn f() { eprintln!(\"x\"); std::process::exit(1) }", 2),
        (exits_elsewhere, "main.rs", "fn main() { eprintln!(\"x\"); std::process::exit(1) }", 0),
        (files_without_a_head, "text.rs", "use std::fmt;", 1),
        (files_without_a_head, "store/evict.lua", "-- What it does.", 0),
        (rooms_off_the_map, "text.rs", "//! `text`", 1),
        (unfinished_words, "text.rs", "// good enough for now", 1),
    ];
    for &(check, path, text, expected) in cases {
        let complaints = check(&[Source::made_up(path, text)]);
        assert_eq!(complaints.len(), expected, "src/{path}: {text}\n{complaints:?}");
    }
}
