//! The rules of Grafana's dashboard-linter, and the few of our own, over the JSON of a dashboard.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use crate::alerts::found;

/// One expression, and the panel or annotation that asks it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) title: String,
    pub(super) expr: String,
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// What shows data: everything but the rows.
fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    list(dashboard, "/panels").iter().filter(|panel| panel["type"] != "row")
}

/// All queries of all panels.
pub(super) fn queries(dashboard: &Value) -> Vec<Query> {
    let of_panel = |panel: &Value| {
        let query = |target: &Value| Query { title: text(panel, "title").into(), expr: text(target, "expr").into() };
        list(panel, "/targets").iter().map(query).collect::<Vec<_>>()
    };
    panels(dashboard).flat_map(of_panel).collect()
}

/// All queries of annotations.
pub(super) fn annotations(dashboard: &Value) -> Vec<Query> {
    let query = |one: &Value| Query { title: text(one, "name").into(), expr: text(one, "expr").into() };
    list(dashboard, "/annotations/list").iter().map(query).collect()
}

/// What the variables ask, as queries.
pub(super) fn variables(dashboard: &Value) -> Vec<String> {
    let variables = list(dashboard, "/templating/list").iter().filter(|variable| variable["type"] == "query");
    let query = |variable: &Value| {
        let asked = Regex::new(r"^label_values\((\w+(?:\{.*\})?), (\w+)\)$").unwrap();
        let query = text(&variable["query"], "query");
        asked
            .captures(query)
            .map_or_else(|| format!("no query: {query}"), |of| format!("count by ({}) ({})", &of[2], &of[1]))
    };
    variables.map(query).collect()
}

/// Everything that is wrong with it.
pub(super) fn complaints(dashboard: &Value, golden: &str) -> Vec<String> {
    let of_sources = found(r#"(?m)^(\w+)\{[^}]*source=""#, golden).into_iter().collect();
    complaints_knowing(dashboard, &of_sources)
}

/// `of_sources`: the metrics that have a label `source`.
fn complaints_knowing(dashboard: &Value, of_sources: &BTreeSet<String>) -> Vec<String> {
    let mut complaints = of_the_whole(dashboard);
    for panel in panels(dashboard) {
        let title = text(panel, "title");
        complaints.extend(of_panel(panel).into_iter().map(|complaint| format!("{title}: {complaint}")));
    }
    complaints.extend(of_the_layout(dashboard));
    for Query { title, expr } in queries(dashboard).iter().chain(&annotations(dashboard)) {
        complaints.extend(
            of_expression(expr, of_sources).into_iter().map(|complaint| format!("{title}: {complaint}: {expr}")),
        );
    }
    complaints
}

fn of_the_whole(dashboard: &Value) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut demand = |fine: bool, complaint: &str| {
        if !fine {
            complaints.push(complaint.to_owned());
        }
    };
    demand(dashboard["uid"] == "presence-reaper", "the uid is presence-reaper: links and alerts name it");
    demand(dashboard["title"] == "Presence Reaper", "no title");
    demand(dashboard["editable"] == false, "it can be edited, and what is edited is lost at the next import");
    demand(dashboard["id"].is_null(), "it has the id of somebody's database");
    let variables = list(dashboard, "/templating/list");
    let names: Vec<&str> = variables.iter().map(|variable| text(variable, "name")).collect();
    demand(names == ["datasource", "job", "instance", "source"], "the variables are datasource, job, instance, source");
    for variable in variables {
        let name = text(variable, "name");
        demand(!text(variable, "label").is_empty(), &format!("variable {name} has no label"));
        if variable["type"] == "datasource" {
            demand(variable["query"] == "prometheus", "the data source is a Prometheus");
            continue;
        }
        demand(is_templated(variable), &format!("variable {name} asks a fixed data source"));
        demand(
            variable["multi"] == true && variable["includeAll"] == true,
            &format!("variable {name} can't be several"),
        );
        demand(variable["allValue"] == ".+", &format!("variable {name}: all is not .+"));
        demand(variable["refresh"] == 2, &format!("variable {name} is not asked anew when the time changes"));
    }
    for annotation in list(dashboard, "/annotations/list") {
        demand(is_templated(annotation), "an annotation asks a fixed data source");
    }
    complaints
}

fn is_templated(value: &Value) -> bool {
    value["datasource"]["type"] == "prometheus" && value["datasource"]["uid"] == "${datasource}"
}

fn of_panel(panel: &Value) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut demand = |fine: bool, complaint: &str| {
        if !fine {
            complaints.push(complaint.to_owned());
        }
    };
    demand(!text(panel, "title").is_empty(), "no title");
    demand(text(panel, "description").ends_with('.'), "no sentence that describes it");
    demand(panel.pointer("/fieldConfig/defaults/unit").is_some_and(Value::is_string), "no unit");
    demand(is_templated(panel), "a fixed data source");
    let targets = list(panel, "/targets");
    demand(!targets.is_empty(), "nothing is asked");
    demand(targets.iter().all(is_templated), "a query of a fixed data source");
    let ids: BTreeSet<&str> = targets.iter().map(|target| text(target, "refId")).collect();
    demand(ids.len() == targets.len(), "two queries of one refId");
    complaints
}

