//! What a scrape shows, before the first report and after known ones.

use std::collections::BTreeSet;

use super::*;
use crate::policy::continuity::Break;
use crate::policy::entry::Now;
use crate::policy::guard::{Change, Hold, State};
use crate::policy::load::Throttle;
use crate::policy::outcome::{Blocked, Notified, Outcomes};
use crate::policy::ping::Unreadable;
use crate::policy::staleness::{Freshness, Timing};
use crate::policy::survey::Survey;
use crate::reaper::{Skipped, Verb};
use crate::store::error::{Error, Kind};
use crate::store::status::{Certificate, Failure, Purpose, Role, ServerInfo};

const STARTED: Timestamp = Timestamp::from_millis(1_769_860_800_000);
const WALL: Timestamp = Timestamp::from_millis(1_769_860_830_500);
const MONO: Monotonic = Monotonic::from_start(Duration::from_secs(30));
const TIMING: Timing = Timing { threshold: Duration::from_secs(300), heartbeat_interval: Duration::from_secs(30) };

/// Masked in the golden page, since it differs by build.
const BUILD: &str = "presence_reaper_build_info{";
const MASKED: &str = "presence_reaper_build_info{revision=\"…\",rustc=\"…\",version=\"…\"} 1";

/// An edit that makes a report out of an empty one.
type Edit = fn(&mut Report);

fn metrics(names: &[&str]) -> Metrics {
    let labels = names.iter().map(|name| SourceLabels {
        name: Arc::from(*name),
        layout: "zset",
        dry_run: false,
        threshold: TIMING.threshold,
        sweep_interval: Duration::from_secs(30),
    });
    Metrics::new(&labels.collect::<Vec<_>>(), STARTED).unwrap()
}

fn report(verb: Verb) -> Report {
    Report {
        took: Duration::from_millis(40),
        now: Some(Now { server: WALL, mono: MONO }),
        ..Report::new("hub".into(), verb)
    }
}

fn survey() -> Survey {
    let mut survey = Survey::new(TIMING);
    survey.count(Freshness::Fresh, 90);
    survey.count(Freshness::Late, 10);
    survey.count(Freshness::Stale, 30);
    survey.count(Freshness::Future, 2);
    survey.unreadable[Unreadable::Missing.index()] = 3;
    survey.protected = 4;
    survey.foreign = 6;
    survey.saw(Timestamp::from_millis(1_769_860_830_250));
    survey.saw(Timestamp::from_millis(1_769_774_400_000));
    survey
}

fn surveyed(report: &mut Report) {
    report.survey = Some(Arc::new(survey()));
}

fn struck(report: &mut Report) {
    report.outcomes = Outcomes {
        evicted: 28,
        spared: 1,
        gone: 1,
        protected: 9,
        too_late: 2,
        fenced: 3,
        unknown: 4,
        blocked: [1, 2, 3, 4, 5, 6, 7, 8],
    };
    report.lags = [250, 750, 86_400_001].map(Duration::from_millis).to_vec();
    report.skipped = Skipped { dry_run: 5, observing: 6, guard: 7, limit: 8, protected: 10 };
    report.companions_skipped = 9;
    report.notified = Notified { attempted: [28, 27, 0, 0], failed: [0, 3, 0, 0], skipped: 1, unknown: [0, 0, 0, 2] };
    report.throttled[Throttle::Pace.index()] = Duration::from_millis(1_500);
}

fn broken_off(report: &mut Report) {
    report.failure = Some(Error::new(Kind::Timeout, "surveying", "127.0.0.1:6379", "no answer in time"));
}

fn held(report: &mut Report) {
    report.state = State::Silent;
    report.hold = Some(Hold {
        state: State::Silent,
        why: "nobody has pinged".into(),
        ends: Some(MONO.plus(Duration::from_secs(600))),
        ends_with: "the next ping".into(),
    });
    report.changes = vec![Change::FellSilent, Change::Mass, Change::Released, Change::SpokeAgain];
    report.breaks = vec![Break::FirstContact, Break::ClockJump(-5_000), Break::RefusedWrites];
    report.canary_refused = Some(Kind::Oom);
}

