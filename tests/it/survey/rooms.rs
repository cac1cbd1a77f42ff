//! Many containers as one source: each is counted once and whole, whichever way it is read, and whatever becomes of it
//! meanwhile.

use std::collections::BTreeSet;

use presence_reaper::policy::entry::EntryId;
use presence_reaper::policy::outcome::{Blocked, Outcome};
use presence_reaper::store::Found;
use presence_reaper::store::error::Kind as ErrorKind;
use presence_reaper::store::status::Purpose;
use redis::aio::MultiplexedConnection;
use tokio_util::task::AbortOnDropHandle;

use super::summary::summary;
use super::{AGES, MINUTE, SECOND, random_score};
use crate::edge::{Edge, ask, expected, kind_and_words, run, server_now, stands};
use crate::harness::{Mode, Proxy, Server, confined};

const OLD: &str = "1700000000000";

/// The two kinds of container, by pattern.
const BOTH: [&str; 2] = ["zset = \"room:{room}:seen\"", "hash = \"room:{room}:seen\""];

fn is_zset(source: &str) -> bool {
    source.starts_with("zset")
}

fn room(name: impl AsRef<[u8]>) -> Vec<u8> {
    [b"room:", name.as_ref(), b":seen"].concat()
}

fn member(room_name: impl AsRef<[u8]>, name: impl AsRef<[u8]>) -> EntryId {
    EntryId::member(room(room_name).into(), name.as_ref())
}

/// The write of these entries of one container.
fn put_all<'e>(source: &str, key: &[u8], entries: impl IntoIterator<Item = (&'e str, String)>) -> redis::Cmd {
    let mut command = redis::cmd(if is_zset(source) { "ZADD" } else { "HSET" });
    command.arg(key);
    for (time, name) in entries {
        if is_zset(source) {
            command.arg(time).arg(name)
        } else {
            command.arg(name).arg(time)
        };
    }
    command
}

/// Rooms of so many members each, of ages around the threshold.
async fn fill(client: &mut MultiplexedConnection, source: &str, sizes: &[usize]) {
    let now = server_now(client).await.millis();
    let times: Vec<String> = AGES.iter().map(|age| (now - age).to_string()).collect();
    for (at, size) in sizes.iter().enumerate() {
        let entries = (0..*size).map(|n| (times[(n * 7 + at) % times.len()].as_str(), format!("c{n}")));
        put_all(source, &room(at.to_string()), entries).exec_async(client).await.unwrap();
    }
}

/// Rooms of so many members each that are long dead, whenever one looks.
async fn fill_dead(client: &mut MultiplexedConnection, source: &str, rooms: usize, size: usize) {
    for at in 0..rooms {
        let entries = (0..size).map(|n| (OLD, format!("c{n}")));
        put_all(source, &room(at.to_string()), entries).exec_async(client).await.unwrap();
    }
}

fn pages(edge: &Edge) -> u64 {
    edge.link.status().requests[Purpose::Scan.index()].answered
}

// === every way of reading tells the same ===

/// The clock stands still: in place of `TIME` an inline command of the same length reads a hash of two fields.
const NO_TIME: Mode = Mode::Rewrite(&[("*1\r\n$4\r\nTIME\r\n", "HVALS      t\r\n")]);

