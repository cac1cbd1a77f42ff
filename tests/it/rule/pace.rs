//! How many, how fast (E8), as Redis saw it.

use std::time::Duration;

use redis::AsyncTypedCommands;
use redis::aio::MultiplexedConnection;

use crate::harness::{Hub, Kind, Layout, Server};
use crate::world::{Rhythm, STURDY, reaper};

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: i64 = 1_000;

/// A heartbeat that is a second, so that its share can be seen beside the rate.
const SLOW: Rhythm = Rhythm { threshold: Duration::from_secs(5), heartbeat: Duration::from_secs(1) };

/// Lets a daemon loose on `stale` entries and ten live ones until `until` have gone; what was left when, by the server's
/// clock.
async fn decline(rhythm: Rhythm, stale: usize, until: usize, rate: &str) -> Vec<(i64, usize)> {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Zset);
    hub.stale(stale, HOUR).await;
    let live = hub.live(10).await;
    let _pinging = hub.ping_every(rhythm.heartbeat / 2, &live);
    let binary = reaper(&server.url(), &hub, rhythm).env("PRESENCE_REAPER_GUARD__MAX_EVICT_RATE", rate);
    let _daemon = binary.listening().spawn();
    let mut client = server.client().await;
    let mut samples = Vec::new();
    // The grace at first contact, and ten times what the rate or the share need.
    let limit = rhythm.threshold + Duration::from_secs(60);
    let sampling = async {
        loop {
            let sample = count(&mut client).await;
            samples.push(sample);
            if sample.1 <= stale + live.len() - until {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(limit, sampling).await.expect("the stale go");
    samples
}

/// Server time and members, read at one moment.
async fn count(client: &mut MultiplexedConnection) -> (i64, usize) {
    let mut both = redis::pipe();
    both.atomic().cmd("TIME").cmd("ZCARD").arg("presence:online");
    let ((seconds, micros), count): ((i64, i64), usize) = both.query_async(client).await.unwrap();
    client.ping().await.unwrap();
    (seconds * SECOND + micros / 1_000, count)
}

/// The most that went between two samples at most `span` apart.
fn most_within(samples: &[(i64, usize)], span: i64) -> usize {
    let from = |(began, before): (i64, usize)| {
        let within = samples.iter().filter(move |(at, _)| *at >= began && *at - began <= span);
        before - within.map(|(_, left)| *left).min().unwrap_or(before)
    };
    samples.iter().map(|sample| from(*sample)).max().unwrap_or(0)
}

#[tokio::test]
async fn g8_no_second_sees_more_than_five_hundred() {
    let samples = decline(STURDY, 10_000, 1_400, "500").await;
    let most = most_within(&samples, SECOND);
    assert!((400..=500).contains(&most), "{most}");
}

#[tokio::test]
async fn g8_no_heartbeat_sees_more_than_its_share() {
    let (small, large) = tokio::join!(decline(SLOW, 170, 170, "500"), decline(SLOW, 3_990, 2_000, "100000"));
    let most = most_within(&small, SECOND);
    assert!((45..=50).contains(&most), "of a small source fifty: {most}");
    let most = most_within(&large, SECOND);
    assert!((600..=800).contains(&most), "of a large one a fifth: {most}");
}
