//! The small reader that walks the tree and collects every mistake.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::problem::{Place, Problem};
use super::tree::{Entry, Node, PREFIX, Value};
use crate::language::duration::{parse as parse_duration, without_unit};
use crate::language::{Mistake, nearest, shown};
use crate::policy::duration::spelt;

/// What the walk found out.
#[derive(Default)]
pub(super) struct Notes {
    /// Mistakes in what is there.
    pub(super) problems: Vec<Problem>,
    /// What is not there and should be.
    pub(super) missing: Vec<Problem>,
    /// What is allowed and looks unwise.
    pub(super) warnings: Vec<Problem>,
    /// Keys that nobody asked for, with the table's path and what to call the table.
    unknown: Vec<(Entry, &'static str, String)>,
    /// Every key that was asked for, with its table's path: what the language of the file is.
    pub(super) known: Vec<(&'static str, &'static str)>,
}

/// A value and where it was written.
#[derive(Clone)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// The elements of a list that could be read, and whether any could not.
pub(super) struct Listed<T> {
    pub(super) place: Place,
    pub(super) good: Vec<At<T>>,
    pub(super) spoiled: bool,
}

/// A table, each of whose keys is taken once; what is left at the end is unknown.
pub(super) struct Table {
    /// `redis`, `source`, `source.guard`; empty at the top.
    path: &'static str,
    /// What a person calls it: `[redis]`, `[[source]] "hub"`.
    pub(super) label: String,
    pub(super) place: Place,
    entries: Vec<Entry>,
}

impl Notes {
    /// Notes that what was written at `place`, as `key` of `table`, is wrong.
    pub(super) fn mistake(&mut self, place: &Place, key: &str, table: &Table, mistake: Mistake) {
        let what = table.about(place, key, &mistake.what);
        self.problems.push(Problem { place: place.clone(), what, hint: mistake.hint });
    }

    /// Notes that what was written at `place`, as `key` of `table`, looks unwise.
    pub(super) fn warning(&mut self, place: &Place, key: &str, table: &Table, mistake: Mistake) {
        let what = table.about(place, key, &mistake.what);
        self.warnings.push(Problem { place: place.clone(), what, hint: mistake.hint });
    }

    /// Turns the keys that nobody asked for into problems, or warnings where they are variables: another program's
    /// variable may begin like ours.
    pub(super) fn judge_unknown(&mut self, known: &[(&'static str, &'static str)]) {
        for (entry, path, label) in std::mem::take(&mut self.unknown) {
            if let Place::Variable(name) = &entry.place {
                self.warnings.push(unknown_variable(name, known));
                continue;
            }
            let key = shown(entry.key.as_bytes());
            let what = match label.as_str() {
                "" => format!("unknown table or key `{key}`"),
                label => format!("unknown key `{key}` in {label}"),
            };
            let hint = hint_for_unknown(path, &entry.key, known);
            self.problems.push(Problem { place: entry.place, what, hint });
        }
    }
}

/// A variable that begins like ours and is none.
pub(super) fn unknown_variable(name: &str, known: &[(&'static str, &'static str)]) -> Problem {
    let ours = |(table, key): &(&str, &str)| format!("{}__{}", table.to_uppercase(), key.to_uppercase());
    let all: Vec<String> =
        known.iter().filter(|(table, _)| super::ENVIRONMENT_TABLES.contains(table)).map(ours).collect();
    let mistake = Mistake::new("no setting has this name; it is ignored");
    let mistake = match nearest(&name[PREFIX.len()..], all.iter().map(String::as_str)) {
        Some(near) => mistake.hint(format!("did you mean {PREFIX}{near}?")),
        None => {
            mistake.hint("PRESENCE_REAPER_REDIS__URL, for example, is `url` in [redis]; sources stand only in the file")
        }
    };
    Problem::at(&Place::Variable(name.to_owned()), mistake)
}

/// Parts of the language that are written down and not built yet.
const NOT_YET: &[&str] = &[
    "set",
    "prefix",
    "id",
    "let",
    "missing",
    "where",
    "on_evict",
    "max_fanout",
    "cross_slot",
    "when",
    "preset",
    "lease",
    "topology",
    "nodes",
    "master",
];

fn hint_for_unknown(path: &str, key: &str, known: &[(&'static str, &'static str)]) -> Option<String> {
    if path == "redis" && key == "db" {
        return Some(
            "the database stands in the URL, `redis://127.0.0.1:6379/3`, or as `db` in a [[source]]".to_owned(),
        );
    }
    if NOT_YET.contains(&key) {
        return Some("not supported by this version".to_owned());
    }
    let here = known.iter().filter(|(table, _)| *table == path).map(|(_, key)| *key);
    if let Some(near) = nearest(key, here) {
        return Some(format!("did you mean `{near}`?"));
    }
    let elsewhere = known.iter().find(|(_, other)| *other == key).map(|(table, _)| match *table {
        "source" => "[[source]]".to_owned(),
        table => format!("[{table}]"),
    });
    elsewhere.map(|table| format!("`{key}` belongs in {table}"))
}

// === impl Table ===

impl Table {
    pub(super) fn new(path: &'static str, label: String, place: Place, entries: Vec<Entry>) -> Self {
        Self { path, label, place, entries }
    }

