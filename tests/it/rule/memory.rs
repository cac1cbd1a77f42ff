//! What a reaper keeps of itself in Redis: the canary, and what the next process has to know. A restart of the reaper
//! costs nothing and frees nobody; a restart of Redis is not taken for one.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::regret::TwoHubs;
use crate::harness::{Binary, Daemon, Hub, Kind, Layout, Pinging, Refresh, Server, confined, eventually};
use crate::world::{
    FAST, Rhythm, SOON, STEADY, breaks, evictions, evicts, is_in, is_old_enough, metric, only_source, reaper,
    reaper_with, settle, throughout,
};

const SECOND: Duration = Duration::from_secs(1);

/// Slow enough that a process that starts on a busy machine is still warm, which it is for three heartbeats.
const CALM: Rhythm = Rhythm { threshold: Duration::from_secs(8), heartbeat: SECOND };

/// Where the state of the source `cli` is: the only key of ours there is, once it was surveyed.
async fn state_key(server: &Server) -> String {
    let keys = async || -> Vec<String> {
        redis::cmd("KEYS").arg("presence-reaper:*:state").query_async(&mut server.client().await).await.unwrap()
    };
    eventually(SOON, async || keys().await.len() == 1).await;
    keys().await.remove(0)
}

async fn state(server: &Server, field: &str) -> String {
    let key = state_key(server).await;
    redis::cmd("HGET").arg(key).arg(field).query_async(&mut server.client().await).await.unwrap()
}

fn patient(binary: Binary) -> Binary {
    // What a killed one leaves must not keep its successor waiting.
    binary.env("PRESENCE_REAPER_GUARD__RECONNECT_GRACE", "30s").env("PRESENCE_REAPER_LEASE__TTL", "2s")
}

/// A hub of ten that ping on, a daemon that may evict, and what starts another like it.
struct Scene {
    server: Server,
    hub: Hub,
    ids: Vec<String>,
    pinging: Pinging,
    daemon: Daemon,
    rhythm: Rhythm,
}

impl Scene {
    async fn begin(server: Server, rhythm: Rhythm) -> Self {
        let hub = Hub::new(&server, Layout::Strings);
        let ids = hub.live(10).await;
        let hub = hub.refresh(Refresh::OnlyExisting);
        let pinging = hub.ping_every(rhythm.heartbeat / 2, &ids);
        let daemon = settle(patient(reaper(&server.url(), &hub, rhythm))).await;
        Self { server, hub, ids, pinging, daemon, rhythm }
    }

    fn successor(&self) -> Daemon {
        patient(reaper(&self.server.url(), &self.hub, self.rhythm)).listening().spawn()
    }

    /// Kills the daemon as nothing can be prepared for, and starts another.
    fn restart(&mut self) {
        self.daemon.signal(Signal::KILL);
        self.daemon = self.successor();
    }

    async fn waits_until(&self) -> i64 {
        state(&self.server, "reconnect_until").await.parse().unwrap()
    }

    async fn is_surveyed(&self) {
        eventually(SOON, async || metric(&self.daemon, "entries_scanned_total", None).await.is_some_and(|n| n > 0.0))
            .await;
    }
}

