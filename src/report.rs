//! What a single run found: tables for a person, one JSON document for a program, or a line for each entry and a
//! summary, written while the sources are read. And the JSON document of a daemon, for its `/status`.

use std::io::{self, Write};

use serde::Serialize;

use crate::policy::entry::{EntryId, Monotonic, Timestamp};
use crate::policy::guard::Hold;
use crate::policy::outcome::Blocked;
use crate::policy::ping::{Unit, Unreadable};
use crate::policy::survey::{Named, Survey};
use crate::reaper::{Finding, Turns};
use crate::store::naming::Naming;
use crate::text::json_text;

mod text;

pub use text::write_text;

/// A single run: what it was, and what it found.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// Nothing was to be evicted.
    pub dry_run: bool,
    /// When the report is made, by the host's clock; the ages in it count from Redis' own.
    pub wall: Timestamp,
    /// The monotonic clock at that time: holds end by it.
    pub mono: Monotonic,
    /// Live entries are listed too.
    pub all: bool,
    /// One for each source, in the order of the configuration.
    pub findings: &'a [Finding],
}

impl Run<'_> {
    fn is_complete(&self) -> bool {
        self.findings.iter().all(Finding::is_complete)
    }

    fn ends_at(&self, hold: &Hold) -> Option<Timestamp> {
        hold.ends.map(|ends| self.wall_at(ends.max(self.mono)))
    }

    /// What the host's clock shows, or showed, at `at`; by way of the start, so that rounding is the same each time.
    fn wall_at(&self, at: Monotonic) -> Timestamp {
        self.wall.minus(self.mono.since_start()).plus(at.since_start())
    }
}

// === JSON ===

/// The version of the document's schema; it grows only if a field changes its meaning or goes away.
const SCHEMA_VERSION: u32 = 1;

#[derive(Serialize)]
struct Document<S> {
    /// Only on the last of many lines.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    schema_version: u32,
    at: String,
    dry_run: bool,
    complete: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    redacted: bool,
    sources: Vec<S>,
}

#[derive(Serialize)]
struct SourceDocument<'a> {
    name: &'a str,
    state: &'static str,
    hold: Option<HoldDocument<'a>>,
    pause: Option<PauseDocument<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// The process that holds the lease, where that kept a run from evicting.
    #[serde(skip_serializing_if = "Option::is_none")]
    led_by: Option<&'a str>,
    entries: Entries,
    unreadable_by: serde_json::Map<String, serde_json::Value>,
    times: serde_json::Map<String, serde_json::Value>,
    would_evict: u64,
    evicted: u64,
    spared: u64,
    gone: u64,
    too_late: u64,
    unknown: u64,
    resurrected: u64,
    blocked_by: serde_json::Map<String, serde_json::Value>,
    companions_skipped: u64,
    notifications_sent: u64,
    notifications_failed: u64,
    notifications_skipped: u64,
    notifications_unknown: u64,
    newest_age_ms: Option<i64>,
    oldest_age_ms: Option<i64>,
    ages: Vec<AgeBucket>,
    listed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    stale: Option<Vec<EntryDocument>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    listed_live: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    live: Option<Vec<EntryDocument>>,
}

#[derive(Serialize)]
struct HoldDocument<'a> {
    reason: &'static str,
    detail: &'a str,
    ends_with: &'a str,
    ends_at: Option<String>,
}

/// Why evicting waits for Redis.
#[derive(Serialize)]
struct PauseDocument<'a> {
    reason: &'static str,
    detail: &'a str,
}

#[derive(Default, Serialize)]
struct Entries {
    live: u64,
    stale: u64,
    future: u64,
    unreadable: u64,
    protected: u64,
    foreign: u64,
}

#[derive(Serialize)]
struct AgeBucket {
    /// `null`: no limit.
    le_ms: Option<u64>,
    /// Entries of this age or younger.
    count: u64,
}

/// One entry of a list.
#[derive(Serialize)]
struct EntryDocument {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id_base64: Option<String>,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    last_ping: String,
    age_ms: i64,
}

/// One entry as a line of its own.
#[derive(Serialize)]
struct EntryLine<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    source: &'a str,
    state: &'static str,
    #[serde(flatten)]
    entry: EntryDocument,
}

