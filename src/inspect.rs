//! A configuration tried on its server: who answers, what our user may do there, and what a sample of each source
//! looks like. Nothing is written.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::assemble;
use crate::check;
use crate::clock::Clock;
use crate::config::{Config, SourceConfig};
use crate::policy::entry::{Bytes, EntryId, Timestamp};
use crate::policy::ping::{Format, Unreadable};
use crate::policy::staleness::Timing;
use crate::policy::suspect::{self, Rhythm, Suspicion};
use crate::policy::zone::Zone;
use crate::store::connect::{Link, Links, Settings};
use crate::store::error::Error;
use crate::store::facts::Facts;
use crate::store::permissions::Answer;
use crate::store::rights::{Generation, Right};
use crate::store::sample::Sampled;
use crate::store::{Found, Store};
use crate::text::Redaction;

mod text;

pub use text::write_text;

/// How long we look for pings unless told otherwise: nobody waits gladly, and in a crowd some ping in that time.
const LOOKED_FOR: Duration = Duration::from_secs(5);

/// A look costs as much as a strike of so many entries.
const MAX_WATCHED: usize = 200;

/// Looks follow one another no faster than this.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);

/// What is to be found out.
#[derive(Clone, Debug)]
pub struct Aim {
    /// Entries are to be evicted, not only looked at.
    pub evicts: bool,
    /// How long to look for pings; by default two heartbeats, but at most [`LOOKED_FOR`].
    pub sample_for: Option<Duration>,
    /// Hides ids; values are not shown then.
    pub redaction: Option<Arc<Redaction>>,
}

/// All that was found out.
#[derive(Debug)]
pub struct Inspection {
    /// Where.
    server: String,
    user: String,
    /// None where our user may not ask.
    facts: Option<Facts>,
    rights: Vec<(Right, Answer)>,
    sources: Vec<Inspected>,
}

/// One source.
#[derive(Debug)]
struct Inspected {
    name: Arc<str>,
    place: String,
    timing: Timing,
    format: Format,
    zone: Zone,
    seen: Result<Seen, Error>,
}

/// What was seen of a source.
#[derive(Debug)]
struct Seen {
    sample: suspect::Sample,
    /// Sorted sets or hashes that were looked into, where there may be several.
    containers: Option<usize>,
    whole: bool,
    /// What exact keys hold instead of a sorted set or hash.
    wrong_types: Vec<(Bytes, String)>,
    examples: Vec<Example>,
    rhythm: Rhythm,
    suspicions: Vec<Suspicion>,
}

/// One of the entries that can't be judged for a reason.
#[derive(Debug)]
struct Example {
    why: Unreadable,
    /// As it may be shown.
    id: Vec<u8>,
    /// Its container, where there may be several.
    key: Option<Vec<u8>>,
    /// What is stored there; none where that is not shown.
    stored: Option<Vec<u8>>,
}

impl Inspection {
    /// Whether the daemon could do its work.
    pub fn works(&self) -> bool {
        self.problems() == 0
    }

    /// What the server's ACL can say, if it told.
    pub fn generation(&self) -> Option<Generation> {
        self.facts.as_ref()?.generation
    }

    /// What would stop it.
    fn problems(&self) -> usize {
        let sources = self.sources.iter().filter(|one| !matches!(&one.seen, Ok(seen) if seen.wrong_types.is_empty()));
        let rights = [Answer::Missing, Answer::Unknown];
        let rights = rights.into_iter().filter(|answer| self.answered(*answer).next().is_some());
        rights.count() + usize::from(self.is_cluster()) + sources.count()
    }

    fn warnings(&self) -> usize {
        let of_sources: usize =
            self.sources.iter().filter_map(|one| Some(one.seen.as_ref().ok()?.suspicions.len())).sum();
        of_sources + usize::from(self.drops().is_some())
    }

    /// The rights that were asked for with this answer.
    fn answered(&self, with: Answer) -> impl Iterator<Item = &Right> {
        self.rights.iter().filter(move |(_, answer)| *answer == with).map(|(right, _)| right)
    }

    fn is_cluster(&self) -> bool {
        self.facts.as_ref().and_then(|facts| facts.mode.as_deref()) == Some("cluster")
    }

    /// The policy by which the server drops presence when its memory is full.
    fn drops(&self) -> Option<&str> {
        self.facts.as_ref()?.drops.as_deref().filter(|policy| policy.starts_with("allkeys"))
    }
}

/// Asks which generation the server is of; none where it does not say.
///
/// # Errors
/// The server can't be reached, refuses us, or is no master.
pub async fn generation(config: &Config, clock: Clock) -> Result<Option<Generation>, Error> {
    Ok(first_link(config, clock).1.facts().await?.and_then(|facts| facts.generation))
}

