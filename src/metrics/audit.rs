//! The series of the file of the audit record.

use prometheus::{Error, IntCounter, IntGauge, Registry};

use super::series::{Labelled, Series};
use crate::audit::{Failure, Tally};

/// One file for all sources. At zero, and there, where none is kept.
#[derive(Debug)]
pub(super) struct File {
    lines: IntCounter,
    failures: Labelled<IntCounter>,
    waiting: IntGauge,
}

impl File {
    pub(super) fn new(registry: &Registry) -> Result<Self, Error> {
        let make = Series { registry, labels: &[] };
        Ok(Self {
            lines: make
                .counter("presence_reaper_audit_lines_total", "Lines written to the file of the audit record.")?,
            failures: make.counters(
                "presence_reaper_audit_failures_total",
                "Attempts to write to the file of the audit record, or to open it anew, that failed; evicting pauses \
                 meanwhile.",
                "reason",
                Failure::ALL.map(Failure::as_str),
            )?,
            waiting: make.count(
                "presence_reaper_audit_waiting",
                "Lines that wait to be written to the file of the audit record.",
            )?,
        })
    }

    pub(super) fn told(&self, tally: &Tally) {
        self.lines.inc_by(tally.written.saturating_sub(self.lines.get()));
        for why in Failure::ALL {
            self.failures.raise(why.as_str(), tally.failures[why.index()]);
        }
        self.waiting.set(i64::try_from(tally.waiting).unwrap_or(i64::MAX));
    }
}