fn status() -> Status {
    let mut status = Status {
        up: true,
        server: Some(ServerInfo { implementation: "valkey".into(), version: "9.1.2".into() }),
        connections_opened: 2,
        clock_offset_ms: Some(-1_500),
        ..Status::default()
    };
    let scans = &mut status.requests[Purpose::Scan.index()];
    scans.commands = 300;
    scans.failures[Failure::Timeout.index()] = 1;
    scans.durations[0] = 2;
    scans.durations[3] = 4;
    scans.answered = 7;
    scans.seconds = 8.25;
    status
}

fn scrape(metrics: &Metrics) -> String {
    metrics.render(&status(), Format::Text).unwrap()
}

/// The series of a scrape, those of the process left out, since the system decides which there are.
fn series(text: &str) -> BTreeSet<&str> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.starts_with("process_"));
    lines.map(|line| line.rsplit_once(' ').unwrap().0).collect()
}

#[track_caller]
fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().unwrap()
}

#[test]
fn a_known_past_gives_the_golden_page() {
    let metrics = metrics(&["hub"]);
    for (verb, edits) in [
        (Verb::Survey, vec![surveyed as Edit]),
        (Verb::Strike, vec![struck]),
        (Verb::Survey, vec![broken_off]),
        (Verb::Survey, vec![surveyed, held]),
    ] {
        let mut report = report(verb);
        edits.iter().for_each(|edit| edit(&mut report));
        metrics.record(&report, WALL, MONO);
    }
    let text = scrape(&metrics);
    let lines = text.lines().filter(|line| !line.contains("process_"));
    let masked = lines.map(|line| if line.starts_with(BUILD) { MASKED } else { line });
    let page = masked.collect::<Vec<_>>().join("\n") + "\n";

    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/src/metrics/golden.txt");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(golden, &page).unwrap();
    }
    let expected = std::fs::read_to_string(golden).unwrap_or_default();
    assert!(page == expected, "differs from {golden} (BLESS=1 writes it anew):\n{page}");
}

#[test]
fn everything_is_there_from_the_start() {
    let metrics = metrics(&["hub"]);
    let before = metrics.render(&Status::default(), Format::Text).unwrap();
    for (series, at_start) in [
        ("presence_reaper_sweeps_total{source=\"hub\"}", 0.0),
        ("presence_reaper_evictions_total{source=\"hub\"}", 0.0),
        ("presence_reaper_last_complete_sweep_timestamp_seconds{source=\"hub\"}", 1_769_860_800.0),
        ("presence_reaper_source_state{source=\"hub\",state=\"blind\"}", 1.0),
        ("presence_reaper_source_threshold_seconds{source=\"hub\"}", 300.0),
        ("presence_reaper_redis_up", 0.0),
    ] {
        assert_eq!(value(&before, series), at_start, "{series}");
    }
    assert!(value(&before, "presence_reaper_newest_ping_timestamp_seconds{source=\"hub\"}").is_nan());
    assert!(value(&before, "presence_reaper_redis_clock_offset_seconds").is_nan());
    if cfg!(target_os = "linux") {
        assert!(value(&before, "process_start_time_seconds") > 0.0);
    }

    let mut everything = report(Verb::Survey);
    [surveyed, struck, held].iter().for_each(|edit: &Edit| edit(&mut everything));
    metrics.record(&everything, WALL, MONO);
    let mut failed = report(Verb::Survey);
    broken_off(&mut failed);
    metrics.record(&failed, WALL, MONO);
    let after = scrape(&metrics);
    let without_server = |text| series(text).into_iter().filter(|one| !one.contains("redis_info{")).collect::<Vec<_>>();
    assert_eq!(without_server(&before), without_server(&after), "no series comes or goes later");
}

