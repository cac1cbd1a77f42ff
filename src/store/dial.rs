//! Settings → one open connection, logged in; or the sentence that says why there is none.
//!
//! The stages share one deadline: address, TCP or socket, TLS, login. Where a server hangs up or says nothing, one
//! short question on a connection of its own finds out whether it speaks the other of TLS and plain.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::socket2::{SockRef, TcpKeepalive};
use redis::{AsyncConnectionConfig, ErrorKind, ProtocolVersion, RedisConnectionInfo, RedisError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::connect::{Endpoint, Password, Protocol, Settings};
use super::error::{Error, Kind};
use super::status::Certificate;
use super::tls::{self, Failed, Prepared};
use super::{files, tcp};
use crate::policy::duration::in_words;

/// Keepalive probes begin after this much quiet, and go out this often; a peer that answers none of
/// [`KEEPALIVE_PROBES`] is gone. Without them a black-holed connection was noticed only by time-outs.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;

/// Unacknowledged data kills the connection after this: a healed network is found again in seconds, not minutes.
const USER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the question may take whether a server speaks TLS or not; only a failed dial asks it.
const QUESTION_LIMIT: Duration = Duration::from_millis(500);

/// A server that says nothing to a TLS client for so long is asked whether it speaks plain.
const QUIET: Duration = Duration::from_millis(500);

const DOING: &str = "connecting";
const READING: &str = "reading the password";

/// A connection that has logged in.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) connection: MultiplexedConnection,
    /// What moves its bytes: it must not outlive the connection, even where a reply is still awaited.
    _driver: AbortOnDropHandle<()>,
    pub(super) certificates: [Certificate; 2],
}

/// Connects and logs in.
pub(super) async fn dial(settings: &Settings) -> Result<Open, Error> {
    let deadline = Instant::now() + settings.connect_timeout;
    let login = timeout_at(deadline, login_of(settings)).await.unwrap_or_else(|_| {
        let detail = format!("the file was not read within {}", in_words(settings.connect_timeout));
        Err(Error::new(Kind::Auth, READING, &settings.endpoint, detail))
    })?;
    let attempt = async |version| {
        let login = login.clone().set_protocol(version);
        Attempt { settings, deadline, login }.run().await
    };
    let opened = match settings.protocol {
        Protocol::Resp2 => attempt(ProtocolVersion::RESP2).await,
        Protocol::Resp3 => attempt(ProtocolVersion::RESP3).await,
        Protocol::Newest => match attempt(ProtocolVersion::RESP3).await {
            Err(Failure::Resp3Unknown) => attempt(ProtocolVersion::RESP2).await,
            other => other,
        },
    };
    opened.map_err(|failure| match failure {
        Failure::Error(error) => error,
        Failure::Resp3Unknown => Error::new(Kind::Other, DOING, &settings.endpoint, "it does not speak RESP3")
            .with_remedy("leave `protocol` out of the URL"),
    })
}

async fn login_of(settings: &Settings) -> Result<RedisConnectionInfo, Error> {
    // No `CLIENT SETINFO`: a refused one stands in the server's ACL LOG, and some versions know no right to grant for it.
    let mut login = RedisConnectionInfo::default().set_db(i64::from(settings.db)).set_skip_set_lib_name();
    if let Some(username) = &settings.username {
        login = login.set_username(username);
    }
    Ok(match &settings.password {
        Password::None => login,
        Password::Text(password) => login.set_password(password),
        Password::File(path) => {
            let refused = |detail| Error::new(Kind::Auth, READING, &settings.endpoint, detail);
            let secret = files::secret(path).await.map_err(refused)?;
            let no_text = |_| refused(format!("{} is not UTF-8", path.display()));
            login.set_password(String::from_utf8(secret).map_err(no_text)?)
        }
    })
}

/// Why an attempt came to nothing.
enum Failure {
    /// The server knows no `HELLO 3`.
    Resp3Unknown,
    Error(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

struct Attempt<'s> {
    settings: &'s Settings,
    deadline: Instant,
    login: RedisConnectionInfo,
}

impl Attempt<'_> {
    async fn run(&self) -> Result<Open, Failure> {
        match &self.settings.endpoint {
            Endpoint::Tcp { host, port } => self.plain(host, *port).await,
            Endpoint::Tls { host, port, tls } => self.encrypted(host, *port, tls).await,
            Endpoint::Unix(path) => self.log_in(self.socket(path).await?).await,
        }
    }

