//! One checked configuration → the reapers of a process, on one connection a database and under one pace.

use std::sync::{Arc, Mutex};

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

/// The reapers that a configuration asks for, and their connections: those on one database share one.
pub fn reapers(config: &Config, run: &Run, clock: Clock) -> (Links, Vec<Reaper>) {
    let mut links = Links::new(config.redis.endpoint.clone());
    let shared = Arc::new(Mutex::new(Shared::new(process_rate(config), run.max)));
    let recorder = recorder(config, run);
    let reapers = config.sources.iter().map(|source| {
        let settings = Settings {
            timing: source.timing,
            guard: source.guard.clone(),
            mode: if source.dry_run { Mode::DryRun } else { run.mode },
            lifted: run.lifted,
            orders: Arc::clone(&run.orders),
        };
        let store = store(config, source, run.redaction.clone(), &mut links, clock);
        let store =
            if settings.mode == Mode::Evict { store.keeping_state().under_lease(config.lease, clock) } else { store };
        let store = match &recorder {
            Some(recorder) if settings.mode == Mode::Evict => store.recording(Arc::clone(recorder)),
            _ => store,
        };
        let evicts = settings.mode == Mode::Evict;
        let webhooks = if evicts { webhooks(source, &store) } else { Hooks::default() };
        let reaper = Reaper::new(store, clock, settings, Arc::clone(&shared));
        reaper.telling(webhooks).recording(run.audit.clone())
    });
    let reapers = reapers.collect();
    (links, reapers)
}

/// What records evictions; none where nobody wants that.
fn recorder(config: &Config, run: &Run) -> Option<Arc<Recorder>> {
    let stream = config.audit.stream.clone();
    (stream.is_some() || run.audit.is_kept()).then(|| Arc::new(Recorder::new(stream, run.audit.is_kept())))
}

fn webhooks(source: &SourceConfig, store: &Store) -> Hooks {
    Hooks::new(&source.source.name, &source.webhooks, store.outbox().as_ref())
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
