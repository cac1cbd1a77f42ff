//! The ACL line that `check --acl` prints: what it grants is what the program does. (`main_job` does its work under it.)

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use redis::aio::MultiplexedConnection;
use regex::Regex;

use crate::harness::{Binary, Finished, Hub, Kind, Layout, Server, eventually, generation};
use crate::notify::Listener;
use crate::world::{Confined, FAST, SOON, STEADY, reaper_with, redis_cli};

/// Every layout, every verb, keys and patterns, every way to tell, another database.
const EVERYTHING: &str = r#"
[redis]
username = "reaper"
password_file = "/nowhere"
[[source]]
name = "zset"
zset = "online"
db = 1
companions = ["UNLINK box:{id}", "SREM users:{id} x", "ZREM lobby:{id} x", "HDEL names:{id} x"]
[[source]]
name = "zset-with-others"
zset = "others"
ignore = ["Version"]
[[source]]
name = "rooms"
zset = ["lobby:seen", "room:{_}:seen"]
companions = ["SREM conns:{key} {id}"]
notify = [{ publish = "left:{key}", payload = "{remaining}" }, { xadd = "log:{source}" },
    { spublish = "shard:{source}" }, { webhook = "https://a/", outbox = true }]
[[source]]
name = "shards"
hash = "shard:{n}"
last_ping = "value"
notify = [{ publish = "off", payload = "{remaining}" }]
[[source]]
name = "hash"
hash = "clients"
[[source]]
name = "strings"
keys = "conn:{id}"
[[source]]
name = "hashes"
keys = "record:{id}"
last_ping = "field at"
unless = ["exists job:{id}", "sismember busy:{id} {id}", "hexists jobs {id}", "disjoint tags:{id} all-tags", "hget states {id} eq busy", "get state:{id} eq busy", "zscore queue {id} eq 1"]
[[source]]
name = "sets"
set = ["workers", "workers:{_}"]
id = "worker:{id...}"
last_ping = ["hget beats {id}", "zscore scores {id}", "get seen:{id}", "exists {member}"]
where = ["exists real:{id}"]
missing = "stale"
notify = [{ publish = "off", payload = "{remaining}" }]
[[source]]
name = "idle"
keys = "turn:{id}"
last_ping = "idle"
[[source]]
name = "more"
keys = "session:{id}"
on_evict = "expire 1h"
companions = [
  "LREM waiting:{id} x", "HSET told:{id} state gone", "EXPIRE kept:{id} 5m", "decr-ref counts {id}",
  "for-each {x} in smembers set-of:{id} do SREM there:{x} {id}", "for-each {x} in hkeys hash-of:{id} do SREM there:{x} {id}",
  "for-each {x} in hvals hash-of:{id} do SREM there:{x} {id}", "for-each {x} in zmembers zset-of:{id} do SREM there:{x} {id}",
  "for-each {x} in lrange list-of:{id} do if not sismember open:{x} {id} do SREM there:{x} {id}",
]
notify = [{ publish = "off", when = "not exists left-by:{id}" }]
[[source]]
name = "said"
keys = "desk:{id}"
last_ping = "field at"
on_evict = "set state gone"
"#;

async fn check(text: &str, words: &[&str]) -> Finished {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("reaper.toml");
    std::fs::write(&path, text).unwrap();
    Binary::new(["check"]).args(words).args(["--config"]).args([&path]).run().await
}

async fn asks(client: &mut MultiplexedConnection, words: &[&[u8]]) -> bool {
    let mut command = redis::cmd("ACL");
    command.arg("DRYRUN").arg("reaper").arg(words);
    let answer: redis::RedisResult<String> = command.query_async(client).await;
    answer.is_ok_and(|answer| answer == "OK")
}

