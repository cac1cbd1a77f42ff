#!/usr/bin/env bash
# What packages.sh runs inside its throw-away container, as root, with a systemd of its own and the packages in /packages.
# Each thing seen is a line in /out/seen; /out/ok is written last.
set -euo pipefail

unit=presence-reaper.service
instance=presence-reaper@two.service

exec >/out/log 2>&1
trap 'systemctl --no-block poweroff' EXIT

seen() { printf 'seen: %s\n' "$1" | tee -a /out/seen; }

fail() {
  printf 'failed: %s\n' "$1" | tee -a /out/seen
  journalctl --no-pager --output short-monotonic --unit 'presence-reaper*' | tail -n 60
  exit 1
}

property() { systemctl show --value --property "$2" "$1"; }

is() {
  local value
  value=$(property "$1" "$2")
  [ "$value" = "$3" ] || fail "$1 has $2=$value instead of $3"
}

is_there() {
  local file
  for file in "$@"; do
    [ -e "$file" ] || fail "$file is missing"
  done
}

# Files of ours that dpkg or rpm should have taken away.
left() { find /etc /usr /var -xdev -name '*presence-reaper*' | sort; }

# A new process took the place of the one that was PID.
is_new() {
  is "$1" ActiveState active
  [ "$(property "$1" MainPID)" != "$2" ] || fail "$1 still runs the old program"
}

waits_for_a_configuration() {
  [ "$(systemctl is-enabled $unit)" = disabled ] || fail "$unit is enabled"
  [ "$(systemctl is-enabled presence-reaper-audit.timer)" = disabled ] || fail "the timer is enabled"
  is $unit ActiveState inactive
  ! systemctl start $unit || fail "it starts without a source"
  is $unit ExecMainStatus 78
  journalctl --no-pager --output cat --unit $unit | grep -qF 'no source is configured' || fail "the journal does not say why"
}

configure_and_start() {
  printf '[[source]]\nname = "hub"\nzset = "presence:online"\n' >>/etc/presence-reaper/reaper.toml
  printf '[server]\nlisten = "127.0.0.1:19122"\n[[source]]\nname = "two"\nzset = "presence:two"\n' >/etc/presence-reaper/two.toml
  systemctl enable --now $unit || fail "it does not start"
  systemctl start $instance || fail "the instance does not start"
}

[ -z "$(left)" ] || fail "there before anything was installed: $(left)"

# --- Debian

dpkg --install /packages/*.deb || fail "dpkg --install"
presence-reaper --version
is_there /usr/share/man/man8/presence-reaper.8.gz /usr/share/doc/presence-reaper/{copyright,changelog.gz,README.md} \
  /etc/default/presence-reaper /etc/logrotate.d/presence-reaper \
  /usr/share/doc/presence-reaper/examples/redis/users-7.0.acl
bash -n /usr/share/bash-completion/completions/presence-reaper
zsh -n /usr/share/zsh/vendor-completions/_presence-reaper
fish -n /usr/share/fish/vendor_completions.d/presence-reaper.fish
complaints=$(systemd-analyze verify --man=no $unit $instance presence-reaper-audit.{service,timer} 2>&1)
[ -z "$complaints" ] || fail "systemd-analyze verify: $complaints"
seen "deb: installed, $(presence-reaper --version), with manual and completions of bash, zsh and fish"
waits_for_a_configuration
seen "deb: not enabled, not started; started as it is: status 78, no source is configured"

configure_and_start
pid=$(property $unit MainPID)
pid_of_instance=$(property $instance MainPID)
dpkg --install /packages/*.deb || fail "upgrade"
is_new $unit "$pid"
is_new $instance "$pid_of_instance"
[ "$(systemctl is-enabled $unit)" = enabled ] || fail "an upgrade disables it"
grep -q '^name = "hub"' /etc/presence-reaper/reaper.toml || fail "an upgrade takes the configuration"
seen "deb: an upgrade restarts what runs, instances too, and keeps the configuration"

dpkg --remove presence-reaper || fail "dpkg --remove"
is $unit ActiveState inactive
is $instance ActiveState inactive
is_there /etc/presence-reaper/reaper.toml
[ ! -e /usr/bin/presence-reaper ] || fail "the program is still there"
rm /etc/presence-reaper/two.toml
dpkg --purge presence-reaper || fail "dpkg --purge"
[ -z "$(left)" ] || fail "left by dpkg --purge: $(left)"
seen "deb: remove stops it and keeps the configuration; purge leaves nothing"

# --- Fedora's kind. Nobody here knows its dependencies, but its scripts run.

systemctl daemon-reload
rpm --install --nodeps /packages/*.rpm || fail "rpm --install"
rpm --verify --nodeps presence-reaper || fail "rpm --verify"
zsh -n /usr/share/zsh/site-functions/_presence-reaper
systemctl reset-failed
waits_for_a_configuration
configure_and_start
pid=$(property $unit MainPID)
rpm --upgrade --force --nodeps /packages/*.rpm || fail "rpm --upgrade"
is_new $unit "$pid"
rpm --erase --nodeps presence-reaper || fail "rpm --erase"
is $unit ActiveState inactive
is $instance ActiveState inactive
is_there /etc/presence-reaper/reaper.toml.rpmsave /etc/presence-reaper/two.toml
rm -r /etc/presence-reaper
remains=$(left | grep -v '^/var/log/' || true)
[ -z "$remains" ] || fail "left by rpm --erase: $remains"
seen "rpm: installed, not started, upgraded and restarted; erased, nothing is left but what the operator wrote and the logs"

touch /out/ok
