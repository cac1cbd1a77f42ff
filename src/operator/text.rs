//! What an order came to, and how things stand, for a person or a program.

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use super::{ANSWERS_WITHIN, Given, View};
use crate::policy::duration::in_words;
use crate::policy::entry::{Now, Timestamp};
use crate::policy::order::Command;
use crate::store::instances::{Instance, InstanceSource};
use crate::store::orders::{Order, Token};
use crate::text::Paint;

/// Said where an order or a look found no process: the address may be another than the reapers'.
const NOBODY: &str = "no reaper has been heard on this redis lately: none runs, or it uses another `url` or `db`";

/// Writes what came of an order.
///
/// # Errors
/// Whatever the writer says; a closed pipe is for the caller to pass over.
pub fn write_given(command: &Command, given: &Given, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let until = given.until.map(|until| format!(" until {until}")).unwrap_or_default();
    let names = |sources: &[String]| if sources.is_empty() { "everything".to_owned() } else { sources.join(", ") };
    match command {
        Command::Hold { sources, .. } => writeln!(out, "held{until}: {}", names(sources))?,
        Command::Resume { sources } => writeln!(out, "resumed: {}", names(sources))?,
        Command::Release { source, max, .. } => {
            writeln!(out, "released{until}: up to {max} entries of {source}, though it is silent or in mass")?;
        }
    }
    if given.obeys.is_empty() && given.unanswered.is_empty() {
        return writeln!(out, "{}", paint.odd(&format!("{NOBODY}; a reaper obeys this order as soon as it starts")));
    }
    for name in &given.obeys {
        writeln!(out, "obeys: {name}")?;
    }
    for name in &given.unanswered {
        let line = format!(
            "no answer within {}: {name}; it may still evict until it has read the order",
            in_words(ANSWERS_WITHIN)
        );
        writeln!(out, "{}", paint.bad(&line))?;
    }
    Ok(())
}

/// Writes how things stand, for a person.
///
/// # Errors
/// Whatever the writer says; a closed pipe is for the caller to pass over.
pub fn write_view(views: &[View], paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    for view in views {
        write_orders(view, paint, out)?;
    }
    if views.iter().all(|view| view.instances.is_empty()) {
        return writeln!(out, "{}", paint.bad(NOBODY));
    }
    for view in views {
        for instance in &view.instances {
            write_instance(view, instance, paint, out)?;
        }
    }
    Ok(())
}

fn write_orders(view: &View, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let now = view.written.now;
    let brake = |name: &str, order: &Order| paint.bad(&format!("held  {name}: {}", in_words_of(order, now)));
    if let Some(order) = &view.written.everything {
        writeln!(out, "{}", brake(&format!("everything in database {}", view.database), order))?;
    }
    for ordered in &view.written.sources {
        if let Some(order) = &ordered.brake {
            writeln!(out, "{}", brake(&ordered.source, order))?;
        }
        if let Some(Token { order, left, .. }) = &ordered.release {
            let line = format!("released  {}: {left} more, {}", ordered.source, in_words_of(order, now));
            writeln!(out, "{}", paint.odd(&line))?;
        }
    }
    Ok(())
}

/// Until when, why, and by whom.
fn in_words_of(order: &Order, now: Now) -> String {
    let until = order.until.map_or_else(
        || "until it is taken back".to_owned(),
        |until| format!("until {until} ({})", in_words(ahead(until, now))),
    );
    let reason = order.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("{until}, by {}{reason}", order.by)
}

fn ahead(until: Timestamp, now: Now) -> Duration {
    Duration::from_millis(until.millis_since(now.server).max(0).unsigned_abs())
}

fn write_instance(view: &View, instance: &Instance, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let now = view.written.now;
    let ago = Duration::from_millis(now.server.millis().saturating_sub(instance.seen_ms).max(0).unsigned_abs());
    let heading = paint.heading(&instance.name);
    writeln!(out, "{heading}: version {}, heard {} ago", instance.version, in_words(ago))?;
    for source in &instance.sources {
        write_source(source, now, paint, out)?;
    }
    Ok(())
}

