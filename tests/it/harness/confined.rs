//! The suite under the rights that the program asks for: with `PRESENCE_REAPER_TEST_ACL=1` whatever connects to a server of
//! the harness does so as a user of its own, made by the line of `check --acl` for its configuration, and a server that
//! refused such a user anything fails its test.
//!
//! Who names a user or a password is left as it is: it tests just that.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use presence_reaper::store::rights::Generation;

use super::server::Kind;

const VARIABLE: &str = "PRESENCE_REAPER_TEST_ACL";

/// What all these users are called, before a number.
const NAME: &str = "reaper-";

const SECRET: &str = "confined";

/// What a line begins with when the configuration names no user.
const UNNAMED: &str = "ACL SETUSER presence-reaper on <PASSWORD> ";

/// The flags that stand for settings, each with a value behind it.
const SETTINGS: [&str; 23] = [
    "--config",
    "-c",
    "--source",
    "--redis-url",
    "--listen",
    "--zset",
    "--hash",
    "--set",
    "--keys",
    "--last-ping",
    "--missing",
    "--audit-file",
    "--audit-stream",
    "--companion",
    "--threshold",
    "--heartbeat-interval",
    "--format",
    "--time-zone",
    "--db",
    "--log-level",
    "--log-format",
    "--redis-tls-ca-file",
    "--redis-tls-server-name",
];

/// Those without one.
const SWITCHES: [&str; 1] = ["--deadline"];

/// Words that do nothing on a server, or only ask what others may do.
const ELSEWHERE: [&str; 8] = ["demo", "completions", "man", "--help", "-h", "--version", "-V", "--acl"];

/// A user that a program or a connection is to be.
pub(crate) struct User {
    /// Its name.
    pub(crate) name: String,
    /// Its password.
    pub(crate) password: &'static str,
}

/// Whether the tests run like that.
pub(crate) fn wanted() -> bool {
    env::var_os(VARIABLE).is_some_and(|value| !value.is_empty())
}

// === who serves where ===

/// Where users are made, for what a URL names.
#[derive(Clone, Copy)]
enum Place {
    Server {
        port: u16,
        kind: Kind,
    },
    /// Another port leads there.
    Proxy {
        port: u16,
    },
}

static PLACES: Mutex<BTreeMap<String, Place>> = Mutex::new(BTreeMap::new());

fn places() -> MutexGuard<'static, BTreeMap<String, Place>> {
    PLACES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Users can be made on this server, which is reached by these ports or this socket.
pub(super) fn serves(port: u16, tls_port: u16, socket: &str, kind: Kind) {
    let place = Place::Server { port, kind };
    let names = [port.to_string(), tls_port.to_string(), socket.to_owned()];
    places().extend(names.map(|name| (name, place)));
}

/// Who connects to this port reaches that one.
pub(super) fn leads(port: u16, to: u16) {
    places().insert(port.to_string(), Place::Proxy { port: to });
}

/// The server behind what a person reads of an endpoint: `127.0.0.1:6379 over TLS`, or a socket.
fn behind(endpoint: &str) -> Option<(u16, Kind)> {
    let places = places();
    let port = endpoint.trim_end_matches(" over TLS").rsplit_once(':').map(|(_, port)| port);
    let mut place = places.get(port.unwrap_or(endpoint))?;
    while let Place::Proxy { port } = place {
        place = places.get(&port.to_string())?;
    }
    match place {
        Place::Server { port, kind } => Some((*port, *kind)),
        Place::Proxy { .. } => None,
    }
}

// === users ===

/// Has a program that is about to connect do so as its own user, unless it is told who to be.
pub(super) fn confine(command: &mut tokio::process::Command) {
    if !wanted() {
        return;
    }
    if let Some(user) = user_of(command.as_std()) {
        command.args(["--redis-username", &user.name]).env("PRESENCE_REAPER_REDIS__PASSWORD", user.password);
    }
}

