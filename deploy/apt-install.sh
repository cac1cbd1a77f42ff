#!/usr/bin/env bash
# Installs Debian or Ubuntu packages, as root or by sudo: deploy/apt-install.sh PACKAGE…
#
# The caller decides whether they are needed. Anywhere else, and without the right to install, it says what is missing.
set -euo pipefail

if ! command -v apt-get >/dev/null; then
  echo "no apt-get here: please install $* (or what your system calls it) yourself" >&2
  exit 1
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "neither root nor sudo: please have $* installed" >&2
    exit 1
  fi
  as_root=(sudo)
fi

echo "installing $* by apt-get"
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
