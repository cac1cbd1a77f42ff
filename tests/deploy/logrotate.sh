#!/usr/bin/env bash
# Rotates the audit record as logrotate does by the file we ship, while evictions go on: tests/deploy/logrotate.sh
#
# In the shipped file only the path, and whom the signal goes to, are replaced by those of the test.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ "$(id -u)" -ne 0 ]; then
  echo "skipped: logrotate rotates as root"
  exit 0
fi
for tool in logrotate redis-server redis-cli jq; do
  # Debian has logrotate where not every user's path leads.
  PATH=$PATH:/usr/sbin
  command -v "$tool" >/dev/null || deploy/apt-install.sh "${tool/redis-cli/redis-tools}"
done

program=$(tests/deploy/static-binary.sh)
dir=$(mktemp -d)
reaper="" redis="" heart=""
stop() {
  for pid in $heart $reaper $redis; do
    kill "$pid" 2>/dev/null || true
  done
  rm -rf "$dir"
}
trap stop EXIT

fail() {
  echo "FAILED: $1" >&2
  tail -20 "$dir/log" >&2 || true
  exit 1
}

# Waits for a command to succeed, half a minute at most.
until_so() {
  local what=$1
  shift
  for _ in $(seq 300); do
    if "$@" >/dev/null 2>&1; then return 0; fi
    sleep 0.1
  done
  fail "$what"
}

redis-server --port 0 --unixsocket "$dir/redis.sock" --save '' --dir "$dir" --logfile "$dir/redis.log" &
redis=$!
cli() { redis-cli -s "$dir/redis.sock" "$@"; }
until_so "redis starts" cli ping

logs=$dir/log.d
mkdir -m 0755 "$logs"
conf=$dir/logrotate.conf
sed -e "s|^/var/log/presence-reaper/|$logs/|" -e "s|systemctl kill .*|kill -HUP \$(cat $dir/pid)|" \
  deploy/systemd/presence-reaper.logrotate >"$conf"
grep -q "$logs/" "$conf" || fail "the path of the shipped file was not replaced"
grep -q "kill -HUP" "$conf" || fail "the signal of the shipped file was not replaced"

# Somebody who always pings.
(while cli zadd online "$(date +%s%3N)" living >/dev/null; do sleep 0.1; done) &
heart=$!

"$program" run --redis-url "unix://$dir/redis.sock" --zset online --threshold 2s --heartbeat-interval 200ms \
  --listen off --audit-file "$logs/audit.ndjson" >/dev/null 2>"$dir/log" &
reaper=$!
echo "$reaper" >"$dir/pid"
until_so "the file is there" test -e "$logs/audit.ndjson"

total=0
left_alone() { [ "$(cli zcard online)" -eq 1 ]; }
for round in 1 2 3; do
  for n in $(seq 40); do cli zadd online "$(($(date +%s%3N) - 3600000))" "c$round-$n" >/dev/null; done
  total=$((total + 40))
  # In the middle, as it comes; and once more when all are gone.
  sleep 0.3
  logrotate --force --state "$dir/state" "$conf"
  until_so "the stale of round $round go" left_alone
done
until_so "SIGHUP opens the file anew" test -e "$logs/audit.ndjson"

kill "$reaper"
wait "$reaper" || fail "the reaper ends well"
reaper=""
# The newest, and those that were rotated, packed or not.
zcat -f "$logs"/audit.ndjson* >"$dir/all"
lines=$(jq -r .id "$dir/all" | sort | uniq -c | awk '{ if ($1 != 1) exit 1 } END { print NR }') || fail "a line is there twice"
[ "$lines" -eq "$total" ] || fail "$total went, and $lines are recorded"
files=$(find "$logs" -name 'audit.ndjson.*' | wc -l)
[ "$files" -ge 2 ] || fail "nothing was rotated: $files files"
echo "seen: $total evictions, each in one line of $((files + 1)) files that logrotate made"
grep -q "opened the audit file anew" "$dir/log" || fail "the log says nothing of SIGHUP"
echo "seen: SIGHUP opens the file anew"
mode=$(stat -c %a "$logs/audit.ndjson")
[ "$mode" = 640 ] || fail "the new file has mode $mode"
echo "seen: the new file has mode 0640"
echo "ok: logrotate"
