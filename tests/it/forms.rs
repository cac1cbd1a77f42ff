//! What surrounds the reports: completions and the manual, the log's forms, variables, and what a terminal gets.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use regex::Regex;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::harness::{Binary, Finished, Hub, Kind, Layout, Mode, Proxy, Server};

// === texts ===

/// A program that reads this from stdin without complaint; nothing where it is not installed.
#[track_caller]
fn assert_accepted(program: &str, args: &[&str], text: &str) {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let _ = writeln!(io::stderr(), "{program} is not installed: {args:?} left out");
            return;
        }
        Err(error) => panic!("{program}: {error}"),
    };
    let mut stdin = child.stdin.take().unwrap();
    let text = text.to_owned();
    let writing = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let _ = writing.join().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.is_empty(), "{program}: {}: {said}", output.status);
}

async fn printed(args: &[&str]) -> String {
    let run = Binary::new(args).run().await;
    run.assert_code(0);
    assert_eq!(run.stderr, "");
    run.stdout
}

#[tokio::test]
async fn shells_accept_their_completions() {
    assert_accepted("bash", &["-n"], &printed(&["completions", "bash"]).await);
    assert_accepted("zsh", &["-n"], &printed(&["completions", "zsh"]).await);
    assert_accepted("fish", &["--no-execute"], &printed(&["completions", "fish"]).await);
}

#[tokio::test]
async fn bash_completes_flags_and_words() {
    let script = printed(&["completions", "bash"]).await;
    let ask = r#"complete=$(complete -p presence-reaper); complete=${complete#*-F }; complete=${complete%% *}
        COMP_WORDS=(presence-reaper "$@"); COMP_CWORD=$#
        "$complete" presence-reaper "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"; echo "${COMPREPLY[@]}""#;
    for (words, expected) in [(&["--dry-run", "-o", ""][..], "text json ndjson"), (&["comp"], "completions")] {
        let output = Command::new("bash").arg("-c").arg(format!("{script}\n{ask}")).arg("bash").args(words).output();
        assert_eq!(String::from_utf8(output.unwrap().stdout).unwrap().trim(), expected, "{words:?}");
    }
}

#[tokio::test]
async fn the_manual_is_well_formed() {
    let page = printed(&["man"]).await;
    assert_accepted("groff", &["-ww", "-man", "-Tutf8", "-z", "-"], &page);
    assert_accepted("man", &["--warnings", "-l", "-"], &page);
    // Its one warning is that the page has no date.
    assert_accepted("mandoc", &["-T", "lint", "-W", "error"], &page);
}

// === variables ===

#[tokio::test]
async fn a_variable_names_the_file_and_a_flag_outranks_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, format!("[[source]]\nname = \"{name}\"\nzset = \"z\"\n")).unwrap();
        path.display().to_string()
    };
    let (one, other) = (file("one"), file("other"));
    let named = |path: &str| Binary::new(["check", "-o", "json"]).env("PRESENCE_REAPER_CONFIG", path);
    let name = |run: Finished| run.json()["sources"][0]["name"].as_str().unwrap().to_owned();
    assert_eq!(name(named(&one).run().await), "one");
    assert_eq!(name(named(&one).args(["--config", &other]).run().await), "other");
    assert_eq!(name(named(&one).args(["--zset", "z"]).run().await), "cli", "a source by flags stands over the file's");
    assert_eq!(name(named("").args(["--zset", "z"]).run().await), "cli", "an empty variable is not set");
    let missing = named("/nowhere/reaper.toml").run().await;
    missing.assert_code(78);
    assert!(
        missing.stderr.starts_with("error: can't read the configuration file /nowhere/reaper.toml: No such file"),
        "{}",
        missing.stderr
    );
}

// === the log ===

/// Runs it with a stderr that the environment says is the journal, or says so of another stream.
async fn with_journal(server: &Server, args: &[&str], is_ours: bool) -> Finished {
    let (mut reader, writer) = io::pipe().unwrap();
    let stream = File::from(OwnedFd::from(writer.try_clone().unwrap())).metadata().unwrap();
    let inode = if is_ours { stream.ino() } else { stream.ino() + 1 };
    let binary = Binary::new(["--redis-url", &server.url()]).args(args);
    let mut command = binary.env("JOURNAL_STREAM", &format!("{}:{inode}", stream.dev())).into_command();
    let output = command.stderr(writer).spawn().unwrap();
    drop(command);
    let output = output.wait_with_output().await.unwrap();
    let mut stderr = String::new();
    reader.read_to_string(&mut stderr).unwrap();
    Finished { code: output.status.code(), stdout: String::from_utf8(output.stdout).unwrap(), stderr }
}

