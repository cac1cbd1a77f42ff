//! The tables for a person.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::time::Duration;

use super::Run;
use crate::policy::duration::in_words;
use crate::policy::entry::{EntryId, Timestamp};
use crate::policy::outcome::Blocked;
use crate::policy::ping::{Unit, Unreadable};
use crate::policy::survey::Survey;
use crate::reaper::Finding;
use crate::text::{Paint, quoted, shortened};

/// Columns of the longest bar of a histogram.
const BAR: u64 = 40;

/// Columns an id may take in the list.
const ID_COLUMNS: usize = 60;

/// Writes tables for a person.
///
/// # Errors
/// Whatever the writer says; a closed pipe is for the caller to pass over.
pub fn write_text(run: &Run<'_>, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    for finding in run.findings {
        write_source(run, finding, paint, out)?;
        writeln!(out)?;
    }
    Ok(())
}

fn write_source(run: &Run<'_>, finding: &Finding, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let Finding { source, place, timing, .. } = finding;
    let (threshold, heartbeat) = (in_words(timing.threshold), in_words(timing.heartbeat_interval));
    let heading = paint.heading(&format!("source {source}"));
    writeln!(out, "{heading}: {place}, threshold {threshold}, heartbeat {heartbeat}")?;
    writeln!(out)?;
    if let Some(survey) = &finding.survey {
        write_counts(finding, survey, paint, out)?;
        write_ages(finding, survey, paint, out)?;
        write_list(finding, ("stale", survey.stale), &survey.oldest_stale, out)?;
        if run.all {
            write_list(finding, ("live", survey.live()), &survey.oldest_live, out)?;
        }
    }
    let verdict = verdict(run, finding);
    let is_plain = finding.is_complete() && finding.hold.is_none();
    writeln!(out, "{}", if is_plain { verdict } else { paint.odd(&verdict) })
}

