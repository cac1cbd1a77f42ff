//! Text → words, quoted as redis-cli quotes.

use super::{Mistake, shown};

/// Longer texts are refused: Redis keys of this size are a mistake, and every check here stays quick below it.
pub const MAX_LEN: usize = 4096;

/// Splits `text` at blanks and tabs. A word that begins with `"` runs to its closing quote and may hold anything,
/// through the escapes `\" \\ \n \r \t \xHH`; any other word is taken as it stands.
pub fn split(text: &str) -> Result<Vec<Vec<u8>>, Mistake> {
    if text.len() > MAX_LEN {
        return Err(Mistake::new(format!("{} bytes are too many for one text; at most {MAX_LEN}", text.len())));
    }
    if text.contains(['\n', '\r']) {
        return Err(Mistake::new("a line break in the text").hint(r#"inside double quotes, write it as `\n`"#));
    }
    let mut words = Vec::new();
    let mut rest = text.as_bytes();
    loop {
        // Not every white space of ASCII is a blank here: a form feed belongs to its word.
        let Some(start) = rest.iter().position(|byte| !is_blank(byte)) else { return Ok(words) };
        rest = &rest[start..];
        let (word, after) = match &rest[0] {
            b'"' => quoted(&rest[1..])?,
            b'\'' => {
                return Err(Mistake::new("a word cannot begin with `'`").hint("put the word in double quotes: `\"'\"`"));
            }
            _ => {
                let end = rest.iter().position(is_blank).unwrap_or(rest.len());
                (rest[..end].to_vec(), &rest[end..])
            }
        };
        words.push(word);
        rest = after;
    }
}

/// `text` as the single word it has to be; `of` names it in the message.
pub fn one(text: &str, of: &str) -> Result<Vec<u8>, Mistake> {
    let words = split(text)?;
    match <[Vec<u8>; 1]>::try_from(words) {
        Ok([word]) => Ok(word),
        Err(words) if words.is_empty() => {
            Err(Mistake::new(format!("{of} is empty")).hint("name it as the hub writes it"))
        }
        Err(words) => {
            Err(Mistake::new(format!("{of} is one word, and `{}` are {}", shown(text.as_bytes()), words.len()))
                .hint("put what holds blanks in double quotes inside the string: '\"two words\"'"))
        }
    }
}

fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// The word up to the closing quote, and what stands after it.
fn quoted(text: &[u8]) -> Result<(Vec<u8>, &[u8]), Mistake> {
    let unclosed = || {
        Mistake::new("a word's opening `\"` has no closing one")
            .hint("close it, or write a word that begins with a quote as \"\\\"…\"")
    };
    let mut word = Vec::new();
    let mut rest = text;
    loop {
        let (byte, after) = rest.split_first().ok_or_else(unclosed)?;
        rest = after;
        match byte {
            b'"' if rest.first().is_none_or(is_blank) => return Ok((word, rest)),
            b'"' => {
                return Err(Mistake::new("text follows a closing `\"` without a blank between")
                    .hint("inside double quotes, write a quote as `\\\"`"));
            }
            b'\\' => {
                let (escape, after) = rest.split_first().ok_or_else(unclosed)?;
                rest = after;
                word.push(match escape {
                    b'"' | b'\\' => *escape,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'x' => {
                        let (byte, after) = hex(rest).ok_or_else(|| {
                            Mistake::new("`\\x` needs two hexadecimal digits").hint("`\\x00` is the zero byte")
                        })?;
                        rest = after;
                        byte
                    }
                    other => {
                        return Err(Mistake::new(format!("unknown escape `\\{}`", shown(&[*other])))
                            .hint("there are `\\\"`, `\\\\`, `\\n`, `\\r`, `\\t` and `\\xHH`"));
                    }
                });
            }
            _ => word.push(*byte),
        }
    }
}

/// The byte that two hexadecimal digits at the start of `text` spell, and what stands after them.
pub(crate) fn hex(text: &[u8]) -> Option<(u8, &[u8])> {
    let (digits, rest) = text.split_at_checked(2)?;
    let value = |digit: u8| char::from(digit).to_digit(16);
    let byte = value(digits[0])? * 16 + value(digits[1])?;
    Some((u8::try_from(byte).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[&[u8]]) {
        assert_eq!(split(text), Ok(expected.iter().map(|word| word.to_vec()).collect()), "{text}");
    }

    #[track_caller]
    fn refused(text: &str, what: &str) {
        assert_eq!(split(text).unwrap_err().what, what, "{text}");
    }

    #[test]
    fn words_are_split_at_blanks_and_tabs() {
        check("", &[]);
        check(" \t", &[]);
        check("SREM a\tb  c ", &[b"SREM", b"a", b"b", b"c"]);
        check("no\u{a0}break", &["no\u{a0}break".as_bytes()]);
        check("a \x0cb \x0b", &[b"a", b"\x0cb", b"\x0b"]);
    }

    #[test]
    fn a_bare_word_has_no_escapes_and_may_hold_quotes() {
        check(r#"a"b it's C:\x41 {"a"}"#, &[br#"a"b"#, b"it's", br"C:\x41", br#"{"a"}"#]);
    }

    #[test]
    fn a_quoted_word_may_hold_anything() {
        check(r#""" "a b" "\"\\\n\r\t\x00\xfF""#, &[b"", b"a b", b"\"\\\n\r\t\x00\xff"]);
    }

    #[test]
    fn what_cannot_be_split_is_refused() {
        refused(r#""a"#, "a word's opening `\"` has no closing one");
        refused(r#""a\"#, "a word's opening `\"` has no closing one");
        refused(r#""a\""#, "a word's opening `\"` has no closing one");
        refused(r#""a"b"#, "text follows a closing `\"` without a blank between");
        refused(r#""\q""#, r"unknown escape `\q`");
        refused(r#""\x4""#, r"`\x` needs two hexadecimal digits");
        refused(r#""\x+4""#, r"`\x` needs two hexadecimal digits");
        refused("'a b'", "a word cannot begin with `'`");
        refused("a\nb", "a line break in the text");
        refused("a\rb", "a line break in the text");
        refused(&"a".repeat(4097), "4097 bytes are too many for one text; at most 4096");
    }

    #[test]
    fn one_word_is_asked_for_where_a_key_stands() {
        assert_eq!(one(r#" "a b" "#, "the key"), Ok(b"a b".to_vec()));
        assert_eq!(one("", "the key").unwrap_err().what, "the key is empty");
        assert_eq!(one("a b", "the key").unwrap_err().what, "the key is one word, and `a b` are 2");
    }

    proptest! {
        #[test]
        fn splitting_never_panics(text in any::<String>()) {
            let _ = split(&text);
        }

        #[test]
        fn any_bytes_can_be_written(words in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..5)) {
            let quoted = |word: &Vec<u8>| format!("\"{}\"", word.iter().map(|b| format!("\\x{b:02x}")).collect::<String>());
            let text: Vec<String> = words.iter().map(quoted).collect();
            prop_assert_eq!(split(&text.join(" ")), Ok(words));
        }
    }
}
