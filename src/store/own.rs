//! One entry's own bytes → the times it is judged by, the values its templates name, the evidence a strike compares.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::ops::Range;

use serde_json::Value as Json;

use super::condition::Unless;
use super::evict::{Deed, Prepared, Probe};
use super::{notify, outbox};
use crate::language::action::{Action, Verb};
use crate::language::condition::Condition;
use crate::language::notify::Notification;
use crate::language::source::{Container, LastPing, Source};
use crate::language::template::{Pointer, Ref, Template};
use crate::policy::entry::{Bytes, EntryId, Mark, Timestamp};
use crate::policy::ping::{self, Raw};
use crate::policy::survey::Judged;

/// What was read of an entry.
#[derive(Clone, Debug)]
pub(super) enum Own {
    /// A sorted set's score.
    Score(f64),
    /// A hash field's value, or a string key's.
    Value(Vec<u8>),
    /// Fields of a key that is a hash, absent ones included.
    Fields(Vec<(Bytes, Option<Vec<u8>>)>),
}

/// Not JSON where JSON was configured: as unreadable as a brace without its fellow.
const NOT_JSON: Raw<'static> = Raw::Text(b"{");

/// The entry's last ping, and the mark of the times it came from.
pub(super) fn judge(source: &Source, own: &Own, now: Timestamp) -> (Judged, Mark) {
    match (&source.last_ping, own) {
        (_, Own::Score(score)) => {
            let bits = score.to_bits().to_be_bytes();
            (newest(source, [Raw::Score(*score)], now), Mark::of([Some(&bits[..])]))
        }
        (LastPing::Value(parts), Own::Value(value)) => judge_value(source, parts, value, now),
        (LastPing::Fields(names), Own::Fields(fields)) => {
            let texts: Vec<Option<&[u8]>> = names.iter().map(|name| field(fields, name)).collect();
            let raws = texts.iter().map(|text| text.map_or(Raw::Absent, Raw::Text));
            (newest(source, raws, now), Mark::of(texts.iter().copied()))
        }
        // The layout that read the entry is chosen by the same `last_ping`, so the two agree.
        _ => (newest(source, [Raw::Absent], now), Mark::of([])),
    }
}

/// The label of the entry's group, where the source names one and the entry has it.
pub(super) fn label(source: &Source, id: &EntryId, own: &Own) -> Option<Vec<u8>> {
    let values = Values::new(source, id, own);
    source.group.as_ref()?.fill(|name| values.of(name))
}

fn newest<'r>(source: &Source, raws: impl IntoIterator<Item = Raw<'r>>, now: Timestamp) -> Judged {
    let reader = source.reader(now);
    ping::newest(raws.into_iter().map(|raw| reader.read(raw)))
}

fn judge_value(source: &Source, parts: &[Option<Pointer>], value: &[u8], now: Timestamp) -> (Judged, Mark) {
    let json = parts.iter().any(Option::is_some).then(|| serde_json::from_slice::<Json>(value).ok()).flatten();
    let texts: Vec<Part<'_>> = parts.iter().map(|part| Part::of(part.as_ref(), value, json.as_ref())).collect();
    let judged = newest(source, texts.iter().map(Part::raw), now);
    (judged, Mark::of(texts.iter().map(Part::text)))
}

/// A time within a value, as it stands there.
enum Part<'v> {
    Absent,
    Text(Cow<'v, [u8]>),
    Odd,
    NotJson,
}

impl<'v> Part<'v> {
    fn of(pointer: Option<&Pointer>, value: &'v [u8], json: Option<&'v Json>) -> Self {
        let Some(pointer) = pointer else { return Self::Text(value.into()) };
        let Some(json) = json else { return Self::NotJson };
        match pointer.find(json) {
            None | Some(Json::Null) => Self::Absent,
            Some(found) => scalar(found).map_or(Self::Odd, Self::Text),
        }
    }

    fn raw(&self) -> Raw<'_> {
        match self {
            Self::Absent => Raw::Absent,
            Self::Text(text) => Raw::Text(text),
            Self::Odd => Raw::Odd,
            Self::NotJson => NOT_JSON,
        }
    }

    fn text(&self) -> Option<&[u8]> {
        match self {
            Self::Text(text) => Some(text),
            Self::Absent | Self::Odd | Self::NotJson => None,
        }
    }
}

/// A string as its text, a number or boolean as JSON writes it; lists and objects have no text.
pub(super) fn scalar(json: &Json) -> Option<Cow<'_, [u8]>> {
    match json {
        Json::String(text) => Some(text.as_bytes().into()),
        Json::Number(_) | Json::Bool(_) => Some(json.to_string().into_bytes().into()),
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    }
}

fn field<'f>(fields: &'f [(Bytes, Option<Vec<u8>>)], name: &[u8]) -> Option<&'f [u8]> {
    fields.iter().find(|(known, _)| **known == *name).and_then(|(_, value)| value.as_deref())
}

/// The beginning of what was read, as a person would write it: `last_ping=17 user=x` for fields.
pub(super) fn beginning(own: &Own, bytes: usize) -> Vec<u8> {
    let short = |value: &[u8]| value[..value.len().min(bytes)].to_vec();
    match own {
        Own::Score(score) => short(score.to_string().as_bytes()),
        Own::Value(value) => short(value),
        Own::Fields(fields) => {
            let present = fields.iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
            let present = present.map(|(name, value)| [name, &b"="[..], &short(value)].concat());
            short(&present.collect::<Vec<_>>().join(&b' '))
        }
    }
}

