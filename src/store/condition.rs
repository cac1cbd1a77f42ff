//! The conditions of an entry: filled in, asked of Redis, and what they come to.
//!
//! Each is answered three times: when a survey finds the entry stale, at the re-read, and in the script. What Redis can't
//! answer (a key of another type, a right that is missing) is left to the script, which leaves the entry whole and says
//! why.

use std::borrow::Cow;

use redis::Value;
use serde_json::Value as Json;

use super::asking::{Answers, Asking, Query, until_told};
use super::error::{Error, Kind};
use super::own::{self, Looked};
use super::reply::{self, Unexpected};
use super::search::Sought;
use crate::language::condition::{Condition, Test, number};
use crate::language::source::Source;
use crate::language::template::{Pointer, Ref, Template};
use crate::language::value::{Lookup, Place, Value as Compared};

/// What protects an entry; or else one question to which Redis has the answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Unless {
    /// Something does, or it holds, as far as that is known by now.
    pub(super) holds: bool,
    /// What only Redis knows; any yes protects.
    pub(super) questions: Vec<Question>,
    /// Keys that only a walk over all of them finds; any that is there protects.
    pub(super) sought: Vec<Sought>,
    /// What a text counts as that should be JSON and can't be read: whoever it is about may be alive, and is protected.
    /// Where it is about what else to do, nothing is done.
    pub(super) unreadable_holds: bool,
}

/// A condition with every name put in.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Filled {
    /// The entry's own values tell.
    Known(bool),
    /// A name in its key, member or field stands for nothing, so that nobody can be asked. Whoever needs an answer takes
    /// the one that leaves the entry where it is.
    Unfillable,
    /// Redis has to be asked.
    Asked(Question),
    /// Its keys have to be walked through.
    Sought(Sought),
}

/// What is asked of Redis.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Question {
    pub(super) query: Query,
    answer: Answer,
    /// The condition holds where that is not the answer.
    negated: bool,
}

/// The answer that a test asks for.
#[derive(Clone, Debug, PartialEq)]
enum Answer {
    /// 1
    Yes,
    /// An empty list.
    Nothing,
    /// This text.
    Text(Vec<u8>),
    /// This number, in whatever way it is written.
    Number(f64),
    /// A text in which, read as JSON, this stands there.
    Part { pointer: Pointer, text: Vec<u8>, seen: Seen },
}

/// What was read last. JSON is read here alone, so the script has to find the same bytes.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    NotYet,
    Absent,
    Text(Vec<u8>),
}

// === filling in ===

impl Unless {
    /// The conditions of `source` for the entry with these values.
    pub(super) fn of<'v>(source: &Source, value_of: impl Fn(&Ref) -> Option<Cow<'v, [u8]>>) -> Self {
        let (mut questions, mut sought) = (Vec::new(), Vec::new());
        for condition in &source.unless {
            match fill(condition, &value_of) {
                Filled::Known(false) => {}
                // Never evicted is the safe side.
                Filled::Known(true) | Filled::Unfillable => return Self { holds: true, ..Self::default() },
                Filled::Asked(question) => questions.push(question),
                Filled::Sought(keys) => sought.push(keys),
            }
        }
        Self { holds: false, questions, sought, unreadable_holds: true }
    }
}

