//! The name of a time zone → its rules: from this system, which learns of new ones by its updates, else from the copy
//! within the program, so that a container without zones knows them all.

use jiff::tz::{TimeZoneDatabase, db};

use super::reader::text;
use super::tree::Value;
use crate::language::{Mistake, nearest, shown};
use crate::policy::zone::Zone;

/// What to write, where nothing is near.
const EXAMPLE: &str = "write an IANA name, as \"Europe/Berlin\"";

/// A slip of the finger is one in three letters, and of a shorter word anything could be meant: MSK is not Omsk.
const LEAST_TO_GUESS: usize = 5;

/// The zone of that name.
pub(super) fn zone(value: &Value) -> Result<Zone, Mistake> {
    let name = text(value)?;
    let bundled = TimeZoneDatabase::bundled();
    let known = bundled.get(name);
    // A system also has `localtime` and the like, which are another zone on every machine.
    let by_system = if known.is_ok() || name.contains('/') { db().get(name).ok() } else { None };
    let rules = by_system.or(known.ok()).filter(|rules| rules.iana_name().is_some());
    rules.map(Zone::new).ok_or_else(|| unknown(name, &bundled))
}

fn unknown(name: &str, bundled: &TimeZoneDatabase) -> Mistake {
    let mistake = Mistake::new(format!("`{}` is no time zone", shown(name.as_bytes())));
    let names: Vec<String> = bundled.available().map(|name| name.to_string()).collect();
    match near(name, &names) {
        Some(near) => mistake.hint(format!("did you mean \"{near}\"?")),
        None if name.contains(['+', '-']) => {
            mistake.hint("always two hours ahead of UTC is \"Etc/GMT-2\", the sign turned round")
        }
        None => mistake.hint(EXAMPLE),
    }
}

/// The name that was most likely meant: the whole, or a city without its continent.
fn near<'n>(name: &str, names: &'n [String]) -> Option<&'n str> {
    let city = |whole: &'n String| whole.rsplit_once('/').map(|(_, city)| (city, whole.as_str()));
    if name.contains('/') {
        return nearest(name, names.iter().map(String::as_str));
    }
    let exact = names.iter().filter_map(city).find(|(city, _)| city.eq_ignore_ascii_case(name));
    let meant = exact.map(|(city, _)| city).or_else(|| {
        if name.len() < LEAST_TO_GUESS {
            None
        } else {
            nearest(name, names.iter().filter_map(city).map(|(city, _)| city))
        }
    })?;
    names.iter().filter_map(city).find(|(city, _)| *city == meant).map(|(_, whole)| whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, expected: Result<&str, &str>) {
        let found = zone(&Value::Text(name.to_owned()));
        let found = found.as_ref().map(Zone::name).map_err(|mistake| mistake.hint.as_deref().unwrap_or_default());
        assert_eq!(found, expected, "{name}");
    }

    #[test]
    fn zones_have_names() {
        check("Europe/Berlin", Ok("Europe/Berlin"));
        check("america/new_york", Ok("America/New_York"));
        check("US/Eastern", Ok("US/Eastern"));
        check("UTC", Ok("UTC"));
        check("CET", Ok("CET"));
        check("Etc/GMT-2", Ok("Etc/GMT-2"));
    }

    #[test]
    fn the_nearest_name_is_offered() {
        check("Europe/Berln", Err("did you mean \"Europe/Berlin\"?"));
        check("Amerika/New_York", Err("did you mean \"America/New_York\"?"));
        check("Berlin", Err("did you mean \"Europe/Berlin\"?"));
        check("new york", Err("did you mean \"America/New_York\"?"));
        check("Kathmandoo", Err("did you mean \"Asia/Kathmandu\"?"));
        check("Oslo", Err("did you mean \"Europe/Oslo\"?"));
        for offset in ["+02:00", "UTC+2", "-05"] {
            check(offset, Err("always two hours ahead of UTC is \"Etc/GMT-2\", the sign turned round"));
        }
        for name in ["", "MSK", "PST", "local", "localtime", "posixrules", "W. Europe Standard Time", "Etc/Unknown"] {
            check(name, Err(EXAMPLE));
        }
    }
}
