//! What a person or a script meets at the command line: exit codes, sentences, and reports that neither break a line nor
//! lose a byte.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD as BASE64, Engine};
use regex::Regex;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::Instant;

use crate::harness::{Binary, Finished, Hub, Kind, Layout, Server, free_port};
use crate::world::{FAST, assert_document, only_source, reaper_with};

const HOUR: Duration = Duration::from_secs(3600);

async fn run(words: &[&str]) -> Finished {
    Binary::new(words).run().await
}

/// A directory with this file in it.
fn file(text: &str) -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("reaper.toml");
    std::fs::write(&path, text).unwrap();
    (dir, path)
}

async fn run_with(path: &Path, words: &[&str]) -> Finished {
    Binary::new(words).args(["--config"]).args([path]).run().await
}

// === what is refused ===

/// Whoever starts it without anything learns in two lines how to look first.
#[tokio::test]
async fn without_a_source_it_shows_how_to_look_first() {
    for words in [&[][..], &["run"], &["--dry-run"], &["--once"], &["check"]] {
        let run = run(words).await;
        run.assert_code(78);
        let lines = "    presence-reaper --dry-run --zset presence:online\n    presence-reaper --dry-run --config reaper.toml\n";
        assert!(run.stderr.starts_with("error: configuration: no source is configured\n"), "{}", run.stderr);
        assert!(run.stderr.ends_with(lines) && run.stdout.is_empty(), "{}", run.stderr);
    }
}

/// What a configuration has wrong is told all at once, with its place and a hint; from wherever it came it is 78.
#[tokio::test]
async fn a_wrong_configuration_is_told_at_once() {
    let (_dir, path) = file(
        "[redis]\nurl = \"redis://127.0.0.1:1/0\"\ntimeout = \"1s\"\n\
         [[source]]\nname = \"hub\"\nzset = \"online\"\nthreshold = \"1m\"\nheartbeat_interval = \"30s\"\n",
    );
    let wrong = run_with(&path, &["check"]).await;
    wrong.assert_code(78);
    for part in ["reaper.toml:3", "`timeout`", "reaper.toml:7", "less than 5 heartbeats", "hint: "] {
        assert!(wrong.stderr.contains(part), "{part}: {}", wrong.stderr);
    }

    let missing = run_with(&path.with_file_name("none.toml"), &["--dry-run"]).await;
    missing.assert_code(78);
    assert!(missing.stderr.contains("none.toml: No such file"), "{}", missing.stderr);

    let flag = run(&["--dry-run", "--zset", "x", "--threshold", "1month"]).await;
    assert!(flag.assert_code(78).stderr.contains("--threshold"), "{}", flag.stderr);

    let variable = Binary::new(["--dry-run", "--zset", "x"]).env("PRESENCE_REAPER_REDIS__URL", "http://x").run().await;
    assert!(variable.assert_code(78).stderr.contains("PRESENCE_REAPER_REDIS__URL"), "{}", variable.stderr);
}

#[tokio::test]
async fn a_wrong_command_line_is_a_usage_error() {
    let wrong: [&[&str]; 6] = [
        &["--dry-run", "--once"],
        &["--zset", "a", "--hash", "b"],
        &["--config", "x", "--zset", "a"],
        &["--max", "3", "--dry-run"],
        &["--no-such-flag"],
        &["-o", "yaml", "--dry-run"],
    ];
    for words in wrong {
        let run = run(words).await;
        run.assert_code(2);
        assert!(run.stderr.starts_with("error: ") && run.stdout.is_empty(), "{words:?}: {}", run.stderr);
    }
}

// === what Redis refuses ===

/// A server that can't be reached, logged into, or read: one sentence with the remedy, and soon.
#[tokio::test]
async fn a_server_that_cannot_be_had_is_said_in_one_sentence() {
    let server = Server::builder(Kind::Redis).password("right").start().await;
    let replica = Server::builder(Kind::Redis).args(["--replicaof", "127.0.0.1 1"]).start().await;
    let stopped = Server::start(Kind::Redis).await;
    stopped.stop();
    let open = |server: &Server| format!("redis://127.0.0.1:{}", server.port());
    let cases = [
        (format!("redis://127.0.0.1:{}", free_port()), "", "Connection refused", "is it running there?"),
        (open(&server), "", "NOAUTH", "see `username`, `password` and `password_file` in [redis]"),
        (open(&server), "wrong", "WRONGPASS", "see `username`, `password` and `password_file` in [redis]"),
        (open(&replica), "", "its role is slave, not master", "redis must be a master"),
        (open(&stopped), "", "", "the server is busy or stopped"),
    ];
    for (url, password, what, remedy) in cases {
        for words in [&["--dry-run"][..], &["--once"]] {
            let began = Instant::now();
            let binary = Binary::new(words).args(["--zset", "x", "--redis-url", &url]);
            let run = binary.env("PRESENCE_REAPER_REDIS__PASSWORD", password).run().await;
            assert!(began.elapsed() < Duration::from_secs(5), "{url}: {:?}", began.elapsed());
            run.assert_code(1);
            let errors: Vec<&str> = run.stderr.lines().collect();
            assert!(matches!(errors[..], [one] if one.contains(what) && one.contains(remedy)), "{what}: {errors:?}");
            assert!(run.stderr.starts_with("error: ") && !run.stderr.contains("right"), "{}", run.stderr);
            assert!(run.stdout.contains("cli was not surveyed to the end"), "{}", run.stdout);
        }
    }
}

