//! What an operator may order from outside: pull the brake, let go of it, release entries that silence or mass keep; and
//! see who obeys.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::policy::entry::{Now, Timestamp};
use crate::policy::order::Command;
use crate::store::error::Error;
use crate::store::instances::Instance;
use crate::store::orders::{Order, OrderBook, Token, Written};

mod text;

pub use text::{write_given, write_json, write_view};

/// How long the processes have to answer: each listens once a second.
pub const ANSWERS_WITHIN: Duration = Duration::from_secs(3);

/// How often we look whether they have.
const LOOKS_EVERY: Duration = Duration::from_millis(100);

/// What came of an order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// When a brake or a release ends; server time.
    pub until: Option<Timestamp>,
    /// The processes that obey.
    pub obeys: Vec<String>,
    /// Those that were heard of lately and did not answer in time.
    pub unanswered: Vec<String>,
}

/// Gives an order in the name of `by` and waits until every process that is known obeys, or has had its time.
///
/// # Errors
/// Redis can't be reached, or refuses.
pub async fn give(books: &[OrderBook], command: &Command, by: &str) -> Result<Given, Error> {
    let mut given = Given::default();
    let mut revisions = Vec::with_capacity(books.len());
    for book in books.iter().filter(|book| concerns(command, book)) {
        let (now, _) = book.instances().await?;
        let (revision, until) = write(book, command, by, now).await?;
        given.until = given.until.max(until);
        revisions.push((book, revision));
    }
    let deadline = Instant::now() + ANSWERS_WITHIN;
    // bound: until the deadline
    loop {
        (given.obeys, given.unanswered) = answers(&revisions).await?;
        if given.unanswered.is_empty() || Instant::now() >= deadline {
            return Ok(given);
        }
        sleep(LOOKS_EVERY).await;
    }
}

/// Whether an order has to be written in this database.
fn concerns(command: &Command, book: &OrderBook) -> bool {
    let names = command.sources();
    names.is_empty() || names.iter().any(|name| has(book, name))
}

fn has(book: &OrderBook, name: &str) -> bool {
    book.sources().iter().any(|source| **source == *name)
}

async fn write(book: &OrderBook, command: &Command, by: &str, now: Now) -> Result<(u64, Option<Timestamp>), Error> {
    let order = |lasts: Duration, reason: Option<&String>| Order {
        until: Some(now.server.plus(lasts)),
        reason: reason.cloned(),
        by: by.to_owned(),
    };
    match command {
        Command::Hold { sources, lasts, reason } => {
            let order = order(*lasts, reason.as_ref());
            let mut revision = 0;
            for scope in scopes(book, sources) {
                revision = book.hold(scope, &order, *lasts).await?;
            }
            Ok((revision, order.until))
        }
        Command::Resume { sources } => {
            let mut revision = 0;
            let each = book.sources().iter().filter(|_| sources.is_empty()).map(|source| Some(&**source));
            for scope in scopes(book, sources).into_iter().chain(each) {
                revision = book.resume(scope).await?;
            }
            Ok((revision, None))
        }
        Command::Release { source, max, lasts, reason } => {
            let order = order(*lasts, Some(reason));
            let id = format!("{:016x}", fastrand::u64(..));
            let token = Token { order: order.clone(), id, left: *max };
            Ok((book.release(source, &token, *lasts).await?, order.until))
        }
    }
}

/// Those of the named that are in this database, each by itself; everything at once if none is named.
fn scopes<'n>(book: &OrderBook, names: &'n [String]) -> Vec<Option<&'n str>> {
    if names.is_empty() {
        return vec![None];
    }
    names.iter().filter(|name| has(book, name)).map(|name| Some(name.as_str())).collect()
}

/// Who obeys these orders, and who does not yet.
async fn answers(revisions: &[(&OrderBook, u64)]) -> Result<(Vec<String>, Vec<String>), Error> {
    let (mut obeys, mut unanswered) = (Vec::new(), Vec::new());
    for (book, revision) in revisions {
        let (now, instances) = book.instances().await?;
        for instance in instances.into_iter().filter(|instance| instance.is_alive(now)) {
            let list = if instance.revision >= *revision { &mut obeys } else { &mut unanswered };
            list.push(instance.name);
        }
    }
    // One process may listen in several databases, and obeys only if it does in all of them.
    unanswered.sort();
    unanswered.dedup();
    obeys.sort();
    obeys.dedup();
    obeys.retain(|name| !unanswered.contains(name));
    Ok((obeys, unanswered))
}

// === status ===

/// One database as operators see it.
#[derive(Clone, Debug)]
pub struct View {
    /// Its number.
    pub database: u16,
    /// What is ordered.
    pub written: Written,
    /// The processes that were heard lately.
    pub instances: Vec<Instance>,
}

/// Looks at what is ordered, and at the processes.
///
/// # Errors
/// Redis can't be reached, or refuses.
pub async fn view(books: &[OrderBook]) -> Result<Vec<View>, Error> {
    let mut views = Vec::with_capacity(books.len());
    for book in books {
        let written = book.read().await?;
        let (now, instances) = book.instances().await?;
        let instances = instances.into_iter().filter(|instance| instance.is_alive(now)).collect();
        views.push(View { database: book.database(), written, instances });
    }
    Ok(views)
}
