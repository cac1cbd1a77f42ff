//! What systemd is told of us, where it is the one that started us: that we are ready, how things stand, that we reload,
//! that we stop, and that we live. Elsewhere nobody listens, and nothing is sent.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::debug;

/// How often it is told how things stand, unless the watchdog wants to hear of us more often.
const TELLS_EVERY: Duration = Duration::from_secs(5);

/// Our side of the conversation.
#[derive(Clone, Copy, Debug)]
pub struct Supervisor {
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// As the environment names it; `WATCHDOG_USEC` says whether it waits for signs of life.
    pub fn of_environment() -> Self {
        Self { watchdog: sd_notify::watchdog_enabled() }
    }

    /// How often it is to hear of us: twice within the time after which it would lose patience, as `sd_watchdog_enabled`
    /// recommends.
    pub fn hears_every(&self) -> Duration {
        self.watchdog.map_or(TELLS_EVERY, |watchdog| TELLS_EVERY.min(watchdog / 2)).max(Duration::from_millis(10))
    }

    /// Whether it waits for signs of life.
    pub fn watches(&self) -> bool {
        self.watchdog.is_some()
    }

    /// We do our work, under the configuration that was read last.
    pub fn ready(&self, status: &str) {
        tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// How things stand, in a sentence.
    pub fn status(&self, status: &str) {
        tell(&[NotifyState::Status(status)]);
    }

    /// Another configuration is being read; [`Self::ready`] says that this is over.
    pub fn reloading(&self) {
        // Units of `Type=notify-reload` want to know when.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(_) => tell(&[NotifyState::Reloading]),
        }
    }

    /// We are about to end.
    pub fn stopping(&self) {
        tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }

    /// Our loops turn.
    pub fn alive(&self) {
        if self.watches() {
            tell(&[NotifyState::Watchdog]);
        }
    }
}

fn tell(what: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        debug!(%error, "systemd was not told");
    }
}
