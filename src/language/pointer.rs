//! JSON pointers (RFC 6901).

use std::fmt;

use serde_json::Value;

use super::{Mistake, shown};

/// A checked JSON pointer: which part of a document is meant. The empty one means the whole.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pointer {
    tokens: Vec<String>,
}

impl Pointer {
    /// Reads `/a/b/0`; within a token `~1` is a slash and `~0` a tilde.
    pub fn parse(text: &[u8]) -> Result<Self, Mistake> {
        let wrong = |why: &str| Mistake::new(format!("`{}` is no JSON pointer: {why}", shown(text)));
        let text = std::str::from_utf8(text).map_err(|_| wrong("it is not UTF-8"))?;
        if text.is_empty() {
            return Ok(Self { tokens: Vec::new() });
        }
        let Some(path) = text.strip_prefix('/') else {
            return Err(wrong("it does not begin with `/`").hint(format!("write `/{}`", text.replace('.', "/"))));
        };
        if path.split('~').skip(1).any(|after| !after.starts_with(['0', '1'])) {
            return Err(wrong("a `~` without 0 or 1 behind it").hint("`~0` is a tilde, `~1` a slash inside a name"));
        }
        // In this order, so that `~01` becomes `~1` and not `/`.
        let tokens = path.split('/').map(|token| token.replace("~1", "/").replace("~0", "~")).collect();
        Ok(Self { tokens })
    }

    /// What the pointer leads to in `value`; none where the way ends early.
    pub fn find<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        self.tokens.iter().try_fold(value, |value, token| match value {
            Value::Object(members) => members.get(token),
            Value::Array(elements) => elements.get(index(token)?),
            _ => None,
        })
    }
}

/// An array index as RFC 6901 spells it: no sign, no leading zero.
fn index(token: &str) -> Option<usize> {
    let spelt_well = token == "0" || (!token.starts_with('0') && token.bytes().all(|b| b.is_ascii_digit()));
    if spelt_well { token.parse().ok() } else { None }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tokens.iter().try_for_each(|token| write!(f, "/{}", token.replace('~', "~0").replace('/', "~1")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(document: &str, pointer: &str, expected: Option<&str>) {
        let value: Value = serde_json::from_str(document).unwrap();
        let parsed = Pointer::parse(pointer.as_bytes()).unwrap();
        assert_eq!(parsed.to_string(), pointer);
        assert_eq!(parsed.find(&value).map(Value::to_string).as_deref(), expected, "{pointer} in {document}");
        assert_eq!(parsed.find(&value), value.pointer(pointer), "as serde_json reads it");
    }

    #[test]
    fn a_pointer_finds_what_rfc_6901_says() {
        check(r#"{"a":{"b":1}}"#, "/a/b", Some("1"));
        check(r#"{"a":{"b":1}}"#, "/a/c", None);
        check(r#"{"a":[5,6]}"#, "/a/1", Some("6"));
        check(r#"{"a":[5,6]}"#, "/a/01", None);
        check(r#"{"a":[5,6]}"#, "/a/+1", None);
        check(r#"{"a":[5,6]}"#, "/a/-", None);
        check(r#"{"a":[5,6]}"#, "/a/", None);
        check(r#"{"a/b":1,"m~n":2,"":3}"#, "/a~1b", Some("1"));
        check(r#"{"a/b":1,"m~n":2,"":3}"#, "/m~0n", Some("2"));
        check(r#"{"a/b":1,"m~n":2,"":3}"#, "/", Some("3"));
        check(r#"{"~1":1}"#, "/~01", Some("1"));
        check("7", "", Some("7"));
        check("7", "/x", None);
    }

    #[test]
    fn a_wrong_pointer_is_refused_with_its_remedy() {
        let wrong = |text: &[u8]| Pointer::parse(text).unwrap_err();
        assert_eq!(wrong(b"user.id").hint.as_deref(), Some("write `/user/id`"));
        assert_eq!(wrong(b"/a~").what, "`/a~` is no JSON pointer: a `~` without 0 or 1 behind it");
        assert_eq!(wrong(b"/\xff").what, r"`/\xff` is no JSON pointer: it is not UTF-8");
    }
}
