//! What operators order from outside, and that it is obeyed.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokio::time::sleep;

use crate::harness::{Binary, Daemon, Finished, Hub, Kind, Layout, Pinging, Refresh, Server, eventually};
use crate::world::{
    Confined, FAST, Rhythm, SOON, STEADY, evictions, evicts, is_in, metric, reaper, reaper_with, settle, settled,
    throughout,
};

/// A hub with five that die when they are told to among twenty that live, and a daemon that may evict.
struct Scene {
    server: Server,
    hub: Hub,
    dying: Vec<String>,
    pinging: Pinging,
    daemon: Daemon,
}

impl Scene {
    async fn begin(server: Server, rhythm: Rhythm) -> Self {
        let hub = Hub::new(&server, Layout::Zset);
        let all = hub.live(25).await;
        let hub = hub.refresh(Refresh::OnlyExisting);
        let pinging = hub.ping_every(rhythm.heartbeat, &all);
        let daemon = settled(&server.url(), &hub, rhythm).await;
        Self { dying: all[..5].to_vec(), server, hub, pinging, daemon }
    }

    fn command(&self, words: &[&str]) -> Binary {
        reaper_with(words, &self.server.url(), &self.hub, FAST)
    }

    async fn order(&self, words: &[&str]) -> Finished {
        self.command(words).run().await
    }

    async fn status(&self) -> Value {
        self.order(&["status", "-o", "json"]).await.assert_code(0).json()["databases"][0].clone()
    }
}

for_each_server! {
    /// A brake on everything: nothing goes, and every place that tells of the state says who, why and what ends it.
    async fn g_hold_nothing_goes_until_it_is_let_go(server: Server) {
        let scene = Scene::begin(server, FAST).await;
        let held = scene.order(&["hold", "--for", "30m", "--reason", "deploy of the hubs"]).await;
        let stdout = &held.assert_code(0).stdout;
        assert!(stdout.starts_with("held until 2") && stdout.contains(": everything\n"), "{stdout}");
        assert!(stdout.contains("\nobeys: "), "{stdout}");
        is_in(&scene.daemon, "held").await;

        scene.pinging.silence(&scene.dying);
        throughout(FAST.threshold * 2, async || scene.hub.remaining().await.len() == 25).await;
        let page = scene.daemon.get("/status").await.unwrap().body;
        let hold = serde_json::from_str::<Value>(&page).unwrap()["sources"][0]["hold"].clone();
        assert_eq!(hold["reason"], "held");
        let detail = hold["detail"].as_str().unwrap();
        assert!(detail.starts_with("ordered by ") && detail.ends_with(": deploy of the hubs"), "{hold}");
        assert!(hold["ends_with"].as_str().unwrap().contains("presence-reaper resume") && hold["ends_at"].is_string());
        assert!(scene.daemon.stderr().contains("holding: "), "{}", scene.daemon.stderr());

        let held = async || scene.status().await["instances"][0]["sources"][0]["state"] == "held";
        eventually(SOON, held).await;
        let status = scene.status().await;
        assert_eq!(status["holds"][0]["source"], Value::Null);
        assert_eq!(status["holds"][0]["reason"], "deploy of the hubs");
        let text = scene.order(&["status"]).await.assert_code(0).stdout.clone();
        assert!(text.contains("held  everything in database 0: until ") && text.contains("cli: held, leads"), "{text}");

        let resumed = scene.order(&["resume"]).await;
        assert!(resumed.assert_code(0).stdout.starts_with("resumed: everything\nobeys: "), "{}", resumed.stdout);
        evicts(&scene.daemon, 5).await;
        assert_eq!(scene.hub.remaining().await.len(), 20);
        assert_eq!(scene.status().await["holds"], serde_json::json!([]));
    }

    /// A release lets so many go in spite of silence, and not one more.
    async fn a_release_is_good_for_so_many_and_no_more(server: Server) {
        let scene = Scene::begin(server, FAST).await;
        scene.pinging.stop().await;
        is_in(&scene.daemon, "silent").await;
        sleep(FAST.threshold).await;
        assert_eq!(evictions(&scene.daemon).await, 0);
        let released =
            reaper_with(&["release", "cli", "--max", "3", "--reason", "all went home"], &scene.server.url(), &scene.hub, FAST)
                .run()
                .await;
        let stdout = &released.assert_code(0).stdout;
        assert!(stdout.starts_with("released until 2") && stdout.contains("up to 3 entries of cli"), "{stdout}");
        evicts(&scene.daemon, 3).await;
        throughout(FAST.threshold, async || scene.hub.remaining().await.len() == 22).await;
        is_in(&scene.daemon, "silent").await;
        let status = reaper_with(&["status", "-o", "json"], &scene.server.url(), &scene.hub, FAST).run().await.json();
        assert_eq!(status["databases"][0]["releases"][0]["left"], 0);
        assert!(scene.daemon.stderr().contains("released by an operator"), "{}", scene.daemon.stderr());
    }
}

