//! The outbox of a source: what its webhook was not told yet, in a stream of our own beside the entries.
//!
//! The eviction script fills it, in the same step in which an entry goes; whoever holds the source's lease reads it from
//! its head and takes out what was delivered. So what is in it survives us, and is delivered at least once.
//!
//! An event that its receiver will not have must not keep back those behind it: it is set aside, into a stream beside the
//! outbox, in the step in which it leaves the outbox.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::Value;

use super::connect::Link;
use super::error::Error;
use super::lease::Lease;
use super::reply::{self, Unexpected};
use super::state::{own_key, own_name, refusal};
use super::status::Purpose;
use crate::language::source::Source;
use crate::policy::outcome::Form;
use crate::text;

/// The outbox of one source.
#[derive(Clone)]
pub struct Outbox {
    link: Arc<Link>,
    lease: Option<Arc<Lease>>,
    key: Vec<u8>,
    /// What was set aside.
    aside: Vec<u8>,
    name: String,
}

/// More are not set aside; the oldest make room.
pub const MOST_SET_ASIDE: u64 = 10_000;

const READ: &str = include_str!("outbox.lua");
const SET_ASIDE: &str = include_str!("aside.lua");

/// What was read of a stream, and how much there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Those that were read, oldest first.
    pub waiting: Vec<Waiting>,
    /// All that stand there.
    pub length: u64,
}

/// How much is read at once, at most; one event is read however large it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Events.
    pub events: u32,
    /// Bytes of their texts.
    pub bytes: usize,
}

/// What waits in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Its id in the stream.
    pub id: String,
    /// What the text is.
    pub form: Form,
    /// The text.
    pub text: Vec<u8>,
    /// By which its receiver knows it, where it was set aside.
    pub event: Option<String>,
}

/// Where a source has its outbox.
pub(super) fn key(source: &Source) -> Vec<u8> {
    own_key(source, "outbox")
}

impl Outbox {
    pub(super) fn new(link: Arc<Link>, lease: Option<Arc<Lease>>, source: &Source) -> Self {
        Self { link, lease, key: key(source), aside: own_key(source, "refused"), name: own_name(source) }
    }

    /// Tells what waits in it from what waits in those of other sources.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its key, as a person types it.
    pub fn shown(&self) -> String {
        text::quoted(&self.key)
    }

    /// That of what was set aside.
    pub fn shown_aside(&self) -> String {
        text::quoted(&self.aside)
    }

