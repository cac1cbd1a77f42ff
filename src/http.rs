//! The endpoints that Prometheus, systemd, Kubernetes, hubs and people ask.
//!
//! Whoever asks can read and change nothing, and can't do harm by asking badly: a connection is one request, within a
//! few seconds, and there are only so many of them at once. When all places are taken, whoever has waited longest
//! without asking anything makes room, so that silent connections keep nobody out.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::ready;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    VARY,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time;
use tokio_util::sync::CancellationToken;

/// Where the endpoints listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The addresses; none switches the endpoints off.
    pub listen: Vec<SocketAddr>,
}

impl Settings {
    /// The addresses as the configuration takes them, for a person.
    pub fn describe(&self) -> String {
        if self.listen.is_empty() {
            return "off".into();
        }
        self.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// Whether all is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it is.
    pub ok: bool,
    /// A sentence for whoever wonders why.
    pub why: String,
}

/// What the endpoints show. Asked at every request, so it only tells what is known already.
pub trait Pages: Send + Sync + 'static {
    /// The metrics: in the format of OpenMetrics if `open`, else in the text format of Prometheus.
    ///
    /// # Errors
    /// Why there are none.
    fn metrics(&self, open: bool) -> Result<String, String>;

    /// Everything that is known, as a JSON document.
    ///
    /// # Errors
    /// Why there is none.
    fn status(&self) -> Result<String, String>;

    /// Whether Redis stores what hubs want stored; not ok only if it does so for nobody. `why` is a JSON object.
    fn standing(&self) -> Verdict;

    /// Whether the process works; a restart would help if not.
    fn healthy(&self) -> Verdict;

    /// Whether it does what it is for; a restart would not help if not.
    fn ready(&self) -> Verdict;
}

/// What those who ask at one address may cost us.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Connections at once.
    connections: usize,
    /// Time for the head of a request. A body is never read.
    head: Duration,
    /// Time for a whole connection, the answer included: as long as Prometheus waits.
    connection: Duration,
    /// Time for the answers under way once we have to stop.
    stop: Duration,
}

const LIMITS: Limits = Limits {
    connections: 64,
    head: Duration::from_secs(5),
    connection: Duration::from_secs(10),
    stop: Duration::from_millis(800),
};

/// The pause after a connection could not be accepted, nearly always for want of file descriptors.
const AFTER_FAILED_ACCEPT: Duration = Duration::from_secs(1);

/// What a request's head may weigh.
const LARGEST_HEAD: usize = 16 * 1024;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROMETHEUS_TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

const INDEX: &str = "<!DOCTYPE html>
<html lang=\"en\">
<meta charset=\"utf-8\">
<title>presence-reaper</title>
<h1>presence-reaper</h1>
<ul>
<li><a href=\"/metrics\">/metrics</a>: for Prometheus
<li><a href=\"/status\">/status</a>: every source, its entries and its state, as JSON
<li><a href=\"/redis\">/redis</a>: for hubs; 503 while Redis fails or refuses everybody
<li><a href=\"/healthz\">/healthz</a> or <a href=\"/-/healthy\">/-/healthy</a>: 503 when a restart would help
<li><a href=\"/readyz\">/readyz</a> or <a href=\"/-/ready\">/-/ready</a>: 503 while Redis or a source is not seen
</ul>
";

// === connections ===

/// The listeners of the endpoints; none where they are switched off.
///
/// # Errors
/// An address can't be listened on; says which, and where another is set.
pub async fn bind(settings: &Settings) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::with_capacity(settings.listen.len());
    for address in &settings.listen {
        listeners.push(TcpListener::bind(address).await.map_err(|error| {
            let remedy = "set another address by `listen` in [server] or by --listen; \"off\" is none";
            io::Error::new(error.kind(), format!("can't listen on {address}: {error} ({remedy})"))
        })?);
    }
    Ok(listeners)
}

/// Answers whoever connects until `stop`; then at most a second longer, for the answers under way.
pub async fn serve(listeners: Vec<TcpListener>, pages: Arc<dyn Pages>, stop: CancellationToken) {
    let mut serving = JoinSet::new();
    for listener in listeners {
        serving.spawn(serve_within(LIMITS, listener, Arc::clone(&pages), stop.clone()));
    }
    serving.join_all().await;
}

