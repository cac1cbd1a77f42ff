//! What `deploy/` says twice, because another program wants it in another form, is the same there.
//!
//! Whether the manifests are right `tests/deploy/kubernetes.sh` says; here is what needs no tool.

use std::fs;
use std::path::{Path, PathBuf};

/// What stands before the groups in the operator's object.
const RULE: &str = "\
# The rules of deploy/prometheus/alerts.yml, as the Prometheus operator takes them. Not written by hand:
# `UPDATE_GOLDEN=1 cargo test --test it kubernetes` makes it of that file.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: presence-reaper
  labels:
    app.kubernetes.io/name: presence-reaper
spec:
";

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)
}

fn text_of(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The object that carries these rules: the groups as they are, two blanks further in.
fn rule_of(alerts: &str) -> String {
    let from = alerts.find("\ngroups:\n").expect("alerts.yml has groups") + 1;
    let further_in = |line: &str| if line.is_empty() { "\n".to_owned() } else { format!("  {line}\n") };
    let groups: String = alerts[from..].lines().map(further_in).collect();
    format!("{RULE}{groups}")
}

#[test]
fn the_operator_gets_the_rules_that_prometheus_gets() {
    let path = deploy("kubernetes/components/prometheus-operator/prometheusrule.yaml");
    let rule = rule_of(&text_of(&deploy("prometheus/alerts.yml")));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, rule).unwrap();
        return;
    }
    assert!(text_of(&path) == rule, "{} differs: UPDATE_GOLDEN=1 cargo test writes it anew", path.display());
}

/// Every tag behind the image's name.
fn tags(text: &str) -> Vec<&str> {
    text.match_indices("image: presence-reaper:")
        .map(|(at, before)| text[at + before.len()..].split_whitespace().next().unwrap_or_default())
        .collect()
}

#[test]
fn images_are_of_this_version() {
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    let manifests = [
        "kubernetes/base/deployment.yaml",
        "kubernetes/overlays/cronjob-audit/cronjob.yaml",
        "kubernetes/examples/native-sidecar.yaml",
        "kubernetes/examples/classic-sidecar.yaml",
    ];
    for manifest in manifests {
        assert_eq!(tags(&text_of(&deploy(manifest))), [VERSION], "{manifest}");
    }
    let site = text_of(&deploy("kubernetes/examples/site/kustomization.yaml"));
    assert!(site.contains(&format!("newTag: {VERSION}\n")), "{site}");
    let dockerfile = text_of(&deploy("container/Dockerfile"));
    assert!(dockerfile.contains(&format!("\nARG VERSION={VERSION}\n")), "{dockerfile}");
}
