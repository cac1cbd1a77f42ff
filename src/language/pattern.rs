//! Which keys, members or fields are meant, and how they split into named parts.

use std::ops::Range;

use regex::bytes::{Regex, RegexBuilder};

use super::overlap::{self, Token};
use super::template::{Part, Piece, Ref, Template, pieces};
use super::{Mistake, shown, words};
use crate::policy::entry::Bytes;

/// Names that mean something else in a template.
const TAKEN: [&str; 4] = ["key", "member", "value", "score"];

/// A text with captures, matched against whole keys as bytes: `conn:{tenant}:{id}`.
///
/// `{a}` takes the fewest bytes (at least one) that let the whole match, `{a...}` the most; `{_}` binds nothing.
#[derive(Clone, Debug)]
pub struct Pattern {
    parts: Vec<Stretch>,
    names: Vec<String>,
    /// None when there is nothing but literal bytes.
    regex: Option<Regex>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stretch {
    Literal(Vec<u8>),
    Capture { named: bool, longest: bool },
}

impl Pattern {
    /// Reads a text of one word; `of` names it in messages.
    pub fn parse(text: &str, of: &str) -> Result<Self, Mistake> {
        Self::of(&words::one(text, of)?, of)
    }

    /// Reads a word; `of` names it in messages.
    pub(super) fn of(word: &[u8], of: &str) -> Result<Self, Mistake> {
        let mut parts: Vec<Stretch> = Vec::new();
        let mut names: Vec<String> = Vec::new();
        pieces(word, |piece| {
            let part = match piece {
                Piece::Literal(bytes) => Stretch::Literal(bytes),
                Piece::Braced(braced) => {
                    let (name, longest) = capture(braced)?;
                    if matches!(parts.last(), Some(Stretch::Capture { .. })) {
                        return Err(Mistake::new(format!(
                            "nothing stands between `{{{}}}` and the capture before it",
                            shown(braced)
                        ))
                        .hint("two captures need a literal between them, or nobody knows where one ends"));
                    }
                    if let Some(name) = &name {
                        if names.contains(name) {
                            return Err(Mistake::new(format!("the capture `{{{name}}}` occurs twice"))
                                .hint("give one of the two another name, or write `{_}`"));
                        }
                        names.push(name.clone());
                    }
                    Stretch::Capture { named: name.is_some(), longest }
                }
            };
            parts.push(part);
            Ok(())
        })?;
        if parts.is_empty() {
            return Err(Mistake::new(format!("{of} is empty")));
        }
        let regex = if parts.iter().all(|part| matches!(part, Stretch::Literal(_))) {
            None
        } else {
            let built = RegexBuilder::new(&regex_of(&parts)).unicode(false).dot_matches_new_line(true).build();
            Some(built.map_err(|_| Mistake::new(format!("{of} is too large")))?)
        };
        Ok(Self { parts, names, regex })
    }

