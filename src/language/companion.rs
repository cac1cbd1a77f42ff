//! What goes with an entry, and when: `if not exists room:{room}:conns do SREM rooms {room}`,
//! `for-each {conn} in smembers user:{id}:conns do UNLINK conn:{conn}:{id}`.

use super::action::{Action, OWN_PREFIX};
use super::condition::Condition;
use super::pattern::Pattern;
use super::template::{Pointer, Ref, Scope, Template};
use super::{Mistake, shown, words};

/// So many elements a `for-each` may have, where nothing else is configured.
pub const DEFAULT_FANOUT: u32 = 1_000;

/// An eviction of more would keep the server busy for seconds.
pub const MAX_FANOUT: u32 = 100_000;

/// One companion: an action, for each element of a list, where a condition holds.
#[derive(Clone, Debug)]
pub struct Companion {
    /// The list, and what its elements look like.
    pub each: Option<ForEach>,
    /// Asked once the entry is gone.
    pub condition: Option<Condition>,
    /// What is done.
    pub action: Action,
    /// As written, for reports.
    pub text: String,
}

/// `for-each PATTERN in LIST`
#[derive(Clone, Debug)]
pub struct ForEach {
    /// Splits an element; those of another shape are passed over.
    pub pattern: Pattern,
    /// Where the elements are.
    pub list: List,
}

/// Elements that belong to an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum List {
    /// All that stands in a key.
    Stored(Holder, Template),
    /// The scalars of an array within the entry's own value, read as JSON.
    Json(Pointer),
    /// A text, cut at each separator.
    Split {
        /// The text; of an absent one there is nothing.
        text: Template,
        /// Never empty.
        separator: Template,
    },
}

/// What of a key is a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// The members of a set.
    Members,
    /// The fields of a hash.
    Fields,
    /// The values of a hash.
    Values,
    /// The members of a sorted set.
    Ranked,
    /// The elements of a list.
    Elements,
}

impl Holder {
    /// All there are.
    pub const ALL: [Self; 5] = [Self::Members, Self::Fields, Self::Values, Self::Ranked, Self::Elements];

    /// The word in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Members => "smembers",
            Self::Fields => "hkeys",
            Self::Values => "hvals",
            Self::Ranked => "zmembers",
            Self::Elements => "lrange",
        }
    }

    /// The command that reads them, what stands behind its key, and the one that counts them.
    pub const fn commands(self) -> (&'static str, &'static [&'static str], &'static str) {
        match self {
            Self::Members => ("SMEMBERS", &[], "SCARD"),
            Self::Fields => ("HKEYS", &[], "HLEN"),
            Self::Values => ("HVALS", &[], "HLEN"),
            Self::Ranked => ("ZRANGE", &["0", "-1"], "ZCARD"),
            Self::Elements => ("LRANGE", &["0", "-1"], "LLEN"),
        }
    }
}

/// Lists, for messages.
const LISTS: &str = "there are `smembers KEY`, `hkeys KEY`, `hvals KEY`, `zmembers KEY`, `lrange KEY`, `json /pointer` \
                     and `split TEXT SEPARATOR`";

const FOR_EACH: &str = "write for-each PATTERN in LIST do ACTION";
const IF: &str = "write if CONDITION do ACTION";

/// Names that templates have without a capture of theirs.
const TAKEN: [&str; 5] = ["id", "key", "member", "value", "score"];

impl Companion {
    /// Reads a companion; words of the language ignore case. `trusted`: an `UNLINK` or `EXPIRE` may be steered by what a
    /// client wrote.
    ///
    /// # Errors
    /// It is none, names what an entry of this kind does not have, or may hit what is not the entry's own.
    pub fn parse(text: &str, scope: &Scope<'_>, trusted: bool) -> Result<Self, Mistake> {
        let words = words::split(text)?;
        let (each, rest) = match words.split_first() {
            Some((first, rest)) if is(first, "for-each") => {
                let (each, rest) = ForEach::read(rest, text, scope)?;
                (Some(each), rest)
            }
            _ => (None, &words[..]),
        };
        let names = each.as_ref().map_or(&[][..], |each| each.pattern.names());
        let scope = Scope { each: names, ..*scope };
        let (condition, action) = match rest.split_first() {
            Some((first, rest)) if is(first, "if") => {
                let (condition, action) = conditional(rest, text, &scope)?;
                (Some(condition), action)
            }
            _ => (None, Action::of(rest, text, &scope, trusted)?),
        };
        if let Some(each) = &each {
            each.check_used(condition.as_ref(), &action)?;
        }
        Ok(Self { each, condition, action, text: text.to_owned() })
    }

