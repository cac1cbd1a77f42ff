//! The connection: what each failure is called, what it costs, and that it heals by itself.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use presence_reaper::store::audience::Ask;
use presence_reaper::store::error::Kind as ErrorKind;
use presence_reaper::store::status::{Failure, Purpose};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::edge::{Edge, LONG, id, kind_and_words, put_aged, run, source, within};
use crate::harness::{Kind, Layout, Mode, Proxy, Server, eventually};

const MINUTES_10: i64 = 600_000;

/// Patience where the test waits for it to end.
const SHORT: &str = "connect_timeout = \"300ms\"\nresponse_timeout = \"200ms\"";

/// A server that asks for a password, and users with rights that lack something.
async fn guarded(kind: Kind) -> Server {
    let server = Server::builder(kind).password("s3cret").start().await;
    let users = [
        "ACL SETUSER scanless on >pw ~* +@all -scan -zcard -hscan",
        "ACL SETUSER timeless on >pw ~* +@all -time",
        "ACL SETUSER keyless on >pw ~other +@all",
        "ACL SETUSER off off >pw ~* +@all",
        "ACL SETUSER selectless on >pw ~* +@all -select",
    ];
    run(&mut server.client().await, &users).await;
    server
}

for_each_server! {
    /// Each refusal is told from the others, and its sentence says with whom, what, and where to mend it.
    async fn each_refusal_has_its_kind_and_a_sentence_that_helps(kind: Kind) {
        let server = guarded(kind).await;
        let missing = format!("password_file = \"{}\"", server.dir().join("nobody-wrote-this").display());
        let (user, other) = (|user| login(user, "pw"), |password| login("", password));
        let (auth, denied) = (ErrorKind::Auth, ErrorKind::Permission);
        let cases = [
            refused(String::new(), Layout::Zset, auth, &["NOAUTH", "password_file"]),
            refused(other("wrong"), Layout::Zset, auth, &["connecting", "password_file"]),
            refused(user("nobody"), Layout::Zset, auth, &["`username`"]),
            refused(user("off"), Layout::Zset, auth, &["`username`"]),
            refused(missing, Layout::Zset, auth, &["nobody-wrote-this", "No such file"]),
            refused(user("timeless"), Layout::Zset, denied, &["time", "ACL user"]),
            refused(user("scanless"), Layout::Zset, denied, &["source edge", "zcard", "ACL user"]),
            refused(user("scanless"), Layout::Strings, denied, &["source edge", "scan", "ACL user"]),
            refused(user("scanless"), Layout::Json, denied, &["source edge", "hscan", "ACL user"]),
            refused(user("keyless"), Layout::Json, denied, &["source edge", "key", "ACL user"]),
            Refused { db: 99, ..refused(other("s3cret"), Layout::Zset, ErrorKind::Other, &["DB index is out of range"]) },
            Refused { db: 1, ..refused(user("selectless"), Layout::Zset, denied, &["run the 'select' command", "ACL user"]) },
        ];
        for Refused { login, db, layout, kind, words } in cases {
            let redis = format!("url = \"redis://127.0.0.1:{}/{db}\"\nresponse_timeout = \"5s\"\n{login}", server.port());
            let edge = Edge::dialling(&redis, source(layout));

            let error = edge.survey_error().await;

            assert_eq!(kind_and_words(&error, words), kind, "{login}: {error}");
            kind_and_words(&error, &[&format!("redis at 127.0.0.1:{}: ", server.port())]);
            assert!(!error.to_string().contains("s3cret"), "{error}");
            // Said again at once, it is the same, and nothing hangs.
            assert_eq!(edge.survey_error().await.kind, kind, "{login}");
        }
    }

    /// A password that is rotated is read anew at the next dial.
    async fn a_rotated_password_is_read_at_the_next_dial(kind: Kind) {
        let server = guarded(kind).await;
        let file = server.dir().join("password");
        std::fs::write(&file, "s3cret\n").unwrap();
        let redis = format!("url = \"redis://127.0.0.1:{}\"\npassword_file = \"{}\"", server.port(), file.display());
        let edge = Edge::dialling(&redis, source(Layout::Zset));
        let before = within(edge.store.survey(&Ask::default())).await.unwrap();

        let mut client = server.client().await;
        run(&mut client, &["CONFIG SET requirepass n3w", "CLIENT KILL TYPE normal SKIPME yes"]).await;
        eventually(LONG, async || edge.store.survey(&Ask::default()).await.is_err_and(|error| error.kind == ErrorKind::Auth)).await;
        std::fs::write(&file, "n3w\r\n").unwrap();

        eventually(LONG, async || edge.store.survey(&Ask::default()).await.is_ok()).await;
        assert_eq!(edge.store.health().await.unwrap().identity, before.identity);
    }

    /// The source lives in its database, and in no other.
    async fn a_database_has_its_own_entries(server: Server) {
        let mut client = server.client().await;
        run(&mut client, &["SELECT 3"]).await;
        put_aged(&mut client, Layout::Strings, &[MINUTES_10; 3]).await;
        for (db, stale) in [(3, 3), (0, 0)] {
            let edge = Edge::at(&format!("redis://127.0.0.1:{}/{db}", server.port()), source(Layout::Strings));

            assert_eq!(edge.survey().await.stale, stale);
        }
    }

    /// A replica is no place to judge the living by: it says so at the dial, for as long as it is one.
    async fn g9_a_replica_is_refused_and_its_promotion_is_found(server: Server) {
        let mut client = server.client().await;
        run(&mut client, &["REPLICAOF 127.0.0.1 1"]).await;
        let edge = Edge::on(&server, source(Layout::Zset));

        for _ in 0..3 {
            let error = edge.survey_error().await;
            assert_eq!(kind_and_words(&error, &["its role is slave", "must be a master"]), ErrorKind::ReadOnly);
            let look = within(edge.store.look(&[id(Layout::Zset, "c")])).await.map(|_| ()).unwrap_err();
            assert_eq!(look.kind, ErrorKind::ReadOnly);
        }
        run(&mut client, &["REPLICAOF NO ONE"]).await;

        eventually(LONG, async || edge.store.survey(&Ask::default()).await.is_ok()).await;
    }

    /// A stopped server costs the time set for a reply, the next dial the time set for that, and a moment later nothing.
    async fn a_stopped_server_costs_what_was_set(server: Server) {
        let edge = Edge::dialling(&format!("url = \"{}\"\n{SHORT}", server.url()), source(Layout::Zset));
        edge.survey().await;

        server.stop();
        let (reply, error) = timed(edge.survey_error()).await;
        assert_eq!(kind_and_words(&error, &["asking who is there", "no answer in time", "response_timeout"]), ErrorKind::Timeout);
        let (dial, error) = timed(edge.survey_error()).await;
        assert_eq!(error.kind, ErrorKind::Timeout, "{error}");
        let (again, error) = timed(edge.survey_error()).await;
        assert_eq!(error.kind, ErrorKind::Timeout, "{error}");

        assert!((200..2_000).contains(&reply.as_millis()), "{reply:?}");
        assert!((200..2_000).contains(&dial.as_millis()), "{dial:?}");
        assert!(again < Duration::from_millis(500), "the same answer without another dial: {again:?}");
        let status = edge.link.status();
        assert!(!status.up);
        assert_eq!(status.requests[Purpose::Scan.index()].failures[Failure::Timeout.index()], 0, "the greeting failed");
        assert!(status.requests[Purpose::Info.index()].failures[Failure::Timeout.index()] >= 1);
        server.cont();
        edge.wait_for_redial().await;
        eventually(LONG, async || edge.store.survey(&Ask::default()).await.is_ok()).await;
        assert!(edge.link.status().up);
    }

    /// A dead server is dialled now and then, not at every call, and found again when it is back.
    async fn a_dead_server_is_no_reason_to_storm_it(mut server: Server) {
        let edge = Edge::on(&server, source(Layout::Zset));
        edge.survey().await;
        server.kill();
        let error = edge.survey_error().await;
        assert_eq!(error.kind, ErrorKind::Connect, "{error}");
        eventually(LONG, async || edge.survey_error().await.to_string().contains("is it running")).await;

        let (listener, dials) = count_dials(server.port()).await;
        let mut calls = 0;
        let until = Instant::now() + Duration::from_millis(1_500);
        while Instant::now() < until {
            assert_eq!(edge.survey_error().await.kind, ErrorKind::Connect);
            calls += 1;
            sleep(Duration::from_millis(2)).await;
        }
        let dials = dials.load(Ordering::SeqCst);
        assert!(calls > 100 && dials <= 25, "{calls} calls, {dials} dials");
        drop(listener);

        server.restart().await;
        eventually(Duration::from_secs(30), async || edge.store.survey(&Ask::default()).await.is_ok()).await;
    }

    /// A network that swallows everything is noticed by the reply that does not come; a new connection finds it healed.
    async fn a_black_hole_is_left_by_a_new_connection(server: Server) {
        let proxy = Proxy::start(server.port()).await;
        let edge = Edge::dialling(&format!("url = \"{}\"\n{SHORT}", proxy.url()), source(Layout::Zset));
        edge.survey().await;
        assert_eq!(edge.link.status().connections_opened, 1);

        proxy.set(Mode::BlackHole);
        for _ in 0..2 {
            assert_eq!(edge.survey_error().await.kind, ErrorKind::Timeout);
        }
        proxy.set(Mode::Pass);

        eventually(LONG, async || edge.store.survey(&Ask::default()).await.is_ok()).await;
        assert_eq!(edge.link.status().connections_opened, 2);
    }

    /// Those who come while a dial is under way wait for it, instead of dialling too; and a caller that gives up in the
    /// middle of a dial or of a request leaves the connection to the others.
    async fn one_connection_serves_everybody(server: Server) {
        let edge = Edge::on(&server, source(Layout::Zset));
        let ids = put_aged(&mut server.client().await, Layout::Zset, &[MINUTES_10; 50]).await;
        for patience in [0, 50, 200, 1_000] {
            let _ = tokio::time::timeout(Duration::from_micros(patience), edge.store.survey(&Ask::default())).await;
        }
        let opened = edge.link.status().connections_opened.max(1);

        let ask = Ask::default();
        let surveys = (0..20).map(|_| edge.store.survey(&ask));
        let looks = (0..20).map(|_| edge.store.look(&ids));
        let (surveys, looks) = tokio::join!(all(surveys), all(looks));

        assert!(surveys.iter().all(|surveyed| surveyed.as_ref().is_ok_and(|surveyed| surveyed.survey.stale == 50)));
        assert!(looks.iter().all(|looked| looked.as_ref().is_ok_and(|looked| looked.found.len() == 50)));
        // The last of the impatient may have been given up in the middle, and its connection with it.
        assert!(edge.link.status().connections_opened <= opened + 1, "{:?}", edge.link.status());
    }

    /// What a scrape shows of the server.
    async fn the_status_names_the_server(kind: Kind) {
        let server = Server::start(kind).await;
        let edge = Edge::on(&server, source(Layout::Zset));
        assert_eq!((edge.link.status().up, edge.link.status().server), (false, None));

        edge.survey().await;

        let status = edge.link.status();
        let name = if kind == Kind::Redis { "redis" } else { "valkey" };
        assert_eq!(status.server.map(|server| server.implementation).as_deref(), Some(name));
        assert!(status.up && status.answered.is_some());
        assert!(status.clock_offset_ms.is_some_and(|offset| offset.abs() < 60_000));
        assert!(status.requests[Purpose::Info.index()].answered >= 3, "{:?}", status.requests);
    }
}

