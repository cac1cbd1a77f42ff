//! A source: where entries live, when one last pinged, what goes with it.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::action::{Action, MIN_LITERAL, OWN_PREFIX};
use super::notify::Notification;
use super::pattern::Pattern;
use super::template::{Layout, Part, Pointer, Ref, Template};
use super::value::Value;
use super::{Mistake, shown};
use crate::policy::entry::{Bytes, Timestamp};
use crate::policy::ping;
use crate::policy::zone::Zone;

/// One configured place where entries live, checked.
#[derive(Clone, Debug)]
pub struct Source {
    /// What it is called in metrics and logs: `[a-z0-9_-]{1,40}`, unique.
    pub name: Arc<str>,
    /// Where the entries are.
    pub container: Container,
    /// Where an entry's last ping stands.
    pub last_ping: LastPing,
    /// How the last ping is written.
    pub format: ping::Format,
    /// Where the last ping was written, if it does not say.
    pub time_zone: Zone,
    /// The hub stores last ping + this; zero when it stores the last ping itself.
    pub deadline: Duration,
    /// Keys, members or fields that are no entries.
    pub ignore: Vec<Pattern>,
    /// What goes with an entry, in the order of the configuration.
    pub companions: Vec<Action>,
    /// Whom to tell of an eviction, in the order of the configuration.
    pub notify: Vec<Notification>,
}

/// Where the entries of a source are.
#[derive(Clone, Debug)]
pub enum Container {
    /// The members of the sorted set at this key.
    Zset(Bytes),
    /// The fields of the hash at this key.
    Hash(Bytes),
    /// The keys that match.
    Keys(Pattern),
}

/// Where an entry's last ping stands. Of several times the newest present counts; one that is present and unreadable
/// spoils the entry (E1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LastPing {
    /// The score of the member.
    Score,
    /// The hash field's or the string key's value: the whole (`None`), or a part of it read as JSON.
    Value(Vec<Option<Pointer>>),
    /// Fields of a key that is a hash.
    Fields(Vec<Bytes>),
}

/// Which of the three containers, before its key or pattern is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `zset = "key"`
    Zset,
    /// `hash = "key"`
    Hash,
    /// `keys = "pattern"`
    Keys,
}

impl Kind {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Zset, Self::Hash, Self::Keys];

    /// The name in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Zset => "zset",
            Self::Hash => "hash",
            Self::Keys => "keys",
        }
    }
}

// === impl Source ===

impl Source {
    /// How the entries are stored.
    pub fn layout(&self) -> Layout {
        self.last_ping.layout(self.container.kind())
    }

    /// What its times are read against at `now`.
    pub fn reader(&self, now: Timestamp) -> ping::Reader<'_> {
        ping::Reader { format: self.format, zone: &self.time_zone, deadline: self.deadline, now }
    }

    /// Whether a key, member or field is one that the configuration says is no entry.
    pub fn ignores(&self, name: &[u8]) -> bool {
        self.ignore.iter().any(|pattern| pattern.matches(name))
    }
}

// === impl Container ===

impl Container {
    /// Reads the key of a sorted set or hash, or the pattern of the keys.
    pub fn parse(kind: Kind, text: &str) -> Result<Self, Mistake> {
        let pattern = Pattern::parse(text, if kind == Kind::Keys { "the pattern" } else { "the key" })?;
        if pattern.literal_prefix().starts_with(OWN_PREFIX) {
            return Err(Mistake::new("keys under `presence-reaper:` are our own, and hold no entries"));
        }
        match (kind, pattern.literal()) {
            (Kind::Zset, Some(key)) => Ok(Self::Zset(key)),
            (Kind::Hash, Some(key)) => Ok(Self::Hash(key)),
            (Kind::Zset | Kind::Hash, None) => {
                let many = if kind == Kind::Zset { "sorted sets" } else { "hashes" };
                Err(Mistake::new(format!("patterns over many {many} are not supported by this version"))
                    .hint("name one key; a literal brace is written `{{`"))
            }
            (Kind::Keys, _) if pattern.longest_literal() < MIN_LITERAL => Err(Mistake::new(format!(
                "the pattern has no {MIN_LITERAL} literal bytes in a row: it would match half the database"
            ))
            .hint("name what all such keys share, as in `conn:{id}`")),
            (Kind::Keys, Some(key)) => {
                let mistake = Mistake::new("the pattern matches one single key");
                Err(if key.contains(&b'*') {
                    mistake.hint("`*` stands for itself here: write a capture in its place, as in `conn:{id}`")
                } else {
                    mistake.hint(
                        "put a capture where the keys differ, as in `conn:{id}`; one container is a `zset` or a `hash`",
                    )
                })
            }
            (Kind::Keys, None) => Ok(Self::Keys(pattern)),
        }
    }

