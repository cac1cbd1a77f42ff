//! Connections that come to nothing: one sentence with its remedy, soon, and an exit code.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;

use crate::harness::{Authority, Binary, Finished, Kind, Leaf, Server, Tls};

/// How soon a person at a terminal must be told.
const SOON: Duration = Duration::from_secs(3);

/// What the sentences say in place of ports and directories, which differ each time.
struct Masks<'m>(Vec<(String, &'m str)>);

impl Masks<'_> {
    fn put_on(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
    }
}

/// One audit by flags, timed.
async fn audit(args: &[&str], environment: &[(&str, &str)]) -> Finished {
    let binary = Binary::new(["--dry-run", "--zset", "presence:online"]).args(args);
    timed(environment.iter().fold(binary, |binary, (name, value)| binary.env(name, value))).await
}

async fn timed(binary: Binary) -> Finished {
    let began = Instant::now();
    let run = binary.run().await;
    assert!(began.elapsed() < SOON, "took {:?}:\n{}", began.elapsed(), run.stderr);
    run
}

#[track_caller]
fn assert_sentence(title: &str, run: &Finished, masks: &Masks<'_>, code: i32, sentence: &str) {
    let said = masks.put_on(run.assert_code(code).stderr.trim_end());
    assert_eq!(said, format!("error: {sentence}"), "{title}");
}

/// What it is, flags, variables, and the sentence.
type Case<'c> = (&'c str, Vec<String>, &'c [(&'c str, &'c str)], &'c str);

