//! The audit record: one JSON line an eviction, with the evidence that was compared, what went with the entry, and the
//! facts that the rule went by.
//!
//! The stream takes it from the eviction script, before the entry's first write, so that none goes without its record; the
//! file is given it when the script has answered, or has not.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::asking::Query;
use super::deeds::Deed;
use super::evict::{Prepared, Probe, Struck, WINDOW};
use super::instances::own_name;
use super::notify::{Notice, Word, Words, rfc3339};
use crate::language::action::Verb;
use crate::policy::entry::{Bytes, Timestamp};
use crate::policy::grounds::Grounds;
use crate::policy::outcome::Sink;
use crate::text::{json_text, quoted};

/// The version of the line's schema; it grows only if a field changes its meaning or goes away.
const SCHEMA_VERSION: u32 = 1;

/// The field of a stream's entry that holds the line.
pub const FIELD: &str = "record";

/// Longer evidence is told by its beginning and its length: values of a megabyte would fill stream and disk.
const MOST_EVIDENCE: usize = 4_096;

/// A stream that takes records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Its key, in the database of each source.
    pub key: Bytes,
    /// It is cut to about so many entries.
    pub maxlen: u32,
}

/// Where records go, and who writes them.
#[derive(Clone, Debug)]
pub struct Recorder {
    instance: String,
    stream: Option<Stream>,
    to_file: bool,
}

impl Recorder {
    /// This process, recording into this stream, if there is one, and for whoever keeps a file.
    pub fn new(stream: Option<Stream>, to_file: bool) -> Self {
        Self { instance: own_name(), stream, to_file }
    }

    /// The stream.
    pub fn stream(&self) -> Option<&Stream> {
        self.stream.as_ref()
    }
}

/// The record of one entry that is to be struck.
#[derive(Clone, Debug)]
pub(super) struct Record {
    recorder: Arc<Recorder>,
    source: Arc<str>,
    grounds: Option<Box<Grounds>>,
    /// The lease is compared too.
    fenced: bool,
    /// What the script appends to the stream.
    pub(super) notice: Option<Notice>,
}

/// What became of an entry, where that is recorded.
#[derive(Clone, Copy, Debug)]
pub(super) enum Became<'s> {
    Evicted(&'s Struck),
    Unknown,
}

impl Record {
    pub(super) fn of(prepared: &mut Prepared, recorder: &Arc<Recorder>, source: &Arc<str>, fenced: bool) -> Self {
        let grounds = prepared.grounds.take();
        let mut record =
            Self { recorder: Arc::clone(recorder), source: Arc::clone(source), grounds, fenced, notice: None };
        record.notice = recorder.stream.as_ref().map(|stream| record.notice(prepared, stream));
        record
    }

    fn notice(&self, prepared: &Prepared, Stream { key, maxlen }: &Stream) -> Notice {
        let plain = |text: &str| vec![Word::Bytes(text.into())];
        let mut args = ["MAXLEN", "~", &maxlen.to_string(), "*", FIELD].map(plain).to_vec();
        args.push(self.words(prepared, None));
        Notice { sink: Sink::Stream, key: Some(key.to_vec()), args, hook: None }
    }

    /// The line for the file, where one is kept.
    pub(super) fn line(&self, prepared: &Prepared, became: Became<'_>, at: Timestamp) -> Option<Vec<u8>> {
        let (outcome, struck) = match became {
            Became::Evicted(struck) => (EVICTED, Some(struck)),
            Became::Unknown => (UNKNOWN, None),
        };
        let words = self.recorder.to_file.then(|| self.words(prepared, struck))?;
        Some(spelt(&words, at, outcome))
    }

    /// The line, with what is known only when the entry goes left open. `struck`: what the script said it had done.
    fn words(&self, prepared: &Prepared, struck: Option<&Struck>) -> Words {
        let text = |text: String| Word::Bytes(text.into_bytes());
        let mut words = vec![text(format!("{{\"schema_version\":{SCHEMA_VERSION},\"at\":\"")), Word::At];
        words.extend([text("\",\"outcome\":\"".into()), Word::Outcome, text("\"".into())]);
        let last_ping = self.grounds.as_ref().map(|grounds| grounds.last_ping);
        if let Some(last_ping) = last_ping {
            words.extend([text(",\"age_ms\":".into()), Word::Since(last_ping)]);
        }
        // A structure of texts, numbers and lists can't fail to be written as JSON.
        let body = serde_json::to_string(&self.body(prepared, last_ping, struck)).unwrap_or_default();
        words.push(text(format!(",{}", body.strip_prefix('{').unwrap_or("}"))));
        words
    }

