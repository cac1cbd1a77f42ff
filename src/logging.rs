//! What the program says on stderr while it runs.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{self, Writer};
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::{Layer, Layered, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};
use tracing_subscriber::reload;
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
    /// For the journal where stderr leads there, else text.
    #[default]
    Auto,
    /// A line for a person.
    Text,
    /// A JSON object.
    Json,
    /// For the journal, which knows the time: the priority as it reads it, and the text.
    Journald,
}

type Lines = Box<dyn Layer<Layered<reload::Layer<Targets, Registry>, Registry>> + Send + Sync>;

/// What is said can be changed while it is said.
#[derive(Clone)]
pub struct Handle {
    level: reload::Handle<Targets, Registry>,
    lines: reload::Handle<Lines, Layered<reload::Layer<Targets, Registry>, Registry>>,
    colors: bool,
}

impl Handle {
    /// From now on as much is said as `settings` want, and in that form.
    pub fn follow(&self, settings: &Settings) {
        // An error: nobody logs any more.
        let _ = self.level.reload(filter(settings.level));
        let _ = self.lines.reload(lines(settings.format.resolved(), self.colors, io::stderr));
    }
}

/// From now on what is said goes to stderr, with colours where they are wanted and the form has some. Called once, by
/// `main`.
///
/// # Errors
/// It was called before.
pub fn init(settings: &Settings, colors: bool) -> Result<Handle, TryInitError> {
    let (level, level_handle) = reload::Layer::new(filter(settings.level));
    let (lines, lines_handle) = reload::Layer::new(lines(settings.format.resolved(), colors, io::stderr));
    tracing_subscriber::registry().with(level).with(lines).try_init()?;
    Ok(Handle { level: level_handle, lines: lines_handle, colors })
}

impl Format {
    fn resolved(self) -> Self {
        match self {
            Self::Auto if leads_to_journal() => Self::Journald,
            format => format,
        }
    }
}

/// Whether stderr is the stream to the journal that systemd gave us. The variable alone says nothing: it stays in the
/// environment of a child whose stderr leads elsewhere.
pub fn leads_to_journal() -> bool {
    let stderr = || io::stderr().as_fd().try_clone_to_owned().and_then(|stderr| File::from(stderr).metadata());
    let Some(named) = std::env::var_os("JOURNAL_STREAM") else { return false };
    stderr().is_ok_and(|stderr| named.to_str() == Some(&format!("{}:{}", stderr.dev(), stderr.ino())))
}

fn lines<S, W>(format: Format, colors: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // A line that can't be written is lost: telling so on the same stderr would panic where that is closed.
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).log_internal_errors(false);
    match format {
        Format::Auto | Format::Text => lines.with_timer(Utc).with_target(false).with_ansi(colors).boxed(),
        Format::Json => {
            let lines = lines.with_timer(Utc).with_target(false).with_ansi(false);
            lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
        Format::Journald => lines.with_ansi(false).event_format(ForJournal::new()).boxed(),
    }
}

/// Lines as the journal takes them from stderr: `<N>`, the priority of syslog, before each; neither time nor level,
/// for it keeps both itself.
struct ForJournal {
    text: format::Format<format::Full, ()>,
}

impl ForJournal {
    fn new() -> Self {
        Self { text: format::format().without_time().with_target(false).with_level(false) }
    }
}

impl<S, N> FormatEvent<S, N> for ForJournal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut text = String::new();
        self.text.format_event(context, Writer::new(&mut text), event)?;
        write!(writer, "{}", for_journal(*event.metadata().level(), &text))
    }
}

/// Each line of a text with its priority before it.
pub fn for_journal(level: Level, text: &str) -> String {
    let priority = match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    };
    text.lines().map(|line| format!("<{priority}>{line}\n")).collect()
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
        let lines = lines(format, colors, move || copy.clone());
        with_default(tracing_subscriber::registry().with(filter(level)).with(lines), say);
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
    fn the_journal_gets_the_priority_and_no_time() {
        let speak = || {
            info!(source = "hub", evicted = 3, "swept");
            warn!("wrong\n  hint: mend it");
            error!("e");
            debug!("d");
        };
        let expected = "<6>swept source=\"hub\" evicted=3\n<4>wrong\n<4>  hint: mend it\n<3>e\n<7>d\n";
        assert_eq!(said(Format::Journald, Level::DEBUG, true, speak), expected);
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
