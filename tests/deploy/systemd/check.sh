#!/usr/bin/env bash
# What systemd.sh runs inside its throw-away container, as root, beside a systemd of its own: units, a Redis with a
# password, and the reaper. Each thing seen is a line in /out/seen; /out/ok is written last.
set -euo pipefail

password='a secret: of #some length'
unit=presence-reaper.service
export REDISCLI_AUTH=$password

exec >/out/log 2>&1
trap 'systemctl --no-block poweroff' EXIT

seen() { printf 'seen: %s\n' "$1" | tee -a /out/seen; }

fail() {
  printf 'failed: %s\n' "$1" | tee -a /out/seen
  systemctl status --full --no-pager 'presence-reaper*' || true
  journalctl --no-pager --output short-monotonic --unit 'presence-reaper*' | tail -n 80
  exit 1
}

property() { systemctl show --value --property "$2" "$1"; }

is() {
  local value
  value=$(property "$1" "$2")
  [ "$value" = "$3" ] || fail "$1 has $2=$value instead of $3"
}

# within SECONDS WHAT COMMAND…: the command succeeds in time.
within() {
  local until=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    [ "$SECONDS" -lt "$until" ] || fail "not in time: $what"
    sleep 0.1
  done
}

journal() { journalctl --no-pager --output cat --unit "$1"; }
says() { journal "$1" | grep -qF -- "$2"; }
page() { curl --silent --fail --max-time 5 "http://127.0.0.1:19121$1"; }
holds() { page "$1" | grep -qE -- "$2"; }
redis() { redis-cli "$@" 2>/dev/null; }
now_ms() { date +%s%3N; }

# --- The units are whole

complaints=$(systemd-analyze verify --man=no \
  /etc/systemd/system/presence-reaper{,@}.service /etc/systemd/system/presence-reaper-audit.{service,timer} 2>&1)
[ -z "$complaints" ] || fail "systemd-analyze verify: $complaints"
seen "systemd-analyze verify has nothing to say ($(systemctl --version | head -n 1))"

# --- A Redis with a password, a client that pings, a ghost

mkdir --mode=755 /etc/presence-reaper /etc/credstore
systemd-run --quiet --unit=redis-of-the-test redis-server --port 6379 --bind 127.0.0.1 --save '' --requirepass "$password"
answers() { redis ping >/dev/null; }
within 10 "Redis answers" answers
redis zadd presence:online "$(now_ms)" alive "$(($(now_ms) - 86400000))" ghost >/dev/null
while :; do
  redis zadd presence:online "$(now_ms)" alive >/dev/null || true
  sleep 0.5
done &

configure() {
  cat >"/etc/presence-reaper/$1.toml" <<'TOML'
[[source]]
name = "hub"
zset = "presence:online"
threshold = "10s"
heartbeat_interval = "2s"
TOML
}
another_source() { printf '[[source]]\nname = "lobby"\nzset = "lobby:online"\n' >>/etc/presence-reaper/reaper.toml; }

# Patience of the test, not of the unit.
grep -qx 'WatchdogSec=30s' /etc/systemd/system/presence-reaper.service || fail "no watchdog"
grep -qx 'WatchdogSec=30s' /etc/systemd/system/presence-reaper@.service || fail "no watchdog in the template"
for name in presence-reaper presence-reaper@; do
  mkdir -p "/run/systemd/system/$name.service.d"
  printf '[Service]\nWatchdogSec=3s\nRestartSec=500ms\n' >"/run/systemd/system/$name.service.d/test.conf"
done
systemctl daemon-reload

# --- What is wrong for good is not tried again

cp /opt/reaper.toml.example /etc/presence-reaper/reaper.toml
! systemctl start $unit || fail "it starts without a source"
printf '[[source]]\nnmae = "hub"\n' >/etc/presence-reaper/reaper.toml
! systemctl start $unit || fail "it starts on a broken file"
sleep 1.5
is $unit ActiveState failed
is $unit ExecMainStatus 78
is $unit NRestarts 0
says $unit nmae || fail "the journal does not name the mistake"
seen "a configuration that is wrong, or the example as it is: status 78, not started again"

