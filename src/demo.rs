//! The program at work, on a private server with simulated hubs: a third of the clients is killed without goodbye, and
//! the real daemon takes exactly those away while the others ping on. Then it ends, or goes on for whoever wants to
//! look.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::assemble::{Assembly, Run};
use crate::clock::Clock;
use crate::config;
use crate::daemon::Observer;
use crate::policy::duration::in_words;
use crate::policy::entry::Monotonic;
use crate::reaper::{Mode, Report, Verb};
use crate::service::{self, Service};

/// What a visitor may choose.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Clients to simulate, spread over three hubs.
    pub clients: u32,
    /// The server's program; the first of [`SERVERS`] on the path if none.
    pub redis_server: Option<PathBuf>,
    /// Go on when the story is told, endpoints and all.
    pub serve: bool,
}

/// Why there was no demonstration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No server program is here.
    #[error("no {} on the path: install redis-server, or name one with --redis-server", SERVERS.join(" and no "))]
    NoServer,
    /// The server did not come up.
    #[error("starting {program}: {why}")]
    Server {
        /// Which.
        program: String,
        /// What happened.
        why: String,
    },
    /// Talking to it failed.
    #[error("the private server: {0}")]
    Redis(#[from] redis::RedisError),
    /// A directory or port of our own could not be had.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The demonstration's own configuration was refused: a mistake of ours.
    #[error("{0}")]
    Config(#[from] config::Problems),
    /// The daemon could not begin.
    #[error(transparent)]
    Service(#[from] service::Error),
    /// It did not show what it promises.
    #[error("the demonstration failed: {0}")]
    Wrong(String),
}

const SERVERS: [&str; 2] = ["redis-server", "valkey-server"];
const HUBS: u32 = 3;
const INDEX: &str = "presence:online";
const THRESHOLD: Duration = Duration::from_secs(5);
const HEARTBEAT: Duration = Duration::from_millis(500);

/// Where the endpoints are, if nobody else is there: as the daemon's by default.
const PORT: u16 = 19121;

/// Of what goes on when the story is told: how long a hub lives, and how long it is quiet before the next one comes.
const LIFE: Duration = Duration::from_secs(5);

/// The dead are gone by then; if not, something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

/// Tells the story line by line, from the first client to the count at the end; and goes on until `stop`, if asked to.
///
/// # Errors
/// No server could be started, or the reaper did not do what it promises.
pub async fn run(settings: Settings, stop: CancellationToken, mut tell: impl FnMut(&str)) -> Result<(), Error> {
    let mut server = Server::start(settings.redis_server).await?;
    let mut stage = Stage {
        clock: Clock::start(),
        server: &server,
        connection: server.connect().await?,
        watcher: Arc::default(),
        heartbeats: Heartbeats::default(),
        reaping: None,
        tell: &mut tell,
    };
    let told = stop.run_until_cancelled(stage.perform(settings.clients, settings.serve)).await;
    stage.clear().await;
    server.stop().await;
    told.unwrap_or_else(|| {
        tell("Stopped; the private server is gone.");
        Ok(())
    })
}

/// Whoever has a part in it, and the narrator.
struct Stage<'s> {
    clock: Clock,
    server: &'s Server,
    connection: MultiplexedConnection,
    watcher: Arc<Watcher>,
    heartbeats: Heartbeats,
    reaping: Option<Reaping>,
    tell: &'s mut dyn FnMut(&str),
}

impl Stage<'_> {
    async fn perform(&mut self, clients: u32, serve: bool) -> Result<(), Error> {
        let listen = if serve { Some(free_address()?) } else { None };
        self.story(clients, listen).await?;
        let Some(listen) = listen else { return Ok(()) };
        (self.tell)("");
        (self.tell)("It goes on until Ctrl-C: now and then a hub comes, and crashes. Look at it meanwhile:");
        (self.tell)(&format!("  http://{listen}/ (metrics, status, redis, healthz, readyz)"));
        (self.tell)(&format!("  redis://127.0.0.1:{}/0", self.server.port));
        (self.tell)("");
        self.go_on(clients).await
    }

    async fn story(&mut self, clients: u32, listen: Option<SocketAddr>) -> Result<(), Error> {
        self.say(&format!("a private {} on 127.0.0.1:{}", self.server.program, self.server.port));
        let hub = |number| Hub::of_the_story(number, clients, self.connection.clone());
        let hubs: Vec<Hub> = (1..=HUBS).map(hub).collect();
        for hub in &hubs {
            hub.connect_all().await?;
            self.heartbeats.start(hub.clone());
        }
        self.say(&format!(
            "{HUBS} hubs, {clients} clients: each pings every {}, and is stale after {}",
            in_words(HEARTBEAT),
            in_words(THRESHOLD)
        ));

        self.reaping = Some(Reaping::start(self.server.port, listen, self.clock, Arc::clone(&self.watcher)).await?);
        let faces = listen.map(|listen| format!(", its endpoints on http://{listen}")).unwrap_or_default();
        self.say(&format!("the reaper starts{faces}; at first contact every entry has a full threshold of grace"));
        tokio::time::sleep(THRESHOLD + HEARTBEAT * 2).await;

        let [.., killed] = &hubs[..] else { return Err(Error::Wrong("no hubs".into())) };
        self.kill(killed).await;
        self.say("two more heartbeats, to see that nobody else goes");
        tokio::time::sleep(HEARTBEAT * 2).await;
        self.summary(&hubs, killed).await
    }

    /// Kills a hub, and waits until the reaper has taken its clients away.
    async fn kill(&mut self, hub: &Hub) {
        let dead = hub.ids.len() as u64;
        self.heartbeats.kill(hub.number);
        self.say(&format!("hub-{} is killed without goodbye: {dead} clients stay behind as ghosts", hub.number));
        let (killed_at, before) = (self.clock.now(), self.watcher.evicted.load(Ordering::Relaxed));
        let mut reported = 0;
        // bound: PATIENCE
        while reported < dead && self.clock.now().since(killed_at) < PATIENCE {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let evicted = self.watcher.evicted.load(Ordering::Relaxed) - before;
            if evicted > reported {
                self.say(&format!("evicted {} ghosts, {evicted} of {dead} so far", evicted - reported));
                reported = evicted;
            }
        }
    }

    /// Beside the hubs that live on, small ones that don't, one after the other.
    async fn go_on(&mut self, clients: u32) -> Result<(), Error> {
        let mut number = HUBS;
        // bound: until it is stopped
        loop {
            number += 1;
            let hub = Hub::of_later(number, clients / 20 + 1, self.connection.clone());
            hub.connect_all().await?;
            self.heartbeats.start(hub.clone());
            self.say(&format!("hub-{number} comes with {} clients", hub.ids.len()));
            tokio::time::sleep(LIFE).await;
            self.kill(&hub).await;
            tokio::time::sleep(LIFE).await;
        }
    }

    fn say(&mut self, line: &str) {
        (self.tell)(&format!("{:5.1}s  {line}", self.clock.now().since_start().as_secs_f64()));
    }

    /// Ends what has begun, before the server goes.
    async fn clear(self) {
        if let Some(reaping) = self.reaping {
            reaping.stop().await;
        }
        self.heartbeats.stop().await;
    }

    /// Counts in Redis, not in our own books, who is left.
    async fn summary(&mut self, hubs: &[Hub], killed: &Hub) -> Result<(), Error> {
        let (tell, mut connection) = (&mut self.tell, self.connection.clone());
        let left: Vec<String> = redis::cmd("ZRANGE").arg(INDEX).arg(0).arg(-1).query_async(&mut connection).await?;
        let left: BTreeSet<&str> = left.iter().map(String::as_str).collect();
        let records: Vec<String> = redis::cmd("KEYS").arg("conn:*").query_async(&mut connection).await?;
        tell("");
        tell("         clients  still there  evicted");
        let (mut live_evicted, mut dead_evicted) = (0, 0);
        for hub in hubs {
            let there = hub.ids.iter().filter(|id| left.contains(id.as_str())).count();
            let evicted = hub.ids.len() - there;
            let fate = if hub.number == killed.number { "killed" } else { "alive" };
            tell(&format!("hub-{}  {:>9}  {there:>11}  {evicted:>7}  {fate}", hub.number, hub.ids.len()));
            *(if hub.number == killed.number { &mut dead_evicted } else { &mut live_evicted }) += evicted;
        }
        tell("");
        let slowest = *self.watcher.slowest.lock().unwrap_or_else(PoisonError::into_inner);
        let dead = killed.ids.len();
        tell(&format!(
            "{dead_evicted} of {dead} ghosts evicted with their records, the last {} after its threshold.",
            in_words(slowest)
        ));
        tell(&format!("{live_evicted} live evicted."));
        if live_evicted > 0 || dead_evicted != dead || records.len() != left.len() {
            return Err(Error::Wrong(format!("{} entries and {} records are left", left.len(), records.len())));
        }
        Ok(())
    }
}