    /// The entry's own values that it names.
    pub fn refs(&self) -> impl Iterator<Item = &Ref> {
        let list = self.each.iter().flat_map(|each| each.list.templates()).flat_map(Template::refs);
        let named = list.chain(self.condition.iter().flat_map(Condition::refs));
        named.chain(self.action.templates().flat_map(Template::refs))
    }
}

/// The condition behind an `if`, and the action behind its `do`. A `do` may be a text that is compared with, so the first
/// that leaves a condition before it is taken.
fn conditional(rest: &[Vec<u8>], text: &str, scope: &Scope<'_>) -> Result<(Condition, Action), Mistake> {
    let mut first = None;
    for at in (0..rest.len()).filter(|at| is(&rest[*at], "do")) {
        match Condition::of(&rest[..at], &spelt(&rest[..at]), scope) {
            Ok(condition) => return Ok((condition, Action::of(&rest[at + 1..], text, scope, true)?)),
            Err(mistake) => _ = first.get_or_insert(mistake),
        }
    }
    Err(first.unwrap_or_else(|| Mistake::new(format!("an `if` without `do` in `{}`", shown(text.as_bytes()))).hint(IF)))
}

fn spelt(words: &[Vec<u8>]) -> String {
    words.iter().map(|word| shown(word)).collect::<Vec<_>>().join(" ")
}

impl ForEach {
    /// What stands behind `for-each`, up to `do`; and the words behind that.
    fn read<'w>(rest: &'w [Vec<u8>], text: &str, scope: &Scope<'_>) -> Result<(Self, &'w [Vec<u8>]), Mistake> {
        let count = || Mistake::new(format!("wrong number of words in `{}`", shown(text.as_bytes()))).hint(FOR_EACH);
        let [pattern, with, list, rest @ ..] = rest else { return Err(count()) };
        if !is(with, "in") {
            return Err(count());
        }
        let pattern = Pattern::of(pattern, "the pattern of the `for-each`")?;
        if let Some(name) = pattern
            .names()
            .iter()
            .find(|name| scope.captures.contains(name) || scope.lets.contains(name) || TAKEN.contains(&name.as_str()))
        {
            return Err(Mistake::new(format!("`{{{name}}}` is the name of something else already"))
                .hint("give what the `for-each` captures a name of its own"));
        }
        let (list, rest) = List::read(list, rest, text, scope)?;
        match rest.split_first() {
            Some((word, rest)) if is(word, "do") => Ok((Self { pattern, list }, rest)),
            _ => Err(count()),
        }
    }

    /// An action that is the same for each element is a mistake.
    fn check_used(&self, condition: Option<&Condition>, action: &Action) -> Result<(), Mistake> {
        let named = condition.into_iter().flat_map(Condition::refs);
        let mut named = named.chain(action.templates().flat_map(Template::refs));
        if named.any(|name| matches!(name, Ref::Each(_))) {
            return Ok(());
        }
        Err(Mistake::new("nothing of an element is named, so the same would be done for each of them").hint(
            "name what its pattern captures, as in `for-each {conn} in smembers user:{id}:conns do SREM conns {conn}`",
        ))
    }
}

