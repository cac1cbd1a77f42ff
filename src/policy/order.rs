//! What an operator ordered: a brake, or an end of waiting for so many entries.
//!
//! A brake stops everything. A release lifts silence and mass and nothing else: there is no order that makes an unsafe
//! eviction safe, only one that stops waiting.

use std::time::Duration;

use super::duration::in_words;
use super::entry::Monotonic;
use super::guard::{Hold, State};

/// How long an order may be good for: what somebody forgot is over by the next day.
pub const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a brake is pulled where nothing else is said.
pub const HELD_FOR: Duration = Duration::from_secs(60 * 60);

/// How long a release is good for where nothing else is said.
pub const RELEASED_FOR: Duration = Duration::from_secs(10 * 60);

/// An order to be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Pull the brake.
    Hold {
        /// On these sources; on everything if there are none.
        sources: Vec<String>,
        /// For so long.
        lasts: Duration,
        /// Why.
        reason: Option<String>,
    },
    /// Let go of the brake.
    Resume {
        /// On these sources; on everything, and on each of them, if there are none.
        sources: Vec<String>,
    },
    /// Let silence and mass keep so many entries less.
    Release {
        /// Of this source.
        source: String,
        /// So many.
        max: u64,
        /// For so long.
        lasts: Duration,
        /// Why.
        reason: String,
    },
}

impl Command {
    /// The sources it names.
    pub fn sources(&self) -> &[String] {
        match self {
            Self::Hold { sources, .. } | Self::Resume { sources } => sources,
            Self::Release { source, .. } => std::slice::from_ref(source),
        }
    }
}

/// All that is ordered for one source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// The brake.
    pub brake: Option<Brake>,
    /// The end of waiting.
    pub release: Option<Release>,
    /// They can't be read, or were not yet; the brake says so, and that we are blind.
    pub unheard: bool,
}

/// Nothing goes before `until`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Brake {
    /// When it ends by itself; none for one that lasts until something else happens.
    pub until: Option<Monotonic>,
    /// Who pulled it, and why, in a sentence.
    pub why: String,
    /// What ends it before that, in words.
    pub ends_with: &'static str,
}

impl Brake {
    /// The brake of one process alone, pulled by SIGUSR1 at `now`.
    pub fn by_signal(now: Monotonic) -> Self {
        Self {
            until: Some(now.plus(HELD_FOR)),
            why: "ordered by SIGUSR1, for this process alone".into(),
            ends_with: "SIGUSR2, else by itself",
        }
    }
}

/// Silence and mass keep `left` entries less.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// This release and no other.
    pub id: String,
    /// When what is left of it is void.
    pub until: Monotonic,
    /// How many entries may still go.
    pub left: u64,
}

impl Orders {
    /// Nothing may go before it is known what was ordered: a brake that was pulled while this process was away counts.
    pub fn unheard() -> Self {
        let brake = Brake {
            until: None,
            why: "what operators ordered has not been read".into(),
            ends_with: "an answer from redis that can be read",
        };
        Self { brake: Some(brake), release: None, unheard: true }
    }

    /// The hold of the brake, if it is pulled at `now`.
    pub fn hold(&self, now: Monotonic) -> Option<Hold> {
        let brake = self.brake.as_ref().filter(|brake| brake.until.is_none_or(|until| now < until))?;
        let state = if self.unheard { State::Blind } else { State::Held };
        Some(Hold { state, why: brake.why.clone(), ends: brake.until, ends_with: brake.ends_with.into() })
    }

    /// The release, if anything is left of it at `now`.
    pub fn released(&self, now: Monotonic) -> Option<&Release> {
        self.release.as_ref().filter(|release| now < release.until && release.left > 0)
    }

    /// Takes in what was read anew. What we know to be spent of the same release stays spent, even if that was read
    /// before.
    pub fn update(&mut self, read: Self) {
        let spent_down_to = self.release.take().map(|release| (release.id, release.left));
        *self = read;
        if let (Some(release), Some((id, left))) = (&mut self.release, spent_down_to)
            && release.id == id
        {
            release.left = release.left.min(left);
        }
    }

    /// Takes note that `count` went, or may have gone, under the release.
    pub fn spend(&mut self, count: u64) {
        if let Some(release) = &mut self.release {
            release.left = release.left.saturating_sub(count);
        }
    }
}

/// Checks how long an order is to be good for.
///
/// # Errors
/// The sentence that says what would do.
pub fn check_duration(duration: Duration) -> Result<Duration, String> {
    if duration.is_zero() || duration > LONGEST {
        return Err(format!("an order lasts more than 0s and at most {}", in_words(LONGEST)));
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Monotonic {
        Monotonic::from_start(Duration::from_secs(seconds))
    }

    fn release(id: &str, left: u64) -> Option<Release> {
        Some(Release { id: id.into(), until: at(60), left })
    }

    #[test]
    fn a_brake_holds_until_its_end_and_not_a_moment_longer() {
        let brake = Brake { until: Some(at(60)), why: "held".into(), ends_with: "resume" };
        let orders = Orders { brake: Some(brake), ..Orders::default() };
        let before = Monotonic::from_start(Duration::from_millis(59_999));
        assert_eq!(orders.hold(before).map(|hold| (hold.state, hold.ends)), Some((State::Held, Some(at(60)))));
        assert_eq!(orders.hold(at(60)), None);
        let unheard = Orders::unheard().hold(at(1_000_000)).map(|hold| hold.state);
        assert_eq!(unheard, Some(State::Blind), "whatever was ordered");
        assert_eq!(Orders::default().hold(at(0)), None);
    }

    #[test]
    fn a_release_is_good_for_so_many_and_so_long() {
        let mut orders = Orders { release: release("a", 3), ..Orders::default() };
        let left = |orders: &Orders, now| orders.released(now).map(|release| release.left);
        assert_eq!(left(&orders, at(59)), Some(3));
        assert_eq!(left(&orders, at(60)), None);
        orders.spend(2);
        assert_eq!(left(&orders, at(59)), Some(1));
        orders.update(Orders { release: release("a", 3), ..Orders::default() });
        assert_eq!(left(&orders, at(59)), Some(1), "read before it was spent");
        orders.update(Orders { release: release("b", 3), ..Orders::default() });
        assert_eq!(left(&orders, at(59)), Some(3), "another one");
        orders.spend(u64::MAX);
        assert_eq!(left(&orders, at(59)), None);
        orders.update(Orders::default());
        orders.spend(1);
        assert_eq!(left(&orders, at(0)), None);
    }

    #[test]
    fn an_order_is_good_for_a_day_at_most() {
        assert!(check_duration(LONGEST).is_ok());
        assert!(check_duration(Duration::from_millis(1)).is_ok());
        for wrong in [Duration::ZERO, LONGEST + Duration::from_millis(1)] {
            assert!(check_duration(wrong).is_err_and(|sentence| sentence.contains("at most 1d")), "{wrong:?}");
        }
    }
}
