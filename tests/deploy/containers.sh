# shellcheck shell=bash
# What the tests of images have in common; sourced by them in the root of the tree, before anything is started.
#
# It moves the script that sources it into a network of its own, in which there is loopback and nothing else: every port is
# free there, and nobody outside is reached. It needs root; it sets `scratch` and `program`, and gives `build_image`,
# `import_redis`, `pod` (podman with its own store), `seen`, `eventually` and `living`.

# What is set for the tests is nothing to the program.
unset "${!PRESENCE_REAPER_@}"

skip() {
  printf 'skipped: %s\n' "$1"
  exit 0
}

seen() { printf 'seen: %s\n' "$1"; }

fail() {
  why=$1
  exit 1
}

if [ -z "${IN_OWN_NETWORK:-}" ]; then
  [ "$(id -u)" -eq 0 ] || skip "not root: images are built and run as root here"
  unshare --net true 2>/dev/null || skip "no network namespaces here"

  missing=()
  for tool in buildah podman runc redis-server curl openssl ip; do
    command -v "$tool" >/dev/null || missing+=("$tool")
  done
  missing=("${missing[@]/#ip/iproute2}")
  # catatonit keeps a Pod's namespaces.
  [ -e /usr/libexec/catatonit/catatonit ] || [ -e /usr/bin/catatonit ] || missing+=(catatonit)
  if [ "${#missing[@]}" -gt 0 ]; then
    command -v apt-get >/dev/null || skip "${missing[*]} not here, and no apt-get to install them"
    deploy/apt-install.sh "${missing[@]}"
  fi
  if declare -F install_tools >/dev/null; then
    install_tools
  fi
  STATIC_PROGRAM=$(tests/deploy/static-binary.sh)
  export STATIC_PROGRAM
  IN_OWN_NETWORK=yes exec unshare --net bash "tests/deploy/$(basename "$0")" "$@"
fi

ip link set lo up
program=$STATIC_PROGRAM
scratch=$(mktemp -d)
started=()

# Stops all that was started here: processes by their ids, containers in their own store.
clean_up() {
  local status=$? id
  if [ "$status" -ne 0 ]; then
    for id in $(pod ps --all --quiet 2>/dev/null); do
      pod logs --tail 20 "$id" >&2 || true
    done
    printf 'FAILED: %s\n' "${why:-what was said last}" >&2
  fi
  pod pod rm --force --all --time 1 >/dev/null 2>&1 || true
  pod rm --force --all --time 1 >/dev/null 2>&1 || true
  for id in "${started[@]}"; do
    kill "$id" 2>/dev/null || true
    wait "$id" 2>/dev/null || true
  done
  rm -rf "$scratch"
  exit "$status"
}
trap clean_up EXIT

# More files or processes than this machine may hand on would keep containers from starting.
printf '[containers]\ndefault_ulimits=["nofile=1024:1024","nproc=1024:1024"]\n' >"$scratch/containers.conf"
export CONTAINERS_CONF=$scratch/containers.conf

pod() {
  podman --storage-driver=vfs --root "$scratch/podman" --runroot "$scratch/podman-run" --cgroup-manager=cgroupfs \
    --events-backend=file --runtime runc "$@"
}

build() {
  buildah --storage-driver=vfs --root "$scratch/buildah" --runroot "$scratch/buildah-run" "$@"
}

# The last stage of the Dockerfile as it stands, with what the first would have built: build_image TAG
build_image() {
  local tree=$scratch/build
  install -D "$program" "$tree/out/usr/bin/presence-reaper"
  install -D -m 644 /etc/ssl/certs/ca-certificates.crt "$tree/out/etc/ssl/certs/ca-certificates.crt"
  install -D -m 644 -t "$tree/out/usr/share/doc/presence-reaper" LICENSE-APACHE LICENSE-MIT
  build bud --quiet --isolation chroot --pull-never --timestamp 0 --build-context "build=$tree" \
    -f deploy/container/Dockerfile -t "$1" . >/dev/null
  build push --quiet "$1" "oci-archive:$scratch/image.tar:$1"
  pod load --quiet --input "$scratch/image.tar" >/dev/null
}

# An image with this machine's redis-server and the libraries that it needs: import_redis TAG
import_redis() {
  local root=$scratch/redis-root library
  install -D "$(readlink -f "$(command -v redis-server)")" "$root/usr/bin/redis-server"
  for library in $(ldd "$(command -v redis-server)" | grep -o '/[^ ]*'); do
    install -D "$library" "$root$library"
  done
  tar -C "$root" -c . | pod import --quiet --change 'ENTRYPOINT ["/usr/bin/redis-server"]' - "$1" >/dev/null
}

# Waits for a command to succeed, for so many seconds at most: eventually SECONDS COMMAND…
eventually() {
  local until=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$until" ] || fail "in vain: $*"
    sleep 0.2
  done
}

# Twenty clients that ping at each heartbeat, in the background: living PORT
living() {
  redis-cli -p "$1" -r -1 -i 0.3 eval "
    local t = redis.call('TIME')
    for i = 1, 20 do redis.call('ZADD', KEYS[1], t[1] * 1000 + math.floor(t[2] / 1000), 'alive-' .. i) end" \
    1 presence:online >/dev/null 2>&1 &
  started+=($!)
}
