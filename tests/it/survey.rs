//! Surveys of real servers: everything is counted once and as what it is, and nothing comes out of a part.

mod link;
mod rooms;
mod summary;

use std::collections::BTreeSet;
use std::time::Duration;

use presence_reaper::policy::entry::{EntryId, Timestamp};
use presence_reaper::policy::ping::Unreadable;
use presence_reaper::policy::survey::MAX_CANDIDATES;
use presence_reaper::store::Found;
use presence_reaper::store::audience::Ask;
use presence_reaper::store::error::Kind as ErrorKind;
use presence_reaper::store::status::Purpose;
use redis::Cmd;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use crate::edge::{Edge, LONG, id, kind_and_words, put, put_aged, run, server_now, source, within};
use crate::harness::{Layout, Mode, Proxy, Server, eventually};
use summary::summary;

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// Ages far from every edge, so that it does not matter when exactly the survey looks: two in each bucket, some that are
/// watched and live, some ahead of the clock within the tolerance and beyond it.
const AGES: [i64; 21] = [
    -20 * HOUR,
    -70 * SECOND,
    -30 * SECOND,
    0,
    10 * SECOND,
    45 * SECOND,
    75 * SECOND,
    120 * SECOND,
    170 * SECOND,
    190 * SECOND,
    280 * SECOND,
    310 * SECOND,
    9 * MINUTE,
    11 * MINUTE,
    50 * MINUTE,
    5 * HOUR,
    20 * HOUR,
    2 * DAY,
    20 * DAY,
    40 * DAY,
    400 * DAY,
];

// === counts ===

