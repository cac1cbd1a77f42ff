//! What was found out, for a person.

use std::io::{self, Write};
use std::time::Duration;

use super::{Example, Inspected, Inspection, Seen};
use crate::check::PASSWORD_HINT;
use crate::policy::duration::in_words;
use crate::policy::ping::{Unit, Unreadable};
use crate::policy::suspect::Rhythm;
use crate::store::permissions::Answer;
use crate::store::rights::Right;
use crate::text::{Paint, quoted, shortened};

/// How much of an id or value is shown.
const WIDTH: usize = 60;

/// Writes all that was found out; `line` is the ACL line to offer where rights are missing.
///
/// # Errors
/// Whatever the writer says; a closed pipe is for the caller to pass over.
pub fn write_text(inspection: &Inspection, line: &str, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let page = Page { inspection, marks: [paint.bad("error"), paint.odd("warning")] };
    page.write_server(out)?;
    page.write_rights(line, out)?;
    inspection.sources.iter().try_for_each(|source| page.write_source(source, out))?;
    let warnings = match inspection.warnings() {
        1 => "1 warning".to_owned(),
        count => format!("{count} warnings"),
    };
    match (inspection.problems(), inspection.warnings()) {
        (0, 0) => writeln!(out, "\nThis configuration works on this server."),
        (0, _) => writeln!(out, "\nThis configuration works on this server, with {warnings}: see above."),
        (_, 0) => writeln!(out, "\nThis configuration does not work on this server: see the errors above."),
        _ => writeln!(out, "\nThis configuration does not work on this server: see the errors above, and {warnings}."),
    }
}

struct Page<'i> {
    inspection: &'i Inspection,
    /// How an error and a warning begin.
    marks: [String; 2],
}

impl Page<'_> {
    fn write_server(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { inspection, marks: [error, warning] } = self;
        let Some(facts) = &inspection.facts else {
            return writeln!(out, "server {}: unknown version, since this user may not ask INFO", inspection.server);
        };
        let server = facts.server.as_ref();
        let server = server.map_or("unknown".into(), |server| format!("{} {}", server.implementation, server.version));
        let uptime = facts.uptime.map(|uptime| format!(", up for {}", in_words(uptime))).unwrap_or_default();
        let replicas = match facts.replicas {
            None => String::new(),
            Some(1) => ", 1 replica".into(),
            Some(count) => format!(", {count} replicas"),
        };
        writeln!(out, "server {}: {server}, master{replicas}{uptime}", inspection.server)?;
        if inspection.is_cluster() {
            writeln!(out, "  {error}: it is part of a Redis Cluster, which is not supported by this version")?;
        }
        if let Some(policy) = inspection.drops() {
            writeln!(
                out,
                "  {warning}: when its memory is full it drops any key ({policy}), presence too: give presence a \
                 server of its own with noeviction"
            )?;
        }
        Ok(())
    }

    fn write_rights(&self, line: &str, out: &mut dyn Write) -> io::Result<()> {
        let Self { inspection, marks: [error, _] } = self;
        let all = inspection.rights.len();
        let missing = inspection.answered(Answer::Missing).count();
        let unknown: Vec<&Right> = inspection.answered(Answer::Unknown).collect();
        let unasked: Vec<&Right> = inspection.answered(Answer::NotAsked).collect();
        let user = quoted(inspection.user.as_bytes());
        match missing {
            0 if unasked.is_empty() && unknown.is_empty() => {
                writeln!(out, "user {user}: has all {all} rights that it needs")?
            }
            0 if unknown.is_empty() => {
                writeln!(out, "user {user}: {} of {all} rights could not be asked for", unasked.len())?;
            }
            0 => writeln!(out, "user {user}: {} of {all} rights are for what the server does not know", unknown.len())?,
            _ => writeln!(out, "user {user}: {missing} of {all} rights are missing")?,
        }
        for what in by_object(inspection.answered(Answer::Missing)) {
            writeln!(out, "  {error}: it may not {what}")?;
        }
        for what in by_object(unknown.into_iter()) {
            writeln!(out, "  {error}: the server knows no {what}; of a source that needs it nothing is evicted")?;
        }
        for what in by_object(unasked.into_iter()) {
            writeln!(out, "  not asked: {what}")?;
        }
        if missing > 0 {
            writeln!(out, "  This line grants what is needed and nothing else; {PASSWORD_HINT}:\n{line}")?;
        }
        Ok(())
    }

    fn write_source(&self, source: &Inspected, out: &mut dyn Write) -> io::Result<()> {
        let [error, warning] = &self.marks;
        writeln!(out, "source {}: {}", source.name, source.place)?;
        let seen = match &source.seen {
            Ok(seen) => seen,
            Err(failure) => return writeln!(out, "  {error}: {failure}"),
        };
        for (key, found) in &seen.wrong_types {
            let key = shortened(key, WIDTH);
            writeln!(out, "  {error}: {key} holds a {found}: see the kind of container in the source")?;
        }
        if seen.sample.entries > 0 {
            write_sample(source, seen, out)?;
        }
        seen.suspicions.iter().try_for_each(|suspicion| writeln!(out, "  {warning}: {suspicion}"))
    }
}

