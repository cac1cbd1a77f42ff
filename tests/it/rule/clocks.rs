//! Clocks that are wrong, and values that cannot be read.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::harness::{Hub, Kind, Layout, Server, eventually};
use crate::world::{FAST, Rhythm, SOON, STURDY, evictions, evicts, is_in, metric, reaper, settled, throughout};

/// Five heartbeats that a busy machine keeps, and a threshold long enough to see what comes before it.
const RHYTHM: Rhythm = FAST;

async fn entries(daemon: &crate::harness::Daemon, state: &str) -> Option<f64> {
    metric(daemon, "entries", Some(("state", state))).await
}

/// A hub whose clock is behind writes old times at every heartbeat: what changes is alive. What stands still for three
/// heartbeats is not.
#[tokio::test]
async fn g4_a_hub_whose_clock_is_behind_loses_nobody() {
    let server = Server::start(Kind::Redis).await;
    let right = Hub::new(&server, Layout::Zset);
    let behind = right.clone().clock_offset_ms(-600_000);
    let [rights, behinds] = [right.live(10).await, behind.live(10).await];
    let _right = right.ping_every(STURDY.heartbeat, &rights);
    let pinging = behind.ping_every(STURDY.heartbeat, &behinds);
    let daemon = settled(&server.url(), &right, STURDY).await;

    throughout(STURDY.threshold, async || right.remaining().await.len() == 20).await;
    assert_eq!((evictions(&daemon).await, entries(&daemon, "stale").await), (0, Some(10.0)), "by their times they are");

    pinging.silence(&behinds[..4]);
    evicts(&daemon, 4).await;
    right.verdict(STURDY.late()).await.assert_none_lost();
}

/// All hubs write local time as UTC, five hours behind: by their times nobody has pinged for hours. That is a silence, and
/// one that no time releases, because they ping.
#[tokio::test]
async fn g4_g6_hubs_that_all_write_local_time_lose_nobody() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Json).clock_offset_ms(-5 * 3_600_000);
    let ids = hub.live(20).await;
    let _pinging = hub.ping_every(RHYTHM.heartbeat, &ids);
    let binary = reaper(&server.url(), &hub, RHYTHM).env("PRESENCE_REAPER_GUARD__SILENCE_RELEASE", "1s");
    let daemon = binary.listening().spawn();

    is_in(&daemon, "silent").await;
    let silent = async || metric(&daemon, "source_state", Some(("state", "silent"))).await == Some(1.0);
    throughout(RHYTHM.threshold * 3, async || silent().await && hub.remaining().await.len() == 20).await;
    assert_eq!(evictions(&daemon).await, 0);
}

/// A hub whose clock is ahead: its entries are *future*, counted, and never evicted, dead or alive. They are no sign of
/// life either.
#[tokio::test]
async fn g10_entries_from_the_future_are_counted_and_left() {
    let server = Server::start(Kind::Redis).await;
    let right = Hub::new(&server, Layout::Strings);
    let ahead = right.clone().clock_offset_ms(2 * 3_600_000);
    let rights = right.live(5).await;
    let aheads = ahead.live(5).await;
    let pinging = right.ping_every(RHYTHM.heartbeat, &rights);
    let _ahead = ahead.ping_every(RHYTHM.heartbeat, &aheads[..3]);
    let daemon = settled(&server.url(), &right, RHYTHM).await;

    pinging.silence(&rights[..2]);
    evicts(&daemon, 2).await;
    eventually(SOON, async || entries(&daemon, "live").await == Some(3.0)).await;
    assert_eq!(entries(&daemon, "future").await, Some(5.0));

    pinging.stop().await;
    is_in(&daemon, "silent").await;
    assert_eq!(right.remaining().await.len(), 8);
}

/// A clock a little ahead, below the tolerance, is a sign of life of its own client and of nobody else's hub.
#[tokio::test]
async fn g6_a_dead_entry_from_the_near_future_does_not_hide_a_silence() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Zset);
    let ids = hub.live(9).await;
    hub.clone().clock_offset_ms(50_000).live(1).await;
    let pinging = hub.ping_every(RHYTHM.heartbeat, &ids);
    let daemon = settled(&server.url(), &hub, RHYTHM).await;

    pinging.stop().await;

    throughout(RHYTHM.threshold * 2, async || hub.remaining().await.len() == 10).await;
    assert_eq!(evictions(&daemon).await, 0);
}

