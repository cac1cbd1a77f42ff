//! Several reapers: one evicts, the others stand by, and what they do together is right with or without a lease.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::harness::{Binary, Daemon, Hub, Kind, Layout, Refresh, Server, eventually};
use crate::world::{
    FAST, Rhythm, SOON, STEADY, evictions, is_in, is_old_enough, metric, only_source, reaper, reaper_with, settle,
};

const TTL: Duration = Duration::from_secs(2);

const HOUR: Duration = Duration::from_secs(3600);

fn leased(binary: Binary) -> Binary {
    let grace = ("PRESENCE_REAPER_GUARD__RECONNECT_GRACE", "3s");
    binary.env("PRESENCE_REAPER_LEASE__TTL", "2s").env(grace.0, grace.1)
}

async fn daemon(server: &Server, hub: &Hub, rhythm: Rhythm) -> Daemon {
    settle(leased(reaper(&server.url(), hub, rhythm))).await
}

async fn leads(daemon: &Daemon) -> bool {
    metric(daemon, "leader", None).await == Some(1.0)
}

async fn status(daemon: &Daemon) -> serde_json::Value {
    let page = daemon.get("/status").await.expect("a page");
    serde_json::from_str::<serde_json::Value>(&page.body).unwrap()["sources"][0].clone()
}

for_each_server! {
    /// Three reapers, and the one that leads sleeps for long and wakes up in the midst of another's work. Nobody who lives
    /// is lost, each of the dead is counted once, and in no heartbeat go more than the pace allows.
    async fn g15_three_reapers_and_a_leader_that_sleeps(server: Server) {
        let hub = Hub::new(&server, Layout::Strings);
        let living = hub.live(20).await;
        let dying = hub.live(120).await;
        let hub = hub.refresh(Refresh::OnlyExisting);
        let all = [living.clone(), dying.clone()].concat();
        let pinging = hub.ping_every(STEADY.heartbeat / 2, &all);
        let (a, b, c) = tokio::join!(
            daemon(&server, &hub, STEADY),
            daemon(&server, &hub, STEADY),
            daemon(&server, &hub, STEADY)
        );
        let mut daemons = vec![a, b, c];
        eventually(SOON, async || leaders(&daemons).await == 1).await;
        let mut leader = 0;
        for (place, daemon) in daemons.iter().enumerate() {
            leader = if leads(daemon).await { place } else { leader };
        }
        let sleeper = daemons.remove(leader);
        assert_eq!(status(&daemons[0]).await["leader"], false);
        assert!(status(&daemons[0]).await["led_by"].is_string());

        // Fewer than half at a time, so that it is no mass.
        pinging.silence(&dying[..60]);
        sleep(STEADY.threshold - STEADY.heartbeat).await;
        sleeper.signal(Signal::STOP);
        let pace = tokio::spawn(most_within(STEADY.heartbeat * 9 / 10, hub.clone(), 60));
        let evicted = async || evictions(&daemons[0]).await + evictions(&daemons[1]).await;
        eventually(SOON, async || evicted().await >= 50).await;
        sleeper.signal(Signal::CONT);
        eventually(SOON, async || hub.remaining().await.len() == 80).await;
        let most = pace.await.unwrap();
        assert!(most <= 50, "{most} in a heartbeat");

        eventually(SOON, async || leaders(&daemons).await == 1 && !leads(&sleeper).await).await;
        pinging.silence(&dying[60..90]);
        eventually(SOON, async || hub.remaining().await.len() == 50).await;
        eventually(SOON, async || evicted().await + evictions(&sleeper).await == 90).await;
        hub.verdict(STEADY.threshold).await.assert_none_lost();
        assert_eq!(metric(&sleeper, "leader_transitions_total", None).await, Some(2.0), "to it, and from it");
        assert!(sleeper.stderr().contains("stands by: another reaper evicts"), "{}", sleeper.stderr());
    }

    /// A leader that stops hands over at once, and one that dies after the lease.
    async fn g15_a_leader_that_stops_hands_over(server: Server) {
        let hub = Hub::new(&server, Layout::Zset);
        let living = hub.live(5).await;
        let _pinging = hub.ping_every(FAST.heartbeat / 2, &living);
        let long = "PRESENCE_REAPER_LEASE__TTL";
        let first = settle(reaper(&server.url(), &hub, FAST).env(long, "60s")).await;
        eventually(SOON, async || leads(&first).await).await;
        let second = settle(leased(reaper(&server.url(), &hub, FAST))).await;
        assert!(!leads(&second).await);
        let page = second.get("/readyz").await.unwrap();
        assert_eq!(page.status, 200, "a standby is ready: {}", page.body);

        first.terminate();
        eventually(SOON, async || leads(&second).await).await;

        let third = settle(leased(reaper(&server.url(), &hub, FAST))).await;
        second.signal(Signal::KILL);
        let killed = Instant::now();
        eventually(SOON, async || leads(&third).await).await;
        assert!(killed.elapsed() >= TTL * 2 / 3, "{:?}", killed.elapsed());
        hub.stale(3, HOUR).await;
        eventually(SOON, async || evictions(&third).await == 3).await;
    }

    /// Who takes over at once does not begin the pace anew.
    async fn g15_a_handover_keeps_the_pace(server: Server) {
        let rhythm = Rhythm { threshold: Duration::from_secs(10), heartbeat: Duration::from_secs(2) };
        let hub = Hub::new(&server, Layout::Zset);
        let living = hub.live(40).await;
        let dying = hub.live(90).await;
        let all = [living, dying.clone()].concat();
        let pinging = hub.ping_every(rhythm.heartbeat / 2, &all);
        let first = daemon(&server, &hub, rhythm).await;
        eventually(SOON, async || leads(&first).await).await;
        let second = daemon(&server, &hub, rhythm).await;
        pinging.silence(&dying[..65]);
        let pace = tokio::spawn(most_within(rhythm.heartbeat * 9 / 10, hub.clone(), 60));

        eventually(SOON, async || evictions(&first).await == 50).await;
        first.terminate();

        assert_eq!(pace.await.unwrap(), 50);
        eventually(SOON, async || evictions(&second).await == 15).await;
        hub.verdict(rhythm.threshold).await.assert_none_lost();
    }

    /// A single run does not cut in, and names who leads; a dry run needs nobody's leave.
    async fn g15_a_single_run_leaves_it_to_the_leader(server: Server) {
        let hub = Hub::new(&server, Layout::Zset);
        let living = hub.live(5).await;
        let _pinging = hub.ping_every(FAST.heartbeat / 2, &living);
        is_old_enough(&server, FAST).await;
        let mut client = server.client().await;
        let once = ["--once", "-o", "json"];
        let run = leased(reaper_with(&once, &server.url(), &hub, FAST)).run().await;
        run.assert_code(0);
        let leases: Vec<String> =
            redis::cmd("KEYS").arg("presence-reaper:*:lease").query_async(&mut client).await.unwrap();
        assert!(leases.is_empty(), "given back: {leases:?}");
        let key = state_key(&mut client).await.replace(":state", ":lease");
        let value = "0123456789abcdef other-definition elsewhere:17";
        redis::cmd("SET").arg(&key).arg(value).exec_async(&mut client).await.unwrap();
        hub.stale(3, HOUR).await;

        let run = leased(reaper_with(&once, &server.url(), &hub, FAST)).run().await;
        let document = run.assert_code(11).json();
        let source = only_source(&document);
        assert_eq!((&source["evicted"], &source["led_by"]), (&0.into(), &"elsewhere:17".into()));
        let told = leased(reaper_with(&["--once"], &server.url(), &hub, FAST)).run().await;
        assert!(told.assert_code(11).stdout.contains("Another reaper holds its lease: elsewhere:17."), "{}", told.stdout);
        reaper_with(&["--dry-run"], &server.url(), &hub, FAST).run().await.assert_code(0);
        let standby = leased(reaper(&server.url(), &hub, FAST)).listening().spawn();
        eventually(SOON, async || standby.stderr().contains("elsewhere:17")).await;
        assert!(standby.stderr().contains("by other settings of this source"), "{}", standby.stderr());
        let held: String = redis::cmd("GET").arg(&key).query_async(&mut client).await.unwrap();
        assert_eq!((held.as_str(), hub.remaining().await.len()), (value, 8));
    }
}

