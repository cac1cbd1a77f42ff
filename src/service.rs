//! The daemon with its faces: the loops on one side, metrics and endpoints on the other, one board between them.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::Signal;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use crate::assemble::{Assembly, Run};
use crate::audit::Audit;
use crate::clock::{Clock, Wall};
use crate::config::Config;
use crate::daemon::{self, Health, Observer};
use crate::http::{self, Pages, Verdict};
use crate::logging;
use crate::metrics::{Format, Metrics, SourceLabels};
use crate::policy::duration::in_words;
use crate::policy::entry::{Monotonic, Timestamp};
use crate::reaper::{Finding, Mode, Reaper, Report, Turns};
use crate::report;
use crate::store::connect::Links;
use crate::store::lease::Lease;
use crate::supervisor::Supervisor;
use crate::webhook::{Couriers, Hooks};

/// How long a daemon that stops goes on telling webhooks what waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the daemon could not begin. Redis being away is no reason.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address of the endpoints can't be had.
    #[error(transparent)]
    Listen(#[from] io::Error),
    /// The metrics contradict one another: a mistake of ours.
    #[error("setting up the metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// A daemon that is about to run.
pub struct Service {
    board: Arc<Board>,
    listeners: Vec<TcpListener>,
    reapers: Vec<Reaper>,
    also: Option<Arc<dyn Observer>>,
    reloading: Option<Reloading>,
}

/// How a daemon comes by another configuration while it runs.
pub struct Reloading {
    /// Whoever wants it read anew sends this signal.
    pub asked: Signal,
    /// Reads it anew; else what is wrong with it, a mistake each.
    pub read: Box<dyn FnMut() -> Result<Config, Vec<String>> + Send>,
    /// What holds for all sources, whatever is configured.
    pub run: Run,
    /// What is said, and how.
    pub log: logging::Handle,
}

impl Service {
    /// Opens the listeners and lays out the metrics.
    ///
    /// # Errors
    /// An address is taken, or not ours to take.
    pub async fn bind(config: &Config, assembly: Assembly, clock: Clock) -> Result<Self, Error> {
        let Assembly { links, reapers } = assembly;
        let labels: Vec<SourceLabels> = reapers.iter().map(labels).collect();
        let metrics = Metrics::new(&labels, Clock::wall())?;
        let listeners = http::bind(&config.server).await?;
        let listen = config.server.describe();
        info!(version = env!("CARGO_PKG_VERSION"), redis = %links.endpoint(), listen, "presence-reaper starts");
        introduce(config, &reapers);
        let health = Health::new(clock, &reapers);
        let generation = RwLock::new(Arc::new(Generation::of(links, health, &reapers)));
        let audit = reapers.first().map(|reaper| reaper.audit().clone()).unwrap_or_default();
        let board = Board {
            metrics,
            generation,
            server: config.server.clone(),
            file: config.audit.file.clone(),
            audit,
            outdated: AtomicBool::new(false),
            clock,
            wall: Wall::at(clock),
            supervisor: Supervisor::of_environment(),
        };
        Ok(Self { board: Arc::new(board), listeners, reapers, also: None, reloading: None })
    }

    /// The same, taking over another configuration when it is asked to.
    #[must_use]
    pub fn reloading(self, reloading: Reloading) -> Self {
        Self { reloading: Some(reloading), ..self }
    }

    /// Somebody who is told what the board is told.
    #[must_use]
    pub fn telling(self, also: Arc<dyn Observer>) -> Self {
        Self { also: Some(also), ..self }
    }

    /// Runs until `stop`; what was sent to Redis by then is waited for.
    pub async fn run(self, stop: CancellationToken) {
        let Self { board, listeners, mut reapers, also, mut reloading } = self;
        let serving = CancellationToken::new();
        let pages = Arc::clone(&board) as Arc<dyn Pages>;
        let pages = tokio::spawn(http::serve(listeners, pages, serving.clone()));
        let supervised = AbortOnDropHandle::new(tokio::spawn(supervise(Arc::clone(&board), stop.clone())));
        let observer: Arc<dyn Observer> = Arc::new(Audience { board: Arc::clone(&board), also });
        // They go on when the reapers have stopped: what these were about to tell is still to be told.
        let mut couriers = Couriers::new(PATIENCE);
        // bound: each turn ends at a stop, or when somebody asked for another configuration
        loop {
            let generation = board.generation();
            couriers.serve(&generation.webhooks);
            let pause = stop.child_token();
            let health = Arc::clone(&generation.health);
            let loops = daemon::run(reapers, board.clock, health, Arc::clone(&observer), pause.clone(), stop.clone());
            tokio::pin!(loops);
            let (config, run) = tokio::select! {
                _ = &mut loops => break,
                asked = board.another(reloading.as_mut()) => asked,
            };
            pause.cancel();
            reapers = board.take_over(&config, &run, loops.await).await;
        }
        couriers.end().await;
        drop(supervised);
        info!("stopped");
        serving.cancel();
        if let Err(error) = pages.await {
            error!(%error, "the endpoints ended badly");
        }
    }
}

/// Tells systemd how things stand, and that we live as long as the loops turn.
async fn supervise(board: Arc<Board>, stop: CancellationToken) {
    let supervisor = board.supervisor;
    supervisor.ready(&board.summary());
    let mut stuck = false;
    // bound: until told to stop; every turn sleeps
    while stop.run_until_cancelled(tokio::time::sleep(supervisor.hears_every())).await.is_some() {
        supervisor.status(&board.summary());
        match board.healthy() {
            Verdict { ok: true, .. } => {
                stuck = false;
                supervisor.alive();
            }
            Verdict { why, .. } => {
                if !std::mem::replace(&mut stuck, true) && supervisor.watches() {
                    error!("systemd's watchdog gets no more signs of life, so that systemd ends this process: {why}");
                }
            }
        }
    }
    supervisor.stopping();
}

fn labels(reaper: &Reaper) -> SourceLabels {
    let source = reaper.store().source();
    SourceLabels {
        name: Arc::clone(&source.name),
        layout: source.container.kind().as_str(),
        dry_run: reaper.mode() == Mode::DryRun,
        threshold: reaper.timing().threshold,
        sweep_interval: reaper.timing().survey_interval(),
    }
}

/// What is looked at, in one line a source, and what looks unwise.
fn introduce(config: &Config, reapers: &[Reaper]) {
    for reaper in reapers {
        let (source, timing) = (reaper.store().source(), reaper.timing());
        let (threshold, heartbeat) = (in_words(timing.threshold), in_words(timing.heartbeat_interval));
        let entries = source.container.describe();
        let mode = if reaper.mode() == Mode::DryRun { "dry run: nothing is evicted" } else { "evicts stale entries" };
        let database = reaper.store().link().database();
        info!(source = &*source.name, entries, database, threshold, heartbeat, "{mode}");
    }
    config.warnings.iter().for_each(|warning| warn!("{warning}"));
}

/// What the loops tell, for whoever asks.
struct Board {
    metrics: Metrics,
    generation: RwLock<Arc<Generation>>,
    /// Where the endpoints listen.
    server: http::Settings,
    /// The file of the audit record, and who keeps it.
    file: Option<PathBuf>,
    audit: Audit,
    /// The last configuration that was read was not taken over.
    outdated: AtomicBool,
    clock: Clock,
    wall: Wall,
    supervisor: Supervisor,
}

/// What comes and goes with a configuration.
struct Generation {
    health: Arc<Health>,
    links: Links,
    /// Those of the sources, in the order of the configuration.
    leases: Vec<Option<Arc<Lease>>>,
    /// Likewise.
    webhooks: Vec<Hooks>,
}

impl Generation {
    fn of(links: Links, health: Health, reapers: &[Reaper]) -> Self {
        let leases = reapers.iter().map(|reaper| reaper.store().lease().cloned()).collect();
        let webhooks = reapers.iter().map(|reaper| reaper.webhooks().clone()).collect();
        Self { health: Arc::new(health), links, leases, webhooks }
    }

    /// How things stand, in a sentence.
    fn summary(&self) -> String {
        let sources = self.health.sources();
        let holding = sources.iter().filter(|seen| seen.finding.hold.is_some());
        let holding: Vec<String> =
            holding.map(|seen| format!("{} ({})", seen.finding.source, seen.finding.state.as_str())).collect();
        let entries: u64 =
            sources.iter().filter_map(|seen| seen.finding.survey.as_ref()).map(|one| one.population()).sum();
        let evicted: u64 = sources.iter().map(|seen| seen.finding.outcomes.evicted).sum();
        let count = match sources.len() {
            1 => "1 source".to_owned(),
            count => format!("{count} sources"),
        };
        let redis = if self.links.status().up { String::new() } else { "no usable connection to redis; ".to_owned() };
        let holding = if holding.is_empty() { String::new() } else { format!("; holding: {}", holding.join(", ")) };
        format!("{redis}{count}, {entries} entries, {evicted} evicted since the start{holding}")
    }
}

// === reload ===

impl Board {
    fn generation(&self) -> Arc<Generation> {
        Arc::clone(&self.generation.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// How things stand, in a sentence.
    fn summary(&self) -> String {
        let outdated = if self.outdated.load(Ordering::Relaxed) { "the last reload failed, see the log; " } else { "" };
        format!("{outdated}{}", self.generation().summary())
    }

    /// Waits until another configuration is asked for and can be taken over; for ever where nobody can ask.
    async fn another(&self, reloading: Option<&mut Reloading>) -> (Config, Run) {
        let Some(Reloading { asked, read, run, log }) = reloading else { return std::future::pending().await };
        // bound: every turn waits for somebody to ask
        loop {
            if asked.recv().await.is_none() {
                return std::future::pending().await;
            }
            self.supervisor.reloading();
            match read().and_then(|config| self.check(config, run)) {
                Ok(config) => {
                    log.follow(&config.log);
                    return (config, run.clone());
                }
                Err(mistakes) => {
                    mistakes.iter().for_each(|mistake| error!("{mistake}"));
                    error!("not reloaded: the daemon goes on with its earlier configuration");
                    self.metrics.reload_failed();
                    self.outdated.store(true, Ordering::Relaxed);
                    self.supervisor.ready(&self.summary());
                }
            }
        }
    }

    /// What takes a restart is no matter of a reload.
    fn check(&self, config: Config, run: &Run) -> Result<Config, Vec<String>> {
        let file = |file: &Option<PathBuf>| file.as_ref().map_or("none".to_owned(), |file| file.display().to_string());
        let fixed = [
            ("`listen` in [server]", self.server.describe(), config.server.describe()),
            ("`file` in [audit]", file(&self.file), file(&config.audit.file)),
        ];
        let changed = fixed.into_iter().filter(|(_, from, to)| from != to);
        let told =
            changed.map(|(what, from, to)| format!("{what} changed from {from} to {to}, and that takes a restart"));
        let mut told: Vec<String> = told.collect();
        let file_stays = self.file == config.audit.file;
        let evicts = run.mode == Mode::Evict && config.sources.iter().any(|source| !source.dry_run);
        if evicts && file_stays && config.audit.file.is_some() && !self.audit.is_kept() {
            let what = "the audit record's file is opened at the start, and nothing was to be evicted then";
            told.push(format!("{what}: that a source evicts from now on takes a restart"));
        }
        if told.is_empty() { Ok(config) } else { Err(told) }
    }

    /// The reapers of another configuration, going on where those before them were as far as they may.
    async fn take_over(&self, config: &Config, run: &Run, reapers: Vec<Reaper>) -> Vec<Reaper> {
        let before = self.generation();
        let were: Vec<_> = reapers.iter().map(|reaper| Arc::clone(&reaper.store().source().name)).collect();
        let assembly = Assembly { links: before.links.clone(), reapers };
        let Assembly { links, reapers } = assembly.renewed(config, run, self.clock);
        let labels: Vec<SourceLabels> = reapers.iter().map(labels).collect();
        if let Err(error) = self.metrics.reloaded(&labels, Clock::wall()) {
            error!(%error, "the metrics do not fit the configuration");
        }
        let health = Health::new(self.clock, &reapers).after(&before.health, &reapers);
        let generation = Arc::new(Generation::of(links, health, &reapers));
        let stays = |lease: &Lease| generation.leases.iter().flatten().any(|other| other.stands_for(lease));
        let left = before.leases.iter().flatten().filter(|lease| !stays(lease)).cloned();
        left.map(|lease| async move { _ = timeout(daemon::SHORT_WAIT, lease.release()).await })
            .collect::<JoinSet<()>>()
            .join_all()
            .await;
        *self.generation.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&generation);
        info!(redis = %generation.links.endpoint(), "reloaded");
        introduce(config, &reapers);
        let stays = |name: &Arc<str>| reapers.iter().any(|reaper| reaper.store().source().name == *name);
        for source in were.iter().filter(|name| !stays(name)) {
            warn!(source = &**source, "no longer configured: nothing of it is evicted from now on");
        }
        for reaper in &reapers {
            let source = &*reaper.store().source().name;
            if reaper.continues() {
                info!(source, "goes on where it was");
            } else {
                info!(source, "begins anew with a grace: a setting that decides who may go is new or has changed");
            }
        }
        self.outdated.store(false, Ordering::Relaxed);
        self.supervisor.ready(&self.summary());
        reapers
    }
}

impl Board {
    /// The two clocks, now.
    fn now(&self) -> (Monotonic, Timestamp) {
        let mono = self.clock.now();
        (mono, self.wall.now(mono))
    }

    /// What is known of Redis, and whether it is down, as told at this moment of the two clocks.
    fn standing_at(&self, mono: Monotonic, wall: Timestamp) -> (bool, report::Standing) {
        let generation = self.generation();
        let standing = generation.health.standing(&generation.links);
        let since = standing.since.map(|since| wall.minus(mono.since_start()).plus(since.since_start()));
        (standing.state.is_down(), report::Standing::new(standing.state.as_str(), standing.reason, since))
    }
}

impl Observer for Board {
    fn surveying(&self, source: &str, begun: bool) {
        self.metrics.surveying(source, begun);
    }

    fn reported(&self, report: &Report) {
        self.metrics.record(report, Clock::wall(), self.clock.now());
    }
}

/// The board, and whoever else is told.
struct Audience {
    board: Arc<Board>,
    also: Option<Arc<dyn Observer>>,
}

impl Observer for Audience {
    fn surveying(&self, source: &str, begun: bool) {
        self.board.surveying(source, begun);
        self.also.iter().for_each(|also| also.surveying(source, begun));
    }

    fn reported(&self, report: &Report) {
        self.board.reported(report);
        self.also.iter().for_each(|also| also.reported(report));
    }
}

impl Pages for Board {
    fn metrics(&self, open: bool) -> Result<String, String> {
        let generation = self.generation();
        let sources = generation.health.sources();
        for (seen, lease) in sources.iter().zip(&generation.leases) {
            let (leads, transitions) = lease.as_ref().map_or((false, 0), |one| (one.leads(), one.transitions()));
            self.metrics.leading(&seen.finding.source, leads, transitions);
        }
        for (seen, webhooks) in sources.iter().zip(&generation.webhooks) {
            self.metrics.told(&seen.finding.source, &webhooks.tally());
        }
        self.metrics.recorded(&self.audit.tally());
        let format = if open { Format::OpenMetrics } else { Format::Text };
        self.metrics.render(&generation.links.status(), format).map_err(|error| error.to_string())
    }

    fn status(&self) -> Result<String, String> {
        let (mono, wall) = self.now();
        let generation = self.generation();
        let seen = generation.health.sources().into_iter().zip(&generation.leases).map(|(seen, lease)| {
            let leads = lease.as_ref().map(|lease| lease.leads());
            let led_by = lease.as_ref().and_then(|lease| lease.led_by()).map(|holder| holder.name);
            (Finding { led_by, ..seen.finding }, Turns { leads, ..seen.turns })
        });
        let (findings, turns): (Vec<Finding>, Vec<Turns>) = seen.unzip();
        let dry_run = findings.iter().all(|finding| finding.dry_run);
        let run = report::Run { dry_run, wall, mono, all: false, findings: &findings };
        let mut document = Vec::new();
        let (_, standing) = self.standing_at(mono, wall);
        report::write_status(&run, &turns, &standing, &mut document).map_err(|error| error.to_string())?;
        String::from_utf8(document).map_err(|error| error.to_string())
    }

    fn standing(&self) -> Verdict {
        let (mono, wall) = self.now();
        let (down, standing) = self.standing_at(mono, wall);
        Verdict { ok: !down, why: standing.to_json() }
    }

    fn healthy(&self) -> Verdict {
        self.generation().health.healthy().into()
    }

    fn ready(&self) -> Verdict {
        let generation = self.generation();
        generation.health.ready(&generation.links).into()
    }
}

impl From<Result<(), String>> for Verdict {
    fn from(checked: Result<(), String>) -> Self {
        match checked {
            Ok(()) => Self { ok: true, why: "ok".into() },
            Err(why) => Self { ok: false, why },
        }
    }
}
