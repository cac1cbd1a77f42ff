//! What goes with an entry, construct by construct, on real servers.

mod killed;

use std::collections::BTreeSet;

use presence_reaper::policy::entry::EntryId;
use presence_reaper::policy::outcome::{Blocked, Outcome};
use redis::aio::MultiplexedConnection;

use crate::edge::{Edge, ask, expected, id, outcomes, prepared, put, put_aged, run, server_now, source, stands};
use crate::harness::{Layout, Server};
use crate::notify::Listener;

const OLD: i64 = 600_000;
const EVICTED: Outcome = Outcome::Evicted;
const WRONG_TYPE: Outcome = Outcome::Blocked(Blocked::WrongType);
const FANOUT: Outcome = Outcome::Blocked(Blocked::Fanout);

/// A sorted set with these companions, each in quotes that take anything, and more lines.
fn with(layout: Layout, companions: &[&str], more: &str) -> String {
    let companions: Vec<String> = companions.iter().map(|companion| format!("'''{companion}'''")).collect();
    format!("{}\ncompanions = [{}]\n{more}", source(layout), companions.join(", "))
}

/// What stands there afterwards: an answer to a command, as text.
async fn shows(client: &mut MultiplexedConnection, command: &str, expected: &[&str], context: &str) {
    let reply: redis::Value = ask(client, command).await;
    let texts: Vec<String> = match reply {
        redis::Value::Array(_) | redis::Value::Set(_) => redis::from_redis_value(reply).unwrap(),
        redis::Value::Nil => Vec::new(),
        one => vec![redis::from_redis_value(one).unwrap()],
    };
    let sorted = |texts: Vec<String>| texts.into_iter().collect::<BTreeSet<_>>();
    assert_eq!(sorted(texts), sorted(expected.iter().map(|text| (*text).to_owned()).collect()), "{command}: {context}");
}

/// Evicts `c0` of a sorted set with this companion, in this world, and looks at what is left of it.
async fn check(server: &Server, companion: &str, world: &[&str], outcome: Outcome, left: &[(&str, &[&str])]) {
    let mut client = server.client().await;
    let edge = Edge::on(server, &with(Layout::Zset, &[companion], ""));
    let ids = put_aged(&mut client, Layout::Zset, &[OLD]).await;
    run(&mut client, world).await;
    assert_eq!(edge.evict(&ids).await, expected([("c0", outcome)]), "{companion}");
    assert_eq!(stands(&mut client, &ids[0]).await, outcome != EVICTED, "{companion}");
    for (command, found) in left {
        shows(&mut client, command, found, companion).await;
    }
    run(&mut client, &["FLUSHALL"]).await;
}

// === actions ===

