//! When nobody pings, or most go missing at once.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::harness::{Daemon, Hub, Kind, Layout, Pinging, Server};
use crate::world::{
    CROWDED, FAST, Rhythm, SOON, TIGHT, breaks, evictions, evicts, is_in, metric, reaper, settle, settled, throughout,
    trips,
};

/// A hub whose clients ping in groups, and the daemon that may evict.
struct Scene {
    server: Server,
    hub: Hub,
    groups: Vec<(Vec<String>, Pinging)>,
    daemon: Daemon,
}

impl Scene {
    async fn begin(rhythm: Rhythm, groups: &[usize], environment: &[(&str, &str)]) -> Self {
        let server = Server::start(Kind::Redis).await;
        let hub = Hub::new(&server, Layout::Zset);
        let mut pinging = Vec::new();
        for count in groups {
            let ids = hub.live(*count).await;
            pinging.push((ids.clone(), hub.ping_every(rhythm.heartbeat, &ids)));
        }
        let binary = reaper(&server.url(), &hub, rhythm);
        let binary = environment.iter().fold(binary, |binary, (name, value)| binary.env(name, value));
        let daemon = settle(binary).await;
        Self { server, hub, groups: pinging, daemon }
    }

    /// So many hubs die without goodbye; their clients.
    async fn stop(&mut self, hubs: usize) -> Vec<String> {
        let mut dead = Vec::new();
        for (ids, pinging) in self.groups.drain(..hubs) {
            pinging.stop().await;
            dead.extend(ids);
        }
        dead
    }

    async fn population(&self) -> usize {
        self.hub.remaining().await.len()
    }
}

/// All writers stop: nothing goes, the state says so, and a line of the log says what will end it.
async fn all_writers_stop(rhythm: Rhythm) {
    let mut scene = Scene::begin(rhythm, &[30], &[]).await;

    scene.stop(1).await;

    is_in(&scene.daemon, "silent").await;
    throughout(rhythm.threshold * 2, async || scene.population().await == 30).await;
    is_in(&scene.daemon, "silent").await;
    assert_eq!((evictions(&scene.daemon).await, trips(&scene.daemon, "silent").await), (0, 1));
    assert_eq!(metric(&scene.daemon, "evictions_skipped_total", Some(("reason", "guard"))).await, Some(30.0));
    let log = scene.daemon.stderr();
    let line =
        log.lines().find(|line| line.contains("holding: nobody has pinged for")).unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains("WARN") && line.contains("the next ping, else released by time (within"), "{line}");
}

#[tokio::test]
async fn p3_when_all_writers_stop_nobody_goes() {
    all_writers_stop(FAST).await;
}

#[tokio::test]
async fn p3_when_all_writers_stop_nobody_goes_even_at_five_heartbeats() {
    all_writers_stop(TIGHT).await;
}

/// The first ping after an outage must not free everybody else for eviction.
#[tokio::test]
async fn p3_writers_that_return_one_by_one_lose_nobody() {
    let mut scene = Scene::begin(FAST, &[30], &[]).await;
    let ids = scene.stop(1).await;
    is_in(&scene.daemon, "silent").await;
    // All went late at once, so mass holds them too, until two thresholds after they turned stale.
    sleep(FAST.threshold * 3).await;

    let (first, rest) = ids.split_at(1);
    let _first = scene.hub.ping_every(FAST.heartbeat, first);
    // Long enough to be seen twice where they stand, and shorter than the grace.
    sleep(FAST.threshold / 2).await;
    let (rest, dead) = rest.split_at(24);
    let _rest = scene.hub.ping_every(FAST.heartbeat, rest);

    assert_eq!(breaks(&scene.daemon, "silence_ended").await, 1);
    evicts(&scene.daemon, dead.len() as u64).await;
    scene.hub.verdict(FAST.threshold).await.assert_none_lost();
    assert_eq!(scene.population().await, 25, "and those that did not return are gone");
}

