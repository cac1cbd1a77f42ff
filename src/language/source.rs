//! A source: where entries live, when one last pinged, what goes with it.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::action::{Action, MIN_LITERAL, OWN_PREFIX, Verb};
use super::companion::Companion;
use super::condition::{Condition, Test};
use super::notify::{Notification, Target};
use super::on_evict::OnEvict;
use super::pattern::Pattern;
use super::patterns::Patterns;
use super::template::{Layout, Part, Ref, Template};
use super::value::Value;
use super::{Mistake, shown};
use crate::policy::entry::Timestamp;
use crate::policy::ping;
use crate::policy::zone::Zone;

/// One configured place where entries live, checked.
#[derive(Clone, Debug)]
pub struct Source {
    /// What it is called in metrics and logs: `[a-z0-9_-]{1,40}`, unique.
    pub name: Arc<str>,
    /// Where the entries are.
    pub container: Container,
    /// How they are stored.
    pub layout: Layout,
    /// Splits a member or field; one that does not match is *foreign*.
    pub id: Option<Pattern>,
    /// Named values, each of which may use those before it.
    pub lets: Vec<Let>,
    /// Where an entry's last ping stands; never empty. The newest of those present counts; one that is present and
    /// unreadable spoils the entry (E1).
    pub last_ping: Vec<Value>,
    /// What the absence of everything that `last_ping` looks up comes to.
    pub missing: Missing,
    /// Conditions that all hold of an entry of this source.
    pub filters: Vec<Condition>,
    /// How the last ping is written.
    pub format: ping::Format,
    /// Where the last ping was written, if it does not say.
    pub time_zone: Zone,
    /// The hub stores last ping + this; zero when it stores the last ping itself.
    pub deadline: Duration,
    /// Keys, members or fields that are no entries.
    pub ignore: Vec<Pattern>,
    /// The label of an entry's writer (E6).
    pub group: Option<Template>,
    /// Conditions of which any protects a stale entry.
    pub unless: Vec<Condition>,
    /// What goes with an entry, in the order of the configuration.
    pub companions: Vec<Companion>,
    /// Of more elements than this a `for-each` leaves the entry whole.
    pub max_fanout: u32,
    /// What becomes of the entry itself.
    pub on_evict: OnEvict,
    /// Whom to tell of an eviction, in the order of the configuration.
    pub notify: Vec<Notification>,
}

/// Where the entries of a source are.
#[derive(Clone, Debug)]
pub enum Container {
    /// The members of the sorted sets at these keys.
    Zset(Patterns),
    /// The fields of the hashes at these keys.
    Hash(Patterns),
    /// The members of the sets at these keys.
    Set(Patterns),
    /// The keys that match.
    Keys(Patterns),
}

/// A value with a name: `let.user = "hget conn:{id} user"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Let {
    /// What templates call it.
    pub name: String,
    /// Where it stands: the first that is there.
    pub values: Vec<Value>,
}

/// What it comes to that the key which a `last_ping` looks up is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Missing {
    /// Nothing: the entry is counted, and stays.
    #[default]
    Skip,
    /// It is stale once we have seen that for a whole threshold.
    Stale,
}

/// Which of the four containers, before its key or pattern is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `zset = "key"`
    Zset,
    /// `hash = "key"`
    Hash,
    /// `set = "key"`
    Set,
    /// `keys = "pattern"`
    Keys,
}

impl Kind {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Zset, Self::Hash, Self::Set, Self::Keys];

    /// The name in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Zset => "zset",
            Self::Hash => "hash",
            Self::Set => "set",
            Self::Keys => "keys",
        }
    }

    /// What a person calls such containers; none where entries are keys.
    pub const fn containers(self) -> Option<&'static str> {
        match self {
            Self::Zset => Some("sorted sets"),
            Self::Hash => Some("hashes"),
            Self::Set => Some("sets"),
            Self::Keys => None,
        }
    }

    /// Whether a command can write to such a container at all: on a key of another type the script leaves everything
    /// whole. An `HSET` would make a hash where there is no container yet.
    const fn is_hit_by(self, verb: Verb) -> bool {
        !matches!(
            (self, verb),
            (Self::Zset, Verb::Srem | Verb::Hdel | Verb::Lrem | Verb::DecrRef)
                | (Self::Hash, Verb::Srem | Verb::Zrem | Verb::Lrem)
                | (Self::Set, Verb::Zrem | Verb::Hdel | Verb::Lrem | Verb::DecrRef)
        )
    }
}

