//! One entry's own bytes and what was looked up for it → the times it is judged by, the values its templates name, the
//! evidence a strike compares.
//!
//! Whatever has to be asked of Redis first is wanted of the [`Answers`], and until it is there nothing of the entry
//! counts: [`Facts::is_pending`].

use std::borrow::Cow;
use std::cell::{Cell, OnceCell, RefCell};
use std::ops::Range;
use std::time::Duration;

use redis::Value as Reply;
use serde_json::Value as Json;

use super::asking::{Answers, Query};
use super::condition::{self, Filled, Question, Unless};
use super::deeds::{self, Deed, Deeds, Filling, ListQuery, Lists, When};
use super::evict::{Elsewhere, Prepared, Probe};
use super::{notify, outbox, reply};
use crate::language::action::Verb;
use crate::language::companion::{Companion, List};
use crate::language::condition::Condition;
use crate::language::notify::Notification;
use crate::language::on_evict::OnEvict;
use crate::language::source::{Container, Source};
use crate::language::template::{Layout, Pointer, Ref, Template};
use crate::language::value::{Lookup, Place, Value};
use crate::policy::entry::{Bytes, EntryId, Mark, Now, Timestamp};
use crate::policy::ping::{self, Raw, Reading, Unreadable};
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
    /// A member of a set, of which there is nothing else to read.
    Member,
    /// A key, its type, and for how many seconds nobody has used it, where that is asked.
    Key {
        /// As `TYPE` says it.
        kind: Vec<u8>,
        /// None where it is not asked, or where Redis does not count it.
        idle: Option<u64>,
    },
}

/// How much later than Redis says a key may have been used last: the time of an access is noted in whole seconds, and by
/// a clock that is read as seldom as once a second (`LRU_CLOCK_RESOLUTION`, and `hz` of 1).
const IDLE_IS_COARSE: Duration = Duration::from_secs(2);

/// Not JSON where JSON was configured: as unreadable as a brace without its fellow.
const NOT_JSON: Raw<'static> = Raw::Text(b"{");

/// When an entry was last known alive, as far as it tells.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    /// What there is to judge by.
    pub(super) sign: Sign,
    /// What must stand still between two looks.
    pub(super) mark: Mark,
    /// Which of the values of `last_ping` gave a time, or were there: a bit each.
    pub(super) gave: u32,
}

/// What there is to judge an entry by.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sign {
    /// A time.
    Time(Judged),
    /// A key that is there.
    Exists,
    /// The time of the last access.
    Idle(Timestamp),
    /// The value that it has.
    Unchanged,
    /// Nothing: what is looked up is not there.
    Missing,
}

/// The score of a member, judged.
pub(super) fn judge_score(source: &Source, score: f64, now: Timestamp) -> (Judged, Mark) {
    let bits = score.to_bits().to_be_bytes();
    (ping::newest([source.reader(now).read(Raw::Score(score))]), Mark::of([Some(&bits[..])]))
}

/// What stands where a value is looked up.
pub(super) enum Looked<'v> {
    /// It has to be asked first.
    NotYet,
    /// Its key is not there; or in a key that all entries share, nothing of this one is.
    Missing,
    /// Nothing, and nobody has asked yet whether the key is there.
    Nothing {
        key: Vec<u8>,
    },
    /// Nothing, though its key is there, or nobody knows which key to ask.
    Absent,
    Text(Cow<'v, [u8]>),
    Score(f64),
    /// A number that has no text, as a double is spelt: a time, and no name.
    Number(String),
    /// Present, but neither text nor number.
    Odd,
    NotJson,
    /// A key that is there.
    There,
}

/// A string as its text, a number or boolean as it is written; lists and objects have no text. Nor has a number with an
/// exponent: how it was written is not known any more, and what is named after it would be something else.
pub(super) fn scalar(json: &Json) -> Option<Cow<'_, [u8]>> {
    match json {
        Json::String(text) => Some(text.as_bytes().into()),
        Json::Number(number) if has_exponent(number) => None,
        Json::Number(_) | Json::Bool(_) => Some(json.to_string().into_bytes().into()),
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    }
}

