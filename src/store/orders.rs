//! What operators ordered, in the database it is about.
//!
//! Every order has an end, so that what somebody forgot is over by the next day. An order that can't be read is a brake.
//! A counter grows with each order; it is read before them, so whoever has read its value has read what was ordered by
//! then, and says so on the list of processes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use redis::Value;

use super::Store;
use super::connect::Link;
use super::error::{Error, Kind};
use super::reply;
use super::state::{own_key_of_all, refusal};
use super::status::Purpose;
use crate::policy::entry::{Now, Timestamp};
use crate::policy::order::{Brake, Orders, Release};

/// What the brake's hold says of its end.
const RESUME: &str = "`presence-reaper resume`, else by itself";

/// Characters of a reason or a sentence that are shown.
const LONGEST_TEXT: usize = 300;

/// The orders of one database, for the sources of this process that are in it.
#[derive(Clone, Debug)]
pub struct OrderBook {
    pub(super) link: Arc<Link>,
    sources: Vec<Arc<str>>,
}

/// What a brake or a release says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// When it ends; none where that can't be read.
    pub until: Option<Timestamp>,
    /// Why it was given.
    pub reason: Option<String>,
    /// By whom: `USER@HOST`.
    pub by: String,
}

/// A release: so many entries may go in spite of silence and mass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// What it says of itself.
    pub order: Order,
    /// This release and no other.
    pub id: String,
    /// How many may still go.
    pub left: u64,
}

/// The orders as they are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// When they were read.
    pub now: Now,
    /// Every order up to this one has been read.
    pub revision: u64,
    /// The brake on everything.
    pub everything: Option<Order>,
    /// What is ordered for each source.
    pub sources: Vec<Ordered>,
}

/// What is ordered for one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ordered {
    /// Its name.
    pub source: Arc<str>,
    /// The brake on it alone.
    pub brake: Option<Order>,
    /// The release.
    pub release: Option<Token>,
}

impl OrderBook {
    /// The books of all databases that these sources are in.
    pub fn of<'s>(stores: impl IntoIterator<Item = &'s Store>) -> Vec<Self> {
        let mut books: Vec<Self> = Vec::new();
        for store in stores {
            let name = Arc::clone(&store.source.name);
            match books.iter_mut().find(|book| Arc::ptr_eq(&book.link, &store.link)) {
                Some(book) => book.sources.push(name),
                None => books.push(Self { link: Arc::clone(&store.link), sources: vec![name] }),
            }
        }
        books
    }

    /// The sources of this process in this database.
    pub fn sources(&self) -> &[Arc<str>] {
        &self.sources
    }

    /// The database.
    pub fn database(&self) -> u16 {
        self.link.database()
    }

    /// Where they are written: another address or database has other orders.
    pub fn place(&self) -> String {
        format!("{}/{}", self.link.endpoint(), self.link.database())
    }

    /// Reads what is ordered.
    ///
    /// # Errors
    /// Redis can't be reached, or refuses.
    pub async fn read(&self) -> Result<Written, Error> {
        const DOING: &str = "reading what operators ordered";
        let mut commands = redis::pipe();
        commands.cmd("TIME").cmd("HMGET").arg(key("orders", None)).arg("revision");
        let read_order = |commands: &mut redis::Pipeline, what, source| {
            commands.cmd("HMGET").arg(key(what, source)).arg(&FIELDS[..]);
        };
        read_order(&mut commands, "hold", None);
        for source in &self.sources {
            read_order(&mut commands, "hold", Some(source));
            read_order(&mut commands, "release", Some(source));
        }
        let mut replies = self.ask(DOING, &commands).await?.into_iter();
        let mut next = || replies.next().unwrap_or(Value::Nil);
        let now = self.link.now(DOING, next())?;
        let unexpected = |unexpected| self.link.unexpected(DOING, unexpected);
        let revision = match reply::array(next()).map_err(unexpected)?.into_iter().next() {
            None | Some(Value::Nil) => 0,
            Some(revision) => reply::count(revision).map_err(unexpected)?,
        };
        let everything = fields(next()).map_err(unexpected)?.map(|fields| order(&fields));
        let mut sources = Vec::with_capacity(self.sources.len());
        for source in &self.sources {
            let brake = fields(next()).map_err(unexpected)?.map(|fields| order(&fields));
            let release = fields(next()).map_err(unexpected)?.and_then(|fields| token(&fields));
            sources.push(Ordered { source: Arc::clone(source), brake, release });
        }
        Ok(Written { now, revision, everything, sources })
    }

    /// Pulls the brake for `lasts`, on one source or on everything in this database. Returns the order's revision.
    ///
    /// # Errors
    /// Redis can't be reached, or refuses.
    pub async fn hold(&self, source: Option<&str>, order: &Order, lasts: Duration) -> Result<u64, Error> {
        let mut commands = redis::pipe();
        set(&mut commands, &key("hold", source), &texts(order), lasts);
        self.give("ordering the hold", commands).await
    }

    /// Lets go of the brake on one source, or of the one on everything. Returns the order's revision.
    ///
    /// # Errors
    /// Redis can't be reached, or refuses.
    pub async fn resume(&self, source: Option<&str>) -> Result<u64, Error> {
        let mut commands = redis::pipe();
        commands.cmd("UNLINK").arg(key("hold", source));
        self.give("taking back the hold", commands).await
    }

    /// Lets silence and mass keep so many entries of a source less, in place of an earlier release. Returns the order's
    /// revision.
    ///
    /// # Errors
    /// Redis can't be reached, or refuses.
    pub async fn release(&self, source: &str, token: &Token, lasts: Duration) -> Result<u64, Error> {
        let mut commands = redis::pipe();
        let texts = [texts(&token.order), vec![("id", token.id.clone()), ("left", token.left.to_string())]].concat();
        set(&mut commands, &key("release", Some(source)), &texts, lasts);
        self.give("releasing entries", commands).await
    }

    async fn give(&self, doing: &str, mut commands: redis::Pipeline) -> Result<u64, Error> {
        commands.cmd("HINCRBY").arg(key("orders", None)).arg("revision").arg(1);
        let replies = self.ask(doing, &commands).await?;
        let revision = replies.into_iter().next_back().unwrap_or(Value::Nil);
        reply::count(revision).map_err(|unexpected| self.link.unexpected(doing, unexpected))
    }

    pub(super) async fn ask(&self, doing: &str, commands: &redis::Pipeline) -> Result<Vec<Value>, Error> {
        let live = self.link.live().await?;
        let replies = self.link.ask(&live, Purpose::Order, doing, commands).await?;
        match replies.iter().find_map(|reply| refusal(&self.link, doing, reply)) {
            Some(refused) if refused.kind == Kind::Permission => Err(refused.with_remedy(
                "`check --acl` prints the line that gives the ACL user of [redis] what it needs on ~presence-reaper:*",
            )),
            Some(refused) => Err(refused),
            None => Ok(replies),
        }
    }
}

