//! What goes with an entry, filled in: the writes of a strike in their order, and the lists that they were made from.
//!
//! Unconditional writes come first, the entry itself after them; what stands under a condition is asked for and done when
//! the entry is gone. What is read as JSON only we can read: such a condition is answered at the look, and the script has
//! to find the same text.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::condition::{self, Filled, Question, Unless};
use super::connect::{Link, Live};
use super::error::{Error, Kind};
use super::reply::{self, Unexpected};
use super::status::Purpose;
use crate::language::action::{Action, Verb};
use crate::language::companion::{Companion, ForEach, Holder, List};
use crate::language::condition::Condition;
use crate::language::template::{Pointer, Ref, Template};

/// One write, every name filled in.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Deed {
    pub(super) verb: Verb,
    pub(super) keys: Vec<Vec<u8>>,
    pub(super) args: Vec<Vec<u8>>,
}

/// Whether something is done once the entry is gone.
#[derive(Clone, Debug)]
pub(super) enum When {
    /// It is.
    Always,
    /// The script asks.
    Asked(Question),
    /// We ask, at the look, and the script compares what was read.
    Read(Unless),
}

/// A list that stands in Redis.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ListQuery {
    pub(super) holder: Holder,
    pub(super) key: Vec<u8>,
}

/// What such a list held.
#[derive(Clone, Debug)]
pub(super) struct Elements {
    /// In the order read, without duplicates.
    pub(super) items: Vec<Vec<u8>>,
    /// There were more than are allowed, and none was read.
    pub(super) too_many: bool,
    /// So many are.
    pub(super) most: usize,
}

/// The lists that were read for a look, shared by the entries that name them.
pub(super) type Lists = HashMap<ListQuery, Arc<Elements>>;

/// The companions of one entry.
#[derive(Clone, Debug, Default)]
pub(super) struct Deeds {
    /// Done before the entry itself goes.
    pub(super) first: Vec<Deed>,
    /// Done after it has gone, where that holds.
    pub(super) later: Vec<(When, Deed)>,
    /// What they were made from; nothing else may stand there.
    pub(super) lists: Vec<(ListQuery, Arc<Elements>)>,
    /// Companions, or elements of theirs, that can't be filled or do not fit.
    pub(super) skipped: u32,
    /// A list has more elements than are allowed: the entry stays.
    pub(super) overflows: bool,
}

// === filling in ===

/// Fills the companions of an entry whose values are `value_of`; `array_of` are the elements of an array in its own value,
/// as JSON, those without a text included. Lists that are not in `lists` are empty.
pub(super) struct Filling<'f, F, A> {
    pub(super) value_of: F,
    pub(super) array_of: A,
    pub(super) lists: &'f Lists,
    pub(super) max_fanout: usize,
}

impl<'v, F, A> Filling<'_, F, A>
where
    F: Fn(&Ref) -> Option<Cow<'v, [u8]>>,
    A: Fn(&Pointer) -> Vec<Option<Vec<u8>>>,
{
    /// The companions, filled.
    pub(super) fn deeds(&self, companions: &[Companion]) -> Deeds {
        let mut deeds = Deeds::default();
        for companion in companions {
            match &companion.each {
                None => deeds.add(companion, &self.value_of),
                Some(each) => self.for_each(companion, each, &mut deeds),
            }
        }
        deeds
    }

    fn for_each(&self, companion: &Companion, each: &ForEach, deeds: &mut Deeds) {
        let elements: Cow<'_, [Vec<u8>]> = match &each.list {
            List::Json(pointer) => {
                let found = (self.array_of)(pointer);
                let texts: Vec<_> = found.iter().flatten().cloned().collect();
                deeds.skipped += u32::try_from(found.len() - texts.len()).unwrap_or(u32::MAX);
                texts.into()
            }
            List::Split { text, separator } => {
                // Of an absent text there is nothing.
                let filled = text.fill(&self.value_of).zip(separator.fill(&self.value_of));
                filled.map(|(text, separator)| split(&text, &separator)).unwrap_or_default().into()
            }
            List::Stored(holder, key) => {
                let Some(key) = key.fill(&self.value_of) else {
                    deeds.skipped += 1;
                    return;
                };
                let query = ListQuery { holder: *holder, key };
                let unread = || Arc::new(Elements::none(self.max_fanout));
                let found = self.lists.get(&query).cloned().unwrap_or_else(unread);
                deeds.overflows |= found.too_many;
                let items = found.items.clone();
                if deeds.lists.iter().all(|(known, _)| *known != query) {
                    deeds.lists.push((query, found));
                }
                items.into()
            }
        };
        if elements.len() > self.max_fanout {
            deeds.overflows = true;
            return;
        }
        // As a set: what stands there twice is one thing.
        let mut known = HashSet::new();
        for element in elements.iter().filter(|element| known.insert(*element)) {
            let Some(captures) = each.pattern.captures(element) else {
                deeds.skipped += 1;
                continue;
            };
            deeds.add(companion, |name| match name {
                Ref::Each(at) => {
                    captures.get(*at).and_then(|at| element.get(at.clone())).map(|part| part.to_vec().into())
                }
                own => (self.value_of)(own),
            });
        }
    }
}