/// Every sentence about TLS.
#[tokio::test]
async fn tls_that_does_not_come_about_says_why() {
    let authority = Authority::new("the tests' CA");
    let stranger = Authority::new("another CA");
    let dir = authority.dir().to_owned();
    let server_with = async |name, leaf, client_certificates| {
        let (cert_file, key_file) = authority.issue(name, leaf);
        let tls = Tls { cert_file, key_file, ca_file: authority.ca_file(), client_certificates };
        let protocols = if name.ends_with("1.2") { "TLSv1.2" } else { "TLSv1.2 TLSv1.3" };
        Server::builder(Kind::Redis).tls(tls).args(["--tls-protocols", protocols]).start().await
    };
    let good = server_with("good", Leaf::GOOD, false).await;
    let other_names = Leaf { names: &["redis.example.com", "10.0.0.7"], ..Leaf::GOOD };
    let wrong_name = server_with("wrong-name", other_names, false).await;
    let expired = server_with("expired", Leaf { to: 2021, ..Leaf::GOOD }, false).await;
    let early = server_with("early", Leaf { from: 2080, ..Leaf::GOOD }, false).await;
    let mutual = server_with("mutual", Leaf::GOOD, true).await;
    let older = server_with("mutual-by-1.2", Leaf::GOOD, true).await;
    let itself = Server::builder(Kind::Redis).tls(authority.as_server()).start().await;
    let empty = dir.join("empty.pem");
    fs::write(&empty, "no certificate\n").unwrap();
    let (cert, key) = authority.issue("reaper", Leaf::GOOD);
    let (_, other_key) = authority.issue("other", Leaf::GOOD);
    let (late_cert, late_key) = authority.issue("late", Leaf { to: 2021, ..Leaf::GOOD });
    let (strange_cert, strange_key) = stranger.issue("stranger", Leaf::GOOD);

    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let ca = text(&authority.ca_file());
    let roots = [("SSL_CERT_FILE", &*text(&stranger.ca_file())), ("SSL_CERT_DIR", "/nowhere")];
    let nothing = [("SSL_CERT_FILE", "/nowhere/ca.pem"), ("SSL_CERT_DIR", "/nowhere")];
    let mut masks = Masks(vec![(text(&dir), "<dir>"), (text(stranger.dir()), "<other>")]);
    // Why, the server says in an alert, and a reset that comes on its heels may take that away.
    masks.0.extend([": its CA is unknown there", ": it has expired"].map(|why| (why.to_owned(), "")));
    for server in [&good, &wrong_name, &expired, &early, &mutual, &older, &itself] {
        masks.0.push((server.tls_port().to_string(), "<tls>"));
        masks.0.push((server.port().to_string(), "<plain>"));
    }
    let tls = |server: &Server| format!("rediss://localhost:{}", server.tls_port());
    let with_ca =
        |server: &Server| vec!["--redis-url".to_owned(), tls(server), "--redis-tls-ca-file".into(), ca.clone()];
    let with_identity = |server: &Server, cert: &Path, key: &Path| {
        let files = ["--redis-tls-cert-file".to_owned(), text(cert), "--redis-tls-key-file".into(), text(key)];
        [with_ca(server), files.to_vec()].concat()
    };
    let by = |url: String| vec!["--redis-url".to_owned(), url];

    let table: Vec<Case<'_>> = vec![
        (
            "plain to a TLS port",
            by(format!("redis://localhost:{}", good.tls_port())),
            &[],
            "connecting: redis at localhost:<tls>: it speaks TLS, and the URL says plain \
             (write rediss:// in `url` of [redis] or in --redis-url)",
        ),
        (
            "TLS to a plain port",
            vec![
                "--redis-url".into(),
                format!("rediss://localhost:{}", good.port()),
                "--redis-tls-ca-file".into(),
                ca.clone(),
            ],
            &[],
            "connecting: redis at localhost:<plain> over TLS: it speaks plain, and the URL says TLS (name its TLS port \
             in `url` of [redis], or write redis:// if the way there can be trusted)",
        ),
        (
            "a CA that the system does not know",
            by(tls(&good)),
            &roots,
            "connecting: redis at localhost:<tls> over TLS: the certificate of the server is signed by no CA that this \
             system trusts (name the file of its CA by `ca_file` in [redis] or --redis-tls-ca-file)",
        ),
        (
            "another CA than the operator's",
            vec!["--redis-url".into(), tls(&good), "--redis-tls-ca-file".into(), text(&stranger.ca_file())],
            &[],
            "connecting: redis at localhost:<tls> over TLS: the certificate of the server is signed by no CA in \
             <other>/ca.pem (put the CA that signed it into `ca_file` in [redis], and let the server send what lies \
             between)",
        ),
        (
            "a system without CAs",
            by(tls(&good)),
            &nothing,
            "connecting: redis at localhost:<tls> over TLS: this system has no CA certificates: failed to read PEM \
             from file: No such file or directory (os error 2) at '/nowhere/ca.pem' (install ca-certificates, or name the \
             file of the server's CA by `ca_file` in [redis])",
        ),
        (
            "a CA file without a certificate",
            vec!["--redis-url".into(), tls(&good), "--redis-tls-ca-file".into(), text(&empty)],
            &[],
            "connecting: redis at localhost:<tls> over TLS: the CA file <dir>/empty.pem holds no certificate in PEM form \
             (it must hold at least one `-----BEGIN CERTIFICATE-----` block; see `ca_file` in [redis])",
        ),
        (
            "a CA file that is not there",
            vec!["--redis-url".into(), tls(&good), "--redis-tls-ca-file".into(), text(&dir.join("none.pem"))],
            &[],
            "connecting: redis at localhost:<tls> over TLS: the CA file <dir>/none.pem can't be read: No such file or \
             directory (os error 2) (see `ca_file` in [redis])",
        ),
        (
            "a certificate for another name",
            with_ca(&wrong_name),
            &[],
            "connecting: redis at localhost:<tls> over TLS: the certificate of the server is for redis.example.com, \
             10.0.0.7, not for localhost (connect by its name, or say that by `server_name` in [redis] or \
             --redis-tls-server-name)",
        ),
        (
            "an expired certificate",
            with_ca(&expired),
            &[],
            "connecting: redis at localhost:<tls> over TLS: the certificate of the server expired at \
             2021-01-01T00:00:00Z (renew it on the server, or mend the clock here)",
        ),
        (
            "a certificate that is not valid yet",
            with_ca(&early),
            &[],
            "connecting: redis at localhost:<tls> over TLS: the certificate of the server is not valid before \
             2080-01-01T00:00:00Z (mend the clock here or there)",
        ),
        (
            "the CA's own certificate",
            with_ca(&itself),
            &[],
            "connecting: redis at localhost:<tls> over TLS: the certificate of the server is that of a CA, as `openssl \
             req -x509` makes it (have one issued for the server by that CA, or make it with -addext \
             basicConstraints=critical,CA:FALSE)",
        ),
        (
            "no client certificate",
            with_ca(&mutual),
            &[],
            "connecting: redis at localhost:<tls> over TLS: the server asks for a client certificate and none is \
             configured (name it by `cert_file` and `key_file` in [redis], or set `tls-auth-clients no` on the server)",
        ),
        (
            "no client certificate in TLS 1.2, where the handshake itself fails",
            with_ca(&older),
            &[],
            "connecting: redis at localhost:<tls> over TLS: the server asks for a client certificate and none is \
             configured (name it by `cert_file` and `key_file` in [redis], or set `tls-auth-clients no` on the server)",
        ),
        (
            "a client certificate of an unknown CA",
            with_identity(&mutual, &strange_cert, &strange_key),
            &[],
            "connecting: redis at localhost:<tls> over TLS: the server refuses our certificate in <other>/stranger.pem \
             (is it of a CA that the server knows (`tls-ca-cert-file` there), and still valid?)",
        ),
        (
            "an expired client certificate",
            with_identity(&mutual, &late_cert, &late_key),
            &[],
            "connecting: redis at localhost:<tls> over TLS: the server refuses our certificate in <dir>/late.pem \
             (is it of a CA that the server knows (`tls-ca-cert-file` there), and still valid?)",
        ),
        (
            "a key of another certificate",
            with_identity(&mutual, &cert, &other_key),
            &[],
            "connecting: redis at localhost:<tls> over TLS: the key in <dir>/other.key does not belong to the \
             certificate in <dir>/reaper.pem (see `cert_file` and `key_file` in [redis])",
        ),
        (
            "a key file without a key",
            with_identity(&mutual, &cert, &empty),
            &[],
            "connecting: redis at localhost:<tls> over TLS: the key file <dir>/empty.pem holds no private key in PEM \
             form (it must not be encrypted; see `key_file` in [redis])",
        ),
    ];
    for (title, args, environment, sentence) in table {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        assert_sentence(title, &audit(&args, environment).await, &masks, 1, sentence);
    }
    for server in [&mutual, &older] {
        let args = with_identity(server, &cert, &key);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        audit(&args, &[]).await.assert_code(0);
    }
}

