//! A survey as a value that two ways of reading can be held to.

use std::collections::BTreeSet;

use presence_reaper::policy::entry::{EntryId, Mark, Timestamp};
use presence_reaper::policy::survey::Survey;

/// All that a survey says but the moment of each look.
#[derive(Debug, PartialEq)]
pub(super) struct Summary {
    /// Fresh, late, stale, future.
    pub(super) counts: [u64; 4],
    pub(super) unreadable: Vec<u64>,
    pub(super) times: Vec<u64>,
    pub(super) ages: Vec<u64>,
    pub(super) span: [Option<Timestamp>; 2],
    pub(super) candidates: BTreeSet<(Timestamp, EntryId, String)>,
    pub(super) unwatched: u64,
    pub(super) oldest_stale: BTreeSet<(Timestamp, EntryId)>,
}

/// Takes a survey together; no candidate may stand there twice.
pub(super) fn summary(survey: &Survey) -> Summary {
    let mark = |mark: &Mark| format!("{mark:?}");
    let candidates: BTreeSet<_> =
        survey.candidates.iter().map(|one| (one.last_ping, one.id.clone(), mark(&one.mark))).collect();
    assert_eq!(candidates.len(), survey.candidates.len(), "a candidate stands there twice");
    Summary {
        counts: [survey.fresh, survey.late, survey.stale, survey.future],
        unreadable: survey.unreadable.to_vec(),
        times: survey.times.to_vec(),
        ages: survey.ages.buckets().map(|(_, count)| count).collect(),
        span: [survey.oldest, survey.newest],
        candidates,
        unwatched: survey.unwatched,
        oldest_stale: survey.oldest_stale.clone(),
    }
}
