//! The endpoints that Prometheus, systemd and Kubernetes ask.

use std::net::SocketAddr;

/// Where the endpoints listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The address of the listener; `None` switches the endpoints off.
    pub listen: Option<SocketAddr>,
}
