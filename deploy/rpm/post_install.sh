# Nothing is enabled and nothing started: what to evict has to be said first.
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || :
fi
