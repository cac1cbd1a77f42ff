//! A TCP connection to a host of several addresses, of which some may be dead.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// A name with more addresses than this is tried by the first of them.
const MOST_ADDRESSES: usize = 16;

/// An address that has not accepted by then waits no longer alone: the next is tried beside it (RFC 8305).
const HEAD_START: Duration = Duration::from_millis(250);

/// The first address of the host that accepts; `None` if that takes until the deadline.
///
/// One that says nothing does not eat the others' time: they are tried one behind the other with a short head start
/// each, so that the last of them still has half of the time that there was, and one that refuses makes way at once.
pub async fn connect(host: &str, port: u16, deadline: Instant) -> Option<io::Result<TcpStream>> {
    let connecting = async { first_of(in_turn(lookup_host((host, port)).await?), deadline).await };
    timeout_at(deadline, connecting).await.ok()
}

/// IPv6 and IPv4 in turn, beginning with what the system would begin with: often it is one of the two that is dead.
fn in_turn(addresses: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let addresses: Vec<SocketAddr> = addresses.collect();
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let length = first.len().max(second.len());
    (0..length).flat_map(|at| [first.get(at), second.get(at)]).flatten().take(MOST_ADDRESSES).copied().collect()
}

async fn first_of(addresses: Vec<SocketAddr>, deadline: Instant) -> io::Result<TcpStream> {
    let half = deadline.saturating_duration_since(Instant::now()) / 2;
    let head_start = (half / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1)).min(HEAD_START);
    let mut waiting = addresses.into_iter();
    let mut attempts = JoinSet::new();
    let mut first_error = None;
    // bound: every turn but the last begins with an address, or ends an attempt
    loop {
        match waiting.next() {
            Some(address) => _ = attempts.spawn(TcpStream::connect(address)),
            None if attempts.is_empty() => break,
            None => {}
        }
        let alone = tokio::time::sleep(head_start);
        let ended = tokio::select! {
            ended = attempts.join_next() => ended,
            () = alone, if waiting.len() > 0 => continue,
        };
        match ended.map(|attempt| attempt.unwrap_or_else(|error| Err(error.into()))) {
            Some(Ok(stream)) => return Ok(stream),
            Some(Err(error)) => first_error = first_error.or(Some(error)),
            None => {}
        }
    }
    Err(first_error.unwrap_or_else(|| io::Error::other("its name has no address")))
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn soon() -> Instant {
        Instant::now() + LIMIT
    }

    async fn listening() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// An address that neither accepts nor refuses, as long as these are kept: its queue is full.
    async fn dead() -> (TcpListener, Vec<TcpStream>, SocketAddr) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut filling = Vec::new();
        while let Ok(stream) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
            filling.push(stream.unwrap());
            assert!(filling.len() < 100, "its queue has no end");
        }
        (listener, filling, address)
    }

    async fn refusing() -> SocketAddr {
        listening().await.1
    }

    #[tokio::test]
    async fn a_dead_address_leaves_time_for_those_behind_it() {
        let (_deaf, _filling, dead) = dead().await;
        let (_listener, alive) = listening().await;
        for addresses in [vec![dead, alive], vec![dead, dead, dead, alive], vec![refusing().await, dead, alive]] {
            let found = timeout_at(soon(), first_of(addresses, soon())).await.expect("not all of the time");
            assert_eq!(found.unwrap().peer_addr().unwrap(), alive);
        }
    }

    #[tokio::test]
    async fn who_refuses_makes_way_and_the_first_refusal_is_told() {
        let (_listener, alive) = listening().await;
        let found = first_of(vec![refusing().await, alive], soon()).await;
        assert_eq!(found.unwrap().peer_addr().unwrap(), alive);
        let refused = first_of(vec![refusing().await, refusing().await], soon()).await;
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert!(first_of(Vec::new(), soon()).await.unwrap_err().to_string().contains("no address"));
    }

    #[tokio::test]
    async fn the_dead_alone_last_until_the_deadline() {
        let (_deaf, _filling, dead) = dead().await;
        assert!(connect("127.0.0.1", dead.port(), Instant::now() + Duration::from_millis(200)).await.is_none());
    }

    #[test]
    fn the_two_kinds_take_turns() {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let mixed = parse(&["[::1]:1", "[::2]:1", "[::3]:1", "127.0.0.1:1", "127.0.0.2:1"]);
        let turns = parse(&["[::1]:1", "127.0.0.1:1", "[::2]:1", "127.0.0.2:1", "[::3]:1"]);
        assert_eq!(in_turn(mixed.into_iter()), turns);
        let many = (1..=40).map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        assert_eq!(in_turn(many).len(), MOST_ADDRESSES);
    }
}
