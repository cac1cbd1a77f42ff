//! Durations as people write them: `90s`, `1h 30m`.

use std::time::Duration;

use super::{Mistake, shown};

/// Reads a duration whose units are of exact length.
///
/// # Errors
/// It is none, has no unit, or counts in months or years.
pub fn parse(text: &str) -> Result<Duration, Mistake> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(without_unit(text));
    }
    let units = text.split(|c: char| !c.is_alphabetic());
    match units.into_iter().find(|unit| is_no_exact_unit(unit)) {
        Some("M") => {
            return Err(Mistake::new(format!("`{text}`: `M` is a month, which has no exact length"))
                .hint(format!("for minutes write \"{}\"", text.replace('M', "m"))));
        }
        Some(_) => {
            return Err(
                Mistake::new(format!("`{text}`: a month or a year has no exact length")).hint("write days: \"30d\"")
            );
        }
        None => {}
    }
    humantime::parse_duration(text).map_err(|_| {
        Mistake::new(format!("`{}` is no duration", shown(text.as_bytes())))
            .hint("write \"30s\", \"5m\", \"1h 30m\" or \"2d\"")
    })
}

/// What is wrong with bare digits.
pub fn without_unit(digits: &str) -> Mistake {
    Mistake::new(format!("`{digits}` has no unit")).hint(format!("seconds are written \"{digits}s\""))
}

fn is_no_exact_unit(unit: &str) -> bool {
    matches!(unit, "M" | "month" | "months" | "y" | "yr" | "yrs" | "year" | "years")
}