/// What Prometheus has to keep, without `process_*`: so much for the process, and so much for each source. The README
/// says the same numbers.
#[test]
fn the_number_of_series_is_known() {
    for sources in [1, 4, 16, 64] {
        let names: Vec<String> = (0..sources).map(|number| format!("source-{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let text = scrape(&metrics(&names));
        assert_eq!(series(&text).len(), OF_PROCESS + sources * OF_SOURCE, "{sources} sources");
    }
    let readme = include_str!("../../README.md");
    let sentence = format!("{OF_SOURCE} series for each source and {OF_PROCESS} for the process");
    assert!(readme.contains(&sentence), "README.md: {sentence}");
    for sources in [1, 4, 16] {
        let number = (OF_PROCESS + sources * OF_SOURCE).to_string();
        assert!(readme.contains(&number), "README.md: {number} with {sources}");
    }
}

/// Series that do not depend on the sources.
const OF_PROCESS: usize = 138;
/// Series of each source.
const OF_SOURCE: usize = 152;

/// The same samples in both formats; numbers are written differently, and nothing else.
#[test]
fn open_metrics_say_the_same() {
    let metrics = metrics(&["hub", "rooms"]);
    let mut everything = report(Verb::Survey);
    [surveyed, struck, held].iter().for_each(|edit: &Edit| edit(&mut everything));
    metrics.record(&everything, WALL, MONO);
    let open = metrics.render(&status(), Format::OpenMetrics).unwrap();
    let text = scrape(&metrics);

    let samples = |page: &str| {
        let lines = page.lines().filter(|line| !line.starts_with('#') && !line.starts_with("process_"));
        let read = lines.map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (before, edge) = series.split_once("le=\"").unwrap_or((series, ""));
            let edge = edge.trim_end_matches("\"}").parse::<f64>().ok();
            (before.to_owned(), format!("{edge:?} {:?}", value.parse::<f64>().unwrap()))
        });
        read.collect::<Vec<_>>()
    };
    assert_eq!(samples(&open), samples(&text));

    assert!(open.ends_with("\n# EOF\n") && open.matches("# EOF").count() == 1);
    assert!(open.contains(
        "\n# TYPE presence_reaper_evictions counter\npresence_reaper_evictions_total{source=\"hub\"} 28.0\n"
    ));
    assert!(open.contains("presence_reaper_eviction_lag_seconds_bucket{source=\"hub\",le=\"1.0\"} 2.0\n"));
    assert!(open.contains("presence_reaper_eviction_lag_seconds_bucket{source=\"hub\",le=\"+Inf\"} 3.0\n"));
    assert!(open.contains("\npresence_reaper_redis_up 1.0\n"));
    for family in open.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")) {
        assert!(!family.ends_with("_total"), "{family}");
        assert!(open.contains(&format!("\n{family}_total")), "{family} is a counter that does not end in _total");
    }
}

#[test]
fn what_a_label_holds_is_escaped_in_open_metrics_too() {
    let metrics = metrics(&["hub"]);
    let mut status = status();
    status.server = Some(ServerInfo { implementation: "a\\b".into(), version: "\"\n".into() });
    let open = metrics.render(&status, Format::OpenMetrics).unwrap();
    let expected = r#"{implementation="a\\b",topology="standalone",version="\"\n"} 1.0"#;
    assert!(open.contains(&format!("\npresence_reaper_redis_info{expected}\n")), "{open}");
}

