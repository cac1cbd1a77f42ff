//! The outbox of a source: what its webhook was not told yet, in a stream of our own beside the entries.
//!
//! The eviction script fills it, in the same step in which an entry goes; whoever holds the source's lease reads it from
//! its head and takes out what was delivered. So what is in it survives us, and is delivered at least once.

use std::fmt;
use std::sync::Arc;

use redis::Value;

use super::connect::Link;
use super::error::Error;
use super::lease::Lease;
use super::reply::{self, Unexpected};
use super::state::{own_key, own_name, refusal};
use super::status::Purpose;
use crate::language::source::Source;
use crate::policy::outcome::Form;

/// The outbox of one source.
#[derive(Clone)]
pub struct Outbox {
    link: Arc<Link>,
    lease: Option<Arc<Lease>>,
    key: Vec<u8>,
    name: String,
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
}

/// Where a source has its outbox.
pub(super) fn key(source: &Source) -> Vec<u8> {
    own_key(source, "outbox")
}

impl Outbox {
    pub(super) fn new(link: Arc<Link>, lease: Option<Arc<Lease>>, source: &Source) -> Self {
        Self { link, lease, key: key(source), name: own_name(source) }
    }

    /// Tells what waits in it from what waits in those of other sources.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is ours to empty: we hold the source's lease.
    pub fn is_ours(&self) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.leads())
    }

    /// The oldest that wait, at most so many, and how many there are in all.
    ///
    /// # Errors
    /// Redis can't be reached, or refuses.
    pub async fn read(&self, most: u32) -> Result<(Vec<Waiting>, u64), Error> {
        const DOING: &str = "reading the outbox";
        let mut commands = redis::pipe();
        commands.cmd("XRANGE").arg(&self.key).arg("-").arg("+").arg("COUNT").arg(most);
        commands.cmd("XLEN").arg(&self.key);
        let [entries, length] = self.ask(DOING, &commands).await?;
        let unexpected = |unexpected| self.link.unexpected(DOING, unexpected);
        let entries = reply::array(entries).map_err(unexpected)?;
        let waiting = entries.into_iter().map(waiting).collect::<Result<_, _>>().map_err(unexpected)?;
        Ok((waiting, reply::count(length).map_err(unexpected)?))
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

/// An entry of the stream. Whatever stands in it is handed on: nobody else empties it.
fn waiting(entry: Value) -> Result<Waiting, Unexpected> {
    let Ok([id, fields]) = <[Value; 2]>::try_from(reply::array(entry)?) else {
        return Err(Unexpected::shape("expected an id and fields"));
    };
    let id = String::from_utf8_lossy(&reply::some_bytes(id)?).into_owned();
    let mut fields = reply::array(fields)?.into_iter().map(reply::some_bytes);
    let name = fields.next().transpose()?.unwrap_or_default();
    let text = fields.next().transpose()?.unwrap_or_default();
    let form = if name == Form::Json.as_str().as_bytes() { Form::Json } else { Form::Text };
    Ok(Waiting { id, form, text })
}
