//! The keys of a source: one exact key or pattern, or a list of them with the same captures.

use std::ops::Range;

use super::Mistake;
use super::pattern::Pattern;
use crate::policy::entry::Bytes;

/// At least one pattern. A key belongs to the first that matches it.
#[derive(Clone, Debug)]
pub struct Patterns {
    all: Vec<Pattern>,
    /// For each pattern, the places among its own captures of those of the first.
    order: Vec<Vec<usize>>,
}

impl Patterns {
    /// Brings the patterns of a source together.
    ///
    /// # Errors
    /// There are none, or they differ in their captures: a template could not be filled for the keys of some.
    pub fn new(all: Vec<Pattern>) -> Result<Self, Mistake> {
        let Some(first) = all.first() else {
            return Err(Mistake::new("the list is empty").hint("name at least one key or pattern"));
        };
        let order = all.iter().map(|pattern| {
            let places = first.names().iter().map(|name| pattern.names().iter().position(|other| other == name));
            let places = places.collect::<Option<Vec<_>>>().filter(|_| pattern.names().len() == first.names().len());
            places.ok_or_else(|| {
                let [one, other] = [first, pattern].map(captured);
                Mistake::new(format!("the patterns of a list have the same captures, and here are {one} and {other}"))
                    .hint("write a [[source]] for each, or `{_}` for what need not be named")
            })
        });
        Ok(Self { order: order.collect::<Result<_, _>>()?, all })
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Pattern> {
        self.all.iter()
    }

    /// Those that are exact keys.
    pub fn exact(&self) -> impl Iterator<Item = Bytes> {
        self.all.iter().filter_map(Pattern::literal)
    }

    /// The first that matches the whole of `key`.
    pub fn find(&self, key: &[u8]) -> Option<&Pattern> {
        self.all.iter().find(|pattern| pattern.matches(key))
    }

    /// The names of the captures.
    pub fn names(&self) -> &[String] {
        self.all.first().map(Pattern::names).unwrap_or_default()
    }

    /// Where each capture stands in `key`, in the order of [`Patterns::names`]; `None` when nothing matches.
    pub fn captures(&self, key: &[u8]) -> Option<Vec<Range<usize>>> {
        let (own, order) =
            self.all.iter().zip(&self.order).find_map(|(pattern, order)| Some((pattern.captures(key)?, order)))?;
        order.iter().map(|at| own.get(*at).cloned()).collect()
    }
}

fn captured(pattern: &Pattern) -> String {
    match pattern.names() {
        [] => "none".to_owned(),
        names => names.iter().map(|name| format!("`{{{name}}}`")).collect::<Vec<_>>().join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Result<Patterns, Mistake> {
        Patterns::new(texts.iter().map(|text| Pattern::parse(text, "the pattern").unwrap()).collect())
    }

    #[track_caller]
    fn check(texts: &[&str], key: &str, expected: Option<&[&str]>) {
        let found = patterns(texts).unwrap().captures(key.as_bytes());
        let found = found.map(|ranges| ranges.into_iter().map(|range| &key[range]).collect::<Vec<_>>());
        assert_eq!(found.as_deref(), expected, "{texts:?} on {key}");
    }

    #[track_caller]
    fn refused(texts: &[&str], what: &str) {
        assert_eq!(patterns(texts).unwrap_err().what, what, "{texts:?}");
    }

    #[test]
    fn captures_come_in_one_order_whichever_pattern_matched() {
        let both = ["room:{room}:of:{team}", "team:{team}:in:{room}"];
        check(&both, "room:r:of:t", Some(&["r", "t"]));
        check(&both, "team:t:in:r", Some(&["r", "t"]));
        check(&both, "else:t:in:r", None);
        assert_eq!(patterns(&both).unwrap().names(), ["room", "team"]);
    }

    #[test]
    fn a_key_belongs_to_the_first_that_matches() {
        let both = ["room:{room}:seen", "room:{room...}:seen"];
        check(&both, "room:a:seen:b:seen", Some(&["a:seen:b"]));
        let found = patterns(&["room:a", "room:{_}"]).unwrap();
        let glob = |key: &[u8]| found.find(key).map(Pattern::glob);
        assert_eq!(
            [glob(b"room:a"), glob(b"room:b"), glob(b"room")],
            [Some(b"room:a".to_vec()), Some(b"room:*".to_vec()), None]
        );
    }

    #[test]
    fn exact_keys_may_stand_beside_patterns_that_name_nothing() {
        let mixed = patterns(&["lobby", "room:{_}:seen"]).unwrap();
        assert_eq!(mixed.exact().collect::<Vec<_>>(), [b"lobby".as_slice().into()]);
        check(&["lobby", "room:{_}:seen"], "lobby", Some(&[]));
    }

    #[test]
    fn what_differs_in_its_captures_is_no_list() {
        refused(&[], "the list is empty");
        refused(&["a:{x}", "b:{y}"], "the patterns of a list have the same captures, and here are `{x}` and `{y}`");
        refused(&["a:{x}", "lobby"], "the patterns of a list have the same captures, and here are `{x}` and none");
        refused(
            &["a:{x}", "b:{x}:{y}"],
            "the patterns of a list have the same captures, and here are `{x}` and `{x}` `{y}`",
        );
    }
}