impl Deeds {
    fn add<'v>(&mut self, companion: &Companion, value_of: impl Fn(&Ref) -> Option<Cow<'v, [u8]>>) {
        let Some(deed) = deed(&companion.action, &value_of) else {
            self.skipped += 1;
            return;
        };
        let Some(condition) = &companion.condition else {
            self.first.push(deed);
            return;
        };
        match When::of(condition, &value_of) {
            Some(Some(when)) => self.later.push((when, deed)),
            Some(None) => {}
            None => self.skipped += 1,
        }
    }

    /// All of them, those that may turn out not to be done too.
    pub(super) fn all(&self) -> impl Iterator<Item = &Deed> {
        self.first.iter().chain(self.later.iter().map(|(_, deed)| deed))
    }
}

fn deed<'v>(action: &Action, value_of: impl Fn(&Ref) -> Option<Cow<'v, [u8]>>) -> Option<Deed> {
    let fill = |templates: &[Template]| templates.iter().map(|one| one.fill(&value_of)).collect::<Option<Vec<_>>>();
    Some(Deed { verb: action.verb, keys: fill(&action.key)?, args: fill(&action.args)? })
}

impl When {
    /// None where nobody can be asked; none within where it does not hold.
    pub(super) fn of<'v>(
        condition: &Condition,
        value_of: impl Fn(&Ref) -> Option<Cow<'v, [u8]>>,
    ) -> Option<Option<Self>> {
        match condition::fill(condition, value_of) {
            Filled::Known(holds) => Some(holds.then_some(Self::Always)),
            // What only a walk tells stands in `unless` alone.
            Filled::Unfillable | Filled::Sought(_) => None,
            Filled::Asked(question) if question.is_of_json() => {
                Some(Some(Self::Read(Unless { questions: vec![question], ..Unless::default() })))
            }
            Filled::Asked(question) => Some(Some(Self::Asked(question))),
        }
    }

    /// What has to be asked for at the look, unless the writes before it tell what stands there once they are done.
    pub(super) fn settle<'l>(&mut self, left: impl Fn(&Question) -> Option<Left<'l>>) {
        let Self::Read(read) = self else { return };
        let told = read.questions.iter_mut().find_map(|question| left(question).map(|left| question.of(left.0)));
        if let Some(holds) = told {
            *read = Unless { holds, ..Unless::default() };
        }
    }

    /// What the script asks.
    pub(super) fn asked(&self) -> Option<&Question> {
        match self {
            Self::Asked(question) => Some(question),
            Self::Always | Self::Read(_) => None,
        }
    }

    /// What is asked at the look.
    pub(super) fn read(&self) -> Option<&Unless> {
        match self {
            Self::Read(read) => Some(read),
            Self::Always | Self::Asked(_) => None,
        }
    }

    /// The same, to be answered.
    pub(super) fn read_mut(&mut self) -> Option<&mut Unless> {
        match self {
            Self::Read(read) => Some(read),
            Self::Always | Self::Asked(_) => None,
        }
    }

    /// Whether it is known by now that it does not hold.
    pub(super) fn is_never(&self) -> bool {
        self.read().is_some_and(|read| !read.holds)
    }
}