for_each_server! {
    /// Killed and started again, it goes on as if nothing had been: the dead go as late as their second look demands.
    async fn g5_a_restart_of_the_reaper_costs_nothing(server: Server) {
        let mut scene = Scene::begin(server, CALM).await;
        scene.pinging.silence(&scene.ids[..3]);
        let silenced = Instant::now();
        sleep(CALM.threshold - CALM.heartbeat).await;

        scene.restart();
        scene.is_surveyed().await;

        let gone = evicts(&scene.daemon, 3).await;
        assert_eq!(breaks(&scene.daemon, "first_contact").await, 0, "{}", scene.daemon.stderr());
        let bound = CALM.threshold + CALM.heartbeat * 3 + Duration::from_secs(3);
        assert!(gone - silenced < bound, "{:?}", gone - silenced);
        scene.hub.verdict(CALM.threshold).await.assert_none_lost();
    }

    /// A crash every few heartbeats: nobody who lives is lost, a running grace runs on, and when it stays up the dead go.
    async fn g5_a_crash_loop_frees_nobody_and_then_it_works(server: Server) {
        let mut scene = Scene::begin(server, CALM).await;
        redis::cmd("DEL").arg(state_key(&scene.server).await).exec_async(&mut scene.server.client().await).await.unwrap();
        eventually(SOON, async || breaks(&scene.daemon, "state_lost").await == 1).await;
        let (broke, waits) = (Instant::now(), scene.waits_until().await);
        scene.pinging.silence(&scene.ids[..3]);
        for _ in 0..5 {
            scene.restart();
            scene.is_surveyed().await;
            sleep(CALM.heartbeat / 2).await;
            assert_eq!((evictions(&scene.daemon).await, scene.hub.remaining().await.len()), (0, 10));
            let still = scene.waits_until().await;
            assert!((still - waits).abs() <= 50, "the grace ends when it was to end: {still} {waits}");
        }

        let gone = evicts(&scene.daemon, 3).await;
        assert!(gone - broke >= Duration::from_secs(29), "{:?}", gone - broke);
        assert_eq!(breaks(&scene.daemon, "first_contact").await, 0, "{}", scene.daemon.stderr());
        scene.hub.verdict(CALM.threshold).await.assert_none_lost();
    }
}

/// A hold outlives the process: it neither ends earlier nor begins anew.
#[tokio::test]
async fn g6_a_silence_goes_on_through_restarts() {
    let mut scene = Scene::begin(Server::start(Kind::Redis).await, CALM).await;
    scene.pinging.stop().await;
    is_in(&scene.daemon, "silent").await;
    let ends = async |daemon: &Daemon| metric(daemon, "hold_ends_timestamp_seconds", None).await.unwrap();
    let before = ends(&scene.daemon).await;
    for _ in 0..2 {
        sleep(CALM.heartbeat * 2).await;
        scene.daemon.signal(Signal::KILL);
        scene.daemon = scene_daemon(&scene.server, &scene.hub);
        is_in(&scene.daemon, "silent").await;
        let now = ends(&scene.daemon).await;
        assert!((now - before).abs() < 0.5, "{before} {now}");
    }
    assert_eq!(scene.hub.remaining().await.len(), 10);
    assert!(breaks(&scene.daemon, "first_contact").await == 0);
}

/// Nor does a suspension, whatever the next process has seen itself.
#[tokio::test]
async fn g12_a_suspension_goes_on_through_a_restart() {
    let TwoHubs { server, hub, cut, others, cut_off, pinging } = TwoHubs::begin(Layout::Zset, 25, 50).await;
    let mut daemon = settle(patient(reaper(&server.url(), &hub, STEADY))).await;
    cut_off.stop().await;
    evicts(&daemon, 25).await;
    let _back = hub.ping_every(STEADY.heartbeat, &cut);
    is_in(&daemon, "suspended").await;
    let ends = async |daemon: &Daemon| metric(daemon, "hold_ends_timestamp_seconds", None).await.unwrap();
    let before = ends(&daemon).await;

    daemon.signal(Signal::KILL);
    daemon = patient(reaper(&server.url(), &hub, STEADY)).listening().spawn();
    is_in(&daemon, "suspended").await;

    let now = ends(&daemon).await;
    assert!((now - before).abs() < 0.5, "{before} {now}");
    pinging.silence(&others[..3]);
    throughout(STEADY.threshold * 2, async || hub.remaining().await.len() == 75).await;
}

fn scene_daemon(server: &Server, hub: &Hub) -> Daemon {
    patient(reaper(&server.url(), hub, CALM)).listening().spawn()
}

