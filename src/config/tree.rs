//! File, environment and flags as one tree, in which every value knows where it was written.

use std::ffi::OsString;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::problem::{Place, Problem};
use super::{ENVIRONMENT_TABLES, FILE_VARIABLE, FlagValue, Flags};
use crate::language::Mistake;

/// What begins the name of every variable of ours.
pub(super) const PREFIX: &str = "PRESENCE_REAPER_";

/// More syntax errors than this help nobody: what follows an unclosed bracket is mostly its echo.
const MAX_SYNTAX_ERRORS: usize = 10;

/// A value and where it stands.
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// A value as written.
pub(super) enum Value {
    Text(String),
    /// From a variable or a flag, where everything is text.
    Untyped(String),
    /// Digits as TOML wrote them, and the number where it is one we can hold.
    Integer(String, Option<i64>),
    Boolean(bool),
    Float,
    Datetime,
    List(Vec<Node>),
    Table(Vec<Entry>),
}

/// A key of a table, and what it says.
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) node: Node,
}

/// What a file says, and how far it can be believed.
pub(super) struct Parsed {
    pub(super) entries: Vec<Entry>,
    pub(super) problems: Vec<Problem>,
    /// The line of the first error after which the parser may have put things where they do not belong.
    pub(super) broken_from: Option<usize>,
}

impl Parsed {
    /// What there is without a file.
    pub(super) fn nothing() -> Self {
        Self { entries: Vec::new(), problems: Vec::new(), broken_from: None }
    }

    /// Reads a TOML text as far as it can be read. The parser's own messages are used without the line they show, which
    /// may hold a password.
    pub(super) fn file(name: &str, text: &str) -> Self {
        let places = Places::new(name, text);
        let (document, errors) = DeTable::parse_recoverable(text);
        let mut parsed = Self::nothing();
        parsed.entries = places.entries(document.get_ref());
        let mut last_line = 0;
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            let (line, place) = places.at(span.start);
            let unquoted = error.message().starts_with("string values must be quoted");
            // Both leave the rest of the file as it was meant.
            if !unquoted && error.message() != "duplicate key" {
                parsed.broken_from = Some(parsed.broken_from.map_or(line, |before| before.min(line)));
            }
            if line == last_line || parsed.problems.len() == MAX_SYNTAX_ERRORS {
                continue;
            }
            last_line = line;
            let mistake = if unquoted {
                let hint = if span.is_empty() {
                    "write a value behind the `=`"
                } else {
                    "text stands in double quotes; only numbers, true and false stand without"
                };
                let what = if span.is_empty() { "a key without a value" } else { "text without quotes" };
                Mistake::new(what).hint(hint)
            } else if error.message() == "duplicate key" {
                Mistake::new(format!("`{}` stands here a second time", text.get(span).unwrap_or_default().trim()))
                    .hint("keep one of the two")
            } else {
                Mistake::new(format!("this is no TOML: {}", error.message()))
            };
            parsed.problems.push(Problem::at(&place, mistake));
        }
        parsed
    }
}

/// Byte offsets → lines and columns.
struct Places<'t> {
    name: Arc<str>,
    text: &'t str,
    line_starts: Vec<usize>,
}

impl<'t> Places<'t> {
    fn new(name: &str, text: &'t str) -> Self {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { name: name.into(), text, line_starts }
    }

    fn at(&self, offset: usize) -> (usize, Place) {
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let start = self.line_starts.get(line - 1).copied().unwrap_or(0);
        let column = self.text.get(start..offset).map_or(1, |before| before.chars().count() + 1);
        (line, Place::File { name: Arc::clone(&self.name), line, column })
    }

