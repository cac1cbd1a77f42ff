//! What a single run says: every form over every layout, how much of it, under which names, and to whom.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use regex::Regex;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::time::timeout;

use crate::harness::{Binary, Finished, Hub, Kind, Layout, Server, eventually};

const HOUR: Duration = Duration::from_secs(3_600);
const LONG: Duration = Duration::from_secs(30);

/// Timing under which a run strikes after a moment, and a loaded machine does not look like a silent hub.
const SOON: [&str; 4] = ["--threshold", "2s", "--heartbeat-interval", "300ms"];

/// What a server has to be up for under that timing; `INFO` tells whole seconds.
const UP: Duration = Duration::from_millis(3_100);

/// Ids that no line, no terminal and no text can hold as they are.
const ODD_IDS: [&[u8]; 5] = [b"line\nbreak", b"\x1b[31mred", b"nul\x00byte", b"\xff\xfe", b"\"quoted\" \\"];

fn on_source(server: &Server, source: &[String]) -> Binary {
    Binary::new(["--redis-url".to_owned(), server.url()]).args(source)
}

fn audit_of(server: &Server, source: &[String]) -> Binary {
    on_source(server, source).args(["--dry-run"])
}

fn zset(key: &str) -> Vec<String> {
    ["--zset", key].map(str::to_owned).to_vec()
}

/// The lines of an NDJSON report: those of entries, and the summary, which is the last one.
fn lines(run: &Finished) -> (Vec<Value>, Value) {
    let mut lines: Vec<Value> = run.stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let summary = lines.pop().expect("a summary");
    assert_eq!(summary["type"], "summary");
    assert!(lines.iter().all(|line| line["type"] == "entry"), "{lines:?}");
    (lines, summary)
}

fn ids(entries: &[Value]) -> Vec<&str> {
    entries.iter().map(|entry| entry["id"].as_str().unwrap()).collect()
}

fn list<'d>(document: &'d Value, list: &str) -> Vec<&'d str> {
    ids(document["sources"][0][list].as_array().unwrap())
}

/// What the program calls these entries: by their keys, where each has its own.
fn named(layout: Layout, names: &[String]) -> Vec<String> {
    let prefix = match layout {
        Layout::Zset | Layout::Json => "",
        Layout::Strings => "presence:",
        Layout::Hashes => "conn:",
    };
    names.iter().map(|name| format!("{prefix}{name}")).collect()
}

fn sorted<T: Ord>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    items.into_iter().collect::<BTreeSet<T>>().into_iter().collect()
}

/// A sorted set of `n` stale members, the n-th the oldest.
async fn fill(client: &mut MultiplexedConnection, key: &str, n: usize) {
    let script = "local now = redis.call('TIME')[1] * 1000
        for i = 1, ARGV[1] do redis.call('ZADD', KEYS[1], now - 3600000 - i * 1000, 'member-' .. i) end";
    redis::cmd("EVAL").arg(script).arg(1).arg(key).arg(n).exec_async(client).await.unwrap();
}

// === forms ===