/// `SREM, TYPE on users`, a line for each set of keys or channel.
fn by_object<'r>(rights: impl Iterator<Item = &'r Right>) -> Vec<String> {
    let mut lines: Vec<(Option<String>, Vec<&str>)> = Vec::new();
    for right in rights {
        let object = right.object();
        match lines.iter_mut().find(|(known, _)| *known == object) {
            Some((_, commands)) => commands.push(right.command()),
            None => lines.push((object, vec![right.command()])),
        }
    }
    let line = |(object, commands): (Option<String>, Vec<&str>)| {
        let commands = commands.join(", ");
        object.map_or_else(|| commands.clone(), |object| format!("{commands} on {object}"))
    };
    lines.into_iter().map(line).collect()
}

// === a source ===

fn write_sample(source: &Inspected, seen: &Seen, out: &mut dyn Write) -> io::Result<()> {
    let (sample, timing) = (&seen.sample, &source.timing);
    let extent = if seen.whole { "all there are" } else { "a sample" };
    let containers = match seen.containers {
        None => String::new(),
        Some(1) => " in 1 key".to_owned(),
        Some(count) => format!(" in {count} keys"),
    };
    writeln!(out, "  entries    {}{containers}, {extent}", sample.entries)?;
    write_times(source, seen, out)?;
    for Example { why, id, key, stored } in &seen.examples {
        let count = sample.unreadable[why.index()];
        let id = shortened(id, WIDTH);
        let key = key.as_ref().map(|key| format!(" in {}", shortened(key, WIDTH))).unwrap_or_default();
        let held = match stored {
            Some(stored) if *why == Unreadable::WrongType => format!("holds a {}", shortened(stored, WIDTH)),
            Some(stored) => format!("holds {}", shortened(stored, WIDTH)),
            None => "for one".to_owned(),
        };
        writeln!(out, "  unreadable {count} {}; {id}{key} {held}", why.as_str())?;
    }
    if let (Some(newest), Some(oldest)) = (sample.ages.first(), sample.ages.last()) {
        let median = sample.ages[sample.ages.len() / 2];
        let [newest, median, oldest] = [*newest, median, *oldest].map(age);
        writeln!(
            out,
            "  ages       newest {newest}, median {median}, oldest {oldest}; stale from {} on",
            in_words(timing.threshold)
        )?;
    }
    let configured = in_words(timing.heartbeat_interval);
    match seen.rhythm {
        Rhythm::Measured(interval) => {
            let (pings, looked_for) = (sample.gaps.len(), in_words(sample.watched_for));
            let interval = in_words(interval);
            writeln!(
                out,
                "  heartbeat  apparently {interval}, by {pings} pings in {looked_for}; configured {configured}"
            )
        }
        Rhythm::Estimated(interval) => {
            let (entries, interval) = (sample.ages.len(), in_words(interval));
            writeln!(
                out,
                "  heartbeat  apparently {interval}, by the ages of {entries} entries; configured {configured}"
            )
        }
        Rhythm::Unknown => {
            let longer = "too few pings to tell; --sample-for 2m looks longer";
            writeln!(out, "  heartbeat  {longer}; configured {configured}")
        }
    }
}

/// How the times are written, and how they were to be written.
fn write_times(source: &Inspected, seen: &Seen, out: &mut dyn Write) -> io::Result<()> {
    let zone = source.zone.name();
    let times = Unit::ALL.iter().zip(seen.sample.times).filter(|(_, count)| *count > 0);
    let times = times.map(|(unit, count)| match unit {
        Unit::Iso8601 => format!("{count} {} (without an offset: in {zone})", unit.as_str()),
        _ => format!("{count} {}", unit.as_str()),
    });
    let times: Vec<String> = times.collect();
    let times = if times.is_empty() { "none can be read".to_owned() } else { times.join(", ") };
    writeln!(out, "  times      {times}; configured {}", source.format.as_str())
}

fn age(millis: i64) -> String {
    let words = in_words(Duration::from_millis(millis.unsigned_abs()));
    if millis < 0 { format!("{words} ahead") } else { words }
}
