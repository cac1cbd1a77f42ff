//! Webhooks: who is told of evictions by `POST`.
//!
//! Each webhook of a source has a bounded queue, which the reaper fills without ever waiting, and a courier, which empties
//! it: a batch a `POST`, tried again until the receiver took it or said that it never will. What waits in a queue is lost
//! with the process; what waits in an outbox of Redis instead is delivered at least once, or set aside there.
//!
//! Proxies that the environment names are not used, and redirects are not followed: what is told of clients goes where the
//! configuration says, and nowhere else.

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::policy::outcome::{Form, Told};
use crate::store::outbox::Outbox;

mod body;
mod courier;
mod portion;
mod post;
mod url;

pub use post::Failure;
pub use url::{Url, Wrong};

use courier::Courier;

/// More bytes than this do not wait in a queue, whatever their number.
const MOST_BYTES: usize = 64 << 20;

/// How a webhook is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where it is.
    pub url: Url,
    /// What signs a delivery.
    pub secret: Option<Secret>,
    /// PEM file of the CAs that may have signed the receiver's certificate; the system's if none.
    pub ca_file: Option<PathBuf>,
    /// How long a `POST` may take, from connecting to the answer's first line.
    pub timeout: Duration,
    /// Events in one `POST`, at most.
    pub batch: u32,
    /// Events that wait, at most; an outbox has no such bound.
    pub queue: u32,
    /// What is to be told waits in Redis until it was.
    pub outbox: bool,
}

/// What is shared with the receiver alone.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// From the configuration file.
    Text(String),
    /// Read from this file at every delivery, a trailing line break cut off.
    File(PathBuf),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text(…)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// Why an event was never delivered: the label values of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The queue was full; the oldest makes room.
    Overflow,
    /// The receiver will not have it, and it waited in no outbox, or was the oldest of too many that were set aside.
    Refused,
    /// The process ended first.
    Stopped,
}

impl Loss {
    /// Each, in the order of [`Self::index`].
    pub const ALL: [Self; 3] = [Self::Overflow, Self::Refused, Self::Stopped];

    /// The name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Overflow => "overflow",
            Self::Refused => "refused",
            Self::Stopped => "stopped",
        }
    }

    /// The place in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// What the webhooks of a source did so far, and what waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Attempts to deliver a batch, failed ones too.
    pub posts: u64,
    /// Those that failed, by [`Failure::index`].
    pub failures: [u64; Failure::ALL.len()],
    /// Events that a receiver took.
    pub delivered: u64,
    /// Events that were never delivered, by [`Loss::index`].
    pub lost: [u64; Loss::ALL.len()],
    /// Events that wait in this process.
    pub waiting: u64,
    /// Events in the outbox when it was last looked into; none while another process does.
    pub outbox: u64,
    /// Events that were refused and stand beside the outbox, likewise.
    pub set_aside: u64,
    /// Events that were set aside by this process.
    pub newly_set_aside: u64,
}

impl Tally {
    /// What is left of those who are no more: what they counted.
    fn past(self) -> Self {
        Self { waiting: 0, outbox: 0, set_aside: 0, ..self }
    }

    fn add(&mut self, other: &Self) {
        let sum = |mine: &mut [u64], theirs: &[u64]| mine.iter_mut().zip(theirs).for_each(|(mine, more)| *mine += more);
        self.posts += other.posts;
        sum(&mut self.failures, &other.failures);
        self.delivered += other.delivered;
        sum(&mut self.lost, &other.lost);
        self.waiting += other.waiting;
        self.outbox += other.outbox;
        self.set_aside += other.set_aside;
        self.newly_set_aside += other.newly_set_aside;
    }
}

/// What a webhook is told of one eviction.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Event {
    /// The same in every attempt, and no other's.
    id: String,
    form: Form,
    text: Vec<u8>,
    /// Its entry in the outbox; none in a queue.
    entry: Option<String>,
}

/// The webhooks of a source; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Hooks {
    /// In the order of its notifications.
    hooks: Arc<[Arc<Hook>]>,
    /// Those of an earlier configuration that may still have something to tell.
    former: Arc<[Arc<Hook>]>,
    /// What those did that have not.
    before: Tally,
    /// Where an outbox is that none of them empties.
    leftovers: Option<(Arc<str>, Outbox)>,
}

