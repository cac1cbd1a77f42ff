//! A template that is written out from its parts reads back as these parts, in every layout that has the values it
//! names; and its glob finds whatever it becomes.

#![no_main]

use std::borrow::Cow;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use presence_reaper::language::template::{Layout, Pointer, Ref, Scope, Template};
use presence_reaper_fuzz::{doubled, glob_matches, layouts};

#[derive(Arbitrary, Debug)]
enum Part<'a> {
    Literal(&'a [u8]),
    Key,
    Member,
    Value,
    Score,
    Json(Vec<&'a str>),
    Field(u8, &'a [u8]),
    Tenant,
    Id,
    User,
}

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    raw: &'a [u8],
    parts: Vec<Part<'a>>,
    /// What is put in, by what it is put in for.
    values: [&'a [u8]; 4],
    absent: Option<u8>,
}

fuzz_target!(|input: Input<'_>| {
    let captures = ["tenant".to_owned(), "id".to_owned()];
    for layout in layouts() {
        let lets = ["user".to_owned()];
        let scope = Scope { layout: Some(layout), captures: &captures, lets: &lets, ..Scope::default() };
        if let Ok(template) = Template::parse(input.raw, &scope) {
            holds(&template, &input);
        }
        comes_back(&input, layout, &scope);
    }
    // In doubt about the layout nothing is known and nothing breaks.
    let _ = Template::parse(input.raw, &Scope::default());
});

/// What is true of every template.
fn holds(template: &Template, input: &Input<'_>) {
    let value = |name: &Ref| input.values[kind(name) % input.values.len()];
    let filled = template.fill(|name| Some(Cow::Borrowed(value(name)))).expect("nothing is absent");
    assert!(filled.starts_with(template.literal_prefix()));
    assert!(glob_matches(&template.glob(|_| None), &filled), "the server offers what it becomes");
    // Absence of a value that it names is the one thing that keeps it from being filled.
    let absent = |name: &Ref| input.absent.is_some_and(|absent| kind(name) == usize::from(absent));
    let some = template.fill(|name| (!absent(name)).then(|| Cow::Borrowed(value(name))));
    assert_eq!(some, (!template.refs().any(absent)).then_some(filled));
}

fn comes_back(input: &Input<'_>, layout: Layout, scope: &Scope<'_>) {
    let (mut text, mut refs, mut expected) = (Vec::new(), Vec::new(), Vec::new());
    for part in &input.parts {
        let (name, written): (Ref, Vec<u8>) = match part {
            Part::Literal(bytes) => {
                text.extend(doubled(bytes));
                expected.extend_from_slice(bytes);
                continue;
            }
            Part::Key => (Ref::Key, b"key".to_vec()),
            Part::Member => (Ref::Member, b"member".to_vec()),
            Part::Value => (Ref::Value, b"value".to_vec()),
            Part::Score => (Ref::Score, b"score".to_vec()),
            Part::Tenant => (Ref::Capture(0), b"tenant".to_vec()),
            Part::Id => (Ref::Capture(1), b"id".to_vec()),
            Part::Json(tokens) => {
                let pointer: String =
                    tokens.iter().map(|token| format!("/{}", token.replace('~', "~0").replace('/', "~1"))).collect();
                let parsed = Pointer::parse(pointer.as_bytes()).expect("a pointer by the book");
                assert_eq!(parsed.to_string(), pointer);
                (Ref::Json(parsed), [b"json:".as_slice(), pointer.as_bytes()].concat())
            }
            Part::User => (Ref::Let(0), b"user".to_vec()),
            Part::Field(first, rest) => {
                let field = [&[*first], *rest].concat();
                (Ref::Field(Template::literal(&field)), [b"field:".as_slice(), &field].concat())
            }
        };
        if !has(layout, &name) {
            return;
        }
        text.extend(braced(&written));
        expected.extend_from_slice(input.values[kind(&name) % input.values.len()]);
        refs.push(name);
    }
    let template = Template::parse(&text, scope).unwrap_or_else(|mistake| panic!("{mistake}: {}", text.escape_ascii()));
    assert!(template.refs().eq(&refs), "{:?} for {}", template.refs().collect::<Vec<_>>(), text.escape_ascii());
    let filled = template.fill(|name| Some(Cow::Borrowed(input.values[kind(name) % input.values.len()])));
    assert_eq!(filled, Some(expected), "{}", text.escape_ascii());
    holds(&template, input);
}

/// `{name}`, with `%HH` for what would end it or mean something else.
fn braced(name: &[u8]) -> Vec<u8> {
    let mut text = vec![b'{'];
    for byte in name {
        match byte {
            b'|' | b'}' | b'%' => text.extend(format!("%{byte:02X}").bytes()),
            _ => text.push(*byte),
        }
    }
    text.push(b'}');
    text
}

fn kind(name: &Ref) -> usize {
    match name {
        Ref::Key => 0,
        Ref::Member => 1,
        Ref::Id => 2,
        Ref::Value => 3,
        Ref::Score => 4,
        Ref::Json(_) => 5,
        Ref::Field(_) => 6,
        Ref::Let(index) => 7 + index,
        Ref::Each(index) => 8 + index,
        Ref::Capture(index) => 9 + index,
    }
}

/// The table of the language: what an entry of each kind has.
fn has(layout: Layout, name: &Ref) -> bool {
    match name {
        Ref::Key | Ref::Id | Ref::Capture(_) | Ref::Let(_) | Ref::Each(_) => true,
        Ref::Member => matches!(layout, Layout::Zset | Layout::Hash | Layout::Set),
        Ref::Value | Ref::Json(_) => !matches!(layout, Layout::Hashes | Layout::Keys),
        Ref::Score => layout == Layout::Zset,
        Ref::Field(_) => layout == Layout::Hashes,
    }
}
