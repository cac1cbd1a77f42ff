//! The eviction script on real servers: what it compares, what it checks, what it does, and what it leaves.

mod race;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use presence_reaper::clock::Clock;
use presence_reaper::policy::entry::{EntryId, Timestamp};
use presence_reaper::policy::outcome::{Blocked, Outcome};
use presence_reaper::store::Found;
use presence_reaper::store::audience::Ask;
use presence_reaper::store::error::Kind as ErrorKind;
use presence_reaper::store::evict::WINDOW;
use presence_reaper::store::lease;
use redis::Cmd;
use redis::aio::MultiplexedConnection;
use tokio::time::sleep;

use crate::edge::{
    Edge, LONG, ask, container, expected, id, kind_and_words, outcomes, prepared, put, put_aged, run, server_now,
    source, stands, within,
};
use crate::harness::{AfterLoss, Kind, Layout, Mode, Proxy, Server, eventually};

// === g1: a ping that lands first wins ===

/// How many entries are struck while their clients ping.
const STRIKES: usize = 100_000;

/// The script's two compares, and the same always true.
const WITHOUT_COMPARE: &[(&str, &str)] = &[
    ("expected == '=' .. found", "expected ~= '=' .. 'nil'"),
    ("tonumber(found) == tonumber(string.sub(expected, 2))", "tonumber(found) == tonumber(found                  )"),
];

for_each_server! {
    #[allow(clippy::print_stdout, reason = "how much of a race it was, for who asks")]
    /// The promise. A sorted set's compare is of doubles, the others' of bytes.
    async fn g1_no_ping_is_lost_in_100_000_interleavings(server: Server) {
        for (layout, strikes) in Layout::ALL.into_iter().zip([STRIKES, STRIKES / 5, STRIKES / 5, STRIKES / 5]) {
            let race = race::race(&server, &server.url(), layout, strikes).await;
            let (struck, outcomes) = (race.struck(), race.outcomes);
            println!("{layout:?}: {struck} struck, {} spared, {} evicted", outcomes.spared, outcomes.evicted);

            assert_eq!(race.violations(), []);
            assert!(struck >= strikes as u64);
            assert!(outcomes.spared > struck / 100, "hardly a race: {outcomes:?}");
            assert!(outcomes.evicted > struck / 100, "hardly an eviction: {outcomes:?}");
        }
    }

    /// A test that can't fail proves nothing.
    async fn the_race_test_sees_a_script_that_does_not_compare(server: Server) {
        let proxy = Proxy::start(server.port()).await;
        proxy.set(Mode::Rewrite(WITHOUT_COMPARE));
        for layout in Layout::ALL {
            let race = race::race(&server, &proxy.url(), layout, 2_000).await;

            assert!(race.violations().len() > 10, "{layout:?}: {race:?}");
            assert_eq!(race.outcomes.spared, 0, "{layout:?}: the compare is out");
        }
    }

    /// The race that is always lost: the ping waits in the server, the strike arrives behind it.
    async fn g1_a_ping_that_queues_before_the_strike_wins(server: Server) {
        if server.kind().version() < (6, 2) {
            // It can't pause writes alone.
            return;
        }
        for layout in Layout::ALL {
            let edge = Edge::on(&server, source(layout));
            let mut client = server.client().await;
            let ids = put_aged(&mut client, layout, &[600_000, 600_000]).await;
            let looked = edge.look(&ids).await;
            let mut hub = server.client().await;
            run(&mut hub, &["CLIENT SETNAME hub"]).await;

            run(&mut client, &["CLIENT PAUSE 10000 WRITE"]).await;
            let now = server_now(&mut client).await.millis().to_string();
            let ping = tokio::spawn(async move { put(layout, "c0", &now).exec_async(&mut hub).await });
            eventually(LONG, async || waits(&mut client, "name=hub").await).await;
            let strike = async {
                let strike = edge.strike(&looked).await;
                (outcomes(&strike), strike.failure)
            };
            let unpause = async {
                eventually(LONG, async || waits(&mut client, "cmd=evalsha").await).await;
                run(&mut client, &["CLIENT UNPAUSE"]).await;
            };
            let ((outcomes, failure), ()) = tokio::join!(strike, unpause);

            ping.await.unwrap().unwrap();
            assert!(failure.is_none(), "{failure:?}");
            assert_eq!(outcomes.values().collect::<Vec<_>>(), [&Outcome::Spared, &Outcome::Evicted], "{layout:?}");
            assert!(stands(&mut client, &ids[0]).await);
            assert!(!stands(&mut client, &ids[1]).await);
        }
    }
}

/// Whether a client with this in its line of `CLIENT LIST` is held back.
async fn waits(client: &mut MultiplexedConnection, which: &str) -> bool {
    let list: String = ask(client, "CLIENT LIST").await;
    let flags =
        |line: &str| line.split(' ').find_map(|word| word.strip_prefix("flags=")).unwrap_or_default().to_owned();
    list.lines().any(|line| line.split(' ').any(|word| word == which) && flags(line).contains('b'))
}

// === g2: a strike that comes late does nothing ===

for_each_server! {
    /// A stopped server runs what was sent to it when it goes on; by then a hub's ping may be queued behind.
    async fn g2_a_strike_that_waited_in_a_stopped_server_does_nothing(server: Server) {
        let mut client = server.client().await;
        for (patience, expected) in [("10s", Outcome::TooLate), ("100ms", Outcome::Unknown)] {
            let redis = format!("url = \"{}\"\nconnect_timeout = \"5s\"\nresponse_timeout = \"{patience}\"", server.url());
            let edge = Edge::dialling(&redis, source(Layout::Strings));
            let ids = put_aged(&mut client, Layout::Strings, &[600_000; 3]).await;
            // The script is known, so that the strike is one command, which is already on its way.
            assert_eq!(edge.evict(&ids[2..]).await.into_values().collect::<Vec<_>>(), [Outcome::Evicted]);
            let looked = edge.look(&ids[..2]).await;

            server.stop();
            let strike = edge.strike(&looked);
            let resume = async {
                sleep(WINDOW + Duration::from_millis(100)).await;
                server.cont();
            };
            let (strike, ()) = tokio::join!(strike, resume);

            assert_eq!(outcomes(&strike).into_values().collect::<Vec<_>>(), [expected; 2], "{strike:?}");
            assert!(stands(&mut client, &ids[0]).await && stands(&mut client, &ids[1]).await);
            // It recovers by itself.
            eventually(LONG, async || edge.store.look(&ids[..2]).await.is_ok()).await;
            assert_eq!(edge.evict(&ids[..2]).await.into_values().collect::<Vec<_>>(), [Outcome::Evicted; 2]);
        }
    }

    /// By the script's own clock: it does what it does if and only if that lies in the window, both ends included.
    async fn g2_the_window_is_exact(server: Server) {
        let edge = Edge::on(&server, source(Layout::Strings));
        let mut client = server.client().await;
        let ids = put_aged(&mut client, Layout::Strings, &[600_000]).await;
        let window = i64::try_from(WINDOW.as_millis()).unwrap();
        let mut seen = BTreeSet::new();
        let mut edges = BTreeSet::new();
        for n in 0..400 {
            put_aged(&mut client, Layout::Strings, &[600_000]).await;
            let mut looked = edge.look(&ids).await;
            // Around the end of the window, and around its beginning: a server whose clock was put back.
            let shift = if n % 2 == 0 { -window + n / 2 % 5 - 2 } else { n / 2 % 5 - 2 };
            looked.now.server = Timestamp::from_millis(looked.now.server.millis() + shift);

            let strike = edge.strike(&looked).await;

            let late = strike.at.expect("an answer").millis_since(looked.now.server);
            let expected = if (0..=window).contains(&late) { Outcome::Evicted } else { Outcome::TooLate };
            assert_eq!(outcomes(&strike).into_values().collect::<Vec<_>>(), [expected], "{late} ms after the look");
            assert_eq!(stands(&mut client, &ids[0]).await, expected == Outcome::TooLate);
            seen.insert((n % 2, expected == Outcome::Evicted));
            edges.extend([0, window].contains(&late).then_some(late));
        }
        assert_eq!((seen.len(), edges.len()), (4, 2), "both sides of both ends, and both ends themselves: {seen:?} {edges:?}");
    }
}

