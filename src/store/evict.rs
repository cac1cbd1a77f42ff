//! The one writer: batches for the eviction script, and what came of them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use redis::{Script, Value};

use super::asking::Query;
use super::condition::{Question, Unless};
use super::connect::{Link, Live};
use super::deeds::{Deed, Deeds, Elements, ListQuery, When};
use super::error::{Error, Kind};
use super::lease::Fence;
use super::notify::{Notice, Word, rfc3339};
use super::orders::Spending;
use super::own::Own;
use super::record::{Became, Record, Recorder};
use super::reply;
use super::status::Purpose;
use crate::language::action::{OWN_PREFIX, Verb};
use crate::policy::entry::{Bytes, EntryId, Now, Timestamp};
use crate::policy::grounds::Grounds;
use crate::policy::outcome::{Blocked, Notified, Outcome, Told};

/// A strike's commands do nothing once server time has passed its own re-read's by this much: a command that waited
/// in a stopped server would else run before the ping queued behind it.
pub const WINDOW: Duration = Duration::from_secs(2);

/// Operations one call of the script may do: a few milliseconds of the server's time at most.
const MAX_OPERATIONS: usize = 500;

/// So much evidence costs as much as an operation: it is sent, read and compared.
const BYTES_AN_OPERATION: usize = 4_096;

/// A record's type check and XADD, and the words it is spelt from: measured on Redis 7.0, it takes twice as long as all
/// else that is done with a member of a sorted set.
const OPERATIONS_A_RECORD: usize = 6;

/// So many elements of a list cost as much as an operation.
const ELEMENTS_AN_OPERATION: usize = 10;

const DOING: &str = "evicting";

/// An entry ready to be struck. What is inside is the store's business.
#[derive(Clone, Debug)]
pub struct Prepared {
    pub(super) id: EntryId,
    pub(super) probe: Probe,
    /// What else decided, or gave a companion its name.
    pub(super) elsewhere: Vec<Elsewhere>,
    /// What protects it.
    pub(super) unless: Unless,
    /// Its companions.
    pub(super) deeds: Box<Deeds>,
    /// What becomes of the entry itself.
    pub(super) removal: Box<Deed>,
    /// What was read of it, where lists have still to be read for its companions.
    pub(super) own: Option<Box<Own>>,
    /// Its `on_evict` would change nothing: it counts as gone.
    pub(super) already: bool,
    /// Notifications in their order, each with when it is sent.
    pub(super) notices: Vec<(When, Notice)>,
    /// Notifications that want a value which is absent.
    pub(super) unsaid: usize,
    /// A companion would write to a container of the source, or to another entry.
    pub(super) trespasses: bool,
    /// What the rule went by, where that is recorded.
    pub(super) grounds: Option<Box<Grounds>>,
    /// Its record, where it is to have one.
    pub(super) record: Option<Box<Record>>,
}

impl Prepared {
    /// Of an entry that no strike follows on.
    pub(super) fn of_nothing(id: EntryId, probe: Probe, removal: Box<Deed>) -> Self {
        Self {
            id,
            probe,
            elsewhere: Vec::new(),
            unless: Unless::default(),
            deeds: Box::default(),
            removal,
            own: None,
            already: false,
            notices: Vec::new(),
            unsaid: 0,
            // What nothing was prepared for is not to be struck.
            trespasses: true,
            grounds: None,
            record: None,
        }
    }

    /// Which entry.
    pub fn id(&self) -> &EntryId {
        &self.id
    }

    /// The same, with what the rule went by, for its record.
    #[must_use]
    pub fn upon(self, grounds: Grounds) -> Self {
        Self { grounds: Some(Box::new(grounds)), ..self }
    }

    /// Gives it a record.
    pub(super) fn record(&mut self, recorder: &Arc<Recorder>, source: &Arc<str>, fenced: bool) {
        self.record = Some(Box::new(Record::of(self, recorder, source, fenced)));
    }

    /// What the script appends to the stream of records.
    fn recorded(&self) -> Option<&Notice> {
        self.record.as_ref()?.notice.as_ref()
    }

    /// How many companions have no key to name, because a value their template wants is absent.
    pub fn skipped_companions(&self) -> u32 {
        self.deeds.skipped
    }

    /// What is done before the entry is gone, its own removal last.
    fn before(&self) -> impl Iterator<Item = &Deed> {
        self.deeds.first.iter().chain([&*self.removal])
    }

    /// What may be done after.
    pub(super) fn later(&self) -> impl Iterator<Item = &(When, Deed)> {
        self.deeds.later.iter().filter(|(when, _)| !when.is_never())
    }

    /// The notifications that may be sent.
    fn sent(&self) -> impl Iterator<Item = &(When, Notice)> {
        self.notices.iter().filter(|(when, _)| !when.is_never())
    }

    /// All that is done.
    fn done(&self) -> impl Iterator<Item = &Deed> {
        self.before().chain(self.later().map(|(_, deed)| deed))
    }

    fn whens(&self) -> impl Iterator<Item = &When> {
        self.deeds.later.iter().map(|(when, _)| when).chain(self.notices.iter().map(|(when, _)| when))
    }

    /// What is asked, or compared, before anything is done.
    fn questions(&self) -> impl Iterator<Item = &Question> {
        let read = self.whens().filter_map(When::read).flat_map(|read| &read.questions);
        self.unless.questions.iter().chain(read)
    }

    /// What is asked when the entry is gone.
    fn asked_later(&self) -> impl Iterator<Item = &Question> {
        self.whens().filter_map(When::asked)
    }

    /// What we have to ask at the look.
    pub(super) fn open_questions(&mut self) -> impl Iterator<Item = &mut Unless> {
        let whens = self.deeds.later.iter_mut().map(|(when, _)| when);
        let whens = whens.chain(self.notices.iter_mut().map(|(when, _)| when));
        std::iter::once(&mut self.unless).chain(whens.filter_map(When::read_mut))
    }

    /// Whether a companion or a stream would reach into our own keys or those of the source. The configuration is
    /// refused where that can be seen at load; an id may still spell it.
    fn strays(&self) -> bool {
        // An outbox is our own, and meant to be.
        let streams = self.notices.iter().filter(|(_, notice)| notice.hook.is_none());
        let streams = streams.filter_map(|(_, notice)| notice.key.as_ref());
        let record = self.recorded().and_then(|notice| notice.key.as_ref());
        let touched = || self.deeds.all().flat_map(|deed| &deed.keys);
        let mut keys = touched().chain(streams).chain(record);
        self.trespasses
            || keys.any(|key| key.starts_with(OWN_PREFIX) || **key == *self.id.key)
            // What an id spells must not empty the record.
            || record.is_some_and(|record| touched().any(|key| key == record))
    }

