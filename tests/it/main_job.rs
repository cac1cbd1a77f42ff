//! The main job in each of the four layouts, by flags alone: find the stale, evict exactly those with all that belongs
//! to them, and say so. It is done by a user that has the rights which `check --acl` prints for it, and no other.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::sleep;

use crate::harness::{Binary, Finished, Hub, Layout, Server, eventually};
use crate::world::{
    Confined, FAST, Rhythm, SOON, STEADY, evictions, evicts, in_each_layout, is_in, is_old_enough, metric, only_source,
    reaper_with, settle, throughout,
};

/// Nobody turns stale in the middle of an audit.
const SLOW: Rhythm = Rhythm { threshold: Duration::from_secs(60), heartbeat: Duration::from_secs(6) };

const HOUR: Duration = Duration::from_secs(3600);

for_each_server! {
    /// 700 live, 300 stale, and not one write.
    async fn a_dry_run_finds_the_stale_and_writes_nothing(server: Server) {
        let hubs = Layout::ALL.map(|layout| Hub::new(&server, layout));
        for hub in &hubs {
            hub.live(700).await;
            hub.stale(300, HOUR).await;
        }
        let mut users = Vec::new();
        for (number, hub) in hubs.iter().enumerate() {
            users.push(Confined::make(&server, &format!("auditor-{number}"), &["--acl", "--dry-run"], &hub.source_flags()).await);
        }
        server.reset_stats().await;

        for (hub, user) in hubs.iter().zip(&users) {
            let run = reaper_with(&["--dry-run", "-o", "json"], &server.url(), hub, SLOW);
            let run = user.run(run).run().await;

            let document = run.assert_code(0).json();
            let source = only_source(&document);
            assert_eq!((&document["dry_run"], &document["complete"]), (&true.into(), &true.into()));
            assert_eq!((source["entries"]["live"].as_u64(), source["entries"]["stale"].as_u64()), (Some(700), Some(300)));
            assert_eq!((source["would_evict"].as_u64(), source["evicted"].as_u64()), (Some(300), Some(0)));
            assert_eq!(source["listed"], 100, "the hundred oldest");
            user.assert_nothing_was_refused(&server).await;
        }

        assert!(server.write_commands_seen().await.is_empty(), "{:?}", server.write_commands_seen().await);
    }

    /// One run takes all the stale with their companions, and leaves the living with theirs.
    async fn once_evicts_the_stale_and_nobody_else(server: Server) {
        in_each_layout(async |layout| {
            let crowd = Crowd::enter(&server, layout).await;
            let live = crowd.hub.live(700).await;
            let stale = crowd.hub.stale(300, HOUR).await;
            crowd.furnish(&[&live[..], &stale].concat()).await;
            let pinging = crowd.hub.ping_every(STEADY.heartbeat, &live);
            is_old_enough(&server, STEADY).await;

            let run = crowd.run(&["--once", "-o", "json"], STEADY).await;

            let document = run.assert_code(0).json();
            let source = only_source(&document);
            assert_eq!((source["entries"]["stale"].as_u64(), source["evicted"].as_u64()), (Some(300), Some(300)));
            assert!(run.stderr.contains("cli: 300 stale; looking again in "), "{}", run.stderr);
            pinging.stop().await;
            crowd.hub.verdict(STEADY.threshold).await.assert_none_lost();
            crowd.assert_left(&live).await;
        })
        .await;
    }

    /// The daemon takes exactly those that stop pinging, while the others ping on.
    async fn the_daemon_evicts_those_that_stop_pinging(server: Server) {
        in_each_layout(async |layout| {
            let crowd = Crowd::enter(&server, layout).await;
            let all = crowd.hub.live(1_000).await;
            crowd.furnish(&all).await;
            let pinging = crowd.hub.ping_every(STEADY.heartbeat, &all);
            let daemon = settle(crowd.binary(&["run"], STEADY)).await;
            assert_eq!(evictions(&daemon).await, 0);

            let (dead, live) = all.split_at(300);
            pinging.silence(dead);

            evicts(&daemon, 300).await;
            eventually(SOON, async || metric(&daemon, "entries", Some(("state", "live"))).await == Some(700.0)).await;
            crowd.hub.verdict(STEADY.threshold).await.assert_none_lost();
            crowd.assert_left(live).await;
            daemon.terminate();
            daemon.wait(SOON).await.assert_code(0);
        })
        .await;
    }

    /// The same in sorted sets or hashes that a list finds, small and large ones, each eviction announced in two ways.
    async fn rooms_are_cleaned_and_told_of(server: Server) {
        let dir = tempfile::TempDir::new().unwrap();
        for layout in [Layout::Zset, Layout::Json] {
            let path = dir.path().join(format!("{layout:?}.toml"));
            std::fs::write(&path, rooms_that_tell(layout)).unwrap();
            let file = ["--config".to_owned(), path.to_str().unwrap().to_owned()];
            let looker = Confined::make(&server, &format!("looker-{layout:?}"), &["--acl", "--dry-run"], &file).await;
            let reaper = Confined::make(&server, &format!("teller-{layout:?}"), &["--acl"], &file).await;
            let older = Confined::make(&server, &format!("older-{layout:?}"), &["--acl=6.2"], &file).await;
            let rooms = [("lobby", 3), ("room:small:seen", 5), ("room:large:seen", 700)];
            let rooms = rooms.map(|(key, clients)| (Hub::new(&server, layout).key(&format!("{layout:?}:{key}")), clients));
            let mut pinging = Vec::new();
            for (hub, clients) in &rooms {
                pinging.push(hub.ping_every(STEADY.heartbeat, &hub.live(*clients).await));
            }
            is_old_enough(&server, STEADY).await;
            let run = async |user: &Confined, words: &[&str]| {
                let binary = Binary::new(words).args(&file).args(["--redis-url", &server.url()]);
                let run = user.run(binary).run().await;
                user.assert_nothing_was_refused(&server).await;
                run.assert_code(0);
                run.stdout
            };
            let stream = format!("log:{layout:?}");
            let told = async || -> usize { redis::cmd("XLEN").arg(&stream).query_async(&mut server.client().await).await.unwrap() };

            for (round, user) in [(1, &reaper), (2, &older)] {
                for (hub, _) in &rooms {
                    hub.stale(4, HOUR).await;
                }
                let audit: serde_json::Value = serde_json::from_str(&run(&looker, &["--dry-run", "-o", "json"]).await).unwrap();
                assert_eq!(only_source(&audit)["entries"]["stale"], 12, "{layout:?}");
                let document: serde_json::Value = serde_json::from_str(&run(user, &["--once", "-o", "json"]).await).unwrap();
                let source = only_source(&document);
                let counts = ["evicted", "notifications_sent", "notifications_failed"].map(|name| source[name].as_u64().unwrap());
                assert_eq!(counts, [12, 24, 0], "{layout:?}");
                assert_eq!(told().await, 12 * round);
            }
            assert!(run(&reaper, &["check", "--connect", "--sample-for", "0s"]).await.contains("has all "));
            for pinging in pinging {
                pinging.stop().await;
            }
            for (hub, clients) in &rooms {
                assert_eq!(hub.remaining().await.len(), *clients);
                hub.verdict(STEADY.threshold).await.assert_none_lost();
            }
        }
    }

    /// The operator's own limit, of all sources together.
    async fn once_stops_at_its_maximum(server: Server) {
        let hub = Hub::new(&server, Layout::Zset);
        let live = hub.live(20).await;
        hub.stale(300, HOUR).await;
        let _pinging = hub.ping_every(FAST.heartbeat, &live);
        is_old_enough(&server, FAST).await;

        let run = reaper_with(&["--once", "--max", "100", "-o", "json"], &server.url(), &hub, FAST).run().await;

        let document = run.assert_code(0).json();
        assert_eq!(only_source(&document)["evicted"], 100);
        assert_eq!(hub.remaining().await.len(), 220);
    }

    /// The daemon in shadow counts each it would evict, once, and leaves it.
    async fn a_shadow_counts_once_and_evicts_none(server: Server) {
        let hub = Hub::new(&server, Layout::Hashes);
        let live = hub.live(700).await;
        hub.stale(300, HOUR).await;
        let _pinging = hub.ping_every(FAST.heartbeat, &live);
        let daemon = reaper_with(&["run", "--dry-run"], &server.url(), &hub, FAST).listening().spawn();
        let skipped = async || metric(&daemon, "evictions_skipped_total", Some(("reason", "dry_run"))).await;

        is_in(&daemon, "normal").await;
        eventually(SOON, async || skipped().await == Some(300.0)).await;

        throughout(FAST.heartbeat * 4, async || skipped().await == Some(300.0)).await;
        assert_eq!((evictions(&daemon).await, hub.remaining().await.len()), (0, 1_000));
        assert!(daemon.stderr().contains("would evict"), "{}", daemon.stderr());
    }
}

