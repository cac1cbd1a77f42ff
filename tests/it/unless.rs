//! E9: what a condition protects stays, whoever finds out: the survey, the re-read, or the script.

use std::collections::BTreeSet;
use std::time::Duration;

use presence_reaper::policy::entry::EntryId;
use presence_reaper::policy::outcome::{Blocked, Outcome};
use presence_reaper::policy::survey::{Order, Survey, Wanted};
use presence_reaper::store::audience::{Ask, Audience};
use presence_reaper::store::{Found, Looked};
use redis::aio::MultiplexedConnection;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::edge::{Edge, ask, expected, id, outcomes, put, put_aged, run, server_now, source, stands, within};
use crate::harness::{Binary, Hub, Layout, Server, eventually};
use crate::world::{
    Confined, FAST, Rhythm, SOON, STEADY, evictions, evicts, is_old_enough, metric, only_source, settle, throughout,
};

const OLD: i64 = 600_000;
const HOUR: Duration = Duration::from_secs(3600);

fn with(layout: Layout, more: &str) -> String {
    format!("{}\n{more}", source(layout))
}

fn unless(layout: Layout, condition: &str) -> String {
    with(layout, &format!("unless = ['''{condition}''']"))
}

/// What a look says of each: whether it is protected.
fn protected(looked: &Looked) -> Vec<bool> {
    let protected = |found: &Found| match found {
        Found::Entry { protected, .. } => *protected,
        other => panic!("{other:?}"),
    };
    looked.found.iter().map(protected).collect()
}

fn counted(survey: &Survey) -> (u64, u64) {
    (survey.stale, survey.protected)
}

fn values(outcomes: crate::edge::Outcomes) -> Vec<Outcome> {
    outcomes.into_values().collect()
}

// === in each layout ===

for_each_server! {
    /// Of the stale, those whose job still runs stay, with all that belongs to them; the others go.
    async fn e9_the_protected_stay_and_the_others_go(server: Server) {
        for layout in Layout::ALL {
            let mut client = server.client().await;
            let text = with(layout, "unless = [\"exists job:{id}\"]\ncompanions = [\"SREM everybody {id}\"]");
            let edge = Edge::on(&server, &text);
            let ids = put_aged(&mut client, layout, &[OLD, OLD, OLD, 0]).await;
            run(&mut client, &["SADD everybody c0 c1 c2", "SET job:c1 x", "SET job:c3 x"]).await;
            server.reset_stats().await;

            let survey = edge.survey().await;
            assert_eq!((counted(&survey), survey.fresh, survey.population()), ((2, 1), 1, 4), "{layout:?}");
            assert_eq!(survey.ages.buckets().map(|(_, count)| count).sum::<u64>(), 3, "{layout:?}");
            let watched: BTreeSet<_> = survey.candidates.iter().map(|one| (one.id.clone(), one.protected)).collect();
            let all: BTreeSet<_> = ids[..3].iter().cloned().zip([false, true, false]).collect();
            assert_eq!(watched, all, "{layout:?}");
            assert!(survey.oldest_stale.iter().all(|(_, id)| *id != ids[1]), "{layout:?}");
            let looked = edge.look(&ids).await;
            assert_eq!(protected(&looked), [false, true, false, false], "{layout:?}");
            assert_eq!(server.command_stats().await["exists"], 6, "{layout:?}: three by each, never of the fresh");

            let found = values(outcomes(&edge.strike(&Looked { found: looked.found[..3].to_vec(), ..looked }).await));

            assert_eq!(found, [Outcome::Evicted, Outcome::Protected, Outcome::Evicted], "{layout:?}");
            assert!(stands(&mut client, &ids[1]).await && !stands(&mut client, &ids[0]).await, "{layout:?}");
            assert_eq!(ask::<Vec<String>>(&mut client, "SMEMBERS everybody").await, ["c1"], "{layout:?}");
            run(&mut client, &["FLUSHALL"]).await;
        }
    }

    /// A job that begins between the re-read and the script: the script asks again, for the whole batch before its first
    /// write.
    async fn e9_what_becomes_protected_behind_the_look_stays_whole(server: Server) {
        for layout in Layout::ALL {
            let mut client = server.client().await;
            let text = with(layout, "unless = [\"exists job:{id}\"]\ncompanions = [\"SREM everybody {id}\", \"UNLINK rec:{id}\"]");
            let edge = Edge::on(&server, &text);
            let ids = put_aged(&mut client, layout, &[OLD; 3]).await;
            run(&mut client, &["SADD everybody c0 c1 c2", "MSET rec:c0 x rec:c1 x rec:c2 x"]).await;
            let looked = edge.look(&ids).await;
            assert_eq!(protected(&looked), [false; 3], "{layout:?}");
            run(&mut client, &["SET job:c1 x"]).await;
            server.reset_stats().await;

            let found = values(outcomes(&edge.strike(&looked).await));

            assert_eq!(found, [Outcome::Evicted, Outcome::Protected, Outcome::Evicted], "{layout:?}");
            let stats = server.command_stats().await;
            assert_eq!(stats.get("evalsha").unwrap_or(&0).max(stats.get("eval").unwrap_or(&0)), &1, "one batch");
            assert!(stands(&mut client, &ids[1]).await, "{layout:?}");
            assert_eq!(ask::<Vec<String>>(&mut client, "SMEMBERS everybody").await, ["c1"], "{layout:?}");
            assert_eq!(ask::<usize>(&mut client, "EXISTS rec:c0 rec:c1 rec:c2").await, 1, "{layout:?}");
            run(&mut client, &["DEL job:c1"]).await;
            assert_eq!(edge.evict(&ids[1..2]).await, expected_of(&ids[1], Outcome::Evicted), "{layout:?}");
            run(&mut client, &["FLUSHALL"]).await;
        }
    }

    /// A ping counts for more: of what changed nobody is told that it is protected.
    async fn e9_what_has_pinged_is_spared_though_it_is_protected_too(server: Server) {
        let mut client = server.client().await;
        let edge = Edge::on(&server, &unless(Layout::Zset, "exists job:{id}"));
        let ids = put_aged(&mut client, Layout::Zset, &[OLD]).await;
        let looked = edge.look(&ids).await;
        run(&mut client, &["SET job:c0 x", "ZINCRBY presence:online 1 c0"]).await;
        assert_eq!(edge.strike(&looked).await.outcomes[0].1, Outcome::Spared);
    }
}