async fn serve_within(limits: Limits, listener: TcpListener, pages: Arc<dyn Pages>, stop: CancellationToken) {
    let mut places = Places { most: limits.connections, taken: VecDeque::new(), tasks: JoinSet::new() };
    // bound: until told to stop
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = places.tasks.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    places.make_room().await;
                    let asked = Arc::new(AtomicBool::new(false));
                    let conversation = converse(limits, stream, Arc::clone(&pages), Arc::clone(&asked));
                    places.take(asked, time::timeout(limits.connection, conversation));
                }
                Err(error) => {
                    tracing::warn!(%error, "an endpoint's connection could not be accepted");
                    let _ = time::timeout(AFTER_FAILED_ACCEPT, stop.cancelled()).await;
                }
            },
        }
    }
    drop(listener);
    let mut tasks = places.tasks;
    let answered = async { while tasks.join_next().await.is_some() {} };
    let _ = time::timeout(limits.stop, answered).await;
    tasks.shutdown().await;
}

/// The connections of one address.
struct Places {
    most: usize,
    /// Oldest first.
    taken: VecDeque<Place>,
    tasks: JoinSet<Result<(), time::error::Elapsed>>,
}

struct Place {
    task: AbortHandle,
    /// The head of its request has come.
    asked: Arc<AtomicBool>,
}

impl Places {
    /// Lets somebody go if all places are taken: whoever has waited longest without asking, else the oldest, which
    /// doesn't read its answer.
    async fn make_room(&mut self) {
        if self.is_full() {
            // Those who just came and have asked already are answered first.
            tokio::task::yield_now().await;
        }
        if self.is_full() {
            let silent = self.taken.iter().position(|place| !place.asked.load(Ordering::Relaxed));
            if let Some(place) = self.taken.remove(silent.unwrap_or(0)) {
                place.task.abort();
            }
        }
    }

    fn is_full(&mut self) -> bool {
        self.taken.retain(|place| !place.task.is_finished());
        self.taken.len() >= self.most
    }

    fn take<F>(&mut self, asked: Arc<AtomicBool>, conversation: F)
    where
        F: Future<Output = Result<(), time::error::Elapsed>> + Send + 'static,
    {
        let task = self.tasks.spawn(conversation);
        self.taken.push_back(Place { task, asked });
    }
}

/// One connection, which is one request: nothing is left open that would have to be counted, timed and shut.
async fn converse(limits: Limits, stream: TcpStream, pages: Arc<dyn Pages>, asked: Arc<AtomicBool>) {
    let service = service_fn(move |request| {
        asked.store(true, Ordering::Relaxed);
        ready(Ok::<_, Infallible>(answer(&request, &*pages)))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .keep_alive(false)
        .max_buf_size(LARGEST_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "an endpoint's connection broke");
    }
}

// === pages ===

type Answer = Response<Full<Bytes>>;

/// What is answered, as yet without regard to how it is asked for.
struct Page {
    status: StatusCode,
    kind: HeaderValue,
    body: Bytes,
    /// Long enough to be worth packing.
    long: bool,
}

fn answer<B>(request: &Request<B>, pages: &dyn Pages) -> Answer {
    let page: fn(&dyn Pages) -> Page = match request.uri().path() {
        "/" => |_| page(StatusCode::OK, HTML, INDEX),
        "/metrics" if prefers_open_metrics(request.headers()) => |pages| told(OPEN_METRICS, pages.metrics(true)),
        "/metrics" => |pages| told(PROMETHEUS_TEXT, pages.metrics(false)),
        "/status" => |pages| told(JSON, pages.status()),
        "/redis" => |pages| judged(JSON, pages.standing()),
        "/healthz" | "/-/healthy" => |pages| judged(TEXT, pages.healthy()),
        "/readyz" | "/-/ready" => |pages| judged(TEXT, pages.ready()),
        _ => |_| page(StatusCode::NOT_FOUND, TEXT, "there is no such page; / lists them\n"),
    };
    let may_ask = matches!(*request.method(), Method::GET | Method::HEAD);
    match page(pages) {
        page if may_ask || page.status == StatusCode::NOT_FOUND => page.answer(request.headers()),
        _ => {
            let refusal = self::page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "pages are only read here\n");
            let mut answer = refusal.answer(request.headers());
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            answer
        }
    }
}