fn write_source(source: &InstanceSource, now: Now, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let InstanceSource { name, state, hold, ends_ms, ends_with, leads, live, stale } = source;
    let counts = live.zip(*stale).map(|(live, stale)| format!(", {live} live, {stale} stale")).unwrap_or_default();
    let part = if *leads { "leads" } else { "stands by" };
    writeln!(out, "  {name}: {state}, {part}{counts}")?;
    if let Some(hold) = hold {
        let ends = ends_ms.map(|ends| format!(" (within {})", in_words(ahead(Timestamp::from_millis(ends), now))));
        let ends_with = ends_with.as_deref().unwrap_or("nothing but time");
        writeln!(out, "    {}", paint.odd(&format!("{hold}; ends with: {ends_with}{}", ends.unwrap_or_default())))?;
    }
    Ok(())
}

// === JSON ===

/// The version of the document's schema; it grows only if a field changes its meaning or goes away.
const SCHEMA_VERSION: u32 = 1;

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    databases: Vec<Database<'a>>,
}

#[derive(Serialize)]
struct Database<'a> {
    database: u16,
    at: String,
    holds: Vec<OrderDocument<'a>>,
    releases: Vec<OrderDocument<'a>>,
    instances: Vec<InstanceDocument<'a>>,
}

#[derive(Serialize)]
struct OrderDocument<'a> {
    /// None for everything in the database.
    source: Option<&'a str>,
    until: Option<String>,
    reason: Option<&'a str>,
    by: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    left: Option<u64>,
}

#[derive(Serialize)]
struct InstanceDocument<'a> {
    name: &'a str,
    version: &'a str,
    heard_at: String,
    sources: Vec<SourceDocument<'a>>,
}

#[derive(Serialize)]
struct SourceDocument<'a> {
    name: &'a str,
    state: &'a str,
    leads: bool,
    hold: Option<&'a str>,
    ends_with: Option<&'a str>,
    ends_at: Option<String>,
    live: Option<u64>,
    stale: Option<u64>,
}

/// Writes how things stand, for a program.
///
/// # Errors
/// Whatever the writer says; a closed pipe is for the caller to pass over.
pub fn write_json(views: &[View], out: &mut dyn Write) -> io::Result<()> {
    let databases = views.iter().map(database).collect();
    serde_json::to_writer_pretty(&mut *out, &Document { schema_version: SCHEMA_VERSION, databases })?;
    writeln!(out)
}

fn database(view: &View) -> Database<'_> {
    let sources = || view.written.sources.iter();
    let everything = view.written.everything.iter().map(|order| order_document(None, order, None));
    let brakes = sources().filter_map(|one| Some(order_document(Some(&one.source), one.brake.as_ref()?, None)));
    let releases = sources().filter_map(|one| {
        let token = one.release.as_ref()?;
        Some(order_document(Some(&one.source), &token.order, Some(token.left)))
    });
    Database {
        database: view.database,
        at: view.written.now.server.to_string(),
        holds: everything.chain(brakes).collect(),
        releases: releases.collect(),
        instances: view.instances.iter().map(instance_document).collect(),
    }
}

fn order_document<'a>(source: Option<&'a str>, order: &'a Order, left: Option<u64>) -> OrderDocument<'a> {
    let until = order.until.map(|until| until.to_string());
    OrderDocument { source, until, reason: order.reason.as_deref(), by: &order.by, left }
}

fn instance_document(instance: &Instance) -> InstanceDocument<'_> {
    let sources = instance.sources.iter().map(|source| SourceDocument {
        name: &source.name,
        state: &source.state,
        leads: source.leads,
        hold: source.hold.as_deref(),
        ends_with: source.ends_with.as_deref(),
        ends_at: source.ends_ms.map(|ends| Timestamp::from_millis(ends).to_string()),
        live: source.live,
        stale: source.stale,
    });
    InstanceDocument {
        name: &instance.name,
        version: &instance.version,
        heard_at: Timestamp::from_millis(instance.seen_ms).to_string(),
        sources: sources.collect(),
    }
}
