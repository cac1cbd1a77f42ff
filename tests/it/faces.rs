//! The daemon as its supervisors meet it: signals, probes and metrics, with and without Redis.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::harness::{Binary, Daemon, Hub, Kind, Layout, Mode, Proxy, Reply, Server, eventually, free_port};
use crate::world::{FAST, SOON, STEADY, a_script_waits, is_in, reaper, settled};

/// A daemon that is told to stop has nothing to wait for but a reply or a dial.
const QUICK: Duration = Duration::from_secs(5);

async fn answers(daemon: &Daemon, path: &str) -> Reply {
    let mut reply = None;
    eventually(SOON, async || {
        reply = daemon.get(path).await;
        reply.is_some()
    })
    .await;
    reply.expect("an answer")
}

fn on_nothing(url: &str) -> Binary {
    Binary::new(["--zset", "presence:online", "--redis-url", url]).args(FAST.flags())
}

/// Starting does not depend on Redis. It is well, and not ready, and says why; it is ready once Redis is there.
#[tokio::test]
async fn it_starts_without_redis_and_is_ready_when_it_comes() {
    let mut server = Server::start(Kind::Redis).await;
    server.kill();
    let daemon = on_nothing(&server.url()).listening().spawn();

    assert_eq!(answers(&daemon, "/healthz").await.status, 200);
    let ready = answers(&daemon, "/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(
        ready.body.contains(&format!("no usable connection to redis at 127.0.0.1:{}", server.port())),
        "{}",
        ready.body
    );
    eventually(SOON, async || daemon.metric("presence_reaper_redis_up").await == Some(0.0)).await;

    server.restart().await;
    eventually(SOON, async || daemon.get("/readyz").await.is_some_and(|ready| ready.status == 200)).await;
    assert_eq!(daemon.metric("presence_reaper_redis_up").await, Some(1.0));
}

/// Redis stops: a restart of ours would not help, so it stays well; and it goes on by itself.
#[tokio::test]
async fn it_is_well_while_redis_is_stopped() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Zset);
    hub.live(3).await;
    let daemon = settled_silent(&server, &hub).await;

    server.stop();
    is_in(&daemon, "blind").await;
    assert_eq!(answers(&daemon, "/healthz").await.status, 200);
    assert_eq!(answers(&daemon, "/readyz").await.status, 503);
    let failures = "presence_reaper_sweep_failures_total{reason=\"timeout\",source=\"cli\"}";
    assert!(daemon.metric(failures).await >= Some(1.0));

    server.cont();
    eventually(SOON, async || daemon.get("/readyz").await.is_some_and(|ready| ready.status == 200)).await;
    let warned = daemon.stderr().lines().filter(|line| line.contains("tried again until it works")).count();
    assert_eq!(warned, 1, "one line an outage: {}", daemon.stderr());
}

async fn settled_silent(server: &Server, hub: &Hub) -> Daemon {
    let daemon = reaper(&server.url(), hub, FAST).listening().spawn();
    is_in(&daemon, "silent").await;
    daemon
}

/// A hold is ready: taking us out of service would help nobody.
#[tokio::test]
async fn a_hold_is_ready() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Strings);
    hub.stale(3, SOON).await;
    let daemon = settled_silent(&server, &hub).await;
    assert_eq!(answers(&daemon, "/readyz").await.status, 200);
    assert_eq!(answers(&daemon, "/healthz").await.status, 200);
}

/// SIGTERM and SIGINT end it with 0, whatever it does at that moment.
#[tokio::test]
async fn a_signal_ends_it_quickly_whatever_it_does() {
    tokio::join!(ends_by(Signal::TERM), ends_by(Signal::INT));
}