/// Writes one JSON document and a line break.
///
/// # Errors
/// Whatever the writer says; a closed pipe is for the caller to pass over.
pub fn write_json(run: &Run<'_>, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, &document(run, None, source_documents(run, true)))?;
    writeln!(out)
}

/// Writes a line for one entry, as it was read.
///
/// # Errors
/// Whatever the writer says; a closed pipe is for the caller to pass over.
pub fn write_entry(naming: &Naming, named: &Named, out: &mut dyn Write) -> io::Result<()> {
    let entry = entry_document(naming, &named.id, named.last_ping, named.age_ms);
    let state = if named.stale { "stale" } else { "live" };
    serde_json::to_writer(&mut *out, &EntryLine { kind: "entry", source: naming.source(), state, entry })?;
    writeln!(out)
}

/// Writes the line that follows those of all entries: the JSON document without its lists.
///
/// # Errors
/// Whatever the writer says; a closed pipe is for the caller to pass over.
pub fn write_summary(run: &Run<'_>, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer(&mut *out, &document(run, Some("summary"), source_documents(run, false)))?;
    writeln!(out)
}

fn document<S>(run: &Run<'_>, kind: Option<&'static str>, sources: Vec<S>) -> Document<S> {
    Document {
        kind,
        schema_version: SCHEMA_VERSION,
        at: run.wall.to_string(),
        dry_run: run.dry_run,
        complete: run.is_complete(),
        redacted: run.findings.iter().any(|finding| finding.naming.is_redacted()),
        sources,
    }
}

fn source_documents<'a>(run: &Run<'a>, lists: bool) -> Vec<SourceDocument<'a>> {
    run.findings.iter().map(|finding| source_document(run, finding, lists)).collect()
}

fn source_document<'a>(run: &Run<'_>, finding: &'a Finding, lists: bool) -> SourceDocument<'a> {
    let survey = finding.survey.as_deref();
    let age = |at: Option<Timestamp>| Some(finding.now?.server.millis_since(at?).max(0));
    let list = |stale| oldest(finding, stale).map(|(at, id)| listed(finding, at, id)).collect();
    let outcomes = &finding.outcomes;
    SourceDocument {
        name: &finding.source,
        state: finding.state.as_str(),
        hold: finding.hold.as_ref().map(|hold| HoldDocument {
            reason: hold.state.as_str(),
            detail: &hold.why,
            ends_with: &hold.ends_with,
            ends_at: run.ends_at(hold).map(|at| at.to_string()),
        }),
        pause: finding.pause.as_ref().map(|pause| PauseDocument { reason: pause.why.as_str(), detail: &pause.words }),
        error: finding.failure.as_ref().map(ToString::to_string),
        led_by: finding.led_by.as_deref(),
        entries: survey.map(entries).unwrap_or_default(),
        unreadable_by: counts(survey.map(|survey| survey.unreadable), Unreadable::ALL.map(Unreadable::as_str)),
        times: counts(survey.map(|survey| survey.times), Unit::ALL.map(Unit::as_str)),
        would_evict: survey.map_or(0, Survey::would_evict),
        evicted: outcomes.evicted,
        spared: outcomes.spared,
        gone: outcomes.gone,
        too_late: outcomes.too_late,
        unknown: outcomes.unknown,
        resurrected: finding.resurrected,
        blocked_by: counts(Some(outcomes.blocked), Blocked::ALL.map(Blocked::as_str)),
        companions_skipped: finding.companions_skipped,
        notifications_sent: finding.notified.sent(),
        notifications_failed: finding.notified.failed_total(),
        notifications_skipped: finding.notified.skipped,
        notifications_unknown: finding.notified.unknown_total(),
        newest_age_ms: age(survey.and_then(|survey| survey.newest)),
        oldest_age_ms: age(survey.and_then(|survey| survey.oldest)),
        ages: survey.map(cumulative).unwrap_or_default(),
        listed: survey.map_or(0, |survey| survey.handed_on_stale + survey.oldest_stale.len() as u64),
        stale: lists.then(|| list(true)),
        listed_live: run
            .all
            .then(|| survey.map_or(0, |survey| survey.handed_on_live + survey.oldest_live.len() as u64)),
        live: (lists && run.all).then(|| list(false)),
    }
}

fn entries(survey: &Survey) -> Entries {
    Entries {
        live: survey.live(),
        stale: survey.stale,
        future: survey.future,
        unreadable: survey.unreadable_total(),
        protected: survey.protected,
        foreign: survey.foreign,
    }
}

