//! A `[[source]]` table → a checked source with its timing and guards.

use std::sync::Arc;
use std::time::Duration;

use super::problem::{Place, Problem};
use super::reader::{At, Bounds, Notes, Table, boolean, database, duration, number, one_of, text};
use super::tree::Node;
use super::values::{self, MAX_CONDITIONS, Reads};
use super::{SourceConfig, guard, notify, zone};
use crate::language::Mistake;
use crate::language::action::MIN_LITERAL;
use crate::language::companion::{Companion, DEFAULT_FANOUT, MAX_FANOUT};
use crate::language::condition::Condition;
use crate::language::notify::Names;
use crate::language::on_evict::OnEvict;
use crate::language::pattern::Pattern;
use crate::language::source::{Container, Kind, Source};
use crate::language::template::{Ref, Scope, Template};
use crate::language::value::{self, Value as Stored};
use crate::language::words;
use crate::policy::duration::spelt;
use crate::policy::guard::{Fit, GOOD_HEARTBEATS, MIN_HEARTBEATS, fit};
use crate::policy::ping::{Format, Unit};
use crate::policy::staleness::Timing;
use crate::policy::zone::Zone;

const THRESHOLDS: Bounds = Bounds {
    least: Duration::from_millis(50),
    most: Duration::from_secs(30 * 24 * 3600),
    why: "after every restart of Redis nothing is evicted for a whole threshold",
};

/// Surveys follow this beat; a faster one would only load the server.
const HEARTBEATS: Bounds = Bounds {
    least: Duration::from_millis(10),
    most: Duration::from_secs(6 * 24 * 3600),
    why: "five heartbeats have to go into the longest threshold",
};

const DEADLINES: Bounds = Bounds { least: Duration::ZERO, most: Duration::MAX, why: "" };

const DEFAULT_THRESHOLD: Duration = Duration::from_secs(300);

/// Of one entry, at one eviction: more than this could not go in one batch.
const MAX_COMPANIONS: usize = 64;

/// Each pattern of a list is a walk through the database.
const MAX_PATTERNS: usize = 64;

const FORMATS: [Format; 7] = [
    Format::Auto,
    Format::Fixed(Unit::UnixS),
    Format::Fixed(Unit::UnixMs),
    Format::Fixed(Unit::UnixUs),
    Format::Fixed(Unit::UnixNs),
    Format::Fixed(Unit::DotnetTicks),
    Format::Fixed(Unit::Iso8601),
];