// === impl Source ===

impl Source {
    /// Whether sorted sets are asked by their index alone. What only each member by itself tells the index can't count,
    /// and they are read whole.
    pub fn answers_by_index(&self) -> bool {
        self.layout == Layout::Zset
            && self.last_ping == [Value::Own(Ref::Score)]
            && self.ignore.is_empty()
            && self.id.is_none()
            && self.filters.is_empty()
            && self.group.is_none()
            && !self.seeks_keys()
            && !self.unless.iter().flat_map(Condition::refs).any(|name| matches!(name, Ref::Let(_)))
    }

    /// Whether a notification waits in an outbox until it is delivered.
    pub fn has_outbox(&self) -> bool {
        self.notify.iter().any(|notification| matches!(notification.target, Target::Webhook { outbox: true, .. }))
    }

    /// Whether a walk over the keys tells what protects an entry.
    pub fn seeks_keys(&self) -> bool {
        self.unless.iter().any(|condition| matches!(condition.test, Test::AnyKey(_)))
    }

    /// Whether what is read of an entry is all that it takes to judge it, whichever it is: of most sources, for most
    /// entries nothing else is done.
    pub fn judges_alone(&self) -> bool {
        let own = |value: &Value| match value {
            // Nobody knows yet which key it is that such a field is named after.
            Value::Own(Ref::Field(name)) => name.as_literal().is_some(),
            Value::Own(name) => !matches!(self.layout, Layout::Zset | Layout::Set) || *name == Ref::Score,
            Value::Idle | Value::Unchanged | Value::Lookup(_) => false,
        };
        self.last_ping.iter().all(own)
            && self.id.is_none()
            && self.group.is_none()
            && self.unless.is_empty()
            && self.on_evict == OnEvict::Remove
            && !self.asks_first()
    }

    /// Whether something may have to be asked of Redis before an entry can be judged.
    pub fn asks_first(&self) -> bool {
        let elsewhere = |value: &Value| matches!(value, Value::Lookup(_));
        self.last_ping.iter().any(elsewhere) || !self.filters.is_empty() || !self.lets.is_empty()
    }

    /// Whether a member or field has the shape of an entry's; one that does not is foreign.
    pub fn admits(&self, member: &[u8]) -> bool {
        self.id.as_ref().is_none_or(|id| id.matches(member))
    }

    /// Whether an absence may make an entry stale: then it has to be looked at every heartbeat.
    pub fn judges_by_absence(&self) -> bool {
        self.missing == Missing::Stale
    }

    /// Whether its times are ours, of when we saw a value first, and no hub's.
    pub fn is_dated_by_us(&self) -> bool {
        self.last_ping.contains(&Value::Unchanged)
    }

    /// What tells one entry of the source from another. A key that names none of it is shared by all that name it.
    pub fn is_of_one_entry(&self, name: &Ref) -> bool {
        match name {
            Ref::Key => self.layout.is_of_keys(),
            Ref::Capture(at) => self.layout.is_of_keys() || *at >= self.container.captures().len(),
            Ref::Member
            | Ref::Id
            | Ref::Value
            | Ref::Score
            | Ref::Json(_)
            | Ref::Field(_)
            | Ref::Let(_)
            | Ref::Each(_) => true,
        }
    }

    /// What its times are read against at `now`.
    pub fn reader(&self, now: Timestamp) -> ping::Reader<'_> {
        ping::Reader { format: self.format, zone: &self.time_zone, deadline: self.deadline, now }
    }

    /// Whether a key, member or field is one that the configuration says is no entry.
    pub fn ignores(&self, name: &[u8]) -> bool {
        self.ignore.iter().any(|pattern| pattern.matches(name))
    }

    /// Whether this write to this key would hit a container, or an entry's own key: no companion may.
    pub fn is_hit_by(&self, verb: Verb, key: &[u8]) -> bool {
        let kind = self.container.kind();
        kind.is_hit_by(verb) && self.container.matches(key) && !(kind == Kind::Keys && self.ignores(key))
    }
}

// === impl Container ===

