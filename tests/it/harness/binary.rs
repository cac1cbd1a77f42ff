//! The program under test, as a person or a supervisor meets it.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::confined;
use super::wait::free_port;

/// How long a run that should end by itself may take.
const RUN_LIMIT: Duration = Duration::from_secs(60);

/// How long an endpoint may take to answer.
const HTTP_LIMIT: Duration = Duration::from_secs(5);

/// What the program inherits. Everything else, `PRESENCE_REAPER_*` and `NO_COLOR` first of all, would make a test
/// depend on who runs it. The profile is coverage's.
const INHERITED: [&str; 4] = ["PATH", "HOME", "TMPDIR", "LLVM_PROFILE_FILE"];

/// Owns no file, by convention.
const NOBODY: u32 = 65_534;

// === Binary ===

/// The built program with its arguments, not yet started.
pub(crate) struct Binary {
    command: Command,
    listen: Option<SocketAddr>,
}

impl Binary {
    /// `presence-reaper ARGS…`
    pub(crate) fn new<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Self {
        Self::of(Path::new(env!("CARGO_BIN_EXE_presence-reaper")), args)
    }

    /// The same for a copy of the program, as whoever owns nothing: not even a test that runs as root may do what the
    /// modes of files forbid. `None` where we are not root; then modes count for ourselves.
    pub(crate) fn as_nobody<S: AsRef<OsStr>>(dir: &Path, args: impl IntoIterator<Item = S>) -> Option<Self> {
        if !geteuid().is_root() {
            return None;
        }
        let copy = dir.join("presence-reaper");
        // By another process: a file that ours has open for writing, a child forked meanwhile has open too, and then it
        // can't be run.
        let cp = std::process::Command::new("cp").arg(env!("CARGO_BIN_EXE_presence-reaper")).arg(&copy).status();
        assert!(cp.is_ok_and(|status| status.success()), "no copy of the program at {}", copy.display());
        fs::set_permissions(dir, Permissions::from_mode(0o755)).expect("a directory of our own");
        let mut binary = Self::of(&copy, args);
        binary.command.uid(NOBODY).gid(NOBODY);
        Some(binary)
    }

    fn of<S: AsRef<OsStr>>(program: &Path, args: impl IntoIterator<Item = S>) -> Self {
        let mut command = Command::new(program);
        command.args(args).env_clear();
        command.envs(INHERITED.iter().filter_map(|&name| Some((name, env::var_os(name)?))));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        Self { command, listen: None }
    }

    /// More arguments.
    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// One variable of its environment.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Its endpoints on a free port, for `Daemon::get` and `Daemon::metric`.
    pub(crate) fn listening(self) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let mut listening = self.env("PRESENCE_REAPER_SERVER__LISTEN", &address.to_string());
        listening.listen = Some(address);
        listening
    }

    /// The bare command, for streams that lead elsewhere than into the harness.
    pub(crate) fn into_command(mut self) -> Command {
        confined::confine(&mut self.command);
        self.command
    }

    /// Runs it to its end, which must come within a minute.
    pub(crate) async fn run(self) -> Finished {
        self.spawn().wait(RUN_LIMIT).await
    }

    /// Starts it; it is killed when the value goes.
    pub(crate) fn spawn(mut self) -> Daemon {
        confined::confine(&mut self.command);
        let mut child = self.command.spawn().expect("the program starts");
        let stdout = Captured::from(child.stdout.take().expect("piped"));
        let stderr = Captured::from(child.stderr.take().expect("piped"));
        Daemon { child, stdout, stderr, listen: self.listen }
    }
}

/// How a run ended and what it said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finished {
    /// The exit code; `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    /// The data.
    pub(crate) stdout: String,
    /// The talk.
    pub(crate) stderr: String,
}

impl Finished {
    /// The exit code must be this one; else the panic shows what the program said.
    #[track_caller]
    pub(crate) fn assert_code(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// stdout as one JSON document.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}:\n{}\n{}", self.stdout, self.stderr))
    }
}

