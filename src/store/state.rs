//! What we keep of ourselves in Redis, in the very database it is about: the canary, and what the next process has to
//! know. One hash a source.
//!
//! The canary is a counter. It is read when a look at the source begins and counted up when it ends, so less than we know of means
//! that the data went backwards, and a refusal that heartbeats are refused as well.

use std::collections::HashMap;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD as BASE64, Engine};
use redis::Value;

use super::connect::{Link, Live};
use super::error::{Error, Kind};
use super::reply;
use super::status::Purpose;
use crate::language::action::OWN_PREFIX;
use crate::language::source::Source;
use crate::policy::continuity::Identity;
use crate::policy::entry::Timestamp;
use crate::policy::memory::{
    Absences, Group, Guards, HostClock, MOST_ABSENCES, Memory, Sight, Silence, SingleRun, Slice, Suspension,
};
use crate::policy::staleness::Timing;

/// Redis forgets what nobody has kept up for so long: longer than between any two single runs.
const KEPT_FOR: Duration = Duration::from_secs(30 * 24 * 3600);

/// Grows when a field changes its meaning; what another version wrote is no memory of ours.
const SCHEMA: &str = "1";

/// A cluster has a tag for each of its slots here, so that what we keep lies beside the entries. One server has all the
/// slots, and keeps everything under this one.
const SLOT_TAG: &str = "{0}";

const DOING: &str = "keeping the reaper's own state";

/// The fields of the hash; an empty one is absent. Times are milliseconds of the server's clock.
const FIELDS: [&str; 33] = [
    "schema",
    "canary",
    "definition",
    "run_id",
    "replication_id",
    "looked",
    "run_began",
    "run_period",
    "host_boot",
    "host_up",
    "absences",
    "misdated_until",
    "refusals",
    "outages",
    "grace_after",
    "grace_until",
    "reconnect_before",
    "reconnect_until",
    "silent_since",
    "silent_newest",
    "silent_small",
    "silent_released",
    "recent",
    "mass_until",
    "slice_went",
    "slice_until",
    "suspended_for",
    "suspended_until",
    "suspended_again_until",
    "suspended_back",
    "suspended_of",
    "interval",
    "groups",
];

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// The canary, if there is one.
    pub canary: Option<u64>,
    /// What an earlier process left, if it can be read.
    pub memory: Option<Memory>,
}

/// Where the state of a source is kept, and what it is a state of.
#[derive(Clone, Debug)]
pub(super) struct Keeper {
    key: Vec<u8>,
    definition: String,
}

impl Keeper {
    pub(super) fn of(source: &Source, timing: &Timing) -> Self {
        Self { key: own_key(source, "state"), definition: definition(source, timing) }
    }

    pub(super) async fn read(&self, link: &Link, live: &Live) -> Result<Kept, Error> {
        let mut commands = redis::pipe();
        commands.cmd("HMGET").arg(&self.key).arg(&FIELDS[..]);
        let [reply] = link.exactly(DOING, link.ask(live, Purpose::State, DOING, &commands).await?)?;
        self.refused(link, [&reply])?;
        let unexpected = |unexpected| link.unexpected(DOING, unexpected);
        let values = reply::array(reply).map_err(unexpected)?;
        let values = values.into_iter().map(reply::bytes).collect::<Result<Vec<_>, _>>().map_err(unexpected)?;
        let fields = FIELDS
            .into_iter()
            .zip(values)
            .filter_map(|(name, value)| Some((name, String::from_utf8(value?).ok().filter(|text| !text.is_empty())?)));
        Ok(read(&fields.collect(), &self.definition))
    }

    /// Counts the canary up and keeps `memory`, in one go; returns the canary.
    pub(super) async fn write(&self, link: &Link, live: &Live, memory: &Memory) -> Result<u64, Error> {
        let mut commands = redis::pipe();
        commands.cmd("HINCRBY").arg(&self.key).arg("canary").arg(1);
        commands.cmd("HSET").arg(&self.key);
        for (name, value) in fields(memory, &self.definition) {
            commands.arg(name).arg(value);
        }
        commands.cmd("PEXPIRE").arg(&self.key).arg(KEPT_FOR.as_millis() as u64);
        let replies = link.ask(live, Purpose::State, DOING, &commands).await?;
        let [canary, kept, expiry] = link.exactly(DOING, replies)?;
        self.refused(link, [&canary, &kept, &expiry])?;
        reply::count(canary).map_err(|unexpected| link.unexpected(DOING, unexpected))
    }