impl List {
    /// The list whose first word is `name`; and the words behind it.
    fn read<'w>(
        name: &[u8],
        rest: &'w [Vec<u8>],
        text: &str,
        scope: &Scope<'_>,
    ) -> Result<(Self, &'w [Vec<u8>]), Mistake> {
        let count = || Mistake::new(format!("wrong number of words in `{}`", shown(text.as_bytes()))).hint(LISTS);
        if let Some(holder) = Holder::ALL.into_iter().find(|holder| is(name, holder.as_str())) {
            let (key, rest) = rest.split_first().ok_or_else(count)?;
            return Ok((Self::Stored(holder, list_key(key, scope)?), rest));
        }
        match (shown(name).to_ascii_lowercase().as_str(), rest) {
            ("json", [pointer, rest @ ..]) => {
                let pointer = Pointer::parse(pointer)?;
                // Only an entry that has a value has a place in it.
                scope.own(super::template::Ref::Json(pointer.clone()), "json")?;
                Ok((Self::Json(pointer), rest))
            }
            ("split", [of, separator, rest @ ..]) => {
                let [of, separator] = [Template::parse(of, scope)?, Template::parse(separator, scope)?];
                if separator.parts().is_empty() {
                    return Err(Mistake::new("a text can not be cut at an empty separator")
                        .hint("write what stands between the elements, as in `split {field:rooms} ,`"));
                }
                Ok((Self::Split { text: of, separator }, rest))
            }
            ("json" | "split", _) => Err(count()),
            _ => Err(Mistake::new(format!("unknown list `{}`", shown(name))).hint(LISTS)),
        }
    }

    /// The key that it stands in.
    pub fn key(&self) -> Option<&Template> {
        match self {
            Self::Stored(_, key) => Some(key),
            Self::Json(_) | Self::Split { .. } => None,
        }
    }

    /// Its templates.
    pub fn templates(&self) -> impl Iterator<Item = &Template> {
        let (one, other) = match self {
            Self::Stored(_, key) => (Some(key), None),
            Self::Json(_) => (None, None),
            Self::Split { text, separator } => (Some(text), Some(separator)),
        };
        one.into_iter().chain(other)
    }
}

fn list_key(word: &[u8], scope: &Scope<'_>) -> Result<Template, Mistake> {
    let key = Template::parse(word, scope)?;
    if key.literal_prefix().starts_with(OWN_PREFIX) {
        let what = format!("the key `{}` stands under `presence-reaper:`, which is the reaper's own", shown(word));
        return Err(Mistake::new(what).hint("a list is what a hub or a worker wrote"));
    }
    if key.parts().is_empty() {
        return Err(Mistake::new("the key of a list is empty").hint(LISTS));
    }
    Ok(key)
}

fn is(word: &[u8], name: &str) -> bool {
    word.eq_ignore_ascii_case(name.as_bytes())
}