    /// A sentence about a key: which one is said only where the place does not say it.
    fn about(&self, place: &Place, key: &str, what: &str) -> String {
        match place {
            Place::File { .. } => format!("`{key}` of {}: {what}", self.label),
            Place::Variable(_) | Place::Flag(_) | Place::Nowhere => what.to_owned(),
        }
    }

    /// The value of `key`, taken out.
    pub(super) fn take(&mut self, notes: &mut Notes, key: &'static str) -> Option<Entry> {
        notes.known.push((self.path, key));
        self.remove(key)
    }

    /// The value of `key` if a flag put it there. As a key of the file it stays unknown.
    pub(super) fn take_from_flag(&mut self, key: &str) -> Option<Entry> {
        let from_flag = self.entries.iter().any(|entry| entry.key == key && matches!(entry.place, Place::Flag(_)));
        if from_flag { self.remove(key) } else { None }
    }

    fn remove(&mut self, key: &str) -> Option<Entry> {
        let index = self.entries.iter().position(|entry| entry.key == key)?;
        Some(self.entries.swap_remove(index))
    }

    /// The value of `key` as `parse` reads it; a mistake is noted, and then it counts as absent.
    pub(super) fn get<T>(
        &mut self,
        notes: &mut Notes,
        key: &'static str,
        parse: impl FnOnce(&Value) -> Result<T, Mistake>,
    ) -> Option<At<T>> {
        let node = self.take(notes, key)?.node;
        self.read(notes, key, &node, parse)
    }

    /// What `parse` makes of a value of `key`; a mistake is noted.
    pub(super) fn read<T>(
        &self,
        notes: &mut Notes,
        key: &str,
        node: &Node,
        parse: impl FnOnce(&Value) -> Result<T, Mistake>,
    ) -> Option<At<T>> {
        match parse(&node.value) {
            Ok(value) => Some(At { value, place: node.place.clone() }),
            Err(mistake) => {
                notes.mistake(&node.place, key, self, mistake);
                None
            }
        }
    }

    /// The value of `key` as a list whose elements `parse` reads. `lone`: a text that stands alone is a list of one.
    pub(super) fn list<T>(
        &mut self,
        notes: &mut Notes,
        key: &'static str,
        lone: bool,
        parse: impl FnMut(&str) -> Result<T, Mistake>,
    ) -> Option<Listed<T>> {
        let node = self.take(notes, key)?.node;
        Some(self.texts(notes, key, &node, lone, parse))
    }

    /// The same for a value that was taken.
    pub(super) fn texts<T>(
        &self,
        notes: &mut Notes,
        key: &str,
        node: &Node,
        lone: bool,
        mut parse: impl FnMut(&str) -> Result<T, Mistake>,
    ) -> Listed<T> {
        let mut listed = Listed { place: node.place.clone(), good: Vec::new(), spoiled: false };
        let elements = match &node.value {
            Value::List(elements) => &elements[..],
            _ if lone => std::slice::from_ref(node),
            other => {
                let mistake = Mistake::new(format!("expected a list of texts, found {}", other.described()));
                notes.mistake(&listed.place, key, self, mistake.hint("write it in brackets: [\"…\"]"));
                listed.spoiled = true;
                return listed;
            }
        };
        for element in elements {
            match self.read(notes, key, element, |value| parse(text(value)?)) {
                Some(read) => listed.good.push(read),
                None => listed.spoiled = true,
            }
        }
        listed
    }

