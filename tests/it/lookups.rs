//! What stands elsewhere: sets, `id`, `let`, `where`, lookups, and what is judged by an absence, by idleness, by change.

use std::collections::BTreeSet;
use std::time::Duration;

use presence_reaper::policy::entry::EntryId;
use presence_reaper::policy::outcome::Outcome;
use presence_reaper::policy::ping::{Unit, Unreadable};
use presence_reaper::store::Found;
use redis::aio::MultiplexedConnection;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::edge::{Edge, ask, expected, outcomes, run, server_now};
use crate::harness::{Binary, Daemon, Server, eventually};
use crate::world::{FAST, Rhythm, SOON, evictions, settle};

mod runs;

fn member(key: &str, member: &str) -> EntryId {
    EntryId::member(key.as_bytes().into(), member.as_bytes())
}

/// A time so many seconds ago.
async fn ago(client: &mut MultiplexedConnection, seconds: i64) -> i64 {
    server_now(client).await.millis() - seconds * 1_000
}

const OLD: i64 = 3_600;

/// The file, and the daemon on it once it may evict.
async fn daemon(server: &Server, rhythm: Rhythm, source: &str) -> (TempDir, Daemon) {
    let (dir, binary) = configured(server, rhythm, source, &[]);
    (dir, settle(binary).await)
}

fn configured(server: &Server, rhythm: Rhythm, source: &str, words: &[&str]) -> (TempDir, Binary) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("reaper.toml");
    let (threshold, heartbeat) = (rhythm.threshold.as_millis(), rhythm.heartbeat.as_millis());
    let timing = format!("threshold = \"{threshold}ms\"\nheartbeat_interval = \"{heartbeat}ms\"");
    let text = format!("[redis]\nurl = \"{}\"\n[[source]]\nname = \"cli\"\n{timing}\n{source}\n", server.url());
    std::fs::write(&path, text).unwrap();
    let binary = Binary::new(words).args(["--config", path.to_str().unwrap()]);
    (dir, binary)
}

/// Keeps these keys alive as a hub would, until it is dropped.
fn beating(server: &Server, commands: &'static [&'static str]) -> tokio::task::JoinHandle<()> {
    let url = server.url();
    tokio::spawn(async move {
        let mut client = redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap();
        loop {
            for command in commands {
                let now = server_now(&mut client).await.millis().to_string();
                let mut words = command.split(' ');
                let mut sent = redis::cmd(words.next().unwrap());
                words.for_each(|word| _ = sent.arg(word.replace("NOW", &now)));
                let _: redis::RedisResult<redis::Value> = sent.query_async(&mut client).await;
            }
            sleep(Duration::from_millis(100)).await;
        }
    })
}

// === each lookup ===