for_each_server! {
    /// The same clients in the four layouts make the same survey, and it is the one that a person would count.
    async fn every_layout_counts_alike(server: Server) {
        for layout in Layout::ALL {
            let mut client = server.client().await;
            put_aged(&mut client, layout, &AGES).await;

            let found = Edge::on(&server, source(layout)).survey().await;

            assert_eq!((found.future, found.fresh, found.late, found.stale), (2, 5, 4, 10), "{layout:?}");
            assert_eq!((found.unreadable_total(), found.population(), found.unwatched), (0, 21, 0), "{layout:?}");
            assert_eq!(found.times[..3], [0, 21, 0], "{layout:?}");
            let buckets: Vec<u64> = found.ages.buckets().map(|(_, count)| count).collect();
            // 30 s, 60 s, 90 s, 150 s, 5 min, 10 min, 1 h, 6 h, 1 d, 7 d, 30 d, more
            assert_eq!(buckets, [3, 1, 1, 1, 3, 2, 2, 1, 1, 1, 1, 2], "{layout:?}");
            let span = found.newest.unwrap().millis() - found.oldest.unwrap().millis();
            assert_eq!(span, 400 * DAY + 30 * SECOND, "{layout:?}");
            let names = |from: usize| (from..AGES.len()).map(|n| id(layout, format!("c{n}"))).collect::<BTreeSet<_>>();
            assert_eq!(found.candidates.iter().map(|one| one.id.clone()).collect::<BTreeSet<_>>(), names(6), "{layout:?}");
            assert_eq!(found.candidates.len(), 15);
            let oldest: Vec<EntryId> = found.oldest_stale.into_iter().map(|(_, id)| id).collect();
            assert_eq!(oldest, (11..AGES.len()).rev().map(|n| id(layout, format!("c{n}"))).collect::<Vec<_>>());
        }
    }

    /// The index of a sorted set and a walk through it tell the same, whatever stands in it.
    async fn the_index_of_a_sorted_set_tells_what_a_walk_tells(server: Server) {
        let mut random = fastrand::Rng::with_seed(14);
        for deadline in [0, 90] {
            let text = format!("{}\ndeadline = \"{deadline}s\"", source(Layout::Zset));
            let text = if deadline == 0 { source(Layout::Zset) } else { &text };
            let index = Edge::on(&server, text);
            let walk = Edge::on(&server, &format!("{text}\nignore = [\"nobody-{{_}}\"]"));
            let mut client = server.client().await;
            for round in 0..12 {
                run(&mut client, &["FLUSHALL"]).await;
                let now = server_now(&mut client).await.millis() + deadline * SECOND;
                let mut zadd = redis::cmd("ZADD");
                zadd.arg("presence:online");
                for n in 0..random.usize(1..400) {
                    zadd.arg(random_score(&mut random, now)).arg(format!("m{n}"));
                }
                zadd.exec_async(&mut client).await.unwrap();

                let (index, walk) = (index.survey().await, walk.survey().await);

                assert_eq!(summary(&index), summary(&walk), "round {round}, deadline {deadline} s");
            }
        }
    }

    /// Whatever the unit, and however it is fixed: each time is counted under its unit, or as implausible.
    async fn a_fixed_format_counts_no_other(server: Server) {
        let mut client = server.client().await;
        let now = server_now(&mut client).await.millis();
        for (n, unit) in UNITS.iter().enumerate() {
            for (age, name) in [(0, "fresh"), (10 * MINUTE, "stale")] {
                let score = unit.1(now - age).to_string();
                put(Layout::Zset, format!("{name}{n}"), &score).exec_async(&mut client).await.unwrap();
            }
        }
        for (n, unit) in UNITS.iter().enumerate() {
            for more in ["", "\nignore = [\"nobody-{_}\"]"] {
                let text = format!("{}\nformat = \"{}\"{more}", source(Layout::Zset), unit.0);
                let found = Edge::on(&server, &text).survey().await;

                assert_eq!((found.fresh, found.stale, found.unreadable_total()), (1, 1, 8), "{text}");
                assert_eq!(found.unreadable[Unreadable::Implausible.index()], 8);
                assert_eq!(found.times[n], 2);
            }
        }
    }

    /// Between two buckets of ages there is no gap into which a fraction of a millisecond could fall.
    async fn every_age_lies_in_a_bucket(server: Server) {
        let mut client = server.client().await;
        let now = server_now(&mut client).await.millis();
        for (n, edge) in [30, 60, 90, 150, 300, 600].into_iter().enumerate() {
            let mut zadd = redis::cmd("ZADD");
            zadd.arg("presence:online");
            for quarter in 0..16_000 {
                // From 1 s before the edge to 3 s behind it, as time goes on.
                let micros = (now - edge * SECOND - SECOND) * 1_000 + quarter * 250;
                zadd.arg(micros).arg(format!("{n}-{quarter}"));
            }
            zadd.exec_async(&mut client).await.unwrap();

            let found = Edge::on(&server, source(Layout::Zset)).survey().await;

            assert_eq!(found.live() + found.stale, (n as u64 + 1) * 16_000);
            let ages: u64 = found.ages.buckets().map(|(_, count)| count).sum();
            assert_eq!(ages, found.live() + found.stale, "around {edge} s");
        }
    }

    /// Zero, minus one and infinity at either end of a sorted set hide nobody; nor do a thousand members of one score.
    async fn no_head_of_a_sorted_set_hides_the_dead(server: Server) {
        let mut client = server.client().await;
        let now = server_now(&mut client).await.millis();
        let (one, other) = (now - 10 * MINUTE, now - 9 * MINUTE);
        let mut zadd = redis::cmd("ZADD");
        zadd.arg("presence:online");
        for n in 0..1_500 {
            for sentinel in ["0", "-1", "-inf", "+inf"] {
                zadd.arg(sentinel).arg(format!("{sentinel}-{n}"));
            }
        }
        let mut dead = 0;
        // Around one page, two pages, and a page that ends where a score does.
        for (count, score) in [(999, one - 3), (1, one - 2), (2_345, one), (1_000, one + 1), (655, other), (77, other + 7)] {
            for n in 0..count {
                zadd.arg(score).arg(format!("d-{score}-{n}"));
                dead += 1;
            }
        }
        zadd.arg(now).arg("living");
        zadd.exec_async(&mut client).await.unwrap();

        for text in [source(Layout::Zset), "zset = \"presence:online\"\nignore = [\"nobody-{_}\"]"] {
            let found = Edge::on(&server, text).survey().await;

            assert_eq!((found.stale, found.fresh), (dead, 1));
            assert_eq!(found.unreadable[Unreadable::Implausible.index()], 6_000);
            let names: BTreeSet<&[u8]> = found.candidates.iter().map(|one| one.id.name()).collect();
            assert_eq!((names.len(), found.candidates.len()), (dead as usize, dead as usize));
            assert!(names.iter().all(|name| name.starts_with(b"d-")));
        }
    }

    /// What is too much to watch is counted, of whichever unit it is: else the rest would pass for gone.
    async fn what_is_too_much_to_watch_is_counted(server: Server) {
        let mut client = server.client().await;
        let old = server_now(&mut client).await.millis() - 10 * MINUTE;
        let more = 500;
        for (unit, count) in [(1_000, MAX_CANDIDATES / 2), (1, MAX_CANDIDATES / 2 + more)] {
            for first in (0..count).step_by(10_000) {
                let mut zadd = redis::cmd("ZADD");
                zadd.arg("presence:online");
                for n in first..(first + 10_000).min(count) {
                    zadd.arg(old / unit).arg(format!("{unit}-{n}"));
                }
                zadd.exec_async(&mut client).await.unwrap();
            }
        }

        let found = Edge::on(&server, source(Layout::Zset)).survey().await;

        assert_eq!((found.candidates.len(), found.unwatched), (MAX_CANDIDATES, more as u64));
        assert_eq!(found.stale, (MAX_CANDIDATES + more) as u64);
    }

    /// The hub stores a time in the future: last ping plus this.
    async fn a_deadline_is_taken_off(server: Server) {
        let mut client = server.client().await;
        for layout in Layout::ALL {
            let ages = [0, 100 * SECOND, 10 * MINUTE, -2 * MINUTE].map(|age| age - 20 * MINUTE);
            let ids = put_aged(&mut client, layout, &ages).await;

            let edge = Edge::on(&server, &format!("{}\ndeadline = \"20m\"", source(layout)));
            let found = edge.survey().await;

            assert_eq!((found.fresh, found.late, found.stale, found.future), (1, 1, 1, 1), "{layout:?}");
            let candidates: BTreeSet<&EntryId> = found.candidates.iter().map(|one| &one.id).collect();
            assert_eq!(candidates, BTreeSet::from([&ids[1], &ids[2]]));
            let looked = edge.look(&ids[2..3]).await;
            let [Found::Entry { judged: Ok((last_ping, _)), .. }] = looked.found[..] else { panic!("{looked:?}") };
            let oldest = found.candidates.iter().map(|one| one.last_ping).min();
            assert_eq!(Some(last_ping), oldest, "a look judges as the survey did");
            assert!((0..60 * SECOND).contains(&(looked.now.server.millis_since(last_ping) - 10 * MINUTE)));
        }
    }

    /// Each format in each layout that can hold it, as text and where JSON has numbers as those; and looks agree.
    async fn every_format_is_read_in_every_layout(server: Server) {
        let mut client = server.client().await;
        for layout in Layout::ALL {
            run(&mut client, &["FLUSHALL"]).await;
            let at = server_now(&mut client).await.millis() - 10 * MINUTE;
            let mut written = Vec::new();
            for (name, write) in UNITS {
                written.push((name, write(at).to_string()));
            }
            if layout != Layout::Zset {
                written.extend(ISO.iter().map(|write| ("iso-8601", write(at))));
            }
            for (n, (_, text)) in written.iter().enumerate() {
                put(layout, format!("c{n}"), text).exec_async(&mut client).await.unwrap();
                if layout == Layout::Json && n < UNITS.len() {
                    let value = format!("{{\"LatestPingTime\":{text}}}");
                    let name = format!("number{n}");
                    redis::cmd("HSET").arg("signalr:clients").arg(name).arg(value).exec_async(&mut client).await.unwrap();
                }
            }
            let edge = Edge::on(&server, source(layout));

            let found = edge.survey().await;

            let of_unit = |name: &str| written.iter().filter(|(unit, _)| *unit == name).count() as u64;
            let twice = if layout == Layout::Json { 2 } else { 1 };
            let times: Vec<u64> = UNITS.iter().map(|(name, _)| of_unit(name) * twice).chain([of_unit("iso-8601")]).collect();
            assert_eq!(found.times[..times.len()], times[..], "{layout:?}");
            assert_eq!((found.stale, found.unreadable_total()), (times.iter().sum(), 0), "{layout:?}");
            for one in &found.candidates {
                let off = one.last_ping.millis_since(Timestamp::from_millis(at));
                assert!((0..=1_000).contains(&off), "{layout:?} {:?}: {off} ms too young, never too old", one.id);
            }
            let ids: Vec<EntryId> = found.candidates.iter().map(|one| one.id.clone()).collect();
            for (found, one) in edge.look(&ids).await.found.iter().zip(&found.candidates) {
                let Found::Entry { judged: Ok((last_ping, _)), mark, .. } = found else { panic!("{found:?}") };
                assert_eq!((*last_ping, *mark), (one.last_ping, one.mark));
            }
        }
    }
}