impl Container {
    /// Reads the key or pattern of sorted sets, hashes or sets, or the pattern of the keys.
    ///
    /// # Errors
    /// It is no pattern, or one that reaches too far or nowhere.
    pub fn pattern(kind: Kind, text: &str) -> Result<Pattern, Mistake> {
        let pattern = Pattern::parse(text, if kind == Kind::Keys { "the pattern" } else { "the key" })?;
        if pattern.literal_prefix().starts_with(OWN_PREFIX) {
            return Err(Mistake::new("keys under `presence-reaper:` are the reaper's own, and hold no entries")
                .hint("name the key that the hub writes"));
        }
        match (kind, pattern.literal()) {
            (Kind::Zset | Kind::Hash | Kind::Set, Some(_)) => Ok(pattern),
            _ if pattern.longest_literal() < MIN_LITERAL => Err(Mistake::new(format!(
                "the pattern has no {MIN_LITERAL} literal bytes in a row: it would match half the database"
            ))
            .hint("name what all such keys share, as in `conn:{id}`")),
            (Kind::Zset | Kind::Hash | Kind::Set, None) if pattern.names().iter().any(|name| name == "id") => {
                let (one, instead) = match kind {
                    Kind::Zset => ("a sorted set", "name it after what such a key is of, as in `room:{room}:seen`"),
                    Kind::Set => ("a set", "name it after what such a key is of, as in `room:{room}:members`"),
                    _ => (
                        "a hash",
                        "where each client has a hash of its own write `keys` instead of `hash`; else name it after what \
                         such a key is of, as in `clients:{shard}`",
                    ),
                };
                Err(Mistake::new(format!("`{{id}}` names an entry, and the key of {one} is shared by many"))
                    .hint(instead))
            }
            (Kind::Keys, Some(key)) => {
                let mistake = Mistake::new("the pattern matches one single key");
                Err(if key.contains(&b'*') {
                    mistake.hint("`*` stands for itself here: write a capture in its place, as in `conn:{id}`")
                } else {
                    mistake.hint(
                        "put a capture where the keys differ, as in `conn:{id}`; one container is a `zset`, a `hash` or a `set`",
                    )
                })
            }
            (_, None) => Ok(pattern),
        }
    }

    /// All the keys of a source.
    ///
    /// # Errors
    /// There are none, or they differ in their captures.
    pub fn new(kind: Kind, patterns: Vec<Pattern>) -> Result<Self, Mistake> {
        let patterns = Patterns::new(patterns)?;
        Ok(match kind {
            Kind::Zset => Self::Zset(patterns),
            Kind::Hash => Self::Hash(patterns),
            Kind::Set => Self::Set(patterns),
            Kind::Keys => Self::Keys(patterns),
        })
    }

    /// Which of the four it is.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Zset(_) => Kind::Zset,
            Self::Hash(_) => Kind::Hash,
            Self::Set(_) => Kind::Set,
            Self::Keys(_) => Kind::Keys,
        }
    }

    /// The keys and patterns.
    pub const fn patterns(&self) -> &Patterns {
        match self {
            Self::Zset(patterns) | Self::Hash(patterns) | Self::Set(patterns) | Self::Keys(patterns) => patterns,
        }
    }

    /// The keys that its entries are, or are in, as globs of Redis.
    pub fn globs(&self) -> impl Iterator<Item = Vec<u8>> {
        self.patterns().iter().map(Pattern::glob)
    }

    /// Kind and keys for a person: `zset presence:online`, `keys conn:*`.
    pub fn describe(&self) -> String {
        format!("{} {}", self.kind().as_str(), self.shapes())
    }

    /// Where in an entry's key stands what the configuration does not spell out; all of it, if in doubt.
    pub fn blanks(&self, key: &[u8]) -> Vec<Range<usize>> {
        let blanks = self.patterns().find(key).and_then(|own| own.blanks(key));
        blanks.unwrap_or_else(|| std::iter::once(0..key.len()).collect())
    }

    /// The keys alone.
    pub fn shapes(&self) -> String {
        self.patterns().iter().map(described).collect::<Vec<_>>().join(", ")
    }

    /// The names that the key patterns capture.
    pub fn captures(&self) -> &[String] {
        self.patterns().names()
    }

    /// Whether this is the key of a container, or has the shape of an entry's.
    pub fn matches(&self, key: &[u8]) -> bool {
        self.patterns().find(key).is_some()
    }

    /// Whether the configuration names this very key, instead of a pattern that it matches.
    pub fn names_exactly(&self, key: &[u8]) -> bool {
        self.patterns().exact().any(|exact| *exact == *key)
    }

    /// A key that both may have, if there can be one: the shapes of the two.
    pub fn meets(&self, other: &Self) -> Option<[String; 2]> {
        let pairs = self.patterns().iter().flat_map(|one| other.patterns().iter().map(move |other| [one, other]));
        let mut meeting = pairs.filter(|[one, other]| one.can_match(other));
        meeting.next().map(|pair| pair.map(described))
    }

    /// Whether some filling of `key` is an exact key of the source, or has the shape of an entry's. A container that a
    /// pattern finds is of its own type, and what needs another leaves it alone.
    pub fn can_be(&self, key: &Template) -> bool {
        let by_shape = self.kind() == Kind::Keys;
        self.patterns().iter().filter(|own| by_shape || own.literal().is_some()).any(|own| own.can_match_template(key))
    }

    /// Whether some filling of the companion can hit a container, or an entry's own key.
    pub fn can_be_hit_by(&self, action: &Action, ignore: &[Pattern]) -> bool {
        let kind = self.kind();
        let spared = |key: &Template| kind == Kind::Keys && ignore.iter().any(|pattern| pattern.covers_template(key));
        let reached = |key: &Template| self.patterns().iter().any(|own| own.can_match_template(key));
        kind.is_hit_by(action.verb) && action.key.iter().any(|key| reached(key) && !spared(key))
    }

    /// Refuses a companion that can hit a container or another entry: it would remove the living.
    ///
    /// # Errors
    /// It can.
    pub fn check_companion(&self, action: &Action, ignore: &[Pattern]) -> Result<(), Mistake> {
        let pairs = action.key.iter().flat_map(|key| self.patterns().iter().map(move |own| (key, own)));
        pairs.into_iter().try_for_each(|(key, own)| match (self.kind(), own.literal()) {
            (Kind::Keys, _) => check_beside_keys(own, key, action, ignore),
            (_, Some(own)) => check_beside_container(&own, key, action, ignore),
            (kind, None) => check_beside_containers(kind, own, key, action),
        })
    }
}

