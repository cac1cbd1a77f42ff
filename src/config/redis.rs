//! The `[redis]` table and its URL.
//!
//! No message shows a piece of the URL: where a password holds a `/` or an `@`, any piece may be part of it.

use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::time::Duration;

use super::problem::Place;
use super::reader::{At, Bounds, Notes, Table, database, duration, text};
use crate::language::{Mistake, shown, words};
use crate::store::connect::{Endpoint, Password, Protocol, Settings};
use crate::store::tls::{self, IdentityFiles};

const TIMEOUTS: Bounds = Bounds {
    least: Duration::from_millis(1),
    most: Duration::from_secs(60),
    why: "what takes longer is an outage, and must be seen as one",
};

const DEFAULT_PORT: u16 = 6379;

/// The longest path that fits an address of a socket, whose end is a zero byte.
const LONGEST_SOCKET: usize = 107;

/// What a URL says.
#[derive(Debug, PartialEq, Eq)]
struct Url {
    target: Target,
    username: Option<String>,
    password: Option<String>,
    db: Option<u16>,
    protocol: Protocol,
}

/// Where a URL leads.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    Host { host: String, port: u16, tls: bool },
    Socket(PathBuf),
}

/// The options of TLS, which only a URL with TLS may stand beside.
struct TlsOptions {
    ca_file: Option<At<PathBuf>>,
    cert_file: Option<At<PathBuf>>,
    key_file: Option<At<PathBuf>>,
    server_name: Option<At<String>>,
}

/// Reads the table.
pub(super) fn read(mut table: Table, credential: Option<PathBuf>, notes: &mut Notes) -> Settings {
    let before = notes.problems.len();
    let url = table.get(notes, "url", |value| Url::parse(text(value)?));
    let username = table.get(notes, "username", |value| text(value).map(str::to_owned));
    let password = table.get(notes, "password", |value| text(value).map(str::to_owned));
    let password_file = table.get(notes, "password_file", |value| text(value).map(PathBuf::from));
    let connect_timeout = table.get(notes, "connect_timeout", |value| duration(value, &TIMEOUTS));
    let response_timeout = table.get(notes, "response_timeout", |value| duration(value, &TIMEOUTS));
    let db = table.take_from_flag("db");
    let db = db.and_then(|entry| table.read(notes, "db", &entry.node, database));
    let tls = TlsOptions::take(&mut table, notes);

    let url = url.unwrap_or(At { value: Url::default(), place: Place::Nowhere });
    if matches!(url.place, Place::Flag(_)) && url.value.password.is_some() {
        let mistake = Mistake::new("a password does not belong on the command line, where every process can read it");
        notes.mistake(
            &url.place,
            "url",
            &table,
            mistake.hint("write it to a file for --redis-password-file, or into PRESENCE_REAPER_REDIS__PASSWORD"),
        );
    }
    let from_url = |part: Option<String>| part.map(|value| At { value, place: url.place.clone() });
    let url_db = url.value.db.map(|value| At { value, place: url.place.clone() });
    let db = either(db, url_db, ("db", "database"), &table, notes);
    let username = either(username, from_url(url.value.username.clone()), ("username", "user"), &table, notes);
    let username = username.filter(|name| !name.value.is_empty());
    let password = match choose_password(password, password_file, from_url(url.value.password.clone()), &table, notes) {
        Password::None => credential.map_or(Password::None, Password::File),
        chosen => chosen,
    };
    if let (Some(name), Password::None) = (&username, &password)
        && notes.problems.len() == before
    {
        let mistake = Mistake::new("a user without a password: Redis takes the two together");
        notes.mistake(&name.place, "username", &table, mistake.hint("add `password` or `password_file`"));
    }
    let endpoint = endpoint(url.value.target, &url.place, tls, &table, notes);
    table.finish(notes);
    Settings {
        endpoint,
        protocol: url.value.protocol,
        db: db.map_or(0, |read| read.value),
        username: username.map(|read| read.value),
        password,
        connect_timeout: connect_timeout.map_or(Duration::from_secs(2), |read| read.value),
        response_timeout: response_timeout.map_or(Duration::from_secs(1), |read| read.value),
    }
}

/// Where the URL leads, with the options that belong there.
fn endpoint(target: Target, url: &Place, tls: TlsOptions, table: &Table, notes: &mut Notes) -> Endpoint {
    let (host, port) = match target {
        Target::Host { host, port, tls: true } => (host, port),
        Target::Host { host, port, tls: false } => {
            tls.refuse("the URL is one without TLS", "write rediss:// in `url`, or leave this out", table, notes);
            return Endpoint::Tcp { host, port };
        }
        Target::Socket(path) => {
            tls.refuse("the URL names a unix socket, where there is no TLS", "leave this out", table, notes);
            return Endpoint::Unix(path);
        }
    };
    if tls.server_name.is_none() && !tls::is_server_name(&host) {
        let mistake = Mistake::new("no certificate can be for the host of the URL");
        notes.mistake(url, "url", table, mistake.hint("say the right name by `server_name` in [redis]"));
    }
    Endpoint::Tls { host, port, tls: tls.settings(table, notes) }
}

