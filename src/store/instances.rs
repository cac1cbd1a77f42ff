//! The processes that obey operators in a database, each as it writes itself down.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use serde::{Deserialize, Serialize};

use super::error::Error;
use super::orders::{OrderBook, clean, key, set};
use super::reply;
use crate::policy::entry::{Now, Timestamp};

/// Redis forgets the processes when none of them has been heard for so long.
const REMEMBERED: Duration = Duration::from_secs(60);

/// A process that was not heard for so long is gone, or can't reach Redis and so evicts nothing.
pub const ALIVE: Duration = Duration::from_secs(15);

/// A process that obeys, as it writes itself down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// `HOST:PID`.
    #[serde(skip)]
    pub name: String,
    /// Its version.
    pub version: String,
    /// Server time, in milliseconds.
    pub seen_ms: i64,
    /// Every order up to this one is obeyed.
    pub revision: u64,
    /// Its sources in this database.
    pub sources: Vec<InstanceSource>,
}

/// How a source stands with a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceSource {
    /// Its name.
    pub name: String,
    /// Its state; `once` with a single run.
    pub state: String,
    /// Why it holds, if it does.
    pub hold: Option<String>,
    /// When that ends by itself at the latest, if it does; server time in milliseconds.
    pub ends_ms: Option<i64>,
    /// What ends it.
    pub ends_with: Option<String>,
    /// Whether this process is the one that evicts.
    pub leads: bool,
    /// Live entries at its last survey.
    pub live: Option<u64>,
    /// Stale entries at its last survey.
    pub stale: Option<u64>,
}

impl OrderBook {
    /// Writes this process down.
    ///
    /// # Errors
    /// Redis can't be reached, or refuses.
    pub async fn enlist(&self, instance: &Instance) -> Result<(), Error> {
        let mut commands = redis::pipe();
        let text = serde_json::to_string(instance).unwrap_or_default();
        set(&mut commands, &key("instances", None), &[(instance.name.as_str(), text)], REMEMBERED);
        self.ask("telling operators of this process", &commands).await.map(|_| ())
    }

    /// Strikes these processes off the list.
    ///
    /// # Errors
    /// Redis can't be reached, or refuses.
    pub async fn dismiss(&self, names: &[String]) -> Result<(), Error> {
        if names.is_empty() {
            return Ok(());
        }
        let mut commands = redis::pipe();
        commands.cmd("HDEL").arg(key("instances", None)).arg(names);
        self.ask("taking processes off the list", &commands).await.map(|_| ())
    }

    /// The processes on the list, by name, those of other databases left out; and the server's time.
    ///
    /// # Errors
    /// Redis can't be reached, or refuses.
    pub async fn instances(&self) -> Result<(Now, Vec<Instance>), Error> {
        const DOING: &str = "looking for processes";
        let mut commands = redis::pipe();
        commands.cmd("TIME").cmd("HGETALL").arg(key("instances", None));
        let [time, list] = self.link.exactly(DOING, self.ask(DOING, &commands).await?)?;
        let now = self.link.now(DOING, time)?;
        let pairs = reply::pairs(list).map_err(|unexpected| self.link.unexpected(DOING, unexpected))?;
        let mut instances: Vec<Instance> = pairs.into_iter().filter_map(|pair| instance(pair).ok()).collect();
        instances.sort_by(|one, other| one.name.cmp(&other.name));
        Ok((now, instances))
    }
}

/// This process, for a person: `HOST:PID`.
pub fn own_name() -> String {
    format!("{}:{}", host_name(), std::process::id())
}

/// The machine it runs on. Asked of the kernel: a sandbox may have no `/proc/sys`.
pub fn host_name() -> String {
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy();
    if host.is_empty() { "host".into() } else { host.into_owned() }
}

impl Instance {
    /// Whether it was heard lately.
    pub fn is_alive(&self, now: Now) -> bool {
        Timestamp::from_millis(self.seen_ms).plus(ALIVE) > now.server
    }
}

impl InstanceSource {
    /// A source of a single run, which is too short to tell how it stands.
    pub fn once(name: &Arc<str>) -> Self {
        Self {
            name: name.to_string(),
            state: "once".into(),
            hold: None,
            ends_ms: None,
            ends_with: None,
            leads: true,
            live: None,
            stale: None,
        }
    }
}

fn instance((name, record): (Value, Value)) -> Result<Instance, reply::Unexpected> {
    let name = String::from_utf8_lossy(&reply::some_bytes(name)?).into_owned();
    let record: Instance = serde_json::from_slice(&reply::some_bytes(record)?)
        .map_err(|error| reply::Unexpected::shape(error.to_string()))?;
    let sources = record.sources.into_iter().map(|source| InstanceSource {
        name: clean(&source.name),
        state: clean(&source.state),
        hold: source.hold.as_deref().map(clean),
        ends_with: source.ends_with.as_deref().map(clean),
        ..source
    });
    Ok(Instance { name: clean(&name), version: clean(&record.version), sources: sources.collect(), ..record })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::entry::Monotonic;

    fn at(seconds: u64) -> Now {
        let since = Duration::from_secs(seconds);
        Now { server: Timestamp::from_millis(1_800_000_000_000).plus(since), mono: Monotonic::from_start(since) }
    }

    #[test]
    fn a_process_is_alive_while_it_is_heard() {
        let heard = |ago: u64| Instance {
            name: "a:1".into(),
            version: "1".into(),
            seen_ms: at(100 - ago).server.millis(),
            revision: 0,
            sources: vec![],
        };
        assert!(heard(14).is_alive(at(100)));
        assert!(!heard(15).is_alive(at(100)));
    }

    proptest! {
        #[test]
        fn what_stands_there_never_panics(name: Vec<u8>, record: Vec<u8>) {
            let _ = instance((Value::BulkString(name), Value::BulkString(record)));
        }
    }
}