fn told(kind: HeaderValue, text: Result<String, String>) -> Page {
    match text {
        Ok(text) => Page { long: true, ..page(StatusCode::OK, kind, text) },
        Err(why) => page(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{why}\n")),
    }
}

fn judged(kind: HeaderValue, verdict: Verdict) -> Page {
    let status = if verdict.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    page(status, kind, format!("{}\n", verdict.why))
}

fn page(status: StatusCode, kind: HeaderValue, body: impl Into<Bytes>) -> Page {
    Page { status, kind, body: body.into(), long: false }
}

impl Page {
    /// The answer to a request with these headers. To HEAD it is the same: hyper leaves the body out.
    fn answer(self, asked: &HeaderMap) -> Answer {
        let packed = if self.long && accepts_gzip(asked) { gzip(&self.body) } else { None };
        let is_packed = packed.is_some();
        let mut answer = Response::new(Full::new(packed.unwrap_or(self.body)));
        *answer.status_mut() = self.status;
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, self.kind);
        // Every page is about this moment.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.long {
            headers.insert(VARY, HeaderValue::from_static("accept, accept-encoding"));
        }
        if is_packed {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        answer
    }
}

/// Whether whoever asks takes gzip. What it says of gzip itself counts before what it says of everything.
fn accepts_gzip(asked: &HeaderMap) -> bool {
    let (mut gzip, mut any) = (None, None);
    for offer in offers(asked, ACCEPT_ENCODING) {
        match offer.name {
            name if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") => gzip = Some(offer),
            "*" => any = Some(offer),
            _ => {}
        }
    }
    gzip.or(any).is_some_and(|offer| offer.weight > 0.0)
}

/// Whether whoever asks wants OpenMetrics at least as much as plain text. Whatever else it takes, or if it says nothing:
/// plain text.
fn prefers_open_metrics(asked: &HeaderMap) -> bool {
    let (mut open, mut text) = (0.0, 0.0);
    for offer in offers(asked, ACCEPT) {
        let is_ours = offer.parameter("version").is_none_or(|version| version == "1.0.0");
        if offer.name.eq_ignore_ascii_case("application/openmetrics-text") && is_ours {
            open = offer.weight.max(open);
        } else if offer.name.eq_ignore_ascii_case("text/plain") {
            text = offer.weight.max(text);
        }
    }
    open > 0.0 && open >= text
}

/// One of the things that whoever asks would take.
struct Offer<'a> {
    name: &'a str,
    parameters: &'a str,
    /// 0 is a refusal; so is what can't be read.
    weight: f32,
}

impl<'a> Offer<'a> {
    fn new(text: &'a str) -> Self {
        let (name, parameters) = text.split_once(';').unwrap_or((text, ""));
        let mut offer = Self { name: name.trim(), parameters, weight: 1.0 };
        if let Some(weight) = offer.parameter("q") {
            offer.weight = weight.parse().unwrap_or(0.0);
        }
        offer
    }

    fn parameter(&self, wanted: &str) -> Option<&'a str> {
        let pairs = self.parameters.split(';').filter_map(|parameter| parameter.split_once('='));
        let mut found = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case(wanted));
        found.next().map(|(_, value)| value.trim().trim_matches('"'))
    }
}

/// All that a header offers.
fn offers(asked: &HeaderMap, header: HeaderName) -> impl Iterator<Item = Offer<'_>> {
    let lists = asked.get_all(header).into_iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).map(Offer::new)
}