for_each_server! {
    async fn lrem_takes_all_elements_that_equal_it(server: Server) {
        check(&server, "LREM queue {id}", &["RPUSH queue c0 c1 c0 c2 c0"], EVICTED, &[("LRANGE queue 0 -1", &["c1", "c2"])]).await;
        check(&server, "LREM queue {id}", &["SADD queue c0"], WRONG_TYPE, &[("SMEMBERS queue", &["c0"])]).await;
        check(&server, "LREM queue {id}", &[], EVICTED, &[("EXISTS queue", &["0"])]).await;
    }

    async fn hset_writes_a_field(server: Server) {
        check(&server, "HSET last:{id} state offline", &[], EVICTED, &[("HGET last:c0 state", &["offline"])]).await;
        check(&server, "HSET last:{id} state offline", &["HSET last:c0 state on x y"], EVICTED, &[("HVALS last:c0", &["offline", "y"])]).await;
        check(&server, "HSET last:{id} state offline", &["SET last:c0 x"], WRONG_TYPE, &[("GET last:c0", &["x"])]).await;
    }

    async fn expire_leaves_a_key_of_any_type_for_a_while(server: Server) {
        let mut client = server.client().await;
        for write in ["SET box:c0 x", "SADD box:c0 x", "XADD box:c0 * a b"] {
            let edge = Edge::on(&server, &with(Layout::Zset, &["EXPIRE box:{id} 90s"], ""));
            let ids = put_aged(&mut client, Layout::Zset, &[OLD]).await;
            run(&mut client, &[write]).await;
            assert_eq!(edge.evict(&ids).await, expected([("c0", EVICTED)]));
            let left: i64 = ask(&mut client, "PTTL box:c0").await;
            assert!((1..=90_000).contains(&left), "{write}: {left}");
            run(&mut client, &["FLUSHALL"]).await;
        }
        check(&server, "EXPIRE box:{id} 90s", &[], EVICTED, &[("EXISTS box:c0", &["0"])]).await;
    }

    async fn decr_ref_counts_down_and_takes_away_what_has_come_to_nothing(server: Server) {
        let counter = "decr-ref refs {id}";
        check(&server, counter, &["HSET refs c0 3 c1 1"], EVICTED, &[("HGET refs c0", &["2"])]).await;
        check(&server, counter, &["HSET refs c0 1 c1 1"], EVICTED, &[("HKEYS refs", &["c1"])]).await;
        check(&server, counter, &["HSET refs c0 -4"], EVICTED, &[("EXISTS refs", &["0"])]).await;
        check(&server, counter, &["HSET refs c1 1"], EVICTED, &[("HGETALL refs", &["c1", "1"])]).await;
        check(&server, counter, &[], EVICTED, &[("EXISTS refs", &["0"])]).await;
        for odd in ["x", "1.5", "007", "-0", "99999999999999999999"] {
            check(&server, counter, &[&format!("HSET refs c0 {odd}")], WRONG_TYPE, &[("HGET refs c0", &[odd])]).await;
        }
        check(&server, counter, &["SET refs 3"], WRONG_TYPE, &[("GET refs", &["3"])]).await;
    }

    /// Many count on one counter, in one batch; what is no integer for one stops nobody else.
    async fn decr_ref_of_one_counter_is_exact_for_a_batch(server: Server) {
        let mut client = server.client().await;
        let edge = Edge::on(&server, &with(Layout::Zset, &["decr-ref rooms lobby", "decr-ref own {id}"], ""));
        let ids = put_aged(&mut client, Layout::Zset, &[OLD; 40]).await;
        run(&mut client, &["HSET rooms lobby 45", "HSET own c7 many"]).await;
        server.reset_stats().await;
        let found = edge.evict(&ids).await;
        assert_eq!(found.values().filter(|outcome| **outcome == EVICTED).count(), 39);
        assert_eq!(found["c7"], WRONG_TYPE);
        shows(&mut client, "HGET rooms lobby", &["6"], "").await;
        let stats = server.command_stats().await;
        assert_eq!(stats.get("evalsha").unwrap_or(&0).max(stats.get("eval").unwrap_or(&0)), &1, "one batch");
    }

    /// A right that is missing for any of the commands leaves the entry whole.
    async fn an_action_that_our_user_may_not_do_blocks(server: Server) {
        let mut client = server.client().await;
        let cases = [
            ("LREM box:{id} x", "-lrem"), ("HSET box:{id} f v", "-hset"), ("EXPIRE box:{id} 5m", "-pexpire"),
            ("decr-ref box:{id} f", "-hincrby"), ("if exists box:{id} do SREM box:{id} x", "-srem"),
            ("if not sismember other x do HSET box:{id} f v", "-sismember"),
            ("for-each {x} in smembers of:{id} do SREM box:{x} y", "-smembers"),
        ];
        for (companion, right) in cases {
            run(&mut client, &[&format!("ACL SETUSER edge reset on >pw ~* +@all {right}"), "SADD of:c0 a"]).await;
            let redis = format!("url = \"{}\"\nusername = \"edge\"\npassword = \"pw\"\nresponse_timeout = \"5s\"", server.url());
            let edge = Edge::dialling(&redis, &with(Layout::Zset, &["SREM everybody {id}", companion], ""));
            let ids = put_aged(&mut client, Layout::Zset, &[OLD]).await;
            run(&mut client, &["SADD everybody c0"]).await;
            assert_eq!(edge.evict(&ids).await, expected([("c0", Outcome::Blocked(Blocked::Permission))]), "{companion}");
            assert!(stands(&mut client, &ids[0]).await, "{companion}");
            shows(&mut client, "SMEMBERS everybody", &["c0"], companion).await;
            run(&mut client, &["FLUSHALL"]).await;
        }
    }

    /// What one action makes of a key is no type for the next: that is seen before the first write.
    async fn a_hash_that_comes_into_being_is_in_nobodys_way(server: Server) {
        let mut client = server.client().await;
        for companions in [["HSET new f v", "SREM new x"], ["SREM new x", "HSET new f v"], ["if not exists other do HSET new f v", "if not sismember new x do SREM everybody {id}"]] {
            let edge = Edge::on(&server, &with(Layout::Zset, &companions, ""));
            let ids = put_aged(&mut client, Layout::Zset, &[OLD]).await;
            run(&mut client, &["SADD everybody c0"]).await;
            assert_eq!(edge.evict(&ids).await, expected([("c0", WRONG_TYPE)]), "{companions:?}");
            assert!(stands(&mut client, &ids[0]).await);
            shows(&mut client, "EXISTS new everybody", &["1"], "nothing was done").await;
            run(&mut client, &["FLUSHALL"]).await;
        }
        // Of two entries: the second is judged by what the first left.
        let edge = Edge::on(&server, &format!("{}\ncompanions = ['if sismember makers {{id}} do HSET new f v', 'if sismember takers {{id}} do SREM new x']", source(Layout::Zset)));
        let ids = put_aged(&mut client, Layout::Zset, &[OLD; 3]).await;
        run(&mut client, &["SADD makers c0", "SADD takers c1"]).await;
        let found = edge.evict(&ids).await;
        assert_eq!(found, expected([("c0", WRONG_TYPE), ("c1", WRONG_TYPE), ("c2", WRONG_TYPE)]), "both ways were possible for each");
    }
}

// === if ===

