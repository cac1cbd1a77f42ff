//! Series that are registered as they are made, each with all its labels: what exists is decided at the start.

use prometheus::core::Collector;
use prometheus::{Counter, Error, Gauge, Histogram, HistogramOpts, IntCounter, IntGauge, Opts, Registry};

/// Makes series that share some labels.
#[derive(Clone, Copy)]
pub(super) struct Series<'a> {
    pub(super) registry: &'a Registry,
    pub(super) labels: &'a [(&'a str, &'a str)],
}

impl Series<'_> {
    pub(super) fn gauge(&self, name: &str, help: &str) -> Result<Gauge, Error> {
        self.register(Gauge::with_opts(self.opts(name, help))?)
    }

    pub(super) fn count(&self, name: &str, help: &str) -> Result<IntGauge, Error> {
        self.register(IntGauge::with_opts(self.opts(name, help))?)
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> Result<IntCounter, Error> {
        self.register(IntCounter::with_opts(self.opts(name, help))?)
    }

    pub(super) fn histogram(&self, name: &str, help: &str, edges: &[f64]) -> Result<Histogram, Error> {
        let opts = HistogramOpts { common_opts: self.opts(name, help), buckets: edges.to_vec() };
        self.register(Histogram::with_opts(opts)?)
    }

    /// One counter of seconds for each of `values`.
    pub(super) fn seconds(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = &'static str>,
    ) -> Result<Labelled<Counter>, Error> {
        self.labelled(self.opts(name, help), label, values, Counter::with_opts)
    }

    /// One counter for each of `values`.
    pub(super) fn counters(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = &'static str>,
    ) -> Result<Labelled<IntCounter>, Error> {
        self.labelled(self.opts(name, help), label, values, IntCounter::with_opts)
    }

    /// One gauge for each of `values`.
    pub(super) fn gauges(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = &'static str>,
    ) -> Result<Labelled<IntGauge>, Error> {
        self.labelled(self.opts(name, help), label, values, IntGauge::with_opts)
    }

    fn labelled<S: Collector + Clone + 'static>(
        &self,
        opts: Opts,
        label: &str,
        values: impl IntoIterator<Item = &'static str>,
        make: fn(Opts) -> Result<S, Error>,
    ) -> Result<Labelled<S>, Error> {
        let series = values.into_iter().map(|value| {
            let one = make(opts.clone().const_label(label, value))?;
            Ok((value, self.register(one)?))
        });
        Ok(Labelled(series.collect::<Result<_, Error>>()?))
    }

    fn opts(&self, name: &str, help: &str) -> Opts {
        self.labels.iter().fold(Opts::new(name, help), |opts, (label, value)| opts.const_label(*label, *value))
    }

    fn register<C: Collector + Clone + 'static>(&self, series: C) -> Result<C, Error> {
        self.registry.register(Box::new(series.clone()))?;
        Ok(series)
    }
}

/// The series of one name, one for each value of a closed label.
#[derive(Debug)]
pub(super) struct Labelled<S>(Vec<(&'static str, S)>);

impl<S> Labelled<S> {
    fn of(&self, value: &str) -> Option<&S> {
        self.0.iter().find(|(known, _)| *known == value).map(|(_, series)| series)
    }
}

impl Labelled<IntCounter> {
    pub(super) fn add(&self, value: &'static str, count: u64) {
        if let Some(counter) = self.of(value) {
            counter.inc_by(count);
        }
    }
}

impl Labelled<IntCounter> {
    /// Counts up to a total that is counted elsewhere.
    pub(super) fn raise(&self, value: &'static str, total: u64) {
        if let Some(counter) = self.of(value) {
            counter.inc_by(total.saturating_sub(counter.get()));
        }
    }
}

impl Labelled<Counter> {
    pub(super) fn add_seconds(&self, value: &'static str, seconds: f64) {
        if let Some(counter) = self.of(value) {
            counter.inc_by(seconds);
        }
    }
}

impl Labelled<IntGauge> {
    pub(super) fn is_set(&self, value: &'static str) -> bool {
        self.of(value).is_some_and(|gauge| gauge.get() != 0)
    }

    pub(super) fn set(&self, value: &'static str, to: u64) {
        if let Some(gauge) = self.of(value) {
            gauge.set(i64::try_from(to).unwrap_or(i64::MAX));
        }
    }
}