/// Reads one table: the name, and the whole. `None` for what is too wrong; the reasons are noted. `db` is the database
/// of the URL.
pub(super) fn read(
    mut table: Table,
    db: u16,
    guards: crate::policy::guard::Settings,
    notes: &mut Notes,
) -> (Option<At<String>>, Option<SourceConfig>) {
    let name = name(&mut table, notes);
    values::put_prefix_in(&mut table, notes);
    let container = container(&mut table, notes);
    let own = values::own_layout(&mut table);
    let id = values::id(&mut table, container.as_ref(), notes);
    let captures: Vec<String> =
        container.iter().flat_map(Container::captures).chain(id.iter().flat_map(Pattern::names)).cloned().collect();
    let label = format!("`let` of {}", table.label);
    let mut let_table = table.table(notes, "let", "source.let", label);
    let let_written = values::let_names(&mut let_table, &captures, notes);
    let let_names: Vec<String> = let_written.iter().map(|one| one.name.clone()).collect();
    // What templates may name. How entries are stored stands there only where it is beyond doubt.
    let scope = Scope {
        layout: container.as_ref().map(|container| container.kind().layout(own)),
        captures: &captures,
        lets: &let_names,
        each: &[],
        id: id.as_ref(),
    };
    let last_ping = values::last_ping(&mut table, container.as_ref().map(Container::kind), &scope, notes);
    let missing = values::missing(&mut table, last_ping.as_ref(), notes);
    let last_ping = last_ping.map(|read| read.value);
    let ignore = table.list(notes, "ignore", false, |text| Pattern::parse(text, "the pattern"));
    let ignore: Vec<Pattern> = ignore.into_iter().flat_map(|list| list.good).map(|read| read.value).collect();
    let reads = Reads::beside(last_ping.as_deref(), container.as_ref(), &ignore);
    let lets = values::lets(&let_table, let_written, &scope, reads, notes);
    let filters = values::filters(&mut table, &scope, reads, notes);
    let format = format(&mut table, last_ping.as_deref(), notes);
    let time_zone = time_zone(&mut table, last_ping.as_deref(), format, notes);
    let deadline = table.get(notes, "deadline", |value| match duration(value, &DEADLINES)? {
        deadline if !deadline.is_zero() && !is_written(last_ping.as_deref()) => Err(idle_setting()),
        deadline => Ok(deadline),
    });
    let companions = companions(&mut table, container.as_ref(), &scope, &ignore, reads, notes);
    let max_fanout = max_fanout(&mut table, &companions, notes);
    let on_evict = table.get(notes, "on_evict", |value| OnEvict::parse(text(value)?, &scope, last_ping.as_deref()));
    let group = group(&mut table, &scope, notes);
    let unless = unless(&mut table, &scope, reads, notes);
    let names = Names { scope, source: name.as_ref().map_or("", |read| read.value.as_str()), group: group.as_ref() };
    let notify::Read { notify, webhooks } = notify::read(
        &mut table,
        &notify::Around { names, container: container.as_ref(), ignore: &ignore, reads },
        notes,
    );
    let timing = timing(&mut table, notes);
    let db = table.get(notes, "db", database).map_or(db, |read| read.value);
    let dry_run = table.get(notes, "dry_run", boolean).is_some_and(|read| read.value);
    let label = format!("[source.guard] of {}", table.label);
    let guard = guard::read(table.table(notes, "guard", "source.guard", label), guards, notes);
    table.finish(notes);
    let whole = || {
        let source = Source {
            name: name.as_ref()?.value.as_str().into(),
            container: container.clone()?,
            layout: scope.layout?,
            id: id.clone(),
            lets,
            last_ping: last_ping?,
            missing,
            filters,
            format,
            time_zone,
            deadline: deadline.map_or(Duration::ZERO, |read| read.value),
            ignore,
            group,
            unless,
            companions,
            max_fanout,
            on_evict: on_evict.map_or(OnEvict::Remove, |read| read.value),
            notify,
        };
        Some(SourceConfig { source: Arc::new(source), webhooks, db, timing, guard, dry_run })
    };
    let whole = whole();
    (name, whole)
}

fn name(table: &mut Table, notes: &mut Notes) -> Option<At<String>> {
    let Some(entry) = table.take(notes, "name") else {
        let what = format!("{} has no `name`", table.label);
        let mistake = Mistake::new(what).hint("write name = \"hub\", for example: metrics and logs call it so");
        notes.missing.push(Problem::at(&table.place, mistake));
        return None;
    };
    table.read(notes, "name", &entry.node, |value| {
        let name = text(value)?;
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-');
        if (1..=40).contains(&name.len()) && name.chars().all(allowed) {
            return Ok(name.to_owned());
        }
        let better: String =
            name.chars().map(|c| c.to_ascii_lowercase()).map(|c| if allowed(c) { c } else { '-' }).take(40).collect();
        let mistake = Mistake::new("a name is 1 to 40 small letters, digits, `_` and `-`");
        Err(if better.is_empty() { mistake } else { mistake.hint(format!("write \"{better}\"")) })
    })
}