for_each_server! {
    async fn if_exists_and_if_not_exists_are_asked_when_the_rest_is_gone(server: Server) {
        let companions = ["SREM of:u {id}", "if not exists of:u do SREM online u"];
        let mut client = server.client().await;
        let edge = Edge::on(&server, &with(Layout::Zset, &companions, ""));
        let ids = put_aged(&mut client, Layout::Zset, &[OLD; 2]).await;
        run(&mut client, &["SADD of:u c0 c1", "SADD online u"]).await;
        assert_eq!(edge.evict(&ids[..1]).await, expected([("c0", EVICTED)]));
        shows(&mut client, "SMEMBERS online", &["u"], "one is left").await;
        assert_eq!(edge.evict(&ids[1..]).await, expected([("c1", EVICTED)]));
        shows(&mut client, "EXISTS online", &["0"], "the last took it along").await;
    }

    /// Each in its turn, also within one batch: the last of a user is the last, whoever goes with it.
    async fn if_is_asked_at_its_own_turn_in_a_batch(server: Server) {
        let mut client = server.client().await;
        let companions = ["SREM of:u {id}", "if not exists of:u do HSET last u {id}"];
        let edge = Edge::on(&server, &with(Layout::Zset, &companions, ""));
        let ids = put_aged(&mut client, Layout::Zset, &[OLD; 3]).await;
        run(&mut client, &["SADD of:u c0 c1 c2"]).await;
        server.reset_stats().await;
        let found = edge.evict(&ids).await;
        assert!(found.values().all(|outcome| *outcome == EVICTED), "{found:?}");
        shows(&mut client, "HGET last u", &["c2"], "").await;
        let stats = server.command_stats().await;
        assert_eq!(stats.get("evalsha").unwrap_or(&0).max(stats.get("eval").unwrap_or(&0)), &1, "one batch");
    }

    async fn if_disjoint_compares_two_sets(server: Server) {
        let companion = "if disjoint of:u room:r do SREM users u";
        for (world, left) in [(["SADD of:u a", "SADD room:r b", "SADD users u v"], &["v"][..]), (["SADD of:u a b", "SADD room:r b", "SADD users u v"], &["u", "v"][..])] {
            check(&server, companion, &world, EVICTED, &[("SMEMBERS users", left)]).await;
        }
        check(&server, companion, &["SADD users u v", "SADD of:u a"], EVICTED, &[("SMEMBERS users", &["v"])]).await;
        check(&server, companion, &["SADD users u", "SET of:u a"], WRONG_TYPE, &[("SMEMBERS users", &["u"])]).await;
    }

    async fn if_asks_every_test_that_unless_asks(server: Server) {
        let cases: [(&str, &str, &str); 8] = [
            ("sismember k {id}", "SADD k c0", "SADD k x"),
            ("hexists k {id}", "HSET k c0 x", "HSET k x x"),
            ("get k eq {id}", "SET k c0", "SET k x"),
            ("get k ne {id}", "SET k x", "SET k c0"),
            ("hget k f eq on", "HSET k f on", "HSET k f off"),
            ("zscore k {id} eq 1.50", "ZADD k 1.5 c0", "ZADD k 2 c0"),
            ("get k json /p eq x", "SET k {\"p\":\"x\"}", "SET k {\"p\":\"y\"}"),
            ("hget k f json /p ne x", "HSET k f {\"p\":\"y\"}", "HSET k f {\"p\":\"x\"}"),
        ];
        for (condition, yes, no) in cases {
            let companion = format!("if {condition} do SREM all {{id}}");
            check(&server, &companion, &["SADD all c0", yes], EVICTED, &[("EXISTS all", &["0"])]).await;
            check(&server, &companion, &["SADD all c0", no], EVICTED, &[("EXISTS all", &["1"])]).await;
            let opposite = format!("if not {condition} do SREM all {{id}}");
            check(&server, &opposite, &["SADD all c0", no], EVICTED, &[("EXISTS all", &["0"])]).await;
        }
        // What is absent equals nothing.
        check(&server, "if get k eq x do SREM all {id}", &["SADD all c0"], EVICTED, &[("EXISTS all", &["1"])]).await;
        check(&server, "if get k ne x do SREM all {id}", &["SADD all c0"], EVICTED, &[("EXISTS all", &["0"])]).await;
        check(&server, "if get k json /p ne x do SREM all {id}", &["SADD all c0"], EVICTED, &[("EXISTS all", &["0"])]).await;
        check(&server, "if value eq c0 do SREM all {id}", &["SADD all c0"], EVICTED, &[("EXISTS all", &["0"])]).await;
        check(&server, "if value ne c0 do SREM all {id}", &["SADD all c0"], EVICTED, &[("EXISTS all", &["1"])]).await;
    }

    /// JSON is read at the look alone, so that what it stood in has to be the same.
    async fn if_json_is_evidence(server: Server) {
        let mut client = server.client().await;
        let edge = Edge::on(&server, &with(Layout::Zset, &["if get k json /p eq x do SREM all {id}"], ""));
        let ids = put_aged(&mut client, Layout::Zset, &[OLD]).await;
        run(&mut client, &["SET k {\"p\":\"x\"}", "SADD all c0"]).await;
        let looked = edge.look(&ids).await;
        run(&mut client, &["SET k {\"p\":\"y\"}"]).await;
        assert_eq!(outcomes(&edge.strike(&looked).await), expected([("c0", Outcome::Spared)]));
        shows(&mut client, "SMEMBERS all", &["c0"], "").await;
        assert_eq!(edge.evict(&ids).await, expected([("c0", EVICTED)]));
        shows(&mut client, "SMEMBERS all", &["c0"], "").await;
    }

    /// A condition never sees the entry that goes, nor what goes before it.
    async fn if_never_sees_the_entry_that_goes(server: Server) {
        let mut client = server.client().await;
        let cases = [
            (Layout::Zset, "zscore presence:online {id} ne 5"), (Layout::Json, "not hexists signalr:clients {id}"),
            (Layout::Json, "hget signalr:clients {id} json /UserId ne u"), (Layout::Strings, "not exists {key}"),
            (Layout::Strings, "get {key} json /x ne 1"), (Layout::Hashes, "hget {key} user json /x ne 5"),
            (Layout::Zset, "get before json /p ne x"),
        ];
        for (layout, condition) in cases {
            let companion = format!("if {condition} do SREM all {{id}}");
            let edge = Edge::on(&server, &format!("{}\ntrusted = true", with(layout, &["UNLINK before", &companion], "")));
            let ids = put_aged(&mut client, layout, &[OLD]).await;
            run(&mut client, &["SADD all c0", "SET before {\"p\":\"x\"}"]).await;
            let found = edge.evict(&ids).await;
            assert!(found.values().all(|outcome| *outcome == EVICTED), "{condition}: {found:?}");
            shows(&mut client, "EXISTS all", &["0"], condition).await;
            run(&mut client, &["FLUSHALL"]).await;
        }
    }

    /// Unconditional writes, the entry, what stands under a condition, messages: in that order, each as written.
    async fn unconditional_then_the_entry_then_if_then_notify(server: Server) {
        let mut client = server.client().await;
        let text = with(Layout::Zset, &["if not exists presence:online do HSET log {id} 1", "HSET log {id} 0", "if hget log c0 eq 1 do HSET log {id} 2"], "notify = [\n\
            { xadd = \"sent\", payload = \"a\", when = \"hget log {id} eq 2\" },\n{ xadd = \"sent\", payload = \"b\", when = \"not exists sent\" },\n{ xadd = \"sent\", payload = \"c\" }]");
        let edge = Edge::on(&server, &text);
        let ids = put_aged(&mut client, Layout::Zset, &[OLD]).await;
        let strike = edge.strike(&edge.look(&ids).await).await;
        assert_eq!(outcomes(&strike), expected([("c0", EVICTED)]));
        shows(&mut client, "HGET log c0", &["2"], "0, then 1, then 2").await;
        assert_eq!(ask::<usize>(&mut client, "XLEN sent").await, 2, "a and c; b saw a");
        assert_eq!((strike.notified.sent(), strike.notified.failed_total(), strike.notified.skipped), (2, 0, 0));
    }

    async fn an_if_that_can_not_be_filled_is_skipped_and_counted(server: Server) {
        let mut client = server.client().await;
        let companions = ["if exists x:{json:/none} do SREM all {id}", "if exists all do SREM all {json:/none}", "if not exists x:{json:/none} do SREM all {id}"];
        let edge = Edge::on(&server, &with(Layout::Json, &companions, "notify = [{ publish = \"x\", when = \"exists x:{json:/none}\" }]"));
        let ids = put_aged(&mut client, Layout::Json, &[OLD]).await;
        run(&mut client, &["SADD all c0"]).await;
        let looked = edge.look(&ids).await;
        assert_eq!(prepared(&looked.found[0]).unwrap().skipped_companions(), 3);
        let strike = edge.strike(&looked).await;
        assert_eq!((outcomes(&strike), strike.notified.skipped), (expected([("c0", EVICTED)]), 1));
        shows(&mut client, "SMEMBERS all", &["c0"], "").await;
    }

    async fn when_holds_back_what_is_published(server: Server) {
        let mut client = server.client().await;
        let text = with(Layout::Zset, &["SREM of:u {id}"], "notify = [{ publish = \"offline\", payload = \"{id}\", when = \"not exists of:u\" }]");
        let edge = Edge::on(&server, &text);
        let ids = put_aged(&mut client, Layout::Zset, &[OLD; 2]).await;
        run(&mut client, &["SADD of:u c0 c1"]).await;
        let mut listener = Listener::on(&server).await;
        let strike = edge.strike(&edge.look(&ids).await).await;
        assert_eq!(outcomes(&strike), expected([("c0", EVICTED), ("c1", EVICTED)]));
        assert_eq!((strike.notified.attempted, strike.notified.failed_total()), ([1, 0, 0, 0], 0));
        assert_eq!(listener.messages().await, [("offline".to_owned(), b"c1".to_vec())], "the last one alone");
    }
}

