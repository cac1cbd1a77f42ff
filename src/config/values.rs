//! What a `[[source]]` table says of its entries' values: where the last ping stands, what has a name, what belongs.

use super::reader::{At, Notes, Table, one_of, text};
use super::source::warn_of_wide_keys;
use super::tree::Node;
use crate::language::condition::{Condition, Test};
use crate::language::pattern::Pattern;
use crate::language::source::{Container, Kind, Let, Missing};
use crate::language::template::{Layout, Ref, Scope, Template};
use crate::language::value::{Place, Value};
use crate::language::{Mistake, words};

/// A newest of more times than this is a mistake.
const MAX_TIMES: usize = 8;

/// Each may be asked of every entry, in every survey.
const MAX_LETS: usize = 32;

/// Each is asked of every entry, in every survey.
pub(super) const MAX_CONDITIONS: usize = 16;

/// What templates may name beside a source's own captures and `let`s.
const RESERVED: [&str; 13] = [
    "key",
    "member",
    "id",
    "value",
    "score",
    "source",
    "group",
    "last_ping",
    "age_ms",
    "at",
    "reason",
    "remaining",
    "prefix",
];

/// Puts the `prefix` of the table in wherever one of its texts names it.
pub(super) fn put_prefix_in(table: &mut Table, notes: &mut Notes) {
    let read = table.get(notes, "prefix", |value| {
        let prefix = text(value)?;
        let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\'' | '\\');
        if prefix.contains(odd) {
            return Err(Mistake::new("a prefix holds neither blanks nor quotes nor backslashes")
                .hint("write such keys out, in quotes, where they stand"));
        }
        Ok(prefix.replace('{', "{{").replace('}', "}}"))
    });
    let mut used = false;
    let prefix = read.as_ref().map_or("", |read| read.value.as_str());
    table.each_text(&mut |text| used |= replace_prefix(text, prefix));
    if let Some(prefix) = read.filter(|read| !used && !read.value.is_empty()) {
        let mistake = Mistake::new("no text of this source names `{prefix}`");
        notes.warning(&prefix.place, "prefix", table, mistake.hint("write zset = \"{prefix}online\", for example"));
    }
}

/// Replaces `{prefix}`, but not within doubled braces; says whether it stood there.
fn replace_prefix(text: &mut String, prefix: &str) -> bool {
    let mut replaced = String::with_capacity(text.len());
    let (mut rest, mut found) = (text.as_str(), false);
    while let Some(first) = rest.chars().next() {
        let taken = if rest.starts_with("{{") || rest.starts_with("}}") {
            replaced.push_str(&rest[..2]);
            2
        } else if rest.starts_with("{prefix}") {
            found = true;
            replaced.push_str(prefix);
            "{prefix}".len()
        } else {
            replaced.push(first);
            first.len_utf8()
        };
        rest = &rest[taken..];
    }
    *text = replaced;
    found
}

/// What the keys of a source hold: `last_ping` tells, and is a value unless it says otherwise. Where it only looks
/// elsewhere, what templates and conditions name of the entry's own tells; `None` where nothing of it is read, and then
/// the keys may hold anything.
pub(super) fn own_layout(table: &mut Table) -> Option<Layout> {
    let (mut own, mut idle, mut said) = (None, false, false);
    table.each_text_of(&["last_ping"], &mut |text| {
        said = true;
        let words = words::split(text).unwrap_or_default();
        let first = words.first().map(|word| word.to_ascii_lowercase());
        idle |= first.as_deref() == Some(b"idle");
        own = own.or(first.as_deref().and_then(layout_of));
    });
    if !said || own.is_some() || idle {
        return if idle { None } else { own.or(Some(Layout::Strings)) };
    }
    table.each_text_of(&["where", "unless", "companions", "let", "group", "notify", "last_ping"], &mut |text| {
        let words = words::split(text).unwrap_or_default();
        // A condition begins with what it compares, one of a companion stands behind its `if`, a list behind its `in`.
        let names = words.iter().enumerate().filter(|(at, _)| {
            let before = at.checked_sub(1).and_then(|at| words.get(at)).map(|word| word.to_ascii_lowercase());
            matches!(before.as_deref(), Some(b"not" | b"if" | b"in"))
        });
        let told = names.filter_map(|(_, word)| layout_of(&word.to_ascii_lowercase())).next();
        let braced = [("{field:", Layout::Hashes), ("{json:", Layout::Strings), ("{value}", Layout::Strings)];
        let braced = braced.into_iter().chain([("{value|", Layout::Strings)]);
        let named = braced.into_iter().find(|(name, _)| text.contains(name)).map(|(_, layout)| layout);
        own = own.or(named).or(told);
    });
    let first = |text: &str| Some(words::split(text).ok()?.first()?.to_ascii_lowercase());
    let mut begins = |text: &mut String| own = own.or(first(text).and_then(|word| layout_of(&word)));
    table.each_text_of(&["where", "unless", "let"], &mut begins);
    table.each_text_named("notify", "when", &mut begins);
    // Only a string expires, and only a hash has a field to set.
    table.each_text_of(&["on_evict"], &mut |text| {
        own = own.or(match first(text).as_deref() {
            Some(b"expire") => Some(Layout::Strings),
            Some(b"set") => Some(Layout::Hashes),
            _ => None,
        });
    });
    own
}

