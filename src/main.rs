//! The program: parse, build, wait for a signal, exit code. The only place that prints an error and ends the process.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use presence_reaper::assemble::{self, Assembly, Run};
use presence_reaper::audit::Audit;
use presence_reaper::cli::{self, AclServer, AclVersion, Cli, DEFAULT_CONFIG, Output, Release, Report, Task};
use presence_reaper::clock::Clock;
use presence_reaper::config::{self, Config};
use presence_reaper::inspect::{self, Aim};
use presence_reaper::metrics::{self, Single};
use presence_reaper::output::{self, Replacement, StatusLine, Written};
use presence_reaper::policy::duration::in_words;
use presence_reaper::policy::guard::Lifted;
use presence_reaper::policy::order::{Brake, Command};
use presence_reaper::policy::survey::{LISTED, Order, Wanted};
use presence_reaper::reaper::{Finding, Mode, StandingOrders};
use presence_reaper::service::{Reloading, Service};
use presence_reaper::store::audience::{Ask, Audience, Count, Page};
use presence_reaper::store::instances::host_name;
use presence_reaper::store::rights::Generation;
use presence_reaper::text::{Paint, Redaction};
use presence_reaper::{check, demo, logging, oneshot, operator, report};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Level;

/// How the process ends. The numbers are a contract; an unknown one is a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    /// Done; also an audit that found stale entries, and a stop by signal.
    Done = 0,
    /// Failed: Redis, a socket, a file.
    Failed = 1,
    /// The command line names what there is not.
    Usage = 2,
    /// `--fail-on-stale`, and more were stale.
    Stale = 10,
    /// A guard held something back from `--once`.
    Held = 11,
    /// A source was not seen, or a reaper did not answer.
    Incomplete = 12,
    /// The configuration is wrong.
    Config = 78,
}

fn main() -> ExitCode {
    let cli = match Cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print(); // a closed pipe ends quietly
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&error);
            return ExitCode::from(Exit::Failed as u8);
        }
    };
    let exit = runtime.block_on(perform(cli));
    runtime.shutdown_timeout(Duration::from_secs(1));
    ExitCode::from(exit as u8)
}

async fn perform(cli: Cli) -> Exit {
    match cli.task {
        Task::Demo { clients, redis_server, serve } => {
            return show(demo::Settings { clients, redis_server, serve }).await;
        }
        Task::Completions { shell } => return print(|out| out.write_all(&cli::completions(shell))),
        Task::Man => return print(|out| out.write_all(&cli::manual()?)),
        _ => {}
    }
    let (config, manner) = match configure(&cli).and_then(|config| Ok((config, Manner::of(&cli)?))) {
        Ok(both) => both,
        Err(exit) => return exit,
    };
    match cli.task {
        Task::Check { output } => checked(&config, output),
        Task::Connect { dry_run, sample_for, .. } => {
            connected(&config, Aim { evicts: !dry_run, sample_for, redaction: manner.redaction.clone() }, &manner).await
        }
        Task::Order(command) => ordered(&config, &command, &manner).await,
        Task::Status { output } => status(&config, output, &manner).await,
        Task::Acl { dry_run, server } => acl(&config, !dry_run, server).await,
        Task::Run { dry_run, .. } => serve(cli, config, if dry_run { Mode::DryRun } else { Mode::Evict }, manner).await,
        Task::Audit { report, fail_on_stale } => audit(&config, report, fail_on_stale, manner).await,
        Task::Once { release, max, report, fail_on_stale } => {
            once(&config, release, max, report, fail_on_stale, manner).await
        }
        Task::Demo { .. } | Task::Completions { .. } | Task::Man => Exit::Done,
    }
}

fn configure(cli: &Cli) -> Result<Config, Exit> {
    read_configuration(cli).map_err(|mistakes| {
        complain(&mistakes.join("\n"));
        Exit::Config
    })
}

