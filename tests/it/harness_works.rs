//! The harness itself: a tool that lies makes every test above it worthless.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncTypedCommands, RedisResult};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use crate::harness::{
    AfterLoss, Binary, Direction, Hub, Kind, Layout, Metrics, Mode, Proxy, Refresh, Server, eventually, get,
};

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(10);
const THRESHOLD: Duration = Duration::from_secs(60);

for_each_server! {
    /// The data goes with -9, the address stays.
    async fn a_killed_server_comes_back_empty_at_its_address(mut server: Server) {
        let url = server.url();
        server.client().await.set("k", "v").await.unwrap();

        server.kill();
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, server.port())).await.is_err());
        server.restart().await;

        assert_eq!(server.url(), url);
        assert_eq!(server.client().await.get("k").await.unwrap(), None);
    }

    /// What was saved outlives -9, so that tests can roll a server back.
    async fn a_restart_keeps_the_directory(mut server: Server) {
        let mut client = server.client().await;
        client.set("k", "saved").await.unwrap();
        redis::cmd("SAVE").exec_async(&mut client).await.unwrap();
        client.set("k", "not saved").await.unwrap();

        server.restart().await;

        assert_eq!(server.client().await.get("k").await.unwrap().as_deref(), Some("saved"));
    }

    /// SIGSTOP is the stall that a swapping or blocked server shows: open connections, no answers.
    async fn a_stopped_server_is_silent_and_goes_on(server: Server) {
        let mut client = server.client().await;

        server.stop();
        assert!(timeout(SHORT, client.ping()).await.is_err());
        server.cont();

        eventually(LONG, async || client.ping().await.is_ok()).await;
    }

    /// A stopped process must not outlive its test.
    async fn a_stopped_server_is_gone_with_its_value(server: Server) {
        let port = server.port();
        server.stop();

        drop(server);

        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err());
    }

    /// The proof that a dry run writes nothing rests on these numbers, so scripts must not hide their writes.
    async fn command_stats_tell_reads_from_writes(server: Server) {
        let mut client = server.client().await;
        client.set("before", "reset").await.unwrap();

        server.reset_stats().await;
        client.get("k").await.unwrap();
        assert!(server.write_commands_seen().await.is_empty());
        assert_eq!(server.command_stats().await["get"], 1);

        let script = "return redis.call('ZADD', 'z', 1, 'm')";
        redis::cmd("EVAL").arg(script).arg(1).arg("z").exec_async(&mut client).await.unwrap();
        assert_eq!(server.write_commands_seen().await.into_iter().collect::<Vec<_>>(), [("zadd".to_owned(), 1)]);
    }

    /// Arguments and password reach the server, the password by its URL too.
    async fn a_server_can_be_furnished(kind: Kind) {
        let server = Server::builder(kind).args(["--maxmemory", "64mb"]).password("s3cret").start().await;

        let limit: Vec<String> =
            redis::cmd("CONFIG").arg("GET").arg("maxmemory").query_async(&mut server.client().await).await.unwrap();

        assert_eq!(limit[1], (64 << 20).to_string());
        assert!(server.url().contains("s3cret"));
    }

    /// In every layout: entries stand as written, pings move their time, and only those that ping stay live.
    async fn a_hub_keeps_its_clients_alive(server: Server) {
        for layout in Layout::ALL {
            let hub = Hub::new(&server, layout);
            let live = hub.live(7).await;
            let stale = hub.stale(3, 2 * THRESHOLD).await;
            let pinging = hub.ping_every(Duration::from_millis(20), &live);

            eventually(LONG, async || hub.log().len() > 10 + 5 * live.len()).await;
            pinging.silence(&live[..2]);
            pinging.stop().await;

            let verdict = hub.verdict(THRESHOLD).await;
            assert_eq!(verdict.live, live.into_iter().collect::<BTreeSet<_>>(), "{layout:?}");
            assert_eq!(verdict.stale_left, stale.into_iter().collect::<BTreeSet<_>>(), "{layout:?}");
            verdict.assert_none_lost();
            let times: BTreeSet<_> = hub.log().into_iter().filter(|w| w.id == "c-0").map(|w| w.value).collect();
            assert!(times.len() > 1, "{layout:?}: every ping has a time of its own");
        }
    }

    /// The JSON of the fourth layout holds the server's time in ISO 8601, and the entrance stays.
    async fn a_json_entry_reads_as_signalr_writes_it(server: Server) {
        let hub = Hub::new(&server, Layout::Json);
        let ids = hub.stale(1, Duration::from_secs(3 * 24 * 3600)).await;
        hub.ping(&ids).await.unwrap();

        let text = server.client().await.hget("signalr:clients", &ids[0]).await.unwrap().unwrap();

        let entry: serde_json::Value = serde_json::from_str(&text).unwrap();
        let ms = |field: &str| entry[field].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond();
        let [first, second] = &hub.log()[..] else { panic!("two writes") };
        assert_eq!(entry["UserId"], "u-s-0");
        assert_eq!(ms("EntranceTime"), first.pinged_ms);
        assert_eq!(ms("LatestPingTime"), second.at_ms);
    }

    /// The heartbeat contract: a hub that refreshes does not bring back what went; one that upserts does.
    async fn a_refresh_leaves_what_is_gone(server: Server) {
        for (refresh, expected) in [(Refresh::OnlyExisting, 0), (Refresh::Upsert, 1)] {
            let hub = Hub::new(&server, Layout::Zset).refresh(refresh);
            let ids = hub.live(1).await;
            server.client().await.zrem("presence:online", &ids[0]).await.unwrap();

            assert_eq!(hub.ping(&ids).await.unwrap(), expected);

            let verdict = hub.verdict(THRESHOLD).await;
            assert_eq!(verdict.lost.len(), 1, "the witness sees the early loss either way: {refresh:?}");
        }
    }

    /// A hub with a wrong clock stores wrong times; the log keeps the true ones.
    async fn a_hub_can_have_a_wrong_clock(server: Server) {
        let hub = Hub::new(&server, Layout::Strings).clock_offset_ms(-60_000);

        hub.live(1).await;

        let write = &hub.log()[0];
        assert_eq!(write.pinged_ms, write.at_ms);
        assert_eq!(write.value.as_deref(), Some((write.at_ms - 60_000).to_string().as_str()));
    }

    /// A hub outlives its server: it redials, and upserts what was lost.
    async fn pings_go_on_after_a_restart(mut server: Server) {
        let hub = Hub::new(&server, Layout::Strings);
        let ids = hub.live(3).await;
        let pinging = hub.ping_every(Duration::from_millis(20), &ids);

        server.restart().await;

        eventually(LONG, async || hub.remaining().await.len() == 3).await;
        pinging.stop().await;
    }

    /// Nothing is lost through a proxy that passes, late though it may be.
    async fn a_proxy_passes_and_delays(server: Server) {
        let proxy = Proxy::start(server.port()).await;
        let mut client = dial(&proxy).await.unwrap();
        let value = "v".repeat(1 << 20);
        client.set("big", &value).await.unwrap();
        assert_eq!(client.get("big").await.unwrap(), Some(value));

        proxy.set(Mode::Delay(SHORT));
        let start = Instant::now();
        client.ping().await.unwrap();
        assert!(start.elapsed() >= 2 * SHORT, "each way waits");
    }

    /// A connection that met the black hole stays dumb; a new one works when it is over.
    async fn a_black_hole_swallows_without_a_word(server: Server) {
        let proxy = Proxy::start(server.port()).await;
        let mut client = dial(&proxy).await.unwrap();

        proxy.set(Mode::BlackHole);
        assert!(timeout(SHORT, client.ping()).await.is_err());
        assert!(timeout(SHORT, dial(&proxy)).await.is_err());
        proxy.set(Mode::Pass);

        assert!(timeout(SHORT, client.ping()).await.is_err());
        dial(&proxy).await.unwrap().ping().await.unwrap();
    }

    /// As when the server's process is gone: open connections break, new ones are refused, until it is back.
    async fn a_proxy_refuses(server: Server) {
        let proxy = Proxy::start(server.port()).await;
        let mut client = dial(&proxy).await.unwrap();

        proxy.set(Mode::Refuse);
        assert!(client.ping().await.is_err());
        eventually(LONG, async || {
            let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await;
            refused.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
        })
        .await;
        proxy.set(Mode::Pass);

        eventually(LONG, async || dial(&proxy).await.is_ok()).await;
    }

    /// Either direction can stall alone: a request that never arrives, or one that is carried out unanswered.
    async fn a_proxy_stalls_one_direction(server: Server) {
        let proxy = Proxy::start(server.port()).await;
        for (direction, carried_out) in [(Direction::Requests, false), (Direction::Replies, true)] {
            let key = format!("{direction:?}");
            let mut client = dial(&proxy).await.unwrap();

            proxy.set(Mode::Stall(direction));
            assert!(timeout(SHORT, client.set(&key, "v")).await.is_err());
            assert_eq!(server.client().await.exists(&key).await.unwrap(), carried_out);
            proxy.set(Mode::Pass);

            eventually(LONG, async || server.client().await.exists(&key).await.unwrap()).await;
            client.ping().await.unwrap();
        }
    }

    /// A reply that breaks off in its middle must end the connection, not pass for a shorter one.
    async fn a_proxy_cuts_in_the_middle_of_a_reply(server: Server) {
        server.client().await.set("k", "v".repeat(1000)).await.unwrap();
        let proxy = Proxy::start(server.port()).await;
        let mut client = dial(&proxy).await.unwrap();

        proxy.set(Mode::CutAfter(500));

        assert!(client.get("k").await.is_err());
        proxy.set(Mode::Pass);
        assert!(dial(&proxy).await.is_ok());
    }

    /// Words are exchanged wherever they stand in a request, also where two chunks part them; replies stay.
    async fn a_proxy_rewrites_requests(server: Server) {
        const PAIRS: &[(&str, &str)] = &[("living", "undead")];
        let proxy = Proxy::start(server.port()).await;
        let mut client = dial(&proxy).await.unwrap();
        server.client().await.set("reply", "living").await.unwrap();
        proxy.set(Mode::Rewrite(PAIRS));

        // Longer than any chunk, so that some of them are parted.
        client.set("k", "living".repeat(100_000)).await.unwrap();
        assert_eq!(client.get("reply").await.unwrap().as_deref(), Some("living"));
        client.set("half", "a liv").await.unwrap();
        proxy.set(Mode::Pass);
        client.set("whole", "living").await.unwrap();

        let mut direct = server.client().await;
        assert_eq!(direct.get("k").await.unwrap(), Some("undead".repeat(100_000)));
        assert_eq!(direct.get("half").await.unwrap().as_deref(), Some("a liv"));
        assert_eq!(direct.get("whole").await.unwrap().as_deref(), Some("living"));
    }

    /// The worst loss: the script has run and its caller does not know. NOSCRIPT does not count as its reply.
    async fn a_proxy_loses_the_reply_of_a_script_that_ran(server: Server) {
        let proxy = Proxy::start(server.port()).await;
        for (lost, after) in [AfterLoss::Cut, AfterLoss::Silence].into_iter().enumerate() {
            let mut client = dial(&proxy).await.unwrap();
            proxy.set(Mode::LoseScriptReply(after));

            client.ping().await.unwrap();
            let unknown = "f".repeat(40);
            let noscript: RedisResult<()> = redis::cmd("EVALSHA").arg(unknown).arg(0).exec_async(&mut client).await;
            assert_eq!(noscript.unwrap_err().code(), Some("NOSCRIPT"));
            let mut script = redis::cmd("EVAL");
            script.arg("return redis.call('INCR', KEYS[1])").arg(1).arg("runs");
            match (after, timeout(SHORT, script.query_async::<i64>(&mut client)).await) {
                (AfterLoss::Cut, Ok(Err(_))) | (AfterLoss::Silence, Err(_)) => {}
                (_, other) => panic!("{after:?}: {other:?}"),
            }

            assert_eq!(proxy.lost_replies(), lost + 1);
            let runs = server.client().await.get("runs").await.unwrap();
            assert_eq!(runs, Some((lost + 1).to_string()));
            assert!(!matches!(timeout(SHORT, client.ping()).await, Ok(Ok(_))), "{after:?}: the connection must not live on");
            let mut next = dial(&proxy).await.unwrap();
            redis::cmd("EVAL").arg("return 1").arg(0).exec_async(&mut next).await.unwrap();
        }
    }
}

