#!/usr/bin/env bash
# The manifests of deploy/kubernetes: rendered, held against the schemas of Kubernetes and of the Prometheus operator, and
# one Pod of them run by podman, with Redis and the reaper. No cluster is here, so nothing says what one would make of them.
# Prints what it has seen.
set -euo pipefail
cd "$(dirname "$0")/../.."

target_of_deploy=$(realpath -m "${CARGO_TARGET_DIR:-target}")
venv=$target_of_deploy/kubernetes-venv
models=$target_of_deploy/kubernetes-models

if ! command -v kubectl >/dev/null && ! command -v kustomize >/dev/null; then
  # Debian has it from 13 on.
  deploy/apt-install.sh kustomize 2>/dev/null || {
    echo "skipped: neither kubectl nor kustomize is here, or can be installed by apt-get"
    exit 0
  }
fi

install_tools() {
  if [ ! -x "$venv/bin/kubernetes-validate" ] || [ ! -x "$venv/bin/yamllint" ]; then
    python3 -c 'import ensurepip, venv' 2>/dev/null || deploy/apt-install.sh python3-venv
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
      kubernetes-validate==1.37.0 yamllint==1.38.0
  fi
  if command -v npm >/dev/null && [ ! -d "$models/node_modules" ]; then
    npm install --silent --no-audit --no-fund --prefix "$models" @kubernetes-models/prometheus-operator@6
  fi
}

# shellcheck source=tests/deploy/containers.sh
source tests/deploy/containers.sh

# === what they say ===

"$venv/bin/yamllint" --strict -d '{extends: default, rules: {
  document-start: disable, line-length: {max: 120, ignore: prometheusrule.yaml}}}' deploy/kubernetes
seen "yamllint finds nothing"

render() {
  if command -v kubectl >/dev/null; then
    kubectl kustomize "$@"
  else
    kustomize build "$@"
  fi
}
rendered=$scratch/rendered
mkdir "$rendered"
for folder in base overlays/ha overlays/cronjob-audit examples/site; do
  render "deploy/kubernetes/$folder" >"$rendered/$(basename "$folder").yaml"
