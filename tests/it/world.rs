//! What most tests of the whole program begin with: a rhythm, the program on a hub's entries, and what can be asked of
//! it from outside.

use std::collections::HashMap;
use std::panic::Location;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep};

use crate::harness::{Binary, Daemon, Hub, Layout, Server, eventually, generation};

/// How long anything may take that comes at once on an idle machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

// === rhythm ===

/// Threshold and heartbeat, scaled down so that all ratios and all checks at load stay as they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rhythm {
    pub(crate) threshold: Duration,
    pub(crate) heartbeat: Duration,
}

/// Ten heartbeats to a threshold, as by default, a hundred and fifty times as fast.
pub(crate) const FAST: Rhythm = Rhythm { threshold: Duration::from_secs(2), heartbeat: Duration::from_millis(200) };

/// The same for a crowd, or where a hub that stumbles on a busy machine must not look like an outage.
pub(crate) const STEADY: Rhythm = Rhythm { threshold: Duration::from_secs(5), heartbeat: Duration::from_millis(500) };

/// And for a thousand clients a hub.
pub(crate) const CROWDED: Rhythm = Rhythm { threshold: Duration::from_secs(10), heartbeat: Duration::from_secs(1) };

/// The tightest that is not refused: five heartbeats to a threshold.
pub(crate) const TIGHT: Rhythm = Rhythm { threshold: Duration::from_secs(2), heartbeat: Duration::from_millis(400) };

/// As tight, and slow enough that a hub on a busy machine keeps it.
pub(crate) const STURDY: Rhythm =
    Rhythm { threshold: Duration::from_millis(2_500), heartbeat: Duration::from_millis(500) };

impl Rhythm {
    pub(crate) fn flags(self) -> [String; 4] {
        let flag = |name: &str, value: Duration| [format!("--{name}"), format!("{}ms", value.as_millis())];
        let [[a, b], [c, d]] = [flag("threshold", self.threshold), flag("heartbeat-interval", self.heartbeat)];
        [a, b, c, d]
    }

    /// From when on a live entry is late, and a source silent.
    pub(crate) fn late(self) -> Duration {
        self.heartbeat * 3
    }
}

// === the program ===

/// The program on this hub's entries, by flags alone: the source is called `cli`.
pub(crate) fn reaper(url: &str, hub: &Hub, rhythm: Rhythm) -> Binary {
    reaper_with(&[], url, hub, rhythm)
}

/// The same, with these words in front: `--once`, `run --dry-run`.
pub(crate) fn reaper_with(words: &[&str], url: &str, hub: &Hub, rhythm: Rhythm) -> Binary {
    Binary::new(words).args(["--redis-url", url]).args(hub.source_flags()).args(rhythm.flags())
}

/// The daemon on this hub's entries, its first grace over.
pub(crate) async fn settled(url: &str, hub: &Hub, rhythm: Rhythm) -> Daemon {
    settle(reaper(url, hub, rhythm)).await
}

/// Starts a daemon and waits until it may evict.
pub(crate) async fn settle(binary: Binary) -> Daemon {
    let daemon = binary.listening().spawn();
    is_in(&daemon, "normal").await;
    daemon
}

/// Runs something in all four layouts at once.
pub(crate) async fn in_each_layout(run: impl AsyncFn(Layout)) {
    let [a, b, c, d] = Layout::ALL;
    tokio::join!(run(a), run(b), run(c), run(d));
}

// === rights ===

/// A user of a server that has the rights that the program asks for, and no other.
pub(crate) struct Confined {
    user: String,
}

impl Confined {
    pub(crate) const PASSWORD: &str = "confined";

    /// Makes it by the line that `check` prints for these flags, as an operator would: by redis-cli, one word replaced.
    /// `words` are behind `check`: `--acl`, or an older grammar, which an older server may not know either.
    pub(crate) async fn make(server: &Server, user: &str, words: &[&str], flags: &[String]) -> Self {
        let named = Self::named(user);
        let known = generation(server.kind());
        let words = words.iter().map(|word| match word.strip_prefix("--acl") {
            Some(asked) if asked.is_empty() || &asked[1..] > known => format!("--acl={known}"),
            _ => (*word).to_owned(),
        });
        let line = named
            .run(Binary::new(["check"]).args(words).args(flags))
            .run()
            .await
            .assert_code(0)
            .stdout
            .replace("<PASSWORD>", &format!(">{}", Self::PASSWORD));
        assert_eq!(redis_cli(server, &line).await, "OK", "{line}");
        named
    }

    /// One that the server knows already.
    pub(crate) fn named(user: &str) -> Self {
        Self { user: user.to_owned() }
    }

    /// The program as this user.
    pub(crate) fn run(&self, binary: Binary) -> Binary {
        binary.args(["--redis-username", &self.user]).env("PRESENCE_REAPER_REDIS__PASSWORD", Self::PASSWORD)
    }