# --- Start

configure reaper
install -m 600 /dev/stdin /etc/credstore/presence-reaper.redis-password <<<"$password"
systemctl start $unit || fail "it does not start"
page /healthz >/dev/null || fail "active, and does not listen"
is $unit ActiveState active
[ -n "$(property $unit StatusText)" ] || fail "no status text"
seen "active once it is ready; status: $(property $unit StatusText)"

pid=$(property $unit MainPID)
of_process() { sed -n "s/^$1:[[:space:]]*\([^[:space:]]*\).*/\1/p" "/proc/$pid/status"; }
uid=$(of_process Uid)
{ [ "$uid" -ge 61184 ] && [ "$uid" -le 65519 ]; } || fail "it runs as uid $uid, not as a dynamic user"
for name in CapInh CapPrm CapEff CapBnd CapAmb; do
  [ "$(of_process $name)" = 0000000000000000 ] || fail "$name: $(of_process $name)"
done
[ "$(of_process NoNewPrivs)" = 1 ] || fail "it may gain privileges"
[ "$(of_process Seccomp)" = 2 ] || fail "no seccomp filter"
[ "$(of_process Seccomp_filters)" -ge 10 ] || fail "$(of_process Seccomp_filters) seccomp filters"
seen "uid $uid, no capabilities, NoNewPrivs, $(of_process Seccomp_filters) seccomp filters"

# --- It does its work there

within 10 "connected with the password of the credential" holds /metrics '^presence_reaper_redis_up 1$'
! grep -qF "$password" "/proc/$pid/environ" || fail "the password is in the environment"
seen "connected to a Redis with requirepass, by the credential alone"
gone() { [ "$(redis zcard presence:online)" = 1 ]; }
within 60 "the ghost is evicted" gone
[ -n "$(redis zscore presence:online alive)" ] || fail "the living one was evicted"
seen "the ghost is evicted, the living one is not"
PRESENCE_REAPER_REDIS__PASSWORD=$password presence-reaper status | grep -qF "$(hostname):$pid" ||
  fail "status does not name $(hostname):$pid"
seen "status names the instance $(hostname):$pid"
holds /metrics '^process_start_time_seconds [1-9]' || fail "no process_start_time_seconds, which an alert needs"
says $unit '<6>' && fail "the journal keeps the priorities as text"
journalctl --no-pager --output json --unit $unit | grep -qF '"PRIORITY":"6"' || fail "no priorities in the journal"
seen "process metrics, and priorities in the journal"

# --- Reload

another_source
systemctl reload $unit || fail "reload"
within 10 "the new source is there" holds /status '"lobby"'
is $unit ActiveState active
printf 'threshold = "never mind"\n' >>/etc/presence-reaper/reaper.toml
! systemctl reload $unit || fail "systemctl reload accepts a broken file"
within 10 "the broken file is known" holds /metrics '^presence_reaper_config_last_reload_successful 0$'
is $unit ActiveState active
holds /status '"lobby"' || fail "a broken file took a source away"
configure reaper
systemctl reload $unit || fail "reload of the mended file"
within 10 "the mended file is taken" holds /metrics '^presence_reaper_config_last_reload_successful 1$'
! holds /status '"lobby"' || fail "the source that was taken out is still there"
is $unit MainPID "$pid"
is $unit NRestarts 0
seen "reload: a new file is taken, a broken one fails and changes nothing, the mended one is taken; same process"

# --- Watchdog

sleep 5
is $unit MainPID "$pid"
seen "its signs of life keep the watchdog quiet"
kill -STOP "$pid"
within 20 "the watchdog ends what is frozen" says $unit "Failed with result 'watchdog'"
another() { [ "$(property $unit ActiveState)" = active ] && [ "$(property $unit MainPID)" != "$pid" ]; }
within 20 "active again" another
is $unit NRestarts 1
seen "frozen: ended by the watchdog, active again as another process"

# --- An instance of the template; a failure that mends itself