/// A password from a file that has a line break at its end, as every editor makes it.
#[tokio::test]
async fn a_password_comes_from_a_file() {
    let server = Server::builder(Kind::Redis).password("right").start().await;
    let (_dir, path) = file("right\n");
    let url = format!("redis://127.0.0.1:{}", server.port());
    let binary = Binary::new(["--dry-run", "--zset", "x", "--redis-url", &url, "--redis-password-file"]);
    binary.args([&path]).run().await.assert_code(0);

    let run = run(&["--dry-run", "--zset", "x", "--redis-url", "redis://:secret@127.0.0.1:1"]).await;
    assert!(run.assert_code(78).stderr.contains("does not belong on the command line"), "{}", run.stderr);
    assert!(!run.stderr.contains("secret"), "{}", run.stderr);
}

/// A user that may not read the entries: named, counted as a failure, and nothing is concluded.
#[tokio::test]
async fn a_missing_permission_is_named() {
    let server = Server::start(Kind::Redis).await;
    Hub::new(&server, Layout::Zset).stale(3, HOUR).await;
    let rules = ["SETUSER", "poor", "on", ">secret", "~other:*", "+@all"];
    redis::cmd("ACL").arg(&rules).exec_async(&mut server.client().await).await.unwrap();
    let url = format!("redis://poor@127.0.0.1:{}", server.port());

    let binary = Binary::new(["--dry-run", "--zset", "presence:online", "--redis-url", &url]);
    let run = binary.env("PRESENCE_REAPER_REDIS__PASSWORD", "secret").run().await;

    run.assert_code(1);
    assert!(run.stderr.contains("NOPERM") && run.stderr.contains("the ACL user of [redis] needs"), "{}", run.stderr);
}

// === reports ===

/// `--fail-on-stale` is for a script that watches.
#[tokio::test]
async fn more_stale_than_allowed_is_ten() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Strings);
    hub.stale(5, HOUR).await;
    for (flag, code) in [("--fail-on-stale", 10), ("--fail-on-stale=4", 10), ("--fail-on-stale=5", 0)] {
        reaper_with(&["--dry-run", flag], &server.url(), &hub, FAST).run().await.assert_code(code);
    }
}

/// Whoever closes the pipe has seen enough.
#[tokio::test]
async fn a_closed_pipe_ends_quietly() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Zset);
    hub.stale(100, HOUR).await;
    let program = env!("CARGO_BIN_EXE_presence-reaper");
    for what in ["--dry-run", "--dry-run -o json", "--help", "check"] {
        let line = format!(
            "{program} {what} --zset presence:online --redis-url {} | head -1; exit ${{PIPESTATUS[0]}}",
            server.url()
        );
        let shell = Command::new("bash").args(["-c", &line]).env_clear().stdin(Stdio::null()).output().await.unwrap();
        let stderr = String::from_utf8_lossy(&shell.stderr);
        assert_eq!((shell.status.code(), &*stderr), (Some(0), ""), "{what}");
        assert_eq!(shell.stdout.iter().filter(|byte| **byte == b'\n').count(), 1, "{what}");
    }
    // Nobody reads at all, from the first byte on.
    let line = format!("{program} --dry-run -o json --zset presence:online --redis-url {} >&-", server.url());
    let shell = Command::new("bash").args(["-c", &line]).env_clear().stdin(Stdio::null()).output().await.unwrap();
    let stderr = String::from_utf8_lossy(&shell.stderr);
    assert!(!stderr.contains("panicked"), "{stderr}");
}

