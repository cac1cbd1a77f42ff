//! A bad network on demand: a TCP proxy between the program under test and its server.

use std::borrow::Cow;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::confined;
use super::wait::free_port;

/// How a script call begins on the wire, as the redis crate writes it.
const SCRIPT_CALLS: [&[u8]; 2] = [b"\r\n$7\r\nEVALSHA\r\n", b"\r\n$4\r\nEVAL\r\n"];

/// The longest of them, less one byte: what must be kept of a chunk to see one that straddles two.
const STRADDLE: usize = SCRIPT_CALLS[0].len() - 1;

/// What the network does now. Every mode holds for the connections that are open, and for new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Forwards everything.
    Pass,
    /// Accepts and swallows everything, without a word. A connection that lost bytes so stays dumb for ever, as after a
    /// firewall has forgotten it; a new one works as soon as the mode has changed.
    BlackHole,
    /// Cuts what is open and refuses what comes.
    Refuse,
    /// Holds one direction back; what was held arrives when the mode changes.
    Stall(Direction),
    /// Forwards everything so much later. Whole chunks wait in line, so throughput suffers too.
    Delay(Duration),
    /// Forwards so many more bytes of replies, all connections together; then cuts each at its next reply.
    CutAfter(usize),
    /// Forwards the next EVALSHA or EVAL, and loses the reply once the server has given it: the script *has run*.
    /// NOSCRIPT is no such reply. Everything else passes, the next script too. Meant for a connection with one request
    /// on its way: of several, the reply that comes first is the one that is lost.
    LoseScriptReply(AfterLoss),
    /// Forwards everything, but wherever the first of a pair stands in a request, the second goes in its place; the two
    /// are of one length, so that the protocol's own counts stay true.
    Rewrite(&'static [(&'static str, &'static str)]),
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the client to the server.
    Requests,
    /// From the server to the client.
    Replies,
}

/// What becomes of a connection whose reply was lost. It can never work again: replies have no numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterLoss {
    /// It is cut.
    Cut,
    /// It stays open and dumb.
    Silence,
}

/// A running proxy; it ends, with all its connections, when the value goes.
pub(crate) struct Proxy {
    port: u16,
    line: Arc<Line>,
    _accepting: AbortOnDropHandle<()>,
}

/// What all connections share.
struct Line {
    server: SocketAddr,
    mode: watch::Sender<Mode>,
    reply_budget: AtomicUsize,
    lost_replies: AtomicUsize,
}

impl Proxy {
    /// A proxy to this loopback port, passing everything.
    pub(crate) async fn start(server_port: u16) -> Self {
        let listener = listen_on_a_free_port().await;
        let port = listener.local_addr().expect("an address").port();
        confined::leads(port, server_port);
        let line = Arc::new(Line {
            server: SocketAddr::from((Ipv4Addr::LOCALHOST, server_port)),
            mode: watch::Sender::new(Mode::Pass),
            reply_budget: AtomicUsize::new(0),
            lost_replies: AtomicUsize::new(0),
        });
        let accepting = tokio::spawn(accept(Some(listener), port, Arc::clone(&line)));
        Self { port, line, _accepting: AbortOnDropHandle::new(accepting) }
    }

    /// Its port on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The URL of the server behind it.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Changes the network's mood.
    pub(crate) fn set(&self, mode: Mode) {
        if let Mode::CutAfter(bytes) = mode {
            self.line.reply_budget.store(bytes, Ordering::SeqCst);
        }
        self.line.mode.send_replace(mode);
    }

    /// How many replies of scripts `LoseScriptReply` has lost.
    pub(crate) fn lost_replies(&self) -> usize {
        self.line.lost_replies.load(Ordering::SeqCst)
    }
}

async fn listen_on_a_free_port() -> TcpListener {
    for _ in 0..20 {
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, free_port())).await {
            return listener;
        }
    }
    panic!("lost twenty races for a port")
}

/// Accepts for ever. Only a port without a listener refuses, so `Refuse` gives the listener up and takes it back after.
async fn accept(mut listener: Option<TcpListener>, port: u16, line: Arc<Line>) {
    let mut mode = line.mode.subscribe();
    let mut connections = JoinSet::new();
    loop {
        if *mode.borrow_and_update() == Mode::Refuse {
            listener = None;
            connections.shutdown().await;
        } else if listener.is_none() {
            listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.ok();
        }
        let Some(open) = &listener else {
            // Refusing, or waiting for the port: another process may hold it for a moment.
            let _ = tokio::time::timeout(Duration::from_millis(50), mode.changed()).await;
            continue;
        };
        tokio::select! {
            _ = mode.changed() => {}
            Some(_) = connections.join_next() => {}
            Ok((client, _)) = open.accept() => {
                connections.spawn(serve(client, Arc::clone(&line)));
            }
        }
    }
}

/// One connection, until either end closes it or the mode cuts it.
async fn serve(client: TcpStream, line: Arc<Line>) {
    let Ok(server) = TcpStream::connect(line.server).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let connection = Connection { line, dumb: AtomicBool::new(false), script: Mutex::new(None) };
    tokio::select! {
        () = connection.pump(Direction::Requests, from_client, to_server) => {}
        () = connection.pump(Direction::Replies, from_server, to_client) => {}
    }
}

/// What the two directions of one connection share.
struct Connection {
    line: Arc<Line>,
    /// Bytes were swallowed: nothing may pass any more.
    dumb: AtomicBool,
    /// A script is on its way whose reply is to be lost.
    script: Mutex<Option<AfterLoss>>,
}