/// The configuration as it is written now, or a text for each mistake in it.
fn read_configuration(cli: &Cli) -> Result<Config, Vec<String>> {
    let environment: Vec<_> = std::env::vars_os().collect();
    let named = cli.config.clone().or_else(|| config::file_of(&environment));
    let path = named.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG));
    let file = match std::fs::read_to_string(path) {
        Ok(text) => Some(config::File { name: path.display().to_string(), text }),
        Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            let hint = match error.kind() {
                io::ErrorKind::PermissionDenied => "\n  hint: whoever runs presence-reaper has to be able to read it",
                io::ErrorKind::NotFound => "\n  hint: name it by --config or PRESENCE_REAPER_CONFIG",
                _ => "",
            };
            return Err(vec![format!("can't read the configuration file {}: {error}{hint}", path.display())]);
        }
    };
    let credential = config::credential_of(&environment).filter(|path| path.exists());
    let inputs = config::Inputs { credential, ..cli.inputs(file, environment) };
    config::load(inputs).map_err(|problems| problems.0.iter().map(ToString::to_string).collect())
}

/// How a run speaks: which streams get colour, and what hides ids.
struct Manner {
    stdout_colors: bool,
    stderr_colors: bool,
    redaction: Option<Arc<Redaction>>,
}

impl Manner {
    fn of(cli: &Cli) -> Result<Self, Exit> {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colors = |terminal| cli.color.is_wanted(terminal, no_color);
        let redact = match cli.task {
            Task::Run { redact, .. } | Task::Connect { redact, .. } => redact,
            Task::Audit { ref report, .. } | Task::Once { ref report, .. } => report.redact,
            _ => false,
        };
        let redaction = redact.then(Redaction::random).transpose().map_err(|error| {
            complain(&format!("no random key for --redact: {error}"));
            Exit::Failed
        })?;
        Ok(Self {
            stdout_colors: colors(io::stdout().is_terminal()),
            stderr_colors: colors(io::stderr().is_terminal()),
            redaction: redaction.map(Arc::new),
        })
    }
}

// === the daemon ===

async fn serve(cli: Cli, config: Config, mode: Mode, manner: Manner) -> Exit {
    // Before anything else: one who asks for a reload too early must not end us.
    let asked = match signal(SignalKind::hangup()) {
        Ok(asked) => asked,
        Err(error) => {
            complain(&format!("no signal can be waited for: {error}"));
            return Exit::Failed;
        }
    };
    let log = match logging::init(&config.log, manner.stderr_colors) {
        Ok(log) => log,
        Err(error) => {
            complain(&error);
            return Exit::Failed;
        }
    };
    let stop = stop_on_signal();
    let clock = Clock::start();
    let audit = match open_audit(&config, mode) {
        Ok(audit) => audit,
        Err(exit) => return exit,
    };
    let hides = manner.redaction.is_some();
    let run = Run { redaction: manner.redaction, audit: audit.clone(), ..Run::unlimited(mode) };
    brake_on_signal(Arc::clone(&run.orders), clock);
    reopen_on_signal(audit.clone());
    let assembly = Assembly::of(&config, &run, clock);
    let reloading = Reloading { asked, read: Box::new(move || read_configuration(&cli)), run, log };
    let service = match Service::bind(&config, assembly, clock).await {
        Ok(service) => service.reloading(reloading),
        Err(error) => {
            complain(&error);
            return Exit::Failed;
        }
    };
    service.run(stop).await;
    // What could not be recorded the log was told, and no exit code brings it back.
    let _ = close(audit, hides).await;
    Exit::Done
}

// === the audit record ===

/// How long a process that ends waits for the audit file.
const AUDIT_PATIENCE: Duration = Duration::from_secs(5);

/// Opens the audit file, where evictions are recorded in one and there can be any.
fn open_audit(config: &Config, mode: Mode) -> Result<Audit, Exit> {
    let evicts = mode == Mode::Evict && config.sources.iter().any(|source| !source.dry_run);
    let Some(path) = config.audit.file.as_deref().filter(|_| evicts) else { return Ok(Audit::default()) };
    Audit::open(path).map_err(|error| {
        let path = path.display();
        complain(&format!(
            "`file` of [audit]: {path}: {error}\n  hint: its directory must exist, and the user we run as must be able \
             to append to it; without a record nothing is evicted"
        ));
        Exit::Config
    })
}

