//! `--once`: two looks, the same rule, and an exit code that says what held it.

use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::harness::{Binary, Daemon, Finished, Hub, Kind, Layout, Server, eventually};
use crate::world::{FAST, Rhythm, SOON, STEADY, assert_document, is_old_enough, only_source, reaper_with};

const HOUR: Duration = Duration::from_secs(3600);

/// No heartbeat of a real hub comes in the way of these.
const DEFAULTS: Rhythm = Rhythm { threshold: Duration::from_secs(300), heartbeat: Duration::from_secs(30) };

/// A countdown of three seconds: time to do something in it on a busy machine too.
const PATIENT: Rhythm = Rhythm { threshold: Duration::from_secs(5), heartbeat: Duration::from_secs(1) };

const ONCE: [&str; 3] = ["--once", "-o", "json"];

/// Five stale ones, and a server that has run for a threshold.
async fn five_stale(layout: Layout) -> (Server, Hub) {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, layout);
    hub.stale(5, HOUR).await;
    is_old_enough(&server, FAST).await;
    (server, hub)
}

#[track_caller]
fn assert_held(run: &Finished, state: &str, sentence: &str) {
    let document = run.assert_code(11).json();
    let source = only_source(&document);
    assert_eq!((&source["state"], &source["evicted"], &source["would_evict"]), (&state.into(), &0.into(), &5.into()));
    assert!(source["hold"]["detail"].as_str().unwrap().contains(sentence), "{source:#}");
}

/// Without memory of its own it asks for a server that has run for a threshold; every place says until when.
#[tokio::test]
async fn g5_a_young_server_holds_a_single_run() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Zset);
    hub.stale(5, HOUR).await;
    hub.live(5).await;

    let run = reaper_with(&ONCE, &server.url(), &hub, DEFAULTS).run().await;
    assert_held(
        &run,
        "grace",
        "after a start of redis less than a threshold ago, every entry has a full threshold of 5m",
    );
    assert!(run.json()["sources"][0]["hold"]["ends_at"].is_string(), "{}", run.stdout);

    let told = reaper_with(&["--once"], &server.url(), &hub, DEFAULTS).run().await;
    assert!(told.assert_code(11).stdout.contains("cli: evicted 0 of 5 stale entries"), "{}", told.stdout);
    assert!(told.stdout.contains("The source holds: grace: after a start of redis"), "{}", told.stdout);

    let audit = reaper_with(&["--dry-run"], &server.url(), &hub, DEFAULTS).run().await;
    let sentence = "A real run would evict none of 5 stale entries from cli now. The source holds: grace: ";
    assert!(audit.assert_code(0).stdout.contains(sentence), "{}", audit.stdout);
    assert_eq!(hub.remaining().await.len(), 10);
}

/// Nobody pings: held, at once. The operator may know better.
#[tokio::test]
async fn g6_a_silent_source_holds_a_single_run_until_released() {
    let (server, hub) = five_stale(Layout::Strings).await;

    let run = reaper_with(&ONCE, &server.url(), &hub, FAST).run().await;
    assert_held(&run, "silent", "nobody has pinged for 1h");
    let mass = reaper_with(&ONCE, &server.url(), &hub, FAST).args(["--release", "mass"]).run().await;
    assert_held(&mass, "silent", "nobody has pinged for 1h");
    assert_eq!(hub.remaining().await.len(), 5);

    let released = reaper_with(&ONCE, &server.url(), &hub, FAST).args(["--release", "silent"]).run().await;
    let document = released.assert_code(0).json();
    assert_eq!(only_source(&document)["evicted"], 5);
    assert_eq!(hub.remaining().await.len(), 0);
}

/// Most of the recently living are late at once.
#[tokio::test]
async fn g7_a_mass_holds_a_single_run_until_released() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Zset);
    is_old_enough(&server, STEADY).await;
    for (release, held) in [(&[][..], true), (&["--release", "mass"], false)] {
        hub.stale(5, HOUR).await;
        let live = hub.live(5).await;
        let _pinging = hub.ping_every(STEADY.heartbeat, &live);
        let late = hub.stale(30, STEADY.late() + STEADY.heartbeat).await;

        let run = reaper_with(&ONCE, &server.url(), &hub, STEADY).args(release).run().await;

        if held {
            assert_held(&run, "mass", "most of the recently living entries went late at once");
        } else {
            assert!(only_source(&run.assert_code(0).json())["evicted"].as_u64() >= Some(5), "{}", run.stdout);
        }
        let left = hub.remaining().await;
        assert!(late.iter().chain(&live).all(|id| left.contains(id)), "only what was stale at the first look");
        let mut client = server.client().await;
        redis::cmd("DEL").arg("presence:online").exec_async(&mut client).await.unwrap();
    }
}

