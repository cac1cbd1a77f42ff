//! File, environment and flags → one checked [`Config`].
//!
//! The three go into one tree in which every value knows where it was written (flag over environment over file over
//! default). One small reader walks it and collects every mistake, so that an operator mends them all at once. Each
//! part of the program owns its settings type; this room only fills them.

use std::collections::HashMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tracing::Level;

use crate::language::source::Source;
use crate::language::{Mistake, shown};
use crate::policy;
use crate::policy::staleness::Timing;
use crate::{http, logging, store};

mod guard;
mod notify;
mod problem;
mod reader;
mod record;
mod redis;
mod source;
mod tree;
mod values;
mod webhook;
mod zone;

pub use problem::{Place, Problem, Problems};
use reader::{At, Bounds, Notes, Table, duration, one_of, unknown_variable};
pub use record::Audit;
use tree::{Entry, Node, Parsed, Value};

/// More sources than this are a generated file gone wrong, and their metrics would flood Prometheus.
const MAX_SOURCES: usize = 64;

/// More addresses than this are a list gone wrong; each may hold as many connections as one alone.
const MAX_LISTENERS: usize = 16;

/// A leader is to be missed soon, and not at the first slow reply.
const LEASES: Bounds = Bounds {
    least: Duration::from_secs(1),
    most: Duration::from_secs(600),
    why: "nobody would take over from a leader that died",
};

/// Where the endpoints listen unless told otherwise: the state of a deleter is nobody's business.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 19121);

/// The variable that names the file where no flag does.
pub const FILE_VARIABLE: &str = "PRESENCE_REAPER_CONFIG";

/// The credential of systemd that is our password.
pub const CREDENTIAL: &str = "redis-password";

/// The tables whose scalars a variable can set: `PRESENCE_REAPER_REDIS__URL`.
const ENVIRONMENT_TABLES: [&str; 6] = ["redis", "server", "log", "guard", "lease", "audit"];

/// All that a configuration is made of. It may hold passwords, so it is never printed.
#[derive(Default)]
pub struct Inputs {
    /// The file, if there is one.
    pub file: Option<File>,
    /// All variables of the process; those of others are passed over.
    pub environment: Vec<(OsString, OsString)>,
    /// The file with the password that systemd keeps for us; it counts where no other password is set.
    pub credential: Option<PathBuf>,
    /// What the command line sets.
    pub flags: Flags,
}

/// A file that has been read.
pub struct File {
    /// As the operator named it; messages begin with it.
    pub name: String,
    /// All of it.
    pub text: String,
}

/// What the command line sets. Settings of the table `source` make one source, called `cli`, in place of the file's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// Each flag that was given.
    pub settings: Vec<Setting>,
    /// The sources to keep, by name; all, if none is named.
    pub sources: Vec<String>,
}

/// One flag: the setting it stands for, and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// As typed: `--redis-url`.
    pub flag: &'static str,
    /// The table: `redis`, or `source` for the one source.
    pub table: &'static str,
    /// The key in that table.
    pub key: &'static str,
    /// What was given.
    pub value: FlagValue,
}

/// The value of a flag, in the text that the file would take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlagValue {
    /// Of a flag that is given once.
    One(String),
    /// Of a repeatable flag.
    Many(Vec<String>),
}

/// What the program does, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where Redis is.
    pub redis: store::connect::Settings,
    /// Where the endpoints listen.
    pub server: http::Settings,
    /// What is logged.
    pub log: logging::Settings,
    /// How leases are held.
    pub lease: store::lease::Settings,
    /// Where evictions are recorded.
    pub audit: Audit,
    /// At least one, at most 64, with unique names.
    pub sources: Vec<SourceConfig>,
    /// What is allowed and looks unwise; to be logged at start.
    pub warnings: Vec<Problem>,
}

/// A source with all that judges and brakes it.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// Where its entries live.
    pub source: Arc<Source>,
    /// How its webhooks are told, in the order of its notifications.
    pub webhooks: Vec<crate::webhook::Settings>,
    /// In which database; the URL's unless the source names another.
    pub db: u16,
    /// When an entry is stale.
    pub timing: Timing,
    /// When the source may not evict, and how fast it may.
    pub guard: policy::guard::Settings,
    /// Look at it, never evict from it.
    pub dry_run: bool,
}

