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
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::edge::{Edge, ask, outcomes, put_aged, run, source};
use crate::harness::{Binary, Hub, Layout, Server, eventually, free_port};
use crate::world::{FAST, SOON, STEADY, evicts, is_old_enough, metric, only_source, settle};

const OLD: i64 = 600_000;

/// A `POST` as it came in.
#[derive(Clone, Debug)]
struct Post {
    delivery: String,
    signature: Option<String>,
    body: Vec<u8>,
}

impl Post {
    fn events(&self) -> Vec<Value> {
        let document: Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!((&document["schema_version"], &document["source"]), (&1.into(), &"cli".into()));
        document["events"].as_array().unwrap().clone()
    }
}

/// A receiver on loopback; what it answers is a test's to say.
struct Receiver {
    port: u16,
    posts: Arc<Mutex<Vec<Post>>>,
    answer: Arc<Mutex<u16>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Receiver {
    async fn answering(status: u16) -> Self {
        Self::at(0, status).await
    }

    async fn at(port: u16, status: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (posts, answer) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(status)));
        let (into, says) = (Arc::clone(&posts), Arc::clone(&answer));
        let serving = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (into, says) = (Arc::clone(&into), Arc::clone(&says));
                let service = service_fn(move |request| take(request, Arc::clone(&into), Arc::clone(&says)));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { port, posts, answer, serving }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hooks?token=quiet", self.port)
    }

    fn answers(&self, status: u16) {
        *self.answer.lock().unwrap() = status;
    }

    fn posts(&self) -> Vec<Post> {
        self.posts.lock().unwrap().clone()
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

/// An answer of 0 is none at all, for as long as anybody waits.
async fn take(
    request: Request<Incoming>,
    into: Arc<Mutex<Vec<Post>>>,
    says: Arc<Mutex<u16>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let header = |name: &str| Some(request.headers().get(name)?.to_str().unwrap().to_owned());
    let (delivery, signature) = (header("presence-reaper-delivery").unwrap(), header("presence-reaper-signature"));
    assert_eq!(header("content-type").as_deref(), Some("application/json"));
    assert!(header("user-agent").unwrap().starts_with("presence-reaper/"));
    let body = request.into_body().collect().await.unwrap().to_bytes().to_vec();
    into.lock().unwrap().push(Post { delivery, signature, body });
    let status = *says.lock().unwrap();
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
    let mut client = server.client().await;
    let keys: Vec<String> = ask(&mut client, "KEYS presence-reaper:*:outbox").await;
    match &keys[..] {
        [] => 0,
        [key] => ask(&mut client, &format!("XLEN {key}")).await,
        more => panic!("{more:?}"),
    }
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
        let (waiting, length) = edge.store.outbox().unwrap().read(10).await.unwrap();
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
        let [post, ..] = &receiver.posts()[..] else { panic!("a post") };
        let signature = post.signature.clone().unwrap();
        let (time, mac) = signature.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
        let signed = dir.path().join("signed");
        std::fs::write(&signed, [time.as_bytes(), b".", &post.body].concat()).unwrap();
        let openssl = std::process::Command::new("openssl").args(["dgst", "-sha256", "-hmac", "whsec"]).arg(&signed).output().unwrap();
        assert_eq!(String::from_utf8(openssl.stdout).unwrap().trim().rsplit(' ').next(), Some(mac));
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
}
