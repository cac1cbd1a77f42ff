//! What may hold of an entry or not: `exists job:{id}`, `not hget conn:{id} state eq away`.

use super::action::{MIN_LITERAL, OWN_PREFIX};
use super::template::{Part, Piece, Ref, Scope, Template, pieces};
use super::value::{Place, Value, check_key};
use super::{Mistake, nearest, shown, words};

/// A question about an entry that is answered by yes or no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What is asked.
    pub test: Test,
    /// It holds where the answer is no.
    pub negated: bool,
    /// As written, for reports.
    pub text: String,
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// `exists KEY`
    Exists(Template),
    /// `sismember KEY MEMBER`
    IsMember {
        /// The set.
        key: Template,
        /// Whether this is in it.
        member: Template,
    },
    /// `hexists KEY FIELD`
    HasField {
        /// The hash.
        key: Template,
        /// Whether it has this field.
        field: Template,
    },
    /// `disjoint KEY KEY`: the two sets share no member.
    Disjoint([Template; 2]),
    /// `any-key KEY{_}`: some key is there that begins, goes on and ends with these, and has any bytes between them.
    AnyKey(Vec<Template>),
    /// `VALUE eq TEXT`, and with the answer turned round `VALUE ne TEXT`. An absent value equals nothing.
    Equals {
        /// What is compared.
        value: Value,
        /// With what; a score as the number that it is.
        text: Template,
    },
}

/// The words a test can begin with, and what it takes.
const TESTS: [(&str, &str); 12] = [
    ("exists", "exists KEY"),
    ("sismember", "sismember KEY MEMBER"),
    ("hexists", "hexists KEY FIELD"),
    ("disjoint", "disjoint KEY KEY"),
    ("get", "get KEY [json /pointer] eq TEXT"),
    ("hget", "hget KEY FIELD [json /pointer] eq TEXT"),
    ("zscore", "zscore KEY MEMBER eq NUMBER"),
    ("value", "value eq TEXT"),
    ("json", "json /pointer eq TEXT"),
    ("field", "field NAME eq TEXT"),
    ("score", "score eq NUMBER"),
    (ANY_KEY, "any-key KEY{_}"),
];

/// Answered by a walk over the keys, which nobody can do within a script.
const ANY_KEY: &str = "any-key";

impl Condition {
    /// Reads a condition; `not`, the words of a test, `json`, `eq` and `ne` ignore case.
    ///
    /// # Errors
    /// It is none, names a value that an entry of this kind does not have, or leads to our own keys.
    pub fn parse(text: &str, scope: &Scope<'_>) -> Result<Self, Mistake> {
        Self::of(&words::split(text)?, text, scope)
    }

    /// Reads a condition of `unless`, where `any-key` may stand too.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_unless(text: &str, scope: &Scope<'_>) -> Result<Self, Mistake> {
        Self::read(&words::split(text)?, text, scope)
    }

    /// Reads the words of a condition, which is written as `text`.
    pub(super) fn of(words: &[Vec<u8>], text: &str, scope: &Scope<'_>) -> Result<Self, Mistake> {
        let condition = Self::read(words, text, scope)?;
        match condition.test {
            Test::AnyKey(_) => Err(Mistake::new("`any-key` stands in `unless` alone")
                .hint("it takes a walk over all keys; `exists KEY` asks for one")),
            _ => Ok(condition),
        }
    }

    fn read(words: &[Vec<u8>], text: &str, scope: &Scope<'_>) -> Result<Self, Mistake> {
        let (not, rest) = match words.split_first() {
            Some((first, rest)) if is(first, "not") => (true, rest),
            _ => (false, words),
        };
        let Some((first, rest)) = rest.split_first() else {
            return Err(Mistake::new("the condition is empty").hint(format!("there are {}", usages())));
        };
        let name = shown(first).to_ascii_lowercase();
        let Some((_, usage)) = TESTS.into_iter().find(|(known, _)| *known == name) else {
            return Err(unknown(&name));
        };
        let read = Reader { scope, name: &name, text, usage };
        let (test, unequal) = read.test(rest)?;
        Ok(Self { test, negated: not != unequal, text: text.to_owned() })
    }

    /// The keys that it asks for.
    pub fn keys(&self) -> &[Template] {
        match &self.test {
            Test::Exists(key) | Test::IsMember { key, .. } | Test::HasField { key, .. } => std::slice::from_ref(key),
            Test::Disjoint(keys) => keys,
            Test::Equals { value, .. } => value.key().map(std::slice::from_ref).unwrap_or_default(),
            Test::AnyKey(_) => &[],
        }
    }

    /// The values of the entry that it names.
    pub fn refs(&self) -> impl Iterator<Item = &Ref> {
        let (keys, value, part): (&[Template], Option<&Value>, Option<&Template>) = match &self.test {
            Test::Exists(_) | Test::Disjoint(_) => (self.keys(), None, None),
            Test::IsMember { member: part, .. } | Test::HasField { field: part, .. } => (self.keys(), None, Some(part)),
            Test::Equals { value, text } => (&[], Some(value), Some(text)),
            Test::AnyKey(pieces) => (pieces, None, None),
        };
        value.into_iter().flat_map(Value::refs).chain(keys.iter().chain(part).flat_map(Template::refs))
    }
}