/// A run that counts down to its second look.
async fn waiting(binary: Binary) -> Daemon {
    let run = binary.spawn();
    eventually(SOON, async || run.stderr().contains("stale; looking again in ")).await;
    run
}

/// Whoever pings during the countdown is not evicted. They go on: one who fell silent again would be due a threshold
/// later, and the run may still be there to see it.
#[tokio::test]
async fn p1_who_pings_in_the_countdown_stays() {
    let (server, hub) = five_stale(Layout::Json).await;
    // So many that two who come back do not look like pings at long intervals.
    let _pinging = hub.ping_every(PATIENT.heartbeat / 2, &hub.live(20).await);
    is_old_enough(&server, PATIENT).await;
    let run = waiting(reaper_with(&ONCE, &server.url(), &hub, PATIENT)).await;

    let _back = hub.ping_every(PATIENT.heartbeat / 2, &["s-0".to_owned(), "s-3".to_owned()]);

    let run = run.wait(SOON).await;
    let document = run.assert_code(0).json();
    let source = only_source(&document);
    assert_eq!((&source["entries"]["stale"], &source["evicted"]), (&5.into(), &3.into()));
    let left = hub.remaining().await;
    assert!(left.contains("s-0") && left.contains("s-3") && left.len() == 22, "{left:?}");
}

/// Who interrupts gets the report of what was seen, and the code of a run that is not complete.
#[tokio::test]
async fn an_interrupted_run_reports_and_says_so() {
    let (server, hub) = five_stale(Layout::Hashes).await;
    hub.live(3).await;
    is_old_enough(&server, PATIENT).await;
    for signal in [Signal::INT, Signal::TERM] {
        let run = waiting(reaper_with(&ONCE, &server.url(), &hub, PATIENT).args(["--release", "silent"])).await;

        run.signal(signal);

        let run = run.wait(SOON).await;
        let document = run.assert_code(12).json();
        let source = only_source(&document);
        assert_eq!((&document["complete"], &source["entries"]["stale"]), (&false.into(), &5.into()));
        assert_eq!(source["evicted"], 0);
    }
    assert_eq!(hub.remaining().await.len(), 8);
}

/// Nor does it have to wait for Redis.
#[tokio::test]
async fn a_run_without_redis_can_be_interrupted() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Zset);
    server.stop();
    let run = reaper_with(&ONCE, &server.url(), &hub, FAST).spawn();
    sleep(Duration::from_millis(200)).await;
    run.signal(Signal::INT);

    let run = run.wait(Duration::from_secs(3)).await;
    assert_document(&run.assert_code(12).json());
}

/// A file with these sources.
fn file(sources: &str) -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("reaper.toml");
    std::fs::write(&path, sources).unwrap();
    (dir, path)
}

async fn once_with(path: &PathBuf, server: &Server, more: &[&str]) -> Finished {
    Binary::new(["--once", "--config"]).args([path]).args(["--redis-url", &server.url()]).args(more).run().await
}

fn numbers<'a>(document: &'a Value, key: &str) -> Vec<&'a Value> {
    document["sources"].as_array().unwrap().iter().map(|source| &source[key]).collect()
}

/// All sources wait together, each is judged by itself, and one of them may be only looked at.
#[tokio::test]
async fn a_run_takes_all_sources_and_leaves_the_shadows() {
    let (server, conns) = five_stale(Layout::Hashes).await;
    let [online, shadow] = ["online", "shadow"].map(|key| Hub::new(&server, Layout::Zset).key(key));
    for hub in [&online, &shadow] {
        hub.stale(7, HOUR).await;
    }
    let _pinging = [&conns, &online].map(|hub| hub.ping_every(FAST.heartbeat, &["alive".to_owned()]));
    let timing = "threshold = \"2s\"\nheartbeat_interval = \"200ms\"";
    let (_dir, path) = file(&format!(
        "[[source]]\nname = \"conns\"\nkeys = \"conn:{{id}}\"\nlast_ping = \"field last_ping\"\n{timing}\n\
         [[source]]\nname = \"online\"\nzset = \"online\"\n{timing}\n\
         [[source]]\nname = \"shadow\"\nzset = \"shadow\"\ndry_run = true\n{timing}\n"
    ));

    let run = once_with(&path, &server, &["-o", "json", "--release", "silent"]).await;

    let document = run.assert_code(0).json();
    assert_document(&document);
    assert_eq!(numbers(&document, "name"), ["conns", "online", "shadow"]);
    assert_eq!(numbers(&document, "evicted"), [5, 7, 0]);
    assert_eq!(numbers(&document, "would_evict"), [5, 7, 7]);
    let left = [&conns, &online, &shadow].map(async |hub| hub.remaining().await.len());
    let [conns, online, shadow] = left;
    assert_eq!((conns.await, online.await, shadow.await), (1, 1, 7));

    let told = once_with(&path, &server, &[]).await;
    let sentence = "A real run would evict none of 7 stale entries from shadow now.";
    assert!(told.assert_code(0).stdout.contains(sentence), "{}", told.stdout);
}