/// Writes a time of so many milliseconds.
type Write = fn(i64) -> i128;

/// The units that are numbers, and a time of so many milliseconds in each. The places of `Unit::index`.
const UNITS: [(&str, Write); 5] = [
    ("unix-s", |ms| i128::from(ms + 999) / 1_000),
    ("unix-ms", |ms| ms.into()),
    ("unix-us", |ms| i128::from(ms) * 1_000),
    ("unix-ns", |ms| i128::from(ms) * 1_000_000),
    ("dotnet-ticks", |ms| i128::from(ms) * 10_000 + 621_355_968_000_000_000),
];

/// A time of so many milliseconds as hubs write it in ISO 8601.
const ISO: [fn(i64) -> String; 4] = [
    |ms| timestamp(ms).to_string(),
    |ms| timestamp(ms).strftime("%Y-%m-%dT%H:%M:%S.%f0000").to_string(),
    |ms| timestamp(ms).strftime("%Y-%m-%d %H:%M:%S.%3f+00:00").to_string(),
    |ms| timestamp(ms + 999 + 2 * HOUR).strftime("%Y%m%dT%H%M%S+0200").to_string(),
];

fn timestamp(ms: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_millisecond(ms).unwrap()
}

/// A time of some age that is far from every edge, in some unit, with some fraction; or none that can be.
fn random_score(random: &mut fastrand::Rng, now: i64) -> String {
    const NEVER: [&str; 10] =
        ["0", "-1", "inf", "-inf", "1", "1e5", "123456789012", "5e14", "9007199254740993", "1e19"];
    if random.u8(..8) == 0 {
        return random.choice(NEVER).unwrap().to_owned();
    }
    let at = now - random.choice(AGES).unwrap() - random.i64(..3 * SECOND);
    let fraction = random.u32(..1_000_000);
    match random.u8(..6) {
        0 => format!("{}.{fraction:06}", at / 1_000),
        1 => format!("{}", at / 1_000),
        2 => format!("{at}.{fraction:06}"),
        3 => format!("{at}{:03}", fraction % 1_000),
        4 => format!("{at}{fraction:06}"),
        _ => format!("{}", i128::from(at) * 10_000 + i128::from(fraction % 10_000) + 621_355_968_000_000_000),
    }
}

// === what can't be judged ===

/// Texts that stand where a time should, and what each is.
const ZOO: [(&str, Unreadable); 19] = [
    ("", Unreadable::Missing),
    ("   ", Unreadable::Missing),
    ("nan", Unreadable::Unparsable),
    ("inf", Unreadable::Unparsable),
    ("-1", Unreadable::Implausible),
    ("0", Unreadable::Implausible),
    ("0x10", Unreadable::Unparsable),
    ("1e12", Unreadable::Unparsable),
    ("12abc", Unreadable::Unparsable),
    ("123456789012345678901", Unreadable::Unparsable),
    ("9007199254740991", Unreadable::Implausible),
    ("9007199254740993", Unreadable::Implausible),
    ("134000000000000000", Unreadable::Implausible),
    ("0001-01-01T00:00:00", Unreadable::Implausible),
    ("1999-01-01T00:00:00Z", Unreadable::Implausible),
    ("2024-01-01", Unreadable::Unparsable),
    ("10:00", Unreadable::Unparsable),
    ("\0\r\n", Unreadable::Unparsable),
    ("true", Unreadable::Unparsable),
];