    fn body<'b>(&'b self, prepared: &'b Prepared, last_ping: Option<Timestamp>, struck: Option<&Struck>) -> Body<'b> {
        let (id, id_base64) = json_text(prepared.id.name().into());
        let (key, key_base64) = json_text((&*prepared.id.key).into());
        let (mut companions, mut companions_if) =
            (prepared.deeds.first.iter().map(command_of).collect::<Vec<_>>(), Vec::new());
        for (at, (when, deed)) in prepared.later().enumerate() {
            match struck {
                Some(struck) if struck.left_out.contains(&(at + 1)) => {}
                None if when.asked().is_some() => companions_if.push(command_of(deed)),
                Some(_) | None => companions.push(command_of(deed)),
            }
        }
        Body {
            instance: &self.recorder.instance,
            source: &self.source,
            id,
            id_base64,
            key,
            key_base64,
            last_ping: last_ping.map(|at| at.to_string()),
            evidence: evidence(prepared),
            removal: command_of(&prepared.removal),
            companions,
            companions_if,
            companions_skipped: prepared.skipped_companions(),
            facts: self.grounds.as_deref().map(|grounds| self.facts(grounds, prepared)),
        }
    }

    fn facts(&self, grounds: &Grounds, prepared: &Prepared) -> FactsDocument {
        let (group, group_base64) = grounds.group.as_ref().map(|label| json_text((&**label).into())).unzip();
        FactsDocument {
            e1: E1 { unit: grounds.unit.as_str() },
            e2: E2 { threshold_ms: millis(grounds.threshold) },
            e3: E3 { seen_for_ms: millis(grounds.seen_for), confirm_for_ms: millis(grounds.confirm_for) },
            e4: E4 {
                grace_over_ms: grounds.grace_over.map(millis),
                reconnect_over_ms: grounds.reconnect_over.map(millis),
            },
            e5: E5 {
                survey_age_ms: millis(grounds.survey_age),
                pulse_age_ms: grounds.pulse_age.map(millis),
                live: grounds.live,
                unprotected: grounds.unprotected,
                newest_age_ms: grounds.newest_age.map(millis),
                silence_released: grounds.silence_released,
                release: grounds.release.clone(),
            },
            e6: group.map(|group| E6 {
                group,
                group_base64: group_base64.flatten(),
                newest_age_ms: grounds.group_newest_age.map(millis),
            }),
            e7: E7 { window_ms: millis(WINDOW), lease: self.fenced },
            e8: E8 { allowance: grounds.allowance },
            e9: E9 { unless: prepared.unless.questions.iter().map(|question| asked(&question.query)).collect() },
        }
    }
}

// === the line ===

#[derive(Serialize)]
struct Body<'a> {
    instance: &'a str,
    source: &'a str,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id_base64: Option<String>,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    last_ping: Option<String>,
    evidence: Vec<Evidence>,
    removal: String,
    companions: Vec<String>,
    /// Those of which only the script knows whether their condition held, where that is not known by now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    companions_if: Vec<String>,
    companions_skipped: u32,
    facts: Option<FactsDocument>,
}

/// A reply that the judgement drew on.
#[derive(Serialize)]
struct Evidence {
    read: String,
    /// `null`: nothing was there.
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    /// All of its bytes, where `value` is only the beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<usize>,
}

#[derive(Serialize)]
struct FactsDocument {
    e1: E1,
    e2: E2,
    e3: E3,
    e4: E4,
    e5: E5,
    e6: Option<E6>,
    e7: E7,
    e8: E8,
    e9: E9,
}

#[derive(Serialize)]
struct E1 {
    unit: &'static str,
}

#[derive(Serialize)]
struct E2 {
    threshold_ms: u64,
}

#[derive(Serialize)]
struct E3 {
    seen_for_ms: u64,
    confirm_for_ms: u64,
}

#[derive(Serialize)]
struct E4 {
    grace_over_ms: Option<u64>,
    reconnect_over_ms: Option<u64>,
}