    /// Whether the whole of `bytes` has this shape.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        match &self.regex {
            Some(regex) => regex.is_match(bytes),
            None => matches!(self.parts.as_slice(), [Stretch::Literal(literal)] if literal == bytes),
        }
    }

    /// Where each named capture stands in `bytes`, in the order of [`Pattern::names`]; `None` when it does not match.
    pub fn captures(&self, bytes: &[u8]) -> Option<Vec<Range<usize>>> {
        let blanks = self.blanks(bytes)?;
        let captures = self.parts.iter().filter(|part| matches!(part, Stretch::Capture { .. }));
        let named = captures.map(|part| matches!(part, Stretch::Capture { named: true, .. }));
        Some(blanks.into_iter().zip(named).filter(|(_, named)| *named).map(|(range, _)| range).collect())
    }

    /// Where in `bytes` stands what the pattern does not spell out, named or not; `None` when it does not match.
    pub fn blanks(&self, bytes: &[u8]) -> Option<Vec<Range<usize>>> {
        let Some(regex) = &self.regex else { return self.matches(bytes).then(Vec::new) };
        let found = regex.captures(bytes)?;
        Some(found.iter().skip(1).flatten().map(|capture| capture.range()).collect())
    }

    /// The named captures, in order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The pattern as Redis' `SCAN … MATCH` takes it. It matches all that this pattern does, and sometimes more: every
    /// hit is matched again here.
    pub fn glob(&self) -> Vec<u8> {
        let mut glob = Vec::new();
        for part in &self.parts {
            match part {
                Stretch::Literal(bytes) => glob.extend(escaped(bytes)),
                Stretch::Capture { .. } => glob.push(b'*'),
            }
        }
        glob
    }

    /// The bytes themselves, when there is no capture.
    pub fn literal(&self) -> Option<Bytes> {
        match self.parts.as_slice() {
            [Stretch::Literal(bytes)] => Some(bytes.as_slice().into()),
            _ => None,
        }
    }

    /// The bytes before the first capture.
    pub fn literal_prefix(&self) -> &[u8] {
        match self.parts.first() {
            Some(Stretch::Literal(bytes)) => bytes,
            _ => &[],
        }
    }

    /// The longest run of literal bytes.
    pub fn longest_literal(&self) -> usize {
        let length = |part: &Stretch| if let Stretch::Literal(bytes) = part { bytes.len() } else { 0 };
        self.parts.iter().map(length).max().unwrap_or(0)
    }

    /// The same as a stretch of a template: what a member with this shape can be.
    pub(super) fn as_template(&self) -> impl Iterator<Item = Part> {
        self.parts.iter().map(|part| match part {
            Stretch::Literal(bytes) => Part::Literal(bytes.clone()),
            Stretch::Capture { .. } => Part::Ref(Ref::Id),
        })
    }

    /// Whether some filling of `template` has this shape. When in doubt, it has.
    pub fn can_match_template(&self, template: &Template) -> bool {
        overlap::overlap(&self.shape(), &shape_of(template))
    }

    /// Whether `template` has this shape by its own text, whatever its values are; and not just for values that spell out
    /// a part of this pattern.
    pub fn catches_template(&self, template: &Template) -> bool {
        let shape = template.parts().iter().flat_map(|part| match part {
            Part::Literal(bytes) => bytes.iter().map(|byte| Token::Byte(*byte)).collect(),
            Part::Ref(_) => vec![Token::Alien],
        });
        overlap::overlap(&self.shape(), &shape.collect::<Vec<_>>())
    }

    /// Whether every filling of `template` surely has this shape.
    pub fn covers_template(&self, template: &Template) -> bool {
        overlap::covers(&self.shape(), &shape_of(template))
    }

    /// Whether some bytes can have both shapes. When in doubt, they can.
    pub(super) fn can_match(&self, other: &Self) -> bool {
        overlap::overlap(&self.shape(), &other.shape())
    }

    /// Whether all that `other` matches surely has this shape.
    pub(super) fn covers(&self, other: &Self) -> bool {
        overlap::covers(&self.shape(), &other.shape())
    }

    fn shape(&self) -> Vec<Token> {
        let mut shape = Vec::new();
        for part in &self.parts {
            match part {
                Stretch::Literal(bytes) => shape.extend(bytes.iter().map(|byte| Token::Byte(*byte))),
                Stretch::Capture { .. } => shape.extend([Token::One, Token::Star]),
            }
        }
        shape
    }
}

impl Template {
    /// Whether some filling is exactly `bytes`.
    pub(super) fn can_be(&self, bytes: &[u8]) -> bool {
        let bytes: Vec<Token> = bytes.iter().map(|byte| Token::Byte(*byte)).collect();
        overlap::overlap(&bytes, &shape_of(self))
    }
}

/// Bytes as a glob of Redis that matches nothing else.
pub fn escaped(bytes: &[u8]) -> Vec<u8> {
    let mut glob = Vec::with_capacity(bytes.len());
    for byte in bytes {
        if matches!(byte, b'*' | b'?' | b'[' | b'\\') {
            glob.push(b'\\');
        }
        glob.push(*byte);
    }
    glob
}