/// A brake outlives the reaper: one that starts evicts nothing before it has read what is ordered.
#[tokio::test]
async fn g_hold_a_brake_outlives_the_reaper() {
    let server = Server::start(Kind::Redis).await;
    let scene = Scene::begin(server, FAST).await;
    scene.order(&["hold"]).await.assert_code(0);
    scene.daemon.terminate();
    is_in_again(&scene).await;
}

async fn is_in_again(scene: &Scene) {
    let daemon = reaper(&scene.server.url(), &scene.hub, FAST).listening().spawn();
    is_in(&daemon, "held").await;
    scene.pinging.silence(&scene.dying);
    throughout(FAST.threshold * 3, async || scene.hub.remaining().await.len() == 25).await;
    scene.order(&["resume"]).await.assert_code(0);
    evicts(&daemon, 5).await;
}

/// A brake by hand has no end, and what stands where an order should and is none is a brake too.
#[tokio::test]
async fn g_hold_what_can_not_be_read_is_a_brake() {
    let server = Server::start(Kind::Redis).await;
    let scene = Scene::begin(server, FAST).await;
    let mut client = scene.server.client().await;
    let key = "presence-reaper:{0}:hold";
    redis::cmd("HSET").arg(key).arg("reason").arg("by\x1b[31mhand").exec_async(&mut client).await.unwrap();
    is_in(&scene.daemon, "held").await;
    let text = scene.order(&["status"]).await.assert_code(0).stdout.clone();
    assert!(text.contains("until it is taken back, by somebody: by[31mhand"), "{text:?}");
    scene.order(&["resume"]).await.assert_code(0);
    is_in(&scene.daemon, "normal").await;

    redis::cmd("SET").arg(key).arg("stop").exec_async(&mut client).await.unwrap();
    is_in(&scene.daemon, "blind").await;
    scene.pinging.silence(&scene.dying);
    throughout(FAST.threshold * 2, async || scene.hub.remaining().await.len() == 25).await;
    assert!(scene.daemon.stderr().contains("can't be read: nothing is evicted"), "{}", scene.daemon.stderr());
    scene.order(&["resume"]).await.assert_code(0);
    evicts(&scene.daemon, 5).await;
}

/// A failover may lose the order: who has heard of it keeps to it, until it is taken back or over.
#[tokio::test]
async fn g_hold_a_brake_that_redis_lost_stays() {
    let server = Server::start(Kind::Redis).await;
    let scene = Scene::begin(server, FAST).await;
    scene.order(&["hold", "--for", "1h"]).await.assert_code(0);
    let mut client = scene.server.client().await;
    let own: Vec<String> = redis::cmd("KEYS").arg("presence-reaper:*").query_async(&mut client).await.unwrap();
    redis::cmd("DEL").arg(own).exec_async(&mut client).await.unwrap();
    scene.pinging.silence(&scene.dying);
    throughout(FAST.threshold * 3, async || scene.hub.remaining().await.len() == 25).await;
    is_in(&scene.daemon, "held").await;
    scene.order(&["resume"]).await.assert_code(0);
    eventually(SOON, async || metric(&scene.daemon, "source_state", Some(("state", "held"))).await == Some(0.0)).await;
    assert!(scene.daemon.stderr().contains("redis lost what operators ordered"), "{}", scene.daemon.stderr());
}

/// Nobody has to come back for it.
#[tokio::test]
async fn a_brake_ends_by_itself() {
    let server = Server::start(Kind::Redis).await;
    let scene = Scene::begin(server, FAST).await;
    scene.order(&["hold", "--for", "4s"]).await.assert_code(0);
    is_in(&scene.daemon, "held").await;
    scene.pinging.silence(&scene.dying);
    evicts(&scene.daemon, 5).await;
    assert!(scene.daemon.stderr().contains("no longer holding"), "{}", scene.daemon.stderr());
}

