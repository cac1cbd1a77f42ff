//! The program: parse, build, wait for a signal, exit code. The only place that prints an error and ends the process.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use presence_reaper::assemble::{self, Run};
use presence_reaper::cli::{Cli, DEFAULT_CONFIG, Output, Release, Task};
use presence_reaper::clock::Clock;
use presence_reaper::config::{self, Config};
use presence_reaper::policy::duration::in_words;
use presence_reaper::policy::guard::Lifted;
use presence_reaper::reaper::{Finding, Mode};
use presence_reaper::service::Service;
use presence_reaper::store::audience::Ask;
use presence_reaper::{check, demo, logging, oneshot, report};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::Level;

/// How the process ends. The numbers are a contract; an unknown one is a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    /// Done; also an audit that found stale entries, and a stop by signal.
    Done = 0,
    /// Failed: Redis, a socket, a file.
    Failed = 1,
    /// `--fail-on-stale`, and more were stale.
    Stale = 10,
    /// A guard held something back from `--once`.
    Held = 11,
    /// A source was not seen.
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
    if let Task::Demo { clients, redis_server } = cli.task {
        return show(clients, redis_server).await;
    }
    let config = match configure(&cli) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    match cli.task {
        Task::Check { output } => checked(&config, output),
        Task::Run { dry_run } => serve(config, if dry_run { Mode::DryRun } else { Mode::Evict }).await,
        Task::Audit { output, fail_on_stale } => audit(&config, output, fail_on_stale).await,
        Task::Once { release, max, output, fail_on_stale } => once(&config, release, max, output, fail_on_stale).await,
        Task::Demo { .. } => Exit::Done,
    }
}

fn configure(cli: &Cli) -> Result<Config, Exit> {
    let environment: Vec<_> = std::env::vars_os().collect();
    let named = cli.config.clone().or_else(|| config::file_of(&environment));
    let path = named.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG));
    let file = match std::fs::read_to_string(path) {
        Ok(text) => Some(config::File { name: path.display().to_string(), text }),
        Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            complain(&format!("{}: {error}", path.display()));
            return Err(Exit::Config);
        }
    };
    config::load(cli.inputs(file, environment)).map_err(|problems| {
        complain(&problems);
        Exit::Config
    })
}

// === the daemon ===

async fn serve(config: Config, mode: Mode) -> Exit {
    if let Err(error) = logging::init(&config.log, colors()) {
        complain(&error);
        return Exit::Failed;
    }
    let stop = stop_on_signal();
    let clock = Clock::start();
    let (links, reapers) = assemble::reapers(&config, &Run::unlimited(mode), clock);
    let service = match Service::bind(&config, links, &reapers, clock).await {
        Ok(service) => service,
        Err(error) => {
            complain(&error);
            return Exit::Failed;
        }
    };
    service.run(reapers, stop).await;
    Exit::Done
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

// === single runs ===

async fn audit(config: &Config, output: Output, fail_on_stale: Option<u64>) -> Exit {
    begin_single_run(config);
    let stop = stop_on_signal();
    let clock = Clock::start();
    let (_links, reapers) = assemble::reapers(config, &Run::unlimited(Mode::DryRun), clock);
    let findings = oneshot::audit(reapers, Ask::default(), stop).await;
    conclude(true, &findings, clock, output, fail_on_stale)
}

async fn once(config: &Config, release: Release, max: Option<u64>, output: Output, fail_on_stale: Option<u64>) -> Exit {
    begin_single_run(config);
    let stop = stop_on_signal();
    let clock = Clock::start();
    let lifted = Lifted { silent: release.silent, mass: release.mass };
    let run = Run { mode: Mode::Evict, lifted, max, redaction: None };
    let (_links, reapers) = assemble::reapers(config, &run, clock);
    let findings = oneshot::once(reapers, Ask::default(), clock, stop, tell_waiting()).await;
    match conclude(false, &findings, clock, output, fail_on_stale) {
        Exit::Done | Exit::Stale if findings.iter().any(Finding::is_held) => Exit::Held,
        exit => exit,
    }
}

/// A single run has a report; the log speaks only of what the report can't say, unless it was asked to say more.
fn begin_single_run(config: &Config) {
    let level = if config.log.level > Level::INFO { config.log.level } else { Level::ERROR };
    if let Err(error) = logging::init(&logging::Settings { level, ..config.log.clone() }, colors()) {
        complain(&error);
    }
    config.warnings.iter().for_each(|warning| say(&format_args!("warning: {warning}")));
}

/// Counts down on stderr: in place on a terminal, else one line a source.
fn tell_waiting() -> oneshot::Waiting {
    let told = std::sync::Mutex::new(std::collections::HashSet::new());
    Arc::new(move |source: &str, watched: usize, left: Duration| {
        let first = told.lock().is_ok_and(|mut told| told.insert(source.to_owned()));
        let left = in_words(left.max(Duration::from_secs(1)));
        let line = format!("{source}: {watched} stale; looking again in {left}");
        if io::stderr().is_terminal() {
            let _ = write!(io::stderr(), "\r\x1b[K{line}{}", if left == "1s" { "\n" } else { "" });
        } else if first {
            say(&line);
        }
    })
}

fn conclude(dry_run: bool, findings: &[Finding], clock: Clock, output: Output, fail_on_stale: Option<u64>) -> Exit {
    let run = report::Run { dry_run, wall: Clock::wall(), mono: clock.now(), findings };
    let written = print(|out| match output {
        Output::Text => report::write_text(&run, out),
        Output::Json => report::write_json(&run, out),
    });
    let failures = findings.iter().filter_map(|finding| finding.failure.as_ref());
    failures.clone().for_each(|error| complain(error));
    let complete = findings.iter().all(Finding::is_complete);
    let stale: u64 = findings.iter().map(Finding::stale).sum();
    if written == Exit::Failed || failures.count() == findings.len() {
        Exit::Failed
    } else if !complete {
        Exit::Incomplete
    } else if fail_on_stale.is_some_and(|allowed| stale > allowed) {
        Exit::Stale
    } else {
        Exit::Done
    }
}

fn checked(config: &Config, output: Output) -> Exit {
    config.warnings.iter().for_each(|warning| say(&format_args!("warning: {warning}")));
    print(|out| match output {
        Output::Text => check::write_text(config, out),
        Output::Json => check::write_json(config, out),
    })
}

async fn show(clients: u32, redis_server: Option<std::path::PathBuf>) -> Exit {
    let stop = stop_on_signal();
    let told = demo::run(demo::Settings { clients, redis_server }, stop, |line| {
        print(|out| writeln!(out, "{line}"));
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

/// Writes data to stdout. Whoever closed the pipe has seen enough: that ends quietly.
fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Exit {
    let mut out = io::BufWriter::new(io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(&format!("writing the report: {error}"));
            Exit::Failed
        }
        _ => Exit::Done,
    }
}

fn colors() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn complain(error: &dyn Display) {
    say(&format_args!("error: {error}"));
}

/// Talk goes to stderr; if that is closed, nobody listens.
fn say(line: &dyn Display) {
    let _ = writeln!(io::stderr(), "{line}");
}
