//! Several hubs, told apart: one that is gone is cleaned up, one that comes back loses nobody.

use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::harness::{Binary, Daemon, Hub, Kind, Layout, Refresh, Server};
use crate::world::{STEADY, evictions, evicts, is_in, metric, settle, throughout, trips};

/// Two hubs whose names stand in the keys of their entries, and a daemon that knows that.
struct Scene {
    server: Server,
    a: Hub,
    b: Hub,
    _dir: TempDir,
    file: PathBuf,
}

impl Scene {
    async fn begin() -> Self {
        let server = Server::start(Kind::Redis).await;
        let [a, b] = ["a", "b"].map(|hub| {
            let hub = Hub::new(&server, Layout::Hashes).key(&format!("conn:{hub}:"));
            hub.refresh(Refresh::OnlyExisting)
        });
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("reaper.toml");
        let [threshold, heartbeat] = [STEADY.threshold, STEADY.heartbeat].map(|time| time.as_millis());
        let text = format!(
            "[[source]]\nname = \"cli\"\nkeys = \"conn:{{hub}}:{{id}}\"\nlast_ping = \"field last_ping\"\n\
             group = \"{{hub}}\"\nthreshold = \"{threshold}ms\"\nheartbeat_interval = \"{heartbeat}ms\"\n"
        );
        std::fs::write(&file, text).unwrap();
        Self { server, a, b, _dir: dir, file }
    }

    async fn live(&self, a: usize, b: usize) -> [Vec<String>; 2] {
        let upsert = |hub: &Hub| hub.clone().refresh(Refresh::Upsert);
        [upsert(&self.a).live(a).await, upsert(&self.b).live(b).await]
    }

    fn binary(&self) -> Binary {
        Binary::new(["--redis-url", &self.server.url()]).args(["--config".as_ref(), self.file.as_os_str()])
    }

    async fn count(&self) -> usize {
        self.a.remaining().await.len() + self.b.remaining().await.len()
    }
}

async fn groups(daemon: &Daemon) -> (Option<f64>, Option<f64>) {
    (metric(daemon, "groups", None).await, metric(daemon, "groups_silent", None).await)
}

/// A hub that was cut off for nearly a threshold comes back, one client after the other: from its first ping on they
/// all have a threshold.
#[tokio::test]
async fn e6_a_hub_that_comes_back_one_by_one_loses_nobody() {
    let scene = Scene::begin().await;
    let [a, b] = scene.live(20, 30).await;
    let cut_off = scene.a.ping_every(STEADY.heartbeat, &a);
    let _b = scene.b.ping_every(STEADY.heartbeat, &b);
    let daemon = settle(scene.binary()).await;
    cut_off.stop().await;
    sleep(STEADY.threshold * 7 / 10).await;
    assert_eq!(groups(&daemon).await, (Some(2.0), Some(1.0)));

    let _first = scene.a.ping_every(STEADY.heartbeat, &a[..1]);
    sleep(STEADY.threshold * 7 / 10).await;
    let _rest = scene.a.ping_every(STEADY.heartbeat, &a[1..]);

    throughout(STEADY.threshold, async || scene.count().await == 50).await;
    assert_eq!((evictions(&daemon).await, groups(&daemon).await), (0, (Some(2.0), Some(0.0))));
    let log = daemon.stderr();
    assert!(log.contains("nobody of this group pings") && log.contains("this group pings again"), "{log}");
}

/// A hub that is gone is the most ordinary event a reaper is for, even where others lose a few clients with it: without
/// labels that were a mass.
#[tokio::test]
async fn e6_a_hub_that_is_gone_is_no_mass() {
    let scene = Scene::begin().await;
    let [a, b] = scene.live(20, 30).await;
    let gone = scene.a.ping_every(STEADY.heartbeat, &a);
    let pinging = scene.b.ping_every(STEADY.heartbeat, &b);
    let daemon = settle(scene.binary()).await;

    pinging.silence(&b[..10]);
    gone.stop().await;
    let stopped = Instant::now();

    let cleaned = evicts(&daemon, 30).await;
    assert!(cleaned - stopped < STEADY.threshold * 2, "{:?}", cleaned - stopped);
    assert_eq!((trips(&daemon, "mass").await, scene.count().await), (0, 20));
}

/// Who wants it waits longer for a silent hub, and no longer for a client of one that pings.
#[tokio::test]
async fn e6_a_silent_hub_waits_the_extra_and_others_do_not() {
    let extra = STEADY.threshold;
    let scene = Scene::begin().await;
    let [a, b] = scene.live(12, 20).await;
    let gone = scene.a.ping_every(STEADY.heartbeat, &a);
    let pinging = scene.b.ping_every(STEADY.heartbeat, &b);
    let seconds = format!("{}s", extra.as_secs());
    let daemon = settle(scene.binary().env("PRESENCE_REAPER_GUARD__GROUP_EXTRA", &seconds)).await;

    pinging.silence(&b[..2]);
    gone.stop().await;
    let stopped = Instant::now();

    let ghosts = evicts(&daemon, 2).await;
    assert!(ghosts - stopped < STEADY.threshold + extra / 2, "{:?}", ghosts - stopped);
    assert_eq!(scene.a.remaining().await.len(), 12);
    is_in(&daemon, "normal").await;
    let all = evicts(&daemon, 14).await;
    assert!(all - stopped >= STEADY.threshold + extra - Duration::from_secs(1), "{:?}", all - stopped);
}
