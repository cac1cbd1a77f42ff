//! Hubs that write what the clock on the wall shows, in the night it is changed.
//!
//! A server's clock can't be set, so the zone is: the program reads zones from a directory of ours, in which Berlin
//! changes its clocks when the test says. The rest is real, the script's own clock too.

use std::time::Duration;

use jiff::tz::Offset;
use redis::aio::MultiplexedConnection;
use tempfile::TempDir;
use tokio::time::{interval, sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::edge::server_now;
use crate::harness::{Binary, Kind, Server};
use crate::world::{Rhythm, evictions, evicts, is_old_enough, only_source, settle, throughout, trips};

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;

/// Ten heartbeats to a threshold, and between two pings of a slow client time for two looks.
const RHYTHM: Rhythm = Rhythm { threshold: Duration::from_secs(4), heartbeat: Duration::from_millis(400) };
const SLOW: Duration = Duration::from_millis(2_200);

/// No ping comes in the way of these.
const PATIENT: Rhythm = Rhythm { threshold: Duration::from_secs(10), heartbeat: Duration::from_secs(1) };

// === a zone that changes now ===

/// A clock in Berlin, which is changed once.
#[derive(Clone, Copy)]
struct Clock {
    change_ms: i64,
    /// How far it is ahead of UTC, in seconds, until the change and from then on.
    before: i32,
    after: i32,
}

impl Clock {
    fn changed_at(change_ms: i64, before: i32, after: i32) -> Self {
        Self { change_ms: change_ms / 1_000 * 1_000, before, after }
    }

    fn shows(self, at_ms: i64) -> String {
        shown(at_ms, if at_ms < self.change_ms { self.before } else { self.after })
    }

    /// The directory of zones in which Berlin has this clock, and no other place is.
    fn zones(self) -> TempDir {
        let dir = TempDir::new().unwrap();
        std::fs::create_dir(dir.path().join("Europe")).unwrap();
        std::fs::write(dir.path().join("Europe/Berlin"), tzif(self.change_ms / 1_000, self.before, self.after))
            .unwrap();
        dir
    }
}

/// The program on string keys that hold local times, with zones from this directory.
fn reaper(words: &[&str], zones: &TempDir, server: &Server, rhythm: Rhythm) -> Binary {
    Binary::new(words)
        .args(["--redis-url", &server.url(), "--keys", "presence:{id}", "--time-zone", "Europe/Berlin"])
        .args(rhythm.flags())
        .env("TZDIR", zones.path().to_str().unwrap())
}

/// What a clock shows that is so many seconds ahead of UTC.
fn shown(at_ms: i64, ahead: i32) -> String {
    let offset = Offset::from_seconds(ahead).unwrap();
    offset.to_datetime(jiff::Timestamp::from_millisecond(at_ms).unwrap()).strftime("%Y-%m-%dT%H:%M:%S.%3f").to_string()
}

/// A zone as a file (RFC 9636): one change at this second.
fn tzif(change: i64, before: i32, after: i32) -> Vec<u8> {
    // Behind the magic: how many UT flags, standard flags, leap seconds, changes, kinds of time, letters of their names.
    let header = |changes: u32, kinds: u32| {
        let counts = [0, 0, 0, changes, kinds, kinds * 4];
        [&b"TZif2"[..], &[0; 15], &counts.map(u32::to_be_bytes).concat()].concat()
    };
    let kind = |ahead: i32, name: u8| [&ahead.to_be_bytes()[..], &[0, name]].concat();
    let old_form = [header(0, 1), kind(before, 0), b"OLD\0".to_vec()].concat();
    let names = b"OLD\0NEW\0".to_vec();
    let new_form =
        [header(1, 2), change.to_be_bytes().to_vec(), vec![1], kind(before, 0), kind(after, 4), names].concat();
    [old_form, new_form, b"\n\n".to_vec()].concat()
}

// === clients ===

async fn write(client: &mut MultiplexedConnection, id: &str, time: &str) {
    redis::cmd("SET").arg(format!("presence:{id}")).arg(time).exec_async(client).await.unwrap();
}

/// Refreshes what is still there, so that a client which was evicted does not come back.
async fn refresh(client: &mut MultiplexedConnection, ids: &[String], time: &str) {
    for id in ids {
        redis::cmd("SET").arg(format!("presence:{id}")).arg(time).arg("XX").exec_async(client).await.unwrap();
    }
}

/// Writes these clients, and pings them every `heartbeat` with what `clock` makes of the server's time.
async fn ping_every(
    server: &Server,
    heartbeat: Duration,
    ids: &[String],
    clock: impl Fn(i64) -> String + Send + 'static,
) -> AbortOnDropHandle<()> {
    let (mut client, ids) = (server.client().await, ids.to_vec());
    let now = server_now(&mut client).await.millis();
    for id in &ids {
        write(&mut client, id, &clock(now)).await;
    }
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut ticks = interval(heartbeat);
        loop {
            ticks.tick().await;
            let now = server_now(&mut client).await.millis();
            refresh(&mut client, &ids, &clock(now)).await;
        }
    }))
}

