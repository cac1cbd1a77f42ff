//! What can go wrong at the edge, by what to do about it.

use std::fmt;

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::policy::outcome::Blocked;

/// The kinds of failure: label values of metrics, and what the connection does about each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The server can't be reached, or the connection broke.
    Connect,
    /// The login was refused.
    Auth,
    /// TLS was refused, by us or by the server, or our own files for it are no good.
    Tls,
    /// No answer in time. What was sent may still run.
    Timeout,
    /// The server is a replica, or refuses writes for want of a disk or of replicas.
    ReadOnly,
    /// The server is still loading its data, or a script keeps it busy.
    Loading,
    /// A cluster redirected us.
    Cluster,
    /// Our user may not do this.
    Permission,
    /// A key holds another type than configured.
    WrongType,
    /// The server is out of memory.
    Oom,
    /// Everything else.
    Other,
}

impl Kind {
    /// Every kind, in the order of [`Self::index`].
    pub const ALL: [Self; 11] = [
        Self::Connect,
        Self::Auth,
        Self::Tls,
        Self::Timeout,
        Self::ReadOnly,
        Self::Loading,
        Self::Cluster,
        Self::Permission,
        Self::WrongType,
        Self::Oom,
        Self::Other,
    ];

    /// The kinds with which a server answers what it refuses.
    pub const REFUSALS: [Self; 6] =
        [Self::ReadOnly, Self::Loading, Self::Permission, Self::WrongType, Self::Oom, Self::Other];

    /// The name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Auth => "auth",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::ReadOnly => "readonly",
            Self::Loading => "loading",
            Self::Cluster => "cluster",
            Self::Permission => "permission",
            Self::WrongType => "wrong_type",
            Self::Oom => "oom",
            Self::Other => "other",
        }
    }

    /// The place in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The kind of an error code of Redis.
    pub(super) fn of_code(code: &str) -> Self {
        match code {
            "WRONGPASS" | "NOAUTH" => Self::Auth,
            "READONLY" | "MISCONF" | "NOREPLICAS" | "MASTERDOWN" => Self::ReadOnly,
            "LOADING" | "BUSY" => Self::Loading,
            "MOVED" | "ASK" | "TRYAGAIN" | "CLUSTERDOWN" | "CROSSSLOT" => Self::Cluster,
            "NOPERM" => Self::Permission,
            "WRONGTYPE" => Self::WrongType,
            "OOM" => Self::Oom,
            _ => Self::Other,
        }
    }

    /// Whether the trouble may well be our own (a password, a certificate, a permission, the configuration): it says
    /// nothing about Redis, and others may be served.
    pub fn is_our_own(self) -> bool {
        match self {
            Self::Auth | Self::Tls | Self::Cluster | Self::Permission | Self::WrongType | Self::Other => true,
            Self::Connect | Self::Timeout | Self::ReadOnly | Self::Loading | Self::Oom => false,
        }
    }

    /// Whether the connection can't be trusted after this: what we asked may still run, or the server is not ours.
    pub(super) fn drops_connection(self) -> bool {
        matches!(self, Self::Connect | Self::Auth | Self::Tls | Self::Timeout | Self::ReadOnly | Self::Cluster)
    }

    /// Why an entry was left whole when the server refused the call with this.
    pub(super) fn blocks(self) -> Blocked {
        match self {
            Self::WrongType => Blocked::WrongType,
            Self::Permission => Blocked::Permission,
            Self::Oom => Blocked::Oom,
            Self::ReadOnly => Blocked::ReadOnly,
            _ => Blocked::Other,
        }
    }

    fn remedy(self) -> Option<&'static str> {
        match self {
            Self::Connect => Some("is it running there? see `url` in [redis] or --redis-url"),
            Self::Auth => {
                Some("see `username`, `password` and `password_file` in [redis]; by hand, --redis-password-file")
            }
            Self::Tls => Some("see `ca_file`, `cert_file` and `server_name` in [redis]"),
            Self::Timeout => Some("the server is busy or stopped, or `response_timeout` in [redis] is too short"),
            Self::ReadOnly => Some("redis must be a master that accepts writes: see `url` in [redis]"),
            Self::Permission => Some(
                "the ACL user of [redis] needs this command and these keys: `check --connect` names all that it lacks",
            ),
            Self::WrongType => Some("see the kind of container in the source: zset, hash, set or keys"),
            Self::Cluster => Some("Redis Cluster is not supported by this version"),
            Self::Loading | Self::Oom | Self::Other => None,
        }
    }
}

