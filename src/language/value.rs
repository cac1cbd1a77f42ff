//! Where a value stands: in the entry itself (`score`, `json /pointer`), or elsewhere (`hget conn:{id} seen`).

use super::action::OWN_PREFIX;
use super::template::{Pointer, Ref, Scope, Template};
use super::{Mistake, nearest, shown, words};

/// The words a value can begin with, and what it takes.
const VALUES: [(&str, &str); 10] = [
    ("score", "score"),
    ("value", "value"),
    ("json", "json /pointer"),
    ("field", "field NAME"),
    ("idle", "idle"),
    ("unchanged", "unchanged"),
    ("get", "get KEY [json /pointer]"),
    ("hget", "hget KEY FIELD [json /pointer]"),
    ("zscore", "zscore KEY MEMBER"),
    ("exists", "exists KEY"),
];

/// One value of an entry, or one that is looked up for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// The entry's own: `score`, `value`, `json /pointer`, `field NAME`.
    Own(Ref),
    /// How long nobody has read or written the key, by `OBJECT IDLETIME`: a time, and nothing else.
    Idle,
    /// When we first saw the entry's value as it is: a time, and nothing else.
    Unchanged,
    /// What stands elsewhere.
    Lookup(Lookup),
}

/// A value that stands elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// Where.
    pub place: Place,
    /// The part of it, read as JSON.
    pub part: Option<Pointer>,
}

/// Where a value is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `get KEY`
    Text(Template),
    /// `hget KEY FIELD`
    Field {
        /// The hash.
        key: Template,
        /// Its field.
        field: Template,
    },
    /// `zscore KEY MEMBER`
    Score {
        /// The sorted set.
        key: Template,
        /// Its member.
        member: Template,
    },
    /// `exists KEY`: a sign of life while the key is there, and no time.
    Key(Template),
}

impl Value {
    /// Reads `text`; the first word ignores case, and so does `json`.
    ///
    /// # Errors
    /// It is no value, or one that an entry of this kind does not have.
    pub fn parse(text: &str, scope: &Scope<'_>) -> Result<Self, Mistake> {
        Self::of(&words::split(text)?, text, scope)
    }

    /// Reads the words of `text` that name a value.
    pub(super) fn of(words: &[Vec<u8>], text: &str, scope: &Scope<'_>) -> Result<Self, Mistake> {
        let Some((first, rest)) = words.split_first() else {
            return Err(Mistake::new("the value is empty").hint(known()));
        };
        let verb = shown(first).to_ascii_lowercase();
        let template = |word: &[u8]| Template::parse(word, scope);
        let lookup = |place: Place, part| {
            check_key(place.key(), text)?;
            Ok(Self::Lookup(Lookup { place, part }))
        };
        let is_json = |word: &[u8]| word.eq_ignore_ascii_case(b"json");
        match (verb.as_str(), rest) {
            ("score", []) => scope.own(Ref::Score, &verb).map(Self::Own),
            ("value", []) => scope.own(Ref::Value, &verb).map(Self::Own),
            ("json", [pointer]) => scope.own(Ref::Json(Pointer::parse(pointer)?), &verb).map(Self::Own),
            ("field", [field]) => scope.own(Ref::Field(Template::field_name(field, scope)?), &verb).map(Self::Own),
            ("idle", []) => Ok(Self::Idle),
            ("unchanged", []) => Ok(Self::Unchanged),
            ("get", [key]) => lookup(Place::Text(template(key)?), None),
            ("get", [key, json, part]) if is_json(json) => {
                lookup(Place::Text(template(key)?), Some(Pointer::parse(part)?))
            }
            ("hget", [key, field]) => lookup(Place::Field { key: template(key)?, field: template(field)? }, None),
            ("hget", [key, field, json, part]) if is_json(json) => {
                let place = Place::Field { key: template(key)?, field: template(field)? };
                lookup(place, Some(Pointer::parse(part)?))
            }
            ("zscore", [key, member]) => lookup(Place::Score { key: template(key)?, member: template(member)? }, None),
            ("exists", [key]) => lookup(Place::Key(template(key)?), None),
            _ => Err(match VALUES.into_iter().find(|(known, _)| *known == verb) {
                Some((_, usage)) => Mistake::new(format!("wrong number of words in `{}`", shown(text.as_bytes())))
                    .hint(format!("write `{usage}`")),
                None => unknown(first),
            }),
        }
    }

    /// The values of the entry that it names.
    pub fn refs(&self) -> impl Iterator<Item = &Ref> {
        let (own, templates): (Option<&Ref>, [Option<&Template>; 2]) = match self {
            Self::Own(own) => (Some(own), [None, None]),
            Self::Idle | Self::Unchanged => (None, [None, None]),
            Self::Lookup(Lookup { place, .. }) => (None, place.templates()),
        };
        own.into_iter().chain(templates.into_iter().flatten().flat_map(Template::refs))
    }

    /// The key in which it is looked up, if it is.
    pub fn key(&self) -> Option<&Template> {
        match self {
            Self::Lookup(lookup) => Some(lookup.place.key()),
            Self::Own(_) | Self::Idle | Self::Unchanged => None,
        }
    }
}

impl Place {
    /// The key.
    pub fn key(&self) -> &Template {
        match self {
            Self::Text(key) | Self::Field { key, .. } | Self::Score { key, .. } | Self::Key(key) => key,
        }
    }

    fn templates(&self) -> [Option<&Template>; 2] {
        match self {
            Self::Text(key) | Self::Key(key) => [Some(key), None],
            Self::Field { key, field: part } | Self::Score { key, member: part } => [Some(key), Some(part)],
        }
    }
}

