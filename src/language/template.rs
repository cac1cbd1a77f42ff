//! A word with variables in braces, filled for each entry.

use std::borrow::Cow;

use super::pattern::{Pattern, escaped};
pub use super::pointer::Pointer;
use super::words::hex;
use super::{Mistake, nearest, shown};

/// Literal bytes and named values, in turn: `user:{json:/UserId}:conns`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Template {
    parts: Vec<Part>,
}

/// A stretch of a template.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Part {
    Literal(Vec<u8>),
    Ref(Ref),
}

/// A named value, resolved at load: nothing is looked up by name while entries are read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ref {
    /// The container's key; the entry's own for `keys`.
    Key,
    /// The member of a sorted set, the field of a hash.
    Member,
    /// What `{id}` means for the members and fields of a container: the member. (Elsewhere `{id}` comes as the
    /// [`Ref::Capture`] of that name, else as [`Ref::Key`].)
    Id,
    /// The entry's own bytes: a string key's, a hash field's value, or the member.
    Value,
    /// The score, in the fewest digits that are the same double.
    Score,
    /// A part of the value, read as JSON.
    Json(Pointer),
    /// A field of a key that is a hash; its name may tell from the key alone.
    Field(Template),
    /// What the key pattern captured, or behind its captures the `id` pattern, counted from 0.
    Capture(usize),
    /// A `let` of the source, counted from 0.
    Let(usize),
    /// What the pattern of a `for-each` captured of an element of its list, counted from 0.
    Each(usize),
}

/// How the entries of a source are stored; it decides which values a template may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Members of a sorted set.
    Zset,
    /// Fields of a hash.
    Hash,
    /// Members of a set.
    Set,
    /// Keys that hold a string.
    Strings,
    /// Keys that hold a hash each.
    Hashes,
    /// Keys that may hold anything: nothing of their own is read.
    Keys,
}

impl Ref {
    /// Whether an entry that is a key tells it by its name: nothing has to be read for it.
    pub(super) fn is_of_key(&self) -> bool {
        matches!(self, Self::Key | Self::Id | Self::Member | Self::Capture(_))
    }

    /// Whether it is what a key of this entry's own holds.
    fn is_content(&self) -> bool {
        matches!(self, Self::Value | Self::Json(_) | Self::Field(_))
    }
}

/// Which names a template may use.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scope<'s> {
    /// How entries are stored; `None` where that is itself in doubt, and then every name passes: one mistake is not
    /// reported twice.
    pub layout: Option<Layout>,
    /// The captures of the key pattern and behind them those of `id`, in order.
    pub captures: &'s [String],
    /// The names of the source's `let`s, in order.
    pub lets: &'s [String],
    /// The `id` pattern: what it spells out stands in every member.
    pub id: Option<&'s Pattern>,
    /// Those of the pattern of a `for-each`, in order; they stand in its own companion alone.
    pub each: &'s [String],
}

impl Template {
    /// Reads a word. `{name}` is a value, `{{` and `}}` are braces; inside a name `%HH` is one byte.
    pub fn parse(word: &[u8], scope: &Scope<'_>) -> Result<Self, Mistake> {
        let mut parts = Vec::new();
        pieces(word, |piece| {
            parts.push(match piece {
                Piece::Literal(bytes) => Part::Literal(bytes),
                Piece::Braced(name) => Part::Ref(scope.resolve(name)?),
            });
            Ok(())
        })?;
        Ok(Self { parts })
    }

    /// These bytes and no variable.
    pub fn literal(bytes: &[u8]) -> Self {
        Self { parts: if bytes.is_empty() { Vec::new() } else { vec![Part::Literal(bytes.to_vec())] } }
    }

    /// Reads the name of a field of the entry's own hash. It is known before anything of the entry is read, so it is made
    /// of the entry's key and no more.
    pub(super) fn field_name(word: &[u8], scope: &Scope<'_>) -> Result<Self, Mistake> {
        let name = Self::parse(word, scope)?;
        if name.refs().any(|name| !name.is_of_key()) {
            let what = format!("`{}` names more than the key, from which alone a field of it is told", shown(word));
            return Err(Mistake::new(what)
                .hint("it may name `{key}`, `{id}` and captures of the key; else look it up: `hget {key} FIELD`"));
        }
        Ok(name)
    }

    /// All of it, where it names no value.
    pub fn as_literal(&self) -> Option<&[u8]> {
        self.refs().next().is_none().then(|| self.literal_prefix())
    }

    /// The value it begins with, if it begins with one.
    pub fn first_ref(&self) -> Option<&Ref> {
        match self.parts.first() {
            Some(Part::Ref(name)) => Some(name),
            _ => None,
        }
    }

