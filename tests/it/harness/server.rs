//! A private server: started on a free loopback port, killed by its handle, gone with the test.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Once, OnceLock};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisResult};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::confined;
use super::wait::free_port;

/// Names the Valkey program; `tests/run.sh` sets it.
const VALKEY: &str = "PRESENCE_REAPER_TEST_VALKEY";

/// Names another Redis than the one on the PATH; `tests/servers.sh` sets it.
const REDIS: &str = "PRESENCE_REAPER_TEST_REDIS";

/// How long a server may take from its start to its first answer.
const START_LIMIT: Duration = Duration::from_secs(20);

/// How often another port is tried when somebody else was faster.
const PORT_TRIES: usize = 5;

/// The TLS port is this much higher, still where the kernel picks none.
const TLS_OFFSET: u16 = 10_000;

/// How long the harness' own connections wait; long, since a loaded machine must not look like a fault.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs each test once on every server at hand, as `NAME::redis` and `NAME::valkey`.
///
/// The argument's type says what the test wants: a running `Server`, or the `Kind`, to start one its own way.
macro_rules! for_each_server {
    ($($(#[$meta:meta])* async fn $name:ident($($given:ident)+: $type:ty) $body:block)+) => {$(
        $(#[$meta])*
        async fn $name($($given)+: $type) $body

        mod $name {
            use super::*;
            use $crate::harness::{Given, Kind, servers};

            #[tokio::test]
            async fn redis() {
                on(Kind::Redis).await;
            }

            #[tokio::test]
            async fn valkey() {
                on(Kind::Valkey).await;
            }

            async fn on(kind: Kind) {
                if servers().contains(&kind) {
                    $name(<$type as Given>::given(kind).await).await;
                }
            }
        }
    )+};
}

/// What a test in `for_each_server!` can ask for.
pub(crate) trait Given {
    /// The thing asked for, on a server of this kind.
    async fn given(kind: Kind) -> Self;
}

impl Given for Kind {
    async fn given(kind: Kind) -> Self {
        kind
    }
}

impl Given for Server {
    async fn given(kind: Kind) -> Self {
        Self::start(kind).await
    }
}

// === Kind ===

/// Which program serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `redis-server` from the PATH, or what `PRESENCE_REAPER_TEST_REDIS` names. The tests cannot do without it.
    Redis,
    /// The Valkey that `PRESENCE_REAPER_TEST_VALKEY` names.
    Valkey,
}

impl Kind {
    /// The program to start, if it is here.
    fn program(self) -> Option<PathBuf> {
        let named = |variable: &str| env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from);
        match self {
            Self::Redis => named(REDIS).or_else(|| Some(PathBuf::from("redis-server"))),
            Self::Valkey => named(VALKEY),
        }
    }

    /// The version of its program, major and minor: `(6, 2)`.
    pub(crate) fn version(self) -> (u32, u32) {
        static REDIS: OnceLock<(u32, u32)> = OnceLock::new();
        static VALKEY: OnceLock<(u32, u32)> = OnceLock::new();
        let known = match self {
            Self::Redis => &REDIS,
            Self::Valkey => &VALKEY,
        };
        *known.get_or_init(|| self.ask_for_its_version().unwrap_or_else(|| panic!("{self:?} has no --version")))
    }

    fn ask_for_its_version(self) -> Option<(u32, u32)> {
        let said = Command::new(self.program()?).arg("--version").output().ok()?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let mut numbers = said.split_once(" v=")?.1.split('.').map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }

    /// Whether it is at least Redis 7, or Valkey: it has `ACL DRYRUN`, `COMMAND LIST`, sharded channels, and scripts can ask
    /// what they may do.
    pub(crate) fn is_modern(self) -> bool {
        self.version() >= (7, 0)
    }
}