#[derive(Serialize)]
struct E5 {
    survey_age_ms: u64,
    pulse_age_ms: Option<u64>,
    live: u64,
    unprotected: u64,
    newest_age_ms: Option<u64>,
    silence_released: bool,
    release: Option<String>,
}

#[derive(Serialize)]
struct E6 {
    group: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    group_base64: Option<String>,
    newest_age_ms: Option<u64>,
}

#[derive(Serialize)]
struct E7 {
    window_ms: u64,
    lease: bool,
}

#[derive(Serialize)]
struct E8 {
    /// `null`: no limit.
    allowance: Option<u64>,
}

#[derive(Serialize)]
struct E9 {
    unless: Vec<String>,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

// === evidence and commands, as they are written down ===

fn evidence(prepared: &Prepared) -> Vec<Evidence> {
    let key = &prepared.id.key;
    let read = |verb: &str, arg: Option<&Bytes>| {
        let words = [verb.as_bytes(), &key[..]].into_iter().chain(arg.map(|arg| &arg[..]));
        spelt_out(words)
    };
    let mut list = match &prepared.probe {
        Probe::Score { member, score } => {
            vec![Evidence::of(read("ZSCORE", Some(member)), Some(score.to_string().as_bytes()))]
        }
        Probe::Field { field, value } => vec![Evidence::of(read("HGET", Some(field)), Some(value))],
        Probe::Text { value } => vec![Evidence::of(read("GET", None), Some(value))],
        Probe::Fields { fields } => {
            let each = fields.iter();
            each.map(|(field, value)| Evidence::of(read("HGET", Some(field)), value.as_deref())).collect()
        }
        Probe::Member { member } => vec![Evidence::of(read("SISMEMBER", Some(member)), Some(b"1"))],
        Probe::Key { kind, idle } => {
            let idle = idle.map(|idle| idle.to_string());
            let idle = idle.map(|idle| Evidence::of(read("OBJECT IDLETIME", None), Some(idle.as_bytes())));
            [Evidence::of(read("TYPE", None), Some(kind))].into_iter().chain(idle).collect()
        }
    };
    let elsewhere = prepared.elsewhere.iter().map(|one| {
        let value = one.expected.strip_prefix(b"=");
        Evidence::of(asked(&one.query), value)
    });
    list.extend(elsewhere);
    list
}

impl Evidence {
    fn of(read: String, value: Option<&[u8]>) -> Self {
        let shown = value.map(|value| &value[..value.len().min(MOST_EVIDENCE)]);
        let bytes = value.filter(|value| value.len() > MOST_EVIDENCE).map(<[u8]>::len);
        let (value, value_base64) = shown.map(|shown| json_text(Cow::Borrowed(shown))).unzip();
        Self { read, value, value_base64: value_base64.flatten(), bytes }
    }
}

fn asked(Query { verb, keys, args }: &Query) -> String {
    spelt_out([verb.as_bytes()].into_iter().chain(keys.iter().chain(args).map(Vec::as_slice)))
}

fn command_of(Deed { verb, keys, args }: &Deed) -> String {
    // Its time was read as a duration, and goes to Redis in milliseconds.
    let verb = if *verb == Verb::Expire { "PEXPIRE" } else { verb.as_str() };
    spelt_out([verb.as_bytes()].into_iter().chain(keys.iter().chain(args).map(Vec::as_slice)))
}

/// As redis-cli takes it: a verb, and behind it words in quotes where they need some.
fn spelt_out<'w>(words: impl IntoIterator<Item = &'w [u8]>) -> String {
    let mut text = String::new();
    for (at, word) in words.into_iter().enumerate() {
        if at == 0 {
            text.push_str(&String::from_utf8_lossy(word));
        } else {
            text.push(' ');
            text.push_str(&quoted(word));
        }
    }
    text
}

const EVICTED: &str = "evicted";
const UNKNOWN: &str = "unknown";