async fn ends_by(signal: Signal) {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Hashes);
    hub.live(3).await;
    let stopped = Server::start(Kind::Redis).await;
    let proxy = Proxy::start(server.port()).await;
    let nobody = format!("redis://127.0.0.1:{}", free_port());
    let resting = settled_silent(&server, &hub).await;
    let refused = started(on_nothing(&nobody)).await;
    let surveying = started(reaper(&proxy.url(), &hub, FAST)).await;
    is_in(&surveying, "silent").await;
    proxy.set(Mode::BlackHole);
    stopped.stop();
    let dialling = started(on_nothing(&stopped.url())).await;
    sleep(FAST.heartbeat).await;
    for (what, daemon) in [("resting", resting), ("refused", refused), ("surveying", surveying), ("dialling", dialling)]
    {
        let told = Instant::now();
        daemon.signal(signal);
        let end = daemon.wait(SOON).await;
        end.assert_code(0);
        assert!(told.elapsed() < QUICK, "{what}: {:?}", told.elapsed());
        assert!(end.stderr.contains("stopped") && end.stdout.is_empty(), "{what}: {}", end.stderr);
    }
}

async fn started(binary: Binary) -> Daemon {
    let daemon = binary.listening().spawn();
    answers(&daemon, "/healthz").await;
    daemon
}

/// A signal in the middle of a long survey does not wait for its end.
#[tokio::test]
async fn a_signal_breaks_a_survey_off() {
    let server = Server::start(Kind::Redis).await;
    redis::cmd("DEBUG")
        .arg("POPULATE")
        .arg(50_000)
        .arg("presence")
        .exec_async(&mut server.client().await)
        .await
        .unwrap();
    let proxy = Proxy::start(server.port()).await;
    proxy.set(Mode::Delay(Duration::from_millis(100)));
    let binary = Binary::new(["--keys", "presence:{id}", "--redis-url", &proxy.url()]);
    let daemon = started(binary).await;
    let running = "presence_reaper_sweep_in_progress{source=\"cli\"}";
    eventually(SOON, async || daemon.metric(running).await == Some(1.0)).await;

    let told = Instant::now();
    daemon.terminate();

    daemon.wait(SOON).await.assert_code(0);
    assert!(told.elapsed() < QUICK, "{:?}", told.elapsed());
}

/// The second signal is from somebody who does not want to wait. What it would wait for: a strike without a reply.
#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Zset);
    let ids = hub.live(60).await;
    let pinging = hub.ping_every(STEADY.heartbeat, &ids);
    let patient = ("PRESENCE_REAPER_REDIS__RESPONSE_TIMEOUT", "30s");
    let binary = reaper(&server.url(), &hub, STEADY).env(patient.0, patient.1).env("PRESENCE_REAPER_LEASE__TTL", "10m");
    let daemon = binary.listening().spawn();
    is_in(&daemon, "normal").await;
    let mut client = server.client().await;
    let mut waits = false;
    for dying in ids.iter().take(8) {
        pinging.silence(std::slice::from_ref(dying));
        sleep(STEADY.threshold - STEADY.heartbeat).await;
        redis::cmd("CLIENT").arg("PAUSE").arg(30_000).arg("WRITE").exec_async(&mut client).await.unwrap();
        waits = a_script_waits(&mut client, STEADY.heartbeat * 2).await;
        if waits {
            break;
        }
        redis::cmd("CLIENT").arg("UNPAUSE").exec_async(&mut client).await.unwrap();
        sleep(STEADY.heartbeat * 7 / 5).await;
    }
    assert!(waits, "no strike was sent\n{}", daemon.stderr());

    daemon.terminate();
    sleep(Duration::from_millis(500)).await;
    assert_eq!(daemon.stderr().matches("stopped").count(), 0, "it waits for the reply of what it sent");
    let told = Instant::now();
    daemon.terminate();

    daemon.wait(SOON).await.assert_code(1);
    assert!(told.elapsed() < QUICK, "{:?}", told.elapsed());
}

/// What is listened on already is a mistake that a supervisor should see.
#[tokio::test]
async fn an_address_in_use_fails_with_a_clear_sentence() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();

    let run = on_nothing("redis://127.0.0.1:1").args(["--listen", &address]).run().await;

    run.assert_code(1);
    let sentence = format!("error: can't listen on {address}: Address already in use");
    assert!(run.stderr.contains(&sentence), "{}", run.stderr);
    assert!(run.stderr.contains("--listen") && run.stdout.is_empty(), "{}", run.stderr);
}