/// The condition with the values of an entry put in.
pub(super) fn fill<'v>(condition: &Condition, value_of: impl Fn(&Ref) -> Option<Cow<'v, [u8]>>) -> Filled {
    let fill = |template: &Template| template.fill(&value_of);
    let negated = condition.negated;
    let question = |verb, keys: Vec<Vec<u8>>, args, answer| {
        Filled::Asked(Question { query: Query { verb, keys, args }, answer, negated })
    };
    let asked = match &condition.test {
        Test::Exists(key) => fill(key).map(|key| question("EXISTS", vec![key], vec![], Answer::Yes)),
        Test::IsMember { key, member } => both(fill(key), fill(member))
            .map(|(key, member)| question("SISMEMBER", vec![key], vec![member], Answer::Yes)),
        Test::HasField { key, field } => {
            both(fill(key), fill(field)).map(|(key, field)| question("HEXISTS", vec![key], vec![field], Answer::Yes))
        }
        Test::Disjoint([one, other]) => both(fill(one), fill(other))
            .map(|(one, other)| question("SINTER", vec![one, other], vec![], Answer::Nothing)),
        Test::Equals { value, text } => return equals(value, text, negated, &value_of),
        Test::AnyKey(pieces) => {
            let pieces = pieces.iter().map(fill).collect::<Option<Vec<_>>>();
            pieces.map(|pieces| Filled::Sought(Sought { pieces, negated }))
        }
    };
    asked.unwrap_or(Filled::Unfillable)
}

fn both<A, B>(one: Option<A>, other: Option<B>) -> Option<(A, B)> {
    one.zip(other)
}

/// What is absent, or has no name, equals nothing.
fn equals<'v>(
    value: &Compared,
    text: &Template,
    negated: bool,
    value_of: impl Fn(&Ref) -> Option<Cow<'v, [u8]>>,
) -> Filled {
    let fill = |template: &Template| template.fill(&value_of);
    let unequal = Filled::Known(negated);
    let Some(text) = fill(text) else { return unequal };
    let whole = |part: &Option<Pointer>, text: Vec<u8>| match part {
        None => Answer::Text(text),
        Some(pointer) => Answer::Part { pointer: pointer.clone(), text, seen: Seen::NotYet },
    };
    let asked = match value {
        Compared::Own(own @ Ref::Score) => {
            let score = value_of(own).and_then(|score| number(&score));
            return Filled::Known((score.is_some() && score == number(&text)) != negated);
        }
        Compared::Own(own) => {
            let found = value_of(own);
            return match (own, &found) {
                (Ref::Json(pointer), None) if is_unreadable(pointer, value_of(&Ref::Value).as_deref()) => {
                    Filled::Unfillable
                }
                _ => Filled::Known((found.as_deref() == Some(&text[..])) != negated),
            };
        }
        // No condition is read with one of these in it.
        Compared::Idle | Compared::Unchanged => return unequal,
        Compared::Lookup(Lookup { place, part }) => match place {
            Place::Text(key) => fill(key).map(|key| ("GET", key, vec![], Some(whole(part, text)))),
            Place::Field { key, field } => {
                both(fill(key), fill(field)).map(|(key, field)| ("HGET", key, vec![field], Some(whole(part, text))))
            }
            Place::Score { key, member } => both(fill(key), fill(member))
                .map(|(key, member)| ("ZSCORE", key, vec![member], number(&text).map(Answer::Number))),
            Place::Key(_) => return unequal,
        },
    };
    match asked {
        Some((verb, key, args, Some(answer))) => {
            Filled::Asked(Question { query: Query { verb, keys: vec![key], args }, answer, negated })
        }
        // No score equals what is no number.
        Some((_, _, _, None)) | None => unequal,
    }
}

/// Whether there is something that can't be read as JSON, or no text at its place.
fn is_unreadable(pointer: &Pointer, text: Option<&[u8]>) -> bool {
    text.is_some_and(|text| {
        let json: Option<Json> = serde_json::from_slice(text).ok();
        matches!(own::part_of(pointer, json.as_ref()), Looked::Number(_) | Looked::Odd | Looked::NotJson)
    })
}

// === asking ===

/// Asks all of these.
pub(super) async fn ask<'u>(
    asking: &Asking<'_>,
    answers: &mut Answers,
    unless: impl IntoIterator<Item = &'u mut Unless>,
) -> Result<(), Error> {
    let mut unless: Vec<&mut Unless> = unless.into_iter().filter(|unless| !unless.questions.is_empty()).collect();
    let mut broken = None;
    until_told(asking, answers, &mut unless, |unless, answers| {
        unless.hear(answers).unwrap_or_else(|unexpected| {
            broken.get_or_insert(unexpected);
            true
        })
    })
    .await?;
    broken.map_or(Ok(()), |unexpected| Err(asking.link.unexpected(asking.doing, unexpected)))
}