/// One source is held, the other goes on.
#[tokio::test]
async fn a_brake_may_be_on_one_source_alone() {
    let server = Server::start(Kind::Redis).await;
    let [held, free] = ["held", "free"].map(|key| Hub::new(&server, Layout::Zset).key(key));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("reaper.toml");
    let source = |name: &str| {
        format!(
            "[[source]]\nname = \"{name}\"\nzset = \"{name}\"\nthreshold = \"2s\"\nheartbeat_interval = \"200ms\"\n"
        )
    };
    let text = format!("[redis]\nurl = \"{}\"\n{}{}", server.url(), source("held"), source("free"));
    std::fs::write(&path, text).unwrap();
    let with = |words: &[&str]| Binary::new(words.iter().copied()).args(["--config", path.to_str().unwrap()]);
    let (helds, frees) = (held.live(10).await, free.live(10).await);
    let (held_pings, free_pings) = (held.ping_every(FAST.heartbeat, &helds), free.ping_every(FAST.heartbeat, &frees));
    let daemon = with(&["run"]).listening().spawn();
    let is = async |source: &str, state: &str| {
        let series = format!("presence_reaper_source_state{{source=\"{source}\",state=\"{state}\"}}");
        daemon.metric(&series).await == Some(1.0)
    };
    eventually(SOON, async || is("held", "normal").await && is("free", "normal").await).await;

    with(&["hold", "held"]).run().await.assert_code(0);
    held_pings.silence(&helds[..3]);
    free_pings.silence(&frees[..3]);
    eventually(SOON, async || free.remaining().await.len() == 7).await;
    sleep(FAST.threshold).await;
    assert!(is("held", "held").await && is("free", "normal").await);
    assert_eq!(held.remaining().await.len(), 10);
    with(&["resume", "held"]).run().await.assert_code(0);
    eventually(SOON, async || held.remaining().await.len() == 7).await;
}

/// The brake works without Redis too: by a signal to the process.
#[tokio::test]
async fn g_hold_a_signal_holds_without_redis() {
    let server = Server::start(Kind::Redis).await;
    let scene = Scene::begin(server, FAST).await;
    scene.daemon.signal(Signal::USR1);
    is_in(&scene.daemon, "held").await;
    scene.pinging.silence(&scene.dying);
    throughout(FAST.threshold * 2, async || scene.hub.remaining().await.len() == 25).await;
    scene.order(&["resume"]).await.assert_code(0);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(evictions(&scene.daemon).await, 0, "that is another brake");
    scene.daemon.signal(Signal::USR2);
    evicts(&scene.daemon, 5).await;
    assert!(scene.daemon.stderr().contains("SIGUSR1"), "{}", scene.daemon.stderr());
}

/// A process that does not answer is named, and the exit code says that not everybody was seen.
#[tokio::test]
async fn who_does_not_answer_is_named() {
    let server = Server::start(Kind::Redis).await;
    let scene = Scene::begin(server, FAST).await;
    eventually(SOON, async || scene.status().await["instances"].as_array().is_some_and(|all| all.len() == 1)).await;
    scene.daemon.signal(Signal::STOP);
    let held = scene.order(&["hold"]).await;
    scene.daemon.signal(Signal::CONT);
    assert!(held.assert_code(12).stdout.contains("no answer within 3s: "), "{}", held.stdout);
    is_in(&scene.daemon, "held").await;
}

/// Without any reaper an order is kept for the one that comes.
#[tokio::test]
async fn without_a_reaper_an_order_waits() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Zset);
    let held = reaper_with(&["hold"], &server.url(), &hub, FAST).run().await;
    assert!(held.assert_code(0).stdout.contains("no reaper has been heard on this redis lately"), "{}", held.stdout);
    let status = reaper_with(&["status"], &server.url(), &hub, FAST).run().await;
    assert!(status.assert_code(0).stdout.contains("held  everything"), "{}", status.stdout);
}

/// No order lifts E4: after a restart of Redis a release frees nobody.
#[tokio::test]
async fn g5_no_release_shortens_a_grace() {
    let mut scene = Scene::begin(Server::start(Kind::Redis).await, FAST).await;
    redis::cmd("SAVE").exec_async(&mut scene.server.client().await).await.unwrap();
    scene.server.restart().await;
    eventually(SOON, async || {
        metric(&scene.daemon, "continuity_breaks_total", Some(("reason", "restart"))).await == Some(1.0)
    })
    .await;
    scene.pinging.stop().await;
    let release = ["release", "cli", "--max", "1000", "--reason", "impatience"];
    reaper_with(&release, &scene.server.url(), &scene.hub, FAST).run().await.assert_code(0);
    // The hubs have 15 minutes.
    throughout(FAST.threshold * 3, async || scene.hub.remaining().await.len() == 25).await;
}

