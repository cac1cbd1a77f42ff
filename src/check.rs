//! What a checked configuration comes to: the settings in force, the times that follow from them, and the rights it needs.

use std::io::{self, Write};

use serde::Serialize;

use crate::config::{Config, SourceConfig};
use crate::policy::duration::in_words;
use crate::store::connect::Endpoint;
use crate::store::rights::{self, Generation, Right, Use};
use crate::store::tls;
use crate::text::quoted;

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    valid: bool,
    redis: String,
    database: u16,
    listen: Vec<String>,
    audit_file: Option<String>,
    audit_stream: Option<String>,
    warnings: Vec<String>,
    sources: Vec<Source<'a>>,
}

#[derive(Serialize)]
struct Source<'a> {
    name: &'a str,
    entries: String,
    database: u16,
    format: &'static str,
    time_zone: &'a str,
    dry_run: bool,
    threshold_ms: u128,
    heartbeat_interval_ms: u128,
    survey_interval_ms: u128,
    confirm_for_ms: u128,
    silent_after_ms: u128,
    unless: Vec<&'a str>,
    companions: Vec<&'a str>,
    /// What becomes of the entry itself instead of going.
    on_evict: Option<String>,
    notifications: Vec<&'a str>,
}

/// Writes one JSON document and a line break.
///
/// # Errors
/// Whatever the writer says; a closed pipe is for the caller to pass over.
pub fn write_json(config: &Config, out: &mut dyn Write) -> io::Result<()> {
    let document = Document {
        schema_version: 1,
        valid: true,
        redis: config.redis.endpoint.to_string(),
        database: config.redis.db,
        listen: config.server.listen.iter().map(ToString::to_string).collect(),
        audit_file: config.audit.file.as_ref().map(|path| path.display().to_string()),
        audit_stream: config.audit.stream.as_ref().map(|stream| quoted(&stream.key)),
        warnings: config.warnings.iter().map(ToString::to_string).collect(),
        sources: config.sources.iter().map(source).collect(),
    };
    serde_json::to_writer_pretty(&mut *out, &document)?;
    writeln!(out)
}

/// The user that a configuration without one should get.
const DEFAULT_USER: &str = "presence-reaper";

/// The rights that a configuration needs on its server; fewer where nothing is to be evicted.
pub fn needed(config: &Config, evicts: bool) -> Vec<Right> {
    rights::needed(config.sources.iter().map(|one| Use {
        source: &one.source,
        db: one.db,
        evicts: evicts && !one.dry_run,
        witness: one.guard.writer_witness.as_deref(),
        record: config.audit.stream.as_ref().map(|stream| &stream.key[..]),
    }))
}

/// What to do with the placeholder of an ACL line.
pub const PASSWORD_HINT: &str =
    "put > and the password in the place of <PASSWORD>, or leave that word out if the user has one";

/// What the configuration lacks, if the ACL line makes a user that it does not name.
pub fn acl_user_hint(config: &Config) -> Option<String> {
    let user = acl_user(config);
    (config.redis.username.as_deref() != Some(user))
        .then(|| format!("the configuration then needs username = \"{user}\" in [redis], and that password"))
}

/// The user that the ACL line is for. The default user is everybody's: to narrow it would lock the hubs out.
fn acl_user(config: &Config) -> &str {
    config.redis.username.as_deref().filter(|name| *name != "default").unwrap_or(DEFAULT_USER)
}

/// The line for redis-cli that makes the user of this configuration, with no other right than it needs.
pub fn acl_line(config: &Config, evicts: bool, generation: Generation) -> String {
    rights::acl_line(acl_user(config), &needed(config, evicts), generation)
}

