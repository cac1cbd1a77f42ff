//! Who is told of an eviction: each that Redis confirmed, once, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD as BASE64, Engine};
use presence_reaper::policy::entry::{EntryId, Timestamp};
use presence_reaper::policy::outcome::{Blocked, Notified, Outcome};
use presence_reaper::store::Found;
use presence_reaper::store::evict::Evicted;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, PushInfo, PushKind};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::edge::{
    Edge, ask, container, expected, id, outcomes, put, put_aged, run, server_now, source, stands, within,
};
use crate::harness::{Binary, Hub, Layout, Mode, Proxy, Server, eventually};
use crate::world::{FAST, Rhythm, SOON, STEADY, evicts, is_old_enough, metric, only_source, settle};

const OLD: i64 = 600_000;

/// Whoever listens to everything.
pub(crate) struct Listener {
    connection: MultiplexedConnection,
    heard: UnboundedReceiver<PushInfo>,
}

/// A channel and what was said there.
pub(crate) type Message = (String, Vec<u8>);

impl Listener {
    pub(crate) async fn on(server: &Server) -> Self {
        let (sender, heard) = tokio::sync::mpsc::unbounded_channel();
        let client = redis::Client::open(format!("{}?protocol=resp3", server.url())).unwrap();
        let config = AsyncConnectionConfig::new().set_push_sender(sender);
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await.unwrap();
        connection.psubscribe("*").await.unwrap();
        Self { connection, heard }
    }

    /// What was said since the last time, in order.
    pub(crate) async fn messages(&mut self) -> Vec<Message> {
        // Messages come in the order in which they were published: behind this one there is none from before.
        redis::cmd("PUBLISH").arg("that is all").arg("").exec_async(&mut self.connection).await.unwrap();
        let mut messages = Vec::new();
        loop {
            let push = within(self.heard.recv()).await.expect("a connection that stays");
            if push.kind != PushKind::PMessage {
                continue;
            }
            let [_, channel, message] = <[redis::Value; 3]>::try_from(push.data).unwrap();
            let channel: Vec<u8> = redis::from_redis_value(channel).unwrap();
            let channel = channel.escape_ascii().to_string();
            if channel == "that is all" {
                return messages;
            }
            messages.push((channel, redis::from_redis_value(message).unwrap()));
        }
    }
}

/// The messages as JSON, which they all have to be.
fn as_json(messages: &[Message]) -> Vec<Value> {
    let read = |(channel, message): &Message| {
        serde_json::from_slice(message).unwrap_or_else(|error| panic!("{channel}: {error}: {}", message.escape_ascii()))
    };
    messages.iter().map(read).collect()
}

/// The entries of a stream, each as its fields.
async fn entries(client: &mut MultiplexedConnection, key: &str) -> Vec<BTreeMap<String, Vec<u8>>> {
    let read: Vec<(String, BTreeMap<String, Vec<u8>>)> = ask(client, &format!("XRANGE {key} - +")).await;
    read.into_iter().map(|(_, fields)| fields).collect()
}

fn with(layout: Layout, more: &str) -> String {
    format!("{}\n{more}", source(layout))
}

fn notified(strike: &Evicted) -> Notified {
    assert!(strike.failure.is_none(), "{:?}", strike.failure);
    strike.notified
}

fn rfc3339(at: Timestamp) -> String {
    format!("{:.3}", jiff::Timestamp::from_millisecond(at.millis()).unwrap())
}

const USUAL: &str = "notify = [{ publish = \"off:{source}\" }, { xadd = \"left\" }]";