    /// Whether it is ours to empty: we hold the source's lease.
    pub fn is_ours(&self) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.leads())
    }

    /// The oldest that wait.
    ///
    /// # Errors
    /// Redis can't be reached, or refuses.
    pub async fn read(&self, bounds: Bounds) -> Result<Page, Error> {
        self.page("reading the outbox", &self.key, "", "", bounds).await
    }

    /// Of what was set aside within `age` until now, by Redis' clock, the oldest, or those behind `last`.
    ///
    /// # Errors
    /// Redis can't be reached, or refuses.
    pub async fn set_aside_within(&self, age: Duration, last: Option<&str>, bounds: Bounds) -> Result<Page, Error> {
        let age = age.as_millis().to_string();
        self.page("reading what was set aside", &self.aside, last.unwrap_or_default(), &age, bounds).await
    }

    /// How many wait, and how many were set aside.
    ///
    /// # Errors
    /// Redis can't be reached, or refuses.
    pub async fn lengths(&self) -> Result<[u64; 2], Error> {
        const DOING: &str = "looking for what is left in the outbox";
        let mut commands = redis::pipe();
        commands.cmd("XLEN").arg(&self.key);
        commands.cmd("XLEN").arg(&self.aside);
        let [waiting, aside] = self.ask(DOING, &commands).await?.map(reply::count);
        let unexpected = |unexpected| self.link.unexpected(DOING, unexpected);
        Ok([waiting.map_err(unexpected)?, aside.map_err(unexpected)?])
    }

    /// Takes out what was delivered.
    ///
    /// # Errors
    /// Redis can't be reached, or refuses.
    pub async fn remove(&self, ids: &[&str]) -> Result<(), Error> {
        let mut commands = redis::pipe();
        commands.cmd("XDEL").arg(&self.key).arg(ids);
        self.ask("emptying the outbox", &commands).await.map(|[_]| ())
    }

    /// Takes out what was set aside, and delivered after all.
    ///
    /// # Errors
    /// Redis can't be reached, or refuses.
    pub async fn remove_set_aside(&self, id: &str) -> Result<(), Error> {
        let mut commands = redis::pipe();
        commands.cmd("XDEL").arg(&self.aside).arg(id);
        self.ask("taking out what was set aside", &commands).await.map(|[_]| ())
    }

    /// Sets one aside that its receiver knows as `event`: how many are set aside now, and how many that dropped.
    ///
    /// # Errors
    /// Redis can't be reached, or refuses; then it may be set aside or not.
    pub async fn set_aside(&self, id: &str, event: &str) -> Result<[u64; 2], Error> {
        const DOING: &str = "setting an event aside";
        let mut commands = redis::pipe();
        let call = commands.cmd("EVAL").arg(SET_ASIDE).arg(2).arg(&self.key).arg(&self.aside);
        call.arg(id).arg(event).arg(MOST_SET_ASIDE);
        let [reply] = self.ask(DOING, &commands).await?;
        let counts = reply::array(reply).and_then(|counts| {
            let [now, dropped] =
                <[Value; 2]>::try_from(counts).map_err(|_| Unexpected::shape("expected two counts"))?;
            Ok([reply::count(now)?, reply::count(dropped)?])
        });
        counts.map_err(|unexpected| self.link.unexpected(DOING, unexpected))
    }

    async fn page(&self, doing: &str, key: &[u8], last: &str, age: &str, bounds: Bounds) -> Result<Page, Error> {
        let mut commands = redis::pipe();
        let call = commands.cmd("EVAL").arg(READ).arg(1).arg(key);
        call.arg(last).arg(age).arg(bounds.events).arg(bounds.bytes);
        let [reply] = self.ask(doing, &commands).await?;
        page(reply).map_err(|unexpected| self.link.unexpected(doing, unexpected))
    }

    async fn ask<const N: usize>(&self, doing: &str, commands: &redis::Pipeline) -> Result<[Value; N], Error> {
        let live = self.link.live().await?;
        let replies = self.link.exactly(doing, self.link.ask(&live, Purpose::State, doing, commands).await?)?;
        replies.iter().find_map(|reply| refusal(&self.link, doing, reply)).map_or(Ok(replies), Err)
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Outbox").field(&self.name).finish()
    }
}

fn page(reply: Value) -> Result<Page, Unexpected> {
    let Ok([length, entries]) = <[Value; 2]>::try_from(reply::array(reply)?) else {
        return Err(Unexpected::shape("expected a length and entries"));
    };
    let waiting = reply::array(entries)?.into_iter().map(waiting).collect::<Result<_, _>>()?;
    Ok(Page { waiting, length: reply::count(length)? })
}

/// An entry of a stream. Whatever stands in it is handed on: nobody else empties it.
fn waiting(entry: Value) -> Result<Waiting, Unexpected> {
    let Ok([id, fields]) = <[Value; 2]>::try_from(reply::array(entry)?) else {
        return Err(Unexpected::shape("expected an id and fields"));
    };
    let id = String::from_utf8_lossy(&reply::some_bytes(id)?).into_owned();
    let mut fields = reply::array(fields)?.into_iter().map(reply::some_bytes);
    let name = fields.next().transpose()?.unwrap_or_default();
    let text = fields.next().transpose()?.unwrap_or_default();
    let form = if name == Form::Json.as_str().as_bytes() { Form::Json } else { Form::Text };
    // Behind the text stands, where it was set aside, the word `event`.
    let event = fields.nth(1).transpose()?.map(|event| String::from_utf8_lossy(&event).into_owned());
    Ok(Waiting { id, form, text, event })
}