for_each_server! {
    /// Unknown is alive: the zoo is counted by its reasons, and only the dead beside it may go.
    async fn g10_only_the_dead_beside_the_zoo_are_candidates(server: Server) {
        let mut client = server.client().await;
        for layout in [Layout::Strings, Layout::Hashes, Layout::Json] {
            let dead = put_aged(&mut client, layout, &[10 * MINUTE, 10 * MINUTE, 0]).await;
            let huge = "9".repeat(1 << 20);
            for (n, (text, _)) in ZOO.iter().enumerate() {
                put(layout, format!("zoo{n}"), text).exec_async(&mut client).await.unwrap();
            }
            put(layout, "huge", &huge).exec_async(&mut client).await.unwrap();
            let expect = |why: Unreadable| ZOO.iter().filter(|(_, reason)| *reason == why).count() as u64;
            let edge = Edge::on(&server, source(layout));

            let found = edge.survey().await;

            let expected = [0, expect(Unreadable::Missing), expect(Unreadable::Unparsable) + 1, expect(Unreadable::Implausible)];
            assert_eq!(found.unreadable, expected, "{layout:?}");
            assert_eq!((found.stale, found.fresh), (2, 1));
            let candidates: BTreeSet<&EntryId> = found.candidates.iter().map(|one| &one.id).collect();
            assert_eq!(candidates, dead[..2].iter().collect());
            let zoo: Vec<EntryId> = (0..ZOO.len()).map(|n| id(layout, format!("zoo{n}"))).collect();
            for (found, (text, why)) in edge.look(&zoo).await.found.iter().zip(ZOO) {
                let Found::Entry { judged, .. } = found else { panic!("{text:?}: {found:?}") };
                assert_eq!(*judged, Err(why), "{layout:?} {text:?}");
            }
        }
    }

    /// What stands in a JSON entry in place of its time, and what is no JSON at all.
    async fn g10_json_without_a_time_is_alive(server: Server) {
        let mut client = server.client().await;
        let nested = "[".repeat(100_000);
        let cases = [
            ("{}", Unreadable::Missing),
            ("{\"LatestPingTime\":null}", Unreadable::Missing),
            ("[]", Unreadable::Missing),
            ("1700000000000", Unreadable::Missing),
            ("{\"LatestPingTime\":{}}", Unreadable::WrongType),
            ("{\"LatestPingTime\":[1700000000000]}", Unreadable::WrongType),
            ("{\"LatestPingTime\":true}", Unreadable::Unparsable),
            ("{\"LatestPingTime\":1.7e18}", Unreadable::Unparsable),
            ("{\"LatestPingTime\":1e400}", Unreadable::Unparsable),
            ("{\"LatestPingTime\":1700000000000", Unreadable::Unparsable),
            ("{\"LatestPingTime\":1700000000000} x", Unreadable::Unparsable),
            ("", Unreadable::Unparsable),
            (nested.as_str(), Unreadable::Unparsable),
        ];
        for (n, (value, _)) in cases.iter().enumerate() {
            redis::cmd("HSET").arg("signalr:clients").arg(format!("z{n}")).arg(value).exec_async(&mut client).await.unwrap();
        }
        let ids: Vec<EntryId> = (0..cases.len()).map(|n| id(Layout::Json, format!("z{n}"))).collect();
        let edge = Edge::on(&server, source(Layout::Json));

        assert_eq!(edge.survey().await.unreadable_total(), cases.len() as u64);
        for (found, (value, why)) in edge.look(&ids).await.found.iter().zip(cases) {
            let Found::Entry { judged, .. } = found else { panic!("{found:?}") };
            assert_eq!(*judged, Err(why), "{}", &value[..value.len().min(60)]);
        }
    }

    /// A client that just connected has the year 1 for a last ping, and is judged by its entrance; a list means the
    /// newest that is there; one that is there and can't be read spoils the entry.
    async fn g10_a_list_of_times_means_the_newest_and_one_that_cannot_be_read_spoils(server: Server) {
        let mut client = server.client().await;
        let now = server_now(&mut client).await.millis();
        let [fresh, old] = [0, 10 * MINUTE].map(|age| timestamp(now - age).to_string());
        let never = "0001-01-01T00:00:00";
        let cases = [
            (Some(never), Some(fresh.as_str()), Ok(0)),
            (Some(never), Some(old.as_str()), Ok(10)),
            (Some(&old), Some(&fresh), Ok(0)),
            (Some(&fresh), Some(&old), Ok(0)),
            (None, Some(&old), Ok(10)),
            (Some(&old), None, Ok(10)),
            (Some(&old), Some(""), Ok(10)),
            (Some("0"), Some(&old), Ok(10)),
            (Some(&old), Some("-1"), Ok(10)),
            (Some("0"), Some(&fresh), Ok(0)),
            (Some(&old), Some("rubbish"), Err(Unreadable::Unparsable)),
            (Some("rubbish"), Some(&old), Err(Unreadable::Unparsable)),
            (Some(&old), Some("1970-01-02T00:00:00Z"), Err(Unreadable::Implausible)),
            (Some(never), None, Err(Unreadable::Implausible)),
            (None, None, Err(Unreadable::Missing)),
        ];
        let sources = [
            (Layout::Json, "hash = \"signalr:clients\"\nlast_ping = [\"json /LatestPingTime\", \"json /EntranceTime\"]"),
            (Layout::Hashes, "keys = \"conn:{id}\"\nlast_ping = [\"field LatestPingTime\", \"field EntranceTime\"]"),
        ];
        for (layout, text) in sources {
            for (n, (latest, entrance, _)) in cases.iter().enumerate() {
                put_times(layout, n, *latest, *entrance).exec_async(&mut client).await.unwrap();
            }
            let ids: Vec<EntryId> = (0..cases.len()).map(|n| id(layout, n.to_string())).collect();
            let edge = Edge::on(&server, text);

            let survey = edge.survey().await;
            let looked = edge.look(&ids).await;

            assert_eq!((survey.fresh, survey.stale, survey.unreadable_total()), (4, 6, 5), "{layout:?}");
            for (n, (found, (_, _, expected))) in looked.found.iter().zip(cases).enumerate() {
                let Found::Entry { judged, .. } = found else { panic!("{found:?}") };
                let minutes = judged.map(|(last_ping, _)| looked.now.server.millis_since(last_ping) / MINUTE);
                assert_eq!(minutes, expected, "{layout:?} {n}");
            }
        }
    }

    /// Keys of the other types under the pattern are counted, looked at and left.
    async fn g10_keys_of_another_type_are_counted_and_left(server: Server) {
        let mut client = server.client().await;
        for (layout, prefix, own) in [(Layout::Strings, "ping", "HSET # last_ping 1"), (Layout::Hashes, "conn", "SET # 1")] {
            let dead = put_aged(&mut client, layout, &[10 * MINUTE]).await;
            let others = ["RPUSH # x", "SADD # x", "ZADD # 1 x", "XADD # * f v", own];
            for (n, other) in others.iter().enumerate() {
                run(&mut client, &[&other.replace('#', &format!("{prefix}:t{n}"))]).await;
            }
            let edge = Edge::on(&server, source(layout));

            let found = edge.survey().await;

            assert_eq!(found.unreadable, [5, 0, 0, 0], "{layout:?}");
            assert_eq!(found.candidates.iter().map(|one| &one.id).collect::<Vec<_>>(), [&dead[0]]);
            let ids: Vec<EntryId> = (0..5).map(|n| id(layout, format!("t{n}"))).collect();
            let looked = edge.look(&ids).await;
            assert!(looked.found.iter().all(|found| matches!(found, Found::WrongType)), "{looked:?}");
        }
    }

    /// A key that expires, or becomes another thing, between its name and its value is no mistake of ours.
    async fn keys_that_change_while_they_are_read_are_counted_as_what_they_are(server: Server) {
        let mut client = server.client().await;
        for (layout, prefix, other) in [(Layout::Strings, "ping", "SADD"), (Layout::Hashes, "conn", "RPUSH")] {
            run(&mut client, &["FLUSHALL"]).await;
            let dead = put_aged(&mut client, layout, &[10 * MINUTE; 300]).await;
            let edge = Edge::on(&server, source(layout));
            let mut hub = server.client().await;
            let _churn = AbortOnDropHandle::new(tokio::spawn(async move {
                // bound: ends with the handle
                loop {
                    let mut pipe = redis::pipe();
                    for n in 0..50 {
                        let key = format!("{prefix}:x{n}");
                        pipe.cmd("UNLINK").arg(&key);
                        match n % 2 {
                            0 => _ = pipe.add_command(put(layout, format!("x{n}"), "1700000000000")).cmd("PEXPIRE").arg(&key).arg(1),
                            _ => _ = pipe.cmd(other).arg(&key).arg("x"),
                        }
                        pipe.cmd("UNLINK").arg(format!("{prefix}:x{}", n / 2 * 3 % 50));
                    }
                    pipe.exec_async(&mut hub).await.unwrap();
                }
            }));
            for _ in 0..30 {
                let found = edge.survey().await;

                let names: BTreeSet<&EntryId> = found.candidates.iter().map(|one| &one.id).collect();
                assert!(dead.iter().all(|id| names.contains(id)), "{layout:?}");
                let [_, missing, unparsable, implausible] = found.unreadable;
                // A hash that was rewritten between its value and its type can't be told from one without a time.
                assert!(missing <= 25 && (layout == Layout::Hashes || missing == 0), "{layout:?}: {missing}");
                assert_eq!((unparsable, implausible), (0, 0));
            }
        }
    }
}

