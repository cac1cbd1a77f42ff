//! What Prometheus sees, fed by two plain values.
//!
//! A [`Report`] is counted when a survey or a strike has ended, a [`Status`] is copied at the scrape; a scrape never
//! asks Redis. Every series of every source exists from the first scrape on, and no other is made later: a label is a
//! name of the configuration or a word of an enum.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::proto::{Metric, MetricFamily};
use prometheus::{Gauge, Registry, TextEncoder};

use crate::audit::Tally as Recorded;
use crate::policy::entry::{Monotonic, Timestamp};
use crate::reaper::Report;
use crate::store::status::Status;
use crate::webhook::Tally;

mod audit;
mod connection;
mod family;
mod openmetrics;
mod series;
mod single_run;
mod source;
#[cfg(test)]
mod tests;

use series::Series;
pub use single_run::{Single, of_single_run};
use source::Source;

/// What the metrics tell of a source's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceLabels {
    /// Its name.
    pub name: Arc<str>,
    /// Where its entries live: `zset`, `hash` or `keys`.
    pub layout: &'static str,
    /// Whether it writes nothing.
    pub dry_run: bool,
    /// The age from which an entry is stale.
    pub threshold: Duration,
    /// The planned distance of two surveys.
    pub sweep_interval: Duration,
}

/// In which format they are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// The text format of Prometheus ([`prometheus::TEXT_FORMAT`]).
    #[default]
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    fn write(self, families: &[MetricFamily]) -> Result<String, prometheus::Error> {
        match self {
            Self::Text => TextEncoder::new().encode_to_string(families),
            Self::OpenMetrics => openmetrics::page(families).map_err(|error| prometheus::Error::Msg(error.to_string())),
        }
    }
}

/// The numbers of the whole process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    reload_succeeded: Gauge,
    reload_success: Gauge,
    audit: audit::File,
    /// Locked while a report is taken in and while a scrape reads, so that a scrape sees a report whole or not at all.
    sources: Mutex<HashMap<Arc<str>, OfSource>>,
}

/// The series of a source come and go with it.
#[derive(Debug)]
struct OfSource {
    labels: SourceLabels,
    settings: Registry,
    registry: Registry,
    series: Source,
}

impl Metrics {
    /// Every series at zero, or at what is true before the first survey. `started` stands in for the sweeps that have
    /// not been: a zero would read as fifty years without one, and wake somebody at every start.
    ///
    /// # Errors
    /// Two sources of one name.
    pub fn new(sources: &[SourceLabels], started: Timestamp) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        register_process(&registry)?;
        let build = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("revision", option_env!("REAPER_BUILD_REVISION").unwrap_or("unknown")),
            ("rustc", option_env!("REAPER_BUILD_RUSTC").unwrap_or("unknown")),
        ];
        let of_process = Series { registry: &registry, labels: &build };
        of_process.gauge("presence_reaper_build_info", "What was built; always 1.")?.set(1.0);
        let of_process = Series { labels: &[], ..of_process };
        let reload_succeeded = of_process.gauge(
            "presence_reaper_config_last_reload_successful",
            "1 if the configuration was read and taken over at the last attempt, that of the start included.",
        )?;
        let reload_success = of_process.gauge(
            "presence_reaper_config_last_reload_success_timestamp_seconds",
            "When the configuration was last taken over.",
        )?;
        let audit = audit::File::new(&registry)?;
        let metrics = Self { reload_succeeded, reload_success, audit, sources: Mutex::default(), registry };
        metrics.reloaded(sources, started)?;
        Ok(metrics)
    }

    /// From now on these are the sources. Those that are not among them are told of no more, new ones begin at zero, and
    /// the rest goes on.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn reloaded(&self, sources: &[SourceLabels], now: Timestamp) -> Result<(), prometheus::Error> {
        let mut known = self.locked();
        known.retain(|name, _| sources.iter().any(|labels| labels.name == *name));
        for labels in sources {
            match known.get_mut(&labels.name) {
                Some(source) if source.labels == *labels => {}
                Some(source) => {
                    source.settings = Registry::new();
                    source::tell_settings(&source.settings, labels)?;
                    source.labels = labels.clone();
                }
                None => _ = known.insert(Arc::clone(&labels.name), OfSource::new(labels, now)?),
            }
        }
        self.reload_succeeded.set(1.0);
        self.reload_success.set(now.millis() as f64 / 1_000.0);
        Ok(())
    }

    /// Notes that another configuration was to be taken over, and was not.
    pub fn reload_failed(&self) {
        self.reload_succeeded.set(0.0);
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<Arc<str>, OfSource>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a survey of a source has begun, or is not running any more; [`Self::record`] notes its end as well.
    pub fn surveying(&self, source: &str, begun: bool) {
        if let Some(source) = self.locked().get(source) {
            source.series.surveying(begun);
        }
    }

    /// Notes whether this process holds the lease of a source, and how often it went to and from it.
    pub fn leading(&self, source: &str, leads: bool, transitions: u64) {
        if let Some(source) = self.locked().get(source) {
            source.series.leading(leads, transitions);
        }
    }

    /// Notes what the webhooks of a source did so far.
    pub fn told(&self, source: &str, tally: &Tally) {
        if let Some(source) = self.locked().get(source) {
            source.series.told(tally);
        }
    }

    /// Notes what became of the lines for the file of the audit record so far.
    pub fn recorded(&self, tally: &Recorded) {
        self.audit.told(tally);
    }

    /// Takes in a report; `wall` and `mono` are the host's clocks at that moment.
    pub fn record(&self, report: &Report, wall: Timestamp, mono: Monotonic) {
        if let Some(source) = self.locked().get(&report.source) {
            source.series.record(report, wall, mono);
        }
    }

    /// Everything there is.
    ///
    /// # Errors
    /// None is known.
    pub fn render(&self, status: &Status, format: Format) -> Result<String, prometheus::Error> {
        let mut families = self.registry.gather();
        {
            let sources = self.locked();
            for source in sources.values() {
                families.extend(source.settings.gather());
                families.extend(source.registry.gather());
            }
        }
        families.extend(connection::families(status));
        format.write(&merged(families))
    }
}

impl OfSource {
    fn new(labels: &SourceLabels, started: Timestamp) -> Result<Self, prometheus::Error> {
        let (settings, registry) = (Registry::new(), Registry::new());
        source::tell_settings(&settings, labels)?;
        let series = Source::new(&registry, labels, started)?;
        Ok(Self { labels: labels.clone(), settings, registry, series })
    }
}

/// Families by name, of each name one, its series by their labels.
fn merged(mut families: Vec<MetricFamily>) -> Vec<MetricFamily> {
    families.sort_by(|a, b| a.name().cmp(b.name()));
    let mut merged: Vec<MetricFamily> = Vec::with_capacity(families.len());
    for mut family in families {
        match merged.last_mut().filter(|last| last.name() == family.name()) {
            Some(last) => last.mut_metric().append(&mut family.take_metric()),
            None => merged.push(family),
        }
    }
    for family in &mut merged {
        let labels = |metric: &Metric| {
            let pairs = metric.get_label().iter().map(|pair| (pair.name().to_owned(), pair.value().to_owned()));
            pairs.collect::<Vec<_>>()
        };
        family.mut_metric().sort_by_cached_key(labels);
    }
    merged
}

#[cfg(target_os = "linux")]
fn register_process(registry: &Registry) -> Result<(), prometheus::Error> {
    registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
}

/// The crate knows the process through `/proc` alone.
#[cfg(not(target_os = "linux"))]
fn register_process(_: &Registry) -> Result<(), prometheus::Error> {
    Ok(())
}