for_each_server! {
    /// A set's members are judged by what stands elsewhere, in any of the ways, whole or in JSON.
    async fn lookup_of_each_kind_tells_the_last_ping(server: Server) {
        for (last_ping, write) in [
            ("get seen:{id}", "SET seen:ID TIME"),
            ("get seen:{id} json /at", "SET seen:ID {\"at\":TIME}"),
            ("hget beats {id}", "HSET beats ID TIME"),
            ("hget conn:{id} at", "HSET conn:ID at TIME"),
            ("hget conn:{id} meta json /at", "HSET conn:ID meta {\"at\":\"TIME\"}"),
            ("zscore beats {member}", "ZADD beats TIME conn:ID"),
        ] {
            let mut client = server.client().await;
            let source = format!("set = \"conns\"\nid = \"conn:{{id}}\"\nlast_ping = '{last_ping}'\ncompanions = [\"SREM users {{id}}\"]");
            let edge = Edge::on(&server, &source);
            let (old, new) = (ago(&mut client, OLD).await, ago(&mut client, 1).await);
            run(&mut client, &["SADD conns conn:dead conn:live conn:none alien", "SADD users dead live"]).await;
            for (id, time) in [("dead", old), ("live", new)] {
                let command = write.replace("ID", id).replace("TIME", &time.to_string());
                run(&mut client, &[&command]).await;
            }

            let survey = edge.survey().await;
            assert_eq!((survey.stale, survey.fresh, survey.foreign), (1, 1, 1), "{last_ping}");
            assert_eq!(survey.unreadable[Unreadable::Missing.index()], 1, "{last_ping}");
            let found = edge.evict(&[member("conns", "conn:dead")]).await;
            assert_eq!(found, expected([("conn:dead", Outcome::Evicted)]), "{last_ping}");
            assert_eq!(ask::<Vec<String>>(&mut client, "SMEMBERS users").await, ["live"], "{last_ping}");
            assert!(!ask::<bool>(&mut client, "SISMEMBER conns conn:dead").await, "{last_ping}");
            run(&mut client, &["FLUSHALL"]).await;
        }
    }

    /// A ping that lands elsewhere between the look and the strike wins, and so does whatever else was read.
    async fn p1_a_ping_that_lands_elsewhere_spares(server: Server) {
        let source = "set = \"conns\"\nlet.user = \"get user:{id}\"\nwhere = [\"hget conn:{id} kind ne bot\", \"exists conn:{id}\"]\n\
            last_ping = \"hget conn:{id} at\"\ncompanions = [\"SREM users {user}\"]";
        for (change, outcome) in [
            ("HSET conn:a at 1800000000000", Outcome::Spared),
            ("HDEL conn:a at", Outcome::Spared),
            ("SET user:a bob", Outcome::Spared),
            ("DEL user:a", Outcome::Spared),
            ("HSET conn:a kind bot", Outcome::Spared),
            ("DEL conn:a", Outcome::Spared),
            ("SREM conns a", Outcome::Gone),
            ("HSET conn:a other x", Outcome::Evicted),
        ] {
            let mut client = server.client().await;
            let edge = Edge::on(&server, source);
            let old = ago(&mut client, OLD).await;
            run(&mut client, &["SADD conns a", "SADD users ann", "SET user:a ann", &format!("HSET conn:a at {old}")]).await;
            let looked = edge.look(&[member("conns", "a")]).await;
            run(&mut client, &[change]).await;
            let found = outcomes(&edge.strike(&looked).await);
            assert_eq!(found, expected([("a", outcome)]), "{change}");
            let left: u64 = ask(&mut client, "SCARD users").await;
            assert_eq!(left, u64::from(outcome != Outcome::Evicted), "{change}");
            run(&mut client, &["FLUSHALL"]).await;
        }
    }

    /// Many connections that name one server share one lookup a page; a `let` leads to the next, the first that is there
    /// counts, and what has no value has none.
    async fn let_is_looked_up_once_for_all_that_share_it(server: Server) {
        let mut client = server.client().await;
        let source = "hash = \"conns\"\nlet.server = \"json /server\"\nlet.zone = [\"hget servers {server}\", \"get zone\"]\n\
            last_ping = \"zscore zones {zone}\"\ncompanions = [\"SREM zone:{zone} {id}\"]";
        let edge = Edge::on(&server, source);
        let old = ago(&mut client, OLD).await;
        run(&mut client, &["HSET servers s1 z1", "SET zone z2", &format!("ZADD zones {old} z1 {old} z2")]).await;
        run(&mut client, &["SADD zone:z1 c0 c1", "SADD zone:z2 c2"]).await;
        for (id, server) in [("c0", "s1"), ("c1", "s1"), ("c2", "s2"), ("c3", "")] {
            let value = if server.is_empty() { "{}".to_owned() } else { format!("{{\"server\":\"{server}\"}}") };
            run(&mut client, &[&format!("HSET conns {id} {value}")]).await;
        }
        server.reset_stats().await;
        let survey = edge.survey().await;
        // What has no server has the zone of all: the second of the list is there.
        assert_eq!((survey.stale, survey.unreadable_total()), (4, 0));
        let stats = server.command_stats().await;
        assert_eq!((stats["hget"], stats["get"], stats["zscore"]), (2, 1, 2));
        let ids = ["c0", "c1", "c2"].map(|id| member("conns", id));
        let found = edge.evict(&ids).await;
        assert_eq!(found, expected(["c0", "c1", "c2"].map(|id| (id, Outcome::Evicted))));
        assert_eq!(ask::<u64>(&mut client, "EXISTS zone:z1 zone:z2").await, 0);
    }

    /// What fails a condition of `where` is no entry, at the survey and at the look.
    async fn where_keeps_what_is_no_entry_out(server: Server) {
        let mut client = server.client().await;
        let old = ago(&mut client, OLD).await;
        let edge = Edge::on(&server, "keys = \"conn:{id}\"\nlast_ping = \"field at\"\nwhere = [\"field kind ne bot\", \"sismember real {id}\"]");
        run(&mut client, &[&format!("HSET conn:a at {old}"), &format!("HSET conn:b at {old} kind bot"), &format!("HSET conn:c at {old}")]).await;
        run(&mut client, &["SADD real a b"]).await;
        let survey = edge.survey().await;
        assert_eq!((survey.stale, survey.population()), (1, 1));
        let ids = ["conn:a", "conn:b", "conn:c"].map(|key| EntryId::key(key.as_bytes()));
        let looked = edge.look(&ids).await;
        assert!(matches!(looked.found[..], [Found::Entry { .. }, Found::Gone, Found::Gone]), "{looked:?}");
    }

    /// A value of the entry that is present and unreadable spoils it, wherever it stands; other absences are unreadable.
    async fn e1_what_is_there_and_unreadable_spoils_a_lookup(server: Server) {
        let mut client = server.client().await;
        let (old, edge) = (ago(&mut client, OLD).await, Edge::on(&server, "set = \"conns\"\nlast_ping = [\"hget conn:{id} at\", \"get {id}\"]"));
        run(&mut client, &["SADD conns typo odd other two"]).await;
        run(&mut client, &["HSET conn:typo att 1", "HSET conn:odd at soon", "SADD conn:other x"]).await;
        run(&mut client, &[&format!("HSET conn:two at {old}"), "SET two 1.5.5"]).await;
        let survey = edge.survey().await;
        assert_eq!((survey.population(), survey.unreadable_total()), (4, 4), "{survey:?}");
    }
}