    /// The table that `key` holds; an empty one where there is none, so that its keys are known all the same.
    pub(super) fn table(&mut self, notes: &mut Notes, key: &'static str, path: &'static str, label: String) -> Self {
        let (place, entries) = match self.take(notes, key).map(|entry| (entry.place, entry.node)) {
            None => (Place::Nowhere, Vec::new()),
            Some((_, Node { place, value: Value::Table(entries) })) => (place, entries),
            Some((place, node)) => {
                let what = format!("`{key}` is a table, and here it is {}", node.value.described());
                notes
                    .problems
                    .push(Problem::at(&place, Mistake::new(what).hint(format!("write {label} on its own line"))));
                (place, Vec::new())
            }
        };
        Self { path, label, place, entries }
    }

    /// Every key that is left, for a table whose keys are free.
    pub(super) fn take_all(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.entries)
    }

    /// Calls `each` with every text that is left.
    pub(super) fn each_text(&mut self, each: &mut impl FnMut(&mut String)) {
        self.entries.iter_mut().for_each(|entry| each_text(&mut entry.node.value, each));
    }

    /// Calls `each` with every text that is left under these keys.
    pub(super) fn each_text_of(&mut self, keys: &[&str], each: &mut impl FnMut(&mut String)) {
        let entries = self.entries.iter_mut().filter(|entry| keys.contains(&entry.key.as_str()));
        entries.for_each(|entry| each_text(&mut entry.node.value, each));
    }

    /// Calls `each` with every text that is left under `name` in the tables under `key`.
    pub(super) fn each_text_named(&mut self, key: &str, name: &str, each: &mut impl FnMut(&mut String)) {
        let entries = self.entries.iter_mut().filter(|entry| entry.key == key);
        entries.for_each(|entry| each_text_named(&mut entry.node.value, name, each));
    }

    /// Whatever was not taken is unknown.
    pub(super) fn finish(self, notes: &mut Notes) {
        let Self { path, label, entries, .. } = self;
        notes.unknown.extend(entries.into_iter().map(|entry| (entry, path, label.clone())));
    }
}

// === values ===

impl Value {
    /// What kind of value it is. The value itself stays out of messages: it may be a password.
    pub(super) fn described(&self) -> &'static str {
        match self {
            Self::Text(_) | Self::Untyped(_) => "text",
            Self::Integer(..) => "a number",
            Self::Float => "a number with a fraction",
            Self::Boolean(_) => "true or false",
            Self::Datetime => "a date or time",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }

    fn expected(&self, expected: &str) -> Mistake {
        Mistake::new(format!("expected {expected}, found {}", self.described()))
    }
}

/// Calls `each` with every text in a value.
fn each_text(value: &mut Value, each: &mut impl FnMut(&mut String)) {
    match value {
        Value::Text(text) | Value::Untyped(text) => each(text),
        Value::List(nodes) => nodes.iter_mut().for_each(|node| each_text(&mut node.value, each)),
        Value::Table(entries) => entries.iter_mut().for_each(|entry| each_text(&mut entry.node.value, each)),
        Value::Integer(..) | Value::Boolean(_) | Value::Float | Value::Datetime => {}
    }
}

fn each_text_named(value: &mut Value, name: &str, each: &mut impl FnMut(&mut String)) {
    match value {
        Value::List(nodes) => nodes.iter_mut().for_each(|node| each_text_named(&mut node.value, name, each)),
        Value::Table(entries) => {
            let named = entries.iter_mut().filter(|entry| entry.key == name);
            named.for_each(|entry| each_text(&mut entry.node.value, each));
        }
        _ => {}
    }
}

/// A text.
pub(super) fn text(value: &Value) -> Result<&str, Mistake> {
    match value {
        Value::Text(text) | Value::Untyped(text) => Ok(text),
        other => Err(other.expected("text in quotes")),
    }
}

/// `true` or `false`.
pub(super) fn boolean(value: &Value) -> Result<bool, Mistake> {
    match value {
        Value::Boolean(value) => Ok(*value),
        Value::Untyped(text) if text == "true" => Ok(true),
        Value::Untyped(text) if text == "false" => Ok(false),
        other => Err(other.expected("true or false").hint("write it without quotes")),
    }
}