impl Hooks {
    /// The webhooks of this source, in the order of its notifications.
    pub fn new(source: &Arc<str>, settings: &[Settings], outbox: Outbox) -> Self {
        let hook = |settings: &Settings| {
            let outbox = settings.outbox.then(|| outbox.clone());
            Arc::new(Hook::new(Arc::clone(source), settings.clone(), outbox))
        };
        let hooks: Arc<[Arc<Hook>]> = settings.iter().map(hook).collect();
        let is_emptied = hooks.iter().any(|hook| hook.outbox.is_some());
        let leftovers = (!is_emptied).then(|| (Arc::clone(source), outbox));
        Self { hooks, leftovers, ..Self::default() }
    }

    /// The same after others of this source: what waits for a webhook that is told as before goes on waiting, and what was
    /// counted goes on counting.
    #[must_use]
    pub fn after(self, others: &Self) -> Self {
        let mut left: Vec<Arc<Hook>> = others.hooks.to_vec();
        let keep = |hook: &Arc<Hook>| {
            // What waits in an outbox waits for whoever looks into it next, by the connection of the day.
            let same = |other: &Arc<Hook>| other.outbox.is_none() && hook.settings == other.settings;
            let kept = left.iter().position(same).map(|place| left.swap_remove(place));
            kept.unwrap_or_else(|| {
                left.iter().filter(|other| hook.tells_whom(other)).for_each(|other| hook.inherit(other));
                Arc::clone(hook)
            })
        };
        let hooks = self.hooks.iter().map(keep).collect();
        left.extend(others.former.iter().cloned());
        let (done, former): (Vec<_>, Vec<_>) = left.into_iter().partition(|hook| *hook.settled.borrow());
        let mut before = others.before;
        done.iter().for_each(|hook| before.add(&hook.tally().past()));
        Self { hooks, former: former.into(), before, ..self }
    }

    /// Puts what the eviction script spelt into the queues.
    pub fn tell(&self, told: Vec<Told>) {
        for one in told {
            if let Some(hook) = self.hooks.get(one.hook) {
                hook.take_in(one);
            }
        }
    }

    /// Says that something may be new in the outbox.
    pub fn look(&self) {
        self.hooks.iter().filter(|hook| hook.outbox.is_some()).for_each(|hook| hook.is_filled());
    }

    /// Waits until nothing waits any more.
    pub async fn settled(&self) {
        for hook in self.hooks.iter() {
            let mut settled = hook.settled.subscribe();
            // An error: nobody will ever say more.
            let _ = settled.wait_for(|settled| *settled).await;
        }
    }

    /// What they did so far, all together.
    pub fn tally(&self) -> Tally {
        let mut sum = self.before;
        self.hooks.iter().for_each(|hook| sum.add(&hook.tally()));
        let of_former = |hook: &Hook| if hook.outbox.is_some() { hook.tally().past() } else { hook.tally() };
        self.former.iter().for_each(|hook| sum.add(&of_former(hook)));
        sum
    }
}

/// Who delivers what waits for webhooks.
#[derive(Debug)]
pub struct Couriers {
    patience: Duration,
    under_way: Vec<(Arc<Hook>, CancellationToken)>,
    /// Ends those who look for what is left in outboxes.
    looking: CancellationToken,
    running: JoinSet<()>,
}

impl Couriers {
    /// Nobody yet. Who is called home delivers for as long as `patience` what waits in the queues; what is left by then is
    /// lost, and counted, or stays in the outbox.
    pub fn new(patience: Duration) -> Self {
        Self { patience, under_way: Vec::new(), looking: CancellationToken::new(), running: JoinSet::new() }
    }

    /// Sends out one for each of these webhooks that has none, and calls home those of all others.
    pub fn serve<'a>(&mut self, hooks: impl IntoIterator<Item = &'a Hooks>) {
        let hooks: Vec<&Hooks> = hooks.into_iter().collect();
        self.look_for_leftovers(&hooks);
        let wanted: Vec<&Arc<Hook>> = hooks.iter().flat_map(|hooks| hooks.hooks.iter()).collect();
        self.under_way.retain(|(hook, home)| {
            let stays = wanted.iter().any(|wanted| Arc::ptr_eq(wanted, hook));
            if !stays {
                home.cancel();
            }
            stays
        });
        for hook in wanted {
            if !self.under_way.iter().any(|(known, _)| Arc::ptr_eq(known, hook)) {
                let home = CancellationToken::new();
                self.running.spawn(Courier::of(Arc::clone(hook)).run(home.clone(), self.patience));
                self.under_way.push((Arc::clone(hook), home));
            }
        }
    }

    fn look_for_leftovers(&mut self, hooks: &[&Hooks]) {
        std::mem::take(&mut self.looking).cancel();
        for (source, outbox) in hooks.iter().filter_map(|hooks| hooks.leftovers.as_ref()) {
            let home = self.looking.clone();
            self.running.spawn(courier::look_for_leftovers(Arc::clone(source), outbox.clone(), home));
        }
    }

    /// Calls all of them home, and waits for them.
    pub async fn end(mut self) {
        self.serve(None);
        self.running.join_all().await;
    }
}

