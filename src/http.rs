//! The endpoints that Prometheus, systemd and Kubernetes ask.
//!
//! Whoever asks can read and change nothing, and can't do harm by asking badly: a connection is one request, within a
//! few seconds, and there are only so many of them at once.

use std::convert::Infallible;
use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time;
use tokio_util::sync::CancellationToken;

/// Where the endpoints listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The address of the listener; `None` switches the endpoints off.
    pub listen: Option<SocketAddr>,
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
    /// The metrics in the text format of Prometheus.
    ///
    /// # Errors
    /// Why there are none.
    fn metrics(&self) -> Result<String, String>;

    /// Whether the process works; a restart would help if not.
    fn healthy(&self) -> Verdict;

    /// Whether it does what it is for; a restart would not help if not.
    fn ready(&self) -> Verdict;
}

/// What one who asks may cost us.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Connections at once; others wait in the kernel's queue.
    connections: usize,
    /// Time for the head of a request.
    head: Duration,
    /// Time for a whole connection: as long as Prometheus waits.
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
const PROMETHEUS_TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

const INDEX: &str = "<!DOCTYPE html><title>presence-reaper</title>
<h1>presence-reaper</h1>
<p><a href=\"/metrics\">metrics</a> · <a href=\"/healthz\">healthy?</a> · <a href=\"/readyz\">ready?</a></p>
";

/// The listener of the endpoints; none where they are switched off.
///
/// # Errors
/// The address can't be listened on; says which, and where another is set.
pub async fn bind(settings: &Settings) -> io::Result<Option<TcpListener>> {
    let Some(address) = settings.listen else { return Ok(None) };
    TcpListener::bind(address).await.map(Some).map_err(|error| {
        let remedy = "set another address by `listen` in [server] or by --listen; \"off\" is none";
        io::Error::new(error.kind(), format!("can't listen on {address}: {error} ({remedy})"))
    })
}

/// Answers whoever connects until `stop`; then at most a second longer, for the answers under way.
pub async fn serve(listener: TcpListener, pages: Arc<dyn Pages>, stop: CancellationToken) {
    serve_within(LIMITS, listener, pages, stop).await;
}

async fn serve_within(limits: Limits, listener: TcpListener, pages: Arc<dyn Pages>, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < limits.connections => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(time::timeout(limits.connection, converse(limits, stream, Arc::clone(&pages))));
                }
                Err(error) => {
                    tracing::warn!(%error, "an endpoint's connection could not be accepted");
                    let _ = time::timeout(AFTER_FAILED_ACCEPT, stop.cancelled()).await;
                }
            },
        }
    }
    drop(listener);
    let answered = async { while connections.join_next().await.is_some() {} };
    let _ = time::timeout(limits.stop, answered).await;
    connections.shutdown().await;
}

/// One connection, which is one request: nothing is left open that would have to be counted, timed and shut.
async fn converse(limits: Limits, stream: TcpStream, pages: Arc<dyn Pages>) {
    let service = service_fn(move |request| ready(Ok::<_, Infallible>(answer(&request, &*pages))));
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

type Answer = Response<Full<Bytes>>;

fn answer<B>(request: &Request<B>, pages: &dyn Pages) -> Answer {
    let page: fn(&dyn Pages) -> Answer = match request.uri().path() {
        "/" => |_| page(StatusCode::OK, HTML, INDEX),
        "/metrics" => metrics,
        "/healthz" | "/-/healthy" => |pages| judged(pages.healthy()),
        "/readyz" | "/-/ready" => |pages| judged(pages.ready()),
        _ => return page(StatusCode::NOT_FOUND, TEXT, "there is no such page; / lists them\n"),
    };
    // The body of an answer to HEAD is left out by hyper.
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refusal = self::page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "pages are only read here\n");
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    page(pages)
}

fn metrics(pages: &dyn Pages) -> Answer {
    match pages.metrics() {
        Ok(text) => page(StatusCode::OK, PROMETHEUS_TEXT, text),
        Err(why) => page(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{why}\n")),
    }
}

fn judged(verdict: Verdict) -> Answer {
    let status = if verdict.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    page(status, TEXT, format!("{}\n", verdict.why))
}

fn page(status: StatusCode, kind: HeaderValue, body: impl Into<Bytes>) -> Answer {
    let mut page = Response::new(Full::new(body.into()));
    *page.status_mut() = status;
    page.headers_mut().insert(CONTENT_TYPE, kind);
    page
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
        fn metrics(&self) -> Result<String, String> {
            if self.trouble { Err("no numbers".into()) } else { Ok(self.text.clone()) }
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
            let settings = Settings { listen: Some("127.0.0.1:0".parse().unwrap()) };
            let listener = bind(&settings).await.unwrap().unwrap();
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
            ("/metrics", "500 Internal Server Error", "no numbers\n"),
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
    async fn whoever_comes_when_all_places_are_taken_waits() {
        let limits = quick(2);
        let server = Server::start(limits).await;
        let began = Instant::now();
        let idle =
            [TcpStream::connect(server.address).await.unwrap(), TcpStream::connect(server.address).await.unwrap()];
        assert!(server.answers("GET", "/healthz").await.ends_with("healthy\n"));
        assert!(began.elapsed() >= limits.head, "before one of the idle was closed");
        drop(idle);
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
    async fn an_address_in_use_is_named_with_the_way_out() {
        assert!(bind(&Settings { listen: None }).await.unwrap().is_none());
        let settings = Settings { listen: Some("127.0.0.1:0".parse().unwrap()) };
        let holder = bind(&settings).await.unwrap().unwrap();
        let address = holder.local_addr().unwrap();
        let error = bind(&Settings { listen: Some(address) }).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let text = error.to_string();
        assert!(text.contains(&address.to_string()), "{text}");
        assert!(text.contains("`listen` in [server]") && text.contains("--listen"), "{text}");
    }
}
