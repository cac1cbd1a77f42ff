# $1 is how many versions are left: 0 when it has gone, 1 at an upgrade.
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || :
	if [ "$1" -ge 1 ]; then
		systemctl try-restart presence-reaper.service 'presence-reaper@*.service' || :
	fi
fi
# The package can own files alone, not their folders. What somebody else has put there stays.
if [ "$1" -eq 0 ]; then
	for folder in /usr/share/doc/presence-reaper /usr/share/licenses/presence-reaper /etc/presence-reaper; do
		[ ! -d "$folder" ] || find "$folder" -depth -type d -empty -delete || :
	done
fi