// === Daemon ===

/// The program while it runs.
pub(crate) struct Daemon {
    child: Child,
    stdout: Captured,
    stderr: Captured,
    listen: Option<SocketAddr>,
}

impl Daemon {
    /// Asks it to finish (SIGTERM).
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Any other signal: INT, or STOP and CONT for a reaper that sleeps through something.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())).expect("a program that runs");
        kill_process(pid, signal).expect("a signal to a child that runs");
    }

    /// Whether it has ended by itself, or by a signal.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_some()
    }

    /// What it has written to stdout so far.
    pub(crate) fn stdout(&self) -> String {
        self.stdout.so_far()
    }

    /// What it has written to stderr so far.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.so_far()
    }

    /// Waits for its end; a panic with what it said if that does not come within `limit`.
    pub(crate) async fn wait(mut self, limit: Duration) -> Finished {
        let Ok(status) = timeout(limit, self.child.wait()).await else {
            panic!("still running after {limit:?}\nstdout:\n{}\nstderr:\n{}", self.stdout(), self.stderr());
        };
        let code = status.expect("the status of a child").code();
        Finished { code, stdout: self.stdout.all().await, stderr: self.stderr.all().await }
    }

    /// One of its endpoints; `None` while nothing answers there.
    pub(crate) async fn get(&self, path: &str) -> Option<Reply> {
        get(self.listen.expect("started with listening()"), path).await.ok()
    }

    /// One sample of `/metrics`, such as `presence_reaper_evictions_total{source="x"}`; `None` if it is not there.
    pub(crate) async fn metric(&self, series: &str) -> Option<f64> {
        Metrics(self.get("/metrics").await?.body).value(series)
    }
}

/// What a stream has brought so far, read as it comes so that a full pipe never blocks the program.
struct Captured {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Captured {
    fn from(mut stream: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&bytes);
        let reader = tokio::spawn(async move {
            let mut chunk = [0; 8192];
            while let Ok(n @ 1..) = stream.read(&mut chunk).await {
                sink.lock().unwrap().extend_from_slice(&chunk[..n]);
            }
        });
        Self { bytes, reader }
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }

    /// Everything, once the program has ended; bounded, since a child of it could keep the pipe open.
    async fn all(self) -> String {
        let Self { bytes, reader } = self;
        let _ = timeout(Duration::from_secs(5), reader).await;
        String::from_utf8_lossy(&bytes.lock().unwrap()).into_owned()
    }
}

// === HTTP ===

/// An endpoint's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// The status code.
    pub(crate) status: u16,
    /// The body.
    pub(crate) body: String,
}

/// A GET of HTTP/1.1 over a connection of its own, as small as it can be.
pub(crate) async fn get(address: SocketAddr, path: &str) -> io::Result<Reply> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        io::Result::Ok(text)
    };
    let text = timeout(HTTP_LIMIT, exchange).await.map_err(io::Error::from)??;
    parse_reply(&text).ok_or_else(|| io::Error::other(format!("no plain HTTP/1.1 answer: {text:?}")))
}

/// Head and body apart. A chunked body is none we can read, and a sized one must be whole.
fn parse_reply(text: &str) -> Option<Reply> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let wrong_size = name.eq_ignore_ascii_case("content-length") && value.trim() != body.len().to_string();
        if wrong_size || name.eq_ignore_ascii_case("transfer-encoding") {
            return None;
        }
    }
    Some(Reply { status, body: body.to_owned() })
}

/// The text of `/metrics`.
#[derive(Clone, Debug)]
pub(crate) struct Metrics(pub(crate) String);

impl Metrics {
    /// The sample of exactly this series, its labels in alphabetical order as the exporter writes them.
    pub(crate) fn value(&self, series: &str) -> Option<f64> {
        let samples = self.0.lines().filter(|line| !line.starts_with('#'));
        let value = samples.filter_map(|line| line.strip_prefix(series)).find_map(|rest| rest.strip_prefix(' '))?;
        value.split(' ').next()?.parse().ok()
    }
}
