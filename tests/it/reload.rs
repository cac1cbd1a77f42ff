//! SIGHUP: another configuration is taken over while the daemon runs. What decides as before goes on where it was, what
//! does not begins anew, and a broken file changes nothing.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::harness::{Binary, Daemon, Hub, Kind, Layout, Pinging, Refresh, Server, confined, eventually};
use crate::world::{Rhythm, SOON, STEADY, breaks, evictions, evicts, is_in, metric, settle};

/// A file that can be written anew, and the daemon that reads it.
struct Scene {
    server: Server,
    hub: Hub,
    ids: Vec<String>,
    pinging: Pinging,
    dir: TempDir,
    daemon: Daemon,
}

/// What a file says beside where the server and the entries are.
#[derive(Clone, Copy)]
struct Written<'a> {
    top: &'a str,
    redis: &'a str,
    rhythm: Rhythm,
    source: &'a str,
}

const PLAIN: Written<'static> = Written { top: "", redis: "", rhythm: STEADY, source: "" };

impl Scene {
    /// Twenty clients that ping on, and a daemon that may evict.
    async fn begin(server: Server, written: Written<'_>) -> Self {
        let hub = Hub::new(&server, Layout::Strings).refresh(Refresh::OnlyExisting);
        let ids = hub.live(20).await;
        let pinging = hub.ping_every(written.rhythm.heartbeat / 2, &ids);
        let dir = TempDir::new().unwrap();
        write(&dir, &server, &hub, written);
        let daemon = settle(Binary::new(["run", "--config", path(&dir).to_str().unwrap()])).await;
        Self { server, hub, ids, pinging, dir, daemon }
    }

    fn write(&self, written: Written<'_>) {
        write(&self.dir, &self.server, &self.hub, written);
    }

    /// Asks for a reload, and waits until it is over; says whether the configuration was taken over.
    async fn reload(&self) -> bool {
        let count = || ["reloaded", "not reloaded"].map(|end| self.daemon.stderr().matches(end).count());
        let before = count();
        self.daemon.signal(Signal::HUP);
        eventually(SOON, async || count() != before).await;
        count()[1] == before[1]
    }

    async fn reload_succeeded(&self) -> Option<f64> {
        self.daemon.metric("presence_reaper_config_last_reload_successful").await
    }
}

fn path(dir: &TempDir) -> PathBuf {
    dir.path().join("reaper.toml")
}

fn write(dir: &TempDir, server: &Server, hub: &Hub, Written { top, redis, rhythm, source }: Written<'_>) {
    let times = [("threshold", rhythm.threshold), ("heartbeat_interval", rhythm.heartbeat)];
    let times = times.map(|(key, time)| format!("{key} = \"{}ms\"", time.as_millis())).join("\n");
    let redis = format!("[redis]\nurl = \"redis://127.0.0.1:{}\"\n{redis}", server.port());
    let text = format!("{top}\n{redis}\n[[source]]\nname = \"cli\"\n{}{times}\n{source}\n", hub.source_lines());
    fs::write(path(dir), text).unwrap();
}