/// A single run obeys as a daemon does, and says so by its exit code.
#[tokio::test]
async fn a_single_run_obeys() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Zset);
    let living = hub.live(10).await;
    hub.stale(3, Duration::from_secs(60)).await;
    let _pinging = hub.ping_every(FAST.heartbeat, &living);
    sleep(FAST.threshold).await;
    reaper_with(&["hold", "--reason", "look first"], &server.url(), &hub, FAST).run().await.assert_code(0);
    let once = reaper_with(&["--once"], &server.url(), &hub, FAST).run().await;
    assert!(once.assert_code(11).stdout.contains("look first"), "{}", once.stdout);
    assert_eq!(hub.remaining().await.len(), 13);
    reaper_with(&["resume"], &server.url(), &hub, FAST).run().await.assert_code(0);
    reaper_with(&["--once"], &server.url(), &hub, FAST).run().await.assert_code(0);
    assert_eq!(hub.remaining().await.len(), 10);
}

/// A shadow has nothing to obey, and writes nothing, not even that it is there.
#[tokio::test]
async fn p6_a_shadow_leaves_no_trace() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Zset);
    let living = hub.live(10).await;
    let _pinging = hub.ping_every(FAST.heartbeat, &living);
    let shadow = settle(reaper_with(&["run", "--dry-run"], &server.url(), &hub, FAST)).await;
    sleep(Duration::from_secs(1)).await;
    let own: Vec<String> =
        redis::cmd("KEYS").arg("presence-reaper:*").query_async(&mut server.client().await).await.unwrap();
    assert_eq!(own, Vec::<String>::new());
    reaper_with(&["hold"], &server.url(), &hub, FAST).run().await.assert_code(0);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(metric(&shadow, "source_state", Some(("state", "normal"))).await, Some(1.0));
}

/// What `check --acl` prints is enough for orders.
#[tokio::test]
async fn orders_need_no_more_rights() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Zset);
    let all = hub.live(10).await;
    let pinging = hub.ping_every(STEADY.heartbeat, &all);
    let flags = [vec!["--redis-url".to_owned(), server.url()], hub.source_flags()].concat();
    let user = Confined::make(&server, "reaper", &["--acl"], &flags).await;
    let daemon = settle(user.run(reaper(&server.url(), &hub, STEADY))).await;
    let run = async |words: &[&str]| user.run(reaper_with(words, &server.url(), &hub, STEADY)).run().await;
    run(&["hold"]).await.assert_code(0);
    is_in(&daemon, "held").await;
    run(&["resume"]).await.assert_code(0);
    run(&["status"]).await.assert_code(0);
    pinging.stop().await;
    is_in(&daemon, "silent").await;
    run(&["release", "cli", "--max", "2", "--reason", "try"]).await.assert_code(0);
    evicts(&daemon, 2).await;
    user.assert_nothing_was_refused(&server).await;
}

#[tokio::test]
async fn what_nobody_can_obey_is_refused() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Zset);
    for (words, sentence) in [
        (&["hold", "nobody"][..], "no source is called nobody; there are: cli"),
        (&["resume", "cli", "nobody"], "no source is called nobody; there are: cli"),
        (&["release", "nobody", "--max", "1", "--reason", "x"], "no source is called nobody; there are: cli"),
        (&["hold", "--for", "25h"], "at most 1d"),
        (&["hold", "--for", "0s"], "more than 0s"),
        (&["release", "cli", "--max", "1", "--reason", "x", "--for", "24h 1ms"], "at most 1d"),
        (&["release", "cli", "--max", "0", "--reason", "x"], "0 is not in 1.."),
        (&["release", "cli", "--reason", "x"], "--max <N>"),
        (&["release", "cli", "--max", "1"], "--reason <TEXT>"),
        (&["release", "--max", "1", "--reason", "x"], "<SOURCE>"),
        (&["hold", "-o", "json"], "'-o'"),
        (&["status", "-o", "ndjson"], "text or json"),
    ] {
        let run = reaper_with(words, &server.url(), &hub, FAST).run().await;
        assert!(run.assert_code(2).stderr.contains(sentence), "{words:?}: {}", run.stderr);
    }
    let own: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut server.client().await).await.unwrap();
    assert_eq!(own, Vec::<String>::new(), "and nothing is written");
}

/// A brake that can't be placed says how to hold all the same.
#[tokio::test]
async fn without_redis_a_signal_is_named() {
    let run = Binary::new(["hold", "--redis-url", "redis://127.0.0.1:1", "--zset", "presence"]).run().await;
    assert!(run.assert_code(1).stderr.contains("SIGUSR1"), "{}", run.stderr);
}
