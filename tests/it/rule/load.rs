//! Redis has a hard time, and evicting waits; and what a witness says of a silence.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use serde_json::Value;
use tokio::time::{interval, sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::harness::{Daemon, Hub, Kind, Layout, Server, eventually};
use crate::world::{
    FAST, SOON, STEADY, evictions, evicts, is_in, is_old_enough, metric, reaper, reaper_with, settle, throughout,
};

async fn set(client: &mut MultiplexedConnection, setting: &str, value: &str) {
    redis::cmd("CONFIG").arg("SET").arg(setting).arg(value).exec_async(client).await.unwrap();
}

async fn throttled(daemon: &Daemon, reason: &str) -> Option<f64> {
    metric(daemon, "throttled_seconds_total", Some(("reason", reason))).await
}

/// Why evicting pauses, as `/status` says.
async fn pause(daemon: &Daemon) -> Value {
    let status: Value = serde_json::from_str(&daemon.get("/status").await.unwrap().body).unwrap();
    status["sources"][0]["pause"].clone()
}

/// Memory that is nearly full: the dead wait, the source is not held, and it goes on by itself.
#[tokio::test]
async fn load_evicting_pauses_while_memory_is_nearly_full() {
    let server = Server::start(Kind::Redis).await;
    let mut client = server.client().await;
    let hub = Hub::new(&server, Layout::Zset);
    let ids = hub.live(20).await;
    let pinging = hub.ping_every(STEADY.heartbeat, &ids);
    let binary = reaper(&server.url(), &hub, STEADY).env("PRESENCE_REAPER_GUARD__PAUSE_MEMORY_PERCENT", "1");
    let daemon = settle(binary).await;

    set(&mut client, "maxmemory", "50mb").await;
    pinging.silence(&ids[..3]);

    eventually(SOON, async || daemon.stderr().contains("evicting pauses: redis uses ")).await;
    throughout(STEADY.threshold * 2, async || hub.remaining().await.len() == 20).await;
    is_in(&daemon, "normal").await;
    assert_eq!(pause(&daemon).await["reason"], "memory");
    assert!(daemon.stderr().contains("surveyed") && daemon.stderr().contains("paused"), "{}", daemon.stderr());
    set(&mut client, "maxmemory", "0").await;
    evicts(&daemon, 3).await;
    assert!(pause(&daemon).await.is_null());
    assert!(throttled(&daemon, "memory").await > Some(1.0));
    assert_eq!(throttled(&daemon, "replica_lag").await, Some(0.0));
    assert!(daemon.stderr().contains("evicting goes on"));
}

/// A single run does not wait for ever: after a threshold it says what kept the rest, by its exit code too.
#[tokio::test]
async fn load_a_single_run_gives_up_a_pause_after_a_threshold() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Zset);
    let _pinging = hub.ping_every(FAST.heartbeat, &hub.live(20).await);
    hub.stale(3, Duration::from_secs(3600)).await;
    is_old_enough(&server, FAST).await;
    set(&mut server.client().await, "maxmemory", "50mb").await;
    let once =
        || reaper_with(&["--once"], &server.url(), &hub, FAST).env("PRESENCE_REAPER_GUARD__PAUSE_MEMORY_PERCENT", "1");

    let run = once().run().await;
    let said = "The rest did not go: evicting paused, redis uses ";
    assert!(run.assert_code(11).stdout.contains(said), "{}", run.stdout);
    assert_eq!(hub.remaining().await.len(), 23);

    set(&mut server.client().await, "maxmemory", "0").await;
    once().run().await.assert_code(0);
    assert_eq!(hub.remaining().await.len(), 20);
}

/// A replica that hangs: what is evicted now would reach it late, or never.
#[tokio::test]
async fn load_evicting_pauses_while_a_replica_lags() {
    let [server, replica] = [Server::start(Kind::Redis).await, Server::start(Kind::Redis).await];
    let mut client = replica.client().await;
    redis::cmd("REPLICAOF").arg("127.0.0.1").arg(server.port()).exec_async(&mut client).await.unwrap();
    let hub = Hub::new(&server, Layout::Strings);
    let ids = hub.live(20).await;
    let pinging = hub.ping_every(STEADY.heartbeat, &ids);
    let binary = reaper(&server.url(), &hub, STEADY).env("PRESENCE_REAPER_GUARD__PAUSE_REPLICA_LAG", "3s");
    let daemon = settle(binary).await;

    pinging.silence(&ids[..3]);
    replica.stop();

    eventually(SOON, async || daemon.stderr().contains("evicting pauses: 1 of 1 replicas are far behind")).await;
    throughout(STEADY.threshold, async || hub.remaining().await.len() == 20).await;
    replica.cont();
    evicts(&daemon, 3).await;
    assert!(throttled(&daemon, "replica_lag").await > Some(0.0));
}

const WITNESS: &str = "hubs:witness";

/// Sets the witness to the server's time at every heartbeat.
fn witness(server: &Server) -> AbortOnDropHandle<()> {
    let url = server.url();
    AbortOnDropHandle::new(tokio::spawn(async move {
        let client = redis::Client::open(url).unwrap();
        let mut client = client.get_multiplexed_async_connection().await.unwrap();
        let mut ticks = interval(FAST.heartbeat);
        loop {
            ticks.tick().await;
            let script = "redis.call('SET', KEYS[1], redis.call('TIME')[1])";
            redis::cmd("EVAL").arg(script).arg(1).arg(WITNESS).exec_async(&mut client).await.unwrap();
        }
    }))
}

/// Nine clients of one hub; all go home. With seconds in the witness it may look a second old, so a heartbeat is longer.
async fn nine_go_home(server: &Server, release: &str) -> (Hub, Daemon) {
    let hub = Hub::new(server, Layout::Zset);
    let ids = hub.live(9).await;
    let pinging = hub.ping_every(STEADY.heartbeat, &ids);
    let binary = reaper(&server.url(), &hub, STEADY)
        .env("PRESENCE_REAPER_GUARD__WRITER_WITNESS", WITNESS)
        .env("PRESENCE_REAPER_GUARD__SILENCE_RELEASE", release);
    let daemon = settle(binary).await;
    pinging.stop().await;
    is_in(&daemon, "silent").await;
    (hub, daemon)
}

/// Hubs that can write and do not are hubs without clients: no need to wait a quarter of an hour.
#[tokio::test]
async fn p3_a_witness_that_is_fresh_releases_a_silence_after_a_threshold() {
    let server = Server::start(Kind::Redis).await;
    let _witness = witness(&server);
    let (hub, daemon) = nine_go_home(&server, "1h").await;

    evicts(&daemon, 9).await;
    hub.verdict(STEADY.threshold).await.assert_none_lost();
}

/// Hubs that can't write have clients of whom nobody hears: however long it takes.
#[tokio::test]
async fn p3_a_witness_that_is_not_fresh_holds_a_silence() {
    let server = Server::start(Kind::Redis).await;
    let (hub, daemon) = nine_go_home(&server, "1s").await;

    throughout(STEADY.threshold * 3, async || hub.remaining().await.len() == 9).await;
    assert_eq!(evictions(&daemon).await, 0);
    assert_eq!(metric(&daemon, "hold_ends_timestamp_seconds", None).await, Some(0.0));
    assert!(daemon.stderr().contains("writer_witness fresh for a threshold"), "{}", daemon.stderr());
    let _witness = witness(&server);
    sleep(Duration::from_millis(1)).await;
    evicts(&daemon, 9).await;
}
