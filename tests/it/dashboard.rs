//! The dashboard and the rules: held to what Grafana's own linter asks of a dashboard, and asked, query by query, of a
//! Prometheus that scrapes the demonstration.

mod linter;

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use regex::Regex;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::alerts::{found, text_of, unknown_names};
use crate::harness::{Binary, Daemon, eventually, free_port, get};
use linter::{Query, annotations, complaints, queries, variables};

/// The demonstration takes ten seconds to its first evictions.
const LIMIT: Duration = Duration::from_secs(90);

/// Panels in which there may be nothing, and why.
const MAY_BE_EMPTY: [(&str, &str); 2] = [
    ("Holds end", "the demonstration does not hold once its first grace is over"),
    ("Certificates end in", "it speaks no TLS"),
];

fn dashboard() -> Value {
    serde_json::from_str(&text_of("deploy/grafana/presence-reaper.json")).unwrap()
}

#[test]
fn the_linter_finds_no_fault() {
    let golden = text_of("src/metrics/golden.txt");
    let complaints = complaints(&dashboard(), &golden);
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[test]
fn every_name_in_a_query_is_exported() {
    let (golden, rules) = (text_of("src/metrics/golden.txt"), text_of("deploy/prometheus/alerts.yml"));
    let dashboard = dashboard();
    let mut queries = queries(&dashboard);
    queries.extend(annotations(&dashboard));
    assert!(queries.len() > 50, "{}", queries.len());
    for Query { title, expr, .. } in queries {
        let unknown = unknown_names(&expr, &golden, &rules);
        assert!(unknown.is_empty(), "{title} asks for what nothing exports: {unknown:?}");
        assert!(!expr.contains("source:"), "{title} needs the rules, and somebody may not have them: {expr}");
    }
}

/// What is exported and shown nowhere is seen by nobody; what is left out is told of elsewhere.
#[test]
fn what_is_exported_is_shown() {
    const ELSEWHERE: [&str; 3] = [
        "presence_reaper_last_sweep_timestamp_seconds",
        "presence_reaper_sweep_in_progress",
        "presence_reaper_webhook_posts_total",
    ];
    let asked = found(r"(presence_reaper_\w+)", &text_of("deploy/grafana/presence-reaper.json"));
    let shown: BTreeSet<&str> = asked.iter().map(|name| name.trim_end_matches("_bucket")).collect();
    let exported = found(r"(?m)^# TYPE (\w+) ", &text_of("src/metrics/golden.txt"));
    let hidden: Vec<String> = exported
        .into_iter()
        .filter(|name| !shown.contains(name.as_str()) && !ELSEWHERE.contains(&name.as_str()))
        .collect();
    assert!(hidden.is_empty(), "{hidden:?}");
}

// === asked of a Prometheus ===

/// A Prometheus of our own, which scrapes one reaper every second and evaluates the rules as often.
struct Prometheus {
    address: SocketAddr,
    _process: Child,
    _directory: TempDir,
}

impl Prometheus {
    /// With the example's configuration and the rules beside it, in a hurry. None where there is no Prometheus.
    fn start(reaper: SocketAddr) -> Option<Self> {
        let directory = TempDir::new().unwrap();
        let configuration = text_of("deploy/prometheus/prometheus.yml");
        assert!(configuration.contains("127.0.0.1:19121") && configuration.matches(": 15s").count() == 2);
        let configuration = configuration.replace("127.0.0.1:19121", &reaper.to_string()).replace(": 15s", ": 1s");
        let file = directory.path().join("prometheus.yml");
        fs::write(&file, configuration).unwrap();
        fs::write(directory.path().join("alerts.yml"), text_of("deploy/prometheus/alerts.yml")).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=warn")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        match process {
            Ok(process) => Some(Self { address, _process: process, _directory: directory }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => panic!("prometheus: {error}"),
        }
    }

    /// The `data` of an answer, or what is wrong.
    async fn api(&self, path: &str) -> Result<Value, String> {
        let body = timeout(Duration::from_secs(10), self.ask(path)).await.map_err(|_| "no answer".to_owned())?;
        let body = body.map_err(|error| error.to_string())?;
        let answer: Value = serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))?;
        match answer["status"].as_str() {
            Some("success") => Ok(answer["data"].clone()),
            _ => Err(answer["error"].to_string()),
        }
    }

    /// In HTTP/1.0, to which nobody answers in chunks.
    async fn ask(&self, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.address).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.address).as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    }

    /// The samples of a query now.
    async fn query(&self, expr: &str) -> Result<Vec<f64>, String> {
        let data = self.api(&format!("/api/v1/query?query={}", in_an_address(expr))).await?;
        let samples = data["result"].as_array().ok_or("no result")?;
        let value = |sample: &Value| sample["value"][1].as_str().and_then(|value| value.parse().ok());
        Ok(samples.iter().filter_map(value).collect())
    }

    /// What is wrong with the targets and with the rules, as Prometheus itself sees it.
    async fn troubles(&self) -> Result<Vec<String>, String> {
        let mut troubles = Vec::new();
        let targets = self.api("/api/v1/targets?state=active").await?;
        let targets = targets["activeTargets"].as_array().ok_or("no targets")?.clone();
        let is_up = |target: &Value| target["health"] == "up" && target["lastError"] == "";
        troubles.extend(targets.iter().filter(|target| !is_up(target)).map(|target| format!("target: {target}")));
        if targets.is_empty() {
            troubles.push("no target".to_owned());
        }
        let rules = self.api("/api/v1/rules").await?;
        let groups = rules["groups"].as_array().ok_or("no groups")?.clone();
        let rules: Vec<&Value> = groups.iter().filter_map(|group| group["rules"].as_array()).flatten().collect();
        let unwell = rules.iter().filter(|rule| rule["health"] != "ok");
        troubles.extend(unwell.map(|rule| format!("rule {}: {} {}", rule["name"], rule["health"], rule["lastError"])));
        if rules.len() != found(r"(?m)^ +- (alert|record): ", &text_of("deploy/prometheus/alerts.yml")).len() {
            troubles.push(format!("{} rules", rules.len()));
        }
        Ok(troubles)
    }
}

