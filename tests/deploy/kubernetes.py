"""Judges rendered manifests: kubernetes.py FOLDER RULES

FOLDER holds one YAML file for each rendering. Beside each it writes what other tools judge: NAME.toml for each
configuration in it, NAME.monitoring.json with the objects of the Prometheus operator; and audit.pod.yaml, the Pod of the
CronJob with its configuration, for podman knows no CronJobs. RULES is Prometheus' own file.
"""

import collections
import json
import pathlib
import sys

import yaml

COMMON = ["ConfigMap", "NetworkPolicy", "ServiceAccount"]
DAEMON = [*COMMON, "Deployment", "Service"]
# What each rendering has to hold, all of it: schemas pass over kinds that they don't know.
KINDS = {
    "base": DAEMON,
    "ha": [*DAEMON, "PodDisruptionBudget"],
    "cronjob-audit": [*COMMON, "CronJob"],
    "site": [*DAEMON, "PodDisruptionBudget", "PodMonitor", "PrometheusRule"],
    "native-sidecar": ["ConfigMap", "Deployment"],
    "classic-sidecar": ["ConfigMap", "Deployment"],
}
PORT = "presence-reaper"
# Volumes that the restricted profile of the Pod Security Standards allows.
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}

problems = []


def must(holds, *what):
    if not holds:
        problems.append(": ".join(what))


def templates(objects):
    """Every Pod that something here makes, as the template of it."""
    for thing in objects:
        if thing["kind"] == "Deployment":
            yield thing["spec"]["template"]
        if thing["kind"] == "CronJob":
            yield thing["spec"]["jobTemplate"]["spec"]["template"]


def containers(spec):
    return [*spec.get("initContainers", []), *spec["containers"]]


def restricted(where, spec):
    """The conditions of the restricted profile, and of the baseline that it stands on."""
    pod = spec.get("securityContext", {})
    for key in ("hostNetwork", "hostPID", "hostIPC", "hostUsers"):
        must(not spec.get(key), where, f"{key} is set")
    must("sysctls" not in pod and "seLinuxOptions" not in pod, where, "sysctls or SELinux options")
    for volume in spec.get("volumes", []):
        must(set(volume) - {"name"} <= VOLUMES, where, f"volume {volume['name']} is of a kind that is not allowed")
    for container in containers(spec):
        which = f"{where}, container {container['name']}"
        own = container.get("securityContext", {})
        both = {**pod, **own}
        must(own.get("allowPrivilegeEscalation") is False, which, "may escalate privileges")
        must(own.get("capabilities", {}).get("drop") == ["ALL"], which, "keeps capabilities")
        must(not own.get("capabilities", {}).get("add"), which, "adds capabilities")
        must(not own.get("privileged") and "procMount" not in own, which, "privileged, or /proc unmasked")
        must(both.get("runAsNonRoot") is True, which, "may run as root")
        must(both.get("runAsUser", 1) != 0, which, "runs as root")
        must(both.get("seccompProfile", {}).get("type") == "RuntimeDefault", which, "no seccomp profile")
        must(all("hostPort" not in port for port in container.get("ports", [])), which, "a port of the host")


def ours(where, spec):
    """What the profile does not ask for, and we do."""
    must(spec.get("automountServiceAccountToken") is False, where, "a token of the API is mounted")
    must(spec.get("enableServiceLinks") is False, where, "variables of Services are put in")
    for container in containers(spec):
        which = f"{where}, container {container['name']}"
        must(container["securityContext"].get("readOnlyRootFilesystem") is True, which, "its root can be written")
        resources = container.get("resources", {})
        must("memory" in resources.get("limits", {}) and "cpu" not in resources["limits"], which, "limits: memory alone")
        must({"cpu", "memory"} <= set(resources.get("requests", {})), which, "requests: cpu and memory")
        ports = {port["name"] for port in container.get("ports", [])}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if probe in container:
                must(container[probe]["httpGet"]["port"] in ports, which, f"{probe} asks a port that has no name here")
                path = "/readyz" if probe == "readinessProbe" else "/healthz"
                must(container[probe]["httpGet"]["path"] == path, which, f"{probe} has to ask {path}")


