//! The `notify` of a `[[source]]` → checked notifications.

use super::reader::{Notes, Table, number, text};
use super::tree::{Node, Value};
use super::values::Reads;
use super::webhook;
use crate::language::condition::Condition;
use crate::language::notify::{Names, Notification, Payload, Target, Text};
use crate::language::pattern::Pattern;
use crate::language::source::Container;
use crate::language::{Mistake, shown};
use crate::webhook::Settings;

const PATH: &str = "source.notify";

/// The keys of a notification, known even where there is none.
const KEYS: [&str; 7] = ["publish", "spublish", "xadd", "webhook", "payload", "maxlen", "when"];

/// Of one entry, at one eviction: more are a mistake.
const MAX_NOTIFICATIONS: usize = 16;

/// More members of one payload are a mistake.
const MAX_MEMBERS: usize = 64;

/// The source that the notifications are about, as far as it could be read.
pub(super) struct Around<'s> {
    pub(super) names: Names<'s>,
    pub(super) container: Option<&'s Container>,
    pub(super) ignore: &'s [Pattern],
    pub(super) reads: Reads<'s>,
}

/// The notifications of a source, and how its webhooks are told, in the order in which these name them.
#[derive(Default)]
pub(super) struct Read {
    pub(super) notify: Vec<Notification>,
    pub(super) webhooks: Vec<Settings>,
}

/// Reads the list; what is wrong with it is noted.
pub(super) fn read(table: &mut Table, around: &Around<'_>, notes: &mut Notes) -> Read {
    notes.known.extend(KEYS.into_iter().chain(webhook::KEYS).map(|key| (PATH, key)));
    let Some(node) = table.take(notes, "notify").map(|entry| entry.node) else { return Read::default() };
    let Node { place, value } = node;
    let nodes = match value {
        Value::List(nodes) => nodes,
        other => {
            let mistake = Mistake::new(format!("expected a list of tables, found {}", other.described()));
            notes.mistake(&place, "notify", table, mistake.hint("write notify = [{ publish = \"channel\" }]"));
            return Read::default();
        }
    };
    if nodes.len() > MAX_NOTIFICATIONS {
        let mistake = Mistake::new(format!("{} notifications are too many; at most {MAX_NOTIFICATIONS}", nodes.len()));
        notes.mistake(&place, "notify", table, mistake);
        return Read::default();
    }
    let mut read = Read::default();
    for (index, node) in nodes.into_iter().enumerate() {
        let one = notification(index, node, table, around, &mut read.webhooks, notes);
        read.notify.extend(one);
    }
    read
}

fn notification(
    index: usize,
    node: Node,
    source: &Table,
    around: &Around<'_>,
    webhooks: &mut Vec<Settings>,
    notes: &mut Notes,
) -> Option<Notification> {
    let Value::Table(entries) = node.value else {
        let mistake = Mistake::new(format!("expected a table, found {}", node.value.described()));
        notes.mistake(&node.place, "notify", source, mistake.hint("write { publish = \"channel\" }"));
        return None;
    };
    let label = format!("notification #{} of {}", index + 1, source.label);
    let mut table = Table::new(PATH, label, node.place, entries);
    let target = target(&mut table, around, webhooks, notes);
    let payload = payload(&mut table, target.as_ref().map(|(target, _)| target), &around.names, notes);
    let when = table.get(notes, "when", |value| {
        let condition = Condition::parse(text(value)?, &around.names.scope)?;
        around.reads.check_condition(&condition)?;
        Ok(condition)
    });
    if let Some(when) = &when {
        super::source::warn_of_wide_keys(
            when.value.keys(),
            around.names.scope.id,
            &when.value.text,
            &when.place,
            "when",
            &table,
            notes,
        );
    }
    table.finish(notes);
    let (target, text) = target?;
    Some(Notification { target, payload: payload?, when: when.map(|read| read.value), text })
}

/// Where it goes, and how that is written.
fn target(
    table: &mut Table,
    around: &Around<'_>,
    webhooks: &mut Vec<Settings>,
    notes: &mut Notes,
) -> Option<(Target, String)> {
    let Around { names, container, ignore, .. } = around;
    let maxlen = table.take(notes, "maxlen").map(|entry| entry.node);
    let ways = ["publish", "spublish", "xadd", "webhook"];
    let mut ways =
        ways.into_iter().filter_map(|key| Some((key, table.take(notes, key)?))).collect::<Vec<_>>().into_iter();
    let way = ways.next();
    if !matches!(way, None | Some(("webhook", _))) {
        webhook::refuse(table, notes);
    }
    if let (Some((first, _)), Some((key, other))) = (&way, ways.next()) {
        let mistake = Mistake::new(format!("it stands beside `{first}`, and a notification goes one way"));
        notes.mistake(&other.place, key, table, mistake.hint("write a table for each"));
        if key == "webhook" {
            let _ = webhook::KEYS.map(|key| table.take(notes, key));
        }
        return None;
    }
    let Some((key, way)) = way else {
        let mistake = Mistake::new(format!("{} does not say where it goes", table.label));
        let hint =
            "write one of publish = \"channel\", spublish = \"channel\", xadd = \"stream\", webhook = \"https://…\"";
        notes.problems.push(super::Problem::at(&table.place, mistake.hint(hint)));
        return None;
    };
    if key == "xadd" {
        let maxlen = maxlen.map(|node| table.read(notes, "maxlen", &node, |value| number(value, 1..=u32::MAX)));
        let read = table.read(notes, "xadd", &way.node, |value| {
            let key = text(value)?;
            Ok((Target::stream(key, names, *container, ignore)?, format!("XADD {key}")))
        });
        let (target, text) = read?.value;
        return match maxlen {
            None => Some((target, text)),
            Some(maxlen) => Some((target.cut_to(maxlen?.value), text)),
        };
    }
    if let Some(maxlen) = maxlen {
        let what = if key == "webhook" { "a webhook" } else { "a channel" };
        let mistake = Mistake::new(format!("{what} keeps nothing, so there is nothing to cut"));
        notes.mistake(&maxlen.place, "maxlen", table, mistake.hint("leave it out; it belongs beside `xadd`"));
    }
    if key == "webhook" {
        return to_webhook(table, &way.node, webhooks, notes);
    }
    let sharded = key == "spublish";
    let read = table.read(notes, key, &way.node, |value| {
        let channel = text(value)?;
        let verb = if sharded { "SPUBLISH" } else { "PUBLISH" };
        Ok((Target::channel(channel, sharded, names)?, format!("{verb} {channel}")))
    });
    read.map(|read| read.value)
}

fn to_webhook(
    table: &mut Table,
    url: &Node,
    webhooks: &mut Vec<Settings>,
    notes: &mut Notes,
) -> Option<(Target, String)> {
    let settings = webhook::read(table, url, notes)?;
    let outbox = settings.outbox;
    if outbox && webhooks.iter().any(|other| other.outbox) {
        let mistake = Mistake::new("another webhook of this source has the outbox, and a source has one");
        let hint = "let one of the two receivers pass on what it is told, or leave `outbox` out here";
        notes.mistake(&url.place, "webhook", table, mistake.hint(hint));
    }
    let place = webhooks.len();
    let text = format!("POST {}{}", settings.url, if outbox { " through an outbox" } else { "" });
    webhooks.push(settings);
    Some((Target::Webhook { place, outbox }, text))
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
    let json = target.is_some_and(Target::takes_json);
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