/// What holds a value that is named so.
fn layout_of(name: &[u8]) -> Option<Layout> {
    match name {
        b"field" => Some(Layout::Hashes),
        b"json" | b"value" | b"unchanged" => Some(Layout::Strings),
        _ => None,
    }
}

/// The pattern that splits a member or field.
pub(super) fn id(table: &mut Table, container: Option<&Container>, notes: &mut Notes) -> Option<Pattern> {
    let read = table.get(notes, "id", |value| match text(value)? {
        "" => Ok(None),
        text => Pattern::parse(text, "the pattern").map(Some),
    })?;
    let (container, place) = (container?, read.place);
    let pattern = read.value?;
    let mistake = if container.kind() == Kind::Keys {
        Mistake::new("`id` splits members and fields, and here each entry is a key of its own")
            .hint("name its parts in the pattern of `keys`")
    } else if pattern.names().is_empty() {
        Mistake::new("the pattern names nothing").hint("write id = \"worker:{id...}\", for example")
    } else if let Some(twice) = pattern.names().iter().find(|name| container.captures().contains(name)) {
        Mistake::new(format!("`{{{twice}}}` is a capture of the key already")).hint("give one of the two another name")
    } else {
        return Some(pattern);
    };
    notes.mistake(&place, "id", table, mistake);
    None
}

/// A `let` as it is written.
pub(super) struct LetWritten {
    pub(super) name: String,
    node: Node,
}

/// The names of the `let`s, so that whatever follows may use them.
pub(super) fn let_names(lets: &mut Table, captures: &[String], notes: &mut Notes) -> Vec<LetWritten> {
    let mut found: Vec<LetWritten> = Vec::new();
    for entry in lets.take_all() {
        let name = entry.key;
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let begins = name.chars().next().is_some_and(|c| c.is_ascii_lowercase());
        let mistake = if !begins || !name.chars().all(allowed) {
            Mistake::new("a name begins with a small letter and holds small letters, digits and `_`")
                .hint("write let.user, for example")
        } else if RESERVED.contains(&name.as_str()) {
            Mistake::new(format!("`{{{name}}}` has a meaning of its own")).hint("give the value another name")
        } else if captures.contains(&name) {
            Mistake::new(format!("`{{{name}}}` is a capture already")).hint("give one of the two another name")
        } else if found.len() == MAX_LETS {
            Mistake::new(format!("too many values with a name; at most {MAX_LETS}"))
        } else {
            found.push(LetWritten { name, node: entry.node });
            continue;
        };
        notes.mistake(&entry.place, &name, lets, mistake);
    }
    found
}

/// What may be read beside `idle`: a read counts as a use, and an entry that is read for it would never be idle.
#[derive(Clone, Copy)]
pub(super) struct Reads<'s> {
    /// The entries, where they are judged so.
    idle: Option<&'s Container>,
    ignore: &'s [Pattern],
}

impl<'s> Reads<'s> {
    pub(super) fn beside(last_ping: Option<&[Value]>, container: Option<&'s Container>, ignore: &'s [Pattern]) -> Self {
        let idle = container.filter(|_| last_ping.is_some_and(|values| values.contains(&Value::Idle)));
        Self { idle, ignore }
    }

    /// Refuses to read this key for `text`, if it may be an entry's.
    pub(super) fn check(&self, key: &Template, text: &str) -> Result<(), Mistake> {
        let spared = self.ignore.iter().any(|pattern| pattern.covers_template(key));
        if self.idle.is_none_or(|entries| spared || !entries.can_be(key)) {
            return Ok(());
        }
        let what = format!("`{text}` may read an entry of this source, and beside `idle` a read counts as a use");
        Err(Mistake::new(what).hint("name a key that no entry has; `exists KEY` is no use, and may ask for any"))
    }