done
cp deploy/kubernetes/examples/*.yaml "$rendered"
[ "$(find "$rendered" -name '*.yaml' | wc -l)" = 6 ] || fail "tests/deploy/kubernetes.py has to know each rendering"

# Kinds, references, the restricted profile, and the rules of alerts.yml.
"$venv/bin/python" tests/deploy/kubernetes.py "$rendered" deploy/prometheus/alerts.yml
seen "each Pod keeps to the restricted profile; the PrometheusRule carries the groups of alerts.yml"

valid() { "$venv/bin/kubernetes-validate" --quiet --strict -k "$1" "${@:2}" >"$scratch/valid.txt" 2>&1; }
for version in 1.29 1.37; do
  valid "$version" "$rendered"/*.yaml || fail "$(cat "$scratch/valid.txt")"
done
valid 1.26 "$rendered"/{base,ha,cronjob-audit,site,classic-sidecar}.yaml || fail "$(cat "$scratch/valid.txt")"
# They do refuse: before 1.28 there was no native sidecar.
valid 1.27 "$rendered/native-sidecar.yaml" && fail "a native sidecar passed the schema of 1.27"
seen "valid by the schemas of Kubernetes 1.29 and 1.37; all but the native sidecar by 1.26 too"

if [ -d "$models/node_modules" ]; then
  # Beside the modules, for that is where an import looks for them.
  cat >"$models/validate.mjs" <<'JS'
import * as models from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";
import { readFileSync } from "node:fs";
const objects = JSON.parse(readFileSync(process.argv[2]));
if (objects.length !== 2) throw new Error(`${objects.length} objects`);
for (const object of objects) new models[object.kind](object).validate();
// They do refuse: what takes a duration takes no number.
const [monitor] = objects.filter((object) => object.kind === "PodMonitor");
monitor.spec.podMetricsEndpoints[0].interval = 15;
let refused = false;
try { new models.PodMonitor(monitor).validate(); } catch { refused = true; }
if (!refused) throw new Error("a wrong PodMonitor passed");
JS
  node "$models/validate.mjs" "$rendered/site.monitoring.json"
  seen "PodMonitor and PrometheusRule are valid by the operator's schemas"
else
  seen "no npm here: the operator's schemas are not asked"
fi

for configuration in "$rendered"/*.toml; do
  "$program" check --config "$configuration" >"$scratch/check.txt" 2>&1 || fail "$(cat "$scratch/check.txt")"
  ! grep -q '^warning' "$scratch/check.txt" || fail "$(cat "$scratch/check.txt")"
done
seen "presence-reaper check passes each configuration in them"

# === one of them run ===

build_image localhost/presence-reaper:test
import_redis localhost/redis:test

# What podman lacks is taken out: a network of Pods, with names; probes over HTTP (it runs them inside, where nothing can
# run them); volumes made of a Secret.
play=$scratch/play
mkdir "$play"
cp deploy/kubernetes/examples/classic-sidecar.yaml "$rendered/audit.pod.yaml" "$play"

# Renders these objects with the patch that stdin holds: adapted FILE
adapted() {
  {
    printf 'resources: [%s]\n' "$1"
    cat - <<'YAML'
configMapGenerator:
  - name: redis-password
    literals: [redis-password=open-sesame]
generatorOptions: {disableNameSuffixHash: true}
patches:
  - patch: |-
YAML
    sed 's/^/      /'
  } >"$play/kustomization.yaml"
  render "$play" | sed -e 's/threshold = "5m"/threshold = "8s"/' -e 's/heartbeat_interval = "30s"/heartbeat_interval = "1s"/'
}

# The example with Redis in the place of the hub.
adapted classic-sidecar.yaml >"$scratch/sidecar.yaml" <<'YAML'
apiVersion: apps/v1
kind: Deployment
metadata: {name: hub}
spec:
  replicas: 1
  template:
    spec:
      hostNetwork: true
      containers:
        - name: hub
          image: localhost/redis:test
          imagePullPolicy: Never
          args: [--bind, 127.0.0.1, --save, "", --user, reaper, "on", ">open-sesame", "~*", "&*", "+@all"]
        - name: presence-reaper
          image: localhost/presence-reaper:test
          imagePullPolicy: Never
          ports: null
          livenessProbe: null
          env:
            - {name: PRESENCE_REAPER_REDIS__URL, value: "redis://127.0.0.1:6379/0"}
      volumes:
        - name: presence-reaper-redis
          secret: null
          configMap: {name: redis-password}
YAML
pod kube play --quiet "$scratch/sidecar.yaml" >/dev/null 2>"$scratch/play.txt" || fail "$(cat "$scratch/play.txt")"

eventually 20 redis-cli ping >/dev/null 2>&1
redis-cli zadd presence:online 1767225600000 ghost >/dev/null
living 6379
gone() { [ -z "$(redis-cli zscore presence:online ghost)" ]; }
eventually 90 gone
[ "$(redis-cli zcard presence:online)" = 20 ] || fail "somebody living is missing"
ready() { curl -sf http://127.0.0.1:19121/readyz >/dev/null; }
eventually 20 ready
redis-cli client list | grep -q ' user=reaper ' || fail "it is not the user reaper"
seen "the classic sidecar beside Redis, as the user reaper: a ghost is evicted, twenty living are not"

pod stop --time 20 hub-pod-0-presence-reaper >/dev/null
[ "$(pod inspect hub-pod-0-presence-reaper --format '{{.State.ExitCode}}')" = 0 ] || fail "SIGTERM does not end it well"

# The night's audit of the same Redis, as a user that can only look.
auditor=$("$program" check --acl=7.0 --dry-run --config "$rendered/cronjob-audit.toml" 2>/dev/null |
  sed -n 's/^ACL SETUSER [^ ]* on <PASSWORD>/acl setuser auditor on >open-sesame/p')
[ "$(redis-cli <<<"$auditor")" = OK ] || fail "no auditor: $auditor"
redis-cli zadd presence:online 1767225600000 second-ghost >/dev/null
adapted audit.pod.yaml >"$scratch/audit.yaml" <<'YAML'
apiVersion: v1
kind: Pod
metadata: {name: audit}
spec:
  hostNetwork: true
  containers:
    - name: presence-reaper
      image: localhost/presence-reaper:test
      imagePullPolicy: Never
      env:
        - {name: PRESENCE_REAPER_REDIS__URL, value: "redis://127.0.0.1:6379/0"}
  volumes:
    - name: redis
      secret: null
      configMap: {name: redis-password}
YAML
pod kube play --quiet "$scratch/audit.yaml" >/dev/null 2>"$scratch/play.txt" || fail "$(cat "$scratch/play.txt")"
[ "$(pod wait audit-presence-reaper)" = 0 ] || fail "the audit failed"
pod logs audit-presence-reaper 2>/dev/null >"$scratch/audit.json"
found=$("$venv/bin/python" -c '
import json, sys
report = json.load(sys.stdin)
(source,) = report["sources"]
print(report["dry_run"], report["complete"], source["name"], [entry["id"] for entry in source["stale"]])
' <"$scratch/audit.json") || fail "$(cat "$scratch/audit.json")"
[ "$found" = "True True hub ['second-ghost']" ] || fail "the audit found $found"
seen "the Pod of the CronJob, as the user auditor: one JSON document, and in it the one that is stale"

pod kube down "$scratch/audit.yaml" >/dev/null
pod kube down "$scratch/sidecar.yaml" >/dev/null

echo "ok: kubernetes"
