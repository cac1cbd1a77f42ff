//! A pattern matches what the same pattern, said plainly, matches; its captures put back make the key; its glob finds every
//! key; and what it says of companions errs on the safe side.

#![no_main]

use std::borrow::Cow;
use std::ops::Range;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use presence_reaper::language::pattern::Pattern;
use presence_reaper::language::template::{Layout, Ref, Scope, Template};
use presence_reaper::language::words;
use presence_reaper_fuzz::{doubled, glob_matches};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    raw: &'a str,
    parts: Vec<(Few, bool, bool)>,
    last: Few,
    key: Few,
    /// What is put in the place of captures, to make keys that match.
    fillings: [Few; 3],
    template: Vec<(Few, u8)>,
}

/// A few bytes of a small alphabet, so that texts collide.
#[derive(Arbitrary, Debug)]
struct Few(Vec<u8>);

impl Few {
    fn bytes(&self) -> Vec<u8> {
        self.0.iter().take(6).map(|byte| b"aab:*?[\\^{}\xff\n-]."[usize::from(byte % 16)]).collect()
    }
}

/// A stretch of a pattern, read a second time.
enum Stretch {
    Literal(Vec<u8>),
    Capture { named: bool, longest: bool },
}

fuzz_target!(|input: Input<'_>| {
    // Whatever its text is.
    if input.raw.len() < 400
        && let Ok(pattern) = Pattern::parse(input.raw, "the pattern")
    {
        let word = words::one(input.raw, "the pattern").expect("it was read as one word");
        holds(&pattern, &read(&word), &input);
    }
    // And one that is well-formed by the way it was made.
    let mut text = Vec::new();
    let mut captures = 0;
    for (literal, named, longest) in input.parts.iter().take(4) {
        let literal = literal.bytes();
        if literal.is_empty() && captures > 0 {
            continue;
        }
        text.extend(doubled(&literal));
        let name = if *named { format!("n{captures}") } else { "_".to_owned() };
        text.extend(format!("{{{name}{}}}", if *longest { "..." } else { "" }).bytes());
        captures += 1;
    }
    text.extend(doubled(&input.last.bytes()));
    let quoted = presence_reaper::text::quoted(&text);
    match Pattern::parse(&quoted, "the pattern") {
        Ok(pattern) => holds(&pattern, &read(&text), &input),
        Err(mistake) => assert!(text.is_empty(), "{mistake}: {quoted}"),
    }
});

fn holds(pattern: &Pattern, plain: &[Stretch], input: &Input<'_>) {
    let blanks = plain.iter().filter(|part| matches!(part, Stretch::Capture { .. })).count();
    let fillings: Vec<Vec<u8>> = (0..blanks).map(|at| input.fillings[at % 3].bytes()).collect();
    let mut filling = fillings.iter();
    let made: Vec<u8> = plain
        .iter()
        .flat_map(|part| match part {
            Stretch::Literal(bytes) => bytes.clone(),
            Stretch::Capture { .. } => filling.next().cloned().unwrap_or_default(),
        })
        .collect();
    for key in [made.clone(), input.key.bytes(), input.raw.as_bytes().to_vec()] {
        agree(pattern, plain, &key);
    }
    assert!(pattern.matches(&made) || fillings.iter().any(Vec::is_empty), "made to match: {}", made.escape_ascii());
    companions(pattern, input);
}

/// Pattern and plain matcher find the same.
fn agree(pattern: &Pattern, plain: &[Stretch], key: &[u8]) {
    let expected = plainly(plain, key);
    assert_eq!(pattern.blanks(key), expected, "{pattern:?} on {}", key.escape_ascii());
    assert_eq!(pattern.matches(key), expected.is_some());
    let named: Option<Vec<Range<usize>>> = expected.as_ref().map(|blanks| {
        let captures = plain.iter().filter_map(|part| match part {
            Stretch::Capture { named, .. } => Some(*named),
            Stretch::Literal(_) => None,
        });
        blanks.iter().zip(captures).filter(|(_, named)| *named).map(|(range, _)| range.clone()).collect()
    });
    assert_eq!(named.as_ref().map(Vec::len), named.as_ref().map(|_| pattern.names().len()));
    assert_eq!(pattern.captures(key), named);
    let Some(blanks) = expected else { return };
    assert!(glob_matches(&pattern.glob(), key), "{} offers {}", pattern.glob().escape_ascii(), key.escape_ascii());
    assert!(key.starts_with(pattern.literal_prefix()));
    // Put back, they make the key.
    let mut blanks = blanks.into_iter();
    let whole = plain.iter().flat_map(|part| match part {
        Stretch::Literal(bytes) => bytes.clone(),
        Stretch::Capture { .. } => key[blanks.next().expect("one for each")].to_vec(),
    });
    assert_eq!(whole.collect::<Vec<_>>(), key);
}