/// An entry with two times.
fn put_times(layout: Layout, n: usize, latest: Option<&str>, entrance: Option<&str>) -> Cmd {
    let id = id(layout, n.to_string());
    let mut command = redis::cmd("HSET");
    command.arg(&id.key[..]);
    if layout == Layout::Json {
        let value = serde_json::json!({ "LatestPingTime": latest, "EntranceTime": entrance });
        command.arg(id.name()).arg(value.to_string());
        return command;
    }
    command.arg("ip").arg("x");
    for (field, time) in [("LatestPingTime", latest), ("EntranceTime", entrance)] {
        if let Some(time) = time {
            command.arg(field).arg(time);
        }
    }
    command
}

// === sizes ===

for_each_server! {
    /// Nothing there is a whole survey of nothing, and one is one.
    async fn an_empty_source_and_a_single_entry(server: Server) {
        for layout in Layout::ALL {
            let edge = Edge::on(&server, source(layout));
            let nothing = edge.survey().await;
            assert_eq!((nothing.population(), nothing.newest, nothing.candidates.len()), (0, None, 0), "{layout:?}");

            put_aged(&mut server.client().await, layout, &[10 * MINUTE]).await;

            let one = edge.survey().await;
            assert_eq!((one.population(), one.stale, one.candidates.len()), (1, 1, 1), "{layout:?}");
        }
    }

    /// A container of another type is the operator's mistake: the sentence names the source, the kind says what it is.
    async fn a_container_of_another_type_is_an_error(server: Server) {
        let mut client = server.client().await;
        for (layout, other) in [
            (Layout::Zset, "HSET presence:online a 1"),
            (Layout::Zset, "SET presence:online x"),
            (Layout::Json, "ZADD signalr:clients 1 a"),
            (Layout::Json, "XADD signalr:clients * a 1"),
        ] {
            for more in ["", "\nignore = [\"nobody\"]"] {
                run(&mut client, &["FLUSHALL", other]).await;
                let edge = Edge::on(&server, &format!("{}{more}", source(layout)));

                let error = edge.survey_error().await;

                assert_eq!(kind_and_words(&error, &["source edge", "WRONGTYPE", "127.0.0.1"]), ErrorKind::WrongType);
                let look = within(edge.store.look(&[id(layout, "a")])).await.map(|_| ()).unwrap_err();
                assert_eq!(kind_and_words(&look, &["source edge", "WRONGTYPE"]), ErrorKind::WrongType);
            }
        }
    }

    /// A large source among many foreign keys is read whole, each entry once as the server stands still.
    async fn entries_are_found_among_foreign_keys(server: Server) {
        let mut client = server.client().await;
        run(&mut client, &["DEBUG POPULATE 50000 foreign"]).await;
        let ages: Vec<i64> = (0..20_000).map(|n| if n % 4 == 0 { 10 * MINUTE } else { 0 }).collect();
        put_aged(&mut client, Layout::Strings, &ages).await;
        let hashes: Vec<i64> = ages.iter().step_by(10).copied().collect();
        put_aged(&mut client, Layout::Hashes, &hashes).await;

        for (layout, count) in [(Layout::Strings, 20_000), (Layout::Hashes, 2_000)] {
            let found = Edge::on(&server, source(layout)).survey().await;

            assert_eq!(found.population(), count, "{layout:?}");
            let stale = if layout == Layout::Strings { 5_000 } else { 1_000 };
            assert_eq!((found.stale, summary(&found).candidates.len() as u64), (stale, stale), "{layout:?}");
        }
    }

    /// SCAN may tell the same twice while a table grows; whoever was there all the time is told at least once.
    async fn nobody_is_missed_while_a_table_grows(server: Server) {
        let mut client = server.client().await;
        for layout in Layout::ALL {
            run(&mut client, &["FLUSHALL"]).await;
            let dead = put_aged(&mut client, layout, &[10 * MINUTE; 3_000]).await;
            let now = server_now(&mut client).await.millis().to_string();
            let mut hub = server.client().await;
            let growth = tokio::spawn(async move {
                for hundred in 0..200 {
                    let mut pipe = redis::pipe();
                    (0..100).for_each(|n| _ = pipe.add_command(put(layout, format!("new{hundred}-{n}"), &now)));
                    pipe.exec_async(&mut hub).await.unwrap();
                }
            });
            let edge = Edge::on(&server, source(layout));
            let dead: BTreeSet<&EntryId> = dead.iter().collect();
            for _ in 0..4 {
                let found = edge.survey().await;

                let candidates: BTreeSet<&EntryId> = found.candidates.iter().map(|one| &one.id).collect();
                assert_eq!(candidates, dead, "{layout:?}");
                assert!(found.stale >= 3_000);
            }
            growth.await.unwrap();
        }
    }

    /// Entries of a mebibyte each do not make one reply of all of them.
    async fn huge_values_are_read_in_small_pages(server: Server) {
        let mut client = server.client().await;
        let padding = "x".repeat(1 << 20);
        let value = format!("{{\"LatestPingTime\":\"1700000000000\",\"padding\":\"{padding}\"}}");
        let text = "keys = \"ping:{id}\"\nlast_ping = \"json /LatestPingTime\"";
        for n in 0..80 {
            redis::cmd("HSET").arg("signalr:clients").arg(n).arg(&value).exec_async(&mut client).await.unwrap();
            redis::cmd("SET").arg(format!("ping:{n}")).arg(&value).exec_async(&mut client).await.unwrap();
        }
        for text in [source(Layout::Json), text] {
            let edge = Edge::on(&server, text);

            let found = edge.survey().await;

            assert_eq!((found.stale, found.candidates.len()), (80, 80));
            let pages = edge.link.status().requests[Purpose::Scan.index()].answered;
            assert!(pages >= 4, "{pages} pages of {text}");
        }
    }

    /// A hash of a hundred thousand fields.
    async fn a_large_hash_is_read_whole(server: Server) {
        let mut client = server.client().await;
        let now = server_now(&mut client).await.millis();
        for thousand in 0..100 {
            let mut pipe = redis::pipe();
            for n in 0..1_000 {
                let age = if n % 100 == 0 { 10 * MINUTE } else { 0 };
                pipe.cmd("HSET").arg("times").arg(format!("{thousand}-{n}")).arg(now - age);
            }
            pipe.exec_async(&mut client).await.unwrap();
        }

        let found = Edge::on(&server, "hash = \"times\"").survey().await;

        assert_eq!((found.fresh, found.stale, summary(&found).candidates.len()), (99_000, 1_000, 1_000));
    }

    /// What is ignored is not counted, neither fields nor members nor keys; and our own keys are nobody's entries.
    async fn the_ignored_are_no_entries(server: Server) {
        let mut client = server.client().await;
        for layout in Layout::ALL {
            put_aged(&mut client, layout, &[10 * MINUTE, 0]).await;
            put(layout, "Version", "7").exec_async(&mut client).await.unwrap();
            put(layout, "x:meta", "7").exec_async(&mut client).await.unwrap();
            let ignore = match layout {
                Layout::Strings => "ignore = [\"ping:Version\", \"ping:{_}:meta\"]",
                Layout::Hashes => "ignore = [\"conn:Version\", \"conn:{_}:meta\"]",
                Layout::Zset | Layout::Json => "ignore = [\"Version\", \"{_}:meta\"]",
            };
            let found = Edge::on(&server, &format!("{}\n{ignore}", source(layout))).survey().await;

            assert_eq!((found.population(), found.stale, found.fresh), (2, 1, 1), "{layout:?}");
        }
        run(&mut client, &["FLUSHALL", "SET presence-reaper:x 1700000000000", "SET xence-y:x 1700000000000"]).await;
        let found = Edge::on(&server, "keys = \"{a}ence-{id}\"").survey().await;
        assert_eq!(found.candidates.iter().map(|one| one.id.name()).collect::<Vec<_>>(), [b"xence-y:x"]);
    }

    /// What a glob would read as a wildcard stands for itself in a pattern.
    async fn a_pattern_matches_its_own_bytes(server: Server) {
        let mut client = server.client().await;
        let keys = ["we?rd[x]*\\:1", "weird[x]*\\:2", "we?rdx*\\:3", "we?rd[x]yz\\:4", "we?rd[x]*:5", "WE?RD[X]*\\:6"];
        for key in keys {
            redis::cmd("SET").arg(key).arg("1700000000000").exec_async(&mut client).await.unwrap();
        }

        let found = Edge::on(&server, "keys = 'we?rd[x]*\\:{id}'").survey().await;

        let names: Vec<&[u8]> = found.candidates.iter().map(|one| one.id.name()).collect();
        assert_eq!((names, found.population()), (vec![keys[0].as_bytes()], 1));
    }

    /// The server counts commands, those inside scripts too: surveys and looks write nothing.
    async fn surveys_and_looks_write_nothing(server: Server) {
        let mut client = server.client().await;
        let mut ids = Vec::new();
        for layout in Layout::ALL {
            ids.push(put_aged(&mut client, layout, &AGES).await);
        }
        server.reset_stats().await;
        for (layout, ids) in Layout::ALL.into_iter().zip(&ids) {
            let edge = Edge::on(&server, &format!("{}\ncompanions = [\"SREM everybody {{id}}\"]", source(layout)));
            edge.survey().await;
            edge.look(ids).await;
        }

        assert!(server.write_commands_seen().await.is_empty(), "{:?}", server.write_commands_seen().await);
    }
}