fn container(table: &mut Table, notes: &mut Notes) -> Option<Container> {
    let mut found: Vec<(Kind, Node)> = Vec::new();
    for kind in Kind::ALL {
        if let Some(entry) = table.take(notes, kind.as_str()) {
            found.push((kind, entry.node));
        }
    }
    let Some((kind, node)) = found.first() else {
        let what = format!("{} does not say where its entries are", table.label);
        let mistake =
            Mistake::new(what).hint("write one of zset = \"key\", hash = \"key\", set = \"key\", keys = \"conn:{id}\"");
        notes.missing.push(Problem::at(&table.place, mistake));
        return None;
    };
    for (other, node) in found.iter().skip(1) {
        let mistake = Mistake::new(format!("it stands beside `{}`, and a source has one container", kind.as_str()));
        notes.mistake(&node.place, other.as_str(), table, mistake.hint("write a [[source]] for each"));
    }
    let listed = table.texts(notes, kind.as_str(), node, true, |text| Container::pattern(*kind, text));
    for read in listed.good.iter().filter(|read| read.value.literal_prefix().is_empty()) {
        let mistake = Mistake::new("the pattern does not begin with a literal, so keys of others may match");
        notes.warning(&read.place, kind.as_str(), table, mistake.hint("look with --dry-run at what it finds"));
    }
    let patterns: Vec<Pattern> = listed.good.into_iter().map(|read| read.value).collect();
    // Of two containers neither can be believed.
    if listed.spoiled || found.len() > 1 {
        return None;
    }
    let container = if patterns.len() > MAX_PATTERNS {
        Err(Mistake::new(format!("{} keys are too many; at most {MAX_PATTERNS}", patterns.len()))
            .hint("write one pattern for them, or several sources"))
    } else {
        Container::new(*kind, patterns)
    };
    container.map_err(|mistake| notes.mistake(&listed.place, kind.as_str(), table, mistake)).ok()
}

/// Whether a hub wrote any of these times.
fn is_written(last_ping: Option<&[Stored]>) -> bool {
    let written = |value: &Stored| match value {
        Stored::Own(_) => true,
        Stored::Lookup(lookup) => !matches!(lookup.place, value::Place::Key(_)),
        Stored::Idle | Stored::Unchanged => false,
    };
    last_ping.is_none_or(|values| values.iter().any(written))
}

fn idle_setting() -> Mistake {
    Mistake::new("no time is read here that a hub wrote, so that this does nothing").hint("leave it out")
}

/// A score is a number, wherever it stands.
fn is_number(last_ping: Option<&[Stored]>) -> bool {
    let score = |value: &Stored| match value {
        Stored::Own(own) => *own == Ref::Score,
        Stored::Lookup(lookup) => matches!(lookup.place, value::Place::Score { .. }),
        Stored::Idle | Stored::Unchanged => false,
    };
    last_ping.is_some_and(|values| values.iter().all(score))
}

fn format(table: &mut Table, last_ping: Option<&[Stored]>, notes: &mut Notes) -> Format {
    let words = FORMATS.map(|format| (format.as_str(), format));
    let read = table.get(notes, "format", |value| match one_of(value, &words)? {
        Format::Fixed(_) if !is_written(last_ping) => Err(idle_setting()),
        Format::Fixed(Unit::Iso8601) if is_number(last_ping) => {
            Err(Mistake::new("iso-8601 is text, and a score is a number")
                .hint("leave `format` out: auto finds the unit"))
        }
        format => Ok(format),
    });
    read.map(|read| read.value).unwrap_or_default()
}

/// A number counts from its own zero and has no zone; beside numbers alone the setting would do nothing.
fn time_zone(table: &mut Table, last_ping: Option<&[Stored]>, format: Format, notes: &mut Notes) -> Zone {
    let read = table.get(notes, "time_zone", |value| {
        let zone = zone::zone(value)?;
        match format {
            _ if !is_written(last_ping) => Err(idle_setting()),
            _ if is_number(last_ping) => Err(Mistake::new("a score is a number and has no zone")
                .hint("leave it out: numbers count from 1970 (.NET ticks from the year 1) in UTC")),
            Format::Auto | Format::Fixed(Unit::Iso8601) => Ok(zone),
            Format::Fixed(Unit::DotnetTicks) => Err(Mistake::new("dotnet-ticks are read as UTC, and no zone applies")
                .hint("let the hub store DateTime.UtcNow.Ticks; a zone is for iso-8601 without an offset")),
            Format::Fixed(unit) => {
                Err(Mistake::new(format!("{} counts from 1970 in UTC and has no zone", unit.as_str()))
                    .hint("leave it out: a zone is for iso-8601 without an offset"))
            }
        }
    });
    read.map(|read| read.value).unwrap_or_default()
}