#[test]
fn after_a_reload_what_stays_goes_on_counting_and_what_went_is_told_of_no_more() {
    let labels = |name: &str, dry_run| SourceLabels {
        name: name.into(),
        layout: "hash",
        dry_run,
        threshold: TIMING.threshold,
        sweep_interval: TIMING.heartbeat_interval,
    };
    let metrics = Metrics::new(&[labels("hub", true), labels("rooms", false)], STARTED).unwrap();
    let mut report = report(Verb::Strike);
    struck(&mut report);
    metrics.record(&report, WALL, MONO);
    let evicted = value(&scrape(&metrics), "presence_reaper_evictions_total{source=\"hub\"}");
    assert!(evicted > 0.0);

    metrics.reload_failed();
    let page = scrape(&metrics);
    assert_eq!(value(&page, "presence_reaper_config_last_reload_successful"), 0.0);
    assert_eq!(value(&page, "presence_reaper_config_last_reload_success_timestamp_seconds"), 1_769_860_800.0);

    metrics.reloaded(&[labels("workers", false), labels("hub", false)], WALL).unwrap();
    let page = scrape(&metrics);
    assert_eq!(value(&page, "presence_reaper_config_last_reload_successful"), 1.0);
    assert_eq!(value(&page, "presence_reaper_evictions_total{source=\"hub\"}"), evicted);
    assert_eq!(value(&page, "presence_reaper_evictions_total{source=\"workers\"}"), 0.0);
    assert!(page.contains("source_info{layout=\"hash\",mode=\"evict\",source=\"hub\"}"), "{page}");
    assert!(!page.contains("mode=\"dry_run\"") && !page.contains("source=\"rooms\""), "{page}");
    assert_eq!(series(&page).len(), OF_PROCESS + 2 * OF_SOURCE);
}

#[test]
fn exactly_one_state_is_set() {
    let metrics = metrics(&["hub"]);
    for state in State::ALL {
        let mut report = report(Verb::Strike);
        report.state = state;
        metrics.record(&report, WALL, MONO);
        let text = scrape(&metrics);
        for one in State::ALL {
            let series = format!("presence_reaper_source_state{{source=\"hub\",state=\"{}\"}}", one.as_str());
            assert_eq!(value(&text, &series), f64::from(u8::from(one == state)), "{series} in {state:?}");
        }
    }
}

#[test]
fn an_operators_hold_is_counted_once() {
    let metrics = metrics(&["hub"]);
    for state in [State::Normal, State::Held, State::Held, State::Grace, State::Held] {
        let mut report = report(Verb::Strike);
        report.state = state;
        metrics.record(&report, WALL, MONO);
    }
    let text = scrape(&metrics);
    assert_eq!(value(&text, "presence_reaper_guard_trips_total{reason=\"held\",source=\"hub\"}"), 2.0);
}

