//! What systemd is told, over the socket that it would listen on; and the credential that it keeps for us.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::harness::{Binary, Daemon, Hub, Kind, Layout, Server};
use crate::world::{FAST, SOON, STEADY, reaper};

/// The socket, and what came.
struct Manager {
    _dir: TempDir,
    path: String,
    socket: UnixDatagram,
    heard: std::cell::RefCell<Vec<String>>,
}

impl Manager {
    fn listening() -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("notify").to_str().unwrap().to_owned();
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { _dir: dir, path, socket, heard: Default::default() }
    }

    fn heard(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            self.heard.borrow_mut().push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        self.heard.borrow().clone()
    }

    fn count(&self, line: &str) -> usize {
        self.heard().iter().filter(|message| message.lines().any(|one| one.starts_with(line))).count()
    }

    async fn hears(&self, line: &str, times: usize) {
        let began = tokio::time::Instant::now();
        while self.count(line) < times {
            assert!(began.elapsed() < SOON, "{times} times {line}: {:?}", self.heard());
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn runs(&self, binary: Binary) -> Binary {
        binary.env("NOTIFY_SOCKET", &self.path)
    }
}

/// Ready without waiting for Redis, how things stand, a reload from its begin to its end, and the stop.
#[tokio::test]
async fn systemd_hears_of_every_turn() {
    let manager = Manager::listening();
    let mut server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Zset);
    server.kill();
    let daemon = manager.runs(reaper(&server.url(), &hub, FAST)).listening().spawn();
    manager.hears("READY=1", 1).await;
    assert_eq!(daemon.get("/healthz").await.map(|reply| reply.status), Some(200), "its endpoints are open by then");
    manager.hears("STATUS=no usable connection to redis; 1 source, ", 1).await;
    server.restart().await;
    hub.live(3).await;
    manager.hears("STATUS=1 source, 3 entries, 0 evicted since the start; holding: cli (", 1).await;

    daemon.signal(Signal::HUP);
    manager.hears("READY=1", 2).await;
    let heard = manager.heard();
    let reloading = heard.iter().position(|message| message.contains("RELOADING=1")).unwrap();
    assert!(heard[reloading].contains("MONOTONIC_USEC="), "{heard:?}");
    assert!(heard.iter().rposition(|message| message.contains("READY=1")).unwrap() > reloading);
    assert_eq!(manager.count("WATCHDOG=1"), 0, "nobody asked for it");

    daemon.terminate();
    manager.hears("STOPPING=1", 1).await;
    daemon.wait(SOON).await.assert_code(0);
}

/// The signs of life come as often as the watchdog wants, and stop with the loops.
#[tokio::test]
async fn the_watchdog_is_fed_as_long_as_the_loops_turn() {
    let manager = Manager::listening();
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Zset);
    let daemon: Daemon = manager.runs(reaper(&server.url(), &hub, STEADY)).env("WATCHDOG_USEC", "400000").spawn();
    manager.hears("WATCHDOG=1", 5).await;
    daemon.signal(Signal::STOP);
    sleep(Duration::from_millis(50)).await;
    let before = manager.count("WATCHDOG=1");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(manager.count("WATCHDOG=1"), before);
    daemon.signal(Signal::CONT);
    manager.hears("WATCHDOG=1", before + 2).await;
}

/// `LoadCredential=redis-password` is found by itself, unless a password is set.
#[tokio::test]
async fn the_credential_of_systemd_is_the_password() {
    let server = Server::builder(Kind::Redis).password("from systemd").start().await;
    let hub = Hub::new(&server, Layout::Zset);
    let dir = TempDir::new().unwrap();
    let credentials = dir.path().to_str().unwrap();
    let audit = || {
        let flags = hub.source_flags();
        let binary = Binary::new(["--dry-run", "--redis-url", &format!("redis://127.0.0.1:{}", server.port())]);
        binary.args(flags).env("CREDENTIALS_DIRECTORY", credentials)
    };
    let refused = audit().run().await;
    refused.assert_code(1);
    assert!(refused.stderr.contains("password"), "{}", refused.stderr);
    fs::write(dir.path().join("redis-password"), "from systemd\n").unwrap();
    audit().run().await.assert_code(0);
    audit().env("PRESENCE_REAPER_REDIS__PASSWORD", "another").run().await.assert_code(1);
}