/// What becomes of a chunk.
enum Fate {
    Forward,
    Swallow,
    /// So many bytes pass, then the connection is cut.
    CutAfter(usize),
}

impl Connection {
    async fn pump(&self, direction: Direction, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut chunk = vec![0; 64 * 1024];
        let mut tail = Vec::new();
        let mut held = Vec::new();
        while let Ok(n @ 1..) = from.read(&mut chunk).await {
            let rewritten = self.rewritten(direction, &chunk[..n], &mut held);
            let chunk = &rewritten[..];
            let (passing, cut) = match self.fate(direction, chunk, &mut tail).await {
                Fate::Forward => (chunk, false),
                Fate::Swallow => (&chunk[..0], false),
                Fate::CutAfter(bytes) => (&chunk[..bytes], true),
            };
            if to.write_all(passing).await.is_err() || cut {
                return;
            }
        }
        // The end of the server's stream is silent too, where everything is.
        if direction == Direction::Replies && self.is_dumb() {
            std::future::pending().await
        }
    }

    /// Applies the mode; returns when the chunk's time has come.
    async fn fate(&self, direction: Direction, chunk: &[u8], tail: &mut Vec<u8>) -> Fate {
        let mut mode = self.line.mode.subscribe();
        let _ = mode.wait_for(|&mode| mode != Mode::Stall(direction)).await;
        if self.is_dumb() {
            return Fate::Swallow;
        }
        let mode = *self.line.mode.borrow();
        match mode {
            Mode::Refuse => return Fate::CutAfter(0),
            Mode::Delay(time) => sleep(time).await,
            Mode::CutAfter(_) if direction == Direction::Replies => return self.spend(chunk.len()),
            _ => {}
        }
        match direction {
            Direction::Requests => self.watch_for_script(chunk, tail),
            Direction::Replies => self.lose_script_reply(chunk),
        }
    }

    /// The chunk with its pairs exchanged. What may be the first half of one is held back for the next chunk.
    fn rewritten<'c>(&self, direction: Direction, chunk: &'c [u8], held: &mut Vec<u8>) -> Cow<'c, [u8]> {
        let mode = *self.line.mode.borrow();
        let pairs = match mode {
            Mode::Rewrite(pairs) if direction == Direction::Requests => pairs,
            _ if held.is_empty() => return Cow::Borrowed(chunk),
            _ => &[],
        };
        let mut bytes = std::mem::take(held);
        bytes.extend_from_slice(chunk);
        for (from, to) in pairs {
            assert_eq!(from.len(), to.len(), "`{from}` and `{to}` differ in length");
            replace_all(&mut bytes, from.as_bytes(), to.as_bytes());
        }
        let longest =
            pairs.iter().filter_map(|(from, _)| half_at_end(&bytes, from.as_bytes())).max().unwrap_or_default();
        *held = bytes.split_off(bytes.len() - longest);
        Cow::Owned(bytes)
    }

    fn is_dumb(&self) -> bool {
        if *self.line.mode.borrow() == Mode::BlackHole {
            self.dumb.store(true, Ordering::SeqCst);
        }
        self.dumb.load(Ordering::SeqCst)
    }

    /// Pays for a reply out of what `CutAfter` still allows.
    fn spend(&self, bytes: usize) -> Fate {
        let pay = |left: usize| Some(left.saturating_sub(bytes));
        let left = self.line.reply_budget.fetch_update(Ordering::SeqCst, Ordering::SeqCst, pay).unwrap_or_default();
        if left >= bytes { Fate::Forward } else { Fate::CutAfter(left) }
    }

    /// Sees a script call even where it straddles two chunks, and takes the one loss that was ordered.
    fn watch_for_script(&self, chunk: &[u8], tail: &mut Vec<u8>) -> Fate {
        tail.extend_from_slice(chunk);
        let found = SCRIPT_CALLS.iter().any(|call| tail.windows(call.len()).any(|window| window == *call));
        let keep_from = if found { tail.len() } else { tail.len().saturating_sub(STRADDLE) };
        tail.drain(..keep_from);
        let mode = *self.line.mode.borrow();
        if found && let Mode::LoseScriptReply(after) = mode {
            self.line.mode.send_replace(Mode::Pass);
            *self.script.lock().unwrap() = Some(after);
        }
        Fate::Forward
    }

    fn lose_script_reply(&self, chunk: &[u8]) -> Fate {
        let Some(after) = self.script.lock().unwrap().take() else { return Fate::Forward };
        if chunk.starts_with(b"-NOSCRIPT") {
            self.line.mode.send_replace(Mode::LoseScriptReply(after));
            return Fate::Forward;
        }
        self.line.lost_replies.fetch_add(1, Ordering::SeqCst);
        match after {
            AfterLoss::Cut => Fate::CutAfter(0),
            AfterLoss::Silence => {
                self.dumb.store(true, Ordering::SeqCst);
                Fate::Swallow
            }
        }
    }
}

fn replace_all(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    let found: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at..].starts_with(from)).collect();
    for at in found {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
}

/// How many bytes at the end of `bytes` are the beginning of `word`, if any are.
fn half_at_end(bytes: &[u8], word: &[u8]) -> Option<usize> {
    (1..word.len()).rev().find(|&length| bytes.ends_with(&word[..length]))
}
