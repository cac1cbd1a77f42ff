//! What a person can type.
//!
//! Flags only become overrides here; what they mean, and whether it is right, [`crate::config`] says, with the same
//! words as for the file. Variables are read there too: the help only names them.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
pub use clap_complete::Shell;

use crate::config::{self, FlagValue, Setting};
use crate::policy::order;

mod manual;

pub use manual::{completions, manual};

/// Read when no `--config` is given, if it exists.
pub const DEFAULT_CONFIG: &str = "/etc/presence-reaper/reaper.toml";

/// A checked command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cli {
    /// What to do.
    pub task: Task,
    /// The file that `--config` names. It must exist; [`DEFAULT_CONFIG`], which stands in for none, need not.
    pub config: Option<PathBuf>,
    /// The settings given by flags.
    pub flags: config::Flags,
    /// When to use colour.
    pub color: Color,
}

/// What the program was asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Be the daemon.
    Run {
        /// All metrics, no writes.
        dry_run: bool,
        /// Hide ids in log and `/status`.
        redact: bool,
    },
    /// Look once, write nothing, report.
    Audit {
        /// How to report.
        report: Report,
        /// Exit 10 when more than this many entries are stale.
        fail_on_stale: Option<u64>,
    },
    /// Look twice, evict what stood still, report.
    Once {
        /// The guards lifted for this run.
        release: Release,
        /// Evict at most this many entries.
        max: Option<u64>,
        /// How to report.
        report: Report,
        /// Exit 10 when more than this many entries are stale.
        fail_on_stale: Option<u64>,
    },
    /// Give an order to the daemons.
    Order(order::Command),
    /// Say what is ordered, and how the daemons stand.
    Status {
        /// How to report.
        output: Output,
    },
    /// Check the configuration.
    Check {
        /// How to report.
        output: Output,
    },
    /// Try the configuration on its server, writing nothing.
    Connect {
        /// As if nothing were to be evicted.
        dry_run: bool,
        /// How long to look for pings.
        sample_for: Option<Duration>,
        /// Hide ids and values.
        redact: bool,
    },
    /// Print the ACL line that the configuration needs.
    Acl {
        /// For a user that evicts nothing.
        dry_run: bool,
        /// Which server it is for.
        server: AclServer,
    },
    /// Show it all on a private server.
    Demo {
        /// How many clients to simulate; at least 30.
        clients: u32,
        /// The server's program; found on the path if none.
        redis_server: Option<PathBuf>,
        /// Go on when the story is told, with the endpoints.
        serve: bool,
    },
    /// Print a script that completes the command line.
    Completions {
        /// For this shell.
        shell: Shell,
    },
    /// Print the manual page.
    Man,
}

/// What a single run reports, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The form.
    pub output: Output,
    /// List live entries too.
    pub all: bool,
    /// List at most so many of the stale and of the live; a number that suits the form if none.
    pub limit: Option<usize>,
    /// Hide ids.
    pub redact: bool,
    /// Write the numbers into this file, too, for the textfile collector of node_exporter.
    pub metrics_file: Option<PathBuf>,
}

/// The form of a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For a person.
    #[default]
    Text,
    /// One JSON document.
    Json,
    /// A JSON object a line: each entry as it is read, and a summary at the end.
    Ndjson,
}

/// When colour is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Whatever is written to.
    Always,
    /// Not at all.
    Never,
}

impl Color {
    /// Whether a stream gets colour: one that is a terminal, or not, with `NO_COLOR` set to something, or not.
    pub fn is_wanted(self, terminal: bool, no_color: bool) -> bool {
        match self {
            Self::Auto => terminal && !no_color,
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// The server that an ACL line is for: their grammars differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AclServer {
    /// The one of the configuration, which is asked.
    Ask,
    /// Any of this age.
    Since(AclVersion),
}

/// The versions in which the grammar of ACLs changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AclVersion {
    /// Redis 6.0.
    #[value(name = "6.0")]
    V6,
    /// Redis 6.2.
    #[value(name = "6.2")]
    V6_2,
    /// Redis 7.0 and later, and Valkey.
    #[value(name = "7.0")]
    V7,
}

/// The guards that `--release` lifts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Release {
    /// Evict although nobody pings.
    pub silent: bool,
    /// Evict although most of those recently alive are late.
    pub mass: bool,
}

