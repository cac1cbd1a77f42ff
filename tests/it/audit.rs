//! The audit record: each eviction has its line, whatever happens to the reaper, its file or its stream.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use presence_reaper::policy::outcome::{Blocked, Outcome};
use presence_reaper::store::record::{FIELD, Recorder, Stream};
use redis::aio::MultiplexedConnection;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::edge::{Edge, ask, expected, outcomes, put_aged, run, server_now, source, within};
use crate::harness::{AfterLoss, Binary, Hub, Layout, Mode, Proxy, Server, eventually};
use crate::world::{
    CROWDED, Confined, FAST, SOON, evictions, evicts, in_each_layout, is_old_enough, metric, only_source, reaper,
    reaper_with, settle, throughout,
};

const HOUR: Duration = Duration::from_secs(3600);

const STREAM: &str = "presence-audit";

/// The lines of a file, each of which has to be one JSON object.
fn lines_of(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "the last line is torn: {text:?}");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// A source, and the stream of the audit record, for which its user needs rights.
fn recorded(source: &str, stream: &str) -> String {
    format!("{source}\n[audit]\nstream = \"{stream}\"")
}

/// The lines in a stream.
async fn lines_in(client: &mut MultiplexedConnection, key: &str) -> Vec<Value> {
    let read: Vec<(String, BTreeMap<String, String>)> = ask(client, &format!("XRANGE {key} - +")).await;
    read.into_iter().map(|(_, fields)| serde_json::from_str(&fields[FIELD]).unwrap()).collect()
}