/// The servers at hand. Says once, past the capture of the test runner, when Valkey is not among them.
pub(crate) fn servers() -> Vec<Kind> {
    static SAID: Once = Once::new();
    if Kind::Valkey.program().is_none() {
        SAID.call_once(|| {
            let _ = writeln!(io::stderr(), "valkey: left out, {VALKEY} is not set (./tests/run.sh sets it)");
        });
        return vec![Kind::Redis];
    }
    vec![Kind::Redis, Kind::Valkey]
}

// === Builder ===

/// How a server is to be started.
pub(crate) struct Builder {
    kind: Kind,
    args: Vec<String>,
    password: Option<String>,
    tls: Option<Tls>,
    movable_clock: bool,
}

/// What a server speaks TLS with, beside its plain port. Debian's Redis can; the Valkey of the wheel can't.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    /// Its certificate.
    pub(crate) cert_file: PathBuf,
    /// Its private key.
    pub(crate) key_file: PathBuf,
    /// The CA of its clients' certificates.
    pub(crate) ca_file: PathBuf,
    /// Whether it demands one of them.
    pub(crate) client_certificates: bool,
}

impl Builder {
    /// More of the server's own arguments, such as `["--maxmemory", "10mb"]`; they win over the harness'.
    pub(crate) fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// The password of the default user; it is part of `url()`.
    pub(crate) fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// A TLS port too: `tls_port()`.
    pub(crate) fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// A wall clock that `move_clock` moves.
    pub(crate) fn movable_clock(mut self) -> Self {
        self.movable_clock = true;
        self
    }

    /// Starts it and waits until it answers.
    pub(crate) async fn start(self) -> Server {
        let program = self.kind.program().unwrap_or_else(|| panic!("{VALKEY} is not set"));
        let dir = TempDir::new().expect("a private directory");
        let launch = Launch {
            kind: self.kind,
            program,
            args: self.args,
            password: self.password,
            tls: self.tls,
            movable_clock: self.movable_clock,
            dir,
        };
        launch.set_clock(0);
        for _ in 0..PORT_TRIES {
            let port = free_port();
            match launch.start(port).await {
                Ok(child) => {
                    launch.announce(port);
                    return Server { launch, port, child };
                }
                Err(Refused::PortTaken) => {}
                Err(Refused::Other(why)) => panic!("{}", why),
            }
        }
        panic!("lost {PORT_TRIES} races for a port")
    }
}

// === Launch ===

/// All that a start and a later restart have in common.
struct Launch {
    kind: Kind,
    program: PathBuf,
    args: Vec<String>,
    password: Option<String>,
    tls: Option<Tls>,
    movable_clock: bool,
    dir: TempDir,
}

/// Why a start came to nothing.
enum Refused {
    /// Somebody else bound the port first.
    PortTaken,
    /// Anything that another port would not mend.
    Other(String),
}

impl Launch {
    /// One attempt on one port, up to the first answer.
    async fn start(&self, port: u16) -> Result<Child, Refused> {
        let mut child = self.spawn(port).map_err(|e| {
            Refused::Other(format!("{}: {e} (./tests/run.sh installs what the tests need)", self.program.display()))
        })?;
        let answered = self.wait_until_it_answers(port, &mut child).await;
        if answered.is_err() {
            end(&mut child);
        }
        answered.map(|()| child)
    }

    /// Users can be made where nobody needs a password for that.
    fn announce(&self, port: u16) {
        if self.password.is_none() {
            confined::serves(port, port + TLS_OFFSET, &self.socket().to_string_lossy(), self.kind);
        }
    }