/// Evicts stale presence entries from Redis.
#[derive(Parser)]
#[command(name = "presence-reaper", bin_name = "presence-reaper", version)]
#[command(after_help = AFTER_HELP, disable_help_subcommand = true)]
struct Args {
    #[command(flatten)]
    one_shot: OneShotArgs,
    #[command(flatten)]
    settings: SettingArgs,
    /// auto, always or never; auto is on a terminal, unless NO_COLOR is set [default: auto]
    #[arg(long, value_name = "WHEN", global = true, hide_possible_values = true)]
    color: Option<Color>,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What makes the program do one thing and exit.
#[derive(clap::Args)]
struct OneShotArgs {
    /// Look once, report, write nothing
    #[arg(long)]
    dry_run: bool,
    /// Look twice, evict what did not ping in between, report, exit; weaker than the daemon, which watches all the time: an
    /// entry judged by a missing key goes in the first run that comes a threshold after another
    #[arg(long)]
    once: bool,
    /// Guards to lift for this one run, with --once: silent, mass or silent,mass
    #[arg(long, value_name = "GUARD", value_delimiter = ',', hide_possible_values = true)]
    release: Vec<Guard>,
    /// Evict at most N entries, with --once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max: Option<u64>,
    /// Form of the report: text, json or ndjson (each entry a line, as it is read) [default: text]
    #[arg(short, long, value_name = "FORM", help_heading = "Report", hide_possible_values = true)]
    output: Option<Output>,
    /// List live entries too, with their last pings
    #[arg(long, help_heading = "Report")]
    all: bool,
    /// List at most N stale and N live entries [default: the 100 oldest; with ndjson all]
    #[arg(long, value_name = "N", help_heading = "Report")]
    limit: Option<usize>,
    /// Show a keyed hash in place of each id, in report and log; it can't be reversed, and differs in every run
    #[arg(long, help_heading = "Report")]
    redact: bool,
    /// Exit 10 when more than N entries are stale, with --dry-run or --once [default N: 0]
    #[arg(long, value_name = "N", help_heading = "Report", num_args = 0..=1, require_equals = true, default_missing_value = "0")]
    fail_on_stale: Option<u64>,
    /// Write the numbers of the run into FILE, too, for node_exporter's textfile collector, with --dry-run or --once
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    metrics_file: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Guard {
    Silent,
    Mass,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon (the default)
    Run {
        /// Shadow mode: all metrics and logs, no writes
        #[arg(long)]
        dry_run: bool,
        /// Show a keyed hash in place of each id, in log and /status
        #[arg(long)]
        redact: bool,
        #[command(flatten)]
        settings: SettingArgs,
    },
    /// Check the configuration; without Redis, unless --connect is given
    Check {
        /// Try the configuration on its server: version, rights, a sample of each source; nothing is written
        #[arg(long)]
        connect: bool,
        /// Print the ACL SETUSER line that the configuration needs, for a server from VERSION on: 6.0, 6.2 or 7.0 (also
        /// for Valkey); with --connect for the server that is there [default: 7.0]
        #[arg(long, value_name = "VERSION", num_args = 0..=1, require_equals = true, hide_possible_values = true)]
        acl: Option<Option<AclVersion>>,
        /// With --connect or --acl: for a user that may only read
        #[arg(long)]
        dry_run: bool,
        /// With --connect: show a keyed hash in place of each id, and no values
        #[arg(long)]
        redact: bool,
        /// With --connect: how long to look for pings [default: two heartbeats, but at most 5s]
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
        sample_for: Option<Duration>,
        /// Form of the report: text or json [default: text]
        #[arg(short, long, value_name = "FORM", hide_possible_values = true)]
        output: Option<Output>,
        #[command(flatten)]
        settings: SettingArgs,
    },
    /// Stop evicting, everywhere or from these sources, until `resume` or until the time is over
    Hold {
        /// The sources; all, if none is named
        #[arg(value_name = "SOURCE")]
        names: Vec<String>,
        /// For how long, at most 24h [default: 1h]
        #[arg(long = "for", value_name = "DURATION", value_parser = order_duration)]
        lasts: Option<Duration>,
        /// Why; shown in the log and by `status`
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        #[command(flatten)]
        settings: SettingArgs,
    },
    /// Take back what `hold` ordered: evicting goes on
    Resume {
        /// The sources; all, if none is named
        #[arg(value_name = "SOURCE")]
        names: Vec<String>,
        #[command(flatten)]
        settings: SettingArgs,
    },
    /// Let a source that holds as silent or mass evict up to N entries; every other condition stays
    Release {
        /// The source
        #[arg(value_name = "SOURCE")]
        name: String,
        /// How many entries at most
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        max: u64,
        /// For how long, at most 24h [default: 10m]
        #[arg(long = "for", value_name = "DURATION", value_parser = order_duration)]
        lasts: Option<Duration>,
        /// Why; shown by `status`
        #[arg(long, value_name = "TEXT")]
        reason: String,
        #[command(flatten)]
        settings: SettingArgs,
    },
    /// Show what is ordered, who leads, and how each source stands with every reaper
    Status {
        /// Form of the report: text or json [default: text]
        #[arg(short, long, value_name = "FORM", hide_possible_values = true)]
        output: Option<Output>,
        #[command(flatten)]
        settings: SettingArgs,
    },
    /// See the reaper work on a private redis-server with simulated clients
    Demo {
        /// Clients to simulate
        #[arg(long, value_name = "N", default_value_t = 1000)]
        #[arg(value_parser = clap::value_parser!(u32).range(30..=100_000))]
        clients: u32,
        /// The redis-server to start [default: the one on the path]
        #[arg(long, value_name = "PATH")]
        redis_server: Option<PathBuf>,
        /// Go on after the story until Ctrl-C, with the endpoints on 127.0.0.1:19121, or another port if that is taken
        #[arg(long)]
        serve: bool,
    },
    /// Print a completion script for bash, elvish, fish, powershell or zsh
    Completions {
        /// The shell
        #[arg(value_name = "SHELL", hide_possible_values = true)]
        shell: Shell,
    },
    /// Print the manual page, for `man -l` or a file
    Man,
}

/// The flags that stand for settings; they may be given before or behind the subcommand.
#[derive(clap::Args)]
struct SettingArgs {
    /// The configuration file [env: PRESENCE_REAPER_CONFIG] [default: /etc/presence-reaper/reaper.toml, if it exists]
    #[arg(short, long, value_name = "FILE", help_heading = "Settings")]
    config: Option<PathBuf>,
    /// Only this source of the configuration; repeatable
    #[arg(long, value_name = "NAME", help_heading = "Settings")]
    source: Vec<String>,
    /// redis://[user@]host[:port][/db], rediss:// for TLS, or unix:///path[?db=N]; without a password
    /// [env: PRESENCE_REAPER_REDIS__URL]
    #[arg(long, value_name = "URL", help_heading = "Settings")]
    redis_url: Option<String>,
    /// ACL user [env: PRESENCE_REAPER_REDIS__USERNAME]
    #[arg(long, value_name = "NAME", help_heading = "Settings")]
    redis_username: Option<String>,
    /// File with the password, read at every connect [env: PRESENCE_REAPER_REDIS__PASSWORD_FILE]
    #[arg(long, value_name = "FILE", help_heading = "Settings")]
    redis_password_file: Option<String>,
    /// CAs of rediss://, else the system's [env: PRESENCE_REAPER_REDIS__CA_FILE]
    #[arg(long, value_name = "FILE", help_heading = "Settings")]
    redis_tls_ca_file: Option<String>,
    /// Client certificate, read at every connect [env: PRESENCE_REAPER_REDIS__CERT_FILE]
    #[arg(long, value_name = "FILE", help_heading = "Settings")]
    redis_tls_cert_file: Option<String>,
    /// Its private key [env: PRESENCE_REAPER_REDIS__KEY_FILE]
    #[arg(long, value_name = "FILE", help_heading = "Settings")]
    redis_tls_key_file: Option<String>,
    /// Name in the server's certificate, else the host [env: PRESENCE_REAPER_REDIS__SERVER_NAME]
    #[arg(long, value_name = "NAME", help_heading = "Settings")]
    redis_tls_server_name: Option<String>,
    /// Address of the endpoints, repeatable; or "off" [env: PRESENCE_REAPER_SERVER__LISTEN]
    #[arg(long, value_name = "ADDR", help_heading = "Settings")]
    listen: Vec<String>,
    /// error, warn, info, debug or trace [env: PRESENCE_REAPER_LOG__LEVEL]
    #[arg(long, value_name = "LEVEL", help_heading = "Settings")]
    log_level: Option<String>,
    /// auto, text, json or journald [env: PRESENCE_REAPER_LOG__FORMAT]
    #[arg(long, value_name = "FORM", help_heading = "Settings")]
    log_format: Option<String>,
    /// Record each eviction in FILE, one JSON line each [env: PRESENCE_REAPER_AUDIT__FILE]
    #[arg(long, value_name = "FILE", help_heading = "Settings")]
    audit_file: Option<String>,
    /// Record each eviction in this stream [env: PRESENCE_REAPER_AUDIT__STREAM]
    #[arg(long, value_name = "KEY", help_heading = "Settings")]
    audit_stream: Option<String>,