/// As the script would spell it at that time, and a line break.
fn spelt(words: &[Word], at: Timestamp, outcome: &str) -> Vec<u8> {
    let mut line = Vec::new();
    for word in words {
        match word {
            Word::Bytes(bytes) => line.extend_from_slice(bytes),
            Word::At => line.extend_from_slice(format!("{}Z", rfc3339(at, 3)).as_bytes()),
            Word::Since(then) => line.extend_from_slice(at.millis_since(*then).to_string().as_bytes()),
            Word::Outcome => line.extend_from_slice(outcome.as_bytes()),
            // No record says how many are left.
            Word::Remaining => {}
        }
    }
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_STANDARD as BASE64, Engine};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::condition::{self, Filled, Question, Unless};
    use super::super::deeds::{Deeds, When};
    use super::super::evict::Elsewhere;
    use super::*;
    use crate::language::condition::Condition;
    use crate::language::template::{Layout, Scope};
    use crate::policy::entry::EntryId;
    use crate::policy::outcome::Outcome;
    use crate::policy::ping::Unit;

    const LAST_PING: Timestamp = Timestamp::from_millis(1_769_857_200_500);
    const AT: Timestamp = Timestamp::from_millis(1_769_860_800_623);

    fn grounds(group: Option<&[u8]>) -> Grounds {
        let seconds = Duration::from_secs;
        Grounds {
            unit: Unit::UnixMs,
            last_ping: LAST_PING,
            threshold: seconds(300),
            seen_for: seconds(91),
            confirm_for: seconds(90),
            grace_over: Some(seconds(7)),
            reconnect_over: None,
            survey_age: seconds(12),
            pulse_age: Some(seconds(3)),
            live: 40,
            unprotected: 43,
            newest_age: Some(Duration::from_millis(15)),
            silence_released: false,
            release: None,
            group: group.map(Into::into),
            group_newest_age: group.map(|_| seconds(301)),
            allowance: Some(50),
        }
    }

    fn srem(key: &[u8], member: &[u8]) -> Deed {
        Deed { verb: Verb::Srem, keys: vec![key.to_vec()], args: vec![member.to_vec()] }
    }

    fn question() -> Question {
        let scope = Scope { layout: Some(Layout::Hash), ..Scope::default() };
        let condition = Condition::parse("not exists conns", &scope).unwrap();
        let Filled::Asked(question) = condition::fill(&condition, |_| None) else { panic!("a question") };
        question
    }

    /// The field `id` of the hash `key`, with this value, and two companions, the second under a condition.
    fn entry(key: &[u8], id: &[u8], value: &[u8], group: Option<&[u8]>) -> Prepared {
        let removal = Deed { verb: Verb::Hdel, keys: vec![key.to_vec()], args: vec![id.to_vec()] };
        let probe = Probe::Field { field: id.into(), value: value.to_vec() };
        let entry = Prepared::of_nothing(EntryId::member(key.into(), id), probe, Box::new(removal));
        let query = Query::new("GET", b"beat".to_vec(), None);
        let deeds = Deeds {
            first: vec![srem(b"conns", id)],
            later: vec![(When::Asked(question()), srem(b"users", value))],
            ..Deeds::default()
        };
        let elsewhere = vec![Elsewhere::of(&query, &redis::Value::Nil)];
        let unless = Unless { questions: vec![question()], ..Unless::default() };
        Prepared { deeds: Box::new(deeds), elsewhere, unless, ..entry }.upon(grounds(group))
    }

    fn recorded(mut prepared: Prepared, to_file: bool) -> (Prepared, Record) {
        let stream = Stream { key: b"records".as_slice().into(), maxlen: 7 };
        let recorder = Recorder { instance: "host:17".into(), stream: Some(stream), to_file };
        let record = Record::of(&mut prepared, &Arc::new(recorder), &"hub".into(), true);
        (prepared, record)
    }

    fn struck(left_out: &[usize]) -> Struck {
        Struck::evicted(left_out.to_vec())
    }

    fn line(prepared: Prepared, became: Became<'_>) -> Value {
        let (prepared, record) = recorded(prepared, true);
        let line = record.line(&prepared, became, AT).unwrap();
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        serde_json::from_slice(&line).unwrap()
    }

    #[test]
    fn a_line_says_who_went_by_what_and_with_whom() {
        let line = line(entry(b"clients", b"c 1", br#"{"t":1}"#, Some(b"eu")), Became::Evicted(&struck(&[])));
        let expected = json!({
            "schema_version": 1, "at": "2026-01-31T12:00:00.623Z", "outcome": "evicted", "age_ms": 3_600_123,
            "instance": "host:17", "source": "hub", "id": "c 1", "key": "clients",
            "last_ping": "2026-01-31T11:00:00.5Z",
            "evidence": [
                { "read": "HGET clients \"c 1\"", "value": "{\"t\":1}" }, { "read": "GET beat", "value": null },
            ],
            "removal": "HDEL clients \"c 1\"",
            "companions": ["SREM conns \"c 1\"", "SREM users \"{\\\"t\\\":1}\""], "companions_skipped": 0,
            "facts": {
                "e1": { "unit": "unix-ms" }, "e2": { "threshold_ms": 300_000 },
                "e3": { "seen_for_ms": 91_000, "confirm_for_ms": 90_000 },
                "e4": { "grace_over_ms": 7_000, "reconnect_over_ms": null },
                "e5": {
                    "survey_age_ms": 12_000, "pulse_age_ms": 3_000, "live": 40, "unprotected": 43, "newest_age_ms": 15,
                    "silence_released": false, "release": null,
                },
                "e6": { "group": "eu", "newest_age_ms": 301_000 }, "e7": { "window_ms": 2_000, "lease": true },
                "e8": { "allowance": 50 }, "e9": { "unless": ["EXISTS conns"] },
            },
        });
        assert_eq!(line, expected);
    }

    /// What stands under a condition is told as done, as left out, or as open.
    #[test]
    fn a_line_says_no_more_than_is_known() {
        let entry = || entry(b"clients", b"c", b"u", None);
        let left_out = line(entry(), Became::Evicted(&struck(&[1])));
        assert_eq!((&left_out["companions"], left_out.get("companions_if")), (&json!(["SREM conns c"]), None));
        let unknown = line(entry(), Became::Unknown);
        assert_eq!((&unknown["outcome"], &unknown["companions"]), (&json!("unknown"), &json!(["SREM conns c"])));
        assert_eq!((&unknown["companions_if"], &unknown["facts"]["e6"]), (&json!(["SREM users u"]), &Value::Null));
        let (prepared, record) = recorded(entry(), false);
        assert_eq!(record.line(&prepared, Became::Unknown, AT), None, "no file is kept");
        let Notice { key, args, .. } = record.notice.unwrap();
        assert_eq!(key.as_deref(), Some(&b"records"[..]));
        let args: Vec<Vec<u8>> = args.iter().map(|words| spelt(words, AT, "evicted")).collect();
        let [head @ .., last] = &args[..] else { panic!("arguments") };
        assert_eq!(head.concat(), b"MAXLEN\n~\n7\n*\nrecord\n");
        let told: Value = serde_json::from_slice(last).unwrap();
        assert_eq!((&told["outcome"], &told["companions_if"]), (&json!("evicted"), &json!(["SREM users u"])));
    }

    #[test]
    fn long_evidence_is_told_by_its_beginning() {
        let long = line(entry(b"clients", b"c", &vec![b'x'; 5_000], None), Became::Evicted(&struck(&[])));
        let evidence = &long["evidence"][0];
        assert_eq!((evidence["value"].as_str().map(str::len), &evidence["bytes"]), (Some(4_096), &json!(5_000)));
        let whole = line(entry(b"clients", b"c", &vec![b'x'; 4_096], None), Became::Evicted(&struck(&[])));
        assert_eq!(whole["evidence"][0].get("bytes"), None);
    }

    /// A member of text, and beside it the bytes where the text is not exact.
    fn bytes_of(object: &Value, name: &str) -> Vec<u8> {
        match object.get(format!("{name}_base64")) {
            Some(exact) => BASE64.decode(exact.as_str().unwrap()).unwrap(),
            None => object[name].as_str().unwrap().as_bytes().to_vec(),
        }
    }

    proptest! {
        #[test]
        fn a_line_is_json_and_holds_every_byte(key: Vec<u8>, id: Vec<u8>, value: Vec<u8>, group: Option<Vec<u8>>) {
            let prepared = entry(&key, &id, &value, group.as_deref());
            let line = line(prepared, Became::Evicted(&struck(&[])));
            prop_assert_eq!(bytes_of(&line, "key"), key);
            prop_assert_eq!(bytes_of(&line, "id"), id);
            prop_assert_eq!(bytes_of(&line["evidence"][0], "value"), value);
            let found = line["facts"]["e6"].as_object().map(|_| bytes_of(&line["facts"]["e6"], "group"));
            prop_assert_eq!(found, group);
        }
    }

    impl Struck {
        fn evicted(left_out: Vec<usize>) -> Self {
            Self { outcome: Outcome::Evicted, left_out, failed: vec![], told: vec![], kept_back: vec![] }
        }
    }
}