/// A source of rooms, one by its key and others by pattern, that says who left.
fn rooms_that_tell(layout: Layout) -> String {
    let (kind, last_ping) = match layout {
        Layout::Zset => ("zset", "score"),
        _ => ("hash", "json /LatestPingTime"),
    };
    let [threshold, heartbeat] = [STEADY.threshold, STEADY.heartbeat].map(|span| span.as_millis());
    format!(
        "[[source]]\nname = \"rooms\"\n{kind} = [\"{layout:?}:lobby\", \"{layout:?}:room:{{_}}:seen\"]\n\
         last_ping = \"{last_ping}\"\nthreshold = \"{threshold}ms\"\nheartbeat_interval = \"{heartbeat}ms\"\n\
         companions = [\"SREM conns:{{key}} {{id}}\", \"UNLINK box:{{id}}\"]\n\
         notify = [\n  {{ publish = \"left:{{key}}\", payload = \"{{id}} {{remaining}}\" }},\n  \
         {{ xadd = \"log:{layout:?}\", maxlen = 1000 }},\n]\n"
    )
}

/// A hub's clients with all that belongs to them: an inbox each, a set, a sorted set and a hash of them all.
struct Crowd<'a> {
    server: &'a Server,
    hub: Hub,
    layout: String,
    companions: Vec<String>,
    confined: Confined,
}

