//! What the program says on stderr while it runs.

use std::fmt;
use std::io::{self, IsTerminal};

use tracing::{Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::clock::Clock;

/// How much is said, and in which form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The form of a line.
    pub format: Format,
    /// The least important level that is still written.
    pub level: Level,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// A line for a person.
    #[default]
    Text,
    /// A JSON object.
    Json,
}

/// From now on what is said goes to stderr. Called once, by `main`.
///
/// # Errors
/// It was called before.
pub fn init(settings: &Settings) -> Result<(), TryInitError> {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colors = io::stderr().is_terminal() && !no_color;
    subscriber(settings, colors, io::stderr).try_init()
}

fn subscriber<W>(settings: &Settings, colors: bool, writer: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // A line that can't be written is lost: telling so on the same stderr would panic where that is closed.
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_timer(Utc)
        .with_target(false)
        .with_ansi(colors)
        .log_internal_errors(false);
    let lines = match settings.format {
        Format::Text => lines.boxed(),
        Format::Json => {
            let lines = lines.json().flatten_event(true).with_current_span(false).with_span_list(false);
            lines.with_ansi(false).boxed()
        }
    };
    Box::new(tracing_subscriber::registry().with(lines.with_filter(filter(settings.level))))
}

/// Our own words at `level`. Others may only warn; the client of Redis not even that, for every failure it meets comes
/// back to us as an error, which we tell with its source and its remedy.
fn filter(level: Level) -> Targets {
    Targets::new()
        .with_default(level.min(Level::WARN))
        .with_target("presence_reaper", level)
        .with_target("redis", Level::ERROR)
}

/// UTC to the millisecond.
struct Utc;

impl FormatTime for Utc {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let now = jiff::Timestamp::from_millisecond(Clock::wall().millis()).map_err(|_| fmt::Error)?;
        write!(writer, "{now:.3}")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use regex::Regex;
    use tracing::subscriber::with_default;
    use tracing::{debug, error, info, warn};

    use super::*;

    /// Keeps what is written.
    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn said(format: Format, level: Level, colors: bool, say: fn()) -> String {
        let paper = Paper::default();
        let copy = paper.clone();
        with_default(subscriber(&Settings { format, level }, colors, move || copy.clone()), say);
        let text = paper.0.lock().unwrap();
        String::from_utf8(text.clone()).unwrap()
    }

    fn speak() {
        info!(source = "hub", evicted = 3, "swept");
    }

    #[test]
    fn a_line_of_text_is_for_a_person() {
        let line = said(Format::Text, Level::INFO, false, speak);
        let expected = r#"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z  INFO swept source="hub" evicted=3\n$"#;
        assert!(Regex::new(expected).unwrap().is_match(&line), "{line}");
        assert!(said(Format::Text, Level::INFO, true, speak).contains('\u{1b}'), "colors on a terminal");
    }

    #[test]
    fn a_line_of_json_is_a_flat_object() {
        let line = said(Format::Json, Level::INFO, true, speak);
        assert_eq!(line.lines().count(), 1, "{line}");
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        for (key, value) in [("level", "INFO"), ("message", "swept"), ("source", "hub")] {
            assert_eq!(object[key], value, "{line}");
        }
        assert_eq!(object["evicted"], 3);
        assert!(object["timestamp"].as_str().unwrap().ends_with('Z'), "{line}");
        assert_eq!(object.as_object().unwrap().len(), 5, "{line}");
    }

    #[test]
    fn others_speak_only_of_trouble() {
        let speak = || {
            debug!("ours");
            info!(target: "hyper::proto", "theirs");
            warn!(target: "hyper::proto", "their trouble");
            warn!(target: "redis::aio", "known to us");
            error!(target: "redis::aio", "not known to us");
        };
        let said_at = |level| {
            let lines = said(Format::Text, level, false, speak);
            lines.lines().map(|line| line[31..].to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(said_at(Level::INFO), ["their trouble", "not known to us"]);
        assert_eq!(said_at(Level::DEBUG), ["ours", "their trouble", "not known to us"]);
        assert_eq!(said_at(Level::ERROR), ["not known to us"]);
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let line = said(Format::Text, Level::INFO, false, || info!(id = "a\u{1b}[2J\nb", "evicted"));
        assert!(!line.contains('\u{1b}') && line.lines().count() == 1, "{line:?}");
    }
}
