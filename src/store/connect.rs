//! Settings → a supervised connection, and all those of a process.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::Value;
use redis::aio::ConnectionLike;

use super::dial::{self, Open};
use super::error::{Error, Kind};
use super::reply::{self, Unexpected};
use super::standing::{self, Refusals, Standing, Tracker};
use super::status::{Certificate, Failure, Purpose, Role, ServerInfo, Status};
use super::tls;
use crate::clock::Clock;
use crate::policy::continuity::Identity;
use crate::policy::entry::{Monotonic, Now};
use crate::policy::load::Load;
use crate::policy::schedule;

/// Where Redis is and who we are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where to dial.
    pub endpoint: Endpoint,
    /// What is spoken there.
    pub protocol: Protocol,
    /// The database number.
    pub db: u16,
    /// The ACL user; the `default` user if none.
    pub username: Option<String>,
    /// Where the password comes from.
    pub password: Password,
    /// How long a dial may take, login included.
    pub connect_timeout: Duration,
    /// How long a reply may take.
    pub response_timeout: Duration,
}

/// An address to dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Plain TCP.
    Tcp {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// TLS over TCP.
    Tls {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
        /// Whom we trust there, and who we are.
        tls: tls::Settings,
    },
    /// A unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Tls { host, port, .. } => write!(f, "{} over TLS", Self::Tcp { host: host.clone(), port: *port }),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Endpoint {
    /// Whether the two are the same address: whom we trust there, and how the connection is kept from others, aside.
    pub fn leads_where(&self, other: &Self) -> bool {
        let address = |endpoint: &Self| match endpoint {
            Self::Tcp { host, port } | Self::Tls { host, port, .. } => (Some((host.clone(), *port)), None),
            Self::Unix(path) => (None, Some(path.clone())),
        };
        address(self) == address(other)
    }
}

/// Which version of the protocol is spoken. Both say the same to us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// RESP3 where the server knows it, else RESP2.
    #[default]
    Newest,
    /// RESP2.
    Resp2,
    /// RESP3, or no connection.
    Resp3,
}

/// Where the password comes from. Never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Password {
    /// None is sent.
    #[default]
    None,
    /// From the configuration file or the environment.
    Text(String),
    /// Read from this file at every dial, a trailing line break cut off.
    File(PathBuf),
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Text(_) => f.write_str("Text(…)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

const ASKING: &str = "asking who is there";

/// One supervised connection to one database of one master.
///
/// The client's own managers stay broken after a refused login, keep a socket that only times out, and go on writing
/// to a demoted master; so we dial ourselves, ask who answered, and drop the connection whenever it can't be trusted.
#[derive(Debug)]
pub struct Link {
    settings: Settings,
    clock: Clock,
    dialled: tokio::sync::Mutex<Dialled>,
    status: Mutex<Status>,
    tracker: Arc<Mutex<Tracker>>,
}

#[derive(Debug, Default)]
struct Dialled {
    live: Option<Arc<Live>>,
    failures: u32,
    refused: Option<(Monotonic, Error)>,
}

/// The connections of a process: one for each database in use, all to the same server.
#[derive(Clone, Debug)]
pub struct Links {
    endpoint: Endpoint,
    links: Vec<Arc<Link>>,
    tracker: Arc<Mutex<Tracker>>,
    /// What those before them counted.
    before: Status,
}

impl Links {
    /// No connection yet.
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, links: Vec::new(), tracker: Arc::default(), before: Status::default().past() }
    }

    /// The same after others: what was counted goes on, and so does what was concluded of a server at the same address.
    #[must_use]
    pub fn after(self, others: &Self) -> Self {
        let same = self.endpoint.leads_where(&others.endpoint);
        let tracker = if same { Arc::clone(&others.tracker) } else { self.tracker };
        Self { tracker, before: others.status().past(), ..self }
    }

    /// The connection that `settings` describe, as there is one for each database.
    pub fn to(&mut self, settings: Settings, clock: Clock) -> Arc<Link> {
        if let Some(link) = self.links.iter().find(|link| link.settings == settings) {
            return Arc::clone(link);
        }
        let link = Arc::new(Link::beside(settings, clock, Arc::clone(&self.tracker)));
        self.links.push(Arc::clone(&link));
        link
    }

    /// Where they lead.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The state of them all: up only if each is, the counters summed.
    pub fn status(&self) -> Status {
        let now = self.links.iter().map(|link| link.status()).reduce(Status::merge).unwrap_or_default();
        now.merge(self.before.clone())
    }

    /// Whether Redis stores what hubs want stored, as far as our own requests have shown.
    pub fn standing(&self) -> Standing {
        self.tracker.lock().unwrap_or_else(PoisonError::into_inner).standing()
    }
}