for_each_server! {
    /// Pace, notifications, log and leases are no break: who was watched is evicted when due, the lease stays, and what was
    /// counted goes on counting.
    async fn a_reload_goes_on_where_it_was(server: Server) {
        if confined() {
            return; // What it adds needs rights that its user was not given.
        }
        let scene = Scene::begin(server, PLAIN).await;
        scene.pinging.silence(&scene.ids[..1]);
        evicts(&scene.daemon, 1).await;
        let readied = Instant::now();
        scene.pinging.silence(&scene.ids[1..4]);
        sleep(STEADY.threshold - STEADY.heartbeat).await;
        scene.write(Written {
            top: "[log]\nformat = \"json\"\n[lease]\nttl = \"9s\"\n[guard]\nmax_evict_rate = 100\n",
            source: "notify = [{ publish = \"gone\" }]\ncompanions = [\"UNLINK more:{id}\"]",
            ..PLAIN
        });

        assert!(scene.reload().await, "{}", scene.daemon.stderr());

        let gone = evicts(&scene.daemon, 4).await;
        assert!(gone - readied < STEADY.threshold + STEADY.heartbeat * 8, "{:?}", gone - readied);
        let said = scene.daemon.stderr();
        assert!(said.contains("\"message\":\"goes on where it was\""), "{said}");
        assert_eq!(breaks(&scene.daemon, "first_contact").await, 1, "{said}");
        assert_eq!(metric(&scene.daemon, "leader_transitions_total", None).await, Some(1.0));
        assert_eq!(metric(&scene.daemon, "notifications_total", Some(("sink", "pubsub"))).await, Some(3.0));
        assert_eq!(scene.reload_succeeded().await, Some(1.0));
        assert_eq!(scene.daemon.get("/readyz").await.unwrap().status, 200, "it never was anything else");
        scene.hub.verdict(STEADY.threshold).await.assert_none_lost();
    }

    /// Whoever reloads in a loop neither stops the work nor hastens it.
    async fn reloads_in_a_loop_neither_stop_nor_hasten_anything(server: Server) {
        let scene = Scene::begin(server, PLAIN).await;
        scene.pinging.silence(&scene.ids[..3]);
        let silenced = Instant::now();
        while evictions(&scene.daemon).await < 3 && silenced.elapsed() < SOON {
            assert!(scene.reload().await);
        }
        let took = silenced.elapsed();
        assert!(took >= STEADY.threshold - STEADY.heartbeat, "{took:?}");
        assert_eq!(evictions(&scene.daemon).await, 3, "{}", scene.daemon.stderr());
        assert_eq!(breaks(&scene.daemon, "first_contact").await, 1);
        scene.hub.verdict(STEADY.threshold).await.assert_none_lost();
    }
}

/// Each mistake is told with its place; the old configuration goes on evicting; a metric says so until it is mended.
#[tokio::test]
async fn a_broken_file_keeps_the_configuration() {
    let scene = Scene::begin(Server::start(Kind::Redis).await, PLAIN).await;
    assert_eq!(scene.reload_succeeded().await, Some(1.0), "that of the start");
    scene.write(Written { source: "treshold = \"1s\"\nlast_ping = \"jsn /x\"", ..PLAIN });

    assert!(!scene.reload().await);

    let said = scene.daemon.stderr();
    assert!(said.contains("reaper.toml:10:1: unknown key `treshold`"), "{said}");
    assert!(said.contains("reaper.toml:11:13"), "{said}");
    assert_eq!(scene.reload_succeeded().await, Some(0.0));
    fs::remove_file(path(&scene.dir)).unwrap();
    assert!(!scene.reload().await, "a file that is gone is no empty one");
    scene.pinging.silence(&scene.ids[..3]);
    evicts(&scene.daemon, 3).await;

    scene.write(PLAIN);
    assert!(scene.reload().await);
    assert_eq!(scene.reload_succeeded().await, Some(1.0));
    assert_eq!(breaks(&scene.daemon, "first_contact").await, 1, "{}", scene.daemon.stderr());
    scene.hub.verdict(STEADY.threshold).await.assert_none_lost();
}

/// Where somebody listens takes a restart, and so nothing of such a file is taken over.
#[tokio::test]
async fn another_address_to_listen_on_takes_a_restart() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Zset);
    let dir = TempDir::new().unwrap();
    let listening = |port| format!("[server]\nlisten = \"127.0.0.1:{port}\"\n");
    write(&dir, &server, &hub, Written { top: &listening(0), ..PLAIN });
    let daemon = Binary::new(["run", "--config", path(&dir).to_str().unwrap()]).spawn();
    eventually(SOON, async || daemon.stderr().contains("presence-reaper starts")).await;
    write(&dir, &server, &hub, Written { top: &listening(1), ..PLAIN });
    daemon.signal(Signal::HUP);
    eventually(SOON, async || daemon.stderr().contains("not reloaded")).await;
    let said = daemon.stderr();
    assert!(said.contains("`listen` in [server] changed from 127.0.0.1:0 to 127.0.0.1:1"), "{said}");
}