    /// Reads, type checks, writes and messages.
    fn operations(&self) -> usize {
        let record = self.recorded().map_or(0, |notice| OPERATIONS_A_RECORD + notice.size() / BYTES_AN_OPERATION);
        let notices = self.sent().map(|(_, notice)| {
            1 + usize::from(notice.key.is_some()) + usize::from(notice.counts()) + notice.size() / BYTES_AN_OPERATION
        });
        let asked = self.questions().chain(self.asked_later());
        let asked = asked.map(|question| 1 + question.size() / BYTES_AN_OPERATION);
        // What is compared element by element costs less than what is done to each.
        let listed = self
            .deeds
            .lists
            .iter()
            .map(|(_, found)| 1 + found.items.len() / ELEMENTS_AN_OPERATION + found.size() / BYTES_AN_OPERATION);
        let elsewhere = self.elsewhere.iter().map(|one| 1 + one.expected.len() / BYTES_AN_OPERATION);
        2 + elsewhere.sum::<usize>()
            + self.probe.size() / BYTES_AN_OPERATION
            + asked.sum::<usize>()
            + listed.sum::<usize>()
            + self.done().map(Deed::operations).sum::<usize>()
            + notices.sum::<usize>()
            + record
    }

    fn streams(&self) -> impl Iterator<Item = &Vec<u8>> {
        let notices = self.sent().map(|(_, notice)| notice);
        notices.chain(self.recorded()).filter_map(|notice| notice.key.as_ref())
    }

    /// Keys of which a companion, or a condition, needs that they hold a certain type or nothing, and whether that is a
    /// hash.
    fn typed(&self) -> impl Iterator<Item = (&Vec<u8>, bool)> {
        let written = self.done().filter(|deed| !matches!(deed.verb, Verb::Unlink | Verb::Expire | Verb::Hset));
        let written = written.flat_map(|deed| {
            let is_hash = matches!(deed.verb, Verb::Hdel | Verb::DecrRef);
            deed.keys.iter().map(move |key| (key, is_hash))
        });
        // Whether a key exists can be asked of any.
        let asked = self.asked_later().filter(|question| question.query.verb != "EXISTS").flat_map(|question| {
            let is_hash = matches!(question.query.verb, "HGET" | "HEXISTS");
            question.query.keys.iter().map(move |key| (key, is_hash))
        });
        written.chain(asked)
    }

    /// Keys of which a companion makes a hash where there is nothing.
    fn hashes(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.done().filter(|deed| deed.verb == Verb::Hset).flat_map(|deed| &deed.keys)
    }

    /// Keys that go whole.
    fn unlinked(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.done().filter(|deed| deed.verb == Verb::Unlink).flat_map(|deed| &deed.keys)
    }

    /// Counts the notifications of this entry, which was evicted.
    fn count_notices(&self, struck: &Struck, notified: &mut Notified) {
        notified.skipped += self.unsaid as u64;
        for (at, (_, notice)) in self.sent().enumerate().filter(|(at, _)| !struck.kept_back.contains(&(at + 1))) {
            notified.attempted[notice.sink.index()] += 1;
            notified.failed[notice.sink.index()] += u64::from(struck.failed.contains(&(at + 1)));
        }
    }

    /// Counts them where nobody knows what became of this entry.
    fn count_unknown(&self, notified: &mut Notified) {
        self.sent().for_each(|(_, notice)| notified.unknown[notice.sink.index()] += 1);
    }

    /// What the script spelt for a webhook, by the place of its notification.
    fn told(&self, (place, text): (usize, Vec<u8>)) -> Option<Told> {
        let hook = self.sent().nth(place.checked_sub(1)?)?.1.hook?;
        Some(Told { hook: hook.place, form: hook.form, text })
    }
}

/// What must still be there, byte for byte (a score: as the double it is).
#[derive(Clone, Debug)]
pub(super) enum Probe {
    Score {
        member: Bytes,
        score: f64,
    },
    Field {
        field: Bytes,
        value: Vec<u8>,
    },
    Text {
        value: Vec<u8>,
    },
    Fields {
        fields: Vec<(Bytes, Option<Vec<u8>>)>,
    },
    Member {
        member: Bytes,
    },
    /// Of this type, and not used for so many seconds, where that was asked.
    Key {
        kind: Vec<u8>,
        idle: Option<u64>,
    },
}

/// A reply that must still be the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Elsewhere {
    pub(super) query: Query,
    /// "=" and the text or number, "-" for nothing.
    pub(super) expected: Vec<u8>,
}

impl Elsewhere {
    /// An error is like no reply at all: the script finds out why, and leaves the entry whole.
    pub(super) fn of(query: &Query, reply: &Value) -> Self {
        let expected = match reply {
            Value::Nil => b"-".to_vec(),
            Value::BulkString(text) => expected(Some(text)),
            Value::Int(number) => expected(Some(&number.to_string().into_bytes())),
            Value::Double(number) => expected(Some(&number.to_string().into_bytes())),
            Value::Array(some) | Value::Set(some) if query.verb == "SINTER" => {
                expected(Some(&usize::from(some.is_empty()).to_string().into_bytes()))
            }
            _ => b"?".to_vec(),
        };
        Self { query: query.clone(), expected }
    }
}

impl Probe {
    /// How many bytes are compared.
    fn size(&self) -> usize {
        match self {
            Self::Score { .. } | Self::Member { .. } | Self::Key { .. } => 0,
            Self::Field { value, .. } | Self::Text { value } => value.len(),
            Self::Fields { fields } => fields.iter().filter_map(|(_, value)| Some(value.as_ref()?.len())).sum(),
        }
    }
}

/// What came of a strike's entries; those behind a failure that broke it off are not named.
#[derive(Debug, Default)]
pub struct Evicted {
    /// Server time of the last script that answered.
    pub at: Option<Timestamp>,
    /// How long each batch took that was answered.
    pub took: Vec<Duration>,
    /// Outcomes, each entry once.
    pub outcomes: Vec<(EntryId, Outcome)>,
    /// The notifications of what was evicted.
    pub notified: Notified,
    /// Those of them that are for webhooks and wait in no outbox, in their order.
    pub told: Vec<Told>,
    /// A line of the audit record for each that was evicted, or may have been, where a file is kept.
    pub records: Vec<Vec<u8>>,
    /// What broke the strike off.
    pub failure: Option<Error>,
    /// Another's value stands where our lease should.
    pub(super) lease_lost: bool,
}