/// A connection that answered, and who it was.
#[derive(Debug)]
pub(super) struct Live {
    open: Open,
    /// Tells it from every other connection, those of earlier processes too.
    number: u64,
    /// Set by whoever finds that it can't be trusted. A flag and no lock: the greeting is part of a dial, and may find so.
    dropped: AtomicBool,
    pub(super) identity: Identity,
    /// Whether scripts carry a `#!lua` header: known from Redis 7 on.
    pub(super) lua_header: bool,
}

impl Live {
    /// The next request dials anew.
    fn give_up(&self) {
        self.dropped.store(true, Ordering::Relaxed);
    }
}

/// What `INFO` says when we ask who is there.
#[derive(Clone, Debug)]
pub struct Health {
    /// Which process, and which history of its data.
    pub identity: Identity,
    /// When it said so.
    pub now: Now,
    /// How long it has been running by its own wall clock; unknown where `INFO` is denied.
    pub uptime: Option<Duration>,
    /// How many writes of anybody it has refused, since its start or the last reset; unknown where `INFO` is denied.
    pub refusals: Option<u64>,
    /// How many keys of anybody it has dropped to make room; unknown where `INFO` is denied.
    pub dropped: Option<u64>,
    /// What it says of its load.
    pub load: Load,
}

impl Link {
    /// A connection that will be dialled when it is first needed: starting does not depend on Redis being up.
    pub fn new(settings: Settings, clock: Clock) -> Self {
        Self::beside(settings, clock, Arc::default())
    }

    /// Such a connection beside others to the same server, which draw one conclusion about it together.
    fn beside(settings: Settings, clock: Clock, tracker: Arc<Mutex<Tracker>>) -> Self {
        let mut status = Status::default();
        if let Endpoint::Tls { tls, .. } = &settings.endpoint {
            status.certificates[Role::Server.index()] = Certificate::Unseen;
            if tls.identity.is_some() {
                status.certificates[Role::Client.index()] = Certificate::Unseen;
            }
        }
        Self { settings, clock, dialled: Default::default(), status: Mutex::new(status), tracker }
    }

    /// Where it leads.
    pub fn endpoint(&self) -> &Endpoint {
        &self.settings.endpoint
    }

    /// Whether the two lead to the same database of the same address.
    pub fn leads_where(&self, other: &Self) -> bool {
        let (one, other) = (&self.settings, &other.settings);
        one.db == other.db && one.endpoint.leads_where(&other.endpoint)
    }

    /// The time of the process's clock.
    pub(super) fn time(&self) -> Monotonic {
        self.clock.now()
    }

    /// The number of its database.
    pub fn database(&self) -> u16 {
        self.settings.db
    }

    /// The state of the connection, for metrics.
    pub fn status(&self) -> Status {
        self.locked_status().clone()
    }

    /// When a dial may be tried again; now, unless the last one failed a moment ago.
    pub async fn retry_at(&self) -> Monotonic {
        let refused = self.dialled.lock().await.refused.as_ref().map(|(until, _)| *until);
        refused.unwrap_or_default().max(self.clock.now())
    }

