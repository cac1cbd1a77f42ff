//! What Prometheus sees, fed by two plain values.
//!
//! A [`Report`] is counted when a survey or a strike has ended, a [`Status`] is copied at the scrape; a scrape never
//! asks Redis. Every series of every source exists from the first scrape on, and no other is made later: a label is a
//! name of the configuration or a word of an enum.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::{Registry, TextEncoder};

use crate::audit::Tally as Recorded;
use crate::policy::entry::{Monotonic, Timestamp};
use crate::reaper::Report;
use crate::store::status::Status;
use crate::webhook::Tally;

mod audit;
mod connection;
mod series;
mod source;
#[cfg(test)]
mod tests;

use series::Series;
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

/// The numbers of the whole process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    sources: HashMap<Arc<str>, Source>,
    audit: audit::File,
    /// Held while a report is taken in and while a scrape reads, so that a scrape sees a report whole or not at all.
    whole: Mutex<()>,
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
        let audit = audit::File::new(&registry)?;
        let sources = sources.iter().map(|labels| {
            let source = Source::new(&registry, labels, started)?;
            Ok((Arc::clone(&labels.name), source))
        });
        let sources = sources.collect::<Result<_, prometheus::Error>>()?;
        Ok(Self { sources, audit, whole: Mutex::default(), registry })
    }

    /// Notes that a survey of a source has begun, or is not running any more; [`Self::record`] notes its end as well.
    pub fn surveying(&self, source: &str, begun: bool) {
        if let Some(source) = self.sources.get(source) {
            source.surveying(begun);
        }
    }

    /// Notes whether this process holds the lease of a source, and how often it went to and from it.
    pub fn leading(&self, source: &str, leads: bool, transitions: u64) {
        if let Some(source) = self.sources.get(source) {
            source.leading(leads, transitions);
        }
    }

    /// Notes what the webhooks of a source did so far.
    pub fn told(&self, source: &str, tally: &Tally) {
        if let Some(source) = self.sources.get(source) {
            source.told(tally);
        }
    }

    /// Notes what became of the lines for the file of the audit record so far.
    pub fn recorded(&self, tally: &Recorded) {
        self.audit.told(tally);
    }

    /// Takes in a report; `wall` and `mono` are the host's clocks at that moment.
    pub fn record(&self, report: &Report, wall: Timestamp, mono: Monotonic) {
        let _whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(source) = self.sources.get(&report.source) {
            source.record(report, wall, mono);
        }
    }

    /// Everything in the text format of Prometheus ([`prometheus::TEXT_FORMAT`]).
    ///
    /// # Errors
    /// None is known.
    pub fn render(&self, status: &Status) -> Result<String, prometheus::Error> {
        let mut families = {
            let _whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
            self.registry.gather()
        };
        families.extend(connection::families(status));
        families.sort_by(|a, b| a.name().cmp(b.name()));
        TextEncoder::new().encode_to_string(&families)
    }
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
