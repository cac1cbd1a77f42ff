//! What the connection can say of itself, as plain values that a scrape copies.

use std::time::Duration;

use crate::policy::entry::{Monotonic, Timestamp};

/// What a request is for; a label value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Identity and time.
    Info,
    /// A page of a survey.
    Scan,
    /// A re-read right before a strike.
    Read,
    /// An eviction script.
    Evict,
    /// Our own state.
    State,
    /// The lease.
    Lease,
    /// What operators order, and who obeys.
    Order,
}

impl Purpose {
    /// Every purpose, in the order of [`Self::index`].
    pub const ALL: [Self; 7] = [Self::Info, Self::Scan, Self::Read, Self::Evict, Self::State, Self::Lease, Self::Order];

    /// The name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Scan => "scan",
            Self::Read => "read",
            Self::Evict => "evict",
            Self::State => "state",
            Self::Lease => "lease",
            Self::Order => "order",
        }
    }

    /// The place in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// Why a request failed; a label value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No answer in time.
    Timeout,
    /// The connection broke or could not be made.
    Connection,
    /// Redis answered with an error.
    Server,
}

impl Failure {
    /// Every reason, in the order of [`Self::index`].
    pub const ALL: [Self; 3] = [Self::Timeout, Self::Connection, Self::Server];

    /// The name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Connection => "connection",
            Self::Server => "server",
        }
    }

    /// The place in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// Upper edges of the request durations, in seconds.
pub const DURATION_EDGES: [f64; 11] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

/// The requests of one purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Requests {
    /// Commands sent; a pipeline has many.
    pub commands: u64,
    /// Requests that failed, by [`Failure::index`].
    pub failures: [u64; Failure::ALL.len()],
    /// Requests that took no longer than each of [`DURATION_EDGES`] and longer than the one before.
    pub durations: [u64; DURATION_EDGES.len()],
    /// Requests answered.
    pub answered: u64,
    /// Seconds they took in all.
    pub seconds: f64,
}

impl Requests {
    fn add(&mut self, more: Self) {
        let sum = |sums: &mut [u64], more: &[u64]| sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        self.commands += more.commands;
        sum(&mut self.failures, &more.failures);
        sum(&mut self.durations, &more.durations);
        self.answered += more.answered;
        self.seconds += more.seconds;
    }

    pub(super) fn answered(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        self.answered += 1;
        self.seconds += seconds;
        if let Some(bucket) = DURATION_EDGES.iter().position(|edge| seconds <= *edge) {
            self.durations[bucket] += 1;
        }
    }
}

/// What kind of server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerInfo {
    /// `redis`, `valkey`, …: the server's own name for itself.
    pub implementation: String,
    /// Its version.
    pub version: String,
}

/// Whose certificate; a label value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Ours, shown to the server.
    Client,
    /// The server's.
    Server,
}

impl Role {
    /// Both, in the order of [`Self::index`].
    pub const ALL: [Self; 2] = [Self::Client, Self::Server];

    /// The name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "redis_client",
            Self::Server => "redis_server",
        }
    }

    /// The place in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// What is known of a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Certificate {
    /// There is none to know.
    #[default]
    Unused,
    /// There is one, and no dial has come so far as to see when it ends.
    Unseen,
    /// It or one it was sent with ends at this time, as seen at the last dial.
    Expires(Timestamp),
}

impl Certificate {
    pub(super) fn of(expiry: Option<Timestamp>) -> Self {
        expiry.map_or(Self::Unseen, Self::Expires)
    }

    /// The one to worry about first.
    fn sooner(self, other: Self) -> Self {
        match (self, other) {
            (Self::Expires(one), Self::Expires(other)) => Self::Expires(one.min(other)),
            (known @ Self::Expires(_), _) | (_, known @ Self::Expires(_)) => known,
            (Self::Unseen, _) | (_, Self::Unseen) => Self::Unseen,
            (Self::Unused, Self::Unused) => Self::Unused,
        }
    }
}

/// The state of a connection.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// Whether the last request was answered.
    pub up: bool,
    /// When the last answer came.
    pub answered: Option<Monotonic>,
    /// Who answered the last dial.
    pub server: Option<ServerInfo>,
    /// Connections opened since the start.
    pub connections_opened: u64,
    /// Server time minus the host's clock in milliseconds, at the last dial or survey.
    pub clock_offset_ms: Option<i64>,
    /// Requests, by [`Purpose::index`].
    pub requests: [Requests; Purpose::ALL.len()],
    /// The certificates in use, by [`Role::index`].
    pub certificates: [Certificate; Role::ALL.len()],
}

impl Status {
    /// What is left of a connection that is no more: what it counted.
    #[must_use]
    pub fn past(self) -> Self {
        let Self { connections_opened, requests, .. } = self;
        Self { up: true, connections_opened, requests, ..Self::default() }
    }

    /// The state of two connections to one server: up if both are, what was counted summed, and what can only be one
    /// thing as the connection saw it that was answered last.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        let (newer, older) = if other.answered > self.answered { (other, self) } else { (self, other) };
        let mut requests = newer.requests;
        for (sum, more) in requests.iter_mut().zip(older.requests) {
            sum.add(more);
        }
        let mut certificates = newer.certificates;
        for (one, other) in certificates.iter_mut().zip(older.certificates) {
            *one = one.sooner(other);
        }
        Self {
            up: newer.up && older.up,
            answered: newer.answered,
            server: newer.server.or(older.server),
            connections_opened: newer.connections_opened + older.connections_opened,
            clock_offset_ms: newer.clock_offset_ms.or(older.clock_offset_ms),
            requests,
            certificates,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_connections_count_together_and_are_up_together() {
        let at = |seconds| Some(Monotonic::from_start(Duration::from_secs(seconds)));
        let mut one = Status { up: true, answered: at(5), connections_opened: 2, ..Status::default() };
        one.requests[Purpose::Scan.index()].answered(Duration::from_millis(2));
        one.requests[Purpose::Scan.index()].commands = 3;
        one.certificates[Role::Server.index()] = Certificate::Expires(Timestamp::from_millis(9));
        let mut two = Status { up: true, answered: at(7), connections_opened: 1, ..Status::default() };
        two.clock_offset_ms = Some(-4);
        two.requests[Purpose::Scan.index()].answered(Duration::from_secs(2));
        two.requests[Purpose::Scan.index()].failures[Failure::Timeout.index()] = 1;
        two.certificates[Role::Server.index()] = Certificate::Expires(Timestamp::from_millis(8));

        let both = one.clone().merge(two.clone());

        assert_eq!(both, two.clone().merge(one.clone()), "in either order");
        assert_eq!((both.up, both.answered, both.connections_opened, both.clock_offset_ms), (true, at(7), 3, Some(-4)));
        let scans = both.requests[Purpose::Scan.index()];
        assert_eq!((scans.commands, scans.answered, scans.failures), (3, 2, [1, 0, 0]));
        assert_eq!((scans.durations[2], scans.durations[10]), (1, 1));
        assert_eq!(both.certificates, [Certificate::Unused, Certificate::Expires(Timestamp::from_millis(8))]);
        assert!(!one.merge(Status { up: false, ..two }).up);
    }
}
