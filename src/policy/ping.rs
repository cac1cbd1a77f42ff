//! Stored bytes → last ping, in every format that hubs are known to write.

use std::time::Duration;

use super::entry::Timestamp;

/// How a time is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Seconds since 1970, a fraction allowed.
    UnixS,
    /// Milliseconds since 1970.
    UnixMs,
    /// Microseconds since 1970.
    UnixUs,
    /// Nanoseconds since 1970.
    UnixNs,
    /// 100 ns since the year 1 (.NET `DateTime.Ticks`).
    DotnetTicks,
    /// ISO 8601 / RFC 3339 text; without a zone it is UTC.
    Iso8601,
}

/// How the times of a source are to be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// The unit whose plausible window holds the number; else ISO 8601.
    #[default]
    Auto,
    /// This unit and no other.
    Fixed(Unit),
}
