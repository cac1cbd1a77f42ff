//! Waiting that ends, and ports that are free.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::panic::Location;
use std::time::Duration;

/// How long to sleep between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Ports that the kernel hands to no outgoing connection, even 10,000 higher, where a cluster node has its bus. From
/// that range a client that redials a dead server can be given the server's own port, and then talks to itself.
const PORTS: Range<u16> = 10_000..22_000;

/// Looks again and again until `holds` says yes; a panic at the caller's line when `limit` is over first.
///
/// The limit also ends a look that hangs, so `holds` may ask a server that is stopped.
#[track_caller]
pub(crate) fn eventually(limit: Duration, mut holds: impl AsyncFnMut() -> bool) -> impl Future<Output = ()> {
    let caller = Location::caller();
    async move {
        let looks = async {
            while !holds().await {
                tokio::time::sleep(PAUSE).await;
            }
        };
        if tokio::time::timeout(limit, looks).await.is_err() {
            panic!("still not so after {limit:?}: {caller}");
        }
    }
}

/// A loopback port that was free a moment ago. Another process can take it before it is used: try again then.
pub(crate) fn free_port() -> u16 {
    let span = u64::from(PORTS.end - PORTS.start);
    (0..1_000)
        .map(|_| PORTS.start + (RandomState::new().hash_one(()) % span) as u16)
        .find(|&port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
        .expect("a free port among a thousand")
}