for_each_server! {
    /// A number leads where it was written: an id of forty digits is no double.
    async fn numbers_are_put_in_as_they_are_written(server: Server) {
        let mut client = server.client().await;
        let numbers = ["340282366920938463463374607431768211455", "18446744073709551616", "1.50", "-0", "7"];
        let source = "hash = \"h\"\nlast_ping = \"get seen:{json:/u}\"\nunless = [\"sismember busy {json:/u}\", \"json /u eq 1.50\"]\n\
                      companions = [\"SREM users {json:/u}\"]";
        let edge = Edge::on(&server, source);
        let (fresh, stale) = (ago(&mut client, 1).await, ago(&mut client, OLD).await);
        for number in numbers {
            run(&mut client, &[
                &format!("HSET h {number} {{\"u\":{number}}}"),
                &format!("SET seen:{number} {fresh}"),
                &format!("SADD users {number}"),
            ])
            .await;
        }
        run(&mut client, &["SADD users 1.5 -0.0 0 3.402823669209385e38", "SADD busy 18446744073709551616"]).await;
        let survey = edge.survey().await;
        assert_eq!((survey.live(), survey.stale, survey.unreadable_total()), (5, 0, 0), "each by its own key");
        for number in numbers {
            run(&mut client, &[&format!("SET seen:{number} {stale}")]).await;
        }
        let found = edge.evict(&numbers.map(|number| member("h", number))).await;
        for number in numbers {
            let safe = ["1.50", "18446744073709551616"].contains(&number);
            let outcome = if safe { Outcome::Protected } else { Outcome::Evicted };
            assert_eq!(found[number], outcome, "{number}");
        }
        let left: BTreeSet<String> = ask(&mut client, "SMEMBERS users").await;
        let others = ["1.5", "-0.0", "0", "3.402823669209385e38", "1.50", "18446744073709551616"];
        assert_eq!(left, others.map(String::from).into());

        // With an exponent it can be a time, and leads nowhere.
        run(&mut client, &["FLUSHALL", "HSET h a {\"u\":1e3}", "SET seen:1e3 x", "SET seen:1000 x", "SET seen:1e+3 x"]).await;
        let survey = edge.survey().await;
        assert_eq!((survey.live(), survey.stale, survey.unreadable_total()), (0, 0, 1));
        let edge = Edge::on(&server, "hash = \"h\"\nlast_ping = \"json /t\"\nformat = \"unix-ms\"");
        run(&mut client, &["HSET h a {\"t\":1.7E12}", "HSET h b {\"t\":1.7e+12}"]).await;
        let survey = edge.survey().await;
        assert_eq!((survey.future, survey.stale, survey.unreadable_total()), (0, 2, 0));
    }

    /// A value of a `let` that can't be read is there: the next in the list does not stand for it.
    async fn what_a_let_can_not_read_is_there(server: Server) {
        let mut client = server.client().await;
        let stale = ago(&mut client, OLD).await;
        for value in ["{\"user\":{\"x\":1},\"old\":\"u\"}", "{\"user\":[],\"old\":\"u\"}", "{\"old\":\"u\""] {
            for first in ["json /user", "get of:{id} json /user"] {
                let lets = format!("let.user = [\"{first}\", \"json /old\"]\ncompanions = [\"SREM of:{{user}} {{id}}\"]");
                let edge = Edge::on(&server, &format!("hash = \"h\"\nlast_ping = \"get seen:{{id}}\"\n{lets}"));
                run(&mut client, &[&format!("HSET h a {value}"), &format!("SET of:a {value}"), "SADD of:u a", &format!("SET seen:a {stale}")]).await;
                assert_eq!(edge.evict(&[member("h", "a")]).await, expected([("a", Outcome::Evicted)]), "{first}: {value}");
                assert_eq!(ask::<u64>(&mut client, "SCARD of:u").await, 1, "{first}: {value}");
            }
        }
    }

    /// The members of a set may say themselves when they pinged.
    async fn members_that_are_json_tell_their_own_times(server: Server) {
        let mut client = server.client().await;
        let edge = Edge::on(&server, "set = \"m\"\nlast_ping = \"json /t\"");
        let (fresh, stale) = (ago(&mut client, 1).await, ago(&mut client, OLD).await);
        run(&mut client, &[&format!("SADD m {{\"t\":{fresh}}} {{\"t\":{stale}}} x")]).await;
        let survey = edge.survey().await;
        assert_eq!((survey.live(), survey.stale, survey.unreadable_total()), (1, 1, 1));
    }
}

