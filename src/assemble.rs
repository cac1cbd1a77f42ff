//! One checked configuration → the reapers of a process, on one connection a database and under one pace.

use std::sync::{Arc, Mutex, PoisonError};

use crate::audit::Audit;
use crate::clock::Clock;
use crate::config::{Config, SourceConfig};
use crate::policy::guard::{self, Lifted};
use crate::policy::pace::Shared;
use crate::reaper::{Mode, Reaper, Settings, StandingOrders};
use crate::store::Store;
use crate::store::connect::{self, Links};
use crate::store::orders::OrderBook;
use crate::store::record::Recorder;
use crate::text::Redaction;
use crate::webhook::Hooks;

/// What holds for all sources of a run.
#[derive(Clone, Debug)]
pub struct Run {
    /// Whether anything is evicted; a source may still be in dry run by itself.
    pub mode: Mode,
    /// Guards lifted by the operator.
    pub lifted: Lifted,
    /// Evictions allowed in all.
    pub max: Option<u64>,
    /// Hides ids in reports and logs.
    pub redaction: Option<Arc<Redaction>>,
    /// What operators order.
    pub orders: Arc<StandingOrders>,
    /// Who keeps the file of the audit record, where there is one.
    pub audit: Audit,
}

impl Run {
    /// The daemon's run: no limit but the pace, nothing lifted.
    pub fn unlimited(mode: Mode) -> Self {
        Self {
            mode,
            lifted: Lifted::default(),
            max: None,
            redaction: None,
            orders: Arc::default(),
            audit: Audit::default(),
        }
    }
}

/// What a process works with: reapers, and the connections they share where they are in one database.
#[derive(Debug)]
pub struct Assembly {
    /// The connections.
    pub links: Links,
    /// One for each source, in the order of the configuration.
    pub reapers: Vec<Reaper>,
}

impl Assembly {
    /// What a configuration asks for.
    pub fn of(config: &Config, run: &Run, clock: Clock) -> Self {
        let before = Self { links: Links::new(config.redis.endpoint.clone()), reapers: Vec::new() };
        before.renewed(config, run, clock)
    }

    /// What another configuration asks for. Each source goes on where the one of its name was, as far as it may.
    #[must_use]
    pub fn renewed(self, config: &Config, run: &Run, clock: Clock) -> Self {
        let mut links = Links::new(config.redis.endpoint.clone()).after(&self.links);
        let rate = process_rate(config);
        let shared = self.reapers.first().map(|reaper| Arc::clone(reaper.shared()));
        let shared = shared.unwrap_or_else(|| Arc::new(Mutex::new(Shared::new(rate, run.max))));
        shared.lock().unwrap_or_else(PoisonError::into_inner).limit(rate);
        let common = Common { config, run, shared, recorder: recorder(config, run), clock };
        let mut before = self.reapers;
        let mut reaper = |source: &SourceConfig| {
            let same = before.iter().position(|reaper| reaper.store().source().name == source.source.name);
            let before = same.map(|place| before.swap_remove(place));
            common.reaper(source, &mut links, before)
        };
        let reapers = config.sources.iter().map(&mut reaper).collect();
        Self { links, reapers }
    }
}

/// What the reapers of a process have in common.
struct Common<'c> {
    config: &'c Config,
    run: &'c Run,
    shared: Arc<Mutex<Shared>>,
    recorder: Option<Arc<Recorder>>,
    clock: Clock,
}

impl Common<'_> {
    fn reaper(&self, source: &SourceConfig, links: &mut Links, before: Option<Reaper>) -> Reaper {
        let Self { config, run, clock, .. } = *self;
        let settings = Settings {
            timing: source.timing,
            guard: source.guard.clone(),
            mode: if source.dry_run { Mode::DryRun } else { run.mode },
            lifted: run.lifted,
            orders: Arc::clone(&run.orders),
        };
        let evicts = settings.mode == Mode::Evict;
        let mut store = store(config, source, run.redaction.clone(), links, clock);
        if evicts {
            store = store.keeping_state().under_lease(config.lease, clock);
            if let Some(recorder) = &self.recorder {
                store = store.recording(Arc::clone(recorder));
            }
        }
        if let Some(before) = &before {
            store = store.after(before.store());
        }
        let mut webhooks = if evicts { webhooks(source, &store) } else { Hooks::default() };
        if let Some(before) = &before {
            webhooks = webhooks.after(before.webhooks());
        }
        let reaper = Reaper::new(store, clock, settings, Arc::clone(&self.shared));
        let reaper = reaper.telling(webhooks).recording(run.audit.clone());
        match before {
            Some(before) => reaper.after(before),
            None => reaper,
        }
    }
}

/// What records evictions; none where nobody wants that.
fn recorder(config: &Config, run: &Run) -> Option<Arc<Recorder>> {
    let stream = config.audit.stream.clone();
    (stream.is_some() || run.audit.is_kept()).then(|| Arc::new(Recorder::new(stream, run.audit.is_kept())))
}

fn webhooks(source: &SourceConfig, store: &Store) -> Hooks {
    Hooks::new(&source.source.name, &source.webhooks, store.outbox())
}

/// Where operators order in the databases of a configuration, and the connections to them.
pub fn order_books(config: &Config, clock: Clock) -> (Links, Vec<OrderBook>) {
    let mut links = Links::new(config.redis.endpoint.clone());
    let stores: Vec<Store> =
        config.sources.iter().map(|source| store(config, source, None, &mut links, clock)).collect();
    let books = OrderBook::of(&stores);
    (links, books)
}

/// A source of a configuration as it is found on its server, through the one of `links` that leads to its database.
pub fn store(
    config: &Config,
    source: &SourceConfig,
    redaction: Option<Arc<Redaction>>,
    links: &mut Links,
    clock: Clock,
) -> Store {
    let link = links.to(connect::Settings { db: source.db, ..config.redis.clone() }, clock);
    let (guard, timing) = (&source.guard, source.timing);
    Store::new(link, Arc::clone(&source.source), timing, guard.max_keys).redacted(redaction)
}

/// The whole process keeps to 500 a second, or to the fastest source if that was set faster.
fn process_rate(config: &Config) -> Option<u32> {
    let default = guard::Settings::default().max_evict_rate;
    let rates = config.sources.iter().map(|source| source.guard.max_evict_rate);
    rates.fold(default, |fastest, rate| Some(fastest?.max(rate?)))
}