/// One webhook: its queue, and what became of what went through it.
#[derive(Debug)]
struct Hook {
    source: Arc<str>,
    settings: Settings,
    outbox: Option<Outbox>,
    /// What the ids of its events begin with; drawn for this process.
    prefix: String,
    state: Mutex<State>,
    /// Something waits.
    news: Notify,
    /// Whether nothing waits, for who wants to know.
    settled: tokio::sync::watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Event>,
    /// Bytes of their texts.
    bytes: usize,
    /// Events that are under way.
    taken: usize,
    /// Events so far.
    numbered: u64,
    /// The outbox may hold what nobody has seen.
    unread: bool,
    /// It is being looked into, and what was found is not yet worked through.
    looking: bool,
    tally: Tally,
}

impl State {
    fn is_settled(&self) -> bool {
        self.queue.is_empty() && self.taken == 0 && !self.unread && !self.looking
    }
}

impl Hook {
    fn new(source: Arc<str>, settings: Settings, outbox: Option<Outbox>) -> Self {
        let state = State { unread: outbox.is_some(), ..State::default() };
        let settled = tokio::sync::watch::Sender::new(state.is_settled());
        let prefix = (0..8).map(|_| format!("{:02x}", fastrand::u8(..))).collect();
        Self { source, settings, outbox, prefix, state: Mutex::new(state), news: Notify::new(), settled }
    }

    /// Puts an event into the queue. Of one that is full the oldest go: who shows who is there wants the newest, and has
    /// missed the oldest for the longest already.
    fn take_in(&self, told: Told) {
        self.with(|state| {
            state.numbered += 1;
            let id = format!("{}-{}", self.prefix, state.numbered);
            state.bytes += told.text.len();
            state.queue.push_back(Event { id, form: told.form, text: told.text, entry: None });
            self.make_room(state);
        });
        self.news.notify_one();
    }

    fn make_room(&self, state: &mut State) {
        while state.queue.len() > self.settings.queue as usize || state.bytes > MOST_BYTES {
            let Some(oldest) = state.queue.pop_front() else { break };
            state.bytes -= oldest.text.len();
            state.tally.lost[Loss::Overflow.index()] += 1;
        }
    }

    /// Whether two tell the same receiver, and neither has an outbox.
    fn tells_whom(&self, other: &Self) -> bool {
        self.outbox.is_none() && other.outbox.is_none() && self.settings.url == other.settings.url
    }

    /// Takes over what waits for the same receiver under other settings.
    fn inherit(&self, other: &Self) {
        let queue = other.with(|state| {
            state.bytes = 0;
            std::mem::take(&mut state.queue)
        });
        self.with(|state| {
            state.bytes += queue.iter().map(|event| event.text.len()).sum::<usize>();
            state.queue.extend(queue);
            self.make_room(state);
        });
        self.news.notify_one();
    }

    fn is_filled(&self) {
        self.with(|state| state.unread = true);
        self.news.notify_one();
    }

    /// The next batch of the queue; none if nothing waits.
    fn take_batch(&self) -> Option<Vec<Event>> {
        self.with(|state| {
            let sizes = state.queue.iter().map(|event| event.text.len());
            let count = body::fitting(sizes, self.settings.batch);
            let batch: Vec<Event> = state.queue.drain(..count).collect();
            state.bytes -= batch.iter().map(|event| event.text.len()).sum::<usize>();
            state.taken = batch.len();
            (!batch.is_empty()).then_some(batch)
        })
    }

    fn tally(&self) -> Tally {
        self.with(|state| Tally { waiting: (state.queue.len() + state.taken) as u64, ..state.tally })
    }

