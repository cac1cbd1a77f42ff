//! A keyed hash in place of what must not be shown.

use std::fmt;
use std::hash::Hasher;
use std::ops::Range;

use siphasher::sip::SipHasher24;

/// Hides ids behind SipHash-2-4 under a key that is drawn for one run, never shown and never kept.
///
/// Equal bytes get equal names within the run, so that an entry can be followed through its report and its log. Who
/// holds only these can neither reverse them nor try ids out, nor compare them with those of another run.
#[derive(Clone)]
pub struct Redaction {
    keyed: SipHasher24,
}

impl Redaction {
    /// Hides under this key.
    pub fn keyed(key: &[u8; 16]) -> Self {
        Self { keyed: SipHasher24::new_with_key(key) }
    }

    /// Hides under a key drawn from the system.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut key = [0; 16];
        getrandom::fill(&mut key)?;
        Ok(Self::keyed(&key))
    }

    /// What stands in place of `bytes`: `redacted-` and sixteen hexadecimal digits.
    pub fn hidden(&self, bytes: &[u8]) -> String {
        let mut hasher = self.keyed;
        hasher.write(bytes);
        format!("redacted-{:016x}", hasher.finish())
    }

    /// `bytes` with each of these ranges hidden by itself; they are in order and do not overlap.
    pub fn hidden_within(&self, bytes: &[u8], ranges: &[Range<usize>]) -> Vec<u8> {
        let mut shown = Vec::with_capacity(bytes.len());
        let mut from = 0;
        for range in ranges {
            shown.extend_from_slice(&bytes[from..range.start]);
            shown.extend_from_slice(self.hidden(&bytes[range.clone()]).as_bytes());
            from = range.end;
        }
        shown.extend_from_slice(&bytes[from..]);
        shown
    }
}

impl fmt::Debug for Redaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redaction(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_ids_are_equal_within_a_run_and_different_in_another() {
        let (one, other) = (Redaction::random().unwrap(), Redaction::random().unwrap());
        assert_eq!(one.hidden(b"alice"), one.hidden(b"alice"));
        assert_ne!(one.hidden(b"alice"), one.hidden(b"bob"));
        assert_ne!(one.hidden(b"alice"), other.hidden(b"alice"));
        assert!(!format!("{one:?}").contains(|c: char| c.is_ascii_digit()), "the key is never printed");
    }

    #[test]
    fn the_hash_is_the_one_that_is_promised() {
        // The first vectors of the reference implementation of SipHash-2-4.
        let key = std::array::from_fn(|n| u8::try_from(n).unwrap());
        assert_eq!(Redaction::keyed(&key).hidden(b""), "redacted-726fdb47dd0e0e31");
        assert_eq!(Redaction::keyed(&key).hidden(&[0]), "redacted-74f839c593dc67fd");
    }

    #[test]
    fn what_stands_between_the_ranges_stays() {
        let redaction = Redaction::keyed(&[7; 16]);
        let (a, b) = (redaction.hidden(b"acme"), redaction.hidden(b"17"));
        let shown = redaction.hidden_within(b"conn:acme:17:x", &[5..9, 10..12]);
        assert_eq!(String::from_utf8(shown).unwrap(), format!("conn:{a}:{b}:x"));
        assert_eq!(redaction.hidden_within(b"conn", &[]), b"conn");
    }
}