    /// The first refusal among these replies, with the remedy for what is our own.
    fn refused<const N: usize>(&self, link: &Link, replies: [&Value; N]) -> Result<(), Error> {
        let error = replies.into_iter().find_map(|reply| refusal(link, DOING, reply));
        let Some(error) = error else { return Ok(()) };
        Err(match error.kind {
            Kind::Permission => error.with_remedy(
                "without its own state it can't know what Redis lost, and evicts nothing: `check --acl` prints the line \
                 that gives the ACL user of [redis] what it needs on ~presence-reaper:*",
            ),
            Kind::WrongType | Kind::Other => {
                let key = String::from_utf8_lossy(&self.key);
                error.with_remedy(format!("the key {key} is the reaper's own; remove what stands there"))
            }
            _ => error,
        })
    }
}

/// What the server says where it refuses.
pub(super) fn refusal(link: &Link, doing: &str, reply: &Value) -> Option<Error> {
    let Value::ServerError(refusal) = reply else { return None };
    let (kind, code) = (Kind::of_code(refusal.code()), refusal.code());
    Some(link.error(kind, doing, format!("{code} {}", refusal.details().unwrap_or_default())))
}

// === names ===

/// A key of ours for this source. Two of one name are told apart by where their entries are.
pub(super) fn own_key(source: &Source, what: &str) -> Vec<u8> {
    [OWN_PREFIX, format!("{SLOT_TAG}:{}:{what}", own_name(source)).as_bytes()].concat()
}

/// What we call this source among all that share a database.
pub(super) fn own_name(source: &Source) -> String {
    let place = fnv(source.container.describe().as_bytes());
    format!("{}-{:08x}", source.name, (place >> 32) ^ (place & 0xffff_ffff))
}

/// A key of ours that belongs to no source alone.
pub(super) fn own_key_of_all(what: &str) -> Vec<u8> {
    [OWN_PREFIX, format!("{SLOT_TAG}:{what}").as_bytes()].concat()
}

/// What decides which entries of this source may go, as a short text that differs where that does. It may differ between
/// versions of the program too: that costs a grace.
pub(super) fn definition(source: &Source, timing: &Timing) -> String {
    // Whoever adds to a source decides here whether it changes which entries may go.
    let Source {
        name: _,
        container,
        layout,
        id,
        lets,
        last_ping,
        missing,
        filters,
        format,
        time_zone,
        deadline,
        ignore,
        group,
        unless,
        companions: _,
        max_fanout: _,
        on_evict,
        notify: _,
    } = source;
    let times = format!("{last_ping:?} {format:?} {time_zone:?} {deadline:?} {timing:?}");
    let parts = format!("{container:?} {ignore:?} {group:?} {unless:?} {on_evict:?} {times}");
    format!("{:016x}", fnv(format!("{parts} {id:?} {lets:?} {missing:?} {filters:?} {layout:?}").as_bytes()))
}

/// FNV-1a: the same in every process and every version, as the standard library's hashes need not be.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

// === the hash's text ===

