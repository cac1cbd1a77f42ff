//! The connection's series, made at the scrape from its [`Status`]: it counts already, and need not be counted twice.

use prometheus::proto::{Bucket, Histogram, Metric, MetricFamily, MetricType};

use super::family::{counter, family, gauge_of, labelled};
use crate::store::status::{Certificate, DURATION_EDGES, Failure, Purpose, Requests, Role, Status};

/// The server's own words, cut so that no answer makes a label long.
const LONGEST_WORD: usize = 64;

pub(super) fn families(status: &Status) -> Vec<MetricFamily> {
    let mut families = vec![
        gauge(
            "presence_reaper_redis_up",
            "Whether the last request was answered, and by a master.",
            f64::from(u8::from(status.up)),
        ),
        info(status),
        commands(status),
        failures(status),
        durations(status),
        family(
            "presence_reaper_redis_connections_opened_total",
            "Connections opened.",
            MetricType::COUNTER,
            vec![counter(&[], status.connections_opened)],
        ),
        gauge(
            "presence_reaper_redis_clock_offset_seconds",
            "The clock of Redis minus the host's, when it was last asked; NaN before.",
            status.clock_offset_ms.map_or(f64::NAN, |offset| offset as f64 / 1e3),
        ),
    ];
    families.extend(certificates(status));
    families
}

/// Only where there is TLS, so that an alert on a certificate never meets a number that stands for none.
fn certificates(status: &Status) -> Option<MetricFamily> {
    let expiry = |(role, certificate): (Role, Certificate)| {
        let seconds = match certificate {
            Certificate::Unused => return None,
            Certificate::Unseen => f64::NAN,
            Certificate::Expires(at) => at.millis() as f64 / 1e3,
        };
        Some(gauge_of(&[("role", role.as_str())], seconds))
    };
    let metrics: Vec<Metric> = Role::ALL.into_iter().zip(status.certificates).filter_map(expiry).collect();
    let help = "When the certificate, or one sent along with it, ends, as of the last dial; NaN before.";
    let name = "presence_reaper_tls_certificate_expiry_timestamp_seconds";
    (!metrics.is_empty()).then(|| family(name, help, MetricType::GAUGE, metrics))
}

fn info(status: &Status) -> MetricFamily {
    let word = |word: Option<&String>| match word {
        Some(word) => word.chars().take(LONGEST_WORD).collect(),
        None => String::from("unknown"),
    };
    let implementation = word(status.server.as_ref().map(|server| &server.implementation));
    let version = word(status.server.as_ref().map(|server| &server.version));
    let labels = [("implementation", &*implementation), ("topology", "standalone"), ("version", &*version)];
    let help = "Who answers; always 1, and unknown before the first answer.";
    family("presence_reaper_redis_info", help, MetricType::GAUGE, vec![gauge_of(&labels, 1.0)])
}

fn commands(status: &Status) -> MetricFamily {
    let metrics = by_purpose(status).map(|(purpose, of)| counter(&[("command", purpose)], of.commands)).collect();
    let help = "Commands sent, by what they are for; a pipeline has many.";
    family("presence_reaper_redis_commands_total", help, MetricType::COUNTER, metrics)
}

fn failures(status: &Status) -> MetricFamily {
    let metrics = by_purpose(status).flat_map(|(purpose, of)| {
        let by_reason = Failure::ALL.into_iter().zip(of.failures);
        by_reason
            .map(move |(failure, count)| counter(&[("command", purpose), ("reason", failure.as_str())], count))
            .collect::<Vec<_>>()
    });
    let help = "Requests that failed; a pipeline is one.";
    family("presence_reaper_redis_command_failures_total", help, MetricType::COUNTER, metrics.collect())
}

fn durations(status: &Status) -> MetricFamily {
    let metrics = by_purpose(status).map(|(purpose, of)| histogram(&[("command", purpose)], of)).collect();
    let help = "How long answered requests took; a pipeline is one.";
    family("presence_reaper_redis_command_duration_seconds", help, MetricType::HISTOGRAM, metrics)
}

fn by_purpose(status: &Status) -> impl Iterator<Item = (&'static str, &Requests)> {
    Purpose::ALL.into_iter().map(Purpose::as_str).zip(&status.requests)
}

fn gauge(name: &str, help: &str, value: f64) -> MetricFamily {
    family(name, help, MetricType::GAUGE, vec![gauge_of(&[], value)])
}

fn histogram(labels: &[(&str, &str)], of: &Requests) -> Metric {
    let mut histogram = Histogram::default();
    histogram.set_sample_count(of.answered);
    histogram.set_sample_sum(of.seconds);
    let mut so_far = 0;
    let buckets = DURATION_EDGES.into_iter().zip(of.durations).map(|(edge, count)| {
        so_far += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(edge);
        bucket.set_cumulative_count(so_far);
        bucket
    });
    histogram.set_bucket(buckets.collect());
    let mut metric = labelled(labels);
    metric.set_histogram(histogram);
    metric
}