/// The file that [`FILE_VARIABLE`] names.
pub fn file_of(environment: &[(OsString, OsString)]) -> Option<PathBuf> {
    let named = environment.iter().find(|(name, value)| name == FILE_VARIABLE && !value.is_empty());
    named.map(|(_, path)| PathBuf::from(path))
}

/// Where the password would be that systemd keeps for us: `LoadCredential=redis-password` of the unit.
pub fn credential_of(environment: &[(OsString, OsString)]) -> Option<PathBuf> {
    let directory = environment.iter().find(|(name, value)| name == "CREDENTIALS_DIRECTORY" && !value.is_empty());
    directory.map(|(_, path)| PathBuf::from(path).join(CREDENTIAL))
}

/// Checks everything and reports every mistake at once. Pure: reads no file and no variable by itself.
pub fn load(inputs: Inputs) -> Result<Config, Problems> {
    let file = inputs.file.map_or_else(Parsed::nothing, |file| Parsed::file(&file.name, &file.text));
    let mut tree = file.entries;
    let (strange, mut problems) = tree::add_environment(&mut tree, inputs.environment);
    let chosen = tree::add_flags(&mut tree, inputs.flags);

    let known = known_keys();
    let mut notes = Notes::default();
    let mut config = walk(tree, inputs.credential, &mut notes);
    notes.judge_unknown(&known);
    // In a broken file a source may stand where it could not be read.
    if file.problems.is_empty() {
        choose(&mut config.sources, &chosen, &mut notes);
    }
    notes.warnings.extend(strange.iter().map(|name| unknown_variable(name, &known)));

    // What the parser stumbled over was put right by guess, and says nothing more.
    notes.problems.retain(|problem| file.problems.iter().all(|syntax| syntax.place != problem.place));
    problems.extend(file.problems);
    match file.broken_from {
        None => problems.extend(notes.problems.into_iter().chain(notes.missing)),
        // Behind a syntax error things may stand where nobody wrote them, or be missing.
        Some(broken) => problems.extend(notes.problems.into_iter().filter(|problem| match problem.place {
            Place::File { line, .. } => line < broken,
            Place::Variable(_) | Place::Flag(_) => true,
            Place::Nowhere => false,
        })),
    }
    if problems.is_empty() {
        notes.warnings.sort_by(|a, b| a.place.cmp(&b.place));
        config.warnings = notes.warnings;
        return Ok(config);
    }
    problems.sort_by(|a, b| a.place.cmp(&b.place));
    problems.dedup();
    Err(Problems(problems))
}

/// Every key there is, with the path of its table: what the reader asks for when it walks an empty source.
fn known_keys() -> Vec<(&'static str, &'static str)> {
    let source = Node { place: Place::Nowhere, value: Value::Table(Vec::new()) };
    let sources = Node { place: Place::Nowhere, value: Value::List(vec![source]) };
    let mut notes = Notes::default();
    walk(vec![Entry { key: "source".to_owned(), place: Place::Nowhere, node: sources }], None, &mut notes);
    notes.known
}

/// The tree → the settings. Where there are mistakes, defaults stand in, and whoever looks at the notes refuses them.
fn walk(tree: Vec<Entry>, credential: Option<PathBuf>, notes: &mut Notes) -> Config {
    let mut root = Table::new("", String::new(), Place::Nowhere, tree);
    let mut table = |notes: &mut Notes, key, label: &str| root.table(notes, key, key, label.to_owned());
    let redis = redis::read(table(notes, "redis", "[redis]"), credential, notes);
    let server = server(table(notes, "server", "[server]"), notes);
    let log = log(table(notes, "log", "[log]"), notes);
    let guard = guard::read(table(notes, "guard", "[guard]"), policy::guard::Settings::default(), notes);
    let lease = lease(table(notes, "lease", "[lease]"), notes);
    let audit = table(notes, "audit", "[audit]");
    let sources = sources(&mut root, redis.db, guard, notes);
    let audit = record::read(audit, &sources, notes);
    root.finish(notes);
    Config { redis, server, log, lease, audit, sources, warnings: Vec::new() }
}