/// Age counts by the server's clock, to the millisecond: nobody is missing before its threshold.
#[tokio::test]
async fn g3_nobody_goes_before_its_threshold() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Zset);
    let ids = hub.live(40).await;
    let pinging = hub.ping_every(RHYTHM.heartbeat, &ids);
    let daemon = settled(&server.url(), &hub, RHYTHM).await;

    let began = Instant::now();
    for dying in ids[..15].chunks(3) {
        pinging.silence(dying);
        sleep(Duration::from_millis(70)).await;
    }

    // The witness reads the entries before the time, so it sees an entry that is gone at once, and judges it late.
    while evictions(&daemon).await < 15 && began.elapsed() < SOON {
        hub.verdict(RHYTHM.threshold).await.assert_none_lost();
    }
    evicts(&daemon, 15).await;
}

/// Whatever can't be judged stands beside the truly stale, which go in the same batch.
#[tokio::test]
async fn p4_what_cannot_be_read_is_alive() {
    let zoo: [(&str, &[u8]); 15] = [
        ("empty", b""),
        ("spaces", b"  "),
        ("nan", b"nan"),
        ("inf", b"inf"),
        ("minus", b"-1"),
        ("zero", b"0"),
        ("hex", b"0x10"),
        ("exponent", b"1e12"),
        ("letters", b"12abc"),
        ("long", b"123456789012345678901"),
        ("seconds of the year 57000", b"1700000000000000000000"),
        ("binary", b"\x00\r\n\xff"),
        ("never", b"0001-01-01T00:00:00"),
        ("of 2001", b"1000000000000"),
        ("of 1970", b"86400"),
    ];
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Strings);
    let mut client = server.client().await;
    for (name, value) in zoo {
        redis::cmd("SET").arg(format!("presence:{name}")).arg(value).exec_async(&mut client).await.unwrap();
    }
    redis::cmd("RPUSH").arg("presence:a list").arg("x").exec_async(&mut client).await.unwrap();
    redis::cmd("HSET").arg("presence:a hash").arg("x").arg("y").exec_async(&mut client).await.unwrap();
    hub.stale(5, Duration::from_secs(3600)).await;
    // More than a tenth would be no leftovers.
    let live = hub.live(200).await;
    let _pinging = hub.ping_every(RHYTHM.heartbeat, &live);

    let daemon = settled(&server.url(), &hub, RHYTHM).await;

    evicts(&daemon, 5).await;
    assert_eq!(entries(&daemon, "unreadable").await, Some(17.0));
    throughout(RHYTHM.threshold, async || hub.remaining().await.len() == 217).await;
}

/// A source that is not what its settings say evicts nothing, not even what can be judged: that may be a mistake too. It
/// says which format would fit, and goes to work once that is mended.
#[tokio::test]
async fn p4_a_source_that_does_not_fit_its_settings_evicts_nothing() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Strings);
    let mut client = server.client().await;
    let live = hub.live(30).await;
    let _pinging = hub.ping_every(RHYTHM.heartbeat, &live);
    let mut set = redis::pipe();
    for n in 0..3 {
        set.cmd("SET").arg(format!("presence:dead-{n}")).arg(1_700_000_000).ignore();
    }
    set.exec_async(&mut client).await.unwrap();
    let start = |format: &str| reaper(&server.url(), &hub, RHYTHM).args(["--format", format]).listening().spawn();

    let wrong = start("unix-s");
    is_in(&wrong, "blind").await;
    throughout(RHYTHM.threshold * 3, async || hub.remaining().await.len() == 33).await;
    let log = wrong.stderr();
    let said = "holding: 30 of 33 entries can't be judged: 30 implausible; 30 times make sense as unix-ms only: \
                write format = \"unix-ms\", or leave `format` out";
    assert!(log.contains(said) && log.contains("mend the source, or the entries"), "{log}");
    drop(wrong);

    let _right = start("auto");
    eventually(SOON, async || hub.remaining().await.len() == 30).await;
}
