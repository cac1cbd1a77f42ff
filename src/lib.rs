//! presence-reaper evicts stale presence entries from Redis.

pub mod http;
pub mod language;
pub mod logging;
pub mod policy;
pub mod store;