/// What a deed leaves at a place: a text, or nothing.
#[derive(Clone, Copy)]
pub(super) struct Left<'d>(Option<&'d [u8]>);

impl Deed {
    /// What stands there once it is done, where that is certain.
    pub(super) fn leaves(&self, key: &[u8], part: Option<&[u8]>) -> Option<Left<'_>> {
        let of_part = |arg: &Vec<u8>| Some(&arg[..]) == part;
        if self.keys.iter().all(|own| own != key) {
            return None;
        }
        match (self.verb, &self.args[..]) {
            (Verb::Unlink, _) => Some(Left(None)),
            (Verb::Hdel | Verb::Srem | Verb::Zrem, args) => args.iter().any(of_part).then_some(Left(None)),
            (Verb::Hset, [field, text]) => of_part(field).then_some(Left(Some(text))),
            (Verb::Lrem | Verb::Hset | Verb::Expire | Verb::DecrRef, _) => None,
        }
    }

    /// How many operations it is.
    pub(super) fn operations(&self) -> usize {
        self.keys.len() * 2 + usize::from(self.verb == Verb::DecrRef) * 2
    }
}

fn split(text: &[u8], separator: &[u8]) -> Vec<Vec<u8>> {
    if separator.is_empty() {
        return vec![text.to_vec()];
    }
    let mut pieces = Vec::new();
    let mut rest = text;
    // bound: each round takes a separator off a text that is held in memory
    while let Some(at) = rest.windows(separator.len()).position(|window| window == separator) {
        pieces.push(rest[..at].to_vec());
        rest = &rest[at + separator.len()..];
    }
    pieces.push(rest.to_vec());
    pieces
}

/// The lists that the companions of an entry with these values name.
pub(super) fn queries<'v>(
    companions: &[Companion],
    value_of: impl Fn(&Ref) -> Option<Cow<'v, [u8]>>,
) -> Vec<ListQuery> {
    let stored = companions.iter().filter_map(|companion| match &companion.each.as_ref()?.list {
        List::Stored(holder, key) => Some(ListQuery { holder: *holder, key: key.fill(&value_of)? }),
        List::Json(_) | List::Split { .. } => None,
    });
    stored.collect()
}

// === reading lists ===

/// Lists asked for their size in one round trip.
const SIZED_AT_ONCE: usize = 1_000;

/// Elements in one round trip, unless a single list has more.
const READ_AT_ONCE: usize = 10_000;

/// Reads these lists; one with more than `max` elements is not read, and one that can't be read is left to the script,
/// which leaves the entry whole and says why.
pub(super) async fn read(
    link: &Link,
    live: &Live,
    doing: &str,
    queries: Vec<ListQuery>,
    max: usize,
) -> Result<Lists, Error> {
    let mut lists: Lists = queries.into_iter().map(|query| (query, Arc::new(Elements::none(max)))).collect();
    let all: Vec<ListQuery> = lists.keys().cloned().collect();
    let mut sized: Vec<(ListQuery, usize)> = Vec::new();
    // bound: as many as the entries of a look name, a thousand a round
    for some in all.chunks(SIZED_AT_ONCE) {
        let mut commands = redis::pipe();
        some.iter().for_each(|query| _ = commands.cmd(query.holder.commands().2).arg(&query.key));
        let replies = link.ask(live, Purpose::Read, doing, &commands).await?;
        for (query, reply) in some.iter().zip(replies) {
            match size(reply).map_err(|unexpected| link.unexpected(doing, unexpected))? {
                Some(size) if size > max => _ = lists.insert(query.clone(), Arc::new(Elements::beyond(max))),
                Some(size) if size > 0 => sized.push((query.clone(), size)),
                Some(_) | None => {}
            }
        }
    }
    let mut rest = &sized[..];
    // bound: each round reads at least one of them
    while !rest.is_empty() {
        let mut elements = 0;
        let fits = |(_, size): &&(ListQuery, usize)| {
            elements += size;
            elements <= READ_AT_ONCE
        };
        let (some, later) = rest.split_at(rest.iter().take_while(fits).count().max(1));
        rest = later;
        let mut commands = redis::pipe();
        some.iter().for_each(|(query, _)| {
            _ = commands.cmd(query.holder.commands().0).arg(&query.key).arg(query.holder.commands().1)
        });
        let replies = link.ask(live, Purpose::Read, doing, &commands).await?;
        for ((query, _), reply) in some.iter().zip(replies) {
            let found = Elements::of(reply, max).map_err(|unexpected| link.unexpected(doing, unexpected))?;
            lists.insert(query.clone(), Arc::new(found));
        }
    }
    Ok(lists)
}