/// The daemon's own port if nobody has it, else one that nobody has.
fn free_address() -> io::Result<SocketAddr> {
    let address = |port| TcpListener::bind(("127.0.0.1", port))?.local_addr();
    address(PORT).or_else(|_| address(0))
}

// === the reaper ===

/// The daemon itself, with a configuration as an operator would write it.
struct Reaping {
    stop: CancellationToken,
    service: tokio::task::JoinHandle<()>,
}

impl Reaping {
    async fn start(port: u16, listen: Option<SocketAddr>, clock: Clock, watcher: Arc<Watcher>) -> Result<Self, Error> {
        let listen = listen.map_or_else(|| "off".to_owned(), |address| address.to_string());
        let text = format!(
            r#"
            [redis]
            url = "redis://127.0.0.1:{port}/0"
            [server]
            listen = "{listen}"
            [[source]]
            name = "demo"
            zset = "{INDEX}"
            threshold = "{}ms"
            heartbeat_interval = "{}ms"
            companions = ["UNLINK conn:{{id}}"]
            "#,
            THRESHOLD.as_millis(),
            HEARTBEAT.as_millis(),
        );
        let file = Some(config::File { name: "demo".into(), text });
        let config = config::load(config::Inputs { file, ..Default::default() })?;
        let assembly = Assembly::of(&config, &Run::unlimited(Mode::Evict), clock);
        let service = Service::bind(&config, assembly, clock).await?.telling(watcher);
        let stop = CancellationToken::new();
        let service = tokio::spawn(service.run(stop.clone()));
        Ok(Self { stop, service })
    }