for_each_server! {
    /// The three forms are one report: the same counts and entries, whatever the layout.
    async fn the_forms_agree_in_every_layout(server: Server) {
        for layout in Layout::ALL {
            let hub = Hub::new(&server, layout);
            let (live, stale) = (hub.live(3).await, hub.stale(4, HOUR).await);
            let (live, stale) = (named(layout, &live), named(layout, &stale));
            let source = hub.source_flags();

            let text = audit_of(&server, &source).args(["--all"]).run().await;
            text.assert_code(0);
            for id in live.iter().chain(&stale) {
                assert!(text.stdout.contains(id), "{layout:?}: {}", text.stdout);
            }
            assert!(text.stdout.contains("  live               3 ") && text.stdout.contains("  stale              4 "));

            let json = audit_of(&server, &source).args(["--all", "-o", "json"]).run().await;
            let document = json.assert_code(0).json();
            assert_eq!(sorted(list(&document, "stale")), sorted(stale.iter().map(String::as_str)), "{layout:?}");
            assert_eq!(sorted(list(&document, "live")), sorted(live.iter().map(String::as_str)), "{layout:?}");

            let ndjson = audit_of(&server, &source).args(["--all", "-o", "ndjson"]).run().await;
            let (entries, summary) = lines(ndjson.assert_code(0));
            let of = |state: &str| -> Vec<Value> {
                entries.iter().filter(|entry| entry["state"] == state).cloned().collect()
            };
            assert_eq!(sorted(ids(&of("stale"))), sorted(stale.iter().map(String::as_str)), "{layout:?}");
            assert_eq!(sorted(ids(&of("live"))), sorted(live.iter().map(String::as_str)), "{layout:?}");
            assert!(entries.iter().all(|entry| entry["source"] == "cli"));
            assert_the_summary_is_the_document_without_lists(summary, document);

            let stale_alone = audit_of(&server, &source).args(["-o", "ndjson"]).run().await;
            let (entries, summary) = lines(stale_alone.assert_code(0));
            assert_eq!((entries.len(), &summary["sources"][0]["listed_live"]), (4, &Value::Null), "{layout:?}");
            redis::cmd("FLUSHALL").exec_async(&mut server.client().await).await.unwrap();
        }
    }

    /// Every stale entry is there once, however many; the summary counts them.
    async fn ndjson_is_complete_in_every_layout(server: Server) {
        for layout in Layout::ALL {
            let hub = Hub::new(&server, layout);
            let stale = hub.stale(20_000, HOUR).await;
            let run = audit_of(&server, &hub.source_flags()).args(["-o", "ndjson"]).run().await;
            let (entries, summary) = lines(run.assert_code(0));
            let expected = named(layout, &stale);
            assert_eq!(entries.len(), 20_000, "{layout:?}");
            assert_eq!(sorted(ids(&entries)), sorted(expected.iter().map(String::as_str)), "{layout:?}");
            let source = &summary["sources"][0];
            assert_eq!((&source["entries"]["stale"], &source["listed"]), (&20_000.into(), &20_000.into()));
            redis::cmd("FLUSHALL").exec_async(&mut server.client().await).await.unwrap();
        }
    }

    /// What is written while it is read need not be kept: a hundred times the entries, the same memory.
    async fn ndjson_keeps_no_entry(server: Server) {
        let mut client = server.client().await;
        fill(&mut client, "few", 2_000).await;
        fill(&mut client, "many", 200_000).await;
        let (few, many) = (peak_of_audit(&server, "few").await, peak_of_audit(&server, "many").await);
        assert_eq!((few.0, many.0), (2_001, 200_001), "lines");
        assert!(many.1 < few.1 + 8_192, "{} KiB for 2,000 entries, {} KiB for 200,000", few.1, many.1);
    }

    /// With `--once` the entries are those of the first look, and the summary says what became of them.
    async fn once_writes_its_lines_before_it_strikes(server: Server) {
        let hub = Hub::new(&server, Layout::Zset);
        let stale = hub.stale(30, HOUR).await;
        let pinging = hub.ping_every(Duration::from_millis(20), &hub.live(3).await);
        tokio::time::sleep(UP).await;
        let run = on_source(&server, &hub.source_flags()).args(["--once", "-o", "ndjson"]).args(SOON).run().await;
        let (entries, summary) = lines(run.assert_code(0));
        assert_eq!(sorted(ids(&entries)), sorted(stale.iter().map(String::as_str)));
        assert_eq!(summary["sources"][0]["evicted"], 30, "{summary}");
        assert_eq!(summary["dry_run"], false);
        pinging.stop().await;
    }

    /// Bytes that are no text are quoted as redis-cli does, and stand in base64 beside what JSON can hold of them.
    async fn odd_ids_break_neither_line_nor_terminal(server: Server) {
        let mut client = server.client().await;
        for id in ODD_IDS {
            let key = [b"odd:", id].concat();
            redis::cmd("SET").arg(key).arg(1_600_000_000).exec_async(&mut client).await.unwrap();
            redis::cmd("ZADD").arg("odd").arg(1_600_000_000).arg(id).exec_async(&mut client).await.unwrap();
        }
        for (source, prefix) in [(zset("odd"), ""), (vec!["--keys".to_owned(), "odd:{id}".to_owned()], "odd:")] {
            let text = audit_of(&server, &source).run().await.stdout;
            for quoted in [r"line\nbreak", r"\x1b[31mred", r"nul\x00byte", r"\xff\xfe", r#"\"quoted\" \\"#] {
                assert!(text.contains(&format!("\"{prefix}{quoted}\"\n")), "{quoted}: {text}");
            }
            assert!(!text.contains('\x1b'), "{text:?}");

            let run = audit_of(&server, &source).args(["-o", "ndjson"]).run().await;
            let (entries, _) = lines(run.assert_code(0));
            assert_eq!(entries.len(), ODD_IDS.len());
            let key_base64 = if prefix.is_empty() { Value::Null } else { "b2RkOv/+".into() };
            let binary: Vec<&Value> = entries.iter().filter(|entry| !entry["id_base64"].is_null()).collect();
            assert_eq!(binary.len(), 1, "only what is no UTF-8: {entries:?}");
            assert_eq!(binary[0]["key_base64"], key_base64);
            assert_eq!(binary[0]["id_base64"], if prefix.is_empty() { "//4=" } else { "b2RkOv/+" });
            assert!(ids(&entries).contains(&format!("{prefix}\x1b[31mred").as_str()));
        }
    }

    /// The whole table, times masked: people read it as one voice.
    async fn the_table_is_this_one(server: Server) {
        let hub = Hub::new(&server, Layout::Zset);
        hub.live(40).await;
        hub.stale(1, Duration::from_secs(3 * 86_400 + 2 * 3_600)).await;
        hub.stale(2, Duration::from_secs(2 * 3_600 + 1_800)).await;
        let mut client = server.client().await;
        redis::cmd("ZADD").arg("presence:online").arg(7).arg("implausible").exec_async(&mut client).await.unwrap();
        let run = audit_of(&server, &hub.source_flags()).args(["--limit", "2"]).run().await;
        let masked = Regex::new(r"\d{4}-\d\d-\d\dT[0-9:.]+Z").unwrap().replace_all(&run.stdout, "TIME");
        let masked = Regex::new(r"newest ping .* ago").unwrap().replace_all(&masked, "newest ping AGE ago");
        let masked = Regex::new("TIME +").unwrap().replace_all(&masked, "TIME  ");
        assert_eq!(masked, TABLE);
    }
}