// === idle and unchanged ===

for_each_server! {
    /// Keys that nobody has used: looking does not refresh them, and a use between look and strike spares.
    async fn idle_keys_go_and_used_ones_stay(server: Server) {
        let mut client = server.client().await;
        let edge = Edge::on(&server, "keys = \"turn:{id}\"\nlast_ping = \"idle\"\nthreshold = \"2s\"\nheartbeat_interval = \"400ms\"");
        run(&mut client, &["SET turn:a x", "HSET turn:b f x", "SADD turn:c x"]).await;
        sleep(Duration::from_millis(5_200)).await;
        run(&mut client, &["GET turn:a"]).await;
        for _ in 0..3 {
            let survey = edge.survey().await;
            assert_eq!((survey.stale, survey.live(), survey.times[Unit::Idle.index()]), (2, 1, 3));
        }
        let looked = edge.look(&["turn:b", "turn:c"].map(|key| EntryId::key(key.as_bytes()))).await;
        run(&mut client, &["HGET turn:b f"]).await;
        let found = outcomes(&edge.strike(&looked).await);
        assert_eq!(found, expected([("turn:b", Outcome::Spared), ("turn:c", Outcome::Evicted)]));
    }

    /// Redis notes an access in whole seconds, and late: nobody is judged older than they are by that.
    async fn idle_keys_are_never_older_than_their_last_use(server: Server) {
        let mut client = server.client().await;
        let edge = Edge::on(&server, "keys = \"turn:{id}\"\nlast_ping = \"idle\"");
        let id = [EntryId::key(b"turn:a".as_slice())];
        for pause in [0, 300, 1_900, 700, 1_100, 1_700] {
            sleep(Duration::from_millis(pause)).await;
            let used = server_now(&mut client).await;
            run(&mut client, &["SET turn:a x"]).await;
            for _ in 0..4 {
                sleep(Duration::from_millis(270)).await;
                let looked = edge.look(&id).await;
                let [Found::Entry { judged: Ok((at, Unit::Idle)), .. }] = &looked.found[..] else { panic!("an idle time") };
                assert!(*at >= used, "used at {used:?}, judged by {at:?}, {pause} ms after the use before");
            }
        }
    }

    /// Values that stand still go, those that change stay, and the first sight of a value is its beginning.
    async fn unchanged_values_go_and_changing_ones_stay(server: Server) {
        let mut client = server.client().await;
        run(&mut client, &["SET status:dead lifetime=600", "SET status:live 0"]).await;
        let beats = beating(&server, &["SET status:live NOW"]);
        let (_file, daemon) = daemon(&server, FAST, "keys = \"status:{id}\"\nlast_ping = \"unchanged\"").await;
        eventually(SOON, async || evictions(&daemon).await == 1).await;
        sleep(FAST.threshold * 2).await;
        assert_eq!(ask::<Vec<String>>(&mut client, "KEYS status:*").await, ["status:live"]);
        beats.abort();
    }
}

// === an absence ===

/// Three workers of which one has lost its key, as RQ keeps them.
const WORKERS: &str =
    "set = \"workers\"\nid = \"worker:{id...}\"\nlast_ping = \"exists {member}\"\nmissing = \"stale\"";

async fn workers(client: &mut MultiplexedConnection) {
    run(client, &["SADD workers worker:a worker:b worker:gone", "SET worker:a x", "SET worker:b x"]).await;
}