// === for-each ===

/// Reads a list in each way that there is.
const STORED: [(&str, &str); 5] = [
    ("smembers", "SADD list a b odd"),
    ("hkeys", "HSET list a 1 b 2 odd 3"),
    ("hvals", "HSET list 1 a 2 b 3 odd"),
    ("zmembers", "ZADD list 1 a 2 b 3 odd"),
    ("lrange", "RPUSH list a b odd a"),
];

for_each_server! {
    async fn for_each_smembers_hkeys_hvals_zmembers_lrange(server: Server) {
        let mut client = server.client().await;
        for (word, write) in STORED {
            let write = write.replace(" a", " u:a").replace(" b", " u:b");
            let companion = format!("for-each u:{{x}} in {word} list do SREM of:{{x}} {{id}}");
            let edge = Edge::on(&server, &with(Layout::Zset, &[&companion], ""));
            let ids = put_aged(&mut client, Layout::Zset, &[OLD]).await;
            run(&mut client, &[&write, "SADD of:a c0 c1", "SADD of:b c0", "SADD of:odd c0"]).await;
            let looked = edge.look(&ids).await;
            assert_eq!(prepared(&looked.found[0]).unwrap().skipped_companions(), 1, "{word}: one does not match");
            assert_eq!(outcomes(&edge.strike(&looked).await), expected([("c0", EVICTED)]), "{word}");
            shows(&mut client, "SMEMBERS of:a", &["c1"], word).await;
            shows(&mut client, "EXISTS of:b of:odd", &["1"], word).await;
            run(&mut client, &["FLUSHALL"]).await;
            // Of another type, and of none at all.
            put_aged(&mut client, Layout::Zset, &[OLD]).await;
            run(&mut client, &["SET list text"]).await;
            assert_eq!(edge.evict(&ids).await, expected([("c0", WRONG_TYPE)]), "{word}");
            run(&mut client, &["DEL list"]).await;
            assert_eq!(edge.evict(&ids).await, expected([("c0", EVICTED)]), "{word}");
            run(&mut client, &["FLUSHALL"]).await;
        }
    }

    /// As sets: neither order nor duplicates count; one more or one fewer leaves the entry for the next look.
    async fn a_list_that_changed_leaves_the_entry_for_the_next_look(server: Server) {
        let mut client = server.client().await;
        for (word, write) in STORED {
            let (more, less, same) = match word {
                "smembers" => ("SADD list c", "SREM list a", "SADD list b"),
                "hkeys" => ("HSET list c 1", "HDEL list a", "HSET list a 9"),
                "hvals" => ("HSET list 4 c", "HDEL list 1", "HSET list 4 a"),
                "zmembers" => ("ZADD list 1 c", "ZREM list a", "ZADD list 9 a"),
                _ => ("RPUSH list c", "LREM list 0 a", "RPUSH list b"),
            };
            for (change, outcome) in [(more, Outcome::Spared), (less, Outcome::Spared), ("DEL list", Outcome::Spared), (same, EVICTED)] {
                let companions = ["SREM all {id}".to_owned(), format!("for-each {{x}} in {word} list do SREM of:{{x}} {{id}}")];
                let edge = Edge::on(&server, &with(Layout::Zset, &[&companions[0], &companions[1]], ""));
                let ids = put_aged(&mut client, Layout::Zset, &[OLD]).await;
                run(&mut client, &[write, "SADD all c0", "SADD of:a c0", "SADD of:c c0"]).await;
                let looked = edge.look(&ids).await;
                run(&mut client, &[change]).await;
                assert_eq!(outcomes(&edge.strike(&looked).await), expected([("c0", outcome)]), "{word} {change}");
                assert_eq!(ask::<bool>(&mut client, "EXISTS all").await, outcome != EVICTED, "{word} {change}");
                if outcome != EVICTED {
                    assert_eq!(edge.evict(&ids).await, expected([("c0", EVICTED)]), "{word} {change}: the next look");
                }
                run(&mut client, &["FLUSHALL"]).await;
            }
        }
    }

    /// Of the entry's own value: an array's scalars, and a text that is cut.
    async fn for_each_json_and_split(server: Server) {
        let mut client = server.client().await;
        let companions = ["for-each {room} in json /rooms do SREM room:{room} {id}", "for-each {tag} in split {json:/tags} {json:/by} do SREM tag:{tag} {id}", "for-each {x} in split {json:/none} , do SREM all {x}"];
        let edge = Edge::on(&server, &with(Layout::Json, &companions, ""));
        let value = r#"{"LatestPingTime":1700000000000,"rooms":["a",7,true,null,["x"],"a",""],"tags":"p, q, ","by":", "}"#;
        redis::cmd("HSET").arg("signalr:clients").arg("c0").arg(value).exec_async(&mut client).await.unwrap();
        for set in ["room:a", "room:7", "room:true", "room:x", "tag:p", "tag:q", "all"] {
            run(&mut client, &[&format!("SADD {set} c0")]).await;
        }
        let looked = edge.look(&[id(Layout::Json, "c0")]).await;
        // The list, which has no text; the empty room and the empty tag, for a capture takes at least one byte.
        assert_eq!(prepared(&looked.found[0]).unwrap().skipped_companions(), 3);
        assert_eq!(outcomes(&edge.strike(&looked).await), expected([("c0", EVICTED)]));
        shows(&mut client, "KEYS *", &["room:x", "all"], "").await;
    }

    async fn for_each_if_asks_for_each_element(server: Server) {
        let companions = ["for-each {r} in smembers rooms:{id} do SREM room:{r} {id}", "for-each {r} in smembers rooms:{id} do if not exists room:{r} do SREM rooms {r}", "UNLINK rooms:{id}"];
        let mut client = server.client().await;
        let edge = Edge::on(&server, &with(Layout::Zset, &companions, ""));
        let ids = put_aged(&mut client, Layout::Zset, &[OLD]).await;
        run(&mut client, &["SADD rooms:c0 a b", "SADD rooms a b", "SADD room:a c0", "SADD room:b c0 c1"]).await;
        assert_eq!(edge.evict(&ids).await, expected([("c0", EVICTED)]));
        shows(&mut client, "SMEMBERS rooms", &["b"], "").await;
        shows(&mut client, "EXISTS rooms:c0 room:a", &["0"], "").await;
    }

    /// Exactly as many as are allowed, and one more, of every kind of list; and what is too long is not even sent to us.
    async fn max_fanout_is_exact(server: Server) {
        let mut client = server.client().await;
        let lists = ["smembers list", "hkeys list", "hvals list", "zmembers list", "lrange list", "json /l", "split {json:/t} ,"];
        for list in lists {
            let companion = format!("for-each {{x}} in {list} do SREM all {{x}}");
            let edge = Edge::on(&server, &with(Layout::Json, &[&companion], "max_fanout = 5"));
            for (count, outcome) in [(5, EVICTED), (6, FANOUT)] {
                let words: Vec<String> = (0..count).map(|n| format!("e{n}")).collect();
                let value = serde_json::json!({ "LatestPingTime": "1700000000000", "l": words, "t": words.join(",") });
                redis::cmd("HSET").arg("signalr:clients").arg("c0").arg(value.to_string()).exec_async(&mut client).await.unwrap();
                for (n, word) in words.iter().enumerate() {
                    let write = match list {
                        "smembers list" => format!("SADD list {word}"),
                        "hkeys list" => format!("HSET list {word} x"),
                        "hvals list" => format!("HSET list {n} {word}"),
                        "zmembers list" => format!("ZADD list 1 {word}"),
                        _ => format!("RPUSH list {word}"),
                    };
                    run(&mut client, &[&write, &format!("SADD all {word}")]).await;
                }
                let ids = [id(Layout::Json, "c0")];
                server.reset_stats().await;
                assert_eq!(edge.evict(&ids).await, expected([("c0", outcome)]), "{list} {count}");
                let stats = server.command_stats().await;
                let read = ["smembers", "hkeys", "hvals", "zrange", "lrange"].iter().filter_map(|name| stats.get(*name)).sum::<u64>();
                let stored = !list.contains('/');
                assert_eq!(read, if stored && outcome == EVICTED { 2 } else { 0 }, "{list} {count}: by us and by the script");
                assert_eq!(ask::<usize>(&mut client, "SCARD all").await, if outcome == EVICTED { 0 } else { 6 }, "{list}");
                run(&mut client, &["FLUSHALL"]).await;
            }
        }
    }

    /// One list for many entries is read once, and each entry that changes it is seen by the next.
    async fn a_list_that_entries_share_is_read_once_and_what_one_changes_the_next_sees(server: Server) {
        let mut client = server.client().await;
        let edge = Edge::on(&server, &with(Layout::Zset, &["for-each {x} in smembers rooms do SREM room:{x} {id}"], ""));
        let ids = put_aged(&mut client, Layout::Zset, &[OLD; 20]).await;
        run(&mut client, &["SADD rooms a b", "SADD room:a c3", "SADD room:b c4"]).await;
        server.reset_stats().await;
        let found = edge.evict(&ids).await;
        assert!(found.values().all(|outcome| *outcome == EVICTED), "{found:?}");
        assert_eq!(server.command_stats().await["smembers"], 2, "by us, and by the script for its one batch");
        let edge = Edge::on(&server, &with(Layout::Zset, &["for-each {x} in smembers rooms do SREM room:{x} {id}", "SREM rooms {id}"], ""));
        let ids = put_aged(&mut client, Layout::Zset, &[OLD; 2]).await;
        run(&mut client, &["SADD rooms c0 c1"]).await;
        assert_eq!(edge.evict(&ids).await, expected([("c0", EVICTED), ("c1", Outcome::Spared)]));
        assert_eq!(edge.evict(&ids[1..]).await, expected([("c1", EVICTED)]));
        shows(&mut client, "SMEMBERS rooms", &["a", "b"], "").await;
    }

    /// Ids and elements are bytes; nothing that one brings in is read again.
    async fn companions_of_ids_and_elements_in_any_bytes(server: Server) {
        let mut client = server.client().await;
        let companions = ["for-each {x} in smembers \"rooms of {id}\" do if not sismember \"keep {x}\" {id} do SREM \"room {x}\" {id}", "HSET last {id} {id}", "decr-ref refs {id}"];
        let edge = Edge::on(&server, &with(Layout::Zset, &companions, ""));
        for name in [&b"a b"[..], b"\xff\x00\r\n", b"{x} do \"", b"-1", b"="] {
            let key = |before: &str| [before.as_bytes(), name].concat();
            let mut pipe = redis::pipe();
            pipe.add_command(put(Layout::Zset, name, "1700000000000"));
            pipe.cmd("SADD").arg(key("rooms of ")).arg(name).cmd("SADD").arg(key("room ")).arg(name);
            pipe.cmd("HSET").arg("refs").arg(name).arg(1);
            pipe.exec_async(&mut client).await.unwrap();
            let found = edge.evict(&[id(Layout::Zset, name)]).await;
            assert!(found.values().all(|outcome| *outcome == EVICTED), "{found:?}");
            let (left, said): (usize, Vec<u8>) = redis::pipe().cmd("EXISTS").arg(key("room ")).arg("refs").cmd("HGET").arg("last").arg(name).query_async(&mut client).await.unwrap();
            assert_eq!((left, &said[..]), (0, name));
        }
    }
}