impl<'a> Crowd<'a> {
    async fn enter(server: &'a Server, layout: Layout) -> Self {
        let user = match layout {
            Layout::Zset | Layout::Strings => "u-{id}",
            Layout::Hashes => "{field:user}",
            Layout::Json => "{json:/UserId}",
        };
        let name = format!("{layout:?}");
        let key = if matches!(layout, Layout::Strings | Layout::Hashes) { format!("{name}:") } else { name.clone() };
        let hub = Hub::new(server, layout).key(&key);
        let companions = [
            format!("UNLINK inbox:{name}:{{id}}"),
            format!("SREM members:{name} {{id}}"),
            format!("ZREM lobby:{name} {{id}}"),
            format!("HDEL users:{name} {user}"),
        ];
        let companions: Vec<String> =
            companions.into_iter().flat_map(|companion| ["--companion".to_owned(), companion]).collect();
        let flags = [hub.source_flags(), companions.clone()].concat();
        let confined = Confined::make(server, &format!("reaper-{name}"), &["--acl"], &flags).await;
        Self { server, hub, layout: name, companions, confined }
    }

    /// Writes what belongs to these clients.
    async fn furnish(&self, ids: &[String]) {
        let layout = &self.layout;
        let mut pipe = redis::pipe();
        for id in ids {
            pipe.cmd("SET").arg(format!("inbox:{layout}:{id}")).arg("mail").ignore();
            pipe.cmd("SADD").arg(format!("members:{layout}")).arg(id).ignore();
            pipe.cmd("ZADD").arg(format!("lobby:{layout}")).arg(1).arg(id).ignore();
            pipe.cmd("HSET").arg(format!("users:{layout}")).arg(format!("u-{id}")).arg(id).ignore();
        }
        pipe.exec_async(&mut self.server.client().await).await.unwrap();
    }