    /// Which of the three it is.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Zset(_) => Kind::Zset,
            Self::Hash(_) => Kind::Hash,
            Self::Keys(_) => Kind::Keys,
        }
    }

    /// Kind and key for a person: `zset presence:online`, `keys conn:*`.
    pub fn describe(&self) -> String {
        let key = match self {
            Self::Zset(key) | Self::Hash(key) => shown(key),
            Self::Keys(pattern) => shown(&pattern.glob()),
        };
        format!("{} {key}", self.kind().as_str())
    }

    /// Where in an entry's key stands what the configuration does not spell out; all of it, if in doubt.
    pub fn blanks(&self, key: &[u8]) -> Vec<Range<usize>> {
        let blanks = match self {
            Self::Zset(own) | Self::Hash(own) => (**own == *key).then(Vec::new),
            Self::Keys(pattern) => pattern.blanks(key),
        };
        blanks.unwrap_or_else(|| std::iter::once(0..key.len()).collect())
    }

    /// The names that the key pattern captures.
    pub fn captures(&self) -> &[String] {
        match self {
            Self::Zset(_) | Self::Hash(_) => &[],
            Self::Keys(pattern) => pattern.names(),
        }
    }

    /// Whether some filling of `key` is the container's key, or an entry's.
    pub fn can_be(&self, key: &Template) -> bool {
        match self {
            Self::Keys(own) => own.can_match_template(key),
            Self::Zset(own) | Self::Hash(own) => key.can_be(own),
        }
    }

    /// Refuses a companion that can hit the container or another entry: it would remove the living.
    pub fn check_companion(&self, action: &Action, ignore: &[Pattern]) -> Result<(), Mistake> {
        action.key.iter().try_for_each(|key| match self {
            Self::Keys(own) => check_beside_keys(own, key, action, ignore),
            Self::Zset(own) | Self::Hash(own) => check_beside_container(own, key, action, ignore),
        })
    }
}

fn check_beside_keys(own: &Pattern, key: &Template, action: &Action, ignore: &[Pattern]) -> Result<(), Mistake> {
    if !own.can_match_template(key) || ignore.iter().any(|pattern| pattern.covers_template(key)) {
        return Ok(());
    }
    let text = shown(action.text.as_bytes());
    let mistake = Mistake::new(format!(
        "the companion `{text}` can hit keys of the source itself: it could remove a living entry"
    ));
    let shape = key.as_pattern().and_then(|text| Some((Pattern::parse(&text, "").ok()?, text)));
    Err(match shape {
        Some((shape, _)) if shape.covers(own) && own.covers(&shape) => {
            mistake.hint("the entry's own key goes without being named: leave it out")
        }
        Some((shape, _)) if shape.covers(own) => {
            mistake.hint("every entry's key has this shape: only a key that no entry can have is safe")
        }
        Some((shape, _)) if !shape.covers_template(key) => {
            mistake.hint("a value may be empty: only a key that no entry can have is safe")
        }
        Some((_, text)) => mistake.hint(format!("if such keys are no entries, say so: ignore = [\"{text}\"]")),
        None => mistake.hint("if such keys are no entries, name them in `ignore`"),
    })
}

fn check_beside_container(own: &[u8], key: &Template, action: &Action, ignore: &[Pattern]) -> Result<(), Mistake> {
    let text = shown(action.text.as_bytes());
    let (prefix, name, suffix) = match key.parts() {
        [Part::Literal(literal)] if literal == own => {
            return Err(Mistake::new(format!(
                "the companion `{text}` writes to the source's own key: it could remove a living entry"
            ))
            .hint("the entry itself goes without being named: leave it out"));
        }
        [Part::Literal(prefix), Part::Ref(name)] => (prefix.as_slice(), name, [].as_slice()),
        [Part::Literal(prefix), Part::Ref(name), Part::Literal(suffix)] => (prefix.as_slice(), name, suffix.as_slice()),
        _ if key.can_be(own) => return Err(steered(own, &text)),
        _ => return Ok(()),
    };
    let Some(danger) = own.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(suffix)) else { return Ok(()) };
    if !matches!(name, Ref::Id | Ref::Member) {
        return Err(steered(own, &text));
    }
    if ignore.iter().any(|pattern| pattern.matches(danger)) {
        return Ok(());
    }
    let danger = shown(danger);
    Err(Mistake::new(format!("for an entry named `{danger}` the companion `{text}` would hit the source's own key"))
        .hint(format!("if `{danger}` is never a client, say so: ignore = [\"{danger}\"]")))
}

fn steered(own: &[u8], text: &str) -> Mistake {
    let own = shown(own);
    Mistake::new(format!("a value could steer the companion `{text}` to the source's own key `{own}`"))
        .hint("only a key whose literal text differs from the source's is safe")
}

// === impl LastPing ===

impl LastPing {
    /// What holds when the configuration names none.
    pub fn default_of(kind: Kind) -> Self {
        match kind {
            Kind::Zset => Self::Score,
            Kind::Hash | Kind::Keys => Self::Value(vec![None]),
        }
    }

