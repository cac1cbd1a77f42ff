//! The endpoints of a daemon beside real servers: what they say while Redis fails in each of its ways, and whom they
//! keep answering.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use flate2::read::GzDecoder;
use redis::aio::MultiplexedConnection;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::harness::{Binary, Daemon, Hub, Kind, Layout, Metrics, Server, eventually, free_port, get};

/// Long enough for a busy machine; nothing waits for it unless it fails.
const PATIENCE: Duration = Duration::from_secs(30);

const HEARTBEAT: Duration = Duration::from_millis(200);

// === vocabulary ===

/// A daemon over the sorted set `presence:online` of the server at `url`, with a threshold of 2 s.
fn daemon(url: &str) -> Binary {
    let source = ["--zset", "presence:online", "--threshold", "2s", "--heartbeat-interval", "200ms"];
    Binary::new(source).env("PRESENCE_REAPER_REDIS__URL", url)
}

/// The URL of `server` for another user or password.
fn url_for(server: &Server, login: &str) -> String {
    format!("redis://{login}@127.0.0.1:{}/0", server.port())
}

/// What `/redis` says: the status code and the document.
async fn redis_page(daemon: &Daemon) -> Option<(u16, Value)> {
    let reply = daemon.get("/redis").await?;
    Some((reply.status, serde_json::from_str(&reply.body).expect("one JSON object")))
}

/// Whether `/redis` says why, and this is in it.
async fn gives_reason(daemon: &Daemon, why: &str) -> bool {
    redis_page(daemon).await.is_some_and(|(_, page)| page["reason"].as_str().is_some_and(|reason| reason.contains(why)))
}

/// Waits until `/redis` says this, and gives back the whole document, which must have all that such a state has.
#[track_caller]
fn says(daemon: &Daemon, status: u16, state: &str) -> impl Future<Output = Value> {
    let caller = std::panic::Location::caller();
    async move {
        let mut last = None;
        let became = timeout(PATIENCE, async {
            loop {
                last = redis_page(daemon).await;
                match &last {
                    Some((code, page)) if *code == status && page["state"] == state => return page.clone(),
                    _ => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        });
        let Ok(page) = became.await else {
            panic!("{caller}: not {status} {state}, but {last:?}\n{}", daemon.stderr())
        };
        let keys: Vec<&str> = page.as_object().expect("an object").keys().map(String::as_str).collect();
        let expected: &[&str] = match state {
            "ok" => &["state"],
            "unknown" => &["reason", "state"],
            _ => &["reason", "since", "state"],
        };
        assert_eq!(keys, expected, "{caller}: {page}");
        page
    }
}

/// What a client is told that writes.
async fn write(client: &mut MultiplexedConnection) -> Result<(), String> {
    let written = redis::cmd("SET").arg("x").arg("1").exec_async(client).await;
    written.map_err(|error| error.code().unwrap_or_default().to_owned())
}

async fn command(client: &mut MultiplexedConnection, words: &[&str]) {
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]).exec_async(client).await.unwrap_or_else(|error| panic!("{words:?}: {error}"));
}

/// An answer, taken apart.
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

/// Sends a request as it is, and reads until the connection is closed.
async fn ask(address: SocketAddr, method: &str, path: &str, headers: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: reaper\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("an end").unwrap();
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let headers = head.lines().filter_map(|line| line.split_once(": "));
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        headers: headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect(),
        body: bytes[end + 4..].to_vec(),
    }
}

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

/// Waits until a daemon answers at this address.
#[track_caller]
fn answers(address: SocketAddr) -> impl Future<Output = ()> {
    eventually(PATIENCE, move || async move { get(address, "/healthz").await.is_ok() })
}

// === /status ===

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