    fn locked_status(&self) -> std::sync::MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tracker(&self) -> std::sync::MutexGuard<'_, Tracker> {
        self.tracker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The live connection, dialled if there is none. Within the wait after a failed dial, that dial's error.
    pub(super) async fn live(&self) -> Result<Arc<Live>, Error> {
        let mut dialled = self.dialled.lock().await;
        dialled.live.take_if(|live| live.dropped.load(Ordering::Relaxed));
        if let Some(live) = &dialled.live {
            return Ok(Arc::clone(live));
        }
        if let Some((until, error)) = &dialled.refused
            && self.clock.now() < *until
        {
            return Err(error.clone());
        }
        let began = self.clock.now();
        match self.dial().await {
            Ok(live) => {
                let live = Arc::new(live);
                *dialled = Dialled { live: Some(Arc::clone(&live)), ..Default::default() };
                Ok(live)
            }
            Err(error) => {
                self.tracker().failed(began, self.clock.now(), &error);
                dialled.failures += 1;
                let wait = schedule::backoff(dialled.failures, fastrand::f64());
                dialled.refused = Some((self.clock.now().plus(wait), error.clone()));
                self.locked_status().up = false;
                Err(error)
            }
        }
    }

    async fn dial(&self) -> Result<Live, Error> {
        let open = dial::dial(&self.settings).await?;
        {
            let mut status = self.locked_status();
            status.connections_opened += 1;
            status.certificates = open.certificates;
        }
        let dropped = AtomicBool::new(false);
        let number = fastrand::u64(..);
        let mut live = Live { open, number, dropped, identity: Identity::default(), lua_header: true };
        let greeting = self.greet(&live).await?;
        live.identity = greeting.health.identity;
        live.lua_header = match greeting.lua_header {
            Some(known) => known,
            None => self.knows_headers(&live).await?,
        };
        self.locked_status().server = greeting.server;
        Ok(live)
    }

    /// Tries, where `INFO` is denied: a script that does not compile never evicts anybody.
    async fn knows_headers(&self, live: &Live) -> Result<bool, Error> {
        let mut commands = redis::pipe();
        commands.cmd("EVAL").arg("#!lua\nreturn 1").arg(0);
        let [reply] = self.exactly(ASKING, self.ask(live, Purpose::Info, ASKING, &commands).await?)?;
        let refused = |text: &str| text.contains("compiling");
        Ok(!matches!(&reply, Value::ServerError(error) if error.details().is_some_and(refused)))
    }

    /// Asks who is there and what time it is. Promotion and demotion keep connections open, so a server that is no
    /// longer the one we dialled costs us the connection; the next one knows it for what it is.
    pub(super) async fn health(&self, live: &Live) -> Result<Health, Error> {
        let health = self.greet(live).await?.health;
        if health.identity == live.identity {
            return Ok(health);
        }
        Err(self.failed_over(live, ASKING))
    }

    /// Asks, right before a strike, whether it is still the master it was when we dialled: demotion and promotion leave
    /// connections and their run id alone. Where `INFO` is denied, nobody can tell.
    pub(super) async fn unchanged(&self, live: &Live) -> Result<(), Error> {
        let mut commands = redis::pipe();
        commands.cmd("INFO").arg("replication");
        let [told] = self.exactly(ASKING, self.ask(live, Purpose::Info, ASKING, &commands).await?)?;
        let Some(facts) = info(told) else { return Ok(()) };
        self.is_master(live, &facts)?;
        if facts.get("master_replid").is_none_or(|id| *id == live.identity.replication_id) {
            return Ok(());
        }
        Err(self.failed_over(live, ASKING))
    }

    fn failed_over(&self, live: &Live, doing: &str) -> Error {
        live.give_up();
        self.error(Kind::Other, doing, "the server failed over since the reaper connected")
    }

    fn is_master(&self, live: &Live, facts: &HashMap<String, String>) -> Result<(), Error> {
        let Some(role) = facts.get("role").filter(|role| *role != "master") else { return Ok(()) };
        live.give_up();
        let error = self.error(Kind::ReadOnly, ASKING, format!("its role is {role}, not master"));
        let now = self.clock.now();
        self.tracker().failed(now, now, &error);
        Err(error)
    }

