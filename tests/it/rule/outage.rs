//! Redis away, restarted, demoted or refusing; the reaper blind or asleep. Silence counts only while it could have been
//! broken.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::harness::{Binary, Daemon, Hub, Kind, Layout, Mode, Pinging, Proxy, Refresh, Server, eventually};
use crate::world::{FAST, Rhythm, SOON, breaks, evictions, evicts, is_in, reaper, settle, throughout};

const SECOND: Duration = Duration::from_secs(1);

/// How long entries last heard before a break wait, in these tests.
const RECONNECT: Duration = Duration::from_secs(4);

/// Twenty clients that live, three that die at the worst moment, and the daemon that may evict.
struct Scene {
    server: Server,
    hub: Hub,
    living: Vec<String>,
    dying: Vec<String>,
    pinging: Pinging,
    daemon: Daemon,
}

impl Scene {
    async fn begin(rhythm: Rhythm) -> Self {
        let server = Server::start(Kind::Redis).await;
        let url = server.url();
        Self::begin_at(server, &url, rhythm).await
    }

    /// The reaper reaches the server by this URL.
    async fn begin_at(server: Server, url: &str, rhythm: Rhythm) -> Self {
        // A hub that writes again what was evicted would hide the loss.
        let hub = Hub::new(&server, Layout::Strings);
        let all = hub.live(23).await;
        let hub = hub.refresh(Refresh::OnlyExisting);
        let pinging = hub.ping_every(rhythm.heartbeat, &all);
        let daemon = settle(patient(reaper(url, &hub, rhythm))).await;
        let (living, dying) = all.split_at(20);
        Self { server, hub, living: living.to_vec(), dying: dying.to_vec(), pinging, daemon }
    }

    async fn everybody_stands(&self) -> bool {
        self.hub.remaining().await.len() == 23
    }

    /// The dead go at last, and nobody else; when that was.
    async fn only_the_dead_go(&self) -> Instant {
        let gone = evicts(&self.daemon, 3).await;
        assert_eq!(self.hub.remaining().await, BTreeSet::from_iter(self.living.iter().cloned()));
        gone
    }
}

fn patient(binary: Binary) -> Binary {
    binary.env("PRESENCE_REAPER_GUARD__RECONNECT_GRACE", &format!("{}s", RECONNECT.as_secs()))
}

/// Redis is killed for two thresholds, and back with the data of before. One hub is back at once, the others only after
/// a threshold, and refresh what they find. Nobody is lost, and the dead go when the hubs have had their time.
#[tokio::test]
async fn p2_a_restart_of_redis_loses_nobody() {
    let mut scene = Scene::begin(FAST).await;
    scene.pinging.silence(&scene.dying);
    sleep(FAST.heartbeat).await;
    scene.pinging.silence(&scene.living);
    redis::cmd("SAVE").exec_async(&mut scene.server.client().await).await.unwrap();
    scene.server.kill();
    sleep(FAST.threshold * 2).await;

    scene.server.restart().await;
    let _first = scene.hub.ping_every(FAST.heartbeat, &scene.living[..1]);
    eventually(SOON, async || breaks(&scene.daemon, "restart").await == 1).await;
    let broke = Instant::now();
    throughout(FAST.threshold + SECOND, async || scene.everybody_stands().await).await;
    let _rest = scene.hub.ping_every(FAST.heartbeat, &scene.living[1..]);

    let gone = scene.only_the_dead_go().await;
    assert!(gone - broke >= RECONNECT - SECOND, "{:?}", gone - broke);
}

/// A rollback: Redis comes back with old data, so every time in it is old; the hubs are back at once.
#[tokio::test]
async fn p2_a_rollback_loses_nobody() {
    let mut scene = Scene::begin(FAST).await;
    redis::cmd("SAVE").exec_async(&mut scene.server.client().await).await.unwrap();
    sleep(FAST.threshold).await;
    scene.pinging.silence(&scene.dying);

    scene.server.restart().await;
    let restarted = Instant::now();

    let gone = scene.only_the_dead_go().await;
    assert!(gone - restarted >= RECONNECT - SECOND, "{:?}", gone - restarted);
}

