//! The daemon with its faces: the loops on one side, metrics and endpoints on the other, one board between them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::audit::Audit;
use crate::clock::{Clock, Wall};
use crate::config::Config;
use crate::daemon::{self, Health, Observer};
use crate::http::{self, Pages, Verdict};
use crate::metrics::{Metrics, SourceLabels};
use crate::policy::duration::in_words;
use crate::policy::entry::{Monotonic, Timestamp};
use crate::reaper::{Finding, Mode, Reaper, Report, Turns};
use crate::report;
use crate::store::connect::Links;
use crate::store::lease::Lease;
use crate::webhook::Hooks;

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
    also: Option<Arc<dyn Observer>>,
}

impl Service {
    /// Opens the listeners and lays out the metrics.
    ///
    /// # Errors
    /// An address is taken, or not ours to take.
    pub async fn bind(config: &Config, links: Links, reapers: &[Reaper], clock: Clock) -> Result<Self, Error> {
        let labels: Vec<SourceLabels> = reapers.iter().map(labels).collect();
        let metrics = Metrics::new(&labels, Clock::wall())?;
        let listeners = http::bind(&config.server).await?;
        let health = Arc::new(Health::new(clock, reapers));
        greet(config, reapers);
        let leases = reapers.iter().map(|reaper| reaper.store().lease().cloned()).collect();
        let webhooks = reapers.iter().map(|reaper| reaper.webhooks().clone()).collect();
        let audit = reapers.first().map(|reaper| reaper.audit().clone()).unwrap_or_default();
        let board = Board { metrics, health, links, leases, webhooks, audit, clock, wall: Wall::at(clock) };
        Ok(Self { board: Arc::new(board), listeners, also: None })
    }

    /// Somebody who is told what the board is told.
    #[must_use]
    pub fn telling(self, also: Arc<dyn Observer>) -> Self {
        Self { also: Some(also), ..self }
    }

    /// Runs until `stop`; what was sent to Redis by then is waited for.
    pub async fn run(self, reapers: Vec<Reaper>, stop: CancellationToken) {
        let Self { board, listeners, also } = self;
        let serving = CancellationToken::new();
        let pages = Arc::clone(&board) as Arc<dyn Pages>;
        let pages = tokio::spawn(http::serve(listeners, pages, serving.clone()));
        let health = Arc::clone(&board.health);
        let clock = board.clock;
        // They go on when the reapers have stopped: what these were about to tell is still to be told.
        let told = CancellationToken::new();
        let couriers: Vec<_> = board.webhooks.iter().map(|hooks| hooks.deliver(&told, PATIENCE)).collect();
        daemon::run(reapers, clock, health, Arc::new(Audience { board, also }), stop).await;
        told.cancel();
        for courier in couriers {
            courier.join_all().await;
        }
        info!("stopped");
        serving.cancel();
        if let Err(error) = pages.await {
            error!(%error, "the endpoints ended badly");
        }
    }
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

/// What was started, in one line a part.
fn greet(config: &Config, reapers: &[Reaper]) {
    let listen = config.server.describe();
    let redis = &config.redis.endpoint;
    info!(version = env!("CARGO_PKG_VERSION"), %redis, listen, "presence-reaper starts");
    for reaper in reapers {
        let (source, timing) = (reaper.store().source(), reaper.timing());
        let (threshold, heartbeat) = (in_words(timing.threshold), in_words(timing.heartbeat_interval));
        let entries = source.container.describe();
        let mode = if reaper.mode() == Mode::DryRun { "dry run: nothing is evicted" } else { "evicting" };
        let database = reaper.store().link().database();
        info!(source = &*source.name, entries, database, threshold, heartbeat, "{mode}");
    }
    config.warnings.iter().for_each(|warning| warn!("{warning}"));
}

/// What the loops tell, for whoever asks.
struct Board {
    metrics: Metrics,
    health: Arc<Health>,
    links: Links,
    /// Those of the sources, in the order of the configuration.
    leases: Vec<Option<Arc<Lease>>>,
    /// Likewise.
    webhooks: Vec<Hooks>,
    /// That of all of them.
    audit: Audit,
    clock: Clock,
    wall: Wall,
}

impl Board {
    /// The two clocks, now.
    fn now(&self) -> (Monotonic, Timestamp) {
        let mono = self.clock.now();
        (mono, self.wall.now(mono))
    }

    /// What is known of Redis, and whether it is down, as told at this moment of the two clocks.
    fn standing_at(&self, mono: Monotonic, wall: Timestamp) -> (bool, report::Standing) {
        let standing = self.health.standing(&self.links);
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
    fn metrics(&self) -> Result<String, String> {
        for lease in self.leases.iter().flatten() {
            self.metrics.leading(lease.source(), lease.leads(), lease.transitions());
        }
        for (seen, webhooks) in self.health.sources().iter().zip(&self.webhooks) {
            self.metrics.told(&seen.finding.source, &webhooks.tally());
        }
        self.metrics.recorded(&self.audit.tally());
        self.metrics.render(&self.links.status()).map_err(|error| error.to_string())
    }

    fn status(&self) -> Result<String, String> {
        let (mono, wall) = self.now();
        let seen = self.health.sources().into_iter().zip(&self.leases).map(|(seen, lease)| {
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
        self.health.healthy(&self.links).into()
    }

    fn ready(&self) -> Verdict {
        self.health.ready(&self.links).into()
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
