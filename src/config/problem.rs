//! A mistake in the configuration: where, what, how to mend it.

use std::fmt;
use std::sync::Arc;

use crate::language::Mistake;

/// Where a setting was written. A later one outranks an earlier one of the same setting.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In a file, counted from 1; the column in characters.
    File {
        /// As the operator named it.
        name: Arc<str>,
        /// The line.
        line: usize,
        /// The column.
        column: usize,
    },
    /// In an environment variable of this name.
    Variable(String),
    /// In a flag, `--redis-url`.
    Flag(&'static str),
    /// It was not written at all.
    Nowhere,
}

impl Place {
    /// Whether a setting from here stands above one from `other`: flag, environment, file.
    pub(super) fn outranks(&self, other: &Self) -> bool {
        self.rank() > other.rank()
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Nowhere => 0,
            Self::File { .. } => 1,
            Self::Variable(_) => 2,
            Self::Flag(_) => 3,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { name, line, column } => write!(f, "{name}:{line}:{column}"),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Nowhere => f.write_str("configuration"),
        }
    }
}

/// One mistake, or one warning. Never holds a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it was written.
    pub place: Place,
    /// What is wrong.
    pub what: String,
    /// How to mend it.
    pub hint: Option<String>,
}

impl Problem {
    /// What is wrong with the text at `place`.
    pub(super) fn at(place: &Place, mistake: Mistake) -> Self {
        Self { place: place.clone(), what: mistake.what, hint: mistake.hint }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// Every mistake of a configuration, in the order of the file, then environment, then flags.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for problem in &self.0 {
            write!(f, "{separator}{problem}")?;
            separator = "\n";
        }
        Ok(())
    }
}