    async fn stop(self) {
        self.stop.cancel();
        let _ = self.service.await;
    }
}

/// What the reaper reports, added up.
#[derive(Default)]
struct Watcher {
    evicted: AtomicU64,
    slowest: Mutex<Duration>,
}

impl Observer for Watcher {
    fn surveying(&self, _source: &str, _begun: bool) {}

    fn reported(&self, report: &Report) {
        if report.verb == Verb::Strike {
            self.evicted.fetch_add(report.outcomes.evicted, Ordering::Relaxed);
            let mut slowest = self.slowest.lock().unwrap_or_else(PoisonError::into_inner);
            *slowest = report.lags.iter().copied().fold(*slowest, Duration::max);
        }
    }
}

// === the hubs ===

/// A simulated hub: it writes a record for each client and refreshes the last ping.
#[derive(Clone)]
struct Hub {
    number: u32,
    ids: Arc<Vec<String>>,
    connection: MultiplexedConnection,
}

impl Hub {
    /// One of the first hubs, which share these clients.
    fn of_the_story(number: u32, clients: u32, connection: MultiplexedConnection) -> Self {
        let own = (0..clients).filter(|client| client % HUBS + 1 == number);
        let ids = own.map(|client| format!("client-{client:05}")).collect();
        Self { number, ids: Arc::new(ids), connection }
    }

    /// A hub with clients that nobody has seen before.
    fn of_later(number: u32, clients: u32, connection: MultiplexedConnection) -> Self {
        let ids = (0..clients).map(|client| format!("client-of-hub-{number}-{client:05}")).collect();
        Self { number, ids: Arc::new(ids), connection }
    }