/// A command that the store sends and no line grants would fail in the field, on the day when somebody uses the line.
#[tokio::test]
async fn every_command_in_the_code_of_the_store_is_granted() {
    let runs = [check(EVERYTHING, &["--acl=6.2"]).await, check(EVERYTHING, &["--acl=7.0"]).await];
    let lines = runs.map(|run| run.assert_code(0).stdout.clone()).join(" ");
    let word =
        |word: &str| Some(word.trim_start_matches('(').strip_prefix('+')?.trim().split('|').next()?.to_uppercase());
    let granted: BTreeSet<String> = lines.split(' ').filter_map(word).collect();
    let server = Server::start(Kind::Redis).await;
    let commands: Vec<Vec<redis::Value>> = redis::cmd("COMMAND").query_async(&mut server.client().await).await.unwrap();
    let name = |words: &Vec<redis::Value>| redis::from_redis_value_ref::<String>(&words[0]).unwrap();
    let commands: BTreeSet<String> = commands.iter().map(name).collect();
    let literal = Regex::new(r#"["']([A-Z]+)["']"#).unwrap();

    let mut named = BTreeSet::new();
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store")).unwrap() {
        let path = entry.unwrap().path();
        // Codes of errors may be called like commands, and who knows those sends nothing; the list itself proves nothing.
        if ["error.rs", "standing.rs", "rights.rs", "rights"].iter().any(|name| path.ends_with(name)) {
            continue;
        }
        let text = std::fs::read_to_string(path).unwrap();
        let code = text.split("\n#[cfg(test)]").next().unwrap();
        let words = literal.captures_iter(code).map(|found| found[1].to_owned());
        named.extend(words.filter(|word| commands.contains(&word.to_lowercase())));
    }

    assert!(named.len() > 15, "{named:?}");
    let missing: Vec<_> = named.difference(&granted).collect();
    assert!(missing.is_empty(), "the store says {missing:?}, and src/store/rights.rs does not");
}