    /// A template from its parts, in which literals may follow each other.
    pub(super) fn of(parts: impl IntoIterator<Item = Part>) -> Self {
        let mut merged: Vec<Part> = Vec::new();
        for part in parts {
            match (merged.last_mut(), part) {
                (Some(Part::Literal(before)), Part::Literal(bytes)) => before.extend(bytes),
                (_, part) => merged.push(part),
            }
        }
        Self { parts: merged }
    }

    /// The template with `value_of` each named value put in; `None` when one of them is absent. An empty value is a
    /// value.
    pub fn fill<'v>(&self, value_of: impl Fn(&Ref) -> Option<Cow<'v, [u8]>>) -> Option<Vec<u8>> {
        let mut filled = Vec::new();
        for part in &self.parts {
            match part {
                Part::Literal(bytes) => filled.extend_from_slice(bytes),
                Part::Ref(name) => filled.extend_from_slice(&value_of(name)?),
            }
        }
        Some(filled)
    }

    /// The values that the template names, in order, repeated as often as they stand there.
    pub fn refs(&self) -> impl Iterator<Item = &Ref> {
        self.parts.iter().filter_map(|part| match part {
            Part::Ref(name) => Some(name),
            Part::Literal(_) => None,
        })
    }

    /// The bytes before the first variable.
    pub fn literal_prefix(&self) -> &[u8] {
        match self.parts.first() {
            Some(Part::Literal(bytes)) => bytes,
            _ => &[],
        }
    }

    /// A glob of Redis for whatever the template can become; `known` has the glob of a value of which more is known than
    /// that it may be anything.
    pub fn glob(&self, known: impl Fn(&Ref) -> Option<Vec<u8>>) -> Vec<u8> {
        let mut glob = Vec::new();
        for part in &self.parts {
            match part {
                Part::Literal(bytes) => glob.extend(escaped(bytes)),
                Part::Ref(name) => glob.extend(known(name).unwrap_or_else(|| b"*".to_vec())),
            }
        }
        glob
    }

    /// A pattern's text for whatever the template can become, to be offered in a hint; none where it would need quotes.
    pub(super) fn as_pattern(&self) -> Option<String> {
        let mut pattern = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(bytes) => {
                    let literal = std::str::from_utf8(bytes).ok()?;
                    if literal.contains(|c: char| c.is_control() || c.is_whitespace() || matches!(c, '"' | '\'' | '\\'))
                    {
                        return None;
                    }
                    pattern.push_str(&literal.replace('{', "{{").replace('}', "}}"));
                }
                Part::Ref(_) if pattern.ends_with("{_}") => {}
                Part::Ref(_) => pattern.push_str("{_}"),
            }
        }
        Some(pattern)
    }

    /// The same with the `id` pattern in place of the member that it splits.
    pub fn spelling_out(&self, id: &Pattern) -> Self {
        Self::of(self.parts.iter().flat_map(|part| match part {
            Part::Ref(Ref::Member) => id.as_template().collect(),
            part => vec![part.clone()],
        }))
    }

    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }
}