for_each_server! {
    /// The document of `-o json`, and around it what only a daemon has.
    async fn status_is_the_document_of_an_audit_with_the_loops_times(server: Server) {
        let hub = Hub::new(&server, Layout::Zset);
        let live = hub.live(5).await;
        let pinging = hub.ping_every(HEARTBEAT, &live);
        let dead = hub.stale(3, Duration::from_secs(3600)).await;
        let audit = daemon(&server.url()).args(["--dry-run", "-o", "json"]).run().await;
        let audit = audit.assert_code(0).json();
        let daemon = daemon(&server.url()).listening().spawn();
        let status = async || match daemon.get("/status").await {
            Some(reply) => serde_json::from_str(&reply.body).expect("JSON"),
            None => Value::Null,
        };
        eventually(PATIENCE, async || status().await["complete"] == true).await;
        let seen = status().await;
        let added: BTreeSet<_> = keys(&seen).difference(&keys(&audit)).copied().collect();
        assert_eq!(added, BTreeSet::from(["redis", "started_at", "version"]));
        assert!(keys(&audit).is_subset(&keys(&seen)), "{seen}");
        let (source, audited) = (&seen["sources"][0], &audit["sources"][0]);
        let added: BTreeSet<_> = keys(source).difference(&keys(audited)).copied().collect();
        let times = ["last_complete_sweep_at", "last_sweep_at", "next_survey_at"];
        assert_eq!(added, BTreeSet::from(times).union(&BTreeSet::from(["dry_run", "leader", "surveying"])).copied().collect());
        assert!(keys(audited).is_subset(&keys(source)), "{seen}");
        assert_eq!((&seen["dry_run"], &source["dry_run"]), (&false.into(), &false.into()));
        assert_eq!(seen["redis"], serde_json::json!({ "state": "ok" }));
        assert_eq!((&source["entries"]["live"], &source["entries"]["stale"]), (&5.into(), &3.into()));
        assert_eq!((&source["state"], &source["hold"]["reason"]), (&"grace".into(), &"grace".into()));
        let at = |text: &Value| text.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok()).expect("a time");
        assert!(at(&source["hold"]["ends_at"]) > at(&seen["at"]));
        let [started, swept, now] = [&seen["started_at"], &source["last_sweep_at"], &seen["at"]].map(at);
        assert!(started < swept && swept <= now && swept < at(&source["next_survey_at"]), "{seen}");
        assert_eq!(source["stale"][0]["id"].as_str().map(|id| dead.iter().any(|dead| dead == id)), Some(true));
        // Counts are those since the start, whatever the next surveys see.
        eventually(PATIENCE, async || {
            let source = &status().await["sources"][0];
            source["evicted"] == 3 && source["entries"]["stale"] == 0 && source["hold"].is_null()
        })
        .await;
        drop(pinging);
    }

    /// What Redis does is no reason to be silent: the latest is told, and that it is not the whole.
    async fn status_is_told_while_redis_is_stopped(server: Server) {
        Hub::new(&server, Layout::Zset).live(5).await;
        let daemon = daemon(&server.url()).listening().spawn();
        eventually(PATIENCE, async || daemon.get("/readyz").await.is_some_and(|reply| reply.status == 200)).await;
        server.stop();
        says(&daemon, 503, "failing").await;
        let began = Instant::now();
        let reply = daemon.get("/status").await.expect("an answer");
        assert!(began.elapsed() < Duration::from_secs(1), "nobody asked Redis");
        let status: Value = serde_json::from_str(&reply.body).unwrap();
        assert_eq!((&status["complete"], &status["redis"]["state"]), (&false.into(), &"failing".into()));
        let source = &status["sources"][0];
        assert_eq!(source["entries"]["live"], 5, "as the last complete survey saw it");
        assert!(source["error"].as_str().is_some_and(|error| error.contains("redis at 127.0.0.1")), "{source}");
        server.cont();
    }

    async fn a_shadow_says_that_it_evicts_nothing(server: Server) {
        let daemon = daemon(&server.url()).args(["run", "--dry-run"]).listening().spawn();
        says(&daemon, 200, "ok").await;
        let status: Value = serde_json::from_str(&daemon.get("/status").await.unwrap().body).unwrap();
        assert_eq!((&status["dry_run"], &status["sources"][0]["dry_run"]), (&true.into(), &true.into()));
    }
}

// === /redis ===