impl Evicted {
    /// Of a strike that was not even sent, since the lease is not ours.
    pub(super) fn fenced(prepared: Vec<Prepared>) -> Self {
        let mut evicted = Self::default();
        evicted.all(&prepared, Outcome::Fenced);
        evicted
    }

    fn note(&mut self, prepared: &Prepared, became: Became<'_>, at: Timestamp) {
        self.records.extend(prepared.record.as_ref().and_then(|record| record.line(prepared, became, at)));
    }

    fn all(&mut self, batch: &[Prepared], outcome: Outcome) {
        if outcome == Outcome::Unknown {
            batch.iter().for_each(|prepared| prepared.count_unknown(&mut self.notified));
        }
        self.outcomes.extend(batch.iter().map(|prepared| (prepared.id.clone(), outcome)));
    }
}

/// What has to stand in Redis for a strike to do anything.
#[derive(Clone, Copy)]
pub(super) struct Leave<'a> {
    /// The lease, if one is needed.
    pub(super) fence: Option<&'a Fence>,
    /// The release of an operator, if the source holds but for that.
    pub(super) spending: Option<&'a Spending>,
}

/// Strikes these entries, which were re-read at `read_at`, by this leave.
pub(super) async fn strike(
    link: &Link,
    live: &Live,
    prepared: Vec<Prepared>,
    leave: Leave<'_>,
    read_at: Now,
) -> Evicted {
    let run = async |batch: &[Prepared]| run(link, live, batch, leave, read_at).await;
    let mut evicted = Evicted::default();
    let mut waiting: VecDeque<Vec<Prepared>> = batches(prepared, &mut evicted).into();
    let mut script_permitted = None;
    // bound: a batch is answered, or halved down to single entries
    while let Some(batch) = waiting.pop_front() {
        let sent = link.mono();
        match run(&batch).await {
            Ok(answer) => {
                evicted.took.push(link.mono().since(sent));
                evicted.take_in(&batch, answer);
            }
            Err(error) if error.kind == Kind::Permission => {
                let permitted = match script_permitted {
                    Some(permitted) => permitted,
                    None => run(&[]).await.is_ok(),
                };
                script_permitted = Some(permitted);
                if permitted && batch.len() > 1 {
                    let mut first = batch;
                    let second = first.split_off(first.len() / 2);
                    waiting.push_front(second);
                    waiting.push_front(first);
                } else {
                    evicted.all(&batch, Outcome::Blocked(Blocked::Permission));
                    evicted.failure = (!permitted).then_some(error).or(evicted.failure);
                }
            }
            Err(error) => {
                let ran = matches!(error.kind, Kind::Timeout | Kind::Connect | Kind::Other);
                let outcome = if ran { Outcome::Unknown } else { Outcome::Blocked(error.kind.blocks()) };
                evicted.all(&batch, outcome);
                if ran {
                    batch.iter().for_each(|one| evicted.note(one, Became::Unknown, read_at.server));
                }
                evicted.failure = Some(error);
                return evicted;
            }
        }
    }
    evicted
}

impl Evicted {
    fn take_in(&mut self, batch: &[Prepared], answer: Answer) {
        self.at = Some(answer.at);
        match answer.outcomes {
            Outcomes::TooLate => self.all(batch, Outcome::TooLate),
            Outcomes::Fenced => {
                self.lease_lost = true;
                self.all(batch, Outcome::Fenced);
            }
            Outcomes::Exhausted => self.all(batch, Outcome::Fenced),
            Outcomes::Each(struck) => {
                for (prepared, mut struck) in batch.iter().zip(struck) {
                    match struck.outcome {
                        Outcome::Evicted => self.note(prepared, Became::Evicted(&struck), answer.at),
                        Outcome::Unknown => self.note(prepared, Became::Unknown, answer.at),
                        _ => {}
                    }
                    if struck.outcome == Outcome::Evicted {
                        prepared.count_notices(&struck, &mut self.notified);
                        let told = std::mem::take(&mut struck.told);
                        self.told.extend(told.into_iter().filter_map(|told| prepared.told(told)));
                    } else if struck.outcome == Outcome::Unknown {
                        prepared.count_unknown(&mut self.notified);
                    }
                    self.outcomes.push((prepared.id.clone(), struck.outcome));
                }
            }
        }
    }
}

// === batches ===

/// Splits a strike so that no call does too much, and none writes what another of its entries compares.
fn batches(prepared: Vec<Prepared>, evicted: &mut Evicted) -> Vec<Vec<Prepared>> {
    let mut batches: Vec<Vec<Prepared>> = Vec::new();
    let mut touched = Touched::default();
    let mut operations = 0;
    for one in prepared {
        let stays = match () {
            () if one.strays() => Some(Outcome::Blocked(Blocked::Other)),
            () if one.unless.holds => Some(Outcome::Protected),
            () => one.deeds.overflows.then_some(Outcome::Blocked(Blocked::Fanout)),
        };
        if let Some(outcome) = stays {
            evicted.outcomes.push((one.id, outcome));
            continue;
        }
        let full = operations + one.operations() > MAX_OPERATIONS;
        if full || touched.conflicts(&one) || batches.is_empty() {
            batches.push(Vec::new());
            touched = Touched::default();
            operations = 0;
        }
        operations += one.operations();
        touched.add(&one);
        if let Some(batch) = batches.last_mut() {
            batch.push(one);
        }
    }
    batches
}

/// A key, and what of it: a member or field, or the whole.
pub(super) type Place = (Vec<u8>, Option<Vec<u8>>);

#[derive(Default)]
struct Touched {
    compared: Places,
    written: Places,
    /// Counters, which go down by one whatever the others do.
    counted: Places,
    streams: HashSet<Vec<u8>>,
    hashes: HashSet<Vec<u8>>,
    /// With whether a hash would do.
    typed: HashSet<(Vec<u8>, bool)>,
    unlinked: HashSet<Vec<u8>>,
}

impl Touched {
    fn add(&mut self, one: &Prepared) {
        compared_by(one).into_iter().for_each(|place| self.compared.add(place));
        written_by(one).into_iter().for_each(|place| self.written.add(place));
        counted_by(one).into_iter().for_each(|place| self.counted.add(place));
        self.streams.extend(one.streams().cloned());
        self.hashes.extend(one.hashes().cloned());
        self.typed.extend(one.typed().map(|(key, is_hash)| (key.clone(), is_hash)));
        self.unlinked.extend(one.unlinked().cloned());
    }

