//! The `notify` of a `[[source]]` → checked notifications.

use super::reader::{Notes, Table, number, text};
use super::tree::{Node, Value};
use crate::language::notify::{Names, Notification, Payload, Target, Text};
use crate::language::pattern::Pattern;
use crate::language::source::Container;
use crate::language::{Mistake, shown};
use crate::policy::outcome::Sink;

const PATH: &str = "source.notify";

/// The keys of a notification, known even where there is none.
const KEYS: [&str; 4] = ["publish", "xadd", "payload", "maxlen"];

/// Where a notification may go some day; who names one of these has not forgotten to name any.
const OTHER_SINKS: [&str; 2] = ["spublish", "webhook"];

/// Of one entry, at one eviction: more are a mistake.
const MAX_NOTIFICATIONS: usize = 16;

/// More members of one payload are a mistake.
const MAX_MEMBERS: usize = 64;

/// The source that the notifications are about, as far as it could be read.
pub(super) struct Around<'s> {
    pub(super) names: Names<'s>,
    pub(super) container: Option<&'s Container>,
    pub(super) ignore: &'s [Pattern],
}

/// Reads the list; what is wrong with it is noted.
pub(super) fn read(table: &mut Table, around: &Around<'_>, notes: &mut Notes) -> Vec<Notification> {
    notes.known.extend(KEYS.map(|key| (PATH, key)));
    let Some(node) = table.take(notes, "notify").map(|entry| entry.node) else { return Vec::new() };
    let Node { place, value } = node;
    let nodes = match value {
        Value::List(nodes) => nodes,
        other => {
            let mistake = Mistake::new(format!("expected a list of tables, found {}", other.described()));
            notes.mistake(&place, "notify", table, mistake.hint("write notify = [{ publish = \"channel\" }]"));
            return Vec::new();
        }
    };
    if nodes.len() > MAX_NOTIFICATIONS {
        let mistake = Mistake::new(format!("{} notifications are too many; at most {MAX_NOTIFICATIONS}", nodes.len()));
        notes.mistake(&place, "notify", table, mistake);
        return Vec::new();
    }
    nodes.into_iter().enumerate().filter_map(|(index, node)| notification(index, node, table, around, notes)).collect()
}

fn notification(
    index: usize,
    node: Node,
    source: &Table,
    around: &Around<'_>,
    notes: &mut Notes,
) -> Option<Notification> {
    let Value::Table(entries) = node.value else {
        let mistake = Mistake::new(format!("expected a table, found {}", node.value.described()));
        notes.mistake(&node.place, "notify", source, mistake.hint("write { publish = \"channel\" }"));
        return None;
    };
    let label = format!("notification #{} of {}", index + 1, source.label);
    let mut table = Table::new(PATH, label, node.place, entries);
    let target = target(&mut table, around, notes);
    let payload = payload(&mut table, target.as_ref().map(|(target, _)| target), &around.names, notes);
    table.finish(notes);
    let (target, text) = target?;
    Some(Notification { target, payload: payload?, text })
}

/// Where it goes, and how that is written.
fn target(table: &mut Table, around: &Around<'_>, notes: &mut Notes) -> Option<(Target, String)> {
    let Around { names, container, ignore } = around;
    let maxlen = table.take(notes, "maxlen").map(|entry| entry.node);
    let (publish, xadd) = (table.take(notes, "publish"), table.take(notes, "xadd"));
    if let (Some(_), Some(xadd)) = (&publish, &xadd) {
        let mistake = Mistake::new("it stands beside `publish`, and a notification goes one way");
        notes.mistake(&xadd.place, "xadd", table, mistake.hint("write a table for each"));
        return None;
    }
    if let Some(publish) = publish {
        if let Some(maxlen) = maxlen {
            let mistake = Mistake::new("a channel keeps nothing, so there is nothing to cut");
            notes.mistake(&maxlen.place, "maxlen", table, mistake.hint("leave it out; it belongs beside `xadd`"));
        }
        let read = table.read(notes, "publish", &publish.node, |value| {
            let channel = text(value)?;
            Ok((Target::channel(channel, names)?, format!("PUBLISH {channel}")))
        });
        return read.map(|read| read.value);
    }
    if let Some(xadd) = xadd {
        let maxlen = maxlen.map(|node| table.read(notes, "maxlen", &node, |value| number(value, 1..=u32::MAX)));
        let read = table.read(notes, "xadd", &xadd.node, |value| {
            let key = text(value)?;
            Ok((Target::stream(key, names, *container, ignore)?, format!("XADD {key}")))
        });
        let (target, text) = read?.value;
        return match maxlen {
            None => Some((target, text)),
            Some(maxlen) => Some((target.cut_to(maxlen?.value), text)),
        };
    }
    if !OTHER_SINKS.into_iter().any(|sink| table.holds(sink)) {
        let mistake = Mistake::new(format!("{} does not say where it goes", table.label));
        let hint = "write one of publish = \"channel\", xadd = \"stream\"";
        notes.problems.push(super::Problem::at(&table.place, mistake.hint(hint)));
    }
    None
}

fn payload(table: &mut Table, target: Option<&Target>, names: &Names<'_>, notes: &mut Notes) -> Option<Payload> {
    let Some(Node { place, value }) = table.take(notes, "payload").map(|entry| entry.node) else {
        return Some(Payload::standard(names));
    };
    let members = match value {
        Value::Table(members) => members,
        Value::Text(written) => {
            let node = Node { place, value: Value::Text(written) };
            let read = table.read(notes, "payload", &node, |value| Text::parse(text(value)?, names))?;
            if read.value.looks_like_json() {
                let mistake = Mistake::new("the text looks like JSON, and what is put into a text is not escaped");
                let hint = "write a table, which is rendered as JSON: payload = { id = \"{id}\" }";
                notes.warning(&read.place, "payload", table, mistake.hint(hint));
            }
            return Some(Payload::Text(read.value));
        }
        other => {
            let mistake = Mistake::new(format!("expected text or a table of texts, found {}", other.described()));
            notes.mistake(&place, "payload", table, mistake.hint("write payload = { id = \"{id}\" }"));
            return None;
        }
    };
    if members.is_empty() || members.len() > MAX_MEMBERS {
        let mistake = Mistake::new(format!("a payload has 1 to {MAX_MEMBERS} members, and this has {}", members.len()));
        notes.mistake(&place, "payload", table, mistake.hint("leave `payload` out for the usual one"));
        return None;
    }
    let json = target.is_some_and(|target| target.sink() == Sink::Pubsub);
    let read: Vec<Option<(String, Text)>> = members
        .into_iter()
        .map(|member| {
            let key = format!("payload.{}", shown(member.key.as_bytes()));
            let read = table.read(notes, &key, &member.node, |value| {
                let text = Text::parse(text(value)?, names)?;
                if json { text.as_json_member() } else { Ok(text) }
            })?;
            Some((member.key, read.value))
        })
        .collect();
    read.into_iter().collect::<Option<Vec<_>>>().map(Payload::Table)
}