impl Scope<'_> {
    /// What stands between two braces → the value it names.
    pub(super) fn resolve(&self, braced: &[u8]) -> Result<Ref, Mistake> {
        if let Some(bar) = braced.iter().position(|b| *b == b'|') {
            return Err(Mistake::new(format!(
                "`{}` is a filter, and filters are not supported here",
                shown(&braced[bar..])
            ))
            .hint("a `|` that belongs to the name is written `%7C`"));
        }
        let name = unescape(braced)?;
        // A pointer or a field may well end in dots.
        if name == b"_" || (name.ends_with(b"...") && !name.contains(&b':')) {
            let what = format!("`{{{}}}` belongs in a pattern; here a value is named", shown(braced));
            return Err(Mistake::new(what).hint(self.known()));
        }
        let found = match name.as_slice() {
            b"key" => Some(Ref::Key),
            b"member" => Some(Ref::Member),
            b"value" => Some(Ref::Value),
            b"score" => Some(Ref::Score),
            b"id" => Some(self.id()),
            _ => self.captured(&name),
        };
        let found = match (found, name.strip_prefix(b"json:"), name.strip_prefix(b"field:")) {
            (Some(found), _, _) => found,
            (None, Some(pointer), _) => Ref::Json(Pointer::parse(pointer)?),
            (None, _, Some(field)) if !field.is_empty() => Ref::Field(Template::literal(field)),
            _ if self.layout.is_none() => Ref::Id,
            _ => return Err(self.unknown(&name)),
        };
        match self.layout {
            Some(Layout::Keys) if found.is_content() => Err(self.unread(&format!("{{{}}}", shown(braced)))),
            Some(layout) if !layout.has(&found) => Err(self.meaningless(&format!("{{{}}}", shown(braced)), layout)),
            _ => Ok(found),
        }
    }

    /// A value that is named outside braces, by `word`: `score`, `json /pointer`.
    pub(super) fn own(&self, name: Ref, word: &str) -> Result<Ref, Mistake> {
        match (self.layout, &name) {
            (Some(Layout::Hash), Ref::Field(_)) => Err(Mistake::new("a field of a hash has no fields of its own")
                .hint("write `value` or `json /pointer`; for one hash per entry write `keys` instead of `hash`")),
            (Some(Layout::Keys), name) if name.is_content() => Err(self.unread(word)),
            (Some(layout), name) if !layout.has(name) => Err(self.meaningless(word, layout)),
            _ => Ok(name),
        }
    }

    fn meaningless(&self, word: &str, layout: Layout) -> Mistake {
        Mistake::new(format!("`{word}` means nothing for {}", layout.entries())).hint(self.known())
    }

    /// The entry's own value beside `idle`, without which a source names it and its keys hold something.
    fn unread(&self, word: &str) -> Mistake {
        let what =
            format!("`{word}` would be read, and beside `idle` nothing of the entry may: a read counts as a use");
        Mistake::new(what).hint(self.known())
    }

    /// What `{id}` stands for.
    pub(super) fn id(&self) -> Ref {
        self.captured(b"id").unwrap_or(match self.layout {
            Some(Layout::Strings | Layout::Hashes | Layout::Keys) => Ref::Key,
            Some(Layout::Zset | Layout::Hash | Layout::Set) | None => Ref::Id,
        })
    }

    pub(super) fn captured(&self, name: &[u8]) -> Option<Ref> {
        let place = |names: &[String]| names.iter().position(|known| known.as_bytes() == name);
        place(self.captures)
            .map(Ref::Capture)
            .or_else(|| place(self.lets).map(Ref::Let))
            .or_else(|| place(self.each).map(Ref::Each))
    }

    fn unknown(&self, name: &[u8]) -> Mistake {
        let name = shown(name);
        let mut known: Vec<&str> = self.captures.iter().chain(self.lets).chain(self.each).map(String::as_str).collect();
        known.extend(["key", "member", "id", "value", "score"]);
        let mistake = Mistake::new(format!("unknown name `{{{name}}}`"));
        match nearest(&name, known) {
            Some(near) => mistake.hint(format!("did you mean `{{{near}}}`?")),
            None => mistake.hint(self.known()),
        }
    }

    /// The sentence that lists what may be named.
    fn known(&self) -> String {
        let captures = self
            .captures
            .iter()
            .chain(self.lets)
            .chain(self.each)
            .filter(|name| *name != "id")
            .map(|name| format!("`{{{name}}}`"));
        let own: &[&str] = match self.layout {
            Some(Layout::Zset) => &["`{key}`", "`{member}`", "`{id}`", "`{value}`", "`{json:/pointer}`", "`{score}`"],
            Some(Layout::Hash) => &["`{key}`", "`{member}`", "`{id}`", "`{value}`", "`{json:/pointer}`"],
            Some(Layout::Set) => &["`{key}`", "`{member}`", "`{id}`", "`{value}`", "`{json:/pointer}`"],
            Some(Layout::Strings) => &["`{key}`", "`{id}`", "`{value}`", "`{json:/pointer}`"],
            Some(Layout::Hashes) => &["`{key}`", "`{id}`", "`{field:NAME}`"],
            Some(Layout::Keys) | None => &["`{key}`", "`{id}`"],
        };
        let names: Vec<String> = captures.chain(own.iter().map(|name| (*name).to_owned())).collect();
        format!("there are {}; a literal brace is written `{{{{`", names.join(", "))
    }
}

impl Layout {
    /// Whether each entry is a key of its own.
    pub const fn is_of_keys(self) -> bool {
        matches!(self, Self::Strings | Self::Hashes | Self::Keys)
    }

    fn has(self, name: &Ref) -> bool {
        match name {
            Ref::Key | Ref::Id | Ref::Capture(_) | Ref::Let(_) | Ref::Each(_) => true,
            Ref::Member => matches!(self, Self::Zset | Self::Hash | Self::Set),
            Ref::Value | Ref::Json(_) => !matches!(self, Self::Hashes | Self::Keys),
            Ref::Score => self == Self::Zset,
            Ref::Field(_) => self == Self::Hashes,
        }
    }