for_each_server! {
    /// The index member whose own key has expired goes, while somebody else's is there.
    async fn missing_for_a_whole_threshold_is_stale(server: Server) {
        let mut client = server.client().await;
        workers(&mut client).await;
        let (_file, daemon) = daemon(&server, FAST, WORKERS).await;
        eventually(SOON, async || evictions(&daemon).await == 1).await;
        sleep(FAST.threshold * 2).await;
        assert_eq!(evictions(&daemon).await, 1);
        assert_eq!(ask::<u64>(&mut client, "SCARD workers").await, 2);
    }

    /// A key that is misspelt is there for nobody, and so proves nothing.
    async fn missing_with_a_typo_in_the_key_evicts_nobody(server: Server) {
        let mut client = server.client().await;
        workers(&mut client).await;
        let source = WORKERS.replace("exists {member}", "exists wroker:{id}");
        let (_file, daemon) = daemon(&server, FAST, &source).await;
        sleep(FAST.threshold * 4).await;
        assert_eq!((evictions(&daemon).await, ask::<u64>(&mut client, "SCARD workers").await), (0, 3));
    }

    /// Nor does a field that is misspelt, of each one's hash or of one that all share.
    async fn missing_with_a_typo_in_the_field_evicts_nobody(server: Server) {
        for lookup in ["hget conn:{id} pign", "hget beats {id}x", "zscore scores {id}x"] {
            let mut client = server.client().await;
            run(&mut client, &["SADD workers worker:a worker:b"]).await;
            let beats = beating(&server, &[
                "HSET conn:a ping NOW", "HSET conn:b ping NOW", "HSET beats a NOW b NOW", "ZADD scores NOW a NOW b",
            ]);
            let source = WORKERS.replace("exists {member}", lookup);
            let (_file, daemon) = daemon(&server, FAST, &source).await;
            sleep(FAST.threshold * 3).await;
            let left = ask::<u64>(&mut client, "SCARD workers").await;
            assert_eq!((evictions(&daemon).await, left), (0, 2), "{lookup}");
            beats.abort();
            run(&mut client, &["FLUSHALL"]).await;
        }
    }

    /// A client whose record lacks the field is there all the same, whoever else has it.
    async fn missing_is_a_key_and_no_field_of_it(server: Server) {
        let mut client = server.client().await;
        run(&mut client, &["SADD workers worker:a worker:b worker:c", "HSET conn:b other x"]).await;
        let beats = beating(&server, &["HSET conn:a ping NOW"]);
        let source = WORKERS.replace("exists {member}", "hget conn:{id} ping");
        let (_file, daemon) = daemon(&server, FAST, &source).await;
        eventually(SOON, async || evictions(&daemon).await == 1).await;
        sleep(FAST.threshold * 2).await;
        let left: BTreeSet<String> = ask(&mut client, "SMEMBERS workers").await;
        assert_eq!(left, ["worker:a", "worker:b"].map(str::to_owned).into());
        beats.abort();
    }

    /// A list of lookups of which one is misspelt: each has to be there for somebody.
    async fn missing_is_vouched_for_by_each_lookup(server: Server) {
        let mut client = server.client().await;
        workers(&mut client).await;
        let source = WORKERS.replace("\"exists {member}\"", "[\"exists {member}\", \"exists beat:{id}\"]");
        let (_file, daemon) = daemon(&server, FAST, &source).await;
        sleep(FAST.threshold * 3).await;
        assert_eq!(evictions(&daemon).await, 0);
        run(&mut client, &["SET beat:a x"]).await;
        eventually(SOON, async || evictions(&daemon).await == 1).await;
    }
}

// === owners ===

for_each_server! {
    /// One server is dead, and all its connections go; the other's stay.
    async fn a_dead_server_takes_its_connections_with_it(server: Server) {
        let mut client = server.client().await;
        let fields: Vec<String> = (0..40).map(|n| format!("c{n} s{}", n % 2)).collect();
        run(&mut client, &[&format!("HSET conns {}", fields.join(" ")), "ZADD servers 0 s0 0 s1"]).await;
        let beats = beating(&server, &["ZADD servers NOW s0"]);
        let both = beating(&server, &["ZADD servers NOW s1"]);
        let source = "hash = \"conns\"\nlast_ping = \"zscore servers {value}\"\ngroup = \"{value}\"";
        let (_file, daemon) = daemon(&server, FAST, source).await;
        both.abort();
        eventually(SOON, async || evictions(&daemon).await == 20).await;
        sleep(FAST.threshold).await;
        let left: Vec<String> = ask(&mut client, "HVALS conns").await;
        assert_eq!((left.len(), left.iter().filter(|server| **server == "s0").count()), (20, 20));
        beats.abort();
    }
}