    fn conflicts(&self, one: &Prepared) -> bool {
        let (compared, written, counted) = (compared_by(one), written_by(one), counted_by(one));
        compared.iter().any(|place| self.written.overlap(place) || self.counted.overlap(place))
            || written.iter().any(|place| self.compared.overlap(place) || self.counted.overlap(place))
            || counted.iter().any(|place| self.compared.overlap(place) || self.written.overlap(place))
            // Types are checked before anything is done, and a stream or a hash that comes into being, or a key that goes,
            // would change one.
            || one.typed().any(|(key, is_hash)| {
                self.streams.contains(key) || self.unlinked.contains(key) || !is_hash && self.hashes.contains(key)
            })
            || one.hashes().any(|key| {
                self.streams.contains(key) || self.unlinked.contains(key) || self.is_typed(key, &[false])
            })
            || one.streams().any(|key| self.is_typed(key, &[false, true]) || self.hashes.contains(key))
    }

    fn is_typed(&self, key: &[u8], is_hash: &[bool]) -> bool {
        is_hash.iter().any(|is_hash| self.typed.contains(&(key.to_vec(), *is_hash)))
    }
}

#[derive(Default)]
struct Places {
    keys: HashSet<Vec<u8>>,
    whole: HashSet<Vec<u8>>,
    parts: HashSet<Place>,
}

impl Places {
    fn add(&mut self, place: Place) {
        self.keys.insert(place.0.clone());
        match place {
            (key, None) => _ = self.whole.insert(key),
            part => _ = self.parts.insert(part),
        }
    }

    fn overlap(&self, place: &Place) -> bool {
        match place {
            (key, None) => self.keys.contains(key),
            (key, Some(_)) => self.whole.contains(key) || self.parts.contains(place),
        }
    }
}

fn compared_by(one: &Prepared) -> Vec<Place> {
    let key = || one.id.key.to_vec();
    let mut places = match &one.probe {
        Probe::Score { member, .. } | Probe::Field { field: member, .. } | Probe::Member { member } => {
            vec![(key(), Some(member.to_vec()))]
        }
        Probe::Text { .. } | Probe::Key { .. } => vec![(key(), None)],
        Probe::Fields { fields } => fields.iter().map(|(field, _)| (key(), Some(field.to_vec()))).collect(),
    };
    places.extend(one.questions().flat_map(|question| question.query.places()));
    places.extend(one.elsewhere.iter().flat_map(|one| one.query.places()));
    places.extend(one.deeds.lists.iter().map(|(query, _)| (query.key.clone(), None)));
    places
}

fn written_by(one: &Prepared) -> Vec<Place> {
    let places = one.done().flat_map(|deed| {
        let part = |key: &Vec<u8>, arg: &Vec<u8>| (key.clone(), Some(arg.clone()));
        deed.keys.iter().flat_map(move |key| match deed.verb {
            Verb::Unlink | Verb::Expire | Verb::Lrem => vec![(key.clone(), None)],
            Verb::Srem | Verb::Zrem | Verb::Hdel => deed.args.iter().map(|arg| part(key, arg)).collect(),
            Verb::Hset => deed.args.iter().take(1).map(|field| part(key, field)).collect(),
            Verb::DecrRef => Vec::new(),
        })
    });
    places.chain(one.streams().map(|key| (key.clone(), None))).collect()
}

fn counted_by(one: &Prepared) -> Vec<Place> {
    let counters = one.done().filter(|deed| deed.verb == Verb::DecrRef);
    counters.flat_map(|deed| deed.keys.iter().map(|key| (key.clone(), deed.args.first().cloned()))).collect()
}

// === the call ===

/// Redis 7 and later refuse a script with this header up front when they refuse writes, as they refuse the hubs'; one
/// without it would go on deleting while no heartbeat can land. No flags: `allow-oom` would undo that.
const WITH_HEADER: &str = concat!("#!lua\nlocal is_denied\n", include_str!("evict.lua"));

/// Before Redis 7 the header is a syntax error, and what a newer server does by itself has to be tried.
const WITHOUT_HEADER: &str = concat!(include_str!("trial.lua"), include_str!("evict.lua"));

static HASHES: LazyLock<[String; 2]> =
    LazyLock::new(|| [WITHOUT_HEADER, WITH_HEADER].map(|script| Script::new(script).get_hash().to_owned()));

struct Answer {
    at: Timestamp,
    outcomes: Outcomes,
}

/// What came of one entry.
#[derive(Debug)]
pub(super) struct Struck {
    pub(super) outcome: Outcome,
    /// Companions that their condition kept back, by their place among those that stand under one, counted from 1.
    pub(super) left_out: Vec<usize>,
    /// Its notifications that failed, counted from 1.
    pub(super) failed: Vec<usize>,
    /// Those that the script only spelt, counted likewise.
    pub(super) told: Vec<(usize, Vec<u8>)>,
    /// Those that their condition kept back, counted from 1.
    pub(super) kept_back: Vec<usize>,
}

enum Outcomes {
    /// The window was missed.
    TooLate,
    /// The lease is not ours.
    Fenced,
    /// The release does not allow so many.
    Exhausted,
    /// One for each entry.
    Each(Vec<Struck>),
}

async fn run(link: &Link, live: &Live, batch: &[Prepared], leave: Leave<'_>, read_at: Now) -> Result<Answer, Error> {
    let call = Call::new(batch, leave, read_at);
    let script = if live.lua_header { WITH_HEADER } else { WITHOUT_HEADER };
    let hash = &HASHES[usize::from(live.lua_header)];
    let mut reply = call.send(link, live, "EVALSHA", hash).await?;
    // A restart or failover empties the script cache; EVAL fills it, and needs no right to SCRIPT LOAD.
    if matches!(&reply, Value::ServerError(error) if error.code() == "NOSCRIPT") {
        reply = call.send(link, live, "EVAL", script).await?;
    }
    read_answer(reply, batch.len()).map_err(|unexpected| link.unexpected(DOING, unexpected))
}

fn read_answer(reply: Value, batch: usize) -> Result<Answer, reply::Unexpected> {
    let mut items = reply::array(reply)?.into_iter();
    let at = items.next().map_or(Ok(0), reply::count)?;
    let at = Timestamp::from_millis(i64::try_from(at).unwrap_or(i64::MAX));
    let items: Vec<Value> = items.collect();
    let for_all = match &items[..] {
        [] if batch > 0 => Some(Outcomes::TooLate),
        [Value::Int(FENCED)] => Some(Outcomes::Fenced),
        [Value::Int(EXHAUSTED)] => Some(Outcomes::Exhausted),
        _ => None,
    };
    if let Some(outcomes) = for_all {
        return Ok(Answer { at, outcomes });
    }
    let struck = items.into_iter().map(read_struck).collect::<Result<Vec<_>, _>>()?;
    if struck.len() != batch {
        return Err(reply::Unexpected::shape(format!("{} outcomes for {batch} entries", struck.len())));
    }
    Ok(Answer { at, outcomes: Outcomes::Each(struck) })
}

