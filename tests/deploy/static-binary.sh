#!/usr/bin/env bash
# Builds presence-reaper as one static program, stripped, and prints where it is: tests/deploy/static-binary.sh
#
# It is the development build that `cargo test` makes, linked once more: seconds, where a release takes minutes. Where it
# is going to run there is no libc: in an image made from scratch, or on a system whose libraries are older.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
program=$target/deploy/presence-reaper

mkdir -p "$(dirname "$program")"
cargo rustc --quiet --locked --bin presence-reaper -- -C target-feature=+crt-static -C strip=symbols >&2
# Aside, then renamed: two tests may ask for it at the same time.
cp "$target/debug/presence-reaper" "$program.$$"
mv "$program.$$" "$program"
printf '%s\n' "$program"
