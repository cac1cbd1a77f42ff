//! Durations as people say them.

use std::time::Duration;

/// A duration in its two largest units (`5m`, `1h 30m`), in milliseconds below a second.
pub fn in_words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds == 0 {
        return format!("{}ms", duration.as_millis());
    }
    let parts = [(seconds / 86_400, "d"), (seconds / 3_600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let first = parts.iter().position(|(count, _)| *count > 0).unwrap_or(parts.len() - 1);
    let told: Vec<String> = parts[first..]
        .iter()
        .take(2)
        .filter(|(count, _)| *count > 0)
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect();
    told.join(" ")
}

/// A duration as the configuration takes it: never in months.
pub fn spelt(duration: Duration) -> String {
    let units = [
        (86_400_000_000_000, "d"),
        (3_600_000_000_000, "h"),
        (60_000_000_000, "m"),
        (1_000_000_000, "s"),
        (1_000_000, "ms"),
        (1_000, "us"),
        (1, "ns"),
    ];
    let mut rest = duration.as_nanos();
    let mut parts = Vec::new();
    for (unit, name) in units {
        if rest >= unit {
            parts.push(format!("{}{name}", rest / unit));
            rest %= unit;
        }
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_units_say_enough() {
        let table = [(0, "0ms"), (999, "999ms"), (1_000, "1s"), (300_000, "5m"), (5_400_000, "1h 30m")];
        for (millis, words) in table.into_iter().chain([(3_605_000, "1h"), (86_400_000 * 3 + 60_000, "3d")]) {
            assert_eq!(in_words(Duration::from_millis(millis)), words);
        }
    }
}
