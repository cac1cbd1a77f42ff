//! The page in the format of OpenMetrics 1.0, which Prometheus asks for first.

use std::fmt::{self, Write};

use prometheus::proto::{LabelPair, MetricFamily, MetricType};

/// What a counter's samples end in, and the name of its family does not.
const TOTAL: &str = "_total";

/// All of it. Counters are ours to name, so each of them ends in `_total`; summaries we have none.
pub(super) fn page(families: &[MetricFamily]) -> Result<String, fmt::Error> {
    let mut page = String::new();
    for family in families {
        write_family(&mut page, family)?;
    }
    page.push_str("# EOF\n");
    Ok(page)
}

fn write_family(page: &mut String, family: &MetricFamily) -> fmt::Result {
    let name = family.name();
    let kind = family.get_field_type();
    let (title, word) = match kind {
        MetricType::COUNTER => (name.strip_suffix(TOTAL).unwrap_or(name), "counter"),
        MetricType::HISTOGRAM => (name, "histogram"),
        MetricType::GAUGE => (name, "gauge"),
        _ => (name, "unknown"),
    };
    writeln!(page, "# HELP {title} {}", Escaped(family.help()))?;
    writeln!(page, "# TYPE {title} {word}")?;
    for metric in family.get_metric() {
        let labels = metric.get_label();
        match kind {
            MetricType::COUNTER => sample(page, title, TOTAL, labels, None, metric.get_counter().get_value())?,
            MetricType::HISTOGRAM => {
                let histogram = metric.get_histogram();
                for bucket in histogram.get_bucket() {
                    let edge = Some(bucket.upper_bound());
                    sample(page, title, "_bucket", labels, edge, bucket.cumulative_count() as f64)?;
                }
                let count = histogram.get_sample_count() as f64;
                sample(page, title, "_bucket", labels, Some(f64::INFINITY), count)?;
                sample(page, title, "_sum", labels, None, histogram.get_sample_sum())?;
                sample(page, title, "_count", labels, None, count)?;
            }
            _ => sample(page, title, "", labels, None, metric.get_gauge().get_value())?,
        }
    }
    Ok(())
}

fn sample(
    page: &mut String,
    title: &str,
    suffix: &str,
    labels: &[LabelPair],
    edge: Option<f64>,
    value: f64,
) -> fmt::Result {
    write!(page, "{title}{suffix}")?;
    let mut before = '{';
    for label in labels {
        write!(page, "{before}{}=\"{}\"", label.name(), Escaped(label.value()))?;
        before = ',';
    }
    if let Some(edge) = edge {
        write!(page, "{before}le=\"{}\"", Number(edge))?;
        before = ',';
    }
    if before == ',' {
        page.push('}');
    }
    writeln!(page, " {}", Number(value))
}

/// A number in its canonical form: `1.0`, where the older format writes `1`.
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            f64::INFINITY => out.write_str("+Inf"),
            f64::NEG_INFINITY => out.write_str("-Inf"),
            number => write!(out, "{number:?}"),
        }
    }
}

/// A text between quotes, or behind HELP.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '\\' => out.write_str("\\\\")?,
                '"' => out.write_str("\\\"")?,
                '\n' => out.write_str("\\n")?,
                other => out.write_char(other)?,
            }
        }
        Ok(())
    }
}
