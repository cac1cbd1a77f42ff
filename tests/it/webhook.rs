//! Webhooks: who is told by `POST`, what of, how often, and what is never lost.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use presence_reaper::policy::outcome::{Blocked, Form, Outcome, Told};
use presence_reaper::store::outbox::{Bounds, Page};
use rustix::process::Signal;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::edge::{Edge, ask, outcomes, put_aged, run, source};
use crate::harness::{Authority, Binary, Daemon, Hub, Layout, Leaf, Server, eventually, free_port};
use crate::world::{Confined, FAST, SOON, STEADY, evicts, is_old_enough, metric, only_source, settle};

const OLD: i64 = 600_000;

/// A `POST` as it came in.
#[derive(Clone, Debug)]
struct Post {
    delivery: String,
    signature: Option<String>,
    body: Vec<u8>,
    /// What was answered.
    status: u16,
}

impl Post {
    fn events(&self) -> Vec<Value> {
        let document: Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!((&document["schema_version"], &document["source"]), (&1.into(), &"cli".into()));
        document["events"].as_array().unwrap().clone()
    }

    /// Whether openssl finds the same signature by this secret.
    fn is_signed_by(&self, secret: &str) -> bool {
        let dir = TempDir::new().unwrap();
        let signed = dir.path().join("signed");
        let (time, mac) = self.signature.as_ref().unwrap().strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
        std::fs::write(&signed, [time.as_bytes(), b".", &self.body].concat()).unwrap();
        let args = ["dgst", "-sha256", "-hmac", secret];
        let openssl = std::process::Command::new("openssl").args(args).arg(&signed).output().unwrap();
        String::from_utf8(openssl.stdout).unwrap().trim().rsplit(' ').next() == Some(mac)
    }
}

/// What a receiver answers.
#[derive(Debug)]
struct Answers {
    /// To all; 0 is no answer at all, for as long as anybody waits.
    status: u16,
    /// But 422 to a document that holds this.
    refused: Option<String>,
}