impl TlsOptions {
    fn take(table: &mut Table, notes: &mut Notes) -> Self {
        let mut path = |key| {
            let path = table.get(notes, key, |value| text(value).map(PathBuf::from));
            path.filter(|path| !path.value.as_os_str().is_empty())
        };
        let (ca_file, cert_file, key_file) = (path("ca_file"), path("cert_file"), path("key_file"));
        let server_name = table.get(notes, "server_name", |value| match text(value)? {
            name if name.is_empty() || tls::is_server_name(name) => Ok(name.to_owned()),
            name => Err(Mistake::new(format!("`{}` is no name of a host", shown(name.as_bytes())))
                .hint("write the name alone, as the certificate has it: \"redis.example.com\"")),
        });
        Self { ca_file, cert_file, key_file, server_name: server_name.filter(|name| !name.value.is_empty()) }
    }

    fn refuse(self, why: &str, hint: &str, table: &Table, notes: &mut Notes) {
        let Self { ca_file, cert_file, key_file, server_name } = self;
        let given = [("ca_file", ca_file), ("cert_file", cert_file), ("key_file", key_file)];
        let given = given.into_iter().filter_map(|(key, path)| Some((key, path?.place)));
        for (key, place) in given.chain(server_name.map(|name| ("server_name", name.place))) {
            let mistake = Mistake::new(format!("it is for TLS, and {why}"));
            notes.mistake(&place, key, table, mistake.hint(hint));
        }
    }

    fn settings(self, table: &Table, notes: &mut Notes) -> tls::Settings {
        let alone = |place: &Place, key, what, other, notes: &mut Notes| {
            notes.mistake(place, key, table, Mistake::new(what).hint(format!("add `{other}`, or leave both out")));
        };
        let identity = match (self.cert_file, self.key_file) {
            (Some(cert), Some(key)) => Some(IdentityFiles { cert_file: cert.value, key_file: key.value }),
            (Some(cert), None) => {
                alone(&cert.place, "cert_file", "a certificate without its key proves nothing", "key_file", notes);
                None
            }
            (None, Some(key)) => {
                alone(&key.place, "key_file", "a key without its certificate proves nothing", "cert_file", notes);
                None
            }
            (None, None) => None,
        };
        let ca_file = self.ca_file.map(|read| read.value);
        tls::Settings { ca_file, identity, server_name: self.server_name.map(|read| read.value) }
    }
}

/// The setting that holds: the one from the higher place. Two from the same place must agree.
fn either<T: PartialEq>(
    own: Option<At<T>>,
    from_url: Option<At<T>>,
    (key, what): (&str, &str),
    table: &Table,
    notes: &mut Notes,
) -> Option<At<T>> {
    match (own, from_url) {
        (Some(own), Some(url)) => {
            if own.place.outranks(&url.place) {
                return Some(own);
            }
            if !url.place.outranks(&own.place) && own.value != url.value {
                let mistake = Mistake::new(format!("the URL names another {what}"));
                notes.mistake(&own.place, key, table, mistake.hint("keep one of the two"));
            }
            Some(url)
        }
        (own, url) => own.or(url),
    }
}

fn choose_password(
    text: Option<At<String>>,
    file: Option<At<PathBuf>>,
    from_url: Option<At<String>>,
    table: &Table,
    notes: &mut Notes,
) -> Password {
    let text = either(text, from_url, ("password", "password"), table, notes).filter(|text| !text.value.is_empty());
    let file = file.filter(|file| !file.value.as_os_str().is_empty());
    match (text, file) {
        (Some(text), Some(file)) if text.place.outranks(&file.place) => Password::Text(text.value),
        (Some(text), Some(file)) => {
            if !file.place.outranks(&text.place) {
                let mistake = Mistake::new("both a password and a password file are set, and only one can count");
                notes.mistake(
                    &file.place,
                    "password_file",
                    table,
                    mistake.hint("keep `password_file`: it is read again at every connect"),
                );
            }
            Password::File(file.value)
        }
        (Some(text), None) => Password::Text(text.value),
        (None, Some(file)) => Password::File(file.value),
        (None, None) => Password::None,
    }
}

// === impl Url ===

impl Default for Url {
    fn default() -> Self {
        let target = Target::Host { host: "127.0.0.1".to_owned(), port: DEFAULT_PORT, tls: false };
        Self { target, username: None, password: None, db: None, protocol: Protocol::default() }
    }
}

/// What stands behind the `?` of a URL.
#[derive(Default)]
struct Parameters {
    db: Option<u16>,
    protocol: Option<Protocol>,
}

const ENCODE: &str = "in a user name or password, write / as %2F, @ as %40, : as %3A, ? as %3F, # as %23 and % as %25";