/// One condition while it is read.
struct Reader<'r> {
    scope: &'r Scope<'r>,
    /// The word the test begins with.
    name: &'r str,
    text: &'r str,
    usage: &'static str,
}

impl Reader<'_> {
    /// The test behind its first word, and whether `ne` turned it round.
    fn test(&self, rest: &[Vec<u8>]) -> Result<(Test, bool), Mistake> {
        let test = match (self.name, rest) {
            ("exists", [key]) => Test::Exists(self.key(key)?),
            ("sismember", [key, member]) => Test::IsMember { key: self.key(key)?, member: self.template(member)? },
            ("hexists", [key, field]) => Test::HasField { key: self.key(key)?, field: self.template(field)? },
            ("disjoint", [one, other]) => Test::Disjoint([self.key(one)?, self.key(other)?]),
            (ANY_KEY, [key]) => Test::AnyKey(self.pieces(key)?),
            ("exists" | "sismember" | "hexists" | "disjoint" | ANY_KEY, _) => return Err(self.wrong_count()),
            (_, [value @ .., how, text]) if is(how, "eq") || is(how, "ne") => {
                let value = self.value(value)?;
                return Ok((Test::Equals { text: self.compared_with(&value, text)?, value }, is(how, "ne")));
            }
            _ => return Err(self.wrong_count()),
        };
        Ok((test, false))
    }

    /// What stands between the `{_}` of a key.
    fn pieces(&self, word: &[u8]) -> Result<Vec<Template>, Mistake> {
        let mut between: Vec<Vec<Part>> = vec![Vec::new()];
        let mut longest = 0;
        pieces(word, |piece| {
            let part = match piece {
                Piece::Braced(b"_") => {
                    between.push(Vec::new());
                    return Ok(());
                }
                Piece::Braced(name) => Part::Ref(self.scope.resolve(name)?),
                Piece::Literal(bytes) => {
                    longest = longest.max(bytes.len());
                    Part::Literal(bytes)
                }
            };
            if let Some(last) = between.last_mut() {
                last.push(part);
            }
            Ok(())
        })?;
        if between.len() < 2 {
            return Err(Mistake::new(format!("`{}` holds no `{{_}}`, which stands for any bytes", shown(word)))
                .hint("one key by its name is asked for by `exists KEY`"));
        }
        if longest < MIN_LITERAL {
            return Err(Mistake::new(format!(
                "`{}` has no {MIN_LITERAL} literal bytes in a row: it would match half the database",
                shown(word)
            ))
            .hint("write the text that all such keys share, as in `job:{id}:{_}`"));
        }
        let pieces: Vec<Template> = between.into_iter().map(Template::of).collect();
        match pieces.first() {
            Some(first) if first.literal_prefix().starts_with(OWN_PREFIX) => {
                Err(Mistake::new("keys under `presence-reaper:` are the reaper's own")
                    .hint("what is asked about is what a hub or a worker wrote"))
            }
            _ => Ok(pieces),
        }
    }

    /// The value behind its first word.
    fn value(&self, rest: &[Vec<u8>]) -> Result<Value, Mistake> {
        let words = [&[self.name.as_bytes().to_vec()], rest].concat();
        let value = Value::of(&words, self.text, self.scope).map_err(|mistake| {
            if mistake.what.starts_with("wrong number of words") { self.wrong_count() } else { mistake }
        })?;
        Ok(value)
    }

    /// A score is a number, so that what it is compared with has to be one too.
    fn compared_with(&self, value: &Value, word: &[u8]) -> Result<Template, Mistake> {
        let text = self.template(word)?;
        let of_score = match value {
            Value::Own(own) => *own == Ref::Score,
            Value::Lookup(lookup) => matches!(lookup.place, Place::Score { .. }),
            Value::Idle | Value::Unchanged => false,
        };
        if of_score && text.as_literal().is_some_and(|literal| number(literal).is_none()) {
            return Err(Mistake::new(format!("a score is a number, and `{}` is none", shown(word)))
                .hint(format!("write {}", self.usage)));
        }
        Ok(text)
    }

    fn key(&self, word: &[u8]) -> Result<Template, Mistake> {
        let key = self.template(word)?;
        check_key(&key, self.text)?;
        Ok(key)
    }

    fn template(&self, word: &[u8]) -> Result<Template, Mistake> {
        Template::parse(word, self.scope)
    }

    fn wrong_count(&self) -> Mistake {
        let hint = match self.usage.contains(" eq ") {
            true => format!("write {}; or `ne` for what must differ", self.usage),
            false => format!("write {}", self.usage),
        };
        Mistake::new(format!("wrong number of words in `{}`", shown(self.text.as_bytes()))).hint(hint)
    }
}

