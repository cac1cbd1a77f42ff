//! Keys by pattern: an entry is a key that holds a string, or a hash.
//!
//! A page of names is read while the next one is on its way: both are asked for in one round trip. `SCAN` is not
//! asked for a type: a key of another type than configured is counted as unreadable, instead of going unseen.

use std::borrow::Cow;
use std::ops::ControlFlow;

use redis::Value;

use super::connect::{Link, Live};
use super::error::{Error, Kind};
use super::own::{self, Own};
use super::scan::{MAX_PAGES, PageSize};
use super::status::Purpose;
use super::{Held, Reading, Taker, reply};
use crate::language::action::OWN_PREFIX;
use crate::language::pattern::Pattern;
use crate::language::source::Source;
use crate::language::template::{Layout, Template};
use crate::language::value::Value as Stored;
use crate::policy::entry::{Bytes, EntryId, Now};

impl Held {
    /// Whether nothing was read, whatever the key may be.
    fn is_empty(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Own(Own::Fields(fields)) => fields.iter().all(|(_, value)| value.is_none()),
            Self::WrongType | Self::Own(_) => false,
        }
    }
}

/// Reads every key that matches, unless who takes them has enough.
pub(super) async fn walk(
    reading: &Reading<'_>,
    pattern: &Pattern,
    into: &mut impl Taker,
) -> Result<ControlFlow<()>, Error> {
    let Reading { link, live, source, doing, .. } = reading;
    let wanted = Wanted::of(source, own::survey_fields(source));
    let reader = Reader { link, live, source, doing, wanted, purpose: Purpose::Scan };
    let glob = pattern.glob();
    let mut size = PageSize::new();
    let mut cursor = Some(0);
    let mut names: Vec<Vec<u8>> = Vec::new();
    // bound: until the server's cursor is back at 0, and never more than MAX_PAGES
    for _ in 0..MAX_PAGES {
        let next = cursor.map(|cursor| (cursor, &glob[..], size.items()));
        let (now, held, page) = reader.read(&names, next).await?;
        size.saw(held.iter().map(held_size).sum());
        let read = names.len();
        for (name, held) in names.drain(..).zip(held) {
            let own = match held {
                Held::Nothing => continue,
                Held::WrongType => None,
                Held::Own(own) => Some(own),
            };
            if into.take(now, own, || EntryId::key(name)).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        into.turn(read).await?;
        let Some(page) = page else { return Ok(ControlFlow::Continue(())) };
        let (next, found) = reply::page(page).map_err(|unexpected| link.unexpected(doing, unexpected))?;
        names = entry_keys(source, pattern, found).map_err(|unexpected| link.unexpected(doing, unexpected))?;
        cursor = (next != 0).then_some(next);
        if cursor.is_none() && names.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
    }
    Err(link.error(Kind::Other, doing, "the scan did not end"))
}

fn entry_keys(source: &Source, pattern: &Pattern, found: Value) -> Result<Vec<Vec<u8>>, reply::Unexpected> {
    let names = reply::array(found)?.into_iter().map(reply::some_bytes).collect::<Result<Vec<_>, _>>()?;
    // Of a list of patterns a key belongs to the first that matches it, and is counted once.
    let patterns = source.container.patterns();
    let is_own = |name: &[u8]| patterns.find(name).is_some_and(|first| std::ptr::eq(first, pattern));
    let is_entry = |name: &Vec<u8>| !name.starts_with(OWN_PREFIX) && is_own(name) && !source.ignores(name);
    Ok(names.into_iter().filter(is_entry).collect())
}

pub(super) async fn look(
    link: &Link,
    live: &Live,
    source: &Source,
    ids: &[EntryId],
) -> Result<(Now, Vec<Held>), Error> {
    let doing = super::looking(source);
    let wanted = Wanted::of(source, own::evidence_fields(source));
    let reader = Reader { link, live, source, doing: &doing, wanted, purpose: Purpose::Read };
    let names: Vec<Vec<u8>> = ids.iter().map(|id| id.key.to_vec()).collect();
    let (now, held, _) = reader.read(&names, None).await?;
    Ok((now, held))
}

fn held_size(held: &Held) -> usize {
    match held {
        Held::Own(Own::Value(value)) => value.len(),
        Held::Own(Own::Fields(fields)) => fields.iter().map(|(_, value)| value.as_ref().map_or(0, Vec::len)).sum(),
        _ => 0,
    }
}

struct Reader<'a> {
    link: &'a Link,
    live: &'a Live,
    source: &'a Source,
    doing: &'a str,
    wanted: Wanted,
    purpose: Purpose,
}

/// What is read of each key.
enum Wanted {
    /// The string that it holds.
    Text,
    /// These fields of the hash that it holds, called the same in each.
    Fields(Vec<Bytes>),
    /// These, of which some are named after the key.
    Named(Vec<Template>),
    /// Nothing but its type, so that nobody looks as if they had used it; and how long nobody has, if that is asked.
    Kind { idle: bool },
}

impl Wanted {
    fn of(source: &Source, fields: Option<Vec<Template>>) -> Self {
        match (source.layout, fields) {
            (Layout::Keys, _) => Self::Kind { idle: source.last_ping == [Stored::Idle] },
            // Where a survey needs none of its fields, that the key is there is all.
            (_, Some(fields)) if fields.is_empty() => Self::Kind { idle: false },
            (_, Some(fields)) => match fields.iter().map(|field| field.as_literal().map(Bytes::from)).collect() {
                Some(fields) => Self::Fields(fields),
                None => Self::Named(fields),
            },
            (_, None) => Self::Text,
        }
    }
}