/// What a filled template can look like. What a pattern captured and what a key is named is never empty; a member or a
/// value may be.
fn shape_of(template: &Template) -> Vec<Token> {
    let mut shape = Vec::new();
    for part in template.parts() {
        match part {
            Part::Literal(bytes) => shape.extend(bytes.iter().map(|byte| Token::Byte(*byte))),
            Part::Ref(Ref::Capture(_) | Ref::Each(_) | Ref::Key) => shape.extend([Token::One, Token::Star]),
            Part::Ref(_) => shape.push(Token::Star),
        }
    }
    shape
}

/// `name`, `name...`, `_` or `_...` → the name, if it binds, and whether it takes the most.
fn capture(braced: &[u8]) -> Result<(Option<String>, bool), Mistake> {
    let (name, longest) = braced.strip_suffix(b"...").map_or((braced, false), |name| (name, true));
    if name == b"_" {
        return Ok((None, longest));
    }
    let well_formed = name.first().is_some_and(u8::is_ascii_lowercase)
        && name.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'_');
    let name = shown(name);
    if !well_formed {
        return Err(Mistake::new(format!("`{{{}}}` is no capture", shown(braced))).hint(
            "a capture is `{name}` in small letters, digits and `_`, or `{_}`; a literal brace is written `{{`",
        ));
    }
    if TAKEN.contains(&name.as_str()) {
        return Err(Mistake::new(format!("a capture cannot be named `{name}`: templates mean something else by it"))
            .hint("give it another name, or write `{_}`"));
    }
    Ok((Some(name), longest))
}