/// Every field but the canary, which counts by itself.
fn fields(memory: &Memory, definition: &str) -> Vec<(&'static str, String)> {
    let Memory { identity, redefined: _, looked, run, host, absences, misdated_until, sight, guards } = memory;
    let (silence, suspension) = (guards.silence, guards.suspension);
    let time = |at: Option<Timestamp>| at.map(|at| at.millis().to_string()).unwrap_or_default();
    let count = |count: Option<u64>| count.map(|count| count.to_string()).unwrap_or_default();
    let flag = |flag: Option<bool>| flag.map(|flag| u8::from(flag).to_string()).unwrap_or_default();
    let length = |time: Option<Duration>| count(time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)));
    vec![
        ("schema", SCHEMA.to_owned()),
        ("definition", definition.to_owned()),
        ("run_id", identity.run_id.clone()),
        ("replication_id", identity.replication_id.clone()),
        ("looked", time(Some(*looked))),
        ("run_began", time(run.map(|run| run.began))),
        ("run_period", length(run.and_then(|run| run.period))),
        ("host_boot", host.as_ref().map(|host| host.boot.clone()).unwrap_or_default()),
        ("host_up", length(host.as_ref().map(|host| host.up))),
        ("absences", absences.as_ref().map(absences_text).unwrap_or_default()),
        ("misdated_until", time(*misdated_until)),
        ("refusals", count(sight.refusals)),
        ("outages", outages_text(&sight.outages)),
        ("grace_after", sight.grace.as_ref().map(|(after, _)| after.clone()).unwrap_or_default()),
        ("grace_until", time(sight.grace.as_ref().map(|(_, until)| *until))),
        ("reconnect_before", time(sight.reconnect.map(|(before, _)| before))),
        ("reconnect_until", time(sight.reconnect.map(|(_, until)| until))),
        ("silent_since", time(silence.map(|silence| silence.since))),
        ("silent_newest", time(silence.map(|silence| silence.newest))),
        ("silent_small", flag(silence.map(|silence| silence.small))),
        ("silent_released", flag(silence.map(|silence| silence.released))),
        ("recent", count(guards.recent)),
        ("mass_until", time(guards.mass_until)),
        ("slice_went", count(guards.slice.map(|slice| slice.went))),
        ("slice_until", time(guards.slice.and_then(|slice| slice.until))),
        ("suspended_for", length(suspension.map(|suspension| suspension.lasts))),
        ("suspended_until", time(suspension.map(|suspension| suspension.until))),
        ("suspended_again_until", time(suspension.map(|suspension| suspension.again_until))),
        ("suspended_back", count(suspension.map(|suspension| suspension.back))),
        ("suspended_of", count(suspension.map(|suspension| suspension.of))),
        ("interval", length(guards.interval)),
        ("groups", groups_text(&guards.groups)),
    ]
}

fn read(fields: &HashMap<&str, String>, definition: &str) -> Kept {
    let canary = fields.get("canary").and_then(|text| text.parse().ok());
    let memory = fields.get("schema").filter(|schema| *schema == SCHEMA).and_then(|_| memory(fields, definition));
    Kept { canary, memory }
}

/// None if a field that must be there is not, or one that is there can't be read: half a memory is none.
fn memory(fields: &HashMap<&str, String>, definition: &str) -> Option<Memory> {
    let text = |name: &str| fields.get(name).cloned();
    let number = |name: &str| fields.get(name).map(|text| text.parse::<i64>()).transpose().ok();
    let time = |name: &str| Some(number(name)?.map(Timestamp::from_millis));
    let count = |name: &str| number(name)?.map(u64::try_from).transpose().ok();
    let both = |one: Option<Timestamp>, other: Option<Timestamp>| one.zip(other);
    let silence = match (time("silent_since")?, time("silent_newest")?) {
        (Some(since), Some(newest)) => Some(Silence {
            since,
            newest,
            small: count("silent_small")? == Some(1),
            released: count("silent_released")? == Some(1),
        }),
        _ => None,
    };
    let length = |name: &str| Some(count(name)?.map(Duration::from_millis));
    let period = length("run_period")?;
    let slice = match count("slice_went")? {
        Some(went) => Some(Slice { went, until: time("slice_until")? }),
        None => None,
    };
    let suspension = match (length("suspended_for")?, time("suspended_until")?, time("suspended_again_until")?) {
        (Some(lasts), Some(until), Some(again_until)) => Some(Suspension {
            lasts,
            until,
            again_until,
            back: count("suspended_back")?.unwrap_or_default(),
            of: count("suspended_of")?.unwrap_or_default(),
        }),
        _ => None,
    };
    Some(Memory {
        identity: Identity { run_id: text("run_id")?, replication_id: text("replication_id").unwrap_or_default() },
        redefined: text("definition")? != definition,
        looked: time("looked")??,
        run: time("run_began")?.map(|began| SingleRun { began, period }),
        host: text("host_boot").zip(length("host_up")?).map(|(boot, up)| HostClock { boot, up }),
        absences: match text("absences") {
            Some(text) => Some(self::absences(&text)?),
            None => None,
        },
        misdated_until: time("misdated_until")?,
        sight: Sight {
            outages: outages(text("outages").as_deref().unwrap_or_default())?,
            grace: text("grace_after").zip(time("grace_until")?),
            reconnect: both(time("reconnect_before")?, time("reconnect_until")?),
            refusals: count("refusals")?,
        },
        guards: Guards {
            silence,
            recent: count("recent")?,
            mass_until: time("mass_until")?,
            slice,
            suspension,
            interval: length("interval")?,
            groups: groups(text("groups").as_deref().unwrap_or_default())?,
        },
    })
}

