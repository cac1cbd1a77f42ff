//! The language of a source: text → checked values.
//!
//! Every string is read in three steps, always in this order: TOML gives a string, [`words`] splits it, each word
//! becomes a [`template::Template`] or a [`pattern::Pattern`]. What a template brings in is never split or read again,
//! so ids may hold spaces, quotes, braces or any byte.
//!
//! What this version does not build is refused as unknown, never accepted and ignored: a companion that silently does
//! nothing is a lie that nobody notices until the ghosts are back.

use std::fmt;

pub mod action;
pub mod companion;
pub mod condition;
pub mod duration;
pub mod notify;
pub mod on_evict;
mod overlap;
pub mod pattern;
pub mod patterns;
mod pointer;
pub mod source;
pub mod template;
pub mod value;
pub mod words;

/// What is wrong with a text, and how to mend it. Where the text stands is known to whoever read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// One clause, without a full stop.
    pub what: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl Mistake {
    /// A mistake without a remedy to offer.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), hint: None }
    }

    /// The same mistake, with what to write instead.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// The one of `known` that `word` was most likely meant to be; none when nothing is close.
pub fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let word = word.to_ascii_lowercase();
    // One slip in three letters: `treshold` is `threshold`, `foo` is nothing. Or it was cut short: `heartbeat`.
    let allowed = (word.chars().count() / 3).max(1);
    let slips = |name: &str| {
        let name = name.to_ascii_lowercase();
        if word.len() >= 4 && name.starts_with(&word) { allowed } else { distance(&word, &name) }
    };
    let close = known.into_iter().map(|name| (slips(name), name));
    close.filter(|(slips, _)| *slips <= allowed).min_by_key(|(slips, _)| *slips).map(|(_, name)| name)
}

/// How many slips of the finger lie between two words: a letter too many, too few, wrong, or swapped with the next.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let wrong = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = wrong.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before_last[j - 2] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

/// Bytes inside a message: text as it stands, anything else escaped.
pub(crate) fn shown(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
        }
        Err(_) => bytes.escape_ascii().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(word: &str, expected: Option<&str>) {
        assert_eq!(nearest(word, ["threshold", "heartbeat_interval", "dry_run", "zset", "keys"]), expected, "{word}");
    }

    #[test]
    fn the_nearest_name_is_offered_only_when_it_is_near() {
        check("treshold", Some("threshold"));
        check("Threshold", Some("threshold"));
        check("heartbeat_intervall", Some("heartbeat_interval"));
        check("heartbeat", Some("heartbeat_interval"));
        check("zest", Some("zset"));
        check("key", Some("keys"));
        check("prefix", None);
        check("", None);
        check("q", None);
    }
}