const TABLE: &str = "\
source cli: zset presence:online, threshold 5m, heartbeat 30s

  live              40   newest ping AGE ago
  stale              3   oldest ping 3d 2h ago
  future             0
  unreadable         1   1 implausible
  times seen: 43 unix-ms

       ≤ 30s        40 ████████████████████████████████████████
        ≤ 1m         0
    ≤ 1m 30s         0
    ≤ 2m 30s         0
        ≤ 5m         0
  ---------- threshold
       ≤ 10m         0
        ≤ 1h         0
        ≤ 6h         2 ██
        ≤ 1d         0
        ≤ 7d         1 █
       ≤ 30d         0
       > 30d         0

  stale entries (the 2 oldest of 3):
       age  last ping                 id
     3d 2h  TIME  s-40
    2h 30m  TIME  s-41

A real run would evict none of 3 stale entries from cli now. The source holds: grace: after a start of redis less \
than a threshold ago, every entry has a full threshold of 5m; ends with time, at TIME  at the latest.

";

/// How many lines an audit writes, and the most memory it had in KiB.
async fn peak_of_audit(server: &Server, key: &str) -> (usize, u64) {
    let mut command = audit_of(server, &zset(key)).args(["-o", "ndjson"]).into_command();
    let mut child = command.spawn().unwrap();
    let status = format!("/proc/{}/status", child.id().unwrap());
    let mut read = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut count, mut peak) = (0, 0);
    while let Some(line) = timeout(LONG, read.next_line()).await.unwrap().unwrap() {
        assert!(line.starts_with(r#"{"type":"#), "{line}");
        count += 1;
        if count % 500 == 0 {
            let status = std::fs::read_to_string(&status).unwrap_or_default();
            let most =
                status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().split(' ').next()?.parse().ok());
            peak = peak.max(most.unwrap_or(0));
        }
    }
    child.wait().await.unwrap();
    (count, peak)
}