/// `45000@1800000000000`, with blanks in between: how long, and until when it counts.
fn outages_text(outages: &[(Duration, Timestamp)]) -> String {
    let words: Vec<String> =
        outages.iter().map(|(gap, until)| format!("{}@{}", gap.as_millis(), until.millis())).collect();
    words.join(" ")
}

fn outages(text: &str) -> Option<Vec<(Duration, Timestamp)>> {
    let read = |word: &str| {
        let (gap, until) = word.split_once('@')?;
        Some((Duration::from_millis(gap.parse().ok()?), Timestamp::from_millis(until.parse().ok()?)))
    };
    text.split_ascii_whitespace().map(read).collect()
}

/// `17 whole 00d1f5a26b3c4e97:300000`, with blanks in between: how many keys the server had dropped, whether these are all,
/// and for each a hash and for how long it was missing.
fn absences_text(Absences { dropped, whole, ages }: &Absences) -> String {
    let word = |(hash, age): &(u64, Duration)| format!("{hash:016x}:{}", age.as_millis());
    let head = [dropped.to_string(), if *whole { WHOLE } else { PARTIAL }.to_owned()];
    head.into_iter().chain(ages.iter().map(word)).collect::<Vec<_>>().join(" ")
}

const WHOLE: &str = "whole";
const PARTIAL: &str = "partial";

fn absences(text: &str) -> Option<Absences> {
    let mut words = text.split_ascii_whitespace();
    let dropped = words.next()?.parse().ok()?;
    let whole = match words.next()? {
        WHOLE => true,
        PARTIAL => false,
        _ => return None,
    };
    let read = |word: &str| {
        let (hash, age) = word.split_once(':')?;
        Some((u64::from_str_radix(hash, 16).ok()?, Duration::from_millis(age.parse().ok()?)))
    };
    let ages = words.take(MOST_ABSENCES).map(read).collect::<Option<_>>()?;
    Some(Absences { dropped, whole, ages })
}

/// `aHViLTE=@1800000000000@silent@1800000300000`, with blanks in between: the label in base64, its newest ping, whether it
/// is silent, and until when it keeps its entries.
fn groups_text(groups: &[Group]) -> String {
    let word = |group: &Group| {
        let state = if group.silent { SILENT } else { PINGS };
        let until = group.keeps_until.map(|until| until.millis().to_string()).unwrap_or_default();
        format!("{}@{}@{state}@{until}", BASE64.encode(&group.label), group.newest.millis())
    };
    groups.iter().map(word).collect::<Vec<_>>().join(" ")
}

const SILENT: &str = "silent";
const PINGS: &str = "pings";