for_each_server! {
    /// At the very edges, a microsecond to either side: the index, a reading of the whole and a walk draw one line.
    async fn at_each_edge_a_set_read_whole_and_its_index_agree(server: Server) {
        const NOW: i64 = 1_790_000_000_000;
        if confined() {
            // Here the program sends what it never does.
            return;
        }
        let mut client = server.client().await;
        run(&mut client, &[&format!("HSET t s {} us 123456", NOW / SECOND)]).await;
        let proxy = Proxy::start(server.port()).await;
        proxy.set(NO_TIME);
        let edges = [-60, 0, 30, 60, 90, 150, 180, 300, 600, 3_600, 21_600, 86_400, 604_800, 2_592_000];
        let around = [-1_001, -1_000, -999, -500, -1, 0, 1, 500, 999, 1_000, 1_001];
        for (units_per_ms, format) in [(1.0, "unix-ms"), (1_000.0, "unix-us"), (0.001, "unix-s")] {
            for deadline in [0, 90] {
                run(&mut client, &["DEL room:1:seen"]).await;
                let mut zadd = redis::cmd("ZADD");
                zadd.arg("room:1:seen");
                for (edge, micros) in edges.iter().flat_map(|edge| around.iter().map(move |micros| (*edge, *micros))) {
                    let at = NOW + 123 + (deadline - edge) * SECOND;
                    zadd.arg((at as f64 + micros as f64 / 1_000.0) * units_per_ms).arg(format!("{edge}/{micros}"));
                }
                zadd.exec_async(&mut client).await.unwrap();
                let survey = async |container: &str, more: &str| {
                    let text = format!("zset = \"{container}\"\ndeadline = \"{deadline}s\"\n{more}");
                    summary(&Edge::at(&proxy.url(), &text).survey().await)
                };
                let index = survey("room:1:seen", "").await;

                assert_eq!(survey("room:{room}:seen", "").await, index, "{format}, deadline {deadline} s");
                assert_eq!(survey("room:1:seen", "ignore = [\"nobody-{_}\"]").await, index, "{format}");
                assert!(index.counts.iter().all(|count| *count > 0) && index.candidates.len() > 50);
            }
        }
    }

    /// Whatever stands in it and however many they are: around the number up to which a set is read whole, too.
    async fn by_pattern_a_set_is_what_it_is_by_its_key(server: Server) {
        let mut random = fastrand::Rng::with_seed(41);
        let mut client = server.client().await;
        for size in [1, 2, 19, 128, 129, 499, 500, 501, 502, 1_500] {
            run(&mut client, &["FLUSHALL"]).await;
            let now = server_now(&mut client).await.millis();
            for source in BOTH {
                let scores: Vec<String> = (0..size).map(|_| random_score(&mut random, now)).collect();
                let entries = scores.iter().enumerate().map(|(n, score)| (score.as_str(), format!("m{n}")));
                let source = source.replace("{room}", if is_zset(source) { "z" } else { "h" });
                put_all(&source, &room(if is_zset(&source) { "z" } else { "h" }), entries).exec_async(&mut client).await.unwrap();

                let exact = Edge::on(&server, &source).survey().await;

                for more in ["", "ignore = [\"nobody-{_}\"]"] {
                    let pattern = source.replace("room:", "{room}om:").replace("{room}", "r{_}");
                    let found = Edge::on(&server, &format!("{pattern}\n{more}")).survey().await;
                    assert_eq!(summary(&found), summary(&exact), "{size} of {source}\n{more}");
                    assert_eq!(found.population(), size as u64);
                }
            }
        }
    }

    /// Of many rooms, the sums; each of them once, though two patterns find it.
    async fn a_source_is_the_sum_of_its_rooms_each_taken_once(server: Server) {
        let mut client = server.client().await;
        let sizes: Vec<usize> = (1..120).map(|n| n * n % 97 + 1).chain([499, 500, 501, 700, 1_300]).collect();
        let total: usize = sizes.iter().sum();
        for source in BOTH {
            run(&mut client, &["FLUSHALL"]).await;
            fill(&mut client, source, &sizes).await;
            let (kind, _) = source.split_once(' ').unwrap();
            let twice = format!("{kind} = [\"room:{{_}}:seen\", \"room:7:seen\", \"room:{{_...}}:seen\"]");

            let once = Edge::on(&server, source).survey().await;
            let again = Edge::on(&server, &twice).survey().await;

            assert_eq!((once.population(), once.unreadable_total()), (total as u64, 0), "{source}");
            assert_eq!(summary(&again), summary(&once), "{source}");
            let expected = sizes.iter().enumerate().flat_map(|(at, size)| {
                let old = move |n: &usize| AGES[(n * 7 + at) % AGES.len()] >= 60 * SECOND;
                (0..*size).filter(old).map(move |n| member(at.to_string(), format!("c{n}")))
            });
            let candidates: BTreeSet<EntryId> = once.candidates.into_iter().map(|one| one.id).collect();
            assert_eq!(candidates, expected.collect::<BTreeSet<_>>(), "{source}");
        }
    }

    /// However each room is read, an entry of any has the same chance to stand for all: here half of them are in one.
    async fn samples_are_drawn_evenly_from_all_rooms(server: Server) {
        let mut client = server.client().await;
        for source in BOTH {
            run(&mut client, &["FLUSHALL"]).await;
            let now = server_now(&mut client).await.millis().to_string();
            for (at, size) in [500; 10].into_iter().chain([10_000]).chain([600; 5]).chain([100; 20]).enumerate() {
                let entries = (0..size).map(|n| (now.as_str(), format!("c{n}")));
                put_all(source, &room(at.to_string()), entries).exec_async(&mut client).await.unwrap();
            }

            let found = Edge::on(&server, source).survey().await;

            assert_eq!(found.fresh, 20_000);
            for (sample, size) in [(&found.fresh_sample, 64), (&found.sample, 256)] {
                let drawn: BTreeSet<&EntryId> = sample.entries().iter().map(|one| &one.id).collect();
                assert!(drawn.len() > size - 5, "{source}: {}, but for those drawn twice", drawn.len());
                let large = drawn.iter().filter(|id| *id.key == *room("10")).count();
                assert!(large > size / 5 && large < size * 4 / 5, "{source}: {large} of {size} are of the large room");
            }
        }
    }

    /// What a room's key captures can be the label of its entries, whichever way the room is read.
    async fn e6_a_room_can_be_a_group(server: Server) {
        let mut client = server.client().await;
        for source in BOTH {
            run(&mut client, &["FLUSHALL"]).await;
            fill_dead(&mut client, source, 3, 20).await;
            let large = (0..700).map(|n| (OLD, format!("c{n}")));
            put_all(source, &room("large"), large).exec_async(&mut client).await.unwrap();

            let found = Edge::on(&server, &format!("{source}\ngroup = \"in-{{room}}\"")).survey().await;

            assert_eq!((found.stale, found.candidates.len()), (760, 760), "{source}");
            for one in &found.candidates {
                let label = one.group.as_deref().unwrap().strip_prefix(b"in-").unwrap();
                assert_eq!(*one.id.key, *room(label), "{source}");
            }
        }
    }

    /// A key that two patterns of a list match is one entry.
    async fn keys_of_a_list_are_counted_once(server: Server) {
        let mut client = server.client().await;
        for n in 0..50 {
            run(&mut client, &[&format!("SET conn:{n} {OLD}"), &format!("SET sess:{n}:x {OLD}")]).await;
        }
        let found = Edge::on(&server, "keys = [\"conn:{id}\", \"sess:{id}:x\", \"{id}onn:1\", \"sess:{id}\"]").survey().await;

        assert_eq!((found.stale, summary(&found).candidates.len()), (100, 100));
    }

    /// Three thousand rooms in a few hundred round trips, among many keys that are none.
    async fn thousands_of_rooms_are_one_survey(server: Server) {
        let mut client = server.client().await;
        run(&mut client, &["DEBUG POPULATE 20000 room:other 4"]).await;
        for source in BOTH {
            fill(&mut client, source, &[5; 3_000]).await;
            let edge = Edge::on(&server, source);

            let found = edge.survey().await;

            assert_eq!(found.population(), 15_000, "{source}");
            assert!(pages(&edge) < 300, "{} round trips", pages(&edge));
            run(&mut client, &["FLUSHALL"]).await;
        }
    }

    /// Values of a mebibyte in hashes of a few fields do not come in one reply.
    async fn huge_values_in_many_hashes_are_read_in_small_pages(server: Server) {
        let mut client = server.client().await;
        let padding = "x".repeat(1 << 20);
        let value = format!("{{\"at\":{OLD},\"padding\":\"{padding}\"}}");
        for n in 0..16 {
            let entries = (0..8).map(|field| (value.as_str(), format!("c{field}")));
            put_all(BOTH[1], &room(n.to_string()), entries).exec_async(&mut client).await.unwrap();
        }
        let edge = Edge::on(&server, &format!("{}\nlast_ping = \"json /at\"", BOTH[1]));

        let found = edge.survey().await;

        assert_eq!((found.stale, summary(&found).candidates.len()), (128, 128));
        assert!(pages(&edge) > 12, "{} pages", pages(&edge));
    }
}