    fn spawn(&self, port: u16) -> io::Result<Child> {
        let log = File::create(self.log())?;
        let mut command = Command::new(&self.program);
        command
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--daemonize", "no"])
            .arg("--dir")
            .arg(self.dir.path())
            .args(["--save", "", "--loglevel", "notice"]);
        // Older servers let everybody debug.
        if self.kind.is_modern() {
            command.args(["--enable-debug-command", "local"]);
        }
        command.arg("--unixsocket").arg(self.socket());
        if confined::wanted() && self.password.is_none() {
            let users = self.dir.path().join("users.acl");
            File::options().append(true).create(true).open(&users)?;
            command.arg("--aclfile").arg(users);
        }
        if let Some(password) = &self.password {
            command.args(["--requirepass", password]);
        }
        if let Some(tls) = &self.tls {
            command.args(["--tls-port", &(port + TLS_OFFSET).to_string()]);
            command.arg("--tls-cert-file").arg(&tls.cert_file).arg("--tls-key-file").arg(&tls.key_file);
            command.arg("--tls-ca-cert-file").arg(&tls.ca_file);
            command.args(["--tls-auth-clients", if tls.client_certificates { "yes" } else { "no" }]);
        }
        if self.movable_clock {
            command.env("LD_PRELOAD", clock_library()).env("MOVED_CLOCK", self.clock());
        }
        command.args(&self.args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()
    }

    async fn wait_until_it_answers(&self, port: u16, child: &mut Child) -> Result<(), Refused> {
        let url = self.url(port);
        let deadline = Instant::now() + START_LIMIT;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(self.refused(status));
            }
            if answers(&url, child.id()).await.unwrap_or(false) {
                return Ok(());
            }
            sleep(Duration::from_millis(5)).await;
        }
        Err(Refused::Other(format!("no answer within {START_LIMIT:?}:\n{}", self.read_log())))
    }

    fn refused(&self, status: impl fmt::Display) -> Refused {
        let log = self.read_log();
        if log.contains("already in use") { Refused::PortTaken } else { Refused::Other(format!("{status}:\n{log}")) }
    }

    fn url(&self, port: u16) -> String {
        match &self.password {
            Some(password) => format!("redis://:{password}@127.0.0.1:{port}/0"),
            None => format!("redis://127.0.0.1:{port}/0"),
        }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    fn clock(&self) -> PathBuf {
        self.dir.path().join("clock")
    }

    /// Written in place: the server has it mapped.
    fn set_clock(&self, seconds: i64) {
        let mut file = File::options().write(true).create(true).truncate(false).open(self.clock()).expect("its clock");
        file.write_all(&seconds.to_ne_bytes()).expect("a clock that moves");
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("server.log")
    }

    fn read_log(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }
}

/// What moves a wall clock, compiled once. Whatever compiles Rust has a C compiler to link with.
fn clock_library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("moved-clock.so");
        let fresh = library.with_extension(std::process::id().to_string());
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&fresh);
        compiler.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/harness/clock.c"));
        assert!(compiler.status().expect("cc").success(), "it compiles");
        fs::rename(&fresh, &library).expect("its place");
        library
    })
}

/// Whether *this* process answers there, and not one that took its port, and has its data in memory.
async fn answers(url: &str, pid: u32) -> RedisResult<bool> {
    let mut connection = dial(url).await?;
    let info: String = redis::cmd("INFO").arg("server").query_async(&mut connection).await?;
    let pong: String = redis::cmd("PING").query_async(&mut connection).await?;
    Ok(pong == "PONG" && info.lines().any(|line| line == format!("process_id:{pid}")))
}

/// Connects with the harness' patience.
pub(super) async fn dial(url: &str) -> RedisResult<MultiplexedConnection> {
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(PATIENCE)).set_response_timeout(Some(PATIENCE));
    redis::Client::open(url)?.get_multiplexed_async_connection_with_config(&config).await
}

/// Kills by handle and reaps. The CONT first lets a stopped process go, whatever the kernel.
fn end(child: &mut Child) {
    if matches!(child.try_wait(), Ok(None)) {
        let _ = kill_process(Pid::from_child(child), Signal::CONT);
        let _ = child.kill();
        let _ = child.wait();
    }
}

// === Server ===

/// A running server and its private directory.
pub(crate) struct Server {
    launch: Launch,
    port: u16,
    child: Child,
}

impl Server {
    /// A server of this kind with the harness' own arguments only.
    pub(crate) async fn start(kind: Kind) -> Self {
        Self::builder(kind).start().await
    }