    /// What a person calls the entries.
    fn entries(self) -> &'static str {
        match self {
            Self::Zset => "the members of a sorted set",
            Self::Hash => "the fields of a hash",
            Self::Set => "the members of a set",
            Self::Strings => "keys that hold a string",
            Self::Hashes => "keys that hold a hash each",
            Self::Keys => "keys of which nothing of their own is read",
        }
    }
}

/// A stretch of a word: literal bytes with their braces undoubled, or what stands between two braces.
pub(super) enum Piece<'w> {
    Literal(Vec<u8>),
    Braced(&'w [u8]),
}

/// Cuts a word at its braces, the same for templates and patterns; `each` gets the pieces in order.
pub(super) fn pieces<'w>(
    word: &'w [u8],
    mut each: impl FnMut(Piece<'w>) -> Result<(), Mistake>,
) -> Result<(), Mistake> {
    let mut literal = Vec::new();
    let mut rest = word;
    while let Some((first, after)) = rest.split_first() {
        rest = match first {
            b'{' | b'}' if after.first() == Some(first) => {
                literal.push(*first);
                &after[1..]
            }
            b'{' => {
                let end = after.iter().position(|b| *b == b'}').ok_or_else(|| {
                    Mistake::new(format!("the `{{` before `{}` is never closed", shown(after)))
                        .hint("a literal brace is written twice: `{{`")
                })?;
                if !literal.is_empty() {
                    each(Piece::Literal(std::mem::take(&mut literal)))?;
                }
                each(Piece::Braced(&after[..end]))?;
                &after[end + 1..]
            }
            b'}' => {
                return Err(Mistake::new("a `}` without its `{`").hint("a literal brace is written twice: `}}`"));
            }
            byte => {
                literal.push(*byte);
                after
            }
        };
    }
    if literal.is_empty() { Ok(()) } else { each(Piece::Literal(literal)) }
}