// === names ===

/// What rooms may be called, globs and captures notwithstanding.
fn odd_rooms() -> Vec<Vec<u8>> {
    let names: [&[u8]; 14] = [
        b"*",
        b"?",
        b"[a]",
        b"\\",
        b"*?[a]\\",
        b"{room}",
        b"{",
        b"a b",
        b"\"",
        b"line\r\nbreak",
        b"nul\0nul",
        b"\xff\xfe",
        b"a:seen",
        b":seen:",
    ];
    names.iter().map(|name| name.to_vec()).collect()
}

for_each_server! {
    /// A room is named by bytes, and so are its companions; what only looks like a room is none.
    async fn a_room_may_have_any_name(server: Server) {
        let mut client = server.client().await;
        for source in BOTH {
            run(&mut client, &["FLUSHALL", "SET room:string:seen x", "SADD room:set:seen x", "RPUSH room:list:seen x"]).await;
            let other = if is_zset(source) { "HSET room:other:seen a 1" } else { "ZADD room:other:seen 1 a" };
            run(&mut client, &[other, "XADD room:stream:seen * a 1"]).await;
            let decoys = ["room::seen", "xroom:a:seen", "Room:a:seen", "room:a:seen!", "room:a"];
            for decoy in decoys {
                put_all(source, decoy.as_bytes(), [(OLD, "c".to_owned())]).exec_async(&mut client).await.unwrap();
            }
            for name in odd_rooms() {
                put_all(source, &room(&name), [(OLD, "c".to_owned()), (OLD, "d".to_owned())]).exec_async(&mut client).await.unwrap();
                let conns = [b"conns-of:", &name[..]].concat();
                redis::cmd("SADD").arg(conns).arg("c").arg("d").exec_async(&mut client).await.unwrap();
            }
            let edge = Edge::on(&server, &format!("{source}\ncompanions = [\"SREM conns-of:{{room}} {{id}}\"]"));

            let found = edge.survey().await;

            let all: BTreeSet<EntryId> = odd_rooms().iter().flat_map(|name| ["c", "d"].map(|id| member(name, id))).collect();
            assert_eq!(found.candidates.into_iter().map(|one| one.id).collect::<BTreeSet<_>>(), all, "{source}");
            let ids: Vec<EntryId> = odd_rooms().iter().map(|name| member(name, "c")).collect();
            let looked = edge.look(&ids).await;
            assert!(edge.strike(&looked).await.outcomes.iter().all(|(_, outcome)| *outcome == Outcome::Evicted));
            for name in odd_rooms() {
                let conns: Vec<String> = redis::cmd("SMEMBERS").arg([b"conns-of:", &name[..]].concat()).query_async(&mut client).await.unwrap();
                assert_eq!(conns, ["d"], "{}", name.escape_ascii());
                assert!(!stands(&mut client, &member(&name, "c")).await && stands(&mut client, &member(&name, "d")).await);
            }
            assert_eq!(ask::<usize>(&mut client, &format!("EXISTS {}", decoys.join(" "))).await, decoys.len());
        }
    }

    /// Our own keys are nobody's rooms, whatever the pattern.
    async fn our_own_keys_are_no_rooms(server: Server) {
        let mut client = server.client().await;
        run(&mut client, &[&format!("ZADD presence-reaper:x {OLD} a"), &format!("ZADD xence-reaper:x {OLD} a")]).await;

        let found = Edge::on(&server, "zset = \"{a}ence-reaper:{b}\"").survey().await;

        let keys: Vec<&[u8]> = found.candidates.iter().map(|one| &one.id.key[..]).collect();
        assert_eq!(keys, [b"xence-reaper:x"]);
    }

    /// `ignore` is about members and fields, in small rooms and in large ones.
    async fn the_ignored_are_no_entries_in_any_room(server: Server) {
        let mut client = server.client().await;
        for source in BOTH {
            run(&mut client, &["FLUSHALL"]).await;
            fill(&mut client, source, &[3, 600]).await;
            for n in 0..2 {
                put_all(source, &room(n.to_string()), [(OLD, "Version".to_owned())]).exec_async(&mut client).await.unwrap();
            }
            let found = Edge::on(&server, &format!("{source}\nignore = [\"Version\", \"room:{{_}}\"]")).survey().await;
            assert_eq!((found.population(), found.unreadable_total()), (603, 0), "{source}");
        }
    }
}

