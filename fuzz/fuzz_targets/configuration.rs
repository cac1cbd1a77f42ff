//! Any text is a configuration or says what is wrong with it, each mistake at a place that the text has.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use presence_reaper::config::{Config, File, FlagValue, Flags, Inputs, Place, Setting, load};
use presence_reaper_fuzz::out_of_reach;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    variables: Vec<(u8, &'a str)>,
    flags: Vec<(u8, &'a str)>,
    chosen: Option<&'a str>,
    /// Last, so that it is the rest of the bytes as they are and a file of the corpus reads as itself.
    text: &'a str,
}

const VARIABLES: [&str; 6] = [
    "PRESENCE_REAPER_REDIS__URL",
    "PRESENCE_REAPER_SERVER__LISTEN",
    "PRESENCE_REAPER_GUARD__RECONNECT_GRACE",
    "PRESENCE_REAPER_LEASE__TTL",
    "PRESENCE_REAPER_LOG__LEVEL",
    "PRESENCE_REAPER_REDIS__PASSWORD",
];

/// The flag, its table and key, and whether it repeats.
const FLAGS: [(&str, &str, &str, bool); 6] = [
    ("--redis-url", "redis", "url", false),
    ("--zset", "source", "zset", false),
    ("--keys", "source", "keys", false),
    ("--last-ping", "source", "last_ping", true),
    ("--companion", "source", "companions", true),
    ("--threshold", "source", "threshold", false),
];

fuzz_target!(|input: Input<'_>| {
    let text = input.text.to_owned();
    let variables = input.variables.iter().take(3);
    let environment =
        variables.map(|(which, value)| (VARIABLES[usize::from(which % 6)].into(), (*value).into())).collect();
    let settings = input.flags.iter().take(3).map(|(which, value)| {
        let (flag, table, key, many) = FLAGS[usize::from(which % 6)];
        let value = (*value).to_owned();
        Setting { flag, table, key, value: if many { FlagValue::Many(vec![value]) } else { FlagValue::One(value) } }
    });
    let flags = Flags { settings: settings.collect(), sources: input.chosen.map(str::to_owned).into_iter().collect() };
    let file = Some(File { name: "reaper.toml".to_owned(), text: text.clone() });
    match load(Inputs { file, environment, flags, ..Inputs::default() }) {
        Ok(config) => {
            sound(&config);
            config.warnings.iter().for_each(|warning| stands_in(&warning.place, &text));
        }
        Err(problems) => {
            assert!(!problems.0.is_empty());
            for problem in &problems.0 {
                assert!(!problem.what.is_empty());
                stands_in(&problem.place, &text);
            }
        }
    }
});

fn sound(config: &Config) {
    assert!((1..=64).contains(&config.sources.len()));
    for source in &config.sources {
        assert!(source.timing.threshold >= source.timing.heartbeat_interval * 5);
        out_of_reach(&source.source);
    }
}

/// The place is one that the file has: a column may be the one behind a line's end.
fn stands_in(place: &Place, text: &str) {
    let Place::File { name, line, column } = place else { return };
    assert_eq!(&**name, "reaper.toml");
    let lines: Vec<&str> = text.split('\n').collect();
    assert!((1..=lines.len()).contains(line), "line {line} of {}", lines.len());
    let length = lines[line - 1].chars().count();
    assert!((1..=length + 1).contains(column), "column {column} of {length} in line {line}");
}
