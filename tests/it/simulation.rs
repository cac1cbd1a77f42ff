//! The rule on its bad days, without a Redis: a simulated world drives the crate's own ledger as the reaper does.
//!
//! What comes of each scenario is the table in `docs/safety.md`; `UPDATE_GOLDEN=1 cargo test` writes it anew.

mod random;
mod reaper;
mod scenarios;
mod world;

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use presence_reaper::policy::duration::in_words;

use scenarios::{Scenario, Worst};
use world::{MINUTE, Ms, SECOND};

/// The table stands between these two in the document.
const BEGIN: &str = "<!-- what the simulation printed: begin -->\n";
const END: &str = "<!-- what the simulation printed: end -->\n";

#[test]
fn p1_p2_p3_p7_on_a_bad_day_nobody_living_goes_and_the_dead_do() {
    let mut table = String::from(
        "| | by age alone: living evicted | clean after | presence-reaper: living evicted | clean after |\n|---|--:|--:|--:|--:|\n",
    );
    let mut wrong = Vec::new();
    for scenario in scenarios::all() {
        let (aged, reaped) = (scenario.cleaned_by_age(), scenario.reaped());
        wrong.extend(complaint(&scenario, &reaped));
        let cells = [lost(&aged), clean(&aged), lost(&reaped), clean(&reaped)];
        writeln!(table, "| {} | {} |", scenario.name, cells.join(" | ")).unwrap();
    }
    println!("{table}");
    assert!(wrong.is_empty(), "\n{}\n{table}", wrong.join("\n"));
    assert_documented(&table);
}

fn complaint(scenario: &Scenario, reaped: &Worst) -> Option<String> {
    let Scenario { name, clean_within, unavoidable, .. } = scenario;
    let limit = u64::try_from(*clean_within).unwrap() * MINUTE;
    match reaped.clean {
        _ if (reaped.lost > 0) != *unavoidable => Some(format!("{name}: {} of the living went", reaped.lost)),
        None => Some(format!("{name}: stuck")),
        Some(clean) if clean > limit => Some(format!("{name}: clean after {}", in_words(Duration::from_millis(clean)))),
        Some(_) => None,
    }
}

fn lost(worst: &Worst) -> String {
    match worst.lost {
        0 => "0".into(),
        lost => format!("**{lost}**"),
    }
}

/// Rounded up to half a minute: surveys have a chance in them.
fn clean(worst: &Worst) -> String {
    let rounded = |clean: Ms| Duration::from_millis(clean.div_ceil(30 * SECOND) * 30 * SECOND);
    match worst.clean {
        None => "never".into(),
        Some(0) => "at once".into(),
        Some(clean) => in_words(rounded(clean)),
    }
}

#[track_caller]
fn assert_documented(table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/safety.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (head, rest) = text.split_once(BEGIN).unwrap();
    let (documented, tail) = rest.split_once(END).unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, format!("{head}{BEGIN}{table}{END}{tail}")).unwrap();
    } else {
        assert_eq!(documented, table, "{} differs: UPDATE_GOLDEN=1 cargo test writes it anew", path.display());
    }
}

/// The rows are of 300 clients to save time. That 3,000 come to the same is seen on the row that loses, and on the one
/// that is slowest by its size.
#[test]
fn ten_times_the_clients_come_to_the_same() {
    for name in ["one hub of three cut off for 7 min", "two hubs of three crash"] {
        let of = |scale| scenarios::all().into_iter().find(|row| row.name == name).unwrap().times(scale).reaped();
        let (small, large) = (of(1), of(10));
        assert_eq!(small.lost * 10, large.lost, "{name}");
        let (small, large) = (small.clean.unwrap(), large.clean.unwrap());
        assert!(small.abs_diff(large) <= MINUTE, "{name}: {small} ms, {large} ms");
    }
}