/// A receiver on loopback; what it answers is a test's to say.
struct Receiver {
    port: u16,
    posts: Arc<Mutex<Vec<Post>>>,
    answers: Arc<Mutex<Answers>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Receiver {
    async fn answering(status: u16) -> Self {
        Self::at(0, status).await
    }

    async fn at(port: u16, status: u16) -> Self {
        Self::serve(port, status, None).await
    }

    /// Behind TLS, with a certificate of this authority.
    async fn trusted_by(authority: &Authority, status: u16) -> Self {
        let (cert_file, key_file) = authority.issue("receiver", Leaf::GOOD);
        let chain = CertificateDer::pem_file_iter(cert_file).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_file(key_file).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.unwrap().with_no_client_auth().with_single_cert(chain, key).unwrap();
        Self::serve(0, status, Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn serve(port: u16, status: u16, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answers = Answers { status, refused: None };
        let (posts, answers) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(answers)));
        let (into, says) = (Arc::clone(&posts), Arc::clone(&answers));
        let serving = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (into, says, tls) = (Arc::clone(&into), Arc::clone(&says), tls.clone());
                let service = service_fn(move |request| take(request, Arc::clone(&into), Arc::clone(&says)));
                let http = hyper::server::conn::http1::Builder::new();
                tokio::spawn(async move {
                    match tls {
                        None => _ = http.serve_connection(TokioIo::new(stream), service).await,
                        Some(tls) => {
                            let Ok(stream) = tls.accept(stream).await else { return };
                            _ = http.serve_connection(TokioIo::new(stream), service).await;
                        }
                    }
                });
            }
        });
        Self { port, posts, answers, serving }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hooks?token=quiet", self.port)
    }

    fn answers(&self, status: u16) {
        self.answers.lock().unwrap().status = status;
    }

    fn refuses(&self, id: &str) {
        self.answers.lock().unwrap().refused = Some(format!("\"id\":\"{id}\""));
    }

    fn posts(&self) -> Vec<Post> {
        self.posts.lock().unwrap().clone()
    }

    /// The events that it took, in their order.
    fn taken(&self) -> Vec<Value> {
        self.posts().iter().filter(|post| post.status < 300).flat_map(Post::events).collect()
    }

    /// The ids of clients that were told of, once for each telling.
    fn told(&self) -> Vec<String> {
        let events = self.posts().into_iter().flat_map(|post| post.events());
        events.map(|event| event["payload"]["id"].as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn take(
    request: Request<Incoming>,
    into: Arc<Mutex<Vec<Post>>>,
    says: Arc<Mutex<Answers>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let header = |name: &str| Some(request.headers().get(name)?.to_str().unwrap().to_owned());
    let (delivery, signature) = (header("presence-reaper-delivery").unwrap(), header("presence-reaper-signature"));
    assert_eq!(header("content-type").as_deref(), Some("application/json"));
    assert!(header("user-agent").unwrap().starts_with("presence-reaper/"));
    let body = request.into_body().collect().await.unwrap().to_bytes().to_vec();
    let status = {
        let says = says.lock().unwrap();
        let text = String::from_utf8_lossy(&body);
        if says.refused.as_ref().is_some_and(|refused| text.contains(refused)) { 422 } else { says.status }
    };
    into.lock().unwrap().push(Post { delivery, signature, body, status });
    if status == 0 {
        std::future::pending::<()>().await;
    }
    Ok(Response::builder().status(status).body(Full::default()).unwrap())
}

/// The file of a source with this webhook.
fn file(dir: &TempDir, server: &Server, rhythm: crate::world::Rhythm, url: &str, more: &str) -> String {
    let times = [("threshold", rhythm.threshold), ("heartbeat_interval", rhythm.heartbeat)];
    let times = times.map(|(key, time)| format!("{key} = \"{}ms\"", time.as_millis())).join("\n");
    let notify = format!(
        "notify = [{{ webhook = \"{url}\", payload = {{ id = \"{{id}}\", left = \"{{remaining}}\" }}{more} }}]"
    );
    let source = format!("[[source]]\nname = \"cli\"\n{}\n{times}\n{notify}\n", source(Layout::Zset));
    let path = dir.path().join("reaper.toml");
    std::fs::write(&path, format!("[redis]\nurl = \"{}\"\n{source}", server.url())).unwrap();
    path.to_str().unwrap().to_owned()
}

fn with(notify: &str) -> String {
    format!("{}\nnotify = [{notify}]", source(Layout::Zset))
}

/// The length of the one outbox there is.
async fn outbox(server: &Server) -> u64 {
    length(server, "outbox").await
}

async fn length(server: &Server, what: &str) -> u64 {
    let mut client = server.client().await;
    let keys: Vec<String> = ask(&mut client, &format!("KEYS presence-reaper:*:{what}")).await;
    match &keys[..] {
        [] => 0,
        [key] => ask(&mut client, &format!("XLEN {key}")).await,
        more => panic!("{more:?}"),
    }
}

async fn failures(daemon: &Daemon, reason: &str) -> f64 {
    metric(daemon, "webhook_post_failures_total", Some(("reason", reason))).await.unwrap_or_default()
}

for_each_server! {
    /// The script spells what webhooks are told, behind each removal, and keeps it in the outbox where there is one.
    /// What a condition keeps back, before the script or in it, leaves the others where they belong.
    async fn each_is_told_to_its_own_receiver_whatever_is_kept_back(server: Server) {
        for (mode, more, expected) in [("off", "off", vec!["b"]), ("on", "off", vec!["a", "b"]), ("on", "on", vec!["a", "b", "c"])] {
            let to = |name: &str, when: &str| {
                format!("{{ webhook = \"http://{name}/\", payload = \"{name} {{group}}\"{when} }}")
            };
            let notify = [
                to("a", ", when = \"get mode json /p eq on\""),
                to("b", ""),
                to("c", ", when = \"get more eq on\""),
            ];
            let edge = Edge::on(&server, &(with(&notify.join(", ")) + "\ngroup = \"of-{id}\""));
            let mut client = server.client().await;
            run(&mut client, &[&format!("SET mode {{\"p\":\"{mode}\"}}"), &format!("SET more {more}")]).await;
            let ids = put_aged(&mut client, Layout::Zset, &[OLD]).await;
            let strike = edge.strike(&edge.look(&ids).await).await;
            let told: Vec<String> = strike.told.iter().map(|one| format!("{} {}", one.hook, String::from_utf8_lossy(&one.text))).collect();
            let hook = |name: &str| "abc".find(name).unwrap();
            let expected: Vec<String> = expected.iter().map(|name| format!("{} {name} of-c0", hook(name))).collect();
            assert_eq!(told, expected, "{mode} {more}");
        }
    }

    async fn the_script_spells_what_is_told(server: Server) {
        let notify = "{ webhook = \"http://a/\", payload = { id = \"{id}\", left = \"{remaining}\" } },
            { webhook = \"http://b/\", payload = \"{id} {remaining}\" }, { webhook = \"http://c/\", payload = \"{id}\", outbox = true }";
        let edge = Edge::on(&server, &with(&notify.replace('\n', " ")));
        let mut client = server.client().await;
        let ids = put_aged(&mut client, Layout::Zset, &[OLD; 2]).await;

        let strike = edge.strike(&edge.look(&ids).await).await;

        let told = |hook, form, text: &str| Told { hook, form, text: text.as_bytes().to_vec() };
        let expected = [
            told(0, Form::Json, r#"{"id":"c0","left":1}"#),
            told(1, Form::Text, "c0 1"),
            told(0, Form::Json, r#"{"id":"c1","left":0}"#),
            told(1, Form::Text, "c1 0"),
        ];
        assert_eq!(strike.told, expected);
        assert_eq!(strike.notified.attempted, [0, 0, 0, 6]);
        let bounds = Bounds { events: 10, bytes: 1_000 };
        let Page { waiting, length } = edge.store.outbox().read(bounds).await.unwrap();
        assert_eq!(waiting.iter().map(|one| (one.form, &one.text[..])).collect::<Vec<_>>(), [(Form::Text, &b"c0"[..]), (Form::Text, b"c1")]);
        assert_eq!(length, 2);
    }

    /// An outbox of another type leaves the entry whole.
    async fn an_outbox_that_is_no_stream_blocks(server: Server) {
        let edge = Edge::on(&server, &with("{ webhook = \"http://c/\", outbox = true }"));
        let mut client = server.client().await;
        let ids = put_aged(&mut client, Layout::Zset, &[OLD; 2]).await;
        edge.evict(&ids[..1]).await;
        let [key] = &ask::<Vec<String>>(&mut client, "KEYS presence-reaper:*:outbox").await[..] else { panic!("one") };
        run(&mut client, &[&format!("DEL {key}"), &format!("SET {key} x")]).await;

        let found = edge.evict(&ids[1..]).await;

        assert_eq!(found["c1"], Outcome::Blocked(Blocked::WrongType));
    }

    /// `SPUBLISH` reaches who listens there, with our leave alone.
    async fn a_sharded_channel_is_told(server: Server) {
        if !server.kind().is_modern() {
            return;
        }
        let edge = Edge::on(&server, &with("{ spublish = \"off:{source}\", payload = \"{id}\" }"));
        let mut client = server.client().await;
        let ids = put_aged(&mut client, Layout::Zset, &[OLD; 1]).await;
        let strike = edge.strike(&edge.look(&ids).await).await;
        assert_eq!(outcomes(&strike).into_values().collect::<Vec<_>>(), [Outcome::Evicted]);
        assert_eq!((strike.notified.attempted, strike.notified.failed), ([0, 0, 1, 0], [0; 4]));
        assert_eq!(server.command_stats().await["spublish"], 1);
    }

    /// From the file to the receiver, signed, before a single run ends; an audit tells nobody.
    async fn once_tells_before_it_ends(server: Server) {
        let (dir, receiver) = (TempDir::new().unwrap(), Receiver::answering(200).await);
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "whsec\n").unwrap();
        let path = file(&dir, &server, STEADY, &receiver.url(), &format!(", secret_file = \"{}\"", secret.display()));
        let hub = Hub::new(&server, Layout::Zset);
        let live = hub.live(10).await;
        let stale = hub.stale(2, Duration::from_secs(3600)).await;
        let pinging = hub.ping_every(STEADY.heartbeat, &live);
        is_old_enough(&server, STEADY).await;

        Binary::new(["--dry-run", "-o", "json", "--config", &path]).run().await.assert_code(0);
        assert!(receiver.posts().is_empty());
        let once = Binary::new(["--once", "-o", "json", "--config", &path]).run().await;

        pinging.stop().await;
        assert_eq!(only_source(&once.assert_code(0).json())["evicted"], 2);
        assert_eq!(receiver.told().into_iter().collect::<BTreeSet<_>>(), stale.into_iter().collect());
        assert!(receiver.posts().iter().all(|post| post.is_signed_by("whsec")));
        assert!(!once.stderr.contains("quiet") && !once.stderr.contains("whsec"), "{}", once.stderr);
    }

    /// What is not taken is sent again with the same ids, until it is; what is refused is given up and counted.
    async fn a_receiver_in_trouble_is_told_again(server: Server) {
        let (dir, receiver) = (TempDir::new().unwrap(), Receiver::answering(500).await);
        let path = file(&dir, &server, FAST, &receiver.url(), ", timeout = \"500ms\"");
        let hub = Hub::new(&server, Layout::Zset);
        let live = hub.live(20).await;
        let pinging = hub.ping_every(FAST.heartbeat, &live);
        let daemon = settle(Binary::new(["run", "--config", &path])).await;

        pinging.silence(&live[..1]);
        evicts(&daemon, 1).await;
        eventually(SOON, async || receiver.posts().len() >= 2).await;
        receiver.answers(0);
        let hanging = receiver.posts().len();
        eventually(SOON, async || receiver.posts().len() > hanging).await;
        receiver.answers(204);
        let delivered = async || metric(&daemon, "webhook_delivered_total", None).await;
        eventually(SOON, async || delivered().await == Some(1.0)).await;
        let posts = receiver.posts();
        assert_eq!(posts.iter().map(|post| &post.delivery).collect::<BTreeSet<_>>().len(), 1);
        assert!(posts.iter().all(|post| post.events() == posts[0].events()));
        let failed = metric(&daemon, "webhook_post_failures_total", Some(("reason", "unavailable"))).await.unwrap();
        assert!(failed >= 2.0, "{failed}");

        receiver.answers(400);
        pinging.silence(&live[1..2]);
        let lost = async || metric(&daemon, "webhook_lost_total", Some(("reason", "refused"))).await;
        eventually(SOON, async || lost().await == Some(1.0)).await;
        assert_eq!(delivered().await, Some(1.0));
        assert!(!daemon.stderr().contains("quiet"), "{}", daemon.stderr());
    }

    /// Killed when the receiver has it and we do not know: it is told once more, and nothing is lost.
    async fn what_is_in_the_outbox_survives_us(server: Server) {
        let (dir, port) = (TempDir::new().unwrap(), free_port());
        let path = file(&dir, &server, FAST, &format!("http://127.0.0.1:{port}/"), ", outbox = true");
        let hub = Hub::new(&server, Layout::Zset);
        let live = hub.live(20).await;
        let pinging = hub.ping_every(FAST.heartbeat, &live);
        let daemon = settle(Binary::new(["run", "--config", &path])).await;
        pinging.silence(&live[..2]);
        evicts(&daemon, 2).await;
        assert_eq!(outbox(&server).await, 2, "nobody is there to be told");

        let hanging = Receiver::at(port, 0).await;
        eventually(SOON, async || !hanging.posts().is_empty()).await;
        daemon.signal(Signal::KILL);
        let _ = daemon.wait(SOON).await;
        assert_eq!(outbox(&server).await, 2);
        let before = hanging.posts()[0].events();
        hanging.answers(200);
        let _daemon = settle(Binary::new(["run", "--config", &path])).await;

        eventually(SOON, async || outbox(&server).await == 0).await;
        let told: BTreeSet<String> = hanging.told().into_iter().collect();
        assert_eq!(told, live[..2].iter().cloned().collect());
        let again: Vec<Value> = hanging.posts()[1..].iter().flat_map(Post::events).collect();
        assert!(before.iter().all(|event| again.contains(event)), "the same ids: {before:?} {again:?}");
    }

    /// What waits for a receiver that is away waits through a reload; that another webhook is told from now on loses nothing
    /// either, as long as patience lasts.
    async fn what_waits_survives_a_reload(server: Server) {
        let (dir, port) = (TempDir::new().unwrap(), free_port());
        let path = file(&dir, &server, FAST, &format!("http://127.0.0.1:{port}/"), "");
        let hub = Hub::new(&server, Layout::Zset);
        let live = hub.live(20).await;
        let pinging = hub.ping_every(FAST.heartbeat, &live);
        let daemon = settle(Binary::new(["run", "--config", &path])).await;
        pinging.silence(&live[..2]);
        evicts(&daemon, 2).await;
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("[guard]\nmax_evict_rate = 400\n{text}")).unwrap();
        for reloads in 1..=3 {
            daemon.signal(Signal::HUP);
            eventually(SOON, async || daemon.stderr().matches(" reloaded").count() == reloads).await;
        }

        let receiver = Receiver::at(port, 200).await;
        let delivered = async || metric(&daemon, "webhook_delivered_total", None).await;
        eventually(SOON, async || delivered().await == Some(2.0)).await;
        assert_eq!(receiver.told().into_iter().collect::<BTreeSet<_>>(), live[..2].iter().cloned().collect());

        let other = Receiver::answering(200).await;
        std::fs::write(&path, text.replace(&format!(":{port}/"), &format!(":{}/", other.port))).unwrap();
        daemon.signal(Signal::HUP);
        eventually(SOON, async || daemon.stderr().matches(" reloaded").count() == 4).await;
        pinging.silence(&live[2..3]);
        eventually(SOON, async || delivered().await == Some(3.0)).await;
        assert_eq!((other.told(), receiver.told().len()), (live[2..3].to_vec(), 2));
    }

    /// What a receiver will never have is found among the others, which it gets, and stands aside until it will have it.
    async fn what_is_refused_for_what_it_says_is_set_aside(server: Server) {
        let (dir, receiver) = (TempDir::new().unwrap(), Receiver::answering(404).await);
        let path = file(&dir, &server, FAST, &receiver.url(), ", outbox = true");
        let hub = Hub::new(&server, Layout::Zset);
        let live = hub.live(20).await;
        let pinging = hub.ping_every(FAST.heartbeat, &live);
        let user = Confined::make(&server, "teller", &["--acl"], &["--config".to_owned(), path.clone()]).await;
        let mut daemon = settle(user.run(Binary::new(["run", "--config", &path]))).await;
        pinging.silence(&live[..5]);
        evicts(&daemon, 5).await;
        eventually(SOON, async || failures(&daemon, "refused").await >= 2.0).await;
        assert_eq!(outbox(&server).await, 5, "a wrong URL is for a person to mend");

        receiver.refuses(&live[2]);
        receiver.answers(200);
        eventually(SOON, async || outbox(&server).await == 0).await;

        let told = |receiver: &Receiver| {
            receiver.taken().iter().map(|event| event["payload"]["id"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
        };
        let others: BTreeSet<String> = live[..5].iter().filter(|id| **id != live[2]).cloned().collect();
        assert_eq!(told(&receiver), others);
        assert_eq!(receiver.taken().len(), 4, "and none twice");
        assert_eq!(length(&server, "refused").await, 1);
        assert!(failures(&daemon, "unacceptable").await >= 1.0);
        eventually(SOON, async || metric(&daemon, "webhook_set_aside", None).await == Some(1.0)).await;
        assert_eq!(metric(&daemon, "webhook_lost_total", Some(("reason", "refused"))).await, Some(0.0));
        assert!(daemon.stderr().contains("it is set aside"), "{}", daemon.stderr());

        // Those who come later do not wait behind it, and it is tried again by whoever leads next.
        pinging.silence(&live[5..6]);
        eventually(SOON, async || told(&receiver).contains(&live[5])).await;
        let refused = receiver.posts().iter().filter(|post| post.status == 422).flat_map(Post::events)
            .find(|event| event["payload"]["id"] == live[2].as_str()).unwrap();
        daemon.terminate();
        daemon.wait(SOON).await.assert_code(0);
        receiver.refuses("nobody");
        daemon = settle(user.run(Binary::new(["run", "--config", &path]))).await;
        eventually(SOON, async || length(&server, "refused").await == 0).await;
        let again = receiver.taken().into_iter().filter(|event| event["payload"]["id"] == live[2].as_str());
        assert_eq!(again.collect::<Vec<_>>(), [refused], "by the id that it had");
        eventually(SOON, async || metric(&daemon, "webhook_set_aside", None).await == Some(0.0)).await;
        user.assert_nothing_was_refused(&server).await;
    }

    /// Neither stream is read beyond a number and a size, and one event is read whatever its size.
    async fn an_outbox_is_read_in_bounds(server: Server) {
        let edge = Edge::on(&server, &with("{ webhook = \"http://c/\", outbox = true }"));
        let mut client = server.client().await;
        let ids = put_aged(&mut client, Layout::Zset, &[OLD; 1]).await;
        edge.evict(&ids).await;
        let [key] = &ask::<Vec<String>>(&mut client, "KEYS presence-reaper:*:outbox").await[..] else { panic!("one") };
        run(&mut client, &[&format!("DEL {key}")]).await;
        for (number, size) in [300, 300, 300, 5_000, 1].into_iter().enumerate() {
            let text = number.to_string().repeat(size);
            let at = if number == 4 { "4-123456789012345678".to_owned() } else { format!("4-{number}") };
            run(&mut client, &[&format!("XADD {key} {at} text {text}")]).await;
        }
        let outbox = edge.store.outbox();
        let sizes = |page: &Page| page.waiting.iter().map(|one| one.text.len()).collect::<Vec<_>>();
        for (events, bytes, expected) in
            [(10, 700, vec![300, 300]), (2, 5_000, vec![300; 2]), (1, 1, vec![300]), (9, 9_000, vec![300, 300, 300, 5_000, 1])]
        {
            let page = outbox.read(Bounds { events, bytes }).await.unwrap();
            assert_eq!((sizes(&page), page.length), (expected, 5), "{events} {bytes}");
        }
        outbox.remove(&["4-0", "4-1", "4-2"]).await.unwrap();
        let page = outbox.read(Bounds { events: 10, bytes: 700 }).await.unwrap();
        assert_eq!((sizes(&page), page.length), (vec![5_000], 2));

        // What is set aside moves in one step, whatever its id, and once; what is there no more does not.
        for (entry, counts) in [("4-3", [1, 0]), ("4-3", [1, 0]), ("4-123456789012345678", [2, 0])] {
            assert_eq!(outbox.set_aside(entry, &format!("x:{entry}")).await.unwrap(), counts);
        }
        assert_eq!(outbox.lengths().await.unwrap(), [0, 2]);
        let (day, all) = (Duration::from_secs(86_400), Bounds { events: 10, bytes: 10_000 });
        let page = outbox.set_aside_within(day, None, all).await.unwrap();
        assert_eq!(page.waiting.iter().map(|one| one.event.as_deref()).collect::<Vec<_>>(), [Some("x:4-3"), Some("x:4-123456789012345678")]);
        let behind = outbox.set_aside_within(day, Some(&page.waiting[0].id), all).await.unwrap();
        assert_eq!(behind.waiting, page.waiting[1..]);
        tokio::time::sleep(Duration::from_millis(5)).await;
        let late = outbox.set_aside_within(Duration::from_millis(1), None, all).await.unwrap();
        assert_eq!((late.waiting.len(), late.length), (0, 2), "tried no more, and kept");

        // Of too many the oldest make room; one of another type leaves all as it is.
        let aside = key.replace(":outbox", ":refused");
        let fill = "for i = 1, 10000 do redis.call('XADD', KEYS[1], '*', 'text', 'x') end";
        redis::cmd("EVAL").arg(fill).arg(1).arg(&aside).query_async::<()>(&mut client).await.unwrap();
        run(&mut client, &[&format!("XADD {key} * text x")]).await;
        let entry = outbox.read(all).await.unwrap().waiting[0].id.clone();
        assert_eq!(outbox.set_aside(&entry, "x").await.unwrap(), [10_000, 3]);

        // The page shows how to put back what was set aside: a thousand at a time.
        let page = include_str!("../../docs/language.md");
        let script = page.split_once("redis-cli EVAL \"").unwrap().1.split_once("\" 2 ").unwrap().0;
        redis::cmd("EVAL").arg(script).arg(2).arg(&aside).arg(key).query_async::<()>(&mut client).await.unwrap();
        assert_eq!(outbox.lengths().await.unwrap(), [1_000, 9_000]);
        assert_eq!(outbox.read(all).await.unwrap().waiting[0].event, None, "as new events");
        run(&mut client, &[&format!("DEL {key}")]).await;
        run(&mut client, &[&format!("DEL {aside}"), &format!("SET {aside} x"), &format!("XADD {key} * text y")]).await;
        let entry = outbox.read(all).await.unwrap().waiting[0].id.clone();
        assert!(outbox.set_aside(&entry, "x").await.is_err());
        assert_eq!(outbox.read(all).await.unwrap().length, 1);
    }

    /// A receiver behind TLS is believed by the CAs that its file holds now, and told with the secret that stands in its
    /// file now.
    async fn files_are_read_anew(server: Server) {
        let [ours, other] = ["ours", "another"].map(Authority::new);
        let (dir, receiver) = (TempDir::new().unwrap(), Receiver::trusted_by(&ours, 200).await);
        let [ca_file, secret] = ["ca.pem", "secret"].map(|name| dir.path().join(name));
        let trust = |authority: &Authority| _ = std::fs::copy(authority.ca_file(), &ca_file).unwrap();
        let more = format!(", ca_file = \"{}\", secret_file = \"{}\"", ca_file.display(), secret.display());
        let url = format!("https://localhost:{}/", receiver.port);
        let path = file(&dir, &server, FAST, &url, &more);
        let hub = Hub::new(&server, Layout::Zset);
        let live = hub.live(20).await;
        let pinging = hub.ping_every(FAST.heartbeat, &live);
        trust(&other);
        std::fs::write(&secret, "first\n").unwrap();
        let daemon = settle(Binary::new(["run", "--config", &path])).await;

        pinging.silence(&live[..1]);
        eventually(SOON, async || failures(&daemon, "tls").await >= 1.0).await;
        assert!(receiver.posts().is_empty(), "nobody is told whom we do not trust");
        assert!(daemon.stderr().contains("UnknownIssuer"), "{}", daemon.stderr());
        trust(&ours);
        eventually(SOON, async || receiver.taken().len() == 1).await;

        // A CA that is taken out is believed no more, though the last handshake was well.
        let failed = failures(&daemon, "tls").await;
        trust(&other);
        std::fs::write(&secret, "second\n").unwrap();
        pinging.silence(&live[1..2]);
        eventually(SOON, async || failures(&daemon, "tls").await > failed).await;
        assert_eq!(receiver.posts().len(), 1);
        trust(&ours);
        eventually(SOON, async || receiver.taken().len() == 2).await;
        let posts = receiver.posts();
        assert!(posts[0].is_signed_by("first") && posts[1].is_signed_by("second"));
    }

    /// A single run says how many events nobody was told of: refused for good, set aside, or not taken when it was told to stop.
    async fn once_says_what_it_did_not_deliver(server: Server) {
        let hub = Hub::new(&server, Layout::Zset);
        let live = hub.live(10).await;
        let pinging = hub.ping_every(STEADY.heartbeat, &live);
        is_old_enough(&server, STEADY).await;
        for (status, more) in [(404, ""), (422, ", outbox = true"), (503, "")] {
            let (dir, receiver) = (TempDir::new().unwrap(), Receiver::answering(status).await);
            let path = file(&dir, &server, STEADY, &receiver.url(), more);
            hub.stale(2, Duration::from_secs(3600)).await;

            let once = Binary::new(["--once", "-o", "json", "--config", &path]).spawn();
            if status == 503 {
                eventually(SOON, async || !receiver.posts().is_empty()).await;
                once.terminate();
            }
            let once = once.wait(SOON).await;

            assert_eq!(only_source(&once.json())["evicted"], 2, "{status}: {}", once.stderr);
            let said = "2 events of source cli were not delivered to its webhook";
            assert!(once.stderr.contains(said), "{status}: {}", once.stderr);
        }
        pinging.stop().await;
    }

    /// What waits in a queue is told before a daemon ends; what nobody takes in time is lost, and said to be.
    async fn a_daemon_that_stops_tells_what_waits(server: Server) {
        let (dir, receiver) = (TempDir::new().unwrap(), Receiver::answering(500).await);
        let path = file(&dir, &server, FAST, &receiver.url(), "");
        let hub = Hub::new(&server, Layout::Zset);
        let live = hub.live(20).await;
        let pinging = hub.ping_every(FAST.heartbeat, &live);
        for (gone, status) in [(&live[..1], 200), (&live[1..2], 500)] {
            let daemon = settle(Binary::new(["run", "--config", &path])).await;
            receiver.answers(500);
            let before = receiver.posts().len();
            pinging.silence(gone);
            eventually(SOON, async || receiver.posts().len() > before).await;
            daemon.terminate();
            receiver.answers(status);
            let ended = daemon.wait(SOON).await;
            ended.assert_code(0);
            let lost = ended.stderr.contains("stopped before everything was delivered");
            let told = receiver.taken().iter().any(|event| event["payload"]["id"] == gone[0].as_str());
            assert_eq!((told, lost), (status == 200, status == 500), "{}", ended.stderr);
        }
    }

    /// An outbox that is not configured any more is spoken of, while it holds anything. Receivers are told ids as they are:
    /// what is hidden is what we say of them ourselves.
    async fn what_is_left_in_an_outbox_is_said_and_redaction_is_not_for_receivers(server: Server) {
        let (dir, receiver) = (TempDir::new().unwrap(), Receiver::answering(500).await);
        let with_outbox = file(&dir, &server, FAST, &receiver.url(), ", outbox = true");
        let hub = Hub::new(&server, Layout::Zset);
        let live = hub.live(20).await;
        let pinging = hub.ping_every(FAST.heartbeat, &live);
        let daemon = settle(Binary::new(["run", "--redact", "--config", &with_outbox])).await;
        pinging.silence(&live[..1]);
        evicts(&daemon, 1).await;
        eventually(SOON, async || receiver.told().contains(&live[0])).await;
        let status = daemon.get("/status").await.unwrap().body;
        daemon.terminate();
        let ended = daemon.wait(SOON).await;
        assert!(!ended.assert_code(0).stderr.contains(&live[0]) && !status.contains(&live[0]), "{}", ended.stderr);
        assert!(ended.stderr.contains("redacted-"), "{}", ended.stderr);
        assert!(ended.stderr.contains("what is left in the outbox is delivered by the next process"), "{}", ended.stderr);
        assert_eq!(outbox(&server).await, 1);

        let text = std::fs::read_to_string(&with_outbox).unwrap();
        std::fs::write(&with_outbox, text.replace(", outbox = true", "")).unwrap();
        let user = Confined::make(&server, "silent", &["--acl"], &["--config".to_owned(), with_outbox.clone()]).await;
        let daemon = settle(user.run(Binary::new(["run", "--config", &with_outbox]))).await;
        eventually(SOON, async || daemon.stderr().contains("events are left in an outbox")).await;
        user.assert_nothing_was_refused(&server).await;
        assert_eq!(outbox(&server).await, 1);
    }
}