/// Opens the audit file anew at each SIGHUP, for what rotates logs.
fn reopen_on_signal(audit: Audit) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    tokio::spawn(async move {
        // bound: every turn waits for a signal
        while hangup.recv().await.is_some() {
            audit.reopen();
        }
    });
}

/// Waits until everything is recorded; says how many lines are not.
async fn close(audit: Audit, hides: bool) -> u64 {
    tokio::task::spawn_blocking(move || audit.close(AUDIT_PATIENCE, hides)).await.unwrap_or_default()
}

/// Cancelled by the first SIGTERM or SIGINT; a second one ends the process at once.
fn stop_on_signal() -> CancellationToken {
    let stop = CancellationToken::new();
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return stop;
    };
    let token = stop.clone();
    tokio::spawn(async move {
        // bound: the second signal ends the process
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if token.is_cancelled() {
                std::process::exit(Exit::Failed as i32);
            }
            token.cancel();
        }
    });
    stop
}

/// SIGUSR1 pulls the brake of this process alone, SIGUSR2 lets go of it; neither needs Redis.
fn brake_on_signal(orders: Arc<StandingOrders>, clock: Clock) {
    let (Ok(mut pull), Ok(mut let_go)) = (signal(SignalKind::user_defined1()), signal(SignalKind::user_defined2()))
    else {
        return;
    };
    tokio::spawn(async move {
        // bound: every turn waits for a signal
        loop {
            let brake = tokio::select! {
                _ = pull.recv() => Some(Brake::by_signal(clock.now())),
                _ = let_go.recv() => None,
            };
            orders.brake(brake).await;
        }
    });
}

// === single runs ===

async fn audit(config: &Config, report: Report, fail_on_stale: Option<u64>, manner: Manner) -> Exit {
    if let Err(exit) = begin_single_run(config, &report, &manner) {
        return exit;
    }
    let stop = stop_on_signal();
    let clock = Clock::start();
    let run = Run { redaction: manner.redaction, ..Run::unlimited(Mode::DryRun) };
    let Assembly { links: _links, reapers } = Assembly::of(config, &run, clock);
    // Nobody reads on; only the exit code may still be waited for.
    let enough = if fail_on_stale.is_none() { stop.clone() } else { CancellationToken::new() };
    let telling = Telling::begin(report, clock, enough);
    let findings = oneshot::audit(reapers, telling.ask.clone(), stop).await;
    conclude(true, &findings, telling, fail_on_stale, manner.stdout_colors).await
}

async fn once(
    config: &Config,
    release: Release,
    max: Option<u64>,
    report: Report,
    fail_on_stale: Option<u64>,
    manner: Manner,
) -> Exit {
    if let Err(exit) = begin_single_run(config, &report, &manner) {
        return exit;
    }
    let stop = stop_on_signal();
    let clock = Clock::start();
    let lifted = Lifted { silent: release.silent, mass: release.mass };
    let audit = match open_audit(config, Mode::Evict) {
        Ok(audit) => audit,
        Err(exit) => return exit,
    };
    let hides = manner.redaction.is_some();
    let run = Run { lifted, max, redaction: manner.redaction, audit: audit.clone(), ..Run::unlimited(Mode::Evict) };
    brake_on_signal(Arc::clone(&run.orders), clock);
    reopen_on_signal(audit.clone());
    let Assembly { links: _links, reapers } = Assembly::of(config, &run, clock);
    // A reader who leaves does not call off what was asked for.
    let telling = Telling::begin(report, clock, CancellationToken::new());
    let waiting = tell_waiting(Arc::clone(&telling.line));
    let findings = oneshot::once(reapers, telling.ask.clone(), clock, stop, waiting).await;
    for finding in findings.iter().filter(|finding| finding.undelivered > 0) {
        let (count, source) = (finding.undelivered, &finding.source);
        warn(&format!("{count} events of source {source} were not delivered to its webhook"));
    }
    let unrecorded = close(audit, hides).await;
    if unrecorded > 0 {
        complain(&format!("{unrecorded} evictions are not in the audit file"));
    }
    match conclude(false, &findings, telling, fail_on_stale, manner.stdout_colors).await {
        _ if unrecorded > 0 => Exit::Failed,
        Exit::Done | Exit::Stale if findings.iter().any(Finding::is_held) => Exit::Held,
        exit => exit,
    }
}