    fn entries(&self, table: &DeTable<'_>) -> Vec<Entry> {
        let entry = |(key, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| Entry {
            key: String::from(AsRef::<std::borrow::Cow<'_, str>>::as_ref(key).as_ref()),
            place: self.at(key.span().start).1,
            node: self.node(value),
        };
        table.iter().map(entry).collect()
    }

    fn node(&self, spanned: &toml::Spanned<DeValue<'_>>) -> Node {
        let value = match spanned.get_ref() {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(digits) => {
                Value::Integer(digits.to_string(), i64::from_str_radix(digits.as_str(), digits.radix()).ok())
            }
            DeValue::Float(_) => Value::Float,
            DeValue::Boolean(value) => Value::Boolean(*value),
            DeValue::Datetime(_) => Value::Datetime,
            DeValue::Array(nodes) => Value::List(nodes.iter().map(|node| self.node(node)).collect()),
            DeValue::Table(table) => Value::Table(self.entries(table)),
        };
        Node { place: self.at(spanned.span().start).1, value }
    }
}

/// Puts the variables into the tree; gives back the names of those that name no table of ours, and what cannot be read.
///
/// An empty variable counts as not set: that is what `${NAME:-}` in a compose file leaves.
pub(super) fn add_environment(
    tree: &mut Vec<Entry>,
    variables: Vec<(OsString, OsString)>,
) -> (Vec<String>, Vec<Problem>) {
    let (mut strange, mut problems) = (Vec::new(), Vec::new());
    for (name, value) in variables {
        let is_setting = |name: &&str| {
            name.starts_with(PREFIX)
                && *name != FILE_VARIABLE
                && !invented_by_kubernetes(name, &value.to_string_lossy())
        };
        let Some(name) = name.to_str().filter(is_setting) else { continue };
        let place = Place::Variable(name.to_owned());
        let path = name[PREFIX.len()..].to_ascii_lowercase();
        let Some((table, key)) = path.split_once("__").filter(|(table, _)| ENVIRONMENT_TABLES.contains(table)) else {
            strange.push(name.to_owned());
            continue;
        };
        match value.into_string() {
            Ok(value) if value.is_empty() => {}
            Ok(value) => put(tree, table, key, Node { place, value: Value::Untyped(value) }),
            Err(_) => problems.push(Problem::at(&place, Mistake::new("the value is not UTF-8"))),
        }
    }
    (strange, problems)
}

/// A Service puts such variables into every Pod of its namespace. One named `presence-reaper`, or `presence-reaper-redis`,
/// makes them begin like ours: no setting may look so, and nobody wants to be warned of them. What merely looks alike, as
/// `PRESENCE_REAPER_REDIS_PORT=6380`, is somebody's mistake.
fn invented_by_kubernetes(name: &str, value: &str) -> bool {
    // Two underscores in a row stand between a table and its key, and in the name of no Service that one meets.
    if name.contains("__") {
        return false;
    }
    let of_a_port = |(at, port): (usize, &str)| is_of_a_port(&name[at + port.len()..]);
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || (name.ends_with("_PORT") && value.contains("://"))
        || name.match_indices("_PORT").any(of_a_port)
}

/// `_19121_TCP`, or that with `_PROTO`, `_PORT` or `_ADDR` behind it.
fn is_of_a_port(rest: &str) -> bool {
    let mut words = rest.split('_');
    words.next() == Some("")
        && words.next().is_some_and(|port| port.parse::<u16>().is_ok())
        && matches!(words.next(), Some("TCP" | "UDP" | "SCTP"))
        && matches!(words.next(), None | Some("PROTO" | "PORT" | "ADDR"))
        && words.next().is_none()
}

/// Puts the flags into the tree; gives back the names of the sources to keep. A source by flags takes the place of all
/// sources of the file.
pub(super) fn add_flags(tree: &mut Vec<Entry>, flags: Flags) -> Vec<String> {
    let mut source: Vec<Entry> = Vec::new();
    for setting in flags.settings {
        let place = Place::Flag(setting.flag);
        let value = match setting.value {
            FlagValue::One(text) => Value::Untyped(text),
            FlagValue::Many(texts) => {
                let node = |text| Node { place: place.clone(), value: Value::Untyped(text) };
                Value::List(texts.into_iter().map(node).collect())
            }
        };
        let node = Node { place: place.clone(), value };
        if setting.table == "source" {
            source.push(Entry { key: setting.key.to_owned(), place, node });
        } else {
            put(tree, setting.table, setting.key, node);
        }
    }
    if let Some(first) = source.first() {
        let place = first.place.clone();
        let name = Node { place: place.clone(), value: Value::Text("cli".to_owned()) };
        source.push(Entry { key: "name".to_owned(), place: place.clone(), node: name });
        let table = Node { place: place.clone(), value: Value::Table(source) };
        let list = Node { place: place.clone(), value: Value::List(vec![table]) };
        tree.retain(|entry| entry.key != "source");
        tree.push(Entry { key: "source".to_owned(), place, node: list });
    }
    flags.sources
}

/// Puts `node` where `table.key` is, over whatever stood there. A file that wrote something else than a table there
/// is told so when the tree is read.
fn put(tree: &mut Vec<Entry>, table: &str, key: &str, node: Node) {
    let place = node.place.clone();
    if !tree.iter().any(|entry| entry.key == table) {
        let empty = Node { place: place.clone(), value: Value::Table(Vec::new()) };
        tree.push(Entry { key: table.to_owned(), place: place.clone(), node: empty });
    }
    let found = tree.iter_mut().find(|entry| entry.key == table);
    if let Some(Entry { node: Node { value: Value::Table(entries), .. }, .. }) = found {
        entries.retain(|entry| entry.key != key);
        entries.push(Entry { key: key.to_owned(), place, node });
    }
}