/// A threshold half as long: every entry has all of it from now on.
#[tokio::test]
async fn what_decides_otherwise_begins_anew() {
    let slow = Rhythm { threshold: STEADY.threshold * 4, ..STEADY };
    let scene = Scene::begin(Server::start(Kind::Redis).await, Written { rhythm: slow, ..PLAIN }).await;
    scene.pinging.silence(&scene.ids[..3]);
    sleep(STEADY.threshold * 2).await;
    scene.write(PLAIN);
    let asked = Instant::now();

    assert!(scene.reload().await);

    is_in(&scene.daemon, "grace").await;
    assert_eq!(breaks(&scene.daemon, "first_contact").await, 2);
    let gone = evicts(&scene.daemon, 3).await;
    assert!(gone - asked >= STEADY.threshold, "{:?}", gone - asked);
    assert!(scene.daemon.stderr().contains("begins anew"), "{}", scene.daemon.stderr());
    scene.hub.verdict(STEADY.threshold).await.assert_none_lost();
}

/// After a restart of Redis entries wait for their hubs to come back. Another threshold, and even a shorter grace in the
/// file, do not shorten what runs.
#[tokio::test]
async fn no_grace_ends_earlier() {
    let long = Written { top: "[guard]\nreconnect_grace = \"25s\"\n", ..PLAIN };
    let mut scene = Scene::begin(Server::start(Kind::Redis).await, long).await;
    redis::cmd("SAVE").exec_async(&mut scene.server.client().await).await.unwrap();
    scene.server.restart().await;
    eventually(SOON, async || breaks(&scene.daemon, "restart").await > 0).await;
    let broke = Instant::now();
    scene.pinging.silence(&scene.ids[..3]);
    let shorter = Rhythm { threshold: STEADY.threshold - STEADY.heartbeat, ..STEADY };
    scene.write(Written { top: "[guard]\nreconnect_grace = \"1s\"\n", rhythm: shorter, ..PLAIN });

    assert!(scene.reload().await);

    let gone = evicts(&scene.daemon, 3).await;
    assert!(gone - broke >= Duration::from_secs(23), "{:?}\n{}", gone - broke, scene.daemon.stderr());
    scene.hub.verdict(STEADY.threshold).await.assert_none_lost();
}

/// Nobody pings: the source is held before and after, whatever else changes.
#[tokio::test]
async fn no_hold_ends_earlier() {
    let scene = Scene::begin(Server::start(Kind::Redis).await, PLAIN).await;
    scene.pinging.silence(&scene.ids);
    is_in(&scene.daemon, "silent").await;
    let other = Rhythm { threshold: STEADY.threshold - STEADY.heartbeat, ..STEADY };
    let reloaded = |text: &'static str, rhythm| Written { top: text, rhythm, ..PLAIN };
    for written in [PLAIN, reloaded("[guard]\nmax_evict_rate = 9\n", STEADY), reloaded("", other)] {
        scene.write(written);
        assert!(scene.reload().await);
        sleep(STEADY.threshold).await;
        is_in(&scene.daemon, "silent").await;
    }
    assert_eq!((evictions(&scene.daemon).await, scene.hub.remaining().await.len()), (0, 20));
}

/// A source that is new is looked at, one that went is told of no more, and the one between them goes on.
#[tokio::test]
async fn sources_come_and_go() {
    if confined() {
        return; // Likewise.
    }
    let scene = Scene::begin(Server::start(Kind::Redis).await, PLAIN).await;
    let more = "[[source]]\nname = \"more\"\nzset = \"more\"\n";
    scene.write(Written { source: more, ..PLAIN });
    assert!(scene.reload().await);
    let of_more = "presence_reaper_sweeps_total{source=\"more\"}";
    eventually(SOON, async || scene.daemon.metric(of_more).await.is_some_and(|swept| swept > 0.0)).await;
    scene.write(PLAIN);
    assert!(scene.reload().await);
    assert_eq!(scene.daemon.metric(of_more).await, None);
    let said = scene.daemon.stderr();
    assert!(said.contains("no longer configured: nothing of it is evicted from now on source=\"more\""), "{said}");
    let status: serde_json::Value = serde_json::from_str(&scene.daemon.get("/status").await.unwrap().body).unwrap();
    assert_eq!(status["sources"].as_array().map(Vec::len), Some(1), "{status}");
    assert_eq!(breaks(&scene.daemon, "first_contact").await, 1);
}

