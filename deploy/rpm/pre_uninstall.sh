# $1 is how many versions will be left: 0 when it goes, 1 at an upgrade.
if [ "$1" -eq 0 ] && [ -d /run/systemd/system ]; then
	systemctl --no-reload disable --now presence-reaper.service presence-reaper-audit.timer || :
	systemctl stop 'presence-reaper@*.service' || :
fi