    async fn connect_all(&self) -> Result<(), redis::RedisError> {
        self.write(|pipe, id, now| {
            pipe.cmd("HSET").arg(format!("conn:{id}")).arg("hub").arg(self.number).arg("since").arg(now).ignore();
            pipe.cmd("ZADD").arg(INDEX).arg(now).arg(id).ignore();
        })
        .await
    }

    /// `XX`: a heartbeat refreshes only what exists, so that it never brings back half a record.
    async fn ping_all(&self) -> Result<(), redis::RedisError> {
        self.write(|pipe, id, now| _ = pipe.cmd("ZADD").arg(INDEX).arg("XX").arg(now).arg(id).ignore()).await
    }

    async fn write(&self, one: impl Fn(&mut redis::Pipeline, &str, i64)) -> Result<(), redis::RedisError> {
        let now = Clock::wall().millis();
        let mut pipe = redis::pipe();
        self.ids.iter().for_each(|id| one(&mut pipe, id, now));
        pipe.exec_async(&mut self.connection.clone()).await
    }
}

/// The heartbeats of the hubs that live.
#[derive(Default)]
struct Heartbeats {
    hubs: JoinSet<()>,
    alive: Vec<(u32, CancellationToken)>,
}

impl Heartbeats {
    fn start(&mut self, hub: Hub) {
        let killed = CancellationToken::new();
        self.alive.push((hub.number, killed.clone()));
        self.hubs.spawn(async move {
            let mut interval = tokio::time::interval(HEARTBEAT);
            // bound: until the hub is killed
            while killed.run_until_cancelled(interval.tick()).await.is_some() {
                if hub.ping_all().await.is_err() {
                    return;
                }
            }
        });
    }

    fn kill(&mut self, number: u32) {
        let dead = self.alive.extract_if(.., |(hub, _)| *hub == number);
        dead.for_each(|(_, killed)| killed.cancel());
        // bound: the hubs that have ended
        while self.hubs.try_join_next().is_some() {}
    }

    async fn stop(self) {
        self.alive.iter().for_each(|(_, killed)| killed.cancel());
        self.hubs.join_all().await;
    }
}

// === the server ===

/// A server of our own, in a directory of our own; nothing of it outlives the demonstration.
struct Server {
    program: String,
    port: u16,
    process: Child,
    _directory: TempDir,
}

impl Server {
    /// A port that was free a moment ago may be taken by now, so a few are tried.
    const TRIES: u32 = 5;

    async fn start(program: Option<PathBuf>) -> Result<Self, Error> {
        let program = match program {
            Some(program) => program.display().to_string(),
            None => SERVERS.into_iter().find(|name| is_on_path(name)).ok_or(Error::NoServer)?.to_owned(),
        };
        let mut why = String::new();
        for _ in 0..Self::TRIES {
            match Self::try_start(&program).await {
                Ok(server) => return Ok(server),
                Err(error) => why = error.to_string(),
            }
        }
        Err(Error::Server { program, why })
    }

    async fn try_start(program: &str) -> Result<Self, Error> {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let directory = TempDir::with_prefix("presence-reaper-demo-")?;
        let process = Command::new(program)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"])
            .arg("--dir")
            .arg(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let mut server = Self { program: program.to_owned(), port, process, _directory: directory };
        server.wait_until_up().await?;
        Ok(server)
    }

    async fn wait_until_up(&mut self) -> Result<(), Error> {
        let began = Clock::start();
        // bound: five seconds
        while began.now() < Monotonic::from_start(Duration::from_secs(5)) {
            if let Some(status) = self.process.try_wait()? {
                return Err(Error::Wrong(format!("it ended at once, {status}")));
            }
            if self.connect().await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(Error::Wrong("it does not answer".into()))
    }

    async fn connect(&self) -> Result<MultiplexedConnection, redis::RedisError> {
        let client = redis::Client::open(("127.0.0.1", self.port))?;
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(10)));
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        redis::cmd("PING").exec_async(&mut connection).await?;
        Ok(connection)
    }

    async fn stop(&mut self) {
        let _ = self.process.kill().await; // it may have ended by itself
    }
}

fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}