for_each_server! {
    /// A reload dials anew, so that what was rotated is used before the old connection breaks; written in the file or beside
    /// it. A new connection to the same process is no break.
    async fn a_rotated_password_is_picked_up_by_a_reload(kind: Kind) {
        let server = Server::builder(kind).password("first").start().await;
        let opened = async |daemon: &Daemon| daemon.metric("presence_reaper_redis_connections_opened_total").await.unwrap();
        let with = |password: &'static str| Written { redis: password, ..PLAIN };
        let scene = Scene::begin(server, with("password = \"first\"")).await;
        let mut client = scene.server.client().await;
        redis::cmd("CONFIG").arg("SET").arg("requirepass").arg("second").exec_async(&mut client).await.unwrap();
        let before = opened(&scene.daemon).await;
        scene.write(with("password = \"second\""));

        assert!(scene.reload().await);

        eventually(SOON, async || opened(&scene.daemon).await > before).await;
        eventually(SOON, async || scene.daemon.metric("presence_reaper_redis_up").await == Some(1.0)).await;
        assert_eq!(breaks(&scene.daemon, "first_contact").await, 1);
        let listed: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut client).await.unwrap();
        assert!(!listed.is_empty());
    }
}

/// A hold that Redis lost is kept by whoever heard it, and by who goes on after a reload as well.
#[tokio::test]
async fn an_operators_hold_that_redis_lost_stays() {
    let scene = Scene::begin(Server::start(Kind::Redis).await, PLAIN).await;
    let file = path(&scene.dir);
    let hold = Binary::new(["hold", "--config", file.to_str().unwrap(), "--reason", "a test", "--for", "1h"]);
    hold.run().await.assert_code(0);
    is_in(&scene.daemon, "held").await;
    let mut client = scene.server.client().await;
    let keys: Vec<String> = redis::cmd("KEYS").arg("presence-reaper:*").query_async(&mut client).await.unwrap();
    let orders: Vec<&String> =
        keys.iter().filter(|key| [":lease", ":state"].iter().all(|own| !key.ends_with(own))).collect();
    assert!(orders.len() > 1, "{keys:?}");
    redis::cmd("DEL").arg(&orders).exec_async(&mut client).await.unwrap();
    eventually(SOON, async || scene.daemon.stderr().contains("lost what operators ordered")).await;
    scene.pinging.silence(&scene.ids[..3]);
    scene.write(Written { top: "[guard]\nmax_evict_rate = 400\n", ..PLAIN });

    assert!(scene.reload().await);

    sleep(STEADY.threshold * 2).await;
    is_in(&scene.daemon, "held").await;
    assert_eq!((evictions(&scene.daemon).await, scene.hub.remaining().await.len()), (0, 20));
}

/// The audit record's file is opened at the start: without it no reload lets anything go unrecorded.
#[tokio::test]
async fn nothing_goes_unrecorded_after_a_reload() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Zset);
    let dir = TempDir::new().unwrap();
    let audit = format!("[audit]\nfile = \"{}/audit.ndjson\"\n", dir.path().display());
    write(&dir, &server, &hub, Written { top: &audit, source: "dry_run = true", ..PLAIN });
    let daemon = Binary::new(["run", "--config", path(&dir).to_str().unwrap()]).listening().spawn();
    eventually(SOON, async || daemon.stderr().contains("presence-reaper starts")).await;
    write(&dir, &server, &hub, Written { top: &audit, ..PLAIN });
    daemon.signal(Signal::HUP);
    eventually(SOON, async || daemon.stderr().contains("not reloaded")).await;
    assert!(daemon.stderr().contains("that a source evicts from now on takes a restart"), "{}", daemon.stderr());
}

/// Another file is one mistake, and said once.
#[tokio::test]
async fn another_audit_file_takes_a_restart() {
    let scene = Scene::begin(Server::start(Kind::Redis).await, PLAIN).await;
    scene.write(Written { top: "[audit]\nfile = \"/nowhere/audit.ndjson\"\n", ..PLAIN });
    assert!(!scene.reload().await);
    let said = scene.daemon.stderr();
    assert!(said.contains("`file` in [audit] changed from none to /nowhere/audit.ndjson"), "{said}");
    assert!(!said.contains("the audit record's file is opened at the start"), "{said}");
}