fn read_struck(item: Value) -> Result<Struck, reply::Unexpected> {
    let items = if matches!(item, Value::Array(_)) { reply::array(item)? } else { vec![item] };
    let mut items = items.into_iter();
    let code =
        items.next().ok_or_else(|| reply::Unexpected::shape("expected a code, got none")).and_then(reply::count)?;
    let mut struck = Struck {
        outcome: outcome(code),
        left_out: Vec::new(),
        failed: Vec::new(),
        told: Vec::new(),
        kept_back: Vec::new(),
    };
    let place = |place: i64| usize::try_from(place.unsigned_abs()).unwrap_or(usize::MAX);
    for item in items {
        match item {
            Value::Int(at) if at < 0 => struck.kept_back.push(place(at)),
            Value::Int(at) => struck.failed.push(place(at)),
            item => match <[Value; 2]>::try_from(reply::array(item)?).as_mut().map_err(|other| &other[..]) {
                Ok([Value::Int(at), text]) => {
                    struck.told.push((place(*at), reply::some_bytes(std::mem::replace(text, Value::Nil))?));
                }
                Err([Value::Int(at)]) => struck.left_out.push(place(*at)),
                _ => return Err(reply::Unexpected::shape("expected the place of a notification and its text")),
            },
        }
    }
    Ok(struck)
}

/// Those codes at the head of `evict.lua` that stand for all entries.
const FENCED: i64 = 7;
const EXHAUSTED: i64 = 8;

/// The others.
fn outcome(code: u64) -> Outcome {
    match code {
        0 => Outcome::Evicted,
        1 => Outcome::Spared,
        2 => Outcome::Gone,
        3 => Outcome::Blocked(Blocked::WrongType),
        4 => Outcome::Blocked(Blocked::Permission),
        5 => Outcome::Blocked(Blocked::Other),
        9 => Outcome::Protected,
        10 => Outcome::Blocked(Blocked::Unsupported),
        11 => Outcome::Blocked(Blocked::Audit),
        _ => Outcome::Unknown,
    }
}

/// An entry's place in the batch, a field of its, and the value that is expected there.
type Wanted<'b> = (usize, &'b [u8], Vec<u8>);

/// The keys and arguments of one call, as the head of `evict.lua` describes them.
struct Call {
    keys: Vec<Vec<u8>>,
    known: HashMap<Vec<u8>, usize>,
    /// The places of lists, counted from 1.
    lists: HashMap<ListQuery, usize>,
    args: Vec<Vec<u8>>,
}

impl Call {
    fn new(batch: &[Prepared], leave: Leave<'_>, read_at: Now) -> Self {
        let mut call = Self { keys: Vec::new(), known: HashMap::new(), lists: HashMap::new(), args: Vec::new() };
        call.number(read_at.server.millis());
        call.number(read_at.server.plus(WINDOW).millis());
        call.seconds(batch, read_at);
        call.required(leave.fence.map(|fence| (&fence.key[..], &fence.value[..])));
        call.required(leave.spending.map(|spending| (&spending.key[..], spending.id.as_bytes())));
        let slots = call.probes(batch);
        call.lists(batch);
        call.number(batch.len());
        for (one, slots) in batch.iter().zip(slots) {
            call.entry(one, &slots);
        }
        call
    }

    /// A key, and what has to stand there; 0 if nothing has to.
    fn required(&mut self, required: Option<(&[u8], &[u8])>) {
        match required {
            None => self.number(0),
            Some((key, value)) => {
                let key = self.key(key);
                self.number(key);
                self.word(value);
            }
        }
    }

    async fn send(&self, link: &Link, live: &Live, command: &str, script: &str) -> Result<Value, Error> {
        let mut commands = redis::pipe();
        commands.cmd(command).arg(script).arg(self.keys.len()).arg(&self.keys).arg(&self.args);
        let [reply] = link.exactly(DOING, link.ask(live, Purpose::Evict, DOING, &commands).await?)?;
        Ok(reply)
    }

    /// The seconds of the window as text, where a notification may want one: the script formats no time.
    fn seconds(&mut self, batch: &[Prepared], read_at: Now) {
        if batch.iter().all(|one| one.notices.is_empty() && one.recorded().is_none()) {
            self.number(0);
            return;
        }
        let count = WINDOW.as_secs() + 1;
        self.number(count);
        for second in 0..count {
            self.word(rfc3339(read_at.server.plus(Duration::from_secs(second)), 0).as_bytes());
        }
    }

