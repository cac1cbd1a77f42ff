//! `--metrics-file`: what a single run leaves for node_exporter.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use crate::faces::check_by_promtool;
use crate::harness::{Binary, Hub, Kind, Layout, Metrics, Server, free_port};
use crate::world::{FAST, is_old_enough, reaper_with};

const HOUR: Duration = Duration::from_secs(3600);

trait IntoFile {
    fn into_file(self, path: &Path) -> Self;
}

impl IntoFile for Binary {
    fn into_file(self, path: &Path) -> Self {
        self.args(["--metrics-file".as_ref(), path.as_os_str()])
    }
}

#[track_caller]
fn value(page: &str, series: &str) -> f64 {
    let series = format!("presence_reaper_run_{series}");
    Metrics(page.to_owned()).value(&series).unwrap_or_else(|| panic!("no {series} in\n{page}"))
}

fn series(page: &str) -> BTreeSet<&str> {
    page.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit_once(' ').unwrap().0).collect()
}

/// All that lies in a directory, hidden or not.
fn names_in(dir: &TempDir) -> BTreeSet<String> {
    fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn an_audit_and_once_leave_their_numbers() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Zset);
    hub.stale(3, HOUR).await;
    let live = hub.live(12).await;
    let _pinging = hub.ping_every(FAST.heartbeat, &live);
    is_old_enough(&server, FAST).await;
    let dir = TempDir::new().unwrap();
    let (audit, once) = (dir.path().join("audit.prom"), dir.path().join("once.prom"));
    fs::write(&audit, "of a run before\n").unwrap();

    reaper_with(&["--dry-run"], &server.url(), &hub, FAST).into_file(&audit).run().await.assert_code(0);
    let page = fs::read_to_string(&audit).unwrap();
    for (series, expected) in [
        ("complete{run=\"audit\",source=\"cli\"}", 1.0),
        ("entries{run=\"audit\",source=\"cli\",state=\"live\"}", 12.0),
        ("entries{run=\"audit\",source=\"cli\",state=\"stale\"}", 3.0),
        ("evicted{run=\"audit\",source=\"cli\"}", 0.0),
    ] {
        assert_eq!(value(&page, series), expected, "{series}\n{page}");
    }
    assert!(value(&page, "timestamp_seconds{run=\"audit\",source=\"cli\"}") > 1.7e9);
    let pings = ["newest", "oldest"]
        .map(|which| value(&page, &format!("{which}_ping_timestamp_seconds{{run=\"audit\",source=\"cli\"}}")));
    assert!((pings[0] - pings[1] - 3600.0).abs() < 60.0, "{pings:?}");
    assert!(!page.contains("process_"), "node_exporter has its own");
    check_by_promtool(&page).await;

    reaper_with(&["--once"], &server.url(), &hub, FAST).into_file(&once).run().await.assert_code(0);
    let after = fs::read_to_string(&once).unwrap();
    assert_eq!(value(&after, "evicted{run=\"once\",source=\"cli\"}"), 3.0, "{after}");
    assert_eq!(value(&after, "state{run=\"once\",source=\"cli\",state=\"normal\"}"), 1.0, "{after}");
    check_by_promtool(&after).await;

    assert!(series(&page).is_disjoint(&series(&after)), "both files are read by one collector");
    let whole = Metrics(page + &after).0;
    let help = whole.lines().filter(|line| line.starts_with("# HELP")).collect::<BTreeSet<_>>();
    assert_eq!(help.len() * 2, whole.matches("# HELP").count(), "of one name one help");
    assert_eq!(names_in(&dir), ["audit.prom".to_owned(), "once.prom".to_owned()].into(), "nothing aside is left");
    for file in [audit, once] {
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o644, "the collector is another user");
    }
}

/// A run that saw nothing says so, rather than leave the numbers of the one before.
#[tokio::test]
async fn what_was_not_seen_is_no_zero() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("reaper.prom");
    let url = format!("redis://127.0.0.1:{}", free_port());
    let run = Binary::new(["--dry-run", "--zset", "a", "--redis-url", &url]).into_file(&file).run().await;
    run.assert_code(1);
    let page = fs::read_to_string(&file).unwrap();
    assert_eq!(value(&page, "complete{run=\"audit\",source=\"cli\"}"), 0.0);
    assert!(value(&page, "entries{run=\"audit\",source=\"cli\",state=\"stale\"}").is_nan(), "{page}");
    check_by_promtool(&page).await;
}

/// It shows before anything is evicted.
#[tokio::test]
async fn a_file_that_can_not_be_written_ends_the_run_before_it_begins() {
    let server = Server::start(Kind::Redis).await;
    let hub = Hub::new(&server, Layout::Zset);
    hub.stale(3, HOUR).await;
    let live = hub.live(12).await;
    let _pinging = hub.ping_every(FAST.heartbeat, &live);
    is_old_enough(&server, FAST).await;
    let dir = TempDir::new().unwrap();
    let link = dir.path().join("link.prom");
    symlink("/dev/null", &link).unwrap();
    for (path, why) in [
        (dir.path().join("nowhere/reaper.prom"), "No such file or directory"),
        (dir.path().to_owned(), "this is no regular file"),
        (link.clone(), "this is no regular file"),
        ("/dev/stdout".into(), "this is no regular file"),
    ] {
        let run = reaper_with(&["--once"], &server.url(), &hub, FAST).into_file(&path).run().await;
        run.assert_code(1);
        assert!(run.stderr.starts_with(&format!("error: --metrics-file {}: ", path.display())), "{}", run.stderr);
        assert!(run.stderr.contains(why) && run.stdout.is_empty(), "{}", run.stderr);
    }
    assert_eq!(hub.remaining().await.len(), 15, "nothing was evicted");
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("/dev/null"));
}
