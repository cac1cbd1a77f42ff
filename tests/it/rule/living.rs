//! Who pings stays, who does not goes, and an entry goes whole or not at all.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::harness::{AfterLoss, Binary, Hub, Kind, Layout, Mode, Proxy, Server, eventually};
use crate::world::{
    FAST, SOON, STEADY, STURDY, a_script_waits, breaks, evictions, evicts, in_each_layout, is_in, is_old_enough,
    metric, only_source, reaper, reaper_with, settle, settled, throughout,
};

const HOUR: Duration = Duration::from_secs(3600);

for_each_server! {
    /// The re-read has seen the old ping and the script is on its way when the client pings: the ping wins.
    async fn p1_a_ping_between_look_and_strike_wins(server: Server) {
        let hub = Hub::new(&server, Layout::Zset);
        // Few of them come back so late that their interval would look too long.
        let ids = hub.live(60).await;
        let pinging = hub.ping_every(STEADY.heartbeat, &ids);
        // Its own writes would wait in front of the script, and block what it reads: none but for its surveys.
        let daemon = settle(reaper(&server.url(), &hub, STEADY).env("PRESENCE_REAPER_LEASE__TTL", "10m")).await;
        let spared = async || metric(&daemon, "evictions_skipped_total", Some(("reason", "spared"))).await;

        let (mut caught, mut back) = (false, Vec::new());
        for late in ids.iter().take(8) {
            pinging.silence(std::slice::from_ref(late));
            sleep(STEADY.threshold - STEADY.heartbeat).await;
            caught = ping_before_the_script(&server, &hub, late).await;
            if caught {
                break;
            }
            // A survey wrote in front of it. The next try falls between other surveys.
            back.push(hub.ping_every(STEADY.heartbeat, std::slice::from_ref(late)));
            is_in(&daemon, "normal").await;
            sleep(STEADY.heartbeat * 7 / 5).await;
        }
        assert!(caught, "no script was sent while writes waited\n{}", daemon.stderr());
        eventually(SOON, async || spared().await >= Some(1.0)).await;
        assert_eq!((evictions(&daemon).await, hub.remaining().await.len()), (0, 60));
    }

    /// It does evict: while others ping, a dead entry is gone about at its threshold, whatever the layout.
    async fn p7_a_dead_entry_is_gone_at_its_threshold(server: Server) {
        in_each_layout(async |layout| {
            let hub = Hub::new(&server, layout).key(&format!("{layout:?}:"));
            let ids = hub.live(10).await;
            let pinging = hub.ping_every(FAST.heartbeat, &ids);
            let daemon = settled(&server.url(), &hub, FAST).await;

            pinging.silence(&ids[..1]);
            let silenced = Instant::now();

            let gone = evicts(&daemon, 1).await;
            let bound = FAST.threshold + FAST.heartbeat * 2 + Duration::from_secs(2);
            assert!(gone - silenced < bound, "{layout:?}: {:?}", gone - silenced);
            hub.verdict(FAST.threshold).await.assert_none_lost();
        })
        .await;
    }

    /// Something in the way of one companion: the entry stays with all of them, and says why. Others go.
    async fn p5_an_entry_goes_whole_or_not_at_all(server: Server) {
        let hub = Hub::new(&server, Layout::Json);
        let ids = hub.stale(2, HOUR).await;
        let mut client = server.client().await;
        for id in &ids {
            redis::cmd("SET").arg(format!("inbox:{id}")).arg("mail").exec_async(&mut client).await.unwrap();
        }
        redis::cmd("SADD").arg("tags:u-s-0").arg("s-0").exec_async(&mut client).await.unwrap();
        redis::cmd("SET").arg("tags:u-s-1").arg("no set").exec_async(&mut client).await.unwrap();
        is_old_enough(&server, FAST).await;
        let _pinging = hub.ping_every(FAST.heartbeat, &hub.live(1).await);

        let companions = ["--companion", "UNLINK inbox:{id}", "--companion", "SREM tags:{json:/UserId} {id}"];
        let run = reaper_with(&["--once", "-o", "json"], &server.url(), &hub, FAST).args(companions).run().await;

        let document = run.assert_code(0).json();
        let source = only_source(&document);
        assert_eq!((&source["evicted"], &source["blocked_by"]["wrong_type"]), (&1.into(), &1.into()));
        let mut keys: Vec<String> = redis::cmd("KEYS").arg("*:*s-*").query_async(&mut client).await.unwrap();
        keys.sort();
        assert_eq!(keys, ["inbox:s-1", "tags:u-s-1"]);
        assert!(hub.remaining().await.contains("s-1") && !hub.remaining().await.contains("s-0"));
    }

    /// A user that may only read can run an audit and a shadow: neither tries to write, not even its own state.
    async fn g14_who_may_only_read_can_look(server: Server) {
        let hub = Hub::new(&server, Layout::Hashes);
        hub.stale(5, HOUR).await;
        let live = hub.live(5).await;
        let _pinging = hub.ping_every(FAST.heartbeat, &live);
        let mut client = server.client().await;
        let rules = ["SETUSER", "auditor", "on", ">secret", "~*", "+@read", "+@connection", "+info", "+time"];
        redis::cmd("ACL").arg(&rules).exec_async(&mut client).await.unwrap();
        let user = ["--redis-username", "auditor"];
        let as_user = |binary: Binary| binary.args(user).env("PRESENCE_REAPER_REDIS__PASSWORD", "secret");

        as_user(reaper_with(&["--dry-run"], &server.url(), &hub, FAST)).run().await.assert_code(0);
        let shadow = as_user(reaper_with(&["run", "--dry-run"], &server.url(), &hub, FAST)).listening().spawn();
        let skipped = async || metric(&shadow, "evictions_skipped_total", Some(("reason", "dry_run"))).await;
        eventually(SOON, async || skipped().await == Some(5.0)).await;

        let refused: Vec<redis::Value> = redis::cmd("ACL").arg("LOG").query_async(&mut client).await.unwrap();
        assert!(refused.is_empty(), "{refused:?}");
        assert_eq!(hub.remaining().await.len(), 10);
    }
}