    /// Brings the values of a source together.
    pub fn of(kind: Kind, values: Vec<Value>) -> Result<Self, Mistake> {
        let (mut parts, mut fields, mut scores) = (Vec::new(), Vec::new(), 0);
        for value in values {
            match value {
                Value::Score => scores += 1,
                Value::Whole => parts.push(None),
                Value::Json(pointer) => parts.push(Some(pointer)),
                Value::Field(field) => fields.push(field),
            }
        }
        match (kind, parts.is_empty(), fields.is_empty()) {
            (_, true, true) if scores == 0 => {
                Err(Mistake::new("the list is empty").hint("leave the key out for the default"))
            }
            (Kind::Zset, true, true) => Ok(Self::Score),
            (Kind::Zset, _, _) => {
                Err(Mistake::new("the last ping of a sorted set's member is its `score` in this version"))
            }
            _ if scores > 0 => Err(Mistake::new(format!(
                "only members of a sorted set have a `score`, and this is `{}`",
                kind.as_str()
            ))),
            (Kind::Hash, _, false) => Err(Mistake::new("a field of a hash has no fields of its own")
                .hint("write `value` or `json /pointer`; for one hash per entry write `keys` instead of `hash`")),
            (Kind::Keys, false, false) => {
                Err(Mistake::new("`field` needs keys that hold a hash, `value` and `json` keys that hold a string")
                    .hint("keep to one kind; two sources can read the two kinds of key"))
            }
            (_, false, true) => Ok(Self::Value(parts)),
            (Kind::Keys, true, false) => Ok(Self::Fields(fields)),
            (Kind::Hash | Kind::Keys, true, true) => Err(Mistake::new("the list is empty")),
        }
    }

    /// How entries with such a last ping are stored.
    pub fn layout(&self, kind: Kind) -> Layout {
        match (kind, self) {
            (Kind::Zset, _) => Layout::Zset,
            (Kind::Hash, _) => Layout::Hash,
            (Kind::Keys, Self::Fields(_)) => Layout::Hashes,
            (Kind::Keys, _) => Layout::Strings,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::template::Scope;
    use super::*;

    /// Whether a companion beside this container is allowed.
    #[track_caller]
    fn check(kind: Kind, container: &str, ignore: &[&str], companion: &str, allowed: bool) {
        let container = Container::parse(kind, container).unwrap();
        let layout = LastPing::default_of(kind).layout(kind);
        let scope = Scope { layout: Some(layout), captures: container.captures() };
        let action = Action::parse(companion, &scope, true).unwrap();
        let ignore: Vec<Pattern> = ignore.iter().map(|text| Pattern::parse(text, "the pattern").unwrap()).collect();
        let answer = container.check_companion(&action, &ignore);
        assert_eq!(answer.is_ok(), allowed, "{companion}: {answer:?}");
    }

    #[test]
    fn a_companion_beside_keys_must_not_be_an_entry() {
        check(Kind::Keys, "conn:{id}", &[], "SREM users {id}", true);
        check(Kind::Keys, "conn:{id}", &[], "SREM conn:index {id}", false);
        check(Kind::Keys, "conn:{id}", &["conn:index"], "SREM conn:index {id}", true);
        check(Kind::Keys, "conn:{id}", &["conn:{_}:meta"], "UNLINK conn:{id}:meta", true);
        check(Kind::Keys, "conn:{id}", &["conn:{_}:meta"], "UNLINK conn:{id}:meta conn:{id}:data", false);
        check(Kind::Keys, "conn:{id}", &["conn:{_}:meta"], "UNLINK conn:{value}:meta", false);
        check(Kind::Keys, "conn:{id}", &["conn:{_}:meta", "conn::meta"], "UNLINK conn:{value}:meta", false);
        check(Kind::Keys, "conn:{id}:seen", &[], "UNLINK conn:{id}:data", true);
        check(Kind::Keys, "conn:{id}:seen", &[], "UNLINK conn:{value}", false);
    }

    #[test]
    fn a_companion_beside_a_container_must_not_be_its_key() {
        check(Kind::Zset, "presence:online", &[], "SREM users {id}", true);
        check(Kind::Zset, "presence:online", &[], "ZREM presence:online {id}", false);
        check(Kind::Hash, "clients", &["x"], "HDEL clients x", false);
        check(Kind::Zset, "presence:online", &[], "UNLINK presence:{id}", false);
        check(Kind::Zset, "presence:online", &["online"], "UNLINK presence:{id}", true);
        check(Kind::Zset, "presence:online", &["on{_}"], "UNLINK presence:{member}", true);
        check(Kind::Zset, "presence:online", &["online"], "UNLINK presence:{value}", false);
        check(Kind::Zset, "presence:online", &["onl"], "UNLINK presence:{id}ine", true);
        check(Kind::Zset, "presence:online", &["onl"], "UNLINK presence:{id}ine presence:{json:/x}", false);
        check(Kind::Zset, "presence:online", &["online"], "UNLINK presence:{id}{id}", false);
        check(Kind::Zset, "presence:online", &[], "UNLINK presence:{id}:conn", true);
        check(Kind::Hash, "clients", &[], "SREM cli{json:/x} y", false);
    }

    #[test]
    fn the_key_itself_is_read_as_bytes_with_its_braces() {
        let Container::Zset(key) = Container::parse(Kind::Zset, r#""{{a}} \xff""#).unwrap() else { panic!("a zset") };
        assert_eq!(*key, *b"{a} \xff");
    }
}