fn expected_of(id: &EntryId, outcome: Outcome) -> crate::edge::Outcomes {
    expected([(std::str::from_utf8(id.name()).unwrap(), outcome)])
}

// === each kind of condition ===

/// A condition; what makes it fail for `c0` and `c1`; and what makes it hold for `c0`.
struct Case {
    condition: &'static str,
    fails: &'static [&'static str],
    holds: &'static [&'static str],
    /// What the script says of `c0` when that came behind the look.
    behind: Outcome,
}

const fn case(condition: &'static str, fails: &'static [&'static str], holds: &'static [&'static str]) -> Case {
    Case { condition, fails, holds, behind: Outcome::Protected }
}

/// What was read as JSON has to be what it was, byte for byte.
const fn json(condition: &'static str, fails: &'static [&'static str], holds: &'static [&'static str]) -> Case {
    Case { condition, fails, holds, behind: Outcome::Spared }
}

const CASES: [Case; 24] = [
    case("exists k:{id}", &[], &["SET k:c0 x"]),
    case("exists k:{id}", &["SET k:c2 x"], &["ZADD k:c0 1 any"]),
    case("not exists k:{id}", &["MSET k:c0 x k:c1 x"], &["DEL k:c0"]),
    case("sismember s {id}", &["SADD s c3"], &["SADD s c0"]),
    case("not sismember s {id}", &["SADD s c0 c1"], &["SREM s c0"]),
    case("hexists h {id}", &["HSET h c3 x"], &["HSET h c0 x"]),
    case("not hexists h:{id} f", &["HSET h:c0 f x", "HSET h:c1 f x"], &["DEL h:c0"]),
    case("disjoint a:{id} b", &["SADD a:c0 x y", "SADD a:c1 x", "SADD b x"], &["SREM a:c0 x"]),
    case("disjoint a:{id} b", &["SADD a:c0 x", "SADD a:c1 x", "SADD b x"], &["DEL a:c0"]),
    case("not disjoint a:{id} b", &["SADD a:c0 y", "SADD b x"], &["SADD a:c0 x"]),
    case("get k:{id} eq busy", &["SET k:c0 idle"], &["SET k:c0 busy"]),
    case("get k:{id} ne busy", &["MSET k:c0 busy k:c1 busy"], &["SET k:c0 busyy"]),
    case("get k:{id} ne busy", &["MSET k:c0 busy k:c1 busy"], &["DEL k:c0"]),
    case("not get k:{id} ne \"\"", &["MSET k:c0 x k:c1 x"], &["EVAL redis.call('SET',KEYS[1],'') 1 k:c0"]),
    case("hget h:{id} state eq busy", &["HSET h:c0 state idle", "HSET h:c1 other busy"], &["HSET h:c0 state busy"]),
    case("hget h {id} ne busy", &["HSET h c0 busy c1 busy"], &["HDEL h c0"]),
    case("zscore z {id} eq 1e-1", &["ZADD z 0.2 c0 0.3 c1"], &["ZADD z 0.1 c0"]),
    case("zscore z {id} eq 1700000000123456789", &["ZADD z 1 c0"], &["ZADD z 1700000000123456789 c0"]),
    case("zscore z {id} ne 5", &["ZADD z 5 c0 5.0 c1"], &["ZADD z 5.5 c0"]),
    case("zscore z {id} ne 5", &["ZADD z 5 c0 5 c1"], &["ZREM z c0"]),
    json(
        "get k:{id} json /s eq busy",
        &["SET k:c0 {\"s\":\"idle\"}", "SET k:c1 {\"t\":\"busy\"}"],
        &["SET k:c0 {\"s\":\"busy\"}"],
    ),
    json("get k:{id} json /s ne 1", &["SET k:c0 {\"s\":1}", "SET k:c1 {\"s\":\"1\"}"], &["DEL k:c0"]),
    json("hget h {id} json /a/0 eq true", &["HSET h c0 {\"a\":[false]}"], &["HSET h c0 {\"a\":[true]}"]),
    json("not hget h {id} json \"\" eq 5", &["HSET h c0 5 c1 \"5\""], &["HSET h c0 {}"]),
];

for_each_server! {
    /// Each kind of condition tells the same to the survey, to the re-read and to the script.
    async fn e9_each_kind_of_condition_protects_wherever_it_is_asked(server: Server) {
        let mut client = server.client().await;
        for Case { condition, fails, holds, behind } in CASES {
            for layout in [Layout::Zset, Layout::Hashes] {
                let edge = Edge::on(&server, &unless(layout, condition));
                let ids = put_aged(&mut client, layout, &[OLD; 2]).await;
                run(&mut client, fails).await;
                assert_eq!(counted(&edge.survey().await), (2, 0), "{condition}");
                let looked = edge.look(&ids).await;
                assert_eq!(protected(&looked), [false; 2], "{condition}");
                run(&mut client, holds).await;

                let late = values(outcomes(&edge.strike(&looked).await));

                assert_eq!(late, [behind, Outcome::Evicted], "{condition}");
                assert!(stands(&mut client, &ids[0]).await);
                assert_eq!(counted(&edge.survey().await), (0, 1), "{condition}");
                let looked = edge.look(&ids[..1]).await;
                assert_eq!(protected(&looked), [true], "{condition}");
                assert_eq!(values(outcomes(&edge.strike(&looked).await)), [Outcome::Protected], "{condition}");
                run(&mut client, &["FLUSHALL"]).await;
            }
        }
    }

    /// What was read as JSON and stands still is no obstacle, present or not.
    async fn e9_a_part_of_json_that_stands_still_lets_go(server: Server) {
        let mut client = server.client().await;
        let edge = Edge::on(&server, &unless(Layout::Strings, "get k:{id} json /s eq busy"));
        let ids = put_aged(&mut client, Layout::Strings, &[OLD; 3]).await;
        run(&mut client, &["SET k:c0 {\"s\":\"idle\"}", "SET k:c1 no-json"]).await;
        assert_eq!(values(edge.evict(&ids).await), [Outcome::Evicted, Outcome::Protected, Outcome::Evicted]);
    }

    /// Nobody knows what a text says that is no JSON, or holds a list where a text is asked for: it may be what protects.
    async fn e9_what_can_not_be_read_protects(server: Server) {
        let mut client = server.client().await;
        let stale = server_now(&mut client).await.millis() - OLD;
        let texts = [
            ("{\"s\":\"busy\"}", true),
            ("{\"s\":\"busy\",\"load\":NaN}", true),
            ("{\"s\":\"busy\"", true),
            ("{\"s\":[\"busy\"]}", true),
            ("{\"s\":{}}", true),
            ("{\"s\":\"idle\"}", false),
            ("{\"s\":null}", false),
            ("{}", false),
        ];
        for condition in ["get job:{id} json /s eq busy", "hget jobs {id} json /s eq busy", "json /s eq busy", "not json /s ne busy"] {
            let source = format!("hash = \"h\"\nlast_ping = \"get seen:{{id}}\"\nunless = [\"{condition}\"]");
            let edge = Edge::on(&server, &source);
            for (text, safe) in texts {
                run(&mut client, &[
                    &format!("HSET h a {text}"), &format!("SET job:a {text}"), &format!("HSET jobs a {text}"),
                    &format!("SET seen:a {stale}"),
                ])
                .await;
                assert_eq!(edge.survey().await.protected, u64::from(safe), "{condition}: {text}");
                let outcome = if safe { Outcome::Protected } else { Outcome::Evicted };
                let ids = [EntryId::member(b"h".as_slice().into(), *b"a")];
                assert_eq!(edge.evict(&ids).await, expected([("a", outcome)]), "{condition}: {text}");
            }
        }
    }

    /// The entry's own values are evidence: that they protect is seen in what was read, and a change spares.
    async fn e9_an_entrys_own_values_protect_it(server: Server) {
        let mut client = server.client().await;
        let time = (server_now(&mut client).await.millis() - OLD).to_string();
        let score = format!("score eq {time}");
        let json = format!("json /LatestPingTime eq {time}");
        let value = format!("value eq {time}");
        let cases = [
            (Layout::Zset, score.as_str(), true),
            (Layout::Zset, "score ne 0", true),
            (Layout::Zset, "score eq {key}", false),
            (Layout::Zset, "value eq c0", true),
            (Layout::Zset, "not value eq {id}", false),
            (Layout::Zset, "json /u ne x", true),
            (Layout::Json, json.as_str(), true),
            (Layout::Json, "json /UserId eq u", true),
            (Layout::Json, "json /UserId ne u", false),
            (Layout::Json, "json /absent eq u", false),
            (Layout::Json, "not json /absent ne u", false),
            (Layout::Json, "json /UserId eq {json:/absent}", false),
            (Layout::Json, "json /UserId ne {json:/absent}", true),
            (Layout::Strings, value.as_str(), true),
            (Layout::Strings, "value eq {id}", false),
            (Layout::Hashes, "field user eq u", true),
            (Layout::Hashes, "field user ne u", false),
            (Layout::Hashes, "field absent eq \"\"", false),
        ];
        for (layout, condition, holds) in cases {
            put(layout, "c0", &time).exec_async(&mut client).await.unwrap();
            let ids = [id(layout, "c0")];
            let edge = Edge::on(&server, &unless(layout, condition));
            assert_eq!(counted(&edge.survey().await), (u64::from(!holds), u64::from(holds)), "{condition}");
            let looked = edge.look(&ids).await;
            assert_eq!(protected(&looked), [holds], "{condition}");
            let outcome = if holds { Outcome::Protected } else { Outcome::Evicted };
            assert_eq!(values(outcomes(&edge.strike(&looked).await)), [outcome], "{condition}");
            run(&mut client, &["FLUSHALL"]).await;
        }
        let edge = Edge::on(&server, &unless(Layout::Hashes, "field busy eq 1"));
        let ids = put_aged(&mut client, Layout::Hashes, &[OLD; 2]).await;
        let looked = edge.look(&ids).await;
        run(&mut client, &["HSET conn:c0 busy 1", "HSET conn:c1 idle 1"]).await;
        assert_eq!(values(outcomes(&edge.strike(&looked).await)), [Outcome::Spared, Outcome::Evicted]);
    }

    /// A name that stands for nothing: nobody can be asked, and the entry stays; but what is compared equals nothing.
    async fn e9_a_condition_that_can_not_be_filled_protects_and_equals_nothing(server: Server) {
        let mut client = server.client().await;
        let cases = [
            ("exists job:{json:/job}", true),
            ("not exists job:{json:/job}", true),
            ("sismember jobs {json:/job}", true),
            ("not hexists jobs {json:/job}", true),
            ("disjoint a:{json:/job} b", true),
            ("get job:{json:/job} eq x", false),
            ("get job:{json:/job} ne x", true),
            ("hget jobs {json:/job} eq x", false),
            ("zscore jobs {json:/job} eq 1", false),
            ("zscore jobs {id} eq {json:/job}", false),
            ("zscore jobs {id} ne {json:/UserId}", true),
            ("not get job:{id} eq {json:/job}", true),
            ("get job:{id} eq {json:/job}", false),
        ];
        for (condition, holds) in cases {
            let edge = Edge::on(&server, &unless(Layout::Json, condition));
            let ids = put_aged(&mut client, Layout::Json, &[OLD]).await;
            assert_eq!(counted(&edge.survey().await), (u64::from(!holds), u64::from(holds)), "{condition}");
            let outcome = if holds { Outcome::Protected } else { Outcome::Evicted };
            assert_eq!(values(edge.evict(&ids).await), [outcome], "{condition}");
        }
    }

    /// Any of several protects, and one of them counts for more than a doubt about another.
    async fn e9_any_condition_protects(server: Server) {
        let mut client = server.client().await;
        let text = with(Layout::Zset, "unless = [\"sismember s:{id} x\", \"exists k:{id}\", \"not value eq {id}\", \"get m eq on\"]");
        let edge = Edge::on(&server, &text);
        let ids = put_aged(&mut client, Layout::Zset, &[OLD; 5]).await;
        run(&mut client, &["SADD s:c0 x", "SET k:c1 x", "SET s:c2 text", "SET k:c2 x", "SET s:c3 text"]).await;
        assert_eq!(counted(&edge.survey().await), (2, 3));
        let looked = edge.look(&ids).await;
        assert_eq!(protected(&looked), [true, true, true, false, false]);
        run(&mut client, &["DEL s:c0", "SET k:c3 x"]).await;
        let found = values(outcomes(&edge.strike(&looked).await));
        let protected = Outcome::Protected;
        assert_eq!(found, [protected, protected, protected, protected, Outcome::Evicted]);

        run(&mut client, &["SET m on"]).await;
        assert_eq!(counted(&edge.survey().await), (0, 4), "one for all of them");
    }

    /// Ids of any bytes name their keys, members and fields, and no other.
    async fn e9_no_name_leads_to_another_key(server: Server) {
        let mut client = server.client().await;
        let names: [&[u8]; 8] = [b"a b", b"\"q\"", b"{id}", b"line\nbreak", b"nul\0nul", b"\xff\xfe", b"*", b"=-"];
        for layout in Layout::ALL {
            let text = with(layout, "unless = [\"exists job:{id}\", \"sismember busy {id}\", \"get state eq {id}\"]");
            let edge = Edge::on(&server, &text);
            let ids: Vec<EntryId> = names.iter().map(|name| id(layout, name)).collect();
            for (at, name) in names.iter().enumerate() {
                put(layout, name, "1700000000000").exec_async(&mut client).await.unwrap();
                let key = [b"job:", *name].concat();
                match at % 4 {
                    0 => redis::cmd("SET").arg(key).arg("x").exec_async(&mut client).await.unwrap(),
                    1 => redis::cmd("SADD").arg("busy").arg(name).exec_async(&mut client).await.unwrap(),
                    _ => {}
                }
            }
            redis::cmd("SET").arg("state").arg(names[6]).exec_async(&mut client).await.unwrap();
            assert_eq!(counted(&edge.survey().await), (3, 5), "{layout:?}");
            let expected = [true, true, false, false, true, true, true, false];
            assert_eq!(protected(&edge.look(&ids).await), expected, "{layout:?}");
            edge.evict(&ids).await;
            for (id, protected) in ids.iter().zip(expected) {
                assert_eq!(stands(&mut client, id).await, protected, "{layout:?} {id:?}");
            }
            run(&mut client, &["FLUSHALL"]).await;
        }
    }
}

// === doubts ===

for_each_server! {
    /// A key that can't be asked leaves its entry whole, with the reason, and only that one.
    async fn e9_a_condition_on_a_key_of_another_type_blocks_its_entry_alone(server: Server) {
        let mut client = server.client().await;
        let conditions = ["sismember k:{id} x", "hexists k:{id} x", "disjoint k:{id} other", "hget k:{id} f eq x", "zscore k:{id} x eq 1", "not sismember k:{id} x", "hget k:{id} f json /a eq x"];
        for condition in conditions {
            let unprotected = if condition.starts_with("not") { "SADD k:c0 x" } else { "DEL k:c0" };
            let unprotected = if condition.starts_with("disjoint") { "SADD k:c0 y" } else { unprotected };
            let edge = Edge::on(&server, &with(Layout::Zset, &format!("unless = [\"{condition}\"]\ncompanions = [\"UNLINK rec:{{id}}\"]")));
            let ids = put_aged(&mut client, Layout::Zset, &[OLD; 2]).await;
            run(&mut client, &[unprotected, "SADD other y", "SET k:c1 text", "MSET rec:c0 x rec:c1 x"]).await;
            assert_eq!(counted(&edge.survey().await), (2, 0), "{condition}: nobody knows that it is protected");

            let found = edge.evict(&ids).await;

            let blocked = Outcome::Blocked(Blocked::WrongType);
            assert_eq!(found, expected([("c0", Outcome::Evicted), ("c1", blocked)]), "{condition}");
            assert!(stands(&mut client, &ids[1]).await && ask::<bool>(&mut client, "EXISTS rec:c1").await);
            run(&mut client, &["FLUSHALL"]).await;
        }
        let edge = Edge::on(&server, &unless(Layout::Zset, "get k:{id} eq x"));
        let ids = put_aged(&mut client, Layout::Zset, &[OLD; 2]).await;
        run(&mut client, &["SADD k:c1 x"]).await;
        let blocked = Outcome::Blocked(Blocked::WrongType);
        assert_eq!(edge.evict(&ids).await, expected([("c0", Outcome::Evicted), ("c1", blocked)]));
    }

    /// A right that is missing, for the command or for one key.
    async fn e9_a_condition_that_our_user_may_not_ask_blocks(server: Server) {
        let mut client = server.client().await;
        let blocked = Outcome::Blocked(Blocked::Permission);
        for (rights, expected) in [
            ("~* +@all -exists", [blocked, blocked]),
            ("~presence:* ~job:c0 +@all", [Outcome::Evicted, blocked]),
        ] {
            run(&mut client, &[&format!("ACL SETUSER edge reset on >pw {rights}")]).await;
            let redis = format!("url = \"{}\"\nusername = \"edge\"\npassword = \"pw\"\nresponse_timeout = \"5s\"", server.url());
            let edge = Edge::dialling(&redis, &unless(Layout::Zset, "exists job:{id}"));
            let ids = put_aged(&mut client, Layout::Zset, &[OLD; 2]).await;
            assert_eq!(counted(&edge.survey().await), (2, 0), "{rights}");
            let looked = edge.look(&ids).await;

            let strike = edge.strike(&looked).await;

            assert!(strike.failure.is_none(), "{:?}", strike.failure);
            assert_eq!(values(outcomes(&strike)), expected, "{rights}");
            assert!(stands(&mut client, &ids[1]).await);
            run(&mut client, &["FLUSHALL"]).await;
        }
    }

    /// What goes with one entry is what protects another: each is judged by what the one before it left.
    async fn e9_entries_that_protect_each_other_go_one_by_one(server: Server) {
        let mut client = server.client().await;
        let text = with(Layout::Zset, "unless = [\"not exists seats\"]\ncompanions = [\"SREM seats {id}\"]");
        let edge = Edge::on(&server, &text);
        let ids = put_aged(&mut client, Layout::Zset, &[OLD; 3]).await;
        run(&mut client, &["SADD seats c0 c1"]).await;
        let found = edge.evict(&ids).await;
        let evicted = Outcome::Evicted;
        assert_eq!(found, expected([("c0", evicted), ("c1", evicted), ("c2", Outcome::Protected)]));
        assert!(stands(&mut client, &ids[2]).await);
    }
}

// === surveys of every kind ===

async fn fill(client: &mut MultiplexedConnection, key: &str, stale: usize, late: usize, protected: usize) {
    let script = "local now = redis.call('TIME')[1] * 1000
        for i = 1, ARGV[1] do redis.call('ZADD', KEYS[1], now - 3600000 + i, 's' .. i) end
        for i = 1, ARGV[2] do redis.call('ZADD', KEYS[1], now - 200000, 'l' .. i) end
        for i = 1, ARGV[3] do redis.call('SET', 'job:s' .. i, 'x') end";
    let mut command = redis::cmd("EVAL");
    command.arg(script).arg(1).arg(key).arg(stale).arg(late).arg(protected);
    command.exec_async(client).await.unwrap();
}

for_each_server! {
    /// The index can't tell who is protected: all the stale are read, however few are to be kept or named.
    async fn e9_an_index_is_asked_for_all_of_the_stale(server: Server) {
        let mut client = server.client().await;
        fill(&mut client, "presence:online", 2_500, 1_200, 1_400).await;
        // Two conditions for a page of a thousand are more than go into one round trip.
        let edge = Edge::on(&server, &with(Layout::Zset, "unless = [\"exists job:{id}\", \"exists work:{id}\"]"));
        run(&mut client, &["SET work:s1401 x"]).await;
        let survey = edge.survey().await;
        assert_eq!((counted(&survey), survey.late, survey.population()), ((1_099, 1_401), 1_200, 3_700));
        assert_eq!(survey.ages.buckets().map(|(_, count)| count).sum::<u64>(), 2_299);
        assert_eq!(survey.candidates.len(), 3_700);
        assert_eq!(survey.candidates.iter().filter(|one| one.protected).count(), 1_401);
        let first = survey.oldest_stale.first().map(|(_, id)| id.clone());
        assert_eq!(first, Some(id(Layout::Zset, "s1402")), "the oldest are protected");

        let wanted = Wanted { candidates: false, live: false, limit: 0, order: Order::AsRead };
        let ask = Ask { wanted, audience: Audience::default() };
        let survey = within(edge.store.survey(&ask)).await.unwrap().survey;
        assert_eq!((counted(&survey), survey.candidates.len(), survey.handed_on_stale), ((1_099, 1_401), 0, 0));
    }

    /// Rooms by pattern: small ones are read whole, large ones by their index, and `{room}` can be named.
    async fn e9_the_rooms_of_a_pattern_know_their_protected(server: Server) {
        let mut client = server.client().await;
        for (kind, put) in [("zset", "ZADD"), ("hash", "HSET")] {
            let edge = Edge::on(&server, &format!("{kind} = \"room:{{room}}:seen\"\nunless = [\"exists busy:{{room}}:{{id}}\"]"));
            for (room, clients) in [("small", 3), ("large", 1_300)] {
                let mut command = redis::cmd(put);
                command.arg(format!("room:{room}:seen"));
                for n in 0..clients {
                    let (time, name) = ("1700000000000", format!("c{n}"));
                    if kind == "zset" { command.arg(time).arg(name) } else { command.arg(name).arg(time) };
                }
                command.exec_async(&mut client).await.unwrap();
            }
            run(&mut client, &["MSET busy:small:c0 x busy:large:c0 x busy:large:c1 x busy:c2 x"]).await;
            let survey = edge.survey().await;
            assert_eq!((counted(&survey), survey.population()), ((1_300, 3), 1_303), "{kind}");
            let member = |room: &str, name: &str| EntryId::member(format!("room:{room}:seen").as_bytes().into(), name.as_bytes());
            let ids = [member("small", "c0"), member("large", "c2"), member("large", "c1")];
            assert_eq!(protected(&edge.look(&ids).await), [true, false, true], "{kind}");
            run(&mut client, &["FLUSHALL"]).await;
        }
    }
}

// === the whole program ===

fn file(dir: &TempDir, server: &Server, rhythm: Rhythm, more: &str) -> String {
    let [threshold, heartbeat] = [rhythm.threshold, rhythm.heartbeat].map(|span| span.as_millis());
    let text = format!(
        "[redis]\nurl = \"{}\"\n[[source]]\nname = \"cli\"\n{}\nthreshold = \"{threshold}ms\"\n\
         heartbeat_interval = \"{heartbeat}ms\"\nunless = [\"exists job:{{id}}\", \"sismember busy {{id}}\", \
         \"get state:{{id}} eq busy\", \"hget states {{id}} eq busy\", \"zscore queue {{id}} eq 1\", \"hexists jobs {{id}}\", \
         \"not disjoint tags:{{id}} busy\"]\n{more}\n",
        server.url(),
        source(Layout::Zset)
    );
    let path = dir.path().join("reaper.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

for_each_server! {
    /// Under the rights that `check --acl` prints: an audit, a single run, a shadow and a daemon see the same protected
    /// entry, and leave it until its job is done.
    async fn e9_nobody_evicts_what_is_protected(server: Server) {
        let dir = TempDir::new().unwrap();
        let path = file(&dir, &server, STEADY, "");
        let config = ["--config".to_owned(), path];
        let looker = Confined::make(&server, "looker", &["--acl", "--dry-run"], &config).await;
        let reaper = Confined::make(&server, "reaper", &["--acl"], &config).await;
        let hub = Hub::new(&server, Layout::Zset);
        let live = hub.live(12).await;
        let stale = hub.stale(3, HOUR).await;
        let pinging = hub.ping_every(STEADY.heartbeat, &live);
        let mut client = server.client().await;
        run(&mut client, &[&format!("SET job:{} x", stale[0])]).await;
        is_old_enough(&server, STEADY).await;

        let told = reaper.run(Binary::new(["check", "--connect", "--sample-for", "0s"]).args(&config)).run().await;
        assert!(told.assert_code(0).stdout.contains("\n  protects an entry: exists job:{id}\n"), "{}", told.stdout);
        assert!(told.stdout.contains("has all "), "{}", told.stdout);
        let told = Binary::new(["check", "-o", "json"]).args(&config).run().await.assert_code(0).json();
        assert_eq!(told["sources"][0]["unless"][1], "sismember busy {id}", "{told:#}");

        let audit = looker.run(Binary::new(["--dry-run", "-o", "json"]).args(&config)).run().await;
        let document = audit.assert_code(0).json();
        let source = only_source(&document);
        let entries = |name: &str| source["entries"][name].as_u64().unwrap();
        assert_eq!((entries("live"), entries("stale"), entries("protected")), (12, 2, 1));
        assert_eq!((&source["would_evict"], &source["listed"]), (&2.into(), &2.into()));
        let text = looker.run(Binary::new(["--dry-run"]).args(&config)).run().await;
        assert!(text.assert_code(0).stdout.contains("\n  protected          1\n"), "{}", text.stdout);
        assert!(!text.stdout.contains(&stale[0]), "{}", text.stdout);

        let shadow = settle(looker.run(Binary::new(["run", "--dry-run"]).args(&config))).await;
        eventually(SOON, async || skipped(&shadow, "dry_run").await == 2.0).await;
        throughout(STEADY.heartbeat * 2, async || skipped(&shadow, "dry_run").await == 2.0).await;
        shadow.terminate();
        shadow.wait(SOON).await.assert_code(0);

        let once = reaper.run(Binary::new(["--once", "-o", "json"]).args(&config)).run().await;
        let document = once.assert_code(0).json();
        assert_eq!(only_source(&document)["evicted"], 2, "{document:#}");
        let again = reaper.run(Binary::new(["--once"]).args(&config)).run().await;
        assert!(again.assert_code(0).stdout.contains("Nothing to evict from cli: 1 stale entry is protected by `unless`."), "{}", again.stdout);
        assert!(!again.stderr.contains("looking again"), "nothing to wait for: {}", again.stderr);

        let daemon = settle(reaper.run(Binary::new(["run"]).args(&config))).await;
        eventually(SOON, async || metric(&daemon, "entries", Some(("state", "protected"))).await == Some(1.0)).await;
        eventually(SOON, async || skipped(&daemon, "protected").await == 1.0).await;
        throughout(STEADY.heartbeat * 3, async || {
            skipped(&daemon, "protected").await == 1.0 && evictions(&daemon).await == 0
        })
        .await;
        let status: serde_json::Value = serde_json::from_str(&daemon.get("/status").await.unwrap().body).unwrap();
        assert_eq!(status["sources"][0]["entries"]["protected"], 1, "{status:#}");
        run(&mut client, &[&format!("DEL job:{}", stale[0])]).await;
        evicts(&daemon, 1).await;
        eventually(SOON, async || metric(&daemon, "entries", Some(("state", "protected"))).await == Some(0.0)).await;
        daemon.terminate();
        daemon.wait(SOON).await.assert_code(0);
        pinging.stop().await;
        hub.verdict(STEADY.threshold).await.assert_none_lost();
        for user in [looker, reaper] {
            user.assert_nothing_was_refused(&server).await;
        }
    }

    /// The re-read asks, so that for one that is protected no script is sent.
    async fn e9_the_re_read_asks_before_any_script(server: Server) {
        let dir = TempDir::new().unwrap();
        let config = ["--config".to_owned(), file(&dir, &server, FAST, "")];
        let hub = Hub::new(&server, Layout::Zset);
        let pinging = hub.ping_every(FAST.heartbeat, &hub.live(12).await);
        let daemon = settle(Binary::new(["run"]).args(&config)).await;
        let mut client = server.client().await;
        run(&mut client, &["SADD busy late"]).await;
        let time = server_now(&mut client).await.millis().to_string();
        put(Layout::Zset, "late", &time).exec_async(&mut client).await.unwrap();

        eventually(SOON, async || skipped(&daemon, "protected").await == 1.0).await;
        sleep(FAST.heartbeat * 2).await;

        let scripts = metric_of(&daemon, "redis_commands_total{command=\"evict\"}").await;
        assert_eq!((scripts, evictions(&daemon).await), (0.0, 0));
        run(&mut client, &["DEL busy"]).await;
        evicts(&daemon, 1).await;
        pinging.stop().await;
    }
}

async fn skipped(daemon: &crate::harness::Daemon, reason: &str) -> f64 {
    metric(daemon, "evictions_skipped_total", Some(("reason", reason))).await.expect("a reason there is")
}

async fn metric_of(daemon: &crate::harness::Daemon, name: &str) -> f64 {
    daemon.metric(&format!("presence_reaper_{name}")).await.expect("a metric there is")
}

// === any-key ===

for_each_server! {
    /// Whoever has any job stays, whatever it is called; the keys are walked through once for all.
    async fn any_key_that_is_there_protects(server: Server) {
        for layout in Layout::ALL {
            let mut client = server.client().await;
            let edge = Edge::on(&server, &unless(layout, "any-key job:{id}:{_}:open"));
            let ids = put_aged(&mut client, layout, &[OLD, OLD, OLD, 0]).await;
            run(&mut client, &["SET job:c0:7:open x", "SET job:c1:7:done x", "SET job:c2x:7:open x", "SET job:c3:1:open x"]).await;

            let survey = edge.survey().await;
            assert_eq!((counted(&survey), survey.fresh), ((2, 1), 1), "{layout:?}");
            server.reset_stats().await;
            let looked = edge.look(&ids).await;
            assert_eq!(protected(&looked), [true, false, false, false], "{layout:?}");
            assert_eq!(server.command_stats().await.get("scan"), None, "{layout:?}: the survey's walk is good for a heartbeat");
            let found = values(outcomes(&edge.strike(&Looked { found: looked.found[..3].to_vec(), ..looked }).await));
            assert_eq!(found, [Outcome::Protected, Outcome::Evicted, Outcome::Evicted], "{layout:?}");
            run(&mut client, &["FLUSHALL"]).await;
        }
    }

    /// Nobody knows of whom the last walk did not cover: that one waits; and a walk that is a heartbeat old is taken anew,
    /// for those who were told to be due as well.
    async fn any_key_waits_for_the_next_walk(server: Server) {
        let mut client = server.client().await;
        let timing = "threshold = \"5s\"\nheartbeat_interval = \"1s\"";
        let edge = Edge::on(&server, &with(Layout::Zset, &format!("{timing}\nunless = [\"not any-key alive:{{id}}{{_}}\"]")));
        let ids = put_aged(&mut client, Layout::Zset, &[OLD, OLD]).await;
        run(&mut client, &["SET alive:c0:x 1", "SET alive:c1 1"]).await;
        assert_eq!(protected(&edge.look(&ids[..1]).await), [false]);
        run(&mut client, &["DEL alive:c0:x"]).await;
        assert_eq!(protected(&edge.look(&ids).await), [false, true], "one is known, the other waits");
        sleep(Duration::from_millis(1_100)).await;
        edge.store.expect(ids.clone());
        assert_eq!(protected(&edge.look(&ids[..1]).await), [true]);
        assert_eq!(protected(&edge.look(&ids[1..]).await), [false], "covered by the walk before");
    }
}

#[tokio::test]
async fn any_key_may_scan_by_the_line_that_check_prints() {
    let server = Server::start(crate::harness::Kind::Redis).await;
    let mut client = server.client().await;
    put_aged(&mut client, Layout::Zset, &[OLD]).await;
    run(&mut client, &["SET job:c0:1 x"]).await;
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("reaper.toml");
    let text = unless(Layout::Zset, "any-key job:{id}:{_}");
    std::fs::write(&path, format!("[redis]\nurl = \"{}\"\n[[source]]\nname = \"cli\"\n{text}\n", server.url()))
        .unwrap();
    let flags = ["--config".to_owned(), path.to_str().unwrap().to_owned()];
    let confined = Confined::make(&server, "seeker", &["--acl"], &flags).await;
    let run = confined.run(Binary::new(["--dry-run", "-o", "json"]).args(&flags)).run().await;
    assert_eq!(only_source(&run.assert_code(0).json())["entries"]["protected"], 1, "{}", run.stdout);
    confined.assert_nothing_was_refused(&server).await;
}