// === outcomes ===

const OLD: i64 = 600_000;

for_each_server! {
    /// Evidence is what was judged: whoever pinged since is spared, whoever did not goes.
    async fn g1_a_time_that_changed_spares(server: Server) {
        for layout in Layout::ALL {
            let edge = Edge::on(&server, source(layout));
            let mut client = server.client().await;
            let ids = put_aged(&mut client, layout, &[OLD; 4]).await;
            let looked = edge.look(&ids).await;

            let now = server_now(&mut client).await.millis().to_string();
            put(layout, "c1", &now).exec_async(&mut client).await.unwrap();
            put(layout, "c3", "0").exec_async(&mut client).await.unwrap();

            let found = outcomes(&edge.strike(&looked).await).into_values().collect::<Vec<_>>();
            assert_eq!(found, [Outcome::Evicted, Outcome::Spared, Outcome::Evicted, Outcome::Spared], "{layout:?}");
            for (at, id) in ids.iter().enumerate() {
                assert_eq!(stands(&mut client, id).await, at % 2 == 1, "{layout:?} {at}");
            }
        }
    }

    /// A JSON entry is compared as a whole: another user under the same time is another entry.
    async fn g1_any_change_of_a_json_entry_spares(server: Server) {
        let edge = Edge::on(&server, source(Layout::Json));
        let mut client = server.client().await;
        let ids = put_aged(&mut client, Layout::Json, &[OLD]).await;
        let looked = edge.look(&ids).await;

        let value: String = ask(&mut client, "HGET signalr:clients c0").await;
        let changed = value.replace("\"UserId\":\"u\"", "\"UserId\":\"v\"");
        assert_ne!(changed, value);
        run(&mut client, &[&format!("HSET signalr:clients c0 {changed}")]).await;

        assert_eq!(outcomes(&edge.strike(&looked).await), expected([("c0", Outcome::Spared)]));
    }

    /// A hash entry is compared by the fields that decided or that an action was built from, and by no other.
    async fn g1_of_a_hash_entry_the_named_fields_are_evidence(server: Server) {
        let text = format!("{}\ncompanions = [\"SREM user:{{field:user}}:conns {{id}}\"]", source(Layout::Hashes));
        let edge = Edge::on(&server, &text);
        let mut client = server.client().await;
        let ids = put_aged(&mut client, Layout::Hashes, &[OLD; 5]).await;
        run(&mut client, &["HDEL conn:c3 user", "HDEL conn:c4 user"]).await;
        let looked = edge.look(&ids).await;

        let changes = ["HSET conn:c1 user v", "HSET conn:c2 ip 10.0.0.1", "HSET conn:c3 user v", "HSET conn:c4 ip x"];
        run(&mut client, &changes).await;

        let found = outcomes(&edge.strike(&looked).await).into_values().collect::<Vec<_>>();
        let (evicted, spared) = (Outcome::Evicted, Outcome::Spared);
        assert_eq!(found, [evicted, spared, evicted, spared, evicted]);
    }

    /// What somebody else removed is gone, and nothing is said of an eviction.
    async fn g18_what_is_gone_is_gone(server: Server) {
        for layout in Layout::ALL {
            let edge = Edge::on(&server, source(layout));
            let mut client = server.client().await;
            let ids = put_aged(&mut client, layout, &[OLD; 2]).await;
            let looked = edge.look(&ids).await;
            let container = container(layout);
            let remove = match layout {
                Layout::Zset => "ZREM presence:online c0",
                Layout::Json => "HDEL signalr:clients c0",
                Layout::Strings => "DEL ping:c0",
                Layout::Hashes => "DEL conn:c0",
            };

            run(&mut client, &[remove]).await;
            let found = outcomes(&edge.strike(&looked).await).into_values().collect::<Vec<_>>();
            assert_eq!(found, [Outcome::Gone, Outcome::Evicted], "{layout:?}");
            assert!(edge.look(&ids).await.found.iter().all(|found| matches!(found, Found::Gone)), "{layout:?}");

            put_aged(&mut client, layout, &[OLD; 2]).await;
            let looked = edge.look(&ids).await;
            match container {
                Some(key) => run(&mut client, &[&format!("DEL {key}")]).await,
                None => run(&mut client, &["FLUSHALL"]).await,
            }
            let found = outcomes(&edge.strike(&looked).await).into_values().collect::<Vec<_>>();
            assert_eq!(found, [Outcome::Gone; 2], "{layout:?}");
        }
    }

    /// A Lua error keeps the writes before it, so one companion of another type leaves its entry whole; the rest goes.
    async fn g16_a_companion_of_another_type_leaves_the_entry_whole(server: Server) {
        let companions = "companions = [\"UNLINK rec:{id}\", \"SREM set:{id} x\", \"ZREM zset:{id} x\", \"HDEL hash:{id} x\"]";
        let edge = Edge::on(&server, &format!("{}\n{companions}", source(Layout::Zset)));
        let mut client = server.client().await;
        let ids = put_aged(&mut client, Layout::Zset, &[OLD; 6]).await;
        for n in 0..6 {
            let lines = [
                format!("SET rec:c{n} x"),
                format!("SADD set:c{n} x y"),
                format!("ZADD zset:c{n} 1 x 2 y"),
                format!("HSET hash:c{n} x 1 y 2"),
            ];
            run(&mut client, &lines.each_ref().map(String::as_str)).await;
        }
        run(&mut client, &["SET set:c1 text", "SET zset:c2 text", "SET hash:c3 text", "DEL set:c4 zset:c4 hash:c4"]).await;
        let before = contents(&mut client).await;

        let found = edge.evict(&ids).await.into_values().collect::<Vec<_>>();

        let blocked = Outcome::Blocked(Blocked::WrongType);
        assert_eq!(found, [Outcome::Evicted, blocked, blocked, blocked, Outcome::Evicted, Outcome::Evicted]);
        let after = contents(&mut client).await;
        for name in ["c1", "c2", "c3"] {
            for (key, dump) in before.iter().filter(|(key, _)| key.ends_with(name)) {
                assert_eq!(after.get(key), Some(dump), "{key}");
            }
        }
        let left: Vec<String> = ask(&mut client, "ZRANGE presence:online 0 -1").await;
        assert_eq!(left, ["c1", "c2", "c3"]);
        assert_eq!(after.len(), 1 + 3 * 4 + 3 * 2, "the other companions went, or lost their x: {:?}", after.keys());
    }

    /// A key that became another thing between look and strike is nobody we judged.
    async fn g10_a_key_that_changed_its_type_is_left(server: Server) {
        let mut client = server.client().await;
        for (layout, others) in [
            (Layout::Zset, ["SADD presence:online c0", "HSET presence:online c0 1", "SET presence:online x"]),
            (Layout::Json, ["SADD signalr:clients c0", "ZADD signalr:clients 1 c0", "SET signalr:clients x"]),
            (Layout::Strings, ["SADD ping:c0 x", "HSET ping:c0 last_ping 1", "ZADD ping:c0 1 x"]),
            (Layout::Hashes, ["SADD conn:c0 last_ping", "SET conn:c0 x", "XADD conn:c0 * last_ping 1"]),
        ] {
            for other in others {
                run(&mut client, &["FLUSHALL"]).await;
                let edge = Edge::on(&server, source(layout));
                let ids = put_aged(&mut client, layout, &[OLD]).await;
                let looked = edge.look(&ids).await;
                run(&mut client, &["FLUSHALL", other]).await;
                let before = contents(&mut client).await;

                let found = outcomes(&edge.strike(&looked).await);

                let blocked = Outcome::Blocked(Blocked::WrongType);
                assert_eq!(found.into_values().collect::<Vec<_>>(), [blocked], "{layout:?}: {other}");
                assert_eq!(contents(&mut client).await, before, "{layout:?}: {other}");
            }
        }
    }

    /// The server itself is asked for permission before the first write, where it can say.
    async fn g16_a_command_that_is_denied_leaves_the_entry_whole(server: Server) {
        let companions = "companions = [\"UNLINK rec:{id}\", \"SREM user:{json:/UserId}:conns {id}\"]";
        let text = format!("{}\n{companions}", source(Layout::Json));
        let mut client = server.client().await;
        run(&mut client, &["ACL SETUSER edge on >pw ~* +@all -srem"]).await;
        let ids = put_aged(&mut client, Layout::Json, &[OLD; 2]).await;
        run(&mut client, &["SET rec:c0 x", "SET rec:c1 x", "SADD user:u:conns c0 c1"]).await;
        run(&mut client, &["HSET signalr:clients c1 {\"LatestPingTime\":1700000000000}"]).await;
        let edge = as_user(&server, &text);

        let found = edge.evict(&ids).await;

        let blocked = Outcome::Blocked(Blocked::Permission);
        assert_eq!(found, expected([("c0", blocked), ("c1", Outcome::Evicted)]));
        let left = contents(&mut client).await;
        assert_eq!(left.keys().collect::<Vec<_>>(), ["rec:c0", "signalr:clients", "user:u:conns"]);
    }

    /// In each layout the removal itself may be what is denied.
    async fn g16_a_removal_that_is_denied_takes_no_companion_along(server: Server) {
        let mut client = server.client().await;
        for (layout, command) in Layout::ALL.into_iter().zip(["zrem", "unlink", "unlink", "hdel"]) {
            run(&mut client, &[&format!("ACL SETUSER edge reset on >pw ~* +@all -{command}")]).await;
            let edge = as_user(&server, &format!("{}\ncompanions = [\"SREM everybody {{id}}\"]", source(layout)));
            let ids = put_aged(&mut client, layout, &[OLD]).await;
            run(&mut client, &["SADD everybody c0"]).await;

            let found = edge.evict(&ids).await.into_values().collect::<Vec<_>>();

            assert_eq!(found, [Outcome::Blocked(Blocked::Permission)], "{layout:?}");
            assert!(stands(&mut client, &ids[0]).await);
            assert_eq!(ask::<usize>(&mut client, "SCARD everybody").await, 1);
        }
    }

    /// Redis refuses a whole call for one key in it. The batch is halved until that entry is found, and only it stays.
    async fn a_key_that_is_denied_blocks_its_own_entry_alone(server: Server) {
        let text = format!("{}\ncompanions = [\"SREM user:{{json:/UserId}}:conns {{id}}\"]", source(Layout::Json));
        let mut client = server.client().await;
        run(&mut client, &["ACL SETUSER edge on >pw ~signalr:* ~user:u:* +@all"]).await;
        let ids = put_aged(&mut client, Layout::Json, &[OLD; 60]).await;
        for n in [7, 8, 41] {
            let entry = "{\"UserId\":\"denied\",\"LatestPingTime\":1700000000000}";
            run(&mut client, &[&format!("HSET signalr:clients c{n} {entry}")]).await;
        }
        let edge = as_user(&server, &text);
        let looked = edge.look(&ids).await;

        let strike = edge.strike(&looked).await;

        assert!(strike.failure.is_none(), "{:?}", strike.failure);
        let blocked = Outcome::Blocked(Blocked::Permission);
        for (name, outcome) in outcomes(&strike) {
            let denied = ["c7", "c8", "c41"].contains(&name.as_str());
            assert_eq!(outcome, if denied { blocked } else { Outcome::Evicted }, "{name}");
        }
        assert_eq!(ask::<usize>(&mut client, "HLEN signalr:clients").await, 3);
    }

    /// Without the right to run scripts nothing is tried entry by entry, and the sentence says what is missing.
    async fn a_user_without_scripts_is_told_so(server: Server) {
        let mut client = server.client().await;
        run(&mut client, &["ACL SETUSER edge on >pw ~* +@all -evalsha -eval"]).await;
        let ids = put_aged(&mut client, Layout::Zset, &[OLD; 600]).await;
        let edge = as_user(&server, source(Layout::Zset));
        let looked = edge.look(&ids).await;
        server.reset_stats().await;

        let strike = edge.strike(&looked).await;

        let blocked = Outcome::Blocked(Blocked::Permission);
        assert!(outcomes(&strike).into_values().all(|outcome| outcome == blocked));
        assert_eq!(strike.outcomes.len(), 600);
        let kind = kind_and_words(&strike.failure.unwrap(), &["evicting", "evalsha", "ACL user"]);
        assert_eq!(kind, ErrorKind::Permission);
        assert_eq!(ask::<usize>(&mut client, "ZCARD presence:online").await, 600);
    }

    /// The worst loss: the script has run, and we do not know. Evicted and unknown bracket the truth.
    async fn g18_a_lost_reply_is_unknown_and_never_tried_again(server: Server) {
        let proxy = Proxy::start(server.port()).await;
        let mut client = server.client().await;
        for after in [AfterLoss::Cut, AfterLoss::Silence] {
            let redis = format!("url = \"{}\"\nresponse_timeout = \"300ms\"", proxy.url());
            let told = "notify = [{ publish = \"off\" }]";
            let edge = Edge::dialling(&redis, &format!("{}\n{told}", source(Layout::Zset)));
            let ids = put_aged(&mut client, Layout::Zset, &[OLD; 700]).await;
            let looked = edge.look(&ids).await;
            server.reset_stats().await;

            proxy.set(Mode::LoseScriptReply(after));
            let strike = edge.strike(&looked).await;

            let left: usize = ask(&mut client, "ZCARD presence:online").await;
            let unknown = strike.outcomes.iter().filter(|(_, outcome)| *outcome == Outcome::Unknown).count();
            assert_eq!(unknown, strike.outcomes.len(), "the first batch's reply was lost, and no other batch was sent");
            assert_eq!(ids.len() - left, unknown, "{after:?}");
            let notified = strike.notified;
            assert_eq!((notified.unknown, notified.sent()), ([unknown as u64, 0, 0, 0], 0), "{after:?}");
            assert!((1..ids.len()).contains(&left), "{after:?}: {left}");
            assert!(strike.failure.is_some());
            let stats = server.command_stats().await;
            let runs = stats.get("evalsha").unwrap_or(&0) + stats.get("eval").unwrap_or(&0);
            assert!(runs <= 2, "no retry: {stats:?}");
            run(&mut client, &["DEL presence:online"]).await;
        }
    }
}

