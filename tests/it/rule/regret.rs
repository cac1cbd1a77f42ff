//! Who was evicted is looked at once more: if they are back, we were wrong, and stop.

use std::time::Duration;

use tokio::time::sleep;

use crate::harness::{Hub, Kind, Layout, Pinging, Server, eventually};
use crate::world::{SOON, STEADY, breaks, evictions, evicts, is_in, metric, settled, throughout, trips};

/// Clients that ping by two hubs, of which the first is to be cut off.
pub(super) struct TwoHubs {
    pub(super) server: Server,
    pub(super) hub: Hub,
    pub(super) cut: Vec<String>,
    pub(super) others: Vec<String>,
    pub(super) cut_off: Pinging,
    pub(super) pinging: Pinging,
}

impl TwoHubs {
    pub(super) async fn begin(layout: Layout, cut: usize, others: usize) -> Self {
        let server = Server::start(Kind::Redis).await;
        let hub = Hub::new(&server, layout);
        let (cut, others) = (hub.live(cut).await, hub.live(others).await);
        let cut_off = hub.ping_every(STEADY.heartbeat, &cut);
        let pinging = hub.ping_every(STEADY.heartbeat, &others);
        Self { server, hub, cut, others, cut_off, pinging }
    }
}

/// One hub of three was cut off for longer than the threshold, and its clients ping again. No more goes.
#[tokio::test]
async fn g12_evicted_clients_that_return_suspend_the_source() {
    let TwoHubs { server, hub, cut, others, cut_off, pinging } = TwoHubs::begin(Layout::Zset, 25, 50).await;
    let daemon = settled(&server.url(), &hub, STEADY).await;

    cut_off.stop().await;
    evicts(&daemon, 25).await;
    let _back = hub.ping_every(STEADY.heartbeat, &cut);

    is_in(&daemon, "suspended").await;
    assert_eq!((trips(&daemon, "suspended").await, breaks(&daemon, "silence_ended").await), (1, 0));
    let resurrections = metric(&daemon, "resurrections_total", None).await.unwrap();
    assert!((20.0..=25.0).contains(&resurrections), "{resurrections}");
    let status: serde_json::Value = serde_json::from_str(&daemon.get("/status").await.unwrap().body).unwrap();
    assert_eq!(status["sources"][0]["resurrected"].as_f64(), Some(resurrections), "{status:#}");
    let ends = metric(&daemon, "hold_ends_timestamp_seconds", None).await.unwrap();
    let now = metric(&daemon, "last_sweep_timestamp_seconds", None).await.unwrap();
    assert!((1_700.0..1_900.0).contains(&(ends - now)), "{}", ends - now);
    pinging.silence(&others[..3]);
    throughout(STEADY.threshold * 2, async || hub.remaining().await.len() == 75).await;
    assert_eq!(evictions(&daemon).await, 25);
    let log = daemon.stderr();
    let line = log.lines().find(|line| line.contains("holding: ") && line.contains("were back")).expect(&log);
    assert!(line.contains("WARN") && line.contains("suspended"), "{line}");
}

/// Clients that come back later, with new records, are new sessions: nothing to regret.
#[tokio::test]
async fn g12_clients_that_return_later_are_new_sessions() {
    let TwoHubs { server, hub, cut: leaving, cut_off: gone, pinging: _pinging, .. } =
        TwoHubs::begin(Layout::Strings, 25, 50).await;
    let daemon = settled(&server.url(), &hub, STEADY).await;
    gone.stop().await;
    evicts(&daemon, 25).await;
    sleep(STEADY.heartbeat * 5).await;

    let _back = hub.ping_every(STEADY.heartbeat, &leaving);

    throughout(STEADY.threshold, async || trips(&daemon, "suspended").await == 0).await;
    assert_eq!(metric(&daemon, "resurrections_total", None).await, Some(0.0));
    is_in(&daemon, "normal").await;
}

/// When a mass is over, five go first; if one of them comes back, the others have another two thresholds.
#[tokio::test]
async fn g7_after_a_mass_a_few_go_first_and_who_comes_back_stops_the_rest() {
    let TwoHubs { server, hub, cut, cut_off, pinging: _pinging, .. } = TwoHubs::begin(Layout::Hashes, 40, 20).await;
    let daemon = settled(&server.url(), &hub, STEADY).await;
    cut_off.stop().await;
    is_in(&daemon, "mass").await;

    eventually(SOON, async || evictions(&daemon).await == 5).await;
    let left = hub.remaining().await;
    let evicted: Vec<String> = cut.iter().filter(|id| !left.contains(*id)).cloned().collect();
    let _back = hub.ping_every(STEADY.heartbeat, &evicted);

    eventually(SOON, async || trips(&daemon, "mass").await == 2).await;
    throughout(STEADY.threshold + Duration::from_secs(1), async || hub.remaining().await.len() == 60).await;
    assert_eq!(evictions(&daemon).await, 5);
    assert!(daemon.stderr().contains("holding: a first slice of those that went late at once is evicted"));
}
