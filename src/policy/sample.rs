//! A few entries that stand for all: drawn while a survey passes by, however many there are.

use super::entry::{EntryId, Mark, Monotonic, Timestamp};

/// An entry that was drawn, as it was when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sampled {
    /// Which entry.
    pub id: EntryId,
    /// The mark it bore.
    pub mark: Mark,
    /// When it had last pinged.
    pub last_ping: Timestamp,
    /// When we read that.
    pub seen: Monotonic,
}

/// A reservoir: after any number of offers each of them had the same chance to be kept.
///
/// The chance comes from a small generator of its own, so that the core stays a function of plain values. One entry
/// that was offered twice may be in it twice: `SCAN` repeats itself.
#[derive(Clone, Debug)]
pub struct Sample {
    size: usize,
    offered: u64,
    random: u64,
    kept: Vec<Sampled>,
}

impl Sample {
    /// Room for `size` entries.
    pub fn new(size: usize) -> Self {
        Self { size, offered: 0, random: 0, kept: Vec::new() }
    }

    /// The same; `seed` decides which offers are kept.
    #[must_use]
    pub fn seeded(self, seed: u64) -> Self {
        Self { random: seed, ..self }
    }

    /// Offers the next entry: its place, if it is to be kept. Nothing of it is needed before that is known.
    pub fn offer(&mut self) -> Option<Place> {
        self.offered += 1;
        if self.kept.len() < self.size {
            return Some(Place(self.kept.len()));
        }
        let place = self.below(self.offered);
        (place < self.size).then_some(Place(place))
    }

    /// Keeps the entry that was offered last.
    pub fn keep(&mut self, place: Place, entry: Sampled) {
        match self.kept.get_mut(place.0) {
            Some(kept) => *kept = entry,
            None => self.kept.push(entry),
        }
    }

    /// Offers `count` entries at once, as the same number of [`Self::offer`]s would: how many of them are to be kept.
    /// Those that they take the place of go. Whoever can count the entries but not read them draws that many of them
    /// with equal chances, and [`Self::add`]s them.
    pub fn share(&mut self, count: u64) -> u64 {
        let (mut old, mut new, mut share) = (self.offered, count, 0);
        for _ in 0..self.size {
            if new > 0 && self.next_random() % (old + new) < new {
                (new, share) = (new - 1, share + 1);
            } else {
                old = old.saturating_sub(1);
            }
            if old + new == 0 {
                break;
            }
        }
        self.offered += count;
        while self.kept.len() as u64 + share > self.size as u64 && !self.kept.is_empty() {
            let leaves = self.below(self.kept.len() as u64);
            self.kept.swap_remove(leaves);
        }
        share
    }

    /// Keeps an entry of such a share.
    pub fn add(&mut self, entry: Sampled) {
        if self.kept.len() < self.size {
            self.kept.push(entry);
        }
    }

    /// What was kept.
    pub fn entries(&self) -> &[Sampled] {
        &self.kept
    }

    fn below(&mut self, limit: u64) -> usize {
        usize::try_from(self.next_random() % limit).unwrap_or(usize::MAX)
    }

    /// `SplitMix64`: every seed will do, and a few operations a number.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Where an entry that was offered is to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(usize);

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(n: u64) -> Sampled {
        let id = EntryId::key(n.to_string().into_bytes());
        let last_ping = Timestamp::from_millis(n as i64);
        Sampled { id, mark: Mark::of([]), last_ping, seen: Monotonic::default() }
    }

    fn numbers(sample: &Sample) -> Vec<i64> {
        sample.entries().iter().map(|entry| entry.last_ping.millis()).collect()
    }

    fn offer(sample: &mut Sample, entries: std::ops::Range<u64>) {
        for n in entries {
            if let Some(place) = sample.offer() {
                sample.keep(place, entry(n));
            }
        }
    }

    fn drawn(of: u64, size: usize, seed: u64) -> Vec<i64> {
        let mut sample = Sample::new(size).seeded(seed);
        offer(&mut sample, 0..of);
        numbers(&sample)
    }

    #[test]
    fn all_are_kept_while_there_is_room() {
        assert_eq!(drawn(5, 8, 1), [0, 1, 2, 3, 4]);
        assert_eq!(drawn(1_000, 8, 1).len(), 8);
        assert!(drawn(1_000, 0, 1).is_empty());
    }

    #[test]
    fn early_and_late_offers_have_the_same_chance() {
        let all: Vec<i64> = (0..200).flat_map(|seed| drawn(1_000, 50, seed)).collect();
        let first_half = all.iter().filter(|n| **n < 500).count();
        assert_eq!(all.len(), 10_000);
        assert!((4_700..5_300).contains(&first_half), "{first_half} of 10,000 are of the first half");
    }

    #[test]
    fn what_is_offered_at_once_has_the_same_chance_as_what_is_offered_one_by_one() {
        // 100 one by one, 800 at once, and 100 one by one again.
        let all: Vec<i64> = (0..200)
            .flat_map(|seed| {
                let mut sample = Sample::new(50).seeded(seed);
                offer(&mut sample, 0..100);
                (0..sample.share(800)).for_each(|n| sample.add(entry(100 + n)));
                offer(&mut sample, 900..1_000);
                numbers(&sample)
            })
            .collect();
        assert_eq!(all.len(), 10_000);
        let before = all.iter().filter(|n| **n < 100).count();
        let after = all.iter().filter(|n| **n >= 900).count();
        assert!((850..1_150).contains(&before) && (850..1_150).contains(&after), "{before} and {after} of 10,000");
    }

    #[test]
    fn all_that_is_offered_at_once_is_kept_while_there_is_room() {
        for (size, before, count, share) in [(8, 0, 5, 5), (8, 3, 5, 5), (8, 0, 800, 8), (8, 0, 0, 0), (0, 0, 9, 0)] {
            let mut sample = Sample::new(size);
            offer(&mut sample, 0..before);
            assert_eq!(sample.share(count), share, "{count} after {before} of {size}");
            assert_eq!(sample.entries().len() as u64, (size as u64 - share).min(before));
        }
    }
}