fn server(mut table: Table, notes: &mut Notes) -> http::Settings {
    // A variable and a flag hold a list behind commas; a file may as well.
    let listed = table.list(notes, "listen", true, |text| text.split(',').map(|word| address(word.trim())).collect());
    let mut listen = Vec::new();
    let mut off = false;
    let read = listed.iter().flat_map(|listed| &listed.good);
    for (address, place) in read.flat_map(|read: &At<Vec<_>>| read.value.iter().map(|address| (*address, &read.place)))
    {
        let Some(address) = address else {
            off = true;
            continue;
        };
        // Port 0 is another one each time.
        if listen.contains(&address) && address.port() != 0 {
            let mistake = Mistake::new(format!("`{address}` stands here a second time")).hint("keep one of the two");
            notes.mistake(place, "listen", &table, mistake);
        }
        listen.push(address);
    }
    let place = listed.as_ref().map(|listed| &listed.place);
    if let Some(place) = place.filter(|_| off && !listen.is_empty()) {
        let mistake = Mistake::new("\"off\" beside an address").hint("write \"off\" alone, or leave it out");
        notes.mistake(place, "listen", &table, mistake);
    }
    if let Some(place) = place.filter(|_| listen.len() > MAX_LISTENERS) {
        let mistake = Mistake::new(format!("there are more than {MAX_LISTENERS} addresses"));
        notes.mistake(place, "listen", &table, mistake.hint("0.0.0.0 and [::] stand for all of the host's"));
    }
    table.finish(notes);
    http::Settings { listen: if listed.is_none() { vec![DEFAULT_LISTEN] } else { listen } }
}

/// An address to listen on; none for "off".
fn address(text: &str) -> Result<Option<SocketAddr>, Mistake> {
    if text == "off" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        let better = match text.rsplit_once(':') {
            Some(("localhost", port)) => format!("127.0.0.1:{port}"),
            Some(("", port)) => format!("0.0.0.0:{port}"),
            _ => DEFAULT_LISTEN.to_string(),
        };
        Mistake::new(format!("`{}` is no address and port", shown(text.as_bytes())))
            .hint(format!("write \"{better}\", or \"off\" for no endpoints"))
    })
}

fn log(mut table: Table, notes: &mut Notes) -> logging::Settings {
    let formats = [
        ("auto", logging::Format::Auto),
        ("text", logging::Format::Text),
        ("json", logging::Format::Json),
        ("journald", logging::Format::Journald),
    ];
    let levels = [
        ("error", Level::ERROR),
        ("warn", Level::WARN),
        ("info", Level::INFO),
        ("debug", Level::DEBUG),
        ("trace", Level::TRACE),
    ];
    let format = table.get(notes, "format", |value| one_of(value, &formats));
    let level = table.get(notes, "level", |value| one_of(value, &levels));
    table.finish(notes);
    logging::Settings {
        format: format.map(|read| read.value).unwrap_or_default(),
        level: level.map_or(Level::INFO, |read| read.value),
    }
}

fn lease(mut table: Table, notes: &mut Notes) -> store::lease::Settings {
    let ttl = table.get(notes, "ttl", |value| duration(value, &LEASES));
    table.finish(notes);
    ttl.map(|read| store::lease::Settings { ttl: read.value }).unwrap_or_default()
}

fn sources(root: &mut Table, db: u16, guard: policy::guard::Settings, notes: &mut Notes) -> Vec<SourceConfig> {
    let Some(entry) = root.take(notes, "source") else {
        notes.missing.push(no_source());
        return Vec::new();
    };
    let tables = match entry.node.value {
        Value::List(tables) if tables.is_empty() => {
            notes.missing.push(no_source());
            return Vec::new();
        }
        Value::List(tables) => tables,
        _ => {
            let mistake = Mistake::new("`source` is not a list of tables").hint("write [[source]], in double brackets");
            notes.problems.push(Problem::at(&entry.place, mistake));
            return Vec::new();
        }
    };
    let mut taken: HashMap<String, Place> = HashMap::new();
    let mut sources = Vec::new();
    for (index, node) in tables.into_iter().enumerate() {
        let Value::Table(entries) = node.value else {
            let mistake = Mistake::new("a source is a table").hint("write [[source]], in double brackets");
            notes.problems.push(Problem::at(&node.place, mistake));
            continue;
        };
        if index == MAX_SOURCES {
            let mistake = Mistake::new(format!("there are more than {MAX_SOURCES} sources"));
            notes.problems.push(Problem::at(&node.place, mistake.hint("let several daemons share them")));
            break;
        }
        let table = Table::new("source", label(index, &entries), node.place, entries);
        let (name, source) = source::read(table, db, guard.clone(), notes);
        sources.extend(source);
        let Some(At { value: name, place }) = name else { continue };
        if let Some(first) = taken.get(&name) {
            let mistake = Mistake::new(format!("the name `{name}` is taken by the source at {first}"));
            let hint = "metrics and logs tell sources apart by their names";
            notes.problems.push(Problem::at(&place, mistake.hint(hint)));
        } else {
            taken.insert(name, place);
        }
    }
    warn_about_neighbours(&sources, &taken, notes);
    sources
}

