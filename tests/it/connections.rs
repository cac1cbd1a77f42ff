//! Every way to a server: what is found and evicted there is the same, and what does not get there says why.

mod refusals;
mod rotation;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use presence_reaper::clock::Clock;
use presence_reaper::config::{self, Inputs};
use presence_reaper::policy::entry::EntryId;
use presence_reaper::policy::outcome::Outcome;
use presence_reaper::store::audience::Ask;
use presence_reaper::store::connect::Links;
use presence_reaper::store::{Found, Store};
use redis::AsyncTypedCommands;

use crate::harness::{Authority, Binary, Finished, Hub, Kind, Layout, Leaf, Server, eventually};

const LONG: Duration = Duration::from_secs(20);
const HOUR: Duration = Duration::from_secs(3600);

/// Surveys follow one another in less than a second, so that a lost connection is missed and dialled again at once.
const QUICK: &str = "threshold = \"1s\"\nheartbeat_interval = \"100ms\"\n";

/// A way to a server: lines for the table `[redis]`, its URL open for a parameter.
struct Way {
    name: &'static str,
    url: String,
    options: String,
}

/// Every way to this server but TLS.
fn plain_ways(server: &Server) -> Vec<Way> {
    let way = |name, url| Way { name, url, options: String::new() };
    let socket = server.socket();
    vec![
        way("tcp", format!("redis://127.0.0.1:{}/0", server.port())),
        way("unix socket", format!("unix://{}?db=0", socket.display())),
    ]
}

/// TLS with a CA of one's own, by the host's name, by its address, and by another name.
fn tls_ways(server: &Server, authority: &Authority, identity: &str) -> Vec<Way> {
    let options = format!("ca_file = \"{}\"\n{identity}", authority.ca_file().display());
    let way = |name, host, more| {
        let url = format!("rediss://{host}:{}/0", server.tls_port());
        Way { name, url, options: format!("{options}\n{more}") }
    };
    vec![
        way("tls", "localhost", ""),
        way("tls by address", "127.0.0.1", ""),
        way("tls by another name", "127.0.0.1", "server_name = \"localhost\""),
    ]
}

fn identity(authority: &Authority, name: &str, leaf: Leaf) -> String {
    let (cert, key) = authority.issue(name, leaf);
    format!("cert_file = \"{}\"\nkey_file = \"{}\"", cert.display(), key.display())
}

fn with_protocol(url: &str, protocol: &str) -> String {
    format!("{url}{}protocol={protocol}", if url.contains('?') { '&' } else { '?' })
}

/// The table of a hub's source.
fn source(hub: &Hub) -> String {
    let flags = hub.source_flags();
    let (mut keys, mut times) = (String::new(), Vec::new());
    for pair in flags.chunks(2) {
        match pair[0].as_str() {
            "--last-ping" => times.push(pair[1].clone()),
            container => keys += &format!("{} = {:?}\n", container.trim_start_matches('-'), pair[1]),
        }
    }
    if !times.is_empty() {
        keys += &format!("last_ping = {times:?}\n");
    }
    format!("[[source]]\nname = \"hub\"\n{keys}companions = [\"SREM known:clients {{id}}\"]\n")
}

fn id_of(hub_layout: Layout, name: &str) -> EntryId {
    match hub_layout {
        Layout::Zset => EntryId::member(b"presence:online".as_slice().into(), name.as_bytes()),
        Layout::Json => EntryId::member(b"signalr:clients".as_slice().into(), name.as_bytes()),
        Layout::Strings => EntryId::key(format!("presence:{name}").into_bytes()),
        Layout::Hashes => EntryId::key(format!("conn:{name}").into_bytes()),
    }
}

// === the contract ===