/// None if it can't be packed, which writing to memory never meets.
fn gzip(body: &[u8]) -> Option<Bytes> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(body).ok()?;
    packer.finish().ok().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::JoinHandle;
    use tokio::time::{Instant, timeout};

    use super::*;

    /// Long enough for a busy machine; nothing here waits for it unless it fails.
    const PATIENCE: Duration = Duration::from_secs(20);

    struct Known {
        trouble: bool,
        text: String,
    }

    impl Default for Known {
        fn default() -> Self {
            Self { trouble: false, text: "up 1\n".into() }
        }
    }

    impl Known {
        fn verdict(&self, well: &str) -> Verdict {
            Verdict { ok: !self.trouble, why: if self.trouble { "redis is away".into() } else { well.into() } }
        }
    }

    impl Pages for Known {
        fn metrics(&self, open: bool) -> Result<String, String> {
            match self.trouble {
                true => Err("no numbers".into()),
                false if open => Ok("# EOF\n".into()),
                false => Ok(self.text.clone()),
            }
        }

        fn status(&self) -> Result<String, String> {
            if self.trouble { Err("no document".into()) } else { Ok("{}\n".into()) }
        }

        fn standing(&self) -> Verdict {
            self.verdict(r#"{"state":"ok"}"#)
        }

        fn healthy(&self) -> Verdict {
            self.verdict("healthy")
        }

        fn ready(&self) -> Verdict {
            self.verdict("ready")
        }
    }

    struct Server {
        address: SocketAddr,
        stop: CancellationToken,
        running: JoinHandle<()>,
    }

    impl Server {
        async fn start(limits: Limits) -> Self {
            Self::start_with(limits, Known::default()).await
        }

        async fn start_with(limits: Limits, pages: Known) -> Self {
            let settings = Settings { listen: vec!["127.0.0.1:0".parse().unwrap()] };
            let listener = bind(&settings).await.unwrap().pop().unwrap();
            let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
            let running = tokio::spawn(serve_within(limits, listener, Arc::new(pages), stop.clone()));
            Self { address, stop, running }
        }

        /// Sends `head` as it is, and reads until the server closes.
        async fn says(&self, head: &str) -> String {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            read_to_end(&mut stream).await
        }

        async fn answers(&self, method: &str, path: &str) -> String {
            self.says(&format!("{method} {path} HTTP/1.1\r\nHost: reaper\r\n\r\n")).await
        }

        async fn ends(self) -> Duration {
            let began = Instant::now();
            self.stop.cancel();
            timeout(PATIENCE, self.running).await.expect("stops").unwrap();
            began.elapsed()
        }
    }

    async fn read_to_end(stream: &mut TcpStream) -> String {
        let mut text = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut text)).await.expect("the server closes");
        String::from_utf8(text).unwrap()
    }

    fn quick(connections: usize) -> Limits {
        Limits { connections, head: Duration::from_millis(300), connection: 2 * PATIENCE, ..LIMITS }
    }

    #[tokio::test]
    async fn every_page_is_where_it_is_looked_for() {
        let server = Server::start(LIMITS).await;
        for (method, path, status, body) in [
            ("GET", "/metrics", "200 OK", "up 1\n"),
            ("GET", "/metrics?debug=1", "200 OK", "up 1\n"),
            ("GET", "/healthz", "200 OK", "healthy\n"),
            ("GET", "/-/healthy", "200 OK", "healthy\n"),
            ("GET", "/readyz", "200 OK", "ready\n"),
            ("GET", "/-/ready", "200 OK", "ready\n"),
            ("GET", "/", "200 OK", INDEX),
            ("GET", "/status", "200 OK", "{}\n"),
            ("GET", "/redis", "200 OK", "{\"state\":\"ok\"}\n"),
            ("HEAD", "/metrics", "200 OK", ""),
            ("GET", "/metrics/", "404 Not Found", "there is no such page; / lists them\n"),
            ("POST", "/nowhere", "404 Not Found", "there is no such page; / lists them\n"),
            ("POST", "/healthz", "405 Method Not Allowed", "pages are only read here\n"),
            ("DELETE", "/metrics", "405 Method Not Allowed", "pages are only read here\n"),
        ] {
            let answer = server.answers(method, path).await;
            let (head, text) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{method} {path}: {head}");
            assert_eq!(text, body, "{method} {path}");
            assert_eq!(head.contains("allow: GET, HEAD"), status.starts_with("405"), "{method} {path}: {head}");
        }
        let head = server.answers("HEAD", "/metrics").await;
        assert!(head.contains("content-length: 5\r\n"), "{head}");
        assert!(head.contains(&format!("content-type: {}", prometheus::TEXT_FORMAT)), "{head}");
        server.ends().await;
    }

    #[tokio::test]
    async fn trouble_is_told_with_its_reason() {
        let server = Server::start_with(LIMITS, Known { trouble: true, ..Known::default() }).await;
        for (path, status, body) in [
            ("/healthz", "503 Service Unavailable", "redis is away\n"),
            ("/readyz", "503 Service Unavailable", "redis is away\n"),
            ("/redis", "503 Service Unavailable", "redis is away\n"),
            ("/metrics", "500 Internal Server Error", "no numbers\n"),
            ("/status", "500 Internal Server Error", "no document\n"),
        ] {
            let answer = server.answers("GET", path).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{path}: {answer}");
            assert!(answer.ends_with(&format!("\r\n\r\n{body}")), "{path}: {answer}");
        }
        server.ends().await;
    }

    #[tokio::test]
    async fn nonsense_is_refused_and_the_next_one_served() {
        let server = Server::start(LIMITS).await;
        let large = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(2 * LARGEST_HEAD));
        for nonsense in ["\0\u{1}\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "", &large] {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            let _ = stream.write_all(nonsense.as_bytes()).await;
            let _ = stream.shutdown().await;
            let mut answer = Vec::new();
            let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the server closes");
            assert!(!answer.starts_with(b"HTTP/1.1 2"), "{nonsense:?}");
        }
        assert!(server.answers("GET", "/healthz").await.ends_with("healthy\n"));
        server.ends().await;
    }

    #[tokio::test]
    async fn a_client_that_dawdles_is_closed_while_others_are_served() {
        let server = Server::start(quick(64)).await;
        let mut slow = TcpStream::connect(server.address).await.unwrap();
        slow.write_all(b"GET /metrics HTTP/1.1\r\nHost:").await.unwrap();
        let mut silent = TcpStream::connect(server.address).await.unwrap();
        assert!(server.answers("GET", "/healthz").await.ends_with("healthy\n"));
        for client in [&mut slow, &mut silent] {
            assert!(!read_to_end(client).await.contains("200 OK"));
        }
        server.ends().await;
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_gives_up_its_place() {
        let limits = Limits { connections: 1, connection: Duration::from_millis(300), ..LIMITS };
        let server = Server::start_with(limits, Known { text: "x".repeat(32 << 20), ..Known::default() }).await;
        let mut deaf = TcpStream::connect(server.address).await.unwrap();
        deaf.write_all(b"GET /metrics HTTP/1.1\r\nHost: reaper\r\n\r\n").await.unwrap();
        assert!(server.answers("GET", "/healthz").await.ends_with("healthy\n"));
        server.ends().await;
    }

    #[tokio::test]
    async fn a_body_is_not_waited_for() {
        let server = Server::start(LIMITS).await;
        let answer = server.says("POST /metrics HTTP/1.1\r\nHost: reaper\r\nContent-Length: 1000000\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
        server.ends().await;
    }

    #[tokio::test]
    async fn when_all_places_are_taken_the_longest_silent_makes_room() {
        let limits = Limits { connections: 2, head: PATIENCE, connection: PATIENCE, ..LIMITS };
        let server = Server::start_with(limits, Known { text: "x".repeat(32 << 20), ..Known::default() }).await;
        let mut deaf = TcpStream::connect(server.address).await.unwrap();
        deaf.write_all(b"GET /metrics HTTP/1.1\r\nHost: reaper\r\n\r\n").await.unwrap();
        deaf.readable().await.unwrap();
        let began = Instant::now();
        let mut silent = TcpStream::connect(server.address).await.unwrap();
        assert!(server.answers("GET", "/healthz").await.ends_with("healthy\n"));
        assert_eq!(read_to_end(&mut silent).await, "");
        assert!(began.elapsed() < PATIENCE / 2, "without waiting for anybody's time to be over");
        let mut text = Vec::new();
        timeout(PATIENCE, deaf.read_to_end(&mut text)).await.unwrap().unwrap();
        assert!(text.len() > 32 << 20, "who has asked keeps the place");
        server.ends().await;
    }

    #[tokio::test]
    async fn a_page_is_packed_for_those_who_take_it() {
        let server = Server::start(LIMITS).await;
        for (accepted, packed) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("x-gzip", true),
            ("*", true),
            ("gzip;q=1.0, *;q=0", true),
            ("*, gzip;q=0", false),
            ("gzip; q = 0.000", false),
            ("gzip;q=nonsense", false),
            ("identity, br", false),
            ("", false),
        ] {
            for (path, packs) in [("/metrics", true), ("/status", true), ("/healthz", false), ("/redis", false)] {
                let request = format!("HEAD {path} HTTP/1.1\r\nHost: reaper\r\nAccept-Encoding: {accepted}\r\n\r\n");
                let head = server.says(&request).await;
                assert_eq!(head.contains("content-encoding: gzip\r\n"), packed && packs, "{path} {accepted}: {head}");
                assert_eq!(head.contains("vary: accept, accept-encoding\r\n"), packs, "{path} {accepted}: {head}");
            }
        }
        server.ends().await;
    }

    #[tokio::test]
    async fn open_metrics_are_for_those_who_ask_for_them() {
        let server = Server::start(LIMITS).await;
        // As Prometheus 2.42 and 3.5 ask, and one that was told to prefer the older format.
        let two = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                   text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let three = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                     application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
                     text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let older = "text/plain;version=0.0.4;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.2";
        for (accepted, open) in [
            (two, true),
            (three, true),
            (older, false),
            ("application/openmetrics-text", true),
            ("Application/OpenMetrics-Text; Version=\"1.0.0\"; Q=0.1", true),
            ("application/openmetrics-text;version=0.0.1", false),
            ("application/openmetrics-text;q=0", false),
            ("application/openmetrics-text;q=nonsense", false),
            ("text/html,*/*", false),
            ("", false),
        ] {
            let request = format!("GET /metrics HTTP/1.1\r\nHost: reaper\r\nAccept: {accepted}\r\n\r\n");
            let answer = server.says(&request).await;
            let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n";
            assert_eq!(answer.contains(kind), open, "{accepted}: {answer}");
            assert_eq!(answer.ends_with("# EOF\n"), open, "{accepted}: {answer}");
        }
        server.ends().await;
    }

    #[tokio::test]
    async fn it_stops_within_a_second_whoever_is_connected() {
        let server = Server::start(LIMITS).await;
        let mut slow = TcpStream::connect(server.address).await.unwrap();
        slow.write_all(b"GET /").await.unwrap();
        assert!(server.answers("GET", "/healthz").await.ends_with("healthy\n"), "so the slow one is accepted too");
        let address = server.address;
        assert!(server.ends().await < Duration::from_secs(3), "a second, and what a busy machine adds");
        assert!(!read_to_end(&mut slow).await.contains("200 OK"));
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    }

    #[tokio::test]
    async fn every_address_is_listened_on() {
        let settings = Settings { listen: vec!["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()] };
        let listeners = bind(&settings).await.unwrap();
        let addresses: Vec<SocketAddr> = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
        let stop = CancellationToken::new();
        let running = tokio::spawn(serve(listeners, Arc::new(Known::default()), stop.clone()));
        let server = Server { address: addresses[0], stop, running };
        assert!(server.answers("GET", "/healthz").await.ends_with("healthy\n"));
        let server = Server { address: addresses[1], ..server };
        assert!(server.answers("GET", "/healthz").await.ends_with("healthy\n"));
        server.ends().await;
    }

    #[tokio::test]
    async fn an_address_in_use_is_named_with_the_way_out() {
        assert!(bind(&Settings { listen: vec![] }).await.unwrap().is_empty());
        let settings = Settings { listen: vec!["127.0.0.1:0".parse().unwrap()] };
        let holders = bind(&settings).await.unwrap();
        let address = holders[0].local_addr().unwrap();
        let error = bind(&Settings { listen: vec!["127.0.0.1:0".parse().unwrap(), address] }).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let text = error.to_string();
        assert!(text.contains(&address.to_string()), "{text}");
        assert!(text.contains("`listen` in [server]") && text.contains("--listen"), "{text}");
    }
}