/// A source reached as the ACL user `edge`.
fn as_user(server: &Server, source: &str) -> Edge {
    let redis =
        format!("url = \"{}\"\nusername = \"edge\"\npassword = \"pw\"\nresponse_timeout = \"5s\"", server.url());
    Edge::dialling(&redis, source)
}

/// Every key with its content.
async fn contents(client: &mut MultiplexedConnection) -> BTreeMap<String, Vec<u8>> {
    let keys: Vec<Vec<u8>> = ask(client, "KEYS *").await;
    let mut contents = BTreeMap::new();
    for key in keys {
        let dump: Vec<u8> = redis::cmd("DUMP").arg(&key).query_async(client).await.unwrap();
        contents.insert(key.escape_ascii().to_string(), dump);
    }
    contents
}

// === refused writes ===

/// A way in which a server refuses writes, and how it is healed.
struct Refusal {
    begin: &'static [&'static str],
    end: &'static [&'static str],
    reason: Blocked,
    kind: ErrorKind,
    /// Whether the connection can't be trusted afterwards.
    drops: bool,
}

const REFUSALS: [Refusal; 3] = [
    Refusal {
        begin: &["CONFIG SET maxmemory 1"],
        end: &["CONFIG SET maxmemory 0"],
        reason: Blocked::Oom,
        kind: ErrorKind::Oom,
        drops: false,
    },
    Refusal {
        begin: &["CONFIG SET min-replicas-to-write 1"],
        end: &["CONFIG SET min-replicas-to-write 0"],
        reason: Blocked::ReadOnly,
        kind: ErrorKind::ReadOnly,
        drops: true,
    },
    // Nobody listens there, so what it holds stays, and clients stay connected.
    Refusal {
        begin: &["REPLICAOF 127.0.0.1 1"],
        end: &["REPLICAOF NO ONE"],
        reason: Blocked::ReadOnly,
        kind: ErrorKind::ReadOnly,
        drops: true,
    },
];