/// Two sources may describe the same clients, and then a companion of the one is an entry of the other, or even an entry
/// of both. Each judges for itself, so the operator should have meant it.
fn warn_about_neighbours(sources: &[SourceConfig], places: &HashMap<String, Place>, notes: &mut Notes) {
    let mut warn = |of: &Source, what: String, hint: &str| {
        let place = places.get(&*of.name).unwrap_or(&Place::Nowhere);
        notes.warnings.push(Problem::at(place, Mistake::new(what).hint(hint)));
    };
    for (at, one) in sources.iter().enumerate() {
        let others =
            sources.iter().enumerate().filter(|(_, other)| other.db == one.db && other.source.name != one.source.name);
        for (other_at, other) in others {
            let (one, other) = (&one.source, &other.source);
            let actions = one.companions.iter().map(|companion| companion.action.spelling_out(one.id.as_ref()));
            for action in actions.filter(|action| other.container.can_be_hit_by(action, &other.ignore)) {
                let what = format!(
                    "the companion `{}` of [[source]] \"{}\" can remove entries of [[source]] \"{}\" \
                     that were not judged there",
                    shown(action.text.as_bytes()),
                    one.name,
                    other.name
                );
                warn(one, what, "leave it out, unless both describe the same clients and age together");
            }
            if other_at < at
                && one.layout == other.layout
                && let Some([own, theirs]) = one.container.meets(&other.container)
            {
                let what = format!(
                    "`{own}` of [[source]] \"{}\" and `{theirs}` of [[source]] \"{}\" can be the same key: its entries \
                     belong to both, and go as soon as either allows it",
                    one.name, other.name
                );
                warn(one, what, "let each key belong to one source");
            }
        }
    }
}

/// Keeps the sources that are asked for by name. Nothing is said about them beside other mistakes: one of these may be
/// what keeps the source from being known.
fn choose(sources: &mut Vec<SourceConfig>, names: &[String], notes: &mut Notes) {
    if names.is_empty() || !notes.problems.is_empty() || !notes.missing.is_empty() {
        return;
    }
    for name in names.iter().filter(|name| sources.iter().all(|source| *source.source.name != ***name)) {
        let all: Vec<String> = sources.iter().map(|source| format!("`{}`", source.source.name)).collect();
        let mistake = Mistake::new(format!("no source is called `{}`", shown(name.as_bytes())));
        let hint = match all.as_slice() {
            [only] => format!("the only source is {only}"),
            all => format!("the sources are {}", all.join(", ")),
        };
        notes.problems.push(Problem::at(&Place::Flag("--source"), mistake.hint(hint)));
    }
    sources.retain(|source| names.iter().any(|name| *source.source.name == **name));
}

/// How messages call a source: by its name, else by its number.
fn label(index: usize, entries: &[Entry]) -> String {
    let name = entries.iter().find(|entry| entry.key == "name").map(|entry| &entry.node.value);
    match name {
        Some(Value::Text(name)) if name.len() <= 40 => format!("[[source]] \"{}\"", shown(name.as_bytes())),
        _ => format!("[[source]] #{}", index + 1),
    }
}

fn no_source() -> Problem {
    let mistake = Mistake::new("no source is configured").hint(
        "a configuration names where the entries are (without --config it is /etc/presence-reaper/reaper.toml):\
         \n    [[source]]\
         \n    name = \"hub\"\
         \n    zset = \"presence:online\"\
         \n  look first, nothing is written:\
         \n    presence-reaper --dry-run --zset presence:online\
         \n    presence-reaper --dry-run --config reaper.toml",
    );
    Problem::at(&Place::Nowhere, mistake)
}

#[cfg(test)]
mod tests;