fn assert_the_summary_is_the_document_without_lists(mut summary: Value, mut document: Value) {
    assert_eq!(summary.as_object_mut().unwrap().remove("type"), Some("summary".into()));
    for one in [&mut summary, &mut document] {
        one["at"].take();
        for source in one["sources"].as_array_mut().unwrap() {
            let source = source.as_object_mut().unwrap();
            // These move with the clock between the two runs.
            source.retain(|key, _| !["hold", "newest_age_ms", "oldest_age_ms", "ages"].contains(&key.as_str()));
        }
    }
    for source in document["sources"].as_array_mut().unwrap() {
        source.as_object_mut().unwrap().retain(|key, _| !["stale", "live"].contains(&key.as_str()));
    }
    assert_eq!(summary, document);
}

// === how much ===

for_each_server! {
    /// The oldest of each state come first; a limit counts for each, and 0 lists nothing.
    async fn a_limit_lists_the_oldest_of_each_state(server: Server) {
        for layout in Layout::ALL {
            let hub = Hub::new(&server, layout);
            let mut expected = BTreeMap::new();
            for (state, ages) in [("stale", [900, 800, 700]), ("live", [90, 60, 30])] {
                let mut names = Vec::new();
                for age in ages {
                    names.extend(named(layout, &hub.stale(1, Duration::from_secs(age)).await));
                }
                expected.insert(state, names);
            }
            for (limit, listed) in [("0", 0), ("1", 1), ("2", 2), ("9", 3)] {
                let flags = ["--all", "--limit", limit, "-o", "json"];
                let document = audit_of(&server, &hub.source_flags()).args(flags).run().await.json();
                for state in ["stale", "live"] {
                    assert_eq!(list(&document, state), expected[state][..listed], "{layout:?}, {state}, {limit}");
                }
                let source = &document["sources"][0];
                assert_eq!((&source["listed"], &source["listed_live"]), (&listed.into(), &listed.into()));
                assert_eq!(source["entries"]["stale"], 3, "counts know no limit");

                let run = audit_of(&server, &hub.source_flags()).args(["--all", "--limit", limit, "-o", "ndjson"]);
                let (entries, summary) = lines(&run.run().await);
                assert_eq!(entries.len(), 2 * listed, "{layout:?}, {limit}");
                assert_eq!(summary["sources"][0]["listed"], listed, "{layout:?}, {limit}");
            }
            let text = audit_of(&server, &hub.source_flags()).args(["--all", "--limit", "1"]).run().await.stdout;
            for heading in ["  stale entries (the 1 oldest of 3):\n", "  live entries (the 1 oldest of 3):\n"] {
                assert!(text.contains(heading), "{text}");
            }
            let text = audit_of(&server, &hub.source_flags()).args(["--all", "--limit", "0"]).run().await.stdout;
            assert!(!text.contains("entries ("), "{text}");
            redis::cmd("FLUSHALL").exec_async(&mut server.client().await).await.unwrap();
        }
    }

    /// A hundred are listed unless it is said otherwise, and by its index a sorted set is not read for more.
    async fn a_hundred_are_listed_by_default(server: Server) {
        let mut client = server.client().await;
        fill(&mut client, "big", 30_000).await;
        server.reset_stats().await;
        let document = audit_of(&server, &zset("big")).args(["-o", "json"]).run().await.json();
        assert_eq!(list(&document, "stale").len(), 100);
        assert_eq!(list(&document, "stale")[0], "member-30000");
        assert_eq!(document["sources"][0]["entries"]["stale"], 30_000);
        assert!(document["sources"][0].get("live").is_none(), "only with --all");
        let reads = server.command_stats().await.get("zrangebyscore").copied().unwrap_or(0);
        assert!(reads <= 3, "an audit reads what it lists: {reads} pages");
        assert_eq!(server.write_commands_seen().await, BTreeMap::new());
    }

    /// Members of one time fill page after page, and each is named once.
    async fn members_of_one_time_are_all_read(server: Server) {
        let mut client = server.client().await;
        let script = "for i = 1, 5000 do redis.call('ZADD', KEYS[1], 1600000000000, 'm' .. i) end";
        redis::cmd("EVAL").arg(script).arg(1).arg("same").exec_async(&mut client).await.unwrap();
        let (entries, _) = lines(&audit_of(&server, &zset("same")).args(["-o", "ndjson"]).run().await);
        assert_eq!((entries.len(), sorted(ids(&entries)).len()), (5_000, 5_000));
        let (entries, _) = lines(&audit_of(&server, &zset("same")).args(["-o", "ndjson", "--limit", "1500"]).run().await);
        assert_eq!(entries.len(), 1_500);
    }
}