impl Unless {
    /// Takes in what is known; says whether that is all.
    fn hear(&mut self, answers: &Answers) -> Result<bool, Unexpected> {
        let mut all = true;
        for question in &mut self.questions {
            match answers.get(&question.query) {
                Some(reply) => self.holds |= question.hear(reply.clone())?.unwrap_or(self.unreadable_holds),
                None => all = false,
            }
        }
        Ok(all)
    }
}

impl Question {
    /// Whether the condition holds by this reply; what Redis can't answer does not, yet. None where it can't be read.
    pub(super) fn hear(&mut self, reply: Value) -> Result<Option<bool>, Unexpected> {
        if let Value::ServerError(error) = &reply
            && matches!(Kind::of_code(error.code()), Kind::WrongType | Kind::Permission)
        {
            return Ok(Some(false));
        }
        let is_so = match &mut self.answer {
            Answer::Yes => reply::count(reply)? == 1,
            Answer::Nothing => reply::array(reply)?.is_empty(),
            Answer::Text(text) => reply::bytes(reply)?.as_ref() == Some(text),
            Answer::Number(number) => reply::score(reply)? == Some(*number),
            Answer::Part { pointer, text, seen } => {
                *seen = reply::bytes(reply)?.map_or(Seen::Absent, Seen::Text);
                let Seen::Text(value) = seen else { return Ok(Some(self.negated)) };
                let json: Option<Json> = serde_json::from_slice(value).ok();
                match own::part_of(pointer, json.as_ref()) {
                    Looked::Text(part) => *part == text[..],
                    Looked::Number(_) | Looked::Odd | Looked::NotJson => return Ok(None),
                    _ => false,
                }
            }
        };
        Ok(Some(is_so != self.negated))
    }

    /// Whether it holds where that text stands at its place, or nothing does.
    pub(super) fn of(&mut self, left: Option<&[u8]>) -> bool {
        let reply = left.map_or(Value::Nil, |text| Value::BulkString(text.to_vec()));
        self.hear(reply).ok().flatten().unwrap_or(false)
    }

    /// Whether it is about a part of a text that is read as JSON, which only we can read.
    pub(super) const fn is_of_json(&self) -> bool {
        matches!(self.answer, Answer::Part { .. })
    }

    /// How many bytes the script is given to compare.
    pub(super) fn size(&self) -> usize {
        match &self.answer {
            Answer::Yes | Answer::Nothing | Answer::Number(_) => 0,
            Answer::Text(text) | Answer::Part { seen: Seen::Text(text), .. } => text.len(),
            Answer::Part { .. } => 0,
        }
    }