impl Url {
    /// Reads `redis[s]://[user[:password]@]host[:port][/db]` or `unix://[user[:password]@]/path[?db=N]`.
    fn parse(url: &str) -> Result<Self, Mistake> {
        let form = "write redis://host:6379/0, or redis://user@host:6379/0 and the password in `password_file`";
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(Mistake::new("this is no URL of a Redis").hint(form));
        };
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "redis" | "valkey" => Some(false),
            "rediss" | "valkeys" => Some(true),
            "unix" | "redis+unix" | "valkey+unix" => None,
            _ => {
                let what = "the URL does not begin with redis://, rediss:// or unix://";
                return Err(Mistake::new(what).hint(form));
            }
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at(end);
        if tail.contains('@') {
            return Err(Mistake::new("an `@` stands behind the host of the URL").hint(ENCODE));
        }
        let (path, extra) = tail.split_at(tail.find(['?', '#']).unwrap_or(tail.len()));
        let parameters = Parameters::parse(extra, tls.is_none())?;
        let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        let (username, password) = match user.map(|user| user.split_once(':').unwrap_or((user, ""))) {
            None => (None, None),
            Some((name, password)) => {
                let decoded = |text| {
                    decoded(text).ok_or_else(|| {
                        Mistake::new("the user name or password in the URL is not well encoded").hint(ENCODE)
                    })
                };
                (Some(decoded(name)?), Some(decoded(password)?))
            }
        };
        let given = |part: Option<String>| part.filter(|text| !text.is_empty());
        let (target, db) = match tls {
            Some(tls) => {
                let (host, port) = host_and_port(host)?;
                (Target::Host { host, port, tls }, database_of(path)?)
            }
            None => (Target::Socket(socket(host, path)?), parameters.db),
        };
        let protocol = parameters.protocol.unwrap_or_default();
        Ok(Self { target, username: given(username), password: given(password), db, protocol })
    }
}

impl Parameters {
    /// Reads `?name=value&…`; the database stands there only where the path is a socket's.
    fn parse(extra: &str, of_socket: bool) -> Result<Self, Mistake> {
        let known = if of_socket {
            "the URL of a socket takes `db=3`, `protocol=resp2` and `protocol=resp3`; a user or password has its own setting"
        } else {
            "it takes `protocol=resp2` and `protocol=resp3`; the database stands before it, as in redis://host:6379/3"
        };
        let mut parameters = Self::default();
        let Some(text) = extra.strip_prefix('?') else {
            let mistake = Mistake::new("the URL has a `#`, and nothing can stand behind it");
            let mistake = mistake.hint(format!("a certificate is always verified; {ENCODE}"));
            return if extra.is_empty() { Ok(parameters) } else { Err(mistake) };
        };
        for parameter in text.split('&') {
            let twice = || Mistake::new("a parameter of the URL stands there twice").hint("keep one of the two");
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match (name, value) {
                ("db", number) if of_socket && parameters.db.is_none() => {
                    parameters.db = database_of(&format!("/{number}"))?;
                }
                ("protocol", "resp2" | "resp3") if parameters.protocol.is_none() => {
                    parameters.protocol = Some(if value == "resp2" { Protocol::Resp2 } else { Protocol::Resp3 });
                }
                ("db", _) if of_socket => return Err(twice()),
                ("protocol", "resp2" | "resp3") => return Err(twice()),
                _ => return Err(Mistake::new("the URL has a parameter that is not known here").hint(known)),
            }
        }
        Ok(parameters)
    }
}

fn database_of(path: &str) -> Result<Option<u16>, Mistake> {
    match path.strip_prefix('/').unwrap_or_default() {
        "" => Ok(None),
        number if number.bytes().all(|b| b.is_ascii_digit()) => {
            let wrong = |_| Mistake::new("the database number of the URL is not between 0 and 65535");
            number.parse().map(Some).map_err(wrong)
        }
        _ => Err(Mistake::new("what stands behind the host of the URL is no database number")
            .hint("write redis://host:6379/0")),
    }
}

fn socket(host: &str, path: &str) -> Result<PathBuf, Mistake> {
    let form = "write three slashes: unix:///run/redis/redis.sock?db=0";
    if !host.is_empty() {
        return Err(Mistake::new("a unix socket has no host").hint(form));
    }
    match decoded(path) {
        Some(path) if path.len() > LONGEST_SOCKET => {
            Err(Mistake::new(format!("the path of a unix socket has at most {LONGEST_SOCKET} bytes")))
        }
        Some(path) if path.len() > 1 && !path.contains('\0') => Ok(PathBuf::from(path)),
        _ => Err(Mistake::new("the URL names no unix socket").hint(form)),
    }
}

fn host_and_port(text: &str) -> Result<(String, u16), Mistake> {
    let wrong = || {
        Mistake::new("the host of the URL cannot be read").hint("write redis://host:6379/0, an IPv6 address as [::1]")
    };
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or_else(wrong)?;
        address.parse::<Ipv6Addr>().map_err(|_| wrong())?;
        (address, if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or_else(wrong)?) })
    } else {
        text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)))
    };
    let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if host.is_empty() || !host.chars().all(named) {
        return Err(wrong());
    }
    let port = match port {
        None | Some("") => DEFAULT_PORT,
        Some(port) => port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| Mistake::new("the port of the URL is not between 1 and 65535"))?,
    };
    Ok((host.to_owned(), port))
}

/// `%HH` → the byte; none where that is no UTF-8 or no two digits.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let (byte, after) = if *first == b'%' { words::hex(after)? } else { (*first, after) };
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}