/// A number as scores are written.
pub fn number(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.parse::<f64>().ok().filter(|number| !number.is_nan())
}

fn is(word: &[u8], name: &str) -> bool {
    word.eq_ignore_ascii_case(name.as_bytes())
}

fn usages() -> String {
    TESTS.map(|(_, usage)| format!("`{usage}`")).join(", ")
}

fn unknown(name: &str) -> Mistake {
    let mistake = Mistake::new(format!("unknown test `{name}`"));
    if matches!(name, "idle" | "unchanged") {
        return mistake.hint("it is a time, and stands in `last_ping`");
    }
    match nearest(name, TESTS.map(|(known, _)| known)) {
        Some(near) => mistake.hint(format!("did you mean `{near}`? There are {}", usages())),
        None => mistake.hint(format!("there are {}", usages())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::template::{Layout, Pointer};
    use super::super::value::Lookup;
    use super::*;

    const CAPTURES: [&str; 2] = ["tenant", "id"];

    fn parse(layout: Option<Layout>, text: &str) -> Result<Condition, Mistake> {
        let keys = matches!(layout, Some(Layout::Strings | Layout::Hashes));
        let captures: Vec<String> = CAPTURES.iter().filter(|_| keys).map(|name| (*name).to_owned()).collect();
        Condition::parse(text, &Scope { layout, captures: &captures, ..Scope::default() })
    }

    fn template(layout: Layout, text: &str) -> Template {
        let captures = CAPTURES.map(str::to_owned);
        let keys = matches!(layout, Layout::Strings | Layout::Hashes);
        Template::parse(
            text.as_bytes(),
            &Scope { layout: Some(layout), captures: if keys { &captures } else { &[] }, ..Scope::default() },
        )
        .unwrap()
    }

    #[track_caller]
    fn check(layout: Layout, text: &str, negated: bool, test: &Test) {
        let condition = parse(Some(layout), text).unwrap();
        assert_eq!((condition.negated, &condition.test), (negated, test), "{text}");
        assert_eq!(condition.text, text);
    }

    #[track_caller]
    fn refused(layout: Layout, text: &str, what: &str, hint: &str) {
        let mistake = parse(Some(layout), text).map(|_| ()).unwrap_err();
        assert_eq!(mistake.what, what, "{text}");
        assert_eq!(mistake.hint.unwrap_or_default(), hint, "{text}");
    }

    #[test]
    fn each_test_is_read_with_its_words() {
        let zset = |text: &str| template(Layout::Zset, text);
        let exists = |text: &str| Test::Exists(zset(text));
        check(Layout::Zset, "exists job:{id}", false, &exists("job:{id}"));
        check(Layout::Zset, "NOT Exists \"a {id}\"", true, &exists("a {id}"));
        check(Layout::Zset, "exists {member}", false, &exists("{member}"));
        check(Layout::Zset, "exists eq", false, &exists("eq"));
        let member = Test::IsMember { key: zset("busy"), member: zset("{id}") };
        check(Layout::Zset, "sismember busy {id}", false, &member);
        let field = Test::HasField { key: zset("jobs:{key}"), field: zset("{json:/u}") };
        check(Layout::Zset, "not hexists jobs:{key} {json:/u}", true, &field);
        check(Layout::Zset, "disjoint a:{id} b", false, &Test::Disjoint([zset("a:{id}"), zset("b")]));
    }

    #[test]
    fn a_value_is_compared_by_eq_or_ne() {
        let strings = |text: &str| template(Layout::Strings, text);
        let equals = |value: Value, text: &str| Test::Equals { value, text: strings(text) };
        let pointer = |text: &str| Some(Pointer::parse(text.as_bytes()).unwrap());
        let own = |own| equals(Value::Own(own), "busy");
        let lookup = |place, part| Value::Lookup(Lookup { place, part });
        check(Layout::Strings, "value eq busy", false, &own(Ref::Value));
        check(Layout::Strings, "value NE busy", true, &own(Ref::Value));
        check(Layout::Strings, "not value ne busy", false, &own(Ref::Value));
        check(Layout::Strings, "json /a/b ne busy", true, &own(Ref::Json(pointer("/a/b").unwrap())));
        let get = |key: &str, part| lookup(Place::Text(strings(key)), part);
        check(Layout::Strings, "get state:{id} eq {tenant}", false, &equals(get("state:{id}", None), "{tenant}"));
        check(Layout::Strings, "get json eq \"\"", false, &equals(get("json", None), ""));
        check(Layout::Strings, "get k JSON /p eq eq", false, &equals(get("k", pointer("/p")), "eq"));
        let hget = |field: &str, part| lookup(Place::Field { key: strings("h"), field: strings(field) }, part);
        check(Layout::Strings, "hget h {id} ne ne", true, &equals(hget("{id}", None), "ne"));
        check(Layout::Strings, "hget h json json /p eq 1", false, &equals(hget("json", pointer("/p")), "1"));
        let score = lookup(Place::Score { key: strings("z"), member: strings("{id}") }, None);
        check(Layout::Strings, "zscore z {id} eq 1.5e3", false, &equals(score, "1.5e3"));
        let text = template(Layout::Hashes, "away");
        let value = Value::Own(Ref::Field(Template::literal(b"state")));
        check(Layout::Hashes, "field state eq away", false, &Test::Equals { value, text });
        let text = template(Layout::Zset, "{value}");
        check(Layout::Zset, "score eq {value}", false, &Test::Equals { value: Value::Own(Ref::Score), text });
    }

    #[test]
    fn what_is_no_condition_is_refused_with_its_remedy() {
        let all = format!("there are {}", usages());
        refused(Layout::Zset, "", "the condition is empty", &all);
        refused(Layout::Zset, "not", "the condition is empty", &all);
        refused(Layout::Zset, "not not exists a", "unknown test `not`", &all);
        refused(
            Layout::Zset,
            "exist a",
            "unknown test `exist`",
            &format!("did you mean `exists`? There are {}", usages()),
        );
        refused(Layout::Zset, "ttl a eq 1", "unknown test `ttl`", &all);
        for word in ["idle", "unchanged"] {
            let hint = "it is a time, and stands in `last_ping`";
            refused(Layout::Zset, &format!("{word} eq a"), &format!("unknown test `{word}`"), hint);
        }
        let count = |text: &str, hint: &str| {
            refused(Layout::Strings, text, &format!("wrong number of words in `{text}`"), &format!("write {hint}"));
        };
        let or_ne = |usage: &str| format!("{usage}; or `ne` for what must differ");
        count("exists", "exists KEY");
        count("exists a b", "exists KEY");
        count("sismember a", "sismember KEY MEMBER");
        count("hexists a b c", "hexists KEY FIELD");
        count("disjoint a", "disjoint KEY KEY");
        count("value", &or_ne("value eq TEXT"));
        count("value == busy", &or_ne("value eq TEXT"));
        count("value x eq busy", &or_ne("value eq TEXT"));
        count("json eq busy", &or_ne("json /pointer eq TEXT"));
        count("get a", &or_ne("get KEY [json /pointer] eq TEXT"));
        count("get a text /p eq b", &or_ne("get KEY [json /pointer] eq TEXT"));
        count("hget a eq b", &or_ne("hget KEY FIELD [json /pointer] eq TEXT"));
        count("zscore a b json /p eq 1", &or_ne("zscore KEY MEMBER eq NUMBER"));
    }

    #[test]
    fn names_values_and_keys_are_those_that_an_entry_has() {
        let known = "there are `{key}`, `{member}`, `{id}`, `{value}`, `{json:/pointer}`, `{score}`; a literal brace is written `{{`";
        refused(Layout::Zset, "exists job:{tenant}", "unknown name `{tenant}`", known);
        refused(
            Layout::Zset,
            "exists job:{id",
            "the `{` before `id` is never closed",
            "a literal brace is written twice: `{{`",
        );
        refused(Layout::Zset, "field state eq x", "`field` means nothing for the members of a sorted set", known);
        let known = "there are `{tenant}`, `{key}`, `{id}`, `{field:NAME}`; a literal brace is written `{{`";
        refused(Layout::Hashes, "value eq x", "`value` means nothing for keys that hold a hash each", known);
        refused(Layout::Hashes, "score eq 1", "`score` means nothing for keys that hold a hash each", known);
        let own = "what is asked about is what a hub or a worker wrote";
        for key in ["presence-reaper:x", "presence-reaper:{id}"] {
            for text in [format!("exists {key}"), format!("disjoint a {key}"), format!("hget {key} f eq x")] {
                let what = format!("the key of `{text}` stands under `presence-reaper:`, which is the reaper's own");
                refused(Layout::Hashes, &text, &what, own);
            }
        }
        refused(
            Layout::Hashes,
            r#"exists """#,
            r#"the key of `exists ""` is empty"#,
            "name the key, as in `get seen:{id}`",
        );
        let score = |text: &str| format!("a score is a number, and `{text}` is none");
        refused(Layout::Zset, "score eq high", &score("high"), "write score eq NUMBER");
        refused(Layout::Zset, "zscore z {id} ne nan", &score("nan"), "write zscore KEY MEMBER eq NUMBER");
        assert!(parse(None, "exists job:{anything}").is_ok() && parse(None, "field state eq x").is_ok(), "in doubt");
    }

    #[test]
    fn a_condition_tells_its_keys_and_all_that_it_names() {
        let told = |text: &str| {
            let condition = parse(Some(Layout::Strings), text).unwrap();
            (condition.keys().len(), condition.refs().count())
        };
        assert_eq!(told("exists job:{id}"), (1, 1));
        assert_eq!(told("sismember a:{id} {tenant}:{id}"), (1, 3));
        assert_eq!(told("hexists a {id}"), (1, 1));
        assert_eq!(told("disjoint a:{id} b:{tenant}"), (2, 2));
        assert_eq!(told("json /u ne {id}"), (0, 2));
        assert_eq!(told("get a:{id} json /p eq {value}"), (1, 2));
        assert_eq!(told("hget a:{id} {tenant} eq {value}"), (1, 3));
        assert_eq!(told("zscore a:{id} {tenant} eq {value}"), (1, 3));
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in any::<String>(), rest in "[{}a-z_:/% \"\\\\]{0,40}", which in 0..TESTS.len()) {
            for layout in [None, Some(Layout::Zset), Some(Layout::Hash), Some(Layout::Strings), Some(Layout::Hashes)] {
                for text in [text.clone(), format!("{} {rest}", TESTS[which].0), format!("not {} {rest} eq x", TESTS[which].0)] {
                    let _ = parse(layout, &text);
                }
            }
        }

        #[test]
        fn any_key_and_text_can_be_written(key in prop::collection::vec(any::<u8>(), 1..20), text: Vec<u8>) {
            prop_assume!(!key.starts_with(OWN_PREFIX));
            let word = |bytes: &[u8]| {
                let escaped: String = bytes.iter().map(|byte| match byte {
                    b'{' => "{{".into(),
                    b'}' => "}}".into(),
                    byte => format!("\\x{byte:02x}"),
                }).collect();
                format!("\"{escaped}\"")
            };
            let condition = parse(Some(Layout::Zset), &format!("get {} eq {}", word(&key), word(&text))).unwrap();
            let Test::Equals { value: Value::Lookup(Lookup { place: Place::Text(read), part: None }), text: with } =
                condition.test
            else {
                return Err(TestCaseError::fail("another test"));
            };
            prop_assert_eq!((read.fill(|_| None), with.fill(|_| None)), (Some(key), Some(text)));
        }
    }
}