    /// A server of this kind, to be furnished first.
    pub(crate) fn builder(kind: Kind) -> Builder {
        Builder { kind, args: Vec::new(), password: None, tls: None, movable_clock: false }
    }

    /// Which program it is.
    pub(crate) fn kind(&self) -> Kind {
        self.launch.kind
    }

    /// Its port on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Its port for TLS.
    pub(crate) fn tls_port(&self) -> u16 {
        self.port + TLS_OFFSET
    }

    /// Its unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.launch.socket()
    }

    /// Its URL, with the password if there is one.
    pub(crate) fn url(&self) -> String {
        self.launch.url(self.port)
    }

    /// Its data directory.
    pub(crate) fn dir(&self) -> &Path {
        self.launch.dir.path()
    }

    /// What it has logged since it was last started.
    pub(crate) fn log(&self) -> String {
        self.launch.read_log()
    }

    /// A connection of one's own.
    pub(crate) async fn client(&self) -> MultiplexedConnection {
        dial(&self.url()).await.expect("a connection to the private server")
    }

    /// Stops it where it stands (SIGSTOP): connections stay open and nothing answers. Returns when it has stopped.
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
        let pid = Pid::from_child(&self.child);
        let options = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(pid), options).expect("the stop of a child");
    }

    /// Lets it go on (SIGCONT).
    pub(crate) fn cont(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills it (-9): what it had in memory is gone.
    pub(crate) fn kill(&mut self) {
        end(&mut self.child);
    }

    /// Kills it if it runs, and starts it again on its port and directory: the URL holds, data only if it was saved.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        for _ in 0..PORT_TRIES {
            match self.launch.start(self.port).await {
                Ok(child) => {
                    self.child = child;
                    return;
                }
                Err(Refused::PortTaken) => sleep(Duration::from_millis(200)).await,
                Err(Refused::Other(why)) => panic!("{}", why),
            }
        }
        panic!("port {} was taken meanwhile", self.port)
    }

    /// Sets its wall clock so far ahead of the host's; only with `Builder::movable_clock`. Uptime follows, as it does
    /// when somebody sets the time.
    pub(crate) fn move_clock(&self, ahead: Duration) {
        assert!(self.launch.movable_clock, "it was started with one");
        self.launch.set_clock(i64::try_from(ahead.as_secs()).expect("a moderate time"));
    }

    /// Calls by command since the start or the last reset, those inside scripts included.
    pub(crate) async fn command_stats(&self) -> BTreeMap<String, u64> {
        let info: String = redis::cmd("INFO").arg("commandstats").query_async(&mut self.client().await).await.unwrap();
        info.lines().filter_map(command_calls).collect()
    }

    /// Starts the count of commands anew.
    pub(crate) async fn reset_stats(&self) {
        redis::cmd("CONFIG").arg("RESETSTAT").exec_async(&mut self.client().await).await.unwrap();
    }

    /// Those of `command_stats` that write. One that was tried and refused is there too, with 0 calls.
    pub(crate) async fn write_commands_seen(&self) -> BTreeMap<String, u64> {
        let mut list = redis::cmd("ACL");
        list.arg("CAT").arg("write");
        let writing: BTreeSet<String> = list.query_async(&mut self.client().await).await.unwrap();
        let mut seen = self.command_stats().await;
        seen.retain(|command, _| writing.contains(command));
        seen
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a signal to a child that runs");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let asks = confined::wanted()
            && self.launch.password.is_none()
            && !std::thread::panicking()
            && matches!(self.child.try_wait(), Ok(None));
        let refused = if asks { confined::refusals(self.port) } else { Vec::new() };
        self.kill();
        assert!(refused.is_empty(), "the user of `check --acl` was refused: {refused:#?}");
    }
}

/// Reads a line like `cmdstat_get:calls=3,usec=…`.
fn command_calls(line: &str) -> Option<(String, u64)> {
    let (command, numbers) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
    let (calls, _) = numbers.split_once(',')?;
    Some((command.to_owned(), calls.parse().ok()?))
}