for_each_server! {
    /// The line as it stands is refused whole; with the password it grants each command on its own keys alone.
    async fn it_grants_what_is_needed_and_no_more(server: Server) {
        if !server.kind().is_modern() {
            return;
        }
        let line = check(EVERYTHING, &["--acl"]).await.assert_code(0).stdout.clone();
        let mut client = server.client().await;
        // As Redis 6 did: whoever is made anew may use every channel, unless told otherwise.
        assert_eq!(redis_cli(&server, "CONFIG SET acl-pubsub-default allchannels").await, "OK");

        assert!(redis_cli(&server, &line).await.starts_with("ERR "));
        let users: Vec<String> = redis::cmd("ACL").arg("USERS").query_async(&mut client).await.unwrap();
        assert_eq!(users, ["default"], "nobody gets in by a placeholder");
        assert_eq!(redis_cli(&server, &line.replace("<PASSWORD>", ">x")).await, "OK");
        assert_eq!(redis_cli(&server, &line.replace("<PASSWORD> ", "")).await, "OK", "again, for other rights");

        let allowed: [&[&[u8]]; 46] = [
            &[b"SCAN", b"0"],
            &[b"ZRANGE", b"room:1:seen", b"0", b"1"],
            &[b"ZCOUNT", b"lobby:seen", b"0", b"1"],
            &[b"SREM", b"conns:room:1:seen", b"x"],
            &[b"HLEN", b"shard:1"],
            &[b"PUBLISH", b"off", b"x"],
            &[b"PUBLISH", b"left:lobby:seen", b"x"],
            &[b"XADD", b"log:rooms", b"*", b"a", b"b"],
            &[b"EVALSHA", b"x", b"2", b"log:rooms", b"room:1:seen"],
            &[b"EXISTS", b"job:17"],
            &[b"SISMEMBER", b"busy:17", b"17"],
            &[b"SINTER", b"tags:17", b"all-tags"],
            &[b"HGET", b"states", b"17"],
            &[b"EVALSHA", b"x", b"4", b"record:1", b"job:1", b"tags:1", b"queue"],
            &[b"INFO"],
            &[b"SELECT", b"1"],
            &[b"ZREM", b"online", b"x"],
            &[b"UNLINK", b"box:1"],
            &[b"UNLINK", b"conn:1"],
            &[b"HDEL", b"names:1", b"x"],
            &[b"GET", b"conn:1"],
            &[b"EVALSHA", b"x", b"3", b"online", b"box:1", b"names:1"],
            &[b"HSET", b"presence-reaper:{0}:hash-0:state", b"field", b"value"],
            &[b"HINCRBY", b"presence-reaper:{0}:hash-0:state", b"canary", b"1"],
            &[b"EVALSHA", b"x", b"2", b"presence-reaper:{0}:hash-0:lease", b"online"],
            &[b"HGETALL", b"presence-reaper:{0}:instances"],
            &[b"HDEL", b"presence-reaper:{0}:instances", b"field"],
            &[b"LREM", b"waiting:1", b"0", b"x"],
            &[b"HSET", b"told:1", b"state", b"gone"],
            &[b"PEXPIRE", b"kept:1", b"1"],
            &[b"HINCRBY", b"counts", b"1", b"-1"],
            &[b"HGET", b"counts", b"1"],
            &[b"HDEL", b"counts", b"1"],
            &[b"SMEMBERS", b"set-of:1"],
            &[b"SCARD", b"set-of:1"],
            &[b"HKEYS", b"hash-of:1"],
            &[b"HVALS", b"hash-of:1"],
            &[b"ZRANGE", b"zset-of:1", b"0", b"-1"],
            &[b"LRANGE", b"list-of:1", b"0", b"-1"],
            &[b"LLEN", b"list-of:1"],
            &[b"SISMEMBER", b"open:1", b"x"],
            &[b"EXISTS", b"left-by:1"],
            &[b"PTTL", b"session:1"],
            &[b"PEXPIRE", b"session:1", b"1"],
            &[b"HSET", b"desk:1", b"state", b"gone"],
            &[b"EVALSHA", b"x", b"5", b"session:1", b"counts", b"list-of:1", b"open:1", b"left-by:1"],
        ];
        let refused: [&[&[u8]]; 25] = [
            &[b"ZRANGE", b"others", b"0", b"1"],
            &[b"UNLINK", b"room:1:seen"],
            &[b"ZREM", b"conns:room:1:seen", b"x"],
            &[b"PUBLISH", b"elsewhere", b"x"],
            &[b"PUBLISH", b"left:else", b"x"],
            &[b"SUBSCRIBE", b"off"],
            &[b"XADD", b"elsewhere", b"*", b"a", b"b"],
            &[b"XDEL", b"log:rooms", b"1-1"],
            &[b"UNLINK", b"job:17"],
            &[b"EXISTS", b"busy:17"],
            &[b"SMEMBERS", b"all-tags"],
            &[b"KEYS", b"*"],
            &[b"FLUSHALL"],
            &[b"UNLINK", b"online"],
            &[b"UNLINK", b"clients"],
            &[b"UNLINK", b"elsewhere"],
            &[b"GET", b"box:1"],
            &[b"SET", b"conn:1", b"x"],
            &[b"EVALSHA", b"x", b"1", b"elsewhere"],
            &[b"ZRANGEBYSCORE", b"others", b"0", b"0"],
            &[b"HSET", b"clients", b"field", b"value"],
            &[b"DEL", b"presence-reaper:{0}:hash-0:state"],
            &[b"SET", b"clients", b"x"],
            &[b"UNLINK", b"session:1"],
            &[b"UNLINK", b"desk:1"],
        ];
        for (words, may) in allowed.map(|words| (words, true)).into_iter().chain(refused.map(|words| (words, false))) {
            let text: Vec<_> = words.iter().map(|word| String::from_utf8_lossy(word)).collect();
            assert_eq!(asks(&mut client, words).await, may, "{text:?}");
        }
    }

    /// Blanks, quotes, brackets and bytes that are no text, in what redis-cli and two grammars of the server split.
    async fn keys_of_any_bytes_come_through(server: Server) {
        if !server.kind().is_modern() {
            return;
        }
        let text = concat!(
            "[redis]\nusername = \"reaper\"\npassword_file = \"/nowhere\"\n[[source]]\nname = \"odd\"\nzset = '\"a b*[c](d)\\xff\\xc3\\xa9\\\\\\\"q\"'\n",
            "companions = ['''UNLINK \"it's ({id})\"''', 'SREM \"\\xff\\n{{x}}:{id}\" x', 'HDEL plain*:{id} x']\n",
        );
        let line = check(text, &["--acl"]).await.assert_code(0).stdout.clone();
        assert_eq!(redis_cli(&server, &line.replace("<PASSWORD>", ">x")).await, "OK", "{line}");
        let mut client = server.client().await;
        let container: &[u8] = b"a b*[c](d)\xff\xc3\xa9\\\"q";
        let allowed: [&[&[u8]]; 5] = [
            &[b"ZREM", container, b"x"],
            &[b"UNLINK", b"it's (17)"],
            &[b"SREM", b"\xff\n{x}:17", b"x"],
            &[b"HDEL", b"plain*:17", b"x"],
            &[b"EVALSHA", b"x", b"2", container, b"plain*:17"],
        ];
        for words in allowed {
            let text: Vec<_> = words.iter().map(|word| String::from_utf8_lossy(word)).collect();
            assert!(asks(&mut client, words).await, "{text:?}: {line}");
        }
        assert!(!asks(&mut client, &[b"HDEL", b"plain:17", b"x"]).await, "a `*` of the key is no star of the glob: {line}");
        assert!(!asks(&mut client, &[b"ZREM", b"a bX[c](d)\xff\xc3\xa9\\\"q", b"x"]).await, "{line}");
    }

    /// The line for older servers, which newer ones still understand, does as well.
    async fn the_line_for_redis_6_does_the_job_too(server: Server) {
        let hub = Hub::new(&server, Layout::Json);
        hub.stale(7, std::time::Duration::from_secs(3600)).await;
        for (version, user) in [("6.0", "old"), ("6.2", "older")] {
            let grammar = format!("--acl={version}");
            let confined = Confined::make(&server, user, &[&grammar], &hub.source_flags()).await;
            let run = confined.run(reaper_with(&["check", "--connect"], &server.url(), &hub, FAST));
            let run = run.run().await;
            assert!(run.assert_code(0).stdout.contains("has all "), "{}", run.stdout);
        }
    }

    /// With `--connect` the server says how old it is.
    async fn the_server_can_be_asked_for_its_grammar(server: Server) {
        let words = ["check", "--connect", "--acl", "--zset", "online", "--redis-url", &server.url()];
        let run = Binary::new(words).run().await;
        run.assert_code(0);
        let (channels, selectors) = match generation(server.kind()) {
            "6.0" => ("", ""),
            "6.2" => ("resetchannels ", ""),
            _ => ("resetchannels ", "clearselectors "),
        };
        let expected = format!("ACL SETUSER presence-reaper on <PASSWORD> resetkeys {channels}{selectors}-@all ");
        assert!(run.stdout.starts_with(&expected), "{}", run.stdout);
        assert_eq!(run.stdout.lines().count(), 1);
        assert!(run.stderr.contains("username = \"presence-reaper\""), "{}", run.stderr);
    }
}