/// A single run has a report; the log speaks only of what the report can't say, unless it was asked to say more.
/// Whether it can leave its numbers where it is to leave them shows now, before anything is evicted.
fn begin_single_run(config: &Config, report: &Report, manner: &Manner) -> Result<(), Exit> {
    let level = if config.log.level > Level::INFO { config.log.level } else { Level::ERROR };
    if let Err(error) = logging::init(&logging::Settings { level, ..config.log.clone() }, manner.stderr_colors) {
        complain(&error);
    }
    config.warnings.iter().for_each(|warning| warn(warning));
    report
        .metrics_file
        .iter()
        .try_for_each(|path| Replacement::begin(path).map(drop).map_err(|error| no_file(path, &error)))
}

fn no_file(path: &Path, error: &dyn Display) -> Exit {
    complain(&format!("--metrics-file {}: {error}", path.display()));
    Exit::Failed
}

/// Leaves the numbers of a run for node_exporter.
fn leave_numbers(path: &Path, run: &report::Run<'_>) -> Result<(), Exit> {
    let kind = if run.dry_run { Single::Audit } else { Single::Once };
    let page = metrics::of_single_run(kind, run.findings, run.wall).map_err(|error| no_file(path, &error))?;
    Replacement::begin(path).and_then(|file| file.finish(&page)).map_err(|error| no_file(path, &error))
}

/// A single run while it speaks: what its report asks of the surveys, the lines that are written meanwhile, and what a
/// terminal is told of the progress.
struct Telling {
    report: Report,
    clock: Clock,
    ask: Ask,
    line: Arc<StatusLine>,
    lines: Option<JoinHandle<Written>>,
    _progress: Option<AbortOnDropHandle<()>>,
}

impl Telling {
    /// `enough` is cancelled when nobody reads the lines any more.
    fn begin(report: Report, clock: Clock, enough: CancellationToken) -> Self {
        let as_read = report.output == Output::Ndjson;
        let (order, limit) = if as_read { (Order::AsRead, usize::MAX) } else { (Order::OldestFirst, LISTED) };
        let limit = report.limit.unwrap_or(limit);
        let wanted = Wanted { candidates: true, live: report.all, limit, order };
        let (audience, lines) = if as_read {
            let (audience, pages) = Audience::listening();
            let write = move || output::write_as_it_comes(pages, write_page, || enough.cancel());
            (audience, Some(tokio::task::spawn_blocking(write)))
        } else {
            (Audience::default(), None)
        };
        let line = Arc::new(StatusLine::default());
        // Lines on the same terminal show by themselves that something goes on.
        let is_seen = StatusLine::is_seen() && !(as_read && io::stdout().is_terminal());
        let progress = is_seen
            .then(|| AbortOnDropHandle::new(tokio::spawn(tell_progress(Arc::clone(&line), audience.count(), clock))));
        Self { report, clock, ask: Ask { wanted, audience }, line, lines, _progress: progress }
    }

    /// No survey goes on any more: the last line is written, and how that went.
    async fn end(self) -> Written {
        let Self { ask, line, lines, _progress, .. } = self;
        drop((ask, _progress));
        line.clear();
        match lines {
            Some(lines) => lines.await.unwrap_or_else(|error| Written::Failed(io::Error::other(error))),
            None => Written::Whole,
        }
    }
}

fn write_page(page: Page, out: &mut dyn Write) -> io::Result<()> {
    page.entries.iter().try_for_each(|named| report::write_entry(&page.naming, named, out))
}

