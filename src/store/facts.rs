//! What a server says of itself, as far as it matters to whoever keeps presence in it.

use std::time::Duration;

use super::connect::{Link, info, server_of};
use super::error::Error;
use super::rights::Generation;
use super::status::{Purpose, ServerInfo};

const DOING: &str = "asking about the server";

/// What `INFO` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Which server, and its version.
    pub server: Option<ServerInfo>,
    /// What its ACL can say; none where its version is unknown.
    pub generation: Option<Generation>,
    /// `standalone`, `sentinel` or `cluster`.
    pub mode: Option<String>,
    /// How long it has been running.
    pub uptime: Option<Duration>,
    /// Replicas connected to it.
    pub replicas: Option<u64>,
    /// What it drops when its memory is full; none where there is no limit.
    pub drops: Option<String>,
    /// Keys in our database.
    pub keys: Option<u64>,
}

impl Link {
    /// Asks the server about itself; nothing where our user may not.
    ///
    /// # Errors
    /// The server can't be reached, refuses us, or is no master.
    pub async fn facts(&self) -> Result<Option<Facts>, Error> {
        let live = self.live().await?;
        let mut commands = redis::pipe();
        commands.cmd("INFO");
        let [reply] = self.exactly(DOING, self.ask(&live, Purpose::Info, DOING, &commands).await?)?;
        let Some(facts) = info(reply) else { return Ok(None) };
        let fact = |name: &str| facts.get(name).map(String::as_str);
        let number = |name: &str| fact(name).and_then(|text| text.parse::<u64>().ok());
        // `db0:keys=12,expires=0,…`; a database without keys is not named.
        let keyspace = fact(&format!("db{}", self.database()));
        let keys = keyspace.map_or(Some(0), |text| text.strip_prefix("keys=")?.split(',').next()?.parse().ok());
        Ok(Some(Facts {
            server: server_of(&facts),
            generation: fact("redis_version").and_then(Generation::of),
            mode: fact("redis_mode").map(str::to_owned),
            uptime: number("uptime_in_seconds").map(Duration::from_secs),
            replicas: number("connected_slaves"),
            drops: fact("maxmemory_policy").filter(|_| number("maxmemory") != Some(0)).map(str::to_owned),
            keys,
        }))
    }
}
