#!/usr/bin/env bash
# From a fresh clone to seeing it work: installs redis-server if it is missing, builds the program, runs its demo.
#
# The demo starts a private redis-server on a free loopback port and leaves nothing behind. Arguments go to it.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$1"; }

say "1/3 redis-server, which the demo starts a private one of"
if ! command -v redis-server >/dev/null; then
  deploy/apt-install.sh redis-server
fi
redis-server --version

say "2/3 build of the release, a few minutes the first time"
if ! command -v cargo >/dev/null; then
  echo "cargo is missing: please install Rust first" >&2
  exit 1
fi
cargo build --release --locked

say "3/3 presence-reaper demo"
cargo run --release --locked --quiet -- demo "$@"