/// One of a few words.
pub(super) fn one_of<T: Copy>(value: &Value, words: &[(&'static str, T)]) -> Result<T, Mistake> {
    let word = text(value)?;
    if let Some((_, meaning)) = words.iter().find(|(known, _)| *known == word) {
        return Ok(*meaning);
    }
    let all: Vec<String> = words.iter().map(|(known, _)| format!("\"{known}\"")).collect();
    let all = all.join(", ");
    let mistake = Mistake::new(format!("`{}` is not one of {all}", shown(word.as_bytes())));
    match nearest(word, words.iter().map(|(known, _)| *known)) {
        Some(near) => Err(mistake.hint(format!("did you mean \"{near}\"?"))),
        None => Err(mistake),
    }
}

/// A whole number within `allowed`.
pub(super) fn number(value: &Value, allowed: RangeInclusive<u32>) -> Result<u32, Mistake> {
    let found = match value {
        Value::Integer(_, number) => number.and_then(|number| u32::try_from(number).ok()),
        Value::Untyped(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
        other => return Err(other.expected("a whole number")),
    };
    found
        .filter(|number| allowed.contains(number))
        .ok_or_else(|| Mistake::new(format!("the number is not between {} and {}", allowed.start(), allowed.end())))
}

/// The number of a database.
pub(super) fn database(value: &Value) -> Result<u16, Mistake> {
    number(value, 0..=u32::from(u16::MAX)).map(|number| u16::try_from(number).unwrap_or(u16::MAX))
}

/// How short and how long a duration may be, and why not longer.
pub(super) struct Bounds {
    pub(super) least: Duration,
    pub(super) most: Duration,
    pub(super) why: &'static str,
}

/// A length of time within `bounds`.
pub(super) fn duration(value: &Value, bounds: &Bounds) -> Result<Duration, Mistake> {
    let text = match value {
        Value::Text(text) | Value::Untyped(text) => text.trim(),
        Value::Integer(digits, Some(0..)) => return Err(without_unit(digits)),
        other => return Err(other.expected("a duration in quotes").hint("write \"30s\", \"5m\" or \"1h 30m\"")),
    };
    let duration = parse_duration(text)?;
    if duration < bounds.least {
        return Err(
            Mistake::new(format!("`{text}` is too short")).hint(format!("at least \"{}\"", spelt(bounds.least)))
        );
    }
    if duration > bounds.most {
        let hint = format!("at most \"{}\": {}", spelt(bounds.most), bounds.why);
        return Err(Mistake::new(format!("`{text}` is too long")).hint(hint));
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ANY: Bounds = Bounds { least: Duration::ZERO, most: Duration::MAX, why: "" };

    #[track_caller]
    fn check(text: &str, expected: Result<u64, &str>) {
        let found = duration(&Value::Text(text.to_owned()), &ANY);
        let found = found.map(|found| found.as_secs()).map_err(|mistake| mistake.what);
        assert_eq!(found, expected.map_err(str::to_owned), "{text}");
    }

    #[test]
    fn durations_have_a_unit_of_exact_length() {
        check("5m", Ok(300));
        check(" 1h 30m ", Ok(5400));
        check("1.5h", Ok(5400));
        check("2 days 1sec", Ok(172_801));
        check("1w", Ok(604_800));
        check("0s", Ok(0));
        check("90", Err("`90` has no unit"));
        check("5M", Err("`5M`: `M` is a month, which has no exact length"));
        check("1h 2M", Err("`1h 2M`: `M` is a month, which has no exact length"));
        check("1month", Err("`1month`: a month or a year has no exact length"));
        check("2y", Err("`2y`: a month or a year has no exact length"));
        check("", Err("`` is no duration"));
        check("-5m", Err("`-5m` is no duration"));
        check("5 parsecs", Err("`5 parsecs` is no duration"));
        check("99999999999999999999s", Err("`99999999999999999999s` is no duration"));
    }

    proptest! {
        #[test]
        fn a_duration_in_a_hint_can_be_written_into_the_file(millis in 0u64..5_000_000_000_000) {
            let spelt = spelt(Duration::from_millis(millis));
            prop_assert_eq!(duration(&Value::Text(spelt), &ANY), Ok(Duration::from_millis(millis)));
        }

        #[test]
        fn reading_a_duration_never_panics(text in any::<String>(), numbers in "[0-9.dhmsnMy ]{0,30}") {
            let _ = duration(&Value::Text(text), &ANY);
            let _ = duration(&Value::Text(numbers), &ANY);
        }
    }
}