/// A key as it is, a pattern as the server takes it.
fn described(pattern: &Pattern) -> String {
    pattern.literal().map_or_else(|| shown(&pattern.glob()), |key| shown(&key))
}

/// An id or a value may spell out a part of the pattern and so lead a companion astray, which shows only when it is filled
/// in: such an entry is left whole. Refused is what leads there by its own text. `ignore` is about members, and vouches
/// for no key.
fn check_beside_containers(kind: Kind, own: &Pattern, key: &Template, action: &Action) -> Result<(), Mistake> {
    if !kind.is_hit_by(action.verb) || !own.catches_template(key) {
        return Ok(());
    }
    let (text, containers) = (shown(action.text.as_bytes()), kind.containers().unwrap_or_default());
    let mistake = Mistake::new(format!(
        "the companion `{text}` hits {containers} of the source itself: it could remove living entries"
    ));
    let shape = key.as_pattern().and_then(|text| Pattern::parse(&text, "").ok());
    Err(if shape.is_some_and(|shape| shape.covers(own) && own.covers(&shape)) {
        mistake.hint("the entry itself goes without being named: leave it out")
    } else {
        let own = described(own);
        mistake.hint(format!("only a key that does not look like `{own}` is safe: it begins or ends with other text"))
    })
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

// === impl Kind ===

impl Kind {
    /// Where a last ping stands when the configuration does not say; nowhere in a set.
    pub fn usual_last_ping(self) -> Option<Vec<Value>> {
        match self {
            Self::Zset => Some(vec![Value::Own(Ref::Score)]),
            Self::Hash | Self::Keys => Some(vec![Value::Own(Ref::Value)]),
            Self::Set => None,
        }
    }

    /// How entries are stored: of keys what is read of them tells, and `None` where they may hold anything.
    pub fn layout(self, own: Option<Layout>) -> Layout {
        match self {
            Self::Zset => Layout::Zset,
            Self::Hash => Layout::Hash,
            Self::Set => Layout::Set,
            Self::Keys => own.unwrap_or(Layout::Keys),
        }
    }
}

#[cfg(test)]
impl Source {
    /// A source with nothing but a container.
    pub(crate) fn plain(container: Container) -> Self {
        let kind = container.kind();
        Self {
            name: "hub".into(),
            container,
            layout: kind.layout(Some(Layout::Strings)),
            id: None,
            lets: Vec::new(),
            last_ping: kind.usual_last_ping().unwrap_or_default(),
            missing: Missing::Skip,
            filters: Vec::new(),
            format: ping::Format::Auto,
            time_zone: Zone::default(),
            deadline: Duration::ZERO,
            ignore: Vec::new(),
            group: None,
            unless: Vec::new(),
            companions: Vec::new(),
            max_fanout: 1_000,
            on_evict: OnEvict::Remove,
            notify: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::template::Scope;
    use super::*;

    fn container(kind: Kind, texts: &[&str]) -> Container {
        Container::new(kind, texts.iter().map(|text| Container::pattern(kind, text).unwrap()).collect()).unwrap()
    }

    /// Whether a companion beside this container is allowed.
    #[track_caller]
    fn check(kind: Kind, text: &str, ignore: &[&str], companion: &str, allowed: bool) {
        let container = container(kind, &[text]);
        let layout = kind.layout(Some(Layout::Strings));
        let scope = Scope { layout: Some(layout), captures: container.captures(), ..Scope::default() };
        let action = Companion::parse(companion, &scope, true).unwrap().action;
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
    fn a_companion_beside_containers_by_pattern_must_be_none_of_them() {
        let rooms = "room:{room}:seen";
        check(Kind::Zset, rooms, &[], "UNLINK room:{room}:conn:{id}", true);
        check(Kind::Zset, rooms, &[], "ZREM room:{room}:joined {id}", true);
        check(Kind::Zset, rooms, &[], "ZREM lobby:seen {id}", true);
        check(Kind::Zset, rooms, &[], "ZREM room:{room}:seen {id}", false);
        check(Kind::Zset, rooms, &[], "ZREM room:all:seen {id}", false);
        check(Kind::Zset, rooms, &["all"], "ZREM room:all:seen {id}", false);
        check(Kind::Zset, rooms, &[], "UNLINK room:{id}", true);
        check(Kind::Zset, "room:{room}", &[], "UNLINK room:{id}", false);
        check(Kind::Zset, rooms, &[], "UNLINK room:{room}:joined room:{id}:seen", false);
        check(Kind::Hash, "clients:{shard}", &[], "HDEL clients:index {id}", false);
        check(Kind::Hash, "clients:{shard}", &[], "HDEL client:index {id}", true);
    }

    #[test]
    fn a_companion_that_cannot_write_to_such_a_container_may_have_its_shape() {
        check(Kind::Zset, "room:{room}", &[], "SREM room:{room}:conns {id}", true);
        check(Kind::Zset, "room:{room}", &[], "HDEL room:{room}:names {id}", true);
        check(Kind::Zset, "room:{room}", &[], "ZREM room:{room}:conns {id}", false);
        check(Kind::Zset, "room:{room}", &[], "UNLINK room:{room}:conn:{id}", false);
        check(Kind::Hash, "room:{room}", &[], "ZREM room:{room}:conns {id}", true);
        check(Kind::Hash, "room:{room}", &[], "HDEL room:{room}:names {id}", false);
        check(Kind::Keys, "room:{id}", &[], "SREM room:{id}:conns {id}", false);
    }

    #[test]
    fn every_key_of_a_list_is_kept_clear_of_companions() {
        let container = container(Kind::Zset, &["lobby:seen", "room:{_}:seen"]);
        let scope = Scope { layout: Some(Layout::Zset), captures: container.captures(), ..Scope::default() };
        for (companion, allowed) in
            [("ZREM lobby:seen {id}", false), ("ZREM room:1:seen {id}", false), ("ZREM lobby:joined {id}", true)]
        {
            let action = Companion::parse(companion, &scope, true).unwrap().action;
            assert_eq!(container.check_companion(&action, &[]).is_ok(), allowed, "{companion}");
        }
        assert_eq!(container.describe(), "zset lobby:seen, room:*:seen");
    }

    #[test]
    fn two_sources_meet_where_a_key_can_belong_to_both() {
        let rooms = container(Kind::Zset, &["room:{room...}:seen"]);
        let meets = |text: &str| rooms.meets(&container(Kind::Zset, &[text]));
        assert_eq!(meets("room:1:seen"), Some(["room:*:seen", "room:1:seen"].map(str::to_owned)));
        assert_eq!(meets("{_}:1:seen"), Some(["room:*:seen", "*:1:seen"].map(str::to_owned)));
        assert_eq!(meets("room::seen"), None, "a capture is never empty");
        assert_eq!(meets("room:{room}:conns"), None);
    }

    #[test]
    fn the_key_itself_is_read_as_bytes_with_its_braces() {
        let key = container(Kind::Zset, &[r#""{{a}} \xff""#]);
        assert!(key.names_exactly(b"{a} \xff") && key.matches(b"{a} \xff") && !key.matches(b"{a} \xff!"));
    }
}