// === what changes meanwhile ===

for_each_server! {
    /// Rooms come, go, grow and become other things while they are read. None of that is a failure, and whoever stood
    /// there all the time is counted each time, once.
    async fn rooms_that_change_while_they_are_read_are_no_mistake(server: Server) {
        let mut client = server.client().await;
        for source in BOTH {
            run(&mut client, &["FLUSHALL"]).await;
            fill_dead(&mut client, source, 300, 8).await;
            let dead = large_of(source).into_iter().map(|name| (OLD, name));
            put_all(source, &room("large"), dead).exec_async(&mut client).await.unwrap();
            let dead = 300 * 8 + large_of(source).len();
            let edge = Edge::on(&server, source);
            assert_eq!(edge.survey().await.stale, dead as u64, "{source}");
            let mut hub = server.client().await;
            let _churn = AbortOnDropHandle::new(tokio::spawn(async move {
                let (large, other) = (large_of(source), if is_zset(source) { BOTH[1] } else { BOTH[0] });
                // bound: ends with the handle
                for round in 0.. {
                    let mut pipe = redis::pipe();
                    for n in 0..40 {
                        let key = room(format!("x{n}"));
                        pipe.cmd("UNLINK").arg(&key);
                        match (round + n) % 4 {
                            0 => _ = pipe.add_command(put_all(source, &key, [("0", "gone".to_owned())])),
                            1 => _ = pipe.add_command(put_all(other, &key, [("0", "gone".to_owned())])),
                            2 => _ = pipe.add_command(put_all(source, &key, large.iter().map(|name| ("0", name.clone())))),
                            _ => {}
                        }
                    }
                    pipe.exec_async(&mut hub).await.unwrap();
                }
            }));
            for _ in 0..40 {
                let found = edge.survey().await;

                // Those that come and go have the time 0.
                assert_eq!(found.stale, dead as u64, "{source}");
                assert_eq!(summary(&found).candidates.len(), dead, "{source}");
                assert_eq!(found.population() - found.unreadable_total(), dead as u64, "{source}");
            }
        }
    }

    /// Rooms that come and go make the server's table grow and shrink, and its SCAN repeat itself.
    async fn rooms_are_counted_once_while_the_table_grows_and_shrinks(server: Server) {
        let mut client = server.client().await;
        fill_dead(&mut client, BOTH[0], 2_000, 2).await;
        let edge = Edge::on(&server, BOTH[0]);
        let mut hub = server.client().await;
        let _growth = AbortOnDropHandle::new(tokio::spawn(async move {
            // bound: ends with the handle
            loop {
                for command in ["SET", "UNLINK"] {
                    for thousand in 0..16 {
                        let mut pipe = redis::pipe();
                        for n in 0..1_000 {
                            pipe.cmd(command).arg(format!("foreign:{thousand}:{n}"));
                            if command == "SET" {
                                pipe.arg("x");
                            }
                        }
                        pipe.exec_async(&mut hub).await.unwrap();
                    }
                }
            }
        }));
        for _ in 0..20 {
            let found = edge.survey().await;
            assert_eq!((found.stale, summary(&found).candidates.len()), (4_000, 4_000));
        }
    }

    /// At a look: of several rooms in any order, one that is gone, one that became another thing.
    async fn a_look_reaches_into_many_rooms(server: Server) {
        let mut client = server.client().await;
        for source in BOTH {
            run(&mut client, &["FLUSHALL", "SADD room:2:seen c0"]).await;
            for n in [0, 1, 3] {
                put_all(source, &room(n.to_string()), [(OLD, "c0".to_owned()), ("1700000000001", "c1".to_owned())])
                    .exec_async(&mut client).await.unwrap();
            }
            let edge = Edge::on(&server, source);
            let ids: Vec<EntryId> = [(0, 0), (2, 0), (1, 1), (0, 1), (9, 0), (1, 0), (3, 7), (2, 1), (3, 0)]
                .map(|(room, id)| member(room.to_string(), format!("c{id}"))).into();

            let looked = edge.look(&ids).await;

            let seen = looked.found.iter().map(|found| match found {
                Found::Gone => -1,
                Found::WrongType => -2,
                Found::Entry { judged, .. } => judged.unwrap().0.millis() - 1_700_000_000_000,
            });
            assert_eq!(seen.collect::<Vec<_>>(), [0, -2, 1, 1, -1, 0, -1, -2, 0], "{source}");
            let struck = edge.strike(&looked).await;
            let struck: Vec<&EntryId> = struck.outcomes.iter().filter(|(_, outcome)| *outcome == Outcome::Evicted).map(|(id, _)| id).collect();
            assert_eq!(struck, [0, 2, 3, 5, 8].map(|at| &ids[at]));
            assert!(!stands(&mut client, &ids[0]).await && stands(&mut client, &member("3", "c1")).await);
        }
    }

    /// What stands at a key that the configuration names is a mistake of the operator's, in a list too.
    async fn an_exact_key_of_another_type_is_an_error_beside_patterns(server: Server) {
        let mut client = server.client().await;
        run(&mut client, &["SADD room:lobby:seen x", "ZADD room:a:seen 1 a"]).await;
        let edge = Edge::on(&server, "zset = [\"room:lobby:seen\", \"room:{_}:seen\"]");

        assert_eq!(kind_and_words(&edge.survey_error().await, &["WRONGTYPE", "source edge"]), ErrorKind::WrongType);
        run(&mut client, &["DEL room:lobby:seen"]).await;
        assert_eq!(edge.survey().await.population(), 1);
    }

    /// More rooms than allowed are a mistake that is told, and never a part of the picture.
    async fn more_rooms_than_allowed_are_no_survey(server: Server) {
        let mut client = server.client().await;
        for source in BOTH {
            run(&mut client, &["FLUSHALL"]).await;
            fill(&mut client, source, &[1; 30]).await;
            let with = |most: u32| Edge::on(&server, &format!("{source}\n[source.guard]\nmax_keys = {most}"));

            assert_eq!(with(30).survey().await.population(), 30, "{source}");
            let words = ["surveying source edge", "more than 29 ", "room:*:seen", "narrow the pattern, or raise `max_keys` in [guard]"];
            assert_eq!(kind_and_words(&with(29).survey_error().await, &words), ErrorKind::Other, "{source}");
        }
    }

    /// The server counts commands: surveys and looks by pattern write nothing.
    async fn surveys_and_looks_by_pattern_write_nothing(server: Server) {
        let mut client = server.client().await;
        for source in BOTH {
            run(&mut client, &["FLUSHALL"]).await;
            fill(&mut client, source, &[3, 600]).await;
            server.reset_stats().await;
            let edge = Edge::on(&server, source);
            edge.survey().await;
            edge.look(&[member("0", "c0"), member("1", "c0")]).await;
            assert!(server.write_commands_seen().await.is_empty(), "{:?}", server.write_commands_seen().await);
        }
    }
}

