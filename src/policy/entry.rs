//! The nouns every room shares: a time, an id, a mark.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

/// A point on the wall clock of Redis: milliseconds since 1970-01-01 UTC.
///
/// Last pings and server times only; waiting is measured in [`Monotonic`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// A time from milliseconds since 1970-01-01 UTC.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since 1970-01-01 UTC.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Milliseconds from `earlier` to `self`; negative when `self` is the earlier one.
    pub const fn millis_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This time, `by` later.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(millis(by)))
    }

    /// This time, `by` earlier.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(millis(by)))
    }
}

/// As RFC 3339, in UTC; what no calendar reaches in milliseconds.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(at) => write!(f, "{at}"),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

/// A point on this process's monotonic clock: the time since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Monotonic(Duration);

impl Monotonic {
    /// The point `since_start` after the process began.
    pub const fn from_start(since_start: Duration) -> Self {
        Self(since_start)
    }

    /// The time since the process began.
    pub const fn since_start(self) -> Duration {
        self.0
    }

    /// The time from `earlier` to `self`, zero when `earlier` is the later one.
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// This point, `by` later.
    #[must_use]
    pub const fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by))
    }
}

/// The two clocks read together: what Redis said the time is, and when we heard it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Redis `TIME`.
    pub server: Timestamp,
    /// Our monotonic clock at that reading.
    pub mono: Monotonic,
}

impl Now {
    /// The same instant's reading carried forward to `mono`, trusting our clock for the distance.
    #[must_use]
    pub fn at(self, mono: Monotonic) -> Self {
        let server = self.server.plus(mono.since(self.mono));
        Self { server, mono }
    }

    /// What the server's clock shows, or showed, when ours is at `mono`.
    pub fn server_at(self, mono: Monotonic) -> Timestamp {
        self.server.plus(mono.since(self.mono)).minus(self.mono.since(mono))
    }

    /// When our clock will show that the server's reads `time`; now, if that has passed.
    pub fn when(self, time: Timestamp) -> Monotonic {
        let ahead = time.millis_since(self.server).max(0);
        self.mono.plus(Duration::from_millis(ahead.unsigned_abs()))
    }
}

/// Bytes as Redis holds them, shared by all that name them.
pub type Bytes = Arc<[u8]>;

/// Which entry: the key, and within a container the member or field.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId {
    /// The container's key, or the entry's own.
    pub key: Bytes,
    /// The member of a sorted set or the field of a hash; none where the key is the entry.
    pub member: Option<Bytes>,
}

impl EntryId {
    /// The entry that is a member or field of `key`.
    pub fn member(key: Bytes, member: impl Into<Bytes>) -> Self {
        Self { key, member: Some(member.into()) }
    }

    /// The entry that is the key itself.
    pub fn key(key: impl Into<Bytes>) -> Self {
        Self { key: key.into(), member: None }
    }

    /// What a person calls the entry: the member, else the key.
    pub fn name(&self) -> &[u8] {
        self.member.as_deref().unwrap_or(&self.key)
    }
}

/// What must stand still between two looks: a 64-bit hash of the raw text of the times an entry was judged by.
///
/// A collision would need a ping that hashes like the one before it (1 in 2^64) *and* would still be caught by the
/// script, which compares bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mark(u64);

impl Mark {
    /// The mark of these raw times; `None` stands for an absent one, which differs from an empty one.
    pub fn of<'a>(raw_times: impl IntoIterator<Item = Option<&'a [u8]>>) -> Self {
        let mut hasher = DefaultHasher::new();
        for raw in raw_times {
            raw.hash(&mut hasher);
        }
        Self(hasher.finish())
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_tells_absent_from_empty_and_order_from_order() {
        let mark = |times: &[Option<&[u8]>]| Mark::of(times.iter().copied());
        assert_eq!(mark(&[Some(b"1"), None]), mark(&[Some(b"1"), None]));
        assert_ne!(mark(&[None]), mark(&[Some(b"")]));
        assert_ne!(mark(&[Some(b"1"), Some(b"2")]), mark(&[Some(b"2"), Some(b"1")]));
        assert_ne!(mark(&[Some(b"12"), Some(b"3")]), mark(&[Some(b"1"), Some(b"23")]));
    }

    #[test]
    fn the_two_clocks_are_carried_forward_together() {
        let now = Now { server: Timestamp::from_millis(1_000), mono: Monotonic::from_start(Duration::from_secs(5)) };
        let later = now.at(Monotonic::from_start(Duration::from_secs(7)));
        assert_eq!(later.server.millis(), 3_000);
        assert_eq!(now.when(Timestamp::from_millis(4_000)), Monotonic::from_start(Duration::from_secs(8)));
        assert_eq!(now.when(Timestamp::from_millis(0)), now.mono, "what has passed is due now");
        assert_eq!(now.server_at(Monotonic::from_start(Duration::from_secs(8))).millis(), 4_000);
        assert_eq!(now.server_at(Monotonic::from_start(Duration::from_secs(3))).millis(), -1_000);
    }
}