/// How long a survey may take before anybody wonders, and how often its progress is told then.
const PROGRESS_AFTER: Duration = Duration::from_secs(1);
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// Tells how much was read, as long as more and more is.
async fn tell_progress(line: Arc<StatusLine>, read: Count, clock: Clock) {
    let began = clock.now();
    let mut before = 0;
    // bound: it is dropped when the surveys have ended
    loop {
        tokio::time::sleep(PROGRESS_EVERY).await;
        let (so_far, took) = (read.get(), clock.now().since(began));
        if took >= PROGRESS_AFTER && so_far > before {
            let rate = so_far as f64 / took.as_secs_f64();
            line.show(&format!("surveying: {so_far} entries so far, {rate:.0}/s"));
        }
        before = so_far;
    }
}

/// Counts down on stderr: in place on a terminal, else one line a source.
fn tell_waiting(line: Arc<StatusLine>) -> oneshot::Waiting {
    let told = std::sync::Mutex::new(std::collections::HashSet::new());
    Arc::new(move |source: &str, watched: usize, left: Duration| {
        let first = told.lock().is_ok_and(|mut told| told.insert(source.to_owned()));
        let left = in_words(left.max(Duration::from_secs(1)));
        let text = format!("{source}: {watched} stale; looking again in {left}");
        if StatusLine::is_seen() {
            line.show(&text);
        } else if first {
            say(&text);
        }
    })
}

async fn conclude(
    dry_run: bool,
    findings: &[Finding],
    telling: Telling,
    fail_on_stale: Option<u64>,
    colors: bool,
) -> Exit {
    let (report, clock) = (telling.report.clone(), telling.clock);
    let run = report::Run { dry_run, wall: Clock::wall(), mono: clock.now(), all: report.all, findings };
    let written = match telling.end().await {
        Written::Whole => output::write_whole(|out| match report.output {
            Output::Text => report::write_text(&run, Paint { on: colors }, out),
            Output::Json => report::write_json(&run, out),
            Output::Ndjson => report::write_summary(&run, out),
        }),
        broken_off => broken_off,
    };
    let left = report.metrics_file.iter().try_for_each(|path| leave_numbers(path, &run));
    let failures = findings.iter().filter_map(|finding| finding.failure.as_ref());
    failures.clone().for_each(|error| complain(error));
    let complete = findings.iter().all(Finding::is_complete);
    let stale: u64 = findings.iter().map(Finding::stale).sum();
    let failed = failures.count();
    // An audit that ended because its reader left is done, whatever it did not come to.
    let seen_enough = dry_run && matches!(written, Written::ReaderLeft) && fail_on_stale.is_none() && failed == 0;
    if told(written) == Exit::Failed || left.is_err() || failed == findings.len() {
        Exit::Failed
    } else if !complete && !seen_enough {
        Exit::Incomplete
    } else if fail_on_stale.is_some_and(|allowed| stale > allowed) {
        Exit::Stale
    } else {
        Exit::Done
    }
}

fn checked(config: &Config, output: Output) -> Exit {
    config.warnings.iter().for_each(|warning| warn(warning));
    print(|out| match output {
        Output::Text => check::write_text(config, out),
        Output::Json | Output::Ndjson => check::write_json(config, out),
    })
}

async fn connected(config: &Config, aim: Aim, manner: &Manner) -> Exit {
    let offline = checked(config, Output::Text);
    if offline != Exit::Done {
        return offline;
    }
    say("connecting, then looking for pings");
    let evicts = aim.evicts;
    let inspection = match inspect::inspect(config, &aim, Clock::start()).await {
        Ok(inspection) => inspection,
        Err(error) => {
            complain(&error);
            return Exit::Failed;
        }
    };
    let line = check::acl_line(config, evicts, inspection.generation().unwrap_or(Generation::V7));
    let written = print(|out| inspect::write_text(&inspection, &line, Paint { on: manner.stdout_colors }, out));
    if written == Exit::Done && !inspection.works() { Exit::Failed } else { written }
}