for_each_server! {
    /// One message for each entry that Redis confirmed as evicted, and none for who pinged or had left.
    async fn each_eviction_is_announced_once_and_nothing_else_is(server: Server) {
        let mut client = server.client().await;
        let mut listener = Listener::on(&server).await;
        for layout in Layout::ALL {
            for protocol in ["resp2", "resp3"] {
                run(&mut client, &["FLUSHALL"]).await;
                let edge = Edge::at(&format!("{}?protocol={protocol}", server.url()), &with(layout, USUAL));
                let ids = put_aged(&mut client, layout, &[OLD; 6]).await;
                let looked = edge.look(&ids).await;
                let now = server_now(&mut client).await.millis().to_string();
                put(layout, "c1", &now).exec_async(&mut client).await.unwrap();
                match container(layout) {
                    Some(key) if layout == Layout::Zset => run(&mut client, &[&format!("ZREM {key} c2")]).await,
                    Some(key) => run(&mut client, &[&format!("HDEL {key} c2")]).await,
                    None => run(&mut client, &["DEL ping:c2 conn:c2"]).await,
                }

                let strike = edge.strike(&looked).await;

                let (at, context) = (strike.at.unwrap(), format!("{layout:?} {protocol}"));
                let found: Vec<Outcome> = outcomes(&strike).into_values().collect();
                let [gone, spared, evicted] = [Outcome::Gone, Outcome::Spared, Outcome::Evicted];
                assert_eq!(found, [evicted, spared, gone, evicted, evicted, evicted], "{context}");
                assert_eq!(notified(&strike), Notified { attempted: [4, 4, 0, 0], ..Notified::default() });
                let messages = listener.messages().await;
                assert!(messages.iter().all(|(channel, _)| channel == "off:edge"), "{context}");
                let expected: Vec<Value> = [0, 3, 4, 5].map(|n| usual(&ids[n], &looked.found[n], at)).into();
                assert_eq!(as_json(&messages), expected, "{context}");
                let texts = entries(&mut client, "left").await.into_iter().map(|entry| {
                    let text = |(name, value)| (name, String::from_utf8(value).unwrap());
                    entry.into_iter().map(text).collect::<BTreeMap<_, _>>()
                });
                let as_texts = expected.iter().map(|value| {
                    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    value.as_object().unwrap().iter().map(|(name, value)| (name.clone(), text(value))).collect()
                });
                assert_eq!(texts.collect::<Vec<_>>(), as_texts.collect::<Vec<_>>(), "{context}");
            }
        }
    }

    /// Whatever an id holds, JSON stays JSON, and a text and a field hold every byte of it.
    async fn an_odd_id_arrives_as_it_is(server: Server) {
        let notify = r#"notify = [
            { publish = "json:{id}", payload = { id = "<{id}>", hex = "{id|hex}", left = "{remaining}", at = "{at}" } },
            { publish = "text", payload = "{id} {id|base64} {{at}} {at}" },
            { xadd = "left", payload = { "the id" = "{id}", "{id}" = "{at}{age_ms}" } },
            { xadd = "text", payload = "{id}" },
        ]"#;
        let names: [&[u8]; 12] = [
            b"\"quoted\"", b"{id}", b"at", b"since 0", b"remaining", b"=", b"line\nbreak\r\n", b"nul\0nul", b"\xff\xfe",
            b"\\u0041%s", b"", "\u{1f47b}\u{2028}".as_bytes(),
        ];
        let edge = Edge::on(&server, &with(Layout::Json, notify));
        let mut client = server.client().await;
        let mut listener = Listener::on(&server).await;
        for name in names {
            run(&mut client, &["DEL left text"]).await;
            put(Layout::Json, name, "1700000000000").exec_async(&mut client).await.unwrap();
            let looked = edge.look(&[id(Layout::Json, name)]).await;

            let strike = edge.strike(&looked).await;

            assert_eq!(outcomes(&strike).into_values().collect::<Vec<_>>(), [Outcome::Evicted]);
            let at = strike.at.unwrap();
            let messages = listener.messages().await;
            let [(_, message), (_, text)] = &messages[..] else { panic!("two messages: {messages:?}") };
            let hex: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
            let shown = [b"<", name, b">"].concat();
            let mut json = json!({ "hex": hex, "left": 0, "at": rfc3339(at), "id": String::from_utf8_lossy(&shown) });
            if std::str::from_utf8(name).is_err() {
                json["id_base64"] = BASE64.encode(&shown).into();
            }
            assert_eq!(serde_json::from_slice::<Value>(message).unwrap(), json, "{}", name.escape_ascii());
            let behind = format!(" {} {{at}} {}", BASE64.encode(name), rfc3339(at));
            assert_eq!(text, &[name, behind.as_bytes()].concat());
            let late = format!("{}{}", rfc3339(at), at.millis() - 1_700_000_000_000);
            let fields = [("the id".to_owned(), name.to_vec()), ("{id}".to_owned(), late.into_bytes())];
            assert_eq!(entries(&mut client, "left").await, [BTreeMap::from(fields)]);
            assert_eq!(entries(&mut client, "text").await, [BTreeMap::from([("payload".to_owned(), name.to_vec())])]);
        }
    }

    /// What is left is counted behind each removal, not before the first nor after the last of the batch.
    async fn what_is_left_is_counted_entry_by_entry(server: Server) {
        let notify = "notify = [{ publish = \"off\", payload = \"{id} {remaining}\" }, { publish = \"off\", payload = \"{remaining}\" }]";
        let mut client = server.client().await;
        let mut listener = Listener::on(&server).await;
        for layout in [Layout::Zset, Layout::Json] {
            let edge = Edge::on(&server, &with(layout, notify));
            let ids = put_aged(&mut client, layout, &[OLD; 5]).await;

            edge.evict(&[&ids[..2], &ids[3..4]].concat()).await;
            edge.evict(&ids).await;

            let said = listener.messages().await.into_iter().map(|(_, text)| String::from_utf8(text).unwrap());
            let expected = ["c0 4", "4", "c1 3", "3", "c3 2", "2", "c2 1", "1", "c4 0", "0"];
            assert_eq!(said.collect::<Vec<_>>(), expected, "{layout:?}");
        }
    }

    /// Five hundred in one strike: each once, in a few calls, and the stream is cut to about its length.
    async fn many_go_at_once_and_a_stream_stays_short(server: Server) {
        let notify = "notify = [{ publish = \"off\", payload = \"{id}\" }, { xadd = \"left\", maxlen = 100 }, { xadd = \"all\", payload = { id = \"{id}\" } }]";
        let edge = Edge::on(&server, &with(Layout::Strings, notify));
        let mut client = server.client().await;
        let mut listener = Listener::on(&server).await;
        let ids = put_aged(&mut client, Layout::Strings, &[OLD; 500]).await;
        let looked = edge.look(&ids).await;
        server.reset_stats().await;

        let strike = edge.strike(&looked).await;

        assert_eq!(notified(&strike), Notified { attempted: [500, 1_000, 0, 0], ..Notified::default() });
        let expected: Vec<Vec<u8>> = (0..500).map(|n| format!("c{n}").into_bytes()).collect();
        let heard = listener.messages().await.into_iter().map(|(_, text)| text);
        assert_eq!(heard.collect::<Vec<_>>(), expected);
        let all = entries(&mut client, "all").await.into_iter().map(|mut entry| entry.remove("id").unwrap());
        assert_eq!(all.collect::<Vec<_>>(), expected);
        // A server cuts whole nodes of a hundred.
        let length: usize = ask(&mut client, "XLEN left").await;
        assert!((100..=200).contains(&length), "{length}");
        let calls = server.command_stats().await["evalsha"];
        assert!((5..=20).contains(&calls), "{calls} calls");
    }

    /// A value that is absent leaves its notification out, and neither the entry nor the others.
    async fn a_notification_without_its_value_is_skipped_and_counted(server: Server) {
        let notify = r#"notify = [
            { publish = "off:{json:/UserId}" },
            { publish = "off", payload = { user = "{json:/UserId}", id = "{id}" } },
            { publish = "off", payload = "{id}" },
            { xadd = "left:{json:/UserId}" },
        ]"#;
        let edge = Edge::on(&server, &with(Layout::Json, notify));
        let mut client = server.client().await;
        let mut listener = Listener::on(&server).await;
        put(Layout::Json, "full", "1700000000000").exec_async(&mut client).await.unwrap();
        run(&mut client, &["HSET signalr:clients bare {\"LatestPingTime\":1700000000000}"]).await;

        let strike = edge.strike(&edge.look(&["bare", "full"].map(|name| id(Layout::Json, name))).await).await;

        assert_eq!(outcomes(&strike), expected([("bare", Outcome::Evicted), ("full", Outcome::Evicted)]));
        assert_eq!(notified(&strike), Notified { attempted: [4, 1, 0, 0], skipped: 3, ..Notified::default() });
        let channels: Vec<String> = listener.messages().await.into_iter().map(|(channel, _)| channel).collect();
        assert_eq!(channels, ["off", "off:u", "off", "off"]);
        assert_eq!(ask::<Vec<String>>(&mut client, "KEYS *").await, ["left:u"]);
    }

    /// What a notification says was read, so it is evidence: a field that changed since spares the entry.
    async fn what_is_told_is_evidence(server: Server) {
        let edge = Edge::on(&server, &with(Layout::Hashes, "notify = [{ publish = \"off\", payload = \"{field:user}\" }]"));
        let mut client = server.client().await;
        let mut listener = Listener::on(&server).await;
        let ids = put_aged(&mut client, Layout::Hashes, &[OLD; 3]).await;
        let looked = edge.look(&ids).await;
        run(&mut client, &["HSET conn:c1 user v", "HSET conn:c2 ip 10.0.0.1"]).await;

        let found = outcomes(&edge.strike(&looked).await).into_values().collect::<Vec<_>>();

        assert_eq!(found, [Outcome::Evicted, Outcome::Spared, Outcome::Evicted]);
        assert_eq!(listener.messages().await.len(), 2);
    }
}