/// A silence is believed after a while, but never before two thresholds. (Nine are no mass, which would hold them too.)
#[tokio::test]
async fn p3_a_silence_is_released_after_two_thresholds_at_the_earliest() {
    let mut scene = Scene::begin(FAST, &[9], &[("PRESENCE_REAPER_GUARD__SILENCE_RELEASE", "1s")]).await;

    scene.stop(1).await;
    let stopped = Instant::now();

    let gone = evicts(&scene.daemon, 9).await;
    assert!(gone - stopped >= FAST.threshold * 2, "after {:?}", gone - stopped);
    assert!(scene.daemon.stderr().contains("no longer holding"), "{}", scene.daemon.stderr());
}

/// `never` means never.
#[tokio::test]
async fn p3_a_silence_can_be_held_for_ever() {
    let mut scene = Scene::begin(FAST, &[3], &[("PRESENCE_REAPER_GUARD__SILENCE_RELEASE", "never")]).await;

    scene.stop(1).await;

    is_in(&scene.daemon, "silent").await;
    throughout(FAST.threshold * 2, async || scene.population().await == 3).await;
    assert_eq!(metric(&scene.daemon, "hold_ends_timestamp_seconds", None).await, Some(0.0));
}

/// How long the silence lasts at most, as the metric tells.
async fn release_in(daemon: &Daemon) -> Duration {
    is_in(daemon, "silent").await;
    let ends = metric(daemon, "hold_ends_timestamp_seconds", None).await.unwrap();
    let now = metric(daemon, "last_sweep_timestamp_seconds", None).await.unwrap();
    Duration::from_secs_f64(ends - now)
}

const MINUTE: Duration = Duration::from_secs(60);

/// Fewer than ten went home: a quarter of an hour is enough. Thirty at once are an outage: an hour.
#[tokio::test]
async fn p3_a_small_source_is_released_earlier() {
    tokio::join!(is_released_in(9, MINUTE * 15), is_released_in(30, MINUTE * 60));
}

async fn is_released_in(count: usize, release: Duration) {
    let mut scene = Scene::begin(FAST, &[count], &[]).await;
    scene.stop(1).await;
    let within = release_in(&scene.daemon).await;
    assert!(within > release - MINUTE && within <= release, "{count}: {within:?}");
}

/// A silence that had begun before we came, or while Redis was away, finds nobody live. That makes no small source.
#[tokio::test]
async fn p3_a_silence_found_late_is_not_taken_for_a_small_source() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Strings);
    hub.stale(30, FAST.threshold * 3).await;

    let daemon = reaper(&server.url(), &hub, FAST).listening().spawn();

    let within = release_in(&daemon).await;
    assert!(within > MINUTE * 50, "{within:?}");
}

/// An outage that is longer than a threshold leaves nobody live when it ends; those that were before it count.
#[tokio::test]
async fn p3_a_silence_after_an_outage_is_not_taken_for_a_small_source() {
    let mut scene = Scene::begin(FAST, &[30], &[("PRESENCE_REAPER_GUARD__RECONNECT_GRACE", "1s")]).await;
    scene.stop(1).await;
    scene.server.stop();
    sleep(FAST.threshold + FAST.heartbeat * 2).await;

    scene.server.cont();

    let within = release_in(&scene.daemon).await;
    assert!(within > MINUTE * 50, "{within:?}");
}

// === mass ===

/// Two hubs of three die at once: that looks like a network. Held, latched beyond the moment they turn stale, then
/// cleaned.
#[tokio::test]
async fn g7_two_hubs_of_three_are_held_and_later_cleaned() {
    let mut scene = Scene::begin(FAST, &[20, 20, 20], &[]).await;

    scene.stop(2).await;
    let stopped = Instant::now();

    is_in(&scene.daemon, "mass").await;
    let gone = evicts(&scene.daemon, 40).await;
    assert!(gone - stopped >= FAST.threshold * 2 + FAST.heartbeat, "latched: {:?}", gone - stopped);
    scene.hub.verdict(FAST.threshold).await.assert_none_lost();
    assert_eq!((scene.population().await, trips(&scene.daemon, "mass").await), (20, 1));
    let log = scene.daemon.stderr();
    assert!(log.contains("holding: most of the recently living entries went late at once"), "{log}");
}