/// None where the script has to say why nobody knows.
fn size(reply: redis::Value) -> Result<Option<usize>, Unexpected> {
    if is_left_to_the_script(&reply) {
        return Ok(None);
    }
    Ok(Some(usize::try_from(reply::count(reply)?).unwrap_or(usize::MAX)))
}

fn is_left_to_the_script(reply: &redis::Value) -> bool {
    matches!(reply, redis::Value::ServerError(error)
        if matches!(Kind::of_code(error.code()), Kind::WrongType | Kind::Permission))
}

impl Elements {
    fn none(most: usize) -> Self {
        Self { items: Vec::new(), too_many: false, most }
    }

    fn beyond(most: usize) -> Self {
        Self { too_many: true, ..Self::none(most) }
    }

    fn of(reply: redis::Value, max: usize) -> Result<Self, Unexpected> {
        if is_left_to_the_script(&reply) {
            return Ok(Self::none(max));
        }
        let items = reply::array(reply)?;
        if items.len() > max {
            return Ok(Self::beyond(max));
        }
        let mut known = HashSet::new();
        let mut elements = Self::none(max);
        for item in items {
            let item = reply::some_bytes(item)?;
            if known.insert(item.clone()) {
                elements.items.push(item);
            }
        }
        Ok(elements)
    }

