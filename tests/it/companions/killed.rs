//! A reaper that is killed again and again while it evicts leaves every entry whole or wholly gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::edge::{ask, run, server_now};
use crate::harness::{Binary, Server};

/// How long a reaper may take until it evicts, graces and all.
const LONG: Duration = Duration::from_secs(30);

/// Entries, unless `PRESENCE_REAPER_KILLED_ENTRIES` says otherwise.
const ENTRIES: usize = 2_000;

/// Rooms, each counting its clients.
const ROOMS: usize = 7;

const FILL: &str = r"
for i = 1, tonumber(ARGV[1]) do
  local id, room = 'c' .. i, 'r' .. i % tonumber(ARGV[2])
  redis.call('HSET', 'conn:' .. room .. ':' .. id, 'seen', '1700000000000')
  redis.call('SADD', 'all', id)
  redis.call('HSET', 'names', id, 'x')
  redis.call('ZADD', 'ranks', i, id)
  redis.call('HINCRBY', 'rooms', room, 1)
  redis.call('SADD', 'topics-of:' .. id, 't' .. i % 3, 't' .. i % 5)
  redis.call('SADD', 'topic:t' .. i % 3, id)
  redis.call('SADD', 'topic:t' .. i % 5, id)
end
";

const SOURCE: &str = r#"
[[source]]
name = "conns"
keys = "conn:{room}:{id}"
last_ping = "field seen"
threshold = "2s"
heartbeat_interval = "400ms"
companions = [
  "SREM all {id}",
  "HDEL names {id}",
  "ZREM ranks {id}",
  "decr-ref rooms {room}",
  "for-each {topic} in smembers topics-of:{id} do SREM topic:{topic} {id}",
  "for-each {topic} in smembers topics-of:{id} do if not exists topic:{topic} do HSET emptied {topic} yes",
  "UNLINK topics-of:{id}",
]
"#;

/// Keys of entries; who stands in the set, the hash and the sorted set; the counters; keys of topics.
type Reply = (Vec<String>, BTreeSet<String>, BTreeSet<String>, BTreeSet<String>, BTreeMap<String, usize>, Vec<String>);

/// Everybody who is left, by the entries themselves; every other place must say the same.
async fn left(client: &mut MultiplexedConnection) -> BTreeSet<String> {
    let reply: Reply = redis::pipe()
        .atomic()
        .cmd("KEYS")
        .arg("conn:*")
        .cmd("SMEMBERS")
        .arg("all")
        .cmd("HKEYS")
        .arg("names")
        .cmd("ZRANGE")
        .arg("ranks")
        .arg(0)
        .arg(-1)
        .cmd("HGETALL")
        .arg("rooms")
        .cmd("KEYS")
        .arg("topic*")
        .query_async(client)
        .await
        .unwrap();
    let (keys, all, names, ranks, counts, topics) = reply;
    let mut rooms: BTreeMap<String, usize> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for key in keys.iter().filter(|key| !key.ends_with(":living")) {
        let [_, room, id] = key.split(':').collect::<Vec<_>>()[..] else { panic!("{key}") };
        *rooms.entry(room.to_owned()).or_default() += 1;
        ids.insert(id.to_owned());
    }
    assert_eq!((&all, &names, &ranks), (&ids, &ids, &ids));
    assert_eq!(counts, rooms, "the counters are exact");
    let of: BTreeSet<String> =
        topics.iter().filter_map(|key| key.strip_prefix("topics-of:")).map(str::to_owned).collect();
    assert_eq!(of, ids);
    ids
}

/// The same for the sets of topics, which the reaper must not touch meanwhile.
async fn check_topics(client: &mut MultiplexedConnection, ids: &BTreeSet<String>) {
    for topic in 0..5 {
        let found: BTreeSet<String> = ask(client, &format!("SMEMBERS topic:t{topic}")).await;
        let of = |id: &&String| {
            let n: usize = id[1..].parse().unwrap();
            n % 5 == topic || n % 3 == topic
        };
        assert_eq!(found, ids.iter().filter(of).cloned().collect(), "topic {topic}");
        let emptied: bool = ask(client, &format!("HEXISTS emptied t{topic}")).await;
        assert_eq!(emptied, found.is_empty(), "topic {topic}: who took the last one said so");
    }
}

for_each_server! {
    async fn killed_while_it_evicts_it_leaves_each_entry_whole_or_gone(server: Server) {
        let entries = std::env::var("PRESENCE_REAPER_KILLED_ENTRIES").ok().and_then(|text| text.parse().ok()).unwrap_or(ENTRIES);
        let mut client = server.client().await;
        redis::cmd("EVAL").arg(FILL).arg(0).arg(entries).arg(ROOMS).exec_async(&mut client).await.unwrap();
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("reaper.toml");
        let guard = "[guard]\nsilence_release = \"never\"\nreconnect_grace = \"1ms\"\nmax_evict_rate = \"unlimited\"\n[lease]\nttl = \"1s\"\n";
        std::fs::write(&path, format!("[redis]\nurl = \"{}\"\n{guard}{SOURCE}", server.url())).unwrap();
        let config = path.to_str().unwrap().to_owned();
        let heart = tokio::spawn({
            let mut client = server.client().await;
            async move {
                loop {
                    let now = server_now(&mut client).await.millis();
                    run(&mut client, &[&format!("HSET conn:r0:living seen {now}")]).await;
                    sleep(Duration::from_millis(50)).await;
                }
            }
        });
        let (mut before, mut torn, mut runs) = (entries, 0, 0);
        while before > 0 {
            runs += 1;
            assert!(runs < 400, "{before} are left");
            let mut reaper = Binary::new(["run", "--config", &config]).listening().spawn();
            // Killed a little after it began to evict, each time at another moment.
            let began = Instant::now();
            // bound: by the clock
            while ask::<usize>(&mut client, "SCARD all").await == before {
                assert!(began.elapsed() < LONG, "nothing goes: {}", reaper.stderr());
                sleep(Duration::from_millis(1)).await;
            }
            sleep(Duration::from_micros(7_300 * (runs % 13))).await;
            assert!(!reaper.has_ended(), "{}", reaper.stderr());
            reaper.signal(Signal::KILL);
            reaper.wait(LONG).await;
            let ids = left(&mut client).await;
            check_topics(&mut client, &ids).await;
            torn += usize::from(!ids.is_empty());
            before = ids.len();
        }
        heart.abort();
        assert!(torn >= 1, "it was never killed at work");
    }
}
