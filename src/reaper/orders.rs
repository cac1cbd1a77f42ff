//! What is ordered in this process: by operators through Redis, and by a signal.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{RwLock, RwLockReadGuard, watch};

use crate::policy::entry::Monotonic;
use crate::policy::order::{Brake, Orders};

/// The orders of all sources of a process, as far as it has heard of them.
///
/// A strike keeps them from changing from its re-read to its answer. So once a change was taken in, nothing more goes
/// that it forbids.
#[derive(Debug)]
pub struct StandingOrders {
    /// What was read; a source of which nothing was read yet is held.
    read: RwLock<HashMap<Arc<str>, Orders>>,
    /// The brake of this process alone.
    own: Mutex<Option<Brake>>,
    /// Counts the changes.
    changes: watch::Sender<u64>,
    /// How many orders had been given when they were last read, by where that was.
    seen: Mutex<HashMap<String, u64>>,
}

/// Keeps orders from changing.
pub(super) type Unchanged<'a> = RwLockReadGuard<'a, HashMap<Arc<str>, Orders>>;

impl Default for StandingOrders {
    fn default() -> Self {
        Self { read: RwLock::default(), own: Mutex::default(), changes: watch::Sender::new(0), seen: Mutex::default() }
    }
}

impl StandingOrders {
    /// Takes in what was read for some sources. Waits for strikes that are under way.
    pub async fn take_in(&self, read: HashMap<Arc<str>, Orders>) {
        self.replace(read, false).await;
    }

    /// The same where Redis has lost data: a brake that is missing may be among what was lost, and stays.
    pub async fn take_in_what_is_left(&self, read: HashMap<Arc<str>, Orders>) {
        self.replace(read, true).await;
    }

    /// Notes that so many orders had been given at `place`; returns how many had when they were last read there.
    pub(super) fn saw(&self, place: &str, revision: u64) -> Option<u64> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(place.to_owned(), revision)
    }

    async fn replace(&self, read: HashMap<Arc<str>, Orders>, keeps_brakes: bool) {
        let mut known = self.read.write().await;
        let mut changed = false;
        for (source, mut orders) in read {
            let before = known.get(&source);
            if keeps_brakes && orders.brake.is_none() {
                orders.brake = before.filter(|before| !before.unheard).and_then(|before| before.brake.clone());
            }
            changed |= before != Some(&orders);
            known.insert(source, orders);
        }
        drop(known);
        if changed {
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// Pulls the brake of this process, or lets go of it. Waits for strikes that are under way.
    pub async fn brake(&self, brake: Option<Brake>) {
        let none_strikes = self.read.write().await;
        *self.own.lock().unwrap_or_else(PoisonError::into_inner) = brake;
        drop(none_strikes);
        self.changes.send_modify(|count| *count += 1);
    }

    /// Tells of changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// What is ordered for a source; it stays so as long as the second is kept.
    pub(super) async fn in_force(&self, source: &str, now: Monotonic) -> (Orders, Unchanged<'_>) {
        let unchanged = self.read.read().await;
        let mut orders = unchanged.get(source).cloned().unwrap_or_else(Orders::unheard);
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(own) = own.filter(|own| own.until.is_none_or(|until| now < until)) {
            (orders.brake, orders.unheard) = (Some(own), false);
        }
        (orders, unchanged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn braked() -> HashMap<Arc<str>, Orders> {
        let brake = Brake { until: None, why: "ordered by somebody".into(), ends_with: "resume" };
        HashMap::from([(Arc::from("hub"), Orders { brake: Some(brake), ..Orders::default() })])
    }

    fn freed() -> HashMap<Arc<str>, Orders> {
        HashMap::from([(Arc::from("hub"), Orders::default())])
    }

    async fn holds(orders: &StandingOrders) -> Option<String> {
        let now = Monotonic::default();
        orders.in_force("hub", now).await.0.hold(now).map(|hold| hold.why)
    }

    #[tokio::test]
    async fn what_nobody_has_read_yet_is_a_brake() {
        let orders = StandingOrders::default();
        assert!(holds(&orders).await.is_some_and(|why| why.contains("has not been read")));
        orders.take_in(freed()).await;
        assert_eq!(holds(&orders).await, None);
        orders.take_in(braked()).await;
        assert_eq!(holds(&orders).await.as_deref(), Some("ordered by somebody"));
    }

    #[tokio::test]
    async fn the_brake_of_the_process_outranks_what_was_read_until_it_is_let_go() {
        let orders = StandingOrders::default();
        orders.take_in(freed()).await;
        let own = Brake { until: None, why: "a signal".into(), ends_with: "another" };
        orders.brake(Some(own)).await;
        assert_eq!(holds(&orders).await.as_deref(), Some("a signal"));
        orders.take_in(freed()).await;
        assert_eq!(holds(&orders).await.as_deref(), Some("a signal"), "whatever is read");
        orders.brake(None).await;
        assert_eq!(holds(&orders).await, None);
    }

    #[tokio::test]
    async fn a_brake_that_redis_lost_stays() {
        let orders = StandingOrders::default();
        orders.take_in(braked()).await;
        orders.take_in_what_is_left(freed()).await;
        assert_eq!(holds(&orders).await.as_deref(), Some("ordered by somebody"));
        orders.take_in(freed()).await;
        assert_eq!(holds(&orders).await, None);
        let orders = StandingOrders::default();
        orders.take_in_what_is_left(freed()).await;
        assert_eq!(holds(&orders).await, None, "none that was only feared");
    }

    #[tokio::test]
    async fn only_a_change_is_told() {
        let orders = StandingOrders::default();
        orders.take_in(freed()).await;
        let mut changes = orders.changes();
        orders.take_in(freed()).await;
        assert!(!changes.has_changed().unwrap());
        orders.take_in(braked()).await;
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        orders.brake(None).await;
        assert!(changes.has_changed().unwrap());
    }

    #[tokio::test]
    async fn a_change_waits_for_the_strike_under_way() {
        let orders = StandingOrders::default();
        orders.take_in(freed()).await;
        let strike = orders.in_force("hub", Monotonic::default()).await;
        let mut order = Box::pin(orders.take_in(braked()));
        assert!(futures_poll(&mut order).await.is_none(), "the strike is under way");
        drop(strike);
        assert!(futures_poll(&mut order).await.is_some());
    }

    /// Polls once.
    async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(context) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }
}