fn has_exponent(number: &serde_json::Number) -> bool {
    number.as_str().contains(['e', 'E'])
}

/// A part of a text, read as JSON.
pub(super) fn part_of<'v>(pointer: &Pointer, json: Option<&'v Json>) -> Looked<'v> {
    match json.map(|json| pointer.find(json)) {
        None => Looked::NotJson,
        Some(None | Some(Json::Null)) => Looked::Absent,
        Some(Some(Json::Number(number))) if has_exponent(number) => {
            let spelt = number.as_f64().and_then(serde_json::Number::from_f64);
            spelt.map_or(Looked::NotJson, |spelt| Looked::Number(spelt.to_string()))
        }
        Some(Some(found)) => scalar(found).map_or(Looked::Odd, Looked::Text),
    }
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
        Own::Member | Own::Key { .. } => Vec::new(),
    }
}

/// The fields of a hash entry that a survey needs: those that its times, its `let`s, its group and its conditions name.
/// None where the entries are no such keys.
pub(super) fn survey_fields(source: &Source) -> Option<Vec<Template>> {
    if source.layout != Layout::Hashes {
        return None;
    }
    let mut fields = Vec::new();
    let lets = source.lets.iter().flat_map(|one| &one.values);
    add_fields(&mut fields, source.last_ping.iter().chain(lets).flat_map(Value::refs));
    add_fields(&mut fields, source.group.iter().flat_map(Template::refs));
    add_fields(&mut fields, source.filters.iter().chain(&source.unless).flat_map(Condition::refs));
    if let OnEvict::Set { field, .. } = &source.on_evict {
        add_fields(&mut fields, [&Ref::Field(field.clone())].into_iter());
    }
    Some(fields)
}

/// The fields that a strike needs: those of a survey, then those that templates name.
pub(super) fn evidence_fields(source: &Source) -> Option<Vec<Template>> {
    let mut fields = survey_fields(source)?;
    let named = source.companions.iter().flat_map(Companion::refs);
    add_fields(&mut fields, named.chain(source.notify.iter().flat_map(Notification::refs)));
    Some(fields)
}

fn add_fields<'r>(fields: &mut Vec<Template>, named: impl Iterator<Item = &'r Ref>) {
    for name in named {
        if let Ref::Field(field) = name
            && !fields.contains(field)
        {
            fields.push(field.clone());
        }
    }
}

/// What these fields are called in the hash that is this key.
pub(super) fn field_names(source: &Source, fields: &[Template], key: &[u8]) -> Vec<Bytes> {
    let captures = OnceCell::new();
    let value_of = |name: &Ref| match name {
        Ref::Capture(at) => {
            let captures = captures.get_or_init(|| source.container.patterns().captures(key).unwrap_or_default());
            key.get(captures.get(*at)?.clone()).map(Cow::from)
        }
        _ => Some(Cow::from(key)),
    };
    // A name is made of the key alone, so none is absent.
    fields.iter().map(|field| field.fill(value_of).unwrap_or_default().into()).collect()
}

/// Whether companions are made from lists that stand elsewhere.
pub(super) fn awaits_lists(source: &Source) -> bool {
    let lists = source.companions.iter().filter_map(|companion| companion.each.as_ref());
    lists.into_iter().any(|each| matches!(each.list, List::Stored(..)))
}

fn probe(id: &EntryId, own: &Own) -> Probe {
    let member = || id.member.clone().unwrap_or_default();
    match own.clone() {
        Own::Score(score) => Probe::Score { member: member(), score },
        Own::Value(value) if id.member.is_some() => Probe::Field { field: member(), value },
        Own::Value(value) => Probe::Text { value },
        Own::Fields(fields) => Probe::Fields { fields },
        Own::Member => Probe::Member { member: member() },
        Own::Key { kind, idle } => Probe::Key { kind, idle },
    }
}