/// A stall shorter than a heartbeat beyond the next survey is none; a longer one is a break. (Five heartbeats of a
/// second: the gap is two.)
#[tokio::test]
async fn g5_a_short_stall_is_no_break_and_a_long_one_is() {
    let rhythm = Rhythm { threshold: SECOND * 5, heartbeat: SECOND };
    let scene = Scene::begin(rhythm).await;
    for _ in 0..3 {
        scene.server.stop();
        sleep(SECOND * 4 / 5).await;
        scene.server.cont();
        sleep(SECOND / 3).await;
    }
    assert_eq!(breaks(&scene.daemon, "out_of_sight").await, 0);
    scene.pinging.silence(&scene.dying);

    scene.server.stop();
    sleep(rhythm.late() + SECOND).await;
    scene.server.cont();
    let back = Instant::now();

    let gone = scene.only_the_dead_go().await;
    assert!(gone - back >= rhythm.threshold, "{:?}", gone - back);
    assert_eq!(breaks(&scene.daemon, "out_of_sight").await, 1);
}

/// The reaper alone is cut off, by a network that swallows everything. What happened meanwhile it has not seen.
#[tokio::test]
async fn g5_a_blind_spell_of_the_reaper_is_a_break() {
    let server = Server::start(Kind::Redis).await;
    let proxy = Proxy::start(server.port()).await;
    let scene = Scene::begin_at(server, &proxy.url(), FAST).await;

    scene.pinging.silence(&scene.dying);
    proxy.set(Mode::BlackHole);
    is_in(&scene.daemon, "blind").await;
    sleep(FAST.threshold).await;
    assert!(scene.everybody_stands().await);
    proxy.set(Mode::Pass);
    let healed = Instant::now();

    let gone = scene.only_the_dead_go().await;
    assert!(gone - healed >= RECONNECT, "{:?}", gone - healed);
    assert_eq!(breaks(&scene.daemon, "out_of_sight").await, 1);
}

/// The reaper sleeps (a suspended machine), and the hubs with it. Whoever of the hubs is back first must not be too late.
#[tokio::test]
async fn g5_a_reaper_that_slept_starts_anew() {
    let scene = Scene::begin(FAST).await;
    scene.daemon.signal(Signal::STOP);
    scene.pinging.stop().await;
    sleep(FAST.threshold * 2).await;

    let _first = scene.hub.ping_every(FAST.heartbeat, &scene.living[..1]);
    scene.daemon.signal(Signal::CONT);
    sleep(FAST.heartbeat * 4).await;
    let _rest = scene.hub.ping_every(FAST.heartbeat, &scene.living[1..]);

    let scene = Scene { pinging: _first, ..scene };
    scene.only_the_dead_go().await;
    assert!(breaks(&scene.daemon, "own_gap").await + breaks(&scene.daemon, "out_of_sight").await >= 1);
}

/// A server that is demoted and promoted again keeps its connections and its run id. What hubs wrote meanwhile elsewhere
/// is lost, so it is a break; and by then nothing goes.
#[tokio::test]
async fn g5_a_failover_on_an_open_connection_is_a_break() {
    tokio::join!(demoted_for(Duration::ZERO), demoted_for(FAST.heartbeat * 4));
}

async fn demoted_for(pause: Duration) {
    let scene = Scene::begin(FAST).await;
    scene.pinging.silence(&scene.dying);
    let mut client = scene.server.client().await;
    sleep(FAST.threshold / 2).await;

    redis::cmd("REPLICAOF").arg("127.0.0.1").arg(1).exec_async(&mut client).await.unwrap();
    sleep(pause).await;
    redis::cmd("REPLICAOF").arg("NO").arg("ONE").exec_async(&mut client).await.unwrap();
    let promoted = Instant::now();

    let gone = scene.only_the_dead_go().await;
    assert!(gone - promoted >= RECONNECT, "{:?}", gone - promoted);
    assert_eq!(breaks(&scene.daemon, "failover").await, 1);
}

/// While Redis refuses heartbeats it must not accept evictions, and the end of it frees nobody for eviction.
#[tokio::test]
async fn g11_refused_writes_hold_evictions() {
    tokio::join!(refused("maxmemory", "1", "0"), refused("min-replicas-to-write", "1", "0"));
}

async fn refused(setting: &str, refusing: &str, accepting: &str) {
    let scene = Scene::begin(FAST).await;
    let mut client = scene.server.client().await;
    let mut set = async |value: &str| {
        redis::cmd("CONFIG").arg("SET").arg(setting).arg(value).exec_async(&mut client).await.unwrap();
    };
    scene.pinging.silence(&scene.dying);

    set(refusing).await;
    throughout(FAST.threshold * 2, async || scene.everybody_stands().await).await;
    assert_eq!(evictions(&scene.daemon).await, 0);
    set(accepting).await;

    scene.only_the_dead_go().await;
}