    /// Entries are the members of this sorted set, or of all that match, as in "room:{room}:seen"
    #[arg(long, value_name = "KEY", help_heading = "One source without a file")]
    zset: Option<String>,
    /// Entries are the fields of this hash, or of all that match
    #[arg(long, value_name = "KEY", help_heading = "One source without a file")]
    hash: Option<String>,
    /// Entries are the members of this set, or of all that match; --last-ping says where their times stand
    #[arg(long, value_name = "KEY", help_heading = "One source without a file")]
    set: Option<String>,
    /// Entries are the keys that match, as in "conn:{id}"
    #[arg(long, value_name = "PATTERN", help_heading = "One source without a file")]
    keys: Option<String>,
    /// score, value, "json /pointer", "field NAME", unchanged, idle, or elsewhere "get KEY", "hget KEY FIELD", "zscore KEY
    /// MEMBER", "exists KEY"; the newest, if repeated
    #[arg(long, value_name = "VALUE", help_heading = "One source without a file")]
    last_ping: Vec<String>,
    /// What goes with an entry, as in "SREM users {id}"; repeatable
    #[arg(long, value_name = "ACTION", help_heading = "One source without a file")]
    companion: Vec<String>,
    /// Age from which an entry is stale [default: 5m]
    #[arg(long, value_name = "DURATION", help_heading = "One source without a file")]
    threshold: Option<String>,
    /// How often the hub pings [default: threshold / 10]
    #[arg(long, value_name = "DURATION", help_heading = "One source without a file")]
    heartbeat_interval: Option<String>,
    /// auto, unix-s, unix-ms, unix-us, unix-ns, dotnet-ticks or iso-8601 [default: auto]
    #[arg(long, value_name = "FORMAT", help_heading = "One source without a file")]
    format: Option<String>,
    /// IANA name, as in Europe/Berlin, of the zone of iso-8601 times without an offset [default: UTC]
    #[arg(long, value_name = "ZONE", help_heading = "One source without a file")]
    time_zone: Option<String>,
    /// The hub stores last ping + DURATION
    #[arg(long, value_name = "DURATION", help_heading = "One source without a file")]
    deadline: Option<String>,
    /// skip or stale: what an entry is when the key that --last-ping looks up elsewhere is gone [default: skip]
    #[arg(long, value_name = "WHAT", help_heading = "One source without a file")]
    missing: Option<String>,
    /// Number of the database [default: that of the URL]
    #[arg(long, value_name = "N", help_heading = "One source without a file")]
    db: Option<String>,
}

const AFTER_HELP: &str = "\
Examples:
  presence-reaper --dry-run --zset presence:online
      what is stale in a sorted set of last pings; nothing is written
  presence-reaper run --dry-run --config reaper.toml
      the daemon in shadow, to be watched by its metrics before it may evict

Exit codes (treat others as failures):
  0   done; also an audit that found stale entries
  1   failed
  2   wrong command line
  10  --fail-on-stale, and more were stale
  11  a guard held something back, or another reaper leads (--once)
  12  incomplete: a source was not seen, or a reaper did not answer
  78  wrong configuration

A flag outranks its variable, and a variable the file. A password is never a flag:
name a file by --redis-password-file, or set PRESENCE_REAPER_REDIS__PASSWORD.";

// === impl Cli ===

impl Cli {
    /// Reads a command line, the program's name first. The error is a usage error, or the help that was asked for: it
    /// knows its text, stream and exit code.
    pub fn parse(line: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        Self::check(Args::try_parse_from(line)?)
            .map_err(|sentence| Args::command().error(ErrorKind::ArgumentConflict, sentence))
    }