/// The reaper was away for longer than three surveys: nobody knows what happened.
#[tokio::test]
async fn g5_a_cold_start_is_a_first_contact() {
    let mut scene = Scene::begin(Server::start(Kind::Redis).await, FAST).await;
    scene.pinging.silence(&scene.ids[..3]);
    scene.daemon.signal(Signal::KILL);
    sleep(FAST.heartbeat * 4).await;

    scene.daemon = scene.successor();
    is_in(&scene.daemon, "grace").await;
    assert_eq!(breaks(&scene.daemon, "first_contact").await, 1);
    evicts(&scene.daemon, 3).await;
}

/// Another threshold: what was seen under the old one proves nothing, but a grace that runs goes on.
#[tokio::test]
async fn g5_other_settings_are_a_first_contact() {
    let mut scene = Scene::begin(Server::start(Kind::Redis).await, CALM).await;
    scene.daemon.signal(Signal::KILL);

    scene.rhythm.threshold += SECOND;
    scene.daemon = scene.successor();
    is_in(&scene.daemon, "grace").await;
    assert_eq!(breaks(&scene.daemon, "first_contact").await, 1);
}

/// Redis comes back with old data, the reaper's own state among it, while the reaper is restarted as well. The process is
/// another: that tells.
#[tokio::test]
async fn g5_a_rollback_can_not_pass_for_a_restart_of_the_reaper() {
    let mut scene = Scene::begin(Server::start(Kind::Redis).await, CALM).await;
    redis::cmd("SAVE").exec_async(&mut scene.server.client().await).await.unwrap();
    scene.daemon.signal(Signal::KILL);
    scene.server.restart().await;

    scene.daemon = scene.successor();
    is_in(&scene.daemon, "grace").await;
    assert_eq!(breaks(&scene.daemon, "restart").await, 1, "{}", scene.daemon.stderr());
    // It takes over only when the lease has run out that came back with the data.
    eventually(SOON, async || !state(&scene.server, "reconnect_until").await.is_empty()).await;
}

// === the canary ===

for_each_server! {
    /// Data that goes backwards under a running process, by whatever means, takes the canary with it.
    async fn g5_a_canary_that_goes_back_is_a_break(server: Server) {
        let scene = Scene::begin(server, FAST).await;
        let key = state_key(&scene.server).await;
        let mut client = scene.server.client().await;

        redis::cmd("HSET").arg(&key).arg("canary").arg(1).exec_async(&mut client).await.unwrap();
        eventually(SOON, async || breaks(&scene.daemon, "rollback").await == 1).await;
        is_in(&scene.daemon, "grace").await;
        redis::cmd("DEL").arg(&key).exec_async(&mut client).await.unwrap();
        eventually(SOON, async || breaks(&scene.daemon, "state_lost").await == 1).await;

        scene.pinging.silence(&scene.ids[..3]);
        throughout(FAST.threshold * 3, async || scene.hub.remaining().await.len() == 10).await;
        let log = scene.daemon.stderr();
        assert!(log.contains("redis' data went backwards") && log.contains("redis lost the reaper's state"), "{log}");
    }

    /// Each way to refuse a write: held at once, though it is too short to look silent, and a break at its end.
    async fn g11_a_refused_canary_holds_and_is_a_break_at_its_end(kind: Kind) {
        tokio::join!(
            refuse(kind, &["CONFIG", "SET", "maxmemory", "1"], &["CONFIG", "SET", "maxmemory", "0"], "oom"),
            refuse(
                kind,
                &["CONFIG", "SET", "min-replicas-to-write", "1"],
                &["CONFIG", "SET", "min-replicas-to-write", "0"],
                "readonly",
            ),
            async {
                // Whoever is a user of its own does not mind.
                if !confined() {
                    let less = ["ACL", "SETUSER", "default", "resetkeys", "~presence:*"];
                    refuse(kind, &less, &["ACL", "SETUSER", "default", "allkeys"], "permission").await;
                }
            },
        );
    }

    /// What another client was refused between two surveys shows in the server's own counts.
    async fn g11_refused_writes_of_others_are_a_break(server: Server) {
        let scene = Scene::begin(server, CALM).await;
        let mut client = scene.server.client().await;
        let mut set = redis::pipe();
        set.cmd("CONFIG").arg("SET").arg("maxmemory").arg(1).ignore();
        set.cmd("SET").arg("x").arg("y").ignore();
        set.cmd("CONFIG").arg("SET").arg("maxmemory").arg(0).ignore();
        let _refused = set.exec_async(&mut client).await;

        eventually(SOON, async || breaks(&scene.daemon, "refused_writes").await == 1).await;
        is_in(&scene.daemon, "grace").await;
    }
}