impl Written {
    /// What a process has to obey, by source.
    pub fn orders(&self) -> HashMap<Arc<str>, Orders> {
        let orders = |ordered: &Ordered| Orders {
            brake: [&self.everything, &ordered.brake]
                .into_iter()
                .flatten()
                .map(|order| self.brake(order))
                .reduce(later),
            release: ordered.release.as_ref().and_then(|token| {
                let until = self.now.when(token.order.until?);
                Some(Release { id: token.id.clone(), until, left: token.left })
            }),
            unheard: false,
        };
        self.sources.iter().map(|ordered| (Arc::clone(&ordered.source), orders(ordered))).collect()
    }

    fn brake(&self, order: &Order) -> Brake {
        let reason = order.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        Brake {
            until: order.until.map(|until| self.now.when(until)),
            why: format!("ordered by {}{reason}", order.by),
            ends_with: RESUME,
        }
    }
}

/// Of two brakes the one that holds longer.
fn later(one: Brake, other: Brake) -> Brake {
    let longer = match (one.until, other.until) {
        (None, _) => true,
        (_, None) => false,
        (Some(one), Some(other)) => one >= other,
    };
    if longer { one } else { other }
}

/// What the eviction script compares, and counts down.
#[derive(Clone, Debug)]
pub(super) struct Spending {
    pub(super) key: Vec<u8>,
    pub(super) id: String,
}

impl Spending {
    pub(super) fn of(release: &Release, source: &str) -> Self {
        Self { key: key("release", Some(source)), id: release.id.clone() }
    }
}

// === how it is written ===

/// The fields of an order's hash.
const FIELDS: [&str; 5] = ["until", "reason", "by", "id", "left"];

/// Where an order of a kind stands, for one source or for all.
pub(super) fn key(what: &str, source: Option<&str>) -> Vec<u8> {
    own_key_of_all(&source.map_or_else(|| what.to_owned(), |source| format!("{what}:{source}")))
}

pub(super) fn set(commands: &mut redis::Pipeline, key: &[u8], fields: &[(&str, String)], lasts: Duration) {
    commands.cmd("HSET").arg(key);
    for (name, value) in fields {
        commands.arg(*name).arg(value);
    }
    commands.cmd("PEXPIRE").arg(key).arg(u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX));
}

fn texts(order: &Order) -> Vec<(&'static str, String)> {
    vec![
        ("until", order.until.map(|until| until.millis().to_string()).unwrap_or_default()),
        ("reason", order.reason.clone().unwrap_or_default()),
        ("by", order.by.clone()),
    ]
}