    /// What the configuration is made of.
    pub fn inputs(&self, file: Option<config::File>, environment: Vec<(OsString, OsString)>) -> config::Inputs {
        config::Inputs { file, environment, credential: None, flags: self.flags.clone() }
    }

    fn check(args: Args) -> Result<Self, String> {
        let Args { one_shot, settings, color, command } = args;
        let mut given = settings.given();
        let task = match command {
            None => one_shot.task()?,
            Some(Command::Run { dry_run, redact, settings }) => {
                one_shot.refuse_beside("run")?;
                if one_shot.output.is_some() {
                    return Err(NO_REPORT.to_owned());
                }
                given.append(settings.given())?;
                Task::Run { dry_run, redact: redact || one_shot.redact }
            }
            Some(Command::Check { connect, acl, dry_run, redact, sample_for, output, settings }) => {
                one_shot.refuse_beside("check")?;
                given.append(settings.given())?;
                let redact = redact || one_shot.redact;
                check_task(connect, acl, dry_run, redact, sample_for, output.or(one_shot.output))?
            }
            Some(Command::Hold { names: sources, lasts, reason, settings }) => {
                let command = order::Command::Hold { sources, lasts: lasts.unwrap_or(order::HELD_FOR), reason };
                order(one_shot, "hold", &mut given, settings, command)?
            }
            Some(Command::Resume { names: sources, settings }) => {
                order(one_shot, "resume", &mut given, settings, order::Command::Resume { sources })?
            }
            Some(Command::Release { name: source, max, lasts, reason, settings }) => {
                let lasts = lasts.unwrap_or(order::RELEASED_FOR);
                let command = order::Command::Release { source, max, lasts, reason };
                order(one_shot, "release", &mut given, settings, command)?
            }
            Some(Command::Status { output, settings }) => {
                one_shot.refuse_beside("status")?;
                given.append(settings.given())?;
                match output.or(one_shot.output).unwrap_or_default() {
                    Output::Ndjson => return Err("status writes one answer: text or json".to_owned()),
                    output => Task::Status { output },
                }
            }
            Some(Command::Demo { clients, redis_server, serve }) => {
                one_shot.refuse_beside("demo")?;
                if one_shot.output.is_some() || !given.is_empty() {
                    return Err("demo runs on a private server and takes no settings but its own".to_owned());
                }
                Task::Demo { clients, redis_server, serve }
            }
            Some(Command::Completions { shell }) => {
                one_shot.refuse_beside("completions")?;
                given.refuse_beside("completions")?;
                Task::Completions { shell }
            }
            Some(Command::Man) => {
                one_shot.refuse_beside("man")?;
                given.refuse_beside("man")?;
                Task::Man
            }
        };
        given.check_source()?;
        let flags = config::Flags { settings: given.settings, sources: given.sources };
        Ok(Self { task, config: given.config, flags, color: color.unwrap_or_default() })
    }
}

/// An order, given with no more than settings.
fn order(
    one_shot: OneShotArgs,
    name: &str,
    given: &mut Given,
    settings: SettingArgs,
    command: order::Command,
) -> Result<Task, String> {
    one_shot.refuse_beside(name)?;
    if one_shot.output.is_some() {
        return Err(format!("{name} says what it did, and no more: leave --output out"));
    }
    given.append(settings.given())?;
    if !given.sources.is_empty() {
        // It would choose among the databases and leave the order to all sources of one.
        return Err(format!("{name} takes the names of sources as they are, as in `{name} hub`: leave --source out"));
    }
    Ok(Task::Order(command))
}

fn order_duration(text: &str) -> Result<Duration, String> {
    order::check_duration(humantime::parse_duration(text).map_err(|error| error.to_string())?)
}

/// What `check` was asked to do.
fn check_task(
    connect: bool,
    acl: Option<Option<AclVersion>>,
    dry_run: bool,
    redact: bool,
    sample_for: Option<Duration>,
    output: Option<Output>,
) -> Result<Task, String> {
    if sample_for.is_some() && (!connect || acl.is_some()) {
        return Err("--sample-for belongs to check --connect".to_owned());
    }
    if redact && (!connect || acl.is_some()) {
        return Err("with check, --redact belongs to --connect: nothing else shows an id".to_owned());
    }
    if output.is_some() && (connect || acl.is_some()) {
        return Err("--connect and --acl write text alone: leave --output out".to_owned());
    }
    match (acl, connect) {
        (Some(None), true) => Ok(Task::Acl { dry_run, server: AclServer::Ask }),
        (Some(version), false) => {
            Ok(Task::Acl { dry_run, server: AclServer::Since(version.unwrap_or(AclVersion::V7)) })
        }
        (Some(Some(_)), true) => {
            Err("with --connect the server is asked for its version: leave that of --acl out".to_owned())
        }
        (None, true) => Ok(Task::Connect { dry_run, sample_for, redact }),
        (None, false) if dry_run => Err("--dry-run behind check belongs to --connect or --acl".to_owned()),
        (None, false) if output == Some(Output::Ndjson) => Err("check writes one answer: text or json".to_owned()),
        (None, false) => Ok(Task::Check { output: output.unwrap_or_default() }),
    }
}

const NO_REPORT: &str = "the daemon writes no report: --output belongs to --dry-run, --once and check";

impl OneShotArgs {
    /// The task of a command line without a subcommand.
    fn task(self) -> Result<Task, String> {
        let unheeded = self.of_a_report().into_iter().find(|(_, given)| *given);
        let Self { output, all, limit, redact, fail_on_stale, metrics_file, .. } = self;
        let report = Report { output: output.unwrap_or_default(), all, limit, redact, metrics_file };
        if !self.once && self.max.is_some() {
            return Err("--max belongs to --once".to_owned());
        }
        if !self.once && !self.release.is_empty() {
            return Err("--release belongs to --once".to_owned());
        }
        match (self.dry_run, self.once) {
            (true, true) => Err("--dry-run only looks and --once evicts: give one of them".to_owned()),
            (true, false) => Ok(Task::Audit { report, fail_on_stale }),
            (false, true) => {
                let has = |guard| self.release.contains(&guard);
                let release = Release { silent: has(Guard::Silent), mass: has(Guard::Mass) };
                Ok(Task::Once { release, max: self.max, report, fail_on_stale })
            }
            (false, false) if output.is_some() => Err(NO_REPORT.to_owned()),
            (false, false) => match unheeded {
                Some((flag, _)) => Err(format!("{flag} belongs to --dry-run or --once")),
                None => Ok(Task::Run { dry_run: false, redact }),
            },
        }
    }