    async fn greet(&self, live: &Live) -> Result<Greeting, Error> {
        let doing = ASKING;
        let mut commands = redis::pipe();
        commands.cmd("TIME");
        // The default sections: before Redis 7 it takes one section or these, and all of them are a few kilobytes.
        commands.cmd("INFO");
        let sent = self.clock.now();
        let replies = self.ask(live, Purpose::Info, doing, &commands).await?;
        let round_trip = self.clock.now().since(sent);
        let [time, told] = self.exactly(doing, replies)?;
        let now = self.now(doing, time)?;
        self.locked_status().clock_offset_ms = Some(now.server.millis_since(Clock::wall()));
        let told = info(told);
        let refusals = told.as_ref().map(Refusals::read);
        // INFO denied: we can't tell one process from the next, so every connection counts as another.
        let counted = told.as_ref().map(standing::refused_writes);
        let facts =
            told.unwrap_or_else(|| HashMap::from([("run_id".to_owned(), format!("connection {:016x}", live.number))]));
        self.is_master(live, &facts)?;
        self.tracker().looked(refusals, now.mono);
        let mut greeting = Greeting::read(&facts, now, counted);
        greeting.health.load.round_trip = round_trip;
        Ok(greeting)
    }

    /// Sends commands in one go and waits for all the replies. An error reply of a single command is left in its
    /// place; an error of the connection fails the whole, and drops the connection where it can't be trusted.
    pub(super) async fn ask(
        &self,
        live: &Live,
        purpose: Purpose,
        doing: &str,
        commands: &redis::Pipeline,
    ) -> Result<Vec<Value>, Error> {
        let count = commands.len();
        let sent = self.clock.now();
        let answer = live.open.connection.clone().req_packed_commands(commands, 0, count).await;
        let took = self.clock.now().since(sent);
        let answer =
            answer.map_err(|error| Error::of(&error, doing, &self.settings.endpoint)).and_then(|replies| match replies
                .iter()
                .find_map(fatal)
            {
                Some((kind, detail)) => Err(self.error(kind, doing, detail)),
                None => Ok(replies),
            });
        self.note(purpose, count, took, answer.as_ref().err());
        match &answer {
            Ok(replies) => self.heard(sent, doing, replies),
            Err(error) => self.tracker().failed(sent, self.clock.now(), error),
        }
        if answer.as_ref().is_err_and(|error| error.kind.drops_connection()) {
            live.give_up();
        }
        answer
    }

    fn note(&self, purpose: Purpose, commands: usize, took: Duration, error: Option<&Error>) {
        let mut status = self.locked_status();
        let failure = error.map(|error| match error.kind {
            Kind::Timeout => Failure::Timeout,
            Kind::Connect => Failure::Connection,
            _ => Failure::Server,
        });
        if failure.is_none() {
            status.answered = Some(self.clock.now());
        }
        status.up = !matches!(failure, Some(Failure::Timeout | Failure::Connection));
        let requests = &mut status.requests[purpose.index()];
        requests.commands += commands as u64;
        match failure {
            Some(failure) => requests.failures[failure.index()] += 1,
            None => requests.answered(took),
        }
    }

    /// Being out of memory is no matter of one command either, but others are still answered.
    fn heard(&self, sent: Monotonic, doing: &str, replies: &[Value]) {
        let mut tracker = self.tracker();
        tracker.answered();
        if let Some(detail) = replies.iter().find_map(out_of_memory) {
            tracker.failed(sent, self.clock.now(), &self.error(Kind::Oom, doing, detail));
        }
    }

    /// Server time from the reply of `TIME`, with our clock beside it.
    pub(super) fn now(&self, doing: &str, time: Value) -> Result<Now, Error> {
        let server = reply::time(time).map_err(|unexpected| self.unexpected(doing, unexpected))?;
        Ok(Now { server, mono: self.clock.now() })
    }

    /// Our clock.
    pub(super) fn mono(&self) -> Monotonic {
        self.clock.now()
    }

    /// As many replies as commands were sent.
    pub(super) fn exactly<const N: usize>(&self, doing: &str, replies: Vec<Value>) -> Result<[Value; N], Error> {
        let found = replies.len();
        replies.try_into().map_err(|_| self.error(Kind::Other, doing, format!("expected {N} replies, got {found}")))
    }

