#!/usr/bin/env bash
# The units of deploy/systemd under a real systemd: tests/deploy/systemd.sh
#
# It boots this machine's own system as a throw-away container (nothing of it is written to), with the units in /etc, the
# program in /usr/bin, no network but a loopback of its own, and systemd/check.sh as the only thing to do. Takes about a
# minute. Where there is no such container, as in one without the rights for it, it says `skipped`.
set -euo pipefail
cd "$(dirname "$0")/../.."

skip() {
  printf 'skipped: %s\n' "$1"
  exit 0
}

[ "$(id -u)" -eq 0 ] || skip "a container with a systemd of its own needs root"
if ! command -v systemd-nspawn >/dev/null; then
  deploy/apt-install.sh systemd-container || skip "no systemd-nspawn"
fi

for unit in deploy/systemd/*.service; do
  if ! systemd-analyze security --offline=yes --threshold=12 "$unit" | tail -n 1; then
    echo "failed: $unit is exposed more than 1.2"
    exit 1
  fi
done

scratch=$(mktemp -d)
container=
clean_up() {
  if [ -n "$container" ] && kill -0 "$container" 2>/dev/null; then
    kill -TERM "$container" || true
    wait "$container" || true
  fi
  rm -rf "$scratch"
}
trap clean_up EXIT
mkdir "$scratch/bin" "$scratch/out"
program=$(tests/deploy/static-binary.sh)
install -m 755 "$program" "$scratch/bin/presence-reaper"

here=(--quiet --directory=/ --volatile=yes --register=no --keep-unit --private-network "--machine=reaper-$$"
  "--overlay-ro=/usr/bin:$scratch/bin:/usr/bin")
if ! systemd-nspawn "${here[@]}" --pipe /usr/bin/presence-reaper --version </dev/null >"$scratch/can" 2>&1; then
  tail -n 3 "$scratch/can"
  skip "no container can be started here"
fi

cat >"$scratch/check.service" <<'UNIT'
[Unit]
DefaultDependencies=no
Requires=basic.target
After=basic.target
[Service]
Type=oneshot
ExecStart=/opt/check.sh
UNIT
for unit in deploy/systemd/*.{service,timer}; do
  here+=("--bind-ro=$PWD/$unit:/etc/systemd/system/${unit##*/}")
done
here+=("--bind-ro=$scratch/check.service:/etc/systemd/system/check.service"
  "--bind-ro=$PWD/tests/deploy/systemd/check.sh:/opt/check.sh"
  "--bind-ro=$PWD/reaper.toml.example:/opt/reaper.toml.example"
  "--bind-ro=$PWD/deploy/systemd/presence-reaper.default:/opt/presence-reaper.default"
  "--bind=$scratch/out:/out")

# No wizard at the first boot, and no network to be waited for.
timeout --kill-after=10 300 systemd-nspawn "${here[@]}" --boot systemd.unit=check.service systemd.firstboot=no \
  systemd.mask=systemd-networkd-wait-online.service systemd.mask=systemd-networkd.service \
  </dev/null >"$scratch/console" 2>&1 &
container=$!
wait "$container" || true
container=

cat "$scratch/out/seen" 2>/dev/null || true
if [ ! -e "$scratch/out/ok" ]; then
  # Without a log the container did not come as far as the check.
  tail -n 120 "$scratch/out/log" 2>/dev/null || tail -n 120 "$scratch/console"
  echo "failed: the units do not do what they should"
  exit 1
fi
echo "ok: the units under systemd"