/// What is known of one entry.
pub(super) struct Facts<'e> {
    source: &'e Source,
    id: &'e EntryId,
    own: &'e Own,
    now: Now,
    /// Of the key, and of the member.
    captures: OnceCell<[Vec<Range<usize>>; 2]>,
    json: OnceCell<Option<Json>>,
    answers: &'e Answers,
    pending: Cell<bool>,
    /// What was asked, and counts as evidence.
    asked: RefCell<Vec<Query>>,
}

impl<'e> Facts<'e> {
    pub(super) fn new(source: &'e Source, id: &'e EntryId, own: &'e Own, now: Now, answers: &'e Answers) -> Self {
        Self {
            source,
            id,
            own,
            now,
            captures: OnceCell::new(),
            json: OnceCell::new(),
            answers,
            pending: Cell::new(false),
            asked: RefCell::default(),
        }
    }

    /// Whether something has to be asked first; then nothing that was concluded from this counts.
    pub(super) fn is_pending(&self) -> bool {
        self.pending.get()
    }

    // === what is asked ===

    fn ask(&self, query: Query) -> Option<&'e Reply> {
        let found = self.answers.get(&query);
        self.pending.set(self.pending.get() || found.is_none());
        let mut asked = self.asked.borrow_mut();
        if !asked.contains(&query) {
            asked.push(query);
        }
        found
    }

    /// What is looked up, where an absence is told from a key that is gone.
    fn look_up(&self, lookup: &Lookup) -> Looked<'e> {
        match self.find(lookup) {
            Looked::Nothing { key } => self.without(&lookup.place, key),
            found => found,
        }
    }

    /// What stands there, or nothing.
    fn find(&self, Lookup { place, part }: &Lookup) -> Looked<'e> {
        let Some(key) = self.fill(place.key()) else { return Looked::Absent };
        let found = match place {
            Place::Key(_) => return self.exists(key, Looked::There, Looked::Missing),
            Place::Text(_) => self.text(Query::new("GET", key.clone(), None), key),
            Place::Field { field, .. } => match self.fill(field) {
                Some(field) => self.text(Query::new("HGET", key.clone(), Some(field)), key),
                None => Looked::Absent,
            },
            Place::Score { member, .. } => match self.fill(member) {
                Some(member) => self.score(Query::new("ZSCORE", key.clone(), Some(member)), key),
                None => Looked::Absent,
            },
        };
        match (found, part) {
            (Looked::Text(text), Some(pointer)) => {
                let json: Option<Json> = serde_json::from_slice(&text).ok();
                match part_of(pointer, json.as_ref()) {
                    Looked::Text(text) => Looked::Text(text.into_owned().into()),
                    Looked::Absent => Looked::Absent,
                    Looked::Number(spelt) => Looked::Number(spelt),
                    Looked::Odd => Looked::Odd,
                    _ => Looked::NotJson,
                }
            }
            (found, _) => found,
        }
    }

    fn text(&self, query: Query, key: Vec<u8>) -> Looked<'e> {
        match self.ask(query) {
            None => Looked::NotYet,
            Some(Reply::BulkString(text)) => Looked::Text(Cow::Borrowed(text)),
            Some(Reply::Nil) => Looked::Nothing { key },
            Some(_) => Looked::Odd,
        }
    }

    fn score(&self, query: Query, key: Vec<u8>) -> Looked<'e> {
        match self.ask(query) {
            None => Looked::NotYet,
            Some(Reply::Nil) => Looked::Nothing { key },
            Some(reply) => match reply::score(reply.clone()) {
                Ok(Some(score)) => Looked::Score(score),
                _ => Looked::Odd,
            },
        }
    }

    fn exists(&self, key: Vec<u8>, there: Looked<'e>, gone: Looked<'e>) -> Looked<'e> {
        match self.ask(Query::new("EXISTS", key, None)) {
            None => Looked::NotYet,
            Some(Reply::Int(0)) => gone,
            Some(_) => there,
        }
    }

    /// A string that is nothing is gone. What is not in a key of this entry's own is missing only where the key itself is;
    /// a key that all share has nothing of this one in it.
    fn without(&self, place: &Place, key: Vec<u8>) -> Looked<'e> {
        let of_one = place.key().refs().any(|name| self.source.is_of_one_entry(name));
        match place {
            Place::Field { .. } | Place::Score { .. } if of_one => self.exists(key, Looked::Absent, Looked::Missing),
            _ => Looked::Missing,
        }
    }

    // === what it comes to ===

    /// Whether it is an entry of the source at all: every condition of `where` holds.
    pub(super) fn belongs(&self) -> bool {
        self.source.filters.iter().all(|condition| match condition::fill(condition, |name| self.of(name)) {
            Filled::Known(holds) => holds,
            Filled::Unfillable | Filled::Sought(_) => false,
            Filled::Asked(mut question) => match self.ask(question.query.clone()) {
                Some(reply) => question.hear(reply.clone()).ok().flatten().unwrap_or(false),
                None => true,
            },
        })
    }

    /// The label of the entry's group, where the source names one and the entry has it.
    pub(super) fn label(&self) -> Option<Vec<u8>> {
        self.fill(self.source.group.as_ref()?)
    }

    /// When the entry was last known alive. `is_live` says of a time whether it is a sign of life.
    pub(super) fn tell(&self, is_live: impl Fn(Timestamp) -> bool) -> Told {
        let sign = |sign, mark: &[u8]| Told { sign, mark: Mark::of([Some(mark)]), gave: 0 };
        match self.source.last_ping.as_slice() {
            [Value::Idle] => {
                let Own::Key { idle: Some(idle), .. } = self.own else {
                    return sign(Sign::Time(Err(Unreadable::Unparsable)), b"");
                };
                let second = Timestamp::from_millis(self.now.server.millis() / 1_000 * 1_000);
                let earliest = second.minus(Duration::from_secs(*idle));
                return sign(Sign::Idle(earliest.plus(IDLE_IS_COARSE).min(self.now.server)), b"");
            }
            [Value::Unchanged] => return Told { sign: Sign::Unchanged, mark: self.mark_of_own(), gave: 0 },
            _ => {}
        }
        let reader = self.source.reader(self.now.server);
        let (mut readings, mut texts, mut gave, mut missing, mut there) = (Vec::new(), Vec::new(), 0, 0, false);
        for (at, value) in self.source.last_ping.iter().enumerate() {
            let looked = match value {
                Value::Own(name) => self.own(name),
                Value::Lookup(lookup) => match self.look_up(lookup) {
                    // Whoever was built from nothing, or lost a part, may be alive all the same.
                    Looked::Absent => {
                        readings.push(Reading::Unreadable(Unreadable::Missing));
                        Looked::Absent
                    }
                    looked => looked,
                },
                Value::Idle | Value::Unchanged => Looked::Absent,
            };
            let (raw, text) = match &looked {
                Looked::NotYet | Looked::Nothing { .. } | Looked::Absent => (Raw::Absent, None),
                Looked::Missing => {
                    missing += 1;
                    (Raw::Absent, None)
                }
                Looked::There => {
                    (there, gave) = (true, gave | 1 << at);
                    continue;
                }
                Looked::Text(text) => (Raw::Text(text), Some(text.to_vec())),
                Looked::Number(spelt) => (Raw::Text(spelt.as_bytes()), Some(spelt.clone().into_bytes())),
                Looked::Score(score) => (Raw::Score(*score), Some(score.to_bits().to_be_bytes().to_vec())),
                Looked::Odd => (Raw::Odd, None),
                Looked::NotJson => (NOT_JSON, None),
            };
            let reading = reader.read(raw);
            if matches!(reading, Reading::Ping { at, .. } if is_live(at)) {
                gave |= 1 << at;
            }
            readings.push(reading);
            texts.push(text);
        }
        let judged = ping::newest(readings);
        if missing == self.source.last_ping.len() {
            return Told { sign: Sign::Missing, mark: self.mark_of_absence(), gave };
        }
        // A sign of life is newer than any time, but what is present and unreadable spoils that too.
        if there && judged.map_or_else(|why| why == Unreadable::Missing, |_| true) {
            return Told { gave, ..sign(Sign::Exists, &self.now.server.millis().to_be_bytes()) };
        }
        Told { sign: Sign::Time(judged), mark: Mark::of(texts.iter().map(Option::as_deref)), gave }
    }

    /// The keys that are looked up: an entry that names another one has been written since.
    fn mark_of_absence(&self) -> Mark {
        let keys = self.source.last_ping.iter().filter_map(|value| match value {
            Value::Lookup(lookup) => Some(self.fill(lookup.place.key())),
            _ => None,
        });
        let keys: Vec<_> = keys.collect();
        Mark::of([Some(&b"missing"[..])].into_iter().chain(keys.iter().map(Option::as_deref)))
    }

    fn mark_of_own(&self) -> Mark {
        match self.own {
            Own::Score(score) => Mark::of([Some(&score.to_bits().to_be_bytes()[..])]),
            Own::Value(value) => Mark::of([Some(value.as_slice())]),
            Own::Fields(fields) => Mark::of(fields.iter().map(|(_, value)| value.as_deref())),
            Own::Member | Own::Key { .. } => Mark::of([]),
        }
    }

    /// A value of the entry's own, where what can't be read is told from what is not there.
    fn own(&self, name: &Ref) -> Looked<'_> {
        match (name, self.own) {
            (Ref::Score, Own::Score(score)) => Looked::Score(*score),
            (Ref::Json(pointer), _) => part_of(pointer, self.json()),
            _ => self.of(name).map_or(Looked::Absent, Looked::Text),
        }
    }

    /// What protects it, as far as is known without asking.
    pub(super) fn unless(&self) -> Unless {
        Unless::of(self.source, |name| self.of(name))
    }

    /// Whether this entry says already that it was evicted: it is not stale again.
    pub(super) fn already(&self) -> bool {
        match (&self.source.on_evict, self.own) {
            (OnEvict::Set { field: name, .. }, Own::Fields(fields)) => {
                self.field(fields, name).is_some_and(|value| Some(value) == self.said().as_deref())
            }
            _ => false,
        }
    }

    /// What the field of an evicted entry says, where `on_evict` sets one.
    fn said(&self) -> Option<Vec<u8>> {
        let OnEvict::Set { text, .. } = &self.source.on_evict else { return None };
        self.fill(text)
    }

    /// What becomes of the entry itself.
    fn removal(&self) -> Deed {
        let (verb, args) = match (&self.source.container, &self.id.member, &self.source.on_evict) {
            (Container::Zset(_), Some(member), _) => (Verb::Zrem, vec![member.to_vec()]),
            (Container::Hash(_), Some(field), _) => (Verb::Hdel, vec![field.to_vec()]),
            (Container::Set(_), Some(member), _) => (Verb::Srem, vec![member.to_vec()]),
            (_, _, OnEvict::Remove) => (Verb::Unlink, vec![]),
            (_, _, OnEvict::Expire(time)) => (Verb::Expire, vec![time.as_millis().to_string().into_bytes()]),
            (_, _, OnEvict::Set { field, .. }) => {
                (Verb::Hset, vec![self.fill(field).unwrap_or_default(), self.said().unwrap_or_default()])
            }
        };
        Deed { verb, keys: vec![self.id.key.to_vec()], args }
    }

    /// Everything a strike on this entry needs: its evidence, and its actions and notifications with every name filled in.
    /// `last_ping` as it was judged, where it could be. Where no strike follows, nothing is looked up for it.
    pub(super) fn prepare(&self, last_ping: Option<Timestamp>, strikes: bool) -> Prepared {
        let (source, id) = (self.source, self.id);
        let removal = Box::new(self.removal());
        if !strikes {
            return Prepared::of_nothing(id.clone(), probe(id, self.own), removal);
        }
        let outbox = if source.has_outbox() { outbox::key(source) } else { Vec::new() };
        let known = notify::Values { own: |name: &Ref| self.of(name), last_ping, outbox: &outbox };
        let (mut notices, mut unsaid) = (Vec::new(), 0);
        for notification in &source.notify {
            let always = Some(Some(When::Always));
            let when = notification.when.as_ref().map_or(always, |when| When::of(when, |name| self.of(name)));
            match (when, known.notice(notification)) {
                (Some(None), _) => {}
                (Some(Some(when)), Some(notice)) => notices.push((when, notice)),
                (None, _) | (_, None) => unsaid += 1,
            }
        }
        let deeds = Box::new(self.deeds(&Lists::new()));
        // What an element of a list will need is asked for before there is one; and whatever was asked by then, for `unless`
        // too, is evidence.
        source.companions.iter().flat_map(Companion::refs).for_each(|name| _ = self.of(name));
        let unless = self.unless();
        let asked = self.asked.borrow();
        let elsewhere = asked.iter().filter_map(|query| Some(Elsewhere::of(query, self.answers.get(query)?))).collect();
        let own = awaits_lists(source).then(|| Box::new(self.own.clone()));
        let (probe, already) = (probe(id, self.own), self.already());
        let mut prepared = Prepared {
            id: id.clone(),
            probe,
            elsewhere,
            unless,
            deeds,
            removal,
            own,
            already,
            notices,
            unsaid,
            trespasses: false,
            grounds: None,
            record: None,
        };
        self.settle(&mut prepared);
        prepared
    }

    /// Sees what the deeds of an entry come to: none may hit another entry or what this one is judged by, and no condition
    /// sees what goes before it.
    fn settle(&self, prepared: &mut Prepared) {
        let Prepared { deeds, removal, notices, trespasses, .. } = prepared;
        let hits = |deed: &Deed| deed.keys.iter().any(|key| self.source.is_hit_by(deed.verb, key));
        *trespasses = self.overwrites_its_time() || deeds.all().any(hits);
        let first: Vec<&Deed> = deeds.first.iter().chain([&**removal]).collect();
        let left = |question: &Question| {
            let places = question.query.places();
            let of_place = |(key, part): (Vec<u8>, Option<Vec<u8>>)| {
                first.iter().rev().find_map(|deed| deed.leaves(&key, part.as_deref()))
            };
            places.filter_map(of_place).next()
        };
        deeds.later.iter_mut().for_each(|(when, _)| when.settle(left));
        notices.iter_mut().for_each(|(when, _)| when.settle(left));
    }

    /// Whether the field that is to say that it was evicted turns out to be one that it is judged by: names that are made
    /// of the key can't be told apart at load.
    fn overwrites_its_time(&self) -> bool {
        let OnEvict::Set { field, .. } = &self.source.on_evict else { return false };
        let said = self.fill(field);
        self.source.last_ping.iter().any(|time| match time {
            Value::Own(Ref::Field(time)) => self.fill(time) == said,
            Value::Lookup(Lookup { place: Place::Field { key, field }, .. }) => {
                self.fill(key).as_deref() == Some(&self.id.key[..]) && self.fill(field) == said
            }
            _ => false,
        })
    }

    /// The lists that the companions of this entry name.
    pub(super) fn list_queries(&self) -> Vec<ListQuery> {
        deeds::queries(&self.source.companions, |name| self.of(name))
    }

    /// Fills the companions of this entry once more, now that its lists have been read.
    pub(super) fn fill_lists(&self, prepared: &mut Prepared, lists: &Lists) {
        *prepared.deeds = self.deeds(lists);
        self.settle(prepared);
    }

    fn deeds(&self, lists: &Lists) -> Deeds {
        let (value_of, array_of) = (|name: &Ref| self.of(name), |pointer: &Pointer| self.array(pointer));
        let max_fanout = usize::try_from(self.source.max_fanout).unwrap_or(usize::MAX);
        Filling { value_of, array_of, lists, max_fanout }.deeds(&self.source.companions)
    }

    /// The texts of the array that stands there, none for an element that has no text. What is there and no array is an
    /// element without a text too; where nothing is, or null, there is no element.
    fn array(&self, pointer: &Pointer) -> Vec<Option<Vec<u8>>> {
        let text = |json| scalar(json).map(Cow::into_owned);
        match self.json().map(|json| pointer.find(json)) {
            Some(None | Some(Json::Null)) => Vec::new(),
            Some(Some(Json::Array(found))) => found.iter().filter(|json| !json.is_null()).map(text).collect(),
            None | Some(Some(_)) => vec![None],
        }
    }

    fn fill(&self, template: &Template) -> Option<Vec<u8>> {
        template.fill(|name| self.of(name))
    }

    fn of(&self, name: &Ref) -> Option<Cow<'_, [u8]>> {
        match (name, self.own) {
            (Ref::Key, _) => Some(self.id.key[..].into()),
            (Ref::Member, _) => self.id.member.as_deref().map(Cow::from),
            (Ref::Id, _) => Some(self.id.name().into()),
            (Ref::Capture(at), _) => self.captured(*at).map(Cow::from),
            (Ref::Let(at), _) => self.named(*at),
            (Ref::Score, Own::Score(score)) => Some(score.to_string().into_bytes().into()),
            (Ref::Value, Own::Value(value)) => Some(value.as_slice().into()),
            (Ref::Value, Own::Score(_) | Own::Member) => Some(self.id.name().into()),
            (Ref::Json(pointer), _) => pointer.find(self.json()?).and_then(scalar),
            (Ref::Field(name), Own::Fields(fields)) => self.field(fields, name).map(Cow::from),
            (Ref::Score | Ref::Value | Ref::Field(_) | Ref::Each(_), _) => None,
        }
    }

    fn field<'f>(&self, fields: &'f [(Bytes, Option<Vec<u8>>)], name: &Template) -> Option<&'f [u8]> {
        let name = name.as_literal().map_or_else(|| self.fill(name).map(Cow::from), |literal| Some(literal.into()))?;
        fields.iter().find(|(known, _)| **known == *name).and_then(|(_, value)| value.as_deref())
    }

    fn captured(&self, at: usize) -> Option<&[u8]> {
        let [of_key, of_member] = self.captures.get_or_init(|| {
            let split = self.source.id.as_ref().zip(self.id.member.as_deref());
            let of_member = split.and_then(|(pattern, member)| pattern.captures(member));
            [self.source.container.patterns().captures(&self.id.key), of_member].map(Option::unwrap_or_default)
        });
        match at.checked_sub(self.source.container.captures().len()) {
            None => self.id.key.get(of_key.get(at)?.clone()),
            Some(at) => self.id.member.as_deref()?.get(of_member.get(at)?.clone()),
        }
    }

    /// The value of a `let`: the first that is there. What can't be read is there, and has no value.
    fn named(&self, at: usize) -> Option<Cow<'_, [u8]>> {
        for value in &self.source.lets.get(at)?.values {
            let looked = match value {
                Value::Own(name) => self.own(name),
                Value::Lookup(lookup) => self.find(lookup),
                Value::Idle | Value::Unchanged => continue,
            };
            match looked {
                Looked::Text(text) => return Some(text),
                Looked::Score(score) => return Some(score.to_string().into_bytes().into()),
                Looked::Nothing { .. } | Looked::Missing | Looked::Absent => {}
                Looked::NotYet | Looked::Number(_) | Looked::Odd | Looked::NotJson | Looked::There => return None,
            }
        }
        None
    }

    fn json(&self) -> Option<&Json> {
        let text = match self.own {
            Own::Value(value) => value.as_slice(),
            Own::Score(_) | Own::Member => self.id.name(),
            Own::Fields(_) | Own::Key { .. } => return None,
        };
        self.json.get_or_init(|| serde_json::from_slice(text).ok()).as_ref()
    }
}
