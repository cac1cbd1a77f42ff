//! How many events go into one document, so that one which a receiver will not have is found among the others.

/// Halved where one of those that were sent is what the receiver refuses, and doubled again with each that it took: one
/// in a hundred is alone after a dozen documents, a receiver that refuses everything is sent one at a time, and one that
/// finds documents too large gets smaller ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Portion {
    size: usize,
    most: usize,
}

impl Portion {
    pub(super) fn of(most: u32) -> Self {
        let most = usize::try_from(most).unwrap_or(usize::MAX).max(1);
        Self { size: most, most }
    }

    /// Those of `waiting` events that go now, and those that go later.
    pub(super) fn of_these<T>(self, waiting: &[T]) -> (&[T], &[T]) {
        waiting.split_at(self.size.min(waiting.len()))
    }

    /// So many were taken.
    pub(super) fn taken(&mut self) {
        self.size = self.size.saturating_mul(2).min(self.most);
    }

    /// So many were refused for what they say.
    pub(super) fn refused(&mut self, sent: usize) {
        self.size = (sent / 2).max(1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Sends them all to a receiver that refuses a document with a bad one in it; the good that it took, the bad that
    /// were found, and how many documents that took.
    fn sent(events: &[bool], most: u32) -> (usize, usize, usize) {
        let (mut portion, mut rest, mut found) = (Portion::of(most), events, (0, 0, 0));
        while !rest.is_empty() {
            let (now, later) = portion.of_these(rest);
            found.2 += 1;
            if now.iter().all(|good| *good) {
                portion.taken();
                found.0 += now.len();
            } else {
                portion.refused(now.len());
                if now.len() > 1 {
                    continue;
                }
                found.1 += 1;
            }
            rest = later;
        }
        found
    }

    #[test]
    fn one_in_a_hundred_is_found_soon_and_a_hundred_bad_ones_cost_a_document_each() {
        for at in [0, 1, 37, 98, 99] {
            let events: Vec<bool> = (0..100).map(|each| each != at).collect();
            let (good, bad, documents) = sent(&events, 100);
            assert_eq!((good, bad), (99, 1), "{at}");
            assert!(documents <= 24, "{at}: {documents}");
        }
        assert_eq!(sent(&[false; 100], 100), (0, 100, 106));
        assert_eq!(sent(&[true; 100], 100), (100, 0, 1));
    }

    proptest! {
        #[test]
        fn each_is_told_or_found_alone(events in prop::collection::vec(any::<bool>(), 0..300), most in 0_u32..200) {
            let (good, bad, documents) = sent(&events, most);
            prop_assert_eq!(good, events.iter().filter(|good| **good).count());
            prop_assert_eq!(bad, events.len() - good);
            prop_assert!(documents <= 3 * events.len() + 9);
        }
    }
}
