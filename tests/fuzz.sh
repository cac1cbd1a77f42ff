#!/usr/bin/env bash
# Fuzzes what reads foreign text: ./tests/fuzz.sh [SECONDS] [TARGET…]
#
# Each target runs for that long, 60 s unless told otherwise, and has one line at the end. What it learns stays in
# fuzz/corpus, what breaks it in fuzz/artifacts; neither is committed. Installs what it needs, a nightly toolchain and
# cargo-fuzz. Without a sanitizer: the crate forbids unsafe code, and what is looked for are panics and broken promises.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
shift || true
build=(--sanitizer none --target-dir "$(realpath -m "${CARGO_TARGET_DIR:-target}")/fuzz")

if ! cargo +nightly --version >/dev/null 2>&1; then
  rustup toolchain install nightly --profile minimal
fi
if ! cargo fuzz --version >/dev/null 2>&1; then
  cargo install --locked cargo-fuzz
fi

if [ $# -gt 0 ]; then
  targets=("$@")
else
  mapfile -t targets < <(cargo +nightly fuzz list)
fi
cargo +nightly fuzz build "${build[@]}"

# Configurations that are known to be wrong, and the right one with everything in it. The target reads three bytes before
# the text; line breaks mean nothing there.
known=fuzz/corpus/known-configurations
mkdir -p "$known"
awk -v folder="$known" '
  /^=== / { n += 1; file = sprintf("%s/wrong-%03d", folder, n); printf "\n\n\n" > file; next }
  /^---$/ { close(file); file = "" }
  file != "" { print > file }
' src/config/wrong_configurations.txt
{ printf '\n\n\n'; sed -n 's/^# //p' reaper.toml.example; } > "$known/example"

lines=()
failed=0
for target in "${targets[@]}"; do
  printf '== %s\n' "$target"
  corpus=(fuzz/corpus/"$target" fuzz/seeds/"$target")
  more=()
  if [ "$target" = configuration ]; then
    corpus+=("$known")
    more+=(-dict=fuzz/configuration.dict)
  fi
  mkdir -p "${corpus[@]}"
  log=$(mktemp)
  if cargo +nightly fuzz run "${build[@]}" "$target" "${corpus[@]}" -- \
    -max_total_time="$seconds" -max_len=4096 -timeout=10 "${more[@]}" >"$log" 2>&1; then
    lines+=("$target: $(tail -n 1 "$log")")
  else
    failed=1
    tail -n 40 "$log"
    lines+=("$target: FAILED, see $(grep -o 'fuzz/artifacts/[^ ]*' "$log" | tail -n 1)")
  fi
  rm -f "$log"
done
printf '%s\n' "${lines[@]}"
exit "$failed"
