//! What becomes of the entry itself: `remove`, `expire 5m`, `set state offline`.

use std::time::Duration;

use super::action::check_duration;
use super::template::{Layout, Part, Ref, Scope, Template};
use super::value::{Lookup, Place, Value};
use super::{Mistake, duration, shown, words};
use crate::policy::duration::spelt;

/// What an eviction does with the entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OnEvict {
    /// It goes.
    #[default]
    Remove,
    /// A string key lives on for so long; a ping, which is a `SET`, takes that back.
    Expire(Duration),
    /// A field of a hash key says that its client is away.
    Set {
        /// The field.
        field: Template,
        /// What it says.
        text: Template,
    },
}

const KNOWN: &str = "there are `remove`, `expire DURATION` and `set FIELD TEXT`";

impl OnEvict {
    /// Reads what is written; the first word ignores case.
    ///
    /// # Errors
    /// It is nothing that there is, or nothing for entries of this kind.
    pub fn parse(text: &str, scope: &Scope<'_>, last_ping: Option<&[Value]>) -> Result<Self, Mistake> {
        let words = words::split(text)?;
        let Some((first, rest)) = words.split_first() else {
            return Err(Mistake::new("the text is empty").hint(KNOWN));
        };
        match (shown(first).to_ascii_lowercase().as_str(), rest) {
            ("remove", []) => Ok(Self::Remove),
            ("expire", [time]) => expire(&shown(time), scope.layout),
            ("set", [field, text]) => set(field, text, scope, last_ping),
            ("remove" | "expire" | "set", _) => {
                Err(Mistake::new(format!("wrong number of words in `{}`", shown(text.as_bytes()))).hint(KNOWN))
            }
            (other, _) => Err(Mistake::new(format!("unknown word `{other}`")).hint(KNOWN)),
        }
    }

    /// What becomes of it instead of going, for a person.
    pub fn describe(&self) -> Option<String> {
        match self {
            Self::Remove => None,
            Self::Expire(time) => Some(format!("expires after {}", spelt(*time))),
            Self::Set { field, .. } => {
                let named = field.as_literal().map_or_else(String::new, |name| format!(" `{}`", shown(name)));
                Some(format!("stays, and its field{named} says so"))
            }
        }
    }
}

fn expire(time: &str, layout: Option<Layout>) -> Result<OnEvict, Mistake> {
    match layout {
        None | Some(Layout::Strings) => {
            let duration = duration::parse(time)?;
            check_duration(duration, time)?;
            Ok(OnEvict::Expire(duration))
        }
        Some(Layout::Hashes | Layout::Keys) => Err(Mistake::new(
            "`expire` is for keys that hold a string: a ping that is an HSET would not take the time to live back, and a \
             returned client would lose its record while it pings",
        )
        .hint("write on_evict = \"set FIELD TEXT\", or leave it out, and the entry goes")),
        Some(Layout::Zset | Layout::Hash | Layout::Set) => {
            Err(Mistake::new("`expire` is for keys that hold a string, and a member or field has no time to live")
                .hint("leave `on_evict` out, and the entry goes"))
        }
    }
}

fn set(field: &[u8], text: &[u8], scope: &Scope<'_>, last_ping: Option<&[Value]>) -> Result<OnEvict, Mistake> {
    if scope.layout.is_some_and(|layout| layout != Layout::Hashes) {
        return Err(Mistake::new("`set` is for keys that hold a hash each: nothing else has fields")
            .hint("leave `on_evict` out, and the entry goes"));
    }
    let (name, text) = (Template::field_name(field, scope)?, Template::parse(text, scope)?);
    // Whether it says so already is seen at every survey, of every entry: by what each has.
    if text.refs().any(|name| !name.is_of_key()) {
        return Err(Mistake::new("what the field says may name `{key}`, `{id}` and captures of the key alone").hint(
            "write a text such as `offline`; what else is to be written goes into a companion: `HSET KEY FIELD VALUE`",
        ));
    }
    let holds_the_time = |time: &Value| match time {
        Value::Own(Ref::Field(time)) => *time == name,
        Value::Lookup(Lookup { place: Place::Field { key, field }, .. }) => {
            key.parts() == [Part::Ref(Ref::Key)] && *field == name
        }
        _ => false,
    };
    if last_ping.is_some_and(|times| times.iter().any(holds_the_time)) {
        return Err(Mistake::new(format!("`{}` is where the last ping stands", shown(field)))
            .hint("write another field: what is overwritten can't be judged any more"));
    }
    Ok(OnEvict::Set { field: name, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(layout: Layout, text: &str) -> Result<OnEvict, Mistake> {
        let captures = ["id".to_owned()];
        let scope = Scope { layout: Some(layout), captures: &captures, ..Scope::default() };
        let looked_up = Value::parse("hget {key} looked-up", &scope).unwrap();
        let last_ping = [Value::Own(Ref::Field(Template::literal(b"seen"))), looked_up];
        OnEvict::parse(text, &scope, Some(&last_ping))
    }

    #[track_caller]
    fn refused(layout: Layout, text: &str, what: &str) {
        let mistake = parse(layout, text).unwrap_err();
        assert!(mistake.what.starts_with(what), "{text}: {mistake}");
        assert!(mistake.hint.is_some(), "{text}");
    }

    #[test]
    fn what_becomes_of_an_entry_is_read() {
        for layout in [Layout::Zset, Layout::Hash, Layout::Strings, Layout::Hashes] {
            assert_eq!(parse(layout, " Remove "), Ok(OnEvict::Remove));
        }
        assert_eq!(parse(Layout::Strings, "expire 90s"), Ok(OnEvict::Expire(Duration::from_secs(90))));
        assert_eq!(parse(Layout::Strings, "EXPIRE \"1h 30m\""), Ok(OnEvict::Expire(Duration::from_secs(5_400))));
        let Ok(OnEvict::Set { field, text }) = parse(Layout::Hashes, "set \"a {{b}}\" \"{id} is away\"") else {
            panic!("a set");
        };
        assert_eq!((field.as_literal(), text.refs().count()), (Some(&b"a {b}"[..]), 1));
    }

    #[test]
    fn what_does_not_fit_the_entries_is_refused() {
        refused(Layout::Zset, "expire 90s", "`expire` is for keys that hold a string, and a member");
        refused(Layout::Hash, "expire 90s", "`expire` is for keys that hold a string, and a member");
        refused(Layout::Hashes, "expire 90s", "`expire` is for keys that hold a string: a ping that is an HSET");
        for layout in [Layout::Zset, Layout::Hash, Layout::Strings] {
            refused(layout, "set state offline", "`set` is for keys that hold a hash each");
        }
        refused(Layout::Hashes, "set seen 0", "`seen` is where the last ping stands");
        refused(Layout::Hashes, "set looked-up 0", "`looked-up` is where the last ping stands");
        refused(Layout::Hashes, "set {field:a} x", "`{field:a}` names more than the key");
        refused(Layout::Hashes, "set state {field:user}", "what the field says may name");
        refused(Layout::Hashes, "", "the text is empty");
        refused(Layout::Hashes, "set state", "wrong number of words in `set state`");
        refused(Layout::Strings, "expire", "wrong number of words in `expire`");
        refused(Layout::Strings, "expire 0s", "`0s` is no time at all");
        refused(Layout::Strings, "expire 90", "`90` has no unit");
        refused(Layout::Strings, "keep", "unknown word `keep`");
    }
}