    // === ways to a stream ===

    async fn plain(&self, host: &str, port: u16) -> Result<Open, Failure> {
        let stream = self.tcp(host, port).await?;
        let peer = stream.peer_addr().ok();
        match self.log_in(stream).await {
            Err(Failure::Error(error)) if is_silence(&error) && speaks_tls(peer).await => Err(self
                .error(Kind::Tls, "it speaks TLS, and the URL says plain")
                .with_remedy("write rediss:// in `url` of [redis] or in --redis-url")
                .into()),
            other => other,
        }
    }

    async fn encrypted(&self, host: &str, port: u16, tls: &tls::Settings) -> Result<Open, Failure> {
        let prepared = timeout_at(self.deadline, Prepared::read(tls, host)).await.map_err(|_| {
            let detail = format!("the files for TLS were not read within {}", in_words(self.settings.connect_timeout));
            self.error(Kind::Tls, detail)
        })?;
        let prepared = prepared.map_err(|refusal| self.refused(refusal))?;
        let stream = self.tcp(host, port).await?;
        let peer = stream.peer_addr().ok();
        let handshake = async {
            timeout_at(self.deadline, prepared.handshake(stream))
                .await
                .unwrap_or_else(|_| Err(Failed::Broken(Kind::Timeout, self.none_in_time("TLS handshake"))))
        };
        let session = tokio::select! {
            session = handshake => session,
            () = silent_and_plain(peer) => return Err(self.speaks_plain().into()),
        };
        let session = match session {
            Ok(session) => session,
            Err(Failed::Refused(refusal)) => return Err(self.refused(refusal).into()),
            Err(Failed::Broken(..)) if speaks_plain(peer).await => return Err(self.speaks_plain().into()),
            Err(Failed::Broken(kind, detail)) => {
                if let Some(refusal) = prepared.about_ours(&detail) {
                    return Err(self.refused(refusal).into());
                }
                let remedy = "is this the TLS port of a Redis? see `url` and `connect_timeout` in [redis]";
                return Err(self.error(kind, detail).with_remedy(remedy).into());
            }
        };
        let server = Certificate::of(session.server_expiry);
        let client = tls.identity.as_ref().map_or(Certificate::Unused, |_| Certificate::of(prepared.client_expiry));
        match self.log_in(session.stream).await {
            Ok(open) => Ok(Open { certificates: [client, server], ..open }),
            Err(Failure::Error(error)) if error.kind == Kind::Connect => {
                Err(prepared.about_ours(error.detail()).map_or(error, |refusal| self.refused(refusal)).into())
            }
            Err(failure) => Err(failure),
        }
    }

    fn speaks_plain(&self) -> Error {
        let remedy = "name its TLS port in `url` of [redis], or write redis:// if the way there can be trusted";
        self.error(Kind::Tls, "it speaks plain, and the URL says TLS").with_remedy(remedy)
    }

    async fn tcp(&self, host: &str, port: u16) -> Result<TcpStream, Error> {
        let stream = tcp::connect(host, port, self.deadline).await.ok_or_else(|| self.too_late())?;
        let furnished = stream.and_then(|stream| furnish(&stream).map(|()| stream));
        furnished.map_err(|error| self.error(Kind::Connect, error.to_string()))
    }

    async fn socket(&self, path: &Path) -> Result<UnixStream, Error> {
        let stream = timeout_at(self.deadline, UnixStream::connect(path)).await.map_err(|_| self.too_late())?;
        stream.map_err(|error| {
            let (kind, detail, remedy) = match error.kind() {
                io::ErrorKind::NotFound => (
                    Kind::Connect,
                    "there is no such socket".to_owned(),
                    "is Redis running, and is this its `unixsocket`? see `url` in [redis]",
                ),
                io::ErrorKind::PermissionDenied => (
                    Kind::Permission,
                    "the reaper's user may not open this socket".to_owned(),
                    "let that user into the socket's group and directory, and set `unixsocketperm 770` on the server",
                ),
                io::ErrorKind::ConnectionRefused => (
                    Kind::Connect,
                    "nobody listens at this socket".to_owned(),
                    "is Redis running, and is this its `unixsocket`? see `url` in [redis]",
                ),
                _ => (Kind::Connect, error.to_string(), "see `url` in [redis]"),
            };
            self.error(kind, detail).with_remedy(remedy)
        })
    }