configure chat
install -m 600 /dev/stdin "/etc/credstore/presence-reaper@chat.redis-password" <<<"$password"
systemctl start --no-block presence-reaper@chat.service
tried() { [ "$(property presence-reaper@chat.service NRestarts)" -ge 2 ]; }
within 20 "a failure is tried again" tried
says presence-reaper@chat.service "status=1/FAILURE" || fail "the journal does not say that it failed"
systemctl stop $unit
is $unit ActiveState inactive
is $unit Result success
is $unit ExecMainStatus 0
seen "stop: Result=success"
is_active() { [ "$(property "$1" ActiveState)" = active ]; }
within 20 "the instance gets the address" is_active presence-reaper@chat.service
within 10 "the instance is connected" holds /metrics '^presence_reaper_redis_up 1$'
seen "an address that is taken: exit 1, tried again until it was free; by presence-reaper@chat, with its own credential"
systemctl stop presence-reaper@chat.service

# --- A system user of its name, whose password is taken anew at a reload

systemd-sysusers - <<<'u presence-reaper - "evicts" -'
install -m 400 -o presence-reaper /dev/stdin /etc/presence-reaper/redis-password <<<"$password"
printf '[redis]\npassword_file = "/etc/presence-reaper/redis-password"\n' >>/etc/presence-reaper/reaper.toml
mv /etc/credstore/presence-reaper.redis-password /etc/credstore/away
systemctl start $unit || fail "it does not start as a system user"
pid=$(property $unit MainPID)
[ "$(of_process Uid)" = "$(id -u presence-reaper)" ] || fail "it does not run as the system user"
within 10 "connected with the password of the file" holds /metrics '^presence_reaper_redis_up 1$'
redis config set requirepass another >/dev/null
REDISCLI_AUTH=another redis client kill type normal skipme yes >/dev/null
within 20 "refused with the old password" holds /metrics '^presence_reaper_redis_up 0$'
printf 'another' >/etc/presence-reaper/redis-password
systemctl reload $unit || fail "reload after a rotation"
within 20 "connected with the new password" holds /metrics '^presence_reaper_redis_up 1$'
is $unit MainPID "$pid"
REDISCLI_AUTH=another redis config set requirepass "$password" >/dev/null
systemctl stop $unit
mv /etc/credstore/away /etc/credstore/presence-reaper.redis-password
configure reaper
seen "as a system user: a rotated password is taken at a reload, by the same process"

# --- The environment file, with all that it proposes

mkdir -p /etc/default
sed 's/^#\([A-Z]\)/\1/' /opt/presence-reaper.default >/etc/default/presence-reaper
systemctl start $unit || fail "it does not start with the environment file"
holds /metrics 'presence_reaper_source_info\{.*mode="dry_run"' || fail "ARGS is not heard"
systemctl stop $unit
! journalctl --no-pager --output cat --unit $unit | grep -i 'PRESENCE_REAPER_' || fail "a variable is not known"
seen "flags and variables of the environment file"

# --- The audit

redis zadd presence:online "$(($(now_ms) - 86400000))" 'ghost of "the" audit' >/dev/null
systemctl start presence-reaper-audit.service || fail "the audit fails"
is presence-reaper-audit.service Result success
journal presence-reaper-audit.service | grep '^{' >/out/audit.ndjson || fail "the audit printed no JSON"
python3 - /out/audit.ndjson <<'PYTHON' || fail "the audit's JSON"
import json, sys
entries = [json.loads(line) for line in open(sys.argv[1])]
summary = entries.pop()
assert [entry["id"] for entry in entries] == ['ghost of "the" audit'], entries
assert summary["dry_run"] and summary["complete"], summary
counts = summary["sources"][0]["entries"]
assert (counts["live"], counts["stale"]) == (1, 1), summary
PYTHON
[ -n "$(redis zscore presence:online 'ghost of "the" audit')" ] || fail "the audit evicted"
systemctl start presence-reaper-audit.timer
[ "$(property presence-reaper-audit.timer NextElapseUSecRealtime)" != "" ] || fail "the timer elapses never"
seen "the audit's JSON lines are in the journal; its timer elapses next $(property presence-reaper-audit.timer NextElapseUSecRealtime)"

touch /out/ok