    /// Writes the probes, those on fields of one hash as one `HMGET`; returns each entry's slots.
    fn probes(&mut self, batch: &[Prepared]) -> Vec<Slots> {
        let mut fields: Vec<(usize, Vec<Wanted<'_>>)> = Vec::new();
        let mut other: Vec<(usize, &Prepared)> = Vec::new();
        for (entry, one) in batch.iter().enumerate() {
            let wanted: Vec<_> = match &one.probe {
                Probe::Field { field, value } => vec![(entry, &field[..], expected(Some(value)))],
                Probe::Fields { fields } => {
                    fields.iter().map(|(field, value)| (entry, &field[..], expected(value.as_ref()))).collect()
                }
                Probe::Score { .. } | Probe::Text { .. } | Probe::Member { .. } | Probe::Key { .. } => {
                    other.push((entry, one));
                    continue;
                }
            };
            let key = self.key(&one.id.key);
            match fields.last_mut() {
                Some((last, group)) if *last == key => group.extend(wanted),
                _ => fields.push((key, wanted)),
            }
        }
        // What many entries share is asked once.
        let mut elsewhere: Vec<&Elsewhere> = batch.iter().flat_map(|one| &one.elsewhere).collect();
        elsewhere.sort_unstable();
        elsewhere.dedup();
        let mut slots = vec![Slots::default(); batch.len()];
        let mut slot = 0;
        self.number(fields.len() + other.len() + elsewhere.len());
        for (key, group) in fields {
            self.word(b"HMGET");
            self.number(key);
            self.number(group.len());
            group.iter().for_each(|(_, field, _)| self.word(field));
            for (entry, _, expected) in &group {
                self.word(expected);
                slot += 1;
                slots[*entry].own.push(slot);
            }
        }
        for (entry, one) in other {
            self.probe(one);
            slot += 1;
            slots[entry].own.push(slot);
        }
        for one in &elsewhere {
            self.probe_elsewhere(one);
        }
        for (one, slots) in batch.iter().zip(&mut slots) {
            let place = |one: &Elsewhere| elsewhere.binary_search(&one).ok().map(|at| slot + 1 + at);
            slots.elsewhere.extend(one.elsewhere.iter().filter_map(place));
        }
        slots
    }

    fn probe_elsewhere(&mut self, Elsewhere { query, expected }: &Elsewhere) {
        let keys: Vec<usize> = query.keys.iter().map(|key| self.key(key)).collect();
        if let verb @ ("GET" | "HGET" | "ZSCORE") = query.verb {
            self.word(verb.as_bytes());
            keys.iter().for_each(|key| self.number(*key));
        } else {
            self.word(b"ASK");
            self.word(query.verb.as_bytes());
            self.number(keys.len());
            keys.iter().for_each(|key| self.number(*key));
            self.number(query.args.len());
        }
        query.args.iter().for_each(|arg| self.word(arg));
        self.word(expected);
    }

    /// Writes the lists that the entries name, each once.
    fn lists(&mut self, batch: &[Prepared]) {
        let mut lists: Vec<&(ListQuery, Arc<Elements>)> = Vec::new();
        for list in batch.iter().flat_map(|one| &one.deeds.lists) {
            if !self.lists.contains_key(&list.0) {
                lists.push(list);
                self.lists.insert(list.0.clone(), lists.len());
            }
        }
        self.number(lists.len());
        for (query, found) in lists {
            let (reads, behind, counts) = query.holder.commands();
            self.word(reads.as_bytes());
            let key = self.key(&query.key);
            self.number(key);
            self.number(behind.len());
            behind.iter().for_each(|word| self.word(word.as_bytes()));
            self.word(counts.as_bytes());
            self.number(found.most);
            self.number(found.items.len());
            found.items.iter().for_each(|item| self.word(item));
        }
    }

    fn probe(&mut self, one: &Prepared) {
        let key = self.key(&one.id.key);
        match &one.probe {
            Probe::Score { member, score } => {
                self.word(b"ZSCORE");
                self.number(key);
                self.word(member);
                self.word(&expected(Some(&score.to_string().into_bytes())));
            }
            Probe::Text { value } => {
                self.word(b"GET");
                self.number(key);
                self.word(&expected(Some(value)));
            }
            Probe::Member { member } => {
                self.word(b"SISMEMBER");
                self.number(key);
                self.word(member);
            }
            Probe::Key { idle, .. } => {
                self.word(b"IDLE");
                self.number(key);
                self.word(idle.map_or_else(String::new, |idle| idle.to_string()).as_bytes());
            }
            Probe::Field { .. } | Probe::Fields { .. } => {}
        }
    }

    fn entry(&mut self, one: &Prepared, slots: &Slots) {
        let key = self.key(&one.id.key);
        self.number(key);
        self.word(match &one.probe {
            Probe::Score { .. } => b"zset",
            Probe::Field { .. } | Probe::Fields { .. } => b"hash",
            Probe::Text { .. } => b"string",
            Probe::Member { .. } => b"set",
            Probe::Key { kind, .. } => kind,
        });
        self.number(usize::from(one.id.member.is_some()));
        for slots in [&slots.own, &slots.elsewhere] {
            self.number(slots.len());
            slots.iter().for_each(|slot| self.number(*slot));
        }
        self.number(one.deeds.lists.len());
        for (query, _) in &one.deeds.lists {
            let place = self.lists.get(query).copied().unwrap_or_default();
            self.number(place);
        }
        self.number(one.questions().count());
        one.questions().for_each(|question| self.question(question));
        self.number(one.before().count());
        one.before().for_each(|deed| self.deed(deed));
        self.number(one.later().count());
        for (when, deed) in one.later() {
            self.when(when);
            self.deed(deed);
        }
        self.number(one.sent().count());
        for (when, notice) in one.sent() {
            self.when(when);
            self.notice(notice);
        }
        self.number(one.recorded().iter().len());
        if let Some(notice) = one.recorded() {
            self.when(&When::Always);
            self.notice(notice);
        }
    }

    fn when(&mut self, when: &When) {
        let asked = when.asked();
        self.number(usize::from(asked.is_some()));
        asked.into_iter().for_each(|question| self.question(question));
    }

    fn question(&mut self, question: &Question) {
        let Query { verb, keys, args } = &question.query;
        self.command(verb, keys, args);
        let (how, with, protects) = question.compared();
        self.word(how.as_bytes());
        self.word(&with);
        self.number(usize::from(protects));
    }

    fn deed(&mut self, deed: &Deed) {
        self.command(deed.verb.as_str(), &deed.keys, &deed.args);
    }

    fn command(&mut self, verb: &str, keys: &[Vec<u8>], args: &[Vec<u8>]) {
        self.word(verb.as_bytes());
        self.number(keys.len());
        for key in keys {
            let key = self.key(key);
            self.number(key);
        }
        self.number(args.len());
        args.iter().for_each(|arg| self.word(arg));
    }

    fn notice(&mut self, notice: &Notice) {
        self.word(notice.verb().as_bytes());
        self.number(notice.key.iter().len());
        if let Some(key) = &notice.key {
            let key = self.key(key);
            self.number(key);
        }
        self.number(notice.args.len());
        for words in &notice.args {
            self.number(words.len());
            words.iter().for_each(|word| match word {
                Word::Bytes(bytes) => self.word(&[b"=", bytes.as_slice()].concat()),
                Word::At => self.word(b"at"),
                Word::Since(then) => self.word(format!("since {}", then.millis()).as_bytes()),
                Word::Remaining => self.word(b"remaining"),
                Word::Outcome => self.word(b"outcome"),
            });
        }
    }

    /// The key's index in KEYS, counted from 1 as Lua does.
    fn key(&mut self, key: &[u8]) -> usize {
        if let Some(index) = self.known.get(key) {
            return *index;
        }
        self.keys.push(key.to_vec());
        self.known.insert(key.to_vec(), self.keys.len());
        self.keys.len()
    }

    fn word(&mut self, word: &[u8]) {
        self.args.push(word.to_vec());
    }

    fn number(&mut self, number: impl ToString) {
        self.args.push(number.to_string().into_bytes());
    }
}

/// Where the answers of an entry's probes are found.
#[derive(Clone, Default)]
struct Slots {
    /// Its own.
    own: Vec<usize>,
    elsewhere: Vec<usize>,
}

fn expected(value: Option<&Vec<u8>>) -> Vec<u8> {
    value.map_or_else(|| b"-".to_vec(), |value| [b"=", value.as_slice()].concat())
}

#[cfg(test)]
mod tests {
    use super::super::condition::{self, Filled};
    use super::*;
    use crate::language::companion::Holder;
    use crate::language::condition::Condition;
    use crate::language::template::{Layout, Scope};
    use crate::policy::outcome::Sink;