/// More names than are read whole.
fn large_of(source: &str) -> Vec<String> {
    (0..if is_zset(source) { 700 } else { 520 }).map(|n| format!("m{n}")).collect()
}

// === companions ===

for_each_server! {
    /// An id that spells out the end of a room's key would lead a companion into that room: its entry stays whole.
    async fn g13_an_id_that_leads_a_companion_to_another_room_is_blocked(server: Server) {
        let mut client = server.client().await;
        for source in BOTH {
            run(&mut client, &["FLUSHALL"]).await;
            for name in ["a", "b:conn:x"] {
                let ids = ["x:seen", "seen", "c"].map(|id| (OLD, id.to_owned()));
                put_all(source, &room(name), ids).exec_async(&mut client).await.unwrap();
            }
            let edge = Edge::on(&server, &format!("{source}\ncompanions = [\"SREM everybody {{id}}\", \"UNLINK room:b:conn:{{id}}\"]"));

            let found = edge.evict(&["c", "seen", "x:seen"].map(|id| member("a", id))).await;

            let blocked = Outcome::Blocked(Blocked::Other);
            assert_eq!(found, expected([("c", Outcome::Evicted), ("seen", blocked), ("x:seen", blocked)]), "{source}");
            assert!(stands(&mut client, &member("b:conn:x", "c")).await, "{source}");
            assert!(stands(&mut client, &member("a", "x:seen")).await && !stands(&mut client, &member("a", "c")).await);
        }
    }

    /// A set that only looks like a room is a companion like any other.
    async fn a_companion_of_another_type_may_look_like_a_room(server: Server) {
        let mut client = server.client().await;
        for kind in ["zset", "hash"] {
            let source = format!("{kind} = \"room:{{room}}\"\ncompanions = [\"SREM room:{{room}}:conns {{id}}\"]");
            run(&mut client, &["FLUSHALL", "SADD room:1:conns a b", "SADD room:2:conns a b"]).await;
            put_all(&source, b"room:1", [(OLD, "a".to_owned()), (OLD, "b".to_owned())]).exec_async(&mut client).await.unwrap();
            let edge = Edge::on(&server, &source);

            assert_eq!(edge.survey().await.population(), 2, "{kind}");
            let id = EntryId::member(b"room:1".as_slice().into(), b"a".as_slice());
            assert_eq!(edge.evict(&[id]).await, expected([("a", Outcome::Evicted)]));

            let left: [Vec<String>; 2] = [ask(&mut client, "SMEMBERS room:1:conns").await, ask(&mut client, "SMEMBERS room:2:conns").await];
            assert_eq!(left.map(|left| left.len()), [1, 2], "{kind}");
        }
    }

    /// The same client in two rooms is two entries: each goes by its own pings.
    async fn one_client_in_two_rooms_is_two_entries(server: Server) {
        let mut client = server.client().await;
        let now = server_now(&mut client).await.millis();
        for source in BOTH {
            run(&mut client, &["FLUSHALL"]).await;
            for (name, at) in [("a", now), ("b", now - 10 * MINUTE)] {
                put_all(source, &room(name), [(at.to_string().as_str(), "c".to_owned())]).exec_async(&mut client).await.unwrap();
            }
            let found = Edge::on(&server, source).survey().await;

            assert_eq!((found.fresh, found.stale), (1, 1), "{source}");
            assert_eq!(found.candidates.iter().map(|one| &one.id).collect::<Vec<_>>(), [&member("b", "c")]);
        }
    }
}