/// The message that is sent where the configuration says none.
fn usual(id: &EntryId, found: &Found, at: Timestamp) -> Value {
    let Found::Entry { judged: Ok((last_ping, _)), .. } = found else { panic!("an entry: {found:?}") };
    let name = id.name().strip_prefix(b"ping:").or(id.name().strip_prefix(b"conn:")).unwrap_or(id.name());
    json!({
        "source": "edge",
        "id": String::from_utf8_lossy(name),
        "key": String::from_utf8_lossy(&id.key),
        "last_ping": rfc3339(*last_ping),
        "age_ms": at.millis_since(*last_ping),
        "at": rfc3339(at),
        "reason": "stale",
    })
}

// === whole or not at all ===

/// A source whose notifications go where each entry says, with companions that go first.
const ASTRAY: &str = r#"hash = "signalr:clients"
last_ping = "json /LatestPingTime"
companions = ["UNLINK rec:{id}", "SREM everybody {id}"]
notify = [
    { publish = "off", payload = "{id}" },
    { publish = "user:{json:/user}", payload = "{remaining}" },
    { xadd = "left:{json:/stream}" },
]"#;

/// Writes an entry of that source with its companions.
async fn put_whole(client: &mut MultiplexedConnection, name: &str, user: &str, stream: &str) -> EntryId {
    let value = json!({ "LatestPingTime": 1_700_000_000_000_i64, "user": user, "stream": stream });
    let lines =
        [format!("HSET signalr:clients {name} {value}"), format!("SET rec:{name} x"), format!("SADD everybody {name}")];
    run(client, &lines.each_ref().map(String::as_str)).await;
    id(Layout::Json, name)
}

