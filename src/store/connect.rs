//! Endpoint → a supervised connection.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Where Redis is and who we are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where to dial.
    pub endpoint: Endpoint,
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
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
        }
    }
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