/// One source that can't be read does not keep the other from being dealt with.
#[tokio::test]
async fn a_source_that_cannot_be_read_makes_a_run_incomplete() {
    let (server, conns) = five_stale(Layout::Strings).await;
    let _pinging = conns.ping_every(FAST.heartbeat, &["alive".to_owned()]);
    let timing = "threshold = \"2s\"\nheartbeat_interval = \"200ms\"";
    let (_dir, path) = file(&format!(
        "[[source]]\nname = \"wrong\"\nzset = \"presence:alive\"\n{timing}\n\
         [[source]]\nname = \"right\"\nkeys = \"presence:{{id}}\"\n{timing}\n"
    ));

    let run = once_with(&path, &server, &["-o", "json"]).await;

    let document = run.assert_code(12).json();
    assert_document(&document);
    assert_eq!(numbers(&document, "evicted"), [0, 5]);
    assert_eq!(numbers(&document, "state"), ["blind", "normal"]);
    let error = document["sources"][0]["error"].as_str().unwrap();
    assert!(error.contains("WRONGTYPE") && error.contains("see the kind of container"), "{error}");
    assert!(run.stderr.contains("error: surveying source wrong: redis at 127.0.0.1:"), "{}", run.stderr);
}

/// More stale entries than one survey can keep for the strike: they go in rounds, and all of them go.
#[tokio::test]
async fn what_one_survey_cannot_keep_goes_in_another_round() {
    // Time for a busy machine to read them all before what it saw is too old.
    let rhythm = Rhythm { threshold: Duration::from_secs(30), heartbeat: Duration::from_secs(3) };
    let server = Server::start(Kind::Redis).await;
    let fill = "local at = redis.call('TIME')[1] * 1000 - 3600000 \
                for i = 1, 200300 do redis.call('ZADD', 'crowd', at + i, 'dead-' .. i) end";
    let mut client = server.client().await;
    redis::cmd("EVAL").arg(fill).arg(0).exec_async(&mut client).await.unwrap();
    is_old_enough(&server, rhythm).await;

    let words = ["--once", "--release", "silent", "-o", "json", "--zset", "crowd", "--redis-url", &server.url()];
    // Nor does a busy machine's slow Redis make it pause.
    let binary = Binary::new(words)
        .args(rhythm.flags())
        .env("PRESENCE_REAPER_GUARD__MAX_EVICT_RATE", "unlimited")
        .env("PRESENCE_REAPER_GUARD__PAUSE_BATCH_LATENCY", "never");
    let document = binary.spawn().wait(Duration::from_secs(180)).await.assert_code(0).json();
    assert_eq!(only_source(&document)["evicted"], 200_300);
    assert!(!redis::cmd("EXISTS").arg("crowd").query_async::<bool>(&mut client).await.unwrap());
}

/// A run that takes longer than two heartbeats sees that those it evicted are back, and stops.
#[tokio::test]
async fn g12_a_long_run_stops_when_the_evicted_come_back() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Zset);
    let ids = hub.live(60).await;
    let _pinging = hub.ping_every(STEADY.heartbeat, &ids);
    let stale = hub.stale(60, HOUR).await;
    is_old_enough(&server, STEADY).await;
    let come_back = async {
        loop {
            sleep(Duration::from_millis(50)).await;
            let left = hub.remaining().await;
            let gone: Vec<String> = stale.iter().filter(|id| !left.contains(*id)).cloned().collect();
            hub.ping(&gone).await.unwrap();
        }
    };

    let slowly = reaper_with(&ONCE, &server.url(), &hub, STEADY).env("PRESENCE_REAPER_GUARD__MAX_EVICT_RATE", "5");
    let run = tokio::select! {
        run = slowly.run() => run,
        () = come_back => unreachable!(),
    };

    let document = run.assert_code(11).json();
    let source = only_source(&document);
    let count = |name: &str| source[name].as_u64().unwrap();
    assert!(source["state"] == "suspended" && count("evicted") < 60, "{source:#}");
    assert!((5..=count("evicted")).contains(&count("resurrected")), "{source:#}");
}