/// An id is bytes. Text shows it in one line that can't steer a terminal; JSON loses nothing.
#[tokio::test]
async fn strange_ids_are_escaped_in_text_and_whole_in_json() {
    let ids: [&[u8]; 5] = [b"new\nline", b"\x1b[31mred\x1b[0m", b"raw\xff\x00", "é {x}".as_bytes(), b"\"quoted\" \\"];
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Zset);
    let mut client = server.client().await;
    for id in ids {
        redis::cmd("ZADD").arg("presence:online").arg(1_700_000_000).arg(id).exec_async(&mut client).await.unwrap();
    }
    redis::cmd("ZADD")
        .arg("presence:online")
        .arg(1_700_000_000)
        .arg("x".repeat(100_000))
        .exec_async(&mut client)
        .await
        .unwrap();

    let text = reaper_with(&["--dry-run"], &server.url(), &hub, FAST).run().await;
    for escaped in [r#""new\nline""#, r#""\x1b[31mred\x1b[0m""#, r#""raw\xff\x00""#, r#""\"quoted\" \\""#] {
        assert!(text.assert_code(0).stdout.contains(escaped), "{escaped}: {}", text.stdout);
    }
    let long = text.stdout.lines().find(|line| line.contains("xxxxx")).unwrap();
    assert!(long.chars().count() <= 110 && long.contains("x…x"), "{long}");
    assert!(!text.stdout.contains('\x1b'), "{}", text.stdout);

    let json = reaper_with(&["--dry-run", "-o", "json"], &server.url(), &hub, FAST).run().await.assert_code(0).json();
    let stale = only_source(&json)["stale"].as_array().unwrap();
    for id in ids {
        let whole = |entry: &&serde_json::Value| match entry["id_base64"].as_str() {
            Some(text) => BASE64.decode(text).unwrap() == id,
            None => entry["id"].as_str().unwrap().as_bytes() == id,
        };
        let found: Vec<_> = stale.iter().filter(whole).collect();
        assert_eq!(found.len(), 1, "{}", String::from_utf8_lossy(id));
        assert_eq!(found[0].get("id_base64").is_some(), std::str::from_utf8(id).is_err());
    }
}

/// A document is whole whatever was found: nothing, or nothing that can be judged, or no server.
#[tokio::test]
async fn a_document_is_whole_whatever_was_found() {
    let server = Server::start(Kind::Redis).await;
    let mut client = server.client().await;
    redis::cmd("ZADD").arg("zeros").arg(0).arg("a").arg("-inf").arg("b").exec_async(&mut client).await.unwrap();
    let url = server.url();
    for (key, unreadable) in [("nothing", 0), ("zeros", 2)] {
        let run = run(&["--dry-run", "-o", "json", "--zset", key, "--redis-url", &url]).await;
        let document = run.assert_code(0).json();
        let source = only_source(&document);
        assert_eq!((&source["entries"]["unreadable"], &source["newest_age_ms"]), (&unreadable.into(), &().into()));
        assert_eq!(source["stale"], serde_json::json!([]));
    }
    let down = format!("redis://127.0.0.1:{}", free_port());
    let run = run(&["--dry-run", "-o", "json", "--zset", "x", "--redis-url", &down]).await;
    let document = run.assert_code(1).json();
    assert_document(&document);
    assert_eq!((&document["complete"], &document["sources"][0]["state"]), (&false.into(), &"blind".into()));
    assert!(document["sources"][0]["error"].as_str().unwrap().contains("Connection refused"));
}

/// `check` needs no Redis, and tells what follows from the settings.
#[tokio::test]
async fn check_tells_what_follows_without_redis() {
    let (_dir, path) = file("[[source]]\nname = \"hub\"\nzset = \"online\"\ncompanions = [\"UNLINK conn:{id}\"]\n");
    let text = run_with(&path, &["check"]).await;
    for part in ["source hub: zset online", "stale from 5m on", "goes with an entry: UNLINK conn:{id}", "is valid."] {
        assert!(text.assert_code(0).stdout.contains(part), "{part}: {}", text.stdout);
    }
    let json = run_with(&path, &["check", "-o", "json"]).await.assert_code(0).json();
    assert_eq!((&json["valid"], &json["sources"][0]["threshold_ms"]), (&true.into(), &300_000.into()));
    assert_eq!(json["sources"][0]["silent_after_ms"], 90_000);
}

// === golden files ===

/// Compares with a file of this folder; `UPDATE_GOLDEN=1 cargo test` writes it anew.
#[track_caller]
fn assert_golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{} differs: UPDATE_GOLDEN=1 cargo test writes it anew", path.display());
}

/// The help is read by people, so a change of it should be seen; and it names every exit code there is.
#[tokio::test]
async fn the_help_is_as_it_was() {
    let help = run(&["--help"]).await;
    help.assert_code(0);
    for code in ["0 ", "1 ", "2 ", "10", "11", "12", "78"] {
        assert!(help.stdout.contains(&format!("\n  {code}  ")), "{code}");
    }
    assert_golden("help.txt", &help.stdout);
}

/// A report for a person, its times masked.
#[tokio::test]
async fn a_report_is_as_it_was() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Zset);
    hub.live(7).await;
    hub.stale(3, HOUR * 2).await;
    hub.clone().clock_offset_ms(2 * 3_600_000).live(1).await;
    redis::cmd("ZADD").arg("presence:online").arg(0).arg("zero").exec_async(&mut server.client().await).await.unwrap();

    let words = ["--dry-run", "--redis-url", &server.url(), "--zset", "presence:online"];
    let run = run(&words).await;

    let masks = [
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "YYYY-MM-DDThh:mm:ssZ"),
        (r"newest ping \S+ ago", "newest ping NOW ago"),
        (r" +(YYYY\S+Z) +", " $1 "),
    ];
    let masked = masks.iter().fold(run.assert_code(0).stdout.clone(), |text, (pattern, mask)| {
        Regex::new(pattern).unwrap().replace_all(&text, *mask).into_owned()
    });
    assert_golden("report.txt", &masked);
}
