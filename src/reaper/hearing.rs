//! Hears what operators order in one database, again and again, and lets them know that it is obeyed.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::orders::StandingOrders;
use super::{Mode, Reaper};
use crate::policy::entry::{Monotonic, Now};
use crate::policy::order::Orders;
use crate::store::error::Error;
use crate::store::instances::{self, Instance, InstanceSource};
use crate::store::orders::{OrderBook, Written};

/// An operator waits for an answer, and entries go meanwhile.
const HEARS_EVERY: Duration = Duration::from_secs(1);

/// Often enough to count as alive, and seldom enough to be no noise.
const ENLISTS_EVERY: Duration = Duration::from_secs(5);

/// Who stays on the list is taken off it by others.
const TAKES_LEAVE_WITHIN: Duration = Duration::from_secs(2);

/// Who died without goodbye is taken off the list by whoever lives on.
const TIDIES_EVERY: Duration = Duration::from_secs(10 * 60);

/// How the sources of a database stand with this process, at this moment of the two clocks.
pub type Describe = Arc<dyn Fn(&[Arc<str>], Now) -> Vec<InstanceSource> + Send + Sync>;

/// The ear of a process in one database.
pub struct Hearing {
    book: OrderBook,
    orders: Arc<StandingOrders>,
    describe: Describe,
    /// Every order up to this one is obeyed.
    obeyed: Option<u64>,
    enlists_at: Monotonic,
    tidies_at: Monotonic,
    told: bool,
}

/// An ear for each database in which these reapers evict. Who evicts nothing has nothing to obey, and writes nothing.
pub fn hearings(reapers: &[Reaper], describe: Describe) -> Vec<Hearing> {
    let Some(orders) = reapers.first().map(|reaper| Arc::clone(&reaper.settings.orders)) else { return Vec::new() };
    let evicting = reapers.iter().filter(|reaper| reaper.mode() == Mode::Evict);
    let books = OrderBook::of(evicting.map(Reaper::store)).into_iter();
    books.map(|book| Hearing::new(book, Arc::clone(&orders), Arc::clone(&describe))).collect()
}

impl Hearing {
    /// An ear that has heard nothing yet.
    fn new(book: OrderBook, orders: Arc<StandingOrders>, describe: Describe) -> Self {
        let start = Monotonic::default();
        Self { book, orders, describe, obeyed: None, enlists_at: start, tidies_at: start, told: false }
    }

    /// Hears again and again until told to stop, and takes its leave.
    pub async fn keep(mut self, stop: CancellationToken) {
        // bound: until told to stop; every turn sleeps
        while !stop.is_cancelled() {
            stop.run_until_cancelled(tokio::time::sleep(HEARS_EVERY)).await;
            stop.run_until_cancelled(self.hear()).await;
        }
        let own = [instances::own_name()];
        if let Ok(Err(error)) = tokio::time::timeout(TAKES_LEAVE_WITHIN, self.book.dismiss(&own)).await {
            debug!(%error, "stays on the list of processes until it is forgotten");
        }
    }

    /// Hears once. What can't be read because Redis is away stays as it was: nothing can be evicted there either. What
    /// Redis refuses to tell is a brake.
    pub async fn hear(&mut self) {
        match self.book.read().await {
            Ok(written) => {
                self.take_in(&written).await;
                match self.answer(written.revision, written.now).await {
                    Ok(()) => self.told = false,
                    Err(error) => self.complain(&error, "operators can't see that this process obeys"),
                }
            }
            Err(error) if !error.kind.is_our_own() => debug!(%error, "what operators ordered was not read this time"),
            Err(error) => {
                let unheard = self.book.sources().iter().map(|source| (Arc::clone(source), Orders::unheard()));
                self.orders.take_in(unheard.collect()).await;
                self.complain(&error, "what operators ordered can't be read: nothing is evicted");
            }
        }
    }

    /// A brake that is gone was taken back only if an order was given since; else Redis lost it or dropped it to make room,
    /// and it stays until its end.
    async fn take_in(&mut self, written: &Written) {
        // What an ear before this one heard counts: it may have kept a brake that is no longer written anywhere.
        let seen = self.orders.saw(&self.book.place(), written.revision);
        if seen.is_some_and(|seen| written.revision < seen) {
            warn!(database = self.book.database(), "redis lost what operators ordered: a hold stays until its end");
        }
        match seen.is_some_and(|seen| written.revision > seen) {
            true => self.orders.take_in(written.orders()).await,
            false => self.orders.take_in_what_is_left(written.orders()).await,
        }
    }

    /// Writes down what is obeyed as soon as it is, and now and then that we are there.
    async fn answer(&mut self, revision: u64, now: Now) -> Result<(), Error> {
        if self.obeyed == Some(revision) && now.mono < self.enlists_at {
            return Ok(());
        }
        let instance = Instance {
            name: instances::own_name(),
            version: env!("CARGO_PKG_VERSION").into(),
            seen_ms: now.server.millis(),
            revision,
            sources: (self.describe)(self.book.sources(), now),
        };
        self.book.enlist(&instance).await?;
        // How the sources stand under new orders shows a moment later.
        let soon = self.obeyed != Some(revision);
        self.enlists_at = if soon { now.mono } else { now.mono.plus(ENLISTS_EVERY) };
        self.obeyed = Some(revision);
        if now.mono >= self.tidies_at {
            self.tidies_at = now.mono.plus(TIDIES_EVERY);
            let (now, instances) = self.book.instances().await?;
            let dead = instances.into_iter().filter(|instance| !instance.is_alive(now)).map(|instance| instance.name);
            self.book.dismiss(&dead.collect::<Vec<_>>()).await?;
        }
        Ok(())
    }

    /// Once, until it works again.
    fn complain(&mut self, error: &Error, what: &str) {
        if !std::mem::replace(&mut self.told, true) {
            warn!(database = self.book.database(), %error, "{what}");
        }
    }
}
