//! `check --connect`: what it says of a server, of our rights there, and of what looks wrong in a source.

use std::time::Duration;

use tokio::time::Instant;

use crate::harness::{Authority, Binary, Finished, Hub, Kind, Layout, Leaf, Server, confined, free_port};
use crate::world::{STEADY, reaper_with, redis_cli};

const HOUR: Duration = Duration::from_secs(3600);

/// `check --connect` on one source by these flags, without waiting for pings.
async fn look(server: &Server, flags: &[&str]) -> Finished {
    let words = ["check", "--connect", "--sample-for", "0s", "--redis-url", &server.url()];
    Binary::new(words).args(flags).run().await
}

/// The same on the sources of a file.
async fn look_by(server: &Server, text: &str) -> Finished {
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("reaper.toml");
    std::fs::write(&file, text).unwrap();
    look(server, &["--config", file.to_str().unwrap()]).await
}

/// A server as `check` names it, without its minor version.
fn name_of(kind: Kind) -> String {
    let name = if kind == Kind::Valkey { "valkey" } else { "redis" };
    format!("{name} {}", kind.version().0)
}

/// It must say all of these, and exit so.
#[track_caller]
fn says(run: &Finished, code: i32, parts: &[&str]) {
    run.assert_code(code);
    for part in parts {
        assert!(run.stdout.contains(part), "{part}:\n{}", run.stdout);
    }
}

/// Writes members of the sorted set `online`: their scores are server time in ms and so much more.
async fn scores(server: &Server, offsets: impl IntoIterator<Item = i64>) {
    let mut client = server.client().await;
    let (seconds, micros): (i64, i64) = redis::cmd("TIME").query_async(&mut client).await.unwrap();
    let mut add = redis::cmd("ZADD");
    add.arg("online");
    for (number, offset) in offsets.into_iter().enumerate() {
        add.arg(seconds * 1_000 + micros / 1_000 + offset).arg(format!("c-{number}"));
    }
    add.exec_async(&mut client).await.unwrap();
}