/// No filling that matches is ever called impossible, and none that does not match is ever called covered.
fn companions(pattern: &Pattern, input: &Input<'_>) {
    let captures = ["id".to_owned()];
    let scope = Scope { layout: Some(Layout::Strings), captures: &captures, ..Scope::default() };
    let mut text = Vec::new();
    for (literal, name) in input.template.iter().take(5) {
        text.extend(doubled(&literal.bytes()));
        text.extend_from_slice([b"{id}".as_slice(), b"{value}", b""][usize::from(name % 3)]);
    }
    let Ok(template) = Template::parse(&text, &scope) else { panic!("well-formed: {}", text.escape_ascii()) };
    let id = [b"a".as_slice(), &input.fillings[0].bytes()].concat();
    let value = input.fillings[1].bytes();
    let filled = template
        .fill(|name| Some(Cow::Borrowed(if *name == Ref::Value { value.as_slice() } else { id.as_slice() })))
        .expect("nothing is absent");
    let matched = pattern.matches(&filled);
    let shown = || format!("{pattern:?} and {} as {}", text.escape_ascii(), filled.escape_ascii());
    assert!(!matched || pattern.can_match_template(&template), "{}", shown());
    assert!(matched || !pattern.covers_template(&template), "{}", shown());
}

/// A word that is known to be a pattern, cut at its braces.
fn read(word: &[u8]) -> Vec<Stretch> {
    let mut parts = Vec::new();
    let mut literal = Vec::new();
    let mut at = 0;
    while at < word.len() {
        match &word[at..] {
            [b'{', b'{', ..] | [b'}', b'}', ..] => {
                literal.push(word[at]);
                at += 2;
            }
            [b'{', rest @ ..] => {
                let end = rest.iter().position(|byte| *byte == b'}').expect("it is closed");
                if !literal.is_empty() {
                    parts.push(Stretch::Literal(std::mem::take(&mut literal)));
                }
                let name = &rest[..end];
                parts.push(Stretch::Capture { named: !name.starts_with(b"_"), longest: name.ends_with(b"...") });
                at += end + 2;
            }
            _ => {
                literal.push(word[at]);
                at += 1;
            }
        }
    }
    if !literal.is_empty() {
        parts.push(Stretch::Literal(literal));
    }
    parts
}

/// Where the captures stand: from the left, each the fewest bytes (or the most) that let the whole match.
fn plainly(parts: &[Stretch], key: &[u8]) -> Option<Vec<Range<usize>>> {
    // `can[part][at]`: whether the parts from this one on match the key from there on.
    let mut can = vec![vec![false; key.len() + 2]; parts.len() + 1];
    can[parts.len()][key.len()] = true;
    for (index, part) in parts.iter().enumerate().rev() {
        for at in (0..=key.len()).rev() {
            can[index][at] = match part {
                Stretch::Literal(bytes) => key[at..].starts_with(bytes) && can[index + 1][at + bytes.len()],
                Stretch::Capture { .. } => can[index + 1][at + 1] || (at < key.len() && can[index][at + 1]),
            };
        }
    }
    if !can[0][0] {
        return None;
    }
    let mut at = 0;
    let mut found = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        match part {
            Stretch::Literal(bytes) => at += bytes.len(),
            Stretch::Capture { longest, .. } => {
                let mut ends = (at + 1..=key.len()).filter(|end| can[index + 1][*end]);
                let end = if *longest { ends.next_back() } else { ends.next() }?;
                found.push(at..end);
                at = end;
            }
        }
    }
    Some(found)
}