/// Refuses a key that is empty, or leads to what is our own.
pub(super) fn check_key(key: &Template, text: &str) -> Result<(), Mistake> {
    let text = shown(text.as_bytes());
    if key.literal_prefix().starts_with(OWN_PREFIX) {
        let what = format!("the key of `{text}` stands under `presence-reaper:`, which is the reaper's own");
        return Err(Mistake::new(what).hint("what is asked about is what a hub or a worker wrote"));
    }
    if key.literal_prefix().is_empty() && key.refs().next().is_none() {
        return Err(Mistake::new(format!("the key of `{text}` is empty")).hint("name the key, as in `get seen:{id}`"));
    }
    Ok(())
}

fn known() -> String {
    format!("there are {}", VALUES.map(|(_, usage)| format!("`{usage}`")).join(", "))
}

fn unknown(word: &[u8]) -> Mistake {
    let word = shown(word);
    let mistake = Mistake::new(format!("unknown value `{word}`"));
    if word.starts_with('/') {
        return mistake.hint(format!("did you mean `json {word}`?"));
    }
    match nearest(&word, VALUES.map(|(known, _)| known)) {
        Some(near) => mistake.hint(format!("did you mean `{near}`? {}", known())),
        None => mistake.hint(known()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::template::Layout;
    use super::*;

    fn scope(layout: Layout) -> Scope<'static> {
        Scope { layout: Some(layout), ..Scope::default() }
    }

    fn template(text: &str) -> Template {
        Template::parse(text.as_bytes(), &scope(Layout::Set)).unwrap()
    }

    #[track_caller]
    fn check(layout: Layout, text: &str, expected: Value) {
        assert_eq!(Value::parse(text, &scope(layout)), Ok(expected), "{text}");
    }

    #[track_caller]
    fn refused(layout: Layout, text: &str, what: &str) {
        assert_eq!(Value::parse(text, &scope(layout)).unwrap_err().what, what, "{text}");
    }

    #[test]
    fn the_entrys_own_values_are_read() {
        let json = |pointer: &str| Value::Own(Ref::Json(Pointer::parse(pointer.as_bytes()).unwrap()));
        let field = |name: &str| Value::Own(Ref::Field(Template::literal(name.as_bytes())));
        check(Layout::Zset, "score", Value::Own(Ref::Score));
        check(Layout::Hash, "  Value ", Value::Own(Ref::Value));
        check(Layout::Hash, "json /a/b", json("/a/b"));
        check(Layout::Strings, r#"json "/a b""#, json("/a b"));
        check(Layout::Strings, "json /a{b", json("/a{b"));
        check(Layout::Hashes, "field last_ping", field("last_ping"));
        check(Layout::Hashes, "field {{a}}", field("{a}"));
        check(Layout::Hashes, r#"field """#, field(""));
        let named = Template::parse(b"seen:{id}", &scope(Layout::Hashes)).unwrap();
        check(Layout::Hashes, "field seen:{id}", Value::Own(Ref::Field(named)));
        check(Layout::Keys, "idle", Value::Idle);
        check(Layout::Strings, "UNCHANGED", Value::Unchanged);
    }

    #[test]
    fn lookups_are_read() {
        let pointer = |text: &str| Some(Pointer::parse(text.as_bytes()).unwrap());
        let lookup = |place, part| Value::Lookup(Lookup { place, part });
        let field = || Place::Field { key: template("beats:{id}"), field: template("json") };
        check(Layout::Set, "get seen:{id}", lookup(Place::Text(template("seen:{id}")), None));
        check(Layout::Set, "GET seen:{id} JSON /a", lookup(Place::Text(template("seen:{id}")), pointer("/a")));
        check(Layout::Set, "hget beats:{id} json", lookup(field(), None));
        check(Layout::Set, "hget beats:{id} json json /a", lookup(field(), pointer("/a")));
        let score = Place::Score { key: template("beats"), member: template("{id} x") };
        check(Layout::Set, r#"zscore beats "{id} x""#, lookup(score, None));
        check(Layout::Set, "exists {member}", lookup(Place::Key(template("{member}")), None));
    }

    #[test]
    fn what_is_no_value_is_refused() {
        refused(Layout::Zset, "", "the value is empty");
        refused(Layout::Zset, "score 1", "wrong number of words in `score 1`");
        refused(Layout::Hash, "json", "wrong number of words in `json`");
        refused(Layout::Hash, "json /a /b", "wrong number of words in `json /a /b`");
        refused(Layout::Hash, "json a.b", "`a.b` is no JSON pointer: it does not begin with `/`");
        let what = "`{field:a}` names more than the key, from which alone a field of it is told";
        refused(Layout::Hashes, "field {field:a}", what);
        refused(Layout::Hashes, "field {user}", "unknown name `{user}`");
        refused(Layout::Hash, "field a", "a field of a hash has no fields of its own");
        refused(Layout::Hash, "score", "`score` means nothing for the fields of a hash");
        refused(Layout::Set, "score", "`score` means nothing for the members of a set");
        refused(
            Layout::Keys,
            "value",
            "`value` would be read, and beside `idle` nothing of the entry may: a read counts as a use",
        );
        refused(Layout::Set, "hget k", "wrong number of words in `hget k`");
        refused(Layout::Set, "hget k f /a", "wrong number of words in `hget k f /a`");
        refused(Layout::Set, "get {user}", "unknown name `{user}`");
        refused(Layout::Set, "hgett k f", "unknown value `hgett`");
        let hint = |text| Value::parse(text, &scope(Layout::Hash)).unwrap_err().hint;
        assert_eq!(hint("/LastPing").as_deref(), Some("did you mean `json /LastPing`?"));
    }
}