    // === login ===

    async fn log_in(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Open, Failure> {
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(self.settings.response_timeout));
        let opening = MultiplexedConnection::new_with_config(&self.login, stream, config);
        let opened = timeout_at(self.deadline, opening).await.map_err(|_| self.too_late())?;
        let (connection, driver) = opened.map_err(|error| self.login_failed(&error))?;
        let driver = AbortOnDropHandle::new(tokio::spawn(driver));
        Ok(Open { connection, _driver: driver, certificates: Default::default() })
    }

    fn login_failed(&self, error: &RedisError) -> Failure {
        let knows_no_hello = |detail: &str| detail.to_ascii_lowercase().starts_with("unknown command");
        if error.kind() == ErrorKind::RESP3NotSupported
            || error.code() == Some("NOPROTO")
            || (self.login.protocol().supports_resp3() && error.detail().is_some_and(knows_no_hello))
        {
            return Failure::Resp3Unknown;
        }
        if error.code() == Some("NOAUTH") {
            // With `HELLO` the server explains its syntax instead.
            return self.error(Kind::Auth, "NOAUTH Authentication required.").into();
        }
        if error.to_string().starts_with("Redis server refused to switch database") {
            let (db, why) = (self.settings.db, error.detail().unwrap_or("refused"));
            if why.contains("permission") {
                return self.error(Kind::Permission, format!("database {db} can't be selected: {why}")).into();
            }
            return self
                .error(Kind::Other, format!("database {db} can't be selected: {why}"))
                .with_remedy("choose another in the URL, by `db` of the source or by --db; the server's `databases` says how many it has")
                .into();
        }
        Error::of(error, DOING, &self.settings.endpoint).into()
    }

    // === sentences ===

    fn error(&self, kind: Kind, detail: impl Into<String>) -> Error {
        Error::new(kind, DOING, &self.settings.endpoint, detail)
    }

    fn refused(&self, refusal: tls::Refusal) -> Error {
        self.error(Kind::Tls, refusal.what).with_remedy(refusal.remedy)
    }

    fn too_late(&self) -> Error {
        self.error(Kind::Timeout, self.none_in_time("connection")).with_remedy(
            "the server is busy or stopped, its address is wrong, or `connect_timeout` in [redis] is too short",
        )
    }

    fn none_in_time(&self, what: &str) -> String {
        format!("no {what} within {}", in_words(self.settings.connect_timeout))
    }
}

fn furnish(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_EVERY);
    socket.set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_PROBES))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}

// === what does it speak? ===

/// Hung up, or said nothing, before its first answer.
fn is_silence(error: &Error) -> bool {
    matches!(error.kind, Kind::Connect | Kind::Timeout)
}

/// Ends when a server that has kept quiet for a while turns out to speak plain: it waits for the end of a line.
async fn silent_and_plain(peer: Option<SocketAddr>) {
    tokio::time::sleep(QUIET).await;
    if !speaks_plain(peer).await {
        std::future::pending::<()>().await;
    }
}

async fn speaks_tls(peer: Option<SocketAddr>) -> bool {
    match tls::client_hello() {
        Some(hello) => first_answer(peer, &hello).await.is_some_and(tls::is_tls),
        None => false,
    }
}

async fn speaks_plain(peer: Option<SocketAddr>) -> bool {
    first_answer(peer, b"PING\r\n").await.is_some_and(|first| matches!(first, b'+' | b'-'))
}

/// The first byte that a server answers to this, on a connection of its own.
async fn first_answer(peer: Option<SocketAddr>, question: &[u8]) -> Option<u8> {
    let peer = peer?;
    let asking = async {
        let mut stream = TcpStream::connect(peer).await?;
        stream.write_all(question).await?;
        stream.read_u8().await
    };
    timeout(QUESTION_LIMIT, asking).await.ok()?.ok()
}
