//! Who of several reapers acts on a source: the one whose value stands in the lease.
//!
//! What it guards lies in the same Redis, so the fence stands where the damage would be done: the eviction script
//! compares the lease before anything else. Two that believe to lead at once cost pace, never an entry that lives.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::connect::Link;
use super::error::{Error, Kind};
use super::instances::own_name;
use super::reply;
use super::state::{self, refusal};
use super::status::Purpose;
use crate::clock::Clock;
use crate::language::source::Source;
use crate::policy::entry::Monotonic;
use crate::policy::staleness::Timing;

/// What is set about leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long after its last sign of life a leader is followed by another. It stops by itself after two thirds of
    /// that, and is heard seven times in it.
    pub ttl: Duration,
}

impl Default for Settings {
    /// As Kubernetes elects its leaders: 15 s, of which the leader trusts 10 s, with a try every 2 s.
    fn default() -> Self {
        Self { ttl: Duration::from_secs(15) }
    }
}

const SCRIPT: &str = include_str!("lease.lua");

const DOING: &str = "holding the lease";

/// One process's part in the lease of one source.
#[derive(Debug)]
pub struct Lease {
    link: Arc<Link>,
    clock: Clock,
    settings: Settings,
    source: Arc<str>,
    key: Vec<u8>,
    value: Vec<u8>,
    state: Mutex<State>,
    gained: Notify,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// Until when we may act.
    until: Option<Monotonic>,
    /// The last try that was answered was granted.
    granted: bool,
    /// The other that holds it, as of the last try that was answered.
    other: Option<Holder>,
    /// Another has held it since this was last asked.
    followed: bool,
    /// How often it went to us, or from us to another.
    transitions: u64,
    /// What was last told of it.
    told: Option<Told>,
}

/// What the log last said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Leads,
    Follows,
    Fails,
}

/// Who holds a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process, for a person: `HOST:PID`.
    pub name: String,
    /// It judges entries by other settings than we do.
    pub differs: bool,
}

/// What the eviction script compares.
#[derive(Clone, Debug)]
pub(super) struct Fence {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
}

impl Lease {
    pub(super) fn new(link: Arc<Link>, source: &Source, timing: &Timing, settings: Settings, clock: Clock) -> Self {
        let token: String = (0..20).map(|_| format!("{:02x}", fastrand::u8(..))).collect();
        let value = format!("{token} {} {}", state::definition(source, timing), own_name()).into_bytes();
        Self {
            link,
            clock,
            settings,
            source: Arc::clone(&source.name),
            key: state::own_key(source, "lease"),
            value,
            state: Mutex::default(),
            gained: Notify::new(),
        }
    }

    /// The same after another one of this process: it holds what that one held if it judges `alike`, and counts on.
    pub(super) fn after(&self, other: &Self, alike: bool) -> Self {
        let before = other.locked().clone();
        let (value, state) = match alike {
            true => (other.value.clone(), before),
            false => (self.value.clone(), State { transitions: before.transitions, ..State::default() }),
        };
        Self {
            link: Arc::clone(&self.link),
            clock: self.clock,
            settings: self.settings,
            source: Arc::clone(&self.source),
            key: self.key.clone(),
            value,
            state: Mutex::new(state),
            gained: Notify::new(),
        }
    }

    /// Whether this one and another stand for the same holder.
    pub fn stands_for(&self, other: &Self) -> bool {
        self.key == other.key && self.value == other.value
    }

    /// The name of the source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether we may act now.
    pub fn leads(&self) -> bool {
        self.locked().until.is_some_and(|until| self.clock.now() < until)
    }

    /// The other that leads, as far as we know.
    pub fn led_by(&self) -> Option<Holder> {
        self.locked().other.clone()
    }

    /// Whether another has led since this was last asked.
    pub fn followed(&self) -> bool {
        std::mem::take(&mut self.locked().followed)
    }

    /// How often it went to us, or from us to another.
    pub fn transitions(&self) -> u64 {
        self.locked().transitions
    }

    /// Until we begin to lead.
    pub async fn gained(&self) {
        self.gained.notified().await;
    }

    pub(super) fn fence(&self) -> Option<Fence> {
        self.leads().then(|| Fence { key: self.key.clone(), value: self.value.clone() })
    }