    /// How many bytes the script is given to compare.
    pub(super) fn size(&self) -> usize {
        self.items.iter().map(Vec::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::*;
    use crate::language::template::{Layout, Scope};

    /// The companions of an entry `c 1` whose value holds `a,b` and, as JSON at any pointer, `x`, an object and `y`.
    fn filled(companions: &[&str], lists: &Lists) -> Deeds {
        let scope = Scope { layout: Some(Layout::Hash), ..Scope::default() };
        let companions: Vec<_> = companions.iter().map(|text| Companion::parse(text, &scope, true).unwrap()).collect();
        let value_of = |name: &Ref| match name {
            Ref::Id => Some(Cow::from(&b"c 1"[..])),
            Ref::Value => Some(Cow::from(&b"a,b,,a"[..])),
            _ => None,
        };
        let array_of = |_: &Pointer| vec![Some(b"x".to_vec()), None, Some(b"y".to_vec())];
        Filling { value_of, array_of, lists, max_fanout: 3 }.deeds(&companions)
    }

    fn words(deeds: &[Deed]) -> Vec<String> {
        let word = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
        let words = |deed: &Deed| deed.keys.iter().chain(&deed.args).map(word).collect::<Vec<_>>().join("|");
        deeds.iter().map(|deed| format!("{}|{}", deed.verb.as_str(), words(deed))).collect()
    }

    #[track_caller]
    fn check(companion: &str, first: &[&str], later: usize, skipped: u32) {
        let deeds = filled(&[companion], &Lists::new());
        assert_eq!(words(&deeds.first), first, "{companion}");
        assert_eq!((deeds.later.len(), deeds.skipped), (later, skipped), "{companion}");
    }

    #[test]
    fn actions_are_filled_in_and_what_names_nothing_is_skipped() {
        check("UNLINK abc:{id} abd", &["UNLINK|abc:c 1|abd"], 0, 0);
        check("HSET abc {id} {value}", &["HSET|abc|c 1|a,b,,a"], 0, 0);
        check("EXPIRE abc:{id} 90s", &["EXPIRE|abc:c 1|90000"], 0, 0);
        check("SREM abc {json:/none}", &[], 0, 1);
        check("if exists abc do SREM abc {id}", &[], 1, 0);
        check("if exists {json:/none} do SREM abc {id}", &[], 0, 1);
        check("if exists abc do SREM abc {json:/none}", &[], 0, 1);
        check("if value eq a,b,,a do SREM abc {id}", &[], 1, 0);
        check("if value ne a,b,,a do SREM abc {id}", &[], 0, 0);
        // The value is no JSON: nobody can say.
        check("if json /none eq a do SREM abc {id}", &[], 0, 1);
        check("if json /none ne a do SREM abc {id}", &[], 0, 1);
    }

    #[test]
    fn each_element_is_one_whatever_how_often_it_stands_there() {
        check("for-each {e} in json /l do SREM abc {e}", &["SREM|abc|x", "SREM|abc|y"], 0, 1);
        check("for-each a{e} in json /l do SREM abc {e}", &[], 0, 3);
        check("for-each {e} in json /l do if exists abc:{e} do SREM abc {e}", &[], 2, 1);
        check("for-each {e} in split {json:/none} , do SREM abc {e}", &[], 0, 0);
        check("for-each {e} in smembers of:{json:/none} do SREM abc {e}", &[], 0, 1);
        check("for-each {e} in smembers of:{id} do SREM abc {e}", &[], 0, 0);
        let cut = filled(&["for-each {e} in split {value} , do SREM abc {e}"], &Lists::new());
        assert!(cut.overflows, "four pieces are more than three");
        let found = filled(&["for-each {e} in split {value} ,, do SREM abc {e}"], &Lists::new());
        assert_eq!(
            (words(&found.first), found.overflows),
            (vec!["SREM|abc|a,b".to_owned(), "SREM|abc|a".to_owned()], false)
        );
    }

    #[test]
    fn a_list_is_named_once_and_one_that_is_too_long_leaves_the_entry() {
        let query = ListQuery { holder: Holder::Members, key: b"of:c 1".to_vec() };
        let elements = Elements { items: vec![b"p".to_vec(), b"q".to_vec()], ..Elements::none(3) };
        let lists = |elements| Lists::from([(query.clone(), Arc::new(elements))]);
        let twice =
            ["for-each {e} in smembers of:{id} do SREM abc {e}", "for-each {e} in smembers of:{id} do HDEL abd {e}"];
        let deeds = filled(&twice, &lists(elements));
        assert_eq!(words(&deeds.first), ["SREM|abc|p", "SREM|abc|q", "HDEL|abd|p", "HDEL|abd|q"]);
        assert_eq!((deeds.lists.len(), deeds.overflows), (1, false));
        assert!(filled(&twice, &lists(Elements::beyond(3))).overflows);
    }

    #[test]
    fn a_reply_is_a_set_and_no_longer_than_it_may_be() {
        let reply = |items: &[&str]| {
            Value::Array(items.iter().map(|item| Value::BulkString(item.as_bytes().to_vec())).collect())
        };
        let found = Elements::of(reply(&["a", "b", "a"]), 3).unwrap();
        assert_eq!((found.items, found.too_many), (vec![b"a".to_vec(), b"b".to_vec()], false));
        assert!(Elements::of(reply(&["a", "b", "a", "c"]), 3).unwrap().too_many);
        assert!(Elements::of(Value::Int(1), 3).is_err());
    }

    #[test]
    fn a_text_is_cut_at_every_separator() {
        let cut = |text: &[u8], separator: &[u8]| split(text, separator);
        assert_eq!(cut(b"a, b,, ", b", "), [&b"a"[..], b"b,", b""]);
        assert_eq!(cut(b"", b","), [b""]);
        assert_eq!(cut(b"ab", b""), [b"ab"]);
    }

    #[test]
    fn a_condition_that_only_we_can_read_knows_what_is_written_before_it() {
        let deeds = filled(&["if get abc json /p ne x do SREM abd {id}"], &Lists::new());
        let [(when, _)] = &deeds.later[..] else { panic!("one") };
        assert!(when.is_never(), "not asked yet");
        let with = |text: &'static [u8]| Some(Left(Some(text)));
        for (left, never, questions) in [
            (Some(Left(None)), false, 0),
            (with(br#"{"p":"y"}"#), false, 0),
            (with(br#"{"p":"x"}"#), true, 0),
            (with(b"no JSON"), true, 0),
            (None, true, 1),
        ] {
            let mut when = when.clone();
            when.settle(|_| left);
            assert_eq!((when.is_never(), when.read().map_or(0, |read| read.questions.len())), (never, questions));
        }
    }
}
