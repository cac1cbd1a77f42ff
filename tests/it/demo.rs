//! The demonstration: it shows what it promises, ends by itself, and leaves nothing behind.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::harness::{Binary, Daemon, eventually};

/// From the first line to the last it takes some ten seconds.
const LIMIT: Duration = Duration::from_secs(60);

/// A demonstration whose directories are ours to look at.
fn demo() -> (TempDir, Daemon) {
    let dir = TempDir::new().unwrap();
    let tmp = dir.path().to_str().unwrap().to_owned();
    let demo = Binary::new(["demo", "--clients", "60"]).env("TMPDIR", &tmp).spawn();
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
    let (dir, demo) = demo();

    let end = demo.wait(LIMIT).await;

    end.assert_code(0);
    assert!(end.stdout.contains("20 of 20 ghosts evicted with their records"), "{}", end.stdout);
    assert!(end.stdout.contains("\n0 live evicted.\n"), "{}", end.stdout);
    assert!(leaves_nothing(dir.path()), "{:?}", servers_in(dir.path()));
}

#[tokio::test]
async fn a_demo_that_is_interrupted_leaves_nothing() {
    for signal in [Signal::INT, Signal::TERM] {
        let (dir, demo) = demo();
        eventually(LIMIT, async || demo.stdout().contains("3 hubs, 60 clients")).await;

        demo.signal(signal);

        let end = demo.wait(Duration::from_secs(10)).await;
        end.assert_code(0);
        assert!(end.stdout.contains("the private server is gone"), "{}", end.stdout);
        assert!(leaves_nothing(dir.path()), "{:?}", servers_in(dir.path()));
    }
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