    pub(super) fn error(&self, kind: Kind, doing: impl Into<String>, detail: impl Into<String>) -> Error {
        Error::new(kind, doing, &self.settings.endpoint, detail)
    }

    pub(super) fn unexpected(&self, doing: &str, unexpected: Unexpected) -> Error {
        self.error(unexpected.kind, doing, unexpected.detail)
    }
}

/// An error reply that says something about the server rather than about one command.
fn fatal(reply: &Value) -> Option<(Kind, String)> {
    let Value::ServerError(error) = reply else { return None };
    let kind = Kind::of_code(error.code());
    let fatal = matches!(kind, Kind::Auth | Kind::ReadOnly | Kind::Loading | Kind::Cluster);
    fatal.then(|| (kind, format!("{} {}", error.code(), error.details().unwrap_or_default())))
}

fn out_of_memory(reply: &Value) -> Option<String> {
    let Value::ServerError(error) = reply else { return None };
    (Kind::of_code(error.code()) == Kind::Oom).then(|| format!("OOM {}", error.details().unwrap_or_default()))
}

/// The facts in a reply of `INFO`; none where it is denied.
pub(super) fn info(reply: Value) -> Option<HashMap<String, String>> {
    let text = String::from_utf8(reply::some_bytes(reply).ok()?).ok()?;
    let facts = text.lines().filter_map(|line| line.split_once(':'));
    Some(facts.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
}

/// Which server it is. Valkey and Redict report redis_version 7.2.4 whatever their own version is.
pub(super) fn server_of(facts: &HashMap<String, String>) -> Option<ServerInfo> {
    let own = |name: &str| Some((name.to_owned(), facts.get(&format!("{name}_version"))?.clone()));
    let server = facts.get("server_name").and_then(|name| own(name)).or_else(|| own("redis"));
    server.map(|(implementation, version)| ServerInfo { implementation, version })
}

/// What `INFO` says of the load. A replica's line is `slave0:ip=…,port=…,state=online,offset=…,lag=0`.
fn load(facts: &HashMap<String, String>) -> Load {
    let number = |name: &str| facts.get(name).and_then(|text| text.parse::<u64>().ok());
    let connected = number("connected_slaves").unwrap_or(0).min(MAX_REPLICAS);
    let lag = |nth: u64| {
        let line = facts.get(&format!("slave{nth}"))?;
        let part = |name: &str| line.split(',').find_map(|part| part.strip_prefix(name));
        let seconds = part("lag=").filter(|_| part("state=") == Some("online"))?.parse().ok()?;
        Some(Duration::from_secs(seconds))
    };
    // Whoever lets Redis drop keys to make room runs it full on purpose.
    let keeps_all = facts.get("maxmemory_policy").is_some_and(|policy| policy == "noeviction");
    let limit = number("maxmemory").filter(|limit| *limit > 0 && keeps_all);
    let memory = number("used_memory").zip(limit);
    Load {
        round_trip: Duration::ZERO,
        replicas: (0..connected).map(lag).collect(),
        memory,
        lazyfree: number("lazyfree_pending_objects").unwrap_or(0),
    }
}

/// More replicas of one master than this are not looked at.
const MAX_REPLICAS: u64 = 100;

struct Greeting {
    health: Health,
    server: Option<ServerInfo>,
    /// None where the version is not told.
    lua_header: Option<bool>,
}

impl Greeting {
    fn read(facts: &HashMap<String, String>, now: Now, refusals: Option<u64>) -> Self {
        let fact = |name: &str| facts.get(name).cloned();
        let identity = Identity {
            run_id: fact("run_id").unwrap_or_default(),
            replication_id: fact("master_replid").unwrap_or_default(),
        };
        let uptime = fact("uptime_in_seconds").and_then(|text| text.parse().ok()).map(Duration::from_secs);
        let server = server_of(facts);
        let major = fact("redis_version").and_then(|version| version.split('.').next()?.parse::<u32>().ok());
        let load = load(facts);
        let dropped = fact("evicted_keys").and_then(|text| text.parse().ok());
        Self {
            health: Health { identity, now, uptime, refusals, dropped, load },
            server,
            lua_header: major.map(|major| major >= 7),
        }
    }
}