/// Each literal byte as `\xHH`, so that no byte means anything to the regex.
fn regex_of(parts: &[Stretch]) -> String {
    let mut regex = String::from(r"\A");
    for part in parts {
        match part {
            Stretch::Literal(bytes) => regex.extend(bytes.iter().map(|byte| format!(r"\x{byte:02x}"))),
            Stretch::Capture { longest, .. } => regex.push_str(if *longest { "(.+)" } else { "(.+?)" }),
        }
    }
    regex.push_str(r"\z");
    regex
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::template::Scope;
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text, "the pattern").unwrap()
    }

    #[track_caller]
    fn check(text: &str, key: &[u8], expected: Option<&[&[u8]]>) {
        let pattern = pattern(text);
        let found = pattern.captures(key).map(|ranges| ranges.into_iter().map(|range| &key[range]).collect::<Vec<_>>());
        assert_eq!(found.as_deref(), expected, "{text} on {}", key.escape_ascii());
        assert_eq!(pattern.matches(key), expected.is_some());
        assert!(expected.is_none() || glob_matches(&pattern.glob(), key), "the server offers what we match");
    }

    #[track_caller]
    fn refused(text: &str, what: &str) {
        assert_eq!(Pattern::parse(text, "the pattern").unwrap_err().what, what, "{text}");
    }

    #[test]
    fn a_capture_takes_the_fewest_bytes_or_the_most() {
        check("conn:{a}:{b}", b"conn:1:2:3", Some(&[b"1", b"2:3"]));
        check("conn:{a...}:{b}", b"conn:1:2:3", Some(&[b"1:2", b"3"]));
        check("conn:{a}:x", b"conn:1:x:x", Some(&[b"1:x"]));
        check("{a}:{b}:{c...}", b"1:2:3:4", Some(&[b"1", b"2", b"3:4"]));
    }

    #[test]
    fn a_capture_is_never_empty_and_the_whole_must_match() {
        check("conn:{a}", b"conn:", None);
        check("conn:{a}", b"xconn:1", None);
        check("conn:{a}:", b"conn:1", None);
        check("conn:{a}:{b}", b"conn::x", None);
        check("conn:{a}:{b}", b"conn::x:y", Some(&[b":x", b"y"]));
    }

    #[test]
    fn keys_are_bytes() {
        check("conn:{a}", b"conn:\x00\xff\n\xc3", Some(&[b"\x00\xff\n\xc3"]));
        check("conn:{a}:é", "conn:\u{1F600}:é".as_bytes(), Some(&["\u{1F600}".as_bytes()]));
        check(r#""\x00\xff{a}""#, b"\x00\xffx", Some(&[b"x"]));
    }

    #[test]
    fn what_means_something_to_a_glob_or_a_regex_is_ordinary_here() {
        check(r"a*[b]?\{a}", br"a*[b]?\z", Some(&[b"z"]));
        check(r"a*[b]?\{a}", br"axxb?\z", None);
        check("(a+)|{a}$^", b"(a+)|1$^", Some(&[b"1"]));
        assert_eq!(pattern(r"a*[b]?\{a}").glob(), br"a\*\[b]\?\\*");
    }

    #[test]
    fn an_unnamed_capture_binds_nothing() {
        check("{_}:{a}:{_...}", b"1:2:3", Some(&[b"2"]));
        assert_eq!(pattern("a{_}:{a}:x").blanks(b"a12:3:x"), Some(vec![1..3, 4..5]), "and is a blank all the same");
        assert_eq!(pattern("{_}:{a}:{b}").names(), ["a", "b"]);
    }

    #[test]
    fn without_captures_it_is_literal() {
        check("a:{{b}}", b"a:{b}", Some(&[]));
        check("a:{{b}}", b"a:{b}x", None);
        assert_eq!(pattern("a:{{b}}").literal().as_deref(), Some(b"a:{b}".as_slice()));
        assert_eq!(pattern("a:{b}").literal(), None);
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        refused("", "the pattern is empty");
        refused(r#""""#, "the pattern is empty");
        refused("a b", "the pattern is one word, and `a b` are 2");
        refused("a:{a}{b}", "nothing stands between `{b}` and the capture before it");
        refused("a:{_}{b...}", "nothing stands between `{b...}` and the capture before it");
        refused("a:{a}:{a}", "the capture `{a}` occurs twice");
        refused("a:{}", "`{}` is no capture");
        refused("a:{1}", "`{1}` is no capture");
        refused("a:{A}", "`{A}` is no capture");
        refused("a:{a..}", "`{a..}` is no capture");
        refused("a:{value}", "a capture cannot be named `value`: templates mean something else by it");
        refused("a:{a", "the `{` before `a` is never closed");
    }

    // === overlap ===

    #[track_caller]
    fn overlaps(text: &str, template: &str, can: bool, covered: bool) {
        let pattern = pattern(text);
        let captures = ["id".to_owned()];
        let scope =
            Scope { layout: Some(super::super::template::Layout::Strings), captures: &captures, ..Scope::default() };
        let template = Template::parse(template.as_bytes(), &scope).unwrap();
        assert_eq!(pattern.can_match_template(&template), can, "{text} can match");
        assert_eq!(pattern.covers_template(&template), covered, "{text} covers");
    }

    #[test]
    fn a_template_is_caught_by_its_own_text_alone() {
        let captures = ["id".to_owned()];
        let scope =
            Scope { layout: Some(super::super::template::Layout::Strings), captures: &captures, ..Scope::default() };
        for (text, template, expected) in [
            ("room:{a}:seen", "room:{id}:seen", true),
            ("room:{a}:seen", "room:all:seen", true),
            ("room:{a}:seen", "room:{id}:conn:{id}", false),
            ("room:{a}:seen", "room:{id}", false),
            ("room:{a}", "room:{id}:conn:{value}", true),
            ("room:{a}", "room:{value}", true),
            ("room:{a}", "room:", false),
            ("{a}:seen", "user:{id}:seen", true),
            ("a:{a}:{b}", "a:{id}", false),
            ("a:{a}:{b}", "a:{id}:{id}", true),
        ] {
            let template = Template::parse(template.as_bytes(), &scope).unwrap();
            assert_eq!(pattern(text).catches_template(&template), expected, "{text} {template:?}");
        }
    }

    #[test]
    fn whether_a_companion_can_be_an_entry() {
        overlaps("conn:{id}", "user:{id}", false, false);
        overlaps("conn:{id}", "conn:{id}:meta", true, true);
        overlaps("conn:{id}", "conn:", false, false);
        overlaps("conn:{id}", "conn:x", true, true);
        overlaps("conn:{id}", "conn:{value}", true, false);
        overlaps("conn:{id}", "conn:{value}{id}", true, true);
        overlaps("conn:{_}:meta", "conn:{id}:meta", true, true);
        overlaps("conn:{_}:meta", "conn:{id}", true, false);
        overlaps("conn:{_}:meta", "conn:{value}:meta", true, false);
        overlaps("conn:{a}:x", "conn:{id}:y", false, false);
        overlaps("{_}:conn", "user:{id}", true, false);
        overlaps("abc", "ab{id}", true, false);
        overlaps("abc", "abc{id}", false, false);
        overlaps("abc", "abc{value}", true, false);
    }

    // === properties ===

    /// Redis' `stringmatchlen`, as far as our globs use it: `*`, and `\` before a literal.
    fn glob_matches(glob: &[u8], text: &[u8]) -> bool {
        match glob {
            [] => text.is_empty(),
            [b'*', rest @ ..] => (0..=text.len()).any(|skip| glob_matches(rest, &text[skip..])),
            [b'\\', literal, rest @ ..] | [literal, rest @ ..] => {
                text.first() == Some(literal) && glob_matches(rest, &text[1..])
            }
        }
    }

    /// A pattern's text in few letters, so that texts collide.
    fn texts() -> impl Strategy<Value = String> {
        let literal = "[ab:*?\\[\\\\^]{1,3}";
        (prop::option::of(literal), prop::collection::vec((any::<bool>(), any::<bool>(), literal), 0..4)).prop_map(
            |(first, rest)| {
                let mut text = first.unwrap_or_default();
                for (index, (named, longest, literal)) in rest.into_iter().enumerate() {
                    let name = if named { format!("n{index}") } else { "_".to_owned() };
                    text.push_str(&format!("{{{name}{}}}{literal}", if longest { "..." } else { "" }));
                }
                if text.is_empty() { "a".to_owned() } else { text }
            },
        )
    }

    /// A template's text over the same letters; `{id}` is never empty, `{value}` may be.
    fn templates() -> impl Strategy<Value = String> {
        prop::collection::vec(prop_oneof!["[ab:*]{1,2}", Just("{id}".to_owned()), Just("{value}".to_owned())], 1..5)
            .prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in any::<String>(), braces in "[{}a-z_.:]{0,30}") {
            let _ = Pattern::parse(&text, "the pattern");
            let _ = Pattern::parse(&braces, "the pattern");
        }

        #[test]
        fn the_glob_matches_all_that_the_pattern_does(text in texts(), key in "[ab:*?\\[\\\\^]{0,12}") {
            let pattern = pattern(&text);
            let matched = pattern.matches(key.as_bytes());
            prop_assert!(!matched || glob_matches(&pattern.glob(), key.as_bytes()));
            prop_assert_eq!(matched, pattern.captures(key.as_bytes()).is_some());
        }

        #[test]
        fn captures_put_back_into_the_pattern_make_the_key(key in prop::collection::vec(any::<u8>(), 1..20), id in prop::collection::vec(any::<u8>(), 1..20)) {
            let pattern = pattern("c:{a}:{b...}");
            let whole = [b"c:".as_slice(), &key, b":", &id].concat();
            let found = pattern.captures(&whole).unwrap();
            prop_assert_eq!([b"c:".as_slice(), &whole[found[0].clone()], b":", &whole[found[1].clone()]].concat(), whole);
        }

        /// The rule that keeps companions off the living: no filling that matches is ever called impossible, and none
        /// that does not match is ever called covered.
        #[test]
        fn overlap_is_never_wrong_on_the_dangerous_side(
            text in texts(),
            template in templates(),
            id in "[ab:]{1,3}",
            value in "[ab:]{0,3}",
        ) {
            let pattern = pattern(&text);
            let captures = ["id".to_owned()];
            let scope = Scope { layout: Some(super::super::template::Layout::Strings), captures: &captures, ..Scope::default() };
            let template = Template::parse(template.as_bytes(), &scope).unwrap();
            let filled = template.fill(|name| Some(if *name == Ref::Value { value.as_bytes() } else { id.as_bytes() }.into())).unwrap();
            let matched = pattern.matches(&filled);
            prop_assert!(!matched || pattern.can_match_template(&template));
            prop_assert!(matched || !pattern.covers_template(&template));
            prop_assert!(template.can_be(&filled));
        }
    }
}
