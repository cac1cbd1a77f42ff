//! What a single run found, as a table for a person or as one JSON document for a program; and the same document of
//! a daemon, for its `/status`.

use std::io::{self, Write};
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD as BASE64, Engine};
use serde::Serialize;

use crate::policy::duration::in_words;
use crate::policy::entry::{EntryId, Monotonic, Timestamp};
use crate::policy::guard::Hold;
use crate::policy::outcome::Blocked;
use crate::policy::ping::{Unit, Unreadable};
use crate::policy::survey::{LISTED, Survey};
use crate::reaper::Finding;
use crate::text::{quoted, shortened};

/// A single run: what it was, and what it found.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// Nothing was to be evicted.
    pub dry_run: bool,
    /// When the report is made, by the host's clock; the ages in it count from Redis' own.
    pub wall: Timestamp,
    /// The monotonic clock at that time: holds end by it.
    pub mono: Monotonic,
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
    schema_version: u32,
    at: String,
    dry_run: bool,
    complete: bool,
    sources: Vec<S>,
}

#[derive(Serialize)]
struct SourceDocument<'a> {
    name: &'a str,
    state: &'static str,
    hold: Option<HoldDocument<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    entries: Entries,
    unreadable_by: serde_json::Map<String, serde_json::Value>,
    times: serde_json::Map<String, serde_json::Value>,
    would_evict: u64,
    evicted: u64,
    spared: u64,
    gone: u64,
    too_late: u64,
    unknown: u64,
    blocked_by: serde_json::Map<String, serde_json::Value>,
    companions_skipped: u64,
    newest_age_ms: Option<i64>,
    oldest_age_ms: Option<i64>,
    ages: Vec<AgeBucket>,
    listed: usize,
    stale: Vec<StaleEntry>,
}

#[derive(Serialize)]
struct HoldDocument<'a> {
    reason: &'static str,
    detail: &'a str,
    ends_with: &'a str,
    ends_at: Option<String>,
}

#[derive(Default, Serialize)]
struct Entries {
    live: u64,
    stale: u64,
    future: u64,
    unreadable: u64,
    protected: u64,
}

#[derive(Serialize)]
struct AgeBucket {
    /// `null`: no limit.
    le_ms: Option<u64>,
    /// Entries of this age or younger.
    count: u64,
}

#[derive(Serialize)]
struct StaleEntry {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id_base64: Option<String>,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    last_ping: String,
    age_ms: i64,
}

/// Writes one JSON document and a line break.
///
/// # Errors
/// Whatever the writer says; a closed pipe is for the caller to pass over.
pub fn write_json(run: &Run<'_>, out: &mut dyn Write) -> io::Result<()> {
    let sources = run.findings.iter().map(|finding| source_document(run, finding)).collect();
    serde_json::to_writer_pretty(&mut *out, &document(run, sources))?;
    writeln!(out)
}

fn document<S>(run: &Run<'_>, sources: Vec<S>) -> Document<S> {
    Document {
        schema_version: SCHEMA_VERSION,
        at: rfc3339(run.wall),
        dry_run: run.dry_run,
        complete: run.is_complete(),
        sources,
    }
}

fn source_document<'a>(run: &Run<'_>, finding: &'a Finding) -> SourceDocument<'a> {
    let survey = finding.survey.as_deref();
    let age = |at: Option<Timestamp>| Some(finding.now?.server.millis_since(at?).max(0));
    let stale: Vec<StaleEntry> = oldest(finding).map(|(at, id)| stale_entry(finding, at, id)).collect();
    let outcomes = &finding.outcomes;
    SourceDocument {
        name: &finding.source,
        state: finding.state.as_str(),
        hold: finding.hold.as_ref().map(|hold| HoldDocument {
            reason: hold.state.as_str(),
            detail: &hold.why,
            ends_with: &hold.ends_with,
            ends_at: run.ends_at(hold).map(rfc3339),
        }),
        error: finding.failure.as_ref().map(ToString::to_string),
        entries: survey.map(entries).unwrap_or_default(),
        unreadable_by: counts(survey.map(|survey| survey.unreadable), Unreadable::ALL.map(Unreadable::as_str)),
        times: counts(survey.map(|survey| survey.times), Unit::ALL.map(Unit::as_str)),
        would_evict: survey.map_or(0, Survey::would_evict),
        evicted: outcomes.evicted,
        spared: outcomes.spared,
        gone: outcomes.gone,
        too_late: outcomes.too_late,
        unknown: outcomes.unknown,
        blocked_by: counts(Some(outcomes.blocked), Blocked::ALL.map(Blocked::as_str)),
        companions_skipped: finding.companions_skipped,
        newest_age_ms: age(survey.and_then(|survey| survey.newest)),
        oldest_age_ms: age(survey.and_then(|survey| survey.oldest)),
        ages: survey.map(cumulative).unwrap_or_default(),
        listed: stale.len(),
        stale,
    }
}