fn write_counts(finding: &Finding, survey: &Survey, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let age = |at: Option<Timestamp>| {
        let age = finding.now?.server.millis_since(at?).max(0);
        Some(in_words(Duration::from_millis(age.unsigned_abs())))
    };
    let newest = age(survey.newest).map(|age| format!("newest ping {age} ago")).unwrap_or_default();
    // Where some are protected, the oldest of all may be one of them.
    let listed = survey.oldest_stale.first().map(|(at, _)| *at);
    let oldest = listed.or(survey.oldest.filter(|_| survey.stale > 0 && survey.protected == 0));
    let oldest = age(oldest).map(|age| format!("oldest ping {age} ago"));
    let why_unreadable = counted(&survey.unreadable, &Unreadable::ALL.map(Unreadable::as_str));
    let rows = [
        ("live", survey.live(), newest),
        ("stale", survey.stale, oldest.unwrap_or_default()),
        ("future", survey.future, String::new()),
        ("unreadable", survey.unreadable_total(), why_unreadable),
        ("protected", survey.protected, String::new()),
        ("foreign", survey.foreign, "not of the shape of `id`, and no entries".to_owned()),
    ];
    let shows = |name: &str, count: u64| match name {
        "protected" => finding.has_conditions,
        "foreign" => count > 0,
        _ => true,
    };
    for (name, count, remark) in rows.into_iter().filter(|(name, count, _)| shows(name, *count)) {
        let line = format!("  {name:<10} {count:>9}   {remark}");
        let line = match name {
            "stale" if count > 0 => paint.bad(line.trim_end()),
            "future" | "unreadable" if count > 0 => paint.odd(line.trim_end()),
            _ => line.trim_end().to_owned(),
        };
        writeln!(out, "{line}")?;
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

fn write_ages(finding: &Finding, survey: &Survey, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let most = survey.ages.buckets().map(|(_, count)| count).max().unwrap_or(0);
    if most == 0 {
        return Ok(());
    }
    let last = survey.ages.edges().last().copied().unwrap_or_default();
    for (edge, count) in survey.ages.buckets() {
        let label = edge.map_or_else(|| format!("> {}", in_words(last)), |edge| format!("≤ {}", in_words(edge)));
        let stale = edge.is_none_or(|edge| edge > finding.timing.threshold);
        let bar = bar(count, most);
        let bar = if stale { paint.bad(&bar) } else { paint.faint(&bar) };
        writeln!(out, "{}", format!("  {label:>10} {count:>9} {bar}").trim_end())?;
        if edge == Some(finding.timing.threshold) {
            writeln!(out, "  {}", paint.faint("---------- threshold"))?;
        }
    }
    writeln!(out)
}

/// A bar in proportion; what is there at all shows.
fn bar(count: u64, most: u64) -> String {
    let columns = if count == 0 { 0 } else { (count * BAR / most).max(1) };
    "█".repeat(usize::try_from(columns).unwrap_or(0))
}

fn write_list(
    finding: &Finding,
    (state, all): (&str, u64),
    list: &BTreeSet<(Timestamp, EntryId)>,
    out: &mut dyn Write,
) -> io::Result<()> {
    if list.is_empty() {
        return Ok(());
    }
    let listed = list.len() as u64;
    let of_all = if all > listed { format!("the {listed} oldest of ") } else { String::new() };
    writeln!(out, "  {state} entries ({of_all}{}):", all.max(listed))?;
    writeln!(out, "  {:>8}  {:<24}  id", "age", "last ping")?;
    for (at, id) in list {
        let age = finding.now.map_or(0, |now| now.server.millis_since(*at)).max(0).unsigned_abs();
        let age = in_words(Duration::from_millis(age));
        let id = shortened(&finding.naming.id(id), ID_COLUMNS);
        writeln!(out, "  {age:>8}  {:<24}  {id}", at.to_string())?;
    }
    writeln!(out)
}

/// One sentence on what this run did, or what a real one would do, and what holds it back.
fn verdict(run: &Run<'_>, finding: &Finding) -> String {
    let name = quoted(finding.source.as_bytes());
    let unseen = finding.failure.as_ref().map(|_| "was not surveyed to the end: see the error");
    let cut_short = unseen.or(finding.interrupted.then_some("was interrupted"));
    if let Some(how) = cut_short {
        return if finding.dry_run { format!("{name} {how}.") } else { format!("{name} {how}; {}", done(finding)) };
    }
    if let Some(leader) = &finding.led_by {
        let leader = quoted(leader.as_bytes());
        return format!("{name}: {} Another reaper holds its lease: {leader}.", done(finding));
    }
    let held = finding.hold.as_ref().map(|hold| {
        let ends = run.ends_at(hold).map(|at| format!(", at {} at the latest", at)).unwrap_or_default();
        format!("{}: {}; ends with {}{ends}", hold.state.as_str(), hold.why, hold.ends_with)
    });
    let stale = plural(finding.stale(), "stale entry", "stale entries");
    match (finding.dry_run, finding.stale(), held) {
        (_, 0, _) => format!("Nothing to evict from {name}{}.", instead(finding)),
        (true, _, None) => {
            format!("A real run would evict {stale} from {name}, after a second look; this one wrote nothing.")
        }
        (true, _, Some(held)) => {
            format!("A real run would evict none of {stale} from {name} now. The source holds: {held}.")
        }
        (false, _, None) => format!("{name}: {}{}", done(finding), given_up(finding)),
        (false, _, Some(held)) => format!("{name}: {} The source holds: {held}.", done(finding)),
    }
}

/// What kept the rest, if the run did not wait for it.
fn given_up(finding: &Finding) -> String {
    match &finding.pause {
        Some(pause) if finding.gave_up => format!(" The rest did not go: evicting paused, {}.", pause.words),
        _ => String::new(),
    }
}

/// Why nothing goes that one would expect to go; nothing if there is no such thing.
/// Why there is nothing to evict, where that is no good news.
fn instead(finding: &Finding) -> String {
    let Some(survey) = &finding.survey else { return String::new() };
    let there = survey.population() + survey.foreign;
    match (survey.protected, survey.unreadable_total()) {
        (0, _) if there == 0 => {
            ": nothing is there. If that is no surprise all is well; else `check --connect` looks why".into()
        }
        (0, unreadable) if unreadable == there => {
            ": none of its entries can be read; `check --connect` says what would fit".into()
        }
        (0, _) => String::new(),
        (count, _) => format!(": {} protected by `unless`", plural(count, "stale entry is", "stale entries are")),
    }
}

fn done(finding: &Finding) -> String {
    let outcomes = &finding.outcomes;
    let stale = plural(finding.stale(), "stale entry", "stale entries");
    let rest = [
        (outcomes.spared, "spared by a change in between"),
        (outcomes.gone, "gone already"),
        (outcomes.protected, "protected meanwhile"),
        (outcomes.too_late, "too late"),
        (outcomes.fenced, "kept by the lease or the release"),
        (outcomes.unknown, "unknown, the reply being lost"),
        (finding.kept_by_grace, "kept by a grace"),
        (finding.resurrected, "back with a newer ping"),
    ];
    let rest = rest.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!(", {count} {what}"));
    let blocked = counted(&outcomes.blocked, &Blocked::ALL.map(Blocked::as_str));
    let blocked = if blocked.is_empty() { String::new() } else { format!(", blocked: {blocked}") };
    format!("evicted {} of {stale}{}{blocked}{}.", outcomes.evicted, rest.collect::<String>(), left_out(finding))
}

/// What did not go with the evicted entries, in brackets; nothing if nothing was left out.
fn left_out(finding: &Finding) -> String {
    let notified = &finding.notified;
    let counts = [
        (finding.companions_skipped, "companion named no key", "companions named no key"),
        (notified.skipped, "notification named an absent value", "notifications named an absent value"),
        (notified.failed_total(), "notification failed", "notifications failed"),
        (notified.unknown_total(), "notification may be lost", "notifications may be lost"),
    ];
    let left_out = counts.into_iter().filter(|(count, ..)| *count > 0);
    let left_out: Vec<String> = left_out.map(|(count, one, many)| plural(count, one, many)).collect();
    if left_out.is_empty() { String::new() } else { format!(" ({})", left_out.join(", ")) }
}

fn plural(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