async fn acl(config: &Config, evicts: bool, server: AclServer) -> Exit {
    config.warnings.iter().for_each(|warning| warn(warning));
    let generation = match server {
        AclServer::Since(AclVersion::V6) => Ok(Some(Generation::V6)),
        AclServer::Since(AclVersion::V6_2) => Ok(Some(Generation::V6_2)),
        AclServer::Since(AclVersion::V7) => Ok(Some(Generation::V7)),
        AclServer::Ask => inspect::generation(config, Clock::start()).await,
    };
    match generation {
        Ok(Some(generation)) => {
            say(&format!("for redis-cli: {}", check::PASSWORD_HINT));
            check::acl_user_hint(config).iter().for_each(|hint| say(hint));
            print(|out| writeln!(out, "{}", check::acl_line(config, evicts, generation)))
        }
        Ok(None) => {
            complain(&"the server does not tell its version: name it, as in --acl=7.0, and leave --connect out");
            Exit::Failed
        }
        Err(error) => {
            complain(&error);
            Exit::Failed
        }
    }
}

// === orders ===

/// Gives an order, and says who obeys.
async fn ordered(config: &Config, command: &Command, manner: &Manner) -> Exit {
    let known = |name: &&String| config.sources.iter().any(|source| *source.source.name == **name);
    if let Some(unknown) = command.sources().iter().find(|name| !known(name)) {
        let names: Vec<&str> = config.sources.iter().map(|source| &*source.source.name).collect();
        complain(&format!("no source is called {unknown}; there are: {}", names.join(", ")));
        return Exit::Usage;
    }
    let (_links, books) = assemble::order_books(config, Clock::start());
    match operator::give(&books, command, &operator_name()).await {
        Ok(given) => {
            let paint = Paint { on: manner.stdout_colors };
            match print(|out| operator::write_given(command, &given, paint, out)) {
                Exit::Done if !given.unanswered.is_empty() => Exit::Incomplete,
                exit => exit,
            }
        }
        Err(error) => {
            complain(&error);
            if matches!(command, Command::Hold { .. }) {
                say("a reaper can be held without Redis: send its process SIGUSR1");
            }
            Exit::Failed
        }
    }
}

/// Who gives an order, as far as that can be known.
fn operator_name() -> String {
    let user = ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    format!("{}@{}", user.unwrap_or_else(|| "somebody".into()), host_name())
}

async fn status(config: &Config, output: Output, manner: &Manner) -> Exit {
    let (_links, books) = assemble::order_books(config, Clock::start());
    match operator::view(&books).await {
        Ok(views) => print(|out| match output {
            Output::Text => operator::write_view(&views, Paint { on: manner.stdout_colors }, out),
            Output::Json | Output::Ndjson => operator::write_json(&views, out),
        }),
        Err(error) => {
            complain(&error);
            Exit::Failed
        }
    }
}

async fn show(settings: demo::Settings) -> Exit {
    let stop = stop_on_signal();
    let told = demo::run(settings, stop.clone(), |line| {
        if let Err(error) = writeln!(io::stdout(), "{line}") {
            // Whoever closed the pipe has seen enough, and what serves would go on for ever.
            stop.cancel();
            if error.kind() != io::ErrorKind::BrokenPipe {
                complain(&error);
            }
        }
    });
    match told.await {
        Ok(()) => Exit::Done,
        Err(error) => {
            complain(&error);
            Exit::Failed
        }
    }
}

// === speaking ===

/// Writes data to stdout.
fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Exit {
    told(output::write_whole(write))
}

/// Whoever closed the pipe has seen enough: that ends quietly.
fn told(written: Written) -> Exit {
    match written {
        Written::Whole | Written::ReaderLeft => Exit::Done,
        Written::Failed(error) => {
            complain(&format!("writing the report: {error}"));
            Exit::Failed
        }
    }
}

fn complain(error: &dyn Display) {
    speak(Level::ERROR, &format!("error: {error}"));
}

fn warn(warning: &dyn Display) {
    speak(Level::WARN, &format!("warning: {warning}"));
}

fn say(line: &str) {
    speak(Level::INFO, line);
}

/// Talk goes to stderr; if that is closed, nobody listens. The journal is told how much it matters.
fn speak(level: Level, text: &str) {
    let text = if logging::leads_to_journal() { logging::for_journal(level, text) } else { format!("{text}\n") };
    let _ = io::stderr().write_all(text.as_bytes());
}