    /// The same for what a condition asks.
    pub(super) fn check_condition(&self, condition: &Condition) -> Result<(), Mistake> {
        match condition.test {
            Test::Exists(_) => Ok(()),
            _ => condition.keys().iter().try_for_each(|key| self.check(key, &condition.text)),
        }
    }
}

/// The `let`s, each with where its value stands.
pub(super) fn lets(
    table: &Table,
    written: Vec<LetWritten>,
    scope: &Scope<'_>,
    reads: Reads<'_>,
    notes: &mut Notes,
) -> Vec<Let> {
    let mut lets = Vec::new();
    for LetWritten { name, node } in written {
        let listed = table.texts(notes, &name, &node, true, |text| match Value::parse(text, scope)? {
            Value::Idle | Value::Unchanged => {
                Err(Mistake::new(format!("`{text}` is a time, and no value to name"))
                    .hint("write it as last_ping, alone"))
            }
            Value::Lookup(lookup) if matches!(lookup.place, Place::Key(_)) => {
                Err(Mistake::new("`exists` tells whether a key is there, and gives no value")
                    .hint("write get, hget or zscore; as a condition it may stand in `where` and `unless`"))
            }
            value => {
                value.key().map_or(Ok(()), |key| reads.check(key, text))?;
                Ok((text.to_owned(), value))
            }
        });
        for At { value: (text, value), place } in &listed.good {
            warn_of_wide_keys(value.key(), scope.id, text, place, &name, table, notes);
        }
        if listed.good.is_empty() && !listed.spoiled {
            let mistake = Mistake::new("the list is empty").hint("name a value, or leave the key out");
            notes.mistake(&listed.place, &name, table, mistake);
        }
        let places = listed.place;
        lets.push((Let { name, values: listed.good.into_iter().map(|read| read.value.1).collect() }, places));
    }
    for (at, (one, place)) in lets.iter().enumerate() {
        if reaches(&lets.iter().map(|(one, _)| one).collect::<Vec<_>>(), at, at, &mut vec![false; lets.len()]) {
            let mistake = Mistake::new(format!("`{{{}}}` is built from itself", one.name));
            notes.mistake(
                place,
                &one.name,
                table,
                mistake.hint("break the circle: one of these values stands somewhere"),
            );
        }
    }
    lets.into_iter().map(|(one, _)| one).collect()
}

/// Whether what `from` names leads to `to`.
fn reaches(lets: &[&Let], from: usize, to: usize, visited: &mut [bool]) -> bool {
    let Some(one) = lets.get(from) else { return false };
    let next = one.values.iter().flat_map(Value::refs).filter_map(|name| match name {
        Ref::Let(at) => Some(*at),
        _ => None,
    });
    next.into_iter().any(|next| {
        let first = visited.get_mut(next).is_some_and(|seen| !std::mem::replace(seen, true));
        next == to || first && reaches(lets, next, to, visited)
    })
}

