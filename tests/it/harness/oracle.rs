//! The witness: tells from a hub's own log which clients must still be there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// One write of a hub that the server acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    /// Whose entry.
    pub(crate) id: String,
    /// The server's time of the write.
    pub(crate) at_ms: i64,
    /// When the client really last pinged: `at_ms` less the age it was written with, whatever the hub's clock says.
    pub(crate) pinged_ms: i64,
    /// Whether the entry was there before the write.
    pub(crate) existed: bool,
    /// The time as stored; `None` where a refresh found nothing, and wrote nothing.
    pub(crate) value: Option<String>,
}

/// What became of a hub's clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Clients heard within the threshold: their entries must stand.
    pub(crate) live: BTreeSet<String>,
    /// Clients whose entry went while they were live: each is a broken promise.
    pub(crate) lost: BTreeSet<String>,
    /// Entries that stand though their clients are silent.
    pub(crate) stale_left: BTreeSet<String>,
    /// Entries of silent clients that are gone, as they should be.
    pub(crate) evicted: BTreeSet<String>,
}

impl Verdict {
    /// No living client lost its entry; says which did.
    #[track_caller]
    pub(crate) fn assert_none_lost(&self) {
        let some: Vec<_> = self.lost.iter().take(10).collect();
        assert!(self.lost.is_empty(), "{} living clients lost their entry, such as {some:?}", self.lost.len());
    }
}

/// Judges by `log` and by the entries that `remaining` after it. `now_ms` must not be before they were read.
///
/// A loss shows in one of two ways: an entry that must stand does not; or a ping found its entry gone too early. The
/// second sees what the first cannot, a client that came back by its next ping.
pub(crate) fn judge(log: &[Write], remaining: &BTreeSet<String>, now_ms: i64, threshold: Duration) -> Verdict {
    let threshold_ms = i64::try_from(threshold.as_millis()).unwrap_or(i64::MAX);
    let mut verdict = Verdict::default();
    let mut last_heard = BTreeMap::new();
    for write in log {
        let heard = last_heard.get(&write.id).copied();
        if !write.existed && heard.is_some_and(|heard| write.at_ms - heard < threshold_ms) {
            verdict.lost.insert(write.id.clone());
        }
        if write.value.is_some() {
            last_heard.insert(&write.id, write.pinged_ms);
        }
    }
    for (id, heard) in last_heard {
        let live = now_ms - heard < threshold_ms;
        let stands = remaining.contains(id);
        if live {
            verdict.live.insert(id.clone());
        }
        match (live, stands) {
            (true, true) => false,
            (true, false) => verdict.lost.insert(id.clone()),
            (false, true) => verdict.stale_left.insert(id.clone()),
            (false, false) => verdict.evicted.insert(id.clone()),
        };
    }
    verdict
}

#[test]
fn the_witness_sees_both_kinds_of_loss() {
    let write = |id: &str, at_ms, existed| Write {
        id: id.to_owned(),
        at_ms,
        pinged_ms: at_ms,
        existed,
        value: Some(at_ms.to_string()),
    };
    let set = |ids: &[&str]| ids.iter().map(|&id| id.to_owned()).collect::<BTreeSet<_>>();
    let log = [
        write("gone while live", 900, false),
        write("came back", 500, false),
        write("came back", 900, false),
        write("dead and gone", 0, false),
        write("dead and left", 0, false),
        write("returned after its time", 0, false),
        write("returned after its time", 950, false),
        write("well", 900, false),
        write("well", 1000, true),
    ];
    let remaining = set(&["came back", "dead and left", "returned after its time", "well"]);

    let verdict = judge(&log, &remaining, 1000, Duration::from_millis(600));

    assert_eq!(verdict.lost, set(&["came back", "gone while live"]));
    assert_eq!(verdict.stale_left, set(&["dead and left"]));
    assert_eq!(verdict.evicted, set(&["dead and gone"]));
    assert_eq!(verdict.live, set(&["came back", "gone while live", "returned after its time", "well"]));
}