for_each_server! {
    async fn redis_that_does_not_answer_fails(server: Server) {
        let mut server = server;
        let daemon = daemon(&server.url()).listening().spawn();
        says(&daemon, 200, "ok").await;
        server.stop();
        let page = says(&daemon, 503, "failing").await;
        assert!(page["reason"].as_str().unwrap().starts_with("no answer in two looks in a row: "), "{page}");
        server.cont();
        says(&daemon, 200, "ok").await;
        server.kill();
        let since = says(&daemon, 503, "failing").await["since"].clone();
        tokio::time::sleep(HEARTBEAT * 3).await;
        assert_eq!(says(&daemon, 503, "failing").await["since"], since, "since the first look that had no answer");
        server.restart().await;
        says(&daemon, 200, "ok").await;
    }

    /// By the server's own account of itself: a shadow writes nothing that could be refused.
    async fn redis_out_of_memory_refuses(server: Server) {
        let mut client = server.client().await;
        let daemon = daemon(&server.url()).args(["run", "--dry-run"]).listening().spawn();
        says(&daemon, 200, "ok").await;
        command(&mut client, &["CONFIG", "SET", "maxmemory", "100kb"]).await;
        assert_eq!(write(&mut client).await, Err("OOM".to_owned()));
        let page = says(&daemon, 503, "oom").await;
        let reason = page["reason"].as_str().unwrap();
        assert!(reason.contains("maxmemory 102400, and maxmemory_policy noeviction"), "{reason}");
        command(&mut client, &["CONFIG", "SET", "maxmemory", "0"]).await;
        says(&daemon, 200, "ok").await;
        // Where Redis may free memory itself, only a refused command shows that it could not.
        command(&mut client, &["CONFIG", "SET", "maxmemory-policy", "volatile-lru", "maxmemory", "100kb"]).await;
        tokio::time::sleep(HEARTBEAT * 3).await;
        says(&daemon, 200, "ok").await;
        assert_eq!(write(&mut client).await, Err("OOM".to_owned()));
        says(&daemon, 503, "oom").await;
        command(&mut client, &["CONFIG", "SET", "maxmemory", "0"]).await;
        says(&daemon, 200, "ok").await;
    }

    async fn redis_that_can_not_save_refuses(kind: Kind) {
        let server = Server::builder(kind).args(["--save", "3600 1"]).start().await;
        let mut client = server.client().await;
        let daemon = daemon(&server.url()).listening().spawn();
        says(&daemon, 200, "ok").await;
        let in_the_way = server.dir().join("dump.rdb");
        fs::create_dir(&in_the_way).unwrap();
        write(&mut client).await.unwrap();
        command(&mut client, &["BGSAVE"]).await;
        eventually(PATIENCE, async || write(&mut client).await == Err("MISCONF".to_owned())).await;
        let page = says(&daemon, 503, "misconf").await;
        assert!(page["reason"].as_str().unwrap().contains("MISCONF"), "{page}");
        fs::remove_dir(&in_the_way).unwrap();
        command(&mut client, &["BGSAVE"]).await;
        eventually(PATIENCE, async || write(&mut client).await.is_ok()).await;
        says(&daemon, 200, "ok").await;
    }

    async fn redis_without_its_replicas_refuses(kind: Kind) {
        let server = Server::builder(kind).args(["--min-replicas-to-write", "1"]).start().await;
        let mut client = server.client().await;
        assert_eq!(write(&mut client).await, Err("NOREPLICAS".to_owned()));
        let daemon = daemon(&server.url()).listening().spawn();
        says(&daemon, 503, "noreplicas").await;
        command(&mut client, &["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
        says(&daemon, 200, "ok").await;
    }

    async fn a_replica_is_read_only(server: Server) {
        let mut client = server.client().await;
        let daemon = daemon(&server.url()).listening().spawn();
        says(&daemon, 200, "ok").await;
        command(&mut client, &["REPLICAOF", "127.0.0.1", "1"]).await;
        let page = says(&daemon, 503, "readonly").await;
        // Whichever notices first: a look, or a write of our own.
        let reason = page["reason"].as_str().unwrap();
        assert!(reason.contains("its role is slave") || reason.contains("read only replica"), "{page}");
        // Dials that find a replica fail one after the other, and none waits for itself.
        tokio::time::sleep(HEARTBEAT * 5).await;
        command(&mut client, &["REPLICAOF", "NO", "ONE"]).await;
        says(&daemon, 200, "ok").await;
    }

    async fn redis_that_loads_refuses(kind: Kind) {
        // Two hundred keys, each with a pause, and a look at the clients after each.
        let slowly = ["--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024"];
        let server = Server::builder(kind).args(slowly).args(["--rdbcompression", "no"]).start().await;
        let mut server = server;
        let mut client = server.client().await;
        for n in 0..200 {
            command(&mut client, &["SET", &format!("k{n}"), &"x".repeat(1100)]).await;
        }
        command(&mut client, &["SAVE"]).await;
        let daemon = daemon(&server.url()).listening().spawn();
        says(&daemon, 200, "ok").await;
        let (loading, ()) = tokio::join!(says(&daemon, 503, "loading"), server.restart());
        assert!(loading["reason"].as_str().is_some_and(|reason| reason.contains("loading")), "{loading}");
        says(&daemon, 200, "ok").await;
    }

    /// A long script of somebody else: nobody is served meanwhile.
    async fn a_busy_redis_fails(kind: Kind) {
        let server = Server::builder(kind).args(["--busy-reply-threshold", "50"]).start().await;
        let mut client = server.client().await;
        let daemon = daemon(&server.url()).listening().spawn();
        says(&daemon, 200, "ok").await;
        let mut busy = server.client().await;
        let script = tokio::spawn(async move {
            let _ = redis::cmd("EVAL").arg("while true do end").arg(0).exec_async(&mut busy).await;
        });
        says(&daemon, 503, "failing").await;
        command(&mut client, &["SCRIPT", "KILL"]).await;
        script.await.unwrap();
        says(&daemon, 200, "ok").await;
    }

    /// Trouble of our own never makes a hub refuse its users.
    async fn a_wrong_password_says_nothing_about_redis(kind: Kind) {
        let server = Server::builder(kind).password("right").start().await;
        let mut client = server.client().await;
        let daemon = daemon(&url_for(&server, ":wrong")).listening().spawn();
        eventually(PATIENCE, async || gives_reason(&daemon, "WRONGPASS").await).await;
        let page = says(&daemon, 200, "unknown").await;
        assert!(page["reason"].as_str().unwrap().contains("password_file"), "the remedy: {page}");
        command(&mut client, &["CONFIG", "SET", "requirepass", "wrong"]).await;
        says(&daemon, 200, "ok").await;
        // Known to be up or not: with the password gone, nothing is known any more.
        command(&mut client, &["CONFIG", "SET", "requirepass", "right"]).await;
        command(&mut client, &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
        says(&daemon, 200, "unknown").await;
    }

    async fn a_missing_permission_says_nothing_about_redis(server: Server) {
        let mut client = server.client().await;
        let set = ["ACL", "SETUSER", "reaper"];
        command(&mut client, &[&set[..], &["on", ">pw", "~elsewhere", "+@all"]].concat()).await;
        let daemon = daemon(&url_for(&server, "reaper:pw")).listening().spawn();
        eventually(PATIENCE, async || gives_reason(&daemon, "NOPERM").await).await;
        says(&daemon, 200, "unknown").await;
        command(&mut client, &[&set[..], &["~*"]].concat()).await;
        says(&daemon, 200, "ok").await;
        command(&mut client, &[&set[..], &["-info"]].concat()).await;
        let page = says(&daemon, 200, "unknown").await;
        assert!(page["reason"].as_str().unwrap().contains("INFO is denied"), "{page}");
        // What Redis refuses to everybody is known although our own trouble lasts.
        command(&mut client, &[&set[..], &["resetkeys", "~elsewhere", "+info"]].concat()).await;
        command(&mut client, &["CONFIG", "SET", "maxmemory", "100kb"]).await;
        says(&daemon, 503, "oom").await;
    }

    async fn a_key_of_another_type_says_nothing_about_redis(server: Server) {
        let mut client = server.client().await;
        command(&mut client, &["SET", "presence:online", "x"]).await;
        let daemon = daemon(&server.url()).listening().spawn();
        eventually(PATIENCE, async || gives_reason(&daemon, "WRONGTYPE").await).await;
        says(&daemon, 200, "unknown").await;
        command(&mut client, &["DEL", "presence:online"]).await;
        says(&daemon, 200, "ok").await;
    }

    async fn a_database_that_is_not_there_says_nothing_about_redis(server: Server) {
        let url = server.url().replace("/0", "/99");
        let daemon = daemon(&url).listening().spawn();
        eventually(PATIENCE, async || gives_reason(&daemon, "DB index").await).await;
        says(&daemon, 200, "unknown").await;
    }
}

/// A daemon that starts while Redis is down knows that too.
#[tokio::test]
async fn redis_that_never_answered_fails() {
    let daemon = daemon(&format!("redis://127.0.0.1:{}/0", free_port())).listening().spawn();
    says(&daemon, 503, "failing").await;
    assert_eq!(daemon.get("/healthz").await.map(|reply| reply.status), Some(200), "a restart would not help");
    assert_eq!(daemon.get("/readyz").await.map(|reply| reply.status), Some(503));
}

// === the pages themselves ===

#[tokio::test]
async fn every_address_answers_every_page_to_get_and_head() {
    let addresses = [loopback(), loopback(), (Ipv6Addr::LOCALHOST, free_port()).into()];
    let [one, two, three] = addresses.map(|address| address.to_string());
    let both = format!("{two},{three}");
    let _daemon = daemon("redis://127.0.0.1:1").args(["--listen", &one, "--listen", &both]).spawn();
    for address in addresses {
        answers(address).await;
        let index = ask(address, "GET", "/", "").await;
        assert_eq!(index.headers["content-type"], "text/html; charset=utf-8");
        let index = String::from_utf8(index.body).unwrap();
        let links: Vec<&str> = index.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert_eq!(links, ["/metrics", "/status", "/redis", "/healthz", "/-/healthy", "/readyz", "/-/ready"]);
        for path in links {
            let got = ask(address, "GET", path, "").await;
            let head = ask(address, "HEAD", path, "").await;
            assert!([200, 503].contains(&got.status), "{path}: {}", got.status);
            assert!(!got.body.is_empty() && head.body.is_empty(), "{path}");
            assert_eq!(head.headers["content-type"], got.headers["content-type"], "{path}");
            assert_eq!(got.headers["content-length"], got.body.len().to_string(), "{path}");
        }
        let nowhere = ask(address, "GET", "/nowhere", "").await;
        assert_eq!((nowhere.status, &*nowhere.body), (404, &b"there is no such page; / lists them\n"[..]));
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let refused = ask(address, method, "/status", "").await;
            assert_eq!((refused.status, &*refused.headers["allow"]), (405, "GET, HEAD"), "{method}");
        }
    }
}

#[tokio::test]
async fn long_pages_are_packed_for_those_who_ask() {
    let address = loopback();
    let _daemon = daemon("redis://127.0.0.1:1").args(["--listen", &address.to_string()]).spawn();
    answers(address).await;
    for (path, begins) in [("/metrics", "# HELP "), ("/status", "{\n  \"schema_version\": 1,")] {
        let plain = ask(address, "GET", path, "").await;
        assert!(!plain.headers.contains_key("content-encoding"), "{path}");
        let packed = ask(address, "GET", path, "Accept-Encoding: gzip\r\n").await;
        assert_eq!(packed.headers["content-encoding"], "gzip", "{path}");
        assert!(packed.body.len() < plain.body.len() / 2, "{path}: {} of {}", packed.body.len(), plain.body.len());
        let mut text = String::new();
        GzDecoder::new(&*packed.body).read_to_string(&mut text).unwrap();
        assert!(text.starts_with(begins), "{path}: {text}");
        let head = ask(address, "HEAD", path, "Accept-Encoding: gzip\r\n").await;
        assert_eq!((&*head.headers["content-encoding"], head.body.len()), ("gzip", 0), "{path}");
    }
}

/// Those who connect and never ask keep nobody out, neither at their own address nor at another.
#[tokio::test]
async fn a_flood_of_half_open_connections_does_no_harm() {
    let (flooded, other) = (loopback(), loopback());
    let listen = format!("{flooded},{other}");
    let _daemon = daemon("redis://127.0.0.1:1").args(["--listen", &listen]).spawn();
    answers(flooded).await;
    answers(other).await;
    let mut half_open = Vec::new();
    let flood = async |half_open: &mut Vec<TcpStream>, count: usize| {
        for n in 0..count {
            let mut stream = TcpStream::connect(flooded).await.unwrap();
            let beginning: &[u8] = if n % 2 == 0 { b"GET /metrics HTTP/1.1\r\nHost: r" } else { b"" };
            // One that was let go already refuses it.
            let _ = stream.write_all(beginning).await;
            half_open.push(stream);
        }
    };
    flood(&mut half_open, 500).await;
    for address in [flooded, other, flooded, other] {
        let began = Instant::now();
        let reply = get(address, "/healthz").await.expect("an answer");
        assert!(began.elapsed() < Duration::from_secs(1), "{address}: after {:?}", began.elapsed());
        assert_eq!((reply.status, &*reply.body), (200, "ok\n"));
    }
    // And while it goes on.
    let ((), ()) = tokio::join!(flood(&mut half_open, 500), async {
        for _ in 0..20 {
            let began = Instant::now();
            get(flooded, "/healthz").await.expect("an answer");
            assert!(began.elapsed() < Duration::from_secs(1), "after {:?}", began.elapsed());
        }
    });
    let metrics = Metrics(get(other, "/metrics").await.expect("an answer").body);
    let open = metrics.value("process_open_fds").expect("told on Linux");
    assert!(open < 200.0, "{open} files are open");
}