/// The fields of a hash entry that a survey needs: those of its times, then those that name its group and those its
/// conditions name. None where the entries are no such keys.
pub(super) fn survey_fields(source: &Source) -> Option<Vec<Bytes>> {
    let LastPing::Fields(times) = &source.last_ping else { return None };
    let mut fields = times.clone();
    add_fields(&mut fields, source.group.iter().flat_map(Template::refs));
    add_fields(&mut fields, source.unless.iter().flat_map(Condition::refs));
    Some(fields)
}

/// The fields that a strike needs: those of a survey, then those that templates name.
pub(super) fn evidence_fields(source: &Source) -> Option<Vec<Bytes>> {
    let mut fields = survey_fields(source)?;
    let named = source.companions.iter().flat_map(Action::templates).flat_map(Template::refs);
    add_fields(&mut fields, named.chain(source.notify.iter().flat_map(Notification::refs)));
    Some(fields)
}

fn add_fields<'r>(fields: &mut Vec<Bytes>, named: impl Iterator<Item = &'r Ref>) {
    for name in named {
        if let Ref::Field(field) = name
            && !fields.contains(field)
        {
            fields.push(field.clone());
        }
    }
}

/// What protects an entry, as far as what was read of it tells.
pub(super) fn unless(source: &Source, id: &EntryId, own: &Own) -> Unless {
    let values = Values::new(source, id, own);
    Unless::of(source, |name| values.of(name))
}

/// Everything a strike on this entry needs: its evidence, and its actions and notifications with every name filled in.
/// `last_ping` as it was judged, where it could be.
pub(super) fn prepare(source: &Source, id: &EntryId, own: Own, last_ping: Option<Timestamp>) -> Prepared {
    let values = Values::new(source, id, &own);
    let mut deeds = Vec::with_capacity(source.companions.len() + 1);
    let mut skipped = 0;
    for companion in &source.companions {
        match values.fill(companion) {
            Some(deed) => deeds.push(deed),
            None => skipped += 1,
        }
    }
    let trespasses = deeds.iter().any(|deed| deed.keys.iter().any(|key| source.is_hit_by(deed.verb, key)));
    deeds.push(removal(source, id));
    let outbox = if source.has_outbox() { outbox::key(source) } else { Vec::new() };
    let known = notify::Values { own: |name: &Ref| values.of(name), last_ping, outbox: &outbox };
    let notices: Vec<_> = source.notify.iter().filter_map(|notification| known.notice(notification)).collect();
    let unsaid = source.notify.len() - notices.len();
    let unless = Unless::of(source, |name| values.of(name));
    Prepared { id: id.clone(), probe: probe(id, own), unless, deeds, skipped, notices, unsaid, trespasses }
}

fn removal(source: &Source, id: &EntryId) -> Deed {
    let (verb, args) = match (&source.container, &id.member) {
        (Container::Zset(_), Some(member)) => (Verb::Zrem, vec![member.to_vec()]),
        (Container::Hash(_), Some(field)) => (Verb::Hdel, vec![field.to_vec()]),
        _ => (Verb::Unlink, vec![]),
    };
    Deed { verb, keys: vec![id.key.to_vec()], args }
}

fn probe(id: &EntryId, own: Own) -> Probe {
    let member = || id.member.clone().unwrap_or_default();
    match own {
        Own::Score(score) => Probe::Score { member: member(), score },
        Own::Value(value) if id.member.is_some() => Probe::Field { field: member(), value },
        Own::Value(value) => Probe::Text { value },
        Own::Fields(fields) => Probe::Fields { fields },
    }
}

/// The named values of one entry.
struct Values<'e> {
    id: &'e EntryId,
    own: &'e Own,
    captures: Vec<Range<usize>>,
    json: OnceCell<Option<Json>>,
}

impl<'e> Values<'e> {
    fn new(source: &Source, id: &'e EntryId, own: &'e Own) -> Self {
        let captures = source.container.patterns().captures(&id.key).unwrap_or_default();
        Self { id, own, captures, json: OnceCell::new() }
    }

    fn fill(&self, action: &Action) -> Option<Deed> {
        let all = |templates: &[Template]| {
            templates.iter().map(|template| template.fill(|name| self.of(name))).collect::<Option<Vec<_>>>()
        };
        Some(Deed { verb: action.verb, keys: all(&action.key)?, args: all(&action.args)? })
    }

    fn of(&self, name: &Ref) -> Option<Cow<'_, [u8]>> {
        match (name, self.own) {
            (Ref::Key, _) => Some(self.id.key[..].into()),
            (Ref::Member, _) => self.id.member.as_deref().map(Cow::from),
            (Ref::Id, _) => Some(self.id.name().into()),
            (Ref::Capture(index), _) => {
                self.captures.get(*index).and_then(|at| self.id.key.get(at.clone())).map(Cow::from)
            }
            (Ref::Score, Own::Score(score)) => Some(score.to_string().into_bytes().into()),
            (Ref::Value, Own::Value(value)) => Some(value.as_slice().into()),
            (Ref::Value, Own::Score(_)) => Some(self.id.name().into()),
            (Ref::Json(pointer), _) => pointer.find(self.json()?).and_then(scalar),
            (Ref::Field(name), Own::Fields(fields)) => field(fields, name).map(Cow::from),
            (Ref::Score | Ref::Value | Ref::Field(_), _) => None,
        }
    }

    fn json(&self) -> Option<&Json> {
        let text = match self.own {
            Own::Value(value) => value.as_slice(),
            Own::Score(_) => self.id.name(),
            Own::Fields(_) => return None,
        };
        self.json.get_or_init(|| serde_json::from_slice(text).ok()).as_ref()
    }
}
