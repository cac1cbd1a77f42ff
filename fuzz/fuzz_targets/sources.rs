//! A source that is made of the words of its language: what is accepted never lets a companion hit the source itself, or
//! what is ours.

#![no_main]

use std::borrow::Cow;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use presence_reaper::config::{File, Inputs, load};
use presence_reaper::language::source::{Container, Kind, Source};
use presence_reaper::language::template::Ref;
use presence_reaper_fuzz::out_of_reach;

#[derive(Arbitrary, Debug)]
struct Input {
    kind: u8,
    container: Vec<Vec<u8>>,
    last_ping: u8,
    ignore: Vec<Vec<u8>>,
    companions: Vec<(u8, Vec<u8>)>,
    streams: Vec<Vec<u8>>,
    unless: Vec<(u8, Vec<u8>)>,
    trusted: bool,
    /// What stands in the keys, and what the entries hold.
    captured: [Vec<u8>; 3],
    value: Vec<u8>,
}

/// Few pieces, so that what is made of them meets often.
const PIECES: [&str; 24] = [
    "a",
    "b",
    ":",
    "conn:",
    "room:",
    "seen",
    "presence-reaper:",
    "presence",
    "{id}",
    "{room}",
    "{id...}",
    "{_}",
    "{key}",
    "{member}",
    "{value}",
    "{score}",
    "{json:/a}",
    "{field:f}",
    "{{",
    "}}",
    "*",
    "?",
    "meta",
    "online",
];

fn text(pieces: &[u8]) -> String {
    pieces.iter().take(6).map(|piece| PIECES[usize::from(*piece) % PIECES.len()]).collect()
}

fn list(texts: impl Iterator<Item = String>) -> String {
    texts.take(3).map(|text| format!("'{text}'")).collect::<Vec<_>>().join(", ")
}

fuzz_target!(|input: Input| {
    let kind = Kind::ALL[usize::from(input.kind) % 4];
    let mut file = format!(
        "[[source]]\nname = 'fuzz'\n{} = [{}]\ntrusted = {}\nignore = [{}]\n",
        kind.as_str(),
        list(input.container.iter().map(|pieces| text(pieces))),
        input.trusted,
        list(input.ignore.iter().map(|pieces| text(pieces))),
    );
    let forms = [
        "UNLINK K",
        "SREM K {id}",
        "ZREM K {id}",
        "HDEL K {id}",
        "LREM K {id}",
        "HSET K f {user}",
        "EXPIRE K 5m",
        "decr-ref K {id}",
        "if not exists K do UNLINK K",
        "for-each {x} in smembers K do SREM conn:{x}:K {id}",
        "for-each {x} in json /a do if exists K do UNLINK conn:{x}",
    ];
    let companions =
        input.companions.iter().map(|(form, key)| forms[usize::from(*form) % forms.len()].replace('K', &text(key)));
    file.push_str(&format!("companions = [{}]\n", list(companions)));
    let tests = ["exists K", "not sismember K {id}", "hexists K f", "get K json /a eq b", "disjoint K conn:a"];
    let unless = input.unless.iter().map(|(test, key)| tests[usize::from(test % 5)].replace('K', &text(key)));
    file.push_str(&format!("unless = [{}]\n", list(unless)));
    let streams: Vec<String> =
        input.streams.iter().take(2).map(|key| format!("{{ xadd = '{}' }}", text(key))).collect();
    file.push_str(&format!("notify = [{}]\n", streams.join(", ")));
    let pings = ["", "field f", "get conn:{id}:seen", "hget beats {id}", "zscore beats {user}", "exists {key}", "idle"];
    let ping = pings[usize::from(input.last_ping) % pings.len()];
    if !ping.is_empty() {
        file.push_str(&format!("last_ping = '{ping}'\n"));
    }
    if input.last_ping >= 128 {
        file.push_str(
            "missing = 'stale'\nlet.user = ['hget conn:{id} user', 'json /a']\nwhere = ['exists real:{id}']\n",
        );
    }
    if input.trusted && kind != Kind::Keys {
        let own = if input.last_ping == 255 { "presence-reaper:{id}" } else { "w:{id}" };
        file.push_str(&format!("id = '{own}'\n"));
    }
    let inputs = Inputs { file: Some(File { name: "f".to_owned(), text: file.clone() }), ..Inputs::default() };
    let Ok(config) = load(inputs) else { return };
    let source = &config.sources[0].source;
    out_of_reach(source);
    companions_miss_entries(source, &input, &file);
});

/// Where the configuration is the judge: keys are refused by their shape, and so is an exact container. (What an id can
/// spell out of a container's pattern shows only when it is filled in, and leaves that entry whole.)
fn companions_miss_entries(source: &Source, input: &Input, file: &str) {
    let exact = source.container.patterns().iter().all(|own| own.literal().is_some());
    let is_keys = source.container.kind() == Kind::Keys;
    if !is_keys && !exact {
        return;
    }
    let Some(entry) = Entry::made(&source.container, input) else { return };
    if source.ignores(if is_keys { &entry.key } else { &entry.member }) {
        return;
    }
    for action in source.companions.iter().map(|companion| &companion.action) {
        for key in &action.key {
            let Some(filled) = key.fill(|name| entry.value_of(name, input)) else { continue };
            assert!(
                !source.is_hit_by(action.verb, &filled),
                "{} hits {} for {entry:?}\n{file}",
                action.text,
                filled.escape_ascii()
            );
        }
    }
}

#[derive(Debug)]
struct Entry {
    key: Vec<u8>,
    member: Vec<u8>,
    captures: Vec<Vec<u8>>,
}

impl Entry {
    /// An entry with a key that the first of the patterns matches.
    fn made(container: &Container, input: &Input) -> Option<Self> {
        let mut fillings = input.captured.iter().cycle();
        let glob = container.patterns().iter().next()?.glob();
        let mut key = Vec::new();
        let mut rest = glob.as_slice();
        while let Some((first, after)) = rest.split_first() {
            rest = match (first, after) {
                (b'*', after) => {
                    key.extend(bytes(fillings.next()?));
                    after
                }
                (b'\\', [literal, after @ ..]) => {
                    key.push(*literal);
                    after
                }
                (literal, after) => {
                    key.push(*literal);
                    after
                }
            };
        }
        let captures = container.patterns().captures(&key)?.into_iter().map(|range| key[range].to_vec()).collect();
        let member = bytes(&input.captured[2]);
        let member = if input.trusted { [b"w:", member.as_slice()].concat() } else { member };
        Some(Self { member, captures, key })
    }

    fn value_of(&self, name: &Ref, input: &Input) -> Option<Cow<'_, [u8]>> {
        Some(match name {
            Ref::Key => Cow::Borrowed(&self.key),
            Ref::Member | Ref::Id => Cow::Borrowed(&self.member),
            // Behind the captures of the key come those of `id`: here all that follows its text.
            Ref::Capture(index) => match self.captures.get(*index) {
                Some(captured) => Cow::Borrowed(captured.as_slice()),
                None => Cow::Borrowed(self.member.strip_prefix(b"w:")?),
            },
            Ref::Score => Cow::Borrowed(b"17"),
            Ref::Value | Ref::Json(_) | Ref::Field(_) | Ref::Let(_) | Ref::Each(_) => Cow::Owned(bytes(&input.value)),
        })
    }
}

/// Bytes of entries, of the same pieces as the keys, without braces.
fn bytes(pieces: &[u8]) -> Vec<u8> {
    text(pieces).replace(['{', '}'], "").into_bytes()
}
