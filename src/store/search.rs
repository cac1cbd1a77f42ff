//! Keys that only a walk over all of them finds: `any-key` in `unless`.
//!
//! No script can walk, so what a walk found counts for a heartbeat interval, and there is one an interval at most. It is
//! taken for everything that is due by then; what it did not cover waits for the next.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;

use super::condition::Unless;
use super::error::Error;
use super::{Reading, scan};
use crate::language::pattern::escaped;
use crate::policy::entry::{EntryId, Monotonic};

/// Entries that one walk is taken for: what is due within a heartbeat interval, at the usual pace.
pub(super) const MOST: usize = 20_000;

/// A key that begins, goes on and ends with these, and has any bytes between them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sought {
    pub(super) pieces: Vec<Vec<u8>>,
    /// It protects where there is none.
    pub(super) negated: bool,
}

impl Sought {
    fn begins_with(&self) -> &[u8] {
        self.pieces.first().map(Vec::as_slice).unwrap_or_default()
    }

    fn matches(&self, key: &[u8]) -> bool {
        let [first, between @ .., last] = &self.pieces[..] else { return false };
        let Some(mut rest) = key.strip_prefix(&first[..]).and_then(|rest| rest.strip_suffix(&last[..])) else {
            return false;
        };
        between.iter().all(|piece| match find(rest, piece) {
            Some(at) => {
                rest = &rest[at + piece.len()..];
                true
            }
            None => false,
        })
    }
}

fn find(text: &[u8], piece: &[u8]) -> Option<usize> {
    match piece {
        [] => Some(0),
        _ => text.windows(piece.len()).position(|window| window == piece),
    }
}

/// What the last walk found.
#[derive(Debug, Default)]
pub(super) struct Found {
    began: Option<Monotonic>,
    /// What was sought for each, and whether it protects.
    protected: HashMap<EntryId, (Vec<Sought>, bool)>,
}

impl Found {
    /// When it began, if there was one.
    pub(super) fn began(&self) -> Option<Monotonic> {
        self.began
    }

    /// Whether it found a key that protects this entry; none if it did not look for these.
    pub(super) fn of(&self, id: &EntryId, sought: &[Sought]) -> Option<bool> {
        self.protected.get(id).filter(|(known, _)| known == sought).map(|(_, protects)| *protects)
    }
}

/// Walks through the keys once, for all of these entries.
pub(super) async fn walk(
    reading: &Reading<'_>,
    wanted: &[(EntryId, Unless)],
    began: Monotonic,
) -> Result<Found, Error> {
    let sought: Vec<(usize, &Sought)> = wanted
        .iter()
        .enumerate()
        .flat_map(|(at, (_, unless))| unless.sought.iter().map(move |one| (at, one)))
        .collect();
    let mut beginning: HashMap<&[u8], Vec<usize>> = HashMap::new();
    for (place, (_, one)) in sought.iter().enumerate() {
        beginning.entry(one.begins_with()).or_default().push(place);
    }
    let lengths: BTreeSet<usize> = beginning.keys().map(|first| first.len()).collect();
    let mut there = vec![false; sought.len()];
    let glob = [escaped(&common(beginning.keys().copied())), b"*".to_vec()].concat();
    let whole = scan::keys(reading, &glob, None, |key| {
        // bound: as many as the first pieces have lengths
        for length in &lengths {
            let places = key.get(..*length).and_then(|first| beginning.get(first));
            // bound: the entries that share it
            for place in places.into_iter().flatten() {
                there[*place] = there[*place] || sought[*place].1.matches(&key);
            }
        }
        ControlFlow::Continue(())
    });
    // Nobody breaks it off.
    let _ = whole.await?;
    let mut protected: HashMap<EntryId, (Vec<Sought>, bool)> =
        wanted.iter().map(|(id, unless)| (id.clone(), (unless.sought.clone(), false))).collect();
    for ((at, one), there) in sought.into_iter().zip(there) {
        if there != one.negated {
            protected.entry(wanted[at].0.clone()).and_modify(|(_, protects)| *protects = true);
        }
    }
    Ok(Found { began: Some(began), protected })
}

/// What all of these begin with.
fn common<'k>(mut keys: impl Iterator<Item = &'k [u8]>) -> Vec<u8> {
    let first = keys.next().unwrap_or_default().to_vec();
    keys.fold(first, |mut common, key| {
        let same = common.iter().zip(key).take_while(|(one, other)| one == other).count();
        common.truncate(same);
        common
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pieces: &[&str], key: &str, expected: bool) {
        let pieces = pieces.iter().map(|piece| piece.as_bytes().to_vec()).collect();
        assert_eq!(Sought { pieces, negated: false }.matches(key.as_bytes()), expected, "{key}");
    }

    #[test]
    fn any_bytes_stand_between_the_pieces_and_none_is_used_twice() {
        check(&["job:a:", ""], "job:a:", true);
        check(&["job:a:", ""], "job:a:1", true);
        check(&["job:a:", ""], "job:b:1", false);
        check(&["", ":a"], "job:a", true);
        check(&["job:", ":a:", ":end"], "job:1:a:2:end", true);
        check(&["job:", ":a:", ":end"], "job:1:b:2:end", false);
        check(&["ab", "ba"], "aba", false);
        check(&["ab", "ba"], "abba", true);
        check(&["a", "xx", "xx", "b"], "axxxb", false);
        check(&["a", "xx", "xx", "b"], "axx-xxb", true);
    }

    #[test]
    fn a_walk_asks_for_what_all_begin_with() {
        let common = |keys: &[&str]| common(keys.iter().map(|key| key.as_bytes()));
        assert_eq!(common(&["job:a:", "job:b:"]), b"job:");
        assert_eq!(common(&["job:", "job:a"]), b"job:");
        assert_eq!(common(&["x", "job:a"]), b"");
        assert_eq!(common(&[]), b"");
    }
}