#[test]
fn every_field_of_a_report_has_its_series() {
    let cases: &[(Verb, Edit, &str, f64)] = &[
        (Verb::Survey, |_| {}, "sweeps_total{source=\"hub\"}", 1.0),
        (Verb::Strike, |_| {}, "sweeps_total{source=\"hub\"}", 0.0),
        (Verb::Survey, |_| {}, "last_sweep_timestamp_seconds{source=\"hub\"}", 1_769_860_830.5),
        (Verb::Survey, surveyed, "last_complete_sweep_timestamp_seconds{source=\"hub\"}", 1_769_860_830.5),
        (Verb::Survey, broken_off, "last_complete_sweep_timestamp_seconds{source=\"hub\"}", 1_769_860_800.0),
        (Verb::Survey, surveyed, "sweep_duration_seconds_sum{source=\"hub\"}", 0.04),
        (Verb::Survey, broken_off, "sweep_duration_seconds_count{source=\"hub\"}", 0.0),
        (Verb::Survey, broken_off, "sweep_failures_total{reason=\"timeout\",source=\"hub\"}", 1.0),
        (Verb::Strike, broken_off, "sweep_failures_total{reason=\"timeout\",source=\"hub\"}", 1.0),
        (Verb::Survey, surveyed, "entries{source=\"hub\",state=\"live\"}", 100.0),
        (Verb::Survey, surveyed, "entries{source=\"hub\",state=\"stale\"}", 30.0),
        (Verb::Survey, surveyed, "entries{source=\"hub\",state=\"future\"}", 2.0),
        (Verb::Survey, surveyed, "entries{source=\"hub\",state=\"unreadable\"}", 3.0),
        (Verb::Survey, surveyed, "entries{source=\"hub\",state=\"protected\"}", 4.0),
        (Verb::Survey, surveyed, "foreign{source=\"hub\"}", 6.0),
        (Verb::Survey, surveyed, "entries_scanned_total{source=\"hub\"}", 139.0),
        (Verb::Survey, surveyed, "entries_unreadable_total{reason=\"missing\",source=\"hub\"}", 3.0),
        (Verb::Survey, surveyed, "newest_ping_timestamp_seconds{source=\"hub\"}", 1_769_860_830.25),
        (Verb::Survey, surveyed, "oldest_ping_timestamp_seconds{source=\"hub\"}", 1_769_774_400.0),
        (Verb::Strike, struck, "evictions_total{source=\"hub\"}", 28.0),
        (Verb::Strike, struck, "evictions_skipped_total{reason=\"spared\",source=\"hub\"}", 1.0),
        (Verb::Strike, struck, "evictions_skipped_total{reason=\"too_late\",source=\"hub\"}", 2.0),
        (Verb::Strike, struck, "evictions_skipped_total{reason=\"dry_run\",source=\"hub\"}", 5.0),
        (Verb::Strike, struck, "evictions_skipped_total{reason=\"observing\",source=\"hub\"}", 6.0),
        (Verb::Strike, struck, "evictions_skipped_total{reason=\"guard\",source=\"hub\"}", 7.0),
        (Verb::Strike, struck, "evictions_skipped_total{reason=\"limit\",source=\"hub\"}", 8.0),
        (Verb::Strike, struck, "evictions_skipped_total{reason=\"protected\",source=\"hub\"}", 19.0),
        (Verb::Strike, struck, "eviction_failures_total{reason=\"unknown\",source=\"hub\"}", 4.0),
        (Verb::Strike, struck, "eviction_lag_seconds_bucket{source=\"hub\",le=\"1\"}", 2.0),
        (Verb::Strike, struck, "eviction_lag_seconds_bucket{source=\"hub\",le=\"86400\"}", 2.0),
        (Verb::Strike, struck, "eviction_lag_seconds_count{source=\"hub\"}", 3.0),
        (Verb::Strike, struck, "companions_skipped_total{source=\"hub\"}", 10.0),
        (Verb::Strike, struck, "notifications_total{sink=\"pubsub\",source=\"hub\"}", 28.0),
        (Verb::Strike, struck, "notifications_total{sink=\"stream\",source=\"hub\"}", 27.0),
        (Verb::Strike, struck, "notification_failures_total{sink=\"pubsub\",source=\"hub\"}", 0.0),
        (Verb::Strike, struck, "notification_failures_total{sink=\"stream\",source=\"hub\"}", 3.0),
        (Verb::Survey, held, "guard_trips_total{reason=\"silent\",source=\"hub\"}", 1.0),
        (Verb::Survey, held, "guard_trips_total{reason=\"mass\",source=\"hub\"}", 1.0),
        (Verb::Survey, held, "guard_trips_total{reason=\"clock\",source=\"hub\"}", 1.0),
        (Verb::Survey, held, "continuity_breaks_total{reason=\"first_contact\",source=\"hub\"}", 1.0),
        (Verb::Survey, held, "continuity_breaks_total{reason=\"clock_jump\",source=\"hub\"}", 1.0),
        (Verb::Survey, held, "hold_ends_timestamp_seconds{source=\"hub\"}", 1_769_861_430.5),
        (Verb::Survey, |_| {}, "hold_ends_timestamp_seconds{source=\"hub\"}", 0.0),
    ];
    for (verb, edit, series, expected) in cases {
        let metrics = metrics(&["hub"]);
        let mut report = report(*verb);
        edit(&mut report);
        metrics.record(&report, WALL, MONO);
        assert_eq!(value(&scrape(&metrics), &format!("presence_reaper_{series}")), *expected, "{series}");
    }
}