for_each_server! {
    /// While no ping can land, nobody goes: the script is refused like any other write, whether the server knows it or
    /// hears it for the first time.
    async fn g11_a_server_that_refuses_writes_refuses_the_strike(server: Server) {
        let mut client = server.client().await;
        for known in [false, true] {
            for refusal in &REFUSALS {
                if !server.kind().is_modern() && refusal.begin[0].contains("min-replicas") {
                    // Such a server tells no script. The canary, a plain write, is refused, and holds the source.
                    continue;
                }
                check_refusal(&server, &mut client, refusal, known).await;
            }
        }
    }

    /// The lease is compared where the damage would be done: whoever lost it without knowing does nothing.
    async fn g15_a_strike_without_the_lease_is_fenced(server: Server) {
        let mut client = server.client().await;
        let mut edge = Edge::on(&server, source(Layout::Zset));
        edge.store = edge.store.under_lease(lease::Settings::default(), Clock::start());
        let lease = Arc::clone(edge.store.lease().unwrap());
        let ids = put_aged(&mut client, Layout::Zset, &[OLD, OLD]).await;
        let fenced = || expected([("c0", Outcome::Fenced), ("c1", Outcome::Fenced)]);
        server.reset_stats().await;
        assert_eq!(edge.evict(&ids).await, fenced(), "never had it");
        assert!(!server.command_stats().await.contains_key("evalsha"), "and did not even ask");

        assert!(lease.try_to_lead().await.unwrap());
        let key: Vec<String> = ask(&mut client, "KEYS presence-reaper:*:lease").await;
        redis::cmd("SET").arg(&key[0]).arg("somebody else's").exec_async(&mut client).await.unwrap();
        assert!(lease.leads(), "does not know");
        assert_eq!(edge.evict(&ids).await, fenced());
        assert!(!lease.leads() && !lease.try_to_lead().await.unwrap());
        lease.release().await;
        redis::cmd("DEL").arg(&key[0]).exec_async(&mut client).await.unwrap();
        assert!(lease.try_to_lead().await.unwrap());
        redis::cmd("DEL").arg(&key[0]).exec_async(&mut client).await.unwrap();
        assert_eq!(edge.evict(&ids).await, fenced(), "lost with the server's data");
        assert!(lease.try_to_lead().await.unwrap());
        assert_eq!(edge.evict(&ids).await, expected([("c0", Outcome::Evicted), ("c1", Outcome::Evicted)]));
        lease.release().await;
        assert!(!ask::<bool>(&mut client, &format!("EXISTS {}", key[0])).await, "given back");
    }

    /// A server that was demoted and promoted again between survey and strike: a look on the same connection sees it.
    async fn g5_a_look_sees_a_failover_since_the_dial(server: Server) {
        let mut client = server.client().await;
        let edge = Edge::on(&server, source(Layout::Zset));
        let ids = put_aged(&mut client, Layout::Zset, &[OLD]).await;
        let before = edge.look(&ids).await;
        run(&mut client, &["REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"]).await;

        let error = within(edge.store.look(&ids)).await.map(|_| ()).expect_err("another history of the data");

        assert!(error.to_string().contains("the server failed over since the reaper connected"), "{error}");
        assert_ne!(edge.look(&ids).await.identity, before.identity);
        assert!(stands(&mut client, &ids[0]).await);
    }

    /// A server that lost its disk refuses writes too.
    async fn g11_a_server_without_its_disk_refuses_the_strike(server: Server) {
        let mut client = server.client().await;
        redis::cmd("CONFIG").arg("SET").arg("save").arg("3600000 1").exec_async(&mut client).await.unwrap();
        let edge = Edge::on(&server, source(Layout::Zset));
        let ids = put_aged(&mut client, Layout::Zset, &[OLD]).await;
        std::fs::create_dir(server.dir().join("dump.rdb")).unwrap();
        run(&mut client, &["BGSAVE"]).await;
        eventually(LONG, async || ask::<String>(&mut client, "INFO persistence").await.contains("bgsave_status:err")).await;
        let looked = edge.look(&ids).await;
        let strike = edge.strike(&looked).await;

        assert_eq!(outcomes(&strike), expected([("c0", Outcome::Blocked(Blocked::ReadOnly))]), "{strike:?}");
        assert!(stands(&mut client, &ids[0]).await);
        std::fs::remove_dir(server.dir().join("dump.rdb")).unwrap();
        redis::cmd("CONFIG").arg("SET").arg("save").arg("").exec_async(&mut client).await.unwrap();
        assert_eq!(edge.evict(&ids).await, expected([("c0", Outcome::Evicted)]));
    }

    /// A script that loops keeps everybody out, pings too.
    async fn g11_a_busy_server_blocks(server: Server) {
        let mut client = server.client().await;
        run(&mut client, &["CONFIG SET lua-time-limit 20"]).await;
        let edge = Edge::on(&server, source(Layout::Zset));
        let ids = put_aged(&mut client, Layout::Zset, &[OLD]).await;
        let looked = edge.look(&ids).await;

        let mut busy = server.client().await;
        let script = async { redis::cmd("EVAL").arg("while true do end").arg(0).exec_async(&mut busy).await };
        let strike = async {
            eventually(LONG, async || redis::cmd("PING").exec_async(&mut client).await.is_err()).await;
            let strike = edge.strike(&looked).await;
            run(&mut client, &["SCRIPT KILL"]).await;
            strike
        };
        let (killed, strike) = tokio::join!(script, strike);

        assert!(killed.is_err());
        assert_eq!(outcomes(&strike), expected([("c0", Outcome::Blocked(Blocked::Other))]));
        assert_eq!(strike.failure.unwrap().kind, ErrorKind::Loading);
        assert_eq!(edge.evict(&ids).await, expected([("c0", Outcome::Evicted)]));
    }

    /// A server that loads has no entries to judge yet.
    async fn g11_a_loading_server_answers_nothing(server: Server) {
        if !server.kind().is_modern() {
            // It can't be slowed down.
            return;
        }
        let mut client = server.client().await;
        let edge = Edge::on(&server, source(Layout::Zset));
        put_aged(&mut client, Layout::Zset, &[OLD]).await;
        let looked = edge.look(&[id(Layout::Zset, "c0")]).await;
        run(&mut client, &["DEBUG POPULATE 2000", "CONFIG SET key-load-delay 300", "CONFIG SET loading-process-events-interval-bytes 1024"]).await;

        let mut loading = server.client().await;
        let load = async { redis::cmd("DEBUG").arg("RELOAD").exec_async(&mut loading).await };
        let strike = async {
            eventually(LONG, async || redis::cmd("GET").arg("x").exec_async(&mut client).await.is_err()).await;
            (edge.strike(&looked).await, edge.store.look(&[id(Layout::Zset, "c0")]).await)
        };
        let (loaded, (strike, look)) = tokio::join!(load, strike);

        loaded.unwrap();
        assert_eq!(outcomes(&strike), expected([("c0", Outcome::Blocked(Blocked::Other))]));
        assert_eq!(look.map(|_| ()).unwrap_err().kind, ErrorKind::Loading);
        assert!(stands(&mut client, &id(Layout::Zset, "c0")).await);
    }

    /// What the server's script cache forgot is sent anew.
    async fn a_script_that_was_flushed_is_sent_again(server: Server) {
        let edge = Edge::on(&server, source(Layout::Zset));
        let mut client = server.client().await;
        for _ in 0..3 {
            let ids = put_aged(&mut client, Layout::Zset, &[OLD; 3]).await;
            assert!(edge.evict(&ids).await.into_values().all(|outcome| outcome == Outcome::Evicted));
            run(&mut client, &["SCRIPT FLUSH"]).await;
        }
    }

    /// Another process has another past: what was judged in the old one goes in none.
    async fn g9_nothing_judged_before_a_restart_goes_after_it(mut server: Server) {
        let edge = Edge::on(&server, source(Layout::Zset));
        let mut client = server.client().await;
        let time = (server_now(&mut client).await.millis() - OLD).to_string();
        put(Layout::Zset, "c0", &time).exec_async(&mut client).await.unwrap();
        let looked = edge.look(&[id(Layout::Zset, "c0")]).await;

        server.restart().await;
        let mut client = server.client().await;
        put(Layout::Zset, "c0", &time).exec_async(&mut client).await.unwrap();

        for _ in 0..5 {
            let strike = edge.strike(&looked).await;
            assert!(strike.failure.is_some());
            assert!(outcomes(&strike).into_values().all(|outcome| outcome == Outcome::Unknown));
            eventually(LONG, async || edge.store.health().await.is_ok()).await;
        }
        assert!(stands(&mut client, &id(Layout::Zset, "c0")).await);
        assert_eq!(edge.evict(&[id(Layout::Zset, "c0")]).await, expected([("c0", Outcome::Evicted)]));
    }
}

