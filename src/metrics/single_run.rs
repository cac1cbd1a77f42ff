//! What a single run found, for the textfile collector of node_exporter.
//!
//! A run is no process that is scraped: it has no counters that go on, and a state that is an hour old is no alarm. So
//! these are gauges under names of their own, which the alerts and rules for the daemon pass over.

use prometheus::TextEncoder;
use prometheus::proto::{Metric, MetricFamily, MetricType};

use super::family::{family, gauge_of};
use super::source::{entries, seconds};
use crate::policy::entry::Timestamp;
use crate::policy::guard::State;
use crate::policy::survey::Survey;
use crate::reaper::Finding;

/// Which kind of run it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Single {
    /// It only looked.
    Audit,
    /// It evicted.
    Once,
}

impl Single {
    fn as_str(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Once => "once",
        }
    }
}

/// The page of a run that ended at `wall`, in the text format of Prometheus. What a run did not see is NaN. Every series
/// carries the run and its source: the files of an audit and of `--once` can lie beside each other.
///
/// # Errors
/// None is known.
pub fn of_single_run(run: Single, findings: &[Finding], wall: Timestamp) -> Result<String, prometheus::Error> {
    let page = Page { run: run.as_str(), findings };
    let families = [
        page.gauge("timestamp_seconds", "When the last run ended.", |_| seconds(wall)),
        page.gauge("complete", "1 if the last run saw all of the source and came to its end.", |finding| {
            f64::from(u8::from(finding.is_complete()))
        }),
        page.gauges(
            "entries",
            "Entries by what the survey of the last run found them to be; NaN if it could not be read.",
            "state",
            |finding| {
                let survey = finding.survey.as_deref();
                entries(survey).map(|(state, count)| (state, survey.map_or(f64::NAN, |_| count as f64))).into()
            },
        ),
        page.gauge(
            "newest_ping_timestamp_seconds",
            "The newest last ping that the last run saw, future ones left out; NaN if there was none.",
            |finding| ping(finding, |survey| survey.newest),
        ),
        page.gauge(
            "oldest_ping_timestamp_seconds",
            "The oldest last ping that the last run saw; NaN if there was none.",
            |finding| ping(finding, |survey| survey.oldest),
        ),
        page.gauges(
            "state",
            "1 for the state the source was in at the end of the last run; --once evicts in normal alone.",
            "state",
            |finding| State::ALL.map(|state| (state.as_str(), f64::from(u8::from(state == finding.state)))).into(),
        ),
        page.gauge("evicted", "Entries that the last run removed with their companions.", |finding| {
            finding.outcomes.evicted as f64
        }),
        page.gauges(
            "not_evicted",
            "Entries that the last run struck and that stand, by reason.",
            "reason",
            |finding| {
                let outcomes = &finding.outcomes;
                let counts = [
                    ("spared", outcomes.spared),
                    ("protected", outcomes.protected),
                    ("too_late", outcomes.too_late),
                    ("fenced", outcomes.fenced),
                    ("unknown", outcomes.unknown),
                    ("blocked", outcomes.blocked.iter().sum()),
                ];
                counts.map(|(reason, count)| (reason, count as f64)).into()
            },
        ),
        page.gauge("undelivered", "Events that the last run did not deliver to a webhook.", |finding| {
            finding.undelivered as f64
        }),
    ];
    TextEncoder::new().encode_to_string(&families)
}

struct Page<'a> {
    run: &'static str,
    findings: &'a [Finding],
}

impl Page<'_> {
    /// One series a source.
    fn gauge(&self, name: &str, help: &str, value: impl Fn(&Finding) -> f64) -> MetricFamily {
        let metric = |finding: &Finding| gauge_of(&[("run", self.run), ("source", &finding.source)], value(finding));
        self.family(name, help, self.findings.iter().map(metric).collect())
    }

    /// One series for each value of a label and each source.
    fn gauges(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: impl Fn(&Finding) -> Vec<(&'static str, f64)>,
    ) -> MetricFamily {
        let of_source = |finding: &Finding| {
            let metric =
                |(word, value)| gauge_of(&[("run", self.run), ("source", &finding.source), (label, word)], value);
            values(finding).into_iter().map(metric).collect::<Vec<Metric>>()
        };
        self.family(name, help, self.findings.iter().flat_map(of_source).collect())
    }

    fn family(&self, name: &str, help: &str, metrics: Vec<Metric>) -> MetricFamily {
        family(&format!("presence_reaper_run_{name}"), help, MetricType::GAUGE, metrics)
    }
}

fn ping(finding: &Finding, which: fn(&Survey) -> Option<Timestamp>) -> f64 {
    finding.survey.as_deref().and_then(which).map_or(f64::NAN, seconds)
}