// === which ===

for_each_server! {
    /// Only the sources that are asked for are looked at; a name that is none is told those that are.
    async fn sources_are_chosen_by_name(server: Server) {
        let mut client = server.client().await;
        fill(&mut client, "a", 3).await;
        fill(&mut client, "b", 4).await;
        let file = server.dir().join("reaper.toml");
        let sources = ["a", "b", "c"].map(|name| format!("[[source]]\nname = \"{name}\"\nzset = \"{name}\"\n"));
        std::fs::write(&file, format!("redis.url = \"{}\"\n{}", server.url(), sources.concat())).unwrap();
        let binary = || Binary::new(["--config"]).args([&file]);
        let names = |document: &Value| -> Vec<String> {
            document["sources"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
        };
        let audit = ["--dry-run", "-o", "json"];
        assert_eq!(names(&binary().args(audit).run().await.json()), ["a", "b", "c"]);
        let chosen = ["--source", "b", "--source", "a"];
        assert_eq!(names(&binary().args(audit).args(chosen).run().await.json()), ["a", "b"]);
        assert_eq!(names(&binary().args(["check", "-o", "json"]).args(chosen).run().await.json()), ["a", "b"]);
        assert_eq!(names(&binary().args(["--once", "-o", "json", "--source", "c"]).run().await.json()), ["c"]);

        let run = binary().args(audit).args(chosen).args(["-o", "ndjson"]).run().await;
        run.assert_code(2);
        let run = binary().args(["--dry-run", "-o", "ndjson"]).args(chosen).run().await;
        let (entries, summary) = lines(run.assert_code(0));
        let of = |name| entries.iter().filter(|entry| entry["source"] == name).count();
        assert_eq!((of("a"), of("b"), names(&summary).len()), (3, 4, 2));

        for line in [&["--dry-run"][..], &["--once"], &["check"], &["run"]] {
            let run = binary().args(line).args(["--source", "x"]).run().await;
            run.assert_code(78);
            assert_eq!(
                run.stderr,
                "error: flag --source: no source is called `x`\n  hint: the sources are `a`, `b`, `c`\n"
            );
            assert_eq!(run.stdout, "");
        }

        let daemon = binary().args(["run", "--source", "b"]).listening().spawn();
        let surveyed = r#"presence_reaper_entries{source="b",state="stale"}"#;
        eventually(LONG, async || daemon.metric(surveyed).await == Some(4.0)).await;
        assert_eq!(daemon.metric(r#"presence_reaper_entries{source="a",state="stale"}"#).await, None);
        daemon.terminate();
        daemon.wait(LONG).await.assert_code(0);
    }
}

// === redacted ===

for_each_server! {
    /// No id and nothing that a pattern leaves open is shown, in no form and at no level of the log.
    async fn no_id_is_shown_when_redacted(server: Server) {
        let evicted = Regex::new(r"evicted.*id=\S*redacted-[0-9a-f]{16}").unwrap();
        for layout in Layout::ALL {
            let hub = Hub::new(&server, layout);
            let stale = hub.stale(20, HOUR).await;
            let live = hub.live(20).await;
            let pinging = hub.ping_every(Duration::from_millis(20), &live);
            let mut runs = Vec::new();
            for form in ["text", "json", "ndjson"] {
                let audit = audit_of(&server, &hub.source_flags()).args(["--redact", "--all", "-o", form]);
                runs.push(audit.args(["--log-level", "trace"]).run().await);
            }
            assert_eq!(runs[1].json()["redacted"], true);
            tokio::time::sleep(UP).await;
            let once = on_source(&server, &hub.source_flags()).args(["--once", "--redact", "--log-level", "debug"]);
            let once = once.args(SOON).args(["-o", "json"]).run().await;
            assert_eq!(once.assert_code(0).json()["sources"][0]["evicted"], 20, "{layout:?}");
            let told = evicted.find_iter(&once.stderr).count();
            assert_eq!(told, 20, "{layout:?}: the log tells of each: {}", once.stderr);
            runs.push(once);
            for run in &runs {
                assert!(run.stdout.contains("redacted-"), "{layout:?}: {}", run.stdout);
                for id in stale.iter().chain(&live) {
                    let shows = |text: &str| Regex::new(&format!(r"\b{id}\b")).unwrap().is_match(text);
                    assert!(!shows(&run.stdout) && !shows(&run.stderr), "{id}: {}\n{}", run.stdout, run.stderr);
                }
            }
            pinging.stop().await;
            redis::cmd("FLUSHALL").exec_async(&mut server.client().await).await.unwrap();
        }
    }

    /// Within a run the same id is the same hash, in whatever key it stands; in the next run it is another.
    async fn a_redacted_id_can_be_followed_through_its_report(server: Server) {
        let mut client = server.client().await;
        redis::cmd("ZADD").arg("online").arg(1_600_000_000).arg("alice").exec_async(&mut client).await.unwrap();
        redis::cmd("SET").arg("conn:acme:alice").arg(1_600_000_000).exec_async(&mut client).await.unwrap();
        let file = server.dir().join("reaper.toml");
        let sources = "[[source]]\nname = \"set\"\nzset = \"online\"\n\
                       [[source]]\nname = \"keys\"\nkeys = \"conn:{tenant}:{id}\"\n";
        std::fs::write(&file, format!("redis.url = \"{}\"\n{sources}", server.url())).unwrap();
        let names = async || {
            let run = Binary::new(["--dry-run", "--redact", "-o", "json", "--config"]).args([&file]).run().await;
            let text = |at: &str| run.json().pointer(at).unwrap().as_str().unwrap().to_owned();
            [text("/sources/0/stale/0/id"), text("/sources/0/stale/0/key"), text("/sources/1/stale/0/key")]
        };
        let [id, container, key] = names().await;
        assert_eq!(container, "online", "what the configuration spells out stays");
        assert!(key.starts_with("conn:redacted-") && key.ends_with(&format!(":{id}")), "{key} {id}");
        assert_ne!(names().await[0], id);
    }

    /// The daemon hides ids too, in its log and in its `/status`.
    async fn a_redacted_daemon_shows_no_id(server: Server) {
        let hub = Hub::new(&server, Layout::Strings);
        hub.stale(5, HOUR).await;
        let pinging = hub.ping_every(Duration::from_millis(20), &hub.live(3).await);
        let daemon = on_source(&server, &hub.source_flags()).args(["run", "--redact"]).args(SOON).listening().spawn();
        let mut status = String::new();
        eventually(LONG, async || {
            status = daemon.get("/status").await.map(|page| page.body).unwrap_or_default();
            status.contains("presence:redacted-")
        })
        .await;
        let evictions = r#"presence_reaper_evictions_total{source="cli"}"#;
        eventually(LONG, async || daemon.metric(evictions).await == Some(5.0)).await;
        daemon.terminate();
        let run = daemon.wait(LONG).await;
        assert_eq!(run.stderr.matches("id=presence:redacted-").count(), 5, "{}", run.stderr);
        let id = Regex::new(r"\b[sc]-\d").unwrap();
        assert!(!id.is_match(&run.stderr) && !id.is_match(&status), "{}\n{status}", run.stderr);
        assert!(status.contains("\"redacted\": true"), "{status}");
        pinging.stop().await;
    }
}

// === to whom ===

for_each_server! {
    /// Whoever leaves after the first line has seen enough: no word, no failure, and no further reading.
    async fn a_reader_who_leaves_ends_an_audit(server: Server) {
        fill(&mut server.client().await, "big", 100_000).await;
        server.reset_stats().await;
        let mut child = audit_of(&server, &zset("big")).args(["-o", "ndjson"]).into_command().spawn().unwrap();
        let mut read = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        read.read_line(&mut first).await.unwrap();
        drop(read);
        let status = timeout(LONG, child.wait()).await.unwrap().unwrap();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).await.unwrap();
        assert_eq!((status.code(), said.as_str()), (Some(0), ""));
        assert!(first.starts_with(r#"{"type":"entry","source":"cli","state":"stale","id":"member-100000""#), "{first}");
        let pages = server.command_stats().await["zrangebyscore"];
        assert!(pages < 60, "{pages} pages of 100 were read for nobody");
    }

    /// An exit code that was asked for is still an answer.
    async fn a_reader_who_leaves_still_gets_the_exit_code_asked_for(server: Server) {
        fill(&mut server.client().await, "big", 20_000).await;
        let audit = audit_of(&server, &zset("big")).args(["-o", "ndjson", "--fail-on-stale"]);
        let mut command = audit.into_command();
        let mut child = command.stdout(closed_pipe()).spawn().unwrap();
        assert_eq!(timeout(LONG, child.wait()).await.unwrap().unwrap().code(), Some(10));
    }

    /// A reader who leaves does not call off the evictions that were asked for.
    async fn a_reader_who_leaves_does_not_stop_once(server: Server) {
        let hub = Hub::new(&server, Layout::Zset);
        let stale = hub.stale(30, HOUR).await;
        let live = hub.live(3).await;
        let pinging = hub.ping_every(Duration::from_millis(20), &live);
        tokio::time::sleep(UP).await;
        let once = on_source(&server, &hub.source_flags()).args(["--once", "-o", "ndjson"]).args(SOON);
        let mut child = once.into_command().stdout(closed_pipe()).spawn().unwrap();
        assert_eq!(timeout(LONG, child.wait()).await.unwrap().unwrap().code(), Some(0));
        let remaining = hub.remaining().await;
        assert!(stale.iter().all(|id| !remaining.contains(id)) && live.iter().all(|id| remaining.contains(id)));
        pinging.stop().await;
    }

    /// A full disk is a failure, and is said once.
    async fn what_cannot_be_written_is_a_failure(server: Server) {
        fill(&mut server.client().await, "big", 20_000).await;
        for form in ["text", "json", "ndjson"] {
            let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
            let mut command = audit_of(&server, &zset("big")).args(["-o", form]).into_command();
            let output = command.stdout(full).spawn().unwrap().wait_with_output().await.unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{form}: {said}");
            assert_eq!(said, "error: writing the report: No space left on device (os error 28)\n", "{form}");
        }
    }
}

/// A stdout whose reader is gone already.
pub(crate) fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[tokio::test]
async fn every_output_ends_quietly_at_a_closed_pipe() {
    let server = Server::start(Kind::Redis).await;
    fill(&mut server.client().await, "big", 5_000).await;
    let url = server.url();
    for line in [
        "--dry-run --zset big",
        "--dry-run --zset big -o json",
        "--dry-run --zset big -o ndjson",
        "check --zset big",
        "check --zset big -o json",
        "completions bash",
        "completions zsh",
        "man",
        "--help",
        "run --help",
        "--version",
    ] {
        let mut command = Binary::new(line.split(' ')).env("PRESENCE_REAPER_REDIS__URL", &url).into_command();
        let output = command.stdout(closed_pipe()).spawn().unwrap().wait_with_output().await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), said.as_str()), (Some(0), ""), "{line}");
    }
}
