//! Notifications as the eviction script takes them: commands whose every byte is known but for a few marks.

use std::borrow::Cow;

use base64::prelude::{BASE64_STANDARD as BASE64, Engine};

use crate::language::notify::{Filter, Late, Notification, Payload, Span, Target, Text};
use crate::language::template::Ref;
use crate::policy::entry::Timestamp;
use crate::policy::outcome::{Form, Sink};

/// The field of a stream's entry that holds a payload which is one text.
const TEXT_FIELD: &str = "payload";

/// One notification of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    pub(super) sink: Sink,
    /// The stream, or the outbox; a channel is no key, and comes as the first argument.
    pub(super) key: Option<Vec<u8>>,
    pub(super) args: Vec<Words>,
    /// Of one for a webhook: for which, and what its text is.
    pub(super) hook: Option<Hook>,
}

/// What a text is to the webhook that it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hook {
    /// Which of the source's webhooks, counted from 0.
    pub(super) place: usize,
    pub(super) form: Form,
}

/// An argument: bytes, and what the script puts between them.
pub(super) type Words = Vec<Word>;

/// A stretch of an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Bytes(Vec<u8>),
    /// The server's time, as RFC 3339.
    At,
    /// The milliseconds since then.
    Since(Timestamp),
    /// How many members or fields are left in the container.
    Remaining,
    /// What became of the entry, in a record.
    Outcome,
}

impl Notice {
    /// The command, or what is none: the script tells us the text.
    pub(super) const fn verb(&self) -> &'static str {
        match (self.sink, &self.key) {
            (Sink::Pubsub, _) => "PUBLISH",
            (Sink::Sharded, _) => "SPUBLISH",
            (Sink::Stream, _) | (Sink::Webhook, Some(_)) => "XADD",
            (Sink::Webhook, None) => "TELL",
        }
    }

    /// Whether the script has to count the container for it.
    pub(super) fn counts(&self) -> bool {
        self.args.iter().flatten().any(|word| *word == Word::Remaining)
    }

    /// How many bytes it takes along.
    pub(super) fn size(&self) -> usize {
        self.args.iter().flatten().map(|word| if let Word::Bytes(bytes) = word { bytes.len() } else { 0 }).sum()
    }
}

/// The values of one entry that a notification may name.
pub(super) struct Values<'v, F> {
    /// The entry's own.
    pub(super) own: F,
    /// Its last ping, where that could be read.
    pub(super) last_ping: Option<Timestamp>,
    /// The key of the source's outbox.
    pub(super) outbox: &'v [u8],
}