    /// What only a report can heed.
    fn of_a_report(&self) -> [(&'static str, bool); 4] {
        [
            ("--fail-on-stale", self.fail_on_stale.is_some()),
            ("--all", self.all),
            ("--limit", self.limit.is_some()),
            ("--metrics-file", self.metrics_file.is_some()),
        ]
    }

    /// A subcommand is a task of its own; what it heeds may stand before it.
    fn refuse_beside(&self, command: &str) -> Result<(), String> {
        if self.dry_run && command == "run" {
            return Err("write `run --dry-run` for the daemon in shadow, or `--dry-run` alone for one audit".to_owned());
        }
        let given = [
            ("--dry-run", self.dry_run),
            ("--once", self.once),
            ("--release", !self.release.is_empty()),
            ("--max", self.max.is_some()),
            ("--redact", self.redact && !matches!(command, "run" | "check")),
        ];
        match given.into_iter().chain(self.of_a_report()).find(|(_, given)| *given) {
            Some((flag, _)) => Err(format!("{flag} does not go with `{command}`: leave one of the two out")),
            None => Ok(()),
        }
    }
}

// === settings ===

/// The settings of one place of the command line.
struct Given {
    config: Option<PathBuf>,
    sources: Vec<String>,
    settings: Vec<Setting>,
}

impl SettingArgs {
    fn given(self) -> Given {
        let mut given = Given { config: self.config, sources: self.source, settings: Vec::new() };
        let once = [
            ("--redis-url", "redis", "url", self.redis_url),
            ("--redis-username", "redis", "username", self.redis_username),
            ("--redis-password-file", "redis", "password_file", self.redis_password_file),
            ("--redis-tls-ca-file", "redis", "ca_file", self.redis_tls_ca_file),
            ("--redis-tls-cert-file", "redis", "cert_file", self.redis_tls_cert_file),
            ("--redis-tls-key-file", "redis", "key_file", self.redis_tls_key_file),
            ("--redis-tls-server-name", "redis", "server_name", self.redis_tls_server_name),
            ("--db", "redis", "db", self.db),
            ("--log-level", "log", "level", self.log_level),
            ("--log-format", "log", "format", self.log_format),
            ("--audit-file", "audit", "file", self.audit_file),
            ("--audit-stream", "audit", "stream", self.audit_stream),
            ("--zset", "source", "zset", self.zset),
            ("--hash", "source", "hash", self.hash),
            ("--set", "source", "set", self.set),
            ("--keys", "source", "keys", self.keys),
            ("--threshold", "source", "threshold", self.threshold),
            ("--heartbeat-interval", "source", "heartbeat_interval", self.heartbeat_interval),
            ("--format", "source", "format", self.format),
            ("--time-zone", "source", "time_zone", self.time_zone),
            ("--deadline", "source", "deadline", self.deadline),
            ("--missing", "source", "missing", self.missing),
        ];
        for (flag, table, key, value) in once {
            if let Some(value) = value {
                given.settings.push(Setting { flag, table, key, value: FlagValue::One(value) });
            }
        }
        let repeatable = [
            ("--listen", "server", "listen", self.listen),
            ("--last-ping", "source", "last_ping", self.last_ping),
            ("--companion", "source", "companions", self.companion),
        ];
        for (flag, table, key, values) in repeatable {
            if !values.is_empty() {
                given.settings.push(Setting { flag, table, key, value: FlagValue::Many(values) });
            }
        }
        given
    }
}

impl Given {
    fn is_empty(&self) -> bool {
        self.config.is_none() && self.sources.is_empty() && self.settings.is_empty()
    }