async fn state_key(client: &mut redis::aio::MultiplexedConnection) -> String {
    let keys: Vec<String> = redis::cmd("KEYS").arg("presence-reaper:*:state").query_async(client).await.unwrap();
    keys.first().cloned().expect("a state")
}

async fn leaders(daemons: &[Daemon]) -> usize {
    let mut leaders = 0;
    for daemon in daemons {
        leaders += usize::from(leads(daemon).await);
    }
    leaders
}

/// The most that went within a span, seen from outside, until so many went.
async fn most_within(span: Duration, hub: Hub, count: usize) -> usize {
    let before = hub.remaining().await.len();
    let mut seen = vec![(Instant::now(), before)];
    while seen.last().is_some_and(|(_, left)| before - left < count) {
        sleep(Duration::from_millis(10)).await;
        seen.push((Instant::now(), hub.remaining().await.len()));
    }
    let drops = seen.iter().flat_map(|(at, left)| {
        seen.iter().filter(move |(later, _)| *later > *at && *later - *at < span).map(move |(_, less)| left - less)
    });
    drops.max().unwrap_or(0)
}

/// Without a lease to be had nothing goes, and the log says what to grant.
#[tokio::test]
async fn who_may_not_hold_the_lease_evicts_nothing() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Zset);
    let living = hub.live(5).await;
    let _pinging = hub.ping_every(FAST.heartbeat / 2, &living);
    let mut client = server.client().await;
    let rules = ["SETUSER", "reaper", "on", ">secret", "~*", "+@all", "-eval"];
    redis::cmd("ACL").arg(&rules).exec_async(&mut client).await.unwrap();
    let binary = leased(reaper(&server.url(), &hub, FAST)).args(["--redis-username", "reaper"]);
    let daemon = binary.env("PRESENCE_REAPER_REDIS__PASSWORD", "secret").listening().spawn();
    is_in(&daemon, "normal").await;

    hub.stale(3, HOUR).await;

    sleep(FAST.threshold).await;
    assert_eq!((evictions(&daemon).await, hub.remaining().await.len()), (0, 8));
    assert!(daemon.stderr().contains("nothing is evicted without the lease"), "{}", daemon.stderr());
}