/// Whether all of an entry is there; it must be all or nothing.
async fn is_whole(client: &mut MultiplexedConnection, id: &EntryId) -> bool {
    let name = String::from_utf8_lossy(id.name()).into_owned();
    let rec: bool = ask(client, &format!("EXISTS rec:{name}")).await;
    let member: bool = ask(client, &format!("SISMEMBER everybody {name}")).await;
    let entry = stands(client, id).await;
    assert_eq!((rec, member), (entry, entry), "{name}");
    entry
}

/// A source reached as the ACL user `edge`.
fn as_user(url: &str, source: &str) -> Edge {
    let redis = format!("url = \"{url}\"\nusername = \"edge\"\npassword = \"pw\"\nresponse_timeout = \"5s\"");
    Edge::dialling(&redis, source)
}

const WITHOUT_QUESTIONS: &[(&str, &str)] = &[("if not redis.acl_check_cmd then", "if not redis.acl_check_xyz then")];

for_each_server! {
    /// Whatever cannot be told is seen before anything is done: that entry stays with all that is its own, unannounced.
    async fn a_stream_of_another_type_leaves_the_entry_whole(server: Server) {
        let edge = Edge::on(&server, ASTRAY);
        let mut client = server.client().await;
        let mut listener = Listener::on(&server).await;
        run(&mut client, &["SET left:text x", "SADD left:set x", "XADD left:old 5-5 a b"]).await;
        let mut ids = Vec::new();
        for (name, stream) in [("c0", "new"), ("c1", "text"), ("c2", "old"), ("c3", "set"), ("c4", "new")] {
            ids.push(put_whole(&mut client, name, "u", stream).await);
        }
        let looked = edge.look(&ids).await;

        let strike = edge.strike(&looked).await;

        let (evicted, blocked) = (Outcome::Evicted, Outcome::Blocked(Blocked::WrongType));
        assert_eq!(outcomes(&strike).into_values().collect::<Vec<_>>(), [evicted, blocked, evicted, blocked, evicted]);
        assert_eq!(notified(&strike), Notified { attempted: [6, 3, 0, 0], ..Notified::default() });
        for (n, id) in ids.iter().enumerate() {
            assert_eq!(is_whole(&mut client, id).await, n % 2 == 1, "{n}");
        }
        let heard: Vec<_> = listener.messages().await.into_iter().map(|(_, text)| String::from_utf8(text).unwrap()).collect();
        assert_eq!(heard, ["c0", "4", "c2", "3", "c4", "2"]);
        assert_eq!(ask::<[usize; 2]>(&mut client, "EVAL return{redis.call('XLEN','left:new'),redis.call('XLEN','left:old')} 0").await, [2, 2]);
    }

    /// A stream that comes into being for one entry is another type under the companion of the next.
    async fn a_stream_that_is_made_for_one_is_not_in_the_way_of_the_next(server: Server) {
        let source = r#"hash = "signalr:clients"
last_ping = "json /LatestPingTime"
companions = ["UNLINK rec:{id}", "SREM everybody {id}", "SREM left:{json:/user} x"]
notify = [{ xadd = "left:{json:/stream}" }]"#;
        let edge = Edge::on(&server, source);
        let mut client = server.client().await;
        let first = put_whole(&mut client, "c0", "a", "b").await;
        let second = put_whole(&mut client, "c1", "b", "c").await;

        let found = edge.evict(&[first, second.clone()]).await;

        assert_eq!(found, expected([("c0", Outcome::Evicted), ("c1", Outcome::Blocked(Blocked::WrongType))]));
        assert!(is_whole(&mut client, &second).await);
    }

    /// The server is asked for every channel, stream and count before the first write, and each denial stays where it is.
    async fn what_the_user_may_not_tell_leaves_the_entry_whole(server: Server) {
        let mut client = server.client().await;
        let mut listener = Listener::on(&server).await;
        let all = "allkeys allchannels +@all";
        let cases = [
            (all.to_owned(), [false; 3]),
            ("allkeys &off &user:u +@all".to_owned(), [false, true, false]),
            ("allkeys resetchannels +@all".to_owned(), [true; 3]),
            (format!("{all} -publish"), [true; 3]),
            (format!("{all} -xadd"), [true; 3]),
            (format!("{all} -hlen"), [true; 3]),
            // The call as a whole is denied for one key: halving finds whose it is.
            ("~signalr:* ~rec:* ~everybody ~left:s allchannels +@all".to_owned(), [false, false, true]),
            ("%R~* ~signalr:* ~rec:* ~everybody ~left:s allchannels +@all".to_owned(), [false, false, true]),
        ];
        for (rights, stays) in cases {
            if !server.kind().is_modern() && ["&", "reset", "-publish", "%R"].iter().any(|word| rights.contains(word)) {
                // It can't be asked about channels, nor knows who may only read.
                continue;
            }
            let rights = if server.kind().version() < (6, 2) { rights.replace("allchannels ", "") } else { rights };
            run(&mut client, &["FLUSHALL", &format!("ACL SETUSER edge reset on >pw {rights}")]).await;
            let mut ids = Vec::new();
            for (name, user, stream) in [("c0", "u", "s"), ("c1", "v", "s"), ("c2", "u", "t")] {
                ids.push(put_whole(&mut client, name, user, stream).await);
            }
            let edge = as_user(&server.url(), ASTRAY);
            let looked = edge.look(&ids).await;

            let strike = edge.strike(&looked).await;

            let gone = stays.iter().filter(|stays| !**stays).count() as u64;
            assert_eq!(notified(&strike), Notified { attempted: [gone * 2, gone, 0, 0], ..Notified::default() }, "{rights}");
            let blocked = Outcome::Blocked(Blocked::Permission);
            let expected = stays.map(|stays| if stays { blocked } else { Outcome::Evicted });
            assert_eq!(outcomes(&strike).into_values().collect::<Vec<_>>(), expected, "{rights}");
            for (id, stays) in ids.iter().zip(stays) {
                assert_eq!(is_whole(&mut client, id).await, stays, "{rights}");
            }
            let left: Vec<String> = ids.iter().zip(stays).filter(|(_, stays)| !stays).map(|(id, _)| String::from_utf8_lossy(id.name()).into_owned()).collect();
            let heard = listener.messages().await.into_iter().filter(|(channel, _)| channel == "off");
            assert_eq!(heard.map(|(_, text)| String::from_utf8(text).unwrap()).collect::<Vec<_>>(), left, "{rights}");
        }
    }

    /// These rights are enough, with those that eviction takes anyway.
    async fn g13_few_rights_are_enough_to_tell(server: Server) {
        let mut client = server.client().await;
        let mut listener = Listener::on(&server).await;
        let cases = [
            (Layout::Zset, "~presence:online +zscore +zrem +zcard"),
            (Layout::Json, "~signalr:clients +hmget +hdel +hlen"),
        ];
        for (layout, rights) in cases {
            let channel = if server.kind().version() < (6, 2) { "" } else { "resetchannels &off " };
            let rights = format!("{rights} {channel}~left +publish +xadd +time +type +eval +evalsha +info");
            run(&mut client, &[&format!("ACL SETUSER edge reset on >pw {rights}")]).await;
            let ids = put_aged(&mut client, layout, &[OLD; 2]).await;
            let notify = "notify = [{ publish = \"off\", payload = \"{remaining}\" }, { xadd = \"left\", maxlen = 10 }]";
            let edge = as_user(&server.url(), &with(layout, notify));

            let found = edge.evict(&ids).await.into_values().collect::<Vec<_>>();

            assert_eq!(found, [Outcome::Evicted; 2], "{layout:?}");
            assert_eq!(listener.messages().await.len(), 2);
        }
    }

    /// What fails although all was checked is told apart: the entry is gone, the other notifications went out.
    async fn a_notification_that_fails_behind_the_eviction_is_counted(server: Server) {
        let notify = "notify = [{ xadd = \"full\" }, { publish = \"off\", payload = \"{id}\" }, { xadd = \"left\" }]";
        let edge = Edge::on(&server, &with(Layout::Zset, notify));
        let mut client = server.client().await;
        let mut listener = Listener::on(&server).await;
        let ids = put_aged(&mut client, Layout::Zset, &[OLD; 2]).await;
        run(&mut client, &["XADD full 18446744073709551615-18446744073709551615 a b"]).await;

        let strike = edge.strike(&edge.look(&ids).await).await;

        assert_eq!(outcomes(&strike), expected([("c0", Outcome::Evicted), ("c1", Outcome::Evicted)]));
        assert_eq!(notified(&strike), Notified { attempted: [2, 4, 0, 0], failed: [0, 2, 0, 0], ..Notified::default() });
        assert_eq!(listener.messages().await.len(), 2);
        assert_eq!(ask::<[usize; 2]>(&mut client, "EVAL return{redis.call('XLEN','full'),redis.call('XLEN','left')} 0").await, [1, 2]);
        assert!(!stands(&mut client, &ids[0]).await && !stands(&mut client, &ids[1]).await);
    }

    /// A server before Redis 7 can't be asked what we may do. A denial then comes behind the removal, and is counted.
    async fn where_the_server_cannot_be_asked_a_denial_is_counted(server: Server) {
        if !server.kind().is_modern() {
            // There the other script is sent, which tries.
            return;
        }
        let proxy = Proxy::start(server.port()).await;
        proxy.set(Mode::Rewrite(WITHOUT_QUESTIONS));
        let mut client = server.client().await;
        run(&mut client, &["ACL SETUSER edge on >pw allkeys &off +@all -hlen"]).await;
        let id = put_whole(&mut client, "c0", "u", "s").await;
        let edge = as_user(&proxy.url(), ASTRAY);

        let strike = edge.strike(&edge.look(std::slice::from_ref(&id)).await).await;

        assert_eq!(outcomes(&strike), expected([("c0", Outcome::Evicted)]));
        assert_eq!(notified(&strike), Notified { attempted: [2, 1, 0, 0], failed: [1, 0, 0, 0], ..Notified::default() });
        assert!(!is_whole(&mut client, &id).await);
    }

    /// Such a server is older than `SPUBLISH`, which shows before anything is written.
    async fn where_a_sharded_channel_is_unknown_the_entry_stays(server: Server) {
        let proxy = Proxy::start(server.port()).await;
        proxy.set(Mode::Rewrite(WITHOUT_QUESTIONS));
        let mut client = server.client().await;
        let ids = put_aged(&mut client, Layout::Zset, &[OLD; 2]).await;
        let edge = Edge::at(&proxy.url(), &with(Layout::Zset, "notify = [{ spublish = \"off\" }]"));

        let found = edge.evict(&ids).await;

        assert_eq!(found.into_values().collect::<Vec<_>>(), [Outcome::Blocked(Blocked::Unsupported); 2]);
        assert!(stands(&mut client, &ids[0]).await);
    }
}