/// Every id once, every panel within the 24 columns, no two on one place.
fn of_the_layout(dashboard: &Value) -> Vec<String> {
    let all = list(dashboard, "/panels");
    let mut complaints = Vec::new();
    let ids: BTreeSet<u64> = all.iter().filter_map(|panel| panel["id"].as_u64()).collect();
    if ids.len() != all.len() {
        complaints.push("two panels of one id".to_owned());
    }
    let place =
        |panel: &Value| ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap_or(u64::MAX / 4));
    for (at, panel) in all.iter().enumerate() {
        let [x, y, w, h] = place(panel);
        if x + w > 24 {
            complaints.push(format!("{} is wider than the page", text(panel, "title")));
        }
        let overlaps = |other: &&Value| {
            let [ox, oy, ow, oh] = place(other);
            x < ox + ow && ox < x + w && y < oy + oh && oy < y + h
        };
        if let Some(other) = all[at + 1..].iter().find(overlaps) {
            complaints.push(format!("{} lies on {}", text(panel, "title"), text(other, "title")));
        }
    }
    complaints
}

/// A metric, its matchers, and the time it is asked over.
static SELECTOR: LazyLock<Regex> = LazyLock::new(|| {
    let selector = r"\b(presence_reaper_[a-z0-9_]+|process_[a-z_]+|up)\b(?:\{([^}]*)\})?(?:\[([^\]]*)\])?";
    Regex::new(selector).unwrap()
});

fn of_expression(expr: &str, of_sources: &BTreeSet<String>) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut selected = 0;
    for selector in SELECTOR.captures_iter(expr) {
        selected += 1;
        let name = &selector[1];
        let matchers = selector.get(2).map_or("", |matchers| matchers.as_str());
        let mut wanted = vec!["job", "instance"];
        if of_sources.contains(name) {
            wanted.push("source");
        }
        for label in wanted {
            if !matchers.split(',').any(|matcher| matcher == format!("{label}=~\"${label}\"")) {
                complaints.push(format!("{name} is not asked of ${label}"));
            }
        }
        let span = selector.get(3).map(|span| span.as_str());
        if span.is_some_and(|span| span != "$__rate_interval" && span != "$__range") {
            complaints.push(format!("{name} over a fixed time"));
        }
        let before = &expr[..selector.get(0).map_or(0, |whole| whole.start())];
        let is_counter = ["_total", "_bucket", "_count", "_sum"].iter().any(|end| name.ends_with(end));
        let is_rated = ["rate(", "increase("].iter().any(|function| before.ends_with(function)) && span.is_some();
        if is_counter != is_rated {
            complaints.push(format!("{name} is a counter without its rate, or no counter and with one"));
        }
    }
    if selected == 0 {
        complaints.push("asks nothing of ours".to_owned());
    }
    complaints
}

/// A dashboard that is right, made wrong in one place, has a complaint.
#[test]
fn a_linter_that_sees_nothing_is_seen() {
    let of_sources = ["presence_reaper_foreign".to_owned()].into();
    let right: Value = serde_json::from_str(&crate::alerts::text_of("deploy/grafana/presence-reaper.json")).unwrap();
    let wrong: &[(&str, Value, &str)] = &[
        ("/uid", "x".into(), "the uid"),
        ("/editable", true.into(), "it can be edited"),
        ("/id", 7.into(), "somebody's database"),
        ("/templating/list/1/name", "jobs".into(), "the variables are"),
        ("/templating/list/2/label", "".into(), "instance has no label"),
        ("/templating/list/2/datasource/uid", "abc".into(), "instance asks a fixed"),
        ("/templating/list/3/multi", false.into(), "source can't be several"),
        ("/templating/list/3/allValue", Value::Null, "all is not"),
        ("/templating/list/1/refresh", 1.into(), "asked anew"),
        ("/annotations/list/0/datasource/uid", "abc".into(), "annotation asks"),
        ("/panels/1/title", "".into(), "no title"),
        ("/panels/1/description", "".into(), "no sentence"),
        ("/panels/1/fieldConfig/defaults/unit", Value::Null, "no unit"),
        ("/panels/1/datasource/uid", "abc".into(), "a fixed data source"),
        ("/panels/1/targets", Value::Array(vec![]), "nothing is asked"),
        ("/panels/1/targets/0/datasource/uid", "abc".into(), "a query of a fixed"),
        ("/panels/1/id", 1.into(), "two panels of one id"),
        ("/panels/2/gridPos/x", 23.into(), "wider than the page"),
        ("/panels/2/gridPos/x", 0.into(), "lies on"),
        ("/panels/1/targets/0/expr", "sum(up)".into(), "not asked of $job"),
        ("/panels/1/targets/0/expr", "sum(up{job=~\"$job\"})".into(), "not asked of $instance"),
        ("/panels/1/targets/0/expr", "1 + 1".into(), "asks nothing"),
        (
            "/panels/1/targets/0/expr",
            "presence_reaper_foreign{job=~\"$job\",instance=~\"$instance\"}".into(),
            "not asked of $source",
        ),
        (
            "/panels/1/targets/0/expr",
            "rate(process_cpu_seconds_total{job=~\"$job\",instance=~\"$instance\"}[5m])".into(),
            "over a fixed time",
        ),
        (
            "/panels/1/targets/0/expr",
            "process_cpu_seconds_total{job=~\"$job\",instance=~\"$instance\"}".into(),
            "without its rate",
        ),
        (
            "/panels/1/targets/0/expr",
            "rate(process_open_fds{job=~\"$job\",instance=~\"$instance\"}[$__rate_interval])".into(),
            "no counter and with one",
        ),
    ];
    for (pointer, value, complaint) in wrong {
        let mut dashboard = right.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        dashboard.pointer_mut(parent).unwrap()[key] = value.clone();
        let found = complaints_knowing(&dashboard, &of_sources);
        assert!(found.iter().any(|found| found.contains(complaint)), "{pointer} = {value}: {found:#?}");
    }
}