/// A failure at the edge: what we were doing, with whom, what happened.
#[derive(Clone, Debug)]
pub struct Error {
    /// Its kind.
    pub kind: Kind,
    doing: String,
    server: String,
    detail: String,
    remedy: Option<String>,
}

impl Error {
    pub(crate) fn new(
        kind: Kind,
        doing: impl Into<String>,
        server: impl fmt::Display,
        detail: impl Into<String>,
    ) -> Self {
        Self { kind, doing: doing.into(), server: server.to_string(), detail: detail.into(), remedy: None }
    }

    /// With a remedy that fits better than its kind's.
    #[must_use]
    pub(super) fn with_remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }

    /// Takes an error of the client apart.
    pub(super) fn of(error: &RedisError, doing: impl Into<String>, server: impl fmt::Display) -> Self {
        Self::new(kind_of(error), doing, server, detail_of(error))
    }

    /// Whether the server was there and refused; else nobody knows what became of the request.
    pub fn is_refusal(&self) -> bool {
        Kind::REFUSALS.contains(&self.kind)
    }

    /// Whether it is a master that refuses writes for want of memory, a disk or replicas.
    pub fn is_of_writes(&self) -> bool {
        let code = self.detail.split(' ').next().unwrap_or_default();
        self.kind == Kind::Oom || matches!(code, "MISCONF" | "NOREPLICAS")
    }

    /// What Redis or the network said.
    pub fn detail(&self) -> &str {
        &self.detail
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, doing, server, detail, remedy } = self;
        write!(f, "{doing}: redis at {server}: {detail}")?;
        remedy.as_deref().or(kind.remedy()).map_or(Ok(()), |remedy| write!(f, " ({remedy})"))
    }
}

impl std::error::Error for Error {}

fn kind_of(error: &RedisError) -> Kind {
    if error.is_timeout() {
        return Kind::Timeout;
    }
    match error.kind() {
        ErrorKind::Io => Kind::Connect,
        ErrorKind::AuthenticationFailed => Kind::Auth,
        ErrorKind::Server(ServerErrorKind::BusyLoading) => Kind::Loading,
        _ => error.code().map_or(Kind::Other, Kind::of_code),
    }
}

fn detail_of(error: &RedisError) -> String {
    if error.is_timeout() {
        return "no answer in time".into();
    }
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) if code != "ERR" => format!("{code} {detail}"),
        (_, Some(detail)) => detail.to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_told_apart() {
        let table = [
            ("READONLY", Kind::ReadOnly, true),
            ("MISCONF", Kind::ReadOnly, true),
            ("NOAUTH", Kind::Auth, true),
            ("WRONGPASS", Kind::Auth, true),
            ("OOM", Kind::Oom, false),
            ("NOPERM", Kind::Permission, false),
            ("BUSY", Kind::Loading, false),
            ("LOADING", Kind::Loading, false),
            ("WRONGTYPE", Kind::WrongType, false),
            ("MOVED", Kind::Cluster, true),
            ("ERR", Kind::Other, false),
        ];
        for (code, kind, drops) in table {
            assert_eq!(Kind::of_code(code), kind, "{code}");
            assert_eq!(kind.drops_connection(), drops, "{code}");
        }
    }
}