impl Reader<'_> {
    /// The fields that are read of this key; none where it is no hash.
    fn fields(&self, key: &[u8]) -> Cow<'_, [Bytes]> {
        match &self.wanted {
            Wanted::Fields(fields) => fields.as_slice().into(),
            Wanted::Named(fields) => own::field_names(self.source, fields, key).into(),
            Wanted::Kind { .. } | Wanted::Text => Cow::default(),
        }
    }

    /// Reads what these keys hold, and in the same round trip the next page of names. The time is read first, so ages
    /// err to the young side.
    async fn read(
        &self,
        names: &[Vec<u8>],
        next: Option<(u64, &[u8], usize)>,
    ) -> Result<(Now, Vec<Held>, Option<Value>), Error> {
        let mut commands = redis::pipe();
        commands.cmd("TIME");
        match &self.wanted {
            Wanted::Fields(_) | Wanted::Named(_) => names.iter().for_each(|name| {
                commands.cmd("HMGET").arg(name);
                self.fields(name).iter().for_each(|field| _ = commands.arg(&field[..]));
            }),
            Wanted::Kind { idle } => names.iter().for_each(|name| {
                commands.cmd("TYPE").arg(name);
                if *idle {
                    commands.cmd("OBJECT").arg("IDLETIME").arg(name);
                }
            }),
            Wanted::Text if names.is_empty() => {}
            Wanted::Text => _ = commands.cmd("MGET").arg(names),
        }
        if let Some((cursor, glob, items)) = next {
            commands.cmd("SCAN").arg(cursor).arg("MATCH").arg(glob).arg("COUNT").arg(items);
        }
        let mut replies = self.link.ask(self.live, self.purpose, self.doing, &commands).await?;
        let page = next.and_then(|_| replies.pop());
        let mut replies = replies.into_iter();
        let now = self.link.now(self.doing, replies.next().unwrap_or_default())?;
        let held = match &self.wanted {
            Wanted::Fields(_) | Wanted::Named(_) => {
                names.iter().zip(replies).map(|(name, reply)| hash(&self.fields(name), reply)).collect()
            }
            Wanted::Kind { idle } => kinds(replies.collect(), *idle),
            Wanted::Text => strings(replies.next()),
        };
        let mut held = held.map_err(|unexpected| self.link.unexpected(self.doing, unexpected))?;
        self.tell_types_apart(names, &mut held).await?;
        Ok((now, held, page))
    }

    /// `MGET` answers nil for a key of another type as for none, and `HMGET` nothing but nils for a hash without these
    /// fields as for no key: the few that did are asked for their type.
    async fn tell_types_apart(&self, names: &[Vec<u8>], held: &mut [Held]) -> Result<(), Error> {
        let empty: Vec<usize> = (0..held.len()).filter(|at| held[*at].is_empty()).collect();
        if empty.is_empty() {
            return Ok(());
        }
        let mut commands = redis::pipe();
        empty.iter().for_each(|at| _ = commands.cmd("TYPE").arg(&names[*at]));
        let types = self.link.ask(self.live, self.purpose, self.doing, &commands).await?;
        let of_hashes = matches!(self.wanted, Wanted::Fields(_) | Wanted::Named(_));
        let wanted: &[u8] = if of_hashes { b"hash" } else { b"string" };
        for (at, kind) in empty.into_iter().zip(types) {
            let kind = reply::some_bytes(kind).map_err(|unexpected| self.link.unexpected(self.doing, unexpected))?;
            if kind == b"none" {
                held[at] = Held::Nothing;
            } else if kind != wanted {
                held[at] = Held::WrongType;
            }
            // Else it stays what it was. A string came back between the two reads, so a client just wrote it; the next
            // survey judges it.
        }
        Ok(())
    }
}

fn hash(fields: &[Bytes], reply: Value) -> Result<Held, reply::Unexpected> {
    if reply::is_wrong_type(&reply) {
        return Ok(Held::WrongType);
    }
    let values = reply::array(reply)?.into_iter().map(reply::bytes).collect::<Result<Vec<_>, _>>()?;
    Ok(Held::Own(Own::Fields(fields.iter().cloned().zip(values).collect())))
}

/// The types, each with an idle time behind it if that was asked. Under a policy that counts how often keys are used,
/// Redis tells no idle time, and it says so.
fn kinds(replies: Vec<Value>, idle: bool) -> Result<Vec<Held>, reply::Unexpected> {
    let of_one = if idle { 2 } else { 1 };
    let held = replies.chunks(of_one).map(|replies| {
        let mut replies = replies.iter().cloned();
        let kind = reply::some_bytes(replies.next().unwrap_or_default())?;
        let idle = replies.next().and_then(|idle| reply::count(idle).ok());
        Ok(if kind == b"none" { Held::Nothing } else { Held::Own(Own::Key { kind, idle }) })
    });
    held.collect()
}

fn strings(reply: Option<Value>) -> Result<Vec<Held>, reply::Unexpected> {
    let Some(reply) = reply else { return Ok(Vec::new()) };
    let held = |value| Ok(reply::bytes(value)?.map_or(Held::Nothing, |value| Held::Own(Own::Value(value))));
    reply::array(reply)?.into_iter().map(held).collect()
}