    /// Looks at the state, or changes it, and tells who waits for everything to be settled.
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state: MutexGuard<'_, State> = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut state);
        let settled = state.is_settled();
        self.settled.send_if_modified(|known| std::mem::replace(known, settled) != settled);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(queue: u32, batch: u32) -> Settings {
        let url = Url::parse("https://hooks.example.com/x").unwrap();
        let timeout = Duration::from_secs(5);
        Settings { url, secret: None, ca_file: None, timeout, batch, queue, outbox: false }
    }

    fn told(text: &str) -> Told {
        Told { hook: 0, form: Form::Text, text: text.as_bytes().to_vec() }
    }

    fn taken(hook: &Hook) -> Vec<String> {
        hook.take_batch().unwrap_or_default().into_iter().map(|event| String::from_utf8(event.text).unwrap()).collect()
    }

    #[test]
    fn of_a_full_queue_the_oldest_go_and_are_counted() {
        let hook = Hook::new("hub".into(), settings(3, 2), None);
        assert!(*hook.settled.borrow());
        ["a", "b", "c", "d", "e"].iter().for_each(|text| hook.take_in(told(text)));
        assert!(!*hook.settled.borrow());
        assert_eq!(hook.tally(), Tally { lost: [2, 0, 0], waiting: 3, ..Tally::default() });
        assert_eq!(taken(&hook), ["c", "d"]);
        assert_eq!(hook.tally().waiting, 3, "what is under way is not delivered");
        assert_eq!(taken(&hook), ["e"]);
        assert_eq!(taken(&hook), [""; 0]);
        assert!(*hook.settled.borrow());
    }

    #[test]
    fn neither_a_queue_nor_a_batch_grows_beyond_its_bytes() {
        let hook = Hook::new("hub".into(), settings(1_000, 1_000), None);
        let large = "x".repeat(600_000);
        (0..200).for_each(|_| hook.take_in(told(&large)));
        let waiting = hook.tally().waiting;
        assert_eq!(waiting, (MOST_BYTES / large.len()) as u64);
        assert_eq!(hook.tally().lost[Loss::Overflow.index()], 200 - waiting);
        assert_eq!(taken(&hook).len(), 1);
        hook.take_in(told(&"x".repeat(3 << 20)));
        let sizes: Vec<usize> = std::iter::from_fn(|| hook.take_batch()).map(|batch| batch.len()).collect();
        assert!(sizes.iter().all(|size| *size == 1), "one that is too large goes alone: {sizes:?}");
    }

    #[test]
    fn what_waits_for_a_receiver_stays_when_its_settings_change() {
        let hooks = |settings: Settings| {
            let hook = Arc::new(Hook::new("hub".into(), settings, None));
            Hooks { hooks: [hook].into(), ..Hooks::default() }
        };
        let before = hooks(settings(9, 2));
        ["a", "b", "c"].iter().for_each(|text| before.hooks[0].take_in(told(text)));
        let after = hooks(settings(2, 9)).after(&before);
        assert_eq!(taken(&after.hooks[0]), ["b", "c"], "as many as find room now");
        assert_eq!(after.tally().lost[Loss::Overflow.index()], 1);
        let elsewhere = Settings { url: Url::parse("https://other.example.com/").unwrap(), ..settings(9, 9) };
        before.hooks[0].take_in(told("d"));
        assert_eq!(taken(&hooks(elsewhere).after(&before).hooks[0]), [""; 0]);
        let same = hooks(settings(9, 2)).after(&before);
        assert!(Arc::ptr_eq(&same.hooks[0], &before.hooks[0]));
    }

    #[test]
    fn no_two_events_share_an_id() {
        let ids = |hook: Hook| {
            (0..3).for_each(|_| hook.take_in(told("x")));
            hook.take_batch().unwrap().into_iter().map(|event| event.id).collect::<Vec<_>>()
        };
        let all =
            [ids(Hook::new("hub".into(), settings(9, 9), None)), ids(Hook::new("hub".into(), settings(9, 9), None))];
        let all: std::collections::BTreeSet<String> = all.concat().into_iter().collect();
        assert_eq!(all.len(), 6);
    }

    #[test]
    fn neither_secret_nor_url_is_shown() {
        let secret = Some(Secret::Text("hush".into()));
        let shown = format!("{:?}", Settings { secret, ..settings(1, 1) });
        assert!(!shown.contains("hush") && !shown.contains("/x"), "{shown}");
    }
}