/// `%HH` → the byte.
fn unescape(braced: &[u8]) -> Result<Vec<u8>, Mistake> {
    let mut name = Vec::new();
    let mut rest = braced;
    while let Some((first, after)) = rest.split_first() {
        rest = if *first == b'%' {
            let (byte, after) = hex(after).ok_or_else(|| {
                Mistake::new(format!("`%` in `{{{}}}` needs two hexadecimal digits", shown(braced)))
                    .hint("a percent sign is written `%25`")
            })?;
            name.push(byte);
            after
        } else {
            name.push(*first);
            after
        };
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names() -> Vec<String> {
        vec!["tenant".to_owned(), "id".to_owned()]
    }

    #[track_caller]
    fn parse(layout: Layout, word: &str) -> Result<Template, Mistake> {
        Template::parse(word.as_bytes(), &Scope { layout: Some(layout), captures: &names(), ..Scope::default() })
    }

    /// The template with each value shown by what it resolved to.
    #[track_caller]
    fn check(layout: Layout, word: &str, expected: &str) {
        let template = parse(layout, word).unwrap();
        let filled = template.fill(|name| Some(format!("<{name:?}>").into_bytes().into())).unwrap();
        assert_eq!(String::from_utf8_lossy(&filled), expected, "{word}");
    }

    #[track_caller]
    fn refused(layout: Layout, word: &str, what: &str) {
        assert_eq!(parse(layout, word).unwrap_err().what, what, "{word}");
    }

    #[test]
    fn names_are_resolved_at_load() {
        check(Layout::Strings, "t:{tenant}:{id}", "t:<Capture(0)>:<Capture(1)>");
        check(Layout::Zset, "{key}{member}{score}{value}", "<Key><Member><Score><Value>");
        check(Layout::Hash, "{member}", "<Member>");
        let none = Scope { layout: Some(Layout::Zset), ..Scope::default() };
        assert_eq!(Template::parse(b"{id}", &none).unwrap().refs().collect::<Vec<_>>(), [&Ref::Id]);
        let none = Scope { layout: Some(Layout::Hashes), ..Scope::default() };
        assert_eq!(Template::parse(b"{id}", &none).unwrap().refs().collect::<Vec<_>>(), [&Ref::Key]);
        assert_eq!(
            parse(Layout::Strings, "{json:/a%7Cb%7d}").unwrap().refs().collect::<Vec<_>>(),
            [&Ref::Json(Pointer::parse(b"/a|b}").unwrap())]
        );
        assert_eq!(
            parse(Layout::Hashes, "{field:last%20ping%25%ff}").unwrap().refs().collect::<Vec<_>>(),
            [&Ref::Field(Template::literal(b"last ping%\xff"))]
        );
        assert_eq!(
            parse(Layout::Hashes, "{field:more...}").unwrap().refs().collect::<Vec<_>>(),
            [&Ref::Field(Template::literal(b"more..."))]
        );
    }

    #[test]
    fn doubled_braces_are_literal() {
        check(Layout::Strings, "a{{b}}c", "a{b}c");
        check(Layout::Strings, "chat:{{{tenant}}}:seen", "chat:{<Capture(0)>}:seen");
        check(Layout::Strings, "}}{{", "}{");
    }

    #[test]
    fn what_names_nothing_is_refused() {
        refused(Layout::Strings, "{", "the `{` before `` is never closed");
        refused(Layout::Strings, "a}b", "a `}` without its `{`");
        refused(Layout::Strings, "{}", "unknown name `{}`");
        refused(Layout::Strings, "{User}", "unknown name `{User}`");
        refused(Layout::Strings, "{_}", "`{_}` belongs in a pattern; here a value is named");
        refused(Layout::Strings, "{id...}", "`{id...}` belongs in a pattern; here a value is named");
        refused(Layout::Strings, "{id|base64}", "`|base64` is a filter, and filters are not supported here");
        refused(Layout::Strings, "{member}", "`{member}` means nothing for keys that hold a string");
        refused(Layout::Strings, "{score}", "`{score}` means nothing for keys that hold a string");
        refused(Layout::Strings, "{field:a}", "`{field:a}` means nothing for keys that hold a string");
        refused(Layout::Hashes, "{value}", "`{value}` means nothing for keys that hold a hash each");
        refused(Layout::Hashes, "{json:/a}", "`{json:/a}` means nothing for keys that hold a hash each");
        refused(Layout::Hashes, "{field:}", "unknown name `{field:}`");
        refused(Layout::Hash, "{score}", "`{score}` means nothing for the fields of a hash");
        refused(Layout::Zset, "{json:a}", "`a` is no JSON pointer: it does not begin with `/`");
        refused(Layout::Zset, "{source}", "unknown name `{source}`");
        refused(Layout::Zset, "{json:/%zz}", "`%` in `{json:/%zz}` needs two hexadecimal digits");
    }

    #[test]
    fn an_absent_value_leaves_the_template_unfilled_and_an_empty_one_does_not() {
        let template = parse(Layout::Strings, "user:{tenant}:{id}").unwrap();
        assert_eq!(template.fill(|name| (*name == Ref::Capture(0)).then(|| b"x".as_slice().into())), None);
        assert_eq!(template.fill(|_| Some(b"".as_slice().into())), Some(b"user::".to_vec()));
        assert_eq!(template.literal_prefix(), b"user:");
        assert_eq!(parse(Layout::Strings, "{id}x").unwrap().literal_prefix(), b"");
        assert_eq!(Template::parse(b"", &Scope::default()).unwrap().fill(|_| None), Some(Vec::new()));
    }

    #[test]
    fn a_glob_stands_for_all_that_a_template_can_become() {
        let template = parse(Layout::Strings, "a*{{:{tenant}:{value}?").unwrap();
        assert_eq!(template.glob(|_| None), br"a\*{:*:*\?");
        let known = |name: &Ref| (*name == Ref::Value).then(|| b"conn:*".to_vec());
        assert_eq!(template.glob(known), br"a\*{:*:conn:*\?");
    }

    #[test]
    fn what_is_filled_in_is_never_read_again() {
        let template = parse(Layout::Strings, "a:{id}:b").unwrap();
        let filled = template.fill(|_| Some(b"{key} \"x\" \x00\xff%41".as_slice().into()));
        assert_eq!(filled.unwrap(), b"a:{key} \"x\" \x00\xff%41:b");
    }

    proptest! {
        #[test]
        fn reading_never_panics(word in prop::collection::vec(any::<u8>(), 0..60), braces in "[{}a-z:/%|._]{0,30}") {
            for layout in [None, Some(Layout::Zset), Some(Layout::Hashes)] {
                let scope = Scope { layout, captures: &names(), ..Scope::default() };
                let _ = Template::parse(&word, &scope);
                let _ = Template::parse(braces.as_bytes(), &scope);
            }
        }

        #[test]
        fn any_literal_goes_through_as_it_is(literal in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut word = Vec::new();
            for byte in &literal {
                word.push(*byte);
                if matches!(byte, b'{' | b'}') {
                    word.push(*byte);
                }
            }
            let template = Template::parse(&word, &Scope::default()).unwrap();
            prop_assert_eq!(template.fill(|_| None), Some(literal));
        }
    }
}