    /// What prints a text of ours heeds no settings.
    fn refuse_beside(&self, command: &str) -> Result<(), String> {
        if self.is_empty() { Ok(()) } else { Err(format!("{command} takes no settings: leave them out")) }
    }

    /// Adds what stands behind the subcommand; nothing may be given on both sides, for one of them would be lost.
    fn append(&mut self, behind: Self) -> Result<(), String> {
        let twice = |flag: &str| format!("{flag} is given before the command and behind it");
        if self.config.is_some() && behind.config.is_some() {
            return Err(twice("--config"));
        }
        self.config = self.config.take().or(behind.config);
        self.sources.extend(behind.sources);
        for setting in behind.settings {
            if self.settings.iter().any(|before| before.flag == setting.flag) {
                return Err(twice(setting.flag));
            }
            self.settings.push(setting);
        }
        Ok(())
    }

    /// A source by flags is whole, single, and stands beside no explicit file.
    fn check_source(&self) -> Result<(), String> {
        let is_container = |flag: &str| matches!(flag, "--zset" | "--hash" | "--set" | "--keys");
        let of_source = |setting: &&Setting| setting.table == "source" || setting.flag == "--db";
        let Some(first) = self.settings.iter().find(of_source) else { return Ok(()) };
        let containers: Vec<&str> = self.settings.iter().map(|s| s.flag).filter(|flag| is_container(flag)).collect();
        match containers.as_slice() {
            _ if self.config.is_some() => {
                Err(format!("{} describes a source, and with --config the sources stand in the file", first.flag))
            }
            [] => Err(format!(
                "{} describes a source: say where its entries are with --zset, --hash, --set or --keys",
                first.flag
            )),
            [_] => Ok(()),
            [one, other, ..] => Err(format!("{one} and {other} are two sources, and flags describe one: write a file")),
        }
    }
}

#[cfg(test)]
mod tests;