    fn binary(&self, words: &[&str], rhythm: Rhythm) -> crate::harness::Binary {
        let binary = reaper_with(words, &self.server.url(), &self.hub, rhythm).args(&self.companions);
        self.confined.run(binary)
    }

    async fn run(&self, words: &[&str], rhythm: Rhythm) -> Finished {
        self.binary(words, rhythm).run().await
    }

    /// Exactly these clients are left, and exactly what belongs to them; and all that was done was allowed.
    async fn assert_left(&self, ids: &[String]) {
        self.confined.assert_nothing_was_refused(self.server).await;
        let ids: BTreeSet<String> = ids.iter().cloned().collect();
        let (mut client, layout) = (self.server.client().await, &self.layout);
        assert_same(&self.hub.remaining().await, &ids, layout);
        let inboxes = format!("inbox:{layout}:");
        for read in ["KEYS inbox:{}:*", "SMEMBERS members:{}", "ZRANGE lobby:{} 0 -1", "HVALS users:{}"] {
            let read = read.replace("{}", layout);
            let mut words = read.split(' ');
            let mut command = redis::cmd(words.next().unwrap());
            words.for_each(|word| _ = command.arg(word));
            let names: Vec<String> = command.query_async(&mut client).await.unwrap();
            let names = names.into_iter().map(|name| name.strip_prefix(&inboxes).unwrap_or(&name).to_owned()).collect();
            assert_same(&names, &ids, &read);
        }
    }
}

/// Says only how two sets differ.
#[track_caller]
fn assert_same(found: &BTreeSet<String>, expected: &BTreeSet<String>, what: &str) {
    let some = |one: &BTreeSet<String>, other| one.difference(other).take(3).cloned().collect::<Vec<_>>();
    let (lost, left) = (some(expected, found), some(found, expected));
    assert!(found == expected, "{what}: {} of {}; lost {lost:?}, left {left:?}", found.len(), expected.len());
}

/// What `--max` allows holds for all sources of a run, however many strike at the same moment.
#[tokio::test]
async fn the_maximum_is_shared_by_all_sources() {
    let server = Server::start(crate::harness::Kind::Redis).await;
    let hubs: Vec<Hub> = ["a", "b", "c"].map(|key| Hub::new(&server, Layout::Zset).key(key)).into();
    for hub in &hubs {
        hub.stale(200, HOUR).await;
        hub.live(5).await;
    }
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("reaper.toml");
    let source = |key: &str| {
        let rhythm = "threshold = \"2s\"\nheartbeat_interval = \"400ms\"";
        format!("[[source]]\nname = \"{key}\"\nzset = \"{key}\"\n{rhythm}\n")
    };
    std::fs::write(&file, ["a", "b", "c"].map(source).concat()).unwrap();
    is_old_enough(&server, FAST).await;
    for hub in &hubs {
        hub.live(5).await;
    }

    let run = crate::harness::Binary::new(["--once", "--max", "60", "-o", "json", "--release", "silent", "--config"])
        .args([file.as_os_str()])
        .args(["--redis-url", &server.url()])
        .run()
        .await;

    let evicted = |source: &serde_json::Value| source["evicted"].as_u64().unwrap();
    let evicted: u64 = run.json()["sources"].as_array().unwrap().iter().map(evicted).sum();
    assert_eq!(evicted, 60, "{}", run.stdout);
    sleep(Duration::ZERO).await;
}