    fn deed(verb: Verb, key: &str, args: &[&str]) -> Deed {
        let bytes = |text: &&str| text.as_bytes().to_vec();
        Deed { verb, keys: vec![bytes(&key)], args: args.iter().map(bytes).collect() }
    }

    /// A field of the hash `h`, with these companions.
    fn field(name: &str, companions: &[Deed]) -> Prepared {
        let id = EntryId::member(b"h".as_slice().into(), name.as_bytes());
        let probe = Probe::Field { field: name.as_bytes().into(), value: b"1".to_vec() };
        let own = deed(Verb::Hdel, "h", &[name]);
        Prepared {
            id,
            probe,
            elsewhere: vec![],
            unless: Unless::default(),
            deeds: Box::new(Deeds { first: companions.to_vec(), ..Deeds::default() }),
            removal: Box::new(own),
            own: None,
            already: false,
            notices: vec![],
            unsaid: 0,
            trespasses: false,
            grounds: None,
            record: None,
        }
    }

    /// A hash of its own that is compared by these fields.
    fn hash(key: &str, fields: &[&str], companions: &[Deed]) -> Prepared {
        let fields = fields.iter().map(|name| (name.as_bytes().into(), Some(b"1".to_vec()))).collect();
        let own = deed(Verb::Unlink, key, &[]);
        Prepared {
            id: EntryId::key(key.as_bytes()),
            probe: Probe::Fields { fields },
            elsewhere: vec![],
            unless: Unless::default(),
            deeds: Box::new(Deeds { first: companions.to_vec(), ..Deeds::default() }),
            removal: Box::new(own),
            own: None,
            already: false,
            notices: vec![],
            unsaid: 0,
            trespasses: false,
            grounds: None,
            record: None,
        }
    }

    #[track_caller]
    fn check(prepared: Vec<Prepared>, expected: &[usize]) {
        let total = prepared.len();
        let mut evicted = Evicted::default();
        let sizes: Vec<usize> = batches(prepared, &mut evicted).iter().map(Vec::len).collect();
        assert_eq!(sizes, expected);
        assert_eq!(sizes.iter().sum::<usize>() + evicted.outcomes.len(), total, "each entry has its place");
    }

    #[test]
    fn entries_that_touch_nothing_of_each_other_go_together() {
        let shared = [deed(Verb::Srem, "everybody", &["x"])];
        check(vec![field("a", &shared), field("b", &shared), field("c", &[])], &[3]);
    }

    #[test]
    fn what_one_writes_and_another_compares_is_parted() {
        check(vec![field("a", &[]), field("a", &[])], &[1, 1]);
        let part = [deed(Verb::Hdel, "k2", &["t"])];
        check(vec![hash("k1", &["t"], &part), hash("k2", &["t"], &[])], &[1, 1]);
        check(vec![hash("k2", &["t"], &[]), hash("k1", &["t"], &part)], &[1, 1]);
        check(vec![hash("k1", &["t"], &part), hash("k2", &["u"], &[])], &[2]);
        let whole = [deed(Verb::Unlink, "k2", &[])];
        check(vec![hash("k1", &["t"], &whole), hash("k2", &["u"], &[]), hash("k3", &["u"], &[])], &[1, 2]);
    }

    /// What the conditions of an entry read is compared as well, by whole keys or by the part that they name.
    #[test]
    fn what_one_writes_and_protects_another_is_parted() {
        let asking = |name: &str, condition: &str| {
            let scope = Scope { layout: Some(Layout::Hash), ..Scope::default() };
            let condition = Condition::parse(condition, &scope).unwrap();
            let Filled::Asked(question) = condition::fill(&condition, |_| None) else { panic!("a question") };
            Prepared { unless: Unless { questions: vec![question], ..Unless::default() }, ..field(name, &[]) }
        };
        let member = [deed(Verb::Srem, "jobs", &["a"])];
        check(vec![field("a", &member), asking("b", "exists jobs")], &[1, 1]);
        check(vec![asking("b", "exists jobs"), field("a", &member)], &[1, 1]);
        check(vec![asking("b", "disjoint other jobs"), field("a", &member)], &[1, 1]);
        check(vec![field("a", &member), asking("b", "sismember jobs a")], &[1, 1]);
        check(vec![field("a", &member), asking("b", "sismember jobs b"), asking("c", "exists job")], &[3]);
        check(vec![asking("a", "hget h c eq x"), field("b", &[]), field("c", &[])], &[2, 1]);
        let announced = Prepared { notices: vec![stream("left")], ..field("a", &[]) };
        check(vec![announced, asking("b", "not exists left")], &[1, 1]);
        let many = |n: usize| asking(&n.to_string(), "exists jobs");
        check((0..200).map(many).collect(), &[100, 100]);
    }

    #[test]
    fn what_is_known_to_be_protected_is_in_no_batch() {
        let known = Prepared { unless: Unless { holds: true, ..Unless::default() }, ..field("a", &[]) };
        let mut evicted = Evicted::default();
        assert_eq!(batches(vec![known, field("b", &[])], &mut evicted).len(), 1);
        assert_eq!(evicted.outcomes, [(EntryId::member(b"h".as_slice().into(), *b"a"), Outcome::Protected)]);
    }

    fn stream(key: &str) -> (When, Notice) {
        let args = vec![vec![Word::Bytes(b"*".to_vec())]];
        (When::Always, Notice { sink: Sink::Stream, key: Some(key.as_bytes().to_vec()), args, hook: None })
    }