    /// The answer, as the head of `evict.lua` describes it: how it is compared, with what, and whether that protects.
    pub(super) fn compared(&self) -> (&'static str, Vec<u8>, bool) {
        let (how, with) = match &self.answer {
            Answer::Yes => ("yes", Vec::new()),
            Answer::Nothing => ("nothing", Vec::new()),
            Answer::Text(text) => ("text", text.clone()),
            Answer::Number(number) => ("number", number.to_string().into_bytes()),
            Answer::Part { seen, .. } => (
                "same",
                match seen {
                    // Equal to nothing that can be found.
                    Seen::NotYet => b"?".to_vec(),
                    Seen::Absent => b"-".to_vec(),
                    Seen::Text(text) => [b"=", text.as_slice()].concat(),
                },
            ),
        };
        (how, with, !self.negated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language::template::{Layout, Scope};

    /// The condition for an entry `a b` whose value is `{"n":5}`.
    fn filled(text: &str) -> Filled {
        let condition = Condition::parse(text, &Scope { layout: Some(Layout::Hash), ..Scope::default() }).unwrap();
        fill(&condition, |name| match name {
            Ref::Id => Some(b"a b".as_slice().into()),
            Ref::Value => Some(br#"{"n":5}"#.as_slice().into()),
            _ => None,
        })
    }

    #[track_caller]
    fn asks(text: &str, words: &[&str], compared: (&'static str, &str, bool)) {
        let Filled::Asked(question) = filled(text) else { panic!("{text}") };
        let asked =
            [&[question.query.verb.as_bytes().to_vec()], &question.query.keys[..], &question.query.args].concat();
        assert_eq!(asked, words.iter().map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>(), "{text}");
        let (how, with, protects) = question.compared();
        assert_eq!((how, &with[..], protects), (compared.0, compared.1.as_bytes(), compared.2), "{text}");
    }

    #[test]
    fn a_condition_becomes_a_question_with_its_names_put_in() {
        asks("exists job:{id}", &["EXISTS", "job:a b"], ("yes", "", true));
        asks("not sismember {id} {id}", &["SISMEMBER", "a b", "a b"], ("yes", "", false));
        asks("hexists h {value}", &["HEXISTS", "h", r#"{"n":5}"#], ("yes", "", true));
        asks("disjoint a:{id} b", &["SINTER", "a:a b", "b"], ("nothing", "", true));
        asks("get k ne {id}", &["GET", "k"], ("text", "a b", false));
        asks("not hget k {id} ne x", &["HGET", "k", "a b"], ("text", "x", true));
        asks("zscore k {id} eq 5.0", &["ZSCORE", "k", "a b"], ("number", "5", true));
        asks("get k json /p eq x", &["GET", "k"], ("same", "?", true));
    }

    #[test]
    fn what_stands_for_nothing_equals_nothing_and_leads_nowhere() {
        for (text, expected) in [
            ("value eq {id}", Filled::Known(false)),
            ("value ne {id}", Filled::Known(true)),
            ("json /n eq {json:/n}", Filled::Known(false)),
            ("not json /n eq x", Filled::Known(true)),
            ("get {json:/n} eq x", Filled::Known(false)),
            ("hget k {json:/n} ne x", Filled::Known(true)),
            ("zscore k {id} eq {value}", Filled::Known(false)),
            ("exists {json:/n}", Filled::Unfillable),
            ("not exists {json:/n}", Filled::Unfillable),
            ("sismember k {json:/n}", Filled::Unfillable),
            ("disjoint a {json:/n}", Filled::Unfillable),
        ] {
            assert_eq!(filled(text), expected, "{text}");
        }
    }

    #[test]
    fn json_is_read_here_and_the_script_is_given_what_was_read() {
        let answer = |text: &str, reply: Value| {
            let Filled::Asked(mut question) = filled(text) else { panic!("{text}") };
            let holds = question.hear(reply).unwrap();
            let (_, with, _) = question.compared();
            (holds, String::from_utf8(with).unwrap())
        };
        let bulk = |text: &str| Value::BulkString(text.into());
        let found = [(r#"{"p":"x"}"#, Some(true)), (r#"{"q":"x"}"#, Some(false)), (r#"{"p":null}"#, Some(false))];
        let unreadable = [r#"{"p":["x"]}"#, r#"{"p":"x","q":NaN}"#, "x", ""].map(|json| (json, None));
        for (json, eq) in found.into_iter().chain(unreadable) {
            assert_eq!(answer("get k json /p eq x", bulk(json)), (eq, format!("={json}")), "{json}");
            let ne = eq.map(|eq: bool| !eq);
            assert_eq!(answer("get k json /p ne x", bulk(json)), (ne, format!("={json}")), "{json}");
        }
        assert_eq!(answer("get k json /p eq x", Value::Nil), (Some(false), "-".into()));
        assert_eq!(answer("get k json /p ne x", Value::Nil), (Some(true), "-".into()));
    }
}