impl<'v, F: Fn(&Ref) -> Option<Cow<'v, [u8]>>> Values<'v, F> {
    /// The notification, filled; none where a value that it names is absent.
    pub(super) fn notice(&self, notification: &Notification) -> Option<Notice> {
        let (payload, sink) = (&notification.payload, notification.target.sink());
        match &notification.target {
            Target::Channel { name, .. } => {
                let args = vec![plain(name.fill(&self.own)?), self.message(payload)?.0];
                Some(Notice { sink, key: None, args, hook: None })
            }
            Target::Webhook { place, outbox } => {
                let (message, form) = self.message(payload)?;
                let hook = Some(Hook { place: *place, form });
                let (key, args) = match outbox {
                    false => (None, vec![message]),
                    true => (Some(self.outbox.to_vec()), vec![plain("*"), plain(form.as_str()), message]),
                };
                Some(Notice { sink, key, args, hook })
            }
            Target::Stream { key, maxlen } => {
                let mut args = Vec::new();
                if let Some(maxlen) = maxlen {
                    args.extend(["MAXLEN", "~", &maxlen.to_string()].map(plain));
                }
                args.push(plain("*"));
                args.extend(self.fields(payload)?);
                Some(Notice { sink, key: Some(key.fill(&self.own)?), args, hook: None })
            }
        }
    }

    /// The payload as one text: a table as JSON.
    fn message(&self, payload: &Payload) -> Option<(Words, Form)> {
        Some(match payload {
            Payload::Text(text) => (self.words(text)?, Form::Text),
            Payload::Table(members) => (self.json(members)?, Form::Json),
        })
    }

    fn fields(&self, payload: &Payload) -> Option<Vec<Words>> {
        match payload {
            Payload::Text(text) => Some(vec![plain(TEXT_FIELD), self.words(text)?]),
            Payload::Table(members) => {
                let fields = members.iter().map(|(name, text)| Some([plain(name.as_str()), self.words(text)?]));
                Some(fields.collect::<Option<Vec<_>>>()?.into_iter().flatten().collect())
            }
        }
    }

    fn words(&self, text: &Text) -> Option<Words> {
        let mut words = Words::new();
        text.spans().iter().try_for_each(|span| {
            push(&mut words, self.word(span)?);
            Some(())
        })?;
        Some(words)
    }

    fn word(&self, span: &Span) -> Option<Word> {
        Some(match span {
            Span::Literal(bytes) => Word::Bytes(bytes.clone()),
            Span::Own(name, Filter::Plain) => Word::Bytes((self.own)(name)?.into_owned()),
            Span::Own(name, filter) => Word::Bytes(filter.apply(&(self.own)(name)?)),
            Span::Group(label, filter) => Word::Bytes(filter.apply(&label.fill(&self.own)?)),
            Span::LastPing => Word::Bytes(format!("{}Z", rfc3339(self.last_ping?, 3)).into_bytes()),
            Span::Late(Late::At) => Word::At,
            Span::Late(Late::AgeMs) => Word::Since(self.last_ping?),
            Span::Late(Late::Remaining) => Word::Remaining,
        })
    }

    /// The members of a JSON object. One whose bytes are not UTF-8 shows what can be read of them, and all of them in
    /// base64 beside it, as reports do.
    fn json(&self, members: &[(String, Text)]) -> Option<Words> {
        let mut json = Words::new();
        for (at, (name, text)) in members.iter().enumerate() {
            let words = self.words(text)?;
            let opening = if at == 0 { "{" } else { "," };
            push(&mut json, bytes([opening, &json_string(name.as_bytes()), ":"].concat()));
            let exact = if text.is_number() { None } else { in_base64(&words, name, members) };
            if text.is_number() {
                words.into_iter().for_each(|word| push(&mut json, word));
            } else {
                push(&mut json, bytes("\""));
                words.into_iter().for_each(|word| push(&mut json, escaped(word)));
                push(&mut json, bytes("\""));
            }
            push(&mut json, bytes(exact.unwrap_or_default()));
        }
        push(&mut json, bytes("}"));
        Some(json)
    }
}

/// The member that holds what JSON can't, unless the configuration has one of that name.
fn in_base64(words: &[Word], name: &str, members: &[(String, Text)]) -> Option<String> {
    let name = format!("{name}_base64");
    // A value beside a mark is UTF-8, whatever it holds: that was seen to when the configuration was read.
    match words {
        [Word::Bytes(value)]
            if std::str::from_utf8(value).is_err() && members.iter().all(|(known, _)| *known != name) =>
        {
            Some(format!(",{}:\"{}\"", json_string(name.as_bytes()), BASE64.encode(value)))
        }
        _ => None,
    }
}

fn escaped(word: Word) -> Word {
    match word {
        Word::Bytes(value) => {
            let quoted = json_string(&value);
            bytes(quoted.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or_default())
        }
        mark => mark,
    }
}

fn json_string(text: &[u8]) -> String {
    serde_json::Value::from(String::from_utf8_lossy(text)).to_string()
}

fn plain(text: impl Into<Vec<u8>>) -> Words {
    vec![bytes(text)]
}

fn bytes(text: impl Into<Vec<u8>>) -> Word {
    Word::Bytes(text.into())
}

/// Adds a word; bytes that follow bytes are one.
fn push(words: &mut Words, word: Word) {
    match (words.last_mut(), word) {
        (Some(Word::Bytes(before)), Word::Bytes(more)) => before.extend(more),
        (_, word) => words.push(word),
    }
}

