//! Bytes as people read them, or as they may be shown to others; and a little colour.

use std::borrow::Cow;

use base64::prelude::{BASE64_STANDARD as BASE64, Engine};

mod paint;
mod redaction;

pub use paint::Paint;
pub use redaction::Redaction;

/// Quotes bytes as redis-cli does: bare where they are plain, else in double quotes with `\n`, `\xHH` and the like, so
/// that an id can neither break a line nor steer a terminal.
pub fn quoted(bytes: &[u8]) -> String {
    let plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'\\');
    if !bytes.is_empty() && bytes.iter().all(plain) {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let mut quoted = String::with_capacity(bytes.len() + 2);
    quoted.push('"');
    for byte in bytes {
        match byte {
            b'"' => quoted.push_str("\\\""),
            b'\\' => quoted.push_str("\\\\"),
            b'\n' => quoted.push_str("\\n"),
            b'\r' => quoted.push_str("\\r"),
            b'\t' => quoted.push_str("\\t"),
            b' '..=b'~' => quoted.push(char::from(*byte)),
            _ => quoted.push_str(&format!("\\x{byte:02x}")),
        }
    }
    quoted.push('"');
    quoted
}

/// Quoted as by [`quoted`], and cut to `width` columns with an ellipsis in the middle.
pub fn shortened(bytes: &[u8], width: usize) -> String {
    let whole = quoted(bytes);
    if whole.len() <= width || width < 5 {
        return whole;
    }
    let (head, tail) = ((width - 1).div_ceil(2), (width - 1) / 2);
    format!("{}…{}", &whole[..head], &whole[whole.len() - tail..])
}

/// Bytes as JSON text, and beside it in base64 where the text alone would lose some.
pub fn json_text(bytes: Cow<'_, [u8]>) -> (String, Option<String>) {
    match String::from_utf8(bytes.into_owned()) {
        Ok(text) => (text, None),
        Err(error) => {
            let bytes = error.as_bytes();
            (String::from_utf8_lossy(bytes).into_owned(), Some(BASE64.encode(bytes)))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_ids_stay_plain_and_others_are_quoted() {
        let table: [(&[u8], &str); 7] = [
            (b"c-17", "c-17"),
            (b"", r#""""#),
            (b"a b", r#""a b""#),
            (b"a\x00b", r#""a\x00b""#),
            (b"line\nbreak", r#""line\nbreak""#),
            (b"\x1b[31mred", r#""\x1b[31mred""#),
            ("é".as_bytes(), r#""\xc3\xa9""#),
        ];
        for (bytes, text) in table {
            assert_eq!(quoted(bytes), text);
        }
        assert_eq!(shortened(b"abcdefghij", 7), "abc…hij");
        assert_eq!(shortened(b"abcdefg", 7), "abcdefg");
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_the_text_is_one_printable_line(bytes: Vec<u8>, width in 0usize..50) {
            prop_assert!(quoted(&bytes).bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            prop_assert!(shortened(&bytes, width.max(5)).chars().count() <= width.max(5));
        }
    }
}