/// As a value in the query of an address.
fn in_an_address(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
        encoded
    })
}

/// As Grafana sends it, with everything chosen.
fn chosen(expr: &str) -> String {
    ["$job", "$instance", "$source"]
        .into_iter()
        .fold(expr.replace("$__rate_interval", "1m").replace("$__range", "5m"), |expr, name| expr.replace(name, ".+"))
}

/// A demonstration that goes on, and where its endpoints are.
async fn demonstration() -> (TempDir, Daemon, SocketAddr) {
    let dir = TempDir::new().unwrap();
    let tmp = dir.path().to_str().unwrap().to_owned();
    let demo = Binary::new(["demo", "--clients", "60", "--serve"]).env("TMPDIR", &tmp).spawn();
    let said = r"its endpoints on http://([0-9.:]+)";
    eventually(LIMIT, async || Regex::new(said).unwrap().is_match(&demo.stdout())).await;
    let address = found(said, &demo.stdout())[0].parse().unwrap();
    (dir, demo, address)
}

/// Everything that does not give what it should, at this moment.
async fn troubles(prometheus: &Prometheus) -> Vec<String> {
    let mut troubles = prometheus.troubles().await.unwrap_or_else(|error| vec![error]);
    let dashboard = dashboard();
    for Query { title, expr, .. } in queries(&dashboard) {
        let may_be_empty = MAY_BE_EMPTY.iter().any(|(panel, _)| *panel == title);
        match prometheus.query(&chosen(&expr)).await {
            Err(error) => troubles.push(format!("{title}: {error}: {expr}")),
            Ok(samples) if may_be_empty || samples.iter().any(|sample| !sample.is_nan()) => {}
            Ok(samples) => troubles.push(format!("{title}: {samples:?}: {expr}")),
        }
    }
    // Nothing may have happened that were to be noted.
    for Query { title, expr, .. } in annotations(&dashboard) {
        if let Err(error) = prometheus.query(&chosen(&expr)).await {
            troubles.push(format!("{title}: {error}: {expr}"));
        }
    }
    let records = found(r"record: (\S+)", &text_of("deploy/prometheus/alerts.yml"));
    let variables = variables(&dashboard).into_iter().map(|query| chosen(&query));
    for expr in records.into_iter().chain(variables) {
        match prometheus.query(&expr).await {
            Err(error) => troubles.push(format!("{error}: {expr}")),
            Ok(samples) if samples.is_empty() => troubles.push(format!("nothing: {expr}")),
            Ok(_) => {}
        }
    }
    troubles
}

#[tokio::test]
async fn every_query_has_an_answer() {
    let titles: BTreeSet<String> = queries(&dashboard()).into_iter().map(|query| query.title).collect();
    assert!(MAY_BE_EMPTY.iter().all(|(title, _)| titles.contains(*title)), "an exception for a panel that is gone");
    let (_dir, demo, reaper) = demonstration().await;
    if let Some(prometheus) = Prometheus::start(reaper) {
        ask_everything(&prometheus, &demo, reaper).await;
    }
    // Killed, it would leave its server behind.
    demo.terminate();
    demo.wait(Duration::from_secs(10)).await.assert_code(0);
}

async fn ask_everything(prometheus: &Prometheus, demo: &Daemon, reaper: SocketAddr) {
    let began = Instant::now();
    let mut left = troubles(prometheus).await;
    while !left.is_empty() && began.elapsed() < LIMIT {
        sleep(Duration::from_secs(1)).await;
        left = troubles(prometheus).await;
    }
    assert!(left.is_empty(), "{left:#?}\n{}", demo.stdout());

    // What is wrong would be seen: neither a name that nothing exports, nor an expression that is none, passes.
    assert_eq!(prometheus.query("presence_reaper_evicted").await, Ok(vec![]));
    assert!(prometheus.query("rate(presence_reaper_evictions_total)").await.is_err());

    let page = get(reaper, "/metrics").await.unwrap().body;
    let rules = text_of("deploy/prometheus/alerts.yml");
    let expressions = queries(&dashboard()).into_iter().map(|query| query.expr).chain([rules]);
    for name in expressions.flat_map(|expr| found(r"\b(process_[a-z_]+)", &expr)) {
        assert!(page.contains(&format!("\n{name} ")), "{name} is not in /metrics");
    }
}

#[test]
fn a_query_is_written_into_an_address() {
    assert_eq!(in_an_address("sum(up{a=\"b+ü\"})"), "sum%28up%7Ba%3D%22b%2B%C3%BC%22%7D%29");
    assert_eq!(chosen("a{b=~\"$job\"}[$__rate_interval] [$__range]"), "a{b=~\".+\"}[1m] [5m]");
}