fn entries(survey: &Survey) -> Entries {
    Entries {
        live: survey.live(),
        stale: survey.stale,
        future: survey.future,
        unreadable: survey.unreadable_total(),
        protected: 0,
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

fn oldest(finding: &Finding) -> impl Iterator<Item = (Timestamp, &EntryId)> {
    finding.survey.iter().flat_map(|survey| &survey.oldest_stale).map(|(at, id)| (*at, id))
}

fn stale_entry(finding: &Finding, at: Timestamp, id: &EntryId) -> StaleEntry {
    let (id_text, id_base64) = json_text(id.name());
    let (key, key_base64) = json_text(&id.key);
    let age_ms = finding.now.map_or(0, |now| now.server.millis_since(at));
    StaleEntry { id: id_text, id_base64, key, key_base64, last_ping: rfc3339(at), age_ms }
}

/// Bytes as JSON text, and beside it in base64 where the text alone would lose some.
fn json_text(bytes: &[u8]) -> (String, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (String::from_utf8_lossy(bytes).into_owned(), Some(BASE64.encode(bytes))),
    }
}

fn rfc3339(at: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(at.millis()).map_or_else(|_| format!("{} ms", at.millis()), |at| at.to_string())
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
        Self { state, reason, since: since.map(rfc3339) }
    }

    /// One JSON object.
    pub fn to_json(&self) -> String {
        // Three texts can't fail to be written as JSON.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// When the loop of a source did what, and will.
#[derive(Clone, Copy, Debug)]
pub struct Turns {
    /// A survey is running.
    pub surveying: bool,
    /// When the last survey ended, failed or not.
    pub swept: Option<Monotonic>,
    /// When the last survey that saw everything ended.
    pub surveyed: Option<Monotonic>,
    /// When the next survey begins.
    pub next_survey: Monotonic,
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
    let at = |at: Option<Monotonic>| at.map(|at| rfc3339(run.wall_at(at)));
    let sources = run.findings.iter().zip(turns).map(|(finding, turns)| StatusSource {
        found: source_document(run, finding),
        dry_run: finding.dry_run,
        surveying: turns.surveying,
        last_sweep_at: at(turns.swept),
        last_complete_sweep_at: at(turns.surveyed),
        next_survey_at: rfc3339(run.wall_at(turns.next_survey)),
    });
    let document = StatusDocument {
        run: document(run, sources.collect()),
        version: env!("CARGO_PKG_VERSION"),
        started_at: rfc3339(run.wall_at(Monotonic::default())),
        standing,
    };
    serde_json::to_writer_pretty(&mut *out, &document)?;
    writeln!(out)
}

// === text ===

/// Columns of the longest bar of a histogram.
const BAR: u64 = 40;

/// Columns an id may take in the list.
const ID_COLUMNS: usize = 60;

/// Writes tables for a person.
///
/// # Errors
/// Whatever the writer says; a closed pipe is for the caller to pass over.
pub fn write_text(run: &Run<'_>, out: &mut dyn Write) -> io::Result<()> {
    for finding in run.findings {
        write_source(run, finding, out)?;
        writeln!(out)?;
    }
    Ok(())
}

fn write_source(run: &Run<'_>, finding: &Finding, out: &mut dyn Write) -> io::Result<()> {
    let Finding { source, place, timing, .. } = finding;
    let (threshold, heartbeat) = (in_words(timing.threshold), in_words(timing.heartbeat_interval));
    writeln!(out, "source {source}: {place}, threshold {threshold}, heartbeat {heartbeat}")?;
    writeln!(out)?;
    if let Some(survey) = &finding.survey {
        write_counts(finding, survey, out)?;
        write_ages(finding, survey, out)?;
        write_oldest(finding, survey, out)?;
    }
    writeln!(out, "{}", verdict(run, finding))
}

fn write_counts(finding: &Finding, survey: &Survey, out: &mut dyn Write) -> io::Result<()> {
    let age = |at: Option<Timestamp>| {
        let age = finding.now?.server.millis_since(at?).max(0);
        Some(in_words(Duration::from_millis(age.unsigned_abs())))
    };
    let newest = age(survey.newest).map(|age| format!("newest ping {age} ago")).unwrap_or_default();
    let oldest = age(survey.oldest).filter(|_| survey.stale > 0).map(|age| format!("oldest ping {age} ago"));
    let why_unreadable = counted(&survey.unreadable, &Unreadable::ALL.map(Unreadable::as_str));
    let rows = [
        ("live", survey.live(), newest),
        ("stale", survey.stale, oldest.unwrap_or_default()),
        ("future", survey.future, String::new()),
        ("unreadable", survey.unreadable_total(), why_unreadable),
    ];
    for (name, count, remark) in rows {
        writeln!(out, "{}", format!("  {name:<10} {count:>9}   {remark}").trim_end())?;
    }
    let times = counted(&survey.times, &Unit::ALL.map(Unit::as_str));
    let times = if times.is_empty() { "none" } else { &times };
    writeln!(out, "  times seen: {times}")?;
    writeln!(out)
}

fn counted(counts: &[u64], names: &[&str]) -> String {
    let seen = names.iter().zip(counts).filter(|(_, count)| **count > 0);
    seen.map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
}

fn write_ages(finding: &Finding, survey: &Survey, out: &mut dyn Write) -> io::Result<()> {
    let most = survey.ages.buckets().map(|(_, count)| count).max().unwrap_or(0);
    if most == 0 {
        return Ok(());
    }
    let last = survey.ages.edges().last().copied().unwrap_or_default();
    for (edge, count) in survey.ages.buckets() {
        let label = edge.map_or_else(|| format!("> {}", in_words(last)), |edge| format!("≤ {}", in_words(edge)));
        let bar = bar(count, most);
        writeln!(out, "{}", format!("  {label:>10} {count:>9} {bar}").trim_end())?;
        if edge == Some(finding.timing.threshold) {
            writeln!(out, "  ---------- threshold")?;
        }
    }
    writeln!(out)
}

/// A bar in proportion; what is there at all shows.
fn bar(count: u64, most: u64) -> String {
    let columns = if count == 0 { 0 } else { (count * BAR / most).max(1) };
    "█".repeat(usize::try_from(columns).unwrap_or(0))
}

fn write_oldest(finding: &Finding, survey: &Survey, out: &mut dyn Write) -> io::Result<()> {
    if survey.oldest_stale.is_empty() {
        return Ok(());
    }
    let of_all = if survey.stale > LISTED as u64 { format!("the {LISTED} oldest of ") } else { String::new() };
    writeln!(out, "  stale entries ({of_all}{}):", survey.stale)?;
    writeln!(out, "  {:>8}  {:<24}  id", "age", "last ping")?;
    for (at, id) in oldest(finding) {
        let age = finding.now.map_or(0, |now| now.server.millis_since(at)).max(0).unsigned_abs();
        let age = in_words(Duration::from_millis(age));
        writeln!(out, "  {age:>8}  {:<24}  {}", rfc3339(at), shortened(id.name(), ID_COLUMNS))?;
    }
    writeln!(out)
}

/// One sentence on what this run did, or what a real one would do, and what holds it back.
fn verdict(run: &Run<'_>, finding: &Finding) -> String {
    let name = quoted(finding.source.as_bytes());
    let unseen = finding.failure.as_ref().map(|_| "was not seen to the end");
    let cut_short = unseen.or(finding.interrupted.then_some("was interrupted"));
    if let Some(how) = cut_short {
        return if finding.dry_run { format!("{name} {how}.") } else { format!("{name} {how}; {}", done(finding)) };
    }
    let held = finding.hold.as_ref().map(|hold| {
        let ends = run.ends_at(hold).map(|at| format!(", at {} at the latest", rfc3339(at))).unwrap_or_default();
        format!("{}: {}; ends with {}{ends}", hold.state.as_str(), hold.why, hold.ends_with)
    });
    let stale = plural(finding.stale(), "stale entry", "stale entries");
    match (finding.dry_run, finding.stale(), held) {
        (_, 0, _) => format!("Nothing to evict from {name}."),
        (true, _, None) => {
            format!("A real run would evict {stale} from {name}, after a second look; this one wrote nothing.")
        }
        (true, _, Some(held)) => format!("A real run would evict none of {stale} from {name} now. It holds: {held}."),
        (false, _, None) => format!("{name}: {}", done(finding)),
        (false, _, Some(held)) => format!("{name}: {} It holds: {held}.", done(finding)),
    }
}

fn done(finding: &Finding) -> String {
    let outcomes = &finding.outcomes;
    let evicted = plural(outcomes.evicted, "entry", "entries");
    let rest = [
        (outcomes.spared, "spared by a change in between"),
        (outcomes.gone, "gone already"),
        (outcomes.too_late, "too late"),
        (outcomes.unknown, "unknown, the reply being lost"),
        (finding.kept_by_grace, "kept by a grace"),
    ];
    let rest = rest.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!(", {count} {what}"));
    let blocked = counted(&outcomes.blocked, &Blocked::ALL.map(Blocked::as_str));
    let blocked = if blocked.is_empty() { String::new() } else { format!(", blocked: {blocked}") };
    let companions = match finding.companions_skipped {
        0 => String::new(),
        skipped => format!(" ({})", plural(skipped, "companion named no key", "companions named no key")),
    };
    format!("evicted {evicted} of {}{}{blocked}{companions}.", finding.stale(), rest.collect::<String>())
}

fn plural(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