// === g9: a whole view of one process ===

for_each_server! {
    /// A survey that was cut is no survey. One that is not cut is whole.
    async fn g9_a_cut_survey_is_none(server: Server) {
        let mut client = server.client().await;
        let proxy = Proxy::start(server.port()).await;
        for layout in Layout::ALL {
            put_aged(&mut client, layout, &[10 * MINUTE; 3_000]).await;
            let (mut whole, mut cut) = (0, 0);
            for round in 0..40 {
                proxy.set(Mode::Pass);
                let edge = Edge::at(&proxy.url(), source(layout));
                edge.store.health().await.unwrap();
                proxy.set(Mode::CutAfter(1 << (round / 2)));

                match within(edge.store.survey(&Ask::default())).await {
                    Ok(surveyed) => {
                        whole += 1;
                        assert_eq!(surveyed.survey.stale, 3_000, "{layout:?}");
                        assert_eq!(surveyed.survey.candidates.len(), 3_000, "{layout:?}");
                    }
                    Err(error) => {
                        cut += 1;
                        assert_eq!(error.kind, ErrorKind::Connect, "{error}");
                    }
                }
                proxy.set(Mode::Pass);
                edge.wait_for_redial().await;
            }
            assert!(whole > 0 && cut > 10, "{layout:?}: {whole} whole, {cut} cut");
        }
    }

    /// What began on one process and ended on another is no survey: a restart, a demotion, a failover in the middle.
    async fn g9_no_survey_comes_out_of_two_processes(mut server: Server) {
        let proxy = Proxy::start(server.port()).await;
        for happening in [&["REPLICAOF 127.0.0.1 1"][..], &["REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"], &[]] {
            put_aged(&mut server.client().await, Layout::Strings, &[10 * MINUTE; 3_000]).await;
            let edge = Edge::at(&proxy.url(), source(Layout::Strings));
            let before = within(edge.store.survey(&Ask::default())).await.unwrap().identity;
            // Slow enough for something to happen in the middle.
            proxy.set(Mode::Delay(Duration::from_millis(20)));
            let survey = async { within(edge.store.survey(&Ask::default())).await };
            let happen = async {
                sleep(Duration::from_millis(120)).await;
                match happening {
                    [] => server.restart().await,
                    lines => run(&mut server.client().await, lines).await,
                }
            };
            let (survey, ()) = tokio::join!(survey, happen);

            let error = survey.map(|survey| survey.survey.population()).expect_err("no survey");
            let kind = error.kind;
            let expected = match happening.len() {
                0 => ErrorKind::Connect,
                1 => ErrorKind::ReadOnly,
                _ => ErrorKind::Other,
            };
            assert_eq!(kind, expected, "{happening:?}: {error}");
            proxy.set(Mode::Pass);
            run(&mut server.client().await, &["REPLICAOF NO ONE"]).await;
            eventually(LONG, async || edge.store.survey(&Ask::default()).await.is_ok()).await;
            let after = within(edge.store.survey(&Ask::default())).await.unwrap().identity;
            assert_ne!(after, before, "{happening:?}");
            assert_eq!(after.run_id == before.run_id, !happening.is_empty(), "only a restart is another process");
            assert_ne!(after.replication_id, before.replication_id, "another history each time");
        }
    }

    /// Between two surveys the same is seen by the next; a reconnect to the same process is none.
    async fn g9_the_identity_outlives_a_connection_and_no_process(mut server: Server) {
        let edge = Edge::on(&server, source(Layout::Zset));
        let mut client = server.client().await;
        let first = edge.store.survey(&Ask::default()).await.unwrap();
        assert_eq!(edge.look(&[]).await.identity, first.identity);
        assert!(first.began.server <= first.ended.server && first.began.mono <= first.ended.mono);
        assert_eq!(edge.store.health().await.unwrap().identity, first.identity);
        assert!(edge.store.health().await.unwrap().uptime.is_some());

        run(&mut client, &["CLIENT KILL TYPE normal SKIPME yes"]).await;
        eventually(LONG, async || edge.store.survey(&Ask::default()).await.is_ok()).await;
        assert_eq!(edge.store.survey(&Ask::default()).await.unwrap().identity, first.identity);

        run(&mut client, &["REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"]).await;
        eventually(LONG, async || edge.store.survey(&Ask::default()).await.is_ok()).await;
        let promoted = edge.store.survey(&Ask::default()).await.unwrap().identity;
        assert_eq!(promoted.run_id, first.identity.run_id);
        assert_ne!(promoted.replication_id, first.identity.replication_id);

        server.restart().await;
        eventually(LONG, async || edge.store.survey(&Ask::default()).await.is_ok()).await;
        assert_ne!(edge.store.survey(&Ask::default()).await.unwrap().identity.run_id, promoted.run_id);
    }
}