/// Only what was seen is named.
fn counts<const N: usize>(
    counts: Option<[u64; N]>,
    names: [&'static str; N],
) -> serde_json::Map<String, serde_json::Value> {
    let seen = names.into_iter().zip(counts.unwrap_or([0; N])).filter(|(_, count)| *count > 0);
    seen.map(|(name, count)| (name.to_owned(), count.into())).collect()
}

fn cumulative(survey: &Survey) -> Vec<AgeBucket> {
    let sum = survey.ages.buckets().scan(0, |sum, (edge, count)| {
        *sum += count;
        let le_ms = edge.map(|edge| u64::try_from(edge.as_millis()).unwrap_or(u64::MAX));
        Some(AgeBucket { le_ms, count: *sum })
    });
    sum.collect()
}

/// The listed entries, those with the oldest last pings first.
fn oldest(finding: &Finding, stale: bool) -> impl Iterator<Item = (Timestamp, &EntryId)> {
    let survey = finding.survey.iter();
    let lists = survey.flat_map(move |survey| if stale { &survey.oldest_stale } else { &survey.oldest_live });
    lists.map(|(at, id)| (*at, id))
}

fn listed(finding: &Finding, at: Timestamp, id: &EntryId) -> EntryDocument {
    let age_ms = finding.now.map_or(0, |now| now.server.millis_since(at)).max(0);
    entry_document(&finding.naming, id, at, age_ms)
}

fn entry_document(naming: &Naming, id: &EntryId, at: Timestamp, age_ms: i64) -> EntryDocument {
    let (id_text, id_base64) = json_text(naming.id(id));
    let (key, key_base64) = json_text(naming.key(id));
    EntryDocument { id: id_text, id_base64, key, key_base64, last_ping: at.to_string(), age_ms }
}

// === a daemon's ===

/// What is known of Redis: the whole of `/redis`, and a part of `/status`.
#[derive(Clone, Debug, Serialize)]
pub struct Standing {
    /// The word.
    state: &'static str,
    /// A sentence where there is something to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Since when Redis is down, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
}

impl Standing {
    /// The word, a sentence where there is something to say, and since when Redis is down, if it is.
    pub fn new(state: &'static str, reason: Option<String>, since: Option<Timestamp>) -> Self {
        Self { state, reason, since: since.map(|at| at.to_string()) }
    }

    /// One JSON object.
    pub fn to_json(&self) -> String {
        // Three texts can't fail to be written as JSON.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The document of a single run, and around it what only a daemon has.
#[derive(Serialize)]
struct StatusDocument<'a> {
    #[serde(flatten)]
    run: Document<StatusSource<'a>>,
    version: &'static str,
    started_at: String,
    #[serde(rename = "redis")]
    standing: &'a Standing,
}

#[derive(Serialize)]
struct StatusSource<'a> {
    #[serde(flatten)]
    found: SourceDocument<'a>,
    dry_run: bool,
    leader: Option<bool>,
    surveying: bool,
    last_sweep_at: Option<String>,
    last_complete_sweep_at: Option<String>,
    next_survey_at: String,
}

/// Writes the JSON document of a daemon: of each source what its last complete survey saw, and what became of its
/// entries since the process began, when the monotonic clock stood at zero. `turns` has one for each finding.
///
/// # Errors
/// Whatever the writer says.
pub fn write_status(run: &Run<'_>, turns: &[Turns], standing: &Standing, out: &mut dyn Write) -> io::Result<()> {
    let at = |at: Option<Monotonic>| at.map(|at| run.wall_at(at).to_string());
    let sources = run.findings.iter().zip(turns).map(|(finding, turns)| StatusSource {
        found: source_document(run, finding, true),
        dry_run: finding.dry_run,
        leader: turns.leads,
        surveying: turns.surveying,
        last_sweep_at: at(turns.swept),
        last_complete_sweep_at: at(turns.surveyed),
        next_survey_at: run.wall_at(turns.next_survey).to_string(),
    });
    let document = StatusDocument {
        run: document(run, None, sources.collect()),
        version: env!("CARGO_PKG_VERSION"),
        started_at: run.wall_at(Monotonic::default()).to_string(),
        standing,
    };
    serde_json::to_writer_pretty(&mut *out, &document)?;
    writeln!(out)
}