async fn check_refusal(server: &Server, client: &mut MultiplexedConnection, refusal: &Refusal, known: bool) {
    let what = refusal.begin;
    run(client, &["FLUSHALL", "SCRIPT FLUSH"]).await;
    let edge = Edge::on(server, source(Layout::Zset));
    let ids = put_aged(client, Layout::Zset, &[OLD; 3]).await;
    if known {
        assert_eq!(edge.evict(&ids[2..]).await, expected([("c2", Outcome::Evicted)]));
    }
    let looked = edge.look(&ids[..2]).await;
    let before = edge.link.status().connections_opened;

    run(client, refusal.begin).await;
    let strike = edge.strike(&looked).await;
    let blocked = Outcome::Blocked(refusal.reason);
    assert_eq!(outcomes(&strike), expected([("c0", blocked), ("c1", blocked)]), "{what:?}");
    assert_eq!(strike.failure.as_ref().unwrap().kind, refusal.kind, "{what:?}");
    for id in &ids[..2] {
        assert!(stands(client, id).await, "{what:?}");
    }
    // Whatever it says while that lasts, it must say it and not hang.
    let _ = within(edge.store.survey(&Ask::default())).await;
    run(client, refusal.end).await;

    eventually(LONG, async || edge.store.survey(&Ask::default()).await.is_ok()).await;
    assert_eq!(edge.link.status().connections_opened > before, refusal.drops, "{what:?}");
    assert_eq!(edge.evict(&ids[..2]).await, expected([("c0", Outcome::Evicted), ("c1", Outcome::Evicted)]), "{what:?}");
}

// === companions ===

/// Names that break whatever splits, quotes or ends them.
fn odd_names() -> Vec<Vec<u8>> {
    let long = "x".repeat(1024);
    let names: [&[u8]; 13] = [
        b"a b",
        b"\"quoted\"",
        b"'",
        b"{id}",
        b"{{",
        b"line\nbreak\r\n",
        b"nul\0nul",
        b"\xff\xfe",
        long.as_bytes(),
        b"*?[a]\\",
        b"%s%d",
        b"-",
        "\u{1f47b}".as_bytes(),
    ];
    names.iter().map(|name| name.to_vec()).collect()
}