    /// The server's ACL LOG knows nothing of this user.
    pub(crate) async fn assert_nothing_was_refused(&self, server: &Server) {
        let mut log = redis::cmd("ACL");
        let log: Vec<HashMap<String, redis::Value>> =
            log.arg("LOG").query_async(&mut server.client().await).await.expect("ACL LOG");
        let text = |entry: &HashMap<String, redis::Value>, name| {
            redis::from_redis_value_ref::<String>(&entry[name]).expect("a text")
        };
        let ours = log.iter().filter(|entry| text(entry, "username") == self.user);
        let refused: Vec<String> = ours.map(|entry| text(entry, "reason") + " " + &text(entry, "object")).collect();
        assert!(refused.is_empty(), "{}: {refused:?}", self.user);
    }
}

/// What redis-cli prints for these lines.
pub(crate) async fn redis_cli(server: &Server, lines: &str) -> String {
    let mut command = tokio::process::Command::new("redis-cli");
    command.args(["-p", &server.port().to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("redis-cli, which comes with redis-server");
    child.stdin.take().expect("piped").write_all(lines.as_bytes()).await.expect("redis-cli reads");
    let output = child.wait_with_output().await.expect("redis-cli ends");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

// === metrics ===

/// A sample of the source `cli`, by its name without the prefix; `label` is one more label.
pub(crate) async fn metric(daemon: &Daemon, name: &str, label: Option<(&str, &str)>) -> Option<f64> {
    let mut labels = vec![("source", "cli")];
    labels.extend(label);
    labels.sort_unstable();
    let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    daemon.metric(&format!("presence_reaper_{name}{{{}}}", labels.join(","))).await
}

/// A counter that is there from the first scrape on. A busy machine may keep one scrape from being answered.
async fn counted(daemon: &Daemon, name: &str, label: Option<(&str, &str)>) -> u64 {
    for _ in 0..5 {
        if let Some(count) = metric(daemon, name, label).await {
            return count as u64;
        }
    }
    panic!("{name} {label:?} is not among the metrics of the daemon\n{}", daemon.stderr());
}

/// How many were evicted so far.
pub(crate) async fn evictions(daemon: &Daemon) -> u64 {
    counted(daemon, "evictions_total", None).await
}

/// How many continuity breaks of this reason there were.
pub(crate) async fn breaks(daemon: &Daemon, reason: &str) -> u64 {
    counted(daemon, "continuity_breaks_total", Some(("reason", reason))).await
}

/// How often a guard began to hold.
pub(crate) async fn trips(daemon: &Daemon, reason: &str) -> u64 {
    counted(daemon, "guard_trips_total", Some(("reason", reason))).await
}

/// Waits until the source is in this state; else the log shows in which it is.
#[track_caller]
pub(crate) fn is_in(daemon: &Daemon, state: &str) -> impl Future<Output = ()> {
    let caller = Location::caller();
    let state = state.to_owned();
    async move {
        let began = Instant::now();
        while metric(daemon, "source_state", Some(("state", &state))).await != Some(1.0) {
            assert!(began.elapsed() < SOON, "not {state} after {SOON:?}: {caller}\n{}", daemon.stderr());
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Waits until so many were evicted; returns when that was seen. More are too many, and the log shows why.
#[track_caller]
pub(crate) fn evicts(daemon: &Daemon, count: u64) -> impl Future<Output = Instant> {
    let caller = Location::caller();
    async move {
        let began = Instant::now();
        let mut evicted = 0;
        while evicted < count && began.elapsed() < SOON {
            sleep(Duration::from_millis(10)).await;
            evicted = evictions(daemon).await;
        }
        assert_eq!(evicted, count, "evictions after {:?}: {caller}\n{}", began.elapsed(), daemon.stderr());
        Instant::now()
    }
}

/// Whether a strike's script waits in line while writes are paused, within so long. What else the reaper writes now and
/// then may stand in front of it: then none is sent.
pub(crate) async fn a_script_waits(client: &mut redis::aio::MultiplexedConnection, within: Duration) -> bool {
    let began = Instant::now();
    while began.elapsed() < within {
        let list: String = redis::cmd("CLIENT").arg("LIST").query_async(client).await.unwrap();
        if list.contains("cmd=evalsha") {
            return true;
        }
        sleep(Duration::from_millis(5)).await;
    }
    false
}

// === time ===

/// Looks all the time until `span` is over; a panic at the caller's line as soon as it does not hold.
#[track_caller]
pub(crate) fn throughout(span: Duration, mut holds: impl AsyncFnMut() -> bool) -> impl Future<Output = ()> {
    let caller = Location::caller();
    async move {
        let began = Instant::now();
        while began.elapsed() < span {
            assert!(holds().await, "no longer so after {:?}: {caller}", began.elapsed());
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Waits until the server has run for a threshold: without memory of its own `--once` asks for that.
pub(crate) async fn is_old_enough(server: &Server, rhythm: Rhythm) {
    let mut client = server.client().await;
    eventually(SOON, async || {
        let info: String = redis::cmd("INFO").arg("server").query_async(&mut client).await.expect("INFO");
        let uptime = info.lines().find_map(|line| line.strip_prefix("uptime_in_seconds:")?.parse().ok());
        Duration::from_secs(uptime.expect("an uptime")) >= rhythm.threshold
    })
    .await;
}

// === documents ===

/// The one source of a document.
#[track_caller]
pub(crate) fn only_source(document: &Value) -> &Value {
    assert_document(document);
    let sources = document["sources"].as_array().expect("sources");
    assert_eq!(sources.len(), 1, "{document:#}");
    &sources[0]
}

/// What every document of a single run has, whatever was found: the form that programs rely on.
#[track_caller]
pub(crate) fn assert_document(document: &Value) {
    let keys = ["schema_version", "at", "dry_run", "complete", "sources"];
    assert_keys(document, &keys, &[]);
    assert_eq!(document["schema_version"], 1);
    assert_time(&document["at"]);
    assert!(document["dry_run"].is_boolean() && document["complete"].is_boolean(), "{document:#}");
    document["sources"].as_array().expect("a list").iter().for_each(assert_source);
}

#[track_caller]
fn assert_source(source: &Value) {
    let counts = [
        "would_evict",
        "evicted",
        "spared",
        "gone",
        "too_late",
        "unknown",
        "companions_skipped",
        "listed",
        "resurrected",
    ];
    let notifications =
        ["notifications_sent", "notifications_failed", "notifications_skipped", "notifications_unknown"];
    let counts = [&counts[..], &notifications].concat();
    let maps = ["unreadable_by", "times", "blocked_by"];
    let others = ["name", "state", "hold", "pause", "entries", "newest_age_ms", "oldest_age_ms", "ages", "stale"];
    assert_keys(source, &[&counts[..], &maps, &others].concat(), &["error", "led_by"]);
    counts.iter().for_each(|key| assert!(source[key].is_u64(), "{key}: {source:#}"));
    maps.iter().for_each(|key| assert_counts(&source[key]));
    let states = ["normal", "held", "grace", "silent", "mass", "interval", "blind", "suspended"];
    assert!(states.contains(&source["state"].as_str().expect("a state")), "{source:#}");
    assert_keys(&source["entries"], &["live", "stale", "future", "unreadable", "protected", "foreign"], &[]);
    assert_counts(&source["entries"]);
    if !source["hold"].is_null() {
        assert_keys(&source["hold"], &["reason", "detail", "ends_with", "ends_at"], &[]);
        assert_eq!(source["hold"]["reason"], source["state"]);
    }
    if !source["pause"].is_null() {
        assert_keys(&source["pause"], &["reason", "detail"], &[]);
    }
    assert_ages(source);
    let stale = source["stale"].as_array().expect("a list");
    assert_eq!(source["listed"], stale.len());
    for entry in stale {
        assert_keys(entry, &["id", "key", "last_ping", "age_ms"], &["id_base64", "key_base64"]);
        assert_time(&entry["last_ping"]);
        assert!(entry["age_ms"].is_u64(), "{entry}");
    }
}

/// Cumulative, as the name `le` says, up to all that have an age.
#[track_caller]
fn assert_ages(source: &Value) {
    let ages = source["ages"].as_array().expect("a list");
    ages.iter().for_each(|bucket| assert_keys(bucket, &["le_ms", "count"], &[]));
    let counts: Vec<u64> = ages.iter().map(|bucket| bucket["count"].as_u64().expect("a count")).collect();
    assert!(counts.is_sorted(), "{source:#}");
    let entries = &source["entries"];
    let aged = entries["live"].as_u64().unwrap() + entries["stale"].as_u64().unwrap();
    assert_eq!(counts.last().copied().unwrap_or_default(), aged, "{source:#}");
}

#[track_caller]
fn assert_keys(object: &Value, must: &[&str], may: &[&str]) {
    let keys: Vec<&str> = object.as_object().expect("an object").keys().map(String::as_str).collect();
    let missing: Vec<_> = must.iter().filter(|key| !keys.contains(key)).collect();
    let strange: Vec<_> = keys.iter().filter(|key| !must.contains(key) && !may.contains(key)).collect();
    assert!(missing.is_empty() && strange.is_empty(), "missing {missing:?}, strange {strange:?}: {object:#}");
}

#[track_caller]
fn assert_counts(map: &Value) {
    assert!(map.as_object().expect("an object").values().all(Value::is_u64), "{map:#}");
}

#[track_caller]
fn assert_time(value: &Value) {
    let text = value.as_str().unwrap_or_default();
    assert!(text.parse::<jiff::Timestamp>().is_ok() && text.ends_with('Z'), "{value} is no time in UTC");
}