/// A survey sees everything, a look reads what is asked for, a strike takes what stood still with its companions, and
/// leaves who pinged meanwhile.
async fn assert_contract(server: &Server, way: &Way, protocol: &str, layout: Layout) {
    let context = format!("{} {protocol} {layout:?}", way.name);
    let mut client = server.client().await;
    client.flushall().await.unwrap();
    server.reset_stats().await;
    let hub = Hub::new(server, layout);
    let live = hub.live(3).await;
    let stale = hub.stale(4, HOUR).await;
    for id in live.iter().chain(&stale) {
        client.sadd("known:clients", id).await.unwrap();
    }
    let text = format!(
        "[redis]\nurl = \"{}\"\nconnect_timeout = \"10s\"\nresponse_timeout = \"10s\"\n{}\n{}",
        with_protocol(&way.url, protocol),
        way.options,
        source(&hub)
    );
    let config = config::load(inputs(&text)).unwrap_or_else(|problems| panic!("{context}: {problems}"));
    let mut links = Links::new(config.redis.endpoint.clone());
    let hub_source = &config.sources[0];
    let link = links.to(config.redis.clone(), Clock::start());
    let store = Store::new(link, hub_source.source.clone(), hub_source.timing, hub_source.guard.max_keys);

    let surveyed = store.survey(&Ask::default()).await.unwrap_or_else(|error| panic!("{context}: {error}"));
    let seen = surveyed.survey;
    assert_eq!((seen.live(), seen.stale, seen.population()), (3, 4, 7), "{context}");

    let ids: Vec<EntryId> = stale.iter().map(|name| id_of(layout, name)).collect();
    let looked = store.look(&ids).await.unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(looked.identity, surveyed.identity, "{context}");
    let prepared = looked.found.iter().filter_map(|found| match found {
        Found::Entry { prepared, .. } => Some((**prepared).clone()),
        Found::Gone | Found::WrongType => None,
    });
    let prepared: Vec<_> = prepared.collect();
    assert_eq!(prepared.len(), 4, "{context}");

    hub.ping(&stale[..1]).await.unwrap();
    let evicted = store.evict(prepared, &looked.identity, looked.now, None).await;

    assert!(evicted.failure.is_none(), "{context}: {:?}", evicted.failure);
    let spared = id_of(layout, &stale[0]);
    for (id, outcome) in &evicted.outcomes {
        let expected = if *id == spared { Outcome::Spared } else { Outcome::Evicted };
        assert_eq!(*outcome, expected, "{context}: {id:?}");
    }
    assert_eq!(evicted.outcomes.len(), 4, "{context}");
    let left: BTreeSet<String> = live.iter().chain(&stale[..1]).cloned().collect();
    assert_eq!(hub.remaining().await, left, "{context}");
    let known: BTreeSet<String> = client.smembers("known:clients").await.unwrap().into_iter().collect();
    assert_eq!(known, left, "{context}: companions too");
    let said_hello = server.command_stats().await.contains_key("hello");
    assert_eq!(said_hello, protocol == "resp3", "{context}: the harness says none");
}

fn inputs(text: &str) -> Inputs {
    Inputs { file: Some(config::File { name: "reaper.toml".into(), text: text.to_owned() }), ..Inputs::default() }
}

async fn assert_contract_by_all(server: &Server, ways: &[Way]) {
    for way in ways {
        for protocol in ["resp2", "resp3"] {
            for layout in Layout::ALL {
                assert_contract(server, way, protocol, layout).await;
            }
        }
    }
}