// === on_evict ===

for_each_server! {
    /// It stays for a while, counts as evicted and is no entry until its client is back.
    async fn on_evict_expire_leaves_a_string_for_a_while(server: Server) {
        let mut client = server.client().await;
        let edge = Edge::on(&server, &with(Layout::Strings, &["SREM all {id}"], "on_evict = \"expire 1h\""));
        let ids = put_aged(&mut client, Layout::Strings, &[OLD, OLD, 0]).await;
        run(&mut client, &["SADD all c0 c1", "PEXPIRE ping:c1 7200000"]).await;
        assert_eq!(edge.survey().await.stale, 2, "one will outlive what it should");
        let found = edge.evict(&ids[..2]).await;
        assert!(found.values().all(|outcome| *outcome == EVICTED), "{found:?}");
        shows(&mut client, "EXISTS all", &["0"], "").await;
        for key in ["ping:c0", "ping:c1"] {
            let left: i64 = ask(&mut client, &format!("PTTL {key}")).await;
            assert!((3_000_000..=3_600_000).contains(&left), "{key}: {left}");
        }
        let survey = edge.survey().await;
        assert_eq!((survey.stale, survey.population(), survey.live()), (0, 1, 1), "left behind, and no entries");
        assert_eq!(edge.evict(&ids[..1]).await, expected([]), "nor struck again");

        // A client that returns: its SET takes the time to live back, and it may die once more.
        let stale = (server_now(&mut client).await.millis() - OLD).to_string();
        put(Layout::Strings, "c0", &stale).exec_async(&mut client).await.unwrap();
        assert_eq!(ask::<i64>(&mut client, "PTTL ping:c0").await, -1);
        assert_eq!(edge.survey().await.stale, 1);
        let found = edge.evict(&ids[..1]).await;
        assert!(found.values().all(|outcome| *outcome == EVICTED), "{found:?}");
    }

    async fn on_evict_set_says_so_in_a_field(server: Server) {
        let mut client = server.client().await;
        let edge = Edge::on(&server, &with(Layout::Hashes, &["SREM all {id}"], "on_evict = \"set state gone:{id}\""));
        let ids = put_aged(&mut client, Layout::Hashes, &[OLD, OLD, 0]).await;
        run(&mut client, &["SADD all c0 c1", "HSET conn:c1 state on", "HSET conn:c2 state gone:c2"]).await;
        assert_eq!(edge.survey().await.stale, 2);
        let looked = edge.look(&ids[..2]).await;
        assert!(outcomes(&edge.strike(&looked).await).values().all(|outcome| *outcome == EVICTED));
        shows(&mut client, "HGET conn:c0 state", &["gone:c0"], "").await;
        shows(&mut client, "HGET conn:c1 state", &["gone:c1"], "").await;
        shows(&mut client, "EXISTS all", &["0"], "").await;
        let survey = edge.survey().await;
        assert_eq!((survey.stale, survey.population()), (0, 1), "the fresh one says so too, and is alive");
        assert!(edge.evict(&ids[..2]).await.is_empty());
        let again = outcomes(&edge.strike(&looked).await);
        assert!(again.values().all(|outcome| *outcome == Outcome::Spared), "the field is evidence: {again:?}");

        // A client that returns says so, and may die once more.
        run(&mut client, &["HSET conn:c0 state on"]).await;
        assert_eq!(edge.survey().await.stale, 1);
        assert!(edge.evict(&ids[..1]).await.values().all(|outcome| *outcome == EVICTED));
    }

    /// The field that on_evict sets may not be what a lookup judges the entry by.
    async fn on_evict_leaves_a_time_that_is_looked_up(server: Server) {
        let mut client = server.client().await;
        let source = "keys = \"conn:{id}\"\nlast_ping = \"hget conn:{id} seen\"\non_evict = \"set seen away\"";
        let edge = Edge::on(&server, source);
        let stale = server_now(&mut client).await.millis() - OLD;
        run(&mut client, &[&format!("HSET conn:a seen {stale}")]).await;
        let found = edge.evict(&[EntryId::key(b"conn:a".as_slice())]).await;
        assert_ne!(found["conn:a"], EVICTED);
        shows(&mut client, "HGET conn:a seen", &[&stale.to_string()], "").await;
    }

    /// What an entry's keys hold is told by what becomes of them, too.
    async fn on_evict_tells_what_the_keys_hold(server: Server) {
        let mut client = server.client().await;
        let stale = server_now(&mut client).await.millis() - OLD;
        for (becomes, write, after, shown) in [
            ("set state offline", "HSET conn:a state on", "HGET conn:a state", "offline"),
            ("expire 5m", "SET conn:a x", "GET conn:a", "x"),
        ] {
            let source = format!("keys = \"conn:{{id}}\"\nlast_ping = \"hget beat:{{id}} at\"\non_evict = \"{becomes}\"");
            let edge = Edge::on(&server, &source);
            run(&mut client, &["FLUSHALL", write, &format!("HSET beat:a at {stale}")]).await;
            let found = edge.evict(&[EntryId::key(b"conn:a".as_slice())]).await;
            assert_eq!(found["conn:a"], EVICTED, "{becomes}");
            shows(&mut client, after, &[shown], becomes).await;
            assert_eq!(edge.survey().await.stale, 0, "{becomes}");
        }
    }

    /// A condition sees what the companions before it wrote, whether Redis reads it or we.
    async fn a_condition_sees_what_was_written_before_it(server: Server) {
        let mut client = server.client().await;
        for state in ["on", "off"] {
            for (condition, done) in [("/s eq off", true), ("/s ne off", false), ("/s eq on", false), ("/t eq x", false)] {
                let condition = format!("if hget room:{{id}} state json {condition} do SREM open {{id}}");
                let wrote = "HSET room:{id} state \"{{\\\"s\\\":\\\"off\\\"}}\"";
                let edge = Edge::on(&server, &with(Layout::Zset, &[wrote, &condition], ""));
                let ids = put_aged(&mut client, Layout::Zset, &[OLD]).await;
                run(&mut client, &[&format!("HSET room:c0 state {{\"s\":\"{state}\"}}"), "SADD open c0"]).await;
                assert_eq!(edge.evict(&ids).await, expected([("c0", EVICTED)]), "{condition}");
                shows(&mut client, "SISMEMBER open c0", &[if done { "0" } else { "1" }], &condition).await;
                shows(&mut client, "HGET room:c0 state", &["{\"s\":\"off\"}"], &condition).await;
            }
        }
    }

    /// What is there and is no list of texts can't be done, and is counted.
    async fn elements_without_a_text_are_counted(server: Server) {
        let mut client = server.client().await;
        let stale = server_now(&mut client).await.millis() - OLD;
        let source = "hash = \"h\"\nlast_ping = \"get seen:{id}\"\ncompanions = [\"for-each {room} in json /rooms do SREM room:{room} {id}\"]";
        let edge = Edge::on(&server, source);
        for (value, left, skipped) in [
            ("{\"rooms\":[\"a\",7]}", "b", 0), ("{}", "a 7 b", 0), ("{\"rooms\":null}", "a 7 b", 0),
            ("{\"rooms\":[\"a\",{\"id\":\"b\"},null]}", "7 b", 1), ("{\"rooms\":\"a\"}", "a 7 b", 1), ("{\"rooms\":[\"a\"", "a 7 b", 1),
        ] {
            run(&mut client, &[&format!("HSET h x {value}"), &format!("SET seen:x {stale}"), "SADD room:a x", "SADD room:7 x", "SADD room:b x"]).await;
            let looked = edge.look(&[EntryId::member(b"h".as_slice().into(), *b"x")]).await;
            assert_eq!(prepared(&looked.found[0]).unwrap().skipped_companions(), skipped, "{value}");
            assert_eq!(outcomes(&edge.strike(&looked).await), expected([("x", EVICTED)]), "{value}");
            let rooms: Vec<String> = left.split(' ').map(|room| format!("room:{room}")).collect();
            let rooms: Vec<&str> = rooms.iter().map(String::as_str).collect();
            shows(&mut client, "KEYS room:*", &rooms, value).await;
        }
    }

    /// A field may be named after the key that it is in; one that turns out to be what the entry is judged by stays.
    async fn a_field_is_named_after_its_key(server: Server) {
        let mut client = server.client().await;
        let source = "keys = \"seat:{place}:{id}\"\nlast_ping = \"field {id}_seen\"\nwhere = [\"field kind:{place} eq guest\"]\n\
                      on_evict = \"set {place}_seen gone\"\ncompanions = [\"SREM of:{field:user} {id}\"]";
        let edge = Edge::on(&server, source);
        let now = server_now(&mut client).await.millis();
        let (fresh, stale) = (now, now - OLD);
        run(&mut client, &[
            &format!("HSET seat:hall:a a_seen {stale} b_seen {fresh} kind:hall guest user u"),
            &format!("HSET seat:hall:b b_seen {fresh} a_seen {stale} kind:hall guest user u"),
            &format!("HSET seat:hall:staff staff_seen {stale} kind:hall staff user u"),
            &format!("HSET seat:same:same same_seen {stale} kind:same guest user u"),
            "SADD of:u a b staff same",
        ])
        .await;
        let survey = edge.survey().await;
        assert_eq!((survey.stale, survey.population()), (2, 3), "each by its own field, and one is none of them");
        let ids = ["seat:hall:a", "seat:same:same"].map(|key| EntryId::key(key.as_bytes()));
        let found = edge.evict(&ids).await;
        assert_eq!(found["seat:hall:a"], EVICTED);
        assert_ne!(found["seat:same:same"], EVICTED, "it would lose the time that it is judged by");
        shows(&mut client, "HGET seat:hall:a hall_seen", &["gone"], "").await;
        shows(&mut client, "HGET seat:same:same same_seen", &[&stale.to_string()], "").await;
        shows(&mut client, "SMEMBERS of:u", &["b", "staff", "same"], "").await;
        assert_eq!(edge.survey().await.stale, 1, "the field says so already");

        // Evidence all the same: a ping between the look and the strike is seen.
        run(&mut client, &["HDEL seat:hall:a hall_seen"]).await;
        let looked = edge.look(&ids[..1]).await;
        run(&mut client, &[&format!("HSET seat:hall:a a_seen {fresh}")]).await;
        let struck = outcomes(&edge.strike(&looked).await);
        assert!(struck.values().all(|outcome| *outcome == Outcome::Spared), "{struck:?}");
    }

    /// An empty string is a value: what became one since was absent, and is something else.
    async fn what_became_empty_was_absent(server: Server) {
        let mut client = server.client().await;
        for (companion, lets, write) in [
            ("SREM of:{field:friend} {id}", "", "HSET conn:c0 friend"),
            ("SREM of:{user} {id}", "let.user = \"hget users {id}\"", "HSET users c0"),
            ("SREM of:{user} {id}", "let.user = \"get user:{id}\"", "SET user:c0"),
        ] {
            run(&mut client, &["FLUSHALL", "HSET users other x"]).await;
            let edge = Edge::on(&server, &with(Layout::Hashes, &[companion], lets));
            let ids = put_aged(&mut client, Layout::Hashes, &[OLD]).await;
            let looked = edge.look(&ids).await;
            let mut empty = redis::Cmd::new();
            write.split(' ').for_each(|word| _ = empty.arg(word));
            empty.arg("").exec_async(&mut client).await.unwrap();
            let struck = outcomes(&edge.strike(&looked).await);
            assert!(struck.values().all(|outcome| *outcome == Outcome::Spared), "{write}: {struck:?}");
            assert_eq!(edge.evict(&ids).await.into_values().collect::<Vec<_>>(), [EVICTED], "{write}");
        }
    }

    /// What is left behind is seen by conditions: only what goes is not.
    async fn on_evict_of_what_stays_is_no_absence(server: Server) {
        let mut client = server.client().await;
        let edge = Edge::on(&server, &with(Layout::Strings, &["if exists {key} do HSET log {id} there"], "on_evict = \"expire 1h\""));
        let ids = put_aged(&mut client, Layout::Strings, &[OLD]).await;
        assert!(edge.evict(&ids).await.values().all(|outcome| *outcome == EVICTED));
        shows(&mut client, "HVALS log", &["there"], "").await;
    }
}