for_each_server! {
    /// A source as it should be: in each layout it is sampled, its rhythm measured, nothing suspected, nothing written.
    async fn a_good_source_is_seen_and_not_suspected(server: Server) {
        for layout in Layout::ALL {
            redis_cli(&server, "FLUSHALL").await;
            let hub = Hub::new(&server, layout);
            let live = hub.live(60).await;
            hub.stale(40, HOUR).await;
            let pinging = hub.ping_every(STEADY.heartbeat, &live);
            let words = ["check", "--connect", "--sample-for", "2s"];
            let run = reaper_with(&words, &server.url(), &hub, STEADY).run().await;
            pinging.stop().await;
            let times = if layout == Layout::Json { "100 iso-8601" } else { "100 unix-ms" };
            let user = if confined() { "user reaper-" } else { "user default: has all " };
            says(&run, 0, &[&name_of(server.kind()), user, ": has all ", "entries    100, all there are", times, " pings in "]);
            assert!(!run.stdout.contains("warning"), "{layout:?}: {}", run.stdout);
            assert!(run.stdout.ends_with("\nThis configuration works on this server.\n"), "{}", run.stdout);
            assert_eq!(hub.remaining().await.len(), 100);
        }
        server.reset_stats().await;
        look(&server, &["--keys", "conn:{id}", "--last-ping", "field last_ping", "--companion", "UNLINK box:{id}"]).await.assert_code(0);
        assert!(server.write_commands_seen().await.is_empty(), "{:?}", server.write_commands_seen().await);
    }

    /// Each lacking right is named, with the line that mends it; by whatever way the user lets itself be asked.
    async fn a_lacking_right_is_named(server: Server) {
        if !server.kind().is_modern() {
            // It has no script that asks, so the first way is the third there.
            return;
        }
        let ways = ["+eval", "+multi +discard", "+time"];
        for (number, way) in ways.into_iter().enumerate() {
            let user = format!("poor-{number}");
            let commands = "+info +time +type +hscan +hmget +hdel +evalsha +srem";
            let rule = format!("ACL SETUSER {user} on >secret -@all {commands} {way} ~clients ~users:0* ~users:p*");
            assert_eq!(redis_cli(&server, &rule).await, "OK");
            server.reset_stats().await;
            let run = Binary::new(["check", "--connect", "--redis-username", &user, "--redis-url", &server.url()])
                .args(["--hash", "clients", "--companion", "SREM users:{id} x", "--companion", "UNLINK box:{id}"])
                .env("PRESENCE_REAPER_REDIS__PASSWORD", "secret")
                .run()
                .await;
            let lacking: &[&str] = match number {
                0 | 1 => &[
                    "it may not EVALSHA, EVAL on box:* clients presence-reaper:* users:*",
                    "it may not TYPE, UNLINK on box:*",
                    "it may not HMGET, HGETALL, HINCRBY, HSET, PEXPIRE, GET, SET, XLEN, UNLINK, HDEL on presence-reaper:*",
                ],
                _ => &["it may not EVAL on box:*", "it may not TYPE on box:*", "not asked: SREM on users:*", "UNLINK on box:*"],
            };
            says(&run, 1, lacking);
            assert!(!run.stdout.contains("may not SREM") && !run.stdout.contains("may not HDEL"), "{}", run.stdout);
            says(&run, 1, &[&format!("\nACL SETUSER {user} on <PASSWORD> "), "does not work on this server"]);
            let writes = server.write_commands_seen().await;
            assert!(writes.values().all(|calls| *calls == 0), "what was asked for was refused or not run: {writes:?}");

            let line = run.stdout.lines().find(|line| line.starts_with("ACL SETUSER")).unwrap();
            assert_eq!(redis_cli(&server, &line.replace("<PASSWORD> ", "")).await, "OK", "{line}");
            let mended = Binary::new(["check", "--connect", "--redis-username", &user, "--redis-url", &server.url()])
                .args(["--hash", "clients", "--companion", "SREM users:{id} x", "--companion", "UNLINK box:{id}"])
                .env("PRESENCE_REAPER_REDIS__PASSWORD", "secret")
                .run()
                .await;
            says(&mended, 0, &["has all "]);
        }
    }

    /// Times in another unit than configured.
    async fn a_wrong_unit_is_suspected(server: Server) {
        scores(&server, (0..30).map(|n| -n * 1_000)).await;
        let run = look(&server, &["--zset", "online", "--format", "unix-s"]).await;
        says(&run, 0, &["unreadable 30 implausible; c-", "write format = \"unix-ms\"", "with 1 warning: see above."]);
    }

    /// The hub stores when an entry ends.
    async fn a_deadline_is_suspected(server: Server) {
        scores(&server, (0..30).map(|n| 60_000 - n * 1_000)).await;
        let run = look(&server, &["--zset", "online"]).await;
        says(&run, 0, &["warning: most times lie ahead", "write deadline = \"1m\""]);
        let right = look(&server, &["--zset", "online", "--deadline", "1m"]).await;
        assert!(!right.assert_code(0).stdout.contains("warning"), "{}", right.stdout);
    }

    /// A large source is not read whole.
    async fn a_sample_is_bounded(server: Server) {
        scores(&server, (0..5_000).map(|n| -n * 6)).await;
        says(&look(&server, &["--zset", "online"]).await, 0, &["entries    1000, a sample", "by the ages of 1000 entries"]);
    }

    /// Pings every 405 s, and a threshold of five minutes.
    async fn an_interval_that_does_not_fit_is_suspected(server: Server) {
        scores(&server, (0..300).map(|n| -n * 1_350)).await;
        let run = look(&server, &["--zset", "online"]).await;
        says(&run, 0, &["apparently 6m 4", "by the ages of 300 entries", "write threshold = \"34m\" at least", "heartbeat_interval = \"6m"]);
    }

    /// Of each room its share, so that a large one does not hide the others; of more rooms than a hundred, some.
    async fn rooms_are_sampled_one_by_one(server: Server) {
        for (key, count) in [("room:large", 2_000), ("room:a", 10), ("room:b", 10), ("lobby", 5)] {
            let hub = Hub::new(&server, Layout::Zset).key(key);
            hub.live(count).await;
        }
        let mut client = server.client().await;
        redis::cmd("MSET").arg(&["room:other", "x", "rooms", "x"]).exec_async(&mut client).await.unwrap();
        let file = |zset: &str| format!("[[source]]\nname = \"rooms\"\nzset = {zset}\nthreshold = \"5m\"\n");
        let run = look_by(&server, &file(r#""room:{room}""#)).await;
        says(&run, 0, &["source rooms: zset room:*\n", "entries    353 in 3 keys, a sample", "times      353 unix-ms; configured auto"]);
        let run = look_by(&server, &file(r#"["lobby", "rooms", "room:{_}"]"#)).await;
        says(&run, 1, &["error: rooms holds a string", "entries    275 in 4 keys, a sample", "does not work"]);

        let mut add = redis::pipe();
        for n in 0..150 {
            add.cmd("HSET").arg(format!("shard:{n}")).arg("c").arg("now").ignore();
        }
        add.exec_async(&mut client).await.unwrap();
        let run = look_by(&server, "[[source]]\nname = \"shards\"\nhash = \"shard:{n}\"\nlast_ping = \"value\"\n").await;
        says(&run, 0, &["entries    100 in 100 keys, a sample", "times      none can be read", "unreadable 100 unparsable; c in shard:"]);
    }

    /// A hub that writes what the clock on its wall shows.
    async fn the_zone_of_the_times_is_named_and_doubted(server: Server) {
        let mut client = server.client().await;
        let now: (i64, i64) = redis::cmd("TIME").query_async(&mut client).await.unwrap();
        let shown = jiff::Timestamp::from_second(now.0 + 8 * 3600).unwrap().strftime("%Y-%m-%dT%H:%M:%S").to_string();
        let mut set = redis::pipe();
        for n in 0..30 {
            set.cmd("SET").arg(format!("conn:{n}")).arg(&shown).ignore();
        }
        set.exec_async(&mut client).await.unwrap();
        let run = look(&server, &["--keys", "conn:{id}"]).await;
        says(&run, 0, &["times      30 iso-8601 (without an offset: in UTC); configured auto", "name their zone in `time_zone`"]);
        let run = look(&server, &["--keys", "conn:{id}", "--time-zone", "Asia/Singapore"]).await;
        says(&run, 0, &["(without an offset: in Asia/Singapore)"]);
        assert!(!run.stdout.contains("warning"), "{}", run.stdout);
    }

    /// Neither ids nor values are shown, only what the configuration spells out.
    async fn ids_are_hidden_where_that_is_asked_for(server: Server) {
        let mut client = server.client().await;
        redis::cmd("MSET").arg(&["conn:alice", "secret\x1b[31m", "conn:bob", "secret"]).exec_async(&mut client).await.unwrap();
        redis::cmd("HSET").arg("conn:carol").arg("secret").arg("1").exec_async(&mut client).await.unwrap();
        let run = look(&server, &["--keys", "conn:{id}"]).await;
        says(&run, 0, &["unreadable 2 unparsable; conn:", " holds ", "secret", "conn:carol holds a hash"]);
        assert!(!run.stdout.contains('\x1b'), "{}", run.stdout);
        let run = look(&server, &["--keys", "conn:{id}", "--redact"]).await;
        says(&run, 0, &["unparsable; conn:redacted-", " holds a hash"]);
        for word in ["alice", "bob", "carol", "secret"] {
            assert!(!run.stdout.contains(word), "{word}: {}", run.stdout);
        }
    }

    /// Entries that are none, and one of them to look at.
    async fn foreign_entries_are_shown(server: Server) {
        let hub = Hub::new(&server, Layout::Json);
        hub.live(20).await;
        let mut client = server.client().await;
        redis::cmd("HSET").arg("signalr:clients").arg("Version").arg("3 of\n7").exec_async(&mut client).await.unwrap();
        let flags = hub.source_flags();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let run = look(&server, &flags).await;
        says(&run, 0, &[r#"unreadable 1 unparsable; Version holds "3 of\n7""#, "1 of 21 can't be judged"]);

        let strings = Hub::new(&server, Layout::Strings);
        strings.live(20).await;
        redis::cmd("SADD").arg("presence:set").arg("x").exec_async(&mut client).await.unwrap();
        let run = look(&server, &["--keys", "presence:{id}"]).await;
        says(&run, 0, &["unreadable 1 wrong_type; presence:set holds a set"]);
    }

    /// Nothing where the configuration says, and something else where it says.
    async fn what_is_not_there_or_is_something_else_is_said(server: Server) {
        let mut client = server.client().await;
        redis::cmd("MSET").arg(&["a", "1", "b", "2"]).exec_async(&mut client).await.unwrap();
        let run = look(&server, &["--keys", "presnce:{id}"]).await;
        says(&run, 0, &["warning: nothing is there among the 2 keys of this database"]);
        let url = format!("redis://127.0.0.1:{}/3", server.port());
        let run = Binary::new(["check", "--connect", "--zset", "b", "--redis-url", &url]).run().await;
        says(&run, 0, &["the whole database is empty"]);
        says(&look(&server, &["--zset", "a"]).await, 1, &["error: a holds a string", "does not work"]);
    }

    /// What only a silent source, a standstill and a forgetful server have.
    async fn other_suspicions_are_voiced(server: Server) {
        scores(&server, (0..30).map(|n| -600_000 - n * 1_000)).await;
        says(&look(&server, &["--zset", "online"]).await, 0, &["nobody has pinged for 10m"]);

        redis_cli(&server, "DEL online").await;
        scores(&server, (0..30).map(|_| 0)).await;
        let words = ["check", "--connect", "--redis-url", &server.url(), "--zset", "online", "--heartbeat-interval", "2s"];
        let run = Binary::new(words).args(["--sample-for", "4500ms"]).run().await;
        says(&run, 0, &["none of 30 live entries pinged within 4s"]);

        redis_cli(&server, "CONFIG SET maxmemory 100mb\nCONFIG SET maxmemory-policy allkeys-lru").await;
        says(&look(&server, &["--zset", "online"]).await, 0, &["warning: when its memory is full it drops any key (allkeys-lru)"]);
    }
}

/// The daemon's own sentences, at once, and nothing else.
#[tokio::test]
async fn a_server_that_cannot_be_had_is_said_in_one_sentence() {
    let stopped = Server::start(Kind::Redis).await;
    let replica = Server::builder(Kind::Redis).args(["--replicaof", "127.0.0.1", "1"]).start().await;
    stopped.stop();
    let cases = [
        (format!("redis://127.0.0.1:{}", free_port()), "is it running there?"),
        (stopped.url(), "the server is busy or stopped"),
        (replica.url(), "its role is slave, not master"),
    ];
    for (url, sentence) in cases {
        for words in [&["check", "--connect"][..], &["check", "--connect", "--acl"]] {
            let began = Instant::now();
            let run = Binary::new(words).args(["--zset", "x", "--redis-url", &url]).run().await;
            assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
            run.assert_code(1);
            assert!(run.stderr.contains(sentence), "{}", run.stderr);
            assert!(!run.stdout.contains("server "), "{}", run.stdout);
        }
    }
}

/// Through TLS, and on a server that is part of a cluster.
#[tokio::test]
async fn tls_is_spoken_and_a_cluster_is_refused() {
    let authority = Authority::new("our CA");
    let server = Server::builder(Kind::Redis).tls(authority.server(Leaf::GOOD, false)).start().await;
    let url = format!("rediss://localhost:{}", server.tls_port());
    let words = ["check", "--connect", "--zset", "online", "--redis-url", &url, "--redis-tls-ca-file"];
    let run = Binary::new(words).args([authority.ca_file()]).run().await;
    says(&run, 0, &[&format!("over TLS: {}", name_of(Kind::Redis)), "has all "]);

    let cluster = Server::builder(Kind::Redis).args(["--cluster-enabled", "yes"]).start().await;
    redis_cli(&cluster, "CLUSTER ADDSLOTSRANGE 0 16383").await;
    let run = look(&cluster, &["--zset", "online"]).await;
    run.assert_code(1);
    assert!((run.stdout.clone() + &run.stderr).contains("Cluster"), "{}\n{}", run.stdout, run.stderr);
}