/// Looks at the server and at a sample of each source.
///
/// # Errors
/// The server can't be reached, refuses us, or is no master.
pub async fn inspect(config: &Config, aim: &Aim, clock: Clock) -> Result<Inspection, Error> {
    let (mut links, link) = first_link(config, clock);
    let facts = link.facts().await?;
    let rights = check::needed(config, aim.evicts);
    let answers = link.permissions(&rights).await?;
    let mut looks = JoinSet::new();
    for (place, one) in config.sources.iter().enumerate() {
        let store = assemble::store(config, one, aim.redaction.clone(), &mut links, clock);
        let look_for = aim.sample_for.unwrap_or_else(|| LOOKED_FOR.min(one.timing.heartbeat_interval * 2));
        let one = one.clone();
        looks.spawn(async move {
            let seen = look_at(&store, &one, look_for, clock).await;
            let source = &one.source;
            let inspected = Inspected {
                name: Arc::clone(&source.name),
                place: source.container.describe(),
                timing: one.timing,
                format: source.format,
                zone: source.time_zone.clone(),
                seen,
            };
            (place, inspected)
        });
    }
    let mut sources = looks.join_all().await;
    sources.sort_by_key(|(place, _)| *place);
    Ok(Inspection {
        server: config.redis.endpoint.to_string(),
        user: config.redis.username.clone().unwrap_or_else(|| "default".into()),
        facts,
        rights: rights.into_iter().zip(answers).collect(),
        sources: sources.into_iter().map(|(_, source)| source).collect(),
    })
}

/// The connection of the first source: server and user are the same for all.
fn first_link(config: &Config, clock: Clock) -> (Links, Arc<Link>) {
    let mut links = Links::new(config.redis.endpoint.clone());
    let db = config.sources.first().map_or(config.redis.db, |one| one.db);
    let link = links.to(Settings { db, ..config.redis.clone() }, clock);
    (links, link)
}

// === a source ===

async fn look_at(store: &Store, one: &SourceConfig, look_for: Duration, clock: Clock) -> Result<Seen, Error> {
    let taken = store.sample().await?;
    let patterns = one.source.container.patterns();
    let is_one = patterns.iter().count() == 1 && patterns.exact().count() == 1;
    let containers = taken.containers.filter(|_| !is_one);
    let mut sample = suspect::Sample::default();
    let mut examples: Vec<Example> = Vec::new();
    for entry in &taken.entries {
        sample.add(entry.judged, entry.plainly, |at| entry.now.server.millis_since(at));
        if let Err(why) = entry.judged
            && !examples.iter().any(|example| example.why == why)
        {
            examples.push(example(store, entry, why, containers.is_some()));
        }
    }
    watch(store, &taken.entries, one, look_for, clock, &mut sample).await?;
    let keys = match taken.entries.is_empty() {
        true => store.link().facts().await?.and_then(|facts| facts.keys),
        false => None,
    };
    let rhythm = suspect::rhythm(&sample);
    let suspicions = match sample.entries == 0 && !taken.wrong_types.is_empty() {
        true => Vec::new(),
        false => suspect::suspicions(&sample, &one.timing, one.source.format, keys, taken.whole),
    };
    let (whole, wrong_types) = (taken.whole, taken.wrong_types);
    Ok(Seen { sample, containers, whole, wrong_types, examples, rhythm, suspicions })
}

fn example(store: &Store, entry: &Sampled, why: Unreadable, names_key: bool) -> Example {
    let naming = store.naming();
    // The type of a key is nobody's secret.
    let shown = !naming.is_redacted() || why == Unreadable::WrongType && entry.id.member.is_none();
    Example {
        why,
        id: naming.id(&entry.id).into_owned(),
        key: names_key.then(|| naming.key(&entry.id).into_owned()),
        stored: shown.then(|| entry.stored.clone()),
    }
}

/// Looks at some of the entries again and again, those that are live first, and notes how long lies between their pings.
async fn watch(
    store: &Store,
    entries: &[Sampled],
    one: &SourceConfig,
    look_for: Duration,
    clock: Clock,
    sample: &mut suspect::Sample,
) -> Result<(), Error> {
    let readable = entries.iter().filter_map(|entry| Some((entry, entry.judged.ok()?.0)));
    let (live, other): (Vec<_>, Vec<_>) =
        readable.partition(|(entry, at)| *at > entry.now.server.minus(one.timing.threshold));
    sample.watched = live.len().min(MAX_WATCHED);
    let (ids, mut last): (Vec<EntryId>, Vec<Timestamp>) =
        live.into_iter().chain(other).take(MAX_WATCHED).map(|(entry, at)| (entry.id.clone(), at)).unzip();
    if ids.is_empty() {
        return Ok(());
    }
    let began = clock.now();
    // Whoever pings twice between two looks would seem to ping half as often.
    let pause = (look_for / 20).min(one.timing.heartbeat_interval / 4).min(Duration::from_secs(1)).max(SHORTEST_PAUSE);
    // bound: every round sleeps, and the time to look is up
    while clock.now().since(began) < look_for {
        tokio::time::sleep(pause.min(look_for)).await;
        let looked = store.glance(&ids).await?;
        for (last, found) in last.iter_mut().zip(looked.found) {
            if let Found::Entry { judged: Ok((at, _)), .. } = found
                && at > *last
            {
                sample.gaps.push(at.millis_since(*last));
                *last = at;
            }
        }
        sample.watched_for = clock.now().since(began);
    }
    sample.gaps.sort_unstable();
    Ok(())
}