#[tokio::test]
async fn the_journal_gets_priorities_and_no_times() {
    let server = Server::start(Kind::Redis).await;
    let time = Regex::new(r"(?m)^\d{4}-\d\d-\d\dT").unwrap();
    let audit = ["--dry-run", "--zset", "presence:online", "--log-level", "debug"];
    let run = with_journal(&server, &audit, true).await;
    assert!(run.stderr.contains("<6>surveyed source=\"cli\" live=0"), "{}", run.stderr);
    assert!(run.stderr.lines().all(|line| line.starts_with('<')), "{}", run.stderr);

    let elsewhere = with_journal(&server, &audit, false).await.stderr;
    assert!(time.is_match(&elsewhere) && !elsewhere.contains("<6>"), "{elsewhere}");
    for (form, begins) in [("text", r"^\d{4}-"), ("json", r#"^\{"timestamp":"#), ("journald", "^<[3467]>")] {
        let line = [&audit[..], &["--log-format", form]].concat();
        for is_ours in [true, false] {
            let said = with_journal(&server, &line, is_ours).await.stderr;
            let begins = Regex::new(begins).unwrap();
            assert!(!said.is_empty() && said.lines().all(|line| begins.is_match(line)), "{form}: {said}");
        }
    }

    let wrong = with_journal(&server, &["check", "--zset", "z", "--threshold", "5"], true).await;
    assert_eq!(wrong.code, Some(78));
    assert!(wrong.stderr.starts_with("<3>error: flag --threshold: "), "{}", wrong.stderr);
    assert!(wrong.stderr.lines().all(|line| line.starts_with("<3>")), "{}", wrong.stderr);
}

// === a terminal ===

/// What the program writes to a terminal that is its stderr, and to one that is its stdout, where asked for.
async fn on_terminal(binary: Binary, stdout_too: bool) -> String {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let slave = || File::options().read(true).write(true).open(&name).unwrap();
    let mut command = binary.into_command();
    command.stderr(slave()).stdout(if stdout_too { Stdio::from(slave()) } else { Stdio::null() });
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut terminal = File::from(master.as_fd().try_clone_to_owned().unwrap());
    let reading = tokio::task::spawn_blocking(move || {
        let mut seen = Vec::new();
        let mut chunk = [0; 4096];
        // The last end of the other side that closes is an error here.
        while let Ok(n @ 1..) = terminal.read(&mut chunk) {
            seen.extend_from_slice(&chunk[..n]);
        }
        String::from_utf8_lossy(&seen).into_owned()
    });
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
    reading.await.unwrap()
}

#[tokio::test]
async fn a_terminal_sees_the_progress_of_a_long_survey_and_keeps_nothing_of_it() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Strings);
    hub.stale(5_000, Duration::from_secs(3_600)).await;
    let proxy = Proxy::start(server.port()).await;
    proxy.set(Mode::Delay(Duration::from_millis(80)));
    let audit =
        |form: &str| Binary::new(["--redis-url", &proxy.url(), "--dry-run", "-o", form]).args(hub.source_flags());
    let seen = on_terminal(audit("json"), false).await;
    let progress = Regex::new(r"\r\x1b\[Ksurveying: \d+ entries so far, \d+/s").unwrap();
    assert!(progress.find_iter(&seen).count() >= 2, "{seen:?}");
    assert!(seen.ends_with("/s\r\x1b[K"), "cleared at the end: {seen:?}");
    assert_eq!(audit("json").run().await.stderr, "", "no terminal, no progress");
    let lines = on_terminal(audit("ndjson"), true).await;
    assert!(!lines.contains("surveying"), "lines on the same terminal show it themselves");
    proxy.set(Mode::Pass);
    assert_eq!(on_terminal(audit("json"), false).await, "", "a short survey needs none");
}

#[tokio::test]
async fn colour_is_for_terminals_alone_and_can_be_had_or_refused() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Zset);
    hub.stale(3, Duration::from_secs(3_600)).await;
    let audit = || Binary::new(["--redis-url", &server.url(), "--dry-run"]).args(hub.source_flags());
    assert!(on_terminal(audit(), true).await.contains("\x1b[31m"));
    assert!(!on_terminal(audit().env("NO_COLOR", "1"), true).await.contains('\x1b'));
    assert!(on_terminal(audit().env("NO_COLOR", ""), true).await.contains("\x1b[31m"), "an empty one is not set");
    assert!(!on_terminal(audit().args(["--color", "never"]), true).await.contains('\x1b'));
    assert!(!audit().run().await.stdout.contains('\x1b'));
    let painted = audit().args(["--color", "always"]).env("NO_COLOR", "1").run().await.stdout;
    assert!(painted.contains("\x1b[31m"));
    let bare = Regex::new(r"\x1b\[[0-9]*m").unwrap().replace_all(&painted, "").into_owned();
    let masked = |text: &str| Regex::new(r"\d+ms|\d+T[0-9:.]+Z").unwrap().replace_all(text, "?").into_owned();
    assert_eq!(masked(&bare), masked(&audit().run().await.stdout), "colour changes no column");
}