/// Lets writes wait in line: first this client's ping, then the script, which was sent by what is still read. Whether one
/// was sent in time.
async fn ping_before_the_script(server: &Server, hub: &Hub, late: &str) -> bool {
    let mut client = server.client().await;
    redis::cmd("CLIENT").arg("PAUSE").arg(10_000).arg("WRITE").exec_async(&mut client).await.unwrap();
    let ping = tokio::spawn({
        let (hub, late) = (hub.clone(), vec![late.to_owned()]);
        async move { hub.ping(&late).await.unwrap() }
    });
    let sent = a_script_waits(&mut client, STEADY.heartbeat * 2).await;
    redis::cmd("CLIENT").arg("UNPAUSE").exec_async(&mut client).await.unwrap();
    ping.await.unwrap();
    sent
}

/// Only what Redis confirmed counts: of a strike whose reply was lost nothing is claimed.
#[tokio::test]
async fn g18_a_lost_reply_is_unknown_and_not_an_eviction() {
    tokio::join!(lose_a_reply(AfterLoss::Cut), lose_a_reply(AfterLoss::Silence));
}

async fn lose_a_reply(after: AfterLoss) {
    let server = Server::start(Kind::Redis).await;
    let proxy = Proxy::start(server.port()).await;
    let hub = Hub::new(&server, Layout::Zset);
    let ids = hub.live(12).await;
    let pinging = hub.ping_every(STURDY.heartbeat, &ids);
    // The lease is kept by scripts too, and none of them is to come in between.
    let daemon = settle(reaper(&proxy.url(), &hub, STURDY).env("PRESENCE_REAPER_LEASE__TTL", "10m")).await;

    proxy.set(Mode::LoseScriptReply(after));
    pinging.silence(&ids[..5]);

    let unknown = async || metric(&daemon, "eviction_failures_total", Some(("reason", "unknown"))).await;
    eventually(SOON, async || unknown().await.is_some_and(|count| count > 0.0)).await;
    eventually(SOON, async || hub.remaining().await.len() == 7).await;
    let (evicted, unknown) = (evictions(&daemon).await, unknown().await.unwrap() as u64);
    assert!(evicted <= 5 && 5 <= evicted + unknown, "{evicted} evicted, {unknown} unknown");
    assert_eq!(proxy.lost_replies(), 1);
    hub.verdict(STURDY.threshold).await.assert_none_lost();
}

/// At first contact everybody has a full threshold, however old.
#[tokio::test]
async fn g5_at_first_contact_everybody_has_a_threshold() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Strings);
    let live = hub.live(5).await;
    hub.stale(5, HOUR).await;
    let _pinging = hub.ping_every(FAST.heartbeat, &live);
    is_old_enough(&server, FAST).await;

    let started = Instant::now();
    let daemon = reaper(&server.url(), &hub, FAST).listening().spawn();

    is_in(&daemon, "grace").await;
    throughout(FAST.threshold.saturating_sub(started.elapsed()), async || hub.remaining().await.len() == 10).await;
    evicts(&daemon, 5).await;
    assert!(started.elapsed() >= FAST.threshold);
    assert_eq!(breaks(&daemon, "first_contact").await, 1);
}

/// Every entry that goes has a line, with an id that can be read and a key.
#[tokio::test]
async fn every_eviction_has_its_line() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Zset);
    let live = hub.live(5).await;
    hub.stale(3, HOUR).await;
    let _pinging = hub.ping_every(FAST.heartbeat, &live);

    let daemon = settled(&server.url(), &hub, FAST).await;
    evicts(&daemon, 3).await;

    let log = daemon.stderr();
    for id in ["s-5", "s-6", "s-7"] {
        let lines = log.lines().filter(|line| line.contains("evicted") && line.contains(id));
        assert_eq!(lines.count(), 1, "{log}");
    }
}