fn groups(text: &str) -> Option<Vec<Group>> {
    let time = |text: &str| Some(Timestamp::from_millis(text.parse().ok()?));
    let read = |word: &str| {
        let [label, newest, state, until] = word.split('@').collect::<Vec<_>>()[..] else { return None };
        Some(Group {
            label: BASE64.decode(label).ok()?.into(),
            newest: time(newest)?,
            silent: match state {
                SILENT => true,
                PINGS => false,
                _ => return None,
            },
            keeps_until: if until.is_empty() { None } else { Some(time(until)?) },
        })
    };
    text.split_ascii_whitespace().map(read).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(memory: &Memory, definition: &str) -> HashMap<&'static str, String> {
        fields(memory, definition).into_iter().filter(|(_, text)| !text.is_empty()).collect()
    }

    fn lengths() -> impl Strategy<Value = Duration> {
        (0..1_u64 << 40).prop_map(Duration::from_millis)
    }

    fn times() -> impl Strategy<Value = Timestamp> {
        (0..4_000_000_000_000_i64).prop_map(Timestamp::from_millis)
    }

    prop_compose! {
        /// What the guards know beside silence and mass.
        fn after_mass()(
            slice in prop::option::of((0..1_u64 << 62, prop::option::of(times()))),
            suspension in prop::option::of((lengths(), times(), times(), 0..1_u64 << 62, 0..1_u64 << 62)),
            interval in prop::option::of(lengths()),
            groups in prop::collection::vec(
                (prop::collection::vec(any::<u8>(), 0..20), times(), any::<bool>(), prop::option::of(times())),
                0..4,
            ),
        ) -> Guards {
            let group = |(label, newest, silent, keeps_until): (Vec<u8>, _, _, _)| {
                Group { label: label.into(), newest, silent, keeps_until }
            };
            Guards {
                slice: slice.map(|(went, until)| Slice { went, until }),
                suspension: suspension.map(|(lasts, until, again_until, back, of)| Suspension {
                    lasts,
                    until,
                    again_until,
                    back,
                    of,
                }),
                interval,
                groups: groups.into_iter().map(group).collect(),
                ..Guards::default()
            }
        }
    }

    prop_compose! {
        fn from_single_runs()(
            host in prop::option::of(("[0-9a-f-]{1,36}", lengths())),
            absences in prop::option::of((
                0..1_u64 << 62, any::<bool>(), prop::collection::vec((any::<u64>(), lengths()), 0..4),
            )),
        ) -> (Option<HostClock>, Option<Absences>) {
            let absences = absences.map(|(dropped, whole, ages)| Absences { dropped, whole, ages });
            (host.map(|(boot, up)| HostClock { boot, up }), absences)
        }
    }

    prop_compose! {
        fn memories()(
            (run_id, looked) in ("[0-9a-f]{1,40}", times()),
            run in prop::option::of((times(), prop::option::of(0..1_u64 << 40))),
            (host, absences) in from_single_runs(),
            grace in prop::option::of(("[a-z' ]{1,40}", times())),
            reconnect in prop::option::of((times(), times())),
            misdated_until in prop::option::of(times()),
            refusals in prop::option::of(0..1_u64 << 62),
            outages in prop::collection::vec(((0..1_u64 << 40).prop_map(Duration::from_millis), times()), 0..4),
            silence in prop::option::of((times(), times(), any::<bool>(), any::<bool>())),
            recent in prop::option::of(0..1_u64 << 62),
            mass_until in prop::option::of(times()),
            after_mass in after_mass(),
        ) -> Memory {
            let silence = silence.map(|(since, newest, small, released)| Silence { since, newest, small, released });
            Memory {
                identity: Identity { replication_id: run_id.clone(), run_id },
                redefined: false,
                looked,
                run: run.map(|(began, period)| SingleRun { began, period: period.map(Duration::from_millis) }),
                host,
                absences,
                misdated_until,
                sight: Sight { grace, reconnect, outages, refusals },
                guards: Guards { silence, recent, mass_until, ..after_mass },
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_kept_is_read_again(memory in memories()) {
            let read = read(&texts(&memory, "d"), "d");
            prop_assert_eq!(read, Kept { canary: None, memory: Some(memory.clone()) });
            let other = super::read(&texts(&memory, "d"), "e").memory;
            prop_assert_eq!(other, Some(Memory { redefined: true, ..memory }));
        }

        #[test]
        fn no_field_panics_and_one_that_is_spoilt_is_no_memory(memory in memories(), field in 0..FIELDS.len(), text in ".{0,20}") {
            let mut fields = texts(&memory, "d");
            fields.insert(FIELDS[field], text);
            read(&fields, "d");
            for name in ["looked", "mass_until", "silent_since", "refusals", "outages", "misdated_until", "groups", "slice_went", "host_up", "absences"] {
                fields.insert(name, "no number".into());
                prop_assert_eq!(read(&fields, "d").memory, None);
                fields.remove(name);
            }
        }
    }

    #[test]
    fn every_field_is_written_but_the_canary_and_read_by_the_same_name() {
        let memory = Memory {
            identity: Identity::default(),
            redefined: false,
            looked: Timestamp::from_millis(1),
            run: None,
            host: None,
            absences: None,
            misdated_until: None,
            sight: Default::default(),
            guards: Default::default(),
        };
        let mut names: Vec<&str> = fields(&memory, "d").into_iter().map(|(name, _)| name).collect();
        names.insert(1, "canary");
        assert_eq!(names, FIELDS);
    }
}