// === deploy/redis ===

/// The users of `deploy/redis`: who evicts, and who only looks.
const USERS: [(&str, &[&str]); 2] = [("reaper", &[]), ("auditor", &["--dry-run"])];

const GENERATIONS: [&str; 3] = ["6.0", "6.2", "7.0"];

fn deployed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/redis").join(name)
}

/// Where the hash of this user's password belongs in a file of users.
fn placeholder(user: &str) -> String {
    format!("#SHA256-OF-THE-PASSWORD-OF-{}", user.to_uppercase())
}

/// A file for `aclfile`, made from what `check --acl` prints.
async fn users_file(generation: &str) -> String {
    let mut file = String::new();
    for (user, words) in USERS {
        let grammar = format!("--acl={generation}");
        let check = Binary::new(["check", &grammar, "--redis-username", user]).args(words);
        let line = check.args(["--config"]).args([deployed("reaper.toml")]).run().await.assert_code(0).stdout.clone();
        let rights = line.strip_prefix(&format!("ACL SETUSER {user} on <PASSWORD> ")).unwrap();
        assert!(!rights.contains('"'), "a file of users has no quotes: {rights}");
        file.push_str(&format!("user {user} on {} {rights}", placeholder(user)));
    }
    file
}

fn with_passwords(file: &str) -> String {
    USERS.iter().fold(file.to_owned(), |file, (user, _)| {
        let hash = ring::digest::digest(&ring::digest::SHA256, Confined::PASSWORD.as_bytes());
        let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        file.replace(&placeholder(user), &format!("#{hash}"))
    })
}

/// The files are what the program prints for the configuration beside them; UPDATE_GOLDEN=1 writes them anew.
#[tokio::test]
async fn the_files_of_users_are_what_the_program_asks_for() {
    for generation in GENERATIONS {
        let (path, expected) = (deployed(&format!("users-{generation}.acl")), users_file(generation).await);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &expected).unwrap();
        }
        let file = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(file, expected, "{} differs: UPDATE_GOLDEN=1 cargo test writes it anew", path.display());
    }
}