for_each_server! {
    /// Over TCP and a unix socket, in both protocols.
    async fn the_contract_holds_without_tls(server: Server) {
        assert_contract_by_all(&server, &plain_ways(&server)).await;
    }

    /// The whole program by a socket's URL.
    async fn the_program_reads_a_socket(server: Server) {
        let hub = Hub::new(&server, Layout::Zset);
        hub.stale(2, HOUR).await;
        for way in plain_ways(&server) {
            let run = Binary::new(["--dry-run", "-o", "json", "--redis-url", &way.url]).args(hub.source_flags()).run().await;
            assert_eq!(run.assert_code(0).json()["sources"][0]["entries"]["stale"], 2, "{}", way.name);
        }
    }

    /// Each source in the database it names, one connection for each database, and one answer for all.
    async fn sources_on_two_databases_see_their_own(mut server: Server) {
        let dir = tempfile::TempDir::new().unwrap();
        for (db, members) in [(0, 1), (3, 2)] {
            let mut client = server.client().await;
            redis::cmd("SELECT").arg(db).exec_async(&mut client).await.unwrap();
            for n in 0..members {
                client.zadd("presence:online", format!("c{n}"), 1_700_000_000).await.unwrap();
            }
        }
        let source = |name, more| format!("[[source]]\nname = \"{name}\"\nzset = \"presence:online\"\n{QUICK}{more}\n");
        let sources = [source("here", ""), source("there", "db = 3"), source("there-too", "db = 3")].concat();
        let file = file(dir.path(), &format!("[redis]\nurl = \"{}\"\n{sources}", server.url()));

        let check = Binary::new(["check", "-o", "json", "-c", &file]).run().await;
        let databases: Vec<_> = (0..3).map(|n| check.assert_code(0).json()["sources"][n]["database"].clone()).collect();
        assert_eq!(databases, [0, 3, 3]);
        let text = Binary::new(["check", "-c", &file]).run().await;
        assert!(text.stdout.contains("source there: zset presence:online, database 3, times"), "{}", text.stdout);

        let audit = Binary::new(["--dry-run", "-o", "json", "-c", &file]).run().await;
        let stale: Vec<_> = (0..3).map(|n| audit.assert_code(0).json()["sources"][n]["entries"]["stale"].clone()).collect();
        assert_eq!(stale, [1, 2, 2]);

        let daemon = Binary::new(["run", "-c", &file]).listening().spawn();
        let up = async |expected| daemon.metric("presence_reaper_redis_up").await == Some(expected);
        eventually(LONG, async || up(1.0).await).await;
        let opened = daemon.metric("presence_reaper_redis_connections_opened_total").await;
        assert_eq!(opened, Some(2.0), "one for each database");
        server.kill();
        eventually(LONG, async || up(0.0).await).await;
        daemon.terminate();
        daemon.wait(LONG).await.assert_code(0);
    }
}

/// Over TLS with and without a certificate of ours, in both protocols.
#[tokio::test]
async fn the_contract_holds_over_tls() {
    let authority = Authority::new("the tests' CA");
    for client_certificates in [false, true] {
        let tls = authority.server(Leaf::GOOD, client_certificates);
        let server = Server::builder(Kind::Redis).tls(tls).start().await;
        let ours = if client_certificates { identity(&authority, "reaper", Leaf::GOOD) } else { String::new() };
        assert_contract_by_all(&server, &tls_ways(&server, &authority, &ours)).await;
    }
}

/// The system's CAs are those that `SSL_CERT_FILE` names; where a CA of one's own is said, they do not matter.
#[tokio::test]
async fn the_roots_are_the_systems_or_the_operators_and_never_both() {
    let (authority, other) = (Authority::new("the tests' CA"), Authority::new("another CA"));
    let server = Server::builder(Kind::Redis).tls(authority.server(Leaf::GOOD, false)).start().await;
    let hub = Hub::new(&server, Layout::Zset);
    hub.stale(1, HOUR).await;
    let url = format!("rediss://localhost:{}", server.tls_port());
    let audit = async |roots: &Path, ca_file: Option<&Path>| -> Finished {
        let binary = Binary::new(["--dry-run", "--redis-url", &url]).args(hub.source_flags());
        let binary = binary.env("SSL_CERT_FILE", roots.to_str().unwrap()).env("SSL_CERT_DIR", "/nowhere");
        match ca_file {
            Some(path) => binary.args([Path::new("--redis-tls-ca-file"), path]),
            None => binary,
        }
        .run()
        .await
    };
    let nowhere = Path::new("/nowhere");

    audit(&authority.ca_file(), None).await.assert_code(0);
    audit(nowhere, Some(&authority.ca_file())).await.assert_code(0);
    audit(&authority.ca_file(), Some(&other.ca_file())).await.assert_code(1);
    audit(&other.ca_file(), None).await.assert_code(1);
}

/// A server that does not know `HELLO` is spoken to as it understands.
#[tokio::test]
async fn resp2_is_spoken_where_resp3_is_unknown() {
    let server = Server::builder(Kind::Redis).args(["--rename-command", "HELLO", ""]).start().await;
    let hub = Hub::new(&server, Layout::Zset);
    hub.stale(1, HOUR).await;
    let run = Binary::new(["--dry-run", "--redis-url", &server.url()]).args(hub.source_flags()).run().await;
    run.assert_code(0);
}

/// Writes a configuration, and says its path.
fn file(dir: &Path, text: &str) -> String {
    let path = dir.join("reaper.toml");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}