async fn refuse(kind: Kind, begin: &[&str], end: &[&str], error: &str) {
    let scene = Scene::begin(Server::start(kind).await, CALM).await;
    let mut client = scene.server.client().await;
    let mut say = async |words: &[&str]| redis::cmd(words[0]).arg(&words[1..]).exec_async(&mut client).await.unwrap();
    let refused = async || metric(&scene.daemon, "canary_failures_total", Some(("error", error))).await;
    scene.pinging.silence(&scene.ids[..3]);
    sleep(CALM.threshold / 2).await;

    say(begin).await;
    eventually(SOON, async || refused().await.is_some_and(|count| count > 0.0)).await;
    is_in(&scene.daemon, "blind").await;
    say(end).await;
    let ended = Instant::now();

    eventually(SOON, async || breaks(&scene.daemon, "refused_writes").await >= 1).await;
    let gone = evicts(&scene.daemon, 3).await;
    assert!(gone - ended >= CALM.threshold, "{error}: {:?}", gone - ended);
    let log = scene.daemon.stderr();
    // Who may not write our own state may not read what operators order either, and that shows first.
    let refused = ["the reaper's own state can't be written", "what operators ordered can't be read"];
    assert!(refused.iter().any(|refused| log.contains(refused)), "{log}");
    assert!(
        error != "permission" || log.contains("gives the ACL user of [redis] what it needs on ~presence-reaper:*"),
        "{log}"
    );
    scene.hub.verdict(CALM.threshold).await.assert_none_lost();
}

// === single runs ===

const ONCE: [&str; 3] = ["--once", "-o", "json"];

/// A hub of five that live, and a server that has run for a threshold.
async fn living(rhythm: Rhythm) -> (Server, Hub, Vec<String>) {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Strings);
    let ids = hub.live(5).await;
    is_old_enough(&server, rhythm).await;
    (server, hub.refresh(Refresh::OnlyExisting), ids)
}

async fn once(server: &Server, hub: &Hub, rhythm: Rhythm, code: i32) -> serde_json::Value {
    let run = patient(reaper_with(&ONCE, &server.url(), hub, rhythm)).run().await;
    only_source(&run.assert_code(code).json()).clone()
}

/// Twenty minutes of outage (at this scale) that no run could see, five seconds ago; one hub is back, the others are not.
/// The run before it knows since when nobody has looked.
#[tokio::test]
async fn g5_a_single_run_right_after_an_outage_holds() {
    let (server, hub, ids) = living(FAST).await;
    let pinging = hub.ping_every(FAST.heartbeat / 2, &ids);
    hub.stale(1, Duration::from_secs(3600)).await;
    assert_eq!(once(&server, &hub, FAST, 0).await["evicted"], 1);
    pinging.stop().await;
    server.stop();
    sleep(FAST.threshold * 4).await;
    server.cont();

    let _back = hub.ping_every(FAST.heartbeat / 2, &ids[..3]);
    sleep(FAST.heartbeat).await;

    for _ in 0..2 {
        let source = once(&server, &hub, FAST, 11).await;
        assert_eq!((&source["evicted"], &source["state"]), (&0.into(), &"grace".into()), "{source:#}");
        sleep(FAST.threshold).await;
    }
    assert_eq!(hub.remaining().await.len(), 5);
}