/// A lost race must not fail a test, a wrong argument must, with the server's own words.
#[tokio::test]
#[should_panic(expected = "no-such-option")]
async fn a_server_that_does_not_start_says_why() {
    Server::builder(Kind::Redis).args(["--no-such-option", "1"]).start().await;
}

/// The program runs with nothing of our environment that could steer it.
#[tokio::test]
async fn the_program_runs_to_its_end() {
    let finished = Binary::new(["--version"]).run().await;

    finished.assert_code(0);
}

/// The tiny client reads a whole answer and refuses half of one.
#[tokio::test]
async fn http_answers_are_whole_or_errors() {
    let whole = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 5\r\n\r\nhold\n";
    let reply = get(answering_once(whole).await, "/readyz").await.unwrap();
    assert_eq!((reply.status, reply.body.as_str()), (503, "hold\n"));

    for broken in [&whole[..whole.len() - 1], "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ""] {
        assert!(get(answering_once(broken).await, "/").await.is_err(), "{broken:?}");
    }
}

/// A sample is found by its whole series, and its name's beginning is not enough.
#[test]
fn a_metric_is_found_by_its_whole_series() {
    let text = "# HELP a b\n# TYPE a counter\na_total{source=\"x\"} 300\na_total{source=\"y\"} 0.5\nup 1\n";
    let metrics = Metrics(text.to_owned());

    assert_eq!(metrics.value("a_total{source=\"x\"}"), Some(300.0));
    assert_eq!(metrics.value("a_total{source=\"y\"}"), Some(0.5));
    assert_eq!(metrics.value("up"), Some(1.0));
    assert_eq!(metrics.value("a_total"), None);
}

/// A wait that never comes true ends, at the line that waits.
#[tokio::test(start_paused = true)]
#[should_panic(expected = "harness_works.rs")]
async fn a_wait_in_vain_ends_at_its_caller() {
    eventually(LONG, async || std::future::pending().await).await;
}

/// A connection through the proxy that waits as long as the test does.
async fn dial(proxy: &Proxy) -> RedisResult<MultiplexedConnection> {
    redis::Client::open(proxy.url())?.get_multiplexed_async_connection().await
}

/// A listener that gives this answer to its first caller.
async fn answering_once(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        // Reading the request to its end keeps the close from becoming a reset.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.unwrap();
    });
    address
}