fn user_of(command: &Command) -> Option<User> {
    let words: Vec<&OsStr> = command.get_args().collect();
    let has =
        |word: &str| words.iter().any(|one| *one == word || one.to_string_lossy().starts_with(&format!("{word}=")));
    let named = ["--redis-username", "--redis-password-file"].into_iter().any(has)
        || command.get_envs().any(|(name, _)| name.to_string_lossy().contains("_REDIS__PASSWORD"));
    if named || ELSEWHERE.into_iter().any(has) || has("check") && !has("--connect") {
        return None;
    }
    let settings = settings(&words);
    let check = |more: &[&str]| check(command, more, &settings);
    let document: serde_json::Value = serde_json::from_str(&check(&["-o", "json"])?).ok()?;
    let dry_run = if has("--dry-run") { &["--dry-run"][..] } else { &[] };
    user_on(document["redis"].as_str()?, |generation| {
        check(&[&[format!("--acl={generation}").as_str()][..], dry_run].concat())
    })
}

/// A new user by the line that `line` makes for a generation, on the server of this endpoint; none where the line is for
/// somebody whom the configuration names, or the harness has no such server.
pub(crate) fn user_on(endpoint: &str, line: impl FnOnce(&str) -> Option<String>) -> Option<User> {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let (port, kind) = behind(endpoint)?;
    let line = line(generation(kind))?;
    let rights = line.strip_prefix(UNNAMED)?;
    let name = format!("{NAME}{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    // Saved, so that it is still there after a restart.
    let said = redis_cli(port, &format!("ACL SETUSER {name} on >{SECRET} {rights}\nACL SAVE\n"));
    if said.is_empty() {
        return None;
    }
    assert_eq!(said.trim(), "OK\nOK", "{rights}");
    Some(User { name, password: SECRET })
}

/// As `check --acl=` calls what this kind of server understands.
pub(crate) fn generation(kind: Kind) -> &'static str {
    match kind.version() {
        (..6, _) | (6, ..2) => "6.0",
        (6, _) => "6.2",
        _ => "7.0",
    }
}

/// What the library calls it.
pub(crate) fn generation_named(name: &str) -> Generation {
    Generation::of(name).expect("a version")
}

fn settings(words: &[&OsStr]) -> Vec<OsString> {
    let mut settings = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        let name = text.split('=').next().unwrap_or_default();
        let takes_a_value = SETTINGS.contains(&name);
        if takes_a_value || SWITCHES.contains(&name) {
            settings.push((*word).to_owned());
        }
        if takes_a_value && !text.contains('=') {
            settings.extend(words.next().map(|value| (*value).to_owned()));
        }
    }
    settings
}

/// What `check` prints for these settings in the same environment; none where they are wrong.
fn check(command: &Command, more: &[&str], settings: &[OsString]) -> Option<String> {
    let mut check = Command::new(command.get_program());
    check.arg("check").args(more).args(settings).env_clear().stdin(Stdio::null());
    check.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let Output { status, stdout, .. } = check.output().ok()?;
    status.success().then(|| String::from_utf8_lossy(&stdout).into_owned())
}

/// What redis-cli prints for these lines; nothing where the server does not answer, because it was stopped for instance.
fn redis_cli(port: u16, lines: &str) -> String {
    let mut command = Command::new("timeout");
    command.args(["3", "redis-cli", "-p", &port.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("redis-cli, which comes with redis-server");
    let _ = child.stdin.take().expect("piped").write_all(lines.as_bytes());
    let output = child.wait_with_output().expect("redis-cli ends");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

// === what was refused ===

/// What this server has refused such users; nothing where it does not answer any more.
pub(super) fn refusals(port: u16) -> Vec<String> {
    let log = redis_cli(port, "ACL LOG 100\n");
    // A name a line, its value on the next, beginning with the count.
    let lines: Vec<&str> = log.lines().collect();
    let entries = lines.split(|line| *line == "count").map(|entry| {
        let value = |name| entry.windows(2).find(|pair| pair[0] == name).map_or("", |pair| pair[1]);
        ["username", "reason", "context", "object"].map(value)
    });
    let ours = entries.filter(|[user, ..]| user.starts_with(NAME));
    // The client library tells its name, and does not mind.
    ours.filter(|[.., object]| !["client", "client|setinfo"].contains(object)).map(|entry| entry.join(" ")).collect()
}