/// The fields that are there; none if there is no order.
fn fields(reply: Value) -> Result<Option<HashMap<&'static str, String>>, reply::Unexpected> {
    let values = reply::array(reply)?.into_iter().map(reply::bytes).collect::<Result<Vec<_>, _>>()?;
    let texts = values.into_iter().map(|value| value.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()));
    let found: HashMap<_, _> = FIELDS.into_iter().zip(texts).filter_map(|(name, text)| Some((name, text?))).collect();
    Ok((!found.is_empty()).then_some(found))
}

fn order(fields: &HashMap<&'static str, String>) -> Order {
    let text = |name| fields.get(name).map(|text| clean(text)).filter(|text| !text.is_empty());
    Order {
        until: text("until").and_then(|text| text.parse().ok()).map(Timestamp::from_millis),
        reason: text("reason"),
        by: text("by").unwrap_or_else(|| "somebody".into()),
    }
}

/// None if it can't be read: what nobody can count releases nothing.
fn token(fields: &HashMap<&'static str, String>) -> Option<Token> {
    let left = fields.get("left")?.parse().ok()?;
    Some(Token { order: order(fields), id: fields.get("id")?.clone(), left })
}

/// What others wrote, so that it can neither break a line nor steer a terminal.
pub(super) fn clean(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(LONGEST_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::entry::Monotonic;

    fn at(seconds: u64) -> Now {
        let since = Duration::from_secs(seconds);
        Now { server: Timestamp::from_millis(1_800_000_000_000).plus(since), mono: Monotonic::from_start(since) }
    }

    fn order_until(seconds: u64, by: &str) -> Order {
        Order { until: Some(at(seconds).server), reason: Some("a deploy".into()), by: by.into() }
    }

    fn written(everything: Option<Order>, brake: Option<Order>) -> Written {
        let sources = vec![Ordered { source: "hub".into(), brake, release: None }];
        Written { now: at(10), revision: 1, everything, sources }
    }

    fn brake(written: &Written) -> Option<Brake> {
        written.orders().remove("hub").and_then(|orders| orders.brake)
    }

    #[test]
    fn the_brake_that_holds_longer_counts() {
        let (short, long) = (order_until(60, "short"), order_until(90, "long"));
        let endless = Order { until: None, reason: None, by: "endless".into() };
        for (everything, own, until, why) in [
            (Some(&short), None, Some(at(60).mono), "ordered by short: a deploy"),
            (None, Some(&short), Some(at(60).mono), "ordered by short: a deploy"),
            (Some(&short), Some(&long), Some(at(90).mono), "ordered by long: a deploy"),
            (Some(&long), Some(&short), Some(at(90).mono), "ordered by long: a deploy"),
            (Some(&endless), Some(&long), None, "ordered by endless"),
            (Some(&long), Some(&endless), None, "ordered by endless"),
        ] {
            let brake = brake(&written(everything.cloned(), own.cloned())).unwrap();
            assert_eq!((brake.until, &*brake.why), (until, why));
        }
        assert_eq!(brake(&written(None, None)), None);
    }

    fn bulk(text: &[u8]) -> Value {
        Value::BulkString(text.to_vec())
    }

    #[test]
    fn a_brake_that_can_not_be_read_is_pulled_and_such_a_release_is_none() {
        let nil = || Value::Nil;
        let read = |values: [Value; 5]| fields(Value::Array(values.to_vec())).ok().flatten();
        assert_eq!(read([nil(), nil(), nil(), nil(), nil()]), None);
        let by_hand = read([nil(), bulk(b"x"), nil(), nil(), nil()]).unwrap();
        assert_eq!(order(&by_hand), Order { until: None, reason: Some("x".into()), by: "somebody".into() });
        for left in [&b""[..], b"-1", b"many", b"1e3", b"\xff"] {
            let garbled = read([bulk(b"1800000000000"), nil(), nil(), bulk(b"a"), bulk(left)]).unwrap();
            assert_eq!(token(&garbled), None, "{left:?}");
        }
        let nameless = read([bulk(b"1800000000000"), nil(), nil(), nil(), bulk(b"5")]).unwrap();
        assert_eq!(token(&nameless), None);
    }

    proptest! {
        #[test]
        fn what_stands_there_never_panics(values in prop::collection::vec(any::<Option<Vec<u8>>>(), 5)) {
            let values = values.into_iter().map(|value| value.map_or(Value::Nil, Value::BulkString)).collect();
            if let Ok(Some(fields)) = fields(Value::Array(values)) {
                let _ = (order(&fields), token(&fields));
            }
        }
    }
}
