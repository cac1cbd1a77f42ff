//! Where an entry's last ping stands: `score`, `value`, `json /pointer`, `field NAME`.

use super::template::{Pointer, Scope, Template};
use super::{Mistake, nearest, shown, words};
use crate::policy::entry::Bytes;

/// The values there are, for messages.
const KNOWN: &str = "there are `score`, `value`, `json /pointer` and `field NAME`";

/// One value of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// The score of a sorted-set member.
    Score,
    /// The whole value.
    Whole,
    /// A part of the value, read as JSON.
    Json(Pointer),
    /// A field of a key that is a hash.
    Field(Bytes),
}

impl Value {
    /// Reads `text`; the first word ignores case.
    pub fn parse(text: &str) -> Result<Self, Mistake> {
        let words = words::split(text)?;
        let Some((first, rest)) = words.split_first() else {
            return Err(Mistake::new("the value is empty").hint(KNOWN));
        };
        Self::of(first, rest, text)
    }

    /// Reads the words of `text` that name a value.
    pub(super) fn of(first: &[u8], rest: &[Vec<u8>], text: &str) -> Result<Self, Mistake> {
        let verb = shown(first).to_ascii_lowercase();
        match (verb.as_str(), rest) {
            ("score", []) => Ok(Self::Score),
            ("value", []) => Ok(Self::Whole),
            ("json", [pointer]) => Ok(Self::Json(Pointer::parse(pointer)?)),
            ("field", [field]) => Ok(Self::Field(literal(field)?)),
            ("score" | "value", _) => Err(count(text, &format!("`{verb}` stands alone"))),
            ("json", _) => Err(count(text, "`json` takes one pointer: `json /LastPing`")),
            ("field", _) => Err(count(text, "`field` takes one name: `field last_ping`")),
            _ => Err(unknown(first)),
        }
    }
}

/// The bytes of a word that may not name a value.
fn literal(word: &[u8]) -> Result<Bytes, Mistake> {
    let nothing_passes = Scope { layout: None, captures: &[] };
    let template = Template::parse(word, &nothing_passes)?;
    if template.refs().next().is_some() {
        return Err(Mistake::new(format!("`{}` holds a variable, and a field's name is literal here", shown(word)))
            .hint("a literal brace is written `{{`"));
    }
    Ok(template.literal_prefix().into())
}

fn count(text: &str, hint: &str) -> Mistake {
    Mistake::new(format!("wrong number of words in `{}`", shown(text.as_bytes()))).hint(hint)
}

fn unknown(word: &[u8]) -> Mistake {
    let word = shown(word);
    let mistake = Mistake::new(format!("unknown value `{word}`"));
    if word.starts_with('/') {
        return mistake.hint(format!("did you mean `json {word}`?"));
    }
    match nearest(&word, ["score", "value", "json", "field"]) {
        Some(near) => mistake.hint(format!("did you mean `{near}`? {KNOWN}")),
        None => mistake.hint(KNOWN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &Value) {
        assert_eq!(Value::parse(text).as_ref(), Ok(expected), "{text}");
    }

    #[track_caller]
    fn refused(text: &str, what: &str) {
        assert_eq!(Value::parse(text).unwrap_err().what, what, "{text}");
    }

    #[test]
    fn values_are_read() {
        check("score", &Value::Score);
        check("  Value ", &Value::Whole);
        check("json /a/b", &Value::Json(Pointer::parse(b"/a/b").unwrap()));
        check(r#"json "/a b""#, &Value::Json(Pointer::parse(b"/a b").unwrap()));
        check("json /a{b", &Value::Json(Pointer::parse(b"/a{b").unwrap()));
        check("field last_ping", &Value::Field(b"last_ping".as_slice().into()));
        check("field {{a}}", &Value::Field(b"{a}".as_slice().into()));
        check(r#"field """#, &Value::Field(b"".as_slice().into()));
    }

    #[test]
    fn what_is_no_value_is_refused() {
        refused("", "the value is empty");
        refused("score 1", "wrong number of words in `score 1`");
        refused("json", "wrong number of words in `json`");
        refused("json /a /b", "wrong number of words in `json /a /b`");
        refused("json a.b", "`a.b` is no JSON pointer: it does not begin with `/`");
        refused("field {id}", "`{id}` holds a variable, and a field's name is literal here");
        refused("hget k f", "unknown value `hget`");
        refused("idle", "unknown value `idle`");
        assert_eq!(Value::parse("/LastPing").unwrap_err().hint.as_deref(), Some("did you mean `json /LastPing`?"));
    }
}