/// Where the last ping stands; `None` if that is too wrong to say.
pub(super) fn last_ping(
    table: &mut Table,
    kind: Option<Kind>,
    scope: &Scope<'_>,
    notes: &mut Notes,
) -> Option<At<Vec<Value>>> {
    let listed = table.list(notes, "last_ping", true, |text| {
        let value = Value::parse(text, scope)?;
        match (&value, scope.layout) {
            (Value::Idle, Some(layout)) if !layout.is_of_keys() => {
                Err(Mistake::new("`idle` is asked of a key, and this one is shared by many entries")
                    .hint("write `unchanged`, or where the hub stores a time"))
            }
            (Value::Unchanged, Some(Layout::Set)) => Err(Mistake::new("a member of a set never changes")
                .hint("write where the time stands, as in `hget conn:{id} seen`")),
            (Value::Unchanged, Some(Layout::Hashes)) => {
                Err(Mistake::new("`unchanged` watches one value, and these keys hold a hash each")
                    .hint("write the field that changes with every ping, as in `field seen`"))
            }
            _ => Ok((text.to_owned(), value)),
        }
    });
    let kind = kind?;
    let Some(listed) = listed else {
        let usual = kind.usual_last_ping().map(|value| At { value, place: table.place.clone() });
        return usual.or_else(|| {
            let mistake =
                Mistake::new(format!("{} does not say where the last pings of its members stand", table.label));
            let hint = "write last_ping = \"hget conn:{id} seen\", for example: a set holds no times";
            notes.missing.push(super::problem::Problem::at(&table.place, mistake.hint(hint)));
            None
        });
    };
    if listed.spoiled {
        return None;
    }
    for At { value: (text, value), place } in &listed.good {
        // Where members are the names of keys, there is no other way to say so.
        let own = |key: &&Template| matches!(key.first_ref(), Some(Ref::Key | Ref::Member | Ref::Id));
        let steered = value.key().filter(|key| !own(key));
        warn_of_wide_keys(steered, scope.id, text, place, "last_ping", table, notes);
    }
    let values: Vec<Value> = listed.good.into_iter().map(|read| read.value.1).collect();
    let timeless = values.iter().any(|value| matches!(value, Value::Idle | Value::Unchanged));
    let mistake = if values.len() > MAX_TIMES {
        Mistake::new(format!("{} times are too many; at most {MAX_TIMES}", values.len()))
    } else if values.is_empty() {
        let mistake = Mistake::new("the list is empty");
        if kind.usual_last_ping().is_some() { mistake.hint("leave the key out for the default") } else { mistake }
    } else if timeless && values.len() > 1 {
        Mistake::new("`idle` and `unchanged` are no times that a hub stored, and stand alone")
            .hint("where the hub stores a time, write that alone")
    } else {
        return Some(At { value: values, place: listed.place });
    };
    notes.mistake(&listed.place, "last_ping", table, mistake);
    None
}

/// What an absence comes to.
pub(super) fn missing(table: &mut Table, last_ping: Option<&At<Vec<Value>>>, notes: &mut Notes) -> Missing {
    let words = [("skip", Missing::Skip), ("stale", Missing::Stale)];
    let read = table.get(notes, "missing", |value| one_of(value, &words));
    let looked_up = |value: &Value| matches!(value, Value::Lookup(_));
    let exists = |value: &Value| matches!(value, Value::Lookup(lookup) if matches!(lookup.place, Place::Key(_)));
    let missing = read.as_ref().map_or(Missing::Skip, |read| read.value);
    let Some(At { value: last_ping, place }) = last_ping else { return missing };
    if missing == Missing::Stale && !last_ping.iter().all(looked_up) {
        let place = read.map_or_else(|| table.place.clone(), |read| read.place);
        let mistake =
            Mistake::new("only what is looked up elsewhere can be missing: with it, all that `last_ping` names")
                .hint("write last_ping = \"exists conn:{id}\", for example, or leave `missing` out");
        notes.mistake(&place, "missing", table, mistake);
    } else if missing == Missing::Skip && last_ping.iter().all(exists) {
        let mistake = Mistake::new("a key that exists holds no time, so that nothing here would ever be stale")
            .hint("write missing = \"stale\": gone for a whole threshold, the entry goes too");
        notes.mistake(place, "last_ping", table, mistake);
    }
    missing
}

/// Conditions that all hold of an entry of this source.
pub(super) fn filters(table: &mut Table, scope: &Scope<'_>, reads: Reads<'_>, notes: &mut Notes) -> Vec<Condition> {
    let listed = table.list(notes, "where", false, |text| {
        let condition = Condition::parse(text, scope)?;
        reads.check_condition(&condition)?;
        Ok(condition)
    });
    let Some(listed) = listed else { return Vec::new() };
    for read in &listed.good {
        warn_of_wide_keys(read.value.keys(), scope.id, &read.value.text, &read.place, "where", table, notes);
    }
    if listed.good.len() > MAX_CONDITIONS {
        let mistake = Mistake::new(format!("{} conditions are too many; at most {MAX_CONDITIONS}", listed.good.len()));
        notes.mistake(&listed.place, "where", table, mistake);
    }
    listed.good.into_iter().map(|read| read.value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_stands_wherever_it_is_named_and_not_in_doubled_braces() {
        for (text, expected) in [
            ("{prefix}a:{id}", "p{{:a:{id}"),
            ("{{prefix}}", "{{prefix}}"),
            ("{{{prefix}}}", "{{p{{:}}"),
            ("SREM {prefix}x {prefix}", "SREM p{{:x p{{:"),
            ("é{pre}", "é{pre}"),
        ] {
            let mut replaced = text.to_owned();
            assert_eq!(replace_prefix(&mut replaced, "p{{:"), expected != text, "{text}");
            assert_eq!(replaced, expected, "{text}");
        }
    }
}