fn group(table: &mut Table, scope: &Scope<'_>, notes: &mut Notes) -> Option<Template> {
    let read = table.get(notes, "group", |value| match text(value)? {
        "" => Ok(None),
        text => {
            let template = Template::parse(&words::one(text, "the label")?, scope)?;
            if template.refs().next().is_none() {
                let mistake = Mistake::new("it names no value, so every entry would be of one group");
                return Err(mistake.hint("name what tells the hubs apart, as in `{field:hub}` or `{json:/Hub}`"));
            }
            Ok(Some(template))
        }
    });
    read?.value
}

fn companions(
    table: &mut Table,
    container: Option<&Container>,
    scope: &Scope<'_>,
    ignore: &[Pattern],
    reads: Reads<'_>,
    notes: &mut Notes,
) -> Vec<Companion> {
    let id = scope.id;
    let trusted = table.get(notes, "trusted", boolean).filter(|read| read.value);
    let mut trusts = false;
    let listed = table.list(notes, "companions", false, |text| {
        let companion = Companion::parse(text, scope, trusted.is_some())?;
        trusts |= trusted.is_some() && Companion::parse(text, scope, false).is_err();
        companion.condition.iter().try_for_each(|condition| reads.check_condition(condition))?;
        let list = companion.each.iter().find_map(|each| each.list.key());
        list.map_or(Ok(()), |key| reads.check(key, text))?;
        // Where names are in doubt, so is what the key can become.
        if let (Some(container), Some(_)) = (container, scope.layout) {
            container.check_companion(&companion.action.spelling_out(id), ignore)?;
        }
        Ok(companion)
    });
    let spoiled = listed.as_ref().is_some_and(|listed| listed.spoiled);
    if let Some(trusted) = trusted.filter(|_| !trusts && !spoiled) {
        let mistake = Mistake::new("no UNLINK or EXPIRE here needs it: it allows nothing now, and much later on");
        notes.warning(&trusted.place, "trusted", table, mistake.hint("leave it out"));
    }
    let Some(listed) = listed else { return Vec::new() };
    if listed.good.len() > MAX_COMPANIONS {
        let mistake = Mistake::new(format!("{} companions are too many; at most {MAX_COMPANIONS}", listed.good.len()));
        notes.mistake(&listed.place, "companions", table, mistake);
    }
    for read in &listed.good {
        let companion = &read.value;
        let keys = companion.each.iter().filter_map(|each| each.list.key());
        let keys = keys.chain(companion.condition.iter().flat_map(Condition::keys));
        warn_of_wide_keys(keys, id, &companion.text, &read.place, "companions", table, notes);
    }
    listed.good.into_iter().map(|read| read.value).collect()
}

/// How many elements a `for-each` may find.
fn max_fanout(table: &mut Table, companions: &[Companion], notes: &mut Notes) -> u32 {
    let Some(read) = table.get(notes, "max_fanout", |value| number(value, 1..=MAX_FANOUT)) else {
        return DEFAULT_FANOUT;
    };
    // The default may be spelt out.
    if read.value != DEFAULT_FANOUT && companions.iter().all(|companion| companion.each.is_none()) {
        let mistake = Mistake::new("no companion here has a `for-each`, so that this does nothing");
        notes.warning(&read.place, "max_fanout", table, mistake.hint("leave it out"));
    }
    read.value
}