// === the example of the language ===

/// As the language's own page has it, but for `let`: the user stands in the key of the room's users instead.
const ROOMS: &str = r#"
zset = "chat:{{{room}}}:seen"
companions = [
  "SREM chat:{{{room}}}:conns {id}",
  "UNLINK chat:conn:{id}",
  "SREM chat:user:{json:/user}:conns {id}",
  "if disjoint chat:user:{json:/user}:conns chat:{{{room}}}:conns do SREM chat:{{{room}}}:users {json:/user}",
]
unless = ["exists chat:jobs:{id}"]
notify = [{ xadd = "offline", payload = { user = "{json:/user}", room = "{room}" }, when = "not exists chat:user:{json:/user}:conns" }]
"#;

for_each_server! {
    async fn the_example_of_the_language_does_what_it_says(server: Server) {
        let mut client = server.client().await;
        let edge = Edge::on(&server, ROOMS);
        let member = |n: usize| format!("{{\"c\":{n},\"user\":\"ann\"}}");
        for (n, room) in [(1, "lobby"), (2, "lobby"), (3, "hall")] {
            let one = member(n);
            run(&mut client, &[
                &format!("ZADD chat:{{{room}}}:seen 1700000000000 {one}"), &format!("SADD chat:{{{room}}}:conns {one}"),
                &format!("SET chat:conn:{one} x"), &format!("SADD chat:user:ann:conns {one}"), &format!("SADD chat:{{{room}}}:users ann bob"),
            ]).await;
        }
        let entry = |n: usize, room: &str| EntryId::member(format!("chat:{{{room}}}:seen").as_bytes().into(), member(n).as_bytes());
        run(&mut client, &[&format!("SET chat:jobs:{} x", member(3))]).await;
        let all = async |n, room| edge.evict(&[entry(n, room)]).await.into_values().next().unwrap();
        assert_eq!(all(1, "lobby").await, EVICTED);
        shows(&mut client, "SMEMBERS chat:{lobby}:users", &["ann", "bob"], "she is there by another").await;
        assert_eq!(all(2, "lobby").await, EVICTED);
        shows(&mut client, "SMEMBERS chat:{lobby}:users", &["bob"], "").await;
        assert_eq!(ask::<usize>(&mut client, "XLEN offline").await, 0, "she is in the hall");
        assert_eq!(all(3, "hall").await, Outcome::Protected);
        run(&mut client, &[&format!("DEL chat:jobs:{}", member(3))]).await;
        assert_eq!(all(3, "hall").await, EVICTED);
        assert_eq!(ask::<usize>(&mut client, "XLEN offline").await, 1);
        shows(&mut client, "KEYS *", &["offline", "chat:{lobby}:users", "chat:{hall}:users"], "").await;
    }
}