#[test]
fn every_reason_and_kind_has_its_series() {
    let metrics = metrics(&["hub"]);
    let mut report = report(Verb::Strike);
    struck(&mut report);
    metrics.record(&report, WALL, MONO);
    for kind in Kind::ALL {
        report.failure = Some(Error::new(kind, "evicting", "127.0.0.1:6379", "no"));
        report.outcomes = Outcomes::default();
        metrics.record(&report, WALL, MONO);
    }
    let text = scrape(&metrics);
    for (why, count) in Blocked::ALL.into_iter().zip([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]) {
        let reason = why.as_str();
        let series = format!("presence_reaper_eviction_failures_total{{reason=\"{reason}\",source=\"hub\"}}");
        assert_eq!(value(&text, &series), count, "{series}");
    }
    for kind in Kind::ALL.map(Kind::as_str) {
        let series = format!("presence_reaper_sweep_failures_total{{reason=\"{kind}\",source=\"hub\"}}");
        assert_eq!(value(&text, &series), 1.0, "{series}");
    }
}

#[test]
fn a_survey_that_failed_leaves_the_picture_of_the_last_one() {
    let metrics = metrics(&["hub"]);
    let mut complete = report(Verb::Survey);
    surveyed(&mut complete);
    metrics.record(&complete, WALL, MONO);
    let mut failed = report(Verb::Survey);
    broken_off(&mut failed);
    metrics.record(&failed, WALL.plus(Duration::from_secs(30)), MONO);
    let text = scrape(&metrics);
    assert_eq!(value(&text, "presence_reaper_entries{source=\"hub\",state=\"live\"}"), 100.0);
    assert_eq!(value(&text, "presence_reaper_sweeps_total{source=\"hub\"}"), 2.0);
    assert_eq!(value(&text, "presence_reaper_last_sweep_timestamp_seconds{source=\"hub\"}"), 1_769_860_860.5);
}

#[test]
fn a_survey_is_in_progress_until_it_ends() {
    let metrics = metrics(&["hub"]);
    let in_progress = || value(&scrape(&metrics), "presence_reaper_sweep_in_progress{source=\"hub\"}");
    metrics.surveying("hub", true);
    assert_eq!(in_progress(), 1.0);
    metrics.record(&report(Verb::Survey), WALL, MONO);
    assert_eq!(in_progress(), 0.0);
    metrics.surveying("hub", true);
    metrics.surveying("hub", false);
    assert_eq!(in_progress(), 0.0, "dropped half-way");
}

#[test]
fn a_source_that_is_not_ours_is_ignored() {
    let metrics = metrics(&["rooms"]);
    let lines = |text: String| text.lines().filter(|line| !line.contains("process_")).map(String::from).collect();
    let before: Vec<String> = lines(scrape(&metrics));
    let mut stranger = report(Verb::Survey);
    surveyed(&mut stranger);
    metrics.surveying("hub", true);
    metrics.record(&stranger, WALL, MONO);
    assert_eq!(before, lines(scrape(&metrics)));
}

#[test]
fn certificates_have_a_series_only_where_there_are_any() {
    let name = "presence_reaper_tls_certificate_expiry_timestamp_seconds";
    let metrics = metrics(&["hub"]);
    assert!(!scrape(&metrics).contains(name), "no TLS, no series");
    let mut status = Status { certificates: [Certificate::Unused, Certificate::Unseen], ..status() };
    let text = metrics.render(&status, Format::Text).unwrap();
    assert!(value(&text, &format!("{name}{{role=\"redis_server\"}}")).is_nan());
    assert!(!text.contains("redis_client"), "we have none to show");
    status.certificates[Role::Client.index()] = Certificate::Expires(WALL);
    let text = metrics.render(&status, Format::Text).unwrap();
    assert_eq!(value(&text, &format!("{name}{{role=\"redis_client\"}}")), 1_769_860_830.5);
}

#[test]
fn what_a_server_calls_itself_stays_short() {
    let metrics = metrics(&["hub"]);
    let mut status = status();
    status.server = Some(ServerInfo { implementation: "é".repeat(5_000), version: "\"\n".into() });
    let text = metrics.render(&status, Format::Text).unwrap();
    let expected = format!("{{implementation=\"{}\",topology=\"standalone\",version=\"\\\"\\n\"}}", "é".repeat(64));
    assert_eq!(value(&text, &format!("presence_reaper_redis_info{expected}")), 1.0);
}