fn ids(of: &str) -> Vec<String> {
    (0..4).map(|n| format!("{of}-{n}")).collect()
}

async fn remaining(client: &mut MultiplexedConnection) -> Vec<String> {
    let mut keys: Vec<String> = redis::cmd("KEYS").arg("presence:*").query_async(client).await.unwrap();
    keys.sort();
    keys.into_iter().map(|key| key.replace("presence:", "")).collect()
}

// === the night ===

/// Everything in one night, shortened: the clocks are set back by six seconds, more than a threshold. A source where all
/// write local time, and one where others write UTC, so that it never is silent.
#[tokio::test]
async fn p1_through_the_time_that_comes_twice_the_living_stay_and_the_dead_go() {
    tokio::join!(a_night(false), a_night(true));
}

async fn a_night(others: bool) {
    const REPEATED: i32 = 6;
    let server = Server::start(Kind::Redis).await;
    let mut client = server.client().await;
    let change = server_now(&mut client).await.millis() + 15_000;
    let clock = Clock::changed_at(change, 7_200, 7_200 - REPEATED);
    let by_the_wall = move |at| clock.shows(at);
    let _local = ping_every(&server, RHYTHM.heartbeat, &ids("local"), by_the_wall).await;
    let _slow = ping_every(&server, SLOW, &ids("slow"), by_the_wall).await;
    let _utc = match others {
        true => Some(ping_every(&server, RHYTHM.heartbeat, &ids("utc"), |at| shown(at, 0) + "Z").await),
        false => None,
    };
    let daemon = settle(reaper(&[], &clock.zones(), &server, RHYTHM)).await;

    let deaths = [change - i64::from(REPEATED) * 1_000 - 1_000, change - 3_000, change + 2_000];
    for (n, at) in deaths.into_iter().enumerate() {
        let now = wait_until(&mut client, at).await;
        write(&mut client, &format!("dead-{n}"), &clock.shows(now)).await;
    }

    evicts(&daemon, 3).await;
    throughout(RHYTHM.threshold, async || evictions(&daemon).await == 3).await;
    let living = [ids("local"), ids("slow"), if others { ids("utc") } else { Vec::new() }].concat();
    assert_eq!(remaining(&mut client).await, living, "{}", daemon.stderr());
    assert_eq!(trips(&daemon, "silent").await, u64::from(!others), "{}", daemon.stderr());
}

/// Waits until the server's clock shows this time; what it shows then.
async fn wait_until(client: &mut MultiplexedConnection, at_ms: i64) -> i64 {
    loop {
        let now = server_now(client).await.millis();
        if now >= at_ms {
            return now;
        }
        sleep(Duration::from_millis((at_ms - now).unsigned_abs())).await;
    }
}

// === one look at a time ===

/// What an audit counts: live, stale, future; and the stale ones.
async fn counts(zones: &TempDir, server: &Server) -> ([u64; 3], Vec<String>) {
    let run = reaper(&["--dry-run", "-o", "json"], zones, server, PATIENT).run().await;
    let document = run.assert_code(0).json();
    let source = only_source(&document);
    let stale = source["stale"].as_array().unwrap().iter();
    let mut stale: Vec<String> = stale.map(|entry| entry["id"].as_str().unwrap().replace("presence:", "")).collect();
    stale.sort();
    (["live", "stale", "future"].map(|state| source["entries"][state].as_u64().unwrap()), stale)
}