for_each_server! {
    /// Each name in a template stands for what it says, in each layout that has it.
    async fn companions_name_what_belongs_to_the_entry(server: Server) {
        let zset = r#"zset = "presence:online"
companions = ["SREM of:{key} {member}", "SREM same:{value} {id}", "ZREM by:{json:/u} {json:/n}", "SREM at:all {score}"]"#;
        let hash = r#"hash = "signalr:clients"
last_ping = "json /t"
companions = ["SREM of:{key} {member}", "UNLINK val:{id}:{json:/a~1b/0}", "HDEL by:{json:/u} {id} {json:/n}", "SREM ok:{json:/b} x"]"#;
        let strings = r#"keys = "conn:{tenant}:{id}"
last_ping = "json /t"
companions = ["SREM of:{tenant} {id}", "UNLINK val:{key} rec:{id}:a rec:{id}:b", "SREM raw:{json:/u} {value}"]"#;
        let hashes = r#"keys = "conn:{tenant}:{id...}"
last_ping = "field t"
companions = ["SREM of:{tenant} {id}", "ZREM by:{field:user%20id} {key}", "SREM empty:{field:e} x"]"#;
        let time = 1_700_000_000_000_i64;
        let member = "{\"u\":\"U\",\"n\":5}";
        let value = format!("{{\"t\":{time},\"u\":\"U\",\"n\":1.5,\"b\":true,\"a/b\":[\"q\"]}}");
        let cases: [(&str, EntryId, Vec<Cmd>, Vec<Cmd>); 4] = [
            (
                zset,
                EntryId::member(b"presence:online".as_slice().into(), member.as_bytes()),
                vec![words(&["ZADD", "presence:online", &time.to_string(), member])],
                vec![
                    words(&["SADD", "of:presence:online", member]),
                    words(&["SADD", &format!("same:{member}"), member]),
                    words(&["ZADD", "by:U", "1", "5"]),
                    words(&["SADD", "at:all", &time.to_string()]),
                ],
            ),
            (
                hash,
                EntryId::member(b"signalr:clients".as_slice().into(), b"c 1".as_slice()),
                vec![words(&["HSET", "signalr:clients", "c 1", &value])],
                vec![
                    words(&["SADD", "of:signalr:clients", "c 1"]),
                    words(&["SET", "val:c 1:q", "x"]),
                    words(&["HSET", "by:U", "c 1", "x", "1.5", "x"]),
                    words(&["SADD", "ok:true", "x"]),
                ],
            ),
            (
                strings,
                EntryId::key(b"conn:T:x:y".as_slice()),
                vec![words(&["SET", "conn:T:x:y", &value])],
                vec![
                    words(&["SADD", "of:T", "x:y"]),
                    words(&["RPUSH", "val:conn:T:x:y", "any type"]),
                    words(&["SET", "rec:x:y:a", "x"]),
                    words(&["HSET", "rec:x:y:b", "x", "y"]),
                    words(&["SADD", "raw:U", &value]),
                ],
            ),
            (
                hashes,
                EntryId::key(b"conn:T:x:y".as_slice()),
                vec![words(&["HSET", "conn:T:x:y", "t", &time.to_string(), "user id", "U", "e", ""])],
                vec![
                    words(&["SADD", "of:T", "x:y"]),
                    words(&["ZADD", "by:U", "1", "conn:T:x:y"]),
                    words(&["SADD", "empty:", "x"]),
                ],
            ),
        ];
        let mut client = server.client().await;
        for (source, id, entry, companions) in cases {
            for command in entry.iter().chain(&companions) {
                command.exec_async(&mut client).await.unwrap();
            }
            let edge = Edge::on(&server, source);
            let looked = edge.look(&[id]).await;
            let [Found::Entry { prepared, .. }] = &looked.found[..] else { panic!("{source}") };
            assert_eq!(prepared.skipped_companions(), 0, "{source}");

            let found = outcomes(&edge.strike(&looked).await).into_values().collect::<Vec<_>>();

            assert_eq!(found, [Outcome::Evicted], "{source}");
            assert_eq!(contents(&mut client).await.into_keys().collect::<Vec<_>>(), [""; 0], "{source}");
        }
    }

    /// A template that names an absent value can't be filled: that companion stays, the entry and the others go.
    async fn a_companion_without_its_value_is_skipped_and_counted(server: Server) {
        let companions = "companions = [\"SREM user:{json:/UserId}:conns {id}\", \"SREM room:{json:/room}:conns {id}\", \
                          \"SREM deep:{json:/a/b}:conns {id}\", \"SREM everybody {id}\"]";
        let edge = Edge::on(&server, &format!("{}\n{companions}", source(Layout::Json)));
        let mut client = server.client().await;
        let entries = [
            ("full", r#""UserId":"u","room":"r","a":{"b":1}"#, 0),
            ("absent", r#""UserId":"u","a":{}"#, 2),
            ("null", r#""UserId":null,"room":"r","a":{"b":null}"#, 2),
            ("list", r#""UserId":["u"],"room":{},"a":1"#, 3),
            ("empty", r#""UserId":"","room":"","a":{"b":""}"#, 0),
        ];
        for (name, fields, _) in entries {
            let value = format!("{{\"LatestPingTime\":1700000000000,{fields}}}");
            words(&["HSET", "signalr:clients", name, &value]).exec_async(&mut client).await.unwrap();
            words(&["SADD", "everybody", name]).exec_async(&mut client).await.unwrap();
            words(&["SADD", "user::conns", name]).exec_async(&mut client).await.unwrap();
        }
        let ids = entries.map(|(name, _, _)| id(Layout::Json, name));
        let looked = edge.look(&ids).await;
        for (found, (name, _, skipped)) in looked.found.iter().zip(entries) {
            assert_eq!(prepared(found).unwrap().skipped_companions(), skipped, "{name}");
        }

        let found = outcomes(&edge.strike(&looked).await);

        assert!(found.values().all(|outcome| *outcome == Outcome::Evicted), "{found:?}");
        let left: Vec<String> = ask(&mut client, "SMEMBERS user::conns").await;
        assert_eq!(left.into_iter().collect::<BTreeSet<_>>(), ["absent", "full", "list", "null"].map(str::to_owned).into());
        assert_eq!(ask::<usize>(&mut client, "EXISTS everybody signalr:clients").await, 0);
    }

    /// What a template brings in is never split or read again.
    async fn g13_no_name_leads_to_another_key(server: Server) {
        for layout in Layout::ALL {
            let edge = Edge::on(&server, &format!("{}\ncompanions = [\"SREM idx:{{id}} {{id}}\", \"UNLINK rec:{{id}}\"]", source(layout)));
            let mut client = server.client().await;
            let mut names = odd_names();
            // A key needs a name; a member or a field does not.
            names.extend(container(layout).map(|_| Vec::new()));
            let name_of = |name: &[u8], prefix: &str| [prefix.as_bytes(), name].concat();
            for name in &names {
                put(layout, name, "1700000000000").exec_async(&mut client).await.unwrap();
                redis::cmd("SADD").arg(name_of(name, "idx:")).arg(name).arg("other").exec_async(&mut client).await.unwrap();
                redis::cmd("SET").arg(name_of(name, "rec:")).arg("x").exec_async(&mut client).await.unwrap();
            }
            let ids: Vec<EntryId> = names.iter().map(|name| id(layout, name)).collect();
            let survey = edge.survey().await;
            assert_eq!(survey.candidates.iter().map(|one| one.id.clone()).collect::<BTreeSet<_>>(), ids.iter().cloned().collect());

            let found = edge.evict(&ids).await;

            assert_eq!(found.len(), names.len());
            assert!(found.values().all(|outcome| *outcome == Outcome::Evicted), "{layout:?}: {found:?}");
            let left = contents(&mut client).await;
            let expected = names.iter().map(|name| name_of(name, "idx:").escape_ascii().to_string());
            assert_eq!(left.into_keys().collect::<BTreeSet<_>>(), expected.collect(), "{layout:?}");
            for name in &names {
                let members: Vec<String> = redis::cmd("SMEMBERS").arg(name_of(name, "idx:")).query_async(&mut client).await.unwrap();
                assert_eq!(members, ["other"]);
            }
            run(&mut client, &["FLUSHALL"]).await;
        }
    }

    /// An id that would lead a companion to the container stays whole, even where the configuration had no doubt.
    async fn g13_an_id_that_leads_a_companion_to_the_container_is_blocked(server: Server) {
        let edge = Edge::on(&server, &format!("{}\nignore = [\"online\"]\ncompanions = [\"UNLINK presence:{{id}}\"]", source(Layout::Zset)));
        let mut client = server.client().await;
        for name in ["online", "c1", "c2"] {
            put(Layout::Zset, name, "1700000000000").exec_async(&mut client).await.unwrap();
        }

        let found = edge.evict(&["c1", "online"].map(|name| id(Layout::Zset, name))).await;

        assert_eq!(found, expected([("c1", Outcome::Evicted), ("online", Outcome::Blocked(Blocked::Other))]));
        let left: Vec<String> = ask(&mut client, "ZRANGE presence:online 0 -1").await;
        assert_eq!(left, ["c2", "online"]);
    }

    /// A strike of many entries with many companions is cut into calls, and each is answered for once.
    async fn a_large_strike_goes_in_many_calls(server: Server) {
        let edge = Edge::on(&server, &format!("{}\ncompanions = [\"SREM one:{{id}} x\", \"SREM two:{{id}} x\", \"UNLINK three:{{id}} four:{{id}}\"]", source(Layout::Hashes)));
        let mut client = server.client().await;
        let ids = put_aged(&mut client, Layout::Hashes, &[OLD; 1_000]).await;
        assert_eq!(edge.evict(&ids[..1]).await.len(), 1);
        server.reset_stats().await;

        let found = edge.evict(&ids).await;

        assert_eq!(found.len(), 999, "one was gone when it was looked at");
        assert!(found.values().all(|outcome| *outcome == Outcome::Evicted));
        let calls = server.command_stats().await["evalsha"];
        assert!((20..=40).contains(&calls), "{calls} calls");
        assert_eq!(ask::<usize>(&mut client, "DBSIZE").await, 0);
    }

    /// Nothing asked, nothing answered, and the same id twice is one entry.
    async fn a_look_at_nothing_and_at_one_twice(server: Server) {
        for layout in Layout::ALL {
            let edge = Edge::on(&server, source(layout));
            let mut client = server.client().await;
            assert!(edge.look(&[]).await.found.is_empty(), "{layout:?}");
            assert!(edge.evict(&[]).await.is_empty());
            let ids = put_aged(&mut client, layout, &[OLD]).await;
            let looked = edge.look(&[ids[0].clone(), ids[0].clone()]).await;

            let strike = edge.strike(&looked).await;

            let found: Vec<Outcome> = strike.outcomes.iter().map(|(_, outcome)| *outcome).collect();
            assert_eq!(found, [Outcome::Evicted, Outcome::Gone], "{layout:?}");
        }
    }
}

/// The commands, keys and channels that the server denied to anybody.
async fn denied(client: &mut MultiplexedConnection) -> Vec<String> {
    let log: Vec<BTreeMap<String, redis::Value>> = ask(client, "ACL LOG").await;
    log.into_iter().map(|mut entry| redis::from_redis_value(entry.remove("object").unwrap()).unwrap()).collect()
}

/// A command from its words.
fn words(words: &[&str]) -> Cmd {
    let mut command = Cmd::new();
    words.iter().for_each(|word| _ = command.arg(*word));
    command
}

// === g16: whole or not at all ===

const WITH_COMPANIONS: &str = r#"hash = "signalr:clients"
last_ping = "json /LatestPingTime"
companions = ["SREM everybody {id}", "UNLINK rec:{id}", "HDEL idx {id}"]"#;

for_each_server! {
    /// However the connection ends, an entry and what belongs to it stand or fall together.
    async fn g16_a_cut_connection_leaves_nothing_half_done(server: Server) {
        let proxy = Proxy::start(server.port()).await;
        let mut client = server.client().await;
        let mut seen = BTreeSet::new();
        for round in 0..40 {
            proxy.set(Mode::Pass);
            let edge = Edge::at(&proxy.url(), WITH_COMPANIONS);
            let ids = put_whole(&mut client, 250).await;
            let looked = edge.look(&ids).await;
            let reply = 600;
            let cut = async {
                match round % 2 {
                    0 => proxy.set(Mode::CutAfter(fastrand::usize(..6 * reply))),
                    _ => {
                        sleep(Duration::from_micros(fastrand::u64(..8_000))).await;
                        proxy.set(Mode::Refuse);
                    }
                }
            };
            let (strike, ()) = tokio::join!(edge.strike(&looked), cut);

            let whole = count_whole(&mut client, &ids).await;
            let count = |wanted: Outcome| strike.outcomes.iter().filter(|(_, outcome)| *outcome == wanted).count();
            let (evicted, unknown) = (count(Outcome::Evicted), count(Outcome::Unknown));
            assert_eq!(evicted + unknown, strike.outcomes.len(), "{:?}", strike.failure);
            let gone = ids.len() - whole;
            assert!((evicted..=evicted + unknown).contains(&gone), "{evicted} evicted, {unknown} unknown, {gone} gone");
            seen.insert((whole > 0, unknown > 0));
        }
        assert!(seen.contains(&(true, true)), "cut in the middle: {seen:?}");
    }

    /// A server killed in the middle comes back with whole entries: its log holds a script's writes as one.
    async fn g16_a_killed_server_leaves_nothing_half_done(kind: Kind) {
        let mut server = Server::builder(kind).args(["--appendonly", "yes", "--appendfsync", "always"]).start().await;
        for round in 0..4 {
            let mut client = server.client().await;
            let ids = put_whole(&mut client, 250).await;
            let edge = Edge::on(&server, WITH_COMPANIONS);
            let looked = edge.look(&ids).await;
            let kill = async {
                sleep(Duration::from_micros(500 * round)).await;
                server.kill();
            };
            let (strike, ()) = tokio::join!(edge.strike(&looked), kill);

            server.restart().await;
            let whole = count_whole(&mut server.client().await, &ids).await;
            let evicted = strike.outcomes.iter().filter(|(_, outcome)| *outcome == Outcome::Evicted).count();
            assert!(ids.len() - whole >= evicted, "what was confirmed had been written");
        }
    }
}

/// Writes entries with all that belongs to them.
async fn put_whole(client: &mut MultiplexedConnection, count: usize) -> Vec<EntryId> {
    let ids = put_aged(client, Layout::Json, &vec![OLD; count]).await;
    let mut pipe = redis::pipe();
    for id in &ids {
        let name = id.name();
        pipe.cmd("SADD").arg("everybody").arg(name);
        pipe.cmd("SET").arg([b"rec:", name].concat()).arg("x");
        pipe.cmd("HSET").arg("idx").arg(name).arg("x");
    }
    pipe.exec_async(client).await.unwrap();
    ids
}

/// How many of the entries stand, all of which must be whole.
async fn count_whole(client: &mut MultiplexedConnection, ids: &[EntryId]) -> usize {
    let mut pipe = redis::pipe();
    for id in ids {
        let name = id.name();
        pipe.cmd("HEXISTS").arg("signalr:clients").arg(name);
        pipe.cmd("SISMEMBER").arg("everybody").arg(name);
        pipe.cmd("EXISTS").arg([b"rec:", name].concat());
        pipe.cmd("HEXISTS").arg("idx").arg(name);
    }
    let there: Vec<bool> = pipe.query_async(client).await.unwrap();
    let parts = there.chunks(4).map(|parts| parts.iter().filter(|there| **there).count());
    let mut whole = 0;
    for (parts, id) in parts.zip(ids) {
        assert!(parts == 0 || parts == 4, "{parts} of 4 parts are left of {}", id.name().escape_ascii());
        whole += usize::from(parts == 4);
    }
    whole
}

// === scores ===

for_each_server! {
    /// Scores are doubles, and the servers print them differently: each is looked at and evicted all the same.
    async fn scores_are_compared_as_the_doubles_they_are(server: Server) {
        let edge = Edge::on(&server, source(Layout::Zset));
        let mut client = server.client().await;
        let scores = [
            "1700000000",
            "1700000000.123456",
            "1.7e9",
            "1700000000123",
            "1700000000123.75",
            "1700000000123456",
            "1700000000123456789",
            "1.7e18",
            "638400000000000001",
            "638400000000000127",
        ];
        for (n, score) in scores.iter().enumerate() {
            words(&["ZADD", "presence:online", score, &format!("c{n}")]).exec_async(&mut client).await.unwrap();
        }
        let ids: Vec<EntryId> = (0..scores.len()).map(|n| id(Layout::Zset, format!("c{n}"))).collect();
        let looked = edge.look(&ids).await;
        for (found, score) in looked.found.iter().zip(scores) {
            assert!(matches!(found, Found::Entry { judged: Ok(_), .. }), "{score}: {found:?}");
        }

        let found = outcomes(&edge.strike(&looked).await);

        assert!(found.values().all(|outcome| *outcome == Outcome::Evicted), "{found:?}");
    }

    /// Two ticks nearer than a double can tell are one score for Redis too; the next double is another.
    async fn g1_the_next_double_spares(server: Server) {
        let edge = Edge::on(&server, source(Layout::Zset));
        let mut client = server.client().await;
        let cases = [
            ("638400000000000000", "638400000000000050", Outcome::Evicted),
            ("638400000000000000", "638400000000000128", Outcome::Spared),
            ("1700000000123456768", "1700000000123456800", Outcome::Evicted),
            ("1700000000123456768", "1700000000123457024", Outcome::Spared),
            ("1700000000.5", "1700000000.5000002384185791", Outcome::Spared),
            ("1700000000.5", "1700000000.50000001", Outcome::Evicted),
            ("1700000000000", "1700000000000.0002441406", Outcome::Spared),
        ];
        for (before, after, expected) in cases {
            words(&["ZADD", "presence:online", before, "c"]).exec_async(&mut client).await.unwrap();
            let looked = edge.look(&[id(Layout::Zset, "c")]).await;
            words(&["ZADD", "presence:online", after, "c"]).exec_async(&mut client).await.unwrap();

            let found = outcomes(&edge.strike(&looked).await);

            assert_eq!(found.into_values().collect::<Vec<_>>(), [expected], "{before} → {after}");
        }
    }
}

// === g13: own keys only ===

/// What the documentation will ask an operator to grant, for each layout.
const RIGHTS: [(Layout, &str); 4] = [
    (Layout::Zset, "~presence:online +zcard +zcount +zrange +zrangebyscore +zrevrangebyscore +zscore +zrem"),
    (Layout::Strings, "~ping:* +scan +mget +get +unlink"),
    (Layout::Hashes, "~conn:* +scan +hmget +unlink"),
    (Layout::Json, "~signalr:clients +hscan +hmget +hdel"),
];

for_each_server! {
    /// A user who may touch the source's keys and no other, with the few commands it takes, does everything.
    async fn g13_a_user_limited_to_the_source_is_enough(server: Server) {
        let mut client = server.client().await;
        for info in ["+info", "-info"] {
            for (layout, rights) in RIGHTS {
                let rights = format!("{rights} ~everybody +srem +time +type +eval +evalsha {info}");
                run(&mut client, &["FLUSHALL", &format!("ACL SETUSER edge reset on >pw {rights}"), "ACL LOG RESET"]).await;
                let ids = put_aged(&mut client, layout, &[OLD, OLD, 0]).await;
                run(&mut client, &["SADD everybody c0 c1 c2", "SET foreign:key x"]).await;
                let edge = as_user(&server, &format!("{}\ncompanions = [\"SREM everybody {{id}}\"]", source(layout)));

                let survey = edge.survey().await;
                assert_eq!((survey.stale, survey.fresh, survey.unreadable_total()), (2, 1, 0), "{layout:?}");
                let found = edge.evict(&ids[..2]).await.into_values().collect::<Vec<_>>();

                assert_eq!(found, [Outcome::Evicted; 2], "{layout:?} {info}");
                let left: Vec<String> = ask(&mut client, "SMEMBERS everybody").await;
                assert_eq!(left, ["c2"]);
                let beyond = denied(&mut client).await;
                // The client and the script for older servers try these, and live without.
                let known = |what: &&String| !["client|setinfo", "client", "info", "setrange", "presence-reaper:nothing"].contains(&what.as_str());
                assert_eq!(beyond.iter().filter(known).collect::<Vec<_>>(), [""; 0], "{layout:?} {info}");
            }
        }
    }

    /// Where INFO is denied no process can be told from the next: every connection counts as another.
    async fn g9_without_info_every_connection_is_another_process(server: Server) {
        let mut client = server.client().await;
        run(&mut client, &["ACL SETUSER edge on >pw ~* +@all -info"]).await;
        let edge = as_user(&server, source(Layout::Zset));
        let ids = put_aged(&mut client, Layout::Zset, &[OLD]).await;
        let looked = edge.look(&ids).await;
        assert_eq!(edge.look(&ids).await.identity, looked.identity, "the same connection");

        run(&mut client, &["CLIENT KILL USER edge"]).await;
        eventually(LONG, async || edge.store.health().await.is_ok()).await;

        assert_ne!(edge.look(&ids).await.identity, looked.identity);
        let strike = edge.strike(&looked).await;
        assert!(strike.outcomes.is_empty() && strike.failure.is_some());
        assert!(stands(&mut client, &ids[0]).await);
        assert_eq!(edge.evict(&ids).await, expected([("c0", Outcome::Evicted)]));
    }
}