/// Every series is there from the first scrape on, at zero or at what is true before the first survey; promtool, where
/// it is, finds no fault; and the names stay the same when there is something to count.
#[tokio::test]
async fn every_series_is_there_from_the_start() {
    let mut server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Json);
    server.kill();
    let daemon = reaper(&server.url(), &hub, FAST).listening().spawn();
    let page = answers(&daemon, "/metrics").await;
    assert_eq!(page.status, 200);
    let before = series(&page.body);
    for name in [
        "presence_reaper_evictions_total{source=\"cli\"}",
        "presence_reaper_evictions_skipped_total{reason=\"spared\",source=\"cli\"}",
        "presence_reaper_continuity_breaks_total{reason=\"first_contact\",source=\"cli\"}",
        "presence_reaper_guard_trips_total{reason=\"mass\",source=\"cli\"}",
        "presence_reaper_entries{source=\"cli\",state=\"stale\"}",
        "presence_reaper_eviction_lag_seconds_count{source=\"cli\"}",
    ] {
        assert_eq!(daemon.metric(name).await, Some(0.0), "{name}\n{}", page.body);
    }
    check_by_promtool(&page.body).await;

    server.restart().await;
    hub.stale(2, SOON).await;
    let live = hub.live(4).await;
    let _pinging = hub.ping_every(FAST.heartbeat, &live);
    eventually(SOON, async || daemon.metric("presence_reaper_evictions_total{source=\"cli\"}").await == Some(2.0))
        .await;

    let page = answers(&daemon, "/metrics").await.body;
    // Who answers is known only now.
    let who = |series: &&String| !series.starts_with("presence_reaper_redis_info");
    let (before, after) = (before.iter().filter(who), series(&page));
    let after: BTreeSet<&String> = after.iter().filter(who).collect();
    assert_eq!(before.collect::<BTreeSet<_>>(), after);
    check_by_promtool(&page).await;
}

fn series(page: &str) -> BTreeSet<String> {
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    samples.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
}

pub(crate) async fn check_by_promtool(page: &str) {
    let promtool =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut promtool) = promtool else { return };
    promtool.stdin.take().unwrap().write_all(page.as_bytes()).await.unwrap();
    let checked = promtool.wait_with_output().await.unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

/// The log as JSON: every line an object, ids and all.
#[tokio::test]
async fn the_log_can_be_json() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Zset);
    let live = hub.live(3).await;
    redis::cmd("ZADD")
        .arg("presence:online")
        .arg(1_700_000_000)
        .arg("a\n\x1b[31m\"b")
        .exec_async(&mut server.client().await)
        .await
        .unwrap();
    let _pinging = hub.ping_every(FAST.heartbeat, &live);
    let daemon = reaper(&server.url(), &hub, FAST).args(["--log-format", "json"]).listening().spawn();
    eventually(SOON, async || daemon.metric("presence_reaper_evictions_total{source=\"cli\"}").await == Some(1.0))
        .await;
    daemon.terminate();

    let log = daemon.wait(SOON).await.stderr;
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let evicted: Vec<_> = lines.iter().filter(|line| line["message"] == "evicted").collect();
    assert_eq!(evicted.len(), 1, "{log}");
    assert_eq!((&evicted[0]["source"], &evicted[0]["key"]), (&"cli".into(), &"presence:online".into()));
    assert_eq!(evicted[0]["id"], r#""a\n\x1b[31m\"b""#);
}

/// The shadow shows what it is.
#[tokio::test]
async fn the_mode_is_told() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Zset);
    let live = hub.live(3).await;
    let _pinging = hub.ping_every(FAST.heartbeat, &live);
    let daemon = settled(&server.url(), &hub, FAST).await;
    let info = |mode: &str| format!("presence_reaper_source_info{{layout=\"zset\",mode=\"{mode}\",source=\"cli\"}}");
    assert_eq!(daemon.metric(&info("evict")).await, Some(1.0));
    assert_eq!(daemon.metric(&info("dry_run")).await, None);
}
