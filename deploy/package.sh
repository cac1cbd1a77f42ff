#!/usr/bin/env bash
# Builds the package for Debian and its kin, and that for Fedora and its kin: deploy/package.sh [PROGRAM]
#
# Both hold the release build, or PROGRAM if one is named, and need a libc as new as this machine's: build on the oldest
# system that they are for. Prints where they are. Wants cargo-deb and cargo-generate-rpm:
#   cargo install --locked cargo-deb cargo-generate-rpm
set -euo pipefail
cd "$(dirname "$0")/.."

for tool in cargo-deb cargo-generate-rpm; do
  if ! command -v "$tool" >/dev/null; then
    echo "$tool is missing: cargo install --locked $tool" >&2
    exit 1
  fi
done

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
made=$target/release/package # cargo-deb and cargo-generate-rpm find it there wherever the target directory is
revision=1

if [ $# -gt 0 ]; then
  program=$1
else
  cargo build --release --locked >&2
  program=$target/release/presence-reaper
fi

# The same source makes the same package, bit by bit.
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
  SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || date +%s)
  export SOURCE_DATE_EPOCH
fi

rm -rf "$made"
mkdir -p "$made"
install -m 755 "$program" "$made/presence-reaper"
"$program" man | gzip -9n >"$made/presence-reaper.8.gz"
"$program" completions bash >"$made/presence-reaper.bash"
"$program" completions zsh >"$made/_presence-reaper"
"$program" completions fish >"$made/presence-reaper.fish"
gzip -9n <CHANGELOG.md >"$made/changelog.gz"

# Debian wants a changelog of the packaging beside ours.
version=$(cargo pkgid --locked | sed 's/.*[#@]//')
maintainer=$(sed -n 's/^maintainer = "\(.*\)"$/\1/p' Cargo.toml)
gzip -9n >"$made/changelog.Debian.gz" <<CHANGES
presence-reaper ($version-$revision) unstable; urgency=medium

  * What is new stands in changelog.gz.

 -- $maintainer  $(date --utc --rfc-email --date="@$SOURCE_DATE_EPOCH")
CHANGES

mkdir "$made/debian" "$made/rpm"
cargo deb --locked --no-build --quiet --deb-revision "$revision" --output "$made/debian/" >&2
cargo generate-rpm --target-dir "$target" --output "$made/rpm/" >&2
printf '%s\n' "$made"/debian/*.deb "$made"/rpm/*.rpm