impl From<Action> for Companion {
    fn from(action: Action) -> Self {
        Self { each: None, condition: None, text: action.text.clone(), action }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::action::Verb;
    use super::super::template::Layout;
    use super::*;

    fn parse(text: &str) -> Result<Companion, Mistake> {
        let captures = ["room".to_owned()];
        Companion::parse(text, &Scope { layout: Some(Layout::Zset), captures: &captures, ..Scope::default() }, false)
    }

    #[track_caller]
    fn refused(text: &str, what: &str) {
        assert_eq!(parse(text).map(|_| ()).unwrap_err().what, what, "{text}");
    }

    /// Condition, list and action as they were read.
    #[track_caller]
    fn check(text: &str, condition: Option<&str>, list: Option<&str>, verb: Verb) {
        let companion = parse(text).unwrap();
        assert_eq!(companion.condition.as_ref().map(|condition| condition.text.as_str()), condition, "{text}");
        let read = companion.each.as_ref().map(|each| match &each.list {
            List::Stored(holder, _) => holder.as_str(),
            List::Json(_) => "json",
            List::Split { .. } => "split",
        });
        assert_eq!((read, companion.action.verb, companion.text.as_str()), (list, verb, text), "{text}");
    }

    #[test]
    fn an_action_stands_alone_or_behind_if_or_for_each() {
        check("SREM conns:{room} {id}", None, None, Verb::Srem);
        check("IF not exists a:{id} DO srem rooms {room}", Some("not exists a:{id}"), None, Verb::Srem);
        check(
            "if disjoint a:{id} b:{room} do SREM ccc:{room} {id}",
            Some("disjoint a:{id} b:{room}"),
            None,
            Verb::Srem,
        );
        check("if get k eq do do HDEL names do", Some("get k eq do"), None, Verb::Hdel);
        check("if exists a:{id} do UNLINK user:{value}", Some("exists a:{id}"), None, Verb::Unlink);
        check("if exists a:{id} do EXPIRE user:{value} 5m", Some("exists a:{id}"), None, Verb::Expire);
        for holder in Holder::ALL {
            let word = holder.as_str();
            check(
                &format!("for-each {{c}} in {word} of:{{id}} do SREM xxx:{{c}} {{id}}"),
                None,
                Some(word),
                Verb::Srem,
            );
        }
        check("For-Each {c} IN json /rooms DO LREM rooms:{c} {id}", None, Some("json"), Verb::Lrem);
        check(r#"for-each {c} in split {value} ", " do decr-ref n {c}"#, None, Some("split"), Verb::DecrRef);
        let text = "for-each u:{u}:{c...} in smembers of:{id} do if not sismember on {u} do HDEL all {c}";
        check(text, Some("not sismember on {u}"), Some("smembers"), Verb::Hdel);
        check("for-each {c} in lrange q:{id} do UNLINK own:{id}:{c}", None, Some("lrange"), Verb::Unlink);
        check(
            "for-each {c} in lrange q:{id} do if exists x:{c} do UNLINK own:{c}",
            Some("exists x:{c}"),
            Some("lrange"),
            Verb::Unlink,
        );
    }

    #[test]
    fn names_of_an_element_stand_in_its_own_companion_alone() {
        let each = parse("for-each {u}:{c} in smembers a:{id} do SREM of:{c} {u}").unwrap();
        assert_eq!(
            each.refs().filter(|name| matches!(name, Ref::Each(_))).collect::<Vec<_>>(),
            [&Ref::Each(1), &Ref::Each(0)]
        );
        refused("SREM of:{c} {id}", "unknown name `{c}`");
        refused("for-each {c} in smembers a:{c} do SREM x {c}", "unknown name `{c}`");
        refused("for-each {room} in smembers a do SREM x {room}", "`{room}` is the name of something else already");
        refused("for-each {id} in smembers a do SREM x {id}", "`{id}` is the name of something else already");
    }

    #[test]
    fn what_is_no_companion_is_refused() {
        let count = |text: &str| refused(text, &format!("wrong number of words in `{text}`"));
        refused("", "the companion is empty");
        refused("if exists a SREM bcd {id}", "an `if` without `do` in `if exists a SREM bcd {id}`");
        refused("if exist a do SREM bcd {id}", "unknown test `exist`");
        refused("if do SREM bcd {id}", "the condition is empty");
        refused("if exists a do", "the companion is empty");
        refused("if exists a do if exists b do SREM bcd {id}", "unknown verb `if` in a companion");
        refused("if any-key abc{_} do SREM bcd {id}", "`any-key` stands in `unless` alone");
        count("for-each {c}");
        count("for-each {c} of smembers a do SREM bcd {c}");
        count("for-each {c} in smembers");
        count("for-each {c} in smembers a SREM bcd {c}");
        count("for-each {c} in json");
        count("for-each {c} in split a");
        refused("for-each {c} in keys a do SREM bcd {c}", "unknown list `keys`");
        refused("for-each {c} in json a do SREM bcd {c}", "`a` is no JSON pointer: it does not begin with `/`");
        refused(
            "for-each {c}{d} in smembers a do SREM bcd {c}",
            "nothing stands between `{d}` and the capture before it",
        );
        refused(r#"for-each {c} in split {id} "" do SREM bcd {c}"#, "a text can not be cut at an empty separator");
        refused(r#"for-each {c} in smembers "" do SREM bcd {c}"#, "the key of a list is empty");
        refused(
            "for-each {c} in smembers a do SREM bcd {id}",
            "nothing of an element is named, so the same would be done for each of them",
        );
        refused("for-each {c} in smembers a do", "the companion is empty");
        refused(
            "for-each {c} in smembers presence-reaper:x do SREM bcd {c}",
            "the key `presence-reaper:x` stands under `presence-reaper:`, which is the reaper's own",
        );
        refused(
            "for-each {c} in smembers a do UNLINK conn:{c}",
            "`UNLINK conn:{c}` holds neither `{id}` nor `{member}`: it can remove what others still use",
        );
        refused("if exists a do UNLINK {c}", "unknown name `{c}`");
        refused(
            "if exists a do UNLINK {id}",
            "the companion key `{id}` has fewer than 3 literal bytes before its first variable",
        );
        refused(
            "for-each {c} in smembers a do if exists {c} do for-each {d} in smembers a do SREM bcd {d}",
            "unknown verb `for-each` in a companion",
        );
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in any::<String>(), rest in "[{}a-z_:/% \"\\\\]{0,40}", before in "(if|for-each [{}a-z:]{1,5} in|if exists a do|for-each [{]a[}] in (smembers|split|json) )") {
            let _ = (parse(&text), parse(&format!("{before} {rest}")), parse(&format!("{before} {rest} do {text}")));
        }
    }
}
