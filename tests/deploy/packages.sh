#!/usr/bin/env bash
# The packages: built, looked at by lintian, installed, upgraded and removed: tests/deploy/packages.sh
#
# They hold the development build, which packs the same way. Where they are installed is this machine's own system, booted
# as a throw-away container: what is written there is written to memory. cargo-deb and cargo-generate-rpm take many minutes
# to be built, once, into cargo's target directory; the rest takes two minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."

skip() {
  printf 'skipped: %s\n' "$1"
  exit 0
}

[ "$(id -u)" -eq 0 ] || skip "packages are installed by root"
command -v dpkg >/dev/null || skip "no dpkg here"

wanted=()
wants() { command -v "$1" >/dev/null || wanted+=("$2"); }
wants systemd-nspawn systemd-container
wants lintian lintian
wants rpm rpm
wants zsh zsh
wants fish fish
wants kill procps
[ ${#wanted[@]} -eq 0 ] || deploy/apt-install.sh "${wanted[@]}"

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
tools=$target/package-tools
PATH=$PATH:$tools/bin
command -v cargo-deb >/dev/null || cargo install --locked --quiet --root "$tools" cargo-deb@3.8.0
command -v cargo-generate-rpm >/dev/null || cargo install --locked --quiet --root "$tools" cargo-generate-rpm@0.21.1

scratch=$(mktemp -d)
container=
clean_up() {
  if [ -n "$container" ] && kill -0 "$container" 2>/dev/null; then
    kill -TERM "$container" || true
    wait "$container" || true
  fi
  ! mountpoint --quiet "$scratch/root" || umount "$scratch/root"
  ! mountpoint --quiet "$scratch/memory" || umount "$scratch/memory"
  rm -rf --one-file-system "$scratch"
}
trap clean_up EXIT
mkdir "$scratch"/{packages,out,memory,root}

cargo build --locked --quiet
strip -o "$scratch/presence-reaper" "$target/debug/presence-reaper"
deploy/package.sh "$scratch/presence-reaper" >"$scratch/built"
sed 's,.*/,built: ,' "$scratch/built"
xargs -I{} cp {} "$scratch/packages/" <"$scratch/built"

lintian --allow-root --fail-on error,warning --tag-display-limit 0 "$scratch"/packages/*.deb
echo "seen: lintian finds no error and nothing to warn of"

mount -t tmpfs -o mode=755 tmpfs "$scratch/memory"
mkdir "$scratch/memory"/{upper,work}
if ! mount -t overlay -o "lowerdir=/,upperdir=$scratch/memory/upper,workdir=$scratch/memory/work" overlay "$scratch/root"; then
  skip "no overlay can be mounted here"
fi
cat >"$scratch/root/etc/systemd/system/check.service" <<'UNIT'
[Unit]
DefaultDependencies=no
Requires=basic.target
After=basic.target
[Service]
Type=oneshot
ExecStart=/opt/check.sh
UNIT
# Images for containers forbid packages to start anything.
rm -f "$scratch/root/usr/sbin/policy-rc.d"
install -m 755 tests/deploy/packages/check.sh "$scratch/root/opt/check.sh"

timeout --kill-after=10 300 systemd-nspawn --quiet --directory="$scratch/root" --register=no --keep-unit --private-network \
  "--machine=packages-$$" "--bind-ro=$scratch/packages:/packages" "--bind=$scratch/out:/out" \
  --boot systemd.unit=check.service systemd.firstboot=no \
  systemd.mask=systemd-networkd-wait-online.service systemd.mask=systemd-networkd.service \
  </dev/null >"$scratch/console" 2>&1 &
container=$!
wait "$container" || true
container=

cat "$scratch/out/seen" 2>/dev/null || true
if [ ! -e "$scratch/out/ok" ]; then
  # Without a log the container did not come as far as the check.
  tail -n 120 "$scratch/out/log" 2>/dev/null || tail -n 120 "$scratch/console"
  echo "failed: the packages do not do what they should"
  exit 1
fi
echo "ok: the packages"