/// Clients with their last pings so long ago, on a new server.
async fn pinged(ages: &[(&str, i64)], clock: impl Fn(i64) -> Clock) -> (Server, TempDir) {
    let server = Server::start(Kind::Redis).await;
    let mut client = server.client().await;
    let now = server_now(&mut client).await.millis();
    let clock = clock(now);
    for (id, age) in ages {
        write(&mut client, id, &clock.shows(now - age)).await;
    }
    (server, clock.zones())
}

const AGES: [(&str, i64); 5] =
    [("alive", 0), ("20m", 20 * MINUTE), ("40m", 40 * MINUTE), ("80m", 80 * MINUTE), ("3h", 3 * HOUR)];

/// In the first of the two hours that look the same everybody who pinged in it looks an hour ahead.
#[tokio::test]
async fn g10_in_the_first_of_the_two_hours_nobody_looks_older() {
    let (server, zones) = pinged(&AGES, |now| Clock::changed_at(now + 30 * MINUTE, 7_200, 3_600)).await;

    // From 30 minutes ago on.
    let found = counts(&zones, &server).await;
    assert_eq!(found, ([0, 3, 2], vec!["3h".into(), "40m".into(), "80m".into()]));

    is_old_enough(&server, PATIENT).await;
    let held = reaper(&["--once", "-o", "json"], &zones, &server, PATIENT).run().await;
    assert_eq!(only_source(&held.assert_code(11).json())["state"], "silent");
    let once = ["--once", "-o", "json", "--release", "silent"];
    let released = reaper(&once, &zones, &server, PATIENT).run().await;
    assert_eq!(only_source(&released.assert_code(0).json())["evicted"], 3);
    assert_eq!(remaining(&mut server.client().await).await, ["20m", "alive"]);
}

/// In the second the living are seen as they are, however rarely they ping, and who died in the first goes an hour late.
#[tokio::test]
async fn p1_in_the_second_of_the_two_hours_the_living_stay_and_the_dead_go() {
    let (server, zones) = pinged(&AGES, |now| Clock::changed_at(now - 30 * MINUTE, 7_200, 3_600)).await;
    let mut client = server.client().await;

    // From 90 to 30 minutes ago was the first: 80m looks 20m old, and 40m is 20m ahead.
    let found = counts(&zones, &server).await;
    assert_eq!(found, ([1, 3, 1], vec!["20m".into(), "3h".into(), "80m".into()]));

    is_old_enough(&server, PATIENT).await;
    let now = server_now(&mut client).await.millis();
    let clock = Clock::changed_at(now - 30 * MINUTE, 7_200, 3_600);
    write(&mut client, "alive", &clock.shows(now)).await;
    let _others = ping_every(&server, PATIENT.heartbeat, &ids("others"), move |at| clock.shows(at)).await;
    let run = reaper(&["--once", "-o", "json"], &zones, &server, PATIENT).run().await;
    assert_eq!(only_source(&run.assert_code(0).json())["evicted"], 3);
    assert_eq!(remaining(&mut client).await, [vec!["40m".into(), "alive".into()], ids("others")].concat());
}

/// Set forward, a clock leaves an hour out. One that was not set goes on showing it, and means what it always meant.
#[tokio::test]
async fn g10_after_the_hour_that_never_came_nobody_looks_older() {
    let clock = |now| Clock::changed_at(now - 15 * MINUTE, 3_600, 7_200);
    let (server, zones) = pinged(&AGES, clock).await;
    let mut client = server.client().await;
    let now = server_now(&mut client).await.millis();
    write(&mut client, "unset", &shown(now, 3_600)).await;

    let (counts, stale) = counts(&zones, &server).await;

    assert_eq!((counts, stale.len()), ([2, 4, 0], 4), "{stale:?}");
}

/// `check` names the zone. What the system does not know is known all the same.
#[tokio::test]
async fn check_names_the_zone() {
    let zones = Clock::changed_at(0, 0, 0).zones();
    let flags = ["--hash", "clients", "--time-zone", "asia/kathmandu"];
    let check =
        |words: &'static [&str]| Binary::new(words).args(flags).env("TZDIR", zones.path().to_str().unwrap()).run();

    let text = check(&["check"]).await;
    let line = "source cli: hash clients, times auto (without an offset: in Asia/Kathmandu)\n";
    assert!(text.assert_code(0).stdout.contains(line), "{}", text.stdout);
    let json = check(&["check", "-o", "json"]).await.assert_code(0).json();
    assert_eq!(json["sources"][0]["time_zone"], "Asia/Kathmandu");
}