/// Date and time in UTC with so many digits behind the second, without the `Z`.
pub(super) fn rfc3339(at: Timestamp, digits: usize) -> String {
    // Nothing outside the years that can be written is plausible.
    let at = jiff::Timestamp::from_millisecond(at.millis()).unwrap_or_default();
    let mut text = format!("{at:.digits$}");
    text.truncate(text.len() - 1);
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::language::notify::Names;
    use crate::language::template::{Layout, Scope};

    const LAST_PING: Timestamp = Timestamp::from_millis(1_769_857_200_500);
    const NOW: Timestamp = Timestamp::from_millis(1_769_860_800_623);

    fn names() -> Names<'static> {
        Names { scope: Scope { layout: Some(Layout::Hash), ..Scope::default() }, source: "hub", group: None }
    }

    fn table(members: &[(&str, &str)]) -> Payload {
        let member = |(name, text): &(&str, &str)| ((*name).to_owned(), Text::parse(text, &names()).unwrap());
        Payload::Table(members.iter().map(member).collect())
    }

    fn text(text: &str) -> Payload {
        Payload::Text(Text::parse(text, &names()).unwrap())
    }

    /// The notice of the field `id` of the hash `clients`; its value says nothing.
    fn notice(target: Target, payload: Payload, id: &[u8]) -> Option<Notice> {
        let own = |name: &Ref| match name {
            Ref::Id => Some(Cow::from(id.to_vec())),
            Ref::Key => Some(Cow::from(b"clients".to_vec())),
            _ => None,
        };
        let notification = Notification { target, payload, when: None, text: String::new() };
        Values { own, last_ping: Some(LAST_PING), outbox: b"box" }.notice(&notification)
    }

    /// An argument as the script spells it.
    fn spelt(words: &[Word]) -> Vec<u8> {
        let word = |word: &Word| match word {
            Word::Bytes(bytes) => bytes.clone(),
            Word::At => format!("{}Z", rfc3339(NOW, 3)).into_bytes(),
            Word::Since(then) => NOW.millis_since(*then).to_string().into_bytes(),
            Word::Remaining => b"41".to_vec(),
            Word::Outcome => b"evicted".to_vec(),
        };
        words.iter().flat_map(word).collect()
    }

    fn published(payload: Payload, id: &[u8]) -> Vec<u8> {
        let notice = notice(Target::channel("off:{id}", false, &names()).unwrap(), payload, id).unwrap();
        assert_eq!((notice.verb(), notice.key), ("PUBLISH", None));
        let [channel, message] = &notice.args[..] else { panic!("channel and message") };
        assert_eq!(*channel, plain([b"off:", id].concat()));
        spelt(message)
    }

    #[track_caller]
    fn check_json(payload: Payload, id: &[u8], expected: &Value) {
        let found: Value = serde_json::from_slice(&published(payload, id)).unwrap();
        assert_eq!(found, *expected);
    }

    fn added(payload: Payload, maxlen: Option<u32>) -> (Vec<u8>, Vec<String>) {
        let target = Target::stream("left:{key}", &names(), None, &[]).unwrap();
        let target = maxlen.map_or(target.clone(), |maxlen| target.cut_to(maxlen));
        let notice = notice(target, payload, b"c 1").unwrap();
        assert_eq!(notice.verb(), "XADD");
        let args = notice.args.iter().map(|words| String::from_utf8(spelt(words)).unwrap());
        (notice.key.unwrap(), args.collect())
    }

    #[test]
    fn the_usual_payload_says_what_is_known_of_every_entry() {
        let usual = json!({
            "source": "hub", "id": "c 1", "key": "clients", "last_ping": "2026-01-31T11:00:00.500Z",
            "age_ms": 3_600_123, "at": "2026-01-31T12:00:00.623Z", "reason": "stale",
        });
        check_json(Payload::standard(&names()), b"c 1", &usual);
        let (key, args) = added(Payload::standard(&names()), Some(1_000));
        assert_eq!(key, b"left:clients");
        let fields = ["source", "hub", "id", "c 1", "key", "clients", "last_ping", "2026-01-31T11:00:00.500Z"];
        let late = ["age_ms", "3600123", "at", "2026-01-31T12:00:00.623Z", "reason", "stale"];
        assert_eq!(args, [&["MAXLEN", "~", "1000", "*"], &fields[..], &late].concat());
    }

    #[test]
    fn a_text_is_the_message_and_one_field() {
        assert_eq!(published(text("{id} of {remaining}\n{{}}"), b"\xff\0"), b"\xff\0 of 41\n{}");
        assert_eq!(published(text(""), b"c"), b"");
        assert_eq!(added(text("{id}"), None).1, ["*", "payload", "c 1"]);
    }

    #[test]
    fn what_json_cannot_hold_stands_beside_in_base64() {
        let payload = || table(&[("id", "{id}"), ("hex", "{id|hex}"), ("n", "{remaining}"), ("after", "{age_ms} ms")]);
        let plain = json!({ "id": "a\"\n{}\0é", "hex": "61220a7b7d00c3a9", "n": 41, "after": "3600123 ms" });
        check_json(payload(), "a\"\n{}\0é".as_bytes(), &plain);
        let odd = json!({ "id": "a\u{fffd}", "id_base64": "Yf8=", "hex": "61ff", "n": 41, "after": "3600123 ms" });
        check_json(payload(), b"a\xff", &odd);
        let own = table(&[("id", "{id}"), ("id_base64", "mine")]);
        check_json(own, b"a\xff", &json!({ "id": "a\u{fffd}", "id_base64": "mine" }));
        let (_, args) = added(table(&[("id", "{id}")]), None);
        assert_eq!(args, ["*", "id", "c 1"]);
    }

    #[test]
    fn a_value_that_is_absent_leaves_the_notification_out() {
        let channel = |text: &str| Target::channel(text, false, &names()).unwrap();
        let absent = "{json:/user}";
        assert_eq!(notice(channel("off"), text(absent), b"c"), None);
        assert_eq!(notice(channel("off"), table(&[("a", "x"), ("b", "{json:/user|hex}")]), b"c"), None);
        assert_eq!(notice(channel("off:{json:/user}"), text("x"), b"c"), None);
        assert!(notice(channel("off"), text("{id}"), b"").is_some(), "an empty value is a value");
    }

    #[test]
    fn times_have_milliseconds_always() {
        for (millis, expected) in [(0, "1970-01-01T00:00:00.000"), (1_769_860_800_600, "2026-01-31T12:00:00.600")] {
            assert_eq!(rfc3339(Timestamp::from_millis(millis), 3), expected);
            assert_eq!(rfc3339(Timestamp::from_millis(millis), 0), expected[..19]);
        }
        assert_eq!(rfc3339(Timestamp::from_millis(i64::MAX), 0).len(), 19);
    }

    proptest! {
        #[test]
        fn a_table_is_json_whatever_the_id(id: Vec<u8>, name in "[^\0]{0,12}", before in "[^{}]{0,12}") {
            let payload = table(&[(&name, &format!("{before}{{id}}")), ("at ", "{at}"), ("age ", "{age_ms}")]);
            let found: Value = serde_json::from_slice(&published(payload, &id)).unwrap();
            let exact = [before.as_bytes(), &id].concat();
            prop_assert_eq!(found[&name].as_str().unwrap(), String::from_utf8_lossy(&exact));
            let beside = found.get(format!("{name}_base64")).map(|text| BASE64.decode(text.as_str().unwrap()).unwrap());
            prop_assert_eq!(beside, std::str::from_utf8(&exact).is_err().then_some(exact));
            prop_assert_eq!(&found["age "], 3_600_123);
        }

        #[test]
        fn a_text_and_a_field_hold_every_byte(id: Vec<u8>) {
            prop_assert_eq!(published(text("{id}"), &id), id.clone());
            let target = Target::stream("left", &names(), None, &[]).unwrap();
            let notice = notice(target, table(&[("id", "{id}")]), &id).unwrap();
            prop_assert_eq!(spelt(&notice.args[2]), id);
        }
    }
}