// === the program ===

/// A file with one source, called `cli` as the one by flags is: two messages that go out, one that can't.
fn file(dir: &TempDir, server: &Server, rhythm: Rhythm) -> String {
    let notify = r#"notify = [
    { publish = "off", payload = { id = "{id}", left = "{remaining}" } },
    { xadd = "full" },
    { publish = "{json:/user}" },
]"#;
    let times = [("threshold", rhythm.threshold), ("heartbeat_interval", rhythm.heartbeat)];
    let times = times.map(|(key, time)| format!("{key} = \"{}ms\"", time.as_millis())).join("\n");
    let source = format!("[[source]]\nname = \"cli\"\n{}\n{times}\n{notify}\n", source(Layout::Zset));
    let path = dir.path().join("reaper.toml");
    std::fs::write(&path, format!("[redis]\nurl = \"{}\"\n{source}", server.url())).unwrap();
    path.to_str().unwrap().to_owned()
}

/// No stream takes anything behind this id.
const LAST_ID: &str = "XADD full 18446744073709551615-18446744073709551615 a b";

for_each_server! {
    /// From the file to whoever listens, and into the report; an audit tells nobody.
    async fn once_tells_and_an_audit_does_not(server: Server) {
        let dir = TempDir::new().unwrap();
        let path = file(&dir, &server, STEADY);
        let mut listener = Listener::on(&server).await;
        let hub = Hub::new(&server, Layout::Zset);
        let live = hub.live(10).await;
        let stale = hub.stale(2, Duration::from_secs(3600)).await;
        let pinging = hub.ping_every(STEADY.heartbeat, &live);
        run(&mut server.client().await, &[LAST_ID]).await;
        is_old_enough(&server, STEADY).await;

        let audit = Binary::new(["--dry-run", "-o", "json", "--config", &path]).run().await;
        assert_eq!(only_source(&audit.assert_code(0).json())["would_evict"], 2);
        assert_eq!(listener.messages().await, []);

        let once = Binary::new(["--once", "-o", "json", "--config", &path]).run().await;

        pinging.stop().await;
        let document = once.assert_code(0).json();
        let source = only_source(&document);
        let counts = ["evicted", "notifications_sent", "notifications_failed", "notifications_skipped"];
        assert_eq!(counts.map(|key| source[key].as_u64().unwrap()), [2, 2, 2, 2]);
        let heard = as_json(&listener.messages().await);
        assert_eq!(heard.iter().map(|message| message["left"].as_u64().unwrap()).collect::<Vec<_>>(), [11, 10]);
        let ids: BTreeSet<&str> = heard.iter().map(|message| message["id"].as_str().unwrap()).collect();
        assert_eq!(ids, stale.iter().map(String::as_str).collect());
    }

    /// The daemon tells, counts and complains; its shadow sees the same and tells nobody.
    async fn the_daemon_tells_and_its_shadow_does_not(server: Server) {
        let dir = TempDir::new().unwrap();
        let path = file(&dir, &server, FAST);
        let mut listener = Listener::on(&server).await;
        let hub = Hub::new(&server, Layout::Zset);
        let live = hub.live(10).await;
        let pinging = hub.ping_every(FAST.heartbeat, &live);
        run(&mut server.client().await, &[LAST_ID]).await;

        let shadow = settle(Binary::new(["run", "--dry-run", "--config", &path])).await;
        pinging.silence(&live[..1]);
        let seen = async || metric(&shadow, "evictions_skipped_total", Some(("reason", "dry_run"))).await;
        eventually(SOON, async || seen().await == Some(1.0)).await;
        assert_eq!(listener.messages().await, []);

        let daemon = settle(Binary::new(["run", "--config", &path])).await;
        evicts(&daemon, 1).await;

        assert_eq!(as_json(&listener.messages().await), [json!({ "id": live[0], "left": 9 })]);
        let count = async |name: &str, sink: &str| metric(&daemon, name, Some(("sink", sink))).await.unwrap();
        assert_eq!((count("notifications_total", "pubsub").await, count("notifications_total", "stream").await), (1.0, 1.0));
        let failures = "notification_failures_total";
        assert_eq!((count(failures, "pubsub").await, count(failures, "stream").await), (0.0, 1.0));
        assert_eq!(metric(&daemon, "companions_skipped_total", None).await, Some(1.0));
        let log = daemon.stderr();
        assert!(log.contains("evicted, but redis refused the notification") && log.contains("sink=\"stream\""), "{log}");
    }
}