def sidecar(name, spec):
    """Whether the reaper is a good guest in the hub's Pod."""
    native = name == "native-sidecar"
    inside = spec.get("initContainers" if native else "containers", [])
    reapers = [container for container in inside if container["name"] == PORT]
    must(len(reapers) == 1, name, "one reaper where it belongs")
    for reaper in reapers:
        must("readinessProbe" not in reaper, name, "a readiness probe: Redis away would take the hub out of its Service")
        must(reaper.get("restartPolicy") == ("Always" if native else None), name, "restartPolicy makes a sidecar")
        must(("startupProbe" in reaper) is native, name, "a startup probe only where the hub waits")


def references(name, objects):
    """Names that have to lead somewhere, and selectors that have to find Pods."""
    by_kind = collections.defaultdict(dict)
    for thing in objects:
        by_kind[thing["kind"]][thing["metadata"]["name"]] = thing
    pods = list(templates(objects))
    for pod in pods:
        spec, labels = pod["spec"], pod["metadata"]["labels"]
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        for volume in volumes.values():
            if "configMap" in volume:
                must(volume["configMap"]["name"] in by_kind["ConfigMap"], name, "a ConfigMap that is not here")
        for container in containers(spec):
            for mount in container.get("volumeMounts", []):
                must(mount["name"] in volumes, name, f"no volume {mount['name']}")
        account = spec.get("serviceAccountName")
        must(account is None or account in by_kind["ServiceAccount"], name, f"no ServiceAccount {account}")
        for policy in by_kind["NetworkPolicy"].values():
            wanted = policy["spec"]["podSelector"]["matchLabels"]
            must(wanted.items() <= labels.items(), name, "the NetworkPolicy passes over a Pod")
    finders = [(kind, thing) for kind in ("Service", "Deployment", "PodDisruptionBudget") for thing in by_kind[kind].values()]
    for kind, thing in finders:
        selector = thing["spec"]["selector"]
        wanted = selector.get("matchLabels", selector)
        must(any(wanted.items() <= pod["metadata"]["labels"].items() for pod in pods), name, f"{kind} finds no Pod")
        # What is beside it in the namespace: a Job's Pod listens nowhere, and is no replica.
        must(wanted.get("app.kubernetes.io/component") == "daemon" or "sidecar" in name, name, f"{kind} finds audits too")
    ports = [port["name"] for pod in pods for container in containers(pod["spec"]) for port in container.get("ports", [])]
    for service in by_kind["Service"].values():
        must(all(port["targetPort"] in ports for port in service["spec"]["ports"]), name, "the Service leads to no port")
    for monitor in by_kind["PodMonitor"].values():
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            must(endpoint["port"] in ports, name, "the PodMonitor finds no port")
            jobs = [rule["replacement"] for rule in endpoint["relabelings"] if rule.get("targetLabel") == "job"]
            must(jobs == [PORT], name, "the job has to be called as the alerts call it")


def audit_pod(objects):
    """The Pod that the CronJob makes, and the ConfigMap that it mounts."""
    (config,) = [thing for thing in objects if thing["kind"] == "ConfigMap"]
    (template,) = templates(objects)
    pod = {"apiVersion": "v1", "kind": "Pod", **template}
    pod["metadata"]["name"] = "audit"
    return yaml.safe_dump_all([config, pod])


def main(folder, rules):
    groups = yaml.safe_load(pathlib.Path(rules).read_text())["groups"]
    for name, kinds in KINDS.items():
        path = pathlib.Path(folder, f"{name}.yaml")
        objects = [thing for thing in yaml.safe_load_all(path.read_text()) if thing]
        found = sorted(thing["kind"] for thing in objects)
        must(found == sorted(kinds), name, f"holds {', '.join(found)}")
        for pod in templates(objects):
            restricted(name, pod["spec"])
            ours(name, pod["spec"])
            if "sidecar" in name:
                sidecar(name, pod["spec"])
        references(name, objects)
        configurations = [thing["data"]["reaper.toml"] for thing in objects if thing["kind"] == "ConfigMap"]
        path.with_suffix(".toml").write_text("\n".join(configurations))
        if name == "cronjob-audit":
            path.with_name("audit.pod.yaml").write_text(audit_pod(objects))
        monitoring = [thing for thing in objects if thing["apiVersion"].startswith("monitoring.coreos.com/")]
        path.with_suffix(".monitoring.json").write_text(json.dumps(monitoring))
        for thing in monitoring:
            if thing["kind"] == "PrometheusRule":
                must(thing["spec"]["groups"] == groups, name, f"other rules than {rules}")
        counted = ", ".join(found)
        print(f"seen: {name}: {counted}")
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main(*sys.argv[1:])