fn unless(table: &mut Table, scope: &Scope<'_>, reads: Reads<'_>, notes: &mut Notes) -> Vec<Condition> {
    let listed = table.list(notes, "unless", false, |text| {
        let condition = Condition::parse_unless(text, scope)?;
        reads.check_condition(&condition)?;
        Ok(condition)
    });
    let Some(listed) = listed else { return Vec::new() };
    if listed.good.len() > MAX_CONDITIONS {
        let mistake = Mistake::new(format!("{} conditions are too many; at most {MAX_CONDITIONS}", listed.good.len()));
        notes.mistake(&listed.place, "unless", table, mistake);
    }
    listed.good.iter().for_each(|read| {
        warn_of_wide_keys(read.value.keys(), scope.id, &read.value.text, &read.place, "unless", table, notes)
    });
    listed.good.into_iter().map(|read| read.value).collect()
}

/// Warns of keys that a value, a condition or a list, which is written as `text`, may ask for anywhere. What the `id`
/// pattern spells out every member begins with.
pub(super) fn warn_of_wide_keys<'k>(
    keys: impl IntoIterator<Item = &'k Template>,
    id: Option<&Pattern>,
    text: &str,
    place: &Place,
    key: &str,
    table: &Table,
    notes: &mut Notes,
) {
    let begins = |key: &Template| match id {
        Some(id) => key.spelling_out(id).literal_prefix().len(),
        None => key.literal_prefix().len(),
    };
    let is_wide = |key: &Template| key.refs().next().is_some() && begins(key) < MIN_LITERAL;
    if keys.into_iter().any(is_wide) {
        let mistake = Mistake::new(format!("`{text}` may lead to any key of the database"));
        let hint = "begin the key with the text that all such keys share: what the eviction script asks for, its user must \
                    have every right on";
        notes.warning(place, key, table, mistake.hint(hint));
    }
}

fn timing(table: &mut Table, notes: &mut Notes) -> Timing {
    let threshold = table.get(notes, "threshold", |value| duration(value, &THRESHOLDS));
    let heartbeat = table.get(notes, "heartbeat_interval", |value| duration(value, &HEARTBEATS));
    let (threshold, place) = threshold.map_or((DEFAULT_THRESHOLD, None), |read| (read.value, Some(read.place)));
    let Some(heartbeat) = heartbeat else {
        return Timing { threshold, heartbeat_interval: (threshold / 10).max(HEARTBEATS.least) };
    };
    let timing = Timing { threshold, heartbeat_interval: heartbeat.value };
    let key = if place.is_some() { "threshold" } else { "heartbeat_interval" };
    let place = place.unwrap_or(heartbeat.place);
    let (whole, beat) = (spelt(threshold), spelt(heartbeat.value));
    let least = spelt(heartbeat.value * MIN_HEARTBEATS);
    let good = spelt(heartbeat.value * GOOD_HEARTBEATS);
    match fit(&timing) {
        Fit::Good => {}
        Fit::Tight => {
            let what = format!(
                "a threshold of {whole} is less than {GOOD_HEARTBEATS} heartbeats of {beat}: \
                 a few late pings will hold the source"
            );
            notes.warning(
                &place,
                key,
                table,
                Mistake::new(what).hint(format!("threshold = \"{good}\" leaves them room")),
            );
        }
        Fit::TooTight => {
            let most = spelt(threshold / MIN_HEARTBEATS);
            let what = format!(
                "a threshold of {whole} is less than {MIN_HEARTBEATS} heartbeats of {beat}: \
                 in an outage the living would turn stale before it shows"
            );
            let hint = format!(
                "threshold = \"{least}\" at least, better \"{good}\"; \
                 or heartbeat_interval = \"{most}\" at most, if the hub pings that often"
            );
            notes.mistake(&place, key, table, Mistake::new(what).hint(hint));
        }
    }
    timing
}