for_each_server! {
    /// The server loads its generation's file, once it has passwords; then one user does the whole job, and the other sees it
    /// all and changes nothing.
    async fn the_files_of_users_do(kind: Kind) {
        let dir = tempfile::TempDir::new().unwrap();
        let users = dir.path().join("users.acl");
        let config = deployed("reaper.toml");
        // What it begins with has the harness' own user in it.
        std::fs::write(&users, "user default on nopass ~* +@all\n").unwrap();
        let everything = std::fs::read_to_string(deployed(&format!("users-{}.acl", generation(kind)))).unwrap();
        let server = Server::builder(kind).args(["--aclfile", users.to_str().unwrap()]).start().await;
        let all = if kind.version() < (6, 2) { "~*" } else { "~* &*" };
        let load = async |file: &str| {
            std::fs::write(&users, format!("user default on nopass {all} +@all\n{file}")).unwrap();
            redis_cli(&server, "ACL LOAD").await
        };

        assert_ne!(load(&everything).await, "OK", "nobody gets in by a placeholder");
        assert_eq!(load(&with_passwords(&everything)).await, "OK");

        let confined = USERS.map(|(user, _)| Confined::named(user));
        let [reaper, auditor] = &confined;
        let file = ["--config", config.to_str().unwrap(), "--redis-url", &server.url()];
        let old = "1700000000000";
        let crowd = [
            format!("ZADD presence:online {old} c1"), "SET conn:c1 x".into(), "HSET presence:names c1 x".into(),
            format!("ZADD room:7:seen {old} c1"), "SADD room:7:members c1 c2".into(),
        ];
        redis_cli(&server, &crowd.join("\n")).await;
        let audit = auditor.run(Binary::new(["--dry-run", "-o", "json"]).args(file)).run().await.assert_code(0).json();
        assert_eq!((&audit["sources"][0]["would_evict"], &audit["sources"][1]["would_evict"]), (&1.into(), &1.into()));
        auditor.assert_nothing_was_refused(&server).await;
        // Asking whether it may evict is refused, and logged.
        let told = auditor.run(Binary::new(["check", "--connect", "--dry-run", "--sample-for", "0s"]).args(file)).run().await;
        assert!(told.assert_code(0).stdout.contains("has all "), "{}", told.stdout);
        let error = auditor.run(Binary::new(["hold"]).args(file)).run().await;
        assert_eq!(error.code, Some(1), "an order is a write: {}", error.stdout);

        let told = reaper.run(Binary::new(["check", "--connect", "--sample-for", "0s"]).args(file)).run().await;
        assert!(told.assert_code(0).stdout.contains("has all "), "{}", told.stdout);
        reaper.run(Binary::new(["hold"]).args(file)).run().await.assert_code(0);
        reaper.run(Binary::new(["resume"]).args(file)).run().await.assert_code(0);
        reaper.assert_nothing_was_refused(&server).await;

        // The daemon at its work, at a pace for which nobody has to wait: no right is told by that.
        let pace = "\nthreshold = \"5s\"\nheartbeat_interval = \"500ms\"\n";
        let text = std::fs::read_to_string(&config).unwrap();
        let quick = dir.path().join("reaper.toml");
        std::fs::write(&quick, ["hub", "rooms"].iter().fold(text, |text, name| {
            let name = format!("name = \"{name}\"\n");
            assert!(text.contains(&name));
            text.replace(&name, &(name.trim_end().to_owned() + pace))
        })).unwrap();
        let hubs = ["presence:online", "room:7:seen"].map(|key| Hub::new(&server, Layout::Zset).key(key));
        let mut pinging = Vec::new();
        for hub in &hubs {
            pinging.push(hub.ping_every(STEADY.heartbeat, &hub.live(5).await));
        }
        let mut listener = Listener::on(&server).await;
        let daemon = Binary::new(["run", "--config", quick.to_str().unwrap(), "--redis-url", &server.url()]);
        let daemon = reaper.run(daemon).listening().spawn();
        let has = async |command: &str| redis_cli(&server, command).await != "0";
        eventually(SOON, async || !has("EXISTS conn:c1").await && !has("SISMEMBER room:7:members c1").await).await;
        daemon.terminate();
        daemon.wait(SOON).await.assert_code(0);
        reaper.assert_nothing_was_refused(&server).await;
        assert!(!has("EXISTS presence:names").await && has("SISMEMBER room:7:members c2").await);
        let told: BTreeSet<String> = listener.messages().await.into_iter().map(|(channel, _)| channel).collect();
        assert_eq!(told, ["presence:offline", "room:7:left"].map(String::from).into());
        for (hub, pinging) in hubs.iter().zip(pinging) {
            pinging.stop().await;
            assert_eq!(hub.remaining().await.len(), 5);
            hub.verdict(STEADY.threshold).await.assert_none_lost();
        }

        let elsewhere: redis::RedisResult<()> = async {
            let url = format!("redis://reaper:{}@127.0.0.1:{}", Confined::PASSWORD, server.port());
            let mut client = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
            redis::cmd("GET").arg("secrets").exec_async(&mut client).await
        }
        .await;
        assert_eq!(elsewhere.unwrap_err().code(), Some("NOPERM"));
    }
}