/// Those cut off return within the hold: nobody was lost.
#[tokio::test]
async fn g7_two_hubs_of_three_that_return_have_lost_nobody() {
    let mut scene = Scene::begin(FAST, &[20, 20, 20], &[]).await;
    let ids = scene.stop(2).await;
    is_in(&scene.daemon, "mass").await;

    sleep(FAST.threshold + FAST.threshold / 2).await;
    let _back = scene.hub.ping_every(FAST.heartbeat, &ids);

    throughout(FAST.threshold, async || scene.population().await == 60).await;
    assert_eq!(evictions(&scene.daemon).await, 0);
}

/// A crash of one hub is the most ordinary event a reaper is for.
#[tokio::test]
async fn g7_one_hub_of_three_goes_at_once() {
    let mut scene = Scene::begin(FAST, &[20, 20, 20], &[]).await;

    scene.stop(1).await;
    let stopped = Instant::now();

    let gone = evicts(&scene.daemon, 20).await;
    assert!(gone - stopped < FAST.threshold + SOON / 4, "{:?}", gone - stopped);
    assert_eq!((trips(&scene.daemon, "mass").await, trips(&scene.daemon, "silent").await), (0, 0));
    scene.hub.verdict(FAST.threshold).await.assert_none_lost();
}

/// The same with a thousand clients a hub: the dead are gone within the threshold and two sweeps, with a busy machine's
/// time on top, and nobody else. Scaled down 30 times but for the rate, which is unlimited here: 500 a second would be
/// 15,000 at the real pace of time.
#[tokio::test]
async fn g17_a_crashed_hub_of_a_thousand_is_gone_after_two_sweeps() {
    let unlimited = [("PRESENCE_REAPER_GUARD__MAX_EVICT_RATE", "unlimited")];
    let mut scene = Scene::begin(CROWDED, &[1000, 1000, 1000], &unlimited).await;

    let dead = scene.stop(1).await;
    let stopped = Instant::now();

    let took = evicts(&scene.daemon, 1000).await - stopped;
    println!("1,000 of 3,000 clients gone {took:?} after their hub crashed; the threshold is {:?}", CROWDED.threshold);
    assert!(took < CROWDED.threshold + CROWDED.heartbeat * 2 + SOON / 4, "{took:?}");
    let remaining = scene.hub.remaining().await;
    assert_eq!((remaining.len(), dead.iter().any(|id| remaining.contains(id))), (2000, false));
    scene.hub.verdict(CROWDED.threshold).await.assert_none_lost();
}

/// Below ten there is no mass: an office that lost its power.
#[tokio::test]
async fn g7_six_clients_of_nine_are_no_mass() {
    let mut scene = Scene::begin(FAST, &[6, 3], &[]).await;

    scene.stop(1).await;

    evicts(&scene.daemon, 6).await;
    assert_eq!(trips(&scene.daemon, "mass").await, 0);
    assert_eq!(scene.population().await, 3);
}

/// Old ghosts are neither silence nor mass: a first install cleans up although nearly everything is stale.
#[tokio::test]
async fn g17_years_of_ghosts_go_at_the_first_install() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Hashes);
    hub.stale(90, Duration::from_secs(365 * 24 * 3600)).await;
    let live = hub.live(10).await;
    let _pinging = hub.ping_every(FAST.heartbeat, &live);

    let daemon = settled(&server.url(), &hub, FAST).await;

    evicts(&daemon, 90).await;
    hub.verdict(FAST.threshold).await.assert_none_lost();
}
