//! Surveys are rare; a few entries, re-read every heartbeat, tell whether pings still flow.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::harness::{Direction, Hub, Kind, Layout, Mode, Proxy, Server, eventually};
use crate::world::{
    Rhythm, SOON, STEADY, breaks, evictions, evicts, in_each_layout, metric, reaper, settle, settled, throughout,
};

/// Everybody falls silent after the last survey and before a ghost is due: by the survey alone it would go.
#[tokio::test]
async fn p3_a_ghost_stays_when_the_others_fell_silent_since_the_survey() {
    let server = Server::start(Kind::Redis).await;
    in_each_layout(async |layout| {
        let hub = Hub::new(&server, layout).key(&format!("{layout:?}:"));
        let ids = hub.live(9).await;
        let pinging = hub.ping_every(STEADY.heartbeat, &ids);
        let daemon = settled(&server.url(), &hub, STEADY).await;
        // Each at another phase of its surveys: one that comes in the right moment would see the silence by itself.
        sleep(STEADY.heartbeat * layout as u32).await;

        pinging.silence(&ids[..1]);
        // The ghost is due when the others have been silent for four heartbeats.
        sleep(STEADY.threshold - STEADY.heartbeat * 5).await;
        pinging.stop().await;

        throughout(STEADY.threshold, async || hub.remaining().await.len() == 9).await;
        assert_eq!(evictions(&daemon).await, 0, "{layout:?}: {}", daemon.stderr());
    })
    .await;
}

/// Two surveys a threshold, and yet everybody is struck on time.
#[tokio::test]
async fn surveys_are_rare_and_strikes_on_time() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Hashes);
    let ids = hub.live(40).await;
    let pinging = hub.ping_every(STEADY.heartbeat / 2, &ids);
    let daemon = settled(&server.url(), &hub, STEADY).await;
    let sweeps = async || metric(&daemon, "sweeps_total", None).await.unwrap();

    let (began, before) = (Instant::now(), sweeps().await);
    pinging.silence(&ids[..3]);
    let gone = evicts(&daemon, 3).await;
    sleep(STEADY.threshold).await;

    let heartbeats = began.elapsed().as_secs_f64() / STEADY.heartbeat.as_secs_f64();
    let surveys = sweeps().await - before;
    assert!(surveys >= 2.0 && surveys < heartbeats / 2.0, "{surveys} in {heartbeats} heartbeats");
    assert!(gone - began < STEADY.threshold + Duration::from_secs(3), "{:?}", gone - began);
}

/// One reply in five heartbeats is lost for good. Each costs the connection, none is a break, and the dead go.
#[tokio::test]
async fn p7_a_flaky_link_does_not_stop_eviction() {
    let rhythm = Rhythm { threshold: Duration::from_secs(8), heartbeat: Duration::from_secs(1) };
    let server = Server::start(Kind::Redis).await;
    let proxy = Proxy::start(server.port()).await;
    let hub = Hub::new(&server, Layout::Zset);
    let ids = hub.live(12).await;
    let pinging = hub.ping_every(rhythm.heartbeat, &ids);
    let binary = reaper(&proxy.url(), &hub, rhythm).env("PRESENCE_REAPER_REDIS__RESPONSE_TIMEOUT", "200ms");
    let daemon = settle(binary).await;
    let timeouts = async || {
        let mut count = 0.0;
        for command in ["info", "read", "scan", "state", "lease", "order"] {
            let of = format!("{{command=\"{command}\",reason=\"timeout\"}}");
            count += daemon.metric(&format!("presence_reaper_redis_command_failures_total{of}")).await.unwrap();
        }
        count
    };

    pinging.silence(&ids[..2]);
    let began = Instant::now();
    while evictions(&daemon).await < 2 && began.elapsed() < SOON {
        let before = timeouts().await;
        proxy.set(Mode::Stall(Direction::Replies));
        eventually(SOON, async || timeouts().await > before).await;
        proxy.set(Mode::Pass);
        sleep(rhythm.heartbeat * 5).await;
    }

    assert_eq!((evictions(&daemon).await, breaks(&daemon, "out_of_sight").await), (2, 0), "{}", daemon.stderr());
    assert!(timeouts().await >= 2.0);
    hub.verdict(rhythm.threshold).await.assert_none_lost();
}