/// A login or a right that is refused, and what is said of it.
struct Refused {
    login: String,
    db: u16,
    layout: Layout,
    kind: ErrorKind,
    words: &'static [&'static str],
}

fn refused(login: String, layout: Layout, kind: ErrorKind, words: &'static [&'static str]) -> Refused {
    Refused { login, db: 0, layout, kind, words }
}

/// Login lines of `[redis]`.
fn login(user: &str, password: &str) -> String {
    let user = if user.is_empty() { String::new() } else { format!("username = \"{user}\"\n") };
    format!("{user}password = \"{password}\"")
}

async fn timed<T>(call: impl Future<Output = T>) -> (Duration, T) {
    let began = Instant::now();
    let answer = call.await;
    (began.elapsed(), answer)
}

/// Awaits all of them at once.
async fn all<T>(calls: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut calls: Vec<_> = calls.map(Box::pin).collect();
    let mut answers: Vec<Option<T>> = calls.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (call, answer) in calls.iter_mut().zip(&mut answers) {
            if answer.is_none()
                && let std::task::Poll::Ready(ready) = call.as_mut().poll(context)
            {
                *answer = Some(ready);
            }
        }
        if answers.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    answers.into_iter().flatten().collect()
}

/// Stands in for a dead server: takes every connection, closes it at once, and counts.
async fn count_dials(port: u16) -> (AbortOnDropHandle<()>, Arc<AtomicUsize>) {
    let listener =
        TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await.expect("the dead server's port");
    let dials = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&dials);
    let accepting = tokio::spawn(async move {
        // bound: ends with the handle
        while listener.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    (AbortOnDropHandle::new(accepting), dials)
}
