//! What the alerts speak of exists: metrics, states, runbooks, and tests of their own.
//!
//! Whether they are right `promtool test rules` says, in `run.sh`; here is what it can't know.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use regex::Regex;

/// Exported only with TLS, so not on the golden page.
const ONLY_WITH_TLS: &str = "presence_reaper_tls_certificate_expiry_timestamp_seconds";

/// Where a runbook's address begins; what follows is the anchor of its section.
const RUNBOOKS: &str = "https://github.com/presence-reaper/presence-reaper/blob/main/docs/alerts.md#";

pub(crate) fn text_of(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The first group of every match.
pub(crate) fn found(pattern: &str, text: &str) -> Vec<String> {
    Regex::new(pattern).unwrap().captures_iter(text).map(|found| found[1].to_owned()).collect()
}

/// Of every file beside the alerts.
fn prometheus_files() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus");
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let named = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    files.map(|path| (named(&path), fs::read_to_string(&path).unwrap())).collect()
}

/// Names of ours, of metrics and of recorded series, that no scrape and no rule gives.
pub(crate) fn unknown_names(text: &str, golden: &str, rules: &str) -> BTreeSet<String> {
    let mut known: BTreeSet<String> = found(r"(?m)^([a-z_]+)[{ ]", golden).into_iter().collect();
    known.extend(found(r"record: (\S+)", rules));
    known.insert(ONLY_WITH_TLS.to_owned());
    let names = found(r"([a-z_0-9:]*presence_reaper_[a-z_0-9:]*)", text);
    names.into_iter().filter(|name| !known.contains(name)).collect()
}

/// States of a source, but normal, that no alert is about.
fn states_without_an_alert(golden: &str, rules: &str) -> BTreeSet<String> {
    let states: BTreeSet<String> =
        found(r#"presence_reaper_source_state\{[^}]*state="(\w+)""#, golden).into_iter().collect();
    let alerted = found(r#"source_state:leader\{state="(\w+)"\} == 1"#, rules);
    states.into_iter().filter(|state| state != "normal" && !alerted.contains(state)).collect()
}

/// For each alert of the unit tests, whether it is seen to fire, and whether it is seen not to.
fn tried(tests: &str) -> BTreeMap<String, (bool, bool)> {
    let mut tried = BTreeMap::<String, (bool, bool)>::new();
    for found in Regex::new(r"alertname: (\w+)\s+exp_alerts:( \[\])?").unwrap().captures_iter(tests) {
        let (fires, stays_quiet) = tried.entry(found[1].to_owned()).or_default();
        let quiet = found.get(2).is_some();
        *fires |= !quiet;
        *stays_quiet |= quiet;
    }
    tried
}

#[test]
fn every_name_is_exported() {
    let (golden, rules) = (text_of("src/metrics/golden.txt"), text_of("deploy/prometheus/alerts.yml"));
    assert!(text_of("src/metrics/connection.rs").contains(ONLY_WITH_TLS));
    for (file, text) in prometheus_files() {
        let unknown = unknown_names(&text, &golden, &rules);
        assert!(unknown.is_empty(), "{file} names what nothing exports: {unknown:?}");
    }
}

#[test]
fn every_state_of_a_source_has_an_alert() {
    let without = states_without_an_alert(&text_of("src/metrics/golden.txt"), &text_of("deploy/prometheus/alerts.yml"));
    assert!(without.is_empty(), "{without:?}");
}

#[test]
fn every_alert_has_a_runbook_a_row_and_tests() {
    let rules = text_of("deploy/prometheus/alerts.yml");
    let (runbooks, readme) = (text_of("docs/alerts.md"), text_of("README.md"));
    let tests: String = prometheus_files()
        .into_iter()
        .filter(|(name, _)| name.ends_with("_test.yml"))
        .fold(String::new(), |all, (_, text)| all + &text);
    let tried = tried(&tests);
    let alerts = found(r"alert: (\w+)", &rules);
    let addresses = found(r"runbook_url: (\S+)", &rules);
    assert_eq!(alerts.len(), addresses.len());
    for (alert, address) in alerts.iter().zip(addresses) {
        let anchor = alert.to_lowercase();
        assert_eq!(address, format!("{RUNBOOKS}{anchor}"));
        assert!(runbooks.contains(&format!("\n### {alert}\n")), "{alert} has no section in docs/alerts.md");
        assert!(readme.contains(&format!("| [{alert}](docs/alerts.md#{anchor}) |")), "{alert} has no row in README.md");
        assert_eq!(tried.get(alert), Some(&(true, true)), "{alert}: fires and stays quiet in a test");
    }
    let sections: BTreeSet<String> = found(r"\n### (\w+)\n", &runbooks).into_iter().collect();
    assert_eq!(sections, alerts.into_iter().collect(), "a section for each, and for no other");
    let (anchors, links) = (sections.iter().map(|one| one.to_lowercase()).collect(), found(r"\(#(\w+)\)", &runbooks));
    let links: BTreeSet<String> = links.into_iter().collect();
    assert!(links.is_subset(&anchors), "a link that leads nowhere: {:?}", links.difference(&anchors));
}

/// What rules record is what the alerts stand on.
#[test]
fn every_recorded_series_has_a_test() {
    let tests = text_of("deploy/prometheus/records_test.yml");
    let tested: BTreeSet<String> = found(r"- expr: (\S+)\n", &tests).into_iter().collect();
    let recorded: BTreeSet<String> =
        found(r"record: (\S+)", &text_of("deploy/prometheus/alerts.yml")).into_iter().collect();
    assert_eq!(tested, recorded);
    assert!(!tests.contains("exp_samples: []"), "each is seen to say something");
}

#[test]
fn a_check_that_sees_nothing_is_seen() {
    let golden =
        "presence_reaper_a_total{source=\"hub\"} 1\npresence_reaper_source_state{source=\"hub\",state=\"mass\"} 0\n";
    let rules = "record: source:presence_reaper_a:rate5m\n";
    let named =
        "source:presence_reaper_a:rate5m + presence_reaper_a_total + presence_reaper_b + source:presence_reaper_b:x";
    let unknown = ["presence_reaper_b", "source:presence_reaper_b:x"].map(String::from);
    assert_eq!(unknown_names(named, golden, rules), unknown.into());
    assert_eq!(states_without_an_alert(golden, rules), ["mass".to_owned()].into());
    assert!(states_without_an_alert(golden, "source_state:leader{state=\"mass\"} == 1").is_empty());
    let tests = "alertname: A\n        exp_alerts: []\nalertname: B\n        exp_alerts:\n          - exp_labels:\n";
    assert_eq!(tried(tests), [("A".to_owned(), (false, true)), ("B".to_owned(), (true, false))].into());
}