fn ids(lines: &[Value]) -> Vec<String> {
    let mut ids: Vec<String> = lines.iter().map(|line| line["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

/// What a line has to say of an entry that was an hour old when it went.
#[track_caller]
fn assert_facts(line: &Value, layout: Layout) {
    assert_eq!(
        (&line["schema_version"], &line["outcome"], &line["source"]),
        (&json!(1), &json!("evicted"), &json!("cli"))
    );
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{value}: {line:#}"));
    let age = number(&line["age_ms"]);
    let times = ["at", "last_ping"].map(|name| line[name].as_str().unwrap().parse::<jiff::Timestamp>().unwrap());
    assert_eq!(times[0].as_millisecond() - times[1].as_millisecond(), i64::try_from(age).unwrap());
    assert!((3_600_000..4_000_000).contains(&age), "{line:#}");
    let instance = line["instance"].as_str().unwrap();
    assert!(instance.rsplit_once(':').is_some_and(|(_, pid)| pid.parse::<u32>().is_ok()), "{line:#}");
    let read = line["evidence"][0]["read"].as_str().unwrap();
    let verb = match layout {
        Layout::Zset => "ZSCORE ",
        Layout::Strings => "GET ",
        Layout::Hashes | Layout::Json => "HGET ",
    };
    assert!(read.starts_with(verb) && line["evidence"][0]["value"].is_string(), "{line:#}");
    let facts = &line["facts"];
    assert_eq!(number(&facts["e2"]["threshold_ms"]), u64::try_from(CROWDED.threshold.as_millis()).unwrap());
    assert!(number(&facts["e3"]["seen_for_ms"]) >= number(&facts["e3"]["confirm_for_ms"]), "{line:#}");
    // A second survey may have come in between, and Redis may hand out a key twice.
    assert_eq!(number(&facts["e5"]["live"]), 60, "{line:#}");
    assert!(number(&facts["e5"]["unprotected"]) > 60, "{line:#}");
    assert_eq!((&facts["e6"], &facts["e7"]), (&Value::Null, &json!({ "window_ms": 2_000, "lease": true })));
    assert_eq!((&facts["e8"]["allowance"], &facts["e9"]["unless"]), (&Value::Null, &json!([])));
}

for_each_server! {
    /// More than the log would tell: a line for each, in file and stream, by a user with no other right than is asked for.
    async fn each_of_a_burst_has_one_line_with_its_facts(server: Server) {
        in_each_layout(async |layout| {
            let dir = TempDir::new().unwrap();
            let (path, stream) = (dir.path().join("audit"), format!("{STREAM}:{layout:?}"));
            let hub = Hub::new(&server, layout);
            let mut stale = hub.stale(1_200, HOUR).await;
            let pinging = hub.ping_every(CROWDED.heartbeat, &hub.live(60).await);
            is_old_enough(&server, CROWDED).await;
            let record = ["--audit-file", path.to_str().unwrap(), "--audit-stream", &stream].map(str::to_owned);
            let flags = [&hub.source_flags()[..], &record].concat();
            let user = Confined::make(&server, &format!("recorder-{layout:?}"), &["--acl"], &flags).await;

            let once = reaper_with(&["--once", "-o", "json", "--limit", "0"], &server.url(), &hub, CROWDED).args(&record);
            let once = once.env("PRESENCE_REAPER_GUARD__MAX_EVICT_RATE", "unlimited");
            // Eight of these at once on a small machine are a hard time for anybody.
            let once = once.env("PRESENCE_REAPER_GUARD__PAUSE_BATCH_LATENCY", "never");
            let once = once.env("PRESENCE_REAPER_GUARD__PAUSE_ROUND_TRIP", "never");
            let once = user.run(once).run().await;

            assert_eq!(only_source(&once.assert_code(0).json())["evicted"], 1_200, "{layout:?}");
            pinging.stop().await;
            user.assert_nothing_was_refused(&server).await;
            stale.sort();
            let (in_file, in_stream) = (lines_of(&path), lines_in(&mut server.client().await, &stream).await);
            let named = |lines: &[Value]| -> Vec<String> {
                let prefix = match layout { Layout::Strings => "presence:", Layout::Hashes => "conn:", _ => "" };
                ids(lines).iter().map(|id| id.strip_prefix(prefix).unwrap().to_owned()).collect()
            };
            assert_eq!(named(&in_file), stale, "{layout:?}");
            in_file.iter().for_each(|line| assert_facts(line, layout));
            assert_eq!(in_stream, in_file, "{layout:?}: both say the same, in the same order");
        })
        .await;
    }

    /// Killed again and again while it evicts: whoever is gone is in the stream, once, and nobody else.
    async fn killed_while_it_evicts_the_stream_has_exactly_those_that_went(server: Server) {
        const ENTRIES: usize = 3_000;
        let mut client = server.client().await;
        let fill = "for i = 1, tonumber(ARGV[1]) do redis.call('ZADD', 'online', 1700000000000 + i, 'c' .. i) end";
        redis::cmd("EVAL").arg(fill).arg(0).arg(ENTRIES).exec_async(&mut client).await.unwrap();
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("reaper.toml");
        let text = format!(
            "[redis]\nurl = \"{}\"\n[guard]\nsilence_release = \"never\"\nreconnect_grace = \"1ms\"\n\
             max_evict_rate = \"unlimited\"\n[lease]\nttl = \"1s\"\n[audit]\nstream = \"{STREAM}\"\n[[source]]\nname = \"hub\"\n\
             zset = \"online\"\nthreshold = \"1s\"\nheartbeat_interval = \"100ms\"\n",
            server.url()
        );
        std::fs::write(&path, text).unwrap();
        let heart = tokio::spawn({
            let mut client = server.client().await;
            async move {
                loop {
                    let now = server_now(&mut client).await.millis();
                    run(&mut client, &[&format!("ZADD online {now} living")]).await;
                    sleep(Duration::from_millis(50)).await;
                }
            }
        });
        let (mut before, mut torn, mut runs) = (ENTRIES + 1, 0, 0);
        while before > 1 {
            runs += 1;
            assert!(runs < 200, "{before} are left");
            let mut reaper = Binary::new(["run", "--config", path.to_str().unwrap()]).listening().spawn();
            let began = Instant::now();
            while ask::<usize>(&mut client, "ZCARD online").await >= before {
                assert!(began.elapsed() < SOON, "nothing goes: {}", reaper.stderr());
                sleep(Duration::from_millis(1)).await;
            }
            sleep(Duration::from_micros(3_100 * (runs % 7))).await;
            assert!(!reaper.has_ended(), "{}", reaper.stderr());
            reaper.signal(Signal::KILL);
            reaper.wait(SOON).await;
            // What it had sent may still run.
            ask::<redis::Value>(&mut client, "PING").await;
            let (left, records): (BTreeSet<String>, redis::Value) = redis::pipe()
                .atomic()
                .cmd("ZRANGE").arg("online").arg(0).arg(-1)
                .cmd("XRANGE").arg(STREAM).arg("-").arg("+")
                .query_async(&mut client)
                .await
                .unwrap();
            let records: Vec<(String, BTreeMap<String, String>)> = redis::from_redis_value(records).unwrap();
            let lines: Vec<Value> = records.iter().map(|(_, one)| serde_json::from_str(&one[FIELD]).unwrap()).collect();
            let gone: BTreeSet<String> = (1..=ENTRIES).map(|n| format!("c{n}")).filter(|id| !left.contains(id)).collect();
            let recorded = ids(&lines);
            assert_eq!(recorded, gone.into_iter().collect::<Vec<_>>());
            torn += usize::from(left.len() > 1);
            before = left.len();
        }
        heart.abort();
        assert!(torn >= 1, "it was never killed at work");
    }

    /// Of a lost reply nobody knows whether they went: the file says so, and the stream knows.
    async fn of_a_lost_reply_the_file_has_a_line_as_well(server: Server) {
        let mut client = server.client().await;
        for after in [AfterLoss::Cut, AfterLoss::Silence] {
            run(&mut client, &["FLUSHALL"]).await;
            let proxy = Proxy::start(server.port()).await;
            let text = "connect_timeout = \"5s\"\nresponse_timeout = \"500ms\"";
            let edge = Edge::dialling(&format!("url = \"{}\"\n{text}", proxy.url()), &recorded(source(Layout::Zset), STREAM));
            let stream = Stream { key: STREAM.as_bytes().into(), maxlen: 100 };
            let store = edge.store.clone().recording(Arc::new(Recorder::new(Some(stream), true)));
            let ids_of = put_aged(&mut client, Layout::Zset, &[600_000; 3]).await;
            let looked = edge.look(&ids_of).await;
            let prepared = looked.found.iter().filter_map(crate::edge::prepared).collect();
            proxy.set(Mode::LoseScriptReply(after));
            let strike = within(store.evict(prepared, &looked.identity, looked.now, None)).await;
            assert!(outcomes(&strike).values().all(|outcome| *outcome == Outcome::Unknown), "{strike:?}");
            let lines: Vec<Value> = strike.records.iter().map(|line| serde_json::from_slice(line).unwrap()).collect();
            assert_eq!(ids(&lines), ["c0", "c1", "c2"]);
            assert!(lines.iter().all(|line| line["outcome"] == "unknown"), "{lines:?}");
            assert_eq!(ids(&lines_in(&mut client, STREAM).await), ["c0", "c1", "c2"], "they did go");
        }
    }

    /// Companions under a condition: the file knows which were done, the stream which may have been.
    async fn a_line_says_which_companions_went(server: Server) {
        let mut client = server.client().await;
        let more = "companions = [\"SREM conns {id}\", \"if exists rooms do SREM rooms {id}\", \
                    \"if not exists rooms do SREM none {id}\", \"UNLINK gone:{id}\"]";
        let edge = Edge::on(&server, &recorded(&format!("{}\n{more}", source(Layout::Zset)), STREAM));
        let stream = Stream { key: STREAM.as_bytes().into(), maxlen: 100 };
        let store = edge.store.clone().recording(Arc::new(Recorder::new(Some(stream), true)));
        run(&mut client, &["SADD rooms c0 c1"]).await;
        let looked = edge.look(&put_aged(&mut client, Layout::Zset, &[600_000; 1]).await).await;
        let prepared = looked.found.iter().filter_map(crate::edge::prepared).collect();
        let strike = within(store.evict(prepared, &looked.identity, looked.now, None)).await;
        assert_eq!(outcomes(&strike), expected([("c0", Outcome::Evicted)]));
        let line: Value = serde_json::from_slice(&strike.records[0]).unwrap();
        assert_eq!(line["companions"], json!(["SREM conns c0", "UNLINK gone:c0", "SREM rooms c0"]));
        assert_eq!((&line["companions_if"], &line["removal"]), (&Value::Null, &json!("ZREM presence:online c0")));
        let [line] = &lines_in(&mut client, STREAM).await[..] else { panic!("one record") };
        assert_eq!(line["companions"], json!(["SREM conns c0", "UNLINK gone:c0"]));
        assert_eq!(line["companions_if"], json!(["SREM rooms c0", "SREM none c0"]));
    }

    /// What an id spells must not empty the record.
    async fn no_companion_reaches_the_stream(server: Server) {
        let mut client = server.client().await;
        let source = format!("{}\ncompanions = [\"UNLINK gone:{{id}}\"]", source(Layout::Zset));
        let edge = Edge::on(&server, &recorded(&source, "gone:c1"));
        let stream = Stream { key: b"gone:c1".as_slice().into(), maxlen: 100 };
        let store = edge.store.clone().recording(Arc::new(Recorder::new(Some(stream), false)));
        let looked = edge.look(&put_aged(&mut client, Layout::Zset, &[600_000; 2]).await).await;
        let prepared = looked.found.iter().filter_map(crate::edge::prepared).collect();
        let strike = within(store.evict(prepared, &looked.identity, looked.now, None)).await;
        let outcomes_of = outcomes(&strike);
        assert_eq!(outcomes_of, expected([("c0", Outcome::Evicted), ("c1", Outcome::Blocked(Blocked::Other))]));
        assert_eq!(ids(&lines_in(&mut client, "gone:c1").await), ["c0"]);
    }

    /// Where the stream can't be written nothing goes, and the log names it; as soon as it can, all do.
    async fn a_stream_of_another_type_keeps_everybody(server: Server) {
        let mut client = server.client().await;
        run(&mut client, &[&format!("SET {STREAM} x")]).await;
        let hub = Hub::new(&server, Layout::Json);
        let (live, dead) = (hub.live(20).await, hub.live(10).await);
        let pinging = hub.ping_every(FAST.heartbeat, &[&live[..], &dead].concat());
        let daemon = settle(reaper(&server.url(), &hub, FAST).args(["--audit-stream", STREAM])).await;
        pinging.silence(&dead);
        eventually(SOON, async || metric(&daemon, "eviction_failures_total", Some(("reason", "audit"))).await >= Some(10.0)).await;
        assert_eq!(evictions(&daemon).await, 0);
        let told = daemon.stderr();
        assert_eq!(told.matches("nothing is evicted, for the audit record can't be written").count(), 1, "{told}");
        assert!(told.contains(&format!("stream={STREAM}")), "{told}");

        run(&mut client, &[&format!("DEL {STREAM}")]).await;
        evicts(&daemon, 10).await;
        assert_eq!(ids(&lines_in(&mut client, STREAM).await), { let mut dead = dead; dead.sort(); dead });
        hub.verdict(FAST.threshold).await.assert_none_lost();
    }

    /// A file that can't be opened is no file: the process does not begin.
    async fn a_file_that_can_not_be_opened_is_refused_at_the_start(server: Server) {
        let hub = Hub::new(&server, Layout::Zset);
        for words in [&["run"][..], &["--once"]] {
            let run = reaper_with(words, &server.url(), &hub, FAST).args(["--audit-file", "/none/such/audit"]).run().await;
            run.assert_code(78);
            let expected = "`file` of [audit]: /none/such/audit: No such file or directory";
            assert!(run.stderr.contains(expected) && run.stderr.contains("hint:"), "{}", run.stderr);
        }
    }

    /// What writes nothing records nothing, and makes no file either.
    async fn a_dry_run_writes_no_record(server: Server) {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("audit");
        let hub = Hub::new(&server, Layout::Zset);
        hub.stale(3, HOUR).await;
        let record = ["--audit-file", path.to_str().unwrap(), "--audit-stream", STREAM];
        let audit = reaper_with(&["--dry-run"], &server.url(), &hub, FAST).args(record).run().await;
        audit.assert_code(0);
        let shadow = reaper_with(&["run", "--dry-run"], &server.url(), &hub, FAST).args(record).listening().spawn();
        eventually(SOON, async || metric(&shadow, "entries", Some(("state", "stale"))).await == Some(3.0)).await;
        shadow.terminate();
        shadow.wait(SOON).await.assert_code(0);
        assert!(!path.exists());
        assert!(server.write_commands_seen().await.keys().all(|verb| !verb.contains("xadd")));
    }

    /// A full disk: what went by then is kept in mind and told at the end, nothing more goes, and the living do not notice.
    async fn a_full_disk_pauses_evictions_and_is_told_once(server: Server) {
        let hub = Hub::new(&server, Layout::Zset);
        let (live, first, second) = (hub.live(30).await, hub.live(5).await, hub.live(5).await);
        let pinging = hub.ping_every(FAST.heartbeat, &[&live[..], &first, &second].concat());
        let daemon = settle(reaper(&server.url(), &hub, FAST).args(["--audit-file", "/dev/full"])).await;
        pinging.silence(&first);
        evicts(&daemon, 5).await;
        let full = "presence_reaper_audit_failures_total{reason=\"full\"}";
        eventually(SOON, async || daemon.metric(full).await >= Some(1.0)).await;
        pinging.silence(&second);
        eventually(SOON, async || metric(&daemon, "entries", Some(("state", "stale"))).await == Some(5.0)).await;
        throughout(FAST.threshold, async || evictions(&daemon).await == 5).await;
        eventually(SOON, async || metric(&daemon, "throttled_seconds_total", Some(("reason", "audit"))).await > Some(0.0)).await;
        assert_eq!(daemon.metric("presence_reaper_audit_waiting").await, Some(5.0));
        hub.verdict(FAST.threshold).await.assert_none_lost();
        daemon.terminate();
        let end = daemon.wait(SOON).await;
        end.assert_code(0);
        assert_eq!(end.stderr.matches("the audit file can't be written; evicting pauses").count(), 1, "{}", end.stderr);
        assert_eq!(end.stderr.matches("audit record not written: {").count(), 5, "{}", end.stderr);
    }

    /// A single run whose record is not whole has failed, whatever it evicted.
    async fn a_single_run_whose_record_is_not_whole_has_failed(server: Server) {
        let hub = Hub::new(&server, Layout::Zset);
        hub.stale(4, HOUR).await;
        let pinging = hub.ping_every(FAST.heartbeat, &hub.live(20).await);
        is_old_enough(&server, FAST).await;
        let run = reaper_with(&["--once"], &server.url(), &hub, FAST).args(["--audit-file", "/dev/full"]).run().await;
        run.assert_code(1);
        assert!(run.stderr.contains("4 evictions are not in the audit file"), "{}", run.stderr);
        pinging.stop().await;
    }

    /// Rotated by another name and a SIGHUP, again and again while it evicts.
    async fn a_rotated_file_loses_no_line(server: Server) {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("audit");
        let hub = Hub::new(&server, Layout::Zset);
        let (live, dead) = (hub.live(30).await, hub.live(40).await);
        let pinging = hub.ping_every(FAST.heartbeat, &[&live[..], &dead].concat());
        let daemon = settle(reaper(&server.url(), &hub, FAST).args(["--audit-file", path.to_str().unwrap()])).await;
        for (round, some) in dead.chunks(10).enumerate() {
            pinging.silence(some);
            eventually(SOON, async || evictions(&daemon).await > 10 * round as u64).await;
            std::fs::rename(&path, dir.path().join(format!("audit.{round}"))).unwrap();
            daemon.signal(Signal::HUP);
            eventually(SOON, async || path.exists()).await;
            evicts(&daemon, 10 * (round as u64 + 1)).await;
        }
        daemon.terminate();
        daemon.wait(SOON).await.assert_code(0);
        let files = std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path());
        let lines: Vec<Value> = files.flat_map(|file| lines_of(&file)).collect();
        assert_eq!(ids(&lines), { let mut dead = dead; dead.sort(); dead });
        hub.verdict(FAST.threshold).await.assert_none_lost();
    }
}
