//! A `heartbeat_interval` that is set too short: the living look dead, and are held.

use std::time::Duration;

use tokio::time::sleep;

use crate::harness::{Daemon, Hub, Kind, Layout, Pinging, Refresh, Server, eventually};
use crate::world::{
    FAST, Rhythm, SOON, evictions, is_in, is_old_enough, metric, only_source, reaper, reaper_with, throughout, trips,
};

/// Ten times what the configuration says: as if the operator had taken milliseconds for something else.
const REAL: Duration = FAST.threshold;

/// Clients that ping every `interval`, a few at a time, so that somebody always does; they write only what is there, so
/// that one that is evicted stays away.
async fn staggered(hub: &Hub, interval: Duration, steps: u32, at_once: usize) -> Vec<Pinging> {
    let mut pinging = Vec::new();
    for _ in 0..steps {
        let ids = hub.live(at_once).await;
        pinging.push(hub.clone().refresh(Refresh::OnlyExisting).ping_every(interval, &ids));
        sleep(interval / steps).await;
    }
    pinging
}

async fn holds_as_interval(daemon: &Daemon, hub: &Hub, rhythm: Rhythm) {
    is_in(daemon, "interval").await;
    throughout(rhythm.threshold * 2, async || hub.remaining().await.len() == 45).await;
    assert!(trips(daemon, "interval").await >= 1);
    assert_eq!(evictions(daemon).await, 0);
    assert_eq!(metric(daemon, "hold_ends_timestamp_seconds", None).await, Some(0.0), "it does not end by itself");
}

/// How many milliseconds apart pings are, and the least threshold in milliseconds, as the warning says.
fn advice(text: &str) -> (u64, u64) {
    let said = text.split_once("entries ping every ").unwrap_or_else(|| panic!("{text}")).1;
    let (interval, rest) = said.split_once(" ms, threshold is 2s; set at least ").unwrap_or_else(|| panic!("{said}"));
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
    let least = match rest[..end].strip_suffix("ms") {
        Some(millis) => millis.parse::<u64>().unwrap(),
        None => rest[..end].strip_suffix('s').unwrap().parse::<u64>().unwrap() * 1_000,
    };
    (interval.parse().unwrap(), least)
}

for_each_server! {
    /// Set ten times too short: within the first grace it is found out, nothing goes, and the warning says what to set.
    async fn interval_set_ten_times_too_short_holds_the_source(server: Server) {
        for layout in [Layout::Zset, Layout::Hashes] {
            let hub = Hub::new(&server, layout).key(&format!("{layout:?}:"));
            let _pinging = staggered(&hub, REAL, 15, 3).await;

            let daemon = reaper(&server.url(), &hub, FAST).listening().spawn();

            holds_as_interval(&daemon, &hub, FAST).await;
            let log = daemon.stderr();
            let line = log.lines().find(|line| line.contains("holding: entries ping every")).expect(&log);
            let (interval, least) = advice(line);
            assert!((1_900..3_000).contains(&interval), "{line}");
            assert!(least >= interval * 5 && least < interval * 5 + 1_000, "{line}");
            assert!(line.contains("WARN") && line.contains("a longer threshold (reload)"), "{line}");
        }
    }
}

/// Pings that come as they should end it.
#[tokio::test]
async fn interval_ends_when_pings_come_faster() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Zset);
    let pinging = staggered(&hub, REAL, 15, 3).await;
    let daemon = reaper(&server.url(), &hub, FAST).listening().spawn();
    is_in(&daemon, "interval").await;

    let ids: Vec<String> = hub.remaining().await.into_iter().collect();
    let _faster = hub.ping_every(FAST.heartbeat, &ids);
    drop(pinging);

    is_in(&daemon, "normal").await;
    assert_eq!(evictions(&daemon).await, 0);
}

/// All clients of a slow hub ping in the same moment: between two such moments it looks silent, again and again, and the
/// warning names the likely cause.
#[tokio::test]
async fn interval_that_looks_silent_again_and_again_is_named_as_the_cause() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Strings);
    let ids = hub.live(12).await;
    let _pinging = hub.clone().refresh(Refresh::OnlyExisting).ping_every(REAL, &ids);

    let daemon = reaper(&server.url(), &hub, FAST).listening().spawn();

    let named = async || daemon.stderr().contains("that looks like a wrong interval: ");
    eventually(SOON, named).await;
    assert_eq!((evictions(&daemon).await, hub.remaining().await.len()), (0, 12));
}

/// A single run finds it out too, if somebody pings between its two looks.
#[tokio::test]
async fn interval_is_seen_by_the_two_looks_of_a_single_run() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Hashes);
    // Few enough that those that are late make no mass, which would hold them before the second look.
    let _pinging = staggered(&hub, FAST.threshold * 2, 21, 1).await;
    is_old_enough(&server, FAST).await;

    let run = reaper_with(&["--once", "-o", "json"], &server.url(), &hub, FAST).run().await;

    let document = run.assert_code(11).json();
    let source = only_source(&document);
    assert_eq!((&source["state"], &source["evicted"]), (&"interval".into(), &0.into()), "{source:#}");
    assert!(source["hold"]["detail"].as_str().unwrap().contains("set at least"), "{source:#}");
    assert_eq!(hub.remaining().await.len(), 21);
}