/// Redis was restarted between two runs, long enough ago to look settled: its hubs may still be on their way back.
#[tokio::test]
async fn g5_a_single_run_sees_a_restart_since_the_last_one() {
    let (mut server, hub, ids) = living(FAST).await;
    let pinging = hub.ping_every(FAST.heartbeat / 2, &ids);
    once(&server, &hub, FAST, 0).await;
    redis::cmd("SAVE").exec_async(&mut server.client().await).await.unwrap();
    server.restart().await;
    pinging.silence(&ids[..1]);
    is_old_enough(&server, FAST).await;
    sleep(FAST.threshold).await;

    let source = once(&server, &hub, FAST, 11).await;

    assert_eq!((&source["evicted"], &source["entries"]["stale"]), (&0.into(), &1.into()), "{source:#}");
    assert!(source["hold"]["ends_at"].is_string());
}

/// Redis refused heartbeats between two runs.
#[tokio::test]
async fn g11_a_single_run_sees_writes_refused_since_the_last_one() {
    let (server, hub, ids) = living(FAST).await;
    let pinging = hub.ping_every(FAST.heartbeat / 2, &ids);
    once(&server, &hub, FAST, 0).await;
    let mut client = server.client().await;
    let set = async |value: u8, client: &mut _| {
        redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(value).exec_async(client).await.unwrap();
    };
    set(1, &mut client).await;
    sleep(FAST.heartbeat * 2).await;
    set(0, &mut client).await;
    hub.stale(1, Duration::from_secs(3600)).await;
    let _pinging = pinging;
    sleep(FAST.heartbeat).await;

    let source = once(&server, &hub, FAST, 11).await;
    assert!(source["hold"]["detail"].as_str().unwrap().contains("redis refused writes"), "{source:#}");
}

/// Runs that come as regularly as they did before, however rarely, are no outage.
#[tokio::test]
async fn single_runs_at_long_intervals_evict() {
    let (server, hub, ids) = living(FAST).await;
    let _pinging = hub.ping_every(FAST.heartbeat / 2, &ids);
    let mut evicted = Vec::new();
    for _ in 0..4 {
        let began = Instant::now();
        hub.clone().refresh(Refresh::Upsert).stale(1, Duration::from_secs(3600)).await;
        let run = patient(reaper_with(&ONCE, &server.url(), &hub, FAST)).run().await;
        evicted.push(only_source(&run.json())["evicted"].as_u64().unwrap());
        sleep((FAST.threshold * 3 / 2).saturating_sub(began.elapsed())).await;
    }
    assert_eq!(evicted, [1, 1, 1, 1]);
}

/// A dry run keeps nothing, a run that evicts does, and Redis forgets it some day.
#[tokio::test]
async fn p6_only_what_evicts_keeps_state() {
    let (server, hub, ids) = living(FAST).await;
    let _pinging = hub.ping_every(FAST.heartbeat / 2, &ids);
    let mut client = server.client().await;
    let keys = async |client: &mut _| -> Vec<String> {
        redis::cmd("KEYS").arg("presence-reaper:*").query_async(client).await.unwrap()
    };
    reaper_with(&["--dry-run"], &server.url(), &hub, FAST).run().await.assert_code(0);
    assert_eq!(keys(&mut client).await, Vec::<String>::new());

    once(&server, &hub, FAST, 0).await;
    let key = state_key(&server).await;
    assert!(key.starts_with("presence-reaper:{0}:cli-") && key.ends_with(":state"), "{key}");
    let left: i64 = redis::cmd("PTTL").arg(&key).query_async(&mut client).await.unwrap();
    assert!(left > 29 * 24 * 3_600_000, "{left}");
}
