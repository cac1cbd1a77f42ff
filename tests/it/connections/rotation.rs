//! What is renewed on disk holds from the next dial on, without a restart.

use std::fs;

use tempfile::TempDir;

use super::{LONG, QUICK, file};
use crate::harness::{Authority, Binary, Daemon, Kind, Leaf, Server, eventually};

const EXPIRY: &str = "presence_reaper_tls_certificate_expiry_timestamp_seconds";

/// 1 January 2090 and 2091, by unix time.
const IN_2090: f64 = 3_786_912_000.0;
const IN_2091: f64 = 3_818_448_000.0;

async fn is_up(daemon: &Daemon) -> bool {
    daemon.metric("presence_reaper_redis_up").await == Some(1.0)
}

async fn opened(daemon: &Daemon) -> f64 {
    daemon.metric("presence_reaper_redis_connections_opened_total").await.unwrap_or_default()
}

/// A new CA, a new certificate of the server and a new one of ours, all at once; the metric shows when they end.
#[tokio::test]
async fn certificates_are_renewed_without_a_restart() {
    let (before, after) = (Authority::new("the old CA"), Authority::new("the new CA"));
    let dir = TempDir::new().unwrap();
    let ours = dir.path().join("tls");
    fs::create_dir(&ours).unwrap();
    let later = Leaf { to: 2091, ..Leaf::GOOD };
    let install = |authority: &Authority, leaf| {
        let (cert, key) = authority.issue("reaper", leaf);
        for (from, to) in [(authority.ca_file(), "ca.pem"), (cert, "cert.pem"), (key, "key.pem")] {
            fs::copy(from, ours.join(to)).unwrap();
        }
    };
    install(&before, Leaf::GOOD);
    let tls = before.server(later, true);
    let mut server = Server::builder(Kind::Redis).tls(tls.clone()).start().await;
    let path = |name: &str| ours.join(name).to_str().unwrap().to_owned();
    let text = format!(
        "[redis]\nurl = \"rediss://localhost:{}\"\nca_file = \"{}\"\ncert_file = \"{}\"\nkey_file = \"{}\"\n\
         [[source]]\nname = \"hub\"\nzset = \"presence:online\"\n{QUICK}",
        server.tls_port(),
        path("ca.pem"),
        path("cert.pem"),
        path("key.pem")
    );
    let daemon = Binary::new(["-c", &file(dir.path(), &text)]).listening().spawn();
    let expiry = async |role: &str| daemon.metric(&format!("{EXPIRY}{{role=\"{role}\"}}")).await;
    eventually(LONG, async || is_up(&daemon).await).await;
    assert_eq!((expiry("redis_server").await, expiry("redis_client").await), (Some(IN_2091), Some(IN_2090)));

    server.kill();
    let renewed = after.server(Leaf::GOOD, true);
    for (from, to) in
        [(&renewed.cert_file, &tls.cert_file), (&renewed.key_file, &tls.key_file), (&renewed.ca_file, &tls.ca_file)]
    {
        fs::copy(from, to).unwrap();
    }
    install(&after, later);
    server.restart().await;

    eventually(LONG, async || is_up(&daemon).await && expiry("redis_server").await == Some(IN_2090)).await;
    assert_eq!(expiry("redis_client").await, Some(IN_2091));
}

/// Without TLS the series is not there: no number, no false alarm.
#[tokio::test]
async fn there_is_no_expiry_without_tls() {
    let server = Server::start(Kind::Redis).await;
    let daemon = Binary::new(["--zset", "presence:online", "--redis-url", &server.url()]).listening().spawn();
    eventually(LONG, async || is_up(&daemon).await).await;
    assert!(!daemon.get("/metrics").await.unwrap().body.contains(EXPIRY));
}

for_each_server! {
    /// The password changes on the server and in its file, in either order: the next dial has the new one.
    async fn a_password_is_renewed_without_a_restart(kind: Kind) {
        let server = Server::builder(kind).password("first").start().await;
        let dir = TempDir::new().unwrap();
        let password = dir.path().join("password");
        fs::write(&password, "first\n").unwrap();
        let text = format!(
            "[redis]\nurl = \"redis://127.0.0.1:{}\"\npassword_file = \"{}\"\n\
             [[source]]\nname = \"hub\"\nzset = \"presence:online\"\n{QUICK}",
            server.port(),
            password.display()
        );
        let daemon = Binary::new(["-c", &file(dir.path(), &text)]).listening().spawn();
        eventually(LONG, async || is_up(&daemon).await).await;
        let before = opened(&daemon).await;

        let mut client = server.client().await;
        redis::cmd("CONFIG").arg("SET").arg("requirepass").arg("second").exec_async(&mut client).await.unwrap();
        redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").arg("SKIPME").arg("yes").exec_async(&mut client).await.unwrap();
        eventually(LONG, async || !is_up(&daemon).await).await;
        fs::write(&password, "second\n").unwrap();

        eventually(LONG, async || is_up(&daemon).await && opened(&daemon).await > before).await;
    }
}