/// Every sentence about a socket.
#[tokio::test]
async fn a_socket_that_can_t_be_had_says_why() {
    let dir = TempDir::new().unwrap();
    let masks = Masks(vec![(dir.path().to_str().unwrap().to_owned(), "<dir>")]);
    let url = |name: &str| format!("unix://{}", dir.path().join(name).display());

    assert_sentence(
        "a missing socket",
        &audit(&["--redis-url", &url("none.sock")], &[]).await,
        &masks,
        1,
        "connecting: redis at <dir>/none.sock: there is no such socket (is Redis running, and is this its `unixsocket`? \
         see `url` in [redis])",
    );
    drop(UnixListener::bind(dir.path().join("left.sock")).unwrap());
    assert_sentence(
        "a socket that was left",
        &audit(&["--redis-url", &url("left.sock")], &[]).await,
        &masks,
        1,
        "connecting: redis at <dir>/left.sock: nobody listens at this socket (is Redis running, and is this its \
         `unixsocket`? see `url` in [redis])",
    );
}

/// A socket that is not for everybody.
#[tokio::test]
async fn a_socket_of_others_says_so() {
    use std::os::unix::fs::PermissionsExt;

    let server = Server::builder(Kind::Redis).args(["--unixsocketperm", "700"]).start().await;
    let dir = TempDir::new().unwrap();
    let open = dir.path().join("redis.sock");
    // The server's own directory is closed to others, which would answer before the socket could.
    std::os::unix::fs::symlink(server.socket(), &open).unwrap();
    fs::set_permissions(server.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    let masks = Masks(vec![(dir.path().to_str().unwrap().to_owned(), "<dir>")]);
    let args = ["--dry-run", "--zset", "presence:online", "--redis-url", &format!("unix://{}", open.display())];
    let binary = Binary::as_nobody(dir.path(), args).unwrap_or_else(|| {
        fs::set_permissions(server.socket(), fs::Permissions::from_mode(0o000)).unwrap();
        Binary::new(args)
    });

    assert_sentence(
        "no permission",
        &timed(binary).await,
        &masks,
        1,
        "connecting: redis at <dir>/redis.sock: the reaper's user may not open this socket (let that user into the \
         socket's group and directory, and set `unixsocketperm 770` on the server)",
    );
}

for_each_server! {
    /// Every sentence about a login.
    async fn a_login_that_is_refused_says_why(kind: Kind) {
        let server = Server::builder(kind).password("right").start().await;
        let open = Server::start(kind).await;
        let old = Server::builder(kind).args(["--rename-command", "HELLO", ""]).start().await;
        let dir = TempDir::new().unwrap();
        let password = dir.path().join("password");
        fs::write(&password, "wrong").unwrap();
        let mut masks = Masks(vec![(dir.path().to_str().unwrap().to_owned(), "<dir>")]);
        for server in [&server, &open, &old] {
            masks.0.push((server.port().to_string(), "<port>"));
        }
        let url = |server: &Server, rest: &str| format!("redis://127.0.0.1:{}{rest}", server.port());
        let file = password.to_str().unwrap();
        let none = dir.path().join("none").to_str().unwrap().to_owned();
        let table: &[(&str, Vec<String>, &str)] = &[
            (
                "a database out of range",
                vec![url(&open, "/99")],
                "connecting: redis at 127.0.0.1:<port>: database 99 can't be selected: DB index is out of range (choose another \
                 in the URL, by `db` of the source or by --db; the server's `databases` says how many it has)",
            ),
            (
                "the same in RESP2",
                vec![url(&open, "/99?protocol=resp2")],
                "connecting: redis at 127.0.0.1:<port>: database 99 can't be selected: DB index is out of range (choose another \
                 in the URL, by `db` of the source or by --db; the server's `databases` says how many it has)",
            ),
            (
                "a protocol that the server does not speak",
                vec![url(&old, "?protocol=resp3")],
                "connecting: redis at 127.0.0.1:<port>: it does not speak RESP3 (leave `protocol` out of the URL)",
            ),
            (
                "no password",
                vec![url(&server, "")],
                "connecting: redis at 127.0.0.1:<port>: NOAUTH Authentication required. (see `username`, `password` and \
                 `password_file` in [redis]; by hand, --redis-password-file)",
            ),
            (
                "a wrong password",
                vec![url(&server, ""), "--redis-password-file".into(), file.into()],
                "connecting: redis at 127.0.0.1:<port>: WRONGPASS invalid username-password pair or user is disabled. (see \
                 `username`, `password` and `password_file` in [redis]; by hand, --redis-password-file)",
            ),
            (
                "no password file",
                vec![url(&server, ""), "--redis-password-file".into(), none],
                "reading the password: redis at 127.0.0.1:<port>: <dir>/none can't be read: No such file or directory (os error 2) (see \
                 `username`, `password` and `password_file` in [redis]; by hand, --redis-password-file)",
            ),
        ];
        for (title, args, sentence) in table {
            let older = server.kind().version() < (6, 2);
            let sentence = sentence.replace(if older { " or user is disabled." } else { "\0" }, "");
            let args: Vec<&str> = std::iter::once("--redis-url").chain(args.iter().map(String::as_str)).collect();
            assert_sentence(title, &audit(&args, &[]).await, &masks, 1, &sentence);
        }
    }
}

/// What contradicts itself is refused before anything is dialled; the rest of these stand in the room of configuration.
#[tokio::test]
async fn contradictions_are_refused_at_once() {
    let table: &[(&[&str], &str)] = &[
        (
            &["--redis-url", "redis://:secret@localhost"],
            "flag --redis-url: a password does not belong on the command line, where every process can read it\n  \
             hint: write it to a file for --redis-password-file, or into PRESENCE_REAPER_REDIS__PASSWORD",
        ),
        (
            &["--redis-url", "redis://localhost", "--redis-tls-ca-file", "/ca.pem"],
            "flag --redis-tls-ca-file: it is for TLS, and the URL is one without TLS\n  \
             hint: write rediss:// in `url`, or leave this out",
        ),
        (
            &["--redis-url", "rediss://localhost", "--redis-tls-cert-file", "/cert.pem"],
            "flag --redis-tls-cert-file: a certificate without its key proves nothing\n  \
             hint: add `key_file`, or leave both out",
        ),
    ];
    for (args, sentence) in table {
        assert_sentence(sentence, &audit(args, &[]).await, &Masks(Vec::new()), 78, sentence);
    }
}
