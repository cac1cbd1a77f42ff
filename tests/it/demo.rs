//! The demonstration: it shows what it promises, ends by itself or when it is told to, and leaves nothing behind.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::harness::{Binary, Daemon, Metrics, eventually, get};

/// From the first line to the last it takes some ten seconds.
const LIMIT: Duration = Duration::from_secs(60);

/// A demonstration whose directories are ours to look at.
fn demo(more: &[&str]) -> (TempDir, Daemon) {
    let dir = TempDir::new().unwrap();
    let tmp = dir.path().to_str().unwrap().to_owned();
    let demo = Binary::new(["demo", "--clients", "60"]).args(more).env("TMPDIR", &tmp).spawn();
    (dir, demo)
}

/// Servers that were started in this directory.
fn servers_in(dir: &Path) -> Vec<String> {
    let dir = dir.to_str().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines
        .filter(|line| line.contains(dir) || line.contains("redis-server") && line.contains("presence-reaper-demo-"))
        .collect()
}

fn leaves_nothing(dir: &Path) -> bool {
    let ours = |line: &String| line.contains(dir.to_str().unwrap());
    std::fs::read_dir(dir).unwrap().next().is_none() && !servers_in(dir).iter().any(ours)
}

#[tokio::test]
async fn the_demo_evicts_the_dead_and_nobody_else() {
    let (dir, demo) = demo(&[]);

    let end = demo.wait(LIMIT).await;

    end.assert_code(0);
    assert!(end.stdout.contains("20 of 20 ghosts evicted with their records"), "{}", end.stdout);
    assert!(end.stdout.contains("\n0 live evicted.\n"), "{}", end.stdout);
    assert!(leaves_nothing(dir.path()), "{:?}", servers_in(dir.path()));
}

#[tokio::test]
async fn a_demo_that_is_interrupted_leaves_nothing() {
    for signal in [Signal::INT, Signal::TERM] {
        let (dir, demo) = demo(&[]);
        eventually(LIMIT, async || demo.stdout().contains("3 hubs, 60 clients")).await;

        demo.signal(signal);

        let end = demo.wait(Duration::from_secs(10)).await;
        end.assert_code(0);
        assert!(end.stdout.contains("the private server is gone"), "{}", end.stdout);
        assert!(leaves_nothing(dir.path()), "{:?}", servers_in(dir.path()));
    }
}

/// What stands in its output behind `before`, up to the end of the word.
fn word_behind(demo: &Daemon, before: &str) -> String {
    let told = demo.stdout();
    let (_, rest) = told.split_once(before).unwrap_or_else(|| panic!("{before}: {told}"));
    rest.split([' ', '\n', ';', '/']).next().unwrap().to_owned()
}

/// It goes on with all its faces until it is stopped. Where one is there already, another port will do.
#[tokio::test]
async fn a_demo_that_serves_can_be_looked_at_until_it_is_stopped() {
    let (one_dir, one) = demo(&["--serve"]);
    eventually(LIMIT, async || one.stdout().contains("its endpoints on http://")).await;
    let (other_dir, other) = demo(&["--serve"]);
    tokio::join!(look_and_stop(one_dir, one, Signal::INT), look_and_stop(other_dir, other, Signal::TERM));
}

async fn look_and_stop(dir: TempDir, demo: Daemon, signal: Signal) {
    eventually(LIMIT, async || demo.stdout().contains("hub-4 is killed without goodbye: 4 clients")).await;
    assert!(demo.stdout().contains("\n0 live evicted.\n"), "{}", demo.stdout());
    let address = word_behind(&demo, "\n  http://").parse().unwrap();
    let evictions = async || {
        let page = get(address, "/metrics").await.unwrap();
        Metrics(page.body).value("presence_reaper_evictions_total{source=\"demo\"}").unwrap()
    };
    eventually(LIMIT, async || evictions().await >= 24.0).await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(get(address, path).await.unwrap().status, 200, "{path}");
    }
    let client = redis::Client::open(format!("redis://{}/0", word_behind(&demo, "\n  redis://"))).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let there: u64 = redis::cmd("ZCARD").arg("presence:online").query_async(&mut connection).await.unwrap();
    assert!((40..=44).contains(&there), "{there} clients");

    demo.signal(signal);

    let end = demo.wait(Duration::from_secs(10)).await;
    end.assert_code(0);
    assert!(end.stdout.ends_with("Stopped; the private server is gone.\n"), "{}", end.stdout);
    assert!(leaves_nothing(dir.path()), "{:?}", servers_in(dir.path()));
    assert!(get(address, "/healthz").await.is_err());
}

/// Without a server there is nothing to show, and it says what to do.
#[tokio::test]
async fn a_demo_without_a_server_says_what_it_needs() {
    let run = Binary::new(["demo"]).env("PATH", "/nowhere").run().await;
    run.assert_code(1);
    assert!(run.stderr.contains("install redis-server, or name one with --redis-server"), "{}", run.stderr);

    let wrong = Binary::new(["demo", "--redis-server", "/bin/false"]).run().await;
    wrong.assert_code(1);
    assert!(wrong.stderr.contains("starting /bin/false"), "{}", wrong.stderr);
}