    /// Somebody else's value was met where ours should stand.
    pub(super) fn fenced(&self) {
        self.locked().until = None;
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // === tries ===

    /// Tries to lead, again and again, until told to stop.
    pub async fn keep(&self, stop: &CancellationToken) {
        // bound: until told to stop; every turn sleeps
        while !stop.is_cancelled() {
            let tried = stop.run_until_cancelled(self.try_to_lead()).await;
            if let Some(Err(error)) = tried {
                self.tell(Told::Fails, || {
                    warn!(source = &*self.source, %error, "can't take the lease; without it this reaper evicts nothing");
                });
            }
            let pause = self.settings.ttl.mul_f64((1.0 + fastrand::f64() * 0.2) * 2.0 / 15.0);
            stop.run_until_cancelled(tokio::time::sleep(pause)).await;
        }
    }

    /// Tries once; says whether we lead.
    ///
    /// # Errors
    /// Redis can't be reached, or refuses. What we held we hold until it runs out.
    pub async fn try_to_lead(&self) -> Result<bool, Error> {
        // Counted from before the try: the server's own count begins later, and so ends later.
        let until = self.clock.now().plus(self.settings.ttl * 2 / 3);
        let stands = self.call(self.settings.ttl).await?;
        let ours = stands == self.value;
        self.take_in(ours.then_some(until), (!ours).then(|| self.holder(&stands)));
        Ok(ours)
    }

    /// Gives back what we hold, so that another needs not wait. Whatever keeps it from that, the lease runs out.
    pub async fn release(&self) {
        let held = self.locked().until.take().is_some_and(|until| self.clock.now() < until);
        if held && let Err(error) = self.call(Duration::ZERO).await {
            debug!(source = &*self.source, %error, "the lease runs out by itself");
        }
    }

    async fn call(&self, ttl: Duration) -> Result<Vec<u8>, Error> {
        let live = self.link.live().await?;
        let mut commands = redis::pipe();
        commands.cmd("EVAL").arg(SCRIPT).arg(1).arg(&self.key).arg(&self.value).arg(ttl.as_millis().to_string());
        let [reply] = self.link.exactly(DOING, self.link.ask(&live, Purpose::Lease, DOING, &commands).await?)?;
        if let Some(error) = refusal(&self.link, DOING, &reply) {
            return Err(match error.kind {
                Kind::Permission => error.with_remedy(
                    "nothing is evicted without the lease: `check --acl` prints the line that gives the ACL user of \
                     [redis] what it needs on ~presence-reaper:*",
                ),
                _ => error,
            });
        }
        reply::some_bytes(reply).map_err(|unexpected| self.link.unexpected(DOING, unexpected))
    }

    fn holder(&self, value: &[u8]) -> Holder {
        let [theirs, ours] = [value, &self.value].map(|value| parts(&String::from_utf8_lossy(value)));
        Holder { differs: theirs.0 != ours.0, name: theirs.1 }
    }

    fn take_in(&self, until: Option<Monotonic>, other: Option<Holder>) {
        let source = &*self.source;
        let led = self.leads();
        {
            let mut state = self.locked();
            let was_granted = std::mem::replace(&mut state.granted, until.is_some());
            state.transitions += u64::from(was_granted != state.granted);
            state.until = until;
            state.followed |= other.is_some();
            state.other.clone_from(&other);
        }
        if until.is_some() && !led {
            self.gained.notify_one();
        }
        match other {
            None => self.tell(Told::Leads, || info!(source, "leads: this reaper evicts")),
            Some(Holder { name, differs }) => self.tell(Told::Follows, || {
                let differs = if differs { ", by other settings of this source" } else { "" };
                info!(source, leader = name, "stands by: another reaper evicts{differs}");
            }),
        }
    }

    /// One line when something changes.
    fn tell(&self, what: Told, say: impl FnOnce()) {
        if self.locked().told.replace(what) != Some(what) {
            say();
        }
    }
}

/// Of a value: the definition, and the name of the process.
fn parts(value: &str) -> (String, String) {
    let mut words = value.splitn(3, ' ').skip(1).map(str::to_owned);
    (words.next().unwrap_or_default(), words.next().unwrap_or_else(|| "somebody".into()))
}