// === groups ===

for_each_server! {
    /// The label of an entry's writer comes from its key, its fields, its value or its member; what has none has none.
    async fn e6_a_label_comes_from_wherever_it_stands(server: Server) {
        let mut client = server.client().await;
        let old: i64 = redis::cmd("EVAL").arg("return redis.call('TIME')[1] * 1000 - 100000").arg(0)
            .query_async(&mut client).await.unwrap();
        let write = [
            vec!["HSET", "conn:a:1", "at", "AGE", "hub", "x"],
            vec!["HSET", "conn:b:2", "at", "AGE"],
            vec!["ZADD", "members", "AGE", r#"{"hub":"x","n":1}"#],
            vec!["ZADD", "members", "AGE", "no JSON"],
            vec!["HSET", "values", "1", r#"{"at":AGE,"hub":"x"}"#, "2", r#"{"at":AGE}"#],
        ];
        for words in write {
            let words: Vec<String> = words.iter().map(|word| word.replace("AGE", &old.to_string())).collect();
            redis::cmd(&words[0]).arg(&words[1..]).exec_async(&mut client).await.unwrap();
        }
        let keys = "keys = \"conn:{hub}:{id}\"\nlast_ping = \"field at\"";
        check_labels(&server, &format!("{keys}\ngroup = \"{{hub}}\""), &[Some("a"), Some("b")]).await;
        check_labels(&server, &format!("{keys}\ngroup = \"on-{{field:hub}}\""), &[None, Some("on-x")])
            .await;
        check_labels(&server, "zset = \"members\"\ngroup = \"{json:/hub}\"", &[None, Some("x")]).await;
        let hash = "hash = \"values\"\nlast_ping = \"json /at\"\ngroup = \"{json:/hub}\"";
        check_labels(&server, hash, &[None, Some("x")]).await;
    }
}

async fn check_labels(server: &Server, source: &str, expected: &[Option<&str>]) {
    let found = Edge::on(server, source).survey().await;
    let mut labels: Vec<Option<String>> = found
        .candidates
        .iter()
        .map(|one| one.group.as_deref().map(|label| String::from_utf8_lossy(label).into_owned()))
        .collect();
    labels.sort();
    assert_eq!(labels, expected.iter().map(|label| label.map(str::to_owned)).collect::<Vec<_>>(), "{source}");
    assert_eq!((found.late, found.population()), (2, 2), "{source}");
}