fn source(config: &SourceConfig) -> Source<'_> {
    let (source, timing) = (&config.source, &config.timing);
    Source {
        name: &source.name,
        entries: source.container.describe(),
        database: config.db,
        format: source.format.as_str(),
        time_zone: source.time_zone.name(),
        dry_run: config.dry_run,
        threshold_ms: timing.threshold.as_millis(),
        heartbeat_interval_ms: timing.heartbeat_interval.as_millis(),
        survey_interval_ms: timing.survey_interval().as_millis(),
        confirm_for_ms: timing.confirm_for().as_millis(),
        silent_after_ms: timing.late_after().as_millis(),
        unless: source.unless.iter().map(|condition| condition.text.as_str()).collect(),
        companions: source.companions.iter().map(|companion| companion.text.as_str()).collect(),
        on_evict: source.on_evict.describe(),
        notifications: source.notify.iter().map(|notification| notification.text.as_str()).collect(),
    }
}

fn tls(config: &Config) -> Option<&tls::Settings> {
    match &config.redis.endpoint {
        Endpoint::Tls { tls, .. } => Some(tls),
        Endpoint::Tcp { .. } | Endpoint::Unix(_) => None,
    }
}

/// Writes a few lines a source for a person.
///
/// # Errors
/// Whatever the writer says; a closed pipe is for the caller to pass over.
pub fn write_text(config: &Config, out: &mut dyn Write) -> io::Result<()> {
    let listen = config.server.describe();
    writeln!(out, "redis {}, database {}; endpoints {listen}", config.redis.endpoint, config.redis.db)?;
    if let Some(tls) = tls(config) {
        let roots = tls.ca_file.as_ref().map_or("the CAs of this system".into(), |path| path.display().to_string());
        let name = tls.server_name.as_ref().map(|name| format!(" as {name}")).unwrap_or_default();
        let ours = tls.identity.as_ref().map_or("none".into(), |files| files.cert_file.display().to_string());
        writeln!(out, "  verified{name} by {roots}; client certificate: {ours}")?;
    }
    if let Some(path) = &config.audit.file {
        writeln!(out, "  each eviction is recorded in {}", path.display())?;
    }
    if let Some(stream) = &config.audit.stream {
        writeln!(out, "  each eviction is recorded in the stream {}, cut to {}", quoted(&stream.key), stream.maxlen)?;
    }
    for SourceConfig { source, db, timing, dry_run, .. } in &config.sources {
        let dry_run = if *dry_run { ", dry run" } else { "" };
        let database = if *db == config.redis.db { String::new() } else { format!(", database {db}") };
        let (entries, format) = (source.container.describe(), source.format.as_str());
        let zone = match source.time_zone.name() {
            "UTC" => String::new(),
            name => format!(" (without an offset: in {name})"),
        };
        writeln!(out, "source {}: {entries}{database}, times {format}{zone}{dry_run}", source.name)?;
        let [threshold, heartbeat, survey, confirm, silent] = [
            timing.threshold,
            timing.heartbeat_interval,
            timing.survey_interval(),
            timing.confirm_for(),
            timing.late_after(),
        ]
        .map(in_words);
        writeln!(out, "  stale from {threshold} on, with a heartbeat every {heartbeat}: surveyed every {survey};")?;
        writeln!(
            out,
            "  struck after the same ping was seen for {confirm}; held as silent when nobody pinged for {silent}"
        )?;
        if timing.survey_interval() < timing.look_interval() {
            writeln!(out, "  (surveyed that often because a threshold holds fewer than six heartbeats)")?;
        }
        if source.container.kind().as_str() == "zset" && !source.answers_by_index() {
            writeln!(out, "  (something is asked of each member, so sorted sets are read whole, not by their index)")?;
        }
        for condition in &source.unless {
            writeln!(out, "  protects an entry: {}", condition.text)?;
        }
        for companion in &source.companions {
            writeln!(out, "  goes with an entry: {}", companion.text)?;
        }
        if let Some(instead) = source.on_evict.describe() {
            writeln!(out, "  the entry itself {instead}")?;
        }
        for notification in &source.notify {
            writeln!(out, "  announces an eviction: {}", notification.text)?;
        }
    }
    writeln!(out, "The configuration is valid.")
}
