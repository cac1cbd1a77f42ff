//! What is asked of Redis beside the entries themselves: each question once a page, those of a page in one round trip.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use redis::Value;

use super::connect::{Link, Live};
use super::error::{Error, Kind};
use super::evict::Place;
use super::reply;
use super::status::Purpose;

/// Questions in one round trip.
const ASKED_AT_ONCE: usize = 1_000;

/// One entry's values are asked for in so many rounds at most: each of its `let`s may lead to the next.
const MAX_ROUNDS: usize = 100;

/// A command that reads.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Query {
    pub(super) verb: &'static str,
    pub(super) keys: Vec<Vec<u8>>,
    /// What stands behind the keys.
    pub(super) args: Vec<Vec<u8>>,
}

impl Query {
    pub(super) fn new(verb: &'static str, key: Vec<u8>, arg: Option<Vec<u8>>) -> Self {
        Self { verb, keys: vec![key], args: arg.into_iter().collect() }
    }

    fn put(&self, commands: &mut redis::Pipeline) {
        commands.cmd(self.verb).arg(&self.keys).arg(&self.args);
    }

    /// What it reads: a part of its key where no more of it is asked for.
    pub(super) fn places(&self) -> impl Iterator<Item = Place> {
        self.keys.iter().map(|key| (key.clone(), self.args.first().cloned()))
    }
}

/// What was asked so far, and what still has to be.
#[derive(Debug, Default)]
pub(super) struct Answers {
    known: HashMap<Query, Value>,
    wanted: RefCell<HashSet<Query>>,
}

impl Answers {
    /// The reply to a question; none yet where it has not been asked, and then it will be.
    pub(super) fn get(&self, query: &Query) -> Option<&Value> {
        let known = self.known.get(query);
        if known.is_none() {
            self.wanted.borrow_mut().insert(query.clone());
        }
        known
    }

    /// Asks whatever is wanted; says whether anything was. A key of another type is an answer like others, and so is one
    /// that we may not read where that is left to the script.
    async fn fetch(&mut self, asking: &Asking<'_>) -> Result<bool, Error> {
        let Asking { link, live, purpose, doing, strict } = *asking;
        let wanted: Vec<Query> = std::mem::take(self.wanted.get_mut()).into_iter().collect();
        // bound: the questions of one page
        for some in wanted.chunks(ASKED_AT_ONCE) {
            let mut commands = redis::pipe();
            some.iter().for_each(|query| query.put(&mut commands));
            let replies = link.ask(live, purpose, doing, &commands).await?;
            for (query, reply) in some.iter().zip(replies) {
                if let Some(refusal) = reply::refusal(&reply)
                    && !(refusal.kind == Kind::WrongType || refusal.kind == Kind::Permission && !strict)
                {
                    return Err(link.unexpected(doing, refusal));
                }
                self.known.insert(query.clone(), reply);
            }
        }
        Ok(!wanted.is_empty())
    }
}

/// Who is asked, and what for.
#[derive(Clone, Copy)]
pub(super) struct Asking<'a> {
    pub(super) link: &'a Link,
    pub(super) live: &'a Live,
    pub(super) purpose: Purpose,
    pub(super) doing: &'a str,
    /// What we may not read is an error, and no answer.
    pub(super) strict: bool,
}

/// Goes through `items` again and again, each until `tell` says that it wants no more answers.
pub(super) async fn until_told<T>(
    asking: &Asking<'_>,
    answers: &mut Answers,
    items: &mut [T],
    mut tell: impl FnMut(&mut T, &Answers) -> bool,
) -> Result<(), Error> {
    let mut waiting: Vec<usize> = (0..items.len()).collect();
    // bound: a value is built from those before it, and MAX_ROUNDS bounds how many
    for _ in 0..MAX_ROUNDS {
        waiting.retain(|at| items.get_mut(*at).is_some_and(|item| !tell(item, answers)));
        if waiting.is_empty() || !answers.fetch(asking).await? {
            return Ok(());
        }
    }
    Ok(())
}