    /// The script says so of an entry whose last companions failed behind its removal, which its checks rule out: no server
    /// can be made to. What its messages came to is unknown then, and they are counted as that.
    #[test]
    fn what_fails_behind_a_removal_leaves_its_messages_unknown() {
        let announced = |name: &str| Prepared { notices: vec![stream("left"), stream("told")], ..field(name, &[]) };
        let batch = ["a", "b", "c"].map(announced);
        let answer = |unknown: Value| {
            let reply = vec![Value::BulkString(b"1".to_vec()), Value::Int(0), unknown, Value::Int(1)];
            read_answer(Value::Array(reply), batch.len()).unwrap()
        };
        for unknown in [Value::Int(6), Value::Array(vec![Value::Int(6), Value::Array(vec![Value::Int(1)])])] {
            let mut evicted = Evicted::default();
            evicted.take_in(&batch, answer(unknown));
            let outcomes: Vec<Outcome> = evicted.outcomes.iter().map(|(_, outcome)| *outcome).collect();
            assert_eq!(outcomes, [Outcome::Evicted, Outcome::Unknown, Outcome::Spared]);
            assert_eq!((evicted.notified.unknown_total(), evicted.notified.sent()), (2, 2));
        }
    }

    #[test]
    fn a_stream_is_parted_from_whoever_needs_its_key_to_be_no_stream() {
        let announced = |name: &str| Prepared { notices: vec![stream("left")], ..field(name, &[]) };
        check(vec![announced("a"), announced("b"), announced("c")], &[3]);
        let member = [deed(Verb::Srem, "left", &["x"])];
        check(vec![announced("a"), field("b", &member), field("c", &member)], &[1, 2]);
        check(vec![field("a", &member), announced("b"), field("c", &[])], &[1, 2]);
        let whole = [deed(Verb::Unlink, "left", &[])];
        check(vec![announced("a"), field("b", &whole), announced("c")], &[3]);
        check(vec![announced("a"), hash("left", &["t"], &[])], &[1, 1]);
    }

    /// Counters go down in any order; what else is written there, or compared, is parted from them.
    #[test]
    fn counters_part_nobody_but_whoever_writes_or_compares_them() {
        let counts = [deed(Verb::DecrRef, "refs", &["x"])];
        check(vec![field("a", &counts), field("b", &counts), field("c", &counts)], &[3]);
        check(vec![field("a", &counts), field("b", &[deed(Verb::Hset, "refs", &["x", "1"])])], &[1, 1]);
        check(
            vec![field("a", &counts), field("b", &[deed(Verb::Hset, "refs", &["y", "1"])]), field("c", &counts)],
            &[3],
        );
        check(vec![field("a", &counts), hash("refs", &["x"], &[])], &[1, 1]);
    }

    /// An `HSET` makes a hash where there was nothing, and an `UNLINK` makes room for another type.
    #[test]
    fn what_makes_or_removes_a_key_is_parted_from_whoever_needs_its_type() {
        let makes = [deed(Verb::Hset, "k", &["f", "v"])];
        let needs = [deed(Verb::Srem, "k", &["x"])];
        let removes = [deed(Verb::Unlink, "k", &[])];
        check(vec![field("a", &makes), field("b", &makes)], &[2]);
        check(vec![field("a", &makes), field("b", &needs)], &[1, 1]);
        check(vec![field("a", &needs), field("b", &makes)], &[1, 1]);
        check(vec![field("a", &removes), field("b", &needs)], &[1, 1]);
        check(vec![field("a", &needs), field("b", &removes)], &[2]);
        let announced = Prepared { notices: vec![stream("k")], ..field("b", &[]) };
        check(vec![field("a", &makes), announced], &[1, 1]);
    }

    /// A list is compared as a whole, by whoever names it; one that is too long takes its entry out.
    #[test]
    fn a_list_is_evidence() {
        let listing = |name: &str, overflows: bool| {
            let query = ListQuery { holder: Holder::Members, key: b"rooms".to_vec() };
            let found = Arc::new(Elements { items: vec![b"r".to_vec()], too_many: overflows, most: 1 });
            let deeds = Deeds { lists: vec![(query, found)], overflows, ..Deeds::default() };
            Prepared { deeds: Box::new(deeds), ..field(name, &[]) }
        };
        check(vec![listing("a", false), listing("b", false)], &[2]);
        check(vec![field("a", &[deed(Verb::Srem, "rooms", &["x"])]), listing("b", false)], &[1, 1]);
        check(vec![listing("b", false), field("a", &[deed(Verb::Srem, "rooms", &["x"])])], &[1, 1]);
        let mut evicted = Evicted::default();
        assert!(batches(vec![listing("a", true)], &mut evicted).is_empty());
        assert_eq!(evicted.outcomes[0].1, Outcome::Blocked(Blocked::Fanout));
    }

    #[test]
    fn messages_count_as_operations() {
        let announced = |n: usize, notice: &(When, Notice)| Prepared {
            notices: vec![notice.clone(), notice.clone()],
            ..field(&n.to_string(), &[])
        };
        check((0..120).map(|n| announced(n, &stream("left"))).collect(), &[62, 58]);
        let large = vec![vec![Word::Bytes(vec![b'x'; 400_000])]];
        let large = (When::Always, Notice { sink: Sink::Pubsub, key: None, args: large, hook: None });
        check((0..6).map(|n| announced(n, &large)).collect(), &[2, 2, 2]);
    }

    #[test]
    fn a_batch_is_no_larger_than_the_server_can_bear() {
        check((0..251).map(|n| hash(&n.to_string(), &["t"], &[])).collect(), &[125, 125, 1]);
        let many: Vec<Deed> = (0..300).map(|n| deed(Verb::Unlink, &format!("rec:{n}"), &[])).collect();
        check(vec![hash("a", &["t"], &[]), hash("b", &["t"], &many), hash("c", &["t"], &[])], &[1, 1, 1]);
    }

    #[test]
    fn large_evidence_goes_in_small_batches() {
        let large = |name: &str| {
            let mut one = field(name, &[]);
            one.probe = Probe::Field { field: name.as_bytes().into(), value: vec![b'x'; 1 << 20] };
            one
        };
        check(vec![large("a"), large("b"), field("c", &[]), large("d")], &[1, 2, 1]);
    }

    #[test]
    fn what_leads_to_our_own_keys_or_to_the_container_is_in_no_batch() {
        let streams = |key: &str| Prepared { notices: vec![stream(key)], ..field("s", &[]) };
        check(vec![streams("h"), streams("presence-reaper:x"), field("c", &[]), streams("left")], &[2]);
        let own = [deed(Verb::Unlink, "presence-reaper:state", &[])];
        check(vec![field("a", &own), field("b", &[deed(Verb::Unlink, "h", &[])]), field("c", &[])], &[1]);
        check(vec![hash("k", &["t"], &[deed(Verb::Hdel, "k", &["u"])])], &[]);
        check(vec![Prepared { trespasses: true, ..field("a", &[]) }, field("b", &[])], &[1]);
    }
}
